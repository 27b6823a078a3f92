//! Arithmetic, logic and moves, lane by lane.

use super::float::*;
use super::*;

macro_rules! to_int {
    ($x:ident, $t:ty, $nan:expr) => {
        if $x.is_nan() { $nan } else { $x as $t }
    };
}

unsafe fn mov_w(w: &mut Warp, i: &Inst) {
    unsafe {
        let v = *(w.p(i.r[1]) as *const [u32; 32]);
        w.put::<u32>(i.r[0], &v);
    }
}
unsafe fn mov_d(w: &mut Warp, i: &Inst) {
    unsafe {
        let v = *(w.p(i.r[1]) as *const [u64; 32]);
        w.put::<u64>(i.r[0], &v);
    }
}
pub unsafe fn mov_special(w: &mut Warp, i: &Inst) {
    unsafe {
        let v = w.special[i.imm as usize];
        w.put::<u32>(i.r[0], &v);
    }
}
pub unsafe fn mov_special64(w: &mut Warp, i: &Inst) {
    unsafe {
        let v = w.special[i.imm as usize].map(|x| x as u64);
        w.put::<u64>(i.r[0], &v);
    }
}
macro_rules! preds {
    (|$x:ident, $y:ident| $e:expr) => {{
        unsafe fn f(w: &mut Warp, i: &Inst) {
            let $x = w.pred(i.r[1]);
            let $y = w.pred(i.r[2]);
            w.put_pred(i.r[0], $e);
        }
        f as OpFn
    }};
}
unsafe fn mov_pred(w: &mut Warp, i: &Inst) {
    let x = w.pred(i.r[1]);
    w.put_pred(i.r[0], x);
}
unsafe fn not_pred(w: &mut Warp, i: &Inst) {
    let x = w.pred(i.r[1]);
    w.put_pred(i.r[0], !x);
}

