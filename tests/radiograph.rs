//! Radiographs of whole volumes and named preprocessings: orientation, geometry, sizes, bad requests.

use x2ct::Device;
use x2ct::ct::{
    Affine, AxisCodes, CtVolume, Geometry, HuSource, Mode, Preset, Projection, Radiograph, RadiographOptions, Voxels,
    image, nifti, radiograph, radiographs,
};
use x2ct::ops::drr::Projector;
use x2ct::tensor::DType;

use crate::support::{assert_close, host, normal};

/// Air with a bright voxel that is right, anterior and superior of the centre, stored in any axis order.
fn marked(codes: AxisCodes) -> CtVolume {
    let (shape, mut voxels) = ([14, 10, 12], vec![-1000i16; 14 * 10 * 12]);
    // In LPS: x to the left, y to the back, z to the head.
    voxels[3 + 14 * (2 + 10 * 9)] = 1000;
    let affine = Affine::centred(AxisCodes::LPS, [1.0, 1.0, 1.0], shape).unwrap();
    CtVolume::new(Voxels::I16(voxels.into()), shape, affine).unwrap().reorient(codes)
}

fn brightest(image: &x2ct::ct::GrayImage) -> (usize, usize) {
    let at = (0..image.pixels.len()).max_by(|&a, &b| image.pixels[a].total_cmp(&image.pixels[b])).unwrap();
    (at / image.width, at % image.width)
}

#[test]
fn row_0_is_superior_and_column_0_right_or_anterior_for_all_axis_codes() {
    let device = Device::host();
    for codes in AxisCodes::all() {
        let volume = marked(codes);
        assert_eq!(volume.axis_codes(), codes);
        for mode in [Mode::MeanHu, Mode::Attenuation] {
            // Rows: z = 9 of 12 is row 2. Columns: x = 3 from the right, y = 2 from the front.
            for (view, column) in [(Projection::Ap, 3), (Projection::Pa, 3), (Projection::Lateral, 2)] {
                let size = (mode == Mode::Attenuation).then_some(if view == Projection::Lateral {
                    [12, 10]
                } else {
                    [12, 14]
                });
                let pitch = size.map(|_| 1.0);
                let options = RadiographOptions { mode, view, size, pitch, ..Default::default() };
                let image = radiograph(&device, &volume, &options).unwrap();
                let width = if view == Projection::Lateral { 10 } else { 14 };
                assert_eq!((image.height, image.width), (12, width), "{codes} {mode:?} {view:?}");
                assert_eq!(brightest(&image), (2, column), "{codes} {mode:?} {view:?}");
            }
        }
    }
}

#[test]
fn several_views_at_once_equal_one_after_the_other() {
    let (device, volume) = (Device::host(), marked(AxisCodes::LPS));
    let views = [Projection::Lateral, Projection::Ap, Projection::Pa];
    for mode in [Mode::MeanHu, Mode::Attenuation] {
        let options = RadiographOptions { mode, ..Default::default() };
        let single =
            views.map(|view| radiograph(&device, &volume, &RadiographOptions { view, ..options.clone() }).unwrap());
        assert_eq!(radiographs(&device, &volume, &views, &options).unwrap(), single, "{mode:?}");
    }
    let error = radiographs(&device, &volume, &[], &RadiographOptions::default()).unwrap_err().to_string();
    assert!(error.contains("views: there are none"), "{error}");
}

