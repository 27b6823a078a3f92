//! A block: its warps, its shared memory, its barriers.

use super::report::place;
use super::schedule::{Dice, run_warp};
use super::special::{self, Seat};
use super::{Launch, Options, Problem};
use crate::sanitize::{Guard, Watch};
use crate::warp::hopper::Peers;
use crate::warp::*;
use std::sync::Arc;

/// A block under way. The next block of a launch takes its place and keeps what it has allocated.
pub struct Block {
    pub env: Box<BlockEnv>,
    pub warps: Vec<Warp>,
    pub id: [u32; 3],
    pub done: bool,
}

/// What a turn of a block comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// Warps went on, or the block has ended.
    Moved,
    /// All warps wait, some of them for other blocks of the cluster.
    Waits,
}

fn new_warp(l: &Launch, env: *mut BlockEnv, index: u32) -> Warp {
    let k = &l.kernel;
    let mut storage = vec![Slot([0; 32]); k.slots.max(1)];
    Warp {
        regs: storage.as_mut_ptr() as *mut u32,
        consts: k.consts.as_ptr() as *const u32,
        mask: FULL,
        preds: vec![0; k.preds.max(1)],
        special: Box::new([[0; 32]; SPECIAL_REGISTERS]),
        env,
        fault: None,
        live: FULL,
        pc: 0,
        path: 0,
        others: vec![],
        favoured: false,
        local: vec![0xff; k.local_bytes * 32 + 32],
        local_bytes: k.local_bytes,
        pending: vec![],
        commits: [0; 32],
        carry: 0,
        index,
        state: State::Ready,
        suspended: false,
        behind: Behind::default(),
        storage,
        products: vec![],
        wgroup: 0,
        cluster: AtCluster::default(),
    }
}

impl Block {
    pub fn new(l: &Launch, watch: Option<&Arc<Watch>>, allocs: *const Vec<(u64, u64)>) -> Block {
        let k = &l.kernel;
        let shared = k.static_shared + l.dynamic_shared as usize;
        let mut env = Box::new(BlockEnv {
            shared: vec![0xff; shared + 64],
            shared_end: SHARED_BASE + shared as u32,
            params: l.params.as_ptr(),
            params_bytes: l.params.len(),
            allocs,
            cache: vec![(1, 0); k.mems + 1],
            stats: None,
            guard: None,
            watched: watch.is_some(),
            code: k.code.as_ptr(),
            bars: vec![],
            bulk: vec![],
            warpgroups: vec![],
            barriers: Default::default(),
            met: vec![],
            peers: Peers::default(),
            spins: 0,
            dice: Dice::default(),
        });
        env.guard = watch.map(|watch| Box::new(Guard::new(watch, &env.shared, shared)));
        let env_at: *mut BlockEnv = &mut *env;
        let warps = (0..l.threads().div_ceil(32)).map(|n| new_warp(l, env_at, n)).collect();
        Block { env, warps, id: [0; 3], done: false }
    }

    /// Makes this the block of a seat, before its first instruction.
    pub fn start(&mut self, l: &Launch, o: &Options, seat: &Seat) {
        self.id = seat.block;
        self.done = false;
        let env = &mut *self.env;
        env.shared.fill(0xff);
        if let Some(guard) = &mut env.guard {
            guard.start(seat.number);
        }
        env.bars.clear();
        env.bulk.clear();
        env.warpgroups.clear();
        env.warpgroups.resize_with(self.warps.len() / 4, Default::default);
        env.barriers = Default::default();
        env.met.clear();
        env.peers.ended = false;
        env.spins = 0;
        env.dice = Dice::new(o.seed, seat.number);
        for w in &mut self.warps {
            start_warp(l, w, seat);
        }
    }

    /// One turn of every warp, in the order of the seed.
    pub fn turn(&mut self, l: &Launch, entries: &mut [(u64, u64)], quantum: i64) -> Result<Progress, Problem> {
        let mut moved = false;
        let mut order: Vec<usize> = (0..self.warps.len()).collect();
        self.env.dice.shuffle(&mut order);
        for n in order {
            let quantum = match self.env.dice.below(3) {
                1 => quantum.min(16),
                2 => quantum.min(256),
                _ => quantum,
            };
            let w = &mut self.warps[n];
            if w.state != State::Ready {
                continue;
            }
            moved = true;
            w.behind.turn();
            if w.behind.has(w.mask) {
                continue;
            }
            // Safety: the warp was started for this kernel, and the lists of `env` outlive it.
            unsafe {
                land_by_chance(w);
                run_warp(&l.kernel, &l.module, w, entries, quantum);
            }
            if let Some(f) = w.fault.take() {
                return Err(self.problem(l, n, &f));
            }
            self.release(l);
        }
        if self.warps.iter().any(|w| w.state == State::Ready) {
            return Ok(Progress::Moved);
        }
        self.done = self.warps.iter().all(|w| w.state == State::Done);
        if self.done {
            self.end();
            return Ok(Progress::Moved);
        }
        self.complete_uncounted();
        if self.release(l) || moved {
            return Ok(Progress::Moved);
        }
        if self.warps.iter().any(|w| w.state == State::AtCluster) { Ok(Progress::Waits) } else { Err(self.deadlock(l)) }
    }

