//! What is refused as no chest CT, what is doubted, and that a chest is neither.

use x2ct::Device;
use x2ct::ct::phantom::{Patient, PhantomConfig};
use x2ct::ct::plausibility::{Finding, Level, check, examine_image, examine_picture, examine_view};
use x2ct::ct::{Affine, AxisCodes, CtVolume, Geometry, GrayImage, HuSource, Mode, Radiograph, RadiographOptions};

const SHAPE: [usize; 3] = [64, 56, 48];

fn chest() -> CtVolume {
    Patient::new(3, 1, &PhantomConfig::default()).voxelise(SHAPE, [5.5, 5.5, 6.0]).unwrap()
}

/// The chest with other HU, rounded.
fn changed(hu: impl Fn(f32) -> f32) -> CtVolume {
    let sound = chest();
    let voxels: Vec<f32> = sound.hu_f32(HuSource::AlreadyHu).into_iter().map(|v| hu(v).round()).collect();
    CtVolume { voxels: voxels.into(), slope: 1.0, intercept: 0.0, ..sound }
}

/// Numbers from 0 to 1 that have nothing to do with each other.
fn noise() -> impl FnMut() -> f32 {
    let mut state = 1u64;
    move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    }
}

#[test]
fn a_chest_is_neither_refused_nor_doubted() {
    for volume in [chest(), changed(|hu| hu), changed(|hu| if hu < -990.0 { -2048.0 } else { hu })] {
        assert_eq!(check(&volume, HuSource::AlreadyHu), []);
    }
    for (patient, shape, spacing) in [(1, [96, 96, 80], 3.5), (2, [40, 40, 40], 9.0), (3, [128, 128, 64], 2.8)] {
        let volume = Patient::new(5, patient, &PhantomConfig::default()).voxelise(shape, [spacing; 3]).unwrap();
        assert_eq!(check(&volume, HuSource::AlreadyHu), [], "patient {patient}");
    }
}

#[test]
fn known_mistakes_are_found() {
    use Level::{Doubt, Refuse};
    let cases: [(&str, CtVolume, Level, &str); 19] = [
        ("constant", changed(|_| 40.0), Refuse, "all of its voxels are 40"),
        ("0 to 1", changed(|hu| hu + 1000.0).scaled(1.0 / 2000.0), Refuse, "air and tissue differ"),
        ("unsigned padding", changed(|hu| if hu < -950.0 { 63536.0 } else { hu }), Refuse, "read as an unsigned one"),
        ("HU + 8192", changed(|hu| hu + 8192.0), Refuse, "HU + 8192"),
        ("labels", changed(|hu| f32::from(hu > -500.0) + f32::from(hu > 300.0)), Refuse, "label mask"),
        ("HU + 1024", changed(|hu| hu.max(-1024.0) + 1024.0), Doubt, "HU + 1024"),
        ("HU + 300", changed(|hu| hu + 300.0), Doubt, "commonest air"),
        ("HU + 500", changed(|hu| hu + 500.0), Doubt, "commonest air"),
        ("half", changed(|hu| hu / 2.0), Doubt, "commonest air"),
        ("upside down", chest().scaled(-1.0), Doubt, "fall where its stored values rise"),
        ("twice", changed(|hu| hu - 1024.0), Doubt, "where no substance is"),
        ("by 12", changed(|hu| 12.0 * hu), Doubt, "where no substance is"),
        ("background of 0", changed(|hu| if hu < -950.0 { 0.0 } else { hu }), Doubt, "exactly 0 HU"),
        ("all air", changed(|hu| (hu / 10.0 - 800.0).min(-700.0)), Refuse, "all of it is air, below -300 HU"),
        ("two values", changed(|hu| if hu < -500.0 { -1000.0 } else { 40.0 }), Doubt, "2 different values"),
        ("slab", slab(8), Doubt, "too thin for a chest"),
        ("micrometres", rescaled(1e-3), Refuse, "mm; voxel sizes in another unit"),
        ("metres", rescaled(1e3), Refuse, "mm; voxel sizes in another unit"),
        ("far away", far(), Refuse, "mm from the origin"),
    ];
    for (what, volume, level, says) in cases {
        let found = check(&volume, HuSource::AlreadyHu);
        let hit = found.iter().any(|finding| finding.level == level && finding.text.contains(says));
        assert!(hit, "{what}: {found:?}");
    }
    let mut random = noise();
    let voxels: Vec<f32> = (0..SHAPE.iter().product()).map(|_| (2000.0 * random() - 1000.0).round()).collect();
    let found = check(&CtVolume { voxels: voxels.into(), slope: 1.0, intercept: 0.0, ..chest() }, HuSource::AlreadyHu);
    assert!(found.iter().any(|finding| finding.text.contains("neighbours")), "{found:?}");
}

