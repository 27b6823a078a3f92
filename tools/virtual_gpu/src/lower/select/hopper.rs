//! What compute capability 9.0 added: mbarriers, bulk copies, products of warpgroups.

use super::*;
use crate::warp::hopper::Form as Product;
use crate::warp::tensor::sums::{Accumulator, Operand as TensorOperand};

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
        let selected = |f, role| Selected { role, ..Selected::new(f, Kind::Sync, C_MMA) };
        Ok(match form.part(1) {
            "fence" => selected(warp::hopper::wgmma_fence, Role::Fence),
            "commit_group" => selected(warp::hopper::wgmma_commit, Role::Commit),
            "wait_group" => {
                let kept = form.immediate(0)?;
                selected(warp::hopper::wgmma_wait, Role::Wait(kept as u32)).immediate(kept as i64)
            }
            "mma_async" => return self.wgmma_product(form),
            _ => return Err("this operation of warpgroups is not known".into()),
        })
    }

    /// Operands: accumulators, A (registers or descriptor), B's descriptor, whether to accumulate, signs, transpositions.
    fn wgmma_product(&mut self, form: &Form) -> Result<Selected, Why> {
        let (accumulators, a) = (form.list(0)?, form.operand(1)?);
        let product = product_form(form)?;
        let columns = 8 * accumulators.len() / product.registers_of_8_columns();
        if form.part(4) != format!("m64n{columns}k{}", if product.operand == TensorOperand::Tf32 { 8 } else { 16 }) {
            return Err(format!("{} accumulators do not fit the shape {}", accumulators.len(), form.part(4)).into());
        }
        let mut selected = Selected::new(warp::hopper::wgmma, Kind::Sync, C_MMA).immediate(product.pack());
        selected.role = Role::Product;
        let mut fields = accumulators.iter().map(|to| self.write_needed(to, false)).collect::<Result<Vec<_>, _>>()?;
        selected.inst.count = accumulators.len() as u8;
        match a {
            Operand::Vec(registers) if registers.len() == 4 => {
                for register in registers {
                    fields.push(self.read(register, false)?);
                }
                selected.inst.size = 4;
            }
            Operand::Vec(_) => return Err("A in registers has four of them".into()),
            descriptor => {
                fields.push(self.read(descriptor, true)?);
                selected.inst.size = 1;
            }
        }
        fields.push(self.read(form.operand(2)?, true)?);
        fields.push(self.predicate(form.operand(3)?)?);
        // what is there before is read
        for operand in accumulators {
            fields.push(self.read(operand, false)?);
        }
        Ok(selected.with(fields))
    }

    /// `setmaxnreg`: the count of registers is a multiple of 8 from 24 to 256.
    pub(super) fn setmaxnreg(&mut self, form: &Form) -> Result<Selected, Why> {
        let count = form.immediate(0)?;
        if !(24..=256).contains(&count) || count % 8 != 0 {
            return Err("the count of registers must be a multiple of 8 from 24 to 256".into());
        }
        Ok(Selected::new(warp::hopper::setmaxnreg, Kind::Sync, C_OTHER).immediate(count as i64))
    }
}

/// The form of `wgmma.mma_async.sync.aligned.SHAPE.D.A.B` with its immediates: signs, and for 16-bit types transpositions.
fn product_form(form: &Form) -> Result<Product, Why> {
    let (operand, accumulator) = match &form.parts[5..] {
        ["f32", "bf16", "bf16"] => (TensorOperand::Bf16, Accumulator::F32),
        ["f32", "f16", "f16"] => (TensorOperand::F16, Accumulator::F32),
        ["f16", "f16", "f16"] => (TensorOperand::F16, Accumulator::F16),
        ["f32", "tf32", "tf32"] => (TensorOperand::Tf32, Accumulator::F32),
        _ => return Err("these types of wgmma are not known".into()),
    };
    let a_in_registers = matches!(form.operand(1)?, Operand::Vec(_));
    let negated = |n: usize| match form.immediate(n)? as i64 {
        1 => Ok(false),
        -1 => Ok(true),
        other => Err(Why::from(format!("a sign is 1 or -1, not {other}"))),
    };
    let transposed = |n: usize| match form.immediate(n)? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(Why::from(format!("a transposition is 0 or 1, not {other}"))),
    };
    let transposed = match (operand, a_in_registers) {
        (TensorOperand::Tf32, _) => [false, false],
        (_, true) => [false, transposed(6)?],
        (_, false) => [transposed(6)?, transposed(7)?],
    };
    Ok(Product { operand, accumulator, a_in_registers, negated: [negated(4)?, negated(5)?], transposed })
}
