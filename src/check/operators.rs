//! The operators of the golden format.

use super::layout::Order;
use super::{Case, Computed, imaging};
use crate::Result;
use crate::autograd::{Op, Tape, Var};
use crate::device::Device;
use crate::ops::attention::Attention;
use crate::ops::contrastive::{InfoNce, Reduction, Scale, SigLip, TriModal};
use crate::ops::conv2d::Conv2d;
use crate::ops::decomp_conv::{Activation, DecompConv, Groups, Norm};
use crate::ops::depthwise_conv3d::DepthwiseConv3d;
use crate::ops::gemm::{Linear, MatMul, Method};
use crate::ops::norm::{BatchNorm, L2Normalize, LayerNorm, Mode, RunningStats};
use crate::ops::optim::{AdamW, Group, Hyper};
use crate::ops::pointwise::{Add, Gelu, Relu};
use crate::ops::pool::{AvgPool3d, GlobalAvgPool, MaxPool2d, MaxPool3d};
use crate::ops::vector_quantize::{Codebook, VectorQuantize};
use crate::tensor::{DType, Tensor};

pub(super) fn run(case: &Case, device: &Device) -> Result<Computed> {
    let run = Runner { case, device };
    let method = Method::default_for(device);
    let (same, last) = (Order::Same, Order::ChannelsLast);
    match case.op.as_str() {
        "relu" => run.single(Relu, &[("in.x", same)], ("y", same)),
        "gelu" => run.single(Gelu, &[("in.x", same)], ("y", same)),
        "add" => run.single(Add, &[("in.a", same), ("in.b", same)], ("y", same)),
        "matmul" => {
            let (transpose_a, transpose_b) =
                (case.attr("transpose_a", Some(false))?, case.attr("transpose_b", Some(false))?);
            run.single(MatMul { transpose_a, transpose_b, method }, &[("in.a", same), ("in.b", same)], ("y", same))
        }
        "linear" => {
            let inputs = run.with_bias(&[("in.x", same), ("w.weight", same)]);
            run.single(Linear { method }, &inputs, ("y", same))
        }
        "conv2d" => {
            let op = Conv2d { stride: case.attr("stride", Some(1))?, padding: case.attr("padding", Some(0))?, method };
            let inputs = run.with_bias(&[("in.x", last), ("w.weight", last)]);
            run.single(op, &inputs, ("y", last))
        }
        "depthwise_conv3d" => {
            let inputs = run.with_bias(&[("in.x", same), ("w.weight", same)]);
            run.single(DepthwiseConv3d::default(), &inputs, ("y", same))
        }
        "attention" => run.single(Attention::default(), &[("in.q", same), ("in.k", same), ("in.v", same)], ("y", same)),
        "batch_norm" => run.batch_norm(),
        "layer_norm" => {
            let op = LayerNorm { eps: case.attr("eps", Some(1e-5))?, ..Default::default() };
            run.single(op, &run.with_bias(&[("in.x", same), ("w.weight", same)]), ("y", same))
        }
        "l2_normalize" => {
            let op = L2Normalize { eps: case.attr("eps", Some(1e-12))?, ..Default::default() };
            run.single(op, &[("in.x", same)], ("y", same))
        }
        "decomp_conv" => run.decomp_conv(),
        "vector_quantize" => run.vector_quantize(),
        "max_pool2d" => {
            let (kernel, stride, padding) =
                (case.attr("kernel", None)?, case.attr("stride", None)?, case.attr("padding", None)?);
            run.single(MaxPool2d::new(kernel, stride, padding), &[("in.x", last)], ("y", last))
        }
        "max_pool3d" => {
            let (kernel, stride, padding) =
                (case.attr("kernel", None)?, case.attr("stride", None)?, case.attr("padding", None)?);
            run.single(MaxPool3d::new(kernel, stride, padding), &[("in.x", same)], ("y", same))
        }
        "avg_pool3d" => {
            let op = AvgPool3d { minus_input: case.attr("minus_input", Some(false))?, ..Default::default() };
            run.single(op, &[("in.x", same)], ("y", same))
        }
        "global_avg_pool" => run.single(GlobalAvgPool::default(), &[("in.x", last)], ("y", same)),
        "info_nce" => run.info_nce(),
        "siglip" => run.siglip(),
        "tri_modal" => {
            let op = TriModal {
                alpha: case.attr("alpha", None)?,
                beta: case.attr("beta", None)?,
                gamma: case.attr("gamma", None)?,
                temperature: case.attr("temperature", None)?,
                reduction: run.reduction()?,
                normalize: case.attr("normalize", Some(true))?,
                ..Default::default()
            };
            run.single(op, &[("in.cxr", same), ("in.ct", same), ("in.report", same)], ("loss", same))
        }
        "adamw" => run.adamw(),
        "drr_mean_hu" => imaging::mean_hu(&run),
        "drr_line_integral" => imaging::line_integral(&run),
        "drr_posed" => imaging::posed(&run),
        "ct_resample" => imaging::resample(&run),
        "ct_preset" => imaging::preset(&run),
        other => Err(case.refuse(format!("has the operation {other:?}, which this version does not know"))),
    }
}

