//! Classes of instructions, from their opcodes.

/// What an instruction is counted as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Class {
    Fma,
    OtherF32,
    F64,
    Integer,
    Mma,
    Special,
    Convert,
    Move,
    Predicate,
    Control,
    Global,
    Shared,
    Matrix,
    Exchange,
    Barrier,
    Other,
}

/// Names of the classes in reports, in the order of the enumeration.
pub const NAMES: [&str; 16] = [
    "fma",
    "other_f32",
    "f64",
    "integer",
    "mma",
    "sfu",
    "convert",
    "move",
    "predicate",
    "control",
    "global",
    "shared",
    "ldmatrix",
    "exchange",
    "barrier",
    "other",
];
pub const CLASSES: usize = NAMES.len();

/// The class of an opcode such as `fma.rn.f32`.
pub fn class_of(opcode: &str) -> Class {
    let mut parts = opcode.split('.');
    let first = parts.next().unwrap_or_default();
    let last = opcode.rsplit('.').next().unwrap_or_default();
    let has = |part: &str| opcode.split('.').any(|p| p == part);
    match first {
        "bra" | "brx" | "ret" | "exit" | "call" | "trap" => Class::Control,
        "bar" | "barrier" | "mbarrier" => Class::Barrier,
        "wgmma" if has("mma_async") => Class::Mma,
        "mma" | "wmma" => Class::Mma,
        "ldmatrix" | "stmatrix" => Class::Matrix,
        "shfl" | "vote" | "match" | "redux" | "activemask" | "elect" => Class::Exchange,
        "setp" | "selp" | "slct" => Class::Predicate,
        "and" | "or" | "xor" | "not" | "mov" if last == "pred" => Class::Predicate,
        "ld" | "ldu" | "st" if has("param") || has("const") => Class::Move,
        "ld" | "st" | "atom" | "red" if opcode.contains(".shared") => Class::Shared,
        "ld" | "ldu" | "st" | "atom" | "red" => Class::Global,
        "cp" if has("commit_group") || has("wait_group") || has("wait_all") => Class::Other,
        "cp" => Class::Global,
        "mov" | "cvta" => Class::Move,
        "cvt" => Class::Convert,
        "ex2" | "lg2" | "sin" | "cos" | "tanh" => Class::Special,
        "rcp" | "rsqrt" | "sqrt" if has("approx") => Class::Special,
        "fma" | "mad" if floating(last) => Class::Fma,
        _ if last == "f64" => Class::F64,
        _ if floating(last) => Class::OtherF32,
        _ if matches!(last.as_bytes().first(), Some(b'u' | b's' | b'b')) && !matches!(first, "fence") => integer(first),
        _ => Class::Other,
    }
}

/// Whether a type is a float of at most 32 bits, or a pair of halves.
fn floating(kind: &str) -> bool {
    matches!(kind, "f32" | "f16" | "bf16" | "f16x2" | "bf16x2" | "f32x2")
}

fn integer(first: &str) -> Class {
    match first {
        "fence" | "membar" | "prefetch" | "nanosleep" | "setmaxnreg" | "griddepcontrol" | "discard" => Class::Other,
        _ => Class::Integer,
    }
}

/// Operands of a tensor-core product.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operands {
    /// Half precision: bf16 or f16.
    Half,
    Tf32,
    /// 8 bits, at twice the rate of the halves.
    Eight,
}

/// Floating-point operations that one warp adds by a tensor-core instruction, and of which operands.
pub fn products(opcode: &str) -> Option<(u64, Operands)> {
    let shape = opcode.split('.').find(|part| part.starts_with('m') && part.contains('n') && part.contains('k'))?;
    let (m, rest) = shape[1..].split_once('n')?;
    let (n, k) = rest.split_once('k')?;
    let [m, n, k] = [m, n, k].map(|digits| digits.parse::<u64>().unwrap_or(0));
    let operands = match opcode {
        o if o.contains("tf32") => Operands::Tf32,
        o if o.contains("bf16") || o.contains(".f16.f16") => Operands::Half,
        _ => Operands::Eight,
    };
    // A warpgroup's four warps share one product.
    let warps = if opcode.starts_with("wgmma") { 4 } else { 1 };
    Some((2 * m * n * k / warps, operands))
}

/// Shape of a tensor-core instruction with its operands, as `m16n8k16.bf16`.
pub fn shape(opcode: &str) -> Option<String> {
    products(opcode)?;
    let parts: Vec<&str> = opcode.split('.').collect();
    let at = parts.iter().position(|part| part.starts_with('m') && part.contains('n') && part.contains('k'))?;
    let operand = parts[at..].iter().rev().nth(usize::from(parts[0] != "wgmma"))?;
    Some(format!("{}.{operand}", parts[at]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opcodes_have_their_classes() {
        for (opcode, class) in [
            ("fma.rn.f32", Class::Fma),
            ("fma.rn.bf16x2", Class::Fma),
            ("fma.rn.f64", Class::F64),
            ("mad.lo.s32", Class::Integer),
            ("mad.wide.u32", Class::Integer),
            ("add.f32", Class::OtherF32),
            ("max.NaN.f32", Class::OtherF32),
            ("add.rn.f64", Class::F64),
            ("ex2.approx.ftz.f32", Class::Special),
            ("rsqrt.approx.f32", Class::Special),
            ("sqrt.rn.f32", Class::OtherF32),
            ("setp.lt.f32", Class::Predicate),
            ("and.pred", Class::Predicate),
            ("and.b32", Class::Integer),
            ("cvt.rn.f32.s32", Class::Convert),
            ("ld.param.u64", Class::Move),
            ("ld.global.nc.v4.f32", Class::Global),
            ("ld.shared.v4.f32", Class::Shared),
            ("cp.async.cg.shared.global", Class::Global),
            ("cp.async.commit_group", Class::Other),
            ("bar.sync", Class::Barrier),
            ("bra.uni", Class::Control),
            ("shfl.sync.bfly.b32", Class::Exchange),
            ("ldmatrix.sync.aligned.m8n8.x4.shared.b16", Class::Matrix),
            ("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", Class::Mma),
            ("wgmma.fence.sync.aligned", Class::Other),
            ("wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16", Class::Mma),
            ("mov.u32", Class::Move),
            ("fence.proxy.async", Class::Other),
        ] {
            assert_eq!(class_of(opcode), class, "{opcode}");
        }
    }

    #[test]
    fn products_are_counted_by_shape() {
        let bf16 = "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32";
        let tf32 = "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32";
        let group = "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16";
        assert_eq!(products(bf16), Some((4096, Operands::Half)));
        assert_eq!(products(tf32), Some((2048, Operands::Tf32)));
        assert_eq!(products(group), Some((131072, Operands::Half)));
        assert_eq!(products("fma.rn.f32"), None);
        assert_eq!(shape(bf16).as_deref(), Some("m16n8k16.bf16"));
        assert_eq!(shape(tf32).as_deref(), Some("m16n8k8.tf32"));
        assert_eq!(shape(group).as_deref(), Some("m64n256k16.bf16"));
    }
}
