//! The key space of one cache: its prefix, key function and policy, checked once.

use std::sync::Arc;

use super::text::{Brief, Text};
use super::{
    Key, KeyFunction, KeyPolicy, MAX_KEY_BYTES, PrefixedKeys, digest, is_plain, is_plain_byte,
};
use crate::error::{Error, ErrorKind, Result};

/// Leaves room in a key for a version, the mark and a digest.
const MAX_NAMESPACE_BYTES: usize = 128;

/// What is between the beginning of a hashed key and its digest.
const MARK: char = '#';

/// The mark and the digest, in hexadecimal digits.
const TAIL_BYTES: usize = 1 + 64;

/// The most that a hashed key keeps of the text that it stands for.
const MAX_HEAD_BYTES: usize = MAX_KEY_BYTES - TAIL_BYTES;

#[derive(Clone, Debug)]
pub(crate) struct KeySpace {
    prefix: String,
    namespace: Option<String>,
    function: Arc<dyn KeyFunction>,
    policy: KeyPolicy,
    /// What the keys of the version begin with that most keys are of; see [`KeyFunction::head`].
    head: Option<String>,
    /// Whether they are in the namespace by that, and plain so far.
    is_head_plain: bool,
    version: u64,
}

impl KeySpace {
    /// Most of its keys will be of this `version`.
    pub(crate) fn new(
        prefix: String,
        version: u64,
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
        let head = function.head(&prefix, version);
        let within = namespace.as_deref().unwrap_or_default();
        Ok(Self {
            is_head_plain: head.as_ref().is_some_and(|head| {
                // With a mark in it, a key could be taken for a hashed one.
                head.starts_with(within) && is_plain(head) && !head.contains(MARK)
            }),
            head,
            version,
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
        self.brief(version, key).map(Key::kept)
    }

    /// The same, for who asks for it once.
    pub(crate) fn brief(&self, version: u64, key: &str) -> Result<Key> {
        self.key_of(version, |text| {
            text.push_str(key);
            false
        })
    }

    /// The final key of the one that `append` appends, which says whether it is known to be [plain], and to be
    /// unlike a hashed one. For who asks for it once.
    ///
    /// [plain]: is_plain
    pub(crate) fn key_of(
        &self,
        version: u64,
        append: impl FnOnce(&mut String) -> bool,
    ) -> Result<Key> {
        let mut brief = Brief::new();
        let text = brief.text_mut();
        match &self.head {
            Some(head) if version == self.version => {
                text.push_str(head);
                if append(text) && self.is_head_plain && text.len() <= MAX_KEY_BYTES {
                    return Ok(Key {
                        text: Text::Brief(brief),
                        namespace: self.namespace.as_ref().map_or(0, String::len),
                    });
                }
            }
            _ => {
                let head = self.function.head(&self.prefix, version);
                text.push_str(head.as_deref().unwrap_or_default());
                append(text);
                if head.is_none() {
                    *text = self.function.key(text, &self.prefix, version);
                }
            }
        }
        self.checked(brief)
    }

    /// The final key that this text makes.
    fn checked(&self, text: Brief) -> Result<Key> {
        let namespace = self.namespace.as_deref().unwrap_or_default();
        let namespace = if text.starts_with(namespace) {
            namespace
        } else {
            ""
        };
        let portable = match self.policy {
            KeyPolicy::Error if !is_portable(&text) => return Err(ErrorKind::InvalidKey.into()),
            KeyPolicy::Error | KeyPolicy::Off => true,
            KeyPolicy::Hash => is_portable(&text) && !looks_hashed(&text),
        };
        Ok(Key {
            text: if portable {
                Text::Brief(text)
            } else {
                format!("{}{MARK}{}", head(&text), digest(&text)).into()
            },
            namespace: namespace.len(),
        })
    }

    /// The final key that was stored as this text; `None` if it is none of this cache.
    pub(crate) fn stored(&self, text: &str) -> Option<Key> {
        let namespace = self.namespace.as_deref().unwrap_or_default();
        let is_one = self.policy == KeyPolicy::Off || is_portable(text);
        (is_one && text.starts_with(namespace)).then(|| Key {
            text: text.into(),
            namespace: namespace.len(),
        })
    }

    /// What the final keys of a version begin with whose keys begin with `beginning`, and no
    /// others.
    pub(crate) fn beginning(&self, version: u64, beginning: &str) -> Result<String> {
        let unsupported = |why| Err(Error::new(ErrorKind::Unsupported).with_message(why));
        let text = self.function.beginning(beginning, &self.prefix, version);
        let Some(text) = text else {
            return unsupported("the key function of this cache does not keep how keys begin");
        };
        match self.policy {
            KeyPolicy::Hash if text.len() > MAX_HEAD_BYTES || !is_plain(&text) => {
                unsupported("prefix is too long, or keys that begin with it are all hashed")
            }
            KeyPolicy::Error if !is_portable(&text) => Err(ErrorKind::InvalidKey.into()),
            _ => Ok(text),
        }
    }
}

impl Default for KeySpace {
    fn default() -> Self {
        let function = Arc::new(PrefixedKeys);
        Self::new(String::new(), 1, function, KeyPolicy::Hash).expect("it has no prefix")
    }
}

fn is_portable(text: &str) -> bool {
    text.len() <= MAX_KEY_BYTES && is_plain(text)
}

/// Whether the text could be taken for a hashed key.
fn looks_hashed(text: &str) -> bool {
    let tail = text.len().checked_sub(TAIL_BYTES);
    tail.is_some_and(|tail| text.as_bytes()[tail] == MARK as u8)
}

/// What a hashed key keeps: all bytes are portable, and there is room for the rest.
fn head(text: &str) -> &str {
    let plain = text.bytes().take_while(|byte| is_plain_byte(*byte)).count();
    let mut end = plain.min(MAX_HEAD_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use super::*;

    fn space(prefix: &str) -> KeySpace {
        KeySpace::new(prefix.into(), 1, Arc::new(PrefixedKeys), KeyPolicy::Hash).unwrap()
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
        let forged = long.as_str();
        let raw = KeySpace::new(String::new(), 1, Arc::new(Raw), KeyPolicy::Hash).unwrap();
        assert_ne!(raw.key(1, forged).unwrap().as_str(), forged);
        let forged = forged.strip_prefix("p:1:").unwrap();
        assert_ne!(space("p").key(1, forged).unwrap(), long);
        assert_eq!(
            raw.beginning(1, "k").unwrap_err().kind(),
            ErrorKind::Unsupported
        );
    }

    #[test]
    fn marks_in_the_prefix_make_no_key_that_looks_hashed() {
        let page = "x".repeat(40);
        let key = space(&"#".repeat(60)).key_of(1, |text| {
            text.push_str(&page);
            true
        });
        let key = key.unwrap();
        assert!(looks_hashed(key.as_str()) && !key.as_str().ends_with(&page));
    }

    #[test]
    fn a_hashed_key_begins_as_the_key() {
        let long = "漢".repeat(100);
        for prefix in ["", "p"] {
            let space = space(prefix);
            for rest in [
                "x".repeat(300),
                long.clone(),
                "a b".into(),
                " ".into(),
                "\0".into(),
            ] {
                let key = space.key(1, &format!("k/{rest}")).unwrap();
                assert!(
                    is_portable(key.as_str()) && looks_hashed(key.as_str()),
                    "{key:?}"
                );
                let beginning = space.beginning(1, "k/").unwrap();
                assert!(key.as_str().starts_with(&beginning), "{key:?}");
            }
            let most = "x".repeat(MAX_HEAD_BYTES - format!("{prefix}:1:").len());
            let beginning = space.beginning(1, &most).unwrap();
            let key = space.key(1, &(most.clone() + &long)).unwrap();
            assert!(key.as_str().starts_with(&beginning));
            for refused in [most + "x", "a b".into(), "a\0".into()] {
                let refused = space.beginning(1, &refused).unwrap_err();
                assert_eq!(refused.kind(), ErrorKind::Unsupported);
            }
        }
    }

    #[test]
    fn bytes_are_counted_not_characters() {
        let wide = "漢".repeat(100);
        assert!(looks_hashed(space("").key(1, &wide).unwrap().as_str()));
        let strict =
            KeySpace::new(String::new(), 1, Arc::new(PrefixedKeys), KeyPolicy::Error).unwrap();
        let refused = strict.key(1, &wide).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidKey);
        assert!(strict.key(1, "fits").is_ok());
        let refused = strict.beginning(1, &wide).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidKey);
        assert_eq!(strict.beginning(1, "fits").unwrap(), ":1:fits");
    }

    #[test]
    fn an_overlong_prefix_is_refused_at_start() {
        let long = "p".repeat(200);
        let refused = KeySpace::new(long, 1, Arc::new(PrefixedKeys), KeyPolicy::Hash).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Config);
    }
}
