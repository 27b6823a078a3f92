//! What a file holds, told from its first bytes: names lie, and an error that names the content needs no guessing.

use std::io::Read as _;
use std::path::Path;

use crate::error::{Error, Result};
use crate::files;

/// Bytes from a file's start that tell its content; signatures lie within, and so does the first line of a table.
const START: usize = 4096;

/// Kinds of content that volumes, pictures, tables, weights and golden files are found as, or found to be instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Content {
    /// No bytes at all.
    Empty,
    /// Nothing but zeros: an interrupted copy, a sparse file.
    Zeros,
    /// NIfTI-1 or NIfTI-2, one file.
    Nifti,
    /// The header half of a NIfTI pair (`.hdr` beside `.img`).
    NiftiPair,
    /// An Analyze 7.5 header: as NIfTI's, without magic and orientation.
    Analyze,
    /// gzip of anything.
    Gzip,
    /// A zip archive of NumPy arrays.
    Npz,
    /// A zip archive of a PyTorch checkpoint.
    TorchZip,
    /// Any other zip archive.
    Zip,
    /// DICOM, with its preamble or without.
    Dicom,
    Png,
    Jpeg,
    Jpeg2000,
    JpegXl,
    Tiff,
    Gif,
    Bmp,
    Webp,
    Pdf,
    Hdf5,
    Matlab,
    Nrrd,
    MetaImage,
    Safetensors,
    /// One NumPy array.
    Npy,
    /// Python's pickle: an older PyTorch checkpoint, among others.
    Pickle,
    Tar,
    /// zstd, xz, bzip2 or 7z.
    Compressed,
    /// What Git leaves where Git LFS has not fetched the file.
    LfsPointer,
    Html,
    Xml,
    Json,
    /// Text whose first line has commas, semicolons or tabs.
    Table,
    /// Any other text.
    Text,
    /// Text in UTF-16, with a byte-order mark or without.
    Utf16,
    /// Text in UTF-32, with a byte-order mark or without.
    Utf32,
    /// None of these.
    Unknown,
}

impl Content {
    /// The content of a file that starts with `bytes`; [`Content::Zeros`] and [`Content::Empty`] are said of what is given.
    pub fn of(bytes: &[u8]) -> Content {
        if bytes.is_empty() {
            return Content::Empty;
        }
        let signature = SIGNATURES.iter().find(|(at, magic, _)| bytes.get(*at..).is_some_and(|b| b.starts_with(magic)));
        if let Some(&(_, _, content)) = signature {
            return content;
        }
        if let Some(content) = nifti(bytes).or_else(|| zip(bytes)) {
            return content;
        }
        if bytes.iter().all(|&b| b == 0) {
            return Content::Zeros;
        }
        if is_safetensors(bytes) {
            return Content::Safetensors;
        }
        if is_bare_dicom(bytes) {
            return Content::Dicom;
        }
        if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
            return Content::Webp;
        }
        if matches!(bytes, [0x80, 2..=5, ..]) {
            return Content::Pickle;
        }
        wide_text(bytes).or_else(|| text(bytes)).unwrap_or(Content::Unknown)
    }

    /// As [`Content::of`] the first bytes of these: as many as are read of a file.
    pub fn of_start(bytes: &[u8]) -> Content {
        Content::of(&bytes[..bytes.len().min(START)])
    }

    /// The content of a file, from its first bytes.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn of_file(path: impl AsRef<Path>) -> Result<Content> {
        let path = path.as_ref();
        let failed = |e: std::io::Error| Error::io(path, "read", &e);
        let mut start = Vec::new();
        files::open(path).map_err(failed)?.take(START as u64).read_to_end(&mut start).map_err(failed)?;
        Ok(Content::of(&start))
    }

    /// With its article, to stand after "is" or "this is".
    pub fn name(self) -> &'static str {
        match self {
            Content::Empty => "an empty file",
            Content::Zeros => "a file of zeros",
            Content::Nifti => "a NIfTI file",
            Content::NiftiPair => "the header of a NIfTI pair (.hdr and .img)",
            Content::Analyze => "an Analyze 7.5 header",
            Content::Gzip => "gzip data",
            Content::Npz => "a NumPy archive (.npz)",
            Content::TorchZip => "a PyTorch checkpoint",
            Content::Zip => "a zip archive",
            Content::Dicom => "a DICOM file",
            Content::Png => "a PNG image",
            Content::Jpeg => "a JPEG image",
            Content::Jpeg2000 => "a JPEG 2000 image",
            Content::JpegXl => "a JPEG XL image",
            Content::Tiff => "a TIFF image",
            Content::Gif => "a GIF image",
            Content::Bmp => "a BMP image",
            Content::Webp => "a WebP image",
            Content::Pdf => "a PDF document",
            Content::Hdf5 => "an HDF5 file",
            Content::Matlab => "a MATLAB file",
            Content::Nrrd => "an NRRD file",
            Content::MetaImage => "a MetaImage header (.mhd, .mha)",
            Content::Safetensors => "a safetensors file",
            Content::Npy => "a NumPy array (.npy)",
            Content::Pickle => "a Python pickle",
            Content::Tar => "a tar archive",
            Content::Compressed => "a zstd, xz, bzip2 or 7z archive",
            Content::LfsPointer => "a Git LFS pointer, not the file itself",
            Content::Html => "an HTML page",
            Content::Xml => "an XML document",
            Content::Json => "JSON",
            Content::Table => "a text table",
            Content::Text => "a text file",
            Content::Utf16 => "UTF-16 text",
            Content::Utf32 => "UTF-32 text",
            Content::Unknown => "of a format not known here",
        }
    }

    /// What to do about such a file where something else was wanted; `None` where that depends on what was.
    pub fn remedy(self) -> Option<&'static str> {
        Some(match self {
            Content::Empty | Content::Zeros => "copy or download the file again",
            Content::LfsPointer => "run `git lfs pull` in its repository",
            Content::Html | Content::Xml => {
                "a server's answer was saved in its place: log in or take the direct link, and download again"
            }
            Content::Zip | Content::Tar | Content::Compressed => "unpack it first",
            Content::Utf16 | Content::Utf32 => "save it as UTF-8",
            Content::TorchZip | Content::Pickle => {
                "convert it to safetensors in Python, with safetensors.torch.save_file"
            }
            Content::Nrrd | Content::MetaImage | Content::Analyze => {
                "convert it to NIfTI, for example with SimpleITK: sitk.WriteImage(sitk.ReadImage(FILE), \"volume.nii.gz\")"
            }
            _ => return None,
        })
    }
}

