//! Reads a header of parameter structs. It is C++ as the compilers take it, in this subset:
//!
//! ```cpp
//! #pragma once
//! #include <cstdint>
//! #include "common/walk.h"            // another header of this subset, shared by families
//!
//! struct SumExp;                      // defined in C++ alone: only pointers to it appear here
//!
//! /// Documentation, one or more lines. Rust knows the constant as `MAX_PAIRS`, a `usize`.
//! constexpr uint32_t kMaxPairs = 4;
//!
//! /// Documentation of the struct.
//! struct ScaleParams {
//!     /// Documentation of the field.
//!     const void* x;
//!     /// One line a field: a type, a name, perhaps one length.
//!     uint32_t size[3];
//! };
//! ```
//!
//! A field's type is `int8_t` to `int64_t`, `uint8_t` to `uint64_t`, `float`, `double`, a pointer to one of these, to `void` or to
//! a struct, or a struct declared above or in an included header. Its length is a number or a constant, at most 32 (as far as
//! Rust's `Default` reaches). Both languages lay such structs out by the same rule, padding included. What they might not agree
//! on does not exist here: `bool`, `int`, `size_t`, enumerations, bit fields, unions, base classes, `alignas`, member functions,
//! initial values, pointers to pointers.

use super::lexer::{At, Token, tokens};
use super::{Problem, Result};

/// The longest array that implements Rust's `Default`.
const LONGEST: usize = 32;

pub struct Header {
    /// Its path below `kernels`.
    pub file: String,
    /// Lines and names of the project's headers that it includes.
    pub includes: Vec<(usize, String)>,
    /// Structs that only pointers may point to.
    pub opaque: Vec<String>,
    pub constants: Vec<Constant>,
    pub structs: Vec<Struct>,
}

/// A length, known to both languages.
pub struct Constant {
    pub doc: Vec<String>,
    /// As C++ writes it: `kMaxPairs`.
    pub name: String,
    pub value: usize,
}

impl Constant {
    /// As Rust writes it: `MAX_PAIRS`.
    pub fn rust_name(&self) -> String {
        let mut name = String::new();
        for c in self.name.trim_start_matches('k').chars() {
            if c.is_ascii_uppercase() && !name.is_empty() {
                name.push('_');
            }
            name.push(c.to_ascii_uppercase());
        }
        name
    }
}

pub struct Struct {
    pub doc: Vec<String>,
    pub name: String,
    pub line: usize,
    pub fields: Vec<Field>,
}

pub struct Field {
    pub doc: Vec<String>,
    pub name: String,
    pub line: usize,
    pub kind: Kind,
    pub length: Option<Length>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// Rust's name of a number's type.
    Scalar(&'static str),
    /// What is pointed to, as C++ writes it.
    Pointer(String),
    Struct(String),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Length {
    Number(usize),
    /// The name of a [`Constant`], as C++ writes it.
    Constant(String),
}

const SCALARS: [(&str, &str); 10] = [
    ("int8_t", "i8"),
    ("int16_t", "i16"),
    ("int32_t", "i32"),
    ("int64_t", "i64"),
    ("uint8_t", "u8"),
    ("uint16_t", "u16"),
    ("uint32_t", "u32"),
    ("uint64_t", "u64"),
    ("float", "f32"),
    ("double", "f64"),
];

fn scalar(name: &str) -> Option<&'static str> {
    SCALARS.iter().find(|(c, _)| *c == name).map(|(_, rust)| *rust)
}

impl Header {
    /// Whether every struct that a field names is declared above it or in `included`.
    pub fn check_types(&self, included: &[&str]) -> Result<()> {
        for (index, s) in self.structs.iter().enumerate() {
            let above = |name: &str| self.structs[..index].iter().any(|other| other.name == name);
            for field in &s.fields {
                let known = match &field.kind {
                    Kind::Scalar(_) => true,
                    Kind::Struct(name) => above(name) || included.contains(&name.as_str()),
                    Kind::Pointer(name) => {
                        let plain = name == "void" || scalar(name).is_some();
                        plain || above(name) || included.contains(&name.as_str()) || self.opaque.contains(name)
                    }
                };
                if !known {
                    let (name, hint) = match &field.kind {
                        Kind::Pointer(name) => {
                            (name, "declare the struct above (`struct NAME;` if C++ alone knows it)")
                        }
                        Kind::Struct(name) => (name, "use a type such as uint32_t or float, or declare a struct above"),
                        Kind::Scalar(_) => unreachable!("scalars are known"),
                    };
                    let message = format!("`{name}`, the type of `{}`, is unknown; {hint}.", field.name);
                    return Err(Problem::new(&self.file, field.line, message));
                }
                self.check_length(s, field)?;
            }
        }
        Ok(())
    }

