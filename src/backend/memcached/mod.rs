//! Memcached: one server or several, by the meta protocol.
//!
//! # Invariants
//!
//! - A key finds the same server as long as the servers are the same; one server more moves about
//!   its share of the keys, and no others.
//! - No key and no value can inject a command: keys are checked or digested, and values are
//!   counted.
//! - A `set` that failed leaves no older value on a server that can be reached.
//! - A counter changes by the server's arithmetic, after a look that it is one and in range; near
//!   the ends of the range, on the very value that was looked at. So neither an update nor its
//!   lifetime is lost, and it does not wrap.
//!
//! The client is our own: the crates there are lose step with the server when a call is cancelled
//! or a value refused, or let keys inject commands, and are two to four times slower.

mod builder;
mod compare;
mod connection;
mod counter;
#[cfg(fuzzing)]
pub mod fuzzing;
mod node;
mod protocol;
#[cfg(test)]
mod tests;
mod value;

pub use self::builder::MemcachedBuilder;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use ketama::Ring;
use tokio::time::Instant;

use self::node::Node;
use self::protocol::{Batch, Flags, Reply, refused, unexpected, wire_key};
use self::value::{done, entry, on_wire, seconds, set};
use super::{Backend, Capabilities, refuse_if_larger};
use crate::entry::Entry;
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::observe;
use crate::ttl::Lifetime;

/// Entries in Memcached, on one server or several.
///
/// Lifetimes count in whole seconds, and end up to two later than asked, never earlier. Values
/// are limited to 1 MiB unless the servers and [`max_value_bytes`](MemcachedBuilder::max_value_bytes)
/// say otherwise. The requests of all tasks are pipelined over one connection a server. It is made
/// when it is first needed and again when it was lost.
///
/// Several servers share the keys by consistent hashing (ketama). While one of them is down, its
/// share misses, and writes to it fail; with one server, reads fail, too. `clear` works by
/// generations of the key prefix, on every server; keys cannot be found by how they begin, so
/// `delete_prefix` and `purge_prefix` are [`Unsupported`](ErrorKind::Unsupported). Needs Memcached
/// 1.6 or later.
///
/// Cloning shares the connections.
///
/// # Django
///
/// `PyMemcacheCache`. `clear` spares other prefixes; a dead server's keys do not move to others,
/// where stale copies of them may be; counters may be negative.
///
/// # Example
///
/// ```
/// use axum_cache::{Cache, backend::Memcached};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> axum_cache::Result<()> {
/// let cache = Cache::new(Memcached::connect(["10.0.0.1:11211", "10.0.0.2:11211"])?);
/// # let _ = cache;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Memcached {
    inner: Arc<Inner>,
}

struct Inner {
    nodes: Vec<Node>,
    ring: Ring,
    operation_timeout: Duration,
    max_value_bytes: usize,
}

impl Memcached {
    /// The servers, with the defaults; see [`MemcachedBuilder`] for the forms. Nothing is sent
    /// yet.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] for servers that make no sense.
    pub fn connect<S: Into<String>>(servers: impl IntoIterator<Item = S>) -> Result<Self> {
        Self::builder(servers).build()
    }

    /// Sets options first.
    pub fn builder<S: Into<String>>(servers: impl IntoIterator<Item = S>) -> MemcachedBuilder {
        MemcachedBuilder::new(servers.into_iter().map(Into::into).collect())
    }

    fn until(&self) -> Instant {
        Instant::now() + self.inner.operation_timeout
    }

    fn route(&self, key: &Key) -> usize {
        self.inner.ring.route(key.as_str().as_bytes())
    }

    /// Sends commands on `key` and returns the reply to the last of them.
    async fn send(
        &self,
        key: &Key,
        until: Instant,
        commands: impl Fn(&mut Batch, &str) + Send + Sync,
    ) -> Result<Reply> {
        let node = &self.inner.nodes[self.route(key)];
        let lane = hash(key);
        let replies = node.in_generation(key.namespace(), lane, until, |batch, generation| {
            commands(batch, &wire_key(key, generation));
        });
        match replies.await?.pop() {
            Some(Reply::Error(text)) => Err(refused(&text)),
            Some(reply) => Ok(reply),
            None => Err(unexpected()),
        }
    }

