//! The service: a hit answers at once, a miss asks the inner service and stores what may be.

use std::future::ready;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{IF_RANGE, RANGE};
use http::{HeaderMap, Method, Request, Response, Uri};
use http_body::Body;
use tower_service::Service;

use super::body::CacheBody;
use super::callee::Callee;
use super::change::Change;
use super::errand::Errand;
use super::future::{Finished, Passing, ResponseFuture};
use super::given::{Given, View};
use super::http::remove_conditions;
use super::layer::Config;
use super::look::{Further, Look};
use super::lookup::{Asked, Miss};
use super::stored::Fingerprint;
use super::target::RequestTarget;
use super::unnamed::Unnamed;
use super::veto::Place;
use crate::key::Key;
use crate::semantics::cache_status::{CacheStatus, Forward};
use crate::semantics::invalidation::is_safe;
use crate::semantics::storable::Refusal;

/// The name of this cache in `Cache-Status`.
pub(super) const STATUS_NAME: &str = "axum-cache";

/// A service whose responses are cached; made by [`CacheLayer`](crate::CacheLayer).
#[derive(Clone, Debug)]
pub struct CacheService<S> {
    inner: Callee<S>,
    config: Arc<Config>,
}

impl<S> CacheService<S> {
    pub(super) fn new(inner: S, config: Arc<Config>) -> Self {
        let inner = Callee::new(inner);
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
    type Future = ResponseFuture<ResponseBody, S::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // What is stored needs nobody.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<RequestBody>) -> Self::Future {
        if self.config.is_off {
            return self.switched_off(request);
        }
        let head = request.method() == Method::HEAD;
        if !head && request.method() != Method::GET {
            let status = CacheStatus::forward(STATUS_NAME, Forward::Method);
            if self.config.invalidates && !is_safe(request.method()) {
                let change = Change::new(&self.config, &request, status);
                let place = Place::of(request.extensions_mut());
                let response = self.inner.clone().call(request);
                return ResponseFuture::answer(change.made_by(response, place));
            }
            return self.pass(request, status);
        }
        let view = View::of(&request);
        if has_body(&request, view.given) {
            let status = CacheStatus::forward(STATUS_NAME, Forward::Bypass);
            let status = status.with_detail(Refusal::RequestBody.as_str());
            return self.pass(request, status);
        }
        let further = match self.config.look(view, head) {
            Look::Hit(hit) => return ResponseFuture::hit(hit),
            Look::Made(parts, body) => {
                let body = CacheBody::stored(body);
                return ResponseFuture::answer(ready(Ok(Response::from_parts(parts, body))));
            }
            Look::Bypass(status) => return self.pass(request, status),
            Look::Further(further) => further,
        };
        let Further {
            key,
            target,
            selection,
            is_inside,
            unshared,
        } = further;
        if let Some(page) = unshared
            && self.inner.is_ready()
        {
            let page = page.forward(&mut request);
            return ResponseFuture::answer(Finished::new(self.inner.call_now(request), page));
        }
        let (uri, given) = (view.uri.clone(), view.given);
        let target = target.into_owned();
        let errand = Box::new(Errand {
            question: Question {
                config: Arc::clone(&self.config),
                key: key.kept(),
                target,
                selection,
                uri,
                headers: std::mem::take(request.headers_mut()),
                given,
                head,
                is_inside,
            },
            inner: self.inner.clone(),
            request,
        });
        ResponseFuture::look_up(errand.look_up())
    }
}

impl<S> CacheService<S> {
    /// Not for the cache.
    fn pass<RequestBody, ResponseBody>(
        &mut self,
        request: Request<RequestBody>,
        status: CacheStatus,
    ) -> ResponseFuture<ResponseBody, S::Error>
    where
        S: Service<Request<RequestBody>, Response = Response<ResponseBody>>
            + Clone
            + Send
            + 'static,
        S::Future: Send + 'static,
        S::Error: Send + 'static,
        RequestBody: Send + 'static,
        ResponseBody: Body<Data = Bytes> + Send + 'static,
    {
        let unnamed = self.unnamed(&request);
        self.forward(request, Some(status), unnamed)
    }

