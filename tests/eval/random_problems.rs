//! 200 random multi-label problems with ties and rare labels against scikit-learn, MLstatkit and SciPy
//! (tests/golden/metrics_random.json, made by tools/make_random_metric_cases.py from the same integers).

use serde_json::Value;
use x2ct::eval::calibration::{Method, Scaling, reliability};
use x2ct::eval::delong::delong;
use x2ct::eval::detection::{Detection, Problem, SUMMARY};
use x2ct::eval::metrics::precision_recall_curve;

use super::{Numbers, assert_option, f64s};

/// Labels and two sets of scores, `[samples, classes]`.
struct Made {
    classes: usize,
    labels: Vec<bool>,
    scores: [Vec<f64>; 2],
}

fn problem(at: usize) -> Made {
    let mut numbers = Numbers(at as u64 + 1);
    let (samples, classes, levels) = (20 + numbers.below(180), 1 + numbers.below(8), [3, 10, 1000][at % 3]);
    let prevalence: Vec<u64> = (0..classes).map(|_| [2, 10, 30, 50][numbers.below(4) as usize]).collect();
    let mut made = Made { classes: classes as usize, labels: Vec::new(), scores: Default::default() };
    for cell in 0..samples * classes {
        let present = numbers.below(100) < prevalence[(cell % classes) as usize];
        made.labels.push(present);
        for (scores, shift) in made.scores.iter_mut().zip([levels / 3, levels / 6]) {
            let level = numbers.below(levels) + if present { shift } else { 0 };
            scores.push(level.min(levels) as f64 / levels as f64);
        }
    }
    made
}

fn cases() -> Vec<Value> {
    let all: Value = serde_json::from_str(include_str!("../golden/metrics_random.json")).unwrap();
    let cases = all["problems"].as_array().unwrap().clone();
    assert_eq!(cases.len(), 200);
    cases
}

#[test]
fn every_metric_is_scikit_learns() {
    for (at, want) in cases().iter().enumerate() {
        let Made { classes, labels, scores: [scores, _] } = problem(at);
        let names: Vec<String> = (0..classes).map(|label| format!("label {label}")).collect();
        let patients: Vec<String> = (0..labels.len() / classes).map(|sample| format!("patient {sample}")).collect();
        let problem = Problem {
            names: &names,
            patients: &patients,
            labels: &labels,
            scores: &scores,
            probabilities: Some(&scores),
        };
        let got = Detection::of(&problem, None).unwrap();
        for (name, value) in SUMMARY.iter().zip(got.summary.values()) {
            assert_option(&format!("problem {at}: {name}"), value, &want[name]);
        }
        for (label, got) in got.labels.iter().enumerate() {
            assert_option(&format!("problem {at}: AUC of {label}"), got.auc, &want["auc"][label]);
            assert_option(&format!("problem {at}: AP of {label}"), got.ap, &want["ap"][label]);
        }
        let Some([precision, recall, points]) =
            want["curve"].as_array().map(|c| [0, 1, 2].map(|i| c[i].as_f64().unwrap()))
        else {
            continue;
        };
        let curve = precision_recall_curve(&labels, &scores).unwrap().unwrap();
        assert_eq!(curve.len(), points as usize, "problem {at}");
        let sum = |value: fn(&x2ct::eval::metrics::PrecisionRecall) -> f64| curve.iter().map(value).sum::<f64>();
        assert!((sum(|p| p.precision) - precision).abs() < 1e-9, "problem {at}");
        assert!((sum(|p| p.recall) - recall).abs() < 1e-9, "problem {at}");
    }
}

#[test]
fn delongs_test_of_pooled_cells_is_that_of_two_others() {
    let mut compared = 0;
    for (at, want) in cases().iter().enumerate().filter(|(_, want)| !want["delong"].is_null()) {
        let (made, want) = (problem(at), &want["delong"]);
        let got = delong(&made.labels, &made.scores[0], &made.scores[1]).unwrap();
        for i in 0..2 {
            assert!((got.auc[i] - want["auc"][i].as_f64().unwrap()).abs() < 1e-12, "problem {at}");
            assert!((got.covariance[i][i] - want["variance"][i].as_f64().unwrap()).abs() < 1e-12, "problem {at}");
        }
        let (z, ln_p) = (want["z"].as_f64().unwrap(), want["ln_p"].as_f64().unwrap());
        assert!((got.z - z).abs() < 1e-10 * z.max(1.0), "problem {at}: {} against {z}", got.z);
        assert!((got.ln_p - ln_p).abs() < 1e-10 * ln_p.abs().max(1.0), "problem {at}: {} against {ln_p}", got.ln_p);
        compared += 1;
    }
    assert!(compared > 180, "{compared}");
}

#[test]
fn calibration_is_that_of_scikit_learn_and_scipy() {
    let mut fitted = [0; 2];
    for (at, want) in cases().iter().enumerate().filter(|(_, want)| !want["calibration"].is_null()) {
        let Made { labels, scores: [scores, _], .. } = problem(at);
        let want = &want["calibration"];
        let got = reliability(&labels, &scores, 10).unwrap();
        assert_option(&format!("problem {at}: ECE"), Some(got.ece), &want["ece"]);
        assert_option(&format!("problem {at}: Brier"), Some(got.brier), &want["brier"]);
        let logits: Vec<f64> = scores.iter().map(|p| p.clamp(0.001, 0.999)).map(|p| (p / (1.0 - p)).ln()).collect();
        let [temperature, platt] = [&want["temperature"], &want["platt"]].map(f64s);
        match Scaling::fit(Method::Temperature, &labels, &logits) {
            Ok(scaling) => {
                assert!((scaling.slope - temperature[0]).abs() < 1e-5 * temperature[0], "problem {at}: {scaling:?}");
                assert_eq!(scaling.intercept, 0.0);
                fitted[0] += 1;
            }
            Err(error) => {
                assert!(
                    temperature[0] < 1e-6 && error.to_string().contains("best slope is not positive"),
                    "{at}: {error}"
                )
            }
        }
        match Scaling::fit(Method::Platt, &labels, &logits) {
            // scikit-learn stops at a gradient of 1e-6 or so.
            Ok(scaling) => {
                assert!(
                    (scaling.slope - platt[0]).abs() < 2e-3 * (1.0 + platt[0]),
                    "problem {at}: {scaling:?} {platt:?}"
                );
                assert!(
                    (scaling.intercept - platt[1]).abs() < 2e-3 * (1.0 + platt[1].abs()),
                    "problem {at}: {scaling:?} {platt:?}"
                );
                fitted[1] += 1;
            }
            Err(error) => {
                assert!(platt[0] < 1e-3 && error.to_string().contains("best slope is not positive"), "{at}: {error}")
            }
        }
    }
    assert!(fitted.iter().all(|&count| count > 50), "{fitted:?}");
}
