//! `x2ct drr` on folders and data sets: killed at any moment, stopped, starved of disk, sharded; what training then maps.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use assert_cmd::Command;
use half::bf16;
use x2ct::ct::{Affine, AxisCodes, CtVolume, Projection, RadiographOptions, Voxels, nifti, radiograph};
use x2ct::data::ct_rate::{CtRate, HuSource, Split};
use x2ct::data::ingest::{IngestOptions, Ingested, Progress, ingest};
use x2ct::data::phantom::{PhantomDataset, cache, write_dataset};
use x2ct::data::pixels;
use x2ct::data::radiographs::RadiographSet;
use x2ct::ops::image::PixelType;
use x2ct::train::TrainingSet;
use x2ct::{Device, Error};

const SIZE: [usize; 2] = [20, 24];

fn phantoms(count: u32) -> PhantomDataset {
    PhantomDataset { seed: 11, train: count, valid: 0, shape: [16, 14, 12], spacing: [9.0; 3], ..Default::default() }
}

/// Patients with one volume each below `root`.
pub fn data_set(root: &Path, count: u32) -> CtRate {
    write_dataset(root, &phantoms(count), &|_, _| Ok(())).unwrap().remove(0)
}

pub fn options() -> IngestOptions<'static> {
    IngestOptions { views: vec![Projection::Lateral, Projection::Ap], size: SIZE, ..Default::default() }
}

pub fn make(data: &CtRate, out: &Path, options: &IngestOptions) -> x2ct::Result<Ingested> {
    ingest(&Device::host(), data, out, options, &AtomicBool::new(false), &mut |_| {})
}

/// As [`make`], stopped when `count` volumes are done.
fn stopped(data: &CtRate, out: &Path, count: usize) {
    let stop = AtomicBool::new(false);
    let made = ingest(&Device::host(), data, out, &options(), &stop, &mut |event| {
        if let Progress::Done(done) = event {
            stop.store(done >= count, Ordering::Relaxed);
        }
    });
    assert!(matches!(made, Err(Error::Interrupted(_))), "{made:?}");
}

/// How many volumes a run finds finished.
fn resumed(data: &CtRate, out: &Path) -> usize {
    let mut found = usize::MAX;
    let made = ingest(&Device::host(), data, out, &options(), &AtomicBool::new(false), &mut |event| {
        if let Progress::Resumed(done) = event {
            found = done;
        }
    });
    made.unwrap();
    found
}

/// Every file below a folder, by its path there.
pub fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = PathBuf::from(path.file_name().unwrap());
        if path.is_dir() {
            found.extend(files(&path).into_iter().map(|(below, bytes)| (name.join(below), bytes)));
        } else {
            found.insert(name, std::fs::read(&path).unwrap());
        }
    }
    found
}

pub fn names(folder: &Path) -> Vec<String> {
    files(folder).into_keys().map(|path| path.to_string_lossy().into_owned()).collect()
}

/// Runs `x2ct` with arguments separated by spaces.
pub fn x2ct(folder: &Path, arguments: &str) -> Output {
    Command::new(crate::support::program()).args(arguments.split_whitespace()).current_dir(folder).output().unwrap()
}

pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub const RUN: &str = "drr --dataset . --split train --views ap,lateral --size 20x24 --device host --out";

