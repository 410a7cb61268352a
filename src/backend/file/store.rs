//! The operations on files, blocking; [`File`](super::File) runs them off the reactor.
//!
//! # Invariants
//!
//! - A file in place is never written to: it is replaced by a whole new one. Reads take no lock,
//!   and find the old or the new one at any time.
//! - Every change is made, and every temporary file lives, under the lock of its key. So one that
//!   is there when the lock is free belongs to a writer who died.
//! - Folders may go at any time; writing makes them anew.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::layout::{self, Layout, Own, Place};
use super::lock::Locks;
use super::record::{self, Record};
use super::replace::replace;
use super::sweep::Pace;
use super::{NAME, Options};
use crate::backend::parse_counter;
use crate::clock::Clock;
use crate::entry::Entry;
use crate::error::{ErrorKind, Result};
use crate::key::Key;
use crate::observe;
use crate::ttl::Lifetime;

/// How often a write begins anew when its folder goes meanwhile.
const ATTEMPTS: usize = 8;

#[derive(Debug)]
pub(super) struct Store {
    pub(super) layout: Layout,
    pub(super) locks: Locks,
    pub(super) options: Options,
    pub(super) pace: Pace,
    clock: Arc<dyn Clock>,
}

impl Store {
    pub(super) fn new(root: PathBuf, options: Options, clock: Arc<dyn Clock>) -> Self {
        let layout = Layout::new(root);
        Self {
            locks: Locks::new(layout.locks()),
            layout,
            options,
            pace: Pace::new(),
            clock,
        }
    }

    pub(super) fn get(&self, key: &Key) -> io::Result<Option<Entry>> {
        let place = self.layout.place(key);
        let Some(file) = read(&place.file)? else {
            return Ok(None);
        };
        let Some(record) = record::decode(&file) else {
            observe::corrupt(NAME, "get", "undecodable");
            // The miss stands, whether or not the file can be removed.
            let _ = self.remove_if(&place.file, place.stripe, || is_undecodable(&place.file));
            return Ok(None);
        };
        if record.key != key.as_str() {
            observe::corrupt(NAME, "get", "key");
        }
        let live = Some(record).filter(|record| self.is_live(record, key));
        Ok(live.map(|live| Entry::new(live.value)))
    }

    pub(super) fn ttl(&self, key: &Key) -> io::Result<Option<Lifetime>> {
        let live = self.live(&self.layout.place(key), key)?;
        Ok(live.and_then(|live| record::remaining(self.now(), live.expires)))
    }

    pub(super) fn set(&self, key: &Key, entry: &Entry, lifetime: Lifetime) -> io::Result<()> {
        let place = self.layout.place(key);
        let expires = record::expiry(self.now(), lifetime);
        let (_lock, stored) = match self.locks.lock(place.stripe) {
            Ok(lock) => (Some(lock), write(&place, key, expires, entry.bytes())),
            Err(error) => (None, Err(error)),
        };
        if stored.is_err() {
            // Without the lock too: rather nothing than an older value.
            let _ = layout::remove(&place.file);
        }
        stored
    }

    pub(super) fn add(&self, key: &Key, entry: &Entry, lifetime: Lifetime) -> io::Result<bool> {
        let place = self.layout.place(key);
        if self.live(&place, key)?.is_some() {
            return Ok(false);
        }
        let _lock = self.locks.lock(place.stripe)?;
        if self.live(&place, key)?.is_some() {
            return Ok(false);
        }
        let expires = record::expiry(self.now(), lifetime);
        write(&place, key, expires, entry.bytes())?;
        Ok(true)
    }

    pub(super) fn touch(&self, key: &Key, lifetime: Lifetime) -> io::Result<bool> {
        let place = self.layout.place(key);
        let _lock = self.locks.lock(place.stripe)?;
        let Some(live) = self.live(&place, key)? else {
            layout::remove(&place.file)?;
            return Ok(false);
        };
        let expires = record::expiry(self.now(), lifetime);
        write(&place, key, expires, &live.value)?;
        Ok(true)
    }

    pub(super) fn delete(&self, key: &Key) -> io::Result<bool> {
        let place = self.layout.place(key);
        let lock = self.locks.lock(place.stripe);
        let live = self.live(&place, key);
        // Without the lock too, and if it cannot be read: it has to go.
        let removed = layout::remove(&place.file)?;
        drop(lock?);
        Ok(removed && live?.is_some())
    }

    pub(super) fn incr(&self, key: &Key, delta: i64) -> io::Result<Result<i64>> {
        let place = self.layout.place(key);
        let _lock = self.locks.lock(place.stripe)?;
        let Some(live) = self.live(&place, key)? else {
            return Ok(Err(ErrorKind::KeyMissing.into()));
        };
        let sum = parse_counter(&live.value).and_then(|value| {
            let sum = value.checked_add(delta);
            sum.ok_or_else(|| ErrorKind::OutOfRange.into())
        });
        if let Ok(sum) = &sum {
            write(&place, key, live.expires, sum.to_string().as_bytes())?;
        }
        Ok(sum)
    }

