//! How a linear probe is trained: recipes by name, and as TOML files.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::device::Device;
use crate::error::{Error, Result};
use crate::files;
use crate::labels;
use crate::tensor::{DType, Tensor};
use crate::train::limits::{BATCH, EPOCHS, check_fields, within};
use crate::train::optimizer::Fields as OptimizerFields;
use crate::train::{Decay, OptimizerConfig, ScheduleConfig, ScheduleKind};

/// How a linear probe is trained.
///
/// | name | source | epochs | rate | batch | else |
/// |---|---|---|---|---|---|
/// | `a` | X2CT-CLIP's scripts, first form | 500 | 1e-3 | 1024 | |
/// | `b` | X2CT-CLIP's scripts, January 2025 | 100 | 5e-2 | 4096 | |
/// | `c` | X2CT-CLIP's scripts, last form: the default | 200 | 5e-3 | 512 | |
/// | `radchest` | X2CT-CLIP's scripts, `c` on RadChest-CT | 200 | 5e-2 | 256 | |
/// | `dcformer` | DCFormer's fine-tuning of a frozen CLIP | 17 | 1e-5 batch / 256 | 128 | ReLU, dropout 0.3, weights of positives, betas 0.9 and 0.95, decay 0.05 of the matrix, norm clipped to 1 |
/// | `ct-lipro` | CT-CLIP's linear probe, CT-LiPro | 10 | 1e-5 | 8 | ReLU, dropout 0.3, weights of positives, decay 0.1, norm clipped to 1, 10,000 steps of warm-up, then a cosine |
/// | `logistic` | scikit-learn's `LogisticRegression` of each label: C 1, to the optimum by L-BFGS | 1000 iterations at most | none | all | |
///
/// X2CT-CLIP's four train with AdamW as PyTorch has it (decay 0.01, betas 0.9 and 0.999), split a fifth of the samples off as
/// validation, stop 20 epochs behind the least validation loss and keep the weights that had it. The others know no validation:
/// all samples train, and the last weights are kept.
///
/// As TOML, what is left out is that of the recipe `base`, or of `c`:
/// ```toml
/// base = "c"
/// epochs = 100
/// batch = 256
/// patience = 10          # 0: train all epochs
/// validation = 0.1       # 0: none
/// head = "relu-dropout"  # or "linear"
/// dropout = 0.3
/// pos_weight = "none"    # or "ct-lipro"
/// optimizer = { lr = 1e-2, weight_decay = 0.01, betas = [0.9, 0.999], eps = 1e-8, max_norm = 1.0, decay = "all" }
/// schedule = { kind = "cosine", warmup_steps = 100 }
/// ```
/// or, to the optimum, which knows neither batch, dropout, optimizer nor schedule:
/// ```toml
/// base = "logistic"
/// lbfgs = { c = 0.1, tolerance = 1e-5 }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Recipe {
    /// Passes over the training samples, at most.
    pub epochs: usize,
    /// Samples a step; the last of an epoch may have fewer.
    pub batch: usize,
    /// Epochs without a smaller validation loss after which training stops; 0 trains all.
    pub patience: usize,
    /// Share of the samples that is split off as validation; 0 for none.
    pub validation: f64,
    /// What stands before the linear layer.
    pub head: Head,
    /// The probability with which [`Head::ReluDropout`] drops a feature, from 0 to below 1.
    pub dropout: f32,
    /// Weights of the labels' positives in the loss.
    pub pos_weight: PosWeight,
    /// AdamW.
    pub optimizer: OptimizerConfig,
    /// The learning rate over time.
    pub schedule: ScheduleConfig,
    /// In place of AdamW, batches and the schedule: all samples to the optimum.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lbfgs: Option<Lbfgs>,
}

/// Training to the optimum by L-BFGS.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lbfgs {
    /// The inverse of the strength of the penalty, as scikit-learn's C: a label's problem is `|w|^2 / 2 + C sum of losses`.
    pub c: f64,
    /// The largest derivative, of the problem divided by C and the number of samples, that counts as none.
    pub tolerance: f64,
}

impl Default for Lbfgs {
    fn default() -> Self {
        Lbfgs { c: 1.0, tolerance: 1e-5 }
    }
}

/// What stands before the linear layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Head {
    /// Nothing: logits are W x + b.
    Linear,
    /// Logits are W dropout(max(x, 0)) + b, and without the dropout once it is trained.
    ReluDropout,
}

/// Weights of the labels' positives in the loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PosWeight {
    /// 1 for each label.
    None,
    /// The 18 numbers of CT-CLIP's code, by the labels' names. They are fixed: not negatives over positives of CT-RATE as it is now.
    CtLipro,
}

