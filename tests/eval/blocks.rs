//! Retrieval by blocks of products: the outcome is that of comparing exact cosines, wherever products in f32 cannot tell.

use x2ct::eval::bootstrap::Bootstrap;
use x2ct::eval::calibration::{Method, reliability};
use x2ct::eval::calibration_file::CalibrationFile;
use x2ct::eval::retrieval::{CUTS, Recall, nearest, paired};
use x2ct::eval::score_file::ScoreFile;
use x2ct::eval::zero_shot;

use super::{rayon_free, unit_rows};

/// Rows whose numbers are multiples of 2^-14, so that products and their sums are exact in f64; `spread` says how far rows are from one
/// another.
fn rows(pairs: usize, dim: usize, seed: u32, spread: f32) -> Vec<f32> {
    let (apart, centre) = (unit_rows(pairs, dim, seed), unit_rows(1, dim, 77));
    let mut rows: Vec<f32> =
        apart.iter().enumerate().map(|(at, v)| (1.0 - spread) * centre[at % dim] + spread * v).collect();
    x2ct::data::rows::l2_normalise("rows", &mut rows, dim).unwrap();
    rows.iter().map(|v| (v * 16384.0).round() / 16384.0).collect()
}

/// `[pairs, pairs]` cosines, exact but for the one rounding to f32.
fn cosines(a: &[f32], b: &[f32], dim: usize) -> Vec<Vec<f32>> {
    let cosine = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>() as f32;
    a.chunks(dim).map(|a| b.chunks(dim).map(|b| cosine(a, b)).collect()).collect()
}

#[test]
fn blocks_give_what_the_whole_matrix_gives() {
    // Around the edges of blocks of 256 x 512, few and many numbers a row; rows that differ in the last digits only.
    for (pairs, dim, spread) in
        [(1, 3, 1.0), (9, 1, 1.0), (255, 7, 0.5), (257, 64, 1e-3), (513, 33, 1.0), (700, 16, 3e-4)]
    {
        let (mut a, b) = (rows(pairs, dim, 5, spread), rows(pairs, dim, 6, spread));
        // Equal queries, which tie as items.
        if pairs > 4 {
            a.copy_within(0..dim, 3 * dim);
        }
        let k = 10.min(pairs);
        let found = paired(&a, &b, dim, 10).unwrap();
        let matrices = [cosines(&a, &b, dim), cosines(&b, &a, dim)];
        let mut near = 0;
        for (found, matrix) in found.iter().zip(&matrices) {
            assert_eq!(found.k, k);
            for (query, row) in matrix.iter().enumerate() {
                let above = row.iter().filter(|&&score| score > row[query]).count();
                assert_eq!(found.above[query], above, "{pairs} x {dim}, {query}");
                let mut order: Vec<u32> = (0..pairs as u32).collect();
                order.sort_by(|&i, &j| row[j as usize].total_cmp(&row[i as usize]).then(i.cmp(&j)));
                assert_eq!(found.nearest[query * k..][..k], order[..k], "{pairs} x {dim}, {query}");
                let scores: Vec<f32> = order[..k].iter().map(|&item| row[item as usize]).collect();
                assert_eq!(found.scores[query * k..][..k], scores);
                near += row.iter().filter(|&&score| (score - row[query]).abs() < 1e-6).count() - 1;
            }
        }
        assert!(spread > 0.1 || near > pairs, "{pairs} x {dim}: {near} near ties");
        assert_eq!(found, rayon_free(|| paired(&a, &b, dim, 10).unwrap()), "the number of threads must not matter");
        let one = nearest(&a[..dim], &b, dim, 10).unwrap();
        assert!(one.iter().map(|(item, _)| *item as u32).eq(found[0].nearest[..k].iter().copied()));
    }
}

