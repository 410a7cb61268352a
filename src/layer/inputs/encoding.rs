//! The content coding, among those that a site makes, for a request.

use std::cmp::Reverse;

use http::header::{ACCEPT_ENCODING, HeaderMap, HeaderName, HeaderValue};

use super::accept::{Weighted, weighted};
use super::variant::{Head, Variant};

static FIELDS: [HeaderName; 1] = [ACCEPT_ENCODING];

const IDENTITY: &str = "identity";

/// The variant of the content codings a site makes: for pages that are stored compressed.
///
/// It is the coding of the most weight in `Accept-Encoding`, the first listed among equals;
/// `identity` if none is accepted or the request does not say. The handler, or a layer that
/// compresses between it and the cache, is shown the coding as its only `Accept-Encoding`.
/// Responses vary on that field.
///
/// # Specification
///
/// RFC 9110 section 12.5.3.
///
/// # Example
///
/// ```
/// use axum_cache::layer::EncodingClass;
///
/// let headers = [(http::header::ACCEPT_ENCODING, "gzip, deflate, br, zstd".parse().unwrap())];
/// let headers = headers.into_iter().collect();
/// assert_eq!(EncodingClass::new(["br", "gzip"]).negotiate(&headers), "br");
/// ```
#[derive(Clone, Debug)]
#[must_use = "a variant does nothing until a layer has it"]
pub struct EncodingClass {
    codings: Vec<String>,
}

impl EncodingClass {
    /// These codings, the preferred ones first; `identity` is the last one unless it is listed.
    pub fn new<C: Into<String>>(codings: impl IntoIterator<Item = C>) -> Self {
        let mut codings: Vec<String> = codings.into_iter().map(Into::into).collect();
        if !codings.iter().any(|coding| coding == IDENTITY) {
            codings.push(IDENTITY.to_owned());
        }
        Self { codings }
    }

    /// The coding for a request with these fields.
    pub fn negotiate(&self, headers: &HeaderMap) -> &str {
        let Some(accepted) = weighted(headers, &ACCEPT_ENCODING) else {
            return IDENTITY;
        };
        let best = self
            .codings
            .iter()
            .map(|coding| (coding.as_str(), weight(&accepted, coding)))
            .filter(|(_, weight)| *weight > 0)
            // The first of equals.
            .min_by_key(|(_, weight)| Reverse(*weight));
        best.map_or(IDENTITY, |(coding, _)| coding)
    }
}

/// The weight of a coding. Of identity a trace is left where nothing is said of it.
fn weight(accepted: &[Weighted<'_>], coding: &str) -> u32 {
    let of = |name: &str| {
        accepted
            .iter()
            .find(|member| {
                let item = member.item;
                let item = item.strip_prefix("x-").unwrap_or(item);
                item.eq_ignore_ascii_case(name)
            })
            .map(|member| 2 * u32::from(member.weight))
    };
    let unsaid = u32::from(coding == IDENTITY);
    of(coding).or_else(|| of("*")).unwrap_or(unsaid)
}

impl Variant for EncodingClass {
    fn name(&self) -> &'static str {
        "encoding"
    }

    fn fields(&self) -> &[HeaderName] {
        &FIELDS
    }

    fn value(&self, head: &Head<'_>) -> String {
        self.negotiate(head.headers).to_owned()
    }

    fn normalize(&self, value: &str, headers: &mut HeaderMap) {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(ACCEPT_ENCODING, value);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rfc_9110_12_5_3_weights_then_preference() {
        let codings = EncodingClass::new(["br", "gzip"]);
        for (accepted, coding) in [
            ("gzip, deflate, br", "br"),
            ("br;q=0.5, gzip", "gzip"),
            ("GZIP", "gzip"),
            ("x-gzip", "gzip"),
            ("*", "br"),
            ("br;q=0, *", "gzip"),
            ("deflate", "identity"),
            ("", "identity"),
            ("identity, br;q=0.5", "identity"),
            ("gzip;q=0.001", "gzip"),
            ("*;q=0", "identity"),
            ("identity;q=0", "identity"),
        ] {
            let value = HeaderValue::from_str(accepted).unwrap();
            let headers = [(ACCEPT_ENCODING, value)].into_iter().collect();
            let chosen = codings.negotiate(&headers);
            assert_eq!(chosen, coding, "{accepted}");
            let mut shown = HeaderMap::new();
            codings.normalize(chosen, &mut shown);
            assert_eq!(codings.negotiate(&shown), chosen);
        }
        assert_eq!(codings.negotiate(&HeaderMap::new()), "identity");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn arbitrary_bytes_choose_a_coding(
            bytes in prop_oneof![
                any::<Vec<u8>>(),
                "((br|gzip|x-gzip|identity|\\*|a)(;q=[01](.[0-9])?)?[, ]{0,2}){0,5}".prop_map(String::into_bytes),
            ],
        ) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let headers = [(ACCEPT_ENCODING, value)].into_iter().collect();
                let codings = EncodingClass::new(["br", "gzip"]);
                let chosen = codings.negotiate(&headers);
                prop_assert!(["br", "gzip", "identity"].contains(&chosen));
            }
        }
    }
}
