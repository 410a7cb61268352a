//! Which keys the present task computes: none waits for itself, in however many turns.

use std::future::Future;
use std::sync::Arc;

use super::Cache;
use crate::key::Key;

tokio::task_local! {
    /// Caches, by where their flights are, and keys.
    static COMPUTING: Computing;
}

type Computing = Vec<(usize, Key)>;

/// Whether the present task computes this key of this cache.
pub(super) fn computes(cache: &Cache, key: &Key) -> bool {
    let place = place(cache);
    COMPUTING
        .try_with(|computing| {
            let mut all = computing.iter();
            all.any(|(cache, computed)| *cache == place && computed == key)
        })
        .unwrap_or(false)
}

/// Whether the present task computes anything.
pub(super) fn is_computing() -> bool {
    COMPUTING
        .try_with(|computing| !computing.is_empty())
        .unwrap_or(false)
}

/// The present task, once it computes this key, too: what it begins, and how it runs.
pub(super) struct Nested(Computing);

impl Nested {
    pub(super) fn new(cache: &Cache, keys: impl IntoIterator<Item = Key>) -> Self {
        let mut computing = COMPUTING.try_with(Clone::clone).unwrap_or_default();
        let place = place(cache);
        computing.extend(keys.into_iter().map(|key| (place, key)));
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
