//! Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC11) and a small sampler on top of it.
//!
//! The generator is a pure function of counter and key: patient `i` of seed `s` draws the same numbers on any machine,
//! in any order, on any number of threads.

/// Ten rounds of Philox4x32: four random words for one counter under one key.
pub fn philox4x32_10(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..10 {
        let left = u64::from(c0) * 0xD251_1F53;
        let right = u64::from(c2) * 0xCD9E_8D57;
        (c0, c1, c2, c3) = ((right >> 32) as u32 ^ c1 ^ k0, right as u32, (left >> 32) as u32 ^ c3 ^ k1, left as u32);
        k0 = k0.wrapping_add(0x9E37_79B9);
        k1 = k1.wrapping_add(0xBB67_AE85);
    }
    [c0, c1, c2, c3]
}

/// One independent sequence of random numbers: key = seed, counter = (index, stream, block).
#[derive(Clone, Debug)]
pub struct Rng {
    key: [u32; 2],
    counter: [u32; 4],
    block: [u32; 4],
    used: usize,
}

impl Rng {
    /// The sequence number `stream` of item `index` under `seed`. Distinct triples give independent sequences of
    /// 2^34 words (indices are taken modulo 2^64, streams are 32-bit).
    pub fn new(seed: u64, index: u64, stream: u32) -> Self {
        let key = [seed as u32, (seed >> 32) as u32];
        Rng { key, counter: [0, stream, index as u32, (index >> 32) as u32], block: [0; 4], used: 4 }
    }

    /// 32 uniform bits.
    pub fn word(&mut self) -> u32 {
        if self.used == 4 {
            self.block = philox4x32_10(self.counter, self.key);
            self.counter[0] = self.counter[0].wrapping_add(1);
            self.used = 0;
        }
        self.used += 1;
        self.block[self.used - 1]
    }

    /// Uniform in [0, 1), 24 bits.
    pub fn unit(&mut self) -> f32 {
        (self.word() >> 8) as f32 / (1 << 24) as f32
    }

    /// Uniform in [low, high).
    pub fn range(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    /// Uniform in 0..n (n > 0; the bias of the multiply-shift is below n / 2^32).
    pub fn below(&mut self, n: usize) -> usize {
        ((u64::from(self.word()) * n as u64) >> 32) as usize
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f32) -> bool {
        self.unit() < p
    }

    /// Standard normal, Box-Muller.
    pub fn normal(&mut self) -> f32 {
        let radius = (-2.0 * (1.0 - f64::from(self.unit())).ln()).sqrt();
        (radius * (std::f64::consts::TAU * f64::from(self.unit())).cos()) as f32
    }

    /// Standard normal truncated to [-limit, limit] by clamping.
    pub fn normal_within(&mut self, limit: f32) -> f32 {
        self.normal().clamp(-limit, limit)
    }

    /// A point uniform in the unit ball.
    pub fn in_ball(&mut self) -> [f32; 3] {
        loop {
            let p = [self.range(-1.0, 1.0), self.range(-1.0, 1.0), self.range(-1.0, 1.0)];
            if p[0] * p[0] + p[1] * p[1] + p[2] * p[2] <= 1.0 {
                return p;
            }
        }
    }
}
