//! The work that a cache does for nobody in particular: refreshes, and computations whose callers
//! have gone.
//!
//! # Invariants
//!
//! - There are at most so many refreshes at a time; what is over that is left to the next reader.
//! - There are at most so many computations at a time, refreshes included, if that is asked for; what is
//!   over that is not begun. One that is part of another needs no room of its own.
//! - Whoever closes the cache waits for what is under way, for a while, and no task goes on after
//!   that.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinSet;

#[derive(Debug)]
pub(super) struct Background {
    tasks: Mutex<JoinSet<()>>,
    refreshes: Arc<Semaphore>,
    computations: Option<Arc<Semaphore>>,
    drain_timeout: Duration,
}

/// The right to compute something, and whatever is a part of that. It is given back with its last clone.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    _permit: Option<Arc<OwnedSemaphorePermit>>,
}

impl Background {
    pub(super) fn new(
        max_refreshes: usize,
        max_computations: Option<usize>,
        drain_timeout: Duration,
    ) -> Self {
        let semaphore = |most: usize| Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
        Self {
            tasks: Mutex::default(),
            refreshes: semaphore(max_refreshes),
            computations: max_computations.map(semaphore),
            drain_timeout,
        }
    }

    /// The right to compute something, if there is room.
    pub(super) fn room(&self) -> Option<Room> {
        let permit = match &self.computations {
            Some(computations) => {
                let permit = Arc::clone(computations).try_acquire_owned().ok()?;
                Some(Arc::new(permit))
            }
            None => None,
        };
        Some(Room { _permit: permit })
    }

    /// Whether there may be no room to compute something.
    pub(super) fn limits_computations(&self) -> bool {
        self.computations.is_some()
    }

    /// The right to refresh something, if there is room.
    pub(super) fn refresh(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.refreshes).try_acquire_owned().ok()
    }

    /// Runs `task` to its end, whoever goes away. Without a runtime it is left undone: whether it
    /// was begun.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> bool {
        let Ok(runtime) = Handle::try_current() else {
            return false;
        };
        let (give, given) = oneshot::channel();
        {
            let mut tasks = self.tasks();
            // Those that have ended are forgotten here, so that the set does not grow.
            while tasks.try_join_next().is_some() {}
            let run = async move {
                let given: Result<Pin<Box<_>>, _> = given.await;
                if let Ok(task) = given {
                    task.await;
                }
            };
            tasks.spawn_on(run, &runtime);
        }
        // A runtime that shuts down drops what it is given at once, and what is dropped may begin a task of its own:
        // not while the tasks are locked.
        give.send(Box::pin(task)).is_ok()
    }

    /// Waits for all tasks, those included that they begin, and ends those that take too long.
    pub(super) async fn drain(&self) {
        let mut tasks = JoinSet::new();
        let all = async {
            loop {
                tasks = std::mem::take(&mut *self.tasks());
                if tasks.is_empty() {
                    return;
                }
                while tasks.join_next().await.is_some() {}
            }
        };
        if tokio::time::timeout(self.drain_timeout, all).await.is_err() {
            tasks.shutdown().await;
            let mut begun = std::mem::take(&mut *self.tasks());
            begun.shutdown().await;
        }
    }

    fn tasks(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
