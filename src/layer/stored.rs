//! Stored pages: what the primary entry of a target and its variants hold.
//!
//! The primary entry names the fields that responses of the target vary on, and holds the last
//! response inline, so that most hits take one read. Where there are variants, each has an entry
//! of its own under a key that includes the generation of the primary entry: when that one is
//! purged, the variants are out of reach.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{ETAG, LAST_MODIFIED};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};

use super::target::field;
use crate::entry::{Entry, Kind, Undecodable, open, seal};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::semantics::reuse::{StoredFacts, Terms};
use crate::semantics::storable::Sharing;

/// What the decoded form of a response takes beside its body: the page and a header map.
const DECODED_BYTES: usize = 512;
/// What one decoded field takes: its slot in the map and the records of its value.
const DECODED_FIELD_BYTES: usize = 144;

/// The decoded form of an entry.
#[derive(Clone, Debug)]
pub(super) struct StoredPage {
    pub(super) generation: u64,
    /// The fields that responses of this target vary on, sorted.
    pub(super) vary: Vec<String>,
    /// Until when the store keeps it, or one of its variants; `None`: for ever.
    pub(super) kept_until: Option<SystemTime>,
    pub(super) response: Option<StoredResponse>,
}

#[derive(Clone, Debug)]
pub(super) struct StoredResponse {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) stored_at: SystemTime,
    /// How long it is fresh, counted from its making; `None`: for ever.
    pub(super) lifetime: Option<Duration>,
    /// The age that the response arrived with, in seconds.
    pub(super) initial_age: u64,
    pub(super) terms: Terms,
    pub(super) sharing: Sharing,
    /// What the layer selected it by beside the URI.
    pub(super) selection: Fingerprint,
    /// The request's values of the fields that this response varies on.
    pub(super) varied: Vec<(String, Fingerprint)>,
}

/// Tells values of a request's field apart without keeping them: they may be secrets. `None`
/// if the field was absent.
pub(super) type Fingerprint = Option<[u8; 32]>;

/// The fingerprint of the value of `name` in a request.
pub(super) fn fingerprint(headers: &HeaderMap, name: &str) -> Fingerprint {
    field(headers, name).map(|value| *blake3::hash(&value).as_bytes())
}

impl StoredResponse {
    /// Whether a request with these fields and this selection is what the response was selected
    /// for.
    pub(super) fn matches(&self, request: &HeaderMap, selection: Fingerprint) -> bool {
        self.selection == selection
            && self
                .varied
                .iter()
                .all(|(name, value)| fingerprint(request, name) == *value)
    }

    pub(super) fn is_fresh(&self, now: SystemTime) -> bool {
        self.fresh_for(now).is_none_or(|left| !left.is_zero())
    }

    /// How long it is still fresh; `None`: for ever.
    pub(super) fn fresh_for(&self, now: SystemTime) -> Option<Duration> {
        let left = self.lifetime?.saturating_sub(self.age(now));
        Some(left)
    }

    /// How long ago it was made. A clock that went back adds nothing.
    pub(super) fn age(&self, now: SystemTime) -> Duration {
        let resident = now.duration_since(self.stored_at).unwrap_or_default();
        Duration::from_secs(self.initial_age).saturating_add(resident)
    }

    /// What its use depends on.
    pub(super) fn facts(&self, now: SystemTime) -> StoredFacts {
        StoredFacts {
            terms: self.terms,
            lifetime: self.lifetime.unwrap_or(Duration::MAX),
            age: self.age(now),
            validator: self.headers.contains_key(ETAG) || self.headers.contains_key(LAST_MODIFIED),
        }
    }
}

impl StoredPage {
    /// The page in `entry`, which was read under `key`.
    pub(super) fn decode(key: &Key, bytes: &Bytes) -> Result<Self, Undecodable> {
        let page = open::<PageMeta>(Kind::Page, key.as_str(), bytes)?;
        let body = page.body;
        let (stored_at, kept_until) = (page.stored_at, page.fresh_until);
        let response = page
            .meta
            .response
            .map(|response| response.into_stored(stored_at, body))
            .transpose()?;
        Ok(Self {
            generation: page.meta.generation,
            vary: page.meta.vary,
            kept_until,
            response,
        })
    }

