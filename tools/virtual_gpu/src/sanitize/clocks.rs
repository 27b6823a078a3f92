//! Happens-before among the agents of a block: vector clocks.
//!
//! An agent is whoever touches memory on its own: a thread; the asynchronous copies (`cp.async`) of a thread, whose time is the
//! number of their group; the warpgroup products of a warp, likewise; the bulk copies that end at one mbarrier, whose time is the
//! phase they complete; and the initialisations of mbarriers, whose time is their number. A thread knows what it did itself, and what others had done when they last released to it.
//! Knowledge is shared: threads that left a barrier together hold one vector, so that a barrier costs O(agents), not O(agents²).

use std::collections::BTreeMap;
use std::sync::Arc;

/// Mbarriers that a block can have agents for.
pub const MBARRIERS: usize = 64;

/// What is known of blocks, by block: the times of the agents, and behind them what a proxy fence has passed on of the threads
/// and their asynchronous copies.
pub type Foreign = BTreeMap<u64, Arc<Vec<u32>>>;

/// What a thread has been told: of each agent of its block the time up to which its accesses come before.
#[derive(Clone, Default)]
pub struct Known {
    pub times: Vec<u32>,
    /// Of each thread and of its asynchronous copies, the time up to which a proxy fence has passed them on.
    fenced: Vec<u32>,
    pub foreign: Arc<Foreign>,
}

fn join_times(into: &mut [u32], from: &[u32]) {
    for (a, b) in into.iter_mut().zip(from) {
        *a = (*a).max(*b);
    }
}

fn join_foreign(into: &mut Arc<Foreign>, from: &Arc<Foreign>) {
    if Arc::ptr_eq(into, from) || from.is_empty() {
        return;
    }
    if into.is_empty() {
        *into = from.clone();
        return;
    }
    let all = Arc::make_mut(into);
    for (block, times) in from.iter() {
        match all.get_mut(block) {
            None => {
                all.insert(*block, times.clone());
            }
            Some(mine) if Arc::ptr_eq(mine, times) => {}
            Some(mine) => join_times(Arc::make_mut(mine).as_mut_slice(), times),
        }
    }
}

impl Known {
    fn join(&mut self, other: &Known) {
        if self.times.is_empty() {
            *self = other.clone();
            return;
        }
        join_times(&mut self.times, &other.times);
        join_times(&mut self.fenced, &other.fenced);
        join_foreign(&mut self.foreign, &other.foreign);
    }

    /// Takes in what blocks are told, of which `block` is this one.
    fn join_blocks(&mut self, block: u64, from: &Arc<Foreign>) {
        join_foreign(&mut self.foreign, from);
        if let Some(all) = from.get(&block) {
            let (times, fenced) = all.split_at(self.times.len());
            join_times(&mut self.times, times);
            join_times(&mut self.fenced, fenced);
        }
    }
}

/// The clocks of one block.
pub struct Clocks {
    threads: usize,
    /// The number of this block in its grid.
    pub block: u64,
    /// The present time of each thread.
    own: Vec<u32>,
    /// Of each thread, the group of its asynchronous copies that it has waited for.
    copies: Vec<u32>,
    /// Of each thread, the group of its warp's products that it has waited for.
    products: Vec<u32>,
    /// Of each thread, its own time at its last proxy fence and that of its asynchronous copies.
    fenced: Vec<[u32; 2]>,
    /// Initialisations of mbarriers so far, and of each thread the last of its own.
    initialisations: u32,
    own_initialisation: Vec<u32>,
    known: Vec<Arc<Known>>,
    /// Of each thread, what its last fence made it release by a later atomic access.
    at_fence: Vec<Option<Arc<Foreign>>>,
    /// Of each thread, what atomic reads have seen released and a later fence acquires.
    seen: Vec<Option<Arc<Foreign>>>,
    /// The last join of two vectors: threads that wait for one barrier often make the same.
    last: Option<[Arc<Known>; 3]>,
}

/// Agents of a block of `threads` (a multiple of 32).
pub fn agents(threads: usize) -> usize {
    2 * threads + threads / 32 + MBARRIERS + 1
}

/// What a thread of a block of `threads` knows where its block begins.
fn nothing(threads: usize) -> Known {
    Known { times: vec![0; agents(threads)], fenced: vec![0; 2 * threads], foreign: Arc::new(Foreign::new()) }
}

impl Clocks {
    pub fn new(threads: usize, block: u64) -> Self {
        let nothing = Arc::new(nothing(threads));
        Clocks {
            threads,
            block,
            own: vec![1; threads],
            copies: vec![0; threads],
            products: vec![0; threads],
            fenced: vec![[0; 2]; threads],
            initialisations: 0,
            own_initialisation: vec![0; threads],
            known: (0..threads).map(|_| nothing.clone()).collect(),
            at_fence: vec![None; threads],
            seen: vec![None; threads],
            last: None,
        }
    }

