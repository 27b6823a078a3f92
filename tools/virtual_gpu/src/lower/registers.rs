//! Register allocation: which virtual registers live at once, and the slot of each (liveness by data flow, then a linear scan over the program's order).

use super::blocks::Flow;
use super::select::Field;
use crate::ptx::Class;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The slots of virtual registers; predicates have none.
pub struct Places {
    place: Vec<u32>,
    /// Slots of 32 lanes of 32 bits that a warp needs.
    pub slots: usize,
}

impl Places {
    /// The first slot of a virtual register.
    pub fn of(&self, register: u32) -> u32 {
        self.place[register as usize]
    }
}

/// Gives each virtual register of `flow` a slot that no register has while it lives.
pub fn allocate(flow: &Flow, classes: &[Class]) -> Places {
    let crossing = crossing_blocks(flow, classes);
    let live = Liveness::of(flow, &crossing, classes.len());
    scan(&intervals(flow, &crossing, &live, classes.len()), classes)
}

/// Registers that are live across the border of two blocks, in order.
fn crossing_blocks(flow: &Flow, classes: &[Class]) -> Vec<u32> {
    let mut home = vec![usize::MAX; classes.len()];
    let mut crosses = vec![false; classes.len()];
    for (number, block) in flow.blocks.iter().enumerate() {
        for selected in &flow.code[block.first..block.end] {
            for register in selected.reads().map(|r| r as usize) {
                // no block has written it yet, or another one has
                crosses[register] |= home[register] != number;
            }
            for register in selected.writes().map(|r| r as usize) {
                crosses[register] |= home[register] != usize::MAX && home[register] != number;
                home[register] = number;
            }
        }
    }
    (0..classes.len() as u32).filter(|&r| crosses[r as usize] && classes[r as usize] != Class::Pred).collect()
}

/// Sets of registers, one for each block, as rows of bits.
struct Sets {
    words: usize,
    bits: Vec<u64>,
}

impl Sets {
    fn empty(blocks: usize, registers: usize) -> Sets {
        let words = registers.div_ceil(64).max(1);
        Sets { words, bits: vec![0; blocks * words] }
    }
    fn row(&self, block: usize) -> &[u64] {
        &self.bits[block * self.words..(block + 1) * self.words]
    }
    fn insert(&mut self, block: usize, register: usize) {
        self.bits[block * self.words + register / 64] |= 1 << (register % 64);
    }
    fn contains(&self, block: usize, register: usize) -> bool {
        self.row(block)[register / 64] >> (register % 64) & 1 != 0
    }
    fn members(&self, block: usize) -> impl Iterator<Item = usize> + '_ {
        self.row(block).iter().enumerate().flat_map(|(word, &bits)| {
            std::iter::successors(Some(bits), |bits| Some(bits & bits.wrapping_sub(1)))
                .take_while(|bits| *bits != 0)
                .map(move |bits| word * 64 + bits.trailing_zeros() as usize)
        })
    }
}

/// Which of the crossing registers live where a block begins and where it ends.
struct Liveness {
    entering: Sets,
    leaving: Sets,
}

impl Liveness {
    fn of(flow: &Flow, crossing: &[u32], registers: usize) -> Liveness {
        let mut number = vec![usize::MAX; registers];
        for (k, &register) in crossing.iter().enumerate() {
            number[register as usize] = k;
        }
        let mut used = Sets::empty(flow.blocks.len(), crossing.len());
        let mut written = Sets::empty(flow.blocks.len(), crossing.len());
        for (b, block) in flow.blocks.iter().enumerate() {
            for selected in &flow.code[block.first..block.end] {
                for k in selected.reads().map(|r| number[r as usize]).filter(|k| *k != usize::MAX) {
                    if !written.contains(b, k) {
                        used.insert(b, k);
                    }
                }
                for k in selected.writes().map(|r| number[r as usize]).filter(|k| *k != usize::MAX) {
                    written.insert(b, k);
                }
            }
        }
        Liveness::solve(flow, used, &written)
    }

