//! Exchanges between lanes: `shfl`, `vote`, `match`, `redux`, `activemask`, `elect`, `movmatrix`.

use crate::common::*;
use Width::{Double, Predicate, Word};

const COUNT: usize = 10_240;

/// Random operands of one warp after another.
fn random_words(seed: u64, limit: u64) -> Vec<u64> {
    let mut random = Random::new(seed);
    (0..COUNT).map(|_| random.below(limit)).collect()
}

/// The lanes of a thread's warp that take part, as a mask.
fn members(lanes: Lanes, thread: usize) -> u64 {
    let first = thread / 32 * 32;
    (0..32).filter(|lane| lanes.take(first + lane)).fold(0, |mask, lane| mask | 1 << lane)
}

/// The threads of a thread's warp that take part.
fn peers(lanes: Lanes, thread: usize) -> impl Iterator<Item = usize> {
    let first = thread / 32 * 32;
    (first..first + 32).filter(move |&peer| lanes.take(peer))
}

/// Runs a collective on all lanes and on those that a branch leaves, with a member mask as the last source.
fn run(text: &str, destinations: &[Width], sources: &[Width], operands: &[Vec<u64>], lanes: Lanes) -> Vec<Vec<u64>> {
    let masks = (0..operands[0].len()).map(|thread| members(lanes, thread)).collect();
    let sources = [sources, &[Word]].concat();
    let instruction = Instruction { text, destinations, sources: &sources };
    instruction.execute(&[operands, &[masks]].concat(), lanes).unwrap()
}

/// Threads that take part, with their number.
fn taking(lanes: Lanes) -> impl Iterator<Item = usize> {
    (0..COUNT).filter(move |&thread| lanes.take(thread))
}

/// Every mode of `shfl`, every width of a segment, as the CUDA programming guide defines `__shfl_sync` and its kin by sources within a segment.
#[test]
fn shuffles_stay_within_their_segments() {
    let values = random_words(1, 1 << 32);
    let offsets = random_words(2, 32);
    for width in [1usize, 2, 4, 8, 16, 32] {
        for mode in ["idx", "bfly", "up", "down"] {
            let clamp = if mode == "up" { 0 } else { 31 };
            let control = vec![((32 - width as u64) << 8) | clamp; COUNT];
            let text = format!("shfl.sync.{mode}.b32 %d0|%d1, %s0, %s1, %s2, %s3;");
            let operands = [values.clone(), offsets.clone(), control];
            let got = run(&text, &[Word, Predicate], &[Word; 3], &operands, Lanes::All);
            for thread in 0..COUNT {
                let (first, place) = (thread / width * width, thread % width);
                let offset = offsets[thread] as usize;
                let source = match mode {
                    "idx" => Some(first + offset % width),
                    "bfly" => Some((thread % 32) ^ offset)
                        .filter(|&s| s < thread % 32 / width * width + width)
                        .map(|s| thread / 32 * 32 + s),
                    "up" => place.checked_sub(offset).map(|s| first + s),
                    _ => Some(place + offset).filter(|&s| s < width).map(|s| first + s),
                };
                assert_eq!(got[0][thread], values[source.unwrap_or(thread)], "{mode} of {width}, thread {thread}");
                assert_eq!(got[1][thread], source.is_some() as u64, "{mode} of {width}, thread {thread}");
            }
        }
    }
}

/// Clamps other than the segment's end: no lane beyond them is read.
#[test]
fn shuffles_stop_at_their_clamp() {
    let values = random_words(3, 1 << 32);
    let offsets = random_words(4, 32);
    let clamps = random_words(5, 32);
    for (mode, of) in [("idx", 0), ("down", 1), ("bfly", 2), ("up", 3)] {
        let text = format!("shfl.sync.{mode}.b32 %d0|%d1, %s0, %s1, %s2, %s3;");
        let operands = [values.clone(), offsets.clone(), clamps.clone()];
        let got = run(&text, &[Word, Predicate], &[Word; 3], &operands, Lanes::All);
        for thread in 0..COUNT {
            let (lane, offset, clamp) = ((thread % 32) as i64, offsets[thread] as i64, clamps[thread] as i64);
            let source = [offset, lane + offset, lane ^ offset, lane - offset][of];
            let in_range = if mode == "up" { source >= clamp } else { source <= clamp };
            let from = if in_range { thread / 32 * 32 + source as usize } else { thread };
            assert_eq!((got[0][thread], got[1][thread]), (values[from], in_range as u64), "{mode}, thread {thread}");
        }
    }
}

