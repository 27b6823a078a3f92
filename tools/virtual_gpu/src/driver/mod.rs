//! The CUDA driver interface on top of the executor.

mod cublaslt;

use crate::config::*;
use crate::ptx::fatbin;
use crate::{launch as run, lower as compile, ptx, sanitize};
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

type R = u32;
const OK: R = 0;
const INVALID_VALUE: R = 1;
const OUT_OF_MEMORY: R = 2;
const NOT_FOUND: R = 500;
const CAPTURE_UNSUPPORTED: R = 900;
const CAPTURE_INVALIDATED: R = 901;

static STICKY: AtomicU32 = AtomicU32::new(0);
macro_rules! alive {
    () => {
        let s = STICKY.load(Ordering::Relaxed);
        if s != 0 {
            return s;
        }
    };
}

// ---- memory

struct Heap {
    map: Arc<Vec<(u64, u64)>>,
    layouts: HashMap<u64, (u64, usize)>, // address -> (block, bytes)
    used: usize,
}
static HEAP: Mutex<Option<Heap>> = Mutex::new(None);
const GUARD: usize = 512;
fn block_bytes(bytes: usize) -> usize {
    bytes.next_multiple_of(512) + 2 * GUARD
}
/// What a copy or a fill has written.
fn mark(address: u64, bytes: usize) {
    if sanitize::on() {
        sanitize::written(address, bytes as u64);
    }
}

fn heap<T>(f: impl FnOnce(&mut Heap) -> T) -> T {
    let mut h = HEAP.lock().unwrap();
    f(h.get_or_insert_with(|| Heap { map: Arc::default(), layouts: HashMap::new(), used: 0 }))
}

fn allocate(bytes: usize) -> Result<u64, R> {
    if bytes == 0 {
        return Err(INVALID_VALUE);
    }
    heap(|h| {
        if bytes > config().memory || h.used + bytes > config().memory {
            return Err(OUT_OF_MEMORY);
        }
        let total = block_bytes(bytes);
        let layout = std::alloc::Layout::from_size_align(total, 512).map_err(|_| OUT_OF_MEMORY)?;
        let block = unsafe { std::alloc::alloc(layout) } as u64;
        if block == 0 {
            return Err(OUT_OF_MEMORY);
        }
        let start = block + GUARD as u64;
        if sanitize::on() {
            sanitize::allocated(start, bytes as u64);
        }
        if bytes <= 64 << 20 {
            unsafe { std::ptr::write_bytes(start as *mut u8, 0xff, bytes) };
        }
        h.used += bytes;
        h.layouts.insert(start, (block, bytes));
        let map = Arc::make_mut(&mut h.map);
        let at = map.partition_point(|a| a.0 < start);
        map.insert(at, (start, start + bytes as u64));
        Ok(start)
    })
}
fn release(start: u64) -> R {
    heap(|h| {
        let Some((block, bytes)) = h.layouts.remove(&start) else { return INVALID_VALUE };
        h.used -= bytes;
        sanitize::freed(start);
        let map = Arc::make_mut(&mut h.map);
        let at = map.partition_point(|a| a.0 < start);
        map.remove(at);
        let layout = std::alloc::Layout::from_size_align(block_bytes(bytes), 512).unwrap();
        unsafe { std::alloc::dealloc(block as *mut u8, layout) };
        OK
    })
}
fn inside(address: u64, bytes: usize) -> bool {
    bytes == 0
        || heap(|h| {
            let k = h.map.partition_point(|a| a.0 <= address);
            k > 0 && address + bytes as u64 <= h.map[k - 1].1
        })
}
fn checked(what: &str, address: u64, bytes: usize) -> R {
    if inside(address, bytes) {
        OK
    } else {
        eprintln!("vgpu: {what} of {bytes} bytes at {address:#x} is outside of every allocation");
        INVALID_VALUE
    }
}

// ---- streams, events, graphs

