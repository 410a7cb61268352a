//! Single values: `get`, `get_shared`, `set`, `add`, `touch`, `delete`, `contains`, `ttl_of`.

use std::future::Future;
use std::slice;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::compute::UNAVAILABLE;
use super::look::{Found, Look};
use super::{Cache, Reach};
use crate::entry::Entry;
use crate::error::Result;
use crate::key::Key;
use crate::observe::{self, Outcome};
use crate::ttl::{Lifetime, Ttl};

impl Cache {
    /// The value under `key`, if there is one, it is fresh, and it is a `T`.
    ///
    /// A stored `None` is a hit: ask for `Option<T>` and get `Some(None)`. A value that does not
    /// decode as a `T`, as after a deploy that changed the type, is a miss.
    ///
    /// # Errors
    ///
    /// As for [any call](Cache#errors).
    ///
    /// # Django
    ///
    /// `get`; its `default` is `unwrap_or`.
    pub async fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        self.get_as(key, |entry| self.decode(entry)).await
    }

    /// As [`get`](Self::get), without a copy: a store in this process keeps the decoded value beside its
    /// bytes, and all who ask for it as that type share it. Who asks for it as another type decodes it.
    ///
    /// Any other store is asked for the bytes each time. Of what is read again and again, this cache keeps the
    /// decoded value, and shares that as long as the bytes are the same: 256 entries at most, none of more than
    /// 256 KiB, and 16 MiB of them in all, as the store has them.
    ///
    /// The decoded value does not count towards these limits, nor to the
    /// [one of the store](crate::backend::MemoryBuilder::max_bytes). What changes inside of it, such as a `Mutex`,
    /// changes for all who share it.
    ///
    /// # Errors
    ///
    /// As for [any call](Cache#errors).
    ///
    /// # Django
    ///
    /// None; each `get` unpickles.
    ///
    /// # Example
    ///
    /// ```
    /// # #[cfg(feature = "memory")]
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> axum_cache::Result<()> {
    /// use std::sync::Arc;
    /// use axum_cache::{Cache, Ttl, backend::Memory};
    ///
    /// let cache = Cache::new(Memory::new());
    /// cache.set("names", &["Ada", "Grace"], Ttl::Default).await?;
    /// let names: Arc<Vec<String>> = cache.get_shared("names").await?.unwrap();
    /// let again = cache.get_shared("names").await?.unwrap();
    /// assert!(Arc::ptr_eq(&names, &again));
    /// # Ok(()) }
    /// # #[cfg(not(feature = "memory"))] fn main() {}
    /// ```
    pub async fn get_shared<T>(&self, key: &str) -> Result<Option<Arc<T>>>
    where
        T: DeserializeOwned + Send + Sync + 'static,
    {
        let decode = |entry: &Entry| match entry.decoded() {
            Some(value) => Ok(value),
            None => self
                .decode(entry)
                .map(|value| entry.decoded_as(Arc::new(value))),
        };
        self.get_as(key, decode).await
    }

    async fn get_as<T>(
        &self,
        key: &str,
        decode: impl FnOnce(&Entry) -> Result<T>,
    ) -> Result<Option<T>> {
        let key = self.brief_key(key)?;
        let found = if let Some(found) = self.find_now(&key) {
            found
        } else {
            let look = self.look(&key).await;
            let look = self.or_instead("get", look, || Look::nothing(UNAVAILABLE))?;
            look.found
        };
        Ok(self.value_or_miss(found, "get", decode))
    }

    /// Stores `value`, replacing what is there. A zero TTL removes it.
    ///
    /// A [`get_or_set`](Self::get_or_set) of the same key that is computing meanwhile answers its
    /// callers, but does not store.
    ///
    /// # Errors
    ///
    /// [`Encode`](crate::ErrorKind::Encode) if the value has no form in the codec: what was there
    /// stays. [`TooLarge`](crate::ErrorKind::TooLarge): what was there is gone.
    pub fn set<T>(
        &self,
        key: &str,
        value: &T,
        ttl: impl Into<Ttl>,
    ) -> impl Future<Output = Result<()>> + Send
    where
        T: Serialize + ?Sized,
    {
        let entry = self.encode(value);
        let lifetime = self.lifetime(ttl);
        async move {
            let entry = entry?;
            let Some(lifetime) = lifetime else {
                return self.delete(key).await.map(drop);
            };
            let key = self.final_key(key)?;
            let setting = async {
                let stamps = self.replace(slice::from_ref(&key), lifetime).await?;
                let entry = self.stamped(&key, entry, lifetime, &stamps).await?;
                self.backend().set(&key, entry, lifetime).await
            };
            self.or_instead("set", setting.await, || ())
        }
    }

    /// Stores `value` if there is no live entry; atomic. Whether it did.
    ///
    /// With a zero TTL: whether there was no entry; nothing is stored.
    ///
    /// # Errors
    ///
    /// As for [`set`](Self::set).
    pub fn add<T>(
        &self,
        key: &str,
        value: &T,
        ttl: impl Into<Ttl>,
    ) -> impl Future<Output = Result<bool>> + Send
    where
        T: Serialize + ?Sized,
    {
        let entry = self.encode(value);
        let lifetime = self.lifetime(ttl);
        async move {
            let entry = entry?;
            let Some(lifetime) = lifetime else {
                return Ok(!self.contains(key).await?);
            };
            let key = self.final_key(key)?;
            let adding = async {
                let entry = self.tagged(&key, entry, lifetime).await?;
                self.add_entry(&key, entry, lifetime).await
            };
            self.or_instead("add", adding.await, || false)
        }
    }

    /// Gives an entry a new TTL. Whether there was one. A zero TTL removes it.
    ///
    /// # Errors
    ///
    /// As for [any call](Cache#errors).
    pub fn touch(
        &self,
        key: &str,
        ttl: impl Into<Ttl>,
    ) -> impl Future<Output = Result<bool>> + Send {
        let lifetime = self.lifetime(ttl);
        async move {
            let Some(lifetime) = lifetime else {
                return self.delete(key).await;
            };
            let key = self.final_key(key)?;
            let touched = self.touch_entry(&key, lifetime).await;
            self.or_instead("touch", touched, || false)
        }
    }

    /// Removes an entry. Whether there was a live one.
    ///
    /// A [`get_or_set`](Self::get_or_set) of the same key that is computing meanwhile answers its
    /// callers, but does not store.
    ///
    /// # Errors
    ///
    /// As for [any call](Cache#errors).
    pub async fn delete(&self, key: &str) -> Result<bool> {
        self.delete_key(&self.final_key(key)?).await
    }

    /// As [`delete`](Self::delete), of a key as the store sees it.
    pub(crate) async fn delete_key(&self, key: &Key) -> Result<bool> {
        let delete = self.backend().delete(key);
        self.removing(Reach::Keys(slice::from_ref(key)), delete)
            .await
    }

    /// Whether there is a live entry, a stored `None` included.
    ///
    /// # Errors
    ///
    /// As for [any call](Cache#errors).
    ///
    /// # Django
    ///
    /// `has_key`, and `in`, which cannot name a version.
    pub async fn contains(&self, key: &str) -> Result<bool> {
        let key = self.brief_key(key)?;
        let look = self.look(&key).await;
        let look = self.or_instead("contains", look, || Look::nothing(UNAVAILABLE))?;
        Ok(look.is_fresh())
    }

    /// How long the entry under `key` is fresh yet, if there is a fresh one.
    ///
    /// # Errors
    ///
    /// As for [any call](Cache#errors).
    pub async fn ttl_of(&self, key: &str) -> Result<Option<Lifetime>> {
        let key = self.brief_key(key)?;
        let asking = async {
            let Some(lifetime) = self.backend().ttl(&key).await? else {
                return Ok(None);
            };
            Ok(match self.look(&key).await?.found {
                Found::Fresh(value) => Some(value.fresh_for(self, lifetime)),
                Found::Foreign => Some(lifetime),
                _ => None,
            })
        };
        self.or_instead("ttl", asking.await, || None)
    }

    pub(super) fn encode<T: Serialize + ?Sized>(&self, value: &T) -> Result<Entry> {
        self.shared.codec.encode(value).map(Entry::from)
    }

    pub(super) fn decode<T: DeserializeOwned>(&self, entry: &Entry) -> Result<T> {
        self.shared.codec.decode(entry.bytes())
    }

    /// The value that was found, if it is fresh and a `T`; and what is counted of it.
    pub(super) fn decode_or_miss<T>(&self, look: Look, operation: &'static str) -> Option<T>
    where
        T: DeserializeOwned,
    {
        self.value_or_miss(look.found, operation, |entry| self.decode(entry))
    }

    /// The same, decoded so.
    fn value_or_miss<T>(
        &self,
        found: Found,
        operation: &'static str,
        decode: impl FnOnce(&Entry) -> Result<T>,
    ) -> Option<T> {
        let (value, reason) = match found {
            Found::Fresh(value) => {
                let value = decode(&value.entry);
                let is_corrupt = |_: &_| observe::corrupt(self.name(), operation, "undecodable");
                (value.inspect_err(is_corrupt).ok(), "corrupt")
            }
            Found::Stale { .. } => (None, "expired"),
            Found::Foreign => (None, "foreign"),
            Found::Nothing(reason) => (None, reason),
        };
        let (outcome, reason) = match value {
            Some(_) => (Outcome::Hit, ""),
            None => (Outcome::Miss, reason),
        };
        observe::outcome(self.named(), operation, outcome, reason);
        value
    }
}
