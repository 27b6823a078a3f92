//! `mma.sync` (PTX ISA, "Warp-level matrix instructions: mma"): the shapes and types of compute capability 8.0 to 9.0 with
//! dense operands of 8 bits and more.

pub mod fragments;
pub mod sums;

use super::*;
use fragments::{of_a, of_b, of_c, of_halves};
use sums::{Accumulator, Columns, Operand, Rows, accumulate};

/// An `mma.sync` instruction: what executes it, and the registers of its fragments.
#[derive(Clone, Copy)]
pub struct Form {
    pub execute: OpFn,
    /// Registers of D, A, B and C: `Inst::ext` holds them in this order.
    pub registers: [usize; 4],
    /// Whether the registers have 64 bits.
    pub wide: bool,
}

/// The form of an opcode, or nothing where it is unknown here.
pub fn form(opcode: &str) -> Option<Form> {
    let (shape, rest) = opcode.strip_prefix("mma.sync.aligned.")?.split_once(".row.col.")?;
    let (saturate, types) = match rest.strip_prefix("satfinite.") {
        Some(types) => (true, types),
        None => (false, rest),
    };
    let types: Vec<&str> = types.split('.').collect();
    let &[d, a, b, c] = types.as_slice() else { return None };
    if d != c {
        return None;
    }
    match (a, b) {
        ("f16" | "bf16" | "tf32", _) if a == b && !saturate => of_floats(shape, a, d),
        ("s8" | "u8", "s8" | "u8") if d == "s32" => of_integers(shape, a == "s8", b == "s8", saturate),
        ("f64", "f64") if d == "f64" && !saturate => of_doubles(shape),
        _ => None,
    }
}

fn of_floats(shape: &str, operand: &str, accumulator: &str) -> Option<Form> {
    macro_rules! forms {
        ($(($shape:literal, $operand:literal, $accumulator:literal): $k:literal, $o:ident, $c:ident;)*) => {
            match (shape, operand, accumulator) {
                $(($shape, $operand, $accumulator) => Some(Form {
                    // SAFETY: as for `multiply_floats`.
                    execute: |w, i| unsafe { multiply_floats::<$k>(w, i, Operand::$o, Accumulator::$c) },
                    registers: registers_of_floats($k, Operand::$o, Accumulator::$c),
                    wide: false,
                }),)*
                _ => None,
            }
        };
    }
    forms! {
        ("m16n8k8", "bf16", "f32"): 8, Bf16, F32;
        ("m16n8k16", "bf16", "f32"): 16, Bf16, F32;
        ("m16n8k8", "f16", "f32"): 8, F16, F32;
        ("m16n8k16", "f16", "f32"): 16, F16, F32;
        ("m16n8k8", "f16", "f16"): 8, F16, F16;
        ("m16n8k16", "f16", "f16"): 16, F16, F16;
        ("m16n8k4", "tf32", "f32"): 4, Tf32, F32;
        ("m16n8k8", "tf32", "f32"): 8, Tf32, F32;
    }
}

const fn registers_of_floats(k: usize, operand: Operand, accumulator: Accumulator) -> [usize; 4] {
    let of_b = k / (4 * operand.per_register());
    let of_c = if matches!(accumulator, Accumulator::F16) { 2 } else { 4 };
    [of_c, 2 * of_b, of_b, of_c]
}

fn of_integers(shape: &str, a_signed: bool, b_signed: bool, saturate: bool) -> Option<Form> {
    macro_rules! signs {
        ($k:literal) => {
            signs!($k: (false, false, false) (false, false, true) (false, true, false) (false, true, true)
                       (true, false, false) (true, false, true) (true, true, false) (true, true, true))
        };
        ($k:literal: $(($a:literal, $b:literal, $s:literal))*) => {
            match (a_signed, b_signed, saturate) {
                // SAFETY: as for `multiply_integers`.
                $(($a, $b, $s) => (|w, i| unsafe { multiply_integers::<$k>(w, i, $a, $b, $s) }) as OpFn,)*
            }
        };
    }
    match shape {
        "m16n8k16" => Some(Form { execute: signs!(16), registers: [4, 2, 1, 4], wide: false }),
        "m16n8k32" => Some(Form { execute: signs!(32), registers: [4, 4, 2, 4], wide: false }),
        _ => None,
    }
}

