//! Kinds of JPEG that are sound and not decoded here.

use jpeg_decoder::{Error, UnsupportedFeature};

/// What a JPEG is that the decoder does not know; `None` where it is damaged.
pub(super) fn beyond(error: &Error) -> Option<String> {
    let Error::Unsupported(feature) = error else { return None };
    Some(match feature {
        UnsupportedFeature::SamplePrecision(bits) => {
            format!("a lossy JPEG of {bits} bits a sample, and only 8 are decoded here")
        }
        UnsupportedFeature::ArithmeticEntropyCoding => "a JPEG in arithmetic coding, which is not decoded here".into(),
        UnsupportedFeature::Hierarchical => "a hierarchical JPEG, which is not decoded here".into(),
        other => format!("a JPEG of a kind that is not decoded here ({other:?})"),
    })
}
