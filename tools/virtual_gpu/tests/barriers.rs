//! Named barriers, mbarriers within a block, and atomic operations on shared memory: PTX ISA, "bar", "mbarrier" and "atom".

use crate::common::*;
use crate::driver::alone;

const LAUNCH_FAILED: CudaError = CudaError(719);

/// Registers of the kernels here, the thread in `%r0`, its byte offset in `%r1`, and the address of its result in `%rd0`.
const HEAD: &str = ".reg .pred %p<8>;\n.reg .b32 %r<16>;\n.reg .b64 %rd<8>;\n.shared .align 16 .b8 memory[4096];\n\
    mov.u32 %r0, %tid.x;\nshl.b32 %r1, %r0, 2;\nld.param.u64 %rd0, [p0];\nmul.wide.u32 %rd1, %r0, 4;\nadd.u64 %rd0, %rd0, %rd1;\n\
    mov.u32 %r2, memory;\nadd.u32 %r3, %r2, %r1;\n";

/// Runs one block; a word of each thread, which it stored at `%rd0`.
fn run(threads: u32, body: &str) -> Result<Vec<u32>, CudaError> {
    let results = Memory::new(&vec![u32::MAX; threads as usize]);
    let text = module(1, &format!("{HEAD}{body}"));
    Kernel::load(&text, "test")?.launch([1; 3], [threads, 1, 1], 0, &[results.address()])?;
    Ok(results.read())
}

/// A warp that gives words to another and goes on, over a ring of two buffers: `bar.arrive` on one barrier says that a buffer is
/// full, on another that it is free.
#[test]
fn a_producer_arrives_and_goes_on() {
    let body = "setp.ge.u32 %p0, %r0, 32;\nmov.u32 %r4, 0;\nmov.u32 %r9, 0;\nand.b32 %r5, %r1, 127;\nadd.u32 %r5, %r2, %r5;\n\
        @%p0 bra CONSUME;\n\
        PRODUCE:\nand.b32 %r6, %r4, 1;\nmad.lo.u32 %r7, %r6, 128, %r5;\nadd.u32 %r8, %r6, 3;\n\
        setp.lt.u32 %p1, %r4, 2;\n@%p1 bra FREE;\nbarrier.cta.sync %r8, 64;\nFREE:\n\
        mad.lo.u32 %r10, %r4, 100, %r0;\nst.shared.u32 [%r7], %r10;\nadd.u32 %r8, %r6, 1;\nbar.arrive %r8, 64;\n\
        add.u32 %r4, %r4, 1;\nsetp.lt.u32 %p2, %r4, 7;\n@%p2 bra PRODUCE;\nbra END;\n\
        CONSUME:\nand.b32 %r6, %r4, 1;\nmad.lo.u32 %r7, %r6, 128, %r5;\nadd.u32 %r8, %r6, 1;\nbar.sync %r8, 64;\n\
        ld.shared.u32 %r10, [%r7];\nadd.u32 %r9, %r9, %r10;\nadd.u32 %r8, %r6, 3;\n\
        setp.ge.u32 %p1, %r4, 5;\n@%p1 bra LAST;\nbarrier.arrive %r8, 64;\nLAST:\n\
        add.u32 %r4, %r4, 1;\nsetp.lt.u32 %p2, %r4, 7;\n@%p2 bra CONSUME;\nEND:\nst.global.u32 [%rd0], %r9;";
    let results = run(64, body).unwrap();
    let sum = |lane: u32| (0..7).map(|round| 100 * round + lane).sum::<u32>();
    assert_eq!(results[32..], (0..32).map(sum).collect::<Vec<_>>());
    assert_eq!(results[..32], [0; 32]);
}

/// Two halves of a block meet at barriers of their own, one of them more often; then all meet.
#[test]
fn counted_barriers_bind_those_who_come() {
    let body = "setp.ge.u32 %p0, %r0, 64;\nmov.u32 %r4, 0;\nmov.u32 %r6, 0;\n@%p0 bra SECOND;\n\
        ROUND:\nst.shared.u32 [%r3], %r4;\nbar.sync 5, 64;\nxor.b32 %r5, %r1, 128;\nadd.u32 %r5, %r5, %r2;\nld.shared.u32 %r5, [%r5];\n\
        add.u32 %r6, %r6, %r5;\nbar.sync 5, 64;\nadd.u32 %r4, %r4, 1;\nsetp.lt.u32 %p1, %r4, 5;\n@%p1 bra ROUND;\nbra ALL;\n\
        SECOND:\nbarrier.sync 6, 64;\nmov.u32 %r6, 7;\nALL:\nbar.sync 0;\nst.global.u32 [%rd0], %r6;";
    let results = run(128, body).unwrap();
    assert_eq!(results, [[10; 64], [7; 64]].concat());
}

