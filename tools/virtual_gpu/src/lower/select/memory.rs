//! Loads, stores, atomics and asynchronous copies.

use super::*;

/// State spaces that a load or a store names; none of them is the generic space.
const SPACES: [&str; 5] = ["global", "shared", "shared::cluster", "param", "local"];
/// What makes a load or a store strong.
const STRONG: [&str; 4] = ["acquire", "release", "volatile", "relaxed"];

/// What a strong access or an atomic operation acquires and releases (PTX ISA, "Memory Consistency Model"); without a qualifier
/// it is relaxed.
pub(super) fn order(form: &Form) -> u8 {
    let both = form.has("acq_rel");
    let acquires = if both || form.has("acquire") { warp::ACQUIRE } else { 0 };
    acquires | if both || form.has("release") { warp::RELEASE } else { 0 }
}

/// The function of a load or a store of one, two or four elements.
macro_rules! of_elements {
    ($count:expr, $function:ident) => {
        match $count {
            1 => warp::$function::<1> as OpFn,
            2 => warp::$function::<2>,
            _ => warp::$function::<4>,
        }
    };
}

impl Selector<'_> {
    pub(super) fn load_or_store(&mut self, form: &Form) -> Result<Selected, Why> {
        let store = form.parts[0] == "st";
        let space = SPACES.into_iter().find(|space| form.has(space)).unwrap_or("global");
        let count = if form.has("v4") { 4 } else { 1 + form.has("v2") as usize };
        let (values, place) = if store { (1, 0) } else { (0, 1) };
        let mut selected = self.values(form, form.operand(values)?, count, store)?;
        let (base, offset) = form.address(place)?;
        selected.inst.imm = offset;
        if space == "param"
            && !store
            && let Operand::Sym(name) = base
        {
            return self.parameter(selected, name, count);
        }
        let shared = matches!(space, "shared" | "shared::cluster");
        let strong = STRONG.iter().any(|order| form.has(order));
        // shared addresses are 32 bits wide here, all others 64
        let wide = match base {
            Operand::Reg(_) => self.is_wide_register(base),
            _ => !shared,
        };
        if shared == wide {
            return Err("the address has the wrong width".into());
        }
        let address = self.read(base, wide)?;
        selected.fields.push(address);
        selected.inst.mem = self.next_memory_instruction();
        selected.inst.f = match (space, store) {
            ("global", _) if strong => {
                if count != 1 || selected.inst.size != 4 {
                    return Err("an ordered load or store of this type is not known".into());
                }
                selected.inst.order = order(form);
                if store {
                    warp::st_strong
                } else {
                    selected.inst.kind = Kind::Yield;
                    warp::ld_strong
                }
            }
            ("global", false) => of_elements!(count, ld_global),
            ("global", true) => of_elements!(count, st_global),
            ("shared::cluster", false) | ("shared", false) if strong || space != "shared" => {
                selected.inst.order = order(form) | if strong { warp::STRONG } else { 0 };
                selected.inst.kind = if strong { Kind::Yield } else { Kind::Mem };
                of_elements!(count, ld_cluster)
            }
            ("shared::cluster", true) | ("shared", true) if strong || space != "shared" => {
                selected.inst.order = order(form) | if strong { warp::STRONG } else { 0 };
                of_elements!(count, st_cluster)
            }
            ("shared", false) => of_elements!(count, ld_shared),
            ("shared", true) => of_elements!(count, st_shared),
            ("local", false) => of_elements!(count, ld_local),
            ("local", true) => of_elements!(count, st_local),
            ("param", false) => of_elements!(count, ld_param),
            _ => return Err(format!("a store to the space {space} is not known").into()),
        };
        Ok(selected)
    }

    /// The registers of a load or a store, with size, count and extension of its elements.
    fn values(&mut self, form: &Form, values: &Operand, count: usize, store: bool) -> Result<Selected, Why> {
        let mut selected = Selected::new(warp::nop, Kind::Mem);
        selected.inst.size = match form.ty.get(1..) {
            Some("8") => 1,
            Some("16") => 2,
            Some("32") => 4,
            Some("64") => 8,
            _ => return Err("this type is not known in memory".into()),
        };
        selected.inst.signed = form.ty.starts_with('s') && selected.inst.size < 8;
        selected.inst.count = count as u8;
        let used = form.statement.used;
        if used != 0 && !store {
            selected.inst.target = used;
        }
        let list = match values {
            Operand::Vec(list) => &list[..],
            single => std::slice::from_ref(single),
        };
        if list.len() != count {
            return Err(format!("{} registers stand where {count} are expected", list.len()).into());
        }
        let wide_registers = list.iter().filter(|operand| self.is_wide_register(operand)).count();
        let extends = !form.is_wide() && wide_registers > 0;
        if extends && wide_registers != count {
            return Err("registers of two widths stand in one list".into());
        }
        selected.inst.extends = extends;
        let wide = form.is_wide() || extends;
        for operand in list {
            let field = if store { self.read(operand, wide)? } else { self.write(operand, wide)? };
            if matches!(field, Field::Fixed(NONE)) {
                return Err("a load into nothing is not known".into());
            }
            selected.fields.push(field);
        }
        Ok(selected)
    }

    /// A load of a kernel's parameter by its name.
    fn parameter(&mut self, mut selected: Selected, name: &str, count: usize) -> Result<Selected, Why> {
        let (start, bytes) = self.names.parameter(name).ok_or_else(|| format!("parameter {name} is not declared"))?;
        let offset = selected.inst.imm;
        if offset < 0 || offset as usize + count * selected.inst.size as usize > bytes {
            return Err(format!("the load ends outside of parameter {name}, which has {bytes} bytes").into());
        }
        selected.inst.imm += start as i64;
        selected.inst.kind = Kind::Plain;
        selected.inst.f = of_elements!(count, ld_param_const);
        Ok(selected)
    }

    pub(super) fn atomic(&mut self, form: &Form) -> Result<Selected, Why> {
        const OPERATIONS: [&str; 10] = ["add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec"];
        let operation = form.parts.iter().find(|part| OPERATIONS.contains(part));
        let operation = operation.ok_or("this atomic operation is not known")?;
        let f = warp::atomic(operation, form.ty).ok_or("this type of atomic operation is not known")?;
        if form.has("local") || form.has("param") {
            return Err("atomic operations are on global and shared memory".into());
        }
        let shared = form.has("shared") || form.has("shared::cluster");
        let wide = form.is_wide();
        let returns = form.parts[0] == "atom";
        let at = returns as usize;
        let mut selected = Selected::new(f, Kind::Mem);
        selected.inst.extends = shared;
        selected.inst.order = order(form);
        let (base, offset) = form.address(at)?;
        selected.inst.imm = offset;
        selected.fields = vec![
            if returns { self.write(form.operand(0)?, wide)? } else { Field::Fixed(NONE) },
            self.read(base, !shared)?,
            self.read(form.operand(at + 1)?, wide)?,
            self.read_optional(form.optional(at + 2), wide)?,
        ];
        selected.inst.mem = self.next_memory_instruction();
        Ok(selected)
    }

    /// `cp.async` and its groups; bulk copies are in `hopper`.
    pub(super) fn copy(&mut self, form: &Form) -> Result<Selected, Why> {
        if form.part(1) != "async" {
            return Err("this copy is not known".into());
        }
        Ok(match form.part(2) {
            "bulk" => return self.bulk_copy(form),
            "commit_group" => Selected::new(warp::cp_commit, Kind::Plain),
            "wait_group" => Selected::new(warp::cp_wait, Kind::Plain).immediate(form.immediate(0)? as i64),
            "wait_all" => Selected::new(warp::cp_wait, Kind::Plain).immediate(-1),
            "cg" | "ca" => return self.copy_async(form),
            _ => return Err("this asynchronous copy is not known".into()),
        })
    }

    fn copy_async(&mut self, form: &Form) -> Result<Selected, Why> {
        let ((to, to_offset), (from, from_offset)) = (form.address(0)?, form.address(1)?);
        let mut selected = Selected::new(warp::cp_async, Kind::Mem).immediate(from_offset);
        selected.inst.size = form.immediate(2)? as u8;
        selected.inst.target = to_offset as u32;
        selected.fields =
            vec![self.read(to, false)?, self.read(from, true)?, self.read_optional(form.optional(3), false)?];
        selected.inst.mem = self.next_memory_instruction();
        Ok(selected)
    }
}
