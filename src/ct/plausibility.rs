//! Whether a volume can be a chest CT in Hounsfield units: one check, used wherever volumes come in.
//!
//! Two levels. [`Level::Refuse`]: no chest CT has this. [`Level::Doubt`]: unusual or typical of a known mistake, and possible.
//! Nothing is mended: a finding names what was measured, and where a mistake is known to look like this, the mistake and the
//! slope and intercept that undo it, as a possibility.
//!
//! # Limits, and why
//! | measured | doubt | refuse | reason |
//! |---|---|---|---|
//! | longest extent | < 100 mm, > 1200 mm | < 10 mm, > 3000 mm | chests are 250 to 400 mm, whole bodies 2 m; millimetres read as micrometres give 0.4 mm, as metres 400 m |
//! | shortest extent | < 60 mm | < 0.1 mm | a slab or a single slice shows no lung; no slice is thinner than 0.1 mm |
//! | distance of the first voxel from the origin | | > 100 m | no scanner's table reaches there |
//! | slope | negative | | CT's stored values rise with HU |
//! | voxel edge | < 0.1 mm, > 60 mm | | micro-CT; hardly a grid |
//! | voxels above 3071 HU | > 0.5 % | > 5 % | 3071 is the top of 12-bit CT; metal is far less than that |
//! | spread of the middle 99.9 % | < 200 HU | < 30 HU | air and tissue differ by 1000 HU; noise alone is about 20 HU |
//! | air (below -300 HU) | < 0.1 % | | lungs and surroundings are air; crops of the mediastinum are not |
//! | tissue (-300 HU and above) | < 0.5 % | < 0.01 % | vessels are 5 % of a lung |
//! | soft tissue (-200 to 200 HU) | < 0.5 % | | as before |
//! | soft tissue, of all tissue | < 40 % | | 80 % and more of a chest, the rest is bone; MR images spread, whatever their air is scaled to |
//! | commonest 25 HU of air | above -750 HU | | air outside the patient is -1000 HU, lungs are -900 to -800 |
//! | exactly 0 HU | > 20 % | | a background set to 0; water and tissue are noisy |
//! | below -1150 HU, the commonest value aside | > 2 % | | no substance is there, and padding is one value |
//! | mean step between neighbours over mean deviation | > 1 | | 1.4 for noise, 0.1 to 0.3 for CT |
//! | tissue that is exactly at the largest of more than 16 values, where that is below 1000 HU | > 0.5 % | | bone was cut off at the top of a window: 10 % of a chest's tissue is above 200 HU, 3 % above 400, 0.5 % above 800 |
//! | mean second difference over mean slope of neighbours, where the mean slope is over 0.7 of its root mean square | < 0.2 | | 1.5 for CT, 2 for sharp edges, 0 for a computed ramp; less than 0.2 for CT smoothed by 3 voxels or enlarged eight times too, whose slopes are uneven: 0.5 to 0.66, and 0.73 and more for computed functions |
//! | planes that hold one value, between planes that hold others in a quarter of their voxels | 1 or more | | missing slices that were filled; where the patient or the field of view thins out, planes of air alone are no surprise |
//! | the same at an end, of the planes of an axis | > 30 % | | padding is less: a turned volume's corners leave 21 % at each end, a patient in a wide field of view 28 % of clipped air |
//! | planes of more than 16 values that are the same as the plane before | 1 or more | | noise never repeats |
//! | the same as planes further before, in their order | 2 or more | | as before; parts of two series that overlap |
//! | different whole numbers | <= 16 | <= 128 small ones | a label mask |
//!
//! Shares are of the voxels that are no padding (below -1024 HU), except for the row that is about those. Counts are of whole HU,
//! so the findings are the same on every machine and for any number of threads.

mod places;

use rayon::prelude::*;

use super::image::{GrayImage, percentiles};
use super::physics::PADDING_BELOW_HU;
use super::view::{Beam, View};
use super::volume::{CtVolume, HuSource, Voxels};
use crate::error::{Error, Result};
use crate::limits::{rounded, short};
use places::Change;

/// How much a finding weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Said, and the work goes on.
    Doubt,
    /// Left out, unless the user insists.
    Refuse,
}