#[derive(Clone)]
enum Work {
    Launch(Arc<run::Launch>),
    Copy(u64, u64, usize),
    Set(u64, u8, usize),
    Host(usize, usize),
    /// From pageable memory: taken at the call.
    Upload(u64, Arc<Vec<u8>>),
    Free(u64),
    Record(Arc<Event>, u64),
    Wait(Arc<Event>, u64),
}
#[derive(Default)]
struct Stream {
    capture: Mutex<Option<Result<Vec<Work>, R>>>,
    /// What has not run yet, where streams are lazy.
    queue: Mutex<std::collections::VecDeque<Work>>,
    blocking: bool,
}
#[derive(Default)]
struct Event {
    at: Mutex<Option<Instant>>,
    recorded: AtomicU64,
    done: AtomicU64,
    stream: AtomicU64,
}
static STREAMS: Mutex<Vec<usize>> = Mutex::new(vec![]);
static PINNED: Mutex<Vec<(u64, u64)>> = Mutex::new(vec![]);
/// One thread at a time runs what lazy streams hold.
static RUNNING: Mutex<()> = Mutex::new(());

fn pinned(a: u64) -> bool {
    PINNED.lock().unwrap().iter().any(|p| a >= p.0 && a < p.1)
}
/// Runs a stream to its end, or until `enough`.
fn drain_locked(s: &Stream, enough: &dyn Fn() -> bool) -> R {
    let mut worst = OK;
    while !enough() {
        let Some(w) = s.queue.lock().unwrap().pop_front() else { break };
        let r = match &w {
            Work::Wait(e, n) => {
                let other = e.stream.load(Ordering::Relaxed);
                if e.done.load(Ordering::Relaxed) < *n && STREAMS.lock().unwrap().contains(&(other as usize)) {
                    let other = unsafe { stream(other as P) };
                    drain_locked(other, &|| e.done.load(Ordering::Relaxed) >= *n)
                } else {
                    OK
                }
            }
            w => perform(w),
        };
        if r != OK {
            worst = r;
        }
    }
    worst
}
fn drain(s: &Stream) -> R {
    let _one = RUNNING.lock().unwrap();
    drain_locked(s, &|| false)
}
fn drain_all(only_blocking: bool) -> R {
    let _one = RUNNING.lock().unwrap();
    let all: Vec<usize> = STREAMS.lock().unwrap().clone();
    let mut worst = drain_locked(DEFAULT_STREAM.get_or_init(Stream::default), &|| false);
    for s in all {
        let s = unsafe { &*(s as *const Stream) };
        if !only_blocking || s.blocking {
            worst = worst.max(drain_locked(s, &|| false));
        }
    }
    worst
}
fn drain_event(e: &Event) -> R {
    let n = e.recorded.load(Ordering::Relaxed);
    if e.done.load(Ordering::Relaxed) >= n {
        return OK;
    }
    let _one = RUNNING.lock().unwrap();
    let s = e.stream.load(Ordering::Relaxed);
    if s >= 16 && !STREAMS.lock().unwrap().contains(&(s as usize)) {
        return OK;
    }
    drain_locked(unsafe { stream(s as P) }, &|| e.done.load(Ordering::Relaxed) >= n)
}
struct Graph(Vec<Work>);

/// Kernels launched, by name.
static KERNELS: Mutex<std::collections::BTreeSet<String>> = Mutex::new(std::collections::BTreeSet::new());

/// What stands at the end of the process: the names of the kernels launched.
pub fn at_exit() {
    let Some(file) = &config().kernels else { return };
    let names: String = KERNELS.lock().unwrap().iter().map(|name| format!("{name}\n")).collect();
    let written = std::fs::OpenOptions::new().append(true).create(true).open(file);
    if let Err(e) = written.and_then(|mut file| std::io::Write::write_all(&mut file, names.as_bytes())) {
        eprintln!("virtual_gpu: {}: {e}", file.display());
    }
}

