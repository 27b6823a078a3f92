//! A training run against PyTorch's: step by step from its states, and free from the first.

use super::layout::Order;
use super::models::{DcFormerCase, ResNetWithProjection};
use super::operators::adamw;
use super::{Case, Row, distance};
use crate::Result;
use crate::autograd::Var;
use crate::device::Device;
use crate::nn::models::ResNetDepth;
use crate::nn::{Forward, Parameters, StateDict};
use crate::ops::contrastive::{InfoNce, Reduction, Scale, TriModal};
use crate::ops::optim::Group;
use crate::tensor::{DType, Tensor};

/// What is trained.
trait Trained {
    fn parameters(&self) -> &Parameters;

    /// The loss of the one batch.
    fn loss(&self, f: &Forward) -> Result<Var>;

    /// Whether weight decay reaches a parameter of so many axes.
    fn decays(&self, axes: usize) -> bool;
}

fn upload(case: &Case, device: &Device, name: &str, order: Order) -> Result<Tensor> {
    let (shape, data) = case.tensor(name)?;
    let (shape, data) = order.stored(shape, data);
    Tensor::from_slice(device, shape, DType::F32, &data)
}

/// X2CT-CLIP's step: a ResNet-18 beside frozen CTs and reports.
struct Radiographs {
    model: ResNetWithProjection,
    images: Tensor,
    ct: Tensor,
    report: Tensor,
    loss: TriModal,
}

impl Radiographs {
    fn new(case: &Case, device: &Device) -> Result<Self> {
        Ok(Radiographs {
            model: ResNetWithProjection::new(case, device, ResNetDepth::R18)?,
            images: upload(case, device, "in.x", Order::ChannelsLast)?,
            ct: upload(case, device, "in.ct", Order::Same)?,
            report: upload(case, device, "in.report", Order::Same)?,
            loss: TriModal {
                alpha: case.attr("alpha", None)?,
                beta: case.attr("beta", None)?,
                gamma: case.attr("gamma", None)?,
                temperature: case.attr("temperature", None)?,
                reduction: Reduction::Mean,
                normalize: true,
                ..Default::default()
            },
        })
    }
}

impl Trained for Radiographs {
    fn parameters(&self) -> &Parameters {
        &self.model.parameters
    }

    fn loss(&self, f: &Forward) -> Result<Var> {
        let (y, embedding) = self.model.forward(f, &f.tape.constant(&self.images))?;
        let embedding = embedding.unwrap_or(y);
        f.tape.apply(self.loss, &[&embedding, &f.tape.constant(&self.ct), &f.tape.constant(&self.report)])
    }

    fn decays(&self, _: usize) -> bool {
        true
    }
}

/// DCFormer-CLIP's step beside frozen reports.
struct Volumes {
    model: DcFormerCase,
    volumes: Tensor,
    report: Tensor,
    loss: InfoNce,
}

impl Volumes {
    fn new(case: &Case, device: &Device) -> Result<Self> {
        let scale: f64 = case.attr("scale", None)?;
        Ok(Volumes {
            model: DcFormerCase::new(case, device)?,
            volumes: DcFormerCase::volumes(case, device)?,
            report: upload(case, device, "in.report", Order::Same)?,
            loss: InfoNce::new(Scale::Fixed(scale as f32)),
        })
    }
}

impl Trained for Volumes {
    fn parameters(&self) -> &Parameters {
        &self.model.parameters
    }

    fn loss(&self, f: &Forward) -> Result<Var> {
        let maps = self.model.encoder.feature_maps(f, &f.tape.constant(&self.volumes))?;
        let embedding = self.model.encoder.embedding(f, &maps[4])?;
        f.tape.apply(self.loss, &[&embedding, &f.tape.constant(&self.report)])
    }

    fn decays(&self, axes: usize) -> bool {
        axes >= 2
    }
}

struct Run<'a> {
    case: &'a Case,
    trained: Box<dyn Trained>,
}

impl<'a> Run<'a> {
    fn new(case: &'a Case, device: &Device) -> Result<Self> {
        let trained: Box<dyn Trained> = match case.op.as_str() {
            "trajectory.resnet18" => Box::new(Radiographs::new(case, device)?),
            "trajectory.dcformer" => Box::new(Volumes::new(case, device)?),
            other => return Err(case.refuse(format!("is of {other:?}, which this version does not know"))),
        };
        Ok(Run { case, trained })
    }

