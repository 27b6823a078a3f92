//! Warpgroup products.

use crate::warp::*;
use std::sync::atomic::Ordering;

pub struct Product {
    pub d: Vec<u32>, // registers
    pub saved: Option<Vec<[u32; 32]>>,
    pub a_regs: Option<[[u32; 32]; 4]>,
    pub a: u64,
    pub b: u64,
    pub scale: bool,
    pub transposed: (bool, bool),
    pub group: u32,
}

fn swizzle(at: u32) -> u32 {
    at ^ (at >> 3 & 0x70)
}
/// The bytes of an element of an operand with 128-byte swizzle, as the canonical layouts of the PTX ISA have it:
/// K-major ((8,m),(T,2k)) : ((8T,SBO),(1,T)); MN-major ((T,8,m),(8,k)) : ((1,T,LBO),(8T,SBO)), T = 8 elements of 16 bits.
fn element(descriptor: u64, mn: u32, k: u32, mn_major: bool) -> u32 {
    let start = ((descriptor & 0x3fff) << 4) as u32;
    let lbo = ((descriptor >> 16 & 0x3fff) << 4) as u32;
    let sbo = ((descriptor >> 32 & 0x3fff) << 4) as u32;
    let offset = if mn_major {
        mn / 64 * lbo + mn % 64 * 2 + k / 8 * sbo + k % 8 * 128
    } else {
        mn / 8 * sbo + mn % 8 * 128 + k * 2
    };
    swizzle(start + offset)
}
unsafe fn fetch(w: &mut Warp, at: u32) -> f32 {
    unsafe {
        let env = &*w.env;
        if at < SHARED_BASE || at + 2 > env.shared_end {
            w.fail(ILLEGAL_ADDRESS, 0, format!("a wgmma operand at shared offset {}", at as i64 - SHARED_BASE as i64));
            return 0.0;
        }
        let x = (env.shared.as_ptr().add((at - SHARED_BASE) as usize) as *const u16).read_unaligned();
        f32::from_bits((x as u32) << 16)
    }
}