fn of_doubles(shape: &str) -> Option<Form> {
    let (execute, registers): (OpFn, _) = match shape {
        "m8n8k4" => (multiply_doubles::<8, 4>, [2, 1, 1, 2]),
        "m16n8k4" => (multiply_doubles::<16, 4>, [4, 2, 1, 4]),
        "m16n8k8" => (multiply_doubles::<16, 8>, [4, 4, 2, 4]),
        "m16n8k16" => (multiply_doubles::<16, 16>, [4, 8, 4, 4]),
        _ => return None,
    };
    Some(Form { execute, registers, wide: true })
}

/// The registers of an instruction's fragments, as `Form::registers` counts them.
///
/// # Safety
/// `Inst::ext` names as many registers.
unsafe fn fragments_of(i: &Inst, registers: [usize; 4]) -> [&[u32]; 4] {
    let mut first = 0;
    registers.map(|count| {
        let fragment = unsafe { std::slice::from_raw_parts(i.ext.add(first), count) };
        first += count;
        fragment
    })
}

/// The lanes of a register of 32 bits.
///
/// # Safety
/// The register is one of the warp's, or a constant of its kernel.
#[inline(always)]
pub unsafe fn lanes(w: &Warp, register: u32) -> &[u32; 32] {
    unsafe { &*(w.p(register) as *const [u32; 32]) }
}

/// A (16 rows) from what its registers hold in each lane.
#[inline(always)]
pub fn gather_a<'a, const K: usize>(
    registers: impl IntoIterator<Item = &'a [u32; 32]>,
    operand: Operand,
) -> [[f32; K]; 16] {
    let mut a = [[0f32; K]; 16];
    for (q, lanes) in registers.into_iter().enumerate() {
        for (lane, &bits) in lanes.iter().enumerate() {
            for part in 0..operand.per_register() {
                let at = of_a(operand.per_register(), q, lane, part);
                a[at.row][at.column] = operand.value(bits, part);
            }
        }
    }
    a
}

/// C (16 rows, 8 columns) from its registers.
///
/// # Safety
/// As for `lanes`.
#[inline(always)]
pub unsafe fn gather_c(w: &Warp, registers: &[u32], accumulator: Accumulator) -> [[f32; 8]; 16] {
    let mut c = [[0f32; 8]; 16];
    for (q, &register) in registers.iter().enumerate() {
        let lanes = unsafe { lanes(w, register) };
        for (lane, &bits) in lanes.iter().enumerate() {
            match accumulator {
                Accumulator::F32 => {
                    let at = of_c(q, lane);
                    c[at.row][at.column] = f32::from_bits(bits);
                }
                Accumulator::F16 => {
                    for part in 0..2 {
                        let at = of_halves(q, lane, part);
                        c[at.row][at.column] = Operand::F16.value(bits, part);
                    }
                }
            }
        }
    }
    c
}

/// D (16 rows, 8 columns) into its registers.
///
/// # Safety
/// The registers are the warp's.
#[inline(always)]
pub unsafe fn scatter_d(w: &mut Warp, registers: &[u32], d: &[[f32; 8]; 16], accumulator: Accumulator) {
    let half = |x: f32| sums::half_from_f64(x as f64) as u32;
    for (q, &register) in registers.iter().enumerate() {
        let mut values = [0u32; 32];
        for (lane, value) in values.iter_mut().enumerate() {
            *value = match accumulator {
                Accumulator::F32 => {
                    let at = of_c(q, lane);
                    d[at.row][at.column].to_bits()
                }
                Accumulator::F16 => {
                    let [low, high] = [0, 1].map(|part| of_halves(q, lane, part));
                    half(d[low.row][low.column]) | half(d[high.row][high.column]) << 16
                }
            };
        }
        unsafe { w.put::<u32>(register, &values) };
    }
}

/// D = A B + C for 16 rows, 8 columns and operands of 16 or 32 bits.
///
/// # Safety
/// `Inst::ext` holds the registers of `registers_of_floats`, and all lanes are active.
#[inline(always)]
unsafe fn multiply_floats<const K: usize>(w: &mut Warp, i: &Inst, operand: Operand, accumulator: Accumulator) {
    unsafe {
        let [d, a, b, c] = fragments_of(i, registers_of_floats(K, operand, accumulator));
        let rows = Rows::new(gather_a::<K>(a.iter().map(|&r| lanes(w, r)), operand), operand);
        let mut columns = [[0f32; 8]; K];
        for (q, &register) in b.iter().enumerate() {
            for (lane, &bits) in lanes(w, register).iter().enumerate() {
                for part in 0..operand.per_register() {
                    let at = of_b(operand.per_register(), q, lane, part);
                    columns[at.row][at.column] = operand.value(bits, part);
                }
            }
        }
        let mut sums = gather_c(w, c, accumulator);
        accumulate(&rows, &Columns::new(columns, operand), &mut sums, operand, accumulator);
        scatter_d(w, d, &sums, accumulator);
    }
}