/// A warp that polls does not keep those who meet at a barrier for fewer from going on.
#[test]
fn a_counted_barrier_does_not_wait_for_who_polls() {
    let body = ".shared .align 8 .b8 flag[8];\nmov.u32 %r4, flag;\nsetp.ne.u32 %p0, %r0, 0;\n@%p0 bra READY;\n\
        mbarrier.init.shared::cta.b64 [%r4], 1;\nREADY:\nbar.sync 0;\nsetp.ge.u32 %p1, %r0, 64;\n@%p1 bra POLL;\n\
        bar.sync 1, 64;\n@%p0 bra END;\nmbarrier.arrive.shared.b64 %rd2, [%r4];\nbra END;\n\
        POLL:\nmbarrier.test_wait.parity.shared.b64 %p2, [%r4], 0;\n@!%p2 bra POLL;\nEND:\nst.global.u32 [%rd0], %r0;";
    assert_eq!(run(96, body).unwrap(), (0..96).collect::<Vec<u32>>());
}

/// The sums of a consumer's lanes, of 12 words each that a producer's warp puts into a ring of one slot. A lane frees the slot for its
/// warp, which has met before with `meet` alone.
fn ring(meet: &str) -> Result<Vec<u32>, CudaError> {
    let body = format!(
        ".shared .align 8 .b8 full[8];\n.shared .align 8 .b8 free[8];\nmov.u32 %r4, full;\nmov.u32 %r5, free;\n\
        setp.ne.u32 %p0, %r0, 0;\n@%p0 bra READY;\nmbarrier.init.shared::cta.b64 [%r4], 32;\nmbarrier.init.shared::cta.b64 [%r5], 1;\n\
        READY:\nbar.sync 0;\nmov.u32 %r6, 0;\nmov.u32 %r7, 0;\nmov.u32 %r9, 0;\nand.b32 %r10, %r1, 127;\nadd.u32 %r10, %r10, %r2;\n\
        setp.ge.u32 %p1, %r0, 32;\n@%p1 bra CONSUME;\n\
        PRODUCE:\nmad.lo.u32 %r11, %r6, 100, %r0;\nst.shared.u32 [%r10], %r11;\nmbarrier.arrive.shared.b64 %rd2, [%r4];\n\
        FREED:\nmbarrier.try_wait.parity.shared.b64 %p2, [%r5], %r7;\n@!%p2 bra FREED;\nxor.b32 %r7, %r7, 1;\n\
        add.u32 %r6, %r6, 1;\nsetp.lt.u32 %p3, %r6, 12;\n@%p3 bra PRODUCE;\nbra END;\n\
        CONSUME:\nmbarrier.try_wait.parity.shared.b64 %p2, [%r4], %r7;\n@!%p2 bra CONSUME;\nxor.b32 %r7, %r7, 1;\n\
        ld.shared.u32 %r11, [%r10];\nadd.u32 %r9, %r9, %r11;\n{meet}\nsetp.ne.u32 %p4, %r0, 32;\n@%p4 bra KEPT;\n\
        mbarrier.arrive.shared.b64 %rd2, [%r5];\nKEPT:\nadd.u32 %r6, %r6, 1;\nsetp.lt.u32 %p3, %r6, 12;\n@%p3 bra CONSUME;\n\
        END:\nst.global.u32 [%rd0], %r9;"
    );
    run(64, &body).map(|words| words[32..].to_vec())
}

/// A lane may sleep at a wait while its slot is given back, filled again and complete: some seeds have it miss the phase. Where the
/// warp meets before its slot is freed, none does.
#[test]
fn a_lane_left_behind_misses_a_phase_with_some_seed() {
    let outcomes: Vec<String> = (0..10)
        .map(|seed| {
            let settings = [("VIRTUAL_GPU_STICKY", "0"), ("VIRTUAL_GPU_SEED", &seed.to_string())];
            in_process("barriers::lanes_left_behind", &settings)
        })
        .collect();
    assert!(outcomes.iter().all(|said| said.contains("who meets: whole")), "{outcomes:?}");
    assert!(outcomes[0].contains("who does not: whole"), "the natural order leaves no lane behind");
    assert!(outcomes.iter().any(|said| said.contains("who does not: missed")), "{outcomes:?}");
}

