//! Pictures with default settings: no stripes of thick slices, nothing burnt out, the frame filled, the window recorded.

use x2ct::Device;
use x2ct::ct::physics::Film;
use x2ct::ct::{
    Affine, AxisCodes, CtVolume, Geometry, Mode, Placement, Projection, Radiograph, RadiographOptions, image,
};
use x2ct::ops::drr::Projector;

/// A chest of slices as thick as `thick` mm, 300 mm high: water with two lungs of -850 HU that widen downwards, a spine of 600
/// HU, on a table 4 mm thin.
fn chest(thick: f64) -> CtVolume {
    let shape = [96, 84, (300.0 / thick) as usize];
    let mut voxels = vec![-1000i16; shape.iter().product()];
    for (i, voxel) in voxels.iter_mut().enumerate() {
        let x = 4.0 * ((i % 96) as f64 - 47.5);
        let y = 4.0 * ((i / 96 % 84) as f64 - 36.5);
        let z = thick * ((i / 96 / 84) as f64 + 0.5) / 300.0;
        let inside = |cx: f64, cy: f64, rx: f64, ry: f64| ((x - cx) / rx).powi(2) + ((y - cy) / ry).powi(2) < 1.0;
        let lung = (std::f64::consts::PI * z).sin();
        *voxel = if inside(0.0, 75.0, 20.0, 20.0) && lung > 0.0 {
            600
        } else if inside(-75.0, 0.0, 55.0 * lung, 80.0 * lung) || inside(75.0, 0.0, 55.0 * lung, 80.0 * lung) {
            -850
        } else if inside(0.0, 0.0, 165.0, 115.0) {
            20
        } else if (150.0..154.0).contains(&y) {
            300
        } else {
            -1000
        };
    }
    let affine = Affine::centred(AxisCodes::LPS, [4.0, 4.0, thick], shape).unwrap();
    CtVolume::new(voxels.into(), shape, affine).unwrap()
}

/// The same with shoulders: 380 mm of tissue and two bones of 700 HU across the upper fifth, where a lateral view looks through
/// most.
fn with_shoulders(volume: CtVolume) -> CtVolume {
    let [columns, rows, slices] = volume.shape;
    let mut voxels: Vec<i16> = (0..volume.voxels.len()).map(|i| volume.voxels.get(i) as i16).collect();
    for (i, voxel) in voxels.iter_mut().enumerate().skip(columns * rows * slices * 4 / 5) {
        let (x, y) = (4.0 * ((i % columns) as f64 - 47.5), 4.0 * ((i / columns % rows) as f64 - 36.5));
        let inside = |cx: f64, rx: f64, ry: f64| ((x - cx) / rx).powi(2) + (y / ry).powi(2) < 1.0;
        if inside(150.0, 22.0, 22.0) || inside(-150.0, 22.0, 22.0) {
            *voxel = 700;
        } else if inside(0.0, 190.0, 90.0) && *voxel == -1000 {
            *voxel = 20;
        }
    }
    CtVolume { voxels: voxels.into(), ..volume }
}

const CONE: Geometry = Geometry::Cone { sdd: 1800.0, sod: 1500.0 };

fn make(volume: &CtVolume, options: &RadiographOptions) -> Radiograph {
    Radiograph::all(&Device::host(), volume, &[options.view], options).unwrap().remove(0)
}

fn views() -> impl Iterator<Item = (Projection, Placement)> {
    let turned = |primary_angle| (Projection::Pa, Placement { primary_angle, ..Default::default() });
    let straight = Projection::ALL.map(|view| (view, Placement::default()));
    straight.into_iter().chain([-60.0, -45.0, -30.0, 30.0, 45.0, 60.0].map(turned))
}

/// How sharply rows step in the middle of a lung, in grey: the root mean square of second differences from row to row of the
/// mean over some columns. Slices seen as bands step at every slice; anatomy does not at this scale.
fn stripes(made: &Radiograph) -> f64 {
    let [rows, columns] = [made.image.height, made.image.width];
    let across = columns * 3 / 10..columns * 4 / 10;
    let mean = |r: usize| {
        let row = &made.image.pixels[columns * r..][across.clone()];
        row.iter().map(|&g| f64::from(g)).sum::<f64>() / row.len() as f64
    };
    let profile: Vec<f64> = (rows * 2 / 5..rows * 3 / 5).map(mean).collect();
    let bends: Vec<f64> = profile.windows(3).map(|w| (w[0] - 2.0 * w[1] + w[2]).powi(2)).collect();
    (bends.iter().sum::<f64>() / bends.len() as f64).sqrt()
}

#[test]
fn a_film_shows_no_stripes_of_thick_slices() {
    for thick in [5.0, 10.0] {
        let volume = chest(thick);
        for geometry in [Geometry::Parallel, CONE] {
            let of = |projector| {
                let film = Film { centre: Some(3.0), width: Some(3.0) };
                let options = RadiographOptions { mode: Mode::Film, geometry, projector, film, ..Default::default() };
                stripes(&make(&volume, &options))
            };
            let (default, siddon) = (of(None), of(Some(Projector::Siddon)));
            assert_eq!(default, of(Some(Projector::Joseph)));
            assert!(default < 5e-4 && default < 0.15 * siddon, "{thick} mm {geometry:?}: {default} against {siddon}");
        }
    }
}

