//! A training run against PyTorch's: step by step from its states, and free from the first.

use super::layout::Order;
use super::models::{DcFormerCase, ResNetWithProjection, batch_norms};
use super::operators::{adamw, learning_rate, loss, number, tri_modal, unknown};
use super::{Case, Row, distance};
use crate::Result;
use crate::autograd::Var;
use crate::device::Device;
use crate::nn::models::ResNetDepth;
use crate::nn::{Forward, Parameters};
use crate::ops::contrastive::{InfoNce, Scale, TriModal};
use crate::ops::optim::Group;
use crate::tensor::{DType, Shape, Tensor};

/// What [`run`] knows.
pub(super) const NAMES: [&str; 2] = ["trajectory.resnet18", "trajectory.dcformer"];

/// Where the model's first state stands.
const FIRST: &str = "state.0.";

/// The model that is trained.
trait Trained {
    fn parameters(&self) -> &Parameters;

    /// The loss of the one batch.
    fn loss(&self, f: &Forward) -> Result<Var>;
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
            model: ResNetWithProjection::new(case, device, ResNetDepth::R18, FIRST)?,
            images: upload(case, device, "in.x", Order::ChannelsLast)?,
            ct: upload(case, device, "in.ct", Order::Same)?,
            report: upload(case, device, "in.report", Order::Same)?,
            loss: tri_modal(case)?,
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
        let (reduction, normalize) = loss(case)?;
        let scale = number(case, "scale", None, 1e-6, 1e6)?;
        Ok(Volumes {
            model: DcFormerCase::new(case, device, FIRST)?,
            volumes: DcFormerCase::volumes(case, device)?,
            report: upload(case, device, "in.report", Order::Same)?,
            loss: InfoNce { reduction, normalize, ..InfoNce::new(Scale::Fixed(scale)) },
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
}

struct Run<'a> {
    case: &'a Case,
    trained: Box<dyn Trained>,
    /// Whether weight decay leaves out parameters of one axis.
    matrices: bool,
    steps: usize,
}

impl<'a> Run<'a> {
    fn new(case: &'a Case, device: &Device) -> Result<Self> {
        let steps = case.within("steps", None, 1..=1_000_000)?;
        for name in ["out.loss", "spread.loss", "spread.parameters"] {
            let (shape, _) = case.tensor(name)?;
            if *shape != Shape::from([steps]) {
                return Err(case.fault(name, format!("has the shape {shape}; there are {steps} steps")));
            }
        }
        if !case.is_training()? {
            return Err(case.fault("mode", "is eval, and a trajectory is a training run"));
        }
        batch_norms(case, "norm_eps")?;
        let [of_resnet, of_dcformer] = NAMES;
        let (trained, decay): (Box<dyn Trained>, _) = if case.op == of_resnet {
            (Box::new(Radiographs::new(case, device)?), "all")
        } else if case.op == of_dcformer {
            (Box::new(Volumes::new(case, device)?), "matrices")
        } else {
            return Err(unknown(case));
        };
        let matrices = match case.attr("decay", Some(decay.to_string()))?.as_str() {
            "matrices" => true,
            "all" => false,
            other => return Err(case.fault("attrs.decay", format!("is {other:?}; it can be matrices or all"))),
        };
        Ok(Run { case, trained, matrices, steps })
    }

    fn parameters(&self) -> &Parameters {
        self.trained.parameters()
    }

    /// Where the state before a step stands, or, where `step` is the number of steps, the last.
    fn state(&self, step: usize) -> String {
        if step < self.steps { format!("state.{step}.") } else { "after.".into() }
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
        let weight_decay = number(self.case, "weight_decay", None, 0.0, 1.0)?;
        let group = |(_, begin, count, axes): (&str, usize, usize, usize)| {
            let weight_decay = if self.matrices && axes < 2 { 0.0 } else { weight_decay };
            Group { begin, end: begin + count, weight_decay, lr_scale: 1.0 }
        };
        Ok(self.parameters().ranges().map(group).collect())
    }

