//! The store goes away in every way there is, and comes back.

use std::time::{Duration, Instant};

use axum_cache::ErrorKind;
use axum_cache::backend::{Backend, CircuitBreaker, Redis as RedisStore};

use crate::is_long;
use crate::load::{Running, pause, times, warm};
use crate::proxy::Proxy;
use crate::support::servers::database::Database;
use crate::support::servers::memcached::Memcached;
use crate::support::servers::port;
use crate::support::servers::redis::Redis;
use crate::tools::{
    MILLI, OPERATION, SECOND, SLACK, Site, cache, redis_url, report, tiered_url, until,
};

/// How long a breaker takes at most until it uses a store that is back.
const RECOVERY: Duration = Duration::from_secs(2);

pub(crate) async fn a1_refused_at_boot() {
    let redis = Redis::start(&[]).unwrap();
    let boot = async |port| {
        let begin = Instant::now();
        let site = Site::new(&redis_url(port, OPERATION)).await;
        Running::on(&site, 20 * MILLI).finish().await;
        (begin.elapsed(), site)
    };
    let (usual, _) = boot(redis.port).await;
    let (took, site) = boot(port()).await;
    let load = Running::on(&site, 2 * SECOND * times()).finish().await;
    let all = load.between(Duration::ZERO, Duration::MAX);
    report(
        "A1 redis",
        "ready at most 1 s later; 0 wrong answers",
        format_args!("ready and first answers in {took:.1?}, usually {usual:.1?}; {all}"),
    );
    assert!(took <= usual + SECOND + SLACK, "{took:?}");
    assert!(all.at(0.99) <= OPERATION + SLACK, "{all}");
}

pub(crate) async fn a2_killed_under_load() {
    let mut redis = Redis::start(&[]).unwrap();
    let site = Site::new(&redis_url(redis.port, OPERATION)).await;
    warm(&site).await;
    let load = Running::on(&site, 4 * SECOND * times());
    pause(SECOND * times()).await;
    let killed = load.now();
    redis.server.stop("KILL");
    let load = load.finish().await;
    let before = load.between(Duration::ZERO, killed);
    let opening = load.between(killed, killed + OPERATION);
    let open = load.between(killed + OPERATION, Duration::MAX);
    report(
        "A2 redis",
        "0 wrong answers; p99 as before and 5 ms once the breaker is open",
        format_args!("before {before}; at once {opening}; then {open}"),
    );
    assert!(open.at(0.99) <= before.at(0.99) + 5 * MILLI + SLACK);
}

/// The same, with memory in front of it.
pub(crate) async fn a2_killed_behind_memory() {
    let mut redis = Redis::start(&[]).unwrap();
    let far = redis_url(redis.port, OPERATION);
    let site = Site::new(&tiered_url(&far)).await;
    warm(&site).await;
    let load = Running::on(&site, 3 * SECOND * times());
    pause(SECOND * times()).await;
    let killed = load.now();
    redis.server.stop("KILL");
    let load = load.finish().await;
    let before = load.between(Duration::ZERO, killed);
    let after = load.between(killed, Duration::MAX);
    report(
        "A2 tiered",
        "0 wrong answers; hits in memory go on, p99 as before and 1 ms",
        format_args!("before {before}; then {after}"),
    );
    assert!(after.hits() >= before.hits() - 0.1, "{after}");
    assert!(after.at(0.99) <= before.at(0.99) + MILLI + SLACK, "{after}");
}

pub(crate) async fn a3_hangs_under_load() {
    let redis = Redis::start(&[]).unwrap();
    let proxy = Proxy::to(redis.port).await;
    let site = Site::new(&redis_url(proxy.port, OPERATION)).await;
    warm(&site).await;
    let load = Running::on(&site, 5 * SECOND * times());
    pause(SECOND).await;
    let hung = load.now();
    redis.server.signal("STOP");
    let first = until("open", async || is_open(&site).await).await;
    let open = load.now();
    pause(2 * SECOND * times()).await;
    let running = load.now();
    redis.server.signal("CONT");
    let load = load.finish().await;
    let before = load.between(Duration::ZERO, hung);
    let (opening, then) = (load.between(hung, open), load.between(open, running));
    report(
        "A3 redis",
        "0 wrong answers; each request at most one deadline of 250 ms late for 20 calls; open within 1 s",
        format_args!("before {before}; open after {first:.1?}; until then {opening}; open {then}"),
    );
    assert!(first <= SECOND + SLACK, "{first:?}");
    assert!(opening.longest() <= OPERATION + SLACK, "{opening}");
    assert!(then.at(0.99) <= before.at(0.99) + SLACK / 2, "{then}");
    a3_open_costs_little(&redis, &proxy).await;
}

