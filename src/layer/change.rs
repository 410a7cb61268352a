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

use super::body::CacheBody;
use super::layer::Config;
use super::target::original_uri;
use super::veto::Place;
use crate::observe;
use crate::semantics::cache_status::CacheStatus;
use crate::semantics::invalidation::invalidated;

/// A request with an unsafe method, as far as it bears on what is stored.
pub(super) struct Change {
    config: Arc<Config>,
    method: Method,
    /// The key of its page.
    key: String,
    /// The absolute URI of its page, if it is known.
    uri: Option<Uri>,
    status: CacheStatus,
}

impl Change {
    pub(super) fn new<B>(config: &Arc<Config>, request: &Request<B>, status: CacheStatus) -> Self {
        let uri = original_uri(request.uri(), request.extensions());
        let inputs = &config.inputs;
        let target = inputs.target(uri, request.headers(), request.extensions());
        Self {
            config: Arc::clone(config),
            method: request.method().clone(),
            key: target.primary(uri, config),
            uri: target.absolute(uri),
            status,
        }
    }

    /// The response, once what it makes untrue is forgotten.
    pub(super) async fn made_by<B, E>(
        self,
        response: impl Future<Output = Result<Response<B>, E>>,
        place: Place,
    ) -> Result<Response<CacheBody<B>>, E>
    where
        B: Body<Data = Bytes>,
    {
        let mut response = response.await?.map(CacheBody::live);
        place.leave(&response);
        for key in self.forgets(response.status(), response.headers()) {
            if let Err(error) = self.config.cache.delete(&key).await {
                observe::failed(self.config.cache.name(), "page", &error);
            }
        }
        self.status.append_to(response.headers_mut());
        Ok(response)
    }

    /// The keys of the pages that are not true any more.
    fn forgets(&self, status: StatusCode, headers: &HeaderMap) -> Vec<String> {
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
            keys.push(self.key.clone());
        }
        keys.extend(uris.iter().skip(1).map(|uri| self.config.page_key(uri)));
        keys
    }
}
