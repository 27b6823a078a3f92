//! The one door to memory: every instruction that touches it passes here once, with all its lanes. Bounds and alignment are
//! always checked; counters and the sanitizer look on where they are on.

use super::*;

/// State spaces of the PTX ISA that an access may touch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Space {
    Global,
    Shared,
    /// Shared memory of another block of the cluster, by its rank.
    Peer(u32),
    Local,
    Param,
}

/// What an access does. Strong accesses are those of `ld.acquire`, `ld.relaxed`, `ld.volatile` and their stores: they do not
/// race with each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    Read,
    Write,
    StrongRead,
    StrongWrite,
    Atomic,
}

impl Action {
    pub fn reads(self) -> bool {
        matches!(self, Action::Read | Action::StrongRead | Action::Atomic)
    }
    pub fn writes(self) -> bool {
        matches!(self, Action::Write | Action::StrongWrite | Action::Atomic)
    }
    pub fn atomic(self) -> bool {
        matches!(self, Action::StrongRead | Action::StrongWrite | Action::Atomic)
    }
    fn name(self) -> &'static str {
        match self {
            Action::Read | Action::StrongRead => "load",
            Action::Write | Action::StrongWrite => "store",
            Action::Atomic => "atomic operation",
        }
    }
}

/// Who carries an access out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    /// The thread, at the instruction.
    Thread,
    /// An asynchronous copy of the thread, until its group has been waited for.
    Copy { group: u32 },
    /// A product of the warp, in the asynchronous proxy, until its group has been waited for.
    Product { group: u32 },
    /// A bulk copy, in the asynchronous proxy, until the phase of its mbarrier is complete, which is in the block of a rank.
    Bulk { barrier: u32, rank: u32 },
    /// `mbarrier.init` of the thread, which `fence.mbarrier_init` orders by itself.
    Initialisation,
}

/// How memory is reached (PTX ISA, "Proxies").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Proxy {
    Generic,
    Async,
}

impl By {
    pub fn proxy(self) -> Proxy {
        match self {
            By::Thread | By::Copy { .. } | By::Initialisation => Proxy::Generic,
            By::Product { .. } | By::Bulk { .. } => Proxy::Async,
        }
    }
}

/// An address of 32 bits in shared memory, or of 64 elsewhere.
pub trait Address: Copy + Ord + std::ops::BitOr<Output = Self> {
    const NONE: Self;
    const ALL: Self;
    fn wide(self) -> u64;
}
impl Address for u32 {
    const NONE: u32 = 0;
    const ALL: u32 = u32::MAX;
    #[inline(always)]
    fn wide(self) -> u64 {
        self as u64
    }
}
impl Address for u64 {
    const NONE: u64 = 0;
    const ALL: u64 = u64::MAX;
    #[inline(always)]
    fn wide(self) -> u64 {
        self
    }
}

/// One access of a warp: `bytes` at each lane's address.
#[derive(Clone, Copy)]
pub struct Access<'a, A> {
    pub space: Space,
    pub action: Action,
    pub by: By,
    pub lanes: u32,
    pub addresses: &'a [A; 32],
    pub bytes: u32,
    pub align: u32,
    /// A bit of each byte that a load looks at; 0: all.
    pub used: u32,
    /// What each lane stores, if it is at hand.
    pub data: Option<&'a dyn Fn(usize) -> [u8; 16]>,
}

