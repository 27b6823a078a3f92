//! Matrix products by cuBLASLt, loaded at run time.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Mutex;

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys::{
    self, cublasComputeType_t as Compute, cublasLtMatmulDescAttributes_t as DescAttribute,
    cublasLtMatmulPreferenceAttributes_t as Preference, cublasLtReductionScheme_t as Reduction, cudaDataType,
};

use super::lock;
use crate::kernels::gemm::{GemmCall, Precision};
use crate::kernels::{DType, DevicePtr, Write};

type LtResult<T> = std::result::Result<T, CublasError>;

/// Scratch memory that a product may use; what NVIDIA recommends for Hopper.
pub(super) const WORKSPACE_BYTES: usize = 32 << 20;

/// The oldest library whose functions are those used here.
const MINIMUM_VERSION: usize = 120_000;

/// The library's handle on one context, and the algorithm chosen for each kind of product so far.
pub(super) struct Library {
    handle: sys::cublasLtHandle_t,
    chosen: Mutex<HashMap<Kind, sys::cublasLtMatmulHeuristicResult_t>>,
}

// Safety: cuBLASLt handles may be used from any thread.
unsafe impl Send for Library {}
unsafe impl Sync for Library {}

/// What the choice of an algorithm depends on.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Kind {
    types: (DType, DType),
    tf32: bool,
    size: [usize; 3],
    transposed: (bool, bool),
    bias: bool,
    accumulate: bool,
    /// Of A, B and C, bytes; see [`alignment`].
    alignment: [u32; 3],
}

impl Kind {
    fn of(call: &GemmCall) -> Self {
        let (first, second, out) = column_major(call);
        let operands =
            [(call.a, second.rows, call.dtype), (call.b, first.rows, call.dtype), (call.c, out.rows, call.out)];
        Kind {
            types: (call.dtype, call.out),
            tf32: call.dtype == DType::F32 && call.precision == Precision::Tf32,
            size: [call.m, call.n, call.k],
            transposed: (call.transpose_a, call.transpose_b),
            bias: call.bias != DevicePtr::NULL,
            accumulate: call.write == Write::Accumulate,
            alignment: operands.map(|(ptr, row, dtype)| alignment(ptr, row * dtype.size())),
        }
    }
}

/// The largest power of two up to 16 that divides the addresses of all rows: what the library may assume of them. No more,
/// though buffers are aligned to 256: the library chooses an algorithm by it, and a product is to take the same one, and
/// so give the same bits, of a view into a buffer and of a buffer of its own. Vector loads are 16 bytes.
fn alignment(ptr: DevicePtr, row_bytes: usize) -> u32 {
    1 << (ptr.0 | row_bytes as u64).trailing_zeros().min(4)
}

/// A column-major matrix in memory and whether it is read transposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stored {
    rows: usize,
    columns: usize,
    transposed: bool,
}

/// The product in the library's terms. It reads memory by columns, so that what we store as C it sees as C^T: it is asked
/// for C^T [n, m] = op(B)^T op(A)^T, and each operand, seen transposed already, keeps its own flag.
fn column_major(call: &GemmCall) -> (Stored, Stored, Stored) {
    let &GemmCall { m, n, k, .. } = call;
    let stored = |rows, columns, transposed| {
        if transposed {
            Stored { rows: columns, columns: rows, transposed }
        } else {
            Stored { rows, columns, transposed }
        }
    };
    (stored(n, k, call.transpose_b), stored(k, m, call.transpose_a), stored(n, m, false))
}

fn data_type(dtype: DType) -> cudaDataType {
    match dtype {
        DType::F32 => cudaDataType::CUDA_R_32F,
        DType::Bf16 => cudaDataType::CUDA_R_16BF,
    }
}

impl Library {
    /// Loads the library; the context is current. `Err` is (problem, hint).
    pub(super) fn open() -> std::result::Result<Self, (String, String)> {
        let hint = "put the folder of libcublasLt.so (CUDA 12 or newer) on LD_LIBRARY_PATH, or use the backend `own`";
        // Safety: opens and closes the library.
        if !unsafe { sys::is_culib_present() } {
            return Err(("cuBLASLt was not found".into(), hint.into()));
        }
        // Safety: the function is in every version.
        let version = unsafe { sys::cublasLtGetVersion() };
        if version < MINIMUM_VERSION {
            return Err((
                format!("the cuBLASLt found is version {version}, older than {MINIMUM_VERSION}"),
                hint.into(),
            ));
        }
        let handle =
            result::create_handle().map_err(|e| (format!("cuBLASLt does not start: {}", words(e)), hint.into()))?;
        Ok(Library { handle, chosen: Mutex::default() })
    }

