//! Named barriers of a block (PTX ISA, "bar" and "barrier"): warps that come and wait, or come and go on, until as many threads as
//! the barrier says have come; and what the threads' predicates reduce to.

use super::*;
use crate::sanitize::Known;

/// Barriers of a block.
pub const BARRIERS: usize = 16;

/// What a warp does at a barrier, in `Inst::imm`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i64)]
pub enum Purpose {
    /// `bar.sync`.
    Wait,
    /// `bar.arrive`: the warp does not wait.
    Arrive,
    /// `bar.red.popc`, `.and` and `.or`.
    Count,
    All,
    Any,
}

impl Purpose {
    fn from_number(number: i64) -> Purpose {
        [Purpose::Wait, Purpose::Arrive, Purpose::Count, Purpose::All, Purpose::Any][number as usize]
    }
    pub fn reduces(self) -> bool {
        matches!(self, Purpose::Count | Purpose::All | Purpose::Any)
    }
}

/// A warp at a barrier.
#[derive(Clone, Copy)]
pub struct Comer {
    pub warp: u32,
    pub pc: u32,
    pub live: u32,
    pub path: u64,
    pub waits: bool,
}

/// A barrier and who has come to it.
#[derive(Default)]
pub struct Barrier {
    pub comers: Vec<Comer>,
    /// Warps it expects; 0: all of the block that have not ended.
    pub expected: u32,
    reduces: bool,
    /// Threads whose predicate holds, and all that have come.
    yes: u32,
    threads: u32,
    /// What those released who do not wait.
    pub released: Option<Known>,
}

impl Barrier {
    /// What the threads' predicates come to.
    fn result(&self, purpose: Purpose) -> u32 {
        match purpose {
            Purpose::Count => self.yes,
            Purpose::All => (self.yes == self.threads) as u32,
            _ => (self.yes > 0) as u32,
        }
    }
}

/// A barrier of `env` ends: whoever comes now comes to the next phase.
pub fn complete(env: &mut BlockEnv, id: usize) {
    let mut barrier = std::mem::take(&mut env.barriers[id]);
    barrier.released = env.guard.as_mut().and_then(|guard| guard.barrier_complete(id as u32));
    env.met.push(barrier);
}

/// Brings a warp, whose live lanes are at the instruction, to a barrier; true if it goes on at once. r: number, threads or NONE,
/// what a reduction writes, its predicate; imm: the `Purpose`; `signed`: the predicate is negated.
///
/// # Safety
/// `Inst::r` is as said.
pub unsafe fn come(w: &mut Warp, i: &Inst) -> bool {
    let lane = w.mask.trailing_zeros() as usize;
    // Safety: the caller's.
    let word = |w: &Warp, r: u32| unsafe { *w.p(r).add(lane) };
    let purpose = Purpose::from_number(i.imm);
    let (id, threads) = (word(w, i.r[0]) as usize, if i.r[1] == NONE { 0 } else { word(w, i.r[1]) });
    if id >= BARRIERS {
        w.fail(LAUNCH_FAILED, lane as u32, format!("there is no barrier {id}: a block has {BARRIERS}"));
        return false;
    }
    let counted = i.r[1] != NONE;
    if counted && (!threads.is_multiple_of(32) || threads == 0) {
        w.fail(LAUNCH_FAILED, lane as u32, format!("a barrier of {threads} threads, which are no whole warps"));
        return false;
    }
    let (warp, live, path) = (w.index, w.mask, w.path);
    let pc = unsafe { number_of(w, i) };
    let yes = if purpose.reduces() { w.pred(i.r[3]) ^ if i.signed { FULL } else { 0 } } else { 0 };
    let env = w.env();
    let barrier = &mut env.barriers[id];
    let first = barrier.comers.is_empty();
    let problem = if !first && barrier.reduces != purpose.reduces() {
        Some(format!("barrier {id} is used by a reduction and by another instruction at a time"))
    } else if !first && barrier.expected != threads / 32 {
        Some(format!("barrier {id} of {threads} threads, where others of {} (0: all) wait", 32 * barrier.expected))
    } else {
        None
    };
    if let Some(text) = problem {
        w.fail(LAUNCH_FAILED, lane as u32, text);
        return false;
    }
    barrier.reduces = purpose.reduces();
    barrier.expected = threads / 32;
    barrier.yes += (yes & live).count_ones();
    barrier.threads += live.count_ones();
    let waits = purpose != Purpose::Arrive;
    barrier.comers.push(Comer { warp, pc, live, path, waits });
    let complete_now = counted && barrier.comers.len() >= barrier.expected as usize;
    if !waits && let Some(guard) = &mut env.guard {
        guard.barrier_arrive(id as u32, warp, live);
    }
    if complete_now {
        complete(env, id);
    }
    w.state = if waits { State::AtBarrier(id as u32) } else { State::Ready };
    !waits
}

/// Writes the result of a reduction of a warp that a barrier lets go on.
///
/// # Safety
/// `i` is the instruction at which the warp waits, and its mask holds the live lanes.
pub unsafe fn write_result(w: &mut Warp, i: &Inst, barrier: &Barrier) {
    let purpose = Purpose::from_number(i.imm);
    let result = barrier.result(purpose);
    match purpose {
        Purpose::Wait | Purpose::Arrive => {}
        // Safety: the caller's.
        Purpose::Count => unsafe { w.put::<u32>(i.r[2], &[result; 32]) },
        Purpose::All | Purpose::Any => w.put_pred(i.r[2], 0u32.wrapping_sub(result)),
    }
}
