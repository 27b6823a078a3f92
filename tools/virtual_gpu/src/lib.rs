//! A virtual CUDA GPU: libcuda.so.1 whose device is this processor.
//!
//! VGPU_CC=80|90 which chip; VGPU_THREADS=n; VGPU_STATS=1 counters at exit; VGPU_RACE=1 shared-memory races; VGPU_BARS=1 (with it) barriers that nothing needed;
//! VGPU_ORDER=0|1|2 order of warps and blocks; VGPU_STICKY=1 a failed kernel ends the context; VGPU_MEM=MiB;
//! VGPU_TRACE=1 one line per launch;
//! VGPU_SAMPLE=n runs only n blocks of a launch (for counters; results are wrong);
//! VGPU_LAZY=1 streams run only when they are waited for; VGPU_GLOBAL=1 races and uninitialised reads of global memory;
//! VGPU_HW=1 the truncation of tensor cores (VGPU_HW_BITS more bits while adding), 2 errors of ex2.approx, 3 both.
#![allow(non_snake_case, clippy::missing_safety_doc)]
#![allow(unsafe_op_in_unsafe_fn)]

pub mod config;
pub mod count;
pub mod driver;
pub mod launch;
pub mod lower;
pub mod ptx;
pub mod warp;
