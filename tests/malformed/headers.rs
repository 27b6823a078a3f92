//! NIfTI: fields that contradict each other, fields that are no numbers, voxels that are no Hounsfield units, cut and
//! flipped bytes.

use super::workspace::Workspace;
use super::{Case, Demand, draws};
use crate::cli::succeed;
use x2ct::philox::Rng;

const SHAPE: [usize; 3] = [30, 26, 20];
const SPACING: [f32; 3] = [11.0, 11.0, 14.0];
const DATA: usize = 352;

/// A chest of air, soft tissue, lungs and bone in LPS order, HU.
fn chest() -> Vec<i16> {
    let [nx, ny, nz] = SHAPE.map(|n| n as f32 / 2.0);
    let mut voxels = Vec::new();
    for z in 0..SHAPE[2] {
        for y in 0..SHAPE[1] {
            for x in 0..SHAPE[0] {
                let (u, v) = ((x as f32 + 0.5) / nx - 1.0, (y as f32 + 0.5) / ny - 1.0);
                let body = (u / 0.9).powi(2) + (v / 0.8).powi(2) < 1.0;
                let lung = ((u.abs() - 0.45) / 0.3).powi(2) + (v / 0.5).powi(2) < 1.0;
                let spine = u.powi(2) + (v - 0.6).powi(2) < 0.01;
                // Of no period, as noise is: planes that come again are doubted.
                let noise = Rng::new(23, ((z * SHAPE[1] + y) * SHAPE[0] + x) as u64, 0).below(23);
                let hu = match (body, lung && (z as f32) < 1.6 * nz, spine) {
                    (false, ..) => -1000,
                    (_, _, true) => 700,
                    (_, true, _) => -820,
                    _ => 30,
                };
                voxels.push(hu + noise as i16);
            }
        }
    }
    voxels
}

/// A NIfTI-1 file of the chest with sform and qform that agree.
fn file(voxels: &[i16]) -> Vec<u8> {
    let mut bytes = vec![0u8; DATA];
    let mut put = |offset: usize, value: &[u8]| bytes[offset..offset + value.len()].copy_from_slice(value);
    put(0, &348i32.to_le_bytes());
    for (i, n) in [3, SHAPE[0], SHAPE[1], SHAPE[2], 1, 1, 1, 1].into_iter().enumerate() {
        put(40 + 2 * i, &(n as i16).to_le_bytes());
    }
    put(70, &4i16.to_le_bytes());
    put(72, &16i16.to_le_bytes());
    for (i, size) in [1.0, SPACING[0], SPACING[1], SPACING[2]].into_iter().enumerate() {
        put(76 + 4 * i, &size.to_le_bytes());
    }
    put(108, &(DATA as f32).to_le_bytes());
    put(112, &1f32.to_le_bytes());
    put(123, &[2]);
    put(252, &1i16.to_le_bytes());
    put(254, &1i16.to_le_bytes());
    // Half a turn about z: x to the left and y to the back.
    put(264, &1f32.to_le_bytes());
    for axis in 0..3 {
        let sign = if axis < 2 { -1.0 } else { 1.0 };
        put(280 + 16 * axis + 4 * axis, &(sign * SPACING[axis]).to_le_bytes());
    }
    put(344, b"n+1\0");
    bytes.extend(voxels.iter().flat_map(|v| v.to_le_bytes()));
    bytes
}

fn pick<T: Copy>(rng: &mut Rng, values: &[T]) -> T {
    values[rng.below(values.len())]
}

/// An edit of the header: where and what, in words, and what must be said of it.
struct Edit {
    what: String,
    writes: Vec<(usize, Vec<u8>)>,
    demand: Demand,
    words: &'static str,
}

const NO_NUMBERS: [f32; 3] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];

