//! RadChest-CT as a data set, by its toy: `drr` and `preprocess` of it, and what costs a volume its place.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use x2ct::ct::{HuSource as HuOfVolume, Preset, RadiographOptions, radiograph};
use x2ct::data::cache::EmbeddingCache;
use x2ct::data::ct_rate::HuSource;
use x2ct::data::ingest::{
    self, CtSplit, IngestOptions, Ingested, PrepareOptions, Progress, ingest as radiographs, prepare,
};
use x2ct::data::label_map::LabelMap;
use x2ct::data::phantom::PhantomDataset;
use x2ct::data::phantom::radchest::{self, Written, write_radchest};
use x2ct::data::pixels;
use x2ct::data::radchest::Part;
use x2ct::data::radchest_labels::{ABNORMALITIES, RadChestLabels};
use x2ct::data::radiographs::RadiographSet;
use x2ct::data::volumes::VolumeSet;
use x2ct::labels;
use x2ct::tensor::DType;
use x2ct::{Device, Error};

use crate::dataset::{files, names, said, x2ct};
use crate::support::npz::npz;

const SIZE: [usize; 2] = [24, 32];

fn phantoms(train: u32) -> PhantomDataset {
    PhantomDataset { seed: 11, train, valid: 0, shape: [16, 14, 12], spacing: [9.0; 3], ..Default::default() }
}

fn toy(root: &Path, train: u32, test: u32) -> Vec<Written> {
    write_radchest(root, &phantoms(train), test, &|_, _| Ok(())).unwrap()
}

fn open(root: &Path, split: &str) -> Box<dyn CtSplit> {
    ingest::open(root, split, HuSource::AlreadyHu).unwrap()
}

/// The rows of a manifest, by their columns.
fn manifest(path: &Path) -> Vec<Value> {
    let mut csv = csv::Reader::from_path(path).unwrap();
    let header: Vec<String> = csv.headers().unwrap().iter().map(String::from).collect();
    let row = |row: csv::StringRecord| header.iter().cloned().zip(row.iter().map(Value::from)).collect();
    csv.records().map(|record| row(record.unwrap())).collect()
}

/// The values of an `.npz` that the toy wrote, [Z, Y, X].
fn values(path: &Path) -> Vec<i16> {
    let bytes = std::fs::read(path).unwrap();
    let at = bytes.windows(6).position(|w| w == b"\x93NUMPY").unwrap();
    let begin = at + 10 + usize::from(u16::from_le_bytes([bytes[at + 8], bytes[at + 9]]));
    bytes[begin..begin + 2 * 16 * 14 * 12].chunks(2).map(|b| i16::from_le_bytes([b[0], b[1]])).collect()
}

