//! From frames of many series to the slices of one volume, evenly stacked.

use std::collections::BTreeMap;
use std::path::Path;

use super::frame::Frame;
use super::{cross, dot};
use crate::error::{Error, Result};
use crate::table::first_of;

/// What writers round positions to, mm.
const POSITION_MM: f64 = 0.01;
/// Deviation of a slice from its even place, relative to the distance of slices, that is no slice missing or moved.
const UNEVEN: f64 = 0.01;
/// The same relative to the length of the stack.
const UNEVEN_OF_LENGTH: f64 = 0.001;
/// No rounding is larger than this share of the distance: a missing slice moves others by half of it.
const MOST_UNEVEN: f64 = 0.2;
/// Degrees off the normal that nobody tilts a gantry to.
const MOST_TILT: f64 = 45.0;

/// Files that are not used, by the reason.
pub(super) type PassedOver = BTreeMap<String, Vec<String>>;

/// The slices of one volume from the lowest along their normal, and how one follows another.
pub(super) struct Stack {
    pub frames: Vec<Frame>,
    /// From a slice to the next, LPS, mm.
    pub step: [f64; 3],
    pub remarks: Vec<String>,
}

/// The frames of the series with the most of them (of equals that with the lowest number), in its commonest plane. Others are
/// passed over.
pub(super) fn choose(frames: Vec<Frame>, passed: &mut PassedOver) -> Vec<Frame> {
    let by_series = divide(frames, |frame, first| frame.file.series == first.file.series);
    let (series, others) = largest(by_series);
    let Some(chosen) = series.first().map(|frame| frame.file.clone()) else { return series };
    let title = |frame: &Frame| match frame.file.description.as_str() {
        "" => frame.file.series.clone(),
        description => format!("{} ({description:?})", frame.file.series),
    };
    for frame in others.iter().flatten() {
        let reason = format!("images of series {}, which has fewer than {}", title(frame), chosen.series);
        pass(passed, reason, frame);
    }
    let (plane, others) = largest(divide(series, |frame, first| frame.plane.differs_from(&first.plane).is_none()));
    for frame in others.iter().flatten() {
        let what = frame.plane.differs_from(&plane[0].plane).unwrap_or("plane");
        pass(passed, format!("images of another {what} than most of the series"), frame);
    }
    plane
}

fn pass(passed: &mut PassedOver, reason: String, frame: &Frame) {
    let name = frame.file.name();
    let files = passed.entry(reason).or_default();
    if files.last() != Some(&name) {
        files.push(name);
    }
}

/// Groups of frames that belong with the first of their group.
fn divide(frames: Vec<Frame>, together: impl Fn(&Frame, &Frame) -> bool) -> Vec<Vec<Frame>> {
    let mut groups: Vec<Vec<Frame>> = Vec::new();
    for frame in frames {
        match groups.iter_mut().find(|group| together(&frame, &group[0])) {
            Some(group) => group.push(frame),
            None => groups.push(vec![frame]),
        }
    }
    groups
}

/// The group with the most frames and the others; of equals the one of the lowest series number.
fn largest(mut groups: Vec<Vec<Frame>>) -> (Vec<Frame>, Vec<Vec<Frame>>) {
    let rank = |group: &Vec<Frame>| {
        let file = &group[0].file;
        (std::cmp::Reverse(group.len()), file.number, file.series.clone(), file.acquisition.clone())
    };
    groups.sort_by_key(rank);
    let mut groups = groups.into_iter();
    (groups.next().unwrap_or_default(), groups.collect())
}

/// Sorts the frames along their normal and measures how they follow each other. Of a slice that is there twice with the same
/// pixels one is kept; where a series was scanned more than once, the acquisition with the most slices.
///
/// # Errors
/// Fewer than two slices; slices that are missing, at one place, or in no line.
pub(super) fn stack(
    folder: &Path,
    mut frames: Vec<Frame>,
    passed: &mut PassedOver,
    same: impl Fn(&Frame, &Frame) -> Result<bool>,
) -> Result<Stack> {
    let refuse = |problem: String, hint: &str| Error::file(folder, problem, hint);
    let few = |frames: &[Frame]| {
        let problem = format!("holds {} CT slices; a volume has two or more", frames.len());
        refuse(problem, "give the folder of one CT series")
    };
    let Some(first) = frames.first() else { return Err(few(&frames)) };
    let normal = cross(first.plane.right, first.plane.down);
    let height = |frame: &Frame| dot(frame.position, normal);
    let doubled = |a: &Frame, b: &Frame| height(b) - height(a) < POSITION_MM;
    frames.sort_by(|a, b| height(a).total_cmp(&height(b)));
    if frames.windows(2).any(|pair| doubled(&pair[0], &pair[1])) {
        let (most, others) = largest(divide(frames, |frame, first| frame.file.acquisition == first.file.acquisition));
        others.iter().flatten().for_each(|frame| pass(passed, "images of another acquisition".into(), frame));
        frames = Vec::with_capacity(most.len());
        for frame in most {
            match frames.last().filter(|last| doubled(last, &frame)) {
                None => frames.push(frame),
                Some(last) if same(last, &frame)? => pass(passed, "copies of another slice".into(), &frame),
                Some(last) => {
                    let problem = format!("{} and {} lie in one place", name(last), name(&frame));
                    return Err(refuse(problem, "keep one acquisition of each slice"));
                }
            }
        }
    }
    if frames.len() < 2 {
        return Err(few(&frames));
    }
    measure(folder, frames, normal)
}

