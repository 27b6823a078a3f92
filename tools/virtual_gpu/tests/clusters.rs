//! Clusters and distributed shared memory: PTX ISA, "Cluster Dimension Directives", "mapa", "getctarank", "barrier.cluster", and
//! what reaches `shared::cluster`. The device is a 9.0 here, in processes of their own, under several seeds.

use crate::common::*;
use crate::driver::alone;

const INVALID_CLUSTER_SIZE: CudaError = CudaError(912);
const NOT_SUPPORTED: CudaError = CudaError(801);
const ILLEGAL_ADDRESS: CudaError = CudaError(700);
const LAUNCH_FAILED: CudaError = CudaError(719);
/// `CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION`.
const CLUSTER: u32 = 4;

/// Runs a test's body on a device of compute capability 9.0, in the natural order and under three seeds.
fn on_hopper(test: &str, body: fn()) {
    for seed in ["0", "1", "2", "3"] {
        let settings = [("VIRTUAL_GPU_ARCH", "90a"), ("VIRTUAL_GPU_SEED", seed), ("VIRTUAL_GPU_STICKY", "0")];
        if !alone(test, &settings, body).contains("1 passed") {
            // this is that process
            return;
        }
    }
}

/// Registers of the kernels here: the thread in `%r0`, the rank in `%r1`, blocks of the cluster in `%r2`, the thread in the grid in
/// `%r3`, its result's address in `%rd0`, and 1024 bytes of shared memory from `%r4`.
const HEAD: &str = ".reg .pred %p<8>;\n.reg .b32 %r<24>;\n.reg .b64 %rd<8>;\n.shared .align 16 .b8 memory[1024];\n.shared .align 8 .b8 flag[8];\n\
    mov.u32 %r0, %tid.x;\nmov.u32 %r1, %cluster_ctarank;\nmov.u32 %r2, %cluster_nctarank;\nmov.u32 %r3, %ctaid.x;\nmov.u32 %r5, %ntid.x;\n\
    mad.lo.u32 %r3, %r3, %r5, %r0;\nld.param.u64 %rd0, [p0];\nmul.wide.u32 %rd1, %r3, 4;\nadd.u64 %rd0, %rd0, %rd1;\nld.param.u64 %rd1, [p1];\n\
    mov.u32 %r4, memory;\nmov.u32 %r5, flag;\n";
/// Meets the whole cluster.
const MEET: &str = "barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;\n";

fn kernel(directives: &str, body: &str) -> Result<Kernel, CudaError> {
    let text = module(2, &format!("{HEAD}{body}"));
    Kernel::load(&text.replacen(")\n{", &format!(")\n{directives}\n{{"), 1), "test")
}

/// A word of each thread of a launch of `blocks` blocks of 32 threads in clusters of `cluster`; `p1` points at the numbers from 0.
fn run(blocks: u32, cluster: u32, body: &str) -> Result<Vec<u32>, CudaError> {
    let results = Memory::new(&vec![u32::MAX; 32 * blocks as usize]);
    let numbers = Memory::new(&(0..1024).collect::<Vec<u32>>());
    kernel(&format!(".reqnctapercluster {cluster}"), body)?.launch(
        [blocks, 1, 1],
        [32, 1, 1],
        0,
        &[results.address(), numbers.address()],
    )?;
    Ok(results.read())
}

const REGISTERS: [&str; 16] = [
    "%clusterid.x",
    "%clusterid.y",
    "%clusterid.z",
    "%nclusterid.x",
    "%nclusterid.y",
    "%nclusterid.z",
    "%cluster_ctaid.x",
    "%cluster_ctaid.y",
    "%cluster_ctaid.z",
    "%cluster_nctaid.x",
    "%cluster_nctaid.y",
    "%cluster_nctaid.z",
    "%cluster_ctarank",
    "%cluster_nctarank",
    "%ctaid.x",
    "%ctaid.y",
];

