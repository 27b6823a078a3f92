//! Control flow, barriers of a block and a warp, and orderings.

use super::*;
use crate::warp::Purpose;

/// Special registers in the order of `Warp::special`.
pub const SPECIALS: [&str; crate::warp::SPECIAL_REGISTERS] = [
    "%tid.x",
    "%tid.y",
    "%tid.z",
    "%ntid.x",
    "%ntid.y",
    "%ntid.z",
    "%ctaid.x",
    "%ctaid.y",
    "%ctaid.z",
    "%nctaid.x",
    "%nctaid.y",
    "%nctaid.z",
    "%laneid",
    "%warpid",
    "%envreg1",
    "%envreg2",
    "%smid",
    "%nsmid",
    "%clock",
    "%dynamic_smem_size",
    "%nwarpid",
    "%clusterid.x",
    "%clusterid.y",
    "%clusterid.z",
    "%nclusterid.x",
    "%nclusterid.y",
    "%nclusterid.z",
    "%cluster_ctaid.x",
    "%cluster_ctaid.y",
    "%cluster_ctaid.z",
    "%cluster_nctaid.x",
    "%cluster_nctaid.y",
    "%cluster_nctaid.z",
    "%cluster_ctarank",
    "%cluster_nctarank",
    "%is_explicit_cluster",
];

impl Selector<'_> {
    pub(super) fn control(&mut self, form: &Form) -> Result<Selected, Why> {
        Ok(match form.parts[0] {
            "trap" => Selected::new(warp::nop, Kind::Trap),
            // its comparisons and branches follow
            "brx" => Selected::new(warp::nop, Kind::Plain).uncounted(),
            _ => Selected::new(warp::nop, Kind::Ret),
        })
    }

    /// `createpolicy`: a hint for caches, which means nothing here.
    pub(super) fn cache_policy(&mut self, form: &Form) -> Result<Selected, Why> {
        let f = function_of("mov.b64")?;
        let none = Field::Fixed(self.constants.of(0, true));
        Ok(Selected::plain(f, vec![self.write(form.operand(0)?, true)?, none]))
    }

    /// Compares a statement's first operand, an unsigned integer, with a number; gives the predicate that says whether they are equal.
    pub fn equals(&mut self, statement: &Statement, number: u64) -> Result<(u32, Selected), Why> {
        let index = self.read(statement.operands.first().unwrap_or(&Operand::Sink), false)?;
        let predicate = self.new_predicate();
        let f = function_of("setp.eq.u32")?;
        let fields = vec![Field::Fixed(predicate), index, Field::Fixed(self.constants.of(number, false))];
        let mut selected = Selected::plain(f, fields);
        selected.inst.loc = statement.loc;
        Ok((predicate, selected))
    }

    /// Barriers of a block, a warp and a cluster.
    pub(super) fn barrier(&mut self, form: &Form) -> Result<Selected, Why> {
        match form.part(1) {
            "warp" => {
                let mut fields = vec![Field::Fixed(NONE); 5];
                fields.push(self.read(form.operand(0)?, false)?);
                Ok(with_member_mask(Selected::new(warp::warp_sync, Kind::Sync).with(fields)))
            }
            "cluster" => self.cluster_barrier(form),
            "cta" => self.named_barrier(form, 2),
            _ => self.named_barrier(form, 1),
        }
    }

    /// `bar.sync`, `bar.arrive`, `bar.red` and the forms of `barrier`, whose operation is part `at` of the opcode.
    fn named_barrier(&mut self, form: &Form, at: usize) -> Result<Selected, Why> {
        let purpose = match (form.part(at), form.part(at + 1)) {
            ("sync", _) => Purpose::Wait,
            ("arrive", _) => Purpose::Arrive,
            ("red", "popc") => Purpose::Count,
            ("red", "and") => Purpose::All,
            ("red", "or") => Purpose::Any,
            _ => return Err("this barrier is not known".into()),
        };
        let operands = form.operands();
        let mut selected = Selected::new(warp::nop, Kind::Bar).immediate(purpose as i64);
        if !purpose.reduces() {
            if purpose == Purpose::Arrive && operands.len() < 2 {
                return Err(Why::Operand("bar.arrive needs the number of threads".into()));
            }
            return Ok(
                selected.with(vec![self.read(form.operand(0)?, false)?, self.read_optional(form.optional(1), false)?])
            );
        }
        let result = match purpose {
            Purpose::Count => self.write_needed(form.operand(0)?, false)?,
            _ => self.predicate_destination(form.operand(0)?)?,
        };
        let threads = if operands.len() > 3 { form.optional(2) } else { None };
        let asked = match form.operand(operands.len() - 1)? {
            Operand::Not(inner) => {
                selected.inst.signed = true;
                &**inner
            }
            asked => asked,
        };
        let (id, threads) = (self.read(form.operand(1)?, false)?, self.read_optional(threads, false)?);
        let asked = self.predicate(asked)?;
        Ok(selected.with(vec![id, threads, result, asked]))
    }

    /// Fences and hints; fences do nothing but tell the sanitizer what they order.
    pub(super) fn ordering(&mut self, form: &Form) -> Result<Selected, Why> {
        let f: OpFn = match (form.parts[0], form.part(1)) {
            ("fence", "proxy") if form.part(2) == "async" => warp::fence_proxy,
            // aliases and tensor maps are not modelled
            ("fence", "proxy") => warp::nop,
            ("fence", "mbarrier_init") => warp::fence_mbarrier_init,
            ("fence", _) => warp::fence,
            ("membar", scope) if scope != "cta" => warp::fence,
            _ => warp::nop,
        };
        Ok(Selected::new(f, Kind::Plain))
    }
}

impl Selector<'_> {
    /// A special register as a source of any instruction.
    pub(super) fn special(&mut self, name: &str, wide: bool) -> Result<Field, Why> {
        if let Some(of_lane) = lane_mask(name) {
            return Ok(Field::Fixed(self.constants.of_lanes(of_lane)));
        }
        let register = self.new_register(if wide { Class::D } else { Class::W });
        let helper = self.move_special(name, Field::Write(register), wide)?.uncounted();
        self.helpers.push(helper);
        Ok(Field::Read(register))
    }

    pub(super) fn move_special(&self, name: &str, to: Field, wide: bool) -> Result<Selected, Why> {
        let number = SPECIALS.iter().position(|special| *special == name);
        let number = number.ok_or_else(|| {
            Why::Undeclared(format!(
                "`{name}` is neither a register that is declared here nor a special register that is known"
            ))
        })?;
        let f = if wide { warp::forms::mov_special64 } else { warp::forms::mov_special };
        Ok(Selected::plain(f, vec![to]).immediate(number as i64))
    }
}

/// The lanes that a mask of lanes names for each lane (PTX ISA, `%lanemask_eq` and its kin).
fn lane_mask(name: &str) -> Option<[u32; 32]> {
    let of = |mask: fn(u32) -> u32| Some(std::array::from_fn(|lane| mask(1 << lane)));
    match name {
        "%lanemask_eq" => of(|lane| lane),
        "%lanemask_lt" => of(|lane| lane - 1),
        "%lanemask_le" => of(|lane| lane | (lane - 1)),
        "%lanemask_gt" => of(|lane| !(lane | (lane - 1))),
        "%lanemask_ge" => of(|lane| !(lane - 1)),
        _ => None,
    }
}

/// Marks a collective whose lanes are named by a mask in operand 5, not by the whole warp.
pub(super) fn with_member_mask(mut selected: Selected) -> Selected {
    selected.inst.target = 1;
    selected
}
