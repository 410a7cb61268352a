//! Entries that are not as they were written: by rot, or by somebody.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use axum_cache::backend::{Backend, File, Memcached as MemcachedStore, Redis as RedisStore, Sql};
use axum_cache::{Cache, Caches, Settings};

use crate::counted::{corrupt, panics};
use crate::damage::{Bench, Sort, damaged, text};
use crate::is_long;
use crate::support::servers::database::Database;
use crate::support::servers::memcached::Memcached;
use crate::support::servers::redis::Redis;
use crate::tools::{PATIENCE, TTL, report};

const SORTS: [Sort; 3] = [Sort::Value, Sort::Page, Sort::Fragment];

const CRITERION: &str = "always a miss, counted, and replaced; 0 panics, 0 wrong values";

/// What became of damaged entries.
#[derive(Debug, Default)]
struct Outcome {
    damaged: usize,
    /// Not computed anew.
    believed: Vec<String>,
    wrong: Vec<String>,
    uncounted: Vec<String>,
    /// Still not read from the store afterwards.
    kept: Vec<String>,
}

impl Outcome {
    /// What is there now is unusable in this way: asks for it.
    async fn ask<B: Backend>(
        &mut self,
        bench: &Bench<B>,
        (sort, name): (Sort, &str),
        counter: &str,
        (what, bytes): (&str, &[u8]),
    ) {
        self.damaged += 1;
        let what = || format!("{sort:?} {what}");
        let before = corrupt(counter);
        let (said, is_computed) = bench.ask(sort, name).await;
        if said != text(name) {
            self.wrong.push(what());
        }
        if !is_computed {
            self.believed.push(what());
            return;
        }
        if corrupt(counter) == before {
            self.uncounted.push(what());
        }
        bench.landed(sort, name, bytes).await;
        let before = corrupt(counter);
        let (said, is_computed) = bench.ask(sort, name).await;
        if said != text(name) || is_computed || corrupt(counter) != before {
            self.kept.push(what());
        }
    }

    fn finish(&self, scenario: &str, panics_before: usize) {
        let panicked = panics() - panics_before;
        report(
            scenario,
            CRITERION,
            format_args!(
                "{} damaged: {} believed, {} wrong, {} not counted, {} not replaced, {panicked} panics",
                self.damaged,
                self.believed.len(),
                self.wrong.len(),
                self.uncounted.len(),
                self.kept.len(),
            ),
        );
        let failed = [&self.believed, &self.wrong, &self.uncounted, &self.kept];
        assert!(failed.iter().all(|it| it.is_empty()), "{self:#?}");
        assert!(self.damaged > 50, "only {}", self.damaged);
        assert_eq!(panicked, 0);
    }
}

/// In a store that is read and written past the cache.
async fn damage_entries<B: Backend + Clone>(store: B) {
    let scenario = format!("F1 {}", store.name());
    let name = format!("damaged in {}", store.name());
    let cache = Cache::builder(store.clone()).name(name.as_str());
    let bench = Bench::new(store, cache.build().unwrap());
    let (mut outcome, panics) = (Outcome::default(), panics());
    for sort in SORTS {
        let key = bench.key(sort, "own");
        let (own, other) = (
            bench.stored(sort, "own").await,
            bench.stored(sort, "other").await,
        );
        let mut all = damaged(&own, &other);
        for format in [0, 1, 3, 255] {
            let mut future = own.clone();
            future[3] = format;
            all.push((format!("of format {format}"), future));
        }
        for of in SORTS.into_iter().filter(|of| *of != sort) {
            all.push((format!("a {of:?}"), bench.stored(of, "own").await));
        }
        // A value of this very key, but of another type.
        let as_name = bench.name_of(sort, "own");
        bench
            .cache
            .set(&as_name, &vec![1, 2, 3], TTL)
            .await
            .unwrap();
        all.push(("of another type".to_owned(), bench.bytes(&key).await));
        for (what, bytes) in all {
            bench.put(&key, &bytes).await;
            let asked = outcome.ask(&bench, (sort, "own"), &name, (&what, &bytes));
            asked.await;
        }
    }
    outcome.finish(&scenario, panics);
}

pub(crate) async fn f1_redis_entries_are_damaged() {
    let redis = Redis::start(&[]).unwrap();
    let store = RedisStore::builder([redis.url()]).operation_timeout(PATIENCE);
    damage_entries(store.build().unwrap()).await;
}

pub(crate) async fn f1_memcached_entries_are_damaged() {
    let memcached = Memcached::start(&[]).unwrap();
    let store = MemcachedStore::builder([memcached.url()]).operation_timeout(PATIENCE);
    damage_entries(store.build().unwrap()).await;
}

pub(crate) async fn f1_postgres_entries_are_damaged() {
    let database = Database::postgres().unwrap();
    let store = Sql::builder(&database.url).create_table(true);
    let store = store.operation_timeout(PATIENCE);
    damage_entries(store.build().unwrap()).await;
}

pub(crate) async fn f1_sqlite_entries_are_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let store = Sql::sqlite(folder.path().join("cache.db")).create_table(true);
    damage_entries(store.build().unwrap()).await;
}

