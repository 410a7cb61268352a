//! Invalidation beats in-flight work: a fill that began before its key was invalidated does not
//! land after it.
//!
//! # Invariants
//!
//! - A [`Fill`] is begun before the computation and asked to land after it. Once
//!   [`Fences::invalidate`] has returned, no fill begun before it will write any more, and none
//!   is still writing. That holds for each of several invalidations at a time.
//! - A fill that is begun [`since`](Fences::begin_since) a look-up is as good as one that was begun before it, as
//!   nothing was invalidated in between. A look-up itself writes nothing that others read.
//! - A fill that is begun while its key is being removed knows that: what it finds may be there still, and would come
//!   back with what it writes. Who joins what it makes with what is there stores nothing then.
//! - The table holds only keys with a fill in progress.

use std::collections::HashMap;
use std::future::Future;
use std::hash::BuildHasher as _;
use std::sync::{Arc, PoisonError};

use foldhash::quality::RandomState;
use tokio::sync::{RwLock, RwLockReadGuard};

use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// How many counts of invalidations there are. Of keys that share one, the one may seem invalidated when the other is.
const COUNTS: usize = if cfg!(shuttle) { 1 } else { 256 };

/// The fills in progress on one store, by key.
#[derive(Debug)]
pub(crate) struct Fences {
    table: Mutex<Table>,
    /// How often a key was invalidated, by its hash; a prefix counts for all of them.
    counts: Box<[AtomicU64]>,
    hashes: RandomState,
}

#[derive(Debug, Default)]
struct Table {
    running: HashMap<Arc<str>, Gates, RandomState>,
    removals: Vec<Arc<Removed>>,
}

/// What is being removed.
#[derive(Debug)]
pub(crate) enum Removed {
    Keys(Box<[Arc<str>]>),
    /// All that begin so.
    Prefix(Box<str>),
}

impl Removed {
    fn has(&self, key: &str) -> bool {
        match self {
            Self::Keys(keys) => keys.iter().any(|removed| **removed == *key),
            Self::Prefix(prefix) => key.starts_with(&**prefix),
        }
    }
}

/// A removal in progress, until it is dropped.
#[derive(Debug)]
pub(crate) struct Removal {
    fences: Arc<Fences>,
    removed: Arc<Removed>,
}

impl Drop for Removal {
    fn drop(&mut self) {
        let removals = &mut self.fences.table().removals;
        removals.retain(|other| !Arc::ptr_eq(other, &self.removed));
    }
}

/// When a look-up began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Since {
    /// Which of the counts, and what it was.
    row: usize,
    count: u64,
}

/// The gates of one key that fills in progress have before them: at most the last one is open. The
/// barred ones stay until their fills are gone, since whoever comes to invalidate has to wait for
/// those that still write.
type Gates = Vec<Arc<Gate>>;

#[derive(Debug, Default)]
struct Gate {
    /// Set while the table is locked: no fill begins behind a barred gate.
    invalidated: AtomicBool,
    /// It stood while its key was being removed.
    in_removal: bool,
    /// Read while a fill writes; written to wait for those that do.
    landing: RwLock<()>,
    /// The fills that share it. Changed while the table is locked.
    fills: AtomicUsize,
}

/// A fill in progress.
#[derive(Debug)]
pub(crate) struct Fill {
    fences: Arc<Fences>,
    key: Arc<str>,
    gate: Arc<Gate>,
}

impl Default for Fences {
    fn default() -> Self {
        Self {
            table: Mutex::default(),
            counts: (0..COUNTS).map(|_| AtomicU64::new(0)).collect(),
            hashes: RandomState::default(),
        }
    }
}

impl Fences {
    /// Call it before anything is read that a value will depend on, if it may turn out that none is made.
    pub(crate) fn now(&self, key: &str) -> Since {
        let row = self.row(key);
        let count = self.counts[row].load(Ordering::Acquire);
        Since { row, count }
    }

    /// Begins the fill of a key that has been looked up `since`; `None` if what was found may have been
    /// invalidated by now.
    pub(crate) fn begin_since(
        self: &Arc<Self>,
        key: impl Into<Arc<str>>,
        since: Since,
    ) -> Option<Fill> {
        let fill = self.begin(key);
        // Who has counted before the fill was in the table may not have seen it there.
        let is_settled = self.counts[since.row].load(Ordering::Acquire) == since.count;
        is_settled.then_some(fill)
    }

    fn row(&self, key: &str) -> usize {
        let row = self.hashes.hash_one(key) % COUNTS as u64;
        usize::try_from(row).unwrap_or_default()
    }

