//! One computation, by whoever leads it: from the place it is to fill to the store.
//!
//! # Invariants
//!
//! - The fill, the place and the generations of the tags are there before the computation begins.
//! - It ends: by its result, a panic, or the time that its policy gives it; and then its place is
//!   given back.
//! - A failure is remembered as long as the policy says.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use super::Cache;
use super::computed::{Computed, Terms};
use super::fenced::{Decodes, Landed, Place, Taken, hold};
use super::record::{Value, seal_value};
use crate::entry::{Entry, Stamp};
use crate::error::{BoxError, Error, ErrorKind, Result};
use crate::fence::Fill;
use crate::key::Key;
use crate::observe::{self, Outcome};
use crate::policy::{Policy, chance};
use crate::tag::{TagStamp, TagState, Tags};
use crate::ttl::Lifetime;

/// What callers get of a computation.
#[derive(Clone, Debug)]
pub(super) struct Made {
    /// The bytes of the codec; `None` if a batch made nothing for this key.
    pub(super) entry: Option<Entry>,
    /// It is for those who asked before, as another process may have invalidated it: the others look
    /// again.
    pub(super) is_invalidated: bool,
}

/// What a computation has made, encoded.
#[derive(Debug)]
pub(super) struct Product {
    pub(super) entry: Entry,
    terms: Terms,
}

pub(super) type Computation = Pin<Box<dyn Future<Output = Result<Product>> + Send>>;

/// What has to be known of a key to compute it.
pub(super) struct Making {
    pub(super) cache: Cache,
    pub(super) key: Key,
    /// Begun before anything is read that the value depends on.
    pub(super) fill: Fill,
    pub(super) policy: Policy,
    /// What was found there, which is not used.
    pub(super) found: Option<Entry>,
    /// The store has just failed, and is not bothered again.
    pub(super) is_unavailable: bool,
    /// Something may have been stored since it was looked at.
    pub(super) look_again: bool,
    pub(super) decodes: Decodes,
    /// The computation may name tags only once it is over.
    pub(super) tags_late: bool,
}

/// A computation about to begin, and what was read before it.
pub(super) struct Begun {
    cache: Cache,
    place: Place,
    policy: Policy,
    tags: Result<Vec<TagStamp>>,
    turn: Option<Entry>,
    started: Duration,
}

impl Product {
    pub(super) fn of<T: serde::Serialize, E: Into<BoxError>>(
        cache: &Cache,
        computed: Result<Computed<T>, E>,
    ) -> Result<Self> {
        let computed =
            computed.map_err(|error| Error::new(ErrorKind::Compute).with_source(error))?;
        Ok(Self {
            entry: cache.encode(&computed.value)?,
            terms: computed.terms,
        })
    }
}

impl Made {
    /// What was there by now.
    pub(super) fn of(value: Value) -> Self {
        Self {
            entry: Some(value.entry),
            is_invalidated: false,
        }
    }

    /// What is there has to be looked at again.
    fn again() -> Self {
        Self {
            entry: None,
            is_invalidated: true,
        }
    }

    pub(super) fn nothing() -> Self {
        Self {
            entry: None,
            is_invalidated: false,
        }
    }
}

impl Making {
    /// Computes, and stores what came of it.
    pub(super) async fn run(self, computation: Computation) -> Result<Made> {
        let begun = match self.begin().await {
            Ok(begun) => begun,
            Err(value) => return Ok(Made::of(value)),
        };
        let computing = begun.within_its_time(computation);
        match hold([&begun.place].into_iter(), computing).await {
            Ok(product) => Ok(begun.keep(product).await),
            Err(error) => {
                begun.fail(&error).await;
                Err(error)
            }
        }
    }

    /// Takes the place, and reads what has to be known before; or else the value that is there by
    /// now.
    pub(super) async fn begin(self) -> Result<Begun, Value> {
        let cache = self.cache;
        let started = cache.clock().monotonic();
        if self.is_unavailable {
            return Ok(Begun {
                place: Place::lost(&cache, &self.key, self.fill, self.decodes),
                policy: self.policy,
                tags: Ok(Vec::new()),
                turn: None,
                started,
                cache,
            });
        }
        let decodes = self.decodes;
        if self.look_again
            && let Ok(look) = cache.look(&self.key).await
            && let Some(value) = cache.answer(look, decodes).fresh()
        {
            return Err(value);
        }
        let (lease, patience) = (self.policy.lease, self.policy.lock_timeout);
        let (key, fill, found) = (&self.key, self.fill, self.found);
        let taking = cache.take_place(key, fill, decodes, found, lease, patience);
        let place = match taking.await {
            Taken::Found(value) => return Err(value),
            Taken::Place(place) => *place,
        };
        let tags = cache.stamps(&cache.tags).await;
        let turn = if self.tags_late {
            cache.turn().await
        } else {
            None
        };
        Ok(Begun {
            started: cache.clock().monotonic(),
            place,
            policy: self.policy,
            tags,
            turn,
            cache,
        })
    }
}

