//! What is particular to the file store; the rest is in the conformance suite, and what takes
//! several processes in `tests/it/files.rs`.
#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use std::fs;
use std::time::Duration;

use tempfile::TempDir;

use super::layout::{Own, names};
use super::*;
use crate::clock::ManualClock;
use crate::key::KeyFunction;
use crate::{Cache, Ttl};

const SHORT: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(1000);

struct Setup {
    file: File,
    cache: Cache,
    clock: ManualClock,
    _folder: TempDir,
}

fn setup(change: impl FnOnce(FileBuilder) -> FileBuilder) -> Setup {
    let folder = tempfile::tempdir().unwrap();
    let clock = ManualClock::new();
    let builder = File::builder(folder.path()).clock(clock.clone());
    let file = change(builder).build().unwrap();
    Setup {
        cache: Cache::new(file.clone()),
        file,
        clock,
        _folder: folder,
    }
}

impl Setup {
    fn files(&self) -> usize {
        let namespaces = self.file.store.layout.namespaces().unwrap();
        let shards = namespaces
            .iter()
            .flat_map(|namespace| (0..layout::SHARDS).map(|shard| layout::shard(namespace, shard)));
        shards.map(|shard| names(&shard).unwrap().len()).sum()
    }

    fn sweep_parts(&self) {
        let (mut spell, _wish) = Spell::new();
        self.file.store.sweep_parts(&mut spell);
    }

    fn key(&self, key: &str) -> Key {
        self.cache.final_key(key).unwrap()
    }
}

/// Passes keys through, and promises nothing of them.
#[derive(Debug)]
struct Raw;

impl KeyFunction for Raw {
    fn key(&self, key: &str, _: &str, _: u64) -> String {
        key.to_owned()
    }
}

#[tokio::test]
async fn clear_finds_the_keys_of_functions_without_a_namespace() {
    let setup = setup(|builder| builder);
    let raw = Cache::builder(setup.file.clone()).key_function(Raw);
    let raw = raw.build().unwrap();
    for key in ["p:1:a", "p:a", "pp:1:a", "q:1:a"] {
        raw.set(key, &1, Ttl::Never).await.unwrap();
    }
    let prefixed = Cache::builder(setup.file.clone()).key_prefix("p");
    let prefixed = prefixed.build().unwrap();
    prefixed.set("b", &1, Ttl::Never).await.unwrap();
    prefixed.clear().await.unwrap();
    assert!(!prefixed.contains("b").await.unwrap());
    for (key, lives) in [
        ("p:1:a", false),
        ("p:a", false),
        ("pp:1:a", true),
        ("q:1:a", true),
    ] {
        assert_eq!(raw.contains(key).await.unwrap(), lives, "{key}");
    }
    setup.file.clear("").await.unwrap();
    assert_eq!(setup.files(), 0, "every key begins with nothing");
}

#[tokio::test]
async fn what_was_cleared_is_deleted() {
    let setup = setup(|builder| builder);
    for number in 0..20 {
        let key = setup.key(&number.to_string());
        // Not through the cache: some write begins a sweep in the background.
        let stored = setup.file.store.set(&key, &"1".into(), Lifetime::Forever);
        stored.unwrap();
    }
    setup.file.store.clear(":").unwrap();
    let trash = setup.file.store.layout.trash();
    assert_eq!(names(&trash).unwrap().len(), 1);
    assert_eq!(setup.file.sweep().await.unwrap(), 20);
    assert_eq!(names(&trash).unwrap().len(), 0);
}

#[tokio::test]
async fn fb_06_what_expired_goes_without_being_asked_for() {
    let setup = setup(|builder| builder);
    for number in 0..100 {
        let ttl = if number % 2 == 0 { SHORT } else { LONG };
        setup
            .file
            .store
            .set(
                &setup.key(&number.to_string()),
                &"1".into(),
                Lifetime::For(ttl),
            )
            .unwrap();
    }
    // What a killed writer left.
    let place = setup.file.store.layout.place(&setup.key("1"));
    fs::write(&place.temporary, "half a fi").unwrap();
    setup.clock.advance(SHORT);
    for _ in 0..layout::SHARDS {
        setup.sweep_parts();
    }
    assert_eq!(setup.files(), 50);
    setup.clock.advance(LONG);
    assert_eq!(setup.file.sweep().await.unwrap(), 50);
    assert!(setup.file.store.layout.namespaces().unwrap().is_empty());
}

#[test]
fn a_runtime_that_shuts_down_waits_for_no_sweep() {
    let setup = setup(|builder| builder);
    for number in 0..3000 {
        let key = setup.key(&number.to_string());
        let lifetime = Lifetime::For(SHORT);
        setup.file.store.set(&key, &"1".into(), lifetime).unwrap();
    }
    setup.clock.advance(SHORT);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let file = setup.file.clone();
    runtime.spawn(async move { file.sweep().await });
    while setup.files() == 3000 {
        std::thread::yield_now();
    }
    drop(runtime);
    let left = setup.files();
    assert!(left > 0, "it went on to its end");
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(setup.files(), left, "it goes on");
}

#[tokio::test]
async fn writes_begin_a_sweep_by_themselves() {
    let setup = setup(|builder| builder.max_entries(10));
    for number in 0..200 {
        let key = number.to_string();
        setup.cache.set(&key, &1, Ttl::Default).await.unwrap();
    }
    for _ in 0..500 {
        if setup.files() <= 10 + 32 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} files", setup.files());
}

