use half::bf16;
use x2ct::ops::image::{ImageSet, Normalization, PixelType, Warp};
use x2ct::tensor::DType;

use crate::support::{assert_close, devices, host, normal};

fn pixels(n: usize) -> Vec<u8> {
    normal(1, n).iter().map(|x| (128.0 + 60.0 * x).clamp(0.0, 255.0) as u8).collect()
}

/// The batch in f64, of pixels in [0, 1].
fn reference(
    pixels: &[f64],
    [h0, w0]: [usize; 2],
    rows: &[(u32, Warp)],
    [h, w]: [usize; 2],
    n: Normalization,
) -> Vec<f64> {
    let mut out = Vec::new();
    for (row, warp) in rows {
        let image = &pixels[*row as usize * h0 * w0..][..h0 * w0];
        for (y, x) in (0..h).flat_map(|y| (0..w).map(move |x| (y as f64, x as f64))) {
            let m = warp.map.map(f64::from);
            let sx = (m[0] * x + m[1] * y + m[2]).clamp(0.0, (w0 - 1) as f64);
            let sy = (m[3] * x + m[4] * y + m[5]).clamp(0.0, (h0 - 1) as f64);
            let at = |y: f64, x: f64| image[(y as usize).min(h0 - 1) * w0 + (x as usize).min(w0 - 1)];
            let (fx, fy) = (sx.fract(), sy.fract());
            let top = at(sy, sx) * (1.0 - fx) + at(sy, sx + 1.0) * fx;
            let bottom = at(sy + 1.0, sx) * (1.0 - fx) + at(sy + 1.0, sx + 1.0) * fx;
            let value = warp.gain as f64 * (top * (1.0 - fy) + bottom * fy) + warp.offset as f64;
            out.extend((0..3).map(|c| (value - n.mean[c] as f64) / n.std[c] as f64));
        }
    }
    out
}

#[test]
fn batches_agree_with_f64() {
    let rotated = Warp { map: [0.9, 0.2, -1.3, -0.25, 1.1, 2.0], gain: 1.2, offset: -0.1 };
    for (name, device) in devices() {
        for (source, output) in [([1, 1], [1, 1]), ([7, 5], [11, 13]), ([64, 64], [64, 64]), ([37, 53], [17, 16])] {
            let data = pixels(3 * source[0] * source[1]);
            let bytes = ImageSet::new(&device, &data, source).unwrap();
            let unit: Vec<f64> = data.iter().map(|&v| f64::from(v) / 255.0).collect();
            let stored: Vec<bf16> = unit.iter().map(|&v| bf16::from_f64(v)).collect();
            let rounded: Vec<f64> = stored.iter().map(|v| v.to_f64()).collect();
            let mut halves = ImageSet::empty(&device, 3, source, PixelType::Bf16).unwrap();
            let (first, rest) = stored.split_at(source[0] * source[1]);
            halves.put(1, bytemuck::cast_slice(rest)).unwrap();
            halves.put(0, bytemuck::cast_slice(first)).unwrap();
            let rows = [(2, Warp::resize(source, output)), (0, rotated), (2, rotated)];
            for (dtype, bound) in [(DType::F32, 1e-5), (DType::Bf16, 4e-3)] {
                for (set, values) in [(&bytes, &unit), (&halves, &rounded)] {
                    let got = set.batch(&rows, output, Normalization::IMAGENET, dtype).unwrap();
                    let want = reference(values, source, &rows, output, Normalization::IMAGENET);
                    assert_close(&format!("{name} {source:?} {output:?}"), &got.to_vec().unwrap(), &want, bound);
                }
            }
        }
    }
}

#[test]
fn bad_batches_are_refused() {
    let device = host(Default::default());
    let set = ImageSet::new(&device, &pixels(12), [3, 4]).unwrap();
    let warp = Warp::resize([3, 4], [3, 4]);
    let refuse =
        |rows: &[(u32, Warp)]| set.batch(rows, [3, 4], Normalization::HALF, DType::F32).unwrap_err().to_string();
    assert!(refuse(&[]).contains("no rows"));
    assert!(refuse(&[(1, warp)]).contains("row 1 of a set of 1"));
    assert!(ImageSet::new(&device, &[], [3, 4]).is_err());
    assert!(ImageSet::new(&device, &pixels(13), [3, 4]).is_err());
    let mut room = ImageSet::empty(&device, 2, [3, 4], PixelType::Bf16).unwrap();
    assert!(room.put(1, &[0; 24]).is_ok() && room.put(1, &[0; 48]).is_err() && room.put(0, &[0; 12]).is_err());
}
