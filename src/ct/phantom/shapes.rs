//! Soft-edged primitives and their painting into one axial slice.
//!
//! Shapes live in reference millimetres (x to the left, y posterior, z superior); each voxel row is an affine line
//! through that space. Edges are about a voxel wide, and a shape thinner than a voxel is widened to it and weakened in
//! proportion, so that its projected mass does not depend on the grid.

pub(super) type Vec3 = [f32; 3];

pub(super) fn add(a: Vec3, b: Vec3) -> Vec3 {
    [a[0] + b[0], a[1] + b[1], a[2] + b[2]]
}
pub(super) fn sub(a: Vec3, b: Vec3) -> Vec3 {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}
pub(super) fn scale(a: Vec3, s: f32) -> Vec3 {
    [a[0] * s, a[1] * s, a[2] * s]
}
pub(super) fn dot(a: Vec3, b: Vec3) -> f32 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}
pub(super) fn cross(a: Vec3, b: Vec3) -> Vec3 {
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}
pub(super) fn unit(a: Vec3) -> Vec3 {
    scale(a, 1.0 / dot(a, a).sqrt().max(1e-6))
}

/// Rows are the matrix's rows.
pub(super) type Mat3 = [Vec3; 3];

pub(super) const IDENTITY: Mat3 = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];

pub(super) fn apply(m: &Mat3, v: Vec3) -> Vec3 {
    [dot(m[0], v), dot(m[1], v), dot(m[2], v)]
}
pub(super) fn transpose(m: &Mat3) -> Mat3 {
    std::array::from_fn(|i| std::array::from_fn(|j| m[j][i]))
}
pub(super) fn multiply(a: &Mat3, b: &Mat3) -> Mat3 {
    let bt = transpose(b);
    std::array::from_fn(|i| std::array::from_fn(|j| dot(a[i], bt[j])))
}

/// An orthonormal frame whose first row is `direction`.
pub(super) fn frame(direction: Vec3) -> Mat3 {
    let u = unit(direction);
    let helper = if u[2].abs() < 0.9 { [0.0, 0.0, 1.0] } else { [1.0, 0.0, 0.0] };
    let v = unit(cross(helper, u));
    [u, v, cross(u, v)]
}

/// How a primitive changes the HU beneath it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Paint {
    /// Replaces the tissue, and ends the lung there.
    Organ,
    /// Replaces aerated lung only; solid tissue stays.
    Lung,
    /// Adds to aerated lung only.
    LungAdd,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    /// A cone with round ends: radius `ra` at `a`, `rb` at `b`.
    Capsule { a: Vec3, b: Vec3, ra: f32, rb: f32 },
    /// `axes` rows are the directions of `radii`.
    Ellipsoid { centre: Vec3, axes: Mat3, radii: Vec3 },
    /// Fluid in a pleural space: everything beyond `normal . p = level`, climbing by `rise` millimetres towards the
    /// chest wall, half a width `reach` away from `centre_x`.
    Pool { normal: Vec3, level: f32, centre_x: f32, reach: f32, rise: f32 },
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Primitive {
    pub shape: Shape,
    pub hu: f32,
    pub paint: Paint,
    /// Width of the edge in millimetres; never thinner than a voxel.
    pub soft: f32,
    /// Restricts the primitive to one side of the body: +1 left, -1 right, 0 both.
    pub side: f32,
}

impl Primitive {
    pub fn capsule(paint: Paint, hu: f32, a: Vec3, b: Vec3, ra: f32, rb: f32) -> Self {
        Primitive { shape: Shape::Capsule { a, b, ra, rb }, hu, paint, soft: 0.0, side: 0.0 }
    }

    pub fn ellipsoid(paint: Paint, hu: f32, centre: Vec3, radii: Vec3) -> Self {
        Primitive { shape: Shape::Ellipsoid { centre, axes: IDENTITY, radii }, hu, paint, soft: 0.0, side: 0.0 }
    }

    pub fn sphere(paint: Paint, hu: f32, centre: Vec3, radius: f32) -> Self {
        Self::ellipsoid(paint, hu, centre, [radius; 3])
    }

    pub fn soft(mut self, soft: f32) -> Self {
        self.soft = soft;
        self
    }

    pub fn side(mut self, side: f32) -> Self {
        self.side = side;
        self
    }

