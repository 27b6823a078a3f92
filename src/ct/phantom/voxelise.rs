//! From anatomy and lesions to voxels.

use rayon::prelude::*;

use super::Patient;
use super::anatomy::{Anatomy, LUNG_CENTRE_Y};
use super::lesions::Lesions;
use super::organs;
use super::shapes::{Canvas, Paint, Placed, Primitive, ToVoxel, Vec3, add, apply, scale, sub};
use crate::ct::{Affine, CtVolume};
use crate::philox::philox4x32_10;
use crate::{Error, Result};

/// Largest volume edge that is accepted.
const MAX_EDGE: usize = 2048;

/// Refuses a grid that no phantom is drawn on.
pub(crate) fn check_grid(shape: [usize; 3], spacing: [f64; 3]) -> Result<()> {
    if shape.iter().any(|n| *n == 0 || *n > MAX_EDGE) {
        return Err(Error::argument(
            "phantom shape",
            format!("{shape:?} has an edge outside 1..={MAX_EDGE}"),
            "pass voxel counts along x, y, z",
        ));
    }
    if spacing.iter().any(|s| !s.is_finite() || *s < 0.05 || *s > 100.0) {
        return Err(Error::argument(
            "phantom spacing",
            format!("{spacing:?} is outside 0.05..=100 mm"),
            "pass millimetres along x, y, z",
        ));
    }
    Ok(())
}

pub(super) fn voxelise(patient: &Patient, shape: [usize; 3], spacing: [f64; 3]) -> Result<CtVolume> {
    check_grid(shape, spacing)?;
    let body = &patient.anatomy;
    let grid = Grid::new(body, shape, spacing);
    let scene: Vec<Placed> = scene(patient).iter().filter_map(|p| p.place(&grid.to_voxel)).collect();
    let noise_key = [patient.seed as u32 ^ 0x5EED_0001, (patient.seed >> 32) as u32];
    let noise_base = philox4x32_10([0, 0xA0, patient.index as u32, (patient.index >> 32) as u32], noise_key);
    let plane = shape[0] * shape[1];
    let mut hu = vec![0_i16; plane * shape[2]];
    // Slices are independent: any number of threads gives the same bytes.
    hu.par_chunks_mut(plane).enumerate().for_each_init(
        || Scratch { hu: vec![0.0; plane], lung: vec![0.0; plane], cover: vec![0.0; shape[0]] },
        |scratch, (z, out)| {
            let origin = add(grid.origin, scale(grid.steps[2], z as f32));
            for y in 0..shape[1] {
                let start = add(origin, scale(grid.steps[1], y as f32));
                let row = y * shape[0]..(y + 1) * shape[0];
                background(
                    body,
                    start,
                    grid.steps[0],
                    grid.voxel,
                    &mut scratch.hu[row.clone()],
                    &mut scratch.lung[row],
                );
            }
            let mut canvas = Canvas {
                hu: &mut scratch.hu,
                lung: &mut scratch.lung,
                width: shape[0],
                origin,
                step_x: grid.steps[0],
                step_y: grid.steps[1],
                voxel: grid.voxel,
                cover: &mut scratch.cover,
            };
            for placed in &scene {
                if (placed.bounds[2].0..placed.bounds[2].1).contains(&z) {
                    canvas.paint(placed);
                }
            }
            let salt = noise_base[0].wrapping_add((z as u32).wrapping_mul(0x9E37_79B9)) ^ noise_base[1];
            for (i, (out, hu)) in out.iter_mut().zip(&scratch.hu).enumerate() {
                *out = (hu + patient.noise_hu * noise(salt, i as u32)).clamp(-1024.0, 3071.0).round() as i16;
            }
        },
    );
    let half = |axis: usize| 0.5 * (shape[axis] as f64 - 1.0) * spacing[axis];
    let [dx, dy, dz] = spacing;
    let affine = Affine::new([[-dx, 0.0, 0.0, half(0)], [0.0, -dy, 0.0, half(1)], [0.0, 0.0, dz, -half(2)]])?;
    CtVolume::new(hu.into(), shape, affine)
}

struct Scratch {
    hu: Vec<f32>,
    lung: Vec<f32>,
    cover: Vec<f32>,
}

/// The voxel grid seen from reference space.
struct Grid {
    origin: Vec3,
    steps: [Vec3; 3],
    voxel: f32,
    to_voxel: ToVoxel,
}

