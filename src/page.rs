//! `cache_page`: the layer, configured for one route.

use crate::cache::Cache;
use crate::layer::CacheLayer;
use crate::ttl::Ttl;

/// Caches the responses of one route for `ttl`, apart from other prefixes.
///
/// It goes on a `MethodRouter`, a handler, `Router::route_layer` or any Tower service. Since the
/// author of the route asked for it, it differs from a site-wide [`CacheLayer`] in two ways: `ttl`
/// counts whatever `max-age` the response has, and the response to a request with cookies is stored, and
/// served to others, unless it varies on `Cookie` or the handler says [`CacheVeto`](crate::CacheVeto): the
/// page is taken to be for everyone. A response is still never stored if it is
/// `private`, sets a cookie, or is stale at once; see [`CacheLayer`] for all of them.
///
/// [`Ttl::Default`] is 600 seconds, or what the response says. Zero stores nothing.
///
/// # Django
///
/// `cache_page(timeout, cache=, key_prefix=)`. The `max-age` that is sent is the smaller of `ttl`
/// and the response's own, as there; a response with `max-age=0` is not stored, unlike there.
///
/// # Example
///
/// ```
/// # #[cfg(all(feature = "axum", feature = "memory"))] fn router() -> axum::Router {
/// use std::time::Duration;
/// use axum::{Router, routing::get};
/// use axum_cache::{Cache, backend::Memory, cache_page};
///
/// let cache = Cache::new(Memory::new());
/// let router: Router = Router::new().route(
///     "/",
///     get(|| async { "hello" }).layer(cache_page(Duration::from_secs(900), cache, "blog")),
/// );
/// # router
/// # }
/// ```
pub fn cache_page(ttl: impl Into<Ttl>, cache: Cache, key_prefix: impl Into<String>) -> CacheLayer {
    CacheLayer::page(cache, ttl.into(), key_prefix.into())
}