fn spawn(at: &Path, out: &str) -> Child {
    let arguments = RUN.split(' ').chain([out]);
    let mut command = std::process::Command::new(crate::support::program());
    command.args(arguments).current_dir(at).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

#[test]
fn killed_fifty_times_a_run_writes_the_same_bytes() {
    const KILLS: usize = 50;
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let data = data_set(at, 24);
    // A volume that fails is tried again by every run that takes up another.
    std::fs::write(data.path(&data.volumes[13]), b"\x1f\x8b no volume").unwrap();
    let start = Instant::now();
    assert_eq!(spawn(at, "undisturbed").wait().unwrap().code(), Some(1));
    let duration = start.elapsed();
    let undisturbed = files(&at.join("undisturbed"));
    assert_eq!(names(&at.join("undisturbed")), ["ap.safetensors", "lateral.safetensors", "manifest.csv"]);

    let mut random = 2026u64;
    let (mut kills, mut under_way, mut ends) = (0, 0, 0);
    while kills < KILLS {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let share = (random >> 33) as f64 / (1u64 << 31) as f64;
        let mut child = spawn(at, "out");
        std::thread::sleep(duration.mul_f64(1.1 * share));
        child.kill().unwrap();
        let status = child.wait().unwrap();
        match status.code() {
            None => {
                kills += 1;
                under_way +=
                    usize::from(std::fs::metadata(at.join("out/unfinished/journal")).is_ok_and(|m| m.len() > 200));
            }
            // It was done before the kill: another one from the start, but leave some to be run again as they are.
            Some(code) => {
                assert_eq!(code, 1);
                assert!(files(&at.join("out")) == undisturbed, "after {kills} kills");
                ends += 1;
                if ends % 3 != 0 {
                    std::fs::remove_dir_all(at.join("out")).unwrap();
                }
            }
        }
    }
    assert_eq!(spawn(at, "out").wait().unwrap().code(), Some(1));
    assert!(files(&at.join("out")) == undisturbed, "after all {kills} kills");
    println!(
        "{kills} kills, {under_way} of them with volumes finished and others not; {ends} runs ended between them; \
         a run takes {duration:.2?}"
    );
    assert!(under_way >= 5, "only {under_way} of {kills} kills came while volumes were under way");
}

#[test]
fn a_torn_journal_and_damaged_pixels_are_done_again() {
    let folder = tempfile::tempdir().unwrap();
    let (data, path) = (data_set(folder.path(), 5), |name: &str| folder.path().join(name));
    make(&data, &path("whole"), &options()).unwrap();
    let whole = files(&path("whole"));
    stopped(&data, &path("stopped"), 3);
    let state = files(&path("stopped/unfinished"));
    let journal = &state[Path::new("journal")];
    let line_ends: Vec<usize> = (0..journal.len()).filter(|&i| journal[i] == b'\n').collect();
    assert_eq!(line_ends.len(), 4, "a header and three volumes");
    let out = path("out");
    let put = |journal: &[u8], pixels: &dyn Fn(&mut Vec<u8>)| {
        let _ = std::fs::remove_dir_all(&out);
        std::fs::create_dir_all(out.join("unfinished")).unwrap();
        for (name, bytes) in &state {
            let mut bytes = bytes.clone();
            if name == Path::new("ap.pixels") {
                pixels(&mut bytes);
            }
            let bytes = if name == Path::new("journal") { journal } else { &bytes };
            std::fs::write(out.join("unfinished").join(name), bytes).unwrap();
        }
    };
    // Cut anywhere: the whole lines before the cut count.
    let cuts = (0..journal.len()).step_by(41).chain(line_ends.iter().flat_map(|&end| [end, end + 1]));
    for cut in cuts {
        put(&journal[..cut], &|_| {});
        let lines = line_ends.iter().filter(|&&end| end < cut).count();
        assert_eq!(resumed(&data, &out), lines.saturating_sub(1), "cut at {cut}");
        assert!(files(&out) == whole, "cut at {cut}");
    }
    // A byte changed: that line and all after it are gone.
    for at in [3, line_ends[0] + 30, line_ends[1] + 5, line_ends[2] + 200] {
        let mut changed = journal.clone();
        changed[at] ^= 1;
        put(&changed, &|_| {});
        let line = line_ends.iter().filter(|&&end| end < at).count();
        assert_eq!(resumed(&data, &out), line.saturating_sub(1), "changed at {at}");
        assert!(files(&out) == whole);
    }
    // Pixels that did not reach the disk, in part or at all, whatever the journal says.
    let image = SIZE[0] * SIZE[1];
    let damage: [(&dyn Fn(&mut Vec<u8>), usize); 3] = [
        (&|pixels| pixels.truncate(0), 0),
        (&|pixels| pixels.fill(0), 0),
        (
            &|pixels| {
                let some = pixels.iter().position(|&v| v > 0).unwrap();
                pixels[some] ^= 1
            },
            2,
        ),
    ];
    for (damage, left) in damage {
        put(journal, damage);
        assert!(image > 0 && resumed(&data, &out) == left);
        assert!(files(&out) == whole);
    }
}

#[test]
fn another_run_in_the_folder_is_refused_and_restart_replaces_it() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (data_set(folder.path(), 4), folder.path().join("out"));
    stopped(&data, &out, 2);
    let other = IngestOptions { views: vec![Projection::Ap], ..options() };
    let error = make(&data, &out, &other).unwrap_err().to_string();
    assert!(error.contains("out/unfinished: is of a run with other options") && error.contains("--restart"), "{error}");
    assert_eq!(resumed(&data, &out), 2);
    // Finished: other options, other volumes, and the very same.
    let error = make(&data, &out, &other).unwrap_err().to_string();
    assert!(
        error.contains("out/ap.safetensors: was made with other options") && error.contains("--restart"),
        "{error}"
    );
    let fewer = CtRate { volumes: data.volumes[..3].to_vec(), ..data.clone() };
    assert!(make(&fewer, &out, &options()).unwrap_err().to_string().contains("of other volumes"));
    let modified = || std::fs::metadata(out.join("ap.safetensors")).unwrap().modified().unwrap();
    let before = modified();
    assert_eq!((resumed(&data, &out), modified()), (4, before));
    make(&fewer, &out, &IngestOptions { restart: true, ..options() }).unwrap();
    assert_eq!(RadiographSet::read(&out.join("ap*")).unwrap().ids().len(), 3);
    assert_eq!(names(&out), ["ap.safetensors", "lateral.safetensors", "manifest.csv"]);

    // At work on it: the same run again, from within.
    let busy = folder.path().join("busy");
    let mut refused = String::new();
    let made = ingest(&Device::host(), &data, &busy, &options(), &AtomicBool::new(false), &mut |event| {
        if let Progress::Done(1) = event {
            refused = make(&data, &busy, &options()).unwrap_err().to_string();
        }
    });
    assert_eq!(made.unwrap().made, 4);
    assert!(refused.contains("busy/unfinished: another process is at work on it"), "{refused}");
}

