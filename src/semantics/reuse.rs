//! Whether a stored response answers a request: as it is, stale, or after validation.

use std::time::Duration;

use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::cache_control::CacheControl;
use super::request::{MaxStale, RequestControl};

/// What a stored response's directives say about its use: small enough to be stored beside it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// `no-cache`, for the whole or some fields: to be validated on each use.
    pub validate_always: bool,
    /// `must-revalidate`, `proxy-revalidate` or `s-maxage`: not to be used stale.
    pub never_stale: bool,
    /// `stale-while-revalidate`, in seconds.
    pub stale_while_revalidate: Option<u64>,
    /// `stale-if-error`, in seconds.
    pub stale_if_error: Option<u64>,
}

/// A stored response, as far as its use depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredFacts {
    /// What its directives say.
    pub terms: Terms,
    /// How long it is fresh, counted from its making.
    pub lifetime: Duration,
    /// How long ago that was.
    pub age: Duration,
    /// It has an `ETag` or a `Last-Modified`.
    pub validator: bool,
}

/// What to do with a stored response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reuse {
    /// Serve it.
    Fresh,
    /// Serve it, stale as it is: the request accepts that.
    Stale,
    /// Serve it, stale as it is, and validate or replace it meanwhile.
    StaleWhileRevalidate,
    /// Ask whether it still holds before it is served.
    Validate,
    /// Ask for a new one: nothing can be asked about this one. It may do in the place of an error.
    Unusable,
}

impl Terms {
    /// The terms of a response with these directives: the targeted ones, if there are any.
    ///
    /// # Specification
    ///
    /// RFC 9111 sections 5.2.2.4, 5.2.2.2, 5.2.2.8 and 5.2.2.10; RFC 5861.
    pub fn new(directives: &CacheControl) -> Self {
        Self {
            validate_always: directives.no_cache.is_set(),
            never_stale: directives.must_revalidate
                || directives.proxy_revalidate
                || directives.s_maxage.is_some(),
            stale_while_revalidate: directives.stale_while_revalidate,
            stale_if_error: directives.stale_if_error,
        }
    }
}

impl StoredFacts {
    /// Whether its age is within its lifetime: RFC 9111 section 4.2.
    pub fn is_fresh(&self) -> bool {
        self.lifetime > self.age
    }

    /// For how long it has been stale; zero if it is fresh.
    pub fn staleness(&self) -> Duration {
        self.age.saturating_sub(self.lifetime)
    }

    fn may_be_stale(&self) -> bool {
        !self.terms.never_stale && !self.terms.validate_always
    }

    fn stale_within(&self, window: Option<u64>) -> bool {
        window.is_some_and(|window| self.staleness() <= Duration::from_secs(window))
    }
}

/// What to do with a stored response for a request. The request's directives count if they are
/// given; a cache that does not honour them gives `None`.
///
/// With `only-if-cached`, the answer to [`Reuse::Validate`] and [`Reuse::Unusable`] is 504, as it
/// is when nothing is stored. A request that limits age or freshness has no part in
/// `stale-while-revalidate`.
///
/// # Specification
///
/// RFC 9111 sections 4, 4.2.4 and 5.2.1; RFC 5861 section 3.
///
/// # Example
///
/// ```
/// use axum_cache::semantics::reuse::{Reuse, StoredFacts, Terms, reuse};
/// use std::time::Duration;
///
/// let mut stored = StoredFacts {
///     terms: Terms::default(),
///     lifetime: Duration::from_secs(60),
///     age: Duration::from_secs(59),
///     validator: true,
/// };
/// assert_eq!(reuse(&stored, None), Reuse::Fresh);
/// stored.age = Duration::from_secs(60);
/// assert_eq!(reuse(&stored, None), Reuse::Validate);
/// ```
pub fn reuse(stored: &StoredFacts, request: Option<&RequestControl>) -> Reuse {
    let ask = if stored.validator {
        Reuse::Validate
    } else {
        Reuse::Unusable
    };
    let wishes = request.copied().unwrap_or_default();
    let too_old = wishes
        .max_age
        .is_some_and(|max_age| stored.age > Duration::from_secs(max_age) || max_age == 0);
    if stored.terms.validate_always || wishes.no_cache || too_old {
        return ask;
    }
    let remaining = stored.lifetime.saturating_sub(stored.age);
    let fresh_enough = wishes
        .min_fresh
        .is_none_or(|min_fresh| remaining >= Duration::from_secs(min_fresh));
    if stored.is_fresh() {
        return if fresh_enough { Reuse::Fresh } else { ask };
    }
    if !stored.may_be_stale() || !fresh_enough {
        return ask;
    }
    let accepted = match wishes.max_stale {
        None => false,
        Some(MaxStale::Any) => true,
        Some(MaxStale::Seconds(seconds)) => stored.stale_within(Some(seconds)),
    };
    if accepted {
        Reuse::Stale
    } else if wishes.max_age.is_none() && stored.stale_within(stored.terms.stale_while_revalidate) {
        Reuse::StaleWhileRevalidate
    } else {
        ask
    }
}

/// Whether a stored response may be served in the place of an error response of its origin: within
/// the window of `stale-if-error`, the response's or the request's, unless it forbids to be used
/// stale.
///
/// # Specification
///
/// RFC 5861 section 4, RFC 9111 section 4.2.4.
pub fn stale_if_error(stored: &StoredFacts, request: Option<&RequestControl>) -> bool {
    let wished = request.and_then(|request| request.stale_if_error);
    let asked_for = request.is_some_and(|request| request.no_cache);
    stored.may_be_stale()
        && !asked_for
        && (stored.stale_within(stored.terms.stale_if_error) || stored.stale_within(wished))
}

