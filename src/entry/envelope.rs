//! The wire form of all that is stored with more than its bare bytes: versioned, checksummed, and
//! bound to its key.
//!
//! ```text
//! "axc" | format version | kind | proof | length of meta, 4 bytes | meta | body
//! ```
//!
//! The proof is the xxh3 of all that follows, 8 bytes; or, if the kind has its highest bit set, the keyed
//! BLAKE3 of all before and after it, 32 bytes.
//!
//! An envelope whose body is packed is of the next format version, which is the seed of its xxh3. Its proof is
//! followed by the length of the body unpacked, 4 bytes.
//!
//! # Invariants
//!
//! - Anything that is not exactly what [`Sealer::seal`] wrote for this kind and this key is
//!   [`Undecodable`]: a miss, observed, and overwritten by the next store.
//! - Opening copies no body byte: the body is a slice of what was read.
//! - No input makes [`Sealer::open`] panic, or allocate more than a small multiple of its length.
//! - What is not proved is not unpacked.

use std::ops::RangeInclusive;
use std::time::{Duration, SystemTime};

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::Entry;
use super::body::{Body, MAX_BYTES};
use super::sealer::{Sealer, proof_bytes};
use super::stamp::Stamp;
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::tag::TagStamp;

const MAGIC: &[u8; 3] = b"axc";
const FORMAT: u8 = 2;
/// With a packed body, so that to those who know of none it is another version.
pub(super) const PACKED: u8 = 3;
/// Magic, format version and kind.
const PREAMBLE: usize = 5;
const META_LENGTH: usize = 4;
/// Of a packed body.
const UNPACKED_LENGTH: usize = 4;
/// Of a kind: whether it is signed.
const SIGNED: u8 = 0x80;

/// What an envelope holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Page = 1,
    #[cfg(feature = "askama")]
    Fragment = 2,
    /// Nothing yet: somebody computes it.
    Lease = 3,
    Value = 4,
}

/// All of them, those included that this build does not make.
const KINDS: RangeInclusive<u8> = Kind::Page as u8..=Kind::Value as u8;

/// Whether bytes are, or claim to be, an envelope.
pub(crate) fn is_sealed(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// The bytes of a lease, or of anything else that is only ever compared.
pub(crate) fn lease(number: u64) -> Bytes {
    let mut bytes = BytesMut::with_capacity(PREAMBLE + 8);
    bytes.put_slice(MAGIC);
    bytes.put_u8(FORMAT);
    bytes.put_u8(Kind::Lease as u8);
    bytes.put_u64(number);
    bytes.freeze()
}

/// Whether bytes are a [`lease`]. Such entries are read from the store that all processes share, each
/// time: a copy near would hold up those who wait for it to go.
pub(crate) fn is_lease(bytes: &[u8]) -> bool {
    let kind = bytes.get(PREAMBLE - 1).map(|kind| kind & !SIGNED);
    is_sealed(bytes) && kind == Some(Kind::Lease as u8)
}

/// How long the body of these bytes is unpacked, if they are an envelope whose body is packed, and it may be.
pub(super) fn unpacked_bytes(bytes: &[u8]) -> Option<usize> {
    let (preamble, rest) = bytes.split_first_chunk::<PREAMBLE>()?;
    if !is_sealed(preamble) || preamble[3] != PACKED {
        return None;
    }
    let rest = rest.get(proof_bytes(preamble[4] & SIGNED != 0)..)?;
    let length = rest.first_chunk::<UNPACKED_LENGTH>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    (length <= MAX_BYTES).then_some(length)
}

/// Why bytes are not a usable envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Undecodable {
    Truncated,
    Foreign,
    Version,
    Kind,
    Checksum,
    /// It is not signed and should be; or it is, and nobody here knows the key.
    Signature,
    Meta,
    Key,
    /// Its body cannot be unpacked: not to what it says, or not by this build.
    Packed,
}