/// One thing about a volume that does not look like a chest CT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The finding's weight.
    pub level: Level,
    /// A clause without a full stop: what was measured and, where one is known, the mistake that looks like this.
    pub text: String,
}

/// All findings about a volume, the weightiest first; empty for a chest CT.
pub fn check(volume: &CtVolume, source: HuSource) -> Vec<Finding> {
    let mut found = Findings(Vec::new());
    geometry(volume, &mut found);
    let (slope, _) = volume.hu_scale(source);
    found.doubt(slope < 0.0, || {
        format!(
            "its HU fall where its stored values rise (a slope of {}); inverted values look like this",
            short(slope)
        )
    });
    content(&Counts::of(volume, source), &mut found);
    if found.0.iter().all(|finding| finding.level == Level::Doubt) {
        places(volume, source, &mut found);
    }
    found.0.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    found.0
}

/// What is said of a volume that is taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The findings as whole sentences.
    pub warnings: Vec<String>,
    /// Whether it would have been refused and was taken all the same.
    pub forced: bool,
}

/// The findings about a volume, or an error where it cannot be a chest CT; with `force` it is taken all the same.
///
/// # Errors
/// Findings of [`Level::Refuse`], unless `force` is set.
pub fn examine(volume: &CtVolume, source: HuSource, force: bool) -> Result<Verdict> {
    let found = check(volume, source);
    let refused: Vec<&str> =
        found.iter().filter(|finding| finding.level == Level::Refuse).map(|finding| finding.text.as_str()).collect();
    if !force && !refused.is_empty() {
        let problem = format!("this is no chest CT in HU: {}", refused.join("; "));
        return Err(Error::argument("plausibility", problem, "correct the file, or go on with --force"));
    }
    let forced = !refused.is_empty();
    Ok(Verdict { warnings: found.iter().map(|finding| sentence(&finding.text)).collect(), forced })
}

/// A clause with a capital letter.
fn sentence(clause: &str) -> String {
    let mut letters = clause.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).chain(['.']).collect())
}

/// Whether a radiograph shows nothing: all of its pixels are equal.
///
/// # Errors
/// An image without contrast, unless `force` is set.
pub fn examine_image(image: &GrayImage, force: bool) -> Result<Option<String>> {
    let (low, high) = image.limits();
    if high > low {
        return Ok(None);
    }
    let text = format!(
        "the radiograph is {} everywhere: nothing of the volume reaches the detector, or it has no content",
        short(low)
    );
    if force {
        Ok(Some(text))
    } else {
        Err(Error::argument("plausibility", text, "check the view, or go on with --force"))
    }
}

/// Fewer grey values than this make no radiograph.
const GREYS: usize = 9;
/// Percentiles between which a picture must have contrast; letters and markers lie beyond them.
const MIDDLE: [f32; 2] = [0.5, 99.5];

/// Whether a picture can be a radiograph: what is said of it where it is taken all the same.
///
/// # Errors
/// A picture without contrast (all pixels equal, or all but 1 % within one of 256 steps from the darkest to the brightest), or
/// with no more than 8 different values, unless `force` is set.
pub fn examine_picture(image: &GrayImage, force: bool) -> Result<Option<String>> {
    let ((low, high), [dark, bright]) = (image.limits(), percentiles(image.pixels.clone(), MIDDLE).unwrap_or_default());
    let text = if low == high {
        format!("all of its pixels are {}", short(low))
    } else if bright - dark <= (high - low) / 256.0 {
        format!(
            "all but 1 % of its pixels are within one of 256 greys of each other ({} to {} of {} to {})",
            short(dark),
            short(bright),
            short(low),
            short(high)
        )
    } else if let Some(count) = few_values(&image.pixels) {
        format!("it has only {count} different greys, as a mask or a drawing has")
    } else {
        return Ok(None);
    };
    if force {
        return Ok(Some(sentence(&text)));
    }
    let problem = format!("this is no radiograph: {text}");
    Err(Error::argument("plausibility", problem, "leave it out, or go on with --force"))
}

