//! Validation: asking whether a stored response still holds, and what becomes of it.

use http::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, HeaderName, HeaderValue,
    IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED,
};

use super::conditional::EntityTag;
use super::fields::storable_fields;
use super::freshness::parse_date;

/// Makes a request ask whether a stored response still holds: puts its `ETag` into
/// `If-None-Match`, its `Last-Modified` into `If-Modified-Since`, as they came, in the place of
/// what the client had there. Returns whether there was anything to ask with; without, the request
/// has neither field and gets a whole response.
///
/// The preconditions of the client are for the cache to answer, from what is then stored:
/// [`is_not_modified`](super::conditional::is_not_modified). `If-Match` and `If-Unmodified-Since`
/// stay, as they are for the origin.
///
/// # Specification
///
/// RFC 9111 section 4.3.1.
///
/// # Example
///
/// ```
/// use axum_cache::semantics::validation::make_conditional;
/// use http::{HeaderMap, HeaderValue};
///
/// let (mut request, mut stored) = (HeaderMap::new(), HeaderMap::new());
/// stored.insert("etag", HeaderValue::from_static("\"7\""));
/// assert!(make_conditional(&mut request, &stored));
/// assert_eq!(request["if-none-match"], "\"7\"");
/// ```
pub fn make_conditional(request: &mut HeaderMap, stored: &HeaderMap) -> bool {
    let mut conditional = false;
    for (precondition, validator) in [(IF_NONE_MATCH, ETAG), (IF_MODIFIED_SINCE, LAST_MODIFIED)] {
        match stored.get(validator) {
            Some(value) => {
                request.insert(precondition, value.clone());
                conditional = true;
            }
            None => {
                request.remove(precondition);
            }
        }
    }
    conditional
}

/// Whether a 304 is about this stored response, the only one that the request asked about: a
/// strong `ETag` has to be the stored one, a weak one to match it weakly, a `Last-Modified` without
/// `ETag` to be the stored one.
///
/// If it is not, nothing may be updated, and the request goes out once more without preconditions.
///
/// # Specification
///
/// RFC 9111 section 4.3.4; a 304 without any validator, which no section gives a meaning to, is
/// taken for the answer to what was asked.
pub fn selects(stored: &HeaderMap, not_modified: &HeaderMap) -> bool {
    if let Some(etag) = not_modified.get(ETAG) {
        return stored
            .get(ETAG)
            .is_some_and(|stored| same_tag(stored, etag));
    }
    !not_modified.contains_key(LAST_MODIFIED) || same_date(stored, not_modified)
}

fn same_tag(stored: &HeaderValue, new: &HeaderValue) -> bool {
    match EntityTag::parse(new.as_bytes()) {
        Some(new) if new.is_weak() => {
            let stored = EntityTag::parse(stored.as_bytes());
            stored.is_some_and(|stored| stored.weak_eq(&new))
        }
        _ => stored == new,
    }
}

fn same_date(one: &HeaderMap, other: &HeaderMap) -> bool {
    let [first, second] = [one, other].map(|headers| headers.get(LAST_MODIFIED));
    first == second
        || parse_date(one, &LAST_MODIFIED)
            .is_some_and(|date| Some(date) == parse_date(other, &LAST_MODIFIED))
}

/// Fields of a stored response that belong to the bytes it has.
static NOT_UPDATED: [HeaderName; 7] = [
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_RANGE,
    ETAG,
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
];

/// Takes over the fields of a 304, or of a response to HEAD, into those of the stored response:
/// each replaces all lines of its name.
///
/// Not what is never stored, and not what belongs to the stored bytes: `Content-Encoding`,
/// `Content-Length`, `Content-Range`, `ETag` and digests. A changed `Vary` is taken over, so that
/// the caller has to store the result under what it now says.
///
/// # Specification
///
/// RFC 9111 section 3.2.
pub fn freshen(stored: &mut HeaderMap, update: &HeaderMap) {
    let update = storable_fields(update);
    for name in update.keys() {
        if NOT_UPDATED.contains(name) {
            continue;
        }
        stored.remove(name);
        for value in update.get_all(name) {
            stored.append(name.clone(), value.clone());
        }
    }
}

/// What a response of 200 to HEAD means for the stored response to GET.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeadUpdate {
    /// It still holds: [`freshen`] it.
    Freshen,
    /// It has changed: it is not to be used any more.
    Invalidate,
}

