use x2ct::autograd::Op;
use x2ct::ct::{Affine, AxisCodes, Geometry, Projection, View};
use x2ct::kernels::Write;
use x2ct::ops::drr::{LineIntegral, MeanProjection, Projector, Quantity, Variant};
use x2ct::ops::volume::DeviceVolume;
use x2ct::tensor::{DType, Tensor};
use x2ct::{Device, Result};

use super::{Case, random, size};

pub fn cases(device: &Device) -> Result<Vec<Case>> {
    let [nx, ny, nz] = if device.is_host() { [128, 128, 64] } else { [480, 480, 240] };
    let shape = [nx, ny, nz];
    let voxels = nx * ny * nz;
    let affine = Affine::centred(AxisCodes::LPS, [360.0 / nx as f64, 360.0 / ny as f64, 360.0 / nz as f64], shape)?;
    let hu: Vec<i16> = random(1, voxels).iter().map(|v| (v * 900.0) as i16).collect();
    let mut cases = Vec::new();
    let side = size(device, 224, 64);
    let cone = |angle: usize, pixels: usize| {
        let geometry = Geometry::Cone { sdd: 1800.0, sod: 1500.0 };
        let view = if angle % 2 == 0 { Projection::Ap } else { Projection::Lateral };
        View::standard(view, geometry, affine.centre(shape), 432.0 / pixels as f64, [pixels; 2])
    };
    for (count, side) in [(1, side), (16, side), (1, size(device, 1024, 128))] {
        let views = (0..count).map(|i| cone(i, side)).collect::<Result<Vec<_>>>()?;
        for projector in [Projector::Siddon, Projector::Trilinear] {
            for variant in [Variant::Naive, Variant::Slab] {
                let volume = DeviceVolume::from_i16(device, &hu, shape, (1.0, 0.0))?;
                let views = View::upload(device, &views, &affine)?;
                let quantity = Quantity::Attenuation { mu_water: 0.02 };
                let op = LineIntegral { quantity, variant, ..LineIntegral::new(views, projector) };
                cases.push(Case {
                    family: "drr",
                    name: format!("{projector:?} {variant:?} {count} cone views {side}x{side} of {nx}x{ny}x{nz} int16"),
                    bytes: (voxels * 2 + count * side * side * 4) as u64,
                    flops: 0,
                    run: Box::new(move || op.project(&volume).map(drop)),
                });
            }
        }
    }
    let x = Tensor::from_slice(device, [nz, ny, nx], DType::F32, &random(2, voxels))?;
    for projector in [Projector::Siddon, Projector::Trilinear] {
        let op = LineIntegral::new(View::upload(device, &[cone(0, side)?], &affine)?, projector);
        let (image, x) = (op.forward(&[&x])?.0, x.clone());
        let gradient = Tensor::empty(device, x.shape(), DType::F32, "gradient")?;
        cases.push(Case {
            family: "drr",
            name: format!("{projector:?} adjoint 1 cone view {side}x{side} of {nx}x{ny}x{nz} f32"),
            bytes: (voxels * 24 + side * side * 8) as u64,
            flops: 0,
            run: Box::new(move || op.adjoint(&x, None, &image, &gradient, Write::Overwrite)),
        });
    }
    for side in [64, nx] {
        let shape = if side == 64 { [64; 3] } else { shape };
        let voxels = shape.iter().product::<usize>();
        let volume = DeviceVolume::from_i16(device, &hu[..voxels], shape, (1.0, 0.0))?;
        let op = MeanProjection::anterior_posterior(None);
        cases.push(Case {
            family: "drr",
            name: format!("mean HU of {}x{}x{} int16", shape[0], shape[1], shape[2]),
            bytes: (voxels * 2 + shape[0] * shape[2] * 4) as u64,
            flops: 0,
            run: Box::new(move || op.project(&volume).map(drop)),
        });
    }
    Ok(cases)
}
