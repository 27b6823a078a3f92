use x2ct::autograd::{Op, Tape, check_gradients};
use x2ct::ct::{Affine, View};
use x2ct::kernels::Write;
use x2ct::ops::drr::{ImageAxis, LineIntegral, MeanProjection, Projector, Quantity, Variant};
use x2ct::ops::volume::DeviceVolume;
use x2ct::tensor::{DType, Tensor};

use crate::support::{assert_close, devices, host, normal, round_bf16};

/// Uniform numbers from a seed.
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
    fn within(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }
    fn below(&mut self, n: usize) -> usize {
        (self.unit() * n as f64) as usize
    }
    fn vector(&mut self, size: f64) -> [f64; 3] {
        std::array::from_fn(|_| self.within(-size, size))
    }
}

#[derive(Clone, Copy)]
struct Case {
    shape: [usize; 3],
    affine: Affine,
    view: View,
    /// Rays that run inside a voxel plane or edge, where either neighbour is right.
    degenerate: bool,
}

/// A volume and a view of it: every kind of pose, beam and alignment.
fn random_case(seed: u64) -> Case {
    let mut r = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    for _ in 0..4 {
        r.unit();
    }
    let shape = std::array::from_fn(|_| 1 + r.below(if seed % 3 == 0 { 40 } else { 14 }));
    let kind = seed % 8;
    let spacing: [f64; 3] = std::array::from_fn(|_| r.within(0.3, 3.0));
    let oblique = kind >= 4;
    let rows: [[f64; 4]; 3] = std::array::from_fn(|a| {
        std::array::from_fn(|b| match b {
            3 => r.within(-30.0, 30.0),
            _ if a == b => spacing[a] * if r.unit() < 0.5 { -1.0 } else { 1.0 },
            _ if oblique => 0.2 * r.within(-1.0, 1.0),
            _ => 0.0,
        })
    });
    let affine = Affine::new(rows).unwrap();
    let centre = affine.centre(shape);
    let extent = (0..3).map(|a| shape[a] as f64 * spacing[a]).fold(0.0, f64::max);
    let size = [1 + r.below(6), 1 + r.below(7)];
    let jitter = r.vector(0.3 * extent);
    let towards = |from: [f64; 3], v: [f64; 3]| -> [f64; 3] { std::array::from_fn(|a| from[a] + v[a]) };
    match kind {
        // Along an axis, through voxel centres, edges or corners.
        0..=2 => {
            let axis = r.below(3);
            let (u, v) = ((axis + 1) % 3, (axis + 2) % 3);
            let at = |index: [f64; 3]| affine.voxel_to_world(index);
            let half = if kind == 1 { 0.5 } else { 0.0 };
            let mut start = [0.0; 3];
            start[u] = half;
            start[v] = if kind == 2 { 0.5 } else { half };
            start[axis] = -20.0;
            let step = |axis: usize| std::array::from_fn(|a| rows[a][axis]);
            let sign = if r.unit() < 0.5 { -1.0 } else { 1.0 };
            let direction: [f64; 3] = std::array::from_fn(|a| sign * rows[a][axis]);
            let view = View::parallel(direction, at(start), step(u), step(v), size);
            Case { shape, affine, view, degenerate: kind > 0 }
        }
        // A cone whose source lies inside the volume.
        3 => {
            let source = affine.voxel_to_world(std::array::from_fn(|a| r.unit() * (shape[a] as f64 - 0.9)));
            let origin = towards(centre, r.vector(3.0 * extent));
            let view = View::cone(source, origin, r.vector(0.2 * extent), r.vector(0.2 * extent), size);
            Case { shape, affine, view, degenerate: false }
        }
        // Far sources, as in a radiograph.
        4 | 5 => {
            let away = r.vector(1.0);
            let source = std::array::from_fn(|a| centre[a] + 1500.0 * away[a] + jitter[a]);
            let origin = std::array::from_fn(|a| centre[a] - 300.0 * away[a] + jitter[a]);
            let view = View::cone(source, origin, r.vector(0.3 * extent), r.vector(0.3 * extent), size);
            Case { shape, affine, view, degenerate: false }
        }
        // Diagonals of the voxel grid, and anything.
        6 => {
            let sign = |r: &mut Random| if r.unit() < 0.5 { -1.0 } else { 1.0 };
            let along: [f64; 3] = std::array::from_fn(|_| sign(&mut r));
            let direction = std::array::from_fn(|a| (0..3).map(|b| rows[a][b] * along[b]).sum());
            let start = affine.voxel_to_world([0.13, -0.21, 0.37]);
            let view = View::parallel(direction, start, r.vector(0.2 * extent), r.vector(0.2 * extent), size);
            Case { shape, affine, view, degenerate: false }
        }
        _ => {
            let view = View::parallel(
                r.vector(1.0),
                towards(centre, jitter),
                r.vector(0.2 * extent),
                r.vector(0.2 * extent),
                size,
            );
            Case { shape, affine, view, degenerate: false }
        }
    }
}

