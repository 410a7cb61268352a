//! In which history of its data a leader is.
//!
//! # Invariants
//!
//! - It is asked over each new connection before anything else is. So whoever has an answer knows the history
//!   that it is of, or a later one.
//! - Of connections made at the same time, the one that was begun last decides.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, cmd};
use xxhash_rust::xxh3::xxh3_64;

use super::reply;
use crate::error::Result;

/// What Redis calls the replication ID: a server draws another one when it starts and when it takes over.
const FIELD: &str = "master_replid:";

#[derive(Debug, Default)]
pub(super) struct History {
    tickets: AtomicU64,
    /// The ticket of the connection that told it.
    told_by: Mutex<u64>,
    /// Zero: not known.
    number: AtomicU64,
}

impl History {
    pub(super) fn number(&self) -> u64 {
        self.number.load(Ordering::Acquire)
    }

    /// For a connection that is about to be made.
    pub(super) fn ticket(&self) -> u64 {
        self.tickets.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Asks over the connection of this ticket.
    ///
    /// # Errors
    ///
    /// If there is no answer. Who may not ask, or finds nothing, knows what it knew before.
    pub(super) async fn learn(
        &self,
        ticket: u64,
        connection: &mut MultiplexedConnection,
    ) -> Result<()> {
        let mut info = cmd("INFO");
        let answer: RedisResult<String> = info.arg("replication").query_async(connection).await;
        let number = match answer {
            Ok(info) => number_of(&info),
            Err(error) if error.code().is_some() => None,
            Err(error) => return Err(reply::error(error)),
        };
        let Some(number) = number else { return Ok(()) };
        let mut told_by = self.told_by.lock().unwrap_or_else(PoisonError::into_inner);
        if *told_by < ticket {
            *told_by = ticket;
            self.number.store(number, Ordering::Release);
        }
        Ok(())
    }
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
