//! Integer arithmetic in 128 bits.

use super::*;

/// One operation on integers of a type.
fn arithmetic(opcode: &Opcode, ty: &str, s: &[i128]) -> Option<i128> {
    let bits = bits_of(ty);
    let (least, largest) = range(ty);
    let product = || s[0] * s[1];
    let clamp = |value: i128| if opcode.has("sat") { value.clamp(least, largest) } else { value };
    // the high half of a product as a number of the type
    let high = || product() >> bits;
    let positive = |value: i128| if opcode.has("relu") { value.max(0) } else { value };
    Some(match (opcode.parts[0], opcode.parts[1]) {
        ("add", _) => clamp(s[0] + s[1]),
        ("sub", _) => clamp(s[0] - s[1]),
        ("mul", "lo" | "wide") => product(),
        ("mul", "hi") => high(),
        ("mad", "lo" | "wide") => product() + s[2],
        ("mad", "hi") => clamp(high() + s[2]),
        ("sad", _) => (s[0] - s[1]).abs() + s[2],
        ("div", _) if s[1] == 0 => -1,
        ("rem", _) if s[1] == 0 => s[0],
        ("div", _) => s[0] / s[1],
        ("rem", _) => s[0] % s[1],
        ("abs", _) => s[0].abs(),
        ("neg", _) => -s[0],
        ("min", _) => positive(s[0].min(s[1])),
        ("max", _) => positive(s[0].max(s[1])),
        _ => return None,
    })
}

/// `mul.hi.u64` and the like multiply 64 by 64 bits, which as unsigned numbers need all of 128.
fn high_of_unsigned(a: u64, b: u64) -> u64 {
    let (a1, a0, b1, b0) = (a >> 32, a & 0xffff_ffff, b >> 32, b & 0xffff_ffff);
    let (low, middle, other, top) = (a0 * b0, a1 * b0, a0 * b1, a1 * b1);
    let carried = (low >> 32) + (middle & 0xffff_ffff) + (other & 0xffff_ffff);
    top + (middle >> 32) + (other >> 32) + (carried >> 32)
}

fn sources(name: &str) -> usize {
    match name {
        "abs" | "neg" => 1,
        "mad" | "sad" | "mad24" => 3,
        _ => 2,
    }
}

pub fn case(opcode: &Opcode) -> Option<Case> {
    let (name, ty) = (opcode.parts[0].to_string(), opcode.ty().to_string());
    if opcode.has("cc") || matches!(name.as_str(), "addc" | "subc" | "madc") {
        return Some(extended(opcode));
    }
    if let "dp4a" | "dp2a" = name.as_str() {
        return Some(dot(opcode));
    }
    if let "mul24" | "mad24" = name.as_str() {
        return Some(of_24_bits(opcode));
    }
    let text = opcode.text.to_string();
    let count = sources(&name);
    if !matches!(name.as_str(), "add" | "sub" | "mul" | "mad" | "sad" | "div" | "rem" | "abs" | "neg" | "min" | "max") {
        return None;
    }
    if let Some(half) = ty.strip_suffix("x2") {
        let half = half.to_string();
        let expected = move |s: &[u64]| {
            let opcode = Opcode { text: &text, parts: text.split('.').collect() };
            let of = |shift: u32| {
                let values: Vec<i128> = s.iter().map(|bits| integer(&half, bits >> shift)).collect();
                kept(arithmetic(&opcode, &half, &values).unwrap(), 16)
            };
            Answer::pair(of(0), of(16))
        };
        return Some(uniform(opcode, &ty, &ty, count, Box::new(expected)));
    }
    if ty == "u64" && opcode.has("hi") {
        let expected =
            move |s: &[u64]| Answer::Bits(high_of_unsigned(s[0], s[1]).wrapping_add(s.get(2).copied().unwrap_or(0)));
        return Some(uniform(opcode, "u64", "u64", count, Box::new(expected)));
    }
    let wide = opcode.has("wide");
    let to = if wide { format!("{}{}", &ty[..1], 2 * bits_of(&ty)) } else { ty.clone() };
    let types: Vec<&str> = (0..count).map(|n| if wide && n == 2 { to.as_str() } else { ty.as_str() }).collect();
    let (own, of, name_of_type) = (to.clone(), types.iter().map(|ty| ty.to_string()).collect::<Vec<_>>(), ty.clone());
    let expected = move |s: &[u64]| {
        let opcode = Opcode { text: &text, parts: text.split('.').collect() };
        if opcode.has("lo") && name_of_type == "u64" {
            let product = s[0].wrapping_mul(s[1]);
            return Answer::Bits(product.wrapping_add(s.get(2).copied().unwrap_or(0)));
        }
        let values: Vec<i128> = s.iter().zip(&of).map(|(bits, ty)| integer(ty, *bits)).collect();
        kept(arithmetic(&opcode, &name_of_type, &values).unwrap(), bits_of(&own))
    };
    Some(typed(opcode, &to, &types, Box::new(expected)))
}

