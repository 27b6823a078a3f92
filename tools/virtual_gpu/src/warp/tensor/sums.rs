//! How tensor cores add: the one place that `mma.sync` and `wgmma.mma_async` share.
//!
//! The PTX ISA (section "mma", floating point operations) promises products of at least the operands' precision and leaves
//! order and rounding of the sum open. What chips do was found by test vectors: Fasi, Higham, Mikaitis and Pranesh,
//! "Numerical behavior of NVIDIA tensor cores" (2021), and, bit by bit on ten architectures, Xie, Wang, Yang and Yang,
//! "MMA-Sim" (arXiv 2511.10909). The model here is theirs:
//!
//! - the products of one *step* are exact and are added to the accumulator at once;
//! - all summands are aligned to the largest exponent among them, a product's being the sum of its operands' exponents (so
//!   that its significand lies in [1, 4)), and bits below `fraction` binary places of it are cut off, towards zero;
//! - the sum is cut to f32 towards zero, or rounded to the nearest f16; the next step starts from there.
//!
//! A step has 8 products of 16-bit operands or 4 of TF32 with 24 places on compute capability 8.x, and twice as many with 25
//! places on 9.0. Assumed, not measured here: zeros have no part in the alignment, a sum of nothing but zeros is +0, sums
//! past the range of f32 are infinite, and a step with an operand that is not finite follows IEEE 754.

use std::sync::atomic::{AtomicU32, Ordering};

/// How the products of one instruction become one sum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Addition {
    /// Sums in f64, rounded once: what no chip does, for comparisons.
    Exact,
    /// Sums that are cut after every step, as chips do.
    Truncated {
        /// Products of 16-bit operands that are added at once.
        step: usize,
        /// Products of TF32 operands that are added at once.
        step_tf32: usize,
        /// Binary places that the alignment keeps below the largest exponent.
        fraction: i32,
    },
}

/// A setting of how tensor cores add, in the place of the chip's own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Sums that are rounded once.
    Exact,
    /// Products that are added at once, whatever the operands' type.
    Products(usize),
}

impl Step {
    pub fn parse(setting: &str) -> Result<Step, String> {
        match setting {
            "exact" => Ok(Step::Exact),
            "4" => Ok(Step::Products(4)),
            "8" => Ok(Step::Products(8)),
            "16" => Ok(Step::Products(16)),
            _ => Err("choose 4, 8, 16 or exact".into()),
        }
    }
}

impl Addition {
    /// The addition of a compute capability (80 for 8.0), with another step where one is set.
    pub const fn of(capability: u32, step: Option<Step>) -> Addition {
        let (own, fraction) = if capability >= 90 { (16, 25) } else { (8, 24) };
        match step {
            None => Addition::Truncated { step: own, step_tf32: own / 2, fraction },
            Some(Step::Products(step)) => Addition::Truncated { step, step_tf32: step, fraction },
            Some(Step::Exact) => Addition::Exact,
        }
    }

    /// Makes this the addition of all products from now on.
    pub fn select(self) {
        let packed = match self {
            Addition::Exact => 0,
            Addition::Truncated { step, step_tf32, fraction } => {
                step as u32 | (step_tf32 as u32) << 8 | (fraction as u32) << 16
            }
        };
        SELECTED.store(packed, Ordering::Relaxed);
    }

    /// The addition selected last; compute capability 8.0's before the first selection.
    pub fn selected() -> Addition {
        match SELECTED.load(Ordering::Relaxed) {
            UNSET => Addition::of(80, None),
            0 => Addition::Exact,
            packed => Addition::Truncated {
                step: (packed & 0xff) as usize,
                step_tf32: (packed >> 8 & 0xff) as usize,
                fraction: (packed >> 16) as i32,
            },
        }
    }
}

const UNSET: u32 = u32::MAX;
static SELECTED: AtomicU32 = AtomicU32::new(UNSET);

/// Type of a product's operands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operand {
    F16,
    Bf16,
    Tf32,
}

impl Operand {
    /// Exponent of the type's subnormal numbers.
    const fn lowest(self) -> i16 {
        match self {
            Operand::F16 => -14,
            Operand::Bf16 | Operand::Tf32 => -126,
        }
    }

    /// Elements in a register of 32 bits.
    pub const fn per_register(self) -> usize {
        if matches!(self, Operand::Tf32) { 1 } else { 2 }
    }

