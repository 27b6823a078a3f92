//! Graphs: work that streams captured instead of running it, and its replay.

use super::error::{Code, Done};
use super::handles::{Handles, new_handle};
use super::stream::{self, Id, Scheduler, Work};
use crate::config::config;
use std::cell::Cell;
use std::ffi::c_void;
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;

/// What a capture forbids other calls: `CUstreamCaptureMode`.
const GLOBAL: u32 = 0;
const THREAD_LOCAL: u32 = 1;
const RELAXED: u32 = 2;

thread_local! {
    /// What captures forbid this thread (`cuThreadExchangeStreamCaptureMode`).
    static MODE: Cell<u32> = const { Cell::new(GLOBAL) };
}

/// One piece of work, and the nodes that it follows.
#[derive(Clone)]
struct Node {
    work: Work,
    after: Vec<usize>,
}

/// A capture under way.
pub struct Capture {
    /// The stream that it began on, and has to end on.
    origin: Id,
    mode: u32,
    thread: ThreadId,
    nodes: Vec<Node>,
    /// Whether a forbidden call was made.
    invalid: bool,
}

impl Capture {
    /// Whether some nodes and what they follow hold all of `others`.
    fn reaches(&self, from: &[usize], others: &[usize]) -> bool {
        let mut reached = vec![false; self.nodes.len()];
        let mut next = from.to_vec();
        while let Some(node) = next.pop() {
            if !std::mem::replace(&mut reached[node], true) {
                next.extend(&self.nodes[node].after);
            }
        }
        others.iter().all(|node| reached[*node])
    }
}

impl Scheduler {
    /// Makes a node of a capturing stream's work.
    pub fn capture_node(&mut self, id: Id, work: Work) -> Done {
        let Some((number, after)) = self.capture_of(id).clone() else { return Err(Code::ILLEGAL_STATE) };
        let capture = self.captures.get_mut(&number).filter(|capture| !capture.invalid);
        let capture = capture.ok_or(Code::STREAM_CAPTURE_INVALIDATED)?;
        capture.nodes.push(Node { work, after });
        let node = capture.nodes.len() - 1;
        *self.capture_of(id) = Some((number, vec![node]));
        Ok(())
    }

    /// Has a stream follow nodes of a capture, and takes it into the capture where it is in none.
    pub fn join_capture(&mut self, id: Id, joined: Option<u64>, capture: u64, nodes: &[usize]) -> Done {
        if !self.captures.contains_key(&capture) {
            return Err(Code::CAPTURED_EVENT);
        }
        if let Some(other) = joined.filter(|joined| *joined != capture) {
            self.invalidate(other);
            self.invalidate(capture);
            return Err(Code::STREAM_CAPTURE_MERGE);
        }
        if self.captures[&capture].invalid {
            return Err(Code::STREAM_CAPTURE_INVALIDATED);
        }
        if id == 0 {
            self.invalidate(capture);
            return Err(Code::STREAM_CAPTURE_IMPLICIT);
        }
        let (_, frontier) = self.capture_of(id).get_or_insert((capture, Vec::new()));
        frontier.extend(nodes.iter().filter(|node| !frontier.contains(node)).copied().collect::<Vec<_>>());
        Ok(())
    }

    /// Notes that a capture has failed: ending it says so.
    pub fn invalidate(&mut self, capture: u64) {
        if let Some(capture) = self.captures.get_mut(&capture) {
            capture.invalid = true;
        }
    }

    /// Refuses a call that might touch a capturing stream, by the modes of the captures and of this thread.
    pub fn refuse_unsafe_calls(&mut self) -> Done {
        let (thread, mode) = (std::thread::current().id(), MODE.get());
        let mut outcome = Ok(());
        for capture in self.captures.values_mut() {
            let own = capture.thread == thread && capture.mode != RELAXED && mode != RELAXED;
            let other = mode == GLOBAL && capture.mode == GLOBAL;
            if own || other {
                capture.invalid = true;
                outcome = Err(Code::STREAM_CAPTURE_UNSUPPORTED);
            }
        }
        outcome
    }
}

/// Sets what captures forbid this thread; what it was.
pub fn exchange_mode(mode: u32) -> Result<u32, Code> {
    if mode > RELAXED {
        return Err(Code::INVALID_VALUE);
    }
    Ok(MODE.replace(mode))
}

/// `cuStreamBeginCapture`.
pub fn begin(handle: *mut c_void, mode: u32) -> Done {
    let mut scheduler = stream::lock();
    let id = scheduler.find(handle)?;
    if id == 0 {
        return Err(Code::STREAM_CAPTURE_UNSUPPORTED);
    }
    if ![GLOBAL, THREAD_LOCAL, RELAXED].contains(&mode) {
        return Err(Code::INVALID_VALUE);
    }
    if scheduler.capture_of(id).is_some() {
        return Err(Code::ILLEGAL_STATE);
    }
    let number = new_handle() as u64;
    *scheduler.capture_of(id) = Some((number, Vec::new()));
    let thread = std::thread::current().id();
    let capture = Capture { origin: id, mode, thread, nodes: Vec::new(), invalid: false };
    scheduler.captures.insert(number, capture);
    Ok(())
}

