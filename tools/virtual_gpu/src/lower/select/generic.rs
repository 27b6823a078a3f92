//! Generic addresses (PTX ISA, "Generic Addressing" and `cvta`): shared, local and parameter memory are windows far above all addresses of global memory.

use super::*;
use crate::ptx::Statement;

/// Bits below the number of a window.
const WINDOW_SHIFT: u64 = 56;

/// The state spaces with a window, in the order of their numbers from 1; 0 is global memory.
const WINDOWS: [&str; 3] = ["shared", "local", "param"];

fn window(space: &str) -> Option<u64> {
    // that of the cluster contains the block's own
    let space = if space == "shared::cluster" { "shared" } else { space };
    WINDOWS.iter().position(|name| *name == space).map(|number| number as u64 + 1)
}

/// State spaces that an opcode can name.
const SPACES: [&str; 6] = ["global", "shared", "shared::cluster", "local", "param", "const"];

impl Selector<'_> {
    /// A statement whose addresses are put into the form that the selection takes, or nothing if they are in it.
    pub(super) fn with_plain_addresses(&mut self, statement: &Statement) -> Result<Option<Statement>, Why> {
        let form = Form::of(statement);
        let loads = matches!(form.parts[0], "ld" | "st" | "atom" | "red");
        if loads && form.has("const") {
            // constants lie among the module's other variables
            let op = statement.op.replacen(".const", ".global", 1);
            return Ok(Some(Statement { op, ..statement.clone() }));
        }
        let named = |operand: &Operand| match operand {
            Operand::Addr(base, _) => matches!(**base, Operand::Sym(_)).then(|| (**base).clone()),
            _ => None,
        };
        if loads && self.is_generic(&form) {
            if let Some(Operand::Sym(name)) = statement.operands.iter().find_map(named) {
                let op = in_space(&statement.op, self.names.space(&name));
                return Ok(Some(Statement { op, ..statement.clone() }));
            }
            return Ok(None);
        }
        let shared = (loads && (form.has("shared") || form.has("shared::cluster")))
            || matches!(form.parts[0], "ldmatrix" | "stmatrix" | "mbarrier")
            || (form.opcode.starts_with("cp.async") && form.parts[0] == "cp");
        if !shared {
            return Ok(None);
        }
        let mut narrowed = statement.clone();
        let mut changed = false;
        let from_global = form.parts[0] == "cp" && form.has("global");
        for (n, operand) in narrowed.operands.iter_mut().enumerate() {
            let Operand::Addr(base, _) = operand else { continue };
            if self.is_wide_register(base) && !(from_global && n == 1) {
                **base = self.narrowed(base)?;
                changed = true;
            }
        }
        Ok(changed.then_some(narrowed))
    }

    /// Whether a load, a store or an atomic operation names no state space.
    pub(super) fn is_generic(&self, form: &Form) -> bool {
        !SPACES.iter().any(|space| form.has(space))
    }

    /// The low half of a 64-bit register, in a register of its own.
    fn narrowed(&mut self, wide: &Operand) -> Result<Operand, Why> {
        let source = self.read(wide, true)?;
        let register = self.new_register(Class::W);
        let f = function_of("cvt.u32.u64")?;
        self.help(f, vec![Field::Write(register), source]);
        Ok(Operand::Reg(register))
    }

    /// `a op b` of 64 bits, in a register of its own.
    fn wide_helper(&mut self, op: &str, a: Field, b: Field) -> Result<u32, Why> {
        let register = self.new_register(Class::D);
        let f = function_of(op)?;
        self.help(f, vec![Field::Write(register), a, b]);
        Ok(register)
    }

    /// The number of the window of each lane's address.
    fn window_of(&mut self, address: Field) -> Result<u32, Why> {
        let shift = Field::Fixed(self.constants.of(WINDOW_SHIFT, false));
        self.wide_helper("shr.u64", address, shift)
    }

    /// A new predicate: `a comparison b` of 64 bits.
    fn compare_wide(&mut self, comparison: &str, a: Field, b: u64) -> Result<u32, Why> {
        let predicate = self.new_predicate();
        let f = function_of(&format!("setp.{comparison}.u64"))?;
        let b = Field::Fixed(self.constants.of(b, true));
        self.help(f, vec![Field::Fixed(predicate), a, b]);
        Ok(predicate)
    }

    /// A generic access: one access for each space that it can lead to, each under a guard; the one of global memory counts.
    pub(super) fn generic_access(&mut self, form: &Form) -> Result<Selected, Why> {
        let at = form
            .operands()
            .iter()
            .position(|operand| matches!(operand, Operand::Addr(..)))
            .ok_or_else(|| Why::Operand("the address is missing".into()))?;
        let (base, offset) = form.address(at)?;
        let address = self.read(base, true)?;
        let tag = Field::Read(self.window_of(address)?);
        let narrow = self.narrowed(base)?;
        let mask = Field::Fixed(self.constants.of((1 << WINDOW_SHIFT) - 1, true));
        let local = Operand::Reg(self.wide_helper("and.b64", address, mask)?);
        let mut windows = 0;
        for (space, base) in [("shared::cluster", &narrow), ("local", &local), ("param", &local)] {
            let mut statement = form.statement.clone();
            statement.op = in_space(form.opcode, space);
            statement.operands[at] = Operand::Addr(Box::new(base.clone()), offset);
            // what no access to a space can be is left to that of global memory, which finds the address out of bounds
            let Ok(selected) = self.by_group(&Form::of(&statement)) else { break };
            windows += 1;
            let number = window(space).unwrap_or(0);
            let predicate = self.compare_wide("eq", tag, number)?;
            self.helpers.push(selected.guarded(predicate, false).uncounted());
        }
        let mut statement = form.statement.clone();
        statement.op = in_space(form.opcode, "global");
        let global = self.by_group(&Form::of(&statement))?;
        let one = Field::Fixed(self.constants.of(1, true));
        let number = Field::Read(self.wide_helper("sub.u64", tag, one)?);
        let predicate = self.compare_wide("ge", number, windows)?;
        Ok(global.guarded(predicate, false))
    }

    /// `cvta.space.u64` and `cvta.to.space.u64`.
    pub(super) fn convert_address(&mut self, form: &Form) -> Result<Selected, Why> {
        let from_generic = form.part(1) == "to";
        let space = form.part(1 + from_generic as usize);
        if form.ty != "u64" {
            return Err("addresses are of 64 bits".into());
        }
        let to = self.write(form.operand(0)?, true)?;
        let mut fields = vec![to, self.read(form.operand(1)?, true)?];
        let op = match window(space) {
            Some(number) => {
                fields.push(Field::Fixed(self.constants.of(number << WINDOW_SHIFT, true)));
                if from_generic { "sub.u64" } else { "add.u64" }
            }
            None if matches!(space, "global" | "const") => "mov.u64",
            None => return Err(format!("the space {space} has no generic addresses").into()),
        };
        let f = function_of(op)?;
        Ok(Selected::plain(f, fields))
    }

    /// `isspacep.space p, address`; whose shared memory of the cluster it is makes no difference.
    pub(super) fn is_in_space(&mut self, form: &Form) -> Result<Selected, Why> {
        let number = match form.part(1) {
            "global" => 0,
            space => window(space).ok_or("this space is not known")?,
        };
        let to = self.predicate_destination(form.operand(0)?)?;
        let address = self.read(form.operand(1)?, true)?;
        let tag = Field::Read(self.window_of(address)?);
        let f = function_of("setp.eq.u64")?;
        let number = Field::Fixed(self.constants.of(number, true));
        Ok(Selected::plain(f, vec![to, tag, number]))
    }
}

/// An opcode with a state space behind its semantics and scope: `ld.volatile.u32` becomes `ld.volatile.global.u32`.
fn in_space(op: &str, space: &str) -> String {
    const BEFORE: [&str; 13] = [
        "ld", "st", "atom", "red", "weak", "volatile", "relaxed", "acquire", "release", "acq_rel", "cta", "cluster",
        "gpu",
    ];
    let mut parts: Vec<&str> = op.split('.').collect();
    let at = parts.iter().position(|part| !BEFORE.contains(part) && *part != "sys").unwrap_or(parts.len());
    parts.insert(at, space);
    parts.join(".")
}
