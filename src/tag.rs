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

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::entry::Entry;
use crate::error::{Error, ErrorKind, Result};

/// The most tags that an entry has.
pub const MAX_TAGS: usize = 64;

/// The longest name of a tag, in bytes.
pub const MAX_TAG_BYTES: usize = 200;

/// What the generation of a tag looks like in a store.
const MAGIC: &[u8; 4] = b"axt1";

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
}

/// What has become of the tags of an entry. The later ones go before the earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TagState {
    Current,
    Expired,
    Invalid,
}

impl TagStamp {
    pub(crate) fn new(name: &str, generation: Generation) -> Self {
        Self {
            name: name.to_owned(),
            generation,
        }
    }
}

impl Generation {
    /// One that never was.
    pub(crate) fn draw() -> Self {
        Self {
            hard: draw(),
            soft: draw(),
        }
    }

    /// That of the same tag once it is expired.
    pub(crate) fn expired(self) -> Self {
        Self {
            soft: draw(),
            ..self
        }
    }

    /// What has become of an entry of this generation.
    pub(crate) fn state(self, present: Option<Self>) -> TagState {
        match present {
            Some(present) if present == self => TagState::Current,
            Some(present) if present.hard == self.hard => TagState::Expired,
            _ => TagState::Invalid,
        }
    }

    pub(crate) fn to_entry(self) -> Entry {
        let mut bytes = Vec::with_capacity(20);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&self.hard.to_be_bytes());
        bytes.extend_from_slice(&self.soft.to_be_bytes());
        Entry::new(bytes)
    }

    pub(crate) fn of_entry(entry: &Entry) -> Option<Self> {
        let rest = entry.bytes().strip_prefix(MAGIC)?;
        let (hard, soft) = rest.split_first_chunk()?;
        Some(Self {
            hard: u64::from_be_bytes(*hard),
            soft: u64::from_be_bytes(soft.try_into().ok()?),
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

    #[test]
    fn a_generation_survives_the_store_and_nothing_else_is_one() {
        let generation = Generation::draw();
        let entry = generation.to_entry();
        assert_eq!(Generation::of_entry(&entry), Some(generation));
        for length in 0..entry.bytes().len() {
            let cut = Entry::new(entry.bytes().slice(..length));
            assert_eq!(Generation::of_entry(&cut), None);
        }
        assert_eq!(
            Generation::of_entry(&Entry::from("axt1 and much more than that")),
            None
        );
    }

    #[test]
    fn what_is_missing_or_new_invalidates_and_what_is_expired_does_not() {
        let generation = Generation::draw();
        assert_eq!(generation.state(Some(generation)), TagState::Current);
        assert_eq!(
            generation.state(Some(generation.expired())),
            TagState::Expired
        );
        assert_eq!(
            generation.state(Some(Generation::draw())),
            TagState::Invalid
        );
        assert_eq!(generation.state(None), TagState::Invalid);
        let expired_and_then_invalid = Some(Generation::draw().expired());
        assert_eq!(
            generation.state(expired_and_then_invalid),
            TagState::Invalid
        );
        assert!(TagState::Current < TagState::Expired && TagState::Expired < TagState::Invalid);
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
