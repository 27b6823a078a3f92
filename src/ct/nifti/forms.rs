//! Which of a header's descriptions of its geometry counts where they contradict each other.
//!
//! | header | SimpleITK (spacing, direction) | nibabel | here |
//! |---|---|---|---|
//! | sform and qform agree | either | sform | sform |
//! | sform sizes differ from pixdim's | pixdim | sform | pixdim, but along axes where it is 1 (never set) the sform; said |
//! | directions differ, sform code 1 (scanner) | sform | sform | sform; said |
//! | directions differ, other sform code | qform | sform | qform; said |
//! | sform sheared, qform its nearest rotation | qform | sform | sform |
//! | one form unusable | the other, mostly | the sform, or an error | the other; said |
//! | no code set | pixdim, LPS | pixdim, LAS | pixdim, LAS; said |
//!
//! Where the two forms name other patient directions for the voxel axes, no side can be vouched for, and pictures carry no
//! letters. (SimpleITK 2.5.7 and nibabel 5.4.2, run on such files; SimpleITK overlooks a mirror about a common origin.)

use crate::ct::geometry::Affine;
use crate::ct::read::Problem;
use crate::ct::volume::AffineSource;
use crate::limits::short;

/// Relative difference of voxel sizes that is more than a writer's rounding.
const SCALE: f64 = 0.01;
/// Degrees between directions that are more than a writer's rounding.
const TURN: f64 = 1.0;

/// The geometry taken.
pub(super) struct Settled {
    pub affine: Affine,
    pub source: AffineSource,
    pub remark: Option<String>,
}

/// Of an sform beside the sizes of pixdim, or why those are none.
pub(super) fn sform_alone(sform: Affine, pixdim: Result<[f64; 3], Problem>) -> Settled {
    let source = AffineSource::Sform;
    match pixdim {
        Err(why) => Settled { affine: sform, source, remark: Some(unusable("pixdim", "sform", &why)) },
        Ok(sizes) if !differ(sform.spacing(), sizes) => Settled { affine: sform, source, remark: None },
        Ok(sizes) => {
            let (affine, whose) = resized(sform, sform.spacing(), sizes);
            let (s, p) = (text(sform.spacing()), text(sizes));
            let remark =
                format!("Its sform and pixdim contradict each other in scale ({s} and {p} mm): {whose} is taken.");
            Settled { affine, source, remark: Some(remark) }
        }
    }
}

/// Of two usable forms; the qform's sizes are those of pixdim.
pub(super) fn settle(sform: Affine, sform_code: i32, qform: Affine) -> Settled {
    let (scaled, degrees) = (differ(sform.spacing(), qform.spacing()), sform.degrees_to(&qform));
    let turned = !(degrees <= TURN);
    if !scaled && !turned {
        return Settled { affine: sform, source: AffineSource::Sform, remark: None };
    }
    let mut said = Vec::new();
    let (mut affine, mut source, mut name) = (sform, AffineSource::Sform, "sform");
    if turned && sform_code != 1 {
        (affine, source, name) = (qform, AffineSource::Qform, "qform");
    }
    if turned {
        let (s, q) = (sform.axis_codes(), qform.axis_codes());
        let handed = sform.determinant() * qform.determinant() < 0.0;
        let kind = if handed { "handedness" } else { "direction" };
        said.push(format!("in {kind} ({s} and {q}, {degrees:.0} degrees apart; the {name}'s is taken)"));
    }
    if scaled {
        let (s, q) = (sform.spacing(), qform.spacing());
        let whose;
        (affine, whose) = resized(affine, s, q);
        said.push(format!("in scale ({} and {} mm; {whose} is taken)", text(s), text(q)));
    }
    let mut remark = format!("Its sform and qform contradict each other {}.", said.join(" and "));
    if sform.axis_codes() != qform.axis_codes() {
        source = AffineSource::Disputed;
        remark += " Left and right are not known, and letters are left out.";
    }
    Settled { affine, source, remark: Some(remark) }
}

/// The remark where one description cannot be used.
pub(super) fn unusable(this: &str, other: &str, why: &Problem) -> String {
    format!("Its {this} is unusable ({}): the {other} is taken.", why.what)
}

/// `affine` with the sizes that count, and whose they are.
fn resized(affine: Affine, sform: [f64; 3], pixdim: [f64; 3]) -> (Affine, &'static str) {
    let sizes = std::array::from_fn(|axis| if pixdim[axis] == 1.0 { sform[axis] } else { pixdim[axis] });
    let whose = if differ(sizes, sform) { "pixdim's" } else { "the sform's" };
    (affine.with_spacing(sizes), whose)
}

fn differ(a: [f64; 3], b: [f64; 3]) -> bool {
    a.iter().zip(b).any(|(a, b)| !((a / b - 1.0).abs() <= SCALE))
}

fn text(sizes: [f64; 3]) -> String {
    sizes.map(|v| short((v * 1e4).round() / 1e4)).join(" x ")
}
