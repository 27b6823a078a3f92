//! Voxel-to-world geometry: affines, axis codes and the reorientations between them.
//!
//! World coordinates are millimetres in RAS+: x grows to the patient's right, y to the front, z to the head. Voxel
//! coordinates are indices in storage order (the first varies fastest); integers are voxel **centres**, so voxel `i`
//! spans `[i - 0.5, i + 0.5]`.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::limits::short;

/// Smallest and largest voxel edge in millimetres that an [`Affine`] accepts: far outside any scanner, far inside f64.
const SPACING_LIMITS: (f64, f64) = (1e-6, 1e6);

/// |det| over the product of the column lengths below which the columns count as coplanar.
const SINGULAR: f64 = 1e-6;

/// The map from voxel indices to RAS+ millimetres: three rows of `[m0 m1 m2 t]`, in f64.
///
/// Always finite and invertible: the constructors refuse anything else, so no later step has to ask.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Affine {
    rows: [[f64; 4]; 3],
}

impl Affine {
    /// The affine with these rows. Errors when an entry is not finite, a voxel edge is outside 1e-6..1e6 mm, or the
    /// three axes lie in one plane.
    pub fn new(rows: [[f64; 4]; 3]) -> Result<Self> {
        let refuse = |problem: String| {
            Error::argument("affine", problem, "it must be three rows of four finite numbers with independent columns")
        };
        for (r, row) in rows.iter().enumerate() {
            if let Some(c) = row.iter().position(|v| !v.is_finite()) {
                return Err(refuse(format!("entry [{r}][{c}] is {}", short(row[c]))));
            }
        }
        let affine = Affine { rows };
        let spacing = affine.spacing();
        for (axis, length) in spacing.iter().enumerate() {
            if !(SPACING_LIMITS.0..=SPACING_LIMITS.1).contains(length) {
                return Err(refuse(format!("voxels are {} mm long on axis {axis}", short(length))));
            }
        }
        if affine.determinant().abs() < SINGULAR * spacing.iter().product::<f64>() {
            return Err(refuse("it is singular: the three voxel axes lie in one plane".into()));
        }
        Ok(affine)
    }

    /// From unit column vectors `direction[world][voxel]`, voxel edges in mm and the world position of voxel (0,0,0).
    pub fn from_parts(direction: [[f64; 3]; 3], spacing: [f64; 3], origin: [f64; 3]) -> Result<Self> {
        Affine::new(std::array::from_fn(|r| {
            let d = direction[r];
            [d[0] * spacing[0], d[1] * spacing[1], d[2] * spacing[2], origin[r]]
        }))
    }

    /// Axes along the patient's, as `codes` says, with the centre of a volume of `shape` at the world origin.
    pub fn centred(codes: AxisCodes, spacing: [f64; 3], shape: [usize; 3]) -> Result<Self> {
        let mut direction = [[0.0; 3]; 3];
        let mut origin = [0.0; 3];
        for (voxel, (world, positive)) in codes.axes().into_iter().enumerate() {
            direction[world][voxel] = if positive { 1.0 } else { -1.0 };
            origin[world] = -direction[world][voxel] * spacing[voxel] * (shape[voxel] as f64 - 1.0) / 2.0;
        }
        Affine::from_parts(direction, spacing, origin)
    }

    /// From a quaternion `[a, b, c, d]` (a real; scaled to length 1), `qfac` of +1 or -1 on the third axis, voxel edges in
    /// mm and offset (NIfTI-1 standard, "method 2").
    pub fn from_quaternion(abcd: [f64; 4], qfac: f64, spacing: [f64; 3], origin: [f64; 3]) -> Result<Self> {
        let norm = abcd.iter().map(|v| v * v).sum::<f64>().sqrt();
        let [a, b, c, d] = abcd.map(|v| v / norm);
        let direction = [
            [a * a + b * b - c * c - d * d, 2.0 * (b * c - a * d), 2.0 * (b * d + a * c) * qfac],
            [2.0 * (b * c + a * d), a * a + c * c - b * b - d * d, 2.0 * (c * d - a * b) * qfac],
            [2.0 * (b * d - a * c), 2.0 * (c * d + a * b), (a * a + d * d - b * b - c * c) * qfac],
        ];
        Affine::from_parts(direction, spacing, origin)
    }

