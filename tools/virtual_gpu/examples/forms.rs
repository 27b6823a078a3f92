//! Prints the opcode forms of PTX files that the executor does not know, with how often each stands there: `cargo run -p virtual_gpu --example forms -- FILE.ptx...`

use std::collections::{BTreeMap, HashMap};
use virtual_gpu::{lower, ptx};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut unknown: BTreeMap<String, (usize, String)> = BTreeMap::new();
    for path in std::env::args().skip(1) {
        let module = ptx::Module::parse(std::fs::read_to_string(&path)?).map_err(|error| format!("{path}: {error}"))?;
        let globals: HashMap<String, u64> =
            module.globals.iter().map(|variable| (variable.name.clone(), 4096)).collect();
        for name in module.entries.keys() {
            match lower::refusals(&module, &globals, name) {
                Ok(refusals) => {
                    for (opcode, error) in refusals {
                        unknown.entry(opcode).or_insert_with(|| (0, format!("{path}: {error}"))).0 += 1;
                    }
                }
                Err(error) => println!("{path}: {error}"),
            }
        }
    }
    for (opcode, (count, first)) in &unknown {
        println!("{count:6} {opcode}\n       {first}");
    }
    println!("{} unknown forms", unknown.len());
    Ok(())
}
