//! A place in the store that a computation is to fill, and that an invalidation takes from it.
//!
//! In one process, the table of fills says what was invalidated since a fill began. Across processes
//! the store does: a fill replaces exactly what was there when it began, by compare-and-set. Where
//! nothing was there, it first puts a *lease* there, which a `delete` removes like any entry.
//!
//! # Invariants
//!
//! - Who computes began a fill before, and holds its place; what was invalidated meanwhile, by any
//!   process, is not stored.
//! - A lease is a miss to every reader, ends by itself, and is renewed while its holder computes. It
//!   says who computes, but several may: it keeps stale values out, not computations.
//! - What is there is kept there while it is computed anew, if it says itself until when it is of use:
//!   that it has gone then means that it was invalidated.
//! - What another one has stored is an answer only if it is of the type that is asked for, and has the
//!   tags that it is to have; otherwise it is replaced.
//! - Where the store cannot be asked, the value is returned and not stored.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinSet;

use super::Cache;
use super::look::{Found, Look, Value};
use crate::entry::{Entry, is_lease, lease};
use crate::error::{Error, Result};
use crate::fence::Fill;
use crate::flight::Moment;
use crate::key::{Key, digest};
use crate::observe;
use crate::tag::draw;
use crate::ttl::Lifetime;

/// How long a lease lasts that nobody waits for; it is renewed.
const LEASE: Duration = Duration::from_secs(10);

/// How long a lease lasts that has been given back.
pub(super) const OVER: Duration = Duration::from_millis(1);

/// How often it is tried to write where what is held is, or was until it expired.
const WRITES: usize = 3;

/// How often a place is tried that is neither free nor taken.
pub(super) const TRIES: usize = 16;

/// The time between two looks at another one's lease, at first and at most.
const FIRST_LOOK: Duration = Duration::from_millis(5);
const LAST_LOOK: Duration = Duration::from_millis(40);

/// Whether an entry is of the type that is asked for.
pub(super) type Decodes = fn(&Cache, &Entry) -> bool;

/// A place to fill.
#[derive(Debug)]
pub(super) struct Place {
    cache: Cache,
    pub(super) key: Key,
    fill: Fill,
    decodes: Decodes,
    holds: Holds,
    lease: Duration,
    /// Others wait for this one, rather than to compute the same.
    is_awaited: bool,
    /// The lease on computing anew what is there already, and its key.
    turn: Option<(Key, Entry)>,
}

/// What the place is held by.
#[derive(Debug)]
enum Holds {
    /// The table of this process alone; nothing was there.
    Nothing,
    /// The table of this process alone; what was there may be replaced.
    Anything,
    /// What was there.
    Entry(Entry),
    /// A lease of ours, or of another process that computes the same.
    Lease { entry: Entry, is_ours: bool },
    /// It is not: nothing may be stored.
    Lost,
}

/// How taking a place ended.
pub(super) enum Taken {
    Place(Box<Place>),
    /// Somebody has computed it meanwhile.
    Found(Seen),
}

/// What was found, and when it was looked for.
pub(super) type Seen = (Value, Moment);

/// Whether a place is still what it was when it was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Held,
    /// Somebody has invalidated it, or stored something there.
    Gone,
    Unknown,
}

/// What became of a value that was to be stored.
#[derive(Debug)]
pub(super) enum Landed {
    Stored,
    /// As a stale one: it was expired by a tag while it was computed.
    Expired,
    /// It is not to be stored.
    Unwanted,
    /// Another one's is there and counts.
    Other(Value),
    /// It was invalidated while it was computed.
    Invalidated,
    Failed(Error),
    /// The place could not be taken.
    Lost,
}

