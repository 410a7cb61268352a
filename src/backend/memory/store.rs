//! The map behind [`Memory`](super::Memory): an established concurrent cache that evicts, with
//! lifetimes, atomic updates and a clear of one namespace on top.
//!
//! # Invariants
//!
//! - Every change of an entry goes through [`Store::update`], [`Store::rename`] or
//!   [`Store::delete_prefix`], under the stripe lock of its key: no change is lost to a concurrent
//!   one. Reads take no such lock.
//! - `clear` takes effect at once by an epoch: an entry older than the last clear of its namespace
//!   is dead, whether or not its memory has been reclaimed yet.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foldhash::quality::RandomState;
use quick_cache::sync::{Cache as Map, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use super::Options;
use super::namespaces::{NamespaceId, Namespaces};
use crate::clock::{self, Clock};
use crate::entry::{Entry, is_lease};
use crate::key::Key;
use crate::ttl::Lifetime;

/// Locks for changes, by hash of the key.
const STRIPES: usize = 64;

/// What an entry takes beside its key and its bytes at most: four allocations, each with what the allocator adds
/// (the key, the bytes, who shares them, the entry), and the map's own records, for which there is room for
/// twice as many. Not counted is what the map remembers of keys that it evicted: a twelfth of its capacity at most.
const OVERHEAD: usize = 368;

/// The least capacity of a shard, in bytes; a value may take half of it.
const SHARD_BYTES: usize = 4 << 20;

/// Below this many entries one shard holds them all, so that the limit is exact.
const EXACT_ENTRIES: usize = 4096;

/// How often writes look for expired entries to remove.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Store {
    map: Arc<Map<Arc<str>, Slot, ByBytes>>,
    options: Options,
    stripes: Box<[Mutex<()>]>,
    hasher: RandomState,
    clock: Arc<dyn Clock>,
    epoch: AtomicU64,
    namespaces: Arc<Namespaces>,
    next_sweep: AtomicU64,
}

/// One entry, never changed in place. The map clones it for each hit: that is to count one reference, and
/// nothing else.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) entry: Entry,
    /// In nanoseconds of monotonic time; `u64::MAX` is never.
    expires: u64,
    born: u64,
    namespace: NamespaceId,
}

impl Slot {
    /// The same lifetime for another value.
    pub(super) fn with_entry(&self, entry: Entry) -> Self {
        Self {
            entry,
            ..self.clone()
        }
    }

    /// Whether nothing would change if one took the place of the other.
    fn is_same(&self, other: &Self) -> bool {
        self.entry.is_same(&other.entry) && self.expires == other.expires && self.born == other.born
    }
}

#[derive(Clone, Debug)]
struct ByBytes {
    least: u64,
}

impl Weighter<Arc<str>, Slot> for ByBytes {
    fn weight(&self, key: &Arc<str>, slot: &Slot) -> u64 {
        let bytes = key.len() + slot.entry.weight() + OVERHEAD;
        (bytes as u64).max(self.least)
    }
}

impl Store {
    pub(super) fn new(options: Options, clock: Arc<dyn Clock>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let shards = match options.max_entries {
            Some(entries) if entries <= EXACT_ENTRIES => 1,
            _ => (options.max_bytes / SHARD_BYTES).clamp(1, 4 * cores),
        };
        // The library rounds up to a power of two; round down, so that no shard is too small.
        let shards = 1 << shards.ilog2();
        let estimate = options
            .max_entries
            .unwrap_or(options.max_bytes / 1024)
            .max(32 * shards);
        let map = OptionsBuilder::new()
            .shards(shards)
            .estimated_items_capacity(estimate)
            .weight_capacity(options.max_bytes as u64)
            .build()
            .map(|map_options| {
                Map::with_options(
                    map_options,
                    ByBytes {
                        least: options.least_weight(),
                    },
                    DefaultHashBuilder::default(),
                    DefaultLifecycle::default(),
                )
            })
            .expect("both capacities are set");
        Self {
            map: Arc::new(map),
            options,
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
            hasher: RandomState::default(),
            clock,
            epoch: AtomicU64::new(0),
            namespaces: Arc::default(),
            next_sweep: AtomicU64::new(nanos(SWEEP_EVERY)),
        }
    }

    pub(super) fn options(&self) -> Options {
        self.options
    }

    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    pub(super) fn weight(&self) -> u64 {
        self.map.weight()
    }

    /// What the map itself allocates.
    #[cfg(test)]
    pub(super) fn map_bytes(&self) -> usize {
        self.map.memory_used().total()
    }

    pub(super) fn max_value_bytes(&self) -> usize {
        let half = usize::try_from(self.map.shard_capacity() / 2).unwrap_or(usize::MAX);
        half.saturating_sub(OVERHEAD).max(1)
    }

    pub(super) fn get(&self, key: &Key) -> Option<Entry> {
        let slot = self.map.get(key.as_str())?;
        // What has no end is not asked for the time.
        let now = if slot.expires == u64::MAX {
            0
        } else {
            self.now()
        };
        if self.is_live(&slot, now) {
            return Some(slot.entry);
        }
        let is_dead = |slot: &Slot| !self.is_live(slot, now);
        self.map.remove_if(key.as_str(), is_dead);
        None
    }

