//! Barriers in shared memory that count arrivals and bytes (PTX ISA, "Parallel synchronization and communication instructions:
//! mbarrier").
//!
//! Words of an mbarrier here: bits 0-19 the arrivals that are pending, 20-39 those that a phase expects, 40-62 the bytes under way
//! + 2^21, 63 the phase. An arrival gives the word as it was before as its state.

use super::cluster::{Places, block, places};
use crate::warp::*;

/// An mbarrier's state.
#[derive(Clone, Copy)]
pub struct Mbarrier {
    pub pending: u64,
    pub expected: u64,
    pub tx: i64,
    pub phase: u64,
}

/// Arrivals that an mbarrier can count, and bytes.
const MOST_ARRIVALS: u64 = (1 << 20) - 1;
const MOST_BYTES: i64 = (1 << 20) - 1;
/// Waits one after another that fail, in a block in which nothing else happens.
const SPINS: u64 = 300_000;

impl Mbarrier {
    fn of(word: u64) -> Mbarrier {
        Mbarrier {
            pending: word & MOST_ARRIVALS,
            expected: word >> 20 & MOST_ARRIVALS,
            tx: (word >> 40 & 0x7f_ffff) as i64 - (1 << 21),
            phase: word >> 63,
        }
    }
    fn word(self) -> u64 {
        self.pending | self.expected << 20 | ((self.tx + (1 << 21)) as u64) << 40 | self.phase << 63
    }
}

/// The mbarrier at an address of a block.
///
/// # Safety
/// It lies in shared memory.
pub unsafe fn read(env: &BlockEnv, at: u32) -> Mbarrier {
    // Safety: the caller's.
    Mbarrier::of(unsafe { (env.shared.as_ptr().add((at - SHARED_BASE) as usize) as *const u64).read_unaligned() })
}

/// Changes the mbarrier at an address of a block, whose phase ends where nothing is pending.
///
/// # Safety
/// It lies in shared memory.
pub unsafe fn write(env: &mut BlockEnv, at: u32, mut barrier: Mbarrier) {
    if barrier.pending == 0 && barrier.tx == 0 {
        barrier.phase ^= 1;
        barrier.pending = barrier.expected;
        if let Some(guard) = &mut env.guard {
            guard.mbarrier_complete(at);
            for copy in env.bulk.iter().filter(|copy| copy.bar == at) {
                guard.not_expected(copy.pc);
            }
        }
    }
    env.spins = 0;
    // Safety: the caller's.
    unsafe {
        (env.shared.as_mut_ptr().add((at - SHARED_BASE) as usize) as *mut u64).write_unaligned(barrier.word());
    }
}

/// Counts a wait that has failed; true if nothing else has happened in the block for very long.
pub fn spins_for_ever(w: &mut Warp) -> bool {
    let env = w.env();
    env.spins += 1;
    env.spins > SPINS
}

/// Where the mbarriers of an instruction are, once they have passed the door. `Inst::extends`: they may be in other blocks.
unsafe fn admitted(w: &mut Warp, i: &Inst, r: u32, action: Action, by: By) -> Option<Places> {
    // Safety: the operand is the instruction's.
    let addresses = unsafe { addresses32(w, i, r) };
    let all = if i.extends {
        // Safety: the warp's cluster is alive.
        unsafe { places(w, &addresses) }?
    } else {
        Places { local: addresses, parts: vec![(w.env().peers.rank, w.mask)] }
    };
    for &(rank, lanes) in &all.parts {
        let access = Access { by, ..Access::new(Places::space(w, rank), action, lanes, &all.local, 8) };
        // Safety: the instruction is of the warp's kernel.
        if !unsafe { admit(w, i, &access) } {
            return None;
        }
    }
    Some(all)
}

/// Calls `each` with the lane, the rank and the address of every mbarrier of an instruction until it says false.
fn for_each(all: &Places, mut each: impl FnMut(usize, u32, u32) -> bool) {
    for &(rank, lanes) in &all.parts {
        for lane in (0..32).filter(|lane| lanes >> lane & 1 != 0) {
            if !each(lane, rank, all.local[lane]) {
                return;
            }
        }
    }
}

