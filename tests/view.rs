//! Where things lie on radiographs: standard views, obliques, free poses, and the letters that say so.

use x2ct::Device;
use x2ct::ct::annotate::Letters;
use x2ct::ct::image::{self, PngOptions};
use x2ct::ct::{
    Affine, AxisCodes, Collimation, CtVolume, Geometry, GrayImage, Mode, Placement, Projection, Radiograph,
    RadiographOptions, nifti, radiograph,
};

const SIZE: usize = 81;

/// Air with one bright voxel, near 14 mm to the right, 9 to the front and 19 to the head of the volume's centre, stored with
/// axes tilted from `codes`; and where that voxel lies from the centre.
fn marked(codes: AxisCodes) -> (CtVolume, [f64; 3]) {
    let (shape, spacing) = ([22, 20, 24], [2.5, 3.0, 2.0]);
    let straight = Affine::centred(codes, spacing, shape).unwrap().rows();
    // 12 degrees about the head-foot axis, then 9 about the left-right axis.
    let ((s, c), (t, d)) = (12f64.to_radians().sin_cos(), 9f64.to_radians().sin_cos());
    let turn = [[c, -s, 0.0], [d * s, d * c, -t], [t * s, t * c, d]];
    let mut rows: [[f64; 4]; 3] =
        std::array::from_fn(|r| std::array::from_fn(|k| (0..3).map(|m| turn[r][m] * straight[m][k]).sum()));
    for (row, away) in rows.iter_mut().zip([40.0, -300.0, 1200.0]) {
        row[3] += away;
    }
    let affine = Affine::new(rows).unwrap();
    let centre = affine.centre(shape);
    let near = affine.world_to_voxel([centre[0] + 14.0, centre[1] + 9.0, centre[2] + 19.0]).map(|v| v.round() as usize);
    let mut voxels = vec![-1000i16; shape.iter().product()];
    voxels[near[0] + shape[0] * (near[1] + shape[1] * near[2])] = 3000;
    let at = affine.voxel_to_world(near.map(|v| v as f64));
    let volume = CtVolume::new(voxels.into(), shape, affine).unwrap();
    assert_eq!(volume.axis_codes(), codes);
    (volume, std::array::from_fn(|a| at[a] - centre[a]))
}

fn options(view: Projection, placement: Placement) -> RadiographOptions {
    let (size, pitch) = (Some([SIZE, SIZE]), Some(1.0));
    RadiographOptions { mode: Mode::Attenuation, view, placement, size, pitch, ..Default::default() }
}

/// Rows and columns (mm, within half a pixel) from the middle of the image to the centre of mass of its brightness.
fn from_middle(image: &GrayImage) -> [f64; 2] {
    let (mut mass, mut sums) = (0.0, [0.0; 2]);
    for (i, &p) in image.pixels.iter().enumerate() {
        let (row, column) = (i / image.width, i % image.width);
        mass += f64::from(p);
        sums[0] += f64::from(p) * (row as f64 - (SIZE as f64 - 1.0) / 2.0);
        sums[1] += f64::from(p) * (column as f64 - (SIZE as f64 - 1.0) / 2.0);
    }
    sums.map(|v| v / mass)
}

#[track_caller]
fn expect_at(what: &str, got: [f64; 2], want: [f64; 2], tolerance: f64) {
    let far = (0..2).any(|a| (got[a] - want[a]).abs() > tolerance || !got[a].is_finite());
    assert!(!far, "{what}: (down, right) of the middle is {got:?}, expected {want:?}");
}

#[test]
fn every_view_shows_the_patient_the_right_way_round() {
    let device = Device::host();
    for codes in AxisCodes::all() {
        let (volume, [right, front, head]) = marked(codes);
        assert!(right > 10.0 && front > 5.0 && head > 15.0);
        for (view, primary_angle, column) in [
            // Facing the patient: the patient's right is on the image's left.
            (Projection::Ap, 0.0, -right),
            (Projection::Pa, 0.0, -right),
            // The front on the image's left; on its right when the right side lies on the detector.
            (Projection::Lateral, 0.0, -front),
            (Projection::RightLateral, 0.0, front),
            // A C-arm whose detector goes from the front to the patient's left passes LAO and ends as a left lateral.
            (Projection::Pa, 90.0, -front),
            (Projection::Pa, -90.0, front),
            // Half-way to the right (RAO 45), what is right and in front is near the detector's middle.
            (Projection::Pa, -45.0, (front - right) * 0.5f64.sqrt()),
            (Projection::Pa, 45.0, -(front + right) * 0.5f64.sqrt()),
            // From behind, the same lines the other way, and the same picture.
            (Projection::Ap, 45.0, -(front + right) * 0.5f64.sqrt()),
        ] {
            let placement = Placement { primary_angle, ..Default::default() };
            let image = radiograph(&device, &volume, &options(view, placement)).unwrap();
            expect_at(&format!("{codes} {view} {primary_angle}"), from_middle(&image), [-head, column], 0.5);
        }
    }
}

