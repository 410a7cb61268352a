//! PostgreSQL: the time is that of the server.

use std::str::FromStr;

use sqlx::ConnectOptions;
use sqlx::error::DatabaseError;
use sqlx::postgres::{PgConnectOptions, PgConnection};

use super::dialect::{Dialect, on_conflict};
use super::engine::{Driver, Limits, Reply, Row, run};
use super::fault::{Class, Fault};
use super::statement::{Bind, Statement};
use crate::error::{Error, ErrorKind, Result};

pub(super) const DIALECT: Dialect = Dialect {
    name: "postgres",
    quote: '"',
    numbered: true,
    // The start of the statement: the planner knows that it does not change, and uses the index.
    now: "(extract(epoch FROM statement_timestamp()) * 1000)::bigint",
    // An index takes rows of up to 2704 bytes.
    max_key_bytes: 2600,
    takes_nul: false,
    has_schemas: true,
    max_value_bytes: 1 << 29,
    create: &[
        "CREATE {unlogged}TABLE IF NOT EXISTS {table} (\
         cache_key text COLLATE \"C\" PRIMARY KEY, value bytea, num bigint, expires bigint)",
        "CREATE INDEX IF NOT EXISTS {index} ON {table} (expires) WHERE expires IS NOT NULL",
    ],
    upsert: on_conflict::UPSERT,
    add: on_conflict::ADD,
    incr: on_conflict::INCR,
    rename: &[
        "WITH moved AS (DELETE FROM {table} WHERE cache_key = :key AND {live} \
         RETURNING value, num, expires) \
         INSERT INTO {table} (cache_key, value, num, expires) \
         SELECT :to, value, num, expires FROM moved ON CONFLICT (cache_key) DO UPDATE \
         SET value = excluded.value, num = excluded.num, expires = excluded.expires",
    ],
    delete: "DELETE FROM {table} WHERE cache_key IN (SELECT cache_key FROM {table} {rows} \
             ORDER BY cache_key FOR UPDATE)",
    remove_due: "DELETE FROM {table} WHERE ctid = ANY(ARRAY(SELECT ctid FROM {table} \
                 WHERE expires <= :due ORDER BY expires LIMIT :limit FOR UPDATE SKIP LOCKED))",
    remove_permanent: "DELETE FROM {table} WHERE ctid = ANY(ARRAY(SELECT ctid FROM {table} \
                       WHERE expires IS NULL LIMIT :limit FOR UPDATE SKIP LOCKED))",
};

pub(super) struct PostgresDriver {
    options: PgConnectOptions,
    limits: Limits,
}

impl PostgresDriver {
    pub(super) fn at_url(url: &str, limits: Limits) -> Result<Self> {
        let options = PgConnectOptions::from_str(url)
            .map_err(|error| Error::config("url: is no URL of PostgreSQL").with_source(error))?;
        Ok(Self {
            options: options.disable_statement_logging(),
            limits,
        })
    }
}

impl Driver for PostgresDriver {
    type Connection = PgConnection;

    async fn connect(&self) -> Result<PgConnection, Fault> {
        let connecting = self.options.connect().await;
        let mut connection = connecting.map_err(|error| Fault::of(error, read))?;
        // What nobody waits for any more must not wait for others for long.
        let limits = format!(
            "SET lock_timeout = {}; SET statement_timeout = {}",
            self.limits.wait.as_millis(),
            self.limits.run.as_millis()
        );
        Self::run_text(&mut connection, &limits).await?;
        Ok(connection)
    }

    fn place(&self) -> String {
        match self.options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => format!("{}:{}", self.options.get_host(), self.options.get_port()),
        }
    }

    async fn run<'a>(
        connection: &'a mut PgConnection,
        statement: &'a Statement,
        binds: &'a [Bind<'a>],
    ) -> Result<Reply, Fault> {
        run!(connection, statement, binds, read)
    }

    async fn run_text<'a>(connection: &'a mut PgConnection, text: &'a str) -> Result<(), Fault> {
        let run = sqlx::raw_sql(sqlx::AssertSqlSafe(text)).execute(connection);
        run.await.map(drop).map_err(|error| Fault::of(error, read))
    }
}

/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>
pub(super) fn read(error: &dyn DatabaseError) -> (Class, ErrorKind) {
    let code = error.code().unwrap_or_default();
    match &*code {
        // Serialization failure, deadlock, lock not available; and of two who make the table at
        // once, one fails: by a unique violation, a duplicate object, a duplicate table.
        "40001" | "40P01" | "55P03" | "23505" | "42710" | "42P07" => {
            (Class::Busy, ErrorKind::Unavailable)
        }
        "42P01" => (Class::NoTable, ErrorKind::Unavailable),
        "57P01" | "57P02" | "57P03" => (Class::Broken, ErrorKind::Unavailable),
        "54000" | "53200" => (Class::Final, ErrorKind::TooLarge),
        "57014" => (Class::Final, ErrorKind::Timeout),
        code if code.starts_with("08") => (Class::Broken, ErrorKind::Unavailable),
        _ => (Class::Final, ErrorKind::Unavailable),
    }
}