impl<'a, A: Address> Access<'a, A> {
    /// An access of a thread that looks at all its bytes.
    #[inline(always)]
    pub fn new(space: Space, action: Action, lanes: u32, addresses: &'a [A; 32], bytes: u32) -> Self {
        Access { space, action, by: By::Thread, lanes, addresses, bytes, align: bytes, used: 0, data: None }
    }
    /// The bytes that count, of those asked for.
    #[inline(always)]
    pub fn used_range(&self) -> std::ops::Range<u64> {
        match self.used {
            0 => 0..self.bytes as u64,
            used => used.trailing_zeros() as u64..32 - used.leading_zeros() as u64,
        }
    }
    fn what(&self) -> String {
        let space = match self.space {
            Space::Global => "",
            Space::Shared => "shared ",
            Space::Peer(_) => "shared::cluster ",
            Space::Local => "local ",
            Space::Param => "parameter ",
        };
        let name = match self.by {
            By::Thread | By::Initialisation => self.action.name(),
            By::Copy { .. } => "asynchronous copy",
            By::Product { .. } => "operand of a product",
            By::Bulk { .. } => "bulk copy",
        };
        format!("{space}{name} of {} bytes", self.bytes)
    }
    /// The lowest and highest address of the active lanes, and all bits of any.
    #[inline(always)]
    fn extent(&self) -> (u64, u64, u64) {
        let (mut low, mut high, mut bits) = (A::ALL, A::NONE, A::NONE);
        if self.lanes == FULL {
            for x in self.addresses {
                low = low.min(*x);
                high = high.max(*x);
                bits = bits | *x;
            }
        } else {
            for (lane, x) in self.addresses.iter().enumerate() {
                let on = self.lanes >> lane & 1 != 0;
                low = low.min(if on { *x } else { A::ALL });
                high = high.max(if on { *x } else { A::NONE });
                bits = bits | if on { *x } else { A::NONE };
            }
        }
        (low.wide(), high.wide(), bits.wide())
    }
}

/// Lets an access pass, or fails the warp: false.
///
/// # Safety
/// `i` is an instruction of the kernel of `w`, whose block is alive.
#[inline(always)]
pub unsafe fn admit<A: Address>(w: &mut Warp, i: &Inst, a: &Access<A>) -> bool {
    unsafe {
        let env = &*w.env;
        let (start, end) = match a.space {
            Space::Global => *env.cache.get_unchecked(i.mem as usize),
            Space::Shared | Space::Peer(_) => (SHARED_BASE as u64, env.shared_end as u64),
            Space::Local => (0, w.local_bytes as u64),
            Space::Param => (0, env.params_bytes as u64),
        };
        let (low, high, bits) = a.extent();
        let used = a.used_range();
        let fits = bits & (a.align as u64 - 1) == 0
            && low.wrapping_add(used.start) >= start
            && high.wrapping_add(used.end) <= end
            && high < 1 << 63;
        if !fits && !admit_slowly(w, i, a, (start, end)) {
            return false;
        }
        if (*w.env).watched {
            observe(w, i, a);
        }
        true
    }
}

/// Checks lane by lane, and keeps in mind which allocation they touch.
#[inline(never)]
unsafe fn admit_slowly<A: Address>(w: &mut Warp, i: &Inst, a: &Access<A>, bounds: (u64, u64)) -> bool {
    let allocs = unsafe { &*(*w.env).allocs };
    let mut last = if a.space == Space::Global { (1, 0) } else { bounds };
    for lane in (0..32).filter(|lane| a.lanes >> lane & 1 != 0) {
        let x = a.addresses[lane].wide();
        if x & (a.align as u64 - 1) != 0 {
            let text = format!("misaligned {} at {x:#x} (needs {})", a.what(), a.align);
            w.fail(MISALIGNED, lane as u32, text);
            return false;
        }
        let used = a.used_range();
        let (from, to) = (x.wrapping_add(used.start), x.wrapping_add(used.end));
        if from <= to && from >= last.0 && to <= last.1 {
            continue;
        }
        let above = allocs.partition_point(|alloc| alloc.0 <= from);
        if a.space == Space::Global && from <= to && above > 0 && to <= allocs[above - 1].1 {
            last = allocs[above - 1];
            continue;
        }
        let near = match a.space {
            Space::Global => describe(allocs, from, to),
            _ => format!(": there are {} bytes", bounds.1 - bounds.0),
        };
        let at = match a.space {
            Space::Global => format!("{x:#x}"),
            _ => format!("offset {}", x.wrapping_sub(bounds.0) as i64),
        };
        w.fail(ILLEGAL_ADDRESS, lane as u32, format!("{} at {at} is out of bounds{near}", a.what()));
        return false;
    }
    if a.space == Space::Global && last.1 != 0 {
        w.env().cache[i.mem as usize] = last;
    }
    true
}