/// An opened envelope.
#[derive(Debug)]
pub(crate) struct Opened<M> {
    pub(crate) stamp: Stamp,
    pub(crate) meta: M,
    pub(crate) body: Body,
}

#[derive(Serialize, Deserialize)]
struct Meta<'a, M> {
    key: &'a str,
    stored_at_ms: u64,
    fresh_until_ms: Option<u64>,
    stale_while_revalidate_ms: u64,
    stale_if_error_ms: u64,
    cost_ms: u64,
    tags: Vec<TagStamp>,
    of_kind: M,
}

impl Sealer {
    /// Seals `meta` and `body` under `key`. Times are kept in milliseconds; `fresh_until` is rounded
    /// up, so that rounding never makes an entry that is stale at birth.
    ///
    /// # Errors
    ///
    /// [`Encode`](ErrorKind::Encode) if it is far too large.
    pub(crate) fn seal<M: Serialize>(
        &self,
        kind: Kind,
        key: &Key,
        stamp: Stamp,
        meta: M,
        body: &Body,
    ) -> Result<Entry> {
        let too_large = |source: String| Error::new(ErrorKind::Encode).with_source(source);
        let proof = PREAMBLE..PREAMBLE + self.proof_bytes();
        let meta_bytes = if kind == Kind::Page { 768 } else { 128 };
        let room = proof.end + UNPACKED_LENGTH + META_LENGTH + meta_bytes + body.bytes.len();
        let mut sealed = Vec::with_capacity(room);
        sealed.put_slice(MAGIC);
        sealed.put_u8(if body.is_packed() { PACKED } else { FORMAT });
        sealed.put_u8(kind as u8 | if self.signs() { SIGNED } else { 0 });
        sealed.put_bytes(0, proof.len());
        if let Some(length) = body.unpacked {
            sealed.put_u32(length);
        }
        let length = sealed.len()..sealed.len() + META_LENGTH;
        sealed.put_u32(0);
        let meta = Meta {
            key: key.as_str(),
            stored_at_ms: to_millis(stamp.stored_at, false),
            fresh_until_ms: stamp.fresh_until.map(|instant| to_millis(instant, true)),
            stale_while_revalidate_ms: millis(stamp.stale_while_revalidate),
            stale_if_error_ms: millis(stamp.stale_if_error),
            cost_ms: millis(stamp.cost),
            tags: stamp.tags,
            of_kind: meta,
        };
        let mut sealed =
            postcard::to_extend(&meta, sealed).map_err(|error| too_large(error.to_string()))?;
        let meta_length = u32::try_from(sealed.len() - length.end)
            .map_err(|error| too_large(error.to_string()))?;
        sealed[length].copy_from_slice(&meta_length.to_be_bytes());
        sealed.put_slice(&body.bytes);
        let proved = self.proof(&sealed[..PREAMBLE], &sealed[proof.end..]);
        sealed[proof].copy_from_slice(proved.as_bytes());
        // It is kept for long: as large as it is.
        Ok(Entry::new(sealed.into_boxed_slice()))
    }

    /// Opens what [`seal`](Self::seal) wrote for the same kind and key.
    pub(crate) fn open<'b, M: Deserialize<'b>>(
        &self,
        kind: Kind,
        key: &Key,
        bytes: &'b Bytes,
    ) -> Result<Opened<M>, Undecodable> {
        let (opened, left) = self.open_some(Some(kind), key, bytes)?;
        if !left.is_empty() {
            return Err(Undecodable::Meta);
        }
        Ok(opened)
    }

    /// What an envelope of any kind says of itself.
    pub(crate) fn open_stamp(&self, key: &Key, bytes: &Bytes) -> Result<Stamp, Undecodable> {
        let (opened, _) = self.open_some::<()>(None, key, bytes)?;
        Ok(opened.stamp)
    }

