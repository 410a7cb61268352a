//! The same for the near tier of [`Tiered`](crate::backend::Tiered), which does not wait.

use std::sync::Arc;

use super::Memory;
use crate::entry::Entry;
use crate::key::Key;
use crate::ttl::Lifetime;

impl Memory {
    pub(in crate::backend) fn find(&self, key: &Key) -> Option<Entry> {
        self.store.get(key)
    }

    /// Holds `entry`, or nothing if it is too large, or will be once it is decoded.
    pub(in crate::backend) fn keep(&self, key: &Key, entry: Entry, lifetime: Lifetime) {
        let fits = entry.weight() <= self.store.max_value_bytes();
        let slot = fits.then(|| self.store.slot(key, entry, lifetime));
        self.store.update(&key.text(), |_| (slot, ()));
    }

    /// Gives what is held another lifetime.
    pub(in crate::backend) fn renew(&self, key: &Key, lifetime: Lifetime) {
        self.store.update(&key.text(), |live| {
            let renewed = live.map(|live| self.store.slot(key, live.entry.clone(), lifetime));
            (renewed, ())
        });
    }

    pub(in crate::backend) fn forget(&self, key: &str) {
        self.store.update(&Arc::from(key), |_| (None, ()));
    }

    pub(in crate::backend) fn forget_all(&self) {
        self.store.flush();
    }
}
