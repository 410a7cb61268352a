//! What a page is made in the place of: so that a purge, by any process, keeps out what began before.
//!
//! In one process, the table of fills says what was purged since a fill began. Where processes share
//! a store that can compare and set, the store says it, too: a page replaces only an entry of the
//! generation that was there when its handler was called. Where nothing was there, a *lease* is put
//! there first, which holds the generation that the page will have, and which a purge removes like any
//! entry.
//!
//! # Invariants
//!
//! - A generation is known before the handler is called, and what is made is stored only under it.
//! - A lease is a miss to every reader. Whoever finds one adopts its generation, so that several
//!   processes that make variants of a page at a time store them side by side.
//! - A lease ends by itself, and in no other way: while there is somebody who makes the page, it is renewed. Who
//!   has stored nothing leaves it: others may have adopted it, and it keeps nobody from anything.
//! - Requests that wait for each other's answers have found the same generation, or were there before
//!   the handler was called: none of them is served what was purged before it began.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::timeout;

use super::layer::Config;
use super::lookup::Miss;
use super::stored::StoredPage;
use super::tagged::Before;
use crate::cache::Cache;
use crate::entry::{Body, Entry, Kind, Stamp, Undecodable, is_lease};
use crate::error::Result;
use crate::flight::{Flights, Role};
use crate::key::Key;
use crate::observe;
use crate::side_by_side::both;
use crate::tag::draw;
use crate::ttl::Lifetime;

/// How long a lease lasts that nobody renews.
const LEASE: Duration = Duration::from_secs(10);

/// How often it is tried to take a place that others take, too.
const TRIES: usize = 4;

/// What a page is made in the place of.
#[derive(Clone, Debug)]
pub(super) enum Ground {
    /// Whatever is there: the table of this process alone says what was purged.
    Any,
    /// What is of this generation, such as this page.
    Page(u64, Option<Entry>),
    /// What is of the generation of this lease.
    Lease(Arc<Lease>),
    /// It is not known: nothing may be stored.
    Lost,
    /// The same, as the store cannot be written to: nobody can purge anything, either.
    Unwritable,
}

/// An entry in the place of a page that is being made.
#[derive(Debug)]
pub(super) struct Lease {
    cache: Cache,
    key: Key,
    entry: Entry,
    generation: u64,
    /// Not another one's, of which it is not known for how long it lasts.
    is_ours: bool,
}

/// The places that are being taken by a layer.
#[derive(Debug, Default)]
pub(super) struct Leases {
    flights: Arc<Flights<Opened>>,
}

/// A place, and what was read before anything was made in it.
#[derive(Clone, Debug)]
pub(super) struct Opened {
    pub(super) ground: Ground,
    pub(super) before: Option<Arc<Before>>,
}

/// What an entry under the key of a page is.
#[derive(Debug)]
pub(super) enum Standing {
    /// Without its response.
    Page(Box<StoredPage>),
    Lease(u64),
    /// Nothing that could be used.
    Debris,
}

impl Standing {
    pub(super) fn of(cache: &Cache, key: &Key, entry: &Entry) -> Self {
        if is_lease(entry.bytes()) {
            return lease_of(cache, key, entry).map_or(Self::Debris, Self::Lease);
        }
        let page = StoredPage::decode_head(cache, key, entry.bytes());
        page.map_or(Self::Debris, |page| Self::Page(Box::new(page)))
    }
}

/// The generation of the lease that an entry says it is.
pub(super) fn lease_of(cache: &Cache, key: &Key, entry: &Entry) -> Result<u64, Undecodable> {
    let opened = cache.sealer().open(Kind::Lease, key, entry.bytes())?;
    Ok(opened.meta)
}

impl Config {
    /// Whether the store says what was purged.
    fn is_fenced(&self) -> bool {
        let capabilities = self.cache.capabilities();
        capabilities.shared && capabilities.compares
    }

    /// What an answer to a request that found this is made in the place of, if that is known already.
    pub(super) fn ground(&self, key: &Key, miss: &Miss, now: SystemTime) -> Option<Ground> {
        if !self.is_fenced() {
            return Some(Ground::Any);
        }
        if miss.is_unavailable() {
            return Some(Ground::Lost);
        }
        if let Some(known) = miss.known.as_ref().filter(|known| known.is_kept(now)) {
            return Some(Ground::Page(known.generation, miss.raw.clone()));
        }
        let (entry, generation) = (miss.raw.clone()?, miss.lease?);
        let lease = Lease::new(self, key, entry, generation, false);
        Some(Ground::Lease(Arc::new(lease)))
    }

    /// As [`ground`](Self::ground), and takes the place if it has to. Those who want it at the same
    /// time take it together.
    pub(super) async fn take(&self, key: &Key, miss: &Miss, now: SystemTime) -> Opened {
        if let Some(ground) = self.ground(key, miss, now) {
            return Opened::of(ground);
        }
        // Boxed, as are others of this layer that wait for a store: where nothing is waited for, no room for it is
        // moved around.
        Box::pin(self.take_anew(key, miss)).await
    }

