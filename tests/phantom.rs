//! The procedural phantom: determinism, anatomy, findings, words, phantom teacher.

use x2ct::ct::nifti;
use x2ct::ct::phantom::teacher::{self, DIM, Teacher};
use x2ct::ct::phantom::{Abnormality, Finding, Patient, PhantomConfig, Side, Zone, report};
use x2ct::ct::{CtVolume, Voxels};
use x2ct::data::ct_rate::{CtRate, HuSource, Split};
use x2ct::data::phantom::{self, PhantomDataset};
use x2ct::labels;
use x2ct::philox::philox4x32_10;

const SHAPE: [usize; 3] = [48, 40, 48];
const SPACING: [f64; 3] = [7.0, 7.0, 7.0];

/// No noise and no change of posture: differences are the findings'.
fn still() -> PhantomConfig {
    PhantomConfig { translation_mm: [0.0; 3], rotation_deg: [0.0; 3], scale: (1.0, 1.0), noise_hu: 0.0 }
}

fn finding(kind: Abnormality, severity: f32, side: Side, zone: Zone) -> Finding {
    Finding { kind, severity, side, zone, variant: 0.3 }
}

fn volume(index: u64, findings: &[Finding]) -> CtVolume {
    Patient::with_findings(5, index, &still(), findings).voxelise(SHAPE, SPACING).unwrap()
}

fn hu(v: &CtVolume) -> &[i16] {
    match &v.voxels {
        Voxels::I16(hu) => hu,
        Voxels::F32(_) => panic!("phantoms are int16"),
    }
}

/// Millimetres towards left, posterior, superior.
fn world(v: &CtVolume, at: [usize; 3]) -> [f64; 3] {
    let [r, a, s] = v.affine.voxel_to_world(at.map(|i| i as f64));
    [-r, -a, s]
}

/// Calls `visit(position, before, after)` for every voxel.
fn compare(before: &CtVolume, after: &CtVolume, mut visit: impl FnMut([f64; 3], f64, f64)) {
    let [nx, ny, _] = before.shape;
    for (i, (a, b)) in hu(before).iter().zip(hu(after)).enumerate() {
        visit(world(before, [i % nx, i / nx % ny, i / nx / ny]), (*a).into(), (*b).into());
    }
}

