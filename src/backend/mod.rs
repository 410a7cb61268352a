//! The stores behind a cache: the trait to implement, and its object-safe twin inside.
//!
//! # Invariants
//!
//! - A backend knows nothing of prefixes, versions, codecs, tags or HTTP: it maps a final
//!   [`Key`] to an [`Entry`] for a [`Lifetime`].
//! - An expired entry is never returned, counted, touched, or in the way of `add`.
//! - A failed `set` leaves no older value behind.

mod backplane;
mod breaker;
mod budget;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
mod deadline;
mod dummy;
mod erased;
#[cfg(feature = "file")]
mod file;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(feature = "memcached")]
mod memcached;
#[cfg(feature = "memory")]
mod memory;
#[cfg(feature = "redis")]
mod redis;
#[cfg(any(feature = "redis", feature = "memcached"))]
mod shared;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
mod sql;
#[cfg(feature = "memory")]
mod tiered;

pub use self::backplane::{Backplane, LocalBackplane, LocalSubscription, Subscription};
pub use self::breaker::{CircuitBreaker, CircuitBreakerBuilder};
pub(crate) use self::budget::{Budgeted, Waited};
pub use self::dummy::Dummy;
pub use self::erased::AnyBackend;
pub(crate) use self::erased::DynBackend;
#[cfg(feature = "file")]
pub use self::file::{File, FileBuilder};
#[cfg(feature = "memcached")]
pub use self::memcached::{Memcached, MemcachedBuilder};
#[cfg(feature = "memory")]
pub use self::memory::{Memory, MemoryBuilder};
#[cfg(feature = "redis")]
pub use self::redis::{KeyScan, Redis, RedisBackplane, RedisBuilder, RedisLock, RedisSubscription};
#[cfg(feature = "postgres")]
pub use self::sql::{PostgresBackplane, PostgresSubscription};
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
pub use self::sql::{Sql, SqlBuilder};
#[cfg(feature = "memory")]
pub use self::tiered::{Tiered, TieredBuilder};
/// The pool of [`Redis::from_pool`], in the version that it takes.
#[cfg(feature = "redis")]
#[doc(no_inline)]
pub use bb8_redis;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::entry::Entry;
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::ttl::Lifetime;