static DEFAULT_STREAM: OnceLock<Stream> = OnceLock::new();
unsafe fn stream<'a>(s: *mut c_void) -> &'a Stream {
    if (s as usize) < 16 { DEFAULT_STREAM.get_or_init(Stream::default) } else { &*(s as *const Stream) }
}
fn perform(w: &Work) -> R {
    match w {
        Work::Launch(l) => launch_now(l),
        Work::Copy(d, s, n) => {
            unsafe { std::ptr::copy(*s as *const u8, *d as *mut u8, *n) };
            if sanitize::on() {
                sanitize::copied(*d, *s, *n as u64);
            }
            OK
        }
        Work::Host(f, p) => {
            let f: unsafe extern "C" fn(P) = unsafe { std::mem::transmute(*f) };
            unsafe { f(*p as P) };
            OK
        }
        Work::Upload(d, bytes) => {
            unsafe { std::ptr::copy(bytes.as_ptr(), *d as *mut u8, bytes.len()) };
            mark(*d, bytes.len());
            OK
        }
        Work::Free(p) => release(*p),
        Work::Record(e, n) => {
            *e.at.lock().unwrap() = Some(Instant::now());
            e.done.fetch_max(*n, Ordering::Relaxed);
            OK
        }
        Work::Wait(..) => OK,
        Work::Set(d, v, n) => {
            unsafe { std::ptr::write_bytes(*d as *mut u8, *v, *n) };
            mark(*d, *n);
            OK
        }
    }
}
unsafe fn queue(s: *mut c_void, w: Work) -> R {
    alive!();
    let mut c = stream(s).capture.lock().unwrap();
    match &mut *c {
        Some(Ok(list)) => {
            list.push(w);
            OK
        }
        Some(Err(_)) => CAPTURE_INVALIDATED,
        None => {
            drop(c);
            stream(s).queue.lock().unwrap().push_back(w);
            OK
        }
    }
}
/// A call that may not happen while the stream captures.
unsafe fn forbidden(s: *mut c_void) -> R {
    alive!();
    let mut c = stream(s).capture.lock().unwrap();
    if let Some(state) = &mut *c {
        *state = Err(CAPTURE_INVALIDATED);
        return CAPTURE_UNSUPPORTED;
    }
    OK
}

fn launch_now(l: &Arc<run::Launch>) -> R {
    let allocs = heap(|h| h.map.clone());
    let workspace = if l.cooperative {
        match allocate(64) {
            Ok(w) => {
                unsafe { std::ptr::write_bytes(w as *mut u8, 0, 64) };
                mark(w, 64);
                w
            }
            Err(e) => return e,
        }
    } else {
        0
    };
    let allocs = if l.cooperative { heap(|h| h.map.clone()) } else { allocs };
    if config().kernels.is_some() && !KERNELS.lock().unwrap().contains(&l.kernel.name) {
        KERNELS.lock().unwrap().insert(l.kernel.name.clone());
    }
    let started = Instant::now();
    let r = run::run(l, &config().options, allocs, workspace);
    if workspace != 0 {
        release(workspace);
    }
    if config().trace {
        eprintln!(
            "vgpu: {} {:?} x {:?}: {:.3} ms",
            l.kernel.name,
            l.grid,
            l.block,
            started.elapsed().as_secs_f64() * 1e3
        );
    }
    match r {
        Ok(()) => OK,
        Err(p) => {
            if config().sticky {
                STICKY.store(p.code, Ordering::Relaxed);
            }
            p.code
        }
    }
}

// ---- modules

struct Loaded {
    ptx: Arc<ptx::Module>,
    globals: HashMap<String, u64>,
    sizes: HashMap<String, usize>,
}
struct Function {
    module: Arc<Loaded>,
    name: String,
    kernel: OnceLock<Result<Arc<compile::Kernel>, String>>,
    dynamic_limit: AtomicU32,
    threads: u32,
    min_blocks: u32,
}
impl Function {
    fn kernel(&self) -> Option<&Arc<compile::Kernel>> {
        let k = self.kernel.get_or_init(|| {
            let t = Instant::now();
            let k = compile::compile(&self.module.ptx, &self.module.globals, &self.name).map(Arc::new);
            match &k {
                Err(e) => eprintln!("vgpu: cannot compile {}: {e}", self.name),
                Ok(k) if config().trace => eprintln!(
                    "vgpu: compiled {}: {} instructions, {} registers in {} slots, {:.1} ms",
                    self.name,
                    k.code.len(),
                    k.vregs,
                    k.slots,
                    t.elapsed().as_secs_f64() * 1e3
                ),
                _ => {}
            }
            k
        });
        k.as_ref().ok()
    }
}

