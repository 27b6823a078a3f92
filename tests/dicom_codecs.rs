//! DICOM in compressed transfer syntaxes: `dicom_files`, written and read by `tools/make_dicom_cases.py`.

use std::path::{Path, PathBuf};

use dicom_core::value::DataSetSequence;
use dicom_core::{DataElement, PrimitiveValue, VR};
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;
use serde_json::Value;
use x2ct::ct::{self, CtVolume, HuSource, image};

const AREA: usize = 24 * 20;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dicom_files").join(name)
}

/// What pydicom reads.
fn expected(name: &str) -> Vec<f32> {
    let all: Value = serde_json::from_slice(&std::fs::read(file("expected.json")).unwrap()).unwrap();
    all[name].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

/// The slice of a file twice, the second 2.5 mm above the first.
fn pair(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(file(name), folder.path().join("1")).unwrap();
    let mut object = dicom_object::open_file(file(name)).unwrap();
    let above = PrimitiveValue::from("10\\20\\32.5");
    object.put(DataElement::new(tags::IMAGE_POSITION_PATIENT, VR::DS, above));
    object.write_to_file(folder.path().join("2")).unwrap();
    folder
}

fn stored(volume: &CtVolume) -> Vec<f32> {
    (0..volume.voxels.len()).map(|i| volume.voxels.get(i)).collect()
}

/// The largest difference.
fn farthest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |most, (a, b)| (a - b).abs().max(most))
}

#[test]
fn every_syntax_gives_the_values_of_pydicom() {
    for (name, values) in [
        ("deflated.dcm", "lossless"),
        ("big_endian.dcm", "lossless"),
        ("rle.dcm", "lossless"),
        ("jpeg_lossless.dcm", "lossless"),
        ("jpeg_lossless_sv1.dcm", "lossless"),
        ("jpeg_2000.dcm", "lossless"),
        ("jpeg_2000_ht.dcm", "lossless"),
        ("jpeg_2000_signed.dcm", "jpeg_2000_signed.dcm"),
        ("jpeg_2000_lossy.dcm", "jpeg_2000_lossy.dcm"),
        ("jpeg_baseline.dcm", "jpeg_baseline.dcm"),
        #[cfg(feature = "jpegls")]
        ("jpeg_ls.dcm", "lossless"),
    ] {
        let volume = ct::read(pair(name).path()).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!((volume.shape, volume.spacing()), ([20, 24, 2], [0.75, 0.5, 2.5]), "{name}");
        assert_eq!(volume.hu_scale(HuSource::AlreadyHu), (1.0, -1024.0));
        let (found, want) = (stored(&volume), expected(values));
        // Decoders of lossy JPEG round the inverse cosine transform each their own way; all others are exact.
        let most = if name == "jpeg_baseline.dcm" { 1.0 } else { 0.0 };
        assert!(farthest(&found[..AREA], &want) <= most && farthest(&found[AREA..], &want) <= most, "{name}");
    }
}

#[test]
fn an_enhanced_ct_is_a_volume_in_one_file() {
    let values = expected("enhanced");
    for name in ["enhanced_rle.dcm", "enhanced_jpeg_2000.dcm"] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(file(name), folder.path().join("only")).unwrap();
        for path in [file(name), folder.path().into()] {
            let volume = ct::read(&path).unwrap();
            // Its first frame is the upper one; left and posterior change sign.
            let rows = [[-0.75, 0.0, 0.0, -10.0], [0.0, -0.5, 0.0, -20.0], [0.0, 0.0, 2.5, 30.0]];
            assert_eq!((volume.shape, volume.affine.rows()), ([20, 24, 2], rows));
            let found = stored(&volume);
            assert_eq!((&found[..AREA], &found[AREA..]), (&values[AREA..], &values[..AREA]));
        }
    }
}

#[test]
fn what_is_not_decoded_is_named_with_what_to_do() {
    let refused = |name: &str| ct::read(pair(name).path()).unwrap_err().to_string();
    let extended = refused("jpeg_extended_12_bits.dcm");
    assert!(extended.contains("JPEG extended") && extended.contains("1.2.840.10008.1.2.4.51"), "{extended}");
    assert!(extended.contains("it is a lossy JPEG of 12 bits a sample, and only 8 are decoded here"), "{extended}");
    assert!(extended.contains("gdcmconv --raw"), "{extended}");
    for (syntax, name) in [
        ("1.2.840.10008.1.2.4.110", "JPEG XL"),
        ("1.2.840.10008.1.2.4.112", "JPEG XL"),
        ("1.2.840.10008.1.2.4.100", "video"),
    ] {
        let folder = pair("jpeg_baseline.dcm");
        for slice in ["1", "2"] {
            let path = folder.path().join(slice);
            std::fs::write(&path, with_syntax(std::fs::read(&path).unwrap(), syntax)).unwrap();
        }
        let error = ct::read(folder.path()).unwrap_err().to_string();
        let expected = format!("its pixels ({name}, transfer syntax {syntax}): this compression is not decoded here");
        assert!(error.contains(&expected), "{error}");
    }
    #[cfg(not(feature = "jpegls"))]
    {
        let ls = refused("jpeg_ls.dcm");
        assert!(ls.contains("JPEG-LS") && ls.contains("--features jpegls") && ls.contains("cmake"), "{ls}");
    }
}

