//! Logic, shifts, fields and bytes, bit by bit as the PTX ISA's pseudocode has them.

use super::*;

/// The source of a shift, a field or a search: a value of `bits` bits.
fn bit(value: u64, position: u32) -> u64 {
    value >> position & 1
}

fn logic(opcode: &Opcode) -> Option<Case> {
    let ty = opcode.ty().to_string();
    if !ty.starts_with('b') && ty != "pred" {
        return None;
    }
    let mask = width(&ty).mask();
    let (sources, f): (usize, fn(&[u64]) -> u64) = match opcode.parts[0] {
        "and" => (2, |s| s[0] & s[1]),
        "or" => (2, |s| s[0] | s[1]),
        "xor" => (2, |s| s[0] ^ s[1]),
        "not" => (1, |s| !s[0]),
        "cnot" => (1, |s| (s[0] == 0) as u64),
        _ => return None,
    };
    let expected = move |s: &[u64]| {
        let masked: Vec<u64> = s.iter().map(|bits| bits & mask).collect();
        Answer::Bits(f(&masked) & mask)
    };
    Some(uniform(opcode, &ty, &ty, sources, Box::new(expected)))
}

/// `shl` and `shr`: amounts above the width give zeros, or signs.
fn shift(opcode: &Opcode) -> Case {
    let ty = opcode.ty().to_string();
    let left = opcode.parts[0] == "shl";
    let of = ty.clone();
    let expected = move |s: &[u64]| {
        let amount = s[1].min(bits_of(&of) as u64) as u32;
        let value = integer(&of, s[0]);
        kept(if left { ((value as u128) << amount) as i128 } else { value >> amount }, bits_of(&of))
    };
    with_amounts(typed(opcode, &ty, &[&ty, "u32"], Box::new(expected)), &[1])
}

/// The case with amounts as the operands of some sources.
fn with_amounts(mut case: Case, sources: &[usize]) -> Case {
    for source in sources {
        case.sources[*source].1 = Sort::Amount;
    }
    case
}

fn funnel(opcode: &Opcode) -> Case {
    let (left, clamp) = (opcode.has("l"), opcode.has("clamp"));
    let expected = move |s: &[u64]| {
        let n = if clamp { s[2].min(32) } else { s[2] & 31 };
        let both = (s[0] as u128) | (s[1] as u128) << 32;
        Answer::Bits(if left { (both << n >> 32) as u64 & 0xffff_ffff } else { (both >> n) as u64 & 0xffff_ffff })
    };
    with_amounts(uniform(opcode, "b32", "b32", 3, Box::new(expected)), &[2])
}

/// Counts and reversals of bits.
fn count(opcode: &Opcode) -> Case {
    let ty = opcode.ty().to_string();
    let bits = bits_of(&ty);
    let name = opcode.parts[0].to_string();
    let to = if name == "brev" { ty.clone() } else { "u32".to_string() };
    let expected = move |s: &[u64]| {
        let mut set = (0..bits).filter(|position| bit(s[0], *position) != 0);
        Answer::Bits(match name.as_str() {
            "popc" => set.count() as u64,
            "clz" => set.next_back().map_or(bits, |highest| bits - 1 - highest) as u64,
            _ => set.fold(0, |all, position| all | 1 << (bits - 1 - position)),
        })
    };
    typed(opcode, &to, &[&ty], Box::new(expected))
}

fn extract(opcode: &Opcode) -> Case {
    let ty = opcode.ty().to_string();
    let (msb, signed) = (bits_of(&ty) - 1, ty.starts_with('s'));
    let expected = move |s: &[u64]| {
        let (position, length) = (s[1] as u32 & 0xff, s[2] as u32 & 0xff);
        let sign = if !signed || length == 0 { 0 } else { bit(s[0], (position + length - 1).min(msb)) };
        Answer::Bits((0..=msb).fold(0, |all, i| {
            let inside = i < length && position + i <= msb;
            all | (if inside { bit(s[0], position + i) } else { sign }) << i
        }))
    };
    with_amounts(typed(opcode, &ty, &[&ty, "u32", "u32"], Box::new(expected)), &[1, 2])
}

fn insert(opcode: &Opcode) -> Case {
    let ty = opcode.ty().to_string();
    let msb = bits_of(&ty) - 1;
    let expected = move |s: &[u64]| {
        let (position, length) = (s[2] as u32 & 0xff, s[3] as u32 & 0xff);
        let mut result = s[1];
        let mut i = 0;
        while i < length && position + i <= msb {
            result = result & !(1 << (position + i)) | bit(s[0], i) << (position + i);
            i += 1;
        }
        Answer::Bits(result & (u64::MAX >> (63 - msb)))
    };
    with_amounts(typed(opcode, &ty, &[&ty, &ty, "u32", "u32"], Box::new(expected)), &[2, 3])
}

/// `bfind`: the highest bit that differs from the sign.
fn find(opcode: &Opcode) -> Case {
    let ty = opcode.ty().to_string();
    let (bits, shift) = (bits_of(&ty), opcode.has("shiftamt"));
    let of = ty.clone();
    let expected = move |s: &[u64]| {
        let value = integer(&of, s[0]);
        let value = if value < 0 { !value } else { value };
        let highest = (0..bits).rev().find(|position| value >> position & 1 != 0);
        Answer::Bits(highest.map_or(0xffff_ffff, |found| if shift { bits - 1 - found } else { found }) as u64)
    };
    typed(opcode, "u32", &[&ty], Box::new(expected))
}

