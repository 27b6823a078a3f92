//! The operators of the golden format.

use super::layout::{Order, alike};
use super::models::MODELS;
use super::{Case, Computed, imaging};
use crate::autograd::{Op, Tape, Var};
use crate::device::Device;
use crate::ops::attention::Attention;
use crate::ops::bce::BceWithLogits;
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
use crate::{Result, suggest};

type Operator = fn(&Runner) -> Result<Computed>;

/// Every operator of the format.
const OPERATORS: [(&str, Operator); 27] = [
    ("adamw", |run| run.adamw()),
    ("add", |run| run.single(Add, &[A, B], ("y", Order::Same))),
    ("attention", |run| run.single(Attention::default(), &["in.q", "in.k", "in.v"].map(same), ("y", Order::Same))),
    ("avg_pool3d", |run| run.avg_pool3d()),
    ("batch_norm", |run| run.batch_norm()),
    ("bce_with_logits", |run| run.bce_with_logits()),
    ("conv2d", |run| run.conv2d()),
    ("ct_preset", imaging::preset),
    ("ct_resample", imaging::resample),
    ("decomp_conv", |run| run.decomp_conv()),
    ("depthwise_conv3d", |run| run.depthwise_conv3d()),
    ("drr_line_integral", imaging::line_integral),
    ("drr_mean_hu", imaging::mean_hu),
    ("drr_posed", imaging::posed),
    ("gelu", |run| run.single(Gelu, &[X], ("y", Order::Same))),
    ("global_avg_pool", |run| run.single(GlobalAvgPool::default(), &[X_LAST], ("y", Order::Same))),
    ("info_nce", |run| run.info_nce()),
    ("l2_normalize", |run| {
        let op = L2Normalize { eps: run.case.within("eps", Some(1e-12), 0.0..=1.0)?, ..Default::default() };
        run.single(op, &[X], ("y", Order::Same))
    }),
    ("layer_norm", |run| {
        let op = LayerNorm { eps: run.eps()?, ..Default::default() };
        run.single(op, &run.with_bias(&[X, WEIGHT])?, ("y", Order::Same))
    }),
    ("linear", |run| {
        let op = Linear { method: Method::default_for(run.device) };
        run.single(op, &run.with_bias(&[X, WEIGHT])?, ("y", Order::Same))
    }),
    ("matmul", |run| run.matmul()),
    ("max_pool2d", |run| {
        let [kernel, stride, padding] = run.pooling()?;
        run.single(MaxPool2d::new(kernel, stride, padding), &[X_LAST], ("y", Order::ChannelsLast))
    }),
    ("max_pool3d", |run| {
        let [kernel, stride, padding] = run.pooling()?;
        run.single(MaxPool3d::new(kernel, stride, padding), &[X], ("y", Order::Same))
    }),
    ("relu", |run| run.single(Relu, &[X], ("y", Order::Same))),
    ("siglip", |run| run.siglip()),
    ("tri_modal", |run| {
        run.single(tri_modal(run.case)?, &["in.cxr", "in.ct", "in.report"].map(same), ("loss", Order::Same))
    }),
    ("vector_quantize", |run| run.vector_quantize()),
];

pub(super) fn run(case: &Case, device: &Device) -> Result<Computed> {
    match OPERATORS.iter().find(|(name, _)| *name == case.op) {
        Some((_, operator)) => operator(&Runner { case, device }),
        None => Err(unknown(case)),
    }
}

/// Of an operation that is none.
pub(super) fn unknown(case: &Case) -> crate::Error {
    let operators = OPERATORS.iter().map(|(name, _)| *name);
    let models = MODELS.iter().map(|(name, _)| *name);
    let known: Vec<&str> = operators.chain(models).chain(super::trajectory::NAMES).collect();
    case.fault("op", suggest::unknown("operation", &case.op, &known))
}

/// An operand by its golden name, and how it is stored inside.
type Named<'a> = (&'a str, Order);

const X: Named = same("in.x");
const X_LAST: Named = ("in.x", Order::ChannelsLast);
const A: Named = same("in.a");
const B: Named = same("in.b");
const WEIGHT: Named = same("w.weight");

/// An operand stored as in PyTorch.
const fn same(name: &str) -> Named<'_> {
    (name, Order::Same)
}

pub(super) struct Runner<'a> {
    pub case: &'a Case,
    pub device: &'a Device,
}