/// `cuStreamEndCapture`: the handle of the graph.
pub fn end(handle: *mut c_void) -> Result<*mut c_void, Code> {
    let mut scheduler = stream::lock();
    let id = scheduler.find(handle)?;
    let (number, last) = scheduler.capture_of(id).clone().ok_or(Code::ILLEGAL_STATE)?;
    let capture = &scheduler.captures[&number];
    if capture.origin != id {
        scheduler.invalidate(number);
        return Err(Code::STREAM_CAPTURE_UNMATCHED);
    }
    if capture.mode != RELAXED && capture.thread != std::thread::current().id() {
        return Err(Code::STREAM_CAPTURE_WRONG_THREAD);
    }
    let joined = capture.reaches(&last, &scheduler.frontiers(number));
    scheduler.leave_capture(number);
    let capture = scheduler.captures.remove(&number).expect("looked up just now");
    match (capture.invalid, joined) {
        (true, _) => Err(Code::STREAM_CAPTURE_INVALIDATED),
        (false, false) => Err(Code::STREAM_CAPTURE_UNJOINED),
        (false, true) => Ok(GRAPHS.add(Arc::new(Graph { nodes: capture.nodes }))),
    }
}

/// The state of a stream as `cuStreamIsCapturing` says it: none, active or invalidated.
pub fn status(handle: *mut c_void) -> Result<u32, Code> {
    let mut scheduler = stream::lock();
    let id = scheduler.find(handle)?;
    let Some((capture, _)) = scheduler.capture_of(id).clone() else { return Ok(0) };
    Ok(if scheduler.captures.get(&capture).is_some_and(|capture| capture.invalid) { 2 } else { 1 })
}

/// What was captured.
pub struct Graph {
    nodes: Vec<Node>,
}

/// A graph that can be launched.
pub struct Executable {
    nodes: Vec<Node>,
    /// A GPU runs one launch of it at a time.
    running: Mutex<()>,
}

static GRAPHS: Handles<Graph> = Handles::new();
static EXECUTABLES: Handles<Executable> = Handles::new();

impl Executable {
    /// Runs every node after those that it follows, in an order that the seed draws.
    pub fn run(&self) -> Done {
        let _one = self.running.lock().unwrap();
        let mut done = vec![false; self.nodes.len()];
        for _ in 0..self.nodes.len() {
            let is_ready = |node: &usize| !done[*node] && self.nodes[*node].after.iter().all(|other| done[*other]);
            let ready: Vec<usize> = (0..self.nodes.len()).filter(is_ready).collect();
            let node = if config().seed == 0 { ready[0] } else { ready[stream::lock().pick(ready.len())] };
            stream::perform(&self.nodes[node].work)?;
            done[node] = true;
        }
        Ok(())
    }
}

/// `cuGraphInstantiate`: the handle of the executable graph.
pub fn instantiate(graph: *mut c_void) -> Result<*mut c_void, Code> {
    let nodes = GRAPHS.get(graph)?.nodes.clone();
    Ok(EXECUTABLES.add(Arc::new(Executable { nodes, running: Mutex::default() })))
}

/// `cuGraphDestroy`.
pub fn destroy(graph: *mut c_void) -> Done {
    GRAPHS.remove(graph).map(|_| ())
}

/// `cuGraphExecDestroy`: launches under way go on.
pub fn destroy_executable(graph: *mut c_void) -> Done {
    EXECUTABLES.remove(graph).map(|_| ())
}

/// `cuGraphUpload`, which has nothing to do.
pub fn upload(graph: *mut c_void, stream: *mut c_void) -> Done {
    EXECUTABLES.get(graph)?;
    stream::not_capturing(stream)
}

/// `cuGraphLaunch`.
pub fn launch(graph: *mut c_void, stream: *mut c_void) -> Done {
    stream::queue(stream, Work::Graph(EXECUTABLES.get(graph)?))
}

/// A line that names the graphs that were not destroyed.
pub fn left() -> Option<String> {
    match (GRAPHS.left("graph"), EXECUTABLES.left("executable graph")) {
        (Some(graphs), Some(executables)) => Some(format!("{graphs}, {executables}")),
        (graphs, executables) => graphs.or(executables),
    }
}

/// Forgets every graph.
pub fn forget_all() {
    GRAPHS.clear();
    EXECUTABLES.clear();
}
