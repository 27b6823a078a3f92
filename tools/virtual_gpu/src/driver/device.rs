//! The one device: its name, its attributes, and what a kernel can have of it.

use super::error::{Code, Done, give};
use crate::config::config;
use crate::profile::Profile;
use std::ffi::{c_char, c_int, c_uint};

/// Shared memory that a block may have without asking, bytes.
pub const SHARED_BY_DEFAULT: u32 = 48 << 10;
/// Threads of a block at most.
pub const BLOCK_THREADS: u32 = 1024;

/// The chip of this process.
pub fn chip() -> &'static Profile {
    Profile::of(config().arch.capability())
}

/// Whether blocks can run in clusters.
pub fn has_clusters() -> bool {
    config().arch.capability() >= 90
}

/// Checks an ordinal of a device.
pub fn known(ordinal: c_int) -> Done {
    if ordinal == 0 { Ok(()) } else { Err(Code::INVALID_DEVICE) }
}

/// Writes the device's name, cut to `length` bytes with its end.
///
/// # Safety
/// `name` has `length` bytes.
pub unsafe fn name(name: *mut c_char, length: c_int) -> Done {
    // Safety: the caller's.
    unsafe {
        if name.is_null() || length <= 0 {
            return Err(Code::INVALID_VALUE);
        }
        let text = format!("Virtual GPU sm_{}", config().arch.capability());
        let kept = text.len().min(length as usize - 1);
        std::ptr::copy_nonoverlapping(text.as_ptr(), name.cast(), kept);
        name.add(kept).write(0);
        Ok(())
    }
}

/// Writes the sixteen bytes that name the device.
///
/// # Safety
/// `uuid` is null or has sixteen bytes.
pub unsafe fn uuid(uuid: *mut u8) -> Done {
    // Safety: the caller's.
    unsafe { give(uuid.cast(), *b"x2ct virtual GPU") }
}

/// An attribute by its number in `CUdevice_attribute`; those that the device has nothing of are 0.
pub fn attribute(number: c_uint) -> c_int {
    let chip = chip();
    let value = match number {
        1..=3 => BLOCK_THREADS,                // MAX_THREADS_PER_BLOCK, MAX_BLOCK_DIM_X and _Y
        4 => 64,                               // MAX_BLOCK_DIM_Z
        5 => i32::MAX as u32,                  // MAX_GRID_DIM_X
        6 | 7 => 65535,                        // MAX_GRID_DIM_Y and _Z
        8 => SHARED_BY_DEFAULT,                // MAX_SHARED_MEMORY_PER_BLOCK
        9 => 65536,                            // TOTAL_CONSTANT_MEMORY
        10 => 32,                              // WARP_SIZE
        12 | 82 => chip.registers,             // MAX_REGISTERS_PER_BLOCK and _PER_MULTIPROCESSOR
        13 => (chip.clock / 1e3) as u32,       // CLOCK_RATE, kilohertz
        14 => 512,                             // TEXTURE_ALIGNMENT
        16 => chip.multiprocessors,            // MULTIPROCESSOR_COUNT
        19 | 31 | 40 | 41 => 1, // CAN_MAP_HOST_MEMORY, CONCURRENT_KERNELS, ASYNC_ENGINE_COUNT, UNIFIED_ADDRESSING
        38 => chip.l2,          // L2_CACHE_SIZE
        39 => chip.threads,     // MAX_THREADS_PER_MULTIPROCESSOR
        75 => config().arch.capability() / 10, // COMPUTE_CAPABILITY_MAJOR
        76 => config().arch.capability() % 10, // COMPUTE_CAPABILITY_MINOR
        81 => chip.shared(),    // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
        95 => 1,                // COOPERATIVE_LAUNCH
        97 => chip.shared_of_block, // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
        106 => chip.blocks,     // MAX_BLOCKS_PER_MULTIPROCESSOR
        111 => 1024,            // RESERVED_SHARED_MEMORY_PER_BLOCK
        115 => config().pools as u32, // MEMORY_POOLS_SUPPORTED
        120 => has_clusters() as u32, // CLUSTER_LAUNCH
        _ => 0,
    };
    value as c_int
}
