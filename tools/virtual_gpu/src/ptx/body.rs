//! Bodies of entries: statements with virtual registers; functions that they call are written in their place.

use super::declaration::{self, Variable};
use super::lexer::{Kind, Lexer, Token};
use super::operand::{self, Cursor, Operand};
use super::position::{Position, Sources};
use super::scope::{Scopes, Storage};
use super::{Entry, Error, Module, Why};
use std::collections::HashSet;

/// What a register holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    Pred,
    /// 16 or 32 bits: one slot.
    W,
    /// 64 bits: two slots.
    D,
}

/// A place that branches lead to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Label(pub u32);

/// A statement whose names are resolved.
#[derive(Debug, Clone)]
pub struct Statement {
    pub op: String,
    /// The predicate's register, and whether it is negated.
    pub guard: Option<(u32, bool)>,
    pub operands: Vec<Operand>,
    /// Number of its place in `Body::positions`.
    pub loc: u32,
    /// A bit for each byte of a load that is used; 0 if all are.
    pub used: u32,
}

#[derive(Debug, Clone)]
pub enum Item {
    Label(Label),
    Inst(Statement),
}

/// The statements of an entry.
#[derive(Debug, Default)]
pub struct Body {
    pub items: Vec<Item>,
    /// Of each virtual register.
    pub classes: Vec<Class>,
    /// How many labels there are.
    pub labels: u32,
    pub positions: Vec<Position>,
    pub sources: Sources,
    pub local: Vec<Variable>,
    pub shared: Vec<Variable>,
}

/// Reads the body of the entry `name`.
pub fn parse_entry(module: &Module, name: &str) -> Result<Body, Error> {
    let Some(entry) = module.entries.get(name) else {
        return Err(Error::new(0, "", Why::undeclared("entry", name)));
    };
    let mut reader = Reader::new(module);
    reader.body(entry).and_then(|()| reader.finish()).map_err(|error| error.within(name))
}

/// Most registers of a body.
const MOST_REGISTERS: usize = 1 << 22;
/// Most statements of a body once its functions are written into it.
const MOST_ITEMS: usize = 1 << 20;
/// Most functions that may call one another.
const DEEPEST_CALL: usize = 32;

pub(super) struct Reader<'m> {
    pub(super) module: &'m Module,
    pub(super) body: Body,
    pub(super) scopes: Scopes,
    /// Functions whose bodies are being read, the innermost last.
    pub(super) calls: Vec<Call>,
    /// What branches name: the scope, the name, and the branch's place.
    references: Vec<(usize, String, u32, String)>,
    source: u32,
    used: u32,
    /// Names of the body's variables, to make each unique.
    variables: HashSet<String>,
}

/// A function whose body is read where it is called.
pub(super) struct Call {
    pub(super) name: String,
    /// Where `ret` leads.
    pub(super) end: Label,
    /// The source line of the call.
    pub(super) source: u32,
}

