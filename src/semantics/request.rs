//! `Cache-Control` of requests: what a client would accept.

use http::header::{CACHE_CONTROL, HeaderMap, PRAGMA};

use super::cache_control::parse::{delta_seconds, each_directive};
use super::cache_control::shorter;

/// The directives of a request's `Cache-Control`.
///
/// They are wishes: nothing that cannot be parsed is an error, and no cache has to obey. A cache
/// of an origin server that does lets every client reach the origin.
///
/// # Specification
///
/// RFC 9111 section 5.2.1; `stale-if-error`: RFC 5861 section 4.
///
/// # Example
///
/// ```
/// use axum_cache::semantics::request::RequestControl;
/// use http::{HeaderMap, HeaderValue};
///
/// let mut headers = HeaderMap::new();
/// headers.insert("cache-control", HeaderValue::from_static("max-age=60, no-transform"));
/// let wishes = RequestControl::parse(&headers);
/// assert_eq!(wishes.max_age, Some(60));
/// assert!(wishes.no_transform && !wishes.no_cache);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[allow(
    clippy::struct_excessive_bools,
    reason = "the field has that many flags"
)]
pub struct RequestControl {
    /// Not a response without validation.
    pub no_cache: bool,
    /// Nothing of this request or its response is to be stored.
    pub no_store: bool,
    /// Not to be changed on the way.
    pub no_transform: bool,
    /// Only what is stored; 504 if nothing usable is.
    pub only_if_cached: bool,
    /// No response older than this, in seconds.
    pub max_age: Option<u64>,
    /// A stale response, too.
    pub max_stale: Option<MaxStale>,
    /// A response that stays fresh for this long, in seconds.
    pub min_fresh: Option<u64>,
    /// A response that has been stale for this long, in seconds, rather than an error.
    pub stale_if_error: Option<u64>,
}

/// How stale a response a request accepts: `max-stale`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum MaxStale {
    /// This many seconds.
    Seconds(u64),
    /// However stale.
    Any,
}

impl RequestControl {
    /// The directives of all `Cache-Control` lines; without any such line, `Pragma: no-cache`
    /// is `no-cache`.
    ///
    /// Of a directive that is given twice, the one harder to please counts. A value that is no
    /// number of seconds is as if its directive were not there, and so is the rest of a line
    /// behind what cannot be parsed.
    ///
    /// # Specification
    ///
    /// RFC 9111 sections 5.2.1 and 5.4.
    pub fn parse(headers: &HeaderMap) -> Self {
        let mut directives = Self::default();
        if !headers.contains_key(CACHE_CONTROL) {
            for line in headers.get_all(PRAGMA) {
                let _ = each_directive(line.as_bytes(), |name, _| {
                    directives.no_cache |= name == "no-cache";
                    Ok(())
                });
            }
            return directives;
        }
        for line in headers.get_all(CACHE_CONTROL) {
            let _ = each_directive(line.as_bytes(), |name, value| {
                directives.apply(&name, value.as_deref());
                Ok(())
            });
        }
        directives
    }

    fn apply(&mut self, name: &str, value: Option<&str>) {
        let seconds = value.and_then(|value| delta_seconds(value).ok());
        match name {
            "no-cache" => self.no_cache = true,
            "no-store" => self.no_store = true,
            "no-transform" => self.no_transform = true,
            "only-if-cached" => self.only_if_cached = true,
            "max-age" => self.max_age = shorter(self.max_age, seconds),
            "min-fresh" => self.min_fresh = self.min_fresh.max(seconds),
            "stale-if-error" => self.stale_if_error = shorter(self.stale_if_error, seconds),
            "max-stale" => {
                let accepted = match value {
                    None => Some(MaxStale::Any),
                    Some(_) => seconds.map(MaxStale::Seconds),
                };
                self.max_stale = match (self.max_stale, accepted) {
                    (Some(one), Some(other)) => Some(one.min(other)),
                    (one, other) => one.or(other),
                };
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;
    use crate::semantics::tests::fields;

    fn parse(lines: &[(&'static str, &str)]) -> RequestControl {
        RequestControl::parse(&fields(lines))
    }

    fn control(line: &str) -> RequestControl {
        parse(&[("cache-control", line)])
    }

    #[test]
    fn rfc_9111_5_2_1_each_directive() {
        let all = control(
            "No-Cache, no-store, no-transform, only-if-cached, max-age=1, max-stale=\"2\", \
             min-fresh=3, stale-if-error=4, x=5",
        );
        let expected = RequestControl {
            no_cache: true,
            no_store: true,
            no_transform: true,
            only_if_cached: true,
            max_age: Some(1),
            max_stale: Some(MaxStale::Seconds(2)),
            min_fresh: Some(3),
            stale_if_error: Some(4),
        };
        assert_eq!(all, expected);
        assert_eq!(control("max-stale").max_stale, Some(MaxStale::Any));
        assert_eq!(control(""), RequestControl::default());
    }

    #[test]
    fn rfc_9111_5_2_1_what_cannot_be_parsed_is_not_there() {
        for line in [
            "max-age",
            "max-age=",
            "max-age=-1",
            "max-age=1.5",
            "max-stale=x",
            "min-fresh=a",
            "\"no-cache\"",
            "x=\"no-cache",
            "=no-cache",
            "é, no-cache",
            "no-cache é",
            "max-stale \"",
        ] {
            assert_eq!(control(line), RequestControl::default(), "{line}");
        }
        let after = control("no-store, max-age=x, min-fresh=1, \", no-cache");
        assert!(after.no_store && after.min_fresh == Some(1) && !after.no_cache);
    }

    #[test]
    fn rfc_9111_5_2_1_of_two_the_harder_to_please_counts() {
        let twice =
            control("max-age=9, max-age=5, min-fresh=1, min-fresh=2, max-stale, max-stale=3");
        assert_eq!(twice.max_age, Some(5));
        assert_eq!(twice.min_fresh, Some(2));
        assert_eq!(twice.max_stale, Some(MaxStale::Seconds(3)));
    }

    #[test]
    fn rfc_9111_5_4_pragma_counts_without_cache_control_only() {
        assert!(parse(&[("pragma", "x, No-Cache")]).no_cache);
        assert!(!parse(&[("pragma", "other")]).no_cache);
        assert!(!parse(&[("pragma", "no-cache"), ("cache-control", "max-age=5")]).no_cache);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let headers = [(CACHE_CONTROL, value.clone())].into_iter().collect();
                let _ = RequestControl::parse(&headers);
                let _ = RequestControl::parse(&[(PRAGMA, value)].into_iter().collect());
            }
        }
    }
}