#[test]
fn a_cranial_beam_raises_what_lies_towards_the_tube() {
    let device = Device::host();
    let (volume, [right, front, head]) = marked(AxisCodes::LPS);
    let of = |view, secondary_angle: f64| {
        let placement = Placement { secondary_angle, ..Default::default() };
        from_middle(&radiograph(&device, &volume, &options(view, placement)).unwrap())
    };
    let (sine, cosine) = 20f64.to_radians().sin_cos();
    // AP axial (lordotic): clavicles, in front, are thrown above the lung's apices.
    expect_at("lordotic", of(Projection::Ap, 20.0), [-(head * cosine + front * sine), -right], 0.5);
    // With the detector in front and towards the head they sink.
    expect_at("PA cranial", of(Projection::Pa, 20.0), [-(head * cosine - front * sine), -right], 0.5);
    expect_at("PA caudal", of(Projection::Pa, -20.0), [-(head * cosine + front * sine), -right], 0.5);
}

#[test]
fn a_free_pose_turns_the_system_about_the_isocentre_and_shifts_it() {
    let device = Device::host();
    let (volume, [right, front, head]) = marked(AxisCodes::RAS);
    let of = |view, placement| radiograph(&device, &volume, &options(view, placement)).unwrap();
    // About the head-foot axis it is the primary angle.
    let free = of(Projection::Pa, Placement { rotation: [0.0, 0.0, 30.0], ..Default::default() });
    let angle = of(Projection::Pa, Placement { primary_angle: 30.0, ..Default::default() });
    expect_at("30 degrees", from_middle(&free), from_middle(&angle), 1e-3);
    // Turned by half about the axis from back to front, the head is down.
    let upside_down = Placement { rotation: [0.0, 180.0, 0.0], ..Default::default() };
    expect_at("upside down", from_middle(&of(Projection::Pa, upside_down)), [head, right], 0.5);
    // The detector moves 6 mm to the right and 4 to the head: the patient goes the other way on it.
    let shift = Placement { translation: [6.0, 0.0, 4.0], ..Default::default() };
    expect_at("shifted", from_middle(&of(Projection::Ap, shift)), [-(head - 4.0), -(right - 6.0)], 0.5);
    // An isocentre at the mark keeps it in the middle of every view, however turned and magnified.
    let centre = volume.affine.centre(volume.shape);
    let isocentre = Some([centre[0] + right, centre[1] + front, centre[2] + head]);
    for view in Projection::ALL {
        let placement = Placement {
            primary_angle: 25.0,
            secondary_angle: -10.0,
            rotation: [5.0, -20.0, 14.0],
            ..Default::default()
        };
        let geometry = Geometry::Cone { sdd: 600.0, sod: 400.0 };
        let options = RadiographOptions { isocentre, geometry, ..options(view, placement) };
        let image = radiograph(&device, &volume, &options).unwrap();
        expect_at(&format!("{view} about the mark"), from_middle(&image), [0.0, 0.0], 0.5);
    }
}

#[test]
fn the_default_pitch_shows_all_of_an_off_centre_volume() {
    let device = Device::host();
    let shape = [20, 20, 20];
    let affine = Affine::centred(AxisCodes::LPS, [2.0; 3], shape).unwrap();
    let volume = CtVolume::new(vec![0i16; 8000].into(), shape, affine).unwrap();
    let size = Some([60, 60]);
    for isocentre in [None, Some([15.0, 0.0, -10.0])] {
        let (mode, collimation) = (Mode::Attenuation, Collimation::Volume);
        let options = RadiographOptions { mode, size, isocentre, collimation, ..Default::default() };
        let made = Radiograph::all(&device, &volume, &[options.view], &options).unwrap().remove(0);
        let (image, pitch) = (made.image, made.pitch);
        assert_eq!(pitch, if isocentre.is_some() { 70.0 / 60.0 } else { 40.0 / 60.0 });
        // 40 mm of water behind 40 x 40 mm.
        let mass: f64 = image.pixels.iter().map(|&p| f64::from(p)).sum::<f64>() * pitch * pitch;
        assert!((mass / (40.0 * 0.02 * 1600.0) - 1.0).abs() < 0.06, "{mass}");
    }
}

