//! Entries as rows hold them.

use std::time::Duration;

use bytes::Bytes;

use super::engine::Row;
use super::statement::{Bind, Slot};
use crate::backend::parse_counter;
use crate::entry::Entry;
use crate::ttl::Lifetime;

/// The longest lifetime that is told from for ever: 73 million years.
pub(super) const MAX_TTL: i64 = i64::MAX / 4;

/// An entry as a row holds it: a counter as a number, anything else as bytes.
pub(super) struct Stored<'a> {
    pub(super) value: Option<&'a [u8]>,
    pub(super) num: Option<i64>,
    ttl: Option<i64>,
}

impl<'a> Stored<'a> {
    pub(super) fn new(entry: &'a Entry, lifetime: Lifetime) -> Self {
        let num = parse_counter(entry.bytes()).ok();
        Self {
            value: num.is_none().then_some(&**entry.bytes()),
            num,
            ttl: lasting(lifetime),
        }
    }

    pub(super) fn bind(&self, slot: Slot) -> Bind<'a> {
        match slot {
            Slot::Value => Bind::Bytes(self.value),
            Slot::Num => Bind::Int(self.num),
            _ => Bind::Int(self.ttl),
        }
    }
}

pub(super) fn entry(row: Row) -> Entry {
    match (row.num, row.value) {
        (Some(num), _) => Entry::new(Bytes::from(num.to_string())),
        (None, value) => Entry::new(value.unwrap_or_default()),
    }
}

/// What is added to the present, of which the server drops the fraction: a millisecond more, so that
/// nothing ends early.
pub(super) fn lasting(lifetime: Lifetime) -> Option<i64> {
    Some(milliseconds(lifetime)? + 1)
}

pub(super) fn milliseconds(lifetime: Lifetime) -> Option<i64> {
    let millis = lifetime.in_units(Duration::from_millis(1))?;
    Some(i64::try_from(millis).unwrap_or(MAX_TTL).min(MAX_TTL))
}
