//! The near tier, and what keeps stale copies out of it.
//!
//! # Invariants
//!
//! - A copy lands only if nothing was heard of its key since the call to the far store began that it
//!   came by: [`Near::begin`] before the call, and the token of that to keep anything.
//! - When a write to the far store came to its end, no copy lands any more that began before, that
//!   of another write among them: which of two that overlapped came last, the far store alone knows.
//!
//! The fences are stripes, not an exact table as in `fence.rs`: who meets another's key there reads
//! the far store once more, and loses no computation.

use std::hash::BuildHasher;
use std::sync::{Mutex, MutexGuard, PoisonError};

use foldhash::quality::RandomState;

use crate::backend::{Backend, Memory};
use crate::entry::Entry;
use crate::key::Key;
use crate::ttl::Lifetime;

const STRIPES: usize = 1024;

#[derive(Debug)]
pub(super) struct Near {
    memory: Memory,
    /// How often something was heard of a key of each stripe.
    stripes: Box<[Mutex<u64>]>,
    hasher: RandomState,
}

/// When a call to the far store began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token {
    stripe: usize,
    epoch: u64,
}

/// What a call to the far store leaves near.
#[derive(Debug)]
pub(super) enum Kept {
    /// What the far store holds now.
    Of(Entry, Lifetime),
    /// What is held, if anything is, for this long.
    Renewed(Lifetime),
    None,
}

impl Near {
    pub(super) fn new(memory: Memory) -> Self {
        Self {
            memory,
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
            hasher: RandomState::default(),
        }
    }

    pub(super) fn find(&self, key: &Key) -> Option<Entry> {
        self.memory.find(key)
    }

    pub(super) fn begin(&self, key: &Key) -> Token {
        let stripe = self.stripe(key.as_str());
        let epoch = *self.lock(stripe);
        Token { stripe, epoch }
    }

    /// Keeps what a read brought. `copy` says what, and is asked at the last moment.
    pub(super) fn promote(&self, key: &Key, token: Token, copy: impl FnOnce() -> Kept) {
        let epoch = self.lock(token.stripe);
        if *epoch == token.epoch {
            self.keep(key, copy());
        }
    }

    /// A write came to its end: `copy` is what it left, as far as this call knows.
    pub(super) fn wrote(&self, key: &Key, token: Token, copy: impl FnOnce() -> Kept) {
        let mut epoch = self.lock(token.stripe);
        if *epoch == token.epoch {
            self.keep(key, copy());
        } else {
            self.memory.forget(key.as_str());
        }
        *epoch += 1;
    }

    /// Something was heard of this key.
    pub(super) fn forget(&self, key: &str) {
        *self.lock(self.stripe(key)) += 1;
        // What lands after this has begun after it.
        self.memory.forget(key);
    }

    /// Of keys that begin so.
    pub(super) async fn forget_prefix(&self, prefix: &str) {
        self.bar_all();
        if self.memory.delete_prefix(prefix).await.is_err() {
            self.memory.forget_all();
        }
    }

    pub(super) fn forget_all(&self) {
        self.bar_all();
        self.memory.forget_all();
    }

    fn bar_all(&self) {
        for stripe in 0..STRIPES {
            *self.lock(stripe) += 1;
        }
    }

    fn keep(&self, key: &Key, copy: Kept) {
        match copy {
            Kept::Of(entry, lifetime) => self.memory.keep(key, entry, lifetime),
            Kept::Renewed(lifetime) => self.memory.renew(key, lifetime),
            Kept::None => self.memory.forget(key.as_str()),
        }
    }

    fn stripe(&self, key: &str) -> usize {
        #[allow(clippy::cast_possible_truncation, reason = "any bits of a hash do")]
        let hash = self.hasher.hash_one(key) as usize;
        hash % STRIPES
    }

    fn lock(&self, stripe: usize) -> MutexGuard<'_, u64> {
        // A count is never half raised.
        self.stripes[stripe]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
