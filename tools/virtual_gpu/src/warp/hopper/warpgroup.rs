//! Whether the four warps of a warpgroup do the same: `wgmma` and `setmaxnreg` are `.aligned`, so that all threads of the
//! warpgroup execute the same instruction (PTX ISA, "Asynchronous warpgroup-level matrix instructions" and "setmaxnreg"),
//! and a product has one pair of matrices.

use crate::warp::*;
use std::collections::VecDeque;

/// An instruction of a warpgroup: its number in the kernel, and the operands that its warps share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    pub pc: u32,
    pub operands: [u64; 3],
}

/// The instructions of one warpgroup that some of its warps have executed and others have not yet.
#[derive(Default)]
pub struct Warpgroup {
    steps: VecDeque<Step>,
    /// Steps that all four have executed.
    past: usize,
    /// Steps that each warp has executed.
    executed: [usize; 4],
}

impl Warpgroup {
    /// Notes the next step of a warp; false where another warp has done something else in its place.
    fn follow(&mut self, warp: usize, step: Step) -> bool {
        let place = self.executed[warp] - self.past;
        match self.steps.get(place) {
            Some(&other) if other != step => return false,
            Some(_) => {}
            None => self.steps.push_back(step),
        }
        self.executed[warp] += 1;
        while self.executed.iter().all(|&executed| executed > self.past) {
            self.steps.pop_front();
            self.past += 1;
        }
        true
    }
}

/// Fails the warp unless its warpgroup has four warps and those that were here before did the same.
///
/// # Safety
/// `i` is an instruction of the kernel of `w`, whose block is alive.
pub unsafe fn in_step(w: &mut Warp, i: &Inst, operands: [u64; 3]) -> bool {
    let (group, warp) = (w.index as usize / 4, w.index as usize % 4);
    let step = Step { pc: unsafe { number_of(w, i) }, operands };
    let groups = &mut w.env().warpgroups;
    let text = match groups.get_mut(group).map(|warps| warps.follow(warp, step)) {
        Some(true) => return true,
        Some(false) => format!(
            "warp {} does not execute what the other warps of its warpgroup execute, or with another operand",
            w.index
        ),
        None => "this instruction needs a warpgroup, but the block ends before the fourth warp".to_string(),
    };
    w.fail(LAUNCH_FAILED, 0, text);
    false
}
