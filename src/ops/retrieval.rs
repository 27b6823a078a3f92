//! Retrieval by inner product: the rank of the right item and the best items, without a matrix of similarities.
//!
//! Similarities are inner products of the embeddings as given (cosines, where the rows are normalised), in f32 arithmetic
//! with one order of summation: equal items tie exactly, and results do not depend on the device's threads. No gradient.

use crate::device::{Buffer, Device};
use crate::kernels::retrieval::{self as kernel, RetrievalBestParams, RetrievalRankParams};
use crate::kernels::{DType, DevicePtr};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// For each query how many of the other items score above its right one: 0 is best, a tie never counts against the right
/// item, a NaN always does. `queries` `[n, d]`, `items` `[m, d]`, `targets[i]` the index of query i's right item.
pub fn ranks(queries: &Tensor, items: &Tensor, targets: &[u32]) -> Result<Vec<u32>> {
    let [n, m, _] = check(queries, items)?;
    if targets.len() != n || targets.iter().any(|&target| target as usize >= m) {
        return Err(Error::argument(
            "retrieval",
            format!("{} targets for {n} queries among {m} items", targets.len()),
            "pass the index of each query's right item",
        ));
    }
    Ok(rank(queries, items, targets, false)?.0)
}

/// [`ranks`] of paired embeddings both ways: query i belongs to item i. Every similarity is computed once for both.
pub fn paired_ranks(queries: &Tensor, items: &Tensor) -> Result<(Vec<u32>, Vec<u32>)> {
    let [n, m, _] = check(queries, items)?;
    if n != m {
        return Err(Error::argument("retrieval", format!("{n} queries, {m} items"), "pass rows that belong together"));
    }
    rank(queries, items, &(0..n as u32).collect::<Vec<_>>(), true)
}

fn rank(queries: &Tensor, items: &Tensor, targets: &[u32], both: bool) -> Result<(Vec<u32>, Vec<u32>)> {
    let [n, m, d] = check(queries, items)?;
    let device = queries.device();
    let targets_buffer = device.alloc(n * 4, "targets")?;
    targets_buffer.upload(0, bytemuck::cast_slice(targets))?;
    let columns = if both { m } else { 0 };
    let own = device.alloc(n * 4, "similarities of the right items")?;
    let column_own = device.alloc(columns * 4, "similarities of the right queries")?;
    let counts = |n: usize, what| -> Result<Buffer> {
        let buffer = device.alloc(n * 4, what)?;
        buffer.fill(0, n * 4, 0)?;
        Ok(buffer)
    };
    let (ranks, column_ranks) = (counts(n, "ranks")?, counts(columns, "ranks of the queries")?);
    let pointer = |buffer: &Buffer| if both { buffer.ptr() } else { DevicePtr::NULL };
    let params = RetrievalRankParams {
        queries: queries.ptr(),
        items: items.ptr(),
        targets: targets_buffer.ptr(),
        own: own.ptr(),
        column_own: pointer(&column_own),
        ranks: ranks.ptr(),
        column_ranks: pointer(&column_ranks),
        n: n as u64,
        m: m as u64,
        d: d as u64,
    };
    // Safety: every pointer is null where that is allowed, or to live memory of the documented extent; targets are checked.
    unsafe { kernel::ranks(device.launcher(), queries.dtype(), &params)? };
    Ok((download(&ranks, n)?, download(&column_ranks, columns)?))
}

/// The best items of every query.
#[derive(Clone, Debug, PartialEq)]
pub struct Best {
    /// Items of each query: `min(k, m)`.
    pub k: usize,
    /// `[n, k]`, the best first, ties by the smaller index.
    pub indices: Vec<u32>,
    /// `[n, k]`: their similarities.
    pub scores: Vec<f32>,
}

/// The `k` items of largest similarity to each query. Errors: fewer than `k` similarities of a query are numbers.
pub fn best(queries: &Tensor, items: &Tensor, k: usize) -> Result<Best> {
    let [n, m, d] = check(queries, items)?;
    let (device, launcher) = (queries.device(), queries.device().launcher());
    let k = k.min(m);
    if k == 0 {
        return Err(Error::argument("retrieval", "the best 0 items are wanted", "ask for at least one"));
    }
    let strips = kernel::strips(launcher, queries.dtype(), n, m)?;
    let alloc = |device: &Device, n: usize, what| device.alloc(n * 4, what);
    let strip_scores = alloc(device, strips * n * k, "best similarities by strip")?;
    let strip_indices = alloc(device, strips * n * k, "best items by strip")?;
    let (scores, indices) = (alloc(device, n * k, "best similarities")?, alloc(device, n * k, "best items")?);
    let params = RetrievalBestParams {
        queries: queries.ptr(),
        items: items.ptr(),
        strip_scores: strip_scores.ptr(),
        strip_indices: strip_indices.ptr(),
        scores: scores.ptr(),
        indices: indices.ptr(),
        n: n as u64,
        m: m as u64,
        d: d as u64,
        k: k as u32,
        strips: strips as u32,
    };
    // Safety: every pointer is to live memory of the documented extent.
    unsafe { kernel::best(launcher, queries.dtype(), &params)? };
    let found = Best { k, indices: download(&indices, n * k)?, scores: download(&scores, n * k)? };
    if let Some(at) = found.indices.iter().position(|&index| index == u32::MAX) {
        return Err(Error::argument(
            "retrieval",
            format!("query {} has fewer than {k} items whose similarity is a finite number", at / k),
            "find where the embeddings became non-finite",
        ));
    }
    Ok(found)
}

fn download<T: bytemuck::Pod>(buffer: &Buffer, n: usize) -> Result<Vec<T>> {
    let mut values = vec![T::zeroed(); n];
    buffer.download(0, bytemuck::cast_slice_mut(&mut values))?;
    Ok(values)
}

/// n, m and d.
fn check(queries: &Tensor, items: &Tensor) -> Result<[usize; 3]> {
    let ([n, d], [m, _]) = (queries.dims::<2>("queries")?, items.dims::<2>("items")?);
    items.expect("items", queries.device(), [m, d], queries.dtype())?;
    if n == 0 || m == 0 || d == 0 || n.max(m) >= u32::MAX as usize {
        return Err(Error::argument(
            "retrieval",
            format!("{n} queries and {m} items of {d} elements ({})", DType::name(queries.dtype())),
            "pass at least one of each, and fewer than 2^32",
        ));
    }
    Ok([n, m, d])
}
