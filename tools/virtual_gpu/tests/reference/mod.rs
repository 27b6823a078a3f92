//! What lane-wise instructions give, written from the PTX ISA without anything of the executor: integers in 128 bits, floating-point numbers as exact binary
//! fractions of 4,608 bits that are rounded once, approximations as f64 with a bound.

mod bits;
mod compare;
mod convert;
mod floats;
mod integers;
mod number;

use crate::common::{Sort, Width};
pub use number::Format;

/// What an instruction may leave in its destination.
#[derive(Clone, PartialEq, Debug)]
pub enum Answer {
    /// These bits.
    Bits(u64),
    /// Any NaN of the format.
    Nan(Format),
    /// A number of the format that is at most `most` away from `exact`.
    Near { format: Format, exact: f64, most: f64 },
    /// An answer for each half of a register, the low one first.
    Pair(Box<[Answer; 2]>),
}

impl Answer {
    pub fn allows(&self, bits: u64) -> bool {
        match *self {
            Answer::Bits(expected) => bits == expected,
            Answer::Nan(format) => format.is_nan(bits),
            Answer::Near { format, exact, most } => {
                let value = format.to_f64(bits);
                let largest = format.to_f64(format.infinity() - 1);
                let overflows = value.is_infinite() && exact.abs() + most > largest && (value > 0.0) == (exact > 0.0);
                (value - exact).abs() <= most || overflows
            }
            Answer::Pair(ref halves) => halves[0].allows(bits & 0xffff) && halves[1].allows(bits >> 16),
        }
    }
    /// The answers of two halves in one register.
    fn pair(low: Answer, high: Answer) -> Answer {
        match (low, high) {
            (Answer::Bits(low), Answer::Bits(high)) => Answer::Bits(low | high << 16),
            halves => Answer::Pair(Box::new(halves.into())),
        }
    }
}

type Function = Box<dyn Fn(&[u64]) -> Answer>;

/// An opcode with its operands and what it gives.
pub struct Case {
    /// The instructions; `%d0` is the destination that is compared.
    pub text: String,
    pub destination: Width,
    pub sources: Vec<(Width, Sort)>,
    pub expected: Function,
}

/// An opcode taken apart.
pub struct Opcode<'a> {
    pub text: &'a str,
    pub parts: Vec<&'a str>,
}

impl Opcode<'_> {
    pub fn has(&self, part: &str) -> bool {
        self.parts.contains(&part)
    }
    /// The last part: the type of the sources.
    pub fn ty(&self) -> &str {
        self.parts[self.parts.len() - 1]
    }
    pub fn rounding(&self) -> number::Rounding {
        let direction = |part: &&str| match *part {
            "rz" | "rzi" => Some(number::Rounding::Zero),
            "rm" | "rmi" => Some(number::Rounding::Down),
            "rp" | "rpi" => Some(number::Rounding::Up),
            "rna" => Some(number::Rounding::Away),
            _ => None,
        };
        self.parts.iter().find_map(direction).unwrap_or(number::Rounding::Nearest)
    }
}

/// Whether the comparison of a `setp` holds of two sources.
pub fn comparison(text: &str) -> Box<dyn Fn(u64, u64) -> bool> {
    compare::comparison(&Opcode { text, parts: text.split('.').collect() })
}

/// The case of an opcode, if the reference knows it.
pub fn case(text: &str) -> Option<Case> {
    let opcode = Opcode { text, parts: text.split('.').collect() };
    match opcode.parts[0] {
        "cvt" => convert::case(&opcode),
        "setp" | "selp" | "slct" | "testp" => compare::case(&opcode),
        _ => bits::case(&opcode).or_else(|| floats::case(&opcode)).or_else(|| integers::case(&opcode)),
    }
}

/// The register that holds a type.
fn width(ty: &str) -> Width {
    match ty {
        "pred" => Width::Predicate,
        "u8" | "s8" | "b8" | "u16" | "s16" | "b16" | "f16" | "bf16" => Width::Half,
        "u64" | "s64" | "b64" | "f64" => Width::Double,
        _ => Width::Word,
    }
}

/// The operands that a type is tried with.
fn sort(ty: &str) -> Sort {
    match ty {
        "pred" => Sort::Predicate,
        "f16" => Sort::F16,
        "bf16" => Sort::Bf16,
        "f32" => Sort::F32,
        "f64" => Sort::F64,
        "f16x2" => Sort::F16x2,
        "bf16x2" => Sort::Bf16x2,
        _ => Sort::Bits(bits_of(ty)),
    }
}

/// The bits of a type, such as 16 of `s16`.
fn bits_of(ty: &str) -> u32 {
    match ty.trim_start_matches(|c: char| c.is_ascii_alphabetic()) {
        "16x2" => 32,
        digits => digits.parse().unwrap_or_else(|_| panic!("{ty} has no width")),
    }
}

/// An integer of a type from its bits.
fn integer(ty: &str, bits: u64) -> i128 {
    let width = bits_of(ty);
    let unsigned = (bits & (u64::MAX >> (64 - width))) as i128;
    if ty.starts_with('s') && unsigned >> (width - 1) & 1 != 0 { unsigned - (1 << width) } else { unsigned }
}

/// The least and the largest integer of a type.
fn range(ty: &str) -> (i128, i128) {
    let width = bits_of(ty);
    if ty.starts_with('s') { (-(1 << (width - 1)), (1 << (width - 1)) - 1) } else { (0, (1 << width) - 1) }
}

/// The bits that a register of `width` bits keeps of an integer.
fn kept(value: i128, width: u32) -> Answer {
    Answer::Bits(value as u64 & (u64::MAX >> (64 - width)))
}

/// A case whose sources are all of one type, and whose destination is `to`.
fn uniform(opcode: &Opcode, to: &str, from: &str, sources: usize, expected: Function) -> Case {
    typed(opcode, to, &vec![from; sources], expected)
}

/// A case of a destination and sources of the types given.
fn typed(opcode: &Opcode, to: &str, from: &[&str], expected: Function) -> Case {
    Case {
        text: statement(opcode.text, from.len()),
        destination: width(to),
        sources: from.iter().map(|ty| (width(ty), sort(ty))).collect(),
        expected,
    }
}

/// The statement of an opcode with one destination and `sources` sources.
fn statement(opcode: &str, sources: usize) -> String {
    let list: Vec<String> = (0..sources).map(|n| format!("%s{n}")).collect();
    format!("{opcode} %d0, {};", list.join(", "))
}
