//! Barriers in shared memory that count arrivals and bytes.

use super::*;
use crate::warp::*;

// mbarrier: bits 0-19 arrivals pending, 20-39 expected, 40-62 bytes + 2^21, 63 phase
#[derive(Clone, Copy)]
pub struct Bar {
    pub pending: u64,
    pub expected: u64,
    pub tx: i64,
    pub phase: u64,
}
pub unsafe fn read(env: &BlockEnv, at: u32) -> Bar {
    let v = unsafe { (env.shared.as_ptr().add((at - SHARED_BASE) as usize) as *const u64).read_unaligned() };
    Bar {
        pending: v & 0xfffff,
        expected: v >> 20 & 0xfffff,
        tx: (v >> 40 & 0x7f_ffff) as i64 - (1 << 21),
        phase: v >> 63,
    }
}
pub unsafe fn write(env: &mut BlockEnv, at: u32, mut b: Bar) {
    if b.pending == 0 && b.tx == 0 {
        b.phase ^= 1;
        b.pending = b.expected;
        if let Some(guard) = &mut env.guard {
            guard.mbarrier_complete(at);
            for copy in env.bulk.iter().filter(|copy| copy.bar == at) {
                guard.not_expected(copy.pc);
            }
        }
    }
    env.spins = 0;
    let v = b.pending | b.expected << 20 | ((b.tx + (1 << 21)) as u64) << 40 | b.phase << 63;
    unsafe { (env.shared.as_mut_ptr().add((at - SHARED_BASE) as usize) as *mut u64).write_unaligned(v) }
}

/// The addresses of mbarriers, once they have passed the door.
unsafe fn bars(w: &mut Warp, i: &Inst, r: u32, action: Action) -> Option<[u32; 32]> {
    unsafe {
        let a = addresses32(w, i, r);
        admit(w, i, &Access::new(Space::Shared, action, w.mask, &a, 8)).then_some(a)
    }
}
fn thread_of(warp: u32, lane: usize) -> usize {
    32 * warp as usize + lane
}
/// ext: address, count
pub unsafe fn mbarrier_init(w: &mut Warp, i: &Inst) {
    unsafe {
        let Some(a) = bars(w, i, *i.ext, Action::StrongWrite) else { return };
        let n = w.p(*i.ext.add(1));
        for l in 0..32 {
            if w.mask >> l & 1 != 0 {
                let count = *n.add(l) as u64;
                if count == 0 || count > 0xfffff {
                    w.fail(LAUNCH_FAILED, l as u32, format!("mbarrier.init with a count of {count}"));
                    return;
                }
                let env = &mut *w.env;
                let v = count | count << 20 | (1u64 << 21) << 40;
                (env.shared.as_mut_ptr().add((a[l] - SHARED_BASE) as usize) as *mut u64).write_unaligned(v);
                if !env.bars.contains(&a[l]) {
                    env.bars.push(a[l]);
                }
                if let Some(guard) = &mut env.guard {
                    guard.mbarrier_init(thread_of(w.index, l), a[l], number_of(w, i));
                }
            }
        }
    }
}
/// ext: address, bytes (or NONE)
pub unsafe fn mbarrier_arrive(w: &mut Warp, i: &Inst) {
    unsafe {
        let Some(a) = bars(w, i, *i.ext, Action::Atomic) else { return };
        let n = *i.ext.add(1);
        for l in 0..32 {
            if w.mask >> l & 1 != 0 {
                let env = &mut *w.env;
                let mut b = read(env, a[l]);
                if !env.bars.contains(&a[l]) {
                    w.fail(LAUNCH_FAILED, l as u32, "an arrival at an mbarrier that was not initialised".into());
                    return;
                }
                if n != NONE {
                    b.tx += *w.p(n).add(l) as i64;
                }
                if b.pending == 0 {
                    w.fail(LAUNCH_FAILED, l as u32, "more arrivals at an mbarrier than it expects".into());
                    return;
                }
                b.pending -= 1;
                if let Some(guard) = &mut env.guard {
                    guard.mbarrier_arrive(thread_of(w.index, l), a[l]);
                }
                write(env, a[l], b);
            }
        }
    }
}
/// ext: predicate, address, parity
pub unsafe fn mbarrier_try_wait(w: &mut Warp, i: &Inst) {
    unsafe {
        let Some(a) = bars(w, i, *i.ext.add(1), Action::StrongRead) else { return };
        let p = w.p(*i.ext.add(2));
        let mut done = 0u32;
        for l in 0..32 {
            if w.mask >> l & 1 == 0 {
                continue;
            }
            let env = &mut *w.env;
            if !env.bars.contains(&a[l]) {
                w.fail(LAUNCH_FAILED, l as u32, "a wait for an mbarrier that was not initialised".into());
                return;
            }
            let parity = (*p.add(l) & 1) as u64;
            if read(env, a[l]).phase == parity && env.bulk.iter().any(|c| c.bar == a[l]) {
                // it cannot do without what is under way
                land_bulk(env, Some(a[l]));
            }
            if read(env, a[l]).phase != parity {
                done |= 1 << l;
                if let Some(guard) = &mut (*w.env).guard {
                    guard.mbarrier_waited(thread_of(w.index, l), a[l]);
                }
            }
        }
        let env = &mut *w.env;
        if done == 0 {
            env.spins += 1;
            if env.spins > 300_000 {
                let b = read(env, a[w.mask.trailing_zeros() as usize]);
                w.fail(
                    LAUNCH_FAILED,
                    w.mask.trailing_zeros(),
                    format!(
                        "a wait for ever: an mbarrier in phase {} lacks {} arrivals of {} and {} bytes",
                        b.phase, b.pending, b.expected, b.tx
                    ),
                );
                return;
            }
        } else {
            env.spins = 0;
        }
        w.put_pred(*i.ext, done);
    }
}
