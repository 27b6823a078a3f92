//! Launches: blocks over threads, warps in turn, lanes by lowest program counter first.

use crate::count::Stats;
use crate::lower::{Kernel, SPECIALS};
use crate::ptx::Module;
use crate::warp::*;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

pub struct Launch {
    pub kernel: Arc<Kernel>,
    pub module: Arc<Module>,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
    pub params: Vec<u8>,
    pub cooperative: bool,
    pub number: AtomicU64,
}

#[derive(Debug)]
pub struct Options {
    pub threads: usize,
    pub races: bool,
    pub global: bool,
    pub stats: bool,
    pub sample: u64, // blocks of a launch that are run, 0: all
    pub order: u32,  // 0 ascending, 1 descending, 2 shuffled
}

pub struct Problem {
    pub code: u32,
    pub text: String,
}

#[derive(Default, Clone)]
pub struct Totals {
    pub launches: u64,
    pub blocks: u64,
    pub warp_instructions: [u64; 14],
    pub lane_instructions: u64,
    pub nanoseconds: u64,
    pub memory: HashMap<(String, u8), crate::count::Access>, // by source line
    pub all: [crate::count::Access; 7],
}

pub static LANES: AtomicU64 = AtomicU64::new(0);
pub static WARPS: AtomicU64 = AtomicU64::new(0);
pub static NANOS: AtomicU64 = AtomicU64::new(0);
pub static LAUNCHES: AtomicU64 = AtomicU64::new(0);
pub static TOTALS: Mutex<Option<HashMap<String, Totals>>> = Mutex::new(None);

pub fn place(k: &Kernel, m: &Module, loc: u32) -> String {
    let (file, line, inl) = k.locs[loc as usize];
    let name = |f: u32| m.files.get(&f).map_or("?", |s| s.rsplit("kernels/").next().unwrap_or(s)).to_string();
    let mut t = format!("{}:{line}", name(file));
    if let Some((f, l)) = inl {
        t += &format!(" (inlined at {}:{l})", name(f));
    }
    t
}

enum Exit {
    Stop, // done, at a barrier, or at fault
    Turn, // its turn is over
}

#[cold]
unsafe fn stuck(k: &Kernel, m: &Module, w: &mut Warp, what: &str) {
    let mut text = format!("{what}: ");
    for g in &w.others {
        let i = &k.code[g.pc as usize];
        text += &format!("lanes {:#010x} wait at {} ({}); ", g.mask, k.texts[g.pc as usize], place(k, m, i.loc));
    }
    text += &format!("live lanes {:#010x}", w.live);
    w.fail(LAUNCH_FAILED, 0, text);
}

/// Lanes that a collective needs.
unsafe fn needs(w: &Warp, i: &Inst, mask: u32) -> u32 {
    match i.kind {
        Kind::Bar => w.live,
        _ if i.target == 1 => unsafe {
            let lane = mask.trailing_zeros() as usize;
            *w.p(*i.ext.add(5)).add(lane)
        },
        _ => FULL,
    }
}

/// Makes the next group current; false if there is none that can run.
unsafe fn next_group(k: &Kernel, w: &mut Warp, pc: &mut usize) -> bool {
    unsafe {
        let mut best = u32::MAX;
        for g in &w.others {
            if !g.blocked && g.pc < best {
                best = g.pc;
            }
        }
        let blocked = best == u32::MAX;
        if blocked {
            // a blocked one whose condition holds now
            let mut pcs: Vec<u32> = w.others.iter().map(|g| g.pc).collect();
            pcs.sort();
            pcs.dedup();
            for p in pcs {
                let mask = w.others.iter().filter(|g| g.pc == p).fold(0, |m, g| m | g.mask);
                let i = &k.code[p as usize];
                if needs(w, i, mask) & !mask == 0 {
                    best = p;
                    break;
                }
            }
            if best == u32::MAX {
                return false;
            }
        }
        let mut mask = 0;
        w.others.retain(|g| {
            if g.pc == best && g.blocked == blocked {
                mask |= g.mask;
                false
            } else {
                true
            }
        });
        w.mask = mask;
        *pc = best as usize;
        true
    }
}

