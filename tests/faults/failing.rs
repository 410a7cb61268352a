//! Computations that fail, panic, hang or take too long.

use std::time::Duration;

use axum_cache::backend::Memory;
use axum_cache::{Cache, ErrorKind, Policy, Ttl};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::tools::{Count, MILLI, SECOND, builders, cache, failing, numbered, report};

pub(crate) async fn b1_errors_are_throttled_and_stale_is_served() {
    let cache = cache();
    let policy = Policy::new(10 * SECOND).stale_if_error(600 * SECOND);
    let (good, bad) = (Count::default(), Count::default());
    let first = cache.get_or_set("k", policy, || numbered(good.clone(), MILLI));
    assert_eq!(first.await.unwrap(), 1);
    sleep(11 * SECOND).await;
    let (mut stale, mut longest) = (0, Duration::ZERO);
    let start = Instant::now();
    while start.elapsed() < 180 * SECOND {
        let asked = Instant::now();
        let value = cache.get_or_set("k", policy, || failing(bad.clone(), Duration::ZERO));
        assert_eq!(value.await.unwrap(), 1);
        longest = longest.max(asked.elapsed());
        stale += 1;
        sleep(MILLI).await;
    }
    report(
        "B1",
        "all served stale, at most 7 attempts in 3 min, p99 +1 ms",
        format_args!("{stale} stale, {} attempts, longest {longest:?}", bad.get()),
    );
    assert!(bad.get() <= 7 && longest <= MILLI && stale >= 80_000);
    sleep(31 * SECOND).await;
    let value = cache.get_or_set("k", policy, || numbered(good.clone(), MILLI));
    assert_eq!(
        value.await.unwrap(),
        2,
        "it is asked again when the pause is over"
    );
}

pub(crate) async fn b2_a_cold_error_is_everyones() {
    let cache = cache();
    let policy = Policy::new(10 * SECOND).backoff(5 * SECOND);
    let bad = Count::default();
    let mut waiters = JoinSet::new();
    for _ in 0..1000 {
        let (cache, bad) = (cache.clone(), bad.clone());
        waiters.spawn(async move {
            let value = cache.get_or_set("k", policy, || failing(bad, 200 * MILLI));
            let error = value.await.unwrap_err();
            error.compute_error::<std::io::Error>().unwrap().to_string()
        });
    }
    let errors = waiters.join_all().await;
    let same = errors.iter().filter(|error| *error == "on purpose").count();
    assert!(!cache.contains("k").await.unwrap());
    let ask = || async {
        let value = cache.get_or_set("k", policy, || failing(bad.clone(), MILLI));
        assert_eq!(value.await.unwrap_err().kind(), ErrorKind::Compute);
        bad.get()
    };
    sleep(4 * SECOND).await;
    let before = ask().await;
    sleep(2 * SECOND).await;
    let after = ask().await;
    report(
        "B2",
        "1 attempt, 1,000 same errors, nothing stored, next attempt after the back-off",
        format_args!("{same} same errors, attempts {before} before and {after} after 5 s"),
    );
    assert_eq!((same, before, after), (1000, 1, 2));
}

pub(crate) async fn b3_a_panic_frees_the_key() {
    let cache = cache();
    let mut waiters = JoinSet::new();
    for waiter in 0..100 {
        let cache = cache.clone();
        waiters.spawn(async move {
            let start = Instant::now();
            let value = cache.get_or_set::<usize, std::io::Error, _, _>("k", SECOND, || async {
                sleep(50 * MILLI).await;
                panic!("on purpose")
            });
            let error = value.await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Compute, "{waiter}");
            start.elapsed()
        });
    }
    let longest = waiters.join_all().await.into_iter().max().unwrap();
    // In the closure, before there is a future.
    let early = {
        let cache = cache.clone();
        tokio::spawn(async move {
            let compute = || -> std::future::Ready<std::io::Result<usize>> { panic!("on purpose") };
            cache.get_or_set("k", SECOND, compute).await
        })
    };
    assert!(early.await.unwrap_err().is_panic());
    let good = Count::default();
    let value = cache.get_or_set("k", SECOND, || numbered(good.clone(), MILLI));
    assert_eq!(value.await.unwrap(), 1);
    let late = longest.saturating_sub(50 * MILLI);
    report(
        "B3",
        "released within 10 ms, the key is free",
        format_args!("{late:?}"),
    );
    assert!(late <= 10 * MILLI);
}

