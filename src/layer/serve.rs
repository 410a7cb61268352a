//! From a stored response to what one client gets.

use bytes::Bytes;
use http::header::{AGE, CONTENT_LENGTH};
use http::{HeaderValue, Response};
use http_body::Body;

use super::body::CacheBody;
use super::lookup::Asked;
use super::stored::StoredResponse;
use crate::semantics::cache_status::CacheStatus;
use crate::semantics::freshness::current_age;

/// The response to a request that may have this stored one.
pub(super) fn serve<B: Body<Data = Bytes>>(
    stored: &StoredResponse,
    asked: &Asked<'_>,
    head: bool,
    status: CacheStatus,
) -> Response<CacheBody<B>> {
    let body = if head {
        Bytes::new()
    } else {
        stored.body.clone()
    };
    let mut response = Response::new(CacheBody::stored(body));
    *response.status_mut() = stored.status;
    let headers = response.headers_mut();
    headers.clone_from(&stored.headers);
    if head {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(stored.body.len()));
    }
    let age = current_age(stored.stored_at, stored.initial_age, asked.now);
    headers.insert(AGE, HeaderValue::from(age));
    let remaining = stored
        .fresh_until
        .map(|until| until.duration_since(asked.now).unwrap_or_default());
    status.with_ttl(remaining).append_to(headers);
    response
}
