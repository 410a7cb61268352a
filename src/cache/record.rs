//! Values as they are stored: the bytes of the codec alone, or, if there is more to say, sealed.
//!
//! # Invariants
//!
//! - A value that has tags, or may be served stale, is sealed. Of the others, integers are their digits, so
//!   that counters are native; the rest is sealed if the cache has checksums, and its codec's bytes if it has
//!   none, and they are not packed. Bytes that could be taken for a sealed value are sealed, whatever they are.
//! - A cache that has checksums uses nothing that is not sealed but integers.
//! - What is sealed is used only if it says that it is of this key, and its tags are current.

use std::sync::Arc;
use std::time::Duration;

use super::Cache;
use super::fenced::{OVER, TRIES};
use super::look::{Found, Look, Record, Value};
use super::tags::{Marks, TagsRead};
use crate::backend::{Peek, parse_counter};
use crate::entry::{Body, Entry, Kind, Stamp, Undecodable, Worth, is_lease, is_sealed, lease};
use crate::error::Result;
use crate::key::Key;
use crate::observe;
use crate::tag::{TagStamp, TagState, draw};
use crate::ttl::Lifetime;

/// What the decoded form of a sealed value takes beside its tags: the record, and the entry of the value.
const DECODED_BYTES: usize = 320;

impl Cache {
    /// What is under `key` and what it is worth.
    pub(super) async fn look(&self, key: &Key) -> Result<Look> {
        let (entry, tags) = self.fetch_tagged(key).await?;
        self.judge(key, entry, &tags).await
    }

    /// What it is worth alone, if that can be said without waiting.
    pub(super) fn find_now(&self, key: &Key) -> Option<Found> {
        let Peek::Hit(entry) = self.peek(key) else {
            return None;
        };
        match self.open_now(&entry)? {
            Opened::Plain => Some(Found::plain(entry)),
            Opened::Sealed(record) => {
                let state = self.tag_state_now(&record.marks)?;
                Some(self.worth(record, state))
            }
            _ => None,
        }
    }

    /// What is under `keys` and what it is worth: one round trip, and one more for tags.
    pub(super) async fn look_many(&self, keys: &[Key]) -> Result<Vec<Look>> {
        let entries = self.fetch_many(keys).await?;
        let mut tags = Vec::new();
        for (key, entry) in keys.iter().zip(&entries) {
            let Some(entry) = entry else { continue };
            if let Opened::Sealed(record) = self.open_value(key, entry).await {
                tags.extend(record.marks.iter().map(|(key, _)| key.clone()));
            }
        }
        let tags = self.read_tags(tags).await?;
        let mut looks = Vec::with_capacity(keys.len());
        for (key, entry) in keys.iter().zip(entries) {
            looks.push(self.judge(key, entry, &tags).await?);
        }
        Ok(looks)
    }

    /// What an entry is worth that was read under `key`.
    pub(super) async fn judge(
        &self,
        key: &Key,
        entry: Option<Entry>,
        tags: &TagsRead,
    ) -> Result<Look> {
        let Some(raw) = entry else {
            return Ok(Look::nothing(""));
        };
        let found = match self.open_value(key, &raw).await {
            Opened::Plain => Found::plain(raw.clone()),
            Opened::Lease => Found::Nothing("computing"),
            Opened::Undecodable(reason) => {
                observe::corrupt(self.name(), "get", reason.as_str());
                Found::Nothing("corrupt")
            }
            Opened::Foreign(stamp, marks) => {
                let state = self.tag_state(key, &marks, tags).await?;
                match stamp.worth(self.clock().now(), state) {
                    Worth::Fresh => Found::Foreign,
                    _ => Found::Nothing("expired"),
                }
            }
            Opened::Sealed(record) => {
                let state = self.tag_state(key, &record.marks, tags).await?;
                self.worth(record, state)
            }
        };
        Ok(Look {
            raw: Some(raw),
            found,
        })
    }

    fn worth(&self, record: Arc<Record>, state: TagState) -> Found {
        let worth = record.stamp.worth(self.clock().now(), state);
        let value = Value {
            entry: record.value.clone(),
            record: Some(record),
        };
        match worth {
            Worth::Fresh => Found::Fresh(value),
            Worth::Stale {
                while_revalidate,
                if_error,
            } => Found::Stale {
                value,
                while_revalidate,
                if_error,
            },
            Worth::Nothing if state == TagState::Current => Found::Nothing("expired"),
            Worth::Nothing => Found::Nothing("tag"),
        }
    }

    /// How long the store has to keep an entry that says so itself, if not for ever.
    pub(super) fn kept_for(&self, key: &Key, entry: &Entry) -> Option<Duration> {
        let now = self.clock().now();
        if let Some(record) = entry.decoded::<Record>() {
            return record.stamp.kept_for(now).duration();
        }
        let opened = self.sealer().open::<()>(Kind::Value, key, entry.bytes());
        opened.ok()?.stamp.kept_for(now).duration()
    }