fn find_nth(opcode: &Opcode) -> Case {
    let expected = |s: &[u64]| {
        let (mask, base, offset) = (s[0], s[1] as i64, s[2] as u32 as i32);
        let none = 0xffff_ffff;
        let positions: Box<dyn Iterator<Item = i64>> = match offset {
            0 => Box::new(base..=base),
            1.. => Box::new(base..32),
            _ => Box::new((0..=base).rev()),
        };
        let mut set = positions.filter(|position| (0..32).contains(position) && bit(mask, *position as u32) != 0);
        let found = set.nth(offset.unsigned_abs().max(1) as usize - 1);
        Answer::Bits(found.map_or(none, |position| position as u64))
    };
    let mut case = uniform(opcode, "b32", "b32", 3, Box::new(expected));
    case.text = "and.b32 %s1, %s1, 31; rem.s32 %s2, %s2, 34; fns.b32 %d0, %s0, %s1, %s2;".to_string();
    let plain = case.expected;
    case.expected = Box::new(move |s| plain(&[s[0], s[1] & 31, ((s[2] as u32 as i32) % 34) as u32 as u64]));
    case
}

fn mask(opcode: &Opcode) -> Case {
    let clamp = opcode.has("clamp");
    let expected = move |s: &[u64]| {
        let (a1, b1) = ((s[0] & 31) as u32, (s[1] & 31) as u32);
        let position_overflows = clamp && s[0] >= 32;
        let width_overflows = clamp && s[1] >= 32;
        let mask0 = if position_overflows { 0 } else { u32::MAX << a1 };
        let mask1 = if a1 + b1 >= 32 || position_overflows || width_overflows { 0 } else { u32::MAX << (a1 + b1) };
        Answer::Bits((mask0 & !mask1) as u64)
    };
    with_amounts(uniform(opcode, "b32", "b32", 2, Box::new(expected)), &[0, 1])
}

fn extend(opcode: &Opcode) -> Case {
    let (clamp, signed) = (opcode.has("clamp"), opcode.has("s32"));
    let expected = move |s: &[u64]| {
        let a = s[0] as u32;
        let b1 = (s[1] & 31) as u32;
        let too_large = clamp && s[1] >= 32;
        let mask = if too_large { 0 } else { u32::MAX << b1 };
        let sign = b1 != 0 && !too_large && signed && a >> (b1 - 1) & 1 != 0;
        Answer::Bits((a & !mask | if sign { mask } else { 0 }) as u64)
    };
    with_amounts(uniform(opcode, "b32", "b32", 2, Box::new(expected)), &[1])
}

/// `prmt`: the tables of the PTX ISA, the byte for the highest place first.
fn permute(opcode: &Opcode) -> Case {
    let table: Option<[[u32; 4]; 4]> = match opcode.parts.get(2).copied() {
        Some("f4e") => Some([[3, 2, 1, 0], [4, 3, 2, 1], [5, 4, 3, 2], [6, 5, 4, 3]]),
        Some("b4e") => Some([[5, 6, 7, 0], [6, 7, 0, 1], [7, 0, 1, 2], [0, 1, 2, 3]]),
        Some("rc8") => Some([[0, 0, 0, 0], [1, 1, 1, 1], [2, 2, 2, 2], [3, 3, 3, 3]]),
        Some("ecl") => Some([[3, 2, 1, 0], [3, 2, 1, 1], [3, 2, 2, 2], [3, 3, 3, 3]]),
        Some("ecr") => Some([[0, 0, 0, 0], [1, 1, 1, 0], [2, 2, 1, 0], [3, 2, 1, 0]]),
        Some("rc16") => Some([[1, 0, 1, 0], [3, 2, 3, 2], [1, 0, 1, 0], [3, 2, 3, 2]]),
        _ => None,
    };
    let expected = move |s: &[u64]| {
        let byte = |n: u32| if n < 4 { s[0] >> (8 * n) & 0xff } else { s[1] >> (8 * (n - 4)) & 0xff };
        Answer::Bits((0..4u32).fold(0, |all, place| {
            let chosen = match table {
                Some(table) => byte(table[(s[2] & 3) as usize][3 - place as usize]),
                None => {
                    let nibble = (s[2] >> (4 * place) & 15) as u32;
                    let literal = byte(nibble & 7);
                    if nibble < 8 { literal } else { (literal >> 7) * 0xff }
                }
            };
            all | chosen << (8 * place)
        }))
    };
    uniform(opcode, "b32", "b32", 3, Box::new(expected))
}

/// `lop3`: bit `k` of the table is the result where the sources' bits are `k`.
fn lookup(opcode: &Opcode) -> Case {
    let expected = |s: &[u64]| {
        Answer::Bits((0..32).fold(0, |all, position| {
            let entry = bit(s[0], position) << 2 | bit(s[1], position) << 1 | bit(s[2], position);
            all | (s[3] >> entry & 1) << position
        }))
    };
    uniform(opcode, "b32", "b32", 4, Box::new(expected))
}

pub fn case(opcode: &Opcode) -> Option<Case> {
    Some(match opcode.parts[0] {
        "and" | "or" | "xor" | "not" | "cnot" => return logic(opcode),
        "mov" | "cvta" => {
            let ty = opcode.ty().to_string();
            let mask = width(&ty).mask();
            uniform(opcode, &ty, &ty, 1, Box::new(move |s| Answer::Bits(s[0] & mask)))
        }
        "shl" | "shr" => shift(opcode),
        "shf" => funnel(opcode),
        "popc" | "clz" | "brev" => count(opcode),
        "bfe" => extract(opcode),
        "bfi" => insert(opcode),
        "bfind" => find(opcode),
        "fns" => find_nth(opcode),
        "bmsk" => mask(opcode),
        "szext" => extend(opcode),
        "prmt" => permute(opcode),
        "lop3" => lookup(opcode),
        _ => return None,
    })
}