impl std::fmt::Display for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Byte offset, magic, what it says; the first that fits counts.
const SIGNATURES: [(usize, &[u8], Content); 32] = [
    (0, b"\x1f\x8b", Content::Gzip),
    (128, b"DICM", Content::Dicom),
    (0, b"\x89PNG\r\n\x1a\n", Content::Png),
    (0, b"\xff\xd8\xff", Content::Jpeg),
    (0, b"\x00\x00\x00\x0cjP  \r\n\x87\n", Content::Jpeg2000),
    (0, b"\xff\x4f\xff\x51", Content::Jpeg2000),
    (0, b"\x00\x00\x00\x0cJXL \r\n\x87\n", Content::JpegXl),
    (0, b"\xff\x0a", Content::JpegXl),
    (0, b"II*\0", Content::Tiff),
    (0, b"MM\0*", Content::Tiff),
    (0, b"II+\0", Content::Tiff),
    (0, b"MM\0+", Content::Tiff),
    (0, b"GIF8", Content::Gif),
    (0, b"BM", Content::Bmp),
    (0, b"%PDF-", Content::Pdf),
    (0, b"MATLAB 5.0 MAT-file", Content::Matlab),
    (0, b"MATLAB 7.", Content::Matlab),
    (0, b"\x89HDF\r\n\x1a\n", Content::Hdf5),
    (512, b"\x89HDF\r\n\x1a\n", Content::Hdf5),
    (1024, b"\x89HDF\r\n\x1a\n", Content::Hdf5),
    (0, b"NRRD000", Content::Nrrd),
    (0, b"ObjectType = Image", Content::MetaImage),
    (0, b"NDims = ", Content::MetaImage),
    (0, b"\x93NUMPY", Content::Npy),
    (0, b"version https://git-lfs.github.com/spec/", Content::LfsPointer),
    (0, b"version https://hawser.github.com/spec/", Content::LfsPointer),
    (257, b"ustar", Content::Tar),
    (0, b"\x28\xb5\x2f\xfd", Content::Compressed),
    (0, b"\xfd7zXZ\0", Content::Compressed),
    (0, b"BZh", Content::Compressed),
    (0, b"7z\xbc\xaf\x27\x1c", Content::Compressed),
    (0, b"PK\x05\x06", Content::Zip),
];

