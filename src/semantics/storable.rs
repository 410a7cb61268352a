//! The gate: what may be stored, and to whom it may be served. One predicate for both.
//!
//! # Invariants
//!
//! - It fails closed: what cannot be parsed, or is not known to be safe, is refused.
//! - [`admit`] is [`storable`] and [`shareable`]: nothing is stored that its own request could not
//!   be answered with from the store.

use std::time::{Duration, SystemTime};

use http::StatusCode;
use http::header::{AUTHORIZATION, COOKIE, EXPIRES, HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use super::cache_control::{CacheControl, Malformed};
use super::freshness::{explicit_lifetime, heuristic_lifetime, is_heuristically_cacheable};
use super::range::parse_content_range;
use super::request::RequestControl;
use super::targeted::targeted;
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
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct ResponseFacts {
    status: StatusCode,
    cache_control: Result<CacheControl, Malformed>,
    vary: Vary,
    set_cookie: bool,
    content_range: bool,
    event_stream: bool,
    explicit_lifetime: Option<Duration>,
    heuristic_lifetime: Option<Duration>,
    expires: bool,
    part: bool,
    validator: bool,
}

/// What bears on sharing a stored response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Sharing {
    /// It is `public`.
    pub public: bool,
    /// It is `public`, `s-maxage` or `must-revalidate`: made to be shared in spite of credentials.
    pub authorized: bool,
    /// It varies on `Cookie`.
    pub varies_on_cookie: bool,
    /// It answers a request with cookies of which nobody said which of them matter.
    pub answers_cookies: bool,
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
    /// It neither says how long it is fresh, nor can it be validated.
    NoFreshness,
    /// The request has credentials, and the response does not say that it may be shared.
    Authorization,
    /// The request has cookies, and the response does not say that it may be shared.
    Cookie,
    /// The request has a body, which the key knows nothing of.
    RequestBody,
    /// The request asks for another method by a field such as `X-HTTP-Method-Override`.
    MethodOverride,
    /// Something has rewritten the URI of the request to one below a parameter of a nested router, which strips it:
    /// what it was is not known.
    RewrittenUri,
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
    /// What made it marked it as personal.
    Veto,
    /// It has too many tags, or such as no page can have.
    Tags,
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
            Self::NoFreshness => "no-freshness",
            Self::Authorization => "authorization",
            Self::Cookie => "cookie",
            Self::RequestBody => "request-body",
            Self::MethodOverride => "method-override",
            Self::RewrittenUri => "rewritten-uri",
            Self::Upgrade => "upgrade",
            Self::TtlZero => "ttl-zero",
            Self::Head => "head",
            Self::BodyTooLarge => "body-too-large",
            Self::Unavailable => "unavailable",
            Self::Veto => "veto",
            Self::Tags => "tags",
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
        Self::said(status, headers, CacheControl::parse(headers), now)
    }

    /// The same of a response that [`storable`] does not refuse for what its status and `Cache-Control` say, which
    /// is cheaper to know.
    ///
    /// # Errors
    ///
    /// Why it does.
    pub(crate) fn permitted(
        status: StatusCode,
        headers: &HeaderMap,
        now: SystemTime,
    ) -> Result<Self, Refusal> {
        let cache_control = CacheControl::parse(headers);
        permitted(status, &cache_control)?;
        Ok(Self::said(status, headers, cache_control, now))
    }

    fn said(
        status: StatusCode,
        headers: &HeaderMap,
        cache_control: Result<CacheControl, Malformed>,
        now: SystemTime,
    ) -> Self {
        let explicit_lifetime = cache_control
            .as_ref()
            .ok()
            .and_then(|cache_control| explicit_lifetime(headers, cache_control, now));
        Self::with(status, headers, cache_control, explicit_lifetime)
    }

    /// The facts of a response for a cache that goes by [`storable_http`]: with the directives of
    /// the first of these targeted fields that counts, and a lifetime of up to `heuristic_cap` if
    /// the response says nothing of its own. With a targeted field, `Expires` has no say.
    ///
    /// # Specification
    ///
    /// RFC 9111 sections 4.2.1 and 4.2.2, RFC 9213 section 2.2.
    pub fn for_http(
        status: StatusCode,
        headers: &HeaderMap,
        targets: &[HeaderName],
        heuristic_cap: Duration,
        now: SystemTime,
    ) -> Self {
        let Some(directives) = targeted(headers, targets) else {
            let mut facts = Self::new(status, headers, now);
            facts.expires = headers.contains_key(EXPIRES);
            facts.heuristic_lifetime = facts
                .cache_control()
                .and_then(|of| heuristic_lifetime(status, headers, of, now, heuristic_cap));
            return facts;
        };
        let seconds = directives.s_maxage.or(directives.max_age);
        let heuristic = heuristic_lifetime(status, headers, &directives, now, heuristic_cap);
        let explicit = seconds.map(Duration::from_secs);
        Self {
            heuristic_lifetime: heuristic,
            ..Self::with(status, headers, Ok(directives), explicit)
        }
    }

    fn with(
        status: StatusCode,
        headers: &HeaderMap,
        cache_control: Result<CacheControl, Malformed>,
        explicit_lifetime: Option<Duration>,
    ) -> Self {
        let mut facts = Self {
            status,
            cache_control,
            vary: Vary::parse(headers),
            set_cookie: false,
            content_range: false,
            event_stream: false,
            explicit_lifetime,
            heuristic_lifetime: None,
            expires: false,
            part: false,
            validator: false,
        };
        // All in one go.
        for (name, value) in headers {
            match name.as_str() {
                "set-cookie" => facts.set_cookie = true,
                "content-range" => {
                    facts.content_range = true;
                    facts.part |= parse_content_range(value).is_some();
                }
                "content-type" => facts.event_stream |= is_event_stream(value),
                "etag" | "last-modified" => facts.validator = true,
                _ => {}
            }
        }
        facts
    }

    /// Its `Cache-Control`, or the targeted field in its place, if it can be parsed.
    pub fn cache_control(&self) -> Option<&CacheControl> {
        self.cache_control.as_ref().ok()
    }

    /// How long it says it is fresh; see [`explicit_lifetime`].
    pub fn explicit_lifetime(&self) -> Option<Duration> {
        self.explicit_lifetime
    }

    /// How long it is fresh, counted from its making: what it says, or else what can be told from
    /// its last modification, or else not at all.
    ///
    /// # Specification
    ///
    /// RFC 9111 section 4.2.
    pub fn lifetime(&self) -> Duration {
        let known = self.explicit_lifetime.or(self.heuristic_lifetime);
        known.unwrap_or_default()
    }

    /// Whether it has an `ETag` or a `Last-Modified`.
    pub fn has_validator(&self) -> bool {
        self.validator
    }

    /// Its `Vary`.
    pub fn vary(&self) -> &Vary {
        &self.vary
    }

    /// What is to be remembered of it, as the answer to this request, for later ones.
    pub fn sharing(&self, request: RequestFacts) -> Sharing {
        let directives = self.cache_control();
        let public = directives.is_some_and(|directives| directives.public);
        Sharing {
            public,
            authorized: public
                || directives.is_some_and(|directives| {
                    directives.s_maxage.is_some() || directives.must_revalidate
                }),
            varies_on_cookie: self.vary.covers(&COOKIE),
            answers_cookies: request.undeclared_cookies,
        }
    }
}