/// A file in JPEG baseline that says it is in another syntax, whose identifier is one longer.
fn with_syntax(mut bytes: Vec<u8>, syntax: &str) -> Vec<u8> {
    const BASELINE: &[u8] = b"1.2.840.10008.1.2.4.50";
    let at = bytes.windows(BASELINE.len()).position(|window| window == BASELINE).unwrap();
    bytes.splice(at..at + BASELINE.len(), format!("{syntax}\0").bytes());
    bytes[at - 2] += 2;
    // The length of the group, behind the preamble, its mark and the element's head.
    bytes[140] += 2;
    bytes
}

#[test]
fn a_table_of_modality_values_is_refused_of_a_ct_and_said_of_a_radiograph() {
    let table = |path: &Path| {
        let mut object = dicom_object::open_file(path).unwrap();
        let mut item = InMemDicomObject::new_empty();
        item.put(DataElement::new(tags::MODALITY_LUT_TYPE, VR::LO, PrimitiveValue::from("HU")));
        object.put(DataElement::new(tags::MODALITY_LUT_SEQUENCE, VR::SQ, DataSetSequence::from(vec![item])));
        object
    };
    let folder = pair("rle.dcm");
    let slice = folder.path().join("2");
    table(&slice).write_to_file(&slice).unwrap();
    let error = ct::read(folder.path()).unwrap_err().to_string();
    assert!(error.contains("2: has ModalityLUTSequence (0028,3000)") && error.contains("RescaleSlope"), "{error}");
    let path = folder.path().join("dx");
    table(&file("radiograph_monochrome2.dcm")).write_to_file(&path).unwrap();
    let plain = image::read_radiograph(file("radiograph_monochrome2.dcm")).unwrap();
    let read = image::read_radiograph(&path).unwrap();
    assert_eq!(read.image, plain.image);
    assert!(read.remarks.len() == 1 && read.remarks[0].contains("ModalityLUTSequence (0028,3000), is not applied"));
}

#[test]
fn a_radiograph_that_lies_otherwise_is_told_and_a_mammogram_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dx");
    let with = |tag, vr, text: &str| {
        let mut object = dicom_object::open_file(file("radiograph_monochrome2.dcm")).unwrap();
        let values: Vec<String> = text.split('\\').map(String::from).collect();
        object.put(DataElement::new(tag, vr, PrimitiveValue::Strs(values.into())));
        object.write_to_file(&path).unwrap();
        image::read_radiograph(&path)
    };
    for (orientation, told) in [("L\\F", 0), ("A\\F", 0), ("R\\F", 1), ("F\\L", 1), ("L\\H", 1)] {
        let remarks = with(tags::PATIENT_ORIENTATION, VR::CS, orientation).unwrap().remarks;
        assert_eq!(
            remarks.iter().filter(|r| r.contains("mirrored or turned")).count(),
            told,
            "{orientation}: {remarks:?}"
        );
    }
    let error = with(tags::MODALITY, VR::CS, "MG").unwrap_err().to_string();
    assert!(error.contains("is an image of modality MG, not of a chest"), "{error}");
}

#[test]
fn damaged_pixels_are_refused_or_other_pixels() {
    for name in [
        "rle.dcm",
        "jpeg_lossless.dcm",
        "jpeg_lossless_sv1.dcm",
        "jpeg_baseline.dcm",
        "jpeg_2000.dcm",
        "jpeg_2000_ht.dcm",
        "jpeg_ls.dcm",
    ] {
        let folder = pair(name);
        let path = folder.path().join("2");
        let sound = std::fs::read(&path).unwrap();
        // Behind PixelData's header, its offset table of one frame, and the header of the only fragment.
        let pixels = sound.windows(4).rposition(|tag| tag == [0xe0, 0x7f, 0x10, 0]).unwrap() + 32;
        let mut state = 1u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % below
        };
        for _ in 0..150 {
            let mut bytes = sound.clone();
            for _ in 0..1 + random(4) {
                bytes[pixels + random(sound.len() - pixels - 8)] = random(256) as u8;
            }
            std::fs::write(&path, &bytes).unwrap();
            match ct::read(folder.path()) {
                Ok(volume) => assert_eq!(volume.shape, [20, 24, 2], "{name}"),
                Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
            }
        }
        let read = || ct::read(folder.path()).map(|volume| stored(&volume)).ok();
        std::fs::write(&path, &sound).unwrap();
        let whole = read();
        for end in (pixels..sound.len()).step_by(17) {
            std::fs::write(&path, &sound[..end]).unwrap();
            let cut = read();
            // Only what stands behind the last pixel may be missing.
            assert!(cut.is_none() || (cut == whole && end + 24 > sound.len()), "{name} cut after {end} bytes");
        }
    }
}

