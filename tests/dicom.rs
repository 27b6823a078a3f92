//! DICOM series, written here with the library that reads them, in LPS coordinates by hand.

use std::path::Path;

use dicom_core::{DataElement, PrimitiveValue, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};
use x2ct::ct::{self, HuSource, Voxels};

#[derive(Clone)]
struct Slice {
    series: String,
    position: [f64; 3],
    orientation: [f64; 6],
    size: [u16; 2],
    pixels: Vec<u16>,
    bits: u16,
    signed: bool,
    photometric: &'static str,
    frames: Option<&'static str>,
    syntax: &'static str,
    slope: &'static str,
}

const OBLIQUE: [f64; 6] = [0.8, 0.6, 0.0, -0.6, 0.8, 0.0];

impl Slice {
    /// 3 rows of 4 columns, pixel 100 k + index, `k` slices of 2.5 mm up from (10, 20, 30).
    fn new(k: usize) -> Self {
        Slice {
            series: "1.2.3".into(),
            position: [10.0, 20.0, 30.0 + 2.5 * k as f64],
            orientation: [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
            size: [3, 4],
            pixels: (0..12).map(|i| (100 * k + i) as u16).collect(),
            bits: 12,
            signed: false,
            photometric: "MONOCHROME2",
            frames: None,
            syntax: uids::EXPLICIT_VR_LITTLE_ENDIAN,
            slope: "1",
        }
    }

    fn write(&self, path: &Path) {
        let list = |values: &[f64]| values.iter().map(f64::to_string).collect::<Vec<_>>().join("\\");
        let mut object = InMemDicomObject::new_empty();
        let mut text = |tag, vr, value: &str| {
            object.put(DataElement::new(tag, vr, PrimitiveValue::from(value)));
        };
        text(tags::SOP_CLASS_UID, VR::UI, uids::CT_IMAGE_STORAGE);
        text(tags::SOP_INSTANCE_UID, VR::UI, "1.2.3.4");
        text(tags::SERIES_INSTANCE_UID, VR::UI, &self.series);
        text(tags::IMAGE_POSITION_PATIENT, VR::DS, &list(&self.position));
        text(tags::IMAGE_ORIENTATION_PATIENT, VR::DS, &list(&self.orientation));
        text(tags::PIXEL_SPACING, VR::DS, "0.5\\0.75");
        text(tags::RESCALE_SLOPE, VR::DS, self.slope);
        text(tags::RESCALE_INTERCEPT, VR::DS, "-1024");
        text(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, self.photometric);
        if let Some(frames) = self.frames {
            text(tags::NUMBER_OF_FRAMES, VR::IS, frames);
        }
        let short = [
            (tags::ROWS, self.size[0]),
            (tags::COLUMNS, self.size[1]),
            (tags::SAMPLES_PER_PIXEL, 1),
            (tags::BITS_ALLOCATED, 16),
            (tags::BITS_STORED, self.bits),
            (tags::HIGH_BIT, self.bits - 1),
            (tags::PIXEL_REPRESENTATION, u16::from(self.signed)),
        ];
        for (tag, value) in short {
            object.put(DataElement::new(tag, VR::US, PrimitiveValue::from(value)));
        }
        let pixels = PrimitiveValue::U16(self.pixels.clone().into());
        object.put(DataElement::new(tags::PIXEL_DATA, VR::OW, pixels));
        let meta = FileMetaTableBuilder::new()
            .transfer_syntax(self.syntax)
            .media_storage_sop_class_uid(uids::CT_IMAGE_STORAGE)
            .media_storage_sop_instance_uid("1.2.3.4");
        object.with_meta(meta).unwrap().write_to_file(path).unwrap();
    }
}

/// Three slices, changed, in a folder under names that say nothing of their order.
fn series(change: impl Fn(usize, &mut Slice)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (k, name) in ["b", "c.dcm", "a.ima"].into_iter().enumerate() {
        let mut slice = Slice::new(k);
        change(k, &mut slice);
        slice.write(&folder.path().join(name));
    }
    std::fs::write(folder.path().join("README.txt"), "not an image").unwrap();
    folder
}

#[test]
fn a_series_becomes_a_volume_in_ras() {
    for syntax in [uids::EXPLICIT_VR_LITTLE_ENDIAN, uids::IMPLICIT_VR_LITTLE_ENDIAN] {
        let folder = series(|_, slice| slice.syntax = syntax);
        let volume = ct::read(folder.path()).unwrap();
        assert_eq!(volume.shape, [4, 3, 3]);
        let want: Vec<i16> = (0..3).flat_map(|k| (0..12).map(move |i| 100 * k + i)).collect();
        assert_eq!(volume.voxels, want.into());
        // Columns are 0.75 mm apart (the second number), rows 0.5; left and posterior change sign.
        let rows = [[-0.75, 0.0, 0.0, -10.0], [0.0, -0.5, 0.0, -20.0], [0.0, 0.0, 2.5, 30.0]];
        assert_eq!(volume.affine.rows(), rows);
        assert_eq!(volume.axis_codes().to_string(), "LPS");
        assert_eq!(volume.hu_scale(HuSource::AlreadyHu), (1.0, -1024.0));
    }
}

#[test]
fn slices_are_sorted_along_their_normal() {
    // An oblique stack whose positions fall: sorted, z still grows along the normal.
    let folder = series(|k, slice| {
        slice.orientation = OBLIQUE;
        slice.position = [1.0, 2.0, -3.0 * k as f64];
    });
    let volume = ct::read(folder.path()).unwrap();
    assert_eq!(volume.voxels.get(0), 200.0);
    let rows = volume.affine.rows();
    let want = [[-0.6, 0.3, 0.0, -1.0], [-0.45, -0.4, 0.0, -2.0], [0.0, 0.0, 3.0, -6.0]];
    for (row, want) in rows.iter().flatten().zip(want.iter().flatten()) {
        assert!((row - want).abs() < 1e-12, "{rows:?}");
    }
}

#[test]
fn stored_bits_and_signs_are_honoured() {
    // 12 bits, signed, with rubbish above: 0xf800 is -2048 and 0x17ff is 2047.
    let folder = series(|_, slice| {
        (slice.signed, slice.pixels) = (true, vec![0xf800, 0x17ff, 0x0fff, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    });
    let volume = ct::read(folder.path()).unwrap();
    assert_eq!([0, 1, 2].map(|i| volume.voxels.get(i)), [-2048.0, 2047.0, -1.0]);
    let folder = series(|_, slice| (slice.bits, slice.pixels) = (16, vec![65535; 12]));
    let volume = ct::read(folder.path()).unwrap();
    assert!(matches!(&volume.voxels, Voxels::F32(v) if v[35] == 65535.0));
}

#[test]
fn what_is_no_straight_series_is_refused() {
    type Change = fn(usize, &mut Slice);
    let cases: [(Change, &str); 14] = [
        (|k, s| s.series = format!("1.2.{k}"), "is of another series than the first image"),
        (|k, s| s.position[2] = [0.0, 2.5, 7.5][k], "slices are missing"),
        (|k, s| s.position[2] = [0.0, 2.5, 2.5][k], "lie in one place"),
        (|k, s| s.position[1] += 0.9 * k as f64, "gantry tilt"),
        (
            |k, s| {
                if k == 1 {
                    s.orientation = OBLIQUE
                }
            },
            "another orientation",
        ),
        (
            |k, s| {
                if k == 1 {
                    (s.size, s.pixels) = ([2, 4], vec![0; 8])
                }
            },
            "another size",
        ),
        (
            |k, s| {
                if k == 1 {
                    s.slope = "2"
                }
            },
            "another rescale",
        ),
        (|_, s| s.orientation = [1.0, 0.0, 0.0, 0.5, 0.5, 0.0], "two unit vectors"),
        (|_, s| s.pixels.truncate(10), "PixelData has 20 bytes"),
        (|_, s| s.photometric = "MONOCHROME1", "PhotometricInterpretation is MONOCHROME1"),
        (|_, s| s.frames = Some("7"), "NumberOfFrames is 7"),
        (|_, s| s.slope = "0", "RescaleSlope is 0"),
        (|_, s| s.slope = "x", "RescaleSlope"),
        (|_, s| s.syntax = "1.2.840.10008.1.2.2", "transfer syntax 1.2.840.10008.1.2.2 is not read"),
    ];
    for (change, text) in cases {
        let folder = series(change);
        let message = ct::read(folder.path()).expect_err(text).to_string();
        assert!(message.contains(text) && !message.contains('\n'), "{message:?} does not contain {text:?}");
    }
    let one = tempfile::tempdir().unwrap();
    Slice::new(0).write(&one.path().join("only.dcm"));
    assert!(ct::read(one.path()).unwrap_err().to_string().contains("holds 1 DICOM images"));
    let torn = series(|_, _| {});
    let path = torn.path().join("b");
    let bytes = std::fs::read(&path).unwrap();
    for end in (132..bytes.len()).step_by(7) {
        std::fs::write(&path, &bytes[..end]).unwrap();
        ct::read(torn.path()).expect_err("a truncated slice");
    }
}