    /// The value of an element in a register: the lower 13 bits of a TF32 operand are not looked at.
    #[inline(always)]
    pub fn value(self, register: u32, part: usize) -> f32 {
        match self {
            Operand::F16 => half_to_f32((register >> (16 * part)) as u16),
            Operand::Bf16 => f32::from_bits(register >> (16 * part) << 16),
            Operand::Tf32 => f32::from_bits(register & 0xffff_e000),
        }
    }
}

/// Type of the accumulators and of the result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Accumulator {
    F16,
    F32,
}

impl Accumulator {
    /// A step's sum in the accumulator's type.
    #[inline(always)]
    fn cut(self, sum: f64) -> f32 {
        match self {
            Accumulator::F32 => truncated(sum),
            Accumulator::F16 => half_to_f32(half_from_f64(sum)),
        }
    }

    /// The nearest value of the accumulator's type.
    fn nearest(self, sum: f64) -> f32 {
        match self {
            Accumulator::F32 => sum as f32,
            Accumulator::F16 => half_to_f32(half_from_f64(sum)),
        }
    }
}

/// The value of an f16.
#[inline(always)]
pub fn half_to_f32(half: u16) -> f32 {
    let (sign, rest) = ((half as u32 & 0x8000) << 16, half as u32 & 0x7fff);
    let magnitude = match rest {
        0x7c00.. => f32::from_bits(0x7f80_0000 | (rest & 0x3ff) << 13),
        0x0400.. => f32::from_bits((rest << 13) + (112 << 23)),
        _ => rest as f32 * 2f32.powi(-24),
    };
    f32::from_bits(magnitude.to_bits() | sign)
}

/// The f16 nearest to a number, ties to even.
pub fn half_from_f64(x: f64) -> u16 {
    let sign = (x.to_bits() >> 48) as u16 & 0x8000;
    let x = x.abs();
    if x.is_nan() {
        return 0x7fff;
    }
    if x >= 65520.0 {
        return sign | 0x7c00;
    }
    // The distance of f16's neighbours here, then an integer number of them.
    let exponent = ((x.to_bits() >> 52) as i32 - 1023).max(-14);
    let steps = (x * 2f64.powi(10 - exponent)).round_ties_even() as u32;
    sign | (steps + (((exponent + 14) as u32) << 10)) as u16
}

/// The f32 next to a number towards zero; infinite past the range of f32.
#[inline(always)]
fn truncated(x: f64) -> f32 {
    let near = x as f32;
    let past = (near as f64).abs() > x.abs() && x.abs() < 2f64.powi(128);
    f32::from_bits(near.to_bits() - past as u32)
}

/// Exponent of an operand that is zero: sums with it stay below every exponent there is.
const ABSENT: i16 = -4000;
/// Exponent of an operand that is infinite or not a number: sums with it pass every exponent there is.
const SPECIAL: i16 = 16000;
/// The largest exponents for which scaled summands fit into f32 and i32.
const USUAL: std::ops::RangeInclusive<i16> = -100..=100;

#[inline(always)]
fn exponent(x: f32, lowest: i16) -> i16 {
    let raw = (x.to_bits() >> 23 & 0xff) as i16;
    let normal = (raw - 127).max(lowest);
    let finite = if x == 0.0 { ABSENT } else { normal };
    if raw == 255 { SPECIAL } else { finite }
}

/// 16 rows of A, `K` long, with the exponents of their elements.
pub struct Rows<const K: usize> {
    values: [[f32; K]; 16],
    exponents: [[i16; K]; 16],
}

/// 8 columns of B, `K` long, with the exponents of their elements.
pub struct Columns<const K: usize> {
    values: [[f32; 8]; K],
    exponents: [[i16; 8]; K],
}

impl<const K: usize> Rows<K> {
    #[inline(always)]
    pub fn new(values: [[f32; K]; 16], operand: Operand) -> Self {
        let exponents = values.map(|row| row.map(|x| exponent(x, operand.lowest())));
        Rows { values, exponents }
    }
}

impl<const K: usize> Columns<K> {
    #[inline(always)]
    pub fn new(values: [[f32; 8]; K], operand: Operand) -> Self {
        let exponents = values.map(|row| row.map(|x| exponent(x, operand.lowest())));
        Columns { values, exponents }
    }
}

