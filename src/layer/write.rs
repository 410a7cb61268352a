//! A response on its way into the store, and to those who wait for it.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{ETAG, HeaderName, HeaderValue};
use http_body::Body;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::collapse::{Alone, Duty, Landed, Spot};
use super::fill::HIT_FOR_MISS;
use super::layer::{Config, ETags};
use super::lease::Ground;
use super::relay::{Copied, Copier};
use super::slot::Slot;
use super::stored::{StoredPage, StoredResponse};
use super::tagged::Before;
use super::veto::{Verdict, Vetoes};
use crate::cache::Cache;
use crate::error::Result;
use crate::fence::Fill;
use crate::key::Key;
use crate::observe::{self, Outcome};
use crate::semantics::storable::Refusal;
use crate::tag::Tags;
use crate::ttl::Lifetime;

/// Why something is not stored that was purged while it was made.
const INVALIDATED: &str = "invalidated";

/// A storable response, its body still to come.
pub(super) struct Writer {
    pub(super) config: Arc<Config>,
    pub(super) key: Key,
    pub(super) response: StoredResponse,
    pub(super) tags: Tags,
    /// What was read of tags before the inner service was called.
    pub(super) before: Before,
    /// Where the response goes beside the primary entry, if the target has variants.
    pub(super) variant_key: Option<Key>,
    pub(super) vary: Vec<HeaderName>,
    pub(super) generation: u64,
    /// The most variants that there may be beside it.
    pub(super) most: usize,
    /// How long the store keeps it.
    pub(super) lifetime: Lifetime,
    /// There is a primary entry, which serves other variants meanwhile.
    pub(super) known: bool,
    /// Begun before the inner service was called, so that a purge meanwhile bars the store.
    pub(super) fill: Fill,
    pub(super) duty: Duty,
    /// See [`Asked::spot`](super::lookup::Asked::spot).
    pub(super) spot: Option<Spot>,
    pub(super) vetoes: Vetoes,
    pub(super) verdict: Option<Verdict>,
    /// What tag the response is given once its body is whole.
    pub(super) etags: ETags,
    /// What the page is made in the place of.
    pub(super) ground: Ground,
    /// Why it is not stored, such as a store that has just failed, and is not bothered again.
    pub(super) unstored: Option<&'static str>,
}

impl Writer {
    /// Waits for the rest of the body, and stores it.
    pub(super) async fn copy<B: Body<Data = Bytes>>(mut self: Box<Self>, mut copier: Copier<B>) {
        let patience = self.config.lock_timeout;
        let ground = self.ground.clone();
        let in_time = {
            let copying = pin!(copier.run());
            let held = ground.hold(copying);
            tokio::time::timeout(patience, held).await.ok()
        };
        let outcome = if let Some(outcome) = in_time {
            outcome
        } else {
            // It may still be stored, but nobody is kept waiting for it, and without a client it
            // might never end.
            self.alone(Alone::Refused);
            ground.hold(pin!(copier.run_for_client())).await
        };
        self.finish(outcome).await;
    }

    /// Tags the response by its whole body. The tag, if that gave it one.
    pub(super) fn tag(&mut self, body: &Bytes) -> Option<HeaderValue> {
        let etag = self.etags.of(body, &self.response.headers)?;
        self.response.headers.insert(ETAG, etag.clone());
        Some(etag)
    }

    /// Stores the whole body, if it is that, and tells those who wait.
    pub(super) async fn finish(mut self: Box<Self>, outcome: Copied) {
        match outcome {
            Copied::Whole(body) => {
                self.tag(&body);
                self.response.body = body;
                self.store().await;
            }
            Copied::TooLarge => self.alone(Alone::TooLarge),
            Copied::Broken => self.alone(Alone::Refused),
        }
    }

    async fn store(mut self: Box<Self>) {
        let config = Arc::clone(&self.config);
        let name = config.cache.named();
        let storable = match self.verdict.take() {
            Some(verdict) => verdict.storable().await,
            None => Some(true),
        };
        let Some(storable) = storable else {
            // Its client has gone, which says nothing of the page.
            self.duty.land(Landed::Again);
            observe::outcome(name, "page", Outcome::Bypass, "gone");
            return;
        };
        if !storable || self.vetoes.is_any_set() {
            self.alone(Alone::Refused);
            observe::outcome(name, "page", Outcome::Bypass, "veto");
            return;
        }
        let mixed = self.spot.filter(|spot| is_mixed(&config, *spot));
        if self.unstored == Some(HIT_FOR_MISS) {
            self.mark(Alone::Mixed);
        } else if self.is_everybodys() {
            if let Some(spot) = self.spot {
                config.collapse.unmark(spot);
            }
        } else {
            self.mark(Alone::Refused);
        }
        match self.write().await {
            Ok(None) => observe::outcome(name, "page", Outcome::Stored, ""),
            Ok(Some(why)) => {
                observe::outcome(name, "page", Outcome::Bypass, why);
                if let Some(spot) = mixed.filter(|_| why == INVALIDATED) {
                    // Its place is gone, which says nothing of the page.
                    mark(&config, spot, Alone::Mixed);
                }
            }
            Err(error) => observe::failed(name, "page", &error),
        }
    }

    /// Whether others may have the response without asking: of one that is to be validated every
    /// time, they are better off not to wait for it.
    fn is_everybodys(&self) -> bool {
        let terms = self.response.terms;
        let fresh = self.response.is_fresh(self.response.stored_at);
        !terms.validate_always && (fresh || terms.stale_while_revalidate.is_some())
    }

