//! Many at once: on one key, on many, on each other's.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use axum_cache::backend::Memory;
use axum_cache::key::KeyPolicy;
use axum_cache::{Cache, ErrorKind, Policy, RefreshAhead};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::is_long;
use crate::tools::{Count, MILLI, SECOND, cache, numbered, report};

pub(crate) async fn c1_one_computation_for_a_crowd() {
    let cache = cache();
    let count = Count::default();
    let start = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..10_000 {
        let (cache, count) = (cache.clone(), count.clone());
        callers.spawn(async move {
            let value = cache.get_or_set("k", SECOND, || numbered(count, 200 * MILLI));
            value.await.unwrap()
        });
    }
    let same = callers
        .join_all()
        .await
        .iter()
        .filter(|it| **it == 1)
        .count();
    let took = start.elapsed();
    report(
        "C1",
        "1 computation for 10,000, within 200 + 50 ms",
        format_args!("{} computations, {same} same values, {took:?}", count.get()),
    );
    assert_eq!((count.get(), same), (1, 10_000));
    assert!(took <= 250 * MILLI);
}

pub(crate) async fn c8_one_refresh_an_expiry() {
    let mut rows = Vec::new();
    for rate in [10_u32, 100, 1000] {
        let cache = cache();
        let policy = Policy::new(60 * SECOND).refresh_ahead(RefreshAhead::XFETCH);
        let count = Count::default();
        // 1 s to compute, so the rate a second is the rate a computation.
        let pause = SECOND / rate;
        let mut longest = Duration::ZERO;
        let first = cache.get_or_set("k", policy, || numbered(count.clone(), SECOND));
        first.await.unwrap();
        let start = Instant::now();
        while start.elapsed() < 600 * SECOND {
            let asked = Instant::now();
            let value = cache.get_or_set("k", policy, || numbered(count.clone(), SECOND));
            value.await.unwrap();
            longest = longest.max(asked.elapsed());
            sleep(pause).await;
        }
        // Each life is its TTL, or less by some seconds.
        let most = 600 / 50 + 2;
        rows.push(format!(
            "{rate}: {} refreshes, longest wait {longest:?}",
            count.get() - 1
        ));
        assert!((9..=most).contains(&count.get()), "{rows:?}");
        assert!(longest.is_zero() || rate == 10, "{rows:?}");
    }
    report(
        "C8",
        "at most 1 refresh an expiry, no one waits",
        rows.join("; "),
    );
}

pub(crate) async fn c9_jitter_spreads() {
    // So many that chance alone fills no second far above the others.
    const KEYS: usize = 3000;
    let peak = |jitter: f64| async move {
        let cache = cache();
        let policy = Policy::new(300 * SECOND).jitter(jitter);
        let count = Count::default();
        let ask = async |from: usize| {
            for key in from..KEYS {
                let key = key.to_string();
                let value =
                    cache.get_or_set(&key, policy, || numbered(count.clone(), Duration::ZERO));
                value.await.unwrap();
            }
        };
        ask(0).await;
        let (mut peak, mut before) = (0, count.get());
        for _ in 0..305 {
            sleep(SECOND).await;
            ask(0).await;
            peak = peak.max(count.get() - before);
            before = count.get();
        }
        assert!(count.get() >= 2 * KEYS);
        peak
    };
    let (with, without) = (peak(0.1).await, peak(0.0).await);
    report(
        "C9",
        "at most 5 % of the keys in one second with a jitter of 10 %",
        format_args!("{with} of {KEYS}; without {without}"),
    );
    assert!(with <= KEYS / 20, "{with}");
    assert_eq!(without, KEYS);
}

/// Asks for `key` while computing another one.
async fn within(
    cache: Cache,
    key: &'static str,
    policy: Policy,
    count: Count,
) -> io::Result<usize> {
    count.next();
    sleep(10 * MILLI).await;
    let value = cache.get_or_set(key, policy, || numbered(count, 10 * MILLI));
    value.await.map_err(io::Error::other)
}

