//! Provenance: digests follow content and nothing else, and what does not belong together is refused by the setting that differs.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use serde_json::{Value, json};
use x2ct::Device;
use x2ct::ct::{Affine, AxisCodes, CtVolume, Mode, Preset, Projection, RadiographOptions, nifti};
use x2ct::data::cache::EmbeddingCache;
use x2ct::data::phantom_set::{PhantomSet, PhantomStudy};
use x2ct::data::provenance::{Content, Provenance, difference, fields, of_ct, short};
use x2ct::data::radiographs::{RadiographSet, settings};
use x2ct::data::text::{HashedNgrams, TextFeatures};
use x2ct::data::volumes::VolumeSet;
use x2ct::ops::image::PixelType;
use x2ct::tensor::DType;
use x2ct::train::{Checkpoint, Sources, TrainConfig, Trainer, TrainingSet};

fn study(seed: u64) -> PhantomStudy {
    PhantomStudy { seed, shape: [32; 3], spacing: [12.0; 3] }
}

fn patients(seed: u64, count: u64) -> PhantomSet {
    study(seed).make(&Device::host(), 0..count, &AtomicBool::new(false), &mut |_| {}).unwrap()
}

fn made(settings: Value, digest: &str) -> Provenance {
    Provenance::made(fields(settings), []).holding(digest.repeat(64), 3)
}

#[test]
fn a_setting_that_differs_is_named_with_both_values_and_both_digests() {
    let trained = made(json!({"mode": "film", "view": "ap", "film": {"width": 2.5, "centre": null}}), "a");
    let found = |settings: Value| trained.expect_alike("radiographs", &made(settings, "b"));
    assert!(found(json!({"view": "ap", "mode": "film", "film": {"centre": null, "width": 2.5}})).unwrap().is_empty());
    let refused = |settings: Value| found(settings).unwrap_err().to_string();
    let error = refused(json!({"mode": "film", "view": "lateral", "film": {"width": 2.5, "centre": null}}));
    let expected = "radiographs: view: trained on ap, these are lateral (digests aaaaaaaaaaaa and bbbbbbbbbbbb); \
                    use what was made with the same settings";
    assert_eq!(error, expected);
    let error = refused(json!({"mode": "film", "view": "ap", "film": {"width": 3.0, "centre": null}}));
    assert!(error.contains("film.width: trained on 2.5, these are 3.0"), "{error}");
    // What only one of them says counts as well.
    let error = refused(json!({"mode": "film", "view": "ap"}));
    assert!(error.contains("film: trained on {") && error.contains("these are without"), "{error}");
    let error = refused(json!({"mode": "film", "view": "ap", "film": {"width": 2.5, "centre": null}, "grid_mm": 1}));
    assert!(error.contains("grid_mm: trained on without, these are 1"), "{error}");
}

#[test]
fn what_is_not_recorded_is_said_and_what_is_known_of_it_still_counts() {
    let trained = made(json!({"mode": "film", "view": "ap"}), "a");
    let old = |view: &str| Provenance::unknown(fields(json!({"view": view, "pixels": "u8"})));
    let undecided = trained.expect_alike("radiographs", &old("ap")).unwrap();
    assert!(undecided.len() == 1 && undecided[0].contains("is not recorded"), "{undecided:?}");
    assert_eq!(old("ap").expect_alike("radiographs", &trained).unwrap().len(), 1);
    assert!(trained.expect_alike("radiographs", &old("lateral")).unwrap_err().to_string().contains("view: trained on"));
    assert_eq!(old("ap").undecided("radiographs").len(), 1);
    let cache = Provenance::made(Default::default(), [("volumes", old("ap")), ("reports", trained.clone())]);
    assert_eq!(cache.undecided("cache"), ["cache.volumes: how it was made is not recorded"]);
}

#[test]
fn a_run_that_goes_on_is_held_to_the_content_of_every_part() {
    let of = |reports: &str, digest: &str| {
        let reports = made(json!({"encoder": "x"}), reports);
        Provenance::made(fields(json!({"teacher": "T"})), [("reports", reports)]).holding(digest.repeat(64), 7)
    };
    let began = of("1", "a");
    assert!(began.expect_same("data.cache", &of("1", "a")).unwrap().is_empty());
    let error = began.expect_same("data.cache", &of("1", "b")).unwrap_err().to_string();
    assert!(
        error.starts_with("data.cache: content: the run began on 7 rows of digest aaaaaaaaaaaa, these are"),
        "{error}"
    );
    let error = began.expect_same("data.cache", &of("2", "b")).unwrap_err().to_string();
    assert!(
        error.starts_with("data.cache.reports: content: the run began on 3 rows of digest 111111111111"),
        "{error}"
    );
    assert!(error.contains("3 rows of digest 222222222222") && error.contains("--restart"), "{error}");
}

