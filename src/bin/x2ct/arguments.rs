//! Values that several subcommands take.

use x2ct::data::ct_rate::Split;

/// `AxB...` as N numbers, each at least 1.
pub fn sizes<const N: usize>(text: &str) -> Result<[usize; N], String> {
    let form = || ["480", "640", "240"][..N].join("x");
    let numbers: Option<Vec<usize>> = text.split('x').map(|n| n.parse().ok().filter(|&n| n > 0)).collect();
    numbers.and_then(|n| n.try_into().ok()).ok_or_else(|| format!("give {N} positive numbers, such as {}", form()))
}

/// A split by its name.
pub fn split(name: &str) -> Split {
    if name == "train" { Split::Train } else { Split::Valid }
}
