//! Launches that are counted: one thread of this machine, as many blocks under way as the chip holds, each block's warps a few
//! instructions at a time, so that the caches meet what they would meet on the chip.

use super::class::{CLASSES, Class, Operands, class_of, products, shape};
use super::machine::{Machine, Stats, Traffic};
use super::resources::registers;
use super::sample::{Piece, pieces, whole_reads};
use super::total::Counted;
use crate::launch::{Cluster, Entries, Launch, Options, Problem, place};
use crate::lower::Kernel;
use crate::profile::Profile;
use crate::warp::Kind;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Instructions of a warp's turn.
const TURN: i64 = 64;
/// Bytes of this machine's memory for the registers and shared memory of blocks under way.
const BUDGET: usize = 1 << 30;
/// Instructions of warps that what a sample leaves out may take to be run as well, so that what it writes is there: a norm, or the
/// emptiness of a brick, decides what later launches do.
const CHEAP: u64 = 4_000_000;

/// Instructions by class, products by shape: of each basic block of a kernel.
struct Contents {
    classes: Vec<[u64; CLASSES]>,
    shapes: Vec<BTreeMap<String, u64>>,
    half: Vec<u64>,
    tf32: Vec<u64>,
}

impl Contents {
    fn of(kernel: &Kernel) -> Contents {
        let blocks = kernel.blocks.len();
        let mut all = Contents {
            classes: vec![[0; CLASSES]; blocks],
            shapes: vec![BTreeMap::new(); blocks],
            half: vec![0; blocks],
            tf32: vec![0; blocks],
        };
        let mut block = 0;
        for (inst, opcode) in kernel.code.iter().zip(&kernel.texts).filter(|(inst, _)| inst.counted) {
            if inst.kind == Kind::Enter {
                block = inst.target as usize;
                continue;
            }
            if matches!(inst.kind, Kind::Bra | Kind::BraIf | Kind::Ret) {
                all.classes[block][Class::Control as usize] += 1;
                continue;
            }
            all.classes[block][class_of(opcode) as usize] += 1;
            if let Some((operations, operands)) = products(opcode) {
                *all.shapes[block].entry(shape(opcode).unwrap_or_default()).or_default() += 1;
                match operands {
                    Operands::Tf32 => all.tf32[block] += operations,
                    Operands::Half => all.half[block] += operations,
                    Operands::Eight => all.half[block] += operations / 2,
                }
            }
        }
        all
    }
}

/// The blocks that the chip holds at once.
struct Residency {
    /// Blocks of one multiprocessor; none where no limit of registers is known for the kernel's name and the others decide.
    of_one: u32,
    /// L1 of a multiprocessor with them, bytes.
    l1: u32,
    registers: Option<u32>,
}

fn residency(launch: &Launch, chip: &Profile) -> Residency {
    let threads = launch.block.iter().product();
    let shared = launch.kernel.static_shared as u32 + launch.dynamic_shared;
    let known = registers(&launch.kernel.name, chip.capability);
    let of_one = chip.resident_blocks(threads, shared, known.unwrap_or(1)).max(1);
    let taken = if shared == 0 { 0 } else { of_one * (shared + 1024) };
    Residency { of_one, l1: chip.l1(taken), registers: known }
}

/// Bytes that a block under way takes here.
fn bytes_of_block(launch: &Launch) -> usize {
    let kernel = &launch.kernel;
    let warps = launch.block.iter().product::<u32>().div_ceil(32) as usize;
    warps * (kernel.slots * 128 + kernel.local_bytes * 32 + 8192)
        + kernel.static_shared
        + launch.dynamic_shared as usize
        + kernel.mems * 16
}

/// Runs a launch and counts it.
pub fn run(
    launch: &Launch,
    sample: u64,
    allocations: &Vec<(u64, u64)>,
    workspace: u64,
    chip: &'static Profile,
    machine: &Arc<Mutex<Machine>>,
) -> Result<(Counted, Entries), Problem> {
    let kernel = &*launch.kernel;
    let (total, of_cluster) = (launch.clusters(), launch.cluster_blocks() as u64);
    let residency = residency(launch, chip);
    let lock = || machine.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    lock().start(kernel.code.len(), chip.multiprocessors as usize, residency.l1, allocations);
    // One order, and no checks: a count repeats.
    let options = Options { threads: 1, sanitize: Default::default(), sample, seed: 0 };
    let entries = Entries::new(kernel);
    let mut runner = Runner { launch, options: &options, allocations, workspace, machine, chip, entries, longest: 0 };
    let (pieces, slots) = if launch.cooperative {
        (pieces(total, 0), total as usize)
    } else {
        let held = (residency.of_one * chip.multiprocessors) as usize;
        let blocks = held.min(BUDGET / bytes_of_block(launch));
        (pieces(total, sample.div_ceil(of_cluster)), (blocks / of_cluster as usize).max(1))
    };
    let mut reads = vec![];
    for piece in &pieces {
        runner.run(*piece, slots)?;
        reads.push(lock().footprint.take_reads());
    }
    runner.complete(&pieces)?;
    let machine = lock();
    let caps = machine.footprint.most_reads(chip.l2);
    let mut counted = Counted {
        kernel: kernel.name.clone(),
        blocks: launch.blocks(),
        blocks_run: pieces.iter().map(Piece::clusters).sum::<u64>() * of_cluster,
        threads: launch.threads(),
        shared: kernel.static_shared as u32 + launch.dynamic_shared,
        registers: residency.registers,
        resident: residency.of_one,
        critical_path: runner.longest,
        traffic: Traffic { dram_read: whole_reads(&pieces, &reads, &caps, total) as u64, ..machine.traffic },
        ..Counted::default()
    };
    add_instructions(&mut counted, kernel, &runner.entries);
    for (at, sites) in machine.sites.iter().enumerate() {
        let place = || place(kernel, &launch.module, at as u32);
        counted.sites.extend(sites.iter().flatten().map(|site| (place(), *site)));
    }
    Ok((counted, runner.entries))
}