    fn check_length(&self, s: &Struct, field: &Field) -> Result<()> {
        let length = match &field.length {
            None => return Ok(()),
            Some(Length::Number(length)) => *length,
            Some(Length::Constant(name)) => match self.constants.iter().find(|c| c.name == *name) {
                Some(constant) => constant.value,
                None => {
                    let message =
                        format!("`{name}`, the length of `{}`, is unknown; declare the constant above.", field.name);
                    return Err(Problem::new(&self.file, field.line, message));
                }
            },
        };
        if (1..=LONGEST).contains(&length) {
            return Ok(());
        }
        let message = format!("`{}::{}` has {length} elements; use 1 to {LONGEST}.", s.name, field.name);
        Err(Problem::new(&self.file, field.line, message))
    }
}

/// Reads the header `file` whose text is `text`.
pub fn parse(file: &str, text: &str) -> Result<Header> {
    let header = Header {
        file: file.into(),
        includes: Vec::new(),
        opaque: Vec::new(),
        constants: Vec::new(),
        structs: Vec::new(),
    };
    let mut parser = Parser { header, tokens: tokens(file, text)?, next: 0 };
    while parser.next < parser.tokens.len() {
        parser.item()?;
    }
    Ok(parser.header)
}

struct Parser {
    header: Header,
    tokens: Vec<At>,
    next: usize,
}

impl Parser {
    fn line(&self) -> usize {
        self.tokens.get(self.next).or(self.tokens.last()).map_or(1, |at| at.line)
    }