impl Begun {
    pub(super) fn key(&self) -> &Key {
        &self.place.key
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// A computation that is dropped when nobody waits for it any more and its time is over. That it
    /// panics is a failure like any other.
    pub(super) async fn within_its_time<T>(
        &self,
        computation: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let computation = caught(computation);
        let Some(hard) = self.policy.hard_timeout else {
            return computation.await;
        };
        let time = hard.saturating_add(self.policy.complete_within);
        tokio::time::timeout(time, computation)
            .await
            .unwrap_or_else(|_| Err(ErrorKind::ComputeTimeout.into()))
    }

    /// The computation came to nothing.
    pub(super) async fn fail(self, error: &Error) {
        let now = self.cache.clock().monotonic();
        let (throttle, backoff) = (self.policy.throttle, self.policy.backoff);
        // It says nothing of what has been changed since.
        if !self.place.is_barred() {
            let failures = &self.cache.shared.failures;
            failures.remember(self.place.key.as_str(), error, now, throttle, backoff);
        }
        self.place.give_back().await;
    }

    /// There is nothing to store.
    pub(super) async fn give_back(self) {
        self.place.give_back().await;
    }

    /// Stores what was made; what callers are to get.
    pub(super) async fn keep(self, product: Product) -> Made {
        let cache = self.cache.clone();
        cache.shared.failures.forget(self.place.key.as_str());
        let mut made = Made {
            entry: Some(product.entry.clone()),
            is_invalidated: false,
        };
        let name = cache.name();
        // Other processes may invalidate it as soon as it is stored, and who comes after that must
        // not be given it: who comes from now on looks again.
        let flights = &cache.shared.flights;
        let shared = cache.capabilities().shared;
        let later = shared
            .then(|| flights.split(self.place.key.as_str()))
            .flatten();
        let stored = self.store(product).await;
        if let Some(later) = later {
            later.land(Ok(Made::again()));
        }
        match stored {
            Ok(Landed::Stored) => observe::outcome(name, "get_or_set", Outcome::Stored, ""),
            Ok(Landed::Other(value)) => return Made::of(value),
            Ok(Landed::Invalidated) => {
                made.is_invalidated = true;
                observe::outcome(name, "get_or_set", Outcome::Bypass, "invalidated");
            }
            Ok(Landed::Lost) => {
                observe::outcome(name, "get_or_set", Outcome::Bypass, "unavailable");
            }
            Ok(Landed::Failed(error)) | Err(error) => {
                observe::failed(name, "get_or_set", &error);
            }
        }
        made
    }

    async fn store(self, product: Product) -> Result<Landed> {
        let policy = &self.policy;
        let terms = product.terms;
        let ttl = terms.ttl.or(policy.ttl).or(self.cache.ttl);
        let Some(fresh_for) = policy.fresh_for(ttl, chance()) else {
            self.place.give_back().await;
            return Ok(Landed::Stored);
        };
        let tags = match self.tags {
            Ok(tags) => {
                self.cache
                    .tags_at_the_end(tags, self.turn.as_ref(), &terms.tags)
                    .await
            }
            Err(error) => Err(error),
        };
        let tags = match tags {
            Ok(Some(tags)) => tags,
            Ok(None) => {
                self.place.give_back().await;
                return Ok(Landed::Invalidated);
            }
            Err(error) => {
                self.place.give_back().await;
                return Err(error);
            }
        };
        let clock = self.cache.clock();
        let mut stamp = Stamp::new(clock.now(), fresh_for.duration());
        stamp.cost = clock.monotonic().saturating_sub(self.started);
        stamp.stale_while_revalidate = terms
            .stale_while_revalidate
            .unwrap_or(policy.stale_while_revalidate);
        stamp.stale_if_error = terms.stale_if_error.unwrap_or(policy.stale_if_error);
        stamp.tags = tags;
        let window = stamp.stale_while_revalidate.max(stamp.stale_if_error);
        let key = self.place.key.clone();
        let is_plain = stamp.tags.is_empty() && window.is_zero() && policy.refresh_ahead.is_none();
        let (entry, lifetime) = if is_plain {
            (self.cache.plain_value(&key, product.entry)?, fresh_for)
        } else {
            let lifetime = match fresh_for.duration() {
                None => Lifetime::Forever,
                Some(fresh_for) => Lifetime::For(fresh_for.saturating_add(window)),
            };
            (seal_value(&key, &product.entry, stamp)?, lifetime)
        };
        Ok(self.place.land(entry, lifetime).await)
    }
}

/// Runs `computation`; a panic is its error. It has been reported by then, as any panic.
async fn caught<T>(computation: impl Future<Output = Result<T>>) -> Result<T> {
    let mut computation = pin!(computation);
    poll_fn(|cx| {
        let polled = catch_unwind(AssertUnwindSafe(|| computation.as_mut().poll(cx)));
        polled.unwrap_or_else(|_| {
            let panicked = Error::new(ErrorKind::Compute);
            Poll::Ready(Err(panicked.with_message("computation panicked")))
        })
    })
    .await
}

impl Cache {
    /// The tags of a value with those that its computation has named, as they were when it began;
    /// `None` if they are invalid by now, or that is not known.
    async fn tags_at_the_end(
        &self,
        tags: Vec<TagStamp>,
        turn: Option<&Entry>,
        named: &Tags,
    ) -> Result<Option<Vec<TagStamp>>> {
        if self.capabilities().shared && !tags.is_empty() {
            // What is invalid by now is not for those who came after that.
            let marks = self.marks(&tags)?;
            if self.present_state(&marks).await? == TagState::Invalid {
                return Ok(None);
            }
        }
        self.stamps_as_of(tags, turn, &self.tags.and(named)).await
    }
}
