//! Where a radiograph is taken from: beam, detector, and the standard projections. Obliques: [`super::placement`].
//!
//! World coordinates are those of [`super::Affine`]: RAS+ millimetres. A view holds the centre of pixel (0, 0) and the steps
//! to the next row and column, so any pose, tilt and pitch is only other numbers.

use std::fmt;
use std::str::FromStr;

use crate::Result;
use crate::device::Device;
use crate::error::Error;
use crate::limits::short;
use crate::ops::drr::{DrrView, Views};

use super::geometry::Affine;

/// What the rays have in common.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Beam {
    /// Every ray runs along `direction` (any length), as a whole line.
    Parallel { direction: [f64; 3] },
    /// A ray is the segment from `source` to its pixel's centre.
    Cone { source: [f64; 3] },
}

/// One detector in one place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct View {
    /// The rays that reach the detector.
    pub beam: Beam,
    /// Centre of pixel (0, 0).
    pub origin: [f64; 3],
    /// From one row to the next.
    pub row: [f64; 3],
    /// From one column to the next.
    pub column: [f64; 3],
    /// `[rows, columns]`.
    pub size: [usize; 2],
}

/// The standard projections. Row 0 is superior in each. As text: `ap`, `pa`, `lateral` (or `left-lateral`), `right-lateral`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Projection {
    /// The beam enters in front. Columns grow to the patient's left: column 0 is the patient's right.
    #[default]
    Ap,
    /// The beam enters at the back. Shown as AP is, as if facing the patient; a cone beam magnifies other parts.
    Pa,
    /// Left lateral: the beam enters on the patient's right, the left side lies on the detector. Columns grow to the back:
    /// column 0 is anterior.
    Lateral,
    /// The beam enters on the patient's left, the right side lies on the detector. Columns grow to the front: column 0 is
    /// posterior.
    RightLateral,
}

/// The beam of a projection.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Geometry {
    /// Parallel rays.
    #[default]
    Parallel,
    /// A point source `sod` mm from the isocentre and `sdd` mm from the detector.
    Cone { sdd: f64, sod: f64 },
}

impl Geometry {
    /// Detector millimetres per millimetre at the isocentre.
    pub fn magnification(self) -> f64 {
        match self {
            Geometry::Parallel => 1.0,
            Geometry::Cone { sdd, sod } => sdd / sod,
        }
    }
}

impl Projection {
    /// All four.
    pub const ALL: [Projection; 4] = [Projection::Ap, Projection::Pa, Projection::Lateral, Projection::RightLateral];

    /// The text form.
    pub fn name(self) -> &'static str {
        match self {
            Projection::Ap => "ap",
            Projection::Pa => "pa",
            Projection::Lateral => "lateral",
            Projection::RightLateral => "right-lateral",
        }
    }

    /// Beam direction, step to the next row, step to the next column: world unit vectors.
    pub fn frame(self) -> [[f64; 3]; 3] {
        const INFERIOR: [f64; 3] = [0.0, 0.0, -1.0];
        const LEFT: [f64; 3] = [-1.0, 0.0, 0.0];
        const RIGHT: [f64; 3] = [1.0, 0.0, 0.0];
        const BACK: [f64; 3] = [0.0, -1.0, 0.0];
        const FRONT: [f64; 3] = [0.0, 1.0, 0.0];
        match self {
            Projection::Ap => [BACK, INFERIOR, LEFT],
            Projection::Pa => [FRONT, INFERIOR, LEFT],
            Projection::Lateral => [LEFT, INFERIOR, BACK],
            Projection::RightLateral => [RIGHT, INFERIOR, FRONT],
        }
    }

    /// DICOM's Positioner Primary Angle of the projection, degrees: 0 with the detector in front of the patient, 90 with it
    /// on the patient's left.
    pub fn positioner_angle(self) -> f64 {
        match self {
            Projection::Pa => 0.0,
            Projection::Lateral => 90.0,
            Projection::Ap => 180.0,
            Projection::RightLateral => -90.0,
        }
    }
}

impl fmt::Display for Projection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Projection {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let text = if text == "left-lateral" { "lateral" } else { text };
        Projection::ALL.into_iter().find(|p| p.name() == text).ok_or_else(|| {
            let problem = format!("{text:?} is no projection");
            Error::argument("view", problem, "give ap, pa, lateral (left-lateral) or right-lateral")
        })
    }
}

impl View {
    /// A parallel beam along `direction`.
    pub fn parallel(direction: [f64; 3], origin: [f64; 3], row: [f64; 3], column: [f64; 3], size: [usize; 2]) -> Self {
        View { beam: Beam::Parallel { direction }, origin, row, column, size }
    }

    /// A cone beam from `source`.
    pub fn cone(source: [f64; 3], origin: [f64; 3], row: [f64; 3], column: [f64; 3], size: [usize; 2]) -> Self {
        View { beam: Beam::Cone { source }, origin, row, column, size }
    }

    /// A standard projection with square pixels of `pitch` mm on the detector; the middle of the detector, the isocentre and
    /// the source lie on one line.
    ///
    /// # Errors
    /// Distances or a pitch that are not positive, a detector in front of the isocentre.
    pub fn standard(
        projection: Projection,
        geometry: Geometry,
        isocentre: [f64; 3],
        pitch: f64,
        size: [usize; 2],
    ) -> Result<Self> {
        View::framed(projection.frame(), geometry, isocentre, pitch, size)
    }

