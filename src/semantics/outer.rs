//! What layers outside of a cache may have said of a response after the cache had seen it.

use http::header::{
    ACCEPT_ENCODING, ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, HeaderMap,
    HeaderName, ORIGIN, SET_COOKIE,
};

use super::cache_control::{CacheControl, Malformed};
use super::storable::Refusal;
use super::vary::Vary;

/// Fields that layers name in `Vary` on account of what they do to every response that goes
/// through them, stored or not: compression and CORS.
static TRANSFORMED: [HeaderName; 4] = [
    ACCEPT_ENCODING,
    ORIGIN,
    ACCESS_CONTROL_REQUEST_METHOD,
    ACCESS_CONTROL_REQUEST_HEADERS,
];

/// Whether a response that was storable, and varied on `inner`, still is by the fields that it
/// has in the end.
///
/// # Errors
///
/// Why not: a cookie is set, a directive forbids it, or it varies on more than was known.
pub fn unharmed(inner: &Vary, headers: &HeaderMap) -> Result<(), Refusal> {
    let directives = CacheControl::parse(headers).map_err(|Malformed| Refusal::CacheControl)?;
    let outer = match Vary::parse(headers) {
        Vary::Any => return Err(Refusal::Vary),
        Vary::Names(names) => names,
    };
    let harmless = |name: &HeaderName| inner.covers(name) || TRANSFORMED.contains(name);
    let refused = [
        (headers.contains_key(SET_COOKIE), Refusal::SetCookie),
        (directives.no_store, Refusal::NoStore),
        (directives.private.is_set(), Refusal::Private),
        (directives.no_cache.is_set(), Refusal::NoCache),
        (!outer.iter().all(harmless), Refusal::Vary),
    ];
    let refusal = refused.into_iter().find(|(refused, _)| *refused);
    refusal.map_or(Ok(()), |(_, refusal)| Err(refusal))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use http::header::COOKIE;

    use super::*;
    use crate::semantics::tests::fields;

    fn verdict(lines: &[(&'static str, &str)]) -> Result<(), Refusal> {
        unharmed(&Vary::Names(vec![COOKIE]), &fields(lines))
    }

    #[test]
    fn p_05_what_is_added_outside_counts() {
        assert_eq!(verdict(&[("set-cookie", "a=b")]), Err(Refusal::SetCookie));
        for (directive, refusal) in [
            ("private", Refusal::Private),
            ("max-age=1, No-Store", Refusal::NoStore),
            ("no-cache=\"x\"", Refusal::NoCache),
            ("max-age=x", Refusal::CacheControl),
        ] {
            assert_eq!(verdict(&[("cache-control", directive)]), Err(refusal));
        }
        for vary in ["*", "Cookie, Authorization", "Accept-Language", "no name"] {
            assert_eq!(verdict(&[("vary", vary)]), Err(Refusal::Vary), "{vary}");
        }
    }

    #[test]
    fn what_the_cache_knew_and_what_layers_do_to_all_is_no_harm() {
        assert_eq!(verdict(&[]), Ok(()));
        assert_eq!(verdict(&[("cache-control", "public, max-age=60")]), Ok(()));
        assert_eq!(
            verdict(&[("vary", "cookie, Accept-Encoding, Origin")]),
            Ok(())
        );
    }
}
