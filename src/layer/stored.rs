//! Stored pages: what the primary entry of a target and its variants hold.
//!
//! The primary entry names the fields that responses of the target vary on, and holds the last
//! response inline, so that most hits take one read. Of several variants, each of the others has an
//! entry of its own under a key that includes the generation of the primary entry: when that one is
//! purged, the variants are out of reach. The one in the primary entry is moved to its own when another
//! one takes its place.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{AGE, AUTHORIZATION, CONTENT_ENCODING, COOKIE, ETAG, LAST_MODIFIED};
use http::{HeaderMap, HeaderName, StatusCode};
use serde::{Deserialize, Serialize};

use super::stale::Windows;
use super::tagged::PageTags;
use super::wire::{Name, PageMeta, PageToWrite, ResponseMeta, ResponseToWrite};
use crate::cache::Cache;
use crate::entry::{Body, Entry, Kind, Opened, Stamp, Undecodable};
use crate::error::Result;
use crate::key::Key;
use crate::semantics::cache_status::CACHE_STATUS;
use crate::semantics::freshness::current_age;
use crate::semantics::reuse::{StoredFacts, Terms};
use crate::semantics::storable::Sharing;

/// What the decoded form of a response takes beside its body: the page and a header map.
const DECODED_BYTES: usize = 512;
/// What one decoded field takes: its slot in the map and the records of its value.
const DECODED_FIELD_BYTES: usize = 144;

/// The longest value of a field that is kept to be compared with.
const MAX_SEEN_BYTES: usize = 128;

/// What each hit has a value of its own for. A decoded map begins with a place for each of them: a copy of it is as
/// large as what is in it, and would have to grow. They are never [stored](crate::semantics::fields::storable_fields).
pub(super) const OF_EACH_HIT: [HeaderName; 2] = [AGE, CACHE_STATUS];

/// The decoded form of an entry.
#[derive(Clone, Debug)]
pub(super) struct StoredPage {
    /// Tells its variants from those it had before it was purged.
    pub(super) generation: u64,
    /// The fields that responses of this target vary on, sorted.
    pub(super) vary: Vec<HeaderName>,
    /// The variants that the store may hold.
    pub(super) variants: Vec<VariantMark>,
    /// Until when the store keeps it, or one of its variants; `None`: for ever.
    pub(super) kept_until: Option<SystemTime>,
    /// Where the response goes once another one takes its place in the primary entry; `None` if it is there
    /// already, or lost then.
    pub(super) own_key: Option<Key>,
    pub(super) response: Option<StoredResponse>,
}

#[derive(Clone, Debug)]
pub(super) struct StoredResponse {
    pub(super) status: StatusCode,
    /// With the places for what each hit has of its own, if it has been decoded.
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) stored_at: SystemTime,
    /// How long it is fresh, counted from its making; `None`: for ever.
    pub(super) lifetime: Option<Duration>,
    /// The age that the response arrived with, in seconds.
    pub(super) initial_age: u64,
    pub(super) terms: Terms,
    /// How long it may be served stale, in a layer that does not go by HTTP.
    pub(super) windows: Windows,
    pub(super) sharing: Sharing,
    /// What the layer selected it by beside the URI.
    pub(super) selection: Fingerprint,
    /// The request's values of the fields that this response varies on.
    pub(super) varied: Vec<Varied>,
    pub(super) tags: PageTags,
}

/// A variant, as its primary entry remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct VariantMark {
    /// Of its key.
    hash: u64,
    /// Until when it is kept, in seconds since 1970.
    until: u64,
}

impl VariantMark {
    pub(super) fn new(key: &Key, kept_until: Option<SystemTime>) -> Self {
        Self {
            hash: key.checksum(),
            until: kept_until.map_or(u64::MAX, seconds),
        }
    }

    pub(super) fn is_of(self, other: Self) -> bool {
        self.hash == other.hash
    }

    /// Until when it is kept.
    pub(super) fn kept_until(self) -> Option<SystemTime> {
        // To the end of that second.
        let seconds = self.until.checked_add(1)?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
    }

    pub(super) fn is_over(self, now: SystemTime) -> bool {
        self.until < seconds(now)
    }
}

/// Since 1970.
pub(super) fn seconds(instant: SystemTime) -> u64 {
    let since_epoch = instant.duration_since(SystemTime::UNIX_EPOCH);
    since_epoch.unwrap_or_default().as_secs()
}

/// Tells values of a request's field apart without keeping them: they may be secrets. `None`
/// if the field was absent.
pub(super) type Fingerprint = Option<[u8; 32]>;

/// The fingerprint of a value.
pub(super) fn fingerprint(value: Option<&[u8]>) -> Fingerprint {
    value.map(|value| *blake3::hash(value).as_bytes())
}

