//! Modules: directives, variables and entries of a PTX text; bodies are only found here and read at the first launch.

use super::declaration::{self, Parameter, Variable};
use super::lexer::{Kind, Lexer, Token};
use super::operand::Cursor;
use super::{Error, Why};
use std::collections::{HashMap, HashSet};

/// What an entry's directives promise about its launches (PTX ISA, "Performance-Tuning Directives" and "Cluster Dimension Directives").
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Limits {
    /// `.maxntid`: the most threads of a block.
    pub max_threads: Option<[u32; 3]>,
    /// `.reqntid`: exactly the threads of a block.
    pub required_threads: Option<[u32; 3]>,
    /// `.minnctapersm`: blocks that must fit on a multiprocessor.
    pub min_blocks: Option<u32>,
    /// `.maxnreg`: the most registers of a thread.
    pub max_registers: Option<u32>,
    /// `.reqnctapercluster`: exactly the blocks of a cluster.
    pub cluster: Option<[u32; 3]>,
    /// `.explicitcluster`: a launch must name the blocks of a cluster.
    pub explicit_cluster: bool,
    /// `.maxclusterrank`: the most blocks of a cluster.
    pub max_cluster: Option<u32>,
}

impl Limits {
    /// The most threads that a block may have, if a directive says so.
    pub fn threads(&self) -> Option<u32> {
        let product = |sizes: [u32; 3]| sizes.into_iter().fold(1u32, u32::saturating_mul);
        self.required_threads.or(self.max_threads).map(product)
    }
}

/// An entry or a function, whose body is text still.
#[derive(Debug, Clone)]
pub struct Entry {
    pub name: String,
    pub params: Vec<Parameter>,
    pub params_bytes: usize,
    /// What a function returns; an entry returns nothing.
    pub returns: Vec<Parameter>,
    pub limits: Limits,
    /// Where the body's text lies between its braces, and the line on which it begins.
    pub(super) body: (usize, usize),
    pub(super) line: u32,
}

/// A PTX text with its variables, entries and functions.
#[derive(Debug)]
pub struct Module {
    pub text: String,
    /// The `.target` directive's words, such as `sm_90a`.
    pub target: Vec<String>,
    pub entries: HashMap<String, Entry>,
    pub functions: HashMap<String, Entry>,
    /// Functions that are declared and have no body.
    pub external_functions: HashSet<String>,
    /// Variables in the spaces `.global` and `.const`.
    pub globals: Vec<Variable>,
    /// Shared variables of the module with a size.
    pub shared: Vec<Variable>,
    /// Names of the shared memory whose size the launch gives.
    pub dynamic_shared: Vec<String>,
    /// Source files by the number that `.loc` uses.
    pub files: HashMap<u32, String>,
}

impl Module {
    pub fn parse(text: String) -> Result<Module, Error> {
        let mut module = Module {
            text: String::new(),
            target: vec![],
            entries: HashMap::new(),
            functions: HashMap::new(),
            external_functions: HashSet::new(),
            globals: vec![],
            shared: vec![],
            dynamic_shared: vec![],
            files: HashMap::new(),
        };
        Reader { module: &mut module, lexer: Lexer::new(&text, 1) }.read()?;
        module.text = text;
        Ok(module)
    }

    /// A line of the text, from 1.
    pub fn line(&self, number: u32) -> &str {
        self.text.lines().nth((number as usize).wrapping_sub(1)).unwrap_or("")
    }
}

struct Reader<'m, 't> {
    module: &'m mut Module,
    lexer: Lexer<'t>,
}

/// Tokens of one directive.
type Words<'t> = Vec<Token<'t>>;

