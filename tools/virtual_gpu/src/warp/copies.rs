//! Asynchronous copies without mbarriers: `cp.async` and its groups.

use super::*;

/// ext: dst, src, size (or NONE); i.size bytes each; i.imm the offset of src, i.target of dst
pub unsafe fn cp_async(w: &mut Warp, i: &Inst) {
    unsafe {
        let e = std::slice::from_raw_parts(i.ext, 3);
        let (pd, ps) = (w.p(e[0]), w.p(e[1]));
        let mut x = Pending {
            mask: w.mask,
            group: w.commits,
            dst: [0; 32],
            src: [0; 32],
            bytes: [i.size as u32; 32],
            size: i.size as u32,
            loc: i.loc,
        };
        for l in 0..32 {
            x.dst[l] = u32::at(pd, l).wrapping_add(i.target);
            x.src[l] = u64::at(ps, l).wrapping_add(i.imm as u64);
            if e[2] != NONE {
                x.bytes[l] = u32::at(w.p(e[2]), l);
            }
        }
        let d = x.dst;
        if !check_shared(w, &d, i.size as u32, i.size as u32, "asynchronous copy") {
            return;
        }
        let mask = w.mask;
        for l in 0..32 {
            if mask >> l & 1 != 0 && x.bytes[l] > i.size as u32 {
                w.fail(
                    ILLEGAL_ADDRESS,
                    l as u32,
                    format!("cp.async of {} bytes with a source size of {}", i.size, x.bytes[l]),
                );
                return;
            }
        }
        let mut read = 0u32;
        for l in 0..32 {
            if mask >> l & 1 != 0 && x.bytes[l] > 0 {
                read |= 1 << l;
            }
        }
        w.mask = read;
        let mut ok = true;
        if read != 0 {
            // the bytes that are read must be there; the address must be a multiple of the copy's size
            if x.bytes.iter().enumerate().all(|(l, b)| read >> l & 1 == 0 || *b == i.size as u32) {
                ok = check_global(w, &x.src, i.size as u64, i.size as u64, i.mem, "asynchronous copy");
            } else {
                for l in 0..32 {
                    if read >> l & 1 != 0 && ok {
                        w.mask = 1 << l;
                        ok = check_global(w, &x.src, x.bytes[l] as u64, i.size as u64, i.mem, "asynchronous copy");
                    }
                }
                w.mask = read;
            }
            if let Some(s) = &mut (*w.env).stats {
                s.global(i, &x.src, i.size as u32, read, 3);
                s.shared(i, &x.dst, i.size as u32, mask, true);
            }
        }
        w.mask = mask;
        if ok {
            w.pending.push(x);
            if (*w.env).dice.one_in(3) {
                land(w, mask, |_, _| true);
            }
        }
    }
}
pub unsafe fn cp_commit(w: &mut Warp, _: &Inst) {
    for l in 0..32 {
        w.commits[l] += w.mask >> l & 1;
    }
}
/// imm: groups that may still be pending; all for wait_all
pub unsafe fn cp_wait(w: &mut Warp, i: &Inst) {
    let keep = i.imm as u32;
    unsafe { land(w, w.mask, |group, commits| i.imm < 0 || group + keep < commits) }
}
/// Carries out what `ready` says of (group, commits).
pub unsafe fn land(w: &mut Warp, m: u32, ready: impl Fn(u32, u32) -> bool) {
    unsafe {
        let (me, wsync) = (w.index + 1, w.wsync);
        let env = &mut *w.env;
        let commits = w.commits;
        for x in &mut w.pending {
            let mut lanes = 0;
            for l in 0..32 {
                if x.mask & m & (1 << l) != 0 && ready(x.group[l], commits[l]) {
                    lanes |= 1 << l;
                    let d = env.shared.as_mut_ptr().add((x.dst[l] - SHARED_BASE) as usize);
                    let n = x.bytes[l] as usize;
                    std::ptr::copy_nonoverlapping(x.src[l] as *const u8, d, n);
                    std::ptr::write_bytes(d.add(n), 0, x.size as usize - n);
                }
            }
            if lanes != 0 && !env.shadow.is_empty() {
                note_races(env, me, wsync, lanes, &x.dst, x.size, true, x.loc);
            }
            x.mask &= !lanes;
        }
        w.pending.retain(|x| x.mask != 0);
    }
}

/// Lets asynchronous copies under way land in between, where the seed says so.
///
/// # Safety
/// The block of `w` is alive.
pub unsafe fn land_by_chance(w: &mut Warp) {
    unsafe {
        let env = &mut *w.env;
        if !w.pending.is_empty() && env.dice.one_in(2) {
            land(w, FULL, |_, _| true);
        }
        if !env.bulk.is_empty() && env.dice.one_in(2) {
            crate::warp::hopper::land_bulk(env, None);
        }
    }
}