#[test]
fn names_angles_and_bad_placements() {
    for view in Projection::ALL {
        assert_eq!(view.to_string().parse::<Projection>().unwrap(), view);
        assert_eq!(serde_json::to_value(view).unwrap(), view.name());
    }
    assert_eq!("left-lateral".parse::<Projection>().unwrap(), Projection::Lateral);
    assert!("axial".parse::<Projection>().unwrap_err().to_string().contains("\"axial\" is no projection"));
    for mode in Mode::ALL {
        assert_eq!(mode.to_string().parse::<Mode>().unwrap(), mode);
    }
    let turned = |view, primary_angle| {
        Placement { primary_angle, secondary_angle: 7.0, ..Default::default() }.positioner_angles(view)
    };
    assert_eq!(turned(Projection::Pa, 30.0), [30.0, 7.0]);
    assert_eq!(turned(Projection::Ap, 30.0), [-150.0, 7.0]);
    assert_eq!(turned(Projection::RightLateral, -90.0), [180.0, 7.0]);
    let device = Device::host();
    let (volume, _) = marked(AxisCodes::LPS);
    for (placement, expected) in [
        (Placement { primary_angle: 181.0, ..Default::default() }, "-180 to 180"),
        (Placement { secondary_angle: f64::NAN, ..Default::default() }, "-90 to 90"),
        (Placement { rotation: [f64::INFINITY, 0.0, 0.0], ..Default::default() }, "finite degrees"),
    ] {
        let error = radiograph(&device, &volume, &options(Projection::Ap, placement)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let isocentre = Some([0.0, f64::NAN, 0.0]);
    let wrong = RadiographOptions { isocentre, ..options(Projection::Ap, Placement::default()) };
    assert!(radiograph(&device, &volume, &wrong).unwrap_err().to_string().contains("isocentre"));
    for mean in [
        RadiographOptions { isocentre: Some([0.0; 3]), ..Default::default() },
        RadiographOptions { placement: Placement { primary_angle: 1.0, ..Default::default() }, ..Default::default() },
    ] {
        assert!(radiograph(&device, &volume, &mean).unwrap_err().to_string().contains("no voxel axis"));
    }
}

#[test]
fn letters_name_the_sides() {
    let of = |view, placement: Placement| {
        let [_, down, right] = placement.frame(view);
        Letters::of(down, right)
    };
    let angle = |primary_angle, secondary_angle| Placement { primary_angle, secondary_angle, ..Default::default() };
    for (view, placement, left, right) in [
        (Projection::Ap, angle(0.0, 0.0), "R", "L"),
        (Projection::Pa, angle(0.0, 0.0), "R", "L"),
        (Projection::Lateral, angle(0.0, 0.0), "A", "P"),
        (Projection::RightLateral, angle(0.0, 0.0), "P", "A"),
        (Projection::Pa, angle(-30.0, 20.0), "RP", "LA"),
        (Projection::Pa, angle(60.0, 0.0), "AR", "PL"),
        (Projection::Ap, angle(5.0, 0.0), "R", "L"),
    ] {
        let letters = of(view, placement);
        let got = (letters.left.to_string(), letters.right.to_string(), letters.vertical);
        assert_eq!(got, (left.into(), right.into(), None), "{view} {placement:?}");
    }
    let letters = of(Projection::Ap, Placement { rotation: [0.0, 180.0, 0.0], ..Default::default() });
    let vertical = letters.vertical.map(|pair| pair.map(|label| label.to_string()));
    assert_eq!((letters.left.to_string(), vertical), ("L".into(), Some(["F".into(), "H".into()])));
}

/// A NIfTI stands where the detector stood: the mark's shadow, its source (or beam) and the mark are in one line.
#[test]
fn a_nifti_is_placed_and_turned_as_the_detector_was() {
    let (device, folder) = (Device::host(), tempfile::tempdir().unwrap());
    let path = folder.path().join("a.nii.gz");
    let (volume, from_centre) = marked(AxisCodes::LPS);
    let centre = volume.affine.centre(volume.shape);
    let mark: [f64; 3] = std::array::from_fn(|a| centre[a] + from_centre[a]);
    let turned =
        Placement { primary_angle: 35.0, secondary_angle: -12.0, translation: [3.0, -2.0, 5.0], ..Default::default() };
    let cone = Geometry::Cone { sdd: 600.0, sod: 400.0 };
    for view in Projection::ALL {
        for (placement, geometry) in
            [(Placement::default(), Geometry::Parallel), (turned, Geometry::Parallel), (turned, cone)]
        {
            let options = RadiographOptions { geometry, ..options(view, placement) };
            let made = Radiograph::all(&device, &volume, &[view], &options).unwrap().remove(0);
            image::write(&path, &made.image, &PngOptions::default(), made.description()).unwrap();
            let read = nifti::read(&path).unwrap();
            let [down, right] = from_middle(&made.image).map(|v| v + (SIZE as f64 - 1.0) / 2.0);
            let shadow = read.affine.voxel_to_world([right, down, 0.0]);
            let [beam, row, column] = placement.frame(view);
            let aim: [f64; 3] = std::array::from_fn(|a| centre[a] + placement.translation[a]);
            let to_mark: [f64; 3] = match geometry {
                Geometry::Parallel => beam,
                Geometry::Cone { sod, .. } => std::array::from_fn(|a| mark[a] - (aim[a] - sod * beam[a])),
            };
            let off: [f64; 3] = std::array::from_fn(|a| shadow[a] - mark[a]);
            let dot = |a: [f64; 3], b: [f64; 3]| (0..3).map(|i| a[i] * b[i]).sum::<f64>();
            let along = dot(off, to_mark) / dot(to_mark, to_mark);
            let aside = (0..3).map(|a| (off[a] - along * to_mark[a]).powi(2)).sum::<f64>().sqrt();
            assert!(aside < 0.7, "{view} {geometry:?}: {aside} mm beside the ray");
            // The plane itself: through the aim with a parallel beam, 200 mm behind it with the cone; columns, rows, normal.
            let behind = if geometry == cone { 200.0 } else { 0.0 };
            let depth = dot(std::array::from_fn(|a| shadow[a] - aim[a]), beam);
            assert!((depth - behind).abs() < 1e-2, "{view}: {depth}");
            let direction = read.affine.direction();
            for (axis, want) in [(0, column), (1, row)] {
                assert!((0..3).all(|a| (direction[a][axis] - want[a]).abs() < 1e-5), "{view} axis {axis}");
            }
            assert!(read.affine.determinant() > 0.0);
        }
        // Mean HU of an upright volume: a block 28 mm in front stands 28 mm in front from the side, and at its own height.
        let shape = [30, 40, 50];
        let mut voxels = vec![-1000i16; 60_000];
        voxels[22 + 30 * (33 + 40 * 40)] = 3000;
        let mut rows = Affine::centred(AxisCodes::RAS, [2.0; 3], shape).unwrap().rows();
        rows[1][3] += 100.0;
        let upright = CtVolume::new(voxels.into(), shape, Affine::new(rows).unwrap()).unwrap();
        let options = RadiographOptions { view, ..Default::default() };
        let made = Radiograph::all(&device, &upright, &[view], &options).unwrap().remove(0);
        image::write(&path, &made.image, &PngOptions::default(), made.description()).unwrap();
        let read = nifti::read(&path).unwrap();
        // Voxel (22, 33, 40) of 2 mm about (0, 100, 0): 15 right, 127 (27 of the middle) in front, 31 to the head.
        let (mut mass, mut sums) = (0.0, [0.0; 3]);
        for (i, &v) in made.image.pixels.iter().enumerate() {
            let at = read.affine.voxel_to_world([(i % made.image.width) as f64, (i / made.image.width) as f64, 0.0]);
            mass += f64::from(v) + 1000.0;
            (0..3).for_each(|a| sums[a] += (f64::from(v) + 1000.0) * at[a]);
        }
        let at = sums.map(|v| v / mass);
        let frontal = matches!(view, Projection::Ap | Projection::Pa);
        let want = if frontal { [15.0, 100.0, 31.0] } else { [0.0, 127.0, 31.0] };
        assert!((0..3).all(|a| (at[a] - want[a]).abs() < 0.2), "{view}: {at:?}, expected {want:?}");
    }
}
