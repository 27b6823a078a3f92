//! The one entry of all readers, RadChest-CT's archives, and what damaged files come to. NIfTI itself is in `nifti.rs`.

use libdeflater::{CompressionLvl, Compressor};
use x2ct::ct::radchest::{self, Acquisition};
use x2ct::ct::{self, Affine, AffineSource, AxisCodes, CtVolume, HuSource, ReadOptions, Voxels, nifti};

use crate::support::npz::{archive, npz};

const ROW: Acquisition = Acquisition { spacing: 0.8, slope: 2.0 };

fn options(row: Acquisition) -> ReadOptions<'static> {
    ReadOptions { radchest: Some(row), ..ReadOptions::default() }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut compressor = Compressor::new(CompressionLvl::default());
    let mut out = vec![0; compressor.gzip_compress_bound(bytes.len())];
    let length = compressor.gzip_compress(bytes, &mut out).unwrap();
    out.truncate(length);
    out
}

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

/// A volume whose gzip stream has several kilobytes and all block features.
fn noisy() -> CtVolume {
    let mut random = Random(1);
    let values: Vec<i16> = (0..20 * 16 * 9).map(|i| (i % 400) as i16 - 1000 + random.below(30) as i16).collect();
    let affine = Affine::centred(AxisCodes::LPS, [0.7, 0.7, 2.5], [20, 16, 9]).unwrap();
    CtVolume::new(values.into(), [20, 16, 9], affine).unwrap()
}

#[test]
fn formats_are_told_apart_by_content() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let volume = noisy();
    let plain = nifti::encode(&volume).unwrap();
    for (name, bytes) in [("plain.bin", plain.clone()), ("packed.nii", gzip(&plain))] {
        std::fs::write(at(name), bytes).unwrap();
        assert_eq!(ct::read(at(name)).unwrap().voxels, volume.voxels, "{name}");
    }
    std::fs::write(at("volume.dat"), npz([1, 2, 3], &[1, 2, 3, 4, 5, 6], true)).unwrap();
    assert_eq!(ct::read_with(at("volume.dat"), &options(ROW)).unwrap().voxels, vec![1i16, 2, 3, 4, 5, 6].into());

    let message = |name: &str| ct::read(at(name)).unwrap_err().to_string();
    let text = message("volume.dat");
    assert!(
        text.contains("says nothing of voxel size") && text.contains("CT_Scan_Metadata_Complete_35747.csv"),
        "{text}"
    );
    std::fs::write(at("text.nii"), "no volume").unwrap();
    assert!(message("text.nii").contains("is a text file, no CT volume"));
    std::fs::write(at("slice.dcm"), [&[0; 128][..], b"DICM"].concat()).unwrap();
    let text = message("slice.dcm");
    assert!(
        text.contains(if cfg!(feature = "dicom") { "no readable DICOM file" } else { "feature `dicom`" }),
        "{text}"
    );
    std::fs::write(at("empty.nii"), "").unwrap();
    assert!(message("empty.nii").contains("ends after 0 bytes"));
    assert!(message("absent.nii").contains("check the path"));
    std::fs::create_dir(at("series")).unwrap();
    let text = message("series");
    assert!(text.contains(if cfg!(feature = "dicom") { "holds 0 CT slices" } else { "feature `dicom`" }), "{text}");
}

/// The two files of a NIfTI-1 pair: the header with its magic and offset changed, and the voxels.
fn halves(volume: &CtVolume, magic: &[u8; 4], offset: f32) -> [Vec<u8>; 2] {
    let mut header = nifti::encode(volume).unwrap();
    let image = header.split_off(352);
    header[344..348].copy_from_slice(magic);
    header[108..112].copy_from_slice(&offset.to_le_bytes());
    [header, image]
}

