//! Everything that is said about one set of embeddings: retrieval both ways, and zero-shot detection per label. [`Scores`] is of
//! a radiograph encoder against its teacher, [`ClipScores`] of a teacher's own two towers.

use serde::Serialize;

use super::detection::{Detection, LabelDetection, Problem};
use super::metrics::{MultiLabel, Rates, Thresholded};
use super::retrieval::{self, Recall};
use super::zero_shot;
use crate::Result;
use crate::data::rows;
use crate::labels;

/// What embeddings are compared with: a teacher's, of the same patients.
#[derive(Clone, Copy)]
pub struct Targets<'a> {
    /// [patients, dim], L2-normalised.
    pub ct: &'a [f32],
    /// [patients, dim], L2-normalised.
    pub report: &'a [f32],
    /// [18, dim], L2-normalised.
    pub prompts_positive: &'a [f32],
    /// [18, dim], L2-normalised.
    pub prompts_negative: &'a [f32],
    /// [patients, 18].
    pub labels: &'a [bool],
    /// Dimensions of an embedding.
    pub dim: usize,
}

/// What zero-shot detection compares embeddings with.
#[derive(Clone, Copy)]
pub struct ZeroShotTargets<'a> {
    /// [18, dim], L2-normalised.
    pub prompts_positive: &'a [f32],
    /// [18, dim], L2-normalised.
    pub prompts_negative: &'a [f32],
    /// [patients, 18].
    pub labels: &'a [bool],
    /// Dimensions of an embedding.
    pub dim: usize,
    /// What cosines are multiplied by before the softmax over the two prompts: 1 for X2CT-CLIP, e for DCFormer. It changes
    /// probabilities and nothing else: ranks are taken of logits.
    pub scale: f64,
}

impl<'a> Targets<'a> {
    /// Zero-shot targets at scale 1.
    pub fn zero_shot(&self) -> ZeroShotTargets<'a> {
        let Targets { prompts_positive, prompts_negative, labels, dim, .. } = *self;
        ZeroShotTargets { prompts_positive, prompts_negative, labels, dim, scale: 1.0 }
    }
}

/// Recall with one modality as query and the other as gallery, all patients in the gallery.
#[derive(Clone, Debug, Serialize)]
pub struct Retrieval {
    /// Radiograph as query, CT as gallery.
    pub cxr_to_ct: Recall,
    /// CT as query, radiograph as gallery.
    pub ct_to_cxr: Recall,
    /// Radiograph as query, report as gallery.
    pub cxr_to_report: Recall,
    /// Report as query, radiograph as gallery.
    pub report_to_cxr: Recall,
    /// Recall at 5 of a random order.
    pub chance_r5: f64,
    /// How many embeddings differ from each other, bit for bit; where they are few, ties make recall mean nothing
    /// ([`retrieval::collapse`]).
    pub distinct: Kinds<usize>,
    /// How alike embeddings are ([`retrieval::mean_cosine`]); beyond [`retrieval::MOST_ALIKE`] ranks mean little.
    pub mean_cosine: Kinds<f64>,
}

/// A number of each kind of embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Kinds<T> {
    /// That of the radiographs, where there are some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub radiographs: Option<T>,
    /// That of the CTs.
    pub ct: T,
    /// That of the reports.
    pub report: T,
}

impl<T> Kinds<T> {
    /// What `of` says of each kind of embeddings.
    pub fn of(radiographs: Option<&[f32]>, ct: &[f32], report: &[f32], of: impl Fn(&[f32]) -> T) -> Self {
        Kinds { radiographs: radiographs.map(&of), ct: of(ct), report: of(report) }
    }

    /// Each number there is, with what it is of.
    pub fn named(self) -> impl Iterator<Item = (&'static str, T)> {
        let all = [("radiographs", self.radiographs), ("CTs", Some(self.ct)), ("reports", Some(self.report))];
        all.into_iter().filter_map(|(what, value)| Some((what, value?)))
    }
}

/// Zero-shot detection: a softmax over the cosines with a label's two prompts.
#[derive(Clone, Debug, Serialize)]
pub struct ZeroShot {
    /// Mean area under the ROC curve over the labels.
    pub auc_macro: Option<f64>,
    /// All cells pooled, as X2CT-CLIP reports it.
    pub auc_micro: Option<f64>,
    /// Mean average precision over the labels.
    pub ap_macro: Option<f64>,
    /// All cells pooled.
    pub ap_micro: Option<f64>,
    /// Mean share of positives: what a random order's average precision is.
    pub prevalence: f64,
    /// Labels with both classes present.
    pub labels_defined: usize,
    /// Labels whose two prompts have one embedding: whatever their truth is, all logits are 0, and the area is one half.
    pub equal_prompts: Vec<&'static str>,
    /// Per label.
    pub labels: Vec<LabelDetection>,
    /// Predictions cut at one half.
    pub thresholded: Thresholded,
    /// Logits of presence, [patients, 18]; their sigmoid is the probability.
    #[serde(skip)]
    pub logits: Vec<f64>,
}