    /// The three rows.
    pub fn rows(&self) -> [[f64; 4]; 3] {
        self.rows
    }

    /// World position (mm, RAS+) of a voxel coordinate.
    pub fn voxel_to_world(&self, voxel: [f64; 3]) -> [f64; 3] {
        self.rows.map(|m| m[0] * voxel[0] + m[1] * voxel[1] + m[2] * voxel[2] + m[3])
    }

    /// Voxel coordinate of a world position. To map many points, take [`Affine::inverse`] once instead.
    pub fn world_to_voxel(&self, world: [f64; 3]) -> [f64; 3] {
        self.inverse().voxel_to_world(world)
    }

    /// The map from world to voxel coordinates, as an affine (its "spacing" is voxels per millimetre).
    pub fn inverse(&self) -> Affine {
        let linear = inverse3(self.linear());
        let t = self.origin();
        let rows = linear.map(|m| [m[0], m[1], m[2], -(m[0] * t[0] + m[1] * t[1] + m[2] * t[2])]);
        Affine { rows }
    }

    /// World position of voxel (0,0,0).
    pub fn origin(&self) -> [f64; 3] {
        self.rows.map(|m| m[3])
    }

    /// World position of the centre of a volume of `shape`.
    pub fn centre(&self, shape: [usize; 3]) -> [f64; 3] {
        self.voxel_to_world(shape.map(|n| (n as f64 - 1.0) / 2.0))
    }

    /// Voxel edge lengths in mm, per voxel axis: the lengths of the columns.
    pub fn spacing(&self) -> [f64; 3] {
        std::array::from_fn(|c| self.rows.iter().map(|m| m[c] * m[c]).sum::<f64>().sqrt())
    }

    /// Direction cosines `[world][voxel]`: the columns scaled to length 1.
    pub fn direction(&self) -> [[f64; 3]; 3] {
        let s = self.spacing();
        self.rows.map(|m| std::array::from_fn(|c| m[c] / s[c]))
    }

    /// Determinant of the linear part, in mm^3; negative when the voxel axes are left-handed in RAS+.
    pub fn determinant(&self) -> f64 {
        determinant3(self.linear())
    }

    /// The same directions and origin with voxel edges of `spacing` mm, which must be within this type's limits.
    pub(crate) fn with_spacing(&self, spacing: [f64; 3]) -> Affine {
        let direction = self.direction();
        let rows = std::array::from_fn(|r| {
            let d = direction[r];
            [d[0] * spacing[0], d[1] * spacing[1], d[2] * spacing[2], self.rows[r][3]]
        });
        Affine { rows }
    }

    /// The largest angle between like axes of this and another, degrees, shear set aside: of the nearest rotations or
    /// reflections.
    pub(crate) fn degrees_to(&self, other: &Affine) -> f64 {
        let (a, b) = (nearest_orthogonal(self.direction()), nearest_orthogonal(other.direction()));
        let cosine = |c: usize| (0..3).map(|r| a[r][c] * b[r][c]).sum::<f64>().clamp(-1.0, 1.0);
        (0..3).map(|c| cosine(c).acos().to_degrees()).fold(0.0, f64::max)
    }

    /// How far the voxel axes are from standing at right angles, degrees: 0 for a straight volume, the tilt of the gantry for
    /// slices stacked aslant.
    pub fn shear(&self) -> f64 {
        let d = self.direction();
        let sine = |a: usize, b: usize| (0..3).map(|r| d[r][a] * d[r][b]).sum::<f64>().abs().min(1.0);
        [(0, 1), (0, 2), (1, 2)].map(|(a, b)| sine(a, b).asin().to_degrees()).into_iter().fold(0.0, f64::max)
    }

