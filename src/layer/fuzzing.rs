//! A door for the fuzz targets.

use std::time::SystemTime;

use bytes::Bytes;

use super::stored::StoredPage;
use crate::backend::Dummy;
use crate::cache::Cache;
use crate::entry::{Body, Entry};
use crate::key::Key;

/// What a page's entry holds, as text, and its entry made anew.
pub fn page(key: &Key, bytes: &Bytes) -> Option<(String, Entry)> {
    let cache = Cache::new(Dummy);
    let page = StoredPage::decode_now(&cache, key, bytes)?.ok()?;
    let body = page.response.as_ref().map(|it| it.body.clone());
    let body = Body::plain(body.unwrap_or_default());
    let entry = page.encode(
        &cache,
        key,
        SystemTime::UNIX_EPOCH,
        page.response.as_ref(),
        &body,
    );
    let entry = entry.ok()?;
    Some((format!("{page:?}"), entry))
}

/// Whether these bytes are a page's entry.
pub fn pages(key: &Key, bytes: &Bytes) -> bool {
    StoredPage::decode_now(&Cache::new(Dummy), key, bytes).is_some_and(|page| page.is_ok())
}
