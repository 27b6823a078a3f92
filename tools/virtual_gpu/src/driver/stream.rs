//! Streams: work is queued, and runs when something waits for it.
//!
//! Work has a place in its stream, and may come after places in other streams: an event's, or the legacy stream's, which orders
//! all streams that were not made non-blocking. Whoever waits runs what is needed; with a seed other than 0, also what other
//! streams hold, in an order that the seed draws. So work that nothing orders runs sometimes early and sometimes late, and a
//! missing dependency shows. Threads that wait run different streams at the same time.

use super::error::{Code, Done};
use super::event::Event;
use super::graph::{Capture, Executable};
use super::handles::new_handle;
use super::memory::{Copy, Fill};
use super::{context, launch, memory};
use crate::config::config;
use std::collections::{BTreeMap, VecDeque};
use std::ffi::c_void;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::ThreadId;

/// The handle of the legacy default stream.
pub const LEGACY: *mut c_void = std::ptr::null_mut();
/// Another handle of it, `CU_STREAM_LEGACY`.
const LEGACY_BY_NAME: usize = 1;
/// The default stream of each thread, `CU_STREAM_PER_THREAD`.
const PER_THREAD: usize = 2;
/// Pieces of work that a stream holds before the caller has to run some.
const DEPTH: usize = 1024;

/// The number of a stream; 0 is the legacy stream.
pub type Id = usize;

/// What a stream runs.
#[derive(Clone)]
pub enum Work {
    Launch(Arc<crate::launch::Launch>),
    Copy(Copy),
    /// Bytes that were taken from pageable memory at the call.
    Upload(u64, Arc<Vec<u8>>),
    Fill(Fill),
    /// A function of the host.
    Call(Arc<dyn Fn() + Send + Sync>),
    Free(u64),
    Record(Arc<Event>),
    Graph(Arc<Executable>),
    /// Waits for other streams, and nothing else.
    Wait,
}

/// A place in a stream: everything up to its `position`th piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub stream: Id,
    pub position: u64,
}

struct Item {
    work: Work,
    after: Vec<Place>,
    /// Who queued it, and learns of its failure.
    thread: ThreadId,
}

#[derive(Default)]
struct Stream {
    queue: VecDeque<Item>,
    /// How much was queued ever.
    issued: u64,
    /// How much of it has run.
    done: u64,
    /// Whether somebody runs its next piece of work.
    running: bool,
    /// Whether the legacy stream orders it.
    blocking: bool,
    /// Whether its handle is gone; it goes with its last work.
    destroyed: bool,
    /// The capture that it belongs to, and the nodes that its next one follows.
    capture: Option<(u64, Vec<usize>)>,
}

/// All streams and captures.
#[derive(Default)]
pub struct Scheduler {
    streams: BTreeMap<Id, Stream>,
    pub captures: BTreeMap<u64, Capture>,
    /// State of the generator that draws orders.
    random: u64,
    /// Failures of work, where they do not break the context, with the thread that queued it.
    failures: Vec<(ThreadId, Code)>,
}

static SCHEDULER: Mutex<Option<Scheduler>> = Mutex::new(None);
/// Something has run.
static PROGRESS: Condvar = Condvar::new();

