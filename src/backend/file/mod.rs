//! Files in a folder: shared by the processes of a machine, and still there after a restart.
//!
//! # Invariants
//!
//! - An entry is one file, replaced as a whole and at once: a reader sees the old or the new one,
//!   never a part of one and never neither.
//! - Every change is made under a lock that all processes respect, and that ends with its holder.
//! - Nothing on the way of a call depends on how many entries there are, but for `delete_prefix`,
//!   and `clear` of keys whose function promises no namespace.
//! - Nothing is forced to the disk: after a power cut, entries may be gone or undecodable, which
//!   is a miss.
//!
//! # Choices
//!
//! Temporary files are named after their entry, not at random by a crate for them: they live under
//! the lock of the entry, so no two writers meet, and one that was left behind is known by the
//! lock being free. Replacing exchanges two files, then removes the old one; see `replace.rs`.
//! `clear` renames the folder of the namespace and deletes it later.

#[cfg(fuzzing)]
pub mod fuzzing;
mod layout;
mod lock;
mod prefix;
mod record;
mod replace;
mod spell;
mod store;
mod sweep;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use self::spell::Spell;
use self::store::Store;
use super::{Backend, Capabilities};
use crate::clock::{Clock, SystemClock};
use crate::entry::Entry;
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::ttl::Lifetime;

const NAME: &str = "file";

/// The threads of reads, and those of writes.
const LANE: usize = 32;

/// The longest that a call waits for one.
const WAIT: Duration = Duration::from_secs(2);

/// Entries as files in a folder.
///
/// Any number of processes may use the folder at the same time, on a file system with advisory
/// locks. It is made when it is first written to, for its owner only (0700, files 0600), and made
/// anew if it is deleted meanwhile. Other files in it are left alone. Keep it out of folders that a
/// server publishes.
///
/// Lifetimes are exact, by wall time. What expired is removed bit by bit while
/// the store is written to, and all of it by [`sweep`](File::sweep).
///
/// Calls need a Tokio runtime: the files are read and written on its blocking threads, 32 for reads
/// and 32 for writes. A process that is stopped, not killed, while it writes holds up others that
/// write the same keys, or one in 64 others, for 2 seconds; then they fail with
/// [`ErrorKind::Timeout`]. Reads wait for nobody. Foreign files in folders that the store made go
/// with what is cleared. Cloning shares the store.
///
/// # Cancel safety
///
/// A dropped call goes on to its end by itself.
///
/// # Django
///
/// `FileBasedCache`, with its `LOCATION` and `MAX_ENTRIES`. `add` and `touch` are atomic, `incr`
/// too; `set` does not list the folder, and nothing live is culled by default. Leftovers of killed
/// processes are removed. Files that cannot be decoded are misses, not errors.
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> axum_cache::Result<()> {
/// use std::time::Duration;
/// use axum_cache::{Cache, backend::File};
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let folder = folder.path();
/// let cache = Cache::new(File::builder(folder).build()?);
/// cache.set("answer", &42, Duration::from_secs(60)).await?;
/// assert_eq!(cache.get("answer").await?, Some(42));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct File {
    store: Arc<Store>,
    lanes: Arc<Lanes>,
}

/// How many calls use threads at the same time: the application needs some, too.
#[derive(Debug)]
struct Lanes {
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
}

impl Default for Lanes {
    fn default() -> Self {
        Self {
            reads: Arc::new(Semaphore::new(LANE)),
            writes: Arc::new(Semaphore::new(LANE)),
        }
    }
}

impl File {
    /// A store in this folder, once options are set.
    pub fn builder(location: impl Into<PathBuf>) -> FileBuilder {
        FileBuilder {
            location: location.into(),
            options: Options::default(),
            clock: None,
        }
    }

    /// The folder, as an absolute path.
    pub fn location(&self) -> &Path {
        self.store.layout.root()
    }