#[test]
fn a_source_or_a_detector_inside_the_volume_is_told() {
    let volume = chest();
    let told = |geometry| {
        let options = RadiographOptions { mode: Mode::Attenuation, geometry, ..Default::default() };
        let made = Radiograph::all(&Device::host(), &volume, &[options.view], &options).unwrap().remove(0);
        examine_view(&made.view, &volume)
    };
    // The volume reaches 154 mm before and behind its centre.
    assert_eq!(told(Geometry::Parallel), None);
    assert_eq!(told(Geometry::Cone { sdd: 1800.0, sod: 1500.0 }), None);
    assert!(told(Geometry::Cone { sdd: 1800.0, sod: 100.0 }).unwrap().starts_with("The X-ray source lies inside"));
    assert!(told(Geometry::Cone { sdd: 1600.0, sod: 1500.0 }).unwrap().starts_with("The detector lies inside"));
}

/// A function of the voxel's place, rounded or not.
fn computed(hu: impl Fn([f32; 3]) -> f32, rounded: bool) -> CtVolume {
    let [nx, ny, nz] = SHAPE;
    let place = |i: usize| [i % nx, i / nx % ny, i / nx / ny].map(|n| n as f32);
    let value = |i| if rounded { hu(place(i)).round() } else { hu(place(i)) };
    let voxels: Vec<f32> = (0..nx * ny * nz).map(value).collect();
    CtVolume { voxels: voxels.into(), slope: 1.0, intercept: 0.0, ..chest() }
}

#[test]
fn a_ramp_is_doubted() {
    let ramps: [(&str, &dyn Fn([f32; 3]) -> f32); 7] = [
        ("x", &|[x, _, _]| 31.0 * x - 1000.0),
        ("y", &|[_, y, _]| 29.3 * y - 1000.0),
        ("z", &|[_, _, z]| 37.5 * z - 1000.0),
        ("diagonal", &|[x, y, z]| 11.7 * x + 9.1 * y + 8.3 * z - 1000.0),
        ("steep along one axis", &|[x, y, z]| 40.0 * x + 1.5 * y + z - 1500.0),
        ("wave", &|[x, y, _]| 900.0 * (x / 12.0).sin() * (y / 15.0).cos() - 100.0),
        ("well", &|[x, y, z]| (x - 32.0).powi(2) + (y - 28.0).powi(2) + (z - 24.0).powi(2) - 1000.0),
    ];
    for (what, hu) in ramps {
        for rounded in [false, true] {
            let found = check(&computed(hu, rounded), HuSource::AlreadyHu);
            let hit =
                found.iter().any(|f| f.level == Level::Doubt && f.text.contains("a computed ramp looks like this"));
            assert!(hit, "{what}, rounded {rounded}: {found:?}");
        }
    }
}

/// Planes of one value between others, wherever they lie; those at the ends are padding.
#[test]
fn planes_that_were_filled_are_doubted_and_numbered() {
    let [nx, ny, _] = SHAPE;
    let filled = |axis: usize, planes: &[usize], value: f32| {
        let mut voxels = chest().hu_f32(HuSource::AlreadyHu);
        for (i, voxel) in voxels.iter_mut().enumerate() {
            if planes.contains(&[i % nx, i / nx % ny, i / nx / ny][axis]) {
                *voxel = value;
            }
        }
        CtVolume { voxels: voxels.into(), slope: 1.0, intercept: 0.0, ..chest() }
    };
    for value in [0.0, -1024.0, -3024.0, 40.0] {
        let found = check(&filled(2, &[10, 11, 12, 20, 47], value), HuSource::AlreadyHu);
        let says = "4 of its 48 planes along voxel axis 2, counted from 0, hold one value and lie between others that do not: \
                    10 to 12, 20; missing slices";
        let hits = found.iter().filter(|f| f.level == Level::Doubt && f.text.starts_with(says)).count();
        assert_eq!(hits, 1, "{value}: {found:?}");
    }
    let found = check(&filled(1, &[30], -1024.0), HuSource::AlreadyHu);
    assert!(found.iter().any(|f| f.text.starts_with("1 of its 56 planes along voxel axis 1")), "{found:?}");
    for (axis, planes) in [(2, [0, 1, 2, 46, 47]), (0, [0, 1, 61, 62, 63])] {
        assert_eq!(check(&filled(axis, &planes, -1024.0), HuSource::AlreadyHu), [], "axis {axis}");
    }
}

