//! Work on every core ahead of one consumer, with a bound on what waits in between.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::Result;

/// Decoded volumes wait in memory, up to 300 MB each: no more than this many cores decode.
const MOST_THREADS: usize = 16;

/// `make` of every job, on as many threads as there are cores, in the order of the jobs; `take` gets the results on the calling
/// thread, in the order in which they are ready. At most one result a thread, and two, exist at a time. Ends early when `take`
/// fails or `stop` is set.
pub fn ahead<J: Sync, T: Send>(
    jobs: &[J],
    stop: &AtomicBool,
    make: impl Fn(&J) -> T + Sync,
    mut take: impl FnMut(usize, T) -> Result<()>,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(MOST_THREADS).min(jobs.len());
    std::thread::scope(|scope| {
        let (sender, made) = crossbeam_channel::bounded(1);
        for _ in 0..threads {
            let (sender, next, make) = (sender.clone(), &next, &make);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(job) = jobs.get(at) else { break };
                    // The receiver is gone when the work has ended early.
                    if sender.send((at, make(job))).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        for (at, result) in made {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            take(at, result)?;
        }
        Ok(())
    })
}
