//! Real servers that are killed, stopped, emptied and filled up, behind a network with faults, and a site
//! that goes on meanwhile.
//!
//! A load that does not wait for answers asks the site all the time. Each answer says which version of the
//! data it was made of, and whose it is: so what is stale, or another one's, is counted and not guessed.
//! Each test prints its figures beside its criterion; the names begin with the scenario. Times are those of
//! a machine that may be busy, and what is asserted of them leaves room for that; counts that have to be 0
//! leave none. The run is short unless `AXUM_CACHE_LONG` is set. A test whose server is not installed is
//! ignored.
#![allow(clippy::unwrap_used, reason = "a failed test may panic")]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "figures beside their criterion"
)]

mod counted;
mod damage;
mod integrity;
mod items;
mod limits;
mod load;
mod lost;
mod outages;
mod polls;
mod refusals;
mod removals;
mod rollouts;
mod soak;
mod stress;
mod sweeps;
mod tools;
mod writers;

#[path = "../support/mod.rs"]
mod support;

#[path = "../support/client.rs"]
mod client;

#[path = "../support/proxy.rs"]
mod proxy;

#[path = "../support/trials.rs"]
mod trials;

use libtest_mimic::{Arguments, Conclusion};

use trials::{Test, tests, trial};

const TESTS: &[Test] = tests! {
    outages needs &["redis-server"] =>
        a1_refused_at_boot, a2_killed_under_load, a2_killed_behind_memory, a3_hangs_under_load, a4_answers_late,
        a7_comes_back, faults_of_the_network;
    outages needs &["memcached"] => a3_memcached_hangs;
    outages needs &["postgres"] => a3_postgres_hangs;
    removals needs &["memcached"] => a9_removed_while_memcached_hangs;
    removals needs &["postgres"] => a9_removed_while_postgres_hangs;
    removals needs &["redis-server"] =>
        a8_flaps_while_others_write, a9_removed_while_it_hangs, a9_removed_while_the_line_is_silent,
        a9_removed_and_back_with_old_data;
    lost needs &["redis-server"] =>
        a11_restarted_empty, a11_restarted_from_an_old_copy, a11_replica_takes_over, a12_tags_are_evicted;
    refusals needs &["redis-server"] =>
        a5_redis_refuses, a5_cluster_is_down, a5_redis_is_loading, a5_redis_has_clients_enough;
    refusals needs &["memcached"] => a5_memcached_refuses;
    refusals needs &["postgres", "psql"] => a5_postgres_refuses;
    refusals needs &[] => a5_sqlite_refuses, a5_files_refuse;
    limits needs &["redis-server"] =>
        a16_more_than_the_origin_bears, a15_fails_closed, a6_five_connections, a4_stale_values_do_not_wait;
    limits needs &["postgres"] => a6_five_connections_of_postgres;
    polls needs &[] => g7_no_poll_is_long;
    stress needs &[] => g1_random_urls, g5_one_hot_key;
    stress needs &["redis-server"] => g2_the_clock_jumps;
    soak needs &["redis-server"] => g3_soak;
    integrity needs &["redis-server"] =>
        f1_redis_entries_are_damaged, f6_signed_entries_are_tampered_with;
    integrity needs &["memcached"] => f1_memcached_entries_are_damaged;
    integrity needs &["postgres"] => f1_postgres_entries_are_damaged;
    integrity needs &[] =>
        f1_sqlite_entries_are_damaged, f1_file_entries_are_damaged, f1_files_are_damaged_on_disk;
    rollouts needs &["redis-server"] => f2_versions_share_redis;
    rollouts needs &["memcached"] => f2_versions_share_memcached;
    writers needs &["sh"] => f3_writers_are_killed, f3_files_may_not_grow;
    sweeps needs &[] => f4_files_are_swept, f4_sqlite_is_swept;
    sweeps needs &["postgres"] => f4_postgres_is_swept;
    items needs &["memcached"] => f5_memcached_at_its_limits;
};

/// Whether the long run was asked for.
fn is_long() -> bool {
    std::env::var_os("AXUM_CACHE_LONG").is_some()
}

/// What needs a file system of its own.
const FULL_DISK: &str = "writers::f3_a_disk_is_full";

/// Whether a test keeps the machine busy.
fn is_busy(name: &str) -> bool {
    const BUSY: [&str; 7] = [
        "integrity",
        "items",
        "polls",
        "rollouts",
        "stress",
        "sweeps",
        "writers",
    ];
    BUSY.contains(&name.split("::").next().unwrap_or_default())
}

fn main() {
    if let Some(workload) = client::workload() {
        return writers::run(&workload);
    }
    counted::install();
    let trials = TESTS.iter();
    let mut trials: Vec<_> = trials
        .map(|(name, needs, test)| trial(*name, needs, test))
        .collect();
    if writers::can_mount() {
        trials.push(trial(FULL_DISK, &["unshare"], || {
            Box::pin(async { writers::f3_a_disk_is_full() })
        }));
    } else {
        eprintln!("{FULL_DISK}: not run, as no file system may be mounted here");
    }
    let mut arguments = Arguments::from_args();
    // Each waits most of the time.
    arguments.test_threads.get_or_insert(3);
    // What keeps the machine busy comes after what measures how long others take.
    let (busy, others): (Vec<_>, Vec<_>) =
        trials.into_iter().partition(|trial| is_busy(trial.name()));
    let conclusions = [others, busy].map(|trials| libtest_mimic::run(&arguments, trials));
    if conclusions.iter().any(Conclusion::has_failed) {
        std::process::exit(101);
    }
}
