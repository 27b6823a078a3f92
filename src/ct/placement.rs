//! Obliques and free poses: how an imaging system is moved from a standard projection.

use super::pose::rotation_matrix;
use super::view::{Geometry, Projection, View};
use crate::Result;
use crate::error::Error;
use crate::limits::short;

/// The imaging system moved from a standard projection: first turned about the isocentre as a C-arm is, then by a free
/// rotation about it, then shifted. The default moves nothing.
///
/// The two angles are those of DICOM's X-Ray Positioner module (PS3.3 C.8.7.5) and turn the detector: Positioner Primary
/// Angle (0018,1510), positive from RAO to LAO, about the head-foot axis; Positioner Secondary Angle (0018,1511), positive
/// from caudal to cranial. They are added to those of the projection ([`Projection::positioner_angle`]): with
/// [`Projection::Pa`] they are the attributes themselves, and 30 is LAO 30; with [`Projection::Ap`] the same 30 sends the same
/// lines through the patient the other way (right posterior oblique), and the picture is shown as AP is.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Placement {
    /// Degrees, -180 to 180.
    pub primary_angle: f64,
    /// Degrees, -90 to 90.
    pub secondary_angle: f64,
    /// Rotation vector in degrees about the patient's right, anterior and superior axes, right-handed.
    pub rotation: [f64; 3],
    /// Millimetres to the patient's right, front and head.
    pub translation: [f64; 3],
}

impl Placement {
    /// Whether nothing is moved.
    pub fn is_none(&self) -> bool {
        *self == Placement::default()
    }

    /// DICOM's Positioner Primary and Secondary Angle of `projection` so placed, degrees, before the free rotation; the
    /// primary angle lies in (-180, 180].
    pub fn positioner_angles(&self, projection: Projection) -> [f64; 2] {
        let primary = projection.positioner_angle() + self.primary_angle;
        let wrapped = if primary > 180.0 {
            primary - 360.0
        } else if primary <= -180.0 {
            primary + 360.0
        } else {
            primary
        };
        [wrapped, self.secondary_angle]
    }

    /// [`Projection::frame`] so placed.
    pub fn frame(&self, projection: Projection) -> [[f64; 3]; 3] {
        let frame = projection.frame();
        let (sine, cosine) = sin_cos(self.primary_angle);
        // From the front (+y) towards the left (-x): counter-clockwise seen from the head.
        let [beam, down, right] = frame.map(|[x, y, z]| [x * cosine - y * sine, x * sine + y * cosine, z]);
        let (sine, cosine) = sin_cos(self.secondary_angle);
        let tilted = std::array::from_fn(|a| cosine * beam[a] - sine * down[a]);
        let down = std::array::from_fn(|a| cosine * down[a] + sine * beam[a]);
        let turn = rotation_matrix(self.rotation.map(f64::to_radians));
        [tilted, down, right].map(|v| turn.map(|row| (0..3).map(|a| row[a] * v[a]).sum()))
    }

    /// `projection` so placed, as [`View::standard`] otherwise.
    ///
    /// # Errors
    /// Those of [`View::standard`]; angles out of range, a pose that is not finite.
    pub fn view(
        &self,
        projection: Projection,
        geometry: Geometry,
        isocentre: [f64; 3],
        pitch: f64,
        size: [usize; 2],
    ) -> Result<View> {
        self.check()?;
        let aim = std::array::from_fn(|a| isocentre[a] + self.translation[a]);
        View::framed(self.frame(projection), geometry, aim, pitch, size)
    }

    fn check(&self) -> Result<()> {
        let refuse = |what: &str, problem: String, hint: &str| Err(Error::argument(what, problem, hint));
        let Placement { primary_angle, secondary_angle, rotation, translation } = *self;
        if !(-180.0..=180.0).contains(&primary_angle) {
            return refuse("primary angle", format!("is {}", short(primary_angle)), "give -180 to 180 degrees");
        }
        if !(-90.0..=90.0).contains(&secondary_angle) {
            return refuse("secondary angle", format!("is {}", short(secondary_angle)), "give -90 to 90 degrees");
        }
        if !rotation.iter().chain(&translation).all(|v| v.is_finite()) {
            let problem = format!("rotation {rotation:?}, translation {translation:?}");
            return refuse("pose", problem, "give finite degrees and millimetres");
        }
        Ok(())
    }
}

/// Sine and cosine of degrees, exact at multiples of 90: a quarter turn leaves no stray 6e-17 in a direction.
fn sin_cos(degrees: f64) -> (f64, f64) {
    let turn = degrees.rem_euclid(360.0);
    match turn {
        0.0 => (0.0, 1.0),
        90.0 => (1.0, 0.0),
        180.0 => (0.0, -1.0),
        270.0 => (-1.0, 0.0),
        _ => turn.to_radians().sin_cos(),
    }
}