#[test]
fn special_registers_of_clusters() {
    on_hopper("clusters::special_registers_of_clusters", || {
        let mut body = String::from(
            "mov.u32 %r6, %ctaid.x;\nmov.u32 %r7, %ctaid.y;\nmov.u32 %r8, %ctaid.z;\nmov.u32 %r9, %nctaid.x;\nmov.u32 %r10, %nctaid.y;\n\
             mad.lo.u32 %r7, %r8, %r10, %r7;\nmad.lo.u32 %r6, %r7, %r9, %r6;\nld.param.u64 %rd0, [p0];\nmul.wide.u32 %rd2, %r6, 68;\n\
             add.u64 %rd0, %rd0, %rd2;\nmov.pred %p0, %is_explicit_cluster;\nselp.b32 %r11, 1, 0, %p0;\nst.global.u32 [%rd0+64], %r11;\n",
        );
        for (n, name) in REGISTERS.iter().enumerate() {
            body += &format!("mov.u32 %r11, {name};\nst.global.u32 [%rd0+{}], %r11;\n", 4 * n);
        }
        let grid = [6, 4, 2];
        for (cluster, directive) in [([3, 2, 1], true), ([3, 2, 1], false), ([1, 4, 2], false), ([1, 1, 1], false)] {
            let results = Memory::new(&vec![u32::MAX; 48 * 17]);
            let [x, y, z] = cluster;
            let directives =
                if directive { format!(".explicitcluster\n.reqnctapercluster {x}, {y}, {z}") } else { String::new() };
            let kernel = kernel(&directives, &body).unwrap();
            let explicit = cluster != [1; 3];
            let attributes: &[(u32, [u32; 3])] = if directive || !explicit { &[] } else { &[(CLUSTER, cluster)] };
            kernel.launch_with(grid, [1; 3], 0, &[results.address(), 0], attributes).unwrap();
            let results = results.read();
            for number in 0..48 {
                let block = [number % 6, number / 6 % 4, number / 24];
                let axis = |f: &dyn Fn(usize) -> u32| [0, 1, 2].map(f);
                let (id, count) = (axis(&|k| block[k] / cluster[k]), axis(&|k| grid[k] / cluster[k]));
                let place = axis(&|k| block[k] % cluster[k]);
                let rank = place[0] + x * (place[1] + y * place[2]);
                let expected =
                    [&id[..], &count, &place, &cluster, &[rank, x * y * z, block[0], block[1], explicit as u32]]
                        .concat();
                assert_eq!(
                    results[17 * number as usize..][..17],
                    expected,
                    "block {block:?} in clusters of {cluster:?}"
                );
            }
        }
    });
}

/// Each thread reads a word of the next block by a `shared::cluster` address and by a generic one, after all have written theirs.
#[test]
fn blocks_read_each_others_shared_memory() {
    on_hopper("clusters::blocks_read_each_others_shared_memory", || {
        let body = format!(
            "shl.b32 %r6, %r0, 2;\nadd.u32 %r7, %r4, %r6;\nst.shared.u32 [%r7], %r3;\n{MEET}\
             add.u32 %r8, %r1, 1;\nrem.u32 %r8, %r8, %r2;\nmapa.shared::cluster.u32 %r9, %r7, %r8;\nld.shared::cluster.u32 %r10, [%r9];\n\
             cvt.u64.u32 %rd2, %r7;\ncvta.shared::cluster.u64 %rd2, %rd2;\nmapa.u64 %rd3, %rd2, %r8;\nld.u32 %r11, [%rd3];\n\
             cvt.u64.u32 %rd4, %r9;\ncvta.shared::cluster.u64 %rd4, %rd4;\nld.v2.u32 {{%r12, %r13}}, [%rd4];\n\
             getctarank.shared::cluster.u32 %r14, %r9;\ngetctarank.u64 %r15, %rd3;\ngetctarank.shared::cluster.u32 %r16, %r7;\n\
             setp.ne.u32 %p0, %r10, %r11;\n@%p0 trap;\nsetp.ne.u32 %p0, %r14, %r8;\n@%p0 trap;\nsetp.ne.u32 %p0, %r15, %r8;\n@%p0 trap;\n\
             setp.ne.u32 %p0, %r16, %r1;\n@%p0 trap;\n{MEET}st.global.u32 [%rd0], %r10;"
        )
        .replace("ld.v2.u32 {%r12, %r13}, [%rd4]", "ld.u32 %r12, [%rd4]");
        for (blocks, cluster) in [(8, 4), (6, 2), (9, 3), (8, 8), (3, 1)] {
            let results = run(blocks, cluster, &body).unwrap();
            for (n, word) in results.iter().enumerate() {
                let (block, lane) = (n as u32 / 32, n as u32 % 32);
                let next = block / cluster * cluster + (block % cluster + 1) % cluster;
                assert_eq!(*word, 32 * next + lane, "thread {n} of clusters of {cluster}");
            }
        }
    });
}

