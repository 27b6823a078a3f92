//! Numbers checked where they enter, and numbers as messages show them.

use std::fmt::{Display, LowerExp};
use std::ops::{Bound, RangeBounds};

/// Characters up to which a number is written out: those of every whole number of 64 bits.
const PLAIN: usize = 20;

/// A number as a message shows it: written out, or in powers of ten where that would be long and this is shorter.
pub fn short<T: Display + LowerExp>(number: T) -> String {
    let plain = number.to_string();
    if plain.len() <= PLAIN {
        return plain;
    }
    let powers = format!("{number:e}");
    if powers.len() < plain.len() { powers } else { plain }
}

/// A number rounded to three significant digits, as [`short`] shows it.
pub fn rounded(number: f64) -> String {
    if number == 0.0 || !number.is_finite() {
        return short(number);
    }
    // What has three digits before the point keeps all that are there.
    let digits = (2 - number.abs().log10().floor() as i32).clamp(0, 9) as usize;
    let text = format!("{number:.digits$}");
    if text.len() > PLAIN || number.abs() < 1e-9 {
        return format!("{number:.2e}");
    }
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_string() } else { text }
}

/// A value that is not in its range; both as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outside {
    /// The value.
    pub value: String,
    /// The range, to stand after "must be" or "a number".
    pub range: String,
}

/// Whether a value lies in a range; NaN lies in none.
///
/// # Errors
/// Value and range as text.
pub fn check<T: Copy + PartialOrd + Display + LowerExp>(value: T, range: impl RangeBounds<T>) -> Result<(), Outside> {
    if range.contains(&value) { Ok(()) } else { Err(Outside { value: short(value), range: words(&range) }) }
}

/// A range in words.
pub fn words<T: Copy + Display + LowerExp>(range: &impl RangeBounds<T>) -> String {
    let low = match range.start_bound() {
        Bound::Included(&low) => Some(("at least", short(low))),
        Bound::Excluded(&low) => Some(("above", short(low))),
        Bound::Unbounded => None,
    };
    let high = match range.end_bound() {
        Bound::Included(&high) => Some(("at most", short(high))),
        Bound::Excluded(&high) => Some(("below", short(high))),
        Bound::Unbounded => None,
    };
    match (low, high) {
        (Some(("at least", low)), Some(("at most", high))) => format!("from {low} to {high}"),
        (low, high) => {
            let ends: Vec<String> =
                [low, high].into_iter().flatten().map(|(word, end)| format!("{word} {end}")).collect();
            ends.join(" and ")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_short() {
        let cases = [
            (0.001, "0.001"),
            (-1e6, "-1000000"),
            (1e300, "1e300"),
            (-1e-300, "-1e-300"),
            (f64::MAX, "1.7976931348623157e308"),
            (1.0 / 3.0, "0.3333333333333333"),
            (f64::NAN, "NaN"),
        ];
        for (number, text) in cases {
            assert_eq!(short(number), text);
        }
        assert_eq!((short(usize::MAX), short(0.07f32)), ("18446744073709551615".into(), "0.07".into()));
        let cases = [
            (0.0, "0"),
            (1e-300, "1.00e-300"),
            (1234.5, "1234"),
            (0.012345, "0.0123"),
            (-7.5, "-7.5"),
            (1e300, "1.00e300"),
        ];
        for (number, text) in cases {
            assert_eq!(rounded(number), text);
        }
    }

    #[test]
    fn a_value_outside_of_its_range_is_told_with_it() {
        let outside = |value: &str, range: &str| Err(Outside { value: value.into(), range: range.into() });
        assert_eq!(check(1.0, 0.0..=1.0), Ok(()));
        assert_eq!(check(f64::NAN, 0.0..=1e300), outside("NaN", "from 0 to 1e300"));
        assert_eq!(check(1e300, 0.0..1.0), outside("1e300", "at least 0 and below 1"));
        assert_eq!(check(0, (Bound::Excluded(0), Bound::Included(3))), outside("0", "above 0 and at most 3"));
        assert_eq!(check(7, ..7), outside("7", "below 7"));
        assert_eq!(check(u64::MAX, 1..=1u64 << 40), outside("18446744073709551615", "from 1 to 1099511627776"));
    }
}
