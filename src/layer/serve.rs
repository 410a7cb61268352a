//! From a stored response, or one that has just been made, to what one client gets of it.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, AGE, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, ETAG, EXPIRES, HeaderMap,
    LAST_MODIFIED,
};
use http::response::Parts;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body::Body;

use super::body::CacheBody;
use super::lookup::Asked;
use super::ready;
use super::service::STATUS_NAME;
use super::stored::{StoredPage, StoredResponse};
use super::unnamed::Unnamed;
use crate::control::{CacheControl, patch_cache_control};
use crate::semantics::cache_status::{CACHE_STATUS, CacheStatus, Forward};
use crate::semantics::conditional::{
    Precondition, evaluate_response, if_range, is_not_modified, not_modified_fields,
};
use crate::semantics::freshness::format_date;
use crate::semantics::range::{Selection, select};
use crate::semantics::targeted::CDN_CACHE_CONTROL;

/// RFC 9530 section 2.
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");
const CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");

/// A stored response that is served.
pub(super) enum Served<'a> {
    Shared(&'a StoredResponse),
    /// Of a page that is not needed any more.
    Last(Arc<StoredPage>),
}

impl Deref for Served<'_> {
    type Target = StoredResponse;

    fn deref(&self) -> &StoredResponse {
        match self {
            Self::Shared(stored) => stored,
            Self::Last(page) => page.stored(),
        }
    }
}

impl Served<'_> {
    /// Its fields, which it has no more after that if nobody else has the page.
    fn take_headers(&mut self) -> HeaderMap {
        if let Self::Last(page) = self
            && let Some(page) = Arc::get_mut(page)
            && let Some(response) = &mut page.response
        {
            return std::mem::take(&mut response.headers);
        }
        self.headers.clone()
    }
}

/// The response to a request that may have this stored one; see [`served`] for what is said of it.
pub(super) fn serve<B: Body<Data = Bytes>>(
    stored: Served<'_>,
    expired: bool,
    asked: &Asked<'_>,
    head: bool,
    status: Option<CacheStatus>,
) -> Response<CacheBody<B>> {
    let (parts, body) = served(stored, expired, asked, head, status);
    Response::from_parts(parts, CacheBody::stored(body))
}

/// The same, whatever bodies the inner service has. `expired`: it is stale since now, though
/// it may say otherwise. `status`: what is said of it, unless it is a hit like any other.
pub(super) fn served(
    mut stored: Served<'_>,
    expired: bool,
    asked: &Asked<'_>,
    head: bool,
    status: Option<CacheStatus>,
) -> (Parts, Bytes) {
    let (mut parts, ()) = Response::new(()).into_parts();
    let judgement = judge(stored.status, &stored.headers, asked);
    parts.status = judgement.unwrap_or(stored.status);
    parts.headers = match judgement {
        Some(status) => without_body(&stored.headers, status, asked),
        None => stored.take_headers(),
    };
    let mut body = match judgement {
        None if !head => stored.body.clone(),
        _ => Bytes::new(),
    };
    // Of what has a body the server says it itself: somebody on the way may replace that.
    if head && judgement.is_none() && stored.status != StatusCode::NO_CONTENT {
        let length = HeaderValue::from(stored.body.len());
        parts.headers.insert(CONTENT_LENGTH, length);
    }
    let age = stored.age(asked.now);
    put(&mut parts.headers, &AGE, ready::age(age));
    let mut fresh_for = stored.fresh_at(age);
    // A layer outside would go by what the response says, which may be more than how long this one keeps it.
    let is_stale_inside = asked.is_inside && fresh_for.is_some_and(|left| left.is_zero());
    if expired || is_stale_inside {
        fresh_for = Some(Duration::ZERO);
        promise_nothing(&mut parts.headers, asked);
    }
    if asked.is_inside {
        Unnamed::say(asked, &mut parts.extensions);
        if !stored.tags.stamps.is_empty() {
            parts.extensions.insert(stored.tags.names());
        }
    }
    if !head && asked.given.range {
        part(&mut parts, &mut body, asked);
    }
    let said = match status {
        None => Some(ready::hit(fresh_for)),
        Some(status) => {
            let status = status.with_ttl(fresh_for);
            status.with_sent_status(stored.status, parts.status).value()
        }
    };
    match said {
        Some(said) => put(&mut parts.headers, &CACHE_STATUS, said),
        None => drop(parts.headers.remove(CACHE_STATUS)),
    }
    (parts, body)
}

/// As `insert`, which makes room before it looks whether there is a place already.
pub(super) fn put(headers: &mut HeaderMap, name: &HeaderName, value: HeaderValue) {
    match headers.get_mut(name) {
        Some(place) => *place = value,
        None => drop(headers.insert(name.clone(), value)),
    }
}

/// Takes back what a response says of its freshness, to whichever cache.
#[cold]
fn promise_nothing(headers: &mut HeaderMap, asked: &Asked<'_>) {
    let mut nothing = CacheControl::new().with_max_age(Duration::ZERO);
    if let Ok(said) = CacheControl::parse(headers) {
        let none = |said: Option<u64>| said.map(|_| 0);
        nothing.s_maxage = none(said.s_maxage);
        nothing.stale_while_revalidate = none(said.stale_while_revalidate);
        nothing.stale_if_error = none(said.stale_if_error);
    }
    patch_cache_control(headers, &nothing);
    if headers.contains_key(EXPIRES)
        && let Some(now) = format_date(asked.now)
    {
        headers.insert(EXPIRES, now);
    }
    remove_targeted(headers, asked);
}

