//! Intervals that are drawn together: of several score files, and of the points of an ROC curve.

use x2ct::eval::bootstrap::Bootstrap;
use x2ct::eval::detection::{Detection, Problem, roc_bands};
use x2ct::eval::metrics::{MultiLabel, roc_curve};
use x2ct::eval::score_file::ScoreFile;
use x2ct::report::evaluation::{Named, Settings, pages};

use super::evaluation::{material, scores, settings};

/// What is drawn for several score files at once is what each alone, and each pair, has.
#[test]
fn scores_that_are_drawn_together_have_the_intervals_of_each_alone() {
    let files = [scores("a", 30, 3, 0), scores("b", 30, 3, 1), scores("c", 30, 3, 2)];
    let probabilities: Vec<Vec<f64>> = files.iter().map(|file| file.of.probabilities()).collect();
    let patients: Vec<String> = (0..30).map(|at| format!("patient {}", at / 2)).collect();
    let problem = |at: usize| Problem {
        names: &files[at].of.names,
        patients: &patients,
        labels: &files[at].of.labels,
        scores: &files[at].of.logits,
        probabilities: Some(&probabilities[at]),
    };
    let bootstrap = Bootstrap { replicates: 60, ..Bootstrap::default() };
    let several = Detection::of_several(&[problem(0), problem(1), problem(2)], &bootstrap).unwrap();
    let json = |value: &Detection| serde_json::to_value(value).unwrap();
    for (at, (detection, drawn)) in several.iter().enumerate() {
        assert_eq!(json(detection), json(&Detection::of(&problem(at), Some(&bootstrap)).unwrap()));
        match at {
            0 => assert!(drawn.is_empty()),
            _ => {
                let pair = Detection::of_several(&[problem(0), problem(at)], &bootstrap).unwrap();
                assert_eq!(drawn, &pair[1].1);
                let [first, other] = [0, at].map(|at| {
                    let cells = MultiLabel::new(&files[at].of.labels, &files[at].of.logits, files[at].of.names.len());
                    cells.unwrap().ranked()
                });
                let area = |of: &x2ct::eval::metrics::Ranked, weights: &[u32]| of.roc_auc(weights).micro;
                let gap = bootstrap.interval(&patients, |w| Some(area(&other, w)? - area(&first, w)?)).unwrap();
                assert_eq!(drawn["auc_micro"], Some(gap));
            }
        }
    }
    let other = Problem { labels: &[true; 90], ..problem(1) };
    let error = Detection::of_several(&[problem(0), other], &bootstrap).unwrap_err().to_string();
    assert!(error.contains("are of other samples or labels than the first"), "{error}");
}

/// A band holds its curve, and is drawn from whole patients: the interval at one rate by itself is the same.
#[test]
fn roc_curves_have_bands() {
    let material = material(40, 2);
    let file = &material.scores[0].of;
    let patients: Vec<String> = (0..40).map(|row| (row / 2).to_string()).collect();
    let ScoreFile { names, labels, logits: scores, .. } = file;
    let problem = Problem { names, patients: &patients, labels, scores, probabilities: None };
    let bootstrap = Bootstrap { replicates: 60, ..Bootstrap::default() };
    let bands = roc_bands(&problem, 4, &bootstrap).unwrap();
    assert_eq!(bands.len(), 2);
    let (truth, logits): (Vec<bool>, Vec<f64>) = (0..40).map(|row| (labels[row * 2 + 1], scores[row * 2 + 1])).unzip();
    // The highest sensitivity at, or the line between the points around, a false positive rate of one half.
    let at_half = |truth: &[bool], logits: &[f64]| {
        let curve = roc_curve(truth, logits).unwrap()?;
        let (x0, y0) = *curve.iter().rfind(|(x, _)| *x <= 0.5).unwrap();
        let (x1, y1) = *curve.iter().find(|(x, _)| *x > 0.5).unwrap();
        Some(y0 + (y1 - y0) * (0.5 - x0) / (x1 - x0))
    };
    let repeated = |weights: &[u32]| {
        let rows = weights.iter().enumerate().flat_map(|(row, &times)| std::iter::repeat_n(row, times as usize));
        let (truth, logits): (Vec<bool>, Vec<f64>) = rows.map(|row| (truth[row], logits[row])).unzip();
        at_half(&truth, &logits)
    };
    let (rate, found) = bands[1][2];
    let want = bootstrap.interval(&patients, repeated).unwrap();
    assert_eq!(rate, 0.5);
    for (found, want) in [(found.estimate, want.estimate), (found.low, want.low), (found.high, want.high)] {
        assert!((found - want).abs() < 1e-12, "{found} {want}");
    }
    assert!(found.low < found.high && bands[1][4].1.low == 1.0, "{bands:?}");
    // Two files have them on the page, with the intervals of their areas, and four have none.
    let shades = |html: &str| html.matches("<polygon").count();
    let html = pages(&material, &settings()).unwrap().html;
    let without = pages(&material, &Settings { bootstrap: None, ..settings() }).unwrap().html;
    assert_eq!(shades(&html), shades(&without) + 4, "two labels by two files");
    let of_label = Detection::of(&problem, None).unwrap().labels[0].auc.unwrap();
    assert!(
        html.contains(&format!("AUC {of_label:.3} [")) && html.contains("Shades are the intervals of"),
        "{of_label}"
    );
    let mut many = material;
    for name in ["c", "d"] {
        let of = many.scores[0].of.clone();
        many.scores.push(Named { name: name.into(), of });
    }
    assert_eq!(shades(&pages(&many, &settings()).unwrap().html), shades(&without));
}
