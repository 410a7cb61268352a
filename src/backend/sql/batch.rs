//! Batches: a statement for some hundred keys.

use std::collections::{BTreeMap, BTreeSet};

use super::Sql;
use super::row::{Stored, entry};
use super::statement::{Bind, Slot};
use crate::entry::Entry;
use crate::error::{ErrorKind, Result};
use crate::key::Key;
use crate::ttl::Lifetime;

/// The most keys of a statement; a power of two. Four places for each of them are within the
/// limit of every database.
const MAX_KEYS: usize = 512;

/// About the most bytes that one statement carries, unless one value is larger: less than any
/// server refuses, unless it was told to.
const MAX_BYTES: usize = 512 << 10;

impl Sql {
    pub(super) async fn read_batch(&self, keys: &[Key]) -> Result<Vec<Option<Entry>>> {
        let mut found = BTreeMap::new();
        for chunk in self.distinct(keys)?.chunks(MAX_KEYS) {
            let statement = self
                .inner
                .statements
                .get_many(chunk.len().next_power_of_two());
            let reply = self.run(&statement, padded(chunk)).await?;
            for mut row in reply.rows {
                if let Some(key) = row.key.take() {
                    found.insert(key, entry(row));
                }
            }
        }
        let found = keys.iter().map(|key| found.get(key.as_str()).cloned());
        Ok(found.collect())
    }

    /// How many were live. In the order of the keys, so that two batches at once do not lock
    /// each other out.
    pub(super) async fn delete_batch(&self, keys: &[Key]) -> Result<u64> {
        let mut deleted = 0;
        for chunk in self.distinct(keys)?.chunks(MAX_KEYS) {
            let statement = self
                .inner
                .statements
                .delete_many(chunk.len().next_power_of_two());
            deleted += self.run(&statement, padded(chunk)).await?.changed;
        }
        Ok(deleted)
    }

    /// The last of those with one key wins. A chunk that the database refuses is stored item by
    /// item, so that what is bad in it stops nothing else.
    pub(super) async fn write_batch(
        &self,
        items: &[(Key, Entry, Lifetime)],
    ) -> Result<Vec<Result<()>>> {
        let mut outcomes: Vec<Result<()>> = items.iter().map(|(key, ..)| self.check(key)).collect();
        let mut last = BTreeMap::new();
        for (index, (key, ..)) in items.iter().enumerate() {
            if outcomes[index].is_ok() {
                last.insert(key.as_str(), index);
            }
        }
        let rows: Vec<_> = last
            .into_values()
            .map(|index| (index, &items[index]))
            .collect();
        let mut rest = rows.as_slice();
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(chunk_of(rest));
            rest = after;
            for (index, outcome) in self.write_chunk(chunk).await {
                outcomes[index] = outcome;
            }
        }
        Ok(outcomes)
    }

    async fn write_chunk(&self, chunk: &[Item<'_>]) -> Vec<(usize, Result<()>)> {
        let rows: Vec<_> = chunk
            .iter()
            .map(|(_, (key, entry, lifetime))| (key, Stored::new(entry, *lifetime)))
            .collect();
        if rows.len() > 1 {
            let statement = self.inner.statements.set_many(rows.len());
            let bind = |slot, time: usize| match slot {
                Slot::Key => Bind::Key(rows[time].0.as_str()),
                slot => rows[time].1.bind(slot),
            };
            match self.run(&statement, bind).await {
                Ok(_) => return Vec::new(),
                // Then each of them would wait as long for nothing.
                Err(error) if error.kind() == ErrorKind::Timeout => {
                    let all = chunk.iter().map(|(index, _)| (*index, Err(error.clone())));
                    return all.collect();
                }
                Err(_) => {}
            }
        }
        let mut outcomes = Vec::with_capacity(chunk.len());
        for ((index, _), (key, row)) in chunk.iter().zip(&rows) {
            let outcome = self.put_or_remove(key, row).await;
            let outcome = outcome.map_err(|error| error.at(self.inner.dialect.name, "set_many"));
            outcomes.push((*index, outcome));
        }
        outcomes
    }

    /// The keys in order, each once.
    fn distinct<'a>(&self, keys: &'a [Key]) -> Result<Vec<&'a str>> {
        let mut distinct = BTreeSet::new();
        for key in keys {
            self.check(key)?;
            distinct.insert(key.as_str());
        }
        Ok(distinct.into_iter().collect())
    }
}

type Item<'a> = (usize, &'a (Key, Entry, Lifetime));

/// How many of the items the next statement takes: at least one.
fn chunk_of(items: &[Item<'_>]) -> usize {
    let mut bytes = 0;
    let fits = |(_, (key, entry, _)): &&Item<'_>| {
        bytes += key.as_str().len() + entry.bytes().len();
        bytes <= MAX_BYTES
    };
    items.iter().take(MAX_KEYS).take_while(fits).count().max(1)
}

/// Binds the keys, and the last of them to the places that are left.
fn padded<'a>(keys: &[&'a str]) -> impl Fn(Slot, usize) -> Bind<'a> {
    move |_, time| Bind::Key(keys[time.min(keys.len() - 1)])
}
