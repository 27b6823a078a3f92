//! Operands as they are written: registers, numbers, addresses, lists.

use super::Why;
use super::lexer::{Kind, Token};

/// An operand of a statement.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    Reg(u32),
    /// `d|p`: two destinations.
    Pair(Box<Operand>, Box<Operand>),
    /// `!p`: a predicate, negated.
    Not(Box<Operand>),
    Imm(u64),
    /// Bits of a constant of 32 bits.
    F32(u32),
    /// Bits of a constant of 64 bits.
    F64(u64),
    /// A list in braces.
    Vec(Vec<Operand>),
    /// `[base+offset]`.
    Addr(Box<Operand>, i64),
    /// `[base+offset, {coordinates}]` and other addresses of several parts.
    Address(Vec<Operand>),
    Sym(String),
    /// A name and an offset, as in `mov.u64 %rd1, name+8`.
    Offset(String, i64),
    Special(String),
    /// A label.
    Label(super::Label),
    /// A label while its body is read: number of the reference.
    Reference(u32),
    /// `_`: a destination that is not wanted.
    Sink,
}

/// A number as it is written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    Integer(u64),
    /// `0f3F800000`
    F32(u32),
    /// `0d3FF0000000000000`, or `1.5`
    F64(u64),
}

impl Number {
    /// The bits of the number as a value of type `ty`, such as `.f32`.
    pub fn bits(self, ty: &str) -> u64 {
        match (ty.trim_start_matches('.'), self) {
            ("f32", Number::F64(bits)) => (f64::from_bits(bits) as f32).to_bits() as u64,
            ("f32", Number::Integer(value)) => (value as i64 as f32).to_bits() as u64,
            ("f64", Number::F32(bits)) => (f32::from_bits(bits) as f64).to_bits(),
            ("f64", Number::Integer(value)) => (value as i64 as f64).to_bits(),
            (_, Number::Integer(value)) => value,
            (_, Number::F32(bits)) => bits as u64,
            (_, Number::F64(bits)) => bits,
        }
    }
}

/// Tokens of one statement, read from the left.
pub struct Cursor<'s, 't> {
    tokens: &'s [Token<'t>],
    at: usize,
}

impl<'s, 't> Cursor<'s, 't> {
    pub fn new(tokens: &'s [Token<'t>]) -> Cursor<'s, 't> {
        Cursor { tokens, at: 0 }
    }
    pub fn peek(&self) -> Option<Token<'t>> {
        self.tokens.get(self.at).copied()
    }
    pub fn next(&mut self) -> Option<Token<'t>> {
        let token = self.peek();
        self.at += 1;
        token
    }
    /// Reads the mark if it is next.
    pub fn take(&mut self, mark: u8) -> bool {
        let there = self.peek().is_some_and(|token| token.is(mark));
        self.at += there as usize;
        there
    }
    pub fn expect(&mut self, mark: u8) -> Result<(), Why> {
        if self.take(mark) {
            Ok(())
        } else {
            Err(Why::Syntax(format!("`{}` is expected{}", mark as char, self.instead())))
        }
    }
    pub fn word(&mut self) -> Result<&'t str, Why> {
        match self.peek() {
            Some(token) if token.is_word() => {
                self.at += 1;
                Ok(token.text)
            }
            _ => Err(Why::Syntax(format!("a word is expected{}", self.instead()))),
        }
    }
    pub fn integer(&mut self) -> Result<u64, Why> {
        match number(self)? {
            Number::Integer(value) => Ok(value),
            _ => Err(Why::Syntax("an integer is expected".into())),
        }
    }
    pub fn is_empty(&self) -> bool {
        self.at >= self.tokens.len()
    }
    /// Nothing may be left.
    pub fn finish(&self) -> Result<(), Why> {
        if self.is_empty() {
            Ok(())
        } else {
            Err(Why::Syntax(format!("the statement's end is expected{}", self.instead())))
        }
    }
    /// The name behind the first opening bracket that is still to come.
    pub fn addressed_name(&self) -> Option<&'t str> {
        let rest = self.tokens.get(self.at..)?;
        let bracket = rest.iter().position(|token| token.is(b'['))?;
        rest.get(bracket + 1).map(|token| token.text)
    }
    /// Skips `( ... )` that is next.
    pub fn skip_parentheses(&mut self) -> Result<(), Why> {
        self.expect(b'(')?;
        let mut depth = 1;
        while depth > 0 {
            let token = self.next().ok_or_else(|| Why::Syntax("`)` is expected".into()))?;
            depth += token.is(b'(') as i32 - token.is(b')') as i32;
        }
        Ok(())
    }
    fn instead(&self) -> String {
        self.peek().map_or(" before the end".to_string(), |token| format!(" where `{}` stands", token.text))
    }
}