    /// The entry to store under `key`.
    pub(super) fn encode(&self, key: &Key, now: SystemTime) -> Result<Entry> {
        let response = self.response.as_ref();
        let body = response.map_or(&[][..], |response| &response.body);
        let meta = PageMeta {
            generation: self.generation,
            vary: self.vary.clone(),
            response: response.map(ResponseMeta::of),
        };
        let stored_at = response.map_or(now, |response| response.stored_at);
        let sealed = seal(
            Kind::Page,
            key.as_str(),
            stored_at,
            self.kept_until,
            meta,
            body,
        )
        .map_err(|source| Error::new(ErrorKind::Encode).with_source(source.to_string()))?;
        let fields = response.map_or(0, |response| response.headers.len());
        Ok(Entry::new(sealed).with_decoded_bytes(DECODED_BYTES + fields * DECODED_FIELD_BYTES))
    }
}

#[derive(Serialize, Deserialize)]
struct PageMeta {
    generation: u64,
    vary: Vec<String>,
    response: Option<ResponseMeta>,
}

#[derive(Serialize, Deserialize)]
struct ResponseMeta {
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    /// From its making, in milliseconds.
    lifetime_ms: Option<u64>,
    initial_age: u64,
    terms: Terms,
    sharing: Sharing,
    selection: Fingerprint,
    varied: Vec<(String, Fingerprint)>,
}

impl ResponseMeta {
    fn of(response: &StoredResponse) -> Self {
        let headers = response.headers.iter();
        let lifetime = response.lifetime.map(|lifetime| {
            u64::try_from(lifetime.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
        });
        Self {
            status: response.status.as_u16(),
            headers: headers
                .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
                .collect(),
            lifetime_ms: lifetime,
            initial_age: response.initial_age,
            terms: response.terms,
            sharing: response.sharing,
            selection: response.selection,
            varied: response.varied.clone(),
        }
    }

    fn into_stored(
        self,
        stored_at: SystemTime,
        body: Bytes,
    ) -> Result<StoredResponse, Undecodable> {
        // There may be fewer names than lines, and too many of them for a map.
        let mut headers = HeaderMap::try_with_capacity(self.headers.len()).unwrap_or_default();
        for (name, value) in self.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| Undecodable::Meta)?;
            let value = HeaderValue::from_maybe_shared(Bytes::from(value))
                .map_err(|_| Undecodable::Meta)?;
            headers
                .try_append(name, value)
                .map_err(|_| Undecodable::Meta)?;
        }
        Ok(StoredResponse {
            status: StatusCode::from_u16(self.status).map_err(|_| Undecodable::Meta)?,
            headers,
            body,
            stored_at,
            lifetime: self.lifetime_ms.map(Duration::from_millis),
            initial_age: self.initial_age,
            terms: self.terms,
            sharing: self.sharing,
            selection: self.selection,
            varied: self.varied,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use super::*;
    use crate::key::KeySpace;

    fn page(headers: impl IntoIterator<Item = String>) -> PageMeta {
        let headers = headers.into_iter().map(|name| (name, b"v".to_vec()));
        PageMeta {
            generation: 1,
            vary: Vec::new(),
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

    fn decode(meta: PageMeta) -> Result<StoredPage, Undecodable> {
        let key = KeySpace::default().key(1, "page").unwrap();
        let at = SystemTime::UNIX_EPOCH;
        let sealed = seal(Kind::Page, key.as_str(), at, None, meta, b"").unwrap();
        StoredPage::decode(&key, &sealed)
    }

    #[test]
    fn as_many_lines_as_any_response_has_are_decoded_and_too_many_names_are_not() {
        const MANY: usize = 1 << 15;
        let lines = decode(page((0..MANY).map(|_| "link".to_owned()))).unwrap();
        assert_eq!(lines.response.unwrap().headers.len(), MANY);
        let names = decode(page((0..MANY).map(|number| format!("x{number}"))));
        assert_eq!(names.unwrap_err(), Undecodable::Meta);
    }
}
