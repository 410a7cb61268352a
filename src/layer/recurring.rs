//! Values of fields that many pages have, held once for all of them.
//!
//! A value that is cut from its entry counts who has it: twice for each hit, all threads in one place. One that
//! lives as long as the process counts nobody.
//!
//! # Invariants
//!
//! - What is held is bounded by [`PLACES`] and [`LONGEST`], whatever responses say.
//! - A value that is held is, byte by byte, the one that was asked for.

use std::sync::{LazyLock, OnceLock};

use bytes::Bytes;
use http::header::{
    CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_LOCATION, ETAG, EXPIRES, LAST_MODIFIED, LINK,
    LOCATION,
};
use http::{HeaderName, HeaderValue};
use xxhash_rust::xxh3::xxh3_64;

/// How many values are held at most.
const PLACES: usize = 512;

/// The longest that is held, in bytes.
const LONGEST: usize = 128;

/// In how many places one may be.
const WAYS: usize = 4;

/// What each page has a value of its own of, as a rule.
const OF_ONE_PAGE: [HeaderName; 8] = [
    CONTENT_LENGTH,
    ETAG,
    LAST_MODIFIED,
    EXPIRES,
    LOCATION,
    CONTENT_LOCATION,
    CONTENT_DISPOSITION,
    LINK,
];

static HELD: LazyLock<Held> = LazyLock::new(Held::new);

/// A value of a field: held if many have it, and a part of these bytes if not. `None` if no field can have it.
pub(super) fn value(name: &HeaderName, value: &[u8], bytes: &Bytes) -> Option<HeaderValue> {
    let held = HELD.value_of(name, value);
    held.or_else(|| HeaderValue::from_maybe_shared(bytes.slice_ref(value)).ok())
}

struct Held {
    values: Box<[OnceLock<HeaderValue>]>,
}

impl Held {
    fn new() -> Self {
        Self {
            values: (0..PLACES).map(|_| OnceLock::new()).collect(),
        }
    }

    fn value_of(&self, name: &HeaderName, bytes: &[u8]) -> Option<HeaderValue> {
        let may_recur = bytes.len() <= LONGEST && !OF_ONE_PAGE.contains(name);
        may_recur.then(|| self.value(bytes)).flatten()
    }

    /// The value, if there is a place for it: who comes first has it for ever, and what a site says everywhere comes
    /// early.
    fn value(&self, bytes: &[u8]) -> Option<HeaderValue> {
        let first = usize::try_from(xxh3_64(bytes) % PLACES as u64).unwrap_or_default();
        for place in (first..first + WAYS).map(|place| &self.values[place % PLACES]) {
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

    use http::header::CONTENT_TYPE;
    use proptest::prelude::*;

    use super::*;

    fn held(held: &Held) -> usize {
        held.values.iter().filter(|it| it.get().is_some()).count()
    }

    #[test]
    fn a_value_is_held_once() {
        let all = Held::new();
        for _ in 0..3 {
            assert_eq!(all.value(b"nosniff").unwrap(), "nosniff");
            assert_eq!(held(&all), 1);
        }
    }

    #[test]
    fn however_many_values_there_are_no_more_are_held_than_there_are_places() {
        let all = Held::new();
        for number in 0..20 * PLACES {
            let value = format!("value {number}");
            let given = all.value(value.as_bytes());
            assert!(given.is_none_or(|given| given == value));
        }
        assert_eq!(held(&all), PLACES);
        // Those that are, stay.
        let first = all.value(b"value 0");
        assert_eq!(first.unwrap(), "value 0");
    }

    #[test]
    fn what_each_page_has_of_its_own_is_not_held_and_neither_is_what_is_long() {
        let (all, long) = (Held::new(), "x".repeat(LONGEST));
        for kept in ["text/html", &long] {
            let given = all.value_of(&CONTENT_TYPE, kept.as_bytes());
            assert_eq!(given.unwrap(), kept);
        }
        assert_eq!(all.value_of(&ETAG, b"\"1\""), None);
        assert_eq!(all.value_of(&CONTENT_TYPE, (long + "x").as_bytes()), None);
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