/// Reads a number, which may have a sign.
pub fn number(cursor: &mut Cursor) -> Result<Number, Why> {
    let negative = cursor.take(b'-');
    if !negative {
        cursor.take(b'+');
    }
    let word = cursor.word()?;
    let read = parse_number(word).ok_or_else(|| Why::Syntax(format!("`{word}` is not a number")))?;
    Ok(match read {
        _ if !negative => read,
        Number::Integer(value) => Number::Integer(value.wrapping_neg()),
        Number::F32(bits) => Number::F32(bits ^ 1 << 31),
        Number::F64(bits) => Number::F64(bits ^ 1 << 63),
    })
}

/// PTX ISA, "Constants": decimal, octal, hexadecimal and binary integers, floats in hexadecimal bits or in decimals.
fn parse_number(word: &str) -> Option<Number> {
    if !word.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    if let Some(bits) = word.strip_prefix("0f").or(word.strip_prefix("0F")) {
        return u32::from_str_radix(bits, 16).ok().filter(|_| bits.len() == 8).map(Number::F32);
    }
    if let Some(bits) = word.strip_prefix("0d").or(word.strip_prefix("0D")) {
        return u64::from_str_radix(bits, 16).ok().filter(|_| bits.len() == 16).map(Number::F64);
    }
    if word.contains('.') || (word.contains(['e', 'E']) && !word.starts_with("0x") && !word.starts_with("0X")) {
        return word.parse::<f64>().ok().map(|value| Number::F64(value.to_bits()));
    }
    let digits = word.strip_suffix('U').unwrap_or(word);
    let (digits, radix) = if let Some(digits) = digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        (digits, 16)
    } else if let Some(digits) = digits.strip_prefix("0b").or(digits.strip_prefix("0B")) {
        (digits, 2)
    } else if digits.len() > 1 && digits.starts_with('0') {
        (&digits[1..], 8)
    } else {
        (digits, 10)
    };
    if digits.starts_with('+') {
        return None;
    }
    u64::from_str_radix(digits, radix).ok().map(Number::Integer)
}

/// What a name in an operand is: the body's scopes answer.
pub trait Names {
    /// The operand that a name stands for, or nothing if no scope declares it.
    fn resolve(&self, name: &str) -> Option<Operand>;
}

/// Operands nest at most so deep: a list in an address in a list.
const DEEPEST: usize = 4;

/// Reads one operand.
pub fn operand(cursor: &mut Cursor, names: &dyn Names) -> Result<Operand, Why> {
    nested(cursor, names, 0)
}

fn nested(cursor: &mut Cursor, names: &dyn Names, depth: usize) -> Result<Operand, Why> {
    if depth > DEEPEST {
        return Err(Why::Syntax("the operand is nested too deep".into()));
    }
    if cursor.take(b'{') {
        return list(cursor, names, depth, b'}').map(Operand::Vec);
    }
    if cursor.take(b'[') {
        return address(cursor, names, depth);
    }
    if cursor.take(b'!') {
        return Ok(Operand::Not(Box::new(nested(cursor, names, depth + 1)?)));
    }
    let first = simple(cursor, names)?;
    if cursor.take(b'|') {
        let second = simple(cursor, names)?;
        return Ok(Operand::Pair(Box::new(first), Box::new(second)));
    }
    Ok(first)
}

/// A name or a number.
fn simple(cursor: &mut Cursor, names: &dyn Names) -> Result<Operand, Why> {
    let Some(token) = cursor.peek() else { return Err(Why::Operand("an operand is missing".into())) };
    if token.is(b'-') || token.is(b'+') || token.text.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return Ok(match number(cursor)? {
            Number::Integer(value) => Operand::Imm(value),
            Number::F32(bits) => Operand::F32(bits),
            Number::F64(bits) => Operand::F64(bits),
        });
    }
    if token.kind != Kind::Word {
        return Err(Why::Operand(format!("`{}` stands where an operand is expected", token.text)));
    }
    cursor.next();
    if token.text == "_" {
        return Ok(Operand::Sink);
    }
    if let Some(operand) = names.resolve(token.text) {
        return Ok(operand);
    }
    if token.text.starts_with('%') {
        return Ok(Operand::Special(token.text.to_string()));
    }
    if token.text.starts_with('.') {
        return Err(Why::Operand(format!("`{}` stands where an operand is expected", token.text)));
    }
    let name = token.text.to_string();
    match cursor.peek() {
        Some(sign) if sign.is(b'+') || sign.is(b'-') => {
            cursor.take(b'+');
            Ok(Operand::Offset(name, cursor.integer()? as i64))
        }
        _ => Ok(Operand::Sym(name)),
    }
}