#[test]
#[ignore = "run by a_lane_left_behind_misses_a_phase_with_some_seed"]
fn lanes_left_behind() {
    let wanted: Vec<u32> = (0..32).map(|lane| (0..12).map(|round| 100 * round + lane).sum()).collect();
    let outcome = |meet| if ring(meet) == Ok(wanted.clone()) { "whole" } else { "missed" };
    println!("who meets: {}", outcome("bar.warp.sync 0xffffffff;"));
    println!("who does not: {}", outcome(""));
}

#[test]
fn barriers_reduce_predicates() {
    let holds = |thread: u32| thread % 7 < 3;
    let body = "rem.u32 %r4, %r0, 7;\nsetp.lt.u32 %p0, %r4, 3;\nsetp.lt.u32 %p1, %r0, 1000;\nbarrier.cta.red.popc.aligned.u32 %r5, 2, %p0;\n\
        bar.red.popc.u32 %r6, 3, 96, !%p0;\nbar.red.and.pred %p2, 0, %p0;\nbar.red.and.pred %p3, 0, %p1;\nbar.red.or.pred %p4, 1, %p0;\n\
        bar.red.or.pred %p5, 0, !%p1;\nselp.b32 %r7, 1, 0, %p2;\nselp.b32 %r8, 2, 0, %p3;\nselp.b32 %r9, 4, 0, %p4;\nselp.b32 %r10, 8, 0, %p5;\n\
        or.b32 %r7, %r7, %r8;\nor.b32 %r9, %r9, %r10;\nor.b32 %r7, %r7, %r9;\nshl.b32 %r5, %r5, 16;\nshl.b32 %r6, %r6, 8;\n\
        or.b32 %r7, %r7, %r5;\nor.b32 %r7, %r7, %r6;\nst.global.u32 [%rd0], %r7;";
    let count = (0..96).filter(|thread| holds(*thread)).count() as u32;
    assert_eq!(run(96, body).unwrap(), [count << 16 | (96 - count) << 8 | 2 | 4; 96]);
    // The threads of a warp that is not whole, of which some have ended.
    let body = "setp.ge.u32 %p0, %r0, 40;\n@%p0 bra END;\nsetp.lt.u32 %p1, %r0, 33;\nbar.red.popc.u32 %r4, 0, %p1;\n\
        bar.red.and.pred %p2, 0, !%p0;\nselp.b32 %r5, 100, 0, %p2;\nadd.u32 %r4, %r4, %r5;\nst.global.u32 [%rd0], %r4;\nEND:";
    assert_eq!(run(45, body).unwrap(), [vec![133; 40], vec![u32::MAX; 5]].concat());
}

/// Runs a test's body where a failed launch leaves the context usable.
fn beside_failures(test: &str, body: fn()) {
    alone(test, &[("VIRTUAL_GPU_STICKY", "0")], body);
}

#[test]
fn wrong_uses_of_barriers_fail() {
    beside_failures("barriers::wrong_uses_of_barriers_fail", || {
        for body in [
            "bar.arrive 1, 48;",
            "bar.sync 16;",
            "bar.sync 1, 0;",
            // Nobody else comes.
            "bar.sync 1, 96;",
            // A reduction and a wait at a time.
            "setp.ge.u32 %p0, %r0, 32;\n@%p0 bra SECOND;\nbar.sync 1, 64;\nbra END;\nSECOND:\nbar.red.popc.u32 %r4, 1, 64, %p0;\nEND:",
            // Two numbers of threads.
            "setp.ge.u32 %p0, %r0, 32;\n@%p0 bra SECOND;\nbar.arrive 1, 64;\nbra END;\nSECOND:\nbar.sync 1, 96;\nEND:",
        ] {
            assert_eq!(run(64, body), Err(LAUNCH_FAILED), "{body}");
        }
        assert_eq!(run(64, "bar.arrive 1;"), Err(CudaError(218)));
    });
}

