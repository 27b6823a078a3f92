//! Operands of tests: the special values of a type in all pairs, then random ones that meet each other's magnitude.

/// What the bits of an operand mean.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sort {
    F16,
    Bf16,
    F32,
    F64,
    /// Two halves of 16 bits.
    F16x2,
    Bf16x2,
    /// Integers and bit patterns of 8, 16, 32 or 64 bits.
    Bits(u32),
    /// Amounts of a shift and positions of a field: mostly in 0 to 70.
    Amount,
    Predicate,
}

/// Numbers from a seed, the same in every run (xorshift64*).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    pub fn below(&mut self, limit: u64) -> u64 {
        (self.bits() >> 11) % limit
    }
}

/// Bits of exponent and of fraction of a floating-point format.
fn layout(sort: Sort) -> (u32, u32) {
    match sort {
        Sort::F16 | Sort::F16x2 => (5, 10),
        Sort::Bf16 | Sort::Bf16x2 => (8, 7),
        Sort::F32 => (8, 23),
        _ => (11, 52),
    }
}

fn special_floats(exponent: u32, fraction: u32) -> Vec<u64> {
    let ones = (1u64 << exponent) - 1;
    let infinity = ones << fraction;
    let one = (ones >> 1) << fraction;
    let positive = [
        0,
        1,
        2,
        (1 << fraction) - 1, // the largest subnormal number
        1 << fraction,       // the least normal one
        (1 << fraction) + 1,
        one - 1,
        one,
        one + 1,
        one + (1 << fraction),       // 2
        one + (1 << (fraction - 1)), // 1.5, and 2.5 next: ties of a rounding to integers
        one + (1 << fraction) + (1 << (fraction - 2)),
        one - (1 << fraction), // 0.5
        infinity - 1,          // the largest finite number
        infinity - (1 << fraction),
        infinity,
        infinity | 1 << (fraction - 1), // NaN, quiet
        infinity | 1,                   // NaN, signalling
        infinity | ((1 << fraction) - 1),
    ];
    positive.iter().copied().chain(positive.iter().map(|bits| bits | 1 << (exponent + fraction))).collect()
}

fn special_integers(bits: u32) -> Vec<u64> {
    let mask = u64::MAX >> (64 - bits);
    let top = 1u64 << (bits - 1);
    let mut values =
        vec![0, 1, 2, 3, 7, 100, mask, mask - 1, mask - 2, top, top - 1, top + 1, top >> 1, mask / 3, mask / 3 * 2];
    if bits >= 32 {
        values.extend([0x7f, 0x80, 0xff, 0x100, 0x7fff, 0x8000, 0xffff, 0x1_0000, 0xff_ffff, 0x100_0000, 0x100_0001]);
    }
    if bits == 64 {
        values.extend([0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0x1_0000_0000, (1 << 53) - 1, 1 << 53, (1 << 53) + 1]);
    }
    values
}

fn random_float(random: &mut Random, exponent: u32, fraction: u32) -> u64 {
    let ones = (1u64 << exponent) - 1;
    let bias = ones >> 1;
    let e = match random.below(8) {
        0 => random.below(ones + 1),
        1 => random.below(3),
        2 => bias + random.below(bias.min(66)),
        _ => bias - (fraction as u64).min(bias - 1) / 2 + random.below((fraction as u64).min(bias - 1)),
    };
    let full = (1u64 << fraction) - 1;
    let f = match random.below(6) {
        0 => random.bits() & random.bits() & random.bits() & full, // few bits: sums and products that are exact or halfway
        1 => full & !(random.bits() & 0xf),
        2 => (random.bits() & full) >> (fraction / 2) << (fraction / 2),
        _ => random.bits() & full,
    };
    (random.bits() & 1) << (exponent + fraction) | e << fraction | f
}

fn random_integer(random: &mut Random, bits: u32) -> u64 {
    let mask = u64::MAX >> (64 - bits);
    let value = match random.below(4) {
        0 => random.bits() >> random.below(64),
        1 => !(random.bits() >> random.below(64)),
        2 => random.bits() & random.bits(),
        _ => random.bits(),
    };
    value & mask
}

fn special(sort: Sort) -> Vec<u64> {
    match sort {
        Sort::Bits(bits) => special_integers(bits),
        Sort::Amount => (0..=66).chain([127, 128, 255, 256, 257, 0x8000_0000, 0xffff_ffff]).collect(),
        Sort::Predicate => vec![0, 1],
        Sort::F16x2 | Sort::Bf16x2 => {
            let (exponent, fraction) = layout(sort);
            let halves = special_floats(exponent, fraction);
            halves.iter().enumerate().map(|(n, low)| low | halves[(7 * n + 3) % halves.len()] << 16).collect()
        }
        _ => {
            let (exponent, fraction) = layout(sort);
            special_floats(exponent, fraction)
        }
    }
}

fn one(random: &mut Random, sort: Sort) -> u64 {
    let (exponent, fraction) = layout(sort);
    match sort {
        Sort::Bits(bits) => random_integer(random, bits),
        Sort::Amount if random.below(4) > 0 => random.below(70),
        Sort::Amount => random_integer(random, 32),
        Sort::Predicate => random.below(2),
        Sort::F16x2 | Sort::Bf16x2 => {
            random_float(random, exponent, fraction) | random_float(random, exponent, fraction) << 16
        }
        _ => random_float(random, exponent, fraction),
    }
}

/// `count` operands for each source of the sorts given: first all pairs of special values, then random ones of which every eighth is special.
pub fn operands(sorts: &[Sort], count: usize, seed: u64) -> Vec<Vec<u64>> {
    let specials: Vec<Vec<u64>> = sorts.iter().map(|sort| special(*sort)).collect();
    let mut random = Random::new(seed);
    let pairs = specials.iter().take(2).map(Vec::len).product::<usize>().min(count / 2);
    let mut lists = vec![Vec::with_capacity(count); sorts.len()];
    for n in 0..count {
        let mut rest = n;
        for (k, values) in specials.iter().enumerate() {
            let chosen = if n < pairs && k < 2 {
                let value = values[rest % values.len()];
                rest /= values.len();
                value
            } else if random.below(8) == 0 {
                values[random.below(values.len() as u64) as usize]
            } else {
                one(&mut random, sorts[k])
            };
            lists[k].push(chosen);
        }
    }
    lists
}
