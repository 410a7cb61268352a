//! Settings of named caches, as they stand in a file, a URL or code.

use std::collections::BTreeMap;
use std::fmt;

use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::DEFAULT_ALIAS;
use crate::error::{Error, Result};

/// The settings of all caches, by alias: any serde format does.
///
/// Of each cache, `backend` is required; the rest has defaults. The names may also be written
/// as Django writes them, in capitals.
///
/// | setting | meaning | default |
/// |---|---|---|
/// | `backend` | the scheme of a URL, such as `memory` or `redis`, or a name given to the builder | |
/// | `location` | where the store is: a text, or a list of servers; of memory, its name in the process | |
/// | `timeout` | seconds, fractions too, or `"never"` | 300 |
/// | `key_prefix` | keeps the keys apart from others in the store | none |
/// | `version` | version of the keys | 1 |
/// | `key_function` | `default`, `django`, or a name given to the builder | `default` |
/// | `key_policy` | `hash`, `error` or `off` for keys that some stores refuse | `hash` |
/// | `codec` | `json`, or a name given to the builder | `json` |
/// | `on_error` | `error` or `miss`: what [reads and writes](crate::OnError) do when the store fails | `error` |
/// | `request_budget` | seconds that a handler [waits in all](crate::CacheBuilder::request_budget) | no limit |
/// | `checksums` | `false`: values are stored [as their bare bytes](crate::CacheBuilder::checksums) | `true`, but in memory |
/// | `signing_keys` | secrets: what is stored is [signed](crate::CacheBuilder::signing_keys) with the first, and any of them is believed | none |
/// | `compression` | `zstd`: what leaves the process is [compressed](crate::CacheBuilder::compression) | none |
/// | `compression_threshold` | from how many bytes on | 1024 |
/// | `max_computations` | how many values are [computed at a time](crate::CacheBuilder::max_computations) | no limit |
/// | `max_refreshes` | how many are [made anew in the background](crate::CacheBuilder::max_refreshes) at a time | 64 |
/// | `drain_timeout` | seconds that [closing](crate::CacheBuilder::drain_timeout) waits for what is being computed | 5 |
/// | `options` | options of the backend | |
///
/// Which names, locations and options there are says [`docs::stores`](crate::docs::stores).
///
/// # Example
///
/// ```
/// # #[cfg(feature = "memory")]
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), axum_cache::BoxError> {
/// use axum_cache::{Caches, Settings};
///
/// let settings: Settings = serde_json::from_str(
///     r#"{
///         "default": {"backend": "memory", "timeout": 60, "options": {"max_entries": 1000}},
///         "fragments": {"backend": "dummy"}
///     }"#,
/// )?;
/// let caches = Caches::builder().settings(settings).build().await?;
/// assert_eq!(caches.aliases().collect::<Vec<_>>(), ["default", "fragments"]);
/// # Ok(()) }
/// # #[cfg(not(feature = "memory"))] fn main() {}
/// ```
#[derive(Clone, Default, Deserialize)]
#[serde(transparent)]
pub struct Settings {
    aliases: BTreeMap<String, Map<String, Value>>,
}

impl Settings {
    /// No settings at all.
    pub fn new() -> Self {
        Self::default()
    }

    /// Settings from TOML: a table an alias.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) if it is no such TOML.
    #[cfg(feature = "toml")]
    pub fn from_toml(text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|error| Error::config("bad TOML").with_source(error))
    }

    /// Settings from JSON: an object an alias.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) if it is no such JSON.
    pub fn from_json(text: &str) -> Result<Self> {
        serde_json::from_str(text).map_err(|error| Error::config("bad JSON").with_source(error))
    }

    /// These settings, with the cache of `alias` as a URL says: the backend is the scheme, the
    /// location what follows it, and the query holds the other settings and options.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) if it is no URL.
    pub fn with_url(mut self, alias: impl Into<String>, url: &str) -> Result<Self> {
        let alias = alias.into();
        let settings = parse_url(url)
            .map_err(|reason| Error::config(format!("cache {alias:?}: URL: {reason}")))?;
        self.aliases.insert(alias, settings);
        Ok(self)
    }

    /// These settings, or process memory as `default` if they name no cache at all.
    pub(super) fn or_memory(mut self) -> Self {
        if self.aliases.is_empty() {
            let memory = Map::from_iter([("backend".to_owned(), "memory".into())]);
            self.aliases.insert(DEFAULT_ALIAS.to_owned(), memory);
        }
        self
    }

    pub(super) fn into_aliases(self) -> BTreeMap<String, Map<String, Value>> {
        self.aliases
    }
}

/// Shows the aliases only: locations and options may hold secrets.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.aliases.keys()).finish()
    }
}

/// The settings that every cache has; what else a URL's query holds are options.
const COMMON: [&str; 16] = [
    "timeout",
    "key_prefix",
    "version",
    "key_function",
    "key_policy",
    "codec",
    "on_error",
    "request_budget",
    "checksums",
    "compression",
    "compression_threshold",
    "max_computations",
    "max_refreshes",
    "drain_timeout",
    "signing_keys",
    "location",
];

/// Where a URL is kept as it was written, but for its query; no name that a file would use.
pub(super) const URL: &str = "://";

fn parse_url(url: &str) -> Result<Map<String, Value>, &'static str> {
    let (scheme, rest) = url.split_once("://").ok_or("has no `scheme://`")?;
    let (location, query) = rest.split_once('?').unwrap_or((rest, ""));
    let mut settings = Map::new();
    let mut options = Map::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or("has a parameter without `=`")?;
        let (name, value) = (decode(name)?, decode(value)?);
        let target = if COMMON.contains(&name.as_str()) {
            &mut settings
        } else {
            &mut options
        };
        if target.insert(name, value.into()).is_some() {
            return Err("has a parameter twice");
        }
    }
    settings.insert("backend".to_owned(), scheme.into());
    if !location.is_empty() {
        settings.insert("location".to_owned(), decode(location)?.into());
        settings.insert(URL.to_owned(), format!("{scheme}://{location}").into());
    }
    settings.insert("options".to_owned(), options.into());
    Ok(settings)
}

fn decode(text: &str) -> Result<String, &'static str> {
    let decoded = percent_decode_str(text).decode_utf8();
    Ok(decoded.map_err(|_| "is not UTF-8")?.into_owned())
}
