//! Logic, shifts, and operations on bits (PTX ISA, "Logic and Shift Instructions" and the bit operations among "Integer Arithmetic Instructions"; `prmt` and `shf` from "Data Movement and Conversion Instructions").

use super::*;

pub const TABLES: &[&[Row]] = &[LOGIC, SHIFTS, FIELDS, BYTES];

/// The lowest `count` bits set, all of them from 64 on.
#[inline(always)]
fn ones(count: u32) -> u64 {
    if count >= 64 { !0 } else { (1 << count) - 1 }
}

/// `bfe`: the field of `length` bits at `position` of a value of `bits` bits; `negative` fills what lies above the field or outside the value.
#[inline(always)]
fn field(value: u64, bits: u32, signed: bool, position: u32, length: u32) -> u64 {
    let (position, length) = (position & 0xff, length & 0xff);
    let top = (position + length).saturating_sub(1).min(bits - 1);
    let negative = signed && length > 0 && value >> top & 1 != 0;
    let fill = if negative { !0 } else { 0 };
    let moved = if position >= bits { fill } else { value >> position };
    let inside = ones(length.min(bits.saturating_sub(position)));
    (moved & inside) | (fill & !inside)
}

/// `bfi`: `base` with the lowest `length` bits of `value` at `position`.
#[inline(always)]
fn insert(value: u64, base: u64, bits: u32, position: u32, length: u32) -> u64 {
    let (position, length) = (position & 0xff, length & 0xff);
    if position >= bits {
        return base;
    }
    let inside = ones(length) << position;
    (base & !inside) | ((value << position) & inside)
}

/// `bfind`: the position of the highest bit that is not a sign, all ones where there is none.
#[inline(always)]
fn highest(value: u64) -> u32 {
    if value == 0 { !0 } else { 63 - value.leading_zeros() }
}

/// `fns`: the position of the `offset`-th set bit of `mask` counted from `base` upwards, or downwards where `offset` is negative; all ones where there is none.
#[inline(always)]
fn nth_set(mask: u32, base: u32, offset: i32) -> u32 {
    let at = |position: i64| (0..32).contains(&position) && mask >> position & 1 != 0;
    if offset == 0 {
        return if at(base as i64) { base } else { !0 };
    }
    let step = offset.signum() as i64;
    let mut left = offset.unsigned_abs();
    let mut position = base as i64;
    while (0..32).contains(&position) {
        left -= at(position) as u32;
        if left == 0 {
            return position as u32;
        }
        position += step;
    }
    !0
}

/// `lop3`: each bit is looked up in `table` by the bits of the three sources.
#[inline(always)]
fn lookup3(a: u32, b: u32, c: u32, table: u32) -> u32 {
    let mut result = 0;
    for entry in 0..8 {
        let minterm = if entry & 4 != 0 { a } else { !a }
            & if entry & 2 != 0 { b } else { !b }
            & if entry & 1 != 0 { c } else { !c };
        result |= if table >> entry & 1 != 0 { minterm } else { 0 };
    }
    result
}

/// `prmt` without a mode: each nibble of `choice` names a byte of `{b, a}`, or its sign where the nibble's highest bit is set.
#[inline(always)]
fn permute(a: u32, b: u32, choice: u32) -> u32 {
    let source = a as u64 | (b as u64) << 32;
    let mut result = 0;
    for k in 0..4 {
        let nibble = choice >> (4 * k) & 15;
        let byte = (source >> (8 * (nibble & 7))) as u8;
        let byte = if nibble & 8 != 0 { (byte as i8 >> 7) as u8 } else { byte };
        result |= (byte as u32) << (8 * k);
    }
    result
}

/// `prmt` with a mode: `selections[c & 3]` names the four bytes, the lowest in the lowest nibble.
macro_rules! permute_by_mode {
    ($selections:expr) => {
        op!(u32; |a: u32, b: u32, c: u32| permute(a, b, $selections[(c & 3) as usize]))
    };
}

const LOGIC: &[Row] = forms! {
    "and.pred" => predicates!(|a, b| a & b);
    "or.pred" => predicates!(|a, b| a | b);
    "xor.pred" => predicates!(|a, b| a ^ b);
    "not.pred" => predicates!(|a| !a);
    "and.b16" => op!(u16; |a: u16, b: u16| a & b);
    "or.b16" => op!(u16; |a: u16, b: u16| a | b);
    "xor.b16" => op!(u16; |a: u16, b: u16| a ^ b);
    "not.b16" => op!(u16; |a: u16| !a);
    "cnot.b16" => op!(u16; |a: u16| (a == 0) as u16);
    "and.b32" => op!(u32; |a: u32, b: u32| a & b);
    "or.b32" => op!(u32; |a: u32, b: u32| a | b);
    "xor.b32" => op!(u32; |a: u32, b: u32| a ^ b);
    "not.b32" => op!(u32; |a: u32| !a);
    "cnot.b32" => op!(u32; |a: u32| (a == 0) as u32);
    "and.b64" => op!(u64; |a: u64, b: u64| a & b);
    "or.b64" => op!(u64; |a: u64, b: u64| a | b);
    "xor.b64" => op!(u64; |a: u64, b: u64| a ^ b);
    "not.b64" => op!(u64; |a: u64| !a);
    "cnot.b64" => op!(u64; |a: u64| (a == 0) as u64);
    "lop3.b32" => op!(u32; |a: u32, b: u32, c: u32, table: u32| lookup3(a, b, c, table));
};