#[test]
fn nifti_pairs_are_read_by_either_half() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let volume = noisy();
    let lead = |bytes: &[u8]| [&[7; 16][..], bytes].concat();
    for (n, magic, offset, shifted) in
        [(0, b"ni1\0", 0.0, false), (1, b"ni1\0", 16.0, true), (2, b"n+1\0", 352.0, false), (3, b"ni1\0", 352.0, false)]
    {
        let [header, image] = halves(&volume, magic, offset);
        let image = if shifted { lead(&image) } else { image };
        let header = if n == 0 { header[..348].to_vec() } else { header };
        for (header_name, image_name, packed) in [("a.hdr", "a.img", false), ("b.hdr.gz", "b.img.gz", true)] {
            let pack = |bytes: &[u8]| if packed { gzip(bytes) } else { bytes.to_vec() };
            std::fs::write(at(header_name), pack(&header)).unwrap();
            std::fs::write(at(image_name), pack(&image)).unwrap();
            for name in [header_name, image_name] {
                let read = ct::read(at(name)).unwrap_or_else(|e| panic!("case {n}: {e}"));
                assert_eq!(
                    (&read.voxels, read.affine),
                    (&volume.voxels, nifti::read_bytes(&nifti::encode(&volume).unwrap(), "x").unwrap().affine)
                );
            }
        }
    }
    let [header, image] = halves(&volume, b"ni1\0", 0.0);
    std::fs::write(at("a.hdr"), &header).unwrap();
    std::fs::write(at("a.img"), &image[..image.len() - 1]).unwrap();
    let text = ct::read(at("a.hdr")).unwrap_err().to_string();
    assert!(text.contains("a.img: 5759 bytes where the header's dimensions ask for 5760"), "{text}");
    std::fs::remove_file(at("a.img")).unwrap();
    let text = ct::read(at("a.hdr")).unwrap_err().to_string();
    assert!(text.contains("header half of a .hdr/.img pair") && text.contains("NAME.img"), "{text}");
}

/// NumPy's `rot90(array, k=-1, axes=(0, 2))`, RadChest-CT's published turn: out[x, y, z] = array[Z - 1 - z, y, x].
#[test]
fn radchest_lies_as_its_published_reader_turns_it() {
    let [nz, ny, nx] = [4, 3, 5];
    let stored: Vec<i16> = (0..nz * ny * nx).map(|i| i as i16 * 7 - 200).collect();
    for deflated in [false, true] {
        let volume = ct::read_bytes(&npz([nz, ny, nx], &stored, deflated), "case.npz", &options(ROW)).unwrap();
        assert_eq!((volume.shape, volume.spacing()), ([nx, ny, nz], [0.8; 3]));
        assert_eq!(volume.axis_codes().to_string(), "LPI");
        assert_eq!(
            (volume.affine_source, volume.hu_scale(HuSource::AlreadyHu)),
            (AffineSource::Convention, (1.0, 0.0)),
            "the voxels are HU, whatever slope the table has"
        );
        assert_eq!(volume.remarks.len(), 1);
        assert!(volume.remarks[0].contains("orig_slope, 2, is not applied"), "{:?}", volume.remarks);
        let turned = volume.reorient(AxisCodes::LPS);
        for (x, y, z) in (0..nx).flat_map(|x| (0..ny).flat_map(move |y| (0..nz).map(move |z| (x, y, z)))) {
            let want = stored[(nz - 1 - z) * ny * nx + y * nx + x];
            assert_eq!(turned.voxels.get(x + nx * (y + ny * z)), f32::from(want), "[{x}, {y}, {z}]");
        }
    }
}

#[test]
fn radchest_is_refused_with_the_reason() {
    let sound = npz([2, 2, 2], &[0; 8], true);
    let refused = |bytes: &[u8], text: &str| {
        let message = ct::read_bytes(bytes, "case.npz", &options(ROW)).expect_err(text).to_string();
        assert!(message.starts_with("case.npz: ") && !message.contains('\n'), "{message}");
        assert!(message.contains(text), "{message:?} does not contain {text:?}");
    };
    let array = |header: &str, data: &[u8]| {
        let length = (header.len() as u16).to_le_bytes();
        archive("ct.npy", &[b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), data].concat(), true)
    };
    refused(&archive("arr_0.npy", b"", false), "no array `ct`");
    refused(&sound[..sound.len() - 1], "no whole .npz archive");
    refused(&archive("ct.npy", b"not numpy at all", true), "header is damaged");
    let header = |descr: &str, order: &str, shape: &str| {
        format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}\n")
    };
    refused(&array(&header("<f8", "False", "(1, 1, 1)"), &[0; 8]), "elements are \"<f8\"");
    refused(&array(&header("<i2", "True", "(1, 1, 1)"), &[0; 2]), "Fortran order");
    refused(&array(&header("<i2", "False", "(4,)"), &[0; 8]), "its shape is [4]");
    refused(&array(&header("<i2", "False", "(1, 2, 3)"), &[0; 8]), "for the shape [1, 2, 3]");
    refused(&array(&header("<i2", "False", "(0, 2, 3)"), &[]), "for the shape [0, 2, 3]");
    refused(&array(&header("<i2", "False", &format!("({0}, {0}, {0})", usize::MAX)), &[0; 8]), "for the shape");
    let impossible = Acquisition { spacing: 1e9, ..ROW };
    let message = ct::read_bytes(&sound, "case.npz", &options(impossible)).unwrap_err().to_string();
    assert!(message.contains("1000000000 mm"), "{message}");
}

