//! Arithmetic on f32 and f64 (PTX ISA, "Floating Point Instructions").
//!
//! A NaN that arithmetic on f32 makes is 0x7fffffff; the payload of an f64's NaN is whatever the processor makes it.

use super::*;
use crate::warp::float::{approximate::*, *};

pub const TABLES: &[&[Row]] = &[SINGLE, SINGLE_MODIFIED, EXTREMES, DOUBLE, APPROXIMATE];

/// `.ftz` of a source.
#[inline(always)]
fn source(x: f32, m: Modifiers) -> f32 {
    if m.has(Modifiers::FTZ) { flush(x) } else { x }
}

/// `.ftz` and `.sat` of a result, and its NaN.
#[inline(always)]
fn result(x: f32, m: Modifiers) -> f32 {
    let x = if m.has(Modifiers::FTZ) { flush(x) } else { x };
    if m.has(Modifiers::SAT) { saturate(x) } else { canonical(x) }
}

/// `min` and `max` with `.ftz`, `.NaN` and `.xorsign.abs`.
#[inline(always)]
fn extreme(a: f32, b: f32, m: Modifiers, f: impl Fn(f32, f32) -> f32) -> f32 {
    let (a, b) = (source(a, m), source(b, m));
    let xorsign = m.has(Modifiers::XORSIGN);
    let chosen = if xorsign { with_xor_sign(f(a.abs(), b.abs()), a, b) } else { f(a, b) };
    if (m.has(Modifiers::NAN) && (a.is_nan() || b.is_nan())) || chosen.is_nan() { NAN32 } else { chosen }
}

// The forms of nearly every kernel, without a look at modifiers.
const SINGLE: &[Row] = forms! {
    "add[.rn].f32" => op!(f32; |a: f32, b: f32| canonical(a + b));
    "sub[.rn].f32" => op!(f32; |a: f32, b: f32| canonical(a - b));
    "mul[.rn].f32" => op!(f32; |a: f32, b: f32| canonical(a * b));
    "fma.rn.f32" => op!(f32; |a: f32, b: f32, c: f32| canonical(a.mul_add(b, c)));
    "add[.rn].ftz.f32" => op!(f32; |a: f32, b: f32| canonical(flush(flush(a) + flush(b))));
    "sub[.rn].ftz.f32" => op!(f32; |a: f32, b: f32| canonical(flush(flush(a) - flush(b))));
    "mul[.rn].ftz.f32" => op!(f32; |a: f32, b: f32| canonical(flush(flush(a) * flush(b))));
    "fma.rn.ftz.f32" => op!(f32; |a: f32, b: f32, c: f32| canonical(flush(flush(a).mul_add(flush(b), flush(c)))));
    "add.rz.f32" => op!(f32; |a: f32, b: f32| canonical(rounding::add(a, b, Rounding::Zero)));
    "fma.rm.f32" => op!(f32; |a: f32, b: f32, c: f32| canonical(rounding::fma(a, b, c, Rounding::Down)));
    "neg.f32" => op!(f32; |a: f32| -a);
    "neg.ftz.f32" => op!(f32; |a: f32| -flush(a));
    "abs.f32" => op!(f32; |a: f32| a.abs());
    "abs.ftz.f32" => op!(f32; |a: f32| flush(a).abs());
    "copysign.f32" => op!(f32; |a: f32, b: f32| b.copysign(a));
    "div.rn.f32" => op!(f32; |a: f32, b: f32| canonical(a / b));
    "rcp.rn.f32" => op!(f32; |a: f32| canonical(1.0 / a));
    "sqrt.rn.f32" => op!(f32; |a: f32| root(a));
};

