//! Options of a database store.

use std::fmt;
#[cfg(feature = "sqlite")]
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::dialect::{Dialect, Statements};
use super::engine::{Driver, Engine, Pooled};
use super::sweep::Sweeper;
use super::table::TableName;
use super::{Inner, Sql};
use crate::backend::deadline::Deadline;
use crate::clock::{Clock, SystemClock};
use crate::error::{Error, Result};

/// The schemes of URLs, whether their database was compiled in or not.
const KNOWN: [&str; 5] = ["sqlite", "postgres", "postgresql", "mysql", "mariadb"];

/// Options of a [`Sql`] store. The name of a host is resolved anew for each connection.
#[derive(Clone)]
#[must_use = "a builder does nothing until it is built"]
pub struct SqlBuilder {
    url: String,
    /// Instead of the URL.
    #[cfg(feature = "sqlite")]
    path: Option<PathBuf>,
    table: Option<String>,
    max_connections: usize,
    connect_timeout: Duration,
    operation_timeout: Duration,
    create_table: bool,
    unlogged: bool,
    cull_interval: u64,
    cull_limit: u32,
    max_entries: Option<u64>,
    clock: Option<Arc<dyn Clock>>,
}

impl SqlBuilder {
    pub(super) fn at_url(url: String) -> Self {
        Self {
            url,
            #[cfg(feature = "sqlite")]
            path: None,
            table: None,
            max_connections: 8,
            connect_timeout: Duration::from_secs(1),
            operation_timeout: Duration::from_secs(2),
            create_table: false,
            unlogged: true,
            cull_interval: 1000,
            cull_limit: 1000,
            max_entries: None,
            clock: None,
        }
    }

    #[cfg(feature = "sqlite")]
    pub(super) fn at_path(path: PathBuf) -> Self {
        let mut builder = Self::at_url(String::new());
        builder.path = Some(path);
        builder
    }

    /// The table: `axum_cache` by default. Letters, digits and underscores; but for SQLite,
    /// perhaps after a schema (MySQL: database) and a dot. The schema has to exist.
    ///
    /// # Django
    ///
    /// `LOCATION`.
    pub fn table(mut self, name: impl Into<String>) -> Self {
        self.table = Some(name.into());
        self
    }