/// C += A B for a block of 16 rows and 8 columns.
pub fn accumulate<const K: usize>(
    a: &Rows<K>,
    b: &Columns<K>,
    c: &mut [[f32; 8]; 16],
    operand: Operand,
    accumulator: Accumulator,
) {
    match (Addition::selected(), operand) {
        (Addition::Exact, _) => add_exactly(a, b, c, accumulator),
        (Addition::Truncated { step_tf32, fraction, .. }, Operand::Tf32) => {
            add_in_steps(a, b, c, step_tf32, fraction, accumulator)
        }
        (Addition::Truncated { step, fraction, .. }, _) => add_in_steps(a, b, c, step, fraction, accumulator),
    }
}

fn add_exactly<const K: usize>(a: &Rows<K>, b: &Columns<K>, c: &mut [[f32; 8]; 16], accumulator: Accumulator) {
    for (row, sums) in a.values.iter().zip(c) {
        let mut exact = sums.map(f64::from);
        for (&x, y) in row.iter().zip(&b.values) {
            for n in 0..8 {
                exact[n] += x as f64 * y[n] as f64;
            }
        }
        *sums = exact.map(|sum| accumulator.nearest(sum));
    }
}

fn add_in_steps<const K: usize>(
    a: &Rows<K>,
    b: &Columns<K>,
    c: &mut [[f32; 8]; 16],
    step: usize,
    fraction: i32,
    accumulator: Accumulator,
) {
    for (m, sums) in c.iter_mut().enumerate() {
        for first in (0..K).step_by(step) {
            let ks = first..(first + step).min(K);
            let summands = Summands {
                a: &a.values[m][ks.clone()],
                a_exponents: &a.exponents[m][ks.clone()],
                b: &b.values[ks.clone()],
                b_exponents: &b.exponents[ks],
            };
            summands.add_to(sums, fraction, accumulator);
        }
    }
}

/// The factors of one step: of a row of A and of 8 columns of B.
struct Summands<'a> {
    a: &'a [f32],
    a_exponents: &'a [i16],
    b: &'a [[f32; 8]],
    b_exponents: &'a [[i16; 8]],
}

