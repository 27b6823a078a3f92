//! Integer arithmetic (PTX ISA, "Integer Arithmetic Instructions" and "Extended-Precision Integer Arithmetic Instructions").

use super::*;

pub const TABLES: &[&[Row]] = &[SIXTEEN, THIRTY_TWO, SIXTY_FOUR, PAIRS, EXTENDED];

/// Half words of a register, low half first, and back.
#[inline(always)]
fn by_half(x: u32, y: u32, f: impl Fn(u16, u16) -> u16) -> u32 {
    f(x as u16, y as u16) as u32 | (f((x >> 16) as u16, (y >> 16) as u16) as u32) << 16
}

/// The low 24 bits as a signed number.
#[inline(always)]
fn s24(x: i32) -> i64 {
    (x << 8 >> 8) as i64
}

/// The low 24 bits.
#[inline(always)]
fn u24(x: u32) -> u64 {
    (x & 0xff_ffff) as u64
}

/// The sum of four products of bytes and `c`; `$a` and `$b` say how the bytes of each source are read.
macro_rules! dot4 {
    ($a:ty, $b:ty) => {
        op!(u32; |a: u32, b: u32, c: u32| (0..4).fold(c, |sum, k| {
            let product = (a >> (8 * k)) as $a as i32 * (b >> (8 * k)) as $b as i32;
            sum.wrapping_add(product as u32)
        }))
    };
}

/// The sum of two products of a half word of `a` and a byte of `b`, and `c`; `$shift` chooses the low or the high two bytes.
macro_rules! dot2 {
    ($a:ty, $b:ty, $shift:literal) => {
        op!(u32; |a: u32, b: u32, c: u32| (0..2).fold(c, |sum, k| {
            let product = (a >> (16 * k)) as $a as i32 * (b >> ($shift + 8 * k)) as $b as i32;
            sum.wrapping_add(product as u32)
        }))
    };
}

// A division by zero is unspecified in the PTX ISA; these chips give all ones, and the dividend as the remainder.
const SIXTEEN: &[Row] = forms! {
    "add.(s16|u16)" => op!(u16; |a: u16, b: u16| a.wrapping_add(b));
    "sub.(s16|u16)" => op!(u16; |a: u16, b: u16| a.wrapping_sub(b));
    "mul.lo.(s16|u16)" => op!(u16; |a: u16, b: u16| a.wrapping_mul(b));
    "mul.hi.u16" => op!(u16; |a: u16, b: u16| ((a as u32 * b as u32) >> 16) as u16);
    "mul.hi.s16" => op!(i16; |a: i16, b: i16| ((a as i32 * b as i32) >> 16) as i16);
    "mul.wide.u16" => op!(u32; |a: u16, b: u16| a as u32 * b as u32);
    "mul.wide.s16" => op!(i32; |a: i16, b: i16| a as i32 * b as i32);
    "mad.lo.(s16|u16)" => op!(u16; |a: u16, b: u16, c: u16| a.wrapping_mul(b).wrapping_add(c));
    "mad.hi.u16" => op!(u16; |a: u16, b: u16, c: u16| (((a as u32 * b as u32) >> 16) as u16).wrapping_add(c));
    "mad.hi.s16" => op!(i16; |a: i16, b: i16, c: i16| (((a as i32 * b as i32) >> 16) as i16).wrapping_add(c));
    "mad.wide.u16" => op!(u32; |a: u16, b: u16, c: u32| (a as u32 * b as u32).wrapping_add(c));
    "mad.wide.s16" => op!(i32; |a: i16, b: i16, c: i32| (a as i32 * b as i32).wrapping_add(c));
    "sad.u16" => op!(u16; |a: u16, b: u16, c: u16| a.abs_diff(b).wrapping_add(c));
    "sad.s16" => op!(u16; |a: i16, b: i16, c: u16| a.abs_diff(b).wrapping_add(c));
    "div.u16" => op!(u16; |a: u16, b: u16| a.checked_div(b).unwrap_or(!0));
    "div.s16" => op!(i16; |a: i16, b: i16| if b == 0 { -1 } else { a.wrapping_div(b) });
    "rem.u16" => op!(u16; |a: u16, b: u16| a.checked_rem(b).unwrap_or(a));
    "rem.s16" => op!(i16; |a: i16, b: i16| if b == 0 { a } else { a.wrapping_rem(b) });
    "abs.s16" => op!(i16; |a: i16| a.wrapping_abs());
    "neg.s16" => op!(i16; |a: i16| a.wrapping_neg());
    "min.u16" => op!(u16; |a: u16, b: u16| a.min(b));
    "min.s16" => op!(i16; |a: i16, b: i16| a.min(b));
    "max.u16" => op!(u16; |a: u16, b: u16| a.max(b));
    "max.s16" => op!(i16; |a: i16, b: i16| a.max(b));
};

