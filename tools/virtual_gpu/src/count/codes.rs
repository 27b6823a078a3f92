//! Numbers that the lowering writes into instructions; the counters go by opcodes.

pub const C_FP32: u8 = 0;
pub const C_FP64: u8 = 1;
pub const C_INT: u8 = 2;
pub const C_CVT: u8 = 3;
pub const C_MOV: u8 = 4;
pub const C_PRED: u8 = 5;
pub const C_BRA: u8 = 6;
pub const C_GLOBAL: u8 = 7;
pub const C_SHARED: u8 = 8;
pub const C_LDMATRIX: u8 = 9;
pub const C_MMA: u8 = 10;
pub const C_SHFL: u8 = 11;
pub const C_BAR: u8 = 12;
pub const C_OTHER: u8 = 13;
/// How many of them there are.
pub const CODES: usize = 14;
