//! Fragments in stores: one read and one write a page and cache.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use super::FRAGMENTS_ALIAS;
use super::pass::{Captured, Fragment, Known, Missing};
use crate::cache::{Cache, RawItem};
use crate::entry::{Entry, Kind, Stamp, Undecodable, Worth};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::observe::{self, Outcome};
use crate::tag::{TagStamp, TagState, Tags};
use crate::ttl::Lifetime;

/// The caches that a page's fragments are in.
pub(super) struct Stores<'a> {
    cache: &'a Cache,
    /// The digest of the templates.
    templates: u64,
}

impl<'a> Stores<'a> {
    pub(super) fn new(cache: &'a Cache, templates: u64) -> Self {
        Self { cache, templates }
    }

    /// What the stores hold of `wanted`: one read a cache.
    ///
    /// # Errors
    ///
    /// [`UnknownAlias`](ErrorKind::UnknownAlias) only.
    pub(super) async fn fetch(&self, wanted: Vec<Fragment>) -> Result<Vec<(Fragment, Known)>> {
        let mut known = Vec::with_capacity(wanted.len());
        for (using, fragments) in grouped(wanted, |fragment| fragment.using.clone()) {
            let cache = self.cache(using.as_deref())?;
            match read(&cache, &fragments, self.templates).await {
                Ok(found) => known.extend(fragments.into_iter().zip(found)),
                Err(error) => {
                    observe::failed(cache.name(), "fragment", &error);
                    let missing = fragments.into_iter().map(|f| (f, Known::Missing(None)));
                    known.extend(missing);
                }
            }
        }
        Ok(known)
    }

    /// Stores what a page has captured: one write a cache. Failures are observed.
    pub(super) async fn keep(&self, captured: Vec<Captured>) {
        for (using, captured) in grouped(captured, |captured| captured.using.clone()) {
            let Ok(cache) = self.cache(using.as_deref()) else {
                continue;
            };
            let now = cache.clock().now();
            let mut items = Vec::with_capacity(captured.len());
            for captured in captured {
                let Some(lifetime) = cache.lifetime(captured.ttl) else {
                    continue;
                };
                cache.keep_tags(&captured.tags, lifetime).await;
                items.extend(encode(&cache, captured, now, lifetime, self.templates).await);
            }
            if let Err(error) = cache.land_many(items).await {
                observe::failed(cache.name(), "fragment", &error);
            }
        }
    }

    fn cache(&self, using: Option<&str>) -> Result<Cache> {
        match (using, self.cache.siblings()) {
            (Some(alias), Some(caches)) => caches.get(alias),
            (Some(alias), None) => Err(Error::new(ErrorKind::UnknownAlias).with_message(format!(
                "a fragment asks for the cache {alias:?}, but the handle that renders was not got \
                 from `Caches`"
            ))),
            (None, Some(caches)) => Ok(caches
                .find(FRAGMENTS_ALIAS)
                .unwrap_or_else(|| self.cache.clone())),
            (None, None) => Ok(self.cache.clone()),
        }
    }
}

/// What a cache holds of fragments: one read for them and their tags.
async fn read(cache: &Cache, fragments: &[Fragment], templates: u64) -> Result<Vec<Known>> {
    let tags = fragments.iter().map(|fragment| {
        let tags = fragment.tags.and(cache.tags());
        let checked = tags.check();
        // One that cannot have its tags is not stored, and takes no other with it.
        if let Err(error) = &checked {
            observe::failed(cache.name(), "fragment", error);
        }
        checked.is_ok().then_some(tags)
    });
    let tags: Vec<Option<Tags>> = tags.collect();
    let mut keys = Vec::with_capacity(fragments.len());
    for fragment in fragments {
        keys.push(cache.final_key(&fragment.key)?);
    }
    // Before anything is read, so that what is invalidated from now on is not stored.
    let fills: Vec<_> = keys.iter().map(|key| cache.begin_fill(key)).collect();
    let (entries, read) = cache.fetch_with_tags(&keys, tags.iter().flatten()).await?;
    let mut known = Vec::with_capacity(fragments.len());
    for (((key, fill), entry), tags) in keys.into_iter().zip(fills).zip(entries).zip(tags) {
        let Some(tags) = tags else {
            known.push(Known::Missing(None));
            continue;
        };
        let found = match &entry {
            Some(entry) => opened(cache, &key, entry, &tags, templates).await,
            None => None,
        };
        if let Some((markup, stamps)) = found {
            let marks = cache.marks(&stamps)?;
            if cache.tag_state(&key, &marks, &read).await? == TagState::Current {
                observe::outcome(cache.named(), "fragment", Outcome::Hit, "");
                known.push(Known::Markup(markup, stamps.into()));
                continue;
            }
        }
        observe::outcome(cache.named(), "fragment", Outcome::Miss, "");
        let tags = cache.stamps_from(&tags, &read).await?;
        known.push(Known::Missing(Some(Missing { key, fill, tags })));
    }
    Ok(known)
}

/// The markup of an entry and its tags, if it is fresh, of these templates, and has these tags.
async fn opened(
    cache: &Cache,
    key: &Key,
    entry: &Entry,
    tags: &Tags,
    templates: u64,
) -> Option<(Arc<str>, Vec<TagStamp>)> {
    let corrupt =
        |reason: &Undecodable| observe::corrupt(cache.name(), "fragment", reason.as_str());
    let opened = cache
        .sealer()
        .open::<u64>(Kind::Fragment, key, entry.bytes());
    let opened = opened.inspect_err(corrupt).ok()?;
    let stamp = opened.stamp;
    let has = |name| stamp.tags.iter().any(|tag| tag.name == name);
    let is_fresh = stamp.worth(cache.clock().now(), TagState::Current) == Worth::Fresh;
    if !is_fresh || opened.meta != templates || !tags.iter().all(has) {
        return None;
    }
    let body = opened.body.unpacked().await;
    let body = body.inspect_err(corrupt).ok()?;
    let markup = std::str::from_utf8(&body).ok()?.into();
    Some((markup, stamp.tags))
}

async fn encode(
    cache: &Cache,
    captured: Captured,
    now: SystemTime,
    lifetime: Lifetime,
    templates: u64,
) -> Result<RawItem> {
    let mut stamp = Stamp::new(now, lifetime.duration());
    stamp.tags = captured.tags.to_vec();
    let markup = Bytes::copy_from_slice(captured.markup.as_bytes());
    let body = cache.packed(&markup).await;
    let sealer = cache.sealer();
    let entry = sealer.seal(Kind::Fragment, &captured.key, stamp, templates, &body)?;
    Ok(RawItem {
        key: captured.key,
        entry,
        lifetime,
        fill: captured.fill,
    })
}

fn grouped<T>(
    items: Vec<T>,
    using: impl Fn(&T) -> Option<String>,
) -> BTreeMap<Option<String>, Vec<T>> {
    let mut groups = BTreeMap::<_, Vec<T>>::new();
    for item in items {
        groups.entry(using(&item)).or_default().push(item);
    }
    groups
}
