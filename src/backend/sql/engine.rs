//! Running statements: one connection each, tried again where that is right.

use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::time::Duration;

use sqlx::Connection;
use tokio::sync::Semaphore;

use super::fault::{Class, Fault};
use super::pool::Pool;
use super::statement::{Bind, Statement};
use crate::error::ErrorKind;

/// The longest pause before a statement that met another transaction is tried again.
const MAX_PAUSE: Duration = Duration::from_millis(16);

/// How often a table is tried to be made while others make it.
const MAX_MAKING: u32 = 200;

/// How long the server itself lets a statement go on, so that those whose callers gave up do not
/// pile up there.
#[derive(Clone, Copy, Debug)]
#[allow(dead_code, reason = "SQLite has no server")]
pub(super) struct Limits {
    /// For the locks of others.
    pub(super) wait: Duration,
    /// In all.
    pub(super) run: Duration,
}

/// What a statement answered.
#[derive(Debug, Default)]
pub(super) struct Reply {
    pub(super) rows: Vec<Row>,
    /// How many rows it changed, or found in order to change.
    pub(super) changed: u64,
    /// What `LAST_INSERT_ID` was set to, where there is such a thing.
    pub(super) last_id: i64,
}

/// Columns by position, since no statement has others: number, value, key.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) num: Option<i64>,
    pub(super) value: Option<Vec<u8>>,
    pub(super) key: Option<String>,
}

/// One database: how to connect, send and read. What the drivers do not share.
pub(super) trait Driver: Send + Sync + 'static {
    type Connection: Connection;

    fn connect(&self) -> impl Future<Output = Result<Self::Connection, Fault>> + Send;

    /// Where the database is, without user or password.
    fn place(&self) -> String;

    fn run<'a>(
        connection: &'a mut Self::Connection,
        statement: &'a Statement,
        binds: &'a [Bind<'a>],
    ) -> impl Future<Output = Result<Reply, Fault>> + Send + 'a;

    fn run_text<'a>(
        connection: &'a mut Self::Connection,
        text: &'a str,
    ) -> impl Future<Output = Result<(), Fault>> + Send + 'a;

    /// Whether the server is known to refuse that many bytes. Some break the connection instead
    /// of saying so.
    fn refuses(&self, _binds: &[Bind<'_>]) -> bool {
        false
    }
}

type Running<'a, T> = Pin<Box<dyn Future<Output = Result<T, Fault>> + Send + 'a>>;

/// A database of any kind, behind its pool.
pub(super) trait Engine: Send + Sync + 'static {
    fn run<'a>(&'a self, statement: &'a Statement, binds: &'a [Bind<'a>]) -> Running<'a, Reply>;

    /// Runs statements in one transaction, and takes it back if the first changes nothing. What
    /// the first replied.
    fn run_all<'a>(&'a self, steps: &'a [Step<'a>]) -> Running<'a, Reply>;

    /// Runs texts without places.
    fn run_texts<'a>(&'a self, texts: &'a [String]) -> Running<'a, ()>;

    /// Closes the idle connections.
    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;

    fn place(&self) -> String;
}

pub(super) type Step<'a> = (&'a Statement, Vec<Bind<'a>>);

/// A [`Driver`] and its connections.
pub(super) struct Pooled<D: Driver> {
    driver: D,
    pool: Pool<D::Connection>,
    connect_timeout: Duration,
    /// One at a time, where the database takes one writer at a time and does not queue them.
    writer: Option<Semaphore>,
}

enum Work<'a> {
    One(&'a Statement, &'a [Bind<'a>]),
    All(&'a [Step<'a>]),
    Texts(&'a [String]),
}

impl Work<'_> {
    fn writes(&self) -> bool {
        match self {
            Self::One(statement, _) => statement.writes,
            Self::All(_) | Self::Texts(_) => true,
        }
    }

    fn is_repeatable(&self) -> bool {
        match self {
            Self::One(statement, _) => statement.repeatable,
            Self::All(_) => false,
            Self::Texts(_) => true,
        }
    }
}

impl<D: Driver> Pooled<D> {
    pub(super) fn new(
        driver: D,
        max_connections: usize,
        connect_timeout: Duration,
        one_writer: bool,
    ) -> Self {
        Self {
            driver,
            pool: Pool::new(max_connections),
            connect_timeout,
            writer: one_writer.then(|| Semaphore::new(1)),
        }
    }

    /// Tries until it works or trying again would be wrong. The caller's deadline ends it.
    async fn work(&self, work: Work<'_>) -> Result<Reply, Fault> {
        let _turn = match &self.writer {
            Some(writer) if work.writes() => writer.acquire().await.ok(),
            _ => None,
        };
        let mut attempts = 0;
        let mut broken = false;
        loop {
            let fault = match self.attempt(&work).await {
                Ok(reply) => return Ok(reply),
                Err(fault) => fault,
            };
            match fault.class {
                // What makes tables may be in the way of something that stays.
                Class::Busy if attempts > MAX_MAKING && matches!(work, Work::Texts(_)) => {
                    return Err(fault);
                }
                Class::Busy => pause(&mut attempts).await,
                Class::Broken if work.is_repeatable() && !broken => broken = true,
                _ => return Err(fault),
            }
        }
    }

