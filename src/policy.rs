//! What `get_or_set` may do: how long a value is fresh, how long it may be served stale and why, how
//! long callers wait, and when a value is computed anew before it has to be.
//!
//! # Specification
//!
//! The stale windows are those of RFC 5861. `XFetch` is from A. Vattani and others,
//! "Optimal Probabilistic Cache Stampede Prevention", PVLDB 8(8), 2015.

use std::time::{Duration, SystemTime};

use crate::entry::Stamp;
use crate::ttl::{Lifetime, Ttl};

/// How [`get_or_set`](crate::Cache::get_or_set) keeps a value and computes it anew.
///
/// A TTL alone is a policy: fresh that long, never stale, computed anew by who comes after.
///
/// ```
/// use std::time::Duration;
/// use axum_cache::{Policy, RefreshAhead};
///
/// const MINUTE: Duration = Duration::from_secs(60);
/// const POSTS: Policy = Policy::new(MINUTE)
///     .stale_while_revalidate(Duration::from_secs(30))
///     .stale_if_error(Duration::from_secs(3600))
///     .refresh_ahead(RefreshAhead::XFETCH)
///     .jitter(0.1);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[must_use = "a policy does nothing until a computation is given it"]
pub struct Policy {
    pub(crate) ttl: Ttl,
    pub(crate) stale_while_revalidate: Duration,
    pub(crate) stale_if_error: Duration,
    pub(crate) throttle: Duration,
    pub(crate) backoff: Duration,
    pub(crate) soft_timeout: Option<Duration>,
    pub(crate) hard_timeout: Option<Duration>,
    pub(crate) complete_within: Duration,
    pub(crate) lock_timeout: Duration,
    pub(crate) refresh_ahead: Option<RefreshAhead>,
    pub(crate) jitter: f64,
    pub(crate) lease: Option<Duration>,
    pub(crate) fail_closed: bool,
}

/// When a value that is still fresh is computed anew, in the background.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum RefreshAhead {
    /// By the first who reads it after this share of its TTL, from 0 to 1.
    After(f64),
    /// By chance, the sooner the longer it takes to compute: `XFetch`, with the given beta. The
    /// higher, the sooner.
    XFetch(f64),
}

impl RefreshAhead {
    /// `XFetch` with a beta of 1.
    pub const XFETCH: Self = Self::XFetch(1.0);

    /// Whether a fresh entry is to be computed anew. `chance` is from 0 to 1, excluding both.
    pub(crate) fn is_due(self, stamp: &Stamp, now: SystemTime, chance: f64) -> bool {
        let Some(fresh_until) = stamp.fresh_until else {
            return false;
        };
        let left = fresh_until.duration_since(now).unwrap_or_default();
        match self {
            Self::After(share) => {
                let ttl = fresh_until.duration_since(stamp.stored_at);
                let ttl = ttl.unwrap_or_default();
                ttl.saturating_sub(left).as_secs_f64() >= ttl.as_secs_f64() * share
            }
            Self::XFetch(beta) => {
                left.as_secs_f64() <= -stamp.cost.as_secs_f64() * beta * chance.ln()
            }
        }
    }
}

impl Policy {
    /// Fresh for `ttl`, and all else at its default.
    pub const fn new(ttl: Duration) -> Self {
        Self::of(Ttl::After(ttl))
    }

    /// As [`new`](Self::new), with a TTL of any of the three kinds.
    pub const fn of(ttl: Ttl) -> Self {
        Self {
            ttl,
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::ZERO,
            throttle: Duration::from_secs(30),
            backoff: Duration::ZERO,
            soft_timeout: None,
            hard_timeout: None,
            complete_within: Duration::from_secs(30),
            lock_timeout: Duration::from_secs(10),
            refresh_ahead: None,
            jitter: 0.0,
            lease: None,
            fail_closed: false,
        }
    }

    /// Lets a call fail, within the deadline of the store, if the store cannot be asked for the value;
    /// without this, the value is computed then, and not stored.
    pub const fn fail_closed(mut self) -> Self {
        self.fail_closed = true;
        self
    }

    /// How long after its TTL a value is served while one caller's computation replaces it in the
    /// background. None by default.
    pub const fn stale_while_revalidate(mut self, window: Duration) -> Self {
        self.stale_while_revalidate = window;
        self
    }

    /// How long after its TTL a value is served if computing another one fails, or takes longer than
    /// the [soft timeout](Self::soft_timeout). None by default: what decides about permissions
    /// should not be served stale.
    pub const fn stale_if_error(mut self, window: Duration) -> Self {
        self.stale_if_error = window;
        self
    }

    /// How long after a failed computation its key is not computed again while there is a stale
    /// value to serve, in each process. 30 seconds by default.
    pub const fn throttle(mut self, pause: Duration) -> Self {
        self.throttle = pause;
        self
    }

    /// How long after a failed computation all who ask for its key get the same error, in each
    /// process, if there is nothing to serve. Not at all by default: who asks next computes.
    pub const fn backoff(mut self, pause: Duration) -> Self {
        self.backoff = pause;
        self
    }

    /// How long callers wait for a computation if there is a value to serve within its
    /// [`stale_if_error`](Self::stale_if_error). The computation goes on and is stored. As long as it
    /// takes by default.
    pub const fn soft_timeout(mut self, timeout: Duration) -> Self {
        self.soft_timeout = Some(timeout);
        self
    }

