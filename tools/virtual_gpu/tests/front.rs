//! The front end: what the grammar of PTX means, what is refused and how, and that registers keep their values.

use crate::common::*;
use std::collections::HashMap;
use virtual_gpu::lower;
use virtual_gpu::ptx::{self, Class, Item, Label, Module, Operand, Statement};

const THREADS: usize = 64;

/// A module whose entry `test` stores `%result` of each thread; `%t` is the thread, and `before` stands before the entry.
fn program(before: &str, body: &str) -> String {
    let body = format!(
        ".reg .b64 %out, %o, %result;\n.reg .b32 %t;\nmov.u32 %t, %tid.x;\nld.param.u64 %out, [p0];\n\
         mad.wide.u32 %o, %t, 8, %out;\nmov.u64 %result, 99;\n{body}\nst.global.u64 [%o], %result;"
    );
    module(1, &body).replace(".visible .entry", &format!("{before}\n.visible .entry"))
}

/// What each thread of a block stores.
fn execute(ptx: &str) -> Vec<u64> {
    let results = Memory::new(&[7u64; THREADS]);
    let kernel = Kernel::load(ptx, "test").unwrap_or_else(|error| panic!("{error:?}:\n{ptx}"));
    let launched = kernel.launch([1, 1, 1], [THREADS as u32, 1, 1], 0, &[results.address()]);
    launched.unwrap_or_else(|error| panic!("{error:?}:\n{ptx}"));
    results.read()
}

/// Compares what each thread stores with a function of its number.
fn gives(before: &str, body: &str, expected: impl Fn(u64) -> u64) {
    let expected: Vec<u64> = (0..THREADS as u64).map(expected).collect();
    assert_eq!(execute(&program(before, body)), expected, "{body}");
}

#[test]
fn labels_and_names_belong_to_their_braces() {
    let count = |times: u32| {
        format!(
            "{{ .reg .b32 %n; .reg .pred %p; mov.u32 %n, 0;\nAGAIN: add.u32 %n, %n, 1; add.u64 %result, %result, 1;\n\
             setp.lt.u32 %p, %n, {times}; @%p bra AGAIN; bra DONE; DONE: }}\n"
        )
    };
    gives("", &format!("mov.u64 %result, 0;\n{}{}{}", count(3), count(5), count(2)), |_| 10);
}

#[test]
fn an_indexed_branch_takes_the_target_of_each_lane() {
    let body = ".reg .b32 %i; rem.u32 %i, %t, 3;\nTABLE: .branchtargets A, B, C;\nbrx.idx %i, TABLE;\n\
                A: mov.u64 %result, 10; bra END;\nB: mov.u64 %result, 20; bra END;\nC: mov.u64 %result, 30;\nEND:";
    gives("", body, |t| 10 * (t % 3 + 1));
}

#[test]
fn comparisons_combine_and_give_both_predicates() {
    let of = |combination: &str, negated: &str| {
        format!(
            ".reg .pred %p, %q, %c; .reg .b64 %a, %b; .reg .b32 %odd; and.b32 %odd, %t, 1; setp.eq.u32 %c, %odd, 1;\n\
             setp.lt.{combination}.u32 %p|%q, %t, 20, {negated}%c;\n\
             selp.b64 %a, 1, 0, %p; selp.b64 %b, 2, 0, %q; add.u64 %result, %a, %b;"
        )
    };
    let combinations: [(&str, fn(bool, bool) -> bool); 3] =
        [("and", |a, c| a & c), ("or", |a, c| a | c), ("xor", |a, c| a ^ c)];
    for (name, combine) in combinations {
        for negated in [false, true] {
            gives("", &of(name, if negated { "!" } else { "" }), |t| {
                let (less, c) = (t < 20, (t % 2 == 1) != negated);
                combine(less, c) as u64 + 2 * combine(!less, c) as u64
            });
        }
    }
    let overlapping = ".reg .pred %p, %q; setp.lt.u32 %p|%q, %t, 20; setp.eq.xor.u32 %q|%p, %t, 3, %p;\n\
                       selp.b64 %result, 1, 0, %q;";
    gives("", overlapping, |t| ((t == 3) ^ (t < 20)) as u64);
}

/// Several parameters, a structure as a result, a guard, a return in the middle, and local memory of the function.
const FUNCTION: &str = ".func (.param .align 8 .b8 pair[16]) both(.param .b32 a, .param .b64 b)\n{\n\
    .local .align 8 .b8 depot[16]; .reg .b32 %x; .reg .b64 %y, %z; .reg .pred %p;\n\
    ld.param.u32 %x, [a]; ld.param.u64 %y, [b]; st.param.b64 [pair+8], %y; cvt.u64.u32 %z, %x;\n\
    st.local.u64 [depot+8], %z; setp.gt.u32 %p, %x, 40; st.param.b64 [pair], 1000; @%p ret;\n\
    ld.local.u64 %z, [depot+8]; add.u64 %z, %z, %y; st.param.b64 [pair+0], %z; ret;\n}\n";

