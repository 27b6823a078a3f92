//! Control flow, barriers of a block and a warp, orderings, and moves with special registers.

use super::*;

/// Special registers in the order of `Warp::special`.
pub const SPECIALS: [&str; 20] = [
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
];

impl Selector<'_> {
    pub(super) fn control(&mut self, form: &Form) -> Result<Selected, Why> {
        Ok(match form.parts[0] {
            "trap" => Selected::new(warp::nop, Kind::Trap, C_OTHER),
            _ => Selected::new(warp::nop, Kind::Ret, C_BRA),
        })
    }

    /// `bar.sync`, `barrier.sync` and `bar.warp.sync`.
    pub(super) fn barrier(&mut self, form: &Form) -> Result<Selected, Why> {
        match form.part(1) {
            "sync" | "cta" => {
                let fields = vec![self.read(form.operand(0)?, false)?, self.read_optional(form.optional(1), false)?];
                Ok(Selected::new(warp::nop, Kind::Bar, C_BAR).with(fields))
            }
            "warp" => {
                let mut fields = vec![Field::Fixed(NONE); 5];
                fields.push(self.read(form.operand(0)?, false)?);
                Ok(with_member_mask(Selected::new(warp::warp_sync, Kind::Sync, C_BAR).with(fields)))
            }
            _ => Err("this barrier is not known".into()),
        }
    }

    /// Fences and hints; fences do nothing but tell the sanitizer what they order.
    pub(super) fn ordering(&mut self, form: &Form) -> Result<Selected, Why> {
        let f: OpFn = match (form.parts[0], form.part(1)) {
            ("fence", "proxy" | "mbarrier_init") => warp::fence_proxy,
            ("fence", _) => warp::fence,
            ("membar", scope) if scope != "cta" => warp::fence,
            _ => warp::nop,
        };
        Ok(Selected::new(f, Kind::Plain, C_OTHER))
    }

    pub(super) fn mov(&mut self, form: &Form) -> Result<Selected, Why> {
        let wide = form.is_wide();
        let (to, from) = (form.operand(0)?, form.operand(1)?);
        let function = || warp::arithmetic(form.opcode).ok_or(Why::from("this type of mov is not known"));
        Ok(match (to, from) {
            _ if form.ty == "pred" => {
                Selected::plain(function()?, C_PRED, vec![self.predicate(to)?, self.predicate(from)?])
            }
            (_, Operand::Special(name)) => {
                let number = SPECIALS.iter().position(|special| special == name);
                let number = number.ok_or_else(|| format!("the special register {name} is not known"))?;
                let f = if wide { warp::mov_special64 } else { warp::mov_special };
                Selected::plain(f, C_MOV, vec![self.write(to, wide)?]).immediate(number as i64)
            }
            (_, Operand::Vec(halves)) => {
                let [low, high] = &halves[..] else { return Err("only two parts can be packed".into()) };
                let f = if wide { warp::pack32 } else { warp::pack16 };
                Selected::plain(f, C_MOV, vec![self.write(to, wide)?, self.read(low, false)?, self.read(high, false)?])
            }
            (Operand::Vec(halves), _) => {
                let [low, high] = &halves[..] else { return Err("only two parts can be unpacked".into()) };
                let f = if wide { warp::unpack32 } else { warp::unpack16 };
                Selected::plain(
                    f,
                    C_MOV,
                    vec![self.write(low, false)?, self.write(high, false)?, self.read(from, wide)?],
                )
            }
            _ => Selected::plain(function()?, C_MOV, vec![self.write(to, wide)?, self.read(from, wide)?]),
        })
    }
}

/// Marks a collective whose lanes are named by a mask in operand 5, not by the whole warp.
pub(super) fn with_member_mask(mut selected: Selected) -> Selected {
    selected.inst.target = 1;
    selected
}
