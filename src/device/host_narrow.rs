//! Matrix products of which one side is narrow, such as a linear head's: where the `matrixmultiply` crate spends as long on packing its
//! operands as on multiplying, these read them where they lie. For processors with AVX-512; others leave the work to the crate.
#![cfg_attr(not(target_arch = "x86_64"), allow(unused))]

use super::host_gemm::Matrix;

/// Most rows of C, or columns, of a product that counts as narrow.
pub(super) const NARROW: usize = 64;
/// Fewest terms of a sum, or columns, that are worth vectors.
const LONG: usize = 64;

/// Contiguous rows, wherever each lies.
pub(super) trait Rows: Copy {
    /// The first value of row i.
    fn row(self, i: usize) -> *const f32;
}

impl Rows for Matrix {
    #[inline(always)]
    fn row(self, i: usize) -> *const f32 {
        self.at(i, 0)
    }
}

impl Rows for &[*const f32] {
    #[inline(always)]
    fn row(self, i: usize) -> *const f32 {
        self[i]
    }
}

/// c = alpha a b, or c += alpha a b, as [`super::host_gemm`] has it.
pub(super) type Product = unsafe fn(a: Matrix, b: Matrix, c: Matrix, size: [usize; 3], alpha: f32, add: bool);

/// What computes an [m, k] by [k, n] product of these layouts without packing, where anything does.
pub(super) fn product(a: Matrix, b: Matrix, c: Matrix, [m, n, k]: [usize; 3]) -> Option<Product> {
    if c.columns != 1 || !available() {
        return None;
    }
    #[cfg(target_arch = "x86_64")]
    {
        if n <= NARROW && k >= LONG && a.columns == 1 && b.rows == 1 {
            return Some(avx512::by_dots::<Matrix>);
        }
        if m <= NARROW && n >= LONG && a.rows == 1 && b.columns == 1 {
            return Some(avx512::by_rows::<Matrix>);
        }
    }
    None
}

#[cfg(target_arch = "x86_64")]
pub(super) fn available() -> bool {
    is_x86_feature_detected!("avx512f")
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) fn available() -> bool {
    false
}

#[cfg(target_arch = "x86_64")]
pub(super) mod avx512 {
    use std::arch::x86_64::*;

    use super::{Matrix, Rows};

    pub const LANES: usize = 16;
    /// Rows and columns of C that are computed at once: their sums fill the registers.
    const TILE: [usize; 2] = [4, 6];
    /// Vectors of columns that are computed at once, likewise, by six rows.
    const STRIP: usize = 4;
    /// Terms that are added before the next columns' turn: their rows of a strip stay in the first cache.
    const TERMS: usize = 128;

    /// The lanes of a vector of which `count` are left.
    pub fn lanes(count: usize) -> __mmask16 {
        if count >= LANES { !0 } else { (1 << count) - 1 }
    }

