//! What was decoded of entries that a store elsewhere is asked for again and again.
//!
//! # Invariants
//!
//! - The store is asked each time, and has the last word: what was decoded before serves only where it answers
//!   with the same bytes under the same key, all of them compared.
//! - What is remembered is bounded, in number and in bytes, and in memory of its own. Of what was read once,
//!   nothing is: a flood of that puts nothing out that is in use.
//! - No reader waits for others: who finds them at it decodes.

use std::fmt;
use std::hash::BuildHasher;
use std::slice;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use foldhash::quality::RandomState;

use super::{Cache, Reach};
use crate::entry::{Entry, is_lease};
use crate::key::Key;

/// What is remembered is divided by the hash of its key.
const BUCKETS: usize = 64;

/// How many entries a bucket has at most.
const ENTRIES: usize = 4;

/// How many bytes these take at most, as they are stored, and unpacked: what was made of them comes on top.
const BUCKET_BYTES: usize = 256 << 10;

/// How many reads of others an entry outlasts.
const MAX_CREDIT: u8 = 3;

/// How many reads of others a bucket knows of.
const SIGHTS: usize = 8;

/// How many bytes at its start, and at its end, tell one content from another, mostly. The proof of what is sealed is
/// among them.
const SIGHT_BYTES: usize = 24;

/// The entries of one cache.
pub(super) struct Recent {
    hasher: RandomState,
    buckets: Vec<Mutex<Bucket>>,
}

#[derive(Default)]
struct Bucket {
    held: Vec<Held>,
    /// What was read and is not held, the latest of it.
    sights: [u64; SIGHTS],
    next: usize,
}

struct Held {
    key: Key,
    entry: Entry,
    /// How often it was read lately.
    credit: u8,
}

impl Cache {
    /// What the store has under `key`; as it was decoded before, if it was.
    pub(super) fn recognised(&self, key: &Key, entry: Option<Entry>) -> Option<Entry> {
        let Some(recent) = &self.shared.recent else {
            return entry;
        };
        if entry.is_none() {
            recent.forget(Reach::Keys(slice::from_ref(key)));
        }
        Some(recent.recognised(key, entry?))
    }
}

impl Recent {
    fn recognised(&self, key: &Key, entry: Entry) -> Entry {
        // What has another holder, such as a near tier, is decoded once there.
        let is_ready = entry.is_decoded() || entry.is_shared();
        if is_ready || entry.weight() > BUCKET_BYTES || is_lease(entry.bytes()) {
            return entry;
        }
        let (hash, bucket) = self.bucket_of(key);
        let Ok(mut locked) = bucket.try_lock() else {
            return entry;
        };
        let Some(held) = locked.held.iter_mut().find(|held| held.key == *key) else {
            let sight = self.hasher.hash_one((hash, sight_of(entry.bytes())));
            let (entry, _gone) = locked.sighted(key, entry, sight);
            // Before what is gone is freed, which may be large.
            drop(locked);
            return entry;
        };
        held.credit = MAX_CREDIT.min(held.credit + 1);
        let held = held.entry.clone();
        // Others need not wait for the comparison.
        drop(locked);
        if held.bytes() == entry.bytes() {
            return held;
        }
        let is_it = |other: &Held| other.entry.is_same(&held);
        let _gone = lock(bucket).take(is_it);
        entry
    }

    /// Lets go what was removed.
    pub(super) fn forget(&self, reach: Reach<'_>) {
        match reach {
            Reach::Keys(keys) => {
                for key in keys {
                    let (_, bucket) = self.bucket_of(key);
                    let _gone = lock(bucket).take(|held| held.key == *key);
                }
            }
            Reach::Prefix(prefix) => {
                let is_below = |held: &Held| held.key.as_str().starts_with(prefix);
                for bucket in &self.buckets {
                    let gone = || lock(bucket).take(is_below);
                    // Each is freed once the bucket is free.
                    while gone().is_some() {}
                }
            }
        }
    }

    fn bucket_of(&self, key: &Key) -> (u64, &Mutex<Bucket>) {
        let hash = self.hasher.hash_one(key.as_str());
        let index = usize::try_from(hash % self.buckets.len() as u64).unwrap_or(0);
        (hash, &self.buckets[index])
    }
}

/// Nothing of a caller's runs while it is locked, and nothing is half done.
fn lock(bucket: &Mutex<Bucket>) -> MutexGuard<'_, Bucket> {
    bucket.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What tells one content from another, mostly.