#[test]
fn a_cone_beam_magnifies_what_is_near_the_source() {
    let device = Device::host();
    let width_of = |y: f64, view| {
        // A bar across the volume, left to right, at depth y.
        let shape = [60, 40, 10];
        let mut voxels = vec![-1000i16; 24_000];
        for z in 4..6 {
            for x in 20..40 {
                voxels[x + 60 * ((20.0 - y) as usize + 40 * z)] = 0;
            }
        }
        let affine = Affine::centred(AxisCodes::LPS, [2.0; 3], shape).unwrap();
        let volume = CtVolume::new(Voxels::I16(voxels.into()), shape, affine).unwrap();
        let options = RadiographOptions {
            mode: Mode::Attenuation,
            view,
            geometry: Geometry::Cone { sdd: 400.0, sod: 300.0 },
            size: Some([64, 1001]),
            pitch: Some(0.2),
            ..Default::default()
        };
        let image = radiograph(&device, &volume, &options).unwrap();
        image.pixels.chunks(1001).map(|row| row.iter().filter(|&&v| v > 0.01).count()).max().unwrap() as f64 * 0.2
    };
    // 40 mm at depth d from the source appear 40 * 400 / d wide: the near edge of the bar decides. y runs to the front.
    for (y, view, near) in
        [(15.0, Projection::Ap, 269.0), (-15.0, Projection::Ap, 329.0), (15.0, Projection::Pa, 329.0)]
    {
        let (got, want) = (width_of(y, view), 40.0 * 400.0 / near);
        assert!((got - want).abs() <= 0.8, "{view:?} y {y}: {got} mm, expected {want}");
    }
}

#[test]
fn mean_hu_is_the_f64_mean_of_the_resized_volume() {
    let device = host(Default::default());
    let shape = [23, 31, 9];
    let voxels: Vec<i16> = normal(1, 23 * 31 * 9).iter().map(|v| (v * 900.0) as i16).collect();
    let affine = Affine::centred(AxisCodes::LPS, [0.7, 0.8, 2.5], shape).unwrap();
    let volume =
        CtVolume { slope: 1.0, intercept: -24.0, ..CtVolume::new(Voxels::I16(voxels.into()), shape, affine).unwrap() };
    let resized = Preset::x2ct().apply(&device, &volume, HuSource::AlreadyHu, DType::F32).unwrap();
    assert_eq!(resized.shape()[..], [1, 22, 24, 16]);
    let values = resized.to_vec().unwrap();
    for codes in [AxisCodes::LPS, AxisCodes::RAS, AxisCodes::LIA] {
        let image = radiograph(&device, &volume.clone().reorient(codes), &RadiographOptions::default()).unwrap();
        assert_eq!((image.height, image.width), (22, 16));
        for (r, c) in (0..22).flat_map(|r| (0..16).map(move |c| (r, c))) {
            let want = (0..24).map(|y| values[c + 16 * (y + 24 * (21 - r))] as f64).sum::<f64>() / 24.0;
            let got = image.pixels[c + 16 * r] as f64;
            assert!((got - want).abs() <= 1e-3, "{codes} ({r}, {c}): {got} {want}");
        }
    }
}

#[test]
fn mean_hu_on_another_pixel_grid_is_interpolated_and_surrounded_by_air() {
    let device = Device::host();
    let shape = [8, 3, 6];
    let affine = Affine::centred(AxisCodes::LPS, [1.0; 3], shape).unwrap();
    let ramp: Vec<f32> = (0..8 * 3 * 6).map(|i| (i % 8) as f32 * 10.0).collect();
    let volume = CtVolume::new(Voxels::F32(ramp.into()), shape, affine).unwrap();
    let grid = |size, pitch| {
        let options = RadiographOptions { size: Some(size), pitch: Some(pitch), ..Default::default() };
        radiograph(&device, &volume, &options).unwrap()
    };
    let same = grid([6, 8], 1.0);
    let plain = radiograph(&device, &volume, &RadiographOptions::default()).unwrap();
    assert_close("same grid", &same.pixels, &plain.pixels.iter().map(|&v| v as f64).collect::<Vec<_>>(), 1e-5);
    let fine = grid([12, 16], 0.5);
    // Between centres 3 and 4, a quarter of the way.
    assert!((fine.pixels[16 * 6 + 7] - 32.5).abs() < 1e-2 && (fine.pixels[16 * 6 + 8] - 37.5).abs() < 1e-2);
    let wide = grid([20, 20], 1.0);
    assert_eq!(wide.pixels[0], -1000.0);
    let whole = RadiographOptions { size: Some([12, 12]), ..Default::default() };
    assert_eq!(Radiograph::all(&device, &volume, &[whole.view], &whole).unwrap()[0].pitch, 8.0 / 12.0);
}