/// The scheduler, locked.
pub struct Locked(MutexGuard<'static, Option<Scheduler>>);

impl std::ops::Deref for Locked {
    type Target = Scheduler;
    fn deref(&self) -> &Scheduler {
        self.0.as_ref().expect("made when it was locked")
    }
}

impl std::ops::DerefMut for Locked {
    fn deref_mut(&mut self) -> &mut Scheduler {
        self.0.as_mut().expect("made when it was locked")
    }
}

/// Locks the scheduler.
pub fn lock() -> Locked {
    let mut guard = SCHEDULER.lock().unwrap();
    if guard.is_none() {
        let mut scheduler = Scheduler { random: config().seed, ..Scheduler::default() };
        scheduler.streams.insert(0, Stream::default());
        *guard = Some(scheduler);
    }
    Locked(guard)
}

/// The next number of a sequence that a seed begins (SplitMix64).
fn draw(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ *state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

thread_local! {
    /// This thread's own default stream, once used.
    static OWN: std::cell::Cell<Id> = const { std::cell::Cell::new(0) };
}

impl Scheduler {
    /// A number below `bound`, drawn by the seed.
    pub fn pick(&mut self, bound: usize) -> usize {
        (draw(&mut self.random) % bound as u64) as usize
    }

    fn add(&mut self, blocking: bool) -> Id {
        let id = new_handle();
        self.streams.insert(id, Stream { blocking, ..Stream::default() });
        id
    }

    /// The stream that a handle names.
    pub fn find(&mut self, handle: *mut c_void) -> Result<Id, Code> {
        match handle as usize {
            0 | LEGACY_BY_NAME => Ok(0),
            PER_THREAD => {
                if !self.streams.contains_key(&OWN.get()) || OWN.get() == 0 {
                    OWN.set(self.add(true));
                }
                Ok(OWN.get())
            }
            id if self.streams.get(&id).is_some_and(|stream| !stream.destroyed) => Ok(id),
            _ => Err(Code::INVALID_HANDLE),
        }
    }

    fn stream(&mut self, id: Id) -> &mut Stream {
        self.streams.get_mut(&id).expect("a stream that was found")
    }

    /// The capture that a stream belongs to, and the nodes that its next one follows.
    pub fn capture_of(&mut self, id: Id) -> &mut Option<(u64, Vec<usize>)> {
        &mut self.stream(id).capture
    }

    /// Takes every stream out of a capture.
    pub fn leave_capture(&mut self, capture: u64) {
        for stream in self.streams.values_mut() {
            stream.capture.take_if(|(id, _)| *id == capture);
        }
    }

    /// The nodes that the streams of a capture would follow next.
    pub fn frontiers(&self, capture: u64) -> Vec<usize> {
        let captures = self.streams.values().filter_map(|stream| stream.capture.as_ref());
        captures.filter(|(id, _)| *id == capture).flat_map(|(_, nodes)| nodes.clone()).collect()
    }

    /// The end of what a stream holds.
    pub fn end_of(&self, id: Id) -> Place {
        Place { stream: id, position: self.streams.get(&id).map_or(0, |stream| stream.issued) }
    }

    /// Whether everything up to a place has run. A stream that is gone has run.
    pub fn is_done(&self, place: Place) -> bool {
        self.streams.get(&place.stream).is_none_or(|stream| stream.done >= place.position)
    }

    /// The places that new work of a stream comes after: the legacy stream and blocking ones order each other.
    fn implied(&self, id: Id) -> Vec<Place> {
        let others: Vec<Id> = match id {
            0 => self.streams.iter().filter(|(_, stream)| stream.blocking).map(|(id, _)| *id).collect(),
            _ if self.streams[&id].blocking => vec![0],
            _ => Vec::new(),
        };
        others.into_iter().map(|id| self.end_of(id)).filter(|place| !self.is_done(*place)).collect()
    }

    /// Queues work outside of a capture.
    fn push(&mut self, id: Id, work: Work, mut after: Vec<Place>) -> Place {
        after.extend(self.implied(id));
        let stream = self.stream(id);
        stream.queue.push_back(Item { work, after, thread: std::thread::current().id() });
        stream.issued += 1;
        self.end_of(id)
    }

    /// Whether a stream's next work may run.
    fn is_ready(&self, id: Id) -> bool {
        let stream = &self.streams[&id];
        let first = stream.queue.front().filter(|_| !stream.running);
        first.is_some_and(|item| item.after.iter().all(|place| self.is_done(*place)))
    }

    /// A stream whose next work is needed for a place, and may run.
    fn needed(&self, place: Place) -> Option<Id> {
        if self.is_done(place) {
            return None;
        }
        if self.is_ready(place.stream) {
            return Some(place.stream);
        }
        let stream = &self.streams[&place.stream];
        let first = stream.queue.front().filter(|_| !stream.running)?;
        first.after.iter().find_map(|place| self.needed(*place))
    }

    /// The stream to run next on the way to the places.
    fn choose(&mut self, places: &[Place]) -> Option<Id> {
        if config().seed != 0 && self.pick(2) == 0 {
            let ready: Vec<Id> = self.streams.keys().copied().filter(|id| self.is_ready(*id)).collect();
            if !ready.is_empty() {
                return Some(ready[self.pick(ready.len())]);
            }
        }
        places.iter().find_map(|place| self.needed(*place))
    }

    fn begin(&mut self, id: Id) -> (Work, ThreadId) {
        let stream = self.stream(id);
        stream.running = true;
        let item = stream.queue.front().expect("chosen as ready");
        (item.work.clone(), item.thread)
    }

    /// Whether nothing failed that this thread has to learn of.
    fn outcome(&mut self) -> Done {
        context::whole()?;
        let thread = std::thread::current().id();
        let own = self.failures.iter().position(|(other, _)| *other == thread);
        own.map_or(Ok(()), |own| Err(self.failures.swap_remove(own).1))
    }

    fn finish(&mut self, id: Id) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.running = false;
            stream.done += stream.queue.pop_front().is_some() as u64;
            if stream.destroyed && stream.queue.is_empty() {
                self.streams.remove(&id);
            }
        }
    }
}