#[test]
fn shuffles_and_votes_of_some_lanes_leave_the_others_alone() {
    let values = random_words(6, 1 << 32);
    let lanes = Lanes::Branch;
    // Everybody reads the first lane that takes part.
    let leaders: Vec<u64> =
        (0..COUNT).map(|thread| (members(lanes, thread) as u32).trailing_zeros() as u64 & 31).collect();
    let control = vec![31; COUNT];
    let operands = [values.clone(), leaders.clone(), control];
    let got = run("shfl.sync.idx.b32 %d0, %s0, %s1, %s2, %s3;", &[Word], &[Word; 3], &operands, lanes);
    for thread in 0..COUNT {
        let expected =
            if lanes.take(thread) { values[thread / 32 * 32 + leaders[thread] as usize] } else { BEFORE & 0xffff_ffff };
        assert_eq!(got[0][thread], expected, "thread {thread}");
    }
}

#[test]
fn votes_count_their_members() {
    let asked: Vec<u64> = random_words(7, 5)
        .iter()
        .enumerate()
        .map(|(t, &x)| match t / 32 % 4 {
            0 => 1,
            1 => 0,
            _ => (x > 0) as u64,
        })
        .collect();
    for lanes in [Lanes::All, Lanes::Branch] {
        for (sign, negated) in [("", false), ("!", true)] {
            let holds = |thread: usize| (asked[thread] != 0) != negated;
            let ballot = format!("vote.sync.ballot.b32 %d0, {sign}%s0, %s1;");
            let got = run(&ballot, &[Word], &[Predicate], std::slice::from_ref(&asked), lanes);
            for thread in taking(lanes) {
                let expected = peers(lanes, thread).filter(|&t| holds(t)).fold(0, |mask, t| mask | 1 << (t % 32));
                assert_eq!(got[0][thread], expected, "{lanes:?}, thread {thread}");
            }
            for mode in ["any", "all", "uni"] {
                let text = format!("vote.sync.{mode}.pred %d0, {sign}%s0, %s1;");
                let got = run(&text, &[Predicate], &[Predicate], std::slice::from_ref(&asked), lanes);
                for thread in taking(lanes) {
                    let (any, all) = (peers(lanes, thread).any(holds), peers(lanes, thread).all(holds));
                    let expected = match mode {
                        "any" => any,
                        "all" => all,
                        _ => all || !any,
                    };
                    assert_eq!(got[0][thread], expected as u64, "{mode} of {lanes:?}, thread {thread}");
                }
            }
        }
    }
}

#[test]
fn matches_find_lanes_with_the_same_value() {
    // Some warps agree, others differ in a lane or all over; the upper half of 64 bits counts.
    let values: Vec<u64> = random_words(8, 4)
        .iter()
        .enumerate()
        .map(|(t, &x)| match t / 32 % 3 {
            0 => 77,
            1 => (t % 32 == 9) as u64 * (1 << 40),
            _ => x << 33 | x,
        })
        .collect();
    for lanes in [Lanes::All, Lanes::Branch] {
        for (ty, width) in [("b32", Word), ("b64", Double)] {
            let value = |t: usize| values[t] & width.mask();
            let any = format!("match.any.sync.{ty} %d0, %s0, %s1;");
            let all = format!("match.all.sync.{ty} %d0|%d1, %s0, %s1;");
            let any = run(&any, &[Word], &[width], std::slice::from_ref(&values), lanes);
            let all = run(&all, &[Word, Predicate], &[width], std::slice::from_ref(&values), lanes);
            for thread in taking(lanes) {
                let alike = peers(lanes, thread).filter(|&t| value(t) == value(thread));
                let alike = alike.fold(0u64, |mask, t| mask | 1 << (t % 32));
                assert_eq!(any[0][thread], alike, "{ty} of {lanes:?}, thread {thread}");
                let agree = alike == members(lanes, thread);
                let expected = (if agree { alike } else { 0 }, agree as u64);
                assert_eq!((all[0][thread], all[1][thread]), expected, "{ty} of {lanes:?}, thread {thread}");
            }
        }
    }
}

