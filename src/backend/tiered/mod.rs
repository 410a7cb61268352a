//! Two tiers: process memory near, any other store far, and word of changes between the processes.
//!
//! # Invariants
//!
//! - The far store decides; nothing that is only near is ever written there.
//! - A write that has returned is seen by later reads of this process at once, and by those of the
//!   others within the bound.
//! - No copy outlives what it is a copy of, but by the bound.
//! - What is near is never trusted longer than it was proved to be told of changes: see `peers.rs`.

mod message;
mod near;
mod node;
mod operations;
mod outbox;
mod peers;
mod writing;

#[cfg(fuzzing)]
pub mod fuzzing;

use std::sync::Arc;
use std::time::Duration;

use self::near::Near;
use self::node::{Line, Node};
use super::{AnyBackend, Backplane, Memory};
use crate::error::{Error, Result};

/// How long anything stays near, unless told otherwise.
const NEAR_TTL: Duration = Duration::from_secs(60);

/// How old what is read near may be, unless told otherwise.
const MAX_NEAR_STALENESS: Duration = Duration::from_secs(2);

/// Shorter bounds would be all heartbeats.
const LEAST_STALENESS: Duration = Duration::from_millis(40);

/// Process memory in front of another store: what was read or written here a while ago is read again
/// without asking that.
///
/// A hit near costs what one in [`Memory`] does, and shares the decoded form. Writes go to the far store
/// first, and only what it took is kept near. So this process sees its own writes at once.
///
/// Other processes hear of them by a [`Backplane`]. Then what is read near is never older than
/// [`max_near_staleness`](TieredBuilder::max_near_staleness), 2 seconds unless set, counted from when the
/// write returned: also while messages are lost, and while a connection is dead without a word. Who
/// cannot know that no word was missed forgets what is near, and asks the far store until it can. While
/// a node is not heard of that did not say farewell by [`close`](crate::Cache::close), copies live for
/// half the bound, for up to 15 minutes.
///
/// Without a backplane the bound is [`near_ttl`](TieredBuilder::near_ttl), 60 seconds unless set. So it is
/// for entries that expired or were evicted in the far store early, with a backplane too.
///
/// The bound is as good as the far store: reads that go to replicas which lag may bring an old value
/// near, for `near_ttl`. A write whose outcome nobody knows, because its connection broke or its caller
/// left, is told twice, the second time after half the bound.
///
/// All nodes of an application use the same backplane, and the far store only through it: what writes
/// there directly tells nobody. The tasks that listen and send begin with the first call inside of a Tokio
/// runtime; they end with the last handle, and with `close`. Cloning shares the store.
///
/// # Django
///
/// There is none; in its world, it is `django-cache-memoize` or a `LocMemCache` with a short timeout.
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> axum_cache::Result<()> {
/// use axum_cache::{Cache, Ttl, backend::{Dummy, LocalBackplane, Memory, Tiered}};
///
/// # let far = Memory::new();
/// let store = Tiered::builder(Memory::new(), far)
///     .backplane(LocalBackplane::new())
///     .build()?;
/// let cache = Cache::new(store);
/// cache.set("answer", &42, Ttl::Default).await?;
/// assert_eq!(cache.get("answer").await?, Some(42));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Tiered {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    far: AnyBackend,
    node: Arc<Node>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.node.stop();
    }
}

impl Tiered {
    /// Over this store, with the defaults and without a backplane: what other processes write is seen
    /// after up to 60 seconds. `near` is to be used by nobody else.
    pub fn new(near: Memory, far: impl Into<AnyBackend>) -> Self {
        Self::over(near, far.into(), NEAR_TTL, None)
    }

    /// Sets options first.
    pub fn builder(near: Memory, far: impl Into<AnyBackend>) -> TieredBuilder {
        TieredBuilder {
            near,
            far: far.into(),
            near_ttl: NEAR_TTL,
            max_near_staleness: None,
            line: None,
        }
    }

    /// How old what is read near may be by now; `None` while the near tier is out of use, and everything
    /// is read from the far store.
    pub fn near_staleness(&self) -> Option<Duration> {
        self.inner.node.staleness()
    }

    fn over(near: Memory, far: AnyBackend, near_ttl: Duration, line: Option<Line>) -> Self {
        let node = Node::new(Near::new(near), near_ttl, line);
        Self {
            inner: Arc::new(Inner { far, node }),
        }
    }
}

/// Options of a [`Tiered`] store.
#[derive(Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct TieredBuilder {
    near: Memory,
    far: AnyBackend,
    near_ttl: Duration,
    max_near_staleness: Option<Duration>,
    line: Option<MakeLine>,
}

/// The bound is known when all options are.
struct MakeLine(Box<dyn FnOnce(Duration) -> Line + Send + Sync>);

impl std::fmt::Debug for MakeLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("backplane")
    }
}

impl TieredBuilder {
    /// The longest that anything stays near; 60 seconds unless set.
    pub fn near_ttl(mut self, ttl: Duration) -> Self {
        self.near_ttl = ttl;
        self
    }

    /// What tells the nodes of each other's changes; none unless set.
    pub fn backplane(mut self, backplane: impl Backplane) -> Self {
        let make = |bound| Line::new(backplane, bound);
        self.line = Some(MakeLine(Box::new(make)));
        self
    }

    /// How old what is read near may be, with a backplane; 2 seconds unless set. A heartbeat is sent four
    /// times in that. It is the same on all nodes.
    pub fn max_near_staleness(mut self, bound: Duration) -> Self {
        self.max_near_staleness = Some(bound);
        self
    }

    /// Makes the store. Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) if `near_ttl` is zero, or `max_near_staleness` is below 40
    /// milliseconds or set without a backplane.
    pub fn build(self) -> Result<Tiered> {
        if self.near_ttl.is_zero() {
            return Err(Error::config("near_ttl: must be more than zero"));
        }
        if self.max_near_staleness.is_some() && self.line.is_none() {
            return Err(Error::config(
                "max_near_staleness: needs a backplane; without one, near_ttl is the bound",
            ));
        }
        let bound = self.max_near_staleness.unwrap_or(MAX_NEAR_STALENESS);
        if bound < LEAST_STALENESS {
            return Err(Error::config(
                "max_near_staleness: must be 40 milliseconds or more",
            ));
        }
        let line = self.line.map(|make| (make.0)(bound));
        Ok(Tiered::over(self.near, self.far, self.near_ttl, line))
    }
}

#[cfg(test)]
mod tests;
