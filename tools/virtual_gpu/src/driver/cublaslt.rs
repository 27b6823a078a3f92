//! cublasLtMatmul for the virtual GPU: column-major products as NVIDIA's documentation states them.
#![allow(non_snake_case, unsafe_op_in_unsafe_fn, clippy::missing_safety_doc)]
use std::ffi::{c_char, c_int, c_void};

type P = *mut c_void;
#[derive(Clone, Copy, Default)]
struct Desc {
    ta: i32,
    tb: i32,
    epilogue: u32,
    bias: u64,
    compute: u32,
}
#[derive(Clone, Copy)]
struct Layout {
    ty: u32, // 0 f32, 14 bf16
    rows: u64,
    cols: u64,
    ld: i64,
}
struct Job {
    d: Desc,
    alpha: f32,
    beta: f32,
    a: u64,
    la: Layout,
    b: u64,
    lb: Layout,
    c: u64,
    lc: Layout,
    out: u64,
    lo: Layout,
}
const OK: u32 = 0;
const INVALID: u32 = 7;

unsafe fn get(p: u64, ty: u32, at: usize) -> f32 {
    if ty == 0 { *(p as *const f32).add(at) } else { f32::from_bits((*(p as *const u16).add(at) as u32) << 16) }
}
unsafe fn put(p: u64, ty: u32, at: usize, v: f32) {
    if ty == 0 {
        *(p as *mut f32).add(at) = v
    } else {
        let u = v.to_bits();
        let r = if v.is_nan() { 0x7fff } else { (u.wrapping_add(0x7fff + (u >> 16 & 1)) >> 16) as u16 };
        *(p as *mut u16).add(at) = r
    }
}
fn tf32(x: f32) -> f32 {
    f32::from_bits(x.to_bits().wrapping_add(0x1000) & 0xffff_e000)
}
unsafe extern "C" fn run(p: P) {
    let j = &*(p as *const Job); // kept: a graph may run it again
    let (m, n) = (j.lo.rows as usize, j.lo.cols as usize);
    let k = if j.d.ta != 0 { j.la.rows } else { j.la.cols } as usize;
    let round = |x: f32, ty: u32| if ty == 0 && j.d.compute == 77 { tf32(x) } else { x };
    // op(A) by rows of k, op(B) by columns of k
    let mut a = vec![0f32; m * k];
    for i in 0..m {
        for l in 0..k {
            let (r, c) = if j.d.ta != 0 { (l, i) } else { (i, l) };
            a[i + l * m] = round(get(j.a, j.la.ty, r + c * j.la.ld as usize), j.la.ty);
        }
    }
    for col in 0..n {
        let mut sum = vec![0f32; m];
        for l in 0..k {
            let (r, c) = if j.d.tb != 0 { (col, l) } else { (l, col) };
            let b = round(get(j.b, j.lb.ty, r + c * j.lb.ld as usize), j.lb.ty);
            for (s, x) in sum.iter_mut().zip(&a[l * m..(l + 1) * m]) {
                *s = x.mul_add(b, *s);
            }
        }
        for (i, s) in sum.iter().enumerate() {
            let at = i + col * j.lo.ld as usize;
            let mut v = j.alpha * s;
            if j.beta != 0.0 {
                v += j.beta * get(j.c, j.lc.ty, i + col * j.lc.ld as usize);
            }
            if j.d.epilogue == 4 {
                v += get(j.d.bias, j.lo.ty, i);
            }
            put(j.out, j.lo.ty, at, v);
        }
    }
    super::mark(j.out, j.lo.ld as usize * n * if j.lo.ty == 0 { 4 } else { 2 });
}

