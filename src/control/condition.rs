//! Conditional requests: 304 and 412 before a handler has run.

use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use http::header::{ETAG, HeaderMap, IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE, LAST_MODIFIED};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::semantics::conditional::{Precondition, Validators, evaluate};
use crate::semantics::freshness::format_date;
use crate::semantics::invalidation::is_safe;

type Finding = Pin<Box<dyn Future<Output = Validators> + Send>>;

/// Answers conditional requests by the validators that a function finds, before the handler runs.
///
/// The function gets the head of the request, with all that routers and outer layers have put into
/// its extensions. It runs for each GET and HEAD; for methods that change something only if they
/// have `If-Match`, `If-None-Match` or `If-Unmodified-Since`; for OPTIONS and TRACE never.
///
/// If the client has what it would get, the answer is 304, and if the representation is not what
/// it thinks it is, 412: both without a body, and without running the handler. Otherwise the
/// handler runs, and a successful response to GET or HEAD gets `ETag` and `Last-Modified`, unless
/// it has them. A 304 or 412 to GET or HEAD gets them, too.
///
/// A function that finds nothing leaves conditional reads to the handler. A condition goes outside
/// [`cache_page`](crate::cache_page), and inside of what adds `Cache-Control` or `Vary`, so that
/// a 304 has those.
///
/// # Specification
///
/// RFC 9110 sections 13.1 and 13.2; [`evaluate`] says in which order.
///
/// # Django
///
/// `condition(etag_func, last_modified_func)`, as one function, which is asked once. Differs: error
/// responses get no validators, and OPTIONS and TRACE are left alone.
///
/// # Example
///
/// ```
/// # #[cfg(feature = "axum")]
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use axum::{Router, body::Body, http::{Request, StatusCode}, routing::get};
/// use axum_cache::control::{Validators, condition};
/// use tower::ServiceExt;
///
/// let latest = condition(|_request| async { Validators::new().with_etag("v7") });
/// let router = Router::new().route("/", get(|| async { "seven" }).layer(latest));
///
/// let request = Request::get("/").body(Body::empty()).unwrap();
/// let response = router.clone().oneshot(request).await.unwrap();
/// assert_eq!(response.headers()["etag"], "\"v7\"");
///
/// let request = Request::get("/").header("if-none-match", "\"v7\"").body(Body::empty()).unwrap();
/// let response = router.oneshot(request).await.unwrap();
/// assert_eq!(response.status(), StatusCode::NOT_MODIFIED);
/// # }
/// # #[cfg(not(feature = "axum"))] fn main() {}
/// ```
pub fn condition<F, Found>(find: F) -> ConditionLayer
where
    F: Fn(Parts) -> Found + Send + Sync + 'static,
    Found: Future<Output = Validators> + Send + 'static,
{
    ConditionLayer {
        find: Arc::new(move |head| Box::pin(find(head))),
    }
}

/// A [`condition`] on an entity tag alone, which is put in quotes unless it has them. `None`, or
/// what no tag can hold: there is no tag.
///
/// # Django
///
/// `etag`.
pub fn etag<F, Found>(find: F) -> ConditionLayer
where
    F: Fn(Parts) -> Found + Send + Sync + 'static,
    Found: Future<Output = Option<String>> + Send + 'static,
{
    condition(move |head| {
        let found = find(head);
        async move {
            let etag = found.await;
            etag.map_or_else(Validators::new, |etag| Validators::new().with_etag(&etag))
        }
    })
}

/// A [`condition`] on the date of the last modification alone. Two conditions, one on a tag and
/// one on a date, are not the same as one on both.
///
/// # Django
///
/// `last_modified`.
pub fn last_modified<F, Found>(find: F) -> ConditionLayer
where
    F: Fn(Parts) -> Found + Send + Sync + 'static,
    Found: Future<Output = Option<SystemTime>> + Send + 'static,
{
    condition(move |head| {
        let found = find(head);
        async move {
            let mut validators = Validators::new();
            validators.last_modified = found.await;
            validators
        }
    })
}

/// Answers conditional requests; made by [`condition`], [`etag`] and [`last_modified`].
///
/// It goes on a handler, a `MethodRouter`, a `Router`, or any Tower service that can be cloned and
/// has bodies with an empty default. An error of the service passes through.
#[derive(Clone)]
#[must_use = "a layer does nothing until it wraps a service"]
pub struct ConditionLayer {
    find: Arc<dyn Fn(Parts) -> Finding + Send + Sync>,
}

impl fmt::Debug for ConditionLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConditionLayer").finish_non_exhaustive()
    }
}

impl<S> Layer<S> for ConditionLayer {
    type Service = ConditionService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ConditionService {
            inner,
            layer: self.clone(),
        }
    }
}

/// The service of a [`ConditionLayer`].
#[derive(Clone, Debug)]
pub struct ConditionService<S> {
    inner: S,
    layer: ConditionLayer,
}

