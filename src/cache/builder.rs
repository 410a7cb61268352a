//! Options of a cache, and the defaults that need no checking.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::background::Background;
use super::failures::Failures;
use super::on_error::OnError;
use super::recent::Recent;
use super::tags::TagsSeen;
use super::{Cache, Shared};
use crate::backend::AnyBackend;
use crate::clock::{Clock, SteadyClock};
use crate::codec::{AnyCodec, Codec};
use crate::entry::Sealer;
use crate::error::{Error, Result};
use crate::key::{KeyFunction, KeyPolicy, KeySpace, PrefixedKeys};
use crate::observe::Named;
use crate::tag::Tags;
use crate::ttl::Ttl;

/// Options of a [`Cache`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct CacheBuilder {
    backend: AnyBackend,
    name: Arc<str>,
    key_prefix: String,
    key_function: Arc<dyn KeyFunction>,
    key_policy: KeyPolicy,
    version: u64,
    ttl: Ttl,
    codec: AnyCodec,
    clock: Arc<dyn Clock>,
    max_refreshes: usize,
    max_computations: Option<usize>,
    on_error: OnError,
    request_budget: Option<Duration>,
    checksums: Option<bool>,
    /// `None` if it was asked to sign with what is no secret.
    sealer: Option<Sealer>,
    /// The least length of what is packed.
    packs: Option<usize>,
    drain_timeout: Duration,
}

impl CacheBuilder {
    pub(super) fn new(backend: AnyBackend) -> Self {
        Self {
            backend,
            name: "default".into(),
            key_prefix: String::new(),
            key_function: Arc::new(PrefixedKeys),
            key_policy: KeyPolicy::Hash,
            version: 1,
            ttl: Ttl::DJANGO,
            codec: AnyCodec::Json,
            clock: Arc::new(SteadyClock::new()),
            max_refreshes: 64,
            max_computations: None,
            on_error: OnError::Error,
            request_budget: None,
            checksums: None,
            sealer: Some(Sealer::default()),
            packs: None,
            drain_timeout: Duration::from_secs(5),
        }
    }