#[test]
fn volumes_that_failed_are_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let (data, path) = (data_set(folder.path(), 5), |name: &str| folder.path().join(name));
    // Another shape and spacing than the rest is no failure.
    let shape = [9, 11, 7];
    let affine = Affine::centred(AxisCodes::RAS, [30.0, 25.0, 40.0], shape).unwrap();
    let voxels: Vec<i16> = (0..9 * 11 * 7).map(|i| (i % 91) as i16 * 20 - 1000).collect();
    nifti::write(data.path(&data.volumes[3]), &CtVolume::new(voxels.into(), shape, affine).unwrap()).unwrap();
    make(&data, &path("whole"), &options()).unwrap();
    let [corrupt, vanished] = [1, 2].map(|i| data.path(&data.volumes[i]));
    let bytes = [&corrupt, &vanished].map(|path| std::fs::read(path).unwrap());
    std::fs::write(&corrupt, &bytes[0][..100]).unwrap();
    std::fs::remove_file(&vanished).unwrap();
    let made = make(&data, &path("out"), &options()).unwrap();
    assert_eq!((made.made, made.failed.len()), (3, 2));
    let manifest = std::fs::read_to_string(&made.manifest).unwrap();
    let rows: Vec<&str> = manifest.lines().collect();
    assert!(rows[0].starts_with("volume,status,file,file_bytes,file_blake3,shape,spacing_mm,axis_codes,orientation,"));
    let end = ",preprocessing_digest,blake3_lateral,blake3_ap,error,warnings,manifest_version";
    assert!(rows[0].ends_with(end), "{}", rows[0]);
    assert!(rows[2].starts_with("train_2_a_1,failed,dataset/train_fixed/train_2/") && rows[2].contains("truncated"));
    assert!(rows[3].starts_with("train_3_a_1,failed,") && rows[3].contains("cannot read"));
    assert!(rows[4].contains(",9x11x7,30x25x40,RAS,sform,1,0,already-hu,"), "{}", rows[4]);
    // Its two files are well again; the others are not read a second time.
    for (path, bytes) in [(&corrupt, &bytes[0]), (&vanished, &bytes[1])] {
        std::fs::write(path, bytes).unwrap();
    }
    let untouched = data.path(&data.volumes[0]);
    std::fs::rename(&untouched, path("elsewhere")).unwrap();
    assert_eq!(resumed(&data, &path("out")), 3);
    assert!(files(&path("out")) == files(&path("whole")));
    // The disk is gone under way: that is no row of the manifest.
    std::fs::rename(path("elsewhere"), &untouched).unwrap();
    let volumes = folder.path().join("dataset/train_fixed");
    let gone = ingest(&Device::host(), &data, &path("gone"), &options(), &AtomicBool::new(false), &mut |event| {
        if let Progress::Resumed(_) = event {
            std::fs::rename(&volumes, path("away")).unwrap();
        }
    });
    let error = gone.map(drop).unwrap_err().to_string();
    assert!(error.contains("dataset/train_fixed: cannot read the folder"), "{error}");
    std::fs::rename(path("away"), &volumes).unwrap();
    make(&data, &path("gone"), &options()).unwrap();
    assert!(files(&path("gone")) == files(&path("whole")));
}