#[test]
fn digests_of_radiographs_follow_ids_and_pixels_wherever_they_are_stored() {
    let (folder, set) = (tempfile::tempdir().unwrap(), patients(7, 4).radiographs);
    let path = folder.path().join("radiographs.safetensors");
    set.write(&path).unwrap();
    assert_eq!(RadiographSet::read(&path).unwrap().provenance(), set.provenance());
    assert!(set.provenance().known && set.provenance().rows == 4);
    let pixels: Vec<u8> = (0..4).flat_map(|i| set.image(i).to_vec()).collect();
    let digest = |ids: &[String], pixels: Vec<u8>| {
        let options = RadiographOptions { spacing: None, ..Default::default() };
        RadiographSet::new(ids.to_vec(), [32, 32], pixels, json!("another source"), &options).unwrap().provenance()
    };
    let described = digest(set.ids(), pixels.clone());
    assert_eq!(described.digest, set.provenance().digest, "neither the source's description nor the CTs are content");
    assert_eq!(described.settings, set.provenance().settings);
    let mut swapped = set.ids().to_vec();
    swapped.swap(0, 1);
    let mut changed = pixels.clone();
    changed[1000] ^= 1;
    let digests = [
        set.provenance(),
        digest(&swapped, pixels),
        digest(set.ids(), changed),
        patients(7, 3).radiographs.provenance(),
    ];
    for (i, a) in digests.iter().enumerate() {
        assert!(digests[..i].iter().all(|b| a.digest != b.digest), "{i}");
    }
    // Every setting that has a say is a setting of its own.
    let base = RadiographOptions::default();
    let film = RadiographOptions { mode: Mode::Film, ..base.clone() };
    let lateral = RadiographOptions { view: Projection::Lateral, ..base.clone() };
    let differs = |a: &RadiographOptions, b: &RadiographOptions, size: [usize; 2]| {
        let [a, b] = [settings(a, [224; 2], PixelType::U8), settings(b, size, PixelType::U8)];
        difference(&a.settings, &b.settings, true).map(|d| d.name)
    };
    assert_eq!(differs(&base, &film, [224; 2]).as_deref(), Some("mode"));
    assert_eq!(differs(&base, &lateral, [224; 2]).as_deref(), Some("view"));
    assert_eq!(differs(&base, &base, [512; 2]).as_deref(), Some("size"));
    assert_eq!(differs(&base, &base, [224; 2]), None);
}

#[test]
fn digests_of_volumes_are_the_same_in_memory_and_packed_and_text_features_know_their_reports() {
    let folder = tempfile::tempdir().unwrap();
    let set = study(7).volumes(&Device::host(), 0..3, DType::Bf16, &AtomicBool::new(false), &mut |_| {}).unwrap();
    let packed = folder.path().join("packed.safetensors");
    set.write(&packed).unwrap();
    let read = VolumeSet::read(&packed).unwrap();
    assert_eq!(
        (read.provenance().unwrap(), read.digests().unwrap()),
        (set.provenance().unwrap(), set.digests().unwrap())
    );
    let preset: Preset = serde_json::from_value(read.provenance().unwrap().settings["preset"].clone()).unwrap();
    assert_eq!(&preset, read.preset());

    let ids = ["a", "b"].map(String::from).to_vec();
    let of = |texts: [&str; 2], words| HashedNgrams { dim: 32, max_n: words }.features(ids.clone(), &texts).unwrap();
    let text = of(["Emphysema.", "No emphysema."], 2);
    let path = folder.path().join("text.safetensors");
    text.write(&path).unwrap();
    assert_eq!(TextFeatures::read(&path).unwrap().provenance(), text.provenance());
    // Spelling is no feature, but another report.
    let spelt = of(["EMPHYSEMA.", "No emphysema."], 2).provenance();
    assert_eq!(spelt.digest, text.provenance().digest);
    assert_ne!(spelt.from["reports"].digest, text.provenance().from["reports"].digest);
    let moved = of(["No emphysema.", "Emphysema."], 2).provenance();
    assert!(
        text.provenance()
            .expect_same("data.text", &moved)
            .unwrap_err()
            .to_string()
            .starts_with("data.text.reports: content")
    );
    let error = text.provenance().expect_alike("text", &of(["x", "y"], 3).provenance()).unwrap_err().to_string();
    assert!(error.contains("text: max_n: trained on 2, these are 3"), "{error}");
}

