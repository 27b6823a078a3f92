//! Gradient caching: the gradient in micro-batches is that of the whole, from the memory of one of them.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::atomic::AtomicBool;

use x2ct::autograd::{Gradients, Op, Var};
use x2ct::data::phantom_set::PhantomStudy;
use x2ct::nn::models::{EncoderConfig, RadiographEncoder};
use x2ct::nn::{Forward, Init, Layout, Mode, ParameterBuilder, ParameterId, Parameters};
use x2ct::ops::contrastive::{InfoNce, Reduction, Scale, TriModal};
use x2ct::ops::image::Normalization;
use x2ct::ops::optim::{AdamW, Group, Hyper};
use x2ct::ops::pointwise::{Cast, copy_into};
use x2ct::philox::Rng;
use x2ct::tensor::{DType, Tensor};
use x2ct::train::{
    Augmentation, BatchLoss, DataConfig, Observer, OptimizerConfig, Position, Sampler, StepLog, StepMemory,
    TrainConfig, Trainer, TrainingSet, gradients, micro_batches,
};
use x2ct::{Device, Result};

use crate::support::{normal, relative_l2};

const SIDE: usize = 32;
const ROWS: usize = 23;

/// Matrices [rows, D] below one another.
struct Concat;

impl Op for Concat {
    type Context = Vec<usize>;

    fn name(&self) -> &'static str {
        "concat"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<(Tensor, Vec<usize>)> {
        let rows: Vec<usize> = inputs.iter().map(|x| x.shape()[0]).collect();
        let all = [rows.iter().sum(), inputs[0].shape()[1]];
        let all = Tensor::empty(inputs[0].device(), all, inputs[0].dtype(), "concatenated")?;
        let mut first = 0;
        for x in inputs {
            all.rows(first, x.shape()[0])?.copy_from(x)?;
            first += x.shape()[0];
        }
        Ok((all, rows))
    }

    fn backward(&self, rows: &Vec<usize>, upstream: &Tensor, gradients: &mut Gradients) -> Result<()> {
        let mut first = 0;
        for (input, count) in rows.iter().enumerate() {
            if let Some((dx, write)) = gradients.wanted(input)? {
                copy_into(&upstream.rows(first, *count)?, &dx, write)?;
            }
            first += count;
        }
        Ok(())
    }
}

/// The reference: every micro-batch on one tape, the loss of all of them, backward through everything at once.
pub fn on_one_tape(batch: &impl BatchLoss, parts: &[Range<usize>]) -> f32 {
    let pass = batch.pass();
    let parts: Vec<Var> = parts.iter().map(|rows| batch.embed(&pass, rows.clone()).unwrap()).collect();
    let all = pass.tape.apply(Concat, &parts.iter().collect::<Vec<_>>()).unwrap();
    let loss = batch.loss(&pass, &all).unwrap();
    pass.tape.backward(&loss).unwrap();
    loss.tensor().item().unwrap()
}

/// A ResNet-18 against fixed embeddings, with a learnable temperature.
struct Toy {
    encoder: RadiographEncoder,
    parameters: Parameters,
    scale: ParameterId,
    mode: Mode,
    dtype: DType,
    images: Tensor,
    targets: Tensor,
    /// Rows and bits of every embedding computed.
    seen: RefCell<Vec<(Range<usize>, Vec<u32>)>>,
}

impl Toy {
    fn new(device: &Device, mode: Mode, dtype: DType) -> Self {
        let mut b = ParameterBuilder::new();
        let config = EncoderConfig { embedding: 48, ..EncoderConfig::new("resnet18", 8) };
        let encoder = RadiographEncoder::new(&mut b, &config).unwrap();
        let scale = b.parameter("logit_scale", [1], Layout::Plain, Init::Constant(14.3));
        let tensor = |seed, shape: &[usize]| {
            let data = normal(seed, shape.iter().product());
            Tensor::from_slice(device, shape, DType::F32, &data).unwrap()
        };
        Toy {
            encoder,
            parameters: b.build(device, 5).unwrap(),
            scale,
            mode,
            dtype,
            images: tensor(1, &[ROWS, SIDE, SIDE, 3]),
            targets: tensor(2, &[ROWS, 48]),
            seen: RefCell::default(),
        }
    }

    /// Loss, gradients of everything, gradient of the scale, running statistics, embeddings.
    fn outcome(&self, compute: impl FnOnce(&Self) -> f32) -> Outcome {
        self.parameters.zero_gradients().unwrap();
        self.seen.take();
        let loss = compute(self);
        let scale = self.parameters.gradient(self.scale).unwrap().item().unwrap();
        let buffers = self.parameters.buffers_to_torch().unwrap().into_iter().flat_map(|b| b.2).collect();
        Outcome {
            loss,
            gradients: self.parameters.gradients().to_vec().unwrap(),
            scale,
            buffers,
            seen: self.seen.take(),
        }
    }
}

