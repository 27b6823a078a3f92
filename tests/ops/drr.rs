use x2ct::autograd::{Op, Tape, check_gradients};
use x2ct::ct::{Affine, View};
use x2ct::device::ThreadOrder;
use x2ct::kernels::Write;
use x2ct::ops::drr::{LineIntegral, Projector, Quantity, Response, Variant, Views};
use x2ct::ops::volume::DeviceVolume;
use x2ct::tensor::{DType, Tensor};

use crate::support::{assert_close, devices, host, normal, on_host_and_cuda, round_bf16};

mod mean;
mod pose;
mod reference;

use reference::{Case, STEP, operator, random_case, reference as images_f64, terms, volume, worst};

#[test]
fn line_integrals_agree_with_f64_on_200_geometries() {
    let device = host(Default::default());
    let (mut crossed, mut most) = (0, 0.0f64);
    for seed in 0..200 {
        let case = random_case(seed);
        // Where either voxel is right, all voxels are equal: what counts then is the length.
        let n = case.shape.iter().product();
        let voxels = if case.degenerate { vec![1.5; n] } else { normal(seed, n) };
        for projector in Projector::ALL {
            // On a diagonal rounding decides which axis is the steepest.
            if projector == Projector::Joseph && seed % 8 == 6 {
                continue;
            }
            // In a face of the volume a ray may count as inside or outside: it may match a ray on either side.
            let sides = if case.degenerate {
                vec![(-1.0, -1.0), (-1.0, 1.0), (1.0, -1.0), (1.0, 1.0)]
            } else {
                vec![(0.0, 0.0)]
            };
            let wants: Vec<_> = sides
                .into_iter()
                .map(|(u, v)| {
                    let View { row, column, origin, .. } = case.view;
                    let origin = std::array::from_fn(|a| origin[a] + 1e-8 * (u * row[a] + v * column[a]));
                    let moved = Case { view: View { origin, ..case.view }, ..case };
                    images_f64(&moved, projector, &voxels, STEP as f32 as f64)
                })
                .collect();
            for variant in Variant::ALL {
                let op = operator(&device, &case, projector, variant);
                let (image, _) = op.forward(&[&volume(&device, case.shape, &voxels, DType::F32)]).unwrap();
                for (i, &got) in image.to_vec().unwrap().iter().enumerate() {
                    let nearest = wants.iter().map(|want| worst(projector, &[got], &want[i..=i])).fold(9.0, f64::min);
                    assert!(nearest <= 1e-5, "seed {seed} {projector:?} {variant:?} ray {i}: {nearest:.2e}");
                    most = most.max(nearest);
                }
            }
            crossed += wants[0].iter().filter(|w| w.1 > 0.0).count();
        }
    }
    println!("{crossed} rays, largest |error| / sum(|v| L) = {most:.2e}");
    assert!(crossed > 2000, "{crossed}");
}

/// The size of a chest CT is where rounding has the longest way to grow.
#[test]
fn long_rays_keep_their_accuracy() {
    let device = host(Default::default());
    let shape = [384, 250, 70];
    let affine = Affine::new([[-0.7, 0.0, 0.0, 134.0], [0.0, -0.7, 0.01, 87.0], [0.0, 0.02, 2.5, -80.0]]).unwrap();
    let voxels = normal(3, shape.iter().product());
    let x = volume(&device, shape, &voxels, DType::F32);
    for (source, origin, row, column) in [
        ([31.0, 1500.0, 20.0], [120.0, -300.0, 80.0], [0.0, 0.0, -9.7], [-11.3, 0.3, 0.0]),
        ([1500.0, 10.0, 3.0], [-300.0, 80.0, 80.0], [0.0, 0.1, -9.7], [0.0, -8.3, 0.0]),
        ([900.0, 900.0, 300.0], [-250.0, -250.0, 10.0], [1.0, 0.0, -7.7], [6.1, -6.3, 0.0]),
    ] {
        let case = Case { shape, affine, view: View::cone(source, origin, row, column, [15, 17]), degenerate: false };
        for projector in Projector::ALL {
            let want = images_f64(&case, projector, &voxels, STEP as f32 as f64);
            for variant in Variant::ALL {
                let (image, _) = operator(&device, &case, projector, variant).forward(&[&x]).unwrap();
                let error = worst(projector, &image.to_vec().unwrap(), &want);
                println!("{projector:?} {variant:?}: {error:.2e}");
                assert!(error <= 1e-5, "{projector:?} {variant:?}: {error:.2e}");
            }
        }
    }
}

