//! PTX text to instructions with virtual registers. Entries are found at load and parsed at their first launch.

mod error;
pub mod fatbin;

pub use error::Why;

use std::collections::HashMap;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    Pred,
    W, // one slot: 16 or 32 bits
    D, // two slots: 64 bits
}

#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    Reg(u32),
    Pair(Box<Operand>, Box<Operand>), // d|p
    Not(u32),                         // !p
    Imm(u64),
    F32(u32),
    F64(u64),
    Vec(Vec<Operand>),
    Addr(Box<Operand>, i64),
    Sym(String),
    Special(String),
    Sink,
}

#[derive(Debug)]
pub struct Statement {
    pub op: String,
    pub guard: Option<(u32, bool)>,
    pub operands: Vec<Operand>,
    pub loc: u32,  // into locs
    pub line: u32, // of the module's text, from 1
    pub used: u32, // bytes of a load that are used, if not all
}

#[derive(Debug)]
pub enum Item {
    Label(String),
    Inst(Statement),
}

#[derive(Debug, Clone)]
pub struct Param {
    pub name: String,
    pub offset: usize,
    pub bytes: usize,
}

#[derive(Debug)]
pub struct Var {
    pub name: String,
    pub align: usize,
    pub bytes: usize,
    pub init: Vec<u8>,
}

pub struct EntryText {
    pub name: String,
    pub params: Vec<Param>,
    pub params_bytes: usize,
    pub head: String,
    pub body: (usize, usize),
    pub ret: Option<String>, // of a .func
}

pub struct Module {
    pub text: String,
    pub entries: HashMap<String, EntryText>,
    pub globals: Vec<Var>,
    pub shared: Vec<Var>, // static, module level
    pub dynamic_shared: Vec<String>,
    pub files: HashMap<u32, String>,
}

fn size_of_type(t: &str) -> usize {
    match t.trim_start_matches('.') {
        "b8" | "u8" | "s8" => 1,
        "b16" | "u16" | "s16" | "f16" | "bf16" => 2,
        "b32" | "u32" | "s32" | "f32" => 4,
        "b64" | "u64" | "s64" | "f64" => 8,
        "pred" => 1,
        _ => 4,
    }
}

/// `.align 4 .b8 name[36] = {..}` or `.b32 name`
fn parse_var(decl: &str) -> Option<Var> {
    let (left, init) = match decl.split_once('=') {
        Some((l, r)) => (l.trim(), Some(r.trim())),
        None => (decl.trim(), None),
    };
    let words: Vec<&str> = left.split_whitespace().collect();
    let mut align = 0;
    let mut ty = "";
    let mut name = "";
    let mut i = 0;
    while i < words.len() {
        match words[i] {
            ".align" => {
                align = words[i + 1].parse().ok()?;
                i += 1;
            }
            w if w.starts_with('.')
                && !matches!(
                    w,
                    ".global"
                        | ".shared"
                        | ".local"
                        | ".visible"
                        | ".extern"
                        | ".const"
                        | ".weak"
                        | ".param"
                        | ".ptr"
                        | ".managed"
                ) =>
            {
                ty = w
            }
            w if w.starts_with('.') => {}
            w => {
                name = w;
            }
        }
        i += 1;
    }
    let unit = size_of_type(ty);
    let (name, count) = match name.split_once('[') {
        Some((n, r)) => (n, r.trim_end_matches(']').parse::<usize>().unwrap_or(0)),
        None => (name, 1),
    };
    let mut bytes = Vec::new();
    if let Some(init) = init {
        for word in init.trim_matches(|c| c == '{' || c == '}').split(',') {
            let word = word.trim();
            if word.is_empty() {
                continue;
            }
            let value = parse_int(word).unwrap_or(0);
            bytes.extend_from_slice(&value.to_le_bytes()[..unit]);
        }
    }
    Some(Var { name: name.to_string(), align: align.max(unit), bytes: unit * count, init: bytes })
}

fn parse_int(s: &str) -> Option<u64> {
    let (neg, t) = match s.strip_prefix('-') {
        Some(t) => (true, t),
        None => (false, s),
    };
    let t = t.trim_end_matches('U');
    let v =
        if let Some(h) = t.strip_prefix("0x") { u64::from_str_radix(h, 16).ok()? } else { t.parse::<u64>().ok()? };
    Some(if neg { (v as i64).wrapping_neg() as u64 } else { v })
}

