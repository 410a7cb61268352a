//! The operations of a backend, over both tiers.

use std::future::Future;
use std::pin::Pin;
use std::slice::from_ref;

use tokio::time::Instant;

use super::near::Kept;
use super::writing::{Clearing, Writing, of};
use super::{Inner, Tiered};
use crate::backend::{Backend, Capabilities, DynBackend, Peek};
use crate::entry::Entry;
use crate::error::Result;
use crate::key::Key;
use crate::side_by_side::{all, both};
use crate::ttl::Lifetime;

/// Of a batch, no more are asked for their lifetime, and so kept near.
const MAX_PROMOTED: usize = 128;

type Asking<'a> = Pin<Box<dyn Future<Output = Result<Option<Lifetime>>> + Send + 'a>>;

impl Inner {
    fn far(&self) -> &dyn DynBackend {
        self.far.as_dyn()
    }

    fn find(&self, key: &Key) -> Option<Entry> {
        let is_good = self.node.is_near_good();
        is_good.then(|| self.node.near.find(key)).flatten()
    }
}

#[deny(clippy::missing_trait_methods)]
impl Backend for Tiered {
    fn name(&self) -> &'static str {
        "tiered"
    }

    /// Those of the far store.
    fn capabilities(&self) -> Capabilities {
        self.inner.far().capabilities()
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        let inner = &*self.inner;
        inner.node.start();
        if !inner.node.is_near_good() {
            return inner.far().get(key).await;
        }
        if let Some(entry) = inner.node.near.find(key) {
            return Ok(Some(entry));
        }
        let (token, since) = (inner.node.near.begin(key), Instant::now());
        let (entry, lifetime) = both(inner.far().get(key), inner.far().ttl(key)).await;
        let entry = entry?;
        if let (Some(entry), Ok(Some(lifetime))) = (&entry, lifetime) {
            let copy = || inner.copy(of(entry, lifetime), since);
            inner.node.near.promote(key, token, copy);
        }
        Ok(entry)
    }

    async fn set(&self, key: &Key, entry: Entry, lifetime: Lifetime) -> Result<()> {
        let writing = Writing::begin(&self.inner, from_ref(key));
        let set = self.inner.far().set(key, entry.clone(), lifetime).await;
        match &set {
            Ok(()) => writing.happened(|_| of(&entry, lifetime)),
            Err(error) => writing.failed(error),
        }
        set
    }

    async fn add(&self, key: &Key, entry: Entry, lifetime: Lifetime) -> Result<bool> {
        let writing = Writing::begin(&self.inner, from_ref(key));
        let added = self.inner.far().add(key, entry.clone(), lifetime).await;
        match &added {
            Ok(true) => writing.happened(|_| of(&entry, lifetime)),
            Ok(false) => writing.nothing(),
            Err(error) => writing.failed(error),
        }
        added
    }

    async fn touch(&self, key: &Key, lifetime: Lifetime) -> Result<bool> {
        let writing = Writing::begin(&self.inner, from_ref(key));
        let touched = self.inner.far().touch(key, lifetime).await;
        match &touched {
            Ok(true) => writing.happened(|_| Kept::Renewed(lifetime)),
            Ok(false) => writing.refused(),
            Err(error) => writing.failed(error),
        }
        touched
    }

    async fn delete(&self, key: &Key) -> Result<bool> {
        let writing = Writing::begin(&self.inner, from_ref(key));
        let deleted = self.inner.far().delete(key).await;
        match &deleted {
            // If it had to be sent again, the first time may have removed it.
            Ok(_) => writing.happened(|_| Kept::None),
            Err(error) => writing.failed(error),
        }
        deleted
    }

    async fn incr(&self, key: &Key, delta: i64) -> Result<i64> {
        let writing = Writing::begin(&self.inner, from_ref(key));
        let sum = self.inner.far().incr(key, delta).await;
        match &sum {
            // How long it lives only the far store knows.
            Ok(_) => writing.happened(|_| Kept::None),
            Err(error) => writing.failed(error),
        }
        sum
    }

    async fn rename(&self, from: &Key, to: &Key) -> Result<bool> {
        let keys = [from.clone(), to.clone()];
        let writing = Writing::begin(&self.inner, &keys);
        let renamed = self.inner.far().rename(from, to).await;
        match &renamed {
            Ok(true) => writing.happened(|_| Kept::None),
            Ok(false) => writing.refused(),
            Err(error) => writing.failed(error),
        }
        renamed
    }

    /// As the far store knows it: what is near may live shorter.
    async fn ttl(&self, key: &Key) -> Result<Option<Lifetime>> {
        self.inner.far().ttl(key).await
    }

    async fn clear(&self, namespace: &str) -> Result<()> {
        let clearing = Clearing::begin(&self.inner, namespace);
        let cleared = self.inner.far().clear(namespace).await;
        match &cleared {
            Ok(()) => clearing.happened().await,
            Err(error) => clearing.failed(error),
        }
        cleared
    }

    async fn flush_store(&self) -> Result<()> {
        let clearing = Clearing::begin(&self.inner, "");
        let flushed = self.inner.far().flush_store().await;
        match &flushed {
            Ok(()) => clearing.happened().await,
            Err(error) => clearing.failed(error),
        }
        flushed
    }

    async fn compare_and_set(
        &self,
        key: &Key,
        expected: &Entry,
        entry: Entry,
        lifetime: Lifetime,
    ) -> Result<bool> {
        let writing = Writing::begin(&self.inner, from_ref(key));
        let far = self.inner.far();
        let swapped = far
            .compare_and_set(key, expected, entry.clone(), lifetime)
            .await;
        match &swapped {
            Ok(true) => writing.happened(|_| of(&entry, lifetime)),
            Ok(false) => writing.refused(),
            Err(error) => writing.failed(error),
        }
        swapped
    }

    /// The missing ones come from the far store in one call.
    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Entry>>> {
        let inner = &*self.inner;
        inner.node.start();
        if !inner.node.is_near_good() {
            return inner.far().get_many(keys).await;
        }
        let mut entries: Vec<_> = keys.iter().map(|key| inner.node.near.find(key)).collect();
        let missing: Vec<_> = (0..keys.len())
            .filter(|at| entries[*at].is_none())
            .collect();
        if missing.is_empty() {
            return Ok(entries);
        }
        let asked: Vec<_> = missing.iter().map(|at| keys[*at].clone()).collect();
        let near = &inner.node.near;
        let tokens: Vec<_> = asked.iter().map(|key| near.begin(key)).collect();
        let since = Instant::now();
        let lifetimes = asked.iter().take(MAX_PROMOTED);
        let lifetimes = lifetimes.map(|key| -> Asking<'_> { inner.far().ttl(key) });
        let (found, lifetimes) = both(inner.far().get_many(&asked), all(lifetimes.collect())).await;
        let found = found?;
        for (at, entry) in found.iter().enumerate() {
            if let (Some(entry), Some(Ok(Some(lifetime)))) = (entry, lifetimes.get(at)) {
                let copy = || inner.copy(of(entry, *lifetime), since);
                near.promote(&asked[at], tokens[at], copy);
            }
        }
        for (at, entry) in missing.into_iter().zip(found) {
            entries[at] = entry;
        }
        Ok(entries)
    }

    async fn set_many(&self, items: Vec<(Key, Entry, Lifetime)>) -> Result<Vec<Result<()>>> {
        let keys: Vec<_> = items.iter().map(|(key, ..)| key.clone()).collect();
        let copies: Vec<_> = items
            .iter()
            .map(|(_, entry, lifetime)| (entry.clone(), *lifetime))
            .collect();
        let writing = Writing::begin(&self.inner, &keys);
        let outcomes = self.inner.far().set_many(items).await;
        match &outcomes {
            Ok(each) if each.iter().all(Result::is_ok) => {
                writing.happened(|at| of(&copies[at].0, copies[at].1));
            }
            // Of some, nobody knows what became.
            Ok(_) => drop(writing),
            Err(error) => writing.failed(error),
        }
        outcomes
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<u64> {
        let writing = Writing::begin(&self.inner, keys);
        let deleted = self.inner.far().delete_many(keys).await;
        match &deleted {
            Ok(_) => writing.happened(|_| Kept::None),
            Err(error) => writing.failed(error),
        }
        deleted
    }

    async fn delete_prefix(&self, prefix: &str) -> Result<u64> {
        let clearing = Clearing::begin(&self.inner, prefix);
        let deleted = self.inner.far().delete_prefix(prefix).await;
        match &deleted {
            Ok(_) => clearing.happened().await,
            Err(error) => clearing.failed(error),
        }
        deleted
    }

    fn peek(&self, key: &Key) -> Peek {
        self.inner.find(key).map_or(Peek::Declined, Peek::Hit)
    }

    fn history(&self) -> u64 {
        self.inner.far().history()
    }

    async fn learn_history(&self) {
        self.inner.far().learn_history().await;
    }

    /// Says farewell to the other nodes, forgets what is near, and closes the far store. Later calls
    /// begin anew.
    async fn close(&self) -> Result<()> {
        self.inner.node.close().await;
        self.inner.far().close().await
    }
}