#[test]
fn the_adjoint_is_the_transpose_on_100_geometries() {
    on_host_and_cuda(ThreadOrder::Forward, |device| {
        let mut most = 0.0f64;
        for seed in 200..300 {
            let case = random_case(seed);
            let n = case.shape.iter().product();
            let [rows, columns] = case.view.size;
            let (x, y) = (normal(seed, n), normal(seed + 1, rows * columns));
            for projector in Projector::ALL {
                for variant in Variant::ALL {
                    let op = operator(&device, &case, projector, variant);
                    let tensor = volume(&device, case.shape, &x, DType::F32);
                    let (image, _) = op.forward(&[&tensor]).unwrap();
                    let upstream = Tensor::from_slice(&device, [1, 1, rows, columns], DType::F32, &y).unwrap();
                    let gradient = Tensor::empty(&device, tensor.shape(), DType::F32, "gradient").unwrap();
                    op.adjoint(&tensor, None, &upstream, &gradient, Write::Overwrite).unwrap();
                    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| a as f64 * b as f64).sum::<f64>();
                    let size = |a: &[f32]| dot(a, a).sqrt();
                    let (image, gradient) = (image.to_vec().unwrap(), gradient.to_vec().unwrap());
                    let (forward, backward) = (dot(&image, &y), dot(&x, &gradient));
                    let scale = (size(&image) * size(&y)).max(1e-30);
                    most = most.max((forward - backward).abs() / scale);
                    assert!((forward - backward).abs() <= 1e-5 * scale, "{seed}: {forward} {backward}");
                }
            }
        }
        println!("largest |<Ax, y> - <x, A'y>| / (|Ax| |y|) = {most:.2e}");
    });
}

#[test]
fn gradients_agree_with_f64_in_every_thread_order_and_type() {
    for (name, device) in devices() {
        for seed in [3u64, 5, 7, 12] {
            let case = random_case(seed);
            let n: usize = case.shape.iter().product();
            let [rows, columns] = case.view.size;
            let (x, y) = (round_bf16(&normal(seed, n)), normal(seed + 1, rows * columns));
            for projector in Projector::ALL {
                let mut want = vec![0.0; n];
                for (i, &up) in y.iter().enumerate() {
                    for (v, w) in terms(&case, projector, i / columns, i % columns, STEP as f32 as f64) {
                        want[v] += w * up as f64;
                    }
                }
                for (dtype, bound) in [(DType::F32, 1e-5), (DType::Bf16, 4e-3)] {
                    let op = operator(&device, &case, projector, Variant::Slab);
                    let tape = Tape::recording();
                    let leaf = tape.leaf(&volume(&device, case.shape, &x, dtype));
                    let image = tape.apply(op, &[&leaf]).unwrap();
                    let upstream = Tensor::from_slice(&device, [1, 1, rows, columns], DType::F32, &y).unwrap();
                    let gradients = tape.backward_from(&[(&image, &upstream)]).unwrap();
                    let got = gradients.get(&leaf).unwrap().to_vec().unwrap();
                    assert_close(&format!("{name} {seed} {projector:?} {}", dtype.name()), &got, &want, bound);
                }
            }
        }
    }
}

