//! Whole models with `state_dict` weights.

use super::layout::{Order, transposed};
use super::operators::{unknown, upstream};
use super::{Case, Computed, Torch};
use crate::Result;
use crate::device::Device;
use crate::nn::layers::Linear;
use crate::nn::models::{DcFormer, DcFormerConfig, Mixer, ResNet, ResNetDepth, VolumeHead};
use crate::nn::{Forward, Mode, ParameterBuilder, Parameters};
use crate::tensor::{DType, Tensor};

type Model = fn(&Case, &Device) -> Result<Computed>;

/// Every model of the format.
pub(super) const MODELS: [(&str, Model); 4] = [
    ("model.resnet18", |case, device| resnet(case, device, ResNetDepth::R18)),
    ("model.resnet50", |case, device| resnet(case, device, ResNetDepth::R50)),
    ("model.dcformer", dcformer),
    ("model.volume_head", volume_head),
];

pub(super) fn run(case: &Case, device: &Device) -> Result<Computed> {
    match MODELS.iter().find(|(name, _)| *name == case.op) {
        Some((_, model)) => model(case, device),
        None => Err(unknown(case)),
    }
}

/// The most channels, codes or dimensions of a layer of a case.
const MOST: usize = 1 << 16;

/// Dimensions of an embedding, or no projection.
fn projection(case: &Case) -> Result<Option<usize>> {
    match case.attr("projection", Some(None::<usize>))? {
        None => Ok(None),
        Some(_) => case.within("projection", None, 1..=MOST).map(Some),
    }
}

/// The batch norms' constants, which are PyTorch's; a case may state them.
pub(super) fn batch_norms(case: &Case, eps: &str) -> Result<()> {
    case.states(eps, 1e-5)?;
    case.states("momentum", 0.1)
}

fn mode(case: &Case) -> Result<Mode> {
    Ok(if case.is_training()? { Mode::Train } else { Mode::Eval })
}

/// A ResNet with an optional projection, built at the width of the case.
pub(super) struct ResNetWithProjection {
    trunk: ResNet,
    projection: Option<Linear>,
    pub parameters: Parameters,
}

impl ResNetWithProjection {
    /// With the weights `PREFIX NAME`.
    pub fn new(case: &Case, device: &Device, depth: ResNetDepth, prefix: &str) -> Result<Self> {
        case.states("layers", depth.blocks())?;
        let mut b = ParameterBuilder::new();
        let trunk = ResNet::new(&mut b, depth, case.within("width", Some(64), 1..=MOST / 32)?);
        let projection =
            projection(case)?.map(|p| b.scope("to_xray_latent", |b| Linear::new(b, trunk.features(), p, false)));
        Ok(ResNetWithProjection { trunk, projection, parameters: case.parameters(prefix, b, device)? })
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
    batch_norms(case, "eps")?;
    let model = ResNetWithProjection::new(case, device, depth, "w.")?;
    let (shape, data) = case.tensor("in.x")?;
    let (stored_shape, stored) = Order::ChannelsLast.stored(shape, data);
    let pass = Forward::training(&model.parameters).with_mode(mode(case)?);
    let x = pass.tape.leaf(&Tensor::from_slice(device, stored_shape, DType::F32, &stored)?);
    let (y, embedding) = model.forward(&pass, &x)?;
    let mut computed = Computed::from([("out.y".to_string(), read(y.tensor())?)]);
    let mut arriving = vec![(y.clone(), upstream(case, device, &y, "y", Order::Same)?)];
    if let Some(embedding) = embedding {
        computed.insert("out.embedding".into(), read(embedding.tensor())?);
        let up = upstream(case, device, &embedding, "embedding", Order::Same)?;
        arriving.push((embedding, up));
    }
    finish(
        computed,
        &pass,
        &model.parameters,
        &x,
        &arriving,
        |x| Ok(Order::ChannelsLast.torch(x.shape(), &x.to_vec()?)),
    )
}

/// A tensor that is stored as in PyTorch.
fn read(tensor: &Tensor) -> Result<Torch> {
    Ok((tensor.shape().clone(), tensor.to_vec()?))
}

/// Gradients of everything, and the buffers; `to_torch` brings the gradient of the input into the file's order.
fn finish(
    mut computed: Computed,
    pass: &Forward,
    parameters: &Parameters,
    x: &crate::autograd::Var,
    arriving: &[(crate::autograd::Var, Option<Tensor>)],
    to_torch: impl Fn(&Tensor) -> Result<Torch>,
) -> Result<Computed> {
    let pairs: Vec<_> = arriving.iter().filter_map(|(v, up)| Some((v, up.as_ref()?))).collect();
    if !pairs.is_empty() {
        let gradients = pass.tape.backward_from(&pairs)?;
        if let Some(gradient) = gradients.get(x) {
            computed.insert("g.in.x".into(), to_torch(gradient)?);
        }
        for (name, shape, data) in parameters.to_torch(parameters.gradients())? {
            computed.insert(format!("g.w.{name}"), (shape, data));
        }
    }
    for (name, shape, data) in parameters.buffers_to_torch()? {
        computed.insert(format!("after.{name}"), (shape, data));
    }
    Ok(computed)
}

/// A DCFormer with the attributes and weights of a case.
pub(super) struct DcFormerCase {
    pub encoder: DcFormer,
    pub parameters: Parameters,
}

impl DcFormerCase {
    /// With the weights `PREFIX NAME`.
    pub fn new(case: &Case, device: &Device, prefix: &str) -> Result<Self> {
        let [_, _, d, h, w] = case.dims("in.x")?;
        let config = DcFormerConfig {
            channels: case.attr("channels", None)?,
            blocks: case.attr("blocks", None)?,
            kernels: case.attr("kernels", Some([13, 11, 9, 7]))?,
            stem_activation: case.attr("stem_activation", Some(false))?,
            mixer: case.attr("mixer", Some(Mixer::Decomposed))?,
            drop_path: 0.0,
            vq: codes(case, prefix)?,
            layer_scale: 1e-6,
            input: [h, w, d],
            reduction: case.attr("reduction", Some(Default::default()))?,
            projection: projection(case)?,
        };
        let kernel = if let Mixer::Conv3d { kernel } = config.mixer { kernel } else { 1 };
        let sizes = config.channels.iter().map(|&c| (c, MOST)).chain(config.blocks.iter().map(|&b| (b, 256)));
        let sizes = sizes.chain(config.kernels.iter().chain([&kernel]).map(|&k| (k, 64)));
        if let Some((size, most)) = sizes.into_iter().find(|(size, most)| size > most) {
            let problem = format!("{size} is more than {most}");
            return Err(case.fault("attrs.channels, attrs.blocks, attrs.kernels or attrs.mixer", problem));
        }
        let mut b = ParameterBuilder::new();
        let encoder = DcFormer::new(&mut b, &config)?;
        Ok(DcFormerCase { encoder, parameters: case.parameters(prefix, b, device)? })
    }

