//! Registers of warpgroup products: what the PTX ISA forbids between `wgmma.mma_async` and its wait, found by data flow over
//! all paths of a kernel (sections "wgmma.fence" and "wgmma.wait_group").
//!
//! - No instruction but a further product on the same accumulators may touch the accumulators, or the registers of A, of a
//!   product that is in flight.
//! - A product may touch a register that another instruction has touched only behind a `wgmma.fence`; nothing is fenced
//!   where a kernel begins.
//!
//! The accumulators also live until the wait, for it writes them.

use super::blocks::Flow;
use super::select::{Field, Role, Selected};
use std::collections::BTreeSet;

/// What breaks the rules, and the place of the instruction that does.
#[derive(Debug)]
pub struct Violation {
    pub text: &'static str,
    pub loc: u32,
}

/// What a product in flight does with a register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    Accumulator,
    Fragment,
}

/// Groups committed since a product was issued, at least; nothing where none is in flight.
type Age = Option<u32>;

/// More groups than any wait leaves in flight.
const OLD: u32 = 64;

/// What is known of the registers of products where an instruction begins.
#[derive(Clone, PartialEq, Eq, Debug)]
struct State {
    accumulators: Vec<Age>,
    fragments: Vec<Age>,
    /// Whether an instruction other than a product has touched the register since the last fence.
    touched: Vec<bool>,
}

impl State {
    /// What holds where this or the other may hold.
    fn join(&mut self, other: &State) {
        let younger = |a: &mut Age, b: &Age| *a = a.iter().chain(b).min().copied();
        self.accumulators.iter_mut().zip(&other.accumulators).for_each(|(a, b)| younger(a, b));
        self.fragments.iter_mut().zip(&other.fragments).for_each(|(a, b)| younger(a, b));
        self.touched.iter_mut().zip(&other.touched).for_each(|(a, b)| *a |= b);
    }

    fn ages(&mut self) -> impl Iterator<Item = &mut Age> {
        self.accumulators.iter_mut().chain(&mut self.fragments)
    }
}

/// The registers of products, numbered.
struct Registers {
    /// The number of each virtual register that a product touches.
    number: Vec<Option<usize>>,
    count: usize,
}

impl Registers {
    fn of(flow: &Flow, registers: usize) -> Registers {
        let products = flow.code.iter().filter(|selected| selected.role == Role::Product);
        let touched: BTreeSet<u32> = products.flat_map(parts).map(|(register, _)| register).collect();
        let mut number = vec![None; registers];
        touched.iter().enumerate().for_each(|(k, &register)| number[register as usize] = Some(k));
        Registers { number, count: touched.len() }
    }

    fn number_of(&self, register: u32) -> Option<usize> {
        self.number[register as usize]
    }
}

/// The registers of a product: its accumulators, and A where it is in registers.
fn parts(product: &Selected) -> impl Iterator<Item = (u32, Part)> {
    let (of_d, of_a) = (product.inst.count as usize, product.inst.size as usize);
    let fragments = if of_a > 1 { of_a } else { 0 };
    product.fields[..of_d + fragments].iter().enumerate().filter_map(move |(k, field)| match field {
        Field::Write(register) | Field::Read(register) => {
            Some((*register, if k < of_d { Part::Accumulator } else { Part::Fragment }))
        }
        Field::Fixed(_) => None,
    })
}

/// Checks a kernel and lengthens the lives of its accumulators to their waits.
pub fn check(flow: &mut Flow, registers: usize) -> Result<(), Violation> {
    let registers = Registers::of(flow, registers);
    if registers.count == 0 {
        return Ok(());
    }
    let begins = solve(flow, &registers);
    let mut lives = vec![];
    for (block, state) in flow.blocks.iter().zip(begins) {
        let Some(mut state) = state else { continue };
        for at in block.first..block.end {
            let selected = &flow.code[at];
            violation(selected, &state, &registers)
                .map_or(Ok(()), |text| Err(Violation { text, loc: selected.inst.loc }))?;
            if let Role::Wait(_) = selected.role {
                lives.push((at, state.accumulators.clone()));
            }
            step(selected, &mut state, &registers);
        }
    }
    for (at, accumulators) in lives {
        let waited =
            registers.number.iter().enumerate().filter(|(_, number)| number.is_some_and(|k| accumulators[k].is_some()));
        flow.code[at].fields.extend(waited.map(|(register, _)| Field::Read(register as u32)));
    }
    Ok(())
}

/// The state where each block begins; nothing for a block that no path reaches.
fn solve(flow: &Flow, registers: &Registers) -> Vec<Option<State>> {
    let mut begins: Vec<Option<State>> = vec![None; flow.blocks.len()];
    begins[0] = Some(State {
        accumulators: vec![None; registers.count],
        fragments: vec![None; registers.count],
        touched: vec![true; registers.count],
    });
    let mut waiting = vec![0];
    while let Some(number) = waiting.pop() {
        let block = &flow.blocks[number];
        let mut state = begins[number].clone().expect("a block that waits has been reached");
        flow.code[block.first..block.end].iter().for_each(|selected| step(selected, &mut state, registers));
        for &next in &block.successors {
            let before = begins[next].clone();
            match &mut begins[next] {
                Some(known) => known.join(&state),
                unknown => *unknown = Some(state.clone()),
            }
            if begins[next] != before {
                waiting.push(next);
            }
        }
    }
    begins
}

/// What an instruction does to the state.
fn step(selected: &Selected, state: &mut State, registers: &Registers) {
    match selected.role {
        Role::Fence => state.touched.fill(false),
        Role::Product => {
            for (register, part) in parts(selected) {
                let Some(k) = registers.number_of(register) else { continue };
                match part {
                    Part::Accumulator => state.accumulators[k] = Some(0),
                    Part::Fragment => state.fragments[k] = Some(0),
                }
            }
        }
        Role::Commit => state.ages().flatten().for_each(|age| *age = (*age + 1).min(OLD)),
        Role::Wait(kept) => state.ages().for_each(|age| *age = age.filter(|&age| age <= kept)),
        Role::Other => touches(selected, registers).for_each(|k| state.touched[k] = true),
    }
}

/// The rule that an instruction breaks, if it does.
fn violation(selected: &Selected, state: &State, registers: &Registers) -> Option<&'static str> {
    match selected.role {
        Role::Other => touches(selected, registers).find_map(|k| {
            if state.accumulators[k].is_some() {
                Some("an accumulator of a wgmma.mma_async is touched before its wgmma.wait_group")
            } else if state.fragments[k].is_some() {
                Some("a register of A of a wgmma.mma_async is touched before its wgmma.wait_group")
            } else {
                None
            }
        }),
        Role::Product => parts(selected).find_map(|(register, part)| {
            let k = registers.number_of(register)?;
            let other = if part == Part::Accumulator { state.fragments[k] } else { state.accumulators[k] };
            if state.touched[k] {
                Some("no wgmma.fence between an access of a register and the wgmma.mma_async that has it")
            } else if other.is_some() {
                Some("a wgmma.mma_async has a register of one in flight, but not as its accumulator")
            } else {
                None
            }
        }),
        _ => None,
    }
}

/// The registers of products that an instruction reads or writes.
fn touches<'a>(selected: &'a Selected, registers: &'a Registers) -> impl Iterator<Item = usize> + 'a {
    selected.fields.iter().filter_map(|field| match field {
        Field::Write(register) | Field::Read(register) => registers.number_of(*register),
        Field::Fixed(_) => None,
    })
}
