//! Two versions of one application that share a store for a while.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Path, State};
use axum::http::Request;
use axum::routing::get;
use axum_cache::backend::{Backend, Memcached as MemcachedStore, Redis as RedisStore};
use axum_cache::entry::Entry;
use axum_cache::ttl::Lifetime;
use axum_cache::{Cache, CacheLayer};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::task::{JoinHandle, JoinSet};
use tower::ServiceExt;

use crate::counted::panics;
use crate::is_long;
use crate::load::pause;
use crate::support::servers::memcached::Memcached;
use crate::support::servers::redis::Redis;
use crate::tools::{MILLI, SECOND, TTL, report};

/// How many keys there are of each group.
const KEYS: usize = 20;

/// How long they live: short, so that they are computed again and again.
const LIFE: Duration = Duration::from_secs(2);

/// The same in both versions.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Plain {
    number: usize,
    text: String,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct OldUser {
    id: usize,
    name: String,
}

/// A field more.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct NewUser {
    id: usize,
    name: String,
    mail: String,
}

/// Another type under the old key: what was a text.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct NewShape {
    text: Vec<String>,
}

/// What came of the calls of a node.
#[derive(Debug, Default)]
struct Tally {
    unchanged: AtomicUsize,
    unchanged_computed: AtomicUsize,
    changed: AtomicUsize,
    wrong: AtomicUsize,
    errors: AtomicUsize,
}

fn add(counter: &AtomicUsize) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Tally {
    fn of(&self, counter: impl Fn(&Self) -> &AtomicUsize) -> usize {
        counter(self).load(Ordering::Relaxed)
    }

    /// The share of the unchanged that was read from the store.
    #[allow(clippy::cast_precision_loss, reason = "small numbers")]
    fn hits(&self) -> f64 {
        let all = self.of(|it| &it.unchanged);
        assert!(all > 200, "only {all}");
        1.0 - self.of(|it| &it.unchanged_computed) as f64 / all as f64
    }
}

/// A node of one of the versions.
#[derive(Clone)]
struct Node {
    cache: Cache,
    is_new: bool,
    tally: Arc<Tally>,
    site: Router,
}

impl Node {
    fn new(store: impl Backend, is_new: bool, tally: &Arc<Tally>) -> Self {
        let cache = Cache::new(store);
        let tally = Arc::clone(tally);
        let page = |State(tally): State<Arc<Tally>>, Path(number): Path<usize>| async move {
            add(&tally.unchanged_computed);
            format!("page {number}")
        };
        let site = Router::new()
            .route("/{number}", get(page))
            .with_state(Arc::clone(&tally))
            .layer(CacheLayer::new(cache.clone()).ttl(LIFE));
        Self {
            cache,
            is_new,
            tally,
            site,
        }
    }

    /// Asks for a value that has to be this one. Whether it was computed.
    async fn ask<T>(&self, cache: &Cache, key: &str, make: impl Fn() -> T) -> bool
    where
        T: Serialize + DeserializeOwned + PartialEq + Send + Sync + 'static,
    {
        let (value, is_computed) = (make(), Arc::new(AtomicBool::new(false)));
        let computed = Arc::clone(&is_computed);
        let compute = move || async move {
            computed.store(true, Ordering::Relaxed);
            Ok::<_, io::Error>(value)
        };
        match cache.get_or_set(key, LIFE, compute).await {
            Ok(found) if found == make() => {}
            Ok(_) => add(&self.tally.wrong),
            Err(_) => add(&self.tally.errors),
        }
        // As a value that is only read.
        match cache.get::<T>(key).await {
            Ok(Some(found)) if found != make() => add(&self.tally.wrong),
            Ok(_) => {}
            Err(_) => add(&self.tally.errors),
        }
        is_computed.load(Ordering::Relaxed)
    }

    async fn ask_for_plain(&self, group: &str, number: usize) -> bool {
        let key = format!("{group}:{number}");
        let plain = || Plain {
            number,
            text: format!("text {number}"),
        };
        self.ask(&self.cache, &key, plain).await
    }

    async fn ask_for_page(&self, number: usize) {
        let request = Request::get(format!("http://site.test/{number}"));
        let request = request.body(Body::empty()).unwrap();
        let response = self.site.clone().oneshot(request).await.unwrap();
        if response.status() != 200 {
            add(&self.tally.errors);
        }
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        if body != format!("page {number}") {
            add(&self.tally.wrong);
        }
    }

    /// What has changed from one version to the other.
    async fn ask_for_changed(&self, number: usize) {
        let (cache, name) = (&self.cache, format!("name {number}"));
        let id = number;
        let user = format!("user:{number}");
        let shape = format!("shape:{number}");
        let price = format!("price:{number}");
        if self.is_new {
            let mail = || format!("{number}@site.test");
            let make = || NewUser {
                id,
                name: name.clone(),
                mail: mail(),
            };
            self.ask(cache, &user, make).await;
            let make = || NewShape {
                text: vec![name.clone()],
            };
            self.ask(cache, &shape, make).await;
            // Cents, where the former version has whole ones: only a version can tell.
            let make = || number as u64 * 100;
            self.ask(&cache.with_version(2), &price, make).await;
        } else {
            let make = || OldUser {
                id,
                name: name.clone(),
            };
            self.ask(cache, &user, make).await;
            self.ask(cache, &shape, || name.clone()).await;
            self.ask(cache, &price, || number as u64).await;
        }
        add(&self.tally.changed);
    }

