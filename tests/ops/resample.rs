use x2ct::autograd::{Op, Tape};
use x2ct::ops::drr::ImageAxis;
use x2ct::ops::resample::{Layout, Resample, Variant, resized};
use x2ct::ops::volume::DeviceVolume;
use x2ct::tensor::{DType, Tensor};

use crate::support::{assert_close, devices, host, normal, round_bf16};

/// PyTorch's trilinear, `align_corners=False`, in f64; x fastest.
pub fn trilinear_f64(input: &[f64], from: [usize; 3], to: [usize; 3]) -> Vec<f64> {
    let taps = |axis: usize| -> Vec<(usize, usize, f64)> {
        let scale = from[axis] as f64 / to[axis] as f64;
        (0..to[axis])
            .map(|i| {
                let at = ((i as f64 + 0.5) * scale - 0.5).max(0.0);
                (at as usize, (at as usize + 1).min(from[axis] - 1), at.fract())
            })
            .collect()
    };
    let (xs, ys, zs) = (taps(0), taps(1), taps(2));
    let at = |x: usize, y: usize, z: usize| input[x + from[0] * (y + from[1] * z)];
    let mut out = Vec::with_capacity(to.iter().product());
    for &(z0, z1, wz) in &zs {
        for &(y0, y1, wy) in &ys {
            for &(x0, x1, wx) in &xs {
                let row = |y, z| at(x0, y, z) * (1.0 - wx) + at(x1, y, z) * wx;
                let plane = |z| row(y0, z) * (1.0 - wy) + row(y1, z) * wy;
                out.push(plane(z0) * (1.0 - wz) + plane(z1) * wz);
            }
        }
    }
    out
}

/// The whole operator in f64, step by step.
fn reference(stored: &[f64], shape: [usize; 3], op: &Resample) -> Vec<f64> {
    let from: [usize; 3] = op.axes.map(|a| shape[a.axis]);
    let mut hu = vec![0.0; stored.len()];
    for (i, value) in hu.iter_mut().enumerate() {
        let at = [i % from[0], i / from[0] % from[1], i / from[0] / from[1]];
        let mut source = [0; 3];
        for (a, axis) in op.axes.iter().enumerate() {
            source[axis.axis] = if axis.flip { from[a] - 1 - at[a] } else { at[a] };
        }
        *value = op.hu.0 as f64 * stored[source[0] + shape[0] * (source[1] + shape[1] * source[2])] + op.hu.1 as f64;
        if let Some((low, high)) = op.pre_clip {
            *value = value.clamp(low as f64, high as f64);
        }
    }
    let resized = trilinear_f64(&hu, from, op.to);
    let place = |axis: usize, o: usize| -> Option<usize> {
        let (n, t) = (op.to[axis], op.size[axis]);
        let r = if n >= t { o + (n - t) / 2 } else { o.checked_sub((t - n) / 2)? };
        (r < n).then_some(r)
    };
    let [sx, sy, sz] = op.size;
    let mut out = vec![op.pad as f64; sx * sy * sz];
    for (z, y, x) in (0..sz).flat_map(|z| (0..sy).flat_map(move |y| (0..sx).map(move |x| (z, y, x)))) {
        let (Some(rx), Some(ry), Some(rz)) = (place(0, x), place(1, y), place(2, z)) else { continue };
        let mut v = resized[rx + op.to[0] * (ry + op.to[1] * rz)];
        if let Some((low, high)) = op.window {
            v = v.clamp(low as f64, high as f64);
        }
        let at = match op.layout {
            Layout::Zyx => x + sx * (y + sy * z),
            Layout::Zxy => y + sy * (x + sx * z),
        };
        out[at] = op.scale as f64 * v + op.shift as f64;
    }
    out
}

