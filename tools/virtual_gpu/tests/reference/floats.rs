//! Floating-point arithmetic of every format, and approximations.

use super::number::{self, BF16, F16, F32, F64, Rounding, Value};
use super::*;

/// The format of a type; of a pair, that of its halves.
pub fn format(ty: &str) -> Option<Format> {
    match ty {
        "f16" | "f16x2" => Some(F16),
        "bf16" | "bf16x2" => Some(BF16),
        "f32" => Some(F32),
        "f64" => Some(F64),
        _ => None,
    }
}

/// The NaN that a format's arithmetic makes; an f64's may have any payload.
pub fn nan(format: Format) -> Answer {
    match format {
        F64 => Answer::Nan(F64),
        format => Answer::Bits(format.sign() - 1),
    }
}

/// What an opcode's modifiers make of sources and results.
#[derive(Clone, Copy)]
pub struct Modifiers {
    pub rounding: Rounding,
    pub ftz: bool,
    pub sat: bool,
    pub relu: bool,
    pub satfinite: bool,
}

impl Modifiers {
    pub fn of(opcode: &Opcode) -> Modifiers {
        Modifiers {
            rounding: opcode.rounding(),
            ftz: opcode.has("ftz"),
            sat: opcode.has("sat"),
            relu: opcode.has("relu"),
            satfinite: opcode.has("satfinite"),
        }
    }
    /// The value of a source.
    pub fn source(self, format: Format, bits: u64) -> Value {
        format.value(if self.ftz { format.flushed(bits) } else { bits })
    }
    /// A result: rounded, then flushed, clamped.
    pub fn result(self, format: Format, value: &Value) -> Answer {
        let Some(bits) = format.rounded(value, self.rounding) else {
            return if self.sat { Answer::Bits(0) } else { nan(format) };
        };
        let bits = if self.ftz { format.flushed(bits) } else { bits };
        let negative = bits & format.sign() != 0;
        let one = ((1u64 << (format.exponent - 1)) - 1) << format.fraction;
        let largest = format.infinity() - 1;
        Answer::Bits(match bits {
            bits if self.sat && (negative || bits == 0) => 0,
            bits if self.sat => bits.min(one),
            _ if self.relu && negative => 0,
            bits if self.satfinite && bits & !format.sign() == format.infinity() => bits & format.sign() | largest,
            bits => bits,
        })
    }
}

/// A function of the values of one format, and of its bits where the sign of a NaN matters.
type Arithmetic = fn(Modifiers, Format, &[u64]) -> Answer;

fn sum(m: Modifiers, format: Format, s: &[u64]) -> Answer {
    m.result(format, &number::add(&m.source(format, s[0]), &m.source(format, s[1]), m.rounding))
}
fn difference(m: Modifiers, format: Format, s: &[u64]) -> Answer {
    sum(m, format, &[s[0], s[1] ^ format.sign()])
}
fn product(m: Modifiers, format: Format, s: &[u64]) -> Answer {
    m.result(format, &number::mul(&m.source(format, s[0]), &m.source(format, s[1])))
}
fn fused(m: Modifiers, format: Format, s: &[u64]) -> Answer {
    let product = number::mul(&m.source(format, s[0]), &m.source(format, s[1]));
    m.result(format, &number::add(&product, &m.source(format, s[2]), m.rounding))
}
fn quotient(m: Modifiers, format: Format, s: &[u64]) -> Answer {
    m.result(format, &number::div(&m.source(format, s[0]), &m.source(format, s[1])))
}
fn reciprocal(m: Modifiers, format: Format, s: &[u64]) -> Answer {
    m.result(format, &number::div(&Value::of_integer(1), &m.source(format, s[0])))
}
fn root(m: Modifiers, format: Format, s: &[u64]) -> Answer {
    m.result(format, &number::sqrt(&m.source(format, s[0])))
}
fn negated(m: Modifiers, format: Format, s: &[u64]) -> Answer {
    Answer::Bits((if m.ftz { format.flushed(s[0]) } else { s[0] }) ^ format.sign())
}
fn absolute(m: Modifiers, format: Format, s: &[u64]) -> Answer {
    Answer::Bits((if m.ftz { format.flushed(s[0]) } else { s[0] }) & !format.sign())
}
fn with_sign(_: Modifiers, format: Format, s: &[u64]) -> Answer {
    Answer::Bits(s[1] & !format.sign() | s[0] & format.sign())
}

/// `min` and `max`: -0 is below +0, a NaN yields to a number unless `.NaN`; `.xorsign.abs` compares magnitudes and joins the signs.
fn extreme(opcode: &Opcode) -> impl Fn(Modifiers, Format, &[u64]) -> Answer + use<> {
    let (largest, propagates, xorsign) = (opcode.parts[0] == "max", opcode.has("NaN"), opcode.has("xorsign"));
    move |m, format, s| {
        let source = |bits: u64| if m.ftz { format.flushed(bits) } else { bits };
        let (a, b) = (source(s[0]), source(s[1]));
        let sign = (a ^ b) & format.sign();
        let magnitude = |bits: u64| if xorsign { bits & !format.sign() } else { bits };
        let (x, y) = (magnitude(a), magnitude(b));
        let (x_value, y_value) = (format.value(x), format.value(y));
        // the order of bits: zeros by their sign
        let x_first = if x_value.is_equal(&y_value) { x & format.sign() != 0 } else { x_value.is_less(&y_value) };
        let chosen = match (x_value.is_nan(), y_value.is_nan()) {
            (true, true) => return nan(format),
            (true, false) | (false, true) if propagates => return nan(format),
            (true, false) => y,
            (false, true) => x,
            _ if x_first != largest => x,
            _ => y,
        };
        Answer::Bits(if xorsign { chosen & !format.sign() | sign } else { chosen })
    }
}

