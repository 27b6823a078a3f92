//! Instruction selection: from a statement of PTX to the function that executes it and the registers it reads and writes. One file for each group of opcodes.

mod arithmetic;
mod collective;
mod control;
mod generic;
mod hopper;
mod memory;
mod moves;
mod predicate;

use super::names::Names;
use crate::ptx::{Body, Class, Operand, Statement, Why};
use crate::warp::{self, Inst, Kind, NONE, OpFn, Slot};
use std::collections::HashMap;

pub use control::SPECIALS;

/// One operand of an instruction.
#[derive(Clone, Copy, Debug)]
pub enum Field {
    /// A virtual register that is written.
    Write(u32),
    /// A virtual register that is read.
    Read(u32),
    /// A constant's slot, a predicate's number, or `NONE`: nothing that needs a slot.
    Fixed(u32),
}

/// An instruction whose operands are virtual registers still.
pub struct Selected {
    pub inst: Inst,
    pub fields: Vec<Field>,
    pub role: Role,
}

/// What an instruction has to do with the asynchronous products of warpgroups.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// `wgmma.fence`.
    Fence,
    /// `wgmma.mma_async`.
    Product,
    /// `wgmma.commit_group`.
    Commit,
    /// `wgmma.wait_group` and the groups that may stay in flight.
    Wait(u32),
    /// Nothing.
    Other,
}

/// Marks a slot as one of the constants, and an operand of predicates as one.
const CONSTANT: u32 = 0x8000_0000;

/// An instruction that does nothing.
pub fn blank() -> Inst {
    Inst {
        f: warp::nop,
        r: [0; 4],
        ext: std::ptr::null(),
        imm: 0,
        target: 0,
        guard: 0,
        loc: 0,
        mem: 0,
        size: 0,
        count: 0,
        kind: Kind::Plain,
        neg: false,
        extends: false,
        guarded: false,
        signed: false,
        counted: true,
        order: 0,
    }
}

/// The function of a lane-wise opcode without modifiers, for helpers.
fn function_of(opcode: &str) -> Result<OpFn, Why> {
    let form = warp::forms::find(opcode).ok_or_else(|| format!("{opcode} is not known"))?;
    Ok(form.function().0)
}

/// Whether a type, such as `u64`, fills a pair of slots.
pub fn is_wide(ty: &str) -> bool {
    matches!(ty, "b64" | "u64" | "s64" | "f64")
}

/// A statement with its opcode taken apart.
pub struct Form<'a> {
    pub statement: &'a Statement,
    /// The whole opcode, such as `ld.global.v4.f32`.
    pub opcode: &'a str,
    /// The opcode's parts between the dots.
    pub parts: Vec<&'a str>,
    /// The last of the parts, which is the type of most opcodes.
    pub ty: &'a str,
}

impl<'a> Form<'a> {
    fn of(statement: &'a Statement) -> Form<'a> {
        let opcode = statement.op.as_str();
        let mut parts: Vec<&str> = opcode.split('.').collect();
        for part in &mut parts {
            // the block's own shared memory, and the parameters of the entry itself
            match *part {
                "shared::cta" => *part = "shared",
                "param::entry" => *part = "param",
                _ => {}
            }
        }
        let ty = parts[parts.len() - 1];
        Form { statement, opcode, parts, ty }
    }
    /// Operand `n`, or an error that says how many there are.
    pub fn operand(&self, n: usize) -> Result<&'a Operand, Why> {
        let given = &self.statement.operands;
        given.get(n).ok_or_else(|| Why::Operand(format!("operand {} is missing: there are {}", n + 1, given.len())))
    }
    /// Operand `n` if it is there.
    pub fn optional(&self, n: usize) -> Option<&'a Operand> {
        self.statement.operands.get(n)
    }
    pub fn operands(&self) -> &'a [Operand] {
        &self.statement.operands
    }
    /// Part `n` of the opcode, or nothing.
    pub fn part(&self, n: usize) -> &'a str {
        self.parts.get(n).copied().unwrap_or("")
    }
    pub fn has(&self, part: &str) -> bool {
        self.parts.contains(&part)
    }
    pub fn is_wide(&self) -> bool {
        is_wide(self.ty)
    }
    /// Operand `n`, which must be an address: its base and its offset.
    pub fn address(&self, n: usize) -> Result<(&'a Operand, i64), Why> {
        match self.operand(n)? {
            Operand::Addr(base, offset) => Ok((base, *offset)),
            _ => Err(Why::Operand(format!("operand {} is not an address", n + 1))),
        }
    }
    /// Operand `n`, which must be an integer.
    pub fn immediate(&self, n: usize) -> Result<u64, Why> {
        match self.operand(n)? {
            Operand::Imm(value) => Ok(*value),
            _ => Err(Why::Operand(format!("operand {} is not an immediate", n + 1))),
        }
    }
    /// Operand `n`, which must be a list in braces.
    pub fn list(&self, n: usize) -> Result<&'a [Operand], Why> {
        match self.operand(n)? {
            Operand::Vec(list) => Ok(list),
            _ => Err(Why::Operand(format!("operand {} is not a list in braces", n + 1))),
        }
    }
}