    /// Begins a fill. Call it before anything is read that the value will depend on.
    pub(crate) fn begin(self: &Arc<Self>, key: impl Into<Arc<str>>) -> Fill {
        let key = key.into();
        let gate = {
            let mut table = self.table();
            let Table { running, removals } = &mut *table;
            let gates = running.entry(Arc::clone(&key)).or_default();
            let gate = match gates.last() {
                Some(gate) if !gate.is_barred() => Arc::clone(gate),
                _ => {
                    let gate = Arc::new(Gate {
                        in_removal: removals.iter().any(|removed| removed.has(&key)),
                        ..Gate::default()
                    });
                    gates.push(Arc::clone(&gate));
                    gate
                }
            };
            gate.fills.fetch_add(1, Ordering::Relaxed);
            gate
        };
        Fill {
            fences: Arc::clone(self),
            key,
            gate,
        }
    }

    /// Begins a removal, which is to bar the fills that have begun before anything is removed, and once more
    /// after that.
    pub(crate) fn remove(self: &Arc<Self>, removed: Removed) -> Removal {
        let removed = Arc::new(removed);
        self.table().removals.push(Arc::clone(&removed));
        let fences = Arc::clone(self);
        Removal { fences, removed }
    }

    /// Bars the fills of `key` that have begun, and waits for those that are writing.
    pub(crate) async fn invalidate(&self, key: &str) {
        self.counts[self.row(key)].fetch_add(1, Ordering::Release);
        let barred = match self.table().running.get(key) {
            None => return,
            Some(gates) => gates.iter().map(Gate::bar).collect(),
        };
        wait_for(barred).await;
    }

    /// As [`invalidate`](Self::invalidate), of all keys that begin with `prefix`.
    pub(crate) async fn invalidate_prefix(&self, prefix: &str) {
        for count in &self.counts {
            count.fetch_add(1, Ordering::Release);
        }
        let barred = {
            let table = self.table();
            let gates = table
                .running
                .iter()
                .filter(|(key, _)| key.starts_with(prefix));
            gates.flat_map(|(_, gates)| gates).map(Gate::bar).collect()
        };
        wait_for(barred).await;
    }

