//! Binary floating-point formats and exact arithmetic on their numbers.

/// A binary format by the widths of its exponent and fraction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Format {
    pub exponent: u32,
    pub fraction: u32,
}

pub const F16: Format = Format { exponent: 5, fraction: 10 };
pub const BF16: Format = Format { exponent: 8, fraction: 7 };
pub const TF32: Format = Format { exponent: 8, fraction: 10 };
pub const F32: Format = Format { exponent: 8, fraction: 23 };
pub const F64: Format = Format { exponent: 11, fraction: 52 };

/// Directions in which a number is rounded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rounding {
    Nearest,
    /// To the nearest, ties away from zero.
    Away,
    Zero,
    Down,
    Up,
}

/// Words of a magnitude: bit `k` is worth 2 to the power of `k - BELOW`.
const WORDS: usize = 72;
const BELOW: i32 = 2300;

/// An exact number that is not negative, plus something smaller than its lowest bit where `more` says so.
#[derive(Clone, PartialEq, Eq)]
pub struct Magnitude {
    words: [u64; WORDS],
    more: bool,
}

impl Magnitude {
    /// `value * 2^exponent`.
    pub fn new(value: u128, exponent: i32) -> Magnitude {
        let mut words = [0; WORDS];
        let at = (exponent + BELOW) as usize;
        let (word, shift) = (at / 64, at % 64);
        words[word] = (value << shift) as u64;
        if shift == 0 {
            words[word + 1] = (value >> 64) as u64;
        } else {
            words[word + 1] = (value >> (64 - shift)) as u64;
            words[word + 2] = (value >> 64 >> (64 - shift)) as u64;
        }
        Magnitude { words, more: false }
    }
    pub fn is_zero(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }
    fn bit(&self, exponent: i32) -> bool {
        let at = exponent + BELOW;
        at >= 0 && self.words[at as usize / 64] >> (at % 64) & 1 != 0
    }
    /// Whether any bit below that of `exponent` is set.
    fn any_below(&self, exponent: i32) -> bool {
        let at = (exponent + BELOW).max(0) as usize;
        let (word, shift) = (at / 64, at % 64);
        self.more || self.words[..word].iter().any(|word| *word != 0) || self.words[word] & ((1 << shift) - 1) != 0
    }
    /// The exponent of the highest bit.
    fn top(&self) -> i32 {
        let word = self.words.iter().rposition(|word| *word != 0).expect("a number above zero");
        word as i32 * 64 + 63 - self.words[word].leading_zeros() as i32 - BELOW
    }
    /// The integer part of the number divided by `2^exponent`.
    fn above(&self, exponent: i32) -> u128 {
        let at = (exponent + BELOW) as usize;
        let (word, shift) = (at / 64, at % 64);
        let get = |n: usize| self.words.get(n).copied().unwrap_or(0) as u128;
        let low = get(word) | get(word + 1) << 64;
        if shift == 0 { low } else { low >> shift | get(word + 2) << (128 - shift) }
    }
    fn add(&self, other: &Magnitude) -> Magnitude {
        let mut words = [0; WORDS];
        let mut carry = 0u128;
        for (n, word) in words.iter_mut().enumerate() {
            carry += self.words[n] as u128 + other.words[n] as u128;
            *word = carry as u64;
            carry >>= 64;
        }
        Magnitude { words, more: false }
    }
    /// `self - other`, which must not be negative.
    fn sub(&self, other: &Magnitude) -> Magnitude {
        let mut words = [0; WORDS];
        let mut borrow = 0i128;
        for (n, word) in words.iter_mut().enumerate() {
            borrow += self.words[n] as i128 - other.words[n] as i128;
            *word = borrow as u64;
            borrow >>= 64;
        }
        Magnitude { words, more: false }
    }
    fn is_less(&self, other: &Magnitude) -> bool {
        self.words.iter().rev().lt(other.words.iter().rev())
    }
}

/// What the bits of a format stand for.
#[derive(Clone)]
#[allow(clippy::large_enum_variant)] // a reference may be slow
pub enum Value {
    Nan,
    Infinite { negative: bool },
    Finite { negative: bool, magnitude: Magnitude },
}
use Value::*;

