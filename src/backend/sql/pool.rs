//! Connections, kept for the next statement.
//!
//! # Why not the pool of the driver
//!
//! - That one retries a refused connection until its timeout, in steps of up to a fifth of it. A
//!   cache has to know at once that the database is away, and at once that it is back.
//! - It checks each connection by a round trip when it comes back, in a task of its own. Here one
//!   that served well is kept as it is, and one whose statement did not end, because it failed or
//!   its caller left, is closed.
//! - One that broke says the same of all that were idle then: after a restart of the server they
//!   are dropped together, and do not fail one statement each.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};

/// A connection that was idle for longer is checked before it is used.
const CHECK_AFTER: Duration = Duration::from_secs(1);

/// A connection that was idle for longer is closed.
const CLOSE_AFTER: Duration = Duration::from_secs(600);

pub(super) struct Pool<C> {
    /// Last in, first out, so that few are in use and the rest grow old.
    idle: Mutex<Vec<Idle<C>>>,
    permits: Semaphore,
    /// Goes up when a connection broke; those of an older one are not used again.
    generation: AtomicU64,
}

struct Idle<C> {
    connection: C,
    since: Instant,
    generation: u64,
}

/// The right to one connection. Whatever is not given back is closed.
pub(super) struct Lease<'a, C> {
    pool: &'a Pool<C>,
    generation: u64,
    _permit: SemaphorePermit<'a>,
}

impl<C> Pool<C> {
    pub(super) fn new(max_connections: usize) -> Self {
        Self {
            idle: Mutex::default(),
            permits: Semaphore::new(max_connections),
            generation: AtomicU64::new(0),
        }
    }

    /// Waits for the right to a connection; and one, if one is idle, and whether it has to be
    /// checked.
    pub(super) async fn lease(&self) -> (Lease<'_, C>, Option<(C, bool)>) {
        let permit = self
            .permits
            .acquire()
            .await
            .expect("the semaphore is never closed");
        let lease = Lease {
            pool: self,
            generation: self.generation.load(Ordering::Acquire),
            _permit: permit,
        };
        let idle = self.lock().pop();
        let idle = idle.filter(|idle| idle.generation == lease.generation);
        let idle = idle.map(|idle| (idle.connection, idle.since.elapsed() > CHECK_AFTER));
        (lease, idle)
    }

    /// Drops the connections that were idle when one broke.
    fn renew(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        drop(self.take_idle());
    }

    pub(super) fn take_idle(&self) -> Vec<C> {
        let idle = std::mem::take(&mut *self.lock());
        idle.into_iter().map(|idle| idle.connection).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Idle<C>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C> Lease<'_, C> {
    /// Keeps a connection whose statement came to its end.
    pub(super) fn give_back(self, connection: C) {
        if self.pool.generation.load(Ordering::Acquire) != self.generation {
            return;
        }
        let mut idle = self.pool.lock();
        let is_old = |oldest: &Idle<C>| oldest.since.elapsed() > CLOSE_AFTER;
        let old = idle.first().is_some_and(is_old).then(|| idle.remove(0));
        idle.push(Idle {
            connection,
            since: Instant::now(),
            generation: self.generation,
        });
        drop(idle);
        drop(old);
    }

    /// Says that an idle connection broke; what is opened now is of the time after.
    pub(super) fn renew(&mut self) {
        self.pool.renew();
        self.generation = self.pool.generation.load(Ordering::Acquire);
    }

    /// Says that the connection broke: those that were opened before are of no use.
    pub(super) fn broke(self) {
        if self.pool.generation.load(Ordering::Acquire) == self.generation {
            self.pool.renew();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_broken_connection_takes_the_idle_ones_along() {
        let pool = Pool::new(3);
        let (first, none) = pool.lease().await;
        assert!(none.is_none());
        let (second, _) = pool.lease().await;
        let (third, _) = pool.lease().await;
        first.give_back(1);
        second.broke();
        assert!(pool.take_idle().is_empty());
        third.give_back(3);
        assert!(pool.take_idle().is_empty(), "opened before the break");
        let (fourth, none) = pool.lease().await;
        assert!(none.is_none());
        fourth.give_back(4);
        assert_eq!(pool.take_idle(), [4]);
    }

    #[tokio::test]
    async fn what_is_not_given_back_makes_room() {
        let pool = Pool::<u8>::new(1);
        drop(pool.lease().await);
        let (lease, _) = pool.lease().await;
        lease.give_back(7);
        assert_eq!(
            pool.lease().await.1.map(|(connection, _)| connection),
            Some(7)
        );
    }
}
