//! One connection that all tasks share, and that is made anew when it is lost.
//!
//! # Invariants
//!
//! - At most one attempt to connect is under way; it serves all who wait, and a caller that gives
//!   up does not stop it.
//! - After an attempt that failed, calls fail at once for [`PAUSE`], and from then on wait no longer
//!   than [`GRACE`] for the next, until one succeeds: a server that is away costs nobody time.
//! - A connection counts as lost, too, when a call goes without an answer that began after another
//!   had, and nothing was answered in between: its peer may be gone without a word. A call that
//!   its caller dropped counts, if it had waited for [`PATIENCE`].
//! - A call that was given to a connection just as it ended, and that nobody will answer, is noticed after
//!   [`PATIENCE`], too, and not at its deadline.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout, timeout_at};

use crate::error::{Error, ErrorKind, Result};

/// Short, so that a server that is back is found soon.
const PAUSE: Duration = Duration::from_millis(50);

/// Long enough for a connection on a network, and for nobody to notice.
const GRACE: Duration = Duration::from_millis(25);

/// A server that is well answers sooner.
const PATIENCE: Duration = Duration::from_millis(100);

/// Nobody waits longer, whatever the settings say.
const LONGEST: Duration = Duration::from_secs(86_400);

/// A timeout of the settings, at most a day.
///
/// # Errors
///
/// [`ErrorKind::Config`] if it is zero.
pub(super) fn timeout_of(option: &str, timeout: Duration) -> Result<Duration> {
    if timeout.is_zero() {
        return Err(Error::config(format!("{option}: must be more than zero")));
    }
    Ok(timeout.min(LONGEST))
}

/// What [`Shared`] holds.
pub(super) trait Connected: Clone + Send + Sync + 'static {
    /// How the connection ended, if it did. Who hands over a request at that moment may find nobody
    /// to take it, and nobody to say so.
    fn ended(&self) -> Option<Failure>;
}

/// A connection of type `C`, when there is one.
#[derive(Debug)]
pub(super) struct Shared<C> {
    connect_timeout: Duration,
    /// Loaded without a write to memory that other threads read: all calls come this way.
    current: ArcSwapOption<Numbered<C>>,
    /// How many calls in a row went without an answer.
    late: AtomicU64,
    connecting: Arc<Mutex<u64>>,
    failure: RwLock<Option<(Instant, Error)>>,
}

/// A connection, and which one since the start it is.
#[derive(Debug)]
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

impl<C: Connected> Shared<C> {
    pub(super) fn new(connect_timeout: Duration) -> Arc<Self> {
        Arc::new(Self {
            connect_timeout,
            current: ArcSwapOption::empty(),
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
        let numbered = match self.current.load_full() {
            Some(current) => current,
            // In a box, so that it takes no room in the futures of calls that need it not.
            None => Box::pin(self.connect(until, connect)).await?,
        };
        let Numbered { number, connection } = &*numbered;
        let unanswered = Unanswered {
            shared: self,
            number: *number,
            was_late: self.late.load(Ordering::Relaxed) > 0,
            since: Instant::now(),
        };
        let answered = answer_of(call(connection.clone()), connection, until).await;
        let Some(outcome) = answered else {
            unanswered
                .shared
                .went_unanswered(*number, unanswered.was_late);
            unanswered.forget();
            return Err(late());
        };
        unanswered.forget();
        if self.late.load(Ordering::Relaxed) > 0 {
            self.late.store(0, Ordering::Relaxed);
        }
        outcome.map_err(|failure| {
            if failure.is_lost {
                self.retire(*number);
            }
            failure.error
        })
    }

    /// Whether there is a connection.
    #[cfg(feature = "redis")]
    pub(super) fn is_up(&self) -> bool {
        self.current.load().is_some()
    }

    /// Whether a call would fail at once: connecting just did, or is not done since it did.
    #[cfg(feature = "redis")]
    pub(super) fn is_down(&self) -> bool {
        let known = self.failure();
        let is_recent = |at: Instant| at.elapsed() < PAUSE;
        known.is_some_and(|(at, _)| is_recent(at) || self.connecting.try_lock().is_err())
    }

    /// Lets go of the connection; the next call makes another.
    pub(super) fn close(&self) {
        self.current.store(None);
    }

    async fn connect<Connecting>(
        self: &Arc<Self>,
        until: Instant,
        connect: impl FnOnce() -> Connecting,
    ) -> Result<Arc<Numbered<C>>>
    where
        Connecting: Future<Output = Result<C>> + Send + 'static,
    {
        let (until, missed) = match self.failure() {
            Some((at, failure)) if at.elapsed() < PAUSE => return Err(failure),
            Some((_, failure)) => (until.min(Instant::now() + GRACE), failure),
            None => (until, late()),
        };
        let connected = timeout_at(until, self.connect_in_turn(connect)).await;
        connected.unwrap_or(Err(missed))
    }

    async fn connect_in_turn<Connecting>(
        self: &Arc<Self>,
        connect: impl FnOnce() -> Connecting,
    ) -> Result<Arc<Numbered<C>>>
    where
        Connecting: Future<Output = Result<C>> + Send + 'static,
    {
        let mut turn = Arc::clone(&self.connecting).lock_owned().await;
        if let Some(current) = self.current.load_full() {
            return Ok(current);
        }
        match self.failure() {
            Some((at, failure)) if at.elapsed() < PAUSE => return Err(failure),
            _ => {}
        }
        let (shared, connecting) = (Arc::clone(self), connect());
        let task = tokio::spawn(async move {
            let outcome = timeout(shared.connect_timeout, connecting).await;
            *turn += 1;
            let connected = outcome
                .unwrap_or_else(|_| Err(late().with_message("connecting took too long")))
                .map(|connection| {
                    Arc::new(Numbered {
                        number: *turn,
                        connection,
                    })
                });
            shared.settle(&connected);
            drop(turn);
            connected
        });
        task.await
            .unwrap_or_else(|error| Err(Error::new(ErrorKind::Unavailable).with_source(error)))
    }

    fn settle(&self, connected: &Result<Arc<Numbered<C>>>) {
        let failure = match connected {
            Ok(connected) => {
                self.late.store(0, Ordering::Relaxed);
                self.current.store(Some(Arc::clone(connected)));
                None
            }
            Err(error) => Some((Instant::now(), error.clone())),
        };
        *self.failure.write().unwrap_or_else(PoisonError::into_inner) = failure;
    }

    /// Lets go of this connection, unless another has taken its place.
    fn retire(&self, number: u64) {
        self.current.rcu(|current| {
            let current = current.clone();
            current.filter(|current| current.number != number)
        });
    }

    /// When the last attempt to connect failed, and how, if no other succeeded since.
    fn failure(&self) -> Option<(Instant, Error)> {
        let failure = self.failure.read().unwrap_or_else(PoisonError::into_inner);
        failure.clone()
    }

    fn went_unanswered(&self, number: u64, was_late: bool) {
        let is_late = self.late.fetch_add(1, Ordering::Relaxed) > 0;
        if was_late && is_late {
            self.retire(number);
        }
    }
}

/// A call that has no answer yet.
struct Unanswered<'a, C: Connected> {
    shared: &'a Shared<C>,
    number: u64,
    /// Whether another call was late when this one began.
    was_late: bool,
    since: Instant,
}

impl<C: Connected> Unanswered<'_, C> {
    /// It was answered, or counted.
    fn forget(self) {
        std::mem::forget(self);
    }
}

