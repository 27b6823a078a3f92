//! Launches: blocks over threads, warps in turn, lanes by lowest program counter first.

mod block;
mod cluster;
mod grid;
mod report;
mod schedule;
mod special;

pub use cluster::Cluster;
pub use report::{Entries, LANES, LAUNCHES, NANOS, WARPS, place};
pub use schedule::Dice;

use crate::lower::Kernel;
use crate::ptx::Module;
use crate::sanitize::Sanitize;
use std::sync::Arc;

pub struct Launch {
    pub kernel: Arc<Kernel>,
    pub module: Arc<Module>,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
    pub params: Vec<u8>,
    pub cooperative: bool,
    /// Blocks of a cluster in each dimension; a launch without clusters has clusters of one block.
    pub cluster: [u32; 3],
    /// Whether the launch or the kernel says how large its clusters are.
    pub explicit_cluster: bool,
}

impl Launch {
    /// Blocks of the grid.
    pub fn blocks(&self) -> u64 {
        self.grid.iter().map(|n| *n as u64).product()
    }
    /// Blocks of a cluster.
    pub fn cluster_blocks(&self) -> u32 {
        self.cluster.iter().product()
    }
    /// Clusters of the grid in each dimension.
    pub fn clusters_of_grid(&self) -> [u32; 3] {
        [0, 1, 2].map(|axis| self.grid[axis] / self.cluster[axis])
    }
    /// Clusters of the grid.
    pub fn clusters(&self) -> u64 {
        self.blocks() / self.cluster_blocks() as u64
    }
    /// Threads of a block.
    pub fn threads(&self) -> u32 {
        self.block.iter().product()
    }
}

#[derive(Debug)]
pub struct Options {
    /// Threads of this processor that run the blocks of a launch.
    pub threads: usize,
    pub sanitize: Sanitize,
    /// Blocks of a launch that are run; 0: all.
    pub sample: u64,
    /// Permutes whatever nothing orders; 0: the natural order, asynchronous copies as late as they may land.
    pub seed: u64,
}

/// Why a launch failed: the CUDA error and what the user should read.
pub struct Problem {
    pub code: u32,
    pub text: String,
}

/// Runs a launch. `allocs` are the allocations that it may touch, in order of their addresses.
pub fn run(l: &Arc<Launch>, o: &Options, allocs: Arc<Vec<(u64, u64)>>, workspace: u64) -> Result<(), Problem> {
    let started = std::time::Instant::now();
    let run = if crate::count::active() {
        crate::count::run(l, o, &allocs, workspace)
    } else {
        grid::run_blocks(l, o, &allocs, workspace)
    };
    let entries = run.inspect_err(|problem| eprintln!("virtual_gpu: {}", problem.text))?;
    report::account(l, &entries, started.elapsed().as_nanos() as u64);
    Ok(())
}