/// Arithmetic: the opcode without its type suffix, and the type.
pub fn arithmetic(op: &str) -> Option<OpFn> {
    use std::ops::{Shl, Shr};
    Some(match op {
        "mov.pred" => mov_pred as OpFn,
        "not.pred" => not_pred as OpFn,
        "and.pred" => preds!(|x, y| x & y),
        "or.pred" => preds!(|x, y| x | y),
        "xor.pred" => preds!(|x, y| x ^ y),
        "mov.f32" | "mov.b32" | "mov.u32" | "mov.s32" | "mov.u16" | "mov.b16" | "mov.s16" => mov_w as OpFn,
        "mov.f64" | "mov.b64" | "mov.u64" | "mov.s64" | "cvta.to.global.u64" | "cvta.local.u64"
        | "cvta.to.local.u64" | "cvta.global.u64" => mov_d as OpFn,
        "selp.f32" | "selp.b32" | "selp.u32" | "selp.s32" | "selp.u16" | "selp.s16" | "selp.b16" => sel!(u32),
        "selp.f64" | "selp.b64" | "selp.u64" | "selp.s64" => sel!(u64),
        // f32
        "fma.rn.f32" | "fma.rn.ftz.f32" => op3!(f32, f32, f32, f32, |x, y, z| x.mul_add(y, z)),
        "fma.rm.f32" => op3!(f32, f32, f32, f32, |x, y, z| fma_rm(x, y, z)),
        "add.f32" | "add.rn.f32" => op2!(f32, f32, f32, |x, y| x + y),
        "add.rz.f32" => op2!(f32, f32, f32, |x, y| add_rz(x, y)),
        "sub.f32" | "sub.rn.f32" => op2!(f32, f32, f32, |x, y| x - y),
        "mul.f32" | "mul.rn.f32" => op2!(f32, f32, f32, |x, y| x * y),
        "div.rn.f32" => op2!(f32, f32, f32, |x, y| x / y),
        "rcp.rn.f32" => op1!(f32, f32, |x| 1.0 / x),
        "sqrt.rn.f32" => op1!(f32, f32, |x| x.sqrt()),
        "neg.f32" => op1!(f32, f32, |x| -x),
        "abs.f32" => op1!(f32, f32, |x| x.abs()),
        "max.f32" => op2!(f32, f32, f32, |x, y| fmax32(x, y)),
        "min.f32" => op2!(f32, f32, f32, |x, y| fmin32(x, y)),
        "copysign.f32" => op2!(f32, f32, f32, |x, y| y.copysign(x)),
        "ex2.approx.f32" => op1!(f32, f32, |x| ex2(x)),
        "ex2.approx.ftz.f32" => op1!(f32, f32, |x| flush(ex2(flush(x)))),
        // f64
        "fma.rn.f64" => op3!(f64, f64, f64, f64, |x, y, z| x.mul_add(y, z)),
        "add.f64" | "add.rn.f64" => op2!(f64, f64, f64, |x, y| x + y),
        "sub.f64" | "sub.rn.f64" => op2!(f64, f64, f64, |x, y| x - y),
        "mul.f64" | "mul.rn.f64" => op2!(f64, f64, f64, |x, y| x * y),
        "div.rn.f64" => op2!(f64, f64, f64, |x, y| x / y),
        "rcp.rn.f64" => op1!(f64, f64, |x| 1.0 / x),
        "rcp.approx.ftz.f64" => op1!(f64, f64, |x| rcp_approx64(x)),
        "sqrt.rn.f64" => op1!(f64, f64, |x| x.sqrt()),
        "neg.f64" => op1!(f64, f64, |x| -x),
        "abs.f64" => op1!(f64, f64, |x| x.abs()),
        "max.f64" => op2!(f64, f64, f64, |x, y| fmax64(x, y)),
        "min.f64" => op2!(f64, f64, f64, |x, y| fmin64(x, y)),
        // integers
        "add.s32" | "add.u32" => op2!(u32, u32, u32, |x, y| x.wrapping_add(y)),
        "sub.s32" | "sub.u32" => op2!(u32, u32, u32, |x, y| x.wrapping_sub(y)),
        "mul.lo.s32" | "mul.lo.u32" => op2!(u32, u32, u32, |x, y| x.wrapping_mul(y)),
        "mul.hi.u32" => op2!(u32, u32, u32, |x, y| ((x as u64 * y as u64) >> 32) as u32),
        "mul.hi.s32" => op2!(i32, i32, i32, |x, y| ((x as i64 * y as i64) >> 32) as i32),
        "mul.wide.u32" => op2!(u64, u32, u32, |x, y| x as u64 * y as u64),
        "mul.wide.s32" => op2!(i64, i32, i32, |x, y| x as i64 * y as i64),
        "mul.wide.u16" => op2!(u32, u16, u16, |x, y| x as u32 * y as u32),
        "mul.wide.s16" => op2!(i32, i16, i16, |x, y| x as i32 * y as i32),
        "mad.lo.s32" | "mad.lo.u32" => op3!(u32, u32, u32, u32, |x, y, z| x.wrapping_mul(y).wrapping_add(z)),
        "mad.wide.u32" => op3!(u64, u32, u32, u64, |x, y, z| (x as u64 * y as u64).wrapping_add(z)),
        "mad.wide.s32" => op3!(i64, i32, i32, i64, |x, y, z| (x as i64 * y as i64).wrapping_add(z)),
        "mad.lo.s64" | "mad.lo.u64" => op3!(u64, u64, u64, u64, |x, y, z| x.wrapping_mul(y).wrapping_add(z)),
        "neg.s32" => op1!(u32, u32, |x| x.wrapping_neg()),
        "abs.s32" => op1!(i32, i32, |x| x.wrapping_abs()),
        "abs.s64" => op1!(i64, i64, |x| x.wrapping_abs()),
        "min.s32" => op2!(i32, i32, i32, |x, y| x.min(y)),
        "max.s32" => op2!(i32, i32, i32, |x, y| x.max(y)),
        "min.u32" => op2!(u32, u32, u32, |x, y| x.min(y)),
        "max.u32" => op2!(u32, u32, u32, |x, y| x.max(y)),
        // a division by zero gives all ones on these chips; the standard leaves it open
        "div.u32" => op2!(u32, u32, u32, |x, y| x.checked_div(y).unwrap_or(!0)),
        "rem.u32" => op2!(u32, u32, u32, |x, y| x.checked_rem(y).unwrap_or(x)),
        "div.s32" => op2!(i32, i32, i32, |x, y| if y == 0 { -1 } else { x.wrapping_div(y) }),
        "rem.s32" => op2!(i32, i32, i32, |x, y| if y == 0 { x } else { x.wrapping_rem(y) }),
        "and.b32" => op2!(u32, u32, u32, |x, y| x & y),
        "or.b32" => op2!(u32, u32, u32, |x, y| x | y),
        "xor.b32" => op2!(u32, u32, u32, |x, y| x ^ y),
        "not.b32" => op1!(u32, u32, |x| !x),
        "shl.b32" => op2!(u32, u32, u32, |x, y| if y > 31 { 0 } else { x.shl(y & 31) }),
        "shr.u32" | "shr.b32" => op2!(u32, u32, u32, |x, y| if y > 31 { 0 } else { x.shr(y & 31) }),
        "shr.s32" => op2!(i32, i32, u32, |x, y| x.shr(y.min(31))),
        "add.s64" | "add.u64" => op2!(u64, u64, u64, |x, y| x.wrapping_add(y)),
        "sub.s64" | "sub.u64" => op2!(u64, u64, u64, |x, y| x.wrapping_sub(y)),
        "mul.lo.s64" | "mul.lo.u64" => op2!(u64, u64, u64, |x, y| x.wrapping_mul(y)),
        "mul.hi.u64" => op2!(u64, u64, u64, |x, y| ((x as u128 * y as u128) >> 64) as u64),
        "neg.s64" => op1!(u64, u64, |x| x.wrapping_neg()),
        "min.s64" => op2!(i64, i64, i64, |x, y| x.min(y)),
        "max.s64" => op2!(i64, i64, i64, |x, y| x.max(y)),
        "min.u64" => op2!(u64, u64, u64, |x, y| x.min(y)),
        "max.u64" => op2!(u64, u64, u64, |x, y| x.max(y)),
        "div.u64" => op2!(u64, u64, u64, |x, y| x.checked_div(y).unwrap_or(!0)),
        "rem.u64" => op2!(u64, u64, u64, |x, y| x.checked_rem(y).unwrap_or(x)),
        "div.s64" => op2!(i64, i64, i64, |x, y| if y == 0 { -1 } else { x.wrapping_div(y) }),
        "rem.s64" => op2!(i64, i64, i64, |x, y| if y == 0 { x } else { x.wrapping_rem(y) }),
        "and.b64" => op2!(u64, u64, u64, |x, y| x & y),
        "or.b64" => op2!(u64, u64, u64, |x, y| x | y),
        "xor.b64" => op2!(u64, u64, u64, |x, y| x ^ y),
        "not.b64" => op1!(u64, u64, |x| !x),
        "shl.b64" => op2!(u64, u64, u32, |x, y| if y > 63 { 0 } else { x.shl(y & 63) }),
        "shr.u64" | "shr.b64" => op2!(u64, u64, u32, |x, y| if y > 63 { 0 } else { x.shr(y & 63) }),
        "shr.s64" => op2!(i64, i64, u32, |x, y| x.shr(y.min(63))),
        "add.s16" | "add.u16" => op2!(u16, u16, u16, |x, y| x.wrapping_add(y)),
        "sub.s16" | "sub.u16" => op2!(u16, u16, u16, |x, y| x.wrapping_sub(y)),
        "mul.lo.s16" | "mul.lo.u16" => op2!(u16, u16, u16, |x, y| x.wrapping_mul(y)),
        "and.b16" => op2!(u16, u16, u16, |x, y| x & y),
        "or.b16" => op2!(u16, u16, u16, |x, y| x | y),
        "xor.b16" => op2!(u16, u16, u16, |x, y| x ^ y),
        "not.b16" => op1!(u16, u16, |x| !x),
        "shl.b16" => op2!(u16, u16, u32, |x, y| if y > 15 { 0 } else { x.shl(y & 15) }),
        "shr.u16" | "shr.b16" => op2!(u16, u16, u32, |x, y| if y > 15 { 0 } else { x.shr(y & 15) }),
        "shr.s16" => op2!(i16, i16, u32, |x, y| x.shr(y.min(15))),
        "popc.b32" => op1!(u32, u32, |x| x.count_ones()),
        "clz.b32" => op1!(u32, u32, |x| x.leading_zeros()),
        "brev.b32" => op1!(u32, u32, |x| x.reverse_bits()),
        // conversions
        "cvt.sat.f32.f32" => op1!(f32, f32, |x| if x.is_nan() { 0.0 } else { x.max(0.0).min(1.0) + 0.0 }),
        "cvt.rn.bf16.f32" => op1!(u16, f32, |x| to_bf16(x)),
        "cvt.rna.tf32.f32" => op1!(u32, f32, |x| rna_tf32(x)),
        "cvt.rn.bf16x2.f32" => op2!(u32, f32, f32, |x, y| (to_bf16(x) as u32) << 16 | to_bf16(y) as u32),
        "cvt.f64.f32" => op1!(f64, f32, |x| x as f64),
        "cvt.rn.f32.f64" => op1!(f32, f64, |x| x as f32),
        "cvt.rn.f32.s32" => op1!(f32, i32, |x| x as f32),
        "cvt.rn.f32.u32" => op1!(f32, u32, |x| x as f32),
        "cvt.rn.f32.s16" => op1!(f32, i16, |x| x as f32),
        "cvt.rn.f32.u16" => op1!(f32, u16, |x| x as f32),
        "cvt.rn.f32.u8" => op1!(f32, u8, |x| x as f32),
        "cvt.rn.f32.s64" => op1!(f32, i64, |x| x as f32),
        "cvt.rn.f32.u64" => op1!(f32, u64, |x| x as f32),
        "cvt.rn.f64.s32" => op1!(f64, i32, |x| x as f64),
        "cvt.rn.f64.u32" => op1!(f64, u32, |x| x as f64),
        "cvt.rn.f64.s64" => op1!(f64, i64, |x| x as f64),
        "cvt.rn.f64.u64" => op1!(f64, u64, |x| x as f64),
        "cvt.rn.f64.u16" => op1!(f64, u16, |x| x as f64),
        "cvt.rni.f32.f32" => op1!(f32, f32, |x| x.round_ties_even()),
        "cvt.rzi.f32.f32" => op1!(f32, f32, |x| x.trunc()),
        "cvt.rmi.f32.f32" => op1!(f32, f32, |x| x.floor()),
        "cvt.rpi.f32.f32" => op1!(f32, f32, |x| x.ceil()),
        "cvt.rni.f64.f64" => op1!(f64, f64, |x| x.round_ties_even()),
        "cvt.rzi.f64.f64" => op1!(f64, f64, |x| x.trunc()),
        "cvt.rmi.f64.f64" => op1!(f64, f64, |x| x.floor()),
        "cvt.rpi.f64.f64" => op1!(f64, f64, |x| x.ceil()),
        "cvt.rzi.s32.f32" => op1!(i32, f32, |x| x as i32),
        "cvt.rni.s32.f32" => op1!(i32, f32, |x| x.round_ties_even() as i32),
        "cvt.rmi.s32.f32" => op1!(i32, f32, |x| x.floor() as i32),
        "cvt.rpi.s32.f32" => op1!(i32, f32, |x| x.ceil() as i32),
        "cvt.rzi.u32.f32" => op1!(u32, f32, |x| x as u32),
        "cvt.rni.u32.f32" => op1!(u32, f32, |x| x.round_ties_even() as u32),
        "cvt.rzi.u16.f32" => op1!(u16, f32, |x| x as u16),
        "cvt.rzi.s64.f32" => op1!(i64, f32, |x| to_int!(x, i64, i64::MIN)),
        "cvt.rzi.u64.f32" => op1!(u64, f32, |x| to_int!(x, u64, 1 << 63)),
        "cvt.rni.s64.f32" => op1!(i64, f32, |x| if x.is_nan() { i64::MIN } else { x.round_ties_even() as i64 }),
        "cvt.rzi.s32.f64" => op1!(i32, f64, |x| to_int!(x, i32, i32::MIN)),
        "cvt.rzi.u32.f64" => op1!(u32, f64, |x| to_int!(x, u32, 1 << 31)),
        "cvt.rni.s32.f64" => op1!(i32, f64, |x| if x.is_nan() { i32::MIN } else { x.round_ties_even() as i32 }),
        "cvt.rzi.s64.f64" => op1!(i64, f64, |x| to_int!(x, i64, i64::MIN)),
        "cvt.rzi.u64.f64" => op1!(u64, f64, |x| to_int!(x, u64, 1 << 63)),
        "cvt.rni.s64.f64" => op1!(i64, f64, |x| if x.is_nan() { i64::MIN } else { x.round_ties_even() as i64 }),
        "cvt.rmi.s64.f64" => op1!(i64, f64, |x| if x.is_nan() { i64::MIN } else { x.floor() as i64 }),
        _ => return convert_int(op),
    })
}