impl<'m> Reader<'m> {
    fn new(module: &'m Module) -> Reader<'m> {
        let body = Body { positions: vec![Position::default()], ..Body::default() };
        Reader {
            module,
            body,
            scopes: Scopes::new(),
            calls: vec![],
            references: vec![],
            source: 0,
            used: 0,
            variables: HashSet::new(),
        }
    }

    /// Resolves the names of branches once all labels are known.
    fn finish(mut self) -> Result<Body, Error> {
        let mut targets = vec![];
        for (scope, name, line, statement) in &self.references {
            let label = self.scopes.label(*scope, name);
            targets.push(label.ok_or_else(|| Error::new(*line, statement, Why::undeclared("label", name)))?);
        }
        for item in &mut self.body.items {
            let Item::Inst(statement) = item else { continue };
            for operand in &mut statement.operands {
                let resolve = |operand: &mut Operand| {
                    if let Operand::Reference(number) = operand {
                        *operand = Operand::Label(Label(targets[*number as usize]));
                    }
                };
                match operand {
                    Operand::Vec(list) => list.iter_mut().for_each(resolve),
                    single => resolve(single),
                }
            }
        }
        Ok(self.body)
    }

    pub(super) fn new_register(&mut self, class: Class) -> u32 {
        self.body.classes.push(class);
        self.body.classes.len() as u32 - 1
    }

    pub(super) fn new_label(&mut self) -> Label {
        self.body.labels += 1;
        Label(self.body.labels - 1)
    }

    /// Reads a body's text.
    pub(super) fn body(&mut self, entry: &Entry) -> Result<(), Error> {
        let (start, end) = entry.body;
        let mut lexer = Lexer::new(self.module.text.get(start..end).unwrap_or(""), entry.line);
        let mut words: Vec<Token> = vec![];
        while let Some(token) = lexer.next()? {
            if token.is(b'{') {
                self.scopes.enter();
            } else if token.is(b'}') {
                if !self.scopes.leave() {
                    return Err(Error::new(token.line, "}", Why::Syntax("this brace closes none".into())));
                }
            } else if token.is(b';') {
            } else if token.text == ".loc" {
                self.location(token, &mut lexer)?;
            } else {
                words.clear();
                words.push(token);
                self.statement_or_label(&mut words, &mut lexer)?;
            }
            if self.body.items.len() > MOST_ITEMS {
                let why = Why::Limit("the entry has too many statements once its functions are written into it".into());
                return Err(Error::new(token.line, "", why));
            }
        }
        Ok(())
    }

    /// A `.loc` directive, which ends with its line.
    fn location(&mut self, first: Token, lexer: &mut Lexer) -> Result<(), Error> {
        let mut words = vec![];
        loop {
            let before = lexer.clone();
            match lexer.next()? {
                Some(token) if token.line == first.line => words.push(token),
                _ => {
                    *lexer = before;
                    break;
                }
            }
        }
        let call = self.calls.last().map(|call| call.source);
        self.source = self.body.sources.read(&words, call);
        Ok(())
    }

    /// What begins with a token that is neither brace nor `.loc`: a label, or a statement to its semicolon.
    fn statement_or_label<'t>(&mut self, words: &mut Vec<Token<'t>>, lexer: &mut Lexer<'t>) -> Result<(), Error> {
        let first = words[0];
        loop {
            let Some(token) = lexer.next()? else {
                let text = lexer.between(first.start, lexer.position());
                return Err(Error::new(first.line, text, Why::Syntax("the statement has no semicolon".into())));
            };
            if token.is(b':') && words.len() == 1 && first.is_word() {
                return self.label(first, lexer);
            }
            if token.is(b';') {
                let text = lexer.between(first.start, token.start);
                return self.statement(words, text);
            }
            words.push(token);
        }
    }

