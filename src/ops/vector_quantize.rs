//! Vector quantisation by cosine, with a codebook that follows the tokens.

use crate::autograd::{Gradients, Op};
use crate::device::Buffer;
use crate::kernels::retrieval::{self, RetrievalBestParams};
use crate::kernels::vector_quantize::{self as kernel, VectorQuantizeParams};
use crate::kernels::{DType, DevicePtr};
use crate::ops::norm::{L2Normalize, Mode};
use crate::ops::pointwise::{cast, copy_into};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// The state of a quantiser; a training forward pass updates it in place. The buffers of `vector-quantize-pytorch` 1.1.2.
#[derive(Clone, Debug)]
pub struct Codebook {
    /// f32 `[M, D]` or `[1, M, D]`: the codes. Their directions count in the search, the rows themselves are the output.
    pub embed: Tensor,
    /// f32 `[M]` or `[1, M]`: tokens of each code in a batch, averaged exponentially.
    pub cluster_size: Tensor,
}

/// Each token x `[.., D]`, f32 or bf16, to the row of the codebook that it has the largest cosine with; the smaller index of
/// equals. Arithmetic and codebook are f32. As `VectorQuantize(use_cosine_sim=True)` of `vector-quantize-pytorch` 1.1.2 without
/// k-means: its commitment loss is not computed, and no code is ever replaced.
///
/// The gradient passes straight through to the tokens. In [`Mode::Train`] the codebook then moves: `cluster_size` toward the
/// numbers of tokens, and each code toward the direction of the mean of its tokens, a code without tokens toward its own; the
/// output is of the codebook before. Deterministic. A token that is not finite comes out as NaN and moves nothing.
///
/// # Errors
/// On sizes and types that do not fit, codes longer than 2048 in training, and [`Mode::Recompute`]: the codebook has moved since.
#[derive(Clone, Debug)]
pub struct VectorQuantize {
    /// The codes.
    pub codebook: Codebook,
    /// Whether the codebook moves.
    pub mode: Mode,
    /// Weight of the old codebook in the new.
    pub decay: f64,
}

impl VectorQuantize {
    /// With a decay of 0.8.
    pub fn new(codebook: Codebook, mode: Mode) -> Self {
        VectorQuantize { codebook, mode, decay: 0.8 }
    }

    /// Tokens, codes and their length.
    fn check(&self, x: &Tensor) -> Result<[usize; 3]> {
        let Codebook { embed, cluster_size } = &self.codebook;
        let (m, d) = match embed.shape()[..] {
            [m, d] | [1, m, d] => (m, d),
            _ => (0, 0),
        };
        let n = if x.shape().last() == Some(&d) && d > 0 { x.numel() / d } else { 0 };
        if n == 0 || m == 0 || n.max(m) >= u32::MAX as usize {
            return Err(Error::argument(
                "vector_quantize",
                format!("tokens {x:?} and a codebook {embed:?}"),
                "pass at least one token [.., D] and a codebook [M, D]",
            ));
        }
        embed.expect("vector_quantize codebook", x.device(), embed.shape(), DType::F32)?;
        let sizes = cluster_size.shape().clone();
        if sizes.numel() != m {
            let problem = format!("{sizes} cluster sizes for {m} codes");
            return Err(Error::argument("vector_quantize", problem, "pass one a code"));
        }
        cluster_size.expect("vector_quantize cluster sizes", x.device(), sizes, DType::F32)?;
        let longest = kernel::longest(x.device().launcher())?;
        match self.mode {
            Mode::Recompute => Err(Error::argument(
                "vector_quantize",
                "a training pass cannot be repeated: the codebook has moved since",
                "train without micro_batch, or quantise outside what is computed again",
            )),
            Mode::Train if d > longest => Err(Error::argument(
                "vector_quantize",
                format!("codes of {d} elements in training"),
                format!("use at most {longest}"),
            )),
            _ => Ok([n, m, d]),
        }
    }
}

