//! Where the elements of a matrix lie in the registers of a warp's lanes: the figures of the PTX ISA's sections "Matrix
//! fragments for mma.m8n8k4" to "mma.m16n8k32", "Register Fragments for wgmma.mma_async" and "ldmatrix", as one table.
//!
//! The figures share one rule. A register of 32 bits holds `parts` neighbours along K: 4 of 8 bits, 2 of 16, 1 of 32; a
//! register of 64 bits holds one element. Eight groups of four lanes stand for eight rows (A, C, D) or columns (B), and the
//! four lanes of a group share a stretch of `4 * parts` elements. Further registers of a fragment hold the rows 8 to 15 first,
//! then further stretches along K. The accumulators of `wgmma` are those of `mma` for every 8 columns.

/// Row and column of an element in its matrix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    pub row: usize,
    pub column: usize,
}

/// Place in A (M rows of 16, or of 8 in its one register) of an element.
#[inline(always)]
pub const fn of_a(parts: usize, register: usize, lane: usize, part: usize) -> Place {
    Place { row: lane / 4 + 8 * (register % 2), column: parts * (lane % 4) + part + 4 * parts * (register / 2) }
}

/// Place in B (K rows of 8 columns) of an element.
#[inline(always)]
pub const fn of_b(parts: usize, register: usize, lane: usize, part: usize) -> Place {
    Place { row: parts * (lane % 4) + part + 4 * parts * register, column: lane / 4 }
}

/// Place in C or D (8 columns) of an element of 32 or 64 bits.
#[inline(always)]
pub const fn of_c(register: usize, lane: usize) -> Place {
    Place { row: lane / 4 + 8 * (register / 2), column: 2 * (lane % 4) + register % 2 }
}

/// Place in C or D (8 columns) of an element of 16 bits; also the rows of the matrices of `ldmatrix`, `stmatrix` and
/// `movmatrix`, which have one register each.
#[inline(always)]
pub const fn of_halves(register: usize, lane: usize, part: usize) -> Place {
    Place { row: lane / 4 + 8 * register, column: 2 * (lane % 4) + part }
}
