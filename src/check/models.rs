//! Whole models with `state_dict` weights.

use super::layout::Order;
use super::operators::upstream;
use super::{Case, Computed};
use crate::Result;
use crate::device::Device;
use crate::nn::layers::Linear;
use crate::nn::models::{DcFormer, DcFormerConfig, Mixer, ResNet, ResNetDepth, VolumeHead};
use crate::nn::{Forward, Mode, ParameterBuilder, Parameters};
use crate::tensor::{DType, Tensor};

pub(super) fn run(case: &Case, device: &Device) -> Result<Computed> {
    match case.op.as_str() {
        "model.resnet18" => resnet(case, device, ResNetDepth::R18),
        "model.resnet50" => resnet(case, device, ResNetDepth::R50),
        "model.dcformer" => dcformer(case, device),
        "model.volume_head" => volume_head(case, device),
        other => Err(case.refuse(format!("has the model {other:?}, which this version does not know"))),
    }
}

/// A ResNet with an optional projection, built at the width of the case.
pub(super) struct ResNetWithProjection {
    trunk: ResNet,
    projection: Option<Linear>,
    pub parameters: Parameters,
}

impl ResNetWithProjection {
    pub fn new(case: &Case, device: &Device, depth: ResNetDepth) -> Result<Self> {
        let mut b = ParameterBuilder::new();
        let trunk = ResNet::new(&mut b, depth, case.attr("width", Some(64))?);
        let projection: Option<usize> = case.attr("projection", Some(None))?;
        let projection = projection.map(|p| b.scope("to_xray_latent", |b| Linear::new(b, trunk.features(), p, false)));
        Ok(ResNetWithProjection { trunk, projection, parameters: b.build(device, 0)? })
    }

    /// Pooled features and the projection of them.
    pub fn forward(
        &self,
        f: &Forward,
        x: &crate::autograd::Var,
    ) -> Result<(crate::autograd::Var, Option<crate::autograd::Var>)> {
        let y = self.trunk.forward(f, x)?;
        let embedding = self.projection.as_ref().map(|p| p.forward(f, &y)).transpose()?;
        Ok((y, embedding))
    }
}

fn resnet(case: &Case, device: &Device, depth: ResNetDepth) -> Result<Computed> {
    let model = ResNetWithProjection::new(case, device, depth)?;
    case.state_dict("w.").load_into(&model.parameters, &case.name)?;
    let (shape, data) = case.tensor("in.x")?;
    let (stored_shape, stored) = Order::ChannelsLast.stored(shape, data);
    let mode = if case.is_training() { Mode::Train } else { Mode::Eval };
    let pass = Forward::training(&model.parameters).with_mode(mode);
    let x = pass.tape.leaf(&Tensor::from_slice(device, stored_shape, DType::F32, &stored)?);
    let (y, embedding) = model.forward(&pass, &x)?;
    let mut computed = Computed::from([("out.y".to_string(), y.tensor().to_vec()?)]);
    let mut arriving = vec![(y.clone(), upstream(case, device, &y, "y", Order::Same)?)];
    if let Some(embedding) = embedding {
        computed.insert("out.embedding".into(), embedding.tensor().to_vec()?);
        let up = upstream(case, device, &embedding, "embedding", Order::Same)?;
        arriving.push((embedding, up));
    }
    finish(computed, &pass, &model.parameters, &x, &arriving, |data| Order::ChannelsLast.torch(shape, data))
}

/// Gradients of everything, and the buffers; `to_torch` brings the gradient of the input into the file's order.
fn finish(
    mut computed: Computed,
    pass: &Forward,
    parameters: &Parameters,
    x: &crate::autograd::Var,
    arriving: &[(crate::autograd::Var, Option<Tensor>)],
    to_torch: impl Fn(&[f32]) -> Vec<f32>,
) -> Result<Computed> {
    let pairs: Vec<_> = arriving.iter().filter_map(|(v, up)| Some((v, up.as_ref()?))).collect();
    if !pairs.is_empty() {
        let gradients = pass.tape.backward_from(&pairs)?;
        if let Some(gradient) = gradients.get(x) {
            computed.insert("g.in.x".into(), to_torch(&gradient.to_vec()?));
        }
        for (name, _, data) in parameters.to_torch(parameters.gradients())? {
            computed.insert(format!("g.w.{name}"), data);
        }
    }
    for (name, _, data) in parameters.buffers_to_torch()? {
        computed.insert(format!("after.{name}"), data);
    }
    Ok(computed)
}

/// A DCFormer with the attributes and weights of a case.
pub(super) struct DcFormerCase {
    pub encoder: DcFormer,
    pub parameters: Parameters,
}

