//! A store that may be away: nobody waits for it, and what it has missed is made up for before it is read.
//!
//! # Invariants
//!
//! - While the store does not answer, calls fail at once; one task asks it whether it is back, about keys
//!   of the namespace that is in use.
//! - What could not be removed or replaced is owed, also if its caller went away: it is not read before it
//!   has been removed. Only the end of the process forgets that.
//! - Nothing is removed that belongs to others. What is owed is bounded: of too many keys, their
//!   namespaces are.

mod circuit;
mod debts;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use self::circuit::{Circuit, State, is_outage};
use self::debts::{Beginning, Debts};
use super::{Backend, Capabilities, Peek};
use crate::entry::Entry;
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::ttl::Lifetime;

const AWAY: &str = "the store was away a moment ago";
const OWED: &str = "the store was away, and has not removed yet what was here";

/// A circuit breaker in front of a store on a network.
///
/// When a call [times out](ErrorKind::Timeout) or the store is [unavailable](ErrorKind::Unavailable), it
/// is asked in the background whether it answers, and until it does all calls fail at once. So a site
/// whose store hangs waits for one deadline, not for one for each call. When the store has answered for
/// [some time](CircuitBreakerBuilder::recovery), it is used again: by then the other nodes that share it
/// have found it, too.
///
/// What could not be removed or replaced is removed as soon as the store is back, and not read before:
/// nothing comes back that was deleted while the store was away, or invalidated by its tag. The call
/// itself fails nevertheless. This is remembered by the process; one that is killed before leaves what
/// it owed to live as long as its TTL says. What is removed late is not announced to the near tiers of
/// other nodes, which keep what they have read meanwhile for as long as they keep anything.
///
/// A node that asks for nothing while the store is away does not know of it: what it reads first may be what
/// another node has yet to remove.
///
/// Several Memcached servers behind one breaker go away one by one: reads of a server that is away are
/// misses anyway, and its writes alone are not enough to stop using the others.
///
/// [`Caches`](crate::Caches) that come from settings have one in front of each store on a network.
///
/// # Example
///
/// ```
/// use axum_cache::Cache;
/// use axum_cache::backend::{CircuitBreaker, Dummy};
///
/// let store = CircuitBreaker::new(Dummy); // in real life, one on a network
/// assert!(!store.is_open());
/// let cache = Cache::new(store);
/// ```
///
/// # Django
///
/// None.
#[derive(Debug)]
pub struct CircuitBreaker<B> {
    circuit: Arc<Circuit<B>>,
}

/// Options of a [`CircuitBreaker`].
#[derive(Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct CircuitBreakerBuilder<B> {
    store: B,
    recovery: Duration,
    max_owed: usize,
}

impl<B> Clone for CircuitBreaker<B> {
    fn clone(&self) -> Self {
        Self {
            circuit: Arc::clone(&self.circuit),
        }
    }
}

impl<B: Backend> CircuitBreaker<B> {
    /// In front of `store`, with the defaults.
    pub fn new(store: B) -> Self {
        Self::builder(store).build()
    }

    /// Sets options first.
    pub fn builder(store: B) -> CircuitBreakerBuilder<B> {
        CircuitBreakerBuilder {
            store,
            recovery: Duration::from_secs(1),
            max_owed: 10_000,
        }
    }

    /// Whether calls fail at once, as the store did not answer.
    pub fn is_open(&self) -> bool {
        self.circuit.state() == State::Open
    }

    fn store(&self) -> &B {
        &self.circuit.store
    }

