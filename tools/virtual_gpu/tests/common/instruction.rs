//! Kernels of one instruction: each thread loads its operands, executes the instruction where its lane takes part, and stores what the destination holds.

use super::{CudaError, Kernel, Memory, module};

/// The kind of register that an operand is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Width {
    Predicate,
    Half,
    Word,
    Double,
}

impl Width {
    /// The bits that a register of this width keeps.
    pub fn mask(self) -> u64 {
        match self {
            Width::Predicate => 1,
            Width::Half => 0xffff,
            Width::Word => 0xffff_ffff,
            Width::Double => u64::MAX,
        }
    }
    fn bits(self) -> &'static str {
        match self {
            Width::Predicate => "pred",
            Width::Half => "b16",
            Width::Word => "b32",
            Width::Double => "b64",
        }
    }
}

/// Instructions on registers of their own: `%d0`, `%d1` are destinations, `%s0`, `%s1` sources; declarations may stand among them.
pub struct Instruction<'a> {
    pub text: &'a str,
    pub destinations: &'a [Width],
    pub sources: &'a [Width],
}

/// Which lanes execute the instruction, and how the others are kept from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lanes {
    /// All 32 lanes of every warp.
    All,
    /// All lanes of blocks whose last warp has only 13 threads.
    Partial,
    /// The lanes whose predicate is true, by a guard.
    Guarded,
    /// The lanes whose predicate is false, by a negated guard.
    NotGuarded,
    /// The lanes that do not jump over the instruction.
    Branch,
}

impl Lanes {
    pub const EVERY: [Lanes; 5] = [Lanes::All, Lanes::Partial, Lanes::Guarded, Lanes::NotGuarded, Lanes::Branch];

    fn block(self) -> usize {
        if self == Lanes::Partial { 32 * 2 + 13 } else { 128 }
    }

    /// Whether `thread` executes the instruction: a pattern in which some warps are full, some empty and most mixed.
    pub fn take(self, thread: usize) -> bool {
        let (warp, lane) = (thread / 32, thread % 32);
        match self {
            Lanes::All | Lanes::Partial => true,
            _ => match warp % 5 {
                0 => true,
                1 => false,
                _ => (lane * (2 * warp + 1) + warp) % 7 < 4,
            },
        }
    }
}

/// What destinations hold before the instruction: what a lane that takes no part must keep.
pub const BEFORE: u64 = 0xa5c3_96f0_5a3c_690f;

impl Instruction<'_> {
    /// The destinations of each thread, one list for each destination; operands come one list for each source.
    pub fn execute(&self, operands: &[Vec<u64>], lanes: Lanes) -> Result<Vec<Vec<u64>>, CudaError> {
        assert_eq!(operands.len(), self.sources.len(), "{}: one list of operands for each source", self.text);
        let count = operands.first().map_or(1, Vec::len);
        let blocks = count.div_ceil(lanes.block());
        let padded = blocks * lanes.block();
        let pad = |values: &[u64]| [values, &vec![0; padded - count]].concat();
        let sources: Vec<Memory<u64>> = operands.iter().map(|values| Memory::new(&pad(values))).collect();
        let results: Vec<Memory<u64>> = self.destinations.iter().map(|_| Memory::new(&vec![BEFORE; padded])).collect();
        let takes = Memory::new(&(0..padded).map(|thread| lanes.take(thread) as u64).collect::<Vec<_>>());
        let arguments: Vec<u64> = [&takes].into_iter().chain(&sources).chain(&results).map(Memory::address).collect();
        Kernel::load(&self.kernel(lanes), "test")?.launch(
            [blocks as u32, 1, 1],
            [lanes.block() as u32, 1, 1],
            0,
            &arguments,
        )?;
        Ok(results
            .iter()
            .zip(self.destinations)
            .map(|(memory, width)| memory.read()[..count].iter().map(|bits| bits & width.mask()).collect())
            .collect())
    }

    /// PTX text of the kernel; its parameters are the list of who takes part, the sources and the destinations.
    fn kernel(&self, lanes: Lanes) -> String {
        let mut body = String::from(
            ".reg .b32 %index<5>;\n.reg .b64 %address<3>;\n.reg .pred %take;\n.reg .b32 %word;\n\
             mov.u32 %index1, %tid.x;\nmov.u32 %index2, %ctaid.x;\nmov.u32 %index3, %ntid.x;\n\
             mad.lo.u32 %index4, %index2, %index3, %index1;\n",
        );
        body += &load(0, "%take", Width::Predicate);
        for (n, width) in self.sources.iter().enumerate() {
            body += &format!(".reg .{} %s{n};\n", width.bits());
            body += &load(1 + n, &format!("%s{n}"), *width);
        }
        let mut stores = String::new();
        for (n, width) in self.destinations.iter().enumerate() {
            let parameter = 1 + self.sources.len() + n;
            body += &format!(".reg .{} %d{n};\n", width.bits());
            body += &load(parameter, &format!("%d{n}"), *width);
            stores += &store(parameter, &format!("%d{n}"), *width);
        }
        let guard = match lanes {
            Lanes::Guarded => "@%take ",
            Lanes::NotGuarded => "@!%take ",
            _ => "",
        };
        if lanes == Lanes::NotGuarded {
            body += "not.pred %take, %take;\n";
        }
        if lanes == Lanes::Branch {
            body += "@!%take bra $OVER;\n";
        }
        for statement in self.text.split(';').map(str::trim).filter(|statement| !statement.is_empty()) {
            let guard = if statement.starts_with('.') { "" } else { guard };
            body += &format!("{guard}{statement};\n");
        }
        if lanes == Lanes::Branch {
            body += "$OVER:\n";
        }
        module(1 + self.sources.len() + self.destinations.len(), &(body + &stores))
    }
}

/// Puts the address of this thread's element of a parameter's list into `%address2`.
fn element(parameter: usize) -> String {
    format!("ld.param.u64 %address1, [p{parameter}];\nmad.wide.u32 %address2, %index4, 8, %address1;\n")
}

/// Loads this thread's element of a parameter's list into a register.
fn load(parameter: usize, register: &str, width: Width) -> String {
    let load = match width {
        Width::Predicate => {
            format!("ld.global.b32 %word, [%address2];\nand.b32 %word, %word, 1;\nsetp.ne.s32 {register}, %word, 0;\n")
        }
        _ => format!("ld.global.{} {register}, [%address2];\n", width.bits()),
    };
    element(parameter) + &load
}

/// Stores a register as this thread's element of a parameter's list.
fn store(parameter: usize, register: &str, width: Width) -> String {
    let store = match width {
        Width::Predicate => format!("selp.b32 %word, 1, 0, {register};\nst.global.b32 [%address2], %word;\n"),
        _ => format!("st.global.{} [%address2], {register};\n", width.bits()),
    };
    element(parameter) + &store
}
