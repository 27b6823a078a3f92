//! The forward and backward passes, tile by tile: what they keep, and which launches they make.

use super::packed::Packed;
use super::{Contrastive, Objective, Scale};
use crate::Result;
use crate::device::Device;
use crate::kernels::contrastive::{
    self as kernel, ContrastiveForwardParams, ContrastiveGradientParams, ContrastivePair, ContrastiveProblem,
    ContrastiveScaleParams, ContrastiveTerm, ContrastiveWgmmaGradientParams, MAX_BOUNDED_SCALE, MAX_PAIRS, Mode,
};
use crate::kernels::{DType, DevicePtr, Write};
use crate::tensor::Tensor;

/// What the gradient of a contrastive loss needs of the forward pass: O(n) numbers a pair.
///
/// The items of the batch are columns; those from `offset` on, `rows` of them, are rows too: all of them, or one shard.
pub struct Context {
    /// The embedding sets, `[columns, d]`.
    pub(super) sets: Vec<Tensor>,
    pub(super) scale: Option<Tensor>,
    pub(super) bias: Option<Tensor>,
    pub(super) rows: usize,
    pub(super) offset: usize,
    /// `[sets, columns]`, where normalised.
    inverse_norms: Option<Tensor>,
    /// Each set as tiles, and its rows as tiles, where the variant reads those and a pair has the set.
    packed: Vec<Option<[Packed; 2]>>,
    /// `[pairs, 2, rows, 2]`: (shift, inverse sum) of rows and of the columns that match them.
    pub(super) softmax: Tensor,
    /// The same of every item, `[pairs, 2, columns, 2]`.
    pub(super) all_softmax: Tensor,
    /// `[pairs, rows]`: gradients of the matching logits.
    diagonal: Tensor,
}

/// What the tiles leave: sums of rows by strip of columns and the reverse, and the matching logits.
pub(super) struct Sums {
    strips: usize,
    /// `[pairs, strips, rows, 2]`
    rows: Tensor,
    /// `[pairs, strips, columns, 2]`
    columns: Tensor,
    /// `[pairs, rows]`
    matching: Tensor,
}

/// The address of element `index`.
pub(super) fn at(tensor: &Tensor, index: usize) -> DevicePtr {
    tensor.ptr().offset(index * tensor.dtype().size())
}

fn pointer(tensor: Option<&Tensor>) -> DevicePtr {
    tensor.map_or(DevicePtr::NULL, Tensor::ptr)
}

/// The logits of `rows` items from `offset` on against all of `inputs`.
pub(super) fn problem(loss: &Contrastive, inputs: &[&Tensor], offset: usize, rows: usize) -> ContrastiveProblem {
    let (columns, d) = (inputs[0].shape()[0], inputs[0].shape()[1]);
    let fixed = |scale: Scale| if let Scale::Fixed(value) = scale { value } else { 0.0 };
    let bounded = |scale: f32| loss.normalize && (0.0..=MAX_BOUNDED_SCALE).contains(&scale);
    let mode = match (loss.objective, loss.scale) {
        (Objective::Sigmoid { .. }, _) => Mode::Sigmoid,
        (Objective::Softmax, Scale::Fixed(scale)) if bounded(scale) => Mode::Bounded,
        _ => Mode::RunningMaximum,
    };
    let (scale, bias) = loss.places();
    let input = |place: Option<usize>| pointer(place.and_then(|place| inputs.get(place)).copied());
    ContrastiveProblem {
        row_ids: loss.ids.as_ref().map_or(DevicePtr::NULL, |ids| at(ids, offset)),
        column_ids: pointer(loss.ids.as_ref()),
        scale_tensor: input(scale),
        bias_tensor: input(bias),
        rows: rows as u64,
        columns: columns as u64,
        offset: offset as u64,
        d: d as u64,
        scale: fixed(loss.scale),
        bias: fixed(loss.bias()),
        mode: mode as u32,
    }
}

impl Context {
    /// Of a whole batch: every item is a row.
    pub(super) fn new(loss: &Contrastive, inputs: &[&Tensor]) -> Result<Self> {
        Self::of_rows(loss, inputs, 0, inputs[0].shape()[0])
    }