#[cold]
fn describe(allocs: &[(u64, u64)], from: u64, to: u64) -> String {
    let above = allocs.partition_point(|alloc| alloc.0 <= from);
    let mut text = String::new();
    if let Some((start, end)) = above.checked_sub(1).map(|k| allocs[k]) {
        let past = to.wrapping_sub(end) as i64;
        text +=
            &format!("; the allocation below is [{start:#x}, {end:#x}) of {} bytes, {past} past its end", end - start);
    }
    if let Some((start, end)) = allocs.get(above) {
        text += &format!("; the one above is [{start:#x}, {end:#x}), {} before it", start - from);
    }
    text
}

/// The number of an instruction in its kernel.
///
/// # Safety
/// `i` is an instruction of the kernel of `w`.
pub unsafe fn number_of(w: &Warp, i: &Inst) -> u32 {
    unsafe { (i as *const Inst).offset_from((*w.env).code) as u32 }
}

/// Shows an access to the counters and to the sanitizer.
#[inline(never)]
unsafe fn observe<A: Address>(w: &mut Warp, i: &Inst, a: &Access<A>) {
    unsafe {
        let pc = number_of(w, i);
        let env = &mut *w.env;
        if let Some(stats) = &mut env.stats {
            count(stats, i, a);
        }
        if let Some(guard) = &mut env.guard {
            guard.access(w.index, pc, i.mem, a);
        }
    }
}

fn count<A: Address>(stats: &mut Stats, i: &Inst, a: &Access<A>) {
    let wide: [u64; 32] = std::array::from_fn(|lane| a.addresses[lane].wide());
    match (a.space, a.action, a.by) {
        (Space::Global, Action::Read | Action::StrongRead, By::Thread) => stats.global(i, &wide, a.bytes, a.lanes, 0),
        (Space::Global, Action::Write | Action::StrongWrite, _) => stats.global(i, &wide, a.bytes, a.lanes, 1),
        (Space::Global, Action::Atomic, _) => stats.global(i, &wide, a.bytes, a.lanes, 2),
        (Space::Global, _, _) => stats.global(i, &wide, a.bytes, a.lanes, 3),
        (Space::Shared, Action::Read | Action::Write, By::Thread) => {
            let narrow = wide.map(|x| x as u32);
            // Of collectives, matrix loads and stores alone access memory.
            if i.kind == Kind::Sync {
                stats.ldmatrix(i, &narrow, a.lanes.count_ones() / 8);
            } else {
                stats.shared(i, &narrow, a.bytes, a.lanes, a.action.writes());
            }
        }
        (Space::Shared, Action::Write, By::Copy { .. }) => {
            stats.shared(i, &wide.map(|x| x as u32), a.bytes, a.lanes, true);
        }
        _ => {}
    }
}

/// The addresses in a register of 64 bits, with the instruction's offset.
///
/// # Safety
/// `r` is an operand of `i`, an instruction of the kernel of `w`.
#[inline(always)]
pub unsafe fn addresses64(w: &Warp, i: &Inst, r: u32) -> [u64; 32] {
    let p = unsafe { w.p(r) };
    let offset = i.imm as u64;
    std::array::from_fn(|lane| unsafe { u64::at(p, lane) }.wrapping_add(offset))
}
/// The addresses in a register of 32 bits, with the instruction's offset.
///
/// # Safety
/// `r` is an operand of `i`, an instruction of the kernel of `w`.
#[inline(always)]
pub unsafe fn addresses32(w: &Warp, i: &Inst, r: u32) -> [u32; 32] {
    let p = unsafe { w.p(r) };
    let offset = i.imm as u32;
    std::array::from_fn(|lane| unsafe { u32::at(p, lane) }.wrapping_add(offset))
}