#[test]
fn what_is_dead_does_not_outgrow_what_lives() {
    let setup = setup(|builder| builder);
    let live = 2000;
    for number in 0..4 * live {
        let key = setup.key(&number.to_string());
        let lifetime = Lifetime::For(Duration::from_millis(live));
        setup.file.store.set(&key, &"1".into(), lifetime).unwrap();
        setup.clock.advance(Duration::from_millis(1));
        if setup.file.store.pace.wrote(1) {
            setup.sweep_parts();
        }
    }
    let files = setup.files() as u64;
    assert!(files <= 3 * live, "{files} files of which {live} live");
}

#[tokio::test]
async fn max_entries_holds_and_what_expires_soonest_goes() {
    let setup = setup(|builder| builder.max_entries(30));
    for number in 0..90_u64 {
        let ttl = match number % 3 {
            0 => Ttl::Never,
            1 => Ttl::After(LONG),
            _ => Ttl::After(SHORT),
        };
        let lifetime = ttl.lifetime().unwrap();
        setup
            .file
            .store
            .set(&setup.key(&number.to_string()), &"1".into(), lifetime)
            .unwrap();
    }
    assert_eq!(setup.file.sweep().await.unwrap(), 60);
    for number in 0..90 {
        let lives = setup.cache.contains(&number.to_string()).await.unwrap();
        assert_eq!(lives, number % 3 == 0, "{number}");
    }
    setup.cache.set("0", &2, Ttl::Never).await.unwrap();
    assert_eq!(
        setup.file.sweep().await.unwrap(),
        0,
        "an overwrite evicts nothing"
    );
}

#[tokio::test]
async fn a_file_of_another_key_is_a_miss() {
    let setup = setup(|builder| builder);
    setup.cache.set("a", &1, Ttl::Never).await.unwrap();
    let [a, b] = ["a", "b"].map(|key| setup.file.store.layout.place(&setup.key(key)));
    fs::create_dir_all(&b.folder).unwrap();
    fs::copy(&a.file, &b.file).unwrap();
    assert_eq!(setup.cache.get::<i32>("b").await.unwrap(), None);
    assert!(!setup.cache.touch("b", LONG).await.unwrap());
    fs::copy(&a.file, &b.file).unwrap();
    assert!(setup.cache.add("b", &2, LONG).await.unwrap());
    assert_eq!(setup.cache.get("b").await.unwrap(), Some(2));
}

#[tokio::test]
async fn a_leftover_is_overwritten_by_the_next_set() {
    let setup = setup(|builder| builder);
    let place = setup.file.store.layout.place(&setup.key("k"));
    fs::create_dir_all(&place.folder).unwrap();
    fs::write(&place.temporary, "half a fi").unwrap();
    setup.cache.set("k", &1, Ttl::Never).await.unwrap();
    assert_eq!(setup.files(), 1);
    let name = place.file.file_name().unwrap().to_str().unwrap();
    assert!(matches!(Own::parse(name), Some(Own::Entry { stripe }) if stripe == place.stripe));
}

#[test]
fn options_that_make_no_sense_are_refused() {
    for builder in [File::builder(""), File::builder("x").max_entries(0)] {
        assert_eq!(builder.build().unwrap_err().kind(), ErrorKind::Config);
    }
    let relative = File::builder("x/../cache/").build().unwrap();
    assert!(relative.location().is_absolute());
}

#[tokio::test]
async fn a_prefix_is_looked_for_where_its_keys_can_be() {
    let setup = setup(|builder| builder);
    let raw = Cache::builder(setup.file.clone()).key_function(Raw);
    let raw = raw.build().unwrap();
    raw.set("pq", &1, Ttl::Never).await.unwrap();
    raw.set("o", &1, Ttl::Never).await.unwrap();
    for prefix in ["p", "pq", "o"] {
        let cache = Cache::builder(setup.file.clone()).key_prefix(prefix);
        let cache = cache.build().unwrap();
        cache.set("a", &1, Ttl::Never).await.unwrap();
        cache.set("b", &1, SHORT).await.unwrap();
    }
    setup.clock.advance(LONG);
    // Four are of namespaces that begin with it, two of them expired.
    assert_eq!(setup.file.delete_prefix("p").await.unwrap(), 3);
    assert_eq!(setup.files(), 3);
    assert_eq!(setup.file.delete_prefix("o:1:a").await.unwrap(), 1);
    assert_eq!(setup.file.delete_prefix("").await.unwrap(), 1);
    assert_eq!(setup.files(), 0);
}

#[tokio::test]
async fn what_is_rotten_does_not_keep_a_prefix() {
    let setup = setup(|builder| builder);
    for number in 0..20 {
        // Past what sweeps in the background.
        let (store, key) = (&setup.file.store, setup.key(&number.to_string()));
        store.set(&key, &"1".into(), Lifetime::Forever).unwrap();
        if number % 2 == 0 {
            let file = store.layout.place(&key).file;
            fs::write(file, "rotten").unwrap();
        }
    }
    // The namespace begins with the first; the second begins with the namespace.
    for (prefix, deleted) in [("", 10), (":1:", 0)] {
        assert_eq!(setup.file.delete_prefix(prefix).await.unwrap(), deleted);
    }
    assert_eq!(setup.files(), 10);
}
