//! `Cache-Status`: what a cache did with a request, said in the response.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::time::Duration;

use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::kept::{Kept, kept_or_made};

/// The field's name.
pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// Why a request went on to the inner service: `fwd`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Forward {
    /// The cache was told not to answer it.
    Bypass,
    /// Its method is not one to answer.
    Method,
    /// Nothing is stored for its target.
    UriMiss,
    /// Something is stored, but not for the values of its fields.
    VaryMiss,
    /// What is stored is stale.
    Stale,
    /// What is stored would do, but for the directives of the request.
    Request,
    /// Nothing that is stored would do; it is not known why.
    Miss,
    /// Only a part of what was asked for is stored.
    Partial,
}

thread_local! {
    /// The last members that were formatted.
    static MEMBERS: Kept<CacheStatus, 32> = const { RefCell::new([const { None }; 32]) };
}

/// One member of `Cache-Status`.
///
/// # Specification
///
/// RFC 9211 section 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheStatus {
    cache: &'static str,
    hit: bool,
    forward: Option<Forward>,
    forward_status: Option<StatusCode>,
    ttl: Option<u64>,
    stored: bool,
    collapsed: bool,
    detail: Option<&'static str>,
}

impl Forward {
    /// The parameter's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::Method => "method",
            Self::UriMiss => "uri-miss",
            Self::VaryMiss => "vary-miss",
            Self::Stale => "stale",
            Self::Request => "request",
            Self::Miss => "miss",
            Self::Partial => "partial",
        }
    }
}

impl CacheStatus {
    /// `hit`: answered by the cache of this name, which has to be a token.
    pub fn hit(cache: &'static str) -> Self {
        Self {
            cache,
            hit: true,
            forward: None,
            forward_status: None,
            ttl: None,
            stored: false,
            collapsed: false,
            detail: None,
        }
    }

    /// `fwd`: answered by the inner service.
    pub fn forward(cache: &'static str, forward: Forward) -> Self {
        Self {
            hit: false,
            forward: Some(forward),
            ..Self::hit(cache)
        }
    }

    /// Neither: the cache had no answer, and did not ask for one. The detail has to say why.
    pub fn unanswered(cache: &'static str, detail: &'static str) -> Self {
        Self {
            hit: false,
            detail: Some(detail),
            ..Self::hit(cache)
        }
    }

    /// [`fwd-status`](Self::with_forward_status) for a response that is `sent` with another status
    /// than the inner service gave it, such as a 304 that the cache makes of a 200.
    #[must_use]
    pub fn with_sent_status(self, given: StatusCode, sent: StatusCode) -> Self {
        if self.forward.is_none() || self.forward_status.is_some() || given == sent {
            return self;
        }
        self.with_forward_status(given)
    }

    /// `fwd-status`: what the inner service answered, if the response has another status.
    #[must_use]
    pub fn with_forward_status(mut self, status: StatusCode) -> Self {
        self.forward_status = Some(status);
        self
    }