impl Module {
    pub fn parse(text: String) -> Result<Module, String> {
        let mut m = Module {
            text: String::new(),
            entries: HashMap::new(),
            globals: vec![],
            shared: vec![],
            dynamic_shared: vec![],
            files: HashMap::new(),
        };
        let b = text.as_bytes();
        let mut pos = 0;
        while pos < b.len() {
            let end = text[pos..].find('\n').map_or(b.len(), |e| pos + e);
            let line = text[pos..end].trim();
            if line.starts_with("//") || line.is_empty() {
                pos = end + 1;
                continue;
            }
            if line.starts_with(".file") {
                let mut it = line.split_whitespace();
                it.next();
                if let (Some(n), Some(f)) = (it.next().and_then(|n| n.parse().ok()), it.next()) {
                    m.files.insert(n, f.trim_matches(',').trim_matches('"').to_string());
                }
                pos = end + 1;
                continue;
            }
            if line.starts_with(".section") {
                // debug data to the end of its braces
                let close =
                    text[pos..].find("\n}").or_else(|| text[pos..].find("\n\t}")).map_or(b.len(), |e| pos + e + 3);
                pos = close;
                continue;
            }
            if line.contains(".entry") || line.starts_with(".func") || line.contains(" .func") {
                let body_at = text[pos..].find("\n{").map(|e| pos + e + 1);
                let semi = text[pos..].find("\n;").map(|e| pos + e + 1);
                let (Some(open), true) = (body_at, semi.is_none_or(|s| body_at.is_some_and(|o| o < s))) else {
                    pos = semi.map_or(b.len(), |s| s + 2); // a declaration
                    continue;
                };
                let mut depth = 0;
                let mut close = open;
                let mut in_comment = false;
                for (k, c) in b[open..].iter().enumerate() {
                    match c {
                        b'\n' => in_comment = false,
                        b'/' if b.get(open + k + 1) == Some(&b'/') => in_comment = true,
                        b'{' if !in_comment => depth += 1,
                        b'}' if !in_comment => {
                            depth -= 1;
                            if depth == 0 {
                                close = open + k;
                                break;
                            }
                        }
                        _ => {}
                    }
                }
                if close == open {
                    return Err("an entry without end".into());
                }
                let head = &text[pos..open];
                let is_func = !head.contains(".entry");
                let after = if is_func { head.find(".func").unwrap() + 5 } else { head.find(".entry").unwrap() + 6 };
                let mut rest = head[after..].trim();
                let mut ret = None;
                if is_func && rest.starts_with('(') {
                    let e = rest.find(')').ok_or("func")?;
                    ret = rest[1..e].split_whitespace().last().map(String::from);
                    rest = rest[e + 1..].trim();
                }
                let paren = rest.find('(').unwrap_or(rest.len());
                let name = rest[..paren].split_whitespace().next().unwrap_or("").to_string();
                let mut params = vec![];
                let mut offset = 0;
                if paren < rest.len() {
                    let e = rest[paren..].find(')').ok_or("params")? + paren;
                    for p in rest[paren + 1..e].split(',') {
                        if p.trim().is_empty() {
                            continue;
                        }
                        let v = parse_var(p).ok_or("param")?;
                        offset = (offset + v.align - 1) / v.align * v.align;
                        params.push(Param { name: v.name, offset, bytes: v.bytes });
                        offset += v.bytes;
                    }
                }
                let e = EntryText {
                    name: name.clone(),
                    params,
                    params_bytes: offset,
                    head: head.to_string(),
                    body: (open + 1, close),
                    ret,
                };
                m.entries.insert(name, e);
                pos = close + 1;
                continue;
            }
            if line.starts_with(".version") || line.starts_with(".target") || line.starts_with(".address_size") {
                pos = end + 1;
                continue;
            }
            // a variable, to the semicolon
            let semi = text[pos..].find(';').map_or(b.len(), |e| pos + e);
            let decl = &text[pos..semi];
            if decl.contains(".shared") {
                if let Some(v) = parse_var(decl) {
                    if decl.contains(".extern") { m.dynamic_shared.push(v.name) } else { m.shared.push(v) }
                }
            } else if decl.contains(".global") || decl.contains(".const") {
                if let Some(v) = parse_var(decl) {
                    m.globals.push(v);
                }
            }
            pos = semi + 1;
        }
        m.text = text;
        Ok(m)
    }
}

pub struct Body {
    pub items: Vec<Item>,
    pub classes: Vec<Class>,                       // of virtual registers
    pub locs: Vec<(u32, u32, Option<(u32, u32)>)>, // file, line, inlined at
    pub local: Vec<Var>,
    pub shared: Vec<Var>,
}

struct Scope {
    ranges: HashMap<String, (u32, u32)>, // prefix -> base, count
    single: HashMap<String, u32>,
    params: HashMap<String, u32>, // call parameters as registers
}

