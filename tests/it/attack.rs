//! What has been broken once: computations, leases, tags and batches under odd policies, clocks and
//! stores.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use axum_cache::backend::{Backend, Capabilities, Memory, Peek};
use axum_cache::clock::Clock;
use axum_cache::entry::Entry;
use axum_cache::key::{Key, KeyPolicy};
use axum_cache::ttl::Lifetime;
use axum_cache::{Cache, CacheBuilder, Computed, ErrorKind, Policy, RefreshAhead, Result, Ttl};
use tokio::time::{Instant, sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);

/// The clock of a paused runtime; its wall can be stepped.
#[derive(Clone, Debug)]
struct Virtual {
    start: Instant,
    wall: SystemTime,
    step: Arc<AtomicI64>,
}

impl Virtual {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            wall: SystemTime::now(),
            step: Arc::default(),
        }
    }
}

impl Clock for Virtual {
    fn now(&self) -> SystemTime {
        let step = self.step.load(Ordering::SeqCst);
        let by = Duration::from_secs(step.unsigned_abs());
        let wall = self.wall + self.monotonic();
        if step < 0 { wall - by } else { wall + by }
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

/// A store that other nodes use too: each operation takes as long as it is told to, fails, or lies.
#[derive(Clone, Debug)]
struct Far {
    inner: Memory,
    clock: Virtual,
    slow: Arc<Mutex<BTreeMap<&'static str, Duration>>>,
    lies: Arc<Mutex<Option<&'static str>>>,
    calls: Arc<Mutex<BTreeMap<&'static str, usize>>>,
}

impl Far {
    fn new() -> Self {
        let clock = Virtual::new();
        Self {
            inner: Memory::builder().clock(clock.clone()).build().unwrap(),
            clock,
            slow: Arc::default(),
            lies: Arc::default(),
            calls: Arc::default(),
        }
    }

    fn node(&self) -> Cache {
        self.builder().build().unwrap()
    }

    fn builder(&self) -> CacheBuilder {
        Cache::builder(self.clone()).clock(self.clock.clone())
    }

    fn slow(&self, operation: &'static str, by: Duration) {
        self.slow.lock().unwrap().insert(operation, by);
    }

    async fn call(&self, operation: &'static str) {
        *self.calls.lock().unwrap().entry(operation).or_default() += 1;
        let by = self.slow.lock().unwrap().get(operation).copied();
        sleep(by.unwrap_or(Duration::ZERO)).await;
    }
}

impl Backend for Far {
    fn name(&self) -> &'static str {
        "far"
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities::new()
            .with_compare_and_set()
            .with_delete_prefix()
    }
    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        if *self.lies.lock().unwrap() == Some("down") {
            return Err(ErrorKind::Unavailable.into());
        }
        let found = self.inner.get(key).await?;
        // The answer is on its way.
        self.call("get").await;
        Ok(found.map(|entry| Entry::new(entry.bytes().clone())))
    }
    async fn set(&self, key: &Key, entry: Entry, lifetime: Lifetime) -> Result<()> {
        self.call("set").await;
        self.inner.set(key, entry, lifetime).await
    }
    async fn add(&self, key: &Key, entry: Entry, lifetime: Lifetime) -> Result<bool> {
        self.call("add").await;
        self.call(if key.as_str().ends_with(":a") {
            "add a"
        } else {
            "add other"
        })
        .await;
        if lifetime == Lifetime::Forever {
            *self.calls.lock().unwrap().entry("for ever").or_default() += 1;
        }
        if *self.lies.lock().unwrap() == Some("add") {
            return Ok(false);
        }
        self.inner.add(key, entry, lifetime).await
    }
    async fn touch(&self, key: &Key, lifetime: Lifetime) -> Result<bool> {
        self.call("touch").await;
        self.inner.touch(key, lifetime).await
    }
    async fn delete(&self, key: &Key) -> Result<bool> {
        self.call("delete").await;
        self.inner.delete(key).await
    }
    async fn incr(&self, key: &Key, delta: i64) -> Result<i64> {
        self.call("incr").await;
        self.inner.incr(key, delta).await
    }
    async fn rename(&self, from: &Key, to: &Key) -> Result<bool> {
        self.call("rename").await;
        self.inner.rename(from, to).await
    }
    async fn ttl(&self, key: &Key) -> Result<Option<Lifetime>> {
        self.call("ttl").await;
        self.inner.ttl(key).await
    }
    async fn clear(&self, namespace: &str) -> Result<()> {
        self.call("clear").await;
        self.inner.clear(namespace).await
    }
    async fn flush_store(&self) -> Result<()> {
        self.inner.flush_store().await
    }
    async fn compare_and_set(
        &self,
        key: &Key,
        expected: &Entry,
        entry: Entry,
        lifetime: Lifetime,
    ) -> Result<bool> {
        self.call("compare_and_set").await;
        self.inner
            .compare_and_set(key, expected, entry, lifetime)
            .await
    }
    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Entry>>> {
        if *self.lies.lock().unwrap() == Some("down") {
            return Err(ErrorKind::Unavailable.into());
        }
        self.call("get_many").await;
        let found = self.inner.get_many(keys).await?;
        Ok(found
            .into_iter()
            .map(|entry| entry.map(|entry| Entry::new(entry.bytes().clone())))
            .collect())
    }
    async fn set_many(&self, items: Vec<(Key, Entry, Lifetime)>) -> Result<Vec<Result<()>>> {
        self.call("set_many").await;
        let forever = items.iter().filter(|item| item.2 == Lifetime::Forever);
        *self.calls.lock().unwrap().entry("for ever").or_default() += forever.count();
        self.inner.set_many(items).await
    }
    async fn delete_many(&self, keys: &[Key]) -> Result<u64> {
        self.call("delete_many").await;
        self.inner.delete_many(keys).await
    }
    async fn delete_prefix(&self, prefix: &str) -> Result<u64> {
        self.call("delete_prefix").await;
        self.inner.delete_prefix(prefix).await
    }
    fn peek(&self, _: &Key) -> Peek {
        Peek::Declined
    }
}

fn near() -> (Cache, Virtual) {
    let clock = Virtual::new();
    let memory = Memory::builder().clock(clock.clone()).build().unwrap();
    (
        Cache::builder(memory).clock(clock.clone()).build().unwrap(),
        clock,
    )
}