#[test]
fn radchest_damage_is_refused_or_harmless() {
    let values: Vec<i16> = (0..6 * 7 * 8).map(|i| i as i16 * 11 - 1000).collect();
    for deflated in [false, true] {
        let whole = npz([6, 7, 8], &values, deflated);
        let mut refusals = 0;
        for seed in 0..500 {
            let mut random = Random(seed);
            let mut damaged = whole.clone();
            match seed % 3 {
                0 => damaged[random.below(whole.len())] ^= 1 << random.below(8),
                1 => damaged.truncate(random.below(whole.len())),
                _ => damaged.insert(random.below(whole.len()), random.below(256) as u8),
            }
            match ct::read_bytes(&damaged, "case.npz", &options(ROW)) {
                Ok(volume) => assert_eq!(volume.voxels, values.clone().into(), "seed {seed}"),
                Err(error) => {
                    refusals += 1;
                    assert!(!error.to_string().contains('\n'), "{error}");
                }
            }
        }
        // Dates, versions and attributes of the archive can change without consequence.
        assert!(refusals >= 400, "{refusals} of 500 refused");
    }
}

#[test]
fn the_radchest_table_is_read_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("table.csv");
    let look = |text: &str, name: &str| {
        std::fs::write(&path, text).unwrap();
        radchest::Acquisitions::read(&path).and_then(|table| table.of(name)).map_err(|e| e.to_string())
    };
    let table = "other,VolumeAcc_DEID,orig_slope,final_spacing\n\"a, b\",trn00001,1.0,0.8\nc,trn00002.npz,2.5,0.9\n";
    assert_eq!(look(table, "trn00001.npz"), Ok(Acquisition { spacing: 0.8, slope: 1.0 }));
    assert_eq!(look(table, "trn00002"), Ok(Acquisition { spacing: 0.9, slope: 2.5 }));
    assert!(look(table, "trn00003.npz").unwrap_err().contains("has no row for trn00003"));
    assert!(look("VolumeAcc_DEID,orig_slope\n", "a").unwrap_err().contains("missing columns: final_spacing"));
    let bad = "VolumeAcc_DEID,orig_slope,final_spacing\na,1,-1\nb,nan,1\nc,1,1\nc,1,2\nd,1\ne,1,3\n";
    assert!(look(bad, "a").unwrap_err().contains("line 2, column final_spacing: \"-1\""));
    assert!(look(bad, "b").unwrap_err().contains("line 3, column orig_slope: \"nan\""));
    assert!(look(bad, "c").unwrap_err().contains("line 5, column VolumeAcc_DEID: c stands on line 4 already"));
    assert!(look(bad, "d").unwrap_err().contains("line 6: has 2 fields, the header 3"));
    assert_eq!(look(bad, "e"), Ok(Acquisition { spacing: 3.0, slope: 1.0 }), "bad rows cost themselves");
    assert!(radchest::Acquisitions::read("absent.csv").unwrap_err().to_string().contains("check the path"));
}

