//! What a backend holds under a key: bytes, and what this process has already made of them.

mod body;
#[cfg(feature = "zstd")]
mod compression;
mod envelope;
mod sealer;
mod stamp;
mod zstd;

pub(crate) use self::body::Body;
#[cfg(feature = "zstd")]
pub use self::compression::Compression;
pub(crate) use self::envelope::{Kind, Opened, Undecodable, is_lease, is_sealed, lease};
pub(crate) use self::sealer::Sealer;
pub(crate) use self::stamp::{Stamp, Worth};

use std::any::Any;
use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use self::envelope::unpacked_bytes;

/// The value of an entry. Cloning shares it.
///
/// A store outside the process keeps the [`bytes`](Self::bytes). A store inside keeps the entry
/// itself, and with it the decoded form that the first reader left there, so that no later hit
/// decodes again.
#[derive(Clone)]
pub struct Entry {
    inner: Arc<Inner>,
}

struct Inner {
    bytes: Bytes,
    decoded_bytes: usize,
    decoded: OnceLock<Arc<dyn Any + Send + Sync>>,
}

impl Entry {
    /// An entry of these bytes, not decoded yet.
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self {
            inner: Arc::new(Inner {
                decoded_bytes: unpacked_bytes(&bytes).unwrap_or_default(),
                bytes,
                decoded: OnceLock::new(),
            }),
        }
    }

    /// What an entry allocates beside its bytes.
    #[cfg(all(test, feature = "memory"))]
    pub(crate) const ALLOCATED: usize = 2 * size_of::<usize>() + size_of::<Inner>();

    /// Whether they are clones of one.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// The same entry, whose decoded form takes about this many bytes beside its body.
    #[must_use]
    pub(crate) fn with_decoded_bytes(mut self, decoded_bytes: usize) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.inner) {
            inner.decoded_bytes += decoded_bytes;
            return self;
        }
        Self {
            inner: Arc::new(Inner {
                bytes: self.inner.bytes.clone(),
                decoded_bytes: self.inner.decoded_bytes + decoded_bytes,
                decoded: OnceLock::new(),
            }),
        }
    }

    /// What the entry takes in memory: its bytes and, if it was said, its decoded form.
    pub fn weight(&self) -> usize {
        self.bytes().len() + self.inner.decoded_bytes
    }

    /// The bytes to store.
    pub fn bytes(&self) -> &Bytes {
        &self.inner.bytes
    }

    /// Whether somebody else has it, too.
    pub(crate) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.inner) > 1
    }

    /// Whether an earlier call left a decoded form.
    pub(crate) fn is_decoded(&self) -> bool {
        self.inner.decoded.get().is_some()
    }

    /// The decoded form that an earlier call left, if it is a `T`.
    pub(crate) fn decoded<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        let decoded = self.inner.decoded.get()?;
        Arc::clone(decoded).downcast().ok()
    }

    /// The same, for as long as the entry is at hand: nobody counts who has it.
    pub(crate) fn decoded_ref<T: Send + Sync + 'static>(&self) -> Option<&T> {
        self.inner.decoded.get()?.downcast_ref()
    }

    /// Leaves its decoded form for others.
    pub(crate) fn decoded_as<T: Send + Sync + 'static>(&self, decoded: Arc<T>) -> Arc<T> {
        // When another type or another reader came first, its form stays; ours serves this call.
        let _ = self.inner.decoded.set(Arc::clone(&decoded) as _);
        decoded
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("bytes", &self.inner.bytes.len())
            .field("decoded", &self.inner.decoded.get().is_some())
            .finish()
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for Entry {}

impl From<Bytes> for Entry {
    fn from(bytes: Bytes) -> Self {
        Self::new(bytes)
    }
}

impl From<Vec<u8>> for Entry {
    fn from(bytes: Vec<u8>) -> Self {
        Self::new(bytes)
    }
}

impl From<&'static str> for Entry {
    fn from(text: &'static str) -> Self {
        Self::new(text)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use super::*;

    #[test]
    fn the_decoded_form_is_made_once_and_shared() {
        let entry = Entry::from("1");
        assert_eq!(entry.decoded::<u32>(), None);
        let first = entry.decoded_as(Arc::new(1_u32));
        let second = entry.clone().decoded::<u32>().unwrap();
        assert!(Arc::ptr_eq(&first, &second));
    }

    #[test]
    fn another_type_is_decoded_anew_and_never_transmuted() {
        let entry = Entry::from("1");
        entry.decoded_as(Arc::new(1_u32));
        assert_eq!(entry.decoded::<String>(), None);
        assert_eq!(*entry.decoded_as(Arc::new("one".to_owned())), "one");
        assert_eq!(entry.decoded::<u32>().as_deref(), Some(&1));
    }
}
