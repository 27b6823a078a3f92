//! Calls: a function is written where it is called, and its parameters are registers or local variables (PTX ISA, "Abstracting the ABI" and `call`).

use super::body::{Class, Done, InlineError, Item, Reader};
use super::declaration::{Parameter, Variable};
use super::operand::{Cursor, Names, Operand, operand};
use super::scope::Storage;
use super::{Entry, Why};

impl Reader<'_> {
    /// `call (results), name, (arguments)`, from behind the opcode.
    pub(super) fn call(&mut self, cursor: &mut Cursor, guard: Option<(u32, bool)>) -> Result<Done, Why> {
        let results = self.arguments(cursor)?;
        if !results.is_empty() {
            cursor.expect(b',')?;
        }
        let name = cursor.word()?;
        let arguments = if cursor.take(b',') { self.arguments(cursor)? } else { vec![] };
        if self.scopes.resolve(name).is_some() || !cursor.is_empty() {
            return Err("a call through a register is not known".into());
        }
        let module = self.module;
        let Some(function) = module.functions.get(name) else {
            return self.external(name, guard);
        };
        let end = self.new_label();
        if let Some((predicate, negated)) = guard {
            self.push("bra", Some((predicate, !negated)), vec![Operand::Label(end)]);
        }
        let behind = self.bind(function, &results, &arguments)?;
        let caller = self.scopes.enter_function();
        for (parameter, storage) in behind.names {
            match storage {
                Bound::Parameter(storage) => self.scopes.add_parameter(&parameter, storage),
                Bound::Register(register) => self.scopes.add_register(&parameter, register),
            }
        }
        let exit = self.new_label();
        let result = self.inline(function, exit);
        self.scopes.return_to(caller);
        match result {
            Err(InlineError::Here(why)) => return Err(why),
            Err(InlineError::Inside(error)) => return Ok(Done::Inside(error)),
            Ok(()) => {}
        }
        self.body.items.push(Item::Label(exit));
        for (to, from) in behind.results {
            self.copy(to, Operand::Reg(from));
        }
        self.body.items.push(Item::Label(end));
        Ok(Done::Yes)
    }

    /// A function without a body: a failed assertion traps, all others are unknown.
    fn external(&mut self, name: &str, guard: Option<(u32, bool)>) -> Result<Done, Why> {
        match name {
            "__assertfail" | "__assert_fail" => {
                self.push("trap", guard, vec![]);
                Ok(Done::Yes)
            }
            _ if self.module.external_functions.contains(name) => {
                Err(Why::Form(format!("the function {name} has no body in this module")))
            }
            _ => Err(Why::undeclared("function", name)),
        }
    }

    /// `(a, b)`, or nothing.
    fn arguments(&mut self, cursor: &mut Cursor) -> Result<Vec<Argument>, Why> {
        let mut all = vec![];
        if !cursor.take(b'(') {
            return Ok(all);
        }
        while !cursor.take(b')') {
            let storage = cursor.peek().and_then(|token| self.scopes.parameter(token.text)).cloned();
            all.push(match storage {
                Some(storage) => {
                    cursor.next();
                    Argument::Parameter(storage)
                }
                None => Argument::Value(operand(cursor, &self.scopes)?),
            });
            if !cursor.take(b',') {
                cursor.expect(b')')?;
                break;
            }
        }
        Ok(all)
    }

    /// Binds the names of a function's parameters; values are copied into new registers.
    fn bind(&mut self, function: &Entry, results: &[Argument], arguments: &[Argument]) -> Result<Binding, Why> {
        let counts =
            [(function.returns.len(), results.len(), "results"), (function.params.len(), arguments.len(), "arguments")];
        for (declared, given, what) in counts {
            if declared != given {
                return Err(Why::Operand(format!("{} has {declared} {what}, and {given} are given", function.name)));
            }
        }
        let mut binding = Binding { names: vec![], results: vec![] };
        for (parameter, argument) in function.params.iter().zip(arguments) {
            let bound = match argument {
                Argument::Parameter(storage) if !parameter.in_register => Bound::Parameter(storage.clone()),
                Argument::Parameter(Storage::Register { register, .. }) => {
                    self.copied_into_new(parameter, Operand::Reg(*register))?
                }
                Argument::Parameter(Storage::Memory(_)) => {
                    return Err(Why::Operand(format!("`{}` is a register and takes no structure", parameter.name)));
                }
                Argument::Value(value) => self.copied_into_new(parameter, value.clone())?,
            };
            binding.names.push((parameter.name.clone(), bound));
        }
        for (parameter, result) in function.returns.iter().zip(results) {
            let bound = match result {
                Argument::Parameter(storage) if !parameter.in_register => Bound::Parameter(storage.clone()),
                Argument::Parameter(Storage::Register { register: to, .. }) | Argument::Value(Operand::Reg(to)) => {
                    let register = self.register_for(parameter)?;
                    binding.results.push((*to, register));
                    self.bound(parameter, register)
                }
                _ => return Err(Why::Operand(format!("the result `{}` goes to no register", parameter.name))),
            };
            binding.names.push((parameter.name.clone(), bound));
        }
        Ok(binding)
    }

    fn register_for(&mut self, parameter: &Parameter) -> Result<u32, Why> {
        let Parameter { name, bytes, align, scalar, .. } = parameter.clone();
        let variable = Variable { name, bytes, align, scalar, init: vec![], addresses: vec![] };
        match self.storage(&variable) {
            Storage::Register { register, .. } => Ok(register),
            Storage::Memory(_) => {
                Err(Why::Operand(format!("`{}` is a structure and takes no register", variable.name)))
            }
        }
    }

    fn bound(&self, parameter: &Parameter, register: u32) -> Bound {
        if parameter.in_register {
            Bound::Register(register)
        } else {
            Bound::Parameter(Storage::Register { register, bytes: parameter.bytes })
        }
    }

    fn copied_into_new(&mut self, parameter: &Parameter, value: Operand) -> Result<Bound, Why> {
        let register = self.register_for(parameter)?;
        self.copy(register, value);
        Ok(self.bound(parameter, register))
    }

    fn copy(&mut self, to: u32, from: Operand) {
        let op = match self.body.classes[to as usize] {
            Class::Pred => "mov.pred",
            Class::W => "mov.b32",
            Class::D => "mov.b64",
        };
        self.push(op, None, vec![Operand::Reg(to), from]);
    }

    /// Loads and stores of a call's parameters, which are moves or go to local memory; false if the statement is neither.
    pub(super) fn parameter_access(
        &mut self,
        op: &str,
        cursor: &mut Cursor,
        guard: Option<(u32, bool)>,
    ) -> Result<bool, Why> {
        let store = op.starts_with("st.param");
        if !store && !op.starts_with("ld.param") {
            return Ok(false);
        }
        let Some(name) = cursor.addressed_name() else { return Ok(false) };
        let Some(storage) = self.scopes.parameter(name).cloned() else { return Ok(false) };
        let mut operands = self.operands(cursor)?;
        if operands.len() != 2 {
            return Err(Why::Operand(format!("2 operands are expected, and {} are given", operands.len())));
        }
        match storage {
            Storage::Memory(_) => {
                let local = op.replace(".param::func", ".local").replace(".param", ".local");
                self.push(&local, guard, operands);
            }
            Storage::Register { register, bytes } => {
                let ty = op.rsplit('.').next().unwrap_or("");
                let whole = super::declaration::bytes_of(ty) == Some(bytes);
                let at = !store as usize;
                if !whole || operands[at] != Operand::Addr(Box::new(Operand::Reg(register)), 0) {
                    return Err("an access to a part of a scalar parameter is not known".into());
                }
                operands[at] = Operand::Reg(register);
                let op = self.move_of(ty, &operands, store);
                self.push(&op, guard, operands);
            }
        }
        Ok(true)
    }

    /// The move in the place of a load or store of a whole scalar parameter; loads extend.
    fn move_of(&self, ty: &str, operands: &[Operand], store: bool) -> String {
        let wide = matches!(operands[0], Operand::Reg(to) if self.body.classes[to as usize] == Class::D);
        let sign = if ty.starts_with('s') { 's' } else { 'u' };
        match (super::declaration::bytes_of(ty), wide) {
            (Some(8), _) => "mov.b64".to_string(),
            _ if store => "mov.b32".to_string(),
            (Some(4), false) => "mov.b32".to_string(),
            (_, wide) => format!("cvt.{sign}{}.{sign}{}", if wide { 64 } else { 32 }, &ty[1..]),
        }
    }
}

/// An argument or a result as the call names it.
enum Argument {
    Parameter(Storage),
    Value(Operand),
}

/// What a parameter's name means inside of the function.
enum Bound {
    Parameter(Storage),
    Register(u32),
}

struct Binding {
    names: Vec<(String, Bound)>,
    /// Registers of the caller, and those of the function that are copied into them at its end.
    results: Vec<(u32, u32)>,
}