/// A store: implement this to put any other behind a [`Cache`](crate::Cache).
///
/// Write plain `async fn`s. Required is what has to be atomic in the store; what a loop over the
/// required calls does correctly, if slower, is provided. Prove an implementation by the
/// `conformance` suite.
///
/// # Errors
///
/// Of every method: [`ErrorKind::Unavailable`] or [`ErrorKind::Timeout`] when the store cannot be
/// reached, and [`ErrorKind::Unsupported`], never an empty success, for what it cannot do.
///
/// # Cancel safety
///
/// A caller may drop any of these futures at any time: the operation may then have happened or
/// not, but the backend must stay usable.
pub trait Backend: fmt::Debug + Send + Sync + 'static {
    /// The backend's name in errors and events, such as `redis`.
    fn name(&self) -> &'static str;

    /// What this store can do and how precisely.
    fn capabilities(&self) -> Capabilities;

    /// The live entry under `key`.
    fn get(&self, key: &Key) -> impl Future<Output = Result<Option<Entry>>> + Send;

    /// Stores `entry`, replacing what is there, value and lifetime. On failure an older value
    /// must be gone too.
    fn set(
        &self,
        key: &Key,
        entry: Entry,
        lifetime: Lifetime,
    ) -> impl Future<Output = Result<()>> + Send;

    /// Stores `entry` if there is no live one; atomic. Whether it did.
    fn add(
        &self,
        key: &Key,
        entry: Entry,
        lifetime: Lifetime,
    ) -> impl Future<Output = Result<bool>> + Send;

    /// Gives a live entry a new lifetime. Whether there was one.
    fn touch(&self, key: &Key, lifetime: Lifetime) -> impl Future<Output = Result<bool>> + Send;

    /// Removes an entry. Whether there was a live one; if the connection broke on the way and it had
    /// to be sent again, false may mean that the first time removed it.
    fn delete(&self, key: &Key) -> impl Future<Output = Result<bool>> + Send;

    /// Adds `delta` to a live entry that holds a decimal `i64`, keeping its remaining lifetime;
    /// atomic. The new value.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::KeyMissing`] without a live entry, which is not created;
    /// [`ErrorKind::NotAnInteger`] if it holds anything else; [`ErrorKind::OutOfRange`] if the
    /// result is no `i64`, and then the entry stays as it is.
    fn incr(&self, key: &Key, delta: i64) -> impl Future<Output = Result<i64>> + Send;

    /// Moves a live entry with its remaining lifetime, replacing what is at `to`; as nearly
    /// atomic as the store can. Whether there was one.
    fn rename(&self, from: &Key, to: &Key) -> impl Future<Output = Result<bool>> + Send;

    /// The remaining lifetime of a live entry.
    fn ttl(&self, key: &Key) -> impl Future<Output = Result<Option<Lifetime>>> + Send;

    /// Removes every entry whose key begins with `namespace`, and nothing else.
    fn clear(&self, namespace: &str) -> impl Future<Output = Result<()>> + Send;

    /// Empties the whole store, whoever wrote to it.
    fn flush_store(&self) -> impl Future<Output = Result<()>> + Send;

    /// Replaces the live entry under `key`, value and lifetime, if its bytes are those of
    /// `expected`; atomic. Whether it did. On failure the old value may still be there, or the new one.
    /// True is never a guess; false may be one only where a client sends again by itself. The
    /// default cannot.
    ///
    /// By it, what was computed from data that has been invalidated meanwhile is kept out of a
    /// store that several processes share.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] where a store cannot compare.
    fn compare_and_set(
        &self,
        key: &Key,
        expected: &Entry,
        entry: Entry,
        lifetime: Lifetime,
    ) -> impl Future<Output = Result<bool>> + Send {
        let _ = (key, expected, entry, lifetime);
        async { Err(Error::new(ErrorKind::Unsupported).at(self.name(), "compare_and_set")) }
    }

    /// The live entries under `keys`, in their order; one round trip where the store can.
    fn get_many(&self, keys: &[Key]) -> impl Future<Output = Result<Vec<Option<Entry>>>> + Send {
        async move {
            let mut entries = Vec::with_capacity(keys.len());
            for key in keys {
                entries.push(self.get(key).await?);
            }
            Ok(entries)
        }
    }

    /// Stores all `items`; what became of each, in their order. One that fails does not stop the
    /// others.
    fn set_many(
        &self,
        items: Vec<(Key, Entry, Lifetime)>,
    ) -> impl Future<Output = Result<Vec<Result<()>>>> + Send {
        async move {
            let mut outcomes = Vec::with_capacity(items.len());
            for (key, entry, lifetime) in items {
                outcomes.push(self.set(&key, entry, lifetime).await);
            }
            Ok(outcomes)
        }
    }

    /// Removes the entries under `keys`. How many were live.
    fn delete_many(&self, keys: &[Key]) -> impl Future<Output = Result<u64>> + Send {
        async move {
            let mut deleted = 0;
            for key in keys {
                deleted += u64::from(self.delete(key).await?);
            }
            Ok(deleted)
        }
    }

    /// Removes the entries whose keys begin with `prefix`, whatever their namespace, and nothing
    /// else. How many, as far as it is known: expired ones may count, and those whose removal had
    /// to be sent again may not. What is written meanwhile may stay. The default cannot.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] where a store cannot find keys by their beginning. After another
    /// one, some entries may be gone.
    fn delete_prefix(&self, prefix: &str) -> impl Future<Output = Result<u64>> + Send {
        let _ = prefix;
        async { Err(Error::new(ErrorKind::Unsupported).at(self.name(), "delete_prefix")) }
    }

    /// Answers a `get` at once, without a future, if the store is in this process. The default
    /// declines.
    fn peek(&self, key: &Key) -> Peek {
        let _ = key;
        Peek::Declined
    }

    /// Which history of its data the store is in, as far as its last answer tells: another number once it may
    /// have gone back to what it was before, such as a server that has read an old copy, or a replica that
    /// took over. Zero, the default, if it cannot tell.
    ///
    /// What was removed before may be there again afterwards: generations of tags are made anew.
    fn history(&self) -> u64 {
        0
    }

    /// Asks the store in which [history](Self::history) it is: somebody else knows another one. The default has
    /// nobody to ask.
    fn learn_history(&self) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// Releases what the store holds open. The default has nothing to release.
    fn close(&self) -> impl Future<Output = Result<()>> + Send {
        async { Ok(()) }
    }
}

