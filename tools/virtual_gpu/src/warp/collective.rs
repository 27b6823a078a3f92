//! Warp collectives: the scheduler has gathered the lanes.

use super::*;

/// r: d, a, b, c; ext[4]: predicate or NONE, ext[5]: member mask; imm: 0 idx 1 bfly 2 up 3 down
pub unsafe fn shfl(w: &mut Warp, i: &Inst) {
    unsafe {
        let e = std::slice::from_raw_parts(i.ext, 6);
        let a = *(w.p(e[1]) as *const [u32; 32]);
        let (pb, pc, pm) = (w.p(e[2]), w.p(e[3]), w.p(e[5]));
        let m = w.mask;
        let mut v = [0u32; 32];
        let mut p = 0u32;
        for l in 0..32u32 {
            if m >> l & 1 == 0 {
                continue;
            }
            let b = u32::at(pb, l as usize) & 31;
            let c = u32::at(pc, l as usize);
            let members = u32::at(pm, l as usize);
            let (cval, seg) = (c & 31, c >> 8 & 31);
            let max = (l & seg) | (cval & !seg);
            let min = l & seg;
            let (j, ok) = match i.imm {
                0 => {
                    let j = min | (b & !seg);
                    (j as i32, j <= max)
                }
                1 => ((l ^ b) as i32, (l ^ b) <= max),
                2 => (l as i32 - b as i32, l as i32 - b as i32 >= max as i32),
                _ => ((l + b) as i32, l + b <= max),
            };
            let j = if ok { j as u32 } else { l };
            if members >> l & 1 == 0 {
                w.fail(LAUNCH_FAILED, l, format!("shfl: lane {l} is not in its own member mask {members:#x}"));
                return;
            }
            if j > 31 || m >> j & 1 == 0 || members >> j & 1 == 0 {
                w.fail(
                    LAUNCH_FAILED,
                    l,
                    format!(
                        "shfl: lane {l} reads lane {j}, which is not taking part (active {m:#x}, members {members:#x})"
                    ),
                );
                return;
            }
            v[l as usize] = a[j as usize];
            p |= (ok as u32) << l;
        }
        w.put::<u32>(e[0], &v);
        if e[4] != NONE {
            w.put_pred(e[4], p);
        }
    }
}
/// r: d, predicate or register; imm: 0 ballot, 1 any, 2 all; ext[3] members
pub unsafe fn vote(w: &mut Warp, i: &Inst) {
    unsafe {
        let mut p = w.pred(i.r[1]);
        if i.neg {
            p = !p;
        }
        let m = w.mask;
        match i.imm {
            0 => w.put::<u32>(i.r[0], &[p & m; 32]),
            1 => w.put_pred(i.r[0], if p & m != 0 { !0 } else { 0 }),
            _ => w.put_pred(i.r[0], if p & m == m { !0 } else { 0 }),
        }
    }
}

/// ext: N registers, address
pub unsafe fn ldmatrix<const N: usize, const T: bool>(w: &mut Warp, i: &Inst) {
    unsafe {
        let a = addresses32(w, i, *i.ext.add(N)); // only the first 8 N lanes give addresses
        let lanes = if N == 4 { FULL } else { (1 << (8 * N)) - 1 };
        if !admit(w, i, &Access::new(Space::Shared, Action::Read, lanes, &a, 16)) {
            return;
        }
        let base = (*w.env).shared.as_ptr();
        for k in 0..N {
            let mut m = [[0u16; 8]; 8];
            for r in 0..8 {
                m[r] = (base.add((a[8 * k + r] - SHARED_BASE) as usize) as *const [u16; 8]).read_unaligned();
            }
            let mut v = [0u32; 32];
            for l in 0..32 {
                let (r, c) = (l / 4, 2 * (l % 4));
                v[l] = if T {
                    m[c][r] as u32 | (m[c + 1][r] as u32) << 16
                } else {
                    m[r][c] as u32 | (m[r][c + 1] as u32) << 16
                };
            }
            w.put::<u32>(*i.ext.add(k), &v);
        }
    }
}
