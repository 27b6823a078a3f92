//! The gradients of both sets of a pair from one recomputation of the logits, band by band.

use super::Contrastive;
use super::pass::{Context, at};
use crate::Result;
use crate::kernels::contrastive::{
    self as kernel, ContrastiveBandParams, ContrastiveBandProductParams, ContrastiveCarry, ContrastiveProduct,
    ContrastiveProductParams, Variant,
};
use crate::kernels::{DType, DevicePtr, Write};
use crate::tensor::Tensor;

/// Gradients of logits that tensor cores store at a time: 32 MiB in bf16 for both products, which the L2 of a large GPU holds.
const TENSOR_CORE_BAND: usize = 1 << 23;

/// Rows of a band on tensor cores, where it is not the whole batch: with fewer, carrying the gradient of the columns from
/// band to band takes longer than making the logits once more. Argued in `benches/NOTES.md`.
const MIN_CARRIED_ROWS: usize = 768;

/// Stored gradients of logits of a band of rows.
struct Band {
    h: Tensor,
    row_alongs: Tensor,
    column_alongs: Tensor,
    /// Rows, at most.
    rows: usize,
    /// Columns, a whole number of tiles.
    ld: usize,
    /// Rows and columns of a tile.
    tile: usize,
    /// f32 `[n, d]`: the gradient of the columns between bands.
    carry: Option<Tensor>,
}

impl Context {
    /// Rows of logits whose gradients are stored at a time, where that is worth it: in whole batches; in f32 arithmetic a band
    /// of a quarter of one set's size or of a megabyte.
    pub(super) fn band(&self, loss: &Contrastive) -> Result<Option<usize>> {
        let (n, d) = self.extent();
        let dtype = self.sets[0].dtype();
        if loss.variant == Variant::Naive || loss.variant.packs(dtype) || self.rows != n {
            return Ok(None);
        }
        let tile = kernel::band_tile(self.device().launcher(), loss.variant, dtype)?;
        let ld = n.next_multiple_of(tile);
        let tensor_cores = loss.variant.tensor_cores();
        let elements = if tensor_cores { TENSOR_CORE_BAND } else { (n * d / 4).max(1 << 18) };
        let rows = (elements / ld / tile * tile).min(ld);
        let enough = if tensor_cores { MIN_CARRIED_ROWS.min(ld) } else { tile };
        Ok((rows >= enough).then_some(rows))
    }

    /// The gradients of both sets of a pair, and its share of the scale's.
    #[allow(clippy::too_many_arguments)] // a launch is its operands
    pub(super) fn pair_gradients(
        &self,
        loss: &Contrastive,
        upstream: &Tensor,
        q: usize,
        pair: (usize, usize, f32),
        rows: usize,
        wanted: &mut [Option<(Tensor, Write)>],
        dscale: Option<&mut (Tensor, Write)>,
    ) -> Result<()> {
        let (device, launcher, dtype) = (self.device(), self.device().launcher(), self.sets[0].dtype());
        let (n, d) = self.extent();
        let (a, b, _) = pair;
        let tile = kernel::band_tile(launcher, loss.variant, dtype)?;
        let ld = n.next_multiple_of(tile);
        let f32s = |shape: &[usize], what| Tensor::empty(device, shape, DType::F32, what);
        let what = "gradients of a band of logits";
        // f32 gradients are added to in place.
        let carried = rows < n && dtype == DType::Bf16;
        let band = Band {
            h: if loss.variant.tensor_cores() {
                Tensor::empty(device, [2, rows, ld], dtype, what)?
            } else {
                f32s(&[rows, ld], what)?
            },
            row_alongs: f32s(&[ld / tile, rows], "projections of rows")?,
            column_alongs: f32s(&[rows / tile, ld], "projections of columns")?,
            rows,
            ld,
            tile,
            carry: carried.then(|| f32s(&[n, d], "gradient between bands")).transpose()?,
        };
        let slopes = dscale.is_some().then(|| f32s(&[n], "slopes")).transpose()?;
        for set in [a, b] {
            if let Some((dx, _)) = &wanted[set] {
                dx.expect("gradient of the embeddings", device, [n, d], dtype)?;
            }
        }
        for first in (0..n).step_by(rows) {
            let params = ContrastiveBandParams {
                term: self.term(a, q, pair),
                problem: self.problem(loss),
                x: self.sets[a].ptr(),
                x_inverse_norms: self.inverse_norms(a),
                h: band.h.ptr(),
                row_alongs: band.row_alongs.ptr(),
                column_alongs: band.column_alongs.ptr(),
                first: first as u64,
                band: rows as u64,
            };
            // Safety: every pointer is null where that is allowed, or to a live tensor of the documented extent.
            unsafe { kernel::band(launcher, loss.variant, dtype, &params)? };
            if let Some(to) = &wanted[a] {
                self.band_product(loss, upstream, &band, first, (a, b), false, to, slopes.as_ref())?;
            }
            if let Some(to) = &mut wanted[b] {
                self.band_product(loss, upstream, &band, first, (b, a), true, to, None)?;
                if band.carry.is_none() || first + rows >= n {
                    to.1 = Write::Accumulate;
                }
            }
        }
        if let Some((_, write)) = &mut wanted[a] {
            *write = Write::Accumulate;
        }
        match (slopes, dscale) {
            (Some(slopes), Some((dscale, write))) => self.add_slopes(&slopes, dscale, write),
            _ => Ok(()),
        }
    }

