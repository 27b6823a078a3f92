//! Variables and parameters: type, alignment, size and initial value (PTX ISA, "Variables").

use super::Why;
use super::lexer::Token;
use super::operand::{self, Cursor};

/// A variable of a module, a body or a list of parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct Variable {
    pub name: String,
    pub align: usize,
    pub bytes: usize,
    /// Declared without brackets and not as a vector: it fits a register.
    pub scalar: bool,
    /// The first bytes of the initial value; what follows is zero.
    pub init: Vec<u8>,
    /// Addresses that are added to the initial value once they are known.
    pub addresses: Vec<AddressIn>,
}

/// The address of a name that stands inside of an initial value.
#[derive(Debug, Clone, PartialEq)]
pub struct AddressIn {
    /// Byte of the value at which the address, 8 bytes, begins.
    pub at: usize,
    pub name: String,
    pub offset: i64,
}

/// Largest variable; shared and local memory are far smaller.
const LARGEST: usize = 1 << 40;

/// Bytes of a type such as `.f32`.
pub fn bytes_of(ty: &str) -> Option<usize> {
    Some(match ty.trim_start_matches('.') {
        "b8" | "u8" | "s8" => 1,
        "b16" | "u16" | "s16" | "f16" | "bf16" => 2,
        "b32" | "u32" | "s32" | "f32" | "f16x2" | "bf16x2" => 4,
        "b64" | "u64" | "s64" | "f64" => 8,
        "b128" => 16,
        _ => return None,
    })
}

/// Words of a declaration that change neither layout nor value here.
const IGNORED: [&str; 14] = [
    ".global", ".shared", ".local", ".const", ".param", ".reg", ".visible", ".extern", ".weak", ".common", ".managed",
    ".ptr", ".generic", ".unified",
];

/// The variables of one declaration: `.align 4 .b8 name[36] = {1, 2}`, `.f32 a, b[2][3]`; ends at a mark that cannot belong to it.
pub fn variables(cursor: &mut Cursor) -> Result<Vec<Variable>, Why> {
    let mut kind = Kind::default();
    while cursor.peek().is_some_and(|token| token.is_directive()) {
        kind.directive(cursor)?;
    }
    let mut all = vec![];
    loop {
        all.push(kind.variable(cursor)?);
        if !cursor.take(b',') {
            return Ok(all);
        }
    }
}

/// What stands before the names of a declaration.
#[derive(Default, Clone)]
struct Kind {
    ty: Option<String>,
    unit: usize,
    lanes: usize,
    align: usize,
    of_pointee: bool,
}

impl Kind {
    fn directive(&mut self, cursor: &mut Cursor) -> Result<(), Why> {
        let word = cursor.word()?;
        match word {
            // the alignment of what a pointer parameter points to
            ".ptr" => self.of_pointee = true,
            ".align" => {
                let align = cursor.integer()? as usize;
                if !align.is_power_of_two() || align > 1 << 20 {
                    return Err(Why::Syntax(format!("the alignment {align} is not a power of two in range")));
                }
                if !self.of_pointee {
                    self.align = align;
                }
            }
            ".v2" => self.lanes = 2,
            ".v4" => self.lanes = 4,
            ".attribute" => cursor.skip_parentheses()?,
            _ if IGNORED.contains(&word) => {}
            _ => {
                let unit =
                    bytes_of(word).ok_or_else(|| Why::Form(format!("the type {word} of a variable is not known")))?;
                (self.ty, self.unit) = (Some(word.to_string()), unit);
            }
        }
        Ok(())
    }

    fn variable(&self, cursor: &mut Cursor) -> Result<Variable, Why> {
        let Some(ty) = &self.ty else { return Err(Why::Syntax("the declaration has no type".into())) };
        let name = cursor.word()?.to_string();
        let mut counts: Vec<Option<usize>> = vec![];
        while cursor.take(b'[') {
            counts.push(if cursor.take(b']') { None } else { Some(cursor.integer()? as usize) });
            if counts.last() != Some(&None) {
                cursor.expect(b']')?;
            }
        }
        let unit = self.unit * self.lanes.max(1);
        let mut value = Value { ty, unit: self.unit, init: vec![], addresses: vec![] };
        let inner = counts.iter().skip(1).try_fold(unit, |bytes, count| bytes.checked_mul(count.unwrap_or(0)));
        let inner = inner.filter(|bytes| *bytes <= LARGEST).ok_or_else(too_large)?;
        if cursor.take(b'=') {
            let mut sizes: Vec<usize> = vec![self.unit];
            for count in counts.iter().skip(1).rev() {
                sizes.push(sizes[sizes.len() - 1] * count.unwrap_or(0));
            }
            value.element(cursor, 0, &sizes, 0)?;
        }
        let bytes = match counts.first() {
            None => Some(unit),
            Some(Some(count)) => inner.checked_mul(*count),
            // without a length it is as long as its value
            Some(None) => Some(value.init.len()),
        };
        let bytes = bytes.filter(|bytes| *bytes <= LARGEST).ok_or_else(too_large)?;
        if value.init.len() > bytes {
            return Err(Why::Syntax(format!(
                "the initial value of `{name}` has {} bytes of {bytes}",
                value.init.len()
            )));
        }
        let scalar = counts.is_empty() && self.lanes == 0;
        let Value { init, addresses, .. } = value;
        Ok(Variable { name, align: self.align.max(unit).max(1), bytes, scalar, init, addresses })
    }
}

