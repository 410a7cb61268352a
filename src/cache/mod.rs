//! The typed handle: prefix, version, TTL and codec over a backend.
//!
//! # Invariants
//!
//! - A miss is `Ok(None)`; a stored `None` is a hit.
//! - What cannot be decoded as the type asked for is a miss, observed, never an error or a panic.
//! - A zero TTL never reaches a backend: it stores nothing and drops what is there.
//! - A fill begun before a `delete`, `delete_prefix` or `clear` of its key, or before an `invalidate`
//!   of one of its tags, does not land after it, on whatever node; `fenced.rs` and `tags.rs` say how.

mod background;
mod builder;
mod compute;
mod computed;
mod counter;
mod failures;
mod fenced;
#[cfg(feature = "askama")]
mod landing;
mod leading;
mod look;
mod making;
mod many;
mod nested;
mod on_error;
mod recent;
mod record;
mod tags;
mod together;
mod value;
mod waiting;

pub use self::builder::CacheBuilder;
pub use self::computed::Computed;
#[cfg(feature = "askama")]
pub(crate) use self::landing::RawItem;
pub use self::on_error::OnError;
pub(crate) use self::tags::{Marks, TagsRead, Turn};

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use self::background::Background;
pub(crate) use self::background::Room;
use self::compute::Outcomes;
use self::failures::Failures;
use self::nested::Nested;
use self::recent::Recent;
use self::tags::TagsSeen;
use crate::backend::{AnyBackend, Budgeted, Capabilities, DynBackend, Peek, Waited};
use crate::caches::Caches;
use crate::clock::Clock;
use crate::codec::AnyCodec;
use crate::entry::{Body, Entry, Sealer};
use crate::error::Result;
use crate::fence::{Fences, Fill, Removed, Since};
use crate::flight::Flights;
use crate::key::{Key, KeySpace};
use crate::observe::Named;
use crate::tag::{TagStamp, Tags};
use crate::ttl::{Lifetime, Ttl};

