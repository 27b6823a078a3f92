//! Where the patient is in a CT: what exposure and collimation go by, without the table and the air around.

use std::collections::VecDeque;

use rayon::prelude::*;

use super::geometry::Affine;
use super::view::View;
use super::volume::{CtVolume, HuSource, Voxels};
use crate::Result;
use crate::device::Device;
use crate::ops::drr::{LineIntegral, Projector, Quantity};

/// Cells along the longest edge of a volume: 4 to 5 mm of a chest.
const CELLS: f64 = 80.0;
/// Mean HU of a cell above which it is tissue: more than half of it is no air and no lung.
const TISSUE: f32 = -400.0;
/// Least share of a volume that is taken for a body.
const LEAST: f64 = 0.005;
/// Pixels along a side of the squares in which [`Body::behind`] looks.
const COARSE: usize = 4;

/// The patient's body as cells of a few voxels: the largest connected piece of tissue. Blankets, wires and the shell of a
/// table, thinner than two cells, are not in it, and the lungs are its holes. Deterministic.
pub(super) struct Body {
    /// 0 HU in the body and -1000 outside.
    cells: CtVolume,
}

impl Body {
    /// The body in a volume; `None` where all is air, or all but a trace.
    pub fn of(volume: &CtVolume, source: HuSource) -> Option<Self> {
        let spacing = volume.spacing();
        let longest = (0..3).map(|a| spacing[a] * volume.shape[a] as f64).fold(0.0, f64::max);
        let factor = spacing.map(|mm| ((longest / CELLS / mm).round() as usize).max(1));
        let shape: [usize; 3] = std::array::from_fn(|a| volume.shape[a].div_ceil(factor[a]));
        let tissue: Vec<bool> = means(volume, source, factor, shape).into_iter().map(|hu| hu > TISSUE).collect();
        let core: Vec<bool> = (0..tissue.len()).map(|i| tissue[i] && neighbours(i, shape).all(|n| tissue[n])).collect();
        let body: Vec<bool> = match largest_piece(&core, shape) {
            // The layer that was taken off comes back.
            Some(core) => {
                (0..tissue.len()).map(|i| tissue[i] && (core[i] || neighbours(i, shape).any(|n| core[n]))).collect()
            }
            None => largest_piece(&tissue, shape)?,
        };
        if (body.iter().filter(|b| **b).count() as f64) < LEAST * body.len() as f64 {
            return None;
        }
        let affine = enlarged(&volume.affine, factor)?;
        let voxels: Vec<i16> = body.into_iter().map(|inside| if inside { 0 } else { -1000 }).collect();
        CtVolume::new(voxels.into(), shape, affine).ok().map(|cells| Body { cells })
    }

    /// The corners of the cells on the body's surface, RAS+ mm.
    pub fn corners(&self) -> impl Iterator<Item = [f64; 3]> {
        let shape @ [nx, ny, _] = self.cells.shape;
        let inside = |i: usize| self.cells.voxels.get(i) == 0.0;
        let surface = move |&i: &usize| inside(i) && neighbours(i, shape).filter(|&n| inside(n)).count() < 6;
        (0..self.cells.voxels.len()).filter(surface).flat_map(move |i| {
            let at = [i % nx, i / nx % ny, i / nx / ny].map(|v| v as f64);
            (0..8).map(move |bits| {
                let corner = std::array::from_fn(|a| at[a] + if bits >> a & 1 == 0 { -0.5 } else { 0.5 });
                self.cells.affine.voxel_to_world(corner)
            })
        })
    }

    /// Which pixels of a view have the body before them, at least two cells of it.
    ///
    /// # Errors
    /// A device that fails.
    pub fn behind(&self, device: &Device, view: &View) -> Result<Vec<bool>> {
        let size = view.size.map(|n| n.div_ceil(COARSE));
        let (k, first) = (COARSE as f64, (COARSE as f64 - 1.0) / 2.0);
        let coarse = View {
            origin: std::array::from_fn(|a| view.origin[a] + first * (view.row[a] + view.column[a])),
            row: view.row.map(|v| k * v),
            column: view.column.map(|v| k * v),
            size,
            ..*view
        };
        let cells = self.cells.to_device(device, HuSource::AlreadyHu)?;
        let views = View::upload(device, &[coarse], &self.cells.affine)?;
        // Millimetres of the body.
        let quantity = Quantity::Attenuation { mu_water: 1.0 };
        let lengths =
            LineIntegral { quantity, ..LineIntegral::new(views, Projector::Siddon) }.project(&cells)?.to_vec()?;
        let least = 2.0 * self.cells.spacing().into_iter().product::<f64>().cbrt();
        let [rows, columns] = view.size;
        let pixels = (0..rows).flat_map(|r| (0..columns).map(move |c| c / COARSE + size[1] * (r / COARSE)));
        Ok(pixels.map(|i| f64::from(lengths[i]) >= least).collect())
    }
}