fn cases() -> Vec<([usize; 3], Resample)> {
    let axis = |axis, flip| ImageAxis { axis, flip };
    let window = |to: [usize; 3], size: [usize; 3]| Resample {
        size,
        pre_clip: Some((-1000.0, 1000.0)),
        window: Some((-1000.0, 200.0)),
        scale: 1.0 / 600.0,
        shift: 400.0 / 600.0,
        pad: -1.0,
        layout: Layout::Zxy,
        hu: (2.0, -1024.0),
        ..Resample::new(to)
    };
    vec![
        ([1, 1, 1], Resample::new([1, 1, 1])),
        ([4, 3, 2], Resample::new([5, 2, 3])),
        ([7, 5, 3], window([7, 5, 3], [9, 4, 3])),
        ([37, 41, 5], window([50, 29, 9], [45, 33, 12])),
        ([70, 33, 4], Resample { layout: Layout::Zxy, ..Resample::new([67, 40, 3]) }),
        (
            [5, 6, 7],
            Resample {
                axes: [axis(2, true), axis(0, false), axis(1, true)],
                pre_clip: None,
                ..window([10, 4, 9], [8, 8, 8])
            },
        ),
        ([9, 2, 11], Resample { hu: (-1.5, 100.0), ..window([5, 5, 5], [3, 7, 5]) }),
    ]
}

fn voxels(n: usize, seed: u64) -> Vec<i16> {
    normal(seed, n).iter().map(|v| (v * 500.0 + 300.0) as i16).collect()
}

#[test]
fn the_size_rule_divides_first_and_truncates() {
    // Published pipelines, and the traps of rounding and of the order of the operations.
    assert_eq!(resized(250, 1.2, 1.5), 199);
    assert_eq!(resized(512, 0.75, 0.75), 512);
    assert_eq!(resized(512, 0.341796875, 0.75), 233);
    assert_eq!(resized(300, 1.0, 1.5), 200);
    assert_eq!(resized(201, 1.0, 1.5), 134);
    assert_eq!(resized(133, 2.5, 1.0), 332);
}

#[test]
fn trilinear_agrees_with_published_values() {
    let want = [
        2.0, 3.08156, 4.67032, 6.61504, 8.52718, 18.97056, 21.82273, 25.2182, 28.77159, 31.99222, 24.58846, 27.05438,
        30.09931, 33.38165, 36.4015, 51.0263, 54.76823, 59.15473, 63.67003, 67.71254, 47.17691, 51.0272, 55.52831,
        60.14825, 64.27583, 83.08204, 87.71375, 93.09126, 98.56848, 103.43286,
    ];
    let input: Vec<f32> = (0..24).map(|i| (i as f64).powf(1.5) as f32).collect();
    for (name, device) in devices() {
        for variant in [Variant::Naive, Variant::Strips] {
            let x = Tensor::from_slice(&device, [2, 3, 4], DType::F32, &input).unwrap();
            let op = Resample { variant, ..Resample::new([5, 2, 3]) };
            let (y, _) = op.forward(&[&x]).unwrap();
            assert_close(&name, &y.to_vec().unwrap(), &want, 1e-6);
        }
    }
}

#[test]
fn every_stage_agrees_with_f64() {
    for (name, device) in devices() {
        for (i, (shape, op)) in cases().into_iter().enumerate() {
            let n: usize = shape.iter().product();
            let stored = voxels(2 * n, i as u64);
            let wide: Vec<f64> = stored.iter().map(|&v| v as f64).collect();
            let want: Vec<f64> = wide.chunks(n).flat_map(|v| reference(v, shape, &op)).collect();
            for variant in [Variant::Naive, Variant::Strips] {
                for (dtype, bound) in [(DType::F32, 1e-6), (DType::Bf16, 4e-3)] {
                    let op = Resample { variant, dtype, ..op.clone() };
                    let what = format!("{name} case {i} {variant:?} {}", dtype.name());
                    let ints = DeviceVolume::from_i16(&device, &stored, shape, op.hu).unwrap();
                    assert_close(&what, &op.apply(&ints).unwrap().to_vec().unwrap(), &want, bound);
                    let floats: Vec<f32> = stored.iter().map(|&v| v as f32).collect();
                    let dims = [2, shape[2], shape[1], shape[0]];
                    let x = Tensor::from_slice(&device, dims, DType::F32, &floats).unwrap();
                    assert_close(&what, &op.forward(&[&x]).unwrap().0.to_vec().unwrap(), &want, bound);
                    let x = Tensor::from_slice(&device, dims, DType::Bf16, &floats).unwrap();
                    let rounded: Vec<f64> = round_bf16(&floats).iter().map(|&v| v as f64).collect();
                    let want: Vec<f64> = rounded.chunks(n).flat_map(|v| reference(v, shape, &op)).collect();
                    let what = format!("{what} of bf16");
                    assert_close(&what, &op.forward(&[&x]).unwrap().0.to_vec().unwrap(), &want, bound);
                }
            }
        }
    }
}