    /// What the band from row `first` on adds to the gradient of a set: of its rows, or (`transposed`) of its columns.
    #[allow(clippy::too_many_arguments)]
    fn band_product(
        &self,
        loss: &Contrastive,
        upstream: &Tensor,
        band: &Band,
        first: usize,
        (set, partner): (usize, usize),
        transposed: bool,
        (dx, write): &(Tensor, Write),
        slopes: Option<&Tensor>,
    ) -> Result<()> {
        let (launcher, dtype, problem) = (self.device().launcher(), self.sets[0].dtype(), self.problem(loss));
        let (n, d) = self.extent();
        let in_band = band.rows.min(band.ld - first);
        // The result's first row and how many it has; what is summed over, and from where on.
        let (own, rows) = if transposed { (0, n) } else { (first, band.rows.min(n - first)) };
        let (from, inner) = if transposed { (first, in_band) } else { (0, band.ld) };
        let x_inverse_norms = match self.inverse_norms(set) {
            DevicePtr::NULL => DevicePtr::NULL,
            norms => norms.offset(own * DType::F32.size()),
        };
        let carry = match band.carry.as_ref().filter(|_| transposed) {
            None => ContrastiveCarry { sum: DevicePtr::NULL, bring: 0, keep: 0 },
            Some(sum) => {
                ContrastiveCarry { sum: sum.ptr(), bring: (first > 0) as u32, keep: (first + band.rows < n) as u32 }
            }
        };
        let alongs = if transposed { band.column_alongs.ptr() } else { band.row_alongs.ptr() };
        let along_stride = if transposed { band.ld } else { band.rows } as u64;
        let (x, dx) = (at(&self.sets[set], own * d), at(dx, own * d));
        let slopes = slopes.map_or(DevicePtr::NULL, |slopes| at(slopes, own));
        if loss.variant.tensor_cores() {
            // Tiles in rows; each holds its rows, then its columns.
            let (tile, line) = (2 * band.tile * band.tile, 2 * band.tile * band.ld);
            let params = ContrastiveBandProductParams {
                h: at(&band.h, if transposed { tile / 2 } else { 0 }),
                partner: self.sets[partner].ptr(),
                alongs,
                x,
                x_inverse_norms,
                scale_tensor: problem.scale_tensor,
                upstream: upstream.ptr(),
                dx,
                slopes,
                carry,
                row_stride: if transposed { tile } else { line } as u64,
                tile_stride: if transposed { line } else { tile } as u64,
                first: from as u64,
                partners: n as u64,
                along_stride,
                rows: rows as u64,
                d: d as u64,
                scale: problem.scale,
                factor: loss.factor(n),
                tiles: (inner / band.tile) as u32,
                along_count: (inner / band.tile) as u32,
                accumulate: write.flag(),
            };
            // Safety: as for the band; the result's rows of x, of its norms, of dx and of the slopes.
            return unsafe { kernel::band_product(launcher, dtype, &params) };
        }
        let params = ContrastiveProductParams {
            product: ContrastiveProduct {
                h: band.h.ptr(),
                partner: self.sets[partner].ptr(),
                partner_inverse_norms: self.inverse_norms(partner),
                alongs,
                ld: band.ld as u64,
                first: from as u64,
                partners: n as u64,
                inner: inner as u64,
                along_stride,
                along_count: (inner / band.tile) as u32,
                transposed: transposed as u32,
            },
            x,
            x_inverse_norms,
            scale_tensor: problem.scale_tensor,
            upstream: upstream.ptr(),
            dx,
            slopes,
            carry,
            rows: rows as u64,
            d: d as u64,
            scale: problem.scale,
            factor: loss.factor(n),
            accumulate: write.flag(),
        };
        // Safety: as above.
        unsafe { kernel::product(launcher, dtype, &params) }
    }
}