/// One seeded corruption of `packed`, the gzip of `plain`.
fn corrupt(seed: u64, packed: &[u8], plain: &[u8]) -> Vec<u8> {
    let mut random = Random(seed);
    let mut bytes = packed.to_vec();
    match seed % 10 {
        0 | 1 => bytes[random.below(packed.len())] ^= 1 << random.below(8),
        2 => (0..1 + random.below(8)).for_each(|_| bytes[random.below(packed.len())] = random.below(256) as u8),
        3 => bytes.truncate(random.below(packed.len())),
        4 => {
            let (at, count) = (random.below(packed.len()), 1 + random.below(64));
            bytes.splice(at..at, (0..count).map(|_| random.below(256) as u8));
        }
        5 => {
            let (at, count) = (random.below(packed.len()), 1 + random.below(64));
            bytes.drain(at..(at + count).min(packed.len()));
        }
        // A field of the gzip header or trailer.
        6 => {
            let ends: Vec<usize> = (0..10).chain(packed.len() - 8..packed.len()).collect();
            bytes[ends[random.below(ends.len())]] = random.below(256) as u8;
        }
        // A field of the NIfTI header in sound gzip: sizes, bits a voxel, voxel offset, magic, length. Not the datatype and
        // not the affine: another sound value there is another file, not damage.
        7 => {
            let fields = [(0, 4), (40, 16), (72, 2), (108, 4), (344, 4)];
            let (at, count) = fields[random.below(fields.len())];
            let mut plain = plain.to_vec();
            plain[at + random.below(count)] = [0, 1, 0x7f, 0x80, 0xff, random.below(256) as u8][random.below(6)];
            bytes = gzip(&plain);
        }
        // Members: one damaged, one lost, one twice, one cut, garbage behind.
        8 => {
            let cut = 1 + random.below(plain.len() - 1);
            let [first, second] = [gzip(&plain[..cut]), gzip(&plain[cut..])];
            bytes = match random.below(5) {
                0 => [&first[..], &second[..second.len() - 1 - random.below(second.len() - 1)]].concat(),
                1 => second,
                2 => [&first[..], &first, &second].concat(),
                3 => [&first[..first.len() / 2], &second].concat(),
                _ => [&first[..], &second, &[0x1f, 0x8b]].concat(),
            };
        }
        // Members that are sound together.
        _ => {
            let cut = random.below(plain.len());
            bytes = [gzip(&plain[..cut]), gzip(b""), gzip(&plain[cut..])].concat();
        }
    }
    bytes
}

#[test]
fn a_thousand_corruptions_are_refused_or_harmless() {
    let volume = noisy();
    let plain = nifti::encode(&volume).unwrap();
    let packed = gzip(&plain);
    let sound = ct::read_bytes(&packed, "case.nii.gz", &ReadOptions::default()).unwrap();
    assert_eq!(sound.voxels, volume.voxels);
    let (mut refused, mut read) = ([0; 10], [0; 10]);
    for seed in 0..1000 {
        match ct::read_bytes(&corrupt(seed, &packed, &plain), "case.nii.gz", &ReadOptions::default()) {
            Ok(volume) => {
                assert_eq!((&volume.voxels, volume.shape), (&sound.voxels, sound.shape), "seed {seed}");
                read[seed as usize % 10] += 1;
            }
            Err(error) => {
                let text = error.to_string();
                assert!(text.starts_with("case.nii.gz: ") && !text.contains('\n'), "seed {seed}: {text}");
                refused[seed as usize % 10] += 1;
            }
        }
    }
    println!("1000 corruptions, by kind: {refused:?} refused, {read:?} decoded to the same voxels");
    // Every split into sound members reads; what damages data never does.
    assert_eq!((read[9], read[3], read[5]), (100, 0, 0));
    assert!(refused.iter().sum::<i32>() > 800, "{refused:?}");
}

/// Voxels shared with the host device, and copied where they are not aligned, are the same voxels.
#[test]
fn a_volume_on_the_host_is_not_copied() {
    let device = crate::support::host(Default::default());
    let volume = noisy();
    let read = ct::read_bytes(
        &gzip(&nifti::encode(&volume).unwrap()),
        "case.nii.gz",
        &ReadOptions { device: Some(&device), ..Default::default() },
    );
    let read = read.unwrap();
    let Voxels::I16(values) = &read.voxels else { panic!("int16 stays int16") };
    let shared = read.to_device(&device, HuSource::AlreadyHu).unwrap();
    assert_eq!(shared.ptr().0, values.as_ptr() as u64);
    let before = device.memory().live;
    let copied = volume.to_device(&device, HuSource::AlreadyHu).unwrap();
    assert_eq!(copied.voxels(), shared.voxels());
    assert!(device.memory().live >= before);
    // The array outlives the volume it came from.
    drop(read);
    let preset = ct::Preset::x2ct();
    let op = preset.operator([20, 16, 9], &volume.affine, x2ct::tensor::DType::F32).unwrap();
    assert_eq!(op.apply(&shared).unwrap().to_vec().unwrap(), op.apply(&copied).unwrap().to_vec().unwrap());
}