#[test]
fn drr_packs_a_split_as_it_lies() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let written = toy(at, 3, 2);
    // A voxel column through the patient, at the head and to the left: slice 0 of the file, the last column.
    let mut marked = values(&at.join("trn00003.npz"));
    (0..14).for_each(|y| marked[y * 16 + 14] = 3000);
    std::fs::write(at.join("trn00003.npz"), npz([12, 14, 16], &marked, true)).unwrap();
    // Half the size.
    let table = std::fs::read_to_string(at.join("CT_Scan_Metadata_Complete_35747.csv")).unwrap();
    let table = table.replace("trn00003.npz,x2ct phantom,1,0,9", "trn00003.npz,x2ct phantom,1,0,4.5");
    std::fs::write(at.join("CT_Scan_Metadata_Complete_35747.csv"), table).unwrap();
    std::fs::create_dir(at.join("more")).unwrap();
    std::fs::rename(at.join("trn00002.npz"), at.join("more/trn00002.npz")).unwrap();

    let output = x2ct(at, "drr --dataset . --split train --size 24x32 --device host --out out --json");
    assert!(output.status.success(), "{}", said(&output));
    let set = RadiographSet::read(&at.join("out/ap.safetensors")).unwrap();
    assert_eq!(set.ids(), ["trn00001", "trn00002", "trn00003"]);
    assert_eq!(set.source()["source"], "RadChest-CT");
    for (i, patient) in written[0].patients[..2].iter().enumerate() {
        let volume = patient.voxelise([16, 14, 12], [9.0; 3]).unwrap();
        let image = radiograph(&Device::host(), &volume, &RadiographOptions::default()).unwrap();
        assert_eq!(set.image(i), pixels::fit(&pixels::to_bytes(&image.pixels), [image.height, image.width], SIZE));
    }
    let marked = set.image(2);
    let brightest = (0..marked.len()).max_by_key(|&i| marked[i]).unwrap();
    let [row, column] = [brightest / 32, brightest % 32];
    assert!(row < 4 && (26..31).contains(&column), "the mark is at row {row}, column {column}");
    let rows = manifest(&at.join("out/manifest.csv"));
    let column = |name: &str| rows.iter().map(|row| row[name].as_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(column("file"), ["trn00001.npz", "more/trn00002.npz", "trn00003.npz"]);
    assert_eq!(column("spacing_mm"), ["9x9x9", "9x9x9", "4.5x4.5x4.5"]);
    assert_eq!(column("axis_codes"), ["LPI"; 3]);
    assert_eq!(column("orientation"), ["convention"; 3]);
    assert_eq!(column("hu_source"), ["already-hu"; 3]);
    // Both splits are there, the third is not; CT-RATE has no test split.
    assert!(x2ct(at, "drr --dataset . --split test --out test").status.success());
    let output = x2ct(at, "drr --dataset . --split valid --out valid");
    assert!(said(&output).contains("imgvalid_Abnormality_and_Location_Labels.csv: cannot open"), "{}", said(&output));
    let output = x2ct(at, "drr --dataset more --split test --out none");
    assert!(said(&output).contains("CT-RATE has no split test"), "{}", said(&output));
    let output = x2ct(at, "drr --dataset . --split test --hu-source csv --out none");
    assert!(said(&output).contains("leave out --hu-source csv"), "{}", said(&output));
}

#[test]
fn what_is_wrong_with_a_volume_costs_itself() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    toy(at, 7, 0);
    let damaged = std::fs::read(at.join("trn00001.npz")).unwrap();
    std::fs::write(at.join("trn00001.npz"), &damaged[..damaged.len() / 2]).unwrap();
    std::fs::remove_file(at.join("trn00002.npz")).unwrap();
    let metadata = at.join("CT_Scan_Metadata_Complete_35747.csv");
    let table = std::fs::read_to_string(&metadata).unwrap();
    let table = table
        .replace("trn00003.npz,x2ct phantom,1,0,9\n", "")
        .replace("trn00004.npz,x2ct phantom,1,0,9", "trn00004.npz,x2ct phantom,1,0,none");
    std::fs::write(&metadata, table).unwrap();
    let labels = at.join("imgtrain_Abnormality_and_Location_Labels.csv");
    let table = std::fs::read_to_string(&labels).unwrap().replace("trn00005,0", "trn00005,2");
    std::fs::write(&labels, table).unwrap();
    std::fs::create_dir(at.join("copies")).unwrap();
    std::fs::copy(at.join("trn00006.npz"), at.join("copies/trn00006.npz")).unwrap();
    std::fs::copy(at.join("trn00006.npz"), at.join("trn99999.npz")).unwrap();
    let output = x2ct(at, "drr --dataset . --split train --size 24x32 --device host --out out --json");
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert_eq!(RadiographSet::read(&at.join("out")).unwrap().ids(), ["trn00007"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let failed: Vec<&str> = report["failed"].as_array().unwrap().iter().map(|f| f["error"].as_str().unwrap()).collect();
    for (failed, says) in failed.iter().zip([
        "imgtrain_Abnormality_and_Location_Labels.csv: line 6, column ",
        "CT_Scan_Metadata_Complete_35747.csv: line 4, column final_spacing: \"none\" is not a positive number",
        "trn00001.npz: is no whole .npz archive",
        "trn00002.npz: cannot read",
    ]) {
        assert!(failed.contains(says), "{failed}, not {says}");
    }
    assert_eq!(failed.len(), 4, "{failed:?}");
    let warnings = report["warnings"].to_string();
    for says in ["has no row for 1 volume(s), left out: trn00003", "several files of the volume trn00006", "trn99999"] {
        assert!(warnings.contains(says), "{warnings}");
    }
    assert_eq!(report["passed_over"][0]["file"], "./trn99999.npz");
}

/// Stops a run when so many volumes are done.
fn stopped(count: usize, make: impl FnOnce(&AtomicBool, &mut dyn FnMut(Progress)) -> x2ct::Result<Ingested>) {
    let stop = AtomicBool::new(false);
    let made = make(&stop, &mut |event| {
        if let Progress::Done(done) = event {
            stop.store(done >= count, Ordering::Relaxed);
        }
    });
    assert!(matches!(made, Err(Error::Interrupted(_))), "{made:?}");
}

/// The outcome of a run, and how many volumes it found finished.
fn whole(make: impl FnOnce(&AtomicBool, &mut dyn FnMut(Progress)) -> x2ct::Result<Ingested>) -> (Ingested, usize) {
    let mut found = usize::MAX;
    let made = make(&AtomicBool::new(false), &mut |event| {
        if let Progress::Resumed(done) = event {
            found = done;
        }
    });
    (made.unwrap(), found)
}

#[test]
fn a_run_on_radchest_goes_on_where_it_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    toy(folder.path(), 5, 0);
    let (data, device) = (open(folder.path(), "train"), Device::host());
    let options = IngestOptions { size: SIZE, ..Default::default() };
    whole(|stop, progress| radiographs(&device, &*data, &at("whole"), &options, stop, progress));
    stopped(3, |stop, progress| radiographs(&device, &*data, &at("out"), &options, stop, progress));
    let (_, found) = whole(|stop, progress| radiographs(&device, &*data, &at("out"), &options, stop, progress));
    assert!((3..5).contains(&found), "{found}");
    assert!(files(&at("out")) == files(&at("whole")));
    // Another voxel size is another run.
    let metadata = at("CT_Scan_Metadata_Complete_35747.csv");
    std::fs::write(&metadata, std::fs::read_to_string(&metadata).unwrap().replace(",9\n", ",8\n")).unwrap();
    let other = open(folder.path(), "train");
    let refused = radiographs(&device, &*other, &at("out"), &options, &AtomicBool::new(false), &mut |_| {});
    assert!(refused.unwrap_err().to_string().contains("was made with other options"));
}

