//! The service: a hit answers at once, a miss asks the inner service and stores what may be.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{AGE, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version};
use http_body::Body;
use tower_service::Service;

use super::body::CacheBody;
use super::fill::Filler;
use super::future::ResponseFuture;
use super::layer::Config;
use super::lookup::{Asked, Found, Miss};
use super::stored::StoredPage;
use super::target::{RequestTarget, original_uri};
use crate::key::Key;
use crate::semantics::cache_status::{CacheStatus, Forward};
use crate::semantics::freshness::current_age;
use crate::semantics::storable::Refusal;

/// The name of this cache in `Cache-Status`.
pub(super) const STATUS_NAME: &str = "axum-cache";

/// A service whose responses are cached; made by [`CacheLayer`](crate::CacheLayer).
#[derive(Clone, Debug)]
pub struct CacheService<S> {
    inner: S,
    config: Arc<Config>,
}

impl<S> CacheService<S> {
    pub(super) fn new(inner: S, config: Arc<Config>) -> Self {
        Self { inner, config }
    }
}

impl<S, RequestBody, ResponseBody> Service<Request<RequestBody>> for CacheService<S>
where
    S: Service<Request<RequestBody>, Response = Response<ResponseBody>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    RequestBody: Body + Send + 'static,
    ResponseBody: Body<Data = Bytes> + Send + 'static,
    ResponseBody::Error: Send,
{
    type Response = Response<CacheBody<ResponseBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, ResponseBody, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let head = request.method() == Method::HEAD;
        if !head && request.method() != Method::GET {
            let status = CacheStatus::forward(STATUS_NAME, Forward::Method);
            return ResponseFuture::pass(self.inner.call(request), status);
        }
        if has_body(&request) {
            let status = CacheStatus::forward(STATUS_NAME, Forward::Bypass);
            let status = status.with_detail(Refusal::RequestBody.as_str());
            return ResponseFuture::pass(self.inner.call(request), status);
        }
        let uri = original_uri(request.uri(), request.extensions());
        let inputs = &self.config.inputs;
        let target = inputs.target(uri, request.headers(), request.extensions());
        if let Some(refusal) = target.bypass {
            let status = CacheStatus::forward(STATUS_NAME, Forward::Bypass);
            let status = status.with_detail(refusal.as_str());
            return ResponseFuture::pass(self.inner.call(request), status);
        }
        let asked = Asked {
            config: &self.config,
            uri,
            target: &target,
            headers: request.headers(),
            now: self.config.cache.clock().now(),
        };
        let Ok(key) = asked.primary_key() else {
            let status = CacheStatus::forward(STATUS_NAME, Forward::Bypass);
            return ResponseFuture::pass(self.inner.call(request), status);
        };
        let found = asked.look_up_now(&key);
        if let Some(Found::Hit(page)) = &found
            && let Some(response) = hit(page, &asked, head)
        {
            return ResponseFuture::hit(response);
        }
        // The service that is ready is the one to call:
        // https://docs.rs/tower/latest/tower/trait.Service.html#be-careful-when-cloning-inner-services
        let next = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, next);
        let config = Arc::clone(&self.config);
        ResponseFuture::answer(Box::pin(answer(config, inner, request, target, key, found)))
    }
}

/// Answers a request that could not be answered at once.
async fn answer<S, RequestBody, ResponseBody>(
    config: Arc<Config>,
    mut inner: S,
    request: Request<RequestBody>,
    target: RequestTarget,
    key: Key,
    found: Option<Found>,
) -> Result<Response<CacheBody<ResponseBody>>, S::Error>
where
    S: Service<Request<RequestBody>, Response = Response<ResponseBody>> + Send,
    S::Future: Send,
    S::Error: Send,
    RequestBody: Send,
    ResponseBody: Body<Data = Bytes> + Send + 'static,
    ResponseBody::Error: Send,
{
    let head = request.method() == Method::HEAD;
    // Kept beside the request, which the inner service consumes: what is stored depends on them.
    let uri = original_uri(request.uri(), request.extensions()).clone();
    let headers: HeaderMap = request.headers().clone();
    let asked = Asked {
        config: &config,
        uri: &uri,
        target: &target,
        headers: &headers,
        now: config.cache.clock().now(),
    };
    let found = match found {
        Some(found) => found,
        None => asked.look_up(&key).await,
    };
    let miss = match found {
        Found::Miss(miss) => miss,
        Found::Hit(page) => match hit(&page, &asked, head) {
            Some(response) => return Ok(response),
            None => Miss::of(Forward::UriMiss),
        },
    };
    let filler = Filler::begin(&config, key, miss);
    let response = inner.call(config.inputs.show(&target, request)).await?;
    let asked = Asked {
        now: config.cache.clock().now(),
        ..asked
    };
    Ok(filler.respond(&asked, head, response).await)
}

/// Whether a request has a body: the key knows nothing of it, and a handler may. HTTP/1 announces
/// it; later versions need not.
fn has_body<B: Body>(request: &Request<B>) -> bool {
    let headers = request.headers();
    let length = headers.get(CONTENT_LENGTH);
    headers.contains_key(TRANSFER_ENCODING)
        || length.is_some_and(|length| length != "0")
        || (request.version() > Version::HTTP_11 && !request.body().is_end_stream())
}

/// The response of a stored page.
fn hit<B: Body<Data = Bytes>>(
    page: &StoredPage,
    asked: &Asked<'_>,
    head: bool,
) -> Option<Response<CacheBody<B>>> {
    let stored = page.response.as_ref()?;
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
    CacheStatus::hit(STATUS_NAME)
        .with_ttl(remaining)
        .append_to(headers);
    Some(response)
}
