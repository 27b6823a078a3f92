//! Forms that the tables do not list by themselves: comparisons joined with predicates, packed registers, low parts of wide registers, constants.

use crate::common::*;
use crate::reference::comparison;

/// Runs `text` on the operands in every pattern of lanes and compares each destination with what `expected` says of the masked operands.
fn check(text: &str, destinations: &[Width], sources: &[(Width, Sort)], expected: impl Fn(&[u64]) -> Vec<u64>) {
    let (widths, sorts): (Vec<Width>, Vec<Sort>) = sources.iter().copied().unzip();
    let instruction = Instruction { text, destinations, sources: &widths };
    let lists = operands(&sorts, 2000, text.len() as u64);
    for lanes in Lanes::EVERY {
        let results = instruction.execute(&lists, lanes).unwrap_or_else(|error| panic!("{text}: {error:?}"));
        for n in 0..2000 {
            let of: Vec<u64> = lists.iter().zip(&widths).map(|(list, width)| list[n] & width.mask()).collect();
            let answers = expected(&of);
            for (k, width) in destinations.iter().enumerate() {
                let answer = if lanes.take(n) { answers[k] } else { BEFORE & width.mask() };
                assert_eq!(results[k][n], answer, "{text}, {lanes:?}, destination {k} of {of:x?}");
            }
        }
    }
}

/// Every comparison joined by every operation, with and without a negated predicate and a second destination.
#[test]
fn comparisons_join_predicates() {
    for (ty, width, sort) in [
        ("s32", Width::Word, Sort::Bits(32)),
        ("u64", Width::Double, Sort::Bits(64)),
        ("f32", Width::Word, Sort::F32),
        ("f64", Width::Double, Sort::F64),
    ] {
        for name in ["eq", "ne", "lt", "le", "gt", "ge"] {
            let compare = comparison(&format!("setp.{name}.{ty}"));
            for (join, f) in
                [("and", (|t, c| t & c) as fn(bool, bool) -> bool), ("or", |t, c| t | c), ("xor", |t, c| t ^ c)]
            {
                for negated in [false, true] {
                    let predicate = if negated { "!%s2" } else { "%s2" };
                    let sources = [(width, sort), (width, sort), (Width::Predicate, Sort::Predicate)];
                    let text = format!("setp.{name}.{join}.{ty} %d0|%d1, %s0, %s1, {predicate};");
                    check(&text, &[Width::Predicate; 2], &sources, |s| {
                        let (t, c) = (compare(s[0], s[1]), (s[2] != 0) != negated);
                        vec![f(t, c) as u64, f(!t, c) as u64]
                    });
                    for (to, one) in [("u32", 0xffff_ffff), ("f32", 0x3f80_0000)] {
                        let text = format!("set.{name}.{join}.{to}.{ty} %d0, %s0, %s1, {predicate};");
                        check(&text, &[Width::Word], &sources, |s| {
                            vec![if f(compare(s[0], s[1]), (s[2] != 0) != negated) { one } else { 0 }]
                        });
                    }
                }
            }
        }
    }
}

/// A comparison into two predicates, either of which may be left out; the predicate that it is joined with may be its own destination.
#[test]
fn comparisons_have_two_destinations() {
    let sources = [(Width::Word, Sort::Bits(32)), (Width::Word, Sort::Bits(32))];
    check("setp.lt.s32 %d0|%d1, %s0, %s1;", &[Width::Predicate; 2], &sources, |s| {
        let less = (s[0] as i32) < s[1] as i32;
        vec![less as u64, !less as u64]
    });
    let own = "setp.gt.u32 %d0, %s0, %s1; setp.ne.and.s32 %d0, %s0, 7, %d0;";
    check(own, &[Width::Predicate], &sources, |s| vec![(s[0] > s[1] && s[0] != 7) as u64]);
    check("set.le.s32.u32 %d0, %s0, %s1;", &[Width::Word], &sources, |s| {
        vec![if s[0] <= s[1] { 0xffff_ffff } else { 0 }]
    });
}

