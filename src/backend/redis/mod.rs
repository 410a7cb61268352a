//! Redis: one server, a leader with replicas, a cluster, or what sentinels name.
//!
//! # Invariants
//!
//! - Writes go to the leader alone. A key that this process wrote within the window is read there,
//!   too.
//! - Counters and locks change in one step on the server; nothing is read and written back.
//! - Tried twice, over a new connection if the first was lost, is only what comes to the same when
//!   it happens twice. The client of a cluster tries everything again: an `incr` whose connection
//!   breaks there may count more than once.
//! - No call lasts longer than the operation timeout, connecting and falling back included.

mod backplane;
mod builder;
#[cfg(fuzzing)]
pub mod fuzzing;
mod history;
mod lane;
mod lock;
mod recent;
mod reply;
mod route;
mod scan;
mod script;

pub use self::backplane::{RedisBackplane, RedisSubscription};
pub use self::builder::RedisBuilder;
pub use self::lock::RedisLock;
pub use self::scan::KeyScan;

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::Poll;
use std::time::Duration;

use bb8_redis::{RedisConnectionManager, bb8};
use futures_util::future::join_all;
use redis::{Cmd, Pipeline, Value, cmd};
use tokio::time::Instant;

use self::history::History;
use self::lane::{Lane, Request};
use self::recent::Recent;
use self::reply::Reason;
use self::script::{COMPARE_AND_SET, INCR};
use super::{Backend, Capabilities, refuse_if_larger};
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
    /// As the leader tells it; not that of a cluster, nor of the application's pool.
    history: Arc<History>,
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

    /// Makes sure that no older value outlives a `set` that failed, as far as the server can be
    /// told.
    async fn drop_old(&self, keys: &[&Key], error: &Error, until: Instant) {
        let mut unlink = cmd("UNLINK");
        for key in keys {
            unlink.arg(key.as_str());
        }
        let Some(hash) = keys.first().map(|key| self.hash(key)) else {
            return;
        };
        if error.kind() != ErrorKind::Timeout {
            let _ = self.write(hash, Request::Command(&unlink), until).await;
            return;
        }
        // It goes the way that the `set` went, so it arrives after it; and it is on its way when
        // this returns, so it arrives before what the caller does next.
        let redis = self.clone();
        let mut unlinking = Box::pin(async move {
            let until = redis.until();
            redis.write(hash, Request::Command(&unlink), until).await
        });
        if poll_fn(|context| Poll::Ready(unlinking.as_mut().poll(context).is_pending())).await {
            tokio::spawn(unlinking);
        }
    }

    async fn set_one(
        &self,
        key: &Key,
        entry: &Entry,
        lifetime: Lifetime,
        until: Instant,
    ) -> Result<()> {
        let outcome = match refuse_if_larger(entry, self.inner.max_value_bytes) {
            Ok(()) => {
                let set = set(key, entry, lifetime);
                let hash = self.hash(key);
                reply::done(self.write_surely(hash, Request::Command(&set), until).await)
            }
            Err(refused) => Err(refused),
        };
        if let Err(error) = &outcome {
            self.drop_old(&[key], error, until).await;
        }
        outcome.map(drop)
    }

    /// All in one round trip.
    async fn set_pipelined(&self, items: &[(Key, Entry, Lifetime)]) -> Result<Vec<Result<()>>> {
        let until = self.until();
        let mut pipeline = Pipeline::with_capacity(items.len());
        for (key, entry, lifetime) in items {
            let fits = refuse_if_larger(entry, self.inner.max_value_bytes).is_ok();
            pipeline.add_command(if fits {
                set(key, entry, *lifetime)
            } else {
                cmd("UNLINK").arg(key.as_str()).to_owned()
            });
        }
        let keys = || items.iter().map(|(key, ..)| key);
        let hash = self.note_keys(keys());
        let answers = self.write_surely(hash, Request::Commands(&pipeline), until);
        let answers = reply::array(answers.await);
        self.note_keys(keys());
        let answers = match answers {
            Ok(answers) => answers,
            Err(error) => {
                let keys: Vec<_> = keys().collect();
                self.drop_old(&keys, &error, until).await;
                return Err(error);
            }
        };
        let mut outcomes = Vec::with_capacity(items.len());
        for ((key, entry, _), answer) in items.iter().zip(answers) {
            let answer = reply::one(answer);
            if let Err(error) = &answer {
                self.drop_old(&[key], error, until).await;
            }
            outcomes.push(answer.and_then(|_| refuse_if_larger(entry, self.inner.max_value_bytes)));
        }
        Ok(outcomes)
    }

    /// On a cluster, keys live on different nodes: the value is copied, then the old one removed.
    async fn move_between_slots(&self, from: &Key, to: &Key, until: Instant) -> Result<bool> {
        let ask = async |word: &str| {
            let mut command = cmd(word);
            let request = Request::Command(command.arg(from.as_str()));
            self.read_at(self.hash(from), false, request, until).await
        };
        let Some(entry) = reply::entry(ask("GET").await)? else {
            return Ok(false);
        };
        let Some(lifetime) = lifetime(ask("PTTL").await)? else {
            return Ok(false);
        };
        if from != to {
            self.set_one(to, &entry, lifetime, until).await?;
            self.unlink(from, until).await?;
        }
        Ok(true)
    }

    async fn unlink(&self, key: &Key, until: Instant) -> Result<bool> {
        let mut unlink = cmd("UNLINK");
        let request = Request::Command(unlink.arg(key.as_str()));
        reply::is_some(self.write_surely(self.hash(key), request, until).await)
    }
}

