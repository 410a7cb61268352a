//! How what is stored gets smaller, as it is asked for.

/// What is shorter is not worth it.
const THRESHOLD: usize = 1024;

/// What is compressed before it is stored, for [`CacheBuilder::compression`](crate::CacheBuilder::compression).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compression {
    threshold: usize,
}

impl Compression {
    /// By Zstandard, from 1024 bytes on.
    pub const fn zstd() -> Self {
        Self {
            threshold: THRESHOLD,
        }
    }

    /// What has fewer bytes is stored as it is.
    #[must_use]
    pub const fn threshold(mut self, bytes: usize) -> Self {
        self.threshold = bytes;
        self
    }

    pub(crate) const fn least(self) -> usize {
        self.threshold
    }
}