/// An operand by its golden name, and how it is stored inside.
type Named<'a> = (&'a str, Order);

pub(super) struct Runner<'a> {
    pub case: &'a Case,
    pub device: &'a Device,
}

impl Runner<'_> {
    fn with_bias<'n>(&self, inputs: &[Named<'n>]) -> Vec<Named<'n>> {
        let bias = self.case.tensors.contains_key("w.bias").then_some(("w.bias", Order::Same));
        inputs.iter().copied().chain(bias).collect()
    }

    fn upload(&self, (name, order): Named) -> Result<Tensor> {
        let (shape, data) = self.case.tensor(name)?;
        let (shape, data) = order.stored(shape, data);
        Tensor::from_slice(self.device, shape, DType::F32, &data)
    }

    /// Forward and backward of one operator.
    pub fn single<O: Op + 'static>(&self, op: O, inputs: &[Named], output: Named) -> Result<Computed> {
        self.with_extra(op, inputs, &[], output)
    }

    /// The same with inputs beyond those of the file, named by the gradient they get.
    fn with_extra<O: Op + 'static>(
        &self,
        op: O,
        inputs: &[Named],
        extra: &[(&str, Tensor)],
        (out_name, out_order): Named,
    ) -> Result<Computed> {
        let tape = Tape::recording();
        let tensors = inputs.iter().map(|&input| self.upload(input)).collect::<Result<Vec<_>>>()?;
        let leaves: Vec<Var> = tensors.iter().chain(extra.iter().map(|(_, t)| t)).map(|t| tape.leaf(t)).collect();
        let y = tape.apply(op, &leaves.iter().collect::<Vec<_>>())?;
        let out_key = format!("out.{out_name}");
        let (out_shape, _) = self.case.tensor(&out_key)?;
        let mut computed = Computed::from([(out_key, out_order.torch(out_shape, &y.tensor().to_vec()?))]);
        let Some(upstream) = upstream(self.case, self.device, &y, out_name, out_order)? else { return Ok(computed) };
        let gradients = tape.backward_from(&[(&y, &upstream)])?;
        let (own, others) = leaves.split_at(inputs.len());
        for ((name, order), leaf) in inputs.iter().zip(own) {
            let (Some(gradient), (shape, _)) = (gradients.get(leaf), self.case.tensor(name)?) else { continue };
            computed.insert(format!("g.{name}"), order.torch(shape, &gradient.to_vec()?));
        }
        for ((name, _), leaf) in extra.iter().zip(others) {
            if let Some(gradient) = gradients.get(leaf) {
                computed.insert(format!("g.{name}"), gradient.to_vec()?);
            }
        }
        Ok(computed)
    }

    fn batch_norm(&self) -> Result<Computed> {
        let running = RunningStats {
            mean: self.upload(("w.running_mean", Order::Same))?,
            var: self.upload(("w.running_var", Order::Same))?,
        };
        let mode = if self.case.is_training() { Mode::Train } else { Mode::Eval };
        let op = BatchNorm {
            eps: self.case.attr("eps", Some(1e-5))?,
            momentum: self.case.attr("momentum", Some(0.1))?,
            ..BatchNorm::new(mode, running.clone())
        };
        let inputs = [("in.x", Order::ChannelsLast), ("w.weight", Order::Same), ("w.bias", Order::Same)];
        let mut computed = self.single(op, &inputs, ("y", Order::ChannelsLast))?;
        computed.insert("after.running_mean".into(), running.mean.to_vec()?);
        computed.insert("after.running_var".into(), running.var.to_vec()?);
        Ok(computed)
    }

    fn vector_quantize(&self) -> Result<Computed> {
        let upload = |name| self.upload((name, Order::Same));
        let codebook = Codebook { embed: upload("w.embed")?, cluster_size: upload("w.cluster_size")? };
        let mode = if self.case.is_training() { Mode::Train } else { Mode::Eval };
        let decay = self.case.attr("decay", Some(0.8))?;
        let op = VectorQuantize { decay, ..VectorQuantize::new(codebook.clone(), mode) };
        let mut computed = self.single(op, &[("in.x", Order::Same)], ("y", Order::Same))?;
        computed.insert("after.embed".into(), codebook.embed.to_vec()?);
        computed.insert("after.cluster_size".into(), codebook.cluster_size.to_vec()?);
        Ok(computed)
    }

    fn decomp_conv(&self) -> Result<Computed> {
        let groups = match self.case.attr("groups", None)? {
            1 => Groups::Dense,
            _ => Groups::Depthwise,
        };
        let mut op = DecompConv::new(self.case.attr("kernel", None)?, self.case.attr("stride", Some(1))?, groups);
        if self.case.attr("norm", Some(true))? {
            let running =
                |axis: usize, what: &str| self.upload((&format!("w.norm.{axis}.running_{what}"), Order::Same));
            let of =
                |axis| Ok::<_, crate::Error>(RunningStats { mean: running(axis, "mean")?, var: running(axis, "var")? });
            let mode = if self.case.is_training() { Mode::Train } else { Mode::Eval };
            op.norm = Some(Norm {
                eps: self.case.attr("eps", Some(1e-5))?,
                momentum: self.case.attr("momentum", Some(0.1))?,
                ..Norm::new(mode, [of(0)?, of(1)?, of(2)?])
            });
        }
        if self.case.attr("gelu", Some(false))? {
            op.activation = Activation::Gelu;
        }
        let mut names = vec!["in.x".to_string()];
        names.extend((1..=3).map(|axis| format!("w.c{axis}.0.weight")));
        if self.case.tensors.contains_key("w.c1.0.bias") {
            names.extend((1..=3).map(|axis| format!("w.c{axis}.0.bias")));
        }
        let running = op.norm.as_ref().map(|norm| norm.running.clone());
        if running.is_some() {
            names.extend((0..3).map(|axis| format!("w.norm.{axis}.weight")));
            names.extend((0..3).map(|axis| format!("w.norm.{axis}.bias")));
        }
        let inputs: Vec<Named> = names.iter().map(|name| (name.as_str(), Order::Same)).collect();
        let mut computed = self.single(op, &inputs, ("y", Order::Same))?;
        for (axis, running) in running.iter().flatten().enumerate() {
            computed.insert(format!("after.norm.{axis}.running_mean"), running.mean.to_vec()?);
            computed.insert(format!("after.norm.{axis}.running_var"), running.var.to_vec()?);
        }
        Ok(computed)
    }

    fn reduction(&self) -> Result<Reduction> {
        match self.case.attr("reduction", Some("mean".to_string()))?.as_str() {
            "mean" => Ok(Reduction::Mean),
            "sum" => Ok(Reduction::Sum),
            other => Err(self.case.refuse(format!("attribute reduction is {other:?}; it can be mean or sum"))),
        }
    }

    fn info_nce(&self) -> Result<Computed> {
        let scale = Tensor::from_slice(self.device, [1], DType::F32, &[self.case.attr("scale", None)?])?;
        let op = InfoNce {
            reduction: self.reduction()?,
            normalize: self.case.attr("normalize", Some(true))?,
            ..InfoNce::new(Scale::Learnable)
        };
        let inputs = [("in.a", Order::Same), ("in.b", Order::Same)];
        self.with_extra(op, &inputs, &[("scale", scale)], ("loss", Order::Same))
    }

    fn siglip(&self) -> Result<Computed> {
        let number = |name: &str| Tensor::from_slice(self.device, [1], DType::F32, &[self.case.attr(name, None)?]);
        let op = SigLip {
            reduction: self.reduction()?,
            normalize: self.case.attr("normalize", Some(true))?,
            ..SigLip::new(Scale::Learnable, Scale::Learnable)
        };
        let inputs = [("in.a", Order::Same), ("in.b", Order::Same)];
        let extra = [("scale", number("scale")?), ("bias", number("bias")?)];
        self.with_extra(op, &inputs, &extra, ("loss", Order::Same))
    }

    fn adamw(&self) -> Result<Computed> {
        let parameters = self.upload(("in.param", Order::Same))?;
        let weight_decay = self.case.attr("weight_decay", None)?;
        let all = Group { begin: 0, end: parameters.numel(), weight_decay, lr_scale: 1.0 };
        let mut optimizer = adamw(self.case, &parameters, &[all])?;
        let (steps, lr): (usize, f64) = (self.case.attr("steps", None)?, self.case.attr("lr", None)?);
        for step in 1..=steps {
            optimizer.step(&self.upload((&format!("in.grad.{step}"), Order::Same))?, lr)?;
        }
        Ok(Computed::from([
            ("out.param".to_string(), parameters.to_vec()?),
            ("out.exp_avg".to_string(), optimizer.exp_avg().to_vec()?),
            ("out.exp_avg_sq".to_string(), optimizer.exp_avg_sq().to_vec()?),
        ]))
    }
}

/// The optimizer of a case, over one arena.
pub(super) fn adamw(case: &Case, parameters: &Tensor, groups: &[Group]) -> Result<AdamW> {
    let [beta1, beta2]: [f64; 2] = case.attr("betas", None)?;
    let max_norm: f64 = case.attr("max_norm", Some(0.0))?;
    let hyper = Hyper { beta1, beta2, eps: case.attr("eps", None)?, max_norm: (max_norm > 0.0).then_some(max_norm) };
    AdamW::new(parameters, groups, hyper)
}

/// The gradient arriving at an output: `up.NAME`, or 1 for a scalar loss, or none.
pub(super) fn upstream(case: &Case, device: &Device, y: &Var, name: &str, order: Order) -> Result<Option<Tensor>> {
    let data = match case.tensors.get(&format!("up.{name}")) {
        Some((shape, data)) => order.stored(shape, data).1,
        None if y.tensor().numel() == 1 => vec![1.0],
        None => return Ok(None),
    };
    Tensor::from_slice(device, y.tensor().shape(), y.tensor().dtype(), &data).map(Some)
}
