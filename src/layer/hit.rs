//! A hit on a store that answers at once: what is stored, and what each hit has of its own.

use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http::header::{AGE, HeaderMap, HeaderValue};
use http_body::Body;

use super::body::CacheBody;
use super::lookup::Asked;
use super::ready;
use super::serve::put;
use super::stored::{StoredPage, StoredResponse};
use crate::entry::Entry;
use crate::semantics::cache_status::CACHE_STATUS;

/// A stored response in the entry that has the decoded page.
pub(super) struct AtHand {
    pub(super) entry: Entry,
    /// How long ago it was made.
    pub(super) age: Duration,
    /// One of its tags is expired: it is stale from now on, however fresh it would be.
    pub(super) expired: bool,
}

impl AtHand {
    pub(super) fn stored(&self) -> &StoredResponse {
        let page = self.entry.decoded_ref::<StoredPage>();
        page.expect("it has been decoded").stored()
    }
}

/// A stored response that a request gets as it is, but for `Age` and `Cache-Status`. It is made in the place where
/// it goes: to move it there takes as long as to find it.
pub(super) struct Hit(AtHand);

impl Hit {
    /// The page back, if the request gets something else of it.
    pub(super) fn of(page: AtHand, asked: &Asked<'_>, head: bool) -> Result<Self, AtHand> {
        let given = asked.given;
        if head || given.conditions || given.range || asked.is_inside || page.expired {
            return Err(page);
        }
        Ok(Self(page))
    }

    pub(super) fn response<B: Body<Data = Bytes>>(self) -> Response<CacheBody<B>> {
        let stored = self.0.stored();
        let (mut parts, ()) = Response::new(()).into_parts();
        parts.status = stored.status;
        parts.headers = stored.headers.clone();
        let age = ready::age(self.0.age);
        let status = ready::hit(stored.fresh_at(self.0.age));
        put_both(&mut parts.headers, age, status);
        Response::from_parts(parts, CacheBody::stored(stored.body.clone()))
    }
}

/// Without a search for their places, with which a decoded map [begins](super::stored::OF_EACH_HIT).
fn put_both(headers: &mut HeaderMap, age: HeaderValue, status: HeaderValue) {
    let mut places = headers.iter_mut();
    match (places.next(), places.next()) {
        (Some((first, age_place)), Some((second, status_place)))
            if *first == AGE && *second == CACHE_STATUS =>
        {
            (*age_place, *status_place) = (age, status);
        }
        _ => {
            put(headers, &AGE, age);
            put(headers, &CACHE_STATUS, status);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::stored::OF_EACH_HIT;
    use super::*;

    #[test]
    fn each_hit_has_its_own_wherever_the_places_are() {
        let of = |names: &[&'static str]| -> HeaderMap {
            let stored = HeaderValue::from_static("stored");
            let names = names.iter().map(|name| name.parse().unwrap_or(AGE));
            names.map(|name| (name, stored.clone())).collect()
        };
        for names in [
            &["age", "cache-status", "etag"][..],
            &["cache-status", "age"],
            &["etag", "age", "cache-status"],
            &["age", "etag"],
            &["etag"],
            &[],
        ] {
            let mut headers = of(names);
            let etag = headers.get("etag").cloned();
            let [age, status] = ["1", "a; hit"].map(HeaderValue::from_static);
            put_both(&mut headers, age.clone(), status.clone());
            assert_eq!(OF_EACH_HIT, [AGE, CACHE_STATUS]);
            assert_eq!((&headers[AGE], &headers[CACHE_STATUS]), (&age, &status));
            assert_eq!(headers.get("etag").cloned(), etag, "{names:?}");
        }
    }
}