    pub(super) fn compare_and_set(
        &self,
        key: &Key,
        expected: &Entry,
        entry: &Entry,
        lifetime: Lifetime,
    ) -> io::Result<bool> {
        let place = self.layout.place(key);
        let _lock = self.locks.lock(place.stripe)?;
        let live = self.live(&place, key)?;
        if live.is_none_or(|live| live.value != expected.bytes()) {
            return Ok(false);
        }
        let expires = record::expiry(self.now(), lifetime);
        write(&place, key, expires, entry.bytes())?;
        Ok(true)
    }

    pub(super) fn rename(&self, from: &Key, to: &Key) -> io::Result<bool> {
        let (old, new) = (self.layout.place(from), self.layout.place(to));
        let _locks = self.locks.both(old.stripe, new.stripe)?;
        let Some(live) = self.live(&old, from)? else {
            return Ok(false);
        };
        if old.file != new.file {
            write(&new, to, live.expires, &live.value)?;
            layout::remove(&old.file)?;
        }
        Ok(true)
    }

    /// Moves what goes to the trash; [`empty_trash`](Self::empty_trash) deletes it.
    pub(super) fn clear(&self, namespace: &str) -> io::Result<()> {
        if namespace.is_empty() {
            return self.flush();
        }
        {
            let _all = self.locks.all()?;
            self.move_to_trash(&self.layout.namespace(namespace))?;
        }
        self.clear_keys_without_namespace(namespace)
    }

    /// As [`clear`](Self::clear), for all namespaces.
    pub(super) fn flush(&self) -> io::Result<()> {
        let _all = self.locks.all()?;
        for folder in self.layout.namespaces()? {
            self.move_to_trash(&folder)?;
        }
        Ok(())
    }

    /// Removes a file if it is `doomed` under its lock. Whether it did.
    pub(super) fn remove_if(
        &self,
        file: &Path,
        stripe: usize,
        doomed: impl Fn() -> io::Result<bool>,
    ) -> io::Result<bool> {
        // Of a store that was deleted, not even a lock is made anew.
        if !file.try_exists()? {
            return Ok(false);
        }
        let _lock = self.locks.lock(stripe)?;
        Ok(doomed()? && layout::remove(file)?)
    }

    /// Wall time since 1970.
    pub(super) fn now(&self) -> Duration {
        let now = self.clock.now().duration_since(SystemTime::UNIX_EPOCH);
        now.unwrap_or_default()
    }

    fn live(&self, place: &Place, key: &Key) -> io::Result<Option<Record>> {
        let record = read(&place.file)?.and_then(|file| record::decode(&file));
        Ok(record.filter(|record| self.is_live(record, key)))
    }

    fn is_live(&self, record: &Record, key: &Key) -> bool {
        record.key == key.as_str() && record::remaining(self.now(), record.expires).is_some()
    }

    /// The keys of functions that promise no namespace may begin with this one all the same.
    fn clear_keys_without_namespace(&self, namespace: &str) -> io::Result<()> {
        let folder = self.layout.namespace("");
        for shard in layout::names(&folder)? {
            let shard = folder.join(shard);
            for name in layout::names(&shard)? {
                let file = shard.join(&name);
                let begins = || {
                    let record = read(&file)?.and_then(|file| record::decode(&file));
                    Ok(record.is_some_and(|it| it.key.starts_with(namespace.as_bytes())))
                };
                if let Some(Own::Entry { stripe }) = Own::parse(&name)
                    && begins()?
                {
                    self.remove_if(&file, stripe, begins)?;
                }
            }
        }
        Ok(())
    }
}

/// A whole file; `None` if it is not there.
pub(super) fn read(file: &Path) -> io::Result<Option<Bytes>> {
    match fs::read(file) {
        Ok(bytes) => Ok(Some(bytes.into())),
        Err(error) if layout::is_absent(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_undecodable(file: &Path) -> io::Result<bool> {
    Ok(read(file)?.is_some_and(|file| record::decode(&file).is_none()))
}

/// Puts a new file in place. The lock of the place is held.
fn write(place: &Place, key: &Key, expires: u64, value: &[u8]) -> io::Result<()> {
    let bytes = record::encode(key.as_str(), expires, value);
    let mut attempts = ATTEMPTS;
    loop {
        attempts -= 1;
        match write_once(place, &bytes) {
            Err(error) if layout::is_absent(&error) && attempts > 0 => {
                match layout::make(&place.folder) {
                    // What is above it went at the same time, or another one made it that went.
                    Err(error) if !is_overtaken(&error) => return Err(error),
                    _ => {}
                }
            }
            Err(error) => {
                let _ = layout::remove(&place.temporary);
                return Err(error);
            }
            Ok(()) => return Ok(()),
        }
    }
}

fn is_overtaken(error: &io::Error) -> bool {
    layout::is_absent(error) || error.kind() == io::ErrorKind::AlreadyExists
}

fn write_once(place: &Place, bytes: &[u8]) -> io::Result<()> {
    let mut options = layout::private();
    options.create_new(true);
    let mut file = match options.open(&place.temporary) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            layout::remove(&place.temporary)?;
            options.open(&place.temporary)?
        }
        opened => opened?,
    };
    file.write_all(bytes)?;
    drop(file);
    replace(&place.temporary, &place.file)
}