    /// Removes what expired, what cannot be decoded, what killed processes left, what was cleared
    /// and not yet deleted, and what exceeds
    /// [`max_entries`](FileBuilder::max_entries). How many files it removed.
    ///
    /// Reads every file of the store. It pauses for four times as long as it works, so that calls at
    /// the same time hardly notice; a runtime that shuts down ends it early.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] with the first error of the file system; what could be removed
    /// is removed all the same.
    pub async fn sweep(&self) -> Result<u64> {
        let (mut spell, wish) = Spell::new();
        let this = self.clone();
        let sweep = tokio::spawn(async move {
            let swept = this
                .run("sweep", move |store| store.sweep(&mut spell))
                .await;
            drop(wish);
            swept
        });
        sweep.await.unwrap_or_else(|error| {
            let shut_down = Error::new(ErrorKind::Unavailable).at(NAME, "sweep");
            Err(shut_down.with_source(error))
        })
    }

    /// Works behind the caller's back, as long as the runtime does.
    fn spawn(&self, work: impl FnOnce(&Store, &mut Spell) + Send + 'static) {
        let (mut spell, wish) = Spell::new();
        let store = Arc::clone(&self.store);
        drop(tokio::spawn(async move {
            let _ = spawn_blocking(move || work(&store, &mut spell)).await;
            drop(wish);
        }));
    }

    async fn run<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Store) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        self.run_in(&self.lanes.writes, operation, work).await
    }

    /// Reads wait for no lock, and not for writes that do.
    async fn read<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Store) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        self.run_in(&self.lanes.reads, operation, work).await
    }

    async fn run_in<T: Send + 'static>(
        &self,
        lane: &Arc<Semaphore>,
        operation: &'static str,
        work: impl FnOnce(&Store) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let shut_down = || Error::new(ErrorKind::Unavailable).at(NAME, operation);
        // A caller that leaves while it waits here takes no thread.
        let turn = timeout(WAIT, Arc::clone(lane).acquire_owned()).await;
        let Ok(turn) = turn else {
            return Err(Error::new(ErrorKind::Timeout).at(NAME, operation));
        };
        let store = Arc::clone(&self.store);
        let work = spawn_blocking(move || {
            let _turn = turn;
            work(&store)
        });
        match work.await {
            Ok(result) => result.map_err(|error| unavailable(operation, error)),
            Err(error) => Err(shut_down().with_source(error)),
        }
    }

    /// Counts writes, and begins to sweep if that is due.
    fn wrote(&self, writes: usize) {
        if self.store.pace.wrote(writes) {
            self.spawn(Store::sweep_parts);
        }
    }

    /// Begins to delete what was cleared; the sweep finishes it, should it fail.
    fn empty_trash(&self) {
        self.spawn(|store, spell| drop(store.empty_trash(spell)));
    }
}

/// Options of a [`File`] store.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct FileBuilder {
    location: PathBuf,
    options: Options,
    clock: Option<Arc<dyn Clock>>,
}

impl FileBuilder {
    /// The most entries the store may hold. No limit by default.
    ///
    /// It is kept now and then, while the store is written to: in between there may be a quarter
    /// more, or 32, for each process that writes. What expires soonest goes first. From 2048 entries
    /// on the limit is kept for parts of the store, each by its share, so that some entries may go a
    /// little early.
    ///
    /// # Django
    ///
    /// `OPTIONS["MAX_ENTRIES"]`.
    pub fn max_entries(mut self, entries: usize) -> Self {
        self.options.max_entries = Some(entries);
        self
    }

