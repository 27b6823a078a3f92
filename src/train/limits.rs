//! Numbers of a configuration, checked where they enter: what is wrong names the key, the value and the range.

use std::fmt::{Display, LowerExp};
use std::ops::RangeBounds;

use crate::limits::{self, Outside};
use crate::{Error, Result};

/// Most passes over the data, and most epochs a schedule is planned for.
pub(crate) const EPOCHS: usize = 1_000_000;
/// Most pairs a step.
pub(crate) const BATCH: usize = 1 << 24;
/// Most steps that a key may count.
pub(crate) const STEPS: usize = 1 << 40;

/// Advice about a configuration.
pub(crate) const HINT: &str = "correct the configuration";

/// What can be checked.
pub(crate) trait Number: Copy + PartialOrd + Display + LowerExp {}

impl<T: Copy + PartialOrd + Display + LowerExp> Number for T {}

/// Refuses a value outside a range.
pub(crate) fn within<T: Number>(field: &str, value: T, range: impl RangeBounds<T>) -> Result<()> {
    limits::check(value, range)
        .map_err(|Outside { value, range }| Error::argument(field, format!("is {value}, must be {range}"), HINT))
}

/// [`within`] of a value that may be absent.
pub(crate) fn within_if<T: Number>(field: &str, value: Option<T>, range: impl RangeBounds<T>) -> Result<()> {
    value.map_or(Ok(()), |value| within(field, value, range))
}

/// [`within`] of each of several values.
pub(crate) fn within_each<T: Number>(field: &str, values: &[T], range: impl RangeBounds<T> + Clone) -> Result<()> {
    values.iter().try_for_each(|&value| within(field, value, range.clone()))
}

/// The first of (field, good, what is wrong) that is not good, as an error.
pub(crate) fn check_fields(checks: &[(&str, bool, &str)]) -> Result<()> {
    match checks.iter().find(|(_, good, _)| !good) {
        Some((field, _, problem)) => Err(Error::argument(*field, *problem, HINT)),
        None => Ok(()),
    }
}
