//! Batches of computations: one for all keys that are missing, and each key once at a time.
//!
//! # Invariants
//!
//! - A batch computes the keys that it leads before it waits for those that others compute, and so no
//!   two batches wait for each other. For the same reason it waits for no lease of another process,
//!   unless it leads one key only.
//! - Between entering a flight and beginning its computation, nothing can fail.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Cache;
use super::compute::{Outcomes, UNAVAILABLE};
use super::computed::Computed;
use super::fenced::hold;
use super::leading::{Led, as_one, begin, end};
use super::look::{Found, Look, Value};
use super::making::{Making, Product};
use super::nested::{Nested, computes};
use super::waiting::Waiter;
use crate::entry::{Entry, is_lease};
use crate::error::{BoxError, Error, ErrorKind, Result};
use crate::flight::{Follower, Landing, Moment, Role};
use crate::key::Key;
use crate::observe::{self, Outcome};
use crate::policy::Policy;

const OPERATION: &str = "get_or_set_many";

/// How often a batch waits for the computations of others before it computes for itself.
const ROUNDS: usize = 4;

/// A key without a fresh value.
struct Missing {
    key: Key,
    /// The store did not answer.
    is_unavailable: bool,
    /// What was found there, which is not used.
    found: Option<Entry>,
    /// What may be served if computing fails.
    fallback: Option<Value>,
}

/// What comes of entering a flight.
struct Entered {
    follower: Follower<Outcomes>,
    /// This batch has to compute it.
    landing: Option<Landing<Outcomes>>,
    /// For itself alone.
    is_apart: bool,
}

/// What is known of a batch.
struct Batch<'a, K> {
    cache: &'a Cache,
    policy: Policy,
    /// The caller's spellings of each final key.
    callers: HashMap<Key, Vec<K>>,
    /// Whether an entry is of the type that is asked for.
    decodes: fn(&Cache, &Entry) -> bool,
    values: HashMap<Key, Entry>,
    /// It does not wait for others any more.
    is_alone: bool,
    /// When the caller came.
    came: Moment,
}