    /// Asks for so long, from several tasks.
    async fn run(self, time: Duration) {
        let mut tasks = JoinSet::new();
        for task in 0..3_usize {
            let node = self.clone();
            tasks.spawn(async move {
                let start = std::time::Instant::now();
                for round in 0.. {
                    if start.elapsed() >= time {
                        return;
                    }
                    let number = (round * 7 + task) % KEYS;
                    let is_computed = node.ask_for_plain("plain", number).await;
                    node.ask_for_page(number).await;
                    node.tally.unchanged.fetch_add(2, Ordering::Relaxed);
                    if is_computed {
                        add(&node.tally.unchanged_computed);
                    }
                    node.ask_for_changed(number).await;
                    node.ask_for_plain("future", number).await;
                    pause(2 * MILLI).await;
                }
            });
        }
        tasks.join_all().await;
    }
}

/// Rewrites what is below these keys as a later version of the crate might.
async fn advance_format<B: Backend>(store: &B, cache: &Cache) -> usize {
    let mut advanced = 0;
    for number in 0..KEYS {
        let key = cache.final_key(&format!("future:{number}")).unwrap();
        let Some(entry) = store.get(&key).await.unwrap() else {
            continue;
        };
        let mut bytes = entry.bytes().to_vec();
        if bytes.starts_with(b"axc\x02\x04") {
            bytes[3] = 3;
            let lifetime = Lifetime::For(TTL);
            store.set(&key, Entry::new(bytes), lifetime).await.unwrap();
            advanced += 1;
        }
    }
    advanced
}

async fn roll_out<B: Backend + Clone>(connect: impl Fn() -> B) {
    let store = connect();
    let scenario = format!("F2 {}", store.name());
    let (times, before) = (if is_long() { 75 } else { 1 }, panics());
    let steady = Arc::new(Tally::default());
    let nodes = [(); 2].map(|()| Node::new(connect(), false, &steady));
    let running: Vec<_> = nodes
        .into_iter()
        .map(|node| tokio::spawn(node.run(3 * SECOND)))
        .collect();
    for node in running {
        node.await.unwrap();
    }
    let mixed = Arc::new(Tally::default());
    let (old, new) = (
        Node::new(connect(), false, &mixed),
        Node::new(connect(), true, &mixed),
    );
    let time = 4 * SECOND * times;
    let running = [old.clone(), new].map(|node| tokio::spawn(node.run(time)));
    let mut advanced = 0;
    while !running.iter().all(JoinHandle::is_finished) {
        advanced += advance_format(&store, &old.cache).await;
        pause(100 * MILLI).await;
    }
    for node in running {
        node.await.unwrap();
    }
    // One after the other, so that nobody else replaces them.
    for number in 0..KEYS {
        old.ask_for_plain("future", number).await;
    }
    assert_eq!(advance_format(&store, &old.cache).await, KEYS);
    let mut misses = 0;
    for number in 0..KEYS {
        misses += usize::from(old.ask_for_plain("future", number).await);
        assert!(!old.ask_for_plain("future", number).await);
    }
    let (before_hits, hits) = (steady.hits(), mixed.hits());
    let (errors, wrong) = (mixed.of(|it| &it.errors), mixed.of(|it| &it.wrong));
    let panicked = panics() - before;
    report(
        &scenario,
        "0 decode errors, 0 of another type; hits of unchanged keys >= 90 % of steady",
        format_args!(
            "{} calls unchanged and {} rounds changed: {errors} errors, {wrong} wrong, {panicked} panics; hits {:.2} % of before {:.2} %; \
             {advanced} of a future format meanwhile, of {KEYS} more {misses} misses",
            mixed.of(|it| &it.unchanged),
            mixed.of(|it| &it.changed),
            hits * 100.0,
            before_hits * 100.0,
        ),
    );
    assert_eq!((errors, wrong, panicked), (0, 0, 0));
    assert_eq!(
        (steady.of(|it| &it.errors), steady.of(|it| &it.wrong)),
        (0, 0)
    );
    assert!(hits >= 0.9 * before_hits);
    assert!(advanced > 0);
    assert_eq!(misses, KEYS);
}

pub(crate) async fn f2_versions_share_redis() {
    let redis = Redis::start(&[]).unwrap();
    roll_out(|| RedisStore::connect(&redis.url()).unwrap()).await;
}

pub(crate) async fn f2_versions_share_memcached() {
    let memcached = Memcached::start(&[]).unwrap();
    roll_out(|| MemcachedStore::connect([memcached.url()]).unwrap()).await;
}
