//! What another build has stored compressed: a value to those that can read it, and a miss to others.

use std::time::Duration;

use axum_cache::Cache;
use axum_cache::backend::{Backend, Memory};
use axum_cache::entry::Entry;
use axum_cache::testing::{Computations, TestBackend};
use axum_cache::ttl::Lifetime;

/// What was stored of 2000 times `x` under `k`.
const STORED: &str = "6178630304fdc719226281d348000007d200000010043a313a6beedf8483a034000000000028b52ffd60d206\
    550000182278220100ccff000b";

#[tokio::test]
async fn an_entry_of_another_build_is_a_value_or_a_miss() {
    const HOUR: Duration = Duration::from_secs(3600);
    let bytes = |at| u8::from_str_radix(&STORED[at..at + 2], 16).unwrap();
    let stored: Vec<u8> = (0..STORED.len()).step_by(2).map(bytes).collect();
    let store = TestBackend::new(Memory::new());
    let cache = Cache::new(store.clone());
    let key = cache.final_key("k").unwrap();
    store
        .set(&key, Entry::new(stored), Lifetime::Forever)
        .await
        .unwrap();
    let value = "x".repeat(2000);
    let expected = cfg!(feature = "zstd").then(|| value.clone());
    assert_eq!(cache.get("k").await.unwrap(), expected);
    assert_eq!(cache.contains("k").await.unwrap(), expected.is_some());
    let runs = Computations::new();
    for _ in 0..2 {
        let computed = cache.get_or_set("k", HOUR, || runs.ok(value.clone()));
        assert_eq!(computed.await.unwrap(), value);
    }
    runs.assert_count(usize::from(expected.is_none()));
}
