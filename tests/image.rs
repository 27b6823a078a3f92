//! Radiograph files: PNG, safetensors and NIfTI, both ways.

use x2ct::ct::annotate::Letters;
use x2ct::ct::image::{self, Depth, GrayImage, Photometric, PngOptions, Window};
use x2ct::ct::{Affine, AxisCodes, CtVolume, Voxels, nifti};

/// 2 rows of 3, from -1000 to 1000.
fn sample() -> GrayImage {
    GrayImage::new(vec![-1000.0, -500.0, 0.0, 250.0, 500.0, 1000.0], 2, 3).unwrap()
}

/// Encodes `data` as a PNG with the png crate itself.
fn png_of(color: png::ColorType, depth: png::BitDepth, width: u32, height: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(color);
    encoder.set_depth(depth);
    if color == png::ColorType::Indexed {
        encoder.set_palette(vec![0, 0, 0, 10, 20, 30, 255, 255, 255]);
    }
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(data).unwrap();
    writer.finish().unwrap();
    bytes
}

fn levels(options: &PngOptions, image: &GrayImage) -> Vec<f32> {
    let bytes = image::encode_png(image, options, &1.0.into()).unwrap();
    let depth = png::Decoder::new(std::io::Cursor::new(&bytes)).read_info().unwrap().output_color_type();
    let expected = if options.depth == Depth::Eight { png::BitDepth::Eight } else { png::BitDepth::Sixteen };
    assert_eq!(depth, (png::ColorType::Grayscale, expected));
    let read = image::read_bytes(&bytes, "case.png").unwrap();
    assert_eq!((read.height, read.width), (image.height, image.width));
    read.pixels
}

#[test]
fn png_levels_follow_window_depth_and_photometric() {
    let eight = PngOptions { depth: Depth::Eight, ..PngOptions::default() };
    // (v + 1000) / 2000 * 255 = 0, 63.75, 127.5, 159.375, 191.25, 255.
    assert_eq!(levels(&eight, &sample()), [0.0, 64.0, 128.0, 159.0, 191.0, 255.0]);
    let inverted = PngOptions { photometric: Photometric::Monochrome1, ..eight };
    assert_eq!(levels(&inverted, &sample()), [255.0, 191.0, 128.0, 96.0, 64.0, 0.0]);
    let window = PngOptions { window: Window::Range { low: -500.0, high: 520.0 }, ..eight };
    // (v + 500) / 4, clamped.
    assert_eq!(levels(&window, &sample()), [0.0, 0.0, 125.0, 188.0, 250.0, 255.0]);
    let sixteen = PngOptions { window: Window::Range { low: -1000.0, high: 64535.0 }, ..PngOptions::default() };
    assert_eq!(levels(&sixteen, &sample()), [0.0, 500.0, 1000.0, 1250.0, 1500.0, 2000.0]);

    let flat = GrayImage::new(vec![7.0; 4], 4, 1).unwrap();
    assert_eq!(levels(&eight, &flat), [0.0; 4]);
    assert_eq!(levels(&inverted, &flat), [255.0; 4]);
    let extreme = GrayImage::new(vec![f32::MIN, 0.0, f32::MAX], 1, 3).unwrap();
    assert_eq!(levels(&eight, &extreme), [0.0, 128.0, 255.0]);
}