/// The edits, by kind; each is drawn anew for every index.
#[rustfmt::skip] // one edit a paragraph
fn edit(kind: usize, rng: &mut Rng) -> Edit {
    let axis = rng.below(3);
    let f32s = |offset: usize, values: &[f32]| (offset, values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());
    let code = |offset: usize, value: i16| (offset, value.to_le_bytes().to_vec());
    let (diagonal, size) = (280 + 20 * axis, SPACING[axis]);
    match kind {
        0 => {
            let factor = pick(rng, &[0.02, 0.1, 0.5, 3.0, 25.0]) * rng.range(0.9, 1.1);
            let sign = if axis < 2 { -1.0 } else { 1.0 };
            Edit { what: format!("sform axis {axis} times {factor}"), writes: vec![f32s(diagonal, &[sign * size * factor])], demand: Demand::Said, words: "sform" }
        }
        1 => {
            let sign = if axis < 2 { 1.0 } else { -1.0 };
            Edit { what: format!("sform axis {axis} turned round"), writes: vec![f32s(diagonal, &[sign * size])], demand: Demand::Said, words: "sform" }
        }
        2 => {
            let value = pick(rng, &[0.0, f32::NAN, f32::INFINITY, -3.0]);
            Edit { what: format!("pixdim[{}] = {value} without sform", axis + 1), writes: vec![f32s(80 + 4 * axis, &[value]), code(254, 0)], demand: Demand::Said, words: "pixdim" }
        }
        3 => {
            let value = pick(rng, &[f32::NAN, f32::INFINITY, 0.0]);
            Edit { what: format!("all of sform {value}, its code set"), writes: vec![f32s(280, &[value; 12])], demand: Demand::Said, words: "sform" }
        }
        4 => {
            let value = pick(rng, &NO_NUMBERS);
            Edit { what: format!("neither form usable: {value}"), writes: vec![f32s(280, &[value; 12]), f32s(80, &[value; 3]), f32s(256, &[value; 6])], demand: Demand::Refused, words: "sform|qform|pixdim" }
        }
        5 => {
            let n = pick(rng, &[0i16, -4, 30_000]);
            Edit { what: format!("dim[{}] = {n}", axis + 1), writes: vec![code(42 + 2 * axis, n)], demand: Demand::Refused, words: "dim|bytes|short|truncated" }
        }
        6 => {
            let n = pick(rng, &[0i16, -1, 8, 77, 2]);
            Edit { what: format!("dim[0] = {n}"), writes: vec![code(40, n)], demand: Demand::Refused, words: "dim" }
        }
        7 => {
            let value = pick(rng, &[0i16, 1, 3, 32, 128, 1792, 2304, 5000]);
            Edit { what: format!("datatype {value}"), writes: vec![code(70, value)], demand: Demand::Refused, words: "datatype" }
        }
        8 => {
            let value = pick(rng, &[0i16, 8, 32, 64, -16]);
            Edit { what: format!("bitpix {value}"), writes: vec![code(72, value)], demand: Demand::Refused, words: "bitpix" }
        }
        9 => {
            let value = pick(rng, &[0.0, 100.0, 1e9, -352.0, f32::NAN, 353.5]);
            Edit { what: format!("vox_offset {value}"), writes: vec![f32s(108, &[value])], demand: Demand::Refused, words: "vox_offset" }
        }
        10 => {
            let unit = pick(rng, &[1u8, 3]);
            Edit { what: format!("unit code {unit} on values in mm"), writes: vec![(123, vec![unit])], demand: Demand::Said, words: "mm" }
        }
        11 => {
            let value = pick(rng, &NO_NUMBERS);
            Edit { what: format!("scl_inter {value} beside a slope of 2"), writes: vec![f32s(112, &[2.0, value])], demand: Demand::Said, words: "scl_inter" }
        }
        12 => {
            let turn = pick(rng, &[0.5f32, 0.9, 0.3]);
            Edit { what: format!("a quaternion of {turn}"), writes: vec![f32s(256, &[turn, 0.0, (1.0 - turn * turn).sqrt()])], demand: Demand::Said, words: "qform" }
        }
        13 => Edit { what: "qfac turned round".into(), writes: vec![f32s(76, &[-1.0])], demand: Demand::Said, words: "qform" },
        _ => {
            let mut writes = vec![code(254, 0)];
            writes.push(f32s(80, &SPACING.map(|s| s * pick(rng, &[1e-3, 1e-4, 200.0]))));
            Edit { what: "a patient of some millimetres, or of a house's size".into(), writes, demand: Demand::Refused, words: "mm" }
        }
    }
}

