//! Bulk copies into shared memory that end at an mbarrier (PTX ISA, "cp.async.bulk"): from global memory, or from the block's own
//! shared memory into that of another block of its cluster.

use super::cluster::{Places, block, places};
use super::mbarrier::{read, write};
use crate::warp::*;

/// A copy under way, kept by the block that has its mbarrier.
pub struct Bulk {
    /// Where it goes in the block's shared memory.
    pub dst: u32,
    pub src: *const u8,
    pub bytes: u32,
    pub bar: u32,
    /// Its instruction.
    pub pc: u32,
}

/// Carries out the copies that end at an mbarrier of the block, or all of its copies.
///
/// # Safety
/// The block and what the copies read are alive.
pub unsafe fn land_bulk(env: &mut BlockEnv, bar: Option<u32>) {
    let (now, later): (Vec<Bulk>, Vec<Bulk>) =
        std::mem::take(&mut env.bulk).into_iter().partition(|copy| bar.is_none_or(|bar| copy.bar == bar));
    env.bulk = later;
    for copy in now {
        // Safety: source, destination and mbarrier were admitted.
        unsafe {
            let to = env.shared.as_mut_ptr().add((copy.dst - SHARED_BASE) as usize);
            std::ptr::copy(copy.src, to, copy.bytes as usize);
            let mut barrier = read(env, copy.bar);
            barrier.tx -= copy.bytes as i64;
            write(env, copy.bar, barrier);
        }
    }
}

/// What one lane asks for.
#[derive(Clone, Copy)]
struct Asked {
    lane: usize,
    /// The block that receives it and has the mbarrier.
    rank: u32,
    dst: u32,
    src: u64,
    bytes: u32,
    bar: u32,
    pc: u32,
}

/// Where a copy comes from, in `Inst::extends`: shared memory, or global memory.
fn source(i: &Inst) -> Space {
    if i.extends { Space::Shared } else { Space::Global }
}

/// Lets a copy pass the door: its mbarrier, what it will read and what it will write.
unsafe fn admit_bulk(w: &mut Warp, i: &Inst, copy: &Asked) -> bool {
    let (lanes, by) = (1 << copy.lane, By::Bulk { barrier: copy.bar, rank: copy.rank });
    let (from, to, barrier) = ([copy.src; 32], [copy.dst; 32], [copy.bar; 32]);
    let target = Places::space(w, copy.rank);
    let read = Access { by, align: 16, ..Access::new(source(i), Action::Read, lanes, &from, copy.bytes) };
    let write = Access { by, align: 16, ..Access::new(target, Action::Write, lanes, &to, copy.bytes) };
    // Safety: the instruction is of the warp's kernel.
    unsafe {
        let named = admit(w, i, &Access::new(target, Action::Atomic, lanes, &barrier, 8));
        let thread = 32 * w.index as usize + copy.lane;
        if let Some(guard) = &mut w.env().guard {
            guard.mbarrier_named(thread, copy.rank, copy.bar, copy.pc);
        }
        named && admit(w, i, &read) && admit(w, i, &write)
    }
}

/// `cp.async.bulk`. ext: destination, source (32 bits wide where `Inst::extends`), bytes, mbarrier, and of a multicast the mask of
/// ranks, else NONE.
///
/// # Safety
/// `Inst::ext` is as said.
pub unsafe fn bulk_copy(w: &mut Warp, i: &Inst) {
    // Safety: the caller's.
    unsafe {
        let [to, from, bytes, barrier, ranks] = *(i.ext as *const [u32; 5]);
        let [to, barrier] = [to, barrier].map(|r| *(w.p(r) as *const [u32; 32]));
        let (Some(to), Some(barrier)) = (places(w, &to), places(w, &barrier)) else { return };
        let rank_of =
            |all: &Places, lane: usize| all.parts.iter().find(|part| part.1 >> lane & 1 != 0).map(|part| part.0);
        let mask = w.mask;
        for lane in (0..32).filter(|lane| mask >> lane & 1 != 0) {
            let src = if i.extends { *w.p(from).add(lane) as u64 } else { u64::at(w.p(from), lane) };
            let rank = rank_of(&to, lane).unwrap_or(0);
            let bytes = *w.p(bytes).add(lane);
            let (dst, bar, pc) = (to.local[lane], barrier.local[lane], number_of(w, i));
            let receivers = if ranks == NONE { 1 << rank } else { *w.p(ranks).add(lane) & 0xffff };
            let problem = if bytes == 0 || !bytes.is_multiple_of(16) {
                Some(format!("a bulk copy of {bytes} bytes"))
            } else if rank_of(&barrier, lane) != Some(rank) {
                Some("a bulk copy whose mbarrier is in another block than its destination".into())
            } else if receivers >> w.env().peers.count() != 0 {
                Some(format!("a bulk copy to the ranks {receivers:#x} of a cluster of {}", w.env().peers.count()))
            } else {
                None
            };
            if let Some(text) = problem {
                return w.fail(MISALIGNED, lane as u32, text);
            }
            for rank in (0..16).filter(|rank| receivers >> rank & 1 != 0) {
                if !begin(w, i, Asked { lane, rank, dst, src, bytes, bar, pc }) {
                    return;
                }
            }
        }
    }
}

/// Puts a copy among those of the block that receives it.
unsafe fn begin(w: &mut Warp, i: &Inst, copy: Asked) -> bool {
    // Safety: as of every instruction; the rank is one of the cluster's.
    unsafe {
        if !admit_bulk(w, i, &copy) {
            return false;
        }
        let src = match source(i) {
            Space::Shared => w.env().shared.as_ptr().add((copy.src as u32 - SHARED_BASE) as usize),
            _ => copy.src as *const u8,
        };
        let now = w.env().dice.one_in(3);
        let env = block(w, copy.rank);
        env.bulk.push(Bulk { dst: copy.dst, src, bytes: copy.bytes, bar: copy.bar, pc: copy.pc });
        env.spins = 0;
        if now {
            land_bulk(env, None);
        }
        true
    }
}
