//! What could not be removed from a store, and is not read there until it is.

use std::collections::{BTreeMap, HashMap};

use crate::key::Key;

/// The most beginnings of keys that are remembered one by one.
const MAX_BEGINNINGS: usize = 1024;

/// The most keys that are removed at a time.
const BATCH: usize = 500;

/// What is to be removed: keys, and all keys that begin somehow. Of what was to be stored, too, only the
/// removal is owed: what is there is older, and another node may have stored something newer since.
#[derive(Debug)]
pub(super) struct Debts {
    /// The most keys; of more, the namespaces are owed.
    most: usize,
    /// With the number of the last time that it came up.
    keys: HashMap<Key, u64>,
    beginnings: BTreeMap<Beginning, u64>,
    last: u64,
}

/// Many keys. Those that take more in come first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Beginning {
    /// Every key.
    Nothing,
    Namespace(String),
    Prefix(String),
}

/// What can be removed together.
#[derive(Debug)]
pub(super) enum Batch {
    Keys(Vec<(Key, u64)>),
    Beginning(Beginning, u64),
}

impl Debts {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            keys: HashMap::new(),
            beginnings: BTreeMap::new(),
            last: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.beginnings.is_empty()
    }

    /// Whether what is under `key` is to be removed.
    pub(super) fn covers(&self, key: &Key) -> bool {
        let covers = |beginning: &Beginning| match beginning {
            Beginning::Nothing => true,
            Beginning::Namespace(text) | Beginning::Prefix(text) => key.as_str().starts_with(text),
        };
        self.keys.contains_key(key) || self.beginnings.keys().any(covers)
    }

    pub(super) fn owe_key(&mut self, key: &Key) {
        self.last += 1;
        if self.keys.len() >= self.most && !self.keys.contains_key(key) {
            for (key, _) in std::mem::take(&mut self.keys) {
                self.owe_namespace(&key);
            }
            return self.owe_namespace(key);
        }
        self.keys.insert(key.clone(), self.last);
    }

    fn owe_namespace(&mut self, key: &Key) {
        self.owe(match key.namespace() {
            "" => Beginning::Nothing,
            namespace => Beginning::Namespace(namespace.to_owned()),
        });
    }

    pub(super) fn owe(&mut self, beginning: Beginning) {
        self.last += 1;
        let beginning = if self.beginnings.len() < MAX_BEGINNINGS {
            beginning
        } else {
            self.beginnings.clear();
            Beginning::Nothing
        };
        self.beginnings.insert(beginning, self.last);
    }

    /// What to remove next.
    pub(super) fn next(&self) -> Option<Batch> {
        if let Some((beginning, number)) = self.beginnings.first_key_value() {
            return Some(Batch::Beginning(beginning.clone(), *number));
        }
        let keys = self.keys.iter().take(BATCH);
        let keys: Vec<_> = keys.map(|(key, number)| (key.clone(), *number)).collect();
        (!keys.is_empty()).then_some(Batch::Keys(keys))
    }

    /// It has been removed; what came up again meanwhile has not.
    pub(super) fn settle(&mut self, batch: &Batch) {
        match batch {
            Batch::Keys(keys) => {
                for (key, number) in keys {
                    if self.keys.get(key) == Some(number) {
                        self.keys.remove(key);
                    }
                }
            }
            Batch::Beginning(beginning, number) => {
                if self.beginnings.get(beginning) == Some(number) {
                    self.beginnings.remove(beginning);
                }
            }
        }
    }
}