/// A CT exchanged for another is made again, and no other.
#[test]
fn a_volume_that_changed_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let data = data_set(folder.path(), 3);
    let out = folder.path().join("out");
    make(&data, &out, &options()).unwrap();
    let images = |path: &Path| {
        let set = RadiographSet::read(&path.join("ap.safetensors")).unwrap();
        [0, 1, 2].map(|i| set.image(i).to_vec())
    };
    let before = images(&out);
    std::fs::copy(data.path(&data.volumes[2]), data.path(&data.volumes[1])).unwrap();
    assert_eq!(resumed(&data, &out), 2);
    let after = images(&out);
    assert_eq!(after, [&before[0], &before[2], &before[2]].map(Clone::clone));
    // Touched but equal, all stands.
    let path = data.path(&data.volumes[0]);
    std::fs::write(&path, std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(resumed(&data, &out), 3);
    // A volume that was archived away since stands as it was.
    std::fs::remove_file(&path).unwrap();
    assert_eq!(resumed(&data, &out), 3);
}

#[test]
fn shards_are_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    let (data, path) = (data_set(folder.path(), 7), |name: &str| folder.path().join(name));
    make(&data, &path("whole"), &options()).unwrap();
    for i in [3, 1, 2] {
        make(&data, &path("shards"), &IngestOptions { shard: [i, 3], ..options() }).unwrap();
    }
    let at = |name: &str| path("shards").join(name);
    let (whole, shards) = (
        RadiographSet::read(&path("whole/ap.safetensors")).unwrap(),
        RadiographSet::read(&at("ap-*.safetensors")).unwrap(),
    );
    assert_eq!((whole.ids(), whole.source(), whole.view()), (shards.ids(), shards.source(), "ap"));
    assert!((0..7).all(|i| whole.image(i) == shards.image(i)));
    shards.verify().unwrap();
    let rows =
        |name: &str| std::fs::read_to_string(name).unwrap().lines().skip(1).map(String::from).collect::<Vec<_>>();
    let manifest = |name: &str| rows(path(name).to_str().unwrap());
    let joined = [1, 2, 3].map(|i| manifest(&format!("shards/manifest-{i}-of-3.csv"))).concat();
    assert_eq!(joined, manifest("whole/manifest.csv"));

    let refuse = |name: &str| RadiographSet::read(&at(name)).map(drop).unwrap_err().to_string();
    assert!(refuse("").contains("is of another set than"), "{}", refuse(""));
    assert!(refuse("sagittal*").contains("no .safetensors file is there"));
    std::fs::rename(at("ap-2-of-3.safetensors"), path("kept")).unwrap();
    assert!(refuse("ap*").contains("ap-3-of-3.safetensors: is shard 3 of 3, where shard 2 of 3"), "{}", refuse("ap*"));
    assert!(refuse("ap-1-of-3.safetensors").contains("shard 2 of 3 is missing"));
    // One byte of a radiograph: opening does not read it, using it does.
    let mut bytes = std::fs::read(path("kept")).unwrap();
    let image = bytes.windows(SIZE[0] * SIZE[1]).position(|window| window == whole.image(3)).unwrap();
    bytes[image + 7] ^= 4;
    std::fs::write(at("ap-2-of-3.safetensors"), bytes).unwrap();
    let damaged = RadiographSet::read(&at("ap*")).unwrap();
    for error in [damaged.verify().unwrap_err(), damaged.upload(&Device::host()).map(drop).unwrap_err()] {
        let says = format!("ap-2-of-3.safetensors: {}: was changed or damaged", whole.ids()[3]);
        assert!(error.to_string().contains(&says), "{error}");
    }
}