impl Cache {
    /// The values under `keys`, by the caller's keys; `compute` makes those that are missing, all at
    /// once, and they are stored for the next. What it leaves out is left out here, too, and not
    /// stored.
    ///
    /// As with [`get_or_set`](Self::get_or_set), each key is computed once at a time in this process,
    /// by whichever batch or single call came first. Keys that may be served
    /// [stale](Policy::stale_while_revalidate) are computed along with the missing ones, or in the
    /// background if none is missing. `compute` may be called more than once if what others computed
    /// meanwhile was invalidated, or took longer than the policy's lock timeout. All the timeouts
    /// are for the batch, not for each key. A batch that computes several keys does not wait for the
    /// [leases](Policy::lease) of other processes.
    ///
    /// # Errors
    ///
    /// As [`get_or_set`](Self::get_or_set), if any of the keys has no value to serve.
    ///
    /// # Cancel safety
    ///
    /// Safe: the computation goes on and its values are stored.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime with its timer, if anything is missing.
    ///
    /// # Example
    ///
    /// ```
    /// # #[cfg(feature = "memory")]
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> axum_cache::Result<()> {
    /// use std::{collections::HashMap, io, time::Duration};
    /// use axum_cache::{Cache, backend::Memory};
    ///
    /// async fn lengths(words: Vec<&'static str>) -> io::Result<HashMap<&'static str, usize>> {
    ///     Ok(words.into_iter().map(|word| (word, word.len())).collect())
    /// }
    ///
    /// let cache = Cache::new(Memory::new());
    /// let hour = Duration::from_secs(3600);
    /// let found = cache.get_or_set_many(["a", "bcd"], hour, lengths).await?;
    /// assert_eq!(found, HashMap::from([("a", 1), ("bcd", 3)]));
    /// # Ok(()) }
    /// # #[cfg(not(feature = "memory"))] fn main() {}
    /// ```
    pub async fn get_or_set_many<K, T, E, F, Fut>(
        &self,
        keys: impl IntoIterator<Item = K> + Send,
        policy: impl Into<Policy> + Send,
        compute: F,
    ) -> Result<HashMap<K, T>>
    where
        K: AsRef<str> + Clone + Eq + Hash + Send + Sync + 'static,
        T: Serialize + DeserializeOwned + Send + 'static,
        E: Into<BoxError> + Send + 'static,
        F: Fn(Vec<K>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<HashMap<K, T>, E>> + Send + 'static,
    {
        self.tags.check()?;
        let mut callers: HashMap<Key, Vec<K>> = HashMap::new();
        let (spelled, finals) = self.final_keys(keys)?;
        for (caller, key) in spelled.into_iter().zip(finals) {
            callers.entry(key).or_default().push(caller);
        }
        let mut left: Vec<Key> = callers.keys().cloned().collect();
        let batch = &mut Batch {
            cache: self,
            policy: policy.into(),
            decodes: |cache, entry| cache.decode::<T>(entry).is_ok(),
            values: HashMap::with_capacity(callers.len()),
            callers,
            is_alone: false,
            came: self.shared.flights.came(),
        };
        let compute = Arc::new(compute);
        for _ in 0..ROUNDS {
            left = batch.round(left, &compute).await?;
            if left.is_empty() {
                return batch.decoded();
            }
        }
        batch.is_alone = true;
        batch.round(left, &compute).await?;
        batch.decoded()
    }
}

impl<K> Batch<'_, K>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
{
    /// The values by the caller's keys.
    fn decoded<T: DeserializeOwned>(&self) -> Result<HashMap<K, T>> {
        let mut values = HashMap::with_capacity(self.values.len());
        for (key, entry) in &self.values {
            for caller in &self.callers[key] {
                values.insert(caller.clone(), self.cache.decode(entry)?);
            }
        }
        Ok(values)
    }

    /// Answers all keys but those that have to be looked at again.
    async fn round<T, E, F, Fut>(&mut self, keys: Vec<Key>, compute: &Arc<F>) -> Result<Vec<Key>>
    where
        T: Serialize + Send + 'static,
        E: Into<BoxError> + Send + 'static,
        F: Fn(Vec<K>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<HashMap<K, T>, E>> + Send + 'static,
    {
        let landings = self.cache.shared.flights.landings();
        let mut missing = Vec::new();
        let mut stale = Vec::new();
        for (key, look) in self.look(keys).await? {
            if let Some(item) = self.take(key, look, &mut stale) {
                missing.push(item);
            }
        }
        // Before any flight is entered: this batch may end here.
        let mut asked = Vec::with_capacity(missing.len());
        for item in missing {
            let ended = self.waiter(&item).failed_before();
            match ended {
                Some(ended) => drop(self.values.insert(item.key, ended?)),
                None => asked.push(item),
            }
        }
        let mut led = Vec::new();
        let mut waiting = Vec::with_capacity(asked.len());
        for item in asked {
            let entered = self.enter(&item.key);
            let leads = entered.landing.is_some();
            if let Some(landing) = entered.landing {
                let mut one = self.lead(&item, landing, landings);
                if entered.is_apart {
                    // The lease may be that of the computation this one is part of.
                    one.making.policy.lease = None;
                }
                led.push(one);
            }
            waiting.push((item, entered.follower, leads));
        }
        let permit = self.refresh(stale, landings, &mut led);
        if !led.is_empty() {
            self.make(led, Arc::clone(compute), permit);
        }
        let start = Instant::now();
        let mut left = Vec::new();
        for (item, follower, leads) in waiting {
            let outcome = self.waiter(&item).wait(follower, leads, start).await;
            match outcome.transpose()? {
                // What was left out.
                Some(None) => {}
                Some(Some(entry)) => drop(self.values.insert(item.key, entry)),
                None => left.push(item.key),
            }
        }
        Ok(left)
    }

    async fn look(&self, keys: Vec<Key>) -> Result<Vec<(Key, Look)>> {
        let looks = match self.cache.look_many(&keys).await {
            Ok(looks) => looks,
            Err(error) => {
                let fail_closed = self.policy.fail_closed;
                self.cache.go_on(OPERATION, error, fail_closed)?;
                keys.iter().map(|_| Look::nothing(UNAVAILABLE)).collect()
            }
        };
        Ok(keys.into_iter().zip(looks).collect())
    }

    /// Takes the value that was found, or says what is missing; and what is to be refreshed.
    fn take(&mut self, key: Key, look: Look, stale: &mut Vec<Missing>) -> Option<Missing> {
        let name = self.cache.named();
        let look = look.having(&self.cache.tags);
        let found = look.raw.filter(|raw| !is_lease(raw.bytes()));
        let (value, while_revalidate) = match look.found {
            Found::Fresh(value) => (value, true),
            Found::Stale {
                value,
                while_revalidate,
                ..
            } => {
                let item = Missing {
                    key: key.clone(),
                    is_unavailable: false,
                    found: found.clone(),
                    fallback: Some(value.clone()),
                };
                if while_revalidate {
                    stale.push(item);
                } else if (self.decodes)(self.cache, &value.entry) {
                    observe::outcome(name, OPERATION, Outcome::Miss, "stale");
                    return Some(item);
                }
                (value, while_revalidate)
            }
            nothing @ (Found::Foreign | Found::Nothing(_)) => {
                let reason = match nothing {
                    Found::Nothing(reason) => reason,
                    _ => "foreign",
                };
                observe::outcome(name, OPERATION, Outcome::Miss, reason);
                return Some(Missing {
                    key,
                    is_unavailable: reason == UNAVAILABLE,
                    found,
                    fallback: None,
                });
            }
        };
        if while_revalidate && (self.decodes)(self.cache, &value.entry) {
            observe::outcome(name, OPERATION, Outcome::Hit, "");
            self.values.insert(key, value.entry);
            return None;
        }
        stale.retain(|item| item.key != key);
        observe::corrupt(name, OPERATION, "undecodable");
        Some(Missing {
            key,
            is_unavailable: false,
            found,
            fallback: None,
        })
    }

    fn waiter<'a>(&'a self, item: &'a Missing) -> Waiter<'a> {
        Waiter {
            cache: self.cache,
            key: &item.key,
            policy: &self.policy,
            fallback: item.fallback.as_ref(),
            came: self.came,
            is_unavailable: item.is_unavailable,
            operation: OPERATION,
        }
    }

    fn enter(&self, key: &Key) -> Entered {
        let flights = &self.cache.shared.flights;
        let (landing, is_apart) = if self.is_alone {
            (flights.apart(key.as_str()), true)
        } else {
            match self.follow_or_lead(key) {
                Role::Leader(landing) => (landing, false),
                // It would wait for itself.
                Role::Follower(_) if computes(self.cache, key) => {
                    (flights.apart(key.as_str()), true)
                }
                Role::Follower(follower) => {
                    return Entered {
                        follower,
                        landing: None,
                        is_apart: false,
                    };
                }
            }
        };
        Entered {
            follower: landing.follower(),
            landing: Some(landing),
            is_apart,
        }
    }

    fn follow_or_lead(&self, key: &Key) -> Role<Outcomes> {
        let flights = &self.cache.shared.flights;
        flights.enter_tagged(key.as_str(), &self.cache.tags, false)
    }

    fn lead(&self, item: &Missing, landing: Landing<Outcomes>, landings: u64) -> Led {
        let making = Making {
            cache: self.cache.unhurried(),
            key: item.key.clone(),
            began: self.cache.shared.flights.mark(),
            fill: self.cache.begin_fill(&item.key),
            policy: self.policy,
            found: item.found.clone(),
            is_unavailable: item.is_unavailable,
            look_again: self.cache.shared.flights.landings() != landings,
            decodes: self.decodes,
            tags_late: false,
        };
        Led { making, landing }
    }

    /// Adds the stale keys to those that this batch computes, if there is room for them.
    fn refresh(
        &self,
        stale: Vec<Missing>,
        landings: u64,
        led: &mut Vec<Led>,
    ) -> Option<OwnedSemaphorePermit> {
        let now = self.cache.clock().monotonic();
        let failures = &self.cache.shared.failures;
        let is_due = |item: &Missing| !failures.throttle(item.key.as_str(), now);
        let due: Vec<_> = stale.into_iter().filter(is_due).collect();
        if due.is_empty() {
            return None;
        }
        let permit = self.cache.shared.background.refresh();
        if permit.is_none() && led.is_empty() {
            observe::outcome(self.cache.named(), "refresh", Outcome::Bypass, "busy");
            return None;
        }
        for item in due {
            if let Role::Leader(landing) = self.follow_or_lead(&item.key) {
                led.push(self.lead(&item, landing, landings));
            }
        }
        permit
    }

    /// Computes all that this batch leads, in a task of its own.
    fn make<T, E, F, Fut>(
        &self,
        led: Vec<Led>,
        compute: Arc<F>,
        permit: Option<OwnedSemaphorePermit>,
    ) where
        T: Serialize + Send + 'static,
        E: Into<BoxError> + Send + 'static,
        F: Fn(Vec<K>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<HashMap<K, T>, E>> + Send + 'static,
    {
        let cache = self.cache.clone();
        let callers: HashMap<Key, Vec<K>> = led
            .iter()
            .map(|led| led.making.key.clone())
            .map(|key| (key.clone(), self.callers[&key].clone()))
            .collect();
        let Some(room) = cache.room() else {
            for Led { making, landing } in led {
                landing.land(making.overloaded());
            }
            return;
        };
        let keys = led.iter().map(|led| led.making.key.clone());
        let nested = Nested::new(&cache, keys, &room);
        let task = async move {
            let begun = begin(as_one(&cache, led).await).await;
            if begun.is_empty() {
                return;
            }
            let wanted = begun
                .iter()
                .map(|(begun, _)| callers[begun.key()][0].clone());
            let wanted: Vec<K> = wanted.collect();
            let computation = compute(wanted);
            let made = begun[0].0.within_its_time(async {
                let made = computation.await;
                made.map_err(|error| Error::new(ErrorKind::Compute).with_source(error))
            });
            let places = begun.iter().map(|(begun, _)| begun.place());
            let mut made = hold(places, made).await;
            let mut landing = JoinSet::new();
            for (begun, land) in begun {
                let product = match &mut made {
                    Err(error) => Err(error.clone()),
                    Ok(values) => callers[begun.key()]
                        .iter()
                        .find_map(|caller| values.remove(caller))
                        .map(|value| Product::of(&cache, Ok::<_, Error>(Computed::new(value))))
                        .transpose(),
                };
                landing.spawn(end(begun, product, land));
            }
            while landing.join_next().await.is_some() {}
            drop(permit);
        };
        let task = observe::in_current_span(nested.run(task));
        assert!(
            self.cache.shared.background.spawn(task),
            "a computation needs a Tokio runtime"
        );
    }
}
