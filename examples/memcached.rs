//! A counter of visits in Memcached.
//!
//! Run: `cargo run --example memcached --features memcached [-- URL]`.
#![allow(clippy::print_stdout, reason = "whoever runs it wants to see it")]

use axum_cache::backend::Memcached;
use axum_cache::{Cache, Ttl};

#[tokio::main]
async fn main() -> axum_cache::Result<()> {
    let url = std::env::args().nth(1);
    let url = url.unwrap_or_else(|| "memcached://127.0.0.1:11211".to_owned());
    let cache = Cache::new(Memcached::connect([url])?);
    cache.add("visits", &0, Ttl::Never).await?;
    println!("visit {}", cache.incr("visits", 1).await?);
    cache.close().await
}
