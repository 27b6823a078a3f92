//! Moves: of registers, of special registers, into and out of packed registers.

use super::control::SPECIALS;
use super::*;
use crate::warp::forms;

impl Selector<'_> {
    pub(super) fn mov(&mut self, form: &Form) -> Result<Selected, Why> {
        let wide = form.is_wide();
        match (form.operand(0)?, form.operand(1)?) {
            (to, Operand::Special(name)) if SPECIALS.contains(&name.as_str()) && form.ty != "pred" => {
                let to = self.write(to, wide)?;
                self.move_special(name, to, wide)
            }
            (to, Operand::Vec(parts)) => {
                let mut fields = vec![self.write(to, wide)?];
                for part in parts {
                    fields.push(self.read(part, false)?);
                }
                packed(forms::pack, wide, parts.len(), fields)
            }
            (Operand::Vec(parts), from) => {
                let mut fields = parts.iter().map(|part| self.write(part, false)).collect::<Result<Vec<_>, _>>()?;
                fields.push(self.read(from, wide)?);
                packed(forms::unpack, wide, parts.len(), fields)
            }
            _ => self.lane_wise(form),
        }
    }
}

/// A move between a register and `parts` parts of it.
fn packed(f: OpFn, wide: bool, parts: usize, fields: Vec<Field>) -> Result<Selected, Why> {
    let bits = if wide { 64 } else { 32 };
    if !matches!((parts, bits), (2, _) | (4, _)) {
        return Err(format!("a register has no {parts} parts").into());
    }
    let mut selected = Selected::plain(f, fields);
    selected.inst.size = (bits / parts) as u8;
    selected.inst.count = parts as u8;
    selected.inst.signed = wide;
    Ok(selected)
}
