//! A table of a database: SQLite, PostgreSQL, MySQL or MariaDB.
//!
//! # Invariants
//!
//! - A row is live if `expires` is null or greater than the present: the same condition in every
//!   statement. The present is the server's, or for SQLite this process's.
//! - `add`, `incr`, `touch` and `set` are one statement each, and atomic by it. No transaction is
//!   left open between two calls.
//! - No statement touches more than some thousand rows, none counts the table on the caller's way,
//!   and expired rows are removed behind the caller's back.
//! - What may have run is not sent again, unless running it twice comes to the same. So an `incr`
//!   or `add` whose connection broke is an error.
//! - A connection whose statement did not come to its end is closed, not used again.
//!
//! Texts of statements are data: [`dialect`] has what sets the databases apart, [`statement`] fills
//! it in, [`engine`] runs it.

mod batch;
mod builder;
mod dialect;
mod engine;
mod fault;
#[cfg(feature = "mysql")]
mod mysql;
mod pool;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "sqlite")]
mod sqlite;
mod statement;
mod sweep;
mod table;

pub use self::builder::SqlBuilder;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use self::dialect::{Dialect, Statements};
use self::engine::{Engine, Reply, Row};
use self::fault::{Class, Fault};
use self::statement::{Bind, Slot, Statement};
use self::sweep::Sweeper;
use super::deadline::Deadline;
use super::{Backend, Capabilities, parse_counter};
use crate::clock::Clock;
use crate::entry::Entry;
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::ttl::Lifetime;

/// The longest lifetime that is told from for ever: 73 million years.
const MAX_TTL: i64 = i64::MAX / 4;

/// How often `incr` looks again if the entry changes each time it looks why it could not.
const MAX_LOOKS: u32 = 4;

/// Entries in a table of SQLite, PostgreSQL, MySQL or MariaDB.
///
/// The table is made by [`create_table`](Self::create_table), once, or by the store itself if
/// [told so](SqlBuilder::create_table). Connections are the store's own: what it writes is not part
/// of the application's transactions, and is neither undone nor hidden by them. They are opened
/// when they are needed, so that a process starts though its database is down; and each operation,
/// waiting for a connection and opening it included, ends within the
/// [deadline](SqlBuilder::operation_timeout).
///
/// Lifetimes are exact to the millisecond, and measured by the clock of the server; SQLite has
/// none, and there the processes of the machine share the clock. Expired rows are removed in the
/// background. Keys have up to 250 bytes in MySQL, and 2,600 and no zero character in PostgreSQL;
/// keys that the [policy](crate::key::KeyPolicy) hashes fit everywhere.
///
/// A SQLite file has one writer at a time, on one machine: it suits many reads and some thousand
/// writes a second. Cloning shares the store.
///
/// To speak TLS, turn on one of the `tls-*` features of `sqlx` 0.9 in the application.
///
/// # Django
///
/// `DatabaseCache`. Values are stored as they are instead of as Base64; there is no count of the
/// table at each write; what goes when [`max_entries`](SqlBuilder::max_entries) is reached is what
/// would expire soonest, not what comes first in the alphabet; and routers are not asked: give each
/// store its own URL.
///
/// # Example
///
/// ```no_run
/// # #[cfg(feature = "sqlite")]
/// # async fn run() -> axum_cache::Result<()> {
/// use axum_cache::{Cache, backend::Sql};
///
/// let store = Sql::builder("sqlite:///var/lib/app/cache.db").build()?;
/// store.create_table().await?;
/// let cache = Cache::new(store);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Sql {
    inner: Arc<Inner>,
}

struct Inner {
    dialect: &'static Dialect,
    engine: Box<dyn Engine>,
    statements: Statements,
    deadline: Deadline,
    clock: Arc<dyn Clock>,
    creates_table: bool,
    sweeper: Sweeper,
}

impl Sql {
    /// The table `axum_cache` of the database at `url`, with the defaults. Opens nothing yet.
    ///
    /// # Errors
    ///
    /// As of [`SqlBuilder::build`].
    pub fn connect(url: impl Into<String>) -> Result<Self> {
        Self::builder(url).build()
    }

    /// Sets options first. The scheme of the URL says which database: `sqlite`, `postgres` or
    /// `postgresql`, `mysql` or `mariadb`.
    pub fn builder(url: impl Into<String>) -> SqlBuilder {
        SqlBuilder::at_url(url.into())
    }

    /// A SQLite file, made if it is missing; sets options first.
    #[cfg(feature = "sqlite")]
    pub fn sqlite(path: impl Into<std::path::PathBuf>) -> SqlBuilder {
        SqlBuilder::at_path(path.into())
    }

