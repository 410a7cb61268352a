//! What to cache and how: the layer and its settings.

use std::sync::Arc;
use std::time::Duration;

use http::{Extensions, HeaderMap, HeaderName, Uri};
use tower_layer::Layer;

use super::collapse::Collapse;
use super::given::View;
use super::http::HttpRules;
use super::inputs::Inputs;
use super::lease::Leases;
use super::service::CacheService;
use super::slot::Turns;
use super::stale::{DEFAULT_THROTTLE, Windows};
use super::target::RequestTarget;
use crate::cache::Cache;
use crate::error::{Error, ErrorKind, Result};
use crate::key::{Key, PageKeyFunction, PageKeys};
use crate::semantics::storable::Intent;
use crate::tag::Tags;
use crate::ttl::Ttl;

/// How long a page lives when neither the layer nor the response says: Django's
/// `CACHE_MIDDLEWARE_SECONDS`.
const DEFAULT_TTL: Ttl = Ttl::After(Duration::from_secs(600));

/// The largest body that is stored unless set otherwise.
const DEFAULT_MAX_BODY_BYTES: usize = 1 << 20;

/// The most variants of one page.
const DEFAULT_MAX_VARIANTS: usize = 256;

/// How long a request waits for the answer to another one.
const DEFAULT_LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// For how long it is remembered that a page was not shared.
const DEFAULT_HIT_FOR_MISS: Duration = Duration::from_secs(60);

/// Caches the responses of the service it wraps.
///
/// Wrap the whole `Router` from outside, `layer.layer(router)` or by a `ServiceBuilder`: a hit
/// then runs no router at all. `Router::layer` works as well.
///
/// What is cached: responses to GET with status 200, until their `s-maxage`, `max-age` or
/// `Expires`, or for the layer's [`ttl`](Self::ttl) if they say nothing. HEAD is answered from
/// GET. `Expires` and `Cache-Control: max-age` are added where missing, `Age` on hits, and
/// `Cache-Status` (RFC 9211) says on every response what happened, and why it was not stored.
///
/// What is never cached: responses with `Set-Cookie`, `private`, `no-store`, `no-cache` or
/// `Vary: *`, responses to requests with `Authorization` unless they are `public`, `s-maxage` or
/// `must-revalidate`, and, since this layer covers routes whose authors may not think of it,
/// responses to requests with cookies, unless they are `public` or vary on `Cookie`, or the layer
/// [declares](Self::cookies) which cookies matter. Incomplete and oversized bodies, and event
/// streams, pass through untouched.
///
/// What selects a page: scheme, host, path and query as they came, the fields that responses name
/// in their `Vary`, and what the methods from [`query_allow`](Self::query_allow) to
/// [`narrow`](Self::narrow) declare. What those leave out is not shown to the handler either.
///
/// Put it outside every layer that sets `Vary` or cookies, or compresses. Inside of another `CacheLayer`, it
/// stores a response once that has come out there: what rebuilds responses in between has to keep their
/// extensions.
///
/// Its service is always ready. What it wraps need not be, for what is stored; other requests wait until it is.
///
/// # Django
///
/// `UpdateCacheMiddleware` and `FetchFromCacheMiddleware` in one. `CACHE_MIDDLEWARE_ALIAS` is the
/// cache, `CACHE_MIDDLEWARE_SECONDS` the TTL, `CACHE_MIDDLEWARE_KEY_PREFIX` the key prefix.
///
/// # Example
///
/// ```
/// # #[cfg(all(feature = "axum", feature = "memory"))]
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use std::time::Duration;
/// use axum::{Router, body::Body, http::Request, routing::get};
/// use axum_cache::{Cache, CacheLayer, backend::Memory};
/// use tower::{Layer, ServiceExt};
///
/// let router = Router::new().route("/", get(|| async { "hello" }));
/// let site = CacheLayer::new(Cache::new(Memory::new()))
///     .ttl(Duration::from_secs(60))
///     .layer(router);
/// let get = || Request::new(Body::empty());
///
/// let first = site.clone().oneshot(get()).await.unwrap();
/// assert_eq!(first.headers()["cache-status"], "axum-cache; fwd=uri-miss; ttl=60; stored");
/// let second = site.clone().oneshot(get()).await.unwrap();
/// assert_eq!(second.headers()["age"], "0");
/// # }
/// # #[cfg(not(all(feature = "axum", feature = "memory")))] fn main() {}
/// ```
#[derive(Clone, Debug)]
#[must_use = "a layer does nothing until it wraps a service"]
pub struct CacheLayer {
    config: Arc<Config>,
}

