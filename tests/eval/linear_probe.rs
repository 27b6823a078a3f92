//! Linear probes against an f64 trainer, their determinism, early stopping, recipes and files.

use std::fs;

use x2ct::Device;
use x2ct::device::{HostOptions, ThreadOrder};
use x2ct::eval::linear_probe::{EpochLosses, Head, Lbfgs, LinearProbe, PosWeight, Recipe, Samples};
use x2ct::labels;
use x2ct::philox::Rng;
use x2ct::train::{Decay, OptimizerConfig, Sampler, ScheduleKind};

use crate::support::{assert_close, devices, host, normal};

/// Features and labels that have to do with one another.
struct Made {
    names: Vec<String>,
    dim: usize,
    features: Vec<f32>,
    labels: Vec<bool>,
}

impl Made {
    fn new(seed: u64, samples: usize, dim: usize, names: &[&str]) -> Self {
        let features = normal(seed, samples * dim);
        let planes = normal(77, names.len() * dim);
        let labels = features.chunks(dim).flat_map(|row| {
            planes.chunks(dim).map(|plane| row.iter().zip(plane).map(|(x, w)| x * w).sum::<f32>() > 1.0)
        });
        Made { names: names.iter().map(|name| name.to_string()).collect(), dim, labels: labels.collect(), features }
    }

    fn samples(&self) -> Samples<'_> {
        Samples { names: &self.names, dim: self.dim, features: &self.features, labels: &self.labels }
    }
}

fn fit(device: &Device, train: &Made, validation: Option<&Made>, recipe: &Recipe, seed: u64) -> LinearProbe {
    let validation = validation.map(Made::samples);
    LinearProbe::fit(device, &train.samples(), validation.as_ref(), recipe, seed, &mut |_| Ok(())).unwrap()
}

/// A recipe without validation.
fn recipe(epochs: usize, batch: usize, lr: f64) -> Recipe {
    let base = Recipe::default();
    let optimizer = OptimizerConfig { lr: Some(lr), ..base.optimizer.clone() };
    Recipe { epochs, batch, patience: 0, validation: 0.0, optimizer, ..base }
}

/// The trainer in f64, plain loops: the same start, order and batches. Losses by epoch, then weights and bias.
fn reference(train: &Made, recipe: &Recipe, seed: u64, pos_weight: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let (d, classes) = (train.dim, train.names.len());
    let samples = train.labels.len() / classes;
    let bound = (1.0 / (d as f32).sqrt()) as f64;
    let draw = |stream: u32, n: usize| {
        let mut random = Rng::new(seed, 0, stream);
        (0..n).map(|_| f64::from(bound as f32 * (2.0 * random.unit() - 1.0))).collect::<Vec<f64>>()
    };
    let mut w: Vec<f64> = draw(0, classes * d).into_iter().chain(draw(1, classes)).collect();
    let (mut m, mut v) = (vec![0.0; w.len()], vec![0.0; w.len()]);
    let optimizer = &recipe.optimizer;
    let rate = optimizer.lr.unwrap_or_else(|| optimizer.blr.unwrap() * recipe.batch as f64 / 256.0);
    let steps = samples.div_ceil(recipe.batch);
    let mut losses = Vec::new();
    let mut step = 0;
    for epoch in 0..recipe.epochs {
        let mut sum = 0.0;
        for rows in Sampler::new(0..samples, seed).epoch(epoch).chunks(recipe.batch) {
            let mut g = vec![0.0; w.len()];
            let cells = (rows.len() * classes) as f64;
            for &row in rows {
                let row = row as usize;
                let x: Vec<f64> = train.features[row * d..][..d]
                    .iter()
                    .map(|&x| if recipe.head == Head::Linear { x } else { x.max(0.0) } as f64)
                    .collect();
                for c in 0..classes {
                    let z: f64 = w[classes * d + c] + (0..d).map(|k| w[c * d + k] * x[k]).sum::<f64>();
                    let t = f64::from(u8::from(train.labels[row * classes + c]));
                    let softplus = |z: f64| z.max(0.0) + (-z.abs()).exp().ln_1p();
                    sum += ((1.0 - t) * softplus(z) + pos_weight[c] * t * softplus(-z)) / classes as f64;
                    let p = 1.0 / (1.0 + (-z).exp());
                    let slope = ((1.0 - t) * p - pos_weight[c] * t * (1.0 - p)) / cells;
                    (0..d).for_each(|k| g[c * d + k] += slope * x[k]);
                    g[classes * d + c] += slope;
                }
            }
            let norm = g.iter().map(|g| g * g).sum::<f64>().sqrt();
            let clip = if optimizer.max_norm > 0.0 { (optimizer.max_norm / (norm + 1e-6)).min(1.0) } else { 1.0 };
            let lr = rate * recipe.schedule.factor(step, steps * recipe.epochs);
            step += 1;
            let [b1, b2] = optimizer.betas;
            for k in 0..w.len() {
                let g = g[k] * clip;
                let decays = optimizer.decay == Decay::All || k < classes * d;
                w[k] *= 1.0 - if decays { lr * optimizer.weight_decay } else { 0.0 };
                m[k] = b1 * m[k] + (1.0 - b1) * g;
                v[k] = b2 * v[k] + (1.0 - b2) * g * g;
                let (m, v) = (m[k] / (1.0 - b1.powi(step as i32)), v[k] / (1.0 - b2.powi(step as i32)));
                w[k] -= lr * m / (v.sqrt() + optimizer.eps);
            }
        }
        losses.push(sum / samples as f64);
    }
    (losses, w)
}

