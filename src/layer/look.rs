//! What a request gets at once: the way of a hit, which is the same whatever bodies the inner service has.

use std::sync::Arc;

use bytes::Bytes;
use http::response::Parts;

use super::given::View;
use super::hit::Hit;
use super::layer::Config;
use super::lookup::{Asked, Now};
use super::serve::{Served, served};
use super::service::STATUS_NAME;
use super::stored::Fingerprint;
use super::target::RequestTarget;
use super::unshared::Unshared;
use super::veto::Place;
use crate::clock::at_one_moment;
use crate::key::Key;
use crate::semantics::cache_status::{CacheStatus, Forward};

pub(super) enum Look<'r> {
    /// The cache has the answer.
    Hit(Hit),
    /// It has, and this is what this client gets of it.
    Made(Parts, Bytes),
    /// It is not for the cache.
    Bypass(CacheStatus),
    /// It has to be looked up where one waits for an answer, or made.
    Further(Further<'r>),
}

/// What is known of a request that is not answered yet.
pub(super) struct Further<'r> {
    pub(super) key: Key,
    pub(super) target: RequestTarget<'r>,
    pub(super) selection: Fingerprint,
    /// Another layer is outside of this one.
    pub(super) is_inside: bool,
    /// Its answer is not likely to be for the cache.
    pub(super) unshared: Option<Unshared>,
}

impl Config {
    /// `head`: no body is asked for.
    pub(super) fn look<'r>(self: &'r Arc<Self>, request: View<'r>, head: bool) -> Look<'r> {
        let bypass = CacheStatus::forward(STATUS_NAME, Forward::Bypass);
        let target = self.inputs.target(request);
        if let Some(refusal) = target.bypass {
            return Look::Bypass(bypass.with_detail(refusal.as_str()));
        }
        let Ok(key) = target.primary(request.uri, self) else {
            return Look::Bypass(bypass);
        };
        let is_inside = Place::is_inside(request.extensions);
        let selection = target.selection();
        let (asked, now) = at_one_moment(|| {
            let asked = Asked {
                is_inside,
                given: request.given,
                config: self,
                uri: request.uri,
                target: &target,
                selection,
                headers: request.headers,
                now: self.cache.clock().now(),
            };
            let now = asked.look_now(&key);
            (asked, now)
        });
        let unshared = match now {
            Now::Hit(page) => {
                let page = match Hit::of(page, &asked, head) {
                    Ok(hit) => return Look::Hit(hit),
                    Err(page) => page,
                };
                let stored = Served::Shared(page.stored());
                let (parts, body) = served(stored, page.expired, &asked, head, None);
                return Look::Made(parts, body);
            }
            Now::Nothing if !head => Unshared::of(self, &asked, &key, request),
            Now::Nothing | Now::Unknown => None,
        };
        Look::Further(Further {
            key,
            target,
            selection,
            is_inside,
            unshared,
        })
    }
}
