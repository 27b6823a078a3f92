//! Words and marks of PTX text, without its comments (PTX ISA, "Source Format" and "Identifiers").

use super::{Error, Why};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A name, an opcode, a directive or a number: letters, digits, `_`, `$`, `%`, `.`, and `::` between two of them.
    Word,
    /// A text in quotation marks, which are not part of it.
    Text,
    /// One mark, such as a comma or a brace.
    Mark(u8),
}

#[derive(Clone, Copy, Debug)]
pub struct Token<'t> {
    pub kind: Kind,
    pub text: &'t str,
    pub line: u32,
    /// Where it begins in the lexer's text.
    pub start: usize,
}

impl Token<'_> {
    pub fn is(&self, mark: u8) -> bool {
        self.kind == Kind::Mark(mark)
    }
    pub fn is_word(&self) -> bool {
        self.kind == Kind::Word
    }
    pub fn is_directive(&self) -> bool {
        self.is_word() && self.text.starts_with('.')
    }
}

/// Reads tokens one after the other; `line` is the line of the next one's beginning.
#[derive(Clone)]
pub struct Lexer<'t> {
    text: &'t str,
    at: usize,
    line: u32,
}

fn in_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'%' | b'.')
}

impl<'t> Lexer<'t> {
    pub fn new(text: &'t str, first_line: u32) -> Lexer<'t> {
        Lexer { text, at: 0, line: first_line }
    }

    pub fn line(&self) -> u32 {
        self.line
    }

    /// The text between two places.
    pub fn between(&self, start: usize, end: usize) -> &'t str {
        self.text.get(start..end).unwrap_or("")
    }

    /// Where the next token is looked for.
    pub fn position(&self) -> usize {
        self.at
    }

    fn byte(&self, ahead: usize) -> u8 {
        self.text.as_bytes().get(self.at + ahead).copied().unwrap_or(0)
    }

    /// Skips white space and comments.
    fn skip_space(&mut self) -> Result<(), Error> {
        let bytes = self.text.as_bytes();
        while self.at < bytes.len() {
            match bytes[self.at] {
                b'\n' => {
                    self.line += 1;
                    self.at += 1;
                }
                b' ' | b'\t' | b'\r' | 0 => self.at += 1,
                b'/' if self.byte(1) == b'/' => {
                    let rest = &bytes[self.at..];
                    self.at += rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
                }
                b'/' if self.byte(1) == b'*' => self.skip_comment()?,
                _ => break,
            }
        }
        Ok(())
    }

    fn skip_comment(&mut self) -> Result<(), Error> {
        let rest = &self.text.as_bytes()[self.at..];
        let Some(length) = rest.windows(2).skip(2).position(|two| two == b"*/") else {
            return Err(Error::new(self.line, "/*", Why::Syntax("the comment has no end".into())));
        };
        let comment = &rest[..length + 4];
        self.line += comment.iter().filter(|byte| **byte == b'\n').count() as u32;
        self.at += comment.len();
        Ok(())
    }

