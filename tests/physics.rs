//! Attenuation, its pictures, and what counts as padding.

use x2ct::Device;
use x2ct::ct::physics::{ENERGIES, Film, MU_WATER, mu_water_at, padding_voxels};
use x2ct::ct::{
    Affine, AxisCodes, CtVolume, GrayImage, HuSource, Mode, Projection, RadiographOptions, Voxels, padding_pixels,
    radiograph,
};
use x2ct::ops::drr::Projector;

use crate::support::{assert_close, normal};

fn volume(voxels: Voxels, shape: [usize; 3]) -> CtVolume {
    CtVolume::new(voxels, shape, Affine::centred(AxisCodes::LPS, [2.0; 3], shape).unwrap()).unwrap()
}

#[test]
fn attenuation_of_water_follows_the_published_table() {
    // Rows of the table, and XCOM's values between them, per cm.
    for (kev, per_cm, tolerance) in [
        (20.0, 0.8096, 1e-9),
        (30.0, 0.3756, 1e-9),
        (60.0, 0.2059, 1e-9),
        (100.0, 0.1707, 1e-9),
        (150.0, 0.1505, 1e-9),
        (25.0, 0.509, 2e-3),
        (70.0, 0.1929, 3e-4),
        (120.0, 0.1614, 3e-4),
    ] {
        let got = mu_water_at(kev).unwrap() * 10.0;
        assert!((got - per_cm).abs() <= tolerance, "{kev} keV: {got} per cm, expected {per_cm}");
    }
    let all: Vec<f64> = (200..=1500).map(|e| mu_water_at(f64::from(e) / 10.0).unwrap()).collect();
    assert!(all.windows(2).all(|w| w[1] < w[0]), "falls with energy");
    assert!((mu_water_at(67.0).unwrap() - MU_WATER).abs() < 6e-4);
    for kev in [ENERGIES.0 - 0.1, ENERGIES.1 + 0.1, f64::NAN, -60.0] {
        assert!(mu_water_at(kev).unwrap_err().to_string().contains("give 20 to 150"));
    }
}

#[test]
fn lung_attenuates_by_its_density_and_air_not_at_all() {
    let device = Device::host();
    for projector in [Projector::Siddon, Projector::Joseph, Projector::Trilinear] {
        // 40 mm through: mu 0.02 times density.
        for (hu, density) in
            [(-1000, 0.0), (-990, 0.01), (-950, 0.05), (-850, 0.15), (-500, 0.5), (0, 1.0), (1500, 2.5)]
        {
            let options = RadiographOptions {
                mode: Mode::Attenuation,
                projector: Some(projector),
                size: Some([3, 3]),
                pitch: Some(1.0),
                ..Default::default()
            };
            let image = radiograph(&device, &volume(vec![hu as i16; 8000].into(), [20; 3]), &options).unwrap();
            let want = 0.02 * 40.0 * density;
            for p in image.pixels {
                assert!(
                    (f64::from(p) - want).abs() <= 1e-6 + 1e-5 * want,
                    "{hu} HU by {projector:?}: {p}, expected {want}"
                );
            }
        }
    }
}

#[test]
fn padding_attenuates_nothing_is_air_to_the_mean_and_is_counted() {
    let device = Device::host();
    let (shape, count) = ([12, 10, 8], 12 * 10 * 8);
    let tissue: Vec<i16> = normal(3, count).iter().map(|v| (v * 300.0 - 100.0).clamp(-1000.0, 2000.0) as i16).collect();
    let padded = |hu: i16| -> CtVolume {
        let values: Vec<i16> = tissue.iter().enumerate().map(|(i, &v)| if i % 12 < 3 { hu } else { v }).collect();
        volume(values.into(), shape)
    };
    for mode in Mode::ALL {
        for projector in [Projector::Siddon, Projector::Joseph, Projector::Trilinear] {
            let options = RadiographOptions { mode, projector: Some(projector), ..Default::default() };
            let air = radiograph(&device, &padded(-1000), &options).unwrap();
            for hu in [-1024, -1025, -2048, -3024, i16::MIN] {
                assert_eq!(radiograph(&device, &padded(hu), &options).unwrap(), air, "{mode} {projector:?} {hu}");
            }
        }
    }
    for (hu, expected) in [(-1000, 0), (-1024, 0), (-1025, 3 * 80), (-2048, 3 * 80)] {
        assert_eq!(padding_voxels(&padded(hu), HuSource::AlreadyHu), expected, "{hu}");
    }
    // 3 columns of 12 from the front, every ray from the side; the size of the grid or larger.
    for (view, mode, expected) in [
        (Projection::Ap, Mode::MeanHu, 6 * 16),
        (Projection::Lateral, Mode::MeanHu, 20 * 16),
        (Projection::Ap, Mode::Attenuation, 6 * 16),
        (Projection::Lateral, Mode::Film, 20 * 16),
    ] {
        let size = (mode != Mode::MeanHu).then_some([18, 26]);
        let pitch = size.map(|_| 1.0);
        let options = RadiographOptions { mode, view, size, pitch, spacing: Some(1.0), ..Default::default() };
        let count = |hu| padding_pixels(&device, &padded(hu), &options).unwrap();
        // Interpolation to the 1 mm grid carries a voxel's value half a voxel further.
        let reach = if mode == Mode::MeanHu && view == Projection::Ap { 16 } else { 0 };
        assert_eq!((count(-2048), count(-1000)), (expected + reach, 0), "{view} {mode}");
    }
    // Stored 0 becomes -8192 HU by the metadata table's scaling, 8192 - 1024 the padding limit itself.
    let stored = volume(vec![0i16, 7167, 7168, 9000].into(), [4, 1, 1]);
    assert_eq!(padding_voxels(&stored, HuSource::CsvRescale { slope: 1.0, intercept: -8192.0 }), 2);
    let float = volume(vec![-1024.5f32, -1024.0, 0.0].into(), [3, 1, 1]);
    assert_eq!(padding_voxels(&float, HuSource::AlreadyHu), 1);
}

