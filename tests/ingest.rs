//! A data set's volumes to radiographs: the pixels, both sources of HU, volumes that cannot be used, interruption.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use x2ct::ct::{Affine, AxisCodes, CtVolume, RadiographOptions, Voxels, nifti, radiograph};
use x2ct::data::ct_rate::{CtRate, HuSource, Split};
use x2ct::data::ingest::{IngestOptions, Ingested, Progress, ingest};
use x2ct::data::phantom::{PhantomDataset, cache, write_dataset};
use x2ct::data::pixels;
use x2ct::data::radiographs::RadiographSet;
use x2ct::{Device, Error};

const SIZE: [usize; 2] = [24, 20];

fn phantoms() -> PhantomDataset {
    PhantomDataset { seed: 5, train: 5, valid: 0, shape: [20, 18, 16], spacing: [16.0; 3], ..Default::default() }
}

fn data_set(root: &Path) -> CtRate {
    write_dataset(root, &phantoms(), &|_, _| Ok(())).unwrap().remove(0)
}

/// The radiographs of a split, in `out`.
fn make(data: &CtRate, out: &Path) -> x2ct::Result<(Ingested, RadiographSet)> {
    let options = IngestOptions { size: SIZE, ..Default::default() };
    let made = ingest(&Device::host(), data, out, &options, &AtomicBool::new(false), &mut |_| {})?;
    let set = RadiographSet::read(&made.files[0])?;
    Ok((made, set))
}

#[test]
fn images_are_resized_as_torchvision_does() {
    let image = |h: usize, w: usize| -> Vec<u8> {
        (0..h * w).map(|i| ((37 * (i / w) + 11 * (i % w) + 5 * (i / w) * (i % w)) % 251) as u8).collect()
    };
    // torch.nn.functional.interpolate(mode="bilinear", antialias=True) of the shorter side, torchvision's centre crop.
    let tall = [
        28.401, 49.966, 75.463, 97.027, 89.952, 123.605, 163.395, 155.961, 161.426, 165.233, 114.786, 94.885, 127.964,
        66.042, 124.645, 162.824,
    ];
    let wide = [
        27.163, 48.321, 73.857, 99.393, 89.189, 122.435, 162.56, 154.368, 158.94, 169.277, 117.431, 95.778, 151.129,
        65.301, 107.955, 152.455,
    ];
    let much_smaller = [
        123.692, 123.009, 123.636, 123.734, 123.258, 125.617, 125.341, 123.931, 125.617, 126.071, 123.799, 125.32,
        124.727, 122.617, 123.498,
    ];
    let larger = [0.0, 4.812, 11.688, 18.562, 25.438, 32.312, 39.188, 44.0];
    let cases: [([usize; 2], [usize; 2], &[f64]); 4] = [
        ([9, 7], [4, 4], &tall),
        ([7, 9], [4, 4], &wide),
        ([301, 257], [5, 3], &much_smaller),
        ([5, 5], [8, 8], &larger),
    ];
    for (from, to, want) in cases {
        let got = pixels::fit(&image(from[0], from[1]), from, to);
        assert_eq!(got.len(), to[0] * to[1]);
        for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
            assert!((f64::from(got) - want).abs() <= 0.501, "{from:?} to {to:?}, pixel {i}: {got}, not {want}");
        }
    }
    let same = image(6, 11);
    assert_eq!(pixels::fit(&same, [6, 11], [6, 11]), same);
}

#[test]
fn radiographs_are_those_of_each_volume_whatever_the_source_of_hu() {
    let folder = tempfile::tempdir().unwrap();
    let data = data_set(folder.path());
    let (made, radiographs) = make(&data, &folder.path().join("out")).unwrap();
    assert!(made.failed.is_empty());
    assert_eq!(radiographs.ids(), ["train_1_a_1", "train_2_a_1", "train_3_a_1", "train_4_a_1", "train_5_a_1"]);
    for (i, row) in data.volumes.iter().enumerate() {
        let volume = nifti::read(data.path(row)).unwrap();
        let image = radiograph(&Device::host(), &volume, &RadiographOptions::default()).unwrap();
        // 1 mm: 16 voxels of 16 mm high, 20 wide.
        assert_eq!((image.height, image.width), (256, 320));
        let bytes = pixels::fit(&pixels::to_bytes(&image.pixels), [256, 320], SIZE);
        assert_eq!(radiographs.image(i), bytes);
        assert_ne!(radiographs.image(i), radiographs.image((i + 1) % 5));
    }
    // The same as the original release has it: other stored values, a header that is wrong in every respect.
    let mut original = CtRate { hu_source: HuSource::CsvRescale, ..data.clone() };
    for row in &mut original.volumes {
        let fixed = nifti::read(data.path(row)).unwrap();
        let Voxels::I16(hu) = &fixed.voxels else { panic!("phantoms are int16") };
        let stored = Voxels::I16(hu.iter().map(|v| 2 * (v + 1024)).collect());
        let affine = Affine::centred(AxisCodes::RAS, [1.0; 3], fixed.shape).unwrap();
        let path = row.name.path(folder.path(), HuSource::CsvRescale);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        nifti::write(path, &CtVolume { voxels: stored, affine, slope: 3.0, intercept: 7.0, ..fixed }).unwrap();
        let acquisition = row.acquisition.as_mut().unwrap();
        (acquisition.slope, acquisition.intercept) = (0.5, -1024.0);
    }
    original.write("phantom").unwrap();
    let read = CtRate::read(folder.path(), Split::Train, HuSource::CsvRescale).unwrap();
    let (_, by_table) = make(&read, &folder.path().join("original")).unwrap();
    assert!((0..5).all(|i| by_table.image(i) == radiographs.image(i)));
    assert_ne!(by_table.preprocessing_digest(), radiographs.preprocessing_digest());
}

