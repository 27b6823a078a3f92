//! Finds the kernels of a family: the lines
//!
//! ```cpp
//! /// y = factor x.
//! X2CT_KERNEL(pool_scale_f32, ScaleParams, ScaleConfig, scale<float>)
//! X2CT_KERNEL(pool_scale_bf16, ScaleParams, ScaleConfig, scale<bf16>)
//! ```
//!
//! of `NAME/NAME.cu` and of what it includes. Entries that differ in the last part of their names alone, a storage type or the
//! order of a product's operands, are one kernel. Its name is theirs without that part and without the family's name:
//! `SCALE` of the family `pool`.

use super::lexer::documentation;
use super::{Problem, Result, Sources};

/// What siblings may differ in, each in Rust's order.
const SIBLINGS: [&[&str]; 2] = [&["f32", "bf16", "i16"], &["nn", "nt", "tn", "tt"]];

/// Entries of one body.
pub struct Kernel {
    /// The Rust name.
    pub name: String,
    pub doc: Vec<String>,
    /// In the order of their last parts in [`SIBLINGS`].
    pub entries: Vec<Entry>,
}

impl Kernel {
    /// The struct that it is launched with.
    pub fn params(&self) -> &str {
        &self.entries[0].params
    }
}

/// An `X2CT_KERNEL` line.
#[derive(Clone, Debug)]
pub struct Entry {
    pub name: String,
    pub params: String,
    pub file: String,
    pub line: usize,
    doc: Vec<String>,
}

/// The kernels of the family `family`, in the order of their first entries.
pub fn read(sources: &Sources, family: &str) -> Result<Vec<Kernel>> {
    let main = format!("{family}/{family}.cu");
    let files = sources.closure(&main);
    let mut kernels: Vec<Kernel> = Vec::new();
    for file in files.iter().filter(|file| **file != "common/common.h") {
        for entry in lines(file, &sources.0[*file])? {
            let name = kernel_name(family, &entry.name);
            match kernels.iter_mut().find(|kernel| kernel.name == name) {
                Some(kernel) => kernel.join(entry)?,
                None if entry.doc.is_empty() => {
                    let message = format!(
                        "`{}` has no documentation; write a line `/// ...` above it, which Rust's users read.",
                        entry.name
                    );
                    return Err(Problem::new(file, entry.line, message));
                }
                None => kernels.push(Kernel { name, doc: entry.doc.clone(), entries: vec![entry] }),
            }
        }
    }
    if kernels.is_empty() {
        return Err(Problem::new(
            &main,
            1,
            "The family has no entries; write `X2CT_KERNEL(name, Params, Config, body)`.",
        ));
    }
    kernels.iter_mut().try_for_each(Kernel::order)?;
    Ok(kernels)
}

impl Kernel {
    /// Adds a sibling.
    fn join(&mut self, entry: Entry) -> Result<()> {
        let refuse = |message: String| Err(Problem::new(&entry.file, entry.line, message));
        if let Some(twin) = self.entries.iter().find(|other| other.name == entry.name) {
            let message = format!(
                "`{}` is an entry at kernels/{}:{} too; give it another name.",
                entry.name, twin.file, twin.line
            );
            return refuse(message);
        }
        let first = &self.entries[0];
        if first.params != entry.params {
            let message = format!(
                "`{}` takes `{}` and its sibling `{}` takes `{}`; ",
                entry.name, entry.params, first.name, first.params
            );
            return refuse(message + "give both one struct, or names that differ in more than the last part.");
        }
        self.entries.push(entry);
        Ok(())
    }

    /// Puts siblings in order. Rust finds them by place, so none before the last may be missing.
    fn order(&mut self) -> Result<()> {
        let Some(order) = order_of(&self.entries[0].name) else { return Ok(()) };
        let place = |entry: &Entry| order.iter().position(|part| ending(&entry.name) == *part);
        self.entries.sort_by_key(place);
        let whole = self.entries.iter().enumerate().all(|(index, entry)| place(entry) == Some(index));
        if whole || self.entries.len() == 1 {
            return Ok(());
        }
        let entry = &self.entries[0];
        let message =
            format!("The kernel `{}` lacks an entry; its siblings end in {} in turn.", self.name, order.join(", "));
        Err(Problem::new(&entry.file, entry.line, message))
    }
}

/// The last part of an entry's name.
fn ending(entry: &str) -> &str {
    entry.rsplit('_').next().unwrap_or(entry)
}

/// The siblings' order that the last part of a name belongs to.
fn order_of(entry: &str) -> Option<&'static [&'static str]> {
    SIBLINGS.into_iter().find(|parts| parts.contains(&ending(entry)))
}

fn kernel_name(family: &str, entry: &str) -> String {
    let shared = match order_of(entry) {
        Some(_) => entry.rsplit_once('_').map_or(entry, |(before, _)| before),
        None => entry,
    };
    let own = shared.strip_prefix(family).and_then(|rest| rest.strip_prefix('_')).unwrap_or(shared);
    own.to_ascii_uppercase()
}

/// The entries of a file.
fn lines(file: &str, text: &str) -> Result<Vec<Entry>> {
    let mut found = Vec::new();
    let mut doc = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let (number, trimmed) = (index + 1, line.trim());
        if let Some(said) = documentation(trimmed) {
            doc.push(said.to_string());
            continue;
        }
        let doc = std::mem::take(&mut doc);
        let code = line.split("//").next().unwrap_or(line);
        let Some(at) = code.find("X2CT_KERNEL(") else { continue };
        let arguments = code[at..].trim_end().strip_prefix("X2CT_KERNEL(").and_then(|rest| rest.strip_suffix(')'));
        let (0, Some(arguments)) = (at, arguments) else {
            let message =
                "An entry is a line of its own that begins with `X2CT_KERNEL(` and ends with `)`; write it out.";
            return Err(Problem::new(file, number, message));
        };
        let parts: Vec<&str> = arguments.split(',').map(str::trim).collect();
        let [name, params, _config, _body, ..] = parts[..] else {
            return Err(Problem::new(file, number, "An entry is `X2CT_KERNEL(name, Params, Config, body)`."));
        };
        found.push(Entry { name: name.into(), params: params.into(), file: file.into(), line: number, doc });
    }
    Ok(found)
}
