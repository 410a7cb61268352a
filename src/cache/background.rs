//! The work that a cache does for nobody in particular: refreshes, and computations whose callers
//! have gone.
//!
//! # Invariants
//!
//! - There are at most so many refreshes at a time; what is over that is left to the next reader.
//! - Whoever closes the cache waits for what is under way, for a while, and no task goes on after
//!   that.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

#[derive(Debug)]
pub(super) struct Background {
    tasks: Mutex<JoinSet<()>>,
    refreshes: Arc<Semaphore>,
    drain_timeout: Duration,
}

impl Background {
    pub(super) fn new(max_refreshes: usize, drain_timeout: Duration) -> Self {
        Self {
            tasks: Mutex::default(),
            refreshes: Arc::new(Semaphore::new(max_refreshes.min(Semaphore::MAX_PERMITS))),
            drain_timeout,
        }
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
        let mut tasks = self.tasks();
        // Those that have ended are forgotten here, so that the set does not grow.
        while tasks.try_join_next().is_some() {}
        tasks.spawn_on(task, &runtime);
        true
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
