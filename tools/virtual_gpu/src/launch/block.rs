//! A block: its warps, its shared memory, its barriers.

use super::report::place;
use super::schedule::{Dice, run_warp};
use super::{Launch, Options, Problem};
use crate::lower::SPECIALS;
use crate::sanitize::{Guard, Watch};
use crate::warp::*;
use std::sync::Arc;

/// A block under way. The next block of a launch takes its place and keeps what it has allocated.
pub struct Block {
    pub env: Box<BlockEnv>,
    pub warps: Vec<Warp>,
    pub id: [u32; 3],
    pub done: bool,
}

/// Instructions of a turn where nothing limits it: warps go on until they wait.
const LONG_TURN: i64 = 1 << 20;

fn new_warp(l: &Launch, env: *mut BlockEnv, index: u32) -> Warp {
    let k = &l.kernel;
    let mut storage = vec![Slot([0; 32]); k.slots.max(1)];
    Warp {
        regs: storage.as_mut_ptr() as *mut u32,
        consts: k.consts.as_ptr() as *const u32,
        mask: FULL,
        preds: vec![0; k.preds.max(1)],
        special: Box::new([[0; 32]; 24]),
        env,
        fault: None,
        live: FULL,
        pc: 0,
        path: 0,
        others: vec![],
        local: vec![0xff; k.local_bytes * 32 + 32],
        local_bytes: k.local_bytes,
        pending: vec![],
        commits: [0; 32],
        carry: 0,
        index,
        state: State::Ready,
        storage,
        products: vec![],
        wgroup: 0,
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
            spins: 0,
            dice: Dice::default(),
        });
        env.guard = watch.map(|watch| Box::new(Guard::new(watch, &env.shared, shared)));
        let env_at: *mut BlockEnv = &mut *env;
        let warps = (0..l.threads().div_ceil(32)).map(|n| new_warp(l, env_at, n)).collect();
        Block { env, warps, id: [0; 3], done: false }
    }

    /// Makes this the `index`-th block of the grid, before its first instruction.
    pub fn start(&mut self, l: &Launch, o: &Options, index: u64, workspace: u64) {
        let [gx, gy, _] = l.grid.map(u64::from);
        self.id = [(index % gx) as u32, (index / gx % gy) as u32, (index / (gx * gy)) as u32];
        self.done = false;
        let env = &mut *self.env;
        env.shared.fill(0xff);
        if let Some(guard) = &mut env.guard {
            guard.start(index);
        }
        env.bars.clear();
        env.bulk.clear();
        env.warpgroups.clear();
        env.warpgroups.resize_with(self.warps.len() / 4, Default::default);
        env.spins = 0;
        env.dice = Dice::new(o.seed, index);
        for w in &mut self.warps {
            start_warp(l, w, self.id, workspace);
        }
    }

    /// One turn of every warp, in the order of the seed.
    pub fn turn(&mut self, l: &Launch, entries: &mut [(u64, u64)], quantum: i64) -> Result<(), Problem> {
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
            // Safety: the warp was started for this kernel, and the lists of `env` outlive it.
            unsafe {
                land_by_chance(w);
                run_warp(&l.kernel, &l.module, w, entries, quantum);
            }
            if let Some(f) = w.fault.take() {
                return Err(self.problem(l, n, &f));
            }
        }
        if self.warps.iter().any(|w| w.state == State::Ready) {
            return Ok(());
        }
        self.done = self.warps.iter().all(|w| w.state == State::Done);
        if self.done {
            self.end();
        }
        if !self.done && !self.release_barriers() {
            return Err(self.deadlock(l));
        }
        Ok(())
    }

    /// Runs the block to its end, or until `stop` says so.
    pub fn run(&mut self, l: &Launch, entries: &mut [(u64, u64)], stop: impl Fn() -> bool) -> Result<(), Problem> {
        while !self.done && !stop() {
            self.turn(l, entries, LONG_TURN)?;
        }
        Ok(())
    }

    /// Lets go on who waits at barriers that are complete; false if there are none.
    fn release_barriers(&mut self) -> bool {
        let alive = self.warps.iter().filter(|w| w.state != State::Done).count();
        let mut released = false;
        for id in 0..16 {
            let (mut waiting, mut expected, mut counted) = (vec![], 0, false);
            for (n, w) in self.warps.iter().enumerate() {
                if let State::AtBar(barrier, count) = w.state
                    && barrier == id
                {
                    waiting.push(n);
                    counted |= count > 0;
                    expected = expected.max(count as usize);
                }
            }
            if waiting.is_empty() || waiting.len() < if counted { expected } else { alive } {
                continue;
            }
            self.meet(&waiting, counted);
            let path = waiting.iter().map(|n| self.warps[*n].path).max().unwrap_or(0);
            for n in waiting {
                self.warps[n].state = State::Ready;
                self.warps[n].path = path;
            }
            released = true;
        }
        released
    }

    /// Tells the sanitizer that warps have met. Where a barrier says how many it expects, they may come from different places.
    fn meet(&mut self, waiting: &[usize], counted: bool) {
        let Some(guard) = &mut self.env.guard else { return };
        let place = |n: &usize| (self.warps[*n].pc - 1, *n as u32);
        let mut places: Vec<(u32, u32)> = waiting.iter().map(place).collect();
        places.sort();
        if let [first, .., last] = places[..]
            && first.0 != last.0
            && !counted
        {
            guard.apart(first, last);
        }
        let met: Vec<(u32, u32)> = waiting.iter().map(|n| (*n as u32, self.warps[*n].live)).collect();
        guard.barrier(&met);
    }

    /// Tells the sanitizer that the block has ended.
    fn end(&mut self) {
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

    fn deadlock(&self, l: &Launch) -> Problem {
        let k = &l.kernel;
        let states = self.warps.iter().map(|w| {
            let at = place(k, &l.module, w.pc.saturating_sub(1));
            format!("warp {} {:?} after {at}", w.index, w.state)
        });
        let states = states.collect::<Vec<_>>().join("; ");
        Problem { code: LAUNCH_FAILED, text: format!("kernel {}: warps wait for ever: {states}", k.name) }
    }
}

