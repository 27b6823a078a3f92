//! Warps: 32 lanes per register, one instruction at a time.

mod access;
mod atomics;
mod barrier;
mod collective;
mod copies;
mod float;
pub mod forms;
pub mod hopper;
mod matrix;
mod memory;
pub mod tensor;

pub use access::*;
pub use atomics::*;
pub use barrier::*;
pub use collective::*;
pub use copies::*;
pub use matrix::*;
pub use memory::*;

use crate::count::Stats;
use crate::sanitize::Guard;

pub const FULL: u32 = !0;
pub const SHARED_BASE: u32 = 1024;

pub type OpFn = unsafe fn(&mut Warp, &Inst);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    Plain,
    Enter, // start of a basic block
    Bra,   // target in imm
    BraIf, // r0 predicate, neg, target
    Sync,  // warp collective: all live lanes (or the mask register r0 of `imm` != 0) must be here, then f
    Bar,   // `come` to a barrier, with all live lanes
    Meet,  // `cluster_wait`
    Ret,
    Trap,
    Yield,   // f, then let other warps run
    Guarded, // plain with a guard
    Mem,     // plain that may fault
}

#[derive(Clone)]
pub struct Inst {
    pub f: OpFn,
    pub r: [u32; 4],
    pub ext: *const u32,
    pub imm: i64,
    pub target: u32,
    pub guard: u32, // predicate
    pub loc: u32,
    pub mem: u32, // number of the memory instruction, for its cached interval
    pub size: u8, // bytes of one element
    pub count: u8,
    pub kind: Kind,
    pub neg: bool,     // the guard, negated
    pub extends: bool, // elements of a load or store are narrower than their 64-bit registers
    pub guarded: bool,
    pub signed: bool,
    /// Whether it is one of the PTX; else it helps to execute one.
    pub counted: bool,
    /// Of a strong access or an atomic operation: `ACQUIRE`, `RELEASE`, `WIDE`, `STRONG`.
    pub order: u8,
}

/// An atomic read that acquires.
pub const ACQUIRE: u8 = 1;
/// An atomic write that releases.
pub const RELEASE: u8 = 2;
/// An access in the scope of the cluster, the device or the system, not of the block alone.
pub const WIDE: u8 = 4;
/// A strong access.
pub const STRONG: u8 = 8;
unsafe impl Send for Inst {}
unsafe impl Sync for Inst {}

pub const NONE: u32 = u32::MAX;

/// Does nothing.
///
/// # Safety
/// None is needed; the type is that of every instruction's function.
pub unsafe fn nop(_: &mut Warp, _: &Inst) {}

#[derive(Clone, Copy)]
pub struct Group {
    pub pc: u32,
    pub mask: u32,
    pub blocked: bool,
}

/// Asynchronous copies of a warp that have not landed.
pub struct Pending {
    pub mask: u32,
    pub group: [u32; 32],
    pub dst: [u32; 32],
    pub src: [u64; 32],
    pub bytes: [u32; 32],
    pub size: u32,
}

pub struct Fault {
    pub code: u32, // CUresult
    pub lane: u32,
    pub text: String,
}

/// What all warps of a block see.
pub struct BlockEnv {
    pub shared: Vec<u8>,
    pub shared_end: u32,
    pub params: *const u8,
    pub params_bytes: usize,
    pub allocs: *const Vec<(u64, u64)>,
    pub cache: Vec<(u64, u64)>, // per memory instruction
    pub stats: Option<Box<Stats>>,
    /// The sanitizer's view of the block, if it is on.
    pub guard: Option<Box<Guard>>,
    /// Whether counters or the sanitizer look on.
    pub watched: bool,
    /// The first instruction of the kernel.
    pub code: *const Inst,
    /// Addresses of the mbarriers.
    pub bars: Vec<u32>,
    pub barriers: [Barrier; BARRIERS],
    /// Barriers that are complete, whose warps wait still.
    pub met: Vec<Barrier>,
    pub peers: crate::warp::hopper::Peers,
    pub bulk: Vec<crate::warp::hopper::Bulk>,
    pub warpgroups: Vec<crate::warp::hopper::Warpgroup>,
    pub spins: u64,
    pub dice: crate::launch::Dice,
}