pub(crate) async fn a3_memcached_hangs() {
    let memcached = Memcached::start(&[]).unwrap();
    let url = format!("{}?operation_timeout=0.25", memcached.url());
    let signal = |signal: &str| memcached.server.signal(signal);
    hangs("memcached", &url, OPERATION, signal).await;
}

pub(crate) async fn a3_postgres_hangs() {
    let mut database = Database::postgres().unwrap();
    let url = format!("{}?create_table=true&operation_timeout=0.5", database.url);
    let signal = |signal: &str| database.signal(signal);
    hangs("postgres", &url, 2 * OPERATION, signal).await;
}

/// Any store that hangs for two seconds.
async fn hangs(store: &str, url: &str, operation: Duration, mut signal: impl FnMut(&str)) {
    let site = Site::new(url).await;
    warm(&site).await;
    let load = Running::on(&site, 6 * SECOND);
    pause(SECOND / 2).await;
    let gone = load.now();
    signal("STOP");
    pause(2 * SECOND).await;
    signal("CONT");
    let back = load.now();
    let load = load.finish().await;
    let before = load.between(Duration::ZERO, gone);
    let during = load.between(gone, back);
    let normal = load.normal_after(back, before.hits());
    report(
        &format!("A3, A7 {store}"),
        "0 wrong answers; no request later than one deadline; the usual share of hits within 2 s",
        format_args!(
            "deadline {operation:?}: before {before}; meanwhile {during}; as before after {normal:.1?}"
        ),
    );
    assert!(during.longest() <= operation + SLACK, "{during}");
    assert!(normal.unwrap() <= RECOVERY + SLACK + SECOND, "{normal:?}");
}

/// Whether a call fails at once, since the store was away.
async fn is_open(site: &Site) -> bool {
    let begin = Instant::now();
    let failed = site.cache.get::<u64>("none").await.is_err();
    failed && begin.elapsed() < 5 * MILLI
}

async fn a3_open_costs_little(redis: &Redis, proxy: &Proxy) {
    const PROBING: Duration = Duration::from_secs(4);
    let store = RedisStore::builder([format!("redis://127.0.0.1:{}", proxy.port)]);
    let store = store.operation_timeout(OPERATION).build().unwrap();
    let breaker = CircuitBreaker::new(store);
    let cache = axum_cache::Cache::new(breaker.clone());
    assert_eq!(cache.get::<u64>("k").await.unwrap(), None);
    redis.server.signal("STOP");
    assert!(cache.get::<u64>("k").await.is_err());
    let key = cache.final_key("k").unwrap();
    let calls = 20_000_u32;
    let begin = Instant::now();
    for _ in 0..calls {
        assert!(breaker.get(&key).await.is_err());
    }
    let bare = begin.elapsed() / calls;
    let begin = Instant::now();
    for _ in 0..calls {
        assert!(cache.get::<u64>("k").await.is_err());
    }
    let call = begin.elapsed() / calls;
    redis.server.signal("CONT");
    until("closed", async || !breaker.is_open()).await;
    // What gets through to nobody is counted by the proxy.
    proxy.forget_all();
    assert!(cache.get::<u64>("k").await.is_err());
    proxy.take_lost();
    let begin = Instant::now();
    while begin.elapsed() < PROBING {
        assert!(breaker.is_open());
        let _ = cache.get::<u64>("k").await;
        pause(MILLI).await;
    }
    let asked = proxy.take_lost();
    proxy.heal();
    report(
        "A3 redis",
        "a call of an open breaker at most 1 us; no more than one probe a deadline reaches the line",
        format_args!(
            "{:.2} us by the breaker, {:.2} us by the cache (a build without optimization); {asked} packets of probes in {PROBING:?}",
            bare.as_secs_f64() * 1e6,
            call.as_secs_f64() * 1e6,
        ),
    );
    assert!(bare <= 100 * MILLI / 1000, "{bare:?}");
    // A probe, whose three questions may come one by one, waits for a deadline before the next one.
    assert!(asked <= 3 * 16, "{asked}");
}

