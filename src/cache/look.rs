//! What was found under a key, and what it is worth.

use std::sync::Arc;

use super::Cache;
use super::tags::Marks;
use crate::entry::{Entry, Stamp};
use crate::tag::Tags;
use crate::ttl::Lifetime;

/// What was found under a key.
#[derive(Debug)]
pub(super) struct Look {
    /// What the store holds, whatever it is worth: what a fenced fill replaces.
    pub(super) raw: Option<Entry>,
    pub(super) found: Found,
}

#[derive(Debug)]
pub(super) enum Found {
    Fresh(Value),
    /// Not for ordinary readers.
    Stale {
        value: Value,
        while_revalidate: bool,
        if_error: bool,
    },
    /// A fresh fragment or page.
    Foreign,
    /// Nothing that could be used, and why, where there is more to say.
    Nothing(&'static str),
}

/// A value, and what its entry says of it.
#[derive(Clone, Debug)]
pub(super) struct Value {
    /// The bytes of the codec.
    pub(super) entry: Entry,
    pub(super) record: Option<Arc<Record>>,
}

/// A sealed value.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) stamp: Stamp,
    pub(super) marks: Marks,
    pub(super) value: Entry,
}

impl Found {
    /// The bytes of the codec alone.
    pub(super) fn plain(entry: Entry) -> Self {
        Self::Fresh(Value {
            entry,
            record: None,
        })
    }
}

impl Look {
    pub(super) fn nothing(why: &'static str) -> Self {
        Self {
            raw: None,
            found: Found::Nothing(why),
        }
    }

    /// What was stored without a tag that it is to have now is not used: it would outlive the tag.
    pub(super) fn having(mut self, tags: &Tags) -> Self {
        if let Found::Fresh(value) | Found::Stale { value, .. } = &self.found
            && !value.has(tags)
        {
            self.found = Found::Nothing("untagged");
        }
        self
    }

    /// Whether there is something that does not count, such as a lease.
    pub(super) fn is_dead(&self) -> bool {
        self.raw.is_some() && !self.is_fresh()
    }

    /// Whether there is something, of whatever kind.
    pub(super) fn is_fresh(&self) -> bool {
        matches!(self.found, Found::Fresh(_) | Found::Foreign)
    }

    /// The value, if it is fresh.
    pub(super) fn fresh(self) -> Option<Value> {
        match self.found {
            Found::Fresh(value) => Some(value),
            _ => None,
        }
    }
}

impl Value {
    fn has(&self, tags: &Tags) -> bool {
        let stamps = self.record.as_ref().map(|record| &record.stamp.tags);
        let has = |name| stamps.is_some_and(|tags| tags.iter().any(|tag| tag.name == name));
        tags.iter().all(has)
    }

    /// How long it is fresh, if the store keeps it for `lifetime`.
    pub(super) fn fresh_for(&self, cache: &Cache, lifetime: Lifetime) -> Lifetime {
        let record = self.record.as_ref();
        let fresh_until = record.and_then(|record| record.stamp.fresh_until);
        fresh_until.map_or(lifetime, |until| {
            let left = until.duration_since(cache.clock().now());
            Lifetime::For(left.unwrap_or_default())
        })
    }
}
