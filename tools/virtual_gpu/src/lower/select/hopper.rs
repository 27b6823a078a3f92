//! What compute capability 9.0 added: mbarriers, bulk copies, products of warpgroups.

use super::*;

impl Selector<'_> {
    pub(super) fn mbarrier(&mut self, form: &Form) -> Result<Selected, Why> {
        match (form.part(1), form.part(2)) {
            ("init", _) => {
                let (base, offset) = form.address(0)?;
                let fields = vec![self.read(base, false)?, self.read(form.operand(1)?, false)?];
                Ok(Selected::new(warp::hopper::mbarrier_init, Kind::Mem, C_BAR).immediate(offset).with(fields))
            }
            ("arrive", kind) => {
                if *form.operand(0)? != Operand::Sink {
                    return Err("the state that an arrival returns is not known".into());
                }
                let (base, offset) = form.address(1)?;
                let expected = match kind {
                    "expect_tx" => self.read(form.operand(2)?, false)?,
                    _ if form.operands().len() > 2 => return Err("an arrival with a count is not known".into()),
                    _ => Field::Fixed(NONE),
                };
                let fields = vec![self.read(base, false)?, expected];
                Ok(Selected::new(warp::hopper::mbarrier_arrive, Kind::Mem, C_BAR).immediate(offset).with(fields))
            }
            ("try_wait" | "test_wait", "parity") => {
                let (base, offset) = form.address(1)?;
                let fields = vec![
                    self.predicate(form.operand(0)?)?,
                    self.read(base, false)?,
                    self.read(form.operand(2)?, false)?,
                ];
                Ok(Selected::new(warp::hopper::mbarrier_try_wait, Kind::Yield, C_BAR).immediate(offset).with(fields))
            }
            _ => Err("this operation on an mbarrier is not known".into()),
        }
    }

    pub(super) fn bulk_copy(&mut self, form: &Form) -> Result<Selected, Why> {
        if !form.opcode.starts_with("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes") {
            return Err("this bulk copy is not known".into());
        }
        let base = |n: usize| match form.address(n)? {
            (base, 0) => Ok(base),
            _ => Err(Why::from("an offset in a bulk copy is not known")),
        };
        let fields = vec![
            self.read(base(0)?, false)?,
            self.read(base(1)?, true)?,
            self.read(form.operand(2)?, false)?,
            self.read(base(3)?, false)?,
        ];
        let mut selected = Selected::new(warp::hopper::bulk_copy, Kind::Mem, C_GLOBAL).with(fields);
        selected.inst.mem = self.next_memory_instruction();
        Ok(selected)
    }

    pub(super) fn wgmma(&mut self, form: &Form) -> Result<Selected, Why> {
        let selected = |f| Selected::new(f, Kind::Sync, C_MMA);
        Ok(match form.part(1) {
            "fence" => selected(warp::nop),
            "commit_group" => selected(warp::hopper::wgmma_commit),
            "wait_group" => selected(warp::hopper::wgmma_wait).immediate(form.immediate(0)? as i64),
            "mma_async" => return self.wgmma_product(form),
            _ => return Err("this operation of warpgroups is not known".into()),
        })
    }

    /// Operands: accumulators, a (registers or descriptor), b's descriptor, whether to accumulate, signs, transpositions.
    fn wgmma_product(&mut self, form: &Form) -> Result<Selected, Why> {
        if !form.opcode.contains("k16.f32.bf16.bf16") {
            return Err("these types of wgmma are not known".into());
        }
        let mut selected = Selected::new(warp::hopper::wgmma, Kind::Sync, C_MMA);
        let accumulators = form.list(0)?;
        let mut fields = accumulators.iter().map(|to| self.write(to, false)).collect::<Result<Vec<_>, _>>()?;
        selected.inst.count = accumulators.len() as u8;
        let from_registers = if let Operand::Vec(a) = form.operand(1)? {
            for operand in a {
                fields.push(self.read(operand, false)?);
            }
            selected.inst.size = a.len() as u8;
            true
        } else {
            fields.push(self.read(form.operand(1)?, true)?);
            selected.inst.size = 1;
            false
        };
        fields.push(self.read(form.operand(2)?, true)?);
        fields.push(self.predicate(form.operand(3)?)?);
        if (form.immediate(4)?, form.immediate(5)?) != (1, 1) {
            return Err("negated operands of wgmma are not known".into());
        }
        selected.inst.imm = if from_registers {
            form.optional(6).map_or(Ok(0), |_| form.immediate(6))? << 1
        } else {
            form.immediate(6)? | form.immediate(7)? << 1
        } as i64;
        // what is there before is read
        for operand in accumulators {
            fields.push(self.read(operand, false)?);
        }
        Ok(selected.with(fields))
    }
}
