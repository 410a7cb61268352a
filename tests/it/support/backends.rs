//! Backends round a real memory store: one counts what is asked of it, one can be broken.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum_cache::backend::{Backend, Capabilities, Memory, Peek};
use axum_cache::entry::Entry;
use axum_cache::key::Key;
use axum_cache::ttl::Lifetime;
use axum_cache::{ErrorKind, Result};

/// Forwards everything to memory by async calls, as a store on another machine would be asked,
/// and counts the calls. Entries are made anew from their bytes, so nothing decoded is shared.
#[derive(Clone, Debug, Default)]
pub(crate) struct Remote {
    inner: Memory,
    calls: Arc<Mutex<BTreeMap<&'static str, usize>>>,
    broken: Arc<AtomicBool>,
    /// After how many calls it breaks; none at zero.
    breaks_after: Arc<AtomicUsize>,
    /// What it says of itself.
    is_shared: bool,
    /// How long a call takes.
    delay: Arc<Mutex<Duration>>,
    next: Arc<Mutex<Option<Entry>>>,
}

impl Remote {
    /// Over this store.
    pub(crate) fn over(inner: Memory) -> Self {
        Self {
            inner,
            ..Self::default()
        }
    }

    /// One that says that other processes use it, too.
    pub(crate) fn shared() -> Self {
        Self::default().into_shared()
    }

    pub(crate) fn into_shared(mut self) -> Self {
        self.is_shared = true;
        self
    }

    /// Lets every call take so long from now on.
    pub(crate) fn delay(&self, delay: Duration) {
        *self.delay.lock().unwrap_or_else(PoisonError::into_inner) = delay;
    }

    /// The calls since the last time this was asked, by name.
    pub(crate) fn take_calls(&self) -> Vec<(&'static str, usize)> {
        std::mem::take(&mut *self.calls()).into_iter().collect()
    }

    /// Lets the next `get` find this, as if it had been there when it was asked.
    pub(crate) fn answer_next_get(&self, entry: Option<Entry>) {
        *self.next() = entry;
    }

    /// Whether every call fails from now on.
    pub(crate) fn set_broken(&self, broken: bool) {
        self.broken.store(broken, Ordering::SeqCst);
    }

    /// So many calls succeed yet.
    pub(crate) fn break_after(&self, calls: usize) {
        self.breaks_after.store(calls + 1, Ordering::SeqCst);
    }

    fn calls(&self) -> MutexGuard<'_, BTreeMap<&'static str, usize>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> MutexGuard<'_, Option<Entry>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn call(&self, name: &'static str) -> Result<()> {
        let delay = *self.delay.lock().unwrap_or_else(PoisonError::into_inner);
        if delay.is_zero() {
            tokio::task::yield_now().await;
        } else {
            tokio::time::sleep(delay).await;
        }
        *self.calls().entry(name).or_default() += 1;
        let left = self.breaks_after.load(Ordering::SeqCst);
        if left > 0 {
            self.breaks_after.store(left - 1, Ordering::SeqCst);
            if left == 1 {
                self.set_broken(true);
            }
        }
        if self.broken.load(Ordering::SeqCst) {
            return Err(ErrorKind::Unavailable.into());
        }
        Ok(())
    }
}

fn anew(entry: &Entry) -> Entry {
    Entry::new(entry.bytes().clone())
}

