//! By which connection a command goes, and how often.

use std::sync::atomic::Ordering;

use redis::{Cmd, Value};
use tokio::time::Instant;

use super::lane::{Lane, Request};
use super::{Redis, recent, reply};
use crate::error::Result;
use crate::key::Key;

impl Redis {
    /// Sends what changes the key of this hash, once: it may count.
    pub(super) async fn write(
        &self,
        hash: u64,
        request: Request<'_>,
        until: Instant,
    ) -> Result<Value> {
        self.note(hash);
        let outcome = self.leader(hash).call(request, until).await;
        self.note(hash);
        outcome
    }

    /// Sends what changes the key of this hash, and again if the connection turns out lost: twice is
    /// the same as once.
    pub(super) async fn write_surely(
        &self,
        hash: u64,
        request: Request<'_>,
        until: Instant,
    ) -> Result<Value> {
        match self.write(hash, request, until).await {
            Err(error) if reply::is_lost_call(&error) => {
                Box::pin(self.write(hash, request, until)).await
            }
            outcome => outcome,
        }
    }

    /// Sends a command that only reads `key`.
    pub(super) async fn read(&self, key: &Key, command: &Cmd) -> Result<Value> {
        let hash = self.hash(key);
        let request = Request::Command(command);
        self.read_at(hash, !self.is_recent(hash), request, self.until())
            .await
    }

    pub(super) async fn read_at(
        &self,
        hash: u64,
        may_lag: bool,
        request: Request<'_>,
        until: Instant,
    ) -> Result<Value> {
        if may_lag && let Some(replica) = self.replica(hash) {
            let half = Instant::now() + self.inner.operation_timeout / 2;
            if let Ok(answer) = Box::pin(replica.call(request, half.min(until))).await {
                return Ok(answer);
            }
        }
        let leader = self.leader(hash);
        match leader.call(request, until).await {
            Err(error) if reply::is_lost_call(&error) => {
                Box::pin(leader.call(request, until)).await
            }
            outcome => outcome,
        }
    }

    /// The connection to the leader that all commands on one key share, so that they stay in
    /// order.
    pub(super) fn leader(&self, hash: u64) -> &Lane {
        &self.inner.leader[pick(hash, self.inner.leader.len())]
    }

    /// A connection to the next replica that is not known to be down.
    pub(super) fn replica(&self, hash: u64) -> Option<&Lane> {
        let replicas = &self.inner.replicas;
        if replicas.is_empty() {
            return None;
        }
        let turn = self.inner.turn.fetch_add(1, Ordering::Relaxed);
        (0..replicas.len())
            .map(|next| &replicas[turn.wrapping_add(next) % replicas.len()])
            .map(|lanes| &lanes[pick(hash, lanes.len())])
            .find(|lane| !lane.is_down())
    }

    /// By which a key finds its connection, and is known as written.
    pub(super) fn hash(&self, key: &Key) -> u64 {
        // One connection and no replica: there is nothing to choose.
        if self.inner.leader.len() == 1 && self.inner.recent.is_none() {
            return 0;
        }
        recent::hash(key)
    }

    /// Notes that a key is being written, or was just now.
    pub(super) fn note(&self, hash: u64) {
        if let Some(recent) = &self.inner.recent {
            recent.note(hash);
        }
    }

    pub(super) fn note_all(&self) {
        if let Some(recent) = &self.inner.recent {
            recent.note_all();
        }
    }

    pub(super) fn is_recent(&self, hash: u64) -> bool {
        let recent = self.inner.recent.as_ref();
        recent.is_some_and(|recent| recent.contains(hash))
    }

    pub(super) fn until(&self) -> Instant {
        // At most a day, so it does not overflow.
        Instant::now() + self.inner.operation_timeout
    }

    /// Notes that these keys are being written, or were just now; the hash of the first.
    pub(super) fn note_keys<'a>(&self, keys: impl IntoIterator<Item = &'a Key>) -> u64 {
        let mut hashes = keys.into_iter().map(|key| self.hash(key));
        let first = hashes.next().unwrap_or(0);
        self.note(first);
        hashes.for_each(|hash| self.note(hash));
        first
    }
}

fn pick(hash: u64, lanes: usize) -> usize {
    // The low bits choose the slot of recent writes.
    #[allow(clippy::cast_possible_truncation, reason = "any bits of a hash do")]
    let high = (hash >> 32) as usize;
    high % lanes
}
