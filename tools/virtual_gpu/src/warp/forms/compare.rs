//! Comparisons, selections and tests of floating-point numbers (PTX ISA, "Comparison and Selection Instructions" and `testp`).

use super::*;
use crate::warp::NONE;
use crate::warp::float::flush;
use crate::warp::float::half::{Bf16, F16, widen};
use std::convert::identity;

macro_rules! integers {
    ($t:ty, $name:literal) => {
        forms! {
            concat!("setp.eq", $name) => compare!($t, identity, |x, y| x == y);
            concat!("setp.ne", $name) => compare!($t, identity, |x, y| x != y);
            concat!("setp.(lt|lo)", $name) => compare!($t, identity, |x, y| x < y);
            concat!("setp.(le|ls)", $name) => compare!($t, identity, |x, y| x <= y);
            concat!("setp.(gt|hi)", $name) => compare!($t, identity, |x, y| x > y);
            concat!("setp.(ge|hs)", $name) => compare!($t, identity, |x, y| x >= y);
        }
    };
}

/// Comparisons of numbers that may be NaN: `equ` to `geu` hold for a NaN, the others do not.
macro_rules! floats {
    ($t:ty, $value:expr, $name:literal) => {
        forms! {
            concat!("setp.eq", $name) => compare!($t, $value, |x, y| x == y);
            concat!("setp.ne", $name) => compare!($t, $value, |x, y| (x < y) | (x > y));
            concat!("setp.lt", $name) => compare!($t, $value, |x, y| x < y);
            concat!("setp.le", $name) => compare!($t, $value, |x, y| x <= y);
            concat!("setp.gt", $name) => compare!($t, $value, |x, y| x > y);
            concat!("setp.ge", $name) => compare!($t, $value, |x, y| x >= y);
            concat!("setp.equ", $name) => compare!($t, $value, |x, y| (x == y) | x.is_nan() | y.is_nan());
            concat!("setp.neu", $name) => compare!($t, $value, |x, y| x != y);
            concat!("setp.ltu", $name) => compare!($t, $value, |x, y| (x < y) | x.is_nan() | y.is_nan());
            concat!("setp.leu", $name) => compare!($t, $value, |x, y| (x <= y) | x.is_nan() | y.is_nan());
            concat!("setp.gtu", $name) => compare!($t, $value, |x, y| (x > y) | x.is_nan() | y.is_nan());
            concat!("setp.geu", $name) => compare!($t, $value, |x, y| (x >= y) | x.is_nan() | y.is_nan());
            concat!("setp.num", $name) => compare!($t, $value, |x, y| !x.is_nan() & !y.is_nan());
            concat!("setp.nan", $name) => compare!($t, $value, |x, y| x.is_nan() | y.is_nan());
        }
    };
}

/// `.ftz` of an f16.
#[inline(always)]
fn flushed16(bits: u16) -> f32 {
    widen::<F16>(crate::warp::float::half::flush::<F16>(bits))
}

/// `testp`: a property of one source.
macro_rules! property {
    ($t:ty, |$x:ident| $holds:expr) => {{
        #[inline(always)]
        unsafe fn body(warp: &mut Warp, inst: &Inst) {
            unsafe {
                let a = warp.p(inst.r[1]);
                let holds = (0..32).fold(0, |all, l| {
                    let $x = <$t as Lane>::at(a, l);
                    all | (($holds) as u32) << l
                });
                warp.put_pred(inst.r[0], holds);
            }
        }
        code!(body, [Place::To(Hold::Predicate), Place::From(<$t as Lane>::HOLD)])
    }};
}