    /// For what works along voxel axes: an error that names the angle where they are sheared by more than half a degree.
    pub(crate) fn require_straight(&self) -> Result<()> {
        let shear = self.shear();
        if shear <= 0.5 {
            return Ok(());
        }
        let problem =
            format!("its voxel axes are sheared by {shear:.1} degrees (a tilted gantry), and this works along them");
        let hint = "resample it to a straight grid first (nibabel.processing.resample_to_output), or draw it with --mode attenuation";
        Err(Error::argument("CT volume", problem, hint))
    }

    /// For each voxel axis the patient direction it grows towards most, each direction used once (nibabel's rule): the
    /// columns, scaled to length 1, are replaced by the nearest rotation or reflection (so that shear favours no axis);
    /// then the best-aligned column chooses first.
    pub fn axis_codes(&self) -> AxisCodes {
        let nearest = nearest_orthogonal(self.direction());
        let strength = |c: usize| nearest.iter().map(|row| row[c].abs()).fold(0.0, f64::max);
        let mut order = [0, 1, 2];
        order.sort_by(|&a, &b| strength(b).total_cmp(&strength(a)));
        let mut axes = [(0, true); 3];
        let mut free = [true; 3];
        for voxel in order {
            let mut best: Option<usize> = None;
            for world in 0..3 {
                let better = best.is_none_or(|b| nearest[world][voxel].abs() > nearest[b][voxel].abs());
                if free[world] && better {
                    best = Some(world);
                }
            }
            if let Some(world) = best {
                free[world] = false;
                axes[voxel] = (world, nearest[world][voxel] >= 0.0);
            }
        }
        AxisCodes { axes }
    }

    /// The affine of the same volume after [`AxisMap`] rearranged its voxels; `shape` is the shape before.
    pub(crate) fn remap(&self, map: &AxisMap, shape: [usize; 3]) -> Affine {
        let mut rows = self.rows;
        for (row, old) in rows.iter_mut().zip(&self.rows) {
            for axis in 0..3 {
                let source = map.source[axis];
                row[axis] = old[source];
                if map.flip[axis] {
                    row[axis] = -old[source];
                    row[3] += old[source] * (shape[source] as f64 - 1.0);
                }
            }
        }
        Affine { rows }
    }

    fn linear(&self) -> [[f64; 3]; 3] {
        self.rows.map(|m| [m[0], m[1], m[2]])
    }
}

/// The patient direction each voxel axis grows towards, such as `LPS`: one letter of R/L, one of A/P, one of S/I.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AxisCodes {
    /// Per voxel axis: world axis (0 right, 1 anterior, 2 superior) and whether it grows that way.
    axes: [(usize, bool); 3],
}

/// `[positive, negative]` letter of each world axis.
const LETTERS: [[char; 2]; 3] = [['R', 'L'], ['A', 'P'], ['S', 'I']];

impl AxisCodes {
    /// Right, anterior, superior: NIfTI's own world.
    pub const RAS: AxisCodes = AxisCodes { axes: [(0, true), (1, true), (2, true)] };
    /// Left, posterior, superior: DICOM's world, and the corrected CT-RATE volumes.
    pub const LPS: AxisCodes = AxisCodes { axes: [(0, false), (1, false), (2, true)] };
    /// Left, posterior, inferior: RadChest-CT.
    pub const LPI: AxisCodes = AxisCodes { axes: [(0, false), (1, false), (2, false)] };
    /// Left, anterior, superior: what nibabel takes files without any orientation to be.
    pub const LAS: AxisCodes = AxisCodes { axes: [(0, false), (1, true), (2, true)] };
    /// Left, inferior, anterior: columns, rows and depth of a frontal radiograph.
    pub const LIA: AxisCodes = AxisCodes { axes: [(0, false), (2, false), (1, true)] };