impl Cache {
    /// Takes the place of `key`, where `raw` was found. With a `lease` only one process computes, as
    /// far as can be known; the others wait here for its value, at most for `patience`.
    pub(super) async fn take_place(
        &self,
        key: &Key,
        fill: Fill,
        decodes: Decodes,
        found: Option<Entry>,
        lease: Option<Duration>,
        patience: Duration,
    ) -> Taken {
        let mut place = Place {
            lease: lease.unwrap_or(LEASE).max(OVER),
            is_awaited: lease.is_some(),
            ..Place::lost(self, key, fill, decodes)
        };
        let capabilities = self.capabilities();
        if !capabilities.compares || !capabilities.shared {
            place.holds = match found {
                Some(entry) if capabilities.compares => Holds::Entry(entry),
                Some(_) => Holds::Anything,
                None => Holds::Nothing,
            };
            return Taken::Place(Box::new(place));
        }
        let taking = async {
            match lease {
                None => place.take(found).await,
                Some(_) => place.take_turn(found, patience).await,
            }
        };
        match taking.await {
            Ok(None) => {}
            Ok(Some(seen)) => return Taken::Found(seen),
            Err(error) => {
                observe::failed(self.name(), "get_or_set", &error);
                place.holds = Holds::Lost;
            }
        }
        Taken::Place(Box::new(place))
    }

    /// What was found, as an answer to who asks this handle for a value that `decodes`.
    pub(super) fn answer(&self, look: Look, decodes: Decodes) -> Look {
        let mut look = look.having(&self.tags);
        if let Found::Fresh(value) = &look.found
            && !decodes(self, &value.entry)
        {
            look.found = Found::Nothing("corrupt");
        }
        look
    }
}

impl Holds {
    fn ours(lease: Entry) -> Self {
        Self::Lease {
            entry: lease,
            is_ours: true,
        }
    }
}

impl Place {
    /// One that could not be taken: nothing is stored there.
    pub(super) fn lost(cache: &Cache, key: &Key, fill: Fill, decodes: Decodes) -> Self {
        Self {
            cache: cache.clone(),
            key: key.clone(),
            fill,
            decodes,
            holds: Holds::Lost,
            lease: LEASE,
            is_awaited: false,
            turn: None,
        }
    }

    /// Whether the key was invalidated in this process since the fill began.
    pub(super) fn is_barred(&self) -> bool {
        self.fill.is_barred()
    }

    fn held(&self) -> Option<&Entry> {
        match &self.holds {
            Holds::Entry(entry) | Holds::Lease { entry, .. } => Some(entry),
            Holds::Nothing | Holds::Anything | Holds::Lost => None,
        }
    }

    /// Holds the place by what is there, or by a lease; or else what was computed meanwhile.
    async fn take(&mut self, found: Option<Entry>) -> Result<Option<Seen>> {
        if let Some(entry) = found {
            self.holds = Holds::Entry(entry);
            return Ok(None);
        }
        for _ in 0..TRIES {
            let lease = Entry::new(lease(draw()));
            if self.add(&self.key, &lease).await? {
                self.holds = Holds::ours(lease);
                return Ok(None);
            }
            let as_of = self.cache.shared.flights.mark();
            let look = self.look().await?;
            self.holds = match (look.raw, look.found) {
                (_, Found::Fresh(value)) => return Ok(Some((value, as_of))),
                (Some(entry), _) if is_lease(entry.bytes()) => Holds::Lease {
                    entry,
                    is_ours: false,
                },
                (Some(entry), _) => Holds::Entry(entry),
                // It has just gone.
                (None, _) => continue,
            };
            return Ok(None);
        }
        self.holds = Holds::Lost;
        Ok(None)
    }

    /// As [`take`](Self::take), once no other process computes.
    async fn take_turn(
        &mut self,
        found: Option<Entry>,
        patience: Duration,
    ) -> Result<Option<Seen>> {
        let waiting = self.wait_for_turn(found.clone());
        if let Ok(outcome) = tokio::time::timeout(patience, waiting).await {
            return outcome;
        }
        self.take(found).await
    }

