//! What differs for a layer that goes by HTTP alone: a shared cache in front of any origin.
//!
//! # Invariants
//!
//! - Nothing is fresh but by what its origin says, and nothing is served stale that forbids it.
//! - A stored response that may no longer be served as it is serves once its origin has said that
//!   it still holds; what an origin says of another one changes nothing.
//!
//! # Specification
//!
//! RFC 9111, RFC 9213, RFC 5861.

use std::time::Duration;

use http::header::{IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE};
use http::{HeaderMap, HeaderName, StatusCode};

use super::layer::CacheLayer;
use super::lookup::{Asked, Pick};
use super::stored::StoredResponse;
use crate::cache::Cache;
use crate::semantics::request::RequestControl;
use crate::semantics::reuse::{
    Reuse, Terms, is_error, reuse, stale_if_error, stale_if_unreachable,
};
use crate::semantics::storable::Intent;
use crate::semantics::targeted::CDN_CACHE_CONTROL;

/// How long a response that can still be of use is kept after it has become stale.
const DEFAULT_KEEP_STALE: Duration = Duration::from_secs(3600);

/// The longest that a response is fresh without saying so.
const DEFAULT_HEURISTIC_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// The settings of a layer that goes by HTTP alone.
#[derive(Clone, Debug)]
pub(super) struct HttpRules {
    /// The targeted fields that count, the first one first.
    pub(super) targets: Vec<HeaderName>,
    pub(super) heuristic_lifetime: Duration,
    pub(super) keep_stale: Duration,
    pub(super) honour_requests: bool,
}

impl Default for HttpRules {
    fn default() -> Self {
        Self {
            targets: vec![CDN_CACHE_CONTROL],
            heuristic_lifetime: DEFAULT_HEURISTIC_LIFETIME,
            keep_stale: DEFAULT_KEEP_STALE,
            honour_requests: false,
        }
    }
}

impl HttpRules {
    /// The directives of a request that count.
    pub(super) fn wishes(&self, headers: &HeaderMap) -> Option<RequestControl> {
        self.honour_requests.then(|| RequestControl::parse(headers))
    }

    /// Whether a request wants to be answered by the cache alone. That costs nobody anything, and
    /// so is heard whatever else is.
    pub(super) fn only_if_cached(headers: &HeaderMap) -> bool {
        RequestControl::parse(headers).only_if_cached
    }

    /// How long a response is kept that is fresh for `fresh`.
    pub(super) fn keeps(&self, fresh: Duration, terms: Terms) -> Duration {
        let stale = [terms.stale_while_revalidate, terms.stale_if_error];
        let stale = stale.into_iter().flatten().max().unwrap_or(0);
        let stale = Duration::from_secs(stale).max(self.keep_stale);
        fresh.saturating_add(stale)
    }
}

impl CacheLayer {
    /// A shared cache by RFC 9111, for origins and reverse proxies that say in their responses how
    /// these are to be cached.
    ///
    /// Nothing is fresh but by what a response says of itself, in `CDN-Cache-Control` (RFC 9213),
    /// `Cache-Control` or `Expires`, or by a tenth of the time since its last modification. Any
    /// status is stored that may be. What is stale is validated with `If-None-Match` and
    /// `If-Modified-Since`, or served where `stale-while-revalidate` and `stale-if-error` (RFC 5861)
    /// permit it, or where the inner service fails and nothing forbids it. Unsafe methods invalidate
    /// what they change. `only-if-cached` is answered with 504 if nothing is stored; other
    /// directives of requests count only if they are [honoured](Self::honour_requests). A TTL and
    /// `ETag`s of the layer's own do not apply.
    ///
    /// Stricter than the specification are the promises of every layer: no response with
    /// `Set-Cookie` is stored, nor one that is `private` for some fields only.
    ///
    /// # Specification
    ///
    /// RFC 9111, RFC 9110 sections 13 and 14, RFC 9211, RFC 9213, RFC 5861, RFC 8246.
    pub fn http(cache: Cache) -> Self {
        Self::new(cache).set(|config| {
            config.intent = Intent::Explicit;
            config.invalidates = true;
            config.http = Some(HttpRules::default());
        })
    }

    /// Whether the `Cache-Control` of requests counts in [HTTP mode](Self::http): `no-cache`,
    /// `no-store`, `max-age`, `max-stale`, `min-fresh`. It does not by default, as it lets every
    /// client make the inner service work.
    pub fn honour_requests(self, honour: bool) -> Self {
        self.set_http(|rules| rules.honour_requests = honour)
    }

    /// How long a response is kept in [HTTP mode](Self::http) after it has become stale, to be
    /// validated, or served when the inner service fails. An hour by default.
    pub fn keep_stale(self, keep: Duration) -> Self {
        self.set_http(|rules| rules.keep_stale = keep)
    }

    /// The longest that a response without explicit freshness is taken to be fresh in
    /// [HTTP mode](Self::http). A day by default; zero takes none to be.
    pub fn heuristic_lifetime(self, longest: Duration) -> Self {
        self.set_http(|rules| rules.heuristic_lifetime = longest)
    }

    /// The fields that count in the place of `Cache-Control` in [HTTP mode](Self::http), the first
    /// one that a response has. `CDN-Cache-Control` by default.
    ///
    /// # Specification
    ///
    /// RFC 9213 section 2.2.
    pub fn targets(self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        let names = names.into_iter().collect();
        self.set_http(|rules| rules.targets = names)
    }

    fn set_http(self, change: impl FnOnce(&mut HttpRules)) -> Self {
        self.set(|config| {
            if let Some(rules) = &mut config.http {
                change(rules);
            }
        })
    }
}

impl Asked<'_> {
    /// What a layer that goes by HTTP does with a stored response.
    pub(super) fn reuse(&self, rules: &HttpRules, stored: &StoredResponse, expired: bool) -> Reuse {
        let wishes = rules.wishes(self.headers);
        reuse(&stored.facts(self.now, expired), wishes.as_ref())
    }

    /// Whether a stored response is served in the place of one with this status; `None`: of one
    /// that never came.
    pub(super) fn may_have_instead(&self, stale: &Pick, status: Option<StatusCode>) -> bool {
        let Some(rules) = &self.config.http else {
            return self.may_have_page_instead(stale, status);
        };
        let facts = stale.stored().facts(self.now, stale.expired);
        let wishes = rules.wishes(self.headers);
        let wishes = wishes.as_ref();
        let may = match status {
            Some(status) if !is_error(status) => return false,
            Some(_) => stale_if_error(&facts, wishes),
            None => stale_if_unreachable(&facts, wishes),
        };
        // Or it would be served as it is while another one is made.
        may || reuse(&facts, wishes) == Reuse::StaleWhileRevalidate
    }
}

/// The fields by which a request is conditional.
pub(super) static CONDITIONS: [HeaderName; 4] = [
    IF_MATCH,
    IF_MODIFIED_SINCE,
    IF_NONE_MATCH,
    IF_UNMODIFIED_SINCE,
];

pub(super) fn remove_conditions(headers: &mut HeaderMap) {
    for name in &CONDITIONS {
        headers.remove(name);
    }
}
