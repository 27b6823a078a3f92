//! Arithmetic on f16 and bf16, alone and in pairs (PTX ISA, "Half Precision Floating Point Instructions").
//!
//! Subnormal numbers are numbers unless `.ftz` says otherwise; a NaN that arithmetic makes is 0x7fff.

use super::*;
use crate::warp::float::half::{self, *};
use crate::warp::float::{approximate, max32, min32, rounding, saturate64, with_xor_sign};

pub const TABLES: &[&[Row]] = &[F16_ALONE, F16_PAIRS, BF16_ALONE, BF16_PAIRS];

/// A source as an f64.
#[inline(always)]
fn source<F: Format>(bits: u16, m: Modifiers) -> f64 {
    let bits = if m.has(Modifiers::FTZ) { half::flush::<F>(bits) } else { bits };
    widen::<F>(bits) as f64
}

/// A result that is exact or rounded to odd, rounded to the format.
#[inline(always)]
fn result<F: Format>(x: f64, m: Modifiers) -> u16 {
    let x = if m.has(Modifiers::SAT) { saturate64(x) } else { x };
    let bits = narrow::<F>(x, Rounding::Nearest, false);
    let bits = if m.has(Modifiers::FTZ) { half::flush::<F>(bits) } else { bits };
    if m.has(Modifiers::RELU) { relu::<F>(bits) } else { bits }
}

#[inline(always)]
fn fma<F: Format>(a: u16, b: u16, c: u16, m: Modifiers) -> u16 {
    result::<F>(rounding::fma_to_odd(source::<F>(a, m), source::<F>(b, m), source::<F>(c, m)), m)
}
#[inline(always)]
fn add<F: Format>(a: u16, b: u16, m: Modifiers) -> u16 {
    result::<F>(rounding::fma_to_odd(source::<F>(a, m), 1.0, source::<F>(b, m)), m)
}
#[inline(always)]
fn sub<F: Format>(a: u16, b: u16, m: Modifiers) -> u16 {
    result::<F>(rounding::fma_to_odd(source::<F>(b, m), -1.0, source::<F>(a, m)), m)
}
#[inline(always)]
fn mul<F: Format>(a: u16, b: u16, m: Modifiers) -> u16 {
    result::<F>(source::<F>(a, m) * source::<F>(b, m), m)
}
#[inline(always)]
fn neg<F: Format>(a: u16, m: Modifiers) -> u16 {
    (if m.has(Modifiers::FTZ) { half::flush::<F>(a) } else { a }) ^ 0x8000
}
#[inline(always)]
fn abs<F: Format>(a: u16, m: Modifiers) -> u16 {
    (if m.has(Modifiers::FTZ) { half::flush::<F>(a) } else { a }) & 0x7fff
}

/// `min` and `max` with `.ftz`, `.NaN` and `.xorsign.abs`.
#[inline(always)]
fn extreme<F: Format>(a: u16, b: u16, m: Modifiers, f: impl Fn(f32, f32) -> f32) -> u16 {
    let (a, b) = (source::<F>(a, m) as f32, source::<F>(b, m) as f32);
    let chosen = if m.has(Modifiers::XORSIGN) { with_xor_sign(f(a.abs(), b.abs()), a, b) } else { f(a, b) };
    let nan = chosen.is_nan() || (m.has(Modifiers::NAN) && (a.is_nan() || b.is_nan()));
    if nan { F::NAN } else { narrow::<F>(chosen as f64, Rounding::Nearest, false) }
}

/// An approximation that is the nearest number, and one that is off by up to `most` of an exact value.
#[inline(always)]
fn approximate_by<F: Format>(a: u16, m: Modifiers, f: impl Fn(f32) -> f32) -> u16 {
    result::<F>(f(source::<F>(a, m) as f32) as f64, m)
}
fn erring<F: Format>(exact: f64, most: f64, a: u16) -> u16 {
    let off = narrow::<F>(exact + 0.98 * most * approximate::direction(a as u32), Rounding::Nearest, false);
    let allowed = (widen::<F>(off) as f64 - exact).abs() <= most;
    if allowed { off } else { narrow::<F>(exact, Rounding::Nearest, false) }
}
fn ex2_erring<F: Format>(a: u16, m: Modifiers) -> u16 {
    let exact = source::<F>(a, m).exp2();
    erring::<F>(exact, exact * F::EX2_ERROR, a)
}
fn tanh_erring<F: Format>(a: u16, m: Modifiers) -> u16 {
    let exact = source::<F>(a, m).tanh();
    if exact == 0.0 { approximate_by::<F>(a, m, approximate::tanh) } else { erring::<F>(exact, F::TANH_ERROR, a) }
}

/// One function on both halves of registers.
#[inline(always)]
fn pair1(a: u32, f: impl Fn(u16) -> u16) -> u32 {
    f(a as u16) as u32 | (f((a >> 16) as u16) as u32) << 16
}
#[inline(always)]
fn pair2(a: u32, b: u32, f: impl Fn(u16, u16) -> u16) -> u32 {
    f(a as u16, b as u16) as u32 | (f((a >> 16) as u16, (b >> 16) as u16) as u32) << 16
}
#[inline(always)]
fn pair3(a: u32, b: u32, c: u32, f: impl Fn(u16, u16, u16) -> u16) -> u32 {
    let high = f((a >> 16) as u16, (b >> 16) as u16, (c >> 16) as u16);
    f(a as u16, b as u16, c as u16) as u32 | (high as u32) << 16
}