impl Value {
    pub fn is_nan(&self) -> bool {
        matches!(self, Nan)
    }
    pub fn negative(&self) -> bool {
        match self {
            Nan => false,
            Infinite { negative } | Finite { negative, .. } => *negative,
        }
    }
    pub fn is_zero(&self) -> bool {
        matches!(self, Finite { magnitude, .. } if magnitude.is_zero())
    }
    pub fn negated(self) -> Value {
        match self {
            Nan => Nan,
            Infinite { negative } => Infinite { negative: !negative },
            Finite { negative, magnitude } => Finite { negative: !negative, magnitude },
        }
    }
    pub fn of_integer(value: i128) -> Value {
        Finite { negative: value < 0, magnitude: Magnitude::new(value.unsigned_abs(), 0) }
    }
    pub fn zero(negative: bool) -> Value {
        Finite { negative, magnitude: Magnitude::new(0, 0) }
    }
    /// Whether the number is below another; neither is NaN.
    pub fn is_less(&self, other: &Value) -> bool {
        let difference = add(self, &other.clone().negated(), Rounding::Nearest);
        match (self, other) {
            (Infinite { negative: a }, Infinite { negative: b }) => *a && !*b,
            _ => difference.negative() && !difference.is_zero(),
        }
    }
    pub fn is_equal(&self, other: &Value) -> bool {
        !self.is_nan() && !other.is_nan() && !self.is_less(other) && !other.is_less(self)
    }
    /// The value rounded to an integer and clamped to a range; nothing of a NaN.
    pub fn to_integer(&self, rounding: Rounding, (least, largest): (i128, i128)) -> Option<i128> {
        match self {
            Nan => None,
            Infinite { negative } => Some(if *negative { least } else { largest }),
            Finite { negative, magnitude } => {
                if !magnitude.is_zero() && magnitude.top() > 100 {
                    return Some(if *negative { least } else { largest });
                }
                let rounded = round_at(magnitude, 0, *negative, rounding) as i128;
                Some((if *negative { -rounded } else { rounded }).clamp(least, largest))
            }
        }
    }
    /// The value rounded to an integer, which keeps the sign of a zero.
    pub fn whole(&self, rounding: Rounding) -> Value {
        match self {
            Finite { negative, magnitude } if magnitude.is_zero() || magnitude.top() <= 100 => {
                let rounded = round_at(magnitude, 0, *negative, rounding);
                Finite { negative: *negative, magnitude: Magnitude::new(rounded, 0) }
            }
            other => other.clone(),
        }
    }
}

/// The magnitude in units of `2^last`, rounded to an integer.
fn round_at(magnitude: &Magnitude, last: i32, negative: bool, rounding: Rounding) -> u128 {
    let kept = magnitude.above(last);
    let half = magnitude.bit(last - 1);
    let below = magnitude.any_below(last - 1);
    let up = match rounding {
        Rounding::Nearest => half && (below || kept & 1 != 0),
        Rounding::Away => half,
        Rounding::Zero => false,
        Rounding::Down => negative && (half || below),
        Rounding::Up => !negative && (half || below),
    };
    kept + up as u128
}

impl Format {
    fn bias(self) -> i32 {
        (1 << (self.exponent - 1)) - 1
    }
    pub fn infinity(self) -> u64 {
        ((1 << self.exponent) - 1) << self.fraction
    }
    pub fn sign(self) -> u64 {
        1 << (self.exponent + self.fraction)
    }
    pub fn is_nan(self, bits: u64) -> bool {
        bits & (self.sign() - 1) > self.infinity()
    }
    pub fn is_subnormal(self, bits: u64) -> bool {
        bits & self.infinity() == 0 && bits & (self.sign() - 1) != 0
    }
    /// Subnormal numbers as zeros of their sign.
    pub fn flushed(self, bits: u64) -> u64 {
        if self.is_subnormal(bits) { bits & self.sign() } else { bits }
    }
    /// The exponent of the lowest bit of subnormal numbers.
    fn lowest(self) -> i32 {
        1 - self.bias() - self.fraction as i32
    }
    pub fn value(self, bits: u64) -> Value {
        let negative = bits & self.sign() != 0;
        let biased = (bits & self.infinity()) >> self.fraction;
        let fraction = bits & ((1 << self.fraction) - 1);
        if self.is_nan(bits) {
            Nan
        } else if bits & self.infinity() == self.infinity() {
            Infinite { negative }
        } else {
            let significand = if biased == 0 { fraction } else { fraction | 1 << self.fraction };
            let exponent = self.lowest() + biased.max(1) as i32 - 1;
            Finite { negative, magnitude: Magnitude::new(significand as u128, exponent) }
        }
    }
    /// The bits of a value rounded to the format; nothing of a NaN.
    pub fn rounded(self, value: &Value, rounding: Rounding) -> Option<u64> {
        let (negative, magnitude) = match value {
            Nan => return None,
            Infinite { negative } => return Some(self.infinity() | if *negative { self.sign() } else { 0 }),
            Finite { negative, magnitude } => (*negative, magnitude),
        };
        let sign = if negative { self.sign() } else { 0 };
        if magnitude.is_zero() {
            return Some(sign);
        }
        let last = (magnitude.top() - self.fraction as i32).max(self.lowest());
        let rounded = round_at(magnitude, last, negative, rounding) as u64;
        // a carry into the exponent's field is right as it is
        let bits = ((last - self.lowest()) as u64) * (1 << self.fraction) + rounded;
        let to_infinity = match rounding {
            Rounding::Nearest | Rounding::Away => true,
            Rounding::Zero => false,
            Rounding::Down => negative,
            Rounding::Up => !negative,
        };
        let bits = if bits >= self.infinity() { self.infinity() - !to_infinity as u64 } else { bits };
        Some(bits | sign)
    }
    /// The number as an f64, which holds every number of the formats here.
    pub fn to_f64(self, bits: u64) -> f64 {
        match F64.rounded(&self.value(bits), Rounding::Nearest) {
            Some(bits) => f64::from_bits(bits),
            None => f64::NAN,
        }
    }
}

