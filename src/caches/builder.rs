//! From settings to caches: every setting checked, every error naming alias and option.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::settings::{Settings, URL};
use super::taken::Taken;
use super::{Caches, DEFAULT_ALIAS, stores};
use crate::backend::AnyBackend;
use crate::cache::{Cache, CacheBuilder, OnError};
use crate::codec::Codec;
use crate::error::{Error, Result};
use crate::key::{KeyFunction, KeyPolicy, PrefixedKeys};
use crate::ttl::Ttl;

type Making<'a> = Pin<Box<dyn Future<Output = Result<AnyBackend>> + Send + 'a>>;
type Factory = Arc<dyn Fn(BackendSettings) -> Making<'static> + Send + Sync>;

/// The backend that is in front of another.
pub(super) const TIERED: &str = "tiered";

/// Builds [`Caches`] from settings.
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> axum_cache::Result<()> {
/// use axum_cache::{Caches, Settings, backend::{AnyBackend, Dummy}};
///
/// let caches = Caches::builder()
///     .backend("nothing", |settings| async move {
///         assert_eq!(settings.option::<u32>("size")?, Some(3));
///         Ok(AnyBackend::new(Dummy))
///     })
///     .settings(Settings::new().with_url("default", "nothing://?size=3")?)
///     .build()
///     .await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use = "a builder does nothing until it is built"]
pub struct CachesBuilder {
    settings: Settings,
    backends: BTreeMap<String, Factory>,
    key_functions: BTreeMap<String, Arc<dyn KeyFunction>>,
    codecs: BTreeMap<String, Arc<dyn Codec>>,
}

impl CachesBuilder {
    pub(super) fn new() -> Self {
        let builder = Self {
            settings: Settings::new(),
            backends: BTreeMap::new(),
            key_functions: BTreeMap::new(),
            codecs: BTreeMap::new(),
        };
        let builder = stores::register(builder).key_function("default", PrefixedKeys);
        #[cfg(feature = "django-keys")]
        let builder = builder.key_function("django", crate::key::DjangoKeys::new());
        builder
    }

    /// The settings to build from.
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Makes a backend of your own known to settings as `name`.
    pub fn backend<F, Fut>(mut self, name: impl Into<String>, make: F) -> Self
    where
        F: Fn(BackendSettings) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<AnyBackend>> + Send + 'static,
    {
        let factory = move |settings| -> Making<'static> { Box::pin(make(settings)) };
        self.backends.insert(name.into(), Arc::new(factory));
        self
    }

    /// Makes a key function of your own known to settings as `name`.
    pub fn key_function(mut self, name: impl Into<String>, function: impl KeyFunction) -> Self {
        self.key_functions.insert(name.into(), Arc::new(function));
        self
    }

    /// Makes a codec of your own known to settings as `name`.
    pub fn codec(mut self, name: impl Into<String>, codec: impl Codec) -> Self {
        self.codecs.insert(name.into(), Arc::new(codec));
        self
    }

    /// Builds the caches.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config), naming the alias and the option, for a missing
    /// `default`, an unknown backend or option, or a value that makes no sense. Whatever a
    /// backend fails with while it is made.
    pub async fn build(self) -> Result<Caches> {
        let mut drafts = Drafts {
            settings: self.settings.clone().into_aliases(),
            ..Drafts::default()
        };
        while let Some(alias) = drafts.settings.keys().next().cloned() {
            self.draft(&alias, &mut drafts).await?;
        }
        let mut caches = BTreeMap::new();
        for (alias, draft) in drafts.made {
            caches.insert(alias.clone(), self.make(&alias, &draft)?);
        }
        if !caches.contains_key(DEFAULT_ALIAS) {
            return Err(Error::config(format!(
                "caches: the alias {DEFAULT_ALIAS:?} is missing"
            )));
        }
        Ok(Caches::from_map(caches))
    }

    /// The backend of an alias, which may be what another is in front of.
    fn draft<'a>(&'a self, alias: &'a str, drafts: &'a mut Drafts) -> Making<'a> {
        Box::pin(async move {
            if let Some(draft) = drafts.made.get(alias) {
                return Ok(draft.backend.clone());
            }
            let Some(settings) = drafts.settings.remove(alias) else {
                return Err(Error::config(format!(
                    "cache {alias:?}: far: leads back to this cache"
                )));
            };
            let draft = self.draft_of(alias, settings, drafts).await?;
            let backend = draft.backend.clone();
            drafts.made.insert(alias.to_owned(), draft);
            Ok(backend)
        })
    }

    async fn draft_of(
        &self,
        alias: &str,
        settings: Map<String, Value>,
        drafts: &mut Drafts,
    ) -> Result<Draft> {
        let settings = Taken::new(alias, settings);
        let backend: String = settings
            .take("backend")?
            .ok_or_else(|| settings.bad("backend", "is missing"))?;
        let factory =
            known(&self.backends, &backend).map_err(|reason| settings.bad("backend", &reason))?;
        let options = settings
            .take::<Option<Map<_, _>>>("options")?
            .flatten()
            .unwrap_or_default();
        let options = Arc::new(Taken::new(alias, options));
        let far = match options.take::<String>("far")? {
            Some(far) if backend == TIERED => Some(self.far(alias, &far, drafts).await?),
            Some(_) => return Err(options.bad("far", "is not a setting of this backend")),
            None => None,
        };
        let backend = factory(BackendSettings {
            name: backend.clone(),
            location: settings.take("location")?,
            url: settings.take(URL)?,
            options: Arc::clone(&options),
            far,
        });
        Ok(Draft {
            backend: backend.await?,
            settings,
            options,
        })
    }

    /// What a tiered backend is in front of: the backend of another alias, or what a URL says.
    async fn far(&self, alias: &str, far: &str, drafts: &mut Drafts) -> Result<AnyBackend> {
        let bad = |reason: &str| Error::config(format!("cache {alias:?}: far: {reason}"));
        if !far.contains("://") {
            let is_alias = drafts.made.contains_key(far) || drafts.settings.contains_key(far);
            if !is_alias && far != alias && !drafts.open.iter().any(|open| open == far) {
                return Err(bad("is neither a URL nor the alias of another cache"));
            }
            drafts.open.push(alias.to_owned());
            return self.draft(far, drafts).await;
        }
        let settings = Settings::new().with_url(alias, far);
        let settings = settings.map_err(|_| bad("is no URL of a backend"))?;
        let Some(settings) = settings.into_aliases().remove(alias) else {
            return Err(bad("is no URL of a backend"));
        };
        let draft = Box::pin(self.draft_of(alias, settings, drafts)).await?;
        draft.settings.refuse_rest()?;
        draft.options.refuse_rest()?;
        Ok(draft.backend)
    }

    fn make(&self, alias: &str, draft: &Draft) -> Result<Cache> {
        let Draft {
            backend,
            settings: alias_settings,
            options,
        } = draft;
        let mut builder = Cache::builder(backend.clone()).name(alias);
        if let Some(timeout) = alias_settings.take::<Value>("timeout")? {
            let ttl = parse_timeout(&timeout);
            builder = builder.ttl(ttl.map_err(|reason| alias_settings.bad("timeout", reason))?);
        }
        if let Some(prefix) = alias_settings.take::<String>("key_prefix")? {
            builder = builder.key_prefix(prefix);
        }
        if let Some(version) = alias_settings.take("version")? {
            builder = builder.version(version);
        }
        if let Some(policy) = alias_settings.take::<String>("key_policy")? {
            builder = builder.key_policy(match policy.as_str() {
                "hash" => KeyPolicy::Hash,
                "error" => KeyPolicy::Error,
                "off" => KeyPolicy::Off,
                _ => return Err(alias_settings.bad("key_policy", "is not hash, error or off")),
            });
        }
        if let Some(on_error) = alias_settings.take::<String>("on_error")? {
            builder = builder.on_error(match on_error.as_str() {
                "error" => OnError::Error,
                "miss" => OnError::Miss,
                _ => return Err(alias_settings.bad("on_error", "is not error or miss")),
            });
        }
        if let Some(budget) = alias_settings.take_seconds("request_budget")? {
            builder = builder.request_budget(budget);
        }
        if let Some(checksums) = alias_settings.take("checksums")? {
            builder = builder.checksums(checksums);
        }
        if let Some(secrets) = alias_settings.take::<Vec<String>>("signing_keys")? {
            builder = builder.signing_keys(secrets);
        }
        builder = compressing(builder, alias_settings)?;
        if let Some(most) = alias_settings.take("max_computations")? {
            builder = builder.max_computations(most);
        }
        if let Some(most) = alias_settings.take("max_refreshes")? {
            builder = builder.max_refreshes(most);
        }
        if let Some(timeout) = alias_settings.take_seconds("drain_timeout")? {
            builder = builder.drain_timeout(timeout);
        }
        if let Some(name) = alias_settings.take::<String>("key_function")? {
            let function = known(&self.key_functions, &name)
                .map_err(|reason| alias_settings.bad("key_function", &reason))?;
            builder = builder.shared_key_function(Arc::clone(function));
        }
        if let Some(name) = alias_settings.take::<String>("codec")?
            && name != "json"
        {
            let codec = known(&self.codecs, &name)
                .map_err(|reason| alias_settings.bad("codec", &reason))?;
            builder = builder.shared_codec(Arc::clone(codec));
        }
        alias_settings.refuse_rest()?;
        options.refuse_rest()?;
        builder
            .build()
            .map_err(|error| Error::config(format!("cache {alias:?}: {error}")))
    }
}