/// All blocks add to a counter of rank 0 and store into its memory; `atom` tells each another number.
#[test]
fn blocks_write_each_others_shared_memory() {
    on_hopper("clusters::blocks_write_each_others_shared_memory", || {
        let body = format!(
            "shl.b32 %r6, %r0, 2;\nadd.u32 %r7, %r4, %r6;\nmov.u32 %r8, 0;\nst.shared.u32 [%r7], %r8;\n{MEET}\
             mapa.shared::cluster.u32 %r9, memory, 0;\nadd.u32 %r10, %r1, 1;\nred.shared::cluster.add.u32 [%r9+4], %r10;\n\
             atom.relaxed.cluster.shared::cluster.add.u32 %r11, [%r9], 1;\n\
             shl.b32 %r12, %r1, 7;\nadd.u32 %r12, %r12, %r6;\nadd.u32 %r12, %r12, %r9;\nst.shared::cluster.u32 [%r12+128], %r3;\n{MEET}\
             setp.ne.u32 %p0, %r1, 0;\n@%p0 bra OTHERS;\nld.shared.u32 %r13, [%r4+4];\nld.shared.u32 %r14, [%r7+512];\n\
             mad.lo.u32 %r11, %r13, 1000, %r14;\nOTHERS:\nst.global.u32 [%rd0], %r11;"
        );
        let results = run(8, 4, &body).unwrap();
        for (cluster, words) in results.chunks(128).enumerate() {
            let sum = 32 * (1 + 2 + 3 + 4);
            let last = |lane: u32| sum * 1000 + 128 * cluster as u32 + 96 + lane;
            assert_eq!(words[..32], (0..32).map(last).collect::<Vec<_>>());
            let mut given = words[32..].to_vec();
            given.sort();
            given.dedup();
            assert!(given.len() == 96 && given[95] < 128, "{given:?}");
        }
    });
}

/// Blocks store into rank 0's memory and arrive at its mbarrier, which its threads wait for.
#[test]
fn arrivals_at_another_blocks_mbarrier() {
    on_hopper("clusters::arrivals_at_another_blocks_mbarrier", || {
        let body = format!(
            "setp.ne.u32 %p0, %r0, 0;\n@%p0 bra READY;\nmul.lo.u32 %r6, %r2, 64;\nsub.u32 %r6, %r6, 64;\nmbarrier.init.shared::cta.b64 [%r5], %r6;\n\
             fence.mbarrier_init.release.cluster;\nREADY:\nbarrier.cluster.arrive.relaxed;\nbarrier.cluster.wait.acquire;\n\
             setp.eq.u32 %p1, %r1, 0;\n@%p1 bra WAIT;\nmapa.shared::cluster.u32 %r7, memory, 0;\nmapa.shared::cluster.u32 %r8, flag, 0;\n\
             sub.u32 %r9, %r1, 1;\nshl.b32 %r9, %r9, 7;\nadd.u32 %r7, %r7, %r9;\nmad.lo.u32 %r7, %r0, 4, %r7;\nst.shared::cluster.u32 [%r7], %r3;\n\
             mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r8], 2;\nmov.u32 %r13, 7;\nbra END;\n\
             WAIT:\nmbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p2, [%r5], 0;\n@!%p2 bra WAIT;\n\
             mad.lo.u32 %r10, %r0, 4, %r4;\nmov.u32 %r11, 1;\nmov.u32 %r13, 0;\n\
             SUM:\nld.shared.u32 %r12, [%r10];\nadd.u32 %r13, %r13, %r12;\nadd.u32 %r10, %r10, 128;\nadd.u32 %r11, %r11, 1;\n\
             setp.lt.u32 %p3, %r11, %r2;\n@%p3 bra SUM;\nEND:\n{MEET}st.global.u32 [%rd0], %r13;"
        );
        let results = run(8, 4, &body).unwrap();
        for (cluster, words) in results.chunks(128).enumerate() {
            let sum = |lane: u32| (1..4).map(|rank| 32 * (4 * cluster as u32 + rank) + lane).sum::<u32>();
            assert_eq!(words[..32], (0..32).map(sum).collect::<Vec<_>>());
            assert_eq!(words[32..], [7; 96]);
        }
    });
}