#[test]
fn percentiles_open_the_window_between_pixels() {
    let image = GrayImage::new(vec![30.0, 0.0, 10.0, 20.0, 1000.0], 1, 5).unwrap();
    let of = |low, high| {
        let window = Window::Percentiles { low, high };
        levels(&PngOptions { depth: Depth::Eight, window, ..PngOptions::default() }, &image)
    };
    assert_eq!(of(0.0, 100.0), levels(&PngOptions { depth: Depth::Eight, ..PngOptions::default() }, &image));
    // From 10 to 30, and from 5 (half-way from 0 to 10) to 20.
    assert_eq!(of(25.0, 75.0), [255.0, 0.0, 0.0, 128.0, 255.0]);
    assert_eq!(of(12.5, 50.0), [255.0, 0.0, 85.0, 255.0, 255.0]);
    let flat = GrayImage::new(vec![3.0; 9], 3, 3).unwrap();
    let window = Window::Percentiles { low: 1.0, high: 99.0 };
    assert_eq!(levels(&PngOptions { depth: Depth::Eight, window, ..PngOptions::default() }, &flat), [0.0; 9]);
    for (low, high) in [(50.0, 50.0), (-1.0, 99.0), (1.0, 101.0), (f32::NAN, 99.0)] {
        let options = PngOptions { window: Window::Percentiles { low, high }, ..PngOptions::default() };
        let error = image::encode_png(&image, &options, &1.0.into()).unwrap_err().to_string();
        assert!(error.contains("is not a range of percentages"), "{error}");
    }
}

#[test]
fn letters_stand_in_the_upper_corners_and_nowhere_else() {
    let (height, width) = (200, 160);
    let grey = GrayImage::new((0..height * width).map(|i| (i % 101) as f32).collect(), height, width).unwrap();
    let letters = Some(Letters::of([0.0, 0.0, -1.0], [-1.0, 0.0, 0.0]));
    for (depth, white) in [(Depth::Eight, 255.0), (Depth::Sixteen, 65535.0)] {
        for photometric in [Photometric::Monochrome1, Photometric::Monochrome2] {
            let plain = PngOptions { depth, photometric, ..PngOptions::default() };
            let (bare, drawn) = (levels(&plain, &grey), levels(&PngOptions { letters, ..plain }, &grey));
            // White strokes of an R on the left and of an L on the right, seven rows of five from (3, 3).
            let stroke = |row: usize, column: usize| drawn[row * width + column] == white;
            let glyph = |x: usize| -> Vec<String> {
                (3..10).map(|y| (x..x + 5).map(|x| if stroke(y, x) { '#' } else { '.' }).collect()).collect()
            };
            assert_eq!(glyph(3), ["####.", "#...#", "#...#", "####.", "#.#..", "#..#.", "#...#"], "{depth:?}");
            assert_eq!(glyph(width - 8), ["#....", "#....", "#....", "#....", "#....", "#....", "#####"], "{depth:?}");
            // A black rim around them, and every other pixel as it was.
            assert_eq!((drawn[2 * width + 2], drawn[10 * width + 3 + 5 - 1 - 1]), (0.0, 0.0));
            for (i, (a, b)) in bare.iter().zip(&drawn).enumerate() {
                let (row, column) = (i / width, i % width);
                let corner =
                    (2..11).contains(&row) && ((2..9).contains(&column) || (2..9).contains(&(width - 1 - column)));
                assert!(a == b || corner, "({row}, {column}) changed");
            }
        }
    }
    // Too small to write on; and never in files of values.
    let small = GrayImage::new(vec![0.5; 23 * 40], 23, 40).unwrap();
    let with = PngOptions { letters, ..PngOptions::default() };
    assert_eq!(levels(&with, &small), levels(&PngOptions::default(), &small));
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.safetensors", "a.nii"] {
        let path = folder.path().join(name);
        image::write(&path, &grey, &with, 1.0).unwrap();
        let first = std::fs::read(&path).unwrap();
        image::write(&path, &grey, &PngOptions::default(), 1.0).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), first, "{name}");
    }
}

