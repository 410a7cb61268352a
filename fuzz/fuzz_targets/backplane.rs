//! What nodes say to each other: as bytes of anybody, and as messages of nodes that there are not.
//!
//! Input: two bytes of length and a message, again and again. A first byte above 200 in the length
//! lets time go by instead.
#![no_main]

use std::time::Duration;

use axum_cache::backend::{Backplane, LocalBackplane, Memory, Tiered};
use axum_cache::fuzzing::tiered;
use axum_cache::{Cache, Ttl};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

const BOUND: Duration = Duration::from_secs(2);

fuzz_target!(|data: &[u8]| {
    let mut messages = Vec::new();
    let mut rest = data;
    while let Some((&[wait, length], after)) = rest.split_first_chunk() {
        let (message, after) = after.split_at(usize::from(length).min(after.len()));
        messages.push((wait, message));
        rest = after;
    }
    for (_, message) in &messages {
        if let Some(written) = tiered::message(message) {
            assert_eq!(written, *message);
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(hear(&messages));
});

/// Whatever is heard, what is read is what was written.
async fn hear(messages: &[(u8, &[u8])]) {
    let backplane = LocalBackplane::new();
    let store = Tiered::builder(Memory::new(), Memory::new()).backplane(backplane.clone());
    let store = store.max_near_staleness(BOUND).build().unwrap();
    let cache = Cache::new(store.clone());
    // The first call makes it listen.
    cache.contains("k").await.unwrap();
    for (number, (wait, message)) in messages.iter().enumerate() {
        cache.set("k", &number, Ttl::Default).await.unwrap();
        assert_eq!(cache.get("k").await.unwrap(), Some(number));
        let message = Bytes::copy_from_slice(message);
        backplane.publish(message).await.unwrap();
        let millis = if *wait > 200 { 400 } else { 1 };
        tokio::time::sleep(Duration::from_millis(millis)).await;
        assert_eq!(cache.get("k").await.unwrap(), Some(number));
    }
    // Its own heartbeats are enough to be of use again.
    tokio::time::sleep(2 * BOUND).await;
    assert!(store.near_staleness().is_some());
    cache.close().await.unwrap();
}
