//! A store that records what it is asked, and fails as it is told.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::fault::{Change, Fault, Operation, Troubles};
use crate::backend::{Backend, Capabilities, Peek};
use crate::entry::Entry;
use crate::error::{Error, Result};
use crate::key::Key;
use crate::ttl::Lifetime;

/// A store in front of another, or of memory in the place of one, for tests: it records what it is asked, and
/// fails as it is told. Clones are the same store.
///
/// Like a store on another machine, it is asked by calls that wait, and gives bytes, never what this process
/// has decoded already.
///
/// # Example
///
/// ```
/// # #[cfg(feature = "memory")]
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> axum_cache::Result<()> {
/// use axum_cache::{Cache, ErrorKind, Ttl, backend::Memory};
/// use axum_cache::testing::{Fault, Operation, TestBackend};
///
/// let store = TestBackend::new(Memory::new());
/// let cache = Cache::new(store.clone());
/// cache.set("answer", &42, Ttl::Default).await?;
/// assert_eq!(store.take_counts(), [("set", 1)]);
///
/// store.inject(Fault::error(ErrorKind::Timeout).on(Operation::Get).times(1));
/// assert_eq!(cache.get::<u32>("answer").await.unwrap_err().kind(), ErrorKind::Timeout);
/// assert_eq!(cache.get::<u32>("answer").await?, Some(42));
/// # Ok(()) }
/// # #[cfg(not(feature = "memory"))] fn main() {}
/// ```
pub struct TestBackend<B> {
    shared: Arc<Shared<B>>,
    is_shared: Option<bool>,
}

struct Shared<B> {
    store: B,
    calls: Mutex<Vec<Call>>,
    faults: Mutex<Vec<Fault>>,
    /// Ends what hangs.
    healed: watch::Sender<()>,
    /// Added to the one of the store.
    history: AtomicU64,
}

/// A call that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Call {
    /// Which one.
    pub operation: Operation,
    /// The keys that it was about, in their order; of [`Clear`](Operation::Clear) and
    /// [`DeletePrefix`](Operation::DeletePrefix) the beginning.
    pub keys: Vec<String>,
}

impl<B> Clone for TestBackend<B> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            is_shared: self.is_shared,
        }
    }
}

impl<B: fmt::Debug> fmt::Debug for TestBackend<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestBackend")
            .field("store", &self.shared.store)
            .field("faults", &*lock(&self.shared.faults))
            .finish_non_exhaustive()
    }
}

impl<B: Backend + Default> Default for TestBackend<B> {
    fn default() -> Self {
        Self::new(B::default())
    }
}

impl<B: Backend> TestBackend<B> {
    /// In front of `store`, whose capabilities it has; but what it holds is not in this process.
    pub fn new(store: B) -> Self {
        Self {
            shared: Arc::new(Shared {
                store,
                calls: Mutex::default(),
                faults: Mutex::default(),
                healed: watch::Sender::new(()),
                history: AtomicU64::new(1),
            }),
            is_shared: None,
        }
    }

    /// Lets it say whether [other processes](Capabilities::shared) use the store, too.
    #[must_use]
    pub fn with_shared(mut self, is_shared: bool) -> Self {
        self.is_shared = Some(is_shared);
        self
    }

    /// The calls so far, those that failed among them, in the order in which they came.
    pub fn calls(&self) -> Vec<Call> {
        lock(&self.shared.calls).clone()
    }

