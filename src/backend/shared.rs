//! One connection that all tasks share, and that is made anew when it is lost.
//!
//! # Invariants
//!
//! - At most one attempt to connect is under way; it serves all who wait, and a caller that gives
//!   up does not stop it.
//! - After an attempt that failed, calls fail at once for [`PAUSE`].
//! - A connection counts as lost, too, when a call runs out of time that began after another had,
//!   and nothing was answered in between: its peer may be gone without a word.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout, timeout_at};

use crate::error::{Error, ErrorKind, Result};

/// Short, so that a server that is back is found soon.
const PAUSE: Duration = Duration::from_millis(50);

/// A connection of type `C`, when there is one.
#[derive(Debug)]
pub(super) struct Shared<C> {
    connect_timeout: Duration,
    /// Loaded without a write to memory that other threads read: all calls come this way.
    connection: ArcSwapOption<Numbered<C>>,
    /// How many calls in a row ran out of time.
    late: AtomicU64,
    connecting: Arc<Mutex<u64>>,
    failure: RwLock<Option<(Instant, Error)>>,
}

/// A connection, and which one since the start it is.
#[derive(Clone, Debug)]
struct Numbered<C> {
    number: u64,
    connection: C,
}

/// How a call over a connection failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: Error,
    /// Whether the connection is of no more use.
    pub(super) is_lost: bool,
}

impl<C: Clone + Send + Sync + 'static> Shared<C> {
    pub(super) fn new(connect_timeout: Duration) -> Arc<Self> {
        Arc::new(Self {
            connect_timeout,
            connection: ArcSwapOption::empty(),
            late: AtomicU64::new(0),
            connecting: Arc::default(),
            failure: RwLock::default(),
        })
    }

    /// The answer of `call` over the connection, which `connect` makes if there is none.
    pub(super) async fn call<T, Calling, Connecting>(
        self: &Arc<Self>,
        until: Instant,
        connect: impl FnOnce() -> Connecting,
        call: impl FnOnce(C) -> Calling,
    ) -> Result<T>
    where
        Calling: Future<Output = Result<T, Failure>>,
        Connecting: Future<Output = Result<C>> + Send + 'static,
    {
        let Numbered { number, connection } = match self.current() {
            Some(current) => current,
            // In a box, so that it takes no room in the futures of calls that need it not.
            None => timeout_at(until, Box::pin(self.connect(connect)))
                .await
                .unwrap_or_else(|_| Err(late()))?,
        };
        let was_late = self.late.load(Ordering::Relaxed) > 0;
        let outcome = match timeout_at(until, call(connection)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(failure)) if failure.is_lost => {
                self.retire(number);
                return Err(failure.error);
            }
            Ok(Err(failure)) => Err(failure.error),
            Err(_) => {
                let is_late = self.late.fetch_add(1, Ordering::Relaxed) > 0;
                if was_late && is_late {
                    self.retire(number);
                }
                return Err(late());
            }
        };
        if self.late.load(Ordering::Relaxed) > 0 {
            self.late.store(0, Ordering::Relaxed);
        }
        outcome
    }

    /// Whether there is a connection.
    #[cfg(feature = "redis")]
    pub(super) fn is_up(&self) -> bool {
        self.connection.load().is_some()
    }

    /// Whether a call would fail at once, because connecting just did.
    #[cfg(feature = "redis")]
    pub(super) fn is_down(&self) -> bool {
        !self.is_up() && self.recent_failure().is_some()
    }

    /// Lets go of the connection; the next call makes another.
    pub(super) fn close(&self) {
        self.connection.store(None);
    }

    fn current(&self) -> Option<Numbered<C>> {
        self.connection.load().as_deref().cloned()
    }

    async fn connect<Connecting>(
        self: &Arc<Self>,
        connect: impl FnOnce() -> Connecting,
    ) -> Result<Numbered<C>>
    where
        Connecting: Future<Output = Result<C>> + Send + 'static,
    {
        let mut turn = Arc::clone(&self.connecting).lock_owned().await;
        if let Some(current) = self.current() {
            return Ok(current);
        }
        if let Some(failure) = self.recent_failure() {
            return Err(failure);
        }
        let (shared, connecting) = (Arc::clone(self), connect());
        let task = tokio::spawn(async move {
            let outcome = timeout(shared.connect_timeout, connecting).await;
            *turn += 1;
            let connected = outcome
                .unwrap_or_else(|_| Err(late()))
                .map(|connection| Numbered {
                    number: *turn,
                    connection,
                });
            shared.settle(&connected);
            drop(turn);
            connected
        });
        task.await
            .unwrap_or_else(|error| Err(Error::new(ErrorKind::Unavailable).with_source(error)))
    }

    fn settle(&self, connected: &Result<Numbered<C>>) {
        match connected {
            Ok(connected) => {
                self.late.store(0, Ordering::Relaxed);
                self.connection.store(Some(Arc::new(connected.clone())));
            }
            Err(error) => {
                let failure = Some((Instant::now(), error.clone()));
                *self.failure.write().unwrap_or_else(PoisonError::into_inner) = failure;
            }
        }
    }

    /// Lets go of this connection, unless another has taken its place.
    fn retire(&self, number: u64) {
        self.connection.rcu(|current| {
            let current = current.clone();
            current.filter(|current| current.number != number)
        });
    }

    fn recent_failure(&self) -> Option<Error> {
        let failure = self.failure.read().unwrap_or_else(PoisonError::into_inner);
        let (at, error) = failure.as_ref()?;
        (at.elapsed() < PAUSE).then(|| error.clone())
    }
}

fn late() -> Error {
    ErrorKind::Timeout.into()
}