    /// As [`View::standard`], with beam direction and steps to the next row and column as given, unit vectors.
    pub(super) fn framed(
        [beam, row, column]: [[f64; 3]; 3],
        geometry: Geometry,
        isocentre: [f64; 3],
        pitch: f64,
        size: [usize; 2],
    ) -> Result<Self> {
        if !(pitch > 0.0 && pitch.is_finite()) {
            return Err(Error::argument("pitch", format!("is {} mm", short(pitch)), "give a positive number"));
        }
        if !isocentre.iter().all(|v: &f64| v.is_finite()) {
            return Err(Error::argument("isocentre", format!("is {isocentre:?}"), "give three finite millimetres"));
        }
        let along = |from: [f64; 3], mm: f64, axis: [f64; 3]| std::array::from_fn(|a| from[a] + mm * axis[a]);
        let (middle, beam) = match geometry {
            Geometry::Parallel => (isocentre, Beam::Parallel { direction: beam }),
            Geometry::Cone { sdd, sod } => {
                if !(sod > 0.0 && sdd >= sod && sdd.is_finite()) {
                    let problem =
                        format!("source to isocentre {} mm, source to detector {} mm", short(sod), short(sdd));
                    return Err(Error::argument("cone beam", problem, "give 0 < sod <= sdd"));
                }
                (along(isocentre, sdd - sod, beam), Beam::Cone { source: along(isocentre, -sod, beam) })
            }
        };
        let corner = along(middle, -0.5 * pitch * (size[0] as f64 - 1.0), row);
        let origin = along(corner, -0.5 * pitch * (size[1] as f64 - 1.0), column);
        Ok(View { beam, origin, row: row.map(|v| v * pitch), column: column.map(|v| v * pitch), size })
    }

    /// Where the shadow of a point in the world falls: row and column, 0 at the centre of the first. `None` for what casts none,
    /// at the height of a source or behind it.
    pub fn shadow(&self, point: [f64; 3]) -> Option<[f64; 2]> {
        let dot = |a: [f64; 3], b: [f64; 3]| a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
        let minus = |a: [f64; 3], b: [f64; 3]| std::array::from_fn(|i| a[i] - b[i]);
        let ([a, b, c], [d, e, f]) = (self.row, self.column);
        let normal = [b * f - c * e, c * d - a * f, a * e - b * d];
        let (start, along) = match self.beam {
            Beam::Parallel { direction } => (point, direction),
            Beam::Cone { source } => (source, minus(point, source)),
        };
        let steps = dot(minus(self.origin, start), normal) / dot(along, normal);
        if !steps.is_finite() || (matches!(self.beam, Beam::Cone { .. }) && steps <= 0.0) {
            return None;
        }
        let hit: [f64; 3] = std::array::from_fn(|i| start[i] + steps * along[i] - self.origin[i]);
        Some([self.row, self.column].map(|step| dot(hit, step) / dot(step, step)))
    }

    /// The same detector, further down and to the right by so many rows and columns; the source stays.
    pub fn shifted(self, [rows, columns]: [f64; 2]) -> View {
        View { origin: std::array::from_fn(|a| self.origin[a] + rows * self.row[a] + columns * self.column[a]), ..self }
    }

    /// Millimetres from row to row and from column to column.
    pub fn spacing(&self) -> [f64; 2] {
        [self.row, self.column].map(|step| step.iter().map(|v| v * v).sum::<f64>().sqrt())
    }

    /// The view in voxel coordinates of a volume with this affine, as kernels read it.
    pub fn in_voxels(&self, affine: &Affine) -> DrrView {
        let inverse = affine.inverse();
        let rows = inverse.rows();
        let vector = |v: [f64; 3]| rows.map(|m| m[0] * v[0] + m[1] * v[1] + m[2] * v[2]);
        // A kernel's voxel i covers [i, i + 1); an affine has it centred at i.
        let point = |p: [f64; 3]| inverse.voxel_to_world(p).map(|v| v + 0.5);
        let m = affine.rows();
        let dot = |a: usize, b: usize| m.iter().map(|row| row[a] * row[b]).sum::<f64>();
        let (source, cone) = match self.beam {
            Beam::Parallel { direction } => (vector(direction), 0),
            Beam::Cone { source } => (point(source), 1),
        };
        DrrView {
            origin: point(self.origin),
            row: vector(self.row),
            column: vector(self.column),
            source,
            metric: [dot(0, 0), dot(1, 1), dot(2, 2), dot(0, 1), dot(0, 2), dot(1, 2)],
            cone,
            reserved: 0,
        }
    }

    /// Views of one size onto volumes with this affine, in device memory.
    pub fn upload(device: &Device, views: &[View], affine: &Affine) -> Result<Views> {
        let size = views.first().map_or([0, 0], |v| v.size);
        if let Some(other) = views.iter().find(|v| v.size != size) {
            let problem = format!("sizes {size:?} and {:?} differ", other.size);
            return Err(Error::argument("views", problem, "project views of different sizes one after the other"));
        }
        let views: Vec<DrrView> = views.iter().map(|v| v.in_voxels(affine)).collect();
        Views::new(device, &views, size)
    }
}