#[test]
fn calls_pass_several_parameters_and_return_structures() {
    let body = ".reg .b64 %wide, %first, %second; .reg .pred %small; cvt.u64.u32 %wide, %t; mul.lo.u64 %wide, %wide, 3;\n\
        setp.lt.u32 %small, %t, 50; mov.u64 %first, 5; mov.u64 %second, 6;\n\
        { .param .b32 p0; .param .b64 p1; .param .align 8 .b8 back[16]; st.param.b32 [p0], %t; st.param.b64 [p1], %wide;\n\
        st.param.b64 [back], 5; st.param.b64 [back+8], 6;\n\
        @%small call.uni (back), both, (p0, p1); ld.param.v2.b64 {%first, %second}, [back]; }\n\
        mad.lo.u64 %result, %first, 1000000, %second;";
    gives(FUNCTION, body, |t| match t {
        50.. => 5_000_006,
        41.. => 1_000_000_000 + 3 * t,
        _ => 4 * t * 1_000_000 + 3 * t,
    });
    let registers = ".func (.reg .b32 %sum) add(.reg .b32 %a, .reg .b32 %b)\n{ add.u32 %sum, %a, %b; ret; }\n";
    gives(registers, ".reg .b32 %s; call (%s), add, (%t, 7); cvt.u64.u32 %result, %s;", |t| t + 7);
}

#[test]
fn a_guarded_return_ends_its_lanes_alone() {
    gives("", ".reg .pred %p; setp.gt.u32 %p, %t, 9;\n@%p ret;\nmov.u64 %result, 3;", |t| if t > 9 { 7 } else { 3 });
}

#[test]
fn generic_addresses_lead_to_each_space() {
    let body = ".shared .align 8 .b8 tile[512]; .local .align 8 .b8 own[8]; .reg .b64 %a, %b, %c, %v, %w, %s; .reg .b32 %i, %m;\n\
        .reg .pred %in, %one, %two; cvt.u64.u32 %v, %t; mov.u64 %a, tile; cvta.shared.u64 %a, %a; mul.lo.u64 %w, %v, 8; add.u64 %a, %a, %w;\n\
        mov.u64 %b, own; cvta.local.u64 %b, %b; cvta.global.u64 %c, %o; rem.u32 %i, %t, 3;\n\
        setp.eq.u32 %one, %i, 1; setp.eq.u32 %two, %i, 2; selp.b64 %s, %b, %a, %one; selp.b64 %s, %c, %s, %two;\n\
        add.u64 %v, %v, 100; st.u64 [%s], %v; ld.u64 %w, [%s]; isspacep.shared %in, %s; selp.b64 %result, 1000, 2000, %in;\n\
        isspacep.local %in, %s; @%in mov.u64 %result, 3000; add.u64 %result, %result, %w;\n\
        cvta.to.shared.u64 %a, %a; @!%one bra OVER; bra END; OVER: @%two bra END; ld.shared.u64 %w, [%a]; add.u64 %result, %result, %w; END:";
    gives("", body, |t| match t % 3 {
        0 => 1000 + 2 * (t + 100),
        1 => 3000 + t + 100,
        _ => 2000 + t + 100,
    });
}

#[test]
fn variables_have_their_initial_values() {
    let before = ".const .align 4 .b32 table[4] = {10, 0x14, -1, 0f3F800000};\n\
        .global .align 8 .u64 places[2] = {0, generic(table)+4};\n.global .f32 half = 0.5;\n.global .align 2 .b16 grid[2][2] = {{1}, {2, 3}};\n";
    let body = ".reg .b64 %p, %q; .reg .b32 %a, %b, %h; .reg .b16 %g; ld.global.u64 %p, [places+8]; ld.u32 %a, [%p];\n\
        ld.const.u32 %b, [table+12]; ld.global.b32 %h, [half]; ld.global.u16 %g, [grid+4]; cvt.u32.u16 %a, %g;\n\
        ld.u32 %h, [%p]; mul.wide.u32 %result, %h, 100; cvt.u64.u32 %q, %a; add.u64 %result, %result, %q; cvt.u64.u32 %q, %b; add.u64 %result, %result, %q;";
    gives(before, body, |_| 2000 + 2 + 0x3f80_0000);
}

