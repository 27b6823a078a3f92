//! Conversions (PTX ISA, `cvt` of "Data Movement and Conversion Instructions").
//!
//! A destination narrower than its slot is extended to 32 bits by its own sign, as a wider destination register expects.

use super::*;
use crate::warp::float::half::{self, *};
use crate::warp::float::rounding::{narrow as narrow_sum, sum_of_integer, to_integer};
use crate::warp::float::{canonical, exact, flush, saturate, saturate64, tf32};

/// The low part of a register of 64 bits as a `T`.
#[derive(Clone, Copy, Default)]
struct Low<T>(T);
macro_rules! low {
    ($($t:ty)*) => { $(
        impl Lane for Low<$t> {
            const D: bool = true;
            #[inline(always)]
            unsafe fn at(lanes: *const u32, lane: usize) -> Self {
                Low(unsafe { u64::at(lanes, lane) } as $t)
            }
            #[inline(always)]
            unsafe fn put(lanes: *mut u32, lane: usize, value: Self) {
                unsafe { u64::put(lanes, lane, value.0 as u64) }
            }
        }
    )* };
}
low!(u8 i8 u16 i16 u32 i32);

/// Integer to integer, where what does not fit is cut off, or clamped by `.sat`: `$slot` is the destination in its slot.
macro_rules! cut {
    ($d:ty, $slot:ty, $s:ty) => { op!($slot; |x: $s| x as $d as $slot) };
}
macro_rules! cut_narrow {
    ($d:ty, $slot:ty, $s:ty) => { cut!($d, $slot, $s).low(op!($slot; |x: Low<$s>| x.0 as $d as $slot)) };
}
macro_rules! clamp {
    ($d:ty, $slot:ty, $s:ty) => {
        op!($slot; |x: $s| (x as i128).clamp(<$d>::MIN as i128, <$d>::MAX as i128) as $d as $slot)
    };
}

/// All conversions from one type of integer: `$cut` makes the code of those that cut.
macro_rules! from_integer {
    ($s:ty, $name:literal, $cut:ident) => {
        forms! {
            concat!("cvt.u8.", $name) => $cut!(u8, u32, $s);
            concat!("cvt.s8.", $name) => $cut!(i8, i32, $s);
            concat!("cvt.u16.", $name) => $cut!(u16, u32, $s);
            concat!("cvt.s16.", $name) => $cut!(i16, i32, $s);
            concat!("cvt.u32.", $name) => $cut!(u32, u32, $s);
            concat!("cvt.s32.", $name) => $cut!(i32, i32, $s);
            concat!("cvt.u64.", $name) => $cut!(u64, u64, $s);
            concat!("cvt.s64.", $name) => $cut!(i64, i64, $s);
            concat!("cvt.sat.u8.", $name) => clamp!(u8, u32, $s);
            concat!("cvt.sat.s8.", $name) => clamp!(i8, i32, $s);
            concat!("cvt.sat.u16.", $name) => clamp!(u16, u32, $s);
            concat!("cvt.sat.s16.", $name) => clamp!(i16, i32, $s);
            concat!("cvt.sat.u32.", $name) => clamp!(u32, u32, $s);
            concat!("cvt.sat.s32.", $name) => clamp!(i32, i32, $s);
            concat!("cvt.sat.u64.", $name) => clamp!(u64, u64, $s);
            concat!("cvt.sat.s64.", $name) => clamp!(i64, i64, $s);
            concat!("cvt.rn.f32.", $name) => op!(f32; |x: $s| x as f32);
            concat!("cvt(.rz|.rm|.rp).f32.", $name) => op!(f32; |x: $s; m| {
                let (sum, rest) = sum_of_integer(x as i128);
                narrow_sum(sum, rest, m.rounding())
            });
            concat!("cvt.rn.f64.", $name) => op!(f64; |x: $s| x as f64);
            concat!("cvt(.rz|.rm|.rp).f64.", $name) => op!(f64; |x: $s; m| exact::from_integer(x as i128, m.rounding()));
            concat!("cvt(.rn|.rz|.rm|.rp).f16.", $name) => op!(u16; |x: $s; m| half_of_integer::<F16>(x as i128, m));
            concat!("cvt(.rn|.rz|.rm|.rp).bf16.", $name) => op!(u16; |x: $s; m| half_of_integer::<Bf16>(x as i128, m));
        }
    };
}

fn half_of_integer<F: Format>(x: i128, m: Modifiers) -> u16 {
    let (sum, rest) = sum_of_integer(x);
    half::narrow::<F>(crate::warp::float::rounding::to_odd(sum, rest), m.rounding(), false)
}

/// A floating-point number to an integer: clamped, and a NaN is 0 or, where `$nan` is `top`, the highest bit.
macro_rules! integer {
    ($d:ty, $slot:ty, $x:expr, $m:expr, $nan:ident) => {{
        let x: f64 = $x;
        (if x.is_nan() { integer!(@$nan $d) } else { to_integer(x, $m.rounding()) as $d }) as $slot
    }};
    (@zero $d:ty) => { 0 };
    (@top $d:ty) => { (1 as $d) << (<$d>::BITS - 1) };
}

