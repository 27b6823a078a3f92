//! Approximations: computed to about half a last place, and with the errors that the PTX ISA allows where the device is told to err.

use super::flush;

/// 2 to the power of `x`.
#[inline(always)]
pub fn ex2(x: f32) -> f32 {
    let y = x as f64;
    let y = y.clamp(-200.0, 200.0);
    let n = y.round_ties_even();
    let t = (y - n) * std::f64::consts::LN_2;
    // the exponential series to t^9: |t| <= 0.347, and the rest is below 1e-11
    let p = 1.0 / 362880.0;
    let p = p * t + 1.0 / 40320.0;
    let p = p * t + 1.0 / 5040.0;
    let p = p * t + 1.0 / 720.0;
    let p = p * t + 1.0 / 120.0;
    let p = p * t + 1.0 / 24.0;
    let p = p * t + 1.0 / 6.0;
    let p = p * t + 0.5;
    let p = p * t + 1.0;
    let p = p * t + 1.0;
    let scale = f64::from_bits((((n as i32) + 1023) as u64) << 52);
    let r = (p * scale) as f32;
    if x.is_nan() { super::NAN32 } else { r }
}

/// The logarithm of `x` to base 2.
pub fn lg2(x: f32) -> f32 {
    super::canonical((x as f64).log2() as f32)
}

/// The reciprocal of the square root of `x`.
#[inline(always)]
pub fn rsqrt(x: f32) -> f32 {
    super::canonical((1.0 / (x as f64).sqrt()) as f32)
}

pub fn sin(x: f32) -> f32 {
    super::canonical((x as f64).sin() as f32)
}

pub fn cos(x: f32) -> f32 {
    super::canonical((x as f64).cos() as f32)
}

pub fn tanh(x: f32) -> f32 {
    super::canonical((x as f64).tanh() as f32)
}

/// `div.approx`: beyond 2^126 the divisor's reciprocal is 0.
#[inline(always)]
pub fn div_approx(a: f32, b: f32) -> f32 {
    const LARGE: f32 = f32::from_bits((127 + 126) << 23);
    let zero = if b.is_sign_negative() { -0.0 } else { 0.0 };
    let small = a * zero;
    super::canonical(if b.abs() > LARGE && b.is_finite() { small } else { a / b })
}

/// The upper half of an f64: all that `.approx.ftz.f64` reads and writes; subnormal numbers are zero.
#[inline(always)]
fn upper_half(x: f64) -> f64 {
    let x = f64::from_bits(x.to_bits() & 0xffff_ffff_0000_0000);
    if x.abs() < f64::MIN_POSITIVE { 0.0f64.copysign(x) } else { x }
}

/// `rcp.approx.ftz.f64`.
#[inline(always)]
pub fn rcp64(x: f64) -> f64 {
    upper_half(1.0 / upper_half(x))
}

/// `rsqrt.approx.ftz.f64`.
#[inline(always)]
pub fn rsqrt64(x: f64) -> f64 {
    upper_half(1.0 / upper_half(x).sqrt())
}

/// Bounds of relative errors, or of absolute ones where they say so.
pub mod bound {
    /// 2 ulp of 1.
    pub const EX2: f64 = 1.0 / (1 << 22) as f64;
    /// Absolute where the argument is in 0.5 to 2.
    pub const LG2: f64 = 1.0 / (1 << 22) as f64;
    /// 1 ulp.
    pub const RCP: f64 = 1.0 / (1 << 23) as f64;
    pub const SQRT: f64 = 1.0 / (1 << 23) as f64;
    /// 2^-22.9.
    pub const RSQRT: f64 = 1.277e-7;
    /// 2 ulp.
    pub const DIV: f64 = 1.0 / (1 << 23) as f64;
    /// Absolute, 2^-20.5 for arguments in -2 pi to 2 pi.
    pub const SIN: f64 = 6.7e-7;
    pub const TANH: f64 = 1.0 / (1 << 11) as f64;
}

/// -1, 0 or 1, always the same for one argument.
pub fn direction(argument: u32) -> f64 {
    ((argument.wrapping_mul(0x9e37_79b9) >> 13) % 3) as f64 - 1.0
}

/// `result` off by nearly `most`, upwards or downwards or not at all, always the same way for one argument; what is exact in f32 anyway stays, as special values do.
fn err_by(result: f32, most: f64, argument: f32) -> f32 {
    if !result.is_normal() || result.abs() > 1e37 || result.abs() < 1e-37 {
        return result;
    }
    let off = (result as f64 + 0.98 * most * direction(argument.to_bits())) as f32;
    if (off as f64 - result as f64).abs() < most - half_ulp(result) { off } else { result }
}

/// Half a last place of an f32: what `result` itself may be off by.
fn half_ulp(result: f32) -> f64 {
    (f32::from_bits(result.abs().to_bits() + 1) - result.abs()) as f64 / 2.0
}

/// `result` with a relative error.
pub fn err(result: f32, bound: f64, argument: f32) -> f32 {
    err_by(result, bound * result.abs() as f64, argument)
}

/// `result` with an absolute error.
pub fn err_absolute(result: f32, bound: f64, argument: f32) -> f32 {
    err_by(result, bound, argument)
}

/// `ex2` with its error; powers of two stay.
pub fn ex2_erring(x: f32) -> f32 {
    if x == x.trunc() { ex2(x) } else { err(ex2(x), bound::EX2, x) }
}

/// `lg2` with its error: absolute near 1.
pub fn lg2_erring(x: f32) -> f32 {
    let result = lg2(x);
    if x > 0.5 && x < 2.0 { err_absolute(result, bound::LG2, x) } else { err(result, bound::LG2, x) }
}

/// A function of one f32 with subnormal numbers flushed on both sides: `.ftz`.
#[inline(always)]
pub fn flushed(x: f32, f: impl Fn(f32) -> f32) -> f32 {
    flush(f(flush(x)))
}