pub(crate) async fn f1_file_entries_are_damaged() {
    let folder = tempfile::tempdir().unwrap();
    damage_entries(File::builder(folder.path()).build().unwrap()).await;
}

fn entries(folder: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for item in fs::read_dir(folder).unwrap() {
        let path = item.unwrap().path();
        if path.is_dir() {
            found.extend(entries(&path));
        } else if path.extension().is_some_and(|it| it == "axc") {
            found.insert(path);
        }
    }
    found
}

/// The files themselves: their head, the key and the value.
pub(crate) async fn f1_files_are_damaged_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let store = File::builder(folder.path()).build().unwrap();
    let bench = Bench::new(store.clone(), Cache::new(store));
    let (mut outcome, panics) = (Outcome::default(), panics());
    for sort in [Sort::Value, Sort::Page] {
        bench.stored(sort, "other").await;
        let before = entries(folder.path());
        bench.stored(sort, "own").await;
        let after = entries(folder.path());
        let files: Vec<_> = after.difference(&before).collect();
        let others: Vec<_> = before.iter().map(|file| fs::read(file).unwrap()).collect();
        let [file] = files[..] else {
            panic!("{files:?}");
        };
        let own = fs::read(file).unwrap();
        let mut all = damaged(&own, &others[0]);
        let mut future = own.clone();
        future[7] += 1;
        all.push(("of a future format".to_owned(), future));
        for (what, bytes) in all {
            // A sweep that comes first removes what it finds damaged, and then nobody has read it.
            for tries in 1.. {
                fs::write(file, &bytes).unwrap();
                let before = outcome.uncounted.len();
                outcome
                    .ask(&bench, (sort, "own"), "file", (&what, b""))
                    .await;
                if outcome.uncounted.len() == before || tries == 5 {
                    break;
                }
                outcome.uncounted.truncate(before);
            }
        }
    }
    outcome.finish("F1 files on disk", panics);
}

/// A cache with these secrets, as settings make it.
async fn signing(url: &str, secrets: &[&str]) -> Cache {
    let settings = serde_json::json!({
        "default": {"backend": "memory"},
        "signed": {
            "backend": "redis", "location": url, "signing_keys": secrets,
            "options": {"operation_timeout": PATIENCE.as_secs()},
        },
    });
    let settings = Settings::from_json(&settings.to_string()).unwrap();
    let caches = Caches::builder().settings(settings).build().await;
    caches.unwrap().get("signed").unwrap()
}

pub(crate) async fn f6_signed_entries_are_tampered_with() {
    const OLD: &str = "the secret of yesterday";
    const NEW: &str = "the secret of today";
    let redis = Redis::start(&[]).unwrap();
    let store = RedisStore::builder([redis.url()]).operation_timeout(PATIENCE);
    let store = store.build().unwrap();
    let bench = async |secrets: &[&str]| {
        let cache = signing(&redis.url(), secrets).await;
        Bench::new(store.clone(), cache)
    };
    let (old, both, new) = (
        bench(&[OLD]).await,
        bench(&[NEW, OLD]).await,
        bench(&[NEW]).await,
    );
    let (mut readable, mut refused) = (0, 0);
    for sort in SORTS {
        old.stored(sort, "old").await;
        both.stored(sort, "both").await;
        // Who does not believe it replaces it, so that comes last.
        for (reads, name) in [(&both, "old"), (&new, "both")] {
            let (said, is_computed) = reads.ask(sort, name).await;
            assert_eq!(said, text(name));
            readable += usize::from(!is_computed);
        }
        for (reads, name) in [(&new, "old"), (&old, "both")] {
            let (said, is_computed) = reads.ask(sort, name).await;
            assert_eq!(said, text(name));
            refused += usize::from(is_computed);
        }
    }
    let (mut tampered, mut rejected, mut counted) = (0, 0, 0);
    for sort in SORTS {
        let (key, own) = (new.key(sort, "own"), new.stored(sort, "own").await);
        for at in 0..own.len() {
            for bit in 0..8 {
                let is_sampled = at < 5 || bit == at % 8 || sort == Sort::Value;
                if !is_sampled && !is_long() {
                    continue;
                }
                let mut bytes = own.clone();
                bytes[at] ^= 1 << bit;
                new.put(&key, &bytes).await;
                let before = corrupt("signed");
                let (said, is_computed) = new.ask(sort, "own").await;
                assert_eq!(said, text("own"));
                tampered += 1;
                rejected += usize::from(is_computed);
                counted += usize::from(corrupt("signed") > before);
                if sort == Sort::Page {
                    // It is stored when the answer is out already.
                    new.landed(sort, "own", &bytes).await;
                }
            }
        }
    }
    report(
        "F6 redis",
        "100 % of tampered entries rejected and counted; rotation keeps N-1 readable",
        format_args!(
            "{tampered} tampered: {rejected} rejected, {counted} counted; of a former secret {readable}/6 read, of one that is none {refused}/6 refused"
        ),
    );
    assert_eq!((tampered, tampered), (rejected, counted));
    assert_eq!((readable, refused), (6, 6));
}
