//! Clusters: blocks that run together, reach each other's shared memory, and meet at a barrier (PTX ISA, "Cluster of Cooperative
//! Thread Arrays", "mapa", "getctarank" and "barrier.cluster").
//!
//! An address of `shared::cluster` has one more than the rank of its block above the address in that block's shared memory; an
//! address without a rank is one of `shared::cta`, in the block's own. Loads and stores here also serve strong accesses.

use crate::sanitize::ClusterBarrier;
use crate::warp::*;

/// Bits of an address of `shared::cluster` below its rank.
const RANK_SHIFT: u32 = 24;
const LOCAL: u32 = (1 << RANK_SHIFT) - 1;

/// What the blocks of a cluster share.
#[derive(Default)]
pub struct Meeting {
    /// What its arrivals released, where the sanitizer is on.
    pub released: ClusterBarrier,
}

/// The cluster as one of its blocks sees it.
#[derive(Default)]
pub struct Peers {
    /// The rank of this block.
    pub rank: u32,
    /// All blocks by rank; none where the cluster has but this one.
    pub blocks: Vec<*mut BlockEnv>,
    pub meeting: Option<*mut Meeting>,
    /// The block has ended.
    pub ended: bool,
}

impl Peers {
    /// Blocks of the cluster.
    pub fn count(&self) -> u32 {
        self.blocks.len().max(1) as u32
    }
}

/// Where the addresses of some lanes lead: the address in its block, and the blocks with their lanes.
pub struct Places {
    pub local: [u32; 32],
    pub parts: Vec<(u32, u32)>,
}

impl Places {
    /// The state space of a part as the warp's block sees it.
    pub fn space(w: &mut Warp, rank: u32) -> Space {
        if w.env().peers.rank == rank { Space::Shared } else { Space::Peer(rank) }
    }
}

/// The block of a rank.
///
/// # Safety
/// The cluster of `w` has this rank, and its blocks are alive.
pub unsafe fn block(w: &mut Warp, rank: u32) -> &mut BlockEnv {
    let peers = &w.env().peers;
    let at = if peers.rank == rank { w.env } else { peers.blocks[rank as usize] };
    // Safety: the caller's.
    unsafe { &mut *at }
}

/// Where addresses of `shared::cluster` lead; the warp fails where there is no such block, or it has ended.
///
/// # Safety
/// The cluster of `w` is alive.
pub unsafe fn places(w: &mut Warp, addresses: &[u32; 32]) -> Option<Places> {
    let own = w.env().peers.rank;
    let rank_of = |address: u32| (address >> RANK_SHIFT).checked_sub(1).unwrap_or(own);
    let mut parts: Vec<(u32, u32)> = vec![];
    for lane in (0..32).filter(|lane| w.mask >> lane & 1 != 0) {
        let rank = rank_of(addresses[lane]);
        match parts.iter_mut().find(|part| part.0 == rank) {
            Some(part) => part.1 |= 1 << lane,
            None => parts.push((rank, 1 << lane)),
        }
    }
    for &(rank, lanes) in &parts {
        let count = w.env().peers.count();
        // Safety: the rank is one of the cluster's.
        let problem = if rank >= count {
            format!("an address in the shared memory of rank {rank} of a cluster of {count} blocks")
        } else if unsafe { block(w, rank) }.peers.ended {
            format!("an address in the shared memory of rank {rank}, whose block has ended")
        } else {
            continue;
        };
        w.fail(ILLEGAL_ADDRESS, lanes.trailing_zeros(), problem);
        return None;
    }
    Some(Places { local: addresses.map(|address| address & LOCAL), parts })
}

/// Where the bytes of the lanes' addresses are.
///
/// # Safety
/// The accesses have been admitted.
pub unsafe fn bytes(w: &mut Warp, places: &Places) -> [*mut u8; 32] {
    let mut at = [std::ptr::null_mut(); 32];
    for &(rank, lanes) in &places.parts {
        // Safety: the caller's.
        let base = unsafe { block(w, rank) }.shared.as_mut_ptr();
        for lane in (0..32).filter(|lane| lanes >> lane & 1 != 0) {
            at[lane] = base.wrapping_add(places.local[lane].wrapping_sub(SHARED_BASE) as usize);
        }
    }
    at
}

