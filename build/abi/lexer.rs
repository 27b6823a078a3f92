//! Splits a header into tokens.

use super::{Problem, Result};

#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    /// A name or keyword.
    Word(String),
    /// A decimal integer.
    Number(String),
    Symbol(char),
    /// A line `/// text`, without the slashes and the space behind them.
    Doc(String),
    /// A preprocessor line, without the `#`.
    Directive(String),
}

/// A token and its line, from 1.
#[derive(Clone, Debug)]
pub struct At {
    pub token: Token,
    pub line: usize,
}

/// What a line `/// text` says, without the slashes and the space behind them.
pub fn documentation(trimmed: &str) -> Option<&str> {
    let doc = trimmed.strip_prefix("///")?;
    Some(doc.strip_prefix(' ').unwrap_or(doc))
}

/// The tokens of `text`. Comments that are not documentation are left out.
pub fn tokens(file: &str, text: &str) -> Result<Vec<At>> {
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let trimmed = line.trim();
        if let Some(directive) = trimmed.strip_prefix('#') {
            found.push(At { token: Token::Directive(directive.trim().into()), line: number });
        } else if let Some(doc) = documentation(trimmed) {
            found.push(At { token: Token::Doc(doc.into()), line: number });
        } else {
            code(file, number, line.split("//").next().unwrap_or(line), &mut found)?;
        }
    }
    Ok(found)
}

fn code(file: &str, line: usize, text: &str, found: &mut Vec<At>) -> Result<()> {
    if text.contains("/*") {
        return Err(Problem::new(file, line, "A comment here is `//`, or `///` where it documents; write it so."));
    }
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let length = if is_word(first) { rest.find(|c| !is_word(c)).unwrap_or(rest.len()) } else { first.len_utf8() };
        let (token, after) = rest.split_at(length);
        let token = match first {
            c if c.is_ascii_digit() => Token::Number(token.into()),
            c if is_word(c) => Token::Word(token.into()),
            c => Token::Symbol(c),
        };
        found.push(At { token, line });
        rest = after.trim_start();
    }
    Ok(())
}