pub(crate) async fn c10_who_waits_for_each_other_is_freed() {
    let runs = 10_000;
    let policy = Policy::new(SECOND).lock_timeout(200 * MILLI);
    let mut longest = [Duration::ZERO; 2];
    for run in 0..runs {
        let cache = cache();
        let count = Count::default();
        let start = Instant::now();
        let (inner, runs_inside) = (cache.clone(), count.clone());
        let nested = cache.get_or_set("a", policy, || within(inner, "a", policy, runs_inside));
        assert!(nested.await.is_ok(), "{run}");
        longest[0] = longest[0].max(start.elapsed());
        cache.clear().await.unwrap();
        let start = Instant::now();
        let mut tasks = JoinSet::new();
        for (outer, other) in [("a", "b"), ("b", "a")] {
            let (cache, count) = (cache.clone(), count.clone());
            tasks.spawn(async move {
                let inner = cache.clone();
                let value = cache.get_or_set(outer, policy, || within(inner, other, policy, count));
                value.await.unwrap();
            });
        }
        tasks.join_all().await;
        longest[1] = longest[1].max(start.elapsed());
    }
    report(
        "C10",
        "all complete within the lock timeout of 200 ms and 2 x 20 ms",
        format_args!(
            "{runs} runs, nested {:?}, crosswise {:?}",
            longest[0], longest[1]
        ),
    );
    assert!(longest.into_iter().all(|it| it <= 240 * MILLI));
}

pub(crate) async fn c11_keys_do_not_wait_for_each_other() {
    let cache = cache();
    let count = Count::default();
    let mut callers = JoinSet::new();
    for key in 0..10_000 {
        let (cache, count) = (cache.clone(), count.clone());
        callers.spawn(async move {
            let start = Instant::now();
            let key = key.to_string();
            let value = cache.get_or_set(&key, SECOND, || numbered(count, 200 * MILLI));
            value.await.unwrap();
            start.elapsed()
        });
    }
    let longest = callers.join_all().await.into_iter().max().unwrap();
    report(
        "C11",
        "10,000 keys at once within 220 ms",
        format_args!("{longest:?}"),
    );
    assert!(longest <= 220 * MILLI);
    assert_eq!(count.get(), 10_000);
}

pub(crate) async fn c12_two_types_of_one_key() {
    let cache = cache();
    let text = || async {
        sleep(10 * MILLI).await;
        Ok::<_, io::Error>("text".to_owned())
    };
    let numbers = Count::default();
    let (one, other) = tokio::join!(
        cache.get_or_set("k", SECOND, text),
        cache.get_or_set("k", SECOND, || numbered(numbers.clone(), 10 * MILLI)),
    );
    let other = other.map_err(|error| error.kind());
    report(
        "C12",
        "a typed error or a miss, never another value",
        format_args!("{:?} and {other:?}", one.as_deref().ok()),
    );
    assert_eq!(one.unwrap(), "text");
    assert_eq!(other, Err(ErrorKind::Decode));
    let value = cache.get_or_set("k", SECOND, || numbered(numbers.clone(), MILLI));
    assert_eq!(
        value.await.unwrap(),
        1,
        "what is there is of another type, and is replaced"
    );
}

