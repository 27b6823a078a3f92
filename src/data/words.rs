//! From a report's text to words, clause by clause, and whether a clause denies what it says.

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// A clause with one of these denies. Apostrophes are gone: "isn't" is "isnt".
pub const NEGATIONS: [&str; 20] = [
    "no", "not", "without", "nor", "neither", "never", "cannot", "absent", "absence", "isnt", "arent", "wasnt",
    "werent", "doesnt", "dont", "didnt", "hasnt", "havent", "cant", "couldnt",
];

/// A denial ends before one of these: "no effusion but emphysema".
pub const CONTRASTS: [&str; 7] = ["but", "however", "although", "though", "except", "whereas", "nevertheless"];

/// Words without the one that denies, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clause {
    pub words: Vec<String>,
    pub denied: bool,
}

/// The clauses of a text.
///
/// Compatibility forms (NFKD: no-break spaces, ligatures, full-width and superscript letters), combining marks, case, typographic
/// quotes and dashes make no difference, and apostrophes and invisible characters are left out. A word is a run of letters and
/// digits; a point between two digits belongs to the number. A clause ends with its sentence (`.`, `!`, `?`, `;`, a new line),
/// before a word of [`CONTRASTS`], before "without", and before another of [`NEGATIONS`] that a comma, "and" or "with" precedes.
pub fn clauses(text: &str) -> Vec<Clause> {
    let mut clauses = vec![Clause::default()];
    let mut comma = false;
    for token in tokens(text) {
        let Token::Word(word) = token else {
            comma = token == Token::Comma;
            if token == Token::End {
                clauses.push(Clause::default());
            }
            continue;
        };
        let denies = NEGATIONS.contains(&word.as_str());
        let joined = || clauses.last().and_then(|c| c.words.last()).is_some_and(|last| last == "and" || last == "with");
        if CONTRASTS.contains(&word.as_str()) || word == "without" || denies && (comma || joined()) {
            clauses.push(Clause::default());
        }
        comma = false;
        if let Some(clause) = clauses.last_mut() {
            clause.denied |= denies;
            if !denies {
                clause.words.push(word);
            }
        }
    }
    clauses.retain(|clause| !clause.words.is_empty());
    clauses
}

#[derive(PartialEq)]
enum Token {
    Word(String),
    Comma,
    End,
}

fn tokens(text: &str) -> Vec<Token> {
    let folded = text.nfkd().filter(|&c| !is_combining_mark(c) && !is_ignored(c)).flat_map(char::to_lowercase);
    let chars: Vec<char> = folded.collect();
    let digit = |at: Option<usize>| at.and_then(|at| chars.get(at)).is_some_and(char::is_ascii_digit);
    let mut tokens = vec![Token::End];
    for (at, &c) in chars.iter().enumerate() {
        // A word goes on where the character before belonged to one.
        let inside = at > 0 && matches!(tokens.last(), Some(Token::Word(_))) && is_inside(chars[at - 1]);
        let point = c == '.' && digit(at.checked_sub(1)) && digit(Some(at + 1));
        if c.is_alphanumeric() || point {
            match tokens.last_mut() {
                Some(Token::Word(word)) if inside => word.push(c),
                _ => tokens.push(Token::Word(c.into())),
            }
        } else if matches!(c, '.' | '!' | '?' | ';' | '\n' | '\r' | '\u{2028}' | '\u{2029}') {
            tokens.push(Token::End);
        } else if c == ',' {
            tokens.push(Token::Comma);
        }
    }
    tokens
}

/// Whether a word may go on after it; a point that ended a sentence has left another token.
fn is_inside(c: char) -> bool {
    c.is_alphanumeric() || c == '.'
}

/// Apostrophes and primes, soft hyphens, what has no width.
fn is_ignored(c: char) -> bool {
    matches!(c, '\'' | '`' | '\u{2bc}' | '\u{2018}'..='\u{201b}' | '\u{2032}' | '\u{ad}' | '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{feff}')
}