#[deny(clippy::missing_trait_methods)]
impl Backend for Remote {
    fn name(&self) -> &'static str {
        "remote"
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = self.inner.capabilities();
        capabilities.shared = self.is_shared;
        capabilities
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        self.call("get").await?;
        let next = self.next().take();
        if next.is_some() {
            return Ok(next);
        }
        Ok(self.inner.get(key).await?.as_ref().map(anew))
    }

    async fn set(&self, key: &Key, entry: Entry, lifetime: Lifetime) -> Result<()> {
        self.call("set").await?;
        self.inner.set(key, anew(&entry), lifetime).await
    }

    async fn add(&self, key: &Key, entry: Entry, lifetime: Lifetime) -> Result<bool> {
        self.call("add").await?;
        self.inner.add(key, anew(&entry), lifetime).await
    }

    async fn touch(&self, key: &Key, lifetime: Lifetime) -> Result<bool> {
        self.call("touch").await?;
        self.inner.touch(key, lifetime).await
    }

    async fn delete(&self, key: &Key) -> Result<bool> {
        self.call("delete").await?;
        self.inner.delete(key).await
    }

    async fn incr(&self, key: &Key, delta: i64) -> Result<i64> {
        self.call("incr").await?;
        self.inner.incr(key, delta).await
    }

    async fn rename(&self, from: &Key, to: &Key) -> Result<bool> {
        self.call("rename").await?;
        self.inner.rename(from, to).await
    }

    async fn ttl(&self, key: &Key) -> Result<Option<Lifetime>> {
        self.call("ttl").await?;
        self.inner.ttl(key).await
    }

    async fn clear(&self, namespace: &str) -> Result<()> {
        self.call("clear").await?;
        self.inner.clear(namespace).await
    }

    async fn flush_store(&self) -> Result<()> {
        self.call("flush_store").await?;
        self.inner.flush_store().await
    }

    async fn compare_and_set(
        &self,
        key: &Key,
        expected: &Entry,
        entry: Entry,
        lifetime: Lifetime,
    ) -> Result<bool> {
        self.call("compare_and_set").await?;
        self.inner
            .compare_and_set(key, expected, anew(&entry), lifetime)
            .await
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Entry>>> {
        self.call("get_many").await?;
        let entries = self.inner.get_many(keys).await?;
        Ok(entries
            .iter()
            .map(|entry| entry.as_ref().map(anew))
            .collect())
    }

    async fn set_many(&self, items: Vec<(Key, Entry, Lifetime)>) -> Result<Vec<Result<()>>> {
        self.call("set_many").await?;
        self.inner.set_many(items).await
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<u64> {
        self.call("delete_many").await?;
        self.inner.delete_many(keys).await
    }

    async fn delete_prefix(&self, prefix: &str) -> Result<u64> {
        self.call("delete_prefix").await?;
        self.inner.delete_prefix(prefix).await
    }

    fn peek(&self, _: &Key) -> Peek {
        Peek::Declined
    }

    async fn close(&self) -> Result<()> {
        self.call("close").await
    }
}

/// Memory by the required methods alone, so that the provided ones are what answers.
#[derive(Clone, Debug)]
pub(crate) struct Provided(pub(crate) Memory);

impl Backend for Provided {
    fn name(&self) -> &'static str {
        "provided"
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = self.0.capabilities();
        capabilities.deletes_prefixes = false;
        capabilities.compares = false;
        capabilities
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        self.0.get(key).await
    }

    async fn set(&self, key: &Key, entry: Entry, lifetime: Lifetime) -> Result<()> {
        self.0.set(key, entry, lifetime).await
    }

    async fn add(&self, key: &Key, entry: Entry, lifetime: Lifetime) -> Result<bool> {
        self.0.add(key, entry, lifetime).await
    }

    async fn touch(&self, key: &Key, lifetime: Lifetime) -> Result<bool> {
        self.0.touch(key, lifetime).await
    }

    async fn delete(&self, key: &Key) -> Result<bool> {
        self.0.delete(key).await
    }

    async fn incr(&self, key: &Key, delta: i64) -> Result<i64> {
        self.0.incr(key, delta).await
    }

    async fn rename(&self, from: &Key, to: &Key) -> Result<bool> {
        self.0.rename(from, to).await
    }

    async fn ttl(&self, key: &Key) -> Result<Option<Lifetime>> {
        self.0.ttl(key).await
    }

    async fn clear(&self, namespace: &str) -> Result<()> {
        self.0.clear(namespace).await
    }

    async fn flush_store(&self) -> Result<()> {
        self.0.flush_store().await
    }
}