#[test]
fn what_cannot_be_an_image_is_refused() {
    let message = |result: x2ct::Result<GrayImage>| result.unwrap_err().to_string();
    assert!(message(GrayImage::new(vec![0.0; 5], 2, 3)).contains("5 pixels for 2 rows of 3"));
    assert!(message(GrayImage::new(vec![], 0, 3)).contains("0 pixels"));
    assert!(message(GrayImage::new(vec![0.0], usize::MAX, 2)).contains("1 pixels"));
    assert!(message(GrayImage::new(vec![0.0, 0.0, f32::NAN, 0.0], 2, 2)).contains("pixel (row 1, column 0) is NaN"));
    for (low, high) in [(5.0, 5.0), (6.0, 5.0), (f32::NAN, 1.0), (f32::NEG_INFINITY, 0.0)] {
        let options = PngOptions { window: Window::Range { low, high }, ..PngOptions::default() };
        assert!(
            image::encode_png(&sample(), &options, &1.0.into()).unwrap_err().to_string().contains("is not a range")
        );
    }
    let mut spoilt = sample();
    spoilt.pixels[4] = f32::INFINITY;
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.png", "a.safetensors", "a.nii.gz"] {
        let error = image::write(folder.path().join(name), &spoilt, &PngOptions::default(), 1.0).unwrap_err();
        assert!(error.to_string().contains("pixel (row 1, column 1) is inf"), "{error}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn the_name_chooses_the_format() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str| {
        let path = folder.path().join(name);
        image::write(&path, &sample(), &PngOptions::default(), 0.5).map(|()| path)
    };

    let png = image::read(write("a.png").unwrap()).unwrap();
    assert_eq!(png.pixels, [0.0, 16384.0, 32768.0, 40959.0, 49151.0, 65535.0]);

    let bytes = std::fs::read(write("a.safetensors").unwrap()).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensor = tensors.tensor("image").unwrap();
    assert_eq!((tensors.len(), tensor.dtype(), tensor.shape()), (1, safetensors::Dtype::F32, &[2, 3][..]));
    let values: Vec<u8> = sample().pixels.iter().flat_map(|v| v.to_le_bytes()).collect();
    assert_eq!(tensor.data(), values);

    for name in ["a.nii", "a.nii.gz"] {
        let path = write(name).unwrap();
        assert_eq!(image::read(&path).unwrap(), sample());
        let volume = nifti::read(&path).unwrap();
        assert_eq!((volume.shape, volume.spacing()), ([3, 2, 1], [0.5, 0.5, 1.0]));
        assert_eq!(volume.axis_codes().to_string(), "LIA");
        assert_eq!(volume.affine.centre(volume.shape), [0.0; 3]);
    }
    for name in ["a.jpg", "a"] {
        assert!(write(name).unwrap_err().to_string().contains("end the name in .png, .safetensors or .nii.gz"));
    }
    assert!(write("absent/a.png").unwrap_err().to_string().contains("check the path"));
    let mut names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["a.nii", "a.nii.gz", "a.png", "a.safetensors"], "no temporary file stays behind");
}

#[test]
fn every_kind_of_png_becomes_grey() {
    use png::{BitDepth, ColorType};
    let read = |color, depth, data: &[u8]| {
        let image = image::read_bytes(&png_of(color, depth, 2, 1, data), "case.png").unwrap();
        assert_eq!((image.height, image.width), (1, 2));
        image.pixels
    };
    let luma = |r: f64, g: f64, b: f64| (0.299 * r + 0.587 * g + 0.114 * b) as f32;
    assert_eq!(read(ColorType::Grayscale, BitDepth::Eight, &[3, 250]), [3.0, 250.0]);
    assert_eq!(read(ColorType::Grayscale, BitDepth::Sixteen, &[1, 2, 255, 255]), [258.0, 65535.0]);
    assert_eq!(read(ColorType::Grayscale, BitDepth::One, &[0b0100_0000]), [0.0, 255.0]);
    assert_eq!(read(ColorType::GrayscaleAlpha, BitDepth::Eight, &[3, 0, 250, 9]), [3.0, 250.0]);
    assert_eq!(read(ColorType::Rgb, BitDepth::Eight, &[10, 20, 30, 77, 77, 77]), [luma(10.0, 20.0, 30.0), 77.0]);
    assert_eq!(read(ColorType::Rgba, BitDepth::Eight, &[10, 20, 30, 0, 9, 9, 9, 255]), [luma(10.0, 20.0, 30.0), 9.0]);
    let wide: Vec<u8> = [300u16, 0, 65535, 501, 501, 501].iter().flat_map(|v| v.to_be_bytes()).collect();
    assert_eq!(read(ColorType::Rgb, BitDepth::Sixteen, &wide), [luma(300.0, 0.0, 65535.0), 501.0]);
    assert_eq!(read(ColorType::Indexed, BitDepth::Eight, &[1, 2]), [luma(10.0, 20.0, 30.0), 255.0]);
    // Equal channels give that grey exactly, so a grey picture saved as RGB changes nothing.
    for grey in 0..=255u8 {
        let pixels = read(ColorType::Rgb, BitDepth::Eight, &[grey; 6]);
        assert_eq!(pixels, [f32::from(grey); 2]);
    }
}

