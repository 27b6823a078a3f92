//! Comparisons, selections and properties of numbers.

use super::floats::format;
use super::number::{F32, Value};
use super::*;

/// Whether `a` compares with `b` as the name says; nothing orders a NaN.
pub fn holds(name: &str, less: bool, equal: bool, unordered: bool) -> bool {
    let greater = !less && !equal && !unordered;
    match name {
        "eq" => equal,
        "ne" => less || greater,
        "lt" | "lo" => less,
        "le" | "ls" => less || equal,
        "gt" | "hi" => greater,
        "ge" | "hs" => greater || equal,
        "equ" => equal || unordered,
        "neu" => less || greater || unordered,
        "ltu" => less || unordered,
        "leu" => less || equal || unordered,
        "gtu" => greater || unordered,
        "geu" => greater || equal || unordered,
        "num" => !unordered,
        "nan" => unordered,
        _ => panic!("{name} is no comparison"),
    }
}

/// Less, equal and unordered.
fn order(a: &Value, b: &Value) -> (bool, bool, bool) {
    if a.is_nan() || b.is_nan() { (false, false, true) } else { (a.is_less(b), a.is_equal(b), false) }
}

/// The comparison of an opcode `setp.CMP...`: whether it holds of two sources.
pub fn comparison(opcode: &Opcode) -> Box<dyn Fn(u64, u64) -> bool> {
    let (name, ty, ftz) = (opcode.parts[1].to_string(), opcode.ty().to_string(), opcode.has("ftz"));
    match format(&ty) {
        Some(format) => Box::new(move |a, b| {
            let [a, b] = [a, b].map(|bits| format.value(if ftz { format.flushed(bits) } else { bits }));
            let (less, equal, unordered) = order(&a, &b);
            holds(&name, less, equal, unordered)
        }),
        None => Box::new(move |a, b| {
            let (a, b) = (integer(&ty, a), integer(&ty, b));
            holds(&name, a < b, a == b, false)
        }),
    }
}

pub fn case(opcode: &Opcode) -> Option<Case> {
    let ty = opcode.ty().to_string();
    Some(match opcode.parts[0] {
        "setp" if ty.ends_with("x2") => {
            let compare = comparison(opcode);
            // both predicates in one register, so that one destination shows them
            let text = format!(
                ".reg .pred %low; .reg .pred %high; .reg .b32 %two; {} %low|%high, %s0, %s1; selp.b32 %d0, 1, 0, %low; \
                 selp.b32 %two, 2, 0, %high; or.b32 %d0, %d0, %two;",
                opcode.text
            );
            let expected = move |s: &[u64]| {
                let low = compare(s[0] & 0xffff, s[1] & 0xffff) as u64;
                Answer::Bits(low | (compare(s[0] >> 16, s[1] >> 16) as u64) << 1)
            };
            Case { text, ..uniform(opcode, "u32", &ty, 2, Box::new(expected)) }
        }
        "setp" => {
            let compare = comparison(opcode);
            uniform(opcode, "pred", &ty, 2, Box::new(move |s| Answer::Bits(compare(s[0], s[1]) as u64)))
        }
        "selp" => {
            let mask = width(&ty).mask();
            let expected = move |s: &[u64]| Answer::Bits((if s[2] & 1 != 0 { s[0] } else { s[1] }) & mask);
            typed(opcode, &ty, &[&ty, &ty, "pred"], Box::new(expected))
        }
        "slct" => {
            let of = opcode.parts[opcode.parts.len() - 2].to_string();
            let (mask, ftz, float) = (width(&of).mask(), opcode.has("ftz"), ty == "f32");
            let expected = move |s: &[u64]| {
                let first = if float {
                    let value = F32.value(if ftz { F32.flushed(s[2]) } else { s[2] });
                    !value.is_nan() && (value.is_zero() || !value.negative())
                } else {
                    integer("s32", s[2]) >= 0
                };
                Answer::Bits((if first { s[0] } else { s[1] }) & mask)
            };
            typed(opcode, &of, &[&of, &of, &ty], Box::new(expected))
        }
        "testp" => {
            let format = format(&ty)?;
            let property = opcode.parts[1].to_string();
            let expected = move |s: &[u64]| {
                let nan = format.is_nan(s[0]);
                let infinite = !nan && s[0] & format.infinity() == format.infinity();
                Answer::Bits(match property.as_str() {
                    "finite" => !nan && !infinite,
                    "infinite" => infinite,
                    "number" => !nan,
                    "notanumber" => nan,
                    "normal" => !nan && !infinite && !format.is_subnormal(s[0]),
                    _ => format.is_subnormal(s[0]),
                } as u64)
            };
            uniform(opcode, "pred", &ty, 1, Box::new(expected))
        }
        _ => return None,
    })
}