    fn parameters(&self) -> &Parameters {
        self.trained.parameters()
    }

    fn state(&self, step: usize, steps: usize) -> StateDict {
        self.case.state_dict(&if step < steps { format!("state.{step}.") } else { "after.".into() })
    }

    /// The loss, with gradients in the arena.
    fn pass(&self) -> Result<f32> {
        self.parameters().zero_gradients()?;
        let f = Forward::training(self.parameters());
        let loss = self.trained.loss(&f)?;
        f.tape.backward(&loss)?;
        loss.tensor().item()
    }

    /// What the optimizer distinguishes.
    fn groups(&self) -> Result<Vec<Group>> {
        let weight_decay: f32 = self.case.attr("weight_decay", None)?;
        let group = |(_, begin, count, axes): (&str, usize, usize, usize)| {
            let weight_decay = if self.trained.decays(axes) { weight_decay } else { 0.0 };
            Group { begin, end: begin + count, weight_decay, lr_scale: 1.0 }
        };
        Ok(self.parameters().ranges().map(group).collect())
    }
}

pub(super) fn run(case: &Case, device: &Device) -> Result<Vec<Row>> {
    let run = Run::new(case, device)?;
    let (_, losses) = case.tensor("out.loss")?;
    let steps: usize = case.attr("steps", None)?;
    if losses.len() != steps {
        return Err(case.refuse(format!("out.loss has {} values for {steps} steps", losses.len())));
    }
    let mut rows = Vec::new();
    let relative = |a: f32, b: f32| (a as f64 - b as f64).abs() / (b as f64).abs();
    let loss_row = |tensor: String, got: f32, want: f32, bound: f64| Row {
        case: case.name.clone(),
        op: case.op.clone(),
        tensor,
        max_abs: (got as f64 - want as f64).abs(),
        rel_l2: relative(got, want),
        pass: relative(got, want) <= bound,
    };
    for (step, &want) in losses.iter().enumerate() {
        run.state(step, steps).load_into(run.parameters(), &case.name)?;
        rows.push(loss_row(format!("step.{step}.loss"), run.pass()?, want, case.tol.loss));
        let prefix = format!("g.{step}.");
        let references = case.state_dict(&prefix);
        let largest = references.tensors.values().flat_map(|(_, d)| d).fold(0.0f64, |m, &x| m.max(x.abs() as f64));
        for (name, _, got) in run.parameters().to_torch(run.parameters().gradients())? {
            if let Some((_, reference)) = references.tensors.get(&name) {
                rows.push(case.row(&format!("{prefix}{name}"), &got, reference, largest));
            }
        }
    }
    run.state(0, steps).load_into(run.parameters(), &case.name)?;
    let mut optimizer = adamw(case, run.parameters().values(), &run.groups()?)?;
    let (lr, (_, loss_spread), (_, parameter_spread)) =
        (case.attr("lr", None)?, case.tensor("spread.loss")?, case.tensor("spread.parameters")?);
    for (step, &want) in losses.iter().enumerate() {
        let bound = case.tol.loss.max(case.tol.spreads * loss_spread[step] as f64);
        rows.push(loss_row(format!("free.{step}.loss"), run.pass()?, want, bound));
        optimizer.step(run.parameters().gradients(), lr)?;
        let next = run.state(step + 1, steps);
        let (mut got, mut want) = (Vec::new(), Vec::new());
        for (name, _, data) in run.parameters().to_torch(run.parameters().values())? {
            let (_, reference) =
                next.tensors.get(&name).ok_or_else(|| case.refuse(format!("has no state of {name}")))?;
            got.extend(data);
            want.extend_from_slice(reference);
        }
        let (max_abs, rel_l2) = distance(&got, &want);
        let bound = case.tol.rel_l2.max(case.tol.spreads * parameter_spread[step] as f64);
        let (tensor, pass) = (format!("free.{step}.parameters"), rel_l2 <= bound);
        rows.push(Row { case: case.name.clone(), op: case.op.clone(), tensor, max_abs, rel_l2, pass });
    }
    Ok(rows)
}
