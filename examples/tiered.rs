//! Process memory in front of Redis, on two nodes that hear of each other's changes.
//!
//! Run: `cargo run --example tiered --features redis [-- URL]`.
#![allow(clippy::print_stdout, reason = "whoever runs it wants to see it")]

use std::time::{Duration, Instant};

use axum_cache::backend::{Memory, Redis, RedisBackplane, Tiered};
use axum_cache::{Cache, Ttl};

/// A node of the application: as a rule, a process of its own.
fn node(url: &str) -> axum_cache::Result<(Cache, Tiered)> {
    let tiered = Tiered::builder(Memory::new(), Redis::connect(url)?)
        .near_ttl(Duration::from_secs(60))
        .max_near_staleness(Duration::from_secs(2))
        .backplane(RedisBackplane::new(url, "tiered-example")?)
        .build()?;
    Ok((Cache::new(tiered.clone()), tiered))
}

#[tokio::main]
async fn main() -> axum_cache::Result<()> {
    let url = std::env::args().nth(1);
    let url = url.unwrap_or_else(|| "redis://127.0.0.1:6379".to_owned());
    let ((one, near), (other, other_near)) = (node(&url)?, node(&url)?);
    if let Err(error) = one.set("motd", "hello", Ttl::Default).await {
        println!("No Redis can be reached there: {error}");
        println!("Start one by `redis-server --port 6379 --save ''`, or name another URL.");
        return Ok(());
    }
    other.get::<String>("motd").await?;
    // The near tier is of use once a node has heard itself.
    while near.near_staleness().is_none() || other_near.near_staleness().is_none() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    other.get::<String>("motd").await?;
    let start = Instant::now();
    for _ in 0..10_000 {
        other.get::<String>("motd").await?;
    }
    println!("10000 reads near took {:?}", start.elapsed());

    one.set("motd", "good bye", Ttl::Default).await?;
    let start = Instant::now();
    while other.get::<String>("motd").await?.as_deref() != Some("good bye") {
        tokio::task::yield_now().await;
    }
    println!("the other node saw the change after {:?}", start.elapsed());

    // So that nobody misses them.
    one.close().await?;
    other.close().await
}
