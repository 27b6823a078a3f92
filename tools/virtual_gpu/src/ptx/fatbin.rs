//! The PTX inside a fatbin.
//!
//! A fatbin is a header (magic, header bytes at 6, payload bytes at 8) and entries, each with a header of its own: kind at 0, header
//! bytes at 4, payload bytes at 8, compressed bytes at 16, compute capability at 28, flags at 40, bytes once unpacked at 56.

use std::ffi::{CStr, c_char};
use std::io::Read;

const MAGIC: u32 = 0xba55_ed50;
/// Bytes of the header of a fatbin, and of an entry, at least.
const SMALLEST: usize = 16;
const HEADER: usize = 64;
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

/// Most bytes of a PTX text that is unpacked, and most that a byte of LZ4 can stand for.
const LARGEST_TEXT: usize = 1 << 30;
const LZ4_RATIO: usize = 255;

/// Reads a number of an image, or says that the image ends before it.
fn number<const N: usize>(image: &[u8], offset: usize) -> Result<[u8; N], String> {
    let end = offset.checked_add(N);
    let bytes = end.and_then(|end| image.get(offset..end)).and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| cut_off(offset))
}

fn cut_off(offset: usize) -> String {
    format!("the fatbin ends in what should stand at byte {offset}: it is cut off or damaged; build again")
}

fn size(image: &[u8], offset: usize) -> Result<usize, String> {
    usize::try_from(u64::from_le_bytes(number(image, offset)?)).map_err(|_| cut_off(offset))
}

impl Entry<'_> {
    fn text(&self) -> Result<String, String> {
        let bad = |problem: String| {
            format!("the PTX for {} in the fatbin cannot be unpacked: {problem}; build again", self.capability)
        };
        if self.unpacked > LARGEST_TEXT {
            return Err(bad(format!("it would have {} bytes", self.unpacked)));
        }
        let bytes = if self.flags & ZSTANDARD != 0 {
            let mut text = vec![];
            let frame = ruzstd::decoding::StreamingDecoder::new(self.payload).map_err(|e| bad(e.to_string()))?;
            frame.take(self.unpacked as u64).read_to_end(&mut text).map_err(|e| bad(e.to_string()))?;
            text
        } else if self.flags & LZ4 != 0 {
            let most = self.unpacked.min(LZ4_RATIO * self.payload.len() + 16);
            lz4_flex::block::decompress(self.payload, most).map_err(|e| bad(e.to_string()))?
        } else {
            self.payload.to_vec()
        };
        let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        String::from_utf8(text.to_vec()).map_err(|e| bad(e.to_string()))
    }
}

/// The bytes of a fatbin by its header.
fn length(image: &[u8]) -> Result<usize, String> {
    let header = u16::from_le_bytes(number(image, 6)?) as usize;
    header.checked_add(size(image, 8)?).ok_or_else(|| cut_off(8))
}

/// The PTX entries of a fatbin, which must lie in the image.
fn entries(image: &[u8]) -> Result<Vec<Entry<'_>>, String> {
    let end = length(image)?;
    let mut offset = u16::from_le_bytes(number(image, 6)?) as usize;
    let mut found = vec![];
    while offset < end {
        let entry = image.get(offset..).ok_or_else(|| cut_off(offset))?;
        let header = u32::from_le_bytes(number(entry, 4)?) as usize;
        let (payload, packed) = (size(entry, 8)?, u32::from_le_bytes(number(entry, 16)?) as usize);
        let next = header.checked_add(payload).filter(|bytes| *bytes >= HEADER).ok_or_else(|| cut_off(offset))?;
        let bytes = entry.get(header..next).ok_or_else(|| cut_off(offset))?;
        if u16::from_le_bytes(number(entry, 0)?) == KIND_PTX {
            found.push(Entry {
                capability: u32::from_le_bytes(number(entry, 28)?),
                flags: u64::from_le_bytes(number(entry, 40)?),
                payload: if packed == 0 { bytes } else { &bytes[..packed.min(payload)] },
                unpacked: size(entry, 56)?,
            });
        }
        offset += next;
    }
    Ok(found)
}

/// Whether the text's target ends in a letter: such PTX runs on that compute capability alone.
fn is_specific(text: &str) -> bool {
    let target = text.lines().find_map(|line| line.strip_prefix(".target "));
    target.is_some_and(|target| target.split(',').next().unwrap_or_default().trim().ends_with('a'))
}

/// The newest PTX of an image that a device of this compute capability (80, 90) can run; an image is a fatbin, or PTX as text.
///
/// # Safety
/// `image` is a fatbin of the length that its header says, or a text that ends in a zero byte.
pub unsafe fn ptx(image: *const u8, capability: u32) -> Result<String, String> {
    // Safety: the caller's; a text that is shorter than four bytes ends before it differs from the magic number.
    let fatbin = (0..4).all(|byte| unsafe { *image.add(byte) } == MAGIC.to_le_bytes()[byte]);
    if !fatbin {
        // Safety: the caller's.
        let text = unsafe { CStr::from_ptr(image as *const c_char) };
        return text.to_str().map(String::from).map_err(|e| format!("the PTX is not text: {e}"));
    }
    // Safety: a fatbin has a header, and then as many bytes as that says.
    let bytes =
        unsafe { length(std::slice::from_raw_parts(image, SMALLEST)).map(|n| std::slice::from_raw_parts(image, n)) };
    newest(bytes?, capability)
}

/// The newest PTX of a fatbin that a device of this compute capability can run.
pub fn newest(image: &[u8], capability: u32) -> Result<String, String> {
    let entries = entries(image)?;
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

    /// However an image is cut or damaged, it is read or refused.
    #[test]
    fn an_image_that_is_cut_off_or_damaged_is_refused() {
        let text = "// kernels\n.version 9.0\n.target sm_80\n".repeat(4);
        let packed = lz4_flex::block::compress(text.as_bytes());
        let frame = ruzstd::encoding::compress_to_vec(text.as_bytes(), ruzstd::encoding::CompressionLevel::Fastest);
        let image =
            fatbin(&[(80, 0, text.as_bytes(), 0), (80, LZ4, &packed, text.len()), (90, ZSTANDARD, &frame, text.len())]);
        assert_eq!(newest(&image, 90).unwrap(), text);
        for length in 0..image.len() {
            let error = newest(&image[..length], 90).unwrap_err();
            assert!(error.contains("cut off or damaged; build again"), "{length}: {error}");
        }
        let mut refused = 0;
        for byte in 0..image.len() {
            for flip in [1u8, 0x80, 0xff] {
                let mut damaged = image.clone();
                damaged[byte] ^= flip;
                refused += newest(&damaged, 90).is_err() as usize;
            }
        }
        assert!(refused > 100, "{refused}");
    }
}