fn assert_is_reference(what: &str, got: &LinearProbe, (losses, parameters): &(Vec<f64>, Vec<f64>)) {
    let of_epochs: Vec<f32> = got.losses.iter().map(|losses| losses.train).collect();
    assert_close(&format!("{what}: losses"), &of_epochs, losses, 1e-5);
    let all: Vec<f32> = got.weights.iter().chain(&got.bias).copied().collect();
    assert_close(&format!("{what}: weights"), &all, parameters, 2e-5);
}

#[test]
fn training_is_that_of_an_f64_trainer() {
    let made = Made::new(1, 61, 17, &["a", "b", "c"]);
    for (name, device) in devices() {
        for (what, recipe) in [
            ("full batch", recipe(8, 61, 1e-2)),
            ("batches with a short last", recipe(4, 16, 1e-2)),
            ("batch larger than the set", recipe(3, 1000, 5e-2)),
        ] {
            let got = fit(&device, &made, None, &recipe, 5);
            assert_is_reference(&format!("{name}, {what}"), &got, &reference(&made, &recipe, 5, &[1.0; 3]));
            assert_eq!((got.best_epoch, got.losses.len()), (recipe.epochs, recipe.epochs), "{what}: the last is kept");
        }
    }
}

/// ReLU, weights of positives, decay of the matrix alone, clipping, warm-up and cosine; of dropout only that it acts.
#[test]
fn the_other_heads_losses_and_schedules_are_too() {
    let names = [labels::NAMES[3], labels::NAMES[9]];
    let made = Made::new(2, 45, 12, &names);
    let mut recipe = Recipe { epochs: 5, batch: 10, dropout: 0.0, ..Recipe::named("dcformer").unwrap() };
    recipe.optimizer = OptimizerConfig { lr: Some(2e-2), blr: None, max_norm: 0.05, ..recipe.optimizer };
    (recipe.schedule.kind, recipe.schedule.warmup_steps) = (ScheduleKind::Cosine, 7);
    let device = host(ThreadOrder::Forward);
    let without = fit(&device, &made, None, &recipe, 3);
    assert_is_reference("head", &without, &reference(&made, &recipe, 3, &[32.862_977_6, 1.216_071_737]));
    let with = fit(&device, &made, None, &Recipe { dropout: 0.3, ..recipe.clone() }, 3);
    assert!(with.weights != without.weights && with.losses[4].train < with.losses[0].train, "{:?}", with.losses);
    // Evaluation knows ReLU and no dropout.
    let logits = with.logits(&device, &made.features).unwrap();
    let want: Vec<f64> = made.features.chunks(12).flat_map(|row| logits_of(&with, row)).collect();
    assert_close("logits", &logits, &want, 1e-5);
}