pub struct Warp {
    pub regs: *mut u32,
    pub consts: *const u32,
    pub mask: u32,
    pub preds: Vec<u32>,
    pub special: Box<[[u32; 32]; SPECIAL_REGISTERS]>,
    pub env: *mut BlockEnv,
    pub fault: Option<Box<Fault>>,
    pub live: u32,
    pub pc: u32,
    /// Instructions on the longest way to here: those who wait at a barrier go on from the most that one of them had.
    pub path: u64,
    pub others: Vec<Group>,
    /// The current group goes on at the next block, though others are at lower program counters.
    pub favoured: bool,
    pub local: Vec<u8>,
    pub local_bytes: usize,
    pub pending: Vec<Pending>,
    pub commits: [u32; 32],
    /// The carry flag `CC.CF` of each lane.
    pub carry: u32,
    pub index: u32,
    pub state: State,
    /// The instruction that was just run waits: its lanes try it again.
    pub suspended: bool,
    pub behind: Behind,
    pub storage: Vec<Slot>,
    pub products: Vec<crate::warp::hopper::InFlight>,
    pub wgroup: u32,
    pub cluster: AtCluster,
}

/// Lanes that sleep at a wait while all others go on.
#[derive(Clone, Copy, Default)]
pub struct Behind {
    pub lanes: u32,
    /// Turns of the block that they still sleep.
    pub turns: u32,
}

impl Behind {
    pub fn has(&self, lanes: u32) -> bool {
        self.lanes & lanes != 0
    }
    /// A turn of the block begins: lanes that have slept long enough go on with the others.
    pub fn turn(&mut self) {
        self.turns = self.turns.saturating_sub(1);
        if self.turns == 0 {
            self.lanes = 0;
        }
    }
}

/// Special registers of a warp.
pub const SPECIAL_REGISTERS: usize = 36;

/// Lanes that have arrived at the barrier of their cluster, and those that it lets go on and that have not waited yet.
#[derive(Clone, Copy, Default)]
pub struct AtCluster {
    pub arrived: u32,
    pub released: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    Ready,
    /// At a barrier of this number.
    AtBarrier(u32),
    /// At the barrier of its cluster.
    AtCluster,
    Done,
}

#[derive(Clone, Copy)]
#[repr(C, align(128))]
pub struct Slot(pub [u32; 32]);

pub trait Lane: Copy + Default {
    const D: bool;
    const HOLD: forms::Hold = if Self::D { forms::Hold::Double } else { forms::Hold::Word };
    /// The value of lane `l` of a register.
    ///
    /// # Safety
    /// The register is as wide as the type.
    unsafe fn at(p: *const u32, l: usize) -> Self;
    /// Sets lane `l` of a register.
    ///
    /// # Safety
    /// The register is as wide as the type.
    unsafe fn put(p: *mut u32, l: usize, v: Self);
}
macro_rules! lane {
    ($t:ty, $d:expr, $w:ty, |$x:ident| $to:expr, |$y:ident| $from:expr) => {
        impl Lane for $t {
            const D: bool = $d;
            #[inline(always)]
            unsafe fn at(p: *const u32, l: usize) -> $t {
                let $y = unsafe { *(p as *const $w).add(l) };
                $from
            }
            #[inline(always)]
            unsafe fn put(p: *mut u32, l: usize, $x: $t) {
                unsafe { *(p as *mut $w).add(l) = $to }
            }
        }
    };
}
lane!(u32, false, u32, |x| x, |y| y);
lane!(i32, false, u32, |x| x as u32, |y| y as i32);
lane!(f32, false, f32, |x| x, |y| y);
lane!(u16, false, u32, |x| x as u32, |y| y as u16);
lane!(i16, false, u32, |x| x as u16 as u32, |y| y as u16 as i16);
lane!(u8, false, u32, |x| x as u32, |y| y as u8);
lane!(i8, false, u32, |x| x as u8 as u32, |y| y as u8 as i8);
lane!(u64, true, u64, |x| x, |y| y);
lane!(i64, true, u64, |x| x as u64, |y| y as i64);
lane!(f64, true, f64, |x| x, |y| y);

