//! Bulk copies from global into shared memory that end at an mbarrier.

use super::*;
use crate::warp::*;

pub struct Bulk {
    pub dst: u32,
    pub src: u64,
    pub bytes: u32,
    pub bar: u32,
    pub loc: u32,
}

pub unsafe fn land_bulk(env: &mut BlockEnv, bar: Option<u32>) {
    unsafe {
        let (now, later): (Vec<Bulk>, Vec<Bulk>) =
            std::mem::take(&mut env.bulk).into_iter().partition(|c| bar.is_none_or(|b| c.bar == b));
        env.bulk = later;
        for c in now {
            std::ptr::copy_nonoverlapping(
                c.src as *const u8,
                env.shared.as_mut_ptr().add((c.dst - SHARED_BASE) as usize),
                c.bytes as usize,
            );
            for k in 0..c.bytes / 4 {
                if let Some(s) = env.shadow.get_mut(((c.dst - SHARED_BASE) / 4 + k) as usize) {
                    *s = Shadow { writer: 63, write_loc: c.loc, ..Default::default() };
                }
            }
            let mut b = read(env, c.bar);
            b.tx -= c.bytes as i64;
            write(env, c.bar, b);
        }
    }
}
/// ext: dst, src, bytes, mbarrier
pub unsafe fn bulk_copy(w: &mut Warp, i: &Inst) {
    unsafe {
        let e = std::slice::from_raw_parts(i.ext, 4);
        let (d, s, n, b) = (w.p(e[0]), w.p(e[1]), w.p(e[2]), w.p(e[3]));
        let mask = w.mask;
        for l in 0..32 {
            if mask >> l & 1 == 0 {
                continue;
            }
            let c = Bulk { dst: *d.add(l), src: u64::at(s, l), bytes: *n.add(l), bar: *b.add(l), loc: i.loc };
            if c.bytes % 16 != 0 || c.bytes == 0 {
                w.fail(MISALIGNED, l as u32, format!("a bulk copy of {} bytes", c.bytes));
                return;
            }
            w.mask = 1 << l;
            let ok = check_shared(w, &[c.dst; 32], c.bytes, 16, "bulk copy") // alignment of 16
                && check_shared(w, &[c.bar; 32], 8, 8, "mbarrier")
                && check_global(w, &[c.src; 32], c.bytes as u64, 16, i.mem, "bulk copy");
            w.mask = mask;
            if !ok {
                return;
            }
            let env = &mut *w.env;
            if let Some(st) = &mut env.stats {
                st.global(i, &[c.src; 32], c.bytes, 1, 3);
            }
            env.bulk.push(c);
            env.spins = 0;
            if env.dice.one_in(3) {
                land_bulk(env, None);
            }
        }
    }
}
