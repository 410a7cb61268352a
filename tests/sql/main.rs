//! What the conformance suite does not ask of a database store: processes, restarts, tables,
//! culling, large batches. `engine::case`; ignored where the server is not on this machine.
//!
//! `AXUM_CACHE_FULL=1` runs the long cases at their full length.
#![allow(clippy::unwrap_used, reason = "a failed test may panic")]
#![allow(
    clippy::doc_markdown,
    reason = "databases are written as their makers write them"
)]

mod batches;
mod faults;
mod processes;
#[path = "../it/support/sql_servers.rs"]
mod sql_servers;
mod tables;

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};

use axum_cache::Cache;
use axum_cache::backend::{Sql, SqlBuilder};
use libtest_mimic::{Arguments, Trial};

type Running = Pin<Box<dyn Future<Output = ()> + Send>>;
type Case = (&'static str, fn(Target) -> Running);

macro_rules! cases {
    ($($group:ident: $($case:ident),+ $(,)?;)+) => {
        &[$($((
            concat!(stringify!($group), "::", stringify!($case)),
            |target| Box::pin($group::$case(target)),
        ),)+)+]
    };
}

const CASES: &[Case] = cases! {
    processes: an_add_has_one_winner_among_processes, counters_of_processes_add_up,
        readers_see_whole_values_during_writes;
    tables: a_missing_table_says_what_to_do, tables_are_made_once_by_many,
        the_store_makes_its_table_if_told_to, culling_removes_what_expired,
        culling_leaves_the_entries_that_live_longest, writes_cull_in_the_background;
    batches: large_batches_are_complete, a_bad_item_stops_no_other, clear_takes_every_page;
};

/// Of what SQLite has not: a server, schemas, limits of keys.
const SERVER_CASES: &[Case] = cases! {
    tables: a_table_may_have_a_schema;
    batches: keys_that_do_not_fit_are_refused;
    faults: a_restart_is_over_when_it_is_over, a_restart_under_load_is_typed_errors_and_short, nothing_waits_longer_than_its_deadline,
        a_server_that_is_away_says_so_at_once;
};

/// Of the limit of a packet, which only MySQL has.
const MYSQL_CASES: &[Case] = cases! {
    batches: an_oversize_value_leaves_nothing_behind;
};

/// A database under test.
#[derive(Clone)]
struct Target {
    engine: &'static str,
    url: String,
}

impl Target {
    /// The name of a table of its own.
    fn table() -> String {
        static TABLES: AtomicU64 = AtomicU64::new(0);
        let table = TABLES.fetch_add(1, Ordering::Relaxed);
        format!("t_{}_{table}", std::process::id())
    }

    /// A store with a table of its own that is not made yet.
    fn builder(&self) -> SqlBuilder {
        Sql::builder(self.url.clone()).table(Self::table())
    }

    async fn cache(&self) -> Cache {
        let store = self.builder().build().unwrap();
        store.create_table().await.unwrap();
        Cache::new(store)
    }
}

/// `full` with `AXUM_CACHE_FULL`, and else a part of it.
fn rounds(full: usize) -> usize {
    let is_full = std::env::var_os("AXUM_CACHE_FULL").is_some();
    if is_full { full } else { full / 20 }
}

fn engines() -> Vec<(&'static str, Option<String>)> {
    vec![
        #[cfg(feature = "sqlite")]
        ("sqlite", Some(format!("sqlite://{}", file().display()))),
        #[cfg(feature = "postgres")]
        ("postgres", sql_servers::postgres()),
        #[cfg(feature = "mysql")]
        ("mysql", sql_servers::mysql()),
    ]
}

#[cfg(feature = "sqlite")]
fn file() -> std::path::PathBuf {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    folder.join(format!("sql-{}.db", std::process::id()))
}

fn main() {
    if processes::is_worker() {
        return processes::work();
    }
    let mut trials = Vec::new();
    for (engine, url) in engines() {
        let groups: &[&[Case]] = match engine {
            "sqlite" => &[CASES],
            "postgres" => &[CASES, SERVER_CASES],
            _ => &[CASES, SERVER_CASES, MYSQL_CASES],
        };
        for (name, case) in groups.iter().copied().flatten() {
            let (ignored, url) = (url.is_none(), url.clone().unwrap_or_default());
            let trial = Trial::test(format!("{engine}::{name}"), move || {
                tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(2)
                    .enable_all()
                    .build()?
                    .block_on(case(Target { engine, url }));
                Ok(())
            });
            trials.push(trial.with_ignored_flag(ignored));
        }
    }
    let mut arguments = Arguments::from_args();
    // The long cases measure: one at a time.
    arguments.test_threads.get_or_insert(1);
    let conclusion = libtest_mimic::run(&arguments, trials);
    #[cfg(feature = "sqlite")]
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", file().display()));
    }
    conclusion.exit();
}