    /// Both operands are contiguous along the sums: rows of a by columns of b.
    ///
    /// # Safety
    /// As for [`super::Product`], on a processor with AVX-512; b's rows are neighbours.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn by_dots<A: Rows>(a: A, b: Matrix, c: Matrix, [m, n, k]: [usize; 3], alpha: f32, add: bool) {
        unsafe {
            let whole = m - m % TILE[0];
            for i in (0..whole).step_by(TILE[0]) {
                let rows: [*const f32; TILE[0]] = std::array::from_fn(|row| a.row(i + row));
                dots_of(rows, b, c.part(i, 0), [n, k], alpha, add);
            }
            for i in whole..m {
                dots_of([a.row(i)], b, c.part(i, 0), [n, k], alpha, add);
            }
        }
    }

    /// R rows of C.
    #[target_feature(enable = "avx512f")]
    unsafe fn dots_of<const R: usize>(
        a: [*const f32; R],
        b: Matrix,
        c: Matrix,
        [n, k]: [usize; 2],
        alpha: f32,
        add: bool,
    ) {
        for j in (0..n).step_by(TILE[1]) {
            let (b, c) = (b.part(0, j), c.part(0, j));
            unsafe {
                match n - j {
                    1 => dots::<R, 1>(a, b, c, k, alpha, add),
                    2 => dots::<R, 2>(a, b, c, k, alpha, add),
                    3 => dots::<R, 3>(a, b, c, k, alpha, add),
                    4 => dots::<R, 4>(a, b, c, k, alpha, add),
                    5 => dots::<R, 5>(a, b, c, k, alpha, add),
                    _ => dots::<R, { TILE[1] }>(a, b, c, k, alpha, add),
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn dots<const R: usize, const C: usize>(
        a: [*const f32; R],
        b: Matrix,
        c: Matrix,
        k: usize,
        alpha: f32,
        add: bool,
    ) {
        let mut sums = [[_mm512_setzero_ps(); C]; R];
        for t in (0..k).step_by(LANES) {
            let mask = lanes(k - t);
            let mut columns = [_mm512_setzero_ps(); C];
            for j in 0..C {
                columns[j] = unsafe { _mm512_maskz_loadu_ps(mask, b.at(t, j)) };
            }
            for i in 0..R {
                let row = unsafe { _mm512_maskz_loadu_ps(mask, a[i].wrapping_add(t)) };
                for j in 0..C {
                    sums[i][j] = _mm512_fmadd_ps(row, columns[j], sums[i][j]);
                }
            }
        }
        for j in 0..C {
            let column = totals(std::array::from_fn(|i| if i < R { sums[i][j] } else { _mm512_setzero_ps() }));
            for i in 0..R {
                let (sum, to) = (alpha * column[i], c.at(i, j));
                unsafe { *to = if add { *to + sum } else { sum } };
            }
        }
    }

    /// The sum of each vector's lanes, of all at once.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn totals([a, b, c, d]: [__m512; TILE[0]]) -> [f32; TILE[0]] {
        let ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
        let cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
        let (ab, cd) = (_mm512_castps_pd(ab), _mm512_castps_pd(cd));
        let quarters =
            _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)), _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)));
        let halves = _mm512_add_ps(quarters, _mm512_shuffle_f32x4::<0b01_00_11_10>(quarters, quarters));
        let whole = _mm512_add_ps(halves, _mm512_shuffle_f32x4::<0b10_11_00_01>(halves, halves));
        let mut out = [0.0; TILE[0]];
        unsafe { _mm_storeu_ps(out.as_mut_ptr(), _mm512_castps512_ps128(whole)) };
        out
    }

    /// Rows of b are contiguous, those of a are its columns' neighbours: each row of b by its column of factors.
    ///
    /// # Safety
    /// As for [`super::Product`], on a processor with AVX-512; a's rows are neighbours.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn by_rows<B: Rows>(a: Matrix, b: B, c: Matrix, [m, n, k]: [usize; 3], alpha: f32, add: bool) {
        const WIDE: usize = STRIP * LANES;
        for t in (0..k).step_by(TERMS) {
            let (terms, add) = (TERMS.min(k - t), add || t > 0);
            let whole = n - n % WIDE;
            unsafe {
                for j in (0..whole).step_by(WIDE) {
                    strip::<STRIP, B>(a.part(0, t), b, [t, j], c.part(0, j), [m, WIDE, terms], alpha, add);
                }
                for j in (whole..n).step_by(LANES) {
                    let size = [m, LANES.min(n - j), terms];
                    strip::<1, B>(a.part(0, t), b, [t, j], c.part(0, j), size, alpha, add);
                }
            }
        }
    }

    /// V vectors of columns, of which the last may be a part, of b from row and column `from` on.
    #[target_feature(enable = "avx512f")]
    unsafe fn strip<const V: usize, B: Rows>(
        a: Matrix,
        b: B,
        from: [usize; 2],
        c: Matrix,
        [m, n, k]: [usize; 3],
        alpha: f32,
        add: bool,
    ) {
        for i in (0..m).step_by(6) {
            let (a, c) = (a.part(i, 0), c.part(i, 0));
            unsafe {
                match m - i {
                    1 => rows::<1, V, B>(a, b, from, c, [n, k], alpha, add),
                    2 => rows::<2, V, B>(a, b, from, c, [n, k], alpha, add),
                    3 => rows::<3, V, B>(a, b, from, c, [n, k], alpha, add),
                    4 => rows::<4, V, B>(a, b, from, c, [n, k], alpha, add),
                    5 => rows::<5, V, B>(a, b, from, c, [n, k], alpha, add),
                    _ => rows::<6, V, B>(a, b, from, c, [n, k], alpha, add),
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn rows<const R: usize, const V: usize, B: Rows>(
        a: Matrix,
        b: B,
        [first, left]: [usize; 2],
        c: Matrix,
        [n, k]: [usize; 2],
        alpha: f32,
        add: bool,
    ) {
        let mask = lanes(n - (V - 1) * LANES);
        let mut sums = [[_mm512_setzero_ps(); V]; R];
        for t in 0..k {
            let from = b.row(first + t).wrapping_add(left);
            let mut row = [_mm512_setzero_ps(); V];
            for v in 0..V {
                let mask = if v + 1 < V { !0 } else { mask };
                row[v] = unsafe { _mm512_maskz_loadu_ps(mask, from.wrapping_add(v * LANES)) };
            }
            for i in 0..R {
                let factor = _mm512_set1_ps(unsafe { *a.at(i, t) });
                for v in 0..V {
                    sums[i][v] = _mm512_fmadd_ps(factor, row[v], sums[i][v]);
                }
            }
        }
        let alpha = _mm512_set1_ps(alpha);
        for i in 0..R {
            for v in 0..V {
                let (mask, to) = (if v + 1 < V { !0 } else { mask }, c.at(i, v * LANES));
                unsafe {
                    let before = if add { _mm512_maskz_loadu_ps(mask, to) } else { _mm512_setzero_ps() };
                    _mm512_mask_storeu_ps(to, mask, _mm512_fmadd_ps(alpha, sums[i][v], before));
                }
            }
        }
    }
}
