//! What is peculiar to the databases: tables, culling, large batches, servers that hang.

mod batches;
mod faults;
mod tables;

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use axum_cache::Cache;
use axum_cache::backend::{Sql, SqlBuilder};

use crate::Running;
use crate::services::PATIENCE;
use crate::support::servers::database::Database;

type Case = (&'static str, fn(Target) -> Running);

macro_rules! cases {
    ($($group:ident: $($case:ident),+ $(,)?;)+) => {
        &[$($((stringify!($case), |target| Box::pin($group::$case(target)),),)+)+]
    };
}

pub(crate) const CASES: &[Case] = cases! {
    tables: a_missing_table_says_what_to_do, tables_are_made_once_by_many,
        the_store_makes_its_table_if_told_to, culling_removes_what_expired,
        culling_leaves_the_entries_that_live_longest, writes_cull_in_the_background,
        culling_at_once_leaves_what_one_would, a_move_has_one_winner;
    batches: large_batches_are_complete, a_bad_item_stops_no_other, clear_takes_every_page;
};

/// Of what SQLite has not: a server, schemas, limits of keys.
pub(crate) const SERVER_CASES: &[Case] = cases! {
    tables: a_table_may_have_a_schema;
    batches: keys_that_do_not_fit_are_refused;
    faults: a_restart_is_over_when_it_is_over, a_restart_under_load_is_typed_errors_and_short,
        nothing_waits_longer_than_its_deadline, a_server_that_is_away_says_so_at_once,
        what_nobody_waits_for_does_not_pile_up;
};

/// Of the limit of a packet, which only MySQL has.
pub(crate) const MYSQL_CASES: &[Case] = cases! {
    batches: an_oversize_value_leaves_nothing_behind;
};

/// A database, its program, and its cases.
type Engine = (
    &'static str,
    &'static [&'static str],
    &'static [&'static [Case]],
);

pub(crate) const ENGINES: &[Engine] = &[
    ("sqlite", &[], &[CASES]),
    ("postgres", &["postgres"], &[CASES, SERVER_CASES]),
    ("mysql", &["mariadbd"], &[CASES, SERVER_CASES, MYSQL_CASES]),
];

/// A database under test.
#[derive(Clone)]
pub(crate) struct Target {
    engine: &'static str,
    url: String,
}

impl Target {
    /// A database that tests share, each with a table of its own.
    pub(crate) fn shared(engine: &'static str) -> Self {
        static SQLITE: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());
        static POSTGRES: LazyLock<Database> = LazyLock::new(|| Database::postgres().unwrap());
        static MYSQL: LazyLock<Database> = LazyLock::new(|| Database::mysql().unwrap());
        let url = match engine {
            "sqlite" => format!("sqlite://{}", SQLITE.path().join("shared.db").display()),
            "postgres" => POSTGRES.url.clone(),
            _ => MYSQL.url.clone(),
        };
        Self { engine, url }
    }

    /// The name of a table of its own.
    fn table() -> String {
        static TABLES: AtomicU64 = AtomicU64::new(0);
        let table = TABLES.fetch_add(1, Ordering::Relaxed);
        format!("t_{}_{table}", std::process::id())
    }

    /// A store with a table of its own that is not made yet.
    fn builder(&self) -> SqlBuilder {
        let builder = Sql::builder(self.url.clone()).table(Self::table());
        builder.operation_timeout(PATIENCE)
    }

    async fn cache(&self) -> Cache {
        let store = self.builder().build().unwrap();
        store.create_table().await.unwrap();
        Cache::new(store)
    }
}