    /// Makes the table and its index, if they are missing. Two at once do not disturb each other.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] or [`ErrorKind::Timeout`], also if the user may not make tables.
    ///
    /// # Django
    ///
    /// `createcachetable`.
    pub async fn create_table(&self) -> Result<()> {
        self.within("create_table", self.make_table()).await
    }

    /// What [`create_table`](Self::create_table) would run, to be read or put into a migration.
    ///
    /// # Django
    ///
    /// `createcachetable --dry-run`.
    pub fn ddl(&self) -> String {
        let mut text = self.inner.statements.create.join(";\n");
        text.push(';');
        text
    }

    /// Removes expired rows, and what is over [`max_entries`](SqlBuilder::max_entries). How many.
    ///
    /// The store does this by itself [now and then](SqlBuilder::cull_interval). Each of its
    /// statements has the deadline of an operation.
    ///
    /// # Errors
    ///
    /// As of any operation.
    ///
    /// # Django
    ///
    /// What each write does first, if the table is full.
    pub async fn cull(&self) -> Result<u64> {
        self.sweep().await
    }

    async fn make_table(&self) -> Result<()> {
        let made = self.inner.engine.run_texts(&self.inner.statements.create);
        made.await.map_err(|fault| fault.error)
    }

    /// Bounds and names an operation.
    async fn within<T>(
        &self,
        operation: &'static str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let outcome = self.inner.deadline.run(work).await;
        outcome.map_err(|error| error.at(self.inner.dialect.name, operation))
    }