    /// `ttl`: how long the response stays fresh, in whole seconds rounded down; left out for
    /// `None`, for ever.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Option<Duration>) -> Self {
        self.ttl = ttl.map(|ttl| ttl.as_secs());
        self
    }

    /// `stored`: the cache has stored the response.
    #[must_use]
    pub fn with_stored(mut self) -> Self {
        self.stored = true;
        self
    }

    /// `collapsed`: another request that was on its way was waited for.
    #[must_use]
    pub fn with_collapsed(mut self) -> Self {
        self.collapsed = true;
        self
    }

    /// `detail`: a token that says more.
    #[must_use]
    pub fn with_detail(mut self, detail: &'static str) -> Self {
        self.detail = Some(detail);
        self
    }

    /// Adds the member behind those of the caches nearer to the origin.
    pub fn append_to(self, headers: &mut HeaderMap) {
        if let Some(member) = self.value() {
            headers.append(CACHE_STATUS, member);
        }
    }

    /// The member, where there is no other one.
    pub(crate) fn value(self) -> Option<HeaderValue> {
        kept_or_made(&MEMBERS, self.place(), self, || self.member(None))
    }

    /// Where the member is kept: most that differ have places of their own.
    fn place(self) -> usize {
        let detail = self.detail.map_or(0, str::len);
        let flags = usize::from(self.stored) * 2 + usize::from(self.collapsed);
        let forward = self.forward.map_or(0, |forward| forward as usize * 4);
        detail + flags + forward
    }

    /// As [`append_to`](Self::append_to), with `key`: under which the response is stored. A key
    /// that is not printable ASCII is left out.
    ///
    /// It tells clients what the key is made of, so it is for finding faults.
    pub fn append_with_key(self, headers: &mut HeaderMap, key: &str) {
        if let Some(member) = self.member(Some(key)) {
            headers.append(CACHE_STATUS, member);
        }
    }

    fn member(self, key: Option<&str>) -> Option<HeaderValue> {
        let mut member = String::with_capacity(64);
        member.push_str(self.cache);
        if self.hit {
            member.push_str("; hit");
        }
        if let Some(forward) = self.forward {
            let _ = write!(member, "; fwd={}", forward.as_str());
        }
        if let Some(status) = self.forward_status {
            // Writing to a String cannot fail.
            let _ = write!(member, "; fwd-status={}", status.as_u16());
        }
        if let Some(ttl) = self.ttl {
            // Structured integers have at most 15 digits.
            let _ = write!(member, "; ttl={}", ttl.min(999_999_999_999_999));
        }
        if self.stored {
            member.push_str("; stored");
        }
        if self.collapsed {
            member.push_str("; collapsed");
        }
        if let Some(key) = key
            && key.bytes().all(|byte| matches!(byte, b' '..=b'~'))
        {
            member.push_str("; key=\"");
            for character in key.chars() {
                if matches!(character, '"' | '\\') {
                    member.push('\\');
                }
                member.push(character);
            }
            member.push('"');
        }
        if let Some(detail) = self.detail {
            let _ = write!(member, "; detail={detail}");
        }
        HeaderValue::try_from(member).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(status: CacheStatus) -> String {
        let mut headers = HeaderMap::new();
        status.append_to(&mut headers);
        let value = headers
            .get(CACHE_STATUS)
            .and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    }

    #[test]
    fn rfc_9211_2_members() {
        let minute = Some(Duration::from_millis(59_900));
        assert_eq!(
            written(CacheStatus::hit("c").with_ttl(minute)),
            "c; hit; ttl=59"
        );
        let stored = CacheStatus::forward("c", Forward::UriMiss)
            .with_ttl(minute)
            .with_stored();
        assert_eq!(written(stored), "c; fwd=uri-miss; ttl=59; stored");
        let refused = CacheStatus::forward("c", Forward::Stale).with_detail("private");
        assert_eq!(written(refused), "c; fwd=stale; detail=private");
        let unanswered = CacheStatus::unanswered("c", "only-if-cached");
        assert_eq!(written(unanswered), "c; detail=only-if-cached");
        let long = CacheStatus::hit("c").with_ttl(Some(Duration::MAX));
        assert_eq!(written(long), "c; hit; ttl=999999999999999");
    }

    #[test]
    fn rfc_9211_2_2_to_2_7_further_parameters() {
        let revalidated = CacheStatus::forward("c", Forward::Stale)
            .with_forward_status(StatusCode::NOT_MODIFIED)
            .with_collapsed()
            .with_stored();
        let mut headers = HeaderMap::new();
        revalidated.append_with_key(&mut headers, "GET \"a\\b\"");
        assert_eq!(
            headers[CACHE_STATUS],
            "c; fwd=stale; fwd-status=304; stored; collapsed; key=\"GET \\\"a\\\\b\\\"\""
        );
        for key in ["é", "a\nb"] {
            let mut headers = HeaderMap::new();
            CacheStatus::hit("c").append_with_key(&mut headers, key);
            assert_eq!(headers[CACHE_STATUS], "c; hit");
        }
        for (forward, text) in [
            (Forward::Request, "c; fwd=request"),
            (Forward::Miss, "c; fwd=miss"),
            (Forward::Partial, "c; fwd=partial"),
        ] {
            assert_eq!(written(CacheStatus::forward("c", forward)), text);
        }
    }

    #[test]
    fn rfc_9211_2_3_the_status_of_the_next_hop_is_said_where_another_one_is_sent() {
        let (ok, unchanged) = (StatusCode::OK, StatusCode::NOT_MODIFIED);
        let forward = CacheStatus::forward("c", Forward::UriMiss);
        for (status, given, text) in [
            (forward, ok, "c; fwd=uri-miss; fwd-status=200"),
            (forward, unchanged, "c; fwd=uri-miss"),
            (
                forward.with_forward_status(StatusCode::BAD_GATEWAY),
                ok,
                "c; fwd=uri-miss; fwd-status=502",
            ),
            (CacheStatus::hit("c"), ok, "c; hit"),
        ] {
            assert_eq!(written(status.with_sent_status(given, unchanged)), text);
        }
    }

    #[test]
    fn members_of_inner_caches_are_kept_in_front() {
        let mut headers = HeaderMap::new();
        for cache in ["inner", "outer"] {
            CacheStatus::hit(cache).append_to(&mut headers);
        }
        let members: Vec<_> = headers.get_all(CACHE_STATUS).iter().collect();
        assert_eq!(members, ["inner; hit", "outer; hit"]);
    }
}