const SINGLE_MODIFIED: &[Row] = forms! {
    "add[.rn](.sat|.ftz.sat).f32" => op!(f32; |a: f32, b: f32; m| result(source(a, m) + source(b, m), m));
    "add.rz(.ftz|.sat|.ftz.sat).f32" => op!(f32; |a: f32, b: f32; m| result(rounding::add(source(a, m), source(b, m), m.rounding()), m));
    "add(.rm|.rp)[.ftz][.sat].f32" => op!(f32; |a: f32, b: f32; m| result(rounding::add(source(a, m), source(b, m), m.rounding()), m));
    "sub[.rn](.sat|.ftz.sat).f32" => op!(f32; |a: f32, b: f32; m| result(source(a, m) - source(b, m), m));
    "sub(.rz|.rm|.rp)[.ftz][.sat].f32" => op!(f32; |a: f32, b: f32; m| result(rounding::add(source(a, m), -source(b, m), m.rounding()), m));
    "mul[.rn](.sat|.ftz.sat).f32" => op!(f32; |a: f32, b: f32; m| result(source(a, m) * source(b, m), m));
    "mul(.rz|.rm|.rp)[.ftz][.sat].f32" => op!(f32; |a: f32, b: f32; m| result(rounding::mul(source(a, m), source(b, m), m.rounding()), m));
    "fma.rn(.sat|.ftz.sat).f32" => op!(f32; |a: f32, b: f32, c: f32; m| result(source(a, m).mul_add(source(b, m), source(c, m)), m));
    "fma.rm(.ftz|.sat|.ftz.sat).f32" => op!(f32; |a: f32, b: f32, c: f32; m| result(rounding::fma(source(a, m), source(b, m), source(c, m), m.rounding()), m));
    "fma(.rz|.rp)[.ftz][.sat].f32" => op!(f32; |a: f32, b: f32, c: f32; m| result(rounding::fma(source(a, m), source(b, m), source(c, m), m.rounding()), m));
    "mad(.rn|.rz|.rm|.rp)[.ftz][.sat].f32" => op!(f32; |a: f32, b: f32, c: f32; m| result(rounding::fma(source(a, m), source(b, m), source(c, m), m.rounding()), m));
    "div.rn.ftz.f32" => op!(f32; |a: f32, b: f32; m| result(source(a, m) / source(b, m), m));
    "div(.rz|.rm|.rp)[.ftz].f32" => op!(f32; |a: f32, b: f32; m| result(rounding::div(source(a, m), source(b, m), m.rounding()), m));
    "rcp.rn.ftz.f32" => op!(f32; |a: f32; m| result(1.0 / source(a, m), m));
    "rcp(.rz|.rm|.rp)[.ftz].f32" => op!(f32; |a: f32; m| result(rounding::div(1.0, source(a, m), m.rounding()), m));
    "sqrt.rn.ftz.f32" => op!(f32; |a: f32; m| result(root(source(a, m)), m));
    "sqrt(.rz|.rm|.rp)[.ftz].f32" => op!(f32; |a: f32; m| result(rounding::sqrt(source(a, m), m.rounding()), m));
};

const EXTREMES: &[Row] = forms! {
    "max.f32" => op!(f32; |a: f32, b: f32| max32(a, b));
    "min.f32" => op!(f32; |a: f32, b: f32| min32(a, b));
    "max(.ftz|.NaN|.ftz.NaN).f32" => op!(f32; |a: f32, b: f32; m| extreme(a, b, m, max32));
    "min(.ftz|.NaN|.ftz.NaN).f32" => op!(f32; |a: f32, b: f32; m| extreme(a, b, m, min32));
    "max[.ftz][.NaN].xorsign.abs.f32" => op!(f32; |a: f32, b: f32; m| extreme(a, b, m, max32));
    "min[.ftz][.NaN].xorsign.abs.f32" => op!(f32; |a: f32, b: f32; m| extreme(a, b, m, min32));
    "max.f64" => op!(f64; |a: f64, b: f64| max64(a, b));
    "min.f64" => op!(f64; |a: f64, b: f64| min64(a, b));
};