#[test]
fn images_and_gradients_are_the_same_bits_in_every_thread_order() {
    let case = random_case(4);
    let n: usize = case.shape.iter().product();
    let [rows, columns] = case.view.size;
    for projector in Projector::ALL {
        let mut first: Option<(Vec<f32>, Vec<f32>)> = None;
        for (name, device) in devices().into_iter().filter(|(_, d)| d.is_host()) {
            let op = operator(&device, &case, projector, Variant::Slab);
            let tensor = volume(&device, case.shape, &normal(1, n), DType::F32);
            let (image, _) = op.forward(&[&tensor]).unwrap();
            let up =
                Tensor::from_slice(&device, [1, 1, rows, columns], DType::F32, &normal(2, rows * columns)).unwrap();
            let gradient = Tensor::empty(&device, tensor.shape(), DType::F32, "gradient").unwrap();
            op.adjoint(&tensor, None, &up, &gradient, Write::Overwrite).unwrap();
            let found = (image.to_vec().unwrap(), gradient.to_vec().unwrap());
            assert_eq!(*first.get_or_insert_with(|| found.clone()), found, "{name}");
        }
    }
}

#[test]
fn batches_views_and_storage_types_agree_with_single_images() {
    let shape = [9, 7, 5];
    let affine = Affine::new([[-1.5, 0.0, 0.0, 6.0], [0.0, -1.2, 0.1, 4.0], [0.0, 0.2, 2.0, -5.0]]).unwrap();
    let views = [
        View::cone([3.0, 400.0, 2.0], [9.0, -90.0, 8.0], [0.0, 0.0, -1.7], [-1.4, 0.0, 0.0], [11, 13]),
        View::parallel([-1.0, 0.1, 0.2], [0.0, 8.0, 8.0], [0.0, 0.0, -1.5], [0.0, -1.4, 0.0], [11, 13]),
    ];
    let n: usize = shape.iter().product();
    let stored: Vec<i16> = normal(5, 3 * n).iter().map(|v| (v * 400.0 - 300.0) as i16).collect();
    let scale = (2.0, -1024.0);
    let quantity = Quantity::Attenuation { mu_water: 0.02 };
    let mu: Vec<f32> =
        stored.iter().map(|&v| (0.02 * (1.0 + (2.0 * v as f64 - 1024.0) / 1000.0)).max(0.0) as f32).collect();
    assert!(mu.contains(&0.0) && mu.iter().any(|&v| v > 0.01));
    for (name, device) in devices() {
        let all = View::upload(&device, &views, &affine).unwrap();
        for projector in Projector::ALL {
            let mut want = Vec::new();
            for b in 0..3 {
                for view in views {
                    let case = Case { shape, affine, view, degenerate: false };
                    let image = images_f64(&case, projector, &mu[b * n..][..n], STEP as f32 as f64);
                    want.extend(image.iter().map(|w| w.0));
                }
            }
            for variant in Variant::ALL {
                let step = Some(STEP as f32);
                let op = LineIntegral { quantity, scale, variant, step, ..LineIntegral::new(all.clone(), projector) };
                let ints = DeviceVolume::from_i16(&device, &stored, shape, scale).unwrap();
                let image = op.project(&ints).unwrap();
                assert_eq!(image.shape()[..], [3, 2, 11, 13]);
                let what = format!("{name} {projector:?} {variant:?}");
                assert_close(&what, &image.to_vec().unwrap(), &want, 1e-5);
                let skipping = LineIntegral { skip_air: Some(true), ..op.clone() };
                let image = skipping.project(&ints).unwrap();
                assert_close(&format!("{what} without air"), &image.to_vec().unwrap(), &want, 1e-5);
                let floats: Vec<f32> = stored.iter().map(|&v| v as f32).collect();
                for (dtype, bound) in [(DType::F32, 1e-5), (DType::Bf16, 4e-3)] {
                    let tensor = Tensor::from_slice(&device, [3, 5, 7, 9], dtype, &floats).unwrap();
                    let (image, _) = op.forward(&[&tensor]).unwrap();
                    assert_close(&format!("{what} {}", dtype.name()), &image.to_vec().unwrap(), &want, bound);
                }
            }
        }
    }
}

