//! Removing what expired, behind the caller's back.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Sql;
use super::statement::{Bind, Slot, Statement};
use crate::backend::deadline::Deadline;
use crate::error::Result;

/// How long one step of culling may take: nobody waits for it.
pub(super) const CULL_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a step is to take. Others wait for the rows that it holds, and in SQLite for the file.
const STEP: Duration = Duration::from_millis(2);

/// The rows of the first step, before it is known how long one takes.
const FIRST_ROWS: i64 = 64;

/// The least rows of a step, however slow: each costs a statement, too.
const LEAST_ROWS: i64 = 16;

/// When to sweep, and how much of it.
#[derive(Debug)]
pub(super) struct Sweeper {
    /// Starts anywhere, so that processes started together do not sweep together.
    writes: AtomicU64,
    interval: u64,
    limit: u32,
    max_entries: Option<u64>,
    is_running: AtomicBool,
}

impl Sweeper {
    pub(super) fn new(interval: u64, limit: u32, max_entries: Option<u64>) -> Self {
        let start = RandomState::new().hash_one(interval) % interval.max(1);
        Self {
            writes: AtomicU64::new(start),
            interval,
            limit,
            max_entries,
            is_running: AtomicBool::new(false),
        }
    }

    /// The most rows of a statement.
    pub(super) fn limit(&self) -> i64 {
        self.limit.into()
    }

    /// Whether the next so many writes are the ones to sweep after.
    fn is_due(&self, writes: u64) -> bool {
        if self.interval == 0 {
            return false;
        }
        let before = self.writes.fetch_add(writes, Ordering::Relaxed);
        before / self.interval != before.wrapping_add(writes) / self.interval
    }
}

impl Sql {
    /// Notes writes, and begins to sweep if it is time to and nobody does.
    pub(super) fn wrote(&self, entries: usize) {
        let sweeper = &self.inner.sweeper;
        if sweeper.is_due(entries as u64) && !sweeper.is_running.swap(true, Ordering::AcqRel) {
            let running = Running(self.clone());
            tokio::spawn(async move {
                // Whatever fails now is tried again after as many writes more.
                let _ = running.0.sweep().await;
            });
        }
    }

    pub(super) async fn sweep(&self) -> Result<u64> {
        let statements = &self.inner.statements;
        let now = self.run_bounded(&statements.now, 0, 0).await?.1;
        let mut removed = self.remove(&statements.remove_due, now, u64::MAX).await?;
        if let Some(most) = self.inner.sweeper.max_entries {
            // Counted anew for each step: others may cull at the same time.
            loop {
                let over = self.over(most).await?;
                let soonest = self.remove(&statements.remove_due, i64::MAX, over).await?;
                let rest = over - soonest.min(over);
                let permanent = self.remove(&statements.remove_permanent, 0, rest).await?;
                removed += soonest + permanent;
                if soonest + permanent == 0 {
                    break;
                }
            }
        }
        Ok(removed)
    }

    /// How many rows there are over `most`, as far as one step goes.
    async fn over(&self, most: u64) -> Result<u64> {
        let limit = self.inner.sweeper.limit();
        let most = i64::try_from(most).unwrap_or(i64::MAX - limit);
        let counted = most.saturating_add(limit);
        let (_, count) = self
            .run_bounded(&self.inner.statements.count, 0, counted)
            .await?;
        Ok(count.saturating_sub(most).max(0).unsigned_abs())
    }

    /// Removes up to `most` rows, some at a time, until there are no more. How many.
    async fn remove(&self, statement: &Statement, due: i64, most: u64) -> Result<u64> {
        let limit = self.inner.sweeper.limit();
        let mut rows = FIRST_ROWS.min(limit);
        let mut removed = 0;
        while removed < most {
            let next = rows.min(i64::try_from(most - removed).unwrap_or(rows));
            let begin = Instant::now();
            let (changed, _) = self.run_bounded(statement, due, next).await?;
            removed += changed;
            if changed < next.unsigned_abs() {
                break;
            }
            let took = begin.elapsed();
            rows = rows_after(next, took).min(limit);
            // Half of the time is for those whom the step has kept waiting.
            sleep(took).await;
        }
        Ok(removed)
    }

    /// How many rows a statement changed, and the number that it answered.
    async fn run_bounded(&self, statement: &Statement, due: i64, limit: i64) -> Result<(u64, i64)> {
        let bind = |slot, _| match slot {
            Slot::Due => Bind::Int(Some(due)),
            _ => Bind::Int(Some(limit)),
        };
        let deadline = Deadline(self.inner.deadline.0.max(CULL_TIMEOUT));
        let reply = deadline.run(self.run(statement, bind)).await;
        let reply = reply.map_err(|error| error.at(self.inner.dialect.name, "cull"))?;
        let num = reply.rows.first().and_then(|row| row.num);
        Ok((reply.changed, num.unwrap_or_default()))
    }
}

/// The rows of the step after one of so many rows that took so long.
fn rows_after(rows: i64, took: Duration) -> i64 {
    if took > STEP {
        (rows / 2).max(LEAST_ROWS)
    } else if took < STEP / 2 {
        rows * 2
    } else {
        rows
    }
}

/// Says that nobody sweeps any more, however it ended.
struct Running(Sql);

impl Drop for Running {
    fn drop(&mut self) {
        self.0
            .inner
            .sweeper
            .is_running
            .store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_steps_get_shorter_and_fast_ones_longer() {
        assert_eq!(rows_after(100, 2 * STEP), 50);
        assert_eq!(rows_after(100, STEP), 100);
        assert_eq!(rows_after(100, STEP / 4), 200);
        assert_eq!(rows_after(LEAST_ROWS, 100 * STEP), LEAST_ROWS);
    }

    #[test]
    fn sweeping_is_due_once_an_interval() {
        let sweeper = Sweeper::new(10, 1, None);
        let due = (0..100).filter(|_| sweeper.is_due(1)).count();
        assert_eq!(due, 10);
        assert!(sweeper.is_due(25));
        assert!(!Sweeper::new(0, 1, None).is_due(1));
    }
}