pub(crate) async fn b4_a_hung_computation_times_out() {
    struct Signal(Count);
    impl Drop for Signal {
        fn drop(&mut self) {
            self.0.next();
        }
    }
    let cache = cache();
    let policy = Policy::new(60 * SECOND)
        .hard_timeout(300 * MILLI)
        .complete_within(2 * SECOND);
    let dropped = Count::default();
    let start = Instant::now();
    let hung = cache.get_or_set::<usize, std::io::Error, _, _>("k", policy, || {
        let signal = Signal(dropped.clone());
        async move {
            let _signal = signal;
            std::future::pending().await
        }
    });
    let error = hung.await.unwrap_err();
    let waited = start.elapsed();
    assert_eq!(error.kind(), ErrorKind::ComputeTimeout);
    let good = Count::default();
    let value = cache.get_or_set("k", policy, || numbered(good.clone(), MILLI));
    assert_eq!(value.await.unwrap(), 1, "the key is free");
    sleep(3 * SECOND).await;
    report(
        "B4",
        "timeout at 300 ± 20 ms, key free, the computation is dropped",
        format_args!("{waited:?}, {} dropped", dropped.get()),
    );
    assert!(waited.abs_diff(300 * MILLI) <= 20 * MILLI);
    assert_eq!(dropped.get(), 1);
    // A late one is stored, unless its key was deleted meanwhile.
    for (key, delete) in [("late", false), ("fenced", true)] {
        let late = cache.get_or_set(key, policy, || numbered(good.clone(), SECOND));
        assert_eq!(late.await.unwrap_err().kind(), ErrorKind::ComputeTimeout);
        if delete {
            cache.delete(key).await.unwrap();
        }
        sleep(SECOND).await;
        assert_eq!(cache.contains(key).await.unwrap(), !delete, "{key}");
    }
}

pub(crate) async fn b5_slow_ones_are_finished_in_the_background() {
    let cache = cache();
    let policy = Policy::new(10 * SECOND)
        .stale_if_error(600 * SECOND)
        .soft_timeout(50 * MILLI);
    let count = Count::default();
    let (mut longest, mut fresh) = (Duration::ZERO, 0);
    let first = cache.get_or_set("k", policy, || numbered(count.clone(), 300 * MILLI));
    assert_eq!(first.await.unwrap(), 1);
    for expiry in 1..=20 {
        sleep(11 * SECOND).await;
        let mut readers = JoinSet::new();
        for _ in 0..50 {
            let (cache, count) = (cache.clone(), count.clone());
            readers.spawn(async move {
                let start = Instant::now();
                let value = cache.get_or_set("k", policy, || numbered(count, 300 * MILLI));
                assert_eq!(value.await.unwrap(), expiry, "what is there");
                start.elapsed()
            });
        }
        longest = longest.max(readers.join_all().await.into_iter().max().unwrap());
        sleep(300 * MILLI).await;
        let value = cache.get::<usize>("k").await.unwrap();
        fresh += usize::from(value == Some(expiry + 1));
    }
    report(
        "B5",
        "p99 at most 55 ms, 1 completion an expiry, then fresh",
        format_args!(
            "longest {longest:?}, {} runs for 21, {fresh} of 20 fresh",
            count.get()
        ),
    );
    assert!(longest <= 55 * MILLI);
    assert_eq!((count.get(), fresh), (21, 20));
}

