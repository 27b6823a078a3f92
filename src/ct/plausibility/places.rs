//! What the places of a volume's voxels tell, beside how many there are of each value: planes that hold nothing, planes that repeat
//! others, and values that change like a computed function.

use std::collections::HashMap;
use std::ops::Range;

use rayon::prelude::*;

use super::Findings;
use crate::table::first_of;

/// Voxels at which the change of values is measured, about.
const SAMPLES: usize = 1 << 20;
/// What rounding to whole HU can bend a straight line by.
const ROUNDING: f64 = 2.0;
/// Different values up to which a plane is a drawing, whose repetition means nothing.
const DRAWN: usize = 16;
/// The share of a plane that has other values than the blank plane beside it, from which on the patient does not thin out there: the
/// rims of patients, of round fields of view and of turned volumes do.
const FULL: f64 = 0.25;

/// Planes across each voxel axis, as runs of their indices.
pub(super) type Runs = [Vec<Range<usize>>; 3];

/// The runs of planes that hold one value everywhere, where the planes beside them hold much else.
pub(super) fn blank<T: PartialEq + Sync>(values: &[T], shape: [usize; 3]) -> Runs {
    [0, 1, 2].map(|axis| {
        let planes = Planes { values, shape, axis };
        let is_full = |beside: usize, blank: usize| {
            let others = planes.of(beside).filter(|value| *value != planes.first(blank)).count();
            others as f64 > FULL * (values.len() / shape[axis]) as f64
        };
        let mut runs = planes.runs(|at| planes.of(at).all(|value| value == planes.first(at)));
        runs.retain(|run| {
            (run.start == 0 || is_full(run.start - 1, run.start))
                && (run.end == shape[axis] || is_full(run.end, run.end - 1))
        });
        runs
    })
}

/// The runs of planes that are the same as the plane before them, bit for bit, and no drawings.
pub(super) fn repeated<T: PartialEq + Sync>(values: &[T], shape: [usize; 3]) -> Runs {
    [0, 1, 2].map(|axis| {
        let planes = Planes { values, shape, axis };
        planes.runs(|at| at > 0 && planes.of(at).eq(planes.of(at - 1)) && !planes.is_drawn(at))
    })
}

/// The runs of two and more planes that are the same, bit for bit, as planes that follow each other likewise before them, and no
/// drawings. Planes that are the same as the plane before are left to [`repeated`], and those in another order are none: halves of
/// a symmetric body are.
pub(super) fn copied<T: PartialEq + Sync>(values: &[T], shape: [usize; 3]) -> Runs {
    [0, 1, 2].map(|axis| {
        let planes = Planes { values, shape, axis };
        let first = planes.firsts();
        let pair = |at: usize| Some((*first.get(at)?.as_ref()?, *first.get(at + 1)?.as_ref()?));
        let mut before = HashMap::new();
        (0..first.len()).filter_map(|at| Some((pair(at)?, at))).for_each(|(pair, at)| {
            before.entry(pair).or_insert(at);
        });
        let again = |at: usize| pair(at).is_some_and(|pair| before[&pair] < at);
        let is_new = |at: usize| at == 0 || first[at] != first[at - 1];
        runs(first.len(), |at| is_new(at) && (again(at) || at > 0 && again(at - 1)))
    })
}

/// Runs of planes as text.
fn listed(runs: &[Range<usize>]) -> String {
    let run = |run: &Range<usize>| match run.len() {
        1 => run.start.to_string(),
        _ => format!("{} to {}", run.start, run.end - 1),
    };
    first_of(runs.iter().map(run))
}

/// Blank planes, of `all` along an axis.
pub(super) fn tell_blank(axis: usize, all: usize, blank: Vec<Range<usize>>, found: &mut Findings) {
    let (ends, between): (Vec<_>, Vec<_>) = blank.into_iter().partition(|run| run.start == 0 || run.end == all);
    let count: usize = between.iter().map(Range::len).sum();
    found.doubt(count > 0, || {
        format!(
            "{count} of its {all} planes along voxel axis {axis}, counted from 0, hold one value and lie between others that do \
             not: {}; missing slices that were filled look like this",
            listed(&between)
        )
    });
    for end in ends.into_iter().filter(|end| end.len() as f64 > 0.3 * all as f64) {
        found.doubt(true, || {
            format!(
                "{} of its {all} planes along voxel axis {axis}, counted from 0, hold one value: {}; a volume that was cut off \
                 and filled looks like this",
                end.len(),
                listed(&[end])
            )
        });
    }
}

/// Planes that repeat the plane before, of `all` along an axis.
pub(super) fn tell_repeated(axis: usize, all: usize, repeated: &[Range<usize>], found: &mut Findings) {
    let count: usize = repeated.iter().map(Range::len).sum();
    found.doubt(count > 0 && count + 1 == all, || {
        format!(
            "all of its {all} planes along voxel axis {axis}, counted from 0, are the same; one slice that was repeated looks \
             like this"
        )
    });
    found.doubt(count > 0 && count + 1 < all, || {
        format!(
            "{count} of its {all} planes along voxel axis {axis}, counted from 0, repeat the plane before: {}; a volume enlarged \
             by repetition or a file put together wrongly looks like this",
            listed(repeated)
        )
    });
}