/// The body between an mbarrier's initialisation by thread 0 with a count, in `%r4`, and the store of `%r9`.
fn with_mbarrier(count: u32, threads: u32, body: &str) -> Result<Vec<u32>, CudaError> {
    let text = format!(
        ".shared .align 8 .b8 flag[8];\nmov.u32 %r4, flag;\nmov.u32 %r9, 0;\nsetp.ne.u32 %p0, %r0, 0;\n@%p0 bra READY;\n\
         mbarrier.init.shared::cta.b64 [%r4], {count};\nREADY:\nbar.sync 0;\n{body}\nst.global.u32 [%rd0], %r9;"
    );
    run(threads, &text)
}

/// Arrivals of several at a time end a phase, and the state that the first gave says so.
#[test]
fn arrivals_have_counts_and_states() {
    // 3 + 4 + ... threads of a warp arrive `lane` times: 1 + 2 + ... + 31 = 496.
    let body = "mov.u32 %r9, 1000;\n@%p0 bra OTHERS;\nmbarrier.arrive.shared::cta.b64 %rd2, [%r4], 4;\nmbarrier.pending_count.b64 %r5, %rd2;\n\
        mbarrier.test_wait.shared::cta.b64 %p1, [%r4], %rd2;\nselp.b32 %r6, 1, 0, %p1;\nmad.lo.u32 %r9, %r5, 10, %r6;\n\
        OTHERS:\nbar.warp.sync -1;\n@!%p0 bra LATER;\nmbarrier.arrive.release.cta.shared::cta.b64 _, [%r4], %r0;\nLATER:\nbar.warp.sync -1;\n\
        @%p0 bra END;\nmbarrier.try_wait.acquire.cta.shared::cta.b64 %p1, [%r4], %rd2, 1000;\nselp.b32 %r6, 2, 0, %p1;\nadd.u32 %r9, %r9, %r6;\nEND:";
    let results = with_mbarrier(500, 32, body).unwrap();
    assert_eq!(results, [vec![5002], vec![1000; 31]].concat());
}

/// Threads that leave are not expected in later phases.
#[test]
fn arrivals_that_drop_are_not_expected_again() {
    let body = "setp.lt.u32 %p1, %r0, 24;\n@%p1 bra STAY;\nmbarrier.arrive_drop.shared::cta.b64 _, [%r4];\nbra END;\n\
        STAY:\nmbarrier.arrive.shared::cta.b64 %rd2, [%r4];\nFIRST:\nmbarrier.try_wait.parity.shared::cta.b64 %p2, [%r4], 0;\n@!%p2 bra FIRST;\n\
        mbarrier.arrive.shared::cta.b64 %rd2, [%r4];\nmbarrier.pending_count.b64 %r5, %rd2;\n\
        SECOND:\nmbarrier.try_wait.parity.shared::cta.b64 %p2, [%r4], 1;\n@!%p2 bra SECOND;\nmov.u32 %r9, %r5;\nEND:";
    let mut results = with_mbarrier(32, 32, body).unwrap();
    assert_eq!(results.split_off(24), [0; 8]);
    results.sort();
    // Each found another number pending, from all 24 down to itself.
    assert_eq!(results, (1..=24).collect::<Vec<u32>>());
}

/// Bytes that are expected keep a phase open, whoever says so.
#[test]
fn bytes_keep_a_phase_open() {
    let test = "mbarrier.test_wait.parity.shared::cta.b64 %p1, [%r4], 0;\nselp.b32 %r6, 1, 0, %p1;\nshl.b32 %r9, %r9, 1;\nor.b32 %r9, %r9, %r6;\n";
    let body = format!(
        "@%p0 bra END;\nmbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%r4], 64;\nmbarrier.arrive.expect_tx.shared::cta.b64 _, [%r4], 16;\n{test}\
         mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [%r4], 48;\n{test}mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [%r4], 32;\n{test}END:"
    );
    assert_eq!(with_mbarrier(1, 32, &body).unwrap()[0], 0b001);
}

#[test]
fn wrong_uses_of_mbarriers_fail() {
    beside_failures("barriers::wrong_uses_of_mbarriers_fail", || {
        for wrong in ["mbarrier.arrive.shared::cta.b64 _, [%r4], 2;", "mbarrier.arrive.shared::cta.b64 _, [%r4], 0;"] {
            assert_eq!(with_mbarrier(1, 1, wrong), Err(LAUNCH_FAILED), "{wrong}");
        }
        let body = "mbarrier.inval.shared.b64 [%r4];\nmbarrier.arrive.shared::cta.b64 _, [%r4];";
        assert_eq!(with_mbarrier(1, 1, body), Err(LAUNCH_FAILED));
    });
}

