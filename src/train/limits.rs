//! Numbers of a configuration, checked where they enter: what is wrong names the key, the value and the range.

use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};

use crate::{Error, Result};

/// Most passes over the data, and most epochs a schedule is planned for.
pub(super) const EPOCHS: usize = 1_000_000;
/// Most pairs a step.
pub(super) const BATCH: usize = 1 << 24;
/// Most steps that a key may count.
pub(super) const STEPS: usize = 1 << 40;

/// Advice about a configuration.
pub(super) const HINT: &str = "correct the configuration";

/// Refuses a value outside a range; NaN is outside of every one.
pub(super) fn within<T: Copy + Debug + PartialOrd>(field: &str, value: T, range: impl RangeBounds<T>) -> Result<()> {
    if range.contains(&value) {
        return Ok(());
    }
    let bounds = match (range.start_bound(), range.end_bound()) {
        (Bound::Included(low), Bound::Included(high)) => format!("from {low:?} to {high:?}"),
        (Bound::Included(low), Bound::Excluded(high)) => format!("at least {low:?} and below {high:?}"),
        (Bound::Excluded(low), Bound::Included(high)) => format!("above {low:?} and at most {high:?}"),
        (low, high) => format!("within {low:?} and {high:?}"),
    };
    Err(Error::argument(field, format!("is {value:?}, must be {bounds}"), HINT))
}

/// [`within`] of a value that may be absent.
pub(super) fn within_if<T: Copy + Debug + PartialOrd>(
    field: &str,
    value: Option<T>,
    range: impl RangeBounds<T>,
) -> Result<()> {
    value.map_or(Ok(()), |value| within(field, value, range))
}

/// [`within`] of each of several values.
pub(super) fn within_each<T: Copy + Debug + PartialOrd>(
    field: &str,
    values: &[T],
    range: impl RangeBounds<T> + Clone,
) -> Result<()> {
    values.iter().try_for_each(|&value| within(field, value, range.clone()))
}

/// Numbers above 0 and at most `high`.
pub(super) fn positive<T: Default>(high: T) -> (Bound<T>, Bound<T>) {
    (Bound::Excluded(T::default()), Bound::Included(high))
}

/// The first of (field, good, what is wrong) that is not good, as an error.
pub(super) fn check_fields(checks: &[(&str, bool, &str)]) -> Result<()> {
    match checks.iter().find(|(_, good, _)| !good) {
        Some((field, _, problem)) => Err(Error::argument(*field, *problem, HINT)),
        None => Ok(()),
    }
}