    /// Why it was not stored, if it was not: the page was purged meanwhile, or one of its tags
    /// invalidated, or the store has failed before.
    async fn write(mut self: Box<Self>) -> Result<Option<&'static str>> {
        let shared = self.config.cache.capabilities().shared;
        let mut outdated = false;
        if self.unstored.is_none() && !self.tags.is_empty() {
            // Another process may have invalidated them, and then they are not for who comes later.
            let followed = shared && self.duty.split();
            let key = self.variant_key.as_ref().unwrap_or(&self.key);
            let before = std::mem::replace(&mut self.before, Before::nothing());
            let tags = before.tags_of(&self.config, key, &self.tags, followed);
            match Box::pin(tags).await {
                Ok(Some(tags)) => {
                    let cache = &self.config.cache;
                    cache.keep_tags(&tags.stamps, self.lifetime).await;
                    self.response.tags = tags;
                }
                Ok(None) => outdated = true,
                Err(error) => {
                    observe::failed(self.config.cache.name(), "page", &error);
                    let unavailable = Refusal::Unavailable.as_str();
                    if shared {
                        // Nor is it known whether those who came meanwhile may have it.
                        if error.is_transient() {
                            self.duty.land(Landed::Again);
                        } else {
                            self.alone(Alone::Refused);
                        }
                        return Ok(Some(unavailable));
                    }
                    self.unstored = Some(unavailable);
                }
            }
        }
        if outdated && shared {
            self.duty.land(Landed::Again);
            return Ok(Some(INVALIDATED));
        }
        let page = StoredPage {
            generation: self.generation,
            vary: std::mem::take(&mut self.vary),
            // Of use in the primary entry only.
            variants: Vec::new(),
            kept_until: expiry(self.response.stored_at, self.lifetime),
            own_key: None,
            response: Some(self.response),
        };
        let page = Arc::new(page);
        // Before a purge would have to wait for it.
        let packed = page.packed(&self.config.cache).await;
        if self.vetoes.is_any_set() {
            // While the store was asked for tags, or the body compressed.
            alone_for(&self.config, self.spot, &mut self.duty, Alone::Refused);
            return Ok(Some("veto"));
        }
        let Some(landing) = self.fill.landing() else {
            self.duty.land(Landed::Again);
            return Ok(Some(INVALIDATED));
        };
        // What is still there is about to go: nothing is to be joined with it.
        let in_removal = self.fill.is_in_removal().then_some(INVALIDATED);
        let unstored = self.unstored.or(in_removal);
        let stored = if unstored.is_some() || outdated {
            Ok(true)
        } else {
            let slot = Slot {
                config: &self.config,
                key: &self.key,
                variant_key: self.variant_key.as_ref(),
                known: self.known,
                ground: &self.ground,
                most: self.most,
            };
            slot.put(&page, &packed).await
        };
        // While a purge still waits: who comes after it does not get this page.
        self.duty.land(Landed::Page(page));
        drop(landing);
        let lost = outdated.then_some(INVALIDATED);
        stored.map(|stored| unstored.or(lost).or((!stored).then_some(INVALIDATED)))
    }

    fn mark(&self, alone: Alone) {
        if let Some(spot) = self.spot {
            mark(&self.config, spot, alone);
        }
    }

    /// Sends those who wait to the inner service, and those who come next.
    fn alone(&mut self, alone: Alone) {
        alone_for(&self.config, self.spot, &mut self.duty, alone);
    }
}

fn expiry(now: SystemTime, lifetime: Lifetime) -> Option<SystemTime> {
    now.checked_add(lifetime.duration()?)
}

/// Sends those who wait to the inner service, and those who come next.
pub(super) fn alone_for(config: &Config, spot: Option<Spot>, duty: &mut Duty, alone: Alone) {
    if let Some(spot) = spot {
        mark(config, spot, alone);
    }
    duty.land(Landed::Alone(alone));
}

pub(super) fn mark(config: &Config, spot: Spot, alone: Alone) {
    let now = config.cache.clock().now();
    config.collapse.mark(spot, alone, now, config.hit_for_miss);
}

fn is_mixed(config: &Config, spot: Spot) -> bool {
    let now = config.cache.clock().now();
    let marked = config.collapse.marked(spot, now, config.hit_for_miss);
    marked == Some(Alone::Mixed)
}

/// Lets what is stored of a page go.
pub(super) async fn forget(config: Arc<Config>, key: Key) {
    if let Err(error) = config.cache.delete_key(&key).await {
        observe::failed(config.cache.name(), "page", &error);
    }
}

/// Runs at once what is ready at once, so that the next request finds it; the rest later.
pub(super) fn now_or_later(cache: &Cache, work: impl Future<Output = ()> + Send + 'static) {
    let mut work = Box::pin(work);
    let mut once = Context::from_waker(Waker::noop());
    if work.as_mut().poll(&mut once).is_pending() {
        cache.spawn(work);
    }
}

/// Runs work in a task of its own, which no client that goes away cancels. Without a runtime it is
/// left undone.
pub(super) fn later(work: impl Future<Output = ()> + Send + 'static) -> Option<JoinHandle<()>> {
    let runtime = Handle::try_current().ok()?;
    Some(runtime.spawn(work))
}
