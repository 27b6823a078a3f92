//! Loads and stores: element size in `Inst::size`, elements in `Inst::count`, registers in `Inst::ext`, the address last.

use super::hopper::{Places, bytes, places};
use super::*;
use std::sync::atomic::{AtomicU32, Ordering};

/// Calls `each` with every lane of a mask.
#[inline(always)]
fn each_lane(mask: u32, mut each: impl FnMut(usize)) {
    let mut left = mask;
    while left != 0 {
        each(left.trailing_zeros() as usize);
        left &= left - 1;
    }
}

/// Loads `N` elements a lane from where `at` says.
///
/// # Safety
/// `Inst::ext` has `N` registers as wide as the elements are loaded, and the lanes of the warp may read at their places.
#[inline(always)]
unsafe fn load_lanes<const N: usize>(w: &mut Warp, i: &Inst, at: impl Fn(usize) -> *const u8) {
    // Safety: the caller's.
    let registers: [*mut u32; N] = std::array::from_fn(|k| unsafe { w.pm(*i.ext.add(k)) });
    macro_rules! each {
        ($element:ty, $register:ty, |$value:ident| $extended:expr) => {
            each_lane(w.mask, |lane| {
                // Safety: the caller's.
                unsafe {
                    let elements = at(lane) as *const $element;
                    for k in 0..N {
                        let $value = elements.add(k).read_unaligned();
                        *(registers[k] as *mut $register).add(lane) = $extended;
                    }
                }
            })
        };
    }
    match (i.size, i.extends, i.signed) {
        (4, false, _) if w.mask == FULL => {
            // All lanes first, then register by register: the writes become vectors.
            // Safety: the caller's.
            unsafe {
                let elements: [[u32; N]; 32] =
                    std::array::from_fn(|lane| (at(lane) as *const [u32; N]).read_unaligned());
                for k in 0..N {
                    *(registers[k] as *mut [u32; 32]) = elements.map(|of_lane| of_lane[k]);
                }
            }
        }
        (4, false, _) => each!(u32, u32, |x| x),
        (8, ..) => each!(u64, u64, |x| x),
        (2, false, false) => each!(u16, u32, |x| x as u32),
        (2, false, true) => each!(i16, u32, |x| x as u32),
        (1, false, false) => each!(u8, u32, |x| x as u32),
        (1, false, true) => each!(i8, u32, |x| x as u32),
        (4, true, false) => each!(u32, u64, |x| x as u64),
        (4, true, true) => each!(i32, u64, |x| x as u64),
        (2, true, false) => each!(u16, u64, |x| x as u64),
        (2, true, true) => each!(i16, u64, |x| x as u64),
        (_, true, false) => each!(u8, u64, |x| x as u64),
        (_, true, true) => each!(i8, u64, |x| x as u64),
        _ => unreachable!("elements have 1, 2, 4 or 8 bytes"),
    }
}

