//! What a prepared volume may hold: not one value everywhere, finite, and within the range of its preset.

use rayon::prelude::*;

use super::VolumeSet;
use crate::Result;
use crate::tensor::DType;

/// What is measured of a volume's voxels.
#[derive(Clone, Copy)]
struct Measured {
    /// Voxels that are not finite.
    endless: usize,
    /// Least and largest of the others.
    least: f32,
    largest: f32,
}

impl Measured {
    const NOTHING: Measured = Measured { endless: 0, least: f32::INFINITY, largest: f32::NEG_INFINITY };

    fn with(self, value: f32) -> Self {
        match value.is_finite() {
            true => Measured { least: self.least.min(value), largest: self.largest.max(value), ..self },
            false => Measured { endless: self.endless + 1, ..self },
        }
    }

    fn and(self, other: Self) -> Self {
        Measured {
            endless: self.endless + other.endless,
            least: self.least.min(other.least),
            largest: self.largest.max(other.largest),
        }
    }

    /// Content of stored voxels.
    fn of(data: &[u8], dtype: DType) -> Self {
        // Whole voxels of either type, and a piece that stays in cache.
        let pieces = data.par_chunks(1 << 16);
        let measured = pieces.map(|piece| match dtype {
            DType::F32 => piece.as_chunks::<4>().0.iter().fold(Self::NOTHING, |m, b| m.with(f32::from_le_bytes(*b))),
            DType::Bf16 => {
                let values = piece.as_chunks::<2>().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32());
                values.fold(Self::NOTHING, Self::with)
            }
        });
        measured.reduce(|| Self::NOTHING, Self::and)
    }
}

impl VolumeSet {
    /// Refuses a stored volume that no chest CT comes out as: voxels that are not finite, one value everywhere, or values that the
    /// preset does not give.
    pub(super) fn check_content(&self, index: usize, data: &[u8]) -> Result<()> {
        let Measured { endless, least, largest } = Measured::of(data, self.dtype);
        let outside = |[low, high]: [f32; 2]| {
            // Rounding, of bf16 too.
            let slack = (high - low) / 100.0;
            least < low - slack || largest > high + slack
        };
        let problem = match self.preset.range() {
            _ if endless > 0 => format!("has {endless} voxels that are not finite"),
            // A volume of both zeros is one value, too.
            _ if least == largest => "is one value everywhere: no chest CT".into(),
            Some(range @ [low, high]) if outside(range) => {
                let name = &self.preset.name;
                format!("has values from {least} to {largest}, and preset {name} gives {low} to {high}")
            }
            _ => return Ok(()),
        };
        let hint = "check the CT it was made of and prepare it again, or leave it out";
        Err(self.refuse(index, problem, hint))
    }
}