/// (entry, exit) of a line start + t delta in the box grown by `margin`, and the millimetres of one t.
struct Line {
    start: [f64; 3],
    delta: [f64; 3],
    range: Option<(f64, f64)>,
    mm: f64,
}

fn line(case: &Case, r: usize, c: usize, margin: f64) -> Line {
    use x2ct::ct::view::Beam;
    let v = &case.view;
    let pixel: [f64; 3] = std::array::from_fn(|a| v.origin[a] + r as f64 * v.row[a] + c as f64 * v.column[a]);
    let inverse = case.affine.inverse();
    let (a, b, mut low, mut high) = match v.beam {
        Beam::Cone { source } => (source, pixel, 0.0, 1.0),
        Beam::Parallel { direction } => {
            (pixel, std::array::from_fn(|a| pixel[a] + direction[a]), f64::NEG_INFINITY, f64::INFINITY)
        }
    };
    let mm = (0..3).map(|i| (b[i] - a[i]).powi(2)).sum::<f64>().sqrt();
    let start = inverse.voxel_to_world(a).map(|x| x + 0.5);
    let end = inverse.voxel_to_world(b).map(|x| x + 0.5);
    // What rounding leaves of an exact zero counts as one: the ray is meant to be along the axis.
    let largest = (0..3).map(|i| (end[i] - start[i]).abs()).fold(0.0, f64::max);
    let delta: [f64; 3] = std::array::from_fn(|i| {
        let d = end[i] - start[i];
        if d.abs() < 1e-12 * largest { 0.0 } else { d }
    });
    let mut inside = true;
    for i in 0..3 {
        let (first, last) = (-margin, case.shape[i] as f64 + margin);
        if delta[i] == 0.0 {
            inside &= start[i] >= first && start[i] < last;
        } else {
            let (p, q) = ((first - start[i]) / delta[i], (last - start[i]) / delta[i]);
            (low, high) = (low.max(p.min(q)), high.min(p.max(q)));
        }
    }
    Line { start, delta, range: (inside && low < high).then_some((low, high)), mm }
}

/// (voxel, millimetres) of every voxel on the ray: all plane crossings sorted, each piece given to the voxel of its middle.
fn siddon_f64(case: &Case, r: usize, c: usize) -> Vec<(usize, f64)> {
    let l = line(case, r, c, 0.0);
    let Some((low, high)) = l.range else { return Vec::new() };
    let mut at = vec![low, high];
    for i in 0..3 {
        for plane in 0..=case.shape[i] {
            let t = (plane as f64 - l.start[i]) / l.delta[i];
            if t > low && t < high {
                at.push(t);
            }
        }
    }
    at.sort_by(f64::total_cmp);
    let pieces = at.windows(2).map(|w| {
        let middle = 0.5 * (w[0] + w[1]);
        let index: [usize; 3] = std::array::from_fn(|i| {
            ((l.start[i] + middle * l.delta[i]).floor().max(0.0) as usize).min(case.shape[i] - 1)
        });
        (index[0] + case.shape[0] * (index[1] + case.shape[1] * index[2]), (w[1] - w[0]) * l.mm)
    });
    pieces.collect()
}

