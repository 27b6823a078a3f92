//! Everything that is said about one set of embeddings: retrieval both ways, and zero-shot detection per label.

use serde::Serialize;

use super::metrics::{Averaged, MultiLabel, Thresholded};
use super::retrieval::{self, Recall};
use super::zero_shot;
use crate::Result;
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
}

/// Zero-shot detection: softmax of the raw cosines with "There is X." and "There is no X." (X2CT-CLIP).
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
    /// Per label.
    pub labels: Vec<LabelScore>,
    /// Predictions cut at one half.
    pub thresholded: Thresholded,
    /// [patients, 18].
    #[serde(skip)]
    pub probabilities: Vec<f32>,
}

/// One abnormality.
#[derive(Clone, Debug, Serialize)]
pub struct LabelScore {
    /// Its name.
    pub name: &'static str,
    /// Patients who have it.
    pub positives: usize,
    /// Area under the ROC curve; absent when only one class occurs.
    pub auc: Option<f64>,
    /// Average precision; likewise.
    pub ap: Option<f64>,
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
        let t = targets;
        let ct = retrieval::ranks(embeddings, t.ct, t.dim)?;
        let report = retrieval::ranks(embeddings, t.report, t.dim)?;
        let gallery = embeddings.len() / t.dim;
        let retrieval = Retrieval {
            cxr_to_ct: Recall::from_ranks(&ct.forward)?,
            ct_to_cxr: Recall::from_ranks(&ct.backward)?,
            cxr_to_report: Recall::from_ranks(&report.forward)?,
            report_to_cxr: Recall::from_ranks(&report.backward)?,
            chance_r5: retrieval::chance(5, gallery),
        };
        Ok(Scores { gallery, retrieval, zero_shot: ZeroShot::of(embeddings, targets)? })
    }
}

impl ZeroShot {
    /// Zero-shot detection alone.
    pub fn of(embeddings: &[f32], t: &Targets) -> Result<Self> {
        let probabilities = zero_shot::probabilities(embeddings, t.prompts_positive, t.prompts_negative, t.dim, 1.0)?;
        let cells = MultiLabel::new(t.labels, &probabilities, labels::COUNT)?;
        let (auc, ap): (Averaged, Averaged) = (cells.roc_auc(), cells.average_precision());
        let positives = |label: usize| t.labels.iter().skip(label).step_by(labels::COUNT).filter(|&&p| p).count();
        let per_label = labels::NAMES.iter().enumerate().map(|(i, name)| LabelScore {
            name,
            positives: positives(i),
            auc: auc.per_label[i],
            ap: ap.per_label[i],
        });
        Ok(ZeroShot {
            labels: per_label.collect(),
            auc_macro: auc.macro_mean,
            auc_micro: auc.micro,
            ap_macro: ap.macro_mean,
            ap_micro: ap.micro,
            prevalence: t.labels.iter().filter(|&&p| p).count() as f64 / t.labels.len() as f64,
            labels_defined: auc.defined,
            thresholded: cells.thresholded()?,
            probabilities,
        })
    }
}