/// Bulk copies from global memory into the next block, from shared memory into the next block, and into all blocks at once; each
/// ends at the receiver's mbarrier.
#[test]
fn bulk_copies_into_other_blocks() {
    on_hopper("clusters::bulk_copies_into_other_blocks", || {
        let frame = |copy: &str, expected: u32| {
            format!(
                "setp.ne.u32 %p0, %r0, 0;\nadd.u32 %r6, %r1, 1;\nrem.u32 %r6, %r6, %r2;\nmad.lo.u32 %r7, %r0, 4, %r4;\nadd.u32 %r8, %r3, 5000;\n\
                 st.shared.u32 [%r7+512], %r8;\n@%p0 bra READY;\nmbarrier.init.shared::cta.b64 [%r5], 1;\nfence.mbarrier_init.release.cluster;\n\
                 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r5], {expected};\nREADY:\nfence.proxy.async.shared::cta;\n{MEET}\
                 @%p0 bra SENT;\nmapa.shared::cluster.u32 %r9, memory, %r6;\nmapa.shared::cluster.u32 %r10, flag, %r6;\nmad.wide.u32 %rd1, %r1, 128, %rd1;\n\
                 {copy}\nSENT:\nWAIT:\nmbarrier.try_wait.parity.shared::cta.b64 %p1, [%r5], 0;\n@!%p1 bra WAIT;\nld.shared.u32 %r11, [%r7];\n{MEET}\
                 st.global.u32 [%rd0], %r11;"
            )
        };
        let before = |block: u32| block / 4 * 4 + (block + 3) % 4;
        let check = |copy: &str, expected: &dyn Fn(u32, u32) -> u32| {
            let results = run(8, 4, &frame(copy, 128)).unwrap();
            let expected: Vec<u32> = (0..256).map(|n| expected(n / 32, n % 32)).collect();
            assert_eq!(results, expected, "{copy}");
        };
        check(
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r9], [%rd1], 128, [%r10];",
            &|block, lane| before(block) % 4 * 32 + lane,
        );
        check(
            "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%r9], [%r4+512], 128, [%r10];",
            &|block, lane| before(block) * 32 + lane + 5000,
        );
        // The even ranks send halves to everybody.
        check(
            "and.b32 %r12, %r1, 1;\nsetp.ne.u32 %p2, %r12, 0;\n@%p2 bra SENT;\nshl.b32 %r13, %r1, 5;\nadd.u32 %r13, %r13, %r4;\nmov.u16 %mask, 15;\n\
             cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%r13], [%rd1], 64, [%r5], %mask;"
                .replace("mov.u16 %mask", ".reg .b16 %mask;\nmov.u16 %mask")
                .as_str(),
            &|_, lane| if lane < 16 { lane } else { 64 + lane - 16 },
        );
    });
}

#[test]
fn what_is_no_cluster_is_refused() {
    on_hopper("clusters::what_is_no_cluster_is_refused", || {
        let launch = |directives: &str, grid: [u32; 3], attributes: &[(u32, [u32; 3])]| {
            kernel(directives, "")?.launch_with(grid, [32, 1, 1], 0, &[0, 0], attributes)
        };
        assert_eq!(launch(".reqnctapercluster 2", [4, 1, 1], &[]), Ok(()));
        assert_eq!(launch("", [4, 2, 1], &[(CLUSTER, [2, 2, 1]), (2, [0; 3]), (8, [1, 0, 0])]), Ok(()));
        assert_eq!(launch(".reqnctapercluster 2", [5, 1, 1], &[]), Err(INVALID_CLUSTER_SIZE));
        assert_eq!(launch(".reqnctapercluster 2", [4, 1, 1], &[(CLUSTER, [4, 1, 1])]), Err(INVALID_CLUSTER_SIZE));
        assert_eq!(launch("", [16, 1, 1], &[(CLUSTER, [16, 1, 1])]), Err(INVALID_CLUSTER_SIZE));
        assert_eq!(launch(".maxclusterrank 2", [4, 1, 1], &[(CLUSTER, [4, 1, 1])]), Err(INVALID_CLUSTER_SIZE));
        assert_eq!(launch("", [4, 1, 1], &[(CLUSTER, [0, 1, 1])]), Err(INVALID_CLUSTER_SIZE));
        assert_eq!(launch(".explicitcluster", [4, 1, 1], &[]), Err(INVALID_CLUSTER_SIZE));
        assert_eq!(launch("", [4, 1, 1], &[(77, [0; 3])]), Err(NOT_SUPPORTED));
    });
}

