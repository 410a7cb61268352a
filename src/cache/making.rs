//! One computation, by whoever leads it: from the place it is to fill to the store.
//!
//! # Invariants
//!
//! - The fill, the place and the generations of the tags are there before the computation begins.
//! - It ends: by its result, a panic, or the time that its policy gives it; and then its place is
//!   given back.
//! - A failure is remembered as long as the policy says.
//! - What comes of it, be it an error, is for those who had come when it was last known that no other
//!   process had invalidated it; at least for those who had come when it began.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use super::Cache;
use super::background::Room;
use super::compute::Outcomes;
use super::computed::{Computed, Terms};
use super::fenced::{Decodes, Landed, Place, Seen, Standing, Taken, hold};
use super::tags::Turn;
use crate::entry::{Entry, Stamp};
use crate::error::{BoxError, Error, ErrorKind, Result};
use crate::fence::Fill;
use crate::flight::{Landing, Moment};
use crate::key::Key;
use crate::observe::{self, Outcome};
use crate::policy::{Policy, chance};
use crate::tag::{TagStamp, TagState, Tags};
use crate::ttl::Lifetime;

/// What callers get of a computation.
#[derive(Clone, Debug)]
pub(super) struct Made {
    /// The bytes of the codec; `None` if a batch made nothing for this key.
    pub(super) outcome: Result<Option<Entry>>,
    /// Who came later looks again, as another process may have invalidated it before they came.
    pub(super) as_of: Moment,
    /// What the store said in the end.
    pub(super) standing: Standing,
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
    /// Before anything is read that the value depends on.
    pub(super) began: Moment,
    /// Begun at that time.
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
    turn: Option<Turn>,
    began: Moment,
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

impl From<Seen> for Made {
    fn from((value, as_of): Seen) -> Self {
        Self {
            outcome: Ok(Some(value.entry)),
            as_of,
            standing: Standing::Held,
        }
    }
}

impl Making {
    /// Computes, as there is room, and stores what came of it; for those who wait for `landing`, too.
    pub(super) async fn run(
        self,
        computation: Computation,
        landing: Option<&Landing<Outcomes>>,
        _room: Room,
    ) -> Made {
        let begun = match self.begin().await {
            Ok(begun) => begun,
            Err(made) => return made,
        };
        let computing = begun.within_its_time(computation);
        match hold([&begun.place].into_iter(), computing).await {
            Ok(product) => begun.keep(product, landing).await,
            Err(error) => begun.fail(error, landing).await,
        }
    }

    /// What comes of it without room, and so without being begun: those who come next try again.
    pub(super) fn overloaded(&self) -> Made {
        observe::outcome(
            self.cache.named(),
            "get_or_set",
            Outcome::Bypass,
            "overloaded",
        );
        Made {
            outcome: Err(ErrorKind::Overloaded.into()),
            as_of: self.began,
            standing: Standing::Unknown,
        }
    }

