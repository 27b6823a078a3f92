//! Whole-buffer gzip through libdeflate: every member's CRC-32 and length are checked, and no length field is trusted
//! with an allocation.
//!
//! The raw binding rather than libdeflater's safe wrapper, because only libdeflate's `_ex` call says where a member
//! ends, and a .nii.gz may have several (bgzip, concatenation).

use libdeflate_sys::{
    libdeflate_alloc_decompressor, libdeflate_decompressor, libdeflate_free_decompressor,
    libdeflate_gzip_decompress_ex, libdeflate_result_LIBDEFLATE_INSUFFICIENT_SPACE,
    libdeflate_result_LIBDEFLATE_SUCCESS,
};

/// No deflate stream expands further: a length-258 match costs two bits at least, 1032 to 1 (RFC 1951, zlib's bound).
pub(super) const MAX_RATIO: usize = 1032;

/// The bytes [`peek`] decodes. A stored block, the largest unit libdeflate refuses to start when it does not fit, holds
/// 65,535; a header before it fits as well.
pub(super) const PEEK: usize = 128 << 10;

pub(super) fn is_gzip(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x1f, 0x8b])
}

/// What came out of gzip data.
pub(super) struct Inflated {
    /// Bytes written: as many as the output has, or fewer.
    pub length: usize,
    /// Bytes behind the last member that are not gzip, unless all are zero.
    pub garbage: Option<usize>,
}

/// Why decoding stopped early.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The member that starts at this byte is damaged, truncated, or not gzip at all.
    Damaged { member: usize, at: usize },
    /// The data go on beyond the given output.
    TooLong,
}

/// The first bytes of the decompressed file, so that its header can say how long the rest is, and whether the data are
/// sound up to there. Bytes past what was decoded are zero. Nothing is verified yet: parse the header again from
/// [`decompress`]'s output.
pub(super) fn peek(input: &[u8]) -> (Vec<u8>, Result<usize, Failure>) {
    let mut output = vec![0; PEEK];
    let outcome = decompress(input, &mut output).map(|inflated| inflated.length);
    (output, outcome)
}

/// Whether `input` can possibly decompress to `length` bytes.
pub(super) fn can_hold(input: &[u8], length: usize) -> bool {
    length <= input.len().saturating_mul(MAX_RATIO)
}

/// All members of `input`, one after the other. Zeros or other bytes behind them are left alone, as gzip does.
pub(super) fn decompress(input: &[u8], output: &mut [u8]) -> Result<Inflated, Failure> {
    Inflater::new().members(input, output)
}

struct Inflater(*mut libdeflate_decompressor);

impl Inflater {
    fn new() -> Self {
        // SAFETY: no arguments; a null result is handled by `members`.
        Inflater(unsafe { libdeflate_alloc_decompressor() })
    }

    fn members(&mut self, input: &[u8], output: &mut [u8]) -> Result<Inflated, Failure> {
        let (mut read, mut written, mut member) = (0, 0, 0);
        while read < input.len() {
            let damaged = Failure::Damaged { member, at: read };
            if self.0.is_null() || (member == 0 && !is_gzip(input)) {
                return Err(damaged);
            }
            // What stands behind whole members and is none does them no harm: padding, mostly.
            if !is_gzip(&input[read..]) {
                let zeros = input[read..].iter().all(|&b| b == 0);
                return Ok(Inflated { length: written, garbage: (!zeros).then(|| input.len() - read) });
            }
            let (source, target) = (&input[read..], &mut output[written..]);
            let (mut used, mut made) = (0, 0);
            // SAFETY: the decompressor is live and ours alone (`&mut self`); both pointers come from slices whose exact
            // lengths are passed; libdeflate reads and writes within them and fills the two counts on success.
            let status = unsafe {
                libdeflate_gzip_decompress_ex(
                    self.0,
                    source.as_ptr().cast(),
                    source.len(),
                    target.as_mut_ptr().cast(),
                    target.len(),
                    &mut used,
                    &mut made,
                )
            };
            #[allow(non_upper_case_globals)]
            match status {
                libdeflate_result_LIBDEFLATE_SUCCESS => {}
                libdeflate_result_LIBDEFLATE_INSUFFICIENT_SPACE => return Err(Failure::TooLong),
                _ => return Err(damaged),
            }
            read += used;
            written += made;
            member += 1;
        }
        Ok(Inflated { length: written, garbage: None })
    }
}

impl Drop for Inflater {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: allocated by `new`, freed once.
            unsafe { libdeflate_free_decompressor(self.0) }
        }
    }
}