/// Whether a stored response may be served when its origin cannot be reached, however stale:
/// unless it forbids to be used stale, or has to be validated.
///
/// # Specification
///
/// RFC 9111 section 4.2.4.
pub fn stale_if_unreachable(stored: &StoredFacts, request: Option<&RequestControl>) -> bool {
    stored.may_be_stale() && !request.is_some_and(|request| request.no_cache)
}

/// Whether a status is an error in the sense of `stale-if-error`.
///
/// # Specification
///
/// RFC 5861 section 4.
pub fn is_error(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use http::HeaderValue;
    use http::header::{CACHE_CONTROL, HeaderMap};

    use super::*;

    fn headers(line: &str) -> HeaderMap {
        let value = HeaderValue::from_str(line).unwrap();
        [(CACHE_CONTROL, value)].into_iter().collect()
    }

    /// A response with a lifetime of 10 seconds at this age.
    fn stored(line: &str, age: u64) -> StoredFacts {
        StoredFacts {
            terms: Terms::new(&CacheControl::parse(&headers(line)).unwrap()),
            lifetime: Duration::from_secs(10),
            age: Duration::from_secs(age),
            validator: true,
        }
    }

    fn asked(line: &str, age: u64, request: &str) -> Reuse {
        let request = RequestControl::parse(&headers(request));
        reuse(&stored(line, age), Some(&request))
    }

    #[test]
    fn rfc_9111_4_2_fresh_is_younger_than_its_lifetime() {
        assert_eq!(reuse(&stored("", 9), None), Reuse::Fresh);
        assert_eq!(reuse(&stored("", 10), None), Reuse::Validate);
        let mut without = stored("", 10);
        without.validator = false;
        assert_eq!(reuse(&without, None), Reuse::Unusable);
    }

    #[test]
    fn rfc_9111_5_2_2_4_no_cache_is_validated_on_each_use() {
        for line in [
            "no-cache",
            "no-cache=\"a\"",
            "no-cache, stale-while-revalidate=99",
        ] {
            assert_eq!(reuse(&stored(line, 0), None), Reuse::Validate);
            assert_eq!(asked(line, 11, "max-stale"), Reuse::Validate);
        }
    }

    #[test]
    fn rfc_9111_4_2_4_what_forbids_use_when_stale() {
        for line in ["must-revalidate", "proxy-revalidate", "s-maxage=10"] {
            assert_eq!(reuse(&stored(line, 9), None), Reuse::Fresh);
            let both = format!("{line}, stale-while-revalidate=60, stale-if-error=60");
            assert_eq!(reuse(&stored(&both, 11), None), Reuse::Validate);
            assert_eq!(asked(&both, 11, "max-stale"), Reuse::Validate);
            assert!(!stale_if_error(&stored(&both, 11), None), "{line}");
            assert!(!stale_if_unreachable(&stored(&both, 11), None), "{line}");
        }
        assert!(!stale_if_unreachable(&stored("no-cache", 0), None));
        assert!(stale_if_unreachable(&stored("", 9999), None));
    }

    #[test]
    fn rfc_5861_3_the_window_of_stale_while_revalidate() {
        let line = "stale-while-revalidate=5";
        for (age, expected) in [
            (9, Reuse::Fresh),
            (10, Reuse::StaleWhileRevalidate),
            (15, Reuse::StaleWhileRevalidate),
            (16, Reuse::Validate),
        ] {
            assert_eq!(reuse(&stored(line, age), None), expected, "{age}");
        }
        assert_eq!(asked(line, 11, "max-age=99"), Reuse::Validate);
        assert_eq!(asked(line, 11, "min-fresh=1"), Reuse::Validate);
    }

    #[test]
    fn rfc_5861_4_the_window_of_stale_if_error() {
        let line = "stale-if-error=5";
        assert!(stale_if_error(&stored(line, 15), None));
        assert!(!stale_if_error(&stored(line, 16), None));
        assert!(!stale_if_error(&stored("", 11), None));
        let wished = RequestControl::parse(&headers("stale-if-error=9"));
        assert!(stale_if_error(&stored("", 19), Some(&wished)));
        let reload = RequestControl::parse(&headers("no-cache"));
        assert!(!stale_if_error(&stored(line, 15), Some(&reload)));
        assert!(!stale_if_unreachable(&stored(line, 15), Some(&reload)));
        assert!(
            [500, 502, 503, 504]
                .iter()
                .all(|code| is_error(StatusCode::from_u16(*code).unwrap()))
        );
        assert!(
            [200, 404, 501, 505]
                .iter()
                .all(|code| !is_error(StatusCode::from_u16(*code).unwrap()))
        );
    }

    #[test]
    fn rfc_9111_5_2_1_wishes_of_the_request() {
        for (age, request, expected) in [
            (0, "no-cache", Reuse::Validate),
            (0, "max-age=0", Reuse::Validate),
            (5, "max-age=4", Reuse::Validate),
            (5, "max-age=5", Reuse::Fresh),
            (5, "min-fresh=5", Reuse::Fresh),
            (5, "min-fresh=6", Reuse::Validate),
            (13, "max-stale", Reuse::Stale),
            (13, "max-stale=3", Reuse::Stale),
            (14, "max-stale=3", Reuse::Validate),
            (13, "max-stale, max-age=12", Reuse::Validate),
            (13, "max-stale, max-age=13", Reuse::Stale),
            (5, "no-store, only-if-cached", Reuse::Fresh),
        ] {
            assert_eq!(asked("", age, request), expected, "{age} {request}");
        }
    }
}
