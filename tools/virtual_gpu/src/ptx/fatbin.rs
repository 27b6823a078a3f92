//! The PTX inside a fatbin.

use std::ffi::{CStr, c_char};

const MAGIC: u32 = 0xba55_ed50;
const KIND_PTX: u16 = 1;
/// Flags of an entry that nvcc has compressed (LZ4 or Zstandard).
const COMPRESSED: u64 = 0x2000 | 0x8000;

unsafe fn at<T: Copy>(p: *const u8, offset: usize) -> T {
    unsafe { (p.add(offset) as *const T).read_unaligned() }
}

/// The newest PTX in an image that a device of compute capability `cc` (80, 90) can run: `image` is a fatbin, or PTX as text.
pub unsafe fn ptx(image: *const u8, cc: u32) -> Result<String, String> {
    unsafe {
        if at::<u32>(image, 0) != MAGIC {
            return Ok(CStr::from_ptr(image as *const c_char).to_string_lossy().into_owned());
        }
        let end = at::<u16>(image, 6) as usize + at::<u64>(image, 8) as usize;
        let mut offset = at::<u16>(image, 6) as usize;
        let mut best: Option<(u32, String)> = None;
        let mut seen = vec![];
        while offset < end {
            let entry = image.add(offset);
            let (kind, header, size) =
                (at::<u16>(entry, 0), at::<u32>(entry, 4) as usize, at::<u64>(entry, 8) as usize);
            let (arch, flags) = (at::<u32>(entry, 28), at::<u64>(entry, 40));
            if kind == KIND_PTX {
                if flags & COMPRESSED != 0 {
                    return Err("the PTX in the fatbin is compressed: build with X2CT_COMPRESS=none".into());
                }
                let bytes = std::slice::from_raw_parts(entry.add(header), size);
                let text = String::from_utf8_lossy(bytes.split(|b| *b == 0).next().unwrap_or(bytes)).into_owned();
                // A target that ends in a letter runs on that architecture alone.
                let exact = text
                    .lines()
                    .find_map(|l| l.strip_prefix(".target "))
                    .is_some_and(|t| t.trim_end_matches(|c: char| c != 'a').ends_with('a'));
                seen.push(arch);
                if (if exact { arch == cc } else { arch <= cc })
                    && best.as_ref().is_none_or(|b| (b.0, false) < (arch, exact))
                {
                    best = Some((arch, text));
                }
            }
            offset += header + size;
        }
        best.map(|b| b.1).ok_or_else(|| format!("the fatbin holds PTX for {seen:?} and none that runs on {cc}: build with X2CT_CUDA_ARCHS=compute_80,compute_90a"))
    }
}
