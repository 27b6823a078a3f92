//! Evaluation against scikit-learn and SciPy (tests/golden/metrics.json, made by tools/make_metric_cases.py), against
//! values worked out by hand, and against invariances.

mod blocks;
mod coverage;
mod linear_probe;
mod random_problems;
mod retrieval_file;
mod ridge;
mod stratify;

use approx::assert_relative_eq;
use proptest::prelude::*;
use serde_json::Value;
use x2ct::data::rows;
use x2ct::eval::bootstrap::Bootstrap;
use x2ct::eval::delong::{area, delong, holm, pairs};
use x2ct::eval::metrics::{Averaged, MultiLabel, Rates, average_precision, roc_auc, roc_curve};
use x2ct::eval::retrieval::{Ranks, Recall, chance, first_of_each, nearest, ranks};
use x2ct::eval::scores::{ClipScores, ZeroShot, ZeroShotTargets};
use x2ct::eval::zero_shot::{probabilities, probability};
use x2ct::labels;

/// Knuth's linear congruential sequence; the upper 31 bits.
pub struct Numbers(u64);

impl Numbers {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

fn golden(section: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(include_str!("golden/metrics.json")).unwrap();
    all[section].as_array().unwrap().clone()
}

fn f64s(v: &Value) -> Vec<f64> {
    v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn f32s(v: &Value) -> Vec<f32> {
    f64s(v).into_iter().map(|x| x as f32).collect()
}

fn bools(v: &Value) -> Vec<bool> {
    f64s(v).into_iter().map(|x| x == 1.0).collect()
}

#[track_caller]
fn assert_option(name: &str, got: Option<f64>, want: &Value) {
    match (got, want.as_f64()) {
        (Some(got), Some(want)) => assert!((got - want).abs() <= 1e-12, "{name}: {got} against {want}"),
        (got, want) => assert_eq!(got, want, "{name}"),
    }
}

fn assert_averaged(name: &str, got: &Averaged, want: &Value) {
    for (got, want) in got.per_label.iter().zip(want["per_label"].as_array().unwrap()) {
        assert_option(name, *got, want);
    }
    assert_option(name, got.micro, &want["micro"]);
    assert_option(name, got.macro_mean, &want["macro"]);
    assert_eq!(got.defined as u64, want["defined"].as_u64().unwrap(), "{name}");
}

fn assert_rates(name: &str, got: &Rates, want: &Value) {
    assert_option(name, Some(got.accuracy), &want["accuracy"]);
    assert_option(name, got.f1, &want["f1"]);
    assert_option(name, got.precision, &want["precision"]);
    assert_option(name, got.recall, &want["recall"]);
    assert_option(name, got.specificity, &want["specificity"]);
}

#[test]
fn metrics_agree_with_scikit_learn() {
    for case in golden("multi_label") {
        let name = case["name"].as_str().unwrap();
        let (labels, scores) = (bools(&case["labels"]), f32s(&case["scores"]));
        let m = MultiLabel::new(&labels, &scores, case["classes"].as_u64().unwrap() as usize).unwrap();
        assert_averaged(name, &m.roc_auc(), &case["auc"]);
        assert_averaged(name, &m.average_precision(), &case["ap"]);
        let hard = m.thresholded().unwrap();
        assert_option(name, hard.f1_weighted, &case["f1_weighted"]);
        assert_option(name, Some(hard.accuracy), &case["accuracy"]);
        assert_option(name, hard.precision_micro, &case["precision_micro"]);
        assert_option(name, hard.recall_micro, &case["recall_micro"]);
        for (got, want) in hard.per_label.iter().zip(case["per_label"].as_array().unwrap()) {
            assert_rates(name, got, want);
        }
        for (got, want) in m.youden().iter().zip(case["youden"].as_array().unwrap()) {
            let Some(got) = got else {
                assert!(want.is_null(), "{name}");
                continue;
            };
            let threshold = want["threshold"].as_f64().map_or(f32::INFINITY, |t| t as f32);
            assert_eq!(got.threshold, f64::from(threshold), "{name}");
            assert_rates(name, &got.rates, want);
        }
    }
}

/// Six samples, three labels, worked with scikit-learn once.
#[test]
fn metrics_of_the_reference_example() {
    let labels = [1, 0, 1, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0].map(|v| v == 1);
    let scores = [0.9, 0.2, 0.6, 0.4, 0.4, 0.4, 0.6, 0.5, 0.2, 0.3, 0.1, 0.5, 0.5, 0.7, 0.3, 0.2, 0.5, 0.1];
    let m = MultiLabel::new(&labels, &scores, 3).unwrap();
    let (auc, ap, hard) = (m.roc_auc(), m.average_precision(), m.thresholded().unwrap());
    assert_relative_eq!(auc.micro.unwrap(), 0.8246753246753247, epsilon = 1e-12);
    assert_relative_eq!(auc.macro_mean.unwrap(), 0.8263888888888888, epsilon = 1e-12);
    assert_relative_eq!(ap.micro.unwrap(), 0.8011363636363635, epsilon = 1e-12);
    assert_relative_eq!(ap.macro_mean.unwrap(), 0.8333333333333334, epsilon = 1e-12);
    assert_relative_eq!(hard.f1_weighted.unwrap(), 0.7238095238095238, epsilon = 1e-12);
    assert_relative_eq!(hard.accuracy, 0.8333333333333334, epsilon = 1e-12);
    assert_relative_eq!(hard.precision_micro.unwrap(), 1.0, epsilon = 1e-12);
    assert_relative_eq!(hard.recall_micro.unwrap(), 0.5714285714285714, epsilon = 1e-12);
}

#[test]
fn metrics_refuse_what_they_cannot_rank() {
    let message =
        |labels: &[bool], scores: &[f32], classes| MultiLabel::new(labels, scores, classes).unwrap_err().to_string();
    assert!(message(&[], &[], 1).contains("empty"));
    assert!(message(&[true; 4], &[0.0; 4], 0).contains("empty"));
    assert!(message(&[true; 4], &[0.0; 3], 1).contains("3 scores for 4 labels"));
    assert!(message(&[true; 4], &[0.0; 4], 3).contains("whole rows of 3"));
    assert!(message(&[true; 4], &[0.0, 0.1, f32::NAN, 0.2], 2).contains("row 1, column 0 is NaN"));
    assert!(message(&[true; 4], &[0.0, f32::INFINITY, 0.0, 0.2], 2).contains("row 0, column 1 is inf"));
    let logits = [0.5, 1.5];
    let error = MultiLabel::new(&[true, false], &logits, 1).unwrap().thresholded().unwrap_err().to_string();
    assert!(error.contains("row 1, column 0 is 1.5"), "{error}");
}

#[test]
fn roc_curve_has_the_area_it_reports() {
    let labels = [true, false, true, true, false, false, true];
    let scores = [0.9, 0.9, 0.8, 0.4, 0.4, 0.1, -0.0];
    let curve = roc_curve(&labels, &scores).unwrap().unwrap();
    assert_eq!((curve[0], curve[curve.len() - 1]), ((0.0, 0.0), (1.0, 1.0)));
    let area: f64 = curve.windows(2).map(|w| (w[1].0 - w[0].0) * (w[1].1 + w[0].1) / 2.0).sum();
    assert_relative_eq!(area, roc_auc(&labels, &scores).unwrap().unwrap(), epsilon = 1e-12);
    assert_eq!(roc_curve(&[true, true], &[0.1, 0.2]).unwrap(), None);
    assert_eq!(roc_auc(&[true, false], &[0.0, -0.0]).unwrap(), Some(0.5), "signed zeros tie");
}

/// Labels with both classes, and scores on a coarse grid so that ties are common.
fn binary_problem() -> impl Strategy<Value = (Vec<bool>, Vec<f32>)> {
    prop::collection::vec((any::<bool>(), -8i8..8), 2..60).prop_map(|mut cells| {
        cells[0].0 = true;
        cells[1].0 = false;
        cells.into_iter().map(|(label, score)| (label, f32::from(score) / 4.0)).unzip()
    })
}

proptest! {
    #[test]
    fn auc_depends_on_the_order_of_scores_only((labels, scores) in binary_problem(), shift in -3f32..3.0) {
        let auc = roc_auc(&labels, &scores).unwrap();
        let ap = average_precision(&labels, &scores).unwrap();
        let transforms: [&dyn Fn(f32) -> f32; 3] = [&|s| s.exp(), &|s| s * s * s, &|s| 16.0 * s + shift.round()];
        for transform in transforms {
            let moved: Vec<f32> = scores.iter().map(|&s| transform(s)).collect();
            prop_assert_eq!(roc_auc(&labels, &moved).unwrap(), auc);
            prop_assert_eq!(average_precision(&labels, &moved).unwrap(), ap);
        }
    }

    #[test]
    fn auc_of_flipped_labels_or_scores_is_the_complement((labels, scores) in binary_problem()) {
        let auc = roc_auc(&labels, &scores).unwrap().unwrap();
        let flipped: Vec<bool> = labels.iter().map(|l| !l).collect();
        let negated: Vec<f32> = scores.iter().map(|s| -s).collect();
        prop_assert!((roc_auc(&flipped, &scores).unwrap().unwrap() - (1.0 - auc)).abs() < 1e-12);
        prop_assert!((roc_auc(&labels, &negated).unwrap().unwrap() - (1.0 - auc)).abs() < 1e-12);
    }

    #[test]
    fn auc_is_the_share_of_pairs_in_order((labels, scores) in binary_problem()) {
        let of = |class| -> Vec<f32> {
            labels.iter().zip(&scores).filter(|(l, _)| **l == class).map(|(_, s)| *s).collect()
        };
        let (positive, negative) = (of(true), of(false));
        let won: f64 = positive.iter().flat_map(|p| negative.iter().map(move |n| (p, n)))
            .map(|(p, n)| if p > n { 1.0 } else if p == n { 0.5 } else { 0.0 }).sum();
        let want = won / (positive.len() * negative.len()) as f64;
        prop_assert!((roc_auc(&labels, &scores).unwrap().unwrap() - want).abs() < 1e-12);
    }

    #[test]
    fn metrics_do_not_depend_on_the_order_of_samples((labels, scores) in binary_problem(), turn in 0usize..60) {
        let turn = turn % labels.len();
        let rotated = ([&labels[turn..], &labels[..turn]].concat(), [&scores[turn..], &scores[..turn]].concat());
        prop_assert_eq!(roc_auc(&rotated.0, &rotated.1).unwrap(), roc_auc(&labels, &scores).unwrap());
        let ap = average_precision(&labels, &scores).unwrap();
        prop_assert_eq!(average_precision(&rotated.0, &rotated.1).unwrap(), ap);
    }
}

#[test]
fn delong_agrees_with_pairwise_comparison() {
    for case in golden("delong") {
        let (labels, first, second) = (bools(&case["labels"]), f32s(&case["first"]), f32s(&case["second"]));
        let got = delong(&labels, &first, &second).unwrap();
        for i in 0..2 {
            assert_relative_eq!(got.auc[i], case["auc"][i].as_f64().unwrap(), max_relative = 1e-12);
            for j in 0..2 {
                let want = case["covariance"][i][j].as_f64().unwrap();
                assert_relative_eq!(got.covariance[i][j], want, max_relative = 1e-9, epsilon = 1e-15);
            }
        }
        assert_relative_eq!(got.z, case["z"].as_f64().unwrap(), max_relative = 1e-9);
        assert_relative_eq!(got.ln_p, case["ln_p"].as_f64().unwrap(), max_relative = 1e-9);
        assert_relative_eq!(got.p, got.ln_p.exp());
        let alone = area(&labels, &first, 0.95).unwrap();
        assert_eq!(alone.auc, got.auc[0]);
        assert_relative_eq!(alone.standard_error.powi(2), got.covariance[0][0], max_relative = 1e-12);
        let three = pairs(&labels, &[&first, &second, &first]).unwrap();
        assert_eq!(three.iter().map(|pair| pair.scores).collect::<Vec<_>>(), [[0, 1], [0, 2], [1, 2]]);
        assert_eq!((&three[0].test, three[1].test.p), (&got, 1.0));
    }
}

/// R's `p.adjust(c(.01, .04, .03, .005, .9), "holm")`, and ties.
#[test]
fn holm_steps_down() {
    let corrected = holm(&[0.01, 0.04, 0.03, 0.005, 0.9]);
    for (got, want) in corrected.iter().zip([0.04, 0.09, 0.09, 0.025, 0.9]) {
        assert_relative_eq!(*got, want, epsilon = 1e-15);
    }
    assert_eq!(holm(&[0.6, 0.6]), [1.0, 1.0]);
    assert_eq!(holm(&[]), [0.0; 0]);
}

#[test]
fn delong_of_the_reference_example() {
    let labels = [true, true, true, true, false, false, false, false, false];
    let first = [0.9, 0.8, 0.4, 0.6, 0.5, 0.3, 0.2, 0.6, 0.1];
    let second = [0.7, 0.4, 0.5, 0.9, 0.6, 0.5, 0.2, 0.8, 0.3];
    let got = delong(&labels, &first, &second).unwrap();
    assert_relative_eq!(got.auc[0], 0.875, epsilon = 1e-12);
    assert_relative_eq!(got.auc[1], 0.675, epsilon = 1e-12);
    assert_relative_eq!(got.covariance[0][0], 0.015208333333333334, epsilon = 1e-12);
    assert_relative_eq!(got.covariance[0][1], 0.013281250000000001, epsilon = 1e-12);
    assert_relative_eq!(got.covariance[1][1], 0.04020833333333333, epsilon = 1e-12);
    assert_relative_eq!(got.z, 1.1774045984484913, epsilon = 1e-12);
    assert_relative_eq!(got.p, 0.23903405534607314, epsilon = 1e-12);
}

#[test]
fn delong_at_its_edges() {
    let labels = [true, true, false, false];
    let same = delong(&labels, &[0.9, 0.2, 0.3, 0.1], &[0.9, 0.2, 0.3, 0.1]).unwrap();
    assert_eq!((same.z, same.p), (0.0, 1.0));
    let opposite = delong(&labels, &[0.9, 0.8, 0.3, 0.1], &[0.1, 0.2, 0.8, 0.9]).unwrap_err().to_string();
    assert!(opposite.contains("the areas 1 and 0 differ by the same for every sample"), "{opposite}");
    let error = delong(&[true, false, false], &[0.1; 3], &[0.2; 3]).unwrap_err().to_string();
    assert!(error.contains("1 positives and 2 negatives"), "{error}");
}

#[test]
fn bootstrap_draws_patients_not_samples() {
    // Ten patients with five identical samples each: drawing patients gives the spread of ten values, not of fifty.
    let patients: Vec<usize> = (0..50).map(|i| i / 5).collect();
    let value = |i: usize| (i / 5) as f64;
    let mean = |weights: &[u32]| {
        let sum: f64 = weights.iter().enumerate().map(|(i, &times)| f64::from(times) * value(i)).sum();
        Some(sum / f64::from(weights.iter().sum::<u32>()))
    };
    let by_patient = Bootstrap { replicates: 4000, ..Bootstrap::default() }.interval(&patients, mean).unwrap();
    assert_relative_eq!(by_patient.estimate, 4.5);
    // Standard error sqrt(8.25 / 10) = 0.908, so the 95 % interval is about 4.5 -+ 1.78.
    assert!(((by_patient.high - by_patient.low) / 2.0 - 1.78).abs() < 0.1, "{by_patient:?}");
    let samples: Vec<usize> = (0..50).collect();
    let by_sample = Bootstrap::default().interval(&samples, mean).unwrap();
    assert!(by_sample.high - by_sample.low < 0.6 * (by_patient.high - by_patient.low), "{by_sample:?}");
}

#[test]
fn bootstrap_is_reproducible_and_counts_undefined_draws() {
    let labels: Vec<bool> = (0..30).map(|i| i % 15 == 0).collect();
    let scores: Vec<f32> = (0..30).map(|i| (i * 7 % 30) as f32).collect();
    let ranked = MultiLabel::new(&labels, &scores, 1).unwrap().ranked();
    let auc = |weights: &[u32]| ranked.roc_auc(weights).micro;
    let patients: Vec<String> = (0..30).map(|i| format!("valid_{i}")).collect();
    let run = |seed| Bootstrap { seed, ..Bootstrap::default() }.interval(&patients, auc).unwrap();
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
    // Both positives are missed by (28/30)^30 = 12.6 % of the draws.
    assert!((820..930).contains(&run(1).defined), "{}", run(1).defined);
    let single = rayon_free(|| run(1));
    assert_eq!(run(1), single, "the number of threads must not matter");
}

/// Runs on a pool of one thread.
fn rayon_free<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap().install(work)
}

#[test]
fn bootstrap_refuses_what_has_no_interval() {
    let none: [u8; 0] = [];
    assert!(Bootstrap::default().interval(&none, |_| Some(0.0)).unwrap_err().to_string().contains("0 samples"));
    let error = Bootstrap { level: 95.0, ..Bootstrap::default() }.interval(&[1], |_| Some(0.0)).unwrap_err();
    assert!(error.to_string().contains("level 95"));
    let error = Bootstrap::default().interval(&[1, 2], |_| Some(f64::NAN)).unwrap_err();
    assert!(error.to_string().contains("undefined on the samples themselves"));
}

/// Unit rows from a fixed linear congruential sequence.
fn unit_rows(rows: usize, dim: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut values: Vec<f32> = (0..rows * dim)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect();
    rows::l2_normalise("rows", &mut values, dim).unwrap();
    values
}

#[test]
fn ranks_agree_with_the_whole_matrix_in_f64() {
    for (pairs, dim) in [(1, 1), (7, 3), (63, 5), (64, 16), (65, 17), (131, 33)] {
        let (a, b) = (unit_rows(pairs, dim, 1), unit_rows(pairs, dim, 2));
        let score = |i: usize, j: usize| -> f64 {
            (0..dim).map(|c| f64::from(a[i * dim + c]) * f64::from(b[j * dim + c])).sum()
        };
        let got = ranks(&a, &b, dim).unwrap();
        // f32 rounding may swap scores closer than 1e-6; none of the others.
        for i in 0..pairs {
            let count = |above: &dyn Fn(usize) -> f64, margin: f64| (0..pairs).filter(|&j| above(j) > margin).count();
            let forward = |j: usize| score(i, j) - score(i, i);
            let backward = |j: usize| score(j, i) - score(i, i);
            assert!((count(&forward, 1e-6)..=count(&forward, -1e-6)).contains(&got.forward[i]));
            assert!((count(&backward, 1e-6)..=count(&backward, -1e-6)).contains(&got.backward[i]));
        }
        assert_eq!(got, rayon_free(|| ranks(&a, &b, dim).unwrap()), "the number of threads must not matter");
    }
}

#[test]
fn perfect_pairs_rank_first_and_equal_rows_tie() {
    let a = unit_rows(100, 24, 3);
    let perfect = ranks(&a, &a, 24).unwrap();
    assert_eq!(perfect, Ranks { forward: vec![0; 100], backward: vec![0; 100] });
    // Every gallery row the same: everything ties, and a tie is a hit, wherever it stands in the gallery.
    let same: Vec<f32> = std::iter::repeat_n(&a[..24], 100).flatten().copied().collect();
    assert_eq!(ranks(&a, &same, 24).unwrap().forward, vec![0; 100]);
    // Two reconstructions of each scan with one report: the pair ties at the top.
    let twice: Vec<f32> = a.chunks_exact(24).take(50).flat_map(|r| [r, r]).flatten().copied().collect();
    assert_eq!(ranks(&twice, &twice, 24).unwrap().forward, vec![0; 100]);
}

#[test]
fn recall_counts_hits_below_k() {
    let recall = Recall::from_ranks(&[0, 0, 4, 5, 9, 10, 49, 99, 100, 3000]).unwrap();
    assert_eq!((recall.r1, recall.r5, recall.r10, recall.r50, recall.r100), (0.2, 0.3, 0.5, 0.7, 0.8));
    assert_relative_eq!(recall.median_rank, (10.0 + 11.0) / 2.0);
    assert_relative_eq!(Recall::from_ranks(&[2]).unwrap().median_rank, 3.0);
    assert!(Recall::from_ranks(&[]).unwrap_err().to_string().contains("no queries"));
    assert_relative_eq!(chance(5, 3039), 0.0016, epsilon = 5e-5);
    assert_relative_eq!(chance(5, 256), 0.0195, epsilon = 5e-5);
    assert_relative_eq!(chance(50, 20), 1.0);
}

#[test]
fn random_embeddings_retrieve_at_chance() {
    let (a, b) = (unit_rows(512, 32, 4), unit_rows(512, 32, 5));
    let got = ranks(&a, &b, 32).unwrap();
    for side in [&got.forward, &got.backward] {
        let recall = Recall::from_ranks(side).unwrap();
        // 512 queries at p = 50/512: standard deviation 0.013.
        assert!((recall.r50 - chance(50, 512)).abs() < 4.0 * 0.0132, "{recall:?}");
        assert!((recall.median_rank - 256.5).abs() < 40.0, "{recall:?}");
    }
}

#[test]
fn retrieval_refuses_bad_embeddings() {
    let good = unit_rows(4, 3, 6);
    let message = |a: &[f32], b: &[f32]| ranks(a, b, 3).unwrap_err().to_string();
    assert!(message(&[], &[]).contains("empty"));
    assert!(message(&good, &good[..9]).contains("4 rows against 3"));
    let mut long = good.clone();
    long[6..9].iter_mut().for_each(|v| *v *= 2.0);
    assert!(message(&good, &long).contains("gallery embeddings: row 2 has length 2.0000"));
    let mut nan = good.clone();
    nan[4] = f32::NAN;
    assert!(message(&nan, &good).contains("query embeddings: row 1, column 1 is NaN"));
    let mut zero = vec![0.0; 6];
    assert!(rows::l2_normalise("pixels", &mut zero, 3).unwrap_err().to_string().contains("row 0 is all zeros"));
}

#[test]
fn nearest_is_sorted_with_ties_by_index() {
    let gallery = [0.0, 1.0, 1.0, 0.0, 0.6, 0.8, 1.0, 0.0];
    assert_eq!(nearest(&[1.0, 0.0], &gallery, 2, 3).unwrap(), vec![(1, 1.0), (3, 1.0), (2, 0.6)]);
    assert_eq!(nearest(&[1.0, 0.0], &gallery, 2, 9).unwrap().len(), 4);
    assert_eq!(first_of_each(["a", "a", "b", "a", "c", "b"]), vec![0, 2, 4]);
    assert_eq!(rows::select(&gallery, 2, &[3, 0]), vec![1.0, 0.0, 0.0, 1.0]);
}

#[test]
fn a_value_that_is_not_finite_is_named_wherever_it_stands() {
    let values = vec![0.5f32; 3 * 1000];
    assert_eq!(rows::check("rows", &values, 1000).unwrap(), 3);
    for (at, value) in [(0, f32::NAN), (1023, f32::INFINITY), (1024, f32::NEG_INFINITY), (2999, f32::NAN)] {
        let mut values = values.clone();
        values[at] = value;
        values[2999] = f32::NAN;
        let error = rows::check("rows", &values, 1000).unwrap_err().to_string();
        assert!(error.contains(&format!("row {}, column {} is {value}", at / 1000, at % 1000)), "{error}");
    }
}

#[test]
fn zero_shot_is_a_softmax_over_each_pair() {
    let (x, p, n) = (unit_rows(5, 8, 7), unit_rows(3, 8, 8), unit_rows(3, 8, 9));
    let cos = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
    for scale in [1.0, std::f64::consts::E, 100.0] {
        let got = probabilities(&x, &p, &n, 8, scale).unwrap();
        assert_eq!(got.len(), 15);
        for (i, got) in got.iter().enumerate() {
            let (row, label) = (&x[i / 3 * 8..][..8], i % 3 * 8);
            let (yes, no) = ((scale * cos(row, &p[label..][..8])).exp(), (scale * cos(row, &n[label..][..8])).exp());
            assert_relative_eq!(f64::from(*got), yes / (yes + no), max_relative = 1e-5);
        }
    }
    assert!(probabilities(&x, &p, &n[..16], 8, 1.0).unwrap_err().to_string().contains("3 positive and 2 negative"));
    assert!(probabilities(&x, &p, &n, 8, 0.0).unwrap_err().to_string().contains("scale"));
    assert!(
        probabilities(&x, &[0.5; 8], &[0.5; 8], 8, 1.0).unwrap_err().to_string().contains("positive prompts: row 0")
    );
}

/// Ten patients, 18 labels of which the first nobody has.
fn detection(scale: f64) -> ZeroShot {
    let (x, p, n) = (unit_rows(10, 8, 7), unit_rows(labels::COUNT, 8, 8), unit_rows(labels::COUNT, 8, 9));
    let labels: Vec<bool> = (0..10 * labels::COUNT).map(|i| i % labels::COUNT > 0 && i % 7 < 3).collect();
    let targets = ZeroShotTargets { prompts_positive: &p, prompts_negative: &n, labels: &labels, dim: 8, scale };
    ZeroShot::of(&x, &targets).unwrap()
}

#[test]
fn the_scale_moves_probabilities_alone() {
    let one = detection(1.0);
    // The last makes f32 probabilities of 0 and 1 of most cells.
    for scale in [std::f64::consts::E, 1e-6, 1e4] {
        let other = detection(scale);
        assert_eq!(one.thresholded, other.thresholded);
        assert_ne!(one.logits, other.logits);
        assert_eq!(
            [one.auc_macro, one.auc_micro, one.ap_macro, one.ap_micro],
            [other.auc_macro, other.auc_micro, other.ap_macro, other.ap_micro]
        );
        same_ranks(&one, &other);
    }
}

/// The areas that scikit-learn 1.9 computes of the cosines in f64 (`roc_auc_score`, `average_precision_score`), on samples whose
/// logits at scale 100 are all above 17, where f32 probabilities are 1: numpy's `x = [cos(t), sin(t)]` for t = 0.01 to 0.06.
#[test]
fn saturated_probabilities_do_not_tie() {
    let angles = [0.01f32, 0.02, 0.03, 0.04, 0.05, 0.06];
    let x: Vec<f32> = angles.iter().flat_map(|t| [t.cos(), t.sin()]).collect();
    let (positive, negative) = ([1.0f32, 0.0].repeat(labels::COUNT), [-1.0f32, 0.0].repeat(labels::COUNT));
    let truth = [true, false, true, true, false, false];
    let cells: Vec<bool> = truth.iter().flat_map(|&t| [t; labels::COUNT]).collect();
    let targets = ZeroShotTargets {
        prompts_positive: &positive,
        prompts_negative: &negative,
        labels: &cells,
        dim: 2,
        scale: 100.0,
    };
    let z = ZeroShot::of(&x, &targets).unwrap();
    assert!(z.logits.iter().all(|&logit| probability(logit) == 1.0));
    assert_relative_eq!(z.auc_macro.unwrap(), 7.0 / 9.0, epsilon = 1e-12);
    assert_relative_eq!(z.ap_macro.unwrap(), (1.0 + 2.0 / 3.0 + 3.0 / 4.0) / 3.0, epsilon = 1e-12);
    let cut = z.labels[0].youden.as_ref().unwrap();
    assert_eq!((cut.threshold, cut.rates.recall, cut.rates.specificity), (1.0, Some(1.0), Some(2.0 / 3.0)));
    assert_relative_eq!(cut.score, 200.0 * f64::from(0.04f32.cos()), epsilon = 1e-9);
}

fn same_ranks(one: &ZeroShot, e: &ZeroShot) {
    for (a, b) in one.labels.iter().zip(&e.labels) {
        assert_eq!((a.auc, a.ap, &a.at_half), (b.auc, b.ap, &b.at_half), "{}", a.name);
        assert_eq!(a.youden.as_ref().map(|y| &y.rates), b.youden.as_ref().map(|y| &y.rates), "{}", a.name);
    }
}

#[test]
fn the_table_of_labels_is_read_back() {
    let z = detection(1.0);
    let text = z.csv([("checkpoint", "ab12"), ("cache", "cd34")]);
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let header = reader.headers().unwrap().clone();
    let at = |row: &csv::StringRecord, column: &str| row[header.iter().position(|h| h == column).unwrap()].to_string();
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    assert!(rows.iter().map(|row| at(row, "label")).eq(labels::NAMES));
    let digests = |row| [at(row, "digest_checkpoint"), at(row, "digest_cache")];
    assert!(rows.iter().all(|row| digests(row) == ["ab12", "cd34"]));
    assert_eq!(
        (at(&rows[0], "positives").as_str(), at(&rows[0], "auc"), at(&rows[0], "youden_f1")),
        ("0", "".into(), "".into())
    );
    let (label, point) = (&z.labels[3], z.labels[3].youden.as_ref().unwrap());
    let columns = [
        ("auc", label.auc),
        ("precision", label.at_half.as_ref().unwrap().precision),
        ("youden_threshold", Some(point.threshold)),
        ("youden_specificity", point.rates.specificity),
    ];
    for (column, want) in columns {
        let found: Option<f64> = at(&rows[3], column).parse().ok();
        assert_eq!(found.map(|v| v as f32), want.map(|v| v as f32), "{column}");
    }
}

#[test]
fn reports_ask_for_images_and_images_for_reports() {
    // Reports 0 and 1 are the same text, CT 2 looks like CT 0: only asking for images is hurt by the second, and a tie is a hit.
    let ct = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0];
    let report = [1.0, 0.0, 1.0, 0.0, 0.6, 0.8];
    let labels = vec![true; 3 * labels::COUNT];
    let prompts = [1.0, 0.0].repeat(labels::COUNT);
    let targets =
        ZeroShotTargets { prompts_positive: &prompts, prompts_negative: &prompts, labels: &labels, dim: 2, scale: 1.0 };
    let scores = ClipScores::of(&ct, &report, &targets).unwrap();
    // Report 0 finds CT 0 (tied with 2); report 1 prefers CTs 0 and 2 to its own; report 2 prefers CT 1 to its own.
    assert_relative_eq!(scores.retrieval.image_from_text.r1, 1.0 / 3.0);
    // CT 0 finds report 0 (tied with 1); CT 1 prefers report 2; CT 2 prefers reports 0 and 1.
    assert_relative_eq!(scores.retrieval.text_from_image.r1, 1.0 / 3.0);
    assert_eq!((scores.gallery, scores.retrieval.text_from_image.median_rank), (3, 2.0));
    assert_eq!((scores.retrieval.image_from_text.median_rank, scores.retrieval.chance), (2.0, [1.0 / 3.0, 1.0, 1.0]));
    assert_eq!(scores.zero_shot.thresholded.accuracy, 0.0, "equal prompts give one half, which is absence");
}
