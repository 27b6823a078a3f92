//! The NIfTI reader and writer, against files built byte by byte here.

use std::io::Write as _;

use proptest::prelude::*;
use x2ct::ct::{Affine, AffineSource, AxisCodes, CtVolume, HuSource, Voxels, nifti};

use crate::support::nifti::{File, ROWS, gzip, refused, sample_voxels};

struct Random(u64);

impl Random {
    /// SplitMix64, below `n`.
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % n as u64) as usize
    }
}

#[test]
fn both_versions_and_byte_orders_read_alike() {
    for version in [1, 2] {
        for big in [false, true] {
            let file = File::sample(version, big);
            for bytes in [file.bytes(), gzip(&file.bytes())] {
                let volume = nifti::read_bytes(&bytes, "case.nii").unwrap();
                assert_eq!(volume.voxels, sample_voxels());
                assert_eq!(volume.shape, [3, 2, 2]);
                assert_eq!(volume.affine.rows(), ROWS);
                assert_eq!(volume.affine_source, AffineSource::Sform);
                assert_eq!(volume.spacing(), [0.5, 0.5, 2.0]);
                assert_eq!(volume.axis_codes(), AxisCodes::LPS);
                assert_eq!((volume.slope, volume.intercept), (1.0, 0.0));
            }
        }
    }
}

#[test]
fn every_voxel_type() {
    type Encode = fn(i64) -> Vec<u8>;
    let types: [(i16, i16, Encode, &[i64], bool); 10] = [
        (2, 8, |v| vec![v as u8], &[0, 255, 7, 128], true),
        (256, 8, |v| vec![v as u8], &[-128, 127, -1, 0], true),
        (4, 16, |v| (v as i16).to_le_bytes().to_vec(), &[-32768, 32767, -1024, 1], true),
        (512, 16, |v| (v as u16).to_le_bytes().to_vec(), &[0, 32767, 1024, 1], true),
        (512, 16, |v| (v as u16).to_le_bytes().to_vec(), &[0, 32768, 65535, 1], false),
        (8, 32, |v| (v as i32).to_le_bytes().to_vec(), &[-1024, 3071, 0, -32768], true),
        (8, 32, |v| (v as i32).to_le_bytes().to_vec(), &[-32769, 3071, 16_777_216, 0], false),
        (768, 32, |v| (v as u32).to_le_bytes().to_vec(), &[0, 4096, 4_294_967_040, 9], false),
        (16, 32, |v| (v as f32).to_le_bytes().to_vec(), &[-1024, 3071, 0, 5], false),
        (64, 64, |v| (v as f64).to_le_bytes().to_vec(), &[-1024, 3071, 0, 5], false),
    ];
    for (datatype, bitpix, encode, values, integer) in types {
        for big in [false, true] {
            let mut file = File::sample(1, big);
            (file.datatype, file.bitpix, file.dim) = (datatype, bitpix, vec![3, 2, 2, 1]);
            file.data.clear();
            for &value in values {
                let mut bytes = encode(value);
                if big {
                    bytes.reverse();
                }
                file.data.extend(bytes);
            }
            let volume = file.read().unwrap();
            assert_eq!(nifti::read_bytes(&gzip(&file.bytes()), "case.nii").unwrap(), volume);
            let expected: Vec<f32> = values.iter().map(|&v| v as f32).collect();
            assert_eq!(volume.hu_f32(HuSource::AlreadyHu), expected, "datatype {datatype}");
            assert_eq!(matches!(volume.voxels, Voxels::I16(_)), integer, "datatype {datatype} {values:?}");
        }
    }
    for (datatype, name) in [
        (1, "binary"),
        (32, "complex64"),
        (128, "RGB24"),
        (1024, "int64"),
        (1280, "uint64"),
        (2304, "RGBA32"),
        (3, "3"),
    ] {
        refused(File { datatype, ..File::sample(1, false) }.read(), name);
    }
}

#[test]
fn non_finite_voxels_are_named() {
    for (value, text) in [(f64::NAN, "NaN"), (f64::INFINITY, "inf"), (-1e300, "-inf")] {
        let mut file = File { datatype: 64, bitpix: 64, ..File::sample(1, false) };
        file.data = (0..12).flat_map(|i| if i == 10 { value } else { 0.0 }.to_le_bytes()).collect();
        refused(file.read(), &format!("voxel [1, 1, 1] is {text}"));
    }
    let mut file = File { datatype: 16, bitpix: 32, ..File::sample(2, true) };
    file.data = (0..12).flat_map(|i| if i == 3 { f32::NAN } else { 0.0 }.to_be_bytes()).collect();
    refused(file.read(), "voxel [0, 1, 0] is NaN");
}

