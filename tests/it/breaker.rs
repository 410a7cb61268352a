//! A store that goes away and comes back, behind a circuit breaker, in virtual time.

use std::time::Duration;

use axum_cache::backend::{Backend, CircuitBreaker, Memory};
use axum_cache::testing::Fault;
use axum_cache::{Cache, ErrorKind};
use tokio::time::{Instant, sleep};

use crate::support::backends::{Remote, down};

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);

struct Bench {
    remote: Remote,
    breaker: CircuitBreaker<Remote>,
    cache: Cache,
}

impl Bench {
    fn new() -> Self {
        Self::node(&Remote::default().with_shared(true))
    }

    fn node(remote: &Remote) -> Self {
        let breaker = CircuitBreaker::new(remote.clone());
        Self {
            remote: remote.clone(),
            breaker: breaker.clone(),
            cache: Cache::new(breaker),
        }
    }

    /// How long it takes until the store is used again.
    async fn closes(&self) -> Duration {
        let start = Instant::now();
        while self.breaker.is_open() {
            sleep(10 * MILLI).await;
            assert!(start.elapsed() < 10 * SECOND, "it stays open");
        }
        start.elapsed()
    }

    async fn get(&self, key: &str) -> Option<i32> {
        self.cache.get(key).await.unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn one_call_waits_for_a_store_that_is_away_and_the_others_do_not() {
    let bench = Bench::new();
    bench.cache.set("k", &1, HOUR).await.unwrap();
    bench.remote.inject(down());
    bench.remote.inject(Fault::delay(200 * MILLI));
    let start = Instant::now();
    for call in 0..20 {
        let failed = bench.cache.get::<i32>("k").await.unwrap_err();
        assert_eq!(failed.kind(), ErrorKind::Unavailable, "call {call}");
    }
    assert_eq!(start.elapsed(), 200 * MILLI);
    assert!(bench.breaker.is_open());
    bench.remote.take_counts();
    sleep(60 * SECOND).await;
    let calls = bench.remote.take_counts();
    // Three keys a question, and no question before the one before it was answered.
    assert!(calls[0].0 == "get" && calls[0].1 <= 3 * 60 * 5, "{calls:?}");
    bench.remote.heal();
    let took = bench.closes().await;
    assert!(
        took > SECOND && took <= 2 * SECOND + 100 * MILLI,
        "{took:?}"
    );
    assert_eq!(bench.get("k").await, Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_single_error_costs_next_to_nothing() {
    let bench = Bench::new();
    bench.cache.set("k", &1, HOUR).await.unwrap();
    bench.remote.inject(down());
    assert!(bench.cache.get::<i32>("k").await.is_err());
    bench.remote.heal();
    sleep(MILLI).await;
    assert!(!bench.breaker.is_open());
    assert_eq!(bench.get("k").await, Some(1));
    // One that fails often, but answers, is not asked all the time.
    bench.remote.take_counts();
    for _ in 0..1000 {
        bench.remote.inject(down());
        let _ = bench.cache.get::<i32>("k").await;
        bench.remote.heal();
        sleep(MILLI).await;
    }
    let calls = bench.remote.take_counts();
    assert!(
        calls == [("get", calls[0].1)] && calls[0].1 < 1000 + 4 * 10,
        "{calls:?}"
    );
}

/// An outage that is over before anybody has asked: who waited in vain has learned of it nevertheless.
#[tokio::test(start_paused = true)]
async fn who_had_no_answer_for_long_waits_for_what_others_owe() {
    let memory = Memory::new();
    let [one, other] = [(); 2].map(|()| Bench::node(&Remote::new(memory.clone())));
    one.cache.set("k", &1, HOUR).await.unwrap();
    assert_eq!(other.get("k").await, Some(1));
    let away = [Fault::delay(250 * MILLI), Fault::error(ErrorKind::Timeout)];
    for node in [&one, &other] {
        for fault in &away {
            node.remote.inject(fault.clone());
        }
    }
    let reading = async {
        assert!(other.cache.get::<i32>("k").await.is_err());
    };
    let back = async {
        sleep(240 * MILLI).await;
        other.remote.heal();
    };
    let (deleted, (), ()) = tokio::join!(one.cache.delete("k"), reading, back);
    deleted.unwrap_err();
    sleep(100 * MILLI).await;
    one.remote.heal();
    let start = Instant::now();
    let seen = loop {
        match other.cache.get::<i32>("k").await {
            Ok(seen) => break seen,
            Err(_) => sleep(MILLI).await,
        }
    };
    assert_eq!(seen, None, "after {:?}", start.elapsed());
    assert!(start.elapsed() <= 2 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn nothing_comes_back_that_was_removed_while_the_store_was_away() {
    let bench = Bench::new();
    let Bench { cache, remote, .. } = &bench;
    let tagged = cache.with_tags(["t"]);
    for key in ["deleted", "replaced", "one", "two", "below/1", "kept"] {
        cache.set(key, &1, HOUR).await.unwrap();
    }
    tagged.set("tagged", &1, HOUR).await.unwrap();
    remote.inject(down());
    assert!(cache.get::<i32>("kept").await.is_err());
    assert!(cache.delete("deleted").await.is_err());
    assert!(cache.set("replaced", &2, HOUR).await.is_err());
    assert!(cache.delete_many(["one", "two"]).await.is_err());
    assert!(cache.delete_prefix("below/").await.is_err());
    assert!(cache.invalidate(["t"]).await.is_err());
    sleep(5 * SECOND).await;
    // Also not if it comes back in the middle of all that.
    remote.heal();
    let gone = ["deleted", "replaced", "one", "two", "below/1", "tagged"];
    for _ in 0..300 {
        for key in gone {
            assert_eq!(cache.get::<i32>(key).await.unwrap_or(None), None, "{key}");
        }
        sleep(10 * MILLI).await;
    }
    assert!(!bench.breaker.is_open());
    assert_eq!(bench.get("kept").await, Some(1));
    for key in gone {
        assert_eq!(bench.get(key).await, None);
    }
    cache.set("deleted", &3, HOUR).await.unwrap();
    assert_eq!(bench.get("deleted").await, Some(3));
}

#[tokio::test(start_paused = true)]
async fn a_removal_that_fails_for_itself_holds_up_nothing_else() {
    let bench = Bench::new();
    for key in ["a", "b"] {
        bench.cache.set(key, &1, HOUR).await.unwrap();
    }
    // The breaker has just been told that the store answers.
    bench.remote.inject(down());
    assert!(bench.cache.get::<i32>("a").await.is_err());
    bench.remote.heal();
    sleep(MILLI).await;
    bench.remote.inject(down());
    assert!(bench.cache.delete("a").await.is_err());
    assert_eq!(bench.get("a").await, None);
    assert!(!bench.breaker.is_open());
    bench.remote.heal();
    assert_eq!(bench.get("b").await, Some(1));
    sleep(SECOND).await;
    assert_eq!(bench.get("a").await, None);
    assert!(bench.cache.add("a", &2, HOUR).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn all_nodes_wait_for_what_another_one_owes() {
    let remote = Remote::default().with_shared(true);
    let nodes = [(); 3].map(|()| Bench::node(&remote));
    for round in 0..50 {
        let key = format!("k{round}");
        nodes[0].cache.set(&key, &1, HOUR).await.unwrap();
        // An error so soon after the last answer would be taken for that call's own.
        sleep(200 * MILLI).await;
        remote.inject(down());
        for node in &nodes {
            assert!(node.cache.get::<i32>(&key).await.is_err());
        }
        sleep(MILLI * (round * 97 % 3000 + 5)).await;
        assert!(nodes[0].cache.delete(&key).await.is_err());
        sleep(MILLI * (round * 31 % 500)).await;
        remote.heal();
        let back = Instant::now();
        while nodes.iter().any(|node| node.breaker.is_open()) {
            for (number, node) in nodes.iter().enumerate() {
                let seen = node.cache.get::<i32>(&key).await.unwrap_or(None);
                assert_eq!(seen, None, "node {number}, {:?} later", back.elapsed());
            }
            sleep(5 * MILLI).await;
        }
        for node in &nodes {
            assert_eq!(node.get(&key).await, None);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_is_early_since_an_answer_was_late() {
    let remote = Remote::default().with_shared(true);
    for round in 0..100 {
        let nodes = [(); 3].map(|()| Bench::node(&remote));
        let key = format!("k{round}");
        nodes[0].cache.set(&key, &1, HOUR).await.unwrap();
        remote.inject(Fault::delay(250 * MILLI));
        remote.inject(down());
        assert!(nodes[0].cache.delete(&key).await.is_err());
        // The others have nothing to do with it until it has been away for long.
        sleep(MILLI * (round * 97 % 3000)).await;
        for node in &nodes[1..] {
            assert!(node.cache.get::<i32>(&key).await.is_err());
        }
        sleep(MILLI * (round * 31 % 800 + 5)).await;
        // What was asked is answered yet, as by a store that had stood still.
        remote.heal();
        let back = Instant::now();
        while nodes.iter().any(|node| node.breaker.is_open()) {
            for (number, node) in nodes.iter().enumerate() {
                let seen = node.cache.get::<i32>(&key).await.unwrap_or(None);
                assert_eq!(seen, None, "{round}: node {number}, {:?}", back.elapsed());
            }
            sleep(5 * MILLI).await;
        }
        assert!(back.elapsed() <= 2 * SECOND + 100 * MILLI, "{round}");
    }
}

#[tokio::test(start_paused = true)]
async fn of_too_many_keys_the_whole_cache_is_owed_and_no_other() {
    let remote = Remote::default().with_shared(true);
    let breaker = CircuitBreaker::builder(remote.clone()).max_owed(10).build();
    let cache = |prefix| Cache::builder(breaker.clone()).key_prefix(prefix).build();
    let (own, other) = (cache("own").unwrap(), cache("other").unwrap());
    for key in 0..30 {
        for cache in [&own, &other] {
            cache.set(&key.to_string(), &1, HOUR).await.unwrap();
        }
    }
    remote.inject(down());
    for key in 0..20 {
        assert!(own.delete(&key.to_string()).await.is_err());
    }
    remote.heal();
    sleep(3 * SECOND).await;
    for key in 0..30 {
        assert_eq!(own.get::<i32>(&key.to_string()).await.unwrap(), None);
        assert_eq!(other.get::<i32>(&key.to_string()).await.unwrap(), Some(1));
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_caller_did_wrong_is_no_outage() {
    let bench = Bench::new();
    bench.cache.set("text", "abc", HOUR).await.unwrap();
    for _ in 0..10 {
        let refused = bench.cache.incr("text", 1).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::NotAnInteger);
    }
    assert!(!bench.breaker.is_open());
}

#[tokio::test(start_paused = true)]
async fn nobody_asks_for_a_breaker_that_is_gone() {
    let remote = Remote::new(Memory::new());
    let breaker = CircuitBreaker::new(remote.clone());
    remote.inject(down());
    assert!(breaker.flush_store().await.is_err());
    drop(breaker);
    sleep(2 * SECOND).await;
    remote.take_counts();
    sleep(60 * SECOND).await;
    assert_eq!(remote.take_counts(), []);
}

#[tokio::test(start_paused = true)]
async fn a_removal_whose_caller_goes_away_is_owed() {
    let bench = Bench::new();
    for key in ["a", "b"] {
        bench.cache.set(key, &1, HOUR).await.unwrap();
    }
    bench.remote.inject(Fault::delay(2 * SECOND));
    let impatient = tokio::time::timeout(SECOND, bench.cache.delete("a"));
    assert!(impatient.await.is_err());
    bench.remote.heal();
    assert_eq!(bench.get("a").await, None);
    assert_eq!(bench.get("b").await, Some(1));
    sleep(SECOND).await;
    assert!(bench.cache.add("a", &2, HOUR).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn what_could_not_get_its_tags_is_replaced_by_nothing() {
    let bench = Bench::new();
    for key in ["one", "many"] {
        bench.cache.set(key, &1, HOUR).await.unwrap();
    }
    bench.remote.inject(down());
    let tagged = bench.cache.with_tags(["t"]);
    assert!(tagged.set("one", &2, HOUR).await.is_err());
    assert!(tagged.set_many([("many", 2)], HOUR).await.is_err());
    bench.remote.heal();
    bench.closes().await;
    assert_eq!(
        (bench.get("one").await, bench.get("many").await),
        (None, None)
    );
    // What the caller did wrong changes nothing.
    for key in ["one", "many"] {
        bench.cache.set(key, &3, HOUR).await.unwrap();
    }
    let bad = bench.cache.with_tags([""]);
    assert!(bad.set("one", &4, HOUR).await.is_err());
    assert!(bad.set_many([("many", 4)], HOUR).await.is_err());
    let kept = (bench.get("one").await, bench.get("many").await);
    assert_eq!(kept, (Some(3), Some(3)));
}

/// Of another application, whose keys this one may not even ask for.
#[tokio::test(start_paused = true)]
async fn nothing_is_asked_for_or_removed_that_belongs_to_others() {
    #[derive(Debug)]
    struct Plain;
    impl axum_cache::key::KeyFunction for Plain {
        fn key(&self, key: &str, _: &str, _: u64) -> String {
            key.to_owned()
        }
    }
    let remote = Remote::default().with_shared(true);
    let breaker = CircuitBreaker::builder(remote.clone()).max_owed(10).build();
    let plain = Cache::builder(breaker.clone()).key_function(Plain);
    let (plain, own) = (plain.build().unwrap(), Cache::new(breaker.clone()));
    let foreign = Cache::builder(remote.clone()).key_prefix("foreign");
    let foreign = foreign.build().unwrap();
    foreign.set("k", &1, HOUR).await.unwrap();
    for key in 0..30 {
        plain.set(&key.to_string(), &1, HOUR).await.unwrap();
    }
    remote.inject(down());
    for key in 0..30 {
        assert!(plain.delete(&key.to_string()).await.is_err());
    }
    for prefix in 0..2000 {
        assert!(own.delete_prefix(&format!("{prefix}/")).await.is_err());
    }
    remote.heal();
    sleep(60 * SECOND).await;
    assert!(!breaker.is_open());
    for key in 0..30 {
        let gone = plain.get::<i32>(&key.to_string()).await.unwrap();
        assert_eq!(gone, None);
    }
    assert_eq!(foreign.get::<i32>("k").await.unwrap(), Some(1));
}

#[test]
fn a_breaker_outlives_the_runtime_that_it_opened_in() {
    let bench = Bench::new();
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap()
    };
    runtime().block_on(async {
        bench.cache.set("k", &1, HOUR).await.unwrap();
        bench.remote.inject(down());
        assert!(bench.cache.delete("k").await.is_err());
    });
    bench.remote.heal();
    runtime().block_on(async {
        assert!(bench.breaker.is_open());
        for _ in 0..500 {
            let _ = bench.cache.get::<i32>("k").await;
            sleep(10 * MILLI).await;
        }
        assert!(!bench.breaker.is_open());
        assert_eq!(bench.get("k").await, None);
    });
}