    /// The agent of the asynchronous copies of a thread.
    pub fn copies_of(&self, thread: usize) -> u32 {
        (self.threads + thread) as u32
    }
    /// The agent of the products of a thread's warp.
    pub fn products_of(&self, thread: usize) -> u32 {
        (2 * self.threads + thread / 32) as u32
    }
    /// The agent of the bulk copies of the `n`-th mbarrier.
    pub fn bulk_of(&self, n: usize) -> u32 {
        (2 * self.threads + self.threads / 32 + n % MBARRIERS) as u32
    }
    /// The agent of the initialisations of mbarriers.
    pub fn initialisations(&self) -> u32 {
        agents(self.threads) as u32 - 1
    }
    /// A thread initialises an mbarrier: the time of that.
    pub fn initialises(&mut self, thread: usize) -> u32 {
        self.initialisations += 1;
        self.own_initialisation[thread] = self.initialisations;
        self.initialisations
    }
    /// Whose doing an agent is, in words.
    pub fn describe(&self, agent: u32) -> Agent {
        let agent = agent as usize;
        match agent {
            a if a < self.threads => Agent::Thread(a),
            a if a < 2 * self.threads => Agent::Copy(a - self.threads),
            a if a < 2 * self.threads + self.threads / 32 => Agent::Products(a - 2 * self.threads),
            a if a + 1 == agents(self.threads) => Agent::Initialisation,
            _ => Agent::Bulk,
        }
    }
    pub fn now(&self, thread: usize) -> u32 {
        self.own[thread]
    }

    /// Whether what `agent` did at `time` comes before what `thread` does now.
    pub fn knows(&self, thread: usize, agent: u32, time: u32) -> bool {
        if agent as usize == thread {
            return true;
        }
        let own = if agent == self.copies_of(thread) {
            self.copies[thread]
        } else if agent == self.products_of(thread) {
            self.products[thread]
        } else if agent == self.initialisations() {
            self.own_initialisation[thread]
        } else {
            0
        };
        time <= own || time <= self.known[thread].times[agent as usize]
    }
    /// Whether what `agent` of another block did at `time` comes before what `thread` does now.
    pub fn knows_foreign(&self, thread: usize, block: u64, agent: u32, time: u32) -> bool {
        let times = self.known[thread].foreign.get(&block);
        times.is_some_and(|times| times.get(agent as usize).is_some_and(|t| time <= *t))
    }
    /// Whether a proxy fence stands between what `agent` of another block did at `time` and what `thread` does in the
    /// asynchronous proxy.
    pub fn fenced_foreign(&self, thread: usize, block: u64, agent: u32, time: u32) -> bool {
        let agent = agent as usize;
        let all = self.known[thread].foreign.get(&block);
        agent >= 2 * self.threads || all.is_some_and(|all| time <= all[agents(self.threads) + agent])
    }
    /// Whether a proxy fence stands between what `agent` did at `time` and what `thread` does in the asynchronous proxy.
    pub fn fenced(&self, thread: usize, agent: u32, time: u32) -> bool {
        if agent as usize >= 2 * self.threads {
            return true; // was done in the asynchronous proxy
        }
        let [own, copies] = self.fenced[thread];
        time <= self.known[thread].fenced[agent as usize]
            || (agent as usize == thread && time <= own)
            || (agent == self.copies_of(thread) && time <= copies)
    }

    /// Enters into `known` what a thread did itself.
    fn publish(&self, thread: usize, known: &mut Known) {
        let raise = |into: &mut u32, time: u32| *into = (*into).max(time);
        raise(&mut known.times[thread], self.own[thread]);
        raise(&mut known.times[self.copies_of(thread) as usize], self.copies[thread]);
        raise(&mut known.times[self.products_of(thread) as usize], self.products[thread]);
        raise(&mut known.times[self.initialisations() as usize], self.own_initialisation[thread]);
        let [own, copies] = self.fenced[thread];
        raise(&mut known.fenced[thread], own);
        raise(&mut known.fenced[self.copies_of(thread) as usize], copies);
    }

    /// All of `threads` know afterwards what any of them did.
    pub fn join(&mut self, threads: impl Iterator<Item = usize> + Clone) {
        let Some(first) = threads.clone().next() else { return };
        let mut all = (*self.known[first]).clone();
        let mut last = self.known[first].clone();
        for t in threads.clone() {
            if !Arc::ptr_eq(&self.known[t], &last) {
                all.join(&self.known[t]);
                last = self.known[t].clone();
            }
        }
        for t in threads.clone() {
            self.publish(t, &mut all);
        }
        let all = Arc::new(all);
        for t in threads {
            self.known[t] = all.clone();
            self.own[t] += 1;
        }
    }

    /// Adds what `thread` did and knows to `into`, as an arrival at a barrier does.
    pub fn release(&mut self, thread: usize, into: &mut Known) {
        into.join(&self.known[thread]);
        self.publish(thread, into);
        self.own[thread] += 1;
    }