/// How many different values there are, if that is few.
fn few_values(pixels: &[f32]) -> Option<usize> {
    let mut seen: Vec<f32> = Vec::with_capacity(GREYS);
    for &value in pixels {
        if !seen.contains(&value) {
            seen.push(value);
        }
        if seen.len() >= GREYS {
            return None;
        }
    }
    Some(seen.len())
}

/// What stands where the patient lies: the source of a cone beam, or the middle of its detector, inside the volume.
pub fn examine_view(view: &View, volume: &CtVolume) -> Option<String> {
    let Beam::Cone { source } = view.beam else { return None };
    let inside = |point: [f64; 3]| {
        let voxel = volume.affine.world_to_voxel(point);
        (0..3).all(|a| voxel[a] > -0.5 && voxel[a] < volume.shape[a] as f64 - 0.5)
    };
    let [rows, columns] = view.size.map(|n| (n as f64 - 1.0) / 2.0);
    let middle = std::array::from_fn(|a| view.origin[a] + rows * view.row[a] + columns * view.column[a]);
    if inside(source) {
        return Some(sentence(
            "the X-ray source lies inside the volume, and what is behind it is not shown: a larger --sod moves it out",
        ));
    }
    inside(middle).then(|| {
        sentence("the detector lies inside the volume, and what is behind it is not shown: a larger --sdd moves it out")
    })
}

struct Findings(Vec<Finding>);

impl Findings {
    fn doubt(&mut self, when: bool, text: impl FnOnce() -> String) {
        if when {
            self.0.push(Finding { level: Level::Doubt, text: text() });
        }
    }

    fn refuse(&mut self, when: bool, text: impl FnOnce() -> String) -> bool {
        if when {
            self.0.push(Finding { level: Level::Refuse, text: text() });
        }
        when
    }
}

fn geometry(volume: &CtVolume, found: &mut Findings) {
    let spacing = volume.spacing();
    let extent: [f64; 3] = std::array::from_fn(|a| spacing[a] * volume.shape[a] as f64);
    let (longest, shortest) = (extent.into_iter().fold(0.0, f64::max), extent.into_iter().fold(f64::MAX, f64::min));
    let all = extent.map(rounded).join(" x ");
    let farthest = volume.affine.voxel_to_world([0.0; 3]).into_iter().fold(0.0, |far: f64, mm| far.max(mm.abs()));
    found.refuse(!(farthest <= 1e5), || format!("its first voxel lies {farthest:.3e} mm from the origin"));
    let unit = |factor: &str| {
        format!("voxel sizes in another unit than the file says would explain a factor of {factor}, if one is at work")
    };
    if !found.refuse(longest < 10.0, || format!("it measures {all} mm; {}", unit("10 or 1000")))
        && !found.refuse(longest > 3000.0, || format!("it measures {all} mm; {}", unit("10 or 1000")))
        && !found.refuse(shortest < 0.1, || format!("it measures {all} mm; a voxel size is wrong"))
    {
        found.doubt(longest < 100.0, || format!("it measures only {all} mm, less than a chest; {}", unit("10")));
        found.doubt(longest > 1200.0, || format!("it measures {all} mm, more than a chest; {}", unit("10")));
        found.doubt(longest >= 100.0 && shortest < 60.0, || format!("it measures {all} mm, too thin for a chest"));
    }
    let (finest, coarsest) = (spacing.into_iter().fold(f64::MAX, f64::min), spacing.into_iter().fold(0.0, f64::max));
    let edges = || spacing.map(rounded).join(" x ");
    found.doubt(longest >= 10.0 && finest < 0.1, || format!("its voxels are {} mm, finer than CT's", edges()));
    found.doubt(longest <= 3000.0 && coarsest > 60.0, || format!("its voxels are {} mm, coarser than CT's", edges()));
}