/// `setp` of two pairs of halves: the predicate of the low ones and that of the high ones.
macro_rules! compare_pairs {
    ($format:ty, |$x:ident, $y:ident| $holds:expr) => {{
        #[inline(always)]
        unsafe fn body(warp: &mut Warp, inst: &Inst) {
            unsafe {
                let (a, b) = (warp.p(inst.r[2]), warp.p(inst.r[3]));
                for (half, to) in [(0, inst.r[0]), (16, inst.r[1])] {
                    let holds = (0..32).fold(0, |all, l| {
                        let $x = widen::<$format>((u32::at(a, l) >> half) as u16);
                        let $y = widen::<$format>((u32::at(b, l) >> half) as u16);
                        all | (($holds) as u32) << l
                    });
                    if to != NONE {
                        warp.put_pred(to, holds);
                    }
                }
            }
        }
        const TO: Place = Place::To(Hold::Predicate);
        code!(body, [TO, TO, Place::From(Hold::Word), Place::From(Hold::Word)])
    }};
}
macro_rules! pairs {
    ($format:ty, $name:literal) => {
        forms! {
            concat!("setp.eq", $name) => compare_pairs!($format, |x, y| x == y);
            concat!("setp.ne", $name) => compare_pairs!($format, |x, y| (x < y) | (x > y));
            concat!("setp.lt", $name) => compare_pairs!($format, |x, y| x < y);
            concat!("setp.le", $name) => compare_pairs!($format, |x, y| x <= y);
            concat!("setp.gt", $name) => compare_pairs!($format, |x, y| x > y);
            concat!("setp.ge", $name) => compare_pairs!($format, |x, y| x >= y);
            concat!("setp.neu", $name) => compare_pairs!($format, |x, y| x != y);
            concat!("setp.nan", $name) => compare_pairs!($format, |x, y| x.is_nan() || y.is_nan());
        }
    };
}

pub const TABLES: &[&[Row]] = &[
    integers!(u16, ".u16"),
    integers!(i16, ".s16"),
    integers!(u32, ".u32"),
    integers!(i32, ".s32"),
    integers!(u64, ".u64"),
    integers!(i64, ".s64"),
    BITS,
    floats!(f32, identity, ".f32"),
    floats!(f32, flush, ".ftz.f32"),
    floats!(f64, identity, ".f64"),
    floats!(u16, widen::<F16>, ".f16"),
    floats!(u16, flushed16, ".ftz.f16"),
    floats!(u16, widen::<Bf16>, ".bf16"),
    pairs!(F16, ".f16x2"),
    pairs!(Bf16, ".bf16x2"),
    SELECTIONS,
    PROPERTIES,
];

const BITS: &[Row] = forms! {
    "setp.eq.b16" => compare!(u16, identity, |x, y| x == y);
    "setp.ne.b16" => compare!(u16, identity, |x, y| x != y);
    "setp.eq.b32" => compare!(u32, identity, |x, y| x == y);
    "setp.ne.b32" => compare!(u32, identity, |x, y| x != y);
    "setp.eq.b64" => compare!(u64, identity, |x, y| x == y);
    "setp.ne.b64" => compare!(u64, identity, |x, y| x != y);
};

const SELECTIONS: &[Row] = forms! {
    "selp.(b16|u16|s16|b32|u32|s32|f32)" => select!(u32);
    "selp.(b64|u64|s64|f64)" => select!(u64);
    "slct.(b16|u16|s16|b32|u32|s32|f32).s32" => op!(u32; |a: u32, b: u32, c: i32| if c >= 0 { a } else { b });
    "slct.(b64|u64|s64|f64).s32" => op!(u64; |a: u64, b: u64, c: i32| if c >= 0 { a } else { b });
    "slct.(b16|u16|s16|b32|u32|s32|f32).f32" => op!(u32; |a: u32, b: u32, c: f32| if c >= 0.0 { a } else { b });
    "slct.(b64|u64|s64|f64).f32" => op!(u64; |a: u64, b: u64, c: f32| if c >= 0.0 { a } else { b });
    "slct.ftz.(b16|u16|s16|b32|u32|s32|f32).f32" => op!(u32; |a: u32, b: u32, c: f32| if flush(c) >= 0.0 { a } else { b });
    "slct.ftz.(b64|u64|s64|f64).f32" => op!(u64; |a: u64, b: u64, c: f32| if flush(c) >= 0.0 { a } else { b });
};

