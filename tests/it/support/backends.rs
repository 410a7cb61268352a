//! Stores round memory: one that is elsewhere, and one that can do what it must and no more.

use axum_cache::backend::{Backend, Capabilities, Memory};
use axum_cache::entry::Entry;
use axum_cache::key::Key;
use axum_cache::testing::{Fault, TestBackend};
use axum_cache::ttl::Lifetime;
use axum_cache::{ErrorKind, Result};

/// Memory that is asked as a store on another machine would be.
pub(crate) type Remote = TestBackend<Memory>;

/// The store is away.
pub(crate) fn down() -> Fault {
    Fault::error(ErrorKind::Unavailable)
}

/// Memory by the required methods alone, so that the provided ones are what answers.
#[derive(Clone, Debug)]
pub(crate) struct Provided(pub(crate) Memory);

impl Backend for Provided {
    fn name(&self) -> &'static str {
        "provided"
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = self.0.capabilities();
        capabilities.deletes_prefixes = false;
        capabilities.compares = false;
        capabilities
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        self.0.get(key).await
    }

    async fn set(&self, key: &Key, entry: Entry, lifetime: Lifetime) -> Result<()> {
        self.0.set(key, entry, lifetime).await
    }

    async fn add(&self, key: &Key, entry: Entry, lifetime: Lifetime) -> Result<bool> {
        self.0.add(key, entry, lifetime).await
    }

    async fn touch(&self, key: &Key, lifetime: Lifetime) -> Result<bool> {
        self.0.touch(key, lifetime).await
    }

    async fn delete(&self, key: &Key) -> Result<bool> {
        self.0.delete(key).await
    }

    async fn incr(&self, key: &Key, delta: i64) -> Result<i64> {
        self.0.incr(key, delta).await
    }

    async fn rename(&self, from: &Key, to: &Key) -> Result<bool> {
        self.0.rename(from, to).await
    }

    async fn ttl(&self, key: &Key) -> Result<Option<Lifetime>> {
        self.0.ttl(key).await
    }

    async fn clear(&self, namespace: &str) -> Result<()> {
        self.0.clear(namespace).await
    }

    async fn flush_store(&self) -> Result<()> {
        self.0.flush_store().await
    }
}
