//! Bytes that the launches of a depthwise decomposed convolution move between memory and the multiprocessors, from their parameters.
//!
//! A launch is charged every tensor that it reads or writes, once: halos, and what a block reads again, are taken to come from the
//! caches. The naive kernels walk the output of one branch after the other, so they are charged for x three times. A strided
//! convolution is charged for the whole of x, of which it reads at most that.

use super::{DType, DecompConvParams, NormKind, Variant};

/// What one launch moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// What it computes.
    pub launch: &'static str,
    /// Bytes.
    pub read: u64,
    /// Bytes.
    pub written: u64,
}

/// All bytes of a list of launches.
pub fn total(launches: &[Traffic]) -> u64 {
    launches.iter().map(|t| t.read + t.written).sum()
}

fn launch(launch: &'static str, read: u64, written: u64) -> Traffic {
    Traffic { launch, read, written }
}

/// Sizes in bytes of what the launches share.
struct Sizes {
    x: u64,
    y: u64,
    /// Three branches in f32.
    z: u64,
    /// A vector of one f32 a channel.
    vector: u64,
    weights: u64,
}

impl DecompConvParams {
    fn sizes(&self, dtype: DType) -> Sizes {
        let voxels = |size: [u32; 3]| self.batch * size.iter().map(|&d| d as u64).product::<u64>();
        let (inputs, outputs) = (self.in_channels as u64, self.out_channels as u64);
        let y = voxels(self.out_size) * outputs;
        Sizes {
            x: voxels(self.in_size) * inputs * dtype.size() as u64,
            y: y * dtype.size() as u64,
            z: 3 * y * 4,
            vector: outputs * 4,
            weights: 3 * outputs * self.kernel as u64 * 4,
        }
    }

    /// Bytes of `values` f64 sums of every block of a summing pass.
    fn partial(&self, values: u64) -> u64 {
        self.blocks as u64 * self.out_channels as u64 * values * 8
    }

    /// What a forward pass of these planned parameters moves. `resident`: the launches run by groups of channels that stay in
    /// the L2 cache from one pass to the next ([`DecompConvParams::groups`]).
    pub fn forward_traffic(&self, variant: Variant, dtype: DType, resident: bool) -> Vec<Traffic> {
        let s = self.sizes(dtype);
        let (stored, train) = (variant == Variant::Naive, self.norm == NormKind::Train as u32);
        let mut launches = Vec::new();
        if stored {
            launches.push(launch("branches", 3 * s.x + s.weights, s.z));
        }
        if train {
            let read = if stored { s.z } else { s.x + s.weights };
            launches.push(launch("statistics", read, self.partial(9)));
        }
        launches.push(self.finish(9 * train as u64, 3 * s.vector * 5, 10 * s.vector));
        let read = match (stored, train && resident) {
            (true, _) => s.z,
            (false, true) => s.weights,
            (false, false) => s.x + s.weights,
        };
        launches.push(launch("write y", read + 4 * s.vector, s.y));
        launches
    }

    /// What a backward pass moves that gives every gradient; like [`DecompConvParams::forward_traffic`].
    pub fn backward_traffic(&self, variant: Variant, dtype: DType, resident: bool) -> Vec<Traffic> {
        let s = self.sizes(dtype);
        let (stored, train) = (variant == Variant::Naive, self.norm == NormKind::Train as u32);
        let branches = if stored { s.z } else { s.x + s.weights };
        let mut launches = Vec::new();
        if self.gelu == 1 {
            launches.push(launch("activation", branches + s.y + 4 * s.vector, s.y));
        }
        let values = if stored { 4 } else { 3 * (2 + 3 * self.kernel as u64) };
        launches.push(launch("sums", branches + s.y + 3 * s.vector, self.partial(values)));
        launches.push(self.finish(values, 9 * s.vector, s.weights * !stored as u64 + 18 * s.vector));
        if stored {
            launches.push(launch("branch gradients", s.z + s.y + 12 * s.vector, s.z));
            launches.push(launch("weight gradients", 3 * s.x + s.z, s.weights));
            launches.push(launch("input gradient", s.z + s.weights, s.x));
        } else {
            let again = if resident { 0 } else { s.y + if train { s.x } else { 0 } };
            launches.push(launch("input gradient", again + s.weights + 12 * s.vector, s.x));
        }
        launches
    }

    fn finish(&self, values: u64, read: u64, written: u64) -> Traffic {
        launch("finish", self.partial(values) + read, written)
    }

    /// What a framework moves for the same, forward and backward, when every operation is a pass of its own in x's type:
    /// convolution, norm (statistics, then values) and sum; their gradients, and the sum of the three gradients of x. Vectors
    /// are left out, an activation and a convolution's repeated reads too.
    pub fn framework_traffic(&self, dtype: DType) -> [Vec<Traffic>; 2] {
        let Sizes { x, y, .. } = self.sizes(dtype);
        let forward = vec![
            launch("3 convolutions", 3 * x, 3 * y),
            launch("3 statistics", 3 * y, 0),
            launch("3 norms", 3 * y, 3 * y),
            launch("2 additions", 4 * y, 2 * y),
        ];
        let backward = vec![
            launch("3 norms, sums", 6 * y, 0),
            launch("3 norms, gradients", 6 * y, 3 * y),
            launch("3 biases", 3 * y, 0),
            launch("3 weights", 3 * x + 3 * y, 0),
            launch("3 inputs", 3 * y, 3 * x),
            launch("2 additions", 4 * x, 2 * x),
        ];
        [forward, backward]
    }
}