#[test]
fn a_slope_that_is_none_means_identity() {
    for version in [1, 2] {
        for slope in [f64::NAN, f64::INFINITY, 0.0] {
            let file = File { slope, intercept: f64::NAN, ..File::sample(version, false) };
            let volume = file.read().unwrap();
            assert_eq!((volume.slope, volume.intercept), (1.0, 0.0));
            assert_eq!(volume.voxels, sample_voxels());
        }
        let scaled = File { slope: 2.0, intercept: -1024.0, ..File::sample(version, false) }.read().unwrap();
        assert_eq!((scaled.slope, scaled.intercept), (2.0, -1024.0));
        assert_eq!(scaled.voxels, sample_voxels(), "the stored values stay as they are");
        refused(File { slope: 2.0, intercept: f64::NAN, ..File::sample(version, false) }.read(), "scl_inter is NaN");
    }
    refused(File { slope: 1e300, ..File::sample(2, false) }.read(), "scl_slope is 1");
}

#[test]
fn hounsfield_units_need_a_stated_source() {
    let volume = File { slope: 2.0, intercept: 10.0, ..File::sample(1, false) }.read().unwrap();
    let already = volume.hu_f32(HuSource::AlreadyHu);
    assert_eq!(already[..2], [2.0 * -1000.0 + 10.0, 2.0 * -999.0 + 10.0]);
    let source = HuSource::CsvRescale { slope: 3.0, intercept: -8192.0 };
    assert_eq!(volume.hu_scale(source), (6.0, 30.0 - 8192.0));
    assert_eq!(volume.hu_f32(source)[0], 3.0 * already[0] - 8192.0);
}

#[test]
fn the_affine_comes_from_sform_then_qform_then_pixdim() {
    // A turn by `angle` about a unit axis: Rodrigues' formula against the quaternion sin(angle / 2) * axis.
    let third = 1.0 / 3f64.sqrt();
    let axes = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [third, third, third], [0.6, 0.0, -0.8]];
    for axis in axes {
        for degrees in [0.0f64, 17.0, 90.0, 150.0, 180.0] {
            for qfac in [1.0, -1.0] {
                let angle = degrees.to_radians();
                let mut file = File { sform_code: 0, qform_code: 1, ..File::sample(2, false) };
                file.pixdim[0] = qfac;
                file.quaternion = axis.map(|u| (angle / 2.0).sin() * u);
                file.qoffset = [1.0, -2.0, 3.0];
                let volume = file.read().unwrap();
                assert_eq!(volume.affine_source, AffineSource::Qform);
                let (sin, cos) = angle.sin_cos();
                let [x, y, z] = axis;
                let cross = [[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]];
                for (r, row) in volume.affine.rows().into_iter().enumerate() {
                    for c in 0..3 {
                        let turn = if r == c { cos } else { 0.0 } + sin * cross[r][c] + (1.0 - cos) * axis[r] * axis[c];
                        let expected = turn * file.pixdim[c + 1] * if c == 2 { qfac } else { 1.0 };
                        assert!((row[c] - expected).abs() < 1e-12, "{axis:?} {degrees} [{r}][{c}]");
                    }
                    assert_eq!(row[3], file.qoffset[r]);
                }
            }
        }
    }

    let both = File { qform_code: 1, ..File::sample(1, false) };
    assert_eq!(both.read().unwrap().affine.rows(), ROWS, "sform goes first");

    let neither = File { sform_code: 0, ..File::sample(1, false) }.read().unwrap();
    assert_eq!(neither.affine_source, AffineSource::Pixdim);
    assert_eq!(neither.axis_codes().to_string(), "LAS");
    assert_eq!(neither.affine.rows(), [[-0.5, 0.0, 0.0, 0.5], [0.0, 0.5, 0.0, -0.25], [0.0, 0.0, 2.0, -1.0]]);
}

#[test]
fn lengths_become_millimetres() {
    for (units, factor) in [(0, 1.0), (2, 1.0), (2 | 8, 1.0), (1, 1e3), (3, 1e-3)] {
        for (sform_code, qform_code) in [(1, 0), (0, 1), (0, 0)] {
            let file = File { units, sform_code, qform_code, ..File::sample(2, false) };
            let spacing = file.read().unwrap().spacing();
            for (got, expected) in spacing.into_iter().zip([0.5, 0.5, 2.0]) {
                assert!((got / (expected * factor) - 1.0).abs() < 1e-12, "{units} {spacing:?}");
            }
        }
    }
    refused(File { units: 5, ..File::sample(1, false) }.read(), "xyzt_units");
}

