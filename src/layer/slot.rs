//! Putting a response among the variants of its page.
//!
//! # Invariants
//!
//! - The fields that the responses of a page vary on, and the marks of its variants, are those of
//!   the primary entry as it is when it is written: of the writers of one layer, none undoes what
//!   another one has added.
//! - There are never more variants of a page than the layer permits. What is over goes into the
//!   primary entry only, and is lost when the next one takes its place.
//! - A response has no entry of its own while the primary one holds it, and gets it when another one takes
//!   its place; or it has both, and both are replaced by the next one of its kind. Of two of a kind, the newer one
//!   stays: none that was replaced comes back.
//! - A primary entry that is gone takes its generation with it: nothing brings that back. One that
//!   has come meanwhile stays, with all its variants.

use std::fmt;
use std::hash::BuildHasher;
use std::time::{Duration, SystemTime};

use foldhash::quality::RandomState;
use tokio::sync::{Mutex, MutexGuard};

use super::layer::Config;
use super::lease::{Ground, Standing};
use super::stored::{StoredPage, StoredResponse, VariantMark, Varied};
use crate::entry::{Body, Entry};
use crate::error::Result;
use crate::key::Key;
use crate::observe;
use crate::semantics::vary::union;
use crate::tag::draw;
use crate::ttl::Lifetime;

/// How often a primary entry is joined with what others have made of it meanwhile.
const TRIES: usize = 8;

/// Locks for the writers of variants, by page.
const STRIPES: usize = 64;

/// The writers of variants of one layer: one at a time for a page.
pub(super) struct Turns {
    hasher: RandomState,
    stripes: [Mutex<()>; STRIPES],
}

impl Turns {
    async fn of(&self, page: &Key) -> MutexGuard<'_, ()> {
        let hash = self.hasher.hash_one(page.as_str());
        let stripe = usize::try_from(hash % STRIPES as u64).unwrap_or(0);
        self.stripes[stripe].lock().await
    }
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            hasher: RandomState::default(),
            stripes: std::array::from_fn(|_| Mutex::new(())),
        }
    }
}

impl fmt::Debug for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turns").finish_non_exhaustive()
    }
}

/// What is to be stored under a key, and for how long.
type Write = (Key, Entry, Lifetime);

/// All that is stored of a page.
struct Writes {
    primary: (Entry, Lifetime),
    /// The page in an entry of its own.
    beside: Option<Write>,
    /// See [`Others::displaced`].
    displaced: Option<Write>,
}

/// What is stored beside a primary entry.
#[derive(Default)]
struct Others {
    /// What was in its place before, where nothing is yet.
    displaced: Option<Write>,
    /// The page goes into an entry of its own, too.
    is_beside: bool,
}

/// Where a response goes.
pub(super) struct Slot<'a> {
    pub(super) config: &'a Config,
    pub(super) key: &'a Key,
    /// Where it goes beside the primary entry, if the target has variants.
    pub(super) variant_key: Option<&'a Key>,
    /// There was a primary entry, whose generation the page has.
    pub(super) known: bool,
    pub(super) ground: &'a Ground,
    /// The most variants that there may be, this one included.
    pub(super) most: usize,
}

