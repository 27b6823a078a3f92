//! Bulk copies from global into shared memory that end at an mbarrier.

use super::*;
use crate::warp::*;

pub struct Bulk {
    pub dst: u32,
    pub src: u64,
    pub bytes: u32,
    pub bar: u32,
    /// Its instruction.
    pub pc: u32,
}

pub unsafe fn land_bulk(env: &mut BlockEnv, bar: Option<u32>) {
    unsafe {
        let (now, later): (Vec<Bulk>, Vec<Bulk>) =
            std::mem::take(&mut env.bulk).into_iter().partition(|c| bar.is_none_or(|b| c.bar == b));
        env.bulk = later;
        for c in now {
            std::ptr::copy_nonoverlapping(
                c.src as *const u8,
                env.shared.as_mut_ptr().add((c.dst - SHARED_BASE) as usize),
                c.bytes as usize,
            );
            let mut b = read(env, c.bar);
            b.tx -= c.bytes as i64;
            write(env, c.bar, b);
        }
    }
}
/// Lets a bulk copy of one lane pass the door: its mbarrier, what it will read and what it will write.
unsafe fn admit_bulk(w: &mut Warp, i: &Inst, lane: usize, c: &Bulk) -> bool {
    let (lanes, by) = (1 << lane, By::Bulk { barrier: c.bar });
    let (from, to, barrier) = ([c.src; 32], [c.dst; 32], [c.bar; 32]);
    let read = Access { by, align: 16, ..Access::new(Space::Global, Action::Read, lanes, &from, c.bytes) };
    let write = Access { by, align: 16, ..Access::new(Space::Shared, Action::Write, lanes, &to, c.bytes) };
    unsafe {
        let named = admit(w, i, &Access::new(Space::Shared, Action::Atomic, lanes, &barrier, 8));
        let thread = 32 * w.index as usize + lane;
        if let Some(guard) = &mut (*w.env).guard {
            guard.mbarrier_named(thread, c.bar, c.pc);
        }
        named && admit(w, i, &read) && admit(w, i, &write)
    }
}
/// ext: dst, src, bytes, mbarrier
pub unsafe fn bulk_copy(w: &mut Warp, i: &Inst) {
    unsafe {
        let e = std::slice::from_raw_parts(i.ext, 4);
        let (d, s, n, b) = (w.p(e[0]), w.p(e[1]), w.p(e[2]), w.p(e[3]));
        let mask = w.mask;
        for l in 0..32 {
            if mask >> l & 1 == 0 {
                continue;
            }
            let pc = number_of(w, i);
            let c = Bulk { dst: *d.add(l), src: u64::at(s, l), bytes: *n.add(l), bar: *b.add(l), pc };
            if !c.bytes.is_multiple_of(16) || c.bytes == 0 {
                w.fail(MISALIGNED, l as u32, format!("a bulk copy of {} bytes", c.bytes));
                return;
            }
            if !admit_bulk(w, i, l, &c) {
                return;
            }
            let env = &mut *w.env;
            env.bulk.push(c);
            env.spins = 0;
            if env.dice.one_in(3) {
                land_bulk(env, None);
            }
        }
    }
}
