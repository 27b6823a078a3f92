//! Multi-head self-attention.

use crate::autograd::{Gradients, Op};
pub use crate::kernels::attention::Variant;
use crate::kernels::attention::{self as kernel, AttentionParams};
use crate::kernels::{DType, DevicePtr, Write};
use crate::tensor::{Shape, Tensor};
use crate::{Error, Result};

/// o = softmax(q k^T / sqrt(d)) v for each sample and head, as `torch.nn.functional.scaled_dot_product_attention`.
///
/// Inputs: q, k, v `[N, H, T, d]` f32 or bf16; output like them. Arithmetic is f32. Memory beyond the inputs, the output and
/// their gradients is 8 bytes a row: the T x T weights are computed again by the backward pass. Deterministic.
///
/// # Errors
/// On shapes or storage types that differ, and with [`Variant::Tiled`] where a head has more than
/// [`Variant::LARGEST_TILED`] dimensions.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attention {
    /// The implementation; `None` takes the faster one that can run.
    pub variant: Option<Variant>,
}

/// [`Attention`] over tokens as a linear layer leaves them: one input `[N, T, 3 H d]`, of each token first the queries of all
/// heads, then the keys, then the values, to `[N, T, H d]`. Nothing is permuted or copied.
#[derive(Clone, Copy, Debug)]
pub struct PackedAttention {
    /// H.
    pub heads: usize,
    /// The implementation; `None` takes the faster one that can run.
    pub variant: Option<Variant>,
}

/// What the backward pass keeps: inputs and output, which live on anyway, and a number a row.
pub struct AttentionContext {
    /// Keeps q, k and v alive, which `params` points to.
    _inputs: Vec<Tensor>,
    o: Tensor,
    lse: Tensor,
    params: AttentionParams,
    variant: Variant,
}

fn variant(name: &str, wanted: Option<Variant>, head_dim: usize) -> Result<Variant> {
    if wanted == Some(Variant::Tiled) && Variant::of(head_dim) != Variant::Tiled {
        let problem = format!("a head of {head_dim} dimensions is too large for the tiled variant");
        return Err(Error::argument(name, problem, "leave the variant open, or use at most 64 dimensions"));
    }
    Ok(wanted.unwrap_or(Variant::of(head_dim)))
}

/// Runs the forward pass; `params` has q, k and v.
fn forward(
    inputs: &[&Tensor],
    output: Shape,
    params: AttentionParams,
    variant: Variant,
) -> Result<(Tensor, AttentionContext)> {
    let (device, dtype) = (inputs[0].device(), inputs[0].dtype());
    let o = Tensor::empty(device, output, dtype, "attention output")?;
    let rows = params.batch as usize * params.heads as usize * params.tokens as usize;
    let lse = Tensor::empty(device, [rows], DType::F32, "attention sums")?;
    let params = AttentionParams { o: o.ptr(), lse: lse.ptr(), ..params };
    // Safety: live tensors of the shapes the callers checked; o and lse are new.
    unsafe { kernel::forward(device.launcher(), variant, dtype, &params)? };
    let _inputs = inputs.iter().map(|&tensor| tensor.clone()).collect();
    Ok((o.clone(), AttentionContext { _inputs, o, lse, params, variant }))
}

/// Runs the backward pass; `destinations` are those of q, k and v.
fn backward(
    name: &str,
    context: &AttentionContext,
    g: &Tensor,
    destinations: [(DevicePtr, Option<Write>); 3],
) -> Result<()> {
    let AttentionContext { o, lse, params, variant, .. } = context;
    let (device, dtype) = (o.device(), o.dtype());
    g.expect(&format!("{name} upstream gradient"), device, o.shape(), dtype)?;
    let delta = Tensor::empty(device, lse.shape(), DType::F32, "attention workspace")?;
    let flag = |i: usize| destinations[i].1.map_or(0, |write: Write| write.flag() << i);
    let [(dq, _), (dk, _), (dv, _)] = destinations;
    let accumulate = flag(0) | flag(1) | flag(2);
    let params = AttentionParams { g: g.ptr(), dq, dk, dv, delta: delta.ptr(), accumulate, ..*params };
    // Safety: the context keeps what the forward pass read and wrote; the destinations have the inputs' shapes.
    unsafe { kernel::backward(device.launcher(), *variant, dtype, &params) }
}

