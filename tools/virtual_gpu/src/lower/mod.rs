//! From PTX to a kernel that the executor runs: selection of instructions, basic blocks, registers, code.

mod blocks;
mod in_flight;
mod names;
mod registers;
mod select;

use crate::ptx::{self, Body, Error, Item, Label, Module, Operand, Position, Sources, Statement, Why};
use crate::warp::{self, Inst, Kind, Slot};
use blocks::{Flow, Step};
use names::Names;
use registers::Places;
use select::{Field, Selected, Selector, blank};
use std::collections::HashMap;

pub use select::SPECIALS;

/// A kernel in the executor's form.
pub struct Kernel {
    pub name: String,
    pub code: Vec<Inst>,
    /// Operands that `Inst::ext` points into.
    pub operands: Vec<Vec<u32>>,
    pub consts: Vec<Slot>,
    pub slots: usize,
    pub preds: usize,
    pub mems: usize,
    /// Instructions of each basic block that a GPU has, too.
    pub blocks: Vec<u32>,
    pub local_bytes: usize,
    pub static_shared: usize,
    pub params_bytes: usize,
    /// Places of the statements, which `Inst::loc` numbers.
    pub positions: Vec<Position>,
    pub sources: Sources,
    /// The opcode of each instruction.
    pub texts: Vec<String>,
    /// The line of each instruction in the module's PTX; 0: it has none.
    pub lines: Vec<u32>,
    /// Start and end of each variable in shared memory; the last is all dynamic shared memory and has no end.
    pub shared_variables: Vec<(u32, u32)>,
    pub vregs: usize,
    pub max_threads: u32,
}
// Safety: the pointers of `code` lead into `operands`, which nobody changes.
unsafe impl Send for Kernel {}
// Safety: as above; a kernel is only read.
unsafe impl Sync for Kernel {}

/// Makes a kernel of the entry `name`; `globals` are the addresses of the module's variables.
pub fn compile(module: &Module, globals: &HashMap<String, u64>, name: &str) -> Result<Kernel, Error> {
    let body = ptx::parse_entry(module, name)?;
    let entry = &module.entries[name];
    let whole = |why: Why| Error::new(0, "", why).within(name);
    let names = Names::new(module, entry, &body, globals).map_err(whole)?;
    let mut selector = Selector::new(&body, &names);
    let steps = steps(&mut selector, module, &body).map_err(|error| error.within(name))?;
    let mut flow = blocks::cut(steps.all, steps.labels).map_err(whole)?;
    in_flight::check(&mut flow, selector.classes.len()).map_err(|found| {
        let line = body.positions[found.loc as usize].line;
        Error::new(line, module.line(line), Why::Order(found.text.to_string())).within(name)
    })?;
    let places = registers::allocate(&flow, &selector.classes);
    let (code, operands) = encode(&flow, &places);
    Ok(Kernel {
        name: name.to_string(),
        texts: opcodes(&flow, &mut steps.opcodes.into_iter()),
        lines: flow.code.iter().map(|selected| body.positions[selected.inst.loc as usize].line).collect(),
        shared_variables: names.shared_variables.clone(),
        blocks: sizes(&flow),
        code,
        operands,
        slots: places.slots,
        preds: selector.predicates as usize,
        mems: selector.memory_instructions as usize,
        vregs: selector.classes.len(),
        consts: selector.constants.slots,
        local_bytes: names.local_bytes,
        static_shared: names.static_shared,
        params_bytes: entry.params_bytes,
        positions: body.positions,
        sources: body.sources,
        max_threads: entry.limits.threads().unwrap_or(1024),
    })
}

/// Each statement of an entry that the executor refuses: its opcode, and why.
pub fn refusals(module: &Module, globals: &HashMap<String, u64>, name: &str) -> Result<Vec<(String, Error)>, Error> {
    let body = ptx::parse_entry(module, name)?;
    let names = Names::new(module, &module.entries[name], &body, globals);
    let names = names.map_err(|why| Error::new(0, "", why).within(name))?;
    let mut selector = Selector::new(&body, &names);
    let mut steps = Steps { all: vec![], opcodes: vec![], labels: body.labels };
    let mut refused = vec![];
    for item in &body.items {
        let Item::Inst(statement) = item else { continue };
        if let Err(why) = steps.add(&mut selector, statement) {
            let line = body.positions[statement.loc as usize].line;
            refused.push((statement.op.clone(), Error::new(line, module.line(line), why).within(name)));
        }
    }
    Ok(refused)
}

/// The steps of a body.
struct Steps {
    all: Vec<Step>,
    /// The opcode of each step that is no label.
    opcodes: Vec<String>,
    /// How many labels there are.
    labels: u32,
}

/// Selects the instructions of a body.
fn steps(selector: &mut Selector, module: &Module, body: &Body) -> Result<Steps, Error> {
    let mut steps = Steps { all: vec![], opcodes: vec![], labels: body.labels };
    for item in &body.items {
        match item {
            Item::Label(label) => steps.all.push(Step::Label(*label)),
            Item::Inst(statement) => steps.add(selector, statement).map_err(|why| {
                let line = body.positions[statement.loc as usize].line;
                Error::new(line, module.line(line), why)
            })?,
        }
    }
    Ok(steps)
}

