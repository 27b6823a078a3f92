//! One request of a warp: the sectors or wavefronts it takes, and those that the best layout of the same data would take.

use super::cache::SECTOR;

fn active_lanes(addresses: &[u64; 32], lanes: u32) -> impl Iterator<Item = u64> {
    addresses.iter().enumerate().filter(move |(lane, _)| lanes >> lane & 1 != 0).map(|(_, address)| *address)
}

/// Distinct sectors that the active lanes of a request touch, ascending.
pub struct Sectors {
    numbers: [u64; 160],
    count: usize,
    /// Distinct bytes over 32, rounded up: what a unit stride would take.
    pub unit: u64,
    /// Bytes that the lanes ask for, counted lane by lane.
    pub bytes: u64,
}

impl Sectors {
    /// Sectors of `size` bytes at each active lane's address.
    pub fn of(addresses: &[u64; 32], size: u64, lanes: u32) -> Sectors {
        let mut starts = [0u64; 32];
        let mut active = 0;
        for address in active_lanes(addresses, lanes) {
            starts[active] = address;
            active += 1;
        }
        let starts = &mut starts[..active];
        if !starts.is_sorted() {
            starts.sort_unstable();
        }
        let mut found = Sectors { numbers: [0; 160], count: 0, unit: 0, bytes: active as u64 * size };
        let mut end = 0;
        let mut distinct = 0;
        for &start in starts.iter() {
            distinct += (start + size).saturating_sub(start.max(end));
            end = end.max(start + size);
            for sector in start / SECTOR..=(start + size - 1) / SECTOR {
                if found.count == 0 || found.numbers[found.count - 1] < sector {
                    found.numbers[found.count] = sector;
                    found.count += 1;
                }
            }
        }
        found.unit = distinct.div_ceil(SECTOR).min(found.count as u64);
        found
    }

    /// Addresses over 32.
    pub fn numbers(&self) -> &[u64] {
        &self.numbers[..self.count]
    }
}

/// Lanes relative to the first active one: two requests of an instruction have the same pattern where their addresses
/// differ by one number in all lanes.
pub fn pattern(addresses: &[u64; 32], lanes: u32) -> u64 {
    let first = addresses[lanes.trailing_zeros() as usize % 32];
    let mut hash = lanes as u64;
    for address in active_lanes(addresses, lanes) {
        hash = (hash ^ address.wrapping_sub(first)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
    }
    hash
}

/// Wavefronts of a request to shared memory, and of one without conflicts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wavefronts {
    pub taken: u64,
    pub ideal: u64,
}

const BANKS: usize = 32;

/// Wavefronts of `size` bytes a lane: all lanes together for up to 4 bytes, halves of the warp for 8, quarters for 16. A group
/// takes as many as its fullest bank has distinct words.
pub fn wavefronts(addresses: &[u32; 32], size: u32, lanes: u32) -> Wavefronts {
    let group = match size {
        0..=4 => 32,
        8 => 16,
        _ => 8,
    };
    let mut found = Wavefronts { taken: 0, ideal: 0 };
    for first in (0..32).step_by(group) {
        let members = (first..first + group).filter(|lane| lanes >> lane & 1 != 0);
        let taken = fullest_bank(members.map(|lane| addresses[lane]), size);
        found.taken += taken;
        found.ideal += taken.min(1);
    }
    found
}

/// Wavefronts of `ldmatrix` and `stmatrix`: eight rows of 16 bytes to a matrix, matrix by matrix.
pub fn matrix_wavefronts(addresses: &[u32; 32], matrices: usize) -> Wavefronts {
    let rows = addresses.chunks(8).take(matrices);
    Wavefronts { taken: rows.map(|rows| fullest_bank(rows.iter().copied(), 16)).sum(), ideal: matrices as u64 }
}

/// Wavefronts of a bulk copy into shared memory: every bank once for 128 bytes.
pub fn bulk_wavefronts(bytes: u64) -> Wavefronts {
    Wavefronts { taken: bytes.div_ceil(128), ideal: bytes.div_ceil(128) }
}