/// A field that a response varies on, and the value that it was made for.
#[derive(Clone)]
pub(super) struct Varied {
    pub(super) name: HeaderName,
    pub(super) fingerprint: Fingerprint,
    /// A value with this fingerprint that a request had, so that it is not made of each; in memory only, and
    /// none of fields that hold secrets.
    seen: OnceLock<Box<[u8]>>,
}

impl Varied {
    pub(super) fn new(name: HeaderName, fingerprint: Fingerprint) -> Self {
        Self {
            name,
            fingerprint,
            seen: OnceLock::new(),
        }
    }

    /// The field, and what it tells of the value.
    pub(super) fn print(&self) -> (&HeaderName, Fingerprint) {
        (&self.name, self.fingerprint)
    }

    /// Whether it was made for this value.
    pub(super) fn is(&self, value: Option<&[u8]>) -> bool {
        let seen = self.seen.get();
        (value.is_some() && seen.map(AsRef::as_ref) == value) || self.has_fingerprint_of(value)
    }

    #[cold]
    fn has_fingerprint_of(&self, value: Option<&[u8]>) -> bool {
        let is = self.fingerprint == fingerprint(value);
        let is_secret = self.name == AUTHORIZATION || self.name == COOKIE;
        let may_be_kept = is && !is_secret;
        if let Some(value) = value.filter(|value| may_be_kept && value.len() <= MAX_SEEN_BYTES) {
            // Whoever is first.
            let _ = self.seen.set(value.into());
        }
        is
    }
}

/// Says nothing of values.
impl fmt::Debug for Varied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Varied").field(&self.name).finish()
    }
}

impl StoredResponse {
    pub(super) fn is_fresh(&self, now: SystemTime) -> bool {
        self.is_fresh_at(self.age(now))
    }

    /// The same, at this age.
    pub(super) fn is_fresh_at(&self, age: Duration) -> bool {
        self.fresh_at(age).is_none_or(|left| !left.is_zero())
    }

    /// How long it is still fresh; `None`: for ever.
    pub(super) fn fresh_for(&self, now: SystemTime) -> Option<Duration> {
        self.fresh_at(self.age(now))
    }

    /// The same, at this age.
    pub(super) fn fresh_at(&self, age: Duration) -> Option<Duration> {
        Some(self.lifetime?.saturating_sub(age))
    }

    /// How long ago it was made. A clock that went back adds nothing.
    pub(super) fn age(&self, now: SystemTime) -> Duration {
        current_age(self.stored_at, self.initial_age, now)
    }

    /// How long it has been stale; not at all if it is fresh.
    pub(super) fn staleness(&self, now: SystemTime) -> Duration {
        self.staleness_at(self.age(now))
    }

    /// The same, at this age.
    pub(super) fn staleness_at(&self, age: Duration) -> Duration {
        age.saturating_sub(self.lifetime.unwrap_or(Duration::MAX))
    }

    /// What its use depends on. One that is `expired` is stale from now on.
    pub(super) fn facts(&self, now: SystemTime, expired: bool) -> StoredFacts {
        let mut facts = StoredFacts {
            terms: self.terms,
            lifetime: self.lifetime.unwrap_or(Duration::MAX),
            age: self.age(now),
            validator: self.headers.contains_key(ETAG) || self.headers.contains_key(LAST_MODIFIED),
        };
        if expired {
            facts.lifetime = facts.lifetime.min(facts.age);
            // The first instant of a window of no time would last.
            let some = |window: &u64| *window > 0;
            let terms = &mut facts.terms;
            terms.stale_while_revalidate = terms.stale_while_revalidate.filter(some);
            terms.stale_if_error = terms.stale_if_error.filter(some);
        }
        facts
    }
}

impl StoredPage {
    /// Whether it is, or one of its variants.
    pub(super) fn is_kept(&self, now: SystemTime) -> bool {
        self.kept_until.is_none_or(|until| now < until)
    }

    /// Whether there are several responses, or one that not every request may have.
    pub(super) fn is_selected(&self) -> bool {
        let response = self.response.as_ref();
        !self.variants.is_empty()
            || response.is_some_and(|it| it.selection.is_some() || !it.varied.is_empty())
    }

    /// A copy of the page without its response.
    pub(super) fn head(&self) -> Self {
        Self {
            generation: self.generation,
            vary: self.vary.clone(),
            variants: self.variants.clone(),
            kept_until: self.kept_until,
            own_key: self.own_key.clone(),
            response: None,
        }
    }

    /// The response of a page that was found, or has been made.
    pub(super) fn stored(&self) -> &StoredResponse {
        let response = self.response.as_ref();
        response.expect("only a primary entry without its page is without a response")
    }

