//! A linear layer under binary cross entropy on the host, in one pass over a batch: each sample is read once from where it lies, and its
//! logits stay in the first cache. For processors with AVX-512 and few classes; for others [`crate::ops::linear_bce`] composes it.
#![cfg_attr(not(target_arch = "x86_64"), allow(unused))]

use std::sync::atomic::{AtomicU64, Ordering};

use super::host_gemm::{Matrix, in_parallel};
use super::{LinearBceCall, host_narrow};
use crate::kernels::DevicePtr;

/// Samples whose logits and gradients are held at once.
const CHUNK: usize = 64;
/// Fewest samples that are a task.
const PART: usize = 128;
/// Most tasks of a batch, each with sums of its own, which are added in order: the result does not depend on the number of threads.
const PARTS: usize = 16;

/// Whether this processor has [`linear_bce`] for so many classes.
pub(super) fn available(classes: usize) -> bool {
    classes <= host_narrow::NARROW && host_narrow::available()
}

/// What a part of a batch adds to.
struct Sums<'a> {
    weight: &'a mut [f32],
    bias: &'a mut [f32],
    loss: f64,
}

/// The mean loss, and its gradients where they are wanted.
///
/// # Safety
/// Memory of the call's sizes; places below N; what is [`available`].
pub(super) unsafe fn linear_bce(call: &LinearBceCall, threads: usize, kept: &mut Vec<f32>) {
    let LinearBceCall { rows, dim, classes, .. } = *call;
    let length = rows.div_ceil(PARTS).max(PART).next_multiple_of(CHUNK);
    let (parts, each) = (rows.div_ceil(length), classes * (dim + 1));
    if kept.len() < parts * each {
        kept.resize(parts * each, 0.0);
    }
    let losses: Vec<AtomicU64> = (0..parts).map(|_| AtomicU64::new(0)).collect();
    let memory = kept.as_mut_ptr() as usize;
    in_parallel(threads, parts, |part| {
        // Safety: each part has its own.
        let sums = unsafe { std::slice::from_raw_parts_mut((memory as *mut f32).add(part * each), each) };
        let (weight, bias) = sums.split_at_mut(classes * dim);
        let mut sums = Sums { weight, bias, loss: 0.0 };
        #[cfg(target_arch = "x86_64")]
        unsafe {
            avx512::part(call, [part * length, rows.min((part + 1) * length)], &mut sums)
        };
        losses[part].store(sums.loss.to_bits(), Ordering::Relaxed);
    });
    let loss: f64 = losses.into_iter().map(|loss| f64::from_bits(loss.into_inner())).sum();
    unsafe { *(call.loss.0 as *mut f32) = (loss / (rows * classes) as f64) as f32 };
    let Some([weight, bias]) = call.gradients else { return };
    // Safety: as the caller promises.
    let slice = |at: DevicePtr, n: usize| unsafe { std::slice::from_raw_parts_mut(at.0 as *mut f32, n) };
    add_parts(slice(weight, classes * dim), kept, parts, each);
    add_parts(slice(bias, classes), &kept[classes * dim..], parts, each);
}

