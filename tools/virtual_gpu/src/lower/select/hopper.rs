//! What compute capability 9.0 added: clusters, mbarriers, bulk copies, products of warpgroups.

use super::*;
use crate::warp::hopper::Form as Product;
use crate::warp::tensor::sums::{Accumulator, Operand as TensorOperand};

impl Selector<'_> {
    pub(super) fn mbarrier(&mut self, form: &Form) -> Result<Selected, Why> {
        use warp::hopper::*;
        let operands = form.operands();
        let mut selected = match form.part(1) {
            "init" => self.of_mbarrier(form, mbarrier_init, 0)?,
            "inval" => self.of_mbarrier(form, mbarrier_inval, 0)?,
            "arrive" | "arrive_drop" => return self.arrival(form),
            "expect_tx" | "complete_tx" => self.of_mbarrier(form, mbarrier_tx, 0)?,
            "try_wait" | "test_wait" => return self.mbarrier_wait(form),
            "pending_count" => {
                let fields = vec![self.write(form.operand(0)?, false)?, self.read(form.operand(1)?, true)?];
                return Ok(Selected::plain(mbarrier_pending_count, fields));
            }
            _ => return Err("this operation on an mbarrier is not known".into()),
        };
        if operands.len() > 1 {
            selected.fields.push(self.read(form.operand(1)?, false)?);
        }
        selected.inst.signed = form.has("complete_tx");
        Ok(selected)
    }

    /// An operation on the mbarrier whose address is operand `at`, the only field so far.
    fn of_mbarrier(&mut self, form: &Form, f: OpFn, at: usize) -> Result<Selected, Why> {
        let (base, offset) = form.address(at)?;
        let mut selected = Selected::new(f, Kind::Mem).immediate(offset).with(vec![self.read(base, false)?]);
        selected.inst.extends = form.has("shared::cluster");
        selected.inst.order = if form.has("cluster") { warp::WIDE } else { 0 };
        Ok(selected)
    }

    /// `mbarrier.arrive` and `mbarrier.arrive_drop`, with a count or with bytes.
    fn arrival(&mut self, form: &Form) -> Result<Selected, Why> {
        let mut selected = self.of_mbarrier(form, warp::hopper::mbarrier_arrive, 1)?;
        let more = self.read_optional(form.optional(2), false)?;
        let none = Field::Fixed(NONE);
        let (count, bytes) = if form.has("expect_tx") { (none, more) } else { (more, none) };
        if form.has("expect_tx") && form.optional(2).is_none() {
            return Err(Why::Operand("expect_tx needs the bytes".into()));
        }
        if selected.inst.extends && *form.operand(0)? != Operand::Sink {
            return Err("an arrival at another block's mbarrier gives no state".into());
        }
        let state = self.write(form.operand(0)?, true)?;
        selected.fields = vec![state, selected.fields[0], count, bytes];
        // The state of a lane that does not arrive stays.
        if let Field::Write(state) = state {
            selected.fields.push(Field::Read(state));
        }
        selected.inst.signed = form.part(1) == "arrive_drop";
        selected.inst.order |= if form.has("relaxed") { 0 } else { warp::RELEASE };
        Ok(selected)
    }

    fn mbarrier_wait(&mut self, form: &Form) -> Result<Selected, Why> {
        let mut selected = self.of_mbarrier(form, warp::hopper::mbarrier_wait, 1)?;
        let by_state = !form.has("parity");
        let done = self.predicate_destination(form.operand(0)?)?;
        let asked = self.read(form.operand(2)?, by_state)?;
        selected.fields = vec![done, selected.fields[0], asked];
        selected.inst.kind = Kind::Yield;
        selected.inst.signed = by_state;
        selected.inst.neg = form.part(1) == "test_wait";
        selected.inst.order |= if form.has("relaxed") { 0 } else { warp::ACQUIRE };
        Ok(selected)
    }

    /// `barrier.cluster.arrive` and `barrier.cluster.wait`.
    pub(super) fn cluster_barrier(&mut self, form: &Form) -> Result<Selected, Why> {
        match form.part(2) {
            "arrive" => {
                let mut selected = Selected::new(warp::hopper::cluster_arrive, Kind::Mem);
                selected.inst.order = if form.has("relaxed") { 0 } else { warp::RELEASE };
                Ok(selected)
            }
            "wait" => Ok(Selected::new(warp::nop, Kind::Meet)),
            _ => Err("this barrier of a cluster is not known".into()),
        }
    }

    /// `mapa.shared::cluster.type d, a, b`, and without a space on generic addresses.
    pub(super) fn mapa(&mut self, form: &Form) -> Result<Selected, Why> {
        let wide = form.is_wide();
        let generic = form.part(1) != "shared::cluster";
        if generic && !wide {
            return Err("generic addresses are of 64 bits".into());
        }
        let f: OpFn = if wide { warp::hopper::mapa::<true> } else { warp::hopper::mapa::<false> };
        let (address, offset) = self.address_operand(form.operand(1)?, wide, generic)?;
        let fields = vec![self.write(form.operand(0)?, wide)?, address, self.read(form.operand(2)?, false)?];
        Ok(Selected::new(f, Kind::Mem).immediate(offset).with(fields))
    }

    /// `getctarank.shared::cluster.type d, a`, and without a space on generic addresses.
    pub(super) fn getctarank(&mut self, form: &Form) -> Result<Selected, Why> {
        let wide = form.is_wide();
        let f: OpFn = if wide { warp::hopper::getctarank::<true> } else { warp::hopper::getctarank::<false> };
        let generic = form.part(1) != "shared::cluster";
        let (address, _) = self.address_operand(form.operand(1)?, wide, generic)?;
        Ok(Selected::plain(f, vec![self.write(form.operand(0)?, false)?, address]))
    }

    /// An address that stands as a value: a register, or unless it is generic a variable with an offset.
    fn address_operand(&mut self, operand: &Operand, wide: bool, generic: bool) -> Result<(Field, i64), Why> {
        match operand {
            Operand::Sym(_) | Operand::Offset(..) if generic => Err("a variable has no generic address".into()),
            _ => Ok((self.read(operand, wide)?, 0)),
        }
    }

    /// `cp.async.bulk` into shared memory, from global memory or from shared memory.
    pub(super) fn bulk_copy(&mut self, form: &Form) -> Result<Selected, Why> {
        let (to, from) = (form.part(3), form.part(4));
        let known = matches!((to, from), ("shared::cluster", "global" | "shared") | ("shared", "global"));
        if !known || !form.has("mbarrier::complete_tx::bytes") {
            return Err("this bulk copy is not known".into());
        }
        let from_shared = from == "shared";
        let ranks = if form.has("multicast::cluster") { Some(form.operand(4)?) } else { None };
        let fields = vec![
            self.sum(form.address(0)?, false)?,
            self.sum(form.address(1)?, !from_shared)?,
            self.read(form.operand(2)?, false)?,
            self.sum(form.address(3)?, false)?,
            self.read_optional(ranks, false)?,
        ];
        let mut selected = Selected::new(warp::hopper::bulk_copy, Kind::Mem).with(fields);
        selected.inst.extends = from_shared;
        selected.inst.mem = self.next_memory_instruction();
        Ok(selected)
    }

    /// An address with its offset in one register.
    fn sum(&mut self, (base, offset): (&Operand, i64), wide: bool) -> Result<Field, Why> {
        let base = self.read(base, wide)?;
        if offset == 0 {
            return Ok(base);
        }
        let register = self.new_register(if wide { Class::D } else { Class::W });
        let offset = Field::Fixed(self.constants.of(offset as u64, wide));
        let f = function_of(if wide { "add.u64" } else { "add.u32" })?;
        self.help(f, vec![Field::Write(register), base, offset]);
        Ok(Field::Read(register))
    }

    pub(super) fn wgmma(&mut self, form: &Form) -> Result<Selected, Why> {
        let selected = |f, role| Selected { role, ..Selected::new(f, Kind::Sync) };
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
        let mut selected = Selected::new(warp::hopper::wgmma, Kind::Sync).immediate(product.pack());
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
        Ok(Selected::new(warp::hopper::setmaxnreg, Kind::Sync).immediate(count as i64))
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
