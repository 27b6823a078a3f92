//! Planted defects: each kernel of `planted/` has one, which the sanitizer names, and a mended sibling, which it passes.
//!
//! Lines that end with `// mend` are what the planted kernel lacks; lines behind `// plant:` are what it has in their place.

#[allow(dead_code, unused_imports, reason = "only kernels and memory are used here")]
#[path = "../common/mod.rs"]
mod common;

use common::{CudaError, Kernel, Memory};
use std::sync::{Mutex, Once};
use virtual_gpu::sanitize;

const THREADS: u32 = 64;
const ILLEGAL_ADDRESS: u32 = 700;
const MISALIGNED: u32 = 716;
const LAUNCH_FAILED: u32 = 719;
/// What a kernel comes to that breaks a rule of registers: it is not compiled.
const INVALID_PTX: u32 = 218;

/// What a planted kernel comes to.
enum Caught {
    /// The launch fails with this error.
    Fails(u32),
    /// The sanitizer finds this kind of defect, and says that this is missing.
    Found(&'static str, &'static str),
}
use Caught::{Fails, Found};

/// A kernel of `planted/`: its text, how many blocks run, in clusters of how many, and what it comes to.
struct Planted {
    name: &'static str,
    text: &'static str,
    blocks: u32,
    cluster: u32,
    caught: Caught,
}

macro_rules! planted {
    ($($name:ident $blocks:literal $(in $cluster:literal)? $caught:expr;)*) => {
        &[$(Planted {
            name: stringify!($name),
            text: include_str!(concat!("planted/", stringify!($name), ".ptx")),
            blocks: $blocks,
            cluster: 0 $(+ $cluster)?,
            caught: $caught,
        }),*]
    };
}