/// `to` = the sum of the parts, in their order.
fn add_parts(to: &mut [f32], from: &[f32], parts: usize, each: usize) {
    to.copy_from_slice(&from[..to.len()]);
    for part in 1..parts {
        to.iter_mut().zip(&from[part * each..]).for_each(|(to, from)| *to += from);
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::super::host_narrow::avx512::{LANES, by_dots, by_rows, lanes};
    use super::*;

    /// Samples of the next chunk that are asked for at once.
    const AHEAD: usize = 4;

    /// Room for the elements of a chunk.
    struct Chunk {
        logits: Vec<f32>,
        targets: Vec<f32>,
        bias: Vec<f32>,
        pos_weight: Vec<f32>,
    }

    impl Chunk {
        /// # Safety
        /// As for [`super::linear_bce`].
        unsafe fn new(call: &LinearBceCall) -> Self {
            let classes = call.classes;
            let n = CHUNK * classes;
            let row = |at: DevicePtr| unsafe { std::slice::from_raw_parts(at.0 as *const f32, classes) };
            let pos_weight =
                if call.pos_weight == DevicePtr::NULL { &vec![1.0; classes] } else { row(call.pos_weight) };
            Chunk {
                logits: vec![0.0; n],
                targets: vec![0.0; n],
                bias: row(call.bias).repeat(CHUNK),
                pos_weight: pos_weight.repeat(CHUNK),
            }
        }
    }

    /// Samples `begin..end` of the batch.
    ///
    /// # Safety
    /// As for [`super::linear_bce`].
    #[target_feature(enable = "avx512f")]
    pub unsafe fn part(call: &LinearBceCall, [begin, end]: [usize; 2], sums: &mut Sums) {
        let LinearBceCall { dim, classes, gradients, .. } = *call;
        let mut chunk = unsafe { Chunk::new(call) };
        let weight = Matrix { ptr: call.weight.0 as usize, rows: 1, columns: dim };
        let mut features = [std::ptr::null(); CHUNK];
        sums.bias.fill(0.0);
        for start in (begin..end).step_by(CHUNK) {
            let rows = CHUNK.min(end - start);
            for row in 0..rows {
                let place = unsafe { place_of(call, start + row) };
                features[row] = (call.features.0 as *const f32).wrapping_add(place * dim);
                let from = (call.targets.0 as *const f32).wrapping_add(place * classes);
                unsafe { copy(from, &mut chunk.targets[row * classes..][..classes]) };
            }
            let logits = Matrix { ptr: chunk.logits.as_mut_ptr() as usize, rows: classes, columns: 1 };
            for row in (0..rows).step_by(AHEAD) {
                let few = AHEAD.min(rows - row);
                for next in (start + rows + row..end).take(few) {
                    unsafe { prefetch(call, next) };
                }
                unsafe {
                    by_dots(&features[row..row + few], weight, logits.part(row, 0), [few, classes, dim], 1.0, false)
                };
            }
            sums.loss += unsafe { losses(&mut chunk, rows * classes, 1.0 / (call.rows * classes) as f32) };
            if gradients.is_some() {
                let factors = Matrix { rows: 1, columns: classes, ..logits };
                let to = Matrix { ptr: sums.weight.as_mut_ptr() as usize, rows: dim, columns: 1 };
                unsafe { by_rows(factors, &features[..rows], to, [classes, dim, rows], 1.0, start > begin) };
                for row in chunk.logits[..rows * classes].chunks(classes) {
                    sums.bias.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
                }
            }
        }
    }

    /// Asks for sample `at` of the batch: rows in any order are not foreseen by the processor.
    ///
    /// # Safety
    /// As for [`super::linear_bce`].
    unsafe fn prefetch(call: &LinearBceCall, at: usize) {
        let place = unsafe { place_of(call, at) };
        for (rows, columns) in [(call.features, call.dim), (call.targets, call.classes)] {
            let row = (rows.0 as *const f32).wrapping_add(place * columns);
            for k in (0..columns).step_by(LANES) {
                unsafe { _mm_prefetch::<_MM_HINT_T1>(row.wrapping_add(k).cast()) };
            }
        }
    }

    /// A short row.
    ///
    /// # Safety
    /// `from` has as many elements as `to`.
    #[target_feature(enable = "avx512f")]
    unsafe fn copy(from: *const f32, to: &mut [f32]) {
        for (at, to) in to.chunks_mut(LANES).enumerate() {
            let mask = lanes(to.len());
            unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr(), mask, _mm512_maskz_loadu_ps(mask, from.add(at * LANES))) };
        }
    }

    /// Where sample `at` of the batch lies.
    ///
    /// # Safety
    /// As for [`super::linear_bce`].
    unsafe fn place_of(call: &LinearBceCall, at: usize) -> usize {
        if call.places == DevicePtr::NULL { at } else { unsafe { *(call.places.0 as *const u32).add(at) as usize } }
    }

    /// The sum of the losses of the first `n` elements; what were products without a bias become the gradients, times `scale`.
    #[target_feature(enable = "avx512f")]
    unsafe fn losses(chunk: &mut Chunk, n: usize, scale: f32) -> f64 {
        let (one, zero, scale) = (_mm512_set1_ps(1.0), _mm512_setzero_ps(), _mm512_set1_ps(scale));
        let mut sum = zero;
        for at in (0..n).step_by(LANES) {
            let mask = lanes(n - at);
            let load = |from: &[f32]| unsafe { _mm512_maskz_loadu_ps(mask, from.as_ptr().add(at)) };
            let x = _mm512_add_ps(load(&chunk.logits), load(&chunk.bias));
            let t = load(&chunk.targets);
            let positive = _mm512_mul_ps(load(&chunk.pos_weight), t);
            let negative = _mm512_sub_ps(one, t);
            let e = exp_of_negative(_mm512_sub_ps(zero, _mm512_abs_ps(x)));
            // sigmoid(|x|) and sigmoid(-|x|), each with its full relative accuracy.
            let large = _mm512_div_ps(one, _mm512_add_ps(one, e));
            let small = _mm512_mul_ps(e, large);
            let below = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(x, zero);
            let sigmoid = _mm512_mask_blend_ps(below, large, small);
            let other = _mm512_mask_blend_ps(below, small, large);
            let gradient = _mm512_fmsub_ps(negative, sigmoid, _mm512_mul_ps(positive, other));
            let tail = log1p(e);
            let of_positive = _mm512_add_ps(_mm512_max_ps(_mm512_sub_ps(zero, x), zero), tail);
            let of_negative = _mm512_add_ps(_mm512_max_ps(x, zero), tail);
            let loss = _mm512_fmadd_ps(positive, of_positive, _mm512_mul_ps(negative, of_negative));
            sum = _mm512_mask_add_ps(sum, mask, sum, loss);
            unsafe { _mm512_mask_storeu_ps(chunk.logits.as_mut_ptr().add(at), mask, _mm512_mul_ps(scale, gradient)) };
        }
        f64::from(_mm512_reduce_add_ps(sum))
    }

    /// exp(y) of y <= 0, to two units in the last place; NaN of NaN.
    #[target_feature(enable = "avx512f")]
    fn exp_of_negative(y: __m512) -> __m512 {
        const LN2: [f32; 2] = [355.0 / 512.0, -2.121_944_4e-4]; // the first has few bits, so that its multiples are exact
        const TERMS: [f32; 7] = [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];
        // The second operand is what a NaN gives.
        let y = _mm512_max_ps(_mm512_set1_ps(-110.0), y);
        let whole = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(_mm512_mul_ps(
            y,
            _mm512_set1_ps(std::f32::consts::LOG2_E),
        ));
        let rest = LN2.iter().fold(y, |rest, &part| _mm512_fnmadd_ps(whole, _mm512_set1_ps(part), rest));
        _mm512_scalef_ps(horner(rest, &TERMS), whole)
    }

    /// log(1 + e) of e in 0..=1, to two units in the last place: twice the inverse hyperbolic tangent of e / (2 + e).
    #[target_feature(enable = "avx512f")]
    fn log1p(e: __m512) -> __m512 {
        const TERMS: [f32; 8] = [2.0 / 15.0, 2.0 / 13.0, 2.0 / 11.0, 2.0 / 9.0, 2.0 / 7.0, 2.0 / 5.0, 2.0 / 3.0, 2.0];
        let s = _mm512_div_ps(e, _mm512_add_ps(_mm512_set1_ps(2.0), e));
        _mm512_mul_ps(s, horner(_mm512_mul_ps(s, s), &TERMS))
    }

    /// The polynomial of these coefficients, the highest first.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn horner(x: __m512, coefficients: &[f32]) -> __m512 {
        let first = _mm512_set1_ps(coefficients[0]);
        coefficients[1..].iter().fold(first, |sum, &next| _mm512_fmadd_ps(sum, x, _mm512_set1_ps(next)))
    }
}