/// D = A B + C for 16 rows, 8 columns and integers of 8 bits: exact, then modulo 2^32 or clamped.
///
/// # Safety
/// `Inst::ext` holds the registers of `of_integers`, and all lanes are active.
#[inline(always)]
unsafe fn multiply_integers<const K: usize>(w: &mut Warp, i: &Inst, a_signed: bool, b_signed: bool, saturate: bool) {
    let value = |register: u32, part: usize, signed: bool| {
        let byte = (register >> (8 * part)) as u8;
        if signed { byte as i8 as i32 } else { byte as i32 }
    };
    unsafe {
        let [d, a, b, c] = fragments_of(i, [4, K / 8, K / 16, 4]);
        let mut rows = [[0i32; K]; 16];
        let mut columns = [[0i32; 8]; K];
        for (q, &register) in a.iter().enumerate() {
            for (lane, &bits) in lanes(w, register).iter().enumerate() {
                for part in 0..4 {
                    let at = of_a(4, q, lane, part);
                    rows[at.row][at.column] = value(bits, part, a_signed);
                }
            }
        }
        for (q, &register) in b.iter().enumerate() {
            for (lane, &bits) in lanes(w, register).iter().enumerate() {
                for part in 0..4 {
                    let at = of_b(4, q, lane, part);
                    columns[at.row][at.column] = value(bits, part, b_signed);
                }
            }
        }
        let mut products = [[0i32; 8]; 16];
        for (row, sums) in rows.iter().zip(&mut products) {
            for (x, y) in row.iter().zip(&columns) {
                for n in 0..8 {
                    sums[n] += x * y[n];
                }
            }
        }
        let results: Vec<[u32; 32]> = c
            .iter()
            .enumerate()
            .map(|(q, &register)| {
                let before = lanes(w, register);
                std::array::from_fn(|lane| {
                    let at = of_c(q, lane);
                    let (start, sum) = (before[lane] as i32, products[at.row][at.column]);
                    if saturate { start.saturating_add(sum) as u32 } else { start.wrapping_add(sum) as u32 }
                })
            })
            .collect();
        for (&register, result) in d.iter().zip(&results) {
            w.put::<u32>(register, result);
        }
    }
}

/// D = A B + C in f64: fused multiply-adds along K, each rounded to nearest (MMA-Sim, see `sums`).
///
/// # Safety
/// `Inst::ext` holds the registers of `of_doubles`, and all lanes are active.
unsafe fn multiply_doubles<const M: usize, const K: usize>(w: &mut Warp, i: &Inst) {
    unsafe {
        let [d, a, b, c] = fragments_of(i, [M / 4, M * K / 32, K / 4, M / 4]);
        let doubles = |w: &Warp, register: u32| *(w.p(register) as *const [f64; 32]);
        let mut rows = [[0f64; K]; M];
        let mut columns = [[0f64; 8]; K];
        let mut sums = [[0f64; 8]; M];
        for (q, &register) in a.iter().enumerate() {
            for (lane, x) in doubles(w, register).into_iter().enumerate() {
                let at = of_a(1, q, lane, 0);
                rows[at.row][at.column] = x;
            }
        }
        for (q, &register) in b.iter().enumerate() {
            for (lane, x) in doubles(w, register).into_iter().enumerate() {
                let at = of_b(1, q, lane, 0);
                columns[at.row][at.column] = x;
            }
        }
        for (q, &register) in c.iter().enumerate() {
            for (lane, x) in doubles(w, register).into_iter().enumerate() {
                let at = of_c(q, lane);
                sums[at.row][at.column] = x;
            }
        }
        for (row, sums) in rows.iter().zip(&mut sums) {
            for (x, y) in row.iter().zip(&columns) {
                for n in 0..8 {
                    sums[n] = x.mul_add(y[n], sums[n]);
                }
            }
        }
        for (q, &register) in d.iter().enumerate() {
            let result: [f64; 32] = std::array::from_fn(|lane| {
                let at = of_c(q, lane);
                sums[at.row][at.column]
            });
            w.put::<f64>(register, &result);
        }
    }
}