#[test]
fn a_device_without_clusters_says_so() {
    let directives = ".reqnctapercluster 2";
    assert_eq!(kernel(directives, "").unwrap().launch([4, 1, 1], [32, 1, 1], 0, &[0, 0]), Err(NOT_SUPPORTED));
}

#[test]
fn wrong_uses_of_clusters_fail() {
    on_hopper("clusters::wrong_uses_of_clusters_fail", || {
        assert_eq!(run(4, 4, "mapa.shared::cluster.u32 %r6, memory, 4;"), Err(ILLEGAL_ADDRESS));
        let far = "mapa.shared::cluster.u32 %r6, memory, 3;\nst.shared::cluster.u32 [%r6+4000], %r0;";
        assert_eq!(run(4, 4, far), Err(ILLEGAL_ADDRESS));
        assert_eq!(run(4, 4, "barrier.cluster.arrive;\nbarrier.cluster.arrive;"), Err(LAUNCH_FAILED));
        assert_eq!(run(4, 4, "barrier.cluster.wait;"), Err(LAUNCH_FAILED));
        // Rank 0 has ended where the others come to its memory.
        let late = format!(
            "{MEET}setp.eq.u32 %p0, %r1, 0;\n@%p0 ret;\nmov.u32 %r7, 0;\nLATER:\nnanosleep.u32 20;\nadd.u32 %r7, %r7, 1;\nsetp.lt.u32 %p1, %r7, 20000;\n\
             @%p1 bra LATER;\nmapa.shared::cluster.u32 %r6, memory, 0;\nld.shared::cluster.u32 %r8, [%r6];"
        );
        assert_eq!(run(4, 4, &late), Err(ILLEGAL_ADDRESS));
    });
}

/// The barrier of a cluster counts threads that have ended as arrived, and lanes of one warp may arrive and wait apart.
#[test]
fn the_clusters_barrier_waits_for_all_that_have_not_ended() {
    on_hopper("clusters::the_clusters_barrier_waits_for_all_that_have_not_ended", || {
        let body = "setp.ge.u32 %p0, %r0, 20;\n@%p0 ret;\nmad.lo.u32 %r6, %r0, 4, %r4;\nand.b32 %r7, %r0, 1;\nsetp.eq.u32 %p1, %r7, 0;\n\
            mapa.shared::cluster.u32 %r8, %r6, 0;\nadd.u32 %r9, %r1, 1;\nmov.u32 %r10, 0;\nsetp.ne.u32 %p2, %r1, 0;\n@%p2 bra FIRST;\n\
            st.shared.u32 [%r6], %r10;\nFIRST:\n@%p1 bra EVEN;\nbarrier.cluster.arrive;\nadd.u32 %r10, %r10, 1;\nbarrier.cluster.wait;\nbra ADD;\n\
            EVEN:\nbarrier.cluster.arrive;\nadd.u32 %r10, %r10, 2;\nbarrier.cluster.wait;\nADD:\nred.shared::cluster.add.u32 [%r8], %r9;\n\
            barrier.cluster.arrive;\nbarrier.cluster.wait;\n@%p2 bra END;\nld.shared.u32 %r11, [%r6];\nmad.lo.u32 %r10, %r11, 10, %r10;\n\
            END:\nst.global.u32 [%rd0], %r10;";
        let results = run(2, 2, body).unwrap();
        for (n, word) in results.iter().enumerate() {
            let (rank, lane) = (n / 32, n % 32);
            let own = if lane % 2 == 0 { 2 } else { 1 };
            let expected = if lane >= 20 {
                u32::MAX
            } else if rank == 0 {
                30 + own
            } else {
                own
            };
            assert_eq!(*word, expected, "thread {n}");
        }
    });
}
