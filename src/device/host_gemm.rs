//! Matrix products on the host by the `matrixmultiply` crate, narrow ones by [`super::host_narrow`]: what the device calls its library.
//!
//! The crate's own threading gains little on the tall or flat products of a convolution, so the product is cut here: C into
//! blocks, or, where C is small and the sums are long (a weight gradient), the sums into parts that are added in a fixed
//! order. The cut depends on the sizes alone, so the result does not depend on the number of threads.

use std::sync::atomic::{AtomicUsize, Ordering};

use half::bf16;

use super::host_narrow;
use crate::kernels::gemm::GemmCall;
use crate::kernels::{DType, DevicePtr, Write};

/// Multiply-adds that are worth a task of their own: some 30 microseconds.
const TASK: usize = 1 << 20;
/// Smallest side of a block of C, unless C is smaller: below it packing the operands costs more than it saves.
const BLOCK: usize = 256;
/// Most parts a long sum is cut into.
const PARTS: usize = 16;
/// Shortest part.
const PART: usize = 1024;

/// A matrix in memory: element (i, j) lies at `i * rows + j * columns`.
#[derive(Clone, Copy)]
pub(super) struct Matrix {
    pub(super) ptr: usize, // raw pointers do not cross threads by themselves
    pub(super) rows: usize,
    pub(super) columns: usize,
}

impl Matrix {
    #[inline(always)]
    pub(super) fn at(self, i: usize, j: usize) -> *mut f32 {
        (self.ptr as *mut f32).wrapping_add(i * self.rows + j * self.columns)
    }

    /// From element (i, j) on.
    #[inline(always)]
    pub(super) fn part(self, i: usize, j: usize) -> Matrix {
        Matrix { ptr: self.at(i, j) as usize, ..self }
    }
}

/// c = alpha a b, or c += alpha a b, on the calling thread.
///
/// # Safety
/// The matrices are valid for [m, k], [k, n] and [m, n].
#[allow(clippy::too_many_arguments)]
unsafe fn multiply(a: Matrix, b: Matrix, c: Matrix, [m, n, k]: [usize; 3], alpha: f32, add: bool) {
    if let Some(product) = host_narrow::product(a, b, c, [m, n, k]) {
        return unsafe { product(a, b, c, [m, n, k], alpha, add) };
    }
    let stride = |x: usize| x as isize;
    unsafe {
        matrixmultiply::sgemm(
            m,
            k,
            n,
            alpha,
            a.at(0, 0),
            stride(a.rows),
            stride(a.columns),
            b.at(0, 0),
            stride(b.rows),
            stride(b.columns),
            if add { 1.0 } else { 0.0 },
            c.at(0, 0),
            stride(c.rows),
            stride(c.columns),
        )
    }
}

/// Runs `job(0..tasks)` on `threads` threads.
pub(super) fn in_parallel(threads: usize, tasks: usize, job: impl Fn(usize) + Sync) {
    if threads == 1 || tasks == 1 {
        (0..tasks).for_each(job);
        return;
    }
    let next = AtomicUsize::new(0);
    rayon::scope(|scope| {
        for _ in 0..threads.min(tasks) {
            scope.spawn(|_| {
                loop {
                    let task = next.fetch_add(1, Ordering::Relaxed);
                    if task >= tasks {
                        break;
                    }
                    job(task);
                }
            });
        }
    });
}

/// Memory that is kept from call to call: fresh pages cost as much as a small product.
#[derive(Default)]
pub(super) struct Scratch {
    a: Vec<f32>,
    b: Vec<f32>,
    c: Vec<f32>,
    bias: Vec<f32>,
    pub(super) parts: Vec<f32>,
}

fn widened<'a>(dtype: DType, source: DevicePtr, n: usize, kept: &'a mut Vec<f32>) -> DevicePtr {
    if dtype == DType::F32 || source == DevicePtr::NULL {
        return source;
    }
    kept.clear();
    // Safety: the caller of `gemm` guarantees `n` elements.
    kept.extend(unsafe { std::slice::from_raw_parts(source.0 as *const bf16, n) }.iter().map(|x| x.to_f32()));
    let kept: &'a [f32] = kept;
    DevicePtr(kept.as_ptr() as u64)
}