/// Voxels that are no Hounsfield units of a chest.
fn implausible(kind: usize, rng: &mut Rng) -> (String, Vec<i16>) {
    let chest = chest();
    let shift = pick(rng, &[1024i16, 1000, 8192]);
    let (what, change): (String, Box<dyn Fn(i16) -> i16>) = match kind {
        0 => {
            let value = pick(rng, &[0i16, -1024, 40, 7]);
            (format!("{value} everywhere"), Box::new(move |_| value))
        }
        1 => (format!("HU + {shift}"), Box::new(move |v| v + shift)),
        2 => ("a window of 8 bits".into(), Box::new(|v| ((i32::from(v) + 1000) * 255 / 1700) as i16)),
        3 => ("a label mask".into(), Box::new(|v| i16::from(v < -700) + 2 * i16::from(v > 400))),
        4 => ("scaled twice: 2 HU - 1024".into(), Box::new(|v| 2 * v - 1024 - 1024)),
        _ => ("HU / 1000".into(), Box::new(|v| v / 1000)),
    };
    (what, chest.into_iter().map(change).collect())
}

pub fn cases(workspace: &Workspace) -> Vec<Case> {
    let at = workspace.at();
    let good = file(&chest());
    workspace.write("good.nii", &good);
    workspace.write("good.nii.gz", &gzip(&good));
    assert!(!crate::cli::x2ct(at, "drr good.nii --out control.png").stderr.windows(7).any(|w| w == b"warning"));
    succeed(at, "drr good.nii.gz --out control.png");
    let control = workspace.read("control.png");
    let mut cases = Vec::new();
    let mut add = |what: String, ending: &str, bytes: &[u8], demand: Demand, words: &str| {
        let name = format!("h{}{ending}", cases.len());
        workspace.write(&name, bytes);
        let out = format!("{name}.png");
        cases.push(Case::new(what, format!("drr {name} --out {out}"), demand, &[&name, words]).writing(out));
    };
    for index in 0..60 {
        let edit = edit(index % 15, &mut draws(1, index));
        let mut bytes = good.clone();
        for (offset, value) in &edit.writes {
            bytes[*offset..offset + value.len()].copy_from_slice(value);
        }
        add(edit.what, ".nii", &bytes, edit.demand, edit.words);
    }
    for index in 0..12 {
        let (what, voxels) = implausible(index % 6, &mut draws(2, index));
        add(what, ".nii", &file(&voxels), Demand::Said, "HU|value");
    }
    for index in 0..16 {
        let mut rng = draws(3, index);
        let packed = gzip(&good);
        if index % 2 == 0 {
            let keep = 1 + rng.below(packed.len() - 2);
            add(format!("cut after {keep} bytes"), ".nii.gz", &packed[..keep], Demand::Refused, "");
        } else {
            let (byte, bit) = (rng.below(packed.len()), rng.below(8));
            let mut flipped = packed;
            flipped[byte] ^= 1 << bit;
            let demand = Demand::SaidOrSame(control.clone());
            add(format!("bit {bit} of byte {byte} flipped"), ".nii.gz", &flipped, demand, "");
        }
    }
    cases
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = libdeflater::Compressor::new(libdeflater::CompressionLvl::default());
    let mut packed = vec![0; packer.gzip_compress_bound(bytes.len())];
    let size = packer.gzip_compress(bytes, &mut packed).unwrap();
    packed.truncate(size);
    packed
}
