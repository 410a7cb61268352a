//! What Memcached takes, and just not any more, and whether the connection is in step right after it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum_cache::backend::Memcached as Store;
use axum_cache::key::{KeyFunction, KeyPolicy};
use axum_cache::ttl::Lifetime;
use axum_cache::{Cache, Error, ErrorKind, Ttl};

use crate::is_long;
use crate::support::servers::memcached::Memcached;
use crate::tools::{PATIENCE, SECOND, TTL, report};

const DAY: Duration = Duration::from_secs(86_400);

/// The key as it is, whatever the store may think of it.
#[derive(Debug)]
struct Raw;

impl KeyFunction for Raw {
    fn key(&self, key: &str, _: &str, _: u64) -> String {
        key.to_owned()
    }
}

/// What came of odd calls.
struct Bench {
    outcomes: BTreeMap<String, usize>,
    /// Next calls that were wrong.
    desynced: Vec<String>,
    /// Next calls.
    steps: usize,
}

impl Bench {
    /// Notes how an odd call ended, and asks for something usual over the same connection.
    async fn note<T>(&mut self, what: &str, cache: &Cache, outcome: Result<T, Error>) {
        let how = match outcome {
            Ok(_) => "done".to_owned(),
            Err(error) => format!("{:?}", error.kind()),
        };
        *self.outcomes.entry(format!("{what} {how}")).or_default() += 1;
        self.steps += 1;
        let (key, number) = (format!("step:{}", self.steps % 7), self.steps);
        let set = cache.set(&key, &number, TTL).await;
        let got = cache.get::<usize>(&key).await;
        if set.is_err() || !matches!(got, Ok(Some(got)) if got == number) {
            self.desynced.push(format!("{what}: {set:?}, {got:?}"));
        }
    }

    async fn items(&mut self, cache: &Cache) {
        for bytes in [1 << 19, (1 << 20) - 1024, 1 << 20, (1 << 20) + 1, 3 << 20] {
            cache.set("item", &"old", TTL).await.unwrap();
            let item = "x".repeat(bytes);
            let outcome = cache.set("item", &item, TTL).await;
            let is_stored = outcome.is_ok();
            if let Err(error) = &outcome {
                assert_eq!(error.kind(), ErrorKind::TooLarge, "{error:?}");
            }
            self.note(&format!("item of {bytes}"), cache, outcome).await;
            let found = cache.get::<String>("item").await.unwrap();
            assert!(
                found == is_stored.then_some(item),
                "{bytes}: neither it nor nothing"
            );
        }
    }

    async fn keys(&mut self, cache: &Cache, policy: &str) {
        let long = "k".repeat(251);
        let controls = (0..=32_u8).chain([127]).map(char::from);
        let controls: Vec<_> = controls.map(|it| format!("a{it}b")).collect();
        let others = [
            "",
            "a\r\nflush_all\r\n",
            "a\r\nms b 1\r\nx",
            "ключ",
            &long,
            &long[1..],
        ];
        let keys = controls.iter().map(String::as_str).chain(others);
        let mut stored = BTreeMap::new();
        for (number, key) in keys.enumerate() {
            let outcome = cache.set(key, &number, TTL).await;
            match &outcome {
                Ok(()) => drop(stored.insert(key, number)),
                Err(error) => assert_eq!(error.kind(), ErrorKind::InvalidKey, "{key:?}"),
            }
            self.note(&format!("odd key, {policy},"), cache, outcome)
                .await;
        }
        for (key, number) in stored {
            assert_eq!(cache.get(key).await.unwrap(), Some(number), "{key:?}");
        }
    }

    async fn lifetimes(&mut self, cache: &Cache) {
        for days in [29, 30, 31, 40, 400, 4000, 40_000, 4_000_000] {
            let life = days * DAY;
            let outcome = cache.set("life", &days, life).await;
            assert_eq!(cache.get("life").await.unwrap(), Some(days), "{days} days");
            let left = cache.ttl_of("life").await.unwrap().unwrap();
            // Beyond what Memcached can say, for ever.
            let is_so = match left {
                Lifetime::For(left) => left.abs_diff(life) < 5 * SECOND,
                _ => days > 4000,
            };
            assert!(is_so, "{days} days: {left:?}");
            self.note("days", cache, outcome).await;
        }
    }