#[test]
fn bf16_holds_finer_greys_and_training_takes_it() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (data_set(folder.path(), 3), folder.path().join("out"));
    let projection = RadiographOptions { mode: x2ct::ct::Mode::Attenuation, ..Default::default() };
    let made =
        make(&data, &out, &IngestOptions { pixel: PixelType::Bf16, projection: projection.clone(), ..options() });
    assert_eq!(made.unwrap().made, 3);
    let set = RadiographSet::read(&out.join("ap.safetensors")).unwrap();
    for (i, row) in data.volumes.iter().enumerate() {
        let image = radiograph(&Device::host(), &nifti::read(data.path(row)).unwrap(), &projection).unwrap();
        let (low, high) = image.limits();
        // The 8-bit image is the reference for the geometry: it differs by its two roundings, and bf16 by 1/512.
        let bytes = pixels::encode(&image.pixels, [image.height, image.width], SIZE, PixelType::U8);
        let grey = set.grey(i);
        assert!(high > low && grey.iter().all(|v| (0.0..=1.0).contains(v)));
        for (byte, grey) in bytes.iter().zip(&grey) {
            assert!((f32::from(*byte) / 255.0 - grey).abs() < 1.6 / 255.0 + 1.0 / 512.0, "{byte} and {grey}");
        }
        assert!(
            grey.iter().all(|&v| bf16::from_f32(v).to_f32() == v) && grey.iter().any(|v| (v * 255.0).fract() > 0.1)
        );
    }
    let joined = TrainingSet::join(&Device::host(), &set, &cache(&phantoms(3), &data).unwrap()).unwrap();
    assert_eq!((joined.images.len(), joined.images.size()), (3, SIZE));
}

#[test]
fn both_ways_to_an_original_volume_give_one_radiograph() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let mut data = data_set(at, 1);
    data.hu_source = HuSource::CsvRescale;
    let row = &mut data.volumes[0];
    let fixed = nifti::read(row.name.path(at, HuSource::AlreadyHu)).unwrap();
    let Voxels::I16(hu) = &fixed.voxels else { panic!("phantoms are int16") };
    let stored: Vec<i16> = hu.iter().map(|v| v + 1024).collect();
    // A header that is wrong in every respect.
    let affine = Affine::centred(AxisCodes::RAS, [1.0; 3], fixed.shape).unwrap();
    let path = row.name.path(at, HuSource::CsvRescale);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    nifti::write(&path, &CtVolume { voxels: stored.into(), affine, slope: 3.0, intercept: 7.0, ..fixed }).unwrap();
    row.acquisition.as_mut().unwrap().intercept = -1024.0;
    data.write("phantom").unwrap();
    let data = CtRate::read(at, Split::Train, HuSource::CsvRescale).unwrap();
    let packed = RadiographSet::read(&make(&data, &at.join("out"), &options()).unwrap().files[1]).unwrap();
    let file = "dataset/train/train_1/train_1_a/train_1_a_1.nii.gz";
    let output =
        x2ct(at, &format!("drr {file} --hu-source csv --metadata dataset/metadata/train_metadata.csv --out one.nii"));
    assert!(output.status.success(), "{}", said(&output));
    let one = x2ct::ct::image::read(at.join("one.nii")).unwrap();
    assert_eq!(packed.image(0), pixels::encode(&one.pixels, [one.height, one.width], SIZE, PixelType::U8));
}

#[test]
fn pictures_of_a_data_set_are_whole_or_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    data_set(at, 3);
    let run = "drr --dataset . --split train --size 20x24 --pictures png --out out";
    assert!(x2ct(at, run).status.success());
    let whole = files(&at.join("out"));
    assert_eq!(whole.len(), 2 + 3);
    std::fs::remove_file(at.join("out/ap/train_2_a_1.png")).unwrap();
    assert!(x2ct(at, run).status.success());
    assert!(files(&at.join("out")) == whole);
    // Without pictures it is another run.
    let output = x2ct(at, "drr --dataset . --split train --size 20x24 --out out");
    assert!(!output.status.success() && said(&output).contains("other options"), "{}", said(&output));
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_says_how_to_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    data_set(at, 40);
    let mut child = std::process::Command::new(crate::support::program())
        .args(RUN.split(' ').chain(["out"]))
        .current_dir(at)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let journal = at.join("out/unfinished/journal");
    let start = Instant::now();
    while !std::fs::metadata(&journal).is_ok_and(|m| m.len() > 1000) {
        assert!(start.elapsed() < Duration::from_secs(60) && child.try_wait().unwrap().is_none(), "nothing done");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", said(&output));
    assert!(said(&output).contains("of 40 volumes; the same command goes on from there"), "{}", said(&output));
    let resumed = x2ct(at, &format!("{RUN} out"));
    assert!(
        resumed.status.success() && said(&resumed).contains("of 40 volumes are there already"),
        "{}",
        said(&resumed)
    );
    assert!(x2ct(at, &format!("{RUN} whole")).status.success());
    assert!(files(&at.join("out")) == files(&at.join("whole")));
}