/// `mapa`: the address of the same place in the block of a rank. r: d, a, b.
///
/// # Safety
/// `Inst::r` is as said; addresses have 32 bits, or with `WIDE` 64, generic ones.
pub unsafe fn mapa<const WIDE: bool>(w: &mut Warp, i: &Inst) {
    let count = w.env().peers.count();
    // Safety: the caller's.
    let ranks = unsafe { *(w.p(i.r[2]) as *const [u32; 32]) };
    if let Some(lane) = (0..32).find(|lane| w.mask >> lane & 1 != 0 && ranks[*lane] >= count) {
        let text = format!("mapa to rank {} of a cluster of {count} blocks", ranks[lane]);
        return w.fail(ILLEGAL_ADDRESS, lane as u32, text);
    }
    let tag = |lane: usize| (ranks[lane] + 1) << RANK_SHIFT;
    let offset = i.imm as u32;
    // Safety: the caller's.
    unsafe {
        if WIDE {
            let from = *(w.p(i.r[1]) as *const [u64; 32]);
            let cleared = |x: u64| x & !u64::from(!LOCAL);
            w.put::<u64>(i.r[0], &std::array::from_fn(|lane| cleared(from[lane]) + (offset + tag(lane)) as u64));
        } else {
            let from = *(w.p(i.r[1]) as *const [u32; 32]);
            w.put::<u32>(i.r[0], &std::array::from_fn(|lane| ((from[lane] + offset) & LOCAL) | tag(lane)));
        }
    }
}

/// `getctarank`: the rank of the block that an address belongs to. r: d, a.
///
/// # Safety
/// `Inst::r` is as said; addresses have 32 bits, or with `WIDE` 64.
pub unsafe fn getctarank<const WIDE: bool>(w: &mut Warp, i: &Inst) {
    let own = w.env().peers.rank;
    // Safety: the caller's.
    unsafe {
        let a = w.p(i.r[1]);
        let address = |lane| if WIDE { u64::at(a, lane) as u32 } else { u32::at(a, lane) };
        let rank = |lane| (address(lane) >> RANK_SHIFT).checked_sub(1).unwrap_or(own);
        w.put::<u32>(i.r[0], &std::array::from_fn(rank));
    }
}

/// `barrier.cluster.arrive`; `Inst::order` has `RELEASE`, or a fence before must order what is to be ordered.
///
/// # Safety
/// The cluster of `w` is alive.
pub unsafe fn cluster_arrive(w: &mut Warp, i: &Inst) {
    let again = w.mask & (w.cluster.arrived | w.cluster.released);
    if again != 0 {
        let text = "barrier.cluster.arrive of a thread that has not waited since it arrived".into();
        return w.fail(LAUNCH_FAILED, again.trailing_zeros(), text);
    }
    w.cluster.arrived |= w.mask;
    let (mask, warp) = (w.mask, w.index);
    let env = w.env();
    env.spins = 0;
    if let (Some(guard), Some(meeting)) = (&mut env.guard, env.peers.meeting) {
        // Safety: the meeting lives as long as the cluster, whose blocks run on one thread.
        guard.cluster_arrive(warp, mask, i.order & RELEASE != 0, unsafe { &mut (*meeting).released });
    }
}

/// `barrier.cluster.wait`: true where the threads go on, false where others have not arrived.
///
/// # Safety
/// The cluster of `w` is alive.
pub unsafe fn cluster_wait(w: &mut Warp) -> bool {
    let never = w.mask & !(w.cluster.arrived | w.cluster.released);
    if never != 0 {
        let text = "barrier.cluster.wait of a thread that has not arrived".into();
        w.fail(LAUNCH_FAILED, never.trailing_zeros(), text);
        return false;
    }
    if w.mask & !w.cluster.released != 0 {
        return false;
    }
    w.cluster.released &= !w.mask;
    let (mask, warp) = (w.mask, w.index);
    let env = w.env();
    if let (Some(guard), Some(meeting)) = (&mut env.guard, env.peers.meeting) {
        // Safety: as for `cluster_arrive`.
        guard.cluster_waited(warp, mask, unsafe { &(*meeting).released });
    }
    true
}