    /// Takes the place, and reads what has to be known before; or else the value that is there by
    /// now.
    pub(super) async fn begin(self) -> Result<Begun, Made> {
        let cache = self.cache;
        let started = cache.clock().monotonic();
        if self.is_unavailable {
            return Ok(Begun {
                place: Place::lost(&cache, &self.key, self.fill, self.decodes),
                policy: self.policy,
                tags: Ok(Vec::new()),
                turn: None,
                began: self.began,
                started,
                cache,
            });
        }
        let decodes = self.decodes;
        if self.look_again {
            let as_of = cache.shared.flights.mark();
            if let Ok(look) = cache.look(&self.key).await
                && let Some(value) = cache.answer(look, decodes).fresh()
            {
                return Err((value, as_of).into());
            }
        }
        let (lease, patience) = (self.policy.lease, self.policy.lock_timeout);
        let (key, fill, found) = (&self.key, self.fill, self.found);
        let taking = cache.take_place(key, fill, decodes, found, lease, patience);
        let place = match taking.await {
            Taken::Found(seen) => return Err(seen.into()),
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
            began: self.began,
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
    pub(super) async fn fail(self, error: Error, landing: Option<&Landing<Outcomes>>) -> Made {
        let present = self.cache.shared.flights.mark();
        let standing = self.standing(&Tags::default(), landing).await;
        // It says nothing of what has been changed since.
        if standing != Standing::Gone {
            let (throttle, backoff) = (self.policy.throttle, self.policy.backoff);
            let (key, now) = (self.key().as_str(), self.cache.clock().monotonic());
            let failures = &self.cache.shared.failures;
            failures.remember(key, &error, now, throttle, backoff);
        }
        self.place.give_back().await;
        self.made(Err(error), standing, present)
    }

    /// There is nothing to store.
    pub(super) async fn leave_out(self, landing: &Landing<Outcomes>) -> Made {
        let present = self.cache.shared.flights.mark();
        let standing = self.standing(&Tags::default(), Some(landing)).await;
        self.place.give_back().await;
        self.made(Ok(None), standing, present)
    }

    /// Stores what was made; what callers are to get.
    pub(super) async fn keep(self, product: Product, landing: Option<&Landing<Outcomes>>) -> Made {
        self.cache.shared.failures.forget(self.key().as_str());
        let (mut entry, named) = (product.entry.clone(), product.terms.tags.clone());
        // Other processes may invalidate it as soon as it is stored: it is not for who comes from now on.
        let present = self.cache.shared.flights.mark();
        let landed = self.store(product).await.unwrap_or_else(Landed::Failed);
        let standing = match &landed {
            Landed::Stored | Landed::Other(_) => Standing::Held,
            Landed::Expired | Landed::Invalidated => Standing::Gone,
            // Whether it could have been stored shows only by what is there instead.
            Landed::Unwanted | Landed::Lost | Landed::Failed(_) => {
                self.standing(&named, landing).await
            }
        };
        match &landed {
            Landed::Stored | Landed::Expired | Landed::Other(_) => {
                self.place.give_back_turn().await;
            }
            _ => self.place.give_back().await,
        }
        let name = self.cache.named();
        let outcome = |outcome, reason| observe::outcome(name, "get_or_set", outcome, reason);
        match landed {
            Landed::Stored | Landed::Expired => outcome(Outcome::Stored, ""),
            Landed::Other(value) => entry = value.entry,
            Landed::Unwanted => outcome(Outcome::Bypass, ""),
            Landed::Invalidated => outcome(Outcome::Bypass, "invalidated"),
            Landed::Lost => outcome(Outcome::Bypass, "unavailable"),
            Landed::Failed(error) => observe::failed(name, "get_or_set", &error),
        }
        self.made(Ok(Some(entry)), standing, present)
    }

    fn made(&self, outcome: Result<Option<Entry>>, standing: Standing, present: Moment) -> Made {
        let is_current = standing == Standing::Held;
        Made {
            outcome,
            as_of: if is_current { present } else { self.began },
            standing,
        }
    }

    /// Whether anything has been invalidated since this began, where nothing is stored that would be
    /// refused then. The store is asked only if there is somebody who came later.
    async fn standing(&self, named: &Tags, landing: Option<&Landing<Outcomes>>) -> Standing {
        if self.place.is_barred() {
            return Standing::Gone;
        }
        if !self.cache.capabilities().shared {
            // Nobody follows any more who came after that.
            return Standing::Held;
        }
        if !landing.is_some_and(Landing::is_shared) {
            return Standing::Unknown;
        }
        let standing = self.place.standing().await;
        if standing != Standing::Held {
            return standing;
        }
        match self.has_its_tags(named).await {
            Ok(true) => Standing::Held,
            Ok(false) => Standing::Gone,
            Err(_) => Standing::Unknown,
        }
    }

    /// Whether the tags are what they were when this began, and those that are named only now.
    async fn has_its_tags(&self, named: &Tags) -> Result<bool> {
        let marks = self.cache.marks(&self.tags.clone()?)?;
        if self.cache.present_state(&marks).await? != TagState::Current {
            return Ok(false);
        }
        Ok(named.is_empty() || (self.turn.is_some() && self.cache.turn().await == self.turn))
    }

    async fn store(&self, product: Product) -> Result<Landed> {
        let policy = &self.policy;
        let terms = product.terms;
        let ttl = terms.ttl.or(policy.ttl).or(self.cache.ttl);
        let Some(fresh_for) = policy.fresh_for(ttl, chance()) else {
            return Ok(Landed::Unwanted);
        };
        let (tags, turn) = (self.tags.clone()?, self.turn.as_ref());
        let tags = self.cache.tags_at_the_end(tags, turn, &terms.tags).await?;
        let Some((tags, state)) = tags else {
            return Ok(Landed::Invalidated);
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
            let entry = self.cache.plain_value(&key, product.entry, fresh_for);
            (entry.await?, fresh_for)
        } else {
            let lifetime = match fresh_for.duration() {
                None => Lifetime::Forever,
                Some(fresh_for) => Lifetime::For(fresh_for.saturating_add(window)),
            };
            self.cache.keep_tags(&stamp.tags, lifetime).await;
            let entry = self.cache.seal_value(&key, &product.entry, stamp);
            (entry.await?, lifetime)
        };
        let landed = self.place.land(entry, lifetime).await;
        Ok(match landed {
            Landed::Stored if state != TagState::Current => Landed::Expired,
            landed => landed,
        })
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
    /// The tags of a value with those that its computation has named, as they were when it began, and
    /// what has become of them; `None` if they are invalid by now, or that is not known.
    async fn tags_at_the_end(
        &self,
        tags: Vec<TagStamp>,
        turn: Option<&Turn>,
        named: &Tags,
    ) -> Result<Option<(Vec<TagStamp>, TagState)>> {
        let mut state = TagState::Current;
        if self.capabilities().shared && !tags.is_empty() {
            // What is invalid by now is not for those who came after that.
            state = self.present_state(&self.marks(&tags)?).await?;
            if state == TagState::Invalid {
                return Ok(None);
            }
        }
        let tags = self.stamps_as_of(tags, turn, &self.tags.and(named)).await?;
        Ok(tags.map(|tags| (tags, state)))
    }
}