#[test]
fn intervals_of_recall_are_drawn_by_patient() {
    let bootstrap = Bootstrap { replicates: 500, ..Default::default() };
    // 40 queries, one half of them found first, the others at rank 30; of 20 patients or of 2.
    let ranks: Vec<usize> = (0..40).map(|query| if query % 2 == 0 { 0 } else { 29 }).collect();
    let of = |patients: &dyn Fn(usize) -> usize| {
        Recall::intervals(&ranks, &(0..40).map(patients).collect::<Vec<_>>(), &bootstrap).unwrap()
    };
    let pairs = of(&|query| query / 2);
    assert_eq!(
        pairs.keys().copied().collect::<std::collections::BTreeSet<_>>(),
        CUTS.iter().map(|(name, _)| *name).collect()
    );
    // Each patient has one of each kind: nothing varies.
    let r1 = pairs["r1"].unwrap();
    assert_eq!((r1.estimate, r1.low, r1.high), (0.5, 0.5, 0.5));
    let alone = of(&|query| query)["r1"].unwrap();
    assert!((0.25..0.45).contains(&alone.low) && (0.55..0.75).contains(&alone.high), "{alone:?}");
    let two = of(&|query| query % 2)["r1"].unwrap();
    assert!(two.high - two.low > alone.high - alone.low, "{two:?}");
    assert_eq!(of(&|query| query)["r50"].unwrap().low, 1.0);
    assert!(
        Recall::intervals(&ranks, &[0; 3], &bootstrap).unwrap_err().to_string().contains("3 patients for 40 queries")
    );
}

/// What a fit on one half of the phantom patients is worth on the other.
#[test]
fn calibration_brings_probabilities_of_others_nearer_to_the_truth() {
    use x2ct::ct::phantom::teacher::{DIM, Teacher, embed};
    use x2ct::ct::phantom::{Patient, PhantomConfig};
    use x2ct::labels::{COUNT, NAMES};
    let patients: Vec<Patient> = (0..400).map(|index| Patient::new(11, index, &PhantomConfig::default())).collect();
    let (embeddings, prompts) = (embed(&patients), Teacher::new().prompts());
    let logits = zero_shot::logits(&embeddings.ct, &prompts.positive, &prompts.negative, DIM, 1.0).unwrap();
    let labels: Vec<bool> = patients.iter().flat_map(Patient::labels).collect();
    let half = 200 * COUNT;
    let mut scores = ScoreFile {
        ids: (0..200).map(|at| at.to_string()).collect(),
        names: NAMES.map(String::from).to_vec(),
        logits: logits[..half].to_vec(),
        labels: labels[..half].to_vec(),
        made: Default::default(),
    };
    let says = |scores: &ScoreFile| CalibrationFile::fit(scores, Method::Platt).unwrap_err().to_string();
    assert!(says(&scores).contains("do not say which checkpoint they are of"));
    scores.made.from.insert("checkpoint".into(), Default::default());
    assert!(says(&scores).contains("do not say which prompts they are of"));
    scores.made.settings.insert("prompts".into(), "p".into());
    let rest = |probability: &dyn Fn(usize, f64) -> f64| {
        let all: Vec<f64> =
            logits[half..].iter().enumerate().map(|(at, &logit)| probability(at % COUNT, logit)).collect();
        reliability(&labels[half..], &all, 10).unwrap()
    };
    let before = rest(&|_, logit| zero_shot::probability(logit));
    // Temperature cannot move a base rate, Platt's offset can.
    for (method, share) in [(Method::Temperature, 1.0), (Method::Platt, 0.5)] {
        let fitted = CalibrationFile::fit(&scores, method).unwrap();
        assert_eq!(fitted.uncalibrated().count(), 0);
        let after = rest(&|label, logit| fitted.labels[label].probability(logit));
        assert!(after.ece < share * before.ece && after.brier < before.brier, "{method:?}: {before:?} {after:?}");
    }
    // A label of one class is left as it is and named; where all are, there is nothing to write.
    for row in scores.labels.chunks_exact_mut(COUNT) {
        row[3] = false;
    }
    let fitted = CalibrationFile::fit(&scores, Method::Platt).unwrap();
    let left: Vec<_> = fitted.uncalibrated().collect();
    assert!(
        left.len() == 1 && left[0].0 == NAMES[3] && left[0].1.contains("0 of 200 samples are positive"),
        "{left:?}"
    );
    assert_eq!(fitted.labels[3].probability(0.7), zero_shot::probability(0.7));
    scores.labels.fill(true);
    assert!(says(&scores).contains("fit no label"));
}
