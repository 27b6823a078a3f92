//! NIfTI in two files: NAME.hdr with the header, NAME.img with the voxels; either may be gzipped.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use super::{Header, check_length, convert, failed, gzip, volume};
use crate::ct::read::{Problem, read_file};
use crate::ct::volume::CtVolume;
use crate::error::{Error, Result};

/// The halves of a NIfTI pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// NAME.hdr, or NAME.hdr.gz.
    pub header: PathBuf,
    /// NAME.img, or NAME.img.gz.
    pub image: PathBuf,
}

const HEADER: [&str; 4] = [".hdr", ".hdr.gz", ".HDR", ".HDR.GZ"];
const IMAGE: [&str; 4] = [".img", ".img.gz", ".IMG", ".IMG.GZ"];

/// No header is longer, extensions included.
const MOST: usize = 16 << 20;

impl Pair {
    /// The pair that a path names a half of; `None` where the other half is not beside it.
    pub fn of(path: impl AsRef<Path>) -> Option<Pair> {
        let path = path.as_ref();
        let name = path.file_name()?.to_str()?;
        let beside = |own: [&str; 4], other: [&str; 4]| {
            let stem = own.iter().find_map(|ending| name.strip_suffix(ending))?;
            other.iter().map(|ending| path.with_file_name(format!("{stem}{ending}"))).find(|other| other.is_file())
        };
        if let Some(image) = beside(HEADER, IMAGE) {
            return Some(Pair { header: path.into(), image });
        }
        Some(Pair { header: beside(IMAGE, HEADER)?, image: path.into() })
    }

    /// Reads the volume. The voxels start where the header says, or at the first byte where the image holds nothing else.
    pub(in crate::ct) fn read(&self) -> Result<CtVolume> {
        let of = |path: &Path| {
            let path = path.to_path_buf();
            move |problem: Problem| Error::file(&path, problem.what, problem.hint)
        };
        let bytes = read_file(&self.header)?;
        let header = unpacked(&bytes, MOST).map_err(of(&self.header))?;
        let mut header = Header::parse(&header).map_err(of(&self.header))?;
        let voxels = header.total - header.offset;
        let bytes = read_file(&self.image)?;
        let image = unpacked(&bytes, header.total).map_err(of(&self.image))?;
        if image.len() == voxels {
            (header.offset, header.total) = (0, voxels);
        }
        let converted = check_length(image.len(), &header).and_then(|()| convert(&image[header.offset..], &header));
        Ok(volume(header, converted.map_err(of(&self.image))?))
    }
}

/// The bytes of a file, decompressed where it is gzip, of which no more than `most` may come.
fn unpacked(bytes: &[u8], most: usize) -> Result<Cow<'_, [u8]>, Problem> {
    if !gzip::is_gzip(bytes) {
        return Ok(Cow::Borrowed(bytes));
    }
    let mut output = vec![0; most.min(bytes.len().saturating_mul(gzip::MAX_RATIO))];
    let inflated = gzip::decompress(bytes, &mut output).map_err(failed)?;
    output.truncate(inflated.length);
    Ok(Cow::Owned(output))
}
