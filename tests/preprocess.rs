//! Presets on whole volumes, and `x2ct preprocess`. Presets against NumPy and PyTorch: `tests/golden/ct_preset_*`.

use x2ct::ct::{Affine, AxisCodes, CtVolume, HuSource, Preset};
use x2ct::tensor::DType;

use crate::support::{devices, host};

/// Soft tissue in a field of view; `outside` around it and `air` between them.
fn padded(outside: i16) -> CtVolume {
    let shape = [24, 22, 8];
    let values = (0..shape.iter().product::<usize>()).map(|i| {
        let (x, y) = ((i % 24) as f64 - 11.5, (i / 24 % 22) as f64 - 10.5);
        match x.hypot(y) {
            r if r > 10.0 => outside,
            r if r > 9.0 => -1000,
            _ => 40 + (i % 7) as i16,
        }
    });
    let affine = Affine::centred(AxisCodes::LPS, [0.6, 0.7, 1.9], shape).unwrap();
    CtVolume::new(values.collect::<Vec<i16>>().into(), shape, affine).unwrap()
}

/// Scanners fill what lies outside the field of view with -2048 or less. A preset that clips first sees air there, to the bit;
/// one that clips after the resize lets it bleed into the voxels beside it.
#[test]
fn padding_outside_the_field_of_view_is_air_before_interpolation() {
    for (name, device) in devices() {
        for preset in Preset::all() {
            let apply = |preset: &Preset, outside: i16| {
                let preset = Preset { size: preset.size.map(|_| [23, 19, 9]), ..preset.clone() };
                let out = preset.apply(&device, &padded(outside), HuSource::AlreadyHu, DType::F32).unwrap();
                out.to_vec().unwrap()
            };
            let air = apply(&preset, -1000);
            for outside in [-1024, -2048, -3024, i16::MIN] {
                assert_eq!(apply(&preset, outside), air, "{name} {} {outside}", preset.name);
            }
            let after = preset.clone().clip_after();
            let bled = apply(&after, -2048);
            assert_ne!(bled, apply(&after, -1000), "{name} {}", after.name);
            // Even so nothing is darker than air where a window follows.
            if preset.window.is_some() {
                assert!(bled.iter().all(|&v| v >= -1.0), "{name} {}", after.name);
            }
        }
    }
}

#[test]
fn a_preset_in_pieces_is_the_whole() {
    let device = host(Default::default());
    let preset = Preset { size: Some([30, 21, 11]), ..Preset::ct_clip_v2() };
    let volume = padded(-2048);
    for dtype in [DType::F32, DType::Bf16] {
        let whole = preset.apply(&device, &volume, HuSource::AlreadyHu, dtype).unwrap().to_vec().unwrap();
        for bytes in [1, 6000, 1 << 20] {
            let mut joined = Vec::new();
            let mut pieces = 0;
            let take = |piece: x2ct::Tensor| {
                pieces += 1;
                joined.extend(piece.to_vec()?);
                Ok(())
            };
            preset.apply_in_pieces(&device, &volume, HuSource::AlreadyHu, dtype, bytes, take).unwrap();
            assert_eq!(joined, whole);
            assert_eq!(pieces == 1, bytes == 1 << 20);
        }
    }
}

#[cfg(feature = "cli")]
mod cli {
    use std::path::Path;
    use std::process::Output;

    use assert_cmd::Command;
    use serde_json::{Value, json as value};
    use x2ct::Device;
    use x2ct::archive::Archive;
    use x2ct::ct::{CtVolume, HuSource, Preset, nifti};
    use x2ct::data::volumes::{self, VolumeSet};
    use x2ct::tensor::DType;

    use super::padded;
    use crate::cli::{json, succeed};
    use crate::left_out::{BUILD, SHAPE, noise, refused, study, write_saying};
    use crate::support::npz::npz;
    use crate::teacher::circle;