/// Atomic operations on shared memory, of all threads on one word: what is there last, computed from the operands in any order.
#[test]
fn atomic_operations_on_shared_memory() {
    let operand = |thread: u64| (thread * 0x9e37_79b9 + 12345) & 0xffff_ffff;
    let operands: Vec<u64> = (0..64).map(operand).collect();
    let of_words = |f: fn(u32, u32) -> u32, first: u32| operands.iter().fold(first, |all, x| f(all, *x as u32));
    let signed =
        |f: fn(i32, i32) -> i32, first: i32| operands.iter().fold(first, |all, x| f(all, *x as u32 as i32)) as u32;
    let cases: Vec<(&str, u32, u32)> = vec![
        ("add.u32", 5, of_words(u32::wrapping_add, 5)),
        ("min.u32", u32::MAX, of_words(u32::min, u32::MAX)),
        ("max.u32", 0, of_words(u32::max, 0)),
        ("min.s32", i32::MAX as u32, signed(i32::min, i32::MAX)),
        ("max.s32", i32::MIN as u32, signed(i32::max, i32::MIN)),
        ("and.b32", u32::MAX, of_words(|a, b| a & b, u32::MAX)),
        ("or.b32", 0, of_words(|a, b| a | b, 0)),
        ("xor.b32", 0xffff, of_words(|a, b| a ^ b, 0xffff)),
    ];
    for (operation, first, expected) in cases {
        for space in ["shared", "shared::cta", "shared::cluster"] {
            let body = format!(
                "mov.u32 %r4, {first};\nst.shared.u32 [%r2], %r4;\nmad.lo.u32 %r5, %r0, 0x9e3779b9, 12345;\nbar.sync 0;\n\
                 red.{space}.{operation} [%r2], %r5;\nbar.sync 0;\nld.shared.u32 %r6, [%r2];\nst.global.u32 [%rd0], %r6;"
            );
            assert_eq!(run(64, &body).unwrap(), [expected; 64], "{operation} {space}");
        }
    }
    // Counters that go round, and generic addresses.
    let body = "mov.u32 %r4, 0;\nst.shared.u32 [%r2], %r4;\nst.shared.u32 [%r2+4], %r4;\nbar.sync 0;\natom.shared.inc.u32 %r5, [%r2], 9;\n\
        cvt.u64.u32 %rd2, %r2;\ncvta.shared.u64 %rd2, %rd2;\natom.dec.u32 %r6, [%rd2+4], 4;\nmad.lo.u32 %r7, %r5, 10, %r6;\nst.global.u32 [%rd0], %r7;";
    let results = run(64, body).unwrap();
    for (value, times) in (0..10).map(|value| (value, results.iter().filter(|r| **r / 10 == value).count())) {
        assert_eq!(times, if value < 4 { 7 } else { 6 }, "inc gave {value}");
    }
    for (value, times) in (0..5).map(|value| (value, results.iter().filter(|r| **r % 10 == value).count())) {
        assert_eq!(times, if value == 1 { 12 } else { 13 }, "dec gave {value}");
    }
}

/// Lanes of one warp wait for each other through memory: a lane that polls does not keep another from what it waits for.
#[test]
fn a_lane_that_polls_lets_the_others_of_its_warp_go_on() {
    let body = "mov.u32 %r4, 0;\nsetp.ne.u32 %p0, %r0, 0;\n@%p0 bra READY;\nst.shared.u32 [%r2], %r4;\nREADY:\nbar.warp.sync -1;\n\
        setp.eq.u32 %p1, %r0, 31;\n@%p1 bra SET;\n\
        POLL:\nld.acquire.cta.shared.u32 %r5, [%r2];\nsetp.eq.u32 %p2, %r5, 0;\n@%p2 bra POLL;\nbra END;\n\
        SET:\nadd.u32 %r4, %r4, 1;\nsetp.lt.u32 %p3, %r4, 50;\n@%p3 bra SET;\nst.release.cta.shared.u32 [%r2], %r4;\nmov.u32 %r5, 1;\nEND:\n\
        st.global.u32 [%rd0], %r5;";
    assert_eq!(run(32, body).unwrap(), [vec![50; 31], vec![1]].concat());
}
