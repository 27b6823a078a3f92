//! Writes the seed corpus: small volumes of every format, plain and compressed. Usage: seeds FOLDER

use std::path::Path;

use libdeflater::{CompressionLvl, Compressor};
use x2ct::ct::{Affine, AxisCodes, CtVolume, nifti};

#[path = "../tests/support/npz.rs"]
mod npz;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut compressor = Compressor::new(CompressionLvl::default());
    let mut out = vec![0; compressor.gzip_compress_bound(bytes.len())];
    let length = compressor.gzip_compress(bytes, &mut out).expect("the bound is large enough");
    out.truncate(length);
    out
}

fn main() {
    let folder = std::env::args().nth(1).expect("usage: seeds FOLDER");
    let folder = Path::new(&folder);
    std::fs::create_dir_all(folder).expect("the folder can be made");
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.join(name), bytes).expect("the folder is writable");
    let shape = [5, 4, 3];
    for (name, codes) in [("lps", AxisCodes::LPS), ("ras", AxisCodes::RAS)] {
        let affine = Affine::centred(codes, [0.7, 0.7, 1.5], shape).expect("a sound affine");
        let whole = CtVolume::new((0..60).map(|i| i as i16 * 30 - 1000).collect::<Vec<i16>>().into(), shape, affine);
        let real = CtVolume::new((0..60).map(|i| i as f32 * 0.5).collect::<Vec<f32>>().into(), shape, affine);
        for (kind, volume) in [("i16", whole), ("f32", real)] {
            let bytes = nifti::encode(&volume.expect("a sound volume")).expect("it can be encoded");
            write(&format!("{name}_{kind}.nii"), &bytes);
            write(&format!("{name}_{kind}.nii.gz"), &gzip(&bytes));
            let members: Vec<u8> = [&bytes[..200], &bytes[200..360], &bytes[360..]].into_iter().flat_map(gzip).collect();
            write(&format!("{name}_{kind}_members.nii.gz"), &members);
        }
    }
    let values: Vec<i16> = (0..60).map(|i| i - 1000).collect();
    write("stored.npz", &npz::npz([3, 4, 5], &values, false));
    write("deflated.npz", &npz::npz([3, 4, 5], &values, true));
}
