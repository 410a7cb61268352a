//! One server: its connections, and the generations of its namespaces.
//!
//! Memcached cannot find the keys of a namespace. So every key on the wire holds a generation, a
//! number that the server keeps for the namespace, and `clear` raises it: what was there before
//! cannot be reached any more, and is evicted in time.
//!
//! # Invariants
//!
//! - A command counts only if the generation that its keys hold was still the server's after it:
//!   both are asked for in one round trip, and generations never come back. Otherwise the command
//!   touched what nobody can reach, and is sent again.
//! - A generation that the server lost begins anew at random, so nothing old comes back.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, LazyLock, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::connection::{Address, Connection, Credentials};
use super::protocol::{Batch, Reply, generation_key, refused, unexpected};
use crate::backend::shared::Shared;
use crate::error::{Error, ErrorKind, Result};

/// How often a command is sent again because the namespace was cleared meanwhile.
const TRIES: usize = 8;

pub(super) struct Node {
    address: Address,
    credentials: Option<Credentials>,
    lanes: Vec<Arc<Shared<Connection>>>,
    generations: RwLock<HashMap<String, u64>>,
}

impl Node {
    pub(super) fn new(
        address: Address,
        credentials: Option<Credentials>,
        connections: usize,
        connect_timeout: Duration,
    ) -> Self {
        Self {
            address,
            credentials,
            lanes: (0..connections)
                .map(|_| Shared::new(connect_timeout))
                .collect(),
            generations: RwLock::default(),
        }
    }

    /// What the ring knows the server by.
    pub(super) fn identity(&self) -> String {
        match &self.address {
            Address::Tcp(host, port) => format!("{host}:{port}"),
            #[cfg(unix)]
            Address::Unix(path) => path.display().to_string(),
        }
    }

    /// The replies to the commands that `commands` makes for a generation of `namespace`.
    pub(super) async fn in_generation(
        &self,
        namespace: &str,
        lane: usize,
        until: Instant,
        commands: impl Fn(&mut Batch, u64) + Send,
    ) -> Result<Vec<Reply>> {
        let mut known = match self.known(namespace) {
            Some(known) => known,
            // In a box, so that it takes no room in the futures of calls that need it not.
            None => Box::pin(self.ask(namespace, lane, until)).await?,
        };
        for _ in 0..TRIES {
            let mut batch = Batch::default();
            commands(&mut batch, known);
            batch.push(format_args!("mg {} v", generation_key(namespace)), None);
            let mut replies = self.call(batch, lane, until).await?;
            match replies.pop() {
                Some(Reply::Value(now, _)) if generation(&now) == Some(known) => {
                    return Ok(replies);
                }
                Some(Reply::Error(text)) => return Err(refused(&text)),
                _ => known = Box::pin(self.ask(namespace, lane, until)).await?,
            }
        }
        Err(Error::new(ErrorKind::Unavailable).with_message("the cache is being cleared"))
    }

    /// Makes everything in `namespace` unreachable.
    pub(super) async fn clear(&self, namespace: &str, until: Instant) -> Result<()> {
        let mut batch = Batch::default();
        let key = generation_key(namespace);
        batch.push(format_args!("ma {key} N0 J{} D1 v", random()), None);
        let now = match self.call(batch, 0, until).await?.pop() {
            Some(Reply::Value(now, _)) => generation(&now),
            Some(Reply::Error(text)) => return Err(refused(&text)),
            _ => None,
        };
        match now {
            Some(now) => self.learn(namespace, now),
            None => return Err(unexpected()),
        }
        Ok(())
    }

    /// The replies to `batch`, sent once.
    pub(super) async fn call(
        &self,
        batch: Batch,
        lane: usize,
        until: Instant,
    ) -> Result<Vec<Reply>> {
        let open = || Connection::open(self.address.clone(), self.credentials.clone());
        self.lanes[lane % self.lanes.len()]
            .call(until, open, |connection| connection.call(batch))
            .await
    }

    pub(super) fn close(&self) {
        self.lanes.iter().for_each(|lane| lane.close());
    }

    fn known(&self, namespace: &str) -> Option<u64> {
        let generations = self.generations.read();
        let generations = generations.unwrap_or_else(PoisonError::into_inner);
        generations.get(namespace).copied()
    }

    fn learn(&self, namespace: &str, generation: u64) {
        let generations = self.generations.write();
        let mut generations = generations.unwrap_or_else(PoisonError::into_inner);
        generations.insert(namespace.to_owned(), generation);
    }

    /// Asks the server for the generation, and begins one where there is none.
    async fn ask(&self, namespace: &str, lane: usize, until: Instant) -> Result<u64> {
        let key = generation_key(namespace);
        let mut batch = Batch::default();
        let first = random().to_string();
        let length = first.len();
        // `ME` leaves what is there.
        batch.push(format_args!("ms {key} {length} ME"), Some(first.as_bytes()));
        batch.push(format_args!("mg {key} v"), None);
        match self.call(batch, lane, until).await?.pop() {
            Some(Reply::Value(now, _)) => {
                let now = generation(&now).ok_or_else(unexpected)?;
                self.learn(namespace, now);
                Ok(now)
            }
            Some(Reply::Error(text)) => Err(refused(&text)),
            _ => Err(unexpected()),
        }
    }
}

pub(super) fn generation(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.trim_end().parse().ok()
}

/// Another number each time, in each process; far from the end of the range.
fn random() -> u64 {
    static PROCESS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    PROCESS.hash_one((now.unwrap_or_default(), std::process::id())) >> 1
}