#[test]
fn trailing_dimensions_of_one_are_dropped() {
    for dim in [vec![4, 3, 2, 2, 1], vec![7, 3, 2, 2, 1, 1, 1, 1]] {
        assert_eq!(File { dim, ..File::sample(1, false) }.read().unwrap().shape, [3, 2, 2]);
    }
    let flat = File { dim: vec![2, 4, 3, 0], sform_code: 0, pixdim: [1.0, 0.5, 0.5, 0.0], ..File::sample(1, false) };
    let volume = flat.read().unwrap();
    assert_eq!((volume.shape, volume.spacing()), ([4, 3, 1], [0.5, 0.5, 1.0]));
}

#[test]
fn a_bad_header_field_is_named() {
    type Spoil = fn(&mut File);
    let cases: [(Spoil, &str); 20] = [
        (|f| f.dim[0] = 0, "dim[0] is 0"),
        (|f| f.dim[0] = 1, "dim[0] is 1"),
        (|f| f.dim[0] = 8, "dim[0] is 8"),
        (|f| f.dim[0] = -3, "dim[0] is -3"),
        (|f| f.dim[1] = 0, "dim[1] is 0"),
        (|f| f.dim[3] = -2, "dim[3] is -2"),
        (|f| f.dim = vec![3, 32767, 32767, 32767], "dim[3] is 32767"),
        (|f| f.dim = vec![4, 3, 2, 1, 2], "dim[4] is 2"),
        (|f| f.dim[3] = 3, "24 bytes where"),
        (|f| f.dim[3] = 1, "24 bytes where"),
        (|f| f.bitpix = 8, "bitpix is 8 but datatype 4 has 16"),
        (|f| f.bitpix = 0, "bitpix is 0"),
        (|f| (f.sform_code, f.pixdim[2]) = (0, 0.0), "pixdim[2] is 0"),
        (|f| (f.sform_code, f.pixdim[2]) = (0, -0.5), "pixdim[2] is -0.5"),
        (|f| (f.sform_code, f.qform_code, f.pixdim[0]) = (0, 1, f64::NAN), "pixdim[0]"),
        (|f| (f.sform_code, f.qform_code, f.quaternion) = (0, 1, [0.9, 0.9, 0.0]), "quatern_b"),
        (|f| (f.sform_code, f.qform_code, f.quaternion) = (0, 1, [f64::NAN, 0.0, 0.0]), "quatern_b"),
        (
            |f| (f.srow[0], f.srow[1]) = ([1.0, 1.0, 0.0, 0.0], [2.0, 2.0, 0.0, 0.0]),
            "sform (srow_x, srow_y, srow_z): it is singular",
        ),
        (|f| f.srow[2][2] = 0.0, "sform (srow_x, srow_y, srow_z): voxels are 0 mm long on axis 2"),
        (|f| f.srow[0][3] = f64::NAN, "entry [0][3] is NaN"),
    ];
    for version in [1, 2] {
        for big in [false, true] {
            for (spoil, text) in &cases {
                let mut file = File::sample(version, big);
                spoil(&mut file);
                let text = text.replace("24 bytes", &format!("{} bytes", file.bytes().len()));
                refused(file.read(), &text);
            }
        }
    }
    refused(File { dim: vec![3, 1 << 40, 1 << 40, 1], ..File::sample(2, false) }.read(), "dim[1] is 1099511627776");

    let spoil = |at: usize, bytes: &[u8]| {
        let mut file = File::sample(1, false).bytes();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        nifti::read_bytes(&file, "case.nii")
    };
    refused(spoil(108, &0f32.to_le_bytes()), "vox_offset is 0");
    refused(spoil(108, &f32::NAN.to_le_bytes()), "vox_offset is NaN");
    refused(spoil(108, &f32::INFINITY.to_le_bytes()), "vox_offset is inf");
    refused(spoil(108, &352.5f32.to_le_bytes()), "vox_offset is 352.5");
    refused(spoil(108, &(-352f32).to_le_bytes()), "vox_offset is -352");
    refused(spoil(108, &9e18f32.to_le_bytes()), "ask for");
    refused(spoil(108, &3e38f32.to_le_bytes()), "ask for");
    let pair = spoil(344, b"ni1\0").unwrap();
    assert!(pair.remarks.iter().any(|remark| remark.contains(".hdr/.img pair")), "{:?}", pair.remarks);
    refused(spoil(344, b"abc\0"), "magic");
    refused(spoil(0, b"PK\x03\x04"), "is a zip archive, no CT volume");
    refused(spoil(0, b"\x01\x02\x03\x04"), "not a NIfTI file");
    let mut two = File::sample(2, false).bytes();
    two[8] = b'\n';
    refused(nifti::read_bytes(&two, "case.nii"), "magic");
    two[4..12].copy_from_slice(b"ni2\0\r\n\x1a\n");
    refused(nifti::read_bytes(&two[..560], "case.nii"), ".hdr/.img pair");
}

