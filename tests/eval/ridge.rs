//! Ridge regression against scikit-learn, its normal equations, and the choice of its penalty.

use approx::assert_relative_eq;
use x2ct::eval::probe::RidgeRegression;

use super::{f32s, f64s, golden, rayon_free, unit_rows};

#[test]
fn ridge_agrees_with_scikit_learn() {
    for case in golden("ridge") {
        let samples = case["samples"].as_u64().unwrap() as usize;
        let (x, y) = (f32s(&case["x"]), f32s(&case["y"]));
        let got = RidgeRegression::fit(&x, &y, samples, case["lambda"].as_f64().unwrap()).unwrap();
        for (got, want) in got.weights.iter().zip(f64s(&case["weights"])) {
            assert_relative_eq!(*got, want, max_relative = 1e-9, epsilon = 1e-12);
        }
        for (got, want) in got.intercept.iter().zip(f64s(&case["intercept"])) {
            assert_relative_eq!(*got, want, max_relative = 1e-9, epsilon = 1e-12);
        }
    }
}

/// `W x + b` plus noise.
fn linear_data(samples: usize, features: usize, outputs: usize, noise: f32) -> (Vec<f32>, Vec<f32>) {
    let (x, w, e) =
        (unit_rows(samples, features, 11), unit_rows(outputs, features, 12), unit_rows(samples, outputs, 13));
    let y = (0..samples * outputs)
        .map(|i| {
            let (row, out) = (&x[i / outputs * features..][..features], &w[i % outputs * features..][..features]);
            row.iter().zip(out).map(|(x, w)| x * w).sum::<f32>() + 0.5 + noise * e[i]
        })
        .collect();
    (x, y)
}

#[test]
fn ridge_primal_and_dual_are_one_regression() {
    // 70 and 150: more than one Cholesky panel, and tiles that do not divide.
    for (samples, features) in [(150, 70), (70, 150), (65, 64), (64, 65)] {
        let (x, y) = linear_data(samples, features, 3, 0.0);
        let small = RidgeRegression::fit(&x, &y, samples, 1e-6).unwrap();
        for (got, want) in small.predict(&x).unwrap().iter().zip(&y) {
            assert!((got - want).abs() < 1e-3, "{samples} x {features}: {got} against {want}");
        }
        // The normal equations hold: X'(Y - XW' - b) = lambda W.
        let fitted = RidgeRegression::fit(&x, &y, samples, 0.3).unwrap();
        for o in 0..3 {
            let w = &fitted.weights[o * features..][..features];
            let residual: Vec<f64> = x
                .chunks_exact(features)
                .zip(y.iter().skip(o).step_by(3))
                .map(|(row, &y)| {
                    f64::from(y) - fitted.intercept[o] - row.iter().zip(w).map(|(&x, w)| f64::from(x) * w).sum::<f64>()
                })
                .collect();
            assert!(residual.iter().sum::<f64>().abs() < 1e-9, "the residual of a fit with intercept sums to 0");
            for (f, &weight) in w.iter().enumerate() {
                let gradient: f64 =
                    residual.iter().zip(x.iter().skip(f).step_by(features)).map(|(r, &x)| r * f64::from(x)).sum();
                assert_relative_eq!(gradient, 0.3 * weight, epsilon = 1e-9);
            }
        }
        assert_eq!(fitted.weights, rayon_free(|| RidgeRegression::fit(&x, &y, samples, 0.3).unwrap().weights));
    }
}

#[test]
fn ridge_selects_its_penalty_on_held_out_rows() {
    let held_out: Vec<bool> = (0..80).map(|i| i % 5 == 4).collect();
    let grid = [1e-6, 1e-2, 1.0, 100.0];
    let (x, y) = linear_data(80, 20, 2, 0.0);
    let exact = RidgeRegression::fit_select(&x, &y, &held_out, &grid).unwrap();
    assert_eq!(exact.lambda, 1e-6, "without noise the smallest penalty predicts best");
    let direct = RidgeRegression::fit(&x, &y, 80, 1e-6).unwrap();
    assert_eq!(exact.weights, direct.weights, "the final fit is on all rows");
    let noise = unit_rows(80, 2, 14);
    let selected = RidgeRegression::fit_select(&x, &noise, &held_out, &grid).unwrap();
    assert_eq!(selected.lambda, 100.0, "on pure noise the largest penalty predicts best");
}

#[test]
fn ridge_refuses_what_it_cannot_solve() {
    let (x, y) = linear_data(10, 4, 2, 0.0);
    let message = |r: x2ct::Result<RidgeRegression>| r.unwrap_err().to_string();
    assert!(message(RidgeRegression::fit(&[], &[], 0, 1.0)).contains("x: 0 values for 0 samples"));
    assert!(message(RidgeRegression::fit(&x, &y[..19], 10, 1.0)).contains("y: 19 values for 10 samples"));
    assert!(message(RidgeRegression::fit(&x, &y, 10, f64::NAN)).contains("lambda: is NaN"));
    assert!(message(RidgeRegression::fit(&x, &y, 10, -1.0)).contains("lambda: is -1"));
    let constant = vec![1.0; 40];
    assert!(message(RidgeRegression::fit(&constant, &y, 10, 0.0)).contains("singular"));
    let mut nan = x.clone();
    nan[5] = f32::NAN;
    assert!(message(RidgeRegression::fit(&nan, &y, 10, 1.0)).contains("row 1, column 1 is NaN"));
    assert!(message(RidgeRegression::fit_select(&x, &y, &[false; 10], &[1.0])).contains("0 held out"));
    assert!(message(RidgeRegression::fit_select(&x, &y, &[true, false].repeat(5), &[])).contains("0 penalties"));
    assert!(RidgeRegression::fit(&x, &y, 10, 1.0).unwrap().predict(&x[..7]).is_err());
}