    /// `in.x`: the file has [N, 1, D, H, W]; inside, as in the feature maps, depth comes last.
    pub fn volumes(case: &Case, device: &Device) -> Result<Tensor> {
        let [n, one, d, h, w] = case.dims("in.x")?;
        let (_, data) = case.tensor("in.x")?;
        Tensor::from_slice(device, [n, one, h, w, d], DType::F32, &transposed(data, [n * one, d, h * w]))
    }
}

fn dcformer(case: &Case, device: &Device) -> Result<Computed> {
    let DcFormerCase { encoder, parameters } = DcFormerCase::new(case, device, "w.")?;
    let pass = Forward::training(&parameters).with_mode(mode(case)?);
    let x = pass.tape.leaf(&DcFormerCase::volumes(case, device)?);
    let maps = encoder.feature_maps(&pass, &x)?;
    let mut computed = Computed::new();
    let mut arriving = Vec::new();
    for (stage, map) in maps.iter().enumerate() {
        let name = if stage == 4 { "y".to_string() } else { format!("s{stage}") };
        computed.insert(format!("out.{name}"), read(map.tensor())?);
        arriving.push((map.clone(), upstream(case, device, map, &name, Order::Same)?));
    }
    let wants_embedding = case.names().any(|name| ["out.embedding", "up.embedding"].contains(&name));
    if wants_embedding {
        let embedding = encoder.embedding(&pass, &maps[4])?;
        computed.insert("out.embedding".into(), read(embedding.tensor())?);
        let up = upstream(case, device, &embedding, "embedding", Order::Same)?;
        arriving.push((embedding, up));
    }
    let [n, one, d, h, w] = case.dims("in.x")?;
    let to_torch = |x: &Tensor| Ok(([n, one, d, h, w].into(), transposed(&x.to_vec()?, [n * one, h * w, d])));
    finish(computed, &pass, &parameters, &x, &arriving, to_torch)
}

/// Codes of the codebook of a case that has one.
fn codes(case: &Case, prefix: &str) -> Result<Option<usize>> {
    if !case.attr("vq", Some(false))? {
        return Ok(None);
    }
    let [_, codes, _] = case.dims(&format!("{prefix}vq._codebook.embed"))?;
    Ok(Some(codes))
}

/// The embeddings of a feature map [N, C, H, W, D].
fn volume_head(case: &Case, device: &Device) -> Result<Computed> {
    let [_, channels, h, w, d] = case.dims("in.x")?;
    let (shape, data) = case.tensor("in.x")?;
    let mut b = ParameterBuilder::new();
    let codes = codes(case, "w.")?;
    let head = VolumeHead::new(&mut b, channels, [h, w, d], codes, case.attr("reduction", None)?, projection(case)?);
    let parameters = case.parameters("w.", b, device)?;
    let mode = if codes.is_some() { mode(case)? } else { Mode::Eval };
    let pass = Forward::training(&parameters).with_mode(mode);
    let x = pass.tape.leaf(&Tensor::from_slice(device, shape, DType::F32, data)?);
    let embedding = head.forward(&pass, &x)?;
    let computed = Computed::from([("out.embedding".to_string(), read(embedding.tensor())?)]);
    let arriving = [(embedding.clone(), upstream(case, device, &embedding, "embedding", Order::Same)?)];
    finish(computed, &pass, &parameters, &x, &arriving, read)
}