fn fullest_bank(addresses: impl Iterator<Item = u32>, size: u32) -> u64 {
    let mut words = [0u32; 32];
    let mut count = 0;
    for address in addresses {
        for word in address / 4..=(address + size - 1) / 4 {
            // No group asks for more than 32 words.
            if (count == 0 || words[count - 1] != word) && !words[..count].contains(&word) && count < 32 {
                words[count] = word;
                count += 1;
            }
        }
    }
    let mut banks = [0u64; BANKS];
    words[..count].iter().for_each(|word| banks[*word as usize % BANKS] += 1);
    banks.into_iter().max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: impl Fn(u64) -> u64) -> [u64; 32] {
        std::array::from_fn(|lane| address(lane as u64))
    }

    #[test]
    fn sectors_of_known_patterns() {
        let base = 1 << 20;
        for (what, addresses, size, lanes, sectors, unit) in [
            ("unit stride of 4 bytes", at(|l| base + 4 * l), 4, !0, 4, 4),
            ("unit stride of 16 bytes", at(|l| base + 16 * l), 16, !0, 16, 16),
            ("unit stride of 2 bytes", at(|l| base + 2 * l), 2, !0, 2, 2),
            ("one sector off by half", at(|l| base + 16 + 4 * l), 4, !0, 5, 4),
            ("stride of two words", at(|l| base + 8 * l), 4, !0, 8, 4),
            ("a sector each", at(|l| base + 32 * l), 4, !0, 32, 4),
            ("one word for all", at(|_| base), 4, !0, 1, 1),
            ("descending", at(|l| base + 4 * (31 - l)), 4, !0, 4, 4),
            ("half of the lanes", at(|l| base + 4 * l), 4, 0xffff, 2, 2),
            ("pairs that share a word", at(|l| base + l / 2 * 128), 4, !0, 16, 2),
            ("16 bytes in rows of 512", at(|l| base + 512 * l), 16, !0, 32, 16),
            ("16 bytes across two sectors", at(|l| base + 24 + 64 * l), 16, !0, 64, 16),
        ] {
            let found = Sectors::of(&addresses, size, lanes);
            assert_eq!((found.numbers().len(), found.unit), (sectors, unit), "{what}");
            assert!(found.numbers().is_sorted_by(|a, b| a < b), "{what}");
        }
    }

    #[test]
    fn patterns_follow_the_lanes_and_not_the_base() {
        assert_eq!(pattern(&at(|l| 4 * l), !0), pattern(&at(|l| 4096 + 4 * l), !0));
        assert_ne!(pattern(&at(|l| 4 * l), !0), pattern(&at(|l| 8 * l), !0));
    }

    #[test]
    fn wavefronts_of_known_patterns() {
        let shared = |address: fn(u32) -> u32| -> [u32; 32] { std::array::from_fn(|lane| address(lane as u32)) };
        for (what, addresses, size, taken, ideal) in [
            ("unit stride of 4 bytes", shared(|l| 4 * l), 4, 1, 1),
            ("unit stride of 8 bytes", shared(|l| 8 * l), 8, 2, 2),
            ("unit stride of 16 bytes", shared(|l| 16 * l), 16, 4, 4),
            ("one word for all", shared(|_| 64), 4, 1, 1),
            ("stride of two words", shared(|l| 8 * l), 4, 2, 1),
            ("a column of a matrix of 32", shared(|l| 128 * l), 4, 32, 1),
            ("a column of a matrix of 33", shared(|l| 132 * l), 4, 1, 1),
            ("bytes of one word in fours", shared(|l| l), 1, 1, 1),
            ("16 bytes in rows of 128", shared(|l| 128 * l), 16, 32, 4),
            ("16 bytes in rows of 144", shared(|l| 144 * l), 16, 4, 4),
        ] {
            assert_eq!(wavefronts(&addresses, size, !0), Wavefronts { taken, ideal }, "{what}");
        }
    }

    #[test]
    fn matrices_conflict_row_by_row() {
        let rows = |stride: u32| -> [u32; 32] { std::array::from_fn(|lane| stride * lane as u32) };
        assert_eq!(matrix_wavefronts(&rows(128), 4), Wavefronts { taken: 32, ideal: 4 });
        assert_eq!(matrix_wavefronts(&rows(144), 4), Wavefronts { taken: 4, ideal: 4 });
        assert_eq!(matrix_wavefronts(&rows(16), 2), Wavefronts { taken: 2, ideal: 2 });
    }
}
