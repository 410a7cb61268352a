//! Redis: one server, a leader with replicas, a cluster, or what sentinels name.
//!
//! # Invariants
//!
//! - Writes go to the leader alone. A key that this process wrote within the window is read there,
//!   too.
//! - Counters and locks change in one step on the server; nothing is read and written back.
//! - Only reads are tried twice: a write whose answer was lost may have happened.
//! - No call lasts longer than the operation timeout, connecting and falling back included.

mod builder;
mod lane;
mod lock;
mod recent;
mod reply;
mod scan;
mod script;

pub use self::builder::RedisBuilder;
pub use self::lock::RedisLock;
pub use self::scan::KeyScan;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bb8_redis::{RedisConnectionManager, bb8};
use futures_util::future::join_all;
use redis::{Cmd, Pipeline, Value, cmd};
use tokio::time::Instant;

use self::lane::{Lane, Request};
use self::recent::Recent;
use self::script::INCR;
use super::{Backend, Capabilities};
use crate::entry::Entry;
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::ttl::Lifetime;

/// The longest lifetime that is sent, in milliseconds: 30,000 years. Redis refuses what overflows.
const MAX_MILLIS: u64 = 1_000_000_000_000_000;

/// Entries in Redis, or a server that speaks its protocol, such as Valkey.
///
/// Lifetimes to the millisecond; counters, `add` and batches take one round trip. The commands of
/// all tasks share few connections and are pipelined there, so nobody waits for a connection. A
/// connection is made when it is first needed and again when it was lost: the program starts, and
/// goes on, without the server.
///
/// Cloning shares the connections.
///
/// # Django
///
/// `RedisCache`. `clear` removes this cache's keys instead of `FLUSHDB`; `incr` never creates a
/// key; fractions of a second count. Reads that go to replicas fall back to the leader, and see
/// what this process wrote.
///
/// # Example
///
/// ```
/// use axum_cache::{Cache, backend::Redis};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> axum_cache::Result<()> {
/// let cache = Cache::new(Redis::connect("redis://127.0.0.1:6379/0")?);
/// # let _ = cache;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Redis {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    leader: Vec<Lane>,
    replicas: Vec<Vec<Lane>>,
    is_cluster: bool,
    /// Only needed where there are replicas.
    recent: Option<Recent>,
    operation_timeout: Duration,
    max_value_bytes: usize,
    turn: AtomicUsize,
}

impl Redis {
    /// The server of a URL, with the defaults; see [`RedisBuilder`] for the forms. Nothing is sent
    /// yet.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] for a URL that makes no sense.
    pub fn connect(url: &str) -> Result<Self> {
        Self::builder([url]).build()
    }

    /// Sets options first. Of several servers, the first is the leader and the others are its
    /// replicas; or they are nodes of a cluster, or sentinels.
    pub fn builder<S: Into<String>>(servers: impl IntoIterator<Item = S>) -> RedisBuilder {
        RedisBuilder::new(servers.into_iter().map(Into::into).collect())
    }

    /// Uses the pool of a `bb8-redis` that the application has already; its own settings say how
    /// connections are made and checked. Connections are cloned out and given back at once.
    pub fn from_pool(pool: bb8::Pool<RedisConnectionManager>) -> Self {
        RedisBuilder::new(Vec::new()).finish(vec![Lane::Pool(pool)], Vec::new(), false)
    }

    /// Sends a command that changes `key`.
    async fn write(&self, key: &Key, command: &Cmd) -> Result<Value> {
        self.write_at(self.hash(key), Request::Command(command))
            .await
    }

    async fn write_at(&self, hash: u64, request: Request<'_>) -> Result<Value> {
        self.note(hash);
        let outcome = self.leader(hash).call(request, self.until()).await;
        self.note(hash);
        outcome
    }

    /// Sends a command that only reads `key`.
    async fn read(&self, key: &Key, command: &Cmd) -> Result<Value> {
        let hash = self.hash(key);
        let may_lag = !self.is_recent(hash);
        self.read_at(hash, may_lag, Request::Command(command)).await
    }

