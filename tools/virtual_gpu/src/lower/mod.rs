//! From PTX to a kernel that the executor runs: selection of instructions, basic blocks, registers, code.

mod blocks;
mod in_flight;
mod names;
mod registers;
mod select;

use crate::ptx::{self, Body, Item, Module, Operand, Statement, Why};
use crate::warp::{Inst, Kind, Slot};
use blocks::{Flow, Step};
use names::Names;
use registers::Places;
use select::{Field, Selector, blank};
use std::collections::HashMap;

pub use select::SPECIALS;

/// Classes of instructions that are counted.
const CLASSES: usize = crate::count::CODES;

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
    /// Instructions of each class in each basic block.
    pub blocks: Vec<[u32; CLASSES]>,
    pub local_bytes: usize,
    pub static_shared: usize,
    pub params_bytes: usize,
    pub locs: Vec<(u32, u32, Option<(u32, u32)>)>,
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
pub fn compile(module: &Module, globals: &HashMap<String, u64>, name: &str) -> Result<Kernel, String> {
    let entry = module.entries.get(name).ok_or("no such entry")?;
    let body = ptx::parse_entry(module, name)?;
    let names = Names::new(module, entry, &body, globals);
    let mut selector = Selector::new(&body, &names);
    let (steps, mut texts) = steps(&mut selector, &body)?;
    let mut flow = blocks::cut(steps).map_err(|why| why.to_string())?;
    in_flight::check(&mut flow, body.classes.len()).map_err(|found| {
        let (file, line, _) = body.locs[found.loc as usize];
        let file = module.files.get(&file).map_or("the PTX", |name| name.as_str());
        format!("{} ({file}:{line})", found.text)
    })?;
    let places = registers::allocate(&flow, &body.classes);
    let (code, operands) = encode(&flow, &places);
    let max_threads = entry
        .head
        .find(".maxntid")
        .and_then(|p| entry.head[p + 8..].split(',').next().and_then(|x| x.trim().parse().ok()))
        .unwrap_or(1024);
    let (texts, lines) = opcodes(&flow, &mut texts);
    Ok(Kernel {
        name: name.to_string(),
        texts,
        lines,
        shared_variables: names.shared_variables.clone(),
        blocks: histograms(&flow),
        code,
        operands,
        slots: places.slots,
        preds: selector.predicates as usize,
        mems: selector.memory_instructions as usize,
        consts: selector.constants.slots,
        local_bytes: names.local_bytes,
        static_shared: names.static_shared,
        params_bytes: entry.params_bytes,
        locs: body.locs.clone(),
        vregs: body.classes.len(),
        max_threads,
    })
}

/// An opcode and its line in the PTX.
type Text = (String, u32);

/// Selects the instructions of a body; the texts are those of all steps that are no labels.
fn steps(selector: &mut Selector, body: &Body) -> Result<(Vec<Step>, std::vec::IntoIter<Text>), String> {
    let mut steps = vec![];
    let mut texts = vec![];
    for item in &body.items {
        match item {
            Item::Label(name) => steps.push(Step::Label(name.clone())),
            Item::Inst(statement) => {
                let before = steps.len();
                step(selector, statement, &mut steps)
                    .map_err(|why| format!("{} {:?}: {why}", statement.op, statement.operands))?;
                let made = steps[before..].iter().filter(|step| !matches!(step, Step::Label(_))).count();
                texts.extend(std::iter::repeat_n((statement.op.clone(), statement.line), made));
            }
        }
    }
    Ok((steps, texts.into_iter()))
}

/// The steps of one statement: its instruction, under its guard where it has one.
fn step(selector: &mut Selector, statement: &Statement, steps: &mut Vec<Step>) -> Result<(), Why> {
    let guard = statement.guard.map(|(register, negated)| (selector.predicate_number(register), negated));
    if let "bra" | "bra.uni" = statement.op.as_str() {
        let Some(Operand::Sym(label)) = statement.operands.first() else { return Err("a branch needs a label".into()) };
        steps.push(Step::Branch(branch(guard, statement.loc), label.clone()));
        return Ok(());
    }
    let selected = selector.select(statement)?;
    match guard {
        None => steps.push(Step::Instruction(selected)),
        Some((predicate, negated)) if matches!(selected.inst.kind, Kind::Plain | Kind::Mem) => {
            steps.push(Step::Instruction(selected.guarded(predicate, negated)));
        }
        // what cannot be under a guard is jumped over
        Some((predicate, negated)) => {
            let behind = format!("behind the statement {}", steps.len());
            steps.push(Step::Branch(branch(Some((predicate, !negated)), statement.loc), behind.clone()));
            steps.push(Step::Instruction(selected));
            steps.push(Step::Label(behind));
        }
    }
    Ok(())
}

fn branch(guard: Option<(u32, bool)>, loc: u32) -> Inst {
    let (guard_register, neg) = guard.unwrap_or((0, false));
    let kind = if guard.is_some() { Kind::BraIf } else { Kind::Bra };
    Inst { kind, guard: guard_register, neg, guarded: guard.is_some(), loc, class: crate::count::C_BRA, ..blank() }
}

/// Opcode and line of each instruction of a flow; what the cutter added is named by what it does.
fn opcodes(flow: &Flow, texts: &mut dyn Iterator<Item = Text>) -> (Vec<String>, Vec<u32>) {
    let of = |selected: &select::Selected| match selected.inst.kind {
        Kind::Enter => ("enter".to_string(), 0),
        _ => texts.next().unwrap_or_else(|| ("ret".to_string(), 0)),
    };
    flow.code.iter().map(of).unzip()
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

/// Instructions of each class in each block.
fn histograms(flow: &Flow) -> Vec<[u32; CLASSES]> {
    let count = |block: &blocks::Block| {
        let mut histogram = [0u32; CLASSES];
        for selected in &flow.code[block.first + 1..block.end] {
            histogram[selected.inst.class as usize] += 1;
        }
        histogram
    };
    flow.blocks.iter().map(count).collect()
}