    /// All 48.
    pub fn all() -> impl Iterator<Item = AxisCodes> {
        const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
        ORDERS.into_iter().flat_map(|order| {
            (0..8).map(move |bits| AxisCodes { axes: std::array::from_fn(|a| (order[a], bits >> a & 1 == 0)) })
        })
    }

    /// The three letters.
    pub fn letters(&self) -> [char; 3] {
        self.axes.map(|(world, positive)| LETTERS[world][usize::from(!positive)])
    }

    /// Per voxel axis: world axis (0 right, 1 anterior, 2 superior) and whether it grows that way.
    pub fn axes(&self) -> [(usize, bool); 3] {
        self.axes
    }

    /// What brings voxels stored as `self` into the order `target`.
    pub(crate) fn map_to(&self, target: AxisCodes) -> AxisMap {
        let mut map = AxisMap { source: [0; 3], flip: [false; 3] };
        for (axis, (world, positive)) in target.axes.into_iter().enumerate() {
            for (source, (from, grows)) in self.axes.into_iter().enumerate() {
                if from == world {
                    map.source[axis] = source;
                    map.flip[axis] = grows != positive;
                }
            }
        }
        map
    }
}

impl fmt::Display for AxisCodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.letters().iter().try_for_each(|letter| write!(f, "{letter}"))
    }
}

impl FromStr for AxisCodes {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = || {
            let problem = format!("{text:?} names no orientation");
            Error::argument("axis codes", problem, "give one letter each of R/L, A/P and S/I, such as LPS")
        };
        let mut axes = Vec::with_capacity(3);
        for letter in text.chars() {
            let world = LETTERS.iter().position(|pair| pair.contains(&letter)).ok_or_else(refuse)?;
            if axes.iter().any(|&(used, _)| used == world) {
                return Err(refuse());
            }
            axes.push((world, LETTERS[world][0] == letter));
        }
        Ok(AxisCodes { axes: axes.try_into().map_err(|_| refuse())? })
    }
}

/// A permutation and flip of voxel axes: output axis `a` is input axis `source[a]`, read backwards where `flip[a]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AxisMap {
    pub source: [usize; 3],
    pub flip: [bool; 3],
}

impl AxisMap {
    pub fn is_identity(&self) -> bool {
        self.source == [0, 1, 2] && self.flip == [false; 3]
    }
}

fn determinant3(m: [[f64; 3]; 3]) -> f64 {
    m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1]) - m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0])
        + m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0])
}

fn inverse3(m: [[f64; 3]; 3]) -> [[f64; 3]; 3] {
    let det = determinant3(m);
    std::array::from_fn(|r| {
        std::array::from_fn(|c| {
            // Cofactor of (c, r); cyclic indices carry its sign.
            let (r1, r2, c1, c2) = ((c + 1) % 3, (c + 2) % 3, (r + 1) % 3, (r + 2) % 3);
            (m[r1][c1] * m[r2][c2] - m[r1][c2] * m[r2][c1]) / det
        })
    })
}

/// The orthogonal factor of the polar decomposition, by Newton's iteration X <- (X + X^-T) / 2 (Higham, "Computing the
/// polar decomposition", 1986), which converges quadratically for every invertible matrix.
fn nearest_orthogonal(mut m: [[f64; 3]; 3]) -> [[f64; 3]; 3] {
    for _ in 0..100 {
        let inverse = inverse3(m);
        let mut change = 0.0_f64;
        let next: [[f64; 3]; 3] = std::array::from_fn(|r| {
            std::array::from_fn(|c| {
                let value = (m[r][c] + inverse[c][r]) / 2.0;
                change = change.max((value - m[r][c]).abs());
                value
            })
        });
        m = next;
        if change < 1e-15 {
            break;
        }
    }
    m
}
