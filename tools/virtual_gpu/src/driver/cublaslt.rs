//! A stand-in for cuBLASLt: column-major products, as its documentation states them, summed in f32 by slices, as a library that
//! splits long sums over blocks. It is for the correctness of what calls it; nothing of it is counted.

use super::memory;
use super::stream::{self, Work};
use std::ffi::{c_char, c_int, c_void};
use std::sync::Arc;

type Pointer = *mut c_void;

const SUCCESS: u32 = 0;
const INVALID_VALUE: u32 = 7;
const EXECUTION_FAILED: u32 = 13;
const NOT_SUPPORTED: u32 = 15;

/// Types of elements: `cudaDataType_t`.
const F32: u32 = 0;
const BF16: u32 = 14;
/// `CUBLAS_COMPUTE_32F_FAST_TF32`.
const COMPUTE_TF32: u32 = 77;
/// `CUBLASLT_EPILOGUE_DEFAULT` and `CUBLASLT_EPILOGUE_BIAS`.
const EPILOGUE_NONE: u32 = 1;
const EPILOGUE_BIAS: u32 = 4;

/// Products of a slice: those are summed in order, then the slices' sums. One run over a million like products is off by 4e-3.
const SLICE: usize = 1024;

/// What a product does: `cublasLtMatmulDesc_t`.
#[derive(Clone, Copy)]
struct Description {
    transpose_a: bool,
    transpose_b: bool,
    epilogue: u32,
    bias: u64,
    compute: u32,
}

/// A matrix in memory: `cublasLtMatrixLayout_t`.
#[derive(Clone, Copy)]
struct Layout {
    element: u32,
    rows: u64,
    columns: u64,
    /// Elements from one column to the next.
    stride: i64,
}

impl Layout {
    fn element_bytes(self) -> usize {
        if self.element == F32 { 4 } else { 2 }
    }

    fn bytes(self) -> usize {
        ((self.columns - 1) * self.stride as u64 + self.rows) as usize * self.element_bytes()
    }
}

/// A matrix and where it is.
#[derive(Clone, Copy)]
struct Matrix {
    address: u64,
    layout: Layout,
}

impl Matrix {
    fn place(self, row: usize, column: usize) -> usize {
        row + column * self.layout.stride as usize
    }

    /// Safety: the matrix was checked to lie in an allocation, which holds until its product has run.
    unsafe fn load(self, row: usize, column: usize) -> f32 {
        // Safety: the caller's.
        unsafe { load(self.address, self.layout.element, self.place(row, column)) }
    }

    /// Safety: as for `load`.
    unsafe fn store(self, row: usize, column: usize, value: f32) {
        // Safety: the caller's.
        unsafe {
            let place = self.place(row, column);
            match self.layout.element {
                F32 => *(self.address as *mut f32).add(place) = value,
                _ => *(self.address as *mut u16).add(place) = to_bf16(value),
            }
        }
    }
}

unsafe fn load(address: u64, element: u32, place: usize) -> f32 {
    // Safety: the caller's.
    unsafe {
        match element {
            F32 => *(address as *const f32).add(place),
            _ => f32::from_bits((*(address as *const u16).add(place) as u32) << 16),
        }
    }
}

/// Rounds to the nearest, ties to even.
fn to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() { 0x7fff } else { (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16 }
}

/// Rounds to ten bits of mantissa, ties away from zero.
fn to_tf32(value: f32) -> f32 {
    f32::from_bits(value.to_bits().wrapping_add(0x1000) & 0xffff_e000)
}

/// One product, with all that it needs.
struct Product {
    description: Description,
    alpha: f32,
    beta: f32,
    a: Matrix,
    b: Matrix,
    c: Matrix,
    out: Matrix,
}

impl Product {
    fn inner(&self) -> usize {
        let layout = self.a.layout;
        (if self.description.transpose_a { layout.rows } else { layout.columns }) as usize
    }

    /// An element of an operand as it is multiplied.
    unsafe fn factor(&self, of: Matrix, transposed: bool, row: usize, column: usize) -> f32 {
        // Safety: the caller's.
        unsafe {
            let value = if transposed { of.load(column, row) } else { of.load(row, column) };
            if of.layout.element == F32 && self.description.compute == COMPUTE_TF32 { to_tf32(value) } else { value }
        }
    }