/// CT-CLIP's preset on a small grid.
fn small() -> PrepareOptions {
    let preset = Preset { spacing: [9.0; 3], size: Some([16, 16, 8]), ..Preset::ct_clip_v2() };
    PrepareOptions { dtype: DType::Bf16, ..PrepareOptions::new(preset) }
}

#[test]
fn prepared_volumes_are_those_of_each_file_and_go_on_where_they_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let written = toy(folder.path(), 4, 0);
    let (data, device, options) = (open(folder.path(), "train"), Device::host(), small());
    let run = |out: &str, stop: &AtomicBool, progress: &mut dyn FnMut(Progress)| {
        prepare(&device, &*data, &at(out), &options, stop, progress)
    };
    let (made, _) = whole(|stop, progress| run("whole", stop, progress));
    assert_eq!(made.made, 4);
    let volumes = ["trn00001", "trn00002", "trn00003", "trn00004"].map(|name| format!("{name}.safetensors"));
    assert_eq!(names(&at("whole")), [vec!["manifest.csv".to_string()], volumes.to_vec()].concat());
    let set = VolumeSet::read(&at("whole")).unwrap();
    for (patient, digest) in written[0].patients.iter().zip(set.digests().unwrap()) {
        let volume = patient.voxelise([16, 14, 12], [9.0; 3]).unwrap();
        let prepared = options.preset.apply(&device, &volume, HuOfVolume::AlreadyHu, DType::Bf16).unwrap();
        assert_eq!(prepared.with_bytes(|bytes| *blake3::hash(bytes).as_bytes()).unwrap(), *digest);
    }

    stopped(2, |stop, progress| run("out", stop, progress));
    let (_, found) = whole(|stop, progress| run("out", stop, progress));
    assert!((2..4).contains(&found), "{found}");
    assert!(files(&at("out")) == files(&at("whole")));
    // A run that ended is left as it is.
    assert_eq!(whole(|stop, progress| run("out", stop, progress)).1, 4);
    // A file that is damaged or another's is made again, and one whose CT changed.
    std::fs::write(at("out/trn00001.safetensors"), b"damaged").unwrap();
    std::fs::copy(at("whole/trn00001.safetensors"), at("out/trn00002.safetensors")).unwrap();
    assert_eq!(whole(|stop, progress| run("out", stop, progress)).1, 2);
    assert!(files(&at("out")) == files(&at("whole")));
    let mut changed = values(&at("trn00003.npz"));
    changed[1000] += 1;
    std::fs::write(at("trn00003.npz"), npz([12, 14, 16], &changed, false)).unwrap();
    assert_eq!(whole(|stop, progress| run("out", stop, progress)).1, 3);
    assert!(files(&at("out")) != files(&at("whole")));
    // A volume that fails leaves nothing of an earlier run.
    std::fs::write(at("trn00003.npz"), b"PK\x03\x04 no archive").unwrap();
    let (made, _) = whole(|stop, progress| run("out", stop, progress));
    assert_eq!((made.made, made.failed[0].0.as_str()), (3, "trn00003"));
    assert_eq!(VolumeSet::read(&at("out")).unwrap().ids(), ["trn00001", "trn00002", "trn00004"]);
    // Another preset is another run.
    let other = PrepareOptions { dtype: DType::F32, ..small() };
    let refused = prepare(&device, &*data, &at("out"), &other, &AtomicBool::new(false), &mut |_| {});
    assert!(refused.unwrap_err().to_string().contains("made with other options"));
}