#[derive(Clone, Default)]
struct Count(Arc<AtomicUsize>);

impl Count {
    fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// The number of the computation, once it has taken its time.
async fn numbered(count: Count, time: Duration) -> io::Result<usize> {
    let number = count.0.fetch_add(1, Ordering::SeqCst) + 1;
    sleep(time).await;
    Ok(number)
}

fn spawn<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
) -> tokio::task::JoinHandle<T> {
    tokio::spawn(future)
}

// --- crashes and hangs

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_batch_of_many_keys() {
    let Ok(keys) = std::env::var("ATTACK_KEYS") else {
        return;
    };
    let cache = Cache::new(Memory::new());
    let keys: Vec<usize> = (0..keys.parse().unwrap()).collect();
    let names: Vec<String> = keys.iter().map(ToString::to_string).collect();
    let found = cache
        .get_or_set_many(names, HOUR, |missing: Vec<String>| async move {
            tokio::task::yield_now().await;
            Ok::<HashMap<_, _>, io::Error>(missing.into_iter().map(|key| (key, 1_u8)).collect())
        })
        .await;
    assert_eq!(found.unwrap().len(), keys.len());
}

#[test]
fn batch_of_many_keys_does_not_overflow_the_stack() {
    for keys in [1000, 3000, 10_000, 30_000, 100_000] {
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "attack::child_batch_of_many_keys"])
            .env("ATTACK_KEYS", keys.to_string())
            .output()
            .unwrap();
        assert!(child.status.success(), "{keys} keys: {:?}", child.status);
    }
}

#[tokio::test(start_paused = true)]
async fn renewing_a_lease_does_not_hold_up_the_computation() {
    let far = Far::new();
    let node = far.node();
    far.slow("compare_and_set", HOUR);
    let start = Instant::now();
    let policy = Policy::new(HOUR);
    let caller = spawn(async move {
        let finished = Arc::new(Mutex::new(None));
        let ended = Arc::clone(&finished);
        let value = node.get_or_set("k", policy, || async move {
            sleep(5 * SECOND).await;
            *ended.lock().unwrap() = Some(start.elapsed());
            Ok::<_, io::Error>(1)
        });
        let _ = timeout(60 * SECOND, value).await;
        *finished.lock().unwrap()
    });
    let when = caller.await.unwrap();
    assert!(when.is_some(), "after a minute, 5 s of work have not ended");
}

