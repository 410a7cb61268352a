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

/// Many keys.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Beginning {
    Namespace(String),
    Prefix(String),
}

/// What can be removed together.
#[derive(Debug)]
pub(super) enum Batch {
    Keys(Vec<(Key, u64)>),
    Beginning(Beginning, u64),
}

impl Beginning {
    fn text(&self) -> &str {
        match self {
            Self::Namespace(text) | Self::Prefix(text) => text,
        }
    }
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
        let begins = |beginning: &Beginning| key.as_str().starts_with(beginning.text());
        self.keys.contains_key(key) || self.beginnings.keys().any(begins)
    }

    pub(super) fn owe_keys<'a>(&mut self, keys: impl IntoIterator<Item = &'a Key>) {
        for key in keys {
            self.owe_key(key);
        }
    }

    pub(super) fn owe_key(&mut self, key: &Key) {
        self.last += 1;
        if self.keys.len() >= self.most && !self.keys.contains_key(key) {
            // Those of no namespace stay: what else there is belongs to others.
            let of_namespaces = self.keys.extract_if(|key, _| !key.namespace().is_empty());
            let namespaces: Vec<_> = of_namespaces
                .map(|(key, _)| key.namespace().to_owned())
                .collect();
            for namespace in namespaces {
                self.owe(Beginning::Namespace(namespace));
            }
        }
        self.keys.insert(key.clone(), self.last);
    }

    pub(super) fn owe(&mut self, beginning: Beginning) {
        self.last += 1;
        let beginning = match beginning {
            // Of too many, what comes before the version: what they have in common, and nobody else.
            Beginning::Prefix(text) if self.beginnings.len() >= MAX_BEGINNINGS => {
                let end = text.find(':').map_or(text.len(), |end| end + 1);
                Beginning::Prefix(text[..end].to_owned())
            }
            beginning => beginning,
        };
        if let Beginning::Prefix(wide) = &beginning {
            // What it takes in is not to be removed twice.
            let is_inside =
                |one: &Beginning| matches!(one, Beginning::Prefix(text) if text.starts_with(wide));
            self.beginnings.retain(|one, _| !is_inside(one));
        }
        self.beginnings.insert(beginning, self.last);
    }

    pub(super) fn number_of(&self, key: &Key) -> Option<u64> {
        self.keys.get(key).copied()
    }

    /// What to remove next: what has been owed the longest.
    pub(super) fn next(&self) -> Option<Batch> {
        let oldest = self.beginnings.iter().min_by_key(|(_, number)| **number);
        if let Some((beginning, number)) = oldest {
            return Some(Batch::Beginning(beginning.clone(), *number));
        }
        let mut keys: Vec<_> = self.keys.iter().collect();
        keys.sort_unstable_by_key(|(_, number)| **number);
        let keys = keys.into_iter().take(BATCH);
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

    /// It could not be removed now; the others come first.
    pub(super) fn put_off(&mut self, batch: &Batch) {
        match batch {
            Batch::Keys(keys) => {
                for (key, _) in keys {
                    if let Some(number) = self.keys.get_mut(key) {
                        self.last += 1;
                        *number = self.last;
                    }
                }
            }
            Batch::Beginning(beginning, _) => {
                if let Some(number) = self.beginnings.get_mut(beginning) {
                    self.last += 1;
                    *number = self.last;
                }
            }
        }
    }
}
