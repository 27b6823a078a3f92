//! Values that several subcommands take.

use x2ct::data::ct_rate::Split;

/// `AxB...` as N numbers from 1 to 16384.
pub fn sizes<const N: usize>(text: &str) -> Result<[usize; N], String> {
    let number = |part: &str| part.parse().ok().filter(|n| (1..=16384).contains(n));
    let numbers: Option<Vec<usize>> = text.split(['x', 'X']).map(number).collect();
    let example = ["512", "640", "240"][..N].join("x");
    numbers
        .and_then(|n| n.try_into().ok())
        .ok_or_else(|| format!("give {N} numbers from 1 to 16384, such as {example}"))
}

/// A split by its name.
pub fn split(name: &str) -> Split {
    if name == "train" { Split::Train } else { Split::Valid }
}