impl Op for Attention {
    type Context = AttentionContext;

    fn name(&self) -> &'static str {
        "attention"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<(Tensor, AttentionContext)> {
        let [q, k, v] = *inputs else {
            let problem = format!("{} inputs", inputs.len());
            return Err(Error::argument(self.name(), problem, "pass q, k and v"));
        };
        let shape @ [_, heads, tokens, d] = q.dims("attention q [N, H, T, d]")?;
        check(self.name(), q, shape)?;
        k.expect("attention k", q.device(), q.shape(), q.dtype())?;
        v.expect("attention v", q.device(), q.shape(), q.dtype())?;
        let strides = [heads * tokens * d, tokens * d, d].map(|s| s as u64);
        let params =
            AttentionParams { q: q.ptr(), k: k.ptr(), v: v.ptr(), ..AttentionParams::new(shape, strides, strides) };
        forward(inputs, q.shape().clone(), params, variant(self.name(), self.variant, d)?)
    }

    fn backward(&self, context: &AttentionContext, dy: &Tensor, gradients: &mut Gradients) -> Result<()> {
        let wanted = [gradients.wanted(0)?, gradients.wanted(1)?, gradients.wanted(2)?];
        let destination = |g: &Option<(Tensor, Write)>| {
            g.as_ref().map_or((DevicePtr::NULL, None), |(tensor, write)| (tensor.ptr(), Some(*write)))
        };
        backward(self.name(), context, dy, wanted.each_ref().map(destination))
    }
}

impl Op for PackedAttention {
    type Context = AttentionContext;

    fn name(&self) -> &'static str {
        "packed_attention"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<(Tensor, AttentionContext)> {
        let x = inputs[0];
        let [n, tokens, width] = x.dims("packed_attention x [N, T, 3 H d]")?;
        if self.heads == 0 || width % (3 * self.heads) != 0 {
            let problem = format!("{width} values a token are not queries, keys and values of {} heads", self.heads);
            return Err(Error::argument(self.name(), problem, "pass [N, T, 3 H d]"));
        }
        let (channels, d) = (width / 3, width / 3 / self.heads);
        let shape = [n, self.heads, tokens, d];
        check(self.name(), x, shape)?;
        let strides = |width: usize| [tokens * width, d, width].map(|s| s as u64);
        let [k, v] = [1, 2].map(|part| x.ptr().offset(part * channels * x.dtype().size()));
        let params =
            AttentionParams { q: x.ptr(), k, v, ..AttentionParams::new(shape, strides(width), strides(channels)) };
        forward(inputs, [n, tokens, channels].into(), params, variant(self.name(), self.variant, d)?)
    }

    fn backward(&self, context: &AttentionContext, dy: &Tensor, gradients: &mut Gradients) -> Result<()> {
        let Some((dx, write)) = gradients.wanted(0)? else { return Ok(()) };
        let part = dy.shape()[2] * dy.dtype().size();
        backward(self.name(), context, dy, [0, 1, 2].map(|i| (dx.ptr().offset(i * part), Some(write))))
    }
}

/// Sizes that kernels index with 32 bits.
fn check(name: &str, x: &Tensor, [_, heads, tokens, d]: [usize; 4]) -> Result<()> {
    if d > 0 && [heads, tokens, d].iter().all(|&n| n <= i32::MAX as usize / 2) {
        return Ok(());
    }
    Err(Error::argument(name, format!("{x:?} has no dimensions, or 2^30 tokens"), "use at least one dimension a head"))
}