    /// Sends what comes to the same when it happens twice, and again if the connection turns out
    /// lost.
    async fn send_surely(
        &self,
        key: &Key,
        until: Instant,
        commands: impl Fn(&mut Batch, &str) + Send + Sync,
    ) -> Result<Reply> {
        match self.send(key, until, &commands).await {
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                Box::pin(self.send(key, until, &commands)).await
            }
            outcome => outcome,
        }
    }

    async fn read(
        &self,
        key: &Key,
        commands: impl Fn(&mut Batch, &str) + Send + Sync,
    ) -> Result<Reply> {
        self.send_surely(key, self.until(), commands).await
    }

    /// One server of several that is down is a miss for its share.
    fn or_miss<T>(&self, outcome: Result<T>, operation: &'static str, miss: T) -> Result<T> {
        match outcome {
            Err(error) if error.is_transient() && self.inner.nodes.len() > 1 => {
                observe::failed("memcached", operation, &error.at("memcached", operation));
                Ok(miss)
            }
            outcome => outcome.map_err(|error| error.at("memcached", operation)),
        }
    }

    async fn set_one(
        &self,
        key: &Key,
        entry: &Entry,
        lifetime: Lifetime,
        until: Instant,
    ) -> Result<()> {
        let stored = match refuse_if_larger(entry, self.inner.max_value_bytes) {
            Ok(()) => {
                let sent = self.send_surely(key, until, |batch, wire| {
                    set(batch, wire, entry, seconds(lifetime), "");
                });
                sent.await.and_then(|reply| done(&reply))
            }
            refused => refused.map(|()| true),
        };
        if stored.is_err() {
            // Best effort: the server may be gone.
            let _ = self.delete_one(key, until).await;
        }
        stored.map(drop)
    }

    async fn delete_one(&self, key: &Key, until: Instant) -> Result<bool> {
        let reply = self.send_surely(key, until, |batch, wire| {
            batch.push(format_args!("md {wire}"), None);
        });
        done(&reply.await?)
    }

    async fn move_entry(&self, from: &Key, to: &Key) -> Result<bool> {
        let until = self.until();
        let reply = self.send_surely(from, until, |batch, wire| {
            batch.push(format_args!("mg {wire} v f t"), None);
        });
        let Some((entry, flags)) = entry(reply.await?)? else {
            return Ok(false);
        };
        if from == to {
            return Ok(true);
        }
        // What is left, as the server counts it.
        let seconds = match flags.ttl {
            Some(left @ 0..) => on_wire(left.unsigned_abs().max(1)),
            _ => None,
        };
        let sent = self.send_surely(to, until, |batch, wire| {
            set(batch, wire, &entry, seconds, "");
        });
        done(&sent.await?)?;
        self.delete_one(from, until).await?;
        Ok(true)
    }

    /// Sends one command for each of `items`, one batch to each server; what became of each, in
    /// their order.
    async fn send_many<T: Sync>(
        &self,
        items: &[T],
        until: Instant,
        key: impl Fn(&T) -> &Key + Send + Sync,
        command: impl Fn(&mut Batch, &str, &T) + Send + Sync,
    ) -> Vec<Result<Reply>> {
        let mut shares: BTreeMap<(usize, &str), Vec<usize>> = BTreeMap::new();
        for (index, item) in items.iter().enumerate() {
            let key = key(item);
            let share = (self.route(key), key.namespace());
            shares.entry(share).or_default().push(index);
        }
        let sent = shares
            .into_iter()
            .map(async |((node, namespace), indexes)| {
                let node = &self.inner.nodes[node];
                let ask = || {
                    node.in_generation(namespace, 0, until, |batch, generation| {
                        for index in &indexes {
                            let item = &items[*index];
                            command(batch, &wire_key(key(item), generation), item);
                        }
                    })
                };
                // Every batch comes to the same when it happens twice.
                let replies = match ask().await {
                    Err(error) if error.kind() == ErrorKind::Unavailable => ask().await,
                    replies => replies,
                };
                (replies, indexes)
            });
        let mut outcomes: Vec<Result<Reply>> = Vec::new();
        outcomes.resize_with(items.len(), || Err(unexpected()));
        for (replies, indexes) in join_all(sent).await {
            match replies {
                Ok(replies) => {
                    for (index, reply) in indexes.into_iter().zip(replies) {
                        outcomes[index] = match reply {
                            Reply::Error(text) => Err(refused(&text)),
                            reply => Ok(reply),
                        };
                    }
                }
                Err(error) => {
                    for index in indexes {
                        outcomes[index] = Err(error.clone());
                    }
                }
            }
        }
        outcomes
    }
}