#[test]
fn an_extension_before_the_voxels_is_skipped() {
    // The format asks for multiples of 16; an odd offset leaves every voxel unaligned.
    for offset in [384, 361] {
        for big in [false, true] {
            let mut bytes = File::sample(1, big).bytes();
            bytes.splice(348..352, (348..offset).map(|i| i as u8));
            let field = offset as f32;
            bytes[108..112].copy_from_slice(&if big { field.to_be_bytes() } else { field.to_le_bytes() });
            assert_eq!(nifti::read_bytes(&bytes, "case.nii").unwrap().voxels, sample_voxels());
            assert_eq!(nifti::read_bytes(&gzip(&bytes), "case.nii").unwrap().voxels, sample_voxels());
        }
    }
}

#[test]
fn truncation_anywhere_is_refused() {
    for version in [1, 2] {
        let bytes = File::sample(version, false).bytes();
        for end in 0..bytes.len() {
            nifti::read_bytes(&bytes[..end], "case.nii").expect_err("a truncated file");
        }
        let packed = gzip(&bytes);
        for end in 0..packed.len() {
            nifti::read_bytes(&packed[..end], "case.nii").expect_err("a truncated gzip file");
        }
        for end in 0..bytes.len() {
            nifti::read_bytes(&gzip(&bytes[..end]), "case.nii").expect_err("sound gzip of a truncated file");
        }
    }
    refused(nifti::read_bytes(b"", "case.nii"), "ends after 0 bytes");
    refused(nifti::read_bytes(&gzip(b""), "case.nii"), "ends after 0 bytes");
}

#[test]
fn gzip_members_are_one_stream() {
    let bytes = File::sample(1, false).bytes();
    for cuts in [vec![200], vec![3, 5, 347, 348, 360], (1..bytes.len()).collect()] {
        let mut packed = gzip(b"");
        let mut start = 0;
        for end in cuts.into_iter().chain([bytes.len()]) {
            packed.extend(gzip(&bytes[start..end]));
            start = end;
        }
        packed.extend(gzip(b""));
        assert_eq!(nifti::read_bytes(&packed, "case.nii").unwrap().voxels, sample_voxels());

        // What stands behind whole members does them no harm; the beginning of another is damage.
        for (behind, said) in [(&[0; 512][..], None), (&b"garbage"[..], Some("7 bytes behind its gzip data"))] {
            let volume = nifti::read_bytes(&[&packed, behind].concat(), "case.nii").unwrap();
            assert_eq!((volume.voxels, volume.remarks.len()), (sample_voxels(), usize::from(said.is_some())));
            assert!(said.is_none_or(|said| volume.remarks[0].contains(said)), "{:?}", volume.remarks);
        }
        refused(nifti::read_bytes(&[&packed[..], &[0x1f, 0x8b]].concat(), "case.nii"), "damaged");
        packed.extend(gzip(b"more"));
        refused(nifti::read_bytes(&packed, "case.nii"), "more data");
    }
}

/// Discs and archives write whole blocks, before or after the compression.
#[test]
fn zeros_behind_the_voxels_do_no_harm() {
    let sound = File::sample(1, false).bytes();
    for behind in [1, 160, 4096] {
        let padded = [&sound[..], &vec![0; behind]].concat();
        for bytes in [padded.clone(), gzip(&padded)] {
            let volume = nifti::read_bytes(&bytes, "case.nii").unwrap();
            assert_eq!((volume.voxels, volume.remarks.len()), (sample_voxels(), 0), "{behind}");
        }
        let more = [&padded[..], &[1]].concat();
        refused(nifti::read_bytes(&more, "case.nii"), "the header's dimensions ask for");
        refused(nifti::read_bytes(&gzip(&more), "case.nii"), "more data than the header's dimensions ask for");
    }
}