impl Selected {
    pub fn new(f: OpFn, kind: Kind) -> Selected {
        Selected { inst: Inst { f, kind, ..blank() }, fields: vec![], role: Role::Other }
    }
    /// A lane-wise instruction that cannot fail.
    pub fn plain(f: OpFn, fields: Vec<Field>) -> Selected {
        Selected { fields, ..Selected::new(f, Kind::Plain) }
    }
    /// As one that a GPU does not have: it helps to execute another.
    pub fn uncounted(mut self) -> Selected {
        self.inst.counted = false;
        self
    }
    pub fn with(mut self, fields: Vec<Field>) -> Selected {
        self.fields = fields;
        self
    }
    pub fn immediate(mut self, value: i64) -> Selected {
        self.inst.imm = value;
        self
    }

    /// Puts a plain instruction under a guard: what it does not write stays, so that its destinations are read, too.
    pub fn guarded(mut self, predicate: u32, negated: bool) -> Selected {
        self.inst.guard = predicate;
        self.inst.neg = negated;
        self.inst.guarded = true;
        self.inst.kind = Kind::Guarded;
        let written: Vec<Field> = self
            .fields
            .iter()
            .filter_map(|field| if let Field::Write(r) = field { Some(Field::Read(*r)) } else { None })
            .collect();
        while self.fields.len() < 4 {
            self.fields.push(Field::Fixed(NONE));
        }
        self.fields.extend(written);
        self
    }
}

/// Constants as slots that hold the same in every lane.
#[derive(Default)]
pub struct Constants {
    pub slots: Vec<Slot>,
    index: HashMap<(u64, bool), u32>,
}

impl Constants {
    /// A constant that is another in each lane.
    fn of_lanes(&mut self, values: [u32; 32]) -> u32 {
        self.slots.push(Slot(values));
        (self.slots.len() as u32 - 1) | CONSTANT
    }

    fn of(&mut self, value: u64, wide: bool) -> u32 {
        let value = if wide { value } else { value as u32 as u64 };
        if let Some(&place) = self.index.get(&(value, wide)) {
            return place;
        }
        let place = self.slots.len() as u32 | CONSTANT;
        if wide {
            // 32 lanes of 64 bits fill two slots in memory order
            let (low, high) = (value as u32, (value >> 32) as u32);
            let pair = Slot(std::array::from_fn(|k| if k % 2 == 0 { low } else { high }));
            self.slots.extend([pair, pair]);
        } else {
            self.slots.push(Slot([value as u32; 32]));
        }
        self.index.insert((value, wide), place);
        place
    }
}

/// Selects the instructions of one body.
pub struct Selector<'a> {
    /// What each virtual register holds; those of the body come first.
    pub classes: Vec<Class>,
    names: &'a Names<'a>,
    /// The number of each predicate register.
    predicate_of: Vec<u32>,
    pub predicates: u32,
    pub constants: Constants,
    /// Memory instructions so far: each caches the allocation that it touched last.
    pub memory_instructions: u32,
    /// What the statement at hand needs before its own instruction.
    helpers: Vec<Selected>,
}