#[test]
fn reductions_are_folds_over_their_members() {
    let values = operands(&[Sort::Bits(32)], COUNT, 9).remove(0);
    let signed = |x: u64| x as u32 as i32 as i64;
    type Fold = fn(u64, u64) -> u64;
    let cases: [(&str, Fold); 10] = [
        ("add.u32", |x, y| (x + y) & 0xffff_ffff),
        ("add.s32", |x, y| (x + y) & 0xffff_ffff),
        ("min.u32", |x, y| x.min(y)),
        ("max.u32", |x, y| x.max(y)),
        ("and.b32", |x, y| x & y),
        ("or.b32", |x, y| x | y),
        ("xor.b32", |x, y| x ^ y),
        ("min.s32", |x, y| if (x as u32 as i32) < y as u32 as i32 { x } else { y }),
        ("max.s32", |x, y| if (x as u32 as i32) > y as u32 as i32 { x } else { y }),
        ("or.b32", |x, y| !(!x & !y)),
    ];
    for lanes in [Lanes::All, Lanes::Branch] {
        for (name, fold) in cases {
            let got = run(
                &format!("redux.sync.{name} %d0, %s0, %s1;"),
                &[Word],
                &[Word],
                std::slice::from_ref(&values),
                lanes,
            );
            for thread in taking(lanes) {
                let expected = peers(lanes, thread).map(|t| values[t]).reduce(fold).unwrap();
                assert_eq!(got[0][thread], expected, "{name} of {lanes:?}, thread {thread}");
            }
        }
    }
    assert!(values.iter().any(|&x| signed(x) < 0));
}

#[test]
fn active_lanes_are_seen_and_one_is_elected() {
    for lanes in [Lanes::All, Lanes::Branch] {
        let nothing = vec![0; COUNT];
        let got = run("activemask.b32 %d0;", &[Word], &[Word], std::slice::from_ref(&nothing), lanes);
        let elected =
            run("elect.sync %d0|%d1, %s1;", &[Word, Predicate], &[Word], std::slice::from_ref(&nothing), lanes);
        let quietly = run("elect.sync _|%d0, %s1;", &[Predicate], &[Word], &[nothing], lanes);
        for thread in taking(lanes) {
            assert_eq!(got[0][thread], members(lanes, thread), "{lanes:?}, thread {thread}");
            let leader = peers(lanes, thread).next().unwrap();
            assert_eq!(elected[0][thread], leader as u64 % 32, "{lanes:?}, thread {thread}");
            assert_eq!(elected[1][thread], (thread == leader) as u64, "{lanes:?}, thread {thread}");
            assert_eq!(quietly[0][thread], elected[1][thread]);
        }
    }
}

/// Element (row, column) of the matrix lies in lane `4 row + column / 2`, in half `column % 2`.
#[test]
fn movmatrix_transposes() {
    let values = random_words(10, 1 << 32);
    let instruction = Instruction {
        text: "movmatrix.sync.aligned.m8n8.trans.b16 %d0, %s0;",
        destinations: &[Word],
        sources: &[Word],
    };
    let got = instruction.execute(std::slice::from_ref(&values), Lanes::All).unwrap().remove(0);
    let element = |list: &[u64], warp: usize, row: usize, column: usize| {
        list[32 * warp + 4 * row + column / 2] >> (16 * (column % 2)) & 0xffff
    };
    for (warp, row, column) in (0..COUNT / 32).flat_map(|w| (0..64).map(move |n| (w, n / 8, n % 8))) {
        assert_eq!(element(&got, warp, row, column), element(&values, warp, column, row), "warp {warp}");
    }
}

