//! Which keys the present task computes: none waits for itself, in however many turns.

use std::future::Future;
use std::sync::Arc;

use super::Cache;
use super::background::Room;
use crate::key::Key;

tokio::task_local! {
    static COMPUTING: Vec<Part>;
}

/// A key that is computed.
#[derive(Clone)]
struct Part {
    /// Of which cache, by where its flights are.
    cache: usize,
    key: Key,
    room: Room,
}

/// Whether the present task computes this key of this cache.
pub(super) fn computes(cache: &Cache, key: &Key) -> bool {
    let place = place(cache);
    COMPUTING
        .try_with(|computing| {
            let mut all = computing.iter();
            all.any(|part| part.cache == place && part.key == *key)
        })
        .unwrap_or(false)
}

/// The room of what the present task computes for this cache. What that begins is a part of it, and keeps it.
pub(super) fn room(cache: &Cache) -> Option<Room> {
    let place = place(cache);
    let room = |computing: &Vec<Part>| {
        let mut all = computing.iter();
        let part = all.find(|part| part.cache == place);
        part.map(|part| part.room.clone())
    };
    COMPUTING.try_with(room).ok().flatten()
}

/// The present task, once it computes this key, too: what it begins, and how it runs.
pub(super) struct Nested(Vec<Part>);

impl Nested {
    pub(super) fn new(cache: &Cache, keys: impl IntoIterator<Item = Key>, room: &Room) -> Self {
        let mut computing = COMPUTING.try_with(Clone::clone).unwrap_or_default();
        let cache = place(cache);
        computing.extend(keys.into_iter().map(|key| Part {
            cache,
            key,
            room: room.clone(),
        }));
        Self(computing)
    }

    /// Begins something.
    pub(super) fn begin<T>(&self, begin: impl FnOnce() -> T) -> T {
        COMPUTING.sync_scope(self.0.clone(), begin)
    }

    /// Runs something.
    pub(super) fn run<F: Future>(self, running: F) -> impl Future<Output = F::Output> + use<F> {
        COMPUTING.scope(self.0, running)
    }
}

fn place(cache: &Cache) -> usize {
    Arc::as_ptr(&cache.shared.flights).addr()
}