const DOUBLE: &[Row] = forms! {
    "add[.rn].f64" => op!(f64; |a: f64, b: f64| a + b);
    "sub[.rn].f64" => op!(f64; |a: f64, b: f64| a - b);
    "mul[.rn].f64" => op!(f64; |a: f64, b: f64| a * b);
    "(fma|mad).rn.f64" => op!(f64; |a: f64, b: f64, c: f64| a.mul_add(b, c));
    "add(.rz|.rm|.rp).f64" => op!(f64; |a: f64, b: f64; m| exact::add(a, b, m.rounding()));
    "sub(.rz|.rm|.rp).f64" => op!(f64; |a: f64, b: f64; m| exact::add(a, -b, m.rounding()));
    "mul(.rz|.rm|.rp).f64" => op!(f64; |a: f64, b: f64; m| exact::mul(a, b, m.rounding()));
    "(fma|mad)(.rz|.rm|.rp).f64" => op!(f64; |a: f64, b: f64, c: f64; m| exact::fma(a, b, c, m.rounding()));
    "div.rn.f64" => op!(f64; |a: f64, b: f64| a / b);
    "div(.rz|.rm|.rp).f64" => op!(f64; |a: f64, b: f64; m| exact::div(a, b, m.rounding()));
    "rcp.rn.f64" => op!(f64; |a: f64| 1.0 / a);
    "rcp(.rz|.rm|.rp).f64" => op!(f64; |a: f64; m| exact::div(1.0, a, m.rounding()));
    "sqrt.rn.f64" => op!(f64; |a: f64| a.sqrt());
    "sqrt(.rz|.rm|.rp).f64" => op!(f64; |a: f64; m| exact::sqrt(a, m.rounding()));
    "neg.f64" => op!(f64; |a: f64| -a);
    "abs.f64" => op!(f64; |a: f64| a.abs());
    "copysign.f64" => op!(f64; |a: f64, b: f64| b.copysign(a));
};

// `.ftz` flushes subnormal sources and results.
const APPROXIMATE: &[Row] = forms! {
    "ex2.approx.f32" => op!(f32; |a: f32| ex2(a)).or_err(op!(f32; |a: f32| ex2_erring(a)));
    "ex2.approx.ftz.f32" => op!(f32; |a: f32| flushed(a, ex2)).or_err(op!(f32; |a: f32| flushed(a, ex2_erring)));
    "lg2.approx.f32" => op!(f32; |a: f32| lg2(a)).or_err(op!(f32; |a: f32| lg2_erring(a)));
    "lg2.approx.ftz.f32" => op!(f32; |a: f32| flushed(a, lg2)).or_err(op!(f32; |a: f32| flushed(a, lg2_erring)));
    "rcp.approx[.ftz].f32" => op!(f32; |a: f32; m| result(1.0 / source(a, m), m))
        .or_err(op!(f32; |a: f32; m| err(result(1.0 / source(a, m), m), bound::RCP, a)));
    "sqrt.approx[.ftz].f32" => op!(f32; |a: f32; m| result(root(source(a, m)), m))
        .or_err(op!(f32; |a: f32; m| err(result(root(source(a, m)), m), bound::SQRT, a)));
    "rsqrt.approx[.ftz].f32" => op!(f32; |a: f32; m| result(rsqrt(source(a, m)), m))
        .or_err(op!(f32; |a: f32; m| err(result(rsqrt(source(a, m)), m), bound::RSQRT, a)));
    "div.approx[.ftz].f32" => op!(f32; |a: f32, b: f32; m| result(div_approx(source(a, m), source(b, m)), m))
        .or_err(op!(f32; |a: f32, b: f32; m| err(result(div_approx(source(a, m), source(b, m)), m), bound::DIV, b)));
    "div.full[.ftz].f32" => op!(f32; |a: f32, b: f32; m| result(source(a, m) / source(b, m), m))
        .or_err(op!(f32; |a: f32, b: f32; m| err(result(source(a, m) / source(b, m), m), bound::DIV, b)));
    "sin.approx[.ftz].f32" => op!(f32; |a: f32; m| result(sin(source(a, m)), m))
        .or_err(op!(f32; |a: f32; m| err_absolute(result(sin(source(a, m)), m), bound::SIN, a)));
    "cos.approx[.ftz].f32" => op!(f32; |a: f32; m| result(cos(source(a, m)), m))
        .or_err(op!(f32; |a: f32; m| err_absolute(result(cos(source(a, m)), m), bound::SIN, a)));
    "tanh.approx.f32" => op!(f32; |a: f32| tanh(a)).or_err(op!(f32; |a: f32| err(tanh(a), bound::TANH, a)));
    "rcp.approx.ftz.f64" => op!(f64; |a: f64| rcp64(a));
    "rsqrt.approx.ftz.f64" => op!(f64; |a: f64| rsqrt64(a));
    "rsqrt.approx.f64" => op!(f64; |a: f64| 1.0 / a.sqrt());
};
