//! Prepared volumes: what is stored comes back in the model's order, from memory, from files and from one file.

use std::path::Path;
use std::sync::Arc;

use safetensors::Dtype;
use serde_json::json;
use x2ct::Device;
use x2ct::archive::TensorStream;
use x2ct::ct::Preset;
use x2ct::data::volumes::{self, VolumeLoader, VolumeSet};
use x2ct::tensor::DType;

/// Depth, height, width; more than one block of the transposition, and none a whole one.
const SHAPE: [usize; 3] = [5, 9, 11];
const VOXELS: usize = 5 * 9 * 11;

fn ids() -> Vec<String> {
    ["train_1_a_1", "train_2_a_1", "train_2_a_2"].map(String::from).to_vec()
}

/// Every voxel of every volume another value.
fn voxel(volume: usize, z: usize, x: usize, y: usize) -> f32 {
    (volume * 64 + z) as f32 - (x * 16 + y) as f32 / 256.0
}

fn stored(volume: usize, dtype: DType) -> Vec<u8> {
    let [depth, height, width] = SHAPE;
    let all = (0..depth).flat_map(|z| (0..height).flat_map(move |x| (0..width).map(move |y| voxel(volume, z, x, y))));
    match dtype {
        DType::F32 => all.flat_map(f32::to_le_bytes).collect(),
        DType::Bf16 => all.flat_map(|v| half::bf16::from_f32(v).to_le_bytes()).collect(),
    }
}

fn preset() -> Preset {
    // Values as they come: [`voxel`] is no Hounsfield unit.
    Preset { size: None, window: None, pre_clip: None, ..Preset::dcformer() }
}

fn in_memory(dtype: DType) -> VolumeSet {
    let bytes = (0..3).flat_map(|i| stored(i, dtype)).collect();
    VolumeSet::new(ids(), SHAPE, dtype, bytes, preset()).unwrap()
}

/// As `x2ct preprocess` writes it.
fn write_one(path: &Path, dtype: DType, data: &[u8], preset: &Preset, shape: [usize; 4]) {
    write_of(path, dtype, data, preset, shape, None);
}

/// The same, with the digest of the CT it was made of.
fn write_of(path: &Path, dtype: DType, data: &[u8], preset: &Preset, shape: [usize; 4], ct: Option<String>) {
    let mut metadata = vec![("preset", json!(preset).to_string()), ("preset_digest", preset.digest())];
    metadata.extend(ct.map(|ct| ("ct_digest", ct)));
    let kind = if dtype == DType::F32 { Dtype::F32 } else { Dtype::BF16 };
    let mut stream = TensorStream::create(path, volumes::ONE, &metadata, "volume", kind, &shape).unwrap();
    stream.append(data).unwrap();
    stream.finish().unwrap();
}

fn folder_of(at: &Path, dtype: DType) {
    for (i, id) in ids().iter().enumerate() {
        let path = at.join(format!("{id}.safetensors"));
        write_one(&path, dtype, &stored(i, dtype), &preset(), [1, SHAPE[0], SHAPE[1], SHAPE[2]]);
    }
}

/// A set knows the CTs it was made of if every volume does, in a folder and packed, and another CT is another content.
#[test]
fn a_set_names_the_cts_it_was_made_of() {
    let folder = tempfile::tempdir().unwrap();
    let write = |i: usize, ct: Option<&str>| {
        let path = folder.path().join(format!("{}.safetensors", ids()[i]));
        let shape = [1, SHAPE[0], SHAPE[1], SHAPE[2]];
        write_of(&path, DType::F32, &stored(i, DType::F32), &preset(), shape, ct.map(|ct| ct.repeat(64)));
    };
    let read = || VolumeSet::read(folder.path()).unwrap().provenance().unwrap();
    (0..3).for_each(|i| write(i, Some("a")));
    let all = read();
    assert!(all.from["ct"].known && all.from["ct"].rows == 3 && all.undecided("volumes").is_empty());
    let packed = folder.path().join("packed");
    VolumeSet::read(folder.path()).unwrap().write(&packed).unwrap();
    assert_eq!(VolumeSet::read(&packed).unwrap().provenance().unwrap(), all);
    write(1, Some("b"));
    let other = read();
    assert!(other.digest == all.digest && other.from["ct"].digest != all.from["ct"].digest);
    write(1, None);
    assert!(read().from.is_empty() && read().known, "one without: nothing is claimed of the set");
}