impl Backend for Memcached {
    fn name(&self) -> &'static str {
        "memcached"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new()
            .with_ttl_unit(Duration::from_secs(1))
            .with_max_value_bytes(self.inner.max_value_bytes)
            .with_compare_and_set()
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        let reply = self.read(key, |batch, wire| {
            batch.push(format_args!("mg {wire} v f"), None);
        });
        let found = reply.await.and_then(entry);
        self.or_miss(
            found.map(|found| found.map(|(entry, _)| entry)),
            "get",
            None,
        )
    }

    async fn set(&self, key: &Key, entry: Entry, lifetime: Lifetime) -> Result<()> {
        let outcome = self.set_one(key, &entry, lifetime, self.until()).await;
        outcome.map_err(|error| error.at("memcached", "set"))
    }

    async fn add(&self, key: &Key, entry: Entry, lifetime: Lifetime) -> Result<bool> {
        let outcome = async {
            if let Err(error) = refuse_if_larger(&entry, self.inner.max_value_bytes) {
                let lives = self.ttl(key).await?.is_some();
                return if lives { Ok(false) } else { Err(error) };
            }
            let reply = self.send(key, self.until(), |batch, wire| {
                set(batch, wire, &entry, seconds(lifetime), " ME");
            });
            done(&reply.await?)
        };
        outcome.await.map_err(|error| error.at("memcached", "add"))
    }

    async fn touch(&self, key: &Key, lifetime: Lifetime) -> Result<bool> {
        let seconds = seconds(lifetime).unwrap_or(0);
        let reply = self.send_surely(key, self.until(), |batch, wire| {
            batch.push(format_args!("mg {wire} T{seconds}"), None);
        });
        let touched = reply.await.and_then(|reply| done(&reply));
        touched.map_err(|error| error.at("memcached", "touch"))
    }

    async fn delete(&self, key: &Key) -> Result<bool> {
        let deleted = self.delete_one(key, self.until()).await;
        deleted.map_err(|error| error.at("memcached", "delete"))
    }

    async fn incr(&self, key: &Key, delta: i64) -> Result<i64> {
        let outcome = self.change_counter(key, delta).await;
        outcome.map_err(|error| error.at("memcached", "incr"))
    }

    async fn rename(&self, from: &Key, to: &Key) -> Result<bool> {
        let outcome = self.move_entry(from, to).await;
        outcome.map_err(|error| error.at("memcached", "rename"))
    }

    async fn ttl(&self, key: &Key) -> Result<Option<Lifetime>> {
        let reply = self.read(key, |batch, wire| {
            batch.push(format_args!("mg {wire} t"), None);
        });
        let lifetime = reply.await.and_then(|reply| match reply {
            Reply::Done(Flags {
                ttl: Some(..=-1), ..
            }) => Ok(Some(Lifetime::Forever)),
            // A second was added to what was asked for.
            Reply::Done(Flags {
                ttl: Some(left), ..
            }) => {
                let left = u64::try_from(left - 1).unwrap_or(0);
                let left = Duration::from_secs(left).max(Duration::from_millis(1));
                Ok(Some(Lifetime::For(left)))
            }
            Reply::Missing => Ok(None),
            _ => Err(unexpected()),
        });
        self.or_miss(lifetime, "ttl", None)
    }

    async fn delete_prefix(&self, _: &str) -> Result<u64> {
        Err(Error::new(ErrorKind::Unsupported)
            .at("memcached", "delete_prefix")
            .with_message("Memcached cannot list its keys; `clear` empties the cache"))
    }

    async fn clear(&self, namespace: &str) -> Result<()> {
        let until = self.until();
        let cleared = self
            .inner
            .nodes
            .iter()
            .map(|node| node.clear(namespace, until));
        let cleared: Result<()> = join_all(cleared).await.into_iter().collect();
        cleared.map_err(|error| error.at("memcached", "clear"))
    }

    /// `flush_all` on every server.
    async fn flush_store(&self) -> Result<()> {
        let until = self.until();
        let flushed = self.inner.nodes.iter().map(async |node| {
            let mut batch = Batch::default();
            batch.push(format_args!("flush_all"), None);
            match node.call(batch, 0, until).await?.pop() {
                Some(Reply::Done(_)) => Ok(()),
                Some(Reply::Error(text)) => Err(refused(&text)),
                _ => Err(unexpected()),
            }
        });
        let flushed: Result<()> = join_all(flushed).await.into_iter().collect();
        flushed.map_err(|error| error.at("memcached", "flush_store"))
    }

    async fn compare_and_set(
        &self,
        key: &Key,
        expected: &Entry,
        entry: Entry,
        lifetime: Lifetime,
    ) -> Result<bool> {
        let outcome = self.swap(key, expected, &entry, lifetime).await;
        outcome.map_err(|error| error.at("memcached", "compare_and_set"))
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Entry>>> {
        let get = |batch: &mut Batch, wire: &str, _: &Key| {
            batch.push(format_args!("mg {wire} v f"), None);
        };
        let outcomes = self.send_many(keys, self.until(), |key| key, get).await;
        let entries = outcomes.into_iter().map(|outcome| {
            let entry = outcome.and_then(entry);
            self.or_miss(
                entry.map(|found| found.map(|(entry, _)| entry)),
                "get_many",
                None,
            )
        });
        entries.collect()
    }

    async fn set_many(&self, items: Vec<(Key, Entry, Lifetime)>) -> Result<Vec<Result<()>>> {
        let until = self.until();
        let command = |batch: &mut Batch, wire: &str, item: &(Key, Entry, Lifetime)| {
            let (_, entry, lifetime) = item;
            // Too large for a server to read, so what is there goes instead.
            match refuse_if_larger(entry, self.inner.max_value_bytes) {
                Ok(()) => set(batch, wire, entry, seconds(*lifetime), ""),
                Err(_) => batch.push(format_args!("md {wire}"), None),
            }
        };
        let replies = self.send_many(&items, until, |(key, ..)| key, command);
        let mut outcomes = Vec::with_capacity(items.len());
        let mut failed = Vec::new();
        for ((key, entry, _), reply) in items.iter().zip(replies.await) {
            let stored = refuse_if_larger(entry, self.inner.max_value_bytes)
                .and_then(|()| done(&reply?))
                .map(drop);
            if stored.is_err() {
                failed.push(key);
            }
            outcomes.push(stored.map_err(|error| error.at("memcached", "set_many")));
        }
        let delete = |batch: &mut Batch, wire: &str, _: &&Key| {
            batch.push(format_args!("md {wire}"), None);
        };
        // Best effort, as of one.
        self.send_many(&failed, until, |key| key, delete).await;
        Ok(outcomes)
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<u64> {
        let delete = |batch: &mut Batch, wire: &str, _: &Key| {
            batch.push(format_args!("md {wire}"), None);
        };
        let mut deleted = 0;
        for outcome in self.send_many(keys, self.until(), |key| key, delete).await {
            let outcome = outcome.and_then(|reply| done(&reply));
            deleted += u64::from(outcome.map_err(|error| error.at("memcached", "delete_many"))?);
        }
        Ok(deleted)
    }

    async fn close(&self) -> Result<()> {
        self.inner.nodes.iter().for_each(Node::close);
        Ok(())
    }
}

impl fmt::Debug for Memcached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memcached")
            .field("servers", &self.inner.nodes.len())
            .finish_non_exhaustive()
    }
}

/// By which a key finds its connection.
fn hash(key: &Key) -> usize {
    let bytes = key.as_str().bytes();
    bytes.fold(0, |hash, byte| {
        hash.wrapping_mul(31).wrapping_add(usize::from(byte))
    })
}