fn content(counts: &Counts, found: &mut Findings) {
    if found.refuse(counts.non_finite > 0, || format!("{} of its voxels are no finite HU", counts.non_finite)) {
        return;
    }
    let (low, high) = (counts.low, counts.high);
    let range = || format!("its values are {} to {}", rounded(low), rounded(high));
    if found.refuse(low == high, || format!("all of its voxels are {}", rounded(low))) {
        return;
    }
    if counts.is_mask() {
        let kinds = counts.kinds();
        found.refuse(true, || {
            format!(
                "its values are {kinds} whole numbers from {low} to {high}, as a label mask has, or an 8-bit picture"
            )
        });
        return;
    }
    // HU that 12 bits do not hold.
    let above = counts.share(3072, Counts::MOST + 1);
    let shifted = if counts.below(4000) == 0 {
        "; it looks like HU + 8192, as CT-RATE's original release stores: its metadata table has the intercept (HU source \
         csv), -8192"
    } else if counts.below(15000) > 0 && above > 0.05 {
        "; padding that was written as a negative number and read as an unsigned one looks like this"
    } else {
        "; a slope or intercept that was applied wrongly looks like this"
    };
    if found
        .refuse(above > 0.05, || format!("{} of its voxels are above 3071 HU ({}){shifted}", percent(above), range()))
    {
        return;
    }
    found.doubt(above > 0.005, || format!("{} of its voxels are above 3071 HU", percent(above)));

    let measured = (counts.total - counts.below(PADDING)) as f64;
    let misscaling = misscaled(counts);
    if found.refuse(measured == 0.0, || format!("all of its voxels are padding, below -1024 HU ({})", range())) {
        return;
    }
    let middle = counts.percentile(0.9995) - counts.percentile(0.0005);
    let scaled = if low >= -1.001 && high <= 1.001 {
        format!(
            "; values scaled to {} look like this (slope and intercept 2000 and -1000, or 1000 and 0, undo it where 1 stands for 1000 HU)",
            if low < -0.001 { "-1 to 1" } else { "0 to 1" }
        )
    } else {
        "; normalised values look like this".into()
    };
    if found.refuse(middle < 30, || {
        if high - low < 30.0 {
            format!("{}, and air and tissue differ by 1000 HU{scaled}", range())
        } else {
            format!("all but a thousandth of its voxels are within {middle} HU of each other")
        }
    }) {
        return;
    }
    let of_measured = |below: i32, above: i32| counts.between(below, above) as f64 / measured;
    let (air, tissue) = (of_measured(PADDING, -300), of_measured(-300, Counts::MOST + 1));
    let soft = of_measured(-200, 201);
    if let Some(text) = misscaling {
        found.doubt(true, || text);
    }
    let all = if tissue == 0.0 { "all".into() } else { format!("all but {}", percent(tissue)) };
    if found.refuse(tissue < 0.0001, || format!("{all} of it is air, below -300 HU")) {
        return;
    }
    found.doubt(air < 0.001, || {
        format!("it has no air: {} of it is below -300 HU ({}){}", percent(air), range(), no_air(counts))
    });
    let (emptiest, zeros) = (counts.commonest_air(), counts.share(0, 1));
    found.doubt(air >= 0.001 && emptiest > -750, || {
        format!(
            "its commonest air is at {emptiest} HU, and air is at -1000, lung at -850; a wrong slope or intercept looks like \
             this, and so do other images than CT"
        )
    });
    found.doubt(zeros > 0.2, || {
        format!("{} of its voxels are exactly 0 HU; a background or padding set to 0 looks like this", percent(zeros))
    });
    found.doubt(counts.kinds() <= 16, || format!("it has only {} different values, as a mask has", counts.kinds()));
    found.doubt(counts.roughness() > 1.0, || "its voxels have nothing to do with their neighbours, as noise".into());
    found.doubt(soft < 0.005, || format!("it has no soft tissue: {} of it is between -200 and 200 HU", percent(soft)));
    found.doubt(soft >= 0.005 && soft < 0.4 * tissue, || {
        format!(
            "only {} of what is more than air in it is soft tissue, -200 to 200 HU, and most of a chest is; MR images and a wrong \
             slope look like this",
            percent(soft / tissue)
        )
    });
    found.doubt(air >= 0.001 && tissue < 0.005, || format!("only {} of it is more than air", percent(tissue)));
    let top = (high.round() as i32).clamp(Counts::LEAST, Counts::MOST);
    let at_top = of_measured(top, Counts::MOST + 1) / tissue;
    found.doubt(high < 1000.0 && at_top > 0.005 && counts.kinds() > 16, || {
        format!(
            "{} of what is more than air in it is exactly at its largest value, {}; HU that were cut off at a window look like \
             this, and the bone above is lost",
            percent(at_top),
            rounded(high)
        )
    });
    found.doubt(middle < 200 && air >= 0.001, || {
        format!("nearly all of its voxels are within {middle} HU of each other")
    });
}