unsafe fn run_warp(k: &Kernel, m: &Module, w: &mut Warp, exec: &mut [(u64, u64)], quantum: i64) -> Exit {
    unsafe {
        let code = k.code.as_ptr();
        let mut pc = w.pc as usize;
        let mut budget = quantum;
        loop {
            let i = &*code.add(pc);
            match i.kind {
                Kind::Plain => {
                    (i.f)(w, i);
                    pc += 1;
                }
                Kind::Mem => {
                    (i.f)(w, i);
                    if w.fault.is_some() {
                        w.pc = pc as u32;
                        return Exit::Stop;
                    }
                    pc += 1;
                }
                Kind::Enter => {
                    if !w.others.is_empty() {
                        w.others.push(Group { pc: pc as u32, mask: w.mask, blocked: false });
                        next_group(k, w, &mut pc);
                        let i = &*code.add(pc);
                        if i.kind != Kind::Enter {
                            continue;
                        }
                    }
                    let i = &*code.add(pc);
                    let e = &mut exec[i.target as usize];
                    e.0 += 1;
                    e.1 += w.mask.count_ones() as u64;
                    budget -= i.imm + 1;
                    pc += 1;
                    if budget < 0 {
                        w.pc = pc as u32;
                        return Exit::Turn;
                    }
                }
                Kind::Bra => pc = i.target as usize,
                Kind::BraIf => {
                    let p = w.pred(i.guard);
                    let t = (if i.neg { !p } else { p }) & w.mask;
                    if t == w.mask {
                        pc = i.target as usize;
                    } else {
                        if t != 0 {
                            w.others.push(Group { pc: i.target, mask: t, blocked: false });
                            w.mask &= !t;
                        }
                        pc += 1;
                    }
                }
                Kind::Guarded => {
                    let p = w.pred(i.guard);
                    let t = (if i.neg { !p } else { p }) & w.mask;
                    if t != 0 {
                        let m = w.mask;
                        w.mask = t;
                        (i.f)(w, i);
                        w.mask = m;
                        if w.fault.is_some() {
                            w.pc = pc as u32;
                            return Exit::Stop;
                        }
                    }
                    pc += 1;
                }
                Kind::Yield => {
                    (i.f)(w, i);
                    pc += 1;
                    if w.fault.is_some() {
                        w.pc = pc as u32 - 1;
                        return Exit::Stop;
                    }
                    w.pc = pc as u32;
                    return Exit::Turn;
                }
                Kind::Sync | Kind::Bar => {
                    let need = needs(w, i, w.mask);
                    if need & !w.live != 0 {
                        w.pc = pc as u32;
                        let lane = (need & !w.live).trailing_zeros();
                        w.fail(
                            LAUNCH_FAILED,
                            lane,
                            format!(
                                "{} needs lanes {need:#010x}, but only {:#010x} have not returned",
                                k.texts[pc], w.live
                            ),
                        );
                        return Exit::Stop;
                    }
                    if need & !w.mask != 0 {
                        let mut mask = w.mask;
                        w.others.retain(|g| {
                            if g.pc == pc as u32 && g.blocked {
                                mask |= g.mask;
                                false
                            } else {
                                true
                            }
                        });
                        w.mask = mask;
                        if need & !mask != 0 {
                            w.others.push(Group { pc: pc as u32, mask, blocked: true });
                            let at = pc;
                            if !next_group(k, w, &mut pc) {
                                w.pc = at as u32;
                                let what = if i.kind == Kind::Bar {
                                    "a barrier in divergent code"
                                } else {
                                    "a warp collective in divergent code"
                                };
                                stuck(k, m, w, what);
                                return Exit::Stop;
                            }
                            continue;
                        }
                    }
                    if i.kind == Kind::Bar {
                        let id = *w.p(i.r[0]);
                        let count = if i.r[1] == NONE { 0 } else { *w.p(i.r[1]) / 32 };
                        w.pc = pc as u32 + 1;
                        w.state = State::AtBar(id, count);
                        return Exit::Stop;
                    }
                    (i.f)(w, i);
                    if w.fault.is_some() {
                        w.pc = pc as u32;
                        return Exit::Stop;
                    }
                    pc += 1;
                }
                Kind::Ret => {
                    w.live &= !w.mask;
                    if w.live == 0 {
                        w.state = State::Done;
                        return Exit::Stop;
                    }
                    if !next_group(k, w, &mut pc) {
                        w.pc = pc as u32;
                        stuck(k, m, w, "lanes wait for lanes that have returned");
                        return Exit::Stop;
                    }
                }
                Kind::Trap => {
                    w.pc = pc as u32;
                    let lane = w.mask.trailing_zeros();
                    w.fail(LAUNCH_FAILED, lane, "trap".into());
                    return Exit::Stop;
                }
            }
        }
    }
}

