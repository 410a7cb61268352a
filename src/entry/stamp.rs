//! What an entry says of its own time and tags, and what it is worth at a given moment.
//!
//! # Invariants
//!
//! - What is served stale was allowed to be when it was stored: by how long, and why.
//! - The store keeps an entry until the last of its instants, and no longer.

use std::time::{Duration, SystemTime};

use crate::tag::{TagStamp, TagState};
use crate::ttl::Lifetime;

/// What every envelope says beside its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) stored_at: SystemTime,
    /// `None`: for ever.
    pub(crate) fresh_until: Option<SystemTime>,
    /// How long after that it may be served while a better one is computed.
    pub(crate) stale_while_revalidate: Duration,
    /// How long after that it may be served because computing a better one failed.
    pub(crate) stale_if_error: Duration,
    /// What it took to compute.
    pub(crate) cost: Duration,
    /// Its tags, as they were when its computation began.
    pub(crate) tags: Vec<TagStamp>,
}

/// What an entry is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Worth {
    Fresh,
    Stale {
        while_revalidate: bool,
        if_error: bool,
    },
    Nothing,
}

impl Stamp {
    /// Of an entry that is fresh for `fresh_for` from now on, and never served stale.
    pub(crate) fn new(now: SystemTime, fresh_for: Option<Duration>) -> Self {
        Self {
            stored_at: now,
            fresh_until: fresh_for.and_then(|lifetime| now.checked_add(lifetime)),
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::ZERO,
            cost: Duration::ZERO,
            tags: Vec::new(),
        }
    }

    /// Whether it says nothing that the store does not know: such an entry lives as long as it is there.
    pub(crate) fn is_bare(&self) -> bool {
        let window = self.stale_while_revalidate.max(self.stale_if_error);
        self.fresh_until.is_none() && window.is_zero() && self.tags.is_empty()
    }

    /// What the entry is worth, given the state of its tags. One whose tags are expired is stale
    /// from then on.
    pub(crate) fn worth(&self, now: SystemTime, tags: TagState) -> Worth {
        let is_over = self.fresh_until.is_some_and(|until| until <= now);
        match tags {
            TagState::Invalid => return Worth::Nothing,
            TagState::Current if !is_over => return Worth::Fresh,
            TagState::Current | TagState::Expired => {}
        }
        let within = |window: Duration| {
            let until = self
                .fresh_until
                .map(|fresh_until| fresh_until.checked_add(window));
            !window.is_zero() && until.flatten().is_none_or(|until| now < until)
        };
        let while_revalidate = within(self.stale_while_revalidate);
        let if_error = within(self.stale_if_error);
        if while_revalidate || if_error {
            Worth::Stale {
                while_revalidate,
                if_error,
            }
        } else {
            Worth::Nothing
        }
    }

    /// How long the store has to keep the entry.
    pub(crate) fn kept_for(&self, now: SystemTime) -> Lifetime {
        let window = self.stale_while_revalidate.max(self.stale_if_error);
        let until = self.fresh_until.map(|until| until.checked_add(window));
        let Some(until) = until.flatten() else {
            return Lifetime::Forever;
        };
        let left = until.duration_since(now).unwrap_or_default();
        let unit = Duration::from_millis(1);
        Lifetime::For(left.max(unit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn stamp(while_revalidate: u32, if_error: u32) -> (SystemTime, Stamp) {
        let now = SystemTime::now();
        let mut stamp = Stamp::new(now, Some(10 * SECOND));
        stamp.stale_while_revalidate = while_revalidate * SECOND;
        stamp.stale_if_error = if_error * SECOND;
        (now, stamp)
    }

    fn stale(while_revalidate: bool, if_error: bool) -> Worth {
        Worth::Stale {
            while_revalidate,
            if_error,
        }
    }

    #[test]
    fn each_instant_ends_what_it_bounds() {
        let (start, stamp) = stamp(5, 20);
        let worth = |seconds| stamp.worth(start + seconds * SECOND, TagState::Current);
        assert_eq!(worth(9), Worth::Fresh);
        assert_eq!(worth(10), stale(true, true));
        assert_eq!(worth(14), stale(true, true));
        assert_eq!(worth(15), stale(false, true));
        assert_eq!(worth(29), stale(false, true));
        assert_eq!(worth(30), Worth::Nothing);
        assert_eq!(stamp.kept_for(start), Lifetime::For(30 * SECOND));
        let stale_since = start + 12 * SECOND;
        assert_eq!(stamp.kept_for(stale_since), Lifetime::For(18 * SECOND));
    }

    #[test]
    fn expired_tags_make_stale_and_invalid_ones_nothing() {
        let (start, windowed) = stamp(5, 0);
        assert_eq!(windowed.worth(start, TagState::Expired), stale(true, false));
        assert_eq!(windowed.worth(start, TagState::Invalid), Worth::Nothing);
        let (start, bare) = stamp(0, 0);
        assert_eq!(bare.worth(start, TagState::Expired), Worth::Nothing);
        let mut forever = windowed;
        forever.fresh_until = None;
        assert_eq!(forever.worth(start, TagState::Expired), stale(true, false));
        assert_eq!(forever.kept_for(start), Lifetime::Forever);
    }
}