#[test]
fn a_bad_volume_is_left_out_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let data = data_set(folder.path());
    let out = |name: &str| folder.path().join(name);
    let (_, whole) = make(&data, &out("whole")).unwrap();
    let [second, fourth] = [1, 3].map(|i| data.path(&data.volumes[i]));
    let bytes = std::fs::read(&second).unwrap();
    std::fs::write(&second, &bytes[..bytes.len() / 2]).unwrap();
    std::fs::remove_file(&fourth).unwrap();
    let (mut counts, mut named) = (Vec::new(), Vec::new());
    let options = IngestOptions { size: SIZE, ..Default::default() };
    let some = out("some");
    let made = ingest(&Device::host(), &data, &some, &options, &AtomicBool::new(false), &mut |event| match event {
        Progress::Done(done) => counts.push(done),
        Progress::Failed(name, _) => named.push(name.to_string()),
        Progress::Resumed(done) => assert_eq!(done, 0),
        Progress::Doubted(name, doubts) => panic!("{name}: {doubts:?}"),
    })
    .unwrap();
    assert_eq!(counts, [1, 2, 3, 4, 5]);
    named.sort();
    assert_eq!(named, ["train_2_a_1", "train_4_a_1"]);
    let set = RadiographSet::read(&some).unwrap();
    assert_eq!(set.ids(), ["train_1_a_1", "train_3_a_1", "train_5_a_1"]);
    assert_eq!(set.image(1), whole.image(2));
    let errors: Vec<String> = made.failed.iter().map(|(name, e)| format!("{name} {e}")).collect();
    assert!(errors[0].starts_with("train_2_a_1 ") && errors[0].contains("truncated"), "{}", errors[0]);
    assert!(errors[1].starts_with("train_4_a_1 ") && errors[1].contains("cannot read"), "{}", errors[1]);

    for row in &data.volumes {
        std::fs::write(data.path(row), b"nothing").unwrap();
    }
    let none = out("none");
    let made = ingest(&Device::host(), &data, &none, &options, &AtomicBool::new(false), &mut |_| {}).unwrap();
    assert_eq!((made.made, made.failed.len()), (0, 5));
    let error = RadiographSet::read(&none).map(drop).unwrap_err().to_string();
    assert!(error.contains("holds no radiograph"), "{error}");
    let original = CtRate { hu_source: HuSource::CsvRescale, ..data };
    let error = make(&original, &out("original")).map(drop).unwrap_err().to_string();
    assert!(error.contains("dataset/train: cannot read the folder") && error.contains("already-hu"), "{error}");
}

#[test]
fn a_phantom_set_goes_on_where_it_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let (root, set) = (folder.path(), phantoms());
    let once = |done: usize, _| if done == 2 { Err(Error::Interrupted("stopped".into())) } else { Ok(()) };
    assert!(write_dataset(root, &set, &once).is_err());
    let data = data_set(root);
    let all = |data: &CtRate| -> Vec<Vec<u8>> {
        data.volumes.iter().map(|row| std::fs::read(data.path(row)).unwrap()).collect()
    };
    let elsewhere = tempfile::tempdir().unwrap();
    let undisturbed = data_set(elsewhere.path());
    assert!(all(&data) == all(&undisturbed));
    assert_eq!(cache(&set, &data).unwrap(), cache(&set, &undisturbed).unwrap());

    // What is whole stays, what was damaged is made again, and a larger set keeps the patients it has.
    let [kept, damaged] = [0, 1].map(|i| data.path(&data.volumes[i]));
    let modified = |path: &Path| std::fs::metadata(path).unwrap().modified().unwrap();
    let before = modified(&kept);
    std::fs::write(&damaged, b"damaged").unwrap();
    let larger = write_dataset(root, &PhantomDataset { train: 6, ..set }, &|_, _| Ok(())).unwrap().remove(0);
    assert_eq!(modified(&kept), before);
    assert!(all(&larger)[..5] == all(&undisturbed));
    let (small, large) = (cache(&set, &data).unwrap(), cache(&set, &larger).unwrap());
    assert!(large.ids.len() == 6 && large.ct[..small.ct.len()] == small.ct);

    let error = write_dataset(root, &PhantomDataset { seed: 6, ..set }, &|_, _| Ok(())).unwrap_err().to_string();
    assert!(error.contains("phantom.json: is of a phantom set with other settings"), "{error}");
}
