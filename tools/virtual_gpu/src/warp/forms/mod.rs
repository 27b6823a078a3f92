//! Lane-wise instructions: every form that the executor knows, one line a form, with the section of the PTX ISA that says what it does.
//!
//! A form is written as the PTX ISA writes it: `[.a|.b]` is left out or one of these, `(.a|.b)` is one of these.

#[macro_use]
mod macros;
mod bits;
mod compare;
mod convert;
mod floats;
mod halves;
mod integers;
mod moves;

use super::{Inst, Lane, OpFn, Warp};
use std::collections::HashMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

pub use compare::{Join, combine_predicates, set_from_comparison};
pub use moves::{mov_special, mov_special64, pack, unpack};

/// How an operand is held: one slot of 32 lanes (16 and 32 bits), two (64 bits), or a predicate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hold {
    Word,
    Double,
    Predicate,
}

/// An operand of a lane-wise instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    To(Hold),
    From(Hold),
}

/// What executes a form.
#[derive(Clone, Copy)]
pub struct Code {
    baseline: OpFn,
    /// The same for AVX2 and FMA.
    vector: OpFn,
    /// The same, where the source is the low part of a register of 64 bits.
    low: Option<OpFn>,
    /// An approximation with the error that its documentation allows.
    erring: Option<OpFn>,
    /// The operands in their order.
    pub places: &'static [Place],
}

impl Code {
    const fn low(self, low: Code) -> Code {
        Code { low: Some(low.baseline), ..self }
    }
    const fn or_err(self, erring: Code) -> Code {
        Code { erring: Some(erring.baseline), ..self }
    }
    fn fastest(&self) -> OpFn {
        #[cfg(target_arch = "x86_64")]
        if !BASELINE.load(Ordering::Relaxed)
            && std::is_x86_feature_detected!("avx2")
            && std::is_x86_feature_detected!("fma")
        {
            return self.vector;
        }
        self.baseline
    }
}

/// Whether kernels compiled from now on take the code for every processor, as tests of that code ask.
pub static BASELINE: AtomicBool = AtomicBool::new(false);

/// A line of a table: all opcodes that a pattern stands for, and what executes them.
struct Row {
    pattern: &'static str,
    code: Code,
}

const TABLES: [&[&[Row]]; 7] =
    [moves::TABLES, integers::TABLES, bits::TABLES, compare::TABLES, floats::TABLES, halves::TABLES, convert::TABLES];

/// What an opcode's modifiers ask for, as bits of `Inst::imm`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Modifiers(pub i64);

/// Directions of a rounding: `.rn`, `.rz`, `.rm`, `.rp`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rounding {
    Nearest,
    Zero,
    Down,
    Up,
}

impl Modifiers {
    const FTZ: i64 = 4;
    const SAT: i64 = 8;
    const RELU: i64 = 16;
    const NAN: i64 = 32;
    const XORSIGN: i64 = 64;
    const SATFINITE: i64 = 128;

    fn of(opcode: &str) -> Modifiers {
        let bit = |part: &str| match part {
            "rz" | "rzi" => 1,
            "rm" | "rmi" => 2,
            "rp" | "rpi" => 3,
            "ftz" => Self::FTZ,
            "sat" => Self::SAT,
            "relu" => Self::RELU,
            "NaN" => Self::NAN,
            "xorsign" => Self::XORSIGN,
            "satfinite" => Self::SATFINITE,
            _ => 0,
        };
        Modifiers(opcode.split('.').map(bit).fold(0, |all, bit| all | bit))
    }
    #[inline(always)]
    fn rounding(self) -> Rounding {
        match self.0 & 3 {
            0 => Rounding::Nearest,
            1 => Rounding::Zero,
            2 => Rounding::Down,
            _ => Rounding::Up,
        }
    }
    #[inline(always)]
    fn has(self, modifier: i64) -> bool {
        self.0 & modifier != 0
    }
}

/// An opcode that the executor knows.
#[derive(Clone, Copy)]
pub struct Form {
    pub code: Code,
    modifiers: Modifiers,
}

impl Form {
    /// The function that executes the form, and the value that it expects in `Inst::imm`.
    pub fn function(&self) -> (OpFn, i64) {
        let erring = crate::config::APPROXIMATIONS_ERR.load(Ordering::Relaxed);
        let function = self.code.erring.filter(|_| erring).unwrap_or_else(|| self.code.fastest());
        (function, self.modifiers.0)
    }
    /// The function for a source that is the low part of a register of 64 bits.
    pub fn of_low_part(&self) -> Option<OpFn> {
        self.code.low
    }
}

fn all() -> &'static HashMap<String, Form> {
    static ALL: OnceLock<HashMap<String, Form>> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut forms = HashMap::new();
        for row in TABLES.iter().flat_map(|tables| tables.iter()).flat_map(|rows| rows.iter()) {
            for opcode in expand(row.pattern) {
                let form = Form { code: row.code, modifiers: Modifiers::of(&opcode) };
                let twice = forms.insert(opcode, form).is_some();
                debug_assert!(!twice, "{} names an opcode of another row", row.pattern);
            }
        }
        forms
    })
}

/// The form of an opcode, if the executor knows it.
pub fn find(opcode: &str) -> Option<Form> {
    all().get(opcode).copied()
}

/// Every opcode that is executed lane by lane, with its operands, in alphabetical order.
pub fn opcodes() -> Vec<(String, &'static [Place])> {
    let mut list: Vec<_> = all().iter().map(|(opcode, form)| (opcode.clone(), form.code.places)).collect();
    list.sort_by(|a, b| a.0.cmp(&b.0));
    list
}

/// The opcodes that a pattern stands for.
fn expand(pattern: &str) -> Vec<String> {
    let Some(open) = pattern.find(['[', '(']) else { return vec![pattern.to_string()] };
    let close = open + pattern[open..].find([']', ')']).expect("a bracket is closed");
    let optional = pattern.as_bytes()[open] == b'[';
    let choices = pattern[open + 1..close].split('|').chain(optional.then_some(""));
    let rest = expand(&pattern[close + 1..]);
    choices.flat_map(|choice| rest.iter().map(move |rest| format!("{}{choice}{rest}", &pattern[..open]))).collect()
}