#[test]
fn gradients_pass_the_clamp_only_where_it_does_not_act() {
    let device = host(Default::default());
    let case = random_case(5);
    let n: usize = case.shape.iter().product();
    let quantity = Quantity::Attenuation { mu_water: 0.02 };
    for projector in Projector::ALL {
        let op = LineIntegral { quantity, scale: (1.0, -1000.0), ..operator(&device, &case, projector, Variant::Slab) };
        // A step of the difference must not carry a voxel across the clamp at 0.
        let x: Vec<f32> = normal(8, n).iter().map(|&v| v * 300.0 + 30.0f32.copysign(v)).collect();
        let shape = vec![case.shape[2], case.shape[1], case.shape[0]].into();
        for report in check_gradients(&device, &op, &[(shape, x)], 1e-2).unwrap() {
            assert!(report.relative_l2 < 1e-3, "{projector:?} {report:?}");
        }
    }
}

#[test]
fn a_nan_shows_and_bad_geometry_is_refused() {
    let device = host(Default::default());
    let case = random_case(7);
    let n: usize = case.shape.iter().product();
    for projector in Projector::ALL {
        let op = LineIntegral {
            quantity: Quantity::Attenuation { mu_water: 0.02 },
            ..operator(&device, &case, projector, Variant::Slab)
        };
        let tensor = volume(&device, case.shape, &vec![f32::NAN; n], DType::F32);
        let (image, _) = op.forward(&[&tensor]).unwrap();
        assert!(image.to_vec().unwrap().iter().any(|v| v.is_nan()));
        let gradient = Tensor::empty(&device, tensor.shape(), DType::F32, "gradient").unwrap();
        let mut y = vec![0.5; image.numel()];
        y[0] = f32::NAN;
        let upstream = Tensor::from_slice(&device, image.shape(), DType::F32, &y).unwrap();
        op.adjoint(
            &volume(&device, case.shape, &vec![1.0; n], DType::F32),
            None,
            &upstream,
            &gradient,
            Write::Overwrite,
        )
        .unwrap();
        assert!(gradient.to_vec().unwrap().iter().all(|v| v.is_nan()));
        let bad = LineIntegral { step: Some(0.0), ..op.clone() };
        assert!(bad.forward(&[&tensor]).unwrap_err().to_string().contains("step"));
        let flat = Tensor::zeros(&device, [3, 4], DType::F32, "flat").unwrap();
        assert!(op.forward(&[&flat]).unwrap_err().to_string().contains("neither [Z, Y, X] nor [B, Z, Y, X]"));
        let empty = Tensor::zeros(&device, [0, 3, 4, 5], DType::F32, "empty").unwrap();
        assert!(op.forward(&[&empty]).unwrap_err().to_string().contains("batch is empty"));
    }
    let upload = |view: View| View::upload(&device, &[view], &case.affine).err().unwrap().to_string();
    let direction = [0.0; 3];
    assert!(upload(View::parallel(direction, [0.0; 3], [1.0; 3], [2.0; 3], [2, 2])).contains("direction is zero"));
    let view = View::cone([f64::NAN; 3], [0.0; 3], [1.0; 3], [2.0; 3], [2, 2]);
    assert!(upload(view).contains("not finite"));
    assert!(upload(View { size: [0, 2], ..case.view }).contains("0 x 2 pixels"));
    assert!(View::upload(&device, &[], &case.affine).err().unwrap().to_string().contains("there are none"));
}

