//! The response cache against everything that is known to have gone wrong elsewhere: identities
//! that leak, bodies that break, streams that stall, memory that grows, claims that are not true.
//!
//! The run is short unless `AXUM_CACHE_LONG` is set. `module::test` names one. A test whose server
//! is not installed is ignored. Each prints its figures beside its criterion.
//!
//! | faults | module |
//! |---|---|
//! | identities in bodies and fields, concurrently, over every preset | `identity` |
//! | bodies that break off, streams, upgrades, bodies without end | `bodies` |
//! | purges, tags and errors, with several nodes on one store | `nodes` |
//! | reads of the store for one answer | `reads` |
//! | what other caches got wrong | `rivals` |
//! | methods, statuses, cookies, wishes of clients, in tables | `tables` |
//! | HTTP mode, end to end | `http_mode` |
//! | `Cache-Status`: whether it is well-formed, and true | `status`, on every answer |
#![allow(clippy::unwrap_used, reason = "a failed test may panic")]
#![allow(clippy::print_stdout, reason = "figures beside their criterion")]

mod bodies;
mod http_mode;
mod identity;
mod nodes;
mod reads;
mod rivals;
mod site;
mod status;
mod tables;

#[path = "../it/support/mod.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod tools;

#[path = "../support/mod.rs"]
mod support;

#[path = "../support/trials.rs"]
mod trials;

use libtest_mimic::Arguments;

use trials::{Test, block_on, tests, trial};

const TESTS: &[Test] = tests! {
    identity needs &[] => e2_no_identity_crosses_in_memory;
    identity needs &["redis-server"] => e2_no_identity_crosses_over_redis;
    bodies needs &[] =>
        e8_an_aborted_body_is_neither_stored_nor_shared, e8_clients_see_a_broken_connection,
        e12_frames_arrive_as_they_are_made, e12_an_upgrade_goes_through,
        e11_large_bodies_cost_no_memory;
    reads needs &[] => one_read_and_with_variants_two;
    rivals needs &[] =>
        nested_routers_keep_their_pages_apart, credentials_are_nobody_elses,
        head_before_get_leaves_no_empty_page, an_error_is_for_the_one_who_made_it,
        other_methods_and_bodies_reach_the_handler, a_part_is_not_the_whole,
        compressed_bytes_say_so, a_body_over_the_limit_is_no_error,
        a_leader_that_leaves_keeps_nobody_waiting, repeated_parameters_keep_their_order,
        a_304_keeps_its_fields, a_date_does_not_beat_a_tag, an_overwrite_gets_a_new_lifetime,
        a_hit_asks_nobody, a_refresh_that_is_given_up_makes_nothing_fresh,
        memory_stays_within_its_bound;
    tables needs &[] =>
        e7_no_odd_request_spoils_the_next, e7_only_whole_answers_are_stored,
        e9_cookies_are_never_stored_nor_replayed, e9_a_cookie_outlives_a_304,
        e15_clients_cannot_force_work, e16_the_parser_is_strict;
    nodes needs &["redis-server"] =>
        d2_over_redis, d11_what_is_expired_is_served_and_what_is_purged_is_not;
    nodes needs &["memcached"] => d2_over_memcached;
    nodes needs &["postgres"] => d2_over_postgres;
    nodes needs &[] =>
        d1_in_memory, d2_over_files, b6_errors_are_hidden_where_that_is_allowed, nothing_stale_is_made_up;
    http_mode needs &[] =>
        validation_by_tag_and_by_date, changed_content_replaces_what_was,
        a_304_updates_the_fields, a_304_about_another_one_changes_nothing,
        stale_while_revalidate_serves_at_once_and_refreshes_once,
        a_background_refresh_is_for_the_same_page,
        stale_if_error_on_an_error_and_on_a_breakdown, must_revalidate_forbids_what_is_stale,
        the_targeted_field_wins, freshness_by_guess, age_on_arrival_counts,
        variants_by_vary, head_and_parts_out_of_the_store,
        requests_count_where_they_are_honoured, only_if_cached_is_a_504;
};

/// Whether the long run was asked for.
fn is_long() -> bool {
    std::env::var_os("AXUM_CACHE_LONG").is_some()
}

fn main() {
    if bodies::is_child() {
        return block_on(bodies::child());
    }
    let trials = TESTS.iter();
    let trials = trials.map(|(name, needs, test)| trial(*name, needs, test));
    let mut arguments = Arguments::from_args();
    // Some measure times and memory: one at a time.
    arguments.test_threads.get_or_insert(1);
    libtest_mimic::run(&arguments, trials.collect()).exit();
}
