//! Lane-wise arithmetic, comparisons, conversions and bit operations: the tables of `warp::forms` say what operands a form has.

use super::*;
use crate::warp::forms::{self, Hold, Join, Place};

impl Selector<'_> {
    pub(super) fn lane_wise(&mut self, form: &Form) -> Result<Selected, Why> {
        match form.parts[0] {
            "setp" if self.is_combined(form) => self.combined_comparison(form),
            "set" => self.set(form),
            _ => self.by_table(form),
        }
    }

    /// A form of the tables: its operands are read and written as its places say.
    fn by_table(&mut self, form: &Form) -> Result<Selected, Why> {
        let known = forms::find(form.opcode).ok_or_else(|| format!("unknown opcode {}", form.opcode))?;
        let (mut function, modifiers) = known.function();
        let operands = flat(form.operands());
        let places = known.code.places;
        if operands.len() != places.len() {
            return Err(format!("there are {} operands where {} are expected", operands.len(), places.len()).into());
        }
        let mut fields = Vec::with_capacity(places.len());
        for (operand, place) in operands.iter().zip(places) {
            let low_part = *place == Place::From(Hold::Word) && self.is_wide_register(operand);
            if low_part {
                function = known.of_low_part().ok_or("a source register has 64 bits where 32 are expected")?;
            }
            fields.push(match place {
                Place::To(Hold::Predicate) => self.predicate_destination(operand)?,
                Place::From(Hold::Predicate) => self.predicate(operand)?,
                Place::To(hold) => self.write(operand, *hold == Hold::Double)?,
                Place::From(hold) => self.read(operand, *hold == Hold::Double || low_part)?,
            });
        }
        Ok(Selected::plain(function, fields).immediate(modifiers))
    }

    /// Whether a comparison is joined with a predicate, or has a second destination that one comparison does not fill.
    fn is_combined(&self, form: &Form) -> bool {
        Join::named(form.part(2)).is_some()
            || (matches!(form.operands().first(), Some(Operand::Pair(..))) && !form.ty.ends_with("x2"))
    }

    /// `setp.CMP{.JOIN}.type p|q, a, b{, c}`.
    fn combined_comparison(&mut self, form: &Form) -> Result<Selected, Why> {
        let mut fields = match form.operand(0)? {
            Operand::Pair(p, q) => vec![self.predicate_destination(p)?, self.predicate_destination(q)?],
            operand => vec![self.predicate_destination(operand)?, Field::Fixed(NONE)],
        };
        let joined = self.compared(form, form.opcode, &mut fields)?;
        Ok(joined.of(Selected::plain(forms::combine_predicates, fields)))
    }

    /// `set.CMP{.JOIN}.type.type d, a, b{, c}`.
    fn set(&mut self, form: &Form) -> Result<Selected, Why> {
        let to = form.parts[form.parts.len() - 2];
        if !matches!(to, "u32" | "s32" | "f32") {
            return Err(format!("set to {to} is not known").into());
        }
        let mut fields = vec![self.write(form.operand(0)?, false)?];
        let without_destination = form.opcode.replacen("set", "setp", 1).replacen(&format!(".{to}."), ".", 1);
        let joined = self.compared(form, &without_destination, &mut fields)?;
        let mut selected = joined.of(Selected::plain(forms::set_from_comparison, fields));
        selected.inst.size = (to == "f32") as u8;
        Ok(selected)
    }

    /// The function of the comparison in `opcode`, a `setp`, and how it is joined; its two sources, the predicate that it is joined with and one to compare into
    /// are added to `fields`.
    fn compared(&mut self, form: &Form, opcode: &str, fields: &mut Vec<Field>) -> Result<Joined, Why> {
        let part = opcode.split('.').nth(2).unwrap_or("");
        let join = Join::named(part);
        let alone = if join.is_some() { opcode.replacen(&format!(".{part}."), ".", 1) } else { opcode.to_string() };
        let known = forms::find(&alone).ok_or_else(|| format!("unknown comparison {alone}"))?;
        let wide = known.code.places[1] == Place::From(Hold::Double);
        fields.push(self.read(form.operand(1)?, wide)?);
        fields.push(self.read(form.operand(2)?, wide)?);
        let joined_with = match join {
            Some(_) => self.predicate(form.operand(3)?)?,
            None => Field::Fixed(NONE),
        };
        fields.push(joined_with);
        fields.push(Field::Fixed(self.predicates));
        self.predicates += 1;
        Ok(Joined { compare: known.function().0, join: join.unwrap_or(Join::Alone) })
    }
}

/// A comparison, and how it is joined with a predicate.
struct Joined {
    compare: OpFn,
    join: Join,
}

impl Joined {
    /// The instruction that does all of it.
    fn of(&self, mut selected: Selected) -> Selected {
        selected.inst.imm = self.compare as usize as i64;
        selected.inst.count = self.join as u8;
        selected
    }
}

/// Operands with `p|q` as two.
fn flat(operands: &[Operand]) -> Vec<Operand> {
    let parts = |operand: &Operand| match operand {
        Operand::Pair(p, q) => vec![(**p).clone(), (**q).clone()],
        operand => vec![operand.clone()],
    };
    operands.iter().flat_map(parts).collect()
}
