//! A slow store, of which no request waits for every call.

use std::io;
use std::time::Duration;

use axum::extract::Query;
use axum::routing::get;
use axum::{Extension, Router};
use axum_cache::backend::Memory;
use axum_cache::testing::{Fault, TestBackend};
use axum_cache::{Cache, Caches, Error, ErrorKind, Result, Ttl};
use tokio::time::Instant;

use crate::support::site::ask;

const MILLI: Duration = Duration::from_millis(1);

/// What every call of the store takes.
const LATE: Duration = Duration::from_millis(200);

fn slow() -> TestBackend<Memory> {
    let store = TestBackend::new(Memory::new());
    store.inject(Fault::delay(LATE));
    store
}

fn kind<T>(outcome: Result<T>) -> Option<ErrorKind> {
    outcome.err().map(|error: Error| error.kind())
}

#[tokio::test(start_paused = true)]
async fn all_calls_of_a_handle_wait_no_longer_than_its_budget() {
    let cache = Cache::new(slow());
    let handle = cache.with_budget(500 * MILLI);
    let begin = Instant::now();
    let mut kinds = Vec::new();
    for _ in 0..20 {
        // What comes of a handle spends the same.
        let handle = handle.clone().with_version(2);
        kinds.push(kind(handle.get::<u32>("k").await));
    }
    assert_eq!(begin.elapsed(), 500 * MILLI);
    assert_eq!(kinds[..2], [None, None]);
    assert!(kinds[2..].iter().all(|it| *it == Some(ErrorKind::Timeout)));
    let compute = || async { Ok::<_, io::Error>(7) };
    let made = handle.get_or_set("k", Ttl::Default, compute).await;
    assert_eq!((made.unwrap(), begin.elapsed()), (7, 500 * MILLI));
    assert_eq!(kind(cache.get::<u32>("k").await), None, "others wait");
}

#[tokio::test(start_paused = true)]
async fn calls_at_a_time_spend_it_once() {
    let handle = Cache::new(slow()).with_budget(350 * MILLI);
    let ask = || handle.get::<u32>("k");
    let (one, other, third) = tokio::join!(ask(), ask(), ask());
    assert!(one.is_ok() && other.is_ok() && third.is_ok());
    assert_eq!(kind(handle.get::<u32>("k").await), Some(ErrorKind::Timeout));
}

#[tokio::test(start_paused = true)]
async fn what_replaces_or_removes_is_done_all_the_same() {
    let store = slow();
    let cache = Cache::new(store.clone());
    let handle = cache.with_tags(["tag"]).with_budget(MILLI);
    cache
        .with_tags(["tag"])
        .set("tagged", &1, Ttl::Default)
        .await
        .unwrap();
    cache.set("k", &1, Ttl::Default).await.unwrap();
    assert_eq!(kind(handle.get::<u32>("k").await), Some(ErrorKind::Timeout));
    handle.delete("k").await.unwrap();
    handle.invalidate(["tag"]).await.unwrap();
    store.heal();
    assert_eq!(cache.get::<u32>("k").await.unwrap(), None);
    assert_eq!(cache.get::<u32>("tagged").await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn what_is_computed_is_stored_for_those_who_come_later() {
    let cache = Cache::new(slow());
    let handle = cache.with_budget(250 * MILLI);
    let compute = || async { Ok::<_, io::Error>(7) };
    handle.get_or_set("k", Ttl::Default, compute).await.unwrap();
    assert_eq!(cache.get("k").await.unwrap(), Some(7));
}

/// Asks two caches so often, and says how often there was an answer.
async fn handler(
    caches: Caches,
    default: Cache,
    Query(calls): Query<Vec<(String, usize)>>,
) -> String {
    let other = caches.get("other").unwrap();
    let mut answers = 0;
    for _ in 0..calls[0].1 {
        answers += usize::from(default.get::<u32>("k").await.is_ok());
        answers += usize::from(other.get::<u32>("k").await.is_ok());
    }
    answers.to_string()
}

#[tokio::test(start_paused = true)]
async fn each_request_has_its_own_for_all_of_its_caches() {
    let budgeted = |store| Cache::builder(store).request_budget(500 * MILLI).build();
    let caches = Caches::new(budgeted(slow()).unwrap()).with("other", budgeted(slow()).unwrap());
    let site = Router::new()
        .route("/", get(handler))
        .layer(Extension(caches.clone()));
    for (calls, answers, took) in [(1, "2", 400), (10, "2", 500), (1, "2", 400)] {
        let begin = Instant::now();
        let seen = ask(&site, &format!("/?calls={calls}"), &[]).await;
        assert_eq!(
            (seen.body.as_str(), begin.elapsed()),
            (answers, took * MILLI)
        );
    }
    // What is no request has none.
    for _ in 0..10 {
        caches.default().get::<u32>("k").await.unwrap();
    }
}

#[tokio::test]
async fn settings_name_it() {
    let build = async |budget: &str| {
        let url = format!("memory://?request_budget={budget}");
        let settings = axum_cache::Settings::new()
            .with_url("default", &url)
            .unwrap();
        Caches::builder().settings(settings).build().await
    };
    build("0.25").await.unwrap();
    for bad in ["0", "-1", "soon"] {
        let error = build(bad).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("request_budget"), "{error}");
    }
}
