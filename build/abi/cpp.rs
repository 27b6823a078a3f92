//! Writes the table by which a test compares C++'s layout of the parameter structs with Rust's.

use std::fmt::{Result, Write};

use super::Abi;
use super::params::Struct;

/// A C++ file with a function a struct.
pub fn layouts(abi: &Abi) -> String {
    let mut out = String::from("#include <cstddef>\n\n");
    write(&mut out, abi).expect("a string takes everything");
    out
}

fn write(out: &mut String, abi: &Abi) -> Result {
    for family in &abi.families {
        writeln!(out, "#include \"{}\"", family.params.file)?;
    }
    writeln!(out, "\nstruct Field {{\n    const char* name;\n    size_t offset, size;\n}};")?;
    abi.families.iter().flat_map(|family| &family.params.structs).try_for_each(|s| table(out, s))
}

/// The size of the struct, then name, offset and size of each field in order, then a null name.
fn table(out: &mut String, s: &Struct) -> Result {
    let name = &s.name;
    writeln!(out, "\nextern \"C\" const Field* x2ct_fields_{name}() {{\n    static const Field fields[] = {{")?;
    writeln!(out, "        {{\"{name}\", 0, sizeof({name})}},")?;
    for field in s.fields.iter().map(|field| &field.name) {
        writeln!(out, "        {{\"{field}\", offsetof({name}, {field}), sizeof({name}::{field})}},")?;
    }
    writeln!(out, "        {{nullptr, 0, 0}},\n    }};\n    return fields;\n}}")
}
