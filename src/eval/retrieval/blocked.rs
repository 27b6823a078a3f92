//! Paired retrieval without the matrix of similarities: products of blocks of it by the `matrixmultiply` crate, and exact ones
//! wherever those could decide wrongly.
//!
//! A product's f32 arithmetic is off by no more than a bound. What lies farther than that from what it is compared with is decided
//! by it; what lies nearer is computed by [`similarity`], which is the same on every machine. So the outcome is that of comparing
//! similarities alone, whatever the machine's products, the cut into blocks and the number of threads.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::atomic::{self, AtomicUsize};

use rayon::prelude::*;

/// Most queries, and items, of a block of similarities: it stays in the second cache, and the more queries it has, the less often
/// items are packed for a product.
const ROWS: usize = 512;
const COLUMNS: usize = 512;
/// Fewest queries of a block, where there are threads for them.
const FEW_ROWS: usize = 64;

/// A row of the gallery by its similarity.
pub type Scored = (f32, u32);

/// Similarity of two rows: products summed in f64 in one order and rounded once, so that equal rows tie exactly.
pub fn similarity(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 8;
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut sums = [0.0f64; LANES];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] += f64::from(a[lane]) * f64::from(b[lane]);
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
    // -0 is 0.
    (sums.iter().sum::<f64>() + rest) as f32 + 0.0
}

/// The best first, equal ones by row.
pub fn by_score(a: &Scored, b: &Scored) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

/// What is known of one query.
#[derive(Clone, Default)]
pub struct Query {
    /// Items that are above its own.
    pub above: u32,
    /// The nearest items, the best first.
    pub best: Vec<Scored>,
}

impl Query {
    /// Adds what is known of the same query and other items.
    fn merge(&mut self, other: Query, k: usize) {
        self.above += other.above;
        self.best.extend(other.best);
        self.best.sort_unstable_by(by_score);
        self.best.truncate(k);
    }
}

/// Rows of `queries` in search of rows of `items`, which are paired; both `[pairs, dim]`.
struct Side<'a> {
    queries: &'a [f32],
    items: &'a [f32],
    /// Similarity of each pair.
    own: &'a [f32],
    dim: usize,
    k: usize,
    /// How far a product of f32 arithmetic is from the similarity, at most.
    bound: f32,
}

impl Side<'_> {
    fn similarity(&self, query: usize, item: u32) -> f32 {
        let (query, item) = (query * self.dim, item as usize * self.dim);
        similarity(&self.queries[query..][..self.dim], &self.items[item..][..self.dim])
    }

    /// Below the first of these, a product's item is not above a query's own; beyond the second it is.
    fn limits(&self, query: usize) -> [f32; 2] {
        [self.own[query] - self.bound, self.own[query] + self.bound]
    }

    /// Counts the items from `first` on that are above a query's own, by their products.
    fn count(&self, query: usize, first: usize, products: &[f32], state: &mut Query) {
        let [low, high] = self.limits(query);
        let more_than = |least: f32| products.iter().map(|&product| u32::from(product > least)).sum::<u32>();
        let above = more_than(high);
        state.above += above;
        if more_than(low) > above {
            state.above += self.near(query, first, products.iter().copied());
        }
    }

    /// How many items are above a query's own among those from `first` on whose products do not say.
    fn near(&self, query: usize, first: usize, products: impl Iterator<Item = f32>) -> u32 {
        let [low, high] = self.limits(query);
        let items = products.zip(first as u32..);
        let near = items.filter(|&(product, item)| product > low && product <= high && item as usize != query);
        near.map(|(_, item)| u32::from(self.similarity(query, item) > self.own[query])).sum()
    }

    /// [`Self::count`] of the queries from `query` on, whose products are the columns of a matrix.
    fn count_columns(&self, query: usize, first: usize, products: &[f32], states: &mut [Query], tally: &mut Tally) {
        let width = states.len();
        tally.start((query..query + width).map(|query| self.limits(query)));
        products.chunks_exact(width).for_each(|row| tally.add(row));
        for (j, state) in states.iter_mut().enumerate() {
            state.above += tally.above[j];
            if tally.not_below[j] > tally.above[j] {
                state.above += self.near(query + j, first, products[j..].iter().step_by(width).copied());
            }
        }
    }

    /// Puts those of the items that are among the nearest in their places.
    fn improve(&self, query: usize, first: usize, products: &[f32], state: &mut Query, spare: &mut Vec<Scored>) {
        // What is less than that is below k items that are known.
        let least = state.best.get(self.k - 1).map_or(f32::NEG_INFINITY, |worst| worst.0 - self.bound);
        if products.iter().map(|&product| u32::from(product >= least)).sum::<u32>() == 0 {
            return;
        }
        spare.clear();
        spare.extend(products.iter().copied().zip(first as u32..).filter(|(product, _)| *product >= least));
        if spare.len() > self.k {
            let (_, &mut (last, _), _) = spare.select_nth_unstable_by(self.k - 1, by_score);
            spare.retain(|(product, _)| *product >= last - 2.0 * self.bound);
        }
        state.best.extend(spare.iter().map(|&(_, item)| (self.similarity(query, item), item)));
        state.best.sort_unstable_by(by_score);
        state.best.truncate(self.k);
    }
}

