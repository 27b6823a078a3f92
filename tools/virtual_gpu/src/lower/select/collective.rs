//! What the lanes of a warp do together: shuffles, votes, fragments and products of matrices.

use super::control::with_member_mask;
use super::*;

impl Selector<'_> {
    pub(super) fn shuffle(&mut self, form: &Form) -> Result<Selected, Why> {
        let mode = match form.part(2) {
            "idx" => 0,
            "bfly" => 1,
            "up" => 2,
            "down" => 3,
            _ => return Err("this mode of shfl is not known".into()),
        };
        let (to, in_range) = match form.operand(0)? {
            Operand::Pair(to, in_range) => (Field::Write(*to), Field::Fixed(self.predicate_number(*in_range))),
            to => (self.write(to, false)?, Field::Fixed(NONE)),
        };
        let fields = vec![
            to,
            self.read(form.operand(1)?, false)?,
            self.read(form.operand(2)?, false)?,
            self.read(form.operand(3)?, false)?,
            in_range,
            self.read(form.operand(4)?, false)?,
        ];
        Ok(with_member_mask(Selected::new(warp::shfl, Kind::Sync, C_SHFL).immediate(mode).with(fields)))
    }

    pub(super) fn ldmatrix(&mut self, form: &Form) -> Result<Selected, Why> {
        let list = form.list(0)?;
        let f: OpFn = match (list.len(), form.has("trans")) {
            (1, false) => warp::ldmatrix::<1, false>,
            (2, false) => warp::ldmatrix::<2, false>,
            (4, false) => warp::ldmatrix::<4, false>,
            (1, true) => warp::ldmatrix::<1, true>,
            (2, true) => warp::ldmatrix::<2, true>,
            (4, true) => warp::ldmatrix::<4, true>,
            _ => return Err(format!("{} matrices cannot be loaded at once", list.len()).into()),
        };
        let mut fields = list.iter().map(|to| self.write(to, false)).collect::<Result<Vec<_>, _>>()?;
        let (base, offset) = form.address(1)?;
        fields.push(self.read(base, false)?);
        Ok(Selected::new(f, Kind::Sync, C_LDMATRIX).immediate(offset).with(fields))
    }

    pub(super) fn mma(&mut self, form: &Form) -> Result<Selected, Why> {
        let f: OpFn = match form.opcode {
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32" => warp::mma_bf16,
            "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32" => warp::mma_tf32,
            _ => return Err("this shape or type of mma is not known".into()),
        };
        let mut fields = vec![];
        for (n, registers) in [4, 4, 2, 4].into_iter().enumerate() {
            let fragment = form.list(n)?;
            if fragment.len() != registers {
                return Err(format!("fragment {} has {} registers, not {registers}", n + 1, fragment.len()).into());
            }
            for operand in fragment {
                fields.push(if n == 0 { self.write(operand, false)? } else { self.read(operand, false)? });
            }
        }
        Ok(Selected::new(f, Kind::Sync, C_MMA).with(fields))
    }
}
