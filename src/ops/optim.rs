//! AdamW with global gradient-norm clipping over one flat arena of parameters. Not an operator: it has no gradient.

use std::mem::{offset_of, size_of};

use crate::device::Buffer;
pub use crate::kernels::columns::Order;
use crate::kernels::optim::{self as kernel, AdamWParams, AdamWRange, AdamWState};
use crate::kernels::{DType, DevicePtr};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// The constants of AdamW.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hyper {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Gradients whose norm (over the whole arena) is larger are scaled down to it; `None` never scales.
    pub max_norm: Option<f64>,
}

impl Default for Hyper {
    /// PyTorch's: 0.9, 0.999, 1e-8, no clipping.
    fn default() -> Self {
        Hyper { beta1: 0.9, beta2: 0.999, eps: 1e-8, max_norm: None }
    }
}

/// A range of the arena and its rates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Group {
    /// First parameter.
    pub begin: usize,
    /// One past the last.
    pub end: usize,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Factor of the learning rate.
    pub lr_scale: f32,
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Norm of the gradients before clipping; not finite when they are not.
    pub grad_norm: f64,
    /// What the gradients were multiplied by.
    pub clip: f32,
    /// The norm was not finite, or its square after clipping beyond f32: parameters, moments and the step count are as before.
    pub skipped: bool,
    /// Updates done so far.
    pub step: u64,
}

/// AdamW (Loshchilov and Hutter, "Decoupled weight decay regularization", Algorithm 2) with PyTorch's semantics, of
/// `clip_grad_norm_` too.
///
/// Everything a step reads lives in device memory, and [`AdamW::enqueue`] neither allocates nor waits: it can be captured
/// in a graph and replayed, with [`AdamW::set_lr`] between replays. Deterministic.
pub struct AdamW {
    hyper: Hyper,
    parameters: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    copy: Option<Tensor>,
    ranges: Buffer,
    range_count: usize,
    first_range: Buffer,
    state: Buffer,
    partial: Buffer,
    order: Order,
}

impl AdamW {
    /// An optimizer of `parameters`, `[n]` f32, with zero moments. Groups are in order and do not overlap; what lies
    /// between them is padding, whose gradient must be zero, and never moves.
    pub fn new(parameters: &Tensor, groups: &[Group], hyper: Hyper) -> Result<Self> {
        let device = parameters.device();
        let n = parameters.numel();
        check_arena("adamw parameters", parameters, n, DType::F32)?;
        if n == 0 {
            return Err(Error::argument("adamw", "there are no parameters", "pass at least one"));
        }
        let decays = [hyper.beta1, hyper.beta2].iter().all(|beta| (0.0..1.0).contains(beta));
        let clips = hyper.max_norm.is_none_or(|norm| norm > 0.0 && norm.is_finite());
        if !decays || hyper.eps.is_nan() || hyper.eps < 0.0 || !clips {
            return Err(Error::argument(
                "adamw",
                format!("{hyper:?}"),
                "use betas in [0, 1), eps of at least 0 and a positive, finite max_norm",
            ));
        }
        let ranges = ranges(groups, n)?;
        let launcher = device.launcher();
        let tile = kernel::update_tile(launcher)?;
        let first: Vec<u32> = (0..n.div_ceil(tile))
            .map(|t| ranges.partition_point(|range| range.end <= (t * tile) as u64) as u32)
            .collect();
        let upload = |bytes: &[u8], what| -> Result<Buffer> {
            let buffer = device.alloc(bytes.len(), what)?;
            buffer.upload(0, bytes)?;
            Ok(buffer)
        };
        let state = AdamWState { max_norm: hyper.max_norm.unwrap_or(0.0), ..Default::default() };
        Ok(AdamW {
            hyper,
            parameters: parameters.clone(),
            exp_avg: Tensor::zeros(device, [n], DType::F32, "first moments")?,
            exp_avg_sq: Tensor::zeros(device, [n], DType::F32, "second moments")?,
            copy: None,
            ranges: upload(bytemuck::cast_slice(&ranges), "AdamW ranges")?,
            range_count: ranges.len(),
            first_range: upload(bytemuck::cast_slice(&first), "AdamW tiles")?,
            state: upload(bytemuck::bytes_of(&state), "AdamW state")?,
            partial: device.alloc(kernel::norm_geometry(launcher, n)?.0 * size_of::<f64>(), "AdamW norm workspace")?,
            order: Order::of(launcher),
        })
    }

    /// Also writes the parameters, rounded to bf16, into `copy` (`[n]` bf16) at each step.
    pub fn with_bf16_copy(mut self, copy: &Tensor) -> Result<Self> {
        self.check_arena("adamw bf16 copy", copy, DType::Bf16)?;
        self.copy = Some(copy.clone());
        Ok(self)
    }

    /// With a chosen order of memory accesses instead of the one that suits the device.
    pub fn with_order(self, order: Order) -> Self {
        AdamW { order, ..self }
    }

    /// One step with the gradients `[n]` f32 and this learning rate; waits for the report.
    pub fn step(&mut self, gradients: &Tensor, lr: f64) -> Result<StepReport> {
        self.set_lr(lr)?;
        self.enqueue(gradients)?;
        self.report()
    }