macro_rules! api {
    ($($name:ident($($a:ident: $t:ty),*) $body:block)*) => {
        $(#[unsafe(no_mangle)] pub unsafe extern "C" fn $name($($a: $t),*) -> R { $body })*
    };
}
type P = *mut c_void;

unsafe fn launch(f: P, g: [u32; 3], b: [u32; 3], shared: u32, s: P, params: *mut P, cooperative: bool) -> R {
    alive!();
    let f = &*(f as *const Function);
    if g.contains(&0) || b.contains(&0) || g[0] > 0x7fff_ffff || g[1] > 65535 || g[2] > 65535 {
        return INVALID_VALUE;
    }
    let threads = b[0] * b[1] * b[2];
    if threads > f.threads.min(1024) {
        return 701;
    }
    let Some(k) = f.kernel() else { return 218 };
    let dynamic = f.dynamic_limit.load(Ordering::Relaxed);
    if shared > dynamic.max(48 * 1024 - k.static_shared as u32) {
        return INVALID_VALUE;
    }
    let entry = &f.module.ptx.entries[&f.name];
    let mut bytes = vec![0u8; entry.params_bytes + 32];
    bytes.truncate(entry.params_bytes);
    for (n, p) in entry.params.iter().enumerate() {
        let from = *params.add(n) as *const u8;
        std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr().add(p.offset), p.bytes);
    }
    if cooperative {
        let resident = occupancy(f, threads, shared as usize) as u64 * sms() as u64;
        if g.iter().map(|x| *x as u64).product::<u64>() > resident {
            return 720;
        }
    }
    let l = run::Launch {
        kernel: k.clone(),
        module: f.module.ptx.clone(),
        grid: g,
        block: b,
        dynamic_shared: shared,
        params: bytes,
        cooperative,
    };
    queue(s, Work::Launch(Arc::new(l)))
}
/// Multiprocessors, KiB of shared memory of one and of a block, threads of one, L2 MiB.
fn chip() -> (u32, i32, i32, u32, i32) {
    match config().arch.capability() {
        80 => (108, 164, 163, 2048, 40),
        86 => (82, 100, 99, 1536, 6),
        89 => (128, 100, 99, 1536, 72),
        _ => (132, 228, 227, 2048, 50),
    }
}
fn sms() -> u32 {
    chip().0
}
/// What the launch bounds promise, within shared memory and threads: registers are not known here.
fn occupancy(f: &Function, threads: u32, shared: usize) -> u32 {
    let by_shared = chip().1 as usize * 1024 / (shared + 1024);
    (chip().3 / threads.max(1)).min(by_shared as u32).min(f.min_blocks)
}