/// What a search found.
pub struct Nearest {
    /// u32 `[n]`: the code of each token; `u32::MAX` where no cosine is a number.
    pub indices: Buffer,
    /// f32 `[n, d]`: the tokens scaled to length 1.
    tokens: Tensor,
    /// f32 `[m, d]`: the codes scaled to length 1.
    codes: Tensor,
}

/// The code of largest cosine with each token: tokens `[n, d]`, f32 or bf16, codes `[m, d]` f32. No matrix of cosines is stored.
pub fn nearest(tokens: &Tensor, codes: &Tensor) -> Result<Nearest> {
    let ([n, d], [m, _]) = (tokens.dims("tokens")?, codes.dims("codes")?);
    codes.expect("codes", tokens.device(), [m, d], DType::F32)?;
    let (tokens, _) = L2Normalize::default().forward(&[&cast(tokens, DType::F32)?])?;
    let (codes, _) = L2Normalize::default().forward(&[codes])?;
    let device = tokens.device();
    let launcher = device.launcher();
    let strips = retrieval::strips(launcher, DType::F32, n, m)?;
    let alloc = |n: usize, what| device.alloc(n * 4, what);
    let strip_scores = alloc(strips * n, "best cosines by strip")?;
    let strip_indices = alloc(strips * n, "nearest codes by strip")?;
    let (scores, indices) = (alloc(n, "best cosines")?, alloc(n, "nearest codes")?);
    let params = RetrievalBestParams {
        queries: tokens.ptr(),
        items: codes.ptr(),
        strip_scores: strip_scores.ptr(),
        strip_indices: strip_indices.ptr(),
        scores: scores.ptr(),
        indices: indices.ptr(),
        n: n as u64,
        m: m as u64,
        d: d as u64,
        k: 1,
        strips: strips as u32,
    };
    // Safety: every pointer is to live memory of the documented extent.
    unsafe { retrieval::best(launcher, DType::F32, &params)? };
    Ok(Nearest { indices, tokens, codes })
}

impl Op for VectorQuantize {
    type Context = ();

    fn name(&self) -> &'static str {
        "vector_quantize"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<(Tensor, ())> {
        const NULL: DevicePtr = DevicePtr::NULL;
        let x = inputs[0];
        let [n, m, d] = self.check(x)?;
        let (device, launcher) = (x.device(), x.device().launcher());
        let Codebook { embed, cluster_size } = &self.codebook;
        let found = nearest(&x.reshape([n, d])?, &embed.reshape([m, d])?)?;
        let y = Tensor::empty(device, x.shape(), x.dtype(), "quantised tokens")?;
        let params = VectorQuantizeParams {
            tokens: found.tokens.ptr(),
            embed: embed.ptr(),
            unit: found.codes.ptr(),
            cluster_size: cluster_size.ptr(),
            indices: found.indices.ptr(),
            first: NULL,
            count: NULL,
            members: NULL,
            y: y.ptr(),
            n: n as u64,
            m: m as u64,
            d: d as u64,
            decay: self.decay as f32,
            weight: (1.0 - self.decay) as f32,
        };
        // Safety: live tensors of the sizes just checked; the search writes indices below m, or u32::MAX.
        unsafe { kernel::gather(launcher, x.dtype(), &params)? };
        if self.mode == Mode::Train {
            let alloc = |n: usize, what| device.alloc(n * 4, what);
            let (first, count) = (alloc(m, "first tokens of codes")?, alloc(m, "tokens of codes")?);
            let members = alloc(n, "tokens by code")?;
            let params =
                VectorQuantizeParams { first: first.ptr(), count: count.ptr(), members: members.ptr(), ..params };
            // Safety: as above; d was checked.
            unsafe { kernel::update(launcher, &params)? };
        }
        Ok((y, ()))
    }

    fn backward(&self, _: &(), dy: &Tensor, gradients: &mut Gradients) -> Result<()> {
        let Some((dx, write)) = gradients.wanted(0)? else { return Ok(()) };
        copy_into(dy, &dx, write)
    }
}
