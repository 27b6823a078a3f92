//! The sanitizer: reads of memory nobody wrote, races by happens-before, missing fences and waits.
//!
//! It watches every access that passes `warp::access`, and everything that orders accesses. What orders what is written from the
//! PTX ISA's "Memory Consistency Model": barriers join the threads that meet (`bar.arrive` only gives), `bar.warp.sync` the lanes
//! it names, an mbarrier's wait acquires what its arrivals released, an asynchronous copy or product is ordered by its wait alone,
//! and `shfl`, `vote` and `mma` order nothing; lanes of a warp are not in lockstep. Between the blocks of a cluster order what
//! `barrier.cluster` and mbarriers release and acquire, the latter only where both sides say `.cluster`.
//!
//! `fence.proxy.async` counts for every state space, whichever it names; other proxy fences order nothing here. `setmaxnreg` is
//! only checked to be executed by whole warpgroups.

mod clocks;
mod cluster;
mod order;
mod registry;
mod report;
mod shadow;

pub use clocks::Known;
pub use cluster::ClusterBarrier;
pub use registry::{allocated, copied, freed, written};
pub use report::{count, take};

use crate::launch::Launch;
use crate::warp::{Access, Action, Address, By, Proxy, SHARED_BASE, Space};
use clocks::{Agent, Clocks, Foreign};
use order::lanes_of;
use report::{Actor, Finding};
use shadow::{Cell, LocalShadow, Shadow, Touch};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// What the findings of a launch do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Sanitize {
    /// Nothing is watched.
    #[default]
    Off,
    /// They are printed.
    Report,
    /// They are printed, and the launch fails.
    Fail,
}

/// Whether anything is watched in this process.
pub fn on() -> bool {
    crate::config::config().options.sanitize != Sanitize::Off
}

static LAUNCHES: AtomicU64 = AtomicU64::new(1);

/// What the blocks of one launch share.
pub struct Watch {
    launch: Arc<Launch>,
    number: u64,
    /// What atomic writes have released, by address.
    released: Mutex<HashMap<u64, Arc<Foreign>>>,
    found: AtomicBool,
}

impl Watch {
    pub fn new(launch: &Arc<Launch>) -> Arc<Watch> {
        let number = LAUNCHES.fetch_add(1, Ordering::Relaxed) & 0xfff_ffff;
        Arc::new(Watch { launch: launch.clone(), number, released: Mutex::default(), found: AtomicBool::new(false) })
    }
    /// Whether the launch had a finding.
    pub fn found(&self) -> bool {
        self.found.load(Ordering::Relaxed)
    }
    fn say(&self, finding: &Finding) {
        self.found.store(true, Ordering::Relaxed);
        report::say(&self.launch, finding);
    }
}

/// The clock of one mbarrier.
#[derive(Default)]
struct Mbarrier {
    number: usize,
    /// Phases that are complete.
    phases: u32,
    /// What the arrivals of the present phase released.
    pending: Known,
    /// What the last complete phase released.
    complete: Option<Arc<Known>>,
    /// What arrivals of cluster scope from other blocks released, in the present phase and in the last complete one.
    told: Arc<Foreign>,
    complete_told: Arc<Foreign>,
    initialised: Option<Touch>,
}

/// The last asynchronous work that something began: its group and its instruction.
#[derive(Clone, Copy, Default)]
struct Begun {
    group: u32,
    pc: u32,
}

/// The sanitizer's view of one block.
pub struct Guard {
    watch: Arc<Watch>,
    block: u64,
    clocks: Clocks,
    shared: Shadow,
    local: Vec<LocalShadow>,
    /// The allocation that each memory instruction touched last.
    cached: Vec<Option<registry::Entry>>,
    mbarriers: HashMap<u32, Mbarrier>,
    copies: Vec<Begun>,
    products: Vec<Begun>,
    /// What those who came to each named barrier and did not wait have released.
    arrivals: HashMap<u32, Known>,
    /// Where shared memory is kept.
    base: *const u8,
    /// The blocks of this block's cluster by rank, and its own rank.
    cluster: cluster::Cluster,
}

/// An access of one lane, for the checks of its cells.
struct One<'a> {
    touch: Touch,
    thread: usize,
    action: Action,
    asynchronous: bool,
    /// The block of the thread that carries it out, or began it.
    block: u64,
    /// Of shared memory, the blocks beside this one that can have touched it; others have ended.
    alive: Option<&'a [u64]>,
}

