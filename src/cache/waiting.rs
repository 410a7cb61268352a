//! Waiting for a computation that somebody leads, and what is served in the place of its result.

use std::time::Duration;

use tokio::time::Instant;

use super::Cache;
use super::compute::Outcomes;
use super::fenced::Standing;
use super::look::Value;
use super::making::Made;
use crate::entry::{Entry, Worth};
use crate::error::{Error, ErrorKind, Result};
use crate::flight::{Follower, Lost, Moment};
use crate::key::Key;
use crate::observe::{self, Outcome};
use crate::policy::Policy;
use crate::tag::TagState;

/// A caller that has found nothing fresh under a key.
pub(super) struct Waiter<'a> {
    pub(super) cache: &'a Cache,
    pub(super) key: &'a Key,
    pub(super) policy: &'a Policy,
    /// What may be served if computing fails.
    pub(super) fallback: Option<&'a Value>,
    /// When the caller came, before it looked for the first time.
    pub(super) came: Moment,
    /// The store did not answer it.
    pub(super) is_unavailable: bool,
    pub(super) operation: &'static str,
}

impl Waiter<'_> {
    /// What a computation that failed a moment ago means for this caller.
    pub(super) fn failed_before(&self) -> Option<Result<Entry>> {
        let now = self.cache.clock().monotonic();
        let failure = self.cache.shared.failures.of(self.key.as_str(), now)?;
        match self.fallback {
            Some(_) if failure.throttles(now) => self.instead().map(Ok),
            Some(_) => None,
            None => failure.error(now).map(Err),
        }
    }

    /// What a computation comes to, as long as may be waited since `start`; `None` if this caller has
    /// to look again.
    pub(super) async fn wait(
        &self,
        mut follower: Follower<Outcomes>,
        leads: bool,
        start: Instant,
    ) -> Option<Result<Option<Entry>>> {
        let policy = self.policy;
        let (hard, lock) = (policy.hard_timeout, policy.lock_timeout);
        let last = hard.into_iter().chain((!leads).then_some(lock)).min();
        let is_soft = |soft: &Duration| last.is_none_or(|last| *soft <= last);
        let soft = policy.soft_timeout.filter(is_soft);
        if let Some(soft) = soft.filter(|_| self.fallback.is_some())
            && landed(&mut follower, Some(soft), start).await.is_none()
            && let Some(value) = self.instead()
        {
            return Some(Ok(Some(value)));
        }
        let outcome = match landed(&mut follower, last, start).await {
            // Nothing says what has become of a tag that it has not.
            Some(Ok(made)) if !self.is_for_this(&made) || !follower.has_tags() => return None,
            Some(Ok(made)) => made.outcome,
            Some(Err(Lost)) => Err(lost()),
            None => {
                // Whoever comes next computes anew.
                let flights = &self.cache.shared.flights;
                flights.abandon(self.key.as_str(), &follower);
                if hard != last {
                    return None;
                }
                Err(ErrorKind::ComputeTimeout.into())
            }
        };
        Some(outcome.or_else(|error| self.instead().map(Some).ok_or(error)))
    }

    /// Whether no other process has invalidated it before this caller came, as far as can be known.
    fn is_for_this(&self, made: &Made) -> bool {
        // Without the store nobody knows, and all would compute to know no more.
        made.as_of >= self.came || (self.is_unavailable && made.standing == Standing::Unknown)
    }

    /// The stale value in the place of one that could not be had, if it may still be served.
    pub(super) fn instead(&self) -> Option<Entry> {
        let value = self.fallback?;
        let record = value.record.as_ref()?;
        let now = self.cache.clock().now();
        // Whatever has become of its tags, it was stale already.
        let worth = record.stamp.worth(now, TagState::Expired);
        if !matches!(worth, Worth::Stale { if_error: true, .. }) {
            return None;
        }
        let name = self.cache.named();
        observe::outcome(name, self.operation, Outcome::Hit, "stale-if-error");
        Some(value.entry.clone())
    }
}

/// What a computation has come to by then; `None` if it has not ended.
async fn landed(
    follower: &mut Follower<Outcomes>,
    until: Option<Duration>,
    start: Instant,
) -> Option<Result<Outcomes, Lost>> {
    let Some(until) = until else {
        return Some(follower.result().await);
    };
    let left = until.saturating_sub(start.elapsed());
    // One that has landed counts, however late it is looked at.
    let landed = tokio::task::unconstrained(follower.result());
    tokio::time::timeout(left, landed).await.ok()
}

/// The error of a computation that ended without a result.
fn lost() -> Error {
    Error::new(ErrorKind::Compute).with_message("computation panicked or its runtime shut down")
}