#[test]
fn volumes_come_back_in_the_models_order_wherever_they_are_stored() {
    let (device, folder) = (Device::host(), tempfile::tempdir().unwrap());
    for dtype in [DType::F32, DType::Bf16] {
        let files = folder.path().join(dtype.name());
        std::fs::create_dir(&files).unwrap();
        folder_of(&files, dtype);
        std::fs::write(files.join(".unfinished.safetensors"), b"x").unwrap();
        let packed = folder.path().join(format!("{}.safetensors", dtype.name()));
        VolumeSet::read(&files).unwrap().write(&packed).unwrap();
        for set in [in_memory(dtype), VolumeSet::read(&files).unwrap(), VolumeSet::read(&packed).unwrap()] {
            assert_eq!((set.ids(), set.shape(), set.dtype()), (&ids()[..], SHAPE, dtype));
            assert_eq!(set.preprocessing_digest(), preset().digest());
            let loaded = set.load(&device, &[2, 0]).unwrap();
            let [depth, height, width] = SHAPE;
            assert_eq!(loaded.shape()[..], [2, 1, height, width, depth]);
            let values = loaded.to_vec().unwrap();
            for (place, volume) in [2, 0].into_iter().enumerate() {
                for (x, y, z) in
                    (0..height).flat_map(|x| (0..width).flat_map(move |y| (0..depth).map(move |z| (x, y, z))))
                {
                    let at = ((place * height + x) * width + y) * depth + z;
                    // Rounded once, when it was stored.
                    let want = voxel(volume, z, x, y);
                    let want = if dtype == DType::F32 { want } else { half::bf16::from_f32(want).to_f32() };
                    assert_eq!(values[at], want, "volume {volume} at {x} {y} {z}");
                }
            }
            assert!(set.load(&device, &[3]).unwrap_err().to_string().contains("no volume 3 among 3"));
        }
        let one = VolumeSet::read(&files.join("train_2_a_1.safetensors")).unwrap();
        assert_eq!(one.ids(), ["train_2_a_1"]);
    }
}

#[test]
fn what_no_chest_ct_comes_out_as_is_not_loaded() {
    let (device, folder) = (Device::host(), tempfile::tempdir().unwrap());
    for dtype in [DType::F32, DType::Bf16] {
        let bytes = |value: f32| match dtype {
            DType::F32 => value.to_le_bytes().to_vec(),
            DType::Bf16 => half::bf16::from_f32(value).to_le_bytes().to_vec(),
        };
        let mut infinite = stored(1, dtype);
        let at = infinite.len() - dtype.size();
        infinite[at..].copy_from_slice(&bytes(f32::NEG_INFINITY));
        let mut not_a_number = stored(1, dtype);
        not_a_number[..dtype.size()].copy_from_slice(&bytes(f32::NAN));
        // Two zeros that differ in a bit.
        let zeros: Vec<u8> = (0..VOXELS).flat_map(|i| bytes(if i % 3 == 0 { -0.0 } else { 0.0 })).collect();
        for (data, says) in [
            (bytes(0.5).repeat(VOXELS), "is one value everywhere"),
            (zeros, "is one value everywhere"),
            (infinite, "has 1 voxels that are not finite"),
            (not_a_number, "has 1 voxels that are not finite"),
        ] {
            folder_of(folder.path(), dtype);
            let path = folder.path().join("train_2_a_1.safetensors");
            write_one(&path, dtype, &data, &preset(), [1, SHAPE[0], SHAPE[1], SHAPE[2]]);
            let set = VolumeSet::read(folder.path()).unwrap();
            assert!(set.load(&device, &[0, 2]).is_ok(), "the others are sound");
            let error = set.load(&device, &[1]).unwrap_err().to_string();
            assert!(error.contains(says) && error.contains("train_2_a_1.safetensors"), "{error}");
            // Nor does it get into a packed file.
            let packed = folder.path().join("packed");
            assert!(set.write(&packed).unwrap_err().to_string().contains(says));
            assert!(!packed.exists());
        }
    }
}

/// A preset with a window gives -1 to 1, and its padding; one that clips gives what it clips to.
#[test]
fn values_that_the_preset_does_not_give_are_not_loaded() {
    let device = Device::host();
    let load = |preset: Preset, dtype: DType, extremes: [f32; 2]| {
        let voxels = (0..VOXELS).map(|i| extremes[i % 2]);
        let bytes = match dtype {
            DType::F32 => voxels.flat_map(f32::to_le_bytes).collect(),
            DType::Bf16 => voxels.flat_map(|v| half::bf16::from_f32(v).to_le_bytes()).collect(),
        };
        let set = VolumeSet::new(vec!["a".into()], SHAPE, dtype, bytes, preset).unwrap();
        set.load(&device, &[0]).map(drop).map_err(|e| e.to_string())
    };
    let hu = Preset { window: None, ..Preset::dcformer() };
    let padded = Preset { pad: -2.0, ..Preset::dcformer() };
    for (preset, extremes, refused) in [
        (Preset::dcformer(), [-1.0, 1.0], None),
        (Preset::dcformer(), [-1.0, 1.0078125], None),
        (Preset::dcformer(), [-1.0, 1.5], Some("a: has values from -1 to 1.5, and preset dcformer gives -1 to 1")),
        (Preset::dcformer(), [-1000.0, 1.0], Some("a: has values from -1000 to 1, and preset dcformer gives -1 to 1")),
        (padded, [-2.0, 1.0], None),
        (hu.clone(), [-1000.0, 1000.0], None),
        (hu, [-1000.0, 3072.0], Some("a: has values from -1000 to 3072, and preset dcformer gives -1000 to 1000")),
        (preset(), [-4096.0, 4096.0], None),
    ] {
        for dtype in [DType::F32, DType::Bf16] {
            let loaded = load(preset.clone(), dtype, extremes);
            match refused {
                None => assert_eq!(loaded, Ok(())),
                Some(says) => assert!(loaded.as_ref().is_err_and(|e| e.contains(says)), "{loaded:?}"),
            }
        }
    }
}

