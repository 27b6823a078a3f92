//! The PTX inside a fatbin.
//!
//! A fatbin is a header (magic, header bytes at 6, payload bytes at 8) and entries, each with a header of its own: kind at 0, header
//! bytes at 4, payload bytes at 8, compressed bytes at 16, compute capability at 28, flags at 40, bytes once unpacked at 56.

use std::ffi::{CStr, c_char};
use std::io::Read;

const MAGIC: u32 = 0xba55_ed50;
const KIND_PTX: u16 = 1;
/// Flag of a payload that is one LZ4 block (`--compress-mode=speed`).
const LZ4: u64 = 0x2000;
/// Flag of a payload that is one Zstandard frame (every other mode but `none`).
const ZSTANDARD: u64 = 0x8000;

/// One PTX text of a fatbin, as its header describes it.
struct Entry<'a> {
    capability: u32,
    flags: u64,
    payload: &'a [u8],
    unpacked: usize,
}

/// Reads a number of an image.
///
/// # Safety
/// `image` has `offset + size_of::<T>()` bytes.
unsafe fn number<T: Copy>(image: *const u8, offset: usize) -> T {
    unsafe { (image.add(offset) as *const T).read_unaligned() }
}

impl Entry<'_> {
    fn text(&self) -> Result<String, String> {
        let bad = |problem: String| {
            format!("the PTX for {} in the fatbin cannot be unpacked: {problem}; build again", self.capability)
        };
        let bytes = if self.flags & ZSTANDARD != 0 {
            let mut text = Vec::with_capacity(self.unpacked);
            let frame = ruzstd::decoding::StreamingDecoder::new(self.payload).map_err(|e| bad(e.to_string()))?;
            frame.take(self.unpacked as u64).read_to_end(&mut text).map_err(|e| bad(e.to_string()))?;
            text
        } else if self.flags & LZ4 != 0 {
            lz4_flex::block::decompress(self.payload, self.unpacked).map_err(|e| bad(e.to_string()))?
        } else {
            self.payload.to_vec()
        };
        let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        String::from_utf8(text.to_vec()).map_err(|e| bad(e.to_string()))
    }
}

/// The PTX entries of a fatbin.
///
/// # Safety
/// `image` is a whole fatbin.
unsafe fn entries<'a>(image: *const u8) -> Vec<Entry<'a>> {
    unsafe {
        let header = number::<u16>(image, 6) as usize;
        let end = header + number::<u64>(image, 8) as usize;
        let (mut offset, mut found) = (header, vec![]);
        while offset < end {
            let entry = image.add(offset);
            let header = number::<u32>(entry, 4) as usize;
            let (payload, packed) = (number::<u64>(entry, 8) as usize, number::<u32>(entry, 16) as usize);
            if number::<u16>(entry, 0) == KIND_PTX {
                let bytes = if packed == 0 { payload } else { packed.min(payload) };
                found.push(Entry {
                    capability: number(entry, 28),
                    flags: number(entry, 40),
                    payload: std::slice::from_raw_parts(entry.add(header), bytes),
                    unpacked: number::<u64>(entry, 56) as usize,
                });
            }
            offset += header + payload;
        }
        found
    }
}

/// Whether the text's target ends in a letter: such PTX runs on that compute capability alone.
fn is_specific(text: &str) -> bool {
    let target = text.lines().find_map(|line| line.strip_prefix(".target "));
    target.is_some_and(|target| target.split(',').next().unwrap_or_default().trim().ends_with('a'))
}

