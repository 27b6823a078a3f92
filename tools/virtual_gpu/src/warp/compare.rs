//! Comparisons: `setp`, `selp` is arithmetic.

use super::*;

/// setp: comparison and type.
pub fn setp(c: &str, t: &str) -> Option<OpFn> {
    macro_rules! ints {
        ($t:ty) => {
            match c {
                "eq" => cmp!($t, |x, y| x == y),
                "ne" => cmp!($t, |x, y| x != y),
                "lt" | "lo" => cmp!($t, |x, y| x < y),
                "le" | "ls" => cmp!($t, |x, y| x <= y),
                "gt" | "hi" => cmp!($t, |x, y| x > y),
                "ge" | "hs" => cmp!($t, |x, y| x >= y),
                _ => return None,
            }
        };
    }
    macro_rules! floats {
        ($t:ty) => {
            match c {
                "eq" => cmp!($t, |x, y| x == y),
                "ne" => cmp!($t, |x, y| x < y || x > y),
                "lt" => cmp!($t, |x, y| x < y),
                "le" => cmp!($t, |x, y| x <= y),
                "gt" => cmp!($t, |x, y| x > y),
                "ge" => cmp!($t, |x, y| x >= y),
                "equ" => cmp!($t, |x, y| !(x < y || x > y)),
                "neu" => cmp!($t, |x, y| x != y),
                "ltu" => cmp!($t, |x, y| !(x >= y)),
                "leu" => cmp!($t, |x, y| !(x > y)),
                "gtu" => cmp!($t, |x, y| !(x <= y)),
                "geu" => cmp!($t, |x, y| !(x < y)),
                "num" => cmp!($t, |x, y| !x.is_nan() && !y.is_nan()),
                "nan" => cmp!($t, |x, y| x.is_nan() || y.is_nan()),
                _ => return None,
            }
        };
    }
    Some(match t {
        "s32" => ints!(i32),
        "u32" | "b32" => ints!(u32),
        "s64" => ints!(i64),
        "u64" | "b64" => ints!(u64),
        "s16" => ints!(i16),
        "u16" | "b16" => ints!(u16),
        "f32" => floats!(f32),
        "f64" => floats!(f64),
        _ => return None,
    })
}