impl Steps {
    fn new_label(&mut self) -> Label {
        self.labels += 1;
        Label(self.labels - 1)
    }

    fn instruction(&mut self, statement: &Statement, selected: Selected) {
        self.all.push(Step::Instruction(selected));
        self.opcodes.push(statement.op.clone());
    }

    fn branch(&mut self, statement: &Statement, guard: Option<(u32, bool)>, target: Label) {
        self.all.push(Step::Branch(branch(guard, statement.loc), target));
        self.opcodes.push(statement.op.clone());
    }

    /// The instructions of one statement, under its guard where it has one.
    fn add(&mut self, selector: &mut Selector, statement: &Statement) -> Result<(), Why> {
        let guard = statement.guard.map(|(register, negated)| (selector.predicate_number(register), negated));
        match (statement.op.split('.').next().unwrap_or(""), &statement.operands[..]) {
            ("bra", [Operand::Label(target)]) => {
                self.branch(statement, guard, *target);
                return Ok(());
            }
            ("bra", _) => return Err(Why::Operand("a branch needs one label".into())),
            _ => {}
        }
        let mut selected = selector.select(statement)?;
        let alone = selected.len() == 1 && matches!(selected[0].inst.kind, Kind::Plain | Kind::Mem);
        match guard {
            Some((predicate, negated)) if alone => {
                let only = selected.remove(0).guarded(predicate, negated);
                self.instruction(statement, only);
            }
            // what cannot be under a guard is jumped over
            Some((predicate, negated)) => {
                let behind = self.new_label();
                self.branch(statement, Some((predicate, !negated)), behind);
                self.unguarded(selector, statement, selected)?;
                self.all.push(Step::Label(behind));
            }
            None => self.unguarded(selector, statement, selected)?,
        }
        Ok(())
    }

    fn unguarded(&mut self, selector: &mut Selector, statement: &Statement, all: Vec<Selected>) -> Result<(), Why> {
        for selected in all {
            self.instruction(statement, selected);
        }
        if !statement.op.starts_with("brx") {
            return Ok(());
        }
        // an indexed branch compares with each number in turn; behind the last there is no target
        let Some(Operand::Vec(targets)) = statement.operands.get(1) else {
            return Err(Why::Operand("an indexed branch needs a list of labels".into()));
        };
        for (number, target) in targets.iter().enumerate() {
            let Operand::Label(target) = target else { return Err(Why::Operand("a target is not a label".into())) };
            let (predicate, comparison) = selector.equals(statement, number as u64)?;
            self.instruction(statement, comparison);
            self.branch(statement, Some((predicate, false)), *target);
        }
        self.instruction(statement, Selected::new(warp::nop, Kind::Trap));
        Ok(())
    }
}

fn branch(guard: Option<(u32, bool)>, loc: u32) -> Inst {
    let (guard_register, neg) = guard.unwrap_or((0, false));
    let kind = if guard.is_some() { Kind::BraIf } else { Kind::Bra };
    Inst { kind, guard: guard_register, neg, guarded: guard.is_some(), loc, ..blank() }
}

/// The opcode of each instruction of a flow; what the cutter added is named by what it does.
fn opcodes(flow: &Flow, texts: &mut dyn Iterator<Item = String>) -> Vec<String> {
    let of = |selected: &Selected| match selected.inst.kind {
        Kind::Enter => "enter".to_string(),
        _ => texts.next().unwrap_or_else(|| "ret".to_string()),
    };
    flow.code.iter().map(of).collect()
}

/// Instructions with slots in the place of virtual registers, and the operands that they point to.
fn encode(flow: &Flow, places: &Places) -> (Vec<Inst>, Vec<Vec<u32>>) {
    let mut code = Vec::with_capacity(flow.code.len());
    let mut operands = Vec::with_capacity(flow.code.len());
    for selected in &flow.code {
        let mut inst = selected.inst.clone();
        let list: Vec<u32> = selected
            .fields
            .iter()
            .map(|field| match field {
                Field::Write(register) | Field::Read(register) => places.of(*register),
                Field::Fixed(value) => *value,
            })
            .collect();
        for (to, from) in inst.r.iter_mut().zip(&list) {
            *to = *from;
        }
        inst.ext = list.as_ptr();
        operands.push(list);
        code.push(inst);
    }
    for block in &flow.blocks {
        code[block.first].imm = (block.end - block.first - 1) as i64;
    }
    (code, operands)
}

/// Instructions of each block that are counted.
fn sizes(flow: &Flow) -> Vec<u32> {
    let counted =
        |block: &blocks::Block| flow.code[block.first + 1..block.end].iter().filter(|s| s.inst.counted).count();
    flow.blocks.iter().map(|block| counted(block) as u32).collect()
}
