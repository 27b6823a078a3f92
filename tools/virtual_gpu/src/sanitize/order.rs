//! What orders accesses, as the warps of a block carry it out.

use super::clocks::accumulate;
use super::report::{Actor, Finding};
use super::shadow::Touch;
use super::{Guard, Mbarrier};
use std::sync::Arc;

fn lanes_of(mask: u32, warp: u32) -> impl Iterator<Item = usize> + Clone {
    (0..32).filter(move |lane| mask >> lane & 1 != 0).map(move |lane| 32 * warp as usize + lane)
}

impl Guard {
    /// Warps, each with its live lanes, have met at a barrier of the block.
    pub fn barrier(&mut self, warps: &[(u32, u32)]) {
        self.clocks.join(warps.iter().flat_map(|(warp, live)| lanes_of(*live, *warp)));
    }
    /// Lanes of a warp have met at `bar.warp.sync`.
    pub fn warp_barrier(&mut self, warp: u32, lanes: u32) {
        self.clocks.join(lanes_of(lanes, warp));
    }
    /// A warp has met the barrier of its block at another instruction than others.
    pub fn apart(&mut self, first: (u32, u32), second: (u32, u32)) {
        let actor = |(pc, warp)| Actor { pc, block: self.block, who: format!("warp {warp}") };
        self.watch.say(&Finding {
            kind: "divergent barrier",
            at: actor(second),
            detail: "warps meet at different barriers".into(),
            other: Some(actor(first)),
            missing: "a condition that is the same in the whole block",
        });
    }

    /// Lanes have waited for their asynchronous copies of groups up to `group` of each.
    pub fn copies_done(&mut self, thread: usize, group: u32) {
        self.clocks.copies_done(thread, group);
    }
    /// A warp has waited for its products of groups up to `group`.
    pub fn products_done(&mut self, warp: u32, group: u32) {
        for thread in lanes_of(u32::MAX, warp) {
            self.clocks.products_done(thread, group);
        }
    }

    /// `fence.proxy.async` of lanes of a warp.
    pub fn fence_proxy(&mut self, warp: u32, lanes: u32) {
        for thread in lanes_of(lanes, warp) {
            self.clocks.fence_proxy(thread);
        }
    }
    /// A fence of device scope, or `membar`, of lanes of a warp.
    pub fn fence(&mut self, warp: u32, lanes: u32) {
        for thread in lanes_of(lanes, warp) {
            self.clocks.fence(thread);
        }
    }

    /// Before an atomic write of a thread to `address`.
    pub fn releases(&mut self, thread: usize, address: u64, release: bool) {
        if let Some(more) = self.clocks.released(thread, release) {
            let mut all = self.watch.released.lock().unwrap();
            all.entry(address).and_modify(|known| accumulate(known, &more)).or_insert(more);
        }
    }
    /// After an atomic read of a thread from `address`.
    pub fn acquires(&mut self, thread: usize, address: u64, acquire: bool) {
        let known = self.watch.released.lock().unwrap().get(&address).cloned();
        if let Some(known) = known {
            self.clocks.observed(thread, &known, acquire);
        }
    }

    /// `mbarrier.init` of a thread.
    pub fn mbarrier_init(&mut self, thread: usize, address: u32, pc: u32) {
        let number = self.mbarriers.get(&address).map_or(self.mbarriers.len(), |b| b.number);
        let touch = Touch::new(self.watch.number, self.block, thread as u32, self.clocks.now(thread), pc, false);
        // phases go on: the agent of the barrier's copies lives as long as the block
        let phases = self.mbarriers.get(&address).map_or(0, |b| b.phases);
        let barrier = Mbarrier { number, phases, initialised: Some(touch), ..Mbarrier::default() };
        self.mbarriers.insert(address, barrier);
    }
    /// An arrival of a thread.
    pub fn mbarrier_arrive(&mut self, thread: usize, address: u32) {
        if let Some(barrier) = self.mbarriers.get_mut(&address) {
            self.clocks.release(thread, &mut barrier.pending);
        }
    }
    /// The present phase of an mbarrier is complete.
    pub fn mbarrier_complete(&mut self, address: u32) {
        let Some(barrier) = self.mbarriers.get_mut(&address) else { return };
        barrier.phases += 1;
        let mut known = std::mem::take(&mut barrier.pending);
        let bulk = self.clocks.bulk_of(barrier.number) as usize;
        if let Some(time) = known.times.get_mut(bulk) {
            *time = (*time).max(barrier.phases);
        }
        barrier.complete = Some(Arc::new(known));
    }
    /// A wait of a thread has succeeded.
    pub fn mbarrier_waited(&mut self, thread: usize, address: u32) {
        if let Some(known) = self.mbarriers.get(&address).and_then(|b| b.complete.clone()) {
            self.clocks.acquire(thread, &known);
        }
    }
    /// A bulk copy names an mbarrier: the asynchronous proxy must see it initialised.
    pub fn mbarrier_named(&mut self, thread: usize, address: u32, pc: u32) {
        let Some(init) = self.mbarriers.get(&address).and_then(|b| b.initialised) else { return };
        if self.clocks.fenced(thread, init.agent(), init.time) {
            return;
        }
        let at = Actor { pc, block: self.block, who: format!("thread {thread}") };
        let other = Some(self.who(&init));
        let detail = format!("mbarrier at {address:#x}");
        let missing = "fence.proxy.async or fence.mbarrier_init after mbarrier.init";
        self.watch.say(&Finding { kind: "missing proxy fence", at, detail, other, missing });
    }
}
