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
            // its comparisons and branches follow
            "brx" => Selected::new(warp::nop, Kind::Plain, UNCOUNTED),
            _ => Selected::new(warp::nop, Kind::Ret, C_BRA),
        })
    }

    /// `createpolicy`: a hint for caches, which means nothing here.
    pub(super) fn cache_policy(&mut self, form: &Form) -> Result<Selected, Why> {
        let f = warp::arithmetic("mov.b64").ok_or("mov.b64 is not known")?;
        let none = Field::Fixed(self.constants.of(0, true));
        Ok(Selected::plain(f, C_MOV, vec![self.write(form.operand(0)?, true)?, none]))
    }

    /// Compares a statement's first operand, an unsigned integer, with a number; gives the predicate that says whether they are equal.
    pub fn equals(&mut self, statement: &Statement, number: u64) -> Result<(u32, Selected), Why> {
        let index = self.read(statement.operands.first().unwrap_or(&Operand::Sink), false)?;
        let predicate = self.new_predicate();
        let f = warp::setp("eq", "u32").ok_or("equality is not known")?;
        let fields = vec![Field::Fixed(predicate), index, Field::Fixed(self.constants.of(number, false))];
        let mut selected = Selected::plain(f, C_PRED, fields);
        selected.inst.loc = statement.loc;
        Ok((predicate, selected))
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
                Selected::plain(function()?, C_PRED, vec![self.predicate_destination(to)?, self.predicate(from)?])
            }
            (_, Operand::Special(name)) if SPECIALS.contains(&name.as_str()) => {
                let to = self.write(to, wide)?;
                self.move_special(name, to, wide, C_MOV)?
            }
            (_, Operand::Vec(parts)) => self.pack(to, parts, wide)?,
            (Operand::Vec(parts), _) => self.unpack(parts, from, wide)?,
            _ => Selected::plain(function()?, C_MOV, vec![self.write(to, wide)?, self.read(from, wide)?]),
        })
    }
}

impl Selector<'_> {
    /// A special register as a source of any instruction.
    pub(super) fn special(&mut self, name: &str, wide: bool) -> Result<Field, Why> {
        if let Some(of_lane) = lane_mask(name) {
            return Ok(Field::Fixed(self.constants.of_lanes(of_lane)));
        }
        let register = self.new_register(if wide { Class::D } else { Class::W });
        let helper = self.move_special(name, Field::Write(register), wide, UNCOUNTED)?;
        self.helpers.push(helper);
        Ok(Field::Read(register))
    }

    fn move_special(&self, name: &str, to: Field, wide: bool, class: u8) -> Result<Selected, Why> {
        let number = SPECIALS.iter().position(|special| *special == name);
        let number = number.ok_or_else(|| {
            Why::Undeclared(format!(
                "`{name}` is neither a register that is declared here nor a special register that is known"
            ))
        })?;
        let f = if wide { warp::mov_special64 } else { warp::mov_special };
        Ok(Selected::plain(f, class, vec![to]).immediate(number as i64))
    }

    /// `mov` of a list into one register, the lowest part first (PTX ISA, `mov`).
    fn pack(&mut self, to: &Operand, parts: &[Operand], wide: bool) -> Result<Selected, Why> {
        let to = self.write(to, wide)?;
        let parts = parts.iter().map(|part| self.read(part, false)).collect::<Result<Vec<_>, _>>()?;
        match (&parts[..], wide) {
            ([low, high], false) => Ok(Selected::plain(warp::pack16, C_MOV, vec![to, *low, *high])),
            ([low, high], true) => Ok(Selected::plain(warp::pack32, C_MOV, vec![to, *low, *high])),
            ([a, b, c, d], true) => {
                let low = self.packed(warp::pack16, vec![*a, *b]);
                let high = self.packed(warp::pack16, vec![*c, *d]);
                Ok(Selected::plain(warp::pack32, C_MOV, vec![to, low, high]))
            }
            ([a, b, c, d], false) => {
                let mut whole = *a;
                for (n, part) in [b, c].into_iter().enumerate() {
                    let [start, bits] =
                        [8 * (n as u64 + 1), 8].map(|number| Field::Fixed(self.constants.of(number, false)));
                    whole = self.packed(warp::bfi32, vec![*part, whole, start, bits]);
                }
                let [start, bits] = [24, 8].map(|number| Field::Fixed(self.constants.of(number, false)));
                Ok(Selected::plain(warp::bfi32, C_MOV, vec![to, *d, whole, start, bits]))
            }
            _ => Err(format!("{} parts cannot be packed", parts.len()).into()),
        }
    }

    /// A helper that packs into a register of its own.
    fn packed(&mut self, f: OpFn, sources: Vec<Field>) -> Field {
        let register = self.new_register(Class::W);
        self.help(f, [vec![Field::Write(register)], sources].concat());
        Field::Read(register)
    }

    /// `mov` of one register into a list, the lowest part first.
    fn unpack(&mut self, parts: &[Operand], from: &Operand, wide: bool) -> Result<Selected, Why> {
        let from = self.read(from, wide)?;
        let to = parts.iter().map(|part| self.write(part, false)).collect::<Result<Vec<_>, _>>()?;
        match (&to[..], wide) {
            ([low, high], false) => Ok(Selected::plain(warp::unpack16, C_MOV, vec![*low, *high, from])),
            ([low, high], true) => Ok(Selected::plain(warp::unpack32, C_MOV, vec![*low, *high, from])),
            ([a, b, c, d], true) => {
                let [low, high] = [self.new_register(Class::W), self.new_register(Class::W)];
                self.help(warp::unpack32, vec![Field::Write(low), Field::Write(high), from]);
                self.help(warp::unpack16, vec![*a, *b, Field::Read(low)]);
                Ok(Selected::plain(warp::unpack16, C_MOV, vec![*c, *d, Field::Read(high)]))
            }
            ([.., last], false) if to.len() == 4 => {
                // the source may be one of the parts
                let copy = self.new_register(Class::W);
                self.help(warp::arithmetic("mov.b32").ok_or("mov.b32 is not known")?, vec![Field::Write(copy), from]);
                let field = |this: &mut Self, n: u64, part: Field| {
                    let [start, bits] = [8 * n, 8].map(|number| Field::Fixed(this.constants.of(number, false)));
                    vec![part, Field::Read(copy), start, bits]
                };
                for (n, part) in to[..3].iter().enumerate() {
                    if !matches!(part, Field::Fixed(NONE)) {
                        let fields = field(self, n as u64, *part);
                        self.help(warp::bfe_u32, fields);
                    }
                }
                if matches!(last, Field::Fixed(NONE)) {
                    return Ok(Selected::plain(warp::nop, C_MOV, vec![]));
                }
                let fields = field(self, 3, *last);
                Ok(Selected::plain(warp::bfe_u32, C_MOV, fields))
            }
            _ => Err(format!("{} parts cannot be unpacked", to.len()).into()),
        }
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
