//! One connection that all tasks share, and that is made anew when it is lost.
//!
//! # Invariants
//!
//! - At most one attempt to connect is under way; it serves all who wait, and a caller that gives
//!   up does not stop it.
//! - After an attempt that failed, calls fail at once for [`PAUSE`].
//! - A connection that answered nothing during the whole of a call that ran out of time counts as
//!   lost: its peer may be gone without a word.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, timeout, timeout_at};

use crate::error::{Error, ErrorKind, Result};

/// Short, so that a server that is back is found soon.
const PAUSE: Duration = Duration::from_millis(50);

/// A connection of type `C`, when there is one.
#[derive(Debug)]
pub(super) struct Shared<C> {
    connect_timeout: Duration,
    state: RwLock<State<C>>,
    connecting: Arc<Mutex<()>>,
}

#[derive(Debug)]
struct State<C> {
    link: Option<Arc<Link<C>>>,
    failure: Option<(Instant, Error)>,
}

/// One connection, until it is lost.
#[derive(Debug)]
struct Link<C> {
    connection: C,
    /// How often it answered.
    answers: AtomicU64,
}

/// How a call over a connection failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The connection is of no more use.
    Lost(Error),
    /// The connection is in order.
    Refused(Error),
}

impl<C: Clone + Send + Sync + 'static> Shared<C> {
    pub(super) fn new(connect_timeout: Duration) -> Arc<Self> {
        Arc::new(Self {
            connect_timeout,
            state: RwLock::new(State {
                link: None,
                failure: None,
            }),
            connecting: Arc::default(),
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
        let link = match self.link() {
            Some(link) => link,
            None => timeout_at(until, self.connect(connect))
                .await
                .unwrap_or_else(|_| Err(late()))?,
        };
        let before = link.answers.load(Ordering::Relaxed);
        match timeout_at(until, call(link.connection.clone())).await {
            Ok(Ok(answer)) => {
                link.answers.fetch_add(1, Ordering::Relaxed);
                Ok(answer)
            }
            Ok(Err(Failure::Refused(error))) => {
                link.answers.fetch_add(1, Ordering::Relaxed);
                Err(error)
            }
            Ok(Err(Failure::Lost(error))) => {
                self.retire(&link);
                Err(error)
            }
            Err(_) => {
                if link.answers.load(Ordering::Relaxed) == before {
                    self.retire(&link);
                }
                Err(late())
            }
        }
    }

    /// Whether there is a connection.
    pub(super) fn is_up(&self) -> bool {
        self.link().is_some()
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

    fn link(&self) -> Option<Arc<Link<C>>> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.link.clone()
    }

    fn write_state(&self) -> RwLockWriteGuard<'_, State<C>> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect<Connecting>(
        self: &Arc<Self>,
        connect: impl FnOnce() -> Connecting,
    ) -> Result<Arc<Link<C>>>
    where
        Connecting: Future<Output = Result<C>> + Send + 'static,
    {
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
        let (shared, connecting) = (Arc::clone(self), connect());
        let task = tokio::spawn(async move {
            let outcome = timeout(shared.connect_timeout, connecting).await;
            let outcome = outcome.unwrap_or_else(|_| Err(late()));
            let linked = shared.settle(outcome);
            drop(turn);
            linked
        });
        task.await
            .unwrap_or_else(|error| Err(Error::new(ErrorKind::Unavailable).with_source(error)))
    }

    fn settle(&self, outcome: Result<C>) -> Result<Arc<Link<C>>> {
        let mut state = self.write_state();
        match outcome {
            Ok(connection) => {
                let link = Arc::new(Link {
                    connection,
                    answers: AtomicU64::new(0),
                });
                state.link = Some(Arc::clone(&link));
                state.failure = None;
                Ok(link)
            }
            Err(error) => {
                state.failure = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    fn retire(&self, lost: &Arc<Link<C>>) {
        let mut state = self.write_state();
        let is_current = |link: &Arc<Link<C>>| Arc::ptr_eq(link, lost);
        if state.link.as_ref().is_some_and(is_current) {
            state.link = None;
        }
    }
}

impl<C> State<C> {
    fn recent_failure(&self) -> Option<Error> {
        let (at, error) = self.failure.as_ref()?;
        (at.elapsed() < PAUSE).then(|| error.clone())
    }
}

fn late() -> Error {
    ErrorKind::Timeout.into()
}