pub(crate) async fn c13_batches_that_overlap() {
    let runs = if is_long() { 100_000 } else { 10_000 };
    let mut computed = 0;
    let start = std::time::Instant::now();
    for run in 0..runs {
        let cache = Cache::new(Memory::new());
        let counts: HashMap<&str, Count> = ["a", "b", "c", "d"]
            .map(|key| (key, Count::default()))
            .into();
        let mut batches = JoinSet::new();
        for keys in [["a", "b", "c"], ["d", "c", "b"], ["c", "a", "d"]] {
            let (cache, counts) = (cache.clone(), counts.clone());
            batches.spawn(async move {
                let compute = move |missing: Vec<&'static str>| {
                    let counts = counts.clone();
                    async move {
                        tokio::task::yield_now().await;
                        let values = missing.into_iter().map(|key| (key, counts[key].next()));
                        Ok::<HashMap<_, _>, io::Error>(values.collect())
                    }
                };
                let found = cache.get_or_set_many(keys, SECOND, compute);
                let found = timeout(5 * SECOND, found).await;
                found.unwrap_or_else(|_| panic!("run {run} hangs")).unwrap()
            });
        }
        for found in batches.join_all().await {
            assert_eq!(found.len(), 3);
            assert!(found.values().all(|number| *number == 1), "{found:?}");
        }
        computed += counts.values().map(Count::get).sum::<usize>();
    }
    report(
        "C13",
        "each key once, 0 deadlocks",
        format_args!(
            "{runs} runs, {computed} for {} keys, {:?}",
            4 * runs,
            start.elapsed()
        ),
    );
    assert_eq!(computed, 4 * runs);
}

pub(crate) async fn c14_bad_keys_are_never_shared() {
    let strict = Cache::builder(Memory::new()).key_policy(KeyPolicy::Error);
    let strict = strict.build().unwrap();
    let lenient = Cache::new(Memory::new());
    let long = |end: char| format!("{}{end}", "x".repeat(300));
    let bad = [
        long('a'),
        long('b'),
        "a b".into(),
        "a\nb".into(),
        "\0".into(),
        String::new(),
    ];
    let mut cross = 0;
    let mut callers = JoinSet::new();
    for key in bad.clone() {
        for _ in 0..100 {
            let (key, cache) = (key.clone(), lenient.clone());
            callers.spawn(async move {
                let own = key.clone();
                let value = cache.get_or_set(&key, SECOND, || async {
                    sleep(10 * MILLI).await;
                    Ok::<_, io::Error>(own)
                });
                usize::from(value.await.unwrap() != key)
            });
        }
    }
    cross += callers.join_all().await.into_iter().sum::<usize>();
    for key in &bad[..5] {
        let refused = strict.get_or_set(key, SECOND, || numbered(Count::default(), MILLI));
        assert_eq!(refused.await.unwrap_err().kind(), ErrorKind::InvalidKey);
    }
    report("C14", "0 cross values", format_args!("{cross} of 600"));
    assert_eq!(cross, 0);
}

pub(crate) async fn batches_refresh_what_is_stale() {
    let cache = cache();
    let policy = Policy::new(10 * SECOND)
        .stale_while_revalidate(10 * SECOND)
        .stale_if_error(60 * SECOND);
    let runs = Count::default();
    let ask = |fails: bool| {
        let runs = runs.clone();
        cache.get_or_set_many(["a", "b", "none"], policy, move |missing: Vec<&str>| {
            let run = runs.next();
            async move {
                let values = missing.into_iter().filter(|key| *key != "none");
                let values: HashMap<_, _> = values.map(|key| (key, run)).collect();
                if fails {
                    Err(io::Error::other("on purpose"))
                } else {
                    Ok(values)
                }
            }
        })
    };
    let both = |run: usize| HashMap::from([("a", run), ("b", run)]);
    assert_eq!(ask(false).await.unwrap(), both(1));
    // What is never there is asked for again, and what is there is not.
    assert_eq!(ask(false).await.unwrap(), both(1));
    assert_eq!(runs.get(), 2);
    cache.set("none", &0, 3600 * SECOND).await.unwrap();
    let three = |run: usize| HashMap::from([("a", run), ("b", run), ("none", 0)]);
    sleep(11 * SECOND).await;
    assert_eq!(
        ask(false).await.unwrap(),
        three(1),
        "stale, and refreshed behind"
    );
    sleep(MILLI).await;
    assert_eq!(ask(false).await.unwrap(), three(3));
    assert_eq!(runs.get(), 3);
    sleep(25 * SECOND).await;
    assert_eq!(
        ask(true).await.unwrap(),
        three(3),
        "stale because of an error"
    );
    sleep(90 * SECOND).await;
    assert!(ask(true).await.is_err());
}