fn too_large() -> Why {
    Why::Limit("the variable is too large".into())
}

/// An initial value while it is read.
struct Value<'k> {
    ty: &'k str,
    unit: usize,
    init: Vec<u8>,
    addresses: Vec<AddressIn>,
}

impl Value<'_> {
    /// One element at byte `at`, or a list in braces of elements; `sizes` are those of the levels from the innermost, `depth` counts braces.
    fn element(&mut self, cursor: &mut Cursor, at: usize, sizes: &[usize], depth: usize) -> Result<(), Why> {
        if !cursor.take(b'{') {
            return self.scalar(cursor, at);
        }
        // the outermost braces hold elements of the highest level
        let level = sizes.len().checked_sub(depth + 1);
        let size = level
            .map(|level| sizes[level])
            .ok_or_else(|| Why::Syntax("the initial value has too many braces".into()))?;
        let mut next = at;
        while !cursor.take(b'}') {
            self.element(cursor, next, sizes, depth + 1)?;
            next += size;
            if !cursor.take(b',') {
                cursor.expect(b'}')?;
                break;
            }
        }
        if depth > 0 {
            // what an inner list leaves out is zero
            let whole = sizes[sizes.len() - depth];
            self.init.resize(self.init.len().max(at + whole), 0);
        }
        Ok(())
    }

    fn scalar(&mut self, cursor: &mut Cursor, at: usize) -> Result<(), Why> {
        let address = cursor
            .peek()
            .is_some_and(|token| token.is_word() && !token.text.starts_with(|c: char| c.is_ascii_digit() || c == '.'));
        let bits = if address { self.address(cursor, at)? } else { operand::number(cursor)?.bits(self.ty) };
        self.init.resize(self.init.len().max(at + self.unit), 0);
        let bytes = bits.to_le_bytes();
        let unit = self.unit.min(8);
        self.init[at..at + unit].copy_from_slice(&bytes[..unit]);
        Ok(())
    }

    /// `name`, `name+8`, `generic(name)`.
    fn address(&mut self, cursor: &mut Cursor, at: usize) -> Result<u64, Why> {
        if self.unit != 8 {
            return Err(Why::Form("an address in a value narrower than 64 bits is not known".into()));
        }
        let mut name = cursor.word()?;
        if name == "generic" && cursor.take(b'(') {
            name = cursor.word()?;
            cursor.expect(b')')?;
        }
        let offset = if cursor.take(b'+') { cursor.integer()? as i64 } else { 0 };
        self.addresses.push(AddressIn { at, name: name.to_string(), offset });
        Ok(0)
    }
}

/// The parameters of a list `(.param .b32 a, .reg .f32 b)`, with their offsets from the list's start; the opening one is read already.
pub fn parameters(cursor: &mut Cursor) -> Result<Vec<Parameter>, Why> {
    let mut all: Vec<Parameter> = vec![];
    let mut end = 0usize;
    while !cursor.take(b')') {
        let in_register = cursor.peek().is_some_and(|token: Token| token.text == ".reg");
        let mut kind = Kind::default();
        while cursor.peek().is_some_and(|token| token.is_directive()) {
            kind.directive(cursor)?;
        }
        let variable = kind.variable(cursor)?;
        let offset = end.next_multiple_of(variable.align);
        end = offset + variable.bytes;
        let Variable { name, bytes, align, scalar, .. } = variable;
        all.push(Parameter { name, offset, bytes, align, scalar, in_register });
        if !cursor.take(b',') {
            cursor.expect(b')')?;
            break;
        }
    }
    Ok(all)
}

/// A parameter of an entry or a function.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    pub name: String,
    pub offset: usize,
    pub bytes: usize,
    pub align: usize,
    pub scalar: bool,
    /// Declared as a register, as old PTX does for functions.
    pub in_register: bool,
}