/// Conversions to integers from one floating-point type, held in `$s` and widened by `$value`. `$nan` is what a NaN becomes in up to 32 bits; in 64 it is the highest bit.
macro_rules! to_integers {
    ($s:ty, $ftz:literal, $name:literal, $rzi:literal, $nan:ident, |$x:ident, $m:ident| $value:expr) => {
        forms! {
            concat!("cvt(.rni|.rzi|.rmi|.rpi)", $ftz, "[.sat].u8.", $name) => op!(u32; |$x: $s; $m| integer!(u8, u32, $value, $m, $nan));
            concat!("cvt(.rni|.rzi|.rmi|.rpi)", $ftz, "[.sat].s8.", $name) => op!(i32; |$x: $s; $m| integer!(i8, i32, $value, $m, $nan));
            concat!("cvt(.rni|.rzi|.rmi|.rpi)", $ftz, "[.sat].u16.", $name) => op!(u32; |$x: $s; $m| integer!(u16, u32, $value, $m, $nan));
            concat!("cvt(.rni|.rzi|.rmi|.rpi)", $ftz, "[.sat].s16.", $name) => op!(i32; |$x: $s; $m| integer!(i16, i32, $value, $m, $nan));
            concat!("cvt(.rni|.rzi|.rmi|.rpi)", $ftz, "[.sat].u32.", $name) => op!(u32; |$x: $s; $m| integer!(u32, u32, $value, $m, $nan));
            concat!("cvt(.rni|", $rzi, ".rmi|.rpi)", $ftz, "[.sat].s32.", $name) => op!(i32; |$x: $s; $m| integer!(i32, i32, $value, $m, $nan));
            concat!("cvt(.rni|.rzi|.rmi|.rpi)", $ftz, "[.sat].u64.", $name) => op!(u64; |$x: $s; $m| integer!(u64, u64, $value, $m, top));
            concat!("cvt(.rni|.rzi|.rmi|.rpi)", $ftz, "[.sat].s64.", $name) => op!(i64; |$x: $s; $m| integer!(i64, i64, $value, $m, top));
        }
    };
}

/// `.ftz` of a source in f32.
#[inline(always)]
fn source(x: f32, m: Modifiers) -> f32 {
    if m.has(Modifiers::FTZ) { flush(x) } else { x }
}

/// `.ftz` and `.sat` of a result in f32, and its NaN.
#[inline(always)]
fn single(x: f32, m: Modifiers) -> f32 {
    let x = if m.has(Modifiers::FTZ) { flush(x) } else { x };
    if m.has(Modifiers::SAT) { saturate(x) } else { canonical(x) }
}

/// A result in f64.
#[inline(always)]
fn double(x: f64, m: Modifiers) -> f64 {
    if m.has(Modifiers::SAT) { saturate64(x) } else { x }
}

/// A result in 16 bits.
#[inline(always)]
fn half_of<F: Format>(x: f64, m: Modifiers) -> u16 {
    let bits = half::narrow::<F>(double(x, m), m.rounding(), m.has(Modifiers::SATFINITE));
    if m.has(Modifiers::RELU) { relu::<F>(bits) } else { bits }
}

/// The integer that a number is rounded to, in the number's own format.
#[inline(always)]
fn whole<F: Format>(x: u16, m: Modifiers) -> u16 {
    half_of::<F>(to_integer(widen::<F>(x) as f64, m.rounding()), Modifiers(m.0 & Modifiers::SAT))
}

pub const TABLES: &[&[Row]] = &[
    from_integer!(u8, "u8", cut_narrow),
    from_integer!(i8, "s8", cut_narrow),
    from_integer!(u16, "u16", cut_narrow),
    from_integer!(i16, "s16", cut_narrow),
    from_integer!(u32, "u32", cut_narrow),
    from_integer!(i32, "s32", cut_narrow),
    from_integer!(u64, "u64", cut),
    from_integer!(i64, "s64", cut),
    to_integers!(u16, "", "f16", ".rzi|", zero, |x, m| widen::<F16>(x) as f64),
    to_integers!(u16, "", "bf16", ".rzi|", zero, |x, m| widen::<Bf16>(x) as f64),
    to_integers!(f32, "[.ftz]", "f32", "", zero, |x, m| source(x, m) as f64),
    to_integers!(f64, "", "f64", ".rzi|", top, |x, m| x),
    FLOATS,
    HALVES,
];

