//! Values: get, set, count, and compute once.
//!
//! Run: `cargo run --example values`

use std::time::Duration;

use axum_cache::{Caches, Ttl, key};

#[tokio::main]
async fn main() -> axum_cache::Result<()> {
    let cache = Caches::from_env().await?.default();
    cache
        .set(&key!("user", 7), &("Ada", 36), Duration::from_secs(60))
        .await?;
    let user: Option<(String, u8)> = cache.get(&key!("user", 7)).await?;
    assert_eq!(user, Some(("Ada".to_owned(), 36)));

    cache.set("visits", &0, Ttl::Never).await?;
    assert_eq!(cache.incr("visits", 1).await?, 1);

    // Callers that miss at the same time share one computation.
    let slow = || async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        "42".parse::<u32>()
    };
    let ttl = Duration::from_secs(60);
    let (one, other) = tokio::join!(
        cache.get_or_set("answer", ttl, slow),
        cache.get_or_set("answer", ttl, slow),
    );
    assert_eq!((one?, other?), (42, 42));
    Ok(())
}