    /// The remaining lifetime of a live entry; does not count as a use of it.
    pub(super) fn ttl(&self, key: &Key) -> Option<Lifetime> {
        let now = self.now();
        let slot = self.map.peek(key.as_str())?;
        self.is_live(&slot, now).then(|| match slot.expires {
            u64::MAX => Lifetime::Forever,
            expires => Lifetime::For(Duration::from_nanos(expires - now)),
        })
    }

    pub(super) fn slot(&self, key: &Key, entry: Entry, lifetime: Lifetime) -> Slot {
        Slot {
            entry,
            expires: lifetime.duration().map_or(u64::MAX, |lifetime| {
                self.now().saturating_add(nanos(lifetime))
            }),
            born: self.epoch.load(Ordering::Acquire),
            namespace: self.namespaces.id(key.namespace()),
        }
    }

    /// Replaces the live entry under `key`, if any, by what `change` makes of it.
    pub(super) fn update<T>(
        &self,
        key: &Arc<str>,
        change: impl FnOnce(Option<Slot>) -> (Option<Slot>, T),
    ) -> T {
        let result = {
            let _change = self.lock(self.stripe(key));
            let now = self.now();
            let old = self.map.peek(&**key);
            let (new, result) = change(old.clone().filter(|slot| self.is_live(slot, now)));
            match (old, new) {
                (Some(old), Some(new)) if old.is_same(&new) => {}
                // What takes the place of its own lease is new: neither has it been used for that, nor is
                // there room for it where there was for a lease.
                (Some(old), Some(new)) if is_lease(old.entry.bytes()) => {
                    self.map.remove(&**key);
                    self.map.insert(Arc::clone(key), new);
                }
                (_, Some(new)) => self.map.insert(Arc::clone(key), new),
                (Some(_), None) => drop(self.map.remove(&**key)),
                (None, None) => {}
            }
            result
        };
        self.sweep_now_and_then();
        result
    }

    pub(super) fn rename(&self, from: &Key, to: &Key) -> bool {
        let (first, second) = {
            let (from, to) = (self.stripe(from.as_str()), self.stripe(to.as_str()));
            (from.min(to), from.max(to))
        };
        let _first = self.lock(first);
        let _second = (first != second).then(|| self.lock(second));
        let now = self.now();
        let Some((_, slot)) = self
            .map
            .remove(from.as_str())
            .filter(|(_, slot)| self.is_live(slot, now))
        else {
            return false;
        };
        self.map.insert(to.text().into_owned(), slot);
        true
    }

    pub(super) fn clear(&self, namespace: &str) {
        let now = self.epoch.fetch_add(1, Ordering::AcqRel) + 1;
        let id = self.namespaces.id(namespace);
        self.namespaces.cleared(id).fetch_max(now, Ordering::AcqRel);
        self.remove_dead();
    }

    /// Removes the entries whose keys begin with `prefix`. How many were live.
    pub(super) fn delete_prefix(&self, prefix: &str) -> u64 {
        let found = Mutex::new(Vec::new());
        {
            let _changes = self.lock_all();
            // A shard is seen whole: iterating would miss what moves within it.
            self.map.retain(|key, _| {
                if key.starts_with(prefix) {
                    let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                    found.push(Arc::clone(key));
                }
                true
            });
        }
        let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        let deleted = found.iter().filter(|key| {
            let _change = self.lock(self.stripe(key));
            let removed = self.map.remove(&***key);
            removed.is_some_and(|(_, slot)| self.is_live(&slot, self.now()))
        });
        deleted.count() as u64
    }

    pub(super) fn flush(&self) {
        let _changes = self.lock_all();
        self.map.clear();
    }

    fn is_live(&self, slot: &Slot, now: u64) -> bool {
        is_live(&self.namespaces, slot, now)
    }

    fn sweep_now_and_then(&self) {
        let due = self.next_sweep.load(Ordering::Relaxed);
        let now = self.now();
        let next = now.saturating_add(nanos(SWEEP_EVERY));
        if now >= due
            && self
                .next_sweep
                .compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            self.remove_dead();
        }
    }

    /// Frees what expired and what was cleared, off the reactor if there is one.
    fn remove_dead(&self) {
        let (map, namespaces) = (Arc::clone(&self.map), Arc::clone(&self.namespaces));
        let now = self.now();
        let remove = move || map.retain(|_, slot| is_live(&namespaces, slot, now));
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }

    fn stripe(&self, key: &str) -> usize {
        // Only the low bits count.
        #[allow(clippy::cast_possible_truncation, reason = "only the low bits count")]
        let hash = self.hasher.hash_one(key) as usize;
        hash % STRIPES
    }

    /// Lets nothing change meanwhile: what takes the place of a lease is not there for a moment.
    fn lock_all(&self) -> Vec<MutexGuard<'_, ()>> {
        (0..STRIPES).map(|stripe| self.lock(stripe)).collect()
    }

    fn lock(&self, stripe: usize) -> MutexGuard<'_, ()> {
        // Nothing is half done where a change can panic.
        self.stripes[stripe]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        nanos(self.clock.monotonic())
    }
}

fn is_live(namespaces: &Namespaces, slot: &Slot, now: u64) -> bool {
    let cleared = namespaces.cleared(slot.namespace);
    now < slot.expires && slot.born >= cleared.load(Ordering::Acquire)
}

fn nanos(duration: Duration) -> u64 {
    // One below the value that means never.
    clock::nanos(duration).min(u64::MAX - 1)
}