/// The chest with other voxels: `from` gives the place that each takes its value from.
fn moved(from: impl Fn([usize; 3]) -> [usize; 3]) -> CtVolume {
    let ([nx, ny, nz], sound) = (SHAPE, chest());
    let hu = sound.hu_f32(HuSource::AlreadyHu);
    let place = |i: usize| [i % nx, i / nx % ny, i / nx / ny];
    let value = |i| {
        let [x, y, z] = from(place(i));
        hu[x + nx * (y + ny * z)]
    };
    CtVolume { voxels: (0..nx * ny * nz).map(value).collect::<Vec<f32>>().into(), slope: 1.0, intercept: 0.0, ..sound }
}

#[test]
fn planes_that_repeat_others_are_doubted_and_numbered() {
    let says = |volume: &CtVolume, axis: &str, text: &str| {
        let found = check(volume, HuSource::AlreadyHu);
        let hit = |f: &Finding| f.level == Level::Doubt && f.text.contains(axis) && f.text.contains(text);
        assert!(found.iter().any(hit), "{axis}: {text}: {found:?}");
    };
    let one = moved(|[x, y, z]| [x, y, if z == 20 { 19 } else { z }]);
    says(
        &one,
        "voxel axis 2",
        "1 of its 48 planes along voxel axis 2, counted from 0, repeat the plane before: 20; a volume",
    );
    let doubled = moved(|[x, y, z]| [x, y, z / 2]);
    says(&doubled, "voxel axis 2", "24 of its 48 planes");
    says(
        &moved(|[x, y, z]| [x / 4 * 4, y, z]),
        "voxel axis 0",
        "48 of its 64 planes along voxel axis 0, counted from 0, repeat",
    );
    says(
        &moved(|[x, y, z]| [x, y / 8 * 8, z]),
        "voxel axis 1",
        "49 of its 56 planes along voxel axis 1, counted from 0, repeat",
    );
    says(
        &moved(|[x, y, _]| [x, y, 24]),
        "voxel axis 2",
        "all of its 48 planes along voxel axis 2, counted from 0, are the same",
    );
}

/// Two series that overlap, put together: the planes of both are there twice, in one order. A symmetric body has its planes in the other.
#[test]
fn planes_that_come_again_in_their_order_are_doubted() {
    let found = |from: fn(usize) -> usize| {
        let found = check(&moved(|[x, y, z]| [x, y, from(z)]), HuSource::AlreadyHu);
        found.into_iter().map(|f| f.text).collect::<Vec<_>>()
    };
    let says = "of its 48 planes along voxel axis 2, counted from 0, are the same as others before them:";
    for (from, start) in [
        (|z| if (20..30).contains(&z) { z - 12 } else { z }, format!("10 {says} 20 to 29;")),
        (|z| z % 24, format!("24 {says} 24 to 47;")),
    ] as [(fn(usize) -> usize, String); 2]
    {
        let found = found(from);
        assert!(matches!(&found[..], [text] if text.starts_with(&start)), "{found:?}");
    }
    let mirrored = found(|z| z.min(47 - z));
    assert!(matches!(&mirrored[..], [text] if text.starts_with("1 of its 48 planes")), "{mirrored:?}");
}