static ALL: &[Planted] = planted! {
    global_bounds 1 Fails(ILLEGAL_ADDRESS);
    global_alignment 1 Fails(MISALIGNED);
    global_uninitialised 1 Found("uninitialised read", "a write of these bytes");
    used_bytes 1 Found("uninitialised read", "a write of these bytes");
    shared_bounds 1 Fails(ILLEGAL_ADDRESS);
    shared_variable 1 Found("out of bounds", "each static variable ends");
    shared_uninitialised 1 Found("uninitialised read", "a write of these bytes");
    local_bounds 1 Fails(ILLEGAL_ADDRESS);
    local_uninitialised 1 Found("uninitialised read", "a write of these bytes");
    parameter_bounds 1 Fails(ILLEGAL_ADDRESS);
    barrier_between_warps 1 Found("race: read after write", "a barrier of the block");
    barrier_after_reads 1 Found("race: write after read", "a barrier of the block");
    warp_barrier 1 Found("race: read after write", "bar.warp.sync");
    halves_of_words 1 Found("race: read after write", "a barrier of the block");
    blocks_apart 2 Found("race: write after write", "two launches");
    atomics 2 Found("race: write after write", "between them");
    release_acquire 2 Found("race: read after write", "a fence and an atomic access");
    acquire 2 Found("race: read after write", "a fence and an atomic access");
    copy_wait 1 Found("race: read after write", "cp.async.wait_group before");
    copy_commit 1 Found("race: read after write", "cp.async.wait_group before");
    copy_barrier 1 Found("race: read after write", "cp.async.wait_group by the thread that copies, and then a barrier");
    copy_never_waited 1 Found("missing wait", "cp.async.wait_group");
    bulk_wait 1 Found("race: read after write", "the phase of the copy's mbarrier");
    bulk_phase 1 Found("race: read after write", "the phase of the copy's mbarrier");
    mbarrier_fence 1 Found("missing proxy fence", "after mbarrier.init");
    bulk_expect 1 Found("missing expect_tx", "expect_tx of its bytes");
    bulk_overwrites 1 Found("race: write after read", "between them");
    bulk_after_stores 1 Found("missing proxy fence", "after the write");
    divergent_barrier 1 Fails(LAUNCH_FAILED);
    different_barriers 1 Found("divergent barrier", "the same in the whole block");
    divergent_collective 1 Fails(LAUNCH_FAILED);
    arrive_before_the_write 1 Found("race: read after write", "a barrier of the block");
    arrive_takes_nothing 1 Found("race: write after read", "a barrier of the block");
    arrive_elsewhere 1 Fails(LAUNCH_FAILED);
    arrive_too_early 1 Found("race: read after write", "a barrier of the block");
    reduction_orders 1 Found("race: read after write", "a barrier of the block");
    shared_atomics 1 Found("race: write after write", "between them");
    mbarrier_init_known 1 Found("race: write after write", "a barrier of the block");
    mbarrier_relaxed 1 Found("race: read after write", "a barrier of the block (or an mbarrier)");
    mbarrier_drop 1 Found("race: read after write", "a barrier of the block (or an mbarrier)");
    wgmma_fence 1 Fails(INVALID_PTX);
    wgmma_commit 1 Fails(INVALID_PTX);
    wgmma_wait 1 Fails(INVALID_PTX);
    wgmma_wait_for_fewer 1 Fails(INVALID_PTX);
    wgmma_fragment 1 Fails(INVALID_PTX);
    wgmma_never_waited 1 Found("missing wait", "wgmma.wait_group");
    wgmma_never_committed 1 Found("missing wait", "wgmma.wait_group");
    wgmma_proxy 1 Found("missing proxy fence", "after the write");
    wgmma_overwritten 1 Found("race: write after read", "wgmma.wait_group by the warp that multiplies");
    wgmma_overwritten_by_others 1 Found("race: write after read", "wgmma.wait_group by the warp that multiplies");
    setmaxnreg_apart 1 Fails(LAUNCH_FAILED);
    cluster_barrier 2 in 2 Found("race: read after write", "barrier.cluster.arrive and wait");
    cluster_block_barrier 2 in 2 Found("race: read after write", "barrier.cluster.arrive and wait");
    cluster_relaxed 2 in 2 Found("race: read after write", "barrier.cluster.arrive and wait");
    cluster_fence 2 in 2 Found("race: read after write", "barrier.cluster.arrive and wait");
    cluster_behind_the_arrival 2 in 2 Found("race: read after write", "barrier.cluster.arrive and wait");
    cluster_end 2 in 2 Fails(ILLEGAL_ADDRESS);
    cluster_end_by_luck 2 in 2 Found("missing wait", "before the other block ends");
    cluster_uninitialised 2 in 2 Found("uninitialised read", "a write of these bytes");
    cluster_bounds 2 in 2 Fails(ILLEGAL_ADDRESS);
    cluster_stores 2 in 2 Found("race: write after write", "barrier.cluster.arrive and wait");
    cluster_atomics 2 in 2 Found("race: write after write", "between them");
    cluster_arrival 2 in 2 Found("race: read after write", ".release.cluster and .acquire.cluster");
    cluster_wait 2 in 2 Found("race: read after write", ".release.cluster and .acquire.cluster");
    cluster_init 2 in 2 Found("race: write after write", "barrier.cluster.arrive and wait");
    cluster_init_fence 2 in 2 Found("race: write after write", "barrier.cluster.arrive and wait");
    cluster_init_fence_of_mbarriers 2 in 2 Found("race: read after write", "barrier.cluster.arrive and wait");
    cluster_bulk_wait 2 in 2 Found("race: read after write", "the phase of the copy's mbarrier");
    cluster_bulk_proxy 2 in 2 Found("missing proxy fence", "after the write");
    cluster_bulk_source 2 in 2 Found("race: write after read", "barrier.cluster.arrive and wait");
};

