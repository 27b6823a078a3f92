//! The page of a study: what was trained on what, how it scored beside a baseline, the teacher and chance, and examples.

use std::fmt::Write;

use super::loss::loss_chart;
use super::plot::{Axes, COLORS, Series, lines};
use super::sheet;
use super::text::escape;
use crate::Result;
use crate::data::radiographs::RadiographSet;
use crate::eval::metrics::roc_curve;
use crate::eval::retrieval::{Recall, nearest};
use crate::eval::scores::{ClipScores, Scores};
use crate::labels;
use crate::train::StepLog;

/// Everything the page shows.
pub struct Study<'a> {
    /// One line: what this is.
    pub title: &'a str,
    /// Facts in the order they are listed: name and value.
    pub facts: &'a [(&'a str, String)],
    /// The training log.
    pub steps: &'a [StepLog],
    /// The encoder on held-out patients.
    pub encoder: &'a Scores,
    /// Ridge regression from pixels on the same patients.
    pub baseline_ridge: &'a Scores,
    /// The teacher's own CT embeddings in place of the encoder's.
    pub ceiling_teacher: &'a Scores,
    /// The teacher itself, where it was trained for the study.
    pub ct_teacher: Option<CtStudy<'a>>,
    /// Held-out radiographs.
    pub radiographs: &'a RadiographSet,
    /// [patients, 18].
    pub labels: &'a [bool],
    /// One text a patient.
    pub reports: &'a [String],
    /// The encoder's embeddings [patients, dim].
    pub embeddings: &'a [f32],
    /// The teacher's CT embeddings [patients, dim].
    pub ct: &'a [f32],
    /// Dimensions of an embedding.
    pub dim: usize,
}

/// A CT teacher that was trained.
pub struct CtStudy<'a> {
    /// On the held-out patients: CT and report in each other's gallery.
    pub scores: &'a ClipScores,
    /// Its training log.
    pub steps: &'a [StepLog],
}

const GREY: [u8; 3] = [128; 3];

/// The page: one HTML file that refers to nothing outside itself.
pub fn html(study: &Study) -> Result<String> {
    let mut page = sheet::begin(study.title);
    page.push_str("<dl>");
    for (name, value) in study.facts {
        let _ = write!(page, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(value));
    }
    page.push_str("</dl>");
    results(&mut page, study);
    if let Some(teacher) = &study.ct_teacher {
        ct_teacher(&mut page, teacher);
    }
    page.push_str("<h2>Training</h2>");
    if let Some(teacher) = &study.ct_teacher {
        page.push_str(&loss_chart("CT teacher: contrastive loss", teacher.steps)?);
    }
    page.push_str(&loss_chart("Tri-modal loss", study.steps)?);
    radiographs(&mut page, study)?;
    retrieval(&mut page, study)?;
    detection(&mut page, study)?;
    page.push_str(sheet::END);
    Ok(page)
}

fn share(value: f64) -> String {
    format!("{value:.3}")
}

fn optional(value: Option<f64>) -> String {
    value.map_or("not defined".into(), share)
}

fn results(page: &mut String, s: &Study) {
    let rows: [(&str, &dyn Fn(&Scores) -> String, String); 6] = [
        ("R@5, radiograph to CT", &|x| share(x.retrieval.cxr_to_ct.r5), share(s.encoder.retrieval.chance_r5)),
        ("R@5, radiograph to report", &|x| share(x.retrieval.cxr_to_report.r5), share(s.encoder.retrieval.chance_r5)),
        (
            "Median rank, radiograph to CT",
            &|x| format!("{:.1}", x.retrieval.cxr_to_ct.median_rank),
            format!("{:.1}", (s.encoder.gallery + 1) as f64 / 2.0),
        ),
        ("Zero-shot AUC, macro", &|x| optional(x.zero_shot.auc_macro), "0.500".into()),
        ("Zero-shot AUC, micro", &|x| optional(x.zero_shot.auc_micro), "0.500".into()),
        ("Zero-shot AP, macro", &|x| optional(x.zero_shot.ap_macro), share(s.encoder.zero_shot.prevalence)),
    ];
    let _ = write!(
        page,
        "<h2>Held-out patients ({})</h2><div class=\"wide\"><table><thead><tr><td></td><th scope=\"col\">encoder</th><th scope=\"col\">ridge on pixels</th><th scope=\"col\">teacher's ceiling</th><th scope=\"col\">chance</th></tr></thead><tbody>",
        s.encoder.gallery
    );
    for (name, value, chance) in rows {
        let (a, b, c) = (value(s.encoder), value(s.baseline_ridge), value(s.ceiling_teacher));
        let _ = write!(
            page,
            "<tr><th scope=\"row\">{name}</th><td><b>{a}</b></td><td>{b}</td><td>{c}</td><td>{chance}</td></tr>"
        );
    }
    page.push_str("</tbody></table></div>");
}

fn ct_teacher(page: &mut String, teacher: &CtStudy) {
    let (s, r) = (teacher.scores, &teacher.scores.retrieval);
    let _ = write!(
        page,
        "<h2>The teacher itself: CTs and reports of the held-out patients ({})</h2><div class=\"wide\"><table><thead><tr><td></td><th scope=\"col\">R@1</th><th scope=\"col\">R@10</th><th scope=\"col\">R@50</th></tr></thead><tbody>",
        s.gallery
    );
    let shares = |r: &Recall| [r.r1, r.r10, r.r50];
    let rows = [
        ("CT from report (IR)", shares(&r.image_from_text)),
        ("Report from CT (TR)", shares(&r.text_from_image)),
        ("Chance", r.chance),
    ];
    for (name, values) in rows {
        let [a, b, c] = values.map(share);
        let _ = write!(page, "<tr><th scope=\"row\">{name}</th><td>{a}</td><td>{b}</td><td>{c}</td></tr>");
    }
    let z = &s.zero_shot;
    let (macro_auc, micro_auc) = (optional(z.auc_macro), optional(z.auc_micro));
    let _ = write!(page, "</tbody></table></div><p>Zero-shot AUC: {macro_auc} macro, {micro_auc} micro.</p>");
}