    /// How long callers wait for a computation at most. Those who do get
    /// [`ComputeTimeout`](crate::ErrorKind::ComputeTimeout), and the next one computes anew. As long
    /// as it takes by default.
    pub const fn hard_timeout(mut self, timeout: Duration) -> Self {
        self.hard_timeout = Some(timeout);
        self
    }

    /// How long a computation may go on after its [hard timeout](Self::hard_timeout), to be stored
    /// yet; then it is dropped. 30 seconds by default.
    pub const fn complete_within(mut self, time: Duration) -> Self {
        self.complete_within = time;
        self
    }

    /// How long a caller waits for the computation of another one before it computes for itself. 10
    /// seconds by default. Computations that wait for each other are freed by this.
    pub const fn lock_timeout(mut self, timeout: Duration) -> Self {
        self.lock_timeout = timeout;
        self
    }

    /// When a value is computed anew before its TTL is over. Never by default.
    pub const fn refresh_ahead(mut self, when: RefreshAhead) -> Self {
        self.refresh_ahead = Some(when);
        self
    }

    /// The share of the TTL, from 0 to 1, by which it is shortened at random, so that what was
    /// stored together is not computed anew together. None by default.
    pub const fn jitter(mut self, share: f64) -> Self {
        self.jitter = share;
        self
    }

    /// Lets one process of all that share the store compute, by a lease of this length that is
    /// renewed while it computes; the others wait for its value. If the process dies, another one
    /// takes over once the lease has ended. Each process computes for itself by default.
    ///
    /// It spares work and promises nothing: when the store is away or loses the lease, two compute.
    /// So do two batches: one that computes several keys waits for no lease, as two of them could
    /// wait for each other.
    pub const fn lease(mut self, lease: Duration) -> Self {
        self.lease = Some(lease);
        self
    }

    /// How long a value is fresh, shortened by chance; `None` when nothing is to be stored.
    pub(crate) fn fresh_for(&self, ttl: Ttl, chance: f64) -> Option<Lifetime> {
        let lifetime = ttl.lifetime()?;
        let Lifetime::For(duration) = lifetime else {
            return Some(lifetime);
        };
        let share = 1.0 - self.jitter.clamp(0.0, 1.0) * chance;
        if share >= 1.0 {
            return Some(lifetime);
        }
        let jittered = Duration::try_from_secs_f64(duration.as_secs_f64() * share);
        let jittered = jittered.unwrap_or(duration).max(Duration::from_nanos(1));
        Some(Lifetime::For(jittered))
    }
}

impl From<Ttl> for Policy {
    fn from(ttl: Ttl) -> Self {
        Self::of(ttl)
    }
}

impl From<Duration> for Policy {
    fn from(ttl: Duration) -> Self {
        Self::new(ttl)
    }
}

impl From<Option<Duration>> for Policy {
    fn from(ttl: Option<Duration>) -> Self {
        Self::of(ttl.into())
    }
}

/// A number from 0 to 1, excluding both, by chance.
#[allow(
    clippy::cast_precision_loss,
    reason = "52 bits, which a double holds exactly"
)]
pub(crate) fn chance() -> f64 {
    let bits = crate::tag::draw() >> 12;
    (bits as f64 + 0.5) / (1_u64 << 52) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_share_of_the_ttl_is_a_moment() {
        let now = SystemTime::now();
        let stamp = Stamp::new(now, Some(10 * SECOND));
        let due = |seconds| RefreshAhead::After(0.8).is_due(&stamp, now + seconds * SECOND, 0.5);
        assert!(!due(7));
        assert!(due(8) && due(10) && due(11));
        assert!(!RefreshAhead::After(0.8).is_due(&Stamp::new(now, None), now, 0.5));
    }

    #[test]
    fn xfetch_is_the_sooner_the_dearer() {
        let now = SystemTime::now();
        let mut stamp = Stamp::new(now, Some(10 * SECOND));
        stamp.cost = 2 * SECOND;
        let due = |seconds: u32, chance: f64| {
            RefreshAhead::XFETCH.is_due(&stamp, now + seconds * SECOND, chance)
        };
        // The logarithm of 1/e is -1: two seconds ahead.
        let one = (-1.0_f64).exp();
        assert!(!due(7, one) && due(9, one));
        assert!(due(10, 0.999));
    }

    #[test]
    fn jitter_shortens_and_never_to_nothing() {
        let policy = Policy::new(10 * SECOND).jitter(0.1);
        let fresh_for = |policy: &Policy, chance| policy.fresh_for(policy.ttl, chance);
        assert_eq!(
            fresh_for(&policy, 0.5),
            Some(Lifetime::For(Duration::from_millis(9500)))
        );
        assert!(fresh_for(&policy.jitter(9.0), 0.999_999).is_some());
        assert_eq!(fresh_for(&Policy::new(Duration::ZERO), 0.5), None);
        assert_eq!(
            fresh_for(&Policy::of(Ttl::Never), 0.5),
            Some(Lifetime::Forever)
        );
    }

    #[test]
    fn chance_is_between_its_ends() {
        for _ in 0..1000 {
            let chance = chance();
            assert!(chance > 0.0 && chance < 1.0);
        }
    }
}
