//! The clusters of a launch over threads of this processor.

use super::cluster::{Cluster, SHORT_TURN};
use super::report::Entries;
use super::schedule::nth_block;
use super::{Launch, Options, Problem};
use crate::sanitize::{Sanitize, Watch};
use crate::warp::LAUNCH_FAILED;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// What the threads that run one launch share.
struct Work<'a> {
    launch: &'a Launch,
    options: &'a Options,
    watch: Option<Arc<Watch>>,
    allocs: &'a Vec<(u64, u64)>,
    workspace: u64,
    threads: u64,
    next: AtomicU64,
    stop: AtomicBool,
    problem: Mutex<Option<Problem>>,
    entries: Mutex<Entries>,
}

/// Runs all blocks; what they did, or the first problem.
pub fn run_blocks(l: &Arc<Launch>, o: &Options, allocs: &Vec<(u64, u64)>, workspace: u64) -> Result<Entries, Problem> {
    let watch = (o.sanitize != Sanitize::Off).then(|| Watch::new(l));
    let work = Work {
        launch: l,
        options: o,
        watch: watch.clone(),
        allocs,
        workspace,
        threads: (o.threads as u64).min(l.clusters()).max(1),
        next: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        problem: Mutex::new(None),
        entries: Mutex::new(Entries::new(&l.kernel)),
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
    if let Some(problem) = work.problem.into_inner().unwrap() {
        return Err(problem);
    }
    if o.sanitize == Sanitize::Fail && watch.is_some_and(|watch| watch.found()) {
        let text = format!("kernel {}: the sanitizer found what is said above", l.kernel.name);
        return Err(Problem { code: LAUNCH_FAILED, text });
    }
    Ok(work.entries.into_inner().unwrap())
}

impl Work<'_> {
    fn cluster(&self) -> Cluster {
        Cluster::new(self.launch, self.watch.as_ref(), self.allocs)
    }
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
    fn failed(&self, problem: Problem) {
        self.stop.store(true, Ordering::Relaxed);
        self.problem.lock().unwrap().get_or_insert(problem);
    }

    /// The clusters of a cooperative launch that fall to thread `me`, all under way at once.
    fn resident(&self, me: u64) {
        let mut entries = Entries::new(&self.launch.kernel);
        let mine = (0..self.launch.clusters()).filter(|n| n % self.threads == me);
        let start = |n| {
            let mut cluster = self.cluster();
            cluster.start(self.launch, self.options, n, self.workspace);
            cluster
        };
        let mut clusters: Vec<Cluster> = mine.map(start).collect();
        'all: while !self.stopped() && clusters.iter().any(|c| !c.done) {
            for cluster in clusters.iter_mut().filter(|c| !c.done) {
                if let Err(problem) = cluster.turn(self.launch, &mut entries.0, SHORT_TURN) {
                    self.failed(problem);
                    break 'all;
                }
            }
        }
        self.entries.lock().unwrap().add(&entries);
    }

    /// One cluster after the other, until there are no more.
    fn in_turn(&self) {
        let mut entries = Entries::new(&self.launch.kernel);
        let mut cluster = self.cluster();
        while let Some(n) = self.next_cluster() {
            cluster.start(self.launch, self.options, n, self.workspace);
            if let Err(problem) = cluster.run(self.launch, &mut entries.0, || self.stopped()) {
                self.failed(problem);
            }
        }
        self.entries.lock().unwrap().add(&entries);
    }

    fn next_cluster(&self) -> Option<u64> {
        let sample = self.options.sample.div_ceil(self.launch.cluster_blocks() as u64);
        let total = self.launch.clusters();
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let sampled = sample > 0 && sample < total;
        if self.stopped() || n >= if sampled { sample } else { total } {
            return None;
        }
        Some(nth_block(if sampled { n * total / sample } else { n }, total, self.options.seed))
    }
}