    /// Of the items from `offset` on, `rows` of them.
    pub(super) fn of_rows(loss: &Contrastive, inputs: &[&Tensor], offset: usize, rows: usize) -> Result<Self> {
        let [n, d] = inputs[0].dims::<2>("embeddings")?;
        let (device, dtype) = (inputs[0].device(), inputs[0].dtype());
        let active = loss.active();
        let f32s = |shape: &[usize], what| Tensor::empty(device, shape, DType::F32, what);
        let inverse_norms = loss.normalize.then(|| f32s(&[loss.sets, n], "inverse norms")).transpose()?;
        if let Some(norms) = &inverse_norms {
            for (set, x) in inputs.iter().enumerate().take(loss.sets) {
                if active.iter().any(|pair| pair.0 == set || pair.1 == set) {
                    // Safety: n x d elements and n of the f32 of this set, both live.
                    unsafe { kernel::norms(device.launcher(), dtype, x.ptr(), at(norms, set * n), n, d)? };
                }
            }
        }
        let (scale, bias) = loss.places();
        let softmax = f32s(&[active.len(), 2, rows, 2], "softmax normalisers")?;
        let mut context = Context {
            sets: inputs[..loss.sets].iter().map(|&set| set.clone()).collect(),
            scale: scale.map(|place| inputs[place].clone()),
            bias: bias.map(|place| inputs[place].clone()),
            rows,
            offset,
            inverse_norms,
            packed: Vec::new(),
            all_softmax: softmax.clone(),
            softmax,
            diagonal: f32s(&[active.len(), rows], "diagonal gradients")?,
        };
        if loss.variant.packs(dtype) {
            let used = |set| active.iter().any(|pair| pair.0 == set || pair.1 == set);
            context.packed =
                (0..loss.sets).map(|set| used(set).then(|| context.pack(set)).transpose()).collect::<Result<_>>()?;
        }
        Ok(context)
    }

    fn pack(&self, set: usize) -> Result<[Packed; 2]> {
        let ((n, d), x) = (self.extent(), &self.sets[set]);
        let all = Packed::new(x, x.ptr(), self.inverse_norms(set), n, d)?;
        if self.rows == n {
            return Ok([all.clone(), all]);
        }
        let (rows, norms) = self.rows_of(set);
        Ok([all, Packed::new(x, rows, norms, self.rows, d)?])
    }

    pub(super) fn device(&self) -> &Device {
        self.sets[0].device()
    }

    /// Items of the whole batch, and their length.
    pub(super) fn extent(&self) -> (usize, usize) {
        (self.sets[0].shape()[0], self.sets[0].shape()[1])
    }

    pub(super) fn inverse_norms(&self, set: usize) -> DevicePtr {
        self.inverse_norms.as_ref().map_or(DevicePtr::NULL, |t| at(t, set * self.extent().0))
    }

    /// A set and its norms, in the form that the tiles' kernels read.
    fn all(&self, set: usize) -> (DevicePtr, DevicePtr) {
        match self.packed.get(set) {
            Some(Some([all, _])) => all.pointers(),
            _ => (self.sets[set].ptr(), self.inverse_norms(set)),
        }
    }

    /// The same of the rows' part.
    fn own(&self, set: usize) -> (DevicePtr, DevicePtr) {
        match self.packed.get(set) {
            Some(Some([_, rows])) => rows.pointers(),
            _ => self.rows_of(set),
        }
    }

    /// The rows' part of a set as it was given, and of its norms.
    fn rows_of(&self, set: usize) -> (DevicePtr, DevicePtr) {
        let norms = self.inverse_norms(set);
        let norms = if norms == DevicePtr::NULL { norms } else { norms.offset(self.offset * DType::F32.size()) };
        (at(&self.sets[set], self.offset * self.extent().1), norms)
    }

    pub(super) fn problem(&self, loss: &Contrastive) -> ContrastiveProblem {
        ContrastiveProblem {
            scale_tensor: pointer(self.scale.as_ref()),
            bias_tensor: pointer(self.bias.as_ref()),
            ..problem(loss, &self.sets.iter().collect::<Vec<_>>(), self.offset, self.rows)
        }
    }

