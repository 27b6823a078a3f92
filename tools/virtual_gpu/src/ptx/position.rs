//! Where a statement stands: its line in the PTX, and the source line that it was made of (`.loc` directives; PTX ISA, "Debugging Directives").

use super::lexer::Token;
use std::collections::HashMap;

/// The place of one statement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Line of the PTX text, from 1; 0 where there is none.
    pub line: u32,
    /// Number of the source line in [`Sources`].
    pub source: u32,
}

/// A source line, and the call that it was inlined at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// Number of the file, as `.file` gives it; 0 where nothing is known.
    pub file: u32,
    pub line: u32,
    pub column: u32,
    /// The source line of the call, if the function was inlined.
    pub caller: Option<u32>,
}

/// The source lines of a body.
#[derive(Clone, Debug)]
pub struct Sources {
    all: Vec<Source>,
    /// The newest source line of each file, line and column.
    newest: HashMap<(u32, u32, u32), u32>,
}

impl Default for Sources {
    fn default() -> Sources {
        Sources { all: vec![Source::default()], newest: HashMap::new() }
    }
}

impl Sources {
    fn add(&mut self, source: Source) -> u32 {
        let key = (source.file, source.line, source.column);
        if let Some(&known) = self.newest.get(&key)
            && self.all[known as usize] == source
        {
            return known;
        }
        self.all.push(source);
        let number = self.all.len() as u32 - 1;
        self.newest.insert(key, number);
        number
    }

    /// Takes in a `.loc` directive; a source line that was not inlined has the caller `call`.
    pub fn read(&mut self, words: &[Token], call: Option<u32>) -> u32 {
        let numbers = |words: &[Token]| -> [u32; 3] {
            std::array::from_fn(|n| words.get(n).and_then(|word| word.text.parse().ok()).unwrap_or(0))
        };
        let at = words.iter().position(|word| word.text == "inlined_at");
        let caller = match at {
            Some(at) => {
                let [file, line, column] = numbers(&words[at + 1..]);
                let known = self.newest.get(&(file, line, column)).copied();
                Some(known.unwrap_or_else(|| self.add(Source { file, line, column, caller: call })))
            }
            None => call,
        };
        let [file, line, column] = numbers(words);
        self.add(Source { file, line, column, caller })
    }

    /// A source line and the calls that it was inlined at, from the inside.
    pub fn chain(&self, source: u32) -> impl Iterator<Item = Source> + '_ {
        let of = |number: u32| self.all.get(number as usize).copied().filter(|source| source.file != 0);
        // a caller was read before what it calls, so that no chain is longer than the list
        std::iter::successors(of(source), move |source| source.caller.and_then(of)).take(self.all.len())
    }

    /// A source line as a person reads it: `file:line (inlined at file:line, file:line)`.
    pub fn describe(&self, source: u32, files: &HashMap<u32, String>) -> String {
        let name = |source: Source| {
            let file = files.get(&source.file).map_or("?", |file| file.rsplit("kernels/").next().unwrap_or(file));
            format!("{file}:{}", source.line)
        };
        let mut lines = self.chain(source).map(name);
        let Some(first) = lines.next() else { return "an unknown source line".to_string() };
        let calls = lines.collect::<Vec<_>>().join(", ");
        if calls.is_empty() { first } else { format!("{first} (inlined at {calls})") }
    }
}