/// Scores of one set of embeddings.
#[derive(Clone, Debug, Serialize)]
pub struct Scores {
    /// Patients in the gallery.
    pub gallery: usize,
    /// Retrieval.
    pub retrieval: Retrieval,
    /// Zero-shot detection.
    pub zero_shot: ZeroShot,
}

impl Scores {
    /// Scores `embeddings` [patients, dim], L2-normalised.
    ///
    /// # Errors
    /// Rows that are not finite or not normalised, numbers of patients that differ.
    pub fn of(embeddings: &[f32], targets: &Targets) -> Result<Self> {
        let Targets { ct, report, dim, .. } = *targets;
        let retrieval = Retrieval::of(embeddings, ct, report, dim)?;
        let zero_shot = ZeroShot::of(embeddings, &targets.zero_shot())?;
        Ok(Scores { gallery: embeddings.len() / dim, retrieval, zero_shot })
    }

    /// The same with only these rows as queries and gallery of retrieval ([`retrieval::Gallery`]).
    ///
    /// # Errors
    /// No row.
    pub fn among(self, rows: &[usize], embeddings: &[f32], targets: &Targets) -> Result<Self> {
        if rows.len() == self.gallery {
            return Ok(self);
        }
        let Targets { ct, report, dim, .. } = *targets;
        let [embeddings, ct, report] = [embeddings, ct, report].map(|all| rows::select(all, dim, rows));
        Ok(Scores { gallery: rows.len(), retrieval: Retrieval::of(&embeddings, &ct, &report, dim)?, ..self })
    }
}

impl Retrieval {
    fn of(embeddings: &[f32], ct: &[f32], report: &[f32], dim: usize) -> Result<Self> {
        let (of_ct, of_report) = (retrieval::ranks(embeddings, ct, dim)?, retrieval::ranks(embeddings, report, dim)?);
        Ok(Retrieval {
            cxr_to_ct: Recall::from_ranks(&of_ct.forward)?,
            ct_to_cxr: Recall::from_ranks(&of_ct.backward)?,
            cxr_to_report: Recall::from_ranks(&of_report.forward)?,
            report_to_cxr: Recall::from_ranks(&of_report.backward)?,
            chance_r5: retrieval::chance(5, embeddings.len() / dim),
            distinct: Kinds::of(Some(embeddings), ct, report, |rows| retrieval::distinct(rows, dim)),
            mean_cosine: Kinds::of(Some(embeddings), ct, report, |rows| retrieval::mean_cosine(rows, dim)),
        })
    }
}

/// Recall of a language-image model on paired CTs and reports, all pairs in the gallery.
#[derive(Clone, Debug, Serialize)]
pub struct ClipRetrieval {
    /// IR: report as query, CT as gallery.
    pub image_from_text: Recall,
    /// TR: CT as query, report as gallery.
    pub text_from_image: Recall,
    /// Recall at 1, 10 and 50 of a random order.
    pub chance: [f64; 3],
    /// How many embeddings differ from each other, as in [`Retrieval::distinct`].
    pub distinct: Kinds<usize>,
    /// How alike embeddings are, as in [`Retrieval::mean_cosine`].
    pub mean_cosine: Kinds<f64>,
}

/// Scores of a language-image model, as DCFormer is evaluated.
#[derive(Clone, Debug, Serialize)]
pub struct ClipScores {
    /// Pairs in the gallery.
    pub gallery: usize,
    /// Of the cosines in zero-shot detection.
    pub scale: f64,
    /// Retrieval.
    pub retrieval: ClipRetrieval,
    /// Zero-shot detection on the CTs.
    pub zero_shot: ZeroShot,
}

impl ClipScores {
    /// Scores paired embeddings [patients, dim] of CTs and reports, L2-normalised.
    ///
    /// # Errors
    /// As [`Scores::of`].
    pub fn of(ct: &[f32], report: &[f32], targets: &ZeroShotTargets) -> Result<Self> {
        let (gallery, scale) = (ct.len() / targets.dim, targets.scale);
        let retrieval = ClipRetrieval::of(ct, report, targets.dim)?;
        Ok(ClipScores { gallery, scale, retrieval, zero_shot: ZeroShot::of(ct, targets)? })
    }