/// Caches on the way.
#[derive(Default)]
struct Drafts {
    /// Of the aliases that were not begun.
    settings: BTreeMap<String, Map<String, Value>>,
    /// The aliases that wait for another.
    open: Vec<String>,
    made: BTreeMap<String, Draft>,
}

/// The backend of an alias, and what of its settings is left.
struct Draft {
    backend: AnyBackend,
    settings: Taken,
    options: Arc<Taken>,
}

impl fmt::Debug for CachesBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachesBuilder")
            .field("settings", &self.settings)
            .field("backends", &self.backends.keys())
            .field("key_functions", &self.key_functions.keys())
            .field("codecs", &self.codecs.keys())
            .finish()
    }
}

/// What the settings say to the backend of one alias. Options that it does not ask for are
/// refused.
#[derive(Clone)]
pub struct BackendSettings {
    name: String,
    location: Option<Value>,
    url: Option<String>,
    options: Arc<Taken>,
    #[cfg_attr(
        not(feature = "memory"),
        allow(dead_code, reason = "nothing is in front of it")
    )]
    far: Option<AnyBackend>,
}

impl BackendSettings {
    /// The alias.
    pub fn alias(&self) -> &str {
        &self.options.alias
    }

    /// The name that the settings give the backend: of a URL, the scheme.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where the store is: of a URL, what stands between scheme and query, percent-decoded. One
    /// or several.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) if it is neither a text nor a list of texts.
    pub fn locations(&self) -> Result<Vec<String>> {
        match &self.location {
            None => Ok(Vec::new()),
            Some(Value::String(location)) => Ok(vec![location.clone()]),
            Some(list) => serde_json::from_value(list.clone()).map_err(|_| {
                self.options
                    .bad("location", "is neither a text nor a list of them")
            }),
        }
    }

