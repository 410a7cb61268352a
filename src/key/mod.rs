//! Keys: from the caller's text to the one a store sees; the only place that formats them.
//!
//! # Invariants
//!
//! - Injective: two different (prefix, version, key) never share a final key, whatever bytes they
//!   hold. Prefixes are escaped so that they hold no separator, and a key that looks like a hashed
//!   one is itself hashed.
//! - Portable: with [`KeyPolicy::Hash`], the default, a final key has at most [`MAX_KEY_BYTES`]
//!   bytes, none of them a control character or a space.
//! - A hashed key begins as the key that it stands for, so that entries are found by the beginning
//!   of their keys.
//! - Every key of a cache begins with the cache's namespace, and no key of another prefix does,
//!   so that `clear` can find the one and spare the other.

#[cfg(feature = "django-keys")]
mod django;
mod page;
mod part;
mod space;
mod text;

#[cfg(feature = "django-keys")]
pub use self::django::{DjangoFragment, DjangoKeys};
pub use self::page::{Facet, PageKeyFunction, PageTarget, VaryValue};
pub(crate) use self::page::{PageKeys, selection};
pub use self::part::{KeyPart, KeyWriter};
pub(crate) use self::space::KeySpace;

use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use self::text::Text;

/// The longest final key that every supported store takes, in bytes: Memcached's limit.
pub const MAX_KEY_BYTES: usize = 250;

/// A final key, as a store sees it: prefix, version and the caller's key in one text.
#[derive(Clone)]
pub struct Key {
    text: Text,
    namespace: usize,
}

impl Key {
    /// The whole key.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its text, to keep.
    pub(crate) fn text(&self) -> Cow<'_, Arc<str>> {
        self.text.shared()
    }

    /// The same key, for who keeps it for a while: clones share its text.
    #[must_use]
    pub(crate) fn kept(self) -> Self {
        match self.text {
            Text::Shared(_) => self,
            Text::Brief(_) => self.clone(),
        }
    }

    /// What tells it from the few others that there are beside it; the same in every process.
    pub(crate) fn checksum(&self) -> u64 {
        xxh3_64(self.text.as_bytes())
    }

    /// One of a namespace that no key function makes.
    pub(crate) fn within(namespace: &str, name: &str) -> Self {
        Self {
            text: Text::from(format!("{namespace}{name}")),
            namespace: namespace.len(),
        }
    }

    /// The beginning of the key that all keys of the same cache share; see
    /// [`Backend::clear`](crate::backend::Backend::clear).
    pub fn namespace(&self) -> &str {
        &self.text[..self.namespace]
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        (self.as_str(), self.namespace) == (other.as_str(), other.namespace)
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.as_str(), self.namespace).hash(state);
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("text", &self.as_str())
            .field("namespace", &self.namespace)
            .finish()
    }
}

/// Whether the text holds no space and no control character.
pub(crate) fn is_plain(text: &str) -> bool {
    all_bytes(text.as_bytes(), is_plain_byte)
}

/// Whether all bytes are of some kind. Without a way out, so that several are looked at at a time.
pub(crate) fn all_bytes(bytes: &[u8], is: impl Fn(u8) -> bool) -> bool {
    bytes.iter().fold(true, |all, byte| all & is(*byte))
}

fn is_plain_byte(byte: u8) -> bool {
    byte > b' ' && byte != 0x7f
}

/// What stands for a text that is too long, or holds what a store refuses: its BLAKE3 digest, as 64
/// hexadecimal digits.
pub(crate) fn digest(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

/// What to do with a key that is not portable: over 250 bytes, or with a control character or
/// a space in it.
///
/// # Django
///
/// Django warns (Memcached: refuses), and counts characters where stores count bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyPolicy {
    /// Keep its beginning, up to 185 portable bytes of it, and replace the rest by `#` and the
    /// BLAKE3 digest of all of it.
    #[default]
    Hash,
    /// Refuse it with [`ErrorKind::InvalidKey`](crate::ErrorKind::InvalidKey).
    Error,
    /// Pass it on as it is; the store may refuse it.
    Off,
}

/// Makes the final key out of a cache's prefix, a version and the caller's key.
///
/// # Django
///
/// `KEY_FUNCTION`.
pub trait KeyFunction: fmt::Debug + Send + Sync + 'static {
    /// The final key.
    fn key(&self, key: &str, prefix: &str, version: u64) -> String;

    /// What every final key of this prefix and version begins with, if that and the caller's key are all that it
    /// is; `None`, the default, otherwise. Such keys are put together without a call of [`key`](Self::key).
    fn head(&self, prefix: &str, version: u64) -> Option<String> {
        let _ = (prefix, version);
        None
    }

    /// What every key of this prefix begins with and no key of another does; `None`, the
    /// default, if the function cannot promise that, and then `clear` is
    /// [`Unsupported`](crate::ErrorKind::Unsupported).
    fn namespace(&self, prefix: &str) -> Option<String> {
        let _ = prefix;
        None
    }

    /// What the final keys of all keys that begin with `beginning` begin with, and those of no
    /// others; `None`, the default, if the function cannot promise that, and then
    /// [`Cache::delete_prefix`](crate::Cache::delete_prefix) is
    /// [`Unsupported`](crate::ErrorKind::Unsupported).
    fn beginning(&self, beginning: &str, prefix: &str, version: u64) -> Option<String> {
        let _ = (beginning, prefix, version);
        None
    }
}

/// The default key function: `prefix:version:key`, with the prefix percent-escaped where it holds
/// a separator or anything a store might refuse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PrefixedKeys;

impl KeyFunction for PrefixedKeys {
    fn key(&self, key: &str, prefix: &str, version: u64) -> String {
        head(prefix, version) + key
    }

    fn head(&self, prefix: &str, version: u64) -> Option<String> {
        Some(head(prefix, version))
    }

    fn namespace(&self, prefix: &str) -> Option<String> {
        Some(format!("{}:", part::escape(prefix)))
    }

    fn beginning(&self, beginning: &str, prefix: &str, version: u64) -> Option<String> {
        Some(self.key(beginning, prefix, version))
    }
}

fn head(prefix: &str, version: u64) -> String {
    format!("{}:{version}:", part::escape(prefix))
}

/// Joins parts into one key, injectively: different parts never make the same key.
///
/// Parts are anything that is a [`KeyPart`](trait@crate::key::KeyPart): texts, integers, `bool`, `char`,
/// `Option`s, tuples and slices of them.
///
/// # Example
///
/// ```
/// use axum_cache::key;
///
/// assert_eq!(key!("post", 42, "en"), "post:42:en");
/// assert_ne!(key!("a:b", "c"), key!("a", "b:c"));
/// assert_ne!(key!("post", 42), key!("post", "42"));
/// assert_ne!(key!("post", None::<&str>), key!("post", "None"));
/// ```
#[macro_export]
macro_rules! key {
    ($($part:expr),+ $(,)?) => {{
        let mut writer = $crate::key::KeyWriter::new();
        $( writer.part(&$part); )+
        writer.finish()
    }};
}
