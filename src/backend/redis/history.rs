//! In which history of its data a leader is.
//!
//! # Invariants
//!
//! - It is asked over each new connection before anything else is. So whoever has an answer knows the history
//!   that it is of, or a later one.
//! - Of connections made at the same time, the one that was begun last decides.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisResult, Value, cmd, from_redis_value};
use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64;

use super::reply;
use crate::error::Result;

/// What Redis calls the replication ID: a server draws another one when it starts, when it takes over, and now and
/// then when its first replica comes.
const FIELD: &str = "master_replid:";

/// How often it is asked for at most, beside new connections.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
pub(super) struct History {
    tickets: AtomicU64,
    told: Mutex<Told>,
    /// Zero: not known.
    number: AtomicU64,
}

#[derive(Debug, Default)]
struct Told {
    /// The ticket by which it was told last.
    by: u64,
    /// When somebody last asked beside new connections.
    asked: Option<Instant>,
}

impl History {
    pub(super) fn number(&self) -> u64 {
        self.number.load(Ordering::Acquire)
    }

    /// For a connection that is about to be made.
    pub(super) fn ticket(&self) -> u64 {
        self.tickets.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// For who is to ask over a connection that there is, if nobody just did.
    pub(super) fn turn(&self) -> Option<u64> {
        let mut told = self.last();
        let is_due = told.asked.is_none_or(|asked| asked.elapsed() >= PAUSE);
        is_due.then(|| {
            told.asked = Some(Instant::now());
            self.ticket()
        })
    }

    /// Asks over the connection of this ticket.
    ///
    /// # Errors
    ///
    /// If there is no answer that says so. Who may not ask knows what it knew before.
    pub(super) async fn learn(
        &self,
        ticket: u64,
        connection: &mut MultiplexedConnection,
    ) -> Result<()> {
        let answer: RedisResult<Value> = question().query_async(connection).await;
        match answer {
            Ok(info) => self.told(ticket, Some(info)),
            // By its rights, or as it has no such command.
            Err(error) if matches!(error.code(), Some("NOPERM" | "ERR")) => {}
            Err(error) => return Err(reply::error(error)),
        }
        Ok(())
    }

    /// Notes what was answered to this ticket.
    pub(super) fn told(&self, ticket: u64, answer: Option<Value>) {
        let info: Option<String> = answer.and_then(|answer| from_redis_value(answer).ok());
        let Some(number) = info.as_deref().and_then(number_of) else {
            return;
        };
        let mut told = self.last();
        if told.by < ticket {
            told.by = ticket;
            self.number.store(number, Ordering::Release);
        }
    }

    fn last(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is asked.
pub(super) fn question() -> Cmd {
    cmd("INFO").arg("replication").take()
}

fn number_of(info: &str) -> Option<u64> {
    let id = info.lines().find_map(|line| line.strip_prefix(FIELD))?;
    Some(xxh3_64(id.trim().as_bytes()).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_id_is_another_history_and_none_is_none() {
        let info =
            |id: &str| format!("# Replication\r\nrole:master\r\nmaster_replid:{id}\r\nx:1\r\n");
        let (one, other) = (number_of(&info("ab")), number_of(&info("ac")));
        assert!(one != other && one.is_some() && other.is_some());
        assert_eq!(number_of(&info("ab")), one);
        assert_eq!(number_of("# Replication\r\nrole:master\r\n"), None);
    }
}