fn measure(folder: &Path, frames: Vec<Frame>, normal: [f64; 3]) -> Result<Stack> {
    let count = (frames.len() - 1) as f64;
    let [first, last] = [&frames[0], &frames[frames.len() - 1]].map(|frame| frame.position);
    let step: [f64; 3] = std::array::from_fn(|a| (last[a] - first[a]) / count);
    let gap = dot(step, normal);
    // From its even place, along the normal and across it.
    let off = |i: usize| {
        let by: [f64; 3] = std::array::from_fn(|a| frames[i].position[a] - first[a] - i as f64 * step[a]);
        let along = dot(by, normal);
        [along.abs(), (dot(by, by) - along * along).max(0.0).sqrt()]
    };
    let deviations: Vec<[f64; 2]> = (0..frames.len()).map(off).collect();
    let exact = POSITION_MM + UNEVEN * gap;
    let decimals = frames.iter().map(|frame| frame.decimals).max().unwrap_or(0);
    let rounding = 10f64.powi(-decimals).max(UNEVEN_OF_LENGTH * gap * count);
    let most = exact.max(rounding.min(MOST_UNEVEN * gap));
    let refuse = |problem: String, hint: &str| Error::file(folder, problem, hint);
    if deviations.iter().any(|[along, _]| *along > most) {
        let gaps: Vec<f64> =
            frames.windows(2).map(|w| dot(w[1].position, normal) - dot(w[0].position, normal)).collect();
        let mut sorted = gaps.clone();
        sorted.sort_by(f64::total_cmp);
        let usual = sorted[sorted.len() / 2];
        let odd = |i: &usize| (gaps[*i] - usual).abs();
        let at = (0..gaps.len()).max_by(|a, b| odd(a).total_cmp(&odd(b))).unwrap_or(0);
        let (a, b, apart) = (name(&frames[at]), name(&frames[at + 1]), gaps[at]);
        let problem = format!(
            "{a} and {b} are {apart:.3} mm apart, the others {usual:.3}: slices are missing or spaced unevenly"
        );
        return Err(refuse(problem, "export the whole series again"));
    }
    if let Some(i) = deviations.iter().position(|[_, across]| *across > most) {
        let problem =
            format!("{} lies {:.2} mm beside the line that the others lie on", name(&frames[i]), deviations[i][1]);
        return Err(refuse(problem, "give slices of one scan, or resample them to a straight stack"));
    }
    let mut remarks = Vec::new();
    let uneven = deviations.iter().flatten().fold(0.0, |a: f64, &b| a.max(b));
    if uneven > exact {
        remarks.push(format!(
            "Its slices lie up to {uneven:.3} mm off even places, as rounded positions do; they are taken as {gap:.3} mm apart."
        ));
    }
    // A drift across the whole stack that no rounding explains is the gantry's tilt.
    let across: [f64; 3] = std::array::from_fn(|a| step[a] - gap * normal[a]);
    let aside = dot(across, across).sqrt();
    let step = if aside * count > most { step } else { normal.map(|n| n * gap) };
    let degrees = (aside / gap).atan().to_degrees();
    if degrees > MOST_TILT {
        let problem = format!("slices are stacked {degrees:.1} degrees off their normal: no CT's gantry tilts so far");
        return Err(refuse(problem, "check the positions of its slices"));
    }
    if degrees > 0.5 {
        remarks.push(format!("Its slices are stacked {degrees:.1} degrees off their normal, as a tilted gantry does."));
    }
    Ok(Stack { frames, step, remarks })
}

/// What a user finds a slice by.
fn name(frame: &Frame) -> String {
    let file = frame.file.name();
    if frame.file.frames > 1 { format!("frame {} of {file}", frame.index + 1) } else { file }
}

/// What was passed over, one sentence a reason.
pub(super) fn told(passed: &PassedOver) -> Vec<String> {
    passed.iter().map(|(reason, files)| format!("Passed over {} {reason}: {}.", files.len(), first_of(files))).collect()
}