impl Grid {
    fn new(body: &Anatomy, shape: [usize; 3], spacing: [f64; 3]) -> Self {
        let inverse = body.world_to_reference();
        let step = |axis: usize| {
            let mut world = [0.0; 3];
            world[axis] = spacing[axis] as f32;
            apply(&inverse, world)
        };
        let corner: Vec3 = std::array::from_fn(|a| -0.5 * (shape[a] as f32 - 1.0) * spacing[a] as f32);
        let origin = apply(&inverse, sub(corner, body.position));
        let voxel = spacing.iter().product::<f64>().cbrt() as f32 / body.size;
        let matrix = std::array::from_fn(|i| scale(body.to_world[i], 1.0 / spacing[i] as f32));
        let offset = std::array::from_fn(|i| (body.position[i] - corner[i]) / spacing[i] as f32);
        Grid { origin, steps: [step(0), step(1), step(2)], voxel, to_voxel: ToVoxel { matrix, offset, shape, voxel } }
    }
}

/// All primitives, in painting order.
fn scene(patient: &Patient) -> Vec<Primitive> {
    let Patient { seed, index, anatomy: body, findings, .. } = patient;
    let mut lesions = Lesions::of(findings, body, *seed, *index);
    let mut scene = Vec::with_capacity(1024);
    organs::lung_vessels(*seed, *index, &mut scene);
    scene.append(&mut lesions.lung);
    organs::abdomen(body, &mut scene);
    scene.append(&mut lesions.pericardium);
    organs::mediastinum(body, &mut scene);
    organs::airways(&mut scene);
    if body.breast > 0.0 {
        for sign in [-1.0, 1.0] {
            let r = body.breast;
            let centre = [sign * 68.0, -98.0 - 0.55 * r, -22.0];
            scene.push(Primitive::ellipsoid(Paint::Organ, -40.0, centre, [1.15 * r, 0.75 * r, r]).soft(6.0));
        }
    }
    organs::skeleton(body, *seed, *index, &mut scene);
    scene.append(&mut lesions.solid);
    scene
}

/// HU of outside air, fat and muscle.
const OUTSIDE: f32 = -1000.0;
const FAT: f32 = -100.0;
const MUSCLE: f32 = 45.0;

/// One voxel row of torso and lungs, before any primitive: HU and the share of aerated lung.
fn background(body: &Anatomy, start: Vec3, step: Vec3, voxel: f32, hu: &mut [f32], lung: &mut [f32]) {
    let sharp = 1.0 / voxel;
    let (half_width, half_depth) = (146.0 + body.fat, 112.0 + 0.8 * body.fat);
    let fat = body.fat;
    let [right, left] = body.lungs;
    for (i, (h, l)) in hu.iter_mut().zip(lung).enumerate() {
        let i = i as f32;
        let (x, y, z) = (start[0] + step[0] * i, start[1] + step[1] * i, start[2] + step[2] * i);
        // Torso: a rounded box that narrows above the shoulders and a little at the waist.
        let (ex, ey) = (x / half_width, (y - LUNG_CENTRE_Y) / half_depth);
        let (ex2, ey2) = (ex * ex, ey * ey);
        let ring = 0.4 * (ex2 + ey2) + 0.6 * (ex2 * ex2 + ey2 * ey2).sqrt();
        let up = ((z - 84.0) * (1.0 / 100.0)).max(0.0);
        let down = ((-60.0 - z) * (1.0 / 300.0)).max(0.0);
        let skin = (1.0 - ring - 0.9 * up * up - down) * 0.5 * half_width;
        let inside = (0.5 + skin * sharp).clamp(0.0, 1.0);
        let muscle = (0.5 + (skin - fat) * sharp).clamp(0.0, 1.0);
        let solid = FAT + (MUSCLE - FAT) * muscle;
        // Lungs: dependent parts are denser.
        let r = (0.5 + right.depth(x, y, z) * sharp).clamp(0.0, 1.0);
        let s = (0.5 + left.depth(x, y, z) * sharp).clamp(0.0, 1.0);
        let air = (r + s).min(1.0) * muscle;
        let aerated = (r * right.hu + s * left.hu) / (r + s).max(1e-6) + 0.35 * y;
        let tissue = solid + (aerated - solid) * air;
        *h = OUTSIDE + (tissue - OUTSIDE) * inside;
        *l = air;
    }
}

/// Approximately normal noise of unit variance from a hash of the voxel: the sum of four uniform bytes.
#[inline(always)]
fn noise(salt: u32, i: u32) -> f32 {
    let mut h = i.wrapping_mul(0x85EB_CA6B) ^ salt;
    h = (h ^ (h >> 15)).wrapping_mul(0x2C1B_3C6D);
    h = (h ^ (h >> 12)).wrapping_mul(0x297A_2D39);
    h ^= h >> 15;
    let sum = (h & 255) + ((h >> 8) & 255) + ((h >> 16) & 255) + (h >> 24);
    // Four uniform bytes: mean 510, standard deviation 147.8.
    (sum as f32 - 510.0) * (1.0 / 147.8)
}