    /// Opens an envelope of this or any kind whose meta begins with an `M`; and what is left of the meta.
    fn open_some<'b, M: Deserialize<'b>>(
        &self,
        kind: Option<Kind>,
        key: &Key,
        bytes: &'b Bytes,
    ) -> Result<(Opened<M>, &'b [u8]), Undecodable> {
        let (preamble, rest) = bytes
            .split_first_chunk::<PREAMBLE>()
            .ok_or(Undecodable::Truncated)?;
        if !preamble.starts_with(MAGIC) {
            return Err(Undecodable::Foreign);
        }
        let is_packed = preamble[3] == PACKED;
        if !is_packed && preamble[3] != FORMAT {
            return Err(Undecodable::Version);
        }
        let kinds = kind.map_or(KINDS, |kind| kind as u8..=kind as u8);
        if !kinds.contains(&(preamble[4] & !SIGNED)) {
            return Err(Undecodable::Kind);
        }
        let is_signed = preamble[4] & SIGNED != 0;
        if is_signed != self.signs() {
            return Err(Undecodable::Signature);
        }
        let (proof, sealed) = rest
            .split_at_checked(proof_bytes(is_signed))
            .ok_or(Undecodable::Truncated)?;
        if !self.proves(proof, preamble, sealed) {
            return Err(if is_signed {
                Undecodable::Signature
            } else {
                Undecodable::Checksum
            });
        }
        open_proved(key, bytes, sealed, is_packed)
    }
}

/// Opens what follows the proof.
fn open_proved<'b, M: Deserialize<'b>>(
    key: &Key,
    bytes: &'b Bytes,
    sealed: &'b [u8],
    is_packed: bool,
) -> Result<(Opened<M>, &'b [u8]), Undecodable> {
    let (unpacked, sealed) = if is_packed {
        let (length, rest) = sealed
            .split_first_chunk::<UNPACKED_LENGTH>()
            .ok_or(Undecodable::Truncated)?;
        (Some(u32::from_be_bytes(*length)), rest)
    } else {
        (None, sealed)
    };
    let (length, rest) = sealed
        .split_first_chunk::<META_LENGTH>()
        .ok_or(Undecodable::Truncated)?;
    let length =
        usize::try_from(u32::from_be_bytes(*length)).map_err(|_| Undecodable::Truncated)?;
    let (meta, body) = rest
        .split_at_checked(length)
        .ok_or(Undecodable::Truncated)?;
    let (meta, left) =
        postcard::take_from_bytes::<Meta<'_, M>>(meta).map_err(|_| Undecodable::Meta)?;
    if meta.key != key.as_str() {
        return Err(Undecodable::Key);
    }
    let opened = Opened {
        stamp: Stamp {
            stored_at: from_millis(meta.stored_at_ms).ok_or(Undecodable::Meta)?,
            fresh_until: match meta.fresh_until_ms {
                None => None,
                Some(millis) => Some(from_millis(millis).ok_or(Undecodable::Meta)?),
            },
            stale_while_revalidate: Duration::from_millis(meta.stale_while_revalidate_ms),
            stale_if_error: Duration::from_millis(meta.stale_if_error_ms),
            cost: Duration::from_millis(meta.cost_ms),
            tags: meta.tags,
        },
        meta: meta.of_kind,
        body: Body {
            bytes: bytes.slice_ref(body),
            unpacked,
        },
    };
    Ok((opened, left))
}

impl Undecodable {
    /// A label of constant cardinality for events.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::Foreign => "foreign",
            Self::Version => "version",
            Self::Kind => "kind",
            Self::Checksum => "checksum",
            Self::Signature => "signature",
            Self::Meta => "meta",
            Self::Key => "key",
            Self::Packed => "packed",
        }
    }
}