const THIRTY_TWO: &[Row] = forms! {
    "add.(s32|u32)" => op!(u32; |a: u32, b: u32| a.wrapping_add(b));
    "add.sat.s32" => op!(i32; |a: i32, b: i32| a.saturating_add(b));
    "sub.(s32|u32)" => op!(u32; |a: u32, b: u32| a.wrapping_sub(b));
    "sub.sat.s32" => op!(i32; |a: i32, b: i32| a.saturating_sub(b));
    "mul.lo.(s32|u32)" => op!(u32; |a: u32, b: u32| a.wrapping_mul(b));
    "mul.hi.u32" => op!(u32; |a: u32, b: u32| ((a as u64 * b as u64) >> 32) as u32);
    "mul.hi.s32" => op!(i32; |a: i32, b: i32| ((a as i64 * b as i64) >> 32) as i32);
    "mul.wide.u32" => op!(u64; |a: u32, b: u32| a as u64 * b as u64);
    "mul.wide.s32" => op!(i64; |a: i32, b: i32| a as i64 * b as i64);
    "mad.lo.(s32|u32)" => op!(u32; |a: u32, b: u32, c: u32| a.wrapping_mul(b).wrapping_add(c));
    "mad.hi.u32" => op!(u32; |a: u32, b: u32, c: u32| (((a as u64 * b as u64) >> 32) as u32).wrapping_add(c));
    "mad.hi.s32" => op!(i32; |a: i32, b: i32, c: i32| (((a as i64 * b as i64) >> 32) as i32).wrapping_add(c));
    "mad.hi.sat.s32" => op!(i32; |a: i32, b: i32, c: i32| (((a as i64 * b as i64) >> 32) as i32).saturating_add(c));
    "mad.wide.u32" => op!(u64; |a: u32, b: u32, c: u64| (a as u64 * b as u64).wrapping_add(c));
    "mad.wide.s32" => op!(i64; |a: i32, b: i32, c: i64| (a as i64 * b as i64).wrapping_add(c));
    "mul24.lo.u32" => op!(u32; |a: u32, b: u32| (u24(a) * u24(b)) as u32);
    "mul24.lo.s32" => op!(u32; |a: i32, b: i32| (s24(a) * s24(b)) as u32);
    "mul24.hi.u32" => op!(u32; |a: u32, b: u32| ((u24(a) * u24(b)) >> 16) as u32);
    "mul24.hi.s32" => op!(u32; |a: i32, b: i32| ((s24(a) * s24(b)) >> 16) as u32);
    "mad24.lo.u32" => op!(u32; |a: u32, b: u32, c: u32| ((u24(a) * u24(b)) as u32).wrapping_add(c));
    "mad24.lo.s32" => op!(u32; |a: i32, b: i32, c: u32| ((s24(a) * s24(b)) as u32).wrapping_add(c));
    "mad24.hi.u32" => op!(u32; |a: u32, b: u32, c: u32| (((u24(a) * u24(b)) >> 16) as u32).wrapping_add(c));
    "mad24.hi.s32" => op!(u32; |a: i32, b: i32, c: u32| (((s24(a) * s24(b)) >> 16) as u32).wrapping_add(c));
    "mad24.hi.sat.s32" => op!(i32; |a: i32, b: i32, c: i32| (((s24(a) * s24(b)) >> 16) as i32).saturating_add(c));
    "sad.u32" => op!(u32; |a: u32, b: u32, c: u32| a.abs_diff(b).wrapping_add(c));
    "sad.s32" => op!(u32; |a: i32, b: i32, c: u32| a.abs_diff(b).wrapping_add(c));
    "div.u32" => op!(u32; |a: u32, b: u32| a.checked_div(b).unwrap_or(!0));
    "div.s32" => op!(i32; |a: i32, b: i32| if b == 0 { -1 } else { a.wrapping_div(b) });
    "rem.u32" => op!(u32; |a: u32, b: u32| a.checked_rem(b).unwrap_or(a));
    "rem.s32" => op!(i32; |a: i32, b: i32| if b == 0 { a } else { a.wrapping_rem(b) });
    "abs.s32" => op!(i32; |a: i32| a.wrapping_abs());
    "neg.s32" => op!(u32; |a: u32| a.wrapping_neg());
    "min.u32" => op!(u32; |a: u32, b: u32| a.min(b));
    "min.s32" => op!(i32; |a: i32, b: i32| a.min(b));
    "min.relu.s32" => op!(i32; |a: i32, b: i32| a.min(b).max(0));
    "max.u32" => op!(u32; |a: u32, b: u32| a.max(b));
    "max.s32" => op!(i32; |a: i32, b: i32| a.max(b));
    "max.relu.s32" => op!(i32; |a: i32, b: i32| a.max(b).max(0));
    "dp4a.u32.u32" => dot4!(u8, u8);
    "dp4a.u32.s32" => dot4!(u8, i8);
    "dp4a.s32.u32" => dot4!(i8, u8);
    "dp4a.s32.s32" => dot4!(i8, i8);
    "dp2a.lo.u32.u32" => dot2!(u16, u8, 0);
    "dp2a.lo.u32.s32" => dot2!(u16, i8, 0);
    "dp2a.lo.s32.u32" => dot2!(i16, u8, 0);
    "dp2a.lo.s32.s32" => dot2!(i16, i8, 0);
    "dp2a.hi.u32.u32" => dot2!(u16, u8, 16);
    "dp2a.hi.u32.s32" => dot2!(u16, i8, 16);
    "dp2a.hi.s32.u32" => dot2!(i16, u8, 16);
    "dp2a.hi.s32.s32" => dot2!(i16, i8, 16);
};

