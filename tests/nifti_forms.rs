//! Headers whose sform, qform and pixdim contradict each other: what is taken, what is said, and which letters are left out.

use x2ct::Device;
use x2ct::ct::{AffineSource, AxisCodes, CtVolume, HuSource, Mode, Preset, RadiographOptions, radiograph};
use x2ct::tensor::DType;

use crate::support::nifti::{File, refused};

const LPS: [[f64; 4]; 3] = diagonal(-0.8, -0.8);
const RPS: [[f64; 4]; 3] = diagonal(0.8, -0.8);

const fn diagonal(x: f64, y: f64) -> [[f64; 4]; 3] {
    [[x, 0.0, 0.0, 0.0], [0.0, y, 0.0, 0.0], [0.0, 0.0, 2.0, 0.0]]
}

/// An LPS qform of 0.8 x 0.8 x 2 mm beside an sform.
fn both(srow: [[f64; 4]; 3], sform_code: i16) -> File {
    let pixdim = [1.0, 0.8, 0.8, 2.0];
    let quaternion = [0.0, 0.0, 1.0];
    File { srow, sform_code, qform_code: 1, quaternion, pixdim, ..File::sample(2, false) }
}

/// LPS turned by 10 degrees about the body's axis.
fn turned() -> [[f64; 4]; 3] {
    let (sin, cos) = 10f64.to_radians().sin_cos();
    [[-0.8 * cos, 0.8 * sin, 0.0, 0.0], [-0.8 * sin, -0.8 * cos, 0.0, 0.0], [0.0, 0.0, 2.0, 0.0]]
}

fn letters(volume: &CtVolume) -> bool {
    RadiographOptions::default().letters(volume).is_some()
}

#[track_caller]
fn assert_says(volume: &CtVolume, parts: &[&str]) {
    let [remark] = &volume.remarks[..] else { panic!("one remark: {:?}", volume.remarks) };
    assert!(parts.iter().all(|part| remark.contains(part)), "{remark}");
}