struct Outcome {
    loss: f32,
    gradients: Vec<f32>,
    scale: f32,
    buffers: Vec<f32>,
    seen: Vec<(Range<usize>, Vec<u32>)>,
}

impl Outcome {
    fn assert_equals(&self, what: &str, other: &Outcome) {
        let relative = |a: f32, b: f32| ((a - b) / b).abs();
        let gradients = distance(&self.gradients, &other.gradients);
        let (loss, scale) = (relative(self.loss, other.loss), relative(self.scale, other.scale));
        println!("{what}: gradients {gradients:.1e} relative L2, loss {loss:.1e}, gradient of the scale {scale:.1e}");
        assert!(other.gradients.iter().any(|g| *g != 0.0) && other.scale != 0.0);
        assert!(gradients <= 1e-5 && loss <= 1e-6 && scale <= 1e-5, "{what}");
    }
}

fn distance(got: &[f32], want: &[f32]) -> f64 {
    relative_l2(got, &want.iter().map(|&x| x as f64).collect::<Vec<_>>())
}

impl BatchLoss for Toy {
    fn pass(&self) -> Forward<'_> {
        Forward::training(&self.parameters).with_mode(self.mode).with_dtype(self.dtype)
    }

    fn embed(&self, pass: &Forward, rows: Range<usize>) -> Result<Var> {
        let images = pass.tape.constant(&self.images.rows(rows.start, rows.len())?);
        let embedding = self.encoder.forward(pass, &images)?;
        let embedding = pass.tape.apply(Cast(DType::F32), &[&embedding])?;
        let bits = embedding.tensor().to_vec()?.iter().map(|v| v.to_bits()).collect();
        self.seen.borrow_mut().push((rows, bits));
        Ok(embedding)
    }

    fn loss(&self, pass: &Forward, embeddings: &Var) -> Result<Var> {
        let scale = pass.parameter(self.scale)?;
        pass.tape.apply(InfoNce::new(Scale::Learnable), &[embeddings, &pass.tape.constant(&self.targets), &scale])
    }
}

#[test]
fn with_frozen_norms_the_gradient_is_that_of_one_pass_over_the_batch() {
    let toy = Toy::new(&Device::host(), Mode::Eval, DType::F32);
    let whole = toy.outcome(|toy| gradients(toy, &micro_batches(ROWS, None).unwrap()).unwrap());
    assert_eq!(whole.seen.len(), 1);
    for limit in [3, 8, 22] {
        let parts = micro_batches(ROWS, Some(limit)).unwrap();
        let cached = toy.outcome(|toy| gradients(toy, &parts).unwrap());
        assert_eq!(cached.seen.len(), 2 * parts.len());
        cached.assert_equals(&format!("frozen norms, micro-batches of at most {limit}"), &whole);
        assert_eq!(cached.buffers, whole.buffers);
    }
}

#[test]
fn with_batch_norm_the_gradient_is_that_of_all_micro_batches_on_one_tape() {
    for (dtype, limit) in [(DType::F32, 5), (DType::F32, 12), (DType::Bf16, 5)] {
        let what = format!("{} batch norm, micro-batches of at most {limit}", dtype.name());
        let parts = micro_batches(ROWS, Some(limit)).unwrap();
        let run = |compute: &dyn Fn(&Toy) -> f32| Toy::new(&Device::host(), Mode::Train, dtype).outcome(compute);
        let cached = run(&|toy| gradients(toy, &parts).unwrap());
        let direct = run(&|toy| on_one_tape(toy, &parts));
        cached.assert_equals(&what, &direct);
        // Once a micro-batch, in order; and the second pass repeats the first bit for bit.
        assert!(cached.buffers == direct.buffers, "{what}: running statistics");
        assert!(cached.buffers.iter().any(|&v| v != 0.0 && v != 1.0));
        let (first, second) = cached.seen.split_at(parts.len());
        assert!(first == second && first == direct.seen, "{what}: embeddings");
    }
}