    fn forward<RequestBody, ResponseBody>(
        &mut self,
        mut request: Request<RequestBody>,
        status: Option<CacheStatus>,
        unnamed: Option<Unnamed>,
    ) -> ResponseFuture<ResponseBody, S::Error>
    where
        S: Service<Request<RequestBody>, Response = Response<ResponseBody>>
            + Clone
            + Send
            + 'static,
        S::Future: Send + 'static,
        S::Error: Send + 'static,
        RequestBody: Send + 'static,
        ResponseBody: Body<Data = Bytes> + Send + 'static,
    {
        let place = Place::of(request.extensions_mut());
        let names_any = self.config.names_tags() || self.config.inputs.names_fields();
        let config = names_any.then(|| Arc::clone(&self.config));
        let passing = Passing {
            status,
            place,
            config,
            unnamed,
        };
        if self.inner.is_ready() {
            let response = self.inner.call_now(request);
            return ResponseFuture::answer(Finished::new(response, passing));
        }
        let response = self.inner.clone().call(request);
        ResponseFuture::answer(Finished::new(response, passing))
    }

    /// Nothing is ever stored: the handler is shown what the layer declares, and the layers inside have one
    /// outside of them, but nothing else is done.
    fn switched_off<RequestBody, ResponseBody>(
        &mut self,
        mut request: Request<RequestBody>,
    ) -> ResponseFuture<ResponseBody, S::Error>
    where
        S: Service<Request<RequestBody>, Response = Response<ResponseBody>>
            + Clone
            + Send
            + 'static,
        S::Future: Send + 'static,
        S::Error: Send + 'static,
        RequestBody: Body + Send + 'static,
        ResponseBody: Body<Data = Bytes> + Send + 'static,
    {
        let unnamed = self.unnamed(&request);
        let inputs = &self.config.inputs;
        if !inputs.is_nothing_declared() {
            let view = View::of(&request);
            let target = inputs.target(view);
            let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
            if is_read && !has_body(&request, view.given) && target.bypass.is_none() {
                let target = target.into_owned();
                inputs.show(&target, &mut request);
            }
        }
        self.forward(request, None, unnamed)
    }

    /// What the layers outside of this one are told that a request is selected by.
    fn unnamed<RequestBody>(&self, request: &Request<RequestBody>) -> Option<Unnamed> {
        if !Place::is_inside(request.extensions()) {
            return None;
        }
        let inputs = &self.config.inputs;
        Unnamed::of(inputs, &inputs.target(View::of(request)))
    }
}

/// What is kept of a request beside itself, which the inner service consumes.
pub(super) struct Question {
    pub(super) config: Arc<Config>,
    pub(super) key: Key,
    pub(super) target: RequestTarget<'static>,
    selection: Fingerprint,
    uri: Uri,
    pub(super) headers: HeaderMap,
    pub(super) given: Given,
    pub(super) head: bool,
    /// Another layer is outside of this one.
    pub(super) is_inside: bool,
}

impl Question {
    /// The request at this moment.
    pub(super) fn asked(&self) -> Asked<'_> {
        Asked {
            is_inside: self.is_inside,
            given: self.given,
            config: &self.config,
            uri: &self.uri,
            target: &self.target,
            selection: self.selection,
            headers: &self.headers,
            now: self.config.cache.clock().now(),
        }
    }

    /// Whether others with the same question may wait for the answer: one that asks for no part,
    /// and, unless the layer sees to that itself, sets no conditions.
    pub(super) fn is_everybodys(&self, miss: &Miss) -> bool {
        let judged_here = self.config.http.is_none() || miss.stale.is_some();
        let given = self.given;
        !self.head && !given.range && (judged_here || !given.conditions)
    }

    /// The same question, for the whole of the answer.
    pub(super) fn for_the_whole(&mut self) {
        remove_conditions(&mut self.headers);
        for name in [RANGE, IF_RANGE] {
            self.headers.remove(name);
        }
        self.given = Given::of(&self.headers);
        self.head = false;
    }
}

/// Whether a request has a body, or may have: the key knows nothing of it, and a handler may. Its fields need not
/// announce it: HTTP/2 does not ask for that, and a layer outside may have unpacked it.
fn has_body<B: Body>(request: &Request<B>, given: Given) -> bool {
    let body = request.body();
    given.body || !(body.is_end_stream() || body.size_hint().exact() == Some(0))
}