#[test]
fn parts_pack_and_special_registers_are_operands() {
    let body = ".reg .b16 %h<5>; .reg .b32 %w<3>; cvt.u16.u32 %h1, %t; mov.u16 %h2, 2; mov.u16 %h3, 3; mov.u16 %h4, 4;\n\
        mov.b64 %result, {%h1, %h2, %h3, %h4}; mov.b64 {_, %h3, %h2, %h1}, %result; mov.b64 %result, {%h1, %h2, %h3, %h4};\n\
        add.u32 %w1, %tid.x, %ntid.x; mov.b64 {%w2, _}, %result; add.u32 %w2, %w2, %w1; mov.b64 %result, {%w2, %w1};";
    gives("", body, |t| (0x0003_0004 + t + 64) | (t + 64) << 32);
    gives("", ".reg .b32 %m; mov.u32 %m, %lanemask_lt; cvt.u64.u32 %result, %m;", |t| (1 << (t % 32)) - 1);
}

/// A policy is a hint: the load that has it gives what it would give without.
#[test]
fn cache_policies_are_taken_as_hints() {
    let body = ".reg .b64 %policy; .reg .b64 %x; createpolicy.fractional.L2::evict_last.b64 %policy, 1.0;\n\
        st.global.L1::evict_first.u64 [%o], 12; ld.global.L1::evict_last.L2::cache_hint.b64 {%x}, [%o + 0], %policy; mov.u64 %result, %x;";
    gives("", body, |_| 12);
}

#[test]
fn directives_of_an_entry_are_read() {
    let text = module(0, "").replace(
        ")\n{",
        ")\n.maxntid 32, 4, 2\n.minnctapersm 3\n.maxnreg 40\n.reqnctapercluster 2, 1, 1\n.explicitcluster\n{",
    );
    let limits = &Module::parse(text).unwrap().entries["test"].limits;
    assert_eq!((limits.max_threads, limits.threads(), limits.min_blocks), (Some([32, 4, 2]), Some(256), Some(3)));
    assert_eq!((limits.max_registers, limits.cluster, limits.explicit_cluster), (Some(40), Some([2, 1, 1]), true));
}

#[test]
fn a_source_line_knows_the_calls_it_was_inlined_at() {
    let text = module(
        0,
        ".reg .b32 %r;\n.loc 1 10 3\nmov.u32 %r, 1;\n.loc 2 20 4, function_name $f, inlined_at 1 10 3\nmov.u32 %r, 2;\n\
        .loc 2 30 5, function_name $g, inlined_at 2 20 4\nmov.u32 %r, 3;",
    );
    let module = Module::parse(text.replace(".visible", ".file 1 \"a.cu\"\n.file 2 \"b.h\"\n.visible")).unwrap();
    let body = ptx::parse_entry(&module, "test").unwrap();
    let places: Vec<String> = body
        .items
        .iter()
        .filter_map(|item| match item {
            Item::Inst(statement) if statement.op == "mov.u32" => {
                let position = body.positions[statement.loc as usize];
                assert!(module.line(position.line).starts_with("mov.u32"));
                Some(body.sources.describe(position.source, &module.files))
            }
            _ => None,
        })
        .collect();
    assert_eq!(places, ["a.cu:10", "b.h:20 (inlined at a.cu:10)", "b.h:30 (inlined at b.h:20, a.cu:10)"]);
}

/// What is said of an entry whose body cannot be compiled.
fn refusal(body: &str) -> String {
    let module = match Module::parse(module(0, body)) {
        Ok(module) => module,
        Err(error) => return error.to_string(),
    };
    lower::compile(&module, &HashMap::new(), "test").map(|_| ()).unwrap_err().to_string()
}

#[test]
fn a_refusal_names_entry_line_statement_reason_and_advice() {
    for (statement, reason) in [
        ("frobnicate.u32 %r1, %r2;", "unknown opcode"),
        ("add.u32 %r1, %r99, 1;", "neither a register that is declared here nor"),
        ("add.u32 %r1;", "operand"),
        ("add.u32 %d1, %r1, 1;", "width"),
        ("@%p9 mov.u32 %r1, 1;", "`%p9` is not declared"),
        ("bra NOWHERE;", "`NOWHERE` is not declared"),
        ("ld.global.u32 %r1, %d1;", "not an address"),
        ("call missing, ();", "`missing` is not declared"),
        ("mov.u32 %r1, ,;", "operand"),
        ("mov.u32 %r1, 9z;", "not a number"),
    ] {
        let text = refusal(&format!(".reg .b32 %r<3>;\n.reg .b64 %d<3>;\n{statement}"));
        for part in ["test, PTX line 11", statement.trim_end_matches(';'), reason] {
            assert!(text.contains(part), "{statement}: `{part}` is not in {text}");
        }
        assert!(text.rsplit("; ").next().unwrap().split_whitespace().count() > 4, "{text}");
    }
}