    /// `thread` knows afterwards what `from` holds.
    pub fn acquire(&mut self, thread: usize, from: &Arc<Known>) {
        let mine = &self.known[thread];
        let again = |[a, b, _]: &&[Arc<Known>; 3]| Arc::ptr_eq(a, mine) && Arc::ptr_eq(b, from);
        if let Some([_, _, joined]) = self.last.as_ref().filter(again) {
            self.known[thread] = joined.clone();
            return;
        }
        let mut joined = (**mine).clone();
        joined.join(from);
        let joined = Arc::new(joined);
        self.last = Some([mine.clone(), from.clone(), joined.clone()]);
        self.known[thread] = joined;
    }

    /// Adds what blocks are told to `into`, which threads of this block acquire.
    pub fn hand_over(&self, from: &Arc<Foreign>, into: &mut Known) {
        if into.times.is_empty() {
            *into = nothing(self.threads);
        }
        into.join_blocks(self.block, from);
    }
    /// What an mbarrier or a barrier has of this block, as blocks are told.
    pub fn as_told(&self, known: &Known) -> Arc<Foreign> {
        let mut all = known.foreign.clone();
        Arc::make_mut(&mut all).insert(self.block, Arc::new([&known.times[..], &known.fenced].concat()));
        all
    }

    /// `thread` has waited for the groups of its asynchronous copies up to `group`.
    pub fn copies_done(&mut self, thread: usize, group: u32) {
        self.copies[thread] = self.copies[thread].max(group);
    }
    /// `thread` has waited for the groups of its warp's products up to `group`.
    pub fn products_done(&mut self, thread: usize, group: u32) {
        self.products[thread] = self.products[thread].max(group);
    }

    /// `thread` passes everything it knows to the asynchronous proxy.
    pub fn fence_proxy(&mut self, thread: usize) {
        self.fenced[thread] = [self.own[thread], self.copies[thread]];
        let known = Arc::make_mut(&mut self.known[thread]);
        known.fenced.copy_from_slice(&known.times[..2 * self.threads]);
        if !known.foreign.is_empty() {
            for all in Arc::make_mut(&mut known.foreign).values_mut() {
                let (times, fenced) = Arc::make_mut(all).split_at_mut(agents(self.threads));
                fenced.copy_from_slice(&times[..2 * self.threads]);
            }
        }
        self.own[thread] += 1;
    }
    /// `fence.mbarrier_init` of a thread: its later relaxed arrivals release the mbarriers that it has initialised, and no more.
    pub fn fence_initialisations(&mut self, thread: usize) {
        let mut only = nothing(self.threads);
        only.times[self.initialisations() as usize] = self.own_initialisation[thread];
        only.fenced[thread] = self.fenced[thread][0];
        let told = self.as_told(&only);
        match &mut self.at_fence[thread] {
            Some(all) => join_foreign(all, &told),
            none => *none = Some(told),
        }
    }

    /// What `thread` did and knows, as other blocks are told.
    fn snapshot(&mut self, thread: usize) -> Arc<Foreign> {
        let mut known = (*self.known[thread]).clone();
        self.publish(thread, &mut known);
        self.own[thread] += 1;
        self.as_told(&known)
    }

    /// A fence of `thread`: it acquires what atomic reads have seen, and releases by atomic writes to come.
    pub fn fence(&mut self, thread: usize) {
        if let Some(seen) = self.seen[thread].take() {
            self.acquire_foreign(thread, &seen);
        }
        self.at_fence[thread] = Some(self.snapshot(thread));
    }
    /// What an atomic write of `thread` releases: all if it is a release, else what its last fence covers.
    pub fn released(&mut self, thread: usize, release: bool) -> Option<Arc<Foreign>> {
        if release { Some(self.snapshot(thread)) } else { self.at_fence[thread].clone() }
    }
    /// An atomic read of `thread` saw what `from` released.
    pub fn observed(&mut self, thread: usize, from: &Arc<Foreign>, acquire: bool) {
        if acquire {
            self.acquire_foreign(thread, from);
        } else {
            match &mut self.seen[thread] {
                Some(seen) => join_foreign(seen, from),
                none => *none = Some(from.clone()),
            }
        }
    }
    fn acquire_foreign(&mut self, thread: usize, from: &Arc<Foreign>) {
        Arc::make_mut(&mut self.known[thread]).join_blocks(self.block, from);
    }
}

/// Joins what two releases at one address hold.
pub fn accumulate(into: &mut Arc<Foreign>, from: &Arc<Foreign>) {
    join_foreign(into, from);
}

/// Who did something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Agent {
    Thread(usize),
    /// Asynchronous copies of a thread.
    Copy(usize),
    /// Products of a warp.
    Products(usize),
    /// Bulk copies.
    Bulk,
    /// Initialisations of mbarriers.
    Initialisation,
}
