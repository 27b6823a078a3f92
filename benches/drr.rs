use std::rc::Rc;

use x2ct::autograd::Op;
use x2ct::ct::{Affine, AxisCodes, Geometry, Projection, View};
use x2ct::kernels::Write;
use x2ct::ops::drr::{LineIntegral, MeanProjection, Projector, Quantity, Variant};
use x2ct::ops::volume::DeviceVolume;
use x2ct::tensor::{DType, Tensor};
use x2ct::{Device, Result};

use super::{Case, Each, brief, random, size, small};

pub fn cases(device: &Device, each: &mut Each) -> Result<()> {
    let [nx, ny, nz] = match (brief(), small(device)) {
        (true, _) => [64; 3],
        (_, true) => [128, 128, 64],
        _ => [480, 480, 240],
    };
    let shape = [nx, ny, nz];
    let voxels = nx * ny * nz;
    let affine = Affine::centred(AxisCodes::LPS, [360.0 / nx as f64, 360.0 / ny as f64, 360.0 / nz as f64], shape)?;
    // A body of noise in air, which fills about half of a chest CT.
    let hu: Vec<i16> = random(1, voxels)
        .iter()
        .enumerate()
        .map(|(i, v)| {
            let across = |at: usize, n: usize| (2.0 * (at as f32 + 0.5) / n as f32 - 1.0).powi(2);
            let inside = across(i % nx, nx) + 1.6 * across(i / nx % ny, ny) < 0.95;
            if inside { (v * 900.0) as i16 } else { -1000 }
        })
        .collect();
    let cone = |view: Projection, pixels: usize| {
        let geometry = Geometry::Cone { sdd: 1800.0, sod: 1500.0 };
        View::standard(view, geometry, affine.centre(shape), 432.0 / pixels as f64, [pixels; 2])
    };
    let side = size(device, 224, 64);
    let large = size(device, 1024, 128);
    let (ap, both) = (vec![Projection::Ap], vec![Projection::Ap, Projection::Lateral]);
    let sixteen: Vec<Projection> = both.iter().cycle().take(16).copied().collect();
    let runs = [
        ("1 view AP", ap.clone(), side),
        ("1 view lateral", vec![Projection::Lateral], side),
        ("2 views AP and lateral", both, side),
        ("16 views", sixteen, side),
        ("1 view AP", ap, large),
    ];
    let volume = Rc::new(DeviceVolume::from_i16(device, &hu, shape, (1.0, 0.0))?);
    let runs = if brief() { &runs[2..3] } else { &runs[..] };
    for (what, projections, side) in runs {
        let side = *side;
        let views = projections.iter().map(|&p| cone(p, side)).collect::<Result<Vec<_>>>()?;
        for projector in Projector::ALL {
            // Variant, skipping air, by four along x, millimetres of a trilinear step where they are not the default: these make
            // 500 samples across the volume. A processor runs the naive kernel and its default.
            let ways = [
                (Variant::Naive, false, false, None),
                (Variant::Slab, true, false, None),
                (Variant::Slab, false, false, None),
                (Variant::Slab, false, true, None),
                (Variant::Split, false, false, None),
                (Variant::Split, true, true, None),
                (Variant::Slab, false, false, Some(0.72)),
            ];
            let ways = &ways[..if device.is_host() { 2 } else { ways.len() }];
            for &(variant, skip_air, by_four, step) in ways {
                if step.is_some() && (small(device) || projector != Projector::Trilinear) {
                    continue;
                }
                let volume = volume.clone();
                let op = LineIntegral {
                    quantity: Quantity::Attenuation { mu_water: 0.02 },
                    variant,
                    skip_air: Some(skip_air),
                    by_four,
                    step,
                    ..LineIntegral::new(View::upload(device, &views, &affine)?, projector)
                };
                let how = [(skip_air, " skipping air"), (by_four, " by four")];
                let mut how: String = how.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
                how.extend(step.map(|step| format!(" step {step}")));
                each(Case {
                    family: "drr",
                    name: format!("{projector:?} {variant:?}{how} cone {side}x{side} of {nx}x{ny}x{nz} int16, {what}"),
                    bytes: (voxels * 2 * (1 + usize::from(skip_air)) + views.len() * side * side * 4) as u64,
                    flops: 0,
                    run: Box::new(move || op.project(&volume).map(drop)),
                })?;
            }
        }
    }
    let x = Tensor::from_slice(device, [nz, ny, nx], DType::F32, &random(2, voxels))?;
    for projector in Projector::ALL {
        let op = LineIntegral::new(View::upload(device, &[cone(Projection::Ap, side)?], &affine)?, projector);
        let (image, x) = (op.forward(&[&x])?.0, x.clone());
        let gradient = Tensor::empty(device, x.shape(), DType::F32, "gradient")?;
        let (pose, upstream, volume) = (op.clone(), image.clone(), DeviceVolume::from_tensor(&x, (1.0, 0.0))?);
        each(Case {
            family: "drr",
            name: format!("{projector:?} adjoint AP cone {side}x{side} of {nx}x{ny}x{nz} f32"),
            bytes: (voxels * 24 + side * side * 8) as u64,
            flops: 0,
            run: Box::new(move || op.adjoint(&x, None, &image, &gradient, Write::Overwrite)),
        })?;
        each(Case {
            family: "drr",
            name: format!("{projector:?} pose gradient AP cone {side}x{side} of {nx}x{ny}x{nz} f32"),
            bytes: (voxels * 4 + side * side * (4 + 2 * 24)) as u64,
            flops: 0,
            run: Box::new(move || pose.view_gradients(&volume, None, &upstream).map(drop)),
        })?;
    }
    for side in if brief() { vec![64] } else { vec![64, nx] } {
        let shape = if side == 64 { [64; 3] } else { shape };
        let voxels = shape.iter().product::<usize>();
        let volume = DeviceVolume::from_i16(device, &hu[..voxels], shape, (1.0, 0.0))?;
        let op = MeanProjection::anterior_posterior(None);
        each(Case {
            family: "drr",
            name: format!("mean HU of {}x{}x{} int16", shape[0], shape[1], shape[2]),
            bytes: (voxels * 2 + shape[0] * shape[2] * 4) as u64,
            flops: 0,
            run: Box::new(move || op.project(&volume).map(drop)),
        })?;
    }
    Ok(())
}