    /// A label, or the list of targets that it names.
    fn label<'t>(&mut self, name: Token<'t>, lexer: &mut Lexer<'t>) -> Result<(), Error> {
        let before = lexer.clone();
        match lexer.next()? {
            Some(token) if token.text == ".branchtargets" => {
                let mut targets = vec![];
                while let Some(token) = lexer.next()? {
                    if token.is(b';') {
                        break;
                    }
                    if token.is_word() {
                        targets.push(token.text.to_string());
                    }
                }
                self.scopes.add_branch_targets(name.text, targets);
            }
            Some(token) if matches!(token.text, ".callprototype" | ".calltargets") => {
                // only indirect calls need it, and those are refused
                while lexer.next()?.is_some_and(|token| !token.is(b';')) {}
            }
            _ => {
                *lexer = before;
                let label = self.new_label();
                if !self.scopes.add_label(name.text, label.0) {
                    return Err(Error::new(
                        name.line,
                        name.text,
                        Why::Syntax("the scope has this label already".into()),
                    ));
                }
                self.body.items.push(Item::Label(label));
            }
        }
        Ok(())
    }

    fn statement(&mut self, words: &[Token], text: &str) -> Result<(), Error> {
        let line = words[0].line;
        let position = Position { line, source: self.source };
        if self.body.positions.last() != Some(&position) {
            self.body.positions.push(position);
        }
        let mut cursor = Cursor::new(words);
        let done = if words[0].is_directive() {
            self.directive(&mut cursor)
        } else {
            self.instruction(&mut cursor, text, line)
        };
        match done {
            Ok(Done::Yes) => Ok(()),
            Ok(Done::Inside(error)) => Err(error),
            Err(why) => Err(Error::new(line, text, why)),
        }
    }

    fn directive(&mut self, cursor: &mut Cursor) -> Result<Done, Why> {
        match cursor.peek().map_or("", |token| token.text) {
            ".reg" => self.registers(cursor)?,
            ".pragma" => self.pragma(cursor),
            ".param" => {
                for variable in declaration::variables(cursor)? {
                    let storage = self.storage(&variable);
                    self.scopes.add_parameter(&variable.name, storage);
                }
            }
            space @ (".local" | ".shared") => {
                for variable in declaration::variables(cursor)? {
                    if !variable.init.is_empty() {
                        return Err(Why::Form(format!("memory in the space {space} has no initial value")));
                    }
                    self.variable(variable, space == ".shared");
                }
            }
            other => return Err(Why::Form(format!("the directive {other} in a body is not known"))),
        }
        cursor.finish().map(|()| Done::Yes)
    }

    /// `.reg .b32 %r<10>, %single;`
    fn registers(&mut self, cursor: &mut Cursor) -> Result<(), Why> {
        cursor.next();
        let class = match cursor.word()? {
            ".pred" => Class::Pred,
            ".b128" => return Err("registers of 128 bits are not known".into()),
            ty => match declaration::bytes_of(ty) {
                Some(8) => Class::D,
                Some(_) => Class::W,
                None => return Err(Why::Form(format!("registers of type {ty} are not known"))),
            },
        };
        loop {
            let name = cursor.word()?;
            if cursor.take(b'<') {
                let count = cursor.integer()?;
                cursor.expect(b'>')?;
                let first = self.body.classes.len();
                if count > MOST_REGISTERS as u64 || first + count as usize > MOST_REGISTERS {
                    return Err(Why::Limit(format!("the body has more than {MOST_REGISTERS} registers")));
                }
                self.body.classes.resize(first + count as usize, class);
                self.scopes.add_range(name, first as u32, count as u32);
            } else {
                let register = self.new_register(class);
                self.scopes.add_register(name, register);
            }
            if !cursor.take(b',') {
                return Ok(());
            }
        }
    }

    /// `.pragma "used_bytes_mask 4095"` says which bytes of the next load are looked at; others are hints.
    fn pragma(&mut self, cursor: &mut Cursor) {
        while let Some(token) = cursor.next() {
            if let (Kind::Text, Some(mask)) = (token.kind, token.text.trim().strip_prefix("used_bytes_mask")) {
                self.used = mask.trim().parse().unwrap_or(0);
            }
        }
    }

    /// Where a parameter of a call lives: a scalar in a register, all else in local memory.
    pub(super) fn storage(&mut self, variable: &Variable) -> Storage {
        if variable.scalar && variable.bytes <= 8 {
            let class = if variable.bytes == 8 { Class::D } else { Class::W };
            return Storage::Register { register: self.new_register(class), bytes: variable.bytes };
        }
        Storage::Memory(self.variable(variable.clone(), false))
    }

    /// Declares a variable of the current scope under a name that no other variable of the body has.
    fn variable(&mut self, mut variable: Variable, shared: bool) -> String {
        let mut unique = variable.name.clone();
        while !self.variables.insert(unique.clone()) {
            unique = format!("{}#{}", variable.name, self.variables.len());
        }
        self.scopes.add_variable(&variable.name, &unique);
        variable.name = unique.clone();
        if shared {
            self.body.shared.push(variable)
        } else {
            self.body.local.push(variable)
        }
        unique
    }

    fn instruction(&mut self, cursor: &mut Cursor, text: &str, line: u32) -> Result<Done, Why> {
        let guard = self.guard(cursor)?;
        let op = cursor.word()?;
        let used = std::mem::take(&mut self.used);
        let first = op.split('.').next().unwrap_or("");
        match first {
            "call" => return self.call(cursor, guard),
            "bra" => {
                let target = self.reference(cursor.word()?, line, text);
                self.push(op, guard, vec![target]);
            }
            "brx" => {
                let index = operand::operand(cursor, &self.scopes)?;
                cursor.expect(b',')?;
                let list = cursor.word()?;
                let targets =
                    self.scopes.branch_targets(list).ok_or_else(|| Why::undeclared("list of targets", list))?;
                let targets: Vec<String> = targets.clone();
                let targets = targets.iter().map(|target| self.reference(target, line, text)).collect();
                self.push(op, guard, vec![index, Operand::Vec(targets)]);
            }
            "ret" if !self.calls.is_empty() => {
                let end = self.calls.last().map_or(Label(0), |call| call.end);
                self.push("bra", guard, vec![Operand::Label(end)]);
            }
            _ if self.parameter_access(op, cursor, guard)? => {}
            _ => {
                let operands = self.operands(cursor)?;
                self.push(op, guard, operands);
                if let Some(Item::Inst(statement)) = self.body.items.last_mut() {
                    statement.used = used;
                }
            }
        }
        cursor.finish().map(|()| Done::Yes)
    }

    /// `@p` or `@!p` before an opcode.
    fn guard(&mut self, cursor: &mut Cursor) -> Result<Option<(u32, bool)>, Why> {
        if !cursor.take(b'@') {
            return Ok(None);
        }
        let negated = cursor.take(b'!');
        let name = cursor.word()?;
        match operand::Names::resolve(&self.scopes, name) {
            Some(Operand::Reg(register)) if self.body.classes[register as usize] == Class::Pred => {
                Ok(Some((register, negated)))
            }
            Some(_) => Err(Why::Operand(format!("the guard `{name}` is not a predicate"))),
            None => Err(Why::undeclared("predicate", name)),
        }
    }

    pub(super) fn operands(&mut self, cursor: &mut Cursor) -> Result<Vec<Operand>, Why> {
        let mut all = vec![];
        if cursor.is_empty() {
            return Ok(all);
        }
        loop {
            all.push(operand::operand(cursor, &self.scopes)?);
            if !cursor.take(b',') {
                return Ok(all);
            }
        }
    }

    pub(super) fn push(&mut self, op: &str, guard: Option<(u32, bool)>, operands: Vec<Operand>) {
        let loc = self.body.positions.len() as u32 - 1;
        self.body.items.push(Item::Inst(Statement { op: op.to_string(), guard, operands, loc, used: 0 }));
    }

    /// A label that may be declared later.
    fn reference(&mut self, name: &str, line: u32, text: &str) -> Operand {
        self.references.push((self.scopes.current(), name.to_string(), line, text.to_string()));
        Operand::Reference(self.references.len() as u32 - 1)
    }

    /// Puts the body of a function in the place of its call.
    pub(super) fn inline(&mut self, function: &Entry, end: Label) -> Result<(), InlineError> {
        if self.calls.iter().any(|call| call.name == function.name) {
            return Err(InlineError::Here(Why::Form(format!("the function {} calls itself", function.name))));
        }
        if self.calls.len() >= DEEPEST_CALL {
            return Err(InlineError::Here(Why::Limit("functions call one another too deep".into())));
        }
        let (source, used) = (self.source, std::mem::take(&mut self.used));
        self.calls.push(Call { name: function.name.clone(), end, source });
        let result = self.body(function).map_err(|error| InlineError::Inside(error.within(&function.name)));
        self.calls.pop();
        (self.source, self.used) = (source, used);
        result
    }
}

/// Why a function cannot be written where it is called.
pub(super) enum InlineError {
    /// The call is at fault.
    Here(Why),
    /// A statement of the function is.
    Inside(Error),
}

/// What became of a statement that is written rightly itself.
pub(super) enum Done {
    Yes,
    /// A function that it calls has an error.
    Inside(Error),
}