    /// Safety: the matrices were checked to lie in allocations, which hold until the product has run.
    unsafe fn run(&self) {
        // Safety: the caller's.
        unsafe {
            let (rows, columns, inner) =
                (self.out.layout.rows as usize, self.out.layout.columns as usize, self.inner());
            let Description { transpose_a, transpose_b, .. } = self.description;
            let mut a = Vec::with_capacity(rows * inner);
            for place in 0..inner {
                a.extend((0..rows).map(|row| self.factor(self.a, transpose_a, row, place)));
            }
            for column in 0..columns {
                let mut sums = vec![0f32; rows];
                for first in (0..inner).step_by(SLICE) {
                    let mut slice = vec![0f32; rows];
                    for place in first..inner.min(first + SLICE) {
                        let factor = self.factor(self.b, transpose_b, place, column);
                        for (sum, other) in slice.iter_mut().zip(&a[place * rows..(place + 1) * rows]) {
                            *sum = other.mul_add(factor, *sum);
                        }
                    }
                    sums.iter_mut().zip(&slice).for_each(|(sum, slice)| *sum += slice);
                }
                for (row, sum) in sums.iter().enumerate() {
                    let value = self.finished(*sum, row, column);
                    self.out.store(row, column, value);
                }
            }
            memory::mark(self.out.address, self.out.layout.bytes());
        }
    }

    /// An element of the result from its sum.
    unsafe fn finished(&self, sum: f32, row: usize, column: usize) -> f32 {
        // Safety: the caller's.
        unsafe {
            let mut value = self.alpha * sum;
            if self.beta != 0.0 {
                value += self.beta * self.c.load(row, column);
            }
            if self.description.epilogue == EPILOGUE_BIAS {
                value += load(self.description.bias, self.out.layout.element, row);
            }
            value
        }
    }

    /// Whether sizes fit each other, and operands lie in allocations.
    fn check(&self) -> Result<(), u32> {
        let extents = |layout: Layout, transposed| {
            if transposed { (layout.columns, layout.rows) } else { (layout.rows, layout.columns) }
        };
        let (rows, inner) = extents(self.a.layout, self.description.transpose_a);
        let (inner_of_b, columns) = extents(self.b.layout, self.description.transpose_b);
        let matrices = [self.a, self.b, self.c, self.out];
        let sound = |matrix: &Matrix| {
            matrix.layout.rows > 0 && matrix.layout.columns > 0 && matrix.layout.stride >= matrix.layout.rows as i64
        };
        let outs = [self.out, self.c].map(|matrix| (matrix.layout.rows, matrix.layout.columns));
        if inner != inner_of_b || outs != [(rows, columns); 2] || !matrices.iter().all(sound) {
            eprintln!(
                "virtual_gpu: cublasLtMatmul: {rows} x {inner} times {inner_of_b} x {columns} does not fit {outs:?}"
            );
            return Err(INVALID_VALUE);
        }
        let mut operands: Vec<(u64, usize)> =
            [self.a, self.b, self.out].iter().map(|matrix| (matrix.address, matrix.layout.bytes())).collect();
        if self.beta != 0.0 {
            operands.push((self.c.address, self.c.layout.bytes()));
        }
        if self.description.epilogue == EPILOGUE_BIAS {
            operands.push((self.description.bias, rows as usize * self.out.layout.element_bytes()));
        }
        let inside =
            |(address, bytes): &(u64, usize)| memory::check("an operand of cublasLtMatmul", *address, *bytes).is_ok();
        if operands.iter().all(inside) { Ok(()) } else { Err(INVALID_VALUE) }
    }
}

macro_rules! api {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty $body:block)*) => {
        $(
            /// As cuBLASLt's documentation has it.
            ///
            /// # Safety
            /// Pointers are what that documentation asks for.
            #[unsafe(no_mangle)]
            #[allow(unused_unsafe, reason = "some functions only take numbers and handles")]
            pub unsafe extern "C" fn $name($($argument: $type),*) -> $result {
                // Safety: the caller's.
                unsafe { $body }
            }
        )*
    };
}