struct P<'a> {
    m: &'a Module,
    f: Body,
    scopes: Vec<Scope>,
    loc: u32,
    line: u32,
    calls: u32,
    used: u32,
}

fn class_of(ty: &str) -> Class {
    match ty {
        ".pred" => Class::Pred,
        ".b64" | ".u64" | ".s64" | ".f64" => Class::D,
        _ => Class::W,
    }
}

impl<'a> P<'a> {
    fn new_reg(&mut self, c: Class) -> u32 {
        self.f.classes.push(c);
        self.f.classes.len() as u32 - 1
    }

    fn reg(&self, name: &str) -> Option<u32> {
        for s in self.scopes.iter().rev() {
            if let Some(&r) = s.single.get(name) {
                return Some(r);
            }
            let digits = name.bytes().rev().take_while(|c| c.is_ascii_digit()).count();
            if digits > 0 {
                let (prefix, number) = name.split_at(name.len() - digits);
                if let Some(&(base, count)) = s.ranges.get(prefix) {
                    let n: u32 = number.parse().ok()?;
                    if n < count {
                        return Some(base + n);
                    }
                }
            }
        }
        None
    }

    fn param_reg(&self, name: &str) -> Option<u32> {
        self.scopes.iter().rev().find_map(|s| s.params.get(name).copied())
    }

    fn operand(&self, s: &str) -> Result<Operand, String> {
        let s = s.trim();
        if let Some(inner) = s.strip_prefix('{') {
            let inner = inner.trim_end_matches('}');
            return Ok(Operand::Vec(inner.split(',').map(|x| self.operand(x)).collect::<Result<_, _>>()?));
        }
        if let Some(inner) = s.strip_prefix('[') {
            let inner = inner.trim_end_matches(']').trim();
            let (base, off) = match inner.rfind('+') {
                Some(p) if p > 0 => (
                    inner[..p].trim(),
                    parse_int(inner[p + 1..].trim()).ok_or_else(|| format!("offset {inner}"))? as i64,
                ),
                _ => (inner, 0),
            };
            return Ok(Operand::Addr(Box::new(self.operand(base)?), off));
        }
        if s == "_" {
            return Ok(Operand::Sink);
        }
        if let Some((a, b)) = s.split_once('|') {
            return Ok(Operand::Pair(Box::new(self.operand(a)?), Box::new(self.operand(b)?)));
        }
        if let Some(r) = s.strip_prefix('!') {
            return self.reg(r.trim()).map(Operand::Not).ok_or_else(|| format!("predicate {r}"));
        }
        if let Some(r) = self.reg(s) {
            return Ok(Operand::Reg(r));
        }
        if let Some(r) = self.param_reg(s) {
            return Ok(Operand::Reg(r));
        }
        if s.starts_with('%') {
            return Ok(Operand::Special(s.to_string()));
        }
        if let Some(h) = s.strip_prefix("0f").or(s.strip_prefix("0F")) {
            return u32::from_str_radix(h, 16).map(Operand::F32).map_err(|e| format!("{s}: {e}"));
        }
        if let Some(h) = s.strip_prefix("0d").or(s.strip_prefix("0D")) {
            return u64::from_str_radix(h, 16).map(Operand::F64).map_err(|e| format!("{s}: {e}"));
        }
        if s.starts_with(|c: char| c.is_ascii_digit() || c == '-') {
            return parse_int(s).map(Operand::Imm).ok_or_else(|| format!("number {s}"));
        }
        Ok(Operand::Sym(s.to_string()))
    }

    fn decl(&mut self, s: &str) -> Result<(), String> {
        // .reg .f32 %f<3>, or .reg .b32 %temp, .param .b64 param0, .local ..., .shared ...
        let (kind, rest) = s.split_once(char::is_whitespace).ok_or("declaration")?;
        match kind {
            ".reg" => {
                let rest = rest.trim();
                let (ty, names) = rest.split_once(char::is_whitespace).ok_or("reg")?;
                let c = class_of(ty.trim());
                for n in names.split(',') {
                    let n = n.trim();
                    if let Some((prefix, count)) = n.split_once('<') {
                        let count: u32 = count.trim_end_matches('>').parse().map_err(|_| "count")?;
                        let base = self.f.classes.len() as u32;
                        for _ in 0..count {
                            self.new_reg(c);
                        }
                        self.scopes.last_mut().unwrap().ranges.insert(prefix.to_string(), (base, count));
                    } else {
                        let r = self.new_reg(c);
                        self.scopes.last_mut().unwrap().single.insert(n.to_string(), r);
                    }
                }
            }
            ".param" => {
                let v = parse_var(rest).ok_or("param")?;
                let r = self.new_reg(if v.bytes == 8 { Class::D } else { Class::W });
                self.scopes.last_mut().unwrap().params.insert(v.name, r);
            }
            ".local" => self.f.local.push(parse_var(rest).ok_or("local")?),
            ".shared" => self.f.shared.push(parse_var(rest).ok_or("shared")?),
            _ => return Err(format!("declaration {s}")),
        }
        Ok(())
    }

