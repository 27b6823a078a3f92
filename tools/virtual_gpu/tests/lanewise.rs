//! Every form of the lane-wise tables against the reference: 10,000 operands each in full warps, fewer where lanes take no part.

use crate::common::*;
use crate::reference::{self, Answer, Case};
use std::sync::atomic::{AtomicUsize, Ordering};
use virtual_gpu::config::APPROXIMATIONS_ERR;
use virtual_gpu::warp::forms;

/// Operands of each form.
const OPERANDS: usize = 10_000;
/// Operands of each form where only some lanes take part.
const OPERANDS_IN_PART: usize = 1_500;

/// The seed of an opcode's operands.
fn seed(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ byte as u64).wrapping_mul(0x100_0000_01b3))
}

/// What is wrong with a form, if anything is.
fn check(opcode: &str, case: &Case) -> Result<(), String> {
    let widths: Vec<Width> = case.sources.iter().map(|source| source.0).collect();
    let sorts: Vec<Sort> = case.sources.iter().map(|source| source.1).collect();
    let instruction = Instruction { text: &case.text, destinations: &[case.destination], sources: &widths };
    let lists = operands(&sorts, OPERANDS, seed(opcode));
    let masked =
        |n: usize| -> Vec<u64> { lists.iter().zip(&widths).map(|(list, width)| list[n] & width.mask()).collect() };
    let expected: Vec<Answer> = (0..OPERANDS).map(|n| (case.expected)(&masked(n))).collect();
    for lanes in Lanes::EVERY {
        let count = if lanes == Lanes::All { OPERANDS } else { OPERANDS_IN_PART };
        let part: Vec<Vec<u64>> = lists.iter().map(|list| list[..count].to_vec()).collect();
        let results = instruction.execute(&part, lanes).map_err(|error| format!("{opcode}: {error:?}"))?;
        for (n, result) in results[0].iter().enumerate() {
            let answer =
                if lanes.take(n) { expected[n].clone() } else { Answer::Bits(BEFORE & case.destination.mask()) };
            if !answer.allows(*result) {
                return Err(format!(
                    "{opcode}, {lanes:?}: of {:x?} comes {result:#x}, expected {answer:x?}",
                    masked(n)
                ));
            }
        }
    }
    Ok(())
}

/// Checks all opcodes that `wanted` chooses, on all processors.
fn check_all(wanted: impl Fn(&str) -> bool) {
    let opcodes: Vec<String> = forms::opcodes().into_iter().map(|(opcode, _)| opcode).filter(|o| wanted(o)).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut problems = vec![];
        while let Some(opcode) = opcodes.get(next.fetch_add(1, Ordering::Relaxed)) {
            let problem = match reference::case(opcode) {
                Some(case) => check(opcode, &case).err(),
                None => Some(format!("{opcode} is executed, and no test knows it")),
            };
            problems.extend(problem);
        }
        problems
    };
    let problems: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(problems.is_empty(), "{} of {} forms:\n{}", problems.len(), opcodes.len(), problems.join("\n"));
    assert!(!opcodes.is_empty());
}

fn name(opcode: &str) -> &str {
    opcode.split('.').next().unwrap()
}

#[test]
fn conversions() {
    check_all(|opcode| name(opcode) == "cvt");
}

#[test]
fn comparisons_and_selections() {
    check_all(|opcode| matches!(name(opcode), "setp" | "selp" | "slct" | "testp"));
}

#[test]
fn arithmetic_logic_and_moves() {
    check_all(|opcode| !matches!(name(opcode), "cvt" | "setp" | "selp" | "slct" | "testp"));
}

/// The code for processors without AVX2 and FMA gives the same.
#[test]
fn the_code_for_every_processor() {
    in_process("lanewise::baseline", &[]);
}

#[test]
#[ignore = "run by the_code_for_every_processor in a process of its own"]
fn baseline() {
    forms::BASELINE.store(true, Ordering::Relaxed);
    check_all(|_| true);
}

/// Approximations that err stay within their bounds, and do err: of each form, one result in two hundred at least differs from the plain one (bounds of one last place leave little room).
#[test]
fn approximations_err_within_their_bounds() {
    in_process("lanewise::erring", &[("VIRTUAL_GPU_APPROXIMATE_ERROR", "1")]);
}

#[test]
#[ignore = "run by approximations_err_within_their_bounds in a process of its own"]
fn erring() {
    let approximate = |opcode: &str| opcode.contains(".approx") || opcode.contains("div.full");
    check_all(approximate);
    for (opcode, _) in forms::opcodes() {
        if !approximate(&opcode) || opcode.ends_with("f64") {
            continue;
        }
        let case = reference::case(&opcode).unwrap();
        let widths: Vec<Width> = case.sources.iter().map(|source| source.0).collect();
        let sorts: Vec<Sort> = case.sources.iter().map(|source| source.1).collect();
        let instruction = Instruction { text: &case.text, destinations: &[case.destination], sources: &widths };
        let lists = operands(&sorts, OPERANDS, seed(&opcode));
        let [plain, erring] = [false, true].map(|errs| {
            APPROXIMATIONS_ERR.store(errs, Ordering::Relaxed);
            instruction.execute(&lists, Lanes::All).unwrap().remove(0)
        });
        let differ = plain.iter().zip(&erring).filter(|(plain, erring)| plain != erring).count();
        assert!(differ > OPERANDS / 200, "{opcode}: {differ} results err");
    }
}