#[test]
fn a_radiograph_is_shown_as_its_file_says() {
    let one = image::read_radiograph(file("radiograph_monochrome1.dcm")).unwrap();
    let two = image::read_radiograph(file("radiograph_monochrome2.dcm")).unwrap();
    assert_eq!([one.image.height, one.image.width], [24, 20]);
    assert_eq!(two.settings.get("view").map(String::as_str), Some("pa"));
    // pydicom's first window; the padded corner, the brightest in it, is darkest here.
    let want = expected("radiograph_monochrome2.dcm");
    let corner = |i: usize| i / 20 < 3 && i % 20 < 3;
    let shown: Vec<f32> = (0..AREA).filter(|&i| !corner(i)).map(|i| want[i]).collect();
    let (low, high) = shown.iter().fold((f32::MAX, f32::MIN), |(l, h), &v| (l.min(v), h.max(v)));
    for i in 0..AREA {
        let (dark, bright) = if corner(i) { (low, low) } else { (want[i], low + high - want[i]) };
        assert!((two.image.pixels[i] - dark).abs() < 1e-2, "{i}: {} {dark}", two.image.pixels[i]);
        assert!((one.image.pixels[i] - bright).abs() < 1e-2, "{i}: {} {bright}", one.image.pixels[i]);
    }
    assert!(two.remarks.is_empty() && one.remarks.len() == 1 && one.remarks[0].contains("MONOCHROME1"));
    let refused = image::read_radiograph(file("rle.dcm")).unwrap_err().to_string();
    assert!(refused.contains("modality CT") && refused.contains("radiograph"), "{refused}");
}

#[cfg(feature = "cli")]
#[test]
fn folders_hold_enhanced_files_series_and_nifti_pairs() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["in/enhanced", "in/series", "in/alone"] {
        std::fs::create_dir_all(at(name)).unwrap();
    }
    std::fs::copy(file("enhanced_rle.dcm"), at("in/enhanced/IM0")).unwrap();
    std::fs::copy(file("rle.dcm"), at("in/alone/IM0")).unwrap();
    let pair = pair("jpeg_2000.dcm");
    for name in ["1", "2"] {
        std::fs::copy(pair.path().join(name), at("in/series").join(name)).unwrap();
    }
    std::fs::copy(file("radiograph_monochrome1.dcm"), at("in/series/dx")).unwrap();
    let volume = ct::read(at("in/enhanced")).unwrap();
    let mut header = ct::nifti::encode(&volume).unwrap();
    std::fs::write(at("in/pair.img"), header.split_off(352)).unwrap();
    header[108..112].copy_from_slice(&0f32.to_le_bytes());
    header[344..348].copy_from_slice(b"ni1\0");
    std::fs::write(at("in/pair.hdr"), &header).unwrap();
    std::fs::write(at("in/lonely.hdr"), &header).unwrap();

    let report = crate::cli::json(folder.path(), "drr in --out out --pictures nii.gz --force");
    assert_eq!(report["volumes"], 3, "{report}");
    let image = |name: &str| image::read(at("out").join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(image("enhanced.nii.gz"), image("pair.nii.gz"));
    assert_eq!(image("series.nii.gz").width, image("pair.nii.gz").width);
    let said = |list: &str, key: &str| {
        let rows = report[list].as_array().unwrap().iter();
        rows.map(|row| row[key].as_str().unwrap().to_string()).collect::<Vec<String>>()
    };
    let passed = said("passed_over", "reason");
    assert_eq!(passed.len(), 2, "{passed:?}");
    assert!(passed.iter().any(|reason| reason.contains("single DICOM image")));
    assert!(passed.iter().any(|reason| reason.contains("pair without its .img")));
    let warnings = said("warnings", "warning");
    assert!(warnings.iter().any(|warning| warning == "Passed over 1 images of modality DX: dx."), "{warnings:?}");
}