/// Blank planes at an end are padding, unless they are more than padding is.
#[test]
fn a_volume_that_was_cut_off_and_filled_is_doubted() {
    let cut = |axis: usize, kept: std::ops::Range<usize>, value: f32| {
        let [nx, ny, _] = SHAPE;
        let mut voxels = chest().hu_f32(HuSource::AlreadyHu);
        for (i, voxel) in voxels.iter_mut().enumerate() {
            if !kept.contains(&[i % nx, i / nx % ny, i / nx / ny][axis]) {
                *voxel = value;
            }
        }
        CtVolume { voxels: voxels.into(), slope: 1.0, intercept: 0.0, ..chest() }
    };
    for (axis, kept, planes) in [
        (2, 0..24, "24 of its 48"),
        (2, 16..48, "16 of its 48"),
        (0, 0..32, "32 of its 64"),
        (1, 28..56, "28 of its 56"),
    ] {
        for value in [-1024.0, -1000.0] {
            let found = check(&cut(axis, kept.clone(), value), HuSource::AlreadyHu);
            let hit = found.iter().any(|f| f.text.starts_with(planes) && f.text.contains("a volume that was cut off"));
            assert!(hit, "{axis} {kept:?} {value}: {found:?}");
        }
    }
    assert_eq!(check(&cut(2, 6..42, -1024.0), HuSource::AlreadyHu), []);
}

/// HU that were cut off at a narrow window; windows that keep bone and air are no loss to speak of.
#[test]
fn windowed_copies_are_doubted() {
    let (windowed, no_air) = ("HU that were cut off at a window", "it has no air");
    for (low, high, says) in
        [(-160.0, 240.0, no_air), (-1000.0, 200.0, windowed), (-1350.0, 150.0, windowed), (-1024.0, 250.0, windowed)]
    {
        let found = check(&changed(|hu| hu.clamp(low, high)), HuSource::AlreadyHu);
        let hit = found.iter().any(|f| f.level == Level::Doubt && f.text.contains(says));
        assert!(hit, "{low} to {high}: {found:?}");
    }
    for (low, high) in [(-1000.0, 1000.0), (-1024.0, 3071.0), (-900.0, 1000.0), (-1024.0, 1500.0)] {
        assert_eq!(check(&changed(|hu| hu.clamp(low, high)), HuSource::AlreadyHu), [], "{low} to {high}");
    }
}

/// Smooth volumes, whose values change in straight lines too, but not alike.
#[test]
fn a_smoothed_or_enlarged_chest_is_no_ramp() {
    let fine = Patient::new(3, 1, &PhantomConfig::default()).voxelise([128, 112, 96], [2.8; 3]).unwrap();
    assert_eq!(check(&smoothed(fine, 3.5), HuSource::AlreadyHu), []);
    assert_eq!(check(&enlarged(8), HuSource::AlreadyHu), []);
}

/// The volume convolved with a Gaussian along each axis, and rounded.
fn smoothed(volume: CtVolume, sigma: f32) -> CtVolume {
    let mut hu = volume.hu_f32(HuSource::AlreadyHu);
    let [nx, ny, nz] = volume.shape;
    for (stride, n) in [(1, nx), (nx, ny), (nx * ny, nz)] {
        let before = hu.clone();
        let reach = (4.0 * sigma) as isize;
        for (i, value) in hu.iter_mut().enumerate() {
            let at = i / stride % n;
            let near = (-reach..=reach).map(|d| {
                let other = (at as isize + d).clamp(0, n as isize - 1) as usize;
                let weight = (-(d as f32 / sigma).powi(2) / 2.0).exp();
                [weight, weight * before[i + other * stride - at * stride]]
            });
            let [weight, sum] = near.fold([0.0; 2], |a, b| [a[0] + b[0], a[1] + b[1]]);
            *value = sum / weight;
        }
    }
    let voxels: Vec<f32> = hu.into_iter().map(f32::round).collect();
    CtVolume { voxels: voxels.into(), slope: 1.0, intercept: 0.0, ..volume }
}

/// A coarse chest with so many times the voxels along each axis, interpolated linearly and rounded.
fn enlarged(times: usize) -> CtVolume {
    let coarse = [20, 16, 16];
    let source = Patient::new(3, 1, &PhantomConfig::default()).voxelise(coarse, [18.0; 3]).unwrap();
    let (hu, shape) = (source.hu_f32(HuSource::AlreadyHu), coarse.map(|n| (n - 1) * times + 1));
    let value = |i: usize| {
        let place = [i % shape[0], i / shape[0] % shape[1], i / shape[0] / shape[1]];
        let corner = |c: usize| {
            let weights = [0, 1, 2].map(|a| {
                let part = (place[a] % times) as f32 / times as f32;
                if c >> a & 1 == 1 { part } else { 1.0 - part }
            });
            let [x, y, z] = [0, 1, 2].map(|a| (place[a] / times + (c >> a & 1)).min(coarse[a] - 1));
            weights.iter().product::<f32>() * hu[x + coarse[0] * (y + coarse[1] * z)]
        };
        (0..8).map(corner).sum::<f32>().round()
    };
    let voxels: Vec<f32> = (0..shape.iter().product()).map(value).collect();
    let affine = Affine::centred(AxisCodes::LPS, [18.0 / times as f64; 3], shape).unwrap();
    CtVolume::new(voxels.into(), shape, affine).unwrap()
}

