//! The interface between Rust and the kernels, read from `kernels` and written out for both languages.
//!
//! A family is a folder `kernels/NAME` with two files of that name's own: `params.h`, the parameter structs ([`params`] says
//! in which subset of C), and `NAME.cu`, whose entries are found by [`entries`]. [`rust`] writes what Rust
//! includes, [`cpp`] the table of offsets that a test compares with Rust's.
//!
//! `tests/abi.rs` includes this module and tests it.

pub mod cpp;
pub mod entries;
pub mod lexer;
pub mod params;
pub mod rust;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use entries::Kernel;
use params::Header;

/// What is wrong in a file, and what to do about it.
#[derive(Debug)]
pub struct Problem {
    /// The file, below `kernels`.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// A whole sentence.
    pub message: String,
}

impl Problem {
    pub fn new(file: &str, line: usize, message: impl Into<String>) -> Self {
        Problem { file: file.into(), line, message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "kernels/{}:{}: {}", self.file, self.line, self.message)
    }
}

pub type Result<T> = std::result::Result<T, Problem>;

/// Every file below `kernels`, by its path there.
#[derive(Default)]
pub struct Sources(pub BTreeMap<String, String>);

impl Sources {
    /// Reads a folder and those below it.
    pub fn read(folder: &Path) -> std::io::Result<Self> {
        let mut sources = Sources::default();
        sources.add(folder, "")?;
        Ok(sources)
    }

    fn add(&mut self, folder: &Path, prefix: &str) -> std::io::Result<()> {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let name = format!("{prefix}{}", path.file_name().unwrap_or_default().to_string_lossy());
            if path.is_dir() {
                self.add(&path, &format!("{name}/"))?;
            } else if path.extension().is_some_and(|e| e == "cu" || e == "cuh" || e == "h") {
                self.0.insert(name, std::fs::read_to_string(&path)?);
            }
        }
        Ok(())
    }

    /// The file that `file` includes as `name`: beside it, or below `kernels`.
    pub fn included(&self, file: &str, name: &str) -> Option<&str> {
        let folder = file.rsplit_once('/').map_or("", |(folder, _)| folder);
        let beside = self.0.get_key_value(&format!("{folder}/{name}"));
        beside.or_else(|| self.0.get_key_value(name)).map(|(path, _)| path.as_str())
    }

    /// `file` and everything it includes of the project, in the order of a compiler.
    pub fn closure(&self, file: &str) -> Vec<&str> {
        let mut files = Vec::new();
        self.follow(file, &mut files);
        files
    }

    fn follow<'a>(&'a self, file: &str, files: &mut Vec<&'a str>) {
        let Some((path, text)) = self.0.get_key_value(file) else { return };
        if files.contains(&path.as_str()) {
            return;
        }
        files.push(path);
        for line in text.lines() {
            let quoted = line.trim_start().strip_prefix("#include \"").and_then(|rest| rest.split('"').next());
            if let Some(next) = quoted.and_then(|name| self.included(file, name)) {
                self.follow(next, files);
            }
        }
    }
}

/// A folder of kernels.
pub struct Family {
    pub name: String,
    /// What `params.h` declares.
    pub params: Header,
    pub kernels: Vec<Kernel>,
}

/// Everything that both languages know of each other.
pub struct Abi {
    /// In the order of their names.
    pub families: Vec<Family>,
    /// Headers outside the families' folders that parameter structs are made of, by path.
    pub shared: BTreeMap<String, Header>,
}

impl Abi {
    /// Reads all families and checks them.
    pub fn read(sources: &Sources) -> Result<Self> {
        let mut abi = Abi { families: Vec::new(), shared: BTreeMap::new() };
        for name in families(sources)? {
            let path = format!("{name}/params.h");
            let params = params::parse(&path, &sources.0[&path])?;
            for (line, include) in &params.includes {
                let missing = || Problem::new(&path, *line, format!("`{include}` is not below kernels."));
                let header = sources.included(&path, include).ok_or_else(missing)?;
                if !abi.shared.contains_key(header) {
                    let read = params::parse(header, &sources.0[header])?;
                    if let Some((line, _)) = read.includes.first() {
                        return Err(Problem::new(
                            header,
                            *line,
                            "A shared header includes no other; move the struct here.",
                        ));
                    }
                    abi.shared.insert(header.into(), read);
                }
            }
            let kernels = entries::read(sources, &name)?;
            abi.families.push(Family { name, params, kernels });
        }
        abi.check_structs()?;
        abi.check_entries()?;
        Ok(abi)
    }

    fn headers(&self) -> impl Iterator<Item = &Header> {
        self.shared.values().chain(self.families.iter().map(|family| &family.params))
    }

    /// Names are unique, since both languages link by them, and every type is declared where it is used.
    fn check_structs(&self) -> Result<()> {
        let mut seen = BTreeMap::new();
        for header in self.headers() {
            for s in &header.structs {
                if let Some(first) = seen.insert(&s.name, &header.file) {
                    let message = format!("`{}` is declared in kernels/{first} too; give it another name.", s.name);
                    return Err(Problem::new(&header.file, s.line, message));
                }
            }
            header.check_types(&self.visible(header))?;
        }
        Ok(())
    }

    /// The structs of the headers that a header includes.
    fn visible(&self, header: &Header) -> Vec<&str> {
        let included = header.includes.iter().filter_map(|(_, include)| self.shared.get(include));
        included.flat_map(|header| &header.structs).map(|s| s.name.as_str()).collect()
    }

    /// An entry's name is a symbol of the program; its struct is one of its family's `params.h`.
    fn check_entries(&self) -> Result<()> {
        let mut seen: BTreeMap<&str, (&str, usize)> = BTreeMap::new();
        for family in &self.families {
            for kernel in &family.kernels {
                for entry in &kernel.entries {
                    if let Some((file, line)) = seen.insert(&entry.name, (&entry.file, entry.line)) {
                        let message =
                            format!("`{}` is an entry at kernels/{file}:{line} too; give it another name.", entry.name);
                        return Err(Problem::new(&entry.file, entry.line, message));
                    }
                    if !family.params.structs.iter().any(|s| s.name == entry.params) {
                        let message = format!(
                            "`{}` is no struct of kernels/{}/params.h; declare it there, or correct the second argument.",
                            entry.params, family.name
                        );
                        return Err(Problem::new(&entry.file, entry.line, message));
                    }
                }
            }
        }
        Ok(())
    }
}

/// The folders that hold a family, in order.
fn families(sources: &Sources) -> Result<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    for path in sources.0.keys() {
        let Some((folder, file)) = path.split_once('/') else { continue };
        let (main, params) = (format!("{folder}/{folder}.cu"), format!("{folder}/params.h"));
        if *path == main && !sources.0.contains_key(&params) {
            return Err(Problem::new(path, 1, format!("`{params}` is missing; declare the parameter structs there.")));
        }
        if *path == params && !sources.0.contains_key(&main) {
            return Err(Problem::new(path, 1, format!("`{main}` is missing; write the entries there.")));
        }
        if file.ends_with(".cu") && *path != main {
            return Err(Problem::new(path, 1, format!("A family has one `.cu` file, `{main}`; name this one `.cuh`.")));
        }
        if *path == main {
            names.push(folder.into());
        }
    }
    Ok(names)
}
