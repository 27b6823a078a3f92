//! Roundings and functions of single numbers as the PTX ISA states them.

#[inline(always)]
pub fn fmax32(a: f32, b: f32) -> f32 {
    let eq = f32::from_bits(a.to_bits() & b.to_bits());
    let m = if a == b {
        eq
    } else if a > b {
        a
    } else {
        b
    };
    if a.is_nan() {
        b
    } else if b.is_nan() {
        a
    } else {
        m
    }
}
#[inline(always)]
pub fn fmin32(a: f32, b: f32) -> f32 {
    let eq = f32::from_bits(a.to_bits() | b.to_bits());
    let m = if a == b {
        eq
    } else if a < b {
        a
    } else {
        b
    };
    if a.is_nan() {
        b
    } else if b.is_nan() {
        a
    } else {
        m
    }
}
#[inline(always)]
pub fn fmax64(a: f64, b: f64) -> f64 {
    let eq = f64::from_bits(a.to_bits() & b.to_bits());
    let m = if a == b {
        eq
    } else if a > b {
        a
    } else {
        b
    };
    if a.is_nan() {
        b
    } else if b.is_nan() {
        a
    } else {
        m
    }
}
#[inline(always)]
pub fn fmin64(a: f64, b: f64) -> f64 {
    let eq = f64::from_bits(a.to_bits() | b.to_bits());
    let m = if a == b {
        eq
    } else if a < b {
        a
    } else {
        b
    };
    if a.is_nan() {
        b
    } else if b.is_nan() {
        a
    } else {
        m
    }
}

/// The next f32 towards minus infinity.
#[inline(always)]
pub fn down32(x: f32) -> f32 {
    let b = x.to_bits();
    let y = if x > 0.0 {
        b.wrapping_sub(1)
    } else if x == 0.0 {
        0x8000_0001
    } else {
        b.wrapping_add(1)
    };
    f32::from_bits(y)
}
/// s + e, where s is the rounded f64 sum and e what is missing, rounded down to f32.
#[inline(always)]
pub fn round_down(s: f64, e: f64) -> f32 {
    let f = s as f32;
    let g = f as f64;
    let over = g > s || (g == s && e < 0.0);
    let r = if over { down32(f) } else { f };
    if f.is_finite() { r } else { f }
}
#[inline(always)]
pub fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let s = a + b;
    let t = s - a;
    (s, (a - (s - t)) + (b - t))
}
#[inline(always)]
pub fn fma_rm(a: f32, b: f32, c: f32) -> f32 {
    let (s, e) = two_sum(a as f64 * b as f64, c as f64);
    round_down(s, e)
}
#[inline(always)]
pub fn add_rz(a: f32, b: f32) -> f32 {
    let (s, e) = two_sum(a as f64, b as f64);
    let down = round_down(s, e);
    let up = -round_down(-s, -e);
    if s >= 0.0 { down } else { up }
}

/// 2^x to half an ulp or so; the chip's is within 2 ulp.
#[inline(always)]
pub fn ex2(x: f32) -> f32 {
    let y = x as f64;
    let y = if y > 200.0 {
        200.0
    } else if y < -200.0 {
        -200.0
    } else {
        y
    };
    let n = y.round_ties_even();
    let t = (y - n) * std::f64::consts::LN_2;
    // Taylor to t^9: |t| <= 0.347, the rest is below 1e-11
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
    if x.is_nan() { x } else { r }
}
#[inline(always)]
pub fn flush(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { f32::from_bits(x.to_bits() & 0x8000_0000) } else { x }
}
#[inline(always)]
pub fn to_bf16(x: f32) -> u16 {
    let u = x.to_bits();
    let r = u.wrapping_add(0x7fff + (u >> 16 & 1)) >> 16;
    if x.is_nan() { 0x7fff } else { r as u16 }
}
#[inline(always)]
pub fn rna_tf32(x: f32) -> u32 {
    let u = x.to_bits();
    if u & 0x7f80_0000 == 0x7f80_0000 {
        if x.is_nan() { 0x7fff_ffff } else { u }
    } else {
        u.wrapping_add(0x1000) & 0xffff_e000
    }
}
/// 1/x: the upper 32 bits of the double only, subnormals flushed; relative error 2^-23.
#[inline(always)]
pub fn rcp_approx64(x: f64) -> f64 {
    let x = if x.abs() < f64::MIN_POSITIVE { 0.0f64.copysign(x) } else { x };
    let r = 1.0 / x;
    let r = f64::from_bits(r.to_bits() & 0xffff_ffff_0000_0000);
    if r.abs() < f64::MIN_POSITIVE { 0.0f64.copysign(r) } else { r }
}