#[test]
fn gzip_checksum_and_length_are_checked() {
    let packed = gzip(&File::sample(1, false).bytes());
    let end = packed.len();
    for at in end - 8..end {
        let mut damaged = packed.clone();
        damaged[at] ^= 1;
        refused(nifti::read_bytes(&damaged, "case.nii"), "damaged or truncated");
    }
}

#[test]
fn a_header_that_announces_too_much_is_refused() {
    let mut file = File::sample(1, false);
    file.dim = vec![3, 2048, 2048, 1024];
    refused(nifti::read_bytes(&gzip(&file.bytes()), "case.nii"), "more than");
    // Enough compressed bytes to make 200 MB conceivable, but no data behind them.
    file.dim = vec![3, 512, 512, 400];
    let mut random = Random(7);
    file.data = (0..300_000).map(|_| random.below(256) as u8).collect();
    let announced = 512 * 512 * 400 * 2 + 352;
    refused(
        nifti::read_bytes(&gzip(&file.bytes()), "case.nii"),
        &format!("300352 bytes where the header's dimensions ask for {announced}"),
    );
}

/// A volume whose gzip stream has several kilobytes and all block features.
fn noisy_volume() -> CtVolume {
    let mut random = Random(1);
    let values = (0..20 * 16 * 9).map(|i| (i % 400) as i16 - 1000 + random.below(30) as i16).collect();
    let affine = Affine::centred(AxisCodes::LPS, [0.7, 0.7, 2.5], [20, 16, 9]).unwrap();
    CtVolume::new(Voxels::I16(values), [20, 16, 9], affine).unwrap()
}

#[test]
fn corrupted_gzip_is_refused_or_harmless() {
    let volume = noisy_volume();
    let packed = gzip(&nifti::encode(&volume).unwrap());
    let sound = nifti::read_bytes(&packed, "case.nii").unwrap();
    let mut refusals = 0;
    for seed in 0..300 {
        let mut random = Random(seed);
        let mut damaged = packed.clone();
        match seed % 5 {
            0 => damaged[random.below(packed.len())] ^= 1 << random.below(8),
            1 => {
                for _ in 0..1 + random.below(8) {
                    damaged[random.below(packed.len())] = random.below(256) as u8;
                }
            }
            2 => damaged.truncate(random.below(packed.len())),
            3 => {
                let start = random.below(packed.len());
                let end = (start + 1 + random.below(64)).min(packed.len());
                damaged[start..end].fill(0);
            }
            _ => {
                let start = random.below(packed.len());
                let end = (start + 1 + random.below(64)).min(packed.len());
                damaged.drain(start..end);
            }
        }
        match nifti::read_bytes(&damaged, "case.nii") {
            Ok(read) => assert_eq!(read, sound, "seed {seed}"),
            Err(error) => {
                refusals += 1;
                assert!(!error.to_string().contains('\n'));
            }
        }
    }
    // Only the few bytes of gzip's own header (time, system) can change without consequence.
    assert!(refusals >= 290, "{refusals} of 300 refused");
}

#[test]
fn corrupted_headers_never_panic() {
    for version in [1, 2] {
        for big in [false, true] {
            let bytes = File { qform_code: 1, ..File::sample(version, big) }.bytes();
            for seed in 0..4000 {
                let mut random = Random(seed);
                let mut damaged = bytes.clone();
                for _ in 0..1 + random.below(4) {
                    let at = random.below(bytes.len());
                    damaged[at] = [0, 1, 0x7f, 0x80, 0xff, random.below(256) as u8][random.below(6)];
                }
                let packed = gzip(&damaged);
                let plain = nifti::read_bytes(&damaged, "case.nii").map_err(|e| e.to_string());
                let zipped = nifti::read_bytes(&packed, "case.nii");
                assert_eq!(plain.is_ok(), zipped.is_ok(), "seed {seed}");
                if let (Ok(plain), Ok(zipped)) = (plain, zipped) {
                    assert_eq!(plain, zipped);
                }
            }
        }
    }
}