impl Backend for Redis {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new()
            .with_max_value_bytes(self.inner.max_value_bytes)
            .with_delete_prefix()
            .with_compare_and_set()
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        let mut get = Cmd::with_capacity(2, key.as_str().len() + 3);
        let answer = self.read(key, get.arg("GET").arg(key.as_str())).await;
        reply::entry(answer).map_err(|error| error.at("redis", "get"))
    }

    async fn set(&self, key: &Key, entry: Entry, lifetime: Lifetime) -> Result<()> {
        let outcome = self.set_one(key, &entry, lifetime, self.until()).await;
        outcome.map_err(|error| error.at("redis", "set"))
    }

    async fn add(&self, key: &Key, entry: Entry, lifetime: Lifetime) -> Result<bool> {
        let outcome = async {
            if let Err(error) = refuse_if_larger(&entry, self.inner.max_value_bytes) {
                let lives = self.ttl(key).await?.is_some();
                return if lives { Ok(false) } else { Err(error) };
            }
            let mut add = set(key, &entry, lifetime);
            let request = Request::Command(add.arg("NX"));
            reply::done(self.write(self.hash(key), request, self.until()).await)
        };
        outcome.await.map_err(|error| error.at("redis", "add"))
    }

    async fn touch(&self, key: &Key, lifetime: Lifetime) -> Result<bool> {
        let (hash, until) = (self.hash(key), self.until());
        let answer = if let Some(millis) = millis(lifetime) {
            let mut expire = cmd("PEXPIRE");
            let request = Request::Command(expire.arg(key.as_str()).arg(millis));
            reply::is_some(self.write_surely(hash, request, until).await)
        } else {
            // `PERSIST` alone does not tell a permanent key from a missing one.
            let mut pipeline = Pipeline::new();
            pipeline.cmd("PERSIST").arg(key.as_str());
            pipeline.cmd("EXISTS").arg(key.as_str());
            let answers = self.write_surely(hash, Request::Commands(&pipeline), until);
            match reply::array(answers.await) {
                Ok(answers) => {
                    let counts = answers
                        .into_iter()
                        .map(|answer| reply::int(reply::one(answer)));
                    let counts: Result<Vec<_>> = counts.collect();
                    counts.map(|counts| counts.last().is_some_and(|exists| *exists > 0))
                }
                Err(error) => Err(error),
            }
        };
        answer.map_err(|error| error.at("redis", "touch"))
    }

    async fn delete(&self, key: &Key) -> Result<bool> {
        let deleted = self.unlink(key, self.until()).await;
        deleted.map_err(|error| error.at("redis", "delete"))
    }

    async fn incr(&self, key: &Key, delta: i64) -> Result<i64> {
        let answer = self.run(&INCR, key, &[delta.to_string().as_bytes()]).await;
        let outcome = match answer {
            Ok(Value::Nil) => Err(ErrorKind::KeyMissing.into()),
            Err(error) if reply::code(&error) == Some("WRONGTYPE") => {
                Err(ErrorKind::NotAnInteger.into())
            }
            Err(error) if reply::reason(&error) == Some(Reason::Overflow) => {
                Err(ErrorKind::OutOfRange.into())
            }
            Err(error) if reply::reason(&error) == Some(Reason::NotAnInteger) => {
                Err(ErrorKind::NotAnInteger.into())
            }
            other => reply::int(other),
        };
        outcome.map_err(|error: Error| error.at("redis", "incr"))
    }

    async fn rename(&self, from: &Key, to: &Key) -> Result<bool> {
        let until = self.until();
        let outcome = if self.inner.is_cluster {
            self.move_between_slots(from, to, until).await
        } else {
            let mut rename = cmd("RENAME");
            rename.arg(from.as_str()).arg(to.as_str());
            let hash = self.note_keys([from, to]);
            let outcome = self.write(hash, Request::Command(&rename), until).await;
            self.note_keys([from, to]);
            match reply::done(outcome) {
                Err(error) if reply::reason(&error) == Some(Reason::NoSuchKey) => Ok(false),
                outcome => outcome,
            }
        };
        outcome.map_err(|error| error.at("redis", "rename"))
    }

    async fn ttl(&self, key: &Key) -> Result<Option<Lifetime>> {
        let answer = self.read(key, cmd("PTTL").arg(key.as_str())).await;
        lifetime(answer).map_err(|error| error.at("redis", "ttl"))
    }

    /// Goes over the keys by `SCAN`, so other work goes on meanwhile.
    async fn clear(&self, namespace: &str) -> Result<()> {
        let outcome = Redis::delete_prefix(self, namespace).await;
        outcome
            .map(drop)
            .map_err(|error| error.at("redis", "clear"))
    }

    async fn delete_prefix(&self, prefix: &str) -> Result<u64> {
        let outcome = Redis::delete_prefix(self, prefix).await;
        outcome.map_err(|error| error.at("redis", "delete_prefix"))
    }

    /// `FLUSHDB`: of this database, on every node.
    async fn flush_store(&self) -> Result<()> {
        self.note_all();
        let flush = cmd("FLUSHDB");
        let outcome = self.write_surely(0, Request::Command(&flush), self.until());
        let outcome = outcome.await;
        self.note_all();
        outcome
            .map(drop)
            .map_err(|error| error.at("redis", "flush_store"))
    }

    /// On a cluster, whose client sends again by itself, false may mean that the first time did it,
    /// if a connection broke on the way.
    async fn compare_and_set(
        &self,
        key: &Key,
        expected: &Entry,
        entry: Entry,
        lifetime: Lifetime,
    ) -> Result<bool> {
        let outcome = async {
            refuse_if_larger(&entry, self.inner.max_value_bytes)?;
            let millis = millis(lifetime).map(|millis| millis.to_string());
            let mut arguments: Vec<&[u8]> = vec![expected.bytes(), entry.bytes()];
            if let Some(millis) = &millis {
                arguments.extend([b"PX", millis.as_bytes()]);
            }
            match self.run(&COMPARE_AND_SET, key, &arguments).await {
                Err(error) if reply::code(&error) == Some("WRONGTYPE") => Ok(false),
                answer => reply::is_some(answer),
            }
        };
        let outcome = outcome.await;
        outcome.map_err(|error| error.at("redis", "compare_and_set"))
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
        let request = Request::Command(&get);
        let answer = self.read_at(0, may_lag, request, self.until()).await;
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
        }
        let hash = self.note_keys(keys);
        let answer = self.write_surely(hash, Request::Command(&unlink), self.until());
        let answer = answer.await;
        self.note_keys(keys);
        let deleted = reply::int(answer).map_err(|error| error.at("redis", "delete_many"))?;
        Ok(u64::try_from(deleted).unwrap_or(0))
    }

    fn history(&self) -> u64 {
        self.inner.history.number()
    }

    async fn learn_history(&self) {
        let history = &self.inner.history;
        let Some(ticket) = history.turn() else { return };
        let question = history::question();
        let request = Request::Command(&question);
        let answer = self.leader(0).call(request, self.until()).await;
        history.told(ticket, answer.ok());
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