    /// The most connections open at a time: 8 by default. Of a SQLite file, one of them at a
    /// time writes.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections;
        self
    }

    /// The longest that opening a connection takes: 1 second by default. Part of the operation
    /// that needs it, and of its deadline.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// The deadline of each operation, of waiting for a connection to reading the answer:
    /// 2 seconds by default. A batch is one operation; of `clear` and `flush_store`, it is
    /// the deadline of each statement. Leave room for connecting, which an operation may have to do.
    pub fn operation_timeout(mut self, timeout: Duration) -> Self {
        self.operation_timeout = timeout;
        self
    }

    /// Whether an operation that finds no table makes it. Not by default: the user of the
    /// application need not have the right to.
    pub fn create_table(mut self, create: bool) -> Self {
        self.create_table = create;
        self
    }

    /// Whether PostgreSQL makes the table `UNLOGGED`, which is the default: writes take 0.75 of
    /// the time, a crash of the server empties the cache, and replicas do not have it. Of no
    /// meaning for a table that exists, and for other databases.
    pub fn unlogged(mut self, unlogged: bool) -> Self {
        self.unlogged = unlogged;
        self
    }

    /// After how many entries written this store [culls](Sql::cull) in the background: 1000 by
    /// default, and never if 0.
    pub fn cull_interval(mut self, writes: u64) -> Self {
        self.cull_interval = writes;
        self
    }

    /// The most rows that one statement removes when culling or clearing: 1000 by default. Culling
    /// takes fewer where they take long.
    pub fn cull_limit(mut self, rows: u32) -> Self {
        self.cull_limit = rows;
        self
    }

    /// How many entries culling leaves; those that would expire soonest go first. No limit by
    /// default. Between two culls there may be more.
    ///
    /// # Django
    ///
    /// `OPTIONS["MAX_ENTRIES"]`; there is no `CULL_FREQUENCY`, for no more goes than has to.
    pub fn max_entries(mut self, entries: u64) -> Self {
        self.max_entries = Some(entries);
        self
    }

    /// The clock that SQLite entries expire by; the system's by default. Servers have their own.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Makes the store. Opens no connection.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) for a URL that is none, a database that is not known
    /// or not compiled in, SQLite in memory, a bad table name, and options that are zero.
    pub fn build(self) -> Result<Sql> {
        let zero = [
            ("max_connections", self.max_connections == 0),
            ("connect_timeout", self.connect_timeout.is_zero()),
            ("operation_timeout", self.operation_timeout.as_millis() == 0),
            ("cull_limit", self.cull_limit == 0),
        ];
        if let Some((name, _)) = zero.iter().find(|(_, is_zero)| *is_zero) {
            return Err(Error::config(format!("{name}: is zero")));
        }
        if self.max_connections > tokio::sync::Semaphore::MAX_PERMITS {
            return Err(Error::config("max_connections: is too large"));
        }
        let table = self.table.as_deref().map(TableName::parse);
        let table = table.transpose()?.unwrap_or_default();
        let (dialect, engine) = self.engine()?;
        if table.has_schema() && !dialect.has_schemas {
            return Err(Error::config("table: has a schema, and SQLite has none"));
        }
        Ok(Sql {
            inner: Arc::new(Inner {
                dialect,
                engine,
                statements: Statements::new(dialect, &table, self.unlogged),
                deadline: Deadline(self.operation_timeout),
                clock: self.clock.unwrap_or_else(|| Arc::new(SystemClock::new())),
                creates_table: self.create_table,
                sweeper: Sweeper::new(self.cull_interval, self.cull_limit, self.max_entries),
            }),
        })
    }

    fn engine(&self) -> Result<(&'static Dialect, Box<dyn Engine>)> {
        #[cfg(feature = "sqlite")]
        if let Some(path) = &self.path {
            let driver = super::sqlite::SqliteDriver::at_path(path)?;
            return Ok((&super::sqlite::DIALECT, self.pooled(driver, true)));
        }
        let url = &self.url;
        match url.split_once(':').map_or("", |(scheme, _)| scheme) {
            #[cfg(feature = "sqlite")]
            "sqlite" => {
                let driver = super::sqlite::SqliteDriver::at_url(url)?;
                Ok((&super::sqlite::DIALECT, self.pooled(driver, true)))
            }
            #[cfg(feature = "postgres")]
            "postgres" | "postgresql" => {
                let driver = super::postgres::PostgresDriver::at_url(url, self.limits())?;
                Ok((&super::postgres::DIALECT, self.pooled(driver, false)))
            }
            #[cfg(feature = "mysql")]
            "mysql" | "mariadb" => {
                let driver = super::mysql::MySqlDriver::at_url(url, self.limits())?;
                Ok((&super::mysql::DIALECT, self.pooled(driver, false)))
            }
            known if KNOWN.contains(&known) => Err(Error::config(
                "url: needs the feature of axum-cache with the name of the database",
            )),
            _ => Err(Error::config(
                "url: does not begin with sqlite:, postgres:// or mysql://",
            )),
        }
    }

    #[cfg(any(feature = "postgres", feature = "mysql"))]
    fn limits(&self) -> super::engine::Limits {
        super::engine::Limits {
            wait: self.operation_timeout,
            run: self.operation_timeout.max(super::sweep::CULL_TIMEOUT),
        }
    }

    fn pooled<D: Driver>(&self, driver: D, one_writer: bool) -> Box<dyn Engine> {
        Box::new(Pooled::new(
            driver,
            self.max_connections,
            self.connect_timeout,
            one_writer,
        ))
    }
}

/// Shows no URL, which may hold a password.
impl fmt::Debug for SqlBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlBuilder")
            .field("table", &self.table)
            .field("max_connections", &self.max_connections)
            .field("connect_timeout", &self.connect_timeout)
            .field("operation_timeout", &self.operation_timeout)
            .field("max_entries", &self.max_entries)
            .finish_non_exhaustive()
    }
}