api! {
    cuInit(_f: c_uint) {
        match settings() {
            Ok(_) => OK,
            Err(problem) => { eprintln!("virtual_gpu: {problem}"); INVALID_VALUE }
        }
    }
    cuDriverGetVersion(v: *mut c_int) { *v = 13000; OK }
    cuDeviceGetCount(n: *mut c_int) { *n = 1; OK }
    cuDeviceGet(d: *mut c_int, n: c_int) { if n != 0 { return 101; } *d = 0; OK }
    cuDeviceGetName(name: *mut c_char, len: c_int, _d: c_int) {
        let t = format!("Virtual GPU sm_{}\0", config().arch.capability());
        std::ptr::copy_nonoverlapping(t.as_ptr(), name as *mut u8, t.len().min(len as usize)); OK
    }
    cuDeviceTotalMem_v2(n: *mut usize, _d: c_int) { *n = config().memory; OK }
    cuDeviceGetUuid(u: *mut u8, _d: c_int) { std::ptr::write_bytes(u, 7, 16); OK }
    cuDeviceGetUuid_v2(u: *mut u8, _d: c_int) { std::ptr::write_bytes(u, 7, 16); OK }
    cuDeviceGetAttribute(v: *mut c_int, a: c_uint, _d: c_int) {
        let (_, sm, optin, threads, l2) = chip();
        *v = match a {
            1 | 2 | 3 => 1024, 4 => 64, 5 => 0x7fff_ffff, 6 | 7 => 65535, 8 => 49152, 9 => 65536, 10 => 32, 12 => 65536,
            13 => 1410000, 14 => 512, 16 => sms() as i32, 36 => 1215000, 37 => 5120,
            38 => l2 << 20, 39 => threads as i32, 41 => 1,
            75 => (config().arch.capability() / 10) as i32, 76 => (config().arch.capability() % 10) as i32,
            81 => sm << 10, 82 => 65536, 95 => 1,
            97 => optin << 10, 106 => 32, 115 => config().pools as i32, _ => 0,
        };
        OK
    }
    cuDevicePrimaryCtxRetain(c: *mut P, _d: c_int) { alive!(); *c = 0x1000 as P; OK }
    cuDevicePrimaryCtxRelease_v2(_d: c_int) { OK }
    cuDevicePrimaryCtxGetState(_d: c_int, f: *mut c_uint, a: *mut c_int) { *f = 0; *a = 1; OK }
    cuCtxSetCurrent(c: P) { CURRENT.with(|x| x.set(c as usize)); OK }
    cuCtxGetCurrent(c: *mut P) { *c = CURRENT.with(|x| x.get()) as P; OK }
    cuCtxGetDevice(d: *mut c_int) { *d = 0; OK }
    cuCtxSynchronize() { alive!(); drain_all(false) }
    cuCtxSetFlags(_f: c_uint) { OK }
    cuMemGetInfo_v2(free: *mut usize, total: *mut usize) { alive!(); let l = config().memory; *total = l; *free = l - heap(|h| h.used); OK }
    cuMemAlloc_v2(p: *mut u64, n: usize) { alive!(); match allocate(n) { Ok(a) => { *p = a; OK } Err(e) => e } }
    cuMemFree_v2(p: u64) { alive!(); if p == 0 { return OK; } drain_all(false); release(p) }
    cuMemAllocAsync(p: *mut u64, n: usize, s: P) {
        let r = forbidden(s); if r != OK { return r; }
        match allocate(n) { Ok(a) => { *p = a; OK } Err(e) => e }
    }
    cuMemAllocFromPoolAsync(p: *mut u64, n: usize, _pool: P, s: P) {
        let r = forbidden(s); if r != OK { return r; }
        match allocate(n) { Ok(a) => { *p = a; OK } Err(e) => e }
    }
    cuMemFreeAsync(p: u64, s: P) { let r = forbidden(s); if r != OK { return r; } if heap(|h| !h.layouts.contains_key(&p)) { return INVALID_VALUE; } queue(s, Work::Free(p)) }
    cuMemPoolCreate(p: *mut P, _props: *const c_void) { alive!(); *p = 0x2000 as P; OK }
    cuMemPoolDestroy(_p: P) { OK }
    cuMemPoolSetAttribute(_p: P, _a: c_uint, _v: P) { OK }
    cuMemPoolGetAttribute(_p: P, a: c_uint, v: P) {
        // 5, 6 reserved; 7, 8 used
        *(v as *mut u64) = if (5..=8).contains(&a) { heap(|h| h.used) as u64 } else { 0 }; OK
    }
    cuMemPoolTrimTo(_p: P, _n: usize) { OK }
    cuDeviceGetDefaultMemPool(p: *mut P, _d: c_int) { *p = 0x2000 as P; OK }
    cuDeviceGetMemPool(p: *mut P, _d: c_int) { *p = 0x2000 as P; OK }
    cuDeviceSetMemPool(_d: c_int, _p: P) { OK }
    cuMemHostAlloc(p: *mut P, n: usize, _f: c_uint) {
        alive!();
        if n == 0 { return INVALID_VALUE; }
        let layout = std::alloc::Layout::from_size_align(n.next_multiple_of(4096) + 4096, 4096).unwrap();
        let a = std::alloc::alloc(layout);
        if a.is_null() { return OUT_OF_MEMORY; }
        *(a as *mut usize) = n;
        *p = a.add(4096) as P;
        PINNED.lock().unwrap().push((*p as u64, *p as u64 + n as u64));
        OK
    }
    cuMemFreeHost(p: P) {
        drain_all(false);
        PINNED.lock().unwrap().retain(|x| x.0 != p as u64);
        let a = (p as *mut u8).sub(4096);
        let n = *(a as *mut usize);
        std::alloc::dealloc(a, std::alloc::Layout::from_size_align(n.next_multiple_of(4096) + 4096, 4096).unwrap()); OK
    }
    cuMemcpyHtoD_v2(d: u64, s: P, n: usize) { alive!(); drain_all(true); let r = checked("a copy to the device", d, n); if r != OK { return r; } perform(&Work::Copy(d, s as u64, n)) }
    cuMemcpyDtoH_v2(d: P, s: u64, n: usize) { alive!(); drain_all(true); let r = checked("a copy from the device", s, n); if r != OK { return r; } std::ptr::copy(s as *const u8, d as *mut u8, n); OK }
    cuMemcpyDtoD_v2(d: u64, s: u64, n: usize) { alive!(); drain_all(true); let r = checked("a copy to", d, n) | checked("a copy from", s, n); if r != OK { return r; } perform(&Work::Copy(d, s, n)) }
    cuMemcpyHtoDAsync_v2(d: u64, s: P, n: usize, q: P) { let r = checked("a copy to the device", d, n); if r != OK { return r; }
        if !pinned(s as u64) { return queue(q, Work::Upload(d, Arc::new(std::slice::from_raw_parts(s as *const u8, n).to_vec()))); }
        queue(q, Work::Copy(d, s as u64, n)) }
    cuMemcpyDtoHAsync_v2(d: P, s: u64, n: usize, q: P) { let r = checked("a copy from the device", s, n); if r != OK { return r; }
        let r = queue(q, Work::Copy(d as u64, s, n));
        if r == OK && !pinned(d as u64) { return drain(stream(q)); }
        r }
    cuMemcpyDtoDAsync_v2(d: u64, s: u64, n: usize, q: P) { let r = checked("a copy to", d, n) | checked("a copy from", s, n); if r != OK { return r; } queue(q, Work::Copy(d, s, n)) }
    cuMemcpyAsync(d: u64, s: u64, n: usize, q: P) { queue(q, Work::Copy(d, s, n)) }
    cuMemsetD8_v2(d: u64, v: u8, n: usize) { alive!(); drain_all(true); let r = checked("a fill", d, n); if r != OK { return r; } perform(&Work::Set(d, v, n)) }
    cuMemsetD8Async(d: u64, v: u8, n: usize, q: P) { let r = checked("a fill", d, n); if r != OK { return r; } queue(q, Work::Set(d, v, n)) }
    cuLaunchHostFunc(s: P, f: usize, p: P) { queue(s, Work::Host(f, p as usize)) }
    vgpu_mark(p: u64, n: usize) { mark(p, n); OK }
    vgpu_check(p: u64, n: usize) { checked("a library's operand", p, n) }
    cuStreamCreate(s: *mut P, f: c_uint) { alive!(); *s = Box::into_raw(Box::new(Stream { blocking: f & 1 == 0, ..Default::default() })) as P; STREAMS.lock().unwrap().push(*s as usize); OK }
    cuStreamCreateWithPriority(s: *mut P, f: c_uint, _p: c_int) { cuStreamCreate(s, f) }
    cuStreamDestroy_v2(s: P) { if s as usize >= 16 { drain(stream(s)); STREAMS.lock().unwrap().retain(|x| *x != s as usize); drop(Box::from_raw(s as *mut Stream)); } OK }
    cuStreamSynchronize(s: P) { let r = forbidden(s); if r != OK { return r; } drain(stream(s)) }
    cuStreamQuery(s: P) { let r = forbidden(s); if r != OK { return r; } drain(stream(s)) }
    cuStreamWaitEvent(s: P, e: P, _f: c_uint) { alive!(); let e = &*(e as *const Arc<Event>); queue(s, Work::Wait(e.clone(), e.recorded.load(Ordering::Relaxed))) }
    cuStreamBeginCapture_v2(s: P, _m: c_uint) {
        alive!();
        if (s as usize) < 3 { return CAPTURE_UNSUPPORTED; }
        let mut c = stream(s).capture.lock().unwrap();
        if c.is_some() { return 905; }
        *c = Some(Ok(vec![])); OK
    }
    cuStreamEndCapture(s: P, g: *mut P) {
        alive!();
        *g = std::ptr::null_mut();
        match stream(s).capture.lock().unwrap().take() {
            Some(Ok(list)) => { *g = Box::into_raw(Box::new(Graph(list))) as P; OK }
            Some(Err(e)) => e,
            None => 907,
        }
    }
    cuStreamIsCapturing(s: P, status: *mut c_uint) {
        *status = match &*stream(s).capture.lock().unwrap() { None => 0, Some(Ok(_)) => 1, Some(Err(_)) => 2 }; OK
    }
    cuGraphInstantiateWithFlags(x: *mut P, g: P, _f: u64) { alive!(); *x = Box::into_raw(Box::new(Graph((*(g as *const Graph)).0.clone()))) as P; OK }
    cuGraphDestroy(g: P) { drop(Box::from_raw(g as *mut Graph)); OK }
    cuGraphExecDestroy(g: P) { drop(Box::from_raw(g as *mut Graph)); OK }
    cuGraphUpload(_g: P, _s: P) { OK }
    cuGraphLaunch(g: P, s: P) {
        for w in &(*(g as *const Graph)).0 { let r = queue(s, w.clone()); if r != OK { return r; } }
        OK
    }
    cuEventCreate(e: *mut P, _f: c_uint) { alive!(); *e = Box::into_raw(Box::new(Arc::new(Event::default()))) as P; OK }
    cuEventDestroy_v2(e: P) { drop(Box::from_raw(e as *mut Arc<Event>)); OK }
    cuEventRecord(e: P, s: P) {
        alive!();
        if stream(s).capture.lock().unwrap().is_some() { return OK; }
        let e = &*(e as *const Arc<Event>);
        let n = e.recorded.fetch_add(1, Ordering::Relaxed) + 1;
        e.stream.store(s as u64, Ordering::Relaxed);
        queue(s, Work::Record(e.clone(), n))
    }
    cuEventQuery(e: P) { alive!(); drain_event(&*(e as *const Arc<Event>)) }
    cuEventSynchronize(e: P) { alive!(); drain_event(&*(e as *const Arc<Event>)) }
    cuEventElapsedTime(ms: *mut f32, a: P, b: P) { elapsed(ms, a, b) }
    cuEventElapsedTime_v2(ms: *mut f32, a: P, b: P) { elapsed(ms, a, b) }
    cuModuleLoadData(m: *mut P, image: *const c_char) {
        alive!();
        let text = match fatbin::ptx(image as *const u8, config().arch.capability()) {
            Ok(text) => text,
            Err(e) => { eprintln!("vgpu: {e}"); return 209; }
        };
        match ptx::Module::parse(text) {
            Err(e) => { eprintln!("vgpu: {e}"); 218 }
            Ok(p) => {
                let mut globals = HashMap::new();
                let mut sizes = HashMap::new();
                for v in &p.globals {
                    let Ok(a) = allocate(v.bytes.max(1)) else { return OUT_OF_MEMORY };
                    std::ptr::write_bytes(a as *mut u8, 0, v.bytes);
                    std::ptr::copy_nonoverlapping(v.init.as_ptr(), a as *mut u8, v.init.len().min(v.bytes));
                    globals.insert(v.name.clone(), a);
                    sizes.insert(v.name.clone(), v.bytes);
                }
                *m = Box::into_raw(Box::new(Arc::new(Loaded { ptx: Arc::new(p), globals, sizes }))) as P;
                OK
            }
        }
    }
    cuModuleUnload(_m: P) { OK }
    cuModuleGetGlobal_v2(p: *mut u64, n: *mut usize, m: P, name: *const c_char) {
        alive!();
        let m = &*(m as *const Arc<Loaded>);
        let name = CStr::from_ptr(name).to_string_lossy();
        let Some(a) = m.globals.get(&*name) else { return NOT_FOUND };
        if !p.is_null() { *p = *a; }
        if !n.is_null() { *n = m.sizes[&*name]; }
        OK
    }
    cuModuleGetFunction(f: *mut P, m: P, name: *const c_char) {
        alive!();
        let m = &*(m as *const Arc<Loaded>);
        let name = CStr::from_ptr(name).to_string_lossy().into_owned();
        let Some(e) = m.ptx.entries.get(&name) else { return NOT_FOUND };
        let number = |key: &str| e.head.find(key).and_then(|p| e.head[p + key.len()..].trim_start().split(|c: char| !c.is_ascii_digit()).next().and_then(|x| x.parse().ok()));
        let (threads, min_blocks) = (number(".maxntid").unwrap_or(1024), number(".minnctapersm").unwrap_or(1));
        *f = Box::into_raw(Box::new(Function { module: m.clone(), name, kernel: OnceLock::new(), dynamic_limit: AtomicU32::new(48 * 1024), threads, min_blocks })) as P;
        if config().eager { (*(*f as *const Function)).kernel(); }
        OK
    }
    cuFuncSetAttribute(f: P, a: c_uint, v: c_int) {
        alive!();
        let limit = chip().2 << 10;
        if a == 8 { if v < 0 || v > limit { return INVALID_VALUE; } (*(f as *const Function)).dynamic_limit.store(v as u32, Ordering::Relaxed); }
        OK
    }
    cuFuncGetAttribute(v: *mut c_int, a: c_uint, f: P) {
        let f = &*(f as *const Function);
        *v = match a { 0 => f.threads as c_int, 8 => f.dynamic_limit.load(Ordering::Relaxed) as c_int, 4 => 64, _ => 0 }; OK
    }
    cuFuncSetCacheConfig(_f: P, _c: c_uint) { OK }
    cuOccupancyMaxActiveBlocksPerMultiprocessor(n: *mut c_int, f: P, threads: c_int, shared: usize) {
        alive!();
        *n = occupancy(&*(f as *const Function), threads as u32, shared) as c_int; OK
    }
    cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(n: *mut c_int, f: P, threads: c_int, shared: usize, _flags: c_uint) {
        *n = occupancy(&*(f as *const Function), threads as u32, shared) as c_int; OK
    }
    cuLaunchKernel(f: P, gx: c_uint, gy: c_uint, gz: c_uint, bx: c_uint, by: c_uint, bz: c_uint, shared: c_uint, s: P, params: *mut P, _extra: *mut P) {
        launch(f, [gx, gy, gz], [bx, by, bz], shared, s, params, false)
    }
    cuLaunchCooperativeKernel(f: P, gx: c_uint, gy: c_uint, gz: c_uint, bx: c_uint, by: c_uint, bz: c_uint, shared: c_uint, s: P, params: *mut P) {
        launch(f, [gx, gy, gz], [bx, by, bz], shared, s, params, true)
    }
    cuGetErrorName(e: c_uint, t: *mut *const c_char) { let Some((n, _)) = words(e) else { *t = std::ptr::null(); return INVALID_VALUE }; *t = n.as_ptr(); OK }
    cuGetErrorString(e: c_uint, t: *mut *const c_char) { let Some((_, s)) = words(e) else { *t = std::ptr::null(); return INVALID_VALUE }; *t = s.as_ptr(); OK }
}

