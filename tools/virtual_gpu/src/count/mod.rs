//! Counters of one kernel.

use crate::warp::Inst;
use std::collections::HashMap;

pub const CLASSES: [&str; 14] = [
    "fp32",
    "fp64",
    "int",
    "convert",
    "move",
    "predicate",
    "branch",
    "ld/st global",
    "ld/st shared",
    "ldmatrix",
    "mma",
    "shuffle",
    "barrier",
    "other",
];
pub const C_FP32: u8 = 0;
pub const C_FP64: u8 = 1;
pub const C_INT: u8 = 2;
pub const C_CVT: u8 = 3;
pub const C_MOV: u8 = 4;
pub const C_PRED: u8 = 5;
pub const C_BRA: u8 = 6;
pub const C_GLOBAL: u8 = 7;
pub const C_SHARED: u8 = 8;
pub const C_LDMATRIX: u8 = 9;
pub const C_MMA: u8 = 10;
pub const C_SHFL: u8 = 11;
pub const C_BAR: u8 = 12;
pub const C_OTHER: u8 = 13;

#[derive(Clone, Copy, Default)]
pub struct Access {
    pub requests: u64,
    pub sectors: u64, // or wavefronts, of shared memory
    pub ideal: u64,
    pub bytes: u64,
}

#[derive(Default, Clone)]
pub struct Stats {
    pub by_loc: HashMap<(u32, u8), Access>, // (loc, 0 load 1 store 2 atomic 3 async | 4 shared load 5 shared store 6 ldmatrix)
}

impl Stats {
    #[inline(never)]
    pub fn global(&mut self, i: &Inst, a: &[u64; 32], size: u32, m: u32, kind: u8) {
        if size > 16 {
            // a bulk copy
            let e = self.by_loc.entry((i.loc, kind)).or_default();
            e.requests += 1;
            e.sectors += (size / 32) as u64;
            e.ideal += (size / 32) as u64;
            e.bytes += size as u64;
            return;
        }
        let mut sectors = [0u64; 64];
        let mut n = 0;
        let mut bytes = 0;
        for l in 0..32 {
            if m >> l & 1 == 0 {
                continue;
            }
            bytes += size as u64;
            let mut s = a[l] / 32;
            while s <= (a[l] + size as u64 - 1) / 32 {
                // neighbours first
                if !(n > 0 && sectors[n - 1] == s) && !sectors[..n].contains(&s) {
                    sectors[n.min(63)] = s;
                    n = (n + 1).min(63);
                }
                s += 1;
            }
        }
        let e = self.by_loc.entry((i.loc, kind)).or_default();
        e.requests += 1;
        e.sectors += n as u64;
        // distinct bytes are not known; what a unit-stride access of these lanes would take
        e.ideal += bytes.div_ceil(32).min(n as u64);
        e.bytes += bytes;
    }

    /// Wavefronts: per phase of lanes (all for 4 bytes, halves for 8, quarters for 16) the most distinct words in one bank.
    #[inline(never)]
    pub fn shared(&mut self, i: &Inst, a: &[u32; 32], size: u32, m: u32, write: bool) {
        let per = match size {
            0..=4 => 32,
            8 => 16,
            _ => 8,
        };
        let mut waves = 0u64;
        let mut ideal = 0u64;
        let mut bytes = 0u64;
        for phase in 0..32 / per {
            let mut words: [[u32; 32]; 32] = [[0; 32]; 32];
            let mut counts = [0usize; 32];
            let mut any = false;
            for l in phase * per..(phase + 1) * per {
                if m >> l & 1 == 0 {
                    continue;
                }
                any = true;
                bytes += size as u64;
                for k in 0..size.div_ceil(4).max(1) {
                    let word = a[l] / 4 + k;
                    let bank = (word % 32) as usize;
                    if !words[bank][..counts[bank]].contains(&word) {
                        words[bank][counts[bank].min(31)] = word;
                        counts[bank] = (counts[bank] + 1).min(31);
                    }
                }
            }
            if any {
                waves += counts.iter().copied().max().unwrap_or(0) as u64;
                ideal += 1;
            }
        }
        let e = self.by_loc.entry((i.loc, if write { 5 } else { 4 })).or_default();
        e.requests += 1;
        e.sectors += waves;
        e.ideal += ideal;
        e.bytes += bytes;
    }

    pub fn ldmatrix(&mut self, i: &Inst, a: &[u32; 32], matrices: u32) {
        let mut waves = 0;
        for k in 0..matrices as usize {
            let mut words: Vec<u32> = vec![];
            let mut counts = [0u64; 32];
            for l in 8 * k..8 * k + 8 {
                for j in 0..4 {
                    let word = a[l] / 4 + j;
                    if !words.contains(&word) {
                        words.push(word);
                        counts[(word % 32) as usize] += 1;
                    }
                }
            }
            waves += counts.iter().max().unwrap();
        }
        let e = self.by_loc.entry((i.loc, 6)).or_default();
        e.requests += 1;
        e.sectors += waves;
        e.ideal += matrices as u64;
        e.bytes += 128 * matrices as u64;
    }

    pub fn add(&mut self, other: &Stats) {
        for (k, v) in &other.by_loc {
            let e = self.by_loc.entry(*k).or_default();
            e.requests += v.requests;
            e.sectors += v.sectors;
            e.ideal += v.ideal;
            e.bytes += v.bytes;
        }
    }
}
