//! The store that keeps nothing, for development and for switching a cache off.

use super::{Backend, Capabilities};
use crate::entry::Entry;
use crate::error::{ErrorKind, Result};
use crate::key::Key;
use crate::ttl::Lifetime;

/// Keeps nothing: every read is a miss, every write succeeds and is gone.
///
/// A [`CacheLayer`](crate::CacheLayer) over it is as good as not there: it adds no field, judges no condition
/// and waits for nothing. It only does to requests what it declares of them, such as its variants, and has
/// the last word on what layers inside of it may store.
///
/// # Django
///
/// `DummyCache`: `add` is true, `touch`, `delete` and `contains` are false, and counters and
/// version changes find no key.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dummy;

impl Dummy {
    /// A store that keeps nothing.
    pub fn new() -> Self {
        Self
    }
}

impl Backend for Dummy {
    fn name(&self) -> &'static str {
        "dummy"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            stores: false,
            ..Capabilities::new()
                .with_delete_prefix()
                .with_compare_and_set()
                .in_process()
        }
    }

    async fn get(&self, _: &Key) -> Result<Option<Entry>> {
        Ok(None)
    }

    async fn set(&self, _: &Key, _: Entry, _: Lifetime) -> Result<()> {
        Ok(())
    }

    async fn add(&self, _: &Key, _: Entry, _: Lifetime) -> Result<bool> {
        Ok(true)
    }

    async fn touch(&self, _: &Key, _: Lifetime) -> Result<bool> {
        Ok(false)
    }

    async fn delete(&self, _: &Key) -> Result<bool> {
        Ok(false)
    }

    async fn incr(&self, _: &Key, _: i64) -> Result<i64> {
        Err(ErrorKind::KeyMissing.into())
    }

    async fn rename(&self, _: &Key, _: &Key) -> Result<bool> {
        Ok(false)
    }

    async fn ttl(&self, _: &Key) -> Result<Option<Lifetime>> {
        Ok(None)
    }

    async fn clear(&self, _: &str) -> Result<()> {
        Ok(())
    }

    async fn flush_store(&self) -> Result<()> {
        Ok(())
    }

    async fn compare_and_set(&self, _: &Key, _: &Entry, _: Entry, _: Lifetime) -> Result<bool> {
        Ok(false)
    }

    async fn delete_prefix(&self, _: &str) -> Result<u64> {
        Ok(0)
    }

    fn peek(&self, _: &Key) -> super::Peek {
        super::Peek::Miss
    }
}
