//! For how long a task keeps its thread from others.

use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Path;
use axum::http::Request;
use axum::routing::get;
use axum_cache::{Cache, CacheLayer};
use rustix::time::{ClockId, clock_gettime};
use tokio::task::yield_now;
use tower::ServiceExt;

use crate::stress::elsewhere;
use crate::tools::{MILLI, TTL, cache, report};

/// What is short is worked on at once, and what is long by a thread of its own.
const BYTES: [usize; 3] = [10 << 10, 60 << 10, 300 << 10];

/// How long this thread has worked.
fn worked() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap()
}

fn text(bytes: usize) -> String {
    "so be it, says the page. ".repeat(bytes / 25)
}

/// Pages, values and what becomes of them, of all lengths: each call in a turn of its own.
async fn work(cache: Cache) {
    let page = async |Path((bytes, _)): Path<(usize, usize)>| text(bytes);
    let layer = CacheLayer::new(cache.clone()).ttl(TTL).tags(["pages"]);
    let router = Router::new().route("/{bytes}/{number}", get(page));
    let router = router.layer(layer);
    for round in 0..20 {
        for bytes in BYTES {
            let key = format!("value:{bytes}:{round}");
            cache.set(&key, &text(bytes), TTL).await.unwrap();
            for _ in 0..2 {
                yield_now().await;
                assert!(cache.get::<String>(&key).await.unwrap().is_some());
                yield_now().await;
                let request = Request::get(format!("http://site.test/{bytes}/{round}"));
                let request = request.body(Body::empty()).unwrap();
                let response = router.clone().oneshot(request).await.unwrap();
                let body = to_bytes(response.into_body(), usize::MAX).await;
                assert_eq!(body.unwrap().len(), text(bytes).len());
            }
            yield_now().await;
        }
        if round % 5 == 4 {
            cache.invalidate(["pages"]).await.unwrap();
        }
    }
    cache.clear().await.unwrap();
}

/// The longest time for which the thread did not come back to who waits for nothing, and how often it did.
async fn longest_round(cache: Cache) -> (Duration, usize) {
    let work = tokio::spawn(work(cache));
    let (mut rounds, mut longest, mut last) = (0, Duration::ZERO, worked());
    while !work.is_finished() {
        yield_now().await;
        let now = worked();
        longest = longest.max(now.saturating_sub(last));
        last = now;
        rounds += 1;
    }
    work.await.unwrap();
    (longest, rounds)
}

pub(crate) async fn g7_no_poll_is_long() {
    if elsewhere("polls::g7_no_poll_is_long") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display();
    let stores = [
        ("memory", "memory://".to_owned()),
        ("file", format!("file://{path}/files?compression=zstd")),
        (
            "sqlite",
            format!("sqlite://{path}/cache.db?create_table=true&compression=zstd"),
        ),
    ];
    for (name, url) in stores {
        let polls = std::thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().unwrap();
            runtime.block_on(async { longest_round(cache(&url).await).await })
        });
        let (longest, rounds) = polls.join().unwrap();
        report(
            "G7",
            "no task works for more than 10 ms at a time",
            format_args!(
                "{name}, pages and values of up to 300 KiB: {longest:.1?}, of {rounds} turns"
            ),
        );
        // Without optimization all takes many times as long.
        let most = if cfg!(debug_assertions) { 200 } else { 10 };
        assert!(longest <= most * MILLI, "{name}: {longest:?}");
    }
}
