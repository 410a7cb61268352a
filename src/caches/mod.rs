//! Named caches, as Django's `CACHES`: one `default` and any others, chosen by configuration.

mod builder;
mod env;
mod settings;
mod stores;
mod taken;

pub use self::builder::{BackendSettings, CachesBuilder};
pub use self::settings::Settings;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::backend::Waited;
use crate::cache::Cache;
use crate::error::{Error, ErrorKind, Result};
use crate::tag::Tags;

/// The alias that has to be there.
pub const DEFAULT_ALIAS: &str = "default";

/// The named caches of an application. Cloning shares them.
///
/// Keep it in the application state; [`Cache`] and `Caches` are then extractors.
///
/// # Django
///
/// `CACHES` and `django.core.cache.caches`. A bad setting is an error at start-up, and nothing
/// falls back silently.
///
/// # Example
///
/// ```
/// # #[cfg(feature = "memory")]
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> axum_cache::Result<()> {
/// use axum_cache::{Cache, Caches, backend::Memory};
///
/// let caches = Caches::new(Cache::new(Memory::new()))
///     .with("sessions", Cache::builder(Memory::new()).key_prefix("s").build()?);
/// caches.get("sessions")?.set("k", &1, axum_cache::Ttl::Default).await?;
/// assert_eq!(caches.default().get::<i32>("k").await?, None);
/// # Ok(()) }
/// # #[cfg(not(feature = "memory"))] fn main() {}
/// ```
#[derive(Clone, Debug)]
pub struct Caches {
    caches: Arc<BTreeMap<String, Cache>>,
    /// How long the request that these are for has waited.
    waited: Option<Arc<Waited>>,
}

impl Caches {
    /// Caches with this `default`.
    pub fn new(default: Cache) -> Self {
        Self::from_map(BTreeMap::from([(DEFAULT_ALIAS.to_owned(), default)]))
    }

    /// These caches and one more, in the place of any other of that alias.
    #[must_use]
    pub fn with(mut self, alias: impl Into<String>, cache: Cache) -> Self {
        Arc::make_mut(&mut self.caches).insert(alias.into(), cache);
        self
    }

    /// Builds caches from settings, with backends of your own if you name them.
    pub fn builder() -> CachesBuilder {
        CachesBuilder::new()
    }

    /// The caches that the environment asks for: process memory when it asks for nothing. When it asks for any,
    /// it has to name a `default`.
    ///
    /// - `CACHE_URL`: the `default` cache, such as `memory://?timeout=60`.
    /// - `CACHE_URL_<ALIAS>`: the cache of that alias, in lower case.
    /// - `CACHES`: the path of a `.toml` or `.json` file of [`Settings`]; the variables above
    ///   replace its aliases.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config), naming the alias and the option, for anything that makes no
    /// sense.
    pub async fn from_env() -> Result<Self> {
        let settings = env::settings(std::env::vars_os())?;
        Self::builder().settings(settings).build().await
    }

    pub(crate) fn from_map(caches: BTreeMap<String, Cache>) -> Self {
        Self {
            caches: Arc::new(caches),
            waited: None,
        }
    }

    /// The `default` cache.
    ///
    /// # Panics
    ///
    /// Never: every way to make `Caches` sees to it that there is one.
    pub fn default(&self) -> Cache {
        self.find(DEFAULT_ALIAS)
            .expect("every constructor requires the alias")
    }

    /// The cache of that alias.
    ///
    /// # Errors
    ///
    /// [`UnknownAlias`](ErrorKind::UnknownAlias), naming those there are.
    pub fn get(&self, alias: &str) -> Result<Cache> {
        self.find(alias).ok_or_else(|| {
            let known: Vec<_> = self.aliases().collect();
            Error::new(ErrorKind::UnknownAlias).with_message(format!(
                "no cache is configured as {alias:?}; there are: {}",
                known.join(", ")
            ))
        })
    }

    /// The aliases, sorted.
    pub fn aliases(&self) -> impl Iterator<Item = &str> {
        self.caches.keys().map(String::as_str)
    }

    /// [Invalidates](Cache::invalidate) what has one of these tags in any of them: each cache has tags of its
    /// own, and a page may be in one, its fragments in another.
    ///
    /// # Errors
    ///
    /// The first failure, after all were asked; see [`Cache::invalidate`].
    ///
    /// # Django
    ///
    /// None.
    ///
    /// # Example
    ///
    /// ```
    /// # #[cfg(feature = "memory")]
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> axum_cache::Result<()> {
    /// use axum_cache::{Cache, Caches, Ttl, backend::Memory};
    ///
    /// let caches = Caches::new(Cache::new(Memory::new()))
    ///     .with("template_fragments", Cache::new(Memory::new()));
    /// let fragments = caches.get("template_fragments")?;
    /// fragments.with_tags(["posts"]).set("latest", "a post", Ttl::Default).await?;
    ///
    /// caches.invalidate(["posts"]).await?;
    /// assert_eq!(fragments.get::<String>("latest").await?, None);
    /// # Ok(()) }
    /// # #[cfg(not(feature = "memory"))] fn main() {}
    /// ```
    pub async fn invalidate<N: AsRef<str>>(&self, tags: impl IntoIterator<Item = N>) -> Result<()> {
        let tags = Tags::new(tags);
        let mut outcome = Ok(());
        for cache in self.all() {
            outcome = outcome.and(cache.invalidate_tags(&tags).await);
        }
        outcome
    }

    /// [Expires](Cache::expire) what has one of these tags in any of them.
    ///
    /// # Errors
    ///
    /// The first failure, after all were asked; see [`Cache::expire`].
    pub async fn expire<N: AsRef<str>>(&self, tags: impl IntoIterator<Item = N>) -> Result<()> {
        let tags = Tags::new(tags);
        let mut outcome = Ok(());
        for cache in self.all() {
            outcome = outcome.and(cache.expire_tags(&tags).await);
        }
        outcome
    }

    /// Releases what the stores hold open.
    ///
    /// # Errors
    ///
    /// The first failure, after all were asked.
    ///
    /// # Django
    ///
    /// `close_caches`, which runs at the end of every request; here it is for the end of the
    /// process.
    pub async fn close(&self) -> Result<()> {
        let mut outcome = Ok(());
        for cache in self.caches.values() {
            outcome = outcome.and(cache.close().await);
        }
        outcome
    }

    fn all(&self) -> impl Iterator<Item = Cache> {
        self.aliases().filter_map(|alias| self.find(alias))
    }

    pub(crate) fn find(&self, alias: &str) -> Option<Cache> {
        let cache = self.caches.get(alias)?;
        let cache = match &self.waited {
            Some(waited) => &cache.for_request(waited),
            None => cache,
        };
        Some(cache.beside(self.clone()))
    }

    /// Whether a request does not wait for all of them as long as it takes.
    #[cfg(feature = "axum")]
    pub(crate) fn have_budgets(&self) -> bool {
        let mut caches = self.caches.values();
        caches.any(|cache| cache.request_budget().is_some())
    }

    /// The same for one request, which has waited so long.
    #[cfg(feature = "axum")]
    pub(crate) fn for_request(mut self, waited: Arc<Waited>) -> Self {
        self.waited = Some(waited);
        self
    }
}
