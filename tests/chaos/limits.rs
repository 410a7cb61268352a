//! More is asked for than there is: room at the origin, connections, and time.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "small numbers"
)]

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Path;
use axum::http::{Request, StatusCode};
use axum::routing::get;
use axum_cache::backend::{Redis as RedisStore, Sql, bb8_redis};
use axum_cache::{Cache, CacheLayer, ErrorKind, Policy};
use tokio::task::JoinSet;
use tower::ServiceExt;

use crate::load::{pause, times, visits};
use crate::proxy::Proxy;
use crate::support::servers::database::Database;
use crate::support::servers::redis::{Redis, command};
use crate::tools::{
    MILLI, OPERATION, PATIENCE, SECOND, SLACK, TTL, assert_typed, cache, redis_url, report,
    tiered_url, until,
};

/// How long something took, for many.
#[derive(Clone, Default)]
struct Times(Vec<Duration>);

impl Times {
    fn at(&self, share: f64) -> Duration {
        let mut times = self.0.clone();
        times.sort_unstable();
        let place = (times.len() as f64 * share) as usize;
        let place = place.min(times.len().saturating_sub(1));
        times.get(place).copied().unwrap_or_default()
    }

    fn longest(&self) -> Duration {
        self.at(1.0)
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (median, most, longest) = (self.at(0.5), self.at(0.99), self.longest());
        let count = self.0.len();
        write!(
            f,
            "{count} (p50 {median:.1?}, p99 {most:.1?}, longest {longest:.1?})"
        )
    }
}

/// What pages and values are made by, 200 milliseconds each.
#[derive(Clone, Default)]
struct Origin {
    running: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    runs: Arc<AtomicUsize>,
}

impl Origin {
    async fn make(self) -> Result<u64, io::Error> {
        self.runs.fetch_add(1, Ordering::SeqCst);
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(running, Ordering::SeqCst);
        pause(200 * MILLI).await;
        self.running.fetch_sub(1, Ordering::SeqCst);
        Ok(0)
    }
}

/// What the origin bears.
const CAPACITY: usize = 50;

/// How many pages have been there for long.
const OLD: usize = 20;

/// What becomes of who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Answered {
    Made,
    Stale,
    Refused,
}

async fn ask_page(router: Router, path: String) -> Answered {
    let request = Request::get(path).body(Body::empty()).unwrap();
    let response = router.oneshot(request).await.unwrap();
    let how = response.headers()["cache-status"].to_str().unwrap();
    let answered = match response.status() {
        StatusCode::OK if how.contains("; hit") => Answered::Stale,
        StatusCode::OK => Answered::Made,
        status => {
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(response.headers()["retry-after"], "1");
            assert!(how.contains("detail=overloaded"), "{how}");
            Answered::Refused
        }
    };
    to_bytes(response.into_body(), usize::MAX).await.unwrap();
    answered
}

async fn ask_value(cache: Cache, key: String, origin: Origin) -> Answered {
    match cache.get_or_set(&key, TTL, || origin.make()).await {
        Ok(_) => Answered::Made,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Overloaded, "{error:?}");
            Answered::Refused
        }
    }
}