#[test]
fn attenuation_ignores_padding_and_scales_with_mu() {
    let device = Device::host();
    let shape = [4, 5, 6];
    let affine = Affine::centred(AxisCodes::LPS, [1.0, 2.0, 1.0], shape).unwrap();
    let of = |hu: f32, mu_water: f64, projector| {
        let volume = CtVolume::new(Voxels::F32(vec![hu; 120].into()), shape, affine).unwrap();
        let (mode, size, pitch) = (Mode::Attenuation, Some([4, 4]), Some(0.5));
        let options =
            RadiographOptions { mode, size, pitch, mu_water, projector: Some(projector), ..Default::default() };
        radiograph(&device, &volume, &options).unwrap().pixels
    };
    // Water: 10 mm of it.
    assert_close("water", &of(0.0, 0.02, Projector::Siddon), &[0.2; 16], 1e-6);
    // The trilinear support reaches half a voxel further but falls off: the same integral.
    assert_close("water", &of(0.0, 0.02, Projector::Trilinear), &[0.2; 16], 1e-6);
    assert_close("lung", &of(-800.0, 0.03, Projector::Siddon), &[0.06; 16], 1e-5);
    for padding in [-1000.0, -1024.0, -2048.0] {
        assert_eq!(of(padding, 0.02, Projector::Siddon), [0.0; 16]);
    }
}

#[test]
fn bad_requests_say_what_is_wrong() {
    let device = Device::host();
    let volume = marked(AxisCodes::LPS);
    let refuse = |options: RadiographOptions| radiograph(&device, &volume, &options).unwrap_err().to_string();
    let attenuation = || RadiographOptions { mode: Mode::Attenuation, ..Default::default() };
    let cone = Geometry::Cone { sdd: 1800.0, sod: 1500.0 };
    assert!(refuse(RadiographOptions { geometry: cone, ..Default::default() }).contains("cone beam"));
    assert!(refuse(RadiographOptions { spacing: Some(0.0), ..Default::default() }).contains("spacing"));
    assert!(refuse(RadiographOptions { pitch: Some(-1.0), ..Default::default() }).contains("pitch"));
    assert!(refuse(RadiographOptions { pitch: Some(f64::NAN), ..attenuation() }).contains("pitch"));
    assert!(refuse(RadiographOptions { mu_water: 0.0, ..attenuation() }).contains("mu_water"));
    let geometry = Geometry::Cone { sdd: 1000.0, sod: 1500.0 };
    assert!(refuse(RadiographOptions { geometry, ..attenuation() }).contains("0 < sod <= sdd"));
    assert!(refuse(RadiographOptions { size: Some([0, 5]), ..attenuation() }).contains("0 x 5"));
    let mut spoilt = volume.clone();
    spoilt.voxels = Voxels::F32(vec![f32::NAN; 14 * 10 * 12].into());
    for options in [RadiographOptions::default(), attenuation()] {
        let error = radiograph(&device, &spoilt, &options).unwrap_err().to_string();
        assert!(error.contains("is NaN; check the volume"), "{error}");
    }
}