impl DcFormerCase {
    pub fn new(case: &Case, device: &Device) -> Result<Self> {
        let [_, _, d, h, w] = Self::input(case)?;
        let config = DcFormerConfig {
            channels: case.attr("channels", None)?,
            blocks: case.attr("blocks", None)?,
            kernels: case.attr("kernels", Some([13, 11, 9, 7]))?,
            stem_activation: case.attr("stem_activation", Some(false))?,
            mixer: case.attr("mixer", Some(Mixer::Decomposed))?,
            drop_path: 0.0,
            vq: codes(case)?,
            layer_scale: 1e-6,
            input: [h, w, d],
            reduction: case.attr("reduction", Some(Default::default()))?,
            projection: case.attr("projection", Some(None))?,
        };
        let mut b = ParameterBuilder::new();
        let encoder = DcFormer::new(&mut b, &config)?;
        Ok(DcFormerCase { encoder, parameters: b.build(device, 0)? })
    }

    /// `in.x`: the file has [N, 1, D, H, W]; inside, as in the feature maps, depth comes last.
    pub fn volumes(case: &Case, device: &Device) -> Result<Tensor> {
        let [n, one, d, h, w] = Self::input(case)?;
        let (_, data) = case.tensor("in.x")?;
        Tensor::from_slice(device, [n, one, h, w, d], DType::F32, &transposed(data, [n * one, d, h * w]))
    }

    fn input(case: &Case) -> Result<[usize; 5]> {
        let (shape, _) = case.tensor("in.x")?;
        shape.as_ref().try_into().map_err(|_| case.refuse("in.x does not have five axes"))
    }
}

fn dcformer(case: &Case, device: &Device) -> Result<Computed> {
    let DcFormerCase { encoder, parameters } = DcFormerCase::new(case, device)?;
    case.state_dict("w.").load_into(&parameters, &case.name)?;
    let mode = if case.is_training() { Mode::Train } else { Mode::Eval };
    let pass = Forward::training(&parameters).with_mode(mode);
    let x = pass.tape.leaf(&DcFormerCase::volumes(case, device)?);
    let maps = encoder.feature_maps(&pass, &x)?;
    let mut computed = Computed::new();
    let mut arriving = Vec::new();
    for (stage, map) in maps.iter().enumerate() {
        let name = if stage == 4 { "y".to_string() } else { format!("s{stage}") };
        computed.insert(format!("out.{name}"), map.tensor().to_vec()?);
    }
    let y = &maps[4];
    if case.tensors.contains_key("out.embedding") {
        let embedding = encoder.embedding(&pass, y)?;
        computed.insert("out.embedding".into(), embedding.tensor().to_vec()?);
        let up = upstream(case, device, &embedding, "embedding", Order::Same)?;
        arriving.push((embedding, up));
    }
    arriving.push((y.clone(), upstream(case, device, y, "y", Order::Same)?));
    let [n, one, d, h, w] = DcFormerCase::input(case)?;
    finish(computed, &pass, &parameters, &x, &arriving, |data| transposed(data, [n * one, h * w, d]))
}

/// Codes of the codebook of a case that has one.
fn codes(case: &Case) -> Result<Option<usize>> {
    let embed = || case.tensor("w.vq._codebook.embed").map(|(shape, _)| shape.get(1).copied());
    if case.attr("vq", Some(false))? { embed() } else { Ok(None) }
}

/// The embeddings of a feature map [N, C, H, W, D].
fn volume_head(case: &Case, device: &Device) -> Result<Computed> {
    let (shape, data) = case.tensor("in.x")?;
    let &[_, channels, h, w, d] = &shape[..] else { return Err(case.refuse("in.x does not have five axes")) };
    let mut b = ParameterBuilder::new();
    let (reduction, projection) = (case.attr("reduction", None)?, case.attr("projection", Some(None))?);
    let head = VolumeHead::new(&mut b, channels, [h, w, d], codes(case)?, reduction, projection);
    let parameters = b.build(device, 0)?;
    case.state_dict("w.").load_into(&parameters, &case.name)?;
    let mode = if case.is_training() { Mode::Train } else { Mode::Eval };
    let pass = Forward::training(&parameters).with_mode(mode);
    let x = pass.tape.leaf(&Tensor::from_slice(device, shape, DType::F32, data)?);
    let embedding = head.forward(&pass, &x)?;
    let computed = Computed::from([("out.embedding".to_string(), embedding.tensor().to_vec()?)]);
    let arriving = [(embedding.clone(), upstream(case, device, &embedding, "embedding", Order::Same)?)];
    finish(computed, &pass, &parameters, &x, &arriving, <[f32]>::to_vec)
}

/// [batch, rows, columns] to [batch, columns, rows].
fn transposed(data: &[f32], [batch, rows, columns]: [usize; 3]) -> Vec<f32> {
    let place = |i: usize| {
        let (b, c, r) = (i / (rows * columns), i / rows % columns, i % rows);
        data[(b * rows + r) * columns + c]
    };
    (0..batch * rows * columns).map(place).collect()
}
