//! A sample of a launch, and what the whole launch reads from memory by what the sample read.

/// Pieces of a launch that a sample takes.
const PIECES: u64 = 4;

/// Neighbouring clusters of a launch; without clusters each block is one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    pub first: u64,
    pub end: u64,
}

impl Piece {
    pub fn clusters(&self) -> u64 {
        self.end - self.first
    }
}

/// Clusters that are run: all, or a sample of some neighbouring ones in a few places.
pub fn pieces(total: u64, sample: u64) -> Vec<Piece> {
    if sample == 0 || sample >= total {
        return vec![Piece { first: 0, end: total }];
    }
    let count = PIECES.min(sample);
    let (length, apart) = (sample / count, total / count);
    (0..count).map(|n| n * apart + (apart - length) / 2).map(|first| Piece { first, end: first + length }).collect()
}

/// Sectors read from memory by a whole launch of which pieces were run. `reads` are those of each piece from each allocation, `caps`
/// the most that a whole launch reads of each allocation.
pub fn whole_reads(pieces: &[Piece], reads: &[Vec<u64>], caps: &[f64], total: u64) -> f64 {
    let run: u64 = pieces.iter().map(Piece::clusters).sum();
    if run == total {
        return reads.iter().flatten().sum::<u64>() as f64;
    }
    let of = |at: usize| reads.iter().map(|piece| piece[at]).collect::<Vec<_>>();
    caps.iter().enumerate().map(|(at, &cap)| scaled(pieces, &of(at), total).min(cap)).sum()
}

/// Sectors of one allocation: what the first piece reads once may serve the others, so that the pieces after it stand for the rest.
fn scaled(pieces: &[Piece], reads: &[u64], total: u64) -> f64 {
    let run: u64 = pieces.iter().map(Piece::clusters).sum();
    let (read, first) = (reads.iter().sum::<u64>() as f64, pieces[0].clusters());
    let in_proportion = read * total as f64 / run as f64;
    if pieces.len() == 1 {
        return in_proportion;
    }
    let each = (read - reads[0] as f64) / (run - first) as f64;
    (reads[0] as f64 + each * (total - first) as f64).min(in_proportion)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(pieces: &[Piece]) -> Vec<(u64, u64)> {
        pieces.iter().map(|piece| (piece.first, piece.end)).collect()
    }

    #[test]
    fn samples_are_neighbours_in_a_few_places() {
        assert_eq!(ends(&pieces(100, 0)), [(0, 100)]);
        assert_eq!(ends(&pieces(100, 100)), [(0, 100)]);
        assert_eq!(ends(&pieces(100, 8)), [(11, 13), (36, 38), (61, 63), (86, 88)]);
        assert_eq!(ends(&pieces(1000, 2)), [(249, 250), (749, 750)]);
    }

    #[test]
    fn reads_of_a_whole_launch_count_what_is_shared_once() {
        let four = [0, 20, 40, 60].map(|first| Piece { first, end: first + 10 });
        let reads = |each: [u64; 4]| each.map(|n| vec![n]);
        let open = [f64::INFINITY];
        // Nothing shared: 5 a block.
        assert_eq!(whole_reads(&four, &reads([50; 4]), &open, 80), 400.0);
        // 1000 read by the first piece serve all.
        assert_eq!(whole_reads(&four, &reads([1050, 50, 50, 50]), &open, 80), 1400.0);
        assert_eq!(whole_reads(&four[..1], &reads([70, 0, 0, 0])[..1], &open, 10), 70.0);
    }

    #[test]
    fn no_more_is_read_of_an_allocation_than_its_cap() {
        let two = [0, 20].map(|first| Piece { first, end: first + 10 });
        let reads = [vec![50, 80], vec![50, 80]];
        assert_eq!(whole_reads(&two, &reads, &[f64::INFINITY, 100.0], 80), 400.0 + 100.0);
    }
}
