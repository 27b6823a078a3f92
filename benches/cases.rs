//! The benchmark cases, shared by `cargo bench` and `x2ct bench`: one file a kernel family.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use x2ct::ops::gemm::{Backend, Method};
use x2ct::{Device, Result};

#[path = "attention.rs"]
pub mod attention;
#[path = "bce.rs"]
pub mod bce;
#[path = "channels.rs"]
pub mod channels;
#[path = "contrastive.rs"]
pub mod contrastive;
#[path = "conv2d.rs"]
pub mod conv2d;
#[path = "decomp_conv.rs"]
pub mod decomp_conv;
#[path = "decomp_dense.rs"]
pub mod decomp_dense;
#[path = "depthwise_conv3d.rs"]
pub mod depthwise_conv3d;
#[path = "dropout.rs"]
pub mod dropout;
#[path = "drr.rs"]
pub mod drr;
#[path = "gather.rs"]
pub mod gather;
#[path = "gemm.rs"]
pub mod gemm;
#[path = "image.rs"]
pub mod image;
#[path = "mlp.rs"]
pub mod mlp;
#[path = "norm.rs"]
pub mod norm;
#[path = "optim.rs"]
pub mod optim;
#[path = "pointwise.rs"]
pub mod pointwise;
#[path = "pool.rs"]
pub mod pool;
#[path = "resample.rs"]
pub mod resample;
#[path = "retrieval.rs"]
pub mod retrieval;
#[path = "vector_quantize.rs"]
pub mod vector_quantize;

/// One thing to time: a launch sequence, and what it must move and compute.
pub struct Case {
    /// The kernel family.
    pub family: &'static str,
    /// What and at which size.
    pub name: String,
    /// Bytes that must move, counted from the actual tensors: every input read once, every output written once.
    pub bytes: u64,
    /// Floating-point operations (a multiply-add counts as two); 0 where bytes are what matters.
    #[allow(dead_code)] // printed by `x2ct bench` alone
    pub flops: u64,
    /// Queues the work once.
    pub run: Box<dyn FnMut() -> Result<()>>,
}

/// What is done with each case as it is made. A case is dropped, and its tensors with it, before the next is made, but for the
/// cases of one layer, which share theirs.
pub type Each<'a> = dyn FnMut(Case) -> Result<()> + 'a;

/// Makes the cases of a family, one after the other.
pub type MakeCases = fn(&Device, &mut Each) -> Result<()>;

#[rustfmt::skip] // one a line, so that two additions do not meet
pub const FAMILIES: &[(&str, MakeCases)] = &[
    ("attention", attention::cases),
    ("bce", bce::cases),
    ("channels", channels::cases),
    ("contrastive", contrastive::cases),
    ("conv2d", conv2d::cases),
    ("decomp_conv", decomp_conv::cases),
    ("depthwise_conv3d", depthwise_conv3d::cases),
    ("decomp_dense", decomp_dense::cases),
    ("dropout", dropout::cases),
    ("drr", drr::cases),
    ("gather", gather::cases),
    ("gemm", gemm::cases),
    ("image", image::cases),
    ("mlp", mlp::cases),
    ("norm", norm::cases),
    ("optim", optim::cases),
    ("pointwise", pointwise::cases),
    ("pool", pool::cases),
    ("resample", resample::cases),
    ("retrieval", retrieval::cases),
    ("vector_quantize", vector_quantize::cases),
];

/// Device seconds of single runs, after a warm-up, for about `budget`; at least three.
#[allow(dead_code)] // criterion has a loop of its own
pub fn measure(device: &Device, run: &mut dyn FnMut() -> Result<()>, budget: Duration) -> Result<Vec<f64>> {
    run()?;
    device.synchronize()?;
    let begin = Instant::now();
    let mut times = Vec::new();
    while times.len() < 3 || (begin.elapsed() < budget && times.len() < 1000) {
        times.extend(time(device, run, if device.is_host() { 1 } else { 10 })?);
    }
    Ok(times)
}

/// Device time of each of `iterations` runs, seconds, by events before and after it. On a GPU whatever the run before
/// left in the L2 cache is displaced first: every operand comes from memory, as it does in a network.
pub fn time(device: &Device, run: &mut dyn FnMut() -> Result<()>, iterations: usize) -> Result<Vec<f64>> {
    let displaced = if device.is_host() { 0 } else { 2 * device.properties().l2_bytes as usize };
    let other = device.alloc(displaced, "what displaces the L2 cache")?;
    let mut seconds = Vec::with_capacity(iterations);
    // In parts, so that the events of a long measurement do not pile up.
    while seconds.len() < iterations {
        let mut events = Vec::new();
        for _ in seconds.len()..iterations.min(seconds.len() + 1000) {
            other.fill(0, displaced, 0)?;
            let start = device.record()?;
            run()?;
            events.push((start, device.record()?));
        }
        for (start, end) in &events {
            seconds.push(end.seconds_since(start)?);
        }
    }
    Ok(seconds)
}

/// Whether cases are made to be counted, not timed.
pub static COUNTED: AtomicBool = AtomicBool::new(false);

/// Whether a GPU, too, is given the small sizes: they are for counting alone.
pub static SMALL: AtomicBool = AtomicBool::new(false);

/// Whether each kernel is counted at a small size: one size a kernel is enough, and interpreted it costs seconds.
pub fn brief() -> bool {
    SMALL.load(Ordering::Relaxed)
}

/// Who computes matrix products and convolutions in turn. Emulated tensor cores and barriers are for tests, not for speed,
/// so that a processor times its library alone; what a library launches on a GPU cannot be counted.
pub fn backends(device: &Device) -> &'static [Backend] {
    match (device.is_host(), COUNTED.load(Ordering::Relaxed)) {
        (true, _) => &[Backend::Library],
        (false, true) => &[Backend::Own],
        (false, false) => &[Backend::Library, Backend::Own],
    }
}

/// How an operator computes its matrix products where a case does not say: as by default, and counted with our kernels.
pub fn method(device: &Device) -> Method {
    let method = Method::default_for(device);
    if COUNTED.load(Ordering::Relaxed) { Method { backend: Backend::Own, ..method } } else { method }
}

/// Whether a device is given the small sizes, which a processor finishes.
pub fn small(device: &Device) -> bool {
    device.is_host() || SMALL.load(Ordering::Relaxed)
}

/// Sizes to time: those of a GPU, or small ones.
pub fn size(device: &Device, gpu: usize, host: usize) -> usize {
    if small(device) { host } else { gpu }
}

/// Seeded values, never zeros: power and timing depend on the data. They repeat after a prime number, which no length of a
/// row divides: equal rows are that many rows apart.
pub fn random(seed: u64, n: usize) -> Vec<f32> {
    const PERIOD: usize = 4_194_319;
    let mut x = seed.wrapping_mul(2) | 1;
    let mut next = move || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let mut values = Vec::with_capacity(n);
    values.extend((0..n.min(PERIOD)).map(|_| next()));
    while values.len() < n {
        values.extend_from_within(..PERIOD.min(n - values.len()));
    }
    values
}