pub(crate) async fn a16_more_than_the_origin_bears() {
    let mut redis = Redis::start(&[]).unwrap();
    let far = redis_url(redis.port, OPERATION);
    let cache = cache(&format!("{}&max_computations={CAPACITY}", tiered_url(&far))).await;
    let origin = Origin::default();
    let handler = {
        let origin = origin.clone();
        async move |Path(page): Path<String>| {
            origin.make().await.unwrap();
            page
        }
    };
    let layer = CacheLayer::new(cache.clone())
        .stale_if_error(TTL)
        .ttl(SECOND);
    let router = Router::new().route("/{page}", get(handler)).layer(layer);
    for page in 0..OLD {
        ask_page(router.clone(), format!("/old{page}")).await;
    }
    pause(SECOND + SECOND / 5).await;
    redis.server.stop("KILL");
    origin.runs.store(0, Ordering::SeqCst);
    let start = Instant::now();
    let mut asked = JoinSet::new();
    visits(500.0, start, 3 * SECOND * times(), |number, _, due| {
        let (router, cache, origin) = (router.clone(), cache.clone(), origin.clone());
        asked.spawn(async move {
            let answered = match number % 4 {
                0 | 1 => ask_page(router, format!("/new{number}")).await,
                2 => ask_value(cache, format!("new{number}"), origin).await,
                _ => ask_page(router, format!("/old{}", number / 4 % OLD)).await,
            };
            (answered, (start + due).elapsed())
        });
    })
    .await;
    let mut answers = BTreeMap::<Answered, Times>::new();
    for (answered, took) in asked.join_all().await {
        answers.entry(answered).or_default().0.push(took);
    }
    let most = origin.most.load(Ordering::SeqCst);
    let runs = origin.runs.load(Ordering::SeqCst);
    let of = |answered| answers.get(&answered).cloned().unwrap_or_default();
    let (made, stale, refused) = (
        of(Answered::Made),
        of(Answered::Stale),
        of(Answered::Refused),
    );
    report(
        "A16 redis",
        "store away, 500 cold requests/s: at most 50 computations at a time; the others get what is stale, or are refused within 10 ms",
        format_args!(
            "at most {most} at a time, {runs} in all; made {made}; stale {stale}; refused {refused}"
        ),
    );
    assert!(most <= CAPACITY, "{most}");
    assert!(!made.0.is_empty() && !stale.0.is_empty() && !refused.0.is_empty());
    assert!(refused.longest() <= 10 * MILLI + SLACK, "{refused}");
    assert!(stale.longest() <= 10 * MILLI + SLACK, "{stale}");
}

pub(crate) async fn a15_fails_closed() {
    let redis = Redis::start(&[]).unwrap();
    let cache = cache(&redis_url(redis.port, OPERATION)).await;
    until("there", async || cache.get::<u64>("k").await.is_ok()).await;
    redis.server.signal("STOP");
    let origin = Origin::default();
    let policy = Policy::new(TTL).fail_closed();
    let (mut times, mut kinds) = (Times::default(), BTreeMap::<String, usize>::new());
    for call in 0..40 {
        let (begin, origin) = (Instant::now(), origin.clone());
        let key = format!("k{call}");
        let failed = if call % 2 == 0 {
            cache.get_or_set(&key, policy, || origin.make()).await.err()
        } else {
            let compute = move |keys: Vec<String>| {
                let origin = origin.clone();
                async move {
                    let made = origin.make().await?;
                    Ok::<_, io::Error>(keys.into_iter().map(|key| (key, made)).collect())
                }
            };
            let made = cache.get_or_set_many([key], policy, compute).await;
            made.err()
        };
        let failed = failed.unwrap();
        times.0.push(begin.elapsed());
        assert_typed(&failed);
        *kinds.entry(format!("{:?}", failed.kind())).or_default() += 1;
        pause(10 * MILLI).await;
    }
    redis.server.signal("CONT");
    until("back", async || cache.get::<u64>("k").await.is_ok()).await;
    let script = "return #redis.call('keys', '*')";
    let stored = command(redis.port, &["EVAL", script, "0"]).unwrap();
    let runs = origin.runs.load(Ordering::SeqCst);
    report(
        "A15 redis",
        "hangs: a typed error within the deadline of 250 ms; nothing computed, nothing stored",
        format_args!(
            "{times}, {kinds:?}; {runs} computed, {} stored",
            stored.trim().trim_start_matches(':')
        ),
    );
    assert!(times.longest() <= OPERATION + SLACK, "{times}");
    assert_eq!((runs, stored.trim()), (0, ":0"));
}

/// Two hundred who ask at once, by five connections, what takes 100 milliseconds.
async fn crowd(store: &str, cache: &Cache, proxy: &Proxy) {
    until("there", async || cache.set("k", &1, TTL).await.is_ok()).await;
    proxy.delay(100 * MILLI);
    let (mut times, mut kinds) = (Times::default(), BTreeMap::<String, usize>::new());
    for _ in 0..3 * crate::load::times() {
        let asked = (0..200).map(|number| {
            let cache = cache.clone();
            async move {
                let (begin, key) = (Instant::now(), format!("k{number}"));
                let outcome = if number % 2 == 0 {
                    cache.get::<u64>(&key).await.map(drop)
                } else {
                    cache.set(&key, &1, TTL).await
                };
                (outcome, begin.elapsed())
            }
        });
        let asked = asked.collect::<JoinSet<_>>();
        for (outcome, took) in asked.join_all().await {
            times.0.push(took);
            let kind = match outcome {
                Ok(()) => "done".to_owned(),
                Err(error) => {
                    assert_typed(&error);
                    format!("{:?}", error.kind())
                }
            };
            *kinds.entry(kind).or_default() += 1;
        }
    }
    proxy.delay(Duration::ZERO);
    // None is held by who has gone.
    let back = until("usual again", async || {
        let all = (0..200).map(|_| {
            let cache = cache.clone();
            async move { cache.get::<u64>("k").await.is_ok() }
        });
        let all = all.collect::<JoinSet<_>>().join_all().await;
        all.into_iter().all(|is_ok| is_ok)
    })
    .await;
    report(
        &format!("A6 {store}"),
        "5 connections, 200 at once, 100 ms late: none waits longer than the deadline of 500 ms; 0 deadlocks",
        format_args!("{times}, {kinds:?}; all 200 as usual {back:.1?} after"),
    );
    assert!(times.longest() <= 2 * OPERATION + SLACK, "{times}");
    assert!(kinds.contains_key("done"), "{kinds:?}");
}