/// Air that a window cut off leaves planes of one value beside the patient, and these are no missing slices; a slice that was filled
/// with the same value is one.
#[test]
fn clipped_air_beside_the_patient_is_no_missing_slice() {
    let [nx, ny, _] = SHAPE;
    let mut voxels = changed(|hu| hu.max(-900.0)).hu_f32(HuSource::AlreadyHu);
    // Single voxels of noise in the air beside the patient, planes apart.
    for x in [0, 2, 3, 61, 63] {
        voxels[x + nx * (5 + ny * 7)] = -880.0;
    }
    let volume = CtVolume { voxels: voxels.clone().into(), slope: 1.0, intercept: 0.0, ..chest() };
    assert_eq!(check(&volume, HuSource::AlreadyHu), []);
    voxels[20 * nx * ny..21 * nx * ny].fill(-900.0);
    let found = check(&CtVolume { voxels: voxels.into(), ..volume }, HuSource::AlreadyHu);
    assert!(found.iter().any(|f| f.text.starts_with("1 of its 48 planes along voxel axis 2")), "{found:?}");
}

/// An image of other physics whose air happens to be at -1000.
#[test]
fn tissue_that_spreads_over_all_values_is_doubted() {
    let mut random = noise();
    let sound = chest();
    let voxels: Vec<f32> = sound
        .hu_f32(HuSource::AlreadyHu)
        .into_iter()
        .map(|hu| if hu < -300.0 { hu } else { (1800.0 * random() - 300.0).round() })
        .collect();
    let found = check(&CtVolume { voxels: voxels.into(), slope: 1.0, intercept: 0.0, ..sound }, HuSource::AlreadyHu);
    assert!(
        found.iter().any(|f| f.level == Level::Doubt && f.text.contains("MR images and a wrong slope")),
        "{found:?}"
    );
}

/// Values of any size are named in a few letters.
#[test]
fn what_a_picture_holds_is_said_shortly() {
    let picture = |value: fn(usize) -> f32| GrayImage::new((0..900).map(value).collect(), 30, 30).unwrap();
    for (image, says) in [
        (picture(|_| 3e38), "all of its pixels are 3e38"),
        (picture(|_| -0.25), "all of its pixels are -0.25"),
        (picture(|i| if i == 7 { -3e38 } else { 1e-30 }), "(1e-30 to 1e-30 of -3e38 to 1e-30)"),
    ] {
        let error = examine_picture(&image, false).unwrap_err().to_string();
        assert!(error.contains(says) && error.len() < 200, "{error}");
    }
    let error = examine_image(&picture(|_| 3e38), false).unwrap_err().to_string();
    assert!(error.contains("the radiograph is 3e38 everywhere"), "{error}");
}

trait Scaled {
    fn scaled(self, factor: f32) -> Self;
}

impl Scaled for CtVolume {
    fn scaled(self, factor: f32) -> Self {
        CtVolume { slope: self.slope * factor, intercept: self.intercept * factor, ..self }
    }
}

fn slab(slices: usize) -> CtVolume {
    let sound = chest();
    let keep = SHAPE[0] * SHAPE[1] * slices;
    let voxels = sound.hu_f32(HuSource::AlreadyHu)[..keep].to_vec();
    CtVolume { voxels: voxels.into(), shape: [SHAPE[0], SHAPE[1], slices], slope: 1.0, intercept: 0.0, ..sound }
}

fn rescaled(factor: f64) -> CtVolume {
    let affine = Affine::centred(AxisCodes::LPS, [5.5, 5.5, 6.0].map(|mm| mm * factor), SHAPE).unwrap();
    CtVolume { affine, ..chest() }
}

fn far() -> CtVolume {
    let mut rows = chest().affine.rows();
    rows[0][3] = 1e30;
    CtVolume { affine: Affine::new(rows).unwrap(), ..chest() }
}