#[test]
fn the_outline_fills_the_frame_of_every_view_and_is_not_cut() {
    let volume = chest(5.0);
    for (view, placement) in views() {
        for geometry in [Geometry::Parallel, CONE] {
            let options =
                RadiographOptions { mode: Mode::Attenuation, view, placement, geometry, ..Default::default() };
            let made = make(&volume, &options);
            let [rows, columns] = [made.image.height, made.image.width];
            let what = format!("{view} {placement:?} {geometry:?}");
            assert_eq!(rows.max(columns), 512, "{what}");
            // Through 25 mm of water and more; the table, through 4 mm where it is not seen from the side.
            let behind = |r: usize, c: usize| made.image.pixels[c + columns * r] > 0.5;
            let filled = |line: &mut dyn Iterator<Item = bool>| line.filter(|b| *b).count();
            let tall = (0..rows).filter(|&r| filled(&mut (0..columns).map(|c| behind(r, c))) > columns / 3).count();
            let wide = (0..columns).filter(|&c| filled(&mut (0..rows).map(|r| behind(r, c))) > rows / 3).count();
            assert!(
                tall as f64 > 0.85 * rows as f64 && wide as f64 > 0.85 * columns as f64,
                "{what}: {tall} x {wide} of {rows} x {columns}"
            );
            assert!((0..columns).all(|c| !behind(0, c) && !behind(rows - 1, c)), "{what}: cut above or below");
            assert_eq!(made.entries["collimation"], "body");
        }
    }
    // A size and a pitch are taken as they are, about the central ray; the whole volume on request.
    let options =
        RadiographOptions { mode: Mode::Attenuation, size: Some([40, 50]), pitch: Some(3.0), ..Default::default() };
    let made = make(&volume, &options);
    assert_eq!((made.image.height, made.image.width, made.pitch), (40, 50, 3.0));
    assert_eq!(made.entries["collimation"], "given");
    let options = RadiographOptions { size: None, ..options };
    let made = make(&volume, &options);
    // 300 mm and a margin of 2% of 332 mm at either end.
    assert_eq!((made.pitch, made.image.height), (3.0, 105));
}

#[test]
fn nothing_in_the_body_is_burnt_out() {
    for (volume, (view, placement)) in
        [chest(5.0), with_shoulders(chest(5.0))].iter().flat_map(|v| views().map(move |at| (v, at)))
    {
        let of = |film| {
            let options =
                RadiographOptions { mode: Mode::Film, view, placement, film, geometry: CONE, ..Default::default() };
            let p = make(
                volume,
                &RadiographOptions { mode: Mode::Attenuation, projector: Some(Projector::Joseph), ..options.clone() },
            );
            let made = make(volume, &options);
            let inside: Vec<f32> =
                made.image.pixels.iter().zip(&p.image.pixels).filter(|(_, p)| **p > 0.5).map(|(&g, _)| g).collect();
            let share =
                |test: &dyn Fn(f32) -> bool| inside.iter().filter(|g| test(**g)).count() as f64 / inside.len() as f64;
            (share(&|g| g > 0.97), share(&|g| g < 0.03), made)
        };
        let (white, black, made) = of(Film::default());
        assert!(white < 0.01 && black < 0.02, "{view} {placement:?}: {white} white, {black} black");
        // Contrast is left: a tenth of the pixels at either end, and the exposure is written down.
        let exposure = made.exposure.unwrap();
        assert_eq!(made.entries["film_centre"], exposure.centre.to_string());
        assert_eq!(made.entries["film_width"], exposure.width.to_string());
        let dark = made.image.pixels.iter().filter(|g| **g < 0.3).count();
        let bright = made.image.pixels.iter().filter(|g| **g > 0.6).count();
        assert!(dark.min(bright) * 20 > made.image.pixels.len(), "{view} {placement:?}: {dark} dark, {bright} bright");
    }
}

#[test]
fn transmission_and_absorption_show_anatomy_and_record_their_window() {
    let volume = chest(5.0);
    for (view, placement) in views() {
        for mode in [Mode::Transmission, Mode::Absorption, Mode::Attenuation] {
            let made = make(&volume, &RadiographOptions { mode, view, placement, ..Default::default() });
            let options = image::PngOptions {
                depth: image::Depth::Eight,
                window: made.window,
                curve: made.curve,
                ..Default::default()
            };
            let png = image::encode_png(&made.image, &options, &made.description()).unwrap();
            let levels = image::read_bytes(&png, "a.png").unwrap().pixels;
            let share = |range: std::ops::Range<f32>| {
                levels.iter().filter(|v| range.contains(v)).count() as f64 / levels.len() as f64
            };
            // No third of the scale is empty, and little of the picture is at the bright (or, of transmission, dark) end.
            for third in [5.0..85.0, 85.0..170.0, 170.0..250.0] {
                assert!(share(third.clone()) > 0.03, "{mode} {view} {placement:?}: {third:?}");
            }
            let reader = png::Decoder::new(std::io::Cursor::new(&png)).read_info().unwrap();
            let texts: std::collections::BTreeMap<String, String> =
                reader.info().utf8_text.iter().map(|t| (t.keyword.clone(), t.get_text().unwrap())).collect();
            let [low, high] = made.image.window(made.window).unwrap();
            assert_eq!(
                (texts["window_low"].as_str(), texts["window_high"].as_str()),
                (&*low.to_string(), &*high.to_string())
            );
            assert_eq!(texts["window_rule"], "percentiles 0.5 and 99.5 of the pixels behind the body");
            assert_eq!(texts["window_curve"], mode.curve().name());
        }
    }
}