    /// Queues a product on `stream`, with `workspace` of [`WORKSPACE_BYTES`].
    ///
    /// f32 operands are multiplied in full f32 unless TF32 is asked for, bf16 operands with f32 sums. Split sums are
    /// reduced in a fixed order in the workspace, so that a product gives the same bits every time.
    ///
    /// # Safety
    /// As for [`crate::kernels::gemm::gemm`]; the workspace is this stream's own, and the context is current.
    pub(super) unsafe fn gemm(&self, call: &GemmCall, workspace: DevicePtr, stream: sys::cudaStream_t) -> LtResult<()> {
        let kind = Kind::of(call);
        let (first, second, out) = column_major(call);
        let compute = if kind.tf32 { Compute::CUBLAS_COMPUTE_32F_FAST_TF32 } else { Compute::CUBLAS_COMPUTE_32F };
        let product = Product::new(compute)?;
        product.set(DescAttribute::CUBLASLT_MATMUL_DESC_TRANSA, &(first.transposed as i32))?;
        product.set(DescAttribute::CUBLASLT_MATMUL_DESC_TRANSB, &(second.transposed as i32))?;
        if kind.bias {
            // One value for each row of C^T.
            let epilogue = sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS as u32;
            product.set(DescAttribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
            product.set(DescAttribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &call.bias.0)?;
        }
        let (first, second) = (Layout::new(first, call.dtype)?, Layout::new(second, call.dtype)?);
        let out = Layout::new(out, call.out)?;
        let known = lock(&self.chosen).get(&kind).copied();
        let algorithm = match known {
            Some(algorithm) => algorithm,
            None => {
                let algorithm = self.choose(&kind, &product, &first, &second, &out)?;
                lock(&self.chosen).insert(kind, algorithm);
                algorithm
            }
        };
        let (alpha, beta) = (call.alpha, if kind.accumulate { 1.0f32 } else { 0.0 });
        // Safety: descriptors and handle are alive, the caller vouches for the memory.
        unsafe {
            result::matmul(
                self.handle,
                product.0,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                call.b.0 as *const c_void,
                first.0,
                call.a.0 as *const c_void,
                second.0,
                call.c.0 as *const c_void,
                out.0,
                call.c.0 as *mut c_void,
                out.0,
                &algorithm.algo,
                workspace.0 as *mut c_void,
                WORKSPACE_BYTES,
                stream,
            )
        }
    }

    fn choose(
        &self,
        kind: &Kind,
        product: &Product,
        first: &Layout,
        second: &Layout,
        out: &Layout,
    ) -> LtResult<sys::cublasLtMatmulHeuristicResult_t> {
        let search = Search::new()?;
        search.set(Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &WORKSPACE_BYTES)?;
        let reductions = Reduction::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
        search.set(Preference::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reductions)?;
        let [a, b, c] = kind.alignment;
        search.set(Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &b)?;
        search.set(Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &a)?;
        search.set(Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &c)?;
        search.set(Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &c)?;
        // Safety: all descriptors are alive.
        unsafe { result::get_matmul_algo_heuristic(self.handle, product.0, first.0, second.0, out.0, out.0, search.0) }
    }
}

/// The library's own words.
pub(super) fn words(error: CublasError) -> String {
    // Safety: both functions return constant strings.
    let text = |s: *const std::ffi::c_char| unsafe { std::ffi::CStr::from_ptr(s) }.to_string_lossy();
    unsafe {
        format!("{} ({})", text(sys::cublasLtGetStatusString(error.0)), text(sys::cublasLtGetStatusName(error.0)))
    }
}

/// A product's descriptor, destroyed with it.
struct Product(sys::cublasLtMatmulDesc_t);

impl Product {
    fn new(compute: Compute) -> LtResult<Self> {
        result::create_matmul_desc(compute, cudaDataType::CUDA_R_32F).map(Product)
    }