    /// What a call of these keys meets.
    fn meet<'a>(
        &self,
        operation: &'static str,
        keys: impl IntoIterator<Item = &'a Key>,
    ) -> Result<Meets> {
        match self.circuit.state() {
            State::Closed => Ok(Meets::All),
            State::Owing => {
                let debts = self.circuit.debts();
                let owed = keys.into_iter().map(|key| debts.covers(key)).collect();
                Ok(Meets::AllBut(owed))
            }
            State::Open => {
                // A task that does so may have ended with its runtime.
                self.circuit.mend();
                Err(self.refused(operation, AWAY))
            }
        }
    }

    fn refused(&self, operation: &'static str, why: &'static str) -> Error {
        let error = Error::new(ErrorKind::Unavailable).with_message(why);
        error.at(self.store().name(), operation)
    }

    /// Runs a call after which nothing is to be made up for.
    async fn ask<T>(&self, namespace: &str, call: impl Future<Output = Result<T>>) -> Result<T> {
        let outcome = call.await;
        if outcome.as_ref().is_err_and(is_outage) {
            self.circuit.alarm(namespace);
        } else {
            self.circuit.has_answered();
        }
        outcome
    }

    /// Runs a call that would be of what is still there, if that is owed.
    async fn ask_of<T>(
        &self,
        operation: &'static str,
        keys: &[&Key],
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        if self.meet(operation, keys.iter().copied())?.owes_any() {
            return Err(self.refused(operation, OWED));
        }
        self.ask(namespace(keys.iter().copied()), call).await
    }

    /// Runs a call after which something is not there any more; if it fails, or its caller goes away,
    /// that is owed.
    async fn remove<T>(
        &self,
        operation: &'static str,
        namespace: &str,
        call: impl Future<Output = Result<T>>,
        owe: impl FnOnce(&mut Debts),
    ) -> Result<T> {
        let mut removal = Removal {
            circuit: &self.circuit,
            owe: Some(owe),
        };
        let outcome = match self.meet(operation, []) {
            Ok(_) => call.await,
            Err(error) => Err(error),
        };
        if !outcome.as_ref().is_err_and(is_outage) {
            self.circuit.has_answered();
            removal.owe = None;
            return outcome;
        }
        drop(removal);
        self.circuit.alarm(namespace);
        outcome
    }
}

/// What a call of some keys meets.
enum Meets {
    All,
    /// Of each key, whether it is owed.
    AllBut(Vec<bool>),
}

impl Meets {
    fn owes_any(&self) -> bool {
        matches!(self, Self::AllBut(owed) if owed.contains(&true))
    }
}

/// Something that is being removed: owed, unless it is known to have been.
struct Removal<'a, B: Backend, F: FnOnce(&mut Debts)> {
    circuit: &'a Arc<Circuit<B>>,
    owe: Option<F>,
}

impl<B: Backend, F: FnOnce(&mut Debts)> Drop for Removal<'_, B, F> {
    fn drop(&mut self) {
        if let Some(owe) = self.owe.take() {
            self.circuit.owe(owe);
            self.circuit.mend();
        }
    }
}

fn namespace<'a>(keys: impl IntoIterator<Item = &'a Key>) -> &'a str {
    keys.into_iter().next().map_or("", Key::namespace)
}

impl<B: Backend> CircuitBreakerBuilder<B> {
    /// How long nodes wait for each other: a store that is away is asked again after a quarter of it at
    /// most, and has to have answered for one and a quarter before it is used again. One second by default; set
    /// it alike on all nodes, and no shorter than making a connection may take.
    pub fn recovery(mut self, recovery: Duration) -> Self {
        self.recovery = recovery;
        self
    }

    /// How many keys are remembered at most that are to be removed. Of more, their caches are
    /// [cleared](crate::Cache::clear). 10,000 by default.
    pub fn max_owed(mut self, keys: usize) -> Self {
        self.max_owed = keys;
        self
    }

    /// Puts the breaker in front of the store.
    pub fn build(self) -> CircuitBreaker<B> {
        CircuitBreaker {
            circuit: Circuit::new(self.store, self.recovery, self.max_owed),
        }
    }
}

