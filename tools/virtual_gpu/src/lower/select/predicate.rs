//! Predicates: comparisons with their combinations (PTX ISA, `setp`), and operands that are negated.

use super::*;

impl Selector<'_> {
    /// `setp.CmpOp[.BoolOp].type p[|q], a, b[, [!]c]`: p is (a CmpOp b) BoolOp c, and q is !(a CmpOp b) BoolOp c.
    pub(super) fn set_predicate(&mut self, form: &Form) -> Result<Selected, Why> {
        let (comparison, combination) = match form.parts[1..] {
            [comparison, _] => (comparison, None),
            [comparison, combination @ ("and" | "or" | "xor"), _] => (comparison, Some(combination)),
            _ => return Err("this comparison is not known".into()),
        };
        let f = warp::setp(comparison, form.ty).ok_or("this comparison is not known")?;
        let wide = form.is_wide();
        let (a, b) = (self.read(form.operand(1)?, wide)?, self.read(form.operand(2)?, wide)?);
        let (p, q) = match form.operand(0)? {
            Operand::Pair(p, q) => (self.predicate_destination(p)?, Some(self.predicate_destination(q)?)),
            p => (self.predicate_destination(p)?, None),
        };
        if combination.is_none() && q.is_none() {
            return Ok(Selected::plain(f, C_PRED, vec![p, a, b]));
        }
        let third = match combination {
            Some(_) => Some(self.predicate(form.operand(3)?)?),
            None => None,
        };
        // the comparison counts; what combines it does not
        let compared = Field::Fixed(self.new_predicate());
        self.helpers.push(Selected::plain(f, C_PRED, vec![compared, a, b]));
        let first = self.combine(combination, compared, third)?;
        if let Some(q) = q {
            let opposite = self.negated(compared)?;
            let second = self.combine(combination, opposite, third)?;
            let function = predicate_function("mov")?;
            self.help(function, vec![q, second]);
        }
        Ok(Selected::plain(predicate_function("mov")?, UNCOUNTED, vec![p, first]))
    }

    /// A new predicate that holds `compared` combined with `third`.
    fn combine(&mut self, combination: Option<&str>, compared: Field, third: Option<Field>) -> Result<Field, Why> {
        let (Some(combination), Some(third)) = (combination, third) else { return Ok(compared) };
        let result = Field::Fixed(self.new_predicate());
        self.help(predicate_function(combination)?, vec![result, compared, third]);
        Ok(result)
    }

    /// A new predicate that holds the opposite of another.
    fn negated(&mut self, predicate: Field) -> Result<Field, Why> {
        let result = Field::Fixed(self.new_predicate());
        self.help(predicate_function("not")?, vec![result, predicate]);
        Ok(result)
    }

    /// A predicate as source.
    pub(super) fn predicate(&mut self, operand: &Operand) -> Result<Field, Why> {
        match operand {
            Operand::Reg(register) if self.classes[*register as usize] == Class::Pred => {
                Ok(Field::Fixed(self.predicate_number(*register)))
            }
            Operand::Imm(value) => Ok(Field::Fixed(CONSTANT | (*value != 0) as u32)),
            Operand::Sink => Ok(Field::Fixed(NONE)),
            Operand::Not(inner) => {
                let inner = self.predicate(inner)?;
                self.negated(inner)
            }
            _ => Err(Why::Operand(format!("{operand:?} is not a predicate"))),
        }
    }

    /// A predicate that is written; one that is not wanted is the executor's own.
    pub(super) fn predicate_destination(&mut self, operand: &Operand) -> Result<Field, Why> {
        match operand {
            Operand::Sink => Ok(Field::Fixed(self.new_predicate())),
            Operand::Reg(register) if self.classes[*register as usize] == Class::Pred => {
                Ok(Field::Fixed(self.predicate_number(*register)))
            }
            _ => Err(Why::Operand(format!("{operand:?} is no predicate that can be written"))),
        }
    }
}

/// The function of an operation on predicates.
fn predicate_function(operation: &str) -> Result<OpFn, Why> {
    warp::arithmetic(&format!("{operation}.pred")).ok_or_else(|| format!("{operation}.pred is not known").into())
}
