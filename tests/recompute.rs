//! Recomputation and drop-path of DCFormer: what is not kept is computed again, bit for bit.

use x2ct::Device;
use x2ct::autograd::{Run, Tape};
use x2ct::nn::models::{DcFormer, DcFormerConfig, TokenReduction};
use x2ct::nn::{Draws, Forward, ParameterBuilder, Parameters, Recompute};
use x2ct::ops::pointwise::{Add, Gelu};
use x2ct::tensor::{DType, Tensor};
use x2ct::train::StepMemory;

use crate::support::{devices, host, normal};

struct Toy {
    config: DcFormerConfig,
    model: DcFormer,
    parameters: Parameters,
    volumes: Tensor,
    upstream: Tensor,
    dtype: DType,
}

/// Embeddings, gradients and buffers.
#[derive(PartialEq)]
struct Outcome {
    embeddings: Vec<f32>,
    gradients: Vec<f32>,
    buffers: Vec<f32>,
}

impl Toy {
    fn new(
        device: &Device,
        batch: usize,
        input: [usize; 3],
        channels: [usize; 5],
        drop_path: f32,
        dtype: DType,
    ) -> Self {
        let config = DcFormerConfig {
            channels,
            blocks: [6, 2, 1, 1],
            input,
            stem_activation: true,
            reduction: TokenReduction::Depth,
            drop_path,
            projection: Some(11),
            ..DcFormerConfig::named("dcformer-nano").unwrap()
        };
        let mut b = ParameterBuilder::new();
        let model = DcFormer::new(&mut b, &config).unwrap();
        let parameters = b.build(device, 7).unwrap();
        // Far from the 1e-6 a fresh model starts with.
        for (name, shape) in parameters.names().filter(|(name, _)| name.ends_with(".gamma")) {
            assert!(parameters.set(name, &vec![0.3; shape.numel()]).unwrap());
        }
        let [h, w, d] = input;
        let tensor = |seed, shape: &[usize]| {
            Tensor::from_slice(device, shape, DType::F32, &normal(seed, shape.iter().product())).unwrap()
        };
        Toy {
            config,
            model,
            parameters,
            volumes: tensor(1, &[batch, 1, h, w, d]),
            upstream: x2ct::ops::pointwise::cast(&tensor(2, &[batch, 11]), dtype).unwrap(),
            dtype,
        }
    }

    fn pass(&self) -> Forward<'_> {
        Forward::training(&self.parameters).with_dtype(self.dtype).with_draws(Draws { seed: 5, epoch: 9, first: 0 })
    }

    /// The allocator's peak over a step, which [`StepMemory`] counts but for the optimizer's moments: there is none. MB.
    fn peak(&self, recompute: Recompute) -> f64 {
        let device = self.volumes.device();
        device.reset_peak();
        self.step(recompute);
        let peak = device.memory().peak as f64 / 1e6;
        let counted = StepMemory::of_volumes(&self.config, self.dtype, 12, None, recompute).unwrap();
        let counted = (counted.total() - 8 * self.parameters.count() as u64) as f64 / 1e6;
        let (channels, dtype) = (self.config.channels, self.dtype.name());
        println!(
            "{dtype}, channels {channels:?}, recomputing {recompute:?}: peak {peak:.1} MB, counted {counted:.1} MB"
        );
        assert!((peak / counted - 1.0).abs() < 0.15);
        peak
    }

    fn step(&self, recompute: Recompute) -> Outcome {
        self.parameters.zero_gradients().unwrap();
        for (name, shape) in self.parameters.buffer_names() {
            let start = if name.ends_with("var") { 1.0 } else { 0.0 };
            self.parameters.set(name, &vec![start; shape.numel()]).unwrap();
        }
        let pass = self.pass().with_recompute(recompute);
        let embeddings = self.model.forward(&pass, &pass.tape.constant(&self.volumes)).unwrap();
        pass.tape.backward_from(&[(&embeddings, &self.upstream)]).unwrap();
        Outcome {
            embeddings: embeddings.tensor().to_vec().unwrap(),
            gradients: self.parameters.gradients().to_vec().unwrap(),
            buffers: self.parameters.buffers_to_torch().unwrap().into_iter().flat_map(|b| b.2).collect(),
        }
    }
}

#[test]
fn gradients_do_not_depend_on_what_is_recomputed() {
    for (name, device) in devices() {
        for (dtype, drop_path) in [(DType::F32, 0.0), (DType::F32, 0.6), (DType::Bf16, 0.6)] {
            let toy = Toy::new(&device, 3, [33, 40, 48], [4, 4, 6, 8, 5], drop_path, dtype);
            let plain = toy.step(Recompute::Nothing);
            assert!(plain.gradients.iter().any(|g| *g != 0.0) && plain.embeddings.iter().all(|v| v.is_finite()));
            for recompute in [Recompute::Hidden, Recompute::Blocks] {
                let again = toy.step(recompute);
                assert!(again == plain, "{name} {dtype:?} drop-path {drop_path} {recompute:?}");
            }
        }
    }
}

