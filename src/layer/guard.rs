//! The last word on what is stored, where no cache layer is outermost.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::veto::Place;

/// Lets the layers inside store only what is still storable when it leaves this one.
///
/// A layer round a route, such as [`cache_page`](crate::cache_page), does not see what layers
/// outside of it add to the response. If one of them sets a cookie, makes the response `private`
/// or `no-store`, or adds to its `Vary`, it may have been made for one client only. With a guard
/// outside of all of them, the layers inside wait for the final fields, and store nothing then.
///
/// A [`CacheLayer`](crate::CacheLayer) that is outermost does the same, and needs no guard.
///
/// # Django
///
/// `UpdateCacheMiddleware` has to be the first one in `MIDDLEWARE`; `cache_page` has no such thing,
/// and keeps pages whose `Vary: Cookie` comes from outside (P-05).
///
/// # Example
///
/// ```
/// # #[cfg(all(feature = "axum", feature = "memory"))]
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use std::time::Duration;
/// use axum::{Router, body::Body, handler::Handler, http::Request, routing::get};
/// use axum_cache::control::vary_on_cookie;
/// use axum_cache::{Cache, CacheGuard, backend::Memory, cache_page};
/// use tower::ServiceExt;
///
/// let cached = cache_page(Duration::from_secs(60), Cache::new(Memory::new()), "");
/// let router: Router = Router::new()
///     .route("/", get((|| async { "hello" }).layer(cached)))
///     .layer(vary_on_cookie())
///     .layer(CacheGuard::new());
/// for _ in 0..2 {
///     let request = Request::get("/").body(Body::empty()).unwrap();
///     let response = router.clone().oneshot(request).await.unwrap();
///     let status = response.headers()["cache-status"].to_str().unwrap();
///     assert!(!status.contains("hit"));
/// }
/// # }
/// # #[cfg(not(all(feature = "axum", feature = "memory")))] fn main() {}
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[must_use = "a layer does nothing until it wraps a service"]
pub struct CacheGuard {
    _private: (),
}

impl CacheGuard {
    /// A guard.
    pub fn new() -> Self {
        Self::default()
    }
}

impl<S> Layer<S> for CacheGuard {
    type Service = GuardService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        GuardService { inner }
    }
}

/// The service of a [`CacheGuard`].
#[derive(Clone, Debug)]
pub struct GuardService<S> {
    inner: S,
}

impl<S, RequestBody, ResponseBody> Service<Request<RequestBody>> for GuardService<S>
where
    S: Service<Request<RequestBody>, Response = Response<ResponseBody>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = GuardFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<RequestBody>) -> Self::Future {
        GuardFuture {
            place: Place::of(request.extensions_mut()),
            future: self.inner.call(request),
        }
    }
}

pin_project! {
    /// The future of a [`GuardService`].
    pub struct GuardFuture<F> {
        #[pin]
        future: F,
        place: Place,
    }
}

impl<F, B, E> Future for GuardFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.future.poll(cx))?;
        this.place.leave(&mut response);
        Poll::Ready(Ok(response))
    }
}

impl<F> fmt::Debug for GuardFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardFuture").finish_non_exhaustive()
    }
}
