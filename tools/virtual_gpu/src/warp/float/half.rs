//! f16 and bf16: widened to f64, in which every operation is exact or rounded to odd, and rounded back.

use super::super::forms::Rounding;

/// A format of 16 bits.
pub trait Format {
    /// Bits of the fraction.
    const FRACTION: u32;
    /// The least exponent of a normal number.
    const LEAST: i32;
    /// The largest finite number.
    const MAX: f64;
    /// What the conversions to f32 multiply by: f32's least normal number in place of the format's.
    const SCALE: f32;
    const INFINITY: u16;
    const NAN: u16 = 0x7fff;
    /// The relative error that `ex2.approx` may have.
    const EX2_ERROR: f64;
    /// The absolute error that `tanh.approx` may have.
    const TANH_ERROR: f64;
}

/// IEEE 754's binary16.
pub struct F16;
impl Format for F16 {
    const FRACTION: u32 = 10;
    const LEAST: i32 = -14;
    const MAX: f64 = 65504.0;
    const SCALE: f32 = f32::from_bits((127 + 112) << 23);
    const INFINITY: u16 = 0x7c00;
    /// 2^-9.9.
    const EX2_ERROR: f64 = 1.0466e-3;
    /// 2^-10.987.
    const TANH_ERROR: f64 = 4.927e-4;
}

/// The upper half of an f32.
pub struct Bf16;
impl Format for Bf16 {
    const FRACTION: u32 = 7;
    const LEAST: i32 = -126;
    const MAX: f64 = f32::from_bits(0x7f7f_0000) as f64;
    const SCALE: f32 = 1.0;
    const INFINITY: u16 = 0x7f80;
    /// 2^-7.
    const EX2_ERROR: f64 = 1.0 / 128.0;
    /// 2^-8.
    const TANH_ERROR: f64 = 1.0 / 256.0;
}

/// The number that the bits stand for.
#[inline(always)]
pub fn widen<F: Format>(bits: u16) -> f32 {
    let magnitude = f32::from_bits(((bits & 0x7fff) as u32) << (23 - F::FRACTION)) * F::SCALE;
    let magnitude =
        if bits & F::INFINITY == F::INFINITY { magnitude.to_bits() | 0x7f80_0000 } else { magnitude.to_bits() };
    f32::from_bits(magnitude | ((bits & 0x8000) as u32) << 16)
}

/// 2 to the power of `exponent`, which is one of a normal f64.
#[inline(always)]
fn power(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

/// An f64 rounded to the format. Its finite overflow is infinite, or the largest number where the rounding is directed or `finite` asks for it.
#[inline(always)]
pub fn narrow<F: Format>(x: f64, rounding: Rounding, finite: bool) -> u16 {
    let magnitude = x.abs();
    let exponent = (((magnitude.to_bits() >> 52) as i32) - 1023).max(F::LEAST);
    let step = power(exponent.min(200) - F::FRACTION as i32);
    // an f64 of this size has the format's last place in its own
    let shift = power(exponent.min(200) - F::FRACTION as i32 + 52);
    let nearest = (magnitude + shift) - shift;
    let down = if nearest > magnitude { nearest - step } else { nearest };
    let up = if nearest < magnitude { nearest + step } else { nearest };
    let away = if x.is_sign_negative() { rounding == Rounding::Down } else { rounding == Rounding::Up };
    let rounded = match rounding {
        Rounding::Nearest => nearest,
        _ if away => up,
        _ => down,
    };
    let to_largest = finite || (magnitude.is_finite() && rounding != Rounding::Nearest && !away);
    let bits =
        if rounded > F::MAX { if to_largest { F::INFINITY - 1 } else { F::INFINITY } } else { encode::<F>(rounded) };
    if x.is_nan() { F::NAN } else { bits | (x.is_sign_negative() as u16) << 15 }
}

/// The bits of a number that the format holds and that is not negative.
#[inline(always)]
fn encode<F: Format>(x: f64) -> u16 {
    ((x as f32 / F::SCALE).to_bits() >> (23 - F::FRACTION)) as u16
}

/// The nearest bf16 of an f32.
#[inline(always)]
pub fn to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    if x.is_nan() { Bf16::NAN } else { rounded as u16 }
}

/// `.ftz` of f16: subnormal numbers become zeros of their sign.
#[inline(always)]
pub fn flush<F: Format>(bits: u16) -> u16 {
    if bits & F::INFINITY == 0 { bits & 0x8000 } else { bits }
}

/// `.relu`: negative numbers become +0, and a NaN the format's.
#[inline(always)]
pub fn relu<F: Format>(bits: u16) -> u16 {
    let nan = bits & 0x7fff > F::INFINITY;
    if nan {
        F::NAN
    } else if bits & 0x8000 != 0 {
        0
    } else {
        bits
    }
}