#[test]
fn recomputation_takes_less_memory_and_it_is_counted() {
    for dtype in [DType::F32, DType::Bf16] {
        let toy = Toy::new(&Device::host(), 12, [64, 64, 64], [4, 32, 16, 16, 16], 0.0, dtype);
        let [plain, hidden, blocks] =
            [Recompute::Nothing, Recompute::Hidden, Recompute::Blocks].map(|recompute| toy.peak(recompute));
        // In bf16 the volumes and their rounded copy are most of what is left.
        let share = if dtype == DType::F32 { 0.98 } else { 1.001 };
        assert!(hidden < 0.8 * plain && blocks < share * hidden);
    }
}

/// A part on its own: inputs that are constants, gradients that arrived before, a value passed twice.
#[test]
fn a_recomputed_part_is_an_operator_like_any_other() {
    let device = host(Default::default());
    let tensor = |seed| Tensor::from_slice(&device, [50], DType::F32, &normal(seed, 50)).unwrap();
    let (a, b, up) = (tensor(1), tensor(2), tensor(3));
    let gradients = |recompute: bool, leaf_b: bool| {
        let tape = Tape::recording();
        let a = tape.leaf(&a);
        let b = if leaf_b { tape.leaf(&b) } else { tape.constant(&b) };
        let part = |tape: &Tape, x: &[x2ct::autograd::Var], _: Run| {
            let y = tape.apply(Gelu, &[&x[0]])?;
            let z = tape.apply(Add, &[&y, &x[1]])?;
            tape.apply(Add, &[&tape.apply(Gelu, &[&z])?, &x[2]])
        };
        let y = if recompute {
            tape.recompute("part", &[&a, &b, &a], part).unwrap()
        } else {
            part(&tape, &[a.clone(), b.clone(), a.clone()], Run::First).unwrap()
        };
        // a is also used after it: its gradient has arrived when the part's backward pass begins.
        let y = tape.apply(Add, &[&y, &a]).unwrap();
        let found = tape.backward_from(&[(&y, &up)]).unwrap();
        [Some(y.tensor().clone()), found.get(&a).cloned(), found.get(&b).cloned()]
            .map(|t| t.map(|t| t.to_vec().unwrap()))
    };
    for leaf_b in [true, false] {
        assert_eq!(gradients(true, leaf_b), gradients(false, leaf_b));
        assert_eq!(gradients(true, leaf_b)[2].is_some(), leaf_b);
    }
    let tape = Tape::inference();
    let y = tape.recompute("part", &[&tape.constant(&a)], |tape, x, _| tape.apply(Gelu, &[&x[0]])).unwrap();
    assert!(!y.needs_gradient());
}

/// A decision belongs to (seed, epoch, place in its order, block), however the batch is cut.
#[test]
fn drop_path_is_drawn_by_place() {
    let device = host(Default::default());
    let toy = Toy::new(&device, 2, [8, 8, 8], [1; 5], 0.5, DType::F32);
    let keep = |seed, epoch, first, block, samples| {
        let pass = Forward::training(&toy.parameters).with_draws(Draws { seed, epoch, first });
        let repeated = Forward::training(&toy.parameters).with_draws(Draws { seed, epoch, first }).repeating();
        let paths = pass.drop_path(0.3, block, samples).unwrap().unwrap();
        assert_eq!(repeated.drop_path(0.3, block, samples).unwrap().unwrap(), paths);
        assert_eq!(paths.factor, 1.0 / 0.7);
        paths.keep
    };
    let whole = keep(1, 2, 0, 3, 4000);
    let cut: Vec<bool> = [0, 17, 1000].windows(2).flat_map(|w| keep(1, 2, w[0], 3, (w[1] - w[0]) as usize)).collect();
    assert_eq!(cut, whole[..1000]);
    let kept = whole.iter().filter(|&&k| k).count();
    // 2800 expected, deviation 29.
    assert!((2680..=2920).contains(&kept), "{kept} of 4000");
    for other in [keep(2, 2, 0, 3, 4000), keep(1, 3, 0, 3, 4000), keep(1, 2, 0, 4, 4000)] {
        let same = other.iter().zip(&whole).filter(|(a, b)| a == b).count();
        // 58 % of independent decisions agree.
        assert!((2200..=2440).contains(&same), "{same} of 4000");
    }
    let pass = Forward::training(&toy.parameters);
    let error = pass.drop_path(0.3, 0, 1).unwrap_err().to_string();
    assert!(error.contains("Forward::with_draws"), "{error}");
    assert_eq!(Forward::evaluation(&toy.parameters).drop_path(0.3, 0, 1).unwrap(), None);
    let config = DcFormerConfig { drop_path: 1.0, ..DcFormerConfig::named("dcformer-nano").unwrap() };
    assert!(
        DcFormer::new(&mut ParameterBuilder::new(), &config).map(drop).unwrap_err().to_string().contains("below 1")
    );
}
