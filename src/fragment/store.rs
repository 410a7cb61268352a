//! Fragments in stores: one read and one write a page and cache.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::FRAGMENTS_ALIAS;
use super::pass::{Captured, Fragment, Known};
use crate::cache::{Cache, RawItem};
use crate::entry::{Entry, Kind, Stamp, open, seal};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::observe::{self, Outcome};
use crate::ttl::Lifetime;

/// The caches that a page's fragments are in.
pub(super) struct Stores<'a> {
    cache: &'a Cache,
}

impl<'a> Stores<'a> {
    pub(super) fn new(cache: &'a Cache) -> Self {
        Self { cache }
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
            let keys = fragments
                .iter()
                .map(|fragment| cache.final_key(&fragment.key))
                .collect::<Result<Vec<_>>>();
            let entries = match &keys {
                Ok(keys) => cache.fetch_many(keys).await,
                Err(error) => Err(error.clone()),
            };
            match (keys, entries) {
                (Ok(keys), Ok(entries)) => {
                    let found = keys.into_iter().zip(entries);
                    let found = found.map(|(key, entry)| judge(&cache, key, entry.as_ref()));
                    known.extend(fragments.into_iter().zip(found));
                }
                (_, Err(error)) | (Err(error), _) => {
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
            let items = captured
                .into_iter()
                .filter_map(|captured| encode(captured, now).ok())
                .collect();
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

fn judge(cache: &Cache, key: Key, entry: Option<&Entry>) -> Known {
    let now = cache.clock().now();
    let markup = entry.and_then(|entry| {
        let opened = open::<()>(Kind::Fragment, key.as_str(), entry.bytes());
        let fresh = opened
            .inspect_err(|reason| observe::corrupt(cache.name(), "fragment", reason.as_str()))
            .ok()
            .filter(|opened| opened.stamp.fresh_until.is_none_or(|until| now < until))?;
        Some(std::str::from_utf8(&fresh.body).ok()?.into())
    });
    if let Some(markup) = markup {
        observe::outcome(cache.name(), "fragment", Outcome::Hit, "");
        return Known::Markup(markup);
    }
    observe::outcome(cache.name(), "fragment", Outcome::Miss, "");
    let fill = cache.begin_fill(&key);
    Known::Missing(Some((key, fill)))
}

fn encode(captured: Captured, now: SystemTime) -> Result<RawItem> {
    let lifetime = captured.ttl.lifetime();
    let stamp = Stamp::new(now, lifetime.and_then(Lifetime::duration));
    let sealed = seal(
        Kind::Fragment,
        captured.key.as_str(),
        stamp,
        (),
        captured.markup.as_bytes(),
    )
    .map_err(|source| Error::new(ErrorKind::Encode).with_source(source.to_string()))?;
    Ok(RawItem {
        key: captured.key,
        entry: Entry::new(sealed),
        ttl: captured.ttl,
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
