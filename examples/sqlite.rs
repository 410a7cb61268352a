//! A counter of visits in a SQLite file.
//!
//! Run: `cargo run --example sqlite --features sqlite [-- URL]`.
#![allow(clippy::print_stdout, reason = "whoever runs it wants to see it")]

use axum_cache::backend::Sql;
use axum_cache::{Cache, Ttl};

#[tokio::main]
async fn main() -> axum_cache::Result<()> {
    let url = std::env::args().nth(1);
    let url = url.unwrap_or_else(|| "sqlite:///tmp/axum-cache.db".to_owned());
    let cache = Cache::new(Sql::builder(url).create_table(true).build()?);
    cache.add("visits", &0, Ttl::Never).await?;
    println!("visit {}", cache.incr("visits", 1).await?);
    cache.close().await
}
