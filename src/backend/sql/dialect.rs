//! What sets the databases apart, as data; and the statements made of it.

use super::statement::{Filling, Statement};
use super::table::TableName;

/// How one database writes what the others write otherwise. See [`Filling`] for the templates.
#[derive(Debug)]
pub(super) struct Dialect {
    /// The name of the backend in errors and events.
    pub(super) name: &'static str,
    pub(super) quote: char,
    pub(super) numbered: bool,
    pub(super) now: &'static str,
    /// The longest key, in bytes.
    pub(super) max_key_bytes: usize,
    /// Whether a key may hold the character zero.
    pub(super) takes_nul: bool,
    /// Whether a table may be named with its schema.
    pub(super) has_schemas: bool,
    /// The largest value, in bytes; a server may take less.
    pub(super) max_value_bytes: usize,
    /// `UNLOGGED` goes where `{unlogged}` stands.
    pub(super) create: &'static [&'static str],
    /// What follows `INSERT .. VALUES ..` to replace the row that is there.
    pub(super) upsert: &'static str,
    /// Changes a row if the entry was stored. Where `LAST_INSERT_ID(1)` is set, it was not.
    pub(super) add: &'static str,
    /// Answers with the new number, as a row or as the last id.
    pub(super) incr: &'static str,
    /// One transaction; the first changes no row if there is no live entry.
    pub(super) rename: &'static [&'static str],
    /// Removes the rows that `{rows}` selects, in the order of their keys: what locks several rows
    /// in another order than others do waits for them in a circle, until the database notices.
    pub(super) delete: &'static str,
    /// Removes up to `:limit` rows that expire by `:due`, soonest first.
    pub(super) remove_due: &'static str,
    /// Removes up to `:limit` rows that never expire.
    pub(super) remove_permanent: &'static str,
}

/// The statements of a store.
#[derive(Debug)]
pub(super) struct Statements {
    filling: Filling,
    pub(super) create: Vec<String>,
    pub(super) get: Statement,
    pub(super) set: Statement,
    pub(super) add: Statement,
    pub(super) touch: Statement,
    pub(super) delete: Statement,
    pub(super) incr: Statement,
    /// Replaces an entry that is this number.
    pub(super) swap_num: Statement,
    /// Replaces an entry that is these bytes.
    pub(super) swap_value: Statement,
    pub(super) rename: Vec<Statement>,
    pub(super) ttl: Statement,
    /// The present, in milliseconds since the epoch.
    pub(super) now: Statement,
    /// The first key of the next page of a range, if there is one.
    pub(super) page: Statement,
    pub(super) page_to_end: Statement,
    pub(super) delete_range: Statement,
    pub(super) delete_to_end: Statement,
    pub(super) remove_due: Statement,
    pub(super) remove_permanent: Statement,
    pub(super) count: Statement,
    set_many: String,
    delete_many: String,
}

/// `upsert`, `add` and `incr` of the databases that have `ON CONFLICT` and `RETURNING`.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(super) mod on_conflict {
    pub(in super::super) const UPSERT: &str = "ON CONFLICT (cache_key) DO UPDATE \
        SET value = excluded.value, num = excluded.num, expires = excluded.expires";
    pub(in super::super) const ADD: &str = "ON CONFLICT (cache_key) DO UPDATE \
        SET value = excluded.value, num = excluded.num, expires = excluded.expires \
        WHERE {table}.expires <= {now}";
    pub(in super::super) const INCR: &str = "UPDATE {table} SET num = num + :delta \
        WHERE cache_key = :key AND {live} AND num BETWEEN :low AND :high RETURNING num";
}

const INSERT: &str = "INSERT INTO {table} (cache_key, value, num, expires) \
                      VALUES [(:key, :value, :num, {expiry})]";
/// All databases compare binary values byte by byte.
const SWAP: &str = "UPDATE {table} SET value = :value, num = :num, expires = {expiry} \
                    WHERE cache_key = :key AND {live}";
const GET_MANY: &str = "SELECT num, value, cache_key FROM {table} \
                        WHERE cache_key IN ([:key]) AND {live}";
const THESE: &str = "WHERE cache_key IN ([:key]) AND {live}";
const IN_RANGE: &str = "WHERE cache_key >= :low AND cache_key < :high";
const TO_END: &str = "WHERE cache_key >= :low";

impl Statements {
    pub(super) fn new(dialect: &Dialect, table: &TableName, unlogged: bool) -> Self {
        let filling = Filling {
            table: table.quoted(dialect.quote),
            index: table.index(dialect.quote),
            now: dialect.now,
            numbered: dialect.numbered,
        };
        let one = |template: &str| filling.statement(template);
        let page = |range: &str| {
            one(&format!(
                "SELECT NULL, NULL, cache_key FROM {{table}} {range} \
                 ORDER BY cache_key LIMIT 1 OFFSET :limit"
            ))
        };
        let delete = |range: &str| one(&dialect.delete.replace("{rows}", range));
        let set_many = format!("{INSERT} {}", dialect.upsert);
        let unlogged = if unlogged { "UNLOGGED " } else { "" };
        Self {
            create: dialect
                .create
                .iter()
                .map(|template| filling.names(template).replace("{unlogged}", unlogged))
                .collect(),
            get: one("SELECT num, value FROM {table} WHERE cache_key = :key AND {live}"),
            set: one(&set_many),
            add: one(&format!("{INSERT} {}", dialect.add)).once(),
            touch: one("UPDATE {table} SET expires = {expiry} WHERE cache_key = :key AND {live}"),
            delete: one("DELETE FROM {table} WHERE cache_key = :key AND {live}"),
            incr: one(dialect.incr).once(),
            swap_num: one(&format!("{SWAP} AND num = :expected")).once(),
            swap_value: one(&format!("{SWAP} AND num IS NULL AND value = :expected")).once(),
            rename: dialect
                .rename
                .iter()
                .map(|template| one(template).once())
                .collect(),
            ttl: one("SELECT expires - {now} FROM {table} WHERE cache_key = :key AND {live}"),
            now: one("SELECT {now}"),
            page: page(IN_RANGE),
            page_to_end: page(TO_END),
            delete_range: delete(IN_RANGE),
            delete_to_end: delete(TO_END),
            remove_due: one(dialect.remove_due),
            remove_permanent: one(dialect.remove_permanent),
            count: one("SELECT COUNT(*) FROM (SELECT 1 FROM {table} LIMIT :limit) AS counted"),
            set_many,
            delete_many: dialect.delete.replace("{rows}", THESE),
            filling,
        }
    }

    /// Reads `keys` entries. The text is one of few, so that it stays prepared: the number is a
    /// power of two.
    pub(super) fn get_many(&self, keys: usize) -> Statement {
        self.filling.repeated(GET_MANY, keys)
    }

    /// Removes `keys` entries; see [`get_many`](Self::get_many).
    pub(super) fn delete_many(&self, keys: usize) -> Statement {
        self.filling.repeated(&self.delete_many, keys)
    }

    /// Stores `rows` entries. There are as many texts as sizes of batches: too many to keep.
    pub(super) fn set_many(&self, rows: usize) -> Statement {
        self.filling.repeated(&self.set_many, rows).not_kept()
    }
}
