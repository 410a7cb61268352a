//! The gate: what may be stored, and to whom it may be served. One predicate for both.
//!
//! # Invariants
//!
//! - It fails closed: what cannot be parsed, or is not known to be safe, is refused.
//! - [`admit`] is [`storable`] and [`shareable`]: nothing is stored that its own request could not
//!   be answered with from the store.

use std::time::{Duration, SystemTime};

use http::StatusCode;
use http::header::{AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, COOKIE, HeaderMap, SET_COOKIE};
use serde::{Deserialize, Serialize};

use super::cache_control::{CacheControl, Malformed};
use super::freshness::explicit_lifetime;
use super::vary::Vary;

/// Who asked for the caching.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Intent {
    /// A whole site was put behind a cache: routes whose authors may not think of it are covered.
    Blanket,
    /// The author of this route did.
    Explicit,
}

/// What a request says that bears on sharing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestFacts {
    /// It has credentials: `Authorization`.
    pub authorization: bool,
    /// It has cookies, and nobody said which of them matter.
    pub undeclared_cookies: bool,
}

/// What a response says that bears on storing it.
#[derive(Clone, Debug)]
pub struct ResponseFacts {
    status: StatusCode,
    cache_control: Result<CacheControl, Malformed>,
    vary: Vary,
    set_cookie: bool,
    content_range: bool,
    event_stream: bool,
    explicit_lifetime: Option<Duration>,
}

/// What a stored response says that bears on sharing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sharing {
    /// It is `public`.
    pub public: bool,
    /// It is `public`, `s-maxage` or `must-revalidate`: made to be shared in spite of credentials.
    pub authorized: bool,
    /// It varies on `Cookie`.
    pub varies_on_cookie: bool,
}

/// Why a response is not stored, or a stored one not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// Its status is not one that is stored.
    Status,
    /// It sets a cookie.
    SetCookie,
    /// Its `Cache-Control` cannot be parsed.
    CacheControl,
    /// `no-store`.
    NoStore,
    /// `private`, for the whole or some fields.
    Private,
    /// `no-cache`, for the whole or some fields.
    NoCache,
    /// `Vary: *`, or one that cannot be parsed.
    Vary,
    /// It is a part of something.
    Partial,
    /// It is a stream of events.
    EventStream,
    /// It says itself that it is stale.
    Expired,
    /// The request has credentials, and the response does not say that it may be shared.
    Authorization,
    /// The request has cookies, and the response does not say that it may be shared.
    Cookie,
    /// The request has a body, which the key knows nothing of.
    RequestBody,
    /// The request asks for another method by a field such as `X-HTTP-Method-Override`.
    MethodOverride,
    /// The request asks for another protocol, and the layer would hide that from the handler.
    Upgrade,
    /// The cache was told to keep it for no time.
    TtlZero,
    /// A response to HEAD has no body to store.
    Head,
    /// Its body is too large.
    BodyTooLarge,
    /// The store failed.
    Unavailable,
}

impl Refusal {
    /// The reason as a token.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::SetCookie => "set-cookie",
            Self::CacheControl => "cache-control-malformed",
            Self::NoStore => "no-store",
            Self::Private => "private",
            Self::NoCache => "no-cache",
            Self::Vary => "vary",
            Self::Partial => "partial",
            Self::EventStream => "event-stream",
            Self::Expired => "expired",
            Self::Authorization => "authorization",
            Self::Cookie => "cookie",
            Self::RequestBody => "request-body",
            Self::MethodOverride => "method-override",
            Self::Upgrade => "upgrade",
            Self::TtlZero => "ttl-zero",
            Self::Head => "head",
            Self::BodyTooLarge => "body-too-large",
            Self::Unavailable => "unavailable",
        }
    }
}

impl RequestFacts {
    /// The facts of a request; `cookies_declared`: someone said which cookies matter.
    pub fn new(headers: &HeaderMap, cookies_declared: bool) -> Self {
        Self {
            authorization: headers.contains_key(AUTHORIZATION),
            undeclared_cookies: !cookies_declared && headers.contains_key(COOKIE),
        }
    }
}