#[test]
fn reading_ahead_changes_nothing() {
    let device = Device::host();
    let loader = VolumeLoader::new(&device, Arc::new(in_memory(DType::F32)));
    let plain = |rows: &[u32]| in_memory(DType::F32).load(&device, rows).unwrap().to_vec().unwrap();
    loader.ahead(&[1, 2]);
    loader.ahead(&[0]); // one waits already
    assert_eq!(loader.load(&[1, 2]).unwrap().to_vec().unwrap(), plain(&[1, 2]));
    loader.ahead(&[1]);
    assert_eq!(loader.load(&[0, 2]).unwrap().to_vec().unwrap(), plain(&[0, 2]), "what was not expected");
    assert_eq!(loader.load(&[1]).unwrap().to_vec().unwrap(), plain(&[1]), "nothing ahead");
    loader.ahead(&[7]);
    assert!(loader.load(&[7]).unwrap_err().to_string().contains("no volume 7"));
    assert_eq!(loader.load(&[2]).unwrap().to_vec().unwrap(), plain(&[2]), "after a failure");
    drop(loader);
}

#[test]
fn what_is_no_set_is_refused_and_damage_is_found_when_it_is_read() {
    let (device, folder) = (Device::host(), tempfile::tempdir().unwrap());
    let at = folder.path();
    let refused = |path: &Path| VolumeSet::read(path).map(drop).unwrap_err().to_string();
    assert!(refused(at).contains("no .safetensors file is there"));
    assert!(refused(&at.join("absent")).contains("absent"));

    folder_of(at, DType::F32);
    let last = at.join("train_2_a_2.safetensors");
    let whole = std::fs::read(&last).unwrap();
    let set = VolumeSet::read(at).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() - 5] ^= 4;
    std::fs::write(&last, &flipped).unwrap();
    assert!(set.load(&device, &[0, 1]).is_ok(), "the others are whole");
    let error = set.load(&device, &[0, 2]).unwrap_err().to_string();
    assert!(error.contains("train_2_a_2.safetensors") && error.contains("was changed or damaged"), "{error}");
    std::fs::write(&last, &whole[..whole.len() / 2]).unwrap();
    assert!(refused(at).contains("train_2_a_2.safetensors"), "cut short");

    let [depth, height, width] = SHAPE;
    let data = stored(0, DType::F32);
    let other = |preset: &Preset, shape: [usize; 4]| {
        write_one(&last, DType::F32, &data, preset, shape);
        refused(at)
    };
    let error = other(&preset(), [1, depth, width, height]);
    assert!(error.contains("train_2_a_2") && error.contains("with one preset and type"), "{error}");
    let error = other(&Preset { size: None, ..Preset::dcformer_code() }, [1, depth, height, width]);
    assert!(error.contains("of preset dcformer-code") && error.contains("of preset dcformer"), "{error}");
    assert!(other(&Preset::x2ct(), [1, depth, height, width]).contains("DCFormer takes z, x, y"));
    write_one(&last, DType::F32, &data, &preset(), [1, depth, height, width]);

    let packed = at.join("packed");
    VolumeSet::read(at).unwrap().write(&packed).unwrap();
    let mut bytes = std::fs::read(&packed).unwrap();
    let middle = bytes.len() - VOXELS * 4 * 2 + 9;
    bytes[middle] ^= 1;
    std::fs::write(&packed, &bytes).unwrap();
    let set = VolumeSet::read(&packed).unwrap();
    assert!(set.load(&device, &[0]).is_ok());
    assert!(set.load(&device, &[1]).unwrap_err().to_string().contains("row 1 of volume was changed or damaged"));
    std::fs::write(&packed, &bytes[..bytes.len() - 1]).unwrap();
    assert!(refused(&packed).contains("packed"));

    let new = |ids: &[&str], bytes| {
        let ids = ids.iter().map(|id| id.to_string()).collect();
        VolumeSet::new(ids, SHAPE, DType::F32, bytes, preset()).map(drop).unwrap_err().to_string()
    };
    assert!(new(&["a"], vec![0; 7]).contains("7 bytes for 1 volumes"));
    assert!(new(&["a", "a"], vec![0; 2 * VOXELS * 4]).contains("the id a occurs twice"));
    assert!(new(&[], Vec::new()).contains("at least one"));
}
