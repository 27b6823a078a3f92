//! What part of the patient a radiograph shows when nobody says how large it is.

use serde::Serialize;

use super::body::Body;
use super::radiograph::RadiographOptions;
use super::view::View;
use super::volume::CtVolume;
use crate::Result;
use crate::error::Error;
use crate::limits::{rounded, short};

/// How a detector's size, pixels and place are chosen where [`RadiographOptions::size`] and [`RadiographOptions::pitch`] leave
/// them open. Where both are given the detector is centred on the central ray.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Collimation {
    /// The rectangle of the patient's outline in that view and a margin of 2%: the longer side has 512 pixels, or as many as
    /// `pitch` asks for. With an isocentre or a shift it is widened until the central ray meets its middle. A volume without a
    /// body, all air, is shown whole.
    #[default]
    Body,
    /// 512 x 512 pixels about the central ray that show the whole volume: its extent at the isocentre, magnified, over the
    /// pixels, the larger of both directions. It does not depend on what the volume holds.
    Volume,
}

/// Pixels along the longer side of a picture.
const SIDE: usize = 512;
/// Share of the longer side that is left free around the body.
const MARGIN: f64 = 0.02;
/// Most pixels along a side that a pitch may ask for.
const MOST: f64 = 16384.0;

impl RadiographOptions {
    /// The detector in its place, and the rule it was chosen by. Not for [`Mode::MeanHu`](super::Mode::MeanHu).
    pub(super) fn place(&self, volume: &CtVolume, body: Option<&Body>) -> Result<(View, &'static str)> {
        let whole = |size: [usize; 2]| {
            let pitch = self.pitch.unwrap_or_else(|| self.whole_pitch(volume, size));
            self.framed(volume, pitch, size)
        };
        match (self.size, self.pitch, self.collimation, body) {
            (Some(size), Some(_), ..) => Ok((whole(size)?, "given")),
            (size, _, Collimation::Volume, _) => Ok((whole(size.unwrap_or([SIDE; 2]))?, "volume")),
            (size, _, Collimation::Body, None) => Ok((whole(size.unwrap_or([SIDE; 2]))?, "volume: no body was found")),
            (size, _, Collimation::Body, Some(body)) => match self.around(volume, body)? {
                Some(view) => Ok((view, "body")),
                None => Ok((whole(size.unwrap_or([SIDE; 2]))?, "volume: the source is inside the body")),
            },
        }
    }

    /// The view whose detector the body's outline fills; `None` where not all of the body casts a shadow on it.
    fn around(&self, volume: &CtVolume, body: &Body) -> Result<Option<View>> {
        // A pixel of 1 mm whose centre is the middle of the detector.
        let middle = self.framed(volume, 1.0, [1, 1])?;
        let (mut low, mut high) = ([f64::INFINITY; 2], [f64::NEG_INFINITY; 2]);
        for corner in body.corners() {
            let Some(at) = middle.shadow(corner) else { return Ok(None) };
            low = std::array::from_fn(|a| at[a].min(low[a]));
            high = std::array::from_fn(|a| at[a].max(high[a]));
        }
        if self.isocentre.is_some() || self.placement.translation != [0.0; 3] {
            high = std::array::from_fn(|a| high[a].max(-low[a]));
            low = high.map(|v| -v);
        }
        let margin = MARGIN * (high[0] - low[0]).max(high[1] - low[1]);
        let field: [f64; 2] = std::array::from_fn(|a| high[a] - low[a] + 2.0 * margin);
        let (pitch, size) = match (self.size, self.pitch) {
            (Some(size), _) => ((field[0] / size[0] as f64).max(field[1] / size[1] as f64), size),
            (None, Some(pitch)) => {
                self.framed(volume, pitch, [1, 1])?;
                let size = field.map(|mm| (mm / pitch).ceil());
                if size.iter().any(|n| *n > MOST) {
                    let problem = format!(
                        "{} mm make {} x {} pixels of this patient",
                        short(pitch),
                        rounded(size[0]),
                        rounded(size[1])
                    );
                    return Err(Error::argument("pitch", problem, format!("give more, or a size; {MOST} is the most")));
                }
                (pitch, size.map(|n| n as usize))
            }
            (None, None) => {
                let pitch = field[0].max(field[1]) / SIDE as f64;
                (pitch, field.map(|mm| ((mm / pitch).round() as usize).max(1)))
            }
        };
        let off: [f64; 2] = std::array::from_fn(|a| (low[a] + high[a]) / 2.0 / pitch);
        Ok(Some(self.framed(volume, pitch, size)?.shifted(off)))
    }

    /// A detector about the central ray.
    fn framed(&self, volume: &CtVolume, pitch: f64, size: [usize; 2]) -> Result<View> {
        self.placement.view(self.view, self.geometry, self.centred_on(volume), pitch, size)
    }

    /// What the system turns about: the isocentre given, or the volume's centre.
    pub(super) fn centred_on(&self, volume: &CtVolume) -> [f64; 3] {
        self.isocentre.unwrap_or_else(|| volume.affine.centre(volume.shape))
    }

    /// The pitch at which `size` pixels about the central ray show the whole volume: its extent at the isocentre, magnified.
    pub(super) fn whole_pitch(&self, volume: &CtVolume, size: [usize; 2]) -> f64 {
        let [_, down, right] = self.placement.frame(self.view);
        // Off the volume's centre, the farther side decides.
        let (centre, isocentre) = (volume.affine.centre(volume.shape), self.centred_on(volume));
        let aim: [f64; 3] = std::array::from_fn(|a| isocentre[a] + self.placement.translation[a]);
        let off = |u: [f64; 3]| (0..3).map(|a| u[a] * (centre[a] - aim[a])).sum::<f64>().abs();
        let span = |u: [f64; 3]| extent(volume, u) + 2.0 * off(u);
        let [rows, columns] = size.map(|n| n as f64);
        (span(down) / rows).max(span(right) / columns) * self.geometry.magnification()
    }
}

/// Millimetres of the volume along a world direction.
fn extent(volume: &CtVolume, direction: [f64; 3]) -> f64 {
    let rows = volume.affine.rows();
    let edge = |axis: usize| (0..3).map(|world| direction[world] * rows[world][axis]).sum::<f64>();
    (0..3).map(|axis| edge(axis).abs() * volume.shape[axis] as f64).sum()
}