    /// A loss against its reference.
    fn loss_row(&self, tensor: String, got: f32, step: usize, bound: f64) -> Result<Row> {
        let (_, losses) = self.case.tensor("out.loss")?;
        Ok(self.case.judged(tensor, distance(&[got], &losses[step..=step]), [bound, 0.0]))
    }

    /// What came of all tensors of one kind against the state before `step`, as one vector.
    fn state_row(&self, row: String, got: Vec<(String, Shape, Vec<f32>)>, step: usize, bound: f64) -> Result<Row> {
        let (mut all, mut references) = (Vec::new(), Vec::new());
        for (name, _, data) in got {
            let (_, reference) = self.case.tensor(&format!("{}{name}", self.state(step)))?;
            all.extend(data);
            references.extend_from_slice(reference);
        }
        if all.len() != references.len() {
            let problem = format!("has {} values, and the model {}", references.len(), all.len());
            return Err(self.case.fault(self.state(step), problem));
        }
        Ok(self.case.judged(row, distance(&all, &references), [bound, 0.0]))
    }

    /// From each state one step.
    fn step_by_step(&self) -> Result<Vec<Row>> {
        let (case, parameters) = (self.case, self.parameters());
        let mut rows = Vec::new();
        for step in 0..self.steps {
            case.load(&self.state(step), parameters)?;
            rows.push(self.loss_row(format!("step.{step}.loss"), self.pass()?, step, case.tolerance("loss"))?);
            let prefix = format!("g.{step}.");
            let largest = case.largest(&prefix);
            for (name, shape, got) in parameters.to_torch(parameters.gradients())? {
                let name = format!("{prefix}{name}");
                if case.optional(&name).is_some() {
                    rows.push(case.row(&name, Ok(&(shape, got)), largest)?);
                }
            }
            let buffers = parameters.buffers_to_torch()?;
            rows.push(self.state_row(format!("step.{step}.buffers"), buffers, step + 1, case.tolerance("rel_l2"))?);
        }
        Ok(rows)
    }

    /// From the first state all steps.
    fn free(&self) -> Result<Vec<Row>> {
        /// The most that a run may be away from its reference, whatever its spread.
        const MOST: f64 = 1e-2;
        let (case, parameters) = (self.case, self.parameters());
        case.load(FIRST, parameters)?;
        let mut optimizer = adamw(case, parameters.values(), &self.groups()?)?;
        let lr = learning_rate(case)?;
        let spread = |name: &str, step: usize, tolerance: &str| -> Result<f64> {
            let (_, spreads) = case.tensor(name)?;
            let bound = case.tolerance(tolerance).max(case.tolerance("spreads") * f64::from(spreads[step]));
            if bound <= MOST {
                return Ok(bound);
            }
            let problem = format!("step {step} allows a relative difference of {bound:.2e}; it can be up to {MOST}");
            Err(case.fault(name, problem))
        };
        let mut rows = Vec::new();
        for step in 0..self.steps {
            let bound = spread("spread.loss", step, "loss")?;
            rows.push(self.loss_row(format!("free.{step}.loss"), self.pass()?, step, bound)?);
            optimizer.step(parameters.gradients(), lr)?;
            let (bound, got) =
                (spread("spread.parameters", step, "rel_l2")?, parameters.to_torch(parameters.values())?);
            rows.push(self.state_row(format!("free.{step}.parameters"), got, step + 1, bound)?);
        }
        Ok(rows)
    }

    /// PyTorch counts the training passes beside a batch norm's running mean; a state may hold the number.
    fn count_batches(&self) -> Result<()> {
        let counters = self.case.names().filter(|name| {
            name.strip_suffix("num_batches_tracked").is_some_and(|n| self.case.is_used(&format!("{n}running_mean")))
        });
        counters.collect::<Vec<_>>().into_iter().try_for_each(|name| self.case.tensor(name).map(drop))
    }
}

pub(super) fn run(case: &Case, device: &Device) -> Result<Vec<Row>> {
    let run = Run::new(case, device)?;
    let mut rows = run.step_by_step()?;
    rows.extend(run.free()?);
    // Gradients may be left out, for size.
    case.tolerance("atol_of_max_grad");
    run.count_batches()?;
    Ok(rows)
}
