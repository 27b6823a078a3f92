//! Writes the seed corpus: small volumes of every format, plain and compressed. Usage: seeds FOLDER

use std::path::Path;

use libdeflater::{CompressionLvl, Compressor, Crc};
use x2ct::ct::{Affine, AxisCodes, CtVolume, nifti};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut compressor = Compressor::new(CompressionLvl::default());
    let mut out = vec![0; compressor.gzip_compress_bound(bytes.len())];
    let length = compressor.gzip_compress(bytes, &mut out).expect("the bound is large enough");
    out.truncate(length);
    out
}

/// An archive of one file, `ct.npy`, stored or deflated, byte by byte (PKWARE's APPNOTE, sections 4.3.7, 4.3.12, 4.3.16).
fn npz(shape: [usize; 3], deflated: bool) -> Vec<u8> {
    let [z, y, x] = shape;
    let mut header = format!("{{'descr': '<i2', 'fortran_order': False, 'shape': ({z}, {y}, {x}), }}");
    header.push_str(&" ".repeat((64 - (header.len() + 11) % 64) % 64));
    header.push('\n');
    let mut npy = b"\x93NUMPY\x01\x00".to_vec();
    npy.extend((header.len() as u16).to_le_bytes());
    npy.extend(header.bytes());
    npy.extend((0..x * y * z).flat_map(|i| (i as i16 - 1000).to_le_bytes()));
    let mut crc = Crc::new();
    crc.update(&npy);
    let data = if deflated {
        let mut compressor = Compressor::new(CompressionLvl::default());
        let mut out = vec![0; compressor.deflate_compress_bound(npy.len())];
        let length = compressor.deflate_compress(&npy, &mut out).expect("the bound is large enough");
        out.truncate(length);
        out
    } else {
        npy.clone()
    };
    let mut common = Vec::new();
    common.extend(20u16.to_le_bytes());
    common.extend(0u16.to_le_bytes());
    common.extend(if deflated { 8u16 } else { 0 }.to_le_bytes());
    common.extend([0, 0, 0x21, 0]);
    common.extend(crc.sum().to_le_bytes());
    common.extend((data.len() as u32).to_le_bytes());
    common.extend((npy.len() as u32).to_le_bytes());
    common.extend(6u16.to_le_bytes());
    common.extend(0u16.to_le_bytes());
    let mut zip = b"PK\x03\x04".to_vec();
    zip.extend(&common);
    zip.extend(b"ct.npy");
    zip.extend(&data);
    let directory = zip.len() as u32;
    zip.extend(b"PK\x01\x02");
    zip.extend(20u16.to_le_bytes());
    zip.extend(&common);
    zip.extend([0; 14]);
    zip.extend(b"ct.npy");
    let length = zip.len() as u32 - directory;
    zip.extend(b"PK\x05\x06\0\0\0\0\x01\0\x01\0");
    zip.extend(length.to_le_bytes());
    zip.extend(directory.to_le_bytes());
    zip.extend([0, 0]);
    zip
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
    write("stored.npz", &npz([3, 4, 5], false));
    write("deflated.npz", &npz([3, 4, 5], true));
}
