//! Loads and stores: element size in `Inst::size`, elements in `Inst::count`, registers in `Inst::ext`, the address last.

use super::*;
use std::sync::atomic::{AtomicU32, Ordering};

/// Base pointers of the destination or source registers of a memory instruction.
#[inline(always)]
unsafe fn element(p: *const u8, size: u8, signed: bool) -> u64 {
    unsafe {
        match (size, signed) {
            (1, false) => *p as u64,
            (1, true) => *p as i8 as u64,
            (2, false) => (p as *const u16).read_unaligned() as u64,
            (2, true) => (p as *const i16).read_unaligned() as u64,
            (4, _) => (p as *const u32).read_unaligned() as u64,
            _ => (p as *const u64).read_unaligned(),
        }
    }
}

unsafe fn extended(p: *const u8, size: u8, signed: bool) -> u64 {
    unsafe {
        let v = element(p, size, signed);
        if size == 4 && signed { v as u32 as i32 as i64 as u64 } else { v }
    }
}

#[inline(always)]
unsafe fn load_lanes<const N: usize>(w: &mut Warp, i: &Inst, at: impl Fn(usize) -> *const u8) {
    unsafe {
        let m = w.mask;
        let size = i.size;
        let regs: &[u32] = std::slice::from_raw_parts(i.ext, N);
        if i.extends {
            // registers of 64 bits although the element is smaller: extended
            for l in 0..32 {
                if m >> l & 1 != 0 {
                    for k in 0..N {
                        *(w.pm(regs[k]) as *mut u64).add(l) = extended(at(l).add(k * size as usize), size, i.signed);
                    }
                }
            }
            return;
        }
        match size {
            4 => {
                if m == FULL {
                    let mut t = [[0u32; N]; 32];
                    for l in 0..32 {
                        t[l] = (at(l) as *const [u32; N]).read_unaligned();
                    }
                    for k in 0..N {
                        let d = w.pm(regs[k]);
                        for l in 0..32 {
                            *d.add(l) = t[l][k];
                        }
                    }
                } else {
                    let mut t = m;
                    while t != 0 {
                        let l = t.trailing_zeros() as usize;
                        t &= t - 1;
                        let p = at(l) as *const u32;
                        for k in 0..N {
                            *w.pm(regs[k]).add(l) = p.add(k).read_unaligned();
                        }
                    }
                }
            }
            8 => {
                let mut t = m;
                while t != 0 {
                    let l = t.trailing_zeros() as usize;
                    t &= t - 1;
                    let p = at(l) as *const u64;
                    for k in 0..N {
                        *(w.pm(regs[k]) as *mut u64).add(l) = p.add(k).read_unaligned();
                    }
                }
            }
            2 => {
                let signed = i.signed;
                let mut t = m;
                while t != 0 {
                    let l = t.trailing_zeros() as usize;
                    t &= t - 1;
                    let p = at(l) as *const u16;
                    for k in 0..N {
                        let v = p.add(k).read_unaligned();
                        *w.pm(regs[k]).add(l) = if signed { v as i16 as u32 } else { v as u32 };
                    }
                }
            }
            _ => {
                let mut t = m;
                while t != 0 {
                    let l = t.trailing_zeros() as usize;
                    t &= t - 1;
                    let p = at(l);
                    for k in 0..N {
                        *w.pm(regs[k]).add(l) = element(p.add(k), 1, i.signed) as u32;
                    }
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn store_lanes<const N: usize>(w: &mut Warp, i: &Inst, at: impl Fn(usize) -> *mut u8) {
    unsafe {
        let regs: &[u32] = std::slice::from_raw_parts(i.ext, N);
        let mut p: [*const u32; N] = [std::ptr::null(); N];
        for k in 0..N {
            p[k] = w.p(regs[k]);
        }
        let mut t = w.mask;
        macro_rules! each {
            ($t:ty, $s:ty) => {
                while t != 0 {
                    let l = t.trailing_zeros() as usize;
                    t &= t - 1;
                    let d = at(l) as *mut $t;
                    for k in 0..N {
                        d.add(k).write_unaligned(*(p[k] as *const $s).add(l) as $t);
                    }
                }
            };
        }
        match i.size {
            4 if i.extends => each!(u32, u64),
            2 if i.extends => each!(u16, u64),
            1 if i.extends => each!(u8, u64),
            4 => each!(u32, u32),
            8 => each!(u64, u64),
            2 => each!(u16, u32),
            _ => each!(u8, u32),
        }
    }
}

/// What a lane stores: its `N` elements.
#[inline(always)]
unsafe fn stored<const N: usize>(w: &Warp, i: &Inst, lane: usize) -> [u8; 16] {
    unsafe {
        let mut bytes = [0u8; 16];
        let size = i.size as usize;
        for k in 0..N {
            let p = w.p(*i.ext.add(k));
            let value = if size == 8 || i.extends { *(p as *const u64).add(lane) } else { *p.add(lane) as u64 };
            bytes[k * size..(k + 1) * size].copy_from_slice(&value.to_le_bytes()[..size]);
        }
        bytes
    }
}

/// Lets a load pass the door.
#[inline(always)]
unsafe fn admit_load<const N: usize, A: Address>(w: &mut Warp, i: &Inst, space: Space, a: &[A; 32]) -> bool {
    let access = Access::new(space, Action::Read, w.mask, a, i.size as u32 * N as u32);
    unsafe { admit(w, i, &Access { used: i.target, ..access }) }
}
/// Lets a store pass the door.
#[inline(always)]
unsafe fn admit_store<const N: usize, A: Address>(w: &mut Warp, i: &Inst, space: Space, a: &[A; 32]) -> bool {
    let access = Access::new(space, Action::Write, w.mask, a, i.size as u32 * N as u32);
    let view: *const Warp = w;
    // Safety: the sanitizer reads registers while the warp is at this instruction.
    let data = |lane| unsafe { stored::<N>(&*view, i, lane) };
    unsafe { admit(w, i, &Access { data: Some(&data), ..access }) }
}

/// `ld.global`: element size in `Inst::size`, registers in `Inst::ext`, the address last, the bytes that are used in `target`.
pub unsafe fn ld_global<const N: usize>(w: &mut Warp, i: &Inst) {
    unsafe {
        let a = addresses64(w, i, *i.ext.add(N));
        if admit_load::<N, _>(w, i, Space::Global, &a) {
            load_lanes::<N>(w, i, |l| a[l] as *const u8);
        }
    }
}
pub unsafe fn st_global<const N: usize>(w: &mut Warp, i: &Inst) {
    unsafe {
        let a = addresses64(w, i, *i.ext.add(N));
        if admit_store::<N, _>(w, i, Space::Global, &a) {
            store_lanes::<N>(w, i, |l| a[l] as *mut u8);
        }
    }
}
/// A strong load of 32 bits: `ld.acquire`, `ld.relaxed` or `ld.volatile`; `Inst::order` has the semantics.
pub unsafe fn ld_strong(w: &mut Warp, i: &Inst) {
    unsafe {
        let a = addresses64(w, i, *i.ext.add(1));
        if !admit(w, i, &Access::new(Space::Global, Action::StrongRead, w.mask, &a, 4)) {
            return;
        }
        for l in (0..32).filter(|l| w.mask >> l & 1 != 0) {
            *w.pm(*i.ext).add(l) = (*(a[l] as *const AtomicU32)).load(Ordering::Acquire);
        }
        acquire(w, i, &a);
    }
}
/// A strong store of 32 bits: `st.release`, `st.relaxed` or `st.volatile`.
pub unsafe fn st_strong(w: &mut Warp, i: &Inst) {
    unsafe {
        let a = addresses64(w, i, *i.ext.add(1));
        if !admit(w, i, &Access::new(Space::Global, Action::StrongWrite, w.mask, &a, 4)) {
            return;
        }
        release(w, i, &a);
        let values = w.p(*i.ext);
        for l in (0..32).filter(|l| w.mask >> l & 1 != 0) {
            (*(a[l] as *const AtomicU32)).store(*values.add(l), Ordering::Release);
        }
    }
}
/// Tells the sanitizer, before an atomic write, what it releases.
#[inline(always)]
pub unsafe fn release(w: &mut Warp, i: &Inst, a: &[u64; 32]) {
    let (mask, warp) = (w.mask, w.index as usize);
    if let Some(guard) = &mut w.env().guard {
        for lane in (0..32).filter(|lane| mask >> lane & 1 != 0) {
            guard.releases(32 * warp + lane, a[lane], i.order & RELEASE != 0);
        }
    }
}
/// Tells the sanitizer, after an atomic read, what it acquires.
#[inline(always)]
pub unsafe fn acquire(w: &mut Warp, i: &Inst, a: &[u64; 32]) {
    let (mask, warp) = (w.mask, w.index as usize);
    if let Some(guard) = &mut w.env().guard {
        for lane in (0..32).filter(|lane| mask >> lane & 1 != 0) {
            guard.acquires(32 * warp + lane, a[lane], i.order & ACQUIRE != 0);
        }
    }
}
/// `fence` and `membar`, which order accesses of device scope.
pub unsafe fn fence(w: &mut Warp, _: &Inst) {
    let (mask, warp) = (w.mask, w.index);
    if let Some(guard) = &mut w.env().guard {
        guard.fence(warp, mask);
    }
}
/// `fence.proxy.async`, and `fence.mbarrier_init`, which does as much for mbarriers.
pub unsafe fn fence_proxy(w: &mut Warp, _: &Inst) {
    let (mask, warp) = (w.mask, w.index);
    if let Some(guard) = &mut w.env().guard {
        guard.fence_proxy(warp, mask);
    }
}
/// `bar.warp.sync`: the scheduler has gathered the lanes; ext[5] has their masks.
pub unsafe fn warp_sync(w: &mut Warp, i: &Inst) {
    unsafe {
        let masks = w.p(*i.ext.add(5));
        let (warp, mut left) = (w.index, w.mask);
        while left != 0 {
            let lanes = *masks.add(left.trailing_zeros() as usize) & w.mask;
            if let Some(guard) = &mut (*w.env).guard {
                guard.warp_barrier(warp, lanes);
            }
            left &= !(lanes | 1 << left.trailing_zeros());
        }
    }
}
pub unsafe fn ld_shared<const N: usize>(w: &mut Warp, i: &Inst) {
    unsafe {
        let a = addresses32(w, i, *i.ext.add(N));
        if admit_load::<N, _>(w, i, Space::Shared, &a) {
            // what is not used may lie before or behind
            let (base, last) = ((*w.env).shared.as_ptr(), (*w.env).shared.len() - 16);
            load_lanes::<N>(w, i, |l| base.add((a[l].wrapping_sub(SHARED_BASE) as usize).min(last)));
        }
    }
}
pub unsafe fn st_shared<const N: usize>(w: &mut Warp, i: &Inst) {
    unsafe {
        let a = addresses32(w, i, *i.ext.add(N));
        if admit_store::<N, _>(w, i, Space::Shared, &a) {
            let base = (*w.env).shared.as_mut_ptr();
            store_lanes::<N>(w, i, |l| base.add((a[l] - SHARED_BASE) as usize));
        }
    }
}
pub unsafe fn ld_param<const N: usize>(w: &mut Warp, i: &Inst) {
    unsafe {
        let a = addresses64(w, i, *i.ext.add(N));
        if admit_load::<N, _>(w, i, Space::Param, &a) {
            // what lies behind the parameters and is not used may be read: 16 bytes more are kept there
            let (base, last) = ((*w.env).params, (*w.env).params_bytes);
            load_lanes::<N>(w, i, |l| base.add((a[l] as usize).min(last)));
        }
    }
}
/// A parameter at a known offset: the same in all lanes.
pub unsafe fn ld_param_const<const N: usize>(w: &mut Warp, i: &Inst) {
    unsafe {
        let p = (*w.env).params.add(i.imm as usize);
        for k in 0..N {
            let v = element(p.add(k * i.size as usize), i.size, i.signed);
            if i.extends {
                let v = extended(p.add(k * i.size as usize), i.size, i.signed);
                w.put::<u64>(*i.ext.add(k), &[v; 32]);
            } else if i.size == 8 {
                w.put::<u64>(*i.ext.add(k), &[v; 32]);
            } else {
                w.put::<u32>(*i.ext.add(k), &[v as u32; 32]);
            }
        }
    }
}
pub unsafe fn ld_local<const N: usize>(w: &mut Warp, i: &Inst) {
    unsafe {
        let a = addresses64(w, i, *i.ext.add(N));
        if admit_load::<N, _>(w, i, Space::Local, &a) {
            let n = w.local_bytes;
            let base = w.local.as_ptr();
            load_lanes::<N>(w, i, |l| base.add(l * n + (a[l] as usize).min(n)));
        }
    }
}
pub unsafe fn st_local<const N: usize>(w: &mut Warp, i: &Inst) {
    unsafe {
        let a = addresses64(w, i, *i.ext.add(N));
        if admit_store::<N, _>(w, i, Space::Local, &a) {
            let n = w.local_bytes;
            let base = w.local.as_mut_ptr();
            store_lanes::<N>(w, i, |l| base.add(l * n + a[l] as usize));
        }
    }
}
