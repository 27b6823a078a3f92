//! What a file holds, from its first bytes.

use x2ct::content::Content;

fn with(length: usize, parts: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; length];
    for (at, part) in parts {
        bytes[*at..at + part.len()].copy_from_slice(part);
    }
    bytes
}

#[test]
fn content_is_told_from_first_bytes() {
    let zip_of = |name: &str| {
        let length = (name.len() as u16).to_le_bytes();
        with(64, &[(0, b"PK\x03\x04"), (26, &length), (30, name.as_bytes())])
    };
    let wide = |bytes: &dyn Fn(u16) -> [u8; 2], text: &str| text.encode_utf16().flat_map(bytes).collect::<Vec<u8>>();
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n".to_vec();
    let cases: Vec<(Vec<u8>, Content)> = vec![
        (vec![], Content::Empty),
        (vec![0; 4096], Content::Zeros),
        (with(352, &[(0, &[0x5c, 1]), (344, b"n+1\0")]), Content::Nifti),
        (with(352, &[(2, &[1, 0x5c]), (344, b"n+1\0")]), Content::Nifti),
        (with(540, &[(0, &[0x1c, 2]), (4, b"n+2\0")]), Content::Nifti),
        (with(348, &[(0, &[0x5c, 1]), (344, b"ni1\0")]), Content::NiftiPair),
        (with(540, &[(0, &[0x1c, 2]), (4, b"ni2\0")]), Content::NiftiPair),
        (with(348, &[(0, &[0x5c, 1])]), Content::Analyze),
        (vec![0x1f, 0x8b, 8, 0], Content::Gzip),
        (zip_of("ct.npy"), Content::Npz),
        (zip_of("model/data.pkl"), Content::TorchZip),
        (zip_of("a.txt"), Content::Zip),
        (with(200, &[(128, b"DICM")]), Content::Dicom),
        (with(64, &[(0, &[8, 0, 5, 0]), (4, b"CS\x0a\0")]), Content::Dicom),
        (with(64, &[(0, &[8, 0, 8, 0, 0x16, 0, 0, 0])]), Content::Dicom),
        (with(64, &[(0, &[2, 0, 0, 0]), (4, b"UL\x04\0")]), Content::Dicom),
        (b"\x89PNG\r\n\x1a\n\0\0".to_vec(), Content::Png),
        (vec![0xff, 0xd8, 0xff, 0xe0], Content::Jpeg),
        (b"\x00\x00\x00\x0cjP  \r\n\x87\n".to_vec(), Content::Jpeg2000),
        (b"\x00\x00\x00\x0cJXL \r\n\x87\n".to_vec(), Content::JpegXl),
        (vec![0xff, 0x0a, 0x10, 0x20], Content::JpegXl),
        (b"II*\0....".to_vec(), Content::Tiff),
        (with(600, &[(0, b"MATLAB 7.3 MAT-file"), (512, b"\x89HDF\r\n\x1a\n")]), Content::Matlab),
        (b"\x89HDF\r\n\x1a\n".to_vec(), Content::Hdf5),
        (b"NRRD0005\ntype: short\n".to_vec(), Content::Nrrd),
        (b"ObjectType = Image\nNDims = 3\n".to_vec(), Content::MetaImage),
        (b"\x93NUMPY\x01\x00v\x00{".to_vec(), Content::Npy),
        ([&64u64.to_le_bytes()[..], b"{\"__metadata__\""].concat(), Content::Safetensors),
        (b"\x80\x02}q\x00".to_vec(), Content::Pickle),
        (pointer, Content::LfsPointer),
        (b"\n<!DOCTYPE HTML><html>".to_vec(), Content::Html),
        (b"<?xml version=\"1.0\"?><Error>".to_vec(), Content::Xml),
        (b"{\"a\": 1}".to_vec(), Content::Json),
        ("\u{feff}VolumeName,Findings\r\na,b\r\n".as_bytes().to_vec(), Content::Table),
        (b"not an image".to_vec(), Content::Text),
        (wide(&|c| c.to_le_bytes(), "\u{feff}Volume,a"), Content::Utf16),
        (wide(&|c| c.to_be_bytes(), "Volume,a"), Content::Utf16),
        (b"\xff\xfe\0\0V\0\0\0".to_vec(), Content::Utf32),
        (b"\0\0\xfe\xff\0\0\0V".to_vec(), Content::Utf32),
        ("Volume".chars().flat_map(|c| (c as u32).to_le_bytes()).collect(), Content::Utf32),
        // A mark and nothing of text behind it.
        (b"\xff\xfe\x01\x02\x03".to_vec(), Content::Unknown),
        // Cut inside a character of two bytes.
        ("Größ".as_bytes()[..4].to_vec(), Content::Text),
        (vec![1, 2, 3, 4, 5, 6, 7, 8, 9], Content::Unknown),
    ];
    for (bytes, want) in cases {
        assert_eq!(Content::of(&bytes), want, "{:?}", &bytes[..bytes.len().min(40)]);
    }
}
