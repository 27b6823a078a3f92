//! Counters of launches whose requests are known: what a period of counting says of them.

use crate::common::*;

unsafe extern "C" {
    fn virtualGpuCountBegin();
    fn virtualGpuCountEnd() -> usize;
    fn virtualGpuCountRows(rows: *mut u8, bytes: usize) -> usize;
}

/// Rows of what `launches` does, as JSON text; the test runs in a process of its own, since counting is of the whole process.
fn counted(launches: impl FnOnce()) -> String {
    // SAFETY: the buffer has as many bytes as the rows.
    unsafe {
        virtualGpuCountBegin();
        launches();
        let mut rows = vec![0; virtualGpuCountEnd()];
        assert_eq!(virtualGpuCountRows(rows.as_mut_ptr(), rows.len()), rows.len());
        String::from_utf8(rows).unwrap()
    }
}

/// The number of a key of the first row.
fn number(rows: &str, key: &str) -> f64 {
    let (_, rest) = rows.split_once(&format!("\"{key}\":")).unwrap_or_else(|| panic!("no {key} in {rows}"));
    rest.split([',', '}']).next().unwrap().parse().unwrap()
}

/// Each thread loads a word at `stride` words from its neighbour's and stores it at its own place.
fn strided_copy(stride: u32) -> String {
    module(
        2,
        &format!(
            ".reg .b32 %a<8>;\n.reg .b64 %p<8>;\nld.param.u64 %p1, [p0];\nld.param.u64 %p2, [p1];\nmov.u32 %a1, %tid.x;\n\
             mov.u32 %a2, %ctaid.x;\nmov.u32 %a3, %ntid.x;\nmad.lo.u32 %a4, %a2, %a3, %a1;\nmul.lo.u32 %a5, %a4, {stride};\n\
             mad.wide.u32 %p3, %a5, 4, %p1;\nmad.wide.u32 %p4, %a4, 4, %p2;\nld.global.u32 %a6, [%p3];\nst.global.u32 [%p4], %a6;"
        ),
    )
}

#[test]
#[ignore = "run by strides_cost_sectors in a process of its own"]
fn strides() {
    for (stride, load) in [(1, 4.0), (2, 8.0), (8, 32.0), (16, 32.0)] {
        let (blocks, threads) = (64, 128);
        let count = (blocks * threads) as usize;
        let from = Memory::new(&vec![7u32; count * stride]);
        let to = Memory::new(&vec![0u32; count]);
        let kernel = Kernel::load(&strided_copy(stride as u32), "test").unwrap();
        let rows = counted(|| {
            kernel.launch([blocks, 1, 1], [threads, 1, 1], 0, &[from.address(), to.address()]).unwrap();
        });
        assert_eq!(to.read(), vec![7u32; count]);
        let warps = (count / 32) as f64;
        assert_eq!(number(&rows, "warp_instructions"), 12.0 * warps, "{rows}");
        assert_eq!(number(&rows, "critical_path"), 12.0, "{rows}");
        assert_eq!(number(&rows, "global_requests"), 2.0 * warps);
        assert_eq!(number(&rows, "sectors_per_request"), (load + 4.0) / 2.0);
        assert_eq!(number(&rows, "sectors_ideal"), 4.0);
        assert_eq!(number(&rows, "bytes_asked"), 2.0 * 128.0 * warps);
        assert_eq!(number(&rows, "bytes_moved"), (load + 4.0) * 32.0 * warps);
        assert_eq!(number(&rows, "dram_bytes"), (load + 4.0) * 32.0 * warps);
        assert_eq!(number(&rows, "active_lanes"), 32.0);
    }
}

/// A stride of eight words takes a sector a lane, and memory moves what the sectors hold.
#[test]
fn strides_cost_sectors() {
    in_process("counters::strides", &[("VIRTUAL_GPU_ARCH", "90a")]);
}

#[test]
#[ignore = "run by barriers_join_paths_and_branches_idle_lanes in a process of its own"]
fn paths() {
    // Warp 0 goes round a loop of 4 instructions 50 times before the barrier, warp 1 after it; half of the lanes jump 10 adds.
    let adds = "add.u32 %a4, %a4, 1;\n".repeat(10);
    let text = module(
        1,
        &format!(
            ".reg .b32 %a<8>;\n.reg .pred %q<4>;\nmov.u32 %a1, %tid.x;\nshr.u32 %a2, %a1, 5;\nmov.u32 %a3, 0;\n\
             setp.ne.u32 %q1, %a2, 0;\n@%q1 bra $MEET;\n\
             $FIRST:\nadd.u32 %a3, %a3, 1;\nadd.u32 %a4, %a4, 1;\nsetp.lt.u32 %q2, %a3, 50;\n@%q2 bra $FIRST;\n\
             $MEET:\nbar.sync 0;\nsetp.eq.u32 %q1, %a2, 0;\n@%q1 bra $OVER;\n\
             $SECOND:\nadd.u32 %a3, %a3, 1;\nadd.u32 %a4, %a4, 1;\nsetp.lt.u32 %q2, %a3, 50;\n@%q2 bra $SECOND;\n\
             $OVER:\nand.b32 %a5, %a1, 1;\nsetp.eq.u32 %q3, %a5, 0;\n@%q3 bra $END;\n{adds}$END:\n"
        ),
    );
    let kernel = Kernel::load(&text, "test").unwrap();
    let memory = Memory::new(&[0u32]);
    let rows = counted(|| kernel.launch([1, 1, 1], [64, 1, 1], 0, &[memory.address()]).unwrap());
    // Five before the loop, 200 of a loop, the barrier and two, 200 of the other loop, three, ten adds, and the end.
    assert_eq!(number(&rows, "critical_path"), (5 + 200 + 3 + 200 + 3 + 10 + 1) as f64, "{rows}");
    assert_eq!(number(&rows, "barrier"), 2.0, "{rows}");
    let all = 2.0 * (5 + 200 + 3 + 3 + 10 + 1) as f64;
    assert_eq!(number(&rows, "warp_instructions"), all, "{rows}");
    let lanes = number(&rows, "active_lanes") * all;
    assert!((lanes - (32.0 * all - 2.0 * 10.0 * 16.0)).abs() < 0.1, "{rows}");
}

