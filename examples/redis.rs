//! A counter of visits in Redis, or a server that speaks its protocol.
//!
//! Run: `cargo run --example redis --features redis [-- URL]`.
#![allow(clippy::print_stdout, reason = "whoever runs it wants to see it")]

use axum_cache::backend::Redis;
use axum_cache::{Cache, Ttl};

#[tokio::main]
async fn main() -> axum_cache::Result<()> {
    let url = std::env::args().nth(1);
    let url = url.unwrap_or_else(|| "redis://127.0.0.1:6379".to_owned());
    let cache = Cache::new(Redis::connect(&url)?);
    cache.add("visits", &0, Ttl::Never).await?;
    println!("visit {}", cache.incr("visits", 1).await?);
    cache.close().await
}