/// The settings of a layer, shared by its services.
#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) cache: Cache,
    /// Its store keeps nothing.
    pub(super) is_off: bool,
    pub(super) intent: Intent,
    pub(super) ttl: TtlRule,
    pub(super) key_prefix: String,
    pub(super) page_keys: PageKeys,
    pub(super) max_body_bytes: usize,
    pub(super) max_variants: usize,
    pub(super) inputs: Inputs,
    pub(super) hit_for_miss: Duration,
    pub(super) lock_timeout: Duration,
    /// `None`: the developer's TTL decides.
    pub(super) http: Option<HttpRules>,
    /// How long pages are served stale, in the layer's own mode.
    pub(super) windows: Windows,
    pub(super) throttle: Duration,
    pub(super) etags: ETags,
    pub(super) invalidates: bool,
    /// Those of all its pages.
    pub(super) tags: Tags,
    /// Where responses name theirs beside their extensions.
    pub(super) tag_field: Option<HeaderName>,
    /// Shared by the layers made from this one, as are the turns.
    pub(super) collapse: Arc<Collapse>,
    pub(super) turns: Arc<Turns>,
    pub(super) leases: Arc<Leases>,
}

impl Config {
    /// The final key of the primary entry of the page at an absolute URI.
    pub(super) fn page_key(&self, uri: &Uri) -> Result<Key> {
        self.of_page(uri, |target| target.primary(uri, self))
            .map(Key::kept)
    }

    /// What is made of the target at an absolute URI.
    fn of_page<T>(&self, uri: &Uri, make: impl FnOnce(RequestTarget<'_>) -> T) -> T {
        let (headers, extensions) = (HeaderMap::new(), Extensions::new());
        make(self.inputs.target(View::new(uri, &headers, &extensions)))
    }
}

/// Whether responses without an `ETag` are given one; see [`CacheLayer::etags`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ETags {
    /// A strong one: the bytes reach the client as they are stored.
    #[default]
    Strong,
    /// A weak one: a layer outside changes the bytes, such as one that compresses them.
    Weak,
    /// None.
    Off,
}

/// Whose word on the lifetime counts.
#[derive(Clone, Copy, Debug)]
pub(super) enum TtlRule {
    /// The response's, if it has one, else this.
    Fallback(Ttl),
    /// This, except that a response that is stale at once is not stored.
    Fixed(Ttl),
}

impl CacheLayer {
    /// Caches in `cache`, for 600 seconds where a response does not say.
    pub fn new(cache: Cache) -> Self {
        Self {
            config: Arc::new(Config {
                tags: cache.tags().clone(),
                tag_field: None,
                is_off: !cache.capabilities().stores,
                cache,
                intent: Intent::Blanket,
                ttl: TtlRule::Fallback(DEFAULT_TTL),
                key_prefix: String::new(),
                page_keys: PageKeys::Uri,
                max_body_bytes: DEFAULT_MAX_BODY_BYTES,
                max_variants: DEFAULT_MAX_VARIANTS,
                inputs: Inputs::default(),
                hit_for_miss: DEFAULT_HIT_FOR_MISS,
                lock_timeout: DEFAULT_LOCK_TIMEOUT,
                http: None,
                windows: Windows::default(),
                throttle: DEFAULT_THROTTLE,
                etags: ETags::Strong,
                invalidates: false,
                collapse: Arc::default(),
                turns: Arc::default(),
                leases: Arc::default(),
            }),
        }
    }

    /// The layer of one route, whose author asked for it; see [`cache_page`](crate::cache_page).
    pub(crate) fn page(cache: Cache, ttl: Ttl, key_prefix: String) -> Self {
        Self::new(cache).set(|config| {
            config.intent = Intent::Explicit;
            config.key_prefix = key_prefix;
            if ttl != Ttl::Default {
                config.ttl = TtlRule::Fixed(ttl);
            }
        })
    }