    /// Ends the barriers that expect all warps and to which all have come that have not ended.
    fn complete_uncounted(&mut self) {
        let alive = self.warps.iter().filter(|w| w.state != State::Done).count();
        for id in 0..BARRIERS {
            let barrier = &self.env.barriers[id];
            if barrier.expected == 0 && !barrier.comers.is_empty() && barrier.comers.len() >= alive {
                complete(&mut self.env, id);
            }
        }
    }

    /// Lets go on who waits at barriers that are complete; false if there are none.
    fn release(&mut self, l: &Launch) -> bool {
        let met = std::mem::take(&mut self.env.met);
        let any = !met.is_empty();
        for mut barrier in met {
            self.tell(&mut barrier);
            let path = barrier.comers.iter().map(|comer| comer.path).max().unwrap_or(0);
            for comer in barrier.comers.iter().filter(|comer| comer.waits) {
                let w = &mut self.warps[comer.warp as usize];
                w.state = State::Ready;
                w.path = w.path.max(path);
                // Safety: the warp waits at this instruction of its kernel.
                unsafe { write_result(w, &l.kernel.code[comer.pc as usize], &barrier) };
            }
        }
        any
    }

    /// Tells the sanitizer that warps have met. Where a barrier says how many it expects, they may come from different places.
    fn tell(&mut self, barrier: &mut Barrier) {
        let Some(guard) = &mut self.env.guard else { return };
        let mut places: Vec<(u32, u32)> = barrier.comers.iter().map(|comer| (comer.pc, comer.warp)).collect();
        places.sort();
        if let [first, .., last] = places[..]
            && first.0 != last.0
            && barrier.expected == 0
        {
            guard.apart(first, last);
        }
        let waiting = barrier.comers.iter().filter(|comer| comer.waits);
        let met: Vec<(u32, u32)> = waiting.map(|comer| (comer.warp, comer.live)).collect();
        guard.barrier(&met, barrier.released.take());
    }

    /// Tells the sanitizer that the block has ended.
    fn end(&mut self) {
        self.env.peers.ended = true;
        if let Some(guard) = &mut self.env.guard {
            guard.end();
            self.env.bulk.iter().for_each(|copy| guard.unfinished_bulk(copy.pc));
        }
    }

    fn problem(&self, l: &Launch, warp: usize, fault: &Fault) -> Problem {
        let w = &self.warps[warp];
        let k = &l.kernel;
        let at = place(k, &l.module, w.pc);
        let (name, id, grid, op) = (&k.name, self.id, l.grid, &k.texts[w.pc as usize]);
        let thread = 32 * w.index + fault.lane;
        let text = format!("kernel {name} block {id:?} of {grid:?} thread {thread}: {} [{op}] at {at}", fault.text);
        Problem { code: fault.code, text }
    }

    pub fn deadlock(&self, l: &Launch) -> Problem {
        let k = &l.kernel;
        let states = self.warps.iter().map(|w| {
            let at = place(k, &l.module, w.pc.saturating_sub(1));
            format!("warp {} {:?} after {at}", w.index, w.state)
        });
        let states = states.collect::<Vec<_>>().join("; ");
        Problem { code: LAUNCH_FAILED, text: format!("kernel {}: warps wait for ever: {states}", k.name) }
    }
}

fn start_warp(l: &Launch, w: &mut Warp, seat: &Seat) {
    let first = 32 * w.index;
    let threads = l.threads();
    w.live = if threads >= first + 32 { FULL } else { (1u32 << (threads - first)) - 1 };
    w.mask = w.live;
    w.pc = 0;
    w.path = 0;
    w.others.clear();
    w.favoured = false;
    w.behind = Behind::default();
    w.pending.clear();
    w.products.clear();
    w.wgroup = 0;
    w.commits = [0; 32];
    w.cluster = AtCluster::default();
    w.state = State::Ready;
    w.fault = None;
    special::set(l, w, seat);
}