/// The answer of [`Backend::peek`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Peek {
    /// The store cannot answer without waiting; ask [`Backend::get`].
    Declined,
    /// There is no live entry.
    Miss,
    /// The live entry.
    Hit(Entry),
}

impl Peek {
    /// The entry, if there is one that is known of.
    pub(crate) fn entry(self) -> Option<Entry> {
        match self {
            Self::Hit(entry) => Some(entry),
            Self::Miss | Self::Declined => None,
        }
    }
}

/// What a store can do and how precisely.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each stands for itself, as the stores do"
)]
pub struct Capabilities {
    /// The unit to which the store rounds lifetimes up; 1 ms unless said otherwise. An entry ends
    /// at most two units after its lifetime, and never before.
    pub ttl_unit: Duration,
    /// The largest value it takes, in bytes, if it has a limit of its own.
    pub max_value_bytes: Option<usize>,
    /// Whether it keeps anything at all; only [`Dummy`] does not.
    pub stores: bool,
    /// Whether it can [remove entries by the beginning of their keys](Backend::delete_prefix); not
    /// unless said otherwise.
    pub deletes_prefixes: bool,
    /// Whether it can [compare and set](Backend::compare_and_set); not unless said otherwise.
    pub compares: bool,
    /// Whether others, such as processes, may read and write the same entries; so unless said otherwise.
    pub shared: bool,
    /// Whether entries stay in the memory of this process, where they neither rot nor are written by anybody
    /// else; not unless said otherwise.
    pub in_process: bool,
}

impl Capabilities {
    /// A store with lifetimes to the millisecond and no limit of its own.
    pub const fn new() -> Self {
        Self {
            ttl_unit: Duration::from_millis(1),
            max_value_bytes: None,
            stores: true,
            deletes_prefixes: false,
            compares: false,
            shared: true,
            in_process: false,
        }
    }

    /// A store that can compare and set.
    #[must_use]
    pub const fn with_compare_and_set(mut self) -> Self {
        self.compares = true;
        self
    }

    /// A store inside this process.
    #[must_use]
    pub const fn in_process(mut self) -> Self {
        self.shared = false;
        self.in_process = true;
        self
    }

    /// A store that can remove entries by the beginning of their keys.
    #[must_use]
    pub const fn with_delete_prefix(mut self) -> Self {
        self.deletes_prefixes = true;
        self
    }

    /// A store that rounds lifetimes up to `unit`.
    #[must_use]
    pub const fn with_ttl_unit(mut self, unit: Duration) -> Self {
        self.ttl_unit = unit;
        self
    }

    /// A store that takes at most `bytes` a value.
    #[must_use]
    pub const fn with_max_value_bytes(mut self, bytes: usize) -> Self {
        self.max_value_bytes = Some(bytes);
        self
    }
}

impl Default for Capabilities {
    fn default() -> Self {
        Self::new()
    }
}