fn to_millis(instant: SystemTime, up: bool) -> u64 {
    let nanos = instant
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_nanos();
    let millis = if up {
        nanos.div_ceil(1_000_000)
    } else {
        nanos / 1_000_000
    };
    u64::try_from(millis).unwrap_or(u64::MAX)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

fn from_millis(millis: u64) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use proptest::prelude::*;

    use super::*;
    use crate::tag::Present;
    use crate::ttl::Lifetime;

    fn sealed(sealer: &Sealer) -> Bytes {
        let mut stamp = Stamp::new(SystemTime::now(), Some(Duration::from_secs(60)));
        stamp.stale_if_error = Duration::from_secs(5);
        let tag = Present::first(SystemTime::now(), Lifetime::Forever, 0);
        stamp.tags = vec![TagStamp::new("tag", tag)];
        let entry = sealer.seal(
            Kind::Page,
            &key("key"),
            stamp,
            7_u32,
            &Body::plain(&b"body"[..]),
        );
        entry.unwrap().bytes().clone()
    }

    /// One whose body says that it is packed.
    fn packed(sealer: &Sealer) -> Bytes {
        let body = Body {
            bytes: Bytes::from_static(b"frame"),
            unpacked: Some(0x0102_0304),
        };
        let stamp = Stamp::new(SystemTime::now(), None);
        let entry = sealer.seal(Kind::Page, &key("key"), stamp, 7_u32, &body);
        entry.unwrap().bytes().clone()
    }

    fn key(name: &str) -> Key {
        Key::within("", name)
    }

    fn signing(secrets: &[&str]) -> Sealer {
        Sealer::signing(secrets).unwrap()
    }

    /// One that signs nothing, and one that does.
    fn sealers() -> [Sealer; 2] {
        [Sealer::default(), signing(&["the only secret."])]
    }

    #[test]
    fn what_was_sealed_opens_without_copying_the_body() {
        for sealer in sealers() {
            let sealed = sealed(&sealer);
            let opened = sealer.open::<u32>(Kind::Page, &key("key"), &sealed);
            let opened = opened.unwrap();
            assert_eq!((opened.meta, &opened.body.bytes[..]), (7, &b"body"[..]));
            assert!(sealed.as_ptr_range().contains(&opened.body.bytes.as_ptr()));
            assert!(opened.stamp.fresh_until.unwrap() > opened.stamp.stored_at);
            assert_eq!(opened.stamp.stale_if_error, Duration::from_secs(5));
            assert_eq!(&*opened.stamp.tags[0].name, "tag");
            assert!(is_sealed(&sealed) && !is_lease(&sealed));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_undecodable() {
        let of_all = |sealer| [(sealed(&sealer), sealer.clone()), (packed(&sealer), sealer)];
        for (sealed, sealer) in sealers().into_iter().flat_map(of_all) {
            let open = |bytes| sealer.open::<u32>(Kind::Page, &key("key"), &bytes);
            for bit in 0..sealed.len() * 8 {
                let mut bytes = sealed.to_vec();
                bytes[bit / 8] ^= 1 << (bit % 8);
                open(bytes.into()).unwrap_err();
            }
            for length in 0..sealed.len() {
                open(sealed.slice(..length)).unwrap_err();
            }
        }
    }

    /// F6: who does not know a key makes nothing that is believed, and keys are changed one after the other.
    #[test]
    fn f6_only_what_is_signed_with_a_known_key_is_believed() {
        let believes = |reader: &Sealer, bytes: &Bytes| {
            let opened = reader.open::<u32>(Kind::Page, &key("key"), bytes);
            opened.map(drop)
        };
        let (old, new) = ("an old secret...", "a new secret....");
        let both = signing(&[new, old]);
        let (old, new) = (signing(&[old]), signing(&[new]));
        let (of_old, of_both) = (sealed(&old), sealed(&both));
        assert_eq!(believes(&both, &of_old), Ok(()));
        assert_eq!(believes(&new, &of_both), Ok(()), "the first key signs");
        let refused = Err(Undecodable::Signature);
        assert_eq!(believes(&new, &of_old), refused);
        assert_eq!(believes(&old, &of_both), refused);
        // A checksum is no signature, and a signature that nobody can check proves nothing.
        let unsigned = sealed(&Sealer::default());
        assert_eq!(believes(&new, &unsigned), refused);
        assert_eq!(believes(&Sealer::default(), &of_old), refused);
        assert_eq!(format!("{old:?}"), "Sealer { keys: 1 }");
    }

    #[test]
    fn a_packed_body_opens_as_it_is_stored_and_says_how_long_it_will_be() {
        for sealer in sealers() {
            let packed = packed(&sealer);
            let opened = sealer.open::<u32>(Kind::Page, &key("key"), &packed);
            let opened = opened.unwrap();
            assert_eq!((opened.meta, &opened.body.bytes[..]), (7, &b"frame"[..]));
            assert_eq!(opened.body.unpacked, Some(0x0102_0304));
            let stamp = sealer.open_stamp(&key("key"), &packed).unwrap();
            assert_eq!(stamp, opened.stamp);
            assert!(is_sealed(&packed) && !is_lease(&packed));
            let weight = packed.len() + 0x0102_0304;
            assert_eq!(Entry::new(packed.clone()).weight(), weight);
            let decoded = Entry::new(packed).with_decoded_bytes(10);
            assert_eq!(decoded.weight(), weight + 10);
            let plain = sealed(&sealer);
            assert_eq!(Entry::new(plain.clone()).weight(), plain.len());
        }
        // Of what is too long to be true, nothing is made.
        let mut claims = b"axc\x03\x01 checksum".to_vec();
        claims.truncate(PREAMBLE + 8);
        claims.extend([0xFF; UNPACKED_LENGTH]);
        assert_eq!(Entry::new(claims.clone()).weight(), claims.len());
        assert_eq!(Entry::new(claims[..8].to_vec()).weight(), 8);
    }

    #[test]
    fn another_key_kind_or_version_is_undecodable() {
        for sealer in sealers() {
            let sealed = sealed(&sealer);
            let error = |kind, name, bytes| {
                let opened = sealer.open::<u32>(kind, &key(name), bytes);
                opened.unwrap_err()
            };
            assert_eq!(error(Kind::Page, "other", &sealed), Undecodable::Key);
            #[cfg(feature = "askama")]
            assert_eq!(error(Kind::Fragment, "key", &sealed), Undecodable::Kind);
            let mut unknown = sealed.to_vec();
            unknown[4] += 16;
            let unknown = sealer.open_stamp(&key("key"), &unknown.into());
            assert_eq!(unknown.unwrap_err(), Undecodable::Kind);
            let mut future = sealed.to_vec();
            future[3] = PACKED + 1;
            let future = error(Kind::Page, "key", &future.into());
            assert_eq!(future, Undecodable::Version);
        }
    }

    #[test]
    #[cfg(feature = "memory")]
    fn a_lease_is_known_by_its_beginning() {
        assert!(is_lease(b"axc\x01\x03") && is_lease(b"axc\x02\x03 and more"));
        assert!(is_lease(b"axc\x02\x83 and more"));
        assert!(!is_lease(&sealed(&Sealer::default())) && !is_lease(b"axc\x01") && !is_lease(b"3"));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(mut bytes: Vec<u8>, repair: bool, is_packed: bool) {
            let sealer = Sealer::default();
            let proof = PREAMBLE..PREAMBLE + sealer.proof_bytes();
            if repair && bytes.len() > proof.end + META_LENGTH {
                // Get past the checksum, to the decoder behind it.
                bytes[..4].copy_from_slice(b"axc\x02");
                if is_packed {
                    bytes[3] = PACKED;
                }
                bytes[4] = 1;
                let proved = sealer.proof(&bytes[..PREAMBLE], &bytes[proof.end..]);
                bytes[proof].copy_from_slice(proved.as_bytes());
            }
            let key = key("key");
            let opened = sealer.open::<Vec<(String, Vec<u8>)>>(Kind::Page, &key, &bytes.into());
            let _ = opened.map(|opened| opened.body.unpacked_now());
        }
    }
}
