//! How a stored page is written into its entry, and read from it.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::de::Error as _;
use serde::ser::SerializeSeq as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::recurring;
use super::stale::Windows;
use super::stored::{Fingerprint, OF_EACH_HIT, StoredResponse, VariantMark, Varied};
use super::tagged::PageTags;
use crate::cache::Cache;
use crate::entry::{Stamp, Undecodable};
use crate::semantics::reuse::Terms;
use crate::semantics::storable::Sharing;

/// What is read of a page, in the order of [`PageToWrite`].
#[derive(Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(super) struct PageMeta<'a> {
    pub(super) generation: u64,
    pub(super) vary: Vec<Name>,
    pub(super) variants: Vec<VariantMark>,
    #[serde(borrow)]
    pub(super) own_key: Option<&'a str>,
    #[serde(borrow)]
    pub(super) response: Option<ResponseMeta<'a>>,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(super) struct ResponseMeta<'a> {
    status: u16,
    #[serde(borrow)]
    headers: Vec<(Name, Line<'a>)>,
    /// From its making, in milliseconds.
    lifetime_ms: Option<u64>,
    initial_age: u64,
    terms: Terms,
    sharing: Sharing,
    selection: Print,
    varied: Vec<(Name, Print)>,
}

/// What is written of a page: of what it holds already, nothing is gathered for it.
#[derive(Serialize)]
pub(super) struct PageToWrite<'a> {
    pub(super) generation: u64,
    #[serde(serialize_with = "write_names")]
    pub(super) vary: &'a [HeaderName],
    pub(super) variants: &'a [VariantMark],
    pub(super) own_key: Option<&'a str>,
    pub(super) response: Option<ResponseToWrite<'a>>,
}

#[derive(Serialize)]
pub(super) struct ResponseToWrite<'a> {
    status: u16,
    #[serde(serialize_with = "write_fields")]
    headers: &'a HeaderMap,
    /// From its making, in milliseconds.
    lifetime_ms: Option<u64>,
    initial_age: u64,
    terms: Terms,
    sharing: Sharing,
    selection: Print,
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
    serializer.collect_seq(varied.map(|field| (field.name.as_str(), Print(field.fingerprint))))
}

/// The name of a field.
pub(super) struct Name(pub(super) HeaderName);

#[cfg(test)]
impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.as_str())
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Not as text, which would be looked through twice.
        let Line(name) = Deserialize::deserialize(deserializer)?;
        HeaderName::from_bytes(name)
            .map(Self)
            .map_err(D::Error::custom)
    }
}

/// A fingerprint, which is a run of bytes rather than 32 numbers.
struct Print(Fingerprint);

impl Serialize for Print {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes = self.0.as_ref();
        bytes.map(|bytes| Line(bytes)).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Print {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = Option::<Line<'de>>::deserialize(deserializer)?;
        let print = bytes.map(|Line(bytes)| bytes.try_into()).transpose();
        print.map(Self).map_err(D::Error::custom)
    }
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
    pub(super) fn of(response: &'a StoredResponse) -> Self {
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
            selection: Print(response.selection),
            varied: &response.varied,
        }
    }
}

impl ResponseMeta<'_> {
    /// The response in an entry of these bytes, with this body.
    pub(super) fn into_stored(
        self,
        cache: &Cache,
        bytes: &Bytes,
        body: Bytes,
        stamp: Stamp,
    ) -> Result<StoredResponse, Undecodable> {
        // There may be fewer names than lines, and too many of them for a map.
        let room = self.headers.len() + OF_EACH_HIT.len() + 1;
        let mut headers = HeaderMap::try_with_capacity(room).unwrap_or_default();
        for name in OF_EACH_HIT {
            let value = HeaderValue::from_static("");
            headers
                .try_insert(name, value)
                .map_err(|_| Undecodable::Meta)?;
        }
        for (Name(name), Line(value)) in self.headers {
            if OF_EACH_HIT.contains(&name) {
                continue;
            }
            let value = recurring::value(&name, value, bytes).ok_or(Undecodable::Meta)?;
            headers
                .try_append(name, value)
                .map_err(|_| Undecodable::Meta)?;
        }
        let varied = self.varied.into_iter();
        Ok(StoredResponse {
            status: StatusCode::from_u16(self.status).map_err(|_| Undecodable::Meta)?,
            // A copy has no room for what does not come.
            headers: headers.clone(),
            body,
            stored_at: stamp.stored_at,
            lifetime: self.lifetime_ms.map(Duration::from_millis),
            initial_age: self.initial_age,
            terms: self.terms,
            windows: Windows {
                while_revalidate: stamp.stale_while_revalidate,
                if_error: stamp.stale_if_error,
            },
            sharing: self.sharing,
            selection: self.selection.0,
            varied: varied
                .map(|(Name(name), Print(print))| Varied::new(name, print))
                .collect(),
            tags: PageTags::new(cache, stamp.tags).map_err(|_| Undecodable::Meta)?,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use std::sync::Arc;
    use std::time::SystemTime;

    use super::super::stored::StoredPage;
    use super::*;
    use crate::backend::Dummy;
    use crate::entry::{Body, Kind};
    use crate::key::KeySpace;

    fn page(names: &[String]) -> PageMeta<'_> {
        let headers = names.iter().map(|name| {
            let name = HeaderName::try_from(name).unwrap();
            (Name(name), Line(b"v"))
        });
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
                    answers_cookies: false,
                },
                selection: Print(None),
                varied: Vec::new(),
            }),
        }
    }

    fn decode(meta: PageMeta<'_>) -> Result<Arc<StoredPage>, Undecodable> {
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
    fn a_decoded_map_begins_with_what_each_hit_has_of_its_own() {
        let names = ["etag", "cache-status", "age", "vary"].map(str::to_owned);
        let page = decode(page(&names)).unwrap();
        let headers = &page.stored().headers;
        let names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["age", "cache-status", "etag", "vary"]);
        assert!(headers["age"].is_empty() && headers["etag"] == "v");
    }

    #[test]
    fn as_many_lines_as_any_response_has_are_decoded_and_too_many_names_are_not() {
        const MANY: usize = 1 << 15;
        let many_links = vec!["link".to_owned(); MANY];
        let lines = decode(page(&many_links)).unwrap();
        let lines = lines.stored().headers.get_all("link");
        assert_eq!(lines.iter().count(), MANY);
        let names: Vec<_> = (0..MANY).map(|number| format!("x{number}")).collect();
        assert_eq!(decode(page(&names)).unwrap_err(), Undecodable::Meta);
    }
}