/// Text that was cut, or of which some was replaced, is refused or compiled; nothing panics.
#[test]
fn damaged_ptx_never_panics() {
    let whole = [
        program(
            FUNCTION,
            "{ .param .b32 p0; .param .b64 p1; .param .align 8 .b8 r[16]; st.param.b32 [p0], %t; call (r), both, (p0, p1); }\n\
            .shared .align 4 .b8 s[64]; .reg .f32 %f<9>; .reg .pred %p<3>; .reg .b16 %h<3>; T: .branchtargets A, A; brx.idx %t, T; A:\n\
            setp.lt.and.u32 %p1|%p2, %t, 3, !%p1; @!%p1 ld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%o+16]; st.shared.f32 [s+4], %f1;\n\
            shfl.sync.bfly.b32 %f1|%p1, %f2, 16, 31, -1; mov.b32 {%h1, %h2}, %t; bar.sync 0; ld.u32 %t, [%o]; atom.global.add.u32 %t, [%o], 1;\n\
            cp.async.cg.shared.global [%t], [%o], 16; cp.async.wait_group 0; .pragma \"used_bytes_mask 7\"; .loc 1 2 3\n",
        ),
        module(
            0,
            ".reg .b32 %r<200>; .reg .b64 %d<9>; .reg .pred %p; mbarrier.init.shared.b64 [%r1], 1; wgmma.fence.sync.aligned;\n\
            mbarrier.try_wait.parity.shared.b64 %p, [%r1], %r2; ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r1, %r2}, [%r3];\n\
            mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%r1,%r2,%r3,%r4}, {%r5,%r6,%r7,%r8}, {%r9,%r10}, {%r1,%r2,%r3,%r4};\n\
            cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%d1], %r2, [%r3]; prmt.b32 %r1, %r2, %r3, 4; cvt.rn.bf16x2.f32 %r1, %r2, %r3;",
        ),
    ];
    let marks = b"{}[]();:,|!@<>+-.%$\"/* 09azAZ_=\n";
    let mut random = Random::new(11);
    let (mut compiled, mut refused) = (0, 0);
    for round in 0..4000u64 {
        let text = &whole[(round % 2) as usize];
        let mut bytes = text.clone().into_bytes();
        for _ in 0..1 + random.below(3) {
            let at = random.below(bytes.len() as u64) as usize;
            let length = random.below(12) as usize;
            match random.below(5) {
                0 => bytes.truncate(at.max(1)),
                1 => drop(bytes.drain(at..(at + length).min(bytes.len()))),
                2 => bytes[at] = marks[random.below(marks.len() as u64) as usize],
                3 => {
                    let copy = bytes[at..(at + length).min(bytes.len())].to_vec();
                    let to = random.below(bytes.len() as u64) as usize;
                    bytes.splice(to..to, copy);
                }
                _ => bytes.insert(at, marks[random.below(marks.len() as u64) as usize]),
            }
        }
        let Ok(module) = Module::parse(String::from_utf8(bytes).unwrap()) else {
            refused += 1;
            continue;
        };
        for name in module.entries.keys() {
            match lower::compile(&module, &HashMap::new(), name) {
                Ok(_) => compiled += 1,
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    refused += 1;
                }
            }
        }
    }
    assert!(compiled > 100 && refused > 1000, "{compiled} compiled, {refused} refused");
}