/// The longest way leads through the slower warp of each phase, and lanes that jump are not active.
#[test]
fn barriers_join_paths_and_branches_idle_lanes() {
    in_process("counters::paths", &[]);
}

#[test]
#[ignore = "run by columns_conflict in a process of its own"]
fn columns() {
    for (pitch, waves) in [(128, 32.0), (132, 1.0)] {
        let text = module(
            1,
            &format!(
                ".shared .align 16 .b8 tile[8192];\n.reg .b32 %a<8>;\n.reg .b64 %p<2>;\nmov.u32 %a1, %tid.x;\nmov.u32 %a2, tile;\n\
                 mad.lo.u32 %a3, %a1, {pitch}, %a2;\nst.shared.u32 [%a3], %a1;\nld.shared.u32 %a4, [%a3];"
            ),
        );
        let kernel = Kernel::load(&text, "test").unwrap();
        let memory = Memory::new(&[0u32]);
        let rows = counted(|| kernel.launch([3, 1, 1], [32, 1, 1], 0, &[memory.address()]).unwrap());
        assert_eq!(number(&rows, "shared_requests"), 6.0, "{rows}");
        assert_eq!(number(&rows, "wavefronts_per_request"), waves, "{rows}");
        assert_eq!(number(&rows, "wavefronts_ideal"), 1.0, "{rows}");
        assert_eq!(number(&rows, "wavefronts"), 6.0 * waves, "{rows}");
    }
}

/// Rows of 128 bytes put a column into one bank; 132 bytes spread it over all.
#[test]
fn columns_conflict() {
    in_process("counters::columns", &[]);
}

#[test]
#[ignore = "run by a_wait_counts_once in a process of its own"]
fn waits() {
    // Warp 1 waits for a barrier that warp 0 comes to after 2,000 instructions.
    let text = module(
        1,
        ".shared .align 8 .b64 bar;\n.reg .b32 %a<4>;\n.reg .pred %q<4>;\nmov.u32 %a1, %tid.x;\nmov.u32 %a2, bar;\n\
         setp.ne.u32 %q1, %a1, 0;\n@%q1 bra $READY;\nmbarrier.init.shared::cta.b64 [%a2], 1;\n\
         $READY:\nbar.sync 0;\nsetp.gt.u32 %q2, %a1, 31;\n@%q2 bra $WAIT;\nmov.u32 %a3, 0;\n\
         $WORK:\nadd.u32 %a3, %a3, 1;\nsetp.lt.u32 %q3, %a3, 1000;\n@%q3 bra $WORK;\n@%q1 bra $WAIT;\n\
         mbarrier.arrive.shared::cta.b64 _, [%a2];\n\
         $WAIT:\nmbarrier.try_wait.parity.shared::cta.b64 %q3, [%a2], 0;\n@!%q3 bra $WAIT;",
    );
    let kernel = Kernel::load(&text, "test").unwrap();
    let memory = Memory::new(&[0u32]);
    let rows = counted(|| kernel.launch([1, 1, 1], [64, 1, 1], 0, &[memory.address()]).unwrap());
    // Four and the barrier, the waits, the end; warp 0 alone: the initialisation, 3,000 of the loop, three and the arrival.
    let both = 4 + 3 + 2 + 1;
    assert_eq!(number(&rows, "warp_instructions"), (2 * both + 1 + 1 + 3000 + 1 + 1) as f64, "{rows}");
}

/// Going round the loop of a wait is not work: a chip suspends the lanes.
#[test]
fn a_wait_counts_once() {
    in_process("counters::waits", &[("VIRTUAL_GPU_ARCH", "90a")]);
}

#[test]
#[ignore = "run by a_sample_leaves_no_cheap_block_out in a process of its own"]
fn sampled() {
    let (blocks, threads) = (64, 128);
    let count = (blocks * threads) as usize;
    let (from, to) = (Memory::new(&vec![7u32; count]), Memory::new(&vec![0u32; count]));
    let kernel = Kernel::load(&strided_copy(1), "test").unwrap();
    let rows = counted(|| {
        kernel.launch([blocks, 1, 1], [threads, 1, 1], 0, &[from.address(), to.address()]).unwrap();
    });
    assert_eq!(number(&rows, "sampled_share"), 0.125, "{rows}");
    assert_eq!(number(&rows, "warp_instructions"), 12.0 * (count / 32) as f64, "{rows}");
    assert_eq!(to.read(), vec![7u32; count]);
}

/// What later launches read is there, though a sample was counted.
#[test]
fn a_sample_leaves_no_cheap_block_out() {
    in_process("counters::sampled", &[("VIRTUAL_GPU_SAMPLE", "8")]);
}
