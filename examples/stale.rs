//! Stale while it is computed anew, and instead of an error.
//!
//! Run: `cargo run --example stale`

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use axum_cache::{Cache, Caches, Policy};
use tokio::time::sleep;

/// Fresh for a moment, then stale but served at once for a while, and for an hour if the report cannot
/// be made. One process of all makes it. With `.refresh_ahead(RefreshAhead::XFETCH)` a report in demand
/// would be made anew before it is stale, at a moment that is left to chance.
const REPORT: Policy = Policy::new(Duration::from_secs(1))
    .stale_while_revalidate(Duration::from_secs(1))
    .stale_if_error(Duration::from_secs(3600))
    .throttle(Duration::from_millis(200))
    .jitter(0.1)
    .lease(Duration::from_secs(10));

/// A report that takes its time: how often it was made.
async fn report(made: Arc<AtomicU32>, fails: bool) -> io::Result<u32> {
    sleep(Duration::from_millis(200)).await;
    if fails {
        return Err(io::Error::other("the database is away"));
    }
    Ok(made.fetch_add(1, Ordering::SeqCst) + 1)
}

async fn ask(cache: &Cache, made: &Arc<AtomicU32>, fails: bool) -> axum_cache::Result<u32> {
    let made = Arc::clone(made);
    cache
        .get_or_set("report", REPORT, || report(made, fails))
        .await
}

#[tokio::main]
async fn main() -> axum_cache::Result<()> {
    let cache = Caches::from_env().await?.default();
    cache.delete("report").await?;
    let made = Arc::new(AtomicU32::new(0));
    assert_eq!(ask(&cache, &made, false).await?, 1);

    sleep(Duration::from_millis(1200)).await;
    let start = Instant::now();
    assert_eq!(ask(&cache, &made, false).await?, 1, "stale");
    assert!(start.elapsed() < Duration::from_millis(150), "and at once");
    sleep(Duration::from_millis(500)).await;
    assert_eq!(ask(&cache, &made, false).await?, 2, "made meanwhile");

    sleep(Duration::from_millis(2500)).await;
    assert_eq!(ask(&cache, &made, true).await?, 2, "rather than an error");
    cache.close().await
}