    fn body(&mut self, text: &str, label_prefix: &str, end_label: Option<&str>) -> Result<(), String> {
        let b = text.as_bytes();
        // `text` is a part of the module's
        let start = text.as_ptr() as usize - self.m.text.as_ptr() as usize;
        let mut line = 1 + self.m.text[..start].matches('\n').count() as u32;
        let mut counted = 0;
        let mut i = 0;
        loop {
            while i < b.len() && (b[i].is_ascii_whitespace() || b[i] == b';') {
                i += 1;
            }
            if i >= b.len() {
                break;
            }
            if b[i] == b'/' && b.get(i + 1) == Some(&b'/') {
                while i < b.len() && b[i] != b'\n' {
                    i += 1;
                }
                continue;
            }
            if b[i] == b'{' {
                self.scopes.push(Scope { ranges: HashMap::new(), single: HashMap::new(), params: HashMap::new() });
                i += 1;
                continue;
            }
            if b[i] == b'}' {
                self.scopes.pop();
                i += 1;
                continue;
            }
            if text[i..].starts_with(".loc") && b.get(i + 4).is_some_and(|c| c.is_ascii_whitespace()) {
                let e = text[i..].find('\n').map_or(b.len(), |e| i + e);
                let line = &text[i + 4..e];
                let nums: Vec<u32> =
                    line.split(|c: char| c.is_whitespace() || c == ',').filter_map(|w| w.parse().ok()).collect();
                let inl = line.find("inlined_at").map(|p| {
                    let n: Vec<u32> = line[p + 10..].split_whitespace().filter_map(|w| w.parse().ok()).collect();
                    (n.first().copied().unwrap_or(0), n.get(1).copied().unwrap_or(0))
                });
                self.f.locs.push((nums.first().copied().unwrap_or(0), nums.get(1).copied().unwrap_or(0), inl));
                self.loc = self.f.locs.len() as u32 - 1;
                i = e;
                continue;
            }
            // label or statement
            let mut j = i;
            let mut label = false;
            while j < b.len() && b[j] != b';' {
                if b[j] == b':' {
                    if b.get(j + 1) == Some(&b':') {
                        j += 2;
                        continue;
                    }
                    label = !text[i..j].contains(|c: char| c.is_whitespace());
                    if label {
                        break;
                    }
                }
                j += 1;
            }
            if label {
                self.f.items.push(Item::Label(format!("{label_prefix}{}", &text[i..j])));
                i = j + 1;
                continue;
            }
            let raw = &text[i..j];
            let statement_at = i;
            i = j + 1;
            let mut stmt = String::new();
            if raw.contains("//") {
                for line in raw.lines() {
                    stmt.push_str(line.split("//").next().unwrap());
                    stmt.push(' ');
                }
            } else {
                stmt.push_str(raw);
            }
            let stmt = stmt.trim();
            if let Some(p) = stmt.find("used_bytes_mask ") {
                self.used = stmt[p + 16..].trim_matches(|c: char| !c.is_ascii_digit()).parse().map_err(|_| "mask")?;
                continue;
            }
            if stmt.is_empty() || stmt.starts_with(".pragma") {
                continue;
            }
            if stmt.starts_with('.') {
                self.decl(stmt)?;
                continue;
            }
            line += text[counted..statement_at].matches('\n').count() as u32;
            counted = statement_at;
            self.line = line;
            self.statement(stmt, label_prefix, end_label).map_err(|e| format!("{stmt}: {e}"))?;
        }
        Ok(())
    }