    /// The loss of a whole batch.
    pub(super) fn forward(&mut self, loss: &Contrastive) -> Result<Tensor> {
        let sums = self.sums(loss)?;
        self.finish(loss, &sums, &sums.columns, sums.strips)
    }

    /// Launches over the pairs, as many at a time as a launch takes.
    fn for_launches(
        &self,
        loss: &Contrastive,
        sums: &Sums,
        columns: (&Tensor, usize),
        merged: Option<&Tensor>,
        mut launch: impl FnMut(usize, ContrastiveForwardParams) -> Result<()>,
    ) -> Result<()> {
        let (n, rows) = (self.extent().0, self.rows);
        let pairs: Vec<ContrastivePair> = loss
            .active()
            .iter()
            .enumerate()
            .map(|(q, &(a, b, weight))| ContrastivePair {
                a: self.own(a).0,
                b: self.all(b).0,
                a_inverse_norms: self.own(a).1,
                b_inverse_norms: self.all(b).1,
                row_partials: at(&sums.rows, q * sums.strips * rows * 2),
                column_partials: at(columns.0, q * columns.1 * n * 2),
                column_sums: merged.map_or(DevicePtr::NULL, |t| at(t, q * n * 2)),
                diagonal_logits: at(&sums.matching, q * rows),
                row_softmax: at(&self.softmax, q * 4 * rows),
                column_softmax: at(&self.softmax, (q * 4 + 2) * rows),
                diagonal: at(&self.diagonal, q * rows),
                weight,
            })
            .collect();
        for (index, chunk) in pairs.chunks(MAX_PAIRS).enumerate() {
            let params = ContrastiveForwardParams {
                pairs: std::array::from_fn(|q| chunk[q.min(chunk.len() - 1)]),
                problem: self.problem(loss),
                loss_partials: DevicePtr::NULL,
                loss: DevicePtr::NULL,
                factor: loss.factor(n),
                pair_count: chunk.len() as u32,
                strips: sums.strips as u32,
                column_strips: columns.1 as u32,
                accumulate: (index > 0) as u32,
            };
            launch(index, params)?;
        }
        Ok(())
    }

    /// The tiles of every pair.
    pub(super) fn sums(&self, loss: &Contrastive) -> Result<Sums> {
        let (n, dtype, launcher) = (self.extent().0, self.sets[0].dtype(), self.device().launcher());
        let pairs = loss.active().len();
        let strips = kernel::strips(launcher, loss.variant, dtype, n)?;
        let f32s = |shape: &[usize], what| Tensor::empty(self.device(), shape, DType::F32, what);
        let sums = Sums {
            strips,
            rows: f32s(&[pairs, strips, self.rows, 2], "partial sums of rows")?,
            columns: f32s(&[pairs, strips, n, 2], "partial sums of columns")?,
            matching: f32s(&[pairs, self.rows], "matching logits")?,
        };
        self.for_launches(loss, &sums, (&sums.columns, strips), None, |_, params| {
            // Safety: every pointer is to a live tensor of the documented extent.
            unsafe { kernel::sums(launcher, loss.variant, dtype, &params) }
        })?;
        Ok(sums)
    }

    /// The sums of every column over the rows, `[pairs, columns, 2]`.
    pub(super) fn column_sums(&self, loss: &Contrastive, sums: &Sums, merged: &Tensor) -> Result<()> {
        self.for_launches(loss, sums, (&sums.columns, sums.strips), Some(merged), |_, params| {
            // Safety: every pointer is to a live tensor of the documented extent.
            unsafe { kernel::column_sums(self.device().launcher(), &params) }
        })
    }