fn sight_of(bytes: &[u8]) -> (&[u8], &[u8]) {
    let length = bytes.len().min(SIGHT_BYTES);
    (&bytes[..length], &bytes[bytes.len() - length..])
}

impl Bucket {
    fn take(&mut self, is_it: impl Fn(&Held) -> bool) -> Option<Held> {
        let position = self.held.iter().position(is_it)?;
        Some(self.held.swap_remove(position))
    }

    /// An entry that is not held; it is from now on, if it was seen lately and there is room for it. And what is
    /// held no more.
    fn sighted(&mut self, key: &Key, entry: Entry, sight: u64) -> (Entry, Vec<Held>) {
        if !self.sights.contains(&sight) {
            self.sights[self.next % SIGHTS] = sight;
            self.next = self.next.wrapping_add(1);
            return (entry, Vec::new());
        }
        let Some(gone) = self.room(entry.weight()) else {
            return (entry, Vec::new());
        };
        // It may be a slice of all that was read.
        let own = Entry::new(Bytes::copy_from_slice(entry.bytes()));
        self.held.push(Held {
            key: key.clone(),
            entry: own.clone(),
            credit: 1,
        });
        (own, gone)
    }

    /// Makes room for so many bytes, if that is there beside what has been read lately. What it is in the place of.
    fn room(&mut self, bytes: usize) -> Option<Vec<Held>> {
        let in_use = self.held.iter().filter(|held| held.credit > 0);
        if in_use.clone().count() == ENTRIES || weight_of(in_use) + bytes > BUCKET_BYTES {
            for held in &mut self.held {
                held.credit = held.credit.saturating_sub(1);
            }
            return None;
        }
        let mut gone = Vec::new();
        while self.held.len() == ENTRIES || weight_of(&self.held) + bytes > BUCKET_BYTES {
            gone.push(self.take(|held| held.credit == 0)?);
        }
        Some(gone)
    }
}

fn weight_of<'a>(held: impl IntoIterator<Item = &'a Held>) -> usize {
    held.into_iter().map(|held| held.entry.weight()).sum()
}

impl Default for Recent {
    fn default() -> Self {
        Self {
            hasher: RandomState::default(),
            buckets: (0..BUCKETS).map(|_| Mutex::default()).collect(),
        }
    }
}