/// Registers made of halves, words and bytes, and taken apart again.
#[test]
fn registers_are_packed_and_unpacked() {
    use Width::*;
    let half = (Half, Sort::Bits(16));
    check("mov.b32 %d0, {%s0, %s1};", &[Word], &[half; 2], |s| vec![s[0] | s[1] << 16]);
    check("mov.b64 %d0, {%s0, %s1};", &[Double], &[(Word, Sort::Bits(32)); 2], |s| vec![s[0] | s[1] << 32]);
    check("mov.b64 %d0, {%s0, %s1, %s2, %s3};", &[Double], &[half; 4], |s| {
        vec![s[0] | s[1] << 16 | s[2] << 32 | s[3] << 48]
    });
    check("mov.b32 %d0, {%s0, %s1, %s2, %s3};", &[Word], &[half; 4], |s| {
        vec![s.iter().rev().fold(0, |all, byte| all << 8 | byte & 0xff)]
    });
    check("mov.b32 {%d0, %d1}, %s0;", &[Half; 2], &[(Word, Sort::Bits(32))], |s| vec![s[0] & 0xffff, s[0] >> 16]);
    check("mov.b64 {%d0, %d1}, %s0;", &[Word; 2], &[(Double, Sort::Bits(64))], |s| {
        vec![s[0] & 0xffff_ffff, s[0] >> 32]
    });
    check("mov.b64 {%d0, %d1, %d2, %d3}, %s0;", &[Half; 4], &[(Double, Sort::Bits(64))], |s| {
        (0..4).map(|k| s[0] >> (16 * k) & 0xffff).collect()
    });
    check("mov.b64 {_, %d0}, %s0;", &[Word], &[(Double, Sort::Bits(64))], |s| vec![s[0] >> 32]);
}

/// Conversions read the low part of a register of 64 bits.
#[test]
fn conversions_read_low_parts_of_wide_registers() {
    let source = [(Width::Double, Sort::Bits(64))];
    for (from, extend) in [
        ("s8", (|x| x as i8 as u64) as fn(u64) -> u64),
        ("u8", |x| x as u8 as u64),
        ("s16", |x| x as i16 as u64),
        ("u16", |x| x as u16 as u64),
        ("s32", |x| x as i32 as u64),
        ("u32", |x| x as u32 as u64),
    ] {
        check(&format!("cvt.u64.{from} %d0, %s0;"), &[Width::Double], &source, |s| vec![extend(s[0])]);
        check(&format!("cvt.s32.{from} %d0, %s0;"), &[Width::Word], &source, |s| vec![extend(s[0]) & 0xffff_ffff]);
    }
}

/// Constants stand where registers can.
#[test]
fn constants_are_operands() {
    let word = [(Width::Word, Sort::Bits(32))];
    check("add.s32 %d0, %s0, -5;", &[Width::Word], &word, |s| vec![(s[0] as u32).wrapping_sub(5) as u64]);
    check("lop3.b32 %d0, %s0, 0xff00ff00, 255, 0xCA;", &[Width::Word], &word, |s| {
        vec![(s[0] & 0xff00_ff00) | (!s[0] & 0xffff_ffff & 255)]
    });
    check("mul.f32 %d0, %s0, 0f40000000;", &[Width::Word], &[(Width::Word, Sort::F32)], |s| {
        let product = f32::from_bits(s[0] as u32) * 2.0;
        vec![if product.is_nan() { 0x7fff_ffff } else { product.to_bits() as u64 }]
    });
    check("add.s64 %d0, %s0, 4294967296;", &[Width::Double], &[(Width::Double, Sort::Bits(64))], |s| {
        vec![s[0].wrapping_add(1 << 32)]
    });
    check("selp.b32 %d0, 3, %s0, %s1;", &[Width::Word], &[word[0], (Width::Predicate, Sort::Predicate)], |s| {
        vec![if s[1] != 0 { 3 } else { s[0] }]
    });
}
