//! More of everything than is usual: addresses, callers of one key, bytes; and a clock that jumps.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "small numbers"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Path;
use axum::http::Request;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum_cache::backend::{AnyBackend, Backend, Dummy, Memory, Redis as RedisStore};
use axum_cache::clock::{Clock, SteadyClock};
use axum_cache::{Cache, CacheLayer, Policy, Tags};
use tokio::task::JoinSet;
use tower::ServiceExt;

use crate::counted;
use crate::is_long;
use crate::load::{Dice, pause};
use crate::support::servers::redis::Redis;
use crate::tools::{PATIENCE, SECOND, TTL, held, report, until};

/// Runs this test again, in a process that does nothing else, unless this is that.
pub(crate) fn elsewhere(name: &str) -> bool {
    const ALONE: &str = "AXUM_CACHE_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return false;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([name, "--exact", "--nocapture"]);
    let output = command.env(ALONE, "1").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    for line in text.lines().filter(|line| line.starts_with('|')) {
        println!("{line}");
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    assert!(text.contains("1 passed"), "{text}");
    true
}

/// How many bytes the store may hold, and how many pages are asked for all the time.
const LIMIT: usize = if cfg!(debug_assertions) {
    4 << 20
} else {
    16 << 20
};
const HOT: usize = LIMIT >> 15;

/// How many tags values have: each is in use, so together they are a small part of what is held.
const NAMES: usize = LIMIT >> 12;

/// One request of so many is for a page of the hot set: between two for the same, more comes in than the
/// store may hold.
const SELDOM: usize = 20;

/// Pages of a kilobyte; those whose name begins with `no` are not to be stored.
fn flooded(store: impl Into<AnyBackend>) -> (Cache, Router) {
    async fn page(Path(page): Path<String>) -> Response {
        let body = "x".repeat(1024);
        if page.starts_with("no") {
            return ([("cache-control", "no-store")], body).into_response();
        }
        let mut response = body.into_response();
        response.extensions_mut().insert(Tags::new(["pages"]));
        response
    }
    let cache = Cache::new(store.into());
    let layer = CacheLayer::new(cache.clone()).ttl(TTL);
    let router = Router::new().route("/{page}", get(page)).layer(layer);
    (cache, router)
}

/// Whether the answer came from the cache.
async fn is_hit(router: &Router, path: &str) -> bool {
    let request = Request::get(path).body(Body::empty()).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    // Without a store it says nothing.
    let how = response.headers().get("cache-status");
    let is_hit = how.is_some_and(|how| how.to_str().unwrap().contains("; hit"));
    to_bytes(response.into_body(), usize::MAX).await.unwrap();
    is_hit
}

/// How many hits the hot set had, of how many requests.
#[derive(Default)]
struct Hot {
    asked: AtomicUsize,
    hits: AtomicUsize,
}

impl Hot {
    fn percent(&self) -> f64 {
        let (asked, hits) = (&self.asked, &self.hits);
        100.0 * hits.load(Ordering::SeqCst) as f64 / asked.load(Ordering::SeqCst).max(1) as f64
    }
}

/// So many requests for addresses that nobody ever asks for again, or for values; and some for the hot set.
async fn flood(cache: &Cache, router: &Router, kind: &'static str, requests: usize) -> Hot {
    const TASKS: usize = 4;
    let hot = Arc::new(Hot::default());
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (cache, router, hot) = (cache.clone(), router.clone(), Arc::clone(&hot));
        tasks.spawn(async move {
            let mut dice = Dice(task as u64 + 1);
            for number in 0..requests / TASKS {
                let address = format!("{kind}?x={task}-{number}");
                if kind == "value" {
                    let cache = cache.with_tags([format!("tag:{}", number % NAMES)]);
                    let made = cache
                        .get_or_set(&address, TTL, || async { Ok::<_, io::Error>([7_u8; 32]) });
                    made.await.unwrap();
                    if number % 10 == 0 {
                        let tag = format!("tag:{}", number % NAMES);
                        cache.invalidate([tag]).await.unwrap();
                    }
                } else {
                    is_hit(&router, &format!("/{address}")).await;
                }
                if number % SELDOM == 0 {
                    let page = (dice.next() * HOT as f64) as usize;
                    let found = is_hit(&router, &format!("/hot{page}")).await;
                    hot.asked.fetch_add(1, Ordering::SeqCst);
                    hot.hits.fetch_add(usize::from(found), Ordering::SeqCst);
                }
            }
        });
    }
    tasks.join_all().await;
    Arc::into_inner(hot).unwrap()
}