/// Why a cell objects.
enum Objection {
    Race(&'static str, Touch),
    Proxy(Touch),
}

impl Guard {
    pub fn new(watch: &Arc<Watch>, memory: &[u8], shared_bytes: usize) -> Guard {
        let l = &watch.launch;
        let threads = l.threads().next_multiple_of(32) as usize;
        let local = (0..threads / 32).map(|_| LocalShadow::new(l.kernel.local_bytes)).collect();
        Guard {
            watch: watch.clone(),
            block: 0,
            clocks: Clocks::new(threads, 0),
            shared: Shadow::new(SHARED_BASE as u64, shared_bytes as u64),
            local,
            cached: vec![None; l.kernel.mems + 1],
            mbarriers: HashMap::new(),
            copies: vec![Begun::default(); threads],
            products: vec![Begun::default(); threads / 32],
            arrivals: HashMap::new(),
            base: memory.as_ptr(),
            cluster: cluster::Cluster::default(),
        }
    }

    /// The `block`-th block of the grid begins.
    pub fn start(&mut self, block: u64) {
        let threads = self.copies.len();
        self.block = block;
        self.clocks = Clocks::new(threads, block);
        self.shared.forget();
        self.local.iter_mut().for_each(LocalShadow::forget);
        self.mbarriers.clear();
        self.copies.fill(Begun::default());
        self.products.fill(Begun::default());
        self.arrivals.clear();
    }

    /// The block has ended: what began and was never waited for.
    pub fn end(&mut self) {
        self.check_visitors();
        for thread in 0..self.copies.len() {
            let begun = self.copies[thread];
            if begun.group > 0 && !self.clocks.knows(thread, self.clocks.copies_of(thread), begun.group) {
                self.unfinished(begun.pc, format!("thread {thread}"), "cp.async.wait_group or cp.async.wait_all");
            }
        }
        for warp in 0..self.products.len() {
            let begun = self.products[warp];
            let agent = self.clocks.products_of(32 * warp);
            if begun.group > 0 && !self.clocks.knows(32 * warp, agent, begun.group) {
                self.unfinished(begun.pc, format!("warp {warp}"), "wgmma.wait_group");
            }
        }
    }
    fn unfinished(&self, pc: u32, who: String, missing: &'static str) {
        let at = Actor { pc, block: self.block, who };
        let detail = "asynchronous work is under way where its block ends".to_string();
        self.watch.say(&Finding { kind: "missing wait", at, detail, other: None, missing });
    }
    /// A phase of an mbarrier is complete while a bulk copy that ends there is under way.
    pub fn not_expected(&self, pc: u32) {
        let at = Actor { pc, block: self.block, who: "a bulk copy".into() };
        let detail = "the phase of its mbarrier is complete before it has ended".to_string();
        let missing = "mbarrier.arrive.expect_tx of its bytes";
        self.watch.say(&Finding { kind: "missing expect_tx", at, detail, other: None, missing });
    }
    /// A bulk copy was under way where the block ended.
    pub fn unfinished_bulk(&self, pc: u32) {
        self.unfinished(pc, "a bulk copy".into(), "a wait for the phase of the copy's mbarrier");
    }

    /// Checks and notes an access of a warp.
    pub fn access<A: Address>(&mut self, warp: u32, pc: u32, instruction: u32, a: &Access<A>) {
        let lanes = (0..32usize).filter(|lane| a.lanes >> lane & 1 != 0);
        let mut lanes = lanes.map(|lane| (a.addresses[lane].wide(), 32 * warp as usize + lane)).peekable();
        match a.space {
            Space::Shared | Space::Peer(_) => {
                let mut shared = std::mem::replace(self.shared_of(a.space), Shadow::new(0, 0));
                lanes.for_each(|(address, thread)| self.check(&mut shared, thread, pc, address, a));
                *self.shared_of(a.space) = shared;
            }
            Space::Global => {
                while let Some((first, _)) = lanes.peek() {
                    let cached = &mut self.cached[instruction as usize];
                    if !cached.as_ref().is_some_and(|e| e.holds(*first)) {
                        *cached = registry::find(*first);
                    }
                    let Some(entry) = cached.clone() else {
                        lanes.next();
                        continue;
                    };
                    let mut shadow = entry.shadow.lock().unwrap();
                    while let Some((address, thread)) = lanes.next_if(|(address, _)| entry.holds(*address)) {
                        self.check(&mut shadow, thread, pc, address, a);
                    }
                }
            }
            Space::Local => lanes.for_each(|(address, thread)| self.check_local(thread, pc, address, a)),
            Space::Param => {}
        }
    }

    fn check_local<A: Address>(&mut self, thread: usize, pc: u32, address: u64, a: &Access<A>) {
        let shadow = &mut self.local[thread / 32];
        let lane = thread as u64 % 32;
        if a.action == Action::Read {
            if let Some(byte) = shadow.unwritten(lane, address, a.bytes as u64, a.used) {
                self.unwritten(thread, pc, format!("byte {byte} of local memory"));
            }
        } else {
            shadow.mark(lane, address, a.bytes as u64);
        }
    }