impl Runner<'_> {
    /// An attribute that an operator takes as f32.
    pub fn number(&self, name: &str, default: Option<f64>, low: f64, high: f64) -> Result<f32> {
        number(self.case, name, default, low, high)
    }

    fn eps(&self) -> Result<f64> {
        self.case.within("eps", Some(1e-5), 0.0..=1.0)
    }

    fn momentum(&self) -> Result<f64> {
        self.case.within("momentum", Some(0.1), 0.0..=1.0)
    }

    /// Kernel, stride and padding.
    fn pooling(&self) -> Result<[usize; 3]> {
        let case = self.case;
        Ok([
            case.within("kernel", None, 1..=16)?,
            case.within("stride", None, 1..=16)?,
            case.within("padding", None, 0..=8)?,
        ])
    }

    /// The operands, and the bias where the file has one.
    fn with_bias<'n>(&self, inputs: &[Named<'n>]) -> Result<Vec<Named<'n>>> {
        let bias = self.case.optional("w.bias").is_some();
        self.case.states("bias", bias)?;
        Ok(inputs.iter().copied().chain(bias.then_some(same("w.bias"))).collect())
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
        let torch =
            |tensor: &Tensor, order: Order| Ok::<_, crate::Error>(order.torch(tensor.shape(), &tensor.to_vec()?));
        let mut computed = Computed::from([(format!("out.{out_name}"), torch(y.tensor(), out_order)?)]);
        let Some(upstream) = upstream(self.case, self.device, &y, out_name, out_order)? else { return Ok(computed) };
        let gradients = tape.backward_from(&[(&y, &upstream)])?;
        let names = inputs.iter().copied().chain(extra.iter().map(|(name, _)| same(name)));
        for ((name, order), leaf) in names.zip(&leaves) {
            if let Some(gradient) = gradients.get(leaf) {
                computed.insert(format!("g.{name}"), torch(gradient, order)?);
            }
        }
        Ok(computed)
    }

    /// What a buffer holds after the pass.
    fn after<const N: usize>(&self, computed: &mut Computed, buffers: [(&str, &Tensor); N]) -> Result<()> {
        for (name, tensor) in buffers {
            computed.insert(format!("after.{name}"), (tensor.shape().clone(), tensor.to_vec()?));
        }
        Ok(())
    }

    fn mode(&self) -> Result<Mode> {
        Ok(if self.case.is_training()? { Mode::Train } else { Mode::Eval })
    }

    fn running(&self, prefix: &str) -> Result<RunningStats> {
        let upload = |what: &str| self.upload(same(&format!("{prefix}running_{what}")));
        Ok(RunningStats { mean: upload("mean")?, var: upload("var")? })
    }

    fn matmul(&self) -> Result<Computed> {
        let transposed = |name| self.case.attr(name, Some(false));
        let op = MatMul {
            transpose_a: transposed("transpose_a")?,
            transpose_b: transposed("transpose_b")?,
            method: Method::default_for(self.device),
        };
        self.single(op, &[A, B], ("y", Order::Same))
    }

    fn conv2d(&self) -> Result<Computed> {
        let op = Conv2d {
            stride: self.case.within("stride", Some(1), 1..=64)?,
            padding: self.case.within("padding", Some(0), 0..=64)?,
            method: Method::default_for(self.device),
        };
        let inputs = self.with_bias(&[X_LAST, ("w.weight", Order::ChannelsLast)])?;
        self.single(op, &inputs, ("y", Order::ChannelsLast))
    }

    fn depthwise_conv3d(&self) -> Result<Computed> {
        let [_, _, kernel, _, _] = self.case.dims("w.weight")?;
        self.case.states("kernel", kernel)?;
        self.single(DepthwiseConv3d::default(), &self.with_bias(&[X, WEIGHT])?, ("y", Order::Same))
    }

    fn avg_pool3d(&self) -> Result<Computed> {
        for (name, only) in [("kernel", 3), ("stride", 1), ("padding", 1)] {
            self.case.states(name, only)?;
        }
        let op = AvgPool3d { minus_input: self.case.attr("minus_input", Some(false))?, ..Default::default() };
        self.single(op, &[X], ("y", Order::Same))
    }

    fn batch_norm(&self) -> Result<Computed> {
        let running = self.running("w.")?;
        let op =
            BatchNorm { eps: self.eps()?, momentum: self.momentum()?, ..BatchNorm::new(self.mode()?, running.clone()) };
        let mut computed = self.single(op, &[X_LAST, WEIGHT, same("w.bias")], ("y", Order::ChannelsLast))?;
        self.after(&mut computed, [("running_mean", &running.mean), ("running_var", &running.var)])?;
        Ok(computed)
    }

    fn vector_quantize(&self) -> Result<Computed> {
        let upload = |name| self.upload(same(name));
        let codebook = Codebook { embed: upload("w.embed")?, cluster_size: upload("w.cluster_size")? };
        let decay = self.case.within("decay", Some(0.8), 0.0..=1.0)?;
        let op = VectorQuantize { decay, ..VectorQuantize::new(codebook.clone(), self.mode()?) };
        let mut computed = self.single(op, &[X], ("y", Order::Same))?;
        self.after(&mut computed, [("embed", &codebook.embed), ("cluster_size", &codebook.cluster_size)])?;
        Ok(computed)
    }

    fn decomp_conv(&self) -> Result<Computed> {
        let case = self.case;
        let [_, channels, ..]: [usize; 5] = case.dims("in.x")?;
        let groups = match case.attr("groups", None)? {
            1 => Groups::Dense,
            n if n == channels => Groups::Depthwise,
            n => return Err(case.fault("attrs.groups", format!("is {n}; it can be 1 or {channels}, the channels"))),
        };
        let _in_words: String = case.attr("axes", Some(String::new()))?;
        let mut op =
            DecompConv::new(case.within("kernel", None, 1..=64)?, case.within("stride", Some(1), 1..=64)?, groups);
        if case.attr("norm", Some(true))? {
            let of = |axis: usize| self.running(&format!("w.norm.{axis}."));
            op.norm = Some(Norm {
                eps: self.eps()?,
                momentum: self.momentum()?,
                ..Norm::new(self.mode()?, [of(0)?, of(1)?, of(2)?])
            });
        } else {
            // Written by some with every case, and without a meaning here.
            self.eps()?;
            self.momentum()?;
        }
        if case.attr("gelu", Some(false))? {
            op.activation = Activation::Gelu;
        }
        let mut names = vec!["in.x".to_string()];
        names.extend((1..=3).map(|axis| format!("w.c{axis}.0.weight")));
        let bias = case.optional("w.c1.0.bias").is_some();
        case.states("bias", bias)?;
        if bias {
            names.extend((1..=3).map(|axis| format!("w.c{axis}.0.bias")));
        }
        let running = op.norm.as_ref().map(|norm| norm.running.clone());
        if running.is_some() {
            names.extend((0..3).map(|axis| format!("w.norm.{axis}.weight")));
            names.extend((0..3).map(|axis| format!("w.norm.{axis}.bias")));
        }
        let inputs: Vec<Named> = names.iter().map(|name| same(name)).collect();
        let mut computed = self.single(op, &inputs, ("y", Order::Same))?;
        for (axis, running) in running.iter().flatten().enumerate() {
            let [mean, var] = ["mean", "var"].map(|what| format!("norm.{axis}.running_{what}"));
            self.after(&mut computed, [(&mean, &running.mean), (&var, &running.var)])?;
        }
        Ok(computed)
    }

    /// A number that gets a gradient as an input does.
    fn learnable(&self, name: &'static str, low: f64) -> Result<(&'static str, Tensor)> {
        let value = self.number(name, None, low, 1e6)?;
        Ok((name, Tensor::from_slice(self.device, [1], DType::F32, &[value])?))
    }

    fn info_nce(&self) -> Result<Computed> {
        let (reduction, normalize) = loss(self.case)?;
        let op = InfoNce { reduction, normalize, ..InfoNce::new(Scale::Learnable) };
        // How far PyTorch's own f32 is from the case, by tensor: for the reader.
        let margins: std::collections::BTreeMap<String, f64> = self.case.attr("torch_f32", Some(Default::default()))?;
        if let Some(name) = margins.keys().find(|name| !self.case.names().any(|tensor| tensor == *name)) {
            return Err(self.case.fault("attrs.torch_f32", format!("there is no tensor {name}")));
        }
        self.with_extra(op, &[A, B], &[self.learnable("scale", 1e-6)?], ("loss", Order::Same))
    }

    fn bce_with_logits(&self) -> Result<Computed> {
        let weight = same("w.pos_weight");
        let weighted = self.case.optional(weight.0).is_some();
        self.case.states("pos_weight", weighted)?;
        let op = BceWithLogits { pos_weight: weighted.then(|| self.upload(weight)).transpose()? };
        self.single(op, &["in.logits", "in.targets"].map(same), ("loss", Order::Same))
    }

    fn siglip(&self) -> Result<Computed> {
        let (reduction, normalize) = loss(self.case)?;
        let op = SigLip { reduction, normalize, ..SigLip::new(Scale::Learnable, Scale::Learnable) };
        let extra = [self.learnable("scale", 1e-6)?, self.learnable("bias", -1e6)?];
        self.with_extra(op, &[A, B], &extra, ("loss", Order::Same))
    }

    fn adamw(&self) -> Result<Computed> {
        let parameters = self.upload(same("in.param"))?;
        let weight_decay = self.number("weight_decay", None, 0.0, 1.0)?;
        let all = Group { begin: 0, end: parameters.numel(), weight_decay, lr_scale: 1.0 };
        let mut optimizer = adamw(self.case, &parameters, &[all])?;
        let (steps, lr) = (self.case.within("steps", None, 1..=1_000_000)?, learning_rate(self.case)?);
        for step in 1..=steps {
            optimizer.step(&self.upload(same(&format!("in.grad.{step}")))?, lr)?;
        }
        let results =
            [("param", &parameters), ("exp_avg", optimizer.exp_avg()), ("exp_avg_sq", optimizer.exp_avg_sq())];
        let read = |(name, t): (&str, &Tensor)| Ok((format!("out.{name}"), (t.shape().clone(), t.to_vec()?)));
        results.into_iter().map(read).collect()
    }
}