pub fn case(opcode: &Opcode) -> Option<Case> {
    let ty = opcode.ty();
    let format = format(ty)?;
    let m = Modifiers::of(opcode);
    let simple = |arithmetic: Arithmetic, sources: usize| {
        Some((Box::new(arithmetic) as Box<dyn Fn(_, _, &[u64]) -> _>, sources))
    };
    let exact = if opcode.has("approx") || opcode.has("full") {
        None
    } else {
        match opcode.parts[0] {
            "add" => simple(sum, 2),
            "sub" => simple(difference, 2),
            "mul" => simple(product, 2),
            "fma" | "mad" => simple(fused, 3),
            "div" => simple(quotient, 2),
            "rcp" => simple(reciprocal, 1),
            "sqrt" => simple(root, 1),
            "neg" => simple(negated, 1),
            "abs" => simple(absolute, 1),
            "copysign" => simple(with_sign, 2),
            "min" | "max" => Some((Box::new(extreme(opcode)) as Box<_>, 2)),
            _ => return None,
        }
    };
    let (function, sources): (Box<dyn Fn(Modifiers, Format, &[u64]) -> Answer>, usize) = match exact {
        Some(exact) => exact,
        None => approximation(opcode)?,
    };
    if !ty.ends_with("x2") {
        return Some(uniform(opcode, ty, ty, sources, Box::new(move |s| function(m, format, s))));
    }
    let halves = move |s: &[u64]| {
        let half = |shift: u32| -> Answer {
            function(m, format, &s.iter().map(|bits| bits >> shift & 0xffff).collect::<Vec<_>>())
        };
        Answer::pair(half(0), half(16))
    };
    Some(uniform(opcode, ty, ty, sources, Box::new(halves)))
}

/// An approximation: its exact value in f64 and how far from it a result may be.
fn approximation(opcode: &Opcode) -> Option<(Box<dyn Fn(Modifiers, Format, &[u64]) -> Answer>, usize)> {
    let format = format(opcode.ty())?;
    let upper_half = format == F64;
    let power = |exponent: f64| exponent.exp2();
    // the function, and a relative and an absolute bound
    let (f, relative, absolute): (fn(f64) -> f64, f64, f64) = match (opcode.parts[0], format) {
        ("ex2", F32) => (f64::exp2, power(-22.0), 0.0),
        ("ex2", F16) => (f64::exp2, power(-9.9), 0.0),
        ("ex2", BF16) => (f64::exp2, power(-7.0), 0.0),
        ("lg2", F32) => (f64::log2, power(-22.0), 0.0),
        ("rcp", F32) => (|x| 1.0 / x, power(-23.0), 0.0),
        ("rsqrt", F32) => (|x| 1.0 / x.sqrt(), power(-22.9), 0.0),
        ("sqrt", F32) => (f64::sqrt, power(-23.0), 0.0),
        ("sin", F32) => (f64::sin, 0.0, power(-20.5)),
        ("cos", F32) => (f64::cos, 0.0, power(-20.5)),
        ("tanh", F32) => (f64::tanh, power(-11.0), 0.0),
        ("tanh", F16) => (f64::tanh, 0.0, power(-10.987)),
        ("tanh", BF16) => (f64::tanh, 0.0, power(-8.0)),
        ("rcp", F64) => (|x| 1.0 / x, power(-19.0), 0.0),
        ("rsqrt", F64) => (|x| 1.0 / x.sqrt(), power(-19.0), 0.0),
        ("div", F32) => return Some((Box::new(division(opcode.has("approx"))), 2)),
        _ => return None,
    };
    let logarithm = opcode.parts[0] == "lg2";
    // `rsqrt.approx.f64` has no bound of its own form; it reads whole numbers
    let halved = upper_half && opcode.has("ftz");
    let near = move |m: Modifiers, format: Format, s: &[u64]| {
        let bits = if halved { s[0] & 0xffff_ffff_0000_0000 } else { s[0] };
        let x = format.to_f64(if m.ftz { format.flushed(bits) } else { bits });
        let exact = f(x);
        let absolute = if logarithm && x > 0.5 && x < 2.0 { relative } else { absolute };
        answer_near(m, format, exact, exact.abs() * relative + absolute)
    };
    Some((Box::new(near), 1))
}

/// `div.approx` and `div.full`: 2 ulp; beyond 2^126 the quotient of `div.approx` is 0, or NaN of an infinity.
fn division(approx: bool) -> impl Fn(Modifiers, Format, &[u64]) -> Answer {
    move |m, format, s| {
        let [a, b] = [s[0], s[1]].map(|bits| format.to_f64(if m.ftz { format.flushed(bits) } else { bits }));
        let large = approx && b.is_finite() && b.abs() > 126f64.exp2();
        let exact = if large { a * 0f64.copysign(b) } else { a / b };
        answer_near(m, format, exact, exact.abs() * (-22f64).exp2())
    }
}

/// An answer near an f64; a tiny one may also be flushed by `.ftz`, or be off by a last place of subnormal numbers.
fn answer_near(m: Modifiers, format: Format, exact: f64, most: f64) -> Answer {
    if exact.is_nan() {
        return nan(format);
    }
    if exact.is_infinite() || exact == 0.0 {
        return m.result(format, &F64.value(exact.to_bits()));
    }
    let least_normal = format.to_f64(1 << format.fraction);
    let lowest = format.to_f64(1);
    let tiny = if m.ftz && exact.abs() <= least_normal { least_normal } else { lowest };
    Answer::Near { format, exact, most: most.max(tiny) }
}
