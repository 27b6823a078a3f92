//! The one door to memory: bounds and alignment, and who touched what.

use super::*;

#[cold]
fn describe(allocs: &[(u64, u64)], address: u64, size: u64) -> String {
    let k = allocs.partition_point(|a| a.0 <= address);
    let mut text = String::new();
    if k > 0 {
        let (s, e) = allocs[k - 1];
        text += &format!(
            "; the allocation below is [{s:#x}, {e:#x}) of {} bytes, {} past its end",
            e - s,
            (address + size) as i64 - e as i64
        );
    }
    if k < allocs.len() {
        let (s, e) = allocs[k];
        text += &format!("; the one above is [{s:#x}, {e:#x}), {} before it", s - address);
    }
    text
}

/// Checks `size` bytes at each active lane's address.
#[inline(always)]
pub unsafe fn check_global(w: &mut Warp, a: &[u64; 32], size: u64, align: u64, mem: u32, what: &str) -> bool {
    let m = w.mask;
    let (mut lo, mut hi, mut or) = (u64::MAX, 0u64, 0u64);
    if m == FULL {
        for l in 0..32 {
            lo = lo.min(a[l]);
            hi = hi.max(a[l]);
            or |= a[l];
        }
    } else {
        for l in 0..32 {
            let on = m >> l & 1 != 0;
            let x = a[l];
            lo = lo.min(if on { x } else { u64::MAX });
            hi = hi.max(if on { x } else { 0 });
            or |= if on { x } else { 0 };
        }
    }
    let (s, e) = unsafe { (&(*w.env).cache)[mem as usize] };
    if lo >= s && hi.wrapping_add(size) <= e && or & (align - 1) == 0 {
        return true;
    }
    unsafe { check_slow(w, a, size, align, mem, what) }
}

#[inline(never)]
unsafe fn check_slow(w: &mut Warp, a: &[u64; 32], size: u64, align: u64, mem: u32, what: &str) -> bool {
    let allocs = unsafe { &*(*w.env).allocs };
    let mut last = (0u64, 0u64);
    for l in 0..32 {
        if w.mask >> l & 1 == 0 {
            continue;
        }
        let x = a[l];
        if x & (align - 1) != 0 {
            w.fail(MISALIGNED, l as u32, format!("misaligned {what} of {size} bytes at {x:#x} (needs {align})"));
            return false;
        }
        if x >= last.0 && x.wrapping_add(size) <= last.1 {
            continue;
        }
        let k = allocs.partition_point(|i| i.0 <= x);
        if k == 0 || x.wrapping_add(size) > allocs[k - 1].1 {
            w.fail(
                ILLEGAL_ADDRESS,
                l as u32,
                format!("{what} of {size} bytes at {x:#x} is out of bounds{}", describe(allocs, x, size)),
            );
            return false;
        }
        last = allocs[k - 1];
    }
    w.env().cache[mem as usize] = last;
    true
}

#[inline(always)]
pub unsafe fn check_shared(w: &mut Warp, a: &[u32; 32], size: u32, align: u32, what: &str) -> bool {
    let m = w.mask;
    let (mut lo, mut hi, mut or) = (u32::MAX, 0u32, 0u32);
    for l in 0..32 {
        let on = m >> l & 1 != 0;
        let x = a[l];
        lo = lo.min(if on { x } else { u32::MAX });
        hi = hi.max(if on { x } else { 0 });
        or |= if on { x } else { 0 };
    }
    let end = unsafe { (*w.env).shared_end };
    if lo >= SHARED_BASE && (hi as u64 + size as u64) <= end as u64 && or & (align - 1) == 0 {
        return true;
    }
    for l in 0..32 {
        if m >> l & 1 == 0 {
            continue;
        }
        let x = a[l];
        if x & (align - 1) != 0 {
            w.fail(MISALIGNED, l as u32, format!("misaligned shared {what} of {size} bytes at {x:#x} (needs {align})"));
            return false;
        }
        if x < SHARED_BASE || x as u64 + size as u64 > end as u64 {
            let has = end - SHARED_BASE;
            w.fail(
                ILLEGAL_ADDRESS,
                l as u32,
                format!(
                    "shared {what} of {size} bytes at offset {} is out of bounds: the block has {has}",
                    x as i64 - SHARED_BASE as i64
                ),
            );
            return false;
        }
    }
    true
}

#[inline(always)]
pub unsafe fn addresses64(w: &Warp, i: &Inst, r: u32) -> [u64; 32] {
    let p = unsafe { w.p(r) };
    let mut a = [0u64; 32];
    let off = i.imm as u64;
    for l in 0..32 {
        a[l] = unsafe { u64::at(p, l) }.wrapping_add(off);
    }
    a
}
#[inline(always)]
pub unsafe fn addresses32(w: &Warp, i: &Inst, r: u32) -> [u32; 32] {
    let p = unsafe { w.p(r) };
    let mut a = [0u32; 32];
    let off = i.imm as u32;
    for l in 0..32 {
        a[l] = unsafe { u32::at(p, l) }.wrapping_add(off);
    }
    a
}

