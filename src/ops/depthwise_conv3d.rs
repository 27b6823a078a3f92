//! Depthwise 3-D convolution.

use crate::autograd::{Gradients, Op};
pub use crate::kernels::depthwise_conv3d::Variant;
use crate::kernels::depthwise_conv3d::{self as kernel, DepthwiseConv3dParams};
use crate::kernels::{DType, DevicePtr};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// One filter of k x k x k taps a channel, stride 1 and zeros around the volume, so that sizes do not change: as
/// `torch.nn.Conv3d(C, C, k, padding=k // 2, groups=C)`.
///
/// Inputs: x `[N, C, D1, D2, D3]` f32 or bf16; weight `[C, k, k, k]` f32 in any shape with that order of elements, such as
/// PyTorch's `[C, 1, k, k, k]`; optionally a bias `[C]` f32. Output like x. k is the number of taps the weight has, and odd.
///
/// Gradients reach all inputs. Deterministic.
///
/// # Errors
/// When the weight is not that of an odd k, on shapes or storage types that do not fit, and with [`Variant::Patches`] where
/// k exceeds [`Variant::LARGEST_PATCHED`].
#[derive(Clone, Copy, Debug, Default)]
pub struct DepthwiseConv3d {
    /// The implementation; `None` takes the faster one that can run.
    pub variant: Option<Variant>,
}

impl DepthwiseConv3d {
    fn params(&self, x: &Tensor, weight: &Tensor) -> Result<(DepthwiseConv3dParams, Variant)> {
        let shape = x.dims("depthwise_conv3d x [N, C, D1, D2, D3]")?;
        let refuse = |problem: String, hint: &str| Err(Error::argument("depthwise_conv3d", problem, hint));
        let channels = shape[1];
        if shape.contains(&0) || channels > u16::MAX as usize || shape[2..].iter().any(|&d| d > i32::MAX as usize / 2) {
            return refuse(format!("x is {x:?}"), "pass [N, C, D1, D2, D3], nothing empty, at most 65535 channels");
        }
        let taps = weight.numel() / channels;
        let odd = (1..=1023).step_by(2).find(|k| k * k * k >= taps);
        let Some(k) = odd.filter(|k| k * k * k * channels == weight.numel()) else {
            let problem =
                format!("the weight {weight:?} is no filter of k x k x k taps for each of {channels} channels");
            return refuse(problem, "pass [C, k, k, k] with an odd k");
        };
        weight.expect("depthwise_conv3d weight", x.device(), weight.shape(), DType::F32)?;
        let variant = self.variant.unwrap_or(Variant::of(k));
        if variant == Variant::Patches && k > Variant::LARGEST_PATCHED {
            let problem = format!("a row of {k} taps is too long for {variant:?}");
            return refuse(problem, "leave the variant open, or use at most 13 taps");
        }
        let params = DepthwiseConv3dParams { w: weight.ptr(), ..DepthwiseConv3dParams::new(shape, k) };
        Ok((params, variant))
    }
}

/// What the backward pass of [`DepthwiseConv3d`] keeps: tensors that live on anyway.
pub struct DepthwiseConv3dContext {
    x: Tensor,
    weight: Tensor,
}

impl Op for DepthwiseConv3d {
    type Context = DepthwiseConv3dContext;

    fn name(&self) -> &'static str {
        "depthwise_conv3d"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<(Tensor, DepthwiseConv3dContext)> {
        let (x, weight, bias) = match *inputs {
            [x, weight] => (x, weight, None),
            [x, weight, bias] => (x, weight, Some(bias)),
            _ => {
                let problem = format!("{} inputs", inputs.len());
                return Err(Error::argument(self.name(), problem, "pass x, a weight and optionally a bias"));
            }
        };
        let (params, variant) = self.params(x, weight)?;
        if let Some(bias) = bias {
            bias.expect("depthwise_conv3d bias", x.device(), [params.channels as usize], DType::F32)?;
        }
        let y = Tensor::empty(x.device(), x.shape(), x.dtype(), "activation")?;
        let bias = bias.map_or(DevicePtr::NULL, Tensor::ptr);
        let params = DepthwiseConv3dParams { x: x.ptr(), bias, y: y.ptr(), ..params };
        // Safety: live tensors of the shapes just checked; y is new.
        unsafe { kernel::convolve(x.device().launcher(), variant, x.dtype(), &params)? };
        Ok((y, DepthwiseConv3dContext { x: x.clone(), weight: weight.clone() }))
    }

    fn backward(&self, context: &DepthwiseConv3dContext, dy: &Tensor, gradients: &mut Gradients) -> Result<()> {
        let DepthwiseConv3dContext { x, weight } = context;
        let (device, dtype) = (x.device(), x.dtype());
        dy.expect("depthwise_conv3d upstream gradient", device, x.shape(), dtype)?;
        let (params, variant) = self.params(x, weight)?;
        let launcher = device.launcher();
        if let Some((dx, write)) = gradients.wanted(0)? {
            let params =
                DepthwiseConv3dParams { x: dy.ptr(), y: dx.ptr(), reversed: 1, accumulate: write.flag(), ..params };
            // Safety: dy and dx are live and have x's shape.
            unsafe { kernel::convolve(launcher, variant, dtype, &params)? };
        }
        let [dw, dbias] = [gradients.wanted(1)?, gradients.wanted(2)?];
        if dw.is_none() && dbias.is_none() {
            return Ok(());
        }
        let params = params.with_sums(launcher, dtype)?;
        let bytes = if variant == Variant::Naive { 0 } else { params.partial_bytes() };
        let partial = Tensor::empty(device, [bytes / 4], DType::F32, "depthwise_conv3d sums")?;
        let pointer = |g: &Option<(Tensor, _)>| g.as_ref().map_or(DevicePtr::NULL, |(tensor, _)| tensor.ptr());
        let flag = |g: &Option<(Tensor, crate::kernels::Write)>| g.as_ref().map_or(0, |(_, write)| write.flag());
        let params = DepthwiseConv3dParams {
            x: x.ptr(),
            g: dy.ptr(),
            dw: pointer(&dw),
            dbias: pointer(&dbias),
            partial: partial.ptr(),
            accumulate: flag(&dw) << 1 | flag(&dbias) << 2,
            ..params
        };
        // Safety: live tensors of the forward pass, destinations of the inputs' shapes, and the workspace asked for.
        unsafe { kernel::weight_gradient(launcher, variant, dtype, &params) }
    }
}
