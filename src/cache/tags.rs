//! The tags of a cache: what generation each is of, and new ones for those that are invalidated.
//!
//! # Invariants
//!
//! - The generations that an entry names were read before its computation began. So what is
//!   invalidated while it computes is dead when it lands, on whatever node.
//! - Tags that are named only once the computation is over are those of its beginning only if no
//!   tag at all was invalidated meanwhile: each invalidation writes the *turn* first, and then the
//!   tags. Otherwise the entry is not stored.
//! - Nothing is remembered in this process but which tags an entry had the last time, to read their
//!   generations together with it.

use std::hash::BuildHasher;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use foldhash::quality::RandomState;

use super::Cache;
use crate::backend::Peek;
use crate::entry::{Entry, lease};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::observe;
use crate::tag::{Generation, KeptUntil, Present, TagStamp, TagState, Tags, draw};
use crate::ttl::Lifetime;

/// How often a tag is tried to expire or to keep that others change at the same time.
const ROUNDS: usize = 64;

/// How many entries' tags are remembered.
const SEEN: usize = 4096;

/// The tags of an entry, with the keys of their generations.
pub(crate) type Marks = Arc<[(Key, Generation)]>;

/// What was read of tags together with an entry.
pub(crate) type TagsRead = Vec<(Key, Option<Present>)>;

/// What is another one once a tag was invalidated or expired, or the store may have forgotten that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Turn(Entry, u64);

/// Which tags entries had the last time.
#[derive(Debug, Default)]
pub(super) struct TagsSeen {
    slots: OnceLock<Box<[Mutex<Option<Seen>>]>>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Seen {
    hash: u64,
    keys: Arc<[Key]>,
}

impl TagsSeen {
    fn of(&self, key: &Key) -> Option<Arc<[Key]>> {
        let slots = self.slots.get()?;
        let hash = self.hasher.hash_one(key);
        let slot = slot(slots, hash).lock();
        let slot = slot.unwrap_or_else(PoisonError::into_inner);
        let seen = slot.as_ref().filter(|seen| seen.hash == hash)?;
        Some(Arc::clone(&seen.keys))
    }