impl<'a> Selector<'a> {
    pub fn new(body: &'a Body, names: &'a Names<'a>) -> Selector<'a> {
        let mut predicates = 0;
        let predicate_of = body
            .classes
            .iter()
            .map(|class| {
                predicates += (*class == Class::Pred) as u32;
                predicates.saturating_sub(1)
            })
            .collect();
        Selector {
            classes: body.classes.clone(),
            names,
            predicate_of,
            predicates,
            constants: Constants::default(),
            memory_instructions: 0,
            helpers: vec![],
        }
    }

    /// The instructions of a statement, without its guard: helpers that it needs, and what it says last.
    pub fn select(&mut self, statement: &Statement) -> Result<Vec<Selected>, Why> {
        let rewritten = self.with_plain_addresses(statement)?;
        let last = self.by_group(&Form::of(rewritten.as_ref().unwrap_or(statement)));
        let mut all = std::mem::take(&mut self.helpers);
        all.push(last?);
        for selected in &mut all {
            selected.inst.loc = statement.loc;
        }
        Ok(all)
    }

    /// Puts an instruction before that of the statement. Helpers are not counted.
    fn help(&mut self, f: OpFn, fields: Vec<Field>) {
        self.helpers.push(Selected::plain(f, fields).uncounted());
    }

    /// A register of the executor's own.
    fn new_register(&mut self, class: Class) -> u32 {
        self.classes.push(class);
        self.predicate_of.push(0);
        self.classes.len() as u32 - 1
    }

    /// The number of a predicate of the executor's own.
    fn new_predicate(&mut self) -> u32 {
        self.predicates += 1;
        self.predicates - 1
    }

    fn by_group(&mut self, form: &Form) -> Result<Selected, Why> {
        match form.parts[0] {
            "ret" | "exit" | "trap" | "brx" => self.control(form),
            "bar" | "barrier" => self.barrier(form),
            "fence" | "membar" | "prefetch" | "nanosleep" => self.ordering(form),
            "setmaxnreg" => self.setmaxnreg(form),
            "mov" => self.mov(form),
            "createpolicy" => self.cache_policy(form),
            "cvta" => self.convert_address(form),
            "isspacep" => self.is_in_space(form),
            "ld" | "st" | "atom" | "red" if self.is_generic(form) => self.generic_access(form),
            "ld" | "st" => self.load_or_store(form),
            "atom" | "red" => self.atomic(form),
            "cp" => self.copy(form),
            "shfl" => self.shuffle(form),
            "vote" => self.vote(form),
            "match" => self.matching(form),
            "redux" => self.redux(form),
            "elect" => self.elect(form),
            "activemask" => self.activemask(form),
            "ldmatrix" | "stmatrix" => self.matrices(form),
            "movmatrix" => self.movmatrix(form),
            "mma" => self.mma(form),
            "wgmma" => self.wgmma(form),
            "mbarrier" => self.mbarrier(form),
            "mapa" => self.mapa(form),
            "getctarank" => self.getctarank(form),
            _ => self.lane_wise(form),
        }
    }

    /// A source operand of one slot, or of two where `wide`.
    fn read(&mut self, operand: &Operand, wide: bool) -> Result<Field, Why> {
        Ok(match operand {
            Operand::Reg(register) => {
                let class = self.classes[*register as usize];
                if class == Class::Pred {
                    return Err(Why::Operand("a predicate stands where a value is expected".into()));
                }
                if (class == Class::D) != wide {
                    return Err(Why::Operand(format!("a source register has the wrong width ({class:?})")));
                }
                Field::Read(*register)
            }
            Operand::Imm(value) | Operand::F64(value) => Field::Fixed(self.constants.of(*value, wide)),
            Operand::F32(value) => Field::Fixed(self.constants.of(*value as u64, wide)),
            Operand::Sym(name) => {
                let address = self.names.address(name)?;
                Field::Fixed(self.constants.of(address, wide))
            }
            Operand::Offset(name, offset) => {
                let address = self.names.address(name)?.wrapping_add_signed(*offset);
                Field::Fixed(self.constants.of(address, wide))
            }
            Operand::Special(name) => return self.special(name, wide),
            _ => return Err(Why::Operand(format!("{operand:?} is not a source"))),
        })
    }

    /// A source operand that may be left out.
    fn read_optional(&mut self, operand: Option<&Operand>, wide: bool) -> Result<Field, Why> {
        operand.map_or(Ok(Field::Fixed(NONE)), |operand| self.read(operand, wide))
    }

    /// A destination of one slot, or of two where `wide`.
    fn write(&self, operand: &Operand, wide: bool) -> Result<Field, Why> {
        match operand {
            Operand::Reg(register) => {
                let class = self.classes[*register as usize];
                if class == Class::Pred || (class == Class::D) != wide {
                    return Err(Why::Operand(format!("the destination register has the wrong width ({class:?})")));
                }
                Ok(Field::Write(*register))
            }
            Operand::Sink => Ok(Field::Fixed(NONE)),
            _ => Err(Why::Operand(format!("{operand:?} is not a destination"))),
        }
    }

    pub fn predicate_number(&self, register: u32) -> u32 {
        self.predicate_of[register as usize]
    }

    /// Whether an operand is a register of 64 bits.
    fn is_wide_register(&self, operand: &Operand) -> bool {
        matches!(operand, Operand::Reg(register) if self.classes[*register as usize] == Class::D)
    }

    fn next_memory_instruction(&mut self) -> u32 {
        self.memory_instructions += 1;
        self.memory_instructions - 1
    }
}