#[test]
fn presets_have_the_published_sizes_and_digests_of_their_own() {
    let spacing = |[x, y, z]: [f64; 3]| Affine::centred(AxisCodes::LPS, [x, y, z], [512, 512, 300]).unwrap().spacing();
    assert_eq!(Preset::ct_clip_v2().resized([512, 512, 300], spacing([0.75, 0.75, 1.0])), [512, 512, 200]);
    assert_eq!(Preset::ct_clip_v2().resized([512, 512, 250], [0.341796875, 0.341796875, 1.2]), [233, 233, 199]);
    let mut digests: Vec<String> = Preset::all().iter().map(Preset::digest).collect();
    digests.push(Preset::ct_clip_v2().clip_after().digest());
    digests.sort();
    digests.dedup();
    assert_eq!(digests.len(), 6);
    // Written into caches: it must not change by accident.
    insta::assert_snapshot!(
        serde_json::to_string(&Preset::ct_clip_v2()).unwrap(),
        @r#"{"name":"ct-clip-v2","spacing":[0.75,0.75,1.5],"pre_clip":[-1000.0,1000.0],"window":[-1000.0,1000.0],"size":[480,480,240],"pad":-1.0,"layout":"zxy"}"#
    );
    for preset in Preset::all() {
        assert_eq!(Preset::named(&preset.name).unwrap(), preset);
    }
    assert!(Preset::named("no-such").unwrap_err().to_string().contains("ct-clip-v2, ct-clip-v1, dcformer"));
    let thin = marked(AxisCodes::LPS).reorient(AxisCodes::LPS);
    let thin = CtVolume { affine: Affine::centred(AxisCodes::LPS, [0.01; 3], thin.shape).unwrap(), ..thin };
    let error = Preset::ct_clip_v2().operator(thin.shape, &thin.affine, DType::F32).unwrap_err().to_string();
    assert!(error.contains("less than one"), "{error}");
}

#[test]
fn presets_do_not_depend_on_the_stored_axis_order() {
    let device = Device::host();
    let shape = [21, 15, 9];
    let voxels: Vec<i16> = normal(1, 21 * 15 * 9).iter().map(|v| (v * 800.0 - 200.0) as i16).collect();
    let affine = Affine::centred(AxisCodes::LPS, [1.5, 1.0, 2.0], shape).unwrap();
    let volume = CtVolume::new(Voxels::I16(voxels.into()), shape, affine).unwrap();
    let preset = Preset { size: Some([30, 25, 11]), ..Preset::ct_clip_v2() };
    let apply = |v: &CtVolume| preset.apply(&device, v, HuSource::AlreadyHu, DType::F32).unwrap().to_vec().unwrap();
    let want = apply(&volume);
    for codes in AxisCodes::all() {
        assert_eq!(apply(&volume.clone().reorient(codes)), want, "{codes}");
    }
}

