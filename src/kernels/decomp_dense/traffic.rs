//! Bytes that the passes of a dense decomposed convolution move between memory and the multiprocessors, from its sizes.
//!
//! A pass is charged every tensor that it reads or writes, once. Columns, branches and their gradients live for one chunk, which is
//! sized to the L2 cache: they are counted apart, by [`cached`].

use super::{Chunks, cross_rows, direct::Direct};
use crate::kernels::DType;
use crate::kernels::decomp_conv::traffic::Traffic;
use crate::kernels::decomp_conv::{DecompConvShape, NormKind};

/// Bytes of x and of y.
fn tensors(shape: &DecompConvShape, dtype: DType) -> [u64; 2] {
    let bytes = |channels: usize, voxels: usize| (shape.batch * channels * voxels * dtype.size()) as u64;
    [bytes(shape.in_channels, in_reach(shape)), bytes(shape.out_channels, shape.out_voxels())]
}

/// Voxels of a sample of x that some window sees. With a stride these are lines along each axis through the centres: 10 of 64
/// voxels at stride 4 and 7 taps. Memory moves them in sectors, so a GPU reads more.
fn in_reach(shape: &DecompConvShape) -> usize {
    let centres = shape.out_voxels();
    let beside = |axis: usize| {
        let (outputs, inputs) = (shape.out_size[axis], shape.in_size[axis]);
        centres / outputs * (inputs.min(outputs * shape.kernel) - outputs)
    };
    (centres + beside(0) + beside(1) + beside(2)).min(shape.in_voxels())
}

fn weights(shape: &DecompConvShape) -> u64 {
    3 * shape.weights() as u64 * 4
}

/// Of a forward pass, either variant.
pub fn forward(shape: &DecompConvShape, dtype: DType, norm: NormKind) -> Vec<Traffic> {
    let [x, y] = tensors(shape, dtype);
    let w = weights(shape);
    let mut passes = Vec::new();
    if norm == NormKind::Train {
        passes.push(Traffic { launch: "statistics", read: x + w, written: 0 });
    }
    passes.push(Traffic { launch: "write y", read: x + w, written: y });
    passes
}

/// Of a backward pass by chunks; `input`: with the gradient of x.
pub fn backward(shape: &DecompConvShape, dtype: DType, norm: NormKind, gelu: bool, input: bool) -> Vec<Traffic> {
    let [x, y] = tensors(shape, dtype);
    let dx = if input { (shape.batch * shape.in_channels * shape.in_voxels() * dtype.size()) as u64 } else { 0 };
    let w = weights(shape);
    let sums = if norm != NormKind::None || gelu { x + w } else { 0 };
    vec![
        Traffic { launch: "sums", read: y + sums, written: 0 },
        Traffic { launch: "weights and input", read: x + y + w, written: dx + w },
    ]
}

/// What goes through the L2 cache for columns and branches, beside [`forward`]'s and [`backward`]'s: a chunked forward pass, a
/// direct one, a chunked backward pass with the gradient of x; in training.
pub fn cached(shape: &DecompConvShape, dtype: DType) -> [u64; 3] {
    let voxels = (shape.batch * shape.out_voxels()) as u64;
    let (rows, depth) = (cross_rows(shape) as u64, (shape.kernel * shape.in_channels) as u64);
    let (size, outputs) = (dtype.size() as u64, shape.out_channels as u64);
    // Columns written, three products read them and write f32 branches, which are read once.
    let branches = voxels * ((rows + 3 * depth) * size + 3 * outputs * 8);
    let folded = voxels * (2 * (rows - shape.in_channels as u64) * size + outputs * 8);
    // dz written, read twice; columns read again; gradients of the columns written, gathered.
    let gradients = voxels * ((9 * outputs + 3 * depth + 6 * depth) * size);
    let direct = match Direct::of(shape, dtype) {
        // A tile of 4 x 4 x 8 reads its halo again.
        Some(Direct::TensorCores) => 2 * voxels * shape.in_channels as u64 * size * (6 * 6 * 10 - 128) / 128,
        _ => 0,
    };
    [branches + folded, direct, 2 * branches + gradients]
}

/// A chunk's memory, bytes: what a pass needs beside its operands.
pub fn workspace(shape: &DecompConvShape, chunks: &Chunks, dtype: DType, backward: bool) -> u64 {
    let (outputs, depth) = (shape.out_channels, shape.kernel * shape.in_channels);
    let forward = cross_rows(shape) * dtype.size() + 3 * outputs * 4;
    let dz = if dtype == DType::F32 { 0 } else { 3 * outputs * dtype.size() };
    let back = if backward { dz + 2 * 3 * depth * dtype.size() } else { 0 };
    (chunks.voxels() * (forward + back)) as u64
}