const FLOATS: &[Row] = forms! {
    "cvt.rzi[.ftz][.sat].s32.f32" => op!(i32; |x: f32| x as i32);
    "cvt[.ftz][.sat].f32.f32" => op!(f32; |x: f32; m| single(source(x, m), m));
    "cvt(.rni|.rzi|.rmi|.rpi)[.ftz][.sat].f32.f32" => op!(f32; |x: f32; m| single(to_integer(source(x, m) as f64, m.rounding()) as f32, m));
    "cvt[.sat].f64.f64" => op!(f64; |x: f64; m| double(x, m));
    "cvt(.rni|.rzi|.rmi|.rpi)[.sat].f64.f64" => op!(f64; |x: f64; m| double(to_integer(x, m.rounding()), m));
    "cvt.f64.f32" => op!(f64; |x: f32| x as f64);
    "cvt(.ftz|.sat|.ftz.sat).f64.f32" => op!(f64; |x: f32; m| double(source(x, m) as f64, m));
    "cvt.rn.f32.f64" => op!(f32; |x: f64| canonical(x as f32));
    "cvt.rn(.ftz|.sat|.ftz.sat).f32.f64" => op!(f32; |x: f64; m| single(x as f32, m));
    "cvt(.rz|.rm|.rp)[.ftz][.sat].f32.f64" => op!(f32; |x: f64; m| single(narrow_sum(x, 0.0, m.rounding()), m));
    "cvt.rna[.satfinite].tf32.f32" => op!(u32; |x: f32; m| tf32::saturate(tf32::nearest_away(x), m.has(Modifiers::SATFINITE)));
    "cvt(.rn|.rz)[.satfinite][.relu].tf32.f32" => op!(u32; |x: f32; m| tf32::round(x, m.rounding() == Rounding::Zero, m.has(Modifiers::SATFINITE), m.has(Modifiers::RELU)));
    "cvt(.rn|.rz).relu.satfinite.tf32.f32" => op!(u32; |x: f32; m| tf32::round(x, m.rounding() == Rounding::Zero, true, true));
};

const HALVES: &[Row] = forms! {
    "cvt[.ftz][.sat].f32.f16" => op!(f32; |x: u16; m| single(widen::<F16>(x), m));
    "cvt[.ftz][.sat].f32.bf16" => op!(f32; |x: u16; m| single(widen::<Bf16>(x), m));
    "cvt[.sat].f64.f16" => op!(f64; |x: u16; m| double(widen::<F16>(x) as f64, m));
    "cvt[.sat].f64.bf16" => op!(f64; |x: u16; m| double(widen::<Bf16>(x) as f64, m));
    "cvt(.rn|.rz|.rm|.rp)[.ftz][.sat].f16.f32" => op!(u16; |x: f32; m| half_of::<F16>(source(x, m) as f64, m));
    "cvt(.rn|.rz)(.relu|.satfinite|.relu.satfinite).f16.f32" => op!(u16; |x: f32; m| half_of::<F16>(x as f64, m));
    "cvt.rn.bf16.f32" => op!(u16; |x: f32| to_bf16(x));
    "cvt.rn(.ftz|.sat|.ftz.sat).bf16.f32" => op!(u16; |x: f32; m| half_of::<Bf16>(source(x, m) as f64, m));
    "cvt(.rz|.rm|.rp)[.ftz][.sat].bf16.f32" => op!(u16; |x: f32; m| half_of::<Bf16>(source(x, m) as f64, m));
    "cvt(.rn|.rz)(.relu|.satfinite|.relu.satfinite).bf16.f32" => op!(u16; |x: f32; m| half_of::<Bf16>(x as f64, m));
    "cvt(.rn|.rz|.rm|.rp)[.sat].f16.f64" => op!(u16; |x: f64; m| half_of::<F16>(x, m));
    "cvt(.rn|.rz|.rm|.rp)[.sat].bf16.f64" => op!(u16; |x: f64; m| half_of::<Bf16>(x, m));
    "cvt(.rn|.rz|.rm|.rp)[.sat].bf16.f16" => op!(u16; |x: u16; m| half_of::<Bf16>(widen::<F16>(x) as f64, m));
    "cvt(.rn|.rz|.rm|.rp)[.sat].f16.bf16" => op!(u16; |x: u16; m| half_of::<F16>(widen::<Bf16>(x) as f64, m));
    "cvt(.rni|.rzi|.rmi|.rpi)[.sat].f16.f16" => op!(u16; |x: u16; m| whole::<F16>(x, m));
    "cvt(.rni|.rzi|.rmi|.rpi)[.sat].bf16.bf16" => op!(u16; |x: u16; m| whole::<Bf16>(x, m));
    "cvt(.rn|.rz)[.relu][.satfinite].f16x2.f32" => op!(u32; |x: f32, y: f32; m| (half_of::<F16>(x as f64, m) as u32) << 16 | half_of::<F16>(y as f64, m) as u32);
    "cvt.rn.bf16x2.f32" => op!(u32; |x: f32, y: f32| (to_bf16(x) as u32) << 16 | to_bf16(y) as u32);
    "cvt.rn(.relu|.satfinite|.relu.satfinite).bf16x2.f32" => op!(u32; |x: f32, y: f32; m| (half_of::<Bf16>(x as f64, m) as u32) << 16 | half_of::<Bf16>(y as f64, m) as u32);
    "cvt.rz[.relu][.satfinite].bf16x2.f32" => op!(u32; |x: f32, y: f32; m| (half_of::<Bf16>(x as f64, m) as u32) << 16 | half_of::<Bf16>(y as f64, m) as u32);
};
