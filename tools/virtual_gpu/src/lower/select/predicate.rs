//! Predicates as operands, negated ones too.

use super::*;

impl Selector<'_> {
    /// A new predicate that holds the opposite of another.
    fn negated(&mut self, predicate: Field) -> Result<Field, Why> {
        let result = Field::Fixed(self.new_predicate());
        self.help(function_of("not.pred")?, vec![result, predicate]);
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
            Operand::Special(name) => {
                let value = self.special(name, false)?;
                let result = Field::Fixed(self.new_predicate());
                let zero = Field::Fixed(self.constants.of(0, false));
                self.help(function_of("setp.ne.u32")?, vec![result, value, zero]);
                Ok(result)
            }
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
