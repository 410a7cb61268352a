//! One request per page at the inner service, and none waits for an answer that is not shared.
//!
//! # Invariants
//!
//! - A follower gets the leader's answer only if that passed the gate for storing, and the
//!   follower's own request passes the one for sharing.
//! - An answer that cannot be shared is remembered for a while: until then, requests for its page
//!   wait for nobody (hit-for-miss).
//! - Nobody waits for longer than the layer's patience: then others may lead.
//! - The memory is constant, whatever is asked for. Two pages that meet in it can only make each
//!   other's requests not wait.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use foldhash::quality::RandomState;
use http::StatusCode;
use tokio::sync::OwnedSemaphorePermit;

use super::stored::{StoredPage, seconds};
use crate::flight::{Flights, Follower, Landing, Lost, Role};

/// Slots for pages whose answers are not shared.
const SLOTS: usize = 1024;

/// What the leader has for those who wait.
#[derive(Clone, Debug)]
pub(super) enum Landed {
    /// An answer, for those who may have it.
    Page(Arc<StoredPage>),
    /// It failed with this status, or never came. What is stale may do, for those who found it.
    Instead(Option<StatusCode>),
    /// It was purged while it was made. Look again.
    Again,
    /// It takes too long.
    Late,
    /// The leader failed, and there is nothing to say of the page.
    Nothing,
    /// Nothing. Everybody asks for themselves.
    Alone(Alone),
}

/// Why an answer is not shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alone {
    Refused,
    /// Not even worth a try to copy it.
    TooLarge,
}

/// The requests in progress of one layer.
#[derive(Debug)]
pub(super) struct Collapse {
    flights: Arc<Flights<Landed>>,
    hasher: RandomState,
    /// 24 bits of a page's hash, 39 of the second in which the mark ends, one for the kind.
    marks: Box<[AtomicU64]>,
}