    /// Runs the equations backwards until nothing changes.
    fn solve(flow: &Flow, used: Sets, written: &Sets) -> Liveness {
        let words = used.words;
        let mut leaving = Sets { words, bits: vec![0; used.bits.len()] };
        let mut entering = Sets { words, bits: used.bits.clone() };
        let mut changed = true;
        while changed {
            changed = false;
            for (b, block) in flow.blocks.iter().enumerate().rev() {
                for word in 0..words {
                    let out = block.successors.iter().fold(0, |bits, &s| bits | entering.bits[s * words + word]);
                    let at = b * words + word;
                    leaving.bits[at] = out;
                    let new = used.bits[at] | (out & !written.bits[at]);
                    changed |= new != entering.bits[at];
                    entering.bits[at] = new;
                }
            }
        }
        Liveness { entering, leaving }
    }
}

/// The first and last moment at which a register is needed: instruction `n` reads at `2 n` and writes at `2 n + 1`.
#[derive(Clone, Copy)]
struct Interval {
    first: u32,
    last: u32,
}

impl Interval {
    const NEVER: Interval = Interval { first: u32::MAX, last: 0 };
    fn include(&mut self, moment: u32) {
        self.first = self.first.min(moment);
        self.last = self.last.max(moment);
    }
}

fn intervals(flow: &Flow, crossing: &[u32], live: &Liveness, registers: usize) -> Vec<Interval> {
    let mut intervals = vec![Interval::NEVER; registers];
    for (position, selected) in flow.code.iter().enumerate() {
        selected.reads().for_each(|r| intervals[r as usize].include(2 * position as u32));
        selected.writes().for_each(|r| intervals[r as usize].include(2 * position as u32 + 1));
    }
    for (b, block) in flow.blocks.iter().enumerate() {
        for k in live.entering.members(b) {
            intervals[crossing[k] as usize].include(2 * block.first as u32);
        }
        for k in live.leaving.members(b) {
            intervals[crossing[k] as usize].include(2 * block.end as u32);
        }
    }
    intervals
}

/// Linear scan with one pool of slots for each width: the pairs of 64-bit registers first, then the single ones.
fn scan(intervals: &[Interval], classes: &[Class]) -> Places {
    let wide = |register: u32| (classes[register as usize] == Class::D) as usize;
    let mut order: Vec<u32> = (0..intervals.len() as u32)
        .filter(|&r| intervals[r as usize].first != u32::MAX && classes[r as usize] != Class::Pred)
        .collect();
    order.sort_by_key(|&r| intervals[r as usize].first);
    let mut place = vec![0u32; intervals.len()];
    let mut free: [Vec<u32>; 2] = [vec![], vec![]];
    let mut count = [0u32; 2];
    let mut active: BinaryHeap<Reverse<(u32, u32)>> = BinaryHeap::new();
    for &register in &order {
        while let Some(&Reverse((last, ended))) = active.peek() {
            if last >= intervals[register as usize].first {
                break;
            }
            active.pop();
            free[wide(ended)].push(place[ended as usize]);
        }
        let width = wide(register);
        place[register as usize] = free[width].pop().unwrap_or_else(|| {
            count[width] += 1;
            count[width] - 1
        });
        active.push(Reverse((intervals[register as usize].last, register)));
    }
    let [singles, pairs] = count;
    for register in order {
        let at = &mut place[register as usize];
        *at = if wide(register) == 1 { *at * 2 } else { pairs * 2 + *at };
    }
    Places { place, slots: (pairs * 2 + singles) as usize }
}

impl super::select::Selected {
    /// Virtual registers that the instruction reads.
    fn reads(&self) -> impl Iterator<Item = u32> + '_ {
        self.fields.iter().filter_map(|field| if let Field::Read(register) = field { Some(*register) } else { None })
    }
    /// Virtual registers that the instruction writes.
    fn writes(&self) -> impl Iterator<Item = u32> + '_ {
        self.fields.iter().filter_map(|field| if let Field::Write(register) = field { Some(*register) } else { None })
    }
}
