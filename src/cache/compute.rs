//! Compute if absent, once per key at a time; serve stale where that is allowed.

use std::future::Future;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::Cache;
use super::computed::Computed;
use super::look::{Found, Look, Value};
use super::making::{Computation, Made, Making, Product};
use super::nested::{Nested, computes};
use super::waiting::Waiter;
use crate::entry::{Entry, is_lease};
use crate::error::{BoxError, Error, ErrorKind, Result};
use crate::flight::{Flights, Landing, Moment, Role};
use crate::key::Key;
use crate::observe::{self, Outcome};
use crate::policy::{Policy, chance};

const OPERATION: &str = "get_or_set";

/// Why nothing was found in a store that did not answer.
pub(super) const UNAVAILABLE: &str = "unavailable";

/// How often a caller waits for another one's computation before it computes for itself.
const ROUNDS: usize = 4;

/// A flight of [`get_or_set`](Cache::get_or_set).
pub(super) type Outcomes = Made;

/// What a caller found before it came to computing.
struct Before {
    /// What is there, which is not used.
    raw: Option<Entry>,
    /// What may be served if computing fails.
    fallback: Option<Value>,
    /// How many flights had ended.
    landings: u64,
    /// The store did not answer.
    is_unavailable: bool,
}

/// A computation that somebody may begin.
struct Ask<'a> {
    cache: &'a Cache,
    key: &'a Key,
    policy: &'a Policy,
    decodes: fn(&Cache, &Entry) -> bool,
    tags_late: bool,
    /// When this caller came.
    came: Moment,
}

/// The computation of a caller, begun at most once.
type Compute<F> = Option<F>;

