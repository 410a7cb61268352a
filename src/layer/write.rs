//! A response on its way into the store, and to those who wait for it.

use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{ETAG, HeaderName};
use http_body::Body;
use tokio::runtime::Handle;

use super::collapse::{Alone, Duty, Landed};
use super::layer::{Config, ETags};
use super::relay::{Copied, Copier};
use super::stored::{StoredPage, StoredResponse, VariantMark};
use super::veto::{CacheVeto, Verdict};
use crate::error::Result;
use crate::fence::Fill;
use crate::key::Key;
use crate::observe::{self, Outcome};
use crate::ttl::Lifetime;

/// How long those who wait for a response wait for the rest of its body, once it has begun.
const PATIENCE: Duration = Duration::from_secs(10);

/// A storable response, its body still to come.
pub(super) struct Writer {
    pub(super) config: Arc<Config>,
    pub(super) key: Key,
    pub(super) response: StoredResponse,
    /// Where the response goes beside the primary entry, if the target has variants.
    pub(super) variant_key: Option<Key>,
    pub(super) vary: Vec<HeaderName>,
    pub(super) generation: u64,
    /// All variants that there are then.
    pub(super) variants: Vec<VariantMark>,
    /// How long the store keeps it.
    pub(super) lifetime: Lifetime,
    /// The primary entry that serves other variants meanwhile.
    pub(super) known: Option<Arc<StoredPage>>,
    /// Begun before the inner service was called, so that a purge meanwhile bars the store.
    pub(super) fill: Fill,
    pub(super) duty: Duty,
    /// See [`Asked::flight`](super::lookup::Asked::flight).
    pub(super) flight: Option<String>,
    pub(super) veto: CacheVeto,
    pub(super) verdict: Option<Verdict>,
    /// What tag the response is given once its body is whole.
    pub(super) etags: ETags,
    /// The store has just failed, and is not bothered again.
    pub(super) unavailable: bool,
}

impl Writer {
    /// Waits for the rest of the body, and stores it.
    pub(super) async fn copy<B: Body<Data = Bytes>>(mut self, mut copier: Copier<B>) {
        let outcome = if let Ok(outcome) = tokio::time::timeout(PATIENCE, copier.run()).await {
            outcome
        } else {
            // It may still be stored, but nobody is kept waiting for it.
            self.alone(Alone::Refused);
            copier.run().await
        };
        self.finish(outcome).await;
    }

    /// Stores the whole body, if it is that, and tells those who wait.
    pub(super) async fn finish(mut self, outcome: Copied) {
        match outcome {
            Copied::Whole(body) => {
                if let Some(etag) = self.etags.of(&body, &self.response.headers) {
                    self.response.headers.insert(ETAG, etag);
                }
                self.response.body = body;
                self.store().await;
            }
            Copied::TooLarge => self.alone(Alone::TooLarge),
            Copied::Broken => self.alone(Alone::Refused),
        }
    }

    async fn store(mut self) {
        let storable = match self.verdict.take() {
            Some(verdict) => verdict.storable().await,
            None => true,
        };
        let config = Arc::clone(&self.config);
        let name = config.cache.name();
        if !storable || self.veto.is_forbidden() {
            self.alone(Alone::Refused);
            observe::outcome(name, "page", Outcome::Bypass, "veto");
            return;
        }
        if let Some(flight) = &self.flight {
            config.collapse.unmark(flight);
        }
        match self.write().await {
            Ok(true) => observe::outcome(name, "page", Outcome::Stored, ""),
            Ok(false) => observe::outcome(name, "page", Outcome::Bypass, "invalidated"),
            Err(error) => observe::failed(name, "page", &error),
        }
    }

    /// Whether it was stored: not if the page was purged meanwhile.
    async fn write(self) -> Result<bool> {
        let now = self.response.stored_at;
        let own_until = expiry(now, self.lifetime);
        let known_until = self.known.as_ref().map(|known| known.kept_until);
        let (primary_until, primary_lifetime) = match known_until {
            // The primary entry has to outlive all its variants.
            Some(None) => (None, Lifetime::Forever),
            Some(Some(known)) if own_until.is_some_and(|own| own < known) => {
                let rest = known.duration_since(now).unwrap_or_default();
                (Some(known), Lifetime::For(rest))
            }
            _ => (own_until, self.lifetime),
        };
        let mut page = StoredPage {
            generation: self.generation,
            vary: self.vary,
            // Of use in the primary entry only.
            variants: Vec::new(),
            kept_until: own_until,
            response: Some(self.response),
        };
        let shared = Arc::new(page.clone());
        let mut duty = self.duty;
        let Some(landing) = self.fill.landing().await else {
            duty.land(Landed::Purged);
            return Ok(false);
        };
        let stored = async {
            if self.unavailable {
                return Ok(true);
            }
            let mut batch = Vec::with_capacity(2);
            if let Some(key) = self.variant_key {
                let entry = page.encode(&key, now)?;
                batch.push((key, entry, self.lifetime));
            }
            page.kept_until = primary_until;
            page.variants = self.variants;
            if !self.config.page_keys.inlines() {
                page.response = None;
            }
            let entry = page.encode(&self.key, now)?;
            batch.push((self.key, entry, primary_lifetime));
            let outcomes = self.config.cache.backend().set_many(batch).await?;
            outcomes.into_iter().collect::<Result<()>>().map(|()| true)
        };
        let stored = stored.await;
        // While a purge still waits: who comes after it does not get this page.
        duty.land(Landed::Page(shared));
        drop(landing);
        stored
    }

    /// Sends those who wait to the inner service, and those who come next.
    fn alone(&mut self, alone: Alone) {
        alone_for(&self.config, self.flight.as_deref(), &mut self.duty, alone);
    }
}

pub(super) fn expiry(now: SystemTime, lifetime: Lifetime) -> Option<SystemTime> {
    now.checked_add(lifetime.duration()?)
}

/// Sends those who wait to the inner service, and those who come next.
pub(super) fn alone_for(config: &Config, flight: Option<&str>, duty: &mut Duty, alone: Alone) {
    if let Some(flight) = flight {
        let now = config.cache.clock().now();
        config
            .collapse
            .mark(flight, alone, now, config.hit_for_miss);
    }
    duty.land(Landed::Alone(alone));
}

/// Runs at once what is ready at once, so that the next request finds it; the rest later.
pub(super) fn now_or_later(work: impl Future<Output = ()> + Send + 'static) {
    let mut work = Box::pin(work);
    let mut once = Context::from_waker(Waker::noop());
    if work.as_mut().poll(&mut once).is_pending() {
        later(work);
    }
}

/// Runs work in a task of its own, which no client that goes away cancels. Without a runtime it is
/// left undone.
pub(super) fn later(work: impl Future<Output = ()> + Send + 'static) {
    if let Ok(runtime) = Handle::try_current() {
        runtime.spawn(work);
    }
}
