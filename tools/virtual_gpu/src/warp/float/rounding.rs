//! Directed roundings to f32 of results that an f64 holds exactly, or with a known remainder.

use super::super::forms::Rounding;

/// `a + b` as the nearest f64 and what is missing.
#[inline(always)]
pub fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let t = sum - a;
    (sum, (a - (sum - t)) + (b - t))
}

/// The next f32 below a number that is neither NaN nor -inf.
#[inline(always)]
fn next_down(x: f32) -> f32 {
    let bits = x.to_bits();
    let next = if x > 0.0 {
        bits.wrapping_sub(1)
    } else if x == 0.0 {
        0x8000_0001
    } else {
        bits.wrapping_add(1)
    };
    f32::from_bits(next)
}

/// `sum + rest` rounded down, where `sum` is the nearest f64.
#[inline(always)]
pub fn down(sum: f64, rest: f64) -> f32 {
    let nearest = sum as f32;
    let wide = nearest as f64;
    let above = wide > sum || (wide == sum && rest < 0.0);
    if above { next_down(nearest) } else { nearest }
}

/// `sum + rest` rounded to odd: an f64 that later roundings cannot take for a tie. `sum` is the nearest f64.
#[inline(always)]
pub fn to_odd(sum: f64, rest: f64) -> f64 {
    let bits = sum.to_bits();
    let inexact = rest != 0.0 && sum.is_finite() && bits & 1 == 0;
    // towards the rest: away from zero where it has the sign of the sum
    let away = (rest > 0.0) == (sum > 0.0);
    let odd = if away { bits.wrapping_add(1) } else { bits.wrapping_sub(1) };
    if inexact { f64::from_bits(odd) } else { sum }
}

/// `sum + rest` as an f32, where `sum` is the nearest f64.
#[inline(always)]
pub fn narrow(sum: f64, rest: f64, rounding: Rounding) -> f32 {
    match rounding {
        Rounding::Nearest => to_odd(sum, rest) as f32,
        Rounding::Down => down(sum, rest),
        Rounding::Up => -down(-sum, -rest),
        Rounding::Zero if sum < 0.0 => -down(-sum, -rest),
        Rounding::Zero => down(sum, rest),
    }
}

/// The nearest f64 of `a + b` and what is missing; an exact zero is -0 where the rounding goes down, as IEEE 754 has it.
#[inline(always)]
pub fn sum(a: f64, b: f64, rounding: Rounding) -> (f64, f64) {
    let (sum, rest) = two_sum(a, b);
    let zero = if rounding == Rounding::Down { -(-a - b) } else { sum };
    (if sum == 0.0 { zero } else { sum }, rest)
}

/// `a * b + c` to odd in f64, for operands whose product an f64 holds: what f16 and bf16 are rounded from.
#[inline(always)]
pub fn fma_to_odd(a: f64, b: f64, c: f64) -> f64 {
    let (sum, rest) = two_sum(a * b, c);
    to_odd(sum, rest)
}

/// `a + b` of f32.
#[inline(always)]
pub fn add(a: f32, b: f32, rounding: Rounding) -> f32 {
    let (sum, rest) = sum(a as f64, b as f64, rounding);
    narrow(sum, rest, rounding)
}

/// `a * b` of f32, which an f64 holds.
#[inline(always)]
pub fn mul(a: f32, b: f32, rounding: Rounding) -> f32 {
    narrow(a as f64 * b as f64, 0.0, rounding)
}

/// `a * b + c` of f32, rounded once.
#[inline(always)]
pub fn fma(a: f32, b: f32, c: f32, rounding: Rounding) -> f32 {
    let (sum, rest) = sum(a as f64 * b as f64, c as f64, rounding);
    narrow(sum, rest, rounding)
}

/// `a / b` of f32: an f64 quotient is an f32 only where the quotient is one.
#[inline(always)]
pub fn div(a: f32, b: f32, rounding: Rounding) -> f32 {
    narrow(a as f64 / b as f64, 0.0, rounding)
}

/// The square root of an f32, by the same argument.
#[inline(always)]
pub fn sqrt(a: f32, rounding: Rounding) -> f32 {
    narrow((a as f64).sqrt(), 0.0, rounding)
}

/// An f64 rounded to an integer.
#[inline(always)]
pub fn to_integer(x: f64, rounding: Rounding) -> f64 {
    match rounding {
        Rounding::Nearest => x.round_ties_even(),
        Rounding::Zero => x.trunc(),
        Rounding::Down => x.floor(),
        Rounding::Up => x.ceil(),
    }
}

/// An integer as the nearest f64 and what is missing.
#[inline(always)]
pub fn sum_of_integer(x: i128) -> (f64, f64) {
    let nearest = x as f64;
    (nearest, (x - nearest as i128) as f64)
}