/// The midpoint rule on the trilinear interpolant, in f64.
fn trilinear_f64(case: &Case, r: usize, c: usize, step: f64) -> Vec<(usize, f64)> {
    let l = line(case, r, c, 0.5);
    let Some((low, high)) = l.range else { return Vec::new() };
    let samples = (((high - low) * l.mm / step).ceil() as usize).max(1);
    let mut terms = Vec::new();
    for j in 0..samples {
        let t = low + (j as f64 + 0.5) / samples as f64 * (high - low);
        let p: [f64; 3] = std::array::from_fn(|i| l.start[i] + t * l.delta[i] - 0.5);
        for corner in 0..8usize {
            let mut weight = (high - low) * l.mm / samples as f64;
            let mut index = [0i64; 3];
            for i in 0..3 {
                let f = p[i] - p[i].floor();
                index[i] = p[i].floor() as i64 + (corner >> i & 1) as i64;
                weight *= if corner >> i & 1 == 1 { f } else { 1.0 - f };
            }
            if (0..3).all(|i| index[i] >= 0 && index[i] < case.shape[i] as i64) {
                let [x, y, z] = index.map(|v| v as usize);
                terms.push((x + case.shape[0] * (y + case.shape[1] * z), weight));
            }
        }
    }
    terms
}

fn terms(case: &Case, projector: Projector, r: usize, c: usize, step: f64) -> Vec<(usize, f64)> {
    match projector {
        Projector::Siddon => siddon_f64(case, r, c),
        Projector::Trilinear => trilinear_f64(case, r, c, step),
    }
}

fn reference(case: &Case, projector: Projector, voxels: &[f32], step: f64) -> Vec<(f64, f64)> {
    let [rows, columns] = case.view.size;
    let pixels = (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c)));
    let sums = pixels.map(|(r, c)| {
        terms(case, projector, r, c, step)
            .iter()
            .fold((0.0, 0.0), |(sum, size), &(v, w)| (sum + w * voxels[v] as f64, size + w * (voxels[v] as f64).abs()))
    });
    sums.collect()
}

const STEP: f64 = 0.37;

fn operator(device: &x2ct::Device, case: &Case, projector: Projector, variant: Variant) -> LineIntegral {
    let views = View::upload(device, &[case.view], &case.affine).unwrap();
    LineIntegral { step: Some(STEP as f32), variant, ..LineIntegral::new(views, projector) }
}

fn volume(device: &x2ct::Device, shape: [usize; 3], voxels: &[f32], dtype: DType) -> Tensor {
    Tensor::from_slice(device, [shape[2], shape[1], shape[0]], dtype, voxels).unwrap()
}

/// The largest |error| over the integral of |v|, over all rays. A ray that only grazes the rim of the trilinear support has
/// a sum of next to nothing, while its error is that of any sample: it counts as a tenth of a millimetre long.
fn worst(projector: Projector, got: &[f32], want: &[(f64, f64)]) -> f64 {
    assert_eq!(got.len(), want.len());
    let least = if projector == Projector::Trilinear { 0.1 } else { 0.0 };
    let errors = got.iter().zip(want).map(|(&g, &(w, size))| {
        assert!(g.is_finite());
        if size == 0.0 { g.abs() as f64 } else { (g as f64 - w).abs() / (size + least) }
    });
    errors.fold(0.0, f64::max)
}

