//! The site: one handler that has its page at hand, and the layer before it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::ServiceExt as _;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::ListenerExt as _;
use axum_cache::{Cache, CacheLayer};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use tokio::net::TcpListener;
use tower::{Layer, Service};

pub(crate) const BODY: usize = 10 << 10;

/// What a browser sends.
pub(crate) const FIELDS: [(&str, &str); 5] = [
    ("host", "www.example.com"),
    (
        "user-agent",
        "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101",
    ),
    ("accept", "text/html,application/xhtml+xml,*/*;q=0.8"),
    ("accept-language", "en-GB,en;q=0.7"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
];

static MADE: AtomicU64 = AtomicU64::new(0);

static PAGE: LazyLock<(HeaderMap, Bytes)> = LazyLock::new(|| {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("content-type", "text/html; charset=utf-8"),
        ("cache-control", "public, max-age=600"),
        ("etag", "\"3f80f-1b6-3e1cb03b\""),
        ("last-modified", "Sat, 21 Nov 2026 08:00:00 GMT"),
        ("vary", "accept-encoding"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "same-origin"),
        ("content-language", "en"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let body = Bytes::from("<p>a page</p>\n".repeat(BODY / 14 + 1)).slice(..BODY);
    (headers, body)
});

/// How many pages the handler has made.
pub(crate) fn made() -> u64 {
    MADE.load(Ordering::Relaxed)
}

pub(crate) fn path(page: usize) -> String {
    format!("/page/{page}?lang=en&page=2")
}

async fn answer() -> Response {
    MADE.fetch_add(1, Ordering::Relaxed);
    let (headers, body) = &*PAGE;
    let mut response = Response::new(Body::from(body.clone()));
    headers.clone_into(response.headers_mut());
    response
}

pub(crate) fn router() -> Router {
    Router::new().route("/page/{id}", get(answer))
}

/// The layer outside the router.
pub(crate) fn layered(cache: Cache) -> impl Site {
    let site = CacheLayer::new(cache).layer(router());
    tower::ServiceExt::<Request>::map_response(site, IntoResponse::into_response)
}

/// The same as the fallback of a router, for what takes routers only.
pub(crate) fn nested(cache: Cache) -> impl Site {
    Router::new().fallback_service(CacheLayer::new(cache).layer(router()))
}

/// Serves it on a free port until the process ends.
pub(crate) async fn serve(site: impl Site) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let listener = listener.tap_io(|stream| stream.set_nodelay(true).unwrap());
    tokio::spawn(async move { axum::serve(listener, site.into_make_service()).await });
    address
}

/// What can be served.
pub(crate) trait Site:
    Service<Request, Response = Response, Error = Infallible, Future: Send + 'static>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> Site for S where
    S: Service<Request, Response = Response, Error = Infallible, Future: Send + 'static>
        + Clone
        + Send
        + Sync
        + 'static
{
}