    async fn run<'a>(
        &self,
        statement: &Statement,
        bind: impl Fn(Slot, usize) -> Bind<'a>,
    ) -> Result<Reply> {
        let binds = self.binds(statement, bind);
        self.with_table(|| self.inner.engine.run(statement, &binds))
            .await
    }

    fn binds<'a>(
        &self,
        statement: &Statement,
        bind: impl Fn(Slot, usize) -> Bind<'a>,
    ) -> Vec<Bind<'a>> {
        let now = Bind::Int(Some(self.now()));
        statement.binds(|slot, time| match slot {
            Slot::Now => now,
            _ => bind(slot, time),
        })
    }

    /// Runs `work`, and again if the table is missing and may be made.
    async fn with_table<F>(&self, work: impl Fn() -> F) -> Result<Reply>
    where
        F: Future<Output = Result<Reply, Fault>>,
    {
        match work().await {
            Err(fault) if fault.class == Class::NoTable && self.inner.creates_table => {
                self.make_table().await?;
                work().await.map_err(|fault| fault.error)
            }
            outcome => outcome.map_err(|fault| fault.error),
        }
    }

    /// Milliseconds since the epoch, by the clock of this process.
    fn now(&self) -> i64 {
        let now = self.inner.clock.now();
        let since = now.duration_since(SystemTime::UNIX_EPOCH);
        i64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(MAX_TTL)
    }

    fn check(&self, key: &Key) -> Result<()> {
        let dialect = self.inner.dialect;
        let text = key.as_str();
        if text.len() > dialect.max_key_bytes || (!dialect.takes_nul && text.contains('\0')) {
            return Err(ErrorKind::InvalidKey.into());
        }
        Ok(())
    }

    async fn put(&self, statement: &Statement, key: &Key, row: &Stored<'_>) -> Result<Reply> {
        if row
            .value
            .is_some_and(|value| value.len() > self.inner.dialect.max_value_bytes)
        {
            return Err(ErrorKind::TooLarge.into());
        }
        let bind = |slot, _| match slot {
            Slot::Key => Bind::Key(key.as_str()),
            slot => row.bind(slot),
        };
        self.run(statement, bind).await
    }

    /// Stores an entry, or else tries to remove the one that it was to replace.
    async fn put_or_remove(&self, key: &Key, row: &Stored<'_>) -> Result<()> {
        match self.put(&self.inner.statements.set, key, row).await {
            Ok(_) => Ok(()),
            Err(error) => {
                let _ = self.run(&self.inner.statements.delete, only_key(key)).await;
                Err(error)
            }
        }
    }

    async fn add_up(&self, key: &Key, delta: i64) -> Result<i64> {
        let statements = &self.inner.statements;
        let low = i64::MIN.saturating_sub(delta.min(0));
        let high = i64::MAX.saturating_sub(delta.max(0));
        for _ in 0..MAX_LOOKS {
            let bind = |slot, _| match slot {
                Slot::Delta => Bind::Int(Some(delta)),
                Slot::Low => Bind::Int(Some(low)),
                Slot::High => Bind::Int(Some(high)),
                _ => Bind::Key(key.as_str()),
            };
            let reply = self.run(&statements.incr, bind).await?;
            if let Some(sum) = reply.rows.first().and_then(|row| row.num) {
                return Ok(sum);
            }
            if reply.changed > 0 {
                return Ok(reply.last_id);
            }
            let held = self.run(&statements.get, only_key(key)).await?;
            let row = held.rows.first().ok_or(ErrorKind::KeyMissing)?;
            let num = row.num.ok_or(ErrorKind::NotAnInteger)?;
            num.checked_add(delta).ok_or(ErrorKind::OutOfRange)?;
        }
        Err(Error::new(ErrorKind::Unavailable).with_message("entry changes all the time"))
    }

    async fn move_row(&self, from: &Key, to: &Key) -> Result<bool> {
        let statements = &self.inner.statements;
        if from.as_str() == to.as_str() {
            let found = self.run(&statements.ttl, only_key(from)).await?;
            return Ok(!found.rows.is_empty());
        }
        let bind = |slot, _| match slot {
            Slot::To => Bind::Key(to.as_str()),
            _ => Bind::Key(from.as_str()),
        };
        let steps: Vec<_> = statements
            .rename
            .iter()
            .map(|step| (step, self.binds(step, bind)))
            .collect();
        let moved = self.with_table(|| match steps.as_slice() {
            [(step, binds)] => self.inner.engine.run(step, binds),
            steps => self.inner.engine.run_all(steps),
        });
        Ok(moved.await?.changed > 0)
    }

    /// Removes the keys from `low` on and before `high`, page by page: what is written behind the
    /// page does not keep this from coming to an end.
    async fn clear_range(
        &self,
        operation: &'static str,
        low: &str,
        high: Option<&str>,
    ) -> Result<()> {
        let statements = &self.inner.statements;
        let mut low = low.to_owned();
        loop {
            let limit = self.inner.sweeper.limit();
            let bind = |slot, _| match slot {
                Slot::Low => Bind::Key(&low),
                Slot::Limit => Bind::Int(Some(limit)),
                _ => Bind::Key(high.unwrap_or_default()),
            };
            let page = match high {
                Some(_) => &statements.page,
                None => &statements.page_to_end,
            };
            let page = self.within(operation, self.run(page, bind)).await?;
            let next = page.rows.into_iter().next().and_then(|row| row.key);
            let end = next.as_deref().or(high);
            let delete = match end {
                Some(_) => &statements.delete_range,
                None => &statements.delete_to_end,
            };
            let bind = |slot, _| match slot {
                Slot::Low => Bind::Key(&low),
                _ => Bind::Key(end.unwrap_or_default()),
            };
            self.within(operation, self.run(delete, bind)).await?;
            match next {
                Some(next) => low = next,
                None => return Ok(()),
            }
        }
    }
}

/// Shows the database and where it is, without user and password.
impl fmt::Debug for Sql {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sql")
            .field("database", &self.inner.dialect.name)
            .field("at", &self.inner.engine)
            .field("deadline", &self.inner.deadline.0)
            .finish_non_exhaustive()
    }
}

