//! The one error of the crate: opaque, with a kind to match on and a typed source.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

/// A boxed error of any type, as the causes of an [`Error`] arrive.
pub type BoxError = Box<dyn StdError + Send + Sync + 'static>;

/// The result of a cache operation. A miss is never an error: it is `Ok(None)`.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a cache operation failed.
///
/// Match on [`kind`](Self::kind); the cause, where there is one, is in
/// [`source`](StdError::source) and keeps its type. Clones share it. The message never holds a
/// key or a value, which may be personal data.
#[derive(Clone)]
pub struct Error {
    inner: Box<Inner>,
}

/// What went wrong, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A setting is missing or makes no sense.
    Config,
    /// No cache is configured under that alias.
    UnknownAlias,
    /// The key is too long or holds bytes some stores refuse, and the policy is to refuse them.
    InvalidKey,
    /// A tag is empty or too long, or there are too many of them.
    InvalidTag,
    /// The value is larger than the store takes.
    TooLarge,
    /// The value could not be encoded.
    Encode,
    /// What was stored, or just computed, could not be decoded as the type asked for.
    Decode,
    /// The operation needs an entry, and there is none.
    KeyMissing,
    /// A counter operation met a value that is not an integer.
    NotAnInteger,
    /// A counter or version would leave its range.
    OutOfRange,
    /// The store could not be reached or refused to answer.
    Unavailable,
    /// The store did not answer in time.
    Timeout,
    /// The store cannot do this.
    Unsupported,
    /// The caller's own computation failed; see [`Error::compute_error`].
    Compute,
    /// The caller's own computation took too long.
    ComputeTimeout,
    /// So much is being computed already that this was not begun.
    Overloaded,
    /// A template could not be rendered.
    Render,
}

impl Error {
    /// An error of this kind.
    pub fn new(kind: ErrorKind) -> Self {
        Self {
            inner: Box::new(Inner {
                kind,
                backend: None,
                operation: None,
                message: None,
                source: None,
            }),
        }
    }

    /// A [`Config`](ErrorKind::Config) error that says what is wrong with which setting.
    pub fn config(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Config).with_message(message)
    }

    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// The name of the backend that failed, such as `redis`.
    pub fn backend(&self) -> Option<&'static str> {
        self.inner.backend
    }

    /// The operation that failed, such as `get`.
    pub fn operation(&self) -> Option<&'static str> {
        self.inner.operation
    }

    /// Whether the same call may succeed later without anything being changed.
    pub fn is_transient(&self) -> bool {
        matches!(
            self.kind(),
            ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Overloaded
        )
    }

    /// The error of the caller's own computation, when it is an `E`.
    ///
    /// # Example
    ///
    /// ```
    /// # #[cfg(feature = "memory")]
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// use std::time::Duration;
    /// use axum_cache::{Cache, backend::Memory};
    ///
    /// let cache = Cache::new(Memory::new());
    /// let failed = cache
    ///     .get_or_set("answer", Duration::from_secs(60), || async { "x".parse::<u32>() })
    ///     .await
    ///     .unwrap_err();
    /// assert!(failed.compute_error::<std::num::ParseIntError>().is_some());
    /// # }
    /// # #[cfg(not(feature = "memory"))] fn main() {}
    /// ```
    pub fn compute_error<E: StdError + 'static>(&self) -> Option<&E> {
        if self.kind() != ErrorKind::Compute {
            return None;
        }
        self.source()?.downcast_ref()
    }

    /// Names the backend and the operation that failed.
    #[must_use]
    pub fn at(mut self, backend: &'static str, operation: &'static str) -> Self {
        self.inner.backend = Some(backend);
        self.inner.operation = Some(operation);
        self
    }

    /// Says more than the kind does. Must not hold a key, a value or a secret.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<Cow<'static, str>>) -> Self {
        self.inner.message = Some(message.into());
        self
    }

    /// Keeps the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.inner.source = Some(Arc::from(source.into()));
        self
    }
}

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    backend: Option<&'static str>,
    operation: Option<&'static str>,
    message: Option<Cow<'static, str>>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Some(backend), Some(operation)) = (self.inner.backend, self.inner.operation) {
            write!(f, "{backend} {operation} failed: ")?;
        }
        match &self.inner.message {
            Some(message) => f.write_str(message),
            None => self.inner.kind.fmt(f),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.inner.kind)
            .field("backend", &self.inner.backend)
            .field("operation", &self.inner.operation)
            .field("message", &self.inner.message)
            .field("source", &self.inner.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner.source.as_deref().map(|source| source as _)
    }
}

impl From<ErrorKind> for Error {
    fn from(kind: ErrorKind) -> Self {
        Self::new(kind)
    }
}

#[cfg(any(feature = "metrics", feature = "tracing"))]
impl ErrorKind {
    /// The kind as a label.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::UnknownAlias => "unknown_alias",
            Self::InvalidKey => "invalid_key",
            Self::InvalidTag => "invalid_tag",
            Self::TooLarge => "too_large",
            Self::Encode => "encode",
            Self::Decode => "decode",
            Self::KeyMissing => "key_missing",
            Self::NotAnInteger => "not_an_integer",
            Self::OutOfRange => "out_of_range",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Unsupported => "unsupported",
            Self::Compute => "compute",
            Self::ComputeTimeout => "compute_timeout",
            Self::Overloaded => "overloaded",
            Self::Render => "render",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Config => "bad configuration",
            Self::UnknownAlias => "no cache of that alias",
            Self::InvalidKey => "key is not portable between stores",
            Self::InvalidTag => "tags are not what an entry can have",
            Self::TooLarge => "value is too large",
            Self::Encode => "value could not be encoded",
            Self::Decode => "value could not be decoded",
            Self::KeyMissing => "no entry under that key",
            Self::NotAnInteger => "value is not an integer",
            Self::OutOfRange => "result is out of range",
            Self::Unavailable => "store is unavailable",
            Self::Timeout => "store did not answer in time",
            Self::Unsupported => "not supported by this store",
            Self::Compute => "computation failed",
            Self::ComputeTimeout => "computation took too long",
            Self::Overloaded => "too much is being computed already",
            Self::Render => "template could not be rendered",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_says_each_thing_once() {
        let cause = std::io::Error::other("connection refused");
        let error = Error::new(ErrorKind::Unavailable)
            .at("redis", "get")
            .with_source(cause);
        assert_eq!(
            format!("{:#}", anyhow::Error::from(error)),
            "redis get failed: store is unavailable: connection refused"
        );
    }

    #[test]
    fn an_error_is_one_word_wide() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
    }

    #[test]
    fn clones_share_a_source_that_keeps_its_type() {
        let error = Error::new(ErrorKind::Compute).with_source(std::fmt::Error);
        let clone = error.clone();
        assert!(clone.compute_error::<std::fmt::Error>().is_some());
        assert!(clone.compute_error::<std::io::Error>().is_none());
    }
}
