//! Atomic operations.

use super::*;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// ext: d (or NONE), address, b, [c]
macro_rules! atom {
    ($t:ty, $atomic:ty, |$m:ident, $b:ident, $c:ident| $e:expr) => {{
        unsafe fn f(w: &mut Warp, i: &Inst) {
            unsafe {
                let a = addresses64(w, i, *i.ext.add(1));
                let bytes = size_of::<$t>() as u32;
                if !admit(w, i, &Access::new(Space::Global, Action::Atomic, w.mask, &a, bytes)) {
                    return;
                }
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
pub fn atomic(op: &str, t: &str) -> Option<OpFn> {
    const O: Ordering = Ordering::SeqCst;
    Some(match (op, t) {
        ("add", "u32" | "s32") => atom!(u32, AtomicU32, |m, b, _c| m.fetch_add(b, O)),
        ("add", "u64") => atom!(u64, AtomicU64, |m, b, _c| m.fetch_add(b, O)),
        ("add", "f32") => atom!(u32, AtomicU32, |m, b, _c| m
            .fetch_update(O, O, |x| Some((f32::from_bits(x) + f32::from_bits(b)).to_bits()))
            .unwrap()),
        ("max", "u32") => atom!(u32, AtomicU32, |m, b, _c| m.fetch_max(b, O)),
        ("min", "u32") => atom!(u32, AtomicU32, |m, b, _c| m.fetch_min(b, O)),
        ("max", "s32") => {
            atom!(u32, AtomicU32, |m, b, _c| m.fetch_update(O, O, |x| Some((x as i32).max(b as i32) as u32)).unwrap())
        }
        ("max", "u64") => atom!(u64, AtomicU64, |m, b, _c| m.fetch_max(b, O)),
        ("min", "u64") => atom!(u64, AtomicU64, |m, b, _c| m.fetch_min(b, O)),
        ("or", "b32") => atom!(u32, AtomicU32, |m, b, _c| m.fetch_or(b, O)),
        ("and", "b32") => atom!(u32, AtomicU32, |m, b, _c| m.fetch_and(b, O)),
        ("exch", "b32") => atom!(u32, AtomicU32, |m, b, _c| m.swap(b, O)),
        ("exch", "b64") => atom!(u64, AtomicU64, |m, b, _c| m.swap(b, O)),
        ("cas", "b32") => atom!(u32, AtomicU32, |m, b, c| m.compare_exchange(b, c, O, O).unwrap_or_else(|x| x)),
        ("cas", "b64") => atom!(u64, AtomicU64, |m, b, c| m.compare_exchange(b, c, O, O).unwrap_or_else(|x| x)),
        _ => return None,
    })
}
