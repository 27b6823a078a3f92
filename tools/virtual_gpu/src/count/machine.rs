//! The memory of the whole chip as launches see it: an L1 cache for each multiprocessor, which is emptied at a launch and
//! writes through, and an L2 cache for all, which outlives launches and writes back.

use super::cache::{Cache, Use};
use super::footprint::Footprint;
use super::request::{Sectors, Wavefronts, bulk_wavefronts, matrix_wavefronts, pattern, wavefronts};
use crate::profile::Profile;
use crate::warp::Inst;
use std::sync::{Arc, Mutex, MutexGuard};

/// What a memory instruction does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Door {
    Load,
    Store,
    Atomic,
    /// `cp.async` and bulk copies, the side of global memory.
    Copy,
    SharedLoad,
    SharedStore,
    /// `ldmatrix` and `stmatrix`.
    Matrix,
}

impl Door {
    pub fn name(self) -> &'static str {
        match self {
            Door::Load => "global load",
            Door::Store => "global store",
            Door::Atomic => "global atomic",
            Door::Copy => "asynchronous copy",
            Door::SharedLoad => "shared load",
            Door::SharedStore => "shared store",
            Door::Matrix => "matrix load",
        }
    }
    pub fn shared(self) -> bool {
        matches!(self, Door::SharedLoad | Door::SharedStore | Door::Matrix)
    }
}

/// What one memory instruction of a kernel asked for in a launch.
#[derive(Clone, Copy)]
pub struct Site {
    pub door: Door,
    pub requests: u64,
    pub bytes: u64,
    /// Sectors of global memory or wavefronts of shared memory.
    pub taken: u64,
    /// What a unit stride without conflicts would take.
    pub unit: u64,
    /// Sectors that were not in L1: those that the lanes touch over a line's stay there, each once.
    pub fills: u64,
    last_pattern: u64,
    changes: u64,
}

impl Site {
    fn new(door: Door) -> Site {
        Site { door, requests: 0, bytes: 0, taken: 0, unit: 0, fills: 0, last_pattern: 0, changes: 0 }
    }

    /// Whether lanes lie to each other differently from request to request: no layout makes such loads coalesce.
    pub fn gathers(&self) -> bool {
        self.door == Door::Load && 2 * self.changes > self.requests
    }

    /// Sectors or wavefronts of the ideal.
    pub fn ideal(&self) -> u64 {
        if self.gathers() { self.fills.min(self.taken) } else { self.unit }
    }
}

/// Sectors that moved in a launch.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// Read from L1 without L2.
    pub l1_hits: u64,
    /// Between the multiprocessors and L2, both ways.
    pub l2: u64,
    pub dram_read: u64,
    pub dram_written: u64,
}

pub struct Machine {
    l1: Vec<Cache>,
    l2: Cache,
    pub traffic: Traffic,
    pub footprint: Footprint,
    /// By the instruction's index: global memory and shared memory.
    pub sites: Vec<[Option<Site>; 2]>,
}

impl Machine {
    pub fn new(chip: &Profile) -> Machine {
        let (traffic, footprint) = Default::default();
        Machine { l1: vec![], l2: Cache::new(chip.l2), traffic, footprint, sites: vec![] }
    }

    /// Empties L2.
    pub fn forget(&mut self) {
        self.l2.clear();
    }

    /// Makes ready for a launch of a kernel of so many instructions on multiprocessors with `l1` bytes of cache.
    pub fn start(&mut self, instructions: usize, multiprocessors: usize, l1: u32, allocations: &[(u64, u64)]) {
        self.l1 = (0..multiprocessors).map(|_| Cache::new(l1)).collect();
        self.traffic = Traffic::default();
        self.footprint = Footprint::of(allocations);
        self.sites = vec![[None; 2]; instructions];
    }

    fn l2(&mut self, sector: u64, what: Use) {
        let met = self.l2.touch(sector, what);
        self.traffic.l2 += 1;
        let read = !met.hit && what != Use::Write;
        self.traffic.dram_read += u64::from(read);
        self.footprint.touch(sector, read);
        self.traffic.dram_written += u64::from(met.dirtied);
    }

    /// Moves one sector; whether L2 was asked.
    fn sector(&mut self, multiprocessor: usize, sector: u64, door: Door) -> bool {
        match door {
            Door::Load => {
                if self.l1[multiprocessor].touch(sector, Use::Read).hit {
                    self.traffic.l1_hits += 1;
                    return false;
                }
                self.l2(sector, Use::Read);
            }
            Door::Store => self.l2(sector, Use::Write),
            Door::Atomic => self.l2(sector, Use::Update),
            _ => self.l2(sector, Use::Read),
        }
        true
    }

    fn global(&mut self, multiprocessor: usize, at: usize, door: Door, addresses: &[u64; 32], size: u64, lanes: u32) {
        let mut site = self.sites[at][0].unwrap_or_else(|| Site::new(door));
        site.requests += 1;
        if size > 32 {
            let (first, last) = (addresses[0] / 32, (addresses[0] + size - 1) / 32);
            site.fills +=
                (first..=last).map(|sector| u64::from(self.sector(multiprocessor, sector, door))).sum::<u64>();
            site.taken += last - first + 1;
            site.unit += size.div_ceil(32);
            site.bytes += size;
        } else if lanes != 0 {
            let sectors = Sectors::of(addresses, size, lanes);
            for &sector in sectors.numbers() {
                site.fills += u64::from(self.sector(multiprocessor, sector, door));
            }
            site.taken += sectors.numbers().len() as u64;
            site.unit += sectors.unit;
            site.bytes += sectors.bytes;
            let pattern = pattern(addresses, lanes);
            site.changes += u64::from(pattern != site.last_pattern && site.requests > 1);
            site.last_pattern = pattern;
        }
        self.sites[at][0] = Some(site);
    }

