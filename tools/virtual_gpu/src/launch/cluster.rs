//! Clusters: blocks that run together on one thread of the processor. A launch without clusters has clusters of one block.

use super::block::{Block, Progress};
use super::special::Seat;
use super::{Launch, Options, Problem};
use crate::sanitize::{Guard, Watch};
use crate::warp::hopper::Meeting;
use crate::warp::{BlockEnv, State};
use std::sync::Arc;

/// Instructions of a turn where nothing limits it: warps go on until they wait.
const LONG_TURN: i64 = 1 << 20;
/// Instructions of a turn of a block that others may wait for.
pub const SHORT_TURN: i64 = 4000;

/// A cluster under way. The next of a launch takes its place and keeps what it has allocated.
pub struct Cluster {
    pub blocks: Vec<Block>,
    meeting: Box<Meeting>,
    pub done: bool,
}

impl Cluster {
    pub fn new(l: &Launch, watch: Option<&Arc<Watch>>, allocs: *const Vec<(u64, u64)>) -> Cluster {
        let blocks = (0..l.cluster_blocks()).map(|_| Block::new(l, watch, allocs)).collect();
        Cluster { blocks, meeting: Box::default(), done: false }
    }

    /// Makes this the `index`-th cluster of the grid, before its first instruction.
    pub fn start(&mut self, l: &Launch, o: &Options, index: u64, workspace: u64) {
        self.done = false;
        *self.meeting = Meeting::default();
        let seats: Vec<Seat> = (0..l.cluster_blocks()).map(|rank| Seat::new(l, index, rank, workspace)).collect();
        let envs: Vec<*mut BlockEnv> = self.blocks.iter_mut().map(|block| &mut *block.env as *mut BlockEnv).collect();
        let numbers: Vec<u64> = seats.iter().map(|seat| seat.number).collect();
        for (block, seat) in self.blocks.iter_mut().zip(&seats) {
            block.start(l, o, seat);
            block.env.peers.rank = seat.rank;
            block.env.peers.meeting = Some(&mut *self.meeting);
        }
        if l.cluster_blocks() == 1 {
            return;
        }
        let guard = |block: &mut Block| block.env.guard.as_mut().map(|guard| &mut **guard as *mut Guard);
        let guards: Vec<*mut Guard> = self.blocks.iter_mut().filter_map(guard).collect();
        for (block, seat) in self.blocks.iter_mut().zip(&seats) {
            block.env.peers.blocks = envs.clone();
            if let Some(guard) = &mut block.env.guard {
                // Safety: the guards are in boxes that live as long as the cluster, which runs on one thread.
                unsafe { guard.joins(seat.rank, &guards, &numbers) };
            }
        }
    }

    /// One turn of every block that has not ended.
    pub fn turn(&mut self, l: &Launch, entries: &mut [(u64, u64)], quantum: i64) -> Result<(), Problem> {
        let mut order: Vec<usize> = (0..self.blocks.len()).collect();
        self.blocks[0].env.dice.shuffle(&mut order);
        let mut moved = false;
        for n in order {
            let block = &mut self.blocks[n];
            if !block.done {
                moved |= block.turn(l, entries, quantum)? == Progress::Moved;
            }
        }
        self.done = self.blocks.iter().all(|block| block.done);
        if !self.done && !self.meet() && !moved {
            let waiting = self.blocks.iter().find(|block| !block.done).unwrap_or(&self.blocks[0]);
            return Err(waiting.deadlock(l));
        }
        Ok(())
    }

    /// Runs the cluster to its end, or until `stop` says so.
    pub fn run(&mut self, l: &Launch, entries: &mut [(u64, u64)], stop: impl Fn() -> bool) -> Result<(), Problem> {
        let turn = if self.blocks.len() == 1 { LONG_TURN } else { SHORT_TURN };
        while !self.done && !stop() {
            self.turn(l, entries, turn)?;
        }
        Ok(())
    }

    /// Completes the barrier of the cluster if all threads that have not ended have arrived; false if they have not.
    fn meet(&mut self) -> bool {
        let mut warps = self.blocks.iter().flat_map(|block| &block.warps);
        let any = warps.clone().any(|w| w.cluster.arrived != 0);
        if !any || warps.any(|w| w.live & !w.cluster.arrived != 0) {
            return false;
        }
        self.meeting.released.complete();
        let path = self.blocks.iter().flat_map(|block| &block.warps).map(|w| w.path).max().unwrap_or(0);
        for w in self.blocks.iter_mut().flat_map(|block| &mut block.warps) {
            w.cluster.released |= std::mem::take(&mut w.cluster.arrived);
            if w.state == State::AtCluster {
                w.state = State::Ready;
                w.path = path;
            }
        }
        true
    }
}