    /// How long a response lives that does not say so itself. 600 seconds by default; zero stores
    /// nothing, and [`Ttl::Never`] advertises a year. On [`cache_page`](crate::cache_page) it
    /// counts whatever the response says.
    pub fn ttl(self, ttl: impl Into<Ttl>) -> Self {
        let ttl = ttl.into().or(DEFAULT_TTL);
        self.set(|config| match &mut config.ttl {
            TtlRule::Fallback(old) | TtlRule::Fixed(old) => *old = ttl,
        })
    }

    /// Keeps the pages of this layer apart from those of others in the same cache, beside the
    /// cache's own prefix. Layers with equal prefixes share their pages, so those that show their
    /// handlers more or less of a request need different ones. Empty by default.
    ///
    /// One inside of another one has pages of its own under any prefix: what is between them may be a gate, or make
    /// another response of it. A purge of the one forgets those of the other under the same prefix.
    pub fn key_prefix(self, prefix: impl Into<String>) -> Self {
        self.set(|config| config.key_prefix = prefix.into())
    }

    /// How page keys are made; by default they are the URI, or a BLAKE3 digest where that is long or odd.
    pub fn page_keys(self, keys: impl PageKeyFunction) -> Self {
        self.set(|config| config.page_keys = PageKeys::Custom(Arc::new(keys)))
    }

    /// The largest body to store, in bytes; larger ones pass through. 1 MiB by default.
    pub fn max_body_bytes(self, bytes: usize) -> Self {
        self.set(|config| config.max_body_bytes = bytes)
    }

    /// How long a request waits for the answer to another one for the same page, and for the end of
    /// its body. Then another one may ask the inner service as well, and the others wait once more;
    /// after that, each asks for itself. 10 seconds by default.
    ///
    /// nginx calls it `proxy_cache_lock_timeout`.
    pub fn lock_timeout(self, timeout: Duration) -> Self {
        self.set(|config| config.lock_timeout = timeout)
    }

    /// The most variants of one page that are stored at a time, so that what clients send cannot
    /// fill the store; of further ones, the last is stored. 256 by default, half of them for
    /// requests that claim nothing in fields such as `X-Forwarded-Host`. [Variants](Self::variant) of
    /// known number, in the place of whole fields in `Vary`, keep it low.
    pub fn max_variants(self, most: usize) -> Self {
        self.set(|config| config.max_variants = most)
    }

    /// How long requests for a page go to the inner service side by side after its answer turned
    /// out to be one that is not stored. At other times, of the requests for one page one goes
    /// there, and the others wait for its answer. 60 seconds by default, in whole seconds; zero
    /// lets requests wait for each other every time.
    ///
    /// After several such answers in a row, or one where processes share the store, nothing is made
    /// ready to store the next one: should that be one that may be stored, the one after it is.
    pub fn hit_for_miss(self, ttl: Duration) -> Self {
        self.set(|config| config.hit_for_miss = ttl)
    }

    /// The `ETag` of responses that come without one: a digest of the body, made once when it is
    /// stored. Requests with `If-None-Match` are answered with 304 by it, on a hit and on a miss.
    /// Strong by default; has to be weak if the layer is inside of one that compresses.
    ///
    /// A layer in [HTTP mode](Self::http) adds none.
    ///
    /// # Django
    ///
    /// `ConditionalGetMiddleware`, which hashes every response every time.
    pub fn etags(self, etags: ETags) -> Self {
        self.set(|config| config.etags = etags)
    }

    /// Whether requests with unsafe methods invalidate what they change: after a POST, PUT, DELETE,
    /// or any method that is not known to be safe, whose response is no error, the page at its
    /// URI is forgotten, and those at the `Location` and `Content-Location` of the response on the
    /// same host. Off by default, as in Django; on in [HTTP mode](Self::http).
    ///
    /// # Specification
    ///
    /// RFC 9111 section 4.4.
    pub fn invalidate_on_unsafe(self, invalidate: bool) -> Self {
        self.set(|config| config.invalidates = invalidate)
    }

    /// The key of the primary entry of a page of this layer, before the cache's prefix and
    /// version: that of all its variants. `uri` has to be absolute.
    ///
    /// # Errors
    ///
    /// [`InvalidKey`](ErrorKind::InvalidKey) if `uri` is not absolute.
    ///
    /// # Django
    ///
    /// `get_cache_key`.
    pub fn page_key(&self, uri: &Uri) -> Result<String> {
        let (uri, config) = (absolute(uri)?, &self.config);
        let mut key = String::new();
        config.of_page(uri, |target| {
            config
                .page_keys
                .primary(&target.page(uri, config), &mut key);
        });
        Ok(key)
    }

