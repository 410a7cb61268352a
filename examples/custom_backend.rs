//! A store of your own, chosen by a URL: here one that forwards to another and counts the reads.
//!
//! Run: `cargo run --example custom_backend`

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum_cache::backend::{AnyBackend, Backend, Capabilities, Memory};
use axum_cache::entry::Entry;
use axum_cache::key::Key;
use axum_cache::ttl::Lifetime;
use axum_cache::{Caches, Result, Settings, Ttl};

#[derive(Clone, Debug, Default)]
struct Counting {
    inner: Memory,
    reads: Arc<AtomicUsize>,
}

impl Backend for Counting {
    fn name(&self) -> &'static str {
        "counting"
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.inner.get(key).await
    }

    async fn set(&self, key: &Key, entry: Entry, lifetime: Lifetime) -> Result<()> {
        self.inner.set(key, entry, lifetime).await
    }

    async fn add(&self, key: &Key, entry: Entry, lifetime: Lifetime) -> Result<bool> {
        self.inner.add(key, entry, lifetime).await
    }

    async fn touch(&self, key: &Key, lifetime: Lifetime) -> Result<bool> {
        self.inner.touch(key, lifetime).await
    }

    async fn delete(&self, key: &Key) -> Result<bool> {
        self.inner.delete(key).await
    }

    async fn incr(&self, key: &Key, delta: i64) -> Result<i64> {
        self.inner.incr(key, delta).await
    }

    async fn rename(&self, from: &Key, to: &Key) -> Result<bool> {
        self.inner.rename(from, to).await
    }

    async fn ttl(&self, key: &Key) -> Result<Option<Lifetime>> {
        self.inner.ttl(key).await
    }

    async fn clear(&self, namespace: &str) -> Result<()> {
        self.inner.clear(namespace).await
    }

    async fn flush_store(&self) -> Result<()> {
        self.inner.flush_store().await
    }

    async fn compare_and_set(
        &self,
        key: &Key,
        expected: &Entry,
        entry: Entry,
        lifetime: Lifetime,
    ) -> Result<bool> {
        self.inner
            .compare_and_set(key, expected, entry, lifetime)
            .await
    }

    async fn delete_prefix(&self, prefix: &str) -> Result<u64> {
        self.inner.delete_prefix(prefix).await
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let counting = Counting::default();
    let store = counting.clone();
    let caches = Caches::builder()
        .backend("counting", move |_| {
            let backend = AnyBackend::new(store.clone());
            async { Ok(backend) }
        })
        .settings(Settings::new().with_url("default", "counting://?timeout=60")?)
        .build()
        .await?;
    let cache = caches.default();
    cache.set("k", "v", Ttl::Default).await?;
    assert_eq!(cache.get("k").await?, Some("v".to_owned()));
    assert_eq!(counting.reads.load(Ordering::Relaxed), 1);
    Ok(())
}
