//! Removing many files, with pauses in which others get at the disk.

use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// The longest work between two pauses, but for one file.
const WORK: Duration = Duration::from_millis(1);

/// A pause takes so many times as long as the work before it, which takes longer on a busy disk. With a
/// million files, one as long as the work leaves others with a p99 of 119 ms, four times as long 8 ms.
const REST: u32 = 4;

/// The longest pause: whoever waits for the end of the work looks as often.
const LONGEST: Duration = Duration::from_millis(100);

/// Work that pauses, and ends early when nobody holds its [`Wish`] any more.
#[derive(Debug)]
pub(super) struct Spell {
    wish: Weak<()>,
    since: Instant,
}

/// That the work goes on. A task holds it, since a runtime that shuts down drops its tasks, but
/// waits for its blocking threads.
#[derive(Debug)]
#[must_use = "dropping it ends the work"]
pub(super) struct Wish(#[allow(dead_code, reason = "it is held")] Arc<()>);

impl Spell {
    pub(super) fn new() -> (Self, Wish) {
        let wish = Arc::new(());
        let spell = Self {
            wish: Arc::downgrade(&wish),
            since: Instant::now(),
        };
        (spell, Wish(wish))
    }

    pub(super) fn is_over(&self) -> bool {
        self.wish.strong_count() == 0
    }

    /// Pauses, if it is time to.
    pub(super) fn rest(&mut self) {
        let worked = self.since.elapsed();
        if worked < WORK || self.is_over() {
            return;
        }
        thread::sleep((worked * REST).min(LONGEST));
        self.since = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_of_the_time_is_for_others() {
        let (mut spell, wish) = Spell::new();
        thread::sleep(5 * WORK);
        let begin = Instant::now();
        spell.rest();
        assert!(begin.elapsed() >= 5 * WORK * REST);
        assert!(!spell.is_over());
        drop(wish);
        assert!(spell.is_over());
    }
}