/// The newest PTX of an image that a device of this compute capability (80, 90) can run; an image is a fatbin, or PTX as text.
///
/// # Safety
/// `image` is a whole fatbin or a text that ends in a zero byte.
pub unsafe fn ptx(image: *const u8, capability: u32) -> Result<String, String> {
    let fatbin = unsafe { number::<u32>(image, 0) } == MAGIC;
    if !fatbin {
        let text = unsafe { CStr::from_ptr(image as *const c_char) };
        return text.to_str().map(String::from).map_err(|e| format!("the PTX is not text: {e}"));
    }
    let entries = unsafe { entries(image) };
    let mut best: Option<((u32, bool), String)> = None;
    for entry in entries.iter().filter(|entry| entry.capability <= capability) {
        let text = entry.text()?;
        let rank = (entry.capability, is_specific(&text));
        let runs = !rank.1 || entry.capability == capability;
        if runs && best.as_ref().is_none_or(|(other, _)| *other < rank) {
            best = Some((rank, text));
        }
    }
    let there: Vec<u32> = entries.iter().map(|entry| entry.capability).collect();
    best.map(|(_, text)| text).ok_or_else(|| {
        format!(
            "the fatbin holds PTX for {there:?}, none of which runs on compute capability {capability}; build with \
             X2CT_CUDA_ARCHS=compute_80,compute_90a"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fatbin of PTX entries: capability, flags, payload, bytes once unpacked.
    fn fatbin(entries: &[(u32, u64, &[u8], usize)]) -> Vec<u8> {
        let mut body = vec![];
        for (capability, flags, payload, unpacked) in entries {
            let mut header = [0u8; 64];
            header[..2].copy_from_slice(&KIND_PTX.to_le_bytes());
            header[4..8].copy_from_slice(&64u32.to_le_bytes());
            header[8..16].copy_from_slice(&(payload.len() as u64).to_le_bytes());
            header[28..32].copy_from_slice(&capability.to_le_bytes());
            header[40..48].copy_from_slice(&flags.to_le_bytes());
            header[56..64].copy_from_slice(&(*unpacked as u64).to_le_bytes());
            body.extend(header);
            body.extend(*payload);
        }
        let mut image = vec![0u8; 16];
        image[..4].copy_from_slice(&MAGIC.to_le_bytes());
        image[6..8].copy_from_slice(&16u16.to_le_bytes());
        image[8..16].copy_from_slice(&(body.len() as u64).to_le_bytes());
        image.extend(body);
        image
    }

    fn read(image: &[u8], capability: u32) -> Result<String, String> {
        // Safety: `fatbin` makes whole fatbins.
        unsafe { ptx(image.as_ptr(), capability) }
    }

    #[test]
    fn the_newest_ptx_that_runs_is_taken() {
        let (old, special, new) = ("// a\n.target sm_80\n", ".target sm_90a\n", ".target sm_90\n");
        let plain = |capability, text: &'static str| (capability, 0u64, text.as_bytes(), 0usize);
        let image = fatbin(&[plain(80, old), plain(90, new), plain(90, special)]);
        assert_eq!(read(&image, 80).unwrap(), old);
        assert_eq!(read(&image, 86).unwrap(), old);
        assert_eq!(read(&image, 90).unwrap(), special);
        assert_eq!(read(&image, 100).unwrap(), new);
        let error = read(&image, 75).unwrap_err();
        assert!(error.contains("[80, 90, 90]") && error.contains("75"), "{error}");
    }

    #[test]
    fn what_nvcc_compresses_is_unpacked_and_damage_is_named() {
        let text = ".version 9.0\n.target sm_80\n".repeat(40);
        let packed = lz4_flex::block::compress(text.as_bytes());
        let frame = ruzstd::encoding::compress_to_vec(text.as_bytes(), ruzstd::encoding::CompressionLevel::Fastest);
        for (flag, payload) in [(LZ4, packed), (ZSTANDARD, frame)] {
            assert!(payload.len() < text.len() / 4);
            assert_eq!(read(&fatbin(&[(80, flag, &payload, text.len())]), 80).unwrap(), text);
            let error = read(&fatbin(&[(80, flag, &payload[..payload.len() / 2], text.len())]), 80).unwrap_err();
            assert!(error.contains("cannot be unpacked") && error.contains("build again"), "{error}");
        }
    }
}