impl Summands<'_> {
    #[inline(always)]
    fn add_to(&self, c: &mut [f32; 8], fraction: i32, accumulator: Accumulator) {
        let tops = self.largest_exponents(c);
        let usual = tops.iter().all(|&top| top <= *USUAL.end() && (top >= *USUAL.start() || top < ABSENT / 2));
        if usual {
            let tops = tops.map(|top| top.max(*USUAL.start()) as i32);
            self.add_in_integers(c, tops, fraction, accumulator);
        } else {
            for n in 0..8 {
                c[n] = self.add_in_f64(n, c[n], tops[n], fraction, accumulator);
            }
        }
    }

    #[inline(always)]
    fn largest_exponents(&self, c: &[f32; 8]) -> [i16; 8] {
        let mut tops = c.map(|x| exponent(x, Operand::Tf32.lowest()));
        for (&ea, eb) in self.a_exponents.iter().zip(self.b_exponents) {
            for n in 0..8 {
                tops[n] = tops[n].max(ea + eb[n]);
            }
        }
        tops
    }

    /// The step in fixed point, 8 columns side by side.
    #[inline(always)]
    fn add_in_integers(&self, c: &mut [f32; 8], tops: [i32; 8], fraction: i32, accumulator: Accumulator) {
        let scales = tops.map(|top| f32::from_bits(((127 + fraction - top) as u32) << 23));
        // SAFETY: a summand is below 4 units of its largest exponent, so below 2^27 of the last place: it fits into i32.
        let cut = |x: f32| unsafe { x.to_int_unchecked::<i32>() };
        let mut sums = [0f64; 8];
        for n in 0..8 {
            sums[n] = cut(c[n] * scales[n]) as f64;
        }
        // Eight products stay below 2^30.
        for (a, b) in self.a.chunks(8).zip(self.b.chunks(8)) {
            let mut part = [0i32; 8];
            for (&x, y) in a.iter().zip(b) {
                for n in 0..8 {
                    part[n] += cut(x * y[n] * scales[n]);
                }
            }
            for n in 0..8 {
                sums[n] += part[n] as f64;
            }
        }
        for n in 0..8 {
            let unit = f64::from_bits(((1023 + tops[n] - fraction) as u64) << 52);
            c[n] = accumulator.cut(sums[n] * unit);
        }
    }

    /// The same step for one column and any exponent.
    #[cold]
    fn add_in_f64(&self, n: usize, c: f32, top: i16, fraction: i32, accumulator: Accumulator) -> f32 {
        let products = || self.a.iter().zip(self.b).map(|(&x, y)| x as f64 * y[n] as f64);
        if top > SPECIAL / 2 {
            let sum = products().fold(c as f64, |sum, x| sum + x);
            return if sum.is_nan() { f32::from_bits(0x7fff_ffff) } else { sum as f32 };
        }
        let scale = 2f64.powi(fraction - (top as i32).max(-300));
        let sum = products().fold((c as f64 * scale).trunc(), |sum, x| sum + (x * scale).trunc());
        accumulator.cut(sum / scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Random numbers: a step of Knuth's linear congruential generator, upper half.
    struct Random(u64);

    impl Random {
        fn bits(&mut self) -> u32 {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (self.0 >> 32) as u32
        }
    }

    /// The step in exact integers: every summand as its significand times a power of two.
    fn by_definition(a: &[f32], b: &[f32], c: f32, lowest: i32, fraction: i32) -> f32 {
        let split = |x: f32| -> (i128, i32) {
            let raw = (x.to_bits() >> 23 & 0xff) as i32;
            let significand = (x.to_bits() & 0x7f_ffff) as i128 | if raw > 0 { 1 << 23 } else { 0 };
            let unit = raw.max(1) - 127 - 23;
            (if x < 0.0 { -significand } else { significand }, unit)
        };
        let top_of = |x: f32, lowest: i32| ((x.to_bits() >> 23 & 0xff) as i32 - 127).max(lowest);
        let mut summands = vec![(split(c), top_of(c, -126), c != 0.0)];
        for (&x, &y) in a.iter().zip(b) {
            let ((sx, ux), (sy, uy)) = (split(x), split(y));
            summands.push(((sx * sy, ux + uy), top_of(x, lowest) + top_of(y, lowest), x * y != 0.0));
        }
        let Some(top) = summands.iter().filter(|s| s.2).map(|s| s.1).max() else { return 0.0 };
        let mut sum = 0i128;
        for ((significand, unit), _, _) in summands {
            let shift = unit - (top - fraction);
            sum += if shift >= 0 {
                significand << shift
            } else if shift > -100 {
                significand.signum() * (significand.abs() >> -shift)
            } else {
                0
            };
        }
        let bits = 128 - sum.unsigned_abs().leading_zeros();
        let kept = if bits > 24 { sum.signum() * (sum.abs() >> (bits - 24) << (bits - 24)) } else { sum };
        (kept as f64 * 2f64.powi(top - fraction)) as f32
    }

    fn check_against_definition(operand: Operand, spread: u32, step: usize, fraction: i32) {
        let mut random = Random(spread as u64 * 131 + step as u64);
        let mut number = |operand: Operand| {
            let bits = random.bits();
            let exponent = 127 - spread / 2 + random.bits() % (spread + 1);
            let x = f32::from_bits(bits & 0x807f_ffff | exponent << 23);
            match operand {
                _ if bits.is_multiple_of(17) => 0.0,
                Operand::F16 => half_to_f32(half_from_f64(x as f64)),
                Operand::Bf16 => Operand::Bf16.value(x.to_bits() >> 16, 0),
                Operand::Tf32 => Operand::Tf32.value(x.to_bits(), 0),
            }
        };
        for _ in 0..40 {
            let a: [[f32; 16]; 16] = std::array::from_fn(|_| std::array::from_fn(|_| number(operand)));
            let b: [[f32; 8]; 16] = std::array::from_fn(|_| std::array::from_fn(|_| number(operand)));
            let mut c: [[f32; 8]; 16] = std::array::from_fn(|_| std::array::from_fn(|_| number(Operand::Tf32)));
            let mut want = c;
            for (m, n) in (0..16).flat_map(|m| (0..8).map(move |n| (m, n))) {
                for first in (0..16).step_by(step) {
                    let column: Vec<f32> = b[first..first + step].iter().map(|row| row[n]).collect();
                    let lowest = operand.lowest() as i32;
                    want[m][n] = by_definition(&a[m][first..first + step], &column, want[m][n], lowest, fraction);
                }
            }
            let (rows, columns) = (Rows::new(a, operand), Columns::new(b, operand));
            add_in_steps(&rows, &columns, &mut c, step, fraction, Accumulator::F32);
            assert_eq!(c, want, "{operand:?} {spread} {step}");
        }
    }

    #[test]
    fn steps_are_cut_as_defined() {
        for step in [4, 8, 16] {
            for fraction in [24, 25] {
                for spread in [0, 4, 30, 250] {
                    check_against_definition(Operand::Bf16, spread.min(100), step, fraction);
                    check_against_definition(Operand::Tf32, spread.min(100), step, fraction);
                    check_against_definition(Operand::F16, spread.min(30), step, fraction);
                }
            }
        }
    }

    /// Beyond the usual exponents the other path computes; where both can, they agree.
    #[test]
    fn both_paths_agree() {
        let mut random = Random(9);
        let mut number = || f32::from_bits(random.bits() & 0x807f_0000 | (110 + random.bits() % 30) << 23);
        for _ in 0..2000 {
            let a: [f32; 8] = std::array::from_fn(|_| number());
            let b: [[f32; 8]; 8] = std::array::from_fn(|_| std::array::from_fn(|_| number()));
            let c: [f32; 8] = std::array::from_fn(|_| number());
            let (ea, eb) = (a.map(|x| exponent(x, -126)), b.map(|row| row.map(|x| exponent(x, -126))));
            let step = Summands { a: &a, a_exponents: &ea, b: &b, b_exponents: &eb };
            let mut fast = c;
            step.add_to(&mut fast, 24, Accumulator::F32);
            let tops = step.largest_exponents(&c);
            for n in 0..8 {
                assert_eq!(fast[n], step.add_in_f64(n, c[n], tops[n], 24, Accumulator::F32));
            }
        }
    }

    #[test]
    fn what_is_not_finite_follows_ieee() {
        let sum = |x: f32, y: f32, c: f32| {
            let mut d = [[c; 8]; 16];
            let mut a = [[1.0; 4]; 16];
            a[3][2] = x;
            let columns = Columns::new([[y; 8]; 4], Operand::Bf16);
            add_in_steps(&Rows::new(a, Operand::Bf16), &columns, &mut d, 4, 24, Accumulator::F32);
            d[3][5]
        };
        assert_eq!(sum(f32::INFINITY, 1.0, 0.0), f32::INFINITY);
        assert_eq!(sum(f32::INFINITY, -1.0, 0.0), f32::NEG_INFINITY);
        assert_eq!(sum(f32::INFINITY, 0.0, 0.0).to_bits(), 0x7fff_ffff);
        assert!(sum(f32::INFINITY, 1.0, f32::NEG_INFINITY).is_nan());
        assert_eq!(sum(2f32.powi(100), 2f32.powi(100), 0.0), f32::INFINITY);
        assert_eq!(sum(2f32.powi(-100), 0.0, 1.0), 1.0);
    }

    #[test]
    fn halves_round_to_nearest_even() {
        for half in 0..=u16::MAX {
            let value = half_to_f32(half);
            if value.is_nan() {
                assert_eq!(half_from_f64(value as f64), 0x7fff);
            } else {
                assert_eq!(half_from_f64(value as f64), half);
                let next = half_to_f32(half + 1);
                if next.is_finite() && half & 0x7fff < 0x7bff {
                    let middle = (value as f64 + next as f64) / 2.0;
                    let even = if half & 1 == 0 { half } else { half + 1 };
                    assert_eq!(half_from_f64(middle), even);
                }
            }
        }
        assert_eq!(half_from_f64(65519.9), 0x7bff);
        assert_eq!(half_from_f64(65520.0), 0x7c00);
    }

    #[test]
    fn a_setting_names_exact_sums_or_a_length() {
        let of = |setting, capability| Step::parse(setting).map(|step| Addition::of(capability, Some(step)));
        assert_eq!(of("exact", 90), Ok(Addition::Exact));
        let four = Addition::Truncated { step: 4, step_tf32: 4, fraction: 25 };
        assert_eq!(of("4", 90), Ok(four));
        assert!(of("5", 80).unwrap_err().contains("4, 8, 16"));
    }
}