    /// As [`Scores::among`].
    ///
    /// # Errors
    /// No row.
    pub fn among(self, rows: &[usize], ct: &[f32], report: &[f32], dim: usize) -> Result<Self> {
        if rows.len() == self.gallery {
            return Ok(self);
        }
        let [ct, report] = [ct, report].map(|all| rows::select(all, dim, rows));
        Ok(ClipScores { gallery: rows.len(), retrieval: ClipRetrieval::of(&ct, &report, dim)?, ..self })
    }
}

impl ClipRetrieval {
    fn of(ct: &[f32], report: &[f32], dim: usize) -> Result<Self> {
        let ranks = retrieval::ranks(report, ct, dim)?;
        Ok(ClipRetrieval {
            image_from_text: Recall::from_ranks(&ranks.forward)?,
            text_from_image: Recall::from_ranks(&ranks.backward)?,
            chance: [1, 10, 50].map(|k| retrieval::chance(k, ct.len() / dim)),
            distinct: Kinds::of(None, ct, report, |rows| retrieval::distinct(rows, dim)),
            mean_cosine: Kinds::of(None, ct, report, |rows| retrieval::mean_cosine(rows, dim)),
        })
    }
}

impl ZeroShot {
    /// Zero-shot detection alone.
    pub fn of(embeddings: &[f32], t: &ZeroShotTargets) -> Result<Self> {
        let logits = zero_shot::logits(embeddings, t.prompts_positive, t.prompts_negative, t.dim, t.scale)?;
        let probabilities: Vec<f64> = logits.iter().map(|&logit| zero_shot::probability(logit)).collect();
        let names = labels::NAMES.map(String::from);
        // Nothing is drawn by patient here.
        let patients = vec![String::new(); logits.len() / labels::COUNT];
        let (labels, scores) = (t.labels, &logits);
        let problem =
            Problem { names: &names, patients: &patients, labels, scores, probabilities: Some(&probabilities) };
        let Detection { prevalence, labels_defined, summary, labels: per_label, .. } = Detection::of(&problem, None)?;
        Ok(ZeroShot {
            auc_macro: summary.auc_macro,
            auc_micro: summary.auc_micro,
            ap_macro: summary.ap_macro,
            ap_micro: summary.ap_micro,
            prevalence,
            labels_defined,
            equal_prompts: zero_shot::equal_prompts(&labels::NAMES, t.prompts_positive, t.prompts_negative, t.dim),
            labels: per_label,
            thresholded: MultiLabel::new(labels, scores, labels::COUNT)?.cut_at(0.0),
            logits,
        })
    }

    /// The labels as a table, one a line, comma-separated, under a header; what is not defined is an empty cell. Rates are those
    /// of probabilities cut at one half and, `youden_`, at the label's Youden point. Behind them every line has, `digest_`, the
    /// `digests` of what was evaluated, by name.
    pub fn csv<'a>(&self, digests: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
        let (names, digests): (Vec<String>, Vec<String>) =
            digests.into_iter().map(|(name, digest)| (format!("digest_{name}"), digest.to_string())).unzip();
        const RATES: [&str; 5] = ["accuracy", "f1", "precision", "recall", "specificity"];
        let cell = |v: Option<f64>| v.map_or(String::new(), |v| v.to_string());
        let rates = |r: &Rates| [Some(r.accuracy), r.f1, r.precision, r.recall, r.specificity].map(cell);
        let mut header = ["label", "positives", "auc", "ap"].map(String::from).to_vec();
        header.extend(RATES.map(String::from));
        header.extend(["youden_threshold", "youden_score"].map(String::from));
        header.extend(RATES.map(|rate| format!("youden_{rate}")));
        let lines = self.labels.iter().map(|l| {
            let mut line = vec![l.name.clone(), l.positives.to_string(), cell(l.auc), cell(l.ap)];
            line.extend(l.at_half.as_ref().map(rates).unwrap_or_default());
            match &l.youden {
                Some(point) => {
                    line.extend([point.threshold, point.score].map(|v| v.to_string()));
                    line.extend(rates(&point.rates));
                }
                None => line.resize(header.len(), String::new()),
            }
            line
        });
        let lines = lines.map(|line| [line, digests.clone()].concat());
        let header = [header.clone(), names].concat();
        std::iter::once(header).chain(lines).map(|line| line.join(",") + "\n").collect()
    }
}
