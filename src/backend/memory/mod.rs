//! Process memory: the embedded default, bounded by bytes.

mod namespaces;
mod near;
mod store;

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;

use self::store::Store;
use super::{Backend, Capabilities, Peek, parse_counter, refuse_if_larger};
use crate::clock::{Clock, SystemClock};
use crate::entry::Entry;
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::ttl::Lifetime;

/// What a store holds at most, unless told otherwise: 64 MiB.
const DEFAULT_MAX_BYTES: usize = 64 << 20;

/// Entries in the memory of this process.
///
/// Bounded by bytes (64 MiB unless set), keys and bookkeeping counted; what is rarely used goes
/// first, one entry at a time (S3-FIFO), so that a flood of one-time keys does not push out the
/// ones in use. Lifetimes are exact, and measured by monotonic time. A hit shares what is stored:
/// it copies no bytes, and decodes nothing twice.
///
/// Cloning shares the store. [`Memory::new`] is a store of its own; stores with a
/// [`location`](MemoryBuilder::location) are shared by that name within the process.
///
/// # Django
///
/// `LocMemCache`, with its `LOCATION` and `MAX_ENTRIES`. There are no 300 entries by default, an
/// overwrite never culls, and there is no `CULL_FREQUENCY`: eviction goes one by one. Two unnamed
/// stores do not share their data.
///
/// # Example
///
/// ```
/// use axum_cache::backend::Memory;
///
/// let store = Memory::builder().max_bytes(8 << 20).build()?;
/// # Ok::<(), axum_cache::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Memory {
    store: Arc<Store>,
    /// Others may come to it at any time.
    is_named: bool,
}

impl Memory {
    /// A store of its own, with the defaults.
    pub fn new() -> Self {
        let options = Options::default();
        Self {
            store: Arc::new(Store::new(options, Arc::new(SystemClock::new()))),
            is_named: false,
        }
    }

    /// Sets options first.
    pub fn builder() -> MemoryBuilder {
        MemoryBuilder::default()
    }

