//! Virtual registers to slots, statements to instructions.

use crate::count::*;
use crate::ptx::{self, Class, Func, Item, Module, Opnd, PInst};
use crate::warp as ops;
use crate::warp::*;
use std::collections::HashMap;

pub struct Kernel {
    pub name: String,
    pub code: Vec<Inst>,
    pub pool: Vec<Vec<u32>>, // operands that Inst.ext points into
    pub consts: Vec<Slot>,
    pub slots: usize,
    pub preds: usize,
    pub mems: usize,
    pub blocks: Vec<[u32; 14]>, // instructions of each class
    pub local_bytes: usize,
    pub static_shared: usize,
    pub params_bytes: usize,
    pub locs: Vec<(u32, u32, Option<(u32, u32)>)>,
    pub texts: Vec<String>, // opcode of each instruction
    pub vregs: usize,
    pub max_threads: u32,
}
unsafe impl Send for Kernel {}
unsafe impl Sync for Kernel {}

#[derive(Clone, Copy)]
enum F {
    Def(u32),
    Use(u32),
    Raw(u32),
}

struct Low {
    inst: Inst,
    fields: Vec<F>,
}

const CONST: u32 = 0x8000_0000;

pub const SPECIALS: [&str; 20] = [
    "%tid.x",
    "%tid.y",
    "%tid.z",
    "%ntid.x",
    "%ntid.y",
    "%ntid.z",
    "%ctaid.x",
    "%ctaid.y",
    "%ctaid.z",
    "%nctaid.x",
    "%nctaid.y",
    "%nctaid.z",
    "%laneid",
    "%warpid",
    "%envreg1",
    "%envreg2",
    "%smid",
    "%nsmid",
    "%clock",
    "%dynamic_smem_size",
];

struct C<'a> {
    m: &'a Module,
    globals: &'a HashMap<String, u64>,
    f: &'a Func,
    params: HashMap<String, (usize, usize)>,
    shared: HashMap<String, u32>,
    local: HashMap<String, u64>,
    consts: Vec<Slot>,
    const_index: HashMap<(u64, bool), u32>,
    pred_of: Vec<u32>,
    out: Vec<Low>,
    texts: Vec<String>,
    mems: u32,
}

fn blank() -> Inst {
    Inst {
        f: ops::nop,
        r: [0; 4],
        ext: std::ptr::null(),
        imm: 0,
        target: 0,
        guard: 0,
        loc: 0,
        mem: 0,
        size: 0,
        count: 0,
        kind: Kind::Plain,
        neg: false,
        guarded: false,
        signed: false,
        class: C_OTHER,
    }
}

fn is_d(t: &str) -> bool {
    matches!(t, "b64" | "u64" | "s64" | "f64")
}

impl<'a> C<'a> {
    fn constant(&mut self, v: u64, d: bool) -> u32 {
        let v = if d { v } else { v as u32 as u64 };
        if let Some(&k) = self.const_index.get(&(v, d)) {
            return k;
        }
        let k = self.consts.len() as u32 | CONST;
        if d {
            let mut both = [Slot([0u32; 32]); 2];
            let flat: &mut [u64; 32] = unsafe { &mut *(both.as_mut_ptr() as *mut [u64; 32]) };
            *flat = [v; 32];
            self.consts.extend(both);
        } else {
            self.consts.push(Slot([v as u32; 32]));
        }
        self.const_index.insert((v, d), k);
        k
    }

    fn symbol(&self, s: &str) -> Result<u64, String> {
        if let Some(&(o, _)) = self.params.get(s) {
            return Ok(o as u64);
        }
        if let Some(&o) = self.shared.get(s) {
            return Ok(o as u64);
        }
        if let Some(&o) = self.local.get(s) {
            return Ok(o);
        }
        if let Some(&o) = self.globals.get(s) {
            return Ok(o);
        }
        Err(format!("symbol {s}"))
    }

    /// A source operand of one slot or two.
    fn src(&mut self, o: &Opnd, d: bool) -> Result<F, String> {
        Ok(match o {
            Opnd::Reg(r) => {
                let c = self.f.classes[*r as usize];
                if c == Class::Pred {
                    return Err("a predicate where a value is expected".into());
                }
                if (c == Class::D) != d {
                    return Err(format!("register width: {c:?}"));
                }
                F::Use(*r)
            }
            Opnd::Imm(v) | Opnd::F64(v) => F::Raw(self.constant(*v, d)),
            Opnd::F32(v) => F::Raw(self.constant(*v as u64, d)),
            Opnd::Sym(s) => {
                let v = self.symbol(s)?;
                F::Raw(self.constant(v, d))
            }
            _ => return Err(format!("operand {o:?}")),
        })
    }
    fn dst(&self, o: &Opnd, d: bool) -> Result<F, String> {
        match o {
            Opnd::Reg(r) => {
                let c = self.f.classes[*r as usize];
                if c == Class::Pred || (c == Class::D) != d {
                    return Err(format!("destination width: {c:?}"));
                }
                Ok(F::Def(*r))
            }
            Opnd::Sink => Ok(F::Raw(NONE)),
            _ => Err(format!("destination {o:?}")),
        }
    }
    fn pred(&self, o: &Opnd) -> Result<F, String> {
        match o {
            Opnd::Reg(r) if self.f.classes[*r as usize] == Class::Pred => Ok(F::Raw(self.pred_of[*r as usize])),
            Opnd::Imm(v) => Ok(F::Raw(CONST | (*v != 0) as u32)),
            Opnd::Sink => Ok(F::Raw(NONE)),
            _ => Err(format!("predicate {o:?}")),
        }
    }
    fn is_pred(&self, o: &Opnd) -> bool {
        matches!(o, Opnd::Reg(r) if self.f.classes[*r as usize] == Class::Pred)
    }

