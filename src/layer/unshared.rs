//! A page whose answers were refused many times in a row: nothing is made ready to store the next one.
//!
//! # Invariants
//!
//! - The gate judges each answer, and its client gets the fields that it would get otherwise; but nothing is
//!   stored, and nobody waits.
//! - The first answer that may be stored ends it, and the next one is stored, whatever is refused meanwhile: who
//!   gets requests refused keeps no page out of the cache for others.
//! - It is for requests that would get the same of the inner service anyway: in the form that they came in, for
//!   the whole of the page, without conditions.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;

use super::body::CacheBody;
use super::collapse::{Alone, Spot};
use super::fill::{HIT_FOR_MISS, content_length, is_too_large};
use super::future::Finish;
use super::given::View;
use super::layer::Config;
use super::lookup::Asked;
use super::service::STATUS_NAME;
use super::unnamed::Unnamed;
use super::veto::{CacheVeto, Place};
use super::write::mark;
use crate::clock::at_one_moment;
use crate::key::Key;
use crate::observe::{self, Outcome};
use crate::semantics::cache_status::{CacheStatus, Forward};
use crate::semantics::storable::{Refusal, RequestFacts};

/// What is known of the request.
pub(super) struct Unshared {
    config: Arc<Config>,
    facts: RequestFacts,
    /// See [`Asked::spot`].
    spot: Spot,
}

/// The same, once the request is on its way.
pub(super) struct Forwarded {
    page: Unshared,
    veto: CacheVeto,
    place: Place,
}

impl Unshared {
    /// If the page of this request, of which nothing is stored, is one whose next answer is expected to be refused.
    pub(super) fn of(
        config: &Arc<Config>,
        asked: &Asked<'_>,
        key: &Key,
        request: View<'_>,
    ) -> Option<Self> {
        let is_plain = config.http.is_none()
            && !config.cache.limits_computations()
            && !asked.given.range
            && !asked.given.conditions
            && !Unnamed::is_any(asked);
        if !is_plain {
            return None;
        }
        let spot = asked.spot(key);
        let collapse = &config.collapse;
        if !collapse.expects_refusal(spot, asked.now, config.hit_for_miss)
            || !config.inputs.shows_as_it_came(asked.target, request)
        {
            return None;
        }
        Some(Self {
            config: Arc::clone(config),
            facts: asked.facts(),
            spot,
        })
    }

    /// For a request that is about to be forwarded.
    pub(super) fn forward<B>(self, request: &mut Request<B>) -> Forwarded {
        let (name, why) = (self.config.cache.named(), Forward::UriMiss.as_str());
        observe::outcome(name, "page", Outcome::Miss, why);
        let extensions = request.extensions_mut();
        Forwarded {
            page: self,
            veto: CacheVeto::of(extensions),
            place: Place::of(extensions),
        }
    }
}

impl Finish for Forwarded {
    fn finish<B: Body<Data = Bytes>>(self, response: Response<B>) -> Response<CacheBody<B>> {
        let (mut response, refusal) = at_one_moment(|| self.judge(response));
        self.veto.leave(response.extensions_mut());
        self.place.leave(&mut response);
        let status = CacheStatus::forward(STATUS_NAME, Forward::UriMiss);
        let why = refusal.map_or(HIT_FOR_MISS, Refusal::as_str);
        let name = self.page.config.cache.named();
        observe::outcome(name, "page", Outcome::Bypass, why);
        status.with_detail(why).append_to(response.headers_mut());
        response
    }
}

impl Forwarded {
    /// The response, and why it may not be stored, if it may not.
    fn judge<B: Body<Data = Bytes>>(
        &self,
        response: Response<B>,
    ) -> (Response<CacheBody<B>>, Option<Refusal>) {
        let Unshared {
            config,
            facts,
            spot,
        } = &self.page;
        let (mut parts, body) = response.into_parts();
        config.name_tags(&mut parts);
        let now = config.cache.clock().now();
        let admitted = config.admit_page(&self.veto, *facts, &mut parts, now);
        let refusal = admitted.err().or_else(|| {
            let announced = content_length(&parts.headers);
            let is_too_large = is_too_large(announced, &body, config.max_body_bytes);
            is_too_large.then_some(Refusal::BodyTooLarge)
        });
        mark(config, *spot, refusal.map_or(Alone::Mixed, Alone::of));
        (Response::from_parts(parts, CacheBody::live(body)), refusal)
    }
}