/// Runs one piece of work. The lock is given up while it runs.
fn step(mut scheduler: Locked, id: Id) -> Locked {
    let (work, thread) = scheduler.begin(id);
    drop(scheduler);
    let outcome = if context::whole().is_ok() { perform(&work) } else { Ok(()) };
    drop(work);
    let mut scheduler = lock();
    if let Err(code) = outcome
        && !context::broken_by(code)
    {
        scheduler.failures.push((thread, code));
    }
    scheduler.finish(id);
    PROGRESS.notify_all();
    scheduler
}

/// Runs what comes before the places, until they are reached.
fn wait(mut scheduler: Locked, places: &[Place]) -> Done {
    while !places.iter().all(|place| scheduler.is_done(*place)) {
        scheduler = match scheduler.choose(places) {
            Some(id) => step(scheduler, id),
            // Another thread runs what is needed.
            None => Locked(PROGRESS.wait(scheduler.0).unwrap()),
        };
    }
    scheduler.outcome()
}

/// Runs a piece of work on this thread.
pub fn perform(work: &Work) -> Done {
    match work {
        Work::Launch(launch) => return launch::perform(launch),
        Work::Graph(graph) => return graph.run(),
        Work::Copy(copy) => copy.run(),
        Work::Upload(to, bytes) => {
            // Safety: the destination was checked when the copy was queued.
            unsafe { std::ptr::copy(bytes.as_ptr(), *to as *mut u8, bytes.len()) };
            memory::mark(*to, bytes.len());
        }
        Work::Fill(fill) => fill.run(),
        Work::Call(function) => function(),
        Work::Free(address) => return memory::release(*address),
        Work::Record(event) => event.reached(),
        Work::Wait => {}
    }
    Ok(())
}

/// Queues work on a stream, or makes it a node where the stream captures.
pub fn queue(handle: *mut c_void, work: Work) -> Done {
    queue_after(handle, work, Vec::new()).map(|_| ())
}

/// Queues work that also comes after some places; the place of it, `None` where it was captured.
pub fn queue_after(handle: *mut c_void, work: Work, after: Vec<Place>) -> Result<Option<Place>, Code> {
    let mut scheduler = lock();
    let id = scheduler.find(handle)?;
    if scheduler.capture_of(id).is_some() {
        scheduler.capture_node(id, work)?;
        return Ok(None);
    }
    if id == 0 {
        scheduler.implies_a_capture()?;
    }
    let place = scheduler.push(id, work, after);
    if scheduler.stream(id).queue.len() > DEPTH {
        let half = Place { stream: id, position: place.position - DEPTH as u64 / 2 };
        wait(scheduler, &[half])?;
    }
    Ok(Some(place))
}

/// Queues work that cannot be captured.
pub fn queue_uncaptured(handle: *mut c_void, work: Work) -> Done {
    not_capturing(handle)?;
    queue(handle, work)
}