    fn set<T>(&self, attribute: DescAttribute, value: &T) -> LtResult<()> {
        // Safety: the descriptor is alive, and the value has the size it is said to have.
        unsafe { result::set_matmul_desc_attribute(self.0, attribute, (value as *const T).cast(), size_of::<T>()) }
    }
}

impl Drop for Product {
    fn drop(&mut self) {
        // Safety: created once, destroyed once.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

/// A matrix's descriptor, destroyed with it.
struct Layout(sys::cublasLtMatrixLayout_t);

impl Layout {
    fn new(stored: Stored, dtype: DType) -> LtResult<Self> {
        let Stored { rows, columns, .. } = stored;
        result::create_matrix_layout(data_type(dtype), rows as u64, columns as u64, rows as i64).map(Layout)
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // Safety: created once, destroyed once.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

/// What an algorithm has to respect.
struct Search(sys::cublasLtMatmulPreference_t);

impl Search {
    fn new() -> LtResult<Self> {
        result::create_matmul_pref().map(Search)
    }

    fn set<T>(&self, attribute: Preference, value: &T) -> LtResult<()> {
        // Safety: the descriptor is alive, and the value has the size it is said to have.
        unsafe { result::set_matmul_pref_attribute(self.0, attribute, (value as *const T).cast(), size_of::<T>()) }
    }
}

impl Drop for Search {
    fn drop(&mut self) {
        // Safety: created once, destroyed once.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the library computes: out = op(first) op(second), everything by columns, leading dimension = rows.
    fn by_columns(first: Stored, second: Stored, out: Stored, a: &[f32], b: &[f32]) -> Vec<f32> {
        let at = |s: Stored, data: &[f32], i: usize, j: usize| {
            let (i, j) = if s.transposed { (j, i) } else { (i, j) };
            assert!(i < s.rows && j < s.columns);
            data[i + j * s.rows]
        };
        let k = if first.transposed { first.rows } else { first.columns };
        let mut c = vec![0.0; out.rows * out.columns];
        for i in 0..out.rows {
            for j in 0..out.columns {
                c[i + j * out.rows] = (0..k).map(|l| at(first, a, i, l) * at(second, b, l, j)).sum();
            }
        }
        c
    }

    #[test]
    fn column_major_terms_give_the_row_major_product() {
        let (m, n, k) = (2, 3, 5);
        for (transpose_a, transpose_b) in [(false, false), (false, true), (true, false), (true, true)] {
            let a: Vec<f32> = (0..m * k).map(|i| i as f32).collect();
            let b: Vec<f32> = (0..k * n).map(|i| (i * i % 7) as f32).collect();
            let call = GemmCall {
                dtype: DType::F32,
                out: DType::F32,
                precision: Precision::F32,
                a: DevicePtr::NULL,
                b: DevicePtr::NULL,
                bias: DevicePtr::NULL,
                c: DevicePtr::NULL,
                m,
                n,
                k,
                transpose_a,
                transpose_b,
                alpha: 1.0,
                write: Write::Overwrite,
            };
            let (first, second, out) = column_major(&call);
            let got = by_columns(first, second, out, &b, &a);
            for i in 0..m {
                for j in 0..n {
                    let at_a = |l| if transpose_a { a[l * m + i] } else { a[i * k + l] };
                    let at_b = |l| if transpose_b { b[j * k + l] } else { b[l * n + j] };
                    let want: f32 = (0..k).map(|l| at_a(l) * at_b(l)).sum();
                    assert_eq!(got[i * n + j], want, "{transpose_a} {transpose_b} ({i}, {j})");
                }
            }
        }
    }

    #[test]
    fn alignment_is_what_all_rows_have_and_no_more_than_a_vector_load() {
        let of = |ptr, row| alignment(DevicePtr(ptr), row);
        assert_eq!([0x1000, 0x1100, 0x1010, 0x1008, 0x1002].map(|ptr| of(ptr, 512)), [16, 16, 16, 8, 2]);
        assert_eq!([30, 60, 64, 24].map(|row| of(0x1000, row)), [2, 4, 16, 8]);
        assert_eq!(of(0, 64), 16);
    }

    /// A sample of a batch, at whatever multiple of its rows it begins, is multiplied as it would be alone.
    #[test]
    fn a_view_is_of_the_same_kind_as_a_buffer() {
        for (dtype, row) in [(DType::Bf16, 15), (DType::F32, 15), (DType::Bf16, 24), (DType::F32, 64)] {
            let kind = |ptr: u64| {
                Kind::of(&GemmCall {
                    dtype,
                    out: dtype,
                    precision: Precision::F32,
                    a: DevicePtr(0x1000),
                    b: DevicePtr(ptr),
                    bias: DevicePtr::NULL,
                    c: DevicePtr(ptr),
                    m: 28,
                    n: row,
                    k: 8,
                    transpose_a: false,
                    transpose_b: false,
                    alpha: 1.0,
                    write: Write::Overwrite,
                })
            };
            let sample = (28 * row * dtype.size()) as u64;
            assert!((1..8).all(|i| kind(0x1000) == kind(0x1000 + i * sample)), "{dtype:?} {row}");
        }
    }
}
