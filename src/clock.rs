//! Where the time comes from: the system, or a test that moves it by hand.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// The two clocks a cache needs.
///
/// Wall time goes into entries and headers, because other processes read them. Monotonic time
/// measures how long something lives inside this process, so that a corrected or skewed wall
/// clock neither expires everything nor keeps anything too long.
///
/// Pages, fragments and values with tags or a [`Policy`](crate::Policy) say by wall time until when they are
/// fresh: a clock that is set forward by more than their TTL makes them stale at once. One that is set
/// back keeps none of them longer than its store does: for its TTL and the longer of its stale windows.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The time of day.
    fn now(&self) -> SystemTime;

    /// Time since some fixed moment; never goes back.
    fn monotonic(&self) -> Duration;
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn now(&self) -> SystemTime {
        (**self).now()
    }

    fn monotonic(&self) -> Duration {
        (**self).monotonic()
    }
}

/// The system's clocks; the default everywhere.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// The system's clocks, with monotonic time counted from now.
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

/// A clock that stands still until a test moves it. Clones move together.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use axum_cache::clock::{Clock, ManualClock};
///
/// let clock = ManualClock::new();
/// let before = clock.now();
/// clock.advance(Duration::from_secs(60));
/// assert_eq!(clock.now().duration_since(before).unwrap(), Duration::from_secs(60));
/// ```
#[derive(Clone, Debug)]
pub struct ManualClock {
    start: SystemTime,
    moved_nanos: Arc<AtomicU64>,
}

impl ManualClock {
    /// A clock that stands at the present time of day.
    pub fn new() -> Self {
        Self::at(SystemTime::now())
    }

    /// A clock that stands at `start`.
    pub fn at(start: SystemTime) -> Self {
        Self {
            start,
            moved_nanos: Arc::default(),
        }
    }

    /// Moves both clocks forward.
    pub fn advance(&self, by: Duration) {
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        self.moved_nanos.fetch_add(nanos, Ordering::SeqCst);
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> SystemTime {
        self.start + self.monotonic()
    }

    fn monotonic(&self) -> Duration {
        Duration::from_nanos(self.moved_nanos.load(Ordering::SeqCst))
    }
}
