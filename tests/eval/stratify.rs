//! Iterative stratification: proportions, groups, and how it compares with drawing at random.

use serde_json::Value;
use x2ct::eval::stratify::Stratify;
use x2ct::philox::Rng;

use super::{Numbers, f64s};

/// Labels that come together, `[samples, classes]`, some of them rare.
fn labels(samples: usize, classes: usize, seed: u64) -> Vec<bool> {
    (0..samples as u64)
        .flat_map(|sample| {
            let mut random = Rng::new(seed, sample, 0);
            let ill = random.unit();
            (0..classes).map(move |class| random.unit() < ill * 0.9 / (1.0 + class as f32)).collect::<Vec<_>>()
        })
        .collect()
}

/// The largest distance, over labels, of the first part's share of positives from `share`, in samples.
fn worst(labels: &[bool], classes: usize, part: &[usize], share: f64) -> f64 {
    let deviation = |class: usize| {
        let positives = |first: bool| {
            part.iter()
                .enumerate()
                .filter(|(row, part)| labels[row * classes + class] && (!first || **part == 0))
                .count() as f64
        };
        (positives(true) - share * positives(false)).abs()
    };
    (0..classes).map(deviation).fold(0.0, f64::max)
}

#[test]
fn parts_have_their_shares_of_samples_and_labels() {
    for (seed, share) in [(1, 0.5), (2, 0.2), (3, 0.05)] {
        let (samples, classes) = (600, 9);
        let labels = labels(samples, classes, seed);
        for order in [1, 2] {
            let part = Stratify::share(share, order, seed).split(&labels, classes).unwrap();
            let first = part.iter().filter(|&&part| part == 0).count() as f64;
            assert!((first - share * samples as f64).abs() <= 12.0, "order {order}, share {share}: {first}");
            let mut random = Rng::new(seed, 0, 9);
            let at_random: Vec<usize> = (0..samples).map(|_| usize::from(f64::from(random.unit()) >= share)).collect();
            let (ours, theirs) = (worst(&labels, classes, &part, share), worst(&labels, classes, &at_random, share));
            assert!(ours <= 4.0 && ours < theirs, "order {order}, share {share}: {ours}, at random {theirs}");
        }
    }
}

#[test]
fn splits_are_reproducible_and_seeds_differ() {
    let labels = labels(300, 6, 4);
    let split = |seed| Stratify::share(0.3, 2, seed).split(&labels, 6).unwrap();
    assert_eq!(split(1), split(1));
    assert_ne!(split(1), split(2));
}

#[test]
fn no_group_is_on_both_sides() {
    let (samples, classes) = (800, 7);
    let labels = labels(samples, classes, 5);
    // One to seven samples a patient.
    let mut random = Rng::new(5, 0, 1);
    let mut patients = Vec::new();
    for patient in 0.. {
        patients.extend(std::iter::repeat_n(patient, 1 + random.below(7)));
        if patients.len() >= samples {
            break;
        }
    }
    patients.truncate(samples);
    for order in [1, 2] {
        let part = Stratify::share(0.2, order, 6).split_grouped(&labels, classes, &patients).unwrap();
        for (row, patient) in patients.iter().enumerate() {
            let first = patients.iter().position(|p| p == patient).unwrap();
            assert_eq!(part[row], part[first], "patient {patient}");
        }
        let count = part.iter().filter(|&&part| part == 0).count();
        assert!((140..=180).contains(&count), "{count}");
        assert!(worst(&labels, classes, &part, 0.2) <= 10.0, "{}", worst(&labels, classes, &part, 0.2));
    }
}

#[test]
fn more_than_two_parts_and_edges() {
    let labels = labels(500, 4, 8);
    let thirds = Stratify { shares: vec![0.5, 0.3, 0.2], order: 1, seed: 0 };
    let part = thirds.split(&labels, 4).unwrap();
    for (at, share) in thirds.shares.iter().enumerate() {
        let count = part.iter().filter(|&&part| part == at).count() as f64;
        assert!((count - share * 500.0).abs() <= 5.0, "{count}");
    }
    // Without any label, and with one sample.
    let none = Stratify::share(0.25, 2, 0).split(&[false; 80], 2).unwrap();
    assert_eq!(none.iter().filter(|&&part| part == 0).count(), 10);
    assert_eq!(Stratify::share(0.9, 1, 0).split(&[true, true], 2).unwrap(), [0]);
    let says = |stratify: Stratify, labels: &[bool]| stratify.split(labels, 2).unwrap_err().to_string();
    assert!(says(Stratify::share(0.5, 3, 0), &[true; 4]).contains("order 3"));
    assert!(says(Stratify::share(1.0, 1, 0), &[true; 4]).contains("[1.0, 0.0]"));
    assert!(says(Stratify::share(0.5, 1, 0), &[]).contains("0 labels"));
}

/// The labels of tools/make_stratify_cases.py and their number of classes.
fn public_set(at: usize) -> (Vec<bool>, usize) {
    let mut numbers = Numbers(at as u64 + 1000);
    let (samples, classes) = (200 + numbers.below(1000), 5 + numbers.below(14));
    let frequency: Vec<u64> = (0..classes).map(|_| 2 + numbers.below(78)).collect();
    let mut labels = Vec::new();
    for _ in 0..samples {
        let ill = numbers.below(100);
        labels.extend(frequency.iter().map(|frequency| numbers.below(10_000) < ill * frequency));
    }
    (labels, classes as usize)
}

/// Mean and worst distance of a label's share of positives in the first part from `share`, in per cent.
fn deviations(labels: &[bool], classes: usize, part: &[usize], share: f64) -> [f64; 2] {
    let distances: Vec<f64> = (0..classes)
        .filter_map(|class| {
            let parts = part.iter().enumerate().filter(|(row, _)| labels[row * classes + class]).map(|(_, part)| *part);
            let (first, all) = parts.fold((0, 0), |(first, all), part| (first + usize::from(part == 0), all + 1));
            (all > 0).then(|| 100.0 * (f64::from(first as u32) / f64::from(all) - share).abs())
        })
        .collect();
    [distances.iter().sum::<f64>() / distances.len() as f64, distances.iter().copied().fold(0.0, f64::max)]
}

/// On 50 sets: label proportions are as near to what was asked for as those of the public implementations, or nearer.
#[test]
fn proportions_are_no_worse_than_the_public_implementations() {
    let golden: Value = serde_json::from_str(include_str!("../golden/stratify.json")).unwrap();
    let sets = golden["sets"].as_array().unwrap();
    assert_eq!(sets.len(), 50);
    for (order, key) in [(1, "order_1"), (2, "order_2")] {
        let (mut ours, mut theirs) = ([0.0; 2], [0.0; 2]);
        for (at, set) in sets.iter().enumerate() {
            let ((labels, classes), share) = (public_set(at), [0.05, 0.1, 0.2, 0.5][at % 4]);
            let part = Stratify::share(share, order, at as u64).split(&labels, classes).unwrap();
            let (own, public) = (deviations(&labels, classes, &part, share), f64s(&set[key]));
            for i in 0..2 {
                ours[i] += own[i] / 50.0;
                theirs[i] += public[i] / 50.0;
            }
        }
        println!("order {order}: mean and worst deviation {ours:.3?} %, of the public implementation {theirs:.3?} %");
        assert!(ours[0] <= theirs[0] && ours[1] <= theirs[1], "order {order}: {ours:?} against {theirs:?}");
    }
}