    /// The page in these bytes, which were read under `key`.
    pub(super) async fn decode(
        cache: &Cache,
        key: &Key,
        bytes: &Bytes,
    ) -> Result<Arc<Self>, Undecodable> {
        let Opened { stamp, meta, body } = Self::unseal(cache, key, bytes)?;
        let body = body.unpacked().await?;
        Self::read(cache, bytes, stamp, meta, body).map(Arc::new)
    }

    /// The same; `None` if that would hold others up.
    pub(super) fn decode_now(
        cache: &Cache,
        key: &Key,
        bytes: &Bytes,
    ) -> Option<Result<Arc<Self>, Undecodable>> {
        let Opened { stamp, meta, body } = match Self::unseal(cache, key, bytes) {
            Ok(opened) => opened,
            Err(undecodable) => return Some(Err(undecodable)),
        };
        let body = body.unpacked_now()?;
        let read = body.and_then(|body| Self::read(cache, bytes, stamp, meta, body));
        Some(read.map(Arc::new))
    }

    /// The same, without its response.
    pub(super) fn decode_head(
        cache: &Cache,
        key: &Key,
        bytes: &Bytes,
    ) -> Result<Self, Undecodable> {
        let (mut page, _) = Self::open(cache, key, bytes)?;
        page.response = None;
        Ok(page)
    }

    /// The page, its body left out, and that.
    pub(super) fn open(
        cache: &Cache,
        key: &Key,
        bytes: &Bytes,
    ) -> Result<(Self, Body), Undecodable> {
        let Opened { stamp, meta, body } = Self::unseal(cache, key, bytes)?;
        let page = Self::read(cache, bytes, stamp, meta, Bytes::new())?;
        Ok((page, body))
    }

    fn unseal<'b>(
        cache: &Cache,
        key: &Key,
        bytes: &'b Bytes,
    ) -> Result<Opened<PageMeta<'b>>, Undecodable> {
        cache.sealer().open(Kind::Page, key, bytes)
    }

    /// The page that an entry of these bytes says it is.
    fn read(
        cache: &Cache,
        bytes: &Bytes,
        stamp: Stamp,
        meta: PageMeta<'_>,
        body: Bytes,
    ) -> Result<Self, Undecodable> {
        let kept_until = stamp.fresh_until;
        let read = |response: ResponseMeta<'_>| response.into_stored(cache, bytes, body, stamp);
        let names = meta.vary.into_iter();
        Ok(Self {
            generation: meta.generation,
            vary: names.map(|Name(name)| name).collect(),
            variants: meta.variants,
            kept_until,
            own_key: meta.own_key.and_then(|key| cache.stored_key(key)),
            response: meta.response.map(read).transpose()?,
        })
    }

    /// The body to store, packed where that makes it smaller.
    pub(super) async fn packed(&self, cache: &Cache) -> Body {
        match &self.response {
            None => Body::default(),
            Some(response) if response.headers.contains_key(CONTENT_ENCODING) => {
                Body::plain(response.body.clone())
            }
            Some(response) => cache.packed(&response.body).await,
        }
    }

    /// The entry to store under `key`, with a `response` in the place of its own, and what is
    /// [`packed`](Self::packed) of that.
    pub(super) fn encode(
        &self,
        cache: &Cache,
        key: &Key,
        now: SystemTime,
        response: Option<&StoredResponse>,
        packed: &Body,
    ) -> Result<Entry> {
        let nothing = Body::default();
        let body = response.map_or(&nothing, |_| packed);
        let meta = PageToWrite {
            generation: self.generation,
            vary: &self.vary,
            variants: &self.variants,
            own_key: self.own_key.as_ref().map(Key::as_str),
            response: response.map(ResponseToWrite::of),
        };
        let stored_at = response.map_or(now, |response| response.stored_at);
        let mut stamp = Stamp::new(stored_at, None);
        stamp.fresh_until = self.kept_until;
        let windows = response.map_or_else(Windows::default, |response| response.windows);
        stamp.stale_while_revalidate = windows.while_revalidate;
        stamp.stale_if_error = windows.if_error;
        stamp.tags = response.map_or_else(Vec::new, |response| response.tags.stamps.clone());
        let sealed = cache.sealer().seal(Kind::Page, key, stamp, meta, body)?;
        let fields = response.map_or(0, |response| response.headers.len() + response.varied.len());
        let fields = fields + OF_EACH_HIT.len();
        let tags = response.map_or(0, |response| response.tags.weight());
        let decoded = DECODED_BYTES + fields * DECODED_FIELD_BYTES + tags;
        Ok(sealed.with_decoded_bytes(decoded))
    }
}
