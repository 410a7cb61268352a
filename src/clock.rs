//! Where the time comes from: the system, or a test that moves it by hand.

use std::cell::Cell;
use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The two clocks a cache needs.
///
/// Wall time goes into entries and headers, because other processes read them. Monotonic time
/// measures how long something lives inside this process, so that a corrected or skewed wall
/// clock neither expires everything nor keeps anything too long.
///
/// Pages, fragments and values with tags or a [`Policy`](crate::Policy) say by wall time until when they are
/// fresh. So caches have a [`SteadyClock`] unless they are given another: with one that jumps, to be set forward
/// by more than their TTL makes them all stale at once. One that is set back keeps none of them longer than its
/// store does: for its TTL and the longer of its stale windows.
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

/// The system's clocks; the default of stores. Monotonic time is counted from when the process first asked for it.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock(());

impl SystemClock {
    /// The system's clocks.
    pub fn new() -> Self {
        Self(())
    }
}

impl Clock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn monotonic(&self) -> Duration {
        MOMENT.get().unwrap_or_else(passed)
    }
}

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// How long the process has had a clock.
fn passed() -> Duration {
    // What the first call makes of it is no later than now.
    let start = *START;
    Instant::now().saturating_duration_since(start)
}

thread_local! {
    /// At which the monotonic clock of the system stands for this thread, if it does.
    static MOMENT: Cell<Option<Duration>> = const { Cell::new(None) };
}

/// Runs what is done in one go at one moment for all of the system's clocks: one reading is a good part of what a
/// hit costs, and both a layer and its store ask for the time.
pub(crate) fn at_one_moment<T>(run: impl FnOnce() -> T) -> T {
    struct Goes;
    impl Drop for Goes {
        fn drop(&mut self) {
            MOMENT.set(None);
        }
    }
    MOMENT.set(Some(passed()));
    let _goes = Goes;
    run()
}

/// Runs what may take its time, within what runs [at one moment](at_one_moment).
pub(crate) fn while_time_passes<T>(run: impl FnOnce() -> T) -> T {
    let stood = MOMENT.take();
    let done = run();
    MOMENT.set(stood.map(|_| passed()));
    done
}

/// Another clock, whose time of day does not jump: when that is set by up to two hours, this one goes a tenth
/// faster or slower until it agrees again. What is more it follows at once, as it does after a machine has slept
/// for so long. The default of caches, over the [`SystemClock`].
///
/// # Example
///
/// ```
/// use axum_cache::clock::{Clock, ManualClock, SteadyClock};
///
/// let clock = SteadyClock::over(ManualClock::new());
/// assert!(clock.now() > std::time::UNIX_EPOCH);
/// ```
#[derive(Debug)]
pub struct SteadyClock<C = SystemClock> {
    clock: C,
    /// The time of day less the monotonic time.
    offset_nanos: AtomicI64,
    /// The monotonic time at which it was last compared with the clock.
    compared_nanos: AtomicU64,
}

/// How often a steady clock is compared with the one under it, in nanoseconds.
const COMPARED_EVERY: u64 = 1_000_000_000;

/// It makes up for this part of the time that has passed.
const PART: u64 = 10;

/// What nobody sets a clock by that was right, in nanoseconds: the margin that tags have for the clocks of nodes.
const FAR: u64 = 2 * 3600 * 1_000_000_000;

impl SteadyClock {
    /// Over the system's clocks.
    pub fn new() -> Self {
        Self::over(SystemClock::new())
    }
}

impl Default for SteadyClock {
    fn default() -> Self {
        Self::new()
    }
}

impl<C: Clock> SteadyClock<C> {
    /// Over this one, with which it agrees at first.
    pub fn over(clock: C) -> Self {
        let passed = nanos(clock.monotonic());
        Self {
            offset_nanos: AtomicI64::new(since_epoch(clock.now()).saturating_sub_unsigned(passed)),
            compared_nanos: AtomicU64::new(passed),
            clock,
        }
    }

    /// The offset from now on, after so much time.
    fn compare(&self, passed: u64) -> i64 {
        let offset = self.offset_nanos.load(Ordering::Relaxed);
        let compared = self.compared_nanos.load(Ordering::Relaxed);
        let since = passed.saturating_sub(compared);
        let order = Ordering::Relaxed;
        let is_mine = since >= COMPARED_EVERY
            && self
                .compared_nanos
                .compare_exchange(compared, passed, order, order)
                .is_ok();
        if !is_mine {
            return offset;
        }
        let right = since_epoch(self.clock.now()).saturating_sub_unsigned(passed);
        let off = right.saturating_sub(offset);
        let most = i64::try_from(since / PART).unwrap_or(i64::MAX);
        let offset = if off.unsigned_abs() > FAR {
            right
        } else {
            offset.saturating_add(off.clamp(-most, most))
        };
        self.offset_nanos.store(offset, Ordering::Relaxed);
        offset
    }
}

impl<C: Clock> Clock for SteadyClock<C> {
    fn now(&self) -> SystemTime {
        let passed = nanos(self.clock.monotonic());
        let now = self.compare(passed).saturating_add_unsigned(passed);
        UNIX_EPOCH + Duration::from_nanos(u64::try_from(now).unwrap_or_default())
    }

    fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }
}

/// Without the 128 bits that `as_nanos` counts in: each hit reads the clock.
pub(crate) fn nanos(duration: Duration) -> u64 {
    let seconds = duration.as_secs().saturating_mul(1_000_000_000);
    seconds.saturating_add(duration.subsec_nanos().into())
}

fn since_epoch(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
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
        self.moved_nanos.fetch_add(nanos(by), Ordering::SeqCst);
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

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000_000_000;

    /// Both times as a test sets them.
    #[derive(Debug, Default)]
    struct Set {
        passed: AtomicU64,
        jumped: AtomicI64,
    }

    impl Set {
        fn pass(&self, by: Duration) {
            self.passed.fetch_add(nanos(by), Ordering::SeqCst);
        }
    }

    impl Clock for Set {
        fn now(&self) -> SystemTime {
            let jumped = 10 * HOUR + self.jumped.load(Ordering::SeqCst);
            UNIX_EPOCH + self.monotonic() + Duration::from_nanos(jumped.unsigned_abs())
        }

        fn monotonic(&self) -> Duration {
            Duration::from_nanos(self.passed.load(Ordering::SeqCst))
        }
    }

    #[test]
    fn a_clock_that_jumps_is_followed_slowly_and_never_backwards() {
        for jump in [HOUR, -HOUR] {
            let set = Arc::new(Set::default());
            let steady = SteadyClock::over(Arc::clone(&set));
            assert_eq!(steady.now(), set.now());
            set.jumped.store(jump, Ordering::SeqCst);
            let (mut last, step) = (steady.now(), Duration::from_millis(700));
            let mut steps = 0;
            while steady.now() != set.now() {
                set.pass(step);
                let now = steady.now();
                let passed = now.duration_since(last).unwrap_or_default();
                // What is made up for comes every other time.
                assert!(
                    passed >= step.mul_f64(0.79) && passed <= step.mul_f64(1.21),
                    "{passed:?}"
                );
                last = now;
                steps += 1;
            }
            let took = step * steps;
            let hours = took.as_secs_f64() / 3600.0;
            assert!((9.9..10.1).contains(&hours), "{hours}");
            set.jumped.store(4 * jump, Ordering::SeqCst);
            set.pass(2 * step);
            assert_eq!(steady.now(), set.now(), "that is no jump but another time");
        }
    }
}