#[track_caller]
fn assert_spacing(volume: &CtVolume, expected: [f64; 3]) {
    let spacing = volume.spacing();
    assert!(spacing.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{spacing:?}");
}

#[test]
fn forms_that_agree_are_not_remarked_on() {
    // Within what writers round.
    let rounded = diagonal(-0.803, -0.798);
    for srow in [LPS, rounded] {
        let volume = both(srow, 1).read().unwrap();
        assert_eq!((volume.affine_source, volume.affine.rows()), (AffineSource::Sform, srow));
        assert!(volume.remarks.is_empty() && letters(&volume), "{:?}", volume.remarks);
    }
}

/// SimpleITK: 0.8 x 0.8 x 2 mm by pixdim. nibabel: 1 mm by the sform.
#[test]
fn an_sform_without_its_scales_has_pixdims() {
    for qform_code in [0, 1] {
        let srow = [[-1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]];
        let volume = File { qform_code, ..both(srow, 1) }.read().unwrap();
        assert_spacing(&volume, [0.8, 0.8, 2.0]);
        assert_says(&volume, &["in scale (1 x 1 x 1 and 0.8 x 0.8 x 2 mm", "pixdim's is taken"]);
        assert!(volume.axis_codes() == AxisCodes::LPS && letters(&volume));
    }
}

/// Sizes of 1 are what a writer leaves that never set any.
#[test]
fn a_pixdim_that_was_never_set_does_not_scale_an_sform() {
    for qform_code in [0, 1] {
        let volume = File { pixdim: [1.0; 4], qform_code, ..both(LPS, 1) }.read().unwrap();
        assert_spacing(&volume, [0.8, 0.8, 2.0]);
        assert_says(&volume, &["in scale", "the sform's is taken"]);
    }
    // Set along one axis only.
    let volume = File { pixdim: [1.0, 1.0, 1.0, 2.5], ..both(LPS, 1) }.read().unwrap();
    assert_spacing(&volume, [0.8, 0.8, 2.5]);
}

/// SimpleITK takes an sform of scanner coordinates (code 1), else the qform; nibabel the sform.
#[test]
fn of_two_directions_the_code_of_the_sform_decides() {
    for (srow, code, rows, source) in [
        (turned(), 1, turned(), AffineSource::Sform),
        (turned(), 2, LPS, AffineSource::Qform),
        (turned(), 4, LPS, AffineSource::Qform),
    ] {
        let volume = both(srow, code).read().unwrap();
        let difference = volume.affine.rows().concat().into_iter().zip(rows.concat()).map(|(a, b)| (a - b).abs());
        assert!(difference.fold(0.0, f64::max) < 1e-12, "{:?}", volume.affine.rows());
        assert_eq!(volume.affine_source, source);
        assert_says(&volume, &["in direction", "10 degrees apart"]);
        assert!(letters(&volume), "both name the same sides");
    }
}

#[test]
fn where_left_and_right_are_disputed_there_are_no_letters() {
    for (code, codes) in [(1, "RPS"), (2, "LPS")] {
        let volume = both(RPS, code).read().unwrap();
        assert_eq!((volume.axis_codes().to_string().as_str(), volume.affine_source), (codes, AffineSource::Disputed));
        assert_says(&volume, &["in handedness (RPS and LPS, 180 degrees apart", "letters are left out"]);
        assert!(!letters(&volume));
    }
    // Scale and direction at once: both are said.
    let doubled = diagonal(1.6, -0.8);
    assert_says(&both(doubled, 1).read().unwrap(), &["in handedness", "and in scale (1.6 x 0.8 x 2"]);
}

#[test]
fn an_unusable_form_falls_back_to_the_usable_one() {
    let zero = both([[0.0; 4]; 3], 1).read().unwrap();
    assert_eq!((zero.affine_source, zero.affine.rows()), (AffineSource::Qform, LPS));
    assert_says(&zero, &["Its sform is unusable", "the qform is taken"]);
    let long = File { quaternion: [0.9, 0.9, 0.0], ..both(LPS, 1) }.read().unwrap();
    assert_eq!((long.affine_source, long.affine.rows()), (AffineSource::Sform, LPS));
    assert_says(&long, &["Its qform is unusable (quatern_b", "the sform is taken"]);
    let undefined = both(LPS, 77).read().unwrap();
    assert_eq!(undefined.affine_source, AffineSource::Qform);
    assert_says(&undefined, &["sform_code is 77"]);
    for bad in [f64::NAN, f64::INFINITY, 0.0, -0.8] {
        let mut file = File { qform_code: 0, ..both(LPS, 1) };
        file.pixdim[1] = bad;
        let volume = file.read().unwrap();
        assert_eq!(volume.affine.rows(), LPS);
        assert_says(&volume, &["Its pixdim is unusable (pixdim[1] is ", "the sform is taken"]);
    }
    refused(File { quaternion: [0.9, 0.9, 0.0], ..both([[0.0; 4]; 3], 1) }.read(), "sform (srow_x, srow_y, srow_z)");
}

/// The shear of a tilted gantry is kept: SimpleITK drops it, nibabel has it.
#[test]
fn a_sheared_sform_is_kept_and_its_angle_known() {
    let (sin, cos) = 20f64.to_radians().sin_cos();
    let srow = [[-0.8, 0.0, 0.0, 0.0], [0.0, -0.8, 2.0 * sin, 0.0], [0.0, 0.0, 2.0 * cos, 0.0]];
    let volume = both(srow, 1).read().unwrap();
    assert_eq!(volume.affine.rows(), srow);
    let device = Device::host();
    let mean = radiograph(&device, &volume, &RadiographOptions::default()).unwrap_err();
    let prepared = Preset::x2ct().apply(&device, &volume, HuSource::AlreadyHu, DType::F32).unwrap_err();
    for error in [mean.to_string(), prepared.to_string()] {
        assert!(error.contains("sheared by 20.0 degrees"), "{error}");
    }
    let along_rays = RadiographOptions { mode: Mode::Attenuation, ..RadiographOptions::default() };
    assert!(radiograph(&device, &volume, &along_rays).is_ok());
}