/// `a + b`; an exact zero of two numbers is negative only where both are or the rounding goes down.
pub fn add(a: &Value, b: &Value, rounding: Rounding) -> Value {
    match (a, b) {
        (Nan, _) | (_, Nan) => Nan,
        (Infinite { negative: a }, Infinite { negative: b }) => {
            if a == b {
                Infinite { negative: *a }
            } else {
                Nan
            }
        }
        (Infinite { negative }, _) | (_, Infinite { negative }) => Infinite { negative: *negative },
        (Finite { negative: a_negative, magnitude: a }, Finite { negative: b_negative, magnitude: b }) => {
            if a_negative == b_negative {
                Finite { negative: *a_negative, magnitude: a.add(b) }
            } else if a == b {
                Value::zero(rounding == Rounding::Down)
            } else if a.is_less(b) {
                Finite { negative: *b_negative, magnitude: b.sub(a) }
            } else {
                Finite { negative: *a_negative, magnitude: a.sub(b) }
            }
        }
    }
}

/// The significand and the exponent of a number that a format holds.
fn parts(magnitude: &Magnitude) -> (u128, i32) {
    let last = magnitude.top() - 52;
    (magnitude.above(last), last)
}

pub fn mul(a: &Value, b: &Value) -> Value {
    let negative = a.negative() != b.negative();
    match (a, b) {
        (Nan, _) | (_, Nan) => Nan,
        (Infinite { .. }, other) | (other, Infinite { .. }) => {
            if other.is_zero() {
                Nan
            } else {
                Infinite { negative }
            }
        }
        (Finite { magnitude: a, .. }, Finite { magnitude: b, .. }) => {
            if a.is_zero() || b.is_zero() {
                return Value::zero(negative);
            }
            let ((a, a_exponent), (b, b_exponent)) = (parts(a), parts(b));
            Finite { negative, magnitude: Magnitude::new(a * b, a_exponent + b_exponent) }
        }
    }
}

pub fn div(a: &Value, b: &Value) -> Value {
    let negative = a.negative() != b.negative();
    match (a, b) {
        (Nan, _) | (_, Nan) | (Infinite { .. }, Infinite { .. }) => Nan,
        (Infinite { .. }, _) => Infinite { negative },
        (_, Infinite { .. }) => Value::zero(negative),
        (Finite { magnitude: a, .. }, Finite { magnitude: b, .. }) => match (a.is_zero(), b.is_zero()) {
            (true, true) => Nan,
            (true, false) => Value::zero(negative),
            (false, true) => Infinite { negative },
            (false, false) => {
                let ((a, a_exponent), (b, b_exponent)) = (parts(a), parts(b));
                let mut magnitude = Magnitude::new((a << 70) / b, a_exponent - b_exponent - 70);
                magnitude.more = (a << 70) % b != 0;
                Finite { negative, magnitude }
            }
        },
    }
}

pub fn sqrt(a: &Value) -> Value {
    match a {
        Finite { magnitude, .. } if magnitude.is_zero() => a.clone(),
        Nan | Infinite { negative: true } | Finite { negative: true, .. } => Nan,
        Infinite { .. } => a.clone(),
        Finite { magnitude, .. } => {
            let (significand, exponent) = parts(magnitude);
            let up = if exponent % 2 == 0 { 70 } else { 71 };
            let (square, mut root) = (significand << up, 0u128);
            for bit in (0..64).rev() {
                let next = root | 1 << bit;
                if next * next <= square {
                    root = next;
                }
            }
            let mut magnitude = Magnitude::new(root, (exponent - up) / 2);
            magnitude.more = root * root != square;
            Finite { negative: false, magnitude }
        }
    }
}