/// The affine of cells of `factor` voxels.
fn enlarged(affine: &Affine, factor: [usize; 3]) -> Option<Affine> {
    let first = affine.voxel_to_world(factor.map(|n| (n as f64 - 1.0) / 2.0));
    let mut rows = affine.rows();
    for (row, first) in rows.iter_mut().zip(first) {
        (0..3).for_each(|a| row[a] *= factor[a] as f64);
        row[3] = first;
    }
    Affine::new(rows).ok()
}

/// The mean of HU, clipped to [-1000, 1000], of every cell.
fn means(volume: &CtVolume, source: HuSource, factor: [usize; 3], shape: [usize; 3]) -> Vec<f32> {
    let (slope, intercept) = volume.hu_scale(source);
    let hu = move |stored: f32| (slope * stored + intercept).clamp(-1000.0, 1000.0);
    match &volume.voxels {
        Voxels::I16(v) => cell_means(v, volume.shape, factor, shape, |v| hu(f32::from(v))),
        Voxels::F32(v) => cell_means(v, volume.shape, factor, shape, hu),
    }
}

fn cell_means<T: Copy + Sync>(
    voxels: &[T],
    [nx, ny, _]: [usize; 3],
    factor: [usize; 3],
    [cx, cy, _]: [usize; 3],
    hu: impl Fn(T) -> f32 + Sync,
) -> Vec<f32> {
    let slabs = voxels.par_chunks(nx * ny * factor[2]).map(|slab| {
        let (mut sums, mut counts) = (vec![0f32; cx * cy], vec![0u32; cx * cy]);
        for (y, row) in slab.chunks_exact(nx).enumerate() {
            let first = cx * (y % ny / factor[1]);
            for (x, cell) in row.chunks(factor[0]).enumerate() {
                sums[first + x] += cell.iter().map(|&v| hu(v)).sum::<f32>();
                counts[first + x] += cell.len() as u32;
            }
        }
        sums.iter().zip(counts).map(|(sum, count)| sum / count as f32).collect::<Vec<_>>()
    });
    slabs.collect::<Vec<_>>().concat()
}

/// The up to six cells beside one; there are none beyond the volume.
fn neighbours(i: usize, [nx, ny, nz]: [usize; 3]) -> impl Iterator<Item = usize> {
    let (x, y, z) = (i % nx, i / nx % ny, i / nx / ny);
    let plane = nx * ny;
    let beside = [
        (x > 0).then(|| i - 1),
        (x + 1 < nx).then(|| i + 1),
        (y > 0).then(|| i - nx),
        (y + 1 < ny).then(|| i + nx),
        (z > 0).then(|| i - plane),
        (z + 1 < nz).then(|| i + plane),
    ];
    beside.into_iter().flatten()
}

/// The largest set of marked cells that hang together by their faces, the first of equals; `None` where no cell is marked.
fn largest_piece(marked: &[bool], shape: [usize; 3]) -> Option<Vec<bool>> {
    let mut piece = vec![0u32; marked.len()];
    let (mut count, mut best, mut size) = (0, 0, 0);
    for start in 0..marked.len() {
        if !marked[start] || piece[start] != 0 {
            continue;
        }
        count += 1;
        piece[start] = count;
        let (mut queue, mut cells) = (VecDeque::from([start]), 0);
        while let Some(i) = queue.pop_front() {
            cells += 1;
            for n in neighbours(i, shape) {
                if marked[n] && piece[n] == 0 {
                    piece[n] = count;
                    queue.push_back(n);
                }
            }
        }
        if cells > size {
            (best, size) = (count, cells);
        }
    }
    (best != 0).then(|| piece.into_iter().map(|p| p == best).collect())
}