/// Operands to the closing mark.
fn list(cursor: &mut Cursor, names: &dyn Names, depth: usize, close: u8) -> Result<Vec<Operand>, Why> {
    let mut all = vec![];
    while !cursor.take(close) {
        all.push(nested(cursor, names, depth + 1)?);
        if !cursor.take(b',') {
            cursor.expect(close)?;
            break;
        }
    }
    Ok(all)
}

fn address(cursor: &mut Cursor, names: &dyn Names, depth: usize) -> Result<Operand, Why> {
    let base = match simple(cursor, names)? {
        Operand::Offset(name, offset) => Operand::Addr(Box::new(Operand::Sym(name)), offset),
        base => {
            let offset = match cursor.peek() {
                Some(sign) if sign.is(b'+') || sign.is(b'-') => {
                    cursor.take(b'+');
                    cursor.integer()? as i64
                }
                _ => 0,
            };
            Operand::Addr(Box::new(base), offset)
        }
    };
    if cursor.take(b',') {
        let mut parts = vec![base];
        parts.extend(list(cursor, names, depth, b']')?);
        return Ok(Operand::Address(parts));
    }
    cursor.expect(b']')?;
    Ok(base)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ptx::lexer::Lexer;

    struct OneRegister;
    impl Names for OneRegister {
        fn resolve(&self, name: &str) -> Option<Operand> {
            (name == "%r1").then_some(Operand::Reg(7))
        }
    }

    fn read(text: &str) -> Result<Operand, Why> {
        let mut lexer = Lexer::new(text, 1);
        let mut tokens = vec![];
        while let Ok(Some(token)) = lexer.next() {
            tokens.push(token);
        }
        let mut cursor = Cursor::new(&tokens);
        let operand = operand(&mut cursor, &OneRegister)?;
        cursor.finish()?;
        Ok(operand)
    }

    #[test]
    fn every_kind_of_operand_means_what_the_isa_says() {
        use Operand::*;
        let register = || Box::new(Reg(7));
        let name = |name: &str| Sym(name.to_string());
        for (text, expected) in [
            ("%r1", Reg(7)),
            ("_", Sink),
            ("!%r1", Not(register())),
            ("%r1|_", Pair(register(), Box::new(Sink))),
            ("17", Imm(17)),
            ("-1", Imm(u64::MAX)),
            ("017", Imm(15)),
            ("0x1F", Imm(31)),
            ("0xFFFFFFFFFFFFFFFF", Imm(u64::MAX)),
            ("0b101", Imm(5)),
            ("5U", Imm(5)),
            ("0f3F800000", F32(0x3f80_0000)),
            ("-0f3F800000", F32(0xbf80_0000)),
            ("0d3FF0000000000000", F64(1f64.to_bits())),
            ("1.5e-3", F64(1.5e-3f64.to_bits())),
            ("%tid.x", Special("%tid.x".into())),
            ("name", name("name")),
            ("name+8", Offset("name".into(), 8)),
            ("{%r1, 1,_}", Vec(vec![Reg(7), Imm(1), Sink])),
            ("[%r1]", Addr(register(), 0)),
            ("[ %r1 + 0 ]", Addr(register(), 0)),
            ("[%r1+-8]", Addr(register(), -8)),
            ("[%r1-8]", Addr(register(), -8)),
            ("[name+8]", Addr(Box::new(name("name")), 8)),
            ("[4096]", Addr(Box::new(Imm(4096)), 0)),
            ("[%r1, {1, 2}]", Address(vec![Addr(register(), 0), Vec(vec![Imm(1), Imm(2)])])),
        ] {
            assert_eq!(read(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_operand_is_refused() {
        for text in [
            "",
            ",",
            "[%r1",
            "{%r1",
            "0f3F",
            "0xG",
            "9z",
            "[%r1+x]",
            "%r1 %r1",
            "[[%r1]]",
            "{{{{{{{{1}}}}}}}}",
            "+",
            "-",
            "!",
            "1|",
            "\"text\"",
        ] {
            assert!(read(text).is_err(), "{text} is {:?}", read(text));
        }
    }
}