    /// Where the servers of the store are, as URLs without a query: what the settings hold, with
    /// `scheme` before each that has none. Percent-escapes are left as they are. A text may name
    /// several, between commas or semicolons, as in Django.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) if the location is neither a text nor a list of texts.
    pub fn servers(&self, scheme: &str) -> Result<Vec<String>> {
        let texts = match &self.url {
            Some(url) => {
                let (_, location) = url.split_once("://").unwrap_or(("", url));
                vec![location.to_owned()]
            }
            None => self.locations()?,
        };
        let servers = texts.iter().flat_map(|text| text.split([',', ';']));
        let with_scheme = servers
            .map(str::trim)
            .filter(|server| !server.is_empty())
            .map(|server| {
                if server.contains("://") {
                    server.to_owned()
                } else {
                    format!("{scheme}://{server}")
                }
            });
        Ok(with_scheme.collect())
    }

    /// An option that is a number of seconds, fractions too, and more than zero.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) if it is anything else.
    pub fn seconds(&self, name: &str) -> Result<Option<Duration>> {
        self.options.take_seconds(name)
    }

    /// An option of the backend, if it is set.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) if it is no `T`.
    pub fn option<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        self.options.take(name)
    }

    /// The error of a store's own builder, with the alias that it knows nothing of.
    #[allow(dead_code, reason = "every store that has one may be left out")]
    pub(super) fn of_alias(&self, error: &Error) -> Error {
        Error::config(format!("cache {:?}: {error}", self.alias()))
    }

    /// The backend that the option `far` names.
    #[cfg(feature = "memory")]
    pub(super) fn far(&self) -> Option<AnyBackend> {
        self.far.clone()
    }

    /// An error that names the alias and `option`.
    pub fn bad(&self, option: &str, reason: &str) -> Error {
        self.options.bad(option, reason)
    }
}

/// Shows the alias only: location and options may hold secrets.
impl fmt::Debug for BackendSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackendSettings")
            .field("alias", &self.alias())
            .finish_non_exhaustive()
    }
}

fn compressing(builder: CacheBuilder, settings: &Taken) -> Result<CacheBuilder> {
    let compression = settings.take::<String>("compression")?;
    let threshold = settings.take::<usize>("compression_threshold")?;
    match compression.as_deref() {
        None if threshold.is_some() => Err(settings.bad(
            "compression_threshold",
            "says nothing without `compression`",
        )),
        None => Ok(builder),
        #[cfg(feature = "zstd")]
        Some("zstd") => {
            let zstd = crate::entry::Compression::zstd();
            Ok(builder.compression(threshold.map_or(zstd, |bytes| zstd.threshold(bytes))))
        }
        #[cfg(not(feature = "zstd"))]
        Some("zstd") => Err(settings.bad("compression", "needs the feature `zstd`")),
        Some(_) => Err(settings.bad("compression", "is not zstd")),
    }
}

fn known<'a, T>(named: &'a BTreeMap<String, T>, name: &str) -> Result<&'a T, String> {
    named.get(name).ok_or_else(|| {
        let known: Vec<_> = named.keys().map(String::as_str).collect();
        format!("{name:?} is not known; there are: {}", known.join(", "))
    })
}

/// Seconds as a number or its text, or `never`, or null.
fn parse_timeout(timeout: &Value) -> Result<Ttl, &'static str> {
    const REASON: &str = "is neither a number of seconds nor \"never\"";
    let seconds = match timeout {
        Value::Null => return Ok(Ttl::Never),
        Value::String(text) if text == "never" => return Ok(Ttl::Never),
        Value::String(text) => text.parse().map_err(|_| REASON)?,
        other => other.as_f64().ok_or(REASON)?,
    };
    let duration = Duration::try_from_secs_f64(seconds).map_err(|_| REASON)?;
    Ok(Ttl::After(duration))
}
