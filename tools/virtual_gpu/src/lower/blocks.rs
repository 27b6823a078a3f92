//! Basic blocks: where they begin and end, and which follows which.

use super::select::{Role, Selected, blank};
use crate::ptx::{Label, Why};
use crate::warp::{Inst, Kind};
use std::collections::HashMap;

/// One step of a body in program order.
pub enum Step {
    Label(Label),
    Instruction(Selected),
    /// A branch to a label; its instruction carries the guard.
    Branch(Inst, Label),
}

/// Instructions `first..end` of a [`Flow`], of which the first is the block's `Kind::Enter`.
#[derive(Debug)]
pub struct Block {
    pub first: usize,
    pub end: usize,
    /// Numbers of the blocks that may run next.
    pub successors: Vec<usize>,
}

/// The instructions of a kernel, cut into basic blocks.
pub struct Flow {
    pub code: Vec<Selected>,
    pub blocks: Vec<Block>,
}

/// Cuts steps into blocks and resolves the targets of branches; falling off the end returns.
pub fn cut(steps: Vec<Step>, labels: u32) -> Result<Flow, Why> {
    let mut cutter = Cutter { flow: Flow { code: vec![], blocks: vec![] }, open: false };
    let mut block_of = vec![None; labels as usize];
    let mut branches: Vec<(usize, Label)> = vec![];
    for step in steps {
        match step {
            Step::Label(label) => {
                cutter.begin_at_label();
                block_of[label.0 as usize] = Some(cutter.flow.blocks.len() - 1);
            }
            Step::Instruction(selected) => cutter.push(selected),
            Step::Branch(inst, label) => {
                cutter.push(Selected { inst, fields: vec![], role: Role::Other });
                branches.push((cutter.flow.code.len() - 1, label));
            }
        }
    }
    let mut end = blank();
    end.kind = Kind::Ret;
    cutter.push(Selected { inst: end, fields: vec![], role: Role::Other });
    let Cutter { mut flow, .. } = cutter;
    let mut target_block: HashMap<usize, usize> = HashMap::new();
    for (at, label) in branches {
        let block =
            block_of[label.0 as usize].ok_or_else(|| format!("a branch leads to the missing label {}", label.0))?;
        target_block.insert(at, block);
        flow.code[at].inst.target = flow.blocks[block].first as u32;
    }
    link(&mut flow, &target_block);
    Ok(flow)
}

struct Cutter {
    flow: Flow,
    /// The last block takes further instructions.
    open: bool,
}

impl Cutter {
    fn begin(&mut self) {
        let mut enter = blank();
        enter.kind = Kind::Enter;
        enter.target = self.flow.blocks.len() as u32;
        let at = self.flow.code.len();
        self.flow.code.push(Selected { inst: enter, fields: vec![], role: Role::Other });
        self.flow.blocks.push(Block { first: at, end: at + 1, successors: vec![] });
        self.open = true;
    }

    /// Begins a block unless the one just begun is still empty.
    fn begin_at_label(&mut self) {
        let empty = self.open && self.flow.blocks.last().is_some_and(|block| block.end == block.first + 1);
        if !empty {
            self.begin();
        }
    }

    fn push(&mut self, selected: Selected) {
        if !self.open {
            self.begin();
        }
        self.open = !matches!(selected.inst.kind, Kind::Bra | Kind::BraIf | Kind::Ret);
        self.flow.code.push(selected);
        if let Some(block) = self.flow.blocks.last_mut() {
            block.end = self.flow.code.len();
        }
    }
}

/// Fills in the successors of each block.
fn link(flow: &mut Flow, target_block: &HashMap<usize, usize>) {
    let count = flow.blocks.len();
    for (number, block) in flow.blocks.iter_mut().enumerate() {
        let last = block.end - 1;
        let kind = flow.code[last].inst.kind;
        if matches!(kind, Kind::Bra | Kind::BraIf) {
            block.successors.push(target_block[&last]);
        }
        if !matches!(kind, Kind::Bra | Kind::Ret) && number + 1 < count {
            block.successors.push(number + 1);
        }
    }
}