    async fn read_at(&self, hash: u64, may_lag: bool, request: Request<'_>) -> Result<Value> {
        let until = self.until();
        if may_lag && let Some(replica) = self.replica(hash) {
            let half = Instant::now() + self.inner.operation_timeout / 2;
            if let Ok(answer) = Box::pin(replica.call(request, half)).await {
                return Ok(answer);
            }
        }
        let leader = self.leader(hash);
        match leader.call(request, until).await {
            // The connection may have been lost while nobody used it.
            Err(error) if error.kind() == ErrorKind::Unavailable && !reply::is_refusal(&error) => {
                Box::pin(leader.call(request, until)).await
            }
            outcome => outcome,
        }
    }

    /// The connection to the leader that all commands on one key share, so that they stay in
    /// order.
    fn leader(&self, hash: u64) -> &Lane {
        &self.inner.leader[pick(hash, self.inner.leader.len())]
    }

    /// A connection to the next replica that is not known to be down.
    fn replica(&self, hash: u64) -> Option<&Lane> {
        let replicas = &self.inner.replicas;
        if replicas.is_empty() {
            return None;
        }
        let turn = self.inner.turn.fetch_add(1, Ordering::Relaxed);
        (0..replicas.len())
            .map(|next| &replicas[turn.wrapping_add(next) % replicas.len()])
            .map(|lanes| &lanes[pick(hash, lanes.len())])
            .find(|lane| !lane.is_down())
    }

    /// By which a key finds its connection, and is known as written.
    fn hash(&self, key: &Key) -> u64 {
        // One connection and no replica: there is nothing to choose.
        if self.inner.leader.len() == 1 && self.inner.recent.is_none() {
            return 0;
        }
        recent::hash(key)
    }

    /// Notes that a key is being written, or was just now.
    fn note(&self, hash: u64) {
        if let Some(recent) = &self.inner.recent {
            recent.note(hash);
        }
    }

    fn note_all(&self) {
        if let Some(recent) = &self.inner.recent {
            recent.note_all();
        }
    }

    fn is_recent(&self, hash: u64) -> bool {
        let recent = self.inner.recent.as_ref();
        recent.is_some_and(|recent| recent.contains(hash))
    }

    fn until(&self) -> Instant {
        Instant::now() + self.inner.operation_timeout
    }

    /// Makes sure that no older value outlives a `set` that failed, as far as the server can be
    /// told.
    async fn drop_old(&self, key: &Key, error: &Error) {
        let mut unlink = cmd("UNLINK");
        unlink.arg(key.as_str());
        if error.kind() == ErrorKind::Timeout {
            // It goes the way the `set` went, and arrives after it.
            let (redis, hash) = (self.clone(), self.hash(key));
            tokio::spawn(async move { redis.write_at(hash, Request::Command(&unlink)).await });
        } else if reply::is_refusal(error) {
            let _ = self.write(key, &unlink).await;
        }
    }

    fn refuse_if_too_large(&self, entry: &Entry) -> Result<()> {
        let limit = self.inner.max_value_bytes;
        if entry.bytes().len() <= limit {
            return Ok(());
        }
        Err(Error::new(ErrorKind::TooLarge)
            .with_message(format!("value is larger than {limit} bytes")))
    }

    async fn set_one(&self, key: &Key, entry: &Entry, lifetime: Lifetime) -> Result<()> {
        if let Err(error) = self.refuse_if_too_large(entry) {
            self.delete(key).await?;
            return Err(error);
        }
        let outcome = reply::done(self.write(key, &set(key, entry, lifetime)).await);
        if let Err(error) = &outcome {
            self.drop_old(key, error).await;
        }
        outcome.map(drop)
    }

    /// All in one round trip.
    async fn set_pipelined(&self, items: &[(Key, Entry, Lifetime)]) -> Result<Vec<Result<()>>> {
        let mut pipeline = Pipeline::with_capacity(items.len());
        for (key, entry, lifetime) in items {
            self.note(self.hash(key));
            let fits = self.refuse_if_too_large(entry).is_ok();
            pipeline.add_command(if fits {
                set(key, entry, *lifetime)
            } else {
                cmd("UNLINK").arg(key.as_str()).to_owned()
            });
        }
        let answers = self.write_at(0, Request::Commands(&pipeline)).await;
        let answers = match reply::array(answers) {
            Ok(answers) => answers,
            Err(error) => {
                for (key, ..) in items {
                    self.drop_old(key, &error).await;
                }
                return Err(error);
            }
        };
        let mut outcomes = Vec::with_capacity(items.len());
        for ((key, entry, _), answer) in items.iter().zip(answers) {
            self.note(self.hash(key));
            let answer = reply::one(answer);
            if let Err(error) = &answer {
                self.drop_old(key, error).await;
            }
            outcomes.push(answer.and_then(|_| self.refuse_if_too_large(entry)));
        }
        Ok(outcomes)
    }

