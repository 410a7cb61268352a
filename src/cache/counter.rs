//! Counters and version moves.

use super::{Cache, Reach};
use crate::error::{Error, ErrorKind, Result};

impl Cache {
    /// Adds `delta` to the integer under `key`; atomic. The new value.
    ///
    /// The entry keeps its remaining lifetime. Counters are `i64` on every store.
    ///
    /// # Errors
    ///
    /// [`KeyMissing`](ErrorKind::KeyMissing) if there is no entry: none is created.
    /// [`NotAnInteger`](ErrorKind::NotAnInteger) if it holds anything but an integer, or one with
    /// [tags](Self::with_tags).
    /// [`OutOfRange`](ErrorKind::OutOfRange) if the result is no `i64`; the entry stays as it is.
    /// [`Unsupported`](ErrorKind::Unsupported) on a cache that [signs](crate::CacheBuilder::signing_keys).
    ///
    /// # Django
    ///
    /// `incr`; the lifetime is kept on every store, and none wraps, floors or loses an update.
    pub async fn incr(&self, key: &str, delta: i64) -> Result<i64> {
        if self.sealer().signs() {
            return Err(Error::new(ErrorKind::Unsupported).with_message("counters are not signed"));
        }
        let key = self.final_key(key)?;
        let counted = self.backend().incr(&key, delta).await;
        if let Err(error) = &counted
            && error.kind() == ErrorKind::NotAnInteger
            && self.look(&key).await?.is_dead()
        {
            return Err(ErrorKind::KeyMissing.into());
        }
        counted
    }

    /// Subtracts `delta`; see [`incr`](Self::incr).
    ///
    /// # Errors
    ///
    /// As [`incr`](Self::incr).
    pub async fn decr(&self, key: &str, delta: i64) -> Result<i64> {
        let delta = delta.checked_neg().ok_or(ErrorKind::OutOfRange)?;
        self.incr(key, delta).await
    }

    /// Moves the entry of this handle's version to the version `delta` higher, with its remaining
    /// lifetime, replacing what is there. The new version.
    ///
    /// # Errors
    ///
    /// [`KeyMissing`](ErrorKind::KeyMissing) if there is no entry.
    /// [`OutOfRange`](ErrorKind::OutOfRange) if there is no such version.
    pub async fn incr_version(&self, key: &str, delta: i64) -> Result<u64> {
        let version = self
            .version
            .checked_add_signed(delta)
            .ok_or(ErrorKind::OutOfRange)?;
        let from = self.final_key(key)?;
        let to = self.with_version(version).final_key(key)?;
        let both = [from, to];
        let moving = self.move_entry(&both[0], &both[1]);
        if self.removing(Reach::Keys(&both), moving).await? {
            Ok(version)
        } else {
            Err(ErrorKind::KeyMissing.into())
        }
    }

    /// Moves the entry to the version `delta` lower; see [`incr_version`](Self::incr_version).
    ///
    /// # Errors
    ///
    /// As [`incr_version`](Self::incr_version).
    pub async fn decr_version(&self, key: &str, delta: i64) -> Result<u64> {
        let delta = delta.checked_neg().ok_or(ErrorKind::OutOfRange)?;
        self.incr_version(key, delta).await
    }
}