    /// The normalisers of the rows and of the columns that match them, and the rows' loss. `columns` holds
    /// `[pairs, strips, columns, 2]` partial sums.
    pub(super) fn finish(
        &mut self,
        loss: &Contrastive,
        sums: &Sums,
        columns: &Tensor,
        strips: usize,
    ) -> Result<Tensor> {
        let launcher = self.device().launcher();
        let blocks = kernel::loss_partials(launcher, self.rows)?;
        let partials = Tensor::empty(self.device(), [MAX_PAIRS, blocks, 2], DType::F32, "partial losses")?;
        let value = Tensor::empty(self.device(), [0usize; 0], DType::F32, "loss")?;
        self.for_launches(loss, sums, (columns, strips), None, |_, params| {
            let params = ContrastiveForwardParams { loss_partials: partials.ptr(), loss: value.ptr(), ..params };
            // Safety: every pointer is to a live tensor of the documented extent; partials are f64.
            unsafe { kernel::finish(launcher, &params) }
        })?;
        Ok(value)
    }

    /// One gradient for each input that asks for it.
    pub(super) fn backward(
        &self,
        loss: &Contrastive,
        upstream: &Tensor,
        wanted: &[Option<(Tensor, Write)>],
    ) -> Result<()> {
        let device = self.device();
        upstream.expect("gradient of the loss", device, upstream.shape(), DType::F32)?;
        let (scale, bias) = loss.places();
        let of = |place: Option<usize>| place.and_then(|place| wanted.get(place)).and_then(Clone::clone);
        let (mut dscale, dbias) = (of(scale), of(bias));
        for (tensor, what) in [(&dscale, "gradient of the scale"), (&dbias, "gradient of the bias")] {
            if let Some((tensor, _)) = tensor {
                tensor.expect(what, device, tensor.shape(), DType::F32)?;
            }
        }
        let mut sets: Vec<_> = (0..loss.sets).map(|set| wanted.get(set).cloned().flatten()).collect();
        let mut pairs: Vec<(usize, (usize, usize, f32))> = loss.active().into_iter().enumerate().collect();
        // A pair whose both sets want a gradient: its logits are recomputed once for both.
        if let Some(band) = self.band(loss)? {
            for (q, pair) in std::mem::take(&mut pairs) {
                if sets[pair.0].is_some() && sets[pair.1].is_some() {
                    self.pair_gradients(loss, upstream, q, pair, band, &mut sets, dscale.as_mut())?;
                } else {
                    pairs.push((q, pair));
                }
            }
        }
        for (set, wanted) in sets.iter_mut().enumerate() {
            self.set_gradient(loss, upstream, set, &pairs, wanted.as_mut(), dscale.as_mut())?;
        }
        match dbias {
            Some((dbias, write)) => self.bias_gradient(loss, upstream, &dbias, write),
            None => Ok(()),
        }
    }

    /// The gradient of one set, and the share of the scale's that its pairs of rows have: the scale takes every pair once,
    /// from the set of its rows.
    fn set_gradient(
        &self,
        loss: &Contrastive,
        upstream: &Tensor,
        set: usize,
        pairs: &[(usize, (usize, usize, f32))],
        wanted: Option<&mut (Tensor, Write)>,
        mut dscale: Option<&mut (Tensor, Write)>,
    ) -> Result<()> {
        let (device, launcher) = (self.device(), self.device().launcher());
        if let Some((dx, _)) = &wanted {
            let [_, d] = self.sets[set].dims::<2>("embeddings")?;
            dx.expect("gradient of the embeddings", device, [self.rows, d], self.sets[set].dtype())?;
        }
        let (rows, columns): (Vec<_>, Vec<_>) =
            pairs.iter().filter(|(_, p)| p.0 == set || p.1 == set).partition(|(_, p)| p.0 == set);
        if rows.is_empty() && columns.is_empty() {
            return match wanted {
                Some((dx, Write::Overwrite)) => dx.fill_zero(),
                _ => Ok(()),
            };
        }
        // Terms that only the gradient of the set needs are kept apart from those that also give slopes.
        let groups = match dscale {
            Some(_) => vec![rows, columns],
            None => vec![[rows, columns].concat()],
        };
        let mut write = wanted.as_ref().map(|(_, write)| *write);
        for (group, terms) in groups.iter().enumerate() {
            for chunk in terms.chunks(MAX_PAIRS) {
                let slopes = (dscale.is_some() && group == 0)
                    .then(|| Tensor::empty(device, [self.rows], DType::F32, "slopes"))
                    .transpose()?;
                if wanted.is_none() && slopes.is_none() {
                    continue;
                }
                let params = ContrastiveGradientParams {
                    upstream: upstream.ptr(),
                    dx: pointer(wanted.as_ref().map(|(dx, _)| dx)),
                    slopes: pointer(slopes.as_ref()),
                    accumulate: write.map_or(0, Write::flag),
                    ..self.gradient_params(loss, set, chunk)
                };
                // Safety: every pointer is null where that is allowed, or to a live tensor of the documented extent.
                unsafe {
                    if loss.variant.packs(self.sets[0].dtype()) {
                        let (x_tiles, x_factors) = self.own(set);
                        let params = ContrastiveWgmmaGradientParams { gradient: params, x_tiles, x_factors };
                        kernel::gradient_wgmma(launcher, &params)?;
                    } else {
                        kernel::gradient(launcher, loss.variant, self.sets[0].dtype(), &params)?;
                    }
                }
                write = write.map(|_| Write::Accumulate);
                if let (Some(slopes), Some((dscale, write))) = (slopes, dscale.as_deref_mut()) {
                    self.add_slopes(&slopes, dscale, write)?;
                }
            }
        }
        Ok(())
    }