#[test]
fn nifti_images_apply_their_scaling_and_must_be_flat() {
    let affine = |shape| Affine::centred(AxisCodes::LIA, [1.0; 3], shape).unwrap();
    let mut flat = CtVolume::new(Voxels::I16(vec![1, 2, 3, 4, 5, 6].into()), [3, 2, 1], affine([3, 2, 1])).unwrap();
    (flat.slope, flat.intercept) = (2.0, -1.0);
    let read = image::read_bytes(&nifti::encode(&flat).unwrap(), "case.nii").unwrap();
    assert_eq!(read, GrayImage::new(vec![1.0, 3.0, 5.0, 7.0, 9.0, 11.0], 2, 3).unwrap());
    (flat.slope, flat.intercept) = (f32::MAX, 0.0);
    let error = image::read_bytes(&nifti::encode(&flat).unwrap(), "case.nii").unwrap_err().to_string();
    assert!(error.starts_with("case.nii: ") && error.contains("is inf"), "{error}");

    let deep = CtVolume::new(Voxels::I16(vec![0; 6].into()), [3, 1, 2], affine([3, 1, 2])).unwrap();
    let error = image::read_bytes(&nifti::encode(&deep).unwrap(), "case.nii").unwrap_err().to_string();
    assert!(error.contains("a volume of 2 slices where one image is wanted"), "{error}");
}