/// Removes what is said to one kind of caches only.
fn remove_targeted(headers: &mut HeaderMap, asked: &Asked<'_>) {
    let rules = asked.config.http.as_ref();
    let own = rules.map_or(&[][..], |rules| &rules.targets);
    for name in own.iter().chain([&CDN_CACHE_CONTROL]) {
        headers.remove(name);
    }
}

/// The fields of a response that go out without its body and with this status. Of an error that one client brought
/// about nothing is said that a cache on the way could keep it by: it would serve it to others.
#[inline(never)]
fn without_body(headers: &HeaderMap, status: StatusCode, asked: &Asked<'_>) -> HeaderMap {
    let mut headers = not_modified_fields(headers);
    if status != StatusCode::NOT_MODIFIED {
        headers.remove(CACHE_CONTROL);
        headers.remove(EXPIRES);
        remove_targeted(&mut headers, asked);
    }
    headers
}

/// The response of the inner service, or what the preconditions of the request make of it.
pub(super) fn answer<B: Body<Data = Bytes>>(
    response: Response<CacheBody<B>>,
    asked: &Asked<'_>,
    status: CacheStatus,
) -> Response<CacheBody<B>> {
    let given = response.status();
    let mut response = judged(response, asked);
    let sent = response.status();
    say(response.headers_mut(), status, given, sent);
    response
}

/// A response of the layer's own, and why there is no other.
pub(super) fn empty<B: Body<Data = Bytes>>(
    status: StatusCode,
    why: CacheStatus,
) -> Response<CacheBody<B>> {
    let mut response = Response::new(CacheBody::stored(Bytes::new()));
    *response.status_mut() = status;
    why.append_to(response.headers_mut());
    response
}

/// Says what was done for a response that was `given` with one status, and `sent` with this one.
fn say(headers: &mut HeaderMap, status: CacheStatus, given: StatusCode, sent: StatusCode) {
    status.with_sent_status(given, sent).append_to(headers);
}

/// What is said of a stale response in the place of one with this status, or of one that never
/// came.
pub(super) fn instead(forward: Forward, status: Option<StatusCode>) -> CacheStatus {
    let said = CacheStatus::forward(STATUS_NAME, forward).with_detail("stale-if-error");
    match status {
        Some(status) => said.with_forward_status(status),
        None => said,
    }
}

/// The response, or what the preconditions of the request make of it.
fn judged<B: Body<Data = Bytes>>(
    mut response: Response<CacheBody<B>>,
    asked: &Asked<'_>,
) -> Response<CacheBody<B>> {
    if let Some(status) = judge(response.status(), response.headers(), asked) {
        *response.headers_mut() = without_body(response.headers(), status, asked);
        *response.status_mut() = status;
        *response.body_mut() = CacheBody::stored(Bytes::new());
    }
    response
}

/// The status that the preconditions of the request give to a response with this one; `None` if they
/// change nothing.
#[inline]
fn judge(status: StatusCode, headers: &HeaderMap, asked: &Asked<'_>) -> Option<StatusCode> {
    if asked.given.conditions {
        judge_by_conditions(status, headers, asked)
    } else {
        None
    }
}

#[inline(never)]
fn judge_by_conditions(
    status: StatusCode,
    headers: &HeaderMap,
    asked: &Asked<'_>,
) -> Option<StatusCode> {
    if !(headers.contains_key(ETAG) || headers.contains_key(LAST_MODIFIED)) {
        return None;
    }
    let precondition = if asked.config.http.is_none() {
        evaluate_response(&Method::GET, asked.headers, status, headers)
    } else if status == StatusCode::OK
        && is_not_modified(&Method::GET, asked.headers, headers, asked.now)
    {
        Precondition::NotModified
    } else {
        Precondition::Pass
    };
    match precondition {
        Precondition::NotModified => Some(StatusCode::NOT_MODIFIED),
        Precondition::Failed => Some(StatusCode::PRECONDITION_FAILED),
        Precondition::Pass => None,
    }
}

/// Leaves the part of a complete response that the request asks for.
#[inline(never)]
fn part(parts: &mut Parts, body: &mut Bytes, asked: &Asked<'_>) {
    if parts.status != StatusCode::OK || !if_range(asked.headers, &parts.headers) {
        return;
    }
    let length = body.len() as u64;
    let selection = select(asked.headers, length);
    match selection {
        Selection::Part { first, last } => {
            // Within the body, whose length is an usize.
            let range = usize::try_from(first).ok().zip(usize::try_from(last).ok());
            let Some((first, last)) = range else {
                return;
            };
            parts.status = StatusCode::PARTIAL_CONTENT;
            *body = body.slice(first..=last);
        }
        Selection::Unsatisfiable => {
            parts.status = StatusCode::RANGE_NOT_SATISFIABLE;
            parts.headers = without_body(&parts.headers, parts.status, asked);
            *body = Bytes::new();
        }
        _ => return,
    }
    for of_the_whole in [CONTENT_DIGEST, CONTENT_MD5] {
        parts.headers.remove(of_the_whole);
    }
    if let Some(range) = selection.content_range(length) {
        parts.headers.insert(CONTENT_RANGE, range);
    }
    let bytes = HeaderValue::from_static("bytes");
    parts.headers.insert(ACCEPT_RANGES, bytes);
}
