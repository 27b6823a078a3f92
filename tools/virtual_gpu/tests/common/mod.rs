//! What the tests of the virtual GPU share: its driver interface, kernels of a few instructions, and operands.

#[path = "../driver/api.rs"]
pub mod api;
mod driver;
mod instruction;
mod operands;

pub use driver::*;
pub use instruction::*;
pub use operands::*;

/// PTX text of a module with one entry `test`: its parameters are 64-bit and named `p0`, `p1` and so on, and `body` declares its own registers.
pub fn module(parameters: usize, body: &str) -> String {
    let list: Vec<String> = (0..parameters).map(|n| format!(".param .u64 p{n}")).collect();
    format!(
        ".version 8.7\n.target sm_90a\n.address_size 64\n\n.visible .entry test(\n{}\n)\n{{\n{body}\nret;\n}}\n",
        list.join(",\n")
    )
}

/// Runs one test of this binary (`module::name`, usually an ignored one) in a process of its own, with `settings` in its environment: what the device reads
/// at its start cannot change later. Returns what it printed.
pub fn in_process(test: &str, settings: &[(&str, &str)]) -> String {
    let run = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--include-ignored", "--nocapture"])
        .envs(settings.iter().copied())
        .output()
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{test} with {settings:?} failed:\n{text}");
    assert!(text.contains("1 passed"), "{test} did not run:\n{text}");
    text
}