#[test]
fn files_of_other_writers_are_unknown_and_a_changed_entry_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let old = TextFeatures::read("tests/golden/text_from_python.safetensors").unwrap();
    assert!(!old.provenance().known && old.provenance().settings["encoder"] == "CXR-BERT");
    // Written again, it claims no more than before.
    let path = folder.path().join("again.safetensors");
    old.write(&path).unwrap();
    assert_eq!(TextFeatures::read(&path).unwrap(), old);

    // A file whose embeddings were exchanged together with its checksum.
    let cache = patients(7, 3).cache;
    let mut archive = x2ct::archive::Writer::new("x2ct-cache-1");
    cache.provenance().record(&mut archive);
    let mut ct = cache.ct.clone();
    ct[..2 * cache.dim].rotate_left(cache.dim);
    for (key, value) in [
        ("ids", json!(cache.ids).to_string()),
        ("teacher", cache.teacher.clone()),
        ("checkpoint_digest", cache.checkpoint_digest.clone()),
        ("preprocessing_digest", cache.preprocessing_digest.clone()),
    ] {
        archive.set(key, value);
    }
    for (name, values) in [
        ("ct", &ct),
        ("report", &cache.report),
        ("prompts_positive", &cache.prompts_positive),
        ("prompts_negative", &cache.prompts_negative),
    ] {
        archive.put_f32(name, &[values.len() / cache.dim, cache.dim], values);
    }
    archive.write(&path).unwrap();
    let error = EmbeddingCache::read(&path).unwrap_err().to_string();
    assert!(error.contains("again.safetensors: its content has digest") && error.contains("it was changed"), "{error}");
}

#[test]
fn what_python_records_is_the_same_chain() {
    let read = |name: &str| format!("tests/golden/{name}_from_python.safetensors");
    let (cache, old) =
        (EmbeddingCache::read(read("cache_recorded")).unwrap(), EmbeddingCache::read(read("cache")).unwrap());
    let (of_cache, of_old) = (cache.provenance(), old.provenance());
    assert!(of_cache.known && !of_old.known && of_cache.digest == of_old.digest && of_cache.rows == 3);
    assert_eq!(of_cache.settings["checkpoint"], "c".repeat(64));
    assert_eq!(of_cache.settings["pad"], -1);
    let text = TextFeatures::read(read("text_recorded")).unwrap().provenance();
    assert!(text.known && text.settings["text_model"] == "x" && text.undecided("text").is_empty());
    // The reports are the same to both writers.
    let texts = ["Emphysema.", "No emphysema.", "Größe normal."];
    let ours = HashedNgrams::default().features(cache.ids.clone(), &texts).unwrap().provenance();
    for from in [&of_cache.from, &text.from] {
        assert_eq!(from["reports"], ours.from["reports"]);
    }
    // Another teacher's weights are told apart, by both digests.
    let mut other = of_cache.clone();
    other.settings["checkpoint"] = json!("d".repeat(64));
    let error = of_cache.expect_alike("cache", &other).unwrap_err().to_string();
    assert!(error.starts_with("cache: checkpoint: trained on cccc") && error.contains("these are dddd"), "{error}");
}