struct Block {
    env: Box<BlockEnv>,
    warps: Vec<Warp>,
    id: [u32; 3],
    done: bool,
}

fn shared_bytes(l: &Launch) -> usize {
    l.kernel.static_shared + l.dynamic_shared as usize
}

fn new_block(l: &Launch, o: &Options, allocs: *const Vec<(u64, u64)>) -> Block {
    let k = &l.kernel;
    let shared = shared_bytes(l);
    let mut env = Box::new(BlockEnv {
        shared: vec![0xff; shared + 64],
        shared_end: SHARED_BASE + shared as u32,
        params: l.params.as_ptr(),
        params_bytes: l.params.len(),
        allocs,
        cache: vec![(1, 0); k.mems + 1],
        stats: o.stats.then(Default::default),
        shadow: if o.races { vec![Shadow::default(); shared / 4 + 8] } else { vec![] },
        epoch: 1,
        races: vec![],
        fences: [0; 64],
        last_bar: NONE,
        bar_sites: Default::default(),
        global: o.global,
        cooperative: l.cooperative,
        block_tag: 0,
        bars: vec![],
        bulk: vec![],
        spins: 0,
    });
    let threads = l.block[0] * l.block[1] * l.block[2];
    let env_at: *mut BlockEnv = &mut *env;
    let warps = (0..threads.div_ceil(32))
        .map(|n| {
            let mut storage = vec![Slot([0; 32]); k.slots.max(1)];
            Warp {
                regs: storage.as_mut_ptr() as *mut u32,
                consts: k.consts.as_ptr() as *const u32,
                mask: FULL,
                preds: vec![0; k.preds.max(1)],
                special: Box::new([[0; 32]; 24]),
                env: env_at,
                fault: None,
                live: FULL,
                pc: 0,
                others: vec![],
                local: vec![0xff; k.local_bytes * 32 + 32],
                local_bytes: k.local_bytes,
                pending: vec![],
                commits: [0; 32],
                index: n,
                state: State::Ready,
                storage,
                products: vec![],
                wgroup: 0,
                wsync: 0,
            }
        })
        .collect();
    Block { env, warps, id: [0; 3], done: false }
}

fn start_block(l: &Launch, b: &mut Block, index: u64, workspace: u64) {
    let [gx, gy, _] = l.grid.map(u64::from);
    b.id = [(index % gx) as u32, (index / gx % gy) as u32, (index / (gx * gy)) as u32];
    b.done = false;
    let n = b.env.shared.len();
    b.env.shared[..n].fill(0xff);
    b.env.shadow.fill(Shadow::default());
    b.env.epoch = 1;
    b.env.bars.clear();
    b.env.last_bar = NONE;
    b.env.bulk.clear();
    b.env.block_tag = l.number.load(Ordering::Relaxed) << 44 | (index & 0x3ff_ffff) << 18;
    b.env.spins = 0;
    let threads = l.block[0] * l.block[1] * l.block[2];
    for w in &mut b.warps {
        w.live = if threads >= 32 * (w.index + 1) { FULL } else { (1u32 << (threads - 32 * w.index)) - 1 };
        w.mask = w.live;
        w.pc = 0;
        w.others.clear();
        w.pending.clear();
        w.products.clear();
        w.wgroup = 0;
        w.commits = [0; 32];
        w.state = State::Ready;
        w.fault = None;
        for (k, name) in SPECIALS.iter().enumerate() {
            for lane in 0..32u32 {
                let t = 32 * w.index + lane;
                w.special[k][lane as usize] = match *name {
                    "%tid.x" => t % l.block[0],
                    "%tid.y" => t / l.block[0] % l.block[1],
                    "%tid.z" => t / (l.block[0] * l.block[1]),
                    "%ntid.x" => l.block[0],
                    "%ntid.y" => l.block[1],
                    "%ntid.z" => l.block[2],
                    "%ctaid.x" => b.id[0],
                    "%ctaid.y" => b.id[1],
                    "%ctaid.z" => b.id[2],
                    "%nctaid.x" => l.grid[0],
                    "%nctaid.y" => l.grid[1],
                    "%nctaid.z" => l.grid[2],
                    "%laneid" => lane,
                    "%warpid" => w.index,
                    "%envreg1" => (workspace >> 32) as u32,
                    "%envreg2" => workspace as u32,
                    "%nsmid" => 108,
                    "%dynamic_smem_size" => l.dynamic_shared,
                    _ => 0,
                };
            }
        }
    }
}