impl<C: Connected> Drop for Unanswered<'_, C> {
    fn drop(&mut self) {
        if self.since.elapsed() >= PATIENCE {
            self.shared.went_unanswered(self.number, self.was_late);
        }
    }
}

/// The outcome of a call over this connection, or `None` if there is none by `until`.
async fn answer_of<T>(
    calling: impl Future<Output = Result<T, Failure>>,
    connection: &impl Connected,
    until: Instant,
) -> Option<Result<T, Failure>> {
    let mut calling = pin!(calling);
    loop {
        let look = until.min(Instant::now() + PATIENCE);
        if let Ok(outcome) = timeout_at(look, calling.as_mut()).await {
            return Some(outcome);
        }
        if let Some(failure) = connection.ended() {
            return Some(Err(failure));
        }
        if look == until {
            return None;
        }
    }
}

fn late() -> Error {
    ErrorKind::Timeout.into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use std::future::{pending, ready};
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[derive(Clone, Debug, Default)]
    struct Line(Arc<AtomicBool>);

    impl Connected for Line {
        fn ended(&self) -> Option<Failure> {
            self.0.load(Ordering::Relaxed).then(|| Failure {
                error: ErrorKind::Unavailable.into(),
                is_lost: true,
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_forgotten_by_a_connection_that_ended_waits_no_longer() {
        let shared: Arc<Shared<Line>> = Shared::new(Duration::from_secs(1));
        let made = Arc::new(AtomicU64::new(0));
        let connect = || {
            made.fetch_add(1, Ordering::Relaxed);
            ready(Ok(Line::default()))
        };
        let until = || Instant::now() + Duration::from_secs(5);
        // Slow, and not forgotten.
        let slow = |_| async {
            tokio::time::sleep(PATIENCE * 5 / 2).await;
            Ok::<_, Failure>(1)
        };
        assert_eq!(shared.call(until(), connect, slow).await.unwrap(), 1);
        let start = Instant::now();
        let forgotten = |line: Line| {
            line.0.store(true, Ordering::Relaxed);
            pending::<Result<i32, Failure>>()
        };
        let error = shared.call(until(), connect, forgotten).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(start.elapsed() <= PATIENCE * 2, "{:?}", start.elapsed());
        assert_eq!(made.load(Ordering::Relaxed), 1);
        let next = |_| ready(Ok::<_, Failure>(2));
        assert_eq!(shared.call(until(), connect, next).await.unwrap(), 2);
        assert_eq!(
            made.load(Ordering::Relaxed),
            2,
            "the lost one is used again"
        );
    }
}
