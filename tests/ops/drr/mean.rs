use x2ct::autograd::Tape;
use x2ct::ops::drr::{ImageAxis, MeanProjection};
use x2ct::ops::volume::DeviceVolume;
use x2ct::tensor::{DType, Tensor};

use crate::support::{assert_close, devices, host, normal, round_bf16};

/// Resize as PyTorch does, then the mean, in f64.
fn mean_f64(hu: &[f64], shape: [usize; 3], to: [usize; 3], op: &MeanProjection) -> Vec<f64> {
    let resized = super::super::resample::trilinear_f64(hu, shape, to);
    let rows = to[op.row.axis];
    let columns = to[op.column.axis];
    let mut image = vec![0.0; rows * columns];
    for (r, c) in (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c))) {
        for k in 0..to[op.sum] {
            let mut at = [0; 3];
            at[op.row.axis] = if op.row.flip { rows - 1 - r } else { r };
            at[op.column.axis] = if op.column.flip { columns - 1 - c } else { c };
            at[op.sum] = k;
            image[r * columns + c] += resized[at[0] + to[0] * (at[1] + to[1] * at[2])] / to[op.sum] as f64;
        }
    }
    image
}

#[test]
fn mean_projections_agree_with_the_mean_of_the_resized_volume() {
    let axis = |axis, flip| ImageAxis { axis, flip };
    let lateral = MeanProjection { sum: 0, column: axis(1, false), ..MeanProjection::anterior_posterior(None) };
    let turned = MeanProjection { sum: 2, row: axis(0, true), column: axis(1, true), ..lateral.clone() };
    for (name, device) in devices() {
        for (shape, to) in [
            ([1, 1, 1], [1, 1, 1]),
            ([3, 130, 4], [3, 130, 4]),
            ([17, 23, 5], [12, 16, 13]),
            ([33, 9, 7], [33, 20, 9]),
            ([8, 31, 16], [1, 1, 2]),
        ] {
            let n: usize = shape.iter().product();
            let stored: Vec<i16> = normal(9, 2 * n).iter().map(|v| (v * 700.0 - 100.0) as i16).collect();
            let hu: Vec<f64> = stored.iter().map(|&v| (2.0 * v as f64 + 24.0).clamp(-1000.0, 1000.0)).collect();
            for op in [MeanProjection::anterior_posterior(None), lateral.clone(), turned.clone()] {
                let op = MeanProjection { to: Some(to), scale: (2.0, 24.0), ..op };
                let volume = DeviceVolume::from_i16(&device, &stored, shape, op.scale).unwrap();
                let image = op.project(&volume).unwrap();
                let want: Vec<f64> = (0..2).flat_map(|b| mean_f64(&hu[b * n..][..n], shape, to, &op)).collect();
                let got = image.to_vec().unwrap();
                let most = got.iter().zip(&want).map(|(&g, w)| (g as f64 - w).abs()).fold(0.0, f64::max);
                assert!(most <= 1e-3, "{name} {shape:?} {to:?} {op:?}: {most:.2e} HU");
            }
        }
    }
}

#[test]
fn mean_projections_have_their_transpose_for_gradient() {
    for (name, device) in devices() {
        for (shape, to) in [([5, 7, 11], [5, 7, 11]), ([6, 9, 4], [9, 5, 7]), ([13, 2, 8], [4, 6, 3])] {
            let n: usize = shape.iter().product();
            let op = MeanProjection { to: Some(to), scale: (1.5, 10.0), ..MeanProjection::anterior_posterior(None) };
            let x: Vec<f32> = normal(11, 2 * n).iter().map(|v| v * 500.0).collect();
            // One voxel at a time moves the images by its column of the matrix: linear where the clip does not act.
            let inside = |v: f32| (1.5 * v + 10.0).abs() < 1000.0;
            let y = normal(12, 2 * to[0] * to[2]);
            let mut want = Vec::new();
            for b in 0..2 {
                for v in 0..n {
                    let mut unit = vec![0.0; n];
                    unit[v] = if inside(x[b * n + v]) { 1.5 } else { 0.0 };
                    let image = mean_f64(&unit, shape, to, &op);
                    want.push(image.iter().zip(&y[b * to[0] * to[2]..]).map(|(a, &b)| a * b as f64).sum::<f64>());
                }
            }
            for (dtype, bound) in [(DType::F32, 1e-5), (DType::Bf16, 4e-3)] {
                let rounded = round_bf16(&x);
                if dtype == DType::Bf16 && rounded.iter().zip(&x).any(|(&a, &b)| inside(a) != inside(b)) {
                    continue;
                }
                let tape = Tape::recording();
                let tensor = Tensor::from_slice(&device, [2, shape[2], shape[1], shape[0]], dtype, &x).unwrap();
                let leaf = tape.leaf(&tensor);
                let image = tape.apply(op.clone(), &[&leaf]).unwrap();
                let upstream = Tensor::from_slice(&device, image.tensor().shape(), DType::F32, &y).unwrap();
                let gradients = tape.backward_from(&[(&image, &upstream)]).unwrap();
                let got = gradients.get(&leaf).unwrap().to_vec().unwrap();
                assert_close(&format!("{name} {shape:?} {to:?} {}", dtype.name()), &got, &want, bound);
            }
        }
    }
}

#[test]
fn mean_projection_axes_must_be_three() {
    let device = host(Default::default());
    let op = MeanProjection { sum: 2, ..MeanProjection::anterior_posterior(None) };
    let volume = DeviceVolume::from_i16(&device, &[0; 8], [2, 2, 2], (1.0, 0.0)).unwrap();
    assert!(op.project(&volume).unwrap_err().to_string().contains("not the three axes"));
    assert!(DeviceVolume::from_i16(&device, &[0; 9], [2, 2, 2], (1.0, 0.0)).is_err());
    assert!(DeviceVolume::from_i16(&device, &[0; 8], [2, 2, 2], (f32::NAN, 0.0)).is_err());
}