/// What the places of voxels tell.
fn places(volume: &CtVolume, source: HuSource, found: &mut Findings) {
    let ((slope, intercept), shape) = (volume.hu_scale(source), volume.shape);
    let (blank, repeated, copied, change) = match &volume.voxels {
        Voxels::I16(v) => (
            places::blank(v, shape),
            places::repeated(v, shape),
            places::copied(v, shape),
            places::change(v, shape, |&v| slope * f32::from(v) + intercept),
        ),
        Voxels::F32(v) => (
            places::blank(v, shape),
            places::repeated(v, shape),
            places::copied(v, shape),
            places::change(v, shape, |&v| slope * v + intercept),
        ),
    };
    for (axis, ((blank, repeated), copied)) in blank.into_iter().zip(repeated).zip(copied).enumerate() {
        places::tell_blank(axis, shape[axis], blank, found);
        places::tell_repeated(axis, shape[axis], &repeated, found);
        places::tell_copied(axis, shape[axis], &copied, found);
    }
    if let Some(Change { bend, .. }) = change.filter(|change| change.bend < 0.2 && change.evenness > 0.7) {
        found.doubt(true, || {
            format!(
                "its values change in straight lines from voxel to voxel, without texture or noise; a computed ramp looks like \
                 this (second differences are {} of the slope, 1.5 in CT)",
                rounded(bend)
            )
        });
    }
}

/// What a volume without air looks like, where that is a known mistake.
fn no_air(counts: &Counts) -> &'static str {
    if counts.low >= 0.0 && counts.high <= 255.0 {
        "; a window of HU stored in 8 bits looks like this, and what lay outside is lost"
    } else if counts.share(-60, 330) > 0.02 && counts.share(820, 1330) > 0.02 && counts.below(-100) == 0 {
        "; it looks like HU + 1024 or HU + 1000, stored values without the rescale intercept (slope and intercept 1 and -1024, or \
         1 and -1000, undo it; the metadata table of a data set has them: HU source csv)"
    } else {
        "; MR images, windowed copies and crops inside the body look like this"
    }
}

/// Values that only a wrong scaling gives: below air, and more of them than the one that is padding.
fn misscaled(counts: &Counts) -> Option<String> {
    let to = -1150;
    let commonest = (Counts::LEAST..to).map(|hu| counts.between(hu, hu + 1)).max().unwrap_or(0);
    let share = (counts.below(to) - commonest) as f64 / counts.total as f64;
    if share <= 0.02 {
        return None;
    }
    let intercept_twice = counts.share(-200, 201) < 0.01 && counts.share(-1150, -850) > 0.02;
    let mistake = if intercept_twice {
        "an intercept of -1024 that was applied twice looks like this (slope and intercept 1 and 1024 undo it once)"
    } else {
        "a slope or intercept that was applied twice looks like this"
    };
    Some(format!("{} of its voxels are below {to} HU, where no substance is; {mistake}", percent(share)))
}

fn percent(share: f64) -> String {
    format!("{} %", rounded(100.0 * share))
}

const PADDING: i32 = PADDING_BELOW_HU as i32;

/// How many voxels have each whole HU.
struct Counts {
    /// Of -LEAST to MOST HU; values beyond stand in the first and the last.
    bins: Vec<u64>,
    total: u64,
    non_finite: u64,
    /// Smallest and largest value.
    low: f64,
    high: f64,
    /// Whether every value is a whole number.
    whole: bool,
    /// Sum of the steps from each voxel to the next in memory, in whole HU.
    steps: u64,
}

impl Counts {
    const LEAST: i32 = -34_000;
    const MOST: i32 = 70_000;
    /// Voxels a thread counts before its counts are added to the others'.
    const CHUNK: usize = 1 << 22;

    fn of(volume: &CtVolume, source: HuSource) -> Self {
        let (slope, intercept) = volume.hu_scale(source);
        match &volume.voxels {
            Voxels::I16(v) => Self::count(v, |&v| slope * f32::from(v) + intercept),
            Voxels::F32(v) => Self::count(v, |&v| slope * v + intercept),
        }
    }