    /// How many entries are held; expired ones that were not removed yet count.
    pub fn len(&self) -> usize {
        self.store.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many bytes the entries take, keys and bookkeeping counted. With
    /// [`max_entries`](MemoryBuilder::max_entries), small entries count as their share.
    pub fn weight(&self) -> u64 {
        self.store.weight()
    }

    fn refuse_if_too_large(&self, key: &Key, entry: &Entry, operation: &'static str) -> Result<()> {
        let fits = refuse_if_larger(entry, self.store.max_value_bytes());
        fits.map_err(|error| {
            self.store.update(&key.text(), |_| (None, ()));
            error.at("memory", operation)
        })
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

/// Options of a [`Memory`] store.
#[derive(Clone, Debug, Default)]
#[must_use = "a builder does nothing until it is built"]
pub struct MemoryBuilder {
    options: Options,
    location: Option<String>,
    clock: Option<Arc<dyn Clock>>,
}

impl MemoryBuilder {
    /// The most bytes the store may hold, keys and bookkeeping counted. 64 MiB by default.
    ///
    /// That is what entries take, not what the allocator keeps of what others took before: one with an
    /// arena for each thread, such as that of glibc, may keep half as much again.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.options.max_bytes = bytes;
        self
    }

    /// The most entries the store may hold, within `max_bytes`. No limit by default.
    ///
    /// # Django
    ///
    /// `OPTIONS["MAX_ENTRIES"]`.
    pub fn max_entries(mut self, entries: usize) -> Self {
        self.options.max_entries = Some(entries);
        self
    }

    /// Shares the store with all others of this name in the process. As others may come at any time, caches
    /// go by it as by one that [processes share](crate::backend::Capabilities::shared): what is made while another
    /// handle removes it is not stored, for one more write each.
    ///
    /// # Django
    ///
    /// `LOCATION`.
    pub fn location(mut self, location: impl Into<String>) -> Self {
        self.location = Some(location.into());
        self
    }

    /// The clock to measure lifetimes with; the system's by default.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Makes the store, or finds the one of this location.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if a limit is zero, or the location is in use with other options.
    pub fn build(self) -> Result<Memory> {
        let Self {
            options,
            location,
            clock,
        } = self;
        let zero = |option| Err(Error::config(format!("{option}: must be more than zero")));
        if options.max_bytes == 0 {
            return zero("max_bytes");
        }
        if options.max_entries == Some(0) {
            return zero("max_entries");
        }
        let clock = clock.unwrap_or_else(|| Arc::new(SystemClock::new()));
        let make = || Arc::new(Store::new(options, clock));
        let Some(location) = location else {
            return Ok(Memory {
                store: make(),
                is_named: false,
            });
        };
        let mut locations = LOCATIONS.lock().unwrap_or_else(PoisonError::into_inner);
        locations.retain(|_, store| store.strong_count() > 0);
        let store = match locations.get(&location).and_then(Weak::upgrade) {
            Some(store) if store.options() == options => store,
            Some(_) => {
                return Err(Error::config(format!(
                    "location: {location:?} is in use in this process with other options"
                )));
            }
            None => {
                let store = make();
                locations.insert(location, Arc::downgrade(&store));
                store
            }
        };
        Ok(Memory {
            store,
            is_named: true,
        })
    }
}

/// The named stores that are in use.
static LOCATIONS: LazyLock<Mutex<HashMap<String, Weak<Store>>>> = LazyLock::new(Mutex::default);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Options {
    max_bytes: usize,
    max_entries: Option<usize>,
}

impl Options {
    /// What an entry counts for at least, so that `max_entries` fit and one more does not.
    fn least_weight(self) -> u64 {
        self.max_entries.map_or(0, |entries| {
            (self.max_bytes / entries.saturating_add(1) + 1) as u64
        })
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_bytes: DEFAULT_MAX_BYTES,
            max_entries: None,
        }
    }
}

impl Backend for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::new()
            .in_process()
            .with_ttl_unit(Duration::from_nanos(1))
            .with_max_value_bytes(self.store.max_value_bytes())
            .with_delete_prefix()
            .with_compare_and_set();
        // Another handle may be that of another cache, which knows nothing of the fills of this one.
        capabilities.shared = self.is_named || Arc::strong_count(&self.store) > 1;
        capabilities
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        Ok(self.store.get(key))
    }

    async fn set(&self, key: &Key, entry: Entry, lifetime: Lifetime) -> Result<()> {
        self.refuse_if_too_large(key, &entry, "set")?;
        let slot = self.store.slot(key, entry, lifetime);
        self.store.update(&key.text(), |_| (Some(slot), ()));
        Ok(())
    }

    async fn add(&self, key: &Key, entry: Entry, lifetime: Lifetime) -> Result<bool> {
        if self.ttl(key).await?.is_some() {
            return Ok(false);
        }
        self.refuse_if_too_large(key, &entry, "add")?;
        let slot = self.store.slot(key, entry, lifetime);
        Ok(self.store.update(&key.text(), |live| match live {
            Some(live) => (Some(live), false),
            None => (Some(slot), true),
        }))
    }

    async fn touch(&self, key: &Key, lifetime: Lifetime) -> Result<bool> {
        Ok(self.store.update(&key.text(), |live| {
            let touched = live.map(|live| self.store.slot(key, live.entry.clone(), lifetime));
            let found = touched.is_some();
            (touched, found)
        }))
    }

    async fn delete(&self, key: &Key) -> Result<bool> {
        Ok(self
            .store
            .update(&key.text(), |live| (None, live.is_some())))
    }

    async fn incr(&self, key: &Key, delta: i64) -> Result<i64> {
        self.store
            .update(&key.text(), |live| {
                let Some(live) = live else {
                    return (None, Err(ErrorKind::KeyMissing.into()));
                };
                let sum = parse_counter(live.entry.bytes()).and_then(|value| {
                    value
                        .checked_add(delta)
                        .ok_or_else(|| ErrorKind::OutOfRange.into())
                });
                match sum {
                    Ok(sum) => {
                        let entry = Entry::new(Bytes::from(sum.to_string()));
                        (Some(live.with_entry(entry)), Ok(sum))
                    }
                    Err(error) => (Some(live), Err(error)),
                }
            })
            .map_err(|error: Error| error.at("memory", "incr"))
    }

    async fn rename(&self, from: &Key, to: &Key) -> Result<bool> {
        Ok(self.store.rename(from, to))
    }

    async fn ttl(&self, key: &Key) -> Result<Option<Lifetime>> {
        Ok(self.store.ttl(key))
    }

    async fn clear(&self, namespace: &str) -> Result<()> {
        self.store.clear(namespace);
        Ok(())
    }

    async fn flush_store(&self) -> Result<()> {
        self.store.flush();
        Ok(())
    }

    async fn compare_and_set(
        &self,
        key: &Key,
        expected: &Entry,
        entry: Entry,
        lifetime: Lifetime,
    ) -> Result<bool> {
        refuse_if_larger(&entry, self.store.max_value_bytes())
            .map_err(|error| error.at("memory", "compare_and_set"))?;
        let slot = self.store.slot(key, entry, lifetime);
        Ok(self.store.update(&key.text(), |live| match live {
            Some(live) if live.entry == *expected => (Some(slot), true),
            live => (live, false),
        }))
    }

    /// Goes over all keys, off the reactor if there is one.
    async fn delete_prefix(&self, prefix: &str) -> Result<u64> {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return Ok(self.store.delete_prefix(prefix));
        };
        let (store, prefix) = (Arc::clone(&self.store), prefix.to_owned());
        let deleted = runtime.spawn_blocking(move || store.delete_prefix(&prefix));
        deleted.await.map_err(|error| {
            let shut_down = Error::new(ErrorKind::Unavailable).at("memory", "delete_prefix");
            shut_down.with_source(error)
        })
    }

    fn peek(&self, key: &Key) -> Peek {
        self.store.get(key).map_or(Peek::Miss, Peek::Hit)
    }
}

#[cfg(test)]
mod tests;
