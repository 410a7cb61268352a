//! What is to be said to the other nodes, until it is sent.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::message::{Word, of_keys, of_prefix};

/// Of more keys than these at a time, everything is said.
const MAX_KEYS: usize = 16_384;

/// Repetitions that wait. Of more, everything is said at once.
const MAX_LATER: usize = 1024;

/// Many writes between two messages are one message.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    pending: Mutex<Pending>,
}

#[derive(Debug, Default)]
struct Pending {
    keys: HashSet<String>,
    prefixes: HashSet<String>,
    everything: bool,
    /// What is said again, because nobody knows when it happens.
    later: Vec<(Instant, Change)>,
}

/// What changed, or may have.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Keys(Vec<String>),
    /// All keys that begin so; the empty one is everything.
    Prefix(String),
}

impl Outbox {
    pub(super) fn put(&self, change: Change) {
        self.lock().put(change);
    }

    /// To be said then, too.
    pub(super) fn put_later(&self, when: Instant, change: Change) {
        let mut pending = self.lock();
        if pending.later.len() < MAX_LATER {
            pending.later.push((when, change));
        } else {
            let when = pending.later.iter().map(|(when, _)| *when).max();
            let all = Change::Prefix(String::new());
            pending.later = when.map(|when| (when, all)).into_iter().collect();
        }
    }

    /// What is due again by now; when the next will be.
    pub(super) fn due(&self, now: Instant) -> (Vec<Change>, Option<Instant>) {
        let mut pending = self.lock();
        let later = std::mem::take(&mut pending.later);
        let (due, later): (Vec<_>, _) = later.into_iter().partition(|(when, _)| *when <= now);
        pending.later = later;
        let next = pending.later.iter().map(|(when, _)| *when).min();
        (due.into_iter().map(|(_, change)| change).collect(), next)
    }

    /// All of it, in messages of up to `limit` bytes.
    pub(super) fn take(&self, limit: usize) -> Vec<Word> {
        let Pending {
            keys,
            prefixes,
            everything,
            ..
        } = self.lock().take();
        if everything {
            return vec![Word::Everything];
        }
        let prefixes = prefixes.into_iter().map(|prefix| of_prefix(prefix, limit));
        prefixes.chain(of_keys(keys, limit)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pending {
    fn put(&mut self, change: Change) {
        match change {
            Change::Keys(keys) => self.keys.extend(keys),
            Change::Prefix(prefix) => {
                self.everything |= prefix.is_empty();
                self.prefixes.insert(prefix);
            }
        }
        if self.everything || self.keys.len() + self.prefixes.len() > MAX_KEYS {
            self.everything = true;
            self.keys.clear();
            self.prefixes.clear();
        }
    }

    fn take(&mut self) -> Self {
        let later = std::mem::take(&mut self.later);
        let taken = std::mem::take(self);
        self.later = later;
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn many_writes_are_one_message_and_too_many_are_everything() {
        let outbox = Outbox::default();
        for key in ["a", "b", "a"] {
            outbox.put(Change::Keys(vec![key.to_owned()]));
        }
        let words = outbox.take(1000);
        assert!(matches!(&words[..], [Word::Keys(keys)] if keys.len() == 2));
        assert!(outbox.take(1000).is_empty());
        outbox.put(Change::Keys(
            (0..=MAX_KEYS).map(|n| n.to_string()).collect(),
        ));
        assert_eq!(outbox.take(1000), [Word::Everything]);
    }

    #[test]
    fn what_is_due_later_stays_until_then() {
        let (outbox, now) = (Outbox::default(), Instant::now());
        let when = now + Duration::from_secs(1);
        outbox.put_later(when, Change::Prefix("p".to_owned()));
        outbox.take(1000);
        assert_eq!(outbox.due(now).1, Some(when));
        let (due, next) = outbox.due(when);
        assert!(matches!(&due[..], [Change::Prefix(p)] if p == "p") && next.is_none());
        for n in 0..2 * MAX_LATER {
            outbox.put_later(when, Change::Keys(vec![n.to_string()]));
        }
        assert!(outbox.due(when).0.len() <= MAX_LATER);
    }
}