/// Conversions from the low part of a 64-bit register.
pub fn convert_low(op: &str) -> Option<OpFn> {
    Some(match op {
        "cvt.s64.s32" => op1!(u64, u64, |x| x as u32 as i32 as u64),
        "cvt.u64.u32" => op1!(u64, u64, |x| x as u32 as u64),
        "cvt.u64.u16" => op1!(u64, u64, |x| x as u16 as u64),
        "cvt.s64.s16" => op1!(u64, u64, |x| x as i16 as u64),
        "cvt.u64.u8" => op1!(u64, u64, |x| x as u8 as u64),
        "cvt.s64.s8" => op1!(u64, u64, |x| x as i8 as u64),
        _ => return None,
    })
}

fn convert_int(op: &str) -> Option<OpFn> {
    let rest = op.strip_prefix("cvt.")?;
    let (d, s) = rest.split_once('.')?;
    macro_rules! to {
        ($s:ty) => {
            match d {
                "u16" | "s16" => op1!(u16, $s, |x| x as u16),
                "u8" => op1!(u16, $s, |x| x as u8 as u16),
                "s8" => op1!(i16, $s, |x| x as i8 as i16),
                "u32" | "s32" => op1!(u32, $s, |x| x as u32),
                "u64" | "s64" => op1!(u64, $s, |x| x as u64),
                _ => return None,
            }
        };
    }
    Some(match s {
        "u8" => to!(u8),
        "s8" => to!(i8),
        "u16" => to!(u16),
        "s16" => to!(i16),
        "u32" => to!(u32),
        "s32" => to!(i32),
        "u64" => to!(u64),
        "s64" => to!(i64),
        _ => return None,
    })
}

/// Up to 2 ulp away, always the same way for one x; powers of two stay.
fn ex2_chip(x: f32) -> f32 {
    let r = ex2(x);
    if x == x.trunc() || !r.is_normal() || r > 1e38 || r < 1e-37 {
        return r;
    }
    let h = (x.to_bits().wrapping_mul(0x9e37_79b9) >> 13) % 5;
    f32::from_bits(r.to_bits() + h - 2)
}

pub fn chip_op(op: &str) -> Option<OpFn> {
    Some(match op {
        "ex2.approx.f32" => op1!(f32, f32, |x| ex2_chip(x)),
        "ex2.approx.ftz.f32" => op1!(f32, f32, |x| flush(ex2_chip(flush(x)))),
        _ => return None,
    })
}

pub unsafe fn nop(_: &mut Warp, _: &Inst) {}