    /// Forgets the page at `uri`, which has to be absolute, with all its variants: by `Vary`, by
    /// declared cookies, fields and variants, by language and time zone, also those that would be
    /// served stale. Whether there was one, or, in a store that processes share, one was being made. A
    /// response being made meanwhile is not stored, whichever process makes it, if the store can
    /// [compare and set](crate::backend::Backend::compare_and_set).
    ///
    /// With [`DjangoKeys`](crate::key::DjangoKeys), which names variants as Django does, it is the
    /// page of a client that sends no fields.
    ///
    /// # Errors
    ///
    /// [`InvalidKey`](ErrorKind::InvalidKey) if `uri` is not absolute, and as
    /// [`Cache::delete`].
    pub async fn purge(&self, uri: &Uri) -> Result<bool> {
        let key = self.config.page_key(absolute(uri)?)?;
        self.config.cache.delete_key(&key).await
    }

    /// Forgets all pages of this layer whose path is that of `uri` or lies below it, with all
    /// variants, and whatever their query. How many, as far as the store knows; those that are being
    /// made may count. Responses being made meanwhile are not stored.
    ///
    /// It goes by whole segments, and byte for byte: `/blog` and `/blog/` take `/blog`, `/blog/` and
    /// `/blog/a?x=1`, but not `/blogger` and not `/%62log`; `/` takes the whole site. Pages of other
    /// schemes, authorities and [key prefixes](Self::key_prefix) stay. It may take too much, never too
    /// little: of a long path, the beginning counts, 70 bytes of it or more; what is no printable ASCII
    /// counts as if it were all the same.
    ///
    /// Most stores go over all their keys for this: it is for what happens now and then.
    ///
    /// # Errors
    ///
    /// [`InvalidKey`](ErrorKind::InvalidKey) if `uri` is not absolute.
    /// [`Unsupported`](ErrorKind::Unsupported) if the page keys do not tell what is below a path,
    /// as [`DjangoKeys`](crate::key::DjangoKeys) do not, and as [`Cache::delete_prefix`]: on
    /// Memcached, and for long paths behind a cache's prefix of over 50 bytes.
    ///
    /// # Example
    ///
    /// ```
    /// # #[cfg(all(feature = "axum", feature = "memory"))]
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> axum_cache::Result<()> {
    /// use axum::{Router, body::Body, http::{Request, Uri}};
    /// use axum_cache::{Cache, CacheLayer, backend::Memory};
    /// use tower::{Layer, ServiceExt};
    ///
    /// let layer = CacheLayer::new(Cache::new(Memory::new()));
    /// let site = layer.layer(Router::new().fallback(|| async { "page" }));
    /// for page in ["/blog", "/blog/a?x=1", "/blogger"] {
    ///     let uri = format!("http://site.test{page}");
    ///     site.clone().oneshot(Request::get(uri).body(Body::empty()).unwrap()).await.unwrap();
    /// }
    /// let blog = Uri::from_static("http://site.test/blog");
    /// assert_eq!(layer.purge_prefix(&blog).await?, 2);
    /// assert!(layer.purge(&Uri::from_static("http://site.test/blogger")).await?);
    /// # Ok(()) }
    /// # #[cfg(not(all(feature = "axum", feature = "memory")))] fn main() {}
    /// ```
    pub async fn purge_prefix(&self, uri: &Uri) -> Result<u64> {
        let (uri, config) = (absolute(uri)?, &self.config);
        let prefix = config.of_page(uri, |target| target.prefix(uri, config));
        let prefix = prefix.ok_or_else(|| {
            Error::new(ErrorKind::Unsupported)
                .with_message("the page keys of this layer do not tell what is below a path")
        })?;
        config.cache.delete_prefix(&prefix).await
    }

    pub(super) fn set(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(Arc::make_mut(&mut self.config));
        self
    }
}

fn absolute(uri: &Uri) -> Result<&Uri> {
    if uri.authority().is_none() {
        return Err(
            Error::new(ErrorKind::InvalidKey).with_message("the URI of a page has to be absolute")
        );
    }
    Ok(uri)
}

impl<S> Layer<S> for CacheLayer {
    type Service = CacheService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        CacheService::new(inner, Arc::clone(&self.config))
    }
}