#[test]
fn writing_is_atomic_and_repeatable() {
    let folder = tempfile::tempdir().unwrap();
    let volume = noisy_volume();
    for name in ["a.nii", "b.nii.gz"] {
        let path = folder.path().join(name);
        nifti::write(&path, &volume).unwrap();
        let first = std::fs::read(&path).unwrap();
        nifti::write(&path, &volume).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), first);
        let read = nifti::read(&path).unwrap();
        assert_eq!((&read.voxels, read.shape), (&volume.voxels, volume.shape));
    }
    let mut names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["a.nii", "b.nii.gz"], "no temporary file stays behind");

    let message = |path: &str| nifti::write(folder.path().join(path), &volume).unwrap_err().to_string();
    assert!(message("c.png").contains("end it in .nii or .nii.gz"));
    assert!(message("absent/c.nii").contains("check the path"));
    assert!(nifti::read(folder.path()).unwrap_err().to_string().contains("is a folder, not a file"));
    assert!(nifti::read("/dev/zero").unwrap_err().to_string().contains("is a device, not a file"));
    assert!(nifti::read(folder.path().join("absent.nii")).unwrap_err().to_string().contains("check the path"));

    let mut file = std::fs::File::create(folder.path().join("torn.nii.gz")).unwrap();
    file.write_all(&gzip(&nifti::encode(&volume).unwrap())[..500]).unwrap();
    let error = nifti::read(folder.path().join("torn.nii.gz")).unwrap_err().to_string();
    assert!(error.contains("torn.nii.gz: the gzip data are damaged or truncated"), "{error}");

    let long = CtVolume::new(Voxels::I16(vec![0; 40_000].into()), [40_000, 1, 1], volume.affine).unwrap();
    assert!(nifti::encode(&long).unwrap_err().to_string().contains("axis 0 has 40000 voxels"));
}

#[test]
fn a_volume_checks_itself() {
    let affine = Affine::new(ROWS).unwrap();
    let text = |voxels, shape| CtVolume::new(voxels, shape, affine).unwrap_err().to_string();
    assert!(text(Voxels::I16(vec![0; 7].into()), [2, 2, 2]).contains("7 voxels given for shape [2, 2, 2]"));
    assert!(text(Voxels::I16(vec![].into()), [0, 2, 2]).contains("0 voxels"));
    assert!(text(Voxels::I16(vec![0].into()), [usize::MAX, 2, 2]).contains("1 voxels"));
    assert!(text(Voxels::F32(vec![0.0, f32::NAN, 0.0, 0.0].into()), [2, 2, 1]).contains("voxel [1, 0, 0] is NaN"));
}

fn volumes() -> impl Strategy<Value = CtVolume> {
    let voxels = |n: usize| {
        prop_oneof![
            prop::collection::vec(any::<i16>(), n).prop_map(Voxels::from),
            prop::collection::vec(-1e30f32..1e30, n).prop_map(Voxels::from),
        ]
    };
    let geometry = (0usize..48, [0.1f64..5.0, 0.1..5.0, 0.1..5.0], [-0.2f64..0.2, -0.2..0.2, -0.2..0.2]);
    let scaling = (0.001f32..100.0, -10_000f32..10_000.0);
    ([1usize..7, 1usize..7, 1usize..7], geometry, scaling).prop_flat_map(move |(shape, geometry, scaling)| {
        voxels(shape.iter().product()).prop_map(move |voxels| {
            let (codes, spacing, tilt) = geometry;
            let codes = AxisCodes::all().nth(codes).expect("48 codes");
            let mut rows = Affine::centred(codes, spacing, shape).expect("a sound affine").rows();
            for (r, row) in rows.iter_mut().enumerate() {
                row[r] += tilt[r] * 0.05;
                row[(r + 1) % 3] += tilt[r] * 0.05;
            }
            let affine = Affine::new(rows.map(|row| row.map(|v| f64::from(v as f32)))).expect("a sound affine");
            let mut volume = CtVolume::new(voxels, shape, affine).expect("a sound volume");
            (volume.slope, volume.intercept) = scaling;
            volume
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read(volume in volumes()) {
        let bytes = nifti::encode(&volume).unwrap();
        prop_assert_eq!(&nifti::read_bytes(&bytes, "case.nii").unwrap(), &volume);
        prop_assert_eq!(&nifti::read_bytes(&gzip(&bytes), "case.nii").unwrap(), &volume);
    }

    #[test]
    fn arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..700), start in 0usize..4) {
        let starts: [&[u8]; 4] = [&[], &[0x5c, 1, 0, 0], &[0, 0, 2, 0x1c], &[0x1f, 0x8b, 8, 0]];
        for (byte, &given) in bytes.iter_mut().zip(starts[start]) {
            *byte = given;
        }
        prop_assert!(nifti::read_bytes(&bytes, "case.nii").is_err());
    }
}
