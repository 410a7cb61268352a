//! Tags: names by which entries are invalidated together.
//!
//! An entry says the generation that each of its tags had when its computation began. The store
//! holds the present ones, and to invalidate a tag is to remove its: one write, however many entries
//! there are, and nothing that grows with them.
//!
//! # Invariants
//!
//! - A generation is drawn at random and never returns: an entry of an earlier one is dead for good.
//! - A tag whose generation is missing, evicted or damaged invalidates its entries: what is lost
//!   invalidates too much, never too little.
//! - A generation says itself until when the store keeps it, so that who stores an entry that is to
//!   live longer knows.
//! - It says in which history of the store it was made. In another one, which may have begun from an old
//!   copy, it is as good as missing: what was removed from it may be there again.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::entry::Entry;
use crate::error::{Error, ErrorKind, Result};
use crate::ttl::Lifetime;

/// The most tags that an entry has.
pub const MAX_TAGS: usize = 64;

/// The longest name of a tag, in bytes.
pub const MAX_TAG_BYTES: usize = 200;

/// What the generation of a tag looks like in a store.
const MAGIC: &[u8; 4] = b"axt3";

/// How much longer a generation is kept than what is stored with it: the clocks of nodes may be that
/// far apart.
const MARGIN: Duration = Duration::from_secs(2 * 3600);

/// For how long a generation is kept without being asked to, so that it is rarely written again.
const SPARE: Duration = Duration::from_secs(24 * 3600);

/// What a decoded tag takes beside its name, which is there twice.
const DECODED_BYTES: usize = 192;

/// Tags of entries.
///
/// Names are compared byte for byte; an entry has at most [`MAX_TAGS`], of at most
/// [`MAX_TAG_BYTES`] each. What has more, or an empty one, is refused where it is used.
///
/// As an extension of a response, they are the tags of the page that it is stored as:
///
/// ```
/// # #[cfg(feature = "axum")] {
/// use axum::{Extension, response::Html};
/// use axum_cache::Tags;
///
/// async fn post() -> (Extension<Tags>, Html<&'static str>) {
///     (Extension(Tags::new(["post:7", "posts"])), Html("..."))
/// }
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tags(Option<Arc<[Arc<str>]>>);

impl Tags {
    /// These tags, each once.
    pub fn new<N: AsRef<str>>(names: impl IntoIterator<Item = N>) -> Self {
        let mut tags: Vec<Arc<str>> = names.into_iter().map(|it| it.as_ref().into()).collect();
        tags.sort_unstable();
        tags.dedup();
        Self((!tags.is_empty()).then(|| tags.into()))
    }

    /// These tags and others.
    #[must_use]
    pub fn and(&self, others: &Self) -> Self {
        if others.is_empty() {
            return self.clone();
        }
        if self.is_empty() {
            return others.clone();
        }
        Self::new(self.iter().chain(others.iter()))
    }

    /// Whether any of them is one of these, too.
    pub(crate) fn meets(&self, others: &Self) -> bool {
        self.iter()
            .any(|name| others.iter().any(|other| other == name))
    }

    /// The names, sorted.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0
            .as_deref()
            .unwrap_or_default()
            .iter()
            .map(|name| &**name)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.iter().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Refuses what no entry can have.
    pub(crate) fn check(&self) -> Result<()> {
        let refuse = |why| Err(Error::new(ErrorKind::InvalidTag).with_message(why));
        if self.len() > MAX_TAGS {
            return refuse("an entry has at most 64 tags");
        }
        if self
            .iter()
            .any(|name| name.is_empty() || name.len() > MAX_TAG_BYTES)
        {
            return refuse("a tag has at least one and at most 200 bytes");
        }
        Ok(())
    }
}

impl<N: AsRef<str>> FromIterator<N> for Tags {
    fn from_iter<I: IntoIterator<Item = N>>(names: I) -> Self {
        Self::new(names)
    }
}

impl fmt::Display for Tags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, name) in self.iter().enumerate() {
            let separator = if index == 0 { "" } else { "," };
            write!(f, "{separator}{name}")?;
        }
        Ok(())
    }
}