/// Fails the warp unless the mbarrier has been initialised.
unsafe fn known(w: &mut Warp, lane: usize, rank: u32, at: u32, what: &str) -> bool {
    // Safety: the place was found by `places`.
    let known = unsafe { block(w, rank) }.bars.contains(&at);
    if !known {
        w.fail(LAUNCH_FAILED, lane as u32, format!("{what} an mbarrier that was not initialised"));
    }
    known
}

fn thread_of(warp: u32, lane: usize) -> usize {
    32 * warp as usize + lane
}

/// `mbarrier.init`. ext: address, count.
///
/// # Safety
/// `Inst::ext` is as said.
pub unsafe fn mbarrier_init(w: &mut Warp, i: &Inst) {
    // Safety: the caller's.
    unsafe {
        let Some(all) = admitted(w, i, *i.ext, Action::Write, By::Initialisation) else { return };
        let counts = *(w.p(*i.ext.add(1)) as *const [u32; 32]);
        let pc = number_of(w, i);
        for_each(&all, |lane, _, at| {
            let count = counts[lane] as u64;
            if count == 0 || count > MOST_ARRIVALS {
                w.fail(LAUNCH_FAILED, lane as u32, format!("mbarrier.init with a count of {count}"));
                return false;
            }
            let thread = thread_of(w.index, lane);
            let env = w.env();
            let word = Mbarrier { pending: count, expected: count, tx: 0, phase: 0 }.word();
            (env.shared.as_mut_ptr().add((at - SHARED_BASE) as usize) as *mut u64).write_unaligned(word);
            if !env.bars.contains(&at) {
                env.bars.push(at);
            }
            if let Some(guard) = &mut env.guard {
                guard.mbarrier_init(thread, at, pc);
            }
            true
        });
    }
}

/// `mbarrier.inval`. ext: address.
///
/// # Safety
/// `Inst::ext` is as said.
pub unsafe fn mbarrier_inval(w: &mut Warp, i: &Inst) {
    // Safety: the caller's.
    unsafe {
        let Some(all) = admitted(w, i, *i.ext, Action::Write, By::Thread) else { return };
        for_each(&all, |lane, rank, at| {
            let there = known(w, lane, rank, at, "mbarrier.inval of");
            w.env().bars.retain(|other| *other != at);
            there
        });
    }
}

/// `mbarrier.arrive` and `mbarrier.arrive_drop` (`Inst::signed`), which no later phase expects again. ext: state or NONE, address,
/// count or NONE, bytes or NONE.
///
/// # Safety
/// `Inst::ext` is as said.
pub unsafe fn mbarrier_arrive(w: &mut Warp, i: &Inst) {
    // Safety: the caller's.
    unsafe {
        let [state, address, count, bytes] = *(i.ext as *const [u32; 4]);
        let Some(all) = admitted(w, i, address, Action::Atomic, By::Thread) else { return };
        let (release, wide, drops) = (i.order & RELEASE != 0, i.order & WIDE != 0, i.signed);
        for_each(&all, |lane, rank, at| {
            if !known(w, lane, rank, at, "an arrival at") {
                return false;
            }
            let of_lane = |w: &Warp, r: u32, otherwise: u32| if r == NONE { otherwise } else { *w.p(r).add(lane) };
            let (arrivals, tx) = (of_lane(w, count, 1) as u64, of_lane(w, bytes, 0) as i64);
            let thread = thread_of(w.index, lane);
            let before = read(block(w, rank), at);
            let mut barrier = Mbarrier { tx: before.tx + tx, ..before };
            let problem = if arrivals == 0 || arrivals > barrier.pending {
                Some(format!("{arrivals} arrivals at an mbarrier that expects {} more", barrier.pending))
            } else if barrier.tx > MOST_BYTES {
                Some(format!("an mbarrier that expects {} bytes", barrier.tx))
            } else {
                None
            };
            if let Some(text) = problem {
                w.fail(LAUNCH_FAILED, lane as u32, text);
                return false;
            }
            barrier.pending -= arrivals;
            barrier.expected -= if drops { arrivals } else { 0 };
            if state != NONE {
                u64::put(w.pm(state), lane, before.word());
            }
            let own = w.env().peers.rank == rank;
            if let Some(guard) = &mut w.env().guard {
                match own {
                    true => guard.mbarrier_arrive(thread, at, release),
                    false if wide => guard.mbarrier_arrive_at(rank, thread, at, release),
                    false => {}
                }
            }
            write(block(w, rank), at, barrier);
            true
        });
    }
}

