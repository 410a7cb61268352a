//! The key space of one cache: its prefix, key function and policy, checked once.

use std::sync::Arc;

use super::{Key, KeyFunction, KeyPolicy, MAX_KEY_BYTES, PrefixedKeys, digest, is_plain};
use crate::error::{Error, ErrorKind, Result};

/// Leaves room in a key for a version, the mark and a digest.
const MAX_NAMESPACE_BYTES: usize = 128;

/// What a hashed key has in the place of the caller's text.
const MARK: char = '#';

#[derive(Clone, Debug)]
pub(crate) struct KeySpace {
    prefix: String,
    namespace: Option<String>,
    function: Arc<dyn KeyFunction>,
    policy: KeyPolicy,
}

impl KeySpace {
    pub(crate) fn new(
        prefix: String,
        function: Arc<dyn KeyFunction>,
        policy: KeyPolicy,
    ) -> Result<Self> {
        let namespace = function.namespace(&prefix);
        if let Some(namespace) = &namespace
            && (namespace.len() > MAX_NAMESPACE_BYTES || !is_portable(namespace))
        {
            return Err(Error::config(format!(
                "key_prefix: makes a namespace of over {MAX_NAMESPACE_BYTES} bytes or with \
                 control characters in it"
            )));
        }
        Ok(Self {
            prefix,
            namespace,
            function,
            policy,
        })
    }

    /// What all keys of this cache begin with, if the key function can promise that.
    pub(crate) fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    pub(crate) fn key(&self, version: u64, key: &str) -> Result<Key> {
        let text = self.function.key(key, &self.prefix, version);
        let namespace = self.namespace.as_deref().unwrap_or_default();
        let namespace = if text.starts_with(namespace) {
            namespace
        } else {
            ""
        };
        let portable = match self.policy {
            KeyPolicy::Error if !is_portable(&text) => return Err(ErrorKind::InvalidKey.into()),
            KeyPolicy::Error | KeyPolicy::Off => true,
            KeyPolicy::Hash => is_portable(&text) && !text[namespace.len()..].starts_with(MARK),
        };
        let text = if portable {
            text
        } else {
            format!("{namespace}{MARK}{}", digest(&text))
        };
        Ok(Key {
            text,
            namespace: namespace.len(),
        })
    }
}

impl Default for KeySpace {
    fn default() -> Self {
        Self {
            prefix: String::new(),
            namespace: PrefixedKeys.namespace(""),
            function: Arc::new(PrefixedKeys),
            policy: KeyPolicy::Hash,
        }
    }
}

fn is_portable(text: &str) -> bool {
    text.len() <= MAX_KEY_BYTES && is_plain(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use super::*;

    fn space(prefix: &str) -> KeySpace {
        KeySpace::new(prefix.into(), Arc::new(PrefixedKeys), KeyPolicy::Hash).unwrap()
    }

    #[test]
    fn plain_keys_look_like_djangos() {
        assert_eq!(space("").key(1, "k").unwrap().as_str(), ":1:k");
        assert_eq!(space("site").key(2, "k").unwrap().as_str(), "site:2:k");
    }

    #[test]
    fn a_separator_in_the_prefix_makes_no_collision() {
        let one = space("a:1").key(2, "k").unwrap();
        let other = space("a").key(1, "2:k").unwrap();
        assert_ne!(one, other);
        assert!(!one.as_str().starts_with(space("a").namespace().unwrap()));
    }

    /// Passes text through, so that a caller could otherwise meet a digest.
    #[derive(Debug)]
    struct Raw;

    impl KeyFunction for Raw {
        fn key(&self, key: &str, _: &str, _: u64) -> String {
            key.to_owned()
        }
    }

    #[test]
    fn a_key_that_looks_hashed_is_hashed() {
        let long = space("p").key(1, &"x".repeat(300)).unwrap();
        assert!(long.as_str().len() <= MAX_KEY_BYTES);
        let forged = long.as_str().strip_prefix("p:").unwrap();
        let raw = KeySpace::new(String::new(), Arc::new(Raw), KeyPolicy::Hash).unwrap();
        assert_ne!(raw.key(1, forged).unwrap().as_str(), forged);
    }

    #[test]
    fn bytes_are_counted_not_characters() {
        let wide = "漢".repeat(100);
        assert!(space("").key(1, &wide).unwrap().as_str().starts_with(":#"));
        let strict =
            KeySpace::new(String::new(), Arc::new(PrefixedKeys), KeyPolicy::Error).unwrap();
        let refused = strict.key(1, &wide).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidKey);
        assert!(strict.key(1, "fits").is_ok());
    }

    #[test]
    fn an_overlong_prefix_is_refused_at_start() {
        let long = "p".repeat(200);
        let refused = KeySpace::new(long, Arc::new(PrefixedKeys), KeyPolicy::Hash).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Config);
    }
}
