//! What expired is swept away while others go on.

use std::future::Future;
use std::time::{Duration, Instant};

use axum_cache::backend::{Backend, File, Sql};
use axum_cache::clock::ManualClock;
use axum_cache::entry::Entry;
use axum_cache::key::Key;
use axum_cache::ttl::Lifetime;
use axum_cache::{Cache, Error};
use tokio::task::JoinSet;

use crate::is_long;
use crate::load::pause;
use crate::support::servers::database::Database;
use crate::tools::{MILLI, SECOND, SLACK, report};

/// How many entries live on.
const LIVE: usize = 100;

/// How many fill the store at a time, and with how many entries each.
const WRITERS: usize = 4;
const BATCH: usize = 500;

/// How late an operation of others may be, and how long a lock may be held.
const LATE: Duration = Duration::from_millis(10);
const HELD: Duration = Duration::from_millis(50);

fn rows() -> usize {
    if is_long() { 1_000_000 } else { 20_000 }
}

/// How long the calls before the sweep are measured.
fn base() -> Duration {
    if is_long() { 10 * SECOND } else { SECOND }
}

/// How late others may be: a machine that is slow without a sweep is measured by itself.
fn late(before: &Calls) -> Duration {
    let base = before.p99();
    if is_long() && base > LATE / 2 {
        LATE.max(2 * base)
    } else {
        LATE
    }
}

/// Waits until the disk has what was stored: that was long before it expired.
async fn settle() {
    let sync = || std::process::Command::new("sync").status();
    let synced = tokio::task::spawn_blocking(sync).await.unwrap();
    assert!(synced.unwrap().success());
}

/// A store that is used while its entries expire.
#[derive(Clone)]
struct Used<B> {
    store: B,
    cache: Cache,
}

/// What came of the calls, and how long they took.
#[derive(Debug, Default)]
struct Calls {
    reads: Vec<Duration>,
    writes: Vec<Duration>,
    errors: Vec<String>,
    /// Live entries that were not found.
    lost: usize,
}

impl Calls {
    fn count(&mut self, is_write: bool, took: Duration, outcome: Result<bool, Error>) {
        if is_write {
            self.writes.push(took);
        } else {
            self.reads.push(took);
        }
        match outcome {
            Ok(found) => self.lost += usize::from(!found),
            Err(error) => self.errors.push(format!("{error:?}")),
        }
    }

    /// All but one of a hundred took so long at most.
    fn p99(&self) -> Duration {
        let mut all = [&self.reads[..], &self.writes[..]].concat();
        all.sort_unstable();
        all[all.len() * 99 / 100]
    }

    fn longest_write(&self) -> Duration {
        self.writes.iter().max().copied().unwrap_or_default()
    }
}

impl<B: Backend + Clone> Used<B> {
    fn new(store: B) -> Self {
        let cache = Cache::new(store.clone());
        Self { store, cache }
    }

    fn key(&self, name: &str) -> Key {
        self.cache.final_key(name).unwrap()
    }

