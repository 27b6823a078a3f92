//! The channel MLP of a MetaFormer block as one operator that does not keep what it can compute again.

use crate::autograd::{Gradients, Op};
use crate::device::Device;
use crate::kernels::channels::Function;
use crate::kernels::mlp::{self as kernel, MlpParams};
use crate::kernels::{DType, DevicePtr, Write};
use crate::ops::channels::{forward_into, volumes};
use crate::ops::gemm::{Method, Operand, product_into};
use crate::ops::pointwise::{cast, copy_into, scale_into};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// What becomes of the hidden layer between the forward and the backward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hidden {
    /// Kept once, before its activation.
    #[default]
    Kept,
    /// Computed again, a sample at a time: one more matrix product, and no trace of it in the record.
    Recomputed,
}

/// Which samples a stochastic depth keeps (Huang et al. 2016), and the factor of what is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct DropPath {
    /// Of each sample.
    pub keep: Vec<bool>,
    /// 1 / (1 - rate): the expectation does not change.
    pub factor: f32,
}

/// y = x + f gamma (W2 GELU(W1 u + b1) + b2) over volumes, erf; f is 1, or of [`DropPath`], where a sample that is not kept is
/// y = x and costs nothing.
///
/// Inputs: x and u `[N, C, ...]`, f32 or bf16; W1 `[H, C]`, b1 `[H]`, W2 `[C, H]`, b2 `[C]` and gamma `[C]`, f32 (weights are
/// rounded to bf16 for products with bf16; every parameter's gradient is formed in f32). The same values, in f32 the same
/// bits, as a 1x1x1 convolution, [`BiasGelu`](super::channels::BiasGelu), another convolution and
/// [`LayerScale`](super::channels::LayerScale).
///
/// A sample at a time: the activated hidden layer exists for one sample alone, in both passes. Kept for the backward pass: u
/// and, with [`Hidden::Kept`], W1 u of the samples that are kept. Deterministic; both ways of [`Hidden`] give the same bits.
#[derive(Clone, Debug)]
pub struct Mlp {
    /// How matrix products are computed.
    pub method: Method,
    /// Whether the hidden layer is kept.
    pub hidden: Hidden,
    /// Stochastic depth, a decision a sample.
    pub drop_path: Option<DropPath>,
}

impl Mlp {
    /// With the hidden layer kept, and all samples.
    pub fn new(method: Method) -> Self {
        Mlp { method, hidden: Hidden::Kept, drop_path: None }
    }

    fn factor(&self) -> f32 {
        self.drop_path.as_ref().map_or(1.0, |paths| paths.factor)
    }

    /// The samples that are computed.
    fn kept(&self, samples: usize) -> Vec<usize> {
        (0..samples).filter(|&n| self.drop_path.as_ref().is_none_or(|paths| paths.keep[n])).collect()
    }

    fn check(&self, inputs: &[&Tensor]) -> Result<Sizes> {
        let [x, u, w1, b1, w2, b2, gamma] = inputs else {
            let hint = "pass x, u, W1, b1, W2, b2 and gamma";
            return Err(Error::argument("mlp", format!("{} inputs", inputs.len()), hint));
        };
        let [samples, channels, voxels] = volumes("mlp", u)?;
        let hidden = b1.numel();
        let device = u.device();
        x.expect("mlp x", device, u.shape(), u.dtype())?;
        w1.expect("mlp W1", device, [hidden, channels], DType::F32)?;
        b1.expect("mlp b1", device, [hidden], DType::F32)?;
        w2.expect("mlp W2", device, [channels, hidden], DType::F32)?;
        b2.expect("mlp b2", device, [channels], DType::F32)?;
        gamma.expect("mlp gamma", device, [channels], DType::F32)?;
        match &self.drop_path {
            Some(paths) if paths.keep.len() != samples || !paths.factor.is_finite() => Err(Error::argument(
                "mlp",
                format!("{} drop-path decisions of factor {} for {samples} samples", paths.keep.len(), paths.factor),
                "pass one a sample, and a finite factor",
            )),
            _ => Ok(Sizes { samples, channels, voxels, hidden }),
        }
    }
}

#[derive(Clone, Copy)]
struct Sizes {
    samples: usize,
    channels: usize,
    voxels: usize,
    hidden: usize,
}

impl Sizes {
    /// `[1, C, V]` of a sample of a tensor like u.
    fn sample(&self, x: &Tensor, n: usize) -> Result<Tensor> {
        x.view(n * self.channels * self.voxels, [1, self.channels, self.voxels])
    }

    /// `[1, H, V]`.
    fn layer(&self, device: &Device, dtype: DType) -> Result<Tensor> {
        Tensor::empty(device, [1, self.hidden, self.voxels], dtype, "hidden layer of a sample")
    }
}

/// What the backward pass of [`Mlp`] keeps.
pub struct MlpContext {
    sizes: Sizes,
    u: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    gamma: Tensor,
    hidden: Option<Tensor>,
}

impl Op for Mlp {
    type Context = MlpContext;