/// An attribute as f32.
pub(super) fn number(case: &Case, name: &str, default: Option<f64>, low: f64, high: f64) -> Result<f32> {
    Ok(case.within(name, default, low..=high)? as f32)
}

/// The reduction of a loss, and whether its rows are normalised first.
pub(super) fn loss(case: &Case) -> Result<(Reduction, bool)> {
    let reduction = match case.attr("reduction", Some("mean".to_string()))?.as_str() {
        "mean" => Reduction::Mean,
        "sum" => Reduction::Sum,
        other => return Err(case.fault("attrs.reduction", format!("is {other:?}; it can be mean or sum"))),
    };
    Ok((reduction, case.attr("normalize", Some(true))?))
}

/// X2CT-CLIP's loss.
pub(super) fn tri_modal(case: &Case) -> Result<TriModal> {
    let weight = |name| number(case, name, None, 0.0, 1e6);
    let (reduction, normalize) = loss(case)?;
    Ok(TriModal {
        alpha: weight("alpha")?,
        beta: weight("beta")?,
        gamma: weight("gamma")?,
        temperature: number(case, "temperature", None, 1e-6, 1e6)?,
        reduction,
        normalize,
        ..Default::default()
    })
}

/// The learning rate of a case.
pub(super) fn learning_rate(case: &Case) -> Result<f64> {
    case.within("lr", None, 0.0..=1e3)
}