const SIXTY_FOUR: &[Row] = forms! {
    "add.(s64|u64)" => op!(u64; |a: u64, b: u64| a.wrapping_add(b));
    "sub.(s64|u64)" => op!(u64; |a: u64, b: u64| a.wrapping_sub(b));
    "mul.lo.(s64|u64)" => op!(u64; |a: u64, b: u64| a.wrapping_mul(b));
    "mul.hi.u64" => op!(u64; |a: u64, b: u64| ((a as u128 * b as u128) >> 64) as u64);
    "mul.hi.s64" => op!(i64; |a: i64, b: i64| ((a as i128 * b as i128) >> 64) as i64);
    "mad.lo.(s64|u64)" => op!(u64; |a: u64, b: u64, c: u64| a.wrapping_mul(b).wrapping_add(c));
    "mad.hi.u64" => op!(u64; |a: u64, b: u64, c: u64| (((a as u128 * b as u128) >> 64) as u64).wrapping_add(c));
    "mad.hi.s64" => op!(i64; |a: i64, b: i64, c: i64| (((a as i128 * b as i128) >> 64) as i64).wrapping_add(c));
    "sad.u64" => op!(u64; |a: u64, b: u64, c: u64| a.abs_diff(b).wrapping_add(c));
    "sad.s64" => op!(u64; |a: i64, b: i64, c: u64| a.abs_diff(b).wrapping_add(c));
    "div.u64" => op!(u64; |a: u64, b: u64| a.checked_div(b).unwrap_or(!0));
    "div.s64" => op!(i64; |a: i64, b: i64| if b == 0 { -1 } else { a.wrapping_div(b) });
    "rem.u64" => op!(u64; |a: u64, b: u64| a.checked_rem(b).unwrap_or(a));
    "rem.s64" => op!(i64; |a: i64, b: i64| if b == 0 { a } else { a.wrapping_rem(b) });
    "abs.s64" => op!(i64; |a: i64| a.wrapping_abs());
    "neg.s64" => op!(u64; |a: u64| a.wrapping_neg());
    "min.u64" => op!(u64; |a: u64, b: u64| a.min(b));
    "min.s64" => op!(i64; |a: i64, b: i64| a.min(b));
    "max.u64" => op!(u64; |a: u64, b: u64| a.max(b));
    "max.s64" => op!(i64; |a: i64, b: i64| a.max(b));
};

