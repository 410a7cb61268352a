//! What nodes say to each other, as bytes.
//!
//! ```text
//! version | origin, 8 bytes | sequence, 8 bytes | kind | what it is about
//! ```
//!
//! # Invariants
//!
//! - No message holds a value.
//! - What is decoded is what was encoded, to its last byte; of anything else, nothing is taken.
//! - No input makes the decoder panic, or allocate more than a small multiple of its length.

use bytes::{BufMut, Bytes, BytesMut};

const VERSION: u8 = 1;
/// Version, origin, sequence and kind.
const HEAD: usize = 18;
/// The length before each key.
const LENGTH: usize = 4;

const HEARTBEAT: u8 = 0;
const KEYS: u8 = 1;
const PREFIX: u8 = 2;
const EVERYTHING: u8 = 3;
const FAREWELL: u8 = 4;

/// A message, and which of its origin's it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    /// Which node sent it.
    pub(super) origin: u64,
    /// One more than that of the message before.
    pub(super) sequence: u64,
    pub(super) word: Word,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// The node is there, and has nothing else to say.
    Heartbeat,
    /// These entries changed.
    Keys(Vec<String>),
    /// Entries changed whose keys begin so.
    Prefix(String),
    /// All of them may have.
    Everything,
    /// The node is done. It changed nothing of which it did not tell.
    Farewell,
}

impl Message {
    pub(super) fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(HEAD);
        bytes.put_u8(VERSION);
        bytes.put_u64(self.origin);
        bytes.put_u64(self.sequence);
        match &self.word {
            Word::Heartbeat => bytes.put_u8(HEARTBEAT),
            Word::Keys(keys) => {
                bytes.put_u8(KEYS);
                for key in keys {
                    // No key is longer than a message.
                    bytes.put_u32(u32::try_from(key.len()).unwrap_or(u32::MAX));
                    bytes.put_slice(key.as_bytes());
                }
            }
            Word::Prefix(prefix) => {
                bytes.put_u8(PREFIX);
                bytes.put_slice(prefix.as_bytes());
            }
            Word::Everything => bytes.put_u8(EVERYTHING),
            Word::Farewell => bytes.put_u8(FAREWELL),
        }
        bytes.freeze()
    }

    /// `None` for what another version wrote, or nobody.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (&version, rest) = bytes.split_first()?;
        let (origin, rest) = rest.split_first_chunk()?;
        let (sequence, rest) = rest.split_first_chunk()?;
        let (&kind, rest) = rest.split_first()?;
        if version != VERSION {
            return None;
        }
        let word = match kind {
            KEYS => Word::Keys(keys(rest)?),
            PREFIX => Word::Prefix(text(rest)?),
            HEARTBEAT if rest.is_empty() => Word::Heartbeat,
            EVERYTHING if rest.is_empty() => Word::Everything,
            FAREWELL if rest.is_empty() => Word::Farewell,
            _ => return None,
        };
        Some(Self {
            origin: u64::from_be_bytes(*origin),
            sequence: u64::from_be_bytes(*sequence),
            word,
        })
    }
}

fn keys(mut bytes: &[u8]) -> Option<Vec<String>> {
    let mut keys = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk::<LENGTH>()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        let (key, rest) = rest.split_at_checked(length)?;
        keys.push(text(key)?);
        bytes = rest;
    }
    Some(keys)
}

fn text(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

/// What is said of these keys in messages of up to `limit` bytes: a key that fits into none is said by
/// what it begins with.
pub(super) fn of_keys(keys: impl IntoIterator<Item = String>, limit: usize) -> Vec<Word> {
    let room = limit.saturating_sub(HEAD);
    let (mut words, mut batch, mut taken) = (Vec::new(), Vec::new(), 0);
    for key in keys {
        let size = LENGTH + key.len();
        if size > room {
            words.push(of_prefix(key, limit));
            continue;
        }
        if taken + size > room {
            words.push(Word::Keys(std::mem::take(&mut batch)));
            taken = 0;
        }
        taken += size;
        batch.push(key);
    }
    if !batch.is_empty() {
        words.push(Word::Keys(batch));
    }
    words
}

/// What is said of a prefix in a message of up to `limit` bytes.
pub(super) fn of_prefix(mut prefix: String, limit: usize) -> Word {
    while prefix.len() > limit.saturating_sub(HEAD) {
        prefix.pop();
    }
    if prefix.is_empty() {
        return Word::Everything;
    }
    Word::Prefix(prefix)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words() -> impl Strategy<Value = Word> {
        prop_oneof![
            Just(Word::Heartbeat),
            Just(Word::Everything),
            Just(Word::Farewell),
            any::<String>().prop_map(Word::Prefix),
            any::<Vec<String>>().prop_map(Word::Keys),
        ]
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(origin: u64, sequence: u64, word in words()) {
            let message = Message { origin, sequence, word };
            prop_assert_eq!(Message::decode(&message.encode()), Some(message));
        }

        #[test]
        fn arbitrary_bytes_are_a_message_or_none(mut bytes: Vec<u8>, repair: bool, kind in 0..6_u8) {
            if repair && bytes.len() >= HEAD {
                (bytes[0], bytes[HEAD - 1]) = (VERSION, kind);
            }
            if let Some(message) = Message::decode(&bytes) {
                prop_assert_eq!(message.encode(), bytes);
            }
        }

        #[test]
        fn batches_fit_and_say_it_all(keys: Vec<String>, limit in 0..200_usize) {
            let words = of_keys(keys.clone(), limit);
            for key in &keys {
                let is_said = |word: &Word| match word {
                    Word::Keys(keys) => keys.contains(key),
                    Word::Prefix(prefix) => key.starts_with(prefix.as_str()),
                    word => *word == Word::Everything,
                };
                prop_assert!(words.iter().any(is_said));
            }
            for word in words {
                let bytes = Message { origin: 0, sequence: 0, word }.encode();
                prop_assert!(bytes.len() <= limit.max(HEAD));
            }
        }
    }

    #[test]
    fn another_version_is_not_understood() {
        let mut bytes = Message {
            origin: 1,
            sequence: 2,
            word: Word::Heartbeat,
        }
        .encode()
        .to_vec();
        bytes[0] += 1;
        assert_eq!(Message::decode(&bytes), None);
    }
}