impl<'t> Reader<'_, 't> {
    fn read(&mut self) -> Result<(), Error> {
        while let Some(token) = self.lexer.next()? {
            match token.text {
                _ if token.is(b';') => {}
                ".version" | ".address_size" | ".file" | ".target" => self.line_directive(token)?,
                ".section" => self.section()?,
                ".pragma" => drop(self.words(token)?),
                _ if token.is_directive() => self.declaration(token)?,
                _ => return Err(Error::new(token.line, token.text, Why::Syntax("a directive is expected".into()))),
            }
        }
        Ok(())
    }

    /// A directive that ends with its line.
    fn line_directive(&mut self, first: Token<'t>) -> Result<(), Error> {
        let mut words = vec![];
        loop {
            let before = self.lexer.clone();
            match self.lexer.next()? {
                Some(token) if token.line == first.line => words.push(token),
                _ => {
                    self.lexer = before;
                    break;
                }
            }
        }
        match (first.text, &words[..]) {
            (".target", words) => {
                self.module.target = words.iter().filter(|w| w.is_word()).map(|w| w.text.to_string()).collect();
            }
            (".file", [number, file, ..]) if file.kind == Kind::Text => {
                if let Ok(number) = number.text.parse() {
                    self.module.files.insert(number, file.text.to_string());
                }
            }
            (".address_size", [size]) if size.text != "64" => {
                let why = Why::Form("addresses are not of 64 bits".into());
                return Err(Error::new(first.line, ".address_size", why));
            }
            _ => {}
        }
        Ok(())
    }

    /// Debug data in braces.
    fn section(&mut self) -> Result<(), Error> {
        while let Some(token) = self.lexer.next()? {
            if token.is(b'{') {
                self.lexer.skip_block()?;
                return Ok(());
            }
        }
        Ok(())
    }

    /// The tokens from `first` to the semicolon.
    fn words(&mut self, first: Token<'t>) -> Result<Words<'t>, Error> {
        let mut words = vec![first];
        loop {
            match self.lexer.next()? {
                Some(token) if token.is(b';') => return Ok(words),
                Some(token) => words.push(token),
                None => {
                    let text = self.lexer.between(first.start, self.lexer.position());
                    return Err(Error::new(first.line, text, Why::Syntax("the directive has no end".into())));
                }
            }
        }
    }

    /// A variable, an entry or a function.
    fn declaration(&mut self, first: Token<'t>) -> Result<(), Error> {
        let mut words = vec![first];
        let is_function = |token: &Token| matches!(token.text, ".entry" | ".func");
        while !words.last().is_some_and(is_function) {
            match self.lexer.next()? {
                Some(token) if token.is(b';') => return self.variables(&words),
                Some(token) => words.push(token),
                None => return self.variables(&words),
            }
        }
        self.function(&words)
    }

    fn error(&self, words: &[Token<'t>], why: Why) -> Error {
        let (line, start) = words.first().map_or((self.lexer.line(), 0), |word| (word.line, word.start));
        let end = words.last().map_or(start, |word| word.start + word.text.len());
        Error::new(line, self.lexer.between(start, end), why)
    }

    fn variables(&mut self, words: &[Token<'t>]) -> Result<(), Error> {
        let has = |word: &str| words.iter().any(|token| token.text == word);
        let mut cursor = Cursor::new(words);
        let read = declaration::variables(&mut cursor).and_then(|all| cursor.finish().map(|()| all));
        let all = read.map_err(|why| self.error(words, why))?;
        for variable in all {
            if has(".shared") {
                if !variable.init.is_empty() {
                    let why = Why::Form("shared memory has no initial value".into());
                    return Err(self.error(words, why));
                }
                if has(".extern") {
                    self.module.dynamic_shared.push(variable.name)
                } else {
                    self.module.shared.push(variable)
                }
            } else if (has(".global") || has(".const")) && !has(".extern") {
                self.module.globals.push(variable);
            } else if !has(".extern") {
                return Err(self.error(words, Why::Form("a module has no variables in this space".into())));
            }
        }
        Ok(())
    }

    /// An entry or a function from behind its keyword: results, name, parameters, directives, body or semicolon.
    fn function(&mut self, head: &[Token<'t>]) -> Result<(), Error> {
        let is_entry = head.last().is_some_and(|token| token.text == ".entry");
        let mut words = head.to_vec();
        let body = loop {
            match self.lexer.next()? {
                Some(token) if token.is(b'{') => {
                    let line = self.lexer.line();
                    break Some((self.lexer.skip_block()?, line));
                }
                Some(token) if token.is(b';') => break None,
                Some(token) => words.push(token),
                None => return Err(self.error(&words, Why::Syntax("the entry has no body".into()))),
            }
        };
        let mut cursor = Cursor::new(&words[head.len()..]);
        let mut entry = head_of(&mut cursor).map_err(|why| self.error(&words, why))?;
        let Some((range, line)) = body else {
            self.module.external_functions.insert(entry.name);
            return Ok(());
        };
        (entry.body, entry.line) = (range, line);
        let table = if is_entry { &mut self.module.entries } else { &mut self.module.functions };
        table.insert(entry.name.clone(), entry);
        Ok(())
    }
}

/// `(results) name (parameters) directives`
fn head_of(cursor: &mut Cursor) -> Result<Entry, Why> {
    if cursor.peek().is_some_and(|token| token.text == ".attribute") {
        cursor.next();
        cursor.skip_parentheses()?;
    }
    let returns = if cursor.take(b'(') { declaration::parameters(cursor)? } else { vec![] };
    let name = cursor.word()?.to_string();
    let params = if cursor.take(b'(') { declaration::parameters(cursor)? } else { vec![] };
    let params_bytes = params.last().map_or(0, |last| last.offset + last.bytes);
    if params_bytes > LARGEST_PARAMETERS {
        return Err(Why::Limit(format!("the parameters have {params_bytes} bytes of {LARGEST_PARAMETERS}")));
    }
    let mut limits = Limits::default();
    while !cursor.is_empty() {
        limit(cursor, &mut limits)?;
    }
    Ok(Entry { name, params, params_bytes, returns, limits, body: (0, 0), line: 0 })
}

/// Bytes that the parameters of a launch may have (CUDA 12.1 and newer: 32,764).
const LARGEST_PARAMETERS: usize = 32_764;

fn limit(cursor: &mut Cursor, limits: &mut Limits) -> Result<(), Why> {
    let word = cursor.word()?;
    match word {
        ".maxntid" => limits.max_threads = Some(sizes(cursor)?),
        ".reqntid" => limits.required_threads = Some(sizes(cursor)?),
        ".reqnctapercluster" => limits.cluster = Some(sizes(cursor)?),
        ".minnctapersm" => limits.min_blocks = Some(cursor.integer()? as u32),
        ".maxnctapersm" => drop(cursor.integer()?),
        ".maxnreg" => limits.max_registers = Some(cursor.integer()? as u32),
        ".maxclusterrank" => limits.max_cluster = Some(cursor.integer()? as u32),
        ".explicitcluster" => limits.explicit_cluster = true,
        ".noreturn" | ".blocksareclusters" => {}
        ".unique_name" | ".abi_preserve" | ".abi_preserve_control" => drop(cursor.next()),
        ".pragma" => {
            cursor.next();
            while cursor.take(b',') {
                cursor.next();
            }
        }
        _ => return Err(Why::Form(format!("the directive {word} of an entry is not known"))),
    }
    Ok(())
}

/// `x`, `x, y` or `x, y, z`.
fn sizes(cursor: &mut Cursor) -> Result<[u32; 3], Why> {
    let mut sizes = [1; 3];
    for (n, size) in sizes.iter_mut().enumerate() {
        if n > 0 && !cursor.take(b',') {
            break;
        }
        *size = u32::try_from(cursor.integer()?).map_err(|_| Why::Syntax("the size is too large".into()))?;
    }
    Ok(sizes)
}
