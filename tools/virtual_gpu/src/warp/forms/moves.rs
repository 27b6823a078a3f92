//! Moves between registers, packing and unpacking (PTX ISA, `mov` of "Data Movement and Conversion Instructions").

use super::*;
use crate::warp::NONE;

pub const TABLES: &[&[Row]] = &[MOVES];

/// A register of 32 or 64 bits as it is.
macro_rules! copy {
    ($t:ty) => {{
        #[inline(always)]
        unsafe fn body(warp: &mut Warp, inst: &Inst) {
            unsafe {
                let values = *(warp.p(inst.r[1]) as *const [$t; 32]);
                warp.put::<$t>(inst.r[0], &values);
            }
        }
        code!(body, [Place::To(<$t as Lane>::HOLD), Place::From(<$t as Lane>::HOLD)])
    }};
}

// Generic addresses of global and local memory are the addresses themselves.
const MOVES: &[Row] = forms! {
    "mov.pred" => predicates!(|a| a);
    "mov.(b16|u16|s16|f16|bf16|b32|u32|s32|f32|f16x2|bf16x2)" => copy!(u32);
    "mov.(b64|u64|s64|f64)" => copy!(u64);
};

/// `mov` from a special register.
///
/// # Safety
/// `imm` is the number of a special register.
pub unsafe fn mov_special(warp: &mut Warp, inst: &Inst) {
    unsafe {
        let values = warp.special[inst.imm as usize];
        warp.put::<u32>(inst.r[0], &values);
    }
}

/// `mov` from a special register into one of 64 bits.
///
/// # Safety
/// `imm` is the number of a special register.
pub unsafe fn mov_special64(warp: &mut Warp, inst: &Inst) {
    unsafe {
        let values = warp.special[inst.imm as usize].map(u64::from);
        warp.put::<u64>(inst.r[0], &values);
    }
}

/// Packs `count` parts of `size` bits, the first lowest, into a register of 32 bits, or of 64 where `signed` says so: `mov.b32 d, {a, b}`.
///
/// # Safety
/// `ext` points to the destination and `count` sources of one slot each.
pub unsafe fn pack(warp: &mut Warp, inst: &Inst) {
    unsafe {
        let operands = std::slice::from_raw_parts(inst.ext, 1 + inst.count as usize);
        let bits = inst.size as u32;
        let mut packed = [0u64; 32];
        for (n, part) in operands[1..].iter().enumerate() {
            let part = warp.p(*part);
            for (l, lane) in packed.iter_mut().enumerate() {
                *lane |= (u32::at(part, l) as u64 & (u64::MAX >> (64 - bits))) << (n as u32 * bits);
            }
        }
        if inst.signed {
            warp.put::<u64>(operands[0], &packed);
        } else {
            warp.put::<u32>(operands[0], &packed.map(|lane| lane as u32));
        }
    }
}

/// Unpacks a register of 32 bits, or of 64 where `signed` says so, into `count` parts of `size` bits, the first lowest: `mov.b32 {d, e}, a`.
///
/// # Safety
/// `ext` points to `count` destinations of one slot each, any of which may be `NONE`, and the source.
pub unsafe fn unpack(warp: &mut Warp, inst: &Inst) {
    unsafe {
        let operands = std::slice::from_raw_parts(inst.ext, 1 + inst.count as usize);
        let (source, bits) = (operands[inst.count as usize], inst.size as u32);
        let packed: [u64; 32] = if inst.signed {
            *(warp.p(source) as *const [u64; 32])
        } else {
            (*(warp.p(source) as *const [u32; 32])).map(u64::from)
        };
        for (n, to) in operands[..inst.count as usize].iter().enumerate() {
            if *to != NONE {
                let part = packed.map(|lane| (lane >> (n as u32 * bits) & (u64::MAX >> (64 - bits))) as u32);
                warp.put::<u32>(*to, &part);
            }
        }
    }
}
