//! What is in an entry's file: head, key and value.
//!
//! ```text
//! "axcfile" | format version | xxh3 of all that follows, 8 bytes
//!     | expiry, 8 bytes | length of the key, 4 bytes | length of the value, 8 bytes | key | value
//! ```
//!
//! Numbers are little-endian. The expiry is in nanoseconds of wall time since 1970, because other
//! processes read it; the largest number means never, and what lies beyond the year 2554 expires
//! then.
//!
//! # Invariants
//!
//! - Anything that is not exactly what [`encode`] wrote does not [`decode`].
//! - No input makes either function of reading panic, or allocate by a length that the input
//!   declares.

use std::time::Duration;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use crate::ttl::Lifetime;

/// The expiry of what does not expire.
pub(super) const NEVER: u64 = u64::MAX;

/// The bytes before the key.
pub(super) const HEAD: usize = CHECKED + 8 + 4 + 8;

const MAGIC: &[u8; 8] = b"axcfile\x01";

/// Where that begins which the checksum covers.
const CHECKED: usize = MAGIC.len() + 8;

/// A file that was read whole and found good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) expires: u64,
    pub(super) key: Bytes,
    pub(super) value: Bytes,
}

/// The file of an entry.
pub(super) fn encode(key: &str, expires: u64, value: &[u8]) -> Vec<u8> {
    let mut file = Vec::with_capacity(HEAD + key.len() + value.len());
    file.extend_from_slice(MAGIC);
    file.extend_from_slice(&[0; 8]);
    file.extend_from_slice(&expires.to_le_bytes());
    // A key of 4 GiB would come back as undecodable.
    let key_length = u32::try_from(key.len()).unwrap_or(u32::MAX);
    file.extend_from_slice(&key_length.to_le_bytes());
    file.extend_from_slice(&(value.len() as u64).to_le_bytes());
    file.extend_from_slice(key.as_bytes());
    file.extend_from_slice(value);
    let checksum = xxh3_64(&file[CHECKED..]);
    file[MAGIC.len()..CHECKED].copy_from_slice(&checksum.to_le_bytes());
    file
}

/// What a whole file holds. Key and value are slices of it.
pub(super) fn decode(file: &Bytes) -> Option<Record> {
    let length = u64::try_from(file.len()).ok()?;
    let expires = expiry_in_head(file.get(..HEAD)?, length)?;
    let (checksum, checked) = file[MAGIC.len()..].split_first_chunk()?;
    if u64::from_le_bytes(*checksum) != xxh3_64(checked) {
        return None;
    }
    let value = HEAD + usize::try_from(key_length(file)?).ok()?;
    Some(Record {
        expires,
        key: file.slice(HEAD..value),
        value: file.slice(value..),
    })
}

/// The expiry of a file of this `length`, by its head alone: the lengths have to agree, and
/// nothing is known of key and value.
pub(super) fn expiry_in_head(head: &[u8], length: u64) -> Option<u64> {
    label_in_head(head, length).map(|(expires, _)| expires)
}

/// As [`expiry_in_head`], and how long the key is that follows.
pub(super) fn label_in_head(head: &[u8], length: u64) -> Option<(u64, u64)> {
    if !head.starts_with(MAGIC) {
        return None;
    }
    let expires = number(head, CHECKED)?;
    let key = u64::from(key_length(head)?);
    let value = number(head, CHECKED + 12)?;
    let declared = (HEAD as u64).checked_add(key)?.checked_add(value)?;
    (declared == length).then_some((expires, key))
}

/// When an entry expires that is stored at `now`.
pub(super) fn expiry(now: Duration, lifetime: Lifetime) -> u64 {
    lifetime.duration().map_or(NEVER, |lifetime| {
        let nanos = now.saturating_add(lifetime).as_nanos();
        u64::try_from(nanos).map_or(NEVER - 1, |nanos| nanos.min(NEVER - 1))
    })
}

/// How long an entry of this expiry still lives; `None` if it does not.
pub(super) fn remaining(now: Duration, expires: u64) -> Option<Lifetime> {
    if expires == NEVER {
        return Some(Lifetime::Forever);
    }
    let remaining = Duration::from_nanos(expires).checked_sub(now)?;
    (!remaining.is_zero()).then_some(Lifetime::For(remaining))
}

fn key_length(head: &[u8]) -> Option<u32> {
    let (length, _) = head.get(CHECKED + 8..)?.split_first_chunk()?;
    Some(u32::from_le_bytes(*length))
}

fn number(head: &[u8], at: usize) -> Option<u64> {
    let (number, _) = head.get(at..)?.split_first_chunk()?;
    Some(u64::from_le_bytes(*number))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_encoded_comes_back(key in ".{0,40}", expires: u64, value: Vec<u8>) {
            let file = Bytes::from(encode(&key, expires, &value));
            let length = file.len() as u64;
            prop_assert_eq!(expiry_in_head(&file[..HEAD], length), Some(expires));
            let record = decode(&file).unwrap();
            prop_assert_eq!(&record.key[..], key.as_bytes());
            prop_assert_eq!(&record.value[..], &value[..]);
            prop_assert_eq!(record.expires, expires);
        }

        #[test]
        fn a_flipped_bit_or_a_cut_is_noticed(value: Vec<u8>, at: prop::sample::Index, bit in 0..8) {
            let file = encode("key", 7, &value);
            let at = at.index(file.len());
            let mut flipped = file.clone();
            flipped[at] ^= 1_u8 << bit;
            prop_assert_eq!(decode(&flipped.into()), None);
            prop_assert_eq!(decode(&file[..at].to_vec().into()), None);
        }

        #[test]
        fn nothing_panics_on_any_bytes(bytes: Vec<u8>, length: u64) {
            let mut ours = MAGIC.to_vec();
            ours.extend_from_slice(&bytes);
            prop_assert_eq!(decode(&ours.clone().into()), None);
            let _ = expiry_in_head(&ours, length);
            prop_assert_eq!(decode(&bytes.clone().into()), None);
            let _ = expiry_in_head(&bytes, length);
        }
    }

    #[test]
    fn lifetimes_end_on_time_and_without_an_overflow() {
        let now = Duration::from_micros(1500);
        let nano = Lifetime::For(Duration::from_nanos(1));
        let soon = expiry(now, nano);
        assert_eq!(remaining(now, soon), Some(nano));
        assert_eq!(remaining(now + Duration::from_nanos(1), soon), None);
        let far = expiry(now, Lifetime::For(Duration::MAX));
        assert_eq!(far, NEVER - 1);
        assert!(remaining(now, far).is_some());
        assert_eq!(expiry(now, Lifetime::Forever), NEVER);
        assert_eq!(remaining(now, NEVER), Some(Lifetime::Forever));
    }
}