    /// The calls since the last time this was asked.
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut lock(&self.shared.calls))
    }

    /// How often this was called.
    pub fn count(&self, operation: Operation) -> usize {
        let calls = lock(&self.shared.calls);
        let same = calls.iter().filter(|call| call.operation == operation);
        same.count()
    }

    /// How often what was called since the last time this was asked, by name.
    pub fn take_counts(&self) -> Vec<(&'static str, usize)> {
        let mut operations: Vec<_> = self.take_calls().iter().map(|it| it.operation).collect();
        operations.sort_unstable();
        let alike = operations.chunk_by(PartialEq::eq);
        alike.map(|it| (it[0].as_str(), it.len())).collect()
    }

    /// Lets something go wrong from now on, beside what does already: what takes time takes it before anything
    /// fails.
    pub fn inject(&self, fault: Fault) {
        lock(&self.shared.faults).push(fault);
    }

    /// Lets nothing go wrong any more; calls that hang go on.
    pub fn heal(&self) {
        lock(&self.shared.faults).clear();
        self.shared.healed.send_replace(());
    }

    /// Lets the store begin another [history](Backend::history), as one that has read an old copy of its
    /// data. What it holds stays.
    pub fn begin_history(&self) {
        self.shared.history.fetch_add(1, Ordering::SeqCst);
    }

    fn store(&self) -> &B {
        &self.shared.store
    }

    /// Makes a call, with what goes wrong before and after. What is to be done to the entries that it found.
    async fn call<T>(
        &self,
        operation: Operation,
        keys: impl IntoIterator<Item = impl Into<String>> + Send,
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<(T, Vec<Change>)> {
        let keys = keys.into_iter().map(Into::into).collect();
        lock(&self.shared.calls).push(Call { operation, keys });
        let mut healed = self.shared.healed.subscribe();
        let troubles = Troubles::of(&mut lock(&self.shared.faults), operation);
        let failed = |kind| Error::new(kind).at(self.store().name(), operation.as_str());
        // No answer comes at once.
        tokio::task::yield_now().await;
        pause(troubles.delay).await;
        if troubles.hangs {
            let _ = healed.changed().await;
        }
        if let Some(kind) = troubles.error {
            return Err(failed(kind));
        }
        let answer = call.await?;
        pause(troubles.late).await;
        match troubles.lost {
            Some(kind) => Err(failed(kind)),
            None => Ok((answer, troubles.changes)),
        }
    }

    /// A call that finds no entries.
    async fn make<T>(
        &self,
        operation: Operation,
        keys: impl IntoIterator<Item = impl Into<String>> + Send,
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let (answer, _) = self.call(operation, keys, call).await?;
        Ok(answer)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// No time needs no timer.
async fn pause(by: Duration) {
    if !by.is_zero() {
        tokio::time::sleep(by).await;
    }
}

/// As it comes from another machine: its bytes, and nothing that was made of them.
fn anew(entry: &Entry) -> Entry {
    Entry::new(entry.bytes().clone())
}

/// What is found, after what happened to it.
fn found(entry: Option<&Entry>, changes: &[Change]) -> Option<Entry> {
    let found = entry.map(anew);
    changes.iter().fold(found, |found, change| change.of(found))
}

#[deny(clippy::missing_trait_methods)]
impl<B: Backend> Backend for TestBackend<B> {
    fn name(&self) -> &'static str {
        self.store().name()
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = self.store().capabilities();
        capabilities.in_process = false;
        capabilities.shared = self.is_shared.unwrap_or(capabilities.shared);
        capabilities
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        let call = self.store().get(key);
        let (entry, changes) = self.call(Operation::Get, [key.as_str()], call).await?;
        Ok(found(entry.as_ref(), &changes))
    }

    async fn set(&self, key: &Key, entry: Entry, lifetime: Lifetime) -> Result<()> {
        let call = self.store().set(key, anew(&entry), lifetime);
        self.make(Operation::Set, [key.as_str()], call).await
    }

    async fn add(&self, key: &Key, entry: Entry, lifetime: Lifetime) -> Result<bool> {
        let call = self.store().add(key, anew(&entry), lifetime);
        self.make(Operation::Add, [key.as_str()], call).await
    }

    async fn touch(&self, key: &Key, lifetime: Lifetime) -> Result<bool> {
        let call = self.store().touch(key, lifetime);
        self.make(Operation::Touch, [key.as_str()], call).await
    }

    async fn delete(&self, key: &Key) -> Result<bool> {
        let call = self.store().delete(key);
        self.make(Operation::Delete, [key.as_str()], call).await
    }

    async fn incr(&self, key: &Key, delta: i64) -> Result<i64> {
        let call = self.store().incr(key, delta);
        self.make(Operation::Incr, [key.as_str()], call).await
    }

    async fn rename(&self, from: &Key, to: &Key) -> Result<bool> {
        let call = self.store().rename(from, to);
        let keys = [from.as_str(), to.as_str()];
        self.make(Operation::Rename, keys, call).await
    }

    async fn ttl(&self, key: &Key) -> Result<Option<Lifetime>> {
        let call = self.store().ttl(key);
        self.make(Operation::Ttl, [key.as_str()], call).await
    }

    async fn clear(&self, namespace: &str) -> Result<()> {
        let call = self.store().clear(namespace);
        self.make(Operation::Clear, [namespace], call).await
    }

    async fn flush_store(&self) -> Result<()> {
        let call = self.store().flush_store();
        self.make(Operation::FlushStore, [""; 0], call).await
    }

    async fn compare_and_set(
        &self,
        key: &Key,
        expected: &Entry,
        entry: Entry,
        lifetime: Lifetime,
    ) -> Result<bool> {
        let entry = anew(&entry);
        let call = self.store().compare_and_set(key, expected, entry, lifetime);
        let keys = [key.as_str()];
        self.make(Operation::CompareAndSet, keys, call).await
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Entry>>> {
        let call = self.store().get_many(keys);
        let keys = keys.iter().map(Key::as_str);
        let (entries, changes) = self.call(Operation::GetMany, keys, call).await?;
        let entries = entries.iter().map(Option::as_ref);
        Ok(entries.map(|entry| found(entry, &changes)).collect())
    }

    async fn set_many(&self, items: Vec<(Key, Entry, Lifetime)>) -> Result<Vec<Result<()>>> {
        let keys: Vec<_> = items
            .iter()
            .map(|(key, ..)| key.as_str().to_owned())
            .collect();
        let items = items.into_iter();
        let items = items.map(|(key, entry, lifetime)| (key, anew(&entry), lifetime));
        let call = self.store().set_many(items.collect());
        self.make(Operation::SetMany, keys, call).await
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<u64> {
        let call = self.store().delete_many(keys);
        let keys = keys.iter().map(Key::as_str);
        self.make(Operation::DeleteMany, keys, call).await
    }

    async fn delete_prefix(&self, prefix: &str) -> Result<u64> {
        let call = self.store().delete_prefix(prefix);
        self.make(Operation::DeletePrefix, [prefix], call).await
    }

    fn peek(&self, _: &Key) -> Peek {
        Peek::Declined
    }

    fn history(&self) -> u64 {
        let own = self.shared.history.load(Ordering::SeqCst);
        self.store().history().wrapping_add(own)
    }

    async fn learn_history(&self) {
        self.store().learn_history().await;
    }

    async fn close(&self) -> Result<()> {
        let call = self.store().close();
        self.make(Operation::Close, [""; 0], call).await
    }
}