// Amounts above the width are clamped to it.
const SHIFTS: &[Row] = forms! {
    "shl.b16" => op!(u16; |a: u16, b: u32| if b > 15 { 0 } else { a << (b & 15) });
    "shl.b32" => op!(u32; |a: u32, b: u32| if b > 31 { 0 } else { a << (b & 31) });
    "shl.b64" => op!(u64; |a: u64, b: u32| if b > 63 { 0 } else { a << (b & 63) });
    "shr.(u16|b16)" => op!(u16; |a: u16, b: u32| if b > 15 { 0 } else { a >> (b & 15) });
    "shr.(u32|b32)" => op!(u32; |a: u32, b: u32| if b > 31 { 0 } else { a >> (b & 31) });
    "shr.(u64|b64)" => op!(u64; |a: u64, b: u32| if b > 63 { 0 } else { a >> (b & 63) });
    "shr.s16" => op!(i16; |a: i16, b: u32| a >> b.min(15));
    "shr.s32" => op!(i32; |a: i32, b: u32| a >> b.min(31));
    "shr.s64" => op!(i64; |a: i64, b: u32| a >> b.min(63));
    "shf.l.wrap.b32" => op!(u32; |a: u32, b: u32, c: u32| (((b as u64) << 32 | a as u64) << (c & 31) >> 32) as u32);
    "shf.r.wrap.b32" => op!(u32; |a: u32, b: u32, c: u32| (((b as u64) << 32 | a as u64) >> (c & 31)) as u32);
    "shf.l.clamp.b32" => op!(u32; |a: u32, b: u32, c: u32| (((b as u64) << 32 | a as u64) << c.min(32) >> 32) as u32);
    "shf.r.clamp.b32" => op!(u32; |a: u32, b: u32, c: u32| (((b as u64) << 32 | a as u64) >> c.min(32)) as u32);
};

const FIELDS: &[Row] = forms! {
    "popc.b32" => op!(u32; |a: u32| a.count_ones());
    "popc.b64" => op!(u32; |a: u64| a.count_ones());
    "clz.b32" => op!(u32; |a: u32| a.leading_zeros());
    "clz.b64" => op!(u32; |a: u64| a.leading_zeros());
    "brev.b32" => op!(u32; |a: u32| a.reverse_bits());
    "brev.b64" => op!(u64; |a: u64| a.reverse_bits());
    "bfe.u32" => op!(u32; |a: u32, position: u32, length: u32| field(a as u64, 32, false, position, length) as u32);
    "bfe.s32" => op!(u32; |a: i32, position: u32, length: u32| field(a as u32 as u64, 32, true, position, length) as u32);
    "bfe.u64" => op!(u64; |a: u64, position: u32, length: u32| field(a, 64, false, position, length));
    "bfe.s64" => op!(u64; |a: u64, position: u32, length: u32| field(a, 64, true, position, length));
    "bfi.b32" => op!(u32; |a: u32, b: u32, position: u32, length: u32| insert(a as u64, b as u64, 32, position, length) as u32);
    "bfi.b64" => op!(u64; |a: u64, b: u64, position: u32, length: u32| insert(a, b, 64, position, length));
    "bfind.u32" => op!(u32; |a: u32| highest(a as u64));
    "bfind.s32" => op!(u32; |a: i32| highest((a ^ a >> 31) as u64));
    "bfind.u64" => op!(u32; |a: u64| highest(a));
    "bfind.s64" => op!(u32; |a: i64| highest((a ^ a >> 63) as u64));
    "bfind.shiftamt.u32" => op!(u32; |a: u32| if a == 0 { !0 } else { a.leading_zeros() });
    "bfind.shiftamt.s32" => op!(u32; |a: i32| { let a = a ^ a >> 31; if a == 0 { !0 } else { a.leading_zeros() } });
    "bfind.shiftamt.u64" => op!(u32; |a: u64| if a == 0 { !0 } else { a.leading_zeros() });
    "bfind.shiftamt.s64" => op!(u32; |a: i64| { let a = a ^ a >> 63; if a == 0 { !0 } else { a.leading_zeros() } });
    "fns.b32" => op!(u32; |mask: u32, base: u32, offset: i32| nth_set(mask, base, offset));
    "bmsk.clamp.b32" => op!(u32; |a: u32, b: u32| if a > 31 { 0 } else { ((ones(b.min(32)) << a) & 0xffff_ffff) as u32 });
    "bmsk.wrap.b32" => op!(u32; |a: u32, b: u32| ((ones(b & 31) << (a & 31)) & 0xffff_ffff) as u32);
    "szext.clamp.u32" => op!(u32; |a: u32, b: u32| a & ones(b.min(32)) as u32);
    "szext.wrap.u32" => op!(u32; |a: u32, b: u32| a & ones(b & 31) as u32);
    "szext.clamp.s32" => op!(u32; |a: u32, b: u32| field(a as u64, 32, true, 0, b.min(32)) as u32);
    "szext.wrap.s32" => op!(u32; |a: u32, b: u32| field(a as u64, 32, true, 0, b & 31) as u32);
};

const BYTES: &[Row] = forms! {
    "prmt.b32" => op!(u32; |a: u32, b: u32, c: u32| permute(a, b, c));
    "prmt.b32.f4e" => permute_by_mode!([0x3210u32, 0x4321, 0x5432, 0x6543]);
    "prmt.b32.b4e" => permute_by_mode!([0x5670u32, 0x6701, 0x7012, 0x0123]);
    "prmt.b32.rc8" => permute_by_mode!([0x0000u32, 0x1111, 0x2222, 0x3333]);
    "prmt.b32.ecl" => permute_by_mode!([0x3210u32, 0x3211, 0x3222, 0x3333]);
    "prmt.b32.ecr" => permute_by_mode!([0x0000u32, 0x1110, 0x2210, 0x3210]);
    "prmt.b32.rc16" => permute_by_mode!([0x1010u32, 0x3232, 0x1010, 0x3232]);
};
