//! The dense decomposed convolution by matrix products over chunks of planes (`kernels/decomp_dense/decomp_dense.cu`): no branch is
//! stored, and what a chunk needs beside x, y and their gradients fits the caches.

use super::{Destinations, Inputs};
use crate::Result;
use crate::device::Device;
use crate::kernels::decomp_conv::{self as kernel, DecompConvParams, DecompConvShape, NormKind};
use crate::kernels::decomp_dense::direct::{self, Direct};
use crate::kernels::decomp_dense::{self as dense, Chunks, DecompDenseParams};
use crate::kernels::{DType, DevicePtr, Write};
use crate::ops::gemm::{Backend, Method, Operand, product_into};
use crate::tensor::Tensor;

/// How the passes run.
#[derive(Clone, Copy)]
pub(super) struct How {
    /// The products of chunks; ours also asks for the direct kernels where there are some.
    pub method: Method,
    /// Planes of a chunk; `None` takes what fits the caches.
    pub planes: Option<usize>,
}

/// The operands that every pass shares, and the weights in the columns' order, `[3, O, k I]`.
fn prepare(shape: &DecompConvShape, inputs: &Inputs, outer: &DecompConvParams) -> Result<(DecompDenseParams, Tensor)> {
    let (device, dtype) = (inputs.x.device(), inputs.x.dtype());
    let size = [3, shape.out_channels, shape.kernel * shape.in_channels];
    let matrices = Tensor::empty(device, size, dtype, "weights by tap")?;
    let params = DecompDenseParams {
        x: outer.x,
        g: outer.g,
        y: outer.y,
        dx: outer.dx,
        w: outer.w,
        matrices: matrices.ptr(),
        dw: outer.dw,
        mean: outer.mean,
        scale: outer.scale,
        shift: outer.shift,
        coefficients: outer.coefficients,
        gelu: outer.gelu,
        accumulate: outer.accumulate,
        ..DecompDenseParams::new(shape)
    };
    // Safety: live tensors of the sizes in `shape`.
    unsafe { dense::matrices(device.launcher(), dtype, &params)? };
    Ok((params, matrices))
}

/// Finishes the statistics and folds the weights by them, `[O, (3k-2) I]`.
fn fold(inputs: &Inputs, outer: &DecompConvParams, params: &mut DecompDenseParams, dtype: DType) -> Result<Tensor> {
    let device = inputs.x.device();
    let depth = (3 * params.kernel as usize - 2) * params.in_channels as usize;
    let folded = Tensor::empty(device, [params.out_channels as usize, depth], dtype, "weights of the cross")?;
    params.folded = folded.ptr();
    // Safety: live tensors of the sizes in the parameters; where there is training, the sums are complete.
    unsafe {
        kernel::finish_statistics(device.launcher(), outer)?;
        dense::fold(device.launcher(), dtype, params)?;
    }
    Ok(folded)
}

/// Statistics, then y: by the direct kernels where ours are asked for and there are some, else by chunks.
pub(super) fn forward(shape: &DecompConvShape, inputs: &Inputs, mut outer: DecompConvParams, how: How) -> Result<()> {
    outer.channels = outer.out_channels;
    match Direct::of(shape, inputs.x.dtype()) {
        Some(direct) if how.method.backend == Backend::Own => forward_direct(shape, inputs, outer, direct),
        _ => forward_by_chunks(shape, inputs, outer, how),
    }
}

fn forward_direct(shape: &DecompConvShape, inputs: &Inputs, mut outer: DecompConvParams, direct: Direct) -> Result<()> {
    let (device, dtype) = (inputs.x.device(), inputs.x.dtype());
    let (mut params, _matrices) = prepare(shape, inputs, &outer)?;
    direct.plan(device.launcher(), &mut params)?;
    let mut sums = None;
    if outer.norm == NormKind::Train as u32 {
        let partial =
            Tensor::empty(device, [2 * direct.workspace(&params)], DType::F32, "decomposed convolution sums")?;
        params.partial = partial.ptr();
        params.window_sums = partial.ptr().offset(8 * direct.window_sums(&params));
        (outer.partial, outer.blocks) = (partial.ptr(), direct.sum_blocks(&params) as u32);
        // Safety: live tensors of the sizes in `shape`, planned.
        unsafe { direct::moments(device.launcher(), direct, dtype, &params)? };
        sums = Some(partial);
    }
    let _folded = fold(inputs, &outer, &mut params, direct.folded())?;
    drop(sums);
    // Safety: as above.
    unsafe { direct::write(device.launcher(), direct, dtype, &params) }
}

