//! Which keys were written a moment ago, so that they are not read from a replica that lags.
//!
//! # Invariant
//!
//! A key that this process wrote within the window is recent. Others may be taken for recent, too,
//! at the price of a read from the leader.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::key::Key;

/// Enough that few keys share one at thousands of writes a window.
const SLOTS: usize = 4096;

/// When keys were last written, by hash.
#[derive(Debug)]
pub(super) struct Recent {
    start: Instant,
    window: Duration,
    /// Milliseconds since the start, plus one; zero for never.
    slots: Box<[AtomicU64]>,
    all: AtomicU64,
}

impl Recent {
    pub(super) fn new(window: Duration) -> Self {
        Self {
            start: Instant::now(),
            window,
            slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
            all: AtomicU64::new(0),
        }
    }

    /// The key is being written, or was just now.
    pub(super) fn note(&self, hash: u64) {
        self.slot(hash).store(self.now(), Ordering::Release);
    }

    /// Any key may have been.
    pub(super) fn note_all(&self) {
        self.all.store(self.now(), Ordering::Release);
    }

    pub(super) fn contains(&self, hash: u64) -> bool {
        let last = self.slot(hash).load(Ordering::Acquire);
        let last = last.max(self.all.load(Ordering::Acquire));
        let window = u64::try_from(self.window.as_millis()).unwrap_or(u64::MAX);
        last != 0 && self.now().saturating_sub(last) <= window
    }

    fn slot(&self, hash: u64) -> &AtomicU64 {
        #[allow(clippy::cast_possible_truncation, reason = "any bits of a hash do")]
        &self.slots[hash as usize % SLOTS]
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).map_or(u64::MAX, |millis| millis + 1)
    }
}

/// The hash by which a key finds its slot and its connection.
pub(super) fn hash(key: &Key) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.as_str().hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_recent_for_the_window() {
        let recent = Recent::new(Duration::from_millis(30));
        assert!(!recent.contains(7));
        recent.note(7);
        assert!(recent.contains(7) && !recent.contains(8));
        recent.note_all();
        assert!(recent.contains(8));
        std::thread::sleep(Duration::from_millis(60));
        assert!(!recent.contains(7) && !recent.contains(8));
    }
}