/// One turn of every warp. Err: what failed.
fn step(l: &Launch, o: &Options, b: &mut Block, exec: &mut [(u64, u64)], quantum: i64) -> Result<(), Problem> {
    let n = b.warps.len();
    for j in 0..n {
        let j = match o.order {
            0 => j,
            1 => n - 1 - j,
            _ => (j * 5 + b.id[0] as usize + 3) % n, // a permutation if 5 and n are coprime; else some warps go twice, some later
        };
        let w = &mut b.warps[j];
        if w.state != State::Ready {
            continue;
        }
        unsafe {
            run_warp(&l.kernel, &l.module, w, exec, quantum);
        }
        if let Some(f) = w.fault.take() {
            let i = &l.kernel.code[w.pc as usize];
            let text = format!(
                "kernel {} block ({}, {}, {}) of ({}, {}, {}) thread {}: {} [{}] at {}",
                l.kernel.name,
                b.id[0],
                b.id[1],
                b.id[2],
                l.grid[0],
                l.grid[1],
                l.grid[2],
                32 * w.index + f.lane,
                f.text,
                l.kernel.texts[w.pc as usize],
                place(&l.kernel, &l.module, i.loc)
            );
            return Err(Problem { code: f.code, text });
        }
    }
    if b.warps.iter().any(|w| w.state == State::Ready) {
        return Ok(());
    }
    let alive = b.warps.iter().filter(|w| w.state != State::Done).count();
    if alive == 0 {
        b.done = true;
        return Ok(());
    }
    let mut released = false;
    for id in 0..16 {
        let mut waiting = 0;
        let mut expected = 0;
        let mut counted = false;
        for w in &b.warps {
            if let State::AtBar(i, c) = w.state {
                if i == id {
                    waiting += 1;
                    counted |= c > 0;
                    expected = expected.max(c as usize);
                }
            }
        }
        let some = waiting > 0;
        if some && waiting >= if counted { expected } else { alive } {
            let bar_pc =
                b.warps.iter().find(|w| matches!(w.state, State::AtBar(i, _) if i == id)).map_or(0, |w| w.pc - 1);
            if o.races && !counted {
                let mut pcs: Vec<(u32, u32)> = b
                    .warps
                    .iter()
                    .filter(|w| matches!(w.state, State::AtBar(i, _) if i == id))
                    .map(|w| (w.pc - 1, w.index))
                    .collect();
                pcs.sort();
                if pcs[0].0 != pcs[pcs.len() - 1].0 {
                    let (x, y) = (pcs[0], pcs[pcs.len() - 1]);
                    let at = |pc: u32| l.kernel.code[pc as usize].loc;
                    b.env.races.push(Race {
                        first: at(x.0),
                        second: at(y.0),
                        at: id as u64,
                        warps: (x.1 as i32, y.1 as i32),
                        kind: "warps meet at different barriers",
                    });
                }
            }
            for w in &mut b.warps {
                if matches!(w.state, State::AtBar(i, _) if i == id) {
                    w.state = State::Ready;
                }
            }
            released = true;
            if !counted {
                b.env.last_bar = bar_pc;
                if o.races {
                    b.env.bar_sites.entry(bar_pc).or_default()[0] += 1;
                }
                b.env.epoch += 1;
            }
        }
    }
    if !released {
        let states: Vec<String> = b
            .warps
            .iter()
            .map(|w| {
                format!(
                    "warp {} {:?} after {}",
                    w.index,
                    w.state,
                    place(&l.kernel, &l.module, l.kernel.code[w.pc.saturating_sub(1) as usize].loc)
                )
            })
            .collect();
        return Err(Problem {
            code: LAUNCH_FAILED,
            text: format!("kernel {}: warps wait for ever: {}", l.kernel.name, states.join("; ")),
        });
    }
    Ok(())
}

pub static SITES: Mutex<std::collections::BTreeMap<(String, u32, String), [u64; 2]>> =
    Mutex::new(std::collections::BTreeMap::new());
