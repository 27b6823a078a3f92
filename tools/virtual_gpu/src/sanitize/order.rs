//! What orders accesses, as the warps of a block carry it out.

use super::clocks::{Known, accumulate};
use super::report::{Actor, Finding};
use super::shadow::Touch;
use super::{Guard, Mbarrier};
use std::sync::Arc;

pub(super) fn lanes_of(mask: u32, warp: u32) -> impl Iterator<Item = usize> + Clone {
    (0..32).filter(move |lane| mask >> lane & 1 != 0).map(move |lane| 32 * warp as usize + lane)
}

impl Guard {
    /// Warps, each with its live lanes, have met at a barrier of the block; others had come, did not wait, and gave `released`.
    pub fn barrier(&mut self, warps: &[(u32, u32)], released: Option<Known>) {
        let threads = warps.iter().flat_map(|(warp, live)| lanes_of(*live, *warp));
        self.clocks.join(threads.clone());
        if let Some(released) = released.map(Arc::new) {
            threads.for_each(|thread| self.clocks.acquire(thread, &released));
        }
    }
    /// A warp has come to a named barrier and does not wait.
    pub fn barrier_arrive(&mut self, barrier: u32, warp: u32, lanes: u32) {
        let known = self.arrivals.entry(barrier).or_default();
        lanes_of(lanes, warp).for_each(|thread| self.clocks.release(thread, known));
    }
    /// What those who came to a named barrier and did not wait have released; the barrier begins anew.
    pub fn barrier_complete(&mut self, barrier: u32) -> Option<Known> {
        self.arrivals.remove(&barrier)
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
    /// `fence.mbarrier_init` of lanes of a warp: like a proxy fence for the mbarriers that they have initialised.
    pub fn fence_mbarrier_init(&mut self, warp: u32, lanes: u32) {
        for thread in lanes_of(lanes, warp) {
            self.clocks.fence_proxy(thread);
            self.clocks.fence_initialisations(thread);
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
    /// An arrival of a thread at an mbarrier of its own block.
    pub fn mbarrier_arrive(&mut self, thread: usize, address: u32, release: bool) {
        let Some(barrier) = self.mbarriers.get_mut(&address) else { return };
        if release {
            self.clocks.release(thread, &mut barrier.pending);
        } else if let Some(told) = self.clocks.released(thread, false) {
            self.clocks.hand_over(&told, &mut barrier.pending);
        }
    }
    /// An arrival of a thread at an mbarrier of the block of another rank; it releases to the cluster what it releases at all.
    pub fn mbarrier_arrive_at(&mut self, rank: u32, thread: usize, address: u32, release: bool) {
        let Some(told) = self.clocks.released(thread, release) else { return };
        if let Some(barrier) = self.at_mut(rank).mbarriers.get_mut(&address) {
            accumulate(&mut barrier.told, &told);
        }
    }
    /// The present phase of an mbarrier is complete.
    pub fn mbarrier_complete(&mut self, address: u32) {
        let Some(barrier) = self.mbarriers.get_mut(&address) else { return };
        barrier.phases += 1;
        let mut known = std::mem::take(&mut barrier.pending);
        self.clocks.hand_over(&Arc::default(), &mut known);
        let bulk = &mut known.times[self.clocks.bulk_of(barrier.number) as usize];
        *bulk = (*bulk).max(barrier.phases);
        barrier.complete = Some(Arc::new(known));
        barrier.complete_told = std::mem::take(&mut barrier.told);
    }
    /// A wait of a thread has succeeded. What other blocks released is acquired in the scope of the cluster alone.
    pub fn mbarrier_waited(&mut self, thread: usize, address: u32, acquire: bool, cluster: bool) {
        let Some(barrier) = self.mbarriers.get(&address) else { return };
        let Some(known) = barrier.complete.clone() else { return };
        let told = barrier.complete_told.clone();
        if acquire {
            self.clocks.acquire(thread, &known);
        } else {
            let all = self.clocks.as_told(&known);
            self.clocks.observed(thread, &all, false);
        }
        if cluster && !told.is_empty() {
            self.clocks.observed(thread, &told, acquire);
        }
    }
    /// A bulk copy names an mbarrier of the block of a rank: the asynchronous proxy must see it initialised.
    pub fn mbarrier_named(&mut self, thread: usize, rank: u32, address: u32, pc: u32) {
        let owner = self.at(rank);
        let Some(init) = owner.mbarriers.get(&address).and_then(|b| b.initialised) else { return };
        let fenced = match owner.block == self.block {
            true => self.clocks.fenced(thread, init.agent(), init.time),
            false => self.clocks.fenced_foreign(thread, owner.block, init.agent(), init.time),
        };
        if fenced {
            return;
        }
        let at = Actor { pc, block: self.block, who: format!("thread {thread}") };
        let other = Some(self.who(&init));
        let detail = format!("mbarrier at {address:#x}");
        let missing = "fence.proxy.async or fence.mbarrier_init after mbarrier.init";
        self.watch.say(&Finding { kind: "missing proxy fence", at, detail, other, missing });
    }
}