/// What becomes new when a tag is invalidated or expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Generation {
    /// New when the tag is invalidated.
    hard: u64,
    /// New when it is invalidated or expired.
    soft: u64,
}

/// A tag of an entry, as it was when the computation of the entry began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TagStamp {
    pub(crate) name: String,
    pub(crate) generation: Generation,
    /// Of the generation, as far as it is known; not a part of what is stored.
    #[serde(skip)]
    pub(crate) kept_until: KeptUntil,
}

/// What the store holds of a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Present {
    pub(crate) generation: Generation,
    pub(crate) kept_until: KeptUntil,
    /// In which [history](crate::backend::Backend::history) of the store it was made.
    pub(crate) history: u64,
}

/// Until when the store keeps the generation of a tag at least: in seconds since 1970, the largest
/// number for ever, and the smallest if nobody knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct KeptUntil(u64);

/// What has become of the tags of an entry. The later ones go before the earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TagState {
    Current,
    Expired,
    Invalid,
}

impl TagStamp {
    pub(crate) fn new(name: &str, present: Present) -> Self {
        Self {
            name: name.to_owned(),
            generation: present.generation,
            kept_until: present.kept_until,
        }
    }

    /// About what it takes once it is decoded, with the key of its generation.
    pub(crate) fn decoded_bytes(&self) -> usize {
        DECODED_BYTES + 2 * self.name.len()
    }
}

impl Generation {
    /// One that never was.
    fn draw() -> Self {
        Self {
            hard: draw(),
            soft: draw(),
        }
    }

    /// What has become of an entry of this generation.
    pub(crate) fn state(self, present: Option<Present>) -> TagState {
        match present.map(|present| present.generation) {
            Some(present) if present == self => TagState::Current,
            Some(present) if self.lives_in(present) => TagState::Expired,
            _ => TagState::Invalid,
        }
    }

    /// That it is not invalidated.
    pub(crate) fn lives_in(self, present: Self) -> bool {
        present.hard == self.hard
    }
}

impl KeptUntil {
    /// Long enough for what is stored at `now` for `lifetime`.
    pub(crate) fn outliving(now: SystemTime, lifetime: Lifetime) -> Self {
        let end = |lifetime: Duration| {
            let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
            let end = since.saturating_add(lifetime).saturating_add(MARGIN);
            Self(end.as_secs().saturating_add(1))
        };
        lifetime.duration().map_or(Self(u64::MAX), end)
    }
}

impl Present {
    /// That of a tag which has none.
    pub(crate) fn first(now: SystemTime, lifetime: Lifetime, history: u64) -> Self {
        Self {
            generation: Generation::draw(),
            kept_until: KeptUntil::default(),
            history,
        }
        .kept(now, lifetime)
    }

    /// The same, kept long enough for what is stored at `now` for `lifetime`, and others like it.
    pub(crate) fn kept(self, now: SystemTime, lifetime: Lifetime) -> Self {
        let lifetime = match lifetime.duration() {
            None => Lifetime::Forever,
            Some(lifetime) => Lifetime::For(lifetime.saturating_mul(2).saturating_add(SPARE)),
        };
        Self {
            kept_until: KeptUntil::outliving(now, lifetime).max(self.kept_until),
            ..self
        }
    }

    /// That of the same tag once it is expired.
    pub(crate) fn expired(self) -> Self {
        let soft = draw();
        Self {
            generation: Generation {
                soft,
                ..self.generation
            },
            ..self
        }
    }

    /// How long the store is to keep it from now on.
    pub(crate) fn lifetime(self, now: SystemTime) -> Lifetime {
        let Self { kept_until, .. } = self;
        if kept_until.0 == u64::MAX {
            return Lifetime::Forever;
        }
        let end = Duration::from_secs(kept_until.0);
        let left = end.saturating_sub(now.duration_since(UNIX_EPOCH).unwrap_or_default());
        // The clock of who wrote it may be behind.
        Lifetime::For(left.max(MARGIN))
    }

