//! What the places of a volume's voxels tell, beside how many there are of each value: planes that hold nothing, and values that
//! change like a computed function.

use std::ops::Range;

/// Voxels at which the change of values is measured, about.
const SAMPLES: usize = 1 << 20;
/// What rounding to whole HU can bend a straight line by.
const ROUNDING: f64 = 2.0;

/// Planes across a voxel axis that hold one value everywhere, though planes before and behind them do not.
pub(super) struct Blank {
    pub axis: usize,
    /// Runs of them, by index.
    pub runs: Vec<Range<usize>>,
    /// The number of blank planes.
    pub count: usize,
}

/// The blank planes of each axis that has some.
pub(super) fn blank<T: PartialEq>(values: &[T], shape: [usize; 3]) -> Vec<Blank> {
    (0..3).filter_map(|axis| blank_across(values, shape, axis)).collect()
}

fn blank_across<T: PartialEq>(values: &[T], shape: [usize; 3], axis: usize) -> Option<Blank> {
    let is_blank: Vec<bool> = (0..shape[axis]).map(|at| is_constant(values, shape, axis, at)).collect();
    let inside = is_blank.iter().position(|blank| !blank)?..is_blank.iter().rposition(|blank| !blank)?;
    let mut runs: Vec<Range<usize>> = Vec::new();
    for at in inside.filter(|&at| is_blank[at]) {
        match runs.last_mut() {
            Some(run) if run.end == at => run.end += 1,
            _ => runs.push(at..at + 1),
        }
    }
    let count = runs.iter().map(Range::len).sum();
    (count > 0).then_some(Blank { axis, runs, count })
}

/// Whether the plane `at` along an axis holds one value; most planes show at once that they do not.
fn is_constant<T: PartialEq>(values: &[T], [nx, ny, nz]: [usize; 3], axis: usize, at: usize) -> bool {
    let row = |y: usize, z: usize| &values[nx * (y + ny * z)..][..nx];
    match axis {
        0 => (0..nz).all(|z| (0..ny).all(|y| row(y, z)[at] == values[at])),
        1 => (0..nz).all(|z| row(at, z).iter().all(|value| *value == row(at, 0)[0])),
        _ => (0..ny).all(|y| row(y, at).iter().all(|value| *value == row(0, at)[0])),
    }
}

/// How far values are from changing in straight lines: the mean second difference over the mean slope, of neighbours along each
/// axis that are not all equal. 1.7 for noise and 2 for sharp edges, near 0 for a computed ramp; `None` where nothing changes.
pub(super) fn bend<T>(values: &[T], shape: [usize; 3], hu: impl Fn(&T) -> f32) -> Option<f64> {
    let [nx, ny, _] = shape;
    let strides = [1, nx, nx * ny];
    let hu = |at: usize| f64::from(hu(&values[at]));
    let rows = values.len() / nx.max(1);
    let (mut slope, mut bend) = (0.0, 0.0);
    for row in (0..rows).step_by((values.len() / SAMPLES).max(1)) {
        for x in 0..nx {
            let (at, place) = (row * nx + x, [x, row % ny, row / ny]);
            let inner = (0..3).filter(|&a| place[a] > 0 && place[a] + 1 < shape[a]);
            for stride in inner.map(|a| strides[a]) {
                let [before, here, after] = [hu(at - stride), hu(at), hu(at + stride)];
                if before == here && here == after {
                    continue;
                }
                let bent = (before - 2.0 * here + after).abs();
                slope += (after - before).abs() / 2.0;
                bend += if bent > ROUNDING { bent } else { 0.0 };
            }
        }
    }
    (slope + bend > 0.0).then(|| bend / slope.max(f64::MIN_POSITIVE))
}
