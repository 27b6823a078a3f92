//! Packing, unpacking and moving of bits.

use super::*;

/// r: d, then lo and hi of 16 bits
pub unsafe fn pack16(w: &mut Warp, i: &Inst) {
    unsafe {
        let (a, b) = (w.p(i.r[1]), w.p(i.r[2]));
        let mut v = [0u32; 32];
        for l in 0..32 {
            v[l] = (u32::at(a, l) & 0xffff) | u32::at(b, l) << 16;
        }
        w.put::<u32>(i.r[0], &v);
    }
}
pub unsafe fn unpack16(w: &mut Warp, i: &Inst) {
    unsafe {
        let a = *(w.p(i.r[2]) as *const [u32; 32]);
        if i.r[0] != NONE {
            w.put::<u32>(i.r[0], &a.map(|x| x & 0xffff));
        }
        if i.r[1] != NONE {
            w.put::<u32>(i.r[1], &a.map(|x| x >> 16));
        }
    }
}
pub unsafe fn pack32(w: &mut Warp, i: &Inst) {
    unsafe {
        let (a, b) = (w.p(i.r[1]), w.p(i.r[2]));
        let mut v = [0u64; 32];
        for l in 0..32 {
            v[l] = u32::at(a, l) as u64 | (u32::at(b, l) as u64) << 32;
        }
        w.put::<u64>(i.r[0], &v);
    }
}
pub unsafe fn unpack32(w: &mut Warp, i: &Inst) {
    unsafe {
        let a = *(w.p(i.r[2]) as *const [u64; 32]);
        if i.r[0] != NONE {
            w.put::<u32>(i.r[0], &a.map(|x| x as u32));
        }
        if i.r[1] != NONE {
            w.put::<u32>(i.r[1], &a.map(|x| (x >> 32) as u32));
        }
    }
}
/// ext: d, a, b, pos, len
pub unsafe fn bfi32(w: &mut Warp, i: &Inst) {
    unsafe {
        let e = std::slice::from_raw_parts(i.ext, 5);
        let (a, b, p, n) = (w.p(e[1]), w.p(e[2]), w.p(e[3]), w.p(e[4]));
        let mut v = [0u32; 32];
        for l in 0..32 {
            let pos = u32::at(p, l) & 0xff;
            let len = u32::at(n, l) & 0xff;
            let field = if len >= 32 { !0u32 } else { (1u32 << len) - 1 };
            let m = if pos >= 32 { 0 } else { field << pos };
            let x = if pos >= 32 { 0 } else { u32::at(a, l) << pos };
            v[l] = (u32::at(b, l) & !m) | (x & m);
        }
        w.put::<u32>(e[0], &v);
    }
}
pub unsafe fn bfi64(w: &mut Warp, i: &Inst) {
    unsafe {
        let e = std::slice::from_raw_parts(i.ext, 5);
        let (a, b, p, n) = (w.p(e[1]), w.p(e[2]), w.p(e[3]), w.p(e[4]));
        let mut v = [0u64; 32];
        for l in 0..32 {
            let pos = u32::at(p, l) & 0xff;
            let len = u32::at(n, l) & 0xff;
            let field = if len >= 64 { !0u64 } else { (1u64 << len) - 1 };
            let m = if pos >= 64 { 0 } else { field << pos };
            let x = if pos >= 64 { 0 } else { u64::at(a, l) << pos };
            v[l] = (u64::at(b, l) & !m) | (x & m);
        }
        w.put::<u64>(e[0], &v);
    }
}
pub unsafe fn bfe_u32(w: &mut Warp, i: &Inst) {
    unsafe {
        let (a, p, n) = (w.p(i.r[1]), w.p(i.r[2]), w.p(i.r[3]));
        let mut v = [0u32; 32];
        for l in 0..32 {
            let pos = u32::at(p, l) & 0xff;
            let len = u32::at(n, l) & 0xff;
            let x = if pos >= 32 { 0 } else { u32::at(a, l) >> pos };
            v[l] = if len >= 32 { x } else { x & ((1u32 << len) - 1) };
        }
        w.put::<u32>(i.r[0], &v);
    }
}
pub unsafe fn prmt(w: &mut Warp, i: &Inst) {
    unsafe {
        let (a, b, c) = (w.p(i.r[1]), w.p(i.r[2]), w.p(i.r[3]));
        let mut v = [0u32; 32];
        for l in 0..32 {
            let x = u32::at(a, l) as u64 | (u32::at(b, l) as u64) << 32;
            let s = u32::at(c, l);
            let mut r = 0u32;
            for k in 0..4 {
                let n = s >> (4 * k) & 15;
                let mut byte = (x >> (8 * (n & 7))) as u8;
                if n & 8 != 0 {
                    byte = if byte & 0x80 != 0 { 0xff } else { 0 };
                }
                r |= (byte as u32) << (8 * k);
            }
            v[l] = r;
        }
        w.put::<u32>(i.r[0], &v);
    }
}
pub unsafe fn shf_l_wrap(w: &mut Warp, i: &Inst) {
    unsafe {
        let (a, b, c) = (w.p(i.r[1]), w.p(i.r[2]), w.p(i.r[3]));
        let mut v = [0u32; 32];
        for l in 0..32 {
            let x = u32::at(a, l) as u64 | (u32::at(b, l) as u64) << 32;
            v[l] = ((x << (u32::at(c, l) & 31)) >> 32) as u32;
        }
        w.put::<u32>(i.r[0], &v);
    }
}
pub unsafe fn shf_r_wrap(w: &mut Warp, i: &Inst) {
    unsafe {
        let (a, b, c) = (w.p(i.r[1]), w.p(i.r[2]), w.p(i.r[3]));
        let mut v = [0u32; 32];
        for l in 0..32 {
            let x = u32::at(a, l) as u64 | (u32::at(b, l) as u64) << 32;
            v[l] = (x >> (u32::at(c, l) & 31)) as u32;
        }
        w.put::<u32>(i.r[0], &v);
    }
}