    /// Turns an ellipsoid to `axes`; leaves the other shapes, which carry their own direction.
    pub fn turned(mut self, to: Mat3) -> Self {
        if let Shape::Ellipsoid { axes, .. } = &mut self.shape {
            *axes = to;
        }
        self
    }

    /// Widens what is thinner than half a voxel. Returns the shape to draw and the strength that keeps its mass.
    fn resolved(&self, voxel: f32) -> (Shape, f32) {
        let least = 0.5 * voxel;
        match self.shape {
            Shape::Capsule { a, b, ra, rb } => {
                let (wa, wb) = (ra.max(least), rb.max(least));
                (Shape::Capsule { a, b, ra: wa, rb: wb }, (ra * ra + rb * rb) / (wa * wa + wb * wb))
            }
            Shape::Ellipsoid { centre, axes, radii } => {
                let wide = radii.map(|r| r.max(least));
                let strength = radii.iter().zip(&wide).map(|(r, w)| r / w).product();
                (Shape::Ellipsoid { centre, axes, radii: wide }, strength)
            }
            pool @ Shape::Pool { .. } => (pool, 1.0),
        }
    }
}

/// A primitive prepared for one grid: widened, with the voxel box it can touch (half-open ranges in x, y, z).
pub(super) struct Placed {
    shape: Shape,
    strength: f32,
    soft: f32,
    hu: f32,
    paint: Paint,
    side: f32,
    pub bounds: [(usize, usize); 3],
}

/// Maps reference millimetres to voxel indices of one grid: `index = matrix p + offset` (centres at integers).
pub(super) struct ToVoxel {
    pub matrix: Mat3,
    pub offset: Vec3,
    pub shape: [usize; 3],
    /// Edge of a voxel in reference millimetres (geometric mean).
    pub voxel: f32,
}

impl Primitive {
    /// Prepares the primitive for a grid; `None` where it misses the grid.
    pub fn place(&self, grid: &ToVoxel) -> Option<Placed> {
        let soft = self.soft.max(grid.voxel);
        let (shape, strength) = self.resolved(grid.voxel);
        let mut bounds = [(0, 0); 3];
        for (axis, bound) in bounds.iter_mut().enumerate() {
            let row = grid.matrix[axis];
            let norm = dot(row, row).sqrt();
            let (low, high) = match shape {
                Shape::Capsule { a, b, ra, rb } => {
                    let (ea, eb) = ((ra + 0.5 * soft) * norm, (rb + 0.5 * soft) * norm);
                    let (pa, pb) = (dot(row, a), dot(row, b));
                    ((pa - ea).min(pb - eb), (pa + ea).max(pb + eb))
                }
                Shape::Ellipsoid { centre, axes, radii } => {
                    let extent = (0..3).map(|i| (dot(row, axes[i]) * radii[i]).powi(2)).sum::<f32>().sqrt();
                    let middle = dot(row, centre);
                    (middle - extent - 0.5 * soft * norm, middle + extent + 0.5 * soft * norm)
                }
                Shape::Pool { .. } => (f32::NEG_INFINITY, f32::INFINITY),
            };
            let low = (low + grid.offset[axis]).ceil().max(0.0) as usize;
            let high = ((high + grid.offset[axis]).floor() + 1.0).clamp(0.0, grid.shape[axis] as f32) as usize;
            if low >= high {
                return None;
            }
            *bound = (low, high);
        }
        Some(Placed { shape, strength, soft, hu: self.hu, paint: self.paint, side: self.side, bounds })
    }
}

/// HU of air: nothing is subtracted below it.
const THINNEST: f32 = -1000.0;

/// One axial slice being painted.
pub(super) struct Canvas<'a> {
    /// HU and the share of aerated lung, `[y][x]`.
    pub hu: &'a mut [f32],
    pub lung: &'a mut [f32],
    pub width: usize,
    /// Reference position of voxel (0, 0) and the steps to the next column and row.
    pub origin: Vec3,
    pub step_x: Vec3,
    pub step_y: Vec3,
    /// Edge of a voxel in reference millimetres.
    pub voxel: f32,
    /// Room for one row of coverages.
    pub cover: &'a mut [f32],
}