/// A body in air: what is skipped must not be missed, at any pose, wherever bricks end.
#[test]
fn air_is_skipped_without_changing_the_image() {
    on_host_and_cuda(ThreadOrder::Forward, |device| {
        let quantity = Quantity::Attenuation { mu_water: 0.02 };
        let mut crossed = 0;
        for seed in 300..340 {
            let mut case = random_case(seed);
            case.shape = [20 + (seed % 17) as usize, 9 + (seed % 23) as usize, 17];
            let [nx, ny, nz] = case.shape;
            // Air but for a few voxels.
            let mut hu = vec![-1000.0f32; nx * ny * nz];
            for (i, v) in normal(seed, 60).iter().enumerate() {
                let at = (v.abs() * 1e4) as usize % hu.len();
                hu[at] = 10.0 * i as f32;
            }
            // The storage type changes with the case: each has a kernel of its own that looks for air.
            let dtype = if seed % 2 == 0 { DType::F32 } else { DType::Bf16 };
            for projector in Projector::ALL {
                let tensor = volume(&device, case.shape, &hu, dtype);
                let image = |skip_air: bool, variant| {
                    let op = LineIntegral {
                        quantity,
                        skip_air: Some(skip_air),
                        ..operator(&device, &case, projector, variant)
                    };
                    op.forward(&[&tensor]).unwrap().0.to_vec().unwrap()
                };
                for variant in [Variant::Slab, Variant::Split] {
                    let (all, some) = (image(false, variant), image(true, variant));
                    for (a, b) in all.iter().zip(&some) {
                        assert!((a - b).abs() <= 1e-5 * a.abs() + 1e-7, "{seed} {projector:?} {variant:?}: {a} {b}");
                    }
                    crossed += all.iter().filter(|&&p| p > 0.0).count();
                }
                hu[0] = f32::NAN;
                let tensor = volume(&device, case.shape, &hu, dtype);
                let op = |skip_air| LineIntegral {
                    quantity,
                    skip_air,
                    ..operator(&device, &case, projector, Variant::Slab)
                };
                let nan = |skip_air| {
                    let image = op(Some(skip_air)).forward(&[&tensor]).unwrap().0.to_vec().unwrap();
                    image.iter().map(|v| v.is_nan()).collect::<Vec<_>>()
                };
                assert_eq!(nan(false), nan(true));
                hu[0] = -1000.0;
            }
        }
        assert!(crossed > 100, "{crossed}");
    });
}

#[test]
fn volumes_of_a_batch_may_have_views_of_their_own() {
    let device = host(Default::default());
    let (a, mut b) = (random_case(4), random_case(7));
    b.shape = a.shape;
    b.view.size = a.view.size;
    let n: usize = a.shape.iter().product();
    let [rows, columns] = a.view.size;
    let voxels = normal(1, 2 * n);
    let views = [a.view.in_voxels(&a.affine), b.view.in_voxels(&b.affine)];
    let both = Views::per_volume(&device, &views, 2, a.view.size).unwrap();
    let [x, y, z] = a.shape;
    let tensor = Tensor::from_slice(&device, [2, z, y, x], DType::F32, &voxels).unwrap();
    for projector in Projector::ALL {
        let op = LineIntegral { step: Some(STEP as f32), ..LineIntegral::new(both.clone(), projector) };
        let (image, _) = op.forward(&[&tensor]).unwrap();
        assert_eq!(image.shape()[..], [2, 1, rows, columns]);
        let want: Vec<f64> = [(&a, &voxels[..n]), (&b, &voxels[n..])]
            .into_iter()
            .flat_map(|(case, voxels)| images_f64(case, projector, voxels, STEP as f32 as f64))
            .map(|w| w.0)
            .collect();
        assert_close(&format!("{projector:?}"), &image.to_vec().unwrap(), &want, 1e-5);
    }
    let one = volume(&device, a.shape, &voxels[..n], DType::F32);
    let refused = LineIntegral::new(both, Projector::Joseph).forward(&[&one]).unwrap_err().to_string();
    assert!(refused.contains("are of 2 volumes, not 1"), "{refused}");
    assert!(Views::per_volume(&device, &views, 3, [1, 1]).err().unwrap().to_string().contains("2 for 3 volumes"));
}

