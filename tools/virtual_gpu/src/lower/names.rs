//! Addresses of what a kernel names: parameters, shared and local variables, globals.

use crate::ptx::{Body, Entry, Module, Why};
use crate::warp::SHARED_BASE;
use std::collections::HashMap;

/// Alignment of dynamic shared memory, which begins behind the static variables.
const DYNAMIC_SHARED_ALIGNMENT: usize = 128;
/// Bytes between static variables in shared memory where the sanitizer is on: an access past the end of one hits no other.
const SHARED_GAP: usize = 16;
/// Least alignment of a local variable.
const LOCAL_ALIGNMENT: usize = 16;
/// Most shared memory of a block on any chip, and most local memory of a thread.
const LARGEST_SHARED: usize = 228 << 10;
const LARGEST_LOCAL: usize = 512 << 10;

fn limit(space: &str, bytes: usize, most: usize) -> Result<(), Why> {
    if bytes > most {
        return Err(Why::Limit(format!("the {space} variables have {bytes} bytes of {most}")));
    }
    Ok(())
}

/// The address of each name, and how much memory they need.
pub struct Names<'a> {
    parameters: HashMap<String, (usize, usize)>,
    shared: HashMap<String, u32>,
    local: HashMap<String, u64>,
    globals: &'a HashMap<String, u64>,
    /// Start and end of each variable in shared memory, the dynamic ones as one.
    pub shared_variables: Vec<(u32, u32)>,
    pub static_shared: usize,
    pub local_bytes: usize,
}

impl<'a> Names<'a> {
    pub fn new(
        module: &Module,
        entry: &Entry,
        body: &Body,
        globals: &'a HashMap<String, u64>,
    ) -> Result<Names<'a>, Why> {
        let mut static_shared = 0usize;
        let mut shared = HashMap::new();
        let mut shared_variables = vec![];
        let gap = if crate::sanitize::on() { SHARED_GAP } else { 0 };
        for variable in module.shared.iter().chain(&body.shared) {
            static_shared = static_shared.next_multiple_of(variable.align.max(1));
            let start = SHARED_BASE + static_shared as u32;
            shared.insert(variable.name.clone(), start);
            shared_variables.push((start, start + variable.bytes as u32));
            static_shared += variable.bytes + gap;
            limit("shared", static_shared, LARGEST_SHARED)?;
        }
        let static_shared = static_shared.next_multiple_of(DYNAMIC_SHARED_ALIGNMENT);
        shared_variables.push((SHARED_BASE + static_shared as u32, u32::MAX));
        for name in &module.dynamic_shared {
            shared.insert(name.clone(), SHARED_BASE + static_shared as u32);
        }
        let mut local_bytes = 0usize;
        let mut local = HashMap::new();
        for variable in &body.local {
            local_bytes = local_bytes.next_multiple_of(variable.align.max(LOCAL_ALIGNMENT));
            local.insert(variable.name.clone(), local_bytes as u64);
            local_bytes += variable.bytes;
            limit("local", local_bytes, LARGEST_LOCAL)?;
        }
        let parameters = entry.params.iter().map(|p| (p.name.clone(), (p.offset, p.bytes))).collect();
        Ok(Names { parameters, shared, local, globals, shared_variables, static_shared, local_bytes })
    }

    /// Offset and bytes of a parameter.
    pub fn parameter(&self, name: &str) -> Option<(usize, usize)> {
        self.parameters.get(name).copied()
    }

    /// The state space of a name.
    pub fn space(&self, name: &str) -> &'static str {
        if self.parameters.contains_key(name) {
            "param"
        } else if self.shared.contains_key(name) {
            "shared"
        } else if self.local.contains_key(name) {
            "local"
        } else {
            "global"
        }
    }

    /// The address of a name in its own state space.
    pub fn address(&self, name: &str) -> Result<u64, Why> {
        let parameter = self.parameter(name).map(|(offset, _)| offset as u64);
        let shared = || self.shared.get(name).map(|at| *at as u64);
        parameter
            .or_else(shared)
            .or_else(|| self.local.get(name).copied())
            .or_else(|| self.globals.get(name).copied())
            .ok_or_else(|| Why::undeclared("name", name))
    }
}