    fn emit(&mut self, p: &PInst, mut inst: Inst, fields: Vec<F>) {
        inst.loc = p.loc;
        self.out.push(Low { inst, fields });
        self.texts.push(p.op.clone());
    }

    fn lower(&mut self, p: &PInst) -> Result<(), String> {
        let op = p.op.as_str();
        let o = &p.opnds;
        let parts: Vec<&str> = op.split('.').collect();
        let ty = *parts.last().unwrap();
        let mut i = blank();
        let mut fields: Vec<F> = vec![];
        if let Some((g, neg)) = p.guard {
            i.guard = self.pred_of[g as usize];
            i.neg = neg;
            i.guarded = true;
        }
        match parts[0] {
            "bra" => {
                i.kind = if p.guard.is_some() { Kind::BraIf } else { Kind::Bra };
                i.class = C_BRA;
                let Opnd::Sym(_) = &o[0] else { return Err("target".into()) };
                self.emit(p, i, fields);
                return Ok(());
            }
            "ret" | "exit" => {
                if p.guard.is_some() {
                    return Err("guarded ret".into());
                }
                i.kind = Kind::Ret;
                i.class = C_BRA;
                self.emit(p, i, fields);
                return Ok(());
            }
            "trap" => {
                i.kind = Kind::Trap;
                self.emit(p, i, fields);
                return Ok(());
            }
            "bar" | "barrier" if parts[1] == "sync" || parts[1] == "cta" => {
                i.kind = Kind::Bar;
                i.class = C_BAR;
                fields.push(self.src(&o[0], false)?);
                fields.push(match o.get(1) {
                    Some(x) => self.src(x, false)?,
                    None => F::Raw(NONE),
                });
                self.emit(p, i, fields);
                return Ok(());
            }
            "bar" if parts[1] == "warp" => {
                i.kind = Kind::Sync;
                i.class = C_BAR;
                i.f = ops::warp_sync;
                i.target = 1;
                let m = self.src(&o[0], false)?;
                fields = vec![F::Raw(NONE); 5];
                fields.push(m);
                self.emit(p, i, fields);
                return Ok(());
            }
            "wgmma" => {
                i.kind = Kind::Sync;
                i.class = C_MMA;
                match parts[1] {
                    "fence" => {}
                    "commit_group" => i.f = crate::warp::hopper::wgmma_commit,
                    "wait_group" => {
                        i.f = crate::warp::hopper::wgmma_wait;
                        let Opnd::Imm(n) = o[0] else { return Err("group count".into()) };
                        i.imm = n as i64;
                    }
                    "mma_async" => {
                        if !op.contains("k16.f32.bf16.bf16") {
                            return Err("types".into());
                        }
                        i.f = crate::warp::hopper::wgmma;
                        let Opnd::Vec(d) = &o[0] else { return Err("accumulators".into()) };
                        for x in d {
                            fields.push(self.dst(x, false)?);
                        }
                        i.count = d.len() as u8;
                        let from_registers = matches!(&o[1], Opnd::Vec(_));
                        if let Opnd::Vec(a) = &o[1] {
                            for x in a {
                                fields.push(self.src(x, false)?);
                            }
                            i.size = a.len() as u8;
                        } else {
                            fields.push(self.src(&o[1], true)?);
                            i.size = 1;
                        }
                        fields.push(self.src(&o[2], true)?);
                        fields.push(self.pred(&o[3])?);
                        let flags: Vec<u64> = o[4..]
                            .iter()
                            .map(|x| if let Opnd::Imm(v) = x { Ok(*v) } else { Err("immediate") })
                            .collect::<Result<_, _>>()?;
                        if flags[..2] != [1, 1] {
                            return Err("negated operands".into());
                        }
                        i.imm = if from_registers {
                            (flags.get(2).copied().unwrap_or(0) << 1) as i64
                        } else {
                            (flags[2] | flags[3] << 1) as i64
                        };
                        // what is there before is read
                        for x in d {
                            fields.push(self.src(x, false)?);
                        }
                    }
                    _ => return Err("opcode".into()),
                }
                self.emit(p, i, fields);
                return Ok(());
            }
            "mbarrier" => {
                i.class = C_BAR;
                i.kind = Kind::Mem;
                let address = |x: &Opnd, i: &mut Inst| -> Result<Opnd, String> {
                    let Opnd::Addr(a, off) = x else { return Err("address".into()) };
                    i.imm = *off;
                    Ok((**a).clone())
                };
                match parts[1] {
                    "init" => {
                        i.f = crate::warp::hopper::mbarrier_init;
                        let a = address(&o[0], &mut i)?;
                        fields = vec![self.src(&a, false)?, self.src(&o[1], false)?];
                    }
                    "arrive" => {
                        i.f = crate::warp::hopper::mbarrier_arrive;
                        if o[0] != Opnd::Sink {
                            return Err("state".into());
                        }
                        let a = address(&o[1], &mut i)?;
                        fields = vec![self.src(&a, false)?];
                        if parts[2] == "expect_tx" {
                            fields.push(self.src(&o[2], false)?);
                        } else if o.len() > 2 {
                            return Err("count".into());
                        } else {
                            fields.push(F::Raw(NONE));
                        }
                    }
                    "try_wait" | "test_wait" if parts[2] == "parity" => {
                        i.f = crate::warp::hopper::mbarrier_try_wait;
                        i.kind = Kind::Yield;
                        let a = address(&o[1], &mut i)?;
                        fields = vec![self.pred(&o[0])?, self.src(&a, false)?, self.src(&o[2], false)?];
                    }
                    _ => return Err("opcode".into()),
                }
                self.emit(p, i, fields);
                return Ok(());
            }
            "cp" if parts[1] == "async" && parts[2] == "bulk" => {
                if !op.starts_with("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes") {
                    return Err("opcode".into());
                }
                i.f = crate::warp::hopper::bulk_copy;
                i.class = C_GLOBAL;
                i.kind = Kind::Mem;
                let base = |x: &Opnd| match x {
                    Opnd::Addr(a, 0) => Ok((**a).clone()),
                    _ => Err("address".to_string()),
                };
                fields = vec![
                    self.src(&base(&o[0])?, false)?,
                    self.src(&base(&o[1])?, true)?,
                    self.src(&o[2], false)?,
                    self.src(&base(&o[3])?, false)?,
                ];
                i.mem = self.mems;
                self.mems += 1;
                self.emit(p, i, fields);
                return Ok(());
            }
            "fence" if op.starts_with("fence.proxy.async") => {
                i.f = crate::warp::hopper::proxy_fence;
                self.emit(p, i, fields);
                return Ok(());
            }
            "fence" | "membar" | "prefetch" | "nanosleep" | "setmaxnreg" => {
                self.emit(p, i, fields);
                return Ok(());
            }
            "mov" => {
                if ty == "pred" {
                    i.f = ops::arithmetic(op).unwrap();
                    i.class = C_PRED;
                    fields = vec![self.pred(&o[0])?, self.pred(&o[1])?];
                } else if let Opnd::Special(s) = &o[1] {
                    i.class = C_MOV;
                    let k = SPECIALS.iter().position(|x| x == s);
                    match k {
                        Some(k) => {
                            i.f = if is_d(ty) { ops::mov_special64 } else { ops::mov_special };
                            i.imm = k as i64;
                        }
                        None => return Err(format!("special register {s}")),
                    }
                    fields = vec![self.dst(&o[0], is_d(ty))?];
                } else if let Opnd::Vec(v) = &o[1] {
                    i.class = C_MOV;
                    if v.len() != 2 {
                        return Err("pack".into());
                    }
                    if is_d(ty) {
                        i.f = ops::pack32;
                        fields = vec![self.dst(&o[0], true)?, self.src(&v[0], false)?, self.src(&v[1], false)?];
                    } else {
                        i.f = ops::pack16;
                        fields = vec![self.dst(&o[0], false)?, self.src(&v[0], false)?, self.src(&v[1], false)?];
                    }
                } else if let Opnd::Vec(v) = &o[0] {
                    i.class = C_MOV;
                    if v.len() != 2 {
                        return Err("unpack".into());
                    }
                    i.f = if is_d(ty) { ops::unpack32 } else { ops::unpack16 };
                    fields = vec![self.dst(&v[0], false)?, self.dst(&v[1], false)?, self.src(&o[1], is_d(ty))?];
                } else {
                    i.f = ops::arithmetic(op).ok_or("opcode")?;
                    i.class = C_MOV;
                    fields = vec![self.dst(&o[0], is_d(ty))?, self.src(&o[1], is_d(ty))?];
                }
            }
            "setp" => {
                if parts.len() != 3 {
                    return Err("setp with a combination".into());
                }
                i.f = ops::setp(parts[1], ty).ok_or("opcode")?;
                i.class = C_PRED;
                fields = vec![self.pred(&o[0])?, self.src(&o[1], is_d(ty))?, self.src(&o[2], is_d(ty))?];
            }
            "selp" => {
                i.f = ops::arithmetic(op).ok_or("opcode")?;
                i.class = C_PRED;
                fields = vec![
                    self.dst(&o[0], is_d(ty))?,
                    self.src(&o[1], is_d(ty))?,
                    self.src(&o[2], is_d(ty))?,
                    self.pred(&o[3])?,
                ];
            }
            "and" | "or" | "xor" | "not" if ty == "pred" => {
                i.f = ops::arithmetic(op).ok_or("opcode")?;
                i.class = C_PRED;
                for x in o {
                    fields.push(self.pred(x)?);
                }
            }
            "ld" | "st" => {
                let store = parts[0] == "st";
                let space =
                    ["global", "shared", "param", "local"].into_iter().find(|s| parts.contains(s)).unwrap_or("global");
                let n = if parts.contains(&"v4") {
                    4
                } else if parts.contains(&"v2") {
                    2
                } else {
                    1
                };
                i.size = match &ty[1..] {
                    "8" => 1,
                    "16" => 2,
                    "32" => 4,
                    "64" => 8,
                    _ => return Err("type".into()),
                };
                i.signed = ty.starts_with('s') && i.size < 8;
                i.count = n as u8;
                if p.used != 0 && !store {
                    i.target = p.used.trailing_zeros() | (32 - p.used.leading_zeros()) << 16;
                }
                let d = is_d(ty);
                let (values, address) = if store { (&o[1], &o[0]) } else { (&o[0], &o[1]) };
                let list: Vec<&Opnd> = match values {
                    Opnd::Vec(v) => v.iter().collect(),
                    x => vec![x],
                };
                if list.len() != n {
                    return Err("vector".into());
                }
                let wide = |x: &Opnd| matches!(x, Opnd::Reg(r) if self.f.classes[*r as usize] == Class::D);
                i.neg = !d && list.iter().any(|x| wide(x));
                if i.neg && (!list.iter().all(|x| wide(x)) || false) {
                    return Err("mixed widths".into());
                }
                let d = d || i.neg;
                for x in list {
                    let f = if store { self.src(x, d)? } else { self.dst(x, d)? };
                    if matches!(f, F::Raw(NONE)) {
                        return Err("a sink in a load".into());
                    }
                    fields.push(f);
                }
                let Opnd::Addr(base, off) = address else { return Err("address".into()) };
                i.imm = *off;
                if space == "param" && !store {
                    if let Opnd::Sym(s) = &**base {
                        let (po, bytes) = *self.params.get(s).ok_or_else(|| format!("parameter {s}"))?;
                        i.imm += po as i64;
                        if *off < 0 || *off as usize + n * i.size as usize > bytes {
                            return Err("parameter load out of bounds".into());
                        }
                        i.class = C_MOV;
                        i.f = match n {
                            1 => ops::ld_param_const::<1>,
                            2 => ops::ld_param_const::<2>,
                            _ => ops::ld_param_const::<4>,
                        };
                        self.emit(p, i, fields);
                        return Ok(());
                    }
                }
                // shared addresses are 32 bits wide here, all others 64
                let wide = match &**base {
                    Opnd::Reg(r) => self.f.classes[*r as usize] == Class::D,
                    _ => space != "shared",
                };
                if (space == "shared") == wide {
                    return Err("address width".into());
                }
                let a = self.src(base, wide)?;
                fields.push(a);
                i.mem = self.mems;
                self.mems += 1;
                i.class = match space {
                    "shared" => C_SHARED,
                    "param" => C_MOV,
                    _ => C_GLOBAL,
                };
                macro_rules! by {
                    ($f:ident) => {
                        match n {
                            1 => ops::$f::<1> as OpFn,
                            2 => ops::$f::<2>,
                            _ => ops::$f::<4>,
                        }
                    };
                }
                i.f = match (space, store) {
                    ("global", false)
                        if parts.contains(&"acquire") || parts.contains(&"volatile") || parts.contains(&"relaxed") =>
                    {
                        if n != 1 || i.size != 4 {
                            return Err("acquire of this type".into());
                        }
                        i.kind = Kind::Yield;
                        ops::ld_acquire
                    }
                    ("global", false) => by!(ld_global),
                    ("global", true) => by!(st_global),
                    ("shared", false) => by!(ld_shared),
                    ("shared", true) => by!(st_shared),
                    ("local", false) => by!(ld_local),
                    ("local", true) => by!(st_local),
                    ("param", false) => by!(ld_param),
                    _ => return Err("space".into()),
                };
            }
            "atom" | "red" => {
                let kind = parts
                    .iter()
                    .find(|x| matches!(**x, "add" | "min" | "max" | "and" | "or" | "xor" | "exch" | "cas"))
                    .ok_or("atomic")?;
                i.f = ops::atomic(kind, ty).ok_or("atomic")?;
                i.class = C_GLOBAL;
                if parts.contains(&"shared") {
                    return Err("atomic on shared memory".into());
                }
                let d = is_d(ty);
                let mut k = 0;
                if parts[0] == "atom" {
                    fields.push(self.dst(&o[0], d)?);
                    k = 1;
                } else {
                    fields.push(F::Raw(NONE));
                }
                let Opnd::Addr(base, off) = &o[k] else { return Err("address".into()) };
                i.imm = *off;
                fields.push(self.src(base, true)?);
                fields.push(self.src(&o[k + 1], d)?);
                fields.push(match o.get(k + 2) {
                    Some(x) => self.src(x, d)?,
                    None => F::Raw(NONE),
                });
                i.mem = self.mems;
                self.mems += 1;
            }
            "cp" if parts[1] == "async" => match parts[2] {
                "commit_group" => {
                    i.f = ops::cp_commit;
                    i.class = C_OTHER;
                }
                "wait_group" => {
                    i.f = ops::cp_wait;
                    let Opnd::Imm(n) = o[0] else { return Err("group count".into()) };
                    i.imm = n as i64;
                }
                "wait_all" => {
                    i.f = ops::cp_wait;
                    i.imm = -1;
                }
                "cg" | "ca" => {
                    i.f = ops::cp_async;
                    i.class = C_GLOBAL;
                    let (Opnd::Addr(d, doff), Opnd::Addr(s, soff), Opnd::Imm(n)) = (&o[0], &o[1], &o[2]) else {
                        return Err("operands".into());
                    };
                    i.size = *n as u8;
                    i.imm = *soff;
                    i.target = *doff as u32;
                    fields.push(self.src(d, false)?);
                    fields.push(self.src(s, true)?);
                    fields.push(match o.get(3) {
                        Some(x) => self.src(x, false)?,
                        None => F::Raw(NONE),
                    });
                    i.mem = self.mems;
                    self.mems += 1;
                }
                _ => return Err("opcode".into()),
            },
            "shfl" => {
                i.f = ops::shfl;
                i.kind = Kind::Sync;
                i.class = C_SHFL;
                i.imm = match parts[2] {
                    "idx" => 0,
                    "bfly" => 1,
                    "up" => 2,
                    _ => 3,
                };
                let (d, q) = match &o[0] {
                    Opnd::Pair(d, q) => (F::Def(*d), F::Raw(self.pred_of[*q as usize])),
                    x => (self.dst(x, false)?, F::Raw(NONE)),
                };
                fields = vec![
                    d,
                    self.src(&o[1], false)?,
                    self.src(&o[2], false)?,
                    self.src(&o[3], false)?,
                    q,
                    self.src(&o[4], false)?,
                ];
                i.target = 1; // has a member mask
            }
            "ldmatrix" => {
                let trans = parts.contains(&"trans");
                i.kind = Kind::Sync;
                i.class = C_LDMATRIX;
                let Opnd::Vec(v) = &o[0] else { return Err("destinations".into()) };
                i.f = match (v.len(), trans) {
                    (1, false) => ops::ldmatrix::<1, false>,
                    (2, false) => ops::ldmatrix::<2, false>,
                    (4, false) => ops::ldmatrix::<4, false>,
                    (1, true) => ops::ldmatrix::<1, true>,
                    (2, true) => ops::ldmatrix::<2, true>,
                    (4, true) => ops::ldmatrix::<4, true>,
                    _ => return Err("matrices".into()),
                };
                for x in v {
                    fields.push(self.dst(x, false)?);
                }
                let Opnd::Addr(a, off) = &o[1] else { return Err("address".into()) };
                i.imm = *off;
                fields.push(self.src(a, false)?);
            }
            "mma" => {
                i.kind = Kind::Sync;
                i.class = C_MMA;
                i.f = match op {
                    "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32" => ops::mma_bf16,
                    "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32" => ops::mma_tf32,
                    _ => return Err("opcode".into()),
                };
                for (k, x) in o.iter().enumerate() {
                    let Opnd::Vec(v) = x else { return Err("fragment".into()) };
                    if v.len() != [4, 4, 2, 4][k] {
                        return Err("fragment".into());
                    }
                    for y in v {
                        fields.push(if k == 0 { self.dst(y, false)? } else { self.src(y, false)? });
                    }
                }
            }
            "bfi" => {
                i.f = if is_d(ty) { ops::bfi64 } else { ops::bfi32 };
                i.class = C_INT;
                let d = is_d(ty);
                fields = vec![
                    self.dst(&o[0], d)?,
                    self.src(&o[1], d)?,
                    self.src(&o[2], d)?,
                    self.src(&o[3], false)?,
                    self.src(&o[4], false)?,
                ];
            }
            "bfe" if ty == "u32" => {
                i.f = ops::bfe_u32;
                i.class = C_INT;
                fields = vec![
                    self.dst(&o[0], false)?,
                    self.src(&o[1], false)?,
                    self.src(&o[2], false)?,
                    self.src(&o[3], false)?,
                ];
            }
            "prmt" => {
                i.f = ops::prmt;
                i.class = C_INT;
                fields = vec![
                    self.dst(&o[0], false)?,
                    self.src(&o[1], false)?,
                    self.src(&o[2], false)?,
                    self.src(&o[3], false)?,
                ];
            }
            "shf" => {
                i.f = if parts[1] == "l" { ops::shf_l_wrap } else { ops::shf_r_wrap };
                i.class = C_INT;
                fields = vec![
                    self.dst(&o[0], false)?,
                    self.src(&o[1], false)?,
                    self.src(&o[2], false)?,
                    self.src(&o[3], false)?,
                ];
            }
            _ => return self.lower_arithmetic(p, i),
        }
        self.finish(p, i, fields);
        Ok(())
    }