/// Both directions' operands and the memory of a chunk.
struct Pass<'a> {
    device: &'a Device,
    dtype: DType,
    shape: &'a DecompConvShape,
    method: Method,
    params: DecompDenseParams,
    chunks: Chunks,
    columns: Tensor,
    branches: Tensor,
    /// `[3, O, k I]`.
    matrices: Tensor,
}

impl<'a> Pass<'a> {
    fn new(shape: &'a DecompConvShape, inputs: &Inputs<'a>, outer: &DecompConvParams, how: How) -> Result<Pass<'a>> {
        let (device, dtype) = (inputs.x.device(), inputs.x.dtype());
        let chunks = Chunks::new(device.launcher(), shape, dtype, how.planes)?;
        let (params, matrices) = prepare(shape, inputs, outer)?;
        let columns = Tensor::empty(device, [dense::cross_rows(shape), chunks.voxels()], dtype, "columns of a chunk")?;
        let branches =
            Tensor::empty(device, [3, shape.out_channels, chunks.voxels()], DType::F32, "branches of a chunk")?;
        let params = DecompDenseParams { columns: columns.ptr(), z: branches.ptr(), ..params };
        Ok(Pass { device, dtype, shape, method: how.method, params, chunks, columns, branches, matrices })
    }

    /// Turns to a chunk.
    fn chunk(&mut self, index: usize) {
        self.params.chunk(&self.chunks, index);
    }

    /// Voxels of this chunk.
    fn voxels(&self) -> usize {
        self.params.planes as usize * self.chunks.plane
    }

    /// Fills the columns of this chunk: all, or without the second centre.
    fn gather(&mut self, taps: usize) -> Result<()> {
        self.params.taps = taps as u32;
        // Safety: x and the columns are live and of the sizes in `shape`.
        unsafe { dense::columns(self.device.launcher(), self.dtype, &mut self.params) }
    }

    /// `rows` of the columns of this chunk from `first` on, as a matrix.
    fn rows(&self, first: usize, rows: usize) -> Result<Tensor> {
        self.columns.view(first * self.voxels(), [rows, self.voxels()])
    }

    /// The columns of one axis, `[k I, V]`.
    fn axis(&self, axis: usize) -> Result<Tensor> {
        self.rows(dense::first_row(self.shape, axis), self.shape.kernel * self.shape.in_channels)
    }

    /// Matrix `axis` of three `[O, V]` of this chunk.
    fn branch(&self, of: &Tensor, axis: usize) -> Result<Tensor> {
        let size = [self.shape.out_channels, self.voxels()];
        of.view(axis * size[0] * size[1], size)
    }

    /// z of this chunk: a product an axis.
    fn branches(&mut self) -> Result<()> {
        self.gather(3 * self.shape.kernel - 1)?;
        for axis in 0..3 {
            let (weight, columns, z) =
                (self.matrices.rows(axis, 1)?, self.axis(axis)?, self.branch(&self.branches, axis)?);
            let (a, b) = (Operand::new(&weight, false), Operand::new(&columns, false));
            product_into(a, b, None, &z, Write::Overwrite, self.method)?;
        }
        Ok(())
    }

    /// Workspace for the sums of all blocks.
    fn partial(&mut self, values: usize) -> Result<Tensor> {
        let elements = self.chunks.sum_blocks() * self.shape.out_channels * values * 2;
        let partial = Tensor::empty(self.device, [elements], DType::F32, "decomposed convolution sums")?;
        self.params.partial = partial.ptr();
        Ok(partial)
    }
}

fn forward_by_chunks(shape: &DecompConvShape, inputs: &Inputs, mut outer: DecompConvParams, how: How) -> Result<()> {
    let mut pass = Pass::new(shape, inputs, &outer, how)?;
    let launcher = pass.device.launcher();
    let mut partial = None;
    if outer.norm == NormKind::Train as u32 {
        let sums = pass.partial(dense::MOMENT_VALUES)?;
        for index in 0..pass.chunks.count() {
            pass.chunk(index);
            pass.branches()?;
            // Safety: live tensors of the sizes in `shape`; the partial sums have a place for every block.
            unsafe { dense::moments(launcher, &pass.params)? };
        }
        (outer.partial, outer.blocks) = (sums.ptr(), pass.chunks.sum_blocks() as u32);
        partial = Some(sums);
    }
    let folded = fold(inputs, &outer, &mut pass.params, pass.dtype)?;
    drop(partial);
    for index in 0..pass.chunks.count() {
        pass.chunk(index);
        pass.gather(3 * shape.kernel - 2)?;
        let (columns, sum) =
            (pass.rows(0, (3 * shape.kernel - 2) * shape.in_channels)?, pass.branch(&pass.branches, 0)?);
        let (a, b) = (Operand::new(&folded, false), Operand::new(&columns, false));
        product_into(a, b, None, &sum, Write::Overwrite, how.method)?;
        // Safety: as above.
        unsafe { dense::write(launcher, pass.dtype, &pass.params)? };
    }
    Ok(())
}

