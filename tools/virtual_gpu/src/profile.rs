//! Chips: what a program may ask of one, and the rates that bound what is counted.

/// A chip's sizes and rates. Rates are of the whole chip, or per multiprocessor and clock in instructions of a warp.
pub struct Profile {
    /// Name of the product whose sizes these are.
    pub product: &'static str,
    /// Compute capability as 80 or 90.
    pub capability: u32,
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Boost clock of a multiprocessor, hertz.
    pub clock: f64,
    /// Threads that one multiprocessor holds.
    pub threads: u32,
    /// Blocks that one multiprocessor holds.
    pub blocks: u32,
    /// Registers of 32 bits of one multiprocessor.
    pub registers: u32,
    /// L1 cache and shared memory of one multiprocessor together, bytes.
    pub l1_and_shared: u32,
    /// Splits that the hardware knows: bytes that shared memory takes.
    pub shared_splits: &'static [u32],
    /// Shared memory that a block can opt in to, bytes.
    pub shared_of_block: u32,
    /// L2 cache, bytes.
    pub l2: u32,
    /// DRAM traffic, bytes a second, reads and writes together.
    pub dram_rate: f64,
    /// L2 traffic, bytes a second.
    pub l2_rate: f64,
    /// Instructions that a multiprocessor issues a clock.
    pub issue: f64,
    /// f32 instructions a clock.
    pub f32_rate: f64,
    /// f64 instructions a clock.
    pub f64_rate: f64,
    /// Special functions (ex2, lg2, rcp, rsqrt, sin, cos, tanh) a clock.
    pub sfu_rate: f64,
    /// Dense tensor-core products of 16-bit operands, floating-point operations a second.
    pub half_rate: f64,
    /// Dense tensor-core products of TF32 operands, floating-point operations a second.
    pub tf32_rate: f64,
}

const KIB: u32 = 1024;
const MIB: u32 = 1024 * KIB;

const AMPERE_SPLITS: &[u32] = &[0, 8 * KIB, 16 * KIB, 32 * KIB, 64 * KIB, 100 * KIB, 132 * KIB, 164 * KIB];
const HOPPER_SPLITS: &[u32] =
    &[0, 8 * KIB, 16 * KIB, 32 * KIB, 64 * KIB, 100 * KIB, 132 * KIB, 164 * KIB, 196 * KIB, 228 * KIB];

/// A100 with 80 GB: published figures.
static A100: Profile = Profile {
    product: "A100",
    capability: 80,
    multiprocessors: 108,
    clock: 1.41e9,
    threads: 2048,
    blocks: 32,
    registers: 65536,
    l1_and_shared: 192 * KIB,
    shared_splits: AMPERE_SPLITS,
    shared_of_block: 163 * KIB,
    l2: 40 * MIB,
    dram_rate: 2.04e12,
    l2_rate: 5.1e12,
    issue: 4.0,
    f32_rate: 2.0,
    f64_rate: 1.0,
    sfu_rate: 0.5,
    half_rate: 312e12,
    tf32_rate: 156e12,
};

/// H200: DRAM and tensor-core rates are those that programs reach (a copy, a product of random data), the rest is published.
static H200: Profile = Profile {
    product: "H200",
    capability: 90,
    multiprocessors: 132,
    clock: 1.98e9,
    threads: 2048,
    blocks: 32,
    registers: 65536,
    l1_and_shared: 256 * KIB,
    shared_splits: HOPPER_SPLITS,
    shared_of_block: 227 * KIB,
    l2: 60 * MIB,
    dram_rate: 4.3e12,
    l2_rate: 12e12,
    issue: 4.0,
    f32_rate: 4.0,
    f64_rate: 2.0,
    sfu_rate: 0.5,
    half_rate: 790e12,
    tf32_rate: 395e12,
};

impl Profile {
    /// The chip of a compute capability: the A100 for 80, the H200 for others.
    pub fn of(capability: u32) -> &'static Profile {
        if capability == A100.capability { &A100 } else { &H200 }
    }

    /// Shared memory of one multiprocessor, bytes, of which each block takes 1 KiB beyond what it asks for.
    pub fn shared(&self) -> u32 {
        *self.shared_splits.last().expect("a chip has splits")
    }

    /// Blocks that are resident on one multiprocessor: by threads, by shared memory, by registers.
    pub fn resident_blocks(&self, threads: u32, shared: u32, registers: u32) -> u32 {
        let warps = threads.div_ceil(32).max(1);
        let by_threads = self.threads / 32 / warps;
        let by_shared = self.shared() / (shared + KIB);
        // A warp's registers are given out by 256, and each of the four parts has a quarter of them.
        let of_warp = (registers.max(1) * 32).next_multiple_of(256);
        let by_registers = self.registers / 4 / of_warp * 4 / warps;
        by_threads.min(by_shared).min(by_registers).min(self.blocks)
    }

    /// L1 cache that is left of a multiprocessor whose blocks take `shared` bytes together.
    pub fn l1(&self, shared: u32) -> u32 {
        let split = self.shared_splits.iter().copied().find(|split| *split >= shared).unwrap_or(self.shared());
        self.l1_and_shared - split
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn residency_is_the_scarcest_resource() {
        let chip = Profile::of(90);
        assert_eq!(chip.resident_blocks(256, 0, 32), 8);
        assert_eq!(chip.resident_blocks(256, 0, 72), 3);
        assert_eq!(chip.resident_blocks(128, 43008, 116), 4);
        assert_eq!(chip.resident_blocks(32, 0, 16), 32);
        assert_eq!(chip.resident_blocks(32, 0, 168), 12);
        assert_eq!(chip.resident_blocks(128, 80 * KIB, 32), 2);
        assert_eq!(Profile::of(80).resident_blocks(128, 43008, 114), 3);
    }

    #[test]
    fn shared_memory_is_split_in_the_hardware_s_steps() {
        assert_eq!(Profile::of(90).l1(0), 256 * KIB);
        assert_eq!(Profile::of(90).l1(33 * KIB), 192 * KIB);
        assert_eq!(Profile::of(80).l1(164 * KIB), 28 * KIB);
    }
}