    fn shared(&mut self, at: usize, door: Door, bytes: u64, waves: Wavefronts) {
        let site = self.sites[at][1].get_or_insert_with(|| Site::new(door));
        site.requests += 1;
        site.bytes += bytes;
        site.taken += waves.taken;
        site.unit += waves.ideal;
    }
}

/// What a block's memory instructions tell: the door through which the executor counts.
pub struct Stats {
    machine: Arc<Mutex<Machine>>,
    /// Address of the kernel's first instruction.
    code: usize,
    multiprocessor: usize,
}

impl Stats {
    /// The counters of a block of a kernel with this code, on a multiprocessor.
    pub fn new(machine: &Arc<Mutex<Machine>>, code: &[Inst], multiprocessor: usize) -> Stats {
        Stats { machine: machine.clone(), code: code.as_ptr() as usize, multiprocessor }
    }

    fn index(&self, inst: &Inst) -> usize {
        (inst as *const Inst as usize - self.code) / size_of::<Inst>()
    }
    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A request to global memory of `size` bytes a lane; `kind` is 0 for a load, 1 a store, 2 an atomic, 3 an asynchronous
    /// copy, whose size is all of it where one lane copies in bulk.
    #[inline(never)]
    pub fn global(&mut self, inst: &Inst, addresses: &[u64; 32], size: u32, lanes: u32, kind: u8) {
        let door = [Door::Load, Door::Store, Door::Atomic, Door::Copy][kind as usize];
        self.machine().global(self.multiprocessor, self.index(inst), door, addresses, size as u64, lanes);
    }

    /// A request to shared memory of `size` bytes a lane.
    #[inline(never)]
    pub fn shared(&mut self, inst: &Inst, addresses: &[u32; 32], size: u32, lanes: u32, write: bool) {
        let door = if write { Door::SharedStore } else { Door::SharedLoad };
        let bytes = size as u64 * lanes.count_ones() as u64;
        let waves = if size > 16 { bulk_wavefronts(bytes) } else { wavefronts(addresses, size, lanes) };
        self.machine().shared(self.index(inst), door, bytes, waves);
    }

    /// `ldmatrix` or `stmatrix` of so many matrices.
    #[inline(never)]
    pub fn ldmatrix(&mut self, inst: &Inst, addresses: &[u32; 32], matrices: u32) {
        let waves = matrix_wavefronts(addresses, matrices as usize);
        self.machine().shared(self.index(inst), Door::Matrix, 128 * matrices as u64, waves);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        let mut machine = Machine::new(Profile::of(90));
        machine.start(4, 2, 64 << 10, &[]);
        machine
    }
    fn line(base: u64) -> [u64; 32] {
        std::array::from_fn(|lane| base + 4 * lane as u64)
    }

    #[test]
    fn a_load_meets_l1_then_l2_then_memory() {
        let mut m = machine();
        m.global(0, 0, Door::Load, &line(0), 4, !0);
        m.global(0, 0, Door::Load, &line(0), 4, !0);
        m.global(1, 0, Door::Load, &line(0), 4, !0);
        assert_eq!(m.traffic, Traffic { l1_hits: 4, l2: 8, dram_read: 4, dram_written: 0 });
        let site = m.sites[0][0].expect("counted");
        assert_eq!((site.requests, site.taken, site.unit, site.fills), (3, 12, 12, 8));
        assert!(!site.gathers());
    }

    #[test]
    fn stores_write_through_l1_and_back_from_l2() {
        let mut m = machine();
        m.global(0, 1, Door::Store, &line(256), 4, !0);
        m.global(0, 1, Door::Store, &line(256), 4, !0);
        assert_eq!(m.traffic, Traffic { l1_hits: 0, l2: 8, dram_read: 0, dram_written: 4 });
        m.global(0, 2, Door::Atomic, &[4096; 32], 4, !0);
        assert_eq!(m.traffic, Traffic { l1_hits: 0, l2: 9, dram_read: 1, dram_written: 5 });
    }

    #[test]
    fn a_gather_s_ideal_is_what_l1_lacked() {
        let mut m = machine();
        // Each lane a sector of its own in an order that changes: 32 sectors in all, asked for four times.
        for turn in 0..4u64 {
            let addresses = std::array::from_fn(|lane| (lane as u64 * (2 * turn + 3)) % 32 * 32);
            m.global(0, 3, Door::Load, &addresses, 4, !0);
        }
        let site = m.sites[3][0].expect("counted");
        assert!(site.gathers());
        assert_eq!((site.taken, site.ideal()), (4 * 32, 32));
    }

    #[test]
    fn bulk_copies_count_all_their_sectors() {
        let mut m = machine();
        m.global(0, 0, Door::Copy, &[1024; 32], 4096, 1);
        assert_eq!(m.traffic.dram_read, 128);
        assert_eq!(m.sites[0][0].expect("counted").ideal(), 128);
    }
}
