//! The order of things that nothing orders: of blocks, of warps, of the groups of a divergent warp, of asynchronous copies.

use super::report::place;
use crate::lower::Kernel;
use crate::ptx::Module;
use crate::warp::hopper::{cluster_wait, spins_for_ever};
use crate::warp::*;

/// Pseudorandom choices of a seed. Seed 0 makes none: everything goes in its natural order, asynchronous copies last.
#[derive(Clone, Copy, Default)]
pub struct Dice {
    state: u64,
    loaded: bool,
}

impl Dice {
    pub fn new(seed: u64, stream: u64) -> Self {
        Dice { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ stream.rotate_left(32), loaded: seed != 0 }
    }
    /// True if the order is to be permuted.
    pub fn loaded(&self) -> bool {
        self.loaded
    }
    /// A number below `n`; 0 of seed 0.
    pub fn below(&mut self, n: u64) -> u64 {
        if !self.loaded || n < 2 {
            return 0;
        }
        // splitmix64
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.state;
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ x >> 31) % n
    }
    /// True once in `n`; never of seed 0.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.loaded && self.below(n) == 0
    }
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        if self.loaded {
            for last in (1..list.len()).rev() {
                list.swap(last, self.below(last as u64 + 1) as usize);
            }
        }
    }
}

/// The n-th block to run of `total`: a permutation of each seed, the identity of seed 0.
pub fn nth_block(n: u64, total: u64, seed: u64) -> u64 {
    if seed == 0 || total < 2 {
        return n;
    }
    let coprime = |a: u64| {
        let (mut x, mut y) = (a, total);
        while y != 0 {
            (x, y) = (y, x % y);
        }
        x == 1
    };
    let mut dice = Dice::new(seed, total);
    let mut step = dice.below(total - 1) + 1;
    while !coprime(step) {
        step = step % (total - 1) + 1;
    }
    let first = dice.below(total);
    ((n as u128 * step as u128 + first as u128) % total as u128) as u64
}

/// Why a warp stopped.
pub enum Exit {
    /// Done, at a barrier, or at fault.
    Stop,
    /// Its turn is over.
    Turn,
}

#[cold]
fn stuck(k: &Kernel, m: &Module, w: &mut Warp, what: &str) {
    let mut text = format!("{what}: ");
    for g in &w.others {
        let at = place(k, m, g.pc);
        text += &format!("lanes {:#010x} wait at {} ({at}); ", g.mask, k.texts[g.pc as usize]);
    }
    text += &format!("live lanes {:#010x}", w.live);
    w.fail(LAUNCH_FAILED, 0, text);
}

/// Lanes that a collective needs.
///
/// # Safety
/// `i` is an instruction of the kernel of `w`.
unsafe fn needs(w: &Warp, i: &Inst, mask: u32) -> u32 {
    match i.kind {
        Kind::Bar => w.live,
        _ if i.target == 1 => unsafe {
            let members = w.p(*i.ext.add(MEMBERS));
            (0..32).filter(|lane| mask >> lane & 1 != 0).fold(0, |all, lane| all | *members.add(lane))
        },
        _ => FULL,
    }
}

/// Turns of a block that lanes left behind sleep at most: a slot of a ring is given back, filled again and complete in fewer.
const LONGEST_SLEEP: u64 = 64;

/// Now and then leaves lanes at `pc`, where they wait: nothing says how soon a lane goes on that may. The sleepers may be all.
fn leave_behind(w: &mut Warp, pc: usize) {
    // Safety: the block outlives its warps.
    let dice = unsafe { &mut (*w.env).dice };
    if w.behind.lanes != 0 || !dice.one_in(8) {
        return;
    }
    let any = dice.below(1 << 32) as u32;
    // One lane, or about half of them, or whoever is there.
    let chosen = [1 << (any % 32), any, FULL][dice.below(3) as usize];
    let lanes = w.mask & chosen;
    if lanes != 0 {
        w.behind = Behind { lanes, turns: 1 + dice.below(LONGEST_SLEEP) as u32 };
        w.others.push(Group { pc: pc as u32, mask: lanes, blocked: false });
        w.mask &= !lanes;
    }
}

/// Whether the current group sleeps: the warp's turn is over, and its next one begins at `pc`.
fn asleep(w: &mut Warp, pc: usize) -> bool {
    w.pc = pc as u32;
    w.behind.has(w.mask)
}

/// The groups that neither wait for lanes nor sleep.
fn ready(w: &Warp) -> impl Iterator<Item = &Group> {
    w.others.iter().filter(|g| !g.blocked && !w.behind.has(g.mask))
}

