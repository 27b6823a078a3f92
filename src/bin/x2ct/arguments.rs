//! Values that several subcommands take.

use std::ops::RangeInclusive;
use std::path::Path;
use std::str::FromStr;

use clap::builder::{PossibleValuesParser, RangedU64ValueParser, TypedValueParser};
use x2ct::data::ct_rate::Split;
use x2ct::limits::{self, Outside};

/// `AxB...` as N numbers from 1 to 16384.
pub fn sizes<const N: usize>(text: &str) -> Result<[usize; N], String> {
    let number = |part: &str| part.parse().ok().filter(|n| (1..=16384).contains(n));
    let numbers: Option<Vec<usize>> = text.split(['x', 'X']).map(number).collect();
    let example = ["512", "640", "240"][..N].join("x");
    numbers
        .and_then(|n| n.try_into().ok())
        .ok_or_else(|| format!("give {N} numbers from 1 to 16384, such as {example}"))
}

/// `A,B...` as N finite numbers.
pub fn numbers<const N: usize>(text: &str) -> Result<[f64; N], String> {
    let number = |part: &str| part.trim().parse().ok().filter(|v: &f64| v.is_finite());
    let numbers: Option<Vec<f64>> = text.split(',').map(number).collect();
    let example = ["10", "-5.5", "0"][..N].join(",");
    numbers.and_then(|n| n.try_into().ok()).ok_or_else(|| format!("give {N} numbers, such as {example}"))
}

/// A whole number of a range.
pub fn count(range: RangeInclusive<u64>) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(range)
}

/// A number from `low` to `high`.
pub fn within(low: f64, high: f64) -> impl Fn(&str) -> Result<f64, String> + Clone + Send + Sync + 'static {
    move |text| {
        let number = text.trim().parse().unwrap_or(f64::NAN);
        limits::check(number, low..=high).map(|()| number).map_err(|outside| format!("give a number {}", outside.range))
    }
}

/// Refuses a number that is not in `range`, naming both; `unit` completes "from A to B".
pub fn expect_within(option: &str, value: Option<f64>, range: RangeInclusive<f64>, unit: &str) -> x2ct::Result<()> {
    let outside = |Outside { value, range }| {
        x2ct::Error::argument(option, format!("is {value}"), format!("give a number {range} {unit}"))
    };
    value.map_or(Ok(()), |value| limits::check(value, range)).map_err(outside)
}

/// Endings of names of files.
const OF_FILES: &str = ".csv .tsv .json .toml .png .jpg .nii .nii.gz .npz .npy .pt .zip .txt .safetensors";

/// Refuses an output that is to be a folder and is a file, or is named as one; `since` says why it is to be one.
pub fn expect_folder(out: &Path, since: &str, hint: &str) -> x2ct::Result<()> {
    let name = out.to_string_lossy().to_lowercase();
    if out.is_dir() || !out.exists() && !OF_FILES.split(' ').any(|ending| name.ends_with(ending)) {
        return Ok(());
    }
    Err(x2ct::Error::argument("--out", format!("{} is no folder, and {since}", out.display()), hint))
}

/// A value that the library reads from one of these names.
pub fn named<T>(names: impl IntoIterator<Item = &'static str>) -> impl TypedValueParser<Value = T>
where
    T: FromStr<Err = x2ct::Error> + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(names).try_map(|name| name.parse::<T>())
}

/// A split by its name.
pub fn split(name: &str) -> Split {
    if name == "train" { Split::Train } else { Split::Valid }
}
