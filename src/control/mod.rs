//! Header helpers: what a response says to caches, as functions and as layers; and conditional
//! requests.

mod condition;
mod layers;

pub use self::condition::{
    ConditionFuture, ConditionLayer, ConditionService, condition, etag, last_modified,
};
pub use self::layers::{
    ControlFuture, ControlLayer, ControlService, cache_control, never_cache, vary_on_cookie,
    vary_on_headers,
};
pub use crate::semantics::cache_control::CacheControl;
pub use crate::semantics::conditional::Validators;
pub use crate::semantics::vary::{has_vary, patch_vary};

use std::time::{Duration, SystemTime};

use http::header::{CACHE_CONTROL, EXPIRES, HeaderMap};

use crate::semantics::freshness::format_date;

/// Adds directives to the `Cache-Control` of a response: the shorter lifetimes, these directives'
/// word on `public` or `private`, the stricter of everything else. A field that cannot be parsed is
/// replaced by `no-store` and these directives.
///
/// # Django
///
/// `patch_cache_control`. What is not asked for is not touched, so nothing removes `private` but
/// an explicit `public` (U-03), nothing false or empty is written (U-05), quoted commas survive
/// (U-06), and `s-maxage` merges as `max-age` does (U-02).
///
/// # Example
///
/// ```
/// use axum_cache::control::{CacheControl, patch_cache_control};
/// use http::{HeaderMap, HeaderValue};
/// use std::time::Duration;
///
/// let mut headers = HeaderMap::new();
/// headers.insert("cache-control", HeaderValue::from_static("max-age=3600, private"));
/// let minute = CacheControl::new().with_max_age(Duration::from_secs(60));
/// patch_cache_control(&mut headers, &minute);
/// assert_eq!(headers["cache-control"], "max-age=60, private");
/// ```
pub fn patch_cache_control(headers: &mut HeaderMap, directives: &CacheControl) {
    let earlier =
        CacheControl::parse(headers).unwrap_or_else(|_| CacheControl::new().with_no_store());
    if let Some(value) = directives.over(&earlier).to_header_value() {
        headers.insert(CACHE_CONTROL, value);
    }
}

/// Says that a response is fresh for `ttl`, in whole seconds rounded down: adds `Expires` if there
/// is none, and `max-age`, or the shorter if there is one.
///
/// # Django
///
/// `patch_response_headers`.
pub fn patch_response_headers(headers: &mut HeaderMap, ttl: Duration, now: SystemTime) {
    patch_expires(headers, ttl, now);
    patch_cache_control(headers, &CacheControl::new().with_max_age(ttl));
}

/// Adds `Expires` to a response that is fresh for `ttl` and has none.
pub(crate) fn patch_expires(headers: &mut HeaderMap, ttl: Duration, now: SystemTime) {
    if !headers.contains_key(EXPIRES)
        && let Some(expires) = now.checked_add(Duration::from_secs(ttl.as_secs()))
        && let Some(expires) = format_date(expires)
    {
        headers.insert(EXPIRES, expires);
    }
}

/// Says that no cache may keep a response: `max-age=0, no-cache, no-store, must-revalidate,
/// private`, and an `Expires` of now if there is none.
///
/// # Django
///
/// `add_never_cache_headers`; `s-maxage` goes too, as does an earlier `immutable`.
pub fn add_never_cache_headers(headers: &mut HeaderMap, now: SystemTime) {
    if let Ok(mut directives) = CacheControl::parse(headers) {
        directives.s_maxage = None;
        directives.stale_while_revalidate = None;
        directives.stale_if_error = None;
        directives.immutable = false;
        headers.remove(CACHE_CONTROL);
        if let Some(value) = directives.to_header_value() {
            headers.insert(CACHE_CONTROL, value);
        }
    }
    patch_response_headers(headers, Duration::ZERO, now);
    let never = CacheControl::new()
        .with_no_cache()
        .with_no_store()
        .with_must_revalidate()
        .with_private();
    patch_cache_control(headers, &never);
}

/// The `max-age` of a response, if its `Cache-Control` can be parsed and has one.
///
/// # Django
///
/// `get_max_age`; of two, the shorter counts, and a bare or negative one is none.
pub fn get_max_age(headers: &HeaderMap) -> Option<Duration> {
    let directives = CacheControl::parse(headers).ok()?;
    directives.max_age.map(Duration::from_secs)
}

#[cfg(test)]
mod tests;