/// One thread of the parsed form, with as many registers as it names: what the executor's slots must not change.
fn interpret(body: &ptx::Body, thread: u64) -> u64 {
    let mut registers = vec![0u64; body.classes.len()];
    let place: HashMap<Label, usize> = body
        .items
        .iter()
        .enumerate()
        .filter_map(|(n, item)| match item {
            Item::Label(label) => Some((*label, n)),
            _ => None,
        })
        .collect();
    let mut at = 0;
    while let Some(item) = body.items.get(at) {
        at += 1;
        let Item::Inst(Statement { op, guard, operands, .. }) = item else { continue };
        if guard.is_some_and(|(predicate, negated)| (registers[predicate as usize] != 0) == negated) {
            continue;
        }
        let value = |n: usize| match &operands[n] {
            Operand::Reg(register) => registers[*register as usize],
            Operand::Imm(value) => *value,
            Operand::Special(_) => thread,
            _ => 0,
        };
        let result = match op.as_str() {
            "bra" => {
                let Operand::Label(label) = &operands[0] else { panic!("{operands:?}") };
                at = place[label];
                continue;
            }
            "st.global.u64" => return value(1),
            "ld.param.u64" | "mad.wide.u32" | "ret" => continue,
            "mov.u32" | "mov.u64" | "cvt.u64.u32" | "cvt.u32.u64" => value(1),
            "add.u32" | "add.u64" => value(1).wrapping_add(value(2)),
            "mul.lo.u32" => value(1).wrapping_mul(value(2)),
            "mul.wide.u32" => (value(1) as u32 as u64) * (value(2) as u32 as u64),
            "xor.b32" | "xor.b64" => value(1) ^ value(2),
            "setp.lt.u32" => ((value(1) as u32) < value(2) as u32) as u64,
            "selp.b32" => {
                if value(3) != 0 {
                    value(1)
                } else {
                    value(2)
                }
            }
            other => panic!("{other}"),
        };
        let Operand::Reg(to) = operands[0] else { panic!("{operands:?}") };
        registers[to as usize] = if body.classes[to as usize] == Class::D { result } else { result as u32 as u64 };
    }
    panic!("the program stores nothing");
}

/// A random program: blocks of arithmetic under guards, branches forwards, and loops of a few rounds.
fn random_program(seed: u64) -> String {
    let mut random = Random::new(seed);
    let registers = 4 + random.below(12);
    let mut body =
        format!(".reg .b32 %r<{registers}>, %left<9>; .reg .b64 %d<{registers}>; .reg .pred %p<4>, %again;\n");
    for n in 0..registers {
        body += &format!(
            "mul.lo.u32 %r{n}, %t, {}; mul.wide.u32 %d{n}, %t, {};\n",
            random.below(1 << 31),
            random.below(1 << 31)
        );
    }
    for n in 0..4 {
        body += &format!("setp.lt.u32 %p{n}, %r{n}, {};\n", random.below(1 << 32));
    }
    let blocks = 3 + random.below(6);
    for block in 0..blocks {
        let looped = random.below(3) == 0;
        if looped {
            body += &format!("mov.u32 %left{block}, 0;\n");
        }
        body += &format!("B{block}:\n");
        for _ in 0..3 + random.below(9) {
            let mut any = || random.below(registers);
            let (a, b, c) = (any(), any(), any());
            let p = random.below(4);
            let guard =
                ["", "", "@%pP ", "@!%pP "][random.below(4) as usize].replace('P', &random.below(4).to_string());
            body += &guard;
            body += &match random.below(9) {
                0 => format!("add.u32 %r{a}, %r{b}, %r{c};\n"),
                1 => format!("xor.b32 %r{a}, %r{b}, %r{c};\n"),
                2 => format!("mul.lo.u32 %r{a}, %r{b}, %r{c};\n"),
                3 => format!("mul.wide.u32 %d{a}, %r{b}, %r{c};\n"),
                4 => format!("add.u64 %d{a}, %d{b}, %d{c};\n"),
                5 => format!("cvt.u32.u64 %r{a}, %d{b};\n"),
                6 => format!("cvt.u64.u32 %d{a}, %r{b};\n"),
                7 => format!("selp.b32 %r{a}, %r{b}, %r{c}, %p{p};\n"),
                _ => format!("setp.lt.u32 %p{p}, %r{b}, %r{c};\n"),
            };
        }
        if looped {
            body += &format!(
                "add.u32 %left{block}, %left{block}, 1; setp.lt.u32 %again, %left{block}, 3; @%again bra B{block};\n"
            );
        } else if random.below(2) == 0 {
            body += &format!("@%p{} bra B{};\n", random.below(4), block + 1 + random.below(blocks - block));
        }
    }
    body += &format!("B{blocks}:\nmov.u64 %result, 0;\n");
    for n in 0..registers {
        body +=
            &format!("add.u64 %result, %result, %d{n}; cvt.u64.u32 %d{n}, %r{n}; xor.b64 %result, %result, %d{n};\n");
    }
    program("", &body)
}

#[test]
fn random_programs_keep_their_registers() {
    let mut distinct = std::collections::HashSet::new();
    for seed in 0..300 {
        let text = random_program(seed);
        let module = Module::parse(text.clone()).unwrap();
        let body = ptx::parse_entry(&module, "test").unwrap();
        let expected: Vec<u64> = (0..THREADS as u64).map(|thread| interpret(&body, thread)).collect();
        assert_eq!(execute(&text), expected, "seed {seed}:\n{text}");
        distinct.insert(expected);
    }
    assert!(distinct.len() > 290, "{}", distinct.len());
}