/// What a response of 200 to HEAD, with these fields, means for a stored response to GET with
/// these fields and a body of this length.
///
/// # Specification
///
/// RFC 9111 section 4.3.5.
pub fn head_update(stored: &HeaderMap, body_length: u64, head: &HeaderMap) -> HeadUpdate {
    let same_etag = head
        .get(ETAG)
        .is_none_or(|etag| stored.get(ETAG) == Some(etag));
    let same_date = !head.contains_key(LAST_MODIFIED) || same_date(stored, head);
    let same_length = head.get(CONTENT_LENGTH).is_none_or(|length| {
        let length = length.to_str().ok().and_then(|length| length.parse().ok());
        length == Some(body_length)
    });
    if same_etag && same_date && same_length {
        HeadUpdate::Freshen
    } else {
        HeadUpdate::Invalidate
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use super::*;
    use crate::semantics::tests::fields;

    const JANUARY: &str = "Wed, 01 Jan 2020 00:00:00 GMT";
    const FEBRUARY: &str = "Sat, 01 Feb 2020 00:00:00 GMT";

    #[test]
    fn rfc_9111_4_3_1_what_is_stored_replaces_what_the_client_asked() {
        let mut request = fields(&[
            ("if-none-match", "\"client\""),
            ("if-modified-since", FEBRUARY),
            ("if-match", "\"m\""),
        ]);
        let stored = fields(&[("etag", "W/\"a\""), ("last-modified", JANUARY)]);
        assert!(make_conditional(&mut request, &stored));
        assert_eq!(request["if-none-match"], "W/\"a\"");
        assert_eq!(request["if-modified-since"], JANUARY);
        assert_eq!(request["if-match"], "\"m\"");
        assert!(make_conditional(
            &mut request,
            &fields(&[("last-modified", JANUARY)])
        ));
        assert!(!request.contains_key("if-none-match"));
        assert!(!make_conditional(&mut request, &HeaderMap::new()));
        assert_eq!(request.len(), 1);
    }

    #[test]
    fn rfc_9111_4_3_4_which_response_a_304_is_about() {
        let strong = [("etag", "\"a\""), ("last-modified", JANUARY)];
        for (new, expected) in [
            (&[("etag", "\"a\"")][..], true),
            (&[("etag", "\"b\"")], false),
            (&[("etag", "W/\"a\"")], true),
            (&[("etag", "W/\"b\"")], false),
            (&[("etag", "\"b\""), ("last-modified", JANUARY)], false),
            (&[("last-modified", JANUARY)], true),
            (
                &[("last-modified", "Wednesday, 01-Jan-20 00:00:00 GMT")],
                true,
            ),
            (&[("last-modified", FEBRUARY)], false),
            (&[], true),
        ] {
            assert_eq!(selects(&fields(&strong), &fields(new)), expected, "{new:?}");
        }
        let weak = fields(&[("etag", "W/\"a\"")]);
        assert!(selects(&weak, &fields(&[("etag", "W/\"a\"")])));
        assert!(!selects(&weak, &fields(&[("etag", "\"a\"")])));
        assert!(!selects(&HeaderMap::new(), &fields(&[("etag", "\"a\"")])));
    }

    #[test]
    fn rfc_9111_3_2_which_fields_a_304_updates() {
        let kept = [
            "content-encoding",
            "content-length",
            "content-range",
            "content-md5",
            "etag",
            "set-cookie",
            "age",
            "connection",
            "keep-alive",
        ];
        let updated = [
            "cache-control",
            "content-type",
            "content-location",
            "content-security-policy",
            "date",
            "expires",
            "last-modified",
            "vary",
            "x-own",
            "content-foo",
            "clear-site-data",
        ];
        let all = |value| {
            let names = kept.iter().chain(&updated);
            fields(&names.map(|name| (*name, value)).collect::<Vec<_>>())
        };
        let mut stored = all("old");
        stored.append("x-own", HeaderValue::from_static("second"));
        stored.insert("x-other", HeaderValue::from_static("old"));
        freshen(&mut stored, &all("new"));
        assert!(kept.iter().all(|name| stored[*name] == "old"));
        assert!(updated.iter().all(|name| stored[*name] == "new"));
        assert_eq!(stored["x-other"], "old");
        assert_eq!(stored.get_all("x-own").iter().count(), 1);
    }

    #[test]
    fn rfc_9111_4_3_5_head_freshens_or_invalidates() {
        let stored = fields(&[("etag", "\"a\""), ("last-modified", JANUARY)]);
        for (head, expected) in [
            (&[][..], HeadUpdate::Freshen),
            (
                &[("etag", "\"a\""), ("content-length", "5")],
                HeadUpdate::Freshen,
            ),
            (&[("last-modified", JANUARY)], HeadUpdate::Freshen),
            (&[("etag", "\"b\"")], HeadUpdate::Invalidate),
            (&[("content-length", "6")], HeadUpdate::Invalidate),
            (&[("content-length", "x")], HeadUpdate::Invalidate),
            (&[("last-modified", FEBRUARY)], HeadUpdate::Invalidate),
        ] {
            assert_eq!(head_update(&stored, 5, &fields(head)), expected, "{head:?}");
        }
        let bare = HeaderMap::new();
        let tagged = fields(&[("etag", "\"a\"")]);
        assert_eq!(head_update(&bare, 5, &tagged), HeadUpdate::Invalidate);
    }
}
