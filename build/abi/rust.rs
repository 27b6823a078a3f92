//! Writes what Rust includes: one file a family, one for shared headers, one with the list of families.

use std::fmt::{Result, Write};

use super::entries::Kernel;
use super::params::{Field, Header, Kind, Length, Struct};
use super::{Abi, Family};

/// The list of families, in the order of their slots.
pub fn families(abi: &Abi) -> String {
    let list: Vec<String> = abi.families.iter().map(|family| format!("    &{}::FAMILY,\n", family.name)).collect();
    format!(
        "/// Every kernel family, by [`Family::slot`].\npub static FAMILIES: &[&Family] = &[\n{}];\n",
        list.concat()
    )
}

/// The structs of all shared headers.
pub fn shared(abi: &Abi) -> String {
    let mut out = String::new();
    abi.shared.values().try_for_each(|header| structs(&mut out, header)).expect("a string takes everything");
    out
}

/// The structs, entries and kernels of the family in slot `slot`.
pub fn family(abi: &Abi, slot: usize) -> String {
    let mut out = String::new();
    write_family(&mut out, abi, slot).expect("a string takes everything");
    out
}

fn write_family(out: &mut String, abi: &Abi, slot: usize) -> Result {
    let family = &abi.families[slot];
    structs(out, &family.params)?;
    let name = &family.name;
    writeln!(out, "/// The kernels of `kernels/{name}`.")?;
    writeln!(out, "pub static FAMILY: crate::kernels::Family = crate::kernels::Family {{")?;
    writeln!(out, "    name: \"{name}\",\n    slot: {slot},\n    entries: &[")?;
    for entry in family.kernels.iter().flat_map(|kernel| &kernel.entries) {
        writeln!(out, "        &entries::{},", entry.name)?;
    }
    writeln!(out, "    ],\n    layouts: &[")?;
    family.params.structs.iter().try_for_each(|s| layout(out, &family.params, s))?;
    writeln!(out, "    ],")?;
    writeln!(out, "    #[cfg(x2ct_nvcc)]")?;
    writeln!(out, "    fatbin: Some(include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{name}.fatbin\"))),")?;
    writeln!(out, "    #[cfg(not(x2ct_nvcc))]\n    fatbin: None,\n}};\n")?;
    family.kernels.iter().try_for_each(|k| kernel(out, k))?;
    entries(out, family)?;
    host(out, family)
}

fn documentation(out: &mut String, indent: &str, lines: &[String]) -> Result {
    lines.iter().try_for_each(|line| writeln!(out, "{indent}/// {line}"))
}

fn structs(out: &mut String, header: &Header) -> Result {
    for constant in &header.constants {
        documentation(out, "", &constant.doc)?;
        writeln!(out, "pub const {}: usize = {};\n", constant.rust_name(), constant.value)?;
    }
    for s in &header.structs {
        documentation(out, "", &s.doc)?;
        writeln!(out, "#[repr(C)]\n#[derive(Clone, Copy, Debug, Default)]\npub struct {} {{", s.name)?;
        for field in &s.fields {
            documentation(out, "    ", &field.doc)?;
            writeln!(out, "    pub {}: {},", field.name, rust_type(header, field))?;
        }
        writeln!(out, "}}\n")?;
    }
    Ok(())
}

fn rust_type(header: &Header, field: &Field) -> String {
    let one = match &field.kind {
        Kind::Scalar(name) => name.to_string(),
        Kind::Pointer(_) => "crate::kernels::DevicePtr".into(),
        Kind::Struct(name) if header.structs.iter().any(|s| s.name == *name) => name.clone(),
        Kind::Struct(name) => format!("crate::kernels::shared::{name}"),
    };
    match &field.length {
        None => one,
        Some(Length::Number(length)) => format!("[{one}; {length}]"),
        Some(Length::Constant(name)) => {
            let constant = header.constants.iter().find(|constant| constant.name == *name);
            format!("[{one}; {}]", constant.expect("lengths are checked").rust_name())
        }
    }
}

fn layout(out: &mut String, header: &Header, s: &Struct) -> Result {
    let name = &s.name;
    writeln!(out, "        crate::kernels::ParamsLayout {{\n            name: \"{name}\",")?;
    writeln!(out, "            size: size_of::<{name}>(),\n            fields: &[")?;
    for field in &s.fields {
        let (field, kind) = (&field.name, rust_type(header, field));
        writeln!(out, "                (\"{field}\", std::mem::offset_of!({name}, {field}), size_of::<{kind}>()),")?;
    }
    writeln!(out, "            ],")?;
    writeln!(out, "            #[cfg(feature = \"host\")]\n            host: Some(host::layouts::{name}),")?;
    writeln!(out, "            #[cfg(not(feature = \"host\"))]\n            host: None,\n        }},")
}

fn kernel(out: &mut String, kernel: &Kernel) -> Result {
    documentation(out, "", &kernel.doc)?;
    let entries: Vec<String> = kernel.entries.iter().map(|entry| format!("&entries::{}", entry.name)).collect();
    writeln!(out, "pub static {}: crate::kernels::Kernel<{}> =", kernel.name, kernel.params())?;
    writeln!(out, "    crate::kernels::Kernel::new(&[{}]);\n", entries.join(", "))
}

fn entries(out: &mut String, family: &Family) -> Result {
    writeln!(out, "#[allow(non_upper_case_globals)]\nmod entries {{")?;
    for (index, entry) in family.kernels.iter().flat_map(|kernel| &kernel.entries).enumerate() {
        let name = &entry.name;
        writeln!(out, "    pub static {name}: crate::kernels::Entry = crate::kernels::Entry {{")?;
        writeln!(out, "        name: \"{name}\",\n        family: &super::FAMILY,\n        index: {index},")?;
        writeln!(out, "        params_bytes: size_of::<super::{}>(),", entry.params)?;
        writeln!(out, "        #[cfg(feature = \"host\")]\n        host: Some(super::host::{name}),")?;
        writeln!(out, "        #[cfg(not(feature = \"host\"))]\n        host: None,\n    }};")?;
    }
    writeln!(out, "}}\n")
}

fn host(out: &mut String, family: &Family) -> Result {
    writeln!(out, "#[cfg(feature = \"host\")]\nmod host {{\n    unsafe extern \"C\" {{")?;
    for entry in family.kernels.iter().flat_map(|kernel| &kernel.entries) {
        let name = &entry.name;
        writeln!(out, "        #[link_name = \"x2ct_host_{name}\"]")?;
        writeln!(
            out,
            "        pub fn {name}(launch: *const std::ffi::c_void) -> *const crate::kernels::KernelConfig;"
        )?;
    }
    writeln!(out, "    }}\n    #[allow(non_snake_case)]\n    pub mod layouts {{\n        unsafe extern \"C\" {{")?;
    for s in &family.params.structs {
        writeln!(out, "            #[link_name = \"x2ct_fields_{}\"]", s.name)?;
        writeln!(out, "            pub fn {}() -> *const crate::kernels::FieldLayout;", s.name)?;
    }
    writeln!(out, "        }}\n    }}\n}}")
}