#[test]
fn volumes_know_the_ct_they_were_made_of() {
    let ct = |shift: i16, spacing: f64| {
        let voxels: Vec<i16> = (0..60).map(|v| v * 30 - 900 + shift).collect();
        CtVolume::new(voxels.into(), [5, 4, 3], Affine::centred(AxisCodes::LPS, [spacing; 3], [5, 4, 3]).unwrap())
            .unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    let read = |name: &str| {
        nifti::write(folder.path().join(name), &ct(0, 60.0)).unwrap();
        nifti::read(folder.path().join(name)).unwrap()
    };
    // Of the content, not of the file.
    assert_eq!(of_ct(&read("a.nii")), of_ct(&read("b.nii.gz")));
    let digests = [ct(0, 60.0), ct(1, 60.0), ct(0, 61.0), CtVolume { slope: 2.0, ..ct(0, 60.0) }].map(|ct| of_ct(&ct));
    assert!((0..4).all(|i| !digests[..i].contains(&digests[i])));
}

fn config(radiographs: &str, lr: f64) -> TrainConfig {
    let text = format!(
        "out = \"run\"\nepochs = 1\nbatch = 4\n[model]\nname = \"resnet18\"\nwidth = 1\n\
         [data]\nradiographs = \"{radiographs}\"\ncache = \"c\"\nimage_size = 32\n[optimizer]\nlr = {lr:e}\n"
    );
    toml::from_str(&text).unwrap()
}

#[test]
fn a_checkpoint_is_what_it_computes_and_a_run_is_what_it_trains_on() {
    let (device, folder) = (Device::host(), tempfile::tempdir().unwrap());
    let p = patients(7, 4);
    let set = TrainingSet::join(&device, &p.radiographs, &p.cache).unwrap();
    let train = |config: &TrainConfig| {
        let mut trainer = Trainer::new(&device, config).unwrap();
        trainer.run(&set, &mut crate::support::Recorder::default(), &AtomicBool::new(false)).unwrap();
        trainer.checkpoint().unwrap()
    };
    let first = train(&config("r", 1e-3));
    let path = folder.path().join("checkpoint.safetensors");
    first.write(&path).unwrap();
    let read: Checkpoint = Checkpoint::read(&path).unwrap();
    assert_eq!((read.digest(), &read.sources), (first.digest(), &first.sources));
    // Another spelling of a path is the same model and the same run.
    let spelt = config("elsewhere/../r", 1e-3);
    assert_eq!(train(&spelt).digest(), first.digest());
    assert!(read.expect_run(&spelt, &set.sources).unwrap().is_empty());
    assert_ne!(train(&config("r", 2e-3)).digest(), first.digest());
    let error = read.expect_run(&config("r", 2e-3), &set.sources).unwrap_err().to_string();
    assert!(error.starts_with("optimizer.lr: is 0.002, the run began with 0.001"), "{error}");

    // Fewer, other and more patients, by the library alone.
    for (seed, count, said) in [(7, 3, "3 rows"), (8, 4, "4 rows"), (7, 5, "5 rows")] {
        let other = patients(seed, count);
        let set = TrainingSet::join(&device, &other.radiographs, &other.cache).unwrap();
        let mut trainer = Trainer::resume(&device, &read).unwrap();
        let outcome = trainer.run(&set, &mut crate::support::Recorder::default(), &AtomicBool::new(false));
        let error = outcome.unwrap_err().to_string();
        let [began, now] = [&p, &other].map(|p| p.radiographs.provenance().digest);
        for part in ["the run began on 4 rows", short(&began), said, short(&now)] {
            assert!(error.contains(part) || error.starts_with("data.cache"), "{part}: {error}");
        }
    }
    // An old checkpoint, which records nothing, goes on and says so.
    let old = Checkpoint { sources: Sources::new("phantom teacher", []), ..Checkpoint::read(&path).unwrap() };
    assert_eq!(old.expect_run(&config("r", 1e-3), &set.sources).unwrap().len(), 1);
}

#[test]
fn every_float_comes_back_from_toml_and_checkpoint_as_it_was() {
    let (device, folder) = (Device::host(), tempfile::tempdir().unwrap());
    let path = folder.path().join("checkpoint.safetensors");
    let mut checkpoint = Trainer::new(&device, &config("r", 1e-4)).unwrap().checkpoint().unwrap();
    let mut rng = x2ct::philox::Rng::new(11, 0, 0);
    let mut rates: Vec<f64> = (0..1000)
        .map(|_| {
            // Every sign-free bit pattern of moderate exponent.
            let bits = (u64::from(rng.word()) << 32) | u64::from(rng.word());
            f64::from_bits((bits >> 12) | ((1000 + bits % 23) << 52))
        })
        .collect();
    rates.extend([1e-4 / 7.0, 1.4285714285714287e-05, 1.8268998599127622e-05, 5e-324]);
    for four in rates.chunks(4) {
        let get = |i: usize| four[i % four.len()];
        let text = format!(
            "out = \"run\"\nepochs = 1\nbatch = 4\n[model]\nname = \"resnet18\"\nwidth = 1\n[data]\nradiographs = \"r\"\ncache = \"c\"\n\
             [optimizer]\nlr = {:e}\nweight_decay = {:e}\n[loss]\nbeta = {:e}\ntemperature = {:e}\n",
            get(0),
            get(1),
            get(2) as f32,
            get(3) as f32 as f64,
        );
        let config: TrainConfig = toml::from_str(&text).unwrap();
        assert_eq!(config.optimizer.lr.unwrap().to_bits(), get(0).to_bits());
        checkpoint.config = config.clone();
        checkpoint.write(&path).unwrap();
        let read: Checkpoint = Checkpoint::read(Path::new(&path)).unwrap();
        assert_eq!(read.config, config, "{text}");
        assert!(read.expect_run(&config, &Sources::default()).is_ok(), "{text}");
        let again: TrainConfig = toml::from_str(&toml::to_string(&read.config).unwrap()).unwrap();
        assert_eq!(again, config, "{text}");
    }
}

#[test]
fn a_digest_does_not_depend_on_how_long_its_pieces_are() {
    let bytes: Vec<u8> = (0..300_000u32).map(|i| (i % 251) as u8).collect();
    // Around the run of 65,536 bytes after which the hasher takes them, with each piece's length of 8 bytes.
    for length in [1, 100, 2048, 65_520, 65_527, 65_528, 65_535, 65_536, 65_537, 200_000] {
        let (mut content, mut whole) = (Content::of("kind"), Vec::new());
        for piece in std::iter::once(&b"kind"[..]).chain(bytes.chunks(length)) {
            whole.extend((piece.len() as u64).to_le_bytes());
            whole.extend(piece);
        }
        bytes.chunks(length).for_each(|piece| content.add(piece));
        assert_eq!(content.digest(), blake3::hash(&whole).to_hex().to_string(), "pieces of {length}");
    }
}
