//! The operations of a backend, each in one statement where that is possible.

use std::time::Duration;

use super::Sql;
use super::engine::Reply;
use super::row::{Stored, entry, lasting};
use super::statement::{Bind, Slot, Statement};
use crate::backend::{Backend, Capabilities};
use crate::entry::Entry;
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::ttl::Lifetime;

/// How often `incr` looks again if the entry changes each time it looks why it could not.
const MAX_LOOKS: u32 = 4;

impl Backend for Sql {
    fn name(&self) -> &'static str {
        self.inner.dialect.name
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new()
            .with_delete_prefix()
            .with_compare_and_set()
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        let work = async {
            self.check(key)?;
            let reply = self.run(&self.inner.statements.get, only_key(key)).await?;
            Ok(reply.rows.into_iter().next().map(entry))
        };
        self.within("get", work).await
    }

    async fn set(&self, key: &Key, entry: Entry, lifetime: Lifetime) -> Result<()> {
        let work = async {
            self.check(key)?;
            self.put_or_remove(key, &Stored::new(&entry, lifetime))
                .await
        };
        let outcome = self.within("set", work).await;
        self.wrote(1);
        outcome
    }

    async fn add(&self, key: &Key, entry: Entry, lifetime: Lifetime) -> Result<bool> {
        let work = async {
            self.check(key)?;
            let row = Stored::new(&entry, lifetime);
            let reply = self.put(&self.inner.statements.add, key, &row).await?;
            Ok(reply.changed > 0 && reply.last_id == 0)
        };
        let outcome = self.within("add", work).await;
        self.wrote(1);
        outcome
    }

    async fn touch(&self, key: &Key, lifetime: Lifetime) -> Result<bool> {
        let work = async {
            self.check(key)?;
            let ttl = lasting(lifetime);
            let bind = |slot, _| match slot {
                Slot::Ttl => Bind::Int(ttl),
                _ => Bind::Key(key.as_str()),
            };
            let reply = self.run(&self.inner.statements.touch, bind).await?;
            Ok(reply.changed > 0)
        };
        self.within("touch", work).await
    }

    async fn delete(&self, key: &Key) -> Result<bool> {
        let work = async {
            self.check(key)?;
            let reply = self.run(&self.inner.statements.delete, only_key(key));
            Ok(reply.await?.changed > 0)
        };
        self.within("delete", work).await
    }

    async fn incr(&self, key: &Key, delta: i64) -> Result<i64> {
        let work = async {
            self.check(key)?;
            self.add_up(key, delta).await
        };
        self.within("incr", work).await
    }

    async fn rename(&self, from: &Key, to: &Key) -> Result<bool> {
        let work = async {
            self.check(from)?;
            self.check(to)?;
            self.move_row(from, to).await
        };
        self.within("rename", work).await
    }

    async fn ttl(&self, key: &Key) -> Result<Option<Lifetime>> {
        let work = async {
            self.check(key)?;
            let reply = self.run(&self.inner.statements.ttl, only_key(key)).await?;
            Ok(reply.rows.first().map(|row| match row.num {
                None => Lifetime::Forever,
                Some(left) => {
                    Lifetime::For(Duration::from_millis((left - 1).max(1).unsigned_abs()))
                }
            }))
        };
        self.within("ttl", work).await
    }

    /// Each of its statements has the deadline of an operation.
    async fn clear(&self, namespace: &str) -> Result<()> {
        self.clear_range("clear", namespace, after(namespace).as_deref())
            .await
            .map(drop)
    }

    /// Each of its statements has the deadline of an operation.
    async fn delete_prefix(&self, prefix: &str) -> Result<u64> {
        const NAME: &str = "delete_prefix";
        let fits = self.check_text(prefix);
        fits.map_err(|error| error.at(self.inner.dialect.name, NAME))?;
        self.clear_range(NAME, prefix, after(prefix).as_deref())
            .await
    }

    /// Deletes page by page: `TRUNCATE` would be faster, but needs other rights and keeps
    /// readers waiting.
    async fn flush_store(&self) -> Result<()> {
        self.clear_range("flush_store", "", None).await.map(drop)
    }

    async fn compare_and_set(
        &self,
        key: &Key,
        expected: &Entry,
        entry: Entry,
        lifetime: Lifetime,
    ) -> Result<bool> {
        let work = async {
            self.check(key)?;
            self.swap(key, expected, &Stored::new(&entry, lifetime))
                .await
        };
        let outcome = self.within("compare_and_set", work).await;
        self.wrote(1);
        outcome
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Entry>>> {
        self.within("get_many", self.read_batch(keys)).await
    }

    async fn set_many(&self, items: Vec<(Key, Entry, Lifetime)>) -> Result<Vec<Result<()>>> {
        let outcome = self.within("set_many", self.write_batch(&items)).await;
        self.wrote(items.len());
        outcome
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<u64> {
        self.within("delete_many", self.delete_batch(keys)).await
    }

    /// Closes the connections that are idle; later operations open new ones.
    async fn close(&self) -> Result<()> {
        let work = async {
            self.inner.engine.close().await;
            Ok(())
        };
        self.within("close", work).await
    }
}

impl Sql {
    async fn put(&self, statement: &Statement, key: &Key, row: &Stored<'_>) -> Result<Reply> {
        self.refuse_if_too_large(row)?;
        let bind = |slot, _| match slot {
            Slot::Key => Bind::Key(key.as_str()),
            slot => row.bind(slot),
        };
        self.run(statement, bind).await
    }

    /// One statement finds the row and changes it; the database counts the rows it found.
    async fn swap(&self, key: &Key, expected: &Entry, row: &Stored<'_>) -> Result<bool> {
        self.refuse_if_too_large(row)?;
        let expected = Stored::new(expected, Lifetime::Forever);
        let (statement, expected) = match expected.num {
            Some(_) => (&self.inner.statements.swap_num, expected.bind(Slot::Num)),
            None => (
                &self.inner.statements.swap_value,
                expected.bind(Slot::Value),
            ),
        };
        let bind = |slot, _| match slot {
            Slot::Key => Bind::Key(key.as_str()),
            Slot::Expected => expected,
            slot => row.bind(slot),
        };
        Ok(self.run(statement, bind).await?.changed > 0)
    }

    fn refuse_if_too_large(&self, row: &Stored<'_>) -> Result<()> {
        let length = row.value.map_or(0, <[u8]>::len);
        if length > self.inner.dialect.max_value_bytes {
            return Err(ErrorKind::TooLarge.into());
        }
        Ok(())
    }

    /// Stores an entry, or else tries to remove the one that it was to replace.
    pub(super) async fn put_or_remove(&self, key: &Key, row: &Stored<'_>) -> Result<()> {
        match self.put(&self.inner.statements.set, key, row).await {
            Ok(_) => Ok(()),
            Err(error) => {
                let _ = self.run(&self.inner.statements.delete, only_key(key)).await;
                Err(error)
            }
        }
    }

    async fn add_up(&self, key: &Key, delta: i64) -> Result<i64> {
        let statements = &self.inner.statements;
        let low = i64::MIN.saturating_sub(delta.min(0));
        let high = i64::MAX.saturating_sub(delta.max(0));
        for _ in 0..MAX_LOOKS {
            let bind = |slot, _| match slot {
                Slot::Delta => Bind::Int(Some(delta)),
                Slot::Low => Bind::Int(Some(low)),
                Slot::High => Bind::Int(Some(high)),
                _ => Bind::Key(key.as_str()),
            };
            let reply = self.run(&statements.incr, bind).await?;
            if let Some(sum) = reply.rows.first().and_then(|row| row.num) {
                return Ok(sum);
            }
            if reply.changed > 0 {
                return Ok(reply.last_id);
            }
            let held = self.run(&statements.get, only_key(key)).await?;
            let row = held.rows.first().ok_or(ErrorKind::KeyMissing)?;
            let num = row.num.ok_or(ErrorKind::NotAnInteger)?;
            num.checked_add(delta).ok_or(ErrorKind::OutOfRange)?;
        }
        Err(Error::new(ErrorKind::Unavailable).with_message("entry changes all the time"))
    }

    async fn move_row(&self, from: &Key, to: &Key) -> Result<bool> {
        let statements = &self.inner.statements;
        if from.as_str() == to.as_str() {
            let found = self.run(&statements.ttl, only_key(from)).await?;
            return Ok(!found.rows.is_empty());
        }
        let bind = |slot, _| match slot {
            Slot::To => Bind::Key(to.as_str()),
            _ => Bind::Key(from.as_str()),
        };
        let steps: Vec<_> = statements
            .rename
            .iter()
            .map(|step| (step, self.binds(step, bind)))
            .collect();
        let moved = self.with_table(|| match steps.as_slice() {
            [(step, binds)] => self.inner.engine.run(step, binds),
            steps => self.inner.engine.run_all(steps),
        });
        Ok(moved.await?.changed > 0)
    }

    /// Removes the keys from `low` on and before `high`, page by page: what is written behind the
    /// page does not keep this from coming to an end. How many there were.
    async fn clear_range(
        &self,
        operation: &'static str,
        low: &str,
        high: Option<&str>,
    ) -> Result<u64> {
        let statements = &self.inner.statements;
        let mut low = low.to_owned();
        let mut removed = 0;
        loop {
            let limit = self.inner.sweeper.limit();
            let bind = |slot, _| match slot {
                Slot::Low => Bind::Key(&low),
                Slot::Limit => Bind::Int(Some(limit)),
                _ => Bind::Key(high.unwrap_or_default()),
            };
            let page = match high {
                Some(_) => &statements.page,
                None => &statements.page_to_end,
            };
            let page = self.within(operation, self.run(page, bind)).await?;
            let next = page.rows.into_iter().next().and_then(|row| row.key);
            let end = next.as_deref().or(high);
            let delete = match end {
                Some(_) => &statements.delete_range,
                None => &statements.delete_to_end,
            };
            let bind = |slot, _| match slot {
                Slot::Low => Bind::Key(&low),
                _ => Bind::Key(end.unwrap_or_default()),
            };
            let reply = self.within(operation, self.run(delete, bind)).await?;
            removed += reply.changed;
            match next {
                Some(next) => low = next,
                None => return Ok(removed),
            }
        }
    }
}

fn only_key<'a>(key: &'a Key) -> impl Fn(Slot, usize) -> Bind<'a> {
    |_, _| Bind::Key(key.as_str())
}

/// The first text, in order of bytes, that comes after all that begin with `prefix`; none if
/// there is nothing after them.
pub(super) fn after(prefix: &str) -> Option<String> {
    let mut text = prefix.to_owned();
    while let Some(last) = text.pop() {
        let mut above = (last..=char::MAX).skip(1);
        if let Some(next) = above.next() {
            text.push(next);
            return Some(text);
        }
    }
    None
}
