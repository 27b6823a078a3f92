//! DICOM series, written here with the library that reads them, in LPS coordinates by hand.

use std::path::Path;

use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
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
    /// Further elements, which replace those of the same tag.
    more: Vec<(Tag, VR, PrimitiveValue)>,
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
            more: Vec::new(),
        }
    }

    fn with(&mut self, tag: Tag, vr: VR, value: impl Into<PrimitiveValue>) -> &mut Self {
        self.more.push((tag, vr, value.into()));
        self
    }

    /// As text of this many decimals.
    fn height(&mut self, z: f64, decimals: usize) {
        self.with(tags::IMAGE_POSITION_PATIENT, VR::DS, format!("10\\20\\{z:.decimals$}").as_str());
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
        for (tag, vr, value) in &self.more {
            object.put(DataElement::new(*tag, *vr, value.clone()));
        }
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
    for syntax in [uids::EXPLICIT_VR_LITTLE_ENDIAN, uids::IMPLICIT_VR_LITTLE_ENDIAN, "1.2.840.10008.1.2.2"] {
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
    let cases: [(Change, &str); 10] = [
        (|k, s| s.series = format!("1.2.{k}"), "holds 1 CT slices"),
        (|k, s| s.position[2] = [0.0, 2.5, 7.5][k], "slices are missing"),
        (|k, s| s.position[2] = [0.0, 2.5, 2.5][k], "lie in one place"),
        (|k, s| s.position[1] += [0.0, 3.0, 0.0][k], "beside the line"),
        (|k, s| s.position[1] += 4.0 * k as f64, "58.0 degrees off their normal"),
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
    ];
    for (change, text) in cases {
        let folder = series(change);
        let message = ct::read(folder.path()).expect_err(text).to_string();
        assert!(message.contains(text) && !message.contains('\n'), "{message:?} does not contain {text:?}");
    }
    for slope in ["0", "x"] {
        let folder = series(|_, slice| slice.slope = slope);
        assert!(ct::read(folder.path()).unwrap_err().to_string().contains("RescaleSlope"));
    }
    let one = tempfile::tempdir().unwrap();
    let path = one.path().join("only.dcm");
    Slice::new(0).write(&path);
    assert!(ct::read(one.path()).unwrap_err().to_string().contains("holds 1 CT slices"));
    let alone = ct::read(&path).unwrap_err().to_string();
    assert!(alone.contains("single slice of a CT") && alone.contains("folder"), "{alone}");
    let torn = series(|_, _| {});
    let path = torn.path().join("b");
    let bytes = std::fs::read(&path).unwrap();
    for end in (132..bytes.len()).step_by(7) {
        std::fs::write(&path, &bytes[..end]).unwrap();
        ct::read(torn.path()).expect_err("a truncated slice");
    }
}

/// The remarks that contain a text.
fn remarked(volume: &ct::CtVolume, text: &str) -> usize {
    volume.remarks.iter().filter(|remark| remark.contains(text)).count()
}

#[test]
fn of_a_mixed_folder_the_largest_series_is_taken_and_the_rest_named() {
    let folder = series(|_, _| {});
    let add = |name: &str, k: usize, change: &dyn Fn(&mut Slice)| {
        let mut slice = Slice::new(k);
        change(&mut slice);
        slice.write(&folder.path().join(name));
    };
    add("00", 0, &|s| {
        (s.orientation, s.size, s.pixels) = ([0.0, 1.0, 0.0, 0.0, 0.0, -1.0], [2, 2], vec![0; 4]);
        s.with(tags::IMAGE_TYPE, VR::CS, "ORIGINAL\\PRIMARY\\LOCALIZER");
    });
    add("0_thick", 0, &|s| s.series = "1.2.9".into());
    add("0_thin", 1, &|s| s.series = "1.2.9".into());
    add("coronal", 0, &|s| s.orientation = [1.0, 0.0, 0.0, 0.0, 0.0, -1.0]);
    add("mr", 0, &|s| {
        s.with(tags::SOP_CLASS_UID, VR::UI, uids::MR_IMAGE_STORAGE).with(tags::MODALITY, VR::CS, "MR");
    });
    let mut state = InMemDicomObject::new_empty();
    state.put(DataElement::new(tags::MODALITY, VR::CS, PrimitiveValue::from("PR")));
    let class = uids::GRAYSCALE_SOFTCOPY_PRESENTATION_STATE_STORAGE;
    state.put(DataElement::new(tags::SOP_CLASS_UID, VR::UI, PrimitiveValue::from(class)));
    let meta = FileMetaTableBuilder::new().transfer_syntax(uids::EXPLICIT_VR_LITTLE_ENDIAN);
    let meta = meta.media_storage_sop_class_uid(class).media_storage_sop_instance_uid("1.2.5");
    state.with_meta(meta).unwrap().write_to_file(folder.path().join("state")).unwrap();

    let volume = ct::read(folder.path()).unwrap();
    assert_eq!((volume.shape, volume.spacing()[2]), ([4, 3, 3], 2.5));
    assert_eq!(volume.voxels.get(24), 200.0);
    for (text, files) in [
        ("Passed over 1 localizers", ": 00."),
        ("Passed over 2 images of series 1.2.9, which has fewer than 1.2.3", ": 0_thick, 0_thin."),
        ("Passed over 1 images of another orientation", ": coronal."),
        ("Passed over 1 images of modality MR", ": mr."),
        ("Passed over 1 presentation states", ": state."),
    ] {
        let said = volume.remarks.iter().filter(|remark| remark.contains(text) && remark.ends_with(files)).count();
        assert_eq!(said, 1, "{text}: {:?}", volume.remarks);
    }
    assert_eq!(volume.remarks.len(), 5);

    for name in ["a.ima", "b", "c.dcm", "0_thick", "0_thin", "coronal"] {
        std::fs::remove_file(folder.path().join(name)).unwrap();
    }
    let none = ct::read(folder.path()).unwrap_err().to_string();
    assert!(none.contains("holds no CT images; there are 1 images of modality MR, 1 localizers"), "{none}");
}

#[test]
fn rounded_positions_are_even_and_missing_slices_are_not() {
    let stack = |count: usize, decimals: usize, place: &dyn Fn(usize) -> f64| {
        let folder = tempfile::tempdir().unwrap();
        for k in 0..count {
            let mut slice = Slice::new(k);
            slice.height(place(k), decimals);
            slice.write(&folder.path().join(format!("{k:03}")));
        }
        ct::read(folder.path())
    };
    for (count, decimals) in [(8, 1), (41, 1), (41, 2), (41, 3)] {
        let volume = stack(count, decimals, &|k| 0.625 * k as f64).unwrap();
        assert!((volume.spacing()[2] - 0.625).abs() <= 0.1 / (count - 1) as f64, "{}", volume.spacing()[2]);
        assert_eq!(remarked(&volume, "off even places"), usize::from(decimals == 1), "{:?}", volume.remarks);
    }
    // Rounded to whole millimetres.
    assert_eq!(stack(21, 0, &|k| 2.5 * k as f64).unwrap().spacing()[2], 2.5);
    for decimals in [0, 1, 3] {
        for missing in [1, 10, 19] {
            let gap = |k: usize| 2.5 * if k < missing { k as f64 } else { k as f64 + 1.0 };
            let refused = stack(20, decimals, &gap).unwrap_err().to_string();
            let name = format!("{:03} and {missing:03} are", missing - 1);
            assert!(refused.contains("slices are missing") && refused.contains(&name), "{refused}");
        }
    }
}

#[test]
fn a_tilted_gantry_shears_the_affine() {
    // 12 degrees: every slice 2.5 mm up and 0.531 mm back.
    let tilt = 12f64.to_radians();
    let folder = series(|k, slice| slice.position[1] += 2.5 * k as f64 * tilt.tan());
    let volume = ct::read(folder.path()).unwrap();
    assert!((volume.affine.shear() - 12.0).abs() < 1e-9);
    let at = volume.affine.voxel_to_world([0.0, 0.0, 2.0]);
    for (found, want) in at.into_iter().zip([-10.0, -20.0 - 5.0 * tilt.tan(), 35.0]) {
        assert!((found - want).abs() < 1e-12);
    }
    assert_eq!(remarked(&volume, "12.0 degrees off their normal"), 1);
    let preset = ct::Preset::named("x2ct").unwrap();
    let refused = preset.operator(volume.shape, &volume.affine, x2ct::tensor::DType::F32).err().unwrap().to_string();
    assert!(refused.contains("12.0 degrees"), "{refused}");
    // A drift within the writer's rounding is none.
    let folder = series(|k, slice| slice.position[1] += 0.001 * k as f64);
    assert_eq!(ct::read(folder.path()).unwrap().affine.shear(), 0.0);
}

#[test]
fn padding_is_air_whatever_its_sign() {
    let hu = |change: &dyn Fn(&mut Slice)| {
        let folder = series(|_, slice| {
            slice.bits = 16;
            slice.pixels[..4].copy_from_slice(&[63536, 63540, 24, 1064]);
            change(slice);
        });
        let volume = ct::read(folder.path()).unwrap();
        let hu: Vec<f32> = [0, 1, 2, 3].map(|i| volume.voxels.get(i) - 1024.0).into();
        (hu, remarked(&volume, "PixelPaddingValue"))
    };
    let (value, limit) = (tags::PIXEL_PADDING_VALUE, tags::PIXEL_PADDING_RANGE_LIMIT);
    assert_eq!(hu(&|_| {}).0, [62512.0, 62516.0, -1000.0, 40.0]);
    // -2000 in a field that is unsigned, or signed, beside unsigned pixels.
    let one = (vec![-1025.0, 62516.0, -1000.0, 40.0], 1);
    assert_eq!(
        hu(&|s| {
            s.with(value, VR::US, 63536u16);
        }),
        one
    );
    assert_eq!(
        hu(&|s| {
            s.with(value, VR::SS, -2000i16);
        }),
        one
    );
    let both = (vec![-1025.0, -1025.0, -1000.0, 40.0], 1);
    assert_eq!(
        hu(&|s| {
            s.with(value, VR::US, 63536u16).with(limit, VR::US, 65535u16);
        }),
        both
    );
    assert_eq!(
        hu(&|s| {
            s.with(value, VR::US, 65535u16).with(limit, VR::US, 63000u16);
        }),
        both
    );
    // Signed pixels: -2000 - 1024 HU is padding already, and so is air; they stay.
    let signed = |s: &mut Slice, padding: i16| {
        s.signed = true;
        s.with(value, VR::SS, padding);
    };
    assert_eq!(hu(&|s| signed(s, -2000)), (vec![-3024.0, -3020.0, -1000.0, 40.0], 0));
    assert_eq!(hu(&|s| signed(s, 24)), (vec![-3024.0, -3020.0, -1000.0, 40.0], 0));
    // Twelve stored bits, padding in the bits above them: 0xf830 would read as 2096.
    let twelve = hu(&|s| {
        s.bits = 12;
        s.with(value, VR::US, 63536u16);
    });
    assert_eq!(twelve, (vec![-1025.0, 1076.0, -1000.0, 40.0], 1));
}

#[test]
fn of_slices_at_one_place_copies_are_dropped_and_acquisitions_told_apart() {
    let folder = series(|_, _| {});
    Slice::new(1).write(&folder.path().join("copy"));
    let volume = ct::read(folder.path()).unwrap();
    assert_eq!((volume.shape[2], remarked(&volume, "Passed over 1 copies of another slice")), (3, 1));

    let folder = series(|_, s| {
        s.with(tags::ACQUISITION_NUMBER, VR::IS, "1");
    });
    for k in 0..2 {
        let mut slice = Slice::new(k);
        slice.pixels[0] = 77;
        slice.with(tags::ACQUISITION_NUMBER, VR::IS, "2");
        slice.write(&folder.path().join(format!("again{k}")));
    }
    let volume = ct::read(folder.path()).unwrap();
    assert_eq!((volume.shape[2], volume.voxels.get(0)), (3, 0.0));
    assert_eq!(remarked(&volume, "Passed over 2 images of another acquisition: again0, again1"), 1);
}

#[test]
fn files_without_preamble_and_meta_information_are_read() {
    for syntax in [uids::EXPLICIT_VR_LITTLE_ENDIAN, uids::IMPLICIT_VR_LITTLE_ENDIAN] {
        let folder = series(|_, slice| slice.syntax = syntax);
        let whole = ct::read(folder.path()).unwrap();
        for (name, cut) in [("b", true), ("c.dcm", true), ("a.ima", false)] {
            let path = folder.path().join(name);
            let bytes = std::fs::read(&path).unwrap();
            let length = u32::from_le_bytes(bytes[140..144].try_into().unwrap()) as usize;
            // Without anything before the data set; or with group 2 alone.
            std::fs::write(&path, &bytes[if cut { 144 + length } else { 132 }..]).unwrap();
        }
        assert_eq!(ct::read(folder.path()).unwrap().voxels, whole.voxels);
    }
}
