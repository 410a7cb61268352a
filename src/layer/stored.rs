//! Stored pages: what the primary entry of a target and its variants hold.
//!
//! The primary entry names the fields that responses of the target vary on, and holds the last
//! response inline, so that most hits take one read. Of several variants, each of the others has an
//! entry of its own under a key that includes the generation of the primary entry: when that one is
//! purged, the variants are out of reach. The one in the primary entry is moved to its own when another
//! one takes its place.

use std::fmt;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{AGE, AUTHORIZATION, CONTENT_ENCODING, COOKIE, ETAG, LAST_MODIFIED};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::ser::SerializeSeq as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::stale::Windows;
use super::tagged::PageTags;
use crate::cache::Cache;
use crate::entry::{Body, Entry, Kind, Stamp, Undecodable};
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

/// What each hit has a value of its own for. A decoded map has a place for them: a copy of it is as large as
/// what is in it, and would have to grow. They are never [stored](crate::semantics::fields::storable_fields).
const OF_EACH_HIT: [HeaderName; 2] = [AGE, CACHE_STATUS];

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
    /// With a place for what each hit has of its own, if it has been decoded.
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
    fingerprint: Fingerprint,
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

    /// Whether it was made for this value.
    pub(super) fn is(&self, value: Option<&[u8]>) -> bool {
        let seen = self.seen.get();
        if value.is_some() && seen.map(AsRef::as_ref) == value {
            return true;
        }
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
        self.fresh_for(now).is_none_or(|left| !left.is_zero())
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
        let lifetime = self.lifetime.unwrap_or(Duration::MAX);
        self.age(now).saturating_sub(lifetime)
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
    ) -> Result<Self, Undecodable> {
        let (page, body) = Self::open(cache, key, bytes)?;
        Ok(page.with_body(body.unpacked().await?))
    }

    /// The same; `None` if that would hold others up.
    pub(super) fn decode_now(
        cache: &Cache,
        key: &Key,
        bytes: &Bytes,
    ) -> Option<Result<Self, Undecodable>> {
        let (page, body) = match Self::open(cache, key, bytes) {
            Ok(opened) => opened,
            Err(undecodable) => return Some(Err(undecodable)),
        };
        let body = body.unpacked_now()?;
        Some(body.map(|body| page.with_body(body)))
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

    fn with_body(mut self, body: Bytes) -> Self {
        if let Some(response) = &mut self.response {
            response.body = body;
        }
        self
    }

    /// The page, its body left out, and that.
    pub(super) fn open(
        cache: &Cache,
        key: &Key,
        bytes: &Bytes,
    ) -> Result<(Self, Body), Undecodable> {
        let page = cache
            .sealer()
            .open::<PageMeta<'_>>(Kind::Page, key, bytes)?;
        let body = page.body;
        let (stored_at, kept_until) = (page.stamp.stored_at, page.stamp.fresh_until);
        let windows = Windows {
            while_revalidate: page.stamp.stale_while_revalidate,
            if_error: page.stamp.stale_if_error,
        };
        let tags = PageTags::new(cache, page.stamp.tags).map_err(|_| Undecodable::Meta)?;
        let response = page
            .meta
            .response
            .map(|response| response.into_stored(bytes, stored_at, windows, tags))
            .transpose()?;
        let page = Self {
            generation: page.meta.generation,
            vary: names(page.meta.vary)?,
            variants: page.meta.variants,
            kept_until,
            own_key: page.meta.own_key.and_then(|key| cache.stored_key(key)),
            response,
        };
        Ok((page, body))
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

fn names(names: Vec<&str>) -> Result<Vec<HeaderName>, Undecodable> {
    let names = names.into_iter().map(HeaderName::try_from);
    names
        .collect::<Result<_, _>>()
        .map_err(|_| Undecodable::Meta)
}

/// What is read of a page, in the order of [`PageToWrite`].
#[derive(Deserialize)]
#[cfg_attr(test, derive(Serialize))]
struct PageMeta<'a> {
    generation: u64,
    #[serde(borrow)]
    vary: Vec<&'a str>,
    variants: Vec<VariantMark>,
    #[serde(borrow)]
    own_key: Option<&'a str>,
    #[serde(borrow)]
    response: Option<ResponseMeta<'a>>,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(Serialize))]
struct ResponseMeta<'a> {
    status: u16,
    #[serde(borrow)]
    headers: Vec<(&'a str, Line<'a>)>,
    /// From its making, in milliseconds.
    lifetime_ms: Option<u64>,
    initial_age: u64,
    terms: Terms,
    sharing: Sharing,
    selection: Fingerprint,
    #[serde(borrow)]
    varied: Vec<(&'a str, Fingerprint)>,
}

/// What is written of a page: of what it holds already, nothing is gathered for it.
#[derive(Serialize)]
struct PageToWrite<'a> {
    generation: u64,
    #[serde(serialize_with = "write_names")]
    vary: &'a [HeaderName],
    variants: &'a [VariantMark],
    own_key: Option<&'a str>,
    response: Option<ResponseToWrite<'a>>,
}

#[derive(Serialize)]
struct ResponseToWrite<'a> {
    status: u16,
    #[serde(serialize_with = "write_fields")]
    headers: &'a HeaderMap,
    /// From its making, in milliseconds.
    lifetime_ms: Option<u64>,
    initial_age: u64,
    terms: Terms,
    sharing: Sharing,
    selection: Fingerprint,
    #[serde(serialize_with = "write_varied")]
    varied: &'a [Varied],
}