fn report_races(l: &Launch, b: &mut Block, found: &Mutex<Vec<String>>) {
    if !b.env.bar_sites.is_empty() {
        let mut all = SITES.lock().unwrap();
        for (pc, n) in std::mem::take(&mut b.env.bar_sites) {
            let at = place(&l.kernel, &l.module, l.kernel.code[pc as usize].loc);
            let e = all.entry((l.kernel.name.clone(), pc, at)).or_default();
            e[0] += n[0];
            e[1] += n[1];
        }
    }
    if b.env.races.is_empty() {
        return;
    }
    let mut all = found.lock().unwrap();
    for r in b.env.races.drain(..) {
        let (a, c) = (place(&l.kernel, &l.module, r.first), place(&l.kernel, &l.module, r.second));
        let who = if r.kind.starts_with("global") { "block" } else { "warp" };
        let key = format!("{} {} {a} {c}", l.kernel.name, r.kind);
        let text = format!(
            "race in {}: {}, offset {}: {a} ({who} {}) then {c} ({who} {})",
            l.kernel.name, r.kind, r.at, r.warps.0, r.warps.1
        );
        if !all.iter().any(|x| x.starts_with(&key)) {
            all.push(format!("{key}|{text}"));
        }
    }
}

pub fn run(l: &Launch, o: &Options, allocs: Arc<Vec<(u64, u64)>>, workspace: u64) -> Result<(), Problem> {
    let started = std::time::Instant::now();
    let k = &*l.kernel;
    let total = l.grid[0] as u64 * l.grid[1] as u64 * l.grid[2] as u64;
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let problem: Mutex<Option<Problem>> = Mutex::new(None);
    let merged: Mutex<(Vec<(u64, u64)>, Stats)> = Mutex::new((vec![(0, 0); k.blocks.len()], Stats::default()));
    let races: Mutex<Vec<String>> = Mutex::new(vec![]);
    let threads = (o.threads as u64).min(total).max(1);
    let allocs_at = &*allocs as *const Vec<(u64, u64)> as usize;
    let work = |me: u64| {
        let allocs = allocs_at as *const Vec<(u64, u64)>;
        let mut exec = vec![(0u64, 0u64); k.blocks.len()];
        let mut stats = Stats::default();
        let failed = |p: Problem| {
            stop.store(true, Ordering::Relaxed);
            problem.lock().unwrap().get_or_insert(p);
        };
        if l.cooperative {
            let mut mine: Vec<Block> = (0..total)
                .filter(|n| n % threads == me)
                .map(|n| {
                    let mut b = new_block(l, o, allocs);
                    start_block(l, &mut b, n, workspace);
                    b
                })
                .collect();
            while !stop.load(Ordering::Relaxed) && mine.iter().any(|b| !b.done) {
                for b in &mut mine {
                    if b.done {
                        continue;
                    }
                    if let Err(p) = step(l, o, b, &mut exec, 4000) {
                        failed(p);
                        break;
                    }
                }
            }
            for b in &mut mine {
                report_races(l, b, &races);
                if let Some(s) = &b.env.stats {
                    stats.add(s);
                }
            }
        } else {
            let mut b = new_block(l, o, allocs);
            'all: while !stop.load(Ordering::Relaxed) {
                let n = next.fetch_add(1, Ordering::Relaxed);
                let n = if o.sample > 0 && o.sample < total {
                    if n >= o.sample {
                        break;
                    }
                    n * total / o.sample
                } else {
                    n
                };
                if n >= total {
                    break;
                }
                let n = if o.order == 1 { total - 1 - n } else { n };
                start_block(l, &mut b, n, workspace);
                while !b.done {
                    if let Err(p) = step(l, o, &mut b, &mut exec, 1 << 20) {
                        failed(p);
                        break 'all;
                    }
                    if stop.load(Ordering::Relaxed) {
                        break 'all;
                    }
                }
                report_races(l, &mut b, &races);
            }
            if let Some(s) = &b.env.stats {
                stats.add(s);
            }
        }
        let mut m = merged.lock().unwrap();
        for (a, b) in m.0.iter_mut().zip(&exec) {
            a.0 += b.0;
            a.1 += b.1;
        }
        m.1.add(&stats);
    };
    if threads == 1 {
        work(0);
    } else {
        std::thread::scope(|s| {
            for t in 0..threads {
                let work = &work;
                s.spawn(move || work(t));
            }
        });
    }
    let (exec, stats) = merged.into_inner().unwrap();
    let nanos = started.elapsed().as_nanos() as u64;
    let mut lanes = 0;
    let mut warps = 0;
    let mut classes = [0u64; 14];
    for (b, (n, m)) in exec.iter().enumerate() {
        let size: u32 = k.blocks[b].iter().sum();
        warps += n * size as u64;
        lanes += m * size as u64;
        for c in 0..14 {
            classes[c] += n * k.blocks[b][c] as u64;
        }
    }
    LANES.fetch_add(lanes, Ordering::Relaxed);
    WARPS.fetch_add(warps, Ordering::Relaxed);
    NANOS.fetch_add(nanos, Ordering::Relaxed);
    LAUNCHES.fetch_add(1, Ordering::Relaxed);
    if o.stats {
        let mut t = TOTALS.lock().unwrap();
        let e = t.get_or_insert_with(HashMap::new).entry(k.name.clone()).or_default();
        e.launches += 1;
        e.blocks += if o.sample > 0 && !l.cooperative { o.sample.min(total) } else { total };
        e.nanoseconds += nanos;
        e.lane_instructions += lanes;
        for c in 0..14 {
            e.warp_instructions[c] += classes[c];
        }
        for ((loc, kind), a) in &stats.by_loc {
            let at = place(k, &l.module, *loc);
            let at = at.split(" (").next().unwrap().to_string();
            for x in [e.memory.entry((at, *kind)).or_default(), &mut e.all[*kind as usize]] {
                x.requests += a.requests;
                x.sectors += a.sectors;
                x.ideal += a.ideal;
                x.bytes += a.bytes;
            }
        }
    }
    for r in races.into_inner().unwrap() {
        eprintln!("vgpu: {}", r.split_once('|').map_or(r.as_str(), |x| x.1));
    }
    match problem.into_inner().unwrap() {
        Some(p) => {
            eprintln!("vgpu: {}", p.text);
            Err(p)
        }
        None => Ok(()),
    }
}