    /// Checks that an access of shared memory lies in one variable.
    fn check_variable<A: Address>(&self, thread: usize, pc: u32, address: u64, a: &Access<A>) {
        let used = a.used_range();
        let (from, to) = (address + used.start, address + used.end);
        let variables = &self.watch.launch.kernel.shared_variables;
        let below = variables.partition_point(|(start, _)| *start as u64 <= from);
        let inside = below > 0 && to <= variables[below - 1].1 as u64;
        if !inside {
            let at = Actor { pc, block: self.block, who: format!("thread {thread}") };
            let offset = from - SHARED_BASE as u64;
            let detail = format!("{} bytes at offset {offset} of shared memory lie in no variable", to - from);
            let missing = "a bound: each static variable ends where its declaration says";
            self.watch.say(&Finding { kind: "out of bounds", at, detail, other: None, missing });
        }
    }

    fn unwritten(&self, thread: usize, pc: u32, detail: String) {
        let at = Actor { pc, block: self.block, who: format!("thread {thread}") };
        let missing = "a write of these bytes before";
        self.watch.say(&Finding { kind: "uninitialised read", at, detail, other: None, missing });
    }

    /// Who carries out an access and when, as cells remember it.
    fn touch<A: Address>(&mut self, thread: usize, pc: u32, a: &Access<A>) -> Touch {
        let (agent, time) = match a.by {
            By::Thread => (thread as u32, self.clocks.now(thread)),
            By::Copy { group } => {
                self.copies[thread] = Begun { group, pc };
                (self.clocks.copies_of(thread), group)
            }
            By::Product { group } => {
                self.products[thread / 32] = Begun { group, pc };
                (self.clocks.products_of(thread), group)
            }
            By::Bulk { barrier, rank } => {
                let owner = self.at(rank);
                let (number, phases) = owner.mbarriers.get(&barrier).map_or((0, 0), |b| (b.number, b.phases));
                let agent = owner.clocks.bulk_of(number);
                return Touch::new(self.watch.number, owner.block, agent, phases + 1, pc, false);
            }
            By::Initialisation => (self.clocks.initialisations(), self.clocks.initialises(thread)),
        };
        Touch::new(self.watch.number, self.block, agent, time, pc, a.action.atomic())
    }

    fn check<A: Address>(&mut self, shadow: &mut Shadow, thread: usize, pc: u32, address: u64, a: &Access<A>) {
        let bytes = a.bytes as u64;
        let shared = matches!(a.space, Space::Shared | Space::Peer(_));
        let place = |at: u64| {
            if shared {
                format!("offset {} of shared memory", at - SHARED_BASE as u64)
            } else {
                format!("{at:#x} of global memory")
            }
        };
        if a.action.reads()
            && let Some(byte) = shadow.unwritten(address, bytes, a.used)
        {
            self.unwritten(thread, pc, place(byte));
        }
        let touch = self.touch(thread, pc, a);
        if shared {
            self.check_variable(thread, pc, address, a);
        }
        let one = One {
            touch,
            thread,
            action: a.action,
            asynchronous: a.by.proxy() == Proxy::Async,
            block: self.block,
            alive: shared.then(|| self.cluster.blocks()),
        };
        let mut objection = None;
        let used = a.used_range();
        shadow.visit(address + used.start, used.end - used.start, |at, cell| {
            if let Some(o) = one.meet(cell, &self.clocks) {
                objection.get_or_insert((at, o));
            }
        });
        if a.action.writes() {
            shadow.mark(address, bytes);
        }
        if let Some((at, objection)) = objection
            && !self.harmless(&one, address, a, &objection)
        {
            self.object(&one, place(at), objection);
        }
    }

    /// Whether two writes that nothing orders write the same bytes.
    fn harmless<A: Address>(&self, one: &One, address: u64, a: &Access<A>, objection: &Objection) -> bool {
        let (Some(data), Objection::Race("race: write after write", other)) = (a.data, objection) else { return false };
        let n = a.bytes as usize;
        let mine = data(one.thread % 32);
        let agent = other.agent() as usize;
        let together = other.same_block(&one.touch)
            && agent / 32 == one.thread / 32
            && other.pc() == one.touch.pc()
            && other.time == self.clocks.now(agent)
            && a.lanes >> (agent % 32) & 1 != 0
            && a.addresses[agent % 32].wide() == address;
        if together {
            return mine[..n] == data(agent % 32)[..n];
        }
        let from = match one.alive {
            Some(_) => self.shared_base(a.space).wrapping_add((address - SHARED_BASE as u64) as usize),
            None => address as *const u8,
        };
        // Safety: the access has passed the check of its bounds.
        mine[..n] == *unsafe { std::slice::from_raw_parts(from, n) }
    }

