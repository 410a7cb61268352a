//! Doors to what is private, for the fuzz targets; not compiled otherwise. Outside semver.

use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::entry::{Body, Kind, Sealer, Stamp};
use crate::key::Key;

pub use crate::backend::fuzzing::*;
pub use crate::layer::fuzzing::{page, pages};

/// The body of a fragment's entry.
#[cfg(feature = "askama")]
pub fn fragment(key: &Key, bytes: &Bytes) -> Option<Bytes> {
    let sealer = Sealer::default();
    let opened = sealer.open::<u64>(Kind::Fragment, key, bytes).ok()?;
    opened.body.unpacked_now()?.ok()
}

/// A fragment's entry.
#[cfg(feature = "askama")]
pub fn seal_fragment(key: &Key, stored_at_ms: u64, body: &[u8]) -> Option<Bytes> {
    let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(stored_at_ms))?;
    let stamp = Stamp::new(at, Some(Duration::ZERO));
    let body = Body::plain(Bytes::copy_from_slice(body));
    let sealed = Sealer::default().seal(Kind::Fragment, key, stamp, 0_u64, &body);
    Some(sealed.ok()?.bytes().clone())
}