    pub(crate) fn to_entry(self) -> Entry {
        let Self {
            generation,
            kept_until,
            history,
        } = self;
        let mut bytes = MAGIC.to_vec();
        for number in [generation.hard, generation.soft, kept_until.0, history] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        Entry::new(bytes)
    }

    pub(crate) fn of_entry(entry: &Entry) -> Option<Self> {
        let rest = entry.bytes().strip_prefix(MAGIC)?;
        let (hard, rest) = rest.split_first_chunk()?;
        let (soft, rest) = rest.split_first_chunk()?;
        let (kept_until, history) = rest.split_first_chunk()?;
        Some(Self {
            generation: Generation {
                hard: u64::from_be_bytes(*hard),
                soft: u64::from_be_bytes(*soft),
            },
            kept_until: KeptUntil(u64::from_be_bytes(*kept_until)),
            history: u64::from_be_bytes(history.try_into().ok()?),
        })
    }
}

/// A number that nobody can foresee.
pub(crate) fn draw() -> u64 {
    // Its keys come from the system, and are others each time.
    RandomState::new().hash_one(0_u8)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use super::*;

    fn present() -> Present {
        Present::first(SystemTime::now(), Lifetime::For(MARGIN), 7)
    }

    #[test]
    fn a_generation_survives_the_store_and_nothing_else_is_one() {
        let present = present();
        let entry = present.to_entry();
        assert_eq!(Present::of_entry(&entry), Some(present));
        for length in 0..entry.bytes().len() {
            let cut = Entry::new(entry.bytes().slice(..length));
            assert_eq!(Present::of_entry(&cut), None);
        }
        let other = Entry::from("axt3 and very much more than only that");
        assert_eq!(Present::of_entry(&other), None);
    }

    #[test]
    fn what_is_missing_or_new_invalidates_and_what_is_expired_does_not() {
        let now = present();
        let state = |then: Present| now.generation.state(Some(then));
        assert_eq!(state(now), TagState::Current);
        assert_eq!(state(now.expired()), TagState::Expired);
        assert_eq!(state(present()), TagState::Invalid);
        assert_eq!(state(present().expired()), TagState::Invalid);
        assert_eq!(now.generation.state(None), TagState::Invalid);
        assert!(TagState::Current < TagState::Expired && TagState::Expired < TagState::Invalid);
    }

    #[test]
    fn a_generation_is_kept_for_longer_than_its_entries_and_never_for_less_than_before() {
        let now = SystemTime::now();
        let hour = Lifetime::For(Duration::from_secs(3600));
        let first = Present::first(now, hour, 0);
        assert!(first.kept_until > KeptUntil::outliving(now, hour));
        assert!(first.lifetime(now).duration() > hour.duration());
        assert_eq!(first.kept(now, Lifetime::For(Duration::ZERO)), first);
        let forever = first.kept(now, Lifetime::Forever);
        assert_eq!(forever.lifetime(now), Lifetime::Forever);
        assert_eq!(forever.kept(now, hour), forever);
        let most = first.kept(now, Lifetime::For(Duration::MAX));
        assert!(most.kept_until > first.kept_until);
        assert!(KeptUntil::default() < KeptUntil::outliving(UNIX_EPOCH, Lifetime::For(MARGIN)));
    }

    #[test]
    fn tags_are_a_set_and_bad_ones_are_refused() {
        let tags = Tags::new(["b", "a", "b"]);
        assert_eq!(tags.iter().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(tags.and(&Tags::new(["c", "a"])).to_string(), "a,b,c");
        assert!(tags.check().is_ok());
        let many: Tags = (0..=MAX_TAGS).map(|number| number.to_string()).collect();
        let long = "x".repeat(MAX_TAG_BYTES + 1);
        for refused in [many, Tags::new([""]), Tags::new([long])] {
            assert_eq!(refused.check().unwrap_err().kind(), ErrorKind::InvalidTag);
        }
    }

    #[test]
    fn draws_differ() {
        let draws: std::collections::HashSet<_> = (0..10_000).map(|_| draw()).collect();
        assert_eq!(draws.len(), 10_000);
    }
}