macro_rules! api {
    ($($name:ident($($a:ident: $t:ty),*) -> $r:ty $body:block)*) => {
        $(#[unsafe(no_mangle)] pub unsafe extern "C" fn $name($($a: $t),*) -> $r { $body })*
    };
}
api! {
    cublasLtGetVersion() -> usize { 130000 }
    cublasLtCreate(h: *mut P) -> u32 { *h = 0x3000 as P; OK }
    cublasLtDestroy(_h: P) -> u32 { OK }
    cublasLtGetStatusName(_s: u32) -> *const c_char { c"CUBLAS_STATUS_INVALID_VALUE".as_ptr() }
    cublasLtGetStatusString(_s: u32) -> *const c_char { c"an unsupported value or parameter was passed".as_ptr() }
    cublasLtMatmulDescCreate(d: *mut P, compute: u32, _scale: u32) -> u32 { *d = Box::into_raw(Box::new(Desc { compute, epilogue: 1, ..Default::default() })) as P; OK }
    cublasLtMatmulDescDestroy(d: P) -> u32 { drop(Box::from_raw(d as *mut Desc)); OK }
    cublasLtMatmulDescSetAttribute(d: P, a: u32, v: *const c_void, n: usize) -> u32 {
        let d = &mut *(d as *mut Desc);
        match (a, n) {
            (3, 4) => d.ta = *(v as *const i32),
            (4, 4) => d.tb = *(v as *const i32),
            (7, 4) => d.epilogue = *(v as *const u32),
            (8, 8) => d.bias = *(v as *const u64),
            _ => return INVALID,
        }
        OK
    }
    cublasLtMatrixLayoutCreate(l: *mut P, ty: u32, rows: u64, cols: u64, ld: i64) -> u32 {
        if ty != 0 && ty != 14 { return INVALID; }
        *l = Box::into_raw(Box::new(Layout { ty, rows, cols, ld })) as P; OK
    }
    cublasLtMatrixLayoutDestroy(l: P) -> u32 { drop(Box::from_raw(l as *mut Layout)); OK }
    cublasLtMatrixLayoutSetAttribute(_l: P, _a: u32, _v: *const c_void, _n: usize) -> u32 { INVALID }
    cublasLtMatmulPreferenceCreate(p: *mut P) -> u32 { *p = 0x4000 as P; OK }
    cublasLtMatmulPreferenceDestroy(_p: P) -> u32 { OK }
    cublasLtMatmulPreferenceSetAttribute(_p: P, a: u32, _v: *const c_void, n: usize) -> u32 {
        match (a, n) { (1, 8) | (3, 4) | (5..=8, 4) => OK, _ => { eprintln!("vgpu-cublaslt: preference {a} of {n} bytes"); INVALID } }
    }
    cublasLtMatmulAlgoGetHeuristic(_h: P, _d: P, _a: P, _b: P, _c: P, _o: P, _p: P, n: c_int, r: *mut u8, got: *mut c_int) -> u32 {
        if n < 1 { return INVALID; }
        std::ptr::write_bytes(r, 0, 96);
        *got = 1; OK
    }
    cublasLtMatmul(_h: P, d: P, alpha: *const f32, a: u64, la: P, b: u64, lb: P, beta: *const f32, c: u64, lc: P, o: u64, lo: P, _algo: P, _w: P, _n: usize, s: P) -> u32 {
        let (d, la, lb, lc, lo) = (*(d as *const Desc), *(la as *const Layout), *(lb as *const Layout), *(lc as *const Layout), *(lo as *const Layout));
        let op = |l: Layout, t: i32| if t != 0 { (l.cols, l.rows) } else { (l.rows, l.cols) };
        let ((m, k), (k2, n)) = (op(la, d.ta), op(lb, d.tb));
        if k != k2 || (m, n) != (lo.rows, lo.cols) || [la, lb, lc, lo].iter().any(|l| l.ld < l.rows as i64) || m == 0 || n == 0 || k == 0 {
            eprintln!("vgpu-cublaslt: sizes do not fit: {m}x{k} {k2}x{n} {}x{}", lo.rows, lo.cols);
            return INVALID;
        }

        let bytes = |l: Layout| ((l.cols - 1) * l.ld as u64 + l.rows) as usize * if l.ty == 0 { 4 } else { 2 };
        for (p, l) in [(a, la), (b, lb), (o, lo)] {
            if super::checked("a library's operand", p, bytes(l)) != 0 { return INVALID; }
        }
        if d.epilogue == 4 && super::checked("a bias", d.bias, m as usize * if lo.ty == 0 { 4 } else { 2 }) != 0 { return INVALID; }
        let job = Box::new(Job { d, alpha: *alpha, beta: *beta, a, la, b, lb, c, lc, out: o, lo });
        if super::cuLaunchHostFunc(s, run as *const () as usize, Box::into_raw(job) as P) == 0 { OK } else { 13 }
    }
}