#[test]
fn a_batch_is_cut_into_as_few_and_as_equal_micro_batches_as_can_be() {
    for rows in 2..200 {
        assert!(micro_batches(rows, None).unwrap().iter().eq([&(0..rows)]));
        for limit in 3..=rows + 1 {
            let parts = micro_batches(rows, Some(limit)).unwrap();
            let sizes: Vec<usize> = parts.iter().map(|p| p.len()).collect();
            let (least, most) = (*sizes.iter().min().unwrap(), *sizes.iter().max().unwrap());
            assert!(parts.len() == rows.div_ceil(limit) && most <= limit && most - least <= 1 && least > 1);
            assert!(parts[0].start == 0 && parts.last().unwrap().end == rows);
            assert!(parts.windows(2).all(|w| w[0].end == w[1].start));
        }
        assert_eq!(micro_batches(rows, Some(2)).is_ok(), rows % 2 == 0);
        assert!(micro_batches(rows, Some(1)).unwrap_err().to_string().contains("a part holds 1 radiograph"));
    }
    assert_eq!(micro_batches(32_768, Some(64)).unwrap().len(), 512);
}

fn config(batch: usize, micro_batch: Option<usize>) -> TrainConfig {
    TrainConfig {
        out: "run".into(),
        epochs: 1,
        batch,
        micro_batch,
        seed: 3,
        dtype: DType::F32,
        checkpoint_steps: 1000,
        max_skipped_steps: 10,
        schedule_epochs: None,
        drop_last: false,
        weights: None,
        model: EncoderConfig::new("resnet18", 8),
        data: DataConfig {
            radiographs: "radiographs.safetensors".into(),
            cache: "cache.safetensors".into(),
            teacher: None,
            image_size: SIDE,
            normalization: Normalization::IMAGENET,
        },
        loss: Default::default(),
        optimizer: OptimizerConfig { lr: Some(2e-3), ..Default::default() },
        schedule: Default::default(),
        augmentation: Augmentation { shift: 0.05, ..Augmentation::cxr_clip() },
    }
}

fn phantoms(device: &Device, count: u64) -> TrainingSet {
    let study = PhantomStudy { seed: 7, shape: [SIDE; 3], spacing: [12.0; 3] };
    let p = study.make(device, 0..count, &AtomicBool::new(false), &mut |_| {}).unwrap();
    TrainingSet::join(device, &p.radiographs, &p.cache).unwrap()
}

#[derive(Default)]
struct Log(Vec<StepLog>);

impl Observer for Log {
    fn step(&mut self, log: &StepLog, _: Position) -> Result<()> {
        self.0.push(log.clone());
        Ok(())
    }

    fn checkpoint(&mut self, _: &Trainer) -> Result<()> {
        Ok(())
    }
}

/// A step of the trainer, written down once more.
struct Step<'a> {
    config: &'a TrainConfig,
    encoder: &'a RadiographEncoder,
    parameters: &'a Parameters,
    set: &'a TrainingSet,
    rows: &'a [u32],
    first: usize,
}

impl Step<'_> {
    fn targets(&self, all: &[f32]) -> Tensor {
        let dim = self.set.dim;
        let data: Vec<f32> = self.rows.iter().flat_map(|&r| &all[r as usize * dim..][..dim]).copied().collect();
        Tensor::from_slice(self.parameters.device(), [self.rows.len(), dim], DType::F32, &data).unwrap()
    }
}

impl BatchLoss for Step<'_> {
    fn pass(&self) -> Forward<'_> {
        Forward::training(self.parameters)
    }

    fn embed(&self, pass: &Forward, part: Range<usize>) -> Result<Var> {
        let (size, images) = ([self.config.data.image_size; 2], &self.set.images);
        // Epoch 0: the place in the epoch is the whole counter.
        let warps: Vec<_> = part
            .map(|i| {
                let mut rng = Rng::new(self.config.seed, (self.first + i) as u64, 2);
                (self.rows[i], self.config.augmentation.draw(&mut rng, images.size(), size))
            })
            .collect();
        let images = images.batch(&warps, size, self.config.data.normalization, DType::F32)?;
        self.encoder.forward(pass, &pass.tape.constant(&images))
    }

    fn loss(&self, pass: &Forward, embeddings: &Var) -> Result<Var> {
        let (ct, report) = (self.targets(&self.set.ct), self.targets(&self.set.report));
        let loss = TriModal { reduction: Reduction::Mean, normalize: true, ..Default::default() };
        pass.tape.apply(loss, &[embeddings, &pass.tape.constant(&ct), &pass.tape.constant(&report)])
    }
}

