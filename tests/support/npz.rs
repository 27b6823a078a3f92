//! An `.npz` archive byte by byte, so that the reader is tried against something that is not the reader's own library.

use libdeflater::{CompressionLvl, Compressor, Crc};

/// One int16 array `ct` of `shape` [Z, Y, X], stored or deflated (PKWARE's APPNOTE, sections 4.3.7, 4.3.12 and 4.3.16).
pub fn npz(shape: [usize; 3], values: &[i16], deflated: bool) -> Vec<u8> {
    let [z, y, x] = shape;
    let mut header = format!("{{'descr': '<i2', 'fortran_order': False, 'shape': ({z}, {y}, {x}), }}");
    header.push_str(&" ".repeat((64 - (header.len() + 11) % 64) % 64));
    header.push('\n');
    let mut npy = b"\x93NUMPY\x01\x00".to_vec();
    npy.extend((header.len() as u16).to_le_bytes());
    npy.extend(header.bytes());
    npy.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    archive("ct.npy", &npy, deflated)
}

/// An archive of one file.
pub fn archive(name: &str, content: &[u8], deflated: bool) -> Vec<u8> {
    let mut crc = Crc::new();
    crc.update(content);
    let data = if deflated {
        let mut compressor = Compressor::new(CompressionLvl::default());
        let mut out = vec![0; compressor.deflate_compress_bound(content.len())];
        let length = compressor.deflate_compress(content, &mut out).expect("the bound is large enough");
        out.truncate(length);
        out
    } else {
        content.to_vec()
    };
    // Version, flags, method, a date, checksum, both sizes, lengths of name and extra field.
    let mut common = vec![20, 0, 0, 0, if deflated { 8 } else { 0 }, 0, 0, 0, 0x21, 0];
    for field in [crc.sum(), data.len() as u32, content.len() as u32] {
        common.extend(field.to_le_bytes());
    }
    common.extend([name.len() as u8, 0, 0, 0]);
    let mut zip = b"PK\x03\x04".to_vec();
    zip.extend(&common);
    zip.extend(name.bytes());
    zip.extend(&data);
    let directory = zip.len() as u32;
    zip.extend(b"PK\x01\x02\x14\x00");
    zip.extend(&common);
    zip.extend([0; 14]);
    zip.extend(name.bytes());
    let length = zip.len() as u32 - directory;
    zip.extend(b"PK\x05\x06\0\0\0\0\x01\0\x01\0");
    zip.extend(length.to_le_bytes());
    zip.extend(directory.to_le_bytes());
    zip.extend([0, 0]);
    zip
}