/// The product, in f32 arithmetic whatever the precision asked for.
///
/// # Safety
/// As for [`crate::kernels::gemm::gemm`].
pub(super) unsafe fn gemm(call: &GemmCall, threads: usize, scratch: &mut Scratch) {
    let &GemmCall { m, n, k, alpha, .. } = call;
    let Scratch { a: kept_a, b: kept_b, c: kept_c, bias: kept_bias, parts } = scratch;
    let a = widened(call.dtype, call.a, m * k, kept_a);
    let b = widened(call.dtype, call.b, k * n, kept_b);
    let bias = widened(call.out, call.bias, n, kept_bias);
    let narrow = call.out == DType::Bf16;
    if narrow && kept_c.len() < m * n {
        kept_c.resize(m * n, 0.0);
    }
    let c = if narrow { kept_c.as_mut_ptr() as usize } else { call.c.0 as usize };
    let add = call.write == Write::Accumulate && !narrow;
    let layout = |ptr: u64, transposed: bool, rows: usize, columns: usize| Matrix {
        ptr: ptr as usize,
        rows: if transposed { 1 } else { columns },
        columns: if transposed { rows } else { 1 },
    };
    let a = layout(a.0, call.transpose_a, m, k);
    let b = layout(b.0, call.transpose_b, k, n);
    let c = Matrix { ptr: c, rows: n, columns: 1 };
    // Safety: null, or n elements.
    let bias = (bias != DevicePtr::NULL).then(|| unsafe { std::slice::from_raw_parts(bias.0 as *const f32, n) });
    unsafe {
        if k >= 4 * m.max(n) && k >= 2 * PART {
            long_sums(a, b, c, [m, n, k], alpha, add, threads, parts);
            add_bias(c, [0, m], [0, n], bias);
        } else {
            blocks(a, b, c, [m, n, k], alpha, add, bias, threads);
        }
        if narrow {
            let out = std::slice::from_raw_parts_mut(call.c.0 as *mut bf16, m * n);
            for (out, &x) in out.iter_mut().zip(&*kept_c) {
                *out = bf16::from_f32(if call.write == Write::Accumulate { out.to_f32() + x } else { x });
            }
        }
    }
}

/// # Safety
/// The block lies inside C and nobody else uses it.
unsafe fn add_bias(c: Matrix, [top, rows]: [usize; 2], [left, columns]: [usize; 2], bias: Option<&[f32]>) {
    let Some(bias) = bias else { return };
    for i in top..top + rows {
        let row = unsafe { std::slice::from_raw_parts_mut(c.at(i, left), columns) };
        row.iter_mut().zip(&bias[left..]).for_each(|(x, b)| *x += b);
    }
}

/// # Safety
/// As for [`multiply`].
#[allow(clippy::too_many_arguments)]
unsafe fn blocks(
    a: Matrix,
    b: Matrix,
    c: Matrix,
    [m, n, k]: [usize; 3],
    alpha: f32,
    add: bool,
    bias: Option<&[f32]>,
    threads: usize,
) {
    // Nothing is packed of a narrow product: small blocks cost nothing and are shared evenly.
    let (block, task) = match host_narrow::product(a, b, c, [m, n, k]) {
        Some(_) => (BLOCK / 4, TASK / 2),
        None => (BLOCK, TASK),
    };
    let columns = n.min(block).max(n.div_ceil(16));
    let rows = m.min(block.max(task.div_ceil(columns * k.max(1))));
    let down = m.div_ceil(rows);
    in_parallel(threads, down * n.div_ceil(columns), |task| {
        let (i, j) = (task % down * rows, task / down * columns);
        let size = [rows.min(m - i), columns.min(n - j), k];
        unsafe {
            multiply(a.part(i, 0), b.part(0, j), c.part(i, j), size, alpha, add);
            add_bias(c, [i, size[0]], [j, size[1]], bias);
        }
    });
}

/// # Safety
/// As for [`multiply`].
#[allow(clippy::too_many_arguments)]
unsafe fn long_sums(
    a: Matrix,
    b: Matrix,
    c: Matrix,
    [m, n, k]: [usize; 3],
    alpha: f32,
    add: bool,
    threads: usize,
    parts: &mut Vec<f32>,
) {
    let length = k.div_ceil((k / PART).min((m * n * k / TASK).max(1)).min(PARTS)).next_multiple_of(16);
    let count = k.div_ceil(length);
    if parts.len() < count * m * n {
        parts.resize(count * m * n, 0.0);
    }
    // The crate is fastest when the contiguous side of its result is the short one.
    let narrow = host_narrow::product(a, b, c, [m, n, length]).is_some();
    let (rows, columns) = if m < n && !narrow { (1, m) } else { (n, 1) };
    let memory = parts.as_mut_ptr() as usize;
    in_parallel(threads, count, |index| {
        let begin = index * length;
        let (a, b) = (a.part(0, begin), b.part(begin, 0));
        let part = Matrix { ptr: memory + 4 * index * m * n, rows, columns };
        unsafe { multiply(a, b, part, [m, n, length.min(k - begin)], alpha, false) }
    });
    for i in 0..m {
        // Safety: row i of C, and the parts are complete.
        let out = unsafe { std::slice::from_raw_parts_mut(c.at(i, 0), n) };
        for (j, out) in out.iter_mut().enumerate() {
            let sum: f32 = (0..count).map(|part| parts[part * m * n + i * rows + j * columns]).sum();
            *out = if add { *out + sum } else { sum };
        }
    }
}
