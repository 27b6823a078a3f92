//! Exchanges between the lanes of a warp: `shfl.sync`, `vote.sync`, `match.sync`, `redux.sync`, `activemask`, `elect.sync`
//! (PTX ISA, "Data movement" and "Parallel synchronization and communication instructions").
//!
//! The scheduler has gathered the lanes that the member mask names before one of these executes. `Inst::ext` holds the
//! operands; its sixth is the member mask wherever there is one, where the scheduler looks for it.

use super::*;

/// Place of the member mask in `Inst::ext`.
pub const MEMBERS: usize = 5;

/// The sets of lanes that execute a collective together: each is named alike by all of its lanes and is here as a whole. An
/// error names the lanes that break this.
///
/// # Safety
/// `Inst::ext` holds the member mask at `MEMBERS`.
unsafe fn member_sets(w: &mut Warp, i: &Inst, what: &str) -> Vec<u32> {
    let masks = unsafe { *(w.p(*i.ext.add(MEMBERS)) as *const [u32; 32]) };
    let mut left = w.mask;
    let mut sets = vec![];
    while left != 0 {
        let lane = left.trailing_zeros();
        let members = masks[lane as usize];
        let absent = members & !w.mask;
        let disagreeing =
            (0..32).filter(|&l| members >> l & 1 != 0 && masks[l] != members).fold(0u32, |m, l| m | 1 << l);
        let fault = if members >> lane & 1 == 0 {
            Some(format!("{what}: lane {lane} is not in its own member mask {members:#010x}"))
        } else if absent != 0 {
            Some(format!("{what}: lanes {} of the member mask {members:#010x} do not take part", names(absent)))
        } else if disagreeing != 0 {
            Some(format!(
                "{what}: lanes {} have other member masks than lane {lane}'s {members:#010x}",
                names(disagreeing)
            ))
        } else {
            None
        };
        if let Some(text) = fault {
            w.fail(LAUNCH_FAILED, lane, text);
            return vec![];
        }
        sets.push(members);
        left &= !members;
    }
    sets
}

/// The lanes of a mask, as a message lists them.
fn names(mask: u32) -> String {
    let lanes: Vec<String> = (0..32).filter(|l| mask >> l & 1 != 0).map(|l| l.to_string()).collect();
    lanes.join(", ")
}

/// The lanes of a set.
fn lanes_of(set: u32) -> impl Iterator<Item = usize> {
    (0..32).filter(move |l| set >> l & 1 != 0)
}

/// How `shfl.sync` finds the lane to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i64)]
pub enum Shuffle {
    Index,
    Butterfly,
    Up,
    Down,
}

impl Shuffle {
    pub fn of(name: &str) -> Option<Shuffle> {
        match name {
            "idx" => Some(Shuffle::Index),
            "bfly" => Some(Shuffle::Butterfly),
            "up" => Some(Shuffle::Up),
            "down" => Some(Shuffle::Down),
            _ => None,
        }
    }

    fn from_number(number: i64) -> Shuffle {
        [Shuffle::Index, Shuffle::Butterfly, Shuffle::Up, Shuffle::Down][number as usize]
    }

    /// The lane that a lane reads with operands `b` and `c`, and whether it is in range; where it is not, a lane reads itself.
    fn source(self, lane: i32, b: u32, c: u32) -> (usize, bool) {
        let offset = (b & 31) as i32;
        let (clamp, segment) = ((c & 31) as i32, (c >> 8 & 31) as i32);
        let limit = (lane & segment) | (clamp & !segment);
        let first = lane & segment;
        let (source, in_range) = match self {
            Shuffle::Up => (lane - offset, lane - offset >= limit),
            Shuffle::Down => (lane + offset, lane + offset <= limit),
            Shuffle::Butterfly => (lane ^ offset, lane ^ offset <= limit),
            Shuffle::Index => {
                let source = first | (offset & !segment);
                (source, source <= limit)
            }
        };
        if in_range { (source as usize, true) } else { (lane as usize, false) }
    }
}

/// `shfl.sync`. ext: d, a, b, c, predicate or NONE, members; imm: the `Shuffle`.
///
/// # Safety
/// `Inst::ext` is as said.
pub unsafe fn shfl(w: &mut Warp, i: &Inst) {
    unsafe {
        let operands = std::slice::from_raw_parts(i.ext, 6);
        let [a, b, c] = [1, 2, 3].map(|k| *(w.p(operands[k]) as *const [u32; 32]));
        let shuffle = Shuffle::from_number(i.imm);
        let mut values = [0u32; 32];
        let mut in_range = 0u32;
        for set in member_sets(w, i, "shfl") {
            for lane in lanes_of(set) {
                let (source, found) = shuffle.source(lane as i32, b[lane], c[lane]);
                if set >> source & 1 == 0 {
                    let text =
                        format!("shfl: lane {lane} reads lane {source}, which is not in the member mask {set:#010x}");
                    w.fail(LAUNCH_FAILED, lane as u32, text);
                    return;
                }
                values[lane] = a[source];
                in_range |= (found as u32) << lane;
            }
        }
        w.put::<u32>(operands[0], &values);
        if operands[4] != NONE {
            w.put_pred(operands[4], in_range);
        }
    }
}

/// What `vote.sync` finds out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i64)]
pub enum Vote {
    Ballot,
    Any,
    All,
    Uniform,
}

impl Vote {
    pub fn of(name: &str) -> Option<Vote> {
        match name {
            "ballot" => Some(Vote::Ballot),
            "any" => Some(Vote::Any),
            "all" => Some(Vote::All),
            "uni" => Some(Vote::Uniform),
            _ => None,
        }
    }