/// The largest derivative at these weights of scikit-learn's problem of each label, divided by C and the samples, in f64.
fn steepest(made: &Made, probe: &LinearProbe, c: f64, pos_weight: &[f64]) -> f64 {
    let (d, classes) = (made.dim, made.names.len());
    let samples = (made.labels.len() / classes) as f64;
    let mut steepest: f64 = 0.0;
    for class in 0..classes {
        let w: Vec<f64> = probe.weights[class * d..][..d].iter().map(|&w| f64::from(w)).collect();
        let mut g: Vec<f64> = w.iter().map(|w| w / (c * samples)).chain([0.0]).collect();
        for (x, labels) in made.features.chunks(d).zip(made.labels.chunks(classes)) {
            let x = |k: usize| f64::from(if probe.head == Head::Linear { x[k] } else { x[k].max(0.0) });
            let z = f64::from(probe.bias[class]) + (0..d).map(|k| w[k] * x(k)).sum::<f64>();
            let p = 1.0 / (1.0 + (-z).exp());
            let slope = if labels[class] { pos_weight[class] * (p - 1.0) } else { p } / samples;
            (0..d).for_each(|k| g[k] += slope * x(k));
            g[d] += slope;
        }
        steepest = g.iter().fold(steepest, |most, g| most.max(g.abs()));
    }
    steepest
}

/// The problem is strictly convex in the weights: where nothing is steep is its one optimum.
#[test]
fn logistic_ends_at_the_optimum() {
    let names = [labels::NAMES[3], labels::NAMES[9], labels::NAMES[0]];
    let plain = Made::new(11, 400, 23, &names);
    // Features of one direction and of different sizes, around a mean far from 0: what is left of a derivative there is more. And fewer
    // samples than values, which a plane parts.
    let mut skewed = Made::new(12, 300, 9, &names);
    for row in skewed.features.chunks_mut(9) {
        let first = row[0];
        row.iter_mut().enumerate().for_each(|(k, x)| *x = (5.0 + first + 0.1 * *x) * 2f32.powi(k as i32 / 2 - 3));
    }
    let few = Made::new(13, 12, 40, &names);
    for (name, device) in devices() {
        for (what, made, tolerance) in [("plain", &plain, 1e-5), ("skewed", &skewed, 1e-4), ("few samples", &few, 1e-5)]
        {
            for c in [0.01, 1.0, 100.0] {
                let lbfgs = Lbfgs { c, tolerance };
                let recipe = Recipe { lbfgs: Some(lbfgs), ..Recipe::named("logistic").unwrap() };
                let got = fit(&device, made, None, &recipe, 1);
                let steepest = steepest(made, &got, c, &[1.0; 3]);
                let what = format!("{name}, {what}, C {c}: {steepest:.1e} after {} iterations", got.losses.len());
                assert!(steepest <= 1.2 * lbfgs.tolerance && got.losses.len() < 500, "{what}");
                assert_eq!(got.best_epoch, got.losses.len());
                // Weights of 0 have a loss of ln 2, and no penalty.
                assert!(got.losses.last().unwrap().train < 2f32.ln(), "{what}");
            }
        }
    }
    let device = host(ThreadOrder::Forward);
    let other =
        Recipe { head: Head::ReluDropout, pos_weight: PosWeight::CtLipro, ..Recipe::named("logistic").unwrap() };
    let got = fit(&device, &plain, None, &other, 1);
    assert!(steepest(&plain, &got, 1.0, &[32.862_977_6, 1.216_071_737, 9.211_362_733]) <= 1.2e-5);
    // The seed draws nothing; iterations that are too few are told and kept.
    let recipe = Recipe::named("logistic").unwrap();
    assert_eq!(fit(&device, &plain, None, &recipe, 1), fit(&device, &plain, None, &recipe, 2));
    assert_eq!(fit(&device, &plain, None, &Recipe { epochs: 3, ..recipe }, 1).losses.len(), 3);
}

fn logits_of(probe: &LinearProbe, row: &[f32]) -> Vec<f64> {
    let dot = |w: &[f32]| w.iter().zip(row).map(|(&w, &x)| f64::from(w) * f64::from(x.max(0.0))).sum::<f64>();
    probe.weights.chunks(probe.dim).zip(&probe.bias).map(|(w, &b)| dot(w) + f64::from(b)).collect()
}