/// A shell that runs `x2ct drr` after `before`.
#[cfg(unix)]
fn shell(at: &Path, before: &str, out: &str) -> Output {
    let script = format!("{before} exec '{}' {RUN} {out}", crate::support::program().display());
    Command::new("sh").args(["-c", &script]).current_dir(at).output().unwrap()
}

#[cfg(unix)]
#[test]
fn a_disk_that_takes_no_more_leaves_no_half_file() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    data_set(at, 12);
    assert!(shell(at, "", "whole").status.success());
    let whole = files(&at.join("whole"));
    // Files may grow to so many blocks of 512 bytes, then writing fails: in the journal, in the pixels, in packing.
    let mut outcomes = Vec::new();
    for blocks in [0, 1, 4, 9, 11] {
        let output = shell(at, &format!("trap '' XFSZ; ulimit -f {blocks};"), "out");
        let lines = said(&output);
        outcomes.push(output.status.code());
        if !output.status.success() {
            assert!(output.status.code() == Some(1) && lines.contains("x2ct: out/"), "{blocks}: {lines}");
            assert!(
                names(&at.join("out"))
                    .iter()
                    .all(|name| whole.contains_key(Path::new(name)) || name.starts_with("unfinished/"))
            );
        }
    }
    assert!(outcomes.contains(&Some(1)), "{outcomes:?}");
    assert!(shell(at, "", "out").status.success());
    assert!(files(&at.join("out")) == whole);

    // A disk that is really full, where this machine lets us have one.
    let disk = at.join("disk");
    std::fs::create_dir(&disk).unwrap();
    let mount =
        std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=24k", "tmpfs"]).arg(&disk).output();
    if !mount.is_ok_and(|output| output.status.success()) {
        println!("SKIPPED a full disk: this machine mounts none; the limit on file sizes was tried");
        return;
    }
    let output = shell(at, "", "disk/out");
    let (code, lines, left) = (output.status.code(), said(&output), names(&disk));
    let remount = std::process::Command::new("mount").args(["-o", "remount,size=4m"]).arg(&disk).status();
    let healed = shell(at, "", "disk/out");
    let found = files(&disk.join("out"));
    let unmounted = std::process::Command::new("umount").arg(&disk).status();
    assert!(code == Some(1) && lines.contains("free some space and run again"), "{lines}");
    assert!(left.iter().all(|name| name.starts_with("out/unfinished/")), "{left:?}");
    assert!(remount.unwrap().success() && healed.status.success() && unmounted.unwrap().success(), "{}", said(&healed));
    assert!(found == whole);
}

#[cfg(unix)]
#[test]
fn a_folder_that_may_not_be_written_is_named() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    data_set(at, 1);
    let closed = at.join("closed");
    std::fs::create_dir(&closed).unwrap();
    let allow = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    allow(&closed, 0o555);
    allow(at, 0o755);
    let mut command = std::process::Command::new(crate::support::program());
    command.args(RUN.split(' ').chain(["closed/out"])).current_dir(at);
    // Permissions do not bind the superuser.
    let superuser = std::fs::write(closed.join("probe"), b"").is_ok();
    if superuser {
        command.uid(65534).gid(65534);
    }
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => return println!("SKIPPED: another user cannot run x2ct: {error}"),
    };
    let lines = said(&output);
    assert!(output.status.code() == Some(1) && lines.contains("closed/out: cannot create the folder"), "{lines}");
    assert!(lines.contains("check the permissions"), "{lines}");
}