    /// The next token, or nothing at the end.
    pub fn next(&mut self) -> Result<Option<Token<'t>>, Error> {
        self.skip_space()?;
        let (start, line) = (self.at, self.line);
        let kind = match self.byte(0) {
            _ if start >= self.text.len() => return Ok(None),
            b'"' => return self.quoted().map(Some),
            byte if in_word(byte) => {
                self.word();
                Kind::Word
            }
            mark if mark.is_ascii_graphic() => {
                self.at += 1;
                Kind::Mark(mark)
            }
            _ => {
                let shown: String = self.text[start..].chars().take(1).collect();
                let why = Why::Syntax(format!("the character {shown:?} belongs to no PTX"));
                return Err(Error::new(line, &shown, why));
            }
        };
        Ok(Some(Token { kind, text: &self.text[start..self.at], line, start }))
    }

    fn word(&mut self) {
        let number = self.byte(0).is_ascii_digit();
        let hexadecimal = number && self.byte(1).is_ascii_alphabetic();
        let start = self.at;
        loop {
            let byte = self.byte(0);
            let exponent = number
                && !hexadecimal
                && matches!(byte, b'+' | b'-')
                && self.at > start
                && matches!(self.text.as_bytes()[self.at - 1], b'e' | b'E');
            if in_word(byte) || exponent {
                self.at += 1;
            } else if byte == b':' && self.byte(1) == b':' && in_word(self.byte(2)) {
                self.at += 2;
            } else {
                return;
            }
        }
    }

    fn quoted(&mut self) -> Result<Token<'t>, Error> {
        let (start, line) = (self.at, self.line);
        let rest = &self.text[start + 1..];
        match rest.find(['"', '\n']) {
            Some(length) if rest.as_bytes()[length] == b'"' => {
                self.at += length + 2;
                Ok(Token { kind: Kind::Text, text: &rest[..length], line, start })
            }
            _ => Err(Error::new(line, "\"", Why::Syntax("the text in quotation marks has no end".into()))),
        }
    }

    /// Skips to behind the brace that closes the one just read; the range is what lies between them.
    pub fn skip_block(&mut self) -> Result<(usize, usize), Error> {
        let (start, first_line) = (self.at, self.line);
        let bytes = self.text.as_bytes();
        let mut depth = 1;
        while self.at < bytes.len() {
            match bytes[self.at] {
                b'\n' => self.line += 1,
                b'/' if matches!(self.byte(1), b'/' | b'*') => {
                    self.skip_space()?;
                    continue;
                }
                b'"' => {
                    self.quoted()?;
                    continue;
                }
                b'{' => depth += 1,
                b'}' => {
                    depth -= 1;
                    if depth == 0 {
                        self.at += 1;
                        return Ok((start, self.at - 1));
                    }
                }
                _ => {}
            }
            self.at += 1;
        }
        Err(Error::new(first_line, "{", Why::Syntax("the brace is not closed".into())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Result<Vec<(String, u32)>, Error> {
        let mut lexer = Lexer::new(text, 1);
        let mut all = vec![];
        while let Some(token) = lexer.next()? {
            all.push((token.text.to_string(), token.line));
        }
        Ok(all)
    }

    #[test]
    fn opcodes_names_and_numbers_are_words() {
        let text = "@!%p1 cp.async.bulk.shared::cluster.global [%r1+-8], 0f3F800000, 1.5e-3, 0x1e-2; // end\nL:";
        let expected = [
            "@",
            "!",
            "%p1",
            "cp.async.bulk.shared::cluster.global",
            "[",
            "%r1",
            "+",
            "-",
            "8",
            "]",
            ",",
            "0f3F800000",
            ",",
            "1.5e-3",
            ",",
            "0x1e",
            "-",
            "2",
            ";",
            "L",
            ":",
        ];
        let read = words(text).unwrap();
        assert_eq!(read.iter().map(|word| word.0.as_str()).collect::<Vec<_>>(), expected);
        assert_eq!(read.last().unwrap().1, 2);
    }

    #[test]
    fn comments_and_texts_count_their_lines() {
        assert_eq!(
            words("/* a\nb */ c \"d e\" // f\n g").unwrap(),
            [("c".into(), 2), ("d e".into(), 2), ("g".into(), 3)]
        );
        for open in ["a /* b", "\"a\nb\"", "é"] {
            assert!(matches!(words(open).unwrap_err().why, Why::Syntax(_)), "{open}");
        }
    }

    #[test]
    fn a_block_ends_where_its_brace_closes() {
        let text = "{ a { \"}\" } // }\n /* } */ } b";
        let mut lexer = Lexer::new(text, 1);
        lexer.next().unwrap();
        let (start, end) = lexer.skip_block().unwrap();
        assert_eq!(lexer.between(start, end), " a { \"}\" } // }\n /* } */ ");
        let behind = lexer.next().unwrap().unwrap();
        assert_eq!((behind.text, behind.line), ("b", 2));
        assert!(Lexer::new("{ {}", 1).skip_block().is_err());
    }
}