impl Cache {
    /// The value under `key`, or else what `compute` makes, which is stored for the next.
    ///
    /// Callers that miss the same key at the same time share one computation per process. It runs
    /// in a task of its own, so a caller that goes away neither cancels nor truncates it. If
    /// another writer stored a value meanwhile, that one is returned and kept; if the key or a tag
    /// was invalidated meanwhile, here or in another process, the value is returned and not stored.
    /// A store that fails counts as a miss, and the computed value is returned.
    ///
    /// A value that was stored without one of the [tags](Self::with_tags) that this handle gives, as
    /// by an earlier release, is computed anew.
    ///
    /// The `policy` is a TTL, or a [`Policy`], which may let stale values be served, computations
    /// time out, and values be refreshed ahead. What refreshes a value is the computation of the
    /// caller that found it stale: it should depend on the key alone.
    ///
    /// # Errors
    ///
    /// [`Compute`](ErrorKind::Compute) if `compute` failed and nothing stale may be served; all who
    /// waited get the same, nothing is stored, and [`Error::compute_error`] gives the cause back.
    /// Also if it panicked. [`ComputeTimeout`](ErrorKind::ComputeTimeout) after the policy's hard
    /// timeout. [`Encode`](ErrorKind::Encode) or [`Decode`](ErrorKind::Decode) if the value does not
    /// survive the codec. [`InvalidTag`](ErrorKind::InvalidTag) for what no entry can have.
    ///
    /// # Cancel safety
    ///
    /// Safe: the computation goes on and its value is stored.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime with its timer, on a miss.
    ///
    /// # Django
    ///
    /// `get_or_set`, which runs the callable once per caller, and stores coroutines unawaited.
    ///
    /// # Example
    ///
    /// ```
    /// # #[cfg(feature = "memory")]
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> axum_cache::Result<()> {
    /// use std::{io, time::Duration};
    /// use axum_cache::{Cache, Policy, backend::Memory};
    ///
    /// let cache = Cache::new(Memory::new());
    /// let minute = Duration::from_secs(60);
    /// let policy = Policy::new(minute).stale_while_revalidate(minute).stale_if_error(60 * minute);
    /// let answer: u32 = cache
    ///     .get_or_set("answer", policy, || async { Ok::<_, io::Error>(42) })
    ///     .await?;
    /// assert_eq!(answer, 42);
    /// # Ok(()) }
    /// # #[cfg(not(feature = "memory"))] fn main() {}
    /// ```
    pub fn get_or_set<T, E, F, Fut>(
        &self,
        key: &str,
        policy: impl Into<Policy>,
        compute: F,
    ) -> impl Future<Output = Result<T>> + Send
    where
        T: Serialize + DeserializeOwned,
        E: Into<BoxError>,
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
    {
        let cache = self.clone();
        let begin = move |_: Option<Entry>| -> Computation {
            let computation = compute();
            Box::pin(async move {
                let computed = computation.await.map(Computed::new);
                Product::of(&cache, computed)
            })
        };
        self.compute_once::<T, _>(key, policy.into(), false, begin)
    }

    /// As [`get_or_set`](Self::get_or_set), for a computation that is given the stale value, if there
    /// is one, and says how its own is to be kept.
    ///
    /// # Errors
    ///
    /// As [`get_or_set`](Self::get_or_set).
    ///
    /// # Cancel safety
    ///
    /// As [`get_or_set`](Self::get_or_set).
    ///
    /// # Panics
    ///
    /// As [`get_or_set`](Self::get_or_set).
    ///
    /// # Example
    ///
    /// ```
    /// # #[cfg(feature = "memory")]
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> axum_cache::Result<()> {
    /// use std::{io, time::Duration};
    /// use axum_cache::{Cache, Computed, backend::Memory};
    ///
    /// let cache = Cache::new(Memory::new());
    /// let hour = Duration::from_secs(3600);
    /// let user: Option<String> = cache
    ///     .get_or_set_with("user:7", hour, |_previous| async {
    ///         // Nobody of that number: ask again in a minute.
    ///         Ok::<_, io::Error>(Computed::new(None).ttl(Duration::from_secs(60)).tags(["users"]))
    ///     })
    ///     .await?;
    /// assert_eq!(user, None);
    /// # Ok(()) }
    /// # #[cfg(not(feature = "memory"))] fn main() {}
    /// ```
    pub fn get_or_set_with<T, E, F, Fut>(
        &self,
        key: &str,
        policy: impl Into<Policy>,
        compute: F,
    ) -> impl Future<Output = Result<T>> + Send
    where
        T: Serialize + DeserializeOwned,
        E: Into<BoxError>,
        F: FnOnce(Option<T>) -> Fut + Send,
        Fut: Future<Output = Result<Computed<T>, E>> + Send + 'static,
    {
        let cache = self.clone();
        let begin = move |previous: Option<Entry>| -> Computation {
            let previous = previous.and_then(|entry| cache.decode(&entry).ok());
            let computation = compute(previous);
            Box::pin(async move {
                let computed = computation.await;
                Product::of(&cache, computed)
            })
        };
        self.compute_once::<T, _>(key, policy.into(), true, begin)
    }

    async fn compute_once<T, F>(
        &self,
        key: &str,
        policy: Policy,
        tags_late: bool,
        compute: F,
    ) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
        F: FnOnce(Option<Entry>) -> Computation + Send,
    {
        self.tags.check()?;
        let key = self.final_key(key)?;
        let ask = Ask {
            cache: self,
            key: &key,
            policy: &policy,
            decodes: |cache, entry| cache.decode::<T>(entry).is_ok(),
            tags_late,
            came: self.shared.flights.came(),
        };
        let landings = ask.flights().landings();
        let look = ask.look_up().await?;
        if let Found::Fresh(value) = &look.found
            && !ask.is_due(value)
            && let Ok(decoded) = self.decode(&value.entry)
        {
            observe::outcome(self.named(), OPERATION, Outcome::Hit, "");
            return Ok(decoded);
        }
        // Boxed, so that the future of a hit is small.
        let compute = &mut Some(compute);
        let entry = Box::pin(ask.answer(compute, (look, landings))).await?;
        self.decode(&entry)
    }
}

impl Ask<'_> {
    async fn answer<F>(&self, compute: &mut Compute<F>, first: (Look, u64)) -> Result<Entry>
    where
        F: FnOnce(Option<Entry>) -> Computation + Send,
    {
        let mut looked = first;
        for _ in 0..ROUNDS {
            let before = match self.use_or_refresh(compute, looked) {
                Ok(value) => return Ok(value.entry),
                Err(before) => before,
            };
            let waiter = self.waiter(&before);
            if let Some(ended) = waiter.failed_before() {
                return ended;
            }
            let (follower, leads) = match self.enter() {
                Role::Follower(follower) if computes(self.cache, self.key) => {
                    drop(follower);
                    return self.alone(compute, before).await;
                }
                Role::Follower(follower) => (follower, false),
                Role::Leader(landing) => {
                    let follower = landing.follower();
                    self.lead(compute, landing, &before, None);
                    (follower, true)
                }
            };
            // A batch that has made nothing of it has not asked this computation.
            if let Some(outcome) = waiter.wait(follower, leads, Instant::now()).await
                && let Some(ended) = outcome.transpose()
            {
                return ended;
            }
            let landings = self.flights().landings();
            looked = (self.look_up().await?, landings);
        }
        let before = match self.use_or_refresh(compute, looked) {
            Ok(value) => return Ok(value.entry),
            Err(before) => before,
        };
        self.alone(compute, before).await
    }

    fn flights(&self) -> &Arc<Flights<Outcomes>> {
        &self.cache.shared.flights
    }

    /// Leads the computation of this key, or follows who does.
    fn enter(&self) -> Role<Outcomes> {
        let (key, tags) = (self.key.as_str(), &self.cache.tags);
        self.flights().enter_tagged(key, tags, self.tags_late)
    }

    fn waiter<'a>(&'a self, before: &'a Before) -> Waiter<'a> {
        Waiter {
            cache: self.cache,
            key: self.key,
            policy: self.policy,
            fallback: before.fallback.as_ref(),
            came: self.came,
            is_unavailable: before.is_unavailable,
            operation: OPERATION,
        }
    }

    /// What is there and what it is worth.
    async fn look_up(&self) -> Result<Look> {
        match self.cache.look(self.key).await {
            Ok(look) => Ok(look.having(&self.cache.tags)),
            Err(error) => {
                let fail_closed = self.policy.fail_closed;
                self.cache.go_on(OPERATION, error, fail_closed)?;
                Ok(Look::nothing(UNAVAILABLE))
            }
        }
    }

    /// What is there, if it may be served; a refresh is begun where it is due.
    fn use_or_refresh<F>(
        &self,
        compute: &mut Compute<F>,
        (look, landings): (Look, u64),
    ) -> Result<Value, Before>
    where
        F: FnOnce(Option<Entry>) -> Computation + Send,
    {
        let name = self.cache.named();
        let before = |raw, fallback, is_unavailable| Before {
            raw,
            fallback,
            landings,
            is_unavailable,
        };
        let (outcome, reason, answer) = match look.found {
            Found::Fresh(value) if self.is_usable(&value) => {
                if self.is_due(&value) {
                    self.refresh(compute, look.raw, &value, landings);
                }
                (Outcome::Hit, "", Ok(value))
            }
            Found::Stale {
                value,
                while_revalidate: true,
                ..
            } if self.is_usable(&value) => {
                self.refresh(compute, look.raw, &value, landings);
                (Outcome::Hit, "stale", Ok(value))
            }
            Found::Stale {
                value,
                if_error: true,
                ..
            } if self.is_usable(&value) => (
                Outcome::Miss,
                "stale",
                Err(before(look.raw, Some(value), false)),
            ),
            Found::Fresh(_) | Found::Stale { .. } => {
                observe::corrupt(name, OPERATION, "undecodable");
                (Outcome::Miss, "corrupt", Err(before(look.raw, None, false)))
            }
            Found::Foreign => (Outcome::Miss, "foreign", Err(before(look.raw, None, false))),
            Found::Nothing(reason) => {
                let raw = look.raw.filter(|raw| !is_lease(raw.bytes()));
                let is_unavailable = reason == UNAVAILABLE;
                (
                    Outcome::Miss,
                    reason,
                    Err(before(raw, None, is_unavailable)),
                )
            }
        };
        observe::outcome(name, OPERATION, outcome, reason);
        answer
    }

    fn is_usable(&self, value: &Value) -> bool {
        (self.decodes)(self.cache, &value.entry)
    }

    fn is_due(&self, value: &Value) -> bool {
        let stamp = value.record.as_ref().map(|record| &record.stamp);
        let ahead = self.policy.refresh_ahead.zip(stamp);
        ahead.is_some_and(|(ahead, stamp)| ahead.is_due(stamp, self.cache.clock().now(), chance()))
    }

    /// Computes anew in the background, unless somebody does, or it has just failed, or there is too
    /// much to do already.
    fn refresh<F>(&self, compute: &mut Compute<F>, raw: Option<Entry>, value: &Value, landings: u64)
    where
        F: FnOnce(Option<Entry>) -> Computation + Send,
    {
        let now = self.cache.clock().monotonic();
        if self.cache.shared.failures.throttle(self.key.as_str(), now) {
            return;
        }
        let Some(permit) = self.cache.shared.background.refresh() else {
            observe::outcome(self.cache.named(), "refresh", Outcome::Bypass, "busy");
            return;
        };
        if let Role::Leader(landing) = self.enter() {
            let before = Before {
                raw,
                fallback: Some(value.clone()),
                landings,
                is_unavailable: false,
            };
            self.lead(compute, landing, &before, Some(permit));
        }
    }

    /// Begins the computation in a task of its own.
    fn lead<F>(
        &self,
        compute: &mut Compute<F>,
        landing: Landing<Outcomes>,
        before: &Before,
        permit: Option<OwnedSemaphorePermit>,
    ) where
        F: FnOnce(Option<Entry>) -> Computation + Send,
    {
        // One that ended since we looked may have been of this key.
        let look_again = self.flights().landings() != before.landings;
        let making = self.making(before, look_again);
        let Some(room) = self.cache.room() else {
            return landing.land(making.overloaded());
        };
        let Some(compute) = compute.take() else {
            return;
        };
        let previous = before.fallback.as_ref().map(|value| value.entry.clone());
        let nested = Nested::new(self.cache, [self.key.clone()], &room);
        let computation = nested.begin(|| compute(previous));
        let task = nested.run(async move {
            let made = making.run(computation, Some(&landing), room).await;
            drop(permit);
            landing.land(made);
        });
        let task = observe::in_current_span(task);
        assert!(
            self.cache.shared.background.spawn(task),
            "a computation needs a Tokio runtime"
        );
    }

    fn making(&self, before: &Before, look_again: bool) -> Making {
        Making {
            cache: self.cache.unhurried(),
            key: self.key.clone(),
            began: self.flights().mark(),
            fill: self.cache.begin_fill(self.key),
            policy: *self.policy,
            found: before.raw.clone(),
            is_unavailable: before.is_unavailable,
            look_again,
            decodes: self.decodes,
            tags_late: self.tags_late,
        }
    }

    /// Computes for this caller alone: whoever it could wait for waits for it.
    async fn alone<F>(&self, compute: &mut Compute<F>, before: Before) -> Result<Entry>
    where
        F: FnOnce(Option<Entry>) -> Computation + Send,
    {
        let Some(compute) = compute.take() else {
            return Err(Error::new(ErrorKind::Compute)
                .with_message("the computation of this key was invalidated again and again"));
        };
        let Some(room) = self.cache.room() else {
            let overloaded = || ErrorKind::Overloaded.into();
            return self.waiter(&before).instead().ok_or_else(overloaded);
        };
        let mut making = self.making(&before, false);
        // The lease may be that of the computation this one is part of.
        making.policy.lease = None;
        let previous = before.fallback.as_ref().map(|value| value.entry.clone());
        let nested = Nested::new(self.cache, [self.key.clone()], &room);
        let computation = nested.begin(|| compute(previous));
        let running = nested.run(making.run(computation, None, room));
        let outcome = match self.policy.hard_timeout {
            None => running.await.outcome,
            Some(hard) => match tokio::time::timeout(hard, running).await {
                Ok(made) => made.outcome,
                Err(_) => Err(ErrorKind::ComputeTimeout.into()),
            },
        };
        match outcome {
            Ok(made) => made.ok_or_else(|| ErrorKind::Compute.into()),
            Err(error) => self.waiter(&before).instead().ok_or(error),
        }
    }
}