/// `mbarrier.expect_tx`, and `mbarrier.complete_tx` with `Inst::signed`. ext: address, bytes.
///
/// # Safety
/// `Inst::ext` is as said.
pub unsafe fn mbarrier_tx(w: &mut Warp, i: &Inst) {
    // Safety: the caller's.
    unsafe {
        let Some(all) = admitted(w, i, *i.ext, Action::Atomic, By::Thread) else { return };
        for_each(&all, |lane, rank, at| {
            if !known(w, lane, rank, at, "bytes of") {
                return false;
            }
            let bytes = *w.p(*i.ext.add(1)).add(lane) as i64;
            let env = block(w, rank);
            let mut barrier = read(env, at);
            barrier.tx += if i.signed { -bytes } else { bytes };
            if barrier.tx.abs() > MOST_BYTES {
                w.fail(LAUNCH_FAILED, lane as u32, format!("an mbarrier that expects {} bytes", barrier.tx));
                return false;
            }
            write(env, at, barrier);
            true
        });
    }
}

/// `mbarrier.pending_count`: arrivals that were pending in a state. r: d, state.
///
/// # Safety
/// `Inst::r` is as said.
pub unsafe fn mbarrier_pending_count(w: &mut Warp, i: &Inst) {
    // Safety: the caller's.
    unsafe {
        let states = *(w.p(i.r[1]) as *const [u64; 32]);
        w.put::<u32>(i.r[0], &states.map(|state| Mbarrier::of(state).pending as u32));
    }
}

/// `mbarrier.test_wait` and `mbarrier.try_wait`: whether the phase of a parity, or with `Inst::signed` that of a state, is complete.
/// ext: predicate, address, parity or state.
///
/// Lanes at `try_wait` whose phase is not complete are suspended until it is (PTX ISA: it is potentially blocking), so that it
/// counts once; a seed lets them go on without, as a chip's time limit does. `test_wait` (`Inst::neg`) never suspends.
///
/// # Safety
/// `Inst::ext` is as said.
pub unsafe fn mbarrier_wait(w: &mut Warp, i: &Inst) {
    // Safety: the caller's.
    unsafe {
        let Some(all) = admitted(w, i, *i.ext.add(1), Action::StrongRead, By::Thread) else { return };
        let asked = w.p(*i.ext.add(2));
        let (acquire, wide) = (i.order & ACQUIRE != 0, i.order & WIDE != 0);
        let mut done = 0u32;
        for_each(&all, |lane, rank, at| {
            if !known(w, lane, rank, at, "a wait for") {
                return false;
            }
            let phase = if i.signed { u64::at(asked, lane) >> 63 } else { (*asked.add(lane) & 1) as u64 };
            let thread = thread_of(w.index, lane);
            let env = w.env();
            if read(env, at).phase == phase && env.bulk.iter().any(|copy| copy.bar == at) {
                // it cannot do without what is under way
                super::land_bulk(env, Some(at));
            }
            if read(env, at).phase != phase {
                done |= 1 << lane;
                if let Some(guard) = &mut env.guard {
                    guard.mbarrier_waited(thread, at, acquire, wide);
                }
            }
            true
        });
        if w.fault.is_some() {
            return;
        }
        if done != 0 {
            w.env().spins = 0;
        } else if spins_for_ever(w) {
            let lane = w.mask.trailing_zeros();
            let barrier = read(w.env(), all.local[lane as usize]);
            let text = format!(
                "a wait for ever: an mbarrier in phase {} lacks {} arrivals of {} and {} bytes",
                barrier.phase, barrier.pending, barrier.expected, barrier.tx
            );
            return w.fail(LAUNCH_FAILED, lane, text);
        } else if !i.neg && !w.env().dice.loaded() {
            w.suspended = true;
            return;
        }
        w.put_pred(*i.ext, done);
    }
}
