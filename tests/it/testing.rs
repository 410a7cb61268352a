//! The test kit: a store that records and fails as it is told, and what a test says of answers.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use axum_cache::backend::Memory;
use axum_cache::testing::{
    Computations, Fault, Operation, TestBackend, answered_from_cache, assert_hit, assert_miss,
};
use axum_cache::{Cache, CacheLayer, ErrorKind, OnError, Ttl};
use http::{Request, Response};
use tokio::time::{Instant, timeout};
use tower::ServiceExt;

const SECOND: Duration = Duration::from_secs(1);

fn bench() -> (TestBackend<Memory>, Cache) {
    let store = TestBackend::new(Memory::new());
    let cache = Cache::new(store.clone());
    (store, cache)
}

#[tokio::test]
async fn calls_are_recorded_in_their_order_with_their_keys() {
    let (store, cache) = bench();
    cache.set("a", &1, Ttl::Default).await.unwrap();
    cache.get::<u32>("a").await.unwrap();
    cache.get_many::<_, u32>(["a", "b"]).await.unwrap();
    let calls = store.calls();
    let operations: Vec<_> = calls.iter().map(|call| call.operation).collect();
    assert_eq!(
        operations,
        [Operation::Set, Operation::Get, Operation::GetMany]
    );
    assert_eq!(calls[0].keys, calls[1].keys);
    assert_eq!(calls[2].keys.len(), 2);
    assert_eq!(calls[0].keys, [cache.final_key("a").unwrap().as_str()]);
    store.inject(Fault::error(ErrorKind::Unavailable));
    cache.get::<u32>("a").await.unwrap_err();
    assert_eq!(store.count(Operation::Get), 2, "a call that fails is one");
    assert_eq!(
        store.take_counts(),
        [("get", 2), ("get_many", 1), ("set", 1)]
    );
    assert_eq!(store.take_counts(), []);
}

#[tokio::test]
async fn a_script_hits_the_calls_that_it_names_and_no_others() {
    let (store, cache) = bench();
    let fault = Fault::error(ErrorKind::Timeout).on(Operation::Get);
    store.inject(fault.after(1).times(2));
    cache.set("k", &1, Ttl::Default).await.unwrap();
    let mut failed = Vec::new();
    for _ in 0..5 {
        let outcome = cache.get::<u32>("k").await;
        if let Err(error) = &outcome {
            assert_eq!(error.kind(), ErrorKind::Timeout);
            assert_eq!(
                (error.backend(), error.operation()),
                (Some("memory"), Some("get"))
            );
        }
        failed.push(outcome.is_err());
    }
    assert_eq!(failed, [false, true, true, false, false]);
}

#[tokio::test]
async fn chance_is_the_same_for_the_same_seed() {
    let mut runs = Vec::new();
    for seed in [1, 1, 2] {
        let (store, cache) = bench();
        store.inject(Fault::error(ErrorKind::Unavailable).with_probability(0.3, seed));
        let mut failed = Vec::new();
        for _ in 0..1000 {
            failed.push(cache.get::<u32>("k").await.is_err());
        }
        let often = failed.iter().filter(|failed| **failed).count();
        assert!((250..350).contains(&often), "{often}");
        runs.push(failed);
    }
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0], runs[2]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_or_late_answer_is_one_of_a_call_that_was_made() {
    let (store, cache) = bench();
    store.inject(Fault::lost_answer(ErrorKind::Timeout).on(Operation::Add));
    cache.add("k", &1, Ttl::Default).await.unwrap_err();
    assert_eq!(cache.get("k").await.unwrap(), Some(1));
    store.inject(Fault::late_answer(SECOND).on(Operation::Get));
    let start = Instant::now();
    let late = {
        let cache = cache.clone();
        tokio::spawn(async move { cache.get::<u32>("k").await })
    };
    tokio::time::sleep(SECOND / 2).await;
    cache.set("k", &2, Ttl::Default).await.unwrap();
    assert_eq!(
        late.await.unwrap().unwrap(),
        Some(1),
        "as of when it was asked"
    );
    assert_eq!(start.elapsed(), SECOND);
}

#[tokio::test(start_paused = true)]
async fn what_hangs_goes_on_when_the_store_is_healed() {
    let (store, cache) = bench();
    cache.set("k", &1, Ttl::Default).await.unwrap();
    store.inject(Fault::hang().on(Operation::Get));
    assert!(timeout(60 * SECOND, cache.get::<u32>("k")).await.is_err());
    cache.set("other", &1, Ttl::Default).await.unwrap();
    let hung = {
        let cache = cache.clone();
        tokio::spawn(async move { cache.get::<u32>("k").await })
    };
    tokio::time::sleep(SECOND).await;
    assert!(!hung.is_finished());
    store.heal();
    assert_eq!(hung.await.unwrap().unwrap(), Some(1));
    assert_eq!(cache.get("k").await.unwrap(), Some(1));
}

/// F1: whatever happens to an entry on its way, it is a miss and is replaced, and never another value.
#[tokio::test]
async fn f1_what_is_corrupt_is_a_miss_and_is_replaced() {
    let (store, cache) = bench();
    let value = "what was stored".repeat(20);
    let runs = Computations::new();
    for seed in 0..2000 {
        cache.set("k", &value, Ttl::Default).await.unwrap();
        let corrupt = Fault::corrupt().times(1).with_probability(1.0, seed);
        store.inject(corrupt.clone());
        assert_eq!(cache.get::<String>("k").await.unwrap(), None, "seed {seed}");
        store.inject(corrupt);
        let computed = cache.get_or_set("k", Ttl::Default, || runs.ok(value.clone()));
        assert_eq!(computed.await.unwrap(), value);
        store.heal();
        assert_eq!(cache.get("k").await.unwrap(), Some(value.clone()));
    }
    runs.assert_count(2000);
}

fn passes(assertion: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(assertion)).is_ok()
}

#[tokio::test]
async fn an_answer_says_whether_it_came_from_a_cache() {
    let (store, _) = bench();
    let cache = Cache::builder(store.clone()).on_error(OnError::Miss);
    let runs = Computations::new();
    let site: Router = {
        let runs = runs.clone();
        let handler = move || async move { runs.next().to_string() };
        let layer = CacheLayer::new(cache.build().unwrap());
        Router::new().route("/", get(handler)).layer(layer)
    };
    let ask = || async {
        let request = Request::get("/").body(axum::body::Body::empty()).unwrap();
        let response = site.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        axum::body::to_bytes(body, 100).await.unwrap();
        Response::from_parts(head, ())
    };
    assert_miss(&ask().await);
    tokio::time::sleep(Duration::from_millis(20)).await;
    let hit = ask().await;
    assert_hit(&hit);
    runs.assert_count(1);
    store.inject(Fault::error(ErrorKind::Unavailable));
    assert_miss(&ask().await);
    runs.assert_count(2);
    // They can fail.
    for (status, is_hit) in [
        ("a; hit", true),
        ("a; fwd=miss, b; hit; ttl=3", true),
        ("a; fwd=uri-miss; detail=\"a; hit\"", false),
        ("a; fwd=stale", false),
        ("hit", false),
    ] {
        let response = Response::builder().header("cache-status", status);
        let response = response.body(()).unwrap();
        assert_eq!(answered_from_cache(&response), is_hit, "{status}");
        assert_eq!(passes(|| assert_hit(&response)), is_hit);
        assert_eq!(passes(|| assert_miss(&response)), !is_hit);
    }
    let unasked = Response::new(());
    assert!(!passes(|| assert_miss(&unasked)));
    assert!(!passes(|| runs.assert_count(1)));
}
