//! The harness itself: kernels of one instruction run, and lanes that take no part keep what their registers held.

use crate::common::*;

/// Sums of `add.u32` in the lanes that take part, and what was there before in the others.
#[test]
fn lanes_that_take_no_part_keep_their_registers() {
    let add = Instruction { text: "add.u32 %d0, %s0, %s1;", destinations: &[Width::Word], sources: &[Width::Word; 2] };
    let operands = operands(&[Sort::Bits(32); 2], 10_000, 1);
    for lanes in Lanes::EVERY {
        let results = add.execute(&operands, lanes).unwrap();
        let mut kept = 0;
        for (thread, result) in results[0].iter().enumerate() {
            let sum = (operands[0][thread] + operands[1][thread]) & 0xffff_ffff;
            kept += !lanes.take(thread) as usize;
            let expected = if lanes.take(thread) { sum } else { BEFORE & 0xffff_ffff };
            assert_eq!(*result, expected, "{lanes:?}, thread {thread}");
        }
        assert_eq!(kept > 2000, !matches!(lanes, Lanes::All | Lanes::Partial), "{lanes:?}: {kept}");
    }
}

/// Values arrive in registers of every width.
#[test]
fn operands_of_every_width_arrive() {
    let sources = [Width::Half, Width::Word, Width::Double, Width::Predicate];
    let text = "mov.b16 %d0, %s0; mov.b32 %d1, %s1; mov.b64 %d2, %s2; mov.pred %d3, %s3;";
    let moves = Instruction { text, destinations: &sources, sources: &sources };
    let operands = operands(&[Sort::Bits(64), Sort::Bits(64), Sort::Bits(64), Sort::Predicate], 1000, 2);
    let results = moves.execute(&operands, Lanes::All).unwrap();
    for (n, width) in sources.iter().enumerate() {
        let expected: Vec<u64> = operands[n].iter().map(|bits| bits & width.mask()).collect();
        assert_eq!(results[n], expected, "{width:?}");
    }
}

/// An opcode that does not exist is refused when the kernel is launched, not executed as something else.
#[test]
fn an_unknown_opcode_is_refused() {
    let instruction =
        Instruction { text: "frobnicate.u32 %d0, %s0;", destinations: &[Width::Word], sources: &[Width::Word] };
    assert_eq!(instruction.execute(&[vec![1]], Lanes::All), Err(CudaError(218)));
}