api! {
    cublasLtGetVersion() -> usize { 130000 }
    cublasLtGetStatusName(status: u32) -> *const c_char { words(status).0.as_ptr() }
    cublasLtGetStatusString(status: u32) -> *const c_char { words(status).1.as_ptr() }
    cublasLtCreate(handle: *mut Pointer) -> u32 { *handle = 0x3000 as Pointer; SUCCESS }
    cublasLtDestroy(_handle: Pointer) -> u32 { SUCCESS }
    cublasLtMatmulDescCreate(description: *mut Pointer, compute: u32, _scale: u32) -> u32 {
        let made = Description { transpose_a: false, transpose_b: false, epilogue: EPILOGUE_NONE, bias: 0, compute };
        *description = Box::into_raw(Box::new(made)) as Pointer;
        SUCCESS
    }
    cublasLtMatmulDescDestroy(description: Pointer) -> u32 { drop(Box::from_raw(description as *mut Description)); SUCCESS }
    cublasLtMatmulDescSetAttribute(description: Pointer, attribute: u32, value: *const c_void, bytes: usize) -> u32 {
        let description = &mut *(description as *mut Description);
        match (attribute, bytes) {
            (3, 4) => description.transpose_a = *(value as *const i32) != 0,
            (4, 4) => description.transpose_b = *(value as *const i32) != 0,
            (7, 4) => description.epilogue = *(value as *const u32),
            (8, 8) => description.bias = *(value as *const u64),
            _ => return INVALID_VALUE,
        }
        SUCCESS
    }
    cublasLtMatrixLayoutCreate(layout: *mut Pointer, element: u32, rows: u64, columns: u64, stride: i64) -> u32 {
        if element != F32 && element != BF16 { return NOT_SUPPORTED; }
        *layout = Box::into_raw(Box::new(Layout { element, rows, columns, stride })) as Pointer;
        SUCCESS
    }
    cublasLtMatrixLayoutDestroy(layout: Pointer) -> u32 { drop(Box::from_raw(layout as *mut Layout)); SUCCESS }
    cublasLtMatrixLayoutSetAttribute(_layout: Pointer, _attribute: u32, _value: *const c_void, _bytes: usize) -> u32 { NOT_SUPPORTED }
    cublasLtMatmulPreferenceCreate(preference: *mut Pointer) -> u32 { *preference = 0x4000 as Pointer; SUCCESS }
    cublasLtMatmulPreferenceDestroy(_preference: Pointer) -> u32 { SUCCESS }
    cublasLtMatmulPreferenceSetAttribute(_preference: Pointer, attribute: u32, _value: *const c_void, bytes: usize) -> u32 {
        // The workspace's bytes, reductions, and the operands' alignments.
        match (attribute, bytes) { (1, 8) | (3, 4) | (5..=8, 4) => SUCCESS, _ => INVALID_VALUE }
    }
    cublasLtMatmulAlgoGetHeuristic(_handle: Pointer, _description: Pointer, _a: Pointer, _b: Pointer, _c: Pointer, _out: Pointer, _preference: Pointer, wanted: c_int, results: *mut [u8; 96], found: *mut c_int) -> u32 {
        if wanted < 1 { return INVALID_VALUE; }
        *results = [0; 96];
        *found = 1;
        SUCCESS
    }
    cublasLtMatmul(_handle: Pointer, description: Pointer, alpha: *const f32, a: u64, a_layout: Pointer, b: u64, b_layout: Pointer, beta: *const f32, c: u64, c_layout: Pointer, out: u64, out_layout: Pointer, _algorithm: Pointer, _workspace: Pointer, _workspace_bytes: usize, stream: Pointer) -> u32 {
        let matrix = |address, layout: Pointer| Matrix { address, layout: *(layout as *const Layout) };
        let product = Product {
            description: *(description as *const Description),
            alpha: *alpha,
            beta: *beta,
            a: matrix(a, a_layout),
            b: matrix(b, b_layout),
            c: matrix(c, c_layout),
            out: matrix(out, out_layout),
        };
        if let Err(status) = product.check() { return status; }
        // Safety: the operands were checked just now, and are the caller's to keep until the stream has come to the product.
        let queued = stream::queue(stream, Work::Call(Arc::new(move || unsafe { product.run() })));
        if queued.is_ok() { SUCCESS } else { EXECUTION_FAILED }
    }
}

/// The name and the words of a status.
fn words(status: u32) -> (&'static std::ffi::CStr, &'static std::ffi::CStr) {
    match status {
        SUCCESS => (c"CUBLAS_STATUS_SUCCESS", c"success"),
        INVALID_VALUE => (c"CUBLAS_STATUS_INVALID_VALUE", c"an unsupported value or parameter was passed"),
        EXECUTION_FAILED => (c"CUBLAS_STATUS_EXECUTION_FAILED", c"the product could not be launched"),
        NOT_SUPPORTED => (c"CUBLAS_STATUS_NOT_SUPPORTED", c"the product is not supported"),
        _ => (c"CUBLAS_STATUS_UNKNOWN", c"an unknown status"),
    }
}
