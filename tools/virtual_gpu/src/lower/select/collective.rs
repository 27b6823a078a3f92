//! What the lanes of a warp do together: shuffles, votes, matches, reductions, fragments and products of matrices.

use super::control::with_member_mask;
use super::*;
use crate::warp::tensor;
use crate::warp::{MEMBERS, Shuffle, Vote};

impl Selector<'_> {
    pub(super) fn shuffle(&mut self, form: &Form) -> Result<Selected, Why> {
        let mode = Shuffle::of(form.part(2)).ok_or("this mode of shfl is not known")?;
        let (to, in_range) = self.value_and_predicate(form.operand(0)?)?;
        let fields = vec![
            to,
            self.read(form.operand(1)?, false)?,
            self.read(form.operand(2)?, false)?,
            self.read(form.operand(3)?, false)?,
            in_range,
        ];
        self.collective(form, 4, warp::shfl, fields).map(|selected| selected.immediate(mode as i64))
    }

    pub(super) fn vote(&mut self, form: &Form) -> Result<Selected, Why> {
        let vote = Vote::of(form.part(2)).ok_or("this mode of vote is not known")?;
        let to = match vote {
            Vote::Ballot => self.write(form.operand(0)?, false)?,
            _ => self.predicate(form.operand(0)?)?,
        };
        let (asked, negated) = match form.operand(1)? {
            Operand::Not(inner) => (self.predicate(inner)?, true),
            asked => (self.predicate(asked)?, false),
        };
        let mut selected = self.collective(form, 2, warp::vote, vec![to, asked])?.immediate(vote as i64);
        selected.inst.signed = negated;
        Ok(selected)
    }

    /// `match.any.sync` and `match.all.sync`.
    pub(super) fn matching(&mut self, form: &Form) -> Result<Selected, Why> {
        let (to, alike) = self.value_and_predicate(form.operand(0)?)?;
        let value = self.read(form.operand(1)?, form.is_wide())?;
        let (f, fields): (OpFn, _) = match (form.part(1), form.ty) {
            ("any", "b32") => (warp::match_any::<u32>, vec![to, value]),
            ("any", "b64") => (warp::match_any::<u64>, vec![to, value]),
            ("all", "b32") => (warp::match_all::<u32>, vec![to, value, alike]),
            ("all", "b64") => (warp::match_all::<u64>, vec![to, value, alike]),
            _ => return Err("this mode or type of match is not known".into()),
        };
        self.collective(form, 2, f, fields)
    }

    pub(super) fn redux(&mut self, form: &Form) -> Result<Selected, Why> {
        let f = warp::redux(form.part(2), form.ty).ok_or("this operation or type of redux is not known")?;
        let fields = vec![self.write(form.operand(0)?, false)?, self.read(form.operand(1)?, false)?];
        self.collective(form, 2, f, fields)
    }

    pub(super) fn elect(&mut self, form: &Form) -> Result<Selected, Why> {
        let (leader, elected) = self.value_and_predicate(form.operand(0)?)?;
        self.collective(form, 1, warp::elect, vec![leader, elected])
    }

    pub(super) fn activemask(&mut self, form: &Form) -> Result<Selected, Why> {
        Ok(Selected::plain(warp::activemask, vec![self.write(form.operand(0)?, false)?]))
    }

    /// A collective of the lanes that operand `members` names, with that mask behind its other fields.
    fn collective(&mut self, form: &Form, members: usize, f: OpFn, mut fields: Vec<Field>) -> Result<Selected, Why> {
        fields.resize(MEMBERS, Field::Fixed(NONE));
        fields.push(self.read(form.operand(members)?, false)?);
        Ok(with_member_mask(Selected::new(f, Kind::Sync).with(fields)))
    }

    /// A destination `d`, or a pair `d|p` of which either may be left out.
    fn value_and_predicate(&mut self, operand: &Operand) -> Result<(Field, Field), Why> {
        let Operand::Pair(to, predicate) = operand else {
            return Ok((self.write(operand, false)?, Field::Fixed(NONE)));
        };
        Ok((self.write(to, false)?, self.predicate(predicate)?))
    }

    /// `ldmatrix` and `stmatrix`.
    pub(super) fn matrices(&mut self, form: &Form) -> Result<Selected, Why> {
        let loads = form.parts[0] == "ldmatrix";
        let (values, place) = if loads { (0, 1) } else { (1, 0) };
        let list = matrix_registers(form, values)?;
        macro_rules! of {
            ($count:literal) => {
                match (loads, form.has("trans")) {
                    (true, false) => warp::ldmatrix::<$count, false> as OpFn,
                    (true, true) => warp::ldmatrix::<$count, true>,
                    (false, false) => warp::stmatrix::<$count, false>,
                    (false, true) => warp::stmatrix::<$count, true>,
                }
            };
        }
        let f = match list.len() {
            1 => of!(1),
            2 => of!(2),
            4 => of!(4),
            count => return Err(format!("{count} matrices cannot be loaded or stored at once").into()),
        };
        let one = |register| if loads { self.write_needed(register, false) } else { self.read(register, false) };
        let mut fields = list.iter().map(one).collect::<Result<Vec<_>, _>>()?;
        let (base, offset) = form.address(place)?;
        fields.push(self.read(base, false)?);
        Ok(Selected::new(f, Kind::Sync).immediate(offset).with(fields))
    }

    pub(super) fn movmatrix(&mut self, form: &Form) -> Result<Selected, Why> {
        if form.opcode != "movmatrix.sync.aligned.m8n8.trans.b16" {
            return Err("this shape or type of movmatrix is not known".into());
        }
        let fields = vec![self.write_needed(form.operand(0)?, false)?, self.read(form.operand(1)?, false)?];
        Ok(Selected::new(warp::movmatrix, Kind::Sync).with(fields))
    }

    pub(super) fn mma(&mut self, form: &Form) -> Result<Selected, Why> {
        let mma = tensor::form(form.opcode).ok_or("this shape or type of mma is not known")?;
        let mut fields = vec![];
        for (n, registers) in mma.registers.into_iter().enumerate() {
            let operand = form.operand(n)?;
            let fragment = if let Operand::Vec(list) = operand { list } else { std::slice::from_ref(operand) };
            if fragment.len() != registers {
                return Err(format!("fragment {} has {} registers, not {registers}", n + 1, fragment.len()).into());
            }
            for operand in fragment {
                fields.push(match n {
                    0 => self.write_needed(operand, mma.wide)?,
                    _ => self.read(operand, mma.wide)?,
                });
            }
        }
        Ok(Selected::new(mma.execute, Kind::Sync).with(fields))
    }

    /// A destination that cannot be left out.
    pub(super) fn write_needed(&self, operand: &Operand, wide: bool) -> Result<Field, Why> {
        if *operand == Operand::Sink { Err("a destination is left out".into()) } else { self.write(operand, wide) }
    }
}

/// The registers of `ldmatrix` or `stmatrix`, whose shape and type must be those of 8 x 8 elements of 16 bits.
fn matrix_registers<'f>(form: &Form<'f>, operand: usize) -> Result<&'f [Operand], Why> {
    let known = form.has("m8n8") && form.ty == "b16" && form.has("shared");
    if known { form.list(operand) } else { Err("this shape, type or space of matrices is not known".into()) }
}