/// Stores `N` elements a lane to where `at` says.
///
/// # Safety
/// `Inst::ext` has `N` registers, and the lanes of the warp may write at their places.
#[inline(always)]
unsafe fn store_lanes<const N: usize>(w: &mut Warp, i: &Inst, at: impl Fn(usize) -> *mut u8) {
    unsafe {
        let regs: &[u32] = std::slice::from_raw_parts(i.ext, N);
        let mut p: [*const u32; N] = [std::ptr::null(); N];
        for k in 0..N {
            p[k] = w.p(regs[k]);
        }
        let mask = w.mask;
        macro_rules! each {
            ($t:ty, $s:ty) => {
                each_lane(mask, |l| {
                    let d = at(l) as *mut $t;
                    for k in 0..N {
                        d.add(k).write_unaligned(*(p[k] as *const $s).add(l) as $t);
                    }
                })
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
///
/// # Safety
/// `i` is an instruction of the kernel of `w`, whose block is alive.
pub unsafe fn ld_global<const N: usize>(w: &mut Warp, i: &Inst) {
    unsafe {
        let a = addresses64(w, i, *i.ext.add(N));
        if admit_load::<N, _>(w, i, Space::Global, &a) {
            load_lanes::<N>(w, i, |l| a[l] as *const u8);
        }
    }
}
/// `st.global`.
///
/// # Safety
/// `i` is an instruction of the kernel of `w`, whose block is alive.
pub unsafe fn st_global<const N: usize>(w: &mut Warp, i: &Inst) {
    unsafe {
        let a = addresses64(w, i, *i.ext.add(N));
        if admit_store::<N, _>(w, i, Space::Global, &a) {
            store_lanes::<N>(w, i, |l| a[l] as *mut u8);
        }
    }
}
/// A strong load of 32 bits: `ld.acquire`, `ld.relaxed` or `ld.volatile`; `Inst::order` has the semantics.
///
/// # Safety
/// `i` is an instruction of the kernel of `w`, whose block is alive.
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
///
/// # Safety
/// `i` is an instruction of the kernel of `w`, whose block is alive.
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
///
/// # Safety
/// `i` is an instruction of the kernel of `w`, whose block is alive.
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
///
/// # Safety
/// `i` is an instruction of the kernel of `w`, whose block is alive.
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
///
/// # Safety
/// The block of `w` is alive.
pub unsafe fn fence(w: &mut Warp, _: &Inst) {
    let (mask, warp) = (w.mask, w.index);
    if let Some(guard) = &mut w.env().guard {
        guard.fence(warp, mask);
    }
}
/// `fence.mbarrier_init`.
///
/// # Safety
/// The block of `w` is alive.
pub unsafe fn fence_mbarrier_init(w: &mut Warp, _: &Inst) {
    let (mask, warp) = (w.mask, w.index);
    if let Some(guard) = &mut w.env().guard {
        guard.fence_mbarrier_init(warp, mask);
    }
}
/// `fence.proxy.async`.
///
/// # Safety
/// The block of `w` is alive.
pub unsafe fn fence_proxy(w: &mut Warp, _: &Inst) {
    let (mask, warp) = (w.mask, w.index);
    if let Some(guard) = &mut w.env().guard {
        guard.fence_proxy(warp, mask);
    }
}
/// `bar.warp.sync`: the scheduler has gathered the lanes; ext[5] has their masks.
///
/// # Safety
/// `i` is an instruction of the kernel of `w`, whose block is alive.
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
/// `ld.shared`.
///
/// # Safety
/// `i` is an instruction of the kernel of `w`, whose block is alive.
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
/// `st.shared`.
///
/// # Safety
/// `i` is an instruction of the kernel of `w`, whose block is alive.
pub unsafe fn st_shared<const N: usize>(w: &mut Warp, i: &Inst) {
    unsafe {
        let a = addresses32(w, i, *i.ext.add(N));
        if admit_store::<N, _>(w, i, Space::Shared, &a) {
            let base = (*w.env).shared.as_mut_ptr();
            store_lanes::<N>(w, i, |l| base.add((a[l] - SHARED_BASE) as usize));
        }
    }
}
/// What a load or store of shared memory does: `Inst::order` says whether it is strong.
fn action(i: &Inst, plain: Action, strong: Action) -> Action {
    if i.order & STRONG != 0 { strong } else { plain }
}
/// `ld.shared::cluster`, and strong loads of shared memory.
///
/// # Safety
/// As `ld_shared`; the cluster of `w` is alive.
pub unsafe fn ld_cluster<const N: usize>(w: &mut Warp, i: &Inst) {
    // Safety: the caller's.
    unsafe {
        let Some(all) = places(w, &addresses32(w, i, *i.ext.add(N))) else { return };
        let action = action(i, Action::Read, Action::StrongRead);
        for &(rank, lanes) in &all.parts {
            let access = Access::new(Places::space(w, rank), action, lanes, &all.local, i.size as u32 * N as u32);
            if !admit(w, i, &access) {
                return;
            }
        }
        let at = bytes(w, &all);
        load_lanes::<N>(w, i, |l| at[l]);
        if i.order & STRONG != 0 {
            acquire(w, i, &at.map(|at| at as u64));
        }
    }
}
/// `st.shared::cluster`, and strong stores to shared memory.
///
/// # Safety
/// As `st_shared`; the cluster of `w` is alive.
pub unsafe fn st_cluster<const N: usize>(w: &mut Warp, i: &Inst) {
    // Safety: the caller's.
    unsafe {
        let Some(all) = places(w, &addresses32(w, i, *i.ext.add(N))) else { return };
        let action = action(i, Action::Write, Action::StrongWrite);
        let view: *const Warp = w;
        let data = |lane| stored::<N>(&*view, i, lane);
        for &(rank, lanes) in &all.parts {
            let access = Access::new(Places::space(w, rank), action, lanes, &all.local, i.size as u32 * N as u32);
            if !admit(w, i, &Access { data: Some(&data), ..access }) {
                return;
            }
        }
        let at = bytes(w, &all);
        if i.order & STRONG != 0 {
            release(w, i, &at.map(|at| at as u64));
        }
        store_lanes::<N>(w, i, |l| at[l]);
    }
}
/// `ld.param` at an address.
///
/// # Safety
/// `i` is an instruction of the kernel of `w`, whose block is alive.
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
///
/// # Safety
/// `i` is an instruction of the kernel of `w`, whose block is alive.
pub unsafe fn ld_param_const<const N: usize>(w: &mut Warp, i: &Inst) {
    // Safety: the offset was found in the kernel's parameters when it was compiled.
    unsafe {
        let at = (*w.env).params.add(i.imm as usize);
        load_lanes::<N>(w, i, |_| at);
    }
}
/// `ld.local`.
///
/// # Safety
/// `i` is an instruction of the kernel of `w`, whose block is alive.
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
/// `st.local`.
///
/// # Safety
/// `i` is an instruction of the kernel of `w`, whose block is alive.
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