    fn from_number(number: i64) -> Vote {
        [Vote::Ballot, Vote::Any, Vote::All, Vote::Uniform][number as usize]
    }
}

/// `vote.sync`. ext: d (a predicate, or a register of a ballot), the predicate asked, members at `MEMBERS`; imm: the `Vote`;
/// `signed`: the predicate is negated.
///
/// # Safety
/// `Inst::ext` is as said.
pub unsafe fn vote(w: &mut Warp, i: &Inst) {
    unsafe {
        let (d, asked) = (*i.ext, w.pred(*i.ext.add(1)));
        let asked = if i.signed { !asked } else { asked };
        let vote = Vote::from_number(i.imm);
        let mut ballots = [0u32; 32];
        let mut holds = 0u32;
        for set in member_sets(w, i, "vote") {
            let yes = asked & set;
            let answer = match vote {
                Vote::Ballot => false,
                Vote::Any => yes != 0,
                Vote::All => yes == set,
                Vote::Uniform => yes == 0 || yes == set,
            };
            lanes_of(set).for_each(|lane| ballots[lane] = yes);
            holds |= if answer { set } else { 0 };
        }
        match vote {
            Vote::Ballot => w.put::<u32>(d, &ballots),
            _ => w.put_pred(d, holds),
        }
    }
}

/// `match.any.sync`. ext: d, a, members at `MEMBERS`.
///
/// # Safety
/// `Inst::ext` is as said.
pub unsafe fn match_any<T: Lane + PartialEq>(w: &mut Warp, i: &Inst) {
    unsafe {
        let (d, a) = (*i.ext, w.p(*i.ext.add(1)));
        let mut peers = [0u32; 32];
        for set in member_sets(w, i, "match") {
            for lane in lanes_of(set) {
                let alike = lanes_of(set).filter(|&l| T::at(a, l) == T::at(a, lane));
                peers[lane] = alike.fold(0, |mask, l| mask | 1 << l);
            }
        }
        w.put::<u32>(d, &peers);
    }
}

/// `match.all.sync`. ext: d, a, predicate or NONE, members at `MEMBERS`.
///
/// # Safety
/// `Inst::ext` is as said.
pub unsafe fn match_all<T: Lane + PartialEq>(w: &mut Warp, i: &Inst) {
    unsafe {
        let (d, a, p) = (*i.ext, w.p(*i.ext.add(1)), *i.ext.add(2));
        let mut peers = [0u32; 32];
        let mut alike = 0u32;
        for set in member_sets(w, i, "match") {
            let first = T::at(a, set.trailing_zeros() as usize);
            if lanes_of(set).all(|l| T::at(a, l) == first) {
                lanes_of(set).for_each(|lane| peers[lane] = set);
                alike |= set;
            }
        }
        w.put::<u32>(d, &peers);
        if p != NONE {
            w.put_pred(p, alike);
        }
    }
}

/// What executes `redux.sync` with an operation on a type.
pub fn redux(operation: &str, ty: &str) -> Option<OpFn> {
    macro_rules! by {
        ($t:ty, $f:expr) => {
            // SAFETY: as for `reduce`.
            Some(|w, i| unsafe { reduce::<$t>(w, i, $f) })
        };
    }
    match (operation, ty) {
        ("add", "u32" | "s32") => by!(u32, u32::wrapping_add),
        ("min", "u32") => by!(u32, u32::min),
        ("max", "u32") => by!(u32, u32::max),
        ("min", "s32") => by!(i32, i32::min),
        ("max", "s32") => by!(i32, i32::max),
        ("and", "b32") => by!(u32, |x, y| x & y),
        ("or", "b32") => by!(u32, |x, y| x | y),
        ("xor", "b32") => by!(u32, |x, y| x ^ y),
        _ => None,
    }
}

/// `redux.sync`. ext: d, a, members at `MEMBERS`.
///
/// # Safety
/// `Inst::ext` is as said.
unsafe fn reduce<T: Lane>(w: &mut Warp, i: &Inst, combine: impl Fn(T, T) -> T) {
    unsafe {
        let (d, a) = (*i.ext, w.p(*i.ext.add(1)));
        let mut results = [T::default(); 32];
        for set in member_sets(w, i, "redux") {
            let all = lanes_of(set).map(|l| T::at(a, l)).reduce(&combine).expect("a set has lanes");
            lanes_of(set).for_each(|lane| results[lane] = all);
        }
        w.put::<T>(d, &results);
    }
}

/// `activemask`. r: d.
///
/// # Safety
/// `Inst::r` is as said.
pub unsafe fn activemask(w: &mut Warp, i: &Inst) {
    unsafe { w.put::<u32>(i.r[0], &[w.mask; 32]) }
}

/// `elect.sync`: of the lanes of a set the lowest. ext: d or NONE, predicate, members at `MEMBERS`.
///
/// # Safety
/// `Inst::ext` is as said.
pub unsafe fn elect(w: &mut Warp, i: &Inst) {
    unsafe {
        let (d, p) = (*i.ext, *i.ext.add(1));
        let mut leaders = [0u32; 32];
        let mut elected = 0u32;
        for set in member_sets(w, i, "elect") {
            let leader = set.trailing_zeros();
            lanes_of(set).for_each(|lane| leaders[lane] = leader);
            elected |= 1 << leader;
        }
        if d != NONE {
            w.put::<u32>(d, &leaders);
        }
        w.put_pred(p, elected);
    }
}