    /// Stores entries that live so long, and some that live on.
    async fn fill(&self, life: Duration) {
        let start = Instant::now();
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let used = self.clone();
            writers.spawn(async move { used.fill_part(writer, life).await });
        }
        writers.join_all().await;
        let took = start.elapsed();
        println!("F4 {}: {} stored in {took:.1?}", self.store.name(), rows());
    }

    /// Stores every so manieth of the entries.
    async fn fill_part(&self, writer: usize, life: Duration) {
        let lasting = (0..LIVE).map(|number| (format!("live:{number}"), Lifetime::Forever));
        let dead = (0..rows()).map(|number| (format!("dead:{number}"), Lifetime::For(life)));
        let items = lasting.chain(dead).skip(writer).step_by(WRITERS);
        let mut items = items.map(|(name, life)| (self.key(&name), Entry::from("value"), life));
        loop {
            let batch: Vec<_> = items.by_ref().take(BATCH).collect();
            if batch.is_empty() {
                return;
            }
            for outcome in self.store.set_many(batch).await.unwrap() {
                outcome.unwrap();
            }
        }
    }

    /// Reads and writes what lives, and writes anew what is swept away, as long as `other` takes: one call a
    /// millisecond, whether or not those before have ended.
    async fn beside<T>(&self, other: impl Future<Output = T>) -> (Calls, T) {
        let mut other = std::pin::pin!(other);
        let (mut tasks, mut calls) = (JoinSet::new(), Calls::default());
        let mut number = 0;
        let value = loop {
            tokio::select! {
                value = &mut other => break value,
                () = pause(MILLI) => {
                    let (used, due, call) = (self.clone(), Instant::now(), number);
                    tasks.spawn(async move {
                        let outcome = used.call(call).await;
                        (call % 3 != 0, due.elapsed(), outcome)
                    });
                    number += 1;
                    while let Some(done) = tasks.try_join_next() {
                        let (is_write, took, outcome) = done.unwrap();
                        calls.count(is_write, took, outcome);
                    }
                }
            }
        };
        for (is_write, took, outcome) in tasks.join_all().await {
            calls.count(is_write, took, outcome);
        }
        (calls, value)
    }

    /// Whether it found what it should.
    async fn call(&self, number: usize) -> Result<bool, Error> {
        let live = self.key(&format!("live:{}", number * 7 % LIVE));
        let entry = Entry::from("value");
        match number % 3 {
            0 => Ok(self.store.get(&live).await?.is_some()),
            1 => {
                self.store.set(&live, entry, Lifetime::Forever).await?;
                Ok(true)
            }
            _ => {
                let dead = self.key(&format!("dead:{}", number * 7919 % rows()));
                self.store.set(&dead, entry, Lifetime::Forever).await?;
                Ok(self.store.get(&dead).await?.is_some())
            }
        }
    }

    /// Sweeps beside it, and says what came of that.
    #[allow(clippy::future_not_send, reason = "it is awaited where it is made")]
    async fn judge(&self, what: &str, sweep: impl AsyncFn() -> u64) -> Calls {
        if is_long() {
            settle().await;
        }
        let (before, ()) = self.beside(pause(base())).await;
        let late = late(&before);
        let start = Instant::now();
        let timed = async { (sweep().await, start.elapsed()) };
        let (during, (swept, took)) = self.beside(timed).await;
        report(
            &format!("F4 {}", self.store.name()),
            &format!("p99 of others <= {late:?}; 0 errors; locks <= 50 ms"),
            format_args!(
                "{what}, {swept} of {} in {took:.1?}: {} calls, p99 {:.1?}, before {:.1?}; longest write {:.1?}, before {:.1?}; {} errors, {} lost",
                rows(),
                during.reads.len() + during.writes.len(),
                during.p99(),
                before.p99(),
                during.longest_write(),
                before.longest_write(),
                during.errors.len(),
                during.lost,
            ),
        );
        assert!(during.errors.is_empty(), "{:?}", during.errors);
        assert_eq!((during.lost, before.lost), (0, 0));
        assert!(during.p99() < late + SLACK, "{:?}", during.p99());
        // Those who write sweep files, too.
        assert!(swept > rows() as u64 / 3, "only {swept} were swept");
        assert_eq!(sweep().await, 0, "one sweep takes all");
        assert!(during.writes.len() > 5, "nobody wrote meanwhile");
        during
    }
}

pub(crate) async fn f4_files_are_swept() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), ManualClock::new());
    let open = || {
        let builder = File::builder(folder.path()).clock(clock.clone());
        builder.build().unwrap()
    };
    let used = Used::new(open());
    used.fill(60 * SECOND).await;
    clock.advance(61 * SECOND);
    let other = open();
    used.judge("by another process", async || other.sweep().await.unwrap())
        .await;
}

pub(crate) async fn f4_sqlite_is_swept() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), ManualClock::new());
    let path = folder.path().join("cache.db");
    let open = || {
        let builder = Sql::sqlite(&path).clock(clock.clone()).cull_interval(0);
        builder.build().unwrap()
    };
    let used = Used::new(open());
    used.store.create_table().await.unwrap();
    used.fill(60 * SECOND).await;
    clock.advance(61 * SECOND);
    let others = [open(), open()];
    let sweep = async || {
        let [one, other] = &others;
        let (one, other) = tokio::join!(one.cull(), other.cull());
        one.unwrap() + other.unwrap()
    };
    used.judge("by two others at once", sweep).await;
}

pub(crate) async fn f4_postgres_is_swept() {
    let database = Database::postgres().unwrap();
    let open = || {
        let builder = Sql::builder(&database.url).cull_interval(0);
        builder.build().unwrap()
    };
    let used = Used::new(open());
    used.store.create_table().await.unwrap();
    used.fill(MILLI).await;
    pause(20 * MILLI).await;
    let others = [open(), open()];
    let sweep = async || {
        let [one, other] = &others;
        let (one, other) = tokio::join!(one.cull(), other.cull());
        one.unwrap() + other.unwrap()
    };
    let during = used.judge("by two others at once", sweep).await;
    let longest = during.longest_write();
    assert!(longest < HELD + SLACK, "{longest:?}");
}