impl Backend for Sql {
    fn name(&self) -> &'static str {
        self.inner.dialect.name
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new()
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        let work = async {
            self.check(key)?;
            let reply = self.run(&self.inner.statements.get, only_key(key)).await?;
            Ok(reply.rows.into_iter().next().map(entry))
        };
        self.within("get", work).await
    }

    async fn set(&self, key: &Key, entry: Entry, lifetime: Lifetime) -> Result<()> {
        let work = async {
            self.check(key)?;
            self.put_or_remove(key, &Stored::new(&entry, lifetime))
                .await
        };
        let outcome = self.within("set", work).await;
        self.wrote(1);
        outcome
    }

    async fn add(&self, key: &Key, entry: Entry, lifetime: Lifetime) -> Result<bool> {
        let work = async {
            self.check(key)?;
            let row = Stored::new(&entry, lifetime);
            let reply = self.put(&self.inner.statements.add, key, &row).await?;
            Ok(reply.changed > 0 && reply.last_id == 0)
        };
        let outcome = self.within("add", work).await;
        self.wrote(1);
        outcome
    }

    async fn touch(&self, key: &Key, lifetime: Lifetime) -> Result<bool> {
        let work = async {
            self.check(key)?;
            let ttl = milliseconds(lifetime);
            let bind = |slot, _| match slot {
                Slot::Ttl => Bind::Int(ttl),
                _ => Bind::Key(key.as_str()),
            };
            let reply = self.run(&self.inner.statements.touch, bind).await?;
            Ok(reply.changed > 0)
        };
        self.within("touch", work).await
    }

    async fn delete(&self, key: &Key) -> Result<bool> {
        let work = async {
            self.check(key)?;
            let reply = self.run(&self.inner.statements.delete, only_key(key));
            Ok(reply.await?.changed > 0)
        };
        self.within("delete", work).await
    }

    async fn incr(&self, key: &Key, delta: i64) -> Result<i64> {
        let work = async {
            self.check(key)?;
            self.add_up(key, delta).await
        };
        self.within("incr", work).await
    }

    async fn rename(&self, from: &Key, to: &Key) -> Result<bool> {
        let work = async {
            self.check(from)?;
            self.check(to)?;
            self.move_row(from, to).await
        };
        self.within("rename", work).await
    }

    async fn ttl(&self, key: &Key) -> Result<Option<Lifetime>> {
        let work = async {
            self.check(key)?;
            let reply = self.run(&self.inner.statements.ttl, only_key(key)).await?;
            Ok(reply.rows.first().map(|row| match row.num {
                None => Lifetime::Forever,
                Some(left) => Lifetime::For(Duration::from_millis(left.max(1).unsigned_abs())),
            }))
        };
        self.within("ttl", work).await
    }

    async fn contains(&self, key: &Key) -> Result<bool> {
        Ok(self.ttl(key).await?.is_some())
    }

    /// Each of its statements has the deadline of an operation.
    async fn clear(&self, namespace: &str) -> Result<()> {
        self.clear_range("clear", namespace, after(namespace).as_deref())
            .await
    }

    /// Deletes page by page: `TRUNCATE` would be faster, but needs other rights and keeps
    /// readers waiting.
    async fn flush_store(&self) -> Result<()> {
        self.clear_range("flush_store", "", None).await
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Entry>>> {
        self.within("get_many", self.read_batch(keys)).await
    }

    async fn set_many(&self, items: Vec<(Key, Entry, Lifetime)>) -> Result<Vec<Result<()>>> {
        let outcome = self.within("set_many", self.write_batch(&items)).await;
        self.wrote(items.len());
        outcome
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<u64> {
        self.within("delete_many", self.delete_batch(keys)).await
    }

    /// Closes the connections that are idle; later operations open new ones.
    async fn close(&self) -> Result<()> {
        let work = async {
            self.inner.engine.close().await;
            Ok(())
        };
        self.within("close", work).await
    }
}

/// An entry as a row holds it: a counter as a number, anything else as bytes.
struct Stored<'a> {
    value: Option<&'a [u8]>,
    num: Option<i64>,
    ttl: Option<i64>,
}

impl<'a> Stored<'a> {
    fn new(entry: &'a Entry, lifetime: Lifetime) -> Self {
        let num = parse_counter(entry.bytes()).ok();
        Self {
            value: num.is_none().then_some(&**entry.bytes()),
            num,
            ttl: milliseconds(lifetime),
        }
    }

    fn bind(&self, slot: Slot) -> Bind<'a> {
        match slot {
            Slot::Value => Bind::Bytes(self.value),
            Slot::Num => Bind::Int(self.num),
            _ => Bind::Int(self.ttl),
        }
    }
}

fn entry(row: Row) -> Entry {
    match (row.num, row.value) {
        (Some(num), _) => Entry::new(Bytes::from(num.to_string())),
        (None, value) => Entry::new(value.unwrap_or_default()),
    }
}

fn only_key<'a>(key: &'a Key) -> impl Fn(Slot, usize) -> Bind<'a> {
    |_, _| Bind::Key(key.as_str())
}

fn milliseconds(lifetime: Lifetime) -> Option<i64> {
    let millis = lifetime.in_units(Duration::from_millis(1))?;
    Some(i64::try_from(millis).unwrap_or(MAX_TTL).min(MAX_TTL))
}

/// The first text, in order of bytes, that comes after all that begin with `prefix`; none if
/// there is nothing after them.
fn after(prefix: &str) -> Option<String> {
    let mut text = prefix.to_owned();
    while let Some(last) = text.pop() {
        let mut above = (last..=char::MAX).skip(1);
        if let Some(next) = above.next() {
            text.push(next);
            return Some(text);
        }
    }
    None
}

#[cfg(test)]
mod tests;
