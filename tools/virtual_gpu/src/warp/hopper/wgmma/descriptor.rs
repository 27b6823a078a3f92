//! Where the elements of a matrix lie in shared memory: the PTX ISA's "Matrix-descriptor format" and "Canonical layouts" of
//! the asynchronous warpgroup-level matrix instructions.
//!
//! The layouts are made of *chunks*, 16 bytes of neighbours along the matrix's major direction, so T = 8 elements of 16 bits
//! or 4 of 32. In chunks the canonical layouts are, with X chunks in a row of the swizzle (8, 4 or 2 for 128, 64 or 32 bytes,
//! 1 for none):
//!
//! | major | swizzle | offset of the chunk |
//! | --- | --- | --- |
//! | K | none | row % 8 * 16 + row / 8 * stride + chunk * leading |
//! | K | X | row % 8 * 16 X + row / 8 * stride + chunk * 16 |
//! | MN | none | k % 8 * 16 + k / 8 * leading + chunk * stride |
//! | MN | X | k % 8 * 16 X + k / 8 * stride + chunk % X * 16 + chunk / X * leading |
//!
//! A swizzle exchanges the chunks of a row: bits 4 to 6 of the address (as many as the swizzle has) become their exclusive or
//! with bits 7 to 9. The base offset of a matrix that does not begin where the pattern repeats is bits 7 to 9 of the pattern's
//! first address; taken here as what those bits are counted from.

/// Which way the neighbours of a chunk run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Major {
    /// Along K.
    K,
    /// Along the rows of A or the columns of B.
    Mn,
}

/// A matrix descriptor: all lengths in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Descriptor {
    start: u32,
    leading: u32,
    stride: u32,
    base: u32,
    /// Bits of the address that the swizzle changes: none to three.
    swizzled_bits: u32,
}

impl Descriptor {
    pub fn new(bits: u64) -> Descriptor {
        let length = |first: u32| ((bits >> first & 0x3fff) << 4) as u32;
        let swizzled_bits = match bits >> 62 {
            0 => 0,
            mode => 4 - mode as u32, // 1: 128 bytes, 2: 64 bytes, 3: 32 bytes
        };
        Descriptor {
            start: length(0),
            leading: length(16),
            stride: length(32),
            base: (bits >> 49 & 7) as u32,
            swizzled_bits,
        }
    }

    /// Shared address of a chunk: of the `chunk`th of a row (of K where K is major, of M or N elsewhere), the row being
    /// counted along the other direction.
    #[inline(always)]
    pub fn chunk(&self, major: Major, row: u32, chunk: u32) -> u32 {
        let across = 1 << self.swizzled_bits;
        let offset = match (major, self.swizzled_bits) {
            (Major::K, 0) => row % 8 * 16 + row / 8 * self.stride + chunk * self.leading,
            (Major::K, _) => row % 8 * 16 * across + row / 8 * self.stride + chunk * 16,
            (Major::Mn, 0) => row % 8 * 16 + row / 8 * self.leading + chunk * self.stride,
            (Major::Mn, _) => {
                row % 8 * 16 * across + row / 8 * self.stride + chunk % across * 16 + chunk / across * self.leading
            }
        };
        self.swizzle(self.start + offset)
    }

