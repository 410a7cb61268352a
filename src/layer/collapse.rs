//! One request per page at the inner service, and none waits for an answer that is not shared.
//!
//! # Invariants
//!
//! - A follower gets the leader's answer only if that passed the gate for storing, and the
//!   follower's own request passes the one for sharing.
//! - An answer that cannot be shared is remembered for a while: until then, requests for its page
//!   wait for nobody (hit-for-miss).
//! - Where little was made ready for an answer, as those before it were refused, and it might have been
//!   shared, that happens once: until one is shared, all is made ready for each.
//! - Nobody waits for longer than the layer's patience: then others may lead.
//! - The memory is constant, whatever is asked for. Two pages that meet in it can only make each
//!   other's requests not wait.

use std::hash::{BuildHasher, Hash};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use foldhash::quality::RandomState;
use http::StatusCode;
use tokio::sync::OwnedSemaphorePermit;

use super::stored::{StoredPage, seconds};
use crate::flight::{Audience, Flights, Follower, Landing, Lost, Role};
use crate::semantics::storable::Refusal;

/// Slots for pages whose answers are not shared.
const SLOTS: usize = 1024;

/// After so many answers in a row that are not shared, the next one is not expected to be.
const IN_A_ROW: u64 = 8;

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
    /// For its status, which may say nothing of the next answer.
    Failed,
    /// Some are refused, and some might have been shared: each is worth what it takes to store it.
    Mixed,
    /// Not even worth a try to copy it.
    TooLarge,
}

impl Alone {
    /// Why an answer is not shared that was refused.
    pub(super) fn of(refusal: Refusal) -> Self {
        match refusal {
            Refusal::BodyTooLarge => Self::TooLarge,
            Refusal::Status => Self::Failed,
            _ => Self::Refused,
        }
    }
}

/// Whether the next answer for a page with this mark is worth what it takes to store it.
pub(super) fn is_worth_it(marked: Option<Alone>) -> bool {
    matches!(marked, None | Some(Alone::Mixed))
}

/// The requests in progress of one layer.
#[derive(Debug)]
pub(super) struct Collapse {
    flights: Arc<Flights<Landed>>,
    hasher: RandomState,
    /// See [`Mark`].
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
    pub(super) fn mark(&self, page: Spot, alone: Alone, now: SystemTime, ttl: Duration) {
        let (slot, tag) = self.slot(page);
        let found = Mark(slot.load(Ordering::Relaxed));
        let before = found.of(tag, now, ttl);
        let row = match before {
            _ if alone == Alone::Mixed => 0,
            // Until one of them is shared.
            Some(before) if before.row() == 0 => 0,
            Some(before) if (before.alone(), alone) == (Alone::Refused, Alone::Failed) => {
                before.row()
            }
            Some(before) if before.alone() == alone => before.row() + 1,
            _ => 1,
        };
        let ends = seconds(now).saturating_add(ttl.as_secs());
        let mark = Mark::new(tag, alone, row, ends);
        // Of one page, all requests of a second make the same.
        if mark.0 != found.0 {
            slot.store(mark.0, Ordering::Relaxed);
        }
    }