/// `x2ct drr` with these arguments: whether it succeeded, what it printed, what it complained about.
fn drr(arguments: &[&str]) -> (bool, String, String) {
    let output = std::process::Command::new(crate::support::program())
        .args(["drr", "--device", "host"])
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_command_writes_every_format() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let ct = path("train_1_a_1.nii.gz");
    let volume = marked(AxisCodes::RAS);
    nifti::write(&ct, &volume).unwrap();

    let (ok, out, err) = drr(&[&ct, "--out", &path("mean.safetensors"), "--json"]);
    assert!(ok, "{err}");
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["size"], serde_json::json!([12, 14]));
    assert_eq!((&report["mode"], &report["pitch_mm"]), (&"mean-hu".into(), &1.0.into()));
    let bytes = std::fs::read(path("mean.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let view = tensors.tensor("image").unwrap();
    assert_eq!((view.shape(), view.dtype()), (&[12, 14][..], safetensors::Dtype::F32));
    let values: Vec<f32> = view.data().chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    let want = radiograph(&Device::host(), &volume, &RadiographOptions::default()).unwrap();
    assert_eq!(values, want.pixels);

    let common =
        ["--mode", "attenuation", "--geometry", "cone", "--size", "40x50", "--view", "lateral", "--pitch", "0.4"];
    for (name, extra) in [
        ("a.png", vec!["--bits", "16"]),
        ("b.png", vec!["--photometric", "monochrome1"]),
        ("c.nii.gz", vec!["--projector", "trilinear", "--step", "0.3"]),
    ] {
        let (ok, _, err) = drr(&[&[ct.as_str(), "--out", &path(name)], &common[..], &extra[..]].concat());
        assert!(ok, "{err}");
        let picture = image::read(path(name)).unwrap();
        assert_eq!((picture.height, picture.width), (40, 50), "{name}");
        let ends = picture.pixels.iter().fold((f32::MAX, f32::MIN), |(a, b), &v| (a.min(v), b.max(v)));
        match name {
            "a.png" => assert_eq!(ends, (0.0, 65535.0)),
            "b.png" => assert_eq!((ends, picture.pixels[0]), ((0.0, 255.0), 255.0)),
            _ => assert!(ends.0 == 0.0 && ends.1 > 0.0 && ends.1 < 0.1),
        }
    }
}

#[test]
fn the_command_says_how_a_file_was_made() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let ct = path("ct.nii");
    let mut volume = marked(AxisCodes::LPS);
    let Voxels::I16(voxels) = &volume.voxels else { unreachable!() };
    let mut padded = voxels.to_vec();
    padded[..7].fill(-2048);
    volume.voxels = padded.into();
    nifti::write(&ct, &volume).unwrap();
    let view = ["--mode", "film", "--view", "pa", "--primary-angle", "-30", "--energy", "60", "--size", "40x40"];
    let header = |name: &str, extra: &[&str]| {
        let (ok, out, err) = drr(&[&[&ct, "--out", &path(name), "--json"], &view[..], extra].concat());
        assert!(ok, "{err}");
        let report: serde_json::Value = serde_json::from_str(&out).unwrap();
        let bytes = std::fs::read(path(name)).unwrap();
        let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        (report, metadata.metadata().clone().unwrap(), bytes)
    };
    let (report, entries, bytes) = header("a.safetensors", &[]);
    for (key, value) in [
        ("format", "x2ct-image"),
        ("mode", "film"),
        ("view", "pa"),
        ("geometry", "parallel"),
        ("positioner_primary_angle", "-30"),
        ("mu_water_per_mm", "0.02059"),
        ("film_exposure", "percentiles 5 and 98 of the line integrals behind the body"),
        ("film_centre", "3"),
        ("window_rule", "whole scale of the film"),
        ("window_high", "1"),
        ("collimation", "volume: no body was found"),
        ("patient_orientation", "LA\\F"),
    ] {
        let got = &entries[key];
        assert!(got.starts_with(value), "{key}: {got}");
    }
    assert_eq!(report["pitch_mm"].to_string(), entries["pitch_mm"]);
    assert_eq!((&report["padding_voxels"], &report["letters"]), (&7.into(), &true.into()));
    assert!(report["padding_pixels"].as_u64().unwrap() > 0);
    // Equal options, equal bytes and digest; other options, another digest.
    let (_, again, same) = header("b.safetensors", &[]);
    assert_eq!((&again["digest"], same), (&entries["digest"], bytes));
    let (_, other, _) = header("c.safetensors", &["--film-width", "2"]);
    assert_ne!(other["digest"], entries["digest"]);

    // Letters: on pictures, unless asked not to or the file does not say how the patient lies.
    let picture = |name: &str, ct: &str, extra: &[&str]| {
        let (ok, out, err) = drr(&[&[ct, "--out", &path(name), "--json"], &view[..], extra].concat());
        assert!(ok, "{err}");
        let report: serde_json::Value = serde_json::from_str(&out).unwrap();
        (image::read(path(name)).unwrap().pixels, report["letters"] == true, err)
    };
    let (lettered, said, err) = picture("a.png", &ct, &[]);
    assert!(said && !err.contains("letters"), "{err}");
    let (plain, said, _) = picture("b.png", &ct, &["--no-letters"]);
    assert!(!said && plain != lettered);
    let mut bytes = std::fs::read(&ct).unwrap();
    // qform_code and sform_code.
    bytes[252..256].fill(0);
    std::fs::write(path("unknown.nii"), bytes).unwrap();
    let (unknown, said, err) = picture("c.png", &path("unknown.nii"), &[]);
    assert!(!said && err.contains("letters are left out"), "{err}");
    assert_eq!(unknown.len(), plain.len());
    // The film's window is its whole scale; the others can be opened and closed.
    assert!(plain.iter().all(|&v| v < 200.0));
    let (windowed, ..) = picture("d.png", &ct, &["--no-letters", "--window", "0.017,0.019"]);
    let (percentiles, ..) = picture("e.png", &ct, &["--no-letters", "--percentiles", "50,100"]);
    assert!(windowed != plain && percentiles != plain && windowed != percentiles);

    for (extra, expected) in [
        (&["--primary-angle", "200"][..], "-180 to 180"),
        (&["--secondary-angle", "-91"], "-90 to 90"),
        (&["--energy", "5"], "give a number from 20 to 150 keV"),
        (&["--energy", "60", "--mu-water", "0.02"], "cannot be used with"),
        (&["--rotation", "1,2"], "give 3 numbers, such as 10,-5.5,0"),
        (&["--window", "3,1"], "is not a range"),
        (&["--percentiles", "1,99", "--window", "0,1"], "cannot be used with"),
        (&["--film-width", "-1"], "give a number from 0.001 to 100"),
        (&["--view", "axial"], "right-lateral"),
    ] {
        let (ok, _, err) = drr(&[&[&ct, "--out", &path("z.png"), "--mode", "film"], extra].concat());
        assert!(!ok && err.contains(expected), "{extra:?}: {err}");
    }
    assert!(!std::path::Path::new(&path("z.png")).exists());
}

