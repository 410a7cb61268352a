//! MySQL and MariaDB: the time is that of the server.

use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::ConnectOptions;
use sqlx::error::DatabaseError;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlDatabaseError, MySqlQueryResult};

use super::dialect::Dialect;
use super::engine::{Driver, Limits, Reply, Row, run};
use super::fault::{Class, Fault};
use super::statement::{Bind, Statement};
use crate::error::{Error, ErrorKind, Result};

/// What a packet holds beside what is bound, at most.
const PACKET_OVERHEAD: usize = 32 << 10;

pub(super) const DIALECT: Dialect = Dialect {
    name: "mysql",
    quote: '`',
    numbered: false,
    now: "CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)",
    max_key_bytes: 250,
    takes_nul: true,
    has_schemas: true,
    max_value_bytes: 1 << 30,
    create: &["CREATE TABLE IF NOT EXISTS {table} (\
         cache_key VARBINARY(250) NOT NULL PRIMARY KEY, value LONGBLOB, num BIGINT, \
         expires BIGINT, INDEX {index} (expires)) ENGINE=InnoDB"],
    upsert: "ON DUPLICATE KEY UPDATE \
             value = VALUES(value), num = VALUES(num), expires = VALUES(expires)",
    // Assigned from left to right: `expires` is the last, since the others look at it. The number
    // of rows does not tell a row that was replaced from one that was left as it is.
    add: "ON DUPLICATE KEY UPDATE \
          value = IF(expires <= {now}, VALUES(value), value), \
          num = IF(expires <= {now}, VALUES(num), num), \
          expires = IF(expires <= {now}, VALUES(expires), IF(LAST_INSERT_ID(1) > 0, expires, expires))",
    incr: "UPDATE {table} SET num = CAST(LAST_INSERT_ID(num + :delta) AS SIGNED) \
           WHERE cache_key = :key AND {live} AND num BETWEEN :low AND :high",
    rename: &[
        "INSERT INTO {table} (cache_key, value, num, expires) \
         SELECT :to, held.value, held.num, held.expires FROM {table} AS held \
         WHERE held.cache_key = :key AND (held.expires IS NULL OR held.expires > {now}) FOR UPDATE \
         ON DUPLICATE KEY UPDATE \
         value = VALUES(value), num = VALUES(num), expires = VALUES(expires)",
        "DELETE FROM {table} WHERE cache_key = :key",
    ],
    delete: "DELETE FROM {table} {rows}",
    remove_due: "DELETE FROM {table} WHERE expires <= :due ORDER BY expires LIMIT :limit",
    remove_permanent: "DELETE FROM {table} WHERE expires IS NULL LIMIT :limit",
};

pub(super) struct MySqlDriver {
    options: MySqlConnectOptions,
    limits: Limits,
    /// `max_allowed_packet`, as of the last connection.
    max_packet: AtomicU64,
}

impl MySqlDriver {
    pub(super) fn at_url(url: &str, limits: Limits) -> Result<Self> {
        let options = MySqlConnectOptions::from_str(url)
            .map_err(|error| Error::config("url: is no URL of MySQL").with_source(error))?;
        // Whatever the URL says: the clock must not jump when summer ends.
        let options = options.timezone(Some("+00:00".to_owned()));
        Ok(Self {
            options: options.disable_statement_logging(),
            limits,
            max_packet: AtomicU64::new(u64::MAX),
        })
    }

    async fn open(&self) -> sqlx::Result<MySqlConnection> {
        let mut connection = self.options.connect().await?;
        // Without locks on the gaps between rows, upserts of different keys do not deadlock. A
        // server with `binlog_format=STATEMENT`, which is no default, does not take this.
        sqlx::raw_sql("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
            .execute(&mut connection)
            .await?;
        // What nobody waits for any more must not wait for others for long. No server has both of
        // the last two.
        let (wait, run) = (self.limits.wait.as_secs().max(1), self.limits.run.as_secs());
        let session = format!(
            "SET SESSION autocommit = 1, innodb_lock_wait_timeout = {wait}, \
             lock_wait_timeout = {wait}"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(session))
            .execute(&mut connection)
            .await?;
        for limit in [
            format!("SET SESSION max_statement_time = {run}"),
            format!("SET SESSION max_execution_time = {}", run * 1000),
        ] {
            let limit = sqlx::raw_sql(sqlx::AssertSqlSafe(limit));
            match limit.execute(&mut connection).await {
                Ok(_) | Err(sqlx::Error::Database(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let max_packet = sqlx::query_scalar("SELECT CAST(@@max_allowed_packet AS UNSIGNED)");
        let max_packet = max_packet.fetch_one(&mut connection).await?;
        self.max_packet.store(max_packet, Ordering::Relaxed);
        Ok(connection)
    }
}

impl Driver for MySqlDriver {
    type Connection = MySqlConnection;

    async fn connect(&self) -> Result<MySqlConnection, Fault> {
        self.open().await.map_err(|error| Fault::of(error, read))
    }

    fn place(&self) -> String {
        match self.options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => format!("{}:{}", self.options.get_host(), self.options.get_port()),
        }
    }

    async fn run<'a>(
        connection: &'a mut MySqlConnection,
        statement: &'a Statement,
        binds: &'a [Bind<'a>],
    ) -> Result<Reply, Fault> {
        let key = |key: &str| key.as_bytes().to_vec();
        let last_id = |done: &MySqlQueryResult| done.last_insert_id().cast_signed();
        run!(connection, statement, binds, read, key, Vec<u8>, last_id)
    }

    async fn run_text<'a>(connection: &'a mut MySqlConnection, text: &'a str) -> Result<(), Fault> {
        let run = sqlx::raw_sql(sqlx::AssertSqlSafe(text)).execute(connection);
        run.await.map(drop).map_err(|error| Fault::of(error, read))
    }

    fn refuses(&self, binds: &[Bind<'_>]) -> bool {
        let size: usize = binds.iter().map(Bind::size).sum();
        (size + PACKET_OVERHEAD) as u64 > self.max_packet.load(Ordering::Relaxed)
    }
}

/// <https://mariadb.com/kb/en/mariadb-error-codes/>; MySQL has the same.
fn read(error: &dyn DatabaseError) -> (Class, ErrorKind) {
    let number = error
        .try_downcast_ref::<MySqlDatabaseError>()
        .map(MySqlDatabaseError::number);
    match number {
        // Lock wait timeout, deadlock, table made by another at the same time.
        Some(1205 | 1213 | 1050) => (Class::Busy, ErrorKind::Unavailable),
        Some(1146) => (Class::NoTable, ErrorKind::Unavailable),
        // Shutdown, killed connection or statement.
        Some(1053 | 1077 | 1317 | 1927) => (Class::Broken, ErrorKind::Unavailable),
        // Packet too large, value longer than the column.
        Some(1153 | 1406) => (Class::Final, ErrorKind::TooLarge),
        // Statement took longer than the server allows.
        Some(1969 | 3024) => (Class::Final, ErrorKind::Timeout),
        _ => (Class::Final, ErrorKind::Unavailable),
    }
}