/// By whom else the store is held: only then do fills leave leases in it.
async fn random_urls(whose: &str, is_shared: bool) {
    let requests = match (is_long(), cfg!(debug_assertions)) {
        (true, _) => 10_000_000,
        (false, false) => 200_000,
        (false, true) => 10_000,
    };
    let start = Instant::now();
    let resident = || held(start).resident_kib / 1024.0;
    // What such a flood takes without anything that is stored.
    let (nowhere, unstored) = flooded(Dummy);
    flood(&nowhere, &unstored, "yes", requests / 10).await;
    let begin = resident();
    flood(&nowhere, &unstored, "yes", requests / 2).await;
    let unstored = resident() - begin;
    let memory = Memory::builder().max_bytes(LIMIT).build().unwrap();
    let other = is_shared.then(|| memory.clone());
    let (cache, router) = flooded(memory);
    for _ in 0..2 {
        for page in 0..HOT {
            let page = format!("/hot{page}");
            until("a hit", async || is_hit(&router, &page).await).await;
        }
    }
    let tasks = held(start).tasks;
    let (mut text, mut lowest) = (String::new(), f64::MAX);
    for kind in ["yes", "no", "value"] {
        let hot = flood(&cache, &router, kind, requests).await.percent();
        lowest = lowest.min(hot);
        let grown = resident() - begin;
        let _ = write!(text, "{kind}: {grown:.1} MiB more, {hot:.2} % hits; ");
    }
    let grown = resident() - begin;
    until("idle", async || held(start).tasks <= tasks).await;
    drop(other);
    report(
        "G1",
        "at most 1.2 × its limit more, and what it takes without a store; the hot set loses at most 2 points",
        format_args!(
            "{whose}, of {} MiB, 3 × {requests} addresses: {text}{unstored:.1} MiB more without a store; no task left",
            LIMIT >> 20
        ),
    );
    report(
        "G6",
        "as many series as there are outcomes",
        format_args!("{}", counted::series().len()),
    );
    // A megabyte for each thread that allocates, and keeps what it was given.
    let limit = 1.2 * (LIMIT >> 20) as f64 + unstored.max(0.0) + 4.0;
    assert!(grown <= limit, "{grown}");
    assert!(unstored <= 2.0, "{unstored}");
    assert!(lowest >= 98.0, "{lowest}");
}

pub(crate) async fn g1_random_urls() {
    if elsewhere("stress::g1_random_urls") {
        return;
    }
    random_urls("its own", false).await;
    random_urls("shared", true).await;
    // None of what is asked for is in their names.
    let series = counted::series();
    assert!((1..=16).contains(&series.len()), "{series:?}");
}

/// A future of a store that does not wait.
fn now<T>(future: impl Future<Output = T>) -> T {
    let waiting = &mut Context::from_waker(Waker::noop());
    match pin!(future).poll(waiting) {
        Poll::Ready(done) => done,
        Poll::Pending => panic!("it waits"),
    }
}

/// How many calls all cores make together in a second.
fn rate(call: impl Fn() + Sync) -> f64 {
    const LASTS: Duration = Duration::from_millis(50);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (barrier, calls) = (Barrier::new(cores), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                barrier.wait();
                let (begin, mut done) = (Instant::now(), 0);
                while begin.elapsed() < LASTS {
                    for _ in 0..1000 {
                        call();
                    }
                    done += 1000;
                }
                calls.fetch_add(done, Ordering::SeqCst);
            });
        }
    });
    calls.load(Ordering::SeqCst) as f64 / LASTS.as_secs_f64()
}

pub(crate) async fn g5_one_hot_key() {
    let memory = Memory::new();
    let cache = Cache::new(memory.clone());
    cache.set("k", &7_u64, TTL).await.unwrap();
    let key = cache.final_key("k").unwrap();
    let entry = memory.get(&key).await.unwrap().unwrap();
    let engine = quick_cache::sync::Cache::<Box<str>, Arc<_>>::new(1000);
    engine.insert(key.as_str().into(), Arc::new(entry));
    let mut ratios = Vec::new();
    let (mut best, mut bare) = (0.0_f64, 0.0_f64);
    // Many short turns: the machine changes its mind about where threads run.
    for _ in 0..51 {
        let alone = rate(|| assert!(engine.get(key.as_str()).is_some()));
        let store = rate(|| assert!(now(memory.get(&key)).unwrap().is_some()));
        ratios.push(store / alone);
        (best, bare) = (best.max(store), bare.max(alone));
    }
    ratios.sort_unstable_by(f64::total_cmp);
    let [lowest, ratio, highest] = [5, 25, 45].map(|place| ratios[place]);
    report(
        "G5 memory",
        "one hot key, all cores: at least 0.7 of what the engine does alone",
        format_args!(
            "{ratio:.2}, eight of ten from {lowest:.2} to {highest:.2}; at best {:.1} million/s of {:.1}",
            best / 1e6,
            bare / 1e6
        ),
    );
    // Whatever else the machine does: a lock that all take would be far below.
    assert!(highest >= 0.1, "{highest}");
}

