//! A virtual CUDA GPU: executes PTX behind the CUDA driver interface, on a processor.
//!
//! Built as a library that takes the place of `libcuda.so.1` and of `libcublasLt.so.13`, so that a program with PTX in its
//! fatbins runs unchanged. `tools/virtual_gpu.sh` builds everything and runs a command with it. Settings are variables of
//! the environment; a name or a value that is not in this table makes `cuInit` fail and is printed:
//!
//! | Variable | Meaning |
//! |---|---|
//! | `VIRTUAL_GPU_ARCH=80\|90a` | The chip: an A100 of compute capability 8.0 (where nothing is said), or an H200 of 9.0 that also runs what exists for `sm_90a` alone. |
//! | `VIRTUAL_GPU_SEED=N` | Chooses what a GPU leaves open: the order of streams, of a graph's nodes, of blocks and warps, which lanes sleep at a wait while all others go on, and when asynchronous copies land. 0 runs a stream only when it is waited for. |
//! | `VIRTUAL_GPU_THREADS=N` | Threads of the processor for the blocks of a launch; as many as it has cores where nothing is said. |
//! | `VIRTUAL_GPU_MEMORY=MIB` | Memory of the device; 6144 where nothing is said. |
//! | `VIRTUAL_GPU_PTX=FILE` | PTX text that takes the place of the module that has its first entry, to try a change without a build. |
//! | `VIRTUAL_GPU_SANITIZE=CHECKS` | `all`, or a list of `memory` (races, reads of what nobody wrote, missing fences and waits) and `leaks` (what is left when the context or the process ends). With `fail` in the list a launch that has findings fails, and the process ends with 86. |
//! | `VIRTUAL_GPU_STICKY=0` | A failed kernel leaves the context usable, and the thread that launched it learns of it when it waits; on a GPU every later call fails. |
//! | `VIRTUAL_GPU_POOLS=0` | The device has no memory pools. |
//! | `VIRTUAL_GPU_KERNELS=FILE` | Names of the kernels launched, one a line, are appended at exit. |
//! | `VIRTUAL_GPU_COUNT=FILE` | Counters of every kernel, one JSON object a line, are written at exit ([`count`]). |
//! | `VIRTUAL_GPU_SAMPLE=N` | Runs N blocks of a launch and no more, for counters: results are wrong. |
//! | `VIRTUAL_GPU_TENSOR_STEP=4\|8\|16\|exact` | Products that tensor cores add before they cut the sum, or sums that are rounded once; as the chip does where nothing is said. |
//! | `VIRTUAL_GPU_APPROXIMATE_ERROR=1` | The `.approx` instructions err as far as they may. |
//! | `VIRTUAL_GPU_TRACE=1` | Prints a line for each launch. |
//! | `VIRTUAL_GPU_EAGER=1` | Compiles every kernel of a module when the module is loaded. |
//! | `VIRTUAL_GPU_SPEED=1` | Prints the speed of execution at exit. |
#![allow(non_snake_case, reason = "the driver's functions have C names")]

pub mod config;
pub mod count;
pub mod driver;
pub mod launch;
pub mod lower;
pub mod profile;
pub mod ptx;
pub mod sanitize;
pub mod warp;