impl<S, RequestBody, ResponseBody> Service<Request<RequestBody>> for ConditionService<S>
where
    S: Service<Request<RequestBody>, Response = Response<ResponseBody>> + Clone,
    ResponseBody: Default,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ConditionFuture<S, RequestBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        if !is_conditional(request.method(), request.headers()) {
            let future = self.inner.call(request);
            return ConditionFuture {
                state: State::Running {
                    future,
                    validators: None,
                },
            };
        }
        // The clone need not be ready: the one that was polled is used.
        let clone = self.inner.clone();
        let inner = mem::replace(&mut self.inner, clone);
        let (head, body) = request.into_parts();
        let finding = (self.layer.find)(head.clone());
        ConditionFuture {
            state: State::Finding {
                finding,
                call: Some((inner, Request::from_parts(head, body))),
            },
        }
    }
}

/// Whether the validators are needed.
fn is_conditional(method: &Method, headers: &HeaderMap) -> bool {
    let guarded = [IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE]
        .iter()
        .any(|name| headers.contains_key(name));
    is_read(method) || (guarded && !is_safe(method) && method != Method::CONNECT)
}

fn is_read(method: &Method) -> bool {
    *method == Method::GET || *method == Method::HEAD
}

pin_project! {
    /// The future of a [`ConditionService`].
    pub struct ConditionFuture<S, B>
    where
        S: Service<Request<B>>,
    {
        #[pin]
        state: State<S, B>,
    }
}

pin_project! {
    #[project = StateProject]
    enum State<S, B>
    where
        S: Service<Request<B>>,
    {
        Finding { finding: Finding, call: Option<(S, Request<B>)> },
        Running { #[pin] future: S::Future, validators: Option<Validators> },
    }
}

impl<S, B> fmt::Debug for ConditionFuture<S, B>
where
    S: Service<Request<B>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConditionFuture").finish_non_exhaustive()
    }
}

impl<S, B, ResponseBody> Future for ConditionFuture<S, B>
where
    S: Service<Request<B>, Response = Response<ResponseBody>>,
    ResponseBody: Default,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            match state.as_mut().project() {
                StateProject::Finding { finding, call } => {
                    let validators = ready!(finding.as_mut().poll(cx));
                    let (mut inner, request) = call
                        .take()
                        .expect("a future is not polled after it is ready");
                    let read = is_read(request.method());
                    let outcome = evaluate(
                        request.method(),
                        request.headers(),
                        StatusCode::OK,
                        &validators,
                    );
                    let status = match outcome {
                        Precondition::NotModified => StatusCode::NOT_MODIFIED,
                        Precondition::Failed => StatusCode::PRECONDITION_FAILED,
                        Precondition::Pass => {
                            let future = inner.call(request);
                            let validators = read.then_some(validators);
                            state.set(State::Running { future, validators });
                            continue;
                        }
                    };
                    let mut response = Response::new(ResponseBody::default());
                    *response.status_mut() = status;
                    if read {
                        add(&validators, response.headers_mut());
                    }
                    return Poll::Ready(Ok(response));
                }
                StateProject::Running { future, validators } => {
                    let mut response = ready!(future.poll(cx))?;
                    let status = response.status();
                    if let Some(validators) = validators
                        && (status.is_success() || status == StatusCode::NOT_MODIFIED)
                    {
                        add(validators, response.headers_mut());
                    }
                    return Poll::Ready(Ok(response));
                }
            }
        }
    }
}

