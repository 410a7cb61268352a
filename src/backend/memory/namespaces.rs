//! When each namespace was last cleared.
//!
//! # Invariants
//!
//! - To read it takes no lock and counts nothing: each hit does.
//! - A namespace stays where it is once it is there.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{OnceLock, PoisonError, RwLock};

/// How many namespaces the first block has; each further one has twice as many as the one before it.
const FIRST: usize = 16;

/// How many blocks there may be: of so many no machine has the names.
const BLOCKS: usize = 40;

#[derive(Debug)]
pub(super) struct Namespaces {
    ids: RwLock<HashMap<Box<str>, NamespaceId>>,
    /// Entries born in an earlier epoch are dead.
    cleared: [OnceLock<Box<[AtomicU64]>>; BLOCKS],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NamespaceId {
    block: u32,
    at: u32,
}

impl Default for Namespaces {
    fn default() -> Self {
        Self {
            ids: RwLock::default(),
            cleared: [const { OnceLock::new() }; BLOCKS],
        }
    }
}

impl Namespaces {
    pub(super) fn id(&self, name: &str) -> NamespaceId {
        {
            let ids = self.ids.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(id) = ids.get(name) {
                return *id;
            }
        }
        let mut ids = self.ids.write().unwrap_or_else(PoisonError::into_inner);
        let next = NamespaceId::of(ids.len());
        *ids.entry(name.into()).or_insert(next)
    }

    /// The epoch of its last clear.
    pub(super) fn cleared(&self, id: NamespaceId) -> &AtomicU64 {
        let block = id.block as usize;
        let block = self.cleared[block].get_or_init(|| {
            let never = || AtomicU64::new(0);
            std::iter::repeat_with(never).take(FIRST << block).collect()
        });
        &block[id.at as usize]
    }
}

impl NamespaceId {
    /// The place of the namespace with this number.
    #[allow(
        clippy::cast_possible_truncation,
        reason = "no machine has room for as many"
    )]
    fn of(number: usize) -> Self {
        let block = (number / FIRST + 1).ilog2();
        let before = FIRST * ((1 << block) - 1);
        Self {
            block,
            at: (number - before) as u32,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn each_namespace_has_a_place_of_its_own_and_keeps_it() {
        let namespaces = Namespaces::default();
        let ids: Vec<_> = (0..1000).map(|it| namespaces.id(&it.to_string())).collect();
        for (epoch, id) in (1..).zip(&ids) {
            let before = namespaces.cleared(*id).swap(epoch, Ordering::Relaxed);
            assert_eq!(before, 0, "{id:?}");
        }
        for (number, id) in ids.iter().enumerate() {
            assert_eq!(namespaces.id(&number.to_string()), *id);
        }
        let number = |id: &NamespaceId| (id.block, id.at);
        assert_eq!((number(&ids[15]), number(&ids[16])), ((0, 15), (1, 0)));
        assert_eq!(number(&ids[48]), (2, 0));
    }
}