    fn lower_arithmetic(&mut self, p: &PInst, mut i: Inst) -> Result<(), String> {
        let op = p.op.as_str();
        let o = &p.opnds;
        let parts: Vec<&str> = op.split('.').collect();
        let ty = *parts.last().unwrap();
        i.f = ops::arithmetic(op).ok_or_else(|| format!("unknown opcode {op}"))?;
        if crate::config::HW_EX2.load(std::sync::atomic::Ordering::Relaxed) {
            i.f = ops::chip_op(op).unwrap_or(i.f);
        }
        let d = is_d(ty);
        i.class = match ty {
            "f32" => C_FP32,
            "f64" => C_FP64,
            _ => C_INT,
        };
        let mut fields = vec![];
        match parts[0] {
            "cvt" => {
                i.class = C_CVT;
                let dt = parts[parts.len() - 2];
                fields.push(self.dst(&o[0], is_d(dt))?);
                let mut d = d;
                if !d && matches!(&o[1], Opnd::Reg(r) if self.f.classes[*r as usize] == Class::D) {
                    i.f = ops::convert_low(op).ok_or("conversion from a wide register")?;
                    d = true;
                }
                for x in &o[1..] {
                    fields.push(self.src(x, d)?);
                }
            }
            "mul" if parts[1] == "wide" => {
                fields.push(self.dst(&o[0], ty != "u16" && ty != "s16")?);
                fields.push(self.src(&o[1], false)?);
                fields.push(self.src(&o[2], false)?);
            }
            "mad" if parts[1] == "wide" => {
                fields.push(self.dst(&o[0], true)?);
                fields.push(self.src(&o[1], false)?);
                fields.push(self.src(&o[2], false)?);
                fields.push(self.src(&o[3], true)?);
            }
            "shl" | "shr" => {
                fields.push(self.dst(&o[0], d)?);
                fields.push(self.src(&o[1], d)?);
                fields.push(self.src(&o[2], false)?);
            }
            _ => {
                fields.push(self.dst(&o[0], d)?);
                for x in &o[1..] {
                    fields.push(self.src(x, d)?);
                }
            }
        }
        self.finish(p, i, fields);
        Ok(())
    }