/// The optimizer of a case, over one arena.
pub(super) fn adamw(case: &Case, parameters: &Tensor, groups: &[Group]) -> Result<AdamW> {
    let [beta1, beta2]: [f64; 2] = case.attr("betas", None)?;
    if [beta1, beta2].iter().any(|beta| !(0.0..1.0).contains(beta)) {
        return Err(case.fault("attrs.betas", format!("are {beta1} and {beta2}; they can be from 0 to below 1")));
    }
    let max_norm: f64 = case.within("max_norm", Some(0.0), 0.0..=1e30)?;
    let eps = case.within("eps", None, 0.0..=1.0)?;
    AdamW::new(parameters, groups, Hyper { beta1, beta2, eps, max_norm: (max_norm > 0.0).then_some(max_norm) })
}

/// The gradient arriving at an output: `up.NAME`, or 1 for a scalar loss, or none.
pub(super) fn upstream(case: &Case, device: &Device, y: &Var, name: &str, order: Order) -> Result<Option<Tensor>> {
    let shape = y.tensor().shape();
    let field = format!("up.{name}");
    let data = match case.optional(&field) {
        Some((stated, data)) => {
            let (stored, data) = order.stored(stated, data);
            if !alike(&stored, shape) {
                let (wanted, _) = order.torch(shape, &vec![0.0; shape.numel()]);
                return Err(case.fault(field, format!("has the shape {stated}, and out.{name} is {wanted}")));
            }
            data
        }
        None if shape.numel() == 1 => vec![1.0],
        None => return Ok(None),
    };
    Tensor::from_slice(device, shape, y.tensor().dtype(), &data).map(Some)
}