    fn who(&self, touch: &Touch) -> Actor {
        let who = match self.clocks.describe(touch.agent()) {
            Agent::Thread(t) => format!("thread {t}"),
            Agent::Copy(t) => format!("an asynchronous copy of thread {t}"),
            Agent::Products(w) => format!("a product of warp {w}"),
            Agent::Bulk => "a bulk copy".to_string(),
            Agent::Initialisation => "an mbarrier.init".to_string(),
        };
        Actor { pc: touch.pc(), block: touch.block(), who }
    }

    fn object(&self, one: &One, detail: String, objection: Objection) {
        let (kind, other, missing) = match objection {
            Objection::Race(kind, other) => (kind, other, self.missing(one, &other)),
            Objection::Proxy(other) => (
                "missing proxy fence",
                other,
                "fence.proxy.async after the write, before what makes it known to this thread",
            ),
        };
        let (at, other) = (self.who(&one.touch), Some(self.who(&other)));
        self.watch.say(&Finding { kind, at, detail, other, missing });
    }

    /// What would order two accesses.
    fn missing(&self, one: &One, other: &Touch) -> &'static str {
        if !other.same_block(&one.touch) && one.alive.is_some() {
            return "barrier.cluster.arrive and wait (or an mbarrier with .release.cluster and .acquire.cluster)";
        }
        if !other.same_block(&one.touch) {
            return "a fence and an atomic access that the other block reads, a grid barrier, or two launches";
        }
        match (self.clocks.describe(other.agent()), self.clocks.describe(one.touch.agent())) {
            (Agent::Copy(t), Agent::Thread(u) | Agent::Copy(u)) if t == u => "cp.async.wait_group before",
            (Agent::Copy(_), _) => "cp.async.wait_group by the thread that copies, and then a barrier",
            (Agent::Products(_), _) => "wgmma.wait_group by the warp that multiplies, and then a barrier",
            (Agent::Bulk, _) => "a wait for the phase of the copy's mbarrier",
            (Agent::Thread(t), _) if t / 32 == one.thread / 32 => {
                "bar.warp.sync (or a barrier of the block) between them"
            }
            _ => "a barrier of the block (or an mbarrier) between them",
        }
    }
}

impl One<'_> {
    /// Whether what `touch` did comes before.
    fn after(&self, touch: &Touch, clocks: &Clocks) -> bool {
        if !touch.same_launch(&self.touch) {
            return true;
        }
        if touch.of_block(self.block) {
            return clocks.knows(self.thread, touch.agent(), touch.time);
        }
        // a block that had this shared memory before has ended
        self.alive.is_some_and(|alive| !alive.iter().any(|block| touch.of_block(*block)))
            || clocks.knows_foreign(self.thread, touch.block(), touch.agent(), touch.time)
    }

    /// Whether a proxy fence stands between what `touch` did before and this access in the asynchronous proxy.
    fn fenced(&self, touch: &Touch, clocks: &Clocks) -> bool {
        if touch.of_block(self.block) {
            return clocks.fenced(self.thread, touch.agent(), touch.time);
        }
        self.alive.is_some_and(|alive| !alive.iter().any(|block| touch.of_block(*block)))
            || clocks.fenced_foreign(self.thread, touch.block(), touch.agent(), touch.time)
    }

    /// Checks the access against what a cell remembers, and enters it there.
    fn meet(&self, cell: &mut Cell, clocks: &Clocks) -> Option<Objection> {
        let mut objection = None;
        let both_atomic = |t: &Touch| t.atomic() && self.touch.atomic();
        for write in [cell.write, cell.atomic] {
            if !self.after(&write, clocks) {
                if !both_atomic(&write) {
                    let kind = if self.action.writes() { "race: write after write" } else { "race: read after write" };
                    objection = Some(Objection::Race(kind, write));
                }
            } else if self.asynchronous && write.same_launch(&self.touch) && !self.fenced(&write, clocks) {
                objection = Some(Objection::Proxy(write));
            }
        }
        if self.action.writes() {
            for read in cell.reads {
                if !self.after(&read, clocks) && !both_atomic(&read) {
                    objection.get_or_insert(Objection::Race("race: write after read", read));
                }
            }
            // an atomic operation hides no plain write from the atomic operations of others
            let write = if self.touch.atomic() { cell.write } else { self.touch };
            let atomic = if self.touch.atomic() { self.touch } else { Touch::default() };
            *cell = Cell { write, atomic, ..Cell::default() };
        } else {
            self.note_read(cell, clocks);
        }
        objection
    }

    /// Keeps two reads that no order relates, of two warps where there are such.
    fn note_read(&self, cell: &mut Cell, clocks: &Clocks) {
        let [last, other] = &mut cell.reads;
        if !last.same_agent(&self.touch) && !self.after(last, clocks) {
            let same_warp = last.same_block(&self.touch) && last.agent() / 32 == self.touch.agent() / 32;
            if !same_warp || self.after(other, clocks) {
                *other = *last;
            }
        }
        *last = self.touch;
    }
}