/// Barriers that no pair of accesses needed.
pub fn print_sites() {
    for ((kernel, pc, at), n) in SITES.lock().unwrap().iter() {
        eprintln!(
            "vgpu-bar: {kernel} {pc} at {at}: passed {}, needed by {} accesses{}",
            n[0],
            n[1],
            if n[1] == 0 { " NEVER" } else { "" }
        );
    }
}

/// What VGPU_STATS=1 prints at the end.
pub fn print_stats() {
    let t = TOTALS.lock().unwrap();
    let Some(t) = &*t else { return };
    let mut names: Vec<_> = t.iter().collect();
    names.sort_by_key(|(_, t)| std::cmp::Reverse(t.nanoseconds));
    for (name, t) in names {
        let all: u64 = t.warp_instructions.iter().sum();
        eprintln!(
            "vgpu-stats: {name}: {} launches, {} blocks, {:.1} ms, {all} warp instructions, {:.1} lanes active",
            t.launches,
            t.blocks,
            t.nanoseconds as f64 * 1e-6,
            t.lane_instructions as f64 / all.max(1) as f64
        );
        let mut line = String::new();
        for (c, n) in t.warp_instructions.iter().enumerate() {
            if *n > 0 {
                line += &format!(" {} {:.1}%", crate::count::CLASSES[c], *n as f64 * 100.0 / all as f64);
            }
        }
        eprintln!("vgpu-stats:   {line}");
        const WHAT: [&str; 7] =
            ["global load", "global store", "atomic", "cp.async", "shared load", "shared store", "ldmatrix"];
        for (kind, a) in t.all.iter().enumerate() {
            if a.requests > 0 {
                let unit = if kind < 4 { "sectors" } else { "wavefronts" };
                eprintln!(
                    "vgpu-stats:   {}: {} requests, {:.2} {unit} each (ideal {:.2}), {} bytes",
                    WHAT[kind],
                    a.requests,
                    a.sectors as f64 / a.requests as f64,
                    a.ideal as f64 / a.requests as f64,
                    a.bytes
                );
            }
        }
        let mut worst: Vec<_> = t.memory.iter().filter(|(_, a)| a.sectors > a.ideal).collect();
        worst.sort_by_key(|(_, a)| std::cmp::Reverse(a.sectors - a.ideal));
        for ((at, kind), a) in worst.into_iter().take(6) {
            eprintln!(
                "vgpu-stats:     {} at {at}: {} requests, {:.2} each, ideal {:.2}",
                WHAT[*kind as usize],
                a.requests,
                a.sectors as f64 / a.requests as f64,
                a.ideal as f64 / a.requests as f64
            );
        }
    }
}