    /// What an entry is, if nothing of it is to be decoded any more.
    fn open_now(&self, entry: &Entry) -> Option<Opened> {
        if let Some(record) = entry.decoded() {
            return Some(Opened::Sealed(record));
        }
        if !is_sealed(entry.bytes()) {
            if self.sealer().signs() {
                return Some(Opened::Undecodable(Undecodable::Signature));
            }
            if self.shared.checksums && !is_counter(entry) {
                return Some(Opened::Undecodable(Undecodable::Foreign));
            }
            return Some(Opened::Plain);
        }
        is_lease(entry.bytes()).then_some(Opened::Lease)
    }

    async fn open_value(&self, key: &Key, entry: &Entry) -> Opened {
        if let Some(opened) = self.open_now(entry) {
            return opened;
        }
        match self.open_record(key, entry).await {
            Ok(record) => Opened::Sealed(record),
            Err(Undecodable::Kind) => self.open_foreign(key, entry),
            Err(reason) => Opened::Undecodable(reason),
        }
    }

    async fn open_record(&self, key: &Key, entry: &Entry) -> Result<Arc<Record>, Undecodable> {
        let opened = self.sealer().open::<()>(Kind::Value, key, entry.bytes())?;
        let marks = self.marks(&opened.stamp.tags);
        Ok(entry.decoded_as(Arc::new(Record {
            marks: marks.map_err(|_| Undecodable::Meta)?,
            stamp: opened.stamp,
            value: Entry::new(opened.body.unpacked().await?),
        })))
    }

    fn open_foreign(&self, key: &Key, entry: &Entry) -> Opened {
        let opened = self
            .sealer()
            .open_stamp(key, entry.bytes())
            .and_then(|stamp| {
                let marks = self.marks(&stamp.tags);
                Ok((stamp, marks.map_err(|_| Undecodable::Meta)?))
            });
        match opened {
            Ok((stamp, marks)) => Opened::Foreign(stamp, marks),
            Err(reason) => Opened::Undecodable(reason),
        }
    }

    /// The entry to store for a value that is fresh as long as the store keeps it, with the tags of
    /// this handle.
    pub(super) async fn tagged(
        &self,
        key: &Key,
        value: Entry,
        lifetime: Lifetime,
    ) -> Result<Entry> {
        let stamps = self.stamps(&self.tags).await?;
        self.keep_tags(&stamps, lifetime).await;
        self.stamped(key, value, lifetime, &stamps).await
    }

    /// What precedes storing values with the tags of this handle in the place of what is there: their
    /// stamps; and no fill of an older value lands any more, not even once the new one has expired.
    ///
    /// # Errors
    ///
    /// If the stamps cannot be had. Was that for the store, what is there is removed: nothing older is
    /// to stay where it could not be replaced.
    pub(super) async fn replace(&self, keys: &[Key], lifetime: Lifetime) -> Result<Vec<TagStamp>> {
        if self.is_hurried() {
            // What is there is not to go because there was no time to ask for its tags.
            return Box::pin(self.unhurried().replace(keys, lifetime)).await;
        }
        let stamps = match self.stamps(&self.tags).await {
            Err(error) if error.is_transient() => {
                let _ = self.delete_final(keys).await;
                return Err(error);
            }
            stamps => stamps?,
        };
        self.keep_tags(&stamps, lifetime).await;
        self.bar_fills(keys).await;
        Ok(stamps)
    }

    pub(super) async fn stamped(
        &self,
        key: &Key,
        value: Entry,
        lifetime: Lifetime,
        tags: &[TagStamp],
    ) -> Result<Entry> {
        if tags.is_empty() {
            return self.plain_value(key, value, lifetime).await;
        }
        let mut stamp = Stamp::new(self.clock().now(), lifetime.duration());
        stamp.tags = tags.to_vec();
        self.seal_value(key, &value, stamp).await
    }

