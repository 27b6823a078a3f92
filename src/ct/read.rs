//! One entry for every format a CT comes in, told apart by first bytes and kind of path, not by name.

use std::io::Read as _;
use std::path::Path;

use bytemuck::Pod;

use super::volume::CtVolume;
use super::{nifti, radchest};
use crate::content::Content;
use crate::device::{Device, HostArray, HostMemory};
use crate::error::{Error, Result};
use crate::files;

/// What a reader is told beside the path.
#[derive(Clone, Copy, Default)]
pub struct ReadOptions<'a> {
    /// The device that will use the volume: voxels are decoded into memory it reads fastest (page-locked under CUDA).
    pub device: Option<&'a Device>,
    /// What the metadata table says of a RadChest-CT `.npz`, which holds neither voxel size nor scaling.
    pub radchest: Option<radchest::Acquisition>,
}

impl<'a> ReadOptions<'a> {
    fn place(&self) -> Place<'a> {
        Place { device: self.device }
    }
}

/// Reads one volume: NIfTI (`.nii`, `.nii.gz`, or a pair of `.hdr` and `.img`); or, with the feature `dicom`, a folder with a
/// DICOM series, or an Enhanced CT in one file. A RadChest-CT `.npz` says nothing of its voxel size: use [`read_with`].
///
/// # Errors
/// [`Error::File`]: no format known here, and those of the format's reader.
pub fn read(path: impl AsRef<Path>) -> Result<CtVolume> {
    read_with(path, &ReadOptions::default())
}

/// As [`read`], with what the file does not say.
pub fn read_with(path: impl AsRef<Path>, options: &ReadOptions) -> Result<CtVolume> {
    let path = path.as_ref();
    if path.is_dir() {
        return read_dicom(path, options);
    }
    if let Some(pair) = nifti::Pair::of(path) {
        return pair.read();
    }
    let bytes = read_file(path)?;
    if Content::of_start(&bytes) == Content::Dicom {
        return read_dicom(path, options);
    }
    read_bytes(&bytes, path, options)
}

/// As [`read_with`], from a file's bytes; `path` only labels errors. Not of DICOM.
pub fn read_bytes(bytes: &[u8], path: impl AsRef<Path>, options: &ReadOptions) -> Result<CtVolume> {
    decode(bytes, options).map_err(|problem| Error::file(path, problem.what, problem.hint))
}

fn decode(bytes: &[u8], options: &ReadOptions) -> Result<CtVolume, Problem> {
    let place = options.place();
    if nifti::is_nifti(bytes) {
        return nifti::decode(bytes, &place);
    }
    if radchest::is_zip(bytes) {
        return radchest::decode(bytes, options.radchest, &place);
    }
    // NIfTI's reader says best what is wrong with a file that is nearly NIfTI.
    nifti::decode(bytes, &place)
}

#[cfg(feature = "dicom")]
fn read_dicom(path: &Path, options: &ReadOptions) -> Result<CtVolume> {
    super::dicom::read_for(path, options.device)
}

#[cfg(not(feature = "dicom"))]
fn read_dicom(path: &Path, _: &ReadOptions) -> Result<CtVolume> {
    let hint = "build with the feature `dicom` (cargo build --release --features dicom), or give a NIfTI file";
    let what = if path.is_dir() { "a folder" } else { "a DICOM file" };
    Err(Error::file(path, format!("is {what}, and this build reads no DICOM"), hint))
}

/// What is wrong with a file and what to do about it; whoever knows the path adds it.
#[derive(Debug)]
pub(super) struct Problem {
    pub what: String,
    pub hint: &'static str,
}

impl Problem {
    pub fn new(what: impl Into<String>, hint: &'static str) -> Self {
        Problem { what: what.into(), hint }
    }
}

/// All bytes of a file.
pub(super) fn read_file(path: &Path) -> Result<FileBytes> {
    let failed = |e: std::io::Error| Error::io(path, "read", &e);
    let mut file = files::open(path).map_err(failed)?;
    let length = usize::try_from(file.metadata().map_err(failed)?.len()).unwrap_or(usize::MAX);
    if length > 0 {
        let memory = HostMemory::plain(length);
        let mut memory = memory.ok_or_else(|| failed(std::io::ErrorKind::OutOfMemory.into()))?;
        file.read_exact(&mut memory.bytes_mut()[..length]).map_err(failed)?;
        return Ok(FileBytes(memory.finish(0, length)));
    }
    // A file of a kind that has no length.
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(failed)?;
    Ok(FileBytes(bytes.into()))
}

pub(super) struct FileBytes(HostArray<u8>);

impl std::ops::Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// Where voxels are decoded to.
#[derive(Default)]
pub(super) struct Place<'a> {
    pub device: Option<&'a Device>,
}

/// A compressed file claims its length before anything is checked. Page-locked memory is taken at once, so it is only
/// given to claims that CTs make (they shrink to about half); plain memory that nobody fills costs nothing.
const USUAL_RATIO: usize = 16;

impl Place<'_> {
    /// Memory for `total` bytes of which `compressed` have been seen; the elements that start at `offset` will be aligned
    /// as a device wants them. `None` when the system refuses.
    pub fn reserve(&self, offset: usize, total: usize, compressed: usize) -> Option<Placed> {
        let lead = offset.checked_next_multiple_of(HostMemory::ALIGNMENT)? - offset;
        let bytes = lead.checked_add(total)?;
        let device = self.device.filter(|_| total / USUAL_RATIO <= compressed);
        let memory = device.map_or_else(|| HostMemory::plain(bytes), |device| device.host_memory(bytes))?;
        Some(Placed { memory, lead, offset, total })
    }
}

/// A file being decoded: some header, then the voxels.
pub(super) struct Placed {
    memory: HostMemory,
    lead: usize,
    offset: usize,
    total: usize,
}

impl Placed {
    /// The whole file.
    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory.bytes_mut()[self.lead..self.lead + self.total]
    }

    /// The bytes behind the header.
    pub fn payload(&mut self) -> &mut [u8] {
        let offset = self.offset;
        &mut self.bytes()[offset..]
    }

    /// The elements after the header, in the machine's byte order.
    pub fn finish<T: Pod>(self) -> HostArray<T> {
        self.memory.finish(self.lead + self.offset, (self.total - self.offset) / size_of::<T>())
    }
}