/// Adds those validators that a response does not have.
fn add(validators: &Validators, headers: &mut HeaderMap) {
    if let Some(etag) = &validators.etag {
        let entry = headers.entry(ETAG);
        entry.or_insert_with(|| etag.to_header_value());
    }
    if let Some(date) = validators.last_modified.and_then(format_date) {
        headers.entry(LAST_MODIFIED).or_insert(date);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tower::{ServiceExt, service_fn};

    use super::*;

    fn noon() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_000_000_900)
    }

    const NOON: &str = "Sun, 09 Sep 2001 01:46:40 GMT";

    /// What came back, how often the function ran, and how often the handler.
    struct Outcome {
        response: Response<String>,
        found: usize,
        handled: usize,
    }

    async fn answered(
        validators: Validators,
        method: &str,
        lines: &[(&str, &str)],
        response: Response<String>,
    ) -> Outcome {
        let (found, handled) = (Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
        let count = Arc::clone(&found);
        let layer = condition(move |head: Parts| {
            assert_eq!(head.uri, "/page");
            count.fetch_add(1, Ordering::Relaxed);
            let validators = validators.clone();
            async move {
                tokio::task::yield_now().await;
                validators
            }
        });
        let service = layer.layer(service_fn(|request: Request<&str>| {
            assert_eq!(*request.body(), "body");
            handled.fetch_add(1, Ordering::Relaxed);
            let response = response.clone();
            async { Ok::<_, Infallible>(response) }
        }));
        let mut request = Request::builder().method(method).uri("/page");
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        let response = service
            .oneshot(request.body("body").unwrap())
            .await
            .unwrap();
        Outcome {
            response,
            found: found.load(Ordering::Relaxed),
            handled: handled.load(Ordering::Relaxed),
        }
    }

    fn both() -> Validators {
        Validators::new().with_etag("7").with_last_modified(noon())
    }

    fn seven() -> Response<String> {
        Response::new("seven".to_owned())
    }

    #[tokio::test]
    async fn h_08_validators_are_added_to_reads() {
        for method in ["GET", "HEAD"] {
            let outcome = answered(both(), method, &[], seven()).await;
            assert_eq!(outcome.response.headers()[ETAG], "\"7\"");
            assert_eq!(outcome.response.headers()[LAST_MODIFIED], NOON);
            assert_eq!((outcome.found, outcome.handled), (1, 1));
        }
        let mut own = seven();
        own.headers_mut().insert(ETAG, "\"own\"".parse().unwrap());
        let outcome = answered(both(), "GET", &[], own).await;
        assert_eq!(outcome.response.headers()[ETAG], "\"own\"");
        let mut missing = seven();
        *missing.status_mut() = StatusCode::NOT_FOUND;
        let outcome = answered(both(), "GET", &[], missing).await;
        assert!(outcome.response.headers().is_empty());
    }

    #[tokio::test]
    async fn h_08_a_304_or_412_is_answered_before_the_handler() {
        for (method, lines, status, validated) in [
            ("GET", [("if-none-match", "\"7\"")], 304, true),
            ("HEAD", [("if-modified-since", NOON)], 304, true),
            ("GET", [("if-match", "\"8\"")], 412, true),
            ("PUT", [("if-match", "\"8\"")], 412, false),
            ("PUT", [("if-none-match", "*")], 412, false),
            (
                "DELETE",
                [("if-unmodified-since", "Thu, 01 Jan 1970 00:00:00 GMT")],
                412,
                false,
            ),
        ] {
            let outcome = answered(both(), method, &lines, seven()).await;
            assert_eq!(outcome.response.status(), status, "{lines:?}");
            assert_eq!(outcome.response.body(), "");
            assert_eq!(outcome.response.headers().contains_key(ETAG), validated);
            assert_eq!(
                outcome.response.headers().contains_key(LAST_MODIFIED),
                validated
            );
            assert_eq!((outcome.found, outcome.handled), (1, 0));
        }
    }

    #[tokio::test]
    async fn h_08_writes_that_pass_get_no_validators() {
        let lines = [("if-match", "\"7\"")];
        let outcome = answered(both(), "PUT", &lines, seven()).await;
        assert_eq!(outcome.response.body(), "seven");
        assert!(outcome.response.headers().is_empty());
        assert_eq!((outcome.found, outcome.handled), (1, 1));
    }

    #[tokio::test]
    async fn the_function_runs_only_if_it_matters() {
        for (method, lines) in [
            ("POST", &[][..]),
            ("POST", &[("if-modified-since", NOON)]),
            ("OPTIONS", &[("if-match", "\"8\"")]),
            ("TRACE", &[("if-none-match", "*")]),
        ] {
            let outcome = answered(both(), method, lines, seven()).await;
            assert_eq!(outcome.response.body(), "seven");
            assert_eq!((outcome.found, outcome.handled), (0, 1), "{method}");
        }
    }

    #[tokio::test]
    async fn h_09_nothing_found_is_no_validator() {
        for (line, status) in [("if-match", 412), ("if-none-match", 200)] {
            let outcome = answered(Validators::new(), "GET", &[(line, "*")], seven()).await;
            assert_eq!(outcome.response.status(), status);
            assert!(outcome.response.headers().is_empty());
        }
    }

    #[tokio::test]
    async fn h_08_shortcuts_for_one_validator() {
        let handler = || service_fn(|_: Request<()>| async { Ok::<_, Infallible>(seven()) });
        let tagged = etag(|_| async { Some("W/\"7\"".to_owned()) }).layer(handler());
        let response = tagged.oneshot(Request::new(())).await.unwrap();
        assert_eq!(response.headers()[ETAG], "W/\"7\"");
        let dated = last_modified(|_| async { Some(noon()) }).layer(handler());
        let response = dated.oneshot(Request::new(())).await.unwrap();
        assert_eq!(response.headers()[LAST_MODIFIED], NOON);
        let bad = etag(|_| async { Some("not\na tag".to_owned()) }).layer(handler());
        let response = bad.oneshot(Request::new(())).await.unwrap();
        assert!(response.headers().is_empty());
    }

    #[tokio::test]
    async fn an_error_of_the_service_passes_through() {
        let failing = service_fn(|_: Request<()>| async { Err::<Response<String>, _>("broken") });
        let service = condition(|_| async { both() }).layer(failing);
        assert_eq!(
            service.oneshot(Request::new(())).await.unwrap_err(),
            "broken"
        );
    }
}