    /// Stores `entry` if there is nothing that counts; atomic, where the store can compare.
    pub(super) async fn add_entry(
        &self,
        key: &Key,
        entry: Entry,
        lifetime: Lifetime,
    ) -> Result<bool> {
        let backend = self.backend();
        for _ in 0..TRIES {
            if backend.add(key, entry.clone(), lifetime).await? {
                return Ok(true);
            }
            // What is there may be a lease, or dead by its tags.
            let look = self.look(key).await?;
            let Some(raw) = &look.raw else { continue };
            if look.is_fresh() || !self.capabilities().compares {
                return Ok(false);
            }
            let (entry, raw) = (entry.clone(), raw.clone());
            if backend.compare_and_set(key, &raw, entry, lifetime).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Gives the value under `key`, if it is fresh, a new TTL.
    pub(super) async fn touch_entry(&self, key: &Key, lifetime: Lifetime) -> Result<bool> {
        let backend = self.backend();
        for _ in 0..TRIES {
            let look = self.look(key).await?;
            let Some(raw) = look.raw.clone() else {
                // What was read may be behind what is written to.
                return backend.touch(key, lifetime).await;
            };
            let Some(value) = look.fresh() else {
                return Ok(false);
            };
            let Some(record) = value.record else {
                return backend.touch(key, lifetime).await;
            };
            if record.stamp.is_bare() {
                return backend.touch(key, lifetime).await;
            }
            let now = self.clock().now();
            let mut stamp = record.stamp.clone();
            stamp.fresh_until = lifetime.duration().and_then(|it| now.checked_add(it));
            let kept_for = stamp.kept_for(now);
            self.keep_tags(&stamp.tags, kept_for).await;
            let entry = self.seal_value(key, &value.entry, stamp).await?;
            if backend.compare_and_set(key, &raw, entry, kept_for).await? {
                return Ok(true);
            }
            // Somebody has touched or replaced it at the same time.
        }
        Ok(false)
    }

    /// Moves the value at `from`, if it is fresh, to `to`. One that is sealed says which key it is of,
    /// and so is moved in two steps.
    pub(super) async fn move_entry(&self, from: &Key, to: &Key) -> Result<bool> {
        let backend = self.backend();
        if from == to {
            let look = self.look(from).await?;
            return Ok(matches!(look.found, Found::Fresh(_)));
        }
        for _ in 0..TRIES {
            let Look { raw, found, .. } = self.look(from).await?;
            let Some(raw) = raw else {
                // What was read may be behind what is written to.
                return backend.rename(from, to).await;
            };
            let Found::Fresh(value) = found else {
                return Ok(false);
            };
            let Some(record) = &value.record else {
                return backend.rename(from, to).await;
            };
            let Some(lifetime) = backend.ttl(from).await? else {
                return Ok(false);
            };
            let stamp = record.stamp.clone();
            let entry = self.seal_value(to, &value.entry, stamp).await?;
            backend.set(to, entry, lifetime).await?;
            if self.take_away(from, &raw).await? {
                return Ok(true);
            }
            // It was replaced meanwhile, or deleted, and is not to be anywhere.
            backend.delete(to).await?;
        }
        Ok(false)
    }

    /// Removes an entry, if it is still this one, as far as the store can tell. Whether it did.
    async fn take_away(&self, key: &Key, raw: &Entry) -> Result<bool> {
        let backend = self.backend();
        if !self.capabilities().compares {
            return backend.delete(key).await;
        }
        let gone = Entry::new(lease(draw()));
        let over = Lifetime::For(OVER);
        backend.compare_and_set(key, raw, gone, over).await
    }

    /// The entry to store for a value without tags that is never served stale.
    pub(super) async fn plain_value(
        &self,
        key: &Key,
        value: Entry,
        lifetime: Lifetime,
    ) -> Result<Entry> {
        let signs = self.sealer().signs();
        if !signs && is_counter(&value) {
            return Ok(value);
        }
        let body = self.packed(value.bytes()).await;
        let is_checked = signs || self.shared.checksums;
        if !is_checked && !body.is_packed() && !is_sealed(value.bytes()) {
            return Ok(value);
        }
        // Who signs does not leave it to the store when it is over.
        let lifetime = if signs { lifetime } else { Lifetime::Forever };
        let stamp = Stamp::new(self.clock().now(), lifetime.duration());
        self.seal_body(key, &body, stamp)
    }

    /// The entry to store for a value of which all is said by `stamp`.
    pub(super) async fn seal_value(&self, key: &Key, value: &Entry, stamp: Stamp) -> Result<Entry> {
        let body = self.packed(value.bytes()).await;
        self.seal_body(key, &body, stamp)
    }

    fn seal_body(&self, key: &Key, body: &Body, stamp: Stamp) -> Result<Entry> {
        let tags = stamp.tags.iter().map(TagStamp::decoded_bytes);
        let decoded = DECODED_BYTES + tags.sum::<usize>();
        let sealed = self.sealer().seal(Kind::Value, key, stamp, (), body)?;
        Ok(sealed.with_decoded_bytes(decoded))
    }
}

/// Whether these are the digits of a counter.
fn is_counter(entry: &Entry) -> bool {
    parse_counter(entry.bytes()).is_ok()
}

enum Opened {
    Plain,
    Lease,
    Sealed(Arc<Record>),
    Foreign(Stamp, Marks),
    Undecodable(Undecodable),
}