/// CT-LiPro's weights of positives, in the order of [`labels::NAMES`].
const CT_LIPRO: [f64; labels::COUNT] = [
    9.211_362_733,
    2.384_068_466,
    8.295_479_204,
    32.862_977_6,
    2.992_233_613,
    6.064_870_808,
    3.176_470_588,
    4.187_083_754,
    3.022_222_222,
    1.216_071_737,
    1.677_849_552,
    3.152_851_834,
    7.123_261_694,
    18.166_293_81,
    13.848_064_7,
    6.335_045_662,
    10.817_011_49,
    13.406_950_67,
];

/// What a file may say.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    base: Option<String>,
    epochs: Option<usize>,
    batch: Option<usize>,
    patience: Option<usize>,
    validation: Option<f64>,
    head: Option<Head>,
    dropout: Option<f32>,
    pos_weight: Option<PosWeight>,
    optimizer: Option<OptimizerFields>,
    schedule: Option<ScheduleConfig>,
    lbfgs: Option<Lbfgs>,
}

impl Fields {
    /// The first of these that a training to the optimum does not know.
    fn of_steps(&self) -> Option<&'static str> {
        let given = [
            ("batch", self.batch.is_some()),
            ("dropout", self.dropout.is_some()),
            ("optimizer", self.optimizer.is_some()),
            ("schedule", self.schedule.is_some()),
        ];
        given.into_iter().find(|(_, given)| *given).map(|(name, _)| name)
    }
}

impl Default for Recipe {
    /// `c`.
    fn default() -> Self {
        Self::x2ct_clip(200, 5e-3, 512)
    }
}

impl Recipe {
    /// Names of the recipes that are built in.
    pub const NAMES: [&str; 7] = ["a", "b", "c", "radchest", "dcformer", "ct-lipro", "logistic"];