    fn count<T: Sync>(values: &[T], hu: impl Fn(&T) -> f32 + Sync) -> Self {
        let none = || Counts {
            bins: vec![0; (Self::MOST - Self::LEAST + 1) as usize],
            total: 0,
            non_finite: 0,
            low: f64::INFINITY,
            high: f64::NEG_INFINITY,
            whole: true,
            steps: 0,
        };
        let chunk = |values: &[T]| {
            let (mut counts, mut low, mut high) = (none(), f32::INFINITY, f32::NEG_INFINITY);
            let mut last = None;
            for value in values {
                let hu = hu(value);
                if !hu.is_finite() {
                    counts.non_finite += 1;
                    continue;
                }
                (low, high) = (low.min(hu), high.max(hu));
                let bin = hu.round().clamp(Self::LEAST as f32, Self::MOST as f32);
                counts.whole &= bin == hu || !(Self::LEAST as f32..=Self::MOST as f32).contains(&hu);
                counts.bins[(bin as i32 - Self::LEAST) as usize] += 1;
                counts.steps += last.map_or(0, |last: i32| u64::from(last.abs_diff(bin as i32)));
                last = Some(bin as i32);
            }
            (counts.low, counts.high) = (f64::from(low), f64::from(high));
            counts.total = values.len() as u64 - counts.non_finite;
            counts
        };
        values.par_chunks(Self::CHUNK).map(chunk).reduce(none, |mut a, b| {
            a.bins.iter_mut().zip(&b.bins).for_each(|(a, b)| *a += b);
            (a.low, a.high) = (a.low.min(b.low), a.high.max(b.high));
            a.steps += b.steps;
            (a.total, a.non_finite, a.whole) = (a.total + b.total, a.non_finite + b.non_finite, a.whole && b.whole);
            a
        })
    }

    /// Voxels from `first` HU up to `end`, which is not among them.
    fn between(&self, first: i32, end: i32) -> u64 {
        self.bins[(first - Self::LEAST) as usize..(end - Self::LEAST) as usize].iter().sum()
    }

    /// Their share of all voxels.
    fn share(&self, first: i32, end: i32) -> f64 {
        self.between(first, end) as f64 / self.total as f64
    }

    fn below(&self, end: i32) -> u64 {
        self.between(Self::LEAST, end)
    }

    /// The HU that this share of the voxels, padding aside, does not exceed.
    fn percentile(&self, share: f64) -> i32 {
        let padding = self.below(PADDING);
        let mut left = (share * (self.total - padding) as f64) as u64;
        let measured = PADDING..=Self::MOST;
        for hu in measured {
            let here = self.between(hu, hu + 1);
            if left < here {
                return hu;
            }
            left -= here;
        }
        Self::MOST
    }

    /// The middle of the 25 HU of air that hold most voxels.
    fn commonest_air(&self) -> i32 {
        const WIDTH: i32 = 25;
        let from = (PADDING..-300 - WIDTH).max_by_key(|&hu| (self.between(hu, hu + WIDTH), -hu));
        from.unwrap_or(PADDING) + WIDTH / 2
    }

    /// The mean step between neighbours over the mean deviation from the median: 1.4 where neighbours have nothing in common.
    fn roughness(&self) -> f64 {
        let mut below = 0;
        let bins = || (Self::LEAST..).zip(&self.bins);
        let median = bins().find(|(_, count)| {
            below += *count;
            2 * below >= self.total
        });
        let median = median.map_or(0, |(hu, _)| hu);
        let deviation: u64 = bins().map(|(hu, count)| u64::from(hu.abs_diff(median)) * count).sum();
        self.steps as f64 / deviation.max(1) as f64
    }

    /// Different whole numbers among the values.
    fn kinds(&self) -> usize {
        self.bins.iter().filter(|&&count| count > 0).count()
    }

    /// Small whole numbers, and few different ones: labels. TotalSegmentator has 117 of them.
    fn is_mask(&self) -> bool {
        self.whole && self.low >= -1.0 && self.high <= 255.0 && self.kinds() <= 128
    }
}