/// The program counter of the group to run next: the lowest, or with a seed now and then any; none if all are blocked or sleep.
fn runnable(w: &Warp) -> Option<u32> {
    let lowest = ready(w).map(|g| g.pc).min()?;
    // Safety: the block outlives its warps.
    let dice = unsafe { &mut (*w.env).dice };
    if dice.one_in(3) {
        let any = dice.below(ready(w).count() as u64) as usize;
        return ready(w).nth(any).map(|g| g.pc);
    }
    Some(lowest)
}

/// The lowest program counter at which blocked groups together hold the lanes that its collective needs.
///
/// # Safety
/// The groups of `w` stand in `k`.
unsafe fn released(k: &Kernel, w: &Warp) -> Option<u32> {
    let blocked = || w.others.iter().filter(|g| g.blocked);
    let mut counters: Vec<u32> = blocked().map(|g| g.pc).collect();
    counters.sort();
    counters.dedup();
    counters.into_iter().find(|pc| {
        let mask = blocked().filter(|g| g.pc == *pc).fold(0, |m, g| m | g.mask);
        unsafe { needs(w, &k.code[*pc as usize], mask) & !mask == 0 }
    })
}

/// Makes the next group current; false if there is none that can run.
///
/// # Safety
/// The groups of `w` stand in `k`.
unsafe fn next_group(k: &Kernel, w: &mut Warp, pc: &mut usize) -> bool {
    let (next, mask) = if let Some(next) = runnable(w) {
        (next, take_groups(w, next, false))
    } else if let Some(next) = unsafe { released(k, w) } {
        (next, take_groups(w, next, true))
    } else if let Some(at) = w.others.iter().position(|g| w.behind.has(g.mask)) {
        // All wait for those who sleep.
        let sleepers = w.others.remove(at);
        (sleepers.pc, sleepers.mask)
    } else {
        return false;
    };
    w.mask = mask;
    *pc = next as usize;
    true
}

/// Lets the group that has waited longest go on where the current one may wait for it.
fn oldest_group(w: &mut Warp, pc: &mut usize) {
    let next = ready(w).next().map(|g| g.pc);
    if let Some(next) = next {
        w.others.push(Group { pc: *pc as u32, mask: w.mask, blocked: false });
        w.mask = take_groups(w, next, false);
        w.favoured = true;
        *pc = next as usize;
    }
}

/// Takes the lanes that are at `pc` from the waiting groups, but for those that sleep.
fn take_groups(w: &mut Warp, pc: u32, blocked: bool) -> u32 {
    let (mut mask, behind) = (0, w.behind);
    w.others.retain(|g| {
        let taken = g.pc == pc && g.blocked == blocked && !behind.has(g.mask);
        if taken {
            mask |= g.mask;
        }
        !taken
    });
    mask
}

/// What becomes of lanes that came to a collective.
enum Gathered {
    All,
    /// Some are missing: another group is current.
    Later,
    Fault,
}

/// Gathers the lanes that the collective at `pc` needs.
///
/// # Safety
/// `w` runs `k` and stands at `pc`.
unsafe fn gather(k: &Kernel, m: &Module, w: &mut Warp, pc: &mut usize) -> Gathered {
    let at = *pc;
    let i = &k.code[at];
    let need = unsafe { needs(w, i, w.mask) };
    if need & !w.live != 0 {
        w.pc = at as u32;
        let (op, live) = (&k.texts[at], w.live);
        let text = format!("{op} needs lanes {need:#010x}, but only {live:#010x} have not returned");
        w.fail(LAUNCH_FAILED, (need & !live).trailing_zeros(), text);
        return Gathered::Fault;
    }
    if need & !w.mask == 0 {
        return Gathered::All;
    }
    w.mask |= take_groups(w, at as u32, true);
    // The lanes that joined may name others.
    let need = unsafe { needs(w, i, w.mask) };
    if need & !w.mask == 0 {
        return Gathered::All;
    }
    w.others.push(Group { pc: at as u32, mask: w.mask, blocked: true });
    if unsafe { next_group(k, w, pc) } {
        return Gathered::Later;
    }
    w.pc = at as u32;
    let what = if i.kind == Kind::Bar { "a barrier in divergent code" } else { "a warp collective in divergent code" };
    stuck(k, m, w, what);
    Gathered::Fault
}

