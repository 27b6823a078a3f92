//! What the processes (or threads) of a data-parallel run exchange: a small trait, and its forms without a network.
//!
//! Every rank makes the same calls in the same order with tensors of the same shape. Every rank gets the same bits of a sum;
//! without a network it is taken in the order of the ranks.

use std::sync::{Arc, Condvar, Mutex};

use crate::kernels::Write;
use crate::ops::pointwise::copy_into;
use crate::tensor::Tensor;
use crate::{Error, Result};

#[cfg(feature = "cuda")]
mod nccl;
#[cfg(feature = "cuda")]
pub use nccl::Nccl;

/// The ranks of a run, seen from one of them.
pub trait Collective {
    /// The number of this rank, from 0.
    fn rank(&self) -> usize;

    /// The number of all ranks.
    fn ranks(&self) -> usize;

    /// `whole` becomes every rank's `part`, one after the other in the order of the ranks.
    fn all_gather(&self, part: &Tensor, whole: &Tensor) -> Result<()>;

    /// `tensor` becomes its sum over all ranks.
    fn all_reduce(&self, tensor: &Tensor) -> Result<()>;
}

/// A run of one rank.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Collective for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn ranks(&self) -> usize {
        1
    }

    fn all_gather(&self, part: &Tensor, whole: &Tensor) -> Result<()> {
        whole.copy_from(part)
    }

    fn all_reduce(&self, _: &Tensor) -> Result<()> {
        Ok(())
    }
}

/// One rank of a run whose ranks are threads of this process on one device: on clones of one handle, or on handles with
/// queues of their own ([`crate::Device::new_stream`]). What a rank brings, the others read while all wait; what it writes is
/// its own. Tensors of different devices are an error, on every rank.
///
/// A rank that is dropped fails the calls that still wait for it.
pub struct Threads {
    rank: usize,
    group: Arc<Group>,
}

struct Group {
    ranks: usize,
    meeting: Mutex<Meeting>,
    changed: Condvar,
}

struct Meeting {
    arrived: usize,
    /// The number of meetings of all ranks so far.
    generation: u64,
    parts: Vec<Option<Tensor>>,
    left: bool,
}

impl Threads {
    /// The ranks of a run, one for each thread.
    pub fn group(ranks: usize) -> Vec<Threads> {
        let meeting = Meeting { arrived: 0, generation: 0, parts: vec![None; ranks], left: false };
        let group = Arc::new(Group { ranks, meeting: Mutex::new(meeting), changed: Condvar::new() });
        (0..ranks).map(|rank| Threads { rank, group: group.clone() }).collect()
    }

    /// Waits for every rank; what each brought.
    fn meet(&self, bring: Option<&Tensor>) -> Result<Vec<Tensor>> {
        if let Some(tensor) = bring {
            tensor.device().synchronize()?;
        }
        let poisoned = || Error::argument("collective", "another rank has panicked", "see its message");
        let mut meeting = self.group.meeting.lock().map_err(|_| poisoned())?;
        if bring.is_some() {
            meeting.parts[self.rank] = bring.cloned();
        }
        meeting.arrived += 1;
        let generation = meeting.generation;
        if meeting.arrived == self.group.ranks {
            meeting.arrived = 0;
            meeting.generation += 1;
            if bring.is_none() {
                // Every rank has taken what was brought, or it would not be here.
                meeting.parts.fill(None);
            }
            self.group.changed.notify_all();
        }
        while meeting.generation == generation {
            if meeting.left {
                return Err(Error::argument("collective", "another rank has left the run", "see why it ended"));
            }
            meeting = self.group.changed.wait(meeting).map_err(|_| poisoned())?;
        }
        Ok(meeting.parts.iter().flatten().cloned().collect())
    }

    /// Lets `work` read what every rank has brought and write on the queue of `own`, and waits until all have.
    fn exchange(&self, tensor: &Tensor, own: &Tensor, work: impl FnOnce(&[Tensor]) -> Result<()>) -> Result<()> {
        let parts = self.meet(Some(tensor))?;
        let fits = |part: &Tensor| part.expect("tensor of a collective", own.device(), tensor.shape(), tensor.dtype());
        let done = if parts.iter().all(|part| part.shape() == tensor.shape() && part.dtype() == tensor.dtype()) {
            parts.iter().try_for_each(fits).and_then(|()| work(&parts)).and_then(|()| own.device().synchronize())
        } else {
            let shapes: Vec<String> = parts.iter().map(|part| format!("{part:?}")).collect();
            Err(Error::argument("collective", format!("the ranks brought {}", shapes.join(", ")), "bring equal shapes"))
        };
        self.meet(None)?;
        done
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Ok(mut meeting) = self.group.meeting.lock() {
            meeting.left = true;
        }
        self.group.changed.notify_all();
    }
}

impl Collective for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        self.group.ranks
    }

    fn all_gather(&self, part: &Tensor, whole: &Tensor) -> Result<()> {
        self.exchange(part, whole, |parts| {
            for (rank, other) in parts.iter().enumerate() {
                whole.view(rank * part.numel(), part.shape().clone())?.copy_from(other)?;
            }
            Ok(())
        })
    }

    fn all_reduce(&self, tensor: &Tensor) -> Result<()> {
        let sum = Tensor::empty(tensor.device(), tensor.shape(), tensor.dtype(), "sum over the ranks")?;
        self.exchange(tensor, &sum, |parts| {
            let writes = std::iter::once(Write::Overwrite).chain(std::iter::repeat(Write::Accumulate));
            parts.iter().zip(writes).try_for_each(|(part, write)| copy_into(part, &sum, write))
        })?;
        tensor.copy_from(&sum)
    }
}