#[test]
fn a_seed_gives_the_same_bits_on_any_number_of_threads() {
    let (train, validation) = (Made::new(3, 1500, 40, &["a", "b"]), Made::new(4, 300, 40, &["a", "b"]));
    let recipe = Recipe { epochs: 3, batch: 256, head: Head::ReluDropout, dropout: 0.3, ..Recipe::default() };
    let on = |threads, order| {
        let device = Device::host_with(HostOptions { threads, order, poison: true });
        fit(&device, &train, Some(&validation), &recipe, 9)
    };
    let first = on(1, ThreadOrder::Forward);
    for (threads, order) in [(2, ThreadOrder::Reverse), (3, ThreadOrder::Seeded(5)), (8, ThreadOrder::Forward)] {
        assert_eq!(on(threads, order), first, "{threads} threads, {order:?}");
    }
    let other = fit(&host(ThreadOrder::Forward), &train, Some(&validation), &recipe, 10);
    assert_ne!(other.weights, first.weights);
}

#[test]
fn early_stopping_keeps_the_best_weights() {
    // Few samples of many dimensions: the validation loss turns soon.
    let (train, validation) = (Made::new(5, 24, 64, &["a"]), Made::new(6, 200, 64, &["a"]));
    let recipe = Recipe { patience: 5, ..Recipe { validation: 0.2, ..recipe(400, 8, 2e-2) } };
    let device = host(ThreadOrder::Forward);
    let probe = fit(&device, &train, Some(&validation), &recipe, 1);
    let of_validation: Vec<f32> = probe.losses.iter().map(|losses| losses.validation.unwrap()).collect();
    let least = of_validation.iter().copied().fold(f32::INFINITY, f32::min);
    let best = of_validation.iter().position(|&loss| loss == least).unwrap() + 1;
    assert!(best < 300, "the case does not overfit: {best}");
    assert_eq!((probe.best_epoch, probe.losses.len()), (best, best + 5));
    let to_best = fit(&device, &train, None, &Recipe { epochs: best, patience: 0, ..recipe.clone() }, 1);
    assert_eq!((&probe.weights, &probe.bias), (&to_best.weights, &to_best.bias));
    // Without patience all epochs are trained, and the best are kept all the same.
    let all = fit(&device, &train, Some(&validation), &Recipe { epochs: best + 9, patience: 0, ..recipe }, 1);
    assert_eq!((all.losses.len(), &all.weights), (best + 9, &probe.weights));
}

#[test]
fn watching_ends_a_training_and_divergence_is_told() {
    let made = Made::new(7, 30, 4, &["a"]);
    let device = host(ThreadOrder::Forward);
    let mut seen = 0;
    let mut watch = |_: &EpochLosses| {
        seen += 1;
        if seen == 3 { Err(x2ct::Error::Interrupted("here".into())) } else { Ok(()) }
    };
    let stopped = LinearProbe::fit(&device, &made.samples(), None, &recipe(9, 10, 1e-3), 1, &mut watch);
    assert!(matches!(stopped, Err(x2ct::Error::Interrupted(_))) && seen == 3);
    let wild = recipe(9, 10, 1e30);
    let error = LinearProbe::fit(&device, &made.samples(), None, &wild, 1, &mut |_| Ok(())).unwrap_err().to_string();
    assert!(error.contains("is not finite in epoch") && error.contains("smaller learning rate"), "{error}");
}

#[test]
fn recipes_are_the_published_ones() {
    for (name, epochs, lr, batch) in
        [("a", 500, 1e-3, 1024), ("b", 100, 5e-2, 4096), ("c", 200, 5e-3, 512), ("radchest", 200, 5e-2, 256)]
    {
        let r = Recipe::open(name).unwrap();
        assert_eq!((r.epochs, r.optimizer.lr, r.batch, r.patience, r.validation), (epochs, Some(lr), batch, 20, 0.2));
        assert_eq!((r.head, r.pos_weight, r.optimizer.weight_decay), (Head::Linear, PosWeight::None, 0.01));
    }
    let r = Recipe::open("dcformer").unwrap();
    assert_eq!((r.epochs, r.optimizer.rate(128).unwrap(), r.optimizer.betas), (17, 5e-6, [0.9, 0.95]));
    assert_eq!(
        (r.head, r.dropout, r.optimizer.max_norm, r.optimizer.weight_decay),
        (Head::ReluDropout, 0.3, 1.0, 0.05)
    );
    let r = Recipe::open("ct-lipro").unwrap();
    assert_eq!((r.epochs, r.batch, r.schedule.warmup_steps, r.pos_weight), (10, 8, 10_000, PosWeight::CtLipro));
    assert!(r.doubt_of_warmup(100).unwrap().contains("is 10000, and the training has 130 steps"));
    assert_eq!(Recipe::default(), Recipe::open("c").unwrap());
    for name in Recipe::NAMES {
        Recipe::open(name).unwrap().check().unwrap();
    }
}

