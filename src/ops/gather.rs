//! Rows of a matrix by their places: minibatches of a set that lies on the device. No gradient: what is gathered is not trained.

use std::ops::Range;

use crate::device::{Buffer, Device};
use crate::kernels::{DevicePtr, gather as kernel};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// Places of rows, in device memory, such as the order of an epoch.
pub struct Places {
    places: Buffer,
    count: usize,
    /// One past the largest.
    end: usize,
}

impl Places {
    /// Copies the places to the device.
    ///
    /// # Errors
    /// No place; too little memory.
    pub fn new(device: &Device, places: &[u32]) -> Result<Self> {
        let Some(&last) = places.iter().max() else {
            return Err(Error::argument("places", "there is none", "pass at least one"));
        };
        let buffer = device.alloc(size_of_val(places), "places of rows")?;
        buffer.upload(0, bytemuck::cast_slice(places))?;
        Ok(Places { places: buffer, count: places.len(), end: last as usize + 1 })
    }

    /// How many places.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Refuses a range that leaves the places, places that x does not have, and another device.
    pub(super) fn check(&self, x: &Tensor, range: &Range<usize>) -> Result<()> {
        let rows = x.shape().first().copied().unwrap_or(0);
        if !self.places.device().same_memory(x.device()) {
            return Err(Error::argument("places", "are on another device than the matrix", "put both on one"));
        }
        if range.start > range.end || range.end > self.count || self.end > rows {
            let problem = format!(
                "{} to {} of {} places of up to {}, in a matrix of {rows} rows",
                range.start,
                range.end,
                self.count,
                self.end - 1
            );
            return Err(Error::argument("places", problem, "stay inside both"));
        }
        Ok(())
    }

    /// Where the places from this one on lie.
    pub(super) fn from(&self, start: usize) -> DevicePtr {
        self.places.ptr().offset(start * size_of::<u32>())
    }

    /// Always false: places without one are refused.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// `y[i] = x[places[range.start + i]]` for `x` `[N, d]` and `y` `[range, d]`, f32.
///
/// # Errors
/// A range that leaves the places, a place that x does not have, another shape, type or device, a destination whose memory is shared.
pub fn gather_into(x: &Tensor, places: &Places, range: Range<usize>, y: &Tensor) -> Result<()> {
    let [rows, d] = x.dims("gathered matrix")?;
    let device = x.device();
    x.expect("gathered matrix", device, [rows, d], DType::F32)?;
    y.expect("gathered rows", device, [range.len(), d], DType::F32)?;
    y.expect_writable("gathered rows")?;
    places.check(x, &range)?;
    let first = places.from(range.start);
    // Safety: live memory of the sizes just checked; y is a destination, which overlaps no operand.
    unsafe { kernel::gather(device.launcher(), x.ptr(), first, y.ptr(), [range.len(), d]) }
}