    /// On a cluster, keys live on different nodes: the value is copied, then the old one removed.
    async fn move_between_slots(&self, from: &Key, to: &Key) -> Result<bool> {
        if from == to {
            return self.contains(from).await;
        }
        let Some(entry) = reply::entry(self.write(from, cmd("GET").arg(from.as_str())).await)?
        else {
            return Ok(false);
        };
        let Some(lifetime) = lifetime(self.write(from, cmd("PTTL").arg(from.as_str())).await)?
        else {
            return Ok(false);
        };
        self.set_one(to, &entry, lifetime).await?;
        self.delete(from).await?;
        Ok(true)
    }
}

impl Backend for Redis {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new().with_max_value_bytes(self.inner.max_value_bytes)
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        let mut get = Cmd::with_capacity(2, key.as_str().len() + 3);
        let answer = self.read(key, get.arg("GET").arg(key.as_str())).await;
        reply::entry(answer).map_err(|error| error.at("redis", "get"))
    }

    async fn set(&self, key: &Key, entry: Entry, lifetime: Lifetime) -> Result<()> {
        let outcome = self.set_one(key, &entry, lifetime).await;
        outcome.map_err(|error| error.at("redis", "set"))
    }

    async fn add(&self, key: &Key, entry: Entry, lifetime: Lifetime) -> Result<bool> {
        let outcome = async {
            if let Err(error) = self.refuse_if_too_large(&entry) {
                let lives = self.contains(key).await?;
                return if lives { Ok(false) } else { Err(error) };
            }
            let mut add = set(key, &entry, lifetime);
            reply::done(self.write(key, add.arg("NX")).await)
        };
        outcome.await.map_err(|error| error.at("redis", "add"))
    }

    async fn touch(&self, key: &Key, lifetime: Lifetime) -> Result<bool> {
        let answer = if let Some(millis) = millis(lifetime) {
            let mut expire = cmd("PEXPIRE");
            reply::is_some(self.write(key, expire.arg(key.as_str()).arg(millis)).await)
        } else {
            // `PERSIST` alone does not tell a permanent key from a missing one.
            let mut pipeline = Pipeline::new();
            pipeline.cmd("PERSIST").arg(key.as_str());
            pipeline.cmd("EXISTS").arg(key.as_str());
            let answers = self
                .write_at(self.hash(key), Request::Commands(&pipeline))
                .await;
            reply::array(answers).and_then(|mut answers| {
                let exists = answers.pop().unwrap_or(Value::Nil);
                reply::is_some(reply::one(exists))
            })
        };
        answer.map_err(|error| error.at("redis", "touch"))
    }

    async fn delete(&self, key: &Key) -> Result<bool> {
        let answer = self.write(key, cmd("UNLINK").arg(key.as_str())).await;
        reply::is_some(answer).map_err(|error| error.at("redis", "delete"))
    }

    async fn incr(&self, key: &Key, delta: i64) -> Result<i64> {
        let answer = self.run(&INCR, key, &[&delta.to_string()]).await;
        let outcome = match answer {
            Ok(Value::Nil) => Err(ErrorKind::KeyMissing.into()),
            Err(error) if reply::code(&error) == Some("WRONGTYPE") => {
                Err(ErrorKind::NotAnInteger.into())
            }
            Err(error) if reply::says(&error, "overflow") => Err(ErrorKind::OutOfRange.into()),
            Err(error) if reply::says(&error, "not an integer") => {
                Err(ErrorKind::NotAnInteger.into())
            }
            other => reply::int(other),
        };
        outcome.map_err(|error: Error| error.at("redis", "incr"))
    }

    async fn rename(&self, from: &Key, to: &Key) -> Result<bool> {
        let outcome = if self.inner.is_cluster {
            self.move_between_slots(from, to).await
        } else {
            let mut rename = cmd("RENAME");
            rename.arg(from.as_str()).arg(to.as_str());
            self.note(self.hash(to));
            match reply::done(self.write(from, &rename).await) {
                Err(error) if reply::says(&error, "no such key") => Ok(false),
                outcome => outcome,
            }
        };
        self.note(self.hash(to));
        outcome.map_err(|error| error.at("redis", "rename"))
    }

    async fn ttl(&self, key: &Key) -> Result<Option<Lifetime>> {
        let answer = self.read(key, cmd("PTTL").arg(key.as_str())).await;
        lifetime(answer).map_err(|error| error.at("redis", "ttl"))
    }

    /// Goes over the keys by `SCAN`, so other work goes on meanwhile.
    async fn clear(&self, namespace: &str) -> Result<()> {
        let outcome = self.delete_prefix(namespace).await;
        outcome
            .map(drop)
            .map_err(|error| error.at("redis", "clear"))
    }

    /// `FLUSHDB`: of this database, on every node.
    async fn flush_store(&self) -> Result<()> {
        self.note_all();
        let outcome = self.write_at(0, Request::Command(&cmd("FLUSHDB"))).await;
        self.note_all();
        outcome
            .map(drop)
            .map_err(|error| error.at("redis", "flush_store"))
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Entry>>> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut get = cmd("MGET");
        for key in keys {
            get.arg(key.as_str());
        }
        let may_lag = !keys.iter().any(|key| self.is_recent(self.hash(key)));
        let answer = self.read_at(0, may_lag, Request::Command(&get)).await;
        let entries = reply::array(answer).and_then(|values| {
            let entries = values.into_iter().map(|value| reply::entry(Ok(value)));
            entries.collect()
        });
        entries.map_err(|error| error.at("redis", "get_many"))
    }

    async fn set_many(&self, items: Vec<(Key, Entry, Lifetime)>) -> Result<Vec<Result<()>>> {
        if items.is_empty() {
            return Ok(Vec::new());
        }
        if self.inner.is_cluster {
            let sets = items
                .into_iter()
                .map(async |(key, entry, lifetime)| self.set(&key, entry, lifetime).await);
            return Ok(join_all(sets).await);
        }
        let outcomes = self.set_pipelined(&items).await;
        outcomes.map_err(|error| error.at("redis", "set_many"))
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<u64> {
        if keys.is_empty() {
            return Ok(0);
        }
        let mut unlink = cmd("UNLINK");
        for key in keys {
            unlink.arg(key.as_str());
            self.note(self.hash(key));
        }
        let answer = self.write_at(0, Request::Command(&unlink)).await;
        for key in keys {
            self.note(self.hash(key));
        }
        let deleted = reply::int(answer).map_err(|error| error.at("redis", "delete_many"))?;
        Ok(u64::try_from(deleted).unwrap_or(0))
    }

    async fn contains(&self, key: &Key) -> Result<bool> {
        let answer = self.read(key, cmd("EXISTS").arg(key.as_str())).await;
        reply::is_some(answer).map_err(|error| error.at("redis", "contains"))
    }

    async fn close(&self) -> Result<()> {
        let lanes = self.inner.replicas.iter().flatten();
        lanes.chain(&self.inner.leader).for_each(Lane::close);
        Ok(())
    }
}

fn set(key: &Key, entry: &Entry, lifetime: Lifetime) -> Cmd {
    let mut set = Cmd::with_capacity(5, key.as_str().len() + entry.bytes().len() + 32);
    set.arg("SET").arg(key.as_str()).arg(entry.bytes().as_ref());
    if let Some(millis) = millis(lifetime) {
        set.arg("PX").arg(millis);
    }
    set
}

fn millis(lifetime: Lifetime) -> Option<u64> {
    let millis = lifetime.in_units(Duration::from_millis(1))?;
    Some(millis.min(MAX_MILLIS))
}

/// What `PTTL` answers.
fn lifetime(answer: Result<Value>) -> Result<Option<Lifetime>> {
    Ok(match reply::int(answer)? {
        -2 => None,
        -1 => Some(Lifetime::Forever),
        millis => {
            let millis = u64::try_from(millis).unwrap_or(0).max(1);
            Some(Lifetime::For(Duration::from_millis(millis)))
        }
    })
}

fn pick(hash: u64, lanes: usize) -> usize {
    // The low bits choose the slot of recent writes.
    #[allow(clippy::cast_possible_truncation, reason = "any bits of a hash do")]
    let high = (hash >> 32) as usize;
    high % lanes
}
