//! Whole models with `state_dict` weights.

use super::layout::Order;
use super::operators::upstream;
use super::{Case, Computed};
use crate::Result;
use crate::device::Device;
use crate::nn::layers::Linear;
use crate::nn::models::{ResNet, ResNetDepth};
use crate::nn::{Forward, Mode, ParameterBuilder, Parameters};
use crate::tensor::{DType, Tensor};

pub(super) fn run(case: &Case, device: &Device) -> Result<Computed> {
    match case.op.as_str() {
        "model.resnet18" => resnet(case, device, ResNetDepth::R18),
        "model.resnet50" => resnet(case, device, ResNetDepth::R50),
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
    let pairs: Vec<_> = arriving.iter().filter_map(|(v, up)| Some((v, up.as_ref()?))).collect();
    if !pairs.is_empty() {
        let gradients = pass.tape.backward_from(&pairs)?;
        if let Some(gradient) = gradients.get(&x) {
            computed.insert("g.in.x".into(), Order::ChannelsLast.torch(shape, &gradient.to_vec()?));
        }
        for (name, _, data) in model.parameters.to_torch(model.parameters.gradients())? {
            computed.insert(format!("g.w.{name}"), data);
        }
    }
    for (name, _, data) in model.parameters.buffers_to_torch()? {
        computed.insert(format!("after.{name}"), data);
    }
    Ok(computed)
}