/// Runs a warp until it is done, waits at a barrier, fails, or has run `quantum` instructions.
///
/// # Safety
/// `w` was started for `k`, and `entries` has an element of each of its basic blocks.
pub unsafe fn run_warp(k: &Kernel, m: &Module, w: &mut Warp, entries: &mut [(u64, u64)], quantum: i64) -> Exit {
    unsafe {
        let code = k.code.as_ptr();
        let mut pc = w.pc as usize;
        let mut budget = quantum;
        loop {
            let i = &*code.add(pc);
            match i.kind {
                Kind::Plain => {
                    (i.f)(w, i);
                    pc += 1;
                }
                Kind::Mem => {
                    (i.f)(w, i);
                    if w.fault.is_some() {
                        w.pc = pc as u32;
                        return Exit::Stop;
                    }
                    pc += 1;
                }
                Kind::Enter => {
                    // who had to give way to a group that waits goes on for a block at least
                    if !std::mem::take(&mut w.favoured) && !w.others.is_empty() {
                        w.others.push(Group { pc: pc as u32, mask: w.mask, blocked: false });
                        next_group(k, w, &mut pc);
                        if (*code.add(pc)).kind != Kind::Enter {
                            continue;
                        }
                    }
                    let i = &*code.add(pc);
                    let entered = &mut entries[i.target as usize];
                    entered.0 += 1;
                    entered.1 += w.mask.count_ones() as u64;
                    w.path += i.imm as u64;
                    budget -= i.imm + 1;
                    pc += 1;
                    if budget < 0 {
                        w.pc = pc as u32;
                        return Exit::Turn;
                    }
                }
                Kind::Bra => pc = i.target as usize,
                Kind::BraIf => {
                    let p = w.pred(i.guard);
                    let taken = (if i.neg { !p } else { p }) & w.mask;
                    if taken == w.mask {
                        pc = i.target as usize;
                    } else {
                        if taken != 0 {
                            w.others.push(Group { pc: i.target, mask: taken, blocked: false });
                            w.mask &= !taken;
                        }
                        pc += 1;
                    }
                }
                Kind::Guarded => {
                    let p = w.pred(i.guard);
                    let active = (if i.neg { !p } else { p }) & w.mask;
                    if active != 0 {
                        let all = w.mask;
                        w.mask = active;
                        (i.f)(w, i);
                        w.mask = all;
                        if w.fault.is_some() {
                            w.pc = pc as u32;
                            return Exit::Stop;
                        }
                    }
                    pc += 1;
                }
                Kind::Yield => {
                    leave_behind(w, pc);
                    if w.mask == 0 {
                        next_group(k, w, &mut pc);
                        if asleep(w, pc) {
                            return Exit::Turn;
                        }
                        continue;
                    }
                    (i.f)(w, i);
                    if w.fault.is_some() {
                        w.pc = pc as u32;
                        return Exit::Stop;
                    }
                    pc += !std::mem::take(&mut w.suspended) as usize;
                    oldest_group(w, &mut pc);
                    w.pc = pc as u32;
                    return Exit::Turn;
                }
                Kind::Sync | Kind::Bar => {
                    match gather(k, m, w, &mut pc) {
                        Gathered::All => {}
                        Gathered::Later if asleep(w, pc) => return Exit::Turn,
                        Gathered::Later => continue,
                        Gathered::Fault => return Exit::Stop,
                    }
                    if i.kind == Kind::Bar {
                        w.pc = pc as u32;
                        let goes_on = come(w, i);
                        if w.fault.is_some() {
                            return Exit::Stop;
                        }
                        pc += 1;
                        if goes_on {
                            continue;
                        }
                        w.pc = pc as u32;
                        return Exit::Stop;
                    }
                    (i.f)(w, i);
                    if w.fault.is_some() {
                        w.pc = pc as u32;
                        return Exit::Stop;
                    }
                    pc += 1;
                }
                Kind::Meet => {
                    if cluster_wait(w) {
                        pc += 1;
                        continue;
                    }
                    w.pc = pc as u32;
                    if w.fault.is_some() {
                        return Exit::Stop;
                    }
                    if w.others.is_empty() {
                        w.state = State::AtCluster;
                        return Exit::Stop;
                    }
                    if spins_for_ever(w) {
                        w.fail(LAUNCH_FAILED, w.mask.trailing_zeros(), "a wait for ever for the cluster".into());
                        return Exit::Stop;
                    }
                    oldest_group(w, &mut pc);
                    w.pc = pc as u32;
                    return Exit::Turn;
                }
                Kind::Ret => {
                    w.live &= !w.mask;
                    if w.live == 0 {
                        w.state = State::Done;
                        return Exit::Stop;
                    }
                    if !next_group(k, w, &mut pc) {
                        w.pc = pc as u32;
                        stuck(k, m, w, "lanes wait for lanes that have returned");
                        return Exit::Stop;
                    }
                    if asleep(w, pc) {
                        return Exit::Turn;
                    }
                }
                Kind::Trap => {
                    w.pc = pc as u32;
                    w.fail(LAUNCH_FAILED, w.mask.trailing_zeros(), "trap".into());
                    return Exit::Stop;
                }
            }
        }
    }
}