#[deny(clippy::missing_trait_methods)]
impl<B: Backend> Backend for CircuitBreaker<B> {
    fn name(&self) -> &'static str {
        self.store().name()
    }

    fn capabilities(&self) -> Capabilities {
        self.store().capabilities()
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        if self.meet("get", [key])?.owes_any() {
            return Ok(None);
        }
        self.ask(key.namespace(), self.store().get(key)).await
    }

    async fn set(&self, key: &Key, entry: Entry, lifetime: Lifetime) -> Result<()> {
        let call = self.store().set(key, entry, lifetime);
        let owe = |debts: &mut Debts| debts.owe_key(key);
        self.remove("set", key.namespace(), call, owe).await
    }

    async fn add(&self, key: &Key, entry: Entry, lifetime: Lifetime) -> Result<bool> {
        let call = self.store().add(key, entry, lifetime);
        self.ask_of("add", &[key], call).await
    }

    async fn touch(&self, key: &Key, lifetime: Lifetime) -> Result<bool> {
        let call = self.store().touch(key, lifetime);
        self.ask_of("touch", &[key], call).await
    }

    async fn delete(&self, key: &Key) -> Result<bool> {
        let call = self.store().delete(key);
        let owe = |debts: &mut Debts| debts.owe_key(key);
        self.remove("delete", key.namespace(), call, owe).await
    }

    async fn incr(&self, key: &Key, delta: i64) -> Result<i64> {
        let call = self.store().incr(key, delta);
        self.ask_of("incr", &[key], call).await
    }

    async fn rename(&self, from: &Key, to: &Key) -> Result<bool> {
        let call = self.store().rename(from, to);
        self.ask_of("rename", &[from, to], call).await
    }

    async fn ttl(&self, key: &Key) -> Result<Option<Lifetime>> {
        if self.meet("ttl", [key])?.owes_any() {
            return Ok(None);
        }
        self.ask(key.namespace(), self.store().ttl(key)).await
    }

    async fn clear(&self, namespace: &str) -> Result<()> {
        let owe = |debts: &mut Debts| debts.owe(Beginning::Namespace(namespace.to_owned()));
        let call = self.store().clear(namespace);
        self.remove("clear", namespace, call, owe).await
    }

    async fn flush_store(&self) -> Result<()> {
        // It is not made up for: it would take what others have stored since.
        self.ask_of("flush_store", &[], self.store().flush_store())
            .await
    }

    async fn compare_and_set(
        &self,
        key: &Key,
        expected: &Entry,
        entry: Entry,
        lifetime: Lifetime,
    ) -> Result<bool> {
        let call = self.store().compare_and_set(key, expected, entry, lifetime);
        self.ask_of("compare_and_set", &[key], call).await
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Entry>>> {
        let meets = self.meet("get_many", keys)?;
        let mut entries = self
            .ask(namespace(keys), self.store().get_many(keys))
            .await?;
        if let Meets::AllBut(owed) = meets {
            for (entry, is_owed) in entries.iter_mut().zip(owed) {
                entry.take_if(|_| is_owed);
            }
        }
        Ok(entries)
    }

    async fn set_many(&self, items: Vec<(Key, Entry, Lifetime)>) -> Result<Vec<Result<()>>> {
        let keys: Vec<Key> = items.iter().map(|(key, ..)| key.clone()).collect();
        let owe = |debts: &mut Debts| debts.owe_keys(&keys);
        let call = self.store().set_many(items);
        let namespace = namespace(&keys);
        let outcomes = self.remove("set_many", namespace, call, owe).await?;
        let is_lost = |outcome: &Result<()>| outcome.as_ref().is_err_and(is_outage);
        if outcomes.iter().any(is_lost) {
            let of_keys = keys.iter().zip(&outcomes);
            let lost = of_keys.filter(|(_, outcome)| is_lost(outcome));
            self.circuit
                .owe(|debts| debts.owe_keys(lost.map(|(key, _)| key)));
            self.circuit.alarm(namespace);
        }
        Ok(outcomes)
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<u64> {
        let owe = |debts: &mut Debts| debts.owe_keys(keys);
        let call = self.store().delete_many(keys);
        let namespace = namespace(keys);
        self.remove("delete_many", namespace, call, owe).await
    }

    async fn delete_prefix(&self, prefix: &str) -> Result<u64> {
        if !self.capabilities().deletes_prefixes {
            return self.store().delete_prefix(prefix).await;
        }
        let owe = |debts: &mut Debts| debts.owe(Beginning::Prefix(prefix.to_owned()));
        let call = self.store().delete_prefix(prefix);
        self.remove("delete_prefix", prefix, call, owe).await
    }

    fn peek(&self, key: &Key) -> Peek {
        match self.circuit.state() {
            State::Closed => self.store().peek(key),
            State::Owing | State::Open => Peek::Declined,
        }
    }

    fn history(&self) -> u64 {
        self.store().history()
    }

    async fn learn_history(&self) {
        if self.circuit.state() != State::Open {
            self.store().learn_history().await;
        }
    }

    async fn close(&self) -> Result<()> {
        self.store().close().await
    }
}