#[test]
fn recipes_are_read_from_files_and_mistakes_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.toml");
    let open = |text: &str| {
        fs::write(&path, text).unwrap();
        Recipe::open(&path).map_err(|e| e.to_string())
    };
    let mine = open(
        "base = \"radchest\"\nepochs = 7\noptimizer = { weight_decay = 0.5 }\nhead = \"relu-dropout\"\ndropout = 0.1\n",
    );
    let mine = mine.unwrap();
    assert_eq!((mine.epochs, mine.batch, mine.dropout, mine.head), (7, 256, 0.1, Head::ReluDropout));
    assert_eq!((mine.optimizer.lr, mine.optimizer.weight_decay), (Some(5e-2), 0.5));
    assert_eq!(open("").unwrap(), Recipe::default());
    for (text, says) in [
        ("epochs = 0", "epochs: is 0, must be from 1 to 1000000"),
        ("epoch = 3", "line 1: unknown field `epoch`"),
        ("batch = 8\nepochs = -1", "line 2: epochs"),
        ("base = \"z\"", "there is no recipe \"z\""),
        ("dropout = 0.3", "dropout: acts with the head relu-dropout alone"),
        ("validation = 0.0", "patience: needs a validation above 0"),
        ("head = \"mlp\"", "unknown variant `mlp`, expected `linear` or `relu-dropout`"),
        ("optimizer = { lr = -1.0 }", "optimizer.lr: is -1"),
        ("base = \"logistic\"\nbatch = 8", "batch: has no meaning with lbfgs"),
        ("lbfgs = { c = 1.0 }", "validation: is not looked at by lbfgs"),
        ("base = \"dcformer\"\nlbfgs = { c = 1.0 }", "dropout: is not applied by lbfgs"),
        ("base = \"logistic\"\nlbfgs = { c = 0.0 }", "lbfgs.c: is 0"),
        ("base = \"logistic\"\nlbfgs = { C = 1.0 }", "unknown field `C`"),
    ] {
        let error = open(text).unwrap_err();
        assert!(error.contains(says) && error.contains("mine.toml") && !error.contains('\n'), "{text}: {error}");
    }
    let error = Recipe::open(folder.path().join("none.toml")).unwrap_err().to_string();
    assert!(error.contains("one of a, b, c, radchest, dcformer, ct-lipro, logistic"), "{error}");
    let made = Made::new(8, 9, 2, &["Nodule"]);
    let error = LinearProbe::fit(
        &host(ThreadOrder::Forward),
        &made.samples(),
        None,
        &Recipe::named("dcformer").unwrap(),
        1,
        &mut |_| Ok(()),
    );
    assert!(error.unwrap_err().to_string().contains("no weight of the label \"Nodule\""));
}

#[test]
fn probes_are_files_that_are_verified() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("probe.safetensors");
    let made = Made::new(9, 40, 6, &["a", "b"]);
    let mut probe = fit(&host(ThreadOrder::Forward), &made, None, &recipe(2, 8, 1e-2), 1);
    assert!(probe.write(&path).unwrap_err().to_string().contains("its encoder is empty"));
    probe.encoder = "resnet18".into();
    probe.write(&path).unwrap();
    assert_eq!(LinearProbe::read(&path).unwrap(), probe);
    let whole = fs::read(&path).unwrap();
    let says = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        LinearProbe::read(&path).unwrap_err().to_string()
    };
    assert!(says(&whole[..whole.len() / 2]).contains("is not a whole safetensors file"));
    let mut changed = whole.clone();
    *changed.last_mut().unwrap() ^= 1;
    assert!(says(&changed).contains("it was changed or damaged"));
    let error = says(b"id,a\n1,2\n");
    assert!(error.contains("probe.safetensors") && error.contains("train the probe again"), "{error}");
    probe.bias.pop();
    assert!(probe.write(&path).unwrap_err().to_string().contains("1 biases for 2 labels"));
}