#[test]
fn preprocess_takes_a_data_set_in_shards_and_packs_it() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    crate::dataset::data_set(at, 3);
    let command = "preprocess --dataset . --split train --preset x2ct --device host --out";
    let output = x2ct(at, &format!("{command} whole --json"));
    assert!(output.status.success(), "{}", said(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["volumes"], &report["packed"]), (&Value::from(3), &Value::Null));
    for shard in ["1/2", "2/2"] {
        let output = x2ct(at, &format!("{command} shards --shard {shard}"));
        assert!(output.status.success(), "{}", said(&output));
    }
    let [whole, shards] = ["whole", "shards"].map(|name| files(&at.join(name)));
    let volumes = whole.iter().filter(|(name, _)| name.extension().unwrap() == "safetensors");
    assert!(volumes.clone().count() == 3 && volumes.clone().all(|(name, bytes)| shards[name] == *bytes));
    let rows: usize = [1, 2].map(|i| manifest(&at.join(format!("shards/manifest-{i}-of-2.csv"))).len()).iter().sum();
    assert_eq!((rows, manifest(&at.join("whole/manifest.csv"))[0]["blake3_volume"].as_str().unwrap().len()), (3, 64));
    // A network's input is packed too; this preset is none.
    std::fs::remove_dir_all(at.join("whole")).unwrap();
    let one = "preprocess --dataset . --split train --preset ct-clip-v2 --dtype bf16 --device host --shard 1/1";
    let output = x2ct(at, &format!("{command} whole --pack whole.safetensors"));
    assert!(said(&output).contains("x2ct stores z, y, x"), "{}", said(&output));
    data_set_of_one(at);
    let output = x2ct(at, &format!("{one} --out one --pack one.safetensors --json"));
    assert!(output.status.success(), "{}", said(&output));
    let [one, packed] = ["one", "one.safetensors"].map(|name| VolumeSet::read(&at.join(name)).unwrap());
    assert_eq!((one.ids(), one.digests().unwrap()), (packed.ids(), packed.digests().unwrap()));
    let output = x2ct(at, &format!("{command} shards --shard 1/2 --pack p.safetensors"));
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    let output = x2ct(at, &format!("{command} dataset/train_fixed"));
    assert!(said(&output).contains("lies in the input folder ./dataset/train_fixed"), "{}", said(&output));
    let output = x2ct(at, &format!("{command} whole --rescale 1,0"));
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
}

/// Leaves the first volume of a data set of three in its table alone.
fn data_set_of_one(at: &Path) {
    let table = at.join("dataset/metadata/train_metadata.csv");
    let text = std::fs::read_to_string(&table).unwrap();
    std::fs::write(&table, text.lines().take(2).map(|line| format!("{line}\n")).collect::<String>()).unwrap();
}