fn nifti(bytes: &[u8]) -> Option<Content> {
    let first = *bytes.first_chunk::<4>()?;
    let states = |length: u32| first == length.to_le_bytes() || first == length.to_be_bytes();
    if states(540) {
        return Some(if bytes.get(4..7) == Some(b"ni2") { Content::NiftiPair } else { Content::Nifti });
    }
    if !states(348) {
        return None;
    }
    Some(match bytes.get(344..347) {
        Some(b"ni1") => Content::NiftiPair,
        // Without any magic at all: damage to it is NIfTI's reader's to name.
        Some([0, _, _] | [b' ', _, _]) => Content::Analyze,
        _ => Content::Nifti,
    })
}

/// Kinds of archive, by the name of the first entry in it.
fn zip(bytes: &[u8]) -> Option<Content> {
    let entry = bytes.strip_prefix(b"PK\x03\x04")?;
    let length = entry.get(22..24).map_or(0, |l| usize::from(u16::from_le_bytes([l[0], l[1]])));
    let name = entry.get(26..).map_or(&[][..], |rest| &rest[..length.min(rest.len())]);
    Some(if name.ends_with(b".npy") {
        Content::Npz
    } else if name.ends_with(b"data.pkl") {
        Content::TorchZip
    } else {
        Content::Zip
    })
}

fn is_safetensors(bytes: &[u8]) -> bool {
    // The length of a JSON object, then the object; nobody's header has a gigabyte.
    let length = bytes.first_chunk::<8>().map_or(0, |l| u64::from_le_bytes(*l));
    (2..1 << 30).contains(&length) && bytes.get(8) == Some(&b'{')
}

/// DICOM that starts with its first element: group 2 or 8, little-endian.
fn is_bare_dicom(bytes: &[u8]) -> bool {
    let Some(&[group, 0, element, 0, rest @ ..]) = bytes.first_chunk::<8>() else { return false };
    if !matches!((group, element), (2, 0 | 1) | (8, 0 | 1 | 5 | 8 | 0x12 | 0x16 | 0x18)) {
        return false;
    }
    let explicit = rest[..2].iter().all(u8::is_ascii_uppercase);
    explicit || u32::from_le_bytes(rest) <= 1024
}

/// UTF-32 and UTF-16, as spreadsheets save them: by their marks, and without one where most characters are ASCII.
fn wide_text(bytes: &[u8]) -> Option<Content> {
    let starts = |mark: &[u8]| bytes.starts_with(mark);
    if starts(b"\xff\xfe\0\0") || starts(b"\0\0\xfe\xff") || is_wide::<4>(bytes) {
        return Some(Content::Utf32);
    }
    // The marks alone are a JPEG's or an MP3's too; a byte of most pairs is zero in most languages.
    let marked = (starts(b"\xff\xfe") || starts(b"\xfe\xff")) && bytes[2..].contains(&0);
    (marked || is_wide::<2>(bytes)).then_some(Content::Utf16)
}

/// Whether most of the first 64 groups of N bytes are zeros and one ASCII character, in one byte order.
fn is_wide<const N: usize>(bytes: &[u8]) -> bool {
    let groups = &bytes.as_chunks::<N>().0[..(bytes.len() / N).min(64)];
    let printed = |byte: u8| matches!(byte, b' '..=b'~' | b'\t' | b'\r' | b'\n');
    let ascii = |at: usize| {
        let holds = |group: &&[u8; N]| (0..N).all(|i| if i == at { printed(group[i]) } else { group[i] == 0 });
        groups.iter().filter(holds).count()
    };
    groups.len() > 2 && ascii(0).max(ascii(N - 1)) * 2 > groups.len()
}

fn text(bytes: &[u8]) -> Option<Content> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        // Cut inside a character.
        Err(e) if e.error_len().is_none() => std::str::from_utf8(&bytes[..e.valid_up_to()]).ok()?,
        Err(_) => return None,
    };
    if text.chars().any(|c| c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\x0c')) {
        return None;
    }
    let text = text.trim_start_matches('\u{feff}').trim_start();
    let starts = |prefix: &str| text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    let line = text.lines().next().unwrap_or("");
    Some(if starts("<!doctype html") || starts("<html") || starts("<head") {
        Content::Html
    } else if starts("<?xml") || starts("<error") || starts("<svg") {
        Content::Xml
    } else if text.starts_with('{') || text.starts_with("[{") || text.starts_with("[\"") {
        Content::Json
    } else if line.contains([',', ';', '\t']) {
        Content::Table
    } else {
        Content::Text
    })
}