/// ext: D (i.count), then A (4 registers, or one descriptor: i.size), B, predicate; i.imm bits 0 tnspA, 1 tnspB
pub unsafe fn wgmma(w: &mut Warp, i: &Inst) {
    unsafe {
        let n = i.count as usize;
        let na = i.size as usize;
        let e = std::slice::from_raw_parts(i.ext, n + na + 2);
        let d = e[..n].to_vec();
        let lane0 = |p: *const u32| *(p as *const u64);
        let b = lane0(w.p(e[n + na]));
        let mut a = 0;
        let mut a_regs = None;
        if na == 4 {
            let mut r = [[0u32; 32]; 4];
            for q in 0..4 {
                r[q] = *(w.p(e[n + q]) as *const [u32; 32]);
            }
            a_regs = Some(r);
        } else {
            a = lane0(w.p(e[n]));
            let p = w.p(e[n]) as *const u64;
            if (0..32).any(|l| *p.add(l) != a) {
                w.fail(LAUNCH_FAILED, 0, "wgmma descriptors differ between lanes".into());
                return;
            }
        }
        let p = w.p(e[n + na]) as *const u64;
        if (0..32).any(|l| *p.add(l) != b) {
            w.fail(LAUNCH_FAILED, 0, "wgmma descriptors differ between lanes".into());
            return;
        }
        let pr = w.pred(e[n + na + 1]);
        if pr != 0 && pr != !0 {
            w.fail(LAUNCH_FAILED, 0, "the lanes of a wgmma differ in scale-d".into());
            return;
        }
        for x in [b].into_iter().chain((na == 1).then_some(a)) {
            if x >> 62 != 1 {
                w.fail(LAUNCH_FAILED, 0, format!("only 128-byte swizzle is known here: descriptor {x:#x}"));
                return;
            }
            if x >> 49 & 7 != 0 {
                w.fail(LAUNCH_FAILED, 0, "a base offset is not known here".into());
                return;
            }
        }
        let chained = w.products.iter().any(|x| x.d == d);
        if !chained && w.products.iter().any(|x| x.d.iter().any(|r| d.contains(r))) {
            w.fail(LAUNCH_FAILED, 0, "accumulators of two products under way overlap".into());
            return;
        }
        let saved = (!chained).then(|| d.iter().map(|r| *(w.p(*r) as *const [u32; 32])).collect());
        if !chained {
            // until it is waited for nobody may look
            for r in &d {
                w.put::<u32>(*r, &[0x7fff_ffff; 32]);
            }
        }
        let group = w.wgroup;
        w.products.push(Product {
            d,
            saved,
            a_regs,
            a,
            b,
            scale: pr != 0,
            transposed: (i.imm & 1 != 0, i.imm & 2 != 0),
            group,
        });
    }
}
pub unsafe fn wgmma_commit(w: &mut Warp, _: &Inst) {
    w.wgroup += 1;
}
pub unsafe fn wgmma_wait(w: &mut Warp, i: &Inst) {
    unsafe {
        let keep = i.imm as u32;
        let all = std::mem::take(&mut w.products);
        let (now, later): (Vec<Product>, Vec<Product>) = all.into_iter().partition(|p| p.group + keep < w.wgroup);
        w.products = later;
        for p in now {
            carry_out(w, &p);
        }
    }
}
unsafe fn carry_out(w: &mut Warp, p: &Product) {
    unsafe {
        if let Some(s) = &p.saved {
            for (r, v) in p.d.iter().zip(s) {
                w.put::<u32>(*r, v);
            }
        }
        let n = p.d.len() * 2;
        let mut a = [[0f32; 16]; 16];
        match &p.a_regs {
            Some(r) => {
                for q in 0..4 {
                    for l in 0..32 {
                        let (row, col) = (l / 4 + 8 * (q & 1), 2 * (l % 4) + 8 * (q >> 1));
                        a[row][col] = f32::from_bits(r[q][l] << 16);
                        a[row][col + 1] = f32::from_bits(r[q][l] & 0xffff_0000);
                    }
                }
            }
            None => {
                let first = 16 * (w.index % 4);
                for r in 0..16 {
                    for k in 0..16 {
                        let at = element(p.a, first + r, k, p.transposed.0);
                        a[r as usize][k as usize] = fetch(w, at);
                    }
                }
            }
        }
        let mut b = vec![[0f32; 256]; 16];
        for k in 0..16 {
            for c in 0..n {
                let at = element(p.b, c as u32, k as u32, p.transposed.1);
                b[k][c] = fetch(w, at);
            }
        }
        let mut d = vec![[0f32; 256]; 16];
        for (q, r) in p.d.iter().enumerate() {
            let v = w.p(*r) as *const f32;
            for l in 0..32 {
                d[l / 4 + 8 * (q % 4 / 2)][q / 4 * 8 + 2 * (l % 4) + q % 2] = if p.scale { *v.add(l) } else { 0.0 };
            }
        }
        if crate::config::HW.load(Ordering::Relaxed) {
            for r in 0..16 {
                for c in 0..n {
                    let mut p = [0f64; 16];
                    for k in 0..16 {
                        p[k] = a[r][k] as f64 * b[k][c] as f64;
                    }
                    d[r][c] = crate::warp::chip_sum(d[r][c], &p);
                }
            }
        }
        for r in 0..if crate::config::HW.load(Ordering::Relaxed) { 0 } else { 16 } {
            for k in 0..16 {
                let x = a[r][k];
                for c in 0..n {
                    d[r][c] = x.mul_add(b[k][c], d[r][c]);
                }
            }
        }
        for (q, r) in p.d.iter().enumerate() {
            let mut v = [0f32; 32];
            for l in 0..32 {
                v[l] = d[l / 4 + 8 * (q % 4 / 2)][q / 4 * 8 + 2 * (l % 4) + q % 2];
            }
            w.put::<f32>(*r, &v);
        }
    }
}