#[test]
fn killed_a_run_of_prepared_volumes_writes_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    toy(at, 12, 0);
    let start = |out: &str| {
        let arguments = format!("preprocess --dataset . --split train --preset x2ct --device host --out {out}");
        let mut command = std::process::Command::new(crate::support::program());
        command.args(arguments.split(' ')).current_dir(at);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap()
    };
    let begin = std::time::Instant::now();
    assert!(start("whole").wait().unwrap().success());
    let duration = begin.elapsed();
    let mut killed = 0;
    for share in [0.2, 0.4, 0.5, 0.6, 0.7, 0.8] {
        let mut child = start("out");
        std::thread::sleep(duration.mul_f64(share));
        child.kill().unwrap();
        killed += usize::from(child.wait().unwrap().code().is_none());
    }
    assert!(killed > 0, "no run was killed");
    assert!(start("out").wait().unwrap().success());
    assert!(files(&at.join("out")) == files(&at.join("whole")));
}

#[test]
fn labels_of_the_toy_are_what_the_built_in_map_says() {
    let folder = tempfile::tempdir().unwrap();
    let written = toy(folder.path(), 40, 1);
    assert_eq!([written[0].split, written[1].split], [Part::Train, Part::Test]);
    let table = folder.path().join(Part::Train.labels());
    let RadChestLabels { table, unknown, absent } = RadChestLabels::read(&table).unwrap();
    assert!(unknown.is_empty() && absent.is_empty());
    assert_eq!(table.names, ABNORMALITIES);
    let place = |name: &str| ABNORMALITIES.iter().position(|known| *known == name).unwrap();
    let map = LabelMap::open("radchest").unwrap();
    let mut positives = [0; 4];
    for (id, patient) in written[0].ids.iter().zip(&written[0].patients) {
        let (row, present) = (table.row(id).unwrap(), patient.labels());
        let has = |name: &String| present[labels::NAMES.iter().position(|known| known == name).unwrap()];
        for label in &map.labels {
            assert_eq!(row[place(&label.name)], label.of.iter().any(has), "{id} {}", label.name);
        }
        let few_shot = ["atherosclerosis", "coronary_artery_disease", "septal_thickening", "groundglass"];
        few_shot.iter().zip(&mut positives).for_each(|(name, count)| *count += usize::from(row[place(name)]));
        assert!(!row[place("tree_in_bud")]);
    }
    assert!(positives.iter().all(|&count| count > 0), "{positives:?}");
    // Nobody of CT-RATE's form is among them.
    let other = x2ct::data::phantom::patient(11, x2ct::data::ct_rate::Split::Train, 1, &phantoms(1).phantom);
    assert_ne!(radchest::patient(&phantoms(1), Part::Train, 1).index, other.index);
}

#[test]
fn the_phantom_command_writes_radchest_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let command = "phantom --form radchest --train 2 --valid 1 --test 2 --shape 16x14x12 --spacing 9 --out toy";
    assert!(x2ct(at, command).status.success());
    let first = files(&at.join("toy"));
    let caches: Vec<&PathBuf> =
        first.keys().filter(|name| name.to_string_lossy().ends_with(".cache.safetensors")).collect();
    assert_eq!(caches.len(), 3);
    std::fs::write(at.join("toy/val00001.npz"), b"damaged").unwrap();
    std::fs::remove_file(at.join("toy/tst00002.npz")).unwrap();
    assert!(x2ct(at, command).status.success());
    assert!(files(&at.join("toy")) == first);
    let cache = EmbeddingCache::read(at.join("toy/test.cache.safetensors")).unwrap();
    assert_eq!(cache.ids, ["tst00001", "tst00002"]);
    // The CTs are those that drr finds.
    assert!(x2ct(at, "drr --dataset toy --split test --size 24x32 --device host --out out").status.success());
    let set = RadiographSet::read(&at.join("out")).unwrap();
    assert!(!set.cts().is_unknown() && (0..2).all(|row| set.cts().of(row) == cache.cts.of(row)));
    let output = x2ct(at, "phantom --train 2 --valid 1 --shape 16x14x12 --spacing 9 --out toy");
    assert!(said(&output).contains("phantom.json: is of a phantom set with other settings"), "{}", said(&output));
    let output = x2ct(at, "phantom --train 2 --test 1 --out toy");
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
}
