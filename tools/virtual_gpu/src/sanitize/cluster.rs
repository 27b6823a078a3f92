//! The blocks of a cluster: each may touch the shared memory of the others (PTX ISA, "Distributed shared memory").

use super::clocks::{Foreign, accumulate};
use super::report::{Actor, Finding};
use super::shadow::{Shadow, Touch};
use super::{Guard, lanes_of};
use crate::warp::Space;
use std::sync::Arc;

/// The cluster of a block. A launch without clusters has clusters of one block, which are not kept here.
#[derive(Default)]
pub struct Cluster {
    rank: u32,
    /// The guard of each block, by rank.
    guards: Vec<*mut Guard>,
    /// The number of each block in the grid, by rank.
    blocks: Vec<u64>,
}

impl Cluster {
    /// The numbers of the blocks that run beside this one.
    pub fn blocks(&self) -> &[u64] {
        &self.blocks
    }
}

/// What the threads that have arrived at the barrier of a cluster released.
#[derive(Default)]
pub struct ClusterBarrier {
    pending: Arc<Foreign>,
    complete: Arc<Foreign>,
}

impl ClusterBarrier {
    /// All have arrived: what they released is what their waits acquire.
    pub fn complete(&mut self) {
        self.complete = std::mem::take(&mut self.pending);
    }
}

impl Guard {
    /// The block is of this rank in a cluster of several blocks, with the guards and the numbers of all.
    ///
    /// # Safety
    /// The guards live as long as this one, and all of them are used by one thread of the processor.
    pub unsafe fn joins(&mut self, rank: u32, guards: &[*mut Guard], blocks: &[u64]) {
        self.cluster = Cluster { rank, guards: guards.to_vec(), blocks: blocks.to_vec() };
    }

    /// The guard of the block of a rank.
    pub(super) fn at(&self, rank: u32) -> &Guard {
        if rank == self.cluster.rank {
            return self;
        }
        // Safety: `joins` was given guards that live as long as this one; this one is not among those of other ranks.
        unsafe { &*self.cluster.guards[rank as usize] }
    }

    pub(super) fn at_mut(&mut self, rank: u32) -> &mut Guard {
        if rank == self.cluster.rank {
            return self;
        }
        // Safety: as for `at`.
        unsafe { &mut *self.cluster.guards[rank as usize] }
    }

    /// The shadow of a block's shared memory.
    pub(super) fn shared_of(&mut self, space: Space) -> &mut Shadow {
        match space {
            Space::Peer(rank) => &mut self.at_mut(rank).shared,
            _ => &mut self.shared,
        }
    }

    /// Where the bytes of an address in shared memory are.
    pub(super) fn shared_base(&self, space: Space) -> *const u8 {
        match space {
            Space::Peer(rank) => self.at(rank).base,
            _ => self.base,
        }
    }

    /// `barrier.cluster.arrive` of lanes of a warp.
    pub fn cluster_arrive(&mut self, warp: u32, lanes: u32, release: bool, barrier: &mut ClusterBarrier) {
        for thread in lanes_of(lanes, warp) {
            if let Some(told) = self.clocks.released(thread, release) {
                accumulate(&mut barrier.pending, &told);
            }
        }
    }
    /// `barrier.cluster.wait` of lanes of a warp, which has come to its end.
    pub fn cluster_waited(&mut self, warp: u32, lanes: u32, barrier: &ClusterBarrier) {
        for thread in lanes_of(lanes, warp) {
            self.clocks.observed(thread, &barrier.complete, true);
        }
    }

    /// Where the block ends: what other blocks did in its shared memory must come before.
    pub(super) fn check_visitors(&mut self) {
        let others = self.cluster.blocks.iter().filter(|block| **block != self.block);
        let others: Vec<u64> = others.copied().collect();
        if others.is_empty() {
            return;
        }
        let threads = self.copies.len();
        let is_late = |touch: &Touch, guard: &Guard| {
            let of_another = touch.of_launch(guard.watch.number) && others.iter().any(|block| touch.of_block(*block));
            let known = |t| guard.clocks.knows_foreign(t, touch.block(), touch.agent(), touch.time);
            of_another && !(0..threads).any(known)
        };
        let mut late: Vec<Touch> = vec![];
        let shared = std::mem::replace(&mut self.shared, Shadow::new(0, 0));
        shared.visit_touched(|cell| {
            let touches = [cell.write, cell.atomic, cell.reads[0], cell.reads[1]];
            late.extend(touches.iter().filter(|touch| is_late(touch, self)));
        });
        self.shared = shared;
        late.sort_by_key(Touch::pc);
        late.dedup_by_key(|touch| touch.pc());
        for touch in late {
            self.watch.say(&Finding {
                kind: "missing wait",
                at: self.who(&touch),
                detail: "the block whose shared memory it is may have ended".into(),
                other: None::<Actor>,
                missing: "barrier.cluster.arrive behind it and barrier.cluster.wait before the other block ends",
            });
        }
    }
}
