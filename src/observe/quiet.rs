//! Log lines that say the same: one in a while, and how many there were.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long after a line there is no other like it.
const PAUSE: Duration = Duration::from_secs(10);

/// How many lines are told apart: more than caches and ways to fail. Beyond, there are none for a while.
const MOST: usize = 1024;

/// When which lines were written: whose, and of what.
#[derive(Debug, Default)]
pub(super) struct Quiet {
    lines: Mutex<HashMap<(String, &'static str), Line>>,
}

#[derive(Debug)]
struct Line {
    at: Instant,
    left_out: u64,
}

impl Quiet {
    /// Whether there is to be a line now, and how many were left out since the last one.
    pub(super) fn speaks(&self, whose: &str, what: &'static str, now: Instant) -> Option<u64> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() >= MOST {
            lines.retain(|_, line| now.saturating_duration_since(line.at) < PAUSE);
        }
        let is_full = lines.len() >= MOST;
        match lines.entry((whose.to_owned(), what)) {
            Entry::Vacant(_) if is_full => None,
            Entry::Vacant(line) => {
                line.insert(Line {
                    at: now,
                    left_out: 0,
                });
                Some(0)
            }
            Entry::Occupied(line) => {
                let line = line.into_mut();
                if now.saturating_duration_since(line.at) < PAUSE {
                    line.left_out += 1;
                    return None;
                }
                line.at = now;
                Some(std::mem::take(&mut line.left_out))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A1: at most one line in ten seconds for each store and kind of failure.
    #[test]
    fn a1_there_is_one_line_in_ten_seconds() {
        let (quiet, start) = (Quiet::default(), Instant::now());
        let mut lines = Vec::new();
        for tenth in 0..350 {
            let now = start + Duration::from_millis(tenth * 100);
            if let Some(left_out) = quiet.speaks("default", "timeout", now) {
                lines.push((tenth, left_out));
            }
        }
        assert_eq!(lines, [(0, 0), (100, 99), (200, 99), (300, 99)]);
        // Others are not silenced by it.
        assert_eq!(quiet.speaks("default", "unavailable", start), Some(0));
        assert_eq!(quiet.speaks("other", "timeout", start), Some(0));
    }

    #[test]
    fn it_does_not_grow_without_end() {
        let (quiet, start) = (Quiet::default(), Instant::now());
        for name in 0..10 * MOST {
            quiet.speaks(&name.to_string(), "timeout", start);
        }
        assert_eq!(quiet.lines.lock().map(|lines| lines.len()).ok(), Some(MOST));
        let later = start + PAUSE;
        assert_eq!(quiet.speaks("new", "timeout", later), Some(0));
        assert_eq!(quiet.lines.lock().map(|lines| lines.len()).ok(), Some(1));
    }
}