#[test]
fn philox_matches_the_published_vectors() {
    let ones = u32::MAX;
    assert_eq!(philox4x32_10([0; 4], [0; 2]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
    assert_eq!(philox4x32_10([ones; 4], [ones; 2]), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
    assert_eq!(
        philox4x32_10([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]),
        [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
    );
}

#[test]
fn same_seed_same_bytes_on_any_number_of_threads() {
    let make = || Patient::new(3, 17, &PhantomConfig::default()).voxelise(SHAPE, SPACING).unwrap();
    let pool = |n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
    let one = pool(1).install(make);
    assert_eq!(one, pool(4).install(make));
    assert_ne!(one, Patient::new(3, 18, &PhantomConfig::default()).voxelise(SHAPE, SPACING).unwrap());
    assert_ne!(one, Patient::new(4, 17, &PhantomConfig::default()).voxelise(SHAPE, SPACING).unwrap());
}

#[test]
fn bad_grids_are_refused_by_name() {
    let patient = Patient::new(0, 0, &PhantomConfig::default());
    for (shape, spacing, word) in [
        ([0, 4, 4], [1.0; 3], "shape"),
        ([4, 4, 5000], [1.0; 3], "shape"),
        ([4; 3], [1.0, f64::NAN, 1.0], "spacing"),
        ([4; 3], [1.0, -1.0, 1.0], "spacing"),
    ] {
        let message = patient.voxelise(shape, spacing).unwrap_err().to_string();
        assert!(message.contains(word), "{message}");
        assert!(!message.contains('\n'), "{message}");
    }
}

#[test]
fn affine_says_left_posterior_superior() {
    let v = Patient::new(0, 0, &still()).voxelise([8, 6, 4], [2.0, 3.0, 5.0]).unwrap();
    assert_eq!(v.axis_codes().letters(), ['L', 'P', 'S']);
    assert_eq!(v.spacing(), [2.0, 3.0, 5.0]);
    // The middle of the grid is the origin.
    for c in v.affine.centre(v.shape) {
        assert!(c.abs() < 1e-9, "{c}");
    }
}

#[test]
fn abnormalities_are_ct_rates_in_its_order() {
    // Position by position the variant is the label, its words joined.
    for (kind, label) in Abnormality::ALL.into_iter().zip(labels::NAMES) {
        let words = label.split(' ').map(|word| word[..1].to_uppercase() + &word[1..]);
        assert_eq!((format!("{kind:?}"), kind.name()), (words.collect::<String>(), label));
    }
    assert!(Abnormality::ALL.iter().enumerate().all(|(i, kind)| kind.index() == i));
}

#[test]
fn anatomy_is_where_it_belongs() {
    let mut heart_left = 0;
    for index in 0..12 {
        let v = volume(index, &[]);
        let mean = |inside: &dyn Fn([f64; 3]) -> bool| {
            let (mut sum, mut n) = (0.0, 0.0);
            compare(&v, &v, |p, hu, _| {
                if inside(p) {
                    sum += hu;
                    n += 1.0;
                }
            });
            assert!(n > 0.0);
            sum / n
        };
        let mut lung = Vec::new();
        let (mut bone_behind, mut heart) = (f64::MIN, [0.0, 0.0]);
        compare(&v, &v, |p, hu, _| {
            let [x, y, z] = p;
            if (-980.0..-700.0).contains(&hu) && x.abs() > 50.0 && x.abs() < 90.0 && z.abs() < 40.0 && y.abs() < 40.0 {
                lung.push(hu);
            }
            if x.abs() < 20.0 && y > 40.0 && z.abs() < 60.0 {
                bone_behind = bone_behind.max(hu);
            }
            if (-70.0..-30.0).contains(&z)
                && (-60.0..0.0).contains(&y)
                && x.abs() > 24.0
                && x.abs() < 75.0
                && hu > -50.0
            {
                heart[usize::from(x > 0.0)] += 1.0;
            }
        });
        assert!(lung.len() > 100);
        lung.sort_by(f64::total_cmp);
        let median = lung[lung.len() / 2];
        assert!((-910.0..-790.0).contains(&median), "patient {index}: lung at {median} HU");
        assert!(bone_behind > 200.0, "patient {index}: spine at {bone_behind} HU");
        heart_left += usize::from(heart[1] > heart[0]);
        // Outside air at the corner, soft tissue in the abdomen.
        assert!((f64::from(hu(&v)[47 * 40 * 48]) + 1000.0).abs() < 1.0);
        let belly = mean(&|[x, y, z]| x.abs() < 60.0 && y.abs() < 40.0 && z < -140.0);
        assert!((-250.0..150.0).contains(&belly), "patient {index}: abdomen at {belly} HU");
        assert!(hu(&v).iter().all(|hu| (-1024..=3071).contains(hu)));
    }
    assert_eq!(heart_left, 12);
}

#[test]
fn posture_and_build_vary() {
    let config = PhantomConfig::default();
    let patients: Vec<Patient> = (0..300).map(|i| Patient::new(1, i, &config)).collect();
    let spread = |values: Vec<f32>| {
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        (values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / values.len() as f32).sqrt()
    };
    let origin = |axis: usize| patients.iter().map(|p| p.anatomy.place([0.0; 3])[axis]).collect();
    for axis in 0..3 {
        assert!(spread(origin(axis)) > 4.0);
    }
    let height = |p: &Patient| p.anatomy.place([0.0, 0.0, 100.0])[2] - p.anatomy.place([0.0; 3])[2];
    assert!(spread(patients.iter().map(height).collect()) > 4.0);
    assert!(spread(patients.iter().map(|p| p.anatomy.fat).collect()) > 3.0);
    assert!(patients.iter().all(|p| (18..=95).contains(&p.anatomy.age)));
}

#[test]
fn prevalences_are_within_bounds_and_findings_keep_company() {
    let patients: Vec<Patient> = (0..4000).map(|i| Patient::new(2, i, &PhantomConfig::default())).collect();
    let share = |keep: &dyn Fn(&Patient) -> bool| patients.iter().filter(|p| keep(p)).count() as f32 / 4000.0;
    for kind in Abnormality::ALL {
        let got = share(&|p| p.labels()[kind.index()]);
        assert!((0.12..0.48).contains(&got), "{}: {got}", kind.name());
        assert!((got - kind.prevalence()).abs() < 0.03, "{}: {got}", kind.name());
        let left = share(&|p| p.finding(kind).is_some_and(|f| f.side == Side::Left));
        let right = share(&|p| p.finding(kind).is_some_and(|f| f.side == Side::Right));
        assert!((left > 0.0) == (right > 0.0), "{}: one-sided", kind.name());
    }
    let both = share(&|p| p.labels()[1] && p.labels()[4]);
    assert!(both > 1.3 * share(&|p| p.labels()[1]) * share(&|p| p.labels()[4]), "calcifications do not co-occur");
}

/// Where each finding may change voxels, and how.
fn places(kind: Abnormality) -> (Side, Zone) {
    use Abnormality::*;
    match kind {
        ArterialWallCalcification
        | Cardiomegaly
        | PericardialEffusion
        | CoronaryArteryWallCalcification
        | HiatalHernia => (Side::Midline, Zone::Whole),
        Emphysema => (Side::Both, Zone::Upper),
        MosaicAttenuationPattern => (Side::Both, Zone::Whole),
        MedicalMaterial | Lymphadenopathy | PleuralEffusion | PeribronchialThickening => (Side::Left, Zone::Whole),
        PulmonaryFibroticSequela => (Side::Left, Zone::Upper),
        _ => (Side::Left, Zone::Lower),
    }
}

#[test]
fn every_finding_changes_its_place_and_only_plausibly() {
    use Abnormality::*;
    for kind in Abnormality::ALL {
        let (side, zone) = places(kind);
        // Range of HU that the lesion may leave behind.
        let range = match kind {
            MedicalMaterial => (-1024.0, 3071.0),
            ArterialWallCalcification | CoronaryArteryWallCalcification => (-1000.0, 1000.0),
            _ => (-1000.0, 500.0),
        };
        for index in 0..4 {
            let before = volume(index, &[]);
            let after = volume(index, &[finding(kind, 0.7, side, zone)]);
            let (mut changed, mut misplaced, mut weight) = (0.0, 0.0, 0.0);
            compare(&before, &after, |p, a, b| {
                let change = (b - a).abs();
                if change < 30.0 {
                    return;
                }
                changed += 1.0;
                weight += change;
                assert!(b >= range.0 && b <= range.1, "{}: {a} became {b} HU at {p:?}", kind.name());
                // A lead and a collapse reach across the midline; the rest stays on its side.
                let beyond = side == Side::Left && p[0] < -12.0 && kind != MedicalMaterial;
                let outside = p[0].abs() > 175.0 || p[1].abs() > 175.0;
                let level = match (kind, zone) {
                    (Emphysema, _) => false,
                    (_, Zone::Upper) => p[2] < -30.0,
                    (_, Zone::Lower) => p[2] > 50.0,
                    _ => false,
                };
                misplaced += f64::from(u8::from(beyond || outside || level)) * change;
            });
            assert!(changed >= 3.0, "{} of patient {index} leaves no trace", kind.name());
            assert!(
                misplaced <= 0.02 * weight,
                "{} of patient {index}: {misplaced:.0} of {weight:.0} misplaced",
                kind.name()
            );
        }
    }
}

#[test]
fn severity_grows_the_signature() {
    for kind in Abnormality::ALL {
        let (side, zone) = places(kind);
        let change = |severity| {
            let mut total = 0.0;
            for index in 0..3 {
                let (before, after) = (volume(index, &[]), volume(index, &[finding(kind, severity, side, zone)]));
                compare(&before, &after, |_, a, b| total += (b - a).abs());
            }
            total
        };
        let (mild, severe) = (change(0.05), change(0.95));
        assert!(severe > 1.1 * mild, "{}: {mild:.0} to {severe:.0}", kind.name());
    }
}

#[test]
fn left_is_left() {
    use Abnormality::*;
    for kind in [PleuralEffusion, Consolidation, LungNodule, LungOpacity, Atelectasis, MedicalMaterial] {
        for (side, sign) in [(Side::Left, 1.0), (Side::Right, -1.0)] {
            let zone = if matches!(kind, PleuralEffusion | MedicalMaterial) { Zone::Whole } else { Zone::Lower };
            let (before, after) = (volume(7, &[]), volume(7, &[finding(kind, 0.8, side, zone)]));
            let (mut moment, mut gain) = (0.0, 0.0);
            compare(&before, &after, |p, a, b| {
                moment += (b - a).max(0.0) * p[0];
                gain += (b - a).max(0.0);
            });
            assert!(gain > 0.0);
            assert!(sign * moment / gain > 20.0, "{} {side:?}: centre at {} mm", kind.name(), moment / gain);
        }
    }
}

#[test]
fn reports_name_what_is_there_and_nothing_else() {
    for index in 0..400 {
        let patient = Patient::new(8, index, &PhantomConfig::default());
        let text = patient.report();
        for kind in Abnormality::ALL {
            let present = patient.finding(kind).is_some();
            for part in [&text.findings, &text.impressions] {
                let named = part.to_lowercase().contains(report::term(kind));
                assert_eq!(named, present, "{} in: {part}", kind.name());
            }
            if let Some(f) = patient.finding(kind) {
                let sentence =
                    text.impressions.split(". ").find(|s| s.to_lowercase().contains(report::term(kind))).unwrap();
                let sentence = sentence.to_lowercase();
                assert!(sentence.contains(report::grade_word(kind, f.grade())), "{sentence}");
                match f.side {
                    Side::Left => assert!(sentence.contains("left") && !sentence.contains("right"), "{sentence}"),
                    Side::Right => assert!(sentence.contains("right") && !sentence.contains("left"), "{sentence}"),
                    Side::Both => assert!(sentence.contains("both"), "{sentence}"),
                    Side::Midline => assert!(!sentence.contains("left") && !sentence.contains("right"), "{sentence}"),
                }
            }
        }
        assert!(!text.findings.contains("  ") && text.findings.ends_with('.'), "{}", text.findings);
    }
}

#[test]
fn phantom_teacher_pairs_ct_with_its_own_report() {
    let config = PhantomConfig::default();
    let patients: Vec<Patient> = (0..200).map(|i| Patient::new(6, i, &config)).collect();
    let e = teacher::embed(&patients);
    assert_eq!(e, teacher::embed(&patients));
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    for row in e.ct.chunks_exact(DIM).chain(e.report.chunks_exact(DIM)) {
        assert!((dot(row, row) - 1.0).abs() < 1e-5);
    }
    let found =
        e.ct.chunks_exact(DIM)
            .enumerate()
            .filter(|(i, ct)| {
                let own = dot(ct, &e.report[i * DIM..(i + 1) * DIM]);
                e.report.chunks_exact(DIM).filter(|r| dot(ct, r) > own).count() < 5
            })
            .count();
    // Chance: 5 of 200.
    assert!(found > 100, "{found} of 200 reports among the nearest five");
}

/// Area under the ROC curve by counting pairs.
fn auc(scores: &[(f32, bool)]) -> f32 {
    let (mut won, mut pairs) = (0.0, 0.0);
    for (p, _) in scores.iter().filter(|s| s.1) {
        for (n, _) in scores.iter().filter(|s| !s.1) {
            pairs += 1.0;
            won += if p > n {
                1.0
            } else if p == n {
                0.5
            } else {
                0.0
            };
        }
    }
    won / pairs
}

#[test]
fn phantom_teacher_ceiling_is_high_but_below_one() {
    let teacher = Teacher::new();
    let prompts = teacher.prompts();
    let patients: Vec<Patient> = (0..600).map(|i| Patient::new(6, i, &PhantomConfig::default())).collect();
    let e = teacher::embed(&patients);
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    let mut total = 0.0;
    for kind in Abnormality::ALL {
        let row = kind.index() * DIM..(kind.index() + 1) * DIM;
        let scores: Vec<(f32, bool)> = patients
            .iter()
            .zip(e.ct.chunks_exact(DIM))
            .map(|(p, ct)| {
                // Softmax over the two cosines is monotone in their difference.
                let margin = dot(ct, &prompts.positive[row.clone()]) - dot(ct, &prompts.negative[row.clone()]);
                (margin, p.labels()[kind.index()])
            })
            .collect();
        let area = auc(&scores);
        assert!(area > 0.85, "{}: {area}", kind.name());
        total += area / Abnormality::COUNT as f32;
    }
    assert!((0.93..0.975).contains(&total), "macro AUC {total}");
}

#[test]
fn data_set_reads_back_as_ct_rate() {
    let dir = tempfile::tempdir().unwrap();
    let set =
        PhantomDataset { seed: 4, train: 3, valid: 2, shape: [20, 18, 16], spacing: [16.0; 3], ..Default::default() };
    let calls = std::sync::Mutex::new(Vec::new());
    let splits = phantom::write_dataset(dir.path(), &set, &|done, total| {
        assert_eq!(total, 5);
        calls.lock().unwrap().push(done);
        Ok(())
    })
    .unwrap();
    let mut calls = calls.into_inner().unwrap();
    calls.sort_unstable();
    assert_eq!(calls, [1, 2, 3, 4, 5]);
    for (written, split) in splits.iter().zip([Split::Train, Split::Valid]) {
        let read = CtRate::read(dir.path(), split, HuSource::AlreadyHu).unwrap();
        assert_eq!(&read, written);
        for (i, row) in read.volumes.iter().enumerate() {
            let patient = phantom::patient(4, split, i as u32 + 1, &set.phantom);
            assert_eq!(row.labels, patient.labels());
            assert_eq!(row.report.findings, patient.report().findings);
            let stored = nifti::read(read.path(row)).unwrap();
            assert_eq!(stored.voxels, patient.voxelise(set.shape, set.spacing).unwrap().voxels);
            assert_eq!(stored.axis_codes().letters(), ['L', 'P', 'S']);
        }
    }
    let table = std::fs::read_to_string(dir.path().join("dataset/metadata/train_metadata.csv")).unwrap();
    let patient = phantom::patient(4, Split::Train, 1, &set.phantom);
    let line = table.lines().find(|l| l.starts_with("train_1_a_1.nii.gz,x2ct phantom,")).unwrap();
    assert!(line.contains(&format!("{:03}Y", patient.anatomy.age)), "{line}");
}

#[test]
fn data_set_stops_when_progress_says_so_and_refuses_what_it_cannot_write() {
    let dir = tempfile::tempdir().unwrap();
    let set = PhantomDataset { train: 4, valid: 0, shape: [8; 3], spacing: [40.0; 3], ..Default::default() };
    let stop = |_: usize, _: usize| Err(x2ct::Error::Interrupted("stopped".into()));
    assert!(phantom::write_dataset(dir.path(), &set, &stop).is_err());
    assert!(!dir.path().join("dataset/metadata").exists());
    let go = |_: usize, _: usize| Ok(());
    let empty = PhantomDataset { train: 0, ..set };
    assert!(phantom::write_dataset(dir.path(), &empty, &go).unwrap_err().to_string().contains("no patients"));
    let uneven = PhantomDataset { spacing: [40.0, 30.0, 40.0], ..set };
    assert!(phantom::write_dataset(dir.path(), &uneven, &go).unwrap_err().to_string().contains("in plane"));
}