    /// The alias, in events and error messages. `default` unless set.
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = name.into();
        self
    }

    /// What keeps this cache's keys apart from others in the same store. None by default.
    ///
    /// # Django
    ///
    /// `KEY_PREFIX`.
    pub fn key_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.key_prefix = prefix.into();
        self
    }

    /// How final keys are made. `prefix:version:key` by default.
    ///
    /// # Django
    ///
    /// `KEY_FUNCTION`.
    pub fn key_function(self, function: impl KeyFunction) -> Self {
        self.shared_key_function(Arc::new(function))
    }

    pub(crate) fn shared_key_function(mut self, function: Arc<dyn KeyFunction>) -> Self {
        self.key_function = function;
        self
    }

    /// What to do with keys that some stores refuse. They are hashed by default.
    pub fn key_policy(mut self, policy: KeyPolicy) -> Self {
        self.key_policy = policy;
        self
    }

    /// The version of a handle that names none. 1 by default.
    ///
    /// # Django
    ///
    /// `VERSION`.
    pub fn version(mut self, version: u64) -> Self {
        self.version = version;
        self
    }

    /// What [`Ttl::Default`] means. 300 seconds by default.
    ///
    /// # Django
    ///
    /// `TIMEOUT`.
    pub fn ttl(mut self, ttl: impl Into<Ttl>) -> Self {
        self.ttl = ttl.into().or(Ttl::DJANGO);
        self
    }

    /// How values are written. JSON by default.
    pub fn codec(self, codec: impl Codec) -> Self {
        self.shared_codec(Arc::new(codec))
    }

    pub(crate) fn shared_codec(mut self, codec: Arc<dyn Codec>) -> Self {
        self.codec = AnyCodec::Custom(codec);
        self
    }

    /// The clock for ages and dates; the system's by default, [without its jumps](SteadyClock). Lifetimes are the store's business:
    /// give it the same clock.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// How many values and pages are computed anew in the background at a time, in this process. 64 by
    /// default. What is over that stays stale until somebody reads it again.
    pub fn max_refreshes(mut self, most: usize) -> Self {
        self.max_refreshes = most;
        self
    }

    /// How many values are computed, and pages made, at a time at most, in this process: what protects the source
    /// of the data while the store is away, or empty. What is over that is served stale, if it may be for
    /// [errors](crate::Policy::stale_if_error); otherwise a value fails at once with
    /// [`Overloaded`](crate::ErrorKind::Overloaded), and a page is a 503 with `Retry-After`. Requests that a
    /// layer does not look up, such as `POST`, are not counted. A batch counts as one, and so does what waits for
    /// the [lease](crate::Policy::lease) of another process; what a computation computes itself does
    /// not count. No limit by default.
    pub fn max_computations(mut self, most: usize) -> Self {
        self.max_computations = Some(most);
        self
    }

    /// What reads and writes do when the store fails. They fail, too, by default.
    ///
    /// # Django
    ///
    /// `DJANGO_REDIS_IGNORE_EXCEPTIONS` of `django-redis`; Django's own stores differ.
    pub fn on_error(mut self, on_error: OnError) -> Self {
        self.on_error = on_error;
        self
    }

    /// How long the handler of a request waits for the store in all, whatever number of calls it makes, with a
    /// handle that an extractor has given it, beside what it takes to store; see [`Cache::with_budget`]. Caches of one request wait together.
    /// No limit by default but that of each call.
    pub fn request_budget(mut self, budget: Duration) -> Self {
        self.request_budget = Some(budget);
        self
    }

    /// Whether values are stored with a checksum, and the key that they are of, as pages and fragments always
    /// are: what is not as it was written is a miss then, and is replaced. By default, unless the store is in
    /// this process.
    ///
    /// Integers that fit an `i64` are always stored as their digits, since the store counts them. Without
    /// checksums, other programs can read and write the values of the cache as the codec writes them; but of a
    /// bit that flips on the way nothing is known. With them, what such programs write is not read.
    pub fn checksums(mut self, checksums: bool) -> Self {
        self.checksums = Some(checksums);
        self
    }

    /// Signs all that is stored with the first of these secrets, and reads what is signed with any of them: values,
    /// pages and fragments that somebody else has written to the store, or has moved to another key, are misses.
    /// Nothing is signed by default.
    ///
    /// To change the secret, put the new one first, and take the old one away when nothing lives any more that
    /// was signed with it. Give each site that shares a store a secret of its own.
    ///
    /// Tags and what holds a place for something are not signed: who may write to the store can put back the tag of
    /// a page that was invalidated, and so the page. What is signed is neither encrypted nor kept from being removed, or from being put back while it is
    /// fresh. Counters cannot be signed: [`incr`](Cache::incr) is
    /// [`Unsupported`](crate::ErrorKind::Unsupported).
    ///
    /// # Django
    ///
    /// `SECRET_KEY` and `SECRET_KEY_FALLBACKS`, with which no cache of Django's signs anything.
    pub fn signing_keys<S: AsRef<[u8]>>(mut self, secrets: impl IntoIterator<Item = S>) -> Self {
        self.sealer = Sealer::signing(secrets);
        self
    }

    /// Compresses what is stored: values, pages and fragments, unless the store is in this process. What does
    /// not get smaller is stored as it is, as are integers that fit an `i64`, bodies with a
    /// `Content-Encoding`, and what is over 64 MiB. Nothing is compressed by default.
    ///
    /// What is compressed is read whether this is set or not, by all that are built with the feature `zstd`; to
    /// others it is a miss. So in a rolling deploy the feature comes first, and then this. Without
    /// [`checksums`](Self::checksums), other programs read only what is not compressed.
    ///
    /// A limit of the store, such as [`max_value_bytes`](crate::backend::Capabilities::max_value_bytes), is for what it is sent.
    /// Copies in the near tier of [`Tiered`](crate::backend::Tiered) stay compressed, and what the first reader
    /// has made of them beside that.
    ///
    /// # Django
    ///
    /// None; `COMPRESSOR` of `django-redis`.
    #[cfg(feature = "zstd")]
    pub fn compression(mut self, compression: crate::entry::Compression) -> Self {
        self.packs = Some(compression.least());
        self
    }

    /// How long [`close`](Cache::close) waits for what is being computed. 5 seconds by default.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// Makes the cache.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) if the key prefix makes keys too long for portable
    /// stores; and if it is to sign with no secret, or with one of less than 16 bytes.
    pub fn build(self) -> Result<Cache> {
        if self.sealer.is_none() {
            return Err(Error::config("a signing key has at least 16 bytes"));
        }
        let keys = KeySpace::new(
            self.key_prefix.clone(),
            self.version,
            Arc::clone(&self.key_function),
            self.key_policy,
        )?;
        Ok(self.with_keys(keys))
    }

    /// Makes the cache with the default key space, which needs no checking.
    pub(super) fn with_defaults(self) -> Cache {
        self.with_keys(KeySpace::default())
    }

    fn with_keys(self, keys: KeySpace) -> Cache {
        let is_elsewhere = !self.backend.as_dyn().capabilities().in_process;
        Cache {
            version: self.version,
            ttl: self.ttl,
            tags: Tags::default(),
            pinned: None,
            #[cfg(feature = "askama")]
            templates: None,
            siblings: None,
            budgeted: None,
            shared: Arc::new(Shared {
                name: Named::new(self.name),
                backend: self.backend,
                keys,
                codec: self.codec,
                clock: self.clock,
                fences: Arc::default(),
                flights: Arc::default(),
                failures: Failures::default(),
                background: Background::new(
                    self.max_refreshes,
                    self.max_computations,
                    self.drain_timeout,
                ),
                on_error: self.on_error,
                request_budget: self.request_budget,
                checksums: self.checksums.unwrap_or(is_elsewhere),
                packs: self.packs.filter(|_| is_elsewhere),
                sealer: self.sealer.unwrap_or_default(),
                tags_seen: TagsSeen::default(),
                recent: is_elsewhere.then(Recent::default),
                turns: AtomicU64::new(0),
                turn_key: OnceLock::new(),
            }),
        }
    }
}