/// Notes reads or writes of shared memory, and who raced.
#[inline(always)]
pub unsafe fn note_shared(w: &mut Warp, i: &Inst, a: &[u32; 32], size: u32, write: bool) {
    let m = w.mask;
    let env = unsafe { &mut *w.env };
    if let Some(s) = &mut env.stats {
        s.shared(i, a, size, m, write);
    }
    if !env.shadow.is_empty() {
        note_races(env, w.index + 1, w.wsync, m, a, size, write, i.loc);
    }
}

pub struct Race {
    pub first: u32,
    pub second: u32,
    pub at: u64,
    pub warps: (i32, i32),
    pub kind: &'static str,
}

#[inline(never)]
pub fn note_races(env: &mut BlockEnv, me: u32, wsync: u32, m: u32, a: &[u32; 32], size: u32, write: bool, loc: u32) {
    let tag = env.epoch << 6 | me;
    for l in 0..32u32 {
        if m >> l & 1 == 0 {
            continue;
        }
        let at = a[l as usize];
        let first = (at - SHARED_BASE) / 4;
        let last = (at - SHARED_BASE + size - 1) / 4;
        let lane = wsync << 5 | l;
        for k in first..=last {
            let s = &mut env.shadow[k as usize];
            let mut kind = "";
            let mut other = (0, 0);
            let this = if write { 1 } else { 0 };
            if !write && s.writer == 0 {
                kind = "read of what nobody wrote";
                other = (loc, me);
            } else if s.writer >> 6 == env.epoch && s.writer != 63 && size >= 4 {
                if s.writer != tag {
                    kind = ["read after write", "write after write"][this];
                } else if s.write_lane >> 5 == wsync && s.write_lane != lane && s.write_loc != loc {
                    kind = ["read after write between lanes", "write after write between lanes"][this];
                }
                other = (s.write_loc, s.writer & 63);
            }
            if kind.is_empty() && write && s.reader >> 6 == env.epoch && size >= 4 {
                if s.reader != tag {
                    kind = "write after read";
                } else if s.read_lane >> 5 == wsync && s.read_lane != lane && s.read_loc != loc {
                    kind = "write after read between lanes";
                }
                other = (s.read_loc, s.reader & 63);
            }
            if !kind.is_empty() && env.races.len() < 16 {
                env.races.push(Race {
                    first: other.0,
                    second: loc,
                    at: (k * 4) as u64,
                    warps: (other.1 as i32 - 1, me as i32 - 1),
                    kind,
                });
            }
            let s = &mut env.shadow[k as usize];
            if !write && s.reader != 0 && s.reader & 63 != me {
                s.reader2 = s.reader;
            }
            if write {
                s.writer = tag;
                s.write_loc = loc;
                s.write_lane = lane;
                s.write_fence = env.fences[(me & 63) as usize];
            } else {
                s.reader = tag;
                s.read_loc = loc;
                s.read_lane = lane;
            }
        }
    }
}

/// Global memory: 16 bytes of shadow for each 4, behind the allocation: who wrote, who read.
/// launch (20 bits) | block (26) | epoch (12) | warp + 1 (6)
pub fn shadow_of(start: u64, end: u64, address: u64) -> *mut [u64; 2] {
    ((end.next_multiple_of(512) + 512) + (address - start) / 4 * 16) as *mut [u64; 2]
}
#[inline(never)]
pub unsafe fn note_global(w: &mut Warp, a: &[u64; 32], size: u64, mem: u32, kind: u8, loc: u32) {
    unsafe {
        let env = &mut *w.env;
        let m = w.mask;
        let block = env.block_tag;
        let tag = block | ((env.epoch & 0xfff) as u64) << 6 | (w.index + 1).min(63) as u64;
        let (mut s, mut e) = env.cache[mem as usize];
        for l in 0..32 {
            if m >> l & 1 == 0 {
                continue;
            }
            if !(a[l] >= s && a[l] + size <= e) {
                let allocs = &*env.allocs;
                let k = allocs.partition_point(|i| i.0 <= a[l]);
                if k == 0 {
                    continue;
                }
                (s, e) = allocs[k - 1];
            }
            let mut at = a[l] & !3;
            while at < a[l] + size {
                let x = &mut *shadow_of(s, e, at.max(s));
                let mut what = "";
                let same_launch = |t: u64| t >> 44 == tag >> 44;
                let conflict = |t: u64| {
                    same_launch(t)
                        && t != tag
                        && if (t ^ tag) >> 18 & 0x3ff_ffff != 0 {
                            !env.cooperative
                        } else {
                            (t ^ tag) >> 6 & 0xfff == 0
                        }
                };
                if kind == 0 && x[0] == 0 {
                    what = "global: read of what nobody wrote";
                } else if kind != 2 && size >= 4 && conflict(x[0]) {
                    what = if kind == 0 { "global: read after write" } else { "global: write after write" };
                } else if kind == 1 && size >= 4 && conflict(x[1]) {
                    what = "global: write after read";
                }
                if !what.is_empty() && env.races.len() < 16 {
                    env.races.push(Race {
                        first: loc,
                        second: loc,
                        at: at - s,
                        warps: ((x[0] >> 18 & 0x3ff_ffff) as i32, (tag >> 18 & 0x3ff_ffff) as i32),
                        kind: what,
                    });
                }
                if kind == 0 {
                    x[1] = tag;
                } else if kind == 1 {
                    x[0] = tag;
                } else if x[0] == 0 {
                    x[0] = 1;
                }
                at += 4;
            }
        }
    }
}