    fn name(&self) -> &'static str {
        "mlp"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<(Tensor, MlpContext)> {
        let sizes = self.check(inputs)?;
        let (x, u) = (inputs[0], inputs[1]);
        let (device, dtype) = (u.device(), u.dtype());
        let (w1, w2) = (cast(inputs[2], dtype)?, cast(inputs[4], dtype)?);
        let (b1, b2) = (inputs[3], inputs[5]);
        let gamma = match &self.drop_path {
            None => inputs[6].clone(),
            Some(paths) => {
                let scaled = Tensor::empty(device, [sizes.channels], DType::F32, "scaled gamma")?;
                scale_into(paths.factor, inputs[6], &scaled, Write::Overwrite)?;
                scaled
            }
        };
        let kept = self.kept(sizes.samples);
        let y = Tensor::empty(device, x.shape(), dtype, "activation")?;
        for n in (0..sizes.samples).filter(|n| !kept.contains(n)) {
            sizes.sample(&y, n)?.copy_from(&sizes.sample(x, n)?)?;
        }
        let hidden = match self.hidden {
            Hidden::Kept => {
                Some(Tensor::empty(device, [kept.len(), sizes.hidden, sizes.voxels], dtype, "hidden layer")?)
            }
            Hidden::Recomputed => None,
        };
        if !kept.is_empty() {
            let activated = sizes.layer(device, dtype)?;
            let output = Tensor::empty(device, [1, sizes.channels, sizes.voxels], dtype, "output of a sample")?;
            for (i, &n) in kept.iter().enumerate() {
                let layer = hidden.as_ref().map_or(Ok(activated.clone()), |hidden| hidden.rows(i, 1))?;
                self.first_product(&w1, &sizes.sample(u, n)?, &layer)?;
                forward_into("mlp", Function::Gelu, &layer, &[("b1", b1)], None, &activated)?;
                let (a, b) = (Operand::new(&w2, false), matrix(&activated, false));
                product_into(a, b, None, &output, Write::Overwrite, self.method)?;
                let (x, y) = (sizes.sample(x, n)?, sizes.sample(&y, n)?);
                forward_into("mlp", Function::Scale, &output, &[("b2", b2), ("gamma", &gamma)], Some(&x), &y)?;
            }
        }
        let (u, b1, b2) = (u.clone(), b1.clone(), b2.clone());
        Ok((y, MlpContext { sizes, u, w1, b1, w2, b2, gamma, hidden }))
    }

    fn backward(&self, context: &MlpContext, dy: &Tensor, gradients: &mut Gradients) -> Result<()> {
        if let Some((dx, write)) = gradients.wanted(0)? {
            copy_into(dy, &dx, write)?;
        }
        let sizes = context.sizes;
        let kept = self.kept(sizes.samples);
        let du = gradients.wanted(1)?;
        let first = [gradients.wanted(2)?, gradients.wanted(3)?];
        let second = [gradients.wanted(4)?, gradients.wanted(5)?, gradients.wanted(6)?];
        if let Some((du, Write::Overwrite)) = &du {
            for n in (0..sizes.samples).filter(|n| !kept.contains(n)) {
                sizes.sample(du, n)?.fill_zero()?;
            }
        }
        if kept.is_empty() {
            let mut fresh = first.iter().chain(&second).flatten().filter(|(_, write)| *write == Write::Overwrite);
            return fresh.try_for_each(|(gradient, _)| gradient.fill_zero());
        }
        Backward::new(self, context, [du.as_ref(), first[0].as_ref(), first[1].as_ref()], &second)?.run(dy, &kept)
    }
}

/// Channels (or units) times voxels of a sample `[1, C, V]`.
fn matrix(sample: &Tensor, transpose: bool) -> Operand<'_> {
    Operand::new(sample, transpose)
}

impl Mlp {
    /// The hidden layer before bias and activation.
    fn first_product(&self, w1: &Tensor, u: &Tensor, layer: &Tensor) -> Result<()> {
        product_into(Operand::new(w1, false), matrix(u, false), None, layer, Write::Overwrite, self.method)
    }
}

type Destination = Option<(Tensor, Write)>;

/// A backward pass under way: what it writes, and its workspace.
struct Backward<'a> {
    op: &'a Mlp,
    context: &'a MlpContext,
    du: Option<&'a (Tensor, Write)>,
    dw1: Option<&'a (Tensor, Write)>,
    db1: Option<&'a (Tensor, Write)>,
    second: &'a [Destination; 3],
    /// gamma W2, in u's type.
    folded: Tensor,
}

