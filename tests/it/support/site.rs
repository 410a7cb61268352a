//! One request to a layer in process, and what it came to.

use std::convert::Infallible;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::response::Response;
use tower::{Service, ServiceExt};

/// What a request came to.
#[derive(Debug)]
pub(crate) struct Seen {
    /// `Cache-Status`.
    pub(crate) status: String,
    pub(crate) code: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Seen {
    pub(crate) fn is_hit(&self) -> bool {
        self.status.contains("; hit")
    }
}

pub(crate) async fn ask<S, B>(site: &S, uri: &str, fields: &[(&str, &str)]) -> Seen
where
    S: Service<Request, Response = Response<B>, Error = Infallible> + Clone + Sync,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<axum_cache::BoxError>,
{
    let mut request = Request::builder().uri(format!("http://site.test{uri}"));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::empty()).unwrap();
    let response = site.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = to_bytes(Body::new(body), usize::MAX).await.unwrap();
    // What has to wait for a store is stored in a task of its own.
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    let lines = parts.headers.get_all("cache-status").iter();
    let lines: Vec<_> = lines.map(|line| line.to_str().unwrap()).collect();
    Seen {
        code: parts.status.as_u16(),
        status: lines.join(", "),
        body: String::from_utf8(body.to_vec()).unwrap(),
        headers: parts.headers,
    }
}