#[test]
fn transmission_and_absorption_are_beer_and_lamberts() {
    let device = Device::host();
    let tissue: Vec<f32> = normal(5, 20 * 20 * 20).iter().map(|&v| v * 400.0).collect();
    let volume = volume(tissue.into(), [20; 3]);
    let of = |mode| {
        let options = RadiographOptions { mode, size: Some([33, 37]), ..Default::default() };
        radiograph(&device, &volume, &options).unwrap().pixels
    };
    let integrals: Vec<f64> = of(Mode::Attenuation).into_iter().map(f64::from).collect();
    assert!(integrals.iter().any(|&p| p > 0.8) && integrals.contains(&0.0));
    assert_close(
        "transmission",
        &of(Mode::Transmission),
        &integrals.iter().map(|p| (-p).exp()).collect::<Vec<_>>(),
        1e-6,
    );
    assert_close(
        "absorption",
        &of(Mode::Absorption),
        &integrals.iter().map(|p| -(-p).exp_m1()).collect::<Vec<_>>(),
        1e-6,
    );
    let film = Film { centre: Some(0.5), width: Some(0.8) };
    let projector = Some(Projector::Siddon);
    let options = RadiographOptions { mode: Mode::Film, film, projector, size: Some([33, 37]), ..Default::default() };
    let want: Vec<f64> = integrals.iter().map(|p| 1.0 / (1.0 + (-4.0 * (p - 0.5) / 0.8).exp())).collect();
    assert_close("film", &radiograph(&device, &volume, &options).unwrap().pixels, &want, 1e-6);
}

#[test]
fn a_film_is_exposed_by_what_lies_behind_the_patient() {
    // Half the picture is open field.
    let integrals = GrayImage::new(vec![0.0, 0.05, 0.0, 0.09, 0.02, 1.0, 2.0, 3.5, 4.0, 6.0], 2, 5).unwrap();
    let film = Film::default();
    // The 5th and the 98th percentile of 1, 2, 3.5, 4, 6 are 1.2 and 5.84: shown at 0.09 and 0.91, ln(0.91 / 0.09) = 2.31363.
    let exposure = film.exposed(&integrals, None).unwrap();
    assert!(
        (exposure.centre - 3.52).abs() < 1e-6 && (exposure.width - 2.0 * 4.64 / 2.31363).abs() < 1e-4,
        "{exposure:?}"
    );
    let picture = exposure.develop(&integrals).unwrap();
    assert!(picture.pixels[..5].iter().all(|&g| g < 0.05), "an open field is black");
    assert!((picture.pixels[7] - 0.5).abs() < 0.01 && picture.pixels[9] < 0.93);
    // Behind the body alone.
    let behind: Vec<bool> = (0..10).map(|i| i == 5 || i == 6).collect();
    let exposure = film.exposed(&integrals, Some(&behind)).unwrap();
    assert!((exposure.centre - 1.515).abs() < 1e-6, "{exposure:?}");
    let given = Film { centre: Some(2.0), width: Some(3.0) };
    let exposure = given.exposed(&integrals, None).unwrap();
    assert_eq!((exposure.centre, exposure.width, exposure.develop(&integrals).unwrap().pixels[6]), (2.0, 3.0, 0.5));
    let empty = GrayImage::new(vec![0.0; 4], 2, 2).unwrap();
    let exposure = film.exposed(&empty, None).unwrap();
    assert!(exposure.develop(&empty).unwrap().pixels.iter().all(|&g| g < 0.02), "an open field is black");
    for wrong in [
        Film { width: Some(0.0), ..film },
        Film { width: Some(f64::NAN), ..film },
        Film { centre: Some(f64::NAN), ..film },
    ] {
        assert!(wrong.exposed(&integrals, None).unwrap_err().to_string().contains("positive width"));
    }
}