/// Refuses an entry of more than `limit` bytes.
#[cfg(any(feature = "redis", feature = "memcached", feature = "memory"))]
fn refuse_if_larger(entry: &Entry, limit: usize) -> Result<()> {
    if entry.bytes().len() <= limit {
        return Ok(());
    }
    Err(Error::new(ErrorKind::TooLarge).with_message(format!("value is larger than {limit} bytes")))
}

/// Reads a counter as every backend must: a canonical decimal `i64`.
///
/// # Errors
///
/// [`ErrorKind::NotAnInteger`] for anything else, such as ` 12`, `+1`, `01` or `1.0`.
pub fn parse_counter(bytes: &[u8]) -> Result<i64> {
    std::str::from_utf8(bytes)
        .ok()
        .filter(|text| {
            let digits = text.strip_prefix('-').unwrap_or(text);
            !digits.starts_with('+') && (digits == "0" || !digits.starts_with('0'))
        })
        .filter(|text| *text != "-0")
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| ErrorKind::NotAnInteger.into())
}

#[deny(clippy::missing_trait_methods)]
impl<B: Backend + ?Sized> Backend for Arc<B> {
    fn name(&self) -> &'static str {
        (**self).name()
    }

    fn capabilities(&self) -> Capabilities {
        (**self).capabilities()
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        (**self).get(key).await
    }

    async fn set(&self, key: &Key, entry: Entry, lifetime: Lifetime) -> Result<()> {
        (**self).set(key, entry, lifetime).await
    }

    async fn add(&self, key: &Key, entry: Entry, lifetime: Lifetime) -> Result<bool> {
        (**self).add(key, entry, lifetime).await
    }

    async fn touch(&self, key: &Key, lifetime: Lifetime) -> Result<bool> {
        (**self).touch(key, lifetime).await
    }

    async fn delete(&self, key: &Key) -> Result<bool> {
        (**self).delete(key).await
    }

    async fn incr(&self, key: &Key, delta: i64) -> Result<i64> {
        (**self).incr(key, delta).await
    }

    async fn rename(&self, from: &Key, to: &Key) -> Result<bool> {
        (**self).rename(from, to).await
    }

    async fn ttl(&self, key: &Key) -> Result<Option<Lifetime>> {
        (**self).ttl(key).await
    }

    async fn clear(&self, namespace: &str) -> Result<()> {
        (**self).clear(namespace).await
    }

    async fn flush_store(&self) -> Result<()> {
        (**self).flush_store().await
    }

    async fn compare_and_set(
        &self,
        key: &Key,
        expected: &Entry,
        entry: Entry,
        lifetime: Lifetime,
    ) -> Result<bool> {
        (**self)
            .compare_and_set(key, expected, entry, lifetime)
            .await
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Entry>>> {
        (**self).get_many(keys).await
    }

    async fn set_many(&self, items: Vec<(Key, Entry, Lifetime)>) -> Result<Vec<Result<()>>> {
        (**self).set_many(items).await
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<u64> {
        (**self).delete_many(keys).await
    }

    async fn delete_prefix(&self, prefix: &str) -> Result<u64> {
        (**self).delete_prefix(prefix).await
    }

    fn peek(&self, key: &Key) -> Peek {
        (**self).peek(key)
    }

    fn history(&self) -> u64 {
        (**self).history()
    }

    async fn learn_history(&self) {
        (**self).learn_history().await;
    }

    async fn close(&self) -> Result<()> {
        (**self).close().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_canonical_decimals() {
        for (text, value) in [("0", 0), ("-1", -1), ("9223372036854775807", i64::MAX)] {
            assert_eq!(parse_counter(text.as_bytes()).ok(), Some(value));
        }
        for text in [
            "",
            "-",
            "-0",
            "+1",
            "01",
            " 1",
            "1 ",
            "1_0",
            "1.0",
            "\"1\"",
            "null",
            "9223372036854775808",
        ] {
            let error = parse_counter(text.as_bytes()).map_err(|error| error.kind());
            assert_eq!(error, Err(ErrorKind::NotAnInteger), "{text:?}");
        }
    }
}
