//! Calls that change the far store, and what has to happen however they end.

use tokio::time::Instant;

use super::Inner;
use super::near::{Kept, Token};
use super::outbox::Change;
use crate::entry::{Entry, is_lease};
use crate::error::{Error, ErrorKind};
use crate::key::Key;
use crate::ttl::Lifetime;

/// A change of these keys that is under way. Dropped with its call, nobody knows whether it happened,
/// or will.
pub(super) struct Writing<'a> {
    inner: &'a Inner,
    keys: &'a [Key],
    tokens: Vec<Token>,
    since: Instant,
    is_over: bool,
}

impl<'a> Writing<'a> {
    pub(super) fn begin(inner: &'a Inner, keys: &'a [Key]) -> Self {
        inner.node.start();
        Self {
            inner,
            keys,
            tokens: keys.iter().map(|key| inner.node.near.begin(key)).collect(),
            since: Instant::now(),
            is_over: false,
        }
    }

    /// It happened, and left these copies.
    pub(super) fn happened(mut self, mut copy: impl FnMut(usize) -> Kept) {
        self.is_over = true;
        let node = &self.inner.node;
        for (at, (key, token)) in self.keys.iter().zip(&self.tokens).enumerate() {
            node.near
                .wrote(key, *token, || self.inner.copy(copy(at), self.since));
        }
        node.say(|| self.change());
    }

    /// The far store holds something else than what was expected, and is as it was.
    pub(super) fn refused(mut self) {
        self.is_over = true;
        for key in self.keys {
            self.inner.node.near.forget(key.as_str());
        }
    }

    /// Nothing changed.
    pub(super) fn nothing(mut self) {
        self.is_over = true;
    }

    pub(super) fn failed(self, error: &Error) {
        match error.kind() {
            ErrorKind::KeyMissing
            | ErrorKind::NotAnInteger
            | ErrorKind::OutOfRange
            | ErrorKind::Unsupported => self.refused(),
            _ => drop(self),
        }
    }

    fn change(&self) -> Change {
        let keys = self.keys.iter().map(|key| key.as_str().to_owned());
        Change::Keys(keys.collect())
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            for key in self.keys {
                self.inner.node.near.forget(key.as_str());
            }
            self.inner.node.say_twice(|| self.change());
        }
    }
}

/// A removal of all keys that begin with a prefix, under way.
pub(super) struct Clearing<'a> {
    inner: &'a Inner,
    prefix: &'a str,
    is_over: bool,
}

impl<'a> Clearing<'a> {
    pub(super) fn begin(inner: &'a Inner, prefix: &'a str) -> Self {
        inner.node.start();
        Self {
            inner,
            prefix,
            is_over: false,
        }
    }

    pub(super) async fn happened(mut self) {
        if self.prefix.is_empty() {
            self.inner.node.near.forget_all();
        } else {
            self.inner.node.near.forget_prefix(self.prefix).await;
        }
        self.is_over = true;
        self.inner.node.say(|| self.change());
    }

    pub(super) fn failed(mut self, error: &Error) {
        self.is_over = error.kind() == ErrorKind::Unsupported;
    }

    fn change(&self) -> Change {
        Change::Prefix(self.prefix.to_owned())
    }
}

impl Drop for Clearing<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.inner.node.near.forget_all();
            self.inner.node.say_twice(|| self.change());
        }
    }
}

impl Inner {
    /// What of `copy` may be kept of a call that began then, now that it lands.
    pub(super) fn copy(&self, copy: Kept, since: Instant) -> Kept {
        if !self.node.is_near_good() {
            return Kept::None;
        }
        match copy {
            Kept::Of(entry, lifetime) if !is_lease(entry.bytes()) => self
                .near_lifetime(lifetime, since)
                .map_or(Kept::None, |lifetime| Kept::Of(entry, lifetime)),
            Kept::Renewed(lifetime) => self
                .near_lifetime(lifetime, since)
                .map_or(Kept::None, Kept::Renewed),
            Kept::Of(..) | Kept::None => Kept::None,
        }
    }

    /// The far store counts from some time of the call on, and nothing may live longer here.
    fn near_lifetime(&self, lifetime: Lifetime, since: Instant) -> Option<Lifetime> {
        let near = self.node.near_ttl();
        let left = match lifetime {
            Lifetime::Forever => near,
            Lifetime::For(lifetime) => near.min(lifetime.saturating_sub(since.elapsed())),
        };
        (!left.is_zero()).then_some(Lifetime::For(left))
    }
}

/// What a write of `entry` leaves.
pub(super) fn of(entry: &Entry, lifetime: Lifetime) -> Kept {
    Kept::Of(entry.clone(), lifetime)
}
