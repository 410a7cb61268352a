//! What a computation has made, and what it says of how that is kept.

use std::time::Duration;

use crate::tag::Tags;
use crate::ttl::Ttl;

/// A computed value and how it is kept, where that turns out only when it is computed; for
/// [`get_or_set_with`](crate::Cache::get_or_set_with).
#[derive(Clone, Debug)]
#[must_use = "a computed value does nothing until it is returned"]
pub struct Computed<T> {
    pub(super) value: T,
    pub(super) terms: Terms,
}

/// What a computation says of its value; what it leaves out is up to the policy.
#[derive(Clone, Debug, Default)]
pub(super) struct Terms {
    pub(super) ttl: Ttl,
    pub(super) stale_while_revalidate: Option<Duration>,
    pub(super) stale_if_error: Option<Duration>,
    pub(super) tags: Tags,
}

impl<T> Computed<T> {
    /// A value that is kept as the policy says.
    pub fn new(value: T) -> Self {
        Self {
            value,
            terms: Terms::default(),
        }
    }

    /// How long it is fresh. A shorter one for what is not there, such as `None`, makes it a
    /// negative result; zero stores nothing.
    pub fn ttl(mut self, ttl: impl Into<Ttl>) -> Self {
        self.terms.ttl = ttl.into();
        self
    }

    /// Not to be stored.
    pub fn without_storing(self) -> Self {
        self.ttl(Duration::ZERO)
    }

    /// See [`Policy::stale_while_revalidate`](crate::Policy::stale_while_revalidate).
    pub fn stale_while_revalidate(mut self, window: Duration) -> Self {
        self.terms.stale_while_revalidate = Some(window);
        self
    }

    /// See [`Policy::stale_if_error`](crate::Policy::stale_if_error).
    pub fn stale_if_error(mut self, window: Duration) -> Self {
        self.terms.stale_if_error = Some(window);
        self
    }

    /// Its tags, beside those of the handle.
    ///
    /// Those of the handle are the better ones where they are known beforehand: what is tagged here
    /// is not stored if any tag of the store was invalidated while it was computed.
    pub fn tags<N: AsRef<str>>(mut self, tags: impl IntoIterator<Item = N>) -> Self {
        self.terms.tags = Tags::new(tags);
        self
    }
}

impl<T> From<T> for Computed<T> {
    fn from(value: T) -> Self {
        Self::new(value)
    }
}
