//! A door for the fuzz targets.

use bytes::Bytes;

use super::layout::Own;
use super::record::{self, Record};

/// The file of an entry.
pub fn encode(key: &str, expires: u64, value: &[u8]) -> Vec<u8> {
    record::encode(key, expires, value)
}

/// Expiry, key and value of a file.
pub fn decode(file: &Bytes) -> Option<(u64, Bytes, Bytes)> {
    let Record {
        expires,
        key,
        value,
    } = record::decode(file)?;
    Some((expires, key, value))
}

/// The expiry by the head of a file.
pub fn expiry_in_head(head: &[u8], length: u64) -> Option<u64> {
    record::expiry_in_head(head, length)
}

/// Whether a file of this name is the store's.
pub fn is_own(name: &str) -> bool {
    Own::parse(name).is_some()
}