    fn statement(&mut self, stmt: &str, label_prefix: &str, end_label: Option<&str>) -> Result<(), String> {
        let mut rest = stmt;
        let mut guard = None;
        if let Some(r) = rest.strip_prefix('@') {
            let (neg, r) = match r.strip_prefix('!') {
                Some(r) => (true, r),
                None => (false, r),
            };
            let (p, r) = r.split_once(char::is_whitespace).ok_or("guard")?;
            guard = Some((self.reg(p).ok_or_else(|| format!("predicate {p}"))?, neg));
            rest = r.trim_start();
        }
        let (op, args) = match rest.find(char::is_whitespace) {
            Some(p) => (&rest[..p], rest[p..].trim()),
            None => (rest, ""),
        };
        if op.starts_with("call") {
            return self.call(args);
        }
        let mut parts: Vec<&str> = vec![];
        let mut depth = 0;
        let mut start = 0;
        for (k, c) in args.char_indices() {
            match c {
                '{' | '[' | '(' => depth += 1,
                '}' | ']' | ')' => depth -= 1,
                ',' if depth == 0 => {
                    parts.push(&args[start..k]);
                    start = k + 1;
                }
                _ => {}
            }
        }
        if !args[start..].trim().is_empty() {
            parts.push(&args[start..]);
        }
        let mut op = op.to_string();
        let mut operands: Vec<Operand>;
        if op == "bra" || op == "bra.uni" {
            operands = vec![Operand::Sym(format!("{label_prefix}{}", parts[0].trim()))];
        } else if (op == "ret" || op == "ret.uni") && end_label.is_some() {
            op = "bra".into();
            operands = vec![Operand::Sym(end_label.unwrap().to_string())];
        } else {
            operands = parts.iter().map(|p| self.operand(p)).collect::<Result<_, _>>()?;
            // call parameters are registers
            if op.starts_with("ld.param") {
                if let Operand::Addr(base, 0) = &operands[1] {
                    if let Operand::Reg(r) = **base {
                        if parts[1].contains("param") || parts[1].contains("retval") {
                            op = format!("mov.b{}", if self.f.classes[r as usize] == Class::D { 64 } else { 32 });
                            operands[1] = Operand::Reg(r);
                        }
                    }
                }
            } else if op.starts_with("st.param") {
                if let Operand::Addr(base, 0) = &operands[0] {
                    if let Operand::Reg(r) = **base {
                        op = format!("mov.b{}", if self.f.classes[r as usize] == Class::D { 64 } else { 32 });
                        operands[0] = Operand::Reg(r);
                    }
                }
            }
        }
        self.f.items.push(Item::Inst(Statement {
            op,
            guard,
            operands,
            loc: self.loc,
            line: self.line,
            used: std::mem::take(&mut self.used),
        }));
        Ok(())
    }

    /// Inlines a function: `(retval0), name, (param0, param1)`.
    fn call(&mut self, args: &str) -> Result<(), String> {
        let clean: String = args.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut rest = clean.as_str();
        let mut returned = None;
        if let Some(r) = rest.strip_prefix('(') {
            let e = r.find(')').ok_or("call")?;
            returned = Some(self.param_reg(r[..e].trim()).ok_or("return value")?);
            rest = r[e + 1..].trim_start().trim_start_matches(',').trim_start();
        }
        let name_end = rest.find(',').unwrap_or(rest.len());
        let name = rest[..name_end].trim().to_string();
        let passed: Vec<u32> = match rest[name_end..].find('(') {
            Some(p) => {
                let r = &rest[name_end + p + 1..];
                let r = &r[..r.find(')').ok_or("call")?];
                r.split(',')
                    .map(|x| self.param_reg(x.trim()).ok_or_else(|| format!("parameter {x}")))
                    .collect::<Result<_, _>>()?
            }
            None => vec![],
        };
        let module = self.m;
        let callee = module.entries.get(&name).ok_or_else(|| format!("function {name}"))?;
        self.calls += 1;
        let prefix = format!("call{}.", self.calls);
        let end = format!("{prefix}end");
        let mut scope = Scope { ranges: HashMap::new(), single: HashMap::new(), params: HashMap::new() };
        for (p, r) in callee.params.iter().zip(&passed) {
            scope.params.insert(p.name.clone(), *r);
        }
        if let (Some(n), Some(r)) = (&callee.ret, returned) {
            scope.params.insert(n.clone(), r);
        }
        let saved = std::mem::replace(&mut self.scopes, vec![scope]);
        let (s, e) = callee.body;
        self.body(&module.text[s..e], &prefix, Some(&end))?;
        self.scopes = saved;
        self.f.items.push(Item::Label(end));
        Ok(())
    }
}

pub fn parse_entry(m: &Module, name: &str) -> Result<Body, String> {
    let e = m.entries.get(name).ok_or("no such entry")?;
    let mut p = P {
        m,
        f: Body { items: vec![], classes: vec![], locs: vec![(0, 0, None)], local: vec![], shared: vec![] },
        scopes: vec![Scope { ranges: HashMap::new(), single: HashMap::new(), params: HashMap::new() }],
        loc: 0,
        line: 0,
        calls: 0,
        used: 0,
    };
    let (s, t) = e.body;
    p.body(&m.text[s..t], "", None)?;
    Ok(p.f)
}
