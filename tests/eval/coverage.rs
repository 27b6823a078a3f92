//! How often intervals hold the truth: simulated, with a fixed seed.

use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use x2ct::eval::bootstrap::Bootstrap;
use x2ct::eval::delong::area;
use x2ct::eval::metrics::MultiLabel;
use x2ct::philox::Rng;

/// Draws of `samples` with `positives`, whose scores are normal and `shift` apart: the share of 95 % intervals that hold the
/// area, of the bootstrap and of DeLong.
fn coverage(draws: u64, samples: usize, positives: usize, shift: f64, truth: f64) -> [f64; 2] {
    let patients: Vec<usize> = (0..samples).collect();
    let hits: Vec<[bool; 2]> = (0..draws)
        .into_par_iter()
        .map(|draw| {
            let mut random = Rng::new(77, draw, 1);
            let labels: Vec<bool> = (0..samples).map(|sample| sample < positives).collect();
            let score = |&label: &bool| f64::from(random.normal()) + if label { shift } else { 0.0 };
            let scores: Vec<f64> = labels.iter().map(score).collect();
            let ranked = MultiLabel::new(&labels, &scores, 1).unwrap().ranked();
            let bootstrap = Bootstrap { seed: draw, ..Bootstrap::default() };
            let interval = bootstrap.interval(&patients, |weights| ranked.roc_auc(weights).micro).unwrap();
            let [low, high] = area(&labels, &scores, 0.95).unwrap().interval.unwrap();
            [(interval.low..=interval.high).contains(&truth), (low..=high).contains(&truth)]
        })
        .collect();
    [0, 1].map(|of| hits.iter().filter(|hit| hit[of]).count() as f64 / draws as f64)
}

/// 2,000 draws of 200 samples with 40 positives, area 0.75: half a minute on two cores.
#[test]
fn intervals_cover_as_often_as_they_say() {
    let [bootstrap, delong] = coverage(2000, 200, 40, 0.953_872_552, 0.75);
    println!("coverage of 95 % intervals: bootstrap {bootstrap}, DeLong {delong}");
    assert!((0.94..=0.96).contains(&bootstrap), "{bootstrap}");
    assert!((0.94..=0.96).contains(&delong), "{delong}");
}

/// Each evaluation of the statistic is as long as there are samples: their number must not grow with the patients too.
#[test]
fn intervals_of_many_patients_take_time_in_proportion_to_them() {
    let patients: Vec<usize> = (0..5000).collect();
    let calls = AtomicUsize::new(0);
    // Quantiles of an exponential distribution: the mean is 1, its standard error 1 / sqrt(5000).
    let value = |i: usize| -(1.0 - (i as f64 + 0.5) / 5000.0).ln();
    let mean = |weights: &[u32]| {
        calls.fetch_add(1, Ordering::Relaxed);
        let sum: f64 = weights.iter().enumerate().map(|(i, &times)| f64::from(times) * value(i)).sum();
        Some(sum / f64::from(weights.iter().sum::<u32>()))
    };
    let found = Bootstrap::default().interval(&patients, mean).unwrap();
    assert_eq!(calls.into_inner(), 1 + 1000 + 1000);
    let reach = 1.96 / 5000f64.sqrt();
    let off = |end: f64, at: f64| (end - at).abs() > 0.1 * reach;
    assert!(!off(found.low, 1.0 - reach) && !off(found.high, 1.0 + reach), "{found:?}");
}