fn write_names<S: Serializer>(names: &[HeaderName], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(names.iter().map(HeaderName::as_str))
}

fn write_fields<S: Serializer>(headers: &HeaderMap, serializer: S) -> Result<S::Ok, S::Error> {
    let is_stored = |(name, _): &(&HeaderName, &HeaderValue)| !OF_EACH_HIT.contains(name);
    let stored = || headers.iter().filter(is_stored);
    // Its length comes first.
    let mut lines = serializer.serialize_seq(Some(stored().count()))?;
    for (name, value) in stored() {
        lines.serialize_element(&(name.as_str(), Line(value.as_bytes())))?;
    }
    lines.end()
}

fn write_varied<S: Serializer>(varied: &[Varied], serializer: S) -> Result<S::Ok, S::Error> {
    let varied = varied.iter();
    serializer.collect_seq(varied.map(|field| (field.name.as_str(), field.fingerprint)))
}

/// The value of a field, which is a slice of the entry.
struct Line<'a>(&'a [u8]);

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Line<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Deserialize::deserialize(deserializer).map(Self)
    }
}

impl<'a> ResponseToWrite<'a> {
    fn of(response: &'a StoredResponse) -> Self {
        let lifetime = response.lifetime.map(|lifetime| {
            u64::try_from(lifetime.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
        });
        Self {
            status: response.status.as_u16(),
            headers: &response.headers,
            lifetime_ms: lifetime,
            initial_age: response.initial_age,
            terms: response.terms,
            sharing: response.sharing,
            selection: response.selection,
            varied: &response.varied,
        }
    }
}

impl ResponseMeta<'_> {
    /// The response in an entry of these bytes.
    fn into_stored(
        self,
        bytes: &Bytes,
        stored_at: SystemTime,
        windows: Windows,
        tags: PageTags,
    ) -> Result<StoredResponse, Undecodable> {
        // There may be fewer names than lines, and too many of them for a map.
        let room = self.headers.len() + OF_EACH_HIT.len();
        let mut headers = HeaderMap::try_with_capacity(room).unwrap_or_default();
        for (name, Line(value)) in self.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| Undecodable::Meta)?;
            let value = HeaderValue::from_maybe_shared(bytes.slice_ref(value))
                .map_err(|_| Undecodable::Meta)?;
            headers
                .try_append(name, value)
                .map_err(|_| Undecodable::Meta)?;
        }
        for name in OF_EACH_HIT {
            let value = HeaderValue::from_static("");
            headers
                .try_insert(name, value)
                .map_err(|_| Undecodable::Meta)?;
        }
        let (varied, values): (Vec<_>, Vec<_>) = self.varied.into_iter().unzip();
        Ok(StoredResponse {
            status: StatusCode::from_u16(self.status).map_err(|_| Undecodable::Meta)?,
            headers,
            body: Bytes::new(),
            stored_at,
            lifetime: self.lifetime_ms.map(Duration::from_millis),
            initial_age: self.initial_age,
            terms: self.terms,
            windows,
            sharing: self.sharing,
            selection: self.selection,
            varied: names(varied)?
                .into_iter()
                .zip(values)
                .map(|(name, value)| Varied::new(name, value))
                .collect(),
            tags,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use super::*;
    use crate::backend::Dummy;
    use crate::key::KeySpace;

    fn page(names: &[String]) -> PageMeta<'_> {
        let headers = names.iter().map(|name| (name.as_str(), Line(b"v")));
        PageMeta {
            generation: 1,
            vary: Vec::new(),
            variants: Vec::new(),
            own_key: None,
            response: Some(ResponseMeta {
                status: 200,
                headers: headers.collect(),
                lifetime_ms: None,
                initial_age: 0,
                terms: Terms::default(),
                sharing: Sharing {
                    public: false,
                    authorized: false,
                    varies_on_cookie: false,
                },
                selection: None,
                varied: Vec::new(),
            }),
        }
    }

    fn decode(meta: PageMeta<'_>) -> Result<StoredPage, Undecodable> {
        let key = KeySpace::default().key(1, "page").unwrap();
        let at = SystemTime::UNIX_EPOCH;
        let cache = Cache::new(Dummy);
        let sealed = cache.sealer().seal(
            Kind::Page,
            &key,
            Stamp::new(at, None),
            meta,
            &Body::default(),
        );
        StoredPage::decode_now(&cache, &key, sealed.unwrap().bytes()).unwrap()
    }

    #[test]
    fn as_many_lines_as_any_response_has_are_decoded_and_too_many_names_are_not() {
        const MANY: usize = 1 << 15;
        let many_links = vec!["link".to_owned(); MANY];
        let lines = decode(page(&many_links)).unwrap().response.unwrap();
        assert_eq!(lines.headers.get_all("link").iter().count(), MANY);
        let names: Vec<_> = (0..MANY).map(|number| format!("x{number}")).collect();
        assert_eq!(decode(page(&names)).unwrap_err(), Undecodable::Meta);
    }
}