impl Scheduler {
    /// The legacy stream waits for every blocking stream: while one of them captures, that would reach into the capture.
    fn implies_a_capture(&mut self) -> Done {
        let blocking = self.streams.values().filter(|stream| stream.blocking);
        let captures: Vec<u64> = blocking.filter_map(|stream| Some(stream.capture.as_ref()?.0)).collect();
        for capture in &captures {
            self.invalidate(*capture);
        }
        if captures.is_empty() { Ok(()) } else { Err(Code::STREAM_CAPTURE_IMPLICIT) }
    }
}

/// Whether a stream captures.
pub fn is_capturing(handle: *mut c_void) -> Result<bool, Code> {
    let mut scheduler = lock();
    let id = scheduler.find(handle)?;
    Ok(scheduler.capture_of(id).is_some())
}

/// Whether a stream may make a call that a capture cannot hold; where not, the capture is lost.
pub fn not_capturing(handle: *mut c_void) -> Done {
    let mut scheduler = lock();
    let id = scheduler.find(handle)?;
    let Some((capture, _)) = scheduler.capture_of(id).clone() else { return Ok(()) };
    scheduler.invalidate(capture);
    Err(Code::STREAM_CAPTURE_UNSUPPORTED)
}

/// Whether this thread may make a call that might touch a stream that captures, as allocating may.
pub fn potentially_unsafe() -> Done {
    lock().refuse_unsafe_calls()
}

/// `cuStreamCreate`: flag 1 makes a stream that the legacy stream does not order.
pub fn create(flags: u32) -> Result<*mut c_void, Code> {
    if flags > 1 {
        return Err(Code::INVALID_VALUE);
    }
    Ok(lock().add(flags == 0) as *mut c_void)
}

/// `cuStreamDestroy`: what it holds still runs.
pub fn destroy(handle: *mut c_void) -> Done {
    let mut scheduler = lock();
    let id = scheduler.find(handle)?;
    if (handle as usize) <= PER_THREAD {
        return Err(Code::INVALID_HANDLE);
    }
    if let Some((capture, _)) = scheduler.capture_of(id).take() {
        scheduler.invalidate(capture);
    }
    let stream = scheduler.stream(id);
    stream.destroyed = true;
    if stream.queue.is_empty() {
        scheduler.streams.remove(&id);
    }
    Ok(())
}

/// `cuStreamSynchronize`.
pub fn synchronize(handle: *mut c_void) -> Done {
    not_capturing(handle)?;
    let mut scheduler = lock();
    let id = scheduler.find(handle)?;
    let end = scheduler.end_of(id);
    wait(scheduler, &[end])
}

/// Waits for places, as for an event's.
pub fn wait_for(places: &[Place]) -> Done {
    wait(lock(), places)
}

/// `cuStreamQuery`, which lets the device go on a little.
pub fn query(handle: *mut c_void) -> Done {
    not_capturing(handle)?;
    let mut scheduler = lock();
    let id = scheduler.find(handle)?;
    let end = scheduler.end_of(id);
    drop(scheduler);
    poll(end)
}

/// Whether a place is reached; if it is not, one piece of work runs, as a GPU goes on by itself.
pub fn poll(place: Place) -> Done {
    let mut scheduler = lock();
    if scheduler.is_done(place) {
        return scheduler.outcome();
    }
    if let Some(id) = scheduler.choose(&[place]) {
        step(scheduler, id).outcome()?;
    }
    Err(Code::NOT_READY)
}

/// `cuStreamWaitEvent` outside of a capture: later work of the stream comes after the place.
pub fn wait_on(handle: *mut c_void, place: Option<Place>) -> Done {
    match place {
        Some(place) => queue_after(handle, Work::Wait, vec![place]).map(|_| ()),
        None => Ok(()),
    }
}

/// Runs everything that is queued.
pub fn wait_for_all() -> Done {
    let scheduler = lock();
    let ends: Vec<Place> = scheduler.streams.keys().map(|id| scheduler.end_of(*id)).collect();
    wait(scheduler, &ends)
}

/// A line that names the streams that were not destroyed.
pub fn left() -> Option<String> {
    let own = 1 + (OWN.get() != 0) as usize;
    let count = lock().streams.values().filter(|stream| !stream.destroyed).count().saturating_sub(own);
    (count > 0).then(|| format!("streams that were not destroyed: {count}"))
}

/// Forgets every stream.
pub fn forget_all() {
    *lock().0 = None;
}