#[test]
fn line_integrals_agree_with_f64_on_200_geometries() {
    let device = host(Default::default());
    let (mut crossed, mut most) = (0, 0.0f64);
    for seed in 0..200 {
        let case = random_case(seed);
        // Where either voxel is right, all voxels are equal: what counts then is the length.
        let n = case.shape.iter().product();
        let voxels = if case.degenerate { vec![1.5; n] } else { normal(seed, n) };
        for projector in [Projector::Siddon, Projector::Trilinear] {
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
                    reference(&moved, projector, &voxels, STEP as f32 as f64)
                })
                .collect();
            for variant in [Variant::Naive, Variant::Slab] {
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
        for projector in [Projector::Siddon, Projector::Trilinear] {
            let want = reference(&case, projector, &voxels, STEP as f32 as f64);
            for variant in [Variant::Naive, Variant::Slab] {
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
    let device = host(Default::default());
    let mut most = 0.0f64;
    for seed in 200..300 {
        let case = random_case(seed);
        let n = case.shape.iter().product();
        let [rows, columns] = case.view.size;
        let (x, y) = (normal(seed, n), normal(seed + 1, rows * columns));
        for projector in [Projector::Siddon, Projector::Trilinear] {
            for variant in [Variant::Naive, Variant::Slab] {
                let op = operator(&device, &case, projector, variant);
                let tensor = volume(&device, case.shape, &x, DType::F32);
                let (image, _) = op.forward(&[&tensor]).unwrap();
                let upstream = Tensor::from_slice(&device, [1, 1, rows, columns], DType::F32, &y).unwrap();
                let gradient = Tensor::empty(&device, tensor.shape(), DType::F32, "gradient").unwrap();
                op.adjoint(&tensor, &upstream, &gradient, Write::Overwrite).unwrap();
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
}

#[test]
fn gradients_agree_with_f64_in_every_thread_order_and_type() {
    for (name, device) in devices() {
        for seed in [3u64, 5, 7, 12] {
            let case = random_case(seed);
            let n: usize = case.shape.iter().product();
            let [rows, columns] = case.view.size;
            let (x, y) = (round_bf16(&normal(seed, n)), normal(seed + 1, rows * columns));
            for projector in [Projector::Siddon, Projector::Trilinear] {
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
    for projector in [Projector::Siddon, Projector::Trilinear] {
        let mut first: Option<(Vec<f32>, Vec<f32>)> = None;
        for (name, device) in devices().into_iter().filter(|(_, d)| d.is_host()) {
            let op = operator(&device, &case, projector, Variant::Slab);
            let tensor = volume(&device, case.shape, &normal(1, n), DType::F32);
            let (image, _) = op.forward(&[&tensor]).unwrap();
            let up =
                Tensor::from_slice(&device, [1, 1, rows, columns], DType::F32, &normal(2, rows * columns)).unwrap();
            let gradient = Tensor::empty(&device, tensor.shape(), DType::F32, "gradient").unwrap();
            op.adjoint(&tensor, &up, &gradient, Write::Overwrite).unwrap();
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
        for projector in [Projector::Siddon, Projector::Trilinear] {
            let mut want = Vec::new();
            for b in 0..3 {
                for view in views {
                    let case = Case { shape, affine, view, degenerate: false };
                    let image = reference(&case, projector, &mu[b * n..][..n], STEP as f32 as f64);
                    want.extend(image.iter().map(|w| w.0));
                }
            }
            for variant in [Variant::Naive, Variant::Slab] {
                let step = Some(STEP as f32);
                let op = LineIntegral { quantity, scale, variant, step, ..LineIntegral::new(all.clone(), projector) };
                let ints = DeviceVolume::from_i16(&device, &stored, shape, scale).unwrap();
                let image = op.project(&ints).unwrap();
                assert_eq!(image.shape()[..], [3, 2, 11, 13]);
                let what = format!("{name} {projector:?} {variant:?}");
                assert_close(&what, &image.to_vec().unwrap(), &want, 1e-5);
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
    for projector in [Projector::Siddon, Projector::Trilinear] {
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
    for projector in [Projector::Siddon, Projector::Trilinear] {
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
        op.adjoint(&volume(&device, case.shape, &vec![1.0; n], DType::F32), &upstream, &gradient, Write::Overwrite)
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

/// Resize as PyTorch does, then the mean, in f64.
fn mean_f64(hu: &[f64], shape: [usize; 3], to: [usize; 3], op: &MeanProjection) -> Vec<f64> {
    let resized = super::resample::trilinear_f64(hu, shape, to);
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
