//! Asynchronous copies without mbarriers: `cp.async` and its groups.

use super::*;

/// `cp.async`. ext: dst, src, size (or NONE); i.size bytes each; i.imm the offset of src, i.target of dst.
///
/// # Safety
/// `i` is an instruction of the kernel of `w`, whose block is alive.
pub unsafe fn cp_async(w: &mut Warp, i: &Inst) {
    unsafe {
        let e = std::slice::from_raw_parts(i.ext, 3);
        let (pd, ps) = (w.p(e[0]), w.p(e[1]));
        let size = i.size as u32;
        let mut x = Pending { mask: w.mask, group: w.commits, dst: [0; 32], src: [0; 32], bytes: [size; 32], size };
        for l in 0..32 {
            x.dst[l] = u32::at(pd, l).wrapping_add(i.target);
            x.src[l] = u64::at(ps, l).wrapping_add(i.imm as u64);
            if e[2] != NONE {
                x.bytes[l] = u32::at(w.p(e[2]), l);
            }
        }
        if !admit_copy(w, i, &x) {
            return;
        }
        let mask = w.mask;
        w.pending.push(x);
        if (*w.env).dice.one_in(3) {
            land(w, mask, |_, _| true);
        }
    }
}
/// Lets an asynchronous copy pass the door, twice: what it will read and what it will write. The bytes that are read must be
/// there; the address must be a multiple of the copy's size.
unsafe fn admit_copy(w: &mut Warp, i: &Inst, x: &Pending) -> bool {
    if let Some(lane) = (0..32).find(|lane| x.mask >> lane & 1 != 0 && x.bytes[*lane] > x.size) {
        let text = format!("cp.async of {} bytes with a source size of {}", x.size, x.bytes[lane]);
        w.fail(ILLEGAL_ADDRESS, lane as u32, text);
        return false;
    }
    // lanes of one group and of one number of bytes at a time: nearly always all at once
    let mut left = x.mask;
    while left != 0 {
        let first = left.trailing_zeros() as usize;
        let (bytes, group) = (x.bytes[first], x.group[first]);
        let lanes = (0..32).filter(|l| left >> l & 1 != 0 && x.bytes[*l] == bytes && x.group[*l] == group);
        let lanes = lanes.fold(0, |all, lane| all | 1 << lane);
        left &= !lanes;
        let by = By::Copy { group: group + 1 };
        let align = x.size;
        let read = Access { by, align, ..Access::new(Space::Global, Action::Read, lanes, &x.src, bytes) };
        let write = Access { by, ..Access::new(Space::Shared, Action::Write, lanes, &x.dst, x.size) };
        if !unsafe { (bytes == 0 || admit(w, i, &read)) && admit(w, i, &write) } {
            return false;
        }
    }
    true
}
/// `cp.async.commit_group`.
///
/// # Safety
/// The block of `w` is alive.
pub unsafe fn cp_commit(w: &mut Warp, _: &Inst) {
    for l in 0..32 {
        w.commits[l] += w.mask >> l & 1;
    }
}
/// imm: groups that may still be pending; -1 for `wait_all`, which also ends the present group.
///
/// # Safety
/// `i` is an instruction of the kernel of `w`, whose block is alive.
pub unsafe fn cp_wait(w: &mut Warp, i: &Inst) {
    let (mask, keep) = (w.mask, i.imm.max(0) as u32);
    if i.imm < 0 {
        unsafe { cp_commit(w, i) };
    }
    unsafe { land(w, mask, |group, commits| group + keep < commits) };
    let (warp, commits) = (w.index as usize, w.commits);
    if let Some(guard) = &mut w.env().guard {
        for lane in (0..32).filter(|lane| mask >> lane & 1 != 0) {
            guard.copies_done(32 * warp + lane, commits[lane].saturating_sub(keep));
        }
    }
}
/// Carries out what `ready` says of (group, commits).
///
/// # Safety
/// The block of `w` is alive.
pub unsafe fn land(w: &mut Warp, m: u32, ready: impl Fn(u32, u32) -> bool) {
    unsafe {
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