unsafe fn elapsed(ms: *mut f32, a: P, b: P) -> R {
    let (x, y) = {
        let (a, b) = (&*(a as *const Arc<Event>), &*(b as *const Arc<Event>));
        (*a.at.lock().unwrap(), *b.at.lock().unwrap())
    };
    match (x, y) {
        (Some(x), Some(y)) => {
            *ms = (y.saturating_duration_since(x).as_secs_f64() * 1e3) as f32;
            OK
        }
        _ => 400,
    }
}

thread_local! {
    static CURRENT: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

fn words(e: u32) -> Option<(&'static CStr, &'static CStr)> {
    Some(match e {
        0 => (c"CUDA_SUCCESS", c"no error"),
        1 => (c"CUDA_ERROR_INVALID_VALUE", c"invalid argument"),
        2 => (c"CUDA_ERROR_OUT_OF_MEMORY", c"out of memory"),
        100 => (c"CUDA_ERROR_NO_DEVICE", c"no CUDA-capable device is detected"),
        101 => (c"CUDA_ERROR_INVALID_DEVICE", c"invalid device ordinal"),
        201 => (c"CUDA_ERROR_INVALID_CONTEXT", c"invalid device context"),
        209 => (c"CUDA_ERROR_NO_BINARY_FOR_GPU", c"no kernel image is available for execution on the device"),
        218 => (c"CUDA_ERROR_INVALID_PTX", c"a PTX JIT compilation failed"),
        400 => (c"CUDA_ERROR_INVALID_HANDLE", c"invalid resource handle"),
        500 => (c"CUDA_ERROR_NOT_FOUND", c"named symbol not found"),
        700 => (c"CUDA_ERROR_ILLEGAL_ADDRESS", c"an illegal memory access was encountered"),
        701 => (c"CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", c"too many resources requested for launch"),
        715 => (c"CUDA_ERROR_ILLEGAL_INSTRUCTION", c"an illegal instruction was encountered"),
        716 => (c"CUDA_ERROR_MISALIGNED_ADDRESS", c"misaligned address"),
        719 => (c"CUDA_ERROR_LAUNCH_FAILED", c"unspecified launch failure"),
        720 => (c"CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE", c"too many blocks in cooperative launch"),
        900 => (c"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", c"operation not permitted when stream is capturing"),
        901 => (c"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", c"operation failed due to a previous error during capture"),
        905 => (c"CUDA_ERROR_STREAM_CAPTURE_IMPLICIT", c"operation would result in an implicit dependency"),
        907 => (c"CUDA_ERROR_STREAM_CAPTURE_UNJOINED", c"capture was not begun"),
        _ => return None,
    })
}