// A zero counts as normal.
const PROPERTIES: &[Row] = forms! {
    "testp.finite.f32" => property!(f32, |x| x.is_finite());
    "testp.infinite.f32" => property!(f32, |x| x.is_infinite());
    "testp.number.f32" => property!(f32, |x| !x.is_nan());
    "testp.notanumber.f32" => property!(f32, |x| x.is_nan());
    "testp.normal.f32" => property!(f32, |x| x.is_normal() || x == 0.0);
    "testp.subnormal.f32" => property!(f32, |x| x.is_subnormal());
    "testp.finite.f64" => property!(f64, |x| x.is_finite());
    "testp.infinite.f64" => property!(f64, |x| x.is_infinite());
    "testp.number.f64" => property!(f64, |x| !x.is_nan());
    "testp.notanumber.f64" => property!(f64, |x| x.is_nan());
    "testp.normal.f64" => property!(f64, |x| x.is_normal() || x == 0.0);
    "testp.subnormal.f64" => property!(f64, |x| x.is_subnormal());
};

/// How `setp` and `set` join a comparison with a predicate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Join {
    Alone,
    And,
    Or,
    Xor,
}

impl Join {
    /// The joining that a part of an opcode names.
    pub fn named(part: &str) -> Option<Join> {
        match part {
            "and" => Some(Join::And),
            "or" => Some(Join::Or),
            "xor" => Some(Join::Xor),
            _ => None,
        }
    }
    fn apply(self, compared: u32, predicate: u32) -> u32 {
        match self {
            Join::Alone => compared,
            Join::And => compared & predicate,
            Join::Or => compared | predicate,
            Join::Xor => compared ^ predicate,
        }
    }
}

/// `setp` with everything: operands `p`, `q` (either may be `NONE`), `a`, `b`, `c`, and a predicate to compare into.
/// `imm` is the comparison's function, `count` the joining.
///
/// # Safety
/// `imm` is a function of the comparisons, and `ext` points to six operands.
pub unsafe fn combine_predicates(warp: &mut Warp, inst: &Inst) {
    unsafe {
        let [p, q, a, b, c, scratch] = *(inst.ext as *const [u32; 6]);
        let (compared, predicate) = compared(warp, inst, [a, b, c, scratch]);
        let join = join_of(inst);
        if p != NONE {
            warp.put_pred(p, join.apply(compared, predicate));
        }
        if q != NONE {
            warp.put_pred(q, join.apply(!compared, predicate));
        }
    }
}

/// `set`: operands `d`, `a`, `b`, `c` and a predicate to compare into; all ones, or 1.0 where `size` is 1, if the comparison holds. The rest as in `setp`.
///
/// # Safety
/// `imm` is a function of the comparisons, and `ext` points to five operands.
pub unsafe fn set_from_comparison(warp: &mut Warp, inst: &Inst) {
    unsafe {
        let [d, a, b, c, scratch] = *(inst.ext as *const [u32; 5]);
        let (compared, predicate) = compared(warp, inst, [a, b, c, scratch]);
        let holds = join_of(inst).apply(compared, predicate);
        let yes = if inst.size == 1 { 1.0f32.to_bits() } else { !0 };
        let results: [u32; 32] = std::array::from_fn(|l| if holds >> l & 1 != 0 { yes } else { 0 });
        warp.put::<u32>(d, &results);
    }
}

fn join_of(inst: &Inst) -> Join {
    [Join::Alone, Join::And, Join::Or, Join::Xor][inst.count as usize & 3]
}

/// The lanes in which the comparison holds, and the predicate that it is joined with.
unsafe fn compared(warp: &mut Warp, inst: &Inst, [a, b, c, scratch]: [u32; 4]) -> (u32, u32) {
    unsafe {
        // Safety: the caller's; selection puts a comparison's function there.
        let compare: OpFn = std::mem::transmute::<usize, OpFn>(inst.imm as usize);
        compare(warp, &Inst { r: [scratch, a, b, NONE], imm: 0, ..inst.clone() });
        let predicate = if c == NONE { 0 } else { warp.pred(c) };
        (warp.pred(scratch), predicate)
    }
}