impl ResponseFacts {
    /// The facts of a response.
    pub fn new(status: StatusCode, headers: &HeaderMap, now: SystemTime) -> Self {
        let cache_control = CacheControl::parse(headers);
        let content_type = headers
            .get(CONTENT_TYPE)
            .map_or(&b""[..], |value| value.as_bytes());
        let essence = content_type
            .split(|byte| *byte == b';')
            .next()
            .unwrap_or_default();
        let explicit_lifetime = cache_control
            .as_ref()
            .ok()
            .and_then(|cache_control| explicit_lifetime(headers, cache_control, now));
        Self {
            status,
            cache_control,
            vary: Vary::parse(headers),
            set_cookie: headers.contains_key(SET_COOKIE),
            content_range: headers.contains_key(CONTENT_RANGE),
            event_stream: essence
                .trim_ascii()
                .eq_ignore_ascii_case(b"text/event-stream"),
            explicit_lifetime,
        }
    }

    /// Its `Cache-Control`, if it can be parsed.
    pub fn cache_control(&self) -> Option<&CacheControl> {
        self.cache_control.as_ref().ok()
    }

    /// How long it says it is fresh; see [`explicit_lifetime`].
    pub fn explicit_lifetime(&self) -> Option<Duration> {
        self.explicit_lifetime
    }

    /// Its `Vary`.
    pub fn vary(&self) -> &Vary {
        &self.vary
    }

    /// What is to be remembered of it for later requests.
    pub fn sharing(&self) -> Sharing {
        let directives = self.cache_control();
        let public = directives.is_some_and(|directives| directives.public);
        Sharing {
            public,
            authorized: public
                || directives.is_some_and(|directives| {
                    directives.s_maxage.is_some() || directives.must_revalidate
                }),
            varies_on_cookie: self.vary.covers(&COOKIE),
        }
    }
}

/// Whether a response may be stored at all.
///
/// # Errors
///
/// Why not.
///
/// # Specification
///
/// RFC 9111 section 3, and stricter: status 200 only, no `Set-Cookie`, no fields apart.
pub fn storable(response: &ResponseFacts) -> Result<(), Refusal> {
    let directives = response
        .cache_control
        .as_ref()
        .map_err(|Malformed| Refusal::CacheControl)?;
    let refused = [
        (response.status != StatusCode::OK, Refusal::Status),
        (response.set_cookie, Refusal::SetCookie),
        (directives.no_store, Refusal::NoStore),
        (directives.private.is_set(), Refusal::Private),
        (directives.no_cache.is_set(), Refusal::NoCache),
        (response.vary == Vary::Any, Refusal::Vary),
        (response.content_range, Refusal::Partial),
        (response.event_stream, Refusal::EventStream),
        (
            response.explicit_lifetime == Some(Duration::ZERO),
            Refusal::Expired,
        ),
    ];
    let refusal = refused.into_iter().find(|(refused, _)| *refused);
    refusal.map_or(Ok(()), |(_, refusal)| Err(refusal))
}

/// Whether a response may be served to a request.
///
/// # Errors
///
/// Why not.
///
/// # Specification
///
/// RFC 9111 section 3.5 for `Authorization`, applied to serving as well as to storing.
pub fn shareable(intent: Intent, request: RequestFacts, response: Sharing) -> Result<(), Refusal> {
    if request.authorization && !response.authorized {
        return Err(Refusal::Authorization);
    }
    let blanket = intent == Intent::Blanket;
    if blanket && request.undeclared_cookies && !response.public && !response.varies_on_cookie {
        return Err(Refusal::Cookie);
    }
    Ok(())
}

