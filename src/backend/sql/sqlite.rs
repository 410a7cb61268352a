//! SQLite: a file, in WAL mode. The time is that of this process.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::error::DatabaseError;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};

use super::dialect::{Dialect, on_conflict};
use super::engine::{Driver, Reply, Row, run};
use super::fault::{Class, Fault};
use super::statement::{Bind, Statement};
use crate::error::{Error, ErrorKind, Result};

/// How long SQLite itself waits for another process: it polls, blocks its thread and is not fair,
/// so that the rest of the waiting is better done here.
const BUSY_TIMEOUT: Duration = Duration::from_millis(5);

pub(super) const DIALECT: Dialect = Dialect {
    name: "sqlite",
    quote: '"',
    numbered: false,
    now: ":now",
    max_key_bytes: 1 << 20,
    takes_nul: true,
    has_schemas: false,
    max_value_bytes: 999_000_000,
    create: &[
        "CREATE TABLE IF NOT EXISTS {table} (\
         cache_key TEXT NOT NULL PRIMARY KEY, value BLOB, num INTEGER, expires INTEGER) STRICT",
        "CREATE INDEX IF NOT EXISTS {index} ON {table} (expires) WHERE expires IS NOT NULL",
    ],
    upsert: on_conflict::UPSERT,
    add: on_conflict::ADD,
    incr: on_conflict::INCR,
    rename: &["UPDATE OR REPLACE {table} SET cache_key = :to WHERE cache_key = :key AND {live}"],
    delete: "DELETE FROM {table} {rows}",
    remove_due: "DELETE FROM {table} WHERE rowid IN (SELECT rowid FROM {table} \
                 WHERE expires <= :due ORDER BY expires LIMIT :limit)",
    remove_permanent: "DELETE FROM {table} WHERE rowid IN (SELECT rowid FROM {table} \
                       WHERE expires IS NULL LIMIT :limit)",
};

pub(super) struct SqliteDriver {
    options: SqliteConnectOptions,
}

impl SqliteDriver {
    pub(super) fn at_url(url: &str) -> Result<Self> {
        if url.contains("mode=memory") {
            return Err(no_file());
        }
        let options = SqliteConnectOptions::from_str(url)
            .map_err(|error| Error::config("url: is no URL of SQLite").with_source(error))?;
        Self::with(options)
    }

    pub(super) fn at_path(path: &Path) -> Result<Self> {
        Self::with(SqliteConnectOptions::new().filename(path))
    }

    /// Each connection to a database in memory would have one of its own.
    fn with(options: SqliteConnectOptions) -> Result<Self> {
        let file = options.get_filename().to_string_lossy();
        if file.is_empty() || file == ":memory:" || file.starts_with("file:") {
            return Err(no_file());
        }
        let options = options
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(BUSY_TIMEOUT)
            .disable_statement_logging();
        Ok(Self { options })
    }
}

impl Driver for SqliteDriver {
    type Connection = SqliteConnection;

    async fn connect(&self) -> Result<SqliteConnection, Fault> {
        let connecting = self.options.connect().await;
        connecting.map_err(|error| Fault::of(error, read))
    }

    fn place(&self) -> String {
        self.options.get_filename().display().to_string()
    }

    async fn run<'a>(
        connection: &'a mut SqliteConnection,
        statement: &'a Statement,
        binds: &'a [Bind<'a>],
    ) -> Result<Reply, Fault> {
        run!(connection, statement, binds, read)
    }

    async fn run_text<'a>(
        connection: &'a mut SqliteConnection,
        text: &'a str,
    ) -> Result<(), Fault> {
        let run = sqlx::raw_sql(sqlx::AssertSqlSafe(text)).execute(connection);
        run.await.map(drop).map_err(|error| Fault::of(error, read))
    }
}

fn no_file() -> Error {
    Error::config("url: names no file; for a store in memory, there is `Memory`")
}

/// <https://sqlite.org/rescode.html>; the low byte of an extended code is the primary one.
fn read(error: &dyn DatabaseError) -> (Class, ErrorKind) {
    const BUSY: u32 = 5;
    const LOCKED: u32 = 6;
    const TOO_BIG: u32 = 18;
    let code = error.code().and_then(|code| code.parse::<u32>().ok());
    match code.map(|code| code & 0xff) {
        Some(BUSY | LOCKED) => (Class::Busy, ErrorKind::Unavailable),
        Some(TOO_BIG) => (Class::Final, ErrorKind::TooLarge),
        Some(1) if error.message().contains("no such table") => {
            (Class::NoTable, ErrorKind::Unavailable)
        }
        _ => (Class::Final, ErrorKind::Unavailable),
    }
}
