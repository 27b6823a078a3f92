//! `cvt` between all types.

use super::floats::{Modifiers, format, nan};
use super::number::{F32, F64, TF32, Value};
use super::*;

/// The register that a type of `cvt` is held in: integers in the widest of up to 32 bits, so that what lies above a narrow source is seen to be ignored and what
/// lies above a narrow destination to be its sign.
fn register(ty: &str) -> Width {
    match ty {
        "u8" | "s8" | "u16" | "s16" => Width::Word,
        ty => width(ty),
    }
}

fn operands(ty: &str) -> Sort {
    match ty {
        "u8" | "s8" | "u16" | "s16" => Sort::Bits(32),
        ty => sort(ty),
    }
}

/// An integer in a register of its type, extended where that is wider.
fn extended(value: i128, ty: &str) -> Answer {
    kept(value, if bits_of(ty) < 32 { 32 } else { bits_of(ty) })
}

pub fn case(opcode: &Opcode) -> Option<Case> {
    let [to, from] = [opcode.parts[opcode.parts.len() - 2], opcode.ty()].map(str::to_string);
    let m = Modifiers::of(opcode);
    let whole = opcode.has("rni") || opcode.has("rzi") || opcode.has("rmi") || opcode.has("rpi");
    let (source, result) = (format(&from), format(&to));
    let (from_type, to_type) = (from.clone(), to.clone());
    let expected: Function = match (source, result) {
        (Some(source), _) if to == "tf32" => Box::new(move |s| tf32(m, source, s[0])),
        (Some(source), Some(result)) if to.ends_with("x2") => Box::new(move |s| {
            let half = |bits: u64| m.result(result, &source.value(bits));
            Answer::pair(half(s[1]), half(s[0]))
        }),
        (Some(source), Some(result)) => Box::new(move |s| {
            // only f32 is flushed
            let bits = if m.ftz && source == F32 { source.flushed(s[0]) } else { s[0] };
            let value = if whole { source.value(bits).whole(m.rounding) } else { source.value(bits) };
            let changed = source != result || whole || m.sat || value.is_nan() || (m.ftz && result == F32);
            if !changed {
                return Answer::Bits(bits);
            }
            Modifiers { ftz: m.ftz && result == F32, ..m }.result(result, &value)
        }),
        (Some(source), None) => Box::new(move |s| {
            let bits = if m.ftz { source.flushed(s[0]) } else { s[0] };
            let top = 1 << (bits_of(&to_type) - 1);
            let of_nan = if source == F64 || bits_of(&to_type) == 64 { integer(&to_type, top) } else { 0 };
            extended(source.value(bits).to_integer(m.rounding, range(&to_type)).unwrap_or(of_nan), &to_type)
        }),
        (None, Some(result)) => Box::new(move |s| m.result(result, &Value::of_integer(integer(&from_type, s[0])))),
        (None, None) => Box::new(move |s| {
            let value = integer(&from_type, s[0]);
            let (least, largest) = range(&to_type);
            let value = if m.sat { value.clamp(least, largest) } else { integer(&to_type, value as u64) };
            extended(value, &to_type)
        }),
    };
    let sources = if to.ends_with("x2") { 2 } else { 1 };
    Some(Case {
        text: statement(opcode.text, sources),
        destination: register(&to),
        sources: vec![(register(&from), operands(&from)); sources],
        expected,
    })
}

/// An f32 as a tf32: 13 bits fewer.
fn tf32(m: Modifiers, source: Format, bits: u64) -> Answer {
    let value = source.value(bits);
    if value.is_nan() {
        return nan(F32);
    }
    let infinite = bits & !source.sign() == source.infinity();
    let rounded = TF32.rounded(&value, m.rounding).unwrap();
    let overflown = rounded & !TF32.sign() == TF32.infinity();
    // only `.rna` is said to saturate what overflows by rounding; the others give an infinity alike
    let finite = m.satfinite && (infinite || overflown);
    let rounded = if finite { rounded & TF32.sign() | (TF32.infinity() - 1) } else { rounded };
    let negative = rounded & TF32.sign() != 0;
    Answer::Bits(if m.relu && negative { 0 } else { rounded << 13 })
}
