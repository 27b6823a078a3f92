//! `mma.sync`, and how tensor cores add.

use super::*;
use std::sync::atomic::Ordering;

#[inline(always)]
fn lo(x: u32) -> f32 {
    f32::from_bits(x << 16)
}
#[inline(always)]
fn hi(x: u32) -> f32 {
    f32::from_bits(x & 0xffff_0000)
}

/// D = A B + C for [16, K] and [K, 8]: products exact, sums in f32 over k in order.
#[inline(always)]
fn product<const K: usize>(a: &[[f32; K]; 16], b: &[[f32; 8]; K], c: &mut [[f32; 8]; 16]) {
    for m in 0..16 {
        let mut s = c[m];
        for k in 0..K {
            for n in 0..8 {
                s[n] = a[m][k].mul_add(b[k][n], s[n]);
            }
        }
        c[m] = s;
    }
}

/// ext: d0..d3, a0..a3, b0, b1, c0..c3
pub unsafe fn mma_bf16(w: &mut Warp, i: &Inst) {
    unsafe {
        let e = std::slice::from_raw_parts(i.ext, 14);
        let mut a = [[0f32; 16]; 16];
        let mut b = [[0f32; 8]; 16];
        let mut c = [[0f32; 8]; 16];
        for q in 0..4 {
            let p = w.p(e[4 + q]);
            let (rows, cols) = (8 * (q & 1), 8 * (q >> 1));
            for l in 0..32 {
                let x = *p.add(l);
                a[l / 4 + rows][2 * (l % 4) + cols] = lo(x);
                a[l / 4 + rows][2 * (l % 4) + cols + 1] = hi(x);
            }
        }
        for q in 0..2 {
            let p = w.p(e[8 + q]);
            for l in 0..32 {
                let x = *p.add(l);
                b[2 * (l % 4) + 8 * q][l / 4] = lo(x);
                b[2 * (l % 4) + 8 * q + 1][l / 4] = hi(x);
            }
        }
        if crate::config::HW.load(Ordering::Relaxed) {
            accumulate(w, e, &mut c, |c| chip_product::<16, 8>(&a, &b, c));
        } else {
            accumulate(w, e, &mut c, |c| product::<16>(&a, &b, c));
        }
    }
}
#[inline(always)]
unsafe fn accumulate(w: &mut Warp, e: &[u32], c: &mut [[f32; 8]; 16], f: impl Fn(&mut [[f32; 8]; 16])) {
    unsafe {
        for q in 0..4 {
            let p = w.p(e[10 + q]) as *const f32;
            for l in 0..32 {
                c[l / 4 + 8 * (q >> 1)][2 * (l % 4) + (q & 1)] = *p.add(l);
            }
        }
        f(c);
        for q in 0..4 {
            let d = w.pm(e[q]) as *mut f32;
            for l in 0..32 {
                *d.add(l) = c[l / 4 + 8 * (q >> 1)][2 * (l % 4) + (q & 1)];
            }
        }
    }
}
pub unsafe fn mma_tf32(w: &mut Warp, i: &Inst) {
    unsafe {
        let e = std::slice::from_raw_parts(i.ext, 14);
        let mut a = [[0f32; 8]; 16];
        let mut b = [[0f32; 8]; 8];
        let mut c = [[0f32; 8]; 16];
        // the lower 13 bits are not looked at
        let t = |x: u32| f32::from_bits(x & 0xffff_e000);
        for q in 0..4 {
            let p = w.p(e[4 + q]);
            for l in 0..32 {
                a[l / 4 + 8 * (q & 1)][l % 4 + 4 * (q >> 1)] = t(*p.add(l));
            }
        }
        for q in 0..2 {
            let p = w.p(e[8 + q]);
            for l in 0..32 {
                b[l % 4 + 4 * q][l / 4] = t(*p.add(l));
            }
        }
        if crate::config::HW.load(Ordering::Relaxed) {
            accumulate(w, e, &mut c, |c| chip_product::<8, 4>(&a, &b, c));
        } else {
            accumulate(w, e, &mut c, |c| product::<8>(&a, &b, c));
        }
    }
}

/// c + the products in one go: aligned to the largest exponent with one more bit, truncated; then truncated to f32.
#[inline(always)]
pub fn chip_sum(c: f32, p: &[f64]) -> f32 {
    let mut top = (c as f64).to_bits() >> 52 & 0x7ff;
    let mut odd = !c.is_finite();
    for x in p {
        top = top.max(x.to_bits() >> 52 & 0x7ff);
        odd |= !x.is_finite();
    }
    if odd || top == 0 {
        return p.iter().fold(c as f64, |a, b| a + b) as f32;
    }
    let quantum = f64::from_bits(top.saturating_sub(crate::config::HW_BITS.load(Ordering::Relaxed)).max(1) << 52);
    let inverse = 1.0 / quantum;
    let mut s = (c as f64 * inverse).trunc();
    for x in p {
        s += (x * inverse).trunc();
    }
    let s = s * quantum;
    let f = s as f32;
    if (f as f64).abs() > s.abs() { f32::from_bits(f.to_bits() - 1) } else { f }
}
pub fn chip_product<const K: usize, const B: usize>(a: &[[f32; K]; 16], b: &[[f32; 8]; K], c: &mut [[f32; 8]; 16]) {
    for m in 0..16 {
        for n in 0..8 {
            let mut s = c[m][n];
            for first in (0..K).step_by(B) {
                let mut p = [0f64; B];
                for k in 0..B {
                    p[k] = a[m][first + k] as f64 * b[first + k][n] as f64;
                }
                s = chip_sum(s, &p);
            }
            c[m][n] = s;
        }
    }
}
