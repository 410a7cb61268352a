//! A table of a database: SQLite, PostgreSQL, MySQL or MariaDB.
//!
//! # Invariants
//!
//! - A row is live if `expires` is null or greater than the present: the same condition in every
//!   statement. The present is the server's, or for SQLite this process's.
//! - `add`, `incr`, `touch`, `set` and `compare_and_set` are one statement each, and atomic by it. No transaction is
//!   left open between two calls.
//! - No statement touches more than some thousand rows, none counts the table on the caller's way,
//!   and expired rows are removed behind the caller's back.
//! - What may have run is not sent again, unless running it twice comes to the same. So an `incr`,
//!   `add` or `compare_and_set` whose connection broke is an error; a `delete` is sent again, and may then say that
//!   nothing lived.
//! - What callers gave up ends on the server, too: the waits for locks there are as long as an
//!   operation.
//! - A connection whose statement did not come to its end is closed, not used again.
//!
//! Texts of statements are data: [`dialect`] has what sets the databases apart, [`statement`] fills
//! it in, [`engine`] runs it.

#[cfg(feature = "postgres")]
mod backplane;
mod batch;
mod builder;
mod dialect;
mod engine;
mod fault;
#[cfg(fuzzing)]
pub mod fuzzing;
#[cfg(feature = "mysql")]
mod mysql;
mod operations;
mod pool;
#[cfg(feature = "postgres")]
mod postgres;
mod row;
#[cfg(feature = "sqlite")]
mod sqlite;
mod statement;
mod sweep;
mod table;

#[cfg(feature = "postgres")]
pub use self::backplane::{PostgresBackplane, PostgresSubscription};
pub use self::builder::SqlBuilder;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::SystemTime;

use self::dialect::{Dialect, Statements};
use self::engine::{Engine, Reply};
use self::fault::{Class, Fault};
use self::row::MAX_TTL;
use self::statement::{Bind, Slot, Statement};
use self::sweep::Sweeper;
use super::deadline::Deadline;
use crate::clock::Clock;
use crate::error::{ErrorKind, Result};
use crate::key::Key;

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
/// writes a second. It reuses the room of what was removed, but does not shrink. Cloning shares the
/// store.
///
/// An `incr`, `add` or `compare_and_set` whose connection breaks is an error, and may have happened; reads and the
/// other writes are sent once more. A `set` that runs into its deadline may happen
/// later, or leave what it was to replace.
///
/// To speak TLS, turn on the feature `tls`, or another of the `tls-*` features of `sqlx` 0.9 in the application.
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
        self.check_text(key.as_str())
    }

    fn check_text(&self, text: &str) -> Result<()> {
        let dialect = self.inner.dialect;
        if text.len() > dialect.max_key_bytes || (!dialect.takes_nul && text.contains('\0')) {
            return Err(ErrorKind::InvalidKey.into());
        }
        Ok(())
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

#[cfg(test)]
mod tests;
