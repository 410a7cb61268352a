//! Computations that failed a moment ago, so that each is not tried again at once by everyone.
//!
//! # Invariants
//!
//! - A failure is remembered by the process that met it, for the pause of its policy and no longer.
//! - The table is bounded: what does not fit is forgotten, and tried again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Cache;
use crate::error::{Error, ErrorKind};

/// The most failures that are remembered.
const MOST: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Failures {
    failed: Mutex<HashMap<String, Failure>>,
    /// How many there are, to look without a lock.
    count: AtomicUsize,
}

#[derive(Clone, Debug)]
pub(super) struct Failure {
    error: Error,
    /// Until when a stale value is served without another attempt.
    throttled_until: Duration,
    /// Until when the error is everyone's.
    backed_off_until: Duration,
}

impl Cache {
    /// Remembers for a while that something of this name, which is no key, could not be made.
    pub(crate) fn throttle(&self, name: &str, pause: Duration) {
        let (now, error) = (self.clock().monotonic(), ErrorKind::Compute.into());
        let failures = &self.shared.failures;
        failures.remember(&named(name), &error, now, pause, Duration::ZERO);
    }

    /// Whether it could not, a moment ago.
    pub(crate) fn is_throttled(&self, name: &str) -> bool {
        let failures = &self.shared.failures;
        let now = self.clock().monotonic();
        !failures.is_empty() && failures.of(&named(name), now).is_some()
    }

    /// It could be made.
    pub(crate) fn recovered(&self, name: &str) {
        if !self.shared.failures.is_empty() {
            self.shared.failures.forget(&named(name));
        }
    }
}

/// No key begins so.
fn named(name: &str) -> String {
    format!(" {name}")
}

impl Failures {
    fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    pub(super) fn remember(
        &self,
        key: &str,
        error: &Error,
        now: Duration,
        throttle: Duration,
        backoff: Duration,
    ) {
        if throttle.is_zero() && backoff.is_zero() {
            return;
        }
        let failure = Failure {
            error: error.clone(),
            throttled_until: now.saturating_add(throttle),
            backed_off_until: now.saturating_add(backoff),
        };
        let mut failed = self.failed();
        if failed.len() >= MOST && !failed.contains_key(key) {
            failed.retain(|_, failure| !failure.is_over(now));
            if failed.len() >= MOST {
                failed.clear();
            }
        }
        failed.insert(key.to_owned(), failure);
        self.count.store(failed.len(), Ordering::Release);
    }

    /// Forgets the failure of `key`: it has been computed, or what it was computed from has changed.
    pub(super) fn forget(&self, key: &str) {
        if self.is_empty() {
            return;
        }
        let mut failed = self.failed();
        failed.remove(key);
        self.count.store(failed.len(), Ordering::Release);
    }

    /// As [`forget`](Self::forget), of all keys that begin with `prefix`.
    pub(super) fn forget_prefix(&self, prefix: &str) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut failed = self.failed();
        failed.retain(|key, _| !key.starts_with(prefix));
        self.count.store(failed.len(), Ordering::Release);
    }

    pub(super) fn of(&self, key: &str, now: Duration) -> Option<Failure> {
        if self.is_empty() {
            return None;
        }
        let mut failed = self.failed();
        let failure = failed.get(key)?;
        if failure.is_over(now) {
            failed.remove(key);
            self.count.store(failed.len(), Ordering::Release);
            return None;
        }
        Some(failure.clone())
    }

    /// Whether a stale value of `key` is to be served without another attempt.
    pub(super) fn throttle(&self, key: &str, now: Duration) -> bool {
        self.of(key, now)
            .is_some_and(|failure| failure.throttles(now))
    }

    fn failed(&self) -> MutexGuard<'_, HashMap<String, Failure>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Failure {
    /// Whether a stale value is to be served without another attempt.
    pub(super) fn throttles(&self, now: Duration) -> bool {
        now < self.throttled_until
    }

    /// The error for everyone who has nothing to serve.
    pub(super) fn error(self, now: Duration) -> Option<Error> {
        (now < self.backed_off_until).then_some(self.error)
    }

    fn is_over(&self, now: Duration) -> bool {
        now >= self.throttled_until.max(self.backed_off_until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_failure_lasts_as_long_as_its_pauses() {
        let failures = Failures::default();
        let error = Error::new(ErrorKind::Compute);
        failures.remember("k", &error, SECOND, 4 * SECOND, 2 * SECOND);
        let at = |seconds| failures.of("k", seconds * SECOND);
        assert!(at(2).is_some_and(|it| it.throttles(2 * SECOND)));
        assert!(at(2).is_some_and(|it| it.error(2 * SECOND).is_some()));
        assert!(at(3).is_some_and(|it| it.error(3 * SECOND).is_none()));
        assert!(at(5).is_none());
        assert!(failures.failed().is_empty());
    }

    #[test]
    fn the_table_is_bounded() {
        let failures = Failures::default();
        let error = Error::new(ErrorKind::Compute);
        for key in 0..3 * MOST {
            failures.remember(&key.to_string(), &error, SECOND, SECOND, SECOND);
            assert!(failures.failed().len() <= MOST);
        }
    }
}
