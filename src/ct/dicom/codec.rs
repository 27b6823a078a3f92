//! Compressed frames of DICOM images, decoded to samples row by row.

use jpeg_decoder::PixelFormat;

use super::pixels::{Layout, samples};
use crate::ct::jpeg;

/// Samples as they are.
pub(super) fn none(data: &[u8], layout: Layout) -> Result<Vec<u16>, String> {
    let length = layout.area() * layout.bytes;
    let data = data.get(..length).ok_or_else(|| format!("{} bytes, where {length} are needed", data.len()))?;
    Ok(samples(data, layout.bytes, u16::from_le_bytes))
}

/// DICOM's RLE (PS3.5, annex G): one run of PackBits for each byte of a sample, the highest byte first.
pub(super) fn rle(data: &[u8], layout: Layout) -> Result<Vec<u16>, String> {
    let word = |i: usize| data.get(4 * i..4 * i + 4).map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]]) as usize);
    let segments = word(0).filter(|_| data.len() >= 64).ok_or("its header is cut off")?;
    if segments != layout.bytes {
        return Err(format!("it has {segments} segments, not {}", layout.bytes));
    }
    // Two bytes make 128 at most; memory is not given to what cannot come out.
    if data.len().saturating_mul(64) < layout.area() {
        return Err(format!("{} bytes cannot hold {} pixels", data.len(), layout.area()));
    }
    let mut samples = vec![0; layout.area()];
    for i in 1..=segments {
        let begin = word(i).unwrap_or(usize::MAX);
        let end = if i < segments { word(i + 1).unwrap_or(0) } else { data.len() };
        let segment = data.get(begin..end).ok_or_else(|| format!("segment {i} lies outside of it"))?;
        let bytes = unpack(segment, layout.area()).ok_or_else(|| format!("segment {i} is cut off or damaged"))?;
        samples.iter_mut().zip(bytes).for_each(|(sample, byte)| *sample = *sample << 8 | u16::from(byte));
    }
    Ok(samples)
}

/// The first `count` bytes of PackBits.
fn unpack(mut data: &[u8], count: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(count);
    while bytes.len() < count {
        let (&control, rest) = data.split_first()?;
        data = rest;
        match control as i8 {
            -128 => {}
            copied @ 0.. => {
                let (literal, rest) = data.split_at_checked(copied as usize + 1)?;
                bytes.extend_from_slice(literal);
                data = rest;
            }
            repeated => {
                let (&byte, rest) = data.split_first()?;
                bytes.resize(bytes.len() + 1 + repeated.unsigned_abs() as usize, byte);
                data = rest;
            }
        }
    }
    bytes.truncate(count);
    Some(bytes)
}

/// JPEG: baseline, extended of 8 bits, and lossless.
pub(super) fn jpeg(data: &[u8], layout: Layout) -> Result<Vec<u16>, String> {
    let mut decoder = jpeg_decoder::Decoder::new(data);
    decoder.set_max_decoding_buffer_size(2 * layout.area());
    let problem =
        |e: jpeg_decoder::Error| jpeg::beyond(&e).map_or_else(|| e.to_string(), |what| format!("it is {what}"));
    decoder.read_info().map_err(problem)?;
    let info = decoder.info().ok_or("it has no frame")?;
    expect_size([info.height.into(), info.width.into()], layout)?;
    let size = match info.pixel_format {
        PixelFormat::L8 => 1,
        PixelFormat::L16 => 2,
        PixelFormat::RGB24 | PixelFormat::CMYK32 => return Err("it is in colour".into()),
    };
    let bytes = decoder.decode().map_err(problem)?;
    Ok(samples(&bytes, size, u16::from_ne_bytes))
}

/// JPEG 2000, high-throughput or not.
pub(super) fn jpeg_2000(data: &[u8], layout: Layout) -> Result<Vec<u16>, String> {
    // Before the decoder takes memory for what the header claims.
    expect_size(jpeg_2000_size(data).ok_or("its header is damaged")?, layout)?;
    let image = jpeg2k::Image::from_bytes(data).map_err(|e| e.to_string())?;
    let [component] = image.components() else { return Err("it is in colour".into()) };
    expect_size([component.height() as usize, component.width() as usize], layout)?;
    // Negative values keep their lowest bits, as they would in an uncompressed file.
    Ok(component.data().iter().map(|&value| value as u16).collect())
}

/// Rows and columns by the marker segment SIZ (ISO 15444-1, A.5.1), which starts every codestream; a JP2 file has boxes before.
fn jpeg_2000_size(data: &[u8]) -> Option<[usize; 2]> {
    const START: [u8; 4] = [0xff, 0x4f, 0xff, 0x51];
    let at = data[..data.len().min(4096)].windows(4).position(|window| window == START)?;
    let number = |i: usize| {
        let bytes: [u8; 4] = data.get(at + 8 + 4 * i..at + 12 + 4 * i)?.try_into().ok()?;
        Some(u32::from_be_bytes(bytes))
    };
    let side = |end: usize, begin: usize| number(end)?.checked_sub(number(begin)?).map(|n| n as usize);
    Some([side(1, 3)?, side(0, 2)?])
}

/// JPEG-LS (feature `jpegls`).
#[cfg(feature = "jpegls")]
pub(super) fn jpeg_ls(data: &[u8], layout: Layout) -> Result<Vec<u16>, String> {
    // Before the decoder takes memory for what the header claims.
    let (size, bytes) = jpeg_ls_frame(data).ok_or("its header is damaged")?;
    expect_size(size, layout)?;
    if bytes != layout.bytes {
        return Err(format!("its samples have {bytes} bytes, not {}", layout.bytes));
    }
    // CharLS 2.4 never comes back from a stream that ends within a value, unless a marker ends it.
    let ended = [data, &[0xff, 0xd9]].concat();
    let bytes = charls::CharLS::default().decode(&ended).map_err(|e| e.to_string())?;
    Ok(samples(&bytes, layout.bytes, u16::from_ne_bytes))
}

/// Rows and columns and the bytes of a sample by the marker segment SOF55 (ISO 14495-1, C.2.2).
#[cfg(feature = "jpegls")]
fn jpeg_ls_frame(data: &[u8]) -> Option<([usize; 2], usize)> {
    let number = |at: usize| Some(usize::from(u16::from_be_bytes([*data.get(at)?, *data.get(at + 1)?])));
    let mut at = 2;
    while number(at)? != 0xfff7 {
        at += 2 + number(at + 2)?;
    }
    Some(([number(at + 5)?, number(at + 7)?], usize::from(*data.get(at + 4)?).div_ceil(8)))
}

#[cfg(not(feature = "jpegls"))]
pub(super) fn jpeg_ls(_: &[u8], _: Layout) -> Result<Vec<u16>, String> {
    Err("this build does not decode them".into())
}

fn expect_size(found: [usize; 2], layout: Layout) -> Result<(), String> {
    let [rows, columns] = found;
    if found == [layout.rows, layout.columns] {
        return Ok(());
    }
    Err(format!("they are {rows} rows of {columns}, where Rows and Columns say {} of {}", layout.rows, layout.columns))
}