    /// Forgets that the answers for `page` were not shared.
    pub(super) fn unmark(&self, page: Spot) {
        let (slot, tag) = self.slot(page);
        let mark = Mark(slot.load(Ordering::Relaxed));
        if mark.tag() == tag {
            let _ = slot.compare_exchange(mark.0, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Whether answers for `page` were not shared, less than `ttl` ago.
    pub(super) fn marked(&self, page: Spot, now: SystemTime, ttl: Duration) -> Option<Alone> {
        self.mark_of(page, now, ttl).map(Mark::alone)
    }

    /// Whether the answers for `page` were refused so often in a row that the next one is expected to be.
    pub(super) fn expects_refusal(&self, page: Spot, now: SystemTime, ttl: Duration) -> bool {
        let mark = self.mark_of(page, now, ttl);
        mark.is_some_and(|mark| mark.alone() == Alone::Refused && mark.row() >= IN_A_ROW)
    }

    fn mark_of(&self, page: Spot, now: SystemTime, ttl: Duration) -> Option<Mark> {
        let (slot, tag) = self.slot(page);
        Mark(slot.load(Ordering::Relaxed)).of(tag, now, ttl)
    }

    /// Where the marks of what is named so are.
    pub(super) fn spot(&self, page: &impl Hash) -> Spot {
        Spot(self.hasher.hash_one(page))
    }

    fn slot(&self, Spot(hash): Spot) -> (&AtomicU64, u64) {
        let index = usize::try_from(hash % SLOTS as u64).unwrap_or(0);
        // Never that of an empty slot.
        (&self.marks[index], (hash >> 40).max(1))
    }
}

/// Where the marks of some requests are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot(u64);

/// That answers for a page were not shared. From the top: 24 bits of the page's hash, 4 for how many answers were
/// refused in a row, or none if they are mixed, 35 of the second in which the mark ends, one for the kind.
#[derive(Clone, Copy)]
struct Mark(u64);

impl Mark {
    const ENDS: u64 = (1 << 35) - 1;
    const ROW: u64 = (1 << 4) - 1;

    fn new(tag: u64, alone: Alone, row: u64, ends: u64) -> Self {
        let kind = u64::from(alone == Alone::TooLarge);
        Self(tag << 40 | row.min(Self::ROW) << 36 | (ends & Self::ENDS) << 1 | kind)
    }

    /// This one, if it is the page's and has not ended.
    fn of(self, tag: u64, now: SystemTime, ttl: Duration) -> Option<Self> {
        let left = (self.0 >> 1 & Self::ENDS).checked_sub(seconds(now))?;
        // More than was ever given is left if the clock went back; a second more, if the mark was renewed
        // since the request came.
        let is_over = left == 0 || left > ttl.as_secs().saturating_add(1);
        (self.tag() == tag && !is_over).then_some(self)
    }

    fn tag(self) -> u64 {
        self.0 >> 40
    }

    fn row(self) -> u64 {
        self.0 >> 36 & Self::ROW
    }

    fn alone(self) -> Alone {
        match (self.0 & 1, self.row()) {
            (1, _) => Alone::TooLarge,
            (_, 0) => Alone::Mixed,
            _ => Alone::Refused,
        }
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
        Self::default().with_landing(landing)
    }

    /// One to those who wait for this.
    pub(super) fn with_landing(mut self, landing: Landing<Landed>) -> Self {
        self.landing = Some(landing);
        self
    }

    /// One that has to be done in the background.
    pub(super) fn with_permit(mut self, permit: OwnedSemaphorePermit) -> Self {
        self.permit = Some(permit);
        self
    }

    /// Those who wait, if anybody may.
    pub(super) fn audience(&self) -> Option<Audience<Landed>> {
        self.landing.as_ref().map(Landing::audience)
    }

    /// Whoever comes from now on looks again once the others have their answer. Whether there are
    /// others.
    pub(super) fn split(&mut self) -> bool {
        let Some(landing) = &self.landing else {
            return false;
        };
        self.late = landing.split();
        landing.audience().is_there()
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
        assert_eq!(collapse.marked(collapse.spot(&"a"), at(0), TTL), None);
        collapse.mark(collapse.spot(&"a"), Alone::Refused, at(0), TTL);
        assert_eq!(
            collapse.marked(collapse.spot(&"a"), at(9), TTL),
            Some(Alone::Refused)
        );
        assert_eq!(collapse.marked(collapse.spot(&"a"), at(10), TTL), None);
        assert_eq!(collapse.marked(collapse.spot(&"b"), at(0), TTL), None);
        // By a request that came before the clock struck.
        collapse.mark(collapse.spot(&"a"), Alone::Refused, at(1), TTL);
        assert_eq!(
            collapse.marked(collapse.spot(&"a"), at(0), TTL),
            Some(Alone::Refused)
        );
        collapse.mark(collapse.spot(&"a"), Alone::TooLarge, at(0), TTL);
        assert_eq!(
            collapse.marked(collapse.spot(&"a"), at(0), TTL),
            Some(Alone::TooLarge)
        );
        collapse.unmark(collapse.spot(&"b"));
        collapse.unmark(collapse.spot(&"a"));
        assert_eq!(collapse.marked(collapse.spot(&"a"), at(0), TTL), None);
    }

    #[test]
    fn a_refusal_is_expected_after_many_in_a_row() {
        let collapse = Collapse::default();
        let expects = || collapse.expects_refusal(collapse.spot(&"a"), at(0), TTL);
        let marked = |alone, times: u64, seconds| {
            for _ in 0..times {
                collapse.mark(collapse.spot(&"a"), alone, at(seconds), TTL);
            }
        };
        marked(Alone::Refused, IN_A_ROW - 1, 0);
        assert!(!expects());
        marked(Alone::Refused, 1, 0);
        assert!(expects());
        marked(Alone::Refused, 100, 0);
        assert!(expects() && !collapse.expects_refusal(collapse.spot(&"b"), at(0), TTL));
        assert!(!collapse.expects_refusal(collapse.spot(&"a"), at(10), TTL));
        // A failure does not count. Another kind, an answer that is shared, and a pause all break the row.
        collapse.unmark(collapse.spot(&"a"));
        marked(Alone::Refused, IN_A_ROW - 1, 0);
        marked(Alone::Failed, 100, 0);
        assert!(!expects());
        marked(Alone::Refused, 1, 0);
        assert!(expects());
        marked(Alone::TooLarge, IN_A_ROW, 0);
        assert!(!expects());
        marked(Alone::Failed, 1, 0);
        assert!(!expects());
        marked(Alone::TooLarge, 1, 0);
        marked(Alone::Refused, IN_A_ROW - 1, 0);
        assert!(!expects());
        collapse.unmark(collapse.spot(&"a"));
        marked(Alone::Refused, IN_A_ROW - 1, 0);
        assert!(!expects());
        marked(Alone::Refused, 1, 60);
        assert!(!collapse.expects_refusal(collapse.spot(&"a"), at(60), TTL));
        // One that might have been shared ends it until one is.
        marked(Alone::Mixed, 1, 60);
        marked(Alone::Refused, 100, 60);
        let mark = |now| collapse.marked(collapse.spot(&"a"), at(now), TTL);
        assert_eq!(mark(60), Some(Alone::Mixed));
        collapse.unmark(collapse.spot(&"a"));
        marked(Alone::Refused, 1, 60);
        assert_eq!(mark(60), Some(Alone::Refused));
    }

    #[test]
    fn a_clock_that_goes_back_does_not_prolong_a_mark() {
        let collapse = Collapse::default();
        collapse.mark(collapse.spot(&"a"), Alone::Refused, at(3600), TTL);
        assert_eq!(collapse.marked(collapse.spot(&"a"), at(0), TTL), None);
    }

    #[test]
    fn pages_that_meet_displace_each_other_and_nothing_grows() {
        let collapse = Collapse::default();
        for page in 0..100_000 {
            collapse.mark(collapse.spot(&page), Alone::Refused, at(0), TTL);
        }
        let marked = (0..100_000).filter(|page: &u32| {
            let marked = collapse.marked(collapse.spot(&page), at(0), TTL);
            marked.is_some()
        });
        let marked = marked.count();
        assert!((SLOTS / 2..=SLOTS + 8).contains(&marked), "{marked}");
    }
}