    async fn wait_for_turn(&mut self, mut found: Option<Entry>) -> Result<Option<Seen>> {
        let mut pause = FIRST_LOOK;
        loop {
            if let Some(entry) = found {
                // What is there stays there while it is computed anew, so the lease is beside it.
                // A digest, as that fits whatever the policy for keys.
                let beside = format!("lease:{}", digest(self.key.as_str()));
                let beside = self.cache.own_key(&beside)?;
                let lease = Entry::new(lease(draw()));
                if self.add(&beside, &lease).await? {
                    self.turn = Some((beside, lease));
                    self.holds = Holds::Entry(entry);
                    // The one before may have ended since.
                    let look = self.look().await?;
                    if look.raw.as_ref() == self.held() {
                        return Ok(None);
                    }
                    self.give_back_turn().await;
                    self.turn = None;
                }
            } else {
                let lease = Entry::new(lease(draw()));
                if self.add(&self.key, &lease).await? {
                    self.holds = Holds::ours(lease);
                    return Ok(None);
                }
            }
            // Not all at the same time.
            tokio::time::sleep(pause.mul_f64(0.5 + crate::policy::chance())).await;
            pause = (pause * 2).min(LAST_LOOK);
            let as_of = self.cache.shared.flights.mark();
            let look = self.look().await?;
            found = match look.found {
                Found::Fresh(value) => return Ok(Some((value, as_of))),
                _ => look.raw.filter(|entry| !is_lease(entry.bytes())),
            };
        }
    }

    /// The entry that is to be replaced, if it may expire before that: it would be taken for
    /// invalidated.
    fn mortal_entry(&self) -> Option<&Entry> {
        let Holds::Entry(entry) = &self.holds else {
            return None;
        };
        let is_shared = self.cache.capabilities().shared;
        let is_mortal = || self.cache.kept_for(&self.key, entry).is_some();
        (is_shared && is_mortal()).then_some(entry)
    }

    /// Stores `entry`, unless the place was taken away. It is to be given back, or its turn is.
    pub(super) async fn land(&self, entry: Entry, lifetime: Lifetime) -> Landed {
        let landed = self.fill.land(self.write(entry, lifetime)).await;
        match landed {
            Some(Ok(landed)) => landed,
            Some(Err(error)) => Landed::Failed(error),
            // By who has removed what was there, or has stored something newer.
            None => match self.look().await {
                Ok(look) => look.fresh().map_or(Landed::Invalidated, Landed::Other),
                Err(_) => Landed::Invalidated,
            },
        }
    }

    /// What has become of it by now, though nothing was stored in it.
    pub(super) async fn standing(&self) -> Standing {
        let is_held = match &self.holds {
            // What is read may be behind what is written to; and the lease is needed until it is given
            // back.
            Holds::Lease { entry, .. } => renew(&self.cache, &self.key, entry, self.lease).await,
            Holds::Entry(entry) => {
                let present = self.cache.backend().get(&self.key).await;
                present.map(|present| present.as_ref() == Some(entry))
            }
            Holds::Nothing | Holds::Anything | Holds::Lost => return Standing::Unknown,
        };
        match is_held {
            Ok(true) => Standing::Held,
            Ok(false) => Standing::Gone,
            Err(_) => Standing::Unknown,
        }
    }

    async fn write(&self, entry: Entry, lifetime: Lifetime) -> Result<Landed> {
        let backend = self.cache.backend();
        let mut held = self.held();
        for _ in 0..WRITES {
            let entry = entry.clone();
            let stored = match (&self.holds, held) {
                (Holds::Lost, _) => return Ok(Landed::Lost),
                (Holds::Anything, _) => {
                    backend.set(&self.key, entry, lifetime).await?;
                    true
                }
                (_, None) => backend.add(&self.key, entry, lifetime).await?,
                (_, Some(held)) => {
                    let replacing = backend.compare_and_set(&self.key, held, entry, lifetime);
                    replacing.await?
                }
            };
            if stored {
                return Ok(Landed::Stored);
            }
            let look = self.look().await?;
            if look.raw.is_none() && !self.cache.capabilities().shared {
                // It has expired: the table says that it was not invalidated.
                held = None;
            } else if look.raw.as_ref() != held {
                return Ok(look.fresh().map_or(Landed::Invalidated, Landed::Other));
            }
            // Or it was renewed at the same time.
        }
        Ok(Landed::Invalidated)
    }

