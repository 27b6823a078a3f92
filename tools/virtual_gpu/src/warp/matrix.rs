//! Matrices of 8 x 8 elements of 16 bits between shared memory and registers: `ldmatrix`, `stmatrix`, `movmatrix` (PTX ISA,
//! "Warp-level matrix instructions").

use super::tensor::fragments::of_halves;
use super::*;

/// Rows of 8 elements.
type Matrix = [[u16; 8]; 8];

/// A matrix from the lanes' registers, each of which holds two neighbours of a row.
fn from_fragment(registers: &[u32; 32], transposed: bool) -> Matrix {
    let mut matrix = [[0; 8]; 8];
    for (lane, &bits) in registers.iter().enumerate() {
        for part in 0..2 {
            let at = of_halves(0, lane, part);
            let (row, column) = if transposed { (at.column, at.row) } else { (at.row, at.column) };
            matrix[row][column] = (bits >> (16 * part)) as u16;
        }
    }
    matrix
}

/// The lanes' registers of a matrix.
fn to_fragment(matrix: &Matrix, transposed: bool) -> [u32; 32] {
    std::array::from_fn(|lane| {
        let element = |part| {
            let at = of_halves(0, lane, part);
            let (row, column) = if transposed { (at.column, at.row) } else { (at.row, at.column) };
            matrix[row][column] as u32
        };
        element(0) | element(1) << 16
    })
}

/// The addresses of the rows of `N` matrices, which the first `8 N` lanes give, where they can be accessed.
///
/// # Safety
/// `Inst::ext` holds the register of the address after `N` others.
unsafe fn rows<const N: usize>(w: &mut Warp, i: &Inst, action: Action) -> Option<[u32; 32]> {
    unsafe {
        let addresses = addresses32(w, i, *i.ext.add(N));
        let lanes = if N == 4 { FULL } else { (1 << (8 * N)) - 1 };
        admit(w, i, &Access::new(Space::Shared, action, lanes, &addresses, 16)).then_some(addresses)
    }
}

/// `ldmatrix` of `N` matrices. ext: N registers, the address.
///
/// # Safety
/// `Inst::ext` is as said, and all lanes are active.
pub unsafe fn ldmatrix<const N: usize, const TRANSPOSED: bool>(w: &mut Warp, i: &Inst) {
    unsafe {
        let Some(addresses) = rows::<N>(w, i, Action::Read) else { return };
        let base = (*w.env).shared.as_ptr();
        for k in 0..N {
            let matrix: Matrix = std::array::from_fn(|row| {
                (base.add((addresses[8 * k + row] - SHARED_BASE) as usize) as *const [u16; 8]).read_unaligned()
            });
            w.put::<u32>(*i.ext.add(k), &to_fragment(&matrix, TRANSPOSED));
        }
    }
}

/// `stmatrix` of `N` matrices. ext: N registers, the address.
///
/// # Safety
/// `Inst::ext` is as said, and all lanes are active.
pub unsafe fn stmatrix<const N: usize, const TRANSPOSED: bool>(w: &mut Warp, i: &Inst) {
    unsafe {
        let Some(addresses) = rows::<N>(w, i, Action::Write) else { return };
        let base = (*w.env).shared.as_mut_ptr();
        for k in 0..N {
            let matrix = from_fragment(tensor::lanes(w, *i.ext.add(k)), TRANSPOSED);
            for (row, elements) in matrix.iter().enumerate() {
                let at = base.add((addresses[8 * k + row] - SHARED_BASE) as usize);
                (at as *mut [u16; 8]).write_unaligned(*elements);
            }
        }
    }
}

/// `movmatrix.trans`: a matrix transposed in registers. r: d, a.
///
/// # Safety
/// `Inst::r` is as said, and all lanes are active.
pub unsafe fn movmatrix(w: &mut Warp, i: &Inst) {
    unsafe {
        let matrix = from_fragment(tensor::lanes(w, i.r[1]), false);
        w.put::<u32>(i.r[0], &to_fragment(&matrix, true));
    }
}