fn is_event_stream(content_type: &HeaderValue) -> bool {
    let mut parts = content_type.as_bytes().split(|byte| *byte == b';');
    let essence = parts.next().unwrap_or_default();
    essence
        .trim_ascii()
        .eq_ignore_ascii_case(b"text/event-stream")
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
    permitted(response.status, &response.cache_control)?;
    let refused = [
        (response.set_cookie, Refusal::SetCookie),
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

/// What status and `Cache-Control` of a response say to [`storable`].
fn permitted(
    status: StatusCode,
    cache_control: &Result<CacheControl, Malformed>,
) -> Result<(), Refusal> {
    let directives = cache_control
        .as_ref()
        .map_err(|Malformed| Refusal::CacheControl)?;
    let refused = [
        (status != StatusCode::OK, Refusal::Status),
        (directives.no_store, Refusal::NoStore),
        (directives.private.is_set(), Refusal::Private),
        (directives.no_cache.is_set(), Refusal::NoCache),
    ];
    let refusal = refused.into_iter().find(|(refused, _)| *refused);
    refusal.map_or(Ok(()), |(_, refusal)| Err(refusal))
}

/// Statuses whose caching is known here; `must-understand` asks for one of them.
fn is_understood(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        200..=205 | 300..=303 | 305 | 307 | 308 | 400..=410 | 411..=415 | 417 | 421 | 422 | 426
            | 451 | 500..=505
    )
}

/// Whether a cache that goes by HTTP alone may store a response: one that every directive permits,
/// and that will be of use, as it is fresh now or can be validated later.
///
/// Any final status is stored with explicit freshness or `public`, and the others of
/// [`is_heuristically_cacheable`]; 206, 304, 412 and 416 answer one request only and never are: a
/// client that sends `If-Match` would choose what others get.
/// `no-cache` is no hindrance, as what is stored is then validated on each use. `no-store` beside
/// `must-understand` counts for unknown statuses only.
///
/// # Errors
///
/// Why not.
///
/// # Specification
///
/// RFC 9111 sections 3 and 5.2.2.3, and stricter: no `Set-Cookie`, no event streams, nothing with
/// a `Vary` of `*`, and `private` or `no-cache` for some fields are taken for the whole response.
/// `Content-Range` makes a part of a response to 206 only: RFC 9110 section 14.4; elsewhere one
/// that can be parsed is refused all the same.
pub fn storable_http(response: &ResponseFacts) -> Result<(), Refusal> {
    let directives = response
        .cache_control
        .as_ref()
        .map_err(|Malformed| Refusal::CacheControl)?;
    let status = response.status;
    let understood = directives.must_understand && is_understood(status);
    let cacheable = directives.public
        || directives.max_age.is_some()
        || directives.s_maxage.is_some()
        || response.expires
        || is_heuristically_cacheable(status);
    let partial = [
        StatusCode::PARTIAL_CONTENT,
        StatusCode::RANGE_NOT_SATISFIABLE,
    ];
    let single = status.is_informational()
        || [StatusCode::NOT_MODIFIED, StatusCode::PRECONDITION_FAILED].contains(&status);
    let useless = response.lifetime() == Duration::ZERO && !response.validator;
    let refused = [
        (
            single || (directives.must_understand && !understood),
            Refusal::Status,
        ),
        (partial.contains(&status) || response.part, Refusal::Partial),
        (response.set_cookie, Refusal::SetCookie),
        (directives.no_store && !understood, Refusal::NoStore),
        (directives.private.is_set(), Refusal::Private),
        (response.vary == Vary::Any, Refusal::Vary),
        (response.event_stream, Refusal::EventStream),
        (!cacheable, Refusal::Status),
        (
            useless && response.explicit_lifetime.is_some(),
            Refusal::Expired,
        ),
        (useless, Refusal::NoFreshness),
    ];
    let refusal = refused.into_iter().find(|(refused, _)| *refused);
    refusal.map_or(Ok(()), |(_, refusal)| Err(refusal))
}

/// Whether a cache that goes by HTTP alone may store a response, given the request it answers; the
/// `directives` of the request count if they are given.
///
/// Cookies of the request are no hindrance.
///
/// # Errors
///
/// Why not.
///
/// # Specification
///
/// RFC 9111 sections 3, 3.5 and 5.2.1.5.
pub fn admit_http(
    request: RequestFacts,
    directives: Option<&RequestControl>,
    response: &ResponseFacts,
) -> Result<(), Refusal> {
    if directives.is_some_and(|directives| directives.no_store) {
        return Err(Refusal::NoStore);
    }
    storable_http(response)?;
    shareable(Intent::Explicit, request, response.sharing(request))
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
    // The second one is of a layer on a route, and was found by one for a site under the same key.
    let cookies = request.undeclared_cookies || response.answers_cookies;
    if blanket && cookies && !response.public && !response.varies_on_cookie {
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
    shareable(intent, request, response.sharing(request))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use http::HeaderValue;

    use super::*;
    use crate::semantics::tests::fields;

    fn facts(status: u16, lines: &[(&'static str, &str)]) -> ResponseFacts {
        let headers = fields(lines);
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

    fn http(status: u16, lines: &[(&'static str, &str)]) -> Result<(), Refusal> {
        storable_http(&http_facts(status, lines))
    }

    fn http_facts(status: u16, lines: &[(&'static str, &str)]) -> ResponseFacts {
        let headers = fields(lines);
        let status = StatusCode::from_u16(status).unwrap();
        let targets = [crate::semantics::targeted::CDN_CACHE_CONTROL];
        let cap = Duration::from_secs(100);
        ResponseFacts::for_http(status, &headers, &targets, cap, SystemTime::now())
    }

    const FRESH: (&str, &str) = ("cache-control", "max-age=60");

    #[test]
    fn rfc_9111_3_any_final_status_with_explicit_freshness() {
        for status in [
            200, 201, 203, 204, 299, 301, 302, 303, 307, 308, 400, 404, 410, 499, 500, 503, 599,
        ] {
            assert_eq!(http(status, &[FRESH]), Ok(()), "{status}");
        }
        for (status, refusal) in [
            (304, Refusal::Status),
            (206, Refusal::Partial),
            (416, Refusal::Partial),
        ] {
            assert_eq!(http(status, &[FRESH]), Err(refusal), "{status}");
        }
    }

    #[test]
    fn rfc_9111_3_neither_freshness_nor_validator_nor_a_status_for_heuristics() {
        let old = ("last-modified", "Wed, 01 Jan 2020 00:00:00 GMT");
        assert_eq!(http(200, &[]), Err(Refusal::NoFreshness));
        assert_eq!(http(200, &[("etag", "\"a\"")]), Ok(()));
        assert_eq!(http(200, &[old]), Ok(()));
        assert_eq!(http_facts(200, &[old]).lifetime(), Duration::from_secs(100));
        assert_eq!(http(201, &[old]), Err(Refusal::Status));
        assert_eq!(http(599, &[old]), Err(Refusal::Status));
        assert_eq!(http(599, &[old, ("cache-control", "public")]), Ok(()));
        assert_eq!(
            http(200, &[("cache-control", "max-age=0")]),
            Err(Refusal::Expired)
        );
        assert_eq!(http(200, &[("cache-control", "max-age=0"), old]), Ok(()));
        assert_eq!(http(302, &[("expires", "0"), old]), Ok(()));
        assert_eq!(http(302, &[("expires", "0")]), Err(Refusal::Expired));
    }

    #[test]
    fn rfc_9111_3_what_forbids_storing() {
        for (name, value, verdict) in [
            ("cache-control", "no-store", Err(Refusal::NoStore)),
            ("cache-control", "private", Err(Refusal::Private)),
            ("cache-control", "private=\"x\"", Err(Refusal::Private)),
            ("cache-control", "no-cache", Ok(())),
            ("cache-control", "max-age=x", Err(Refusal::CacheControl)),
            ("set-cookie", "a=b", Err(Refusal::SetCookie)),
            ("vary", "a, *", Err(Refusal::Vary)),
            ("vary", "a", Ok(())),
            (
                "content-type",
                "text/event-stream",
                Err(Refusal::EventStream),
            ),
            ("content-range", "bytes 0-4/10", Err(Refusal::Partial)),
            ("content-range", "whatever", Ok(())),
            ("cdn-cache-control", "no-store", Err(Refusal::NoStore)),
        ] {
            assert_eq!(
                http(200, &[FRESH, (name, value)]),
                verdict,
                "{name}: {value}"
            );
        }
    }

    #[test]
    fn rfc_9111_5_2_2_3_must_understand() {
        let both = ("cache-control", "max-age=60, must-understand, no-store");
        assert_eq!(http(200, &[both]), Ok(()));
        assert_eq!(http(599, &[both]), Err(Refusal::Status));
        let alone = ("cache-control", "max-age=60, must-understand");
        assert_eq!(http(404, &[alone]), Ok(()));
        assert_eq!(http(599, &[alone]), Err(Refusal::Status));
    }

    #[test]
    fn rfc_9213_2_2_a_targeted_field_silences_cache_control_and_expires() {
        let facts = http_facts(
            200,
            &[
                ("cache-control", "no-store"),
                ("cdn-cache-control", "max-age=9"),
                ("expires", "0"),
            ],
        );
        assert_eq!(storable_http(&facts), Ok(()));
        assert_eq!(facts.lifetime(), Duration::from_secs(9));
        let later = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(60));
        let other = http(200, &[("expires", &later), ("cdn-cache-control", "other")]);
        assert_eq!(other, Err(Refusal::NoFreshness));
    }

    #[test]
    fn rfc_9111_3_5_and_5_2_1_5_the_request_has_a_say() {
        let request = RequestFacts {
            authorization: true,
            undeclared_cookies: true,
        };
        let of = |value| http_facts(200, &[("cache-control", value)]);
        let verdict = |value| admit_http(request, None, &of(value));
        for shared in [
            "public, max-age=1",
            "s-maxage=60",
            "max-age=60, must-revalidate",
        ] {
            assert_eq!(verdict(shared), Ok(()));
        }
        assert_eq!(verdict("max-age=60"), Err(Refusal::Authorization));
        let mut directives = RequestControl::default();
        let plain = RequestFacts::default();
        assert_eq!(
            admit_http(plain, Some(&directives), &of("max-age=1")),
            Ok(())
        );
        directives.no_store = true;
        assert_eq!(
            admit_http(plain, Some(&directives), &of("max-age=1")),
            Err(Refusal::NoStore)
        );
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