    fn problem<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(Problem::new(&self.header.file, self.line(), message))
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.next).map(|at| &at.token)
    }

    /// Takes a symbol if it is next.
    fn take(&mut self, symbol: char) -> bool {
        let found = self.peek() == Some(&Token::Symbol(symbol));
        self.next += usize::from(found);
        found
    }

    fn expect(&mut self, symbol: char, what: &str) -> Result<()> {
        if self.take(symbol) { Ok(()) } else { self.problem(format!("`{symbol}` is missing {what}.")) }
    }

    fn word(&mut self, what: &str) -> Result<String> {
        match self.peek() {
            Some(Token::Word(word)) => {
                let word = word.clone();
                self.next += 1;
                Ok(word)
            }
            _ => self.problem(format!("{what} is missing.")),
        }
    }

    fn docs(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(Token::Doc(line)) = self.peek() {
            lines.push(line.clone());
            self.next += 1;
        }
        lines
    }

    fn documented(&self, doc: &[String], what: &str) -> Result<()> {
        if doc.iter().any(|line| !line.trim().is_empty()) {
            return Ok(());
        }
        self.problem(format!("{what} has no documentation; write a line `/// ...` above it, which Rust's users read."))
    }

    /// One item of the file: a preprocessor line, a constant or a struct.
    fn item(&mut self) -> Result<()> {
        if let Some(Token::Directive(directive)) = self.peek().cloned() {
            return self.directive(&directive);
        }
        let doc = self.docs();
        match self.word("A struct or a constant")?.as_str() {
            "struct" => self.structure(doc),
            "constexpr" => self.constant(doc),
            other => {
                self.next -= 1;
                let hint =
                    "a header of parameters holds structs and `constexpr uint32_t` constants; write the rest elsewhere";
                self.problem(format!("`{other}` begins neither; {hint}."))
            }
        }
    }

    fn directive(&mut self, directive: &str) -> Result<()> {
        let line = self.line();
        match directive.strip_prefix("include \"").and_then(|name| name.strip_suffix('"')) {
            Some(name) => self.header.includes.push((line, name.into())),
            None if directive == "pragma once" || directive == "include <cstdint>" => {}
            None => {
                return self
                    .problem("Only `#pragma once`, `#include <cstdint>` and headers of this subset can stand here.");
            }
        }
        self.next += 1;
        Ok(())
    }

    fn constant(&mut self, doc: Vec<String>) -> Result<()> {
        if self.word("The constant's type")? != "uint32_t" {
            self.next -= 1;
            return self.problem("A constant is a `uint32_t`; write `constexpr uint32_t kName = 4;`.");
        }
        let name = self.word("The constant's name")?;
        self.documented(&doc, &format!("The constant `{name}`"))?;
        if !(name.starts_with('k') && name[1..].starts_with(|c: char| c.is_ascii_uppercase())) {
            return self.problem(format!("`{name}` does not begin with `k` and a capital; name it as in `kMaxPairs`."));
        }
        self.expect('=', "behind the constant's name")?;
        let value = match self.peek() {
            Some(Token::Number(number)) => number.parse().ok(),
            _ => None,
        };
        let Some(value) = value else { return self.problem(format!("The value of `{name}` is not a decimal number.")) };
        self.next += 1;
        self.expect(';', "behind the constant's value")?;
        self.header.constants.push(Constant { doc, name, value });
        Ok(())
    }

    fn structure(&mut self, doc: Vec<String>) -> Result<()> {
        let line = self.line();
        let name = self.word("The struct's name")?;
        if doc.is_empty() && self.take(';') {
            self.header.opaque.push(name);
            return Ok(());
        }
        self.documented(&doc, &format!("The struct `{name}`"))?;
        self.expect('{', &format!("behind `struct {name}` (no base classes, no attributes)"))?;
        let mut fields: Vec<Field> = Vec::new();
        while !self.take('}') {
            let field = self.field(&name)?;
            if let Some(twin) = fields.iter().find(|other| other.name == field.name) {
                let message = format!("`{name}::{}` is declared on line {} too.", field.name, twin.line);
                return Err(Problem::new(&self.header.file, field.line, message));
            }
            if fields.last().is_some_and(|last| last.line == field.line) {
                return Err(Problem::new(&self.header.file, field.line, "Write one field a line."));
            }
            fields.push(field);
        }
        self.expect(';', &format!("behind `struct {name} {{ ... }}`"))?;
        if fields.is_empty() {
            return Err(Problem::new(
                &self.header.file,
                line,
                format!("`{name}` has no fields; C and C++ differ on its size."),
            ));
        }
        self.header.structs.push(Struct { doc, name, line, fields });
        Ok(())
    }

    fn field(&mut self, owner: &str) -> Result<Field> {
        let doc = self.docs();
        let line = self.line();
        let mut word = self.word(&format!("`}}` or a field of `{owner}`"))?;
        let constant = word == "const";
        if constant {
            word = self.word("What is constant")?;
        }
        let kind = match (self.take('*'), scalar(&word)) {
            (true, _) if self.take('*') => {
                return self.problem("A pointer to a pointer cannot be passed; use one pointer and an offset.");
            }
            (true, _) => Kind::Pointer(word),
            (false, _) if constant => {
                return self
                    .problem("A `const` field cannot be filled in; leave `const` out, or point to what is constant.");
            }
            (false, Some(rust)) => Kind::Scalar(rust),
            (false, None) => Kind::Struct(word),
        };
        let name = self.word(&format!("The name of a field of `{owner}`"))?;
        self.documented(&doc, &format!("`{owner}::{name}`"))?;
        let length = if self.take('[') { Some(self.length(&name)?) } else { None };
        if !self.take(';') {
            let hint = "write `type name;` or `type name[length];`, one field a declaration";
            return self.problem(format!("The declaration of `{owner}::{name}` is not of this subset; {hint}."));
        }
        Ok(Field { doc, name, line, kind, length })
    }

    fn length(&mut self, field: &str) -> Result<Length> {
        let length = match self.peek() {
            Some(Token::Number(number)) => number.parse().ok().map(Length::Number),
            Some(Token::Word(name)) => Some(Length::Constant(name.clone())),
            _ => None,
        };
        let Some(length) = length else {
            return self.problem(format!("The length of `{field}` is neither a decimal number nor a constant."));
        };
        self.next += 1;
        self.expect(']', &format!("behind the length of `{field}`"))?;
        Ok(length)
    }
}
