//! What tests of the rules share.
#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use http::{HeaderMap, HeaderName, HeaderValue};

/// Lines of fields, by name and value.
pub(crate) fn fields(lines: &[(&str, impl AsRef<[u8]>)]) -> HeaderMap {
    let lines = lines.iter().map(|(name, value)| {
        let value = HeaderValue::from_bytes(value.as_ref()).unwrap();
        (HeaderName::try_from(*name).unwrap(), value)
    });
    lines.collect()
}
