//! A training run against PyTorch's: step by step from its states, and free from the first.

use super::layout::Order;
use super::models::ResNetWithProjection;
use super::operators::adamw;
use super::{Case, Row, distance};
use crate::Result;
use crate::device::Device;
use crate::nn::models::ResNetDepth;
use crate::nn::{Forward, StateDict};
use crate::ops::contrastive::{Reduction, TriModal};
use crate::tensor::{DType, Tensor};

struct Run<'a> {
    case: &'a Case,
    model: ResNetWithProjection,
    images: Tensor,
    ct: Tensor,
    report: Tensor,
    loss: TriModal,
}

impl<'a> Run<'a> {
    fn new(case: &'a Case, device: &Device) -> Result<Self> {
        let upload = |name: &str, order: Order| {
            let (shape, data) = case.tensor(name)?;
            let (shape, data) = order.stored(shape, data);
            Tensor::from_slice(device, shape, DType::F32, &data)
        };
        Ok(Run {
            case,
            model: ResNetWithProjection::new(case, device, ResNetDepth::R18)?,
            images: upload("in.x", Order::ChannelsLast)?,
            ct: upload("in.ct", Order::Same)?,
            report: upload("in.report", Order::Same)?,
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

    fn state(&self, step: usize, steps: usize) -> StateDict {
        self.case.state_dict(&if step < steps { format!("state.{step}.") } else { "after.".into() })
    }

    /// The loss, with gradients in the arena.
    fn pass(&self) -> Result<f32> {
        self.model.parameters.zero_gradients()?;
        let f = Forward::training(&self.model.parameters);
        let (y, embedding) = self.model.forward(&f, &f.tape.constant(&self.images))?;
        let embedding = embedding.unwrap_or(y);
        let inputs = [&embedding, &f.tape.constant(&self.ct), &f.tape.constant(&self.report)];
        let loss = f.tape.apply(self.loss, &inputs)?;
        f.tape.backward(&loss)?;
        loss.tensor().item()
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
        run.state(step, steps).load_into(&run.model.parameters, &case.name)?;
        rows.push(loss_row(format!("step.{step}.loss"), run.pass()?, want, case.tol.loss));
        let prefix = format!("g.{step}.");
        let references = case.state_dict(&prefix);
        let largest = references.tensors.values().flat_map(|(_, d)| d).fold(0.0f64, |m, &x| m.max(x.abs() as f64));
        for (name, _, got) in run.model.parameters.to_torch(run.model.parameters.gradients())? {
            if let Some((_, reference)) = references.tensors.get(&name) {
                rows.push(case.row(&format!("{prefix}{name}"), &got, reference, largest));
            }
        }
    }
    run.state(0, steps).load_into(&run.model.parameters, &case.name)?;
    let mut optimizer = adamw(case, run.model.parameters.values())?;
    let (lr, (_, loss_spread), (_, parameter_spread)) =
        (case.attr("lr", None)?, case.tensor("spread.loss")?, case.tensor("spread.parameters")?);
    for (step, &want) in losses.iter().enumerate() {
        let bound = case.tol.loss.max(case.tol.spreads * loss_spread[step] as f64);
        rows.push(loss_row(format!("free.{step}.loss"), run.pass()?, want, bound));
        optimizer.step(run.model.parameters.gradients(), lr)?;
        let next = run.state(step + 1, steps);
        let (mut got, mut want) = (Vec::new(), Vec::new());
        for (name, _, data) in run.model.parameters.to_torch(run.model.parameters.values())? {
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
