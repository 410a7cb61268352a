//! Batches: one round trip where the store can.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::compute::UNAVAILABLE;
use super::look::Look;
use super::{Cache, Reach};
use crate::entry::Entry;
use crate::error::{Error, Result};
use crate::key::Key;
use crate::ttl::Ttl;

impl Cache {
    /// The values under `keys` that are there and are a `T`, by the caller's keys.
    ///
    /// No keys, no I/O. Different spellings of one final key are each answered.
    ///
    /// # Errors
    ///
    /// As for [any call](Cache#errors).
    ///
    /// # Example
    ///
    /// ```
    /// # #[cfg(feature = "memory")]
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> axum_cache::Result<()> {
    /// use std::collections::HashMap;
    /// use axum_cache::{Cache, Ttl, backend::Memory};
    ///
    /// let cache = Cache::new(Memory::new());
    /// cache.set("a", &1, Ttl::Default).await?;
    /// cache.set("b", &2, Ttl::Default).await?;
    /// let found: HashMap<&str, i32> = cache.get_many(["a", "b", "c"]).await?;
    /// assert_eq!(found, HashMap::from([("a", 1), ("b", 2)]));
    /// # Ok(()) }
    /// # #[cfg(not(feature = "memory"))] fn main() {}
    /// ```
    pub fn get_many<K, T>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> impl Future<Output = Result<HashMap<K, T>>> + Send
    where
        K: AsRef<str> + Eq + Hash + Send,
        T: DeserializeOwned,
    {
        let keys = self.final_keys(keys);
        async move {
            let (keys, finals) = keys?;
            let looks = self.look_many(&finals).await;
            let nothing = || finals.iter().map(|_| Look::nothing(UNAVAILABLE)).collect();
            let looks = self.or_instead("get_many", looks, nothing)?;
            let pairs = keys.into_iter().zip(looks);
            Ok(pairs
                .filter_map(|(key, look)| Some((key, self.decode_or_miss(look, "get_many")?)))
                .collect())
        }
    }

    /// Stores all `items` with one TTL. Those that failed, with why; one that fails does not stop
    /// the others. No items, no I/O.
    ///
    /// # Errors
    ///
    /// If the batch failed as a whole; see [any call](Cache#errors).
    ///
    /// # Django
    ///
    /// `set_many`, which raises on some stores in the middle of a batch.
    ///
    /// # Example
    ///
    /// ```
    /// # #[cfg(feature = "memory")]
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> axum_cache::Result<()> {
    /// use std::time::Duration;
    /// use axum_cache::{Cache, backend::Memory, key};
    ///
    /// let cache = Cache::new(Memory::new());
    /// let names = [(key!("user", 7), "Ada"), (key!("user", 8), "Grace")];
    /// for (key, error) in cache.set_many(names, Duration::from_secs(60)).await? {
    ///     eprintln!("{key} was not stored: {error}");
    /// }
    /// assert_eq!(cache.get(&key!("user", 8)).await?, Some("Grace".to_owned()));
    /// # Ok(()) }
    /// # #[cfg(not(feature = "memory"))] fn main() {}
    /// ```
    pub fn set_many<K, T>(
        &self,
        items: impl IntoIterator<Item = (K, T)>,
        ttl: impl Into<Ttl>,
    ) -> impl Future<Output = Result<Vec<(K, Error)>>> + Send
    where
        K: AsRef<str> + Send,
        T: Serialize,
    {
        let lifetime = self.lifetime(ttl);
        let mut failed = Vec::new();
        let mut callers = Vec::new();
        let mut batch = Vec::new();
        for (key, value) in items {
            let item = self
                .encode(&value)
                .and_then(|entry| Ok((self.final_key(key.as_ref())?, entry)));
            match item {
                Ok(item) => {
                    callers.push(key);
                    batch.push(item);
                }
                Err(error) => failed.push((key, error)),
            }
        }
        async move {
            if batch.is_empty() {
                return Ok(failed);
            }
            let Some(lifetime) = lifetime else {
                let keys: Vec<Key> = batch.into_iter().map(|(key, _)| key).collect();
                self.delete_final(&keys).await?;
                return Ok(failed);
            };
            let setting = async {
                let keys: Vec<Key> = batch.iter().map(|(key, _)| key.clone()).collect();
                let stamps = self.replace(&keys, lifetime).await?;
                let mut items = Vec::with_capacity(batch.len());
                for (key, entry) in batch {
                    let entry = self.stamped(&key, entry, lifetime, &stamps).await?;
                    items.push((key, entry, lifetime));
                }
                self.backend().set_many(items).await
            };
            let outcomes = self.or_instead("set_many", setting.await, Vec::new)?;
            for (key, outcome) in callers.into_iter().zip(outcomes) {
                let outcome = self.or_instead("set_many", outcome, || ());
                failed.extend(outcome.err().map(|error| (key, error)));
            }
            Ok(failed)
        }
    }

    /// Removes the entries under `keys`. How many there were. No keys, no I/O.
    ///
    /// # Errors
    ///
    /// As for [any call](Cache#errors).
    pub fn delete_many<K: AsRef<str>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> impl Future<Output = Result<u64>> + Send {
        let finals = self.final_keys(keys).map(|(_, finals)| finals);
        async move { self.delete_final(&finals?).await }
    }

    pub(crate) async fn fetch_many(&self, keys: &[Key]) -> Result<Vec<Option<Entry>>> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        self.backend().get_many(keys).await
    }

    pub(super) async fn delete_final(&self, keys: &[Key]) -> Result<u64> {
        if keys.is_empty() {
            return Ok(0);
        }
        let delete = self.backend().delete_many(keys);
        self.removing(Reach::Keys(keys), delete).await
    }

    pub(super) fn final_keys<K: AsRef<str>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<(Vec<K>, Vec<Key>)> {
        let mut finals = Vec::new();
        let mut callers = Vec::new();
        for key in keys {
            finals.push(self.final_key(key.as_ref())?);
            callers.push(key);
        }
        Ok((callers, finals))
    }
}