    /// The clock to measure lifetimes with, by its wall time; the system's by default.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Makes the store; touches no file yet. A relative location is taken from the folder that is
    /// current now.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if the location is empty or `max_entries` is zero.
    pub fn build(self) -> Result<File> {
        if self.options.max_entries == Some(0) {
            return Err(Error::config("max_entries: must be more than zero"));
        }
        let root = std::path::absolute(&self.location).map_err(|error| {
            Error::config("location: is no path of a folder").with_source(error)
        })?;
        let clock = self.clock.unwrap_or_else(|| Arc::new(SystemClock::new()));
        Ok(File {
            store: Arc::new(Store::new(root, self.options, clock)),
            lanes: Arc::default(),
        })
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Options {
    max_entries: Option<usize>,
}

impl Backend for File {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new()
            .with_delete_prefix()
            .with_compare_and_set()
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        let key = key.clone();
        self.read("get", move |store| store.get(&key)).await
    }

    async fn set(&self, key: &Key, entry: Entry, lifetime: Lifetime) -> Result<()> {
        self.wrote(1);
        let key = key.clone();
        self.run("set", move |store| store.set(&key, &entry, lifetime))
            .await
    }

    async fn add(&self, key: &Key, entry: Entry, lifetime: Lifetime) -> Result<bool> {
        self.wrote(1);
        let key = key.clone();
        self.run("add", move |store| store.add(&key, &entry, lifetime))
            .await
    }

    async fn touch(&self, key: &Key, lifetime: Lifetime) -> Result<bool> {
        let key = key.clone();
        self.run("touch", move |store| store.touch(&key, lifetime))
            .await
    }

    async fn delete(&self, key: &Key) -> Result<bool> {
        let key = key.clone();
        self.run("delete", move |store| store.delete(&key)).await
    }

    async fn incr(&self, key: &Key, delta: i64) -> Result<i64> {
        let key = key.clone();
        self.run("incr", move |store| store.incr(&key, delta))
            .await?
            .map_err(|error| error.at(NAME, "incr"))
    }

    async fn rename(&self, from: &Key, to: &Key) -> Result<bool> {
        let (from, to) = (from.clone(), to.clone());
        self.run("rename", move |store| store.rename(&from, &to))
            .await
    }

    async fn ttl(&self, key: &Key) -> Result<Option<Lifetime>> {
        let key = key.clone();
        self.read("ttl", move |store| store.ttl(&key)).await
    }

    async fn clear(&self, namespace: &str) -> Result<()> {
        let namespace = namespace.to_owned();
        self.run("clear", move |store| store.clear(&namespace))
            .await?;
        self.empty_trash();
        Ok(())
    }

    async fn flush_store(&self) -> Result<()> {
        self.run("flush_store", Store::flush).await?;
        self.empty_trash();
        Ok(())
    }

    async fn compare_and_set(
        &self,
        key: &Key,
        expected: &Entry,
        entry: Entry,
        lifetime: Lifetime,
    ) -> Result<bool> {
        self.wrote(1);
        let (key, expected) = (key.clone(), expected.clone());
        self.run("compare_and_set", move |store| {
            store.compare_and_set(&key, &expected, &entry, lifetime)
        })
        .await
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Entry>>> {
        let keys = keys.to_vec();
        self.read("get_many", move |store| {
            keys.iter().map(|key| store.get(key)).collect()
        })
        .await
    }

    async fn set_many(&self, items: Vec<(Key, Entry, Lifetime)>) -> Result<Vec<Result<()>>> {
        self.wrote(items.len());
        self.run("set_many", move |store| {
            let outcomes = items.iter().map(|(key, entry, lifetime)| {
                let outcome = store.set(key, entry, *lifetime);
                outcome.map_err(|error| unavailable("set_many", error))
            });
            Ok(outcomes.collect())
        })
        .await
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<u64> {
        let keys = keys.to_vec();
        self.run("delete_many", move |store| {
            // One that fails does not keep the others.
            let outcomes: Vec<_> = keys.iter().map(|key| store.delete(key)).collect();
            outcomes.into_iter().map(|live| live.map(u64::from)).sum()
        })
        .await
    }

    /// Reads the beginning of every file of the prefix's namespaces, and removes them one by one.
    async fn delete_prefix(&self, prefix: &str) -> Result<u64> {
        let prefix = prefix.to_owned();
        self.run("delete_prefix", move |store| store.delete_prefix(&prefix))
            .await
    }

    async fn close(&self) -> Result<()> {
        self.store.locks.close();
        Ok(())
    }
}

fn unavailable(operation: &'static str, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::TimedOut => ErrorKind::Timeout,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind).at(NAME, operation).with_source(error)
}

#[cfg(test)]
mod tests;