    /// The learning rate of the steps queued from here on.
    pub fn set_lr(&mut self, lr: f64) -> Result<()> {
        if !lr.is_finite() || lr < 0.0 {
            return Err(Error::argument("adamw", format!("the learning rate {lr}"), "use a finite one of at least 0"));
        }
        self.state.upload(offset_of!(AdamWState, lr), &lr.to_ne_bytes())
    }

    /// Queues one step at the learning rate last set.
    pub fn enqueue(&mut self, gradients: &Tensor) -> Result<()> {
        self.check_arena("adamw gradients", gradients, DType::F32)?;
        let params = AdamWParams {
            gradient: gradients.ptr(),
            parameter: self.parameters.ptr(),
            exp_avg: self.exp_avg.ptr(),
            exp_avg_sq: self.exp_avg_sq.ptr(),
            copy: self.copy.as_ref().map_or(DevicePtr::NULL, Tensor::ptr),
            ranges: self.ranges.ptr(),
            first_range: self.first_range.ptr(),
            state: self.state.ptr(),
            partial: self.partial.ptr(),
            n: self.parameters.numel() as u64,
            beta1: self.hyper.beta1,
            beta2: self.hyper.beta2,
            eps: self.hyper.eps as f32,
            range_count: self.range_count as u32,
            norm_blocks: 0,
            norm_visits: 0,
            blocked: 0,
        };
        // Safety: live buffers of this arena's size, aligned; the tables were made for it.
        unsafe { kernel::adamw(self.parameters.device().launcher(), self.order, &params) }
    }

    /// What the last step did; waits for it.
    pub fn report(&self) -> Result<StepReport> {
        let state = self.read_state()?;
        Ok(StepReport { grad_norm: state.grad_norm, clip: state.clip, skipped: state.finite == 0, step: state.step })
    }

    /// Steps that were skipped ([`StepReport::skipped`]); waits for the device.
    pub fn skipped(&self) -> Result<u64> {
        Ok(self.read_state()?.skipped)
    }

    /// Updates done; waits for the device.
    pub fn steps(&self) -> Result<u64> {
        Ok(self.read_state()?.step)
    }

    /// Continues a run that had done `steps` updates; restore the moments too.
    pub fn set_steps(&mut self, steps: u64) -> Result<()> {
        self.state.upload(offset_of!(AdamWState, step), &steps.to_ne_bytes())
    }

    /// The parameters.
    pub fn parameters(&self) -> &Tensor {
        &self.parameters
    }

    /// First moments, `[n]` f32; a checkpoint stores them and writes them back in place.
    pub fn exp_avg(&self) -> &Tensor {
        &self.exp_avg
    }

    /// Second moments, likewise.
    pub fn exp_avg_sq(&self) -> &Tensor {
        &self.exp_avg_sq
    }

    fn read_state(&self) -> Result<AdamWState> {
        let mut state = AdamWState::default();
        self.state.download(0, bytemuck::bytes_of_mut(&mut state))?;
        Ok(state)
    }

    fn check_arena(&self, what: &str, tensor: &Tensor, dtype: DType) -> Result<()> {
        tensor.expect(what, self.parameters.device(), [self.parameters.numel()], dtype)?;
        check_arena(what, tensor, self.parameters.numel(), dtype)
    }
}

/// A flat tensor that 16-byte vectors can walk.
fn check_arena(what: &str, tensor: &Tensor, n: usize, dtype: DType) -> Result<()> {
    tensor.expect(what, tensor.device(), [n], dtype)?;
    if !tensor.ptr().0.is_multiple_of(16) {
        return Err(Error::argument(
            what,
            "starts at an odd address",
            "pass a tensor that starts at a multiple of 16 bytes",
        ));
    }
    Ok(())
}

/// The device's table: neighbours with equal rates merged, gaps and the rest of the arena held still.
fn ranges(groups: &[Group], n: usize) -> Result<Vec<AdamWRange>> {
    let mut ranges: Vec<AdamWRange> = Vec::new();
    let mut push = |end: usize, weight_decay: f32, lr_scale: f32| match ranges.last_mut() {
        Some(last) if (last.weight_decay, last.lr_scale) == (weight_decay, lr_scale) => last.end = end as u64,
        _ => ranges.push(AdamWRange { end: end as u64, weight_decay, lr_scale, decay: 1.0, step_size: 0.0 }),
    };
    let mut at = 0;
    for group in groups {
        let rates = [group.weight_decay, group.lr_scale].iter().all(|rate| rate.is_finite() && *rate >= 0.0);
        if group.begin < at || group.end < group.begin || group.end > n || !rates {
            return Err(Error::argument(
                "adamw groups",
                format!("{group:?} after parameter {at} of {n}"),
                "list disjoint ranges in order, with finite rates of at least 0",
            ));
        }
        if group.begin > at {
            push(group.begin, 0.0, 0.0);
        }
        if group.end > group.begin {
            push(group.end, group.weight_decay, group.lr_scale);
        }
        at = group.end;
    }
    if at < n {
        push(n, 0.0, 0.0);
    }
    Ok(ranges)
}
