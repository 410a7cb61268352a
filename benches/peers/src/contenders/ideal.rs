//! What one would write by hand for one site, and with care: a concurrent map of shared entries, `Age`, and the
//! checks without which it would leak. It knows neither other fields in `Vary`, nor bounds, nor stampedes. And the
//! same with the fields that ours sends beside: `Date`, `Expires` and `Cache-Status`.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::routing::get;
use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, AGE, AUTHORIZATION, CACHE_CONTROL, COOKIE, DATE, ETAG, EXPIRES, HOST,
    IF_NONE_MATCH, RANGE,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use quick_cache::sync::Cache as Map;
use tower::{Layer, Service};

use super::{Contender, ROUTE, contender, router};
use crate::scene::{Scene, Site};

const TTL: Duration = Duration::from_secs(600);

struct Stored {
    headers: HeaderMap,
    body: Bytes,
    encoding: Option<HeaderValue>,
    at: Instant,
}

#[derive(Clone)]
struct ByHand<S> {
    inner: S,
    layer: ByHandLayer,
}

#[derive(Clone)]
struct ByHandLayer {
    map: Arc<Map<String, Arc<Stored>>>,
    says_more: bool,
}

impl<S> Layer<S> for ByHandLayer {
    type Service = ByHand<S>;

    fn layer(&self, inner: S) -> ByHand<S> {
        let layer = self.clone();
        ByHand { inner, layer }
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

enum Either {
    Hit(Option<Response<Body>>),
    Miss(Answer),
}

impl Future for Either {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Self::Hit(response) => Poll::Ready(Ok(response.take().expect("polled once"))),
            Self::Miss(answer) => answer.as_mut().poll(cx),
        }
    }
}

impl<S> ByHand<S> {
    fn hit(&self, key: &str, headers: &HeaderMap) -> Option<Response<Body>> {
        let stored = self.layer.map.get(key)?;
        let age = stored.at.elapsed();
        if age >= TTL || headers.get(ACCEPT_ENCODING) != stored.encoding.as_ref() {
            return None;
        }
        let known = headers.get(IF_NONE_MATCH);
        let modified = known.is_none() || known != stored.headers.get(ETAG);
        let body = if modified {
            Body::from(stored.body.clone())
        } else {
            Body::empty()
        };
        let mut response = Response::new(body);
        if !modified {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        }
        response.headers_mut().clone_from(&stored.headers);
        let age = HeaderValue::from(age.as_secs());
        response.headers_mut().insert(AGE, age);
        Some(response)
    }
}

impl<S> Service<Request<Body>> for ByHand<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send,
    S: 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Either {
        let headers = request.headers();
        let personal = [AUTHORIZATION, COOKIE, RANGE]
            .iter()
            .any(|name| headers.contains_key(name));
        let host = headers.get(HOST).and_then(|host| host.to_str().ok());
        let (&Method::GET, false, Some(host)) = (request.method(), personal, host) else {
            return Either::Miss(Box::pin(self.inner.call(request)));
        };
        let path = request
            .uri()
            .path_and_query()
            .map_or("/", |path| path.as_str());
        let mut key = String::with_capacity(host.len() + path.len());
        key.push_str(host);
        key.push_str(path);
        if let Some(response) = self.hit(&key, headers) {
            return Either::Hit(Some(response));
        }
        let encoding = headers.get(ACCEPT_ENCODING).cloned();
        let (response, layer) = (self.inner.call(request), self.layer.clone());
        Either::Miss(Box::pin(async move {
            let (parts, body) = response.await?.into_parts();
            let control = parts
                .headers
                .get(CACHE_CONTROL)
                .map(|control| control.as_bytes());
            if parts.status != StatusCode::OK || control == Some(b"no-store") {
                return Ok(Response::from_parts(parts, body));
            }
            let body = to_bytes(body, 1 << 20).await.unwrap_or_default();
            let mut headers = parts.headers.clone();
            if layer.says_more {
                say_more(&mut headers);
            }
            let stored = Stored {
                headers,
                body: body.clone(),
                encoding,
                at: Instant::now(),
            };
            layer.map.insert(key, Arc::new(stored));
            Ok(Response::from_parts(parts, Body::from(body)))
        }))
    }
}

/// Adds what ours says, and the place of `Age`, so that no copy grows.
fn say_more(headers: &mut HeaderMap) {
    let date = Bytes::from("Sat, 21 Nov 2026 08:00:00 GMT".to_owned());
    for name in [DATE, EXPIRES] {
        let date = HeaderValue::from_maybe_shared(date.clone());
        headers.insert(name, date.expect("plain text"));
    }
    let status = HeaderValue::from_static("by-hand; hit; ttl=600");
    headers.insert("cache-status", status);
    headers.insert(AGE, HeaderValue::from_static("0"));
}

fn layer(scene: Scene, says_more: bool) -> Option<ByHandLayer> {
    let map = Arc::new(Map::new(40_000));
    (scene != Scene::Disabled).then_some(ByHandLayer { map, says_more })
}

pub fn outside(scene: Scene, body: usize) -> Option<Box<dyn Contender>> {
    outside_of(layer(scene, false)?, scene, body)
}

pub fn inside(scene: Scene, body: usize) -> Option<Box<dyn Contender>> {
    inside_of(layer(scene, false)?, scene, body)
}

pub fn outside_saying_more(scene: Scene, body: usize) -> Option<Box<dyn Contender>> {
    outside_of(layer(scene, true)?, scene, body)
}

pub fn inside_saying_more(scene: Scene, body: usize) -> Option<Box<dyn Contender>> {
    inside_of(layer(scene, true)?, scene, body)
}

fn outside_of(layer: ByHandLayer, scene: Scene, body: usize) -> Option<Box<dyn Contender>> {
    contender(layer.layer(router(Site::new(scene, body))))
}

fn inside_of(layer: ByHandLayer, scene: Scene, body: usize) -> Option<Box<dyn Contender>> {
    let site = Site::new(scene, body);
    let route = get(async move || site.answer()).layer(layer);
    contender(Router::new().route(ROUTE, route))
}