/// Has the device of this process watch launches, and run their blocks in order.
fn watched() {
    static ONCE: Once = Once::new();
    // Safety: no test of this binary calls the driver, or reads the environment, before this.
    ONCE.call_once(|| unsafe {
        std::env::set_var("VIRTUAL_GPU_SANITIZE", "memory");
        std::env::set_var("VIRTUAL_GPU_STICKY", "0");
        std::env::set_var("VIRTUAL_GPU_ARCH", "90a");
        std::env::set_var("VIRTUAL_GPU_THREADS", "1");
    });
}

impl Planted {
    /// The kernel with its defect or mended, under a name of its own.
    fn module(&self, defect: bool) -> (String, String) {
        let line = |line: &'static str| {
            let (planted, mend) = (line.strip_prefix("// plant:"), line.ends_with("// mend"));
            match defect {
                true => planted.or((!mend).then_some(line)),
                false => planted.is_none().then_some(line),
            }
        };
        let body: Vec<&str> = self.text.lines().filter_map(line).collect();
        let name = format!("{}_{}", self.name, if defect { "planted" } else { "mended" });
        let head = ".version 8.7\n.target sm_90a\n.address_size 64\n.extern .shared .align 16 .b8 dynamic[];\n";
        let entry = format!(".visible .entry {name}(\n.param .u64 p0,\n.param .u64 p1\n)");
        let cluster = if self.cluster > 0 { format!("\n.reqnctapercluster {}", self.cluster) } else { String::new() };
        (format!("{head}{entry}{cluster}\n{{\n{}\nret;\n}}\n", body.join("\n")), name)
    }

    /// Launches it; what the driver answered and what the sanitizer said.
    fn run(&self, defect: bool) -> (Result<(), CudaError>, Vec<String>) {
        // Findings are kept by kernel: no other test may run this one now.
        static ONE: Mutex<()> = Mutex::new(());
        let _one = ONE.lock();
        let (text, name) = self.module(defect);
        // 48 words less than the threads want, and one allocation that is not written
        let words = if self.name == "global_bounds" { 48 } else { 4 * 64 };
        let input = Memory::new(&vec![0u32; words]);
        let flag = if self.name.contains("acquire") { Memory::new(&[0u32]) } else { Memory::<u32>::unwritten(256) };
        let kernel = Kernel::load(&text, &name).unwrap();
        let threads = if self.text.contains("wgmma") || self.text.contains("setmaxnreg") { 128 } else { THREADS };
        let result = kernel.launch([self.blocks, 1, 1], [threads, 1, 1], 128, &[input.address(), flag.address()]);
        (result, sanitize::take(&name))
    }
}

#[test]
fn every_planted_defect_is_caught_and_every_mended_kernel_passes() {
    watched();
    let mut wrong = vec![];
    for planted in ALL {
        let (result, said) = planted.run(true);
        let caught = match planted.caught {
            Fails(code) => result == Err(CudaError(code)),
            Found(kind, missing) => said.iter().any(|s| s.contains(kind) && s.contains(missing)),
        };
        if !caught {
            wrong.push(format!("{} planted: {result:?}, said {said:#?}", planted.name));
        }
        let (result, said) = planted.run(false);
        if result != Ok(()) || !said.is_empty() {
            wrong.push(format!("{} mended: {result:?}, said {said:#?}", planted.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_finding_names_the_line_the_threads_and_the_other_access() {
    watched();
    let planted = ALL.iter().find(|p| p.name == "warp_barrier").unwrap();
    let (text, _) = planted.module(true);
    let line = |what: &str| text.lines().position(|l| l.starts_with(what)).unwrap() + 1;
    let (_, said) = planted.run(true);
    let said = said.join("\n");
    let reader = format!(
        "ld.shared.u32 by thread 0 of block [0, 0, 0] at an unknown source line, PTX line {}",
        line("ld.shared")
    );
    let writer = format!(
        "st.shared.u32 by thread 1 of block [0, 0, 0] at an unknown source line, PTX line {}",
        line("st.shared")
    );
    assert!(said.contains(&format!("{reader}; the other is {writer}")), "{said}");
}
