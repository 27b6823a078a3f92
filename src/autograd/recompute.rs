//! Parts of a forward pass that are not recorded but run again when their gradients are wanted (Chen et al., "Training deep
//! nets with sublinear memory cost", 2016).

use super::{Backward, Gradients, Tape, Var};
use crate::Result;
use crate::ops::pointwise::copy_into;
use crate::tensor::Tensor;

/// Which of its runs a recomputed part is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// For its value, on a tape that does not record.
    First,
    /// For its gradients. It must compute what the first run computed, and update nothing that the first run updated.
    Again,
}

impl Gradients<'_> {
    /// Input `index` on another tape. A gradient that has arrived already is added to in place, in the order in which a
    /// recorded pass would have added.
    fn leaf(&self, tape: &Tape, index: usize, value: &Tensor) -> Var {
        match self.inputs[index].map(|node| &self.nodes[node].gradient) {
            None => tape.constant(value),
            Some(None) => tape.leaf(value),
            Some(Some(arrived)) => tape.parameter(value, arrived),
        }
    }

    /// Hands over the gradient of input `index`.
    fn give(&mut self, index: usize, gradient: &Tensor) -> Result<()> {
        let Some(node) = self.inputs[index].map(|node| &mut self.nodes[node]) else { return Ok(()) };
        match &node.gradient {
            None => node.gradient = Some(gradient.clone()),
            // The same value passed twice.
            Some(arrived) => copy_into(gradient, arrived, super::Write::Accumulate)?,
        }
        Ok(())
    }
}

impl Tape {
    /// Applies `part` to `inputs` and keeps nothing of it but the inputs: the backward pass runs it again, on a tape of its
    /// own. Parameters that `part` takes through [`Tape::parameter`] receive their gradients as always. Values and gradients
    /// are those of a recorded pass, bit for bit, where both runs compute the same.
    ///
    /// # Errors
    /// Those of `part`; in the backward pass also when its output depends on nothing that needs a gradient.
    pub fn recompute(
        &self,
        name: &'static str,
        inputs: &[&Var],
        part: impl Fn(&Tape, &[Var], Run) -> Result<Var> + 'static,
    ) -> Result<Var> {
        let values: Vec<Var> = inputs.iter().map(|input| input.detach()).collect();
        let output = part(&Tape::inference(), &values, Run::First)?;
        if !self.recording {
            return Ok(output);
        }
        let backward: Backward = Box::new(move |upstream, gradients| {
            let tape = Tape::recording();
            let values = values.iter().enumerate().map(|(i, value)| gradients.leaf(&tape, i, value.tensor()));
            let values: Vec<Var> = values.collect();
            let output = part(&tape, &values, Run::Again)?;
            let found = tape.backward_from(&[(&output, upstream)])?;
            for (i, value) in values.iter().enumerate() {
                if let Some(gradient) = found.get(value) {
                    gradients.give(i, gradient)?;
                }
            }
            Ok(())
        });
        let inputs = inputs.iter().map(|input| input.node).collect();
        let node = self.push(name, output.tensor(), inputs, Some(backward), None);
        Ok(Var { node: Some(node), ..output })
    }
}