/// `mul24` and `mad24`: the low 24 bits of the factors.
fn of_24_bits(opcode: &Opcode) -> Case {
    let ty = opcode.ty().to_string();
    let (high, sat) = (opcode.has("hi"), opcode.has("sat"));
    let signed = ty == "s32";
    let expected = move |s: &[u64]| {
        let factor = |bits: u64| {
            let low = (bits & 0xff_ffff) as i128;
            if signed && low >> 23 != 0 { low - (1 << 24) } else { low }
        };
        let product = factor(s[0]) * factor(s[1]);
        let part = if high { product >> 16 } else { product };
        let Answer::Bits(part) = kept(part, 32) else { unreachable!() };
        let sum = integer(&ty, part) + s.get(2).map_or(0, |bits| integer(&ty, *bits));
        let (least, largest) = range(&ty);
        kept(if sat { sum.clamp(least, largest) } else { sum }, 32)
    };
    uniform(opcode, "u32", "u32", sources(opcode.parts[0]), Box::new(expected))
}

/// `dp4a` and `dp2a`: products of bytes, or of half words and bytes.
fn dot(opcode: &Opcode) -> Case {
    let four = opcode.parts[0] == "dp4a";
    let sign = |ty: &str| if ty == "s32" { "s" } else { "u" };
    let types = &opcode.parts[opcode.parts.len() - 2..];
    let a = format!("{}{}", sign(types[0]), if four { 8 } else { 16 });
    let b = format!("{}8", sign(types[1]));
    let skip = if opcode.has("hi") { 16 } else { 0 };
    let expected = move |s: &[u64]| {
        let parts = if four { 4 } else { 2 };
        let products = (0..parts).map(|k| integer(&a, s[0] >> (k * bits_of(&a))) * integer(&b, s[1] >> (skip + 8 * k)));
        kept(products.sum::<i128>() + integer("u32", s[2]), 32)
    };
    uniform(opcode, "u32", "u32", 3, Box::new(expected))
}

/// Arithmetic with the carry flag: it is set from a last source before the instruction, and what it is afterwards is the lowest bit of the result's other half.
fn extended(opcode: &Opcode) -> Case {
    let ty = opcode.ty().to_string();
    let bits = bits_of(&ty);
    let name = opcode.parts[0];
    let factors = name.starts_with("mad");
    let (reads, writes, high) = (name.ends_with('c'), opcode.has("cc"), opcode.has("hi"));
    let difference = name.starts_with("sub");
    let count = if factors { 3 } else { 2 };
    let operation = statement(opcode.text, count);
    // the carry is set where the last source is not 0; what the flag is afterwards is added to the result's complement to show both in one destination
    let text = format!(
        ".reg .b{bits} %unused; .reg .b{bits} %flag; add.cc.u{bits} %unused, %s{count}, -1; {operation} addc.u{bits} %flag, 0, 0; \
         shl.b{bits} %flag, %flag, {}; xor.b{bits} %d0, %d0, %flag;",
        bits - 1
    );
    let expected = move |s: &[u64]| {
        let mask = u64::MAX >> (64 - bits);
        let carry = (s[count] & mask != 0) as u128;
        let of = |bits: u64| (bits & mask) as u128;
        let (first, second) = if factors {
            let product = if high && ty.starts_with('s') {
                (integer(&ty, s[0]) * integer(&ty, s[1])) as u128 >> bits
            } else {
                let product = of(s[0]) * of(s[1]);
                if high { product >> bits } else { product }
            };
            (product & mask as u128, of(s[2]))
        } else {
            (of(s[0]), of(s[1]))
        };
        let taken = if reads { carry } else { 0 };
        let (sum, after) = if difference {
            (first.wrapping_sub(second).wrapping_sub(taken), first < second + taken)
        } else {
            (first + second + taken, (first + second + taken) >> bits != 0)
        };
        let flag = if writes { after as u64 } else { carry as u64 };
        Answer::Bits((sum as u64 & mask) ^ flag << (bits - 1))
    };
    let types = vec![opcode.ty(); count + 1];
    Case { text, ..typed(opcode, opcode.ty(), &types, Box::new(expected)) }
}