pub(crate) async fn a4_answers_late() {
    let redis = Redis::start(&[]).unwrap();
    let proxy = Proxy::to(redis.port).await;
    let operation = 100 * MILLI;
    let site = Site::new(&redis_url(proxy.port, operation)).await;
    warm(&site).await;
    let load = Running::on(&site, 4 * SECOND * times());
    pause(SECOND).await;
    let late = load.now();
    proxy.delay(200 * MILLI);
    pause(2 * SECOND * times()).await;
    let healed = load.now();
    proxy.heal();
    let load = load.finish().await;
    let (before, during) = (
        load.between(Duration::ZERO, late),
        load.between(late, healed),
    );
    let failures = site.world.take_failures();
    report(
        "A4 redis",
        "200 ms later than a deadline of 100 ms allows: no request later than that; typed errors, not misses",
        format_args!("before {before}; late {during}; failed calls {failures:?}"),
    );
    assert!(during.longest() <= operation + SLACK, "{during}");
    assert!(failures.contains_key("Unavailable"), "{failures:?}");
}

pub(crate) async fn a7_comes_back() {
    let away = if is_long() { 60 * SECOND } else { 3 * SECOND };
    for signal in ["STOP", "KILL"] {
        let mut redis = Redis::start(&[]).unwrap();
        let site = Site::new(&redis_url(redis.port, OPERATION)).await;
        warm(&site).await;
        let load = Running::on(&site, away + 6 * SECOND);
        pause(SECOND).await;
        let gone = load.now();
        if signal == "STOP" {
            redis.server.signal(signal);
        } else {
            redis.server.stop(signal);
        }
        pause(away).await;
        if signal == "STOP" {
            redis.server.signal("CONT");
        } else {
            redis.start_again();
        }
        let back = load.now();
        let load = load.finish().await;
        let (before, during) = (load.between(Duration::ZERO, gone), load.between(gone, back));
        let normal = load.normal_after(back, before.hits()).unwrap();
        let after = load.between(back + normal, Duration::MAX);
        report(
            "A7 redis",
            "the usual share of hits within 2 s",
            format_args!(
                "{signal}, away {away:?}: {normal:.1?}; before {before}; meanwhile {during}; then {after}"
            ),
        );
        assert!(normal <= RECOVERY + SLACK + SECOND, "{normal:?}");
    }
}

/// What a network does to connections, short of silence.
pub(crate) async fn faults_of_the_network() {
    type Fault = (&'static str, fn(&Proxy));
    const FAULTS: &[Fault] = &[
        ("reset", Proxy::reset_all),
        ("silent for those that are", Proxy::forget),
        ("silent for all", Proxy::forget_all),
        ("cut after 1,000 bytes", |proxy| proxy.cut_after(1000)),
        ("answers lost", |proxy| proxy.lose_answers_after(50)),
    ];
    let redis = Redis::start(&[]).unwrap();
    for (what, fault) in FAULTS {
        let proxy = Proxy::to(redis.port).await;
        let site = Site::new(&redis_url(proxy.port, OPERATION)).await;
        warm(&site).await;
        let load = Running::on(&site, 5 * SECOND);
        pause(SECOND / 2).await;
        let begin = load.now();
        fault(&proxy);
        pause(SECOND).await;
        let healed = load.now();
        proxy.heal();
        let load = load.finish().await;
        let before = load.between(Duration::ZERO, begin);
        let during = load.between(begin, healed);
        let normal = load.normal_after(healed, before.hits());
        report(
            "A13 redis",
            "0 wrong answers; no request later than one deadline of 250 ms; usual again within 2 s",
            format_args!("{what}: {during}; as before after {normal:.1?}"),
        );
        assert!(
            during.longest() <= 2 * OPERATION + SLACK,
            "{what}: {during}"
        );
        assert!(normal.unwrap() <= RECOVERY + SLACK + SECOND, "{what}");
    }
    // The same cache, asked directly, says what is wrong.
    let proxy = Proxy::to(redis.port).await;
    let cache = cache(&redis_url(proxy.port, OPERATION)).await;
    proxy.reset_all();
    let failed = cache.get::<u64>("k").await.unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Unavailable, "{failed:?}");
}
