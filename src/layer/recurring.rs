//! Values of fields that many pages have, held once for all of them.
//!
//! A value that is cut from its entry counts who has it: twice for each hit, all threads in one place. One that
//! lives as long as the process counts nobody.
//!
//! # Invariants
//!
//! - Only values of fields that say the same of many pages are held, and of none that says something of one page, one
//!   request or one user: what is held is never freed.
//! - What is held is bounded by [`PLACES`] for each of these fields and by [`LONGEST`], whatever responses say.
//! - A value that is held is, byte by byte, the one that was asked for.

use std::sync::{LazyLock, OnceLock};

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ALT_SVC, CACHE_CONTROL,
    CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_TYPE, PRAGMA, REFERRER_POLICY, SERVER,
    STRICT_TRANSPORT_SECURITY, VARY, VIA, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
    X_XSS_PROTECTION,
};
use http::{HeaderName, HeaderValue};
use xxhash_rust::xxh3::xxh3_64;

use crate::semantics::targeted::CDN_CACHE_CONTROL;

/// The fields whose values are held. Not among them is what may repeat a part of the request, such as
/// `Access-Control-Allow-Origin`, or have a nonce, such as `Content-Security-Policy`.
static OF_MANY_PAGES: [HeaderName; 24] = [
    CONTENT_TYPE,
    CACHE_CONTROL,
    VARY,
    CONTENT_ENCODING,
    CONTENT_LANGUAGE,
    X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
    REFERRER_POLICY,
    STRICT_TRANSPORT_SECURITY,
    HeaderName::from_static("permissions-policy"),
    HeaderName::from_static("cross-origin-opener-policy"),
    HeaderName::from_static("cross-origin-embedder-policy"),
    HeaderName::from_static("cross-origin-resource-policy"),
    ACCESS_CONTROL_ALLOW_CREDENTIALS,
    ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_EXPOSE_HEADERS,
    ACCESS_CONTROL_MAX_AGE,
    ACCEPT_RANGES,
    CDN_CACHE_CONTROL,
    PRAGMA,
    SERVER,
    VIA,
    ALT_SVC,
    X_XSS_PROTECTION,
];

/// How many values of one field are held at most.
const PLACES: usize = 32;

/// The longest that is held, in bytes.
const LONGEST: usize = 128;

/// In how many places one may be.
const WAYS: usize = 4;

static HELD: LazyLock<Held> = LazyLock::new(Held::new);

/// A value of a field: held if many have it, and a part of these bytes if not. `None` if no field can have it.
pub(super) fn value(name: &HeaderName, value: &[u8], bytes: &Bytes) -> Option<HeaderValue> {
    let held = HELD.value(name, value);
    held.or_else(|| HeaderValue::from_maybe_shared(bytes.slice_ref(value)).ok())
}

struct Held {
    /// As many for each field.
    values: Box<[OnceLock<HeaderValue>]>,
}

impl Held {
    fn new() -> Self {
        let places = OF_MANY_PAGES.len() * PLACES;
        Self {
            values: (0..places).map(|_| OnceLock::new()).collect(),
        }
    }

    /// The value, if there is a place for it: who comes first has it for ever, and what a site says everywhere comes
    /// early.
    fn value(&self, name: &HeaderName, bytes: &[u8]) -> Option<HeaderValue> {
        if bytes.len() > LONGEST {
            return None;
        }
        let field = OF_MANY_PAGES.iter().position(|field| field == name)?;
        let of_field = &self.values[field * PLACES..][..PLACES];
        let first = usize::try_from(xxh3_64(bytes) % PLACES as u64).unwrap_or_default();
        for place in (first..first + WAYS).map(|place| &of_field[place % PLACES]) {
            let held = if let Some(held) = place.get() {
                held
            } else {
                let value = HeaderValue::from_bytes(bytes).ok()?;
                place.get_or_init(|| kept(value))
            };
            if held.as_bytes() == bytes {
                return Some(held.clone());
            }
        }
        None
    }
}

/// The same value, never to be freed.
fn kept(value: HeaderValue) -> HeaderValue {
    let bytes: &'static [u8] = Box::leak(value.as_bytes().into());
    HeaderValue::from_maybe_shared(Bytes::from_static(bytes)).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use http::header::{
        ACCESS_CONTROL_ALLOW_ORIGIN, CONTENT_SECURITY_POLICY, DATE, ETAG, LAST_MODIFIED, LOCATION,
    };
    use proptest::prelude::*;

    use super::*;

    fn held(held: &Held) -> usize {
        held.values.iter().filter(|it| it.get().is_some()).count()
    }

    #[test]
    fn a_value_is_held_once() {
        let all = Held::new();
        for _ in 0..3 {
            let value = all.value(&X_CONTENT_TYPE_OPTIONS, b"nosniff");
            assert_eq!(value.unwrap(), "nosniff");
            assert_eq!(held(&all), 1);
        }
    }

    #[test]
    fn however_many_values_a_field_has_no_more_are_held_than_it_has_places() {
        let all = Held::new();
        for number in 0..20 * PLACES {
            let value = format!("max-age={number}");
            let given = all.value(&CACHE_CONTROL, value.as_bytes());
            assert!(given.is_none_or(|given| given == value));
        }
        assert_eq!(held(&all), PLACES);
        // Those that are, stay, and others have places of their own.
        let first = all.value(&CACHE_CONTROL, b"max-age=0");
        assert_eq!(first.unwrap(), "max-age=0");
        assert_eq!(all.value(&VARY, b"accept").unwrap(), "accept");
    }

    #[test]
    fn what_is_of_one_page_or_one_user_is_not_held_and_neither_is_what_is_long() {
        let (all, long) = (Held::new(), "x".repeat(LONGEST));
        for kept in ["text/html", &long] {
            let given = all.value(&CONTENT_TYPE, kept.as_bytes());
            assert_eq!(given.unwrap(), kept);
        }
        assert_eq!(all.value(&CONTENT_TYPE, (long + "x").as_bytes()), None);
        for name in [
            DATE,
            ETAG,
            LAST_MODIFIED,
            LOCATION,
            ACCESS_CONTROL_ALLOW_ORIGIN,
            CONTENT_SECURITY_POLICY,
            HeaderName::from_static("x-request-id"),
            HeaderName::from_static("x-user"),
        ] {
            assert_eq!(all.value(&name, b"1"), None, "{name}");
        }
        assert_eq!(held(&all), 2);
    }

    proptest! {
        #[test]
        fn what_comes_is_what_was_asked_for(
            values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3), 1..40),
        ) {
            for bytes in values.iter().chain(&values) {
                let entry = Bytes::from(bytes.clone());
                let given = super::value(&CONTENT_TYPE, &entry, &entry);
                prop_assert_eq!(given, HeaderValue::from_bytes(bytes).ok());
            }
        }
    }
}