/// Gradients of everything that wants one, from g and x.
pub(super) fn backward(
    shape: &DecompConvShape,
    inputs: &Inputs,
    mut outer: DecompConvParams,
    destinations: &Destinations,
    how: How,
) -> Result<()> {
    let mut pass = Pass::new(shape, inputs, &outer, how)?;
    let launcher = pass.device.launcher();
    let (train, gelu) = (outer.norm == NormKind::Train as u32, outer.gelu == 1);
    let sums = pass.partial(dense::GRADIENT_VALUES)?;
    pass.params.branches = (outer.norm != NormKind::None as u32 || gelu) as u32;
    for index in 0..pass.chunks.count() {
        pass.chunk(index);
        if pass.params.branches == 1 {
            pass.branches()?;
        }
        // Safety: live tensors of the sizes in `shape`; the partial sums have a place for every block.
        unsafe { dense::gradient_sums(launcher, pass.dtype, &pass.params)? };
    }
    (outer.partial, outer.blocks, outer.channels) = (sums.ptr(), pass.chunks.sum_blocks() as u32, outer.out_channels);
    // Safety: as above.
    unsafe { kernel::finish_gradient_sums(launcher, &outer)? };
    pass.params.branches = (train || gelu) as u32;
    weights_and_input(&mut pass, destinations)
}

/// dw and dx, from the coefficients of dz.
fn weights_and_input(pass: &mut Pass, destinations: &Destinations) -> Result<()> {
    let (device, dtype, shape, method) = (pass.device, pass.dtype, pass.shape, pass.method);
    let launcher = device.launcher();
    let weights = destinations.weights.each_ref().map(Option::is_some);
    if destinations.x.is_none() && weights == [false; 3] {
        return Ok(());
    }
    let depth = shape.kernel * shape.in_channels;
    let scratch = |rows: usize, what| Tensor::empty(device, [rows, pass.chunks.voxels()], dtype, what);
    // In f32 dz takes the place of z.
    let dz = match dtype {
        DType::F32 => pass.branches.clone(),
        DType::Bf16 => scratch(3 * shape.out_channels, "gradient of a chunk's branches")?,
    };
    let pair = || {
        let half = || scratch(3 * depth, "gradient of a chunk's columns");
        Ok::<_, crate::Error>([half()?, half()?])
    };
    let mut dcolumns = destinations.x.as_ref().map(|_| pair()).transpose()?;
    let products = Tensor::empty(device, [3, shape.out_channels, depth], DType::F32, "weight gradients by tap")?;
    (pass.params.dz, pass.params.products) = (dz.ptr(), products.ptr());
    for index in 0..pass.chunks.count() {
        pass.chunk(index);
        if pass.params.branches == 1 {
            pass.branches()?;
        } else if weights.contains(&true) {
            pass.gather(3 * shape.kernel - 1)?;
        }
        // Safety: live tensors of the sizes in `shape`.
        unsafe { dense::branch_gradient(launcher, dtype, &pass.params)? };
        for axis in 0..3 {
            let dz = pass.branch(&dz, axis)?;
            if weights[axis] {
                let (columns, product) = (pass.axis(axis)?, products.rows(axis, 1)?);
                let write = if index == 0 { Write::Overwrite } else { Write::Accumulate };
                product_into(Operand::new(&dz, false), Operand::new(&columns, true), None, &product, write, method)?;
            }
            if let Some([dcolumns, _]) = &dcolumns {
                let weight = pass.matrices.rows(axis, 1)?;
                let out = dcolumns.view(axis * depth * pass.voxels(), [depth, pass.voxels()])?;
                let (a, b) = (Operand::new(&weight, true), Operand::new(&dz, false));
                product_into(a, b, None, &out, Write::Overwrite, method)?;
            }
        }
        if let Some([here, before]) = &mut dcolumns {
            let params = DecompDenseParams {
                columns: here.ptr(),
                before: if index > 0 { before.ptr() } else { DevicePtr::NULL },
                ..pass.params
            };
            // Safety: as above; the chunk before left its gradients in the other tensor.
            unsafe { dense::input_gradient(launcher, dtype, &params)? };
            std::mem::swap(here, before);
        }
    }
    if weights.contains(&true) {
        // Safety: as above.
        unsafe { dense::weight_gradient(launcher, &pass.params)? };
    }
    Ok(())
}
