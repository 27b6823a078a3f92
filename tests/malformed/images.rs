//! Radiographs to predict from: cut, flipped, of other formats, without content.

use super::workspace::Workspace;
use super::{Case, Demand, draws};
use crate::cli::succeed;
use x2ct::ct::{GrayImage, image};

fn gray(width: u32, height: u32, value: impl Fn(u32, u32) -> u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Grayscale);
    let pixels: Vec<u8> = (0..height).flat_map(|y| (0..width).map(move |x| (x, y))).map(|(x, y)| value(x, y)).collect();
    encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
    bytes
}

pub fn cases(workspace: &Workspace) -> Vec<Case> {
    let good = gray(48, 48, |x, y| (x * 3 + y * 2 + (x * y) % 5) as u8);
    workspace.write("good.png", &good);
    let predict = "--checkpoint run/checkpoint.safetensors --cache valid.cache.safetensors --json";
    succeed(workspace.at(), &format!("predict good.png {predict}"));
    let mut cases = Vec::new();
    let mut add = |what: String, ending: &str, bytes: &[u8], demand: Demand| {
        let name = format!("i{}{ending}", cases.len());
        workspace.write(&name, bytes);
        cases.push(Case::new(what, format!("predict {name} {predict}"), demand, &[&name]));
    };
    for index in 0..8 {
        let mut rng = draws(8, index);
        let keep = 1 + rng.below(good.len() - 13);
        add(format!("PNG cut after {keep} bytes"), ".png", &good[..keep], Demand::Refused);
        // Every byte of a PNG's chunks is under a check; what stands before and after is not looked at here.
        let (byte, bit) = (8 + rng.below(good.len() - 20), rng.below(8));
        let mut flipped = good.clone();
        flipped[byte] ^= 1 << bit;
        add(format!("PNG: bit {bit} of byte {byte} flipped"), ".png", &flipped, Demand::Refused);
    }
    let others: [(&str, &str, &[u8]); 8] = [
        ("nothing", ".png", b""),
        ("text", ".png", b"x\n"),
        ("HTML", ".jpg", b"<html><body>403 Forbidden</body></html>"),
        ("an LFS pointer", ".png", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"),
        ("the first bytes of a JPEG", ".jpg", b"\xff\xd8\xff\xe0\0\x10JFIF\0"),
        ("a GIF", ".png", b"GIF89a\x01\0\x01\0\0\0\0;"),
        ("a PDF", ".png", b"%PDF-1.7\n"),
        ("DICOM's preamble alone", ".dcm", &[&[0u8; 128][..], b"DICM"].concat()),
    ];
    for (what, ending, bytes) in others {
        add(what.into(), ending, bytes, Demand::Refused);
    }
    for value in [0, 128, 255] {
        add(format!("{value} everywhere"), ".png", &gray(48, 48, |_, _| value), Demand::Said);
    }
    add("one pixel".into(), ".png", &gray(1, 1, |_, _| 9), Demand::Said);
    let line = GrayImage::new((0..64).map(|v| v as f32).collect(), 1, 64).unwrap();
    image::write(workspace.at().join("line.nii.gz"), &line, &Default::default(), 1.0).unwrap();
    cases.push(Case::new("a line of pixels", format!("predict line.nii.gz {predict}"), Demand::Said, &["line.nii.gz"]));
    cases
}
