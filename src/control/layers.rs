//! The header helpers as Tower layers.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use http::header::HeaderMap;
use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::{CacheControl, add_never_cache_headers, patch_cache_control, patch_vary};

/// Adds these directives to the `Cache-Control` of every response; see
/// [`patch_cache_control`].
///
/// # Django
///
/// `cache_control`.
pub fn cache_control(directives: CacheControl) -> ControlLayer {
    ControlLayer::new(Change::CacheControl(directives))
}

/// Says on every response that no cache may keep it; see [`add_never_cache_headers`].
///
/// # Django
///
/// `never_cache`.
pub fn never_cache() -> ControlLayer {
    ControlLayer::new(Change::NeverCache)
}

/// Adds these fields to the `Vary` of every response; see [`patch_vary`].
///
/// Goes inside a [`cache_page`](crate::cache_page): what is added outside is not part of the key.
///
/// # Django
///
/// `vary_on_headers`.
pub fn vary_on_headers<N: Into<String>>(names: impl IntoIterator<Item = N>) -> ControlLayer {
    ControlLayer::new(Change::Vary(names.into_iter().map(Into::into).collect()))
}

/// Adds `Cookie` to the `Vary` of every response: one variant for each visitor.
///
/// # Django
///
/// `vary_on_cookie`.
pub fn vary_on_cookie() -> ControlLayer {
    vary_on_headers(["Cookie"])
}

/// Changes what every response says to caches.
///
/// It goes on a `MethodRouter`, a `Router`, or any Tower service. An error of the service passes
/// through.
///
/// # Example
///
/// ```
/// # #[cfg(feature = "axum")]
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use axum::{Router, body::Body, http::Request, routing::get};
/// use axum_cache::control::never_cache;
/// use tower::ServiceExt;
///
/// let router = Router::new().route("/me", get(|| async { "you" }).layer(never_cache()));
/// let request = Request::get("/me").body(Body::empty()).unwrap();
/// let response = router.oneshot(request).await.unwrap();
/// assert!(response.headers()["cache-control"].to_str().unwrap().contains("no-store"));
/// # }
/// # #[cfg(not(feature = "axum"))] fn main() {}
/// ```
#[derive(Clone, Debug)]
#[must_use = "a layer does nothing until it wraps a service"]
pub struct ControlLayer {
    change: Arc<Change>,
}

#[derive(Debug)]
enum Change {
    CacheControl(CacheControl),
    NeverCache,
    Vary(Vec<String>),
}

impl ControlLayer {
    fn new(change: Change) -> Self {
        Self {
            change: Arc::new(change),
        }
    }
}

impl Change {
    fn apply(&self, headers: &mut HeaderMap) {
        match self {
            Self::CacheControl(directives) => patch_cache_control(headers, directives),
            Self::NeverCache => add_never_cache_headers(headers, SystemTime::now()),
            Self::Vary(names) => patch_vary(headers, names),
        }
    }
}

impl<S> Layer<S> for ControlLayer {
    type Service = ControlService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ControlService {
            inner,
            change: Arc::clone(&self.change),
        }
    }
}

/// The service of a [`ControlLayer`].
#[derive(Clone, Debug)]
pub struct ControlService<S> {
    inner: S,
    change: Arc<Change>,
}

impl<S, RequestBody, ResponseBody> Service<Request<RequestBody>> for ControlService<S>
where
    S: Service<Request<RequestBody>, Response = Response<ResponseBody>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ControlFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        ControlFuture {
            future: self.inner.call(request),
            change: Arc::clone(&self.change),
        }
    }
}

pin_project! {
    /// The future of a [`ControlService`].
    #[derive(Debug)]
    pub struct ControlFuture<F> {
        #[pin]
        future: F,
        change: Arc<Change>,
    }
}

impl<F, B, E> Future for ControlFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.future.poll(cx))?;
        this.change.apply(response.headers_mut());
        Poll::Ready(Ok(response))
    }
}
