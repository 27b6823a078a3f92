//! The dense decomposed convolution by matrix products.

use super::{Destinations, Inputs};
use crate::Result;
use crate::kernels::Write;
use crate::kernels::decomp_conv::{self as kernel, DecompConvParams, DecompConvShape};
use crate::ops::gemm::{Method, Operand, product_into};
use crate::ops::pointwise::cast;
use crate::tensor::Tensor;

/// The weights as matrices `[O, I k]` in x's type.
fn weight_matrices(shape: &DecompConvShape, inputs: &Inputs) -> Result<[Tensor; 3]> {
    let matrix = |w: &Tensor| cast(w, inputs.x.dtype())?.reshape([shape.out_channels, shape.column_rows()]);
    let [a, b, c] = inputs.weights;
    Ok([matrix(a)?, matrix(b)?, matrix(c)?])
}

/// The matrix `[O, E]` of one branch and sample.
fn branch_matrix(shape: &DecompConvShape, branches: &Tensor, axis: usize, sample: usize) -> Result<Tensor> {
    let rows = (axis * shape.batch + sample) * shape.out_channels;
    branches.view(rows * shape.out_voxels(), [shape.out_channels, shape.out_voxels()])
}

/// z of a dense convolution: a product a sample and axis.
pub(super) fn branches(
    shape: &DecompConvShape,
    inputs: &Inputs,
    mut params: DecompConvParams,
    z: &Tensor,
    method: Method,
) -> Result<()> {
    let (device, dtype) = (inputs.x.device(), inputs.x.dtype());
    let weights = weight_matrices(shape, inputs)?;
    let columns = Tensor::empty(device, [shape.column_rows(), shape.out_voxels()], dtype, "columns")?;
    params.columns = columns.ptr();
    for sample in 0..shape.batch {
        for (axis, weight) in weights.iter().enumerate() {
            (params.sample, params.axis) = (sample as u64, axis as u32);
            // Safety: x and the columns are live and of the sizes in `shape`.
            unsafe { kernel::columns(device.launcher(), dtype, &params)? };
            let (a, b) = (Operand::new(weight, false), Operand::new(&columns, false));
            product_into(a, b, None, &branch_matrix(shape, z, axis, sample)?, Write::Overwrite, method)?;
        }
    }
    Ok(())
}

/// dw and dx of a dense convolution from dz.
pub(super) fn gradients(
    shape: &DecompConvShape,
    inputs: &Inputs,
    mut params: DecompConvParams,
    dz: &Tensor,
    destinations: &Destinations,
    method: Method,
) -> Result<()> {
    let (device, dtype) = (inputs.x.device(), inputs.x.dtype());
    let weights = weight_matrices(shape, inputs)?;
    let (rows, voxels) = (shape.column_rows(), shape.out_voxels());
    let columns = Tensor::empty(device, [rows, voxels], dtype, "columns")?;
    let dcolumns = match destinations.x {
        Some(_) => Some(Tensor::empty(device, [3, rows, voxels], dtype, "gradient of the columns")?),
        None => None,
    };
    for sample in 0..shape.batch {
        params.sample = sample as u64;
        for (axis, weight) in weights.iter().enumerate() {
            let dz = branch_matrix(shape, dz, axis, sample)?;
            if let Some((dw, write)) = &destinations.weights[axis] {
                (params.axis, params.columns) = (axis as u32, columns.ptr());
                // Safety: x and the columns are live and of the sizes in `shape`.
                unsafe { kernel::columns(device.launcher(), dtype, &params)? };
                let write = if sample == 0 { *write } else { Write::Accumulate };
                let (a, b) = (Operand::new(&dz, false), Operand::new(&columns, true));
                product_into(a, b, None, dw, write, method)?;
            }
            if let Some(dcolumns) = &dcolumns {
                let (a, b) = (Operand::new(weight, true), Operand::new(&dz, false));
                product_into(a, b, None, &dcolumns.rows(axis, 1)?, Write::Overwrite, method)?;
            }
        }
        if let Some(dcolumns) = &dcolumns {
            params.columns = dcolumns.ptr();
            // Safety: dx and the gradients of the columns are live and of the sizes in `shape`.
            unsafe { kernel::dense_input_gradient(device.launcher(), dtype, &params)? };
        }
    }
    Ok(())
}