impl Default for Collapse {
    fn default() -> Self {
        Self {
            flights: Arc::default(),
            hasher: RandomState::default(),
            marks: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl Collapse {
    /// Leads the requests for `page`, or follows the one that does.
    pub(super) fn enter(&self, page: &str) -> Role<Landed> {
        self.flights.enter(page)
    }

    /// What the leader has; [`Landed::Late`] if it does not have it in time, and then others may
    /// lead.
    pub(super) async fn follow(
        &self,
        page: &str,
        mut follower: Follower<Landed>,
        patience: Duration,
    ) -> Landed {
        match tokio::time::timeout(patience, follower.result()).await {
            Ok(Ok(landed)) => landed,
            Ok(Err(Lost)) => Landed::Nothing,
            Err(_) => {
                self.flights.abandon(page, &follower);
                Landed::Late
            }
        }
    }

    /// Changes whenever an answer has landed: what was missing before may be there now.
    pub(super) fn landings(&self) -> u64 {
        self.flights.landings()
    }

    /// Remembers for `ttl` that the answers for `page` are not shared.
    pub(super) fn mark(&self, page: &str, alone: Alone, now: SystemTime, ttl: Duration) {
        let (slot, tag) = self.slot(page);
        let ends = seconds(now).saturating_add(ttl.as_secs()) & ((1 << 39) - 1);
        let kind = u64::from(alone == Alone::TooLarge);
        slot.store(tag << 40 | ends << 1 | kind, Ordering::Relaxed);
    }

    /// Forgets that the answers for `page` were not shared.
    pub(super) fn unmark(&self, page: &str) {
        let (slot, tag) = self.slot(page);
        let mark = slot.load(Ordering::Relaxed);
        if mark >> 40 == tag {
            let _ = slot.compare_exchange(mark, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Whether answers for `page` were not shared, less than `ttl` ago.
    pub(super) fn marked(&self, page: &str, now: SystemTime, ttl: Duration) -> Option<Alone> {
        let (slot, tag) = self.slot(page);
        let mark = slot.load(Ordering::Relaxed);
        let left = (mark >> 1 & ((1 << 39) - 1)).checked_sub(seconds(now))?;
        // More than was ever given is left if the clock went back; a second more, if the mark was renewed
        // since the request came.
        if mark >> 40 != tag || left == 0 || left > ttl.as_secs().saturating_add(1) {
            return None;
        }
        Some(if mark & 1 == 1 {
            Alone::TooLarge
        } else {
            Alone::Refused
        })
    }

    fn slot(&self, page: &str) -> (&AtomicU64, u64) {
        let hash = self.hasher.hash_one(page);
        let index = usize::try_from(hash % SLOTS as u64).unwrap_or(0);
        // Never that of an empty slot.
        (&self.marks[index], (hash >> 40).max(1))
    }
}

/// A leader's duty to those who wait, if there is one.
#[derive(Debug, Default)]
pub(super) struct Duty {
    landing: Option<Landing<Landed>>,
    /// Those who have come too late to get the answer.
    late: Option<Landing<Landed>>,
    /// The right to do it in the background.
    permit: Option<OwnedSemaphorePermit>,
}

impl Duty {
    pub(super) fn new(landing: Landing<Landed>) -> Self {
        Self {
            landing: Some(landing),
            late: None,
            permit: None,
        }
    }

    /// One that has to be done in the background.
    pub(super) fn with_permit(mut self, permit: OwnedSemaphorePermit) -> Self {
        self.permit = Some(permit);
        self
    }

    /// Whether anybody may wait.
    pub(super) fn is_one(&self) -> bool {
        self.landing.is_some()
    }

    /// Whoever comes from now on looks again once the others have their answer. Whether there are
    /// others.
    pub(super) fn split(&mut self) -> bool {
        let Some(landing) = &self.landing else {
            return false;
        };
        self.late = landing.split();
        landing.is_followed()
    }

    /// Tells those who wait, once.
    pub(super) fn land(&mut self, landed: Landed) {
        if let Some(landing) = self.landing.take() {
            landing.land(landed);
        }
        if let Some(landing) = self.late.take() {
            landing.land(Landed::Again);
        }
    }
}

/// A duty that its leader may be kept from doing: then those who wait look again.
#[derive(Debug)]
pub(super) struct Held(Duty);

impl Held {
    pub(super) fn new(duty: Duty) -> Self {
        Self(duty)
    }

    pub(super) fn release(mut self) -> Duty {
        std::mem::take(&mut self.0)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.land(Landed::Again);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds)
    }

    #[test]
    fn a_mark_lasts_its_time_and_is_the_pages_own() {
        let collapse = Collapse::default();
        assert_eq!(collapse.marked("a", at(0), TTL), None);
        collapse.mark("a", Alone::Refused, at(0), TTL);
        assert_eq!(collapse.marked("a", at(9), TTL), Some(Alone::Refused));
        assert_eq!(collapse.marked("a", at(10), TTL), None);
        assert_eq!(collapse.marked("b", at(0), TTL), None);
        // By a request that came before the clock struck.
        collapse.mark("a", Alone::Refused, at(1), TTL);
        assert_eq!(collapse.marked("a", at(0), TTL), Some(Alone::Refused));
        collapse.mark("a", Alone::TooLarge, at(0), TTL);
        assert_eq!(collapse.marked("a", at(0), TTL), Some(Alone::TooLarge));
        collapse.unmark("b");
        collapse.unmark("a");
        assert_eq!(collapse.marked("a", at(0), TTL), None);
    }

    #[test]
    fn a_clock_that_goes_back_does_not_prolong_a_mark() {
        let collapse = Collapse::default();
        collapse.mark("a", Alone::Refused, at(3600), TTL);
        assert_eq!(collapse.marked("a", at(0), TTL), None);
    }

    #[test]
    fn pages_that_meet_displace_each_other_and_nothing_grows() {
        let collapse = Collapse::default();
        for page in 0..100_000 {
            collapse.mark(&page.to_string(), Alone::Refused, at(0), TTL);
        }
        let marked = (0..100_000).filter(|page: &u32| {
            let marked = collapse.marked(&page.to_string(), at(0), TTL);
            marked.is_some()
        });
        let marked = marked.count();
        assert!((SLOTS / 2..=SLOTS + 8).contains(&marked), "{marked}");
    }
}
