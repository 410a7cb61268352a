//! Entries, counters and lifetimes as the servers hold them.

use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::protocol::{Batch, Flags, Reply, unexpected};
use crate::backend::parse_counter;
use crate::entry::Entry;
use crate::error::Result;
use crate::ttl::Lifetime;

/// Memcached takes longer lifetimes for points in time.
const MAX_RELATIVE_SECONDS: u64 = 30 * 86_400;

/// The last point in time that fits where Memcached keeps it.
const MAX_UNIX_SECONDS: u64 = i32::MAX as u64;

/// The client flag of counters: their value is kept as [`biased`], for a server that knows no sign.
pub(super) const COUNTER: u32 = 1;

/// The client flag of values that the server would take for a number, though they are no counters:
/// a mark stands before them, so that no arithmetic meant for a counter that was there before
/// changes them.
const MARKED: u32 = 2;
const MARK: u8 = b'!';

/// A command that stores `entry` for so many seconds, or for ever.
pub(super) fn set(batch: &mut Batch, wire: &str, entry: &Entry, seconds: Option<u64>, mode: &str) {
    let seconds = seconds.unwrap_or(0);
    let mut set = |flags: u32, value: &[u8]| {
        let length = value.len();
        batch.push(
            format_args!("ms {wire} {length} T{seconds} F{flags}{mode}"),
            Some(value),
        );
    };
    match parse_counter(entry.bytes()) {
        Ok(counter) => set(COUNTER, biased(counter).to_string().as_bytes()),
        Err(_) if looks_numeric(entry.bytes()) => {
            set(MARKED, &[&[MARK], entry.bytes().as_ref()].concat());
        }
        Err(_) => set(0, entry.bytes()),
    }
}

/// Whether the server's arithmetic might take it.
fn looks_numeric(value: &[u8]) -> bool {
    let value = value.trim_ascii();
    let digits = value.strip_prefix(b"-").or(value.strip_prefix(b"+"));
    digits.unwrap_or(value).iter().all(u8::is_ascii_digit)
}

/// The entry that a reply holds, and the flags beside it.
pub(super) fn entry(reply: Reply) -> Result<Option<(Entry, Flags)>> {
    match reply {
        Reply::Value(value, flags) if flags.client == COUNTER => {
            let counter = unbiased(&value).ok_or_else(unexpected)?;
            Ok(Some((Entry::new(Bytes::from(counter.to_string())), flags)))
        }
        Reply::Value(value, flags) if flags.client == MARKED => {
            let value = value.get(1..).map(|_| value.slice(1..));
            Ok(Some((Entry::new(value.ok_or_else(unexpected)?), flags)))
        }
        Reply::Value(value, flags) => Ok(Some((Entry::new(value), flags))),
        Reply::Missing => Ok(None),
        _ => Err(unexpected()),
    }
}

/// Whether it was done.
pub(super) fn done(reply: &Reply) -> Result<bool> {
    match reply {
        Reply::Done(_) => Ok(true),
        Reply::Missing | Reply::NotStored => Ok(false),
        _ => Err(unexpected()),
    }
}

/// A counter as a number without a sign, in the same order.
pub(super) fn biased(counter: i64) -> u64 {
    counter.cast_unsigned() ^ (1 << 63)
}

/// Decrements leave spaces behind a number that became shorter.
pub(super) fn unbiased(value: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(value).ok()?.trim_end();
    let biased: u64 = text.parse().ok()?;
    Some((biased ^ (1 << 63)).cast_signed())
}

/// The lifetime as Memcached takes it; `None` for ever.
///
/// A second more than asked: the server's clock ticks once a second, and the first tick may be
/// near.
pub(super) fn seconds(lifetime: Lifetime) -> Option<u64> {
    let seconds = lifetime.in_units(Duration::from_secs(1))?;
    on_wire(seconds.saturating_add(1))
}

/// So many seconds from now, as Memcached takes them; `None` for ever, which is what it does not
/// reach.
pub(super) fn on_wire(seconds: u64) -> Option<u64> {
    if seconds <= MAX_RELATIVE_SECONDS {
        return Some(seconds);
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let at = now.unwrap_or_default().as_secs().saturating_add(seconds);
    (at <= MAX_UNIX_SECONDS).then_some(at)
}