#[test]
fn damaged_images_are_refused() {
    let pixels = (0..40 * 30).map(|i| ((i * 7919) % 1201) as f32).collect();
    let image = GrayImage::new(pixels, 40, 30).unwrap();
    for depth in [Depth::Eight, Depth::Sixteen] {
        let options = PngOptions { depth, ..PngOptions::default() };
        let bytes = image::encode_png(&image, &options, &1.0.into()).unwrap();
        let sound = image::read_bytes(&bytes, "case.png").unwrap();
        for end in 0..bytes.len() {
            let error = image::read_bytes(&bytes[..end], "case.png").expect_err("a truncated file").to_string();
            assert!(error.starts_with("case.png: ") && !error.contains('\n'), "{error}");
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            if let Ok(read) = image::read_bytes(&damaged, "case.png") {
                assert_eq!(read, sound, "byte {at}");
            }
        }
    }

    let mut bomb = png_of(png::ColorType::Grayscale, png::BitDepth::Eight, 1, 1, &[0]);
    bomb[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
    let mut crc = libdeflater::Crc::new();
    crc.update(&bomb[12..29]);
    bomb[29..33].copy_from_slice(&crc.sum().to_be_bytes());
    let error = image::read_bytes(&bomb, "case.png").unwrap_err().to_string();
    assert!(error.contains("65536 x 65536 pixels are more than any radiograph has"), "{error}");

    let error = image::read_bytes(b"\xff\xd8\xff\xe0 a JPEG", "case.jpg").unwrap_err().to_string();
    assert!(error.contains("case.jpg: not a sound JPEG"), "{error}");
    let error = image::read_bytes(b"GIF89a", "case.png").unwrap_err().to_string();
    assert!(error.contains("is a GIF image, neither PNG, JPEG, DICOM nor NIfTI"), "{error}");
    assert!(image::read("absent.png").unwrap_err().to_string().contains("check the path"));
}

/// Whatever is written says how it was made: PNG in text chunks, NIfTI by the digest in `descrip`.
#[test]
fn pictures_and_nifti_carry_the_digest_of_their_settings() {
    let folder = tempfile::tempdir().unwrap();
    let digest = "0123456789abcdef".repeat(4);
    let entries = [("digest", digest.as_str()), ("view", "ap")].map(|(key, text)| (key.to_string(), text.to_string()));
    let description = image::Description { pitch: 0.5, detector: None, entries: entries.clone().into() };
    for name in ["a.png", "a.nii", "a.safetensors"] {
        image::write(folder.path().join(name), &sample(), &PngOptions::default(), description.clone()).unwrap();
    }
    let bytes = std::fs::read(folder.path().join("a.png")).unwrap();
    let reader = png::Decoder::new(std::io::Cursor::new(&bytes)).read_info().unwrap();
    let texts = reader.info().utf8_text.iter().map(|t| (t.keyword.clone(), t.get_text().unwrap()));
    let texts: std::collections::BTreeMap<_, _> = texts.collect();
    let shown = [
        ("bits", "16"),
        ("photometric", "monochrome2"),
        ("window_curve", "linear"),
        ("window_high", "1000"),
        ("window_low", "-1000"),
        ("window_rule", "smallest and largest value"),
    ];
    let shown = shown.map(|(key, text)| (key.to_string(), text.to_string()));
    assert_eq!(texts, entries.into_iter().chain(shown).collect());
    assert_eq!(image::read(folder.path().join("a.png")).unwrap().width, sample().width);
    let nifti = std::fs::read(folder.path().join("a.nii")).unwrap();
    assert_eq!(&nifti[148..148 + 70], format!("x2ct {digest}\0").as_bytes());
    // cal_max and cal_min, and an extension of code 6 (comment) with all of it, before the voxels.
    assert_eq!((&nifti[124..128], &nifti[128..132]), (&1000f32.to_le_bytes()[..], &(-1000f32).to_le_bytes()[..]));
    let number = |at: usize| i32::from_le_bytes(nifti[at..at + 4].try_into().unwrap());
    assert_eq!((nifti[348], number(352) % 16, number(356)), (1, 0, 6));
    assert_eq!(f32::from_le_bytes(nifti[108..112].try_into().unwrap()), 352.0 + number(352) as f32);
    let text = std::str::from_utf8(&nifti[360..352 + number(352) as usize]).unwrap().trim_end_matches('\0');
    let said: serde_json::Value = serde_json::from_str(text).unwrap();
    assert_eq!((&said["digest"], &said["window_low"]), (&digest.clone().into(), &"-1000".into()));
    assert_eq!(image::read(folder.path().join("a.nii")).unwrap(), sample());
}

/// A JPEG that a DICOM file holds.
fn jpeg_of(name: &str) -> Vec<u8> {
    let bytes = std::fs::read(crate::support::checkout("tests/dicom_files").join(name)).unwrap();
    let at = bytes.windows(3).rposition(|window| window == [0xff, 0xd8, 0xff]).unwrap();
    bytes[at..].to_vec()
}

/// EXIF data with an orientation behind another entry.
fn exif(orientation: u16, big_endian: bool) -> Vec<u8> {
    let short = |v: u16| if big_endian { v.to_be_bytes() } else { v.to_le_bytes() };
    let long = |v: u32| if big_endian { v.to_be_bytes() } else { v.to_le_bytes() };
    let mut bytes = if big_endian { b"MM\0*".to_vec() } else { b"II*\0".to_vec() };
    bytes.extend(long(8));
    bytes.extend(short(2));
    for (tag, value) in [(0x0100, 20), (0x0112, orientation)] {
        bytes.extend([short(tag), short(3)].concat());
        bytes.extend(long(1));
        bytes.extend([short(value), short(0)].concat());
    }
    bytes.extend(long(0));
    bytes
}

/// Where the first row and the first column of the stored image are shown (EXIF 2.32, table 6): places of pixels.
fn shown(orientation: u16, [h, w]: [usize; 2], [row, column]: [usize; 2]) -> [usize; 2] {
    let ends = [
        "",
        "top left",
        "top right",
        "bottom right",
        "bottom left",
        "left top",
        "right top",
        "right bottom",
        "left bottom",
    ];
    let (rows, columns) = ends[usize::from(orientation)].split_once(' ').unwrap();
    let mut place = [0; 2];
    for (end, index, count) in [(rows, row, h), (columns, column, w)] {
        let axis = usize::from(["left", "right"].contains(&end));
        place[axis] = if ["top", "left"].contains(&end) { index } else { count - 1 - index };
    }
    place
}

#[test]
fn exif_orientation_of_jpeg_and_png_is_applied_and_said() {
    let folder = tempfile::tempdir().unwrap();
    let jpeg = jpeg_of("jpeg_baseline.dcm");
    let picture = GrayImage::new((0..24 * 20).map(|i| (i % 251) as f32).collect(), 24, 20).unwrap();
    let path = folder.path().join("plain.png");
    image::write(&path, &picture, &PngOptions { depth: Depth::Eight, ..Default::default() }, 1.0).unwrap();
    let png = std::fs::read(&path).unwrap();
    let in_jpeg = |data: &[u8]| {
        let length = (data.len() as u16 + 8).to_be_bytes();
        [&jpeg[..2], &[0xff, 0xe1], &length, b"Exif\0\0", data, &jpeg[2..]].concat()
    };
    let in_png = |data: &[u8]| {
        let chunk = [b"eXIf", data].concat();
        let mut crc = libdeflater::Crc::new();
        crc.update(&chunk);
        // Behind the signature and IHDR.
        [&png[..33], &(data.len() as u32).to_be_bytes(), &chunk, &crc.sum().to_be_bytes(), &png[33..]].concat()
    };
    let read = |bytes: &[u8]| {
        let path = folder.path().join("picture");
        std::fs::write(&path, bytes).unwrap();
        image::read_radiograph(&path).unwrap()
    };
    for plain in [&jpeg, &png].map(|bytes| read(bytes)) {
        assert_eq!(([plain.image.height, plain.image.width], &plain.remarks[..]), ([24, 20], &[][..]));
    }
    for (orientation, big_endian) in (1..=8).flat_map(|orientation| [(orientation, false), (orientation, true)]) {
        let data = exif(orientation, big_endian);
        for (bytes, plain) in [(in_jpeg(&data), read(&jpeg).image), (in_png(&data), read(&png).image)] {
            let found = read(&bytes);
            let size = if orientation < 5 { [24, 20] } else { [20, 24] };
            assert_eq!([found.image.height, found.image.width], size, "{orientation}");
            for (row, column) in (0..24).flat_map(|row| (0..20).map(move |column| (row, column))) {
                let [y, x] = shown(orientation, [24, 20], [row, column]);
                let (is, was) = (found.image.pixels[y * size[1] + x], plain.pixels[row * 20 + column]);
                assert_eq!(is, was, "{orientation}: pixel {row} {column}");
            }
            let said = found.remarks.join("");
            let expected = format!("Its EXIF orientation, {orientation}, is applied: ");
            assert!(said.starts_with(&expected) != (orientation == 1), "{orientation}: {said}");
        }
    }
    // Damage to it is no damage to the picture.
    for data in [&b""[..], b"MM\0*", b"II*\0\xff\xff\xff\xff", &exif(6, true)[..20], &exif(9, false), b"Exif"] {
        assert_eq!(read(&in_jpeg(data)).image, read(&jpeg).image);
    }
}

#[test]
fn a_jpeg_of_twelve_bits_is_named() {
    let error = image::read_bytes(&jpeg_of("jpeg_extended_12_bits.dcm"), "x.jpg").unwrap_err().to_string();
    assert_eq!(error, "x.jpg: is a lossy JPEG of 12 bits a sample, and only 8 are decoded here; convert it to PNG");
}
