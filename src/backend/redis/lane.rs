//! One connection that all tasks share, and that is made anew when it is lost.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bb8_redis::{RedisConnectionManager, bb8};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::{ClusterClient, ClusterConfig};
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::RoutingInfo;
use redis::sentinel::SentinelClient;
use redis::{AsyncConnectionConfig, Client, Cmd, Pipeline, RedisError, RedisResult, Value};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout, timeout_at};

use super::reply;
use crate::error::{Error, ErrorKind, Result};

/// After an attempt to connect that failed, calls fail at once for this long: one attempt serves
/// them all. Short, so that a server that is back is found soon.
const PAUSE: Duration = Duration::from_millis(50);

/// Where connections come from.
pub(super) enum Source {
    Server(Client),
    /// Asks the sentinels anew for each connection, so that a failover is followed.
    Sentinel(Box<Mutex<SentinelClient>>),
    Cluster(Box<ClusterClient>),
    Pool(bb8::Pool<RedisConnectionManager>),
}

/// What one round trip asks for.
#[derive(Clone)]
pub(super) enum Request<'a> {
    Command(&'a Cmd),
    /// The answers come as an array, errors among them.
    Commands(&'a Pipeline),
    /// On a cluster, to these nodes.
    Routed(&'a Cmd, RoutingInfo),
}

/// A shared connection.
///
/// Commands of all tasks are pipelined over it; nobody waits for anybody's answer. It is made at
/// the first call and again after it was lost, once for all callers, in a task of its own: a
/// caller that gives up does not stop it. A connection that answers nothing for the whole length
/// of a call that ran out of time counts as lost, too: its peer may be gone without a word.
pub(super) struct Lane {
    source: Source,
    connect_timeout: Duration,
    state: RwLock<State>,
    connecting: Arc<Mutex<()>>,
    start: Instant,
}

#[derive(Default)]
struct State {
    link: Option<Arc<Link>>,
    failure: Option<(Instant, Error)>,
}

struct Link {
    connection: Connection,
    /// When it last answered, in milliseconds since the lane's start.
    answered: AtomicU64,
}

#[derive(Clone)]
enum Connection {
    Server(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Lane {
    pub(super) fn new(source: Source, connect_timeout: Duration) -> Arc<Self> {
        Arc::new(Self {
            source,
            connect_timeout,
            state: RwLock::default(),
            connecting: Arc::default(),
            start: Instant::now(),
        })
    }

    /// The answer to `request`, or a failure by `until`.
    pub(super) async fn call(
        self: &Arc<Self>,
        request: Request<'_>,
        until: Instant,
    ) -> Result<Value> {
        if let Source::Pool(pool) = &self.source {
            let answer = async {
                // Cloned out and given back at once: the commands of all tasks share it.
                let connection = pool.get().await.map_err(pool_error)?.clone();
                let answer = Connection::Server(connection).send(request).await;
                answer.map_err(reply::error)
            };
            return timeout_at(until, answer)
                .await
                .unwrap_or_else(|_| Err(late()));
        }
        let link = match self.link() {
            Some(link) => link,
            None => timeout_at(until, self.connect())
                .await
                .unwrap_or_else(|_| Err(late()))?,
        };
        let asked = self.millis();
        let mut connection = link.connection.clone();
        match timeout_at(until, connection.send(request)).await {
            Ok(Ok(value)) => {
                link.answered.store(self.millis(), Ordering::Relaxed);
                Ok(value)
            }
            Ok(Err(error)) => {
                if reply::is_lost(&error) {
                    self.retire(&link);
                }
                Err(reply::error(error))
            }
            Err(_) => {
                if link.answered.load(Ordering::Relaxed) < asked {
                    self.retire(&link);
                }
                Err(late())
            }
        }
    }

    /// Whether a call would fail at once, because connecting just did.
    pub(super) fn is_down(&self) -> bool {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.link.is_none() && state.recent_failure().is_some()
    }

    /// Lets go of the connection; the next call makes another.
    pub(super) fn close(&self) {
        self.write_state().link = None;
    }

    fn link(&self) -> Option<Arc<Link>> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.link.clone()
    }

    fn write_state(&self) -> std::sync::RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect(self: &Arc<Self>) -> Result<Arc<Link>> {
        let turn = Arc::clone(&self.connecting).lock_owned().await;
        {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(link) = &state.link {
                return Ok(Arc::clone(link));
            }
            if let Some(failure) = state.recent_failure() {
                return Err(failure);
            }
        }
        let lane = Arc::clone(self);
        let connecting = tokio::spawn(async move {
            let outcome = match timeout(lane.connect_timeout, lane.source.connect()).await {
                Ok(outcome) => outcome.map_err(reply::error),
                Err(_) => Err(late().with_message("connecting took too long")),
            };
            let mut state = lane.write_state();
            let outcome = match outcome {
                Ok(connection) => {
                    let answered = AtomicU64::new(lane.millis());
                    let link = Arc::new(Link {
                        connection,
                        answered,
                    });
                    state.link = Some(Arc::clone(&link));
                    state.failure = None;
                    Ok(link)
                }
                Err(error) => {
                    state.failure = Some((Instant::now(), error.clone()));
                    Err(error)
                }
            };
            drop(state);
            drop(turn);
            outcome
        });
        connecting
            .await
            .unwrap_or_else(|error| Err(Error::new(ErrorKind::Unavailable).with_source(error)))
    }

    fn retire(&self, lost: &Arc<Link>) {
        let mut state = self.write_state();
        if state
            .link
            .as_ref()
            .is_some_and(|link| Arc::ptr_eq(link, lost))
        {
            state.link = None;
        }
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl State {
    fn recent_failure(&self) -> Option<Error> {
        let (at, error) = self.failure.as_ref()?;
        (at.elapsed() < PAUSE).then(|| error.clone())
    }
}

impl Source {
    async fn connect(&self) -> RedisResult<Connection> {
        // The call's own deadline covers the answer, and the lane's the connection.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None);
        match self {
            Self::Server(client) => client
                .get_multiplexed_async_connection_with_config(&config)
                .await
                .map(Connection::Server),
            Self::Sentinel(client) => {
                let mut client = client.lock().await;
                let connection = client.get_async_connection_with_config(&config).await?;
                Ok(Connection::Server(connection))
            }
            Self::Cluster(client) => client
                .get_async_connection_with_config(ClusterConfig::new())
                .await
                .map(Connection::Cluster),
            Self::Pool(_) => Err((redis::ErrorKind::Client, "a pool connects by itself").into()),
        }
    }
}

impl Connection {
    async fn send(&mut self, request: Request<'_>) -> RedisResult<Value> {
        match (self, request) {
            (Self::Server(connection), Request::Command(cmd) | Request::Routed(cmd, _)) => {
                connection.req_packed_command(cmd).await?.extract_error()
            }
            (Self::Cluster(connection), Request::Command(cmd)) => {
                connection.req_packed_command(cmd).await?.extract_error()
            }
            (Self::Cluster(connection), Request::Routed(cmd, routing)) => {
                let answer = connection.route_command(cmd.clone(), routing).await?;
                answer.extract_error()
            }
            (Self::Server(connection), Request::Commands(pipeline)) => connection
                .req_packed_commands(pipeline, 0, pipeline.len())
                .await
                .map(Value::Array),
            (Self::Cluster(connection), Request::Commands(pipeline)) => connection
                .req_packed_commands(pipeline, 0, pipeline.len())
                .await
                .map(Value::Array),
        }
    }
}

fn late() -> Error {
    ErrorKind::Timeout.into()
}

fn pool_error(error: bb8::RunError<RedisError>) -> Error {
    match error {
        bb8::RunError::User(error) => reply::error(error),
        bb8::RunError::TimedOut => late().with_message("no connection became free in time"),
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match &self.source {
            Source::Server(_) => "server",
            Source::Sentinel(_) => "sentinel",
            Source::Cluster(_) => "cluster",
            Source::Pool(_) => "pool",
        };
        f.debug_struct("Lane")
            .field("source", &source)
            .field("connected", &self.link().is_some())
            .finish_non_exhaustive()
    }
}
