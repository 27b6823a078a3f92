//! Volumes and views of every kind, and the projectors in f64.

use x2ct::ct::{Affine, View};
use x2ct::ops::drr::{LineIntegral, Projector, Variant};
use x2ct::tensor::{DType, Tensor};

/// Uniform numbers from a seed.
pub struct Random(u64);

impl Random {
    pub fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
    pub fn within(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }
    pub fn below(&mut self, n: usize) -> usize {
        (self.unit() * n as f64) as usize
    }
    pub fn vector(&mut self, size: f64) -> [f64; 3] {
        std::array::from_fn(|_| self.within(-size, size))
    }
}

#[derive(Clone, Copy)]
pub struct Case {
    pub shape: [usize; 3],
    pub affine: Affine,
    pub view: View,
    /// Rays that run inside a voxel plane or edge, where either neighbour is right.
    pub degenerate: bool,
}

/// A volume and a view of it: every kind of pose, beam and alignment.
pub fn random_case(seed: u64) -> Case {
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

/// On every plane of voxel centres of the axis crossed fastest, the bilinear interpolant, in f64.
fn joseph_f64(case: &Case, r: usize, c: usize) -> Vec<(usize, f64)> {
    let l = line(case, r, c, 0.5);
    let Some((low, high)) = l.range else { return Vec::new() };
    let along = (0..3).fold(0, |best, a| if l.delta[a].abs() > l.delta[best].abs() { a } else { best });
    let (u, v) = ((along + 1) % 3, (along + 2) % 3);
    let mut terms = Vec::new();
    for plane in 0..case.shape[along] {
        let t = (plane as f64 + 0.5 - l.start[along]) / l.delta[along];
        if t < low || t >= high {
            continue;
        }
        let p = |a: usize| l.start[a] + t * l.delta[a] - 0.5;
        for corner in 0..4 {
            let mut index = [plane as i64; 3];
            let mut weight = l.mm / l.delta[along].abs();
            for (axis, up) in [(u, corner & 1), (v, corner >> 1)] {
                let f = p(axis) - p(axis).floor();
                index[axis] = p(axis).floor() as i64 + up as i64;
                weight *= if up == 1 { f } else { 1.0 - f };
            }
            if (0..3).all(|i| index[i] >= 0 && index[i] < case.shape[i] as i64) {
                let [x, y, z] = index.map(|v| v as usize);
                terms.push((x + case.shape[0] * (y + case.shape[1] * z), weight));
            }
        }
    }
    terms
}

pub fn terms(case: &Case, projector: Projector, r: usize, c: usize, step: f64) -> Vec<(usize, f64)> {
    match projector {
        Projector::Siddon => siddon_f64(case, r, c),
        Projector::Joseph => joseph_f64(case, r, c),
        Projector::Trilinear => trilinear_f64(case, r, c, step),
    }
}

pub fn reference(case: &Case, projector: Projector, voxels: &[f32], step: f64) -> Vec<(f64, f64)> {
    let [rows, columns] = case.view.size;
    let pixels = (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c)));
    let sums = pixels.map(|(r, c)| {
        terms(case, projector, r, c, step)
            .iter()
            .fold((0.0, 0.0), |(sum, size), &(v, w)| (sum + w * voxels[v] as f64, size + w * (voxels[v] as f64).abs()))
    });
    sums.collect()
}

pub const STEP: f64 = 0.37;

pub fn operator(device: &x2ct::Device, case: &Case, projector: Projector, variant: Variant) -> LineIntegral {
    let views = View::upload(device, &[case.view], &case.affine).unwrap();
    LineIntegral { step: Some(STEP as f32), variant, ..LineIntegral::new(views, projector) }
}

pub fn volume(device: &x2ct::Device, shape: [usize; 3], voxels: &[f32], dtype: DType) -> Tensor {
    Tensor::from_slice(device, [shape[2], shape[1], shape[0]], dtype, voxels).unwrap()
}

/// The largest |error| over the integral of |v|, over all rays. A ray that only grazes the rim of an interpolant's support has
/// a sum of next to nothing, while its error is that of any sample: it counts as a tenth of a millimetre long.
pub fn worst(projector: Projector, got: &[f32], want: &[(f64, f64)]) -> f64 {
    assert_eq!(got.len(), want.len());
    let least = if projector == Projector::Siddon { 0.0 } else { 0.1 };
    let errors = got.iter().zip(want).map(|(&g, &(w, size))| {
        assert!(g.is_finite());
        if size == 0.0 { g.abs() as f64 } else { (g as f64 - w).abs() / (size + least) }
    });
    errors.fold(0.0, f64::max)
}
