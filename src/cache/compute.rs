//! Compute if absent, once per key at a time.

use std::future::Future;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Cache;
use crate::entry::Entry;
use crate::error::{BoxError, Error, ErrorKind, Result};
use crate::fence::Fill;
use crate::key::Key;
use crate::observe::{self, Outcome};
use crate::ttl::{Lifetime, Ttl};

impl Cache {
    /// The value under `key`, or else what `compute` makes, which is stored for the next.
    ///
    /// Callers that miss the same key at the same time share one computation per process. It runs
    /// in a task of its own, so a caller that goes away neither cancels nor truncates it. If
    /// another writer stored a value meanwhile, that one is returned and kept; if the key was
    /// deleted meanwhile, the value is returned and not stored. A store that fails counts as a
    /// miss, and the computed value is returned.
    ///
    /// # Errors
    ///
    /// [`Compute`](ErrorKind::Compute) if `compute` failed; all who waited get the same, nothing
    /// is stored, and [`Error::compute_error`] gives the cause back. Also if it panicked.
    /// [`Encode`](ErrorKind::Encode) or [`Decode`](ErrorKind::Decode) if the value does not survive
    /// the codec.
    ///
    /// # Cancel safety
    ///
    /// Safe: the computation goes on and its value is stored.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime, on a miss.
    ///
    /// # Django
    ///
    /// `get_or_set`, which runs the callable once per caller, and stores coroutines unawaited.
    pub fn get_or_set<T, E, F, Fut>(
        &self,
        key: &str,
        ttl: impl Into<Ttl>,
        compute: F,
    ) -> impl Future<Output = Result<T>> + Send
    where
        T: Serialize + DeserializeOwned,
        E: Into<BoxError>,
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
    {
        self.compute_once(key, self.lifetime(ttl), compute)
    }

    async fn compute_once<T, E, F, Fut>(
        &self,
        key: &str,
        lifetime: Option<Lifetime>,
        compute: F,
    ) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
        E: Into<BoxError>,
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
    {
        let key = self.final_key(key)?;
        let flights = &self.shared.flights;
        let landings = flights.landings();
        let overwrite = match self.fetch(&key).await {
            Ok(entry) => match self.decode_or_miss(entry.as_ref(), "get_or_set") {
                Some(value) => return Ok(value),
                None => entry.is_some(),
            },
            Err(error) => {
                observe::failed(self.name(), "get_or_set", &error);
                observe::outcome(self.name(), "get_or_set", Outcome::Miss, "unavailable");
                false
            }
        };
        let flight = flights.join(key.as_str(), || {
            // One that ended since we looked may have been of this key.
            let look_again = !overwrite && flights.landings() != landings;
            let filler = Filler {
                cache: self.clone(),
                fill: self.begin_fill(&key),
                key: key.clone(),
                lifetime,
                overwrite,
            };
            let computation = compute();
            async move {
                if look_again
                    && let Ok(Some(entry)) = filler.cache.backend().get(&filler.key).await
                    && filler.cache.decode::<T>(&entry).is_ok()
                {
                    return Ok(entry);
                }
                let value = computation
                    .await
                    .map_err(|error| Error::new(ErrorKind::Compute).with_source(error));
                let entry = value.and_then(|value| filler.cache.encode(&value))?;
                Ok(filler.store(entry).await)
            }
        });
        let entry = flight.await.map_err(|_| {
            Error::new(ErrorKind::Compute)
                .with_message("computation panicked or its runtime shut down")
        })??;
        self.decode(&entry)
    }
}

/// What a computation needs to store its result.
struct Filler {
    cache: Cache,
    key: Key,
    fill: Fill,
    lifetime: Option<Lifetime>,
    /// What is there cannot be decoded, so it must not win.
    overwrite: bool,
}

impl Filler {
    /// Stores `entry`; the entry that callers are to get.
    async fn store(self, entry: Entry) -> Entry {
        let Some(lifetime) = self.lifetime else {
            return entry;
        };
        let backend = self.cache.backend();
        let write = async {
            if self.overwrite {
                backend.set(&self.key, entry.clone(), lifetime).await?;
                return Ok(None);
            }
            if backend.add(&self.key, entry.clone(), lifetime).await? {
                return Ok(None);
            }
            // Another writer was first, and may be gone again.
            backend.get(&self.key).await
        };
        match self.fill.land(write).await {
            Some(Ok(Some(other))) => other,
            Some(Ok(None)) => {
                observe::outcome(self.cache.name(), "get_or_set", Outcome::Stored, "");
                entry
            }
            Some(Err(error)) => {
                observe::failed(self.cache.name(), "get_or_set", &error);
                entry
            }
            None => {
                observe::outcome(
                    self.cache.name(),
                    "get_or_set",
                    Outcome::Bypass,
                    "invalidated",
                );
                entry
            }
        }
    }
}
