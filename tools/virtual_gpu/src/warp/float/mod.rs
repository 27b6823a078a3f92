//! Floating-point numbers as the PTX ISA's "Floating Point Instructions" state them: roundings, small formats, minima, approximations.

pub mod approximate;
pub mod exact;
pub mod half;
pub mod rounding;
pub mod tf32;

/// The NaN that arithmetic on f32 makes.
pub const NAN32: f32 = f32::from_bits(0x7fff_ffff);

/// `x` with every NaN replaced by the one that arithmetic on f32 makes. The choice is one of bits: of floats, the compiler may take one NaN for another.
#[inline(always)]
pub fn canonical(x: f32) -> f32 {
    f32::from_bits(if x.is_nan() { NAN32.to_bits() } else { x.to_bits() })
}

/// The square root, or the NaN of arithmetic: the compiler makes of `canonical(a.sqrt())` a test that NaN passes.
#[inline(always)]
pub fn root(a: f32) -> f32 {
    let bits = a.to_bits();
    let real = bits <= f32::INFINITY.to_bits() || bits == (-0.0f32).to_bits();
    f32::from_bits(if real { a.sqrt().to_bits() } else { NAN32.to_bits() })
}

/// `.ftz`: subnormal numbers become zeros of their sign.
#[inline(always)]
pub fn flush(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { f32::from_bits(x.to_bits() & 0x8000_0000) } else { x }
}

/// `.sat`: clamped to 0 to 1; a NaN and -0 become +0.
#[inline(always)]
pub fn saturate(x: f32) -> f32 {
    if x > 0.0 { if x < 1.0 { x } else { 1.0 } } else { 0.0 }
}

/// The same of an f64, in which smaller formats are computed.
#[inline(always)]
pub fn saturate64(x: f64) -> f64 {
    if x > 0.0 { if x < 1.0 { x } else { 1.0 } } else { 0.0 }
}

macro_rules! extremes {
    ($max:ident, $min:ident, $t:ty, $nan:expr) => {
        /// The larger number, where +0 is above -0; a NaN yields to a number.
        #[inline(always)]
        pub fn $max(a: $t, b: $t) -> $t {
            let zeros = <$t>::from_bits(a.to_bits() & b.to_bits());
            let larger = if a > b { a } else { b };
            let both = if a == b { zeros } else { larger };
            let one = if a.is_nan() {
                b
            } else if b.is_nan() {
                a
            } else {
                both
            };
            if one.is_nan() { $nan } else { one }
        }
        /// The smaller number, where -0 is below +0; a NaN yields to a number.
        #[inline(always)]
        pub fn $min(a: $t, b: $t) -> $t {
            let zeros = <$t>::from_bits(a.to_bits() | b.to_bits());
            let smaller = if a < b { a } else { b };
            let both = if a == b { zeros } else { smaller };
            let one = if a.is_nan() {
                b
            } else if b.is_nan() {
                a
            } else {
                both
            };
            if one.is_nan() { $nan } else { one }
        }
    };
}
extremes!(max32, min32, f32, NAN32);
extremes!(max64, min64, f64, f64::NAN);

/// `.xorsign.abs`: the magnitude of `x` with the product of the signs of `a` and `b`.
#[inline(always)]
pub fn with_xor_sign(x: f32, a: f32, b: f32) -> f32 {
    f32::from_bits((x.to_bits() & 0x7fff_ffff) | ((a.to_bits() ^ b.to_bits()) & 0x8000_0000))
}