/// What each row of `first` finds among those of `second`, and the other way round; both `[pairs, dim]`, L2-normalised. Each keeps
/// its `k` nearest.
pub fn both_ways(first: &[f32], second: &[f32], dim: usize, k: usize) -> [Vec<Query>; 2] {
    let pairs = first.len() / dim;
    let own: Vec<f32> =
        first.par_chunks_exact(dim).zip(second.par_chunks_exact(dim)).map(|(a, b)| similarity(a, b)).collect();
    // Twice n u |a| |b| (Higham 2002, Sec. 3.1): lengths are 1 within a thousandth, and the bounds are rounded themselves.
    let bound = (dim + 4) as f32 * f32::EPSILON;
    let forward = Side { queries: first, items: second, own: &own, dim, k, bound };
    let backward = Side { queries: second, items: first, ..forward };
    let threads = rayon::current_num_threads();
    let height = pairs.div_ceil(threads).clamp(FEW_ROWS, ROWS);
    let next = AtomicUsize::new(0);
    let work = |_| {
        let (mut rows, mut columns) = (Vec::new(), vec![Query::default(); pairs]);
        let mut memory = Memory::default();
        loop {
            let row = next.fetch_add(1, atomic::Ordering::Relaxed) * height;
            if row >= pairs {
                return (rows, columns);
            }
            let queries = row..pairs.min(row + height);
            rows.push((row, strip(&forward, &backward, queries, &mut columns, &mut memory)));
        }
    };
    let done: Vec<_> = (0..threads.min(pairs.div_ceil(height))).into_par_iter().map(work).collect();
    let (mut strips, mut found) = (Vec::new(), vec![Query::default(); pairs]);
    for (rows, columns) in done {
        strips.extend(rows);
        found.iter_mut().zip(columns).for_each(|(found, other)| found.merge(other, k));
    }
    strips.sort_unstable_by_key(|(row, _)| *row);
    [strips.into_iter().flat_map(|(_, queries)| queries).collect(), found]
}

/// What a thread keeps from block to block.
#[derive(Default)]
struct Memory {
    products: Vec<f32>,
    transposed: Vec<f32>,
    spare: Vec<Scored>,
    tally: Tally,
}

/// Counts of columns: of each, how many values are beyond two limits of its own.
#[derive(Default)]
struct Tally {
    low: Vec<f32>,
    high: Vec<f32>,
    not_below: Vec<u32>,
    above: Vec<u32>,
}

impl Tally {
    fn start(&mut self, limits: impl Iterator<Item = [f32; 2]>) {
        (self.low, self.high) = limits.map(|[low, high]| (low, high)).unzip();
        for counts in [&mut self.not_below, &mut self.above] {
            counts.clear();
            counts.resize(self.low.len(), 0);
        }
    }

    fn add(&mut self, row: &[f32]) {
        let counts = self.not_below.iter_mut().zip(&mut self.above);
        for ((&value, (&low, &high)), (not_below, above)) in row.iter().zip(self.low.iter().zip(&self.high)).zip(counts)
        {
            *not_below += u32::from(value > low);
            *above += u32::from(value > high);
        }
    }
}

/// What these queries of `forward` find; those of `backward` take in what they find among these rows.
fn strip(
    forward: &Side,
    backward: &Side,
    queries: Range<usize>,
    columns: &mut [Query],
    memory: &mut Memory,
) -> Vec<Query> {
    let Memory { products, transposed, spare, tally } = memory;
    let (pairs, row, height) = (columns.len(), queries.start, queries.len());
    let mut rows = vec![Query::default(); height];
    for column in (0..pairs).step_by(COLUMNS) {
        let width = COLUMNS.min(pairs - column);
        products.resize(height * width, 0.0);
        let columns = &mut columns[column..][..width];
        multiply(forward, [row, height], [column, width], products);
        for (i, products) in products.chunks_exact(width).enumerate() {
            forward.count(row + i, column, products, &mut rows[i]);
        }
        backward.count_columns(column, row, products, columns, tally);
        if forward.k == 0 {
            continue;
        }
        transposed.resize(height * width, 0.0);
        transpose(products, width, transposed);
        for (i, products) in products.chunks_exact(width).enumerate() {
            forward.improve(row + i, column, products, &mut rows[i], spare);
        }
        for (j, products) in transposed.chunks_exact(height).enumerate() {
            backward.improve(column + j, row, products, &mut columns[j], spare);
        }
    }
    rows
}

/// `[height, width]` products of queries from `row` and items from `column` on.
fn multiply(side: &Side, [row, height]: [usize; 2], [column, width]: [usize; 2], products: &mut [f32]) {
    let (d, stride) = (side.dim, side.dim as isize);
    let (a, b) = (&side.queries[row * d..][..height * d], &side.items[column * d..][..width * d]);
    assert_eq!(products.len(), height * width);
    // Safety: the slices hold as many rows as are read and written.
    unsafe {
        matrixmultiply::sgemm(
            height,
            d,
            width,
            1.0,
            a.as_ptr(),
            stride,
            1,
            b.as_ptr(),
            1,
            stride,
            0.0,
            products.as_mut_ptr(),
            width as isize,
            1,
        );
    }
}

/// Rows of `width` as columns, by squares that the cache holds.
fn transpose(from: &[f32], width: usize, to: &mut [f32]) {
    const SQUARE: usize = 16;
    let height = from.len() / width;
    for top in (0..height).step_by(SQUARE) {
        for left in (0..width).step_by(SQUARE) {
            for j in left..(left + SQUARE).min(width) {
                for i in top..(top + SQUARE).min(height) {
                    to[j * height + i] = from[i * width + j];
                }
            }
        }
    }
}
