//! Putting a response among the variants of its page.
//!
//! # Invariants
//!
//! - The fields that the responses of a page vary on, and the marks of its variants, are those of
//!   the primary entry as it is when it is written: of the writers of one layer, none undoes what
//!   another one has added.
//! - There are never more variants of a page than the layer permits. What is over goes into the
//!   primary entry only, where the next one displaces it.
//! - A primary entry that is gone takes its generation with it: nothing brings that back. One that
//!   has come meanwhile stays, with all its variants.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::time::SystemTime;

use tokio::sync::{Mutex, MutexGuard};

use super::layer::Config;
use super::stored::{StoredPage, VariantMark};
use crate::error::Result;
use crate::key::Key;
use crate::semantics::vary::union;
use crate::ttl::Lifetime;

/// Locks for the writers of variants, by page.
const STRIPES: usize = 64;

/// The writers of variants of one layer: one at a time for a page.
pub(super) struct Turns {
    hasher: RandomState,
    stripes: [Mutex<()>; STRIPES],
}

impl Turns {
    async fn of(&self, page: &Key) -> MutexGuard<'_, ()> {
        let hash = self.hasher.hash_one(page.as_str());
        let stripe = usize::try_from(hash % STRIPES as u64).unwrap_or(0);
        self.stripes[stripe].lock().await
    }
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            stripes: std::array::from_fn(|_| Mutex::new(())),
        }
    }
}

impl fmt::Debug for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turns").finish_non_exhaustive()
    }
}

/// Tells the variants of a page from those it had before it was purged.
pub(super) fn new_generation(now: SystemTime) -> u64 {
    RandomState::new().hash_one(now)
}

/// Where a response goes.
pub(super) struct Slot<'a> {
    pub(super) config: &'a Config,
    pub(super) key: &'a Key,
    /// Where it goes beside the primary entry, if the target has variants.
    pub(super) variant_key: Option<&'a Key>,
    /// There was a primary entry, whose generation the page has.
    pub(super) known: bool,
    /// The most variants that there may be, this one included.
    pub(super) most: usize,
}

impl Slot<'_> {
    /// Stores a page that has been made.
    pub(super) async fn put(&self, page: &StoredPage) -> Result<()> {
        let now = page.stored().stored_at;
        let mut primary = page.clone();
        let mut batch = Vec::with_capacity(2);
        let mut turn = None;
        if let Some(key) = self.variant_key {
            turn = Some(self.config.turns.of(self.key).await);
            if self.joins(&mut primary, key, now).await {
                let entry = page.encode(key, now)?;
                batch.push((key.clone(), entry, lifetime(page, now)));
            }
        }
        let primary_lifetime = lifetime(&primary, now);
        if !self.config.page_keys.inlines() {
            primary.response = None;
        }
        let entry = primary.encode(self.key, now)?;
        batch.push((self.key.clone(), entry, primary_lifetime));
        let outcomes = self.config.cache.backend().set_many(batch).await?;
        drop(turn);
        outcomes.into_iter().collect()
    }

    /// Joins a page with the primary entry that there is. Whether it may have an entry of its own
    /// beside that, under `key`.
    async fn joins(&self, page: &mut StoredPage, key: &Key, now: SystemTime) -> bool {
        let own = VariantMark::new(key, page.kept_until);
        let current = self.current().await;
        let is_same = current
            .as_ref()
            .map_or(!self.known, |it| it.generation == page.generation);
        match current {
            Some(current) => {
                page.generation = current.generation;
                page.variants = current.variants;
                let own = std::mem::take(&mut page.vary);
                page.vary = union(own.into_iter().chain(current.vary));
                let both = page.kept_until.zip(current.kept_until);
                page.kept_until = both.map(|(one, other)| one.max(other));
            }
            None if self.known => page.generation = new_generation(now),
            None => {}
        }
        page.variants
            .retain(|other| !other.is_over(now) && !other.is_of(own));
        // Its key is of the generation that it was made for: under another one nobody finds it.
        let inlines = self.config.page_keys.inlines();
        let has_room = !inlines || (is_same && page.variants.len() < self.most);
        if has_room {
            page.variants.push(own);
        }
        has_room
    }

    /// The primary entry that there is now.
    async fn current(&self) -> Option<StoredPage> {
        let cache = &self.config.cache;
        let entry = cache.fetch(self.key).await.ok()??;
        StoredPage::decode(cache, self.key, entry.bytes()).ok()
    }
}

/// For how long the store keeps a page.
fn lifetime(page: &StoredPage, now: SystemTime) -> Lifetime {
    page.kept_until.map_or(Lifetime::Forever, |until| {
        Lifetime::For(until.duration_since(now).unwrap_or_default())
    })
}
