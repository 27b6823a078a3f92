//! Why a statement cannot be read or executed.

use std::fmt;

/// The reason for which a statement was refused, as a clause that a message can end with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Why(pub String);

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for Why {
    fn from(text: &str) -> Why {
        Why(text.to_string())
    }
}

impl From<String> for Why {
    fn from(text: String) -> Why {
        Why(text)
    }
}