/// Whether a response may be stored, given the request it answers.
///
/// # Errors
///
/// Why not.
pub fn admit(
    intent: Intent,
    request: RequestFacts,
    response: &ResponseFacts,
) -> Result<(), Refusal> {
    storable(response)?;
    shareable(intent, request, response.sharing())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use http::{HeaderName, HeaderValue};

    use super::*;

    fn facts(status: u16, lines: &[(&'static str, &str)]) -> ResponseFacts {
        let headers: HeaderMap = lines
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_str(value).unwrap(),
                )
            })
            .collect();
        let status = StatusCode::from_u16(status).unwrap();
        ResponseFacts::new(status, &headers, SystemTime::now())
    }

    #[test]
    fn only_200_is_stored() {
        assert_eq!(storable(&facts(200, &[])), Ok(()));
        for status in [
            201, 203, 204, 206, 300, 301, 302, 304, 307, 404, 410, 500, 503,
        ] {
            assert_eq!(storable(&facts(status, &[])), Err(Refusal::Status));
        }
    }

    #[test]
    fn each_refusal_has_its_cause_and_its_near_miss() {
        let later = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(60));
        for (name, refused, refusal, accepted) in [
            ("set-cookie", "a=1", Refusal::SetCookie, None),
            (
                "cache-control",
                "no-store",
                Refusal::NoStore,
                Some("x-no-store"),
            ),
            (
                "cache-control",
                "Private",
                Refusal::Private,
                Some("myprivate"),
            ),
            (
                "cache-control",
                "private=\"x\"",
                Refusal::Private,
                Some("public"),
            ),
            (
                "cache-control",
                "no-cache",
                Refusal::NoCache,
                Some("x=\"no-cache\""),
            ),
            ("cache-control", "no-cache=\"x\"", Refusal::NoCache, None),
            (
                "cache-control",
                "max-age=x",
                Refusal::CacheControl,
                Some("max-age=1"),
            ),
            (
                "cache-control",
                "max-age=0",
                Refusal::Expired,
                Some("max-age=0, s-maxage=1"),
            ),
            (
                "cache-control",
                "max-age=9, s-maxage=0",
                Refusal::Expired,
                None,
            ),
            ("expires", "0", Refusal::Expired, Some(later.as_str())),
            ("vary", "*", Refusal::Vary, Some("cookie")),
            ("vary", "Cookie, *", Refusal::Vary, Some("Cookie, Accept")),
            ("content-range", "bytes 0-1/2", Refusal::Partial, None),
            (
                "content-type",
                "Text/Event-Stream; charset=utf-8",
                Refusal::EventStream,
                Some("text/html"),
            ),
        ] {
            assert_eq!(
                storable(&facts(200, &[(name, refused)])),
                Err(refusal),
                "{refused}"
            );
            if let Some(accepted) = accepted {
                assert_eq!(
                    storable(&facts(200, &[(name, accepted)])),
                    Ok(()),
                    "{accepted}"
                );
            }
        }
    }

    #[test]
    fn rfc_9111_3_5_authorization_needs_a_response_made_to_be_shared() {
        let request = RequestFacts {
            authorization: true,
            ..RequestFacts::default()
        };
        for intent in [Intent::Blanket, Intent::Explicit] {
            let verdict = |value| {
                let facts = facts(200, &[("cache-control", value)]);
                admit(intent, request, &facts)
            };
            for shared in ["public", "s-maxage=60", "max-age=60, must-revalidate"] {
                assert_eq!(verdict(shared), Ok(()));
            }
            assert_eq!(verdict("max-age=60"), Err(Refusal::Authorization));
            assert_eq!(verdict("private, public"), Err(Refusal::Private));
        }
    }

    #[test]
    fn cookies_nobody_declared_keep_a_blanket_cache_away() {
        let request = RequestFacts {
            undeclared_cookies: true,
            ..RequestFacts::default()
        };
        let verdict = |intent, lines| admit(intent, request, &facts(200, lines));
        assert_eq!(verdict(Intent::Blanket, &[]), Err(Refusal::Cookie));
        assert_eq!(
            verdict(Intent::Blanket, &[("cache-control", "s-maxage=9")]),
            Err(Refusal::Cookie)
        );
        assert_eq!(
            verdict(Intent::Blanket, &[("cache-control", "public")]),
            Ok(())
        );
        assert_eq!(verdict(Intent::Blanket, &[("vary", "cookie")]), Ok(()));
        assert_eq!(verdict(Intent::Explicit, &[]), Ok(()));
    }

    #[test]
    fn the_facts_of_a_request() {
        let headers: HeaderMap = [(COOKIE, HeaderValue::from_static("a=1"))]
            .into_iter()
            .collect();
        assert!(RequestFacts::new(&headers, false).undeclared_cookies);
        assert!(!RequestFacts::new(&headers, true).undeclared_cookies);
        assert_eq!(
            RequestFacts::new(&HeaderMap::new(), false),
            RequestFacts::default()
        );
    }
}
