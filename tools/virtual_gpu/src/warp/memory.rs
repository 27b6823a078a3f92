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

pub unsafe fn ld_global<const N: usize>(w: &mut Warp, i: &Inst) {
    unsafe {
        let a = addresses64(w, i, *i.ext.add(N));
        let bytes = i.size as u64 * N as u64;
        if i.target != 0 {
            // the compiler says which bytes it looks at
            let (from, to) = ((i.target & 0xffff) as u64, (i.target >> 16) as u64);
            if !check_global(w, &a.map(|x| x + from), to - from, 1, i.mem, "load") {
                return;
            }
            for l in 0..32 {
                if w.mask >> l & 1 != 0 && a[l] & (bytes - 1) != 0 {
                    w.fail(MISALIGNED, l as u32, format!("misaligned load of {bytes} bytes at {:#x}", a[l]));
                    return;
                }
            }
        } else if !check_global(w, &a, bytes, bytes, i.mem, "load") {
            return;
        }
        if let Some(s) = &mut (*w.env).stats {
            s.global(i, &a, bytes as u32, w.mask, 0);
        }
        if (*w.env).global {
            note_global(w, &a, bytes, i.mem, 0, i.loc);
        }
        load_lanes::<N>(w, i, |l| a[l] as *const u8);
    }
}
pub unsafe fn st_global<const N: usize>(w: &mut Warp, i: &Inst) {
    unsafe {
        let a = addresses64(w, i, *i.ext.add(N));
        let bytes = i.size as u64 * N as u64;
        if !check_global(w, &a, bytes, bytes, i.mem, "store") {
            return;
        }
        if let Some(s) = &mut (*w.env).stats {
            s.global(i, &a, bytes as u32, w.mask, 1);
        }
        if (*w.env).global {
            note_global(w, &a, bytes, i.mem, 1, i.loc);
        }
        store_lanes::<N>(w, i, |l| a[l] as *mut u8);
    }
}
pub unsafe fn ld_acquire(w: &mut Warp, i: &Inst) {
    unsafe {
        let a = addresses64(w, i, *i.ext.add(1));
        if !check_global(w, &a, i.size as u64, i.size as u64, i.mem, "load") {
            return;
        }
        for l in 0..32 {
            if w.mask >> l & 1 != 0 {
                let v = (*(a[l] as *const AtomicU32)).load(Ordering::Acquire);
                *w.pm(*i.ext).add(l) = v;
            }
        }
    }
}
pub unsafe fn ld_shared<const N: usize>(w: &mut Warp, i: &Inst) {
    unsafe {
        let a = addresses32(w, i, *i.ext.add(N));
        let bytes = i.size as u32 * N as u32;
        if i.target != 0 {
            let (from, to) = (i.target & 0xffff, i.target >> 16);
            if !check_shared(w, &a.map(|x| x.wrapping_add(from)), to - from, 1, "load") {
                return;
            }
            note_shared(w, i, &a.map(|x| x.wrapping_add(from)), to - from, false);
        } else {
            if !check_shared(w, &a, bytes, bytes, "load") {
                return;
            }
            note_shared(w, i, &a, bytes, false);
        }
        let base = (*w.env).shared.as_ptr();
        load_lanes::<N>(w, i, |l| base.add(a[l].wrapping_sub(SHARED_BASE) as usize & 0xfff_ffff));
    }
}
pub unsafe fn st_shared<const N: usize>(w: &mut Warp, i: &Inst) {
    unsafe {
        let a = addresses32(w, i, *i.ext.add(N));
        let bytes = i.size as u32 * N as u32;
        if !check_shared(w, &a, bytes, bytes, "store") {
            return;
        }
        note_shared(w, i, &a, bytes, true);
        let base = (*w.env).shared.as_mut_ptr();
        store_lanes::<N>(w, i, |l| base.add((a[l] - SHARED_BASE) as usize));
    }
}
pub unsafe fn ld_param<const N: usize>(w: &mut Warp, i: &Inst) {
    unsafe {
        let a = addresses64(w, i, *i.ext.add(N));
        let bytes = i.size as u64 * N as u64;
        let (base, n) = ((*w.env).params, (*w.env).params_bytes as u64);
        // what lies behind the struct but is not used may be read
        let n = if i.target != 0 { n.next_multiple_of(16) } else { n };
        for l in 0..32 {
            if w.mask >> l & 1 != 0 && (a[l].wrapping_add(bytes) > n || a[l] & (bytes - 1) != 0 || a[l] > n) {
                w.fail(ILLEGAL_ADDRESS, l as u32, format!("parameter load of {bytes} bytes at {} of {n}", a[l] as i64));
                return;
            }
        }
        load_lanes::<N>(w, i, |l| base.add((a[l] as usize).min(n as usize - bytes as usize)));
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
        if !check_local(w, &a, i.size as u64 * N as u64) {
            return;
        }
        let n = w.local_bytes;
        let base = w.local.as_ptr();
        load_lanes::<N>(w, i, |l| base.add(l * n + (a[l] as usize).min(n)));
    }
}
pub unsafe fn st_local<const N: usize>(w: &mut Warp, i: &Inst) {
    unsafe {
        let a = addresses64(w, i, *i.ext.add(N));
        if !check_local(w, &a, i.size as u64 * N as u64) {
            return;
        }
        let n = w.local_bytes;
        let base = w.local.as_mut_ptr();
        store_lanes::<N>(w, i, |l| base.add(l * n + a[l] as usize));
    }
}
unsafe fn check_local(w: &mut Warp, a: &[u64; 32], bytes: u64) -> bool {
    for l in 0..32 {
        if w.mask >> l & 1 != 0 && (a[l].wrapping_add(bytes) > w.local_bytes as u64 || a[l] & (bytes - 1) != 0) {
            let n = w.local_bytes;
            w.fail(ILLEGAL_ADDRESS, l as u32, format!("local access of {bytes} bytes at {:#x} of {n}", a[l]));
            return false;
        }
    }
    true
}
