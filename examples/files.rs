//! A counter of visits in files of a folder.
//!
//! Run: `cargo run --example files --features file [-- FOLDER]`.
#![allow(clippy::print_stdout, reason = "whoever runs it wants to see it")]

use axum_cache::backend::File;
use axum_cache::{Cache, Ttl};

#[tokio::main]
async fn main() -> axum_cache::Result<()> {
    let folder = std::env::args().nth(1);
    let folder = folder.unwrap_or_else(|| "/tmp/axum-cache".to_owned());
    let cache = Cache::new(File::builder(folder).build()?);
    cache.add("visits", &0, Ttl::Never).await?;
    println!("visit {}", cache.incr("visits", 1).await?);
    cache.close().await
}