/// Two half words in one register (sm_90).
const PAIRS: &[Row] = forms! {
    "add.(s16x2|u16x2)" => op!(u32; |a: u32, b: u32| by_half(a, b, u16::wrapping_add));
    "min.u16x2" => op!(u32; |a: u32, b: u32| by_half(a, b, u16::min));
    "min.s16x2" => op!(u32; |a: u32, b: u32| by_half(a, b, |x, y| (x as i16).min(y as i16) as u16));
    "min.relu.s16x2" => op!(u32; |a: u32, b: u32| by_half(a, b, |x, y| (x as i16).min(y as i16).max(0) as u16));
    "max.u16x2" => op!(u32; |a: u32, b: u32| by_half(a, b, u16::max));
    "max.s16x2" => op!(u32; |a: u32, b: u32| by_half(a, b, |x, y| (x as i16).max(y as i16) as u16));
    "max.relu.s16x2" => op!(u32; |a: u32, b: u32| by_half(a, b, |x, y| (x as i16).max(y as i16).max(0) as u16));
};

/// `carry!(T, Wide; |a, b, carry| sum, reads, writes)`: arithmetic in a wider type whose bit above `T` is the carry (of a difference: the borrow).
macro_rules! carry {
    ($t:ty, $wide:ty; |$($x:ident),+; $carry:ident| $sum:expr, $reads:expr, $writes:expr) => {{
        #[inline(always)]
        unsafe fn body(warp: &mut Warp, inst: &Inst) {
            const OPERANDS: usize = 1 + [$(stringify!($x)),+].len();
            unsafe {
                let mut operand = if OPERANDS > 4 { inst.ext } else { inst.r.as_ptr() };
                let to = *operand;
                $(operand = operand.add(1); let $x = warp.p(*operand);)+
                let before = if $reads { warp.carry } else { 0 };
                let mut after = 0u32;
                let mut results = [<$t>::default(); 32];
                for (l, result) in results.iter_mut().enumerate() {
                    $(let $x = <$t as Lane>::at($x, l) as $wide;)+
                    let $carry = (before >> l & 1) as $wide;
                    let sum: $wide = $sum;
                    after |= ((sum >> <$t>::BITS & 1) as u32) << l;
                    *result = sum as $t;
                }
                warp.put::<$t>(to, &results);
                if $writes {
                    warp.carry = (warp.carry & !warp.mask) | (after & warp.mask);
                }
            }
        }
        const HOLD: Hold = <$t as Lane>::HOLD;
        code!(body, [Place::To(HOLD), $(carry!(@from $x)),+])
    }};
    (@from $x:ident) => { Place::From(HOLD) };
}

/// The low or high half of a product of `T` in `Wide`.
macro_rules! half_of_product {
    (lo $t:ty, $wide:ty, $a:expr, $b:expr) => {
        ($a as $t).wrapping_mul($b as $t) as $wide
    };
    (hi $t:ty, $wide:ty, $a:expr, $b:expr) => {
        ($a * $b) >> <$t>::BITS
    };
    (signed $t:ty, $signed:ty, $wide_signed:ty, $wide:ty, $a:expr, $b:expr) => {
        (($a as $signed as $wide_signed * $b as $signed as $wide_signed) >> <$t>::BITS) as $t as $wide
    };
}