    /// The gradient of the scale gets the sum of `slopes`.
    pub(super) fn add_slopes(&self, slopes: &Tensor, dscale: &Tensor, write: &mut Write) -> Result<()> {
        let params = ContrastiveScaleParams {
            slopes: slopes.ptr(),
            upstream: DevicePtr::NULL,
            gradient: dscale.ptr(),
            n: slopes.numel() as u64,
            factor: 1.0,
            stride: 1,
            accumulate: write.flag(),
        };
        // Safety: the slopes and one element, both live.
        unsafe { kernel::scale_gradient(self.device().launcher(), &params)? };
        *write = Write::Accumulate;
        Ok(())
    }

    /// A pair seen from one of its sets.
    pub(super) fn term(&self, set: usize, q: usize, (a, b, weight): (usize, usize, f32)) -> ContrastiveTerm {
        let (n, rows) = (self.extent().0, self.rows);
        let (partner, own, other) = if a == set { (b, 0, 2) } else { (a, 2, 0) };
        ContrastiveTerm {
            partner: self.all(partner).0,
            partner_inverse_norms: self.all(partner).1,
            own_softmax: at(&self.softmax, (q * 4 + own) * rows),
            partner_softmax: at(&self.all_softmax, (q * 4 + other) * n),
            diagonal: at(&self.diagonal, q * rows),
            weight,
        }
    }

    /// Everything of a gradient launch but its destinations.
    fn gradient_params(
        &self,
        loss: &Contrastive,
        set: usize,
        pairs: &[&(usize, (usize, usize, f32))],
    ) -> ContrastiveGradientParams {
        let n = self.extent().0;
        ContrastiveGradientParams {
            terms: std::array::from_fn(|i| {
                let &(q, pair) = pairs[i.min(pairs.len() - 1)];
                self.term(set, q, pair)
            }),
            problem: self.problem(loss),
            x: self.rows_of(set).0,
            x_inverse_norms: self.rows_of(set).1,
            upstream: DevicePtr::NULL,
            dx: DevicePtr::NULL,
            slopes: DevicePtr::NULL,
            factor: loss.factor(n),
            term_count: pairs.len() as u32,
            accumulate: 0,
        }
    }

    /// The sum of the gradients of all logits, which the forward pass has left by column.
    fn bias_gradient(&self, loss: &Contrastive, upstream: &Tensor, dbias: &Tensor, write: Write) -> Result<()> {
        for (q, (_, _, weight)) in loss.active().into_iter().enumerate() {
            let params = ContrastiveScaleParams {
                slopes: at(&self.softmax, (q * 4 + 2) * self.rows + 1),
                upstream: upstream.ptr(),
                gradient: dbias.ptr(),
                n: self.rows as u64,
                factor: weight * loss.factor(self.extent().0),
                stride: 2,
                accumulate: if q == 0 { write.flag() } else { 1 },
            };
            // Safety: a pair of f32 a row and one element, both live.
            unsafe { kernel::scale_gradient(self.device().launcher(), &params)? };
        }
        Ok(())
    }
}