    #[inline(always)]
    fn swizzle(&self, address: u32) -> u32 {
        let mask = (1 << self.swizzled_bits) - 1;
        let row = (address >> 7).wrapping_sub(self.base) & mask;
        address ^ row << 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A descriptor with lengths in bytes and the swizzle's number in its bits.
    fn descriptor(start: u64, leading: u64, stride: u64, base: u64, mode: u64) -> Descriptor {
        Descriptor::new(start >> 4 | leading >> 4 << 16 | stride >> 4 << 32 | base << 49 | mode << 62)
    }

    /// The PTX ISA's examples (figures 166 to 170 of its version 8.8), as exact layouts in elements.
    #[test]
    fn the_examples_have_their_exact_layouts() {
        // TF32, K-major, no swizzle: ((8,2),(4,4)):((4,32),(1,64)).
        let d = descriptor(0, 64 * 4, 32 * 4, 0, 0);
        for (row, chunk) in (0..16).flat_map(|row| (0..4).map(move |chunk| (row, chunk))) {
            assert_eq!(d.chunk(Major::K, row, chunk), 4 * (row % 8 * 4 + row / 8 * 32 + chunk * 64));
        }
        // TF32, K-major, 32 bytes: ((8,2),(4,4)):((8,64),(1,4)), two chunks of a row being within the swizzle.
        let d = descriptor(0, 16, 64 * 4, 0, 3);
        for (row, chunk) in (0..16).flat_map(|row| (0..2).map(move |chunk| (row, chunk))) {
            let plain = 4 * (row % 8 * 8 + row / 8 * 64 + chunk * 4);
            assert_eq!(d.chunk(Major::K, row, chunk), plain ^ (plain >> 3 & 0x10));
        }
        // bf16, MN-major, no swizzle: ((8,1,2),(8,2)):((1,8,64),(8,128)).
        let d = descriptor(0, 128 * 2, 64 * 2, 0, 0);
        for (k, chunk) in (0..16).flat_map(|k| (0..2).map(move |chunk| (k, chunk))) {
            assert_eq!(d.chunk(Major::Mn, k, chunk), 2 * (k % 8 * 8 + k / 8 * 128 + chunk * 64));
        }
        // bf16, MN-major, 32 bytes: ((8,2,2),(8,2)):((1,8,128),(16,256)).
        let d = descriptor(0, 128 * 2, 256 * 2, 0, 3);
        for (k, chunk) in (0..16).flat_map(|k| (0..4).map(move |chunk| (k, chunk))) {
            let plain = 2 * (k % 8 * 16 + k / 8 * 256 + chunk % 2 * 8 + chunk / 2 * 128);
            assert_eq!(d.chunk(Major::Mn, k, chunk), plain ^ (plain >> 3 & 0x10));
        }
        // bf16, MN-major, 64 bytes: ((8,4,2),(8,2)):((1,8,256),(32,512)).
        let d = descriptor(0, 256 * 2, 512 * 2, 0, 2);
        for (k, chunk) in (0..16).flat_map(|k| (0..8).map(move |chunk| (k, chunk))) {
            let plain = 2 * (k % 8 * 32 + k / 8 * 512 + chunk % 4 * 8 + chunk / 4 * 256);
            assert_eq!(d.chunk(Major::Mn, k, chunk), plain ^ (plain >> 3 & 0x30));
        }
    }

    /// A pattern that begins at 3 x 128 bytes looks like the one that begins at 0, moved.
    #[test]
    fn a_base_offset_moves_the_pattern() {
        let (plain, moved) = (descriptor(1024, 16, 1024, 0, 1), descriptor(1024 + 384, 16, 1024, 3, 1));
        for (row, chunk) in (0..64).flat_map(|row| (0..8).map(move |chunk| (row, chunk))) {
            assert_eq!(moved.chunk(Major::K, row, chunk), plain.chunk(Major::K, row, chunk) + 384);
        }
        assert_ne!(descriptor(1408, 16, 1024, 0, 1).chunk(Major::K, 1, 0), moved.chunk(Major::K, 1, 0));
    }

    /// Within 128 bytes of swizzle, a step along K is a step of the start.
    #[test]
    fn a_start_within_a_row_is_a_step_along_k() {
        let (first, second) = (descriptor(2048, 16, 1024, 0, 1), descriptor(2048 + 32, 16, 1024, 0, 1));
        for row in 0..64 {
            assert_eq!(second.chunk(Major::K, row, 1), first.chunk(Major::K, row, 3));
        }
    }
}