    async fn attempt(&self, work: &Work<'_>) -> Result<Reply, Fault> {
        let (mut lease, idle) = self.pool.lease().await;
        let mut connection = match idle {
            Some((connection, false)) => connection,
            Some((mut connection, true)) => {
                // One whose peer is gone without a word must not use up the caller's time.
                let ping = tokio::time::timeout(self.connect_timeout / 4, connection.ping());
                if !matches!(ping.await, Ok(Ok(()))) {
                    lease.renew();
                    connection = self.connect().await?;
                }
                connection
            }
            None => self.connect().await?,
        };
        match self.send(&mut connection, work).await {
            Ok(reply) => {
                lease.give_back(connection);
                Ok(reply)
            }
            Err(fault) => {
                match fault.class {
                    Class::Broken => lease.broke(),
                    Class::Busy | Class::NoTable if !matches!(work, Work::All(_)) => {
                        lease.give_back(connection);
                    }
                    _ => drop(connection),
                }
                Err(fault)
            }
        }
    }

    async fn connect(&self) -> Result<D::Connection, Fault> {
        let connecting = tokio::time::timeout(self.connect_timeout, self.driver.connect());
        match connecting.await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(mut fault)) => {
                if fault.class != Class::Busy {
                    fault.class = Class::Unreachable;
                }
                Err(fault)
            }
            Err(_) => Err(Fault::new(Class::Unreachable, ErrorKind::Timeout)),
        }
    }

    async fn send(&self, connection: &mut D::Connection, work: &Work<'_>) -> Result<Reply, Fault> {
        match work {
            Work::One(statement, binds) => {
                if self.driver.refuses(binds) {
                    return Err(Fault::new(Class::Final, ErrorKind::TooLarge));
                }
                D::run(connection, statement, binds).await
            }
            Work::All(steps) => {
                D::run_text(connection, "BEGIN").await?;
                let mut first = None;
                for (statement, binds) in *steps {
                    let reply = D::run(connection, statement, binds).await?;
                    let nothing = first.is_none() && reply.changed == 0;
                    first.get_or_insert(reply);
                    if nothing {
                        break;
                    }
                }
                let end = match &first {
                    Some(reply) if reply.changed > 0 => "COMMIT",
                    _ => "ROLLBACK",
                };
                D::run_text(connection, end).await?;
                Ok(first.unwrap_or_default())
            }
            Work::Texts(texts) => {
                for text in *texts {
                    D::run_text(connection, text).await?;
                }
                Ok(Reply::default())
            }
        }
    }
}

impl<D: Driver> Engine for Pooled<D> {
    fn run<'a>(&'a self, statement: &'a Statement, binds: &'a [Bind<'a>]) -> Running<'a, Reply> {
        Box::pin(self.work(Work::One(statement, binds)))
    }

    fn run_all<'a>(&'a self, steps: &'a [Step<'a>]) -> Running<'a, Reply> {
        Box::pin(self.work(Work::All(steps)))
    }

    fn run_texts<'a>(&'a self, texts: &'a [String]) -> Running<'a, ()> {
        Box::pin(async { self.work(Work::Texts(texts)).await.map(drop) })
    }

    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {
            for connection in self.pool.take_idle() {
                let _ = connection.close().await;
            }
        })
    }

    fn place(&self) -> String {
        self.driver.place()
    }
}

impl fmt::Debug for dyn Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place())
    }
}

/// Waits for a while that grows, and differs from one to the next so that two do not meet again.
async fn pause(attempts: &mut u32) {
    *attempts = attempts.saturating_add(1);
    let most = MAX_PAUSE.min(Duration::from_micros(500) * (1 << (*attempts).min(10)));
    let most = u64::try_from(most.as_micros()).unwrap_or(u64::MAX);
    let micros = RandomState::new().hash_one(*attempts) % most;
    tokio::time::sleep(Duration::from_micros(micros)).await;
}

/// Sends a statement by one driver's own types: `sqlx` has no trait that has all of them. Keys are
/// text and there is no `LAST_INSERT_ID`, unless it says otherwise.
macro_rules! run {
    ($connection:ident, $statement:ident, $binds:ident, $read:ident) => {{
        let (key, no_id) = (str::to_owned, |_: &_| 0);
        crate::backend::sql::engine::run!(
            $connection,
            $statement,
            $binds,
            $read,
            key,
            String,
            no_id
        )
    }};
    ($connection:ident, $statement:ident, $binds:ident, $read:ident, $key:expr, $text:ty, $last_id:expr) => {{
        let text = sqlx::AssertSqlSafe(std::sync::Arc::clone(&$statement.text));
        let mut query = sqlx::query(text).persistent($statement.kept);
        for bind in $binds {
            query = match *bind {
                Bind::Key(key) => query.bind($key(key)),
                Bind::Bytes(bytes) => query.bind(bytes),
                Bind::Int(int) => query.bind(int),
            };
        }
        if $statement.has_rows {
            let rows = query.fetch_all(&mut *$connection).await;
            let mut reply = Reply::default();
            for row in rows.map_err(|error| Fault::of(error, $read))? {
                reply
                    .rows
                    .push(crate::backend::sql::engine::columns!(row, $read, $text));
            }
            Ok(reply)
        } else {
            let done = query.execute(&mut *$connection).await;
            let done = done.map_err(|error| Fault::of(error, $read))?;
            Ok(Reply {
                rows: Vec::new(),
                changed: done.rows_affected(),
                last_id: $last_id(&done),
            })
        }
    }};
}

macro_rules! columns {
    ($row:ident, $read:ident, $text:ty) => {{
        let columns = sqlx::Row::len(&$row);
        let failed = |error| Fault::of(error, $read);
        Row {
            num: sqlx::Row::try_get(&$row, 0).map_err(failed)?,
            value: match columns {
                1 => None,
                _ => sqlx::Row::try_get(&$row, 1).map_err(failed)?,
            },
            key: match columns {
                1 | 2 => None,
                _ => {
                    let key: Option<$text> = sqlx::Row::try_get(&$row, 2).map_err(failed)?;
                    key.and_then(|key| String::from_utf8(key.into()).ok())
                }
            },
        }
    }};
}

pub(super) use {columns, run};