fn start_warp(l: &Launch, w: &mut Warp, block: [u32; 3], workspace: u64) {
    let first = 32 * w.index;
    let threads = l.threads();
    w.live = if threads >= first + 32 { FULL } else { (1u32 << (threads - first)) - 1 };
    w.mask = w.live;
    w.pc = 0;
    w.path = 0;
    w.others.clear();
    w.pending.clear();
    w.products.clear();
    w.wgroup = 0;
    w.commits = [0; 32];
    w.state = State::Ready;
    w.fault = None;
    for (values, name) in w.special.iter_mut().zip(SPECIALS) {
        for (lane, value) in values.iter_mut().enumerate() {
            *value = special(l, name, first + lane as u32, block, workspace);
        }
    }
}

/// The value of a special register (PTX ISA, "Special Registers").
fn special(l: &Launch, name: &str, thread: u32, block: [u32; 3], workspace: u64) -> u32 {
    let [x, y, _] = l.block;
    match name {
        "%tid.x" => thread % x,
        "%tid.y" => thread / x % y,
        "%tid.z" => thread / (x * y),
        "%ntid.x" => l.block[0],
        "%ntid.y" => l.block[1],
        "%ntid.z" => l.block[2],
        "%ctaid.x" => block[0],
        "%ctaid.y" => block[1],
        "%ctaid.z" => block[2],
        "%nctaid.x" => l.grid[0],
        "%nctaid.y" => l.grid[1],
        "%nctaid.z" => l.grid[2],
        "%laneid" => thread % 32,
        "%warpid" => thread / 32,
        "%envreg1" => (workspace >> 32) as u32,
        "%envreg2" => workspace as u32,
        "%nsmid" => 108,
        "%dynamic_smem_size" => l.dynamic_shared,
        _ => 0,
    }
}