#[test]
fn the_gradient_is_the_transpose() {
    let types = [DType::F32, DType::Bf16];
    for (name, device) in devices() {
        for (i, (shape, op)) in cases().into_iter().enumerate() {
            for (of, to) in types.into_iter().flat_map(|of| types.map(|to| (of, to))) {
                let n: usize = shape.iter().product();
                let stored: Vec<f32> = voxels(n, 20 + i as u64).iter().map(|&v| v as f32).collect();
                let stored = if of == DType::Bf16 { round_bf16(&stored) } else { stored };
                let x: Vec<f64> = stored.iter().map(|&v| v as f64).collect();
                let out = reference(&x, shape, &op);
                let mut y = round_bf16(&normal(30 + i as u64, out.len()));
                // What the result's type rounds to a limit of the window counts as clipped: nothing comes from there.
                if let Some((low, high)) = op.window.filter(|_| to == DType::Bf16) {
                    let bf16 = |v: f64| round_bf16(&[v as f32])[0];
                    let limits = [low, high].map(|v| bf16((op.scale * v + op.shift) as f64));
                    y.iter_mut().zip(&out).filter(|(_, o)| limits.contains(&bf16(**o))).for_each(|(y, _)| *y = 0.0);
                }
                // Central differences of a piecewise linear map, small enough to cross no clip: exact in f64.
                let h = 1e-4;
                let value =
                    |x: &[f64]| -> f64 { reference(x, shape, &op).iter().zip(&y).map(|(a, &b)| a * b as f64).sum() };
                let on_a_limit = |v: f64| {
                    let hu = op.hu.0 as f64 * v + op.hu.1 as f64;
                    op.pre_clip.is_some_and(|(low, high)| hu == low as f64 || hu == high as f64)
                };
                let sampled: Vec<usize> = (0..n).step_by(1 + n / 60).filter(|&v| !on_a_limit(x[v])).collect();
                let want: Vec<f64> = sampled
                    .iter()
                    .map(|&v| {
                        let mut moved = x.clone();
                        moved[v] = x[v] + h;
                        let up = value(&moved);
                        moved[v] = x[v] - h;
                        (up - value(&moved)) / (2.0 * h)
                    })
                    .collect();
                let op = Resample { dtype: to, ..op.clone() };
                let tape = Tape::recording();
                let dims = [shape[2], shape[1], shape[0]];
                let leaf = tape.leaf(&Tensor::from_slice(&device, dims, of, &stored).unwrap());
                let z = tape.apply(op, &[&leaf]).unwrap();
                let upstream = Tensor::from_slice(&device, z.tensor().shape(), to, &y).unwrap();
                let gradients = tape.backward_from(&[(&z, &upstream)]).unwrap();
                let got = gradients.get(&leaf).unwrap().to_vec().unwrap();
                let got: Vec<f32> = sampled.iter().map(|&v| got[v]).collect();
                let bound = if of == DType::Bf16 { 4e-3 } else { 2e-5 };
                assert_close(&format!("{name} case {i} {} to {}", of.name(), to.name()), &got, &want, bound);
            }
        }
    }
}

#[test]
fn bad_requests_are_refused() {
    let device = host(Default::default());
    let volume = DeviceVolume::from_i16(&device, &[0; 8], [2, 2, 2], (1.0, 0.0)).unwrap();
    let refuse = |op: Resample| op.apply(&volume).unwrap_err().to_string();
    assert!(refuse(Resample::new([2, 0, 2])).contains("an axis of 0 voxels"));
    assert!(refuse(Resample::new([2, 40_000, 2])).contains("40000 voxels"));
    assert!(refuse(Resample { window: Some((5.0, 5.0)), ..Resample::new([2; 3]) }).contains("not a range"));
    assert!(refuse(Resample { pre_clip: Some((5.0, f32::NAN)), ..Resample::new([2; 3]) }).contains("not a range"));
    let twice = ImageAxis { axis: 0, flip: false };
    assert!(refuse(Resample { axes: [twice; 3], ..Resample::new([2; 3]) }).contains("each of 0, 1 and 2"));
}
