//! What a launch touches of each allocation.

use super::cache::SECTOR;

/// The allocations that a launch may touch, and what it reads of them from memory.
#[derive(Default)]
pub struct Footprint {
    /// First byte and the byte behind the last, in order of the addresses.
    allocations: Vec<(u64, u64)>,
    /// Of each allocation, and of what lies in none, such as variables of a module.
    touched: Vec<bool>,
    reads: Vec<u64>,
    /// The allocation that was touched last.
    last: usize,
}

impl Footprint {
    pub fn of(allocations: &[(u64, u64)]) -> Footprint {
        let n = allocations.len() + 1;
        Footprint { allocations: allocations.to_vec(), touched: vec![false; n], reads: vec![0; n], last: n - 1 }
    }

    /// A sector is used, and read from memory or not.
    pub fn touch(&mut self, sector: u64, read: bool) {
        let address = sector * SECTOR;
        if !self.holds(self.last, address) {
            let behind = self.allocations.partition_point(|&(first, _)| first <= address);
            let known = behind.checked_sub(1).filter(|&at| self.holds(at, address));
            self.last = known.unwrap_or(self.allocations.len());
        }
        self.touched[self.last] = true;
        self.reads[self.last] += u64::from(read);
    }

    fn holds(&self, at: usize, address: u64) -> bool {
        self.allocations.get(at).is_some_and(|&(first, end)| (first..end).contains(&address))
    }

    /// Sectors read from memory since the last call, by allocation.
    pub fn take_reads(&mut self) -> Vec<u64> {
        let none = vec![0; self.reads.len()];
        std::mem::replace(&mut self.reads, none)
    }

    /// The most sectors that a whole launch reads from memory, by allocation: where all that is touched fits in L2, each once.
    pub fn most_reads(&self, l2: u32) -> Vec<f64> {
        let bytes = |at: usize| self.allocations.get(at).map_or(0, |&(first, end)| end - first);
        let touched: u64 = (0..self.touched.len()).filter(|&at| self.touched[at]).map(bytes).sum();
        let fits = touched <= u64::from(l2);
        let cap = |at: usize| match bytes(at) {
            bytes if fits && bytes > 0 => bytes.div_ceil(SECTOR) as f64,
            _ => f64::INFINITY,
        };
        (0..self.touched.len()).map(cap).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sectors_are_told_apart_by_allocation() {
        let mut footprint = Footprint::of(&[(1024, 1536), (4096, 1 << 20)]);
        for (sector, read) in [(32, true), (47, true), (48, true), (128, true), (129, false), (0, true)] {
            footprint.touch(sector, read);
        }
        // The last byte of the first allocation is in sector 47; sectors 48 and 0 lie in none.
        assert_eq!(footprint.take_reads(), [2, 1, 2]);
        assert_eq!(footprint.take_reads(), [0, 0, 0]);
    }

    #[test]
    fn what_fits_in_l2_is_read_once_at_most() {
        let mut footprint = Footprint::of(&[(1024, 1536), (1 << 20, 2 << 20), (1 << 30, 2 << 30)]);
        footprint.touch(32, false);
        footprint.touch(32768, true);
        assert_eq!(footprint.most_reads(2 << 20), [16.0, 32768.0, 33554432.0, f64::INFINITY]);
        assert!(footprint.most_reads(1 << 20).iter().all(|cap| cap.is_infinite()), "together they do not fit");
    }
}
