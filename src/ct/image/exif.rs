//! How a camera or a scanner was held, as EXIF says it: which way a stored image is shown.

use super::GrayImage;

/// The tag `Orientation` (EXIF 2.32, 4.6.4).
const ORIENTATION: u16 = 0x0112;
/// The type SHORT.
const SHORT: u16 = 3;

/// One of the seven ways in which an image is turned or mirrored to be shown, 2 to 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Orientation(u16);

impl Orientation {
    /// Of EXIF data, from their TIFF header on; `None` where the image is shown as it is stored.
    pub fn of(exif: &[u8]) -> Option<Self> {
        let big_endian = match exif.get(..4)? {
            b"MM\0*" => true,
            b"II*\0" => false,
            _ => return None,
        };
        let short = |at: usize| {
            let bytes = exif.get(at..at.checked_add(2)?)?.try_into().ok()?;
            Some(if big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
        };
        let long = |at: usize| {
            let [a, b] = [short(at)?, short(at + 2)?].map(usize::from);
            Some(if big_endian { a << 16 | b } else { b << 16 | a })
        };
        let directory = long(4)?;
        let entry = (0..short(directory)?).find_map(|i| {
            let at = directory.checked_add(2 + 12 * usize::from(i))?;
            (short(at)? == ORIENTATION && short(at + 2)? == SHORT).then(|| short(at + 8))
        });
        entry.flatten().filter(|way| (2..=8).contains(way)).map(Orientation)
    }

    /// The image as it is shown.
    pub fn apply(self, image: &GrayImage) -> GrayImage {
        let (h, w) = (image.height, image.width);
        let turned = self.0 >= 5;
        let (height, width) = if turned { (w, h) } else { (h, w) };
        let from = |row: usize, column: usize| match self.0 {
            2 => (row, w - 1 - column),
            3 => (h - 1 - row, w - 1 - column),
            4 => (h - 1 - row, column),
            5 => (column, row),
            6 => (h - 1 - column, row),
            7 => (h - 1 - column, w - 1 - row),
            8 => (column, w - 1 - row),
            _ => (row, column),
        };
        let places = (0..height).flat_map(|row| (0..width).map(move |column| (row, column)));
        let pixels = places.map(|(row, column)| from(row, column)).map(|(r, c)| image.pixels[r * w + c]).collect();
        GrayImage { pixels, height, width }
    }

    /// What was done, as a sentence.
    pub fn remark(self) -> String {
        let what = match self.0 {
            2 => "mirrored left to right",
            3 => "turned by 180 degrees",
            4 => "mirrored top to bottom",
            5 => "mirrored along its diagonal",
            6 => "turned by 90 degrees clockwise",
            7 => "mirrored along its other diagonal",
            _ => "turned by 90 degrees counter-clockwise",
        };
        format!("Its EXIF orientation, {}, is applied: {what}.", self.0)
    }
}
