//! tf32: an f32 whose 13 lowest bits are zero.

const INFINITY: u32 = 0x7f80_0000;
const NAN: u32 = 0x7fff_ffff;
const LARGEST: u32 = 0x7f7f_e000;
const KEPT: u32 = 0xffff_e000;
const SIGN: u32 = 0x8000_0000;

/// The nearest tf32, ties away from zero: `.rna`.
#[inline(always)]
pub fn nearest_away(x: f32) -> u32 {
    let bits = x.to_bits();
    if bits & INFINITY == INFINITY { if x.is_nan() { NAN } else { bits } } else { bits.wrapping_add(0x1000) & KEPT }
}

/// The tf32 that `.rn` or, where `cut` says so, `.rz` gives.
#[inline(always)]
pub fn round(x: f32, cut: bool, finite: bool, relu: bool) -> u32 {
    let bits = x.to_bits();
    let up = if cut { 0 } else { 0xfff + (bits >> 13 & 1) };
    let rounded = if x.is_nan() {
        NAN
    } else if bits & INFINITY == INFINITY {
        bits
    } else {
        bits.wrapping_add(up) & KEPT
    };
    let rounded = saturate(rounded, finite);
    if relu && !x.is_nan() && rounded & SIGN != 0 { 0 } else { rounded }
}

/// `.satfinite`: an infinity becomes the largest number.
#[inline(always)]
pub fn saturate(bits: u32, finite: bool) -> u32 {
    if finite && bits & !SIGN == INFINITY { bits & SIGN | LARGEST } else { bits }
}