    /// The recipe of this name.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "a" => Self::x2ct_clip(500, 1e-3, 1024),
            "b" => Self::x2ct_clip(100, 5e-2, 4096),
            "c" => Self::default(),
            "radchest" => Self::x2ct_clip(200, 5e-2, 256),
            "dcformer" => {
                let optimizer = OptimizerConfig { max_norm: 1.0, ..OptimizerConfig::dcformer() };
                Self::weighted(17, 128, optimizer, ScheduleConfig::default())
            }
            "ct-lipro" => {
                let optimizer = OptimizerConfig { weight_decay: 0.1, max_norm: 1.0, ..adamw(1e-5) };
                let schedule = ScheduleConfig { kind: ScheduleKind::Cosine, warmup_steps: 10_000 };
                Self::weighted(10, 8, optimizer, schedule)
            }
            "logistic" => Recipe {
                patience: 0,
                validation: 0.0,
                lbfgs: Some(Lbfgs::default()),
                ..Self::x2ct_clip(1000, 5e-3, 512)
            },
            _ => return None,
        })
    }

    /// The recipe of this name, or in this file.
    ///
    /// # Errors
    /// A file that cannot be read or is no recipe, with the line; values that make no training.
    pub fn open(name: impl AsRef<Path>) -> Result<Self> {
        let path = name.as_ref();
        if let Some(recipe) = path.to_str().and_then(Self::named) {
            return Ok(recipe);
        }
        let hint = format!("pass a TOML file, or one of {}", Self::NAMES.join(", "));
        let bytes =
            files::read(path).map_err(|e| Error::file(path, format!("cannot be read as a recipe: {e}"), &*hint))?;
        let text = String::from_utf8(bytes).map_err(|_| Error::file(path, "is no UTF-8 text", &*hint))?;
        let fields: Fields = toml::from_str(&text)
            .map_err(|e| Error::file(path, files::toml_mistake(&text, &e), "correct the recipe"))?;
        let base = fields.base.as_deref().unwrap_or("c");
        let base =
            Self::named(base).ok_or_else(|| Error::file(path, format!("base: there is no recipe {base:?}"), &*hint))?;
        if let (Some(name), true) = (fields.of_steps(), base.lbfgs.is_some() || fields.lbfgs.is_some()) {
            let problem = format!("{name}: has no meaning with lbfgs, which takes all samples at once");
            return Err(Error::file(path, problem, format!("remove {name}, or lbfgs")));
        }
        let recipe = base.with(fields);
        recipe.check().map_err(|e| e.of_file(path))?;
        Ok(recipe)
    }

    /// X2CT-CLIP's linear probe: no more than a layer, by AdamW as PyTorch has it.
    fn x2ct_clip(epochs: usize, lr: f64, batch: usize) -> Self {
        Recipe {
            epochs,
            batch,
            patience: 20,
            validation: 0.2,
            head: Head::Linear,
            dropout: 0.0,
            pos_weight: PosWeight::None,
            optimizer: adamw(lr),
            schedule: ScheduleConfig::default(),
            lbfgs: None,
        }
    }

    /// The head of CT-LiPro and DCFormer, whose positives are weighted.
    fn weighted(epochs: usize, batch: usize, optimizer: OptimizerConfig, schedule: ScheduleConfig) -> Self {
        Recipe {
            epochs,
            batch,
            patience: 0,
            validation: 0.0,
            head: Head::ReluDropout,
            dropout: 0.3,
            pos_weight: PosWeight::CtLipro,
            optimizer,
            schedule,
            lbfgs: None,
        }
    }

    fn with(self, f: Fields) -> Self {
        Recipe {
            epochs: f.epochs.unwrap_or(self.epochs),
            batch: f.batch.unwrap_or(self.batch),
            patience: f.patience.unwrap_or(self.patience),
            validation: f.validation.unwrap_or(self.validation),
            head: f.head.unwrap_or(self.head),
            dropout: f.dropout.unwrap_or(self.dropout),
            pos_weight: f.pos_weight.unwrap_or(self.pos_weight),
            optimizer: match f.optimizer {
                Some(fields) => self.optimizer.with(fields),
                None => self.optimizer,
            },
            schedule: f.schedule.unwrap_or(self.schedule),
            lbfgs: f.lbfgs.or(self.lbfgs),
        }
    }

    /// Refuses values that make no training.
    ///
    /// # Errors
    /// Names the key, its value and its range.
    pub fn check(&self) -> Result<()> {
        within("epochs", self.epochs, 1..=EPOCHS)?;
        within("batch", self.batch, 1..=BATCH)?;
        within("patience", self.patience, 0..=EPOCHS)?;
        within("validation", self.validation, 0.0..=0.9)?;
        within("dropout", self.dropout, 0.0..1.0)?;
        check_fields(&[
            ("dropout", self.dropout == 0.0 || self.head == Head::ReluDropout, "acts with the head relu-dropout alone"),
            ("patience", self.patience == 0 || self.validation > 0.0, "needs a validation above 0 to go by; give 0"),
            ("validation", self.validation == 0.0 || self.lbfgs.is_none(), "is not looked at by lbfgs; give 0"),
            ("dropout", self.dropout == 0.0 || self.lbfgs.is_none(), "is not applied by lbfgs; give 0"),
        ])?;
        if let Some(Lbfgs { c, tolerance }) = self.lbfgs {
            within("lbfgs.c", c, 1e-9..=1e9)?;
            within("lbfgs.tolerance", tolerance, 1e-8..=1.0)?;
        }
        self.optimizer.check()
    }

    /// Weights of the positives of these labels; `None` where all are 1.
    ///
    /// # Errors
    /// A label that the recipe has no weight of.
    pub(super) fn pos_weights(&self, names: &[String]) -> Result<Option<Vec<f32>>> {
        if self.pos_weight == PosWeight::None {
            return Ok(None);
        }
        let weight = |name: &String| {
            let at = labels::NAMES.iter().position(|known| known == name);
            at.map(|at| CT_LIPRO[at] as f32).ok_or_else(|| {
                let problem = format!("ct-lipro has no weight of the label {name:?}, but of CT-RATE's 18");
                Error::argument("pos_weight", problem, "pass a recipe file with pos_weight = \"none\"")
            })
        };
        names.iter().map(weight).collect::<Result<_>>().map(Some)
    }

    /// [`Self::pos_weights`] on a device.
    pub(super) fn pos_weight_on(&self, device: &Device, names: &[String]) -> Result<Option<Tensor>> {
        let weights = self.pos_weights(names)?;
        weights.map(|weights| Tensor::from_slice(device, [weights.len()], DType::F32, &weights)).transpose()
    }

    /// What is to be said where a warm-up ends beyond a training of so many steps.
    pub fn doubt_of_warmup(&self, samples: usize) -> Option<String> {
        let (warmup, steps) = (self.schedule.warmup_steps, self.steps(samples));
        (warmup > steps).then(|| {
            format!(
                "schedule.warmup_steps: is {warmup}, and the training has {steps} steps, so that the learning rate comes to no \
                 more than {:.2} of what was asked for",
                steps as f64 / warmup as f64
            )
        })
    }

    /// Steps of all epochs over so many samples.
    pub(super) fn steps(&self, samples: usize) -> usize {
        samples.div_ceil(self.batch) * self.epochs
    }
}

/// AdamW with PyTorch's defaults at this rate, which decays all parameters.
fn adamw(lr: f64) -> OptimizerConfig {
    OptimizerConfig {
        lr: Some(lr),
        blr: None,
        weight_decay: 0.01,
        decay: Decay::All,
        betas: [0.9, 0.999],
        eps: 1e-8,
        max_norm: 0.0,
    }
}