/// What a child process runs: a collective whose members do not all come.
fn fails_with(text: &str, sources: &[Vec<u64>], lanes: Lanes) {
    let widths = vec![Word; sources.len()];
    let instruction = Instruction { text, destinations: &[Word], sources: &widths };
    assert_eq!(instruction.execute(sources, lanes), Err(CudaError(719)));
}

#[test]
fn members_that_do_not_take_part_are_named() {
    for (test, message) in [
        (
            "collectives::a_shuffle_from_a_lane_outside_the_mask",
            "lane 0 reads lane 7, which is not in the member mask 0x0000007f",
        ),
        ("collectives::a_vote_that_lanes_jump_over", "needs lanes 0xffffffff"),
        ("collectives::a_reduction_by_a_lane_outside_its_mask", "lane 8 is not in its own member mask 0x000000ff"),
        ("collectives::masks_that_differ", "lanes 1 have other member masks than lane 0's 0x00000003"),
    ] {
        let said = in_process(test, &[]);
        assert!(said.contains(message), "{test} says:\n{said}");
    }
}

#[test]
#[ignore = "run by members_that_do_not_take_part_are_named"]
fn a_shuffle_from_a_lane_outside_the_mask() {
    let text = "setp.lt.u32 %p, %index1, 7; @%p shfl.sync.idx.b32 %d0, %s0, 7, 31, 0x7f;";
    fails_with(&format!(".reg .pred %p; {text}"), &[vec![0; 32]], Lanes::All);
}

#[test]
#[ignore = "run by members_that_do_not_take_part_are_named"]
fn a_vote_that_lanes_jump_over() {
    let text = ".reg .pred %p; setp.lt.u32 %p, %index1, 31; @!%p exit; vote.sync.ballot.b32 %d0, %p, -1;";
    fails_with(text, &[vec![0; 32]], Lanes::All);
}

#[test]
#[ignore = "run by members_that_do_not_take_part_are_named"]
fn a_reduction_by_a_lane_outside_its_mask() {
    fails_with("redux.sync.add.u32 %d0, %s0, 0xff;", &[vec![0; 32]], Lanes::All);
}

#[test]
#[ignore = "run by members_that_do_not_take_part_are_named"]
fn masks_that_differ() {
    let masks = (0..32).map(|lane| if lane == 0 { 3 } else { 2u64 << 30 | 0x7fff_fffe }).collect();
    fails_with("redux.sync.add.u32 %d0, %s0, %s0;", &[masks], Lanes::All);
}

/// Halves of a warp that shuffle by themselves at the same instruction, after a divergence that brings them there in pieces.
#[test]
fn halves_shuffle_by_themselves() {
    let values = random_words(11, 1 << 32);
    let masks: Vec<u64> = (0..COUNT).map(|thread| if thread % 32 < 16 { 0xffff } else { 0xffff_0000 }).collect();
    // A quarter of the lanes comes late.
    let text = ".reg .pred %late; and.b32 %index1, %index1, 3; setp.eq.u32 %late, %index1, 0; @%late bra $LATE; bra.uni $MEET; \
                $LATE: add.u32 %index1, %index1, 1; $MEET: shfl.sync.bfly.b32 %d0, %s0, 5, 31, %s1;";
    let body = text.replace("$LATE: ", "\n$LATE:\n").replace("$MEET: ", "\n$MEET:\n");
    let instruction = Instruction { text: &body, destinations: &[Word], sources: &[Word, Word] };
    let got = instruction.execute(&[values.clone(), masks], Lanes::All).unwrap().remove(0);
    for thread in 0..COUNT {
        assert_eq!(got[thread], values[thread ^ 5], "thread {thread}");
    }
}