pub(crate) async fn b7_refreshes_are_bounded() {
    const KEYS: usize = 10_000;
    let cache = cache();
    let policy = Policy::new(10 * SECOND).stale_while_revalidate(3600 * SECOND);
    let (count, running) = (Count::default(), Count::default());
    for key in 0..KEYS {
        let key = key.to_string();
        let first = cache.get_or_set(&key, policy, || numbered(Count::default(), Duration::ZERO));
        first.await.unwrap();
    }
    sleep(11 * SECOND).await;
    let (mut most, mut rounds, mut longest) = (0, 0, Duration::ZERO);
    while count.get() < KEYS {
        for key in 0..KEYS {
            let start = Instant::now();
            let (done, now) = (count.clone(), running.clone());
            let key = key.to_string();
            let value = cache.get_or_set(&key, policy, || async move {
                now.next();
                sleep(200 * MILLI).await;
                now.less();
                Ok::<_, std::io::Error>(done.next())
            });
            value.await.unwrap();
            longest = longest.max(start.elapsed());
            most = most.max(running.get());
        }
        tokio::task::yield_now().await;
        most = most.max(running.get());
        sleep(200 * MILLI).await;
        rounds += 1;
    }
    report(
        "B7",
        "at most 64 refreshes at a time, the others are retried, stale reads +2 ms",
        format_args!("most {most}, all {KEYS} in {rounds} rounds, longest read {longest:?}"),
    );
    assert!(most <= 64 && most > 32 && longest <= 2 * MILLI);
}

pub(crate) async fn b8_closing_drains() {
    let [cache, other] = builders();
    let cache = cache.max_refreshes(128).build().unwrap();
    let other = other.build().unwrap();
    let lease = 2 * SECOND;
    let policy = Policy::new(10 * SECOND)
        .stale_while_revalidate(600 * SECOND)
        .lease(lease);
    let (quick, slow) = (Count::default(), Count::default());
    let prime = |takes: Duration, from: usize, to: usize, count: &Count| {
        let (cache, count) = (cache.clone(), count.clone());
        async move {
            for key in from..to {
                let count = count.clone();
                let key = key.to_string();
                let value = cache.get_or_set(&key, policy, || numbered(count, takes));
                value.await.unwrap();
            }
        }
    };
    prime(Duration::ZERO, 0, 110, &Count::default()).await;
    sleep(11 * SECOND).await;
    prime(3 * SECOND, 0, 100, &quick).await;
    prime(60 * SECOND, 100, 110, &slow).await;
    sleep(MILLI).await;
    assert_eq!((quick.get(), slow.get()), (100, 10));
    let start = Instant::now();
    cache.close().await.unwrap();
    let took = start.elapsed();
    let mut refreshed = 0;
    for key in 0..110 {
        refreshed += usize::from(cache.contains(&key.to_string()).await.unwrap());
    }
    // Another node takes over what was not done.
    let start = Instant::now();
    for key in 100..110 {
        let key = key.to_string();
        while other.get::<usize>(&key).await.unwrap() != Some(7) {
            let refreshing =
                other.get_or_set(&key, policy, || async { Ok::<_, std::io::Error>(7_usize) });
            refreshing.await.unwrap();
            sleep(10 * MILLI).await;
        }
    }
    let taken_over = start.elapsed();
    report(
        "B8",
        "drained within 5 s, nothing partial, leases over within 2 s",
        format_args!(
            "{took:?}, {refreshed} of 100 refreshed, 10 hung ones ended, taken over in {taken_over:?}"
        ),
    );
    assert!(taken_over <= lease + SECOND);
    assert!(took <= 5 * SECOND + 10 * MILLI);
    assert_eq!(refreshed, 100);
    // What was cut off stores nothing later.
    sleep(5 * SECOND).await;
    assert_eq!(other.get::<usize>("105").await.unwrap(), Some(7));
    sleep(120 * SECOND).await;
    assert_eq!(cache.get::<usize>("105").await.unwrap(), None);
}