/// A wall clock that jumps; monotonic time does not.
#[derive(Clone, Debug)]
struct Jumping {
    start: Instant,
    seconds: Arc<AtomicI64>,
}

impl Clock for Jumping {
    fn now(&self) -> SystemTime {
        let seconds = self.seconds.load(Ordering::SeqCst);
        let off = Duration::from_secs(seconds.unsigned_abs());
        let now = SystemTime::now();
        if seconds < 0 { now - off } else { now + off }
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

/// How many there are of each kind.
const KEPT: usize = 100;

const KINDS: [&str; 4] = ["value", "tagged", "policy", "page"];

/// Asks for one of a kind; whether it was there. If it was not, it is made.
async fn is_kept(cache: &Cache, router: &Router, kind: &str, number: usize, ttl: Duration) -> bool {
    let key = format!("{kind}{number}");
    let runs = Arc::new(AtomicBool::new(false));
    let ran = Arc::clone(&runs);
    let compute = || async move {
        ran.store(true, Ordering::SeqCst);
        Ok::<_, io::Error>(1)
    };
    match kind {
        "value" => cache.get_or_set(&key, ttl, compute).await.map(drop),
        "tagged" => {
            let cache = cache.with_tags(["all"]);
            cache.get_or_set(&key, ttl, compute).await.map(drop)
        }
        "policy" => {
            let policy = Policy::new(ttl).stale_if_error(ttl);
            cache.get_or_set(&key, policy, compute).await.map(drop)
        }
        _ => return is_hit(router, &format!("/{key}")).await,
    }
    .unwrap();
    !runs.load(Ordering::SeqCst)
}

pub(crate) async fn g2_the_clock_jumps() {
    const HOUR: i64 = 3600;
    const SHORT: Duration = Duration::from_secs(2);
    let redis = Redis::start(&[]).unwrap();
    for name in ["memory", "redis"] {
        for jump in [HOUR, -HOUR] {
            let clock = Jumping {
                start: Instant::now(),
                seconds: Arc::default(),
            };
            let store: AnyBackend = if name == "memory" {
                let memory = Memory::builder().clock(clock.clone());
                memory.build().unwrap().into()
            } else {
                let url = format!("redis://127.0.0.1:{}", redis.port);
                let redis = RedisStore::builder([url]).operation_timeout(PATIENCE);
                redis.build().unwrap().into()
            };
            let made = |prefix: String, ttl: Duration| {
                let cache = Cache::builder(store.clone()).key_prefix(&prefix);
                let cache = cache.clock(SteadyClock::over(clock.clone()));
                let cache = cache.build().unwrap();
                let layer = CacheLayer::new(cache.clone()).ttl(ttl);
                let router = Router::new().route("/{page}", get(async || "page"));
                (cache, router.layer(layer))
            };
            let long = made(format!("long{jump}"), TTL);
            let short = made(format!("short{jump}"), SHORT);
            for kind in KINDS {
                for number in 0..KEPT {
                    is_kept(&long.0, &long.1, kind, number, TTL).await;
                    is_kept(&short.0, &short.1, kind, number, SHORT).await;
                }
            }
            clock.seconds.store(jump, Ordering::SeqCst);
            let lost = count(&long, TTL, false).await;
            pause(2 * SHORT + SECOND / 10).await;
            let too_long = count(&short, SHORT, true).await;
            report(
                "G2",
                "at most 1 % is lost; none lives longer than its TTL and stale window",
                format_args!(
                    "{name}, {:+} h, of {KEPT} each: lost {lost:?}; too long {too_long:?}",
                    jump / HOUR
                ),
            );
            assert!(too_long.values().all(|count| *count == 0), "{too_long:?}");
            assert!(lost.values().all(|count| *count <= KEPT / 100), "{lost:?}");
        }
    }
}

/// How many of each kind are there, or are not.
async fn count(
    (cache, router): &(Cache, Router),
    ttl: Duration,
    there: bool,
) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for kind in KINDS {
        let mut count = 0;
        for number in 0..KEPT {
            count += usize::from(is_kept(cache, router, kind, number, ttl).await == there);
        }
        counts.insert(kind, count);
    }
    counts
}