    fn finish(&mut self, p: &PInst, mut i: Inst, mut fields: Vec<F>) {
        if i.guarded && i.kind == Kind::Plain {
            i.kind = Kind::Guarded;
            // what is not written stays: a use
            let defs: Vec<u32> =
                fields.iter().filter_map(|f| if let F::Def(v) = f { Some(*v) } else { None }).collect();
            while fields.len() < 4 {
                fields.push(F::Raw(NONE));
            }
            fields.extend(defs.into_iter().map(F::Use));
        }
        if i.kind == Kind::Plain
            && (matches!(i.class, C_GLOBAL | C_SHARED)
                || (p.op.starts_with("ld.param") && i.f as usize != ops::cp_wait as usize))
        {
            i.kind = Kind::Mem;
        }
        self.emit(p, i, fields);
    }
}

pub fn compile(m: &Module, globals: &HashMap<String, u64>, name: &str) -> Result<Kernel, String> {
    let entry = m.entries.get(name).ok_or("no such entry")?;
    let func = ptx::parse_entry(m, name)?;
    let mut pred_of = vec![0u32; func.classes.len()];
    let mut preds = 0;
    for (k, c) in func.classes.iter().enumerate() {
        if *c == Class::Pred {
            pred_of[k] = preds;
            preds += 1;
        }
    }
    let mut static_shared = 0usize;
    let mut shared = HashMap::new();
    for v in m.shared.iter().chain(&func.shared) {
        static_shared = static_shared.next_multiple_of(v.align.max(1));
        shared.insert(v.name.clone(), SHARED_BASE + static_shared as u32);
        static_shared += v.bytes;
    }
    let static_shared = static_shared.next_multiple_of(128);
    for n in &m.dynamic_shared {
        shared.insert(n.clone(), SHARED_BASE + static_shared as u32);
    }
    let mut local_bytes = 0usize;
    let mut local = HashMap::new();
    for v in &func.local {
        local_bytes = local_bytes.next_multiple_of(v.align.max(16));
        local.insert(v.name.clone(), local_bytes as u64);
        local_bytes += v.bytes;
    }
    let params = entry.params.iter().map(|p| (p.name.clone(), (p.offset, p.bytes))).collect();
    let mut c = C {
        m,
        globals,
        f: &func,
        params,
        shared,
        local,
        consts: vec![],
        const_index: HashMap::new(),
        pred_of,
        out: vec![],
        texts: vec![],
        mems: 0,
    };
    // blocks
    let mut blocks: Vec<(usize, usize)> = vec![]; // [first, end) of out, the first being Enter
    let mut label_block: HashMap<&str, u32> = HashMap::new();
    let mut targets: Vec<(usize, &str)> = vec![];
    let mut open = false;
    let enter = |c: &mut C, blocks: &mut Vec<(usize, usize)>| {
        let at = c.out.len();
        if let Some(b) = blocks.last_mut() {
            b.1 = at;
        }
        let mut i = blank();
        i.kind = Kind::Enter;
        i.target = blocks.len() as u32;
        c.out.push(Low { inst: i, fields: vec![] });
        c.texts.push("enter".into());
        blocks.push((at, at));
    };
    for item in &func.items {
        match item {
            Item::Label(l) => {
                // an empty block is kept if it is the last one made
                if !open || c.out.len() != blocks.last().map_or(0, |b| b.0 + 1) {
                    enter(&mut c, &mut blocks);
                    open = true;
                }
                label_block.insert(l.as_str(), blocks.len() as u32 - 1);
            }
            Item::Inst(p) => {
                if !open {
                    enter(&mut c, &mut blocks);
                    open = true;
                }
                let at = c.out.len();
                c.lower(p).map_err(|e| format!("{} {:?}: {e}", p.op, p.opnds))?;
                let k = c.out[at].inst.kind;
                if matches!(k, Kind::Bra | Kind::BraIf) {
                    let Opnd::Sym(s) = &p.opnds[0] else { unreachable!() };
                    targets.push((at, s.as_str()));
                }
                if matches!(k, Kind::Bra | Kind::BraIf | Kind::Ret) {
                    open = false;
                }
            }
        }
    }
    // falling off the end returns
    if !open {
        enter(&mut c, &mut blocks);
    }
    let mut i = blank();
    i.kind = Kind::Ret;
    c.out.push(Low { inst: i, fields: vec![] });
    c.texts.push("ret".into());
    let total = c.out.len();
    blocks.last_mut().unwrap().1 = total;
    let mut succ: Vec<Vec<u32>> = vec![vec![]; blocks.len()];
    let mut target_of: HashMap<usize, u32> = HashMap::new();
    for (at, s) in &targets {
        let b = *label_block.get(s).ok_or_else(|| format!("label {s}"))?;
        target_of.insert(*at, b);
        c.out[*at].inst.target = blocks[b as usize].0 as u32;
    }
    for (b, &(_, end)) in blocks.iter().enumerate() {
        let last = &c.out[end - 1].inst;
        match last.kind {
            Kind::Bra => succ[b].push(target_of[&(end - 1)]),
            Kind::BraIf => {
                succ[b].push(target_of[&(end - 1)]);
                if b + 1 < blocks.len() {
                    succ[b].push(b as u32 + 1);
                }
            }
            Kind::Ret => {}
            _ => {
                if b + 1 < blocks.len() {
                    succ[b].push(b as u32 + 1);
                }
            }
        }
    }
    // liveness of what crosses blocks
    let nv = func.classes.len();
    let mut home = vec![u32::MAX; nv];
    let mut defined = vec![false; nv];
    let mut global = vec![false; nv];
    for (b, &(s, e)) in blocks.iter().enumerate() {
        for low in &c.out[s..e] {
            for f in &low.fields {
                if let F::Use(v) = f {
                    let v = *v as usize;
                    if home[v] != b as u32 || !defined[v] {
                        global[v] = true;
                    }
                }
            }
            for f in &low.fields {
                if let F::Def(v) = f {
                    let v = *v as usize;
                    if home[v] != u32::MAX && home[v] != b as u32 {
                        global[v] = true;
                    }
                    home[v] = b as u32;
                    defined[v] = true;
                }
            }
        }
    }
    let mut dense = vec![u32::MAX; nv];
    let mut back: Vec<u32> = vec![];
    for v in 0..nv {
        if global[v] && func.classes[v] != Class::Pred {
            dense[v] = back.len() as u32;
            back.push(v as u32);
        }
    }
    let words = back.len().div_ceil(64).max(1);
    let nb = blocks.len();
    let mut gen_: Vec<u64> = vec![0; nb * words];
    let mut kill: Vec<u64> = vec![0; nb * words];
    for (b, &(s, e)) in blocks.iter().enumerate() {
        let g = &mut gen_[b * words..(b + 1) * words];
        let k = &mut kill[b * words..(b + 1) * words];
        for low in &c.out[s..e] {
            for f in &low.fields {
                if let F::Use(v) = f {
                    let d = dense[*v as usize];
                    if d != u32::MAX && k[d as usize / 64] >> (d % 64) & 1 == 0 {
                        g[d as usize / 64] |= 1 << (d % 64);
                    }
                }
            }
            for f in &low.fields {
                if let F::Def(v) = f {
                    let d = dense[*v as usize];
                    if d != u32::MAX {
                        k[d as usize / 64] |= 1 << (d % 64);
                    }
                }
            }
        }
    }
    let mut live_in = gen_.clone();
    let mut live_out = vec![0u64; nb * words];
    loop {
        let mut changed = false;
        for b in (0..nb).rev() {
            for w in 0..words {
                let mut x = 0;
                for &s in &succ[b] {
                    x |= live_in[s as usize * words + w];
                }
                live_out[b * words + w] = x;
                let n = gen_[b * words + w] | (x & !kill[b * words + w]);
                if n != live_in[b * words + w] {
                    live_in[b * words + w] = n;
                    changed = true;
                }
            }
        }
        if !changed {
            break;
        }
    }
    let mut first = vec![u32::MAX; nv];
    let mut last = vec![0u32; nv];
    for (p, low) in c.out.iter().enumerate() {
        for f in &low.fields {
            let (v, at) = match f {
                F::Def(v) => (*v as usize, 2 * p as u32 + 1),
                F::Use(v) => (*v as usize, 2 * p as u32),
                _ => continue,
            };
            first[v] = first[v].min(at);
            last[v] = last[v].max(at);
        }
    }
    for (b, &(s, e)) in blocks.iter().enumerate() {
        for w in 0..words {
            let mut x = live_in[b * words + w];
            while x != 0 {
                let v = back[w * 64 + x.trailing_zeros() as usize] as usize;
                x &= x - 1;
                first[v] = first[v].min(2 * s as u32);
                last[v] = last[v].max(2 * s as u32);
            }
            let mut x = live_out[b * words + w];
            while x != 0 {
                let v = back[w * 64 + x.trailing_zeros() as usize] as usize;
                x &= x - 1;
                first[v] = first[v].min(2 * e as u32);
                last[v] = last[v].max(2 * e as u32);
            }
        }
    }
    // linear scan, one pool per width
    let mut order: Vec<u32> =
        (0..nv as u32).filter(|&v| first[v as usize] != u32::MAX && func.classes[v as usize] != Class::Pred).collect();
    order.sort_by_key(|&v| first[v as usize]);
    let mut slot = vec![0u32; nv];
    let mut free: [Vec<u32>; 2] = [vec![], vec![]];
    let mut count = [0u32; 2];
    let mut active: std::collections::BinaryHeap<std::cmp::Reverse<(u32, u32)>> = Default::default();
    for &v in &order {
        let v = v as usize;
        while let Some(&std::cmp::Reverse((end, u))) = active.peek() {
            if end >= first[v] {
                break;
            }
            active.pop();
            let k = (func.classes[u as usize] == Class::D) as usize;
            free[k].push(slot[u as usize]);
        }
        let k = (func.classes[v] == Class::D) as usize;
        slot[v] = free[k].pop().unwrap_or_else(|| {
            count[k] += 1;
            count[k] - 1
        });
        active.push(std::cmp::Reverse((last[v], v as u32)));
    }
    let place = |v: u32| {
        let v = v as usize;
        if func.classes[v] == Class::D { slot[v] * 2 } else { count[1] * 2 + slot[v] }
    };
    let mut code = Vec::with_capacity(total);
    let mut pool = vec![];
    for low in &c.out {
        let mut i = low.inst.clone();
        let codes: Vec<u32> = low
            .fields
            .iter()
            .map(|f| match f {
                F::Def(v) | F::Use(v) => place(*v),
                F::Raw(x) => *x,
            })
            .collect();
        for (k, x) in codes.iter().take(4).enumerate() {
            i.r[k] = *x;
        }
        i.ext = codes.as_ptr();
        pool.push(codes);
        code.push(i);
    }
    let mut histogram = vec![];
    for &(s, e) in &blocks {
        let mut h = [0u32; 14];
        for low in &c.out[s + 1..e] {
            h[low.inst.class as usize] += 1;
        }
        histogram.push(h);
        code[s].imm = (e - s - 1) as i64;
    }
    let max_threads = entry
        .head
        .find(".maxntid")
        .and_then(|p| entry.head[p + 8..].split(',').next().and_then(|x| x.trim().parse().ok()))
        .unwrap_or(1024);
    let _ = c.m;
    Ok(Kernel {
        name: name.to_string(),
        code,
        pool,
        consts: std::mem::take(&mut c.consts),
        slots: (count[1] * 2 + count[0]) as usize,
        preds: preds as usize,
        mems: c.mems as usize,
        blocks: histogram,
        local_bytes,
        static_shared,
        params_bytes: entry.params_bytes,
        locs: func.locs.clone(),
        texts: std::mem::take(&mut c.texts),
        vregs: nv,
        max_threads,
    })
}