/// A cache: a typed handle over some store.
///
/// Cloning is cheap and shares everything. `with_*` gives a handle that differs in one setting;
/// the one it came from stays as it is.
///
/// # Errors
///
/// A miss is never an error. Any call may fail with
/// [`InvalidKey`](crate::ErrorKind::InvalidKey) if the key policy refuses keys, and with
/// [`Unavailable`](crate::ErrorKind::Unavailable) or [`Timeout`](crate::ErrorKind::Timeout) if the
/// store does.
///
/// # Django
///
/// `django.core.cache.cache`, with the same calls.
///
/// # Example
///
/// ```
/// # #[cfg(feature = "memory")]
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> axum_cache::Result<()> {
/// use std::time::Duration;
/// use axum_cache::{Cache, Ttl, backend::Memory, key};
///
/// let cache = Cache::new(Memory::new());
/// cache.set(&key!("user", 7), &("Ada", 36), Duration::from_secs(60)).await?;
/// assert_eq!(cache.get(&key!("user", 7)).await?, Some(("Ada".to_owned(), 36)));
///
/// cache.set("visits", &1, Ttl::Never).await?;
/// assert_eq!(cache.incr("visits", 1).await?, 2);
/// # Ok(()) }
/// # #[cfg(not(feature = "memory"))] fn main() {}
/// ```
#[derive(Clone, Debug)]
pub struct Cache {
    shared: Arc<Shared>,
    version: u64,
    ttl: Ttl,
    tags: Tags,
    /// What some tags were when they were read for this handle.
    pinned: Option<Arc<[TagStamp]>>,
    /// The digest of the templates that fragments are of.
    #[cfg(feature = "askama")]
    templates: Option<u64>,
    /// The caches this one was got from.
    siblings: Option<Caches>,
    /// The store, for as long as this handle waits for it.
    budgeted: Option<AnyBackend>,
}

/// What is removed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reach<'a> {
    Keys(&'a [Key]),
    /// All keys that begin so.
    Prefix(&'a str),
}

/// The version under which the framework keeps what is its own. Handles may use it, too: the
/// names are told apart by how they begin.
const OWN_VERSION: u64 = 0;

/// What all handles of one cache share.
#[derive(Debug)]
struct Shared {
    name: Named,
    backend: AnyBackend,
    keys: KeySpace,
    codec: AnyCodec,
    clock: Arc<dyn Clock>,
    fences: Arc<Fences>,
    flights: Arc<Flights<Outcomes>>,
    failures: Failures,
    background: Background,
    on_error: OnError,
    request_budget: Option<Duration>,
    /// Whether what is stored says of itself that it is whole, and whose.
    checksums: bool,
    /// The least length of what is packed; `None`: nothing is.
    packs: Option<usize>,
    sealer: Sealer,
    tags_seen: TagsSeen,
    /// Of a store elsewhere; one in this process keeps what was decoded itself.
    recent: Option<Recent>,
    turns: AtomicU64,
    /// Of the entry that is another one once a tag was invalidated.
    turn_key: OnceLock<Key>,
}

impl Cache {
    /// A cache over `backend` with Django's defaults: no prefix, version 1, a TTL of 300 seconds.
    pub fn new(backend: impl Into<AnyBackend>) -> Self {
        Self::builder(backend).with_defaults()
    }

    /// Sets options first.
    pub fn builder(backend: impl Into<AnyBackend>) -> CacheBuilder {
        CacheBuilder::new(backend.into())
    }

    /// The alias of this cache, in events and error messages; `default` unless set.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// The same, for what is counted.
    pub(crate) fn named(&self) -> &Named {
        &self.shared.name
    }

    /// A handle to the entries of another version. Versions of one key are unrelated entries.
    ///
    /// # Django
    ///
    /// The `version` argument.
    #[must_use]
    pub fn with_version(&self, version: u64) -> Self {
        let mut handle = self.clone();
        handle.version = version;
        handle
    }

    /// A handle for which [`Ttl::Default`] means `ttl`.
    #[must_use]
    pub fn with_ttl(&self, ttl: impl Into<Ttl>) -> Self {
        let mut handle = self.clone();
        handle.ttl = ttl.into().or(self.ttl);
        handle
    }

    /// A handle that waits for the store no longer than `budget` in all, with its clones and what comes of
    /// them: once that is used up, reads, counters and `add` fail at once with
    /// [`Timeout`](crate::ErrorKind::Timeout), and [`get_or_set`](Self::get_or_set) computes without the store.
    /// Several calls at a time count once.
    ///
    /// What replaces or removes has the deadline of the store alone, so that nothing is left that was to be
    /// gone. So has what is asked and stored round a computation, which others may wait for, too: who computes
    /// waits for that beside.
    #[must_use]
    pub fn with_budget(&self, budget: Duration) -> Self {
        self.waiting(Arc::default(), budget)
    }

    /// A handle for one request, which waits together with its other caches.
    pub(crate) fn for_request(&self, waited: &Arc<Waited>) -> Self {
        match self.shared.request_budget {
            Some(budget) => self.waiting(Arc::clone(waited), budget),
            None => self.clone(),
        }
    }

    #[cfg(feature = "axum")]
    pub(crate) fn request_budget(&self) -> Option<Duration> {
        self.shared.request_budget
    }

    fn waiting(&self, waited: Arc<Waited>, budget: Duration) -> Self {
        let store = self.shared.backend.clone();
        let mut handle = self.clone();
        handle.budgeted = Some(AnyBackend::new(Budgeted::new(store, waited, budget)));
        handle
    }

    /// Whether it waits no longer than a budget says.
    pub(crate) fn is_hurried(&self) -> bool {
        self.budgeted.is_some()
    }

    /// A handle for what goes on when the request is over.
    pub(crate) fn unhurried(&self) -> Self {
        let mut handle = self.clone();
        handle.budgeted = None;
        handle
    }

    /// The version this handle reads and writes; 1 unless set.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// What [`Ttl::Default`] means to this handle; 300 seconds unless set.
    pub fn ttl(&self) -> Ttl {
        self.ttl
    }

    /// What the store can do and how precisely.
    pub fn capabilities(&self) -> Capabilities {
        self.backend().capabilities()
    }

    /// The final key, as the store sees it.
    ///
    /// # Errors
    ///
    /// [`InvalidKey`](crate::ErrorKind::InvalidKey) if the key policy refuses it.
    pub fn final_key(&self, key: &str) -> Result<Key> {
        self.shared.keys.key(self.version, key)
    }

    /// The same, for who asks for it once.
    fn brief_key(&self, key: &str) -> Result<Key> {
        self.shared.keys.brief(self.version, key)
    }

    /// The final key of the one of a page that `append` appends; see [`KeySpace::key_of`].
    pub(crate) fn page_key(&self, append: impl FnOnce(&mut String) -> bool) -> Result<Key> {
        self.shared.keys.key_of(self.version, append)
    }

    /// The key of something that the framework keeps for itself.
    fn own_key(&self, name: &str) -> Result<Key> {
        let key = format!("axum-cache:{name}");
        self.shared.keys.key(OWN_VERSION, &key)
    }

    /// The final key that was stored as this text.
    pub(crate) fn stored_key(&self, text: &str) -> Option<Key> {
        self.shared.keys.stored(text)
    }

    /// Removes all entries of this cache's prefix, of every version, and no others.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](crate::ErrorKind::Unsupported) if the key function cannot say what its keys
    /// begin with, or the store cannot find them; [`flush_store`](Self::flush_store) is left then.
    ///
    /// # Django
    ///
    /// `clear`, which empties the whole store, other prefixes and foreign keys included.
    pub async fn clear(&self) -> Result<()> {
        let namespace = self.shared.keys.namespace().ok_or_else(|| {
            crate::Error::new(crate::ErrorKind::Unsupported)
                .with_message("the key function of this cache has no namespace to clear")
        })?;
        let clear = self.backend().clear(namespace);
        self.removing(Reach::Prefix(""), clear).await
    }

    /// Removes the entries of this version whose keys begin with `prefix`, and no others. How many,
    /// as far as it is known: expired ones may count, and those whose removal had to be sent again
    /// may not.
    ///
    /// A [`get_or_set`](Self::get_or_set) of such a key that is computing meanwhile answers its
    /// callers, but does not store. Most stores go over all their keys for this, a page at a time:
    /// it is for what happens now and then. Keys made by [`key!`](crate::key!) begin with their
    /// first parts; end the prefix in `:`, so that it takes whole ones.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](crate::ErrorKind::Unsupported) if the store cannot find keys by how they
    /// begin, as Memcached; if the key function of the cache does not keep that; or if `prefix`,
    /// with the cache's own, is over 185 bytes or not portable, since all such keys are
    /// [hashed](crate::key::KeyPolicy::Hash). Otherwise as for [any call](Cache#errors); some of
    /// the entries may be gone then.
    ///
    /// # Django
    ///
    /// None; `delete_pattern` of `django-redis`, for patterns that end in `*`.
    ///
    /// # Example
    ///
    /// ```
    /// # #[cfg(feature = "memory")]
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> axum_cache::Result<()> {
    /// use axum_cache::{Cache, Ttl, backend::Memory, key};
    ///
    /// let cache = Cache::new(Memory::new());
    /// for user in [7, 70] {
    ///     cache.set(&key!("user", user, "name"), "Ada", Ttl::Default).await?;
    ///     cache.set(&key!("user", user, "age"), &36, Ttl::Default).await?;
    /// }
    /// assert_eq!(cache.delete_prefix(&(key!("user", 7) + ":")).await?, 2);
    /// assert!(cache.contains(&key!("user", 70, "age")).await?);
    /// # Ok(()) }
    /// # #[cfg(not(feature = "memory"))] fn main() {}
    /// ```
    pub async fn delete_prefix(&self, prefix: &str) -> Result<u64> {
        let prefix = self.shared.keys.beginning(self.version, prefix)?;
        let delete = self.backend().delete_prefix(&prefix);
        self.removing(Reach::Prefix(&prefix), delete).await
    }

    /// Empties the whole store, whoever wrote to it.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](crate::ErrorKind::Unsupported) if the store cannot be emptied.
    pub async fn flush_store(&self) -> Result<()> {
        let flush = self.backend().flush_store();
        self.removing(Reach::Prefix(""), flush).await
    }

    /// Waits for the computations and refreshes that are under way, as long as
    /// [`drain_timeout`](CacheBuilder::drain_timeout) says, and releases what the store holds open.
    ///
    /// # Errors
    ///
    /// If the store fails to let go.
    pub async fn close(&self) -> Result<()> {
        self.shared.background.drain().await;
        self.backend().close().await
    }

    /// The right to compute a value or to make a page, if there is room; what is part of another one of this
    /// cache has it.
    pub(crate) fn room(&self) -> Option<Room> {
        nested::room(self).or_else(|| self.shared.background.room())
    }

    /// Makes the page of this key: what that computes is a part of it.
    pub(crate) fn making<F: Future>(
        &self,
        page: &Key,
        room: &Room,
        making: F,
    ) -> impl Future<Output = F::Output> + use<F> {
        Nested::new(self, [page.clone()], room).run(making)
    }

    /// Whether there may be no room to compute something.
    pub(crate) fn limits_computations(&self) -> bool {
        self.shared.background.limits_computations()
    }

    /// The right to refresh something in the background, if there is room.
    pub(crate) fn refresh_permit(&self) -> Option<OwnedSemaphorePermit> {
        self.shared.background.refresh()
    }

    /// Runs `task` to its end, whoever goes away; [`close`](Self::close) waits for it. Without a
    /// runtime it is left undone: whether it was begun.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> bool {
        self.shared.background.spawn(task)
    }

    /// A handle that knows the caches it stands among.
    pub(crate) fn beside(&self, siblings: Caches) -> Self {
        let mut handle = self.clone();
        handle.siblings = Some(siblings);
        handle
    }

    /// See [`with_templates`](Self::with_templates).
    #[cfg(feature = "askama")]
    pub(crate) fn with_template_digest(&self, digest: u64) -> Self {
        let mut handle = self.clone();
        handle.templates = Some(digest);
        handle
    }

    #[cfg(feature = "askama")]
    pub(crate) fn template_digest(&self) -> Option<u64> {
        self.templates
    }

    /// The caches this handle was got from.
    #[cfg(feature = "askama")]
    pub(crate) fn siblings(&self) -> Option<&Caches> {
        self.siblings.as_ref()
    }

    /// How what it stores is sealed.
    pub(crate) fn sealer(&self) -> &Sealer {
        &self.shared.sealer
    }

    /// What it stores of these bytes.
    pub(crate) async fn packed(&self, bytes: &Bytes) -> Body {
        Body::packed(bytes.clone(), self.shared.packs).await
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.shared.clock
    }

    pub(crate) fn backend(&self) -> &dyn DynBackend {
        let budgeted = self.budgeted.as_ref();
        budgeted.unwrap_or(&self.shared.backend).as_dyn()
    }

    /// The entry, if the store can say so without waiting.
    pub(crate) fn peek(&self, key: &Key) -> Peek {
        self.backend().peek(key)
    }

    /// The entry, from the lane that does not wait where there is one.
    pub(crate) async fn fetch(&self, key: &Key) -> Result<Option<Entry>> {
        match self.peek(key) {
            Peek::Declined => self.backend().get(key).await,
            now => Ok(now.entry()),
        }
    }

    /// Changes whenever tags were invalidated or expired in this process. What began before must not
    /// be joined after.
    pub(crate) fn turns(&self) -> u64 {
        self.shared.turns.load(Ordering::SeqCst)
    }

    /// Call it before a look-up that a fill may begin [`since`](Self::begin_fill_since).
    pub(crate) fn since(&self, key: &Key) -> Since {
        self.shared.fences.now(key.as_str())
    }

    /// Begins a fill; see [`Fences::begin_since`].
    pub(crate) fn begin_fill_since(&self, key: &Key, since: Since) -> Option<Fill> {
        let fences = &self.shared.fences;
        fences.begin_since(key.text().into_owned(), since)
    }

    /// Begins a fill; see [`Fences::begin`].
    pub(crate) fn begin_fill(&self, key: &Key) -> Fill {
        self.shared.fences.begin(key.text().into_owned())
    }

    /// Runs `remove`, and lets nothing land or be joined that began before it has ended.
    pub(crate) async fn removing<T>(&self, reach: Reach<'_>, remove: impl Future<Output = T>) -> T {
        let _removal = self.shared.fences.remove(match reach {
            Reach::Keys(keys) => {
                let keys = keys.iter().map(|key| key.text().into_owned());
                Removed::Keys(keys.collect())
            }
            Reach::Prefix(prefix) => Removed::Prefix(prefix.into()),
        });
        self.bar(reach).await;
        let removed = remove.await;
        // What began meanwhile may have found what was still there.
        self.bar(reach).await;
        removed
    }

    /// Lets no fill of `keys` land that began before.
    async fn bar_fills(&self, keys: &[Key]) {
        for key in keys {
            self.shared.fences.invalidate(key.as_str()).await;
        }
    }

    async fn bar(&self, reach: Reach<'_>) {
        let (flights, fences) = (&self.shared.flights, &self.shared.fences);
        if let Some(recent) = &self.shared.recent {
            recent.forget(reach);
        }
        match reach {
            Reach::Keys(keys) => {
                for key in keys {
                    self.shared.failures.forget(key.as_str());
                    flights.forget(key.as_str());
                    fences.invalidate(key.as_str()).await;
                }
            }
            Reach::Prefix(prefix) => {
                self.shared.failures.forget_prefix(prefix);
                flights.forget_prefix(prefix);
                fences.invalidate_prefix(prefix).await;
            }
        }
    }

    pub(crate) fn lifetime(&self, ttl: impl Into<Ttl>) -> Option<Lifetime> {
        ttl.into().or(self.ttl).lifetime()
    }
}

const _: fn() = || {
    fn is_shareable<T: Send + Sync + 'static>() {}
    is_shareable::<Cache>();
};