/// Planes that repeat planes further before, of `all` along an axis.
pub(super) fn tell_copied(axis: usize, all: usize, copied: &[Range<usize>], found: &mut Findings) {
    let count: usize = copied.iter().map(Range::len).sum();
    found.doubt(count > 0, || {
        format!(
            "{count} of its {all} planes along voxel axis {axis}, counted from 0, are the same as others before them: {}; series \
             that overlap, put together into one volume, look like this",
            listed(copied)
        )
    });
}

/// The planes of a volume across a voxel axis.
struct Planes<'a, T> {
    values: &'a [T],
    shape: [usize; 3],
    axis: usize,
}

impl<'a, T: PartialEq + Sync> Planes<'a, T> {
    /// The values of a plane, its middle first, where the patient is: most planes show what they are with the first of them.
    fn of(&self, at: usize) -> impl Iterator<Item = &'a T> {
        let ([nx, ny, nz], values) = (self.shape, self.values);
        let strides = [1, nx, nx * ny];
        let (inner, outer) = [(1, 2), (0, 2), (0, 1)][self.axis];
        let first = at * strides[self.axis];
        let [inner_count, outer_count] = [inner, outer].map(|axis| [nx, ny, nz][axis]);
        let line =
            move |o: usize| (0..inner_count).map(move |i| &values[first + i * strides[inner] + o * strides[outer]]);
        (outer_count / 2..outer_count).chain(0..outer_count / 2).flat_map(line)
    }

    /// The first value of a plane.
    fn first(&self, at: usize) -> &'a T {
        let [nx, ny, _] = self.shape;
        &self.values[at * [1, nx, nx * ny][self.axis]]
    }

    /// Whether a plane has no more than [`DRAWN`] different values.
    fn is_drawn(&self, at: usize) -> bool {
        let mut seen: Vec<&T> = Vec::new();
        self.of(at).all(|value| {
            if !seen.contains(&value) {
                seen.push(value);
            }
            seen.len() <= DRAWN
        })
    }

    /// For each plane the first one that is the same, often itself; `None` for drawings.
    fn firsts(&self) -> Vec<Option<usize>> {
        let drawn: Vec<bool> = (0..self.shape[self.axis]).into_par_iter().map(|at| self.is_drawn(at)).collect();
        let mut different: Vec<usize> = Vec::new();
        let first = |at: usize| {
            if drawn[at] {
                return None;
            }
            // Noise differs within the first few values.
            let same = different.par_iter().copied().find_any(|&before| self.of(before).eq(self.of(at)));
            if same.is_none() {
                different.push(at);
            }
            same.or(Some(at))
        };
        (0..drawn.len()).map(first).collect()
    }

    /// The runs of planes that are like this.
    fn runs(&self, is: impl Fn(usize) -> bool + Send + Sync) -> Vec<Range<usize>> {
        let found: Vec<bool> = (0..self.shape[self.axis]).into_par_iter().map(is).collect();
        runs(found.len(), |at| found[at])
    }
}

/// The runs among the first `count` numbers that are like this.
fn runs(count: usize, is: impl Fn(usize) -> bool) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for at in (0..count).filter(|&at| is(at)) {
        match runs.last_mut() {
            Some(run) if run.end == at => run.end += 1,
            _ => runs.push(at..at + 1),
        }
    }
    runs
}

/// How values change from neighbour to neighbour along the axes, where they are not all equal.
pub(super) struct Change {
    /// The mean second difference over the mean slope: 1.7 for noise and 2 for sharp edges, near 0 for a computed ramp.
    pub bend: f64,
    /// The mean slope over its root mean square along each axis, weighted by the axes' slopes: 1 where all slopes are alike, less where
    /// edges stand in flat surroundings, however smoothed.
    pub evenness: f64,
}

/// Sums over the neighbours along one axis.
#[derive(Clone, Copy, Default)]
struct Sums {
    count: f64,
    slope: f64,
    squares: f64,
    bend: f64,
}

/// How values change; `None` where nothing does.
pub(super) fn change<T>(values: &[T], shape: [usize; 3], hu: impl Fn(&T) -> f32) -> Option<Change> {
    let [nx, ny, _] = shape;
    let strides = [1, nx, nx * ny];
    let hu = |at: usize| f64::from(hu(&values[at]));
    let rows = values.len() / nx.max(1);
    let mut sums = [Sums::default(); 3];
    for row in (0..rows).step_by((values.len() / SAMPLES).max(1)) {
        for x in 0..nx {
            let (at, place) = (row * nx + x, [x, row % ny, row / ny]);
            for axis in (0..3).filter(|&a| place[a] > 0 && place[a] + 1 < shape[a]) {
                let [before, here, after] = [hu(at - strides[axis]), hu(at), hu(at + strides[axis])];
                if before == here && here == after {
                    continue;
                }
                let (slope, bent) = ((after - before).abs() / 2.0, (before - 2.0 * here + after).abs());
                let sums = &mut sums[axis];
                sums.count += 1.0;
                sums.slope += slope;
                sums.squares += slope * slope;
                sums.bend += if bent > ROUNDING { bent } else { 0.0 };
            }
        }
    }
    let total = |of: fn(&Sums) -> f64| sums.iter().map(of).sum::<f64>();
    let (slope, bend) = (total(|sums| sums.slope), total(|sums| sums.bend));
    let even = total(|sums| sums.slope * sums.slope / (sums.count * sums.squares).sqrt().max(f64::MIN_POSITIVE));
    let slope_or_least = slope.max(f64::MIN_POSITIVE);
    (slope + bend > 0.0).then(|| Change { bend: bend / slope_or_least, evenness: even / slope_or_least })
}
