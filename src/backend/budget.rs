//! How long one request waits for its stores in all.
//!
//! # Invariants
//!
//! - Time in which several calls wait at once counts once.
//! - What removes or replaces is not cut off, nor left out: it has the deadline of an operation alone. A
//!   request that has waited too long reads nothing any more, but what it invalidates is invalidated.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{AnyBackend, Backend, Capabilities, DynBackend, Peek};
use crate::entry::Entry;
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::ttl::Lifetime;

/// How long calls have waited together.
#[derive(Debug, Default)]
pub(crate) struct Waited(Mutex<Waits>);

#[derive(Debug, Default)]
struct Waits {
    /// Until the last call that is over.
    before: Duration,
    /// How many calls wait, and since when at least one does.
    calls: usize,
    since: Option<Instant>,
}

/// A call that waits.
struct Waiting<'a>(&'a Waited);

impl Waited {
    fn lock(&self) -> MutexGuard<'_, Waits> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call begins to wait. How long it may, if all may for `budget`.
    fn begin(&self, budget: Duration) -> (Waiting<'_>, Duration) {
        let mut waits = self.lock();
        let now = Instant::now();
        let since = *waits.since.get_or_insert(now);
        waits.calls += 1;
        let spent = waits.before + (now - since);
        (Waiting(self), budget.saturating_sub(spent))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waits = self.0.lock();
        waits.calls -= 1;
        if waits.calls == 0
            && let Some(since) = waits.since.take()
        {
            waits.before += since.elapsed();
        }
    }
}

/// A store that is waited for no longer than a budget, by all who share what they have waited.
#[derive(Debug)]
pub(crate) struct Budgeted {
    store: AnyBackend,
    waited: Arc<Waited>,
    budget: Duration,
}

impl Budgeted {
    pub(crate) fn new(store: AnyBackend, waited: Arc<Waited>, budget: Duration) -> Self {
        Self {
            store,
            waited,
            budget,
        }
    }

    fn store(&self) -> &dyn DynBackend {
        self.store.as_dyn()
    }

    async fn wait<T>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let (_waiting, left) = self.waited.begin(self.budget);
        if !left.is_zero()
            && let Ok(outcome) = timeout(left, call).await
        {
            return outcome;
        }
        Err(Error::new(ErrorKind::Timeout)
            .with_message("the request has waited for its caches as long as it may")
            .at(self.store().name(), operation))
    }
}

#[deny(clippy::missing_trait_methods)]
impl Backend for Budgeted {
    fn name(&self) -> &'static str {
        self.store().name()
    }

    fn capabilities(&self) -> Capabilities {
        self.store().capabilities()
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        self.wait("get", self.store().get(key)).await
    }

    async fn set(&self, key: &Key, entry: Entry, lifetime: Lifetime) -> Result<()> {
        self.store().set(key, entry, lifetime).await
    }

    async fn add(&self, key: &Key, entry: Entry, lifetime: Lifetime) -> Result<bool> {
        let call = self.store().add(key, entry, lifetime);
        self.wait("add", call).await
    }

    async fn touch(&self, key: &Key, lifetime: Lifetime) -> Result<bool> {
        self.wait("touch", self.store().touch(key, lifetime)).await
    }

    async fn delete(&self, key: &Key) -> Result<bool> {
        self.store().delete(key).await
    }

    async fn incr(&self, key: &Key, delta: i64) -> Result<i64> {
        self.wait("incr", self.store().incr(key, delta)).await
    }

    async fn rename(&self, from: &Key, to: &Key) -> Result<bool> {
        self.store().rename(from, to).await
    }

    async fn ttl(&self, key: &Key) -> Result<Option<Lifetime>> {
        self.wait("ttl", self.store().ttl(key)).await
    }

    async fn clear(&self, namespace: &str) -> Result<()> {
        self.store().clear(namespace).await
    }

    async fn flush_store(&self) -> Result<()> {
        self.store().flush_store().await
    }

    async fn compare_and_set(
        &self,
        key: &Key,
        expected: &Entry,
        entry: Entry,
        lifetime: Lifetime,
    ) -> Result<bool> {
        let store = self.store();
        store.compare_and_set(key, expected, entry, lifetime).await
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Entry>>> {
        self.wait("get_many", self.store().get_many(keys)).await
    }

    async fn set_many(&self, items: Vec<(Key, Entry, Lifetime)>) -> Result<Vec<Result<()>>> {
        self.store().set_many(items).await
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<u64> {
        self.store().delete_many(keys).await
    }

    async fn delete_prefix(&self, prefix: &str) -> Result<u64> {
        self.store().delete_prefix(prefix).await
    }

    fn peek(&self, key: &Key) -> Peek {
        self.store().peek(key)
    }

    fn history(&self) -> u64 {
        self.store().history()
    }

    async fn learn_history(&self) {
        self.store().learn_history().await;
    }

    async fn close(&self) -> Result<()> {
        self.store().close().await
    }
}
