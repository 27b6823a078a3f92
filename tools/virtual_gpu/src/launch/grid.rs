//! The blocks of a launch over threads of this processor.

use super::block::Block;
use super::report::{Entries, place};
use super::schedule::nth_block;
use super::{Launch, Options, Problem};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Instructions of a turn of a cooperative launch, whose blocks wait for each other.
const SHORT_TURN: i64 = 4000;

/// What the threads that run one launch share.
struct Work<'a> {
    launch: &'a Launch,
    options: &'a Options,
    allocs: &'a Vec<(u64, u64)>,
    workspace: u64,
    threads: u64,
    next: AtomicU64,
    stop: AtomicBool,
    problem: Mutex<Option<Problem>>,
    entries: Mutex<Entries>,
    races: Mutex<Vec<String>>,
}

/// Runs all blocks; what they did, or the first problem.
pub fn run_blocks(l: &Launch, o: &Options, allocs: &Vec<(u64, u64)>, workspace: u64) -> Result<Entries, Problem> {
    let work = Work {
        launch: l,
        options: o,
        allocs,
        workspace,
        threads: (o.threads as u64).min(l.blocks()).max(1),
        next: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        problem: Mutex::new(None),
        entries: Mutex::new(Entries::new(&l.kernel)),
        races: Mutex::new(vec![]),
    };
    let one = |me| if l.cooperative { work.resident(me) } else { work.in_turn() };
    if work.threads == 1 {
        one(0);
    } else {
        std::thread::scope(|scope| {
            for me in 0..work.threads {
                let one = &one;
                scope.spawn(move || one(me));
            }
        });
    }
    for race in work.races.into_inner().unwrap() {
        eprintln!("virtual_gpu: {}", race.split_once('|').map_or(race.as_str(), |x| x.1));
    }
    match work.problem.into_inner().unwrap() {
        Some(problem) => Err(problem),
        None => Ok(work.entries.into_inner().unwrap()),
    }
}

impl Work<'_> {
    fn block(&self) -> Block {
        Block::new(self.launch, self.options, self.allocs)
    }
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
    fn failed(&self, problem: Problem) {
        self.stop.store(true, Ordering::Relaxed);
        self.problem.lock().unwrap().get_or_insert(problem);
    }

    /// The blocks of a cooperative launch that fall to thread `me`, all under way at once.
    fn resident(&self, me: u64) {
        let mut entries = Entries::new(&self.launch.kernel);
        let mine = (0..self.launch.blocks()).filter(|n| n % self.threads == me);
        let start = |n| {
            let mut block = self.block();
            block.start(self.launch, self.options, n, self.workspace);
            block
        };
        let mut blocks: Vec<Block> = mine.map(start).collect();
        'all: while !self.stopped() && blocks.iter().any(|b| !b.done) {
            for block in blocks.iter_mut().filter(|b| !b.done) {
                if let Err(problem) = block.turn(self.launch, &mut entries.0, SHORT_TURN) {
                    self.failed(problem);
                    break 'all;
                }
            }
        }
        for block in &mut blocks {
            self.report_races(block);
        }
        self.entries.lock().unwrap().add(&entries);
    }

    /// One block after the other, until there are no more.
    fn in_turn(&self) {
        let mut entries = Entries::new(&self.launch.kernel);
        let mut block = self.block();
        while let Some(n) = self.next_block() {
            block.start(self.launch, self.options, n, self.workspace);
            if let Err(problem) = block.run(self.launch, &mut entries.0, || self.stopped()) {
                self.failed(problem);
            }
            self.report_races(&mut block);
        }
        self.entries.lock().unwrap().add(&entries);
    }

    fn next_block(&self) -> Option<u64> {
        let (total, sample) = (self.launch.blocks(), self.options.sample);
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let sampled = sample > 0 && sample < total;
        if self.stopped() || n >= if sampled { sample } else { total } {
            return None;
        }
        Some(nth_block(if sampled { n * total / sample } else { n }, total, self.options.seed))
    }

    fn report_races(&self, block: &mut Block) {
        if block.env.races.is_empty() {
            return;
        }
        let k = &self.launch.kernel;
        let mut all = self.races.lock().unwrap();
        for r in block.env.races.drain(..) {
            let at = |loc| place(k, &self.launch.module, loc);
            let (first, second) = (at(r.first), at(r.second));
            let who = if r.kind.starts_with("global") { "block" } else { "warp" };
            let key = format!("{} {} {first} {second}", k.name, r.kind);
            if !all.iter().any(|x| x.starts_with(&key)) {
                let warps = r.warps;
                let text = format!(
                    "{}, offset {}: {first} ({who} {}) then {second} ({who} {})",
                    r.kind, r.at, warps.0, warps.1
                );
                all.push(format!("{key}|race in {}: {text}", k.name));
            }
        }
    }
}
