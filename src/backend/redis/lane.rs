//! A shared connection to a server, to what sentinels name, or to a cluster.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bb8_redis::{RedisConnectionManager, bb8};
use futures_util::future::{FutureExt, select_ok};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::{ClusterClient, ClusterConfig};
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::RoutingInfo;
use redis::sentinel::SentinelClient;
use redis::{AsyncConnectionConfig, Client, Cmd, Pipeline, RedisError, RedisResult, Value, cmd};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use super::history::History;
use super::reply;
use crate::backend::shared::{Connected, Failure, Shared};
use crate::error::{Error, ErrorKind, Result};

/// Where connections come from.
#[derive(Clone)]
pub(super) enum Source {
    Server(Arc<Client>),
    /// Asks the sentinels anew for each connection, so that a failover is followed; all at once, so
    /// that one of them that hangs holds up nobody.
    Sentinels(Arc<[Mutex<SentinelClient>]>),
    /// With the longest that one node may take to answer.
    Cluster(Arc<ClusterClient>, Duration),
}

/// What one round trip asks for.
#[derive(Clone, Copy)]
pub(super) enum Request<'a> {
    Command(&'a Cmd),
    /// The answers come as an array, errors among them.
    Commands(&'a Pipeline),
    /// On a cluster, to these nodes.
    Routed(&'a Cmd, &'a RoutingInfo),
}

/// Where commands go.
pub(super) enum Lane {
    /// A connection of our own. The commands of all tasks are pipelined over it; nobody waits
    /// for anybody's answer.
    Own(Source, Arc<Shared<Connection>>, Option<Arc<History>>),
    /// A pool of the application's.
    Pool(bb8::Pool<RedisConnectionManager>),
}

#[derive(Clone)]
pub(super) enum Connection {
    Server(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Lane {
    pub(super) fn new(source: Source, connect_timeout: Duration) -> Self {
        Self::Own(source, Shared::new(connect_timeout), None)
    }

    /// The same, to a leader: each connection tells in which history its data is.
    pub(super) fn telling(self, history: &Arc<History>) -> Self {
        match self {
            Self::Own(source, shared, _) => Self::Own(source, shared, Some(Arc::clone(history))),
            Self::Pool(pool) => Self::Pool(pool),
        }
    }

    /// The answer to `request`, or a failure by `until`.
    pub(super) async fn call(&self, request: Request<'_>, until: Instant) -> Result<Value> {
        match self {
            Self::Own(source, shared, history) => {
                let connect = || connect(source.clone(), history.clone());
                let call = |connection: Connection| connection.send(request);
                shared.call(until, connect, call).await
            }
            Self::Pool(pool) => Box::pin(call_pooled(pool, request, until)).await,
        }
    }

    /// Whether a call would fail at once, because connecting just did.
    pub(super) fn is_down(&self) -> bool {
        matches!(self, Self::Own(_, shared, _) if shared.is_down())
    }

    /// Lets go of the connection; the next call makes another.
    pub(super) fn close(&self) {
        if let Self::Own(_, shared, _) = self {
            shared.close();
        }
    }
}

/// A connection; what it is to tell is known before anything else is asked over it.
async fn connect(source: Source, history: Option<Arc<History>>) -> Result<Connection> {
    let Some(history) = history else {
        return source.connect().await;
    };
    let ticket = history.ticket();
    let mut connection = source.connect().await?;
    if let Connection::Server(connection) = &mut connection {
        history.learn(ticket, connection).await?;
    }
    Ok(connection)
}

impl Source {
    async fn connect(self) -> Result<Connection> {
        // Calls and connecting have their own deadlines.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None);
        let connection = match self {
            Self::Server(client) => client
                .get_multiplexed_async_connection_with_config(&config)
                .await
                .map(Connection::Server),
            Self::Sentinels(clients) => {
                let asked = clients.iter().map(|client| {
                    Box::pin(async {
                        let mut client = client.lock().await;
                        client.get_async_connection_with_config(&config).await
                    })
                });
                let first = select_ok(asked).await;
                first.map(|(connection, _)| Connection::Server(connection))
            }
            Self::Cluster(client, timeout) => client
                .get_async_connection_with_config(
                    ClusterConfig::new().set_response_timeout(timeout),
                )
                .await
                .map(Connection::Cluster),
        };
        connection.map_err(reply::error)
    }
}

impl Connection {
    async fn send(self, request: Request<'_>) -> Result<Value, Failure> {
        let answer = match self {
            Self::Server(connection) => ask(connection, request).await,
            Self::Cluster(mut connection) => match request {
                Request::Routed(cmd, nodes) => {
                    Box::pin(connection.route_command(cmd.clone(), nodes.clone())).await
                }
                request => Box::pin(ask(connection, request)).await,
            },
        };
        answer.and_then(top_error).map_err(failure)
    }
}

impl Connected for Connection {
    fn ended(&self) -> Option<Failure> {
        match self {
            // A request that nobody waits for is not sent; over what has ended it fails at once.
            Self::Server(connection) => {
                let mut connection = connection.clone();
                let answer = connection.req_packed_command(&cmd("PING")).now_or_never()?;
                answer.err().map(failure)
            }
            // Its client has connections of its own.
            Self::Cluster(_) => None,
        }
    }
}

fn failure(error: RedisError) -> Failure {
    Failure {
        is_lost: reply::is_lost(&error),
        error: reply::error(error),
    }
}

/// Errors within an array are for whoever sent the commands.
fn top_error(answer: Value) -> RedisResult<Value> {
    match answer {
        Value::ServerError(_) => answer.extract_error(),
        answer => Ok(answer),
    }
}

async fn ask(mut connection: impl ConnectionLike, request: Request<'_>) -> RedisResult<Value> {
    match request {
        Request::Command(cmd) | Request::Routed(cmd, _) => connection.req_packed_command(cmd).await,
        Request::Commands(pipeline) => connection
            .req_packed_commands(pipeline, 0, pipeline.len())
            .await
            .map(Value::Array),
    }
}

/// The connection is cloned out and given back at once: the commands of all tasks share it.
async fn call_pooled(
    pool: &bb8::Pool<RedisConnectionManager>,
    request: Request<'_>,
    until: Instant,
) -> Result<Value> {
    let answer = async {
        let connection = pool.get().await.map_err(pool_error)?.clone();
        let answer = Connection::Server(connection).send(request).await;
        answer.map_err(|failure| failure.error)
    };
    let answer = timeout_at(until, answer).await;
    answer.unwrap_or_else(|_| Err(ErrorKind::Timeout.into()))
}

fn pool_error(error: bb8::RunError<RedisError>) -> Error {
    match error {
        bb8::RunError::User(error) => reply::error(error),
        bb8::RunError::TimedOut => {
            Error::new(ErrorKind::Timeout).with_message("no connection became free in time")
        }
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, connected) = match self {
            Self::Own(Source::Server(_), shared, _) => ("server", shared.is_up()),
            Self::Own(Source::Sentinels(_), shared, _) => ("sentinel", shared.is_up()),
            Self::Own(Source::Cluster(..), shared, _) => ("cluster", shared.is_up()),
            Self::Pool(_) => ("pool", true),
        };
        f.debug_struct("Lane")
            .field("to", &kind)
            .field("connected", &connected)
            .finish()
    }
}