    fn preprocess(folder: &Path, arguments: &str) -> Output {
        let mut command = Command::new(crate::support::program());
        command.args(["preprocess", "--device", "host"]).args(arguments.split_whitespace());
        command.current_dir(folder).output().unwrap()
    }

    fn read(path: &Path) -> Archive {
        Archive::read(path, volumes::ONE, "prepared volume", "prepare it again").unwrap()
    }

    fn expected(preset: &Preset, volume: &CtVolume) -> Vec<f32> {
        let out = preset.apply(&Device::host(), volume, HuSource::AlreadyHu, DType::F32);
        out.unwrap().to_vec().unwrap()
    }

    #[test]
    fn a_volume_is_written_with_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let volume = CtVolume { slope: 2.0, intercept: -24.0, ..padded(-2048) };
        nifti::write(folder.path().join("a.nii.gz"), &volume).unwrap();
        let output = preprocess(folder.path(), "a.nii.gz --force --preset x2ct --out a.safetensors --json");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let preset = Preset::x2ct();
        assert_eq!(report["preset_digest"], preset.digest());
        assert_eq!(report["rows"][0]["shape"], serde_json::json!([1, 15, 15, 14]));

        let archive = read(&folder.path().join("a.safetensors"));
        let (shape, values) = archive.f32("volume").unwrap();
        assert_eq!(shape, [1, 15, 15, 14]);
        let stored = nifti::read(folder.path().join("a.nii.gz")).unwrap();
        assert_eq!(values, expected(&preset, &stored));
        assert_eq!(archive.get("preset_digest").unwrap(), preset.digest());
        assert_eq!(archive.get_json::<Preset>("preset").unwrap(), preset);
        assert_eq!(archive.get("input").unwrap(), "a.nii.gz");
        assert_eq!(archive.get("ct_digest").unwrap(), x2ct::data::provenance::of_ct(&stored));
        let source: Value = archive.get_json("hu_source").unwrap();
        assert_eq!(source, serde_json::json!({"from": "file", "slope": 2.0, "intercept": -24.0}));
        let geometry: Value = archive.get_json("geometry").unwrap();
        assert_eq!(geometry["axis_codes"], "LPS");
        assert_eq!(geometry["resized"], serde_json::json!([14, 15, 15]));

        // The same again gives the same bytes; bf16 and the other clip another preset or type.
        let bytes = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
        let first = bytes("a.safetensors");
        assert!(preprocess(folder.path(), "a.nii.gz --force --preset x2ct --out a.safetensors").status.success());
        assert_eq!(bytes("a.safetensors"), first);
        let run = "a.nii.gz --force --preset x2ct --clip-after --dtype bf16 --out half.safetensors";
        assert!(preprocess(folder.path(), run).status.success());
        let half = read(&folder.path().join("half.safetensors"));
        assert_eq!(half.get("preset_digest").unwrap(), preset.clip_after().digest());
        assert!(bytes("half.safetensors").len() < first.len() * 2 / 3);

