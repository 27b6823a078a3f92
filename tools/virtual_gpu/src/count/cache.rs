//! A set-associative cache of 128-byte lines in 4 sectors, which are filled one by one; the line used longest ago leaves.

/// Bytes of a sector, the smallest piece that moves.
pub const SECTOR: u64 = 32;
const SECTORS_OF_LINE: u64 = 4;
const WAYS: usize = 16;
const EMPTY: u64 = u64::MAX;

#[derive(Clone, Copy)]
struct Line {
    /// Address over 128.
    number: u64,
    used: u64,
    valid: u8,
    dirty: u8,
}

const VACANT: Line = Line { number: EMPTY, used: 0, valid: 0, dirty: 0 };

/// What is done with a sector.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Use {
    Read,
    /// The whole sector is taken as written: what it held is not fetched.
    Write,
    /// Read and written: an atomic operation.
    Update,
}

/// What a use of a sector met.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Met {
    /// The sector was there.
    pub hit: bool,
    /// The sector was clean and is dirty now: it is written to memory once, whenever it leaves.
    pub dirtied: bool,
}

pub struct Cache {
    sets: u64,
    lines: Vec<Line>,
    clock: u64,
}

impl Cache {
    pub fn new(bytes: u32) -> Cache {
        let sets = (bytes as usize / 128 / WAYS).max(1);
        Cache { sets: sets as u64, lines: vec![VACANT; sets * WAYS], clock: 0 }
    }

    /// Empties the cache.
    pub fn clear(&mut self) {
        self.lines.fill(VACANT);
    }

    /// Uses a sector (its address over 32).
    pub fn touch(&mut self, sector: u64, what: Use) -> Met {
        self.clock += 1;
        let number = sector / SECTORS_OF_LINE;
        let bit = 1u8 << (sector % SECTORS_OF_LINE);
        // Lines are scattered over the sets, as the hardware does with a hash, so that no stride meets one set alone.
        let scattered = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        let first = (scattered % self.sets) as usize * WAYS;
        let set = &mut self.lines[first..first + WAYS];
        let at = set.iter().position(|line| line.number == number).unwrap_or_else(|| {
            let oldest = (0..WAYS).min_by_key(|&way| set[way].used).expect("a set has ways");
            set[oldest] = Line { number, ..VACANT };
            oldest
        });
        let line = &mut set[at];
        line.used = self.clock;
        let met = Met { hit: line.valid & bit != 0, dirtied: what != Use::Read && line.dirty & bit == 0 };
        line.valid |= bit;
        if what != Use::Read {
            line.dirty |= bit;
        }
        met
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sectors_of_a_line_are_filled_one_by_one() {
        let mut cache = Cache::new(64 << 10);
        let hits = [0, 1, 0, 3, 1, 4].map(|sector| cache.touch(sector, Use::Read).hit);
        assert_eq!(hits, [false, false, true, false, true, false]);
    }

    #[test]
    fn what_fits_stays_and_what_does_not_leaves() {
        // One set of 16 lines: 17 lines in turn never hit, 16 always do after the first round.
        for (lines, expected) in [(16, 16 * 3), (17, 0)] {
            let mut cache = Cache::new(128 * 16);
            let hits = (0..4 * lines).filter(|n| cache.touch(n % lines * 4, Use::Read).hit).count();
            assert_eq!(hits, expected, "{lines} lines");
        }
    }

    #[test]
    fn a_sector_is_written_back_once_a_stay() {
        let mut cache = Cache::new(128 * 16);
        let dirtied = [Use::Read, Use::Write, Use::Write, Use::Update].map(|what| cache.touch(0, what).dirtied);
        assert_eq!(dirtied, [false, true, false, false]);
        for line in 1..17 {
            cache.touch(line * 4, Use::Read);
        }
        assert_eq!(cache.touch(0, Use::Update), Met { hit: false, dirtied: true });
    }
}
