//! Lane-wise arithmetic, comparisons, conversions and bit operations.

use super::*;
use std::sync::atomic::Ordering;

impl Selector<'_> {
    pub(super) fn arithmetic(&mut self, form: &Form) -> Result<Selected, Why> {
        match form.parts[0] {
            "selp" => self.select_by_predicate(form),
            "and" | "or" | "xor" | "not" if form.ty == "pred" => self.predicate_logic(form),
            "bfi" => self.bit_field_insert(form),
            "bfe" if form.ty == "u32" => self.of_three(form, warp::bfe_u32),
            "prmt" => self.of_three(form, warp::prmt),
            "shf" => self.of_three(form, if form.part(1) == "l" { warp::shf_l_wrap } else { warp::shf_r_wrap }),
            _ => self.lane_wise(form),
        }
    }

    fn select_by_predicate(&mut self, form: &Form) -> Result<Selected, Why> {
        let f = warp::arithmetic(form.opcode).ok_or("this type of selp is not known")?;
        let wide = form.is_wide();
        let fields = vec![
            self.write(form.operand(0)?, wide)?,
            self.read(form.operand(1)?, wide)?,
            self.read(form.operand(2)?, wide)?,
            self.predicate(form.operand(3)?)?,
        ];
        Ok(Selected::plain(f, C_PRED, fields))
    }

    fn predicate_logic(&mut self, form: &Form) -> Result<Selected, Why> {
        let f = warp::arithmetic(form.opcode).ok_or("this operation on predicates is not known")?;
        let mut fields = vec![self.predicate_destination(form.operand(0)?)?];
        for operand in &form.operands()[1..] {
            fields.push(self.predicate(operand)?);
        }
        Ok(Selected::plain(f, C_PRED, fields))
    }

    fn bit_field_insert(&mut self, form: &Form) -> Result<Selected, Why> {
        let wide = form.is_wide();
        let fields = vec![
            self.write(form.operand(0)?, wide)?,
            self.read(form.operand(1)?, wide)?,
            self.read(form.operand(2)?, wide)?,
            self.read(form.operand(3)?, false)?,
            self.read(form.operand(4)?, false)?,
        ];
        Ok(Selected::plain(if wide { warp::bfi64 } else { warp::bfi32 }, C_INT, fields))
    }

    /// An integer operation of three sources of 32 bits.
    fn of_three(&mut self, form: &Form, f: OpFn) -> Result<Selected, Why> {
        let mut fields = vec![self.write(form.operand(0)?, false)?];
        for n in 1..4 {
            fields.push(self.read(form.operand(n)?, false)?);
        }
        Ok(Selected::plain(f, C_INT, fields))
    }

    /// Opcodes whose function depends on nothing but their name.
    fn lane_wise(&mut self, form: &Form) -> Result<Selected, Why> {
        let mut f = warp::arithmetic(form.opcode).ok_or_else(|| format!("unknown opcode {}", form.opcode))?;
        if crate::config::HW_EX2.load(Ordering::Relaxed) {
            f = warp::chip_op(form.opcode).unwrap_or(f);
        }
        let class = match form.ty {
            "f32" => C_FP32,
            "f64" => C_FP64,
            _ => C_INT,
        };
        let wide = form.is_wide();
        let (to, sources) = (form.operand(0)?, form.operands().get(1..).unwrap_or(&[]));
        // whether the destination and each source are wide
        let (destination, widths) = match form.parts[0] {
            "cvt" => return self.conversion(form, f),
            "mul" if form.part(1) == "wide" => (!matches!(form.ty, "u16" | "s16"), [false; 3]),
            "mad" if form.part(1) == "wide" => (true, [false, false, true]),
            "shl" | "shr" => (wide, [wide, false, false]),
            _ => (wide, [wide; 3]),
        };
        if sources.len() > widths.len() {
            return Err(format!("there are {} sources", sources.len()).into());
        }
        let mut fields = vec![self.write(to, destination)?];
        for (source, wide) in sources.iter().zip(widths) {
            fields.push(self.read(source, wide)?);
        }
        Ok(Selected::plain(f, class, fields))
    }

    fn conversion(&mut self, form: &Form, mut f: OpFn) -> Result<Selected, Why> {
        let to = form.parts[form.parts.len() - 2];
        let mut wide = form.is_wide();
        if !wide && self.is_wide_register(form.operand(1)?) {
            f = warp::convert_low(form.opcode).ok_or("this conversion from a register of 64 bits is not known")?;
            wide = true;
        }
        let mut fields = vec![self.write(form.operand(0)?, is_wide(to))?];
        for source in &form.operands()[1..] {
            fields.push(self.read(source, wide)?);
        }
        Ok(Selected::plain(f, C_CVT, fields))
    }
}