pub(crate) async fn a6_five_connections() {
    let redis = Redis::start(&[]).unwrap();
    let proxy = Proxy::to(redis.port).await;
    let url = format!("redis://127.0.0.1:{}", proxy.port);
    let store = RedisStore::builder([url.clone()]).connections(5);
    let store = store.operation_timeout(2 * OPERATION).build().unwrap();
    crowd("redis", &Cache::new(store), &proxy).await;
    let manager = bb8_redis::RedisConnectionManager::new(url).unwrap();
    let pool = bb8_redis::bb8::Pool::builder().max_size(5);
    let pool = pool.build(manager).await.unwrap();
    crowd(
        "redis, pool",
        &Cache::new(RedisStore::from_pool(pool)),
        &proxy,
    )
    .await;
}

pub(crate) async fn a6_five_connections_of_postgres() {
    let database = Database::postgres().unwrap();
    let proxy = Proxy::to(database.port()).await;
    let url = format!("postgres://cache@127.0.0.1:{}/postgres", proxy.port);
    let store = Sql::builder(url).max_connections(5).create_table(true);
    let store = store.operation_timeout(2 * OPERATION).build().unwrap();
    crowd("postgres", &Cache::new(store), &proxy).await;
}

pub(crate) async fn a4_stale_values_do_not_wait() {
    const SOFT: Duration = Duration::from_millis(20);
    /// More than a busy machine adds.
    const LATE: Duration = Duration::from_secs(3);
    const VALUES: usize = 50;
    let redis = Redis::start(&[]).unwrap();
    let proxy = Proxy::to(redis.port).await;
    let far = redis_url(proxy.port, PATIENCE);
    let cache = cache(&tiered_url(&far)).await;
    let policies = [
        (
            "stale while revalidated",
            Policy::new(SECOND).stale_while_revalidate(TTL),
        ),
        (
            "stale after a soft timeout",
            Policy::new(SECOND).stale_if_error(TTL).soft_timeout(SOFT),
        ),
    ];
    for (what, policy) in policies {
        let key = |value: usize| format!("{what} {value}");
        let old = || async { Ok::<_, io::Error>(1_u64) };
        for value in 0..VALUES {
            let made = cache.get_or_set(&key(value), policy, old).await;
            assert_eq!(made.unwrap(), 1);
        }
        pause(SECOND + SECOND / 5).await;
        proxy.delay(LATE);
        let asked = (0..VALUES).map(|value| {
            let (cache, key) = (cache.clone(), key(value));
            async move {
                let begin = Instant::now();
                let new = || async {
                    pause(LATE).await;
                    Ok::<_, io::Error>(2)
                };
                let seen = cache.get_or_set(&key, policy, new).await.unwrap();
                (seen, begin.elapsed())
            }
        });
        let asked = asked.collect::<JoinSet<_>>();
        let (mut times, mut stale) = (Times::default(), 0);
        for (seen, took) in asked.join_all().await {
            stale += usize::from(seen == 1);
            times.0.push(took);
        }
        proxy.delay(Duration::ZERO);
        report(
            "A4 tiered",
            "store and computation 3 s late: what is stale near within 20 ms",
            format_args!("{what}: {stale} stale of {times}"),
        );
        assert_eq!(stale, VALUES);
        assert!(times.longest() <= SOFT + SLACK, "{times}");
        pause(SECOND).await;
    }
}
