//! Scopes of a body: what braces enclose, and which names are visible there.

use super::operand::{Names, Operand};
use std::collections::HashMap;

/// Where a parameter of a call lives.
#[derive(Clone, Debug, PartialEq)]
pub enum Storage {
    /// One value in a register.
    Register { register: u32, bytes: usize },
    /// A structure or an array, as a local variable of this name.
    Memory(String),
}

/// The names of one pair of braces.
#[derive(Default)]
pub struct Scope {
    parent: Option<usize>,
    registers: HashMap<String, u32>,
    /// `%r<10>`: the first register and how many there are, by prefix.
    ranges: HashMap<String, (u32, u32)>,
    parameters: HashMap<String, Storage>,
    /// The unique name of each variable.
    variables: HashMap<String, String>,
    labels: HashMap<String, u32>,
    branch_targets: HashMap<String, Vec<String>>,
}

/// All scopes of a body; those that ended are kept for the labels.
pub struct Scopes {
    all: Vec<Scope>,
    current: usize,
}

impl Scopes {
    pub fn new() -> Scopes {
        Scopes { all: vec![Scope::default()], current: 0 }
    }
    pub fn current(&self) -> usize {
        self.current
    }
    pub fn enter(&mut self) {
        self.all.push(Scope { parent: Some(self.current), ..Scope::default() });
        self.current = self.all.len() - 1;
    }
    /// Begins a scope that sees nothing of the current one, for the body of a function; gives back the one to return to.
    pub fn enter_function(&mut self) -> usize {
        self.all.push(Scope::default());
        std::mem::replace(&mut self.current, self.all.len() - 1)
    }
    pub fn return_to(&mut self, scope: usize) {
        self.current = scope;
    }
    /// Ends the current scope; false if it is the outermost one.
    pub fn leave(&mut self) -> bool {
        match self.all[self.current].parent {
            Some(parent) => {
                self.current = parent;
                true
            }
            None => false,
        }
    }
    fn here(&mut self) -> &mut Scope {
        &mut self.all[self.current]
    }
    pub fn add_register(&mut self, name: &str, register: u32) {
        self.here().registers.insert(name.to_string(), register);
    }
    pub fn add_range(&mut self, prefix: &str, first: u32, count: u32) {
        self.here().ranges.insert(prefix.to_string(), (first, count));
    }
    pub fn add_parameter(&mut self, name: &str, storage: Storage) {
        self.here().parameters.insert(name.to_string(), storage);
    }
    pub fn add_variable(&mut self, name: &str, unique: &str) {
        self.here().variables.insert(name.to_string(), unique.to_string());
    }
    /// False if the scope has this label already.
    pub fn add_label(&mut self, name: &str, label: u32) -> bool {
        self.here().labels.insert(name.to_string(), label).is_none()
    }
    pub fn add_branch_targets(&mut self, name: &str, targets: Vec<String>) {
        self.here().branch_targets.insert(name.to_string(), targets);
    }

    /// A scope and those that enclose it, from the inside.
    fn chain(&self, from: usize) -> impl Iterator<Item = &Scope> {
        std::iter::successors(self.all.get(from), |scope| scope.parent.map(|parent| &self.all[parent]))
    }
    /// The label of this name that a statement in scope `from` sees.
    pub fn label(&self, from: usize, name: &str) -> Option<u32> {
        self.chain(from).find_map(|scope| scope.labels.get(name).copied())
    }
    pub fn parameter(&self, name: &str) -> Option<&Storage> {
        self.chain(self.current).find_map(|scope| scope.parameters.get(name))
    }
    pub fn branch_targets(&self, name: &str) -> Option<&Vec<String>> {
        self.chain(self.current).find_map(|scope| scope.branch_targets.get(name))
    }
}

impl Scope {
    fn register(&self, name: &str) -> Option<u32> {
        if let Some(register) = self.registers.get(name) {
            return Some(*register);
        }
        let digits = name.bytes().rev().take_while(u8::is_ascii_digit).count();
        let (prefix, number) = name.split_at(name.len() - digits);
        let (first, count) = self.ranges.get(prefix)?;
        let number: u32 = number.parse().ok()?;
        (number < *count).then(|| first + number)
    }

    fn resolve(&self, name: &str) -> Option<Operand> {
        if let Some(register) = self.register(name) {
            return Some(Operand::Reg(register));
        }
        if let Some(unique) = self.variables.get(name) {
            return Some(Operand::Sym(unique.clone()));
        }
        match self.parameters.get(name)? {
            Storage::Register { register, .. } => Some(Operand::Reg(*register)),
            Storage::Memory(unique) => Some(Operand::Sym(unique.clone())),
        }
    }
}

impl Names for Scopes {
    fn resolve(&self, name: &str) -> Option<Operand> {
        self.chain(self.current).find_map(|scope| scope.resolve(name))
    }
}