/// The forms of one format: `$ftz` and `$sat` are the modifiers that it has.
macro_rules! alone {
    ($f:ty, $name:literal, $ftz:literal, $sat:literal, $fma:literal, $ex2:literal) => {
        forms! {
            concat!("add[.rn]", $ftz, $sat, $name) => op!(u16; |a: u16, b: u16; m| add::<$f>(a, b, m));
            concat!("sub[.rn]", $ftz, $sat, $name) => op!(u16; |a: u16, b: u16; m| sub::<$f>(a, b, m));
            concat!("mul[.rn]", $ftz, $sat, $name) => op!(u16; |a: u16, b: u16; m| mul::<$f>(a, b, m));
            concat!("fma.rn", $ftz, $fma, $name) => op!(u16; |a: u16, b: u16, c: u16; m| fma::<$f>(a, b, c, m));
            concat!("neg", $ftz, $name) => op!(u16; |a: u16; m| neg::<$f>(a, m));
            concat!("abs", $ftz, $name) => op!(u16; |a: u16; m| abs::<$f>(a, m));
            concat!("min", $ftz, "[.NaN][.xorsign.abs]", $name) => op!(u16; |a: u16, b: u16; m| extreme::<$f>(a, b, m, min32));
            concat!("max", $ftz, "[.NaN][.xorsign.abs]", $name) => op!(u16; |a: u16, b: u16; m| extreme::<$f>(a, b, m, max32));
            concat!("ex2.approx", $ex2, $name) => op!(u16; |a: u16; m| approximate_by::<$f>(a, m, approximate::ex2))
                .or_err(op!(u16; |a: u16; m| ex2_erring::<$f>(a, m)));
            concat!("tanh.approx", $name) => op!(u16; |a: u16; m| approximate_by::<$f>(a, m, approximate::tanh))
                .or_err(op!(u16; |a: u16; m| tanh_erring::<$f>(a, m)));
        }
    };
}

/// The same on both halves of a register.
macro_rules! pairs {
    ($f:ty, $name:literal, $ftz:literal, $sat:literal, $fma:literal, $ex2:literal) => {
        forms! {
            concat!("add[.rn]", $ftz, $sat, $name) => op!(u32; |a: u32, b: u32; m| pair2(a, b, |a, b| add::<$f>(a, b, m)));
            concat!("sub[.rn]", $ftz, $sat, $name) => op!(u32; |a: u32, b: u32; m| pair2(a, b, |a, b| sub::<$f>(a, b, m)));
            concat!("mul[.rn]", $ftz, $sat, $name) => op!(u32; |a: u32, b: u32; m| pair2(a, b, |a, b| mul::<$f>(a, b, m)));
            concat!("fma.rn", $ftz, $fma, $name) => op!(u32; |a: u32, b: u32, c: u32; m| pair3(a, b, c, |a, b, c| fma::<$f>(a, b, c, m)));
            concat!("neg", $ftz, $name) => op!(u32; |a: u32; m| pair1(a, |a| neg::<$f>(a, m)));
            concat!("abs", $ftz, $name) => op!(u32; |a: u32; m| pair1(a, |a| abs::<$f>(a, m)));
            concat!("min", $ftz, "[.NaN][.xorsign.abs]", $name) => op!(u32; |a: u32, b: u32; m| pair2(a, b, |a, b| extreme::<$f>(a, b, m, min32)));
            concat!("max", $ftz, "[.NaN][.xorsign.abs]", $name) => op!(u32; |a: u32, b: u32; m| pair2(a, b, |a, b| extreme::<$f>(a, b, m, max32)));
            concat!("ex2.approx", $ex2, $name) => op!(u32; |a: u32; m| pair1(a, |a| approximate_by::<$f>(a, m, approximate::ex2)))
                .or_err(op!(u32; |a: u32; m| pair1(a, |a| ex2_erring::<$f>(a, m))));
            concat!("tanh.approx", $name) => op!(u32; |a: u32; m| pair1(a, |a| approximate_by::<$f>(a, m, approximate::tanh)))
                .or_err(op!(u32; |a: u32; m| pair1(a, |a| tanh_erring::<$f>(a, m))));
        }
    };
}

const F16_ALONE: &[Row] = alone!(F16, ".f16", "[.ftz]", "[.sat]", "[.sat|.relu]", "");
const F16_PAIRS: &[Row] = pairs!(F16, ".f16x2", "[.ftz]", "[.sat]", "[.sat|.relu]", "");
const BF16_ALONE: &[Row] = alone!(Bf16, ".bf16", "", "", "[.relu]", ".ftz");
const BF16_PAIRS: &[Row] = pairs!(Bf16, ".bf16x2", "", "", "[.relu]", ".ftz");
