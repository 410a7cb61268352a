//! A request that may change what is stored: by an unsafe method.
//!
//! # Specification
//!
//! RFC 9111 section 4.4.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body::Body;
use tokio::task::JoinHandle;

use super::body::CacheBody;
use super::given::View;
use super::layer::Config;
use super::veto::Place;
use super::write::{forget, later};
use crate::key::Key;
use crate::semantics::cache_status::CacheStatus;
use crate::semantics::invalidation::invalidated;

/// The most pages beside its own that a response invalidates.
const MOST_OTHERS: usize = 2;

/// A request with an unsafe method, as far as it bears on what is stored.
pub(super) struct Change {
    config: Arc<Config>,
    method: Method,
    /// The key of its page; `None` if it can have none, and nothing is stored.
    key: Option<Key>,
    /// The absolute URI of its page, if it is known.
    uri: Option<Uri>,
    status: CacheStatus,
    /// It is known what it has changed.
    is_over: bool,
}

impl Change {
    pub(super) fn new<B>(config: &Arc<Config>, request: &Request<B>, status: CacheStatus) -> Self {
        let view = View::of(request);
        let target = config.inputs.target(view);
        Self {
            config: Arc::clone(config),
            method: request.method().clone(),
            key: target.primary(view.uri, config).map(Key::kept).ok(),
            uri: target.absolute(view.uri),
            status,
            is_over: false,
        }
    }

    /// The response, once what it makes untrue is forgotten.
    pub(super) async fn made_by<B, E>(
        mut self,
        response: impl Future<Output = Result<Response<B>, E>>,
        place: Place,
    ) -> Result<Response<CacheBody<B>>, E>
    where
        B: Body<Data = Bytes>,
    {
        let response = response.await?.map(CacheBody::live);
        let mut response = self.config.with_named_tags(response);
        place.leave(&mut response);
        let keys = self.forgets(response.status(), response.headers());
        self.is_over = true;
        let tasks = keys.into_iter().map(|key| self.forget(key));
        for task in tasks.collect::<Vec<_>>().into_iter().flatten() {
            let _ = task.await;
        }
        self.status.append_to(response.headers_mut());
        Ok(response)
    }

    /// Forgets a page, in a task of its own: whoever goes away, it is done.
    fn forget(&self, key: Key) -> Option<JoinHandle<()>> {
        later(forget(Arc::clone(&self.config), key))
    }

    /// The keys of the pages that are not true any more.
    fn forgets(&self, status: StatusCode, headers: &HeaderMap) -> Vec<Key> {
        // Where the request names no host, or several, no other page is known to be on the same.
        let target = Uri::from_static("/");
        let uris = invalidated(
            &self.method,
            status,
            self.uri.as_ref().unwrap_or(&target),
            headers,
        );
        let mut keys = Vec::with_capacity(uris.len());
        if !uris.is_empty() {
            keys.extend(self.key.clone());
        }
        let others = uris.iter().skip(1).take(MOST_OTHERS);
        keys.extend(others.filter_map(|uri| self.config.page_key(uri).ok()));
        keys
    }
}

/// A client that goes away before there is a response does not undo what the handler has done.
impl Drop for Change {
    fn drop(&mut self) {
        if !self.is_over
            && let Some(key) = self.key.take()
        {
            self.forget(key);
        }
    }
}
