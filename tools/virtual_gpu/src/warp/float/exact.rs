//! Directed roundings to f64, from integers that hold the exact result or a bit that says more follows. Slow; few kernels use them.

use super::super::forms::Rounding;

/// A number `significand * 2^exponent`; the lowest bit is set where anything below it is missing.
#[derive(Clone, Copy)]
struct Exact {
    negative: bool,
    significand: u128,
    exponent: i32,
}

fn unpack(x: f64) -> Exact {
    let bits = x.to_bits();
    let (biased, fraction) = ((bits >> 52 & 0x7ff) as i32, bits & ((1 << 52) - 1));
    let significand = if biased == 0 { fraction } else { fraction | 1 << 52 };
    Exact { negative: x.is_sign_negative(), significand: significand as u128, exponent: biased.max(1) - 1075 }
}

/// A shift to the right that keeps in the lowest bit whether anything was lost.
fn shift_right(value: u128, amount: u32) -> u128 {
    match amount {
        0 => value,
        1..=127 => value >> amount | (value << (128 - amount) != 0) as u128,
        _ => (value != 0) as u128,
    }
}

/// The significand moved up to leave only bit 127 free.
fn normalize(x: Exact) -> Exact {
    let up = x.significand.leading_zeros().saturating_sub(1);
    Exact { significand: x.significand << up, exponent: x.exponent - up as i32, ..x }
}

/// 2 to a power that an f64 holds.
fn two_to(exponent: i32) -> f64 {
    f64::from_bits(if exponent < -1022 { 1 << (exponent + 1074) } else { ((exponent + 1023) as u64) << 52 })
}

fn round(x: Exact, rounding: Rounding) -> f64 {
    let sign = if x.negative { -1.0 } else { 1.0 };
    let away = match rounding {
        Rounding::Down => x.negative,
        Rounding::Up => !x.negative,
        _ => false,
    };
    // the exponents of the highest bit and of the last place
    let top = 127 - x.significand.leading_zeros() as i32 + x.exponent;
    let last = (top - 52).max(-1074);
    // two bits below the last place: 2 is a tie
    let drop = last - 2 - x.exponent;
    let quarters = if drop < 0 { x.significand << -drop } else { shift_right(x.significand, drop as u32) };
    let (kept, rest) = ((quarters >> 2) as u64, quarters & 3);
    let up = match rounding {
        Rounding::Nearest => rest == 3 || (rest == 2 && kept & 1 != 0),
        _ => away && rest != 0,
    };
    let rounded = kept + up as u64;
    if top > 1023 || (top == 1023 && rounded >> 53 != 0) {
        let infinite = rounding == Rounding::Nearest || away;
        return sign * if infinite { f64::INFINITY } else { f64::MAX };
    }
    sign * (rounded as f64 * two_to(last))
}

/// `a * b + c`, rounded once.
pub fn fma(a: f64, b: f64, c: f64, rounding: Rounding) -> f64 {
    if !(a.is_finite() && b.is_finite() && c.is_finite()) {
        return a.mul_add(b, c);
    }
    let (x, y, z) = (unpack(a), unpack(b), unpack(c));
    let product = Exact {
        negative: x.negative != y.negative,
        significand: x.significand * y.significand,
        exponent: x.exponent + y.exponent,
    };
    if product.significand == 0 && z.significand == 0 {
        let negative = if product.negative == z.negative { z.negative } else { rounding == Rounding::Down };
        return if negative { -0.0 } else { 0.0 };
    }
    round_sum(product, z, rounding)
}

fn round_sum(x: Exact, y: Exact, rounding: Rounding) -> f64 {
    let (x, y) = (normalize(x), normalize(y));
    let first =
        x.significand != 0 && (y.significand == 0 || (x.exponent, x.significand) >= (y.exponent, y.significand));
    let (large, small) = if first { (x, y) } else { (y, x) };
    let distance = if small.significand == 0 { 0 } else { (large.exponent - small.exponent) as u32 };
    let small_significand = shift_right(small.significand, distance);
    let significand = if large.negative == small.negative {
        large.significand + small_significand
    } else {
        large.significand - small_significand
    };
    if significand == 0 {
        return if rounding == Rounding::Down { -0.0 } else { 0.0 };
    }
    round(Exact { significand, ..large }, rounding)
}

/// `a + b`.
pub fn add(a: f64, b: f64, rounding: Rounding) -> f64 {
    fma(a, 1.0, b, rounding)
}

/// `a * b`.
pub fn mul(a: f64, b: f64, rounding: Rounding) -> f64 {
    let zero = if a.is_sign_negative() != b.is_sign_negative() { -0.0 } else { 0.0 };
    fma(a, b, zero, rounding)
}

/// `a / b`.
pub fn div(a: f64, b: f64, rounding: Rounding) -> f64 {
    let nearest = a / b;
    if !(a.is_finite() && b.is_finite()) || a == 0.0 || b == 0.0 {
        return nearest;
    }
    let (x, y) = (normalize(unpack(a)), unpack(b));
    // 127 bits by 53: at least 74 of the quotient
    let quotient = (x.significand / y.significand) | (x.significand % y.significand != 0) as u128;
    round(
        Exact { negative: x.negative != y.negative, significand: quotient, exponent: x.exponent - y.exponent },
        rounding,
    )
}

/// The square root of `a`.
pub fn sqrt(a: f64, rounding: Rounding) -> f64 {
    if !(a > 0.0 && a.is_finite()) {
        return a.sqrt();
    }
    let mut x = normalize(unpack(a));
    if x.exponent & 1 != 0 {
        x = Exact { significand: x.significand >> 1, exponent: x.exponent + 1, ..x };
    }
    let root = x.significand.isqrt();
    let significand = root | (root * root != x.significand) as u128;
    round(Exact { significand, exponent: x.exponent / 2, ..x }, rounding)
}

/// An integer of at most 64 bits and a sign.
pub fn from_integer(x: i128, rounding: Rounding) -> f64 {
    if x == 0 {
        return 0.0;
    }
    round(Exact { negative: x < 0, significand: x.unsigned_abs(), exponent: 0 }, rounding)
}