    #[cfg(all(test, shuttle))]
    pub(crate) fn is_empty(&self) -> bool {
        self.table().running.is_empty()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gate {
    fn bar(self: &Arc<Self>) -> Arc<Self> {
        self.invalidated.store(true, Ordering::Release);
        Arc::clone(self)
    }

    fn is_barred(&self) -> bool {
        self.invalidated.load(Ordering::Acquire)
    }
}

/// Waits until no fill writes behind these gates, which are barred.
async fn wait_for(barred: Gates) {
    for gate in barred {
        drop(gate.landing.write().await);
    }
}

impl Fill {
    /// Runs `write` unless the key was invalidated since the fill began; then `None`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops `write`, which then has happened or not.
    pub(crate) async fn land<T>(&self, write: impl Future<Output = T>) -> Option<T> {
        let _landing = self.landing()?;
        Some(write.await)
    }

    /// Whether the key was invalidated since the fill began: what was read since is not to be
    /// relied on.
    pub(crate) fn is_barred(&self) -> bool {
        self.gate.is_barred()
    }

    /// Whether its key was being removed when it began: what it found may have been what is gone now, and would come
    /// back with what it writes.
    pub(crate) fn is_in_removal(&self) -> bool {
        self.gate.in_removal
    }

    /// The right to write until it is dropped, unless the key was invalidated since the fill
    /// began. Nobody waits for it: who holds or awaits the other side of the gate has barred it.
    pub(crate) fn landing(&self) -> Option<RwLockReadGuard<'_, ()>> {
        let landing = self.gate.landing.try_read().ok()?;
        (!self.is_barred()).then_some(landing)
    }
}

impl Drop for Fill {
    fn drop(&mut self) {
        let running = &mut self.fences.table().running;
        if self.gate.fills.fetch_sub(1, Ordering::Relaxed) > 1 {
            return;
        }
        if let Some(gates) = running.get_mut(&self.key) {
            gates.retain(|gate| !Arc::ptr_eq(gate, &self.gate));
            if gates.is_empty() {
                running.remove(&self.key);
            }
        }
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::future::ready;

    use super::*;

    #[tokio::test]
    async fn a_fill_begun_before_the_invalidation_does_not_land() {
        let fences = Arc::new(Fences::default());
        let before = fences.begin("k");
        let other = fences.begin("other");
        fences.invalidate("k").await;
        let after = fences.begin("k");
        assert_eq!(before.land(ready(())).await, None);
        assert_eq!(after.land(ready(())).await, Some(()));
        assert_eq!(other.land(ready(())).await, Some(()));
        fences.invalidate_prefix("").await;
        assert_eq!(after.land(ready(())).await, None);
    }

    #[tokio::test]
    async fn no_fill_begins_since_a_look_up_if_the_key_was_invalidated_meanwhile() {
        let fences = Arc::new(Fences::default());
        let since = fences.now("k");
        let fill = fences
            .begin_since("k", since)
            .expect("nothing was invalidated");
        assert_eq!(fill.land(ready(())).await, Some(()));
        // Whether there is a fill in progress or not, and by the key or a prefix.
        for begun in [Some(fill), None] {
            let since = fences.now("k");
            fences.invalidate("k").await;
            assert!(fences.begin_since("k", since).is_none());
            let since = fences.now("k");
            fences.invalidate_prefix("").await;
            assert!(fences.begin_since("k", since).is_none());
            let since = fences.now("k");
            assert!(fences.begin_since("k", since).is_some());
            drop(begun);
        }
        assert!(fences.table().running.is_empty());
    }

    #[tokio::test]
    async fn a_fill_knows_whether_its_key_was_being_removed() {
        let fences = Arc::new(Fences::default());
        let is_in_removal = |key| fences.begin(key).is_in_removal();
        let before = fences.begin("k");
        let by_key = fences.remove(Removed::Keys(["k".into()].into()));
        let by_prefix = fences.remove(Removed::Prefix("p/".into()));
        fences.invalidate("k").await;
        assert!(!before.is_in_removal() && before.is_barred());
        assert_eq!(["k", "p/1"].map(is_in_removal), [true; 2]);
        assert_eq!(["k1", "p"].map(is_in_removal), [false; 2]);
        let meanwhile = fences.begin("k");
        fences.invalidate("k").await;
        drop((by_key, by_prefix));
        assert!(meanwhile.is_barred() && meanwhile.is_in_removal());
        assert_eq!(["k", "p/1"].map(is_in_removal), [false; 2]);
        drop((before, meanwhile));
        assert!(fences.table().running.is_empty() && fences.table().removals.is_empty());
    }

    #[tokio::test]
    async fn a_prefix_bars_the_fills_of_all_keys_that_begin_with_it() {
        let fences = Arc::new(Fences::default());
        let [under, exact, beside] = ["k/a", "k/", "k"].map(|key| fences.begin(key));
        fences.invalidate_prefix("k/").await;
        assert_eq!(under.land(ready(())).await, None);
        assert_eq!(exact.land(ready(())).await, None);
        assert_eq!(beside.land(ready(())).await, Some(()));
        assert_eq!(fences.begin("k/a").land(ready(())).await, Some(()));
        drop((under, exact, beside));
        assert!(fences.table().running.is_empty());
    }

    #[tokio::test]
    async fn each_invalidation_waits_for_a_write_in_progress() {
        let fences = Arc::new(Fences::default());
        let fill = fences.begin("k");
        let (finish, finished) = tokio::sync::oneshot::channel::<()>();
        let writing = tokio::spawn(async move { fill.land(finished).await });
        tokio::task::yield_now().await;
        // By the key, by the key again, and by a prefix.
        let [one, other, wide] = [(); 3].map(|()| Arc::clone(&fences));
        let invalidations = [
            tokio::spawn(async move { one.invalidate("k").await }),
            tokio::spawn(async move { other.invalidate("k").await }),
            tokio::spawn(async move { wide.invalidate_prefix("").await }),
        ];
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        assert!(invalidations.iter().all(|one| !one.is_finished()));
        let _ = finish.send(());
        assert!(writing.await.is_ok_and(|landed| landed.is_some()));
        for invalidation in invalidations {
            assert!(invalidation.await.is_ok());
        }
        assert!(fences.table().running.is_empty());
    }

    #[tokio::test]
    async fn who_lands_does_not_wait_for_an_invalidation() {
        let fences = Arc::new(Fences::default());
        let (one, other) = (fences.begin("k"), fences.begin("k"));
        let landing = one.landing();
        let shared = Arc::clone(&fences);
        let invalidation = tokio::spawn(async move { shared.invalidate("k").await });
        tokio::task::yield_now().await;
        assert!(landing.is_some() && one.landing().is_none() && other.landing().is_none());
        drop(landing);
        assert!(invalidation.await.is_ok());
    }

    #[tokio::test]
    async fn the_table_is_empty_when_no_fill_is_in_progress() {
        let fences = Arc::new(Fences::default());
        let (one, two) = (fences.begin("k"), fences.begin("k"));
        drop(one);
        assert_eq!(fences.table().running.len(), 1);
        fences.invalidate("k").await;
        let three = fences.begin("k");
        drop(two);
        assert_eq!(fences.table().running.len(), 1);
        drop(three);
        assert!(fences.table().running.is_empty());
    }
}