/// Adds the instructions of every basic block that was entered.
fn add_instructions(counted: &mut Counted, kernel: &Kernel, entries: &Entries) {
    let contents = Contents::of(kernel);
    for (block, &(warps, lanes)) in entries.0.iter().enumerate().filter(|(_, entered)| entered.0 > 0) {
        counted.lanes += lanes * contents.classes[block].iter().sum::<u64>();
        counted.half += warps * contents.half[block];
        counted.tf32 += warps * contents.tf32[block];
        (0..CLASSES).for_each(|class| counted.classes[class] += warps * contents.classes[block][class]);
        for (shape, count) in &contents.shapes[block] {
            *counted.shapes.entry(shape.clone()).or_default() += warps * count;
        }
    }
}

/// Blocks of one launch under way.
struct Runner<'a> {
    launch: &'a Launch,
    options: &'a Options,
    allocations: &'a Vec<(u64, u64)>,
    workspace: u64,
    machine: &'a Arc<Mutex<Machine>>,
    chip: &'static Profile,
    entries: Entries,
    /// The longest critical path of a block, instructions.
    longest: u64,
}

impl Runner<'_> {
    /// Cluster `number` at its start, its blocks on the multiprocessors that their numbers fall to.
    fn cluster(&self, number: u64) -> Cluster {
        let mut cluster = Cluster::new(self.launch, None, self.allocations);
        let first = number * cluster.blocks.len() as u64;
        for (block, number) in cluster.blocks.iter_mut().zip(first..) {
            let multiprocessor = (number % self.chip.multiprocessors as u64) as usize;
            block.env.stats = Some(Box::new(Stats::new(self.machine, &self.launch.kernel.code, multiprocessor)));
            block.env.watched = true;
        }
        cluster.start(self.launch, self.options, number, self.workspace);
        cluster
    }

    /// Runs the clusters that are in no piece, uncounted, where they take little.
    fn complete(&self, pieces: &[Piece]) -> Result<(), Problem> {
        let total = self.launch.clusters();
        let run: u64 = pieces.iter().map(Piece::clusters).sum();
        let sizes = &self.launch.kernel.blocks;
        let instructions: u64 = self.entries.0.iter().zip(sizes).map(|((warps, _), size)| warps * *size as u64).sum();
        if run == total || instructions / run.max(1) * (total - run) > CHEAP {
            return Ok(());
        }
        let mut entries = Entries::new(&self.launch.kernel);
        let mut cluster = Cluster::new(self.launch, None, self.allocations);
        for number in (0..total).filter(|n| !pieces.iter().any(|piece| (piece.first..piece.end).contains(n))) {
            cluster.start(self.launch, self.options, number, self.workspace);
            cluster.run(self.launch, &mut entries.0, || false)?;
        }
        Ok(())
    }

    /// Runs some clusters, `slots` at a time: the first go round the multiprocessors, each further one to where one has ended.
    fn run(&mut self, piece: Piece, slots: usize) -> Result<(), Problem> {
        let mut waiting = piece.first..piece.end;
        let mut under_way: Vec<Cluster> = waiting.by_ref().take(slots).map(|number| self.cluster(number)).collect();
        while !under_way.is_empty() {
            for cluster in &mut under_way {
                cluster.turn(self.launch, &mut self.entries.0, TURN)?;
                if cluster.done {
                    let warps = cluster.blocks.iter().flat_map(|block| &block.warps);
                    self.longest = self.longest.max(warps.map(|warp| warp.path).max().unwrap_or(0));
                    if let Some(number) = waiting.next() {
                        cluster.start(self.launch, self.options, number, self.workspace);
                    }
                }
            }
            under_way.retain(|cluster| !cluster.done);
        }
        Ok(())
    }
}