pub(crate) async fn b9_nothing_is_served_beyond_its_window() {
    let cache = cache();
    let policy = Policy::new(10 * SECOND).stale_while_revalidate(5 * SECOND);
    let count = Count::default();
    let first = cache.get_or_set("k", policy, || numbered(count.clone(), Duration::ZERO));
    first.await.unwrap();
    let start = Instant::now();
    let (mut beyond, mut stale) = (0, 0);
    // The computation takes four times as long as the window.
    while start.elapsed() < 60 * SECOND {
        let made = count.get();
        let value = cache.get_or_set("k", policy, || numbered(count.clone(), 20 * SECOND));
        let asked = start.elapsed();
        let value = value.await.unwrap();
        if value == 1 {
            stale += usize::from(asked >= 10 * SECOND);
            beyond += usize::from(asked >= 15 * SECOND);
        }
        assert!(value <= made.max(2) + 1);
        sleep(100 * MILLI).await;
    }
    report(
        "B9",
        "0 served beyond the window",
        format_args!("{beyond} beyond, {stale} within it"),
    );
    assert_eq!(beyond, 0);
    assert!(stale > 40);
}

pub(crate) async fn d11_expired_is_stale_and_invalidated_is_gone() {
    let cache = cache().with_tags(["t"]);
    let policy = Policy::new(60 * SECOND).stale_if_error(600 * SECOND);
    let (good, bad) = (Count::default(), Count::default());
    let prime = || cache.get_or_set("k", policy, || numbered(good.clone(), MILLI));
    let ask = || cache.get_or_set("k", policy, || failing(bad.clone(), MILLI));
    prime().await.unwrap();
    cache.expire(["t"]).await.unwrap();
    let mut stale = 0;
    for _ in 0..100 {
        stale += usize::from(ask().await.unwrap() == 1);
    }
    assert_eq!(
        cache.get::<usize>("k").await.unwrap(),
        None,
        "only where it may be stale"
    );
    cache.invalidate(["t"]).await.unwrap();
    let mut served = 0;
    for _ in 0..100 {
        served += usize::from(ask().await.is_ok());
    }
    report(
        "D11",
        "expired: 100 % served stale; invalidated: 0 %",
        format_args!("{stale} % and {served} %"),
    );
    assert_eq!((stale, served), (100, 0));
    // A tag without entries, or without a name, is no error and an error.
    cache.expire(["never"]).await.unwrap();
    cache.invalidate(["never"]).await.unwrap();
    let refused = cache.invalidate([""]).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidTag);
}

pub(crate) async fn d13_what_lacks_a_tag_is_not_served() {
    let old = Cache::new(Memory::new());
    let new = old.with_tags(["users"]);
    let count = Count::default();
    let ask = async |cache: &Cache| {
        let value = cache.get_or_set("k", SECOND, || numbered(count.clone(), MILLI));
        value.await
    };
    assert_eq!(ask(&old).await.unwrap(), 1);
    assert_eq!(
        ask(&new).await.unwrap(),
        2,
        "the entry of the old code lacks the tag"
    );
    assert_eq!(
        ask(&old).await.unwrap(),
        2,
        "the old code reads what the new one stored"
    );
    assert_eq!(ask(&new).await.unwrap(), 2);
    new.invalidate(["users"]).await.unwrap();
    assert_eq!(ask(&old).await.unwrap(), 3);
    // A type that the old code cannot read is a miss.
    new.set("k", &vec!["changed"], Ttl::Default).await.unwrap();
    let value = old.get_or_set("k", SECOND, || numbered(count.clone(), MILLI));
    assert_eq!(value.await.unwrap(), 4);
    report("D13", "0 served without their tags, 0 errors", "0 and 0");
}