        // A changed byte is noticed.
        let mut damaged = first.clone();
        *damaged.last_mut().unwrap() ^= 1;
        std::fs::write(folder.path().join("damaged.safetensors"), damaged).unwrap();
        let read = Archive::read(&folder.path().join("damaged.safetensors"), volumes::ONE, "volume", "again");
        assert!(read.err().unwrap().to_string().contains("changed or damaged"));
    }

    #[test]
    fn bad_volumes_are_reported_and_skipped() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        nifti::write(at("good.nii.gz"), &padded(-1000)).unwrap();
        let whole = std::fs::read(at("good.nii.gz")).unwrap();
        std::fs::write(at("torn.nii.gz"), &whole[..whole.len() / 2]).unwrap();
        let thin = CtVolume {
            affine: x2ct::ct::Affine::centred(x2ct::ct::AxisCodes::LPS, [0.01; 3], [24, 22, 8]).unwrap(),
            ..padded(0)
        };
        nifti::write(at("thin.nii"), &thin).unwrap();
        let output = preprocess(folder.path(), "torn.nii.gz good.nii.gz absent.nii thin.nii --preset x2ct --out made");
        assert_eq!(output.status.code(), Some(1));
        let errors = String::from_utf8(output.stderr).unwrap();
        let lines: Vec<&str> = errors.lines().collect();
        assert_eq!(lines.len(), 5, "{errors}");
        assert!(lines[0].contains("torn.nii.gz: the gzip data are damaged or truncated"), "{errors}");
        assert!(lines[1].starts_with("x2ct: warning: good.nii.gz: It measures only 14.4 x 15.4 x 15.2 mm"), "{errors}");
        assert!(lines[2].contains("It has only 8 different values"), "{errors}");
        assert!(lines[3].contains("absent.nii") && lines[3].contains("check the path"), "{errors}");
        assert!(
            lines[4].contains("thin.nii: plausibility: this is no chest CT in HU: it measures 0.24 x 0.22 x 0.08 mm"),
            "{errors}"
        );
        let names: Vec<_> = std::fs::read_dir(at("made")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["good.safetensors"]);

        let refused = |arguments: &str, text: &str| {
            let output = preprocess(folder.path(), arguments);
            let errors = String::from_utf8(output.stderr).unwrap();
            assert!(!output.status.success() && errors.contains(text), "{arguments}: {errors}");
        };
        refused("good.nii.gz torn.nii.gz --preset x2ct --out one.safetensors", "name a folder");
        std::fs::create_dir(at("made/more")).unwrap();
        std::fs::copy(at("good.nii.gz"), at("made/more/good.nii.gz")).unwrap();
        let output = preprocess(folder.path(), "good.nii.gz made/more --preset x2ct --out made");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(at("made/good-2.safetensors").exists());
        refused("thin.nii --force --preset x2ct --out made", "thin.nii: CT volume: [24, 22, 8] voxels of");
        refused("good.nii.gz --preset ct-clip --out made", "use one of ct-clip-v2");
        refused("good.nii.gz --preset x2ct --out absent/a.safetensors", "make the folder first: mkdir -p absent");
        refused("good.nii.gz --preset x2ct --out made --hu-source csv", "--metadata");
        refused("good.nii.gz --preset x2ct --out made --pack all.safetensors", "DCFormer takes z, x, y");
    }

    #[test]
    fn tables_give_scaling_and_voxel_size() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        // CT-RATE's original release: the header means nothing, the axes are LPS.
        let lie = x2ct::ct::Affine::centred(x2ct::ct::AxisCodes::RAS, [5.0; 3], [24, 22, 8]).unwrap();
        nifti::write(at("train_1_a_1.nii.gz"), &CtVolume { affine: lie, slope: 9.0, ..padded(-1000) }).unwrap();
        let table = "VolumeName,RescaleSlope,RescaleIntercept,XYSpacing,ZSpacing\ntrain_1_a_1.nii.gz,2,-500,\"[0.6, 0.6]\",1.9\n";
        std::fs::write(at("rate.csv"), table).unwrap();
        let run = "train_1_a_1.nii.gz --force --preset x2ct --hu-source csv --metadata rate.csv --out rate.safetensors";
        let output = preprocess(folder.path(), run);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let affine = x2ct::ct::Affine::centred(x2ct::ct::AxisCodes::LPS, [0.6, 0.6, 1.9], [24, 22, 8]).unwrap();
        let truth = CtVolume { affine, slope: 2.0, intercept: -500.0, ..padded(-1000) };
        let archive = read(&at("rate.safetensors"));
        assert_eq!(archive.f32("volume").unwrap().1, expected(&Preset::x2ct(), &truth));
        assert!(archive.get("hu_source").unwrap().contains("metadata table"));

        // RadChest-CT's voxels are HU: the table gives their size alone, and its slope is never applied to them again.
        let values: Vec<i16> = (0..6 * 7 * 8).map(|i| i as i16 * 5 - 900).collect();
        std::fs::write(at("trn00001.npz"), npz([6, 7, 8], &values, true)).unwrap();
        std::fs::write(at("rad.csv"), "VolumeAcc_DEID,orig_slope,final_spacing\ntrn00001.npz,2,2.5\n").unwrap();
        let output = preprocess(folder.path(), "trn00001.npz --preset x2ct --metadata rad.csv --out rad.safetensors");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let shape = [8, 7, 6];
        let affine = x2ct::ct::Affine::centred("LPI".parse().unwrap(), [2.5; 3], shape).unwrap();
        let truth = CtVolume::new(values.into(), shape, affine).unwrap();
        assert_eq!(read(&at("rad.safetensors")).f32("volume").unwrap().1, expected(&Preset::x2ct(), &truth));
        let twice = "trn00001.npz --preset x2ct --hu-source csv --metadata rad.csv --out rad.safetensors";
        let output = preprocess(folder.path(), twice);
        assert!(String::from_utf8_lossy(&output.stderr).contains("the voxels of RadChest-CT are HU already"));
        let output = preprocess(folder.path(), "trn00001.npz --preset x2ct --out rad.safetensors");
        assert!(String::from_utf8_lossy(&output.stderr).contains("says nothing of voxel size"));
    }

    /// Options that would do nothing are wrong usage; stale outputs and constant volumes are never packed.
    #[test]
    fn nothing_is_ignored_and_nothing_stale_is_packed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["a.nii.gz", "b.nii.gz"] {
            nifti::write(at(name), &padded(-1000)).unwrap();
        }
        let run = "a.nii.gz b.nii.gz --preset ct-clip-v2 --dtype bf16 --out made --pack packed.safetensors --json";
        let output = preprocess(folder.path(), "a.nii.gz --preset x2ct --metadata nowhere.csv --out a.safetensors");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{errors}");
        assert!(errors.contains("`--metadata` has no effect here: it acts with --hu-source csv"), "{errors}");
        assert!(preprocess(folder.path(), run).status.success());
        // What was forced before is told of the file that it is packed in.
        let (one, other) =
            (run.replace("b.nii.gz ", ""), run.replace("a.nii.gz ", "").replace(" --pack packed.safetensors", ""));
        assert!(preprocess(folder.path(), &format!("{other} --rescale 0.001,0 --force")).status.success());
        let output = preprocess(folder.path(), &one);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let told = |says: &str| value!({"file": "packed.safetensors", "warning": says});
        let says = [
            "1 of its 2 volumes are no plausible chest CTs and were taken with --force: b",
            "the HU of its volumes come from different sources: file (1: a); --rescale 0.001,0 (1: b)",
        ];
        let warnings = report["warnings"].as_array().unwrap();
        assert!(warnings.ends_with(&says.map(told)) && report["forced"] == value!([]), "{report}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(says.iter().all(|says| said.contains(&format!("packed.safetensors: {says}"))), "{said}");
        std::fs::write(at("b.nii.gz"), b"torn").unwrap();
        let output = preprocess(folder.path(), run);
        assert_eq!(output.status.code(), Some(1));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&report["packed"], &report["failed"][0]["file"]), (&1.into(), &"b.nii.gz".into()));
        let set = x2ct::data::volumes::VolumeSet::read(&at("packed.safetensors")).unwrap();
        assert_eq!(set.ids(), ["a"]);
        // What lies among the outputs and is none costs itself alone.
        std::fs::write(at("made/stray.safetensors"), b"stray").unwrap();
        let report: Value = serde_json::from_slice(&preprocess(folder.path(), run).stdout).unwrap();
        let failed: Vec<&str> =
            report["failed"].as_array().unwrap().iter().filter_map(|f| f["file"].as_str()).collect();
        assert_eq!((&report["packed"], &failed[..]), (&1.into(), &["b.nii.gz", "made/stray.safetensors"][..]));
        // So do volumes of another kind, unless they are more than those of this run.
        let f32s = run.replace("bf16", "f32").replace("b.nii.gz ", "");
        let packed = |run: &str| {
            let report: Value = serde_json::from_slice(&preprocess(folder.path(), run).stdout).unwrap();
            let files = report["failed"].as_array().unwrap().iter().map(|f| f["file"].as_str().unwrap().to_string());
            (report["packed"].as_u64(), files.collect::<Vec<_>>())
        };
        assert_eq!(
            packed(&f32s),
            (Some(1), ["made/b.safetensors", "made/stray.safetensors"].map(String::from).to_vec())
        );
        std::fs::copy(at("made/b.safetensors"), at("made/c.safetensors")).unwrap();
        assert_eq!(packed(&f32s), (None, vec!["made/a.safetensors".to_string()]));
    }

    /// What was said when a volume was prepared is said again of the set that it is in, wherever that is stored.
    #[test]
    fn volumes_that_were_forced_or_have_other_hu_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        succeed(at, "phantom --out . --train 1 --valid 6 --shape 16x16x16 --spacing 12");
        study(at);
        let ct = "dataset/valid_fixed/valid_1/valid_1_a/valid_1_a_1.nii.gz";
        let recorded = |options: &str| {
            succeed(at, &format!("preprocess {ct} --preset x2ct --out one.safetensors{options}"));
            let archive = read(&at.join("one.safetensors"));
            let entry = |key| Some((key, archive.get(key).ok()?.to_string()));
            ["hu_source", "forced"].into_iter().filter_map(entry).collect::<Vec<_>>()
        };
        let (usual, forced) = (recorded(""), recorded(" --rescale 0.001,0 --force"));
        std::fs::create_dir(at.join("taken")).unwrap();
        for i in 1..=6 {
            let said = if i == 2 || i == 5 { &forced } else { &usual };
            write_saying(&at.join(format!("taken/valid_{i}_a_1.safetensors")), SHAPE, &noise(i), said);
        }
        VolumeSet::read(&at.join("taken")).unwrap().write(&at.join("taken.packed")).unwrap();
        let says = [
            "2 of its 6 volumes are no plausible chest CTs and were taken with --force: valid_2_a_1, valid_5_a_1",
            "the HU of its volumes come from different sources: file (4: valid_1_a_1, valid_3_a_1, valid_4_a_1, valid_6_a_1); \
             --rescale 0.001,0 (2: valid_2_a_1, valid_5_a_1)",
        ];
        let train = |volumes: &str| {
            let paths = [
                ("train.volumes.safetensors", volumes),
                ("train.text.safetensors", "text"),
                ("epochs = 2", "epochs = 1"),
            ];
            let configuration = paths.iter().fold(circle::CT.to_string(), |text, (from, to)| text.replace(from, to));
            std::fs::write(at.join("run.toml"), configuration).unwrap();
            "train run.toml --restart".to_string()
        };
        let eval = "eval --checkpoint checkpoint.safetensors --text text --dataset . --volumes";
        for volumes in ["taken", "taken.packed"] {
            for command in [format!("{BUILD} {volumes} --out built"), format!("{eval} {volumes}"), train(volumes)] {
                let warnings = json(at, &command)["warnings"].as_array().unwrap().clone();
                for says in says {
                    let told = value!({"file": volumes, "warning": says});
                    assert_eq!(
                        warnings.iter().filter(|warning| **warning == told).count(),
                        1,
                        "{command}: {warnings:?}"
                    );
                }
                assert!(refused(at, &format!("{command} --strict")).contains(says[0]), "{command}");
            }
        }
        // Others are in order, those of the whole set and of files that say nothing.
        let set = VolumeSet::read(&at.join("taken.packed")).unwrap();
        assert!(set.select(&[0, 2, 3]).unwrap().doubts().is_empty() && set.doubts().len() == 2);
        assert!(VolumeSet::read(&at.join("packed")).unwrap().doubts().is_empty());
    }
}