impl Canvas<'_> {
    /// Paints one primitive (whose z range must include this slice).
    pub fn paint(&mut self, p: &Placed) {
        let (x0, x1) = p.bounds[0];
        let n = x1 - x0;
        let sharp = 1.0 / p.soft;
        for y in p.bounds[1].0..p.bounds[1].1 {
            let start = add(add(self.origin, scale(self.step_y, y as f32)), scale(self.step_x, x0 as f32));
            let cover = &mut self.cover[..n];
            fill_cover(&p.shape, start, self.step_x, sharp, p.strength, cover);
            if p.side != 0.0 {
                let (base, step) = (0.5 + p.side * start[0] / self.voxel, p.side * self.step_x[0] / self.voxel);
                for (i, c) in cover.iter_mut().enumerate() {
                    *c *= (base + step * i as f32).clamp(0.0, 1.0);
                }
            }
            let row = y * self.width + x0..y * self.width + x1;
            let (hu, lung) = (&mut self.hu[row.clone()], &mut self.lung[row]);
            match p.paint {
                Paint::Organ => {
                    for ((h, l), c) in hu.iter_mut().zip(lung).zip(cover.iter()) {
                        *h += c * (p.hu - *h);
                        *l *= 1.0 - c;
                    }
                }
                Paint::Lung => {
                    for ((h, l), c) in hu.iter_mut().zip(lung).zip(cover.iter()) {
                        *h += c * *l * (p.hu - *h);
                    }
                }
                Paint::LungAdd => {
                    for ((h, l), c) in hu.iter_mut().zip(lung).zip(cover.iter()) {
                        *h = (*h + c * *l * p.hu).max(THINNEST);
                    }
                }
            }
        }
    }
}

/// Coverage of the voxels `start + i step` by a shape: 1 inside, 0 outside, linear over the edge.
fn fill_cover(shape: &Shape, start: Vec3, step: Vec3, sharp: f32, strength: f32, cover: &mut [f32]) {
    match *shape {
        Shape::Capsule { a, b, ra, rb } => {
            let ab = sub(b, a);
            let inverse = 1.0 / dot(ab, ab).max(1e-6);
            let from = sub(start, a);
            let (t0, dt) = (dot(from, ab) * inverse, dot(step, ab) * inverse);
            for (i, c) in cover.iter_mut().enumerate() {
                let i = i as f32;
                let t = (t0 + dt * i).clamp(0.0, 1.0);
                let x = from[0] + step[0] * i - ab[0] * t;
                let y = from[1] + step[1] * i - ab[1] * t;
                let z = from[2] + step[2] * i - ab[2] * t;
                let distance = (x * x + y * y + z * z).sqrt();
                *c = strength * (0.5 + (ra + (rb - ra) * t - distance) * sharp).clamp(0.0, 1.0);
            }
        }
        Shape::Ellipsoid { centre, axes, radii } => {
            let from = sub(start, centre);
            let q: Vec3 = std::array::from_fn(|k| dot(axes[k], from) / radii[k]);
            let dq: Vec3 = std::array::from_fn(|k| dot(axes[k], step) / radii[k]);
            for (i, c) in cover.iter_mut().enumerate() {
                let i = i as f32;
                let (u, v, w) = (q[0] + dq[0] * i, q[1] + dq[1] * i, q[2] + dq[2] * i);
                let (x, y, z) = (from[0] + step[0] * i, from[1] + step[1] * i, from[2] + step[2] * i);
                // Distance to the surface along the ray from the centre.
                let norm = (u * u + v * v + w * w).sqrt().max(1e-3);
                let distance = (x * x + y * y + z * z).sqrt().max(1e-3 * radii[0]) * (1.0 / norm - 1.0);
                *c = strength * (0.5 + distance * sharp).clamp(0.0, 1.0);
            }
        }
        Shape::Pool { normal, level, centre_x, reach, rise } => {
            let (d0, dd) = (dot(normal, start) - level, dot(normal, step));
            let (x0, dx) = ((start[0] - centre_x) / reach, step[0] / reach);
            for (i, c) in cover.iter_mut().enumerate() {
                let i = i as f32;
                let x = x0 + dx * i;
                *c = (0.5 + (d0 + dd * i + rise * x * x) * sharp).clamp(0.0, 1.0);
            }
        }
    }
}