/// Two steps: AdamW makes of a gradient that is rounding alone a step as long as any, and after the third such steps max pooling may choose
/// another of two all but equal voxels, whose gradient then is another, too.
#[test]
fn two_steps_of_the_trainer_are_those_of_the_direct_gradient() {
    let device = Device::host();
    let (set, config) = (phantoms(&device, 32), config(16, Some(6)));
    let mut trainer = Trainer::new(&device, &config).unwrap();
    let start = trainer.parameters().values().to_vec().unwrap();
    let mut log = Log::default();
    trainer.run(&set, &mut log, &AtomicBool::new(false)).unwrap();

    let mut b = ParameterBuilder::new();
    let encoder = RadiographEncoder::new(&mut b, &config.model).unwrap();
    let parameters = b.build(&device, config.seed).unwrap();
    let o = &config.optimizer;
    let hyper = Hyper { beta1: o.betas[0], beta2: o.betas[1], eps: o.eps, max_norm: Some(o.max_norm) };
    let group =
        Group { begin: 0, end: parameters.values().numel(), weight_decay: o.weight_decay as f32, lr_scale: 1.0 };
    let mut optimizer = AdamW::new(parameters.values(), &[group], hyper).unwrap();
    let order = Sampler::new(set.scans(), config.seed).epoch(0);
    for (step, rows) in order.chunks(16).enumerate() {
        parameters.zero_gradients().unwrap();
        let step_of =
            Step { config: &config, encoder: &encoder, parameters: &parameters, set: &set, rows, first: 16 * step };
        let loss = on_one_tape(&step_of, &[0..5, 5..10, 10..16]);
        let report = optimizer.step(parameters.gradients(), o.rate(16).unwrap()).unwrap();
        let logged = &log.0[step];
        assert!(((logged.loss - loss) / loss).abs() < 1e-5, "step {}: {} {loss}", step + 1, logged.loss);
        let of_norms = (logged.grad_norm.unwrap() / report.grad_norm - 1.0).abs();
        assert!(of_norms < [1e-6, 1e-4][step], "step {}: gradient norms {of_norms:.1e}", step + 1);
    }
    assert_eq!(log.0.len(), 2);
    let (got, want) = (trainer.parameters().values().to_vec().unwrap(), parameters.values().to_vec().unwrap());
    let moved = |to: &[f32]| to.iter().zip(&start).map(|(a, b)| a - b).collect::<Vec<f32>>();
    let (of_values, of_change) = (distance(&got, &want), distance(&moved(&got), &moved(&want)));
    println!("after 2 steps: parameters {of_values:.1e} relative L2, their change {of_change:.1e}");
    assert!(of_values < 1e-5 && of_change < 1e-3);
    let buffers = |p: &Parameters| p.buffers_to_torch().unwrap().into_iter().flat_map(|b| b.2).collect::<Vec<f32>>();
    assert!(distance(&buffers(trainer.parameters()), &buffers(&parameters)) < 1e-5);
}

/// The allocator's peak over one training step, everything included, and what [`StepMemory`] counts of it, in bytes.
fn peak_of_a_step(config: &TrainConfig) -> [f64; 2] {
    let device = Device::host();
    let set = phantoms(&device, config.batch as u64);
    let mut trainer = Trainer::new(&device, config).unwrap();
    device.reset_peak();
    trainer.run(&set, &mut Log::default(), &AtomicBool::new(false)).unwrap();
    let size = config.data.image_size;
    let counted = StepMemory::of(&config.model, size, config.dtype, config.batch, config.micro_batch).unwrap();
    let [peak, counted] = [device.memory().peak as f64, counted.total() as f64];
    println!(
        "{} of width {} at {size}, {}, batch {}, micro_batch {:?}: peak {:.1} MB, counted {:.1} MB",
        config.model.name,
        config.model.width,
        config.dtype.name(),
        config.batch,
        config.micro_batch,
        peak / 1e6,
        counted / 1e6
    );
    assert!((peak / counted - 1.0).abs() < 0.15);
    [peak, counted]
}

#[test]
fn memory_is_that_of_a_micro_batch() {
    for dtype in [DType::F32, DType::Bf16] {
        let [whole, cut] = [None, Some(4)].map(|micro_batch| {
            let mut config = TrainConfig { dtype, ..config(32, micro_batch) };
            config.data.image_size = 128;
            peak_of_a_step(&config)[0]
        });
        println!("{}: {:.3} of the one-pass peak", dtype.name(), cut / whole);
        assert!(cut < 0.35 * whole);
    }
}

#[test]
fn a_batch_of_32768_fits_one_gpu_in_micro_batches() {
    let model = EncoderConfig::new("resnet50", 64);
    let mut config = TrainConfig { model: model.clone(), ..config(3, None) };
    config.data.image_size = 224;
    peak_of_a_step(&config); // the count is right for this model
    for dtype in [DType::F32, DType::Bf16] {
        for micro_batch in [None, Some(64), Some(256)] {
            let memory = StepMemory::of(&model, 224, dtype, 32_768, micro_batch).unwrap();
            let total = memory.total() as f64 / 1e9;
            println!("resnet50 at 224, {}, batch 32768, micro_batch {micro_batch:?}: {total:.2} GB", dtype.name());
            assert_eq!(total < 80.0, micro_batch.is_some());
        }
    }
}
