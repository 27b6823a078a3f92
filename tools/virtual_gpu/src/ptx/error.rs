//! Errors of reading and lowering PTX: where, which statement, why, and what to do.

use std::fmt;

/// The reason for which a statement was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// A form of an opcode or directive that the executor lacks.
    Form(String),
    /// An operand that is missing, of the wrong kind, or of the wrong width.
    Operand(String),
    /// A name that nothing declares where it is used.
    Undeclared(String),
    /// Text that is no PTX.
    Syntax(String),
    /// A register that is touched while an asynchronous product holds it.
    Order(String),
    /// More of something than the executor takes.
    Limit(String),
}

impl Why {
    pub fn undeclared(kind: &str, name: &str) -> Why {
        Why::Undeclared(format!("the {kind} `{name}` is not declared here"))
    }

    /// What someone who meets this can do.
    fn advice(&self) -> &'static str {
        match self {
            Why::Form(_) => "add the form to tools/virtual_gpu/src/lower/select, or avoid the intrinsic that makes it",
            Why::Operand(_) => {
                "compare the operands with the opcode's section of the PTX ISA; ptxas would refuse this, too"
            }
            Why::Undeclared(_) => "declare the name in this scope or an enclosing one",
            Why::Syntax(_) => "compile the PTX again: it is cut off or damaged",
            Why::Order(_) => "put the fence or the wait that the PTX ISA asks for before the statement",
            Why::Limit(_) => "make the kernel smaller, or raise the limit in tools/virtual_gpu/src",
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Form(text)
            | Why::Operand(text)
            | Why::Undeclared(text)
            | Why::Syntax(text)
            | Why::Order(text)
            | Why::Limit(text) => f.write_str(text),
        }
    }
}

/// A clause without a kind is about a form that is missing.
impl From<&str> for Why {
    fn from(text: &str) -> Why {
        Why::Form(text.to_string())
    }
}

impl From<String> for Why {
    fn from(text: String) -> Why {
        Why::Form(text)
    }
}

/// A statement that cannot be read or executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The entry or function that the statement is in, if it is in one.
    pub entry: Option<String>,
    /// Line of the PTX text, from 1.
    pub line: u32,
    /// The statement as it stands there, on one line.
    pub statement: String,
    pub why: Why,
}

/// Longest part of a statement that a message shows.
const SHOWN: usize = 160;

impl Error {
    pub fn new(line: u32, statement: &str, why: Why) -> Error {
        let mut words = statement.split_whitespace().collect::<Vec<_>>().join(" ");
        if words.chars().count() > SHOWN {
            words = words.chars().take(SHOWN).chain(" ...".chars()).collect();
        }
        Error { entry: None, line, statement: words, why }
    }

    /// Names the entry unless an inner one is named already.
    pub fn within(mut self, entry: &str) -> Error {
        self.entry.get_or_insert_with(|| entry.to_string());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(entry) = &self.entry {
            write!(f, "{entry}, ")?;
        }
        write!(f, "PTX line {}", self.line)?;
        if !self.statement.is_empty() {
            write!(f, ", `{}`", self.statement)?;
        }
        write!(f, ": {}; {}", self.why, self.why.advice())
    }
}

impl std::error::Error for Error {}