    async fn take_anew(&self, key: &Key, miss: &Miss) -> Opened {
        loop {
            match self.leases.flights.enter(key.as_str()) {
                Role::Leader(landing) => {
                    let taking = both(
                        self.acquire(key, miss.raw.clone()),
                        Before::read(self, None),
                    );
                    let (ground, before) = taking.await;
                    let ground = ground.unwrap_or_else(|error| {
                        observe::failed(self.cache.name(), "page", &error);
                        Ground::Unwritable
                    });
                    let opened = Opened {
                        ground,
                        before: Some(Arc::new(before)),
                    };
                    landing.land(opened.clone());
                    return opened;
                }
                Role::Follower(mut follower) => {
                    match timeout(self.lock_timeout, follower.result()).await {
                        Ok(Ok(opened)) => return opened,
                        // Its client went away, and leaves it to the next.
                        Ok(Err(_)) => {}
                        // Its future may be kept, and not be polled any more.
                        Err(_) => self.leases.flights.abandon(key.as_str(), &follower),
                    }
                }
            }
        }
    }

    /// Puts a lease where nothing is, or only what cannot be used.
    async fn acquire(&self, key: &Key, mut found: Option<Entry>) -> Result<Ground> {
        let (cache, lifetime) = (&self.cache, Lifetime::For(LEASE));
        let backend = cache.backend();
        for _ in 0..TRIES {
            let generation = draw();
            let entry = new_lease(cache, key, generation)?;
            let is_taken = match &found {
                None => backend.add(key, entry.clone(), lifetime).await?,
                Some(found) => {
                    let replaced = backend.compare_and_set(key, found, entry.clone(), lifetime);
                    replaced.await?
                }
            };
            if is_taken {
                let lease = Lease::new(self, key, entry, generation, true);
                return Ok(Ground::Lease(Arc::new(lease)));
            }
            found = backend.get(key).await?;
            let Some(entry) = &found else { continue };
            match Standing::of(cache, key, entry) {
                Standing::Page(page) if page.is_kept(cache.clock().now()) => {
                    return Ok(Ground::Page(page.generation, found));
                }
                Standing::Lease(generation) => {
                    let lease = Lease::new(self, key, entry.clone(), generation, false);
                    return Ok(Ground::Lease(Arc::new(lease)));
                }
                Standing::Page(_) | Standing::Debris => {}
            }
        }
        Ok(Ground::Lost)
    }
}

impl Opened {
    pub(super) fn of(ground: Ground) -> Self {
        Self {
            ground,
            before: None,
        }
    }
}

impl Ground {
    /// The generation that a page has which is made in this place; `None` if it is a new one.
    pub(super) fn generation(&self) -> Option<u64> {
        match self {
            Self::Page(generation, _) => Some(*generation),
            Self::Lease(lease) => Some(lease.generation),
            Self::Any | Self::Lost | Self::Unwritable => None,
        }
    }

    pub(super) fn is_lost(&self) -> bool {
        matches!(self, Self::Lost | Self::Unwritable)
    }

    /// What was there.
    pub(super) fn entry(&self) -> Option<&Entry> {
        match self {
            Self::Page(_, entry) => entry.as_ref(),
            Self::Lease(lease) => Some(&lease.entry),
            Self::Any | Self::Lost | Self::Unwritable => None,
        }
    }

    /// Runs `making`, and holds the place meanwhile.
    pub(super) async fn hold<T>(&self, mut making: impl Future<Output = T> + Unpin) -> T {
        let Self::Lease(lease) = self else {
            return making.await;
        };
        let mut renewing = Box::pin(lease.renew_all());
        poll_fn(|cx| {
            let outcome = Pin::new(&mut making).poll(cx);
            if outcome.is_pending() {
                // However long the store takes, the page is made.
                let _ = renewing.as_mut().poll(cx);
            }
            outcome
        })
        .await
    }
}

impl Lease {
    fn new(config: &Config, key: &Key, entry: Entry, generation: u64, is_ours: bool) -> Self {
        Self {
            cache: config.cache.clone(),
            key: key.clone(),
            entry,
            generation,
            is_ours,
        }
    }

    /// Never ends.
    async fn renew_all(&self) {
        if !self.is_ours {
            // It may be about to end.
            let _ = tokio::time::timeout(LEASE / 3, self.renew(LEASE)).await;
        }
        loop {
            tokio::time::sleep(LEASE / 3).await;
            // One that is gone shows when the page lands.
            let _ = tokio::time::timeout(LEASE / 3, self.renew(LEASE)).await;
        }
    }

    fn renew(&self, lifetime: Duration) -> impl Future<Output = Result<bool>> + Send + 'static {
        let (cache, key, entry) = (self.cache.clone(), self.key.clone(), self.entry.clone());
        async move {
            let lifetime = Lifetime::For(lifetime);
            let backend = cache.backend();
            backend
                .compare_and_set(&key, &entry, entry.clone(), lifetime)
                .await
        }
    }
}

fn new_lease(cache: &Cache, key: &Key, generation: u64) -> Result<Entry> {
    let stamp = Stamp::new(cache.clock().now(), None);
    let sealer = cache.sealer();
    sealer.seal(Kind::Lease, key, stamp, generation, &Body::default())
}