// The flag CC.CF is the carry of a sum and the borrow of a difference.
const EXTENDED: &[Row] = forms! {
    "add.cc.(s32|u32)" => carry!(u32, u64; |a, b; _c| a + b, false, true);
    "addc.(s32|u32)" => carry!(u32, u64; |a, b; c| a + b + c, true, false);
    "addc.cc.(s32|u32)" => carry!(u32, u64; |a, b; c| a + b + c, true, true);
    "sub.cc.(s32|u32)" => carry!(u32, u64; |a, b; _c| a.wrapping_sub(b), false, true);
    "subc.(s32|u32)" => carry!(u32, u64; |a, b; c| a.wrapping_sub(b + c), true, false);
    "subc.cc.(s32|u32)" => carry!(u32, u64; |a, b; c| a.wrapping_sub(b + c), true, true);
    "mad.lo.cc.(s32|u32)" => carry!(u32, u64; |a, b, d; _c| half_of_product!(lo u32, u64, a, b) + d, false, true);
    "madc.lo.(s32|u32)" => carry!(u32, u64; |a, b, d; c| half_of_product!(lo u32, u64, a, b) + d + c, true, false);
    "madc.lo.cc.(s32|u32)" => carry!(u32, u64; |a, b, d; c| half_of_product!(lo u32, u64, a, b) + d + c, true, true);
    "mad.hi.cc.u32" => carry!(u32, u64; |a, b, d; _c| half_of_product!(hi u32, u64, a, b) + d, false, true);
    "madc.hi.u32" => carry!(u32, u64; |a, b, d; c| half_of_product!(hi u32, u64, a, b) + d + c, true, false);
    "madc.hi.cc.u32" => carry!(u32, u64; |a, b, d; c| half_of_product!(hi u32, u64, a, b) + d + c, true, true);
    "mad.hi.cc.s32" => carry!(u32, u64; |a, b, d; _c| half_of_product!(signed u32, i32, i64, u64, a, b) + d, false, true);
    "madc.hi.s32" => carry!(u32, u64; |a, b, d; c| half_of_product!(signed u32, i32, i64, u64, a, b) + d + c, true, false);
    "madc.hi.cc.s32" => carry!(u32, u64; |a, b, d; c| half_of_product!(signed u32, i32, i64, u64, a, b) + d + c, true, true);
    "add.cc.(s64|u64)" => carry!(u64, u128; |a, b; _c| a + b, false, true);
    "addc.(s64|u64)" => carry!(u64, u128; |a, b; c| a + b + c, true, false);
    "addc.cc.(s64|u64)" => carry!(u64, u128; |a, b; c| a + b + c, true, true);
    "sub.cc.(s64|u64)" => carry!(u64, u128; |a, b; _c| a.wrapping_sub(b), false, true);
    "subc.(s64|u64)" => carry!(u64, u128; |a, b; c| a.wrapping_sub(b + c), true, false);
    "subc.cc.(s64|u64)" => carry!(u64, u128; |a, b; c| a.wrapping_sub(b + c), true, true);
    "mad.lo.cc.(s64|u64)" => carry!(u64, u128; |a, b, d; _c| half_of_product!(lo u64, u128, a, b) + d, false, true);
    "madc.lo.(s64|u64)" => carry!(u64, u128; |a, b, d; c| half_of_product!(lo u64, u128, a, b) + d + c, true, false);
    "madc.lo.cc.(s64|u64)" => carry!(u64, u128; |a, b, d; c| half_of_product!(lo u64, u128, a, b) + d + c, true, true);
    "mad.hi.cc.u64" => carry!(u64, u128; |a, b, d; _c| half_of_product!(hi u64, u128, a, b) + d, false, true);
    "madc.hi.u64" => carry!(u64, u128; |a, b, d; c| half_of_product!(hi u64, u128, a, b) + d + c, true, false);
    "madc.hi.cc.u64" => carry!(u64, u128; |a, b, d; c| half_of_product!(hi u64, u128, a, b) + d + c, true, true);
    "mad.hi.cc.s64" => carry!(u64, u128; |a, b, d; _c| half_of_product!(signed u64, i64, i128, u128, a, b) + d, false, true);
    "madc.hi.s64" => carry!(u64, u128; |a, b, d; c| half_of_product!(signed u64, i64, i128, u128, a, b) + d + c, true, false);
    "madc.hi.cc.s64" => carry!(u64, u128; |a, b, d; c| half_of_product!(signed u64, i64, i128, u128, a, b) + d + c, true, true);
};