#[test]
fn the_command_takes_rescale_and_spacing_from_the_metadata_table() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (ct, table) = (path("train_1_a_1.nii.gz"), path("metadata.csv"));
    nifti::write(&ct, &marked(AxisCodes::LPS)).unwrap();
    let header = "VolumeName,RescaleSlope,RescaleIntercept,XYSpacing,ZSpacing";
    std::fs::write(&table, format!("{header}\ntrain_1_a_1.nii.gz,1,800,\"[2.0, 2.0]\",3.0\n")).unwrap();
    let arguments = [&ct, "--out", &path("a.safetensors"), "--json", "--hu-source", "csv"];
    let (ok, out, err) = drr(&[&arguments[..], &["--metadata", &table]].concat());
    assert!(ok, "{err}");
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["volume"]["spacing_mm"], serde_json::json!([2.0, 2.0, 3.0]));
    assert_eq!((&report["size"], &report["min"]), (&serde_json::json!([36, 28]), &(-200.0).into()));

    let (ok, _, err) = drr(&arguments);
    assert!(!ok && err.contains("--metadata"), "{err}");
    std::fs::write(&table, format!("{header}\ntrain_2_a_1.nii.gz,1,800,\"[2.0, 2.0]\",3.0\n")).unwrap();
    let (ok, _, err) = drr(&[&arguments[..], &["--metadata", &table]].concat());
    assert!(!ok && err.contains("metadata.csv: has no row for train_1_a_1.nii.gz"), "{err}");
}

#[test]
fn the_command_refuses_in_one_line_and_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (ct, out) = (path("ct.nii.gz"), path("out.png"));
    nifti::write(&ct, &marked(AxisCodes::LPS)).unwrap();
    let whole = std::fs::read(&ct).unwrap();
    std::fs::write(path("short.nii.gz"), &whole[..whole.len() / 2]).unwrap();
    let cone = ["--geometry", "cone"];
    for (file, extra, expected) in [
        (path("absent.nii.gz"), &[][..], "check the path"),
        (path("short.nii.gz"), &[], "short.nii.gz: "),
        (ct.clone(), &cone, "cone beam has no voxel axis"),
        (ct.clone(), &["--mode", "attenuation", "--geometry", "cone", "--sod", "9000"], "0 < sod <= sdd"),
        (ct.clone(), &["--mode", "attenuation", "--pitch", "-1"], "pitch"),
    ] {
        let (ok, _, err) = drr(&[&[file.as_str(), "--out", &out], extra].concat());
        assert!(!ok && err.contains(expected) && err.trim_end().lines().count() == 1, "{extra:?}: {err}");
    }
    let (ok, _, err) = drr(&[&ct, "--out", &path("out.jpg")]);
    assert!(!ok && err.contains("out.jpg: unknown image format"), "{err}");
    for size in ["512", "0x5", "5x5x5", "99999x2"] {
        let (ok, _, err) = drr(&[&ct, "--out", &out, "--size", size]);
        assert!(!ok && err.contains("such as 512x640"), "{size}: {err}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
}