impl Slot<'_> {
    /// Stores a page that has been made, unless its place was taken from it. Whether it did.
    pub(super) async fn put(&self, page: &StoredPage, packed: &Body) -> Result<bool> {
        match self.ground.generation() {
            None => self.put_here(page, packed).await.map(|()| true),
            Some(generation) => Box::pin(self.put_fenced(page, packed, generation)).await,
        }
    }

    async fn put_here(&self, page: &StoredPage, packed: &Body) -> Result<()> {
        let backend = self.config.cache.backend();
        let mut turn = None;
        let writes = if self.known || self.variant_key.is_some() {
            // Others may have come meanwhile.
            turn = Some(self.config.turns.of(self.key).await);
            self.joined(page, packed, self.current().await)?
        } else {
            Writes {
                primary: self.primary(&page.head(), page, packed)?,
                beside: None,
                displaced: None,
            }
        };
        let (primary, lasts) = writes.primary;
        let outcome = match writes.beside {
            None => backend.set(self.key, primary, lasts).await,
            Some(beside) => {
                let batch = vec![beside, (self.key.clone(), primary, lasts)];
                let outcomes = backend.set_many(batch).await?;
                outcomes.into_iter().collect()
            }
        };
        if outcome.is_ok() {
            self.give_place(writes.displaced).await;
        }
        drop(turn);
        outcome
    }

    /// What is stored of a page where this is there. It waits for nothing: a future has room for all that is there
    /// while something is waited for.
    fn joined(
        &self,
        page: &StoredPage,
        packed: &Body,
        current: Option<(Entry, StoredPage)>,
    ) -> Result<Writes> {
        let mut primary = page.head();
        let generation = current.as_ref().map(|(_, head)| head.generation);
        let is_same = generation.map_or(!self.known, |it| it == page.generation);
        let is_gone = current.is_none() && self.known;
        if is_gone || self.variant_key.is_none() && !is_same {
            // None of the variants that there were is found again.
            primary.generation = draw();
        }
        let (mut beside, mut displaced) = (None, None);
        if let Some(key) = self.variant_key {
            let others = self.place(&mut primary, page, current, key, is_same)?;
            displaced = others.displaced;
            if others.is_beside {
                beside = Some(self.variant(page, key, packed)?);
            }
        } else if is_same {
            join(&mut primary, current.map(|(_, head)| head));
        }
        Ok(Writes {
            primary: self.primary(&primary, page, packed)?,
            beside,
            displaced,
        })
    }

    /// Replaces what is of this generation, and nothing else.
    async fn put_fenced(&self, page: &StoredPage, packed: &Body, generation: u64) -> Result<bool> {
        let cache = &self.config.cache;
        let backend = cache.backend();
        let mut _turn = None;
        if self.variant_key.is_some() {
            _turn = Some(self.config.turns.of(self.key).await);
        }
        // What was there is likely to be there still.
        let mut expected = self.ground.entry().cloned();
        for round in 0..TRIES {
            let entry = match expected.take() {
                Some(entry) => entry,
                None => match backend.get(self.key).await? {
                    Some(entry) => entry,
                    None => return Ok(false),
                },
            };
            let current = match Standing::of(cache, self.key, &entry) {
                Standing::Page(head) if head.generation == generation => Some(*head),
                Standing::Lease(lease) if lease == generation => None,
                _ => return Ok(false),
            };
            if round > 0 {
                // Not at first: whose clock is behind would never store anything.
                let there = self.of_its_kind(&entry, page);
                if there.is_some_and(|there| there.stored_at > page.stored().stored_at) {
                    return Ok(true);
                }
            }
            let current = current.map(|head| (entry.clone(), head));
            let mut primary = page.head();
            let mut others = Others::default();
            match self.variant_key {
                Some(key) => others = self.place(&mut primary, page, current, key, true)?,
                None => join(&mut primary, current.map(|(_, head)| head)),
            }
            let (primary, lasts) = self.primary(&primary, page, packed)?;
            if let Some(key) = self.variant_key.filter(|_| others.is_beside) {
                // First: if it fails, nothing is replaced. Its key, or what it says, is of the generation.
                self.replace_older(self.variant(page, key, packed)?).await?;
            }
            let replacing = backend.compare_and_set(self.key, &entry, primary, lasts);
            if replacing.await? {
                // Once it is known that it was what is displaced.
                self.give_place(others.displaced).await;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Joins a primary entry for the page of `key` with the one that there is, and says what goes into others.
    fn place(
        &self,
        primary: &mut StoredPage,
        page: &StoredPage,
        current: Option<(Entry, StoredPage)>,
        key: &Key,
        is_same: bool,
    ) -> Result<Others> {
        let now = page.stored().stored_at;
        let (entry, last) = match &current {
            Some((entry, head)) => (Some(entry.clone()), head.own_key.clone()),
            None => (None, None),
        };
        join(primary, current.map(|(_, head)| head));
        let own = VariantMark::new(key, page.kept_until);
        let mut others = Others::default();
        if let Some(was_known) = self.admit(primary, own, now, is_same) {
            // What is there of it would come back once this one is displaced.
            let may_be_there = was_known && last.as_ref() != Some(key);
            others.is_beside = !self.inlines() || may_be_there || self.is_unguarded();
            primary.own_key = (!others.is_beside).then(|| key.clone());
        }
        if let (Some(entry), Some(last)) = (entry, last.filter(|last| last != key)) {
            if !is_same && self.of_its_kind(&entry, page).is_some() {
                // Its key is of another generation, and the page takes its place.
                let last = VariantMark::new(&last, None);
                primary.variants.retain(|mark| !mark.is_of(last));
                return Ok(others);
            }
            others.displaced = self.displaced(&entry, last, primary, now)?;
        }
        Ok(others)
    }

    /// The response that a primary entry holds for the requests that get this page.
    fn of_its_kind(&self, entry: &Entry, page: &StoredPage) -> Option<StoredResponse> {
        let opened = StoredPage::open(&self.config.cache, self.key, entry.bytes());
        let (there, own) = (opened.ok()?.0.response?, page.stored());
        let is_one = there.selection == own.selection
            && there
                .varied
                .iter()
                .map(Varied::print)
                .eq(own.varied.iter().map(Varied::print));
        is_one.then_some(there)
    }

    /// What a primary entry holds that another one replaces, for a place of its own; nothing if its time is
    /// over.
    fn displaced(
        &self,
        entry: &Entry,
        key: Key,
        primary: &StoredPage,
        now: SystemTime,
    ) -> Result<Option<Write>> {
        let cache = &self.config.cache;
        let own = VariantMark::new(&key, None);
        let mark = primary.variants.iter().find(|mark| mark.is_of(own));
        let (Some(mark), Ok((page, body))) =
            (mark, StoredPage::open(cache, self.key, entry.bytes()))
        else {
            return Ok(None);
        };
        let variant = StoredPage {
            variants: Vec::new(),
            own_key: None,
            kept_until: mark.kept_until(),
            ..page.head()
        };
        // The one in its place may have taken long to come.
        let lasts = lifetime(&variant, cache.clock().now());
        if lasts == Lifetime::For(Duration::ZERO) {
            return Ok(None);
        }
        let entry = variant.encode(cache, &key, now, page.response.as_ref(), &body)?;
        Ok(Some((key, entry, lasts)))
    }

    /// Stores what was displaced, unless something newer is there. Without it there is a variant less.
    async fn give_place(&self, displaced: Option<Write>) {
        let Some((key, entry, lasts)) = displaced else {
            return;
        };
        let placing = async {
            let backend = self.config.cache.backend();
            if backend.add(&key, entry.clone(), lasts).await? {
                return Ok(());
            }
            // Of a writer that this one did not see, or of one that did not come to its end.
            self.replace_older((key, entry, lasts)).await
        };
        if let Err(error) = placing.await {
            observe::failed(self.config.cache.name(), "page", &error);
        }
    }

    /// Stores a variant, unless one of the same generation is there that is newer.
    async fn replace_older(&self, (key, entry, lasts): Write) -> Result<()> {
        let (cache, backend) = (&self.config.cache, self.config.cache.backend());
        let Some(there) = backend.get(&key).await? else {
            return backend.add(&key, entry, lasts).await.map(drop);
        };
        let made = |entry: &Entry| {
            let (page, _) = StoredPage::open(cache, &key, entry.bytes()).ok()?;
            let generation = page.generation;
            page.response
                .map(|response| (generation, response.stored_at))
        };
        if let (Some(there), Some(own)) = (made(&there), made(&entry))
            && there.0 == own.0
            && there.1 >= own.1
        {
            return Ok(());
        }
        if cache.capabilities().compares {
            let replacing = backend.compare_and_set(&key, &there, entry, lasts);
            return replacing.await.map(drop);
        }
        backend.set(&key, entry, lasts).await
    }

    /// Whether other processes may replace a primary entry unseen: then no variant is in it alone.
    fn is_unguarded(&self) -> bool {
        let capabilities = self.config.cache.capabilities();
        capabilities.shared && !capabilities.compares
    }

    /// The primary entry to store.
    fn primary(
        &self,
        primary: &StoredPage,
        page: &StoredPage,
        packed: &Body,
    ) -> Result<(Entry, Lifetime)> {
        let now = page.stored().stored_at;
        let response = page.response.as_ref().filter(|_| self.inlines());
        let entry = primary.encode(&self.config.cache, self.key, now, response, packed)?;
        Ok((entry, lifetime(primary, now)))
    }

    /// The entry of a page beside the primary one.
    fn variant(&self, page: &StoredPage, key: &Key, packed: &Body) -> Result<Write> {
        let now = page.stored().stored_at;
        let cache = &self.config.cache;
        let entry = page.encode(cache, key, now, page.response.as_ref(), packed)?;
        Ok((key.clone(), entry, lifetime(page, now)))
    }

    /// Whether primary entries hold a response.
    fn inlines(&self) -> bool {
        self.config.page_keys.inlines()
    }

    /// Lets the primary entry remember a page by this mark, if it may have an entry of its own. Whether it was
    /// known already.
    fn admit(
        &self,
        primary: &mut StoredPage,
        own: VariantMark,
        now: SystemTime,
        is_same: bool,
    ) -> Option<bool> {
        let variants = &mut primary.variants;
        let was_known = variants.iter().any(|other| other.is_of(own));
        variants.retain(|other| !other.is_over(now) && !other.is_of(own));
        // Its key is of the generation that it was made for: under another one nobody finds it.
        let has_room = is_same && variants.len() < self.most;
        (has_room || was_known || !self.inlines()).then(|| {
            variants.push(own);
            was_known
        })
    }

    /// The primary entry that there is now, and what it says.
    async fn current(&self) -> Option<(Entry, StoredPage)> {
        let cache = &self.config.cache;
        let entry = cache.fetch(self.key).await.ok()??;
        let head = StoredPage::decode_head(cache, self.key, entry.bytes()).ok()?;
        Some((entry, head))
    }
}

/// Joins a page with the primary entry that there is.
fn join(page: &mut StoredPage, current: Option<StoredPage>) {
    let Some(current) = current else { return };
    page.generation = current.generation;
    page.variants = current.variants;
    let own = std::mem::take(&mut page.vary);
    page.vary = union(own.into_iter().chain(current.vary));
    let both = page.kept_until.zip(current.kept_until);
    page.kept_until = both.map(|(one, other)| one.max(other));
}

/// For how long the store keeps a page.
fn lifetime(page: &StoredPage, now: SystemTime) -> Lifetime {
    page.kept_until.map_or(Lifetime::Forever, |until| {
        Lifetime::For(until.duration_since(now).unwrap_or_default())
    })
}