impl<'a> Backward<'a> {
    fn new(
        op: &'a Mlp,
        context: &'a MlpContext,
        [du, dw1, db1]: [Option<&'a (Tensor, Write)>; 3],
        second: &'a [Destination; 3],
    ) -> Result<Self> {
        let u = &context.u;
        let folded = Tensor::empty(u.device(), context.w2.shape(), u.dtype(), "scaled weight")?;
        let backward = Backward { op, context, du, dw1, db1, second, folded };
        let params = MlpParams { m: backward.folded.ptr(), ..backward.params() };
        // Safety: live tensors of the sizes in `params`, m new.
        unsafe { kernel::fold(u.device().launcher(), u.dtype(), &params)? };
        Ok(backward)
    }

    fn params(&self) -> MlpParams {
        const NULL: DevicePtr = DevicePtr::NULL;
        let Sizes { channels, voxels, hidden, .. } = self.context.sizes;
        MlpParams {
            g: NULL,
            w2: self.context.w2.ptr(),
            m: NULL,
            gamma: self.context.gamma.ptr(),
            b2: self.context.b2.ptr(),
            product: NULL,
            dw2: NULL,
            db2: NULL,
            dgamma: NULL,
            partial: NULL,
            h: NULL,
            activated: NULL,
            d: NULL,
            b1: NULL,
            db1: NULL,
            bias_partial: NULL,
            voxels: voxels as u64,
            hidden: hidden as u64,
            channels: channels as u64,
            part: 0,
            parts: 0,
            factor: self.op.factor(),
            accumulate: 0,
        }
    }

    fn run(&self, dy: &Tensor, kept: &[usize]) -> Result<()> {
        let MlpContext { sizes, u, w1, b1, hidden, .. } = self.context;
        let (device, dtype, method) = (u.device(), u.dtype(), self.op.method);
        let launcher = device.launcher();
        dy.expect("mlp upstream gradient", device, u.shape(), dtype)?;
        let parts = kernel::parts(launcher, sizes.voxels)?;
        let sums = |width: usize, what| Tensor::empty(device, [2 * kept.len() * parts * width], DType::F32, what);
        let partial = sums(sizes.channels, "sums of gradients")?;
        let bias_partial = sums(sizes.hidden, "sums of hidden gradients")?;
        let product = Tensor::empty(device, [sizes.channels, sizes.hidden], DType::F32, "gradient of a product")?;
        let (first, second) =
            (self.du.is_some() || self.dw1.is_some() || self.db1.is_some(), self.second.iter().any(Option::is_some));
        let (activated, d) = (sizes.layer(device, dtype)?, sizes.layer(device, dtype)?);
        let params = MlpParams {
            product: product.ptr(),
            partial: partial.ptr(),
            activated: activated.ptr(),
            d: if first { d.ptr() } else { DevicePtr::NULL },
            b1: b1.ptr(),
            bias_partial: bias_partial.ptr(),
            parts: (kept.len() * parts) as u64,
            ..self.params()
        };
        for (i, &n) in kept.iter().enumerate() {
            let (u, g) = (sizes.sample(u, n)?, sizes.sample(dy, n)?);
            // Computed again into the place where it is then activated.
            let layer = match hidden {
                Some(hidden) => hidden.rows(i, 1)?,
                None => {
                    self.op.first_product(w1, &u, &activated)?;
                    activated.clone()
                }
            };
            let after = |write: Write| if i == 0 { write } else { Write::Accumulate };
            if first {
                let (a, b) = (Operand::new(&self.folded, true), matrix(&g, false));
                product_into(a, b, None, &d, Write::Overwrite, method)?;
            }
            let params = MlpParams { g: g.ptr(), h: layer.ptr(), part: (i * parts) as u64, ..params };
            // Safety: live tensors of the sizes in `params`, whole samples of allocations of their own; parts of this sample are
            // its own.
            unsafe { kernel::activate(launcher, dtype, &params)? };
            if second {
                let (a, b) = (matrix(&g, false), matrix(&activated, true));
                product_into(a, b, None, &product, after(Write::Overwrite), method)?;
                // Safety: as above.
                unsafe { kernel::sums(launcher, dtype, &params)? };
            }
            if let Some((du, write)) = self.du {
                let (a, b) = (Operand::new(w1, true), matrix(&d, false));
                product_into(a, b, None, &sizes.sample(du, n)?, *write, method)?;
            }
            if let Some((dw1, write)) = self.dw1 {
                let (a, b) = (matrix(&d, false), matrix(&u, true));
                product_into(a, b, None, dw1, after(*write), method)?;
            }
        }
        if let Some((db1, write)) = self.db1 {
            let params = MlpParams { db1: db1.ptr(), accumulate: write.flag() << 3, ..params };
            // Safety: as above; all parts are written.
            unsafe { kernel::bias(launcher, &params)? };
        }
        if !second {
            return Ok(());
        }
        let pointer = |i: usize| self.second[i].as_ref().map_or(DevicePtr::NULL, |(tensor, _)| tensor.ptr());
        let flag = |i: usize| self.second[i].as_ref().map_or(0, |(_, write)| write.flag() << i);
        let params = MlpParams {
            dw2: pointer(0),
            db2: pointer(1),
            dgamma: pointer(2),
            accumulate: flag(0) | flag(1) | flag(2),
            ..params
        };
        // Safety: as above; the product and all parts are written, the destinations have the parameters' shapes.
        unsafe { kernel::finish(launcher, dtype, &params) }
    }
}