    fn remember(&self, key: &Key, keys: impl Iterator<Item = Key>) {
        let slots = self
            .slots
            .get_or_init(|| (0..SEEN).map(|_| Mutex::default()).collect());
        let hash = self.hasher.hash_one(key);
        let seen = Seen {
            hash,
            keys: keys.collect(),
        };
        let mut slot = slot(slots, hash).lock();
        **slot.as_mut().unwrap_or_else(|poisoned| poisoned.get_mut()) = Some(seen);
    }
}

fn slot(slots: &[Mutex<Option<Seen>>], hash: u64) -> &Mutex<Option<Seen>> {
    &slots[usize::try_from(hash % SEEN as u64).unwrap_or(0)]
}

impl Cache {
    /// A handle whose entries have these tags, in the place of its own: `set`, `add`, `set_many`,
    /// `get_or_set` and their like store them so.
    ///
    /// # Example
    ///
    /// ```
    /// # #[cfg(feature = "memory")]
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> axum_cache::Result<()> {
    /// use axum_cache::{Cache, Ttl, backend::Memory};
    ///
    /// let cache = Cache::new(Memory::new());
    /// cache.with_tags(["post:7", "posts"]).set("title:7", "Hello", Ttl::Default).await?;
    /// cache.invalidate(["post:7"]).await?;
    /// assert_eq!(cache.get::<String>("title:7").await?, None);
    /// # Ok(()) }
    /// # #[cfg(not(feature = "memory"))] fn main() {}
    /// ```
    #[must_use]
    pub fn with_tags<N: AsRef<str>>(&self, tags: impl IntoIterator<Item = N>) -> Self {
        let mut handle = self.clone();
        handle.tags = Tags::new(tags);
        handle
    }

    /// As [`with_tags`](Self::with_tags), with what these tags are now: from now on, nothing that this
    /// handle stores outlives an invalidation of one of them, whenever it is stored.
    ///
    /// For what is read before a value is stored or a template is rendered; a
    /// [`get_or_set`](Self::get_or_set) sees to that by itself.
    ///
    /// # Errors
    ///
    /// As for [any call](Cache#errors).
    ///
    /// # Example
    ///
    /// ```
    /// # #[cfg(feature = "memory")]
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> axum_cache::Result<()> {
    /// use axum_cache::{Cache, Ttl, backend::Memory};
    ///
    /// let cache = Cache::new(Memory::new());
    /// let pinned = cache.with_tags_now(["post:7"]).await?;
    /// let title = "as the database had it";
    /// cache.invalidate(["post:7"]).await?; // by another request, meanwhile
    /// pinned.set("title:7", title, Ttl::Default).await?;
    /// assert_eq!(cache.get::<String>("title:7").await?, None);
    /// # Ok(()) }
    /// # #[cfg(not(feature = "memory"))] fn main() {}
    /// ```
    pub async fn with_tags_now<N: AsRef<str> + Send>(
        &self,
        tags: impl IntoIterator<Item = N> + Send,
    ) -> Result<Self> {
        let mut handle = self.with_tags(tags);
        handle.pinned = None;
        let stamps = handle.stamps(&handle.tags).await?;
        handle.pinned = Some(stamps.into());
        Ok(handle)
    }

    /// The tags that this handle gives to entries.
    pub fn tags(&self) -> &Tags {
        &self.tags
    }

    /// Invalidates all entries that have one of these tags: values of all versions, fragments and
    /// pages, on all nodes that share the store. Once it has returned, none of them is read any
    /// more, and nothing that was being computed becomes one.
    ///
    /// It costs one write a tag and one more, however many entries there are.
    ///
    /// # Errors
    ///
    /// [`InvalidTag`](ErrorKind::InvalidTag) for what no entry can have. Otherwise as for
    /// [any call](Cache#errors): then some may be invalidated and others not.
    ///
    /// # Django
    ///
    /// None.
    pub async fn invalidate<N: AsRef<str>>(&self, tags: impl IntoIterator<Item = N>) -> Result<()> {
        self.invalidate_tags(&Tags::new(tags)).await
    }

    /// Makes all entries stale that have one of these tags: those that may be served stale are,
    /// while they are computed anew or because that failed, and the others are gone.
    ///
    /// # Errors
    ///
    /// As for [`invalidate`](Self::invalidate), and [`Unsupported`](ErrorKind::Unsupported) if the
    /// store cannot [compare and set](crate::backend::Backend::compare_and_set).
    pub async fn expire<N: AsRef<str>>(&self, tags: impl IntoIterator<Item = N>) -> Result<()> {
        self.expire_tags(&Tags::new(tags)).await
    }

    pub(crate) async fn invalidate_tags(&self, tags: &Tags) -> Result<()> {
        let keys = self.tag_keys(tags)?;
        if keys.is_empty() {
            return Ok(());
        }
        let turned = self.next_turn().await;
        // A tag without a generation has no entries, and the next one gets a new one. Also if that failed:
        // a circuit breaker makes up for what it was asked to remove.
        let outcome = self.backend().delete_many(&keys).await;
        // Also if it failed: some may be invalidated.
        self.shared.flights.forget_tagged(tags);
        self.shared.turns.fetch_add(1, Ordering::SeqCst);
        turned.and(outcome.map(drop))
    }

    pub(crate) async fn expire_tags(&self, tags: &Tags) -> Result<()> {
        if self.is_hurried() {
            return Box::pin(self.unhurried().expire_tags(tags)).await;
        }
        let keys = self.tag_keys(tags)?;
        if keys.is_empty() {
            return Ok(());
        }
        self.next_turn().await?;
        for key in &keys {
            let expired = |present: Present| Some(present.expired());
            if !self.replace_generation(key, expired).await? {
                // Who knows it still has to be told, if by too much.
                self.backend().delete(key).await?;
            }
        }
        self.shared.flights.forget_tagged(tags);
        self.shared.turns.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// What says whether any tag was invalidated or expired meanwhile, on any node; `None` if that is not
    /// known. It is never kept near.
    pub(crate) async fn turn(&self) -> Option<Turn> {
        let key = self.turn_key().ok()?;
        let turn = if let Some(turn) = self.fetch(key).await.ok()? {
            turn
        } else {
            let turn = Entry::new(lease(draw()));
            let adding = self.backend().add(key, turn.clone(), Lifetime::Forever);
            if adding.await.ok()? {
                turn
            } else {
                self.fetch(key).await.ok().flatten()?
            }
        };
        Some(Turn(turn, self.backend().history()))
    }

    /// The same, if a store that answers at once has it.
    pub(crate) fn turn_now(&self) -> Option<Turn> {
        match self.peek(self.turn_key().ok()?) {
            Peek::Hit(turn) => Some(Turn(turn, self.backend().history())),
            _ => None,
        }
    }

    async fn next_turn(&self) -> Result<()> {
        let turn = Entry::new(lease(draw()));
        let key = self.turn_key()?;
        self.backend().set(key, turn, Lifetime::Forever).await
    }

    fn turn_key(&self) -> Result<&Key> {
        if let Some(key) = self.shared.turn_key.get() {
            return Ok(key);
        }
        let key = self.own_key("tags")?;
        Ok(self.shared.turn_key.get_or_init(|| key))
    }

    /// The generations that tags are of; new ones for those that have none.
    pub(crate) async fn stamps(&self, tags: &Tags) -> Result<Vec<TagStamp>> {
        self.stamps_from(tags, &TagsRead::new()).await
    }

    /// As [`stamps`](Self::stamps), of tags that may have been read.
    pub(crate) async fn stamps_from(&self, tags: &Tags, read: &TagsRead) -> Result<Vec<TagStamp>> {
        tags.check()?;
        let mut stamps = Vec::with_capacity(tags.len());
        let mut left = Vec::new();
        for name in tags.iter() {
            let pinned = self.pinned.as_deref().unwrap_or_default();
            if let Some(pinned) = pinned.iter().find(|tag| tag.name == name) {
                stamps.push(pinned.clone());
                continue;
            }
            let key = self.tag_key(name)?;
            let known = read.iter().find(|(read, _)| *read == key);
            match known.and_then(|(_, present)| *present) {
                Some(present) => stamps.push(TagStamp::new(name, present)),
                None => left.push((name, key)),
            }
        }
        let (names, keys): (Vec<_>, Vec<_>) = left.into_iter().unzip();
        let entries = self.fetch_each(&keys).await?;
        for ((name, key), entry) in names.into_iter().zip(&keys).zip(entries) {
            let present = match self.present(entry.as_ref()).await {
                Some(present) => present,
                None => self.first_generation(key, entry.as_ref()).await?,
            };
            stamps.push(TagStamp::new(name, present));
        }
        Ok(stamps)
    }

    /// The generations that `tags` had when a computation began: those of `before`, which were read
    /// then, and those of tags that are named only now; `None` if they cannot be known, as some tag
    /// was invalidated since `turn` was read, or that was not.
    pub(crate) async fn stamps_as_of(
        &self,
        mut before: Vec<TagStamp>,
        turn: Option<&Turn>,
        tags: &Tags,
    ) -> Result<Option<Vec<TagStamp>>> {
        let known = |name: &str| before.iter().any(|tag| tag.name == name);
        let late: Tags = tags.iter().filter(|name| !known(name)).collect();
        before.retain(|tag| tags.iter().any(|name| name == tag.name));
        if late.is_empty() {
            return Ok(Some(before));
        }
        tags.check()?;
        // The tags first, and then the turn, as they are written the other way round.
        before.extend(self.stamps(&late).await?);
        let Some(turn) = turn else { return Ok(None) };
        Ok((self.turn().await.as_ref() == Some(turn)).then_some(before))
    }

    /// Sees to it that the store keeps the generations of `tags` at least as long as what is about to
    /// be stored with them for `lifetime`: nothing to do for most, as they are kept for much longer. A
    /// failure is observed; the entry may then be dead before its time.
    pub(crate) async fn keep_tags(&self, tags: &[TagStamp], lifetime: Lifetime) {
        let now = self.clock().now();
        let needed = KeptUntil::outliving(now, lifetime);
        for tag in tags.iter().filter(|tag| tag.kept_until < needed) {
            let longer = |present: Present| {
                let is_needed = tag.generation.lives_in(present.generation);
                (is_needed && present.kept_until < needed).then(|| present.kept(now, lifetime))
            };
            let kept = match self.tag_key(&tag.name) {
                Ok(key) => self.replace_generation(&key, longer).await.map(drop),
                Err(error) => Err(error),
            };
            if let Err(error) = kept {
                observe::failed(self.name(), "tags", &error);
            }
        }
    }

    /// Replaces the generation of a tag by what `change` makes of it; one that is not there, or makes
    /// nothing, is left alone. False: there is one that is of no use here.
    async fn replace_generation(
        &self,
        key: &Key,
        change: impl Fn(Present) -> Option<Present> + Send,
    ) -> Result<bool> {
        let backend = self.backend();
        for _ in 0..ROUNDS {
            let Some(entry) = backend.get(key).await? else {
                return Ok(true);
            };
            let Some(present) = self.present(Some(&entry)).await else {
                return Ok(false);
            };
            let Some(changed) = change(present) else {
                return Ok(true);
            };
            let lifetime = changed.lifetime(self.clock().now());
            let replacing = backend.compare_and_set(key, &entry, changed.to_entry(), lifetime);
            if replacing.await? {
                return Ok(true);
            }
        }
        Err(Error::new(ErrorKind::Unavailable)
            .with_message("others change the same tag again and again"))
    }

    async fn first_generation(&self, key: &Key, damaged: Option<&Entry>) -> Result<Present> {
        let backend = self.backend();
        let now = self.clock().now();
        // Where it could not be prolonged, it stays.
        let lifetime = if self.capabilities().compares {
            Lifetime::For(Duration::ZERO)
        } else {
            Lifetime::Forever
        };
        let present = Present::first(now, lifetime, backend.history());
        let (entry, lifetime) = (present.to_entry(), present.lifetime(now));
        if damaged.is_some() {
            backend.set(key, entry, lifetime).await?;
            return Ok(present);
        }
        if backend.add(key, entry, lifetime).await? {
            return Ok(present);
        }
        let other = backend.get(key).await?;
        self.present(other.as_ref()).await.ok_or_else(|| {
            Error::new(ErrorKind::Unavailable).with_message("the store does not keep tags")
        })
    }

    /// The generation that an entry of the store says; `None` if that is of another history than the one that
    /// the store is in. To be asked after it was read, not before.
    async fn present(&self, entry: Option<&Entry>) -> Option<Present> {
        let present = entry.and_then(Present::of_entry)?;
        if self.is_of_now(present) {
            return Some(present);
        }
        // Another node may know better in which it is.
        self.backend().learn_history().await;
        self.is_of_now(present).then_some(present)
    }

    /// The generations that these entries say.
    async fn presents(&self, entries: &[Option<Entry>]) -> Vec<Option<Present>> {
        let mut presents = Vec::with_capacity(entries.len());
        for entry in entries {
            presents.push(self.present(entry.as_ref()).await);
        }
        presents
    }

    fn is_of_now(&self, present: Present) -> bool {
        if present.history == 0 {
            return true;
        }
        let history = self.backend().history();
        history == 0 || history == present.history
    }

    /// The tags of an entry with the keys of their generations.
    pub(crate) fn marks(&self, tags: &[TagStamp]) -> Result<Marks> {
        let mark = |tag: &TagStamp| Ok((self.tag_key(&tag.name)?, tag.generation));
        tags.iter().map(mark).collect()
    }

    /// The entry under `key`, together with the tags that it had the last time: one round trip.
    pub(crate) async fn fetch_tagged(&self, key: &Key) -> Result<(Option<Entry>, TagsRead)> {
        match self.peek(key) {
            Peek::Declined => {}
            now => return Ok((now.entry(), TagsRead::new())),
        }
        let (entry, read) = match self.shared.tags_seen.of(key) {
            None => (self.backend().get(key).await?, TagsRead::new()),
            // In a box, as below, so that it takes no room in the futures of those that have none.
            Some(tags) => Box::pin(self.fetch_with(key, tags)).await?,
        };
        Ok((self.recognised(key, entry), read))
    }

    /// The entry under `key`, and what has become of these tags.
    async fn fetch_with(&self, key: &Key, tags: Arc<[Key]>) -> Result<(Option<Entry>, TagsRead)> {
        let keys: Vec<Key> = [key].into_iter().chain(tags.iter()).cloned().collect();
        let mut entries = self.backend().get_many(&keys).await?;
        let read = self.presents(entries.get(1..).unwrap_or_default()).await;
        let entry = entries.first_mut().and_then(Option::take);
        Ok((entry, tags.iter().cloned().zip(read).collect()))
    }

    /// What has become of the tags of an entry that was read under `key`, together with `read`.
    pub(crate) async fn tag_state(
        &self,
        key: &Key,
        marks: &Marks,
        read: &TagsRead,
    ) -> Result<TagState> {
        if let Some(state) = self.tag_state_now(marks) {
            return Ok(state);
        }
        if let Some(state) = known_state(marks, read) {
            return Ok(state);
        }
        let keys = marks.iter().map(|(key, _)| key.clone());
        self.shared.tags_seen.remember(key, keys);
        Box::pin(self.present_state(marks)).await
    }

    /// The entries under `keys`, with the generations of `tags` and of those that the entries had the
    /// last time: one round trip.
    #[cfg(feature = "askama")]
    pub(crate) async fn fetch_with_tags(
        &self,
        keys: &[Key],
        tags: impl Iterator<Item = &Tags>,
    ) -> Result<(Vec<Option<Entry>>, TagsRead)> {
        let mut wanted = Vec::new();
        for tags in tags {
            wanted.extend(self.tag_keys(tags)?);
        }
        for key in keys {
            let seen = self.shared.tags_seen.of(key);
            wanted.extend(seen.iter().flat_map(|seen| seen.iter().cloned()));
        }
        wanted.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
        wanted.dedup();
        let mut all = keys.to_vec();
        all.extend(wanted);
        let mut entries = self.fetch_many(&all).await?;
        let read = entries.split_off(keys.len());
        let read = self.presents(&read).await;
        let tags = all.split_off(keys.len());
        Ok((entries, tags.into_iter().zip(read).collect()))
    }

    /// What has become of tags by now.
    pub(crate) async fn present_state(&self, marks: &Marks) -> Result<TagState> {
        let keys: Vec<Key> = marks.iter().map(|(key, _)| key.clone()).collect();
        let entries = self.fetch_each(&keys).await?;
        let presents = self.presents(&entries).await;
        let of_marks = marks.iter().zip(presents);
        let state = of_marks.map(|((_, generation), present)| generation.state(present));
        Ok(state.max().unwrap_or(TagState::Current))
    }

    /// The generations of tags, for entries that were read together; none if the store can say them
    /// without waiting.
    pub(crate) async fn read_tags(&self, mut keys: Vec<Key>) -> Result<TagsRead> {
        keys.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
        keys.dedup();
        let declines = |key: &Key| matches!(self.peek(key), Peek::Declined);
        if !keys.iter().any(declines) {
            return Ok(TagsRead::new());
        }
        let entries = self.backend().get_many(&keys).await?;
        let read = self.presents(&entries).await;
        Ok(keys.iter().cloned().zip(read).collect())
    }

    /// What has become of tags, if the store can say so without waiting.
    pub(crate) fn tag_state_now(&self, marks: &Marks) -> Option<TagState> {
        let mut state = TagState::Current;
        for (key, generation) in marks.iter() {
            let present = match self.peek(key) {
                Peek::Hit(entry) => match Present::of_entry(&entry) {
                    // Who may ask says.
                    Some(present) if !self.is_of_now(present) => return None,
                    present => present,
                },
                Peek::Miss => None,
                Peek::Declined => return None,
            };
            state = state.max(generation.state(present));
        }
        Some(state)
    }

    /// The entries under `keys`, by the lane that does not wait where there is one.
    async fn fetch_each(&self, keys: &[Key]) -> Result<Vec<Option<Entry>>> {
        let mut entries = Vec::with_capacity(keys.len());
        for key in keys {
            match self.peek(key) {
                Peek::Declined => return self.fetch_many(keys).await,
                now => entries.push(now.entry()),
            }
        }
        Ok(entries)
    }

    fn tag_keys(&self, tags: &Tags) -> Result<Vec<Key>> {
        tags.check()?;
        tags.iter().map(|name| self.tag_key(name)).collect()
    }

    fn tag_key(&self, name: &str) -> Result<Key> {
        self.own_key(&format!("tag:{name}"))
    }
}

/// What has become of tags, if all of them were read.
fn known_state(marks: &Marks, read: &TagsRead) -> Option<TagState> {
    let mut state = TagState::Current;
    for (key, generation) in marks.iter() {
        let (_, present) = read.iter().find(|(read, _)| read == key)?;
        state = state.max(generation.state(*present));
    }
    Some(state)
}
