//! Atomic operations.

use super::hopper::{Places, bytes, places};
use super::*;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Where the lanes' operands of an atomic operation are, once they have passed the door; `Inst::size` says how many bytes, and
/// `Inst::extends` that they are in shared memory.
unsafe fn admitted(w: &mut Warp, i: &Inst, bytes_of_one: u32) -> Option<[u64; 32]> {
    let r = unsafe { *i.ext.add(1) };
    if !i.extends {
        // Safety: the operand and the instruction are of the warp's kernel.
        let (a, lanes) = (unsafe { addresses64(w, i, r) }, w.mask);
        let access = Access::new(Space::Global, Action::Atomic, lanes, &a, bytes_of_one);
        return unsafe { admit(w, i, &access) }.then_some(a);
    }
    // Safety: as above, and the cluster is alive.
    unsafe {
        let a = addresses32(w, i, r);
        let all = places(w, &a)?;
        let admitted = all.parts.iter().all(|&(rank, lanes)| {
            let space = Places::space(w, rank);
            admit(w, i, &Access::new(space, Action::Atomic, lanes, &all.local, bytes_of_one))
        });
        admitted.then(|| bytes(w, &all).map(|at| at as u64))
    }
}

/// ext: d (or NONE), address, b, [c]
macro_rules! atom {
    ($t:ty, $atomic:ty, |$m:ident, $b:ident, $c:ident| $e:expr) => {{
        unsafe fn f(w: &mut Warp, i: &Inst) {
            unsafe {
                let Some(a) = admitted(w, i, size_of::<$t>() as u32) else { return };
                release(w, i, &a);
                let pb = w.p(*i.ext.add(2));
                let pc = w.p(if *i.ext.add(3) == NONE { *i.ext.add(2) } else { *i.ext.add(3) });
                let d = *i.ext;
                for l in 0..32 {
                    if w.mask >> l & 1 == 0 {
                        continue;
                    }
                    let $m = &*(a[l] as *const $atomic);
                    let $b = <$t as Lane>::at(pb, l);
                    let $c = <$t as Lane>::at(pc, l);
                    let old = $e;
                    if d != NONE {
                        <$t as Lane>::put(w.pm(d), l, old);
                    }
                }
                if d != NONE {
                    acquire(w, i, &a);
                }
            }
        }
        f as OpFn
    }};
}

/// Replaces the value of an atomic word by what `next` makes of it; gives the old one.
macro_rules! update {
    ($m:expr, $next:expr) => {
        $m.fetch_update(O, O, |x| Some($next(x))).unwrap_or_else(|x| x)
    };
}
const O: Ordering = Ordering::SeqCst;

/// What executes an atomic operation on a type (PTX ISA, "atom").
pub fn atomic(op: &str, t: &str) -> Option<OpFn> {
    Some(match (op, t) {
        ("add", "u32" | "s32") => atom!(u32, AtomicU32, |m, b, _c| m.fetch_add(b, O)),
        ("add", "u64") => atom!(u64, AtomicU64, |m, b, _c| m.fetch_add(b, O)),
        ("add", "f32") => {
            atom!(u32, AtomicU32, |m, b, _c| update!(m, |x| (f32::from_bits(x) + f32::from_bits(b)).to_bits()))
        }
        ("add", "f64") => {
            atom!(u64, AtomicU64, |m, b, _c| update!(m, |x| (f64::from_bits(x) + f64::from_bits(b)).to_bits()))
        }
        ("inc", "u32") => atom!(u32, AtomicU32, |m, b, _c| update!(m, |x| if x >= b { 0 } else { x + 1 })),
        ("dec", "u32") => atom!(u32, AtomicU32, |m, b, _c| update!(m, |x| if x == 0 || x > b { b } else { x - 1 })),
        ("max", "u32") => atom!(u32, AtomicU32, |m, b, _c| m.fetch_max(b, O)),
        ("min", "u32") => atom!(u32, AtomicU32, |m, b, _c| m.fetch_min(b, O)),
        ("max", "s32") => atom!(u32, AtomicU32, |m, b, _c| update!(m, |x| (x as i32).max(b as i32) as u32)),
        ("min", "s32") => atom!(u32, AtomicU32, |m, b, _c| update!(m, |x| (x as i32).min(b as i32) as u32)),
        ("max", "s64") => atom!(u64, AtomicU64, |m, b, _c| update!(m, |x| (x as i64).max(b as i64) as u64)),
        ("min", "s64") => atom!(u64, AtomicU64, |m, b, _c| update!(m, |x| (x as i64).min(b as i64) as u64)),
        ("max", "u64") => atom!(u64, AtomicU64, |m, b, _c| m.fetch_max(b, O)),
        ("min", "u64") => atom!(u64, AtomicU64, |m, b, _c| m.fetch_min(b, O)),
        ("or", "b32") => atom!(u32, AtomicU32, |m, b, _c| m.fetch_or(b, O)),
        ("xor", "b32") => atom!(u32, AtomicU32, |m, b, _c| m.fetch_xor(b, O)),
        ("or", "b64") => atom!(u64, AtomicU64, |m, b, _c| m.fetch_or(b, O)),
        ("and", "b64") => atom!(u64, AtomicU64, |m, b, _c| m.fetch_and(b, O)),
        ("xor", "b64") => atom!(u64, AtomicU64, |m, b, _c| m.fetch_xor(b, O)),
        ("and", "b32") => atom!(u32, AtomicU32, |m, b, _c| m.fetch_and(b, O)),
        ("exch", "b32") => atom!(u32, AtomicU32, |m, b, _c| m.swap(b, O)),
        ("exch", "b64") => atom!(u64, AtomicU64, |m, b, _c| m.swap(b, O)),
        ("cas", "b32") => atom!(u32, AtomicU32, |m, b, c| m.compare_exchange(b, c, O, O).unwrap_or_else(|x| x)),
        ("cas", "b64") => atom!(u64, AtomicU64, |m, b, c| m.compare_exchange(b, c, O, O).unwrap_or_else(|x| x)),
        _ => return None,
    })
}