/// Writes a register's lanes of `mask`. What the others hold stays whole: it may be another variable, wider than `T`.
///
/// # Safety
/// `register` is a register of 32 lanes as wide as `T`.
#[inline(always)]
unsafe fn put_lanes<T: Lane>(register: *mut u32, values: &[T; 32], mask: u32) {
    unsafe {
        if mask == FULL {
            for l in 0..32 {
                T::put(register, l, values[l]);
            }
            return;
        }
        let mut new = [0u64; 32];
        for l in 0..32 {
            T::put(new.as_mut_ptr() as *mut u32, l, values[l]);
        }
        if T::D {
            let register = &mut *(register as *mut [u64; 32]);
            for l in 0..32 {
                register[l] = if mask >> l & 1 != 0 { new[l] } else { register[l] };
            }
        } else {
            let (register, new) = (&mut *(register as *mut [u32; 32]), &*(new.as_ptr() as *const [u32; 64]));
            for l in 0..32 {
                register[l] = if mask >> l & 1 != 0 { new[l] } else { register[l] };
            }
        }
    }
}

impl Warp {
    /// The 32 lanes of an operand: a register, or a constant where the top bit is set.
    ///
    /// # Safety
    /// The register is one of the kernel of this warp.
    #[inline(always)]
    pub unsafe fn p(&self, r: u32) -> *const u32 {
        let base = if (r as i32) < 0 { self.consts } else { self.regs as *const u32 };
        unsafe { base.add(((r & 0x7fff_ffff) as usize) * 32) }
    }
    /// The 32 lanes of a register that is written.
    ///
    /// # Safety
    /// The register is one of the kernel of this warp.
    #[inline(always)]
    pub unsafe fn pm(&self, r: u32) -> *mut u32 {
        unsafe { self.regs.add(r as usize * 32) }
    }
    /// Writes the lanes of the mask of a register.
    ///
    /// # Safety
    /// The register is one of the kernel of this warp.
    #[inline(always)]
    pub unsafe fn put<T: Lane>(&mut self, r: u32, v: &[T; 32]) {
        unsafe {
            put_lanes(self.pm(r), v, self.mask);
        }
    }
    #[inline(always)]
    pub fn put_pred(&mut self, p: u32, v: u32) {
        let m = self.mask;
        let d = &mut self.preds[p as usize];
        *d = (*d & !m) | (v & m);
    }
    #[inline(always)]
    pub fn pred(&self, p: u32) -> u32 {
        // constants: 0 false, top bit with 1: true
        if (p as i32) < 0 { 0u32.wrapping_sub(p & 1) } else { self.preds[p as usize] }
    }
    #[cold]
    pub fn fail(&mut self, code: u32, lane: u32, text: String) {
        if self.fault.is_none() {
            self.fault = Some(Box::new(Fault { code, lane, text }));
        }
    }
    #[inline(always)]
    pub fn env(&mut self) -> &mut BlockEnv {
        unsafe { &mut *self.env }
    }
}

pub const ILLEGAL_ADDRESS: u32 = 700;
pub const MISALIGNED: u32 = 716;
pub const LAUNCH_FAILED: u32 = 719;
pub const ILLEGAL_INSTRUCTION: u32 = 715;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_that_are_not_written_keep_every_bit() {
        let mut narrow = Slot([0xdead_beef; 32]);
        // Safety: one register of 32 lanes.
        unsafe { put_lanes::<i16>(narrow.0.as_mut_ptr(), &[-2; 32], 0x0000_00f1) };
        let mut wide = [u64::MAX; 32];
        // Safety: one register of 32 lanes of 64 bits.
        unsafe { put_lanes::<f64>(wide.as_mut_ptr() as *mut u32, &[1.5; 32], 0x8000_0000) };
        for lane in 0..32 {
            assert_eq!(narrow.0[lane], if 0xf1 >> lane & 1 != 0 { 0xfffe } else { 0xdead_beef }, "lane {lane}");
            assert_eq!(wide[lane], if lane == 31 { 1.5f64.to_bits() } else { u64::MAX }, "lane {lane}");
        }
    }
}