#[tokio::test(start_paused = true)]
async fn add_ends_over_a_store_that_lies() {
    let far = Far::new();
    let node = far.node();
    *far.lies.lock().unwrap() = Some("add");
    far.slow("add", MILLI);
    let added = timeout(60 * SECOND, node.add("k", &1, HOUR)).await;
    let calls = far.calls.lock().unwrap().clone();
    assert!(added.is_ok(), "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn get_or_set_ends_over_a_store_that_lies() {
    let far = Far::new();
    let node = far.node();
    *far.lies.lock().unwrap() = Some("add");
    far.slow("add", MILLI);
    let value = node.get_or_set("k", HOUR, || numbered(Count::default(), MILLI));
    let value = timeout(60 * SECOND, value).await;
    let calls = far.calls.lock().unwrap().clone();
    assert!(value.is_ok(), "{calls:?}");
}

// --- one computation

#[tokio::test(start_paused = true)]
async fn invalidating_a_tag_leaves_other_flights_alone() {
    let (cache, _) = near();
    let count = Count::default();
    for _ in 0..50 {
        let (cache, count) = (cache.clone(), count.clone());
        let other = cache.clone();
        spawn(async move {
            cache
                .get_or_set("report", HOUR, || numbered(count, 30 * SECOND))
                .await
        });
        sleep(100 * MILLI).await;
        other.invalidate(["user:7"]).await.unwrap();
    }
    assert_eq!(count.get(), 1, "an untagged key, and a tag it has not");
}

#[tokio::test(start_paused = true)]
async fn what_expires_while_it_is_refreshed_is_still_stored() {
    for shared in [false, true] {
        let far = Far::new();
        let cache = if shared { far.node() } else { near().0 };
        let count = Count::default();
        let policy = Policy::new(10 * SECOND).refresh_ahead(RefreshAhead::After(0.8));
        let ask = |cache: &Cache| {
            let (cache, count) = (cache.clone(), count.clone());
            async move {
                cache
                    .get_or_set("k", policy, || numbered(count, 3 * SECOND))
                    .await
            }
        };
        ask(&cache).await.unwrap();
        sleep(9 * SECOND).await;
        ask(&cache).await.unwrap(); // begins the refresh: 3 s, with 1 s left
        sleep(2 * SECOND).await; // expired; the refresh has a second to go
        let start = Instant::now();
        ask(&cache).await.unwrap();
        assert_eq!(
            (count.get(), start.elapsed().as_secs()),
            (2, 1),
            "shared {shared}: the refresh is thrown away and all is computed again"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_expires_while_a_batch_refreshes_it_is_still_stored() {
    let far = Far::new();
    let cache = far.node();
    let count = Count::default();
    let policy = Policy::new(SECOND).stale_while_revalidate(2 * SECOND);
    let ask = || {
        let count = count.clone();
        cache.get_or_set_many(["k"], policy, move |_: Vec<&'static str>| {
            let number = numbered(count.clone(), 5 * SECOND);
            async move { Ok::<_, io::Error>(HashMap::from([("k", number.await?)])) }
        })
    };
    ask().await.unwrap();
    sleep(2 * SECOND).await;
    assert_eq!(
        ask().await.unwrap()["k"],
        1,
        "refreshed until 4 s after it has gone"
    );
    sleep(5 * SECOND + 500 * MILLI).await;
    assert_eq!(ask().await.unwrap()["k"], 2);
    assert_eq!(count.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn nested_in_a_batch_does_not_wait() {
    let (cache, _) = near();
    let inner = cache.clone();
    let start = Instant::now();
    let found = cache.get_or_set_many(["a"], HOUR, move |_: Vec<&str>| {
        let inner = inner.clone();
        async move {
            let value = inner
                .get_or_set("a", HOUR, || numbered(Count::default(), MILLI))
                .await;
            value.map(|value| HashMap::from([("a", value)]))
        }
    });
    found.await.unwrap();
    assert!(start.elapsed() < SECOND, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn batch_nested_in_a_computation_does_not_wait() {
    let (cache, _) = near();
    let inner = cache.clone();
    let start = Instant::now();
    let value = cache.get_or_set("a", HOUR, || async move {
        let found = inner.get_or_set_many(["a", "b"], HOUR, |keys: Vec<&str>| async move {
            Ok::<HashMap<_, _>, io::Error>(keys.into_iter().map(|key| (key, 1)).collect())
        });
        found.await.map(|found| found["a"])
    });
    let value: i32 = value.await.unwrap();
    assert_eq!(value, 1);
    assert!(start.elapsed() < SECOND, "{:?}", start.elapsed());
}

// --- batches

#[tokio::test(start_paused = true)]
async fn a_batch_computes_for_itself_after_its_lock_timeout() {
    let (cache, _) = near();
    let policy = Policy::new(HOUR).lock_timeout(100 * MILLI);
    let mut tasks = Vec::new();
    for _ in 0..20 {
        let cache = cache.clone();
        tasks.push(spawn(async move {
            let found =
                cache.get_or_set_many(["a"], policy, |keys: Vec<&'static str>| async move {
                    sleep(2 * SECOND).await;
                    Ok::<HashMap<_, _>, io::Error>(keys.into_iter().map(|key| (key, 1)).collect())
                });
            found.await.map(drop).map_err(|error| error.kind())
        }));
    }
    let mut failed = Vec::new();
    for task in tasks {
        failed.extend(task.await.unwrap().err());
    }
    assert!(failed.is_empty(), "{} of 20: {:?}", failed.len(), failed[0]);
}

#[tokio::test(start_paused = true)]
async fn the_soft_timeout_of_a_batch_is_one_for_all_its_keys() {
    let (cache, _) = near();
    let policy = Policy::new(SECOND)
        .stale_if_error(HOUR)
        .soft_timeout(50 * MILLI);
    let keys: Vec<String> = (0..100).map(|key| key.to_string()).collect();
    let ask = |time: Duration| {
        cache.get_or_set_many(keys.clone(), policy, move |keys: Vec<String>| async move {
            sleep(time).await;
            Ok::<HashMap<_, _>, io::Error>(keys.into_iter().map(|key| (key, 1)).collect())
        })
    };
    ask(Duration::ZERO).await.unwrap();
    sleep(2 * SECOND).await;
    let start = Instant::now();
    ask(HOUR).await.unwrap();
    assert!(start.elapsed() <= 60 * MILLI, "{:?}", start.elapsed());
}

// --- invalidation

#[tokio::test(start_paused = true)]
async fn an_error_from_before_a_delete_is_not_remembered_after_it() {
    let (cache, _) = near();
    let policy = Policy::new(HOUR).backoff(60 * SECOND);
    let ours = cache.clone();
    let slow = spawn(async move {
        ours.get_or_set::<u8, _, _, _>("k", policy, || async {
            sleep(SECOND).await;
            Err(io::Error::other("the old one"))
        })
        .await
    });
    sleep(100 * MILLI).await;
    cache.delete("k").await.unwrap();
    slow.await.unwrap().unwrap_err();
    let value = cache.get_or_set("k", policy, || async { Ok::<_, io::Error>(1_u8) });
    assert!(value.await.is_ok());
}

// --- stale

#[tokio::test(start_paused = true)]
async fn nothing_is_served_after_its_window() {
    let (cache, _) = near();
    let policy = Policy::new(SECOND).stale_if_error(10 * SECOND);
    cache
        .get_or_set("k", policy, || numbered(Count::default(), MILLI))
        .await
        .unwrap();
    sleep(10 * SECOND).await;
    let value = cache.get_or_set::<usize, _, _, _>("k", policy, || async {
        sleep(HOUR).await;
        Err(io::Error::other("on purpose"))
    });
    let value = value.await;
    assert!(
        value.is_err(),
        "an hour after the end of its window: {value:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_batch_serves_nothing_after_its_window_either() {
    let (cache, _) = near();
    let policy = Policy::new(SECOND).stale_if_error(10 * SECOND);
    let ask = |policy: Policy, time: Duration, fails: bool| {
        cache.get_or_set_many(["k"], policy, move |_: Vec<&'static str>| async move {
            sleep(time).await;
            if fails {
                return Err(io::Error::other("on purpose"));
            }
            Ok(HashMap::from([("k", 1)]))
        })
    };
    ask(policy, Duration::ZERO, false).await.unwrap();
    sleep(10 * SECOND).await;
    let found = ask(policy, 20 * SECOND, true).await;
    assert!(found.is_err(), "20 s after its window: {found:?}");

    ask(policy, Duration::ZERO, false).await.unwrap();
    sleep(10 * SECOND).await;
    let patient = policy.soft_timeout(5 * SECOND).throttle(60 * SECOND);
    let found = ask(patient, 20 * SECOND, true).await;
    assert!(found.is_err(), "4 s after its window: {found:?}");
}

#[tokio::test(start_paused = true)]
async fn who_has_nothing_to_serve_after_a_soft_timeout_waits_on() {
    for in_batch in [false, true] {
        let (cache, _) = near();
        let data = Arc::new(AtomicUsize::new(1));
        let policy = Policy::new(SECOND).stale_if_error(10 * SECOND);
        let policy = policy.soft_timeout(500 * MILLI);
        let ask = || read(cache.clone(), policy, Arc::clone(&data), in_batch);
        ask().await;
        // Its window ends before the soft timeout.
        sleep(10 * SECOND + 600 * MILLI).await;
        data.store(2, Ordering::SeqCst);
        assert_eq!(ask().await, 2, "in a batch: {in_batch}");
    }
}

#[tokio::test(start_paused = true)]
async fn windows_that_a_computation_names_are_throttled_too() {
    let (cache, _) = near();
    let count = Count::default();
    let ask = |fails: bool| {
        let count = count.clone();
        cache.get_or_set_with(
            "k",
            Policy::new(SECOND),
            move |_: Option<usize>| async move {
                let number = numbered(count, MILLI).await?;
                if fails {
                    return Err(io::Error::other("on purpose"));
                }
                Ok(Computed::new(number).stale_if_error(HOUR))
            },
        )
    };
    ask(false).await.unwrap();
    sleep(2 * SECOND).await;
    for _ in 0..10 {
        assert_eq!(ask(true).await.unwrap(), 1);
    }
    assert_eq!(count.get(), 2, "throttled for 30 s by default");
}

// --- leases

#[tokio::test(start_paused = true)]
async fn with_a_lease_what_does_not_decode_is_no_answer() {
    let far = Far::new();
    let policy = Policy::new(HOUR).lease(10 * SECOND);
    far.node()
        .set("k", "of an earlier release", HOUR)
        .await
        .unwrap();
    let mut nodes = Vec::new();
    for _ in 0..2 {
        let node = far.node();
        nodes.push(spawn(async move {
            node.get_or_set("k", policy, || numbered(Count::default(), SECOND))
                .await
        }));
        sleep(10 * MILLI).await;
    }
    for node in nodes {
        let value = node.await.unwrap();
        assert!(value.is_ok(), "{value:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn with_a_lease_what_has_not_the_tags_is_no_answer() {
    let far = Far::new();
    let policy = Policy::new(HOUR).lease(10 * SECOND);
    far.node().set("k", &0_usize, HOUR).await.unwrap();
    let mut nodes = Vec::new();
    for _ in 0..2 {
        let node = far.node().with_tags(["t"]);
        nodes.push(spawn(async move {
            node.get_or_set("k", policy, || numbered(Count::default(), SECOND))
                .await
                .unwrap()
        }));
        sleep(10 * MILLI).await;
    }
    for node in nodes {
        assert_eq!(
            node.await.unwrap(),
            1,
            "0 is untagged: it would outlive the tag"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_gives_its_lease_back() {
    let far = Far::new();
    let node = far.node();
    let policy = Policy::new(HOUR).lease(10 * SECOND);
    let panicked =
        node.get_or_set::<u8, io::Error, _, _>("k", policy, || async { panic!("on purpose") });
    panicked.await.unwrap_err();
    let start = Instant::now();
    node.get_or_set("k", policy, || async { Ok::<_, io::Error>(1) })
        .await
        .unwrap();
    assert!(start.elapsed() < SECOND, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_a_failure_to_back_off_from() {
    let (cache, _) = near();
    let policy = Policy::new(HOUR).backoff(10 * SECOND);
    let count = Count::default();
    for _ in 0..5 {
        let count = count.clone();
        let panicked = cache.get_or_set::<u8, io::Error, _, _>("k", policy, || async move {
            count.0.fetch_add(1, Ordering::SeqCst);
            panic!("on purpose")
        });
        panicked.await.unwrap_err();
    }
    assert_eq!(count.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_strict_key_policy_does_not_keep_leased_values_out() {
    let far = Far::new();
    let node = far.builder().key_policy(KeyPolicy::Error).build().unwrap();
    let policy = Policy::new(SECOND)
        .stale_while_revalidate(HOUR)
        .lease(10 * SECOND);
    let key = "x".repeat(235);
    let count = Count::default();
    let ask = || node.get_or_set(&key, policy, || numbered(count.clone(), MILLI));
    ask().await.unwrap();
    sleep(2 * SECOND).await;
    for _ in 0..5 {
        ask().await.unwrap();
        sleep(10 * MILLI).await;
    }
    assert_eq!((ask().await.unwrap(), count.get()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn what_one_node_fails_to_compute_does_not_cost_the_value_of_another() {
    let far = Far::new();
    let (one, other) = (far.node(), far.node());
    spawn(async move {
        let failed = one.get_or_set::<usize, _, _, _>("k", HOUR, || async {
            sleep(100 * MILLI).await;
            Err(io::Error::other("on purpose"))
        });
        failed.await.map_err(drop)
    });
    sleep(50 * MILLI).await;
    let count = Count::default();
    let value = other.get_or_set("k", HOUR, || numbered(count.clone(), SECOND));
    value.await.unwrap();
    assert_eq!(other.get::<usize>("k").await.unwrap(), Some(1));
}

#[tokio::test(start_paused = true)]
async fn what_another_release_stores_meanwhile_is_no_answer() {
    let far = Far::new();
    let (one, other) = (far.node(), far.node());
    far.slow("add", 10 * MILLI);
    let ours = spawn(async move {
        one.get_or_set("k", HOUR, || numbered(Count::default(), MILLI))
            .await
    });
    sleep(5 * MILLI).await;
    other.set("k", "of another release", HOUR).await.unwrap();
    let value = ours.await.unwrap();
    assert!(value.is_ok(), "{value:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_cleared_is_tried_again() {
    let (cache, _) = near();
    let policy = Policy::new(HOUR).backoff(HOUR);
    let tagged = cache.with_tags(["t"]);
    let ask = |fails: bool| {
        tagged.get_or_set("k", policy, move || async move {
            if fails {
                Err(io::Error::other("on purpose"))
            } else {
                Ok(1_u8)
            }
        })
    };
    ask(true).await.unwrap_err();
    cache.invalidate(["t"]).await.unwrap();
    cache.clear().await.unwrap();
    assert!(ask(false).await.is_ok(), "the error is from before both");
}

// --- values

#[tokio::test]
async fn a_version_move_by_nothing_keeps_the_entry() {
    let cache = Cache::new(Memory::new());
    cache.set("plain", &1, HOUR).await.unwrap();
    cache.incr_version("plain", 0).await.unwrap();
    assert!(cache.contains("plain").await.unwrap());
    cache
        .with_tags(["t"])
        .set("tagged", &1, HOUR)
        .await
        .unwrap();
    cache.incr_version("tagged", 0).await.unwrap();
    assert!(cache.contains("tagged").await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn touches_at_the_same_time_all_find_the_entry() {
    let far = Far::new();
    let node = far.node();
    far.slow("compare_and_set", MILLI);
    node.with_tags(["t"]).set("k", &1, HOUR).await.unwrap();
    let (one, other) = tokio::join!(node.touch("k", HOUR), node.touch("k", 2 * HOUR));
    assert_eq!((one.unwrap(), other.unwrap()), (true, true));
}

#[tokio::test(start_paused = true)]
async fn a_version_move_of_what_is_deleted_meanwhile_moves_nothing() {
    let far = Far::new();
    let node = far.node();
    node.with_tags(["t"]).set("k", &1, HOUR).await.unwrap();
    far.slow("ttl", 10 * MILLI);
    let ours = node.clone();
    let moving = spawn(async move { ours.incr_version("k", 1).await });
    far.slow("set", 10 * MILLI);
    sleep(15 * MILLI).await;
    far.node().delete("k").await.unwrap();
    let moved = moving.await.unwrap();
    assert_eq!(moved.unwrap_err().kind(), ErrorKind::KeyMissing);
    let other = node.with_version(2).get::<u8>("k").await.unwrap();
    assert_eq!(other, None, "deleted, and said to be missing, and there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_fails_by_one_key_does_not_fail_who_asks_for_another() {
    let cache = Cache::new(Memory::new());
    let policy = Policy::new(HOUR).backoff(HOUR);
    let bad = cache.get_or_set::<u8, _, _, _>("bad", policy, || async {
        Err(io::Error::other("on purpose"))
    });
    bad.await.unwrap_err();
    let (batches, end) = (cache.clone(), std::time::Instant::now() + 2 * SECOND);
    let task = spawn(async move {
        while std::time::Instant::now() < end {
            let keys = ["a", "b", "c", "d", "bad"];
            let found =
                batches.get_or_set_many(keys, policy, |keys: Vec<&'static str>| async move {
                    Ok::<HashMap<_, _>, io::Error>(
                        keys.into_iter().map(|key| (key, 1_u8)).collect(),
                    )
                });
            assert!(found.await.is_err());
            tokio::task::yield_now().await;
        }
    });
    let mut failed = Vec::new();
    while std::time::Instant::now() < end {
        for key in ["a", "b", "c", "d"] {
            let value =
                cache.get_or_set(key, Duration::ZERO, || async { Ok::<_, io::Error>(1_u8) });
            failed.extend(value.await.err().map(|error| error.to_string()));
        }
    }
    task.await.unwrap();
    assert!(failed.is_empty(), "{}: {}", failed.len(), failed[0]);
}

#[tokio::test(start_paused = true)]
async fn batches_of_two_nodes_do_not_wait_for_each_other() {
    let far = Far::new();
    let near_b = Far {
        slow: Arc::default(),
        ..far.clone()
    };
    far.slow("add other", 5 * MILLI);
    near_b.slow("add a", 5 * MILLI);
    let policy = Policy::new(HOUR).lease(60 * SECOND);
    let start = Instant::now();
    let mut tasks = Vec::new();
    for node in [far.node(), near_b.node()] {
        tasks.push(spawn(async move {
            let found =
                node.get_or_set_many(["a", "b"], policy, |keys: Vec<&'static str>| async move {
                    sleep(10 * MILLI).await;
                    Ok::<HashMap<_, _>, io::Error>(keys.into_iter().map(|key| (key, 1)).collect())
                });
            found.await.unwrap().len()
        }));
    }
    for task in tasks {
        assert_eq!(task.await.unwrap(), 2);
    }
    assert!(start.elapsed() < SECOND, "{:?} for 10 ms", start.elapsed());
}

// --- what holds

fn pick<T: Copy>(state: &mut u64, all: &[T]) -> T {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    all[usize::try_from(*state >> 33).unwrap() % all.len()]
}

#[tokio::test(start_paused = true)]
async fn no_policy_panics_or_hangs() {
    let times = [
        Duration::ZERO,
        Duration::from_nanos(1),
        MILLI,
        SECOND,
        HOUR,
        Duration::from_secs(u64::MAX / 1000),
        Duration::from_secs(1 << 62),
        Duration::MAX,
    ];
    let shares = [
        f64::NAN,
        f64::NEG_INFINITY,
        -1.0,
        0.0,
        0.5,
        1.0,
        2.0,
        f64::INFINITY,
    ];
    let state = &mut 7_u64;
    for run in 0..500_u32 {
        let far = Far::new();
        let nodes = if run % 2 == 0 {
            [far.node(), far.node()]
        } else {
            [near().0, near().0]
        };
        let ttl = Ttl::After(pick(state, &times));
        let mut policy = Policy::of(pick(state, &[Ttl::Never, Ttl::Default, ttl]))
            .stale_while_revalidate(pick(state, &times))
            .stale_if_error(pick(state, &times))
            .throttle(pick(state, &times))
            .backoff(pick(state, &[Duration::ZERO, MILLI]))
            .complete_within(pick(state, &times))
            .lock_timeout(pick(state, &times))
            .jitter(pick(state, &shares));
        if pick(state, &[true, false]) {
            policy = policy.soft_timeout(pick(state, &times));
        }
        if pick(state, &[true, false]) {
            policy = policy.hard_timeout(pick(state, &times));
        }
        if pick(state, &[true, false]) {
            policy = policy.lease(pick(state, &times));
        }
        let share = pick(state, &shares);
        policy = match pick(state, &[0, 1, 2]) {
            0 => policy,
            1 => policy.refresh_ahead(RefreshAhead::After(share)),
            _ => policy.refresh_ahead(RefreshAhead::XFetch(share)),
        };
        let fails = pick(state, &[true, false, false]);
        let work = async {
            let mut tasks = Vec::new();
            for step in 0..12_u32 {
                let node = nodes[(step % 2) as usize].with_tags(["t"]);
                let fails = fails && step > 3;
                let time = pick(state, &[Duration::ZERO, MILLI, 2 * MILLI]);
                tasks.push(spawn(async move {
                    let value = node.get_or_set("k", policy, || async move {
                        sleep(time).await;
                        if fails {
                            Err(io::Error::other("on purpose"))
                        } else {
                            Ok(step)
                        }
                    });
                    let _ = value.await;
                    let _ = node.touch("k", HOUR).await;
                    let _ = node.ttl_of("k").await;
                    let many = node.get_or_set_many(
                        ["k", "l"],
                        policy,
                        move |keys: Vec<&'static str>| async move {
                            Ok::<HashMap<_, _>, io::Error>(
                                keys.into_iter().map(|key| (key, step)).collect(),
                            )
                        },
                    );
                    let _ = many.await;
                }));
                if step == 7 {
                    nodes[0].expire(["t"]).await.unwrap();
                }
                sleep(pick(state, &[Duration::ZERO, MILLI, 3 * SECOND])).await;
            }
            for task in tasks {
                task.await.unwrap();
            }
        };
        assert!(timeout(24 * HOUR, work).await.is_ok(), "{run}: {policy:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_bytes_panic() {
    let mut all: Vec<Vec<u8>> = vec![
        vec![],
        b"axc".to_vec(),
        b"axc\x02".to_vec(),
        b"axt1".to_vec(),
    ];
    for kind in 0..8 {
        for length in [0, 1, 11, 12, 13, 40] {
            let mut bytes = b"axc\x02".to_vec();
            bytes.push(kind);
            bytes.extend(std::iter::repeat_n(255, length));
            all.push(bytes);
        }
    }
    for bytes in all {
        let far = Far::new();
        let node = far.node();
        let key = node.final_key("k").unwrap();
        let tag = node.with_version(0).final_key("axum-cache:tag:t").unwrap();
        let turn = node.with_version(0).final_key("axum-cache:tags").unwrap();
        let page = axum_cache::fragment::fragment_key("k");
        let page = node.final_key(&page).unwrap();
        for step in 0..12 {
            let put = || async {
                for key in [&key, &tag, &turn, &page] {
                    far.inner
                        .set(key, Entry::new(bytes.clone()), Lifetime::Forever)
                        .await
                        .unwrap();
                }
            };
            put().await;
            let tagged = node.with_tags(["t"]);
            match step {
                0 => drop(node.get::<u8>("k").await),
                1 => drop(
                    tagged
                        .get_or_set("k", HOUR, || async { Ok::<_, io::Error>(1) })
                        .await
                        .unwrap(),
                ),
                2 => drop(tagged.touch("k", HOUR).await),
                3 => drop(tagged.add("k", &1, HOUR).await.unwrap()),
                4 => drop(node.incr("k", 1).await),
                5 => drop(node.incr_version("k", 1).await),
                6 => drop(node.ttl_of("k").await.unwrap()),
                7 => node.invalidate(["t"]).await.unwrap(),
                8 => node.expire(["t"]).await.unwrap(),
                9 => assert_eq!(node.render(blocks(["k"], "x")).await.unwrap(), "x"),
                10 => drop(
                    tagged
                        .get_or_set("k", Policy::new(HOUR).lease(SECOND), || async {
                            Ok::<_, io::Error>(1)
                        })
                        .await
                        .unwrap(),
                ),
                _ => drop(
                    tagged
                        .get_or_set_with("k", HOUR, |_: Option<u8>| async {
                            Ok::<_, io::Error>(Computed::new(1).tags(["late"]))
                        })
                        .await
                        .unwrap(),
                ),
            }
        }
    }
}

#[tokio::test]
async fn closed_caches_still_answer() {
    let cache = Cache::new(Memory::new());
    cache.close().await.unwrap();
    let value = cache.get_or_set("k", HOUR, || async { Ok::<_, io::Error>(1) });
    assert_eq!(value.await.unwrap(), 1);
}

// --- fragments

mod filters {
    pub(crate) use axum_cache::fragment::filters::cache;
}

#[derive(askama::Template)]
#[template(
    source = r#"{% for key in keys %}{% filter cache(500, key) %}{{ text }}{% endfilter %}{% endfor %}"#,
    ext = "html"
)]
struct Blocks {
    keys: Vec<&'static str>,
    text: &'static str,
}

fn blocks<const N: usize>(keys: [&'static str; N], text: &'static str) -> Blocks {
    let keys = keys.into();
    Blocks { keys, text }
}

#[tokio::test(start_paused = true)]
async fn pages_and_deletes_of_their_fragments_do_not_lock_each_other_out() {
    let far = Far::new();
    let node = far.node();
    let render = |page: Blocks| {
        let node = node.clone();
        spawn(async move { node.render(page).await.map(drop).map_err(drop) })
    };
    let delete = |key: &'static str| {
        let node = node.clone();
        spawn(async move {
            let key = axum_cache::fragment::fragment_key(key);
            node.delete(&key).await.map(drop).map_err(drop)
        })
    };
    far.slow("get_many", 100 * MILLI);
    let mut tasks = vec![
        render(blocks(["a", "c", "b"], "one")),
        render(blocks(["b", "c", "a"], "two")),
    ];
    sleep(10 * MILLI).await;
    far.slow("get_many", Duration::ZERO);
    far.slow("set_many", SECOND);
    tasks.push(render(blocks(["c"], "three")));
    sleep(10 * MILLI).await;
    tasks.push(delete("c"));
    sleep(200 * MILLI).await;
    tasks.push(delete("a"));
    tasks.push(delete("b"));
    sleep(60 * SECOND).await;
    let hung = tasks.iter().filter(|task| !task.is_finished()).count();
    assert_eq!(hung, 0, "tasks that hang for ever");
}

#[derive(askama::Template)]
#[template(
    source = r#"{% filter cache(500, "outer", tags=["o"]) %}{{ runs.0.fetch_add(1, Ordering::SeqCst) }}
{%- filter cache(500, "inner", using="other", tags=["i"]) %}inner{% endfilter %}{% endfilter %}"#,
    ext = "html"
)]
struct Across<'a> {
    runs: &'a Count,
}

#[derive(askama::Template)]
#[template(
    source = r#"{% filter cache(500, ("at", runs.0.fetch_add(1, Ordering::SeqCst))) %}x{% endfilter %}"#,
    ext = "html"
)]
struct Unsteady<'a> {
    runs: &'a Count,
}

#[tokio::test(start_paused = true)]
async fn a_key_that_changes_by_itself_ends_all_the_same() {
    let far = Far::new();
    far.slow("get_many", MILLI);
    let runs = Count::default();
    let node = far.node();
    let page = timeout(60 * SECOND, node.render(Unsteady { runs: &runs })).await;
    assert!(page.is_ok(), "{} passes and reads", runs.get());
}

#[tokio::test(start_paused = true)]
async fn one_bad_tag_does_not_keep_the_other_fragments_out() {
    let far = Far::new();
    let node = far.node();
    for _ in 0..3 {
        node.render(Mixed { tag: "" }).await.unwrap();
    }
    let key = axum_cache::fragment::fragment_key("good");
    assert!(node.contains(&key).await.unwrap());
}

#[derive(askama::Template)]
#[template(
    source = r#"{% filter cache(500, "good") %}x{% endfilter %}{% filter cache(500, "bad", tags=[tag]) %}y{% endfilter %}"#,
    ext = "html"
)]
struct Mixed<'a> {
    tag: &'a str,
}

#[tokio::test(start_paused = true)]
async fn who_comes_while_a_value_lands_does_not_compute() {
    let far = Far::new();
    let node = far.node();
    far.slow("compare_and_set", 5 * MILLI);
    let count = Count::default();
    let (one, runs) = (node.clone(), count.clone());
    spawn(async move { one.get_or_set("k", HOUR, || numbered(runs, SECOND)).await });
    sleep(SECOND + 2 * MILLI).await;
    let start = Instant::now();
    node.get_or_set("k", HOUR, || numbered(count.clone(), SECOND))
        .await
        .unwrap();
    assert_eq!(count.get(), 1, "the late one waited {:?}", start.elapsed());
}

// --- who comes late

/// What a source says that takes a second to answer, through the cache: by a call of its own or in a
/// batch.
async fn read(cache: Cache, policy: Policy, data: Arc<AtomicUsize>, in_batch: bool) -> usize {
    if in_batch {
        let found = cache.get_or_set_many(["k"], policy, move |keys: Vec<&'static str>| {
            let data = Arc::clone(&data);
            async move {
                let read = data.load(Ordering::SeqCst);
                sleep(SECOND).await;
                Ok::<HashMap<_, _>, io::Error>(keys.into_iter().map(|key| (key, read)).collect())
            }
        });
        return found.await.unwrap()["k"];
    }
    let value = cache.get_or_set("k", policy, || async move {
        let read = data.load(Ordering::SeqCst);
        sleep(SECOND).await;
        Ok::<_, io::Error>(read)
    });
    value.await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_late_follower_gets_nothing_older_that_is_not_stored() {
    let far = Far::new();
    let (one, other) = (far.node(), far.node());
    let data = Arc::new(AtomicUsize::new(1));
    let ask = |cache: &Cache| {
        let (cache, data) = (cache.clone(), Arc::clone(&data));
        async move {
            let value = cache.get_or_set_with("k", HOUR, |_: Option<usize>| async move {
                let read = data.load(Ordering::SeqCst);
                sleep(SECOND).await;
                Ok::<_, io::Error>(Computed::new(read).without_storing())
            });
            value.await.unwrap()
        }
    };
    let first = spawn(ask(&one));
    sleep(100 * MILLI).await;
    data.store(2, Ordering::SeqCst);
    other.delete("k").await.unwrap();
    assert_eq!(
        ask(&one).await,
        2,
        "began after the delete on the other node"
    );
    first.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_late_follower_gets_nothing_older_that_lives_no_time() {
    for in_batch in [false, true] {
        let far = Far::new();
        let (one, other) = (far.node(), far.node());
        let (data, policy) = (Arc::new(AtomicUsize::new(1)), Policy::new(Duration::ZERO));
        let ask = || read(one.clone(), policy, Arc::clone(&data), in_batch);
        let first = spawn(ask());
        sleep(100 * MILLI).await;
        data.store(2, Ordering::SeqCst);
        other.delete("k").await.unwrap();
        assert_eq!(ask().await, 2, "in a batch: {in_batch}");
        first.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_follower_gets_nothing_from_before_expire_on_another_node() {
    for in_batch in [false, true] {
        let far = Far::new();
        let (one, other) = (far.node().with_tags(["t"]), far.node());
        let data = Arc::new(AtomicUsize::new(1));
        let ask = || read(one.clone(), HOUR.into(), Arc::clone(&data), in_batch);
        let first = spawn(ask());
        sleep(100 * MILLI).await;
        data.store(2, Ordering::SeqCst);
        other.expire(["t"]).await.unwrap();
        assert_eq!(ask().await, 2, "no windows: what is expired is gone");
        first.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_found_while_leading_is_not_for_those_who_came_after_a_delete() {
    for in_batch in [false, true] {
        let far = Far::new();
        let (one, other) = (far.node(), far.node());
        // Another node computes; ours waits for its turn, and polls.
        let policy = Policy::new(HOUR).lease(10 * SECOND);
        let data = Arc::new(AtomicUsize::new(1));
        spawn(read(other.clone(), policy, Arc::clone(&data), in_batch));
        sleep(10 * MILLI).await;
        let ask = || read(one.clone(), policy, Arc::clone(&data), in_batch);
        let first = spawn(ask());
        // The answer to the look that finds the value takes its time.
        sleep(991 * MILLI).await;
        far.slow("get", 500 * MILLI);
        sleep(100 * MILLI).await;
        data.store(2, Ordering::SeqCst);
        other.delete("k").await.unwrap();
        far.slow("get", Duration::ZERO);
        assert_eq!(ask().await, 2, "in a batch: {in_batch}");
        first.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_tagged_reader_does_not_join_an_untagged_flight_across_an_invalidation() {
    for (in_batch, shared) in [(false, true), (true, true), (false, false), (true, false)] {
        let far = Far::new();
        let (one, other) = if shared {
            (far.node(), far.node())
        } else {
            let cache = near().0;
            (cache.clone(), cache)
        };
        let data = Arc::new(AtomicUsize::new(1));
        spawn(read(one.clone(), HOUR.into(), Arc::clone(&data), in_batch));
        sleep(100 * MILLI).await;
        data.store(2, Ordering::SeqCst);
        other.invalidate(["t"]).await.unwrap();
        let tagged = one.with_tags(["t"]);
        let late = read(tagged, HOUR.into(), Arc::clone(&data), in_batch).await;
        assert_eq!(late, 2, "in a batch: {in_batch}, shared: {shared}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_flight_that_began_while_the_store_was_away_is_not_joined_after_a_delete() {
    for in_batch in [false, true] {
        let far = Far::new();
        let (one, other) = (far.node(), far.node());
        let data = Arc::new(AtomicUsize::new(1));
        let ask = || read(one.clone(), HOUR.into(), Arc::clone(&data), in_batch);
        *far.lies.lock().unwrap() = Some("down");
        spawn(ask());
        sleep(100 * MILLI).await;
        *far.lies.lock().unwrap() = None;
        data.store(2, Ordering::SeqCst);
        other.delete("k").await.unwrap();
        assert_eq!(ask().await, 2, "in a batch: {in_batch}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_follower_gets_no_error_from_before_a_delete_on_another_node() {
    let far = Far::new();
    let (one, other) = (far.node(), far.node());
    let exists = Arc::new(AtomicUsize::new(0));
    let ask = || {
        let (cache, exists) = (one.clone(), Arc::clone(&exists));
        async move {
            let policy = Policy::new(HOUR).backoff(60 * SECOND);
            let value = cache.get_or_set("k", policy, || async move {
                let exists = exists.load(Ordering::SeqCst);
                sleep(SECOND).await;
                if exists == 0 {
                    return Err(io::Error::other("nothing of that name"));
                }
                Ok(exists)
            });
            value.await
        }
    };
    let first = spawn(ask());
    sleep(100 * MILLI).await;
    exists.store(1, Ordering::SeqCst);
    other.delete("k").await.unwrap();
    assert_eq!(ask().await.unwrap(), 1);
    first.await.unwrap().unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn a_late_batch_has_what_one_before_a_delete_left_out() {
    let far = Far::new();
    let (one, other) = (far.node(), far.node());
    let exists = Arc::new(AtomicUsize::new(0));
    let ask = || {
        let (cache, exists) = (one.clone(), Arc::clone(&exists));
        async move {
            let found = cache.get_or_set_many(["k"], HOUR, move |_: Vec<&'static str>| {
                let exists = Arc::clone(&exists);
                async move {
                    let found = (0..exists.load(Ordering::SeqCst)).map(|row| ("k", row));
                    sleep(SECOND).await;
                    Ok::<HashMap<_, _>, io::Error>(found.collect())
                }
            });
            found.await.unwrap()
        }
    };
    let first = spawn(ask());
    sleep(100 * MILLI).await;
    exists.store(1, Ordering::SeqCst);
    other.delete("k").await.unwrap();
    assert_eq!(ask().await.len(), 1);
    assert!(first.await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_crowd_that_comes_late_computes_at_most_once_more() {
    // Nothing is stored: the store says whether all is as it was, or cannot say so to anyone, or cannot
    // at first.
    for (lie, back, policy, most) in [
        (None, false, Policy::new(Duration::ZERO), 1),
        (Some("down"), false, Policy::new(HOUR), 1),
        (Some("down"), true, Policy::new(Duration::ZERO), 2),
    ] {
        for in_batch in [false, true] {
            let far = Far::new();
            let node = far.node();
            *far.lies.lock().unwrap() = lie;
            let count = Count::default();
            let mut callers = Vec::new();
            if back {
                let lies = Arc::clone(&far.lies);
                spawn(async move {
                    sleep(50 * MILLI).await;
                    *lies.lock().unwrap() = None;
                });
            }
            for late in 0..100 {
                let (node, count) = (node.clone(), count.clone());
                callers.push(spawn(async move {
                    sleep(MILLI * if late == 0 { 0 } else { 100 + late % 7 }).await;
                    if !in_batch {
                        let value = node.get_or_set("k", policy, || numbered(count, SECOND));
                        return value.await.unwrap();
                    }
                    let values = node.get_or_set_many(["k"], policy, move |_: Vec<&str>| {
                        let number = numbered(count.clone(), SECOND);
                        async move { Ok::<_, io::Error>(HashMap::from([("k", number.await?)])) }
                    });
                    values.await.unwrap()["k"]
                }));
            }
            for caller in callers {
                caller.await.unwrap();
            }
            assert_eq!(count.get(), most, "{lie:?}, {back}, in a batch: {in_batch}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_comes_late_for_what_is_stored_costs_one_look() {
    let far = Far::new();
    let node = far.node();
    let data = Arc::new(AtomicUsize::new(1));
    let mut callers = Vec::new();
    for _ in 0..10 {
        callers.push(spawn(read(
            node.clone(),
            HOUR.into(),
            Arc::clone(&data),
            false,
        )));
        sleep(10 * MILLI).await;
    }
    for caller in callers {
        caller.await.unwrap();
    }
    let calls = far.calls.lock().unwrap().clone();
    let count = |name| calls.get(name).copied().unwrap_or_default();
    let all = [count("get"), count("add"), count("compare_and_set")];
    assert_eq!(all, [10, 1, 1], "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn what_was_set_meanwhile_wins_also_once_it_has_expired() {
    let (cache, _) = near();
    let data = Arc::new(AtomicUsize::new(1));
    let (ours, read) = (cache.clone(), Arc::clone(&data));
    let slow = spawn(async move {
        let value = ours.get_or_set("k", HOUR, || async move {
            let read = read.load(Ordering::SeqCst);
            sleep(5 * SECOND).await;
            Ok::<_, io::Error>(read)
        });
        value.await.unwrap()
    });
    sleep(100 * MILLI).await;
    data.store(2, Ordering::SeqCst);
    cache.set("k", &2_usize, SECOND).await.unwrap();
    sleep(2 * SECOND).await;
    slow.await.unwrap();
    assert_ne!(
        cache.get::<usize>("k").await.unwrap(),
        Some(1),
        "for an hour"
    );
}

#[tokio::test(start_paused = true)]
async fn two_caches_over_one_store_in_this_process_are_two_nodes() {
    let memory = Memory::new();
    let (one, other) = (Cache::new(memory.clone()), Cache::new(memory));
    let data = Arc::new(AtomicUsize::new(1));
    let slow = spawn(read(one.clone(), HOUR.into(), Arc::clone(&data), false));
    sleep(100 * MILLI).await;
    data.store(2, Ordering::SeqCst);
    other.delete("k").await.unwrap();
    slow.await.unwrap();
    assert_ne!(
        other.get::<usize>("k").await.unwrap(),
        Some(1),
        "for an hour"
    );
}