fn film(s: &Study, patient: usize, class: &str, caption: &str) -> Result<String> {
    let pixels = Some((s.radiographs.grey(patient), s.radiographs.size()));
    sheet::film(pixels, class, &s.radiographs.ids()[patient], caption)
}

fn findings(s: &Study, patient: usize) -> String {
    let row = &s.labels[patient * labels::COUNT..(patient + 1) * labels::COUNT];
    let names: Vec<&str> =
        row.iter().zip(labels::NAMES).filter(|(present, _)| **present).map(|(_, name)| name).collect();
    if names.is_empty() { "no finding".into() } else { names.join(", ") }
}

fn radiographs(page: &mut String, s: &Study) -> Result<()> {
    page.push_str("<h2>Simulated radiographs</h2><p>Anteroposterior, superior at the top, the patient's right (R) on the left.</p><div>");
    for patient in 0..s.radiographs.ids().len().min(16) {
        page.push_str(&film(s, patient, "", &s.radiographs.ids()[patient])?);
    }
    page.push_str("</div>");
    Ok(())
}

fn retrieval(page: &mut String, s: &Study) -> Result<()> {
    page.push_str("<h2>Retrieval: the radiograph asks, CTs answer</h2><p>Each CT is shown by its radiograph; the patient's own is outlined in green, and stands last with its rank where it is not among the first five.</p>");
    let patients = s.radiographs.ids().len();
    for query in (0..patients).step_by((patients / 6).max(1)).take(6) {
        let _ = write!(page, "<div class=\"row\">{}", film(s, query, "query", "query")?);
        const FIRST: usize = 5;
        let best = nearest(&s.embeddings[query * s.dim..(query + 1) * s.dim], s.ct, s.dim, patients)?;
        for (rank, (patient, cosine)) in best.iter().enumerate().filter(|(rank, (p, _))| *rank < FIRST || *p == query) {
            let class = if *patient == query { "hit" } else { "" };
            let caption = match (class, rank < FIRST) {
                ("", _) | (_, true) => format!("{}: cos {cosine:.2}", rank + 1),
                _ => format!("rank {} of {patients}: cos {cosine:.2}", rank + 1),
            };
            page.push_str(&film(s, *patient, class, &caption)?);
        }
        let _ = write!(page, "<p class=\"report\">{}: {}</p>", escape(&findings(s, query)), escape(&s.reports[query]));
        if let Some((patient, _)) = best.first().filter(|(patient, _)| *patient != query) {
            let _ = write!(
                page,
                "<p class=\"report\">first answer: {}: {}</p>",
                escape(&findings(s, *patient)),
                escape(&s.reports[*patient])
            );
        }
        page.push_str("</div>");
    }
    Ok(())
}

fn detection(page: &mut String, s: &Study) -> Result<()> {
    page.push_str("<h2>Zero-shot detection</h2><div class=\"wide\"><table><thead><tr><th scope=\"col\" class=\"name\">abnormality</th><th scope=\"col\">patients</th><th scope=\"col\">AUC</th><th scope=\"col\">AP</th><th scope=\"col\">AUC, ridge</th><th scope=\"col\">AUC, ceiling</th></tr></thead><tbody>");
    let (encoder, ridge, ceiling) = (&s.encoder.zero_shot, &s.baseline_ridge.zero_shot, &s.ceiling_teacher.zero_shot);
    for ((label, r), c) in encoder.labels.iter().zip(&ridge.labels).zip(&ceiling.labels) {
        let (auc, ap) = (optional(label.auc), optional(label.ap));
        let (r, c) = (optional(r.auc), optional(c.auc));
        let _ = write!(
            page,
            "<tr><th scope=\"row\">{}</th><td>{}</td><td><b>{auc}</b></td><td>{ap}</td><td>{r}</td><td>{c}</td></tr>",
            label.name, label.positives
        );
    }
    page.push_str("</tbody></table></div><div class=\"grid\">");
    for (index, name) in labels::NAMES.iter().enumerate() {
        let truth: Vec<bool> = s.labels.iter().skip(index).step_by(labels::COUNT).copied().collect();
        let column = |scores: &Scores| -> Result<Option<Vec<(f64, f64)>>> {
            let logits: Vec<f64> = scores.zero_shot.logits.iter().skip(index).step_by(labels::COUNT).copied().collect();
            roc_curve(&truth, &logits)
        };
        let (Some(a), Some(b), Some(c)) = (column(s.encoder)?, column(s.baseline_ridge)?, column(s.ceiling_teacher)?)
        else {
            continue;
        };
        let axes = Axes { title: name, x: "1 - specificity", y: "sensitivity", ..Axes::unit() };
        let series = [
            Series { name: "teacher", points: &c, color: GREY, ..Series::default() },
            Series { name: "ridge", points: &b, color: COLORS[1], ..Series::default() },
            Series { name: "encoder", points: &a, color: COLORS[0], ..Series::default() },
        ];
        page.push_str(&lines(&axes, &series)?);
    }
    page.push_str("</div>");
    Ok(())
}