#[test]
fn responses_are_beer_and_lamberts_with_their_gradients() {
    let device = host(Default::default());
    let case = random_case(12);
    let n: usize = case.shape.iter().product();
    let x: Vec<f32> = normal(9, n).iter().map(|v| 0.02 + 0.01 * v.abs()).collect();
    let (gain, shift) = (2.5f32, -0.75);
    for projector in Projector::ALL {
        let want: Vec<f64> = images_f64(&case, projector, &x, STEP as f32 as f64).iter().map(|w| w.0).collect();
        assert!(want.iter().any(|&p| p > 0.05));
        let responses: [(Response, fn(f64) -> f64); 3] = [
            (Response::Integral, |p| p),
            (Response::Transmission, |p| (-p).exp()),
            (Response::Absorption, |p| -(-p).exp_m1()),
        ];
        for (response, of) in responses {
            for variant in Variant::ALL {
                let op = LineIntegral { response, gain, shift, ..operator(&device, &case, projector, variant) };
                let (image, _) = op.forward(&[&volume(&device, case.shape, &x, DType::F32)]).unwrap();
                let want: Vec<f64> = want.iter().map(|&p| f64::from(gain) * of(p) + f64::from(shift)).collect();
                assert_close(&format!("{projector:?} {response:?}"), &image.to_vec().unwrap(), &want, 1e-5);
            }
            let op = LineIntegral { response, gain, shift, ..operator(&device, &case, projector, Variant::Slab) };
            let shape = vec![case.shape[2], case.shape[1], case.shape[0]].into();
            for report in check_gradients(&device, &op, &[(shape, x.clone())], 1e-3).unwrap() {
                assert!(report.relative_l2 < 2e-3, "{projector:?} {response:?} {report:?}");
            }
        }
        let op = LineIntegral { response: Response::Absorption, ..operator(&device, &case, projector, Variant::Slab) };
        let tensor = volume(&device, case.shape, &x, DType::F32);
        let (image, _) = op.forward(&[&tensor]).unwrap();
        let refused = op.adjoint(&tensor, None, &image, &tensor, Write::Overwrite).unwrap_err().to_string();
        assert!(refused.contains("needs the integrals"), "{refused}");
    }
}

/// Rays along x read int16 voxels by four where volumes allow it: sizes that do and that do not, as one volume and as the
/// second of two, whose first voxel then lies anywhere in a word.
#[test]
fn int16_volumes_agree_with_f64_along_every_axis() {
    for (name, device) in devices() {
        for shape in [[24, 10, 6], [23, 11, 5], [21, 10, 4]] {
            let n: usize = shape.iter().product();
            let stored: Vec<i16> = normal(11, 2 * n).iter().map(|v| (v * 500.0) as i16).collect();
            let affine = Affine::new([[0.9, 0.02, 0.0, 3.0], [0.0, -1.1, 0.1, 4.0], [0.03, 0.0, 1.7, -5.0]]).unwrap();
            let centre = affine.centre(shape);
            for axis in 0..3 {
                let at = |along: f64, u: f64, v: f64| -> [f64; 3] {
                    let mut p = centre;
                    p[axis] += along;
                    p[(axis + 1) % 3] += u;
                    p[(axis + 2) % 3] += v;
                    p
                };
                let step = |u: f64, v: f64| -> [f64; 3] { std::array::from_fn(|a| at(0.0, u, v)[a] - centre[a]) };
                let view =
                    View::cone(at(300.0, 3.0, -2.0), at(-60.0, -11.3, -9.7), step(1.7, 0.1), step(-0.2, 1.9), [12, 10]);
                let views = View::upload(&device, &[view], &affine).unwrap();
                let volumes = DeviceVolume::from_i16(&device, &stored, shape, (0.5, 3.0)).unwrap();
                let values: Vec<f32> = stored.iter().map(|&v| 0.5 * f32::from(v) + 3.0).collect();
                let case = Case { shape, affine, view, degenerate: false };
                for projector in Projector::ALL {
                    let want: Vec<f64> = [&values[..n], &values[n..]]
                        .into_iter()
                        .flat_map(|v| images_f64(&case, projector, v, STEP as f32 as f64))
                        .map(|w| w.0)
                        .collect();
                    for (variant, by_four) in Variant::ALL.into_iter().flat_map(|v| [(v, false), (v, true)]) {
                        let step = Some(STEP as f32);
                        let op = LineIntegral { variant, step, by_four, ..LineIntegral::new(views.clone(), projector) };
                        let what =
                            format!("{name} {shape:?} along {axis} {projector:?} {variant:?} by four: {by_four}");
                        assert_close(&what, &op.project(&volumes).unwrap().to_vec().unwrap(), &want, 1e-5);
                    }
                }
            }
        }
    }
}