    async fn counters(&mut self, cache: &Cache) {
        for (edge, delta) in [(i64::MAX, 1), (i64::MIN, -1), (1, i64::MAX), (-2, i64::MIN)] {
            cache.set("count", &edge, TTL).await.unwrap();
            let outcome = cache.incr("count", delta).await;
            let kind = outcome.as_ref().unwrap_err().kind();
            assert_eq!(kind, ErrorKind::OutOfRange, "{edge} {delta}");
            self.note("counter", cache, outcome).await;
            assert_eq!(cache.get("count").await.unwrap(), Some(edge), "it wrapped");
        }
        cache.set("count", &-1, TTL).await.unwrap();
        assert_eq!(cache.incr("count", 2).await.unwrap(), 1);
        cache.set("text", &"12x", TTL).await.unwrap();
        let outcome = cache.incr("text", 1).await;
        self.note("no counter", cache, outcome).await;
    }
}

fn connections(server: &Memcached) -> u32 {
    let stats = server.talk("stats\r\n");
    let mut lines = stats.lines();
    let total = lines.find_map(|line| line.strip_prefix("STAT total_connections "));
    total.unwrap().parse().unwrap()
}

/// One connection that all share. Meanwhile, others ask for what is usual over the same one.
pub(crate) async fn f5_memcached_at_its_limits() {
    let server = Memcached::start(&[]).unwrap();
    let builder = || {
        let builder = Store::builder([server.url()]).connections(1);
        builder.operation_timeout(PATIENCE)
    };
    let store = builder().build().unwrap();
    // The server is let to refuse, too.
    let lenient = builder().max_value_bytes(8 << 20);
    let lenient = Cache::new(lenient.build().unwrap());
    let raw = |policy| {
        let builder = Cache::builder(store.clone()).key_function(Raw);
        builder.key_policy(policy).build().unwrap()
    };
    let cache = Cache::new(store.clone());
    let stop = Arc::new(AtomicBool::new(false));
    let witness = tokio::spawn({
        let (cache, stop) = (cache.clone(), Arc::clone(&stop));
        async move {
            let (mut calls, mut wrong) = (0_usize, 0);
            while !stop.load(Ordering::Relaxed) {
                let key = format!("witness:{}", calls % 5);
                let text = format!("{calls} {}", "y".repeat(calls % 3000));
                cache.set(&key, &text, Ttl::Default).await.unwrap();
                wrong += usize::from(cache.get(&key).await.unwrap() != Some(text));
                calls += 1;
            }
            (calls, wrong)
        }
    });
    let before = connections(&server);
    let mut bench = Bench {
        outcomes: BTreeMap::new(),
        desynced: Vec::new(),
        steps: 0,
    };
    for _ in 0..if is_long() { 50 } else { 3 } {
        bench.items(&cache).await;
        bench.items(&lenient).await;
        bench.keys(&raw(KeyPolicy::Hash), "hashed").await;
        bench.keys(&raw(KeyPolicy::Error), "refused").await;
        bench.keys(&raw(KeyPolicy::Off), "as it is").await;
        bench.lifetimes(&cache).await;
        bench.counters(&cache).await;
    }
    stop.store(true, Ordering::Relaxed);
    let (calls, wrong) = witness.await.unwrap();
    // One is that of the question.
    let made = connections(&server) - before - 1;
    report(
        "F5 memcached",
        "all handled or refused with a type; 0 desync",
        format_args!(
            "{:?}; {} of {} next calls wrong, {wrong} of {calls} beside them; {made} connections made",
            bench.outcomes,
            bench.desynced.len(),
            bench.steps,
        ),
    );
    assert!(bench.desynced.is_empty(), "{:?}", bench.desynced);
    assert_eq!(wrong, 0);
    assert!(calls > 20, "only {calls}");
    let refused = [
        "NotAnInteger",
        "OutOfRange",
        "TooLarge",
        "InvalidKey",
        "done",
    ];
    for outcome in bench.outcomes.keys() {
        assert!(refused.iter().any(|it| outcome.ends_with(it)), "{outcome}");
    }
}