/// Says nothing of what is in it.
impl fmt::Debug for Recent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recent").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use std::sync::{Arc, Weak};

    use proptest::prelude::*;
    use xxhash_rust::xxh3::xxh3_64;

    use super::*;
    use crate::entry::lease;
    use crate::key::KeySpace;

    fn key(name: &str) -> Key {
        KeySpace::default().key(1, name).unwrap()
    }

    fn one_bucket() -> Recent {
        Recent {
            buckets: [Mutex::default()].into(),
            ..Recent::default()
        }
    }

    fn held(recent: &Recent) -> Vec<String> {
        let key_of = |held: &Held| held.key.as_str().to_owned();
        let held = recent.buckets.iter().map(|bucket| {
            let bucket = lock(bucket);
            bucket.held.iter().map(key_of).collect::<Vec<_>>()
        });
        held.flatten().collect()
    }

    /// Reads an entry as a store gives it, and leaves a decoded form in it; the one that was there before, if one was.
    fn read(recent: &Recent, name: &str, bytes: &[u8]) -> Option<String> {
        let entry = Entry::new(bytes.to_vec());
        let known = recent.recognised(&key(name), entry);
        assert_eq!(known.bytes(), bytes);
        let before = known.decoded::<String>();
        let form = format!("{name}={:x}", xxh3_64(bytes));
        known.decoded_as(Arc::new(form.clone()));
        before.map(|before| {
            assert_eq!(*before, form);
            form
        })
    }

    #[test]
    fn what_is_read_again_is_decoded_once_more_and_then_known() {
        let recent = Recent::default();
        let known = [(); 4].map(|()| read(&recent, "page", b"of this form").is_some());
        assert_eq!(known, [false, false, true, true]);
    }

    #[test]
    fn what_has_changed_is_another_one_until_it_is_read_again() {
        let recent = Recent::default();
        for _ in 0..3 {
            read(&recent, "page", b"of this form");
        }
        for bytes in ["of that form", "of this form and more", "of this", ""] {
            assert_eq!(read(&recent, "page", bytes.as_bytes()), None, "{bytes}");
        }
        let known = [(); 3].map(|()| read(&recent, "page", b"of that form").is_some());
        assert_eq!(known, [false, false, true]);
    }

    #[test]
    fn what_is_in_use_outlasts_a_flood_and_the_flood_leaves_nothing() {
        let recent = Recent::default();
        let mut misses = 0;
        for number in 0..20_000_u32 {
            let once = number.to_be_bytes();
            assert_eq!(read(&recent, &format!("once:{number}"), &once), None);
            if number % 10 == 0 {
                let in_use = read(&recent, &format!("hot:{}", number / 10 % 20), b"hot");
                misses += usize::from(in_use.is_none());
            }
        }
        // Of 2,000 reads; two of each before it is known, and some where what is between is more than is seen.
        assert!(misses < 200, "{misses}");
        assert!(held(&recent).iter().all(|key| key.contains("hot")));
    }

    #[test]
    fn of_two_for_which_there_is_no_room_one_is_known() {
        let recent = one_bucket();
        let large = [1, 2].map(|content| vec![content; 200 << 10]);
        let mut known = [0, 0];
        for _ in 0..20 {
            for (known, bytes) in known.iter_mut().zip(&large) {
                let name = format!("large:{}", bytes[0]);
                *known += usize::from(read(&recent, &name, bytes).is_some());
            }
        }
        assert_eq!(known, [18, 0]);
        // Until it is not read any more.
        let known = [(); 6].map(|()| read(&recent, "large:2", &large[1]).is_some());
        assert_eq!(known, [false, true, true, true, true, true]);
    }

    #[test]
    fn nothing_goes_for_what_there_is_no_room_for() {
        let recent = one_bucket();
        for _ in 0..5 {
            read(&recent, "in use", &vec![1; 200 << 10]);
        }
        for name in ["small", "too large", "too large", "small", "small"] {
            let bytes = vec![2; if name == "small" { 10 } else { 100 << 10 }];
            read(&recent, name, &bytes);
        }
        for (name, bytes) in [("in use", vec![1; 200 << 10]), ("small", vec![2; 10])] {
            assert!(read(&recent, name, &bytes).is_some(), "{name}");
        }
    }

    #[test]
    fn what_changes_at_its_end_is_not_kept_each_time() {
        let recent = Recent::default();
        for visits in 0..100 {
            let value = format!("a text that is the same for a while, and then is not: {visits}");
            read(&recent, "changing", value.as_bytes());
        }
        assert_eq!(held(&recent), [""; 0]);
    }

    #[test]
    fn leases_and_what_a_near_tier_has_take_no_place() {
        let recent = Recent::default();
        for _ in 0..4 {
            let near = Entry::new("of this form");
            assert!(recent.recognised(&key("near"), near.clone()).is_same(&near));
            recent.recognised(&key("lease"), Entry::new(lease(7)));
        }
        assert_eq!(held(&recent), [""; 0]);
    }

    #[test]
    fn what_is_removed_is_kept_no_longer() {
        let page = [key("page")];
        let namespace = page[0].namespace();
        for removed in [Reach::Keys(&page), Reach::Prefix(namespace)] {
            let recent = Recent::default();
            let mut known = Weak::new();
            for _ in 0..3 {
                let entry = recent.recognised(&page[0], Entry::new("of this form"));
                let form = entry.decoded::<i32>();
                let form = form.unwrap_or_else(|| entry.decoded_as(Arc::new(7)));
                known = Arc::downgrade(&form);
            }
            recent.forget(Reach::Keys(&[key("other")]));
            recent.forget(Reach::Prefix("other"));
            assert!(known.upgrade().is_some());
            recent.forget(removed);
            assert!(known.upgrade().is_none());
        }
    }

    #[test]
    fn what_another_one_holds_up_is_decoded() {
        let recent = Recent::default();
        for _ in 0..3 {
            read(&recent, "page", b"of this form");
        }
        let all: Vec<_> = recent.buckets.iter().map(Mutex::lock).collect();
        assert_eq!(read(&recent, "page", b"of this form"), None);
        drop(all);
        assert!(read(&recent, "page", b"of this form").is_some());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// [`read`] checks that nothing is ever taken for anything else.
        #[test]
        fn it_is_bounded_and_never_wrong(
            reads in prop::collection::vec((0_u8..20, 0_u8..3, 0_usize..6), 1..100),
        ) {
            let recent = one_bucket();
            for (name, content, size) in reads {
                let bytes = vec![content; [0, 1, 30, 1000, 100 << 10, 300 << 10][size]];
                read(&recent, &format!("{name}"), &bytes);
                let bucket = recent.buckets[0].lock().unwrap();
                prop_assert!(bucket.held.len() <= ENTRIES && weight_of(&bucket.held) <= BUCKET_BYTES);
            }
        }
    }
}