    /// Lets others take the place: there is nothing to store.
    pub(super) async fn give_back(&self) {
        self.give_back_lease().await;
        self.give_back_turn().await;
    }

    async fn give_back_lease(&self) {
        // Another process may compute in the place of a lease that nobody waits for, and would lose
        // its own value: such a one runs out by itself.
        if let Holds::Lease { entry, is_ours } = &self.holds
            && *is_ours
            && self.is_awaited
        {
            let _ = renew(&self.cache, &self.key, entry, OVER).await;
        }
    }

    /// Lets others compute anew, once something is stored.
    pub(super) async fn give_back_turn(&self) {
        if let Some((key, lease)) = &self.turn {
            let _ = renew(&self.cache, key, lease, OVER).await;
        }
    }

    /// What holds the place, or its turn, as long as it runs: it never ends.
    fn renewals(&self) -> Vec<impl Future<Output = ()> + Send + use<>> {
        let own = self.mortal_entry().map(|entry| (&self.key, entry));
        let all = self.leases().into_iter().chain(own);
        all.map(|(key, entry)| {
            renew_always(self.cache.clone(), key.clone(), entry.clone(), self.lease)
        })
        .collect()
    }

    fn leases(&self) -> Vec<(&Key, &Entry)> {
        let own = match &self.holds {
            Holds::Lease { entry, .. } => Some((&self.key, entry)),
            _ => None,
        };
        let beside = self.turn.as_ref().map(|(key, lease)| (key, lease));
        own.into_iter().chain(beside).collect()
    }

    async fn add(&self, key: &Key, lease: &Entry) -> Result<bool> {
        let (backend, lifetime) = (self.cache.backend(), Lifetime::For(self.lease));
        backend.add(key, lease.clone(), lifetime).await
    }

    /// What is there, as an answer to who asked: what is none is only an entry to replace.
    async fn look(&self) -> Result<Look> {
        let entry = self.cache.backend().get(&self.key).await?;
        let look = self.cache.judge(&self.key, entry, &Vec::new()).await?;
        Ok(self.cache.answer(look, self.decodes))
    }
}

/// Runs `computing`, and holds places meanwhile.
pub(super) async fn hold<T>(
    places: impl Iterator<Item = &Place>,
    computing: impl Future<Output = T>,
) -> T {
    // In tasks of their own, which end with this: however long the store takes to renew them, the
    // computation goes on.
    let renewing: JoinSet<()> = places.flat_map(Place::renewals).collect();
    let computed = computing.await;
    drop(renewing);
    computed
}

/// Renews a lease, or what is to be replaced and may expire before.
async fn renew_always(cache: Cache, key: Key, entry: Entry, lease: Duration) {
    let third = lease / 3;
    let left = || cache.kept_for(&key, &entry);
    let mut pause = left().map_or(third, |left| third.min(left / 2));
    loop {
        tokio::time::sleep(pause).await;
        pause = third;
        // What says itself until when it is of use may be there for longer.
        if left().is_none_or(|left| left < lease) {
            // One that cannot be renewed, or is gone, shows when the value lands.
            let renewing = renew(&cache, &key, &entry, lease);
            let _ = tokio::time::timeout(third, renewing).await;
        }
    }
}

async fn renew(cache: &Cache, key: &Key, entry: &Entry, lifetime: Duration) -> Result<bool> {
    let (backend, lifetime) = (cache.backend(), Lifetime::For(lifetime));
    let renewed = backend.compare_and_set(key, entry, entry.clone(), lifetime);
    renewed.await
}
