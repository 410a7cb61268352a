//! What only real servers and real processes prove; each test runs on every store that it is for.
//!
//! `store::test` names one. A store whose server is not installed is ignored.
#![allow(clippy::unwrap_used, reason = "a failed test may panic")]
#![allow(clippy::print_stdout, reason = "a child answers its parent there")]

mod child;
mod compare;
mod docsite;
mod examples;
mod file;
mod memcached;
mod near;
mod nodes;
mod outages;
mod purge;
mod races;
mod redis;
mod services;
mod sql;
mod staleness;
mod tiered;

#[path = "../support/mod.rs"]
mod support;

#[path = "../support/client.rs"]
mod client;

#[path = "../support/proxy.rs"]
mod proxy;

#[path = "../support/trials.rs"]
mod trials;

use libtest_mimic::Arguments;

use services::{STORES, Store};
use trials::{Running, Test, tests, trial};

fn main() {
    if let Some(workload) = child::workload() {
        return child::run(&workload);
    }
    let mut trials = Vec::new();
    for store in STORES {
        let mut add = |name: &str, applies: bool, test: fn(&'static Store) -> Running| {
            if applies {
                let name = format!("{}::{name}", store.name);
                trials.push(trial(name, store.needs, move || test(store)));
            }
        };
        add("one_of_64_racers_adds", true, |store| {
            Box::pin(async move { races::adds(store) })
        });
        add("no_count_of_four_processes_is_lost", true, |store| {
            Box::pin(races::counts(store))
        });
        add("no_read_is_torn_or_missed", true, |store| {
            Box::pin(async move { races::reads(store) })
        });
        add("the_site_answers_the_same_bytes", true, |store| {
            Box::pin(async move { docsite::same_bytes(store) })
        });
        add("pages_below_a_path_are_purged", true, |store| {
            Box::pin(purge::pages_below_a_path(store))
        });
        let has_example = !store.name.contains('-');
        add("its_example_counts_visits", has_example, |store| {
            Box::pin(async move { examples::counts_visits(store) })
        });
        // Replicas are behind, which is for their readers to know.
        let is_one = store.name != "redis-replicas" && store.name != "redis-sentinel";
        add(
            "d2_no_node_keeps_what_another_invalidated",
            is_one,
            |store| {
                Box::pin(async move { nodes::d2_no_node_keeps_what_another_invalidated(store) })
            },
        );
        // As for replicas: what is counted afterwards is behind.
        add("d10_what_is_cleared_is_this_caches_own", is_one, |store| {
            Box::pin(nodes::d10_what_is_cleared_is_this_caches_own(store))
        });
        add("c2_one_node_computes_for_all", is_one, |store| {
            Box::pin(async move { nodes::c2_one_node_computes_for_all(store) })
        });
        add("c3_a_killed_node_is_replaced", is_one, |store| {
            Box::pin(async move { nodes::c3_a_killed_node_is_replaced(store) })
        });
        let has_server = store.has_server;
        add("killed_clients_come_back", has_server, |store| {
            Box::pin(outages::killed_clients(store))
        });
        add("a_restart_is_survived", has_server, |store| {
            Box::pin(outages::restart(store))
        });
        add(
            "a_new_address_is_found",
            store.moves && outages::can_move(),
            |store| Box::pin(outages::new_address(store)),
        );
    }
    for (name, needs, test) in PECULIAR {
        trials.push(trial(*name, needs, test));
    }
    for (engine, needs, groups) in sql::ENGINES {
        for (name, case) in groups.iter().copied().flatten() {
            let name = format!("{engine}::{name}");
            trials.push(trial(name, needs, || case(sql::Target::shared(engine))));
        }
    }
    let mut arguments = Arguments::from_args();
    // Each starts servers and processes of its own; more at once would only share two cores.
    arguments.test_threads.get_or_insert(2);
    libtest_mimic::run(&arguments, trials).exit();
}

/// What is peculiar to one store.
const PECULIAR: &[Test] = tests! {
    file needs &[] => killed_writers_tear_nothing_and_leave_nothing;
    redis needs &["redis-server", "openssl"] =>
        user_password_and_database_open_what_is_locked, a_socket_does_too,
        tls_is_spoken_to_whom_the_authority_vouches_for, a_process_reads_its_own_writes,
        reads_are_spread_and_fall_back_to_the_leader, a_failover_is_followed,
        a_lock_has_one_holder_until_its_lease_ends, keys_of_a_prefix_are_found_and_removed,
        nodes_agree_on_tags_though_the_leader_changes_its_id,
        batches_and_counters_take_one_command, refusals_of_the_server_are_typed,
        no_call_waits_longer_than_its_deadline, a_write_over_a_lost_connection_happens,
        a_late_set_does_not_undo_the_next, one_node_that_hangs_holds_up_only_its_own,
        settings_are_followed_or_refused, what_is_compressed_takes_less_of_the_server;
    nodes needs &["redis-server"] =>
        c4_without_the_store_each_node_computes, d8_a_tag_costs_the_same_however_many_have_it;
    compare needs &["redis-server", "memcached", "postgres", "mariadbd"] =>
        a_lost_answer_of_redis_is_an_error, a_lost_answer_of_memcached_is_an_error,
        a_lost_answer_of_postgres_is_an_error, a_lost_answer_of_mysql_is_an_error;
    tiered needs &["redis-server", "postgres"] =>
        redis_carries_word_of_changes, postgres_carries_word_of_changes, near_hits_ask_nobody,
        a_half_open_line_to_redis_keeps_the_bound, a_half_open_line_to_postgres_keeps_the_bound,
        a_restart_of_the_server_keeps_the_bound, settings_make_the_tiers,
        the_example_runs_and_says_what_it_lacks;
    near needs &["redis-server", "postgres"] =>
        lost_messages_keep_the_bound_on_redis, lost_messages_keep_the_bound_on_postgres;
    memcached needs &["memcached"] =>
        too_large_is_refused_by_client_and_by_server, no_key_or_value_injects_a_command,
        forty_days_are_forty_days, cancelled_calls_leave_the_connection_in_step,
        one_server_more_moves_its_share, a_dead_server_is_a_miss_for_its_share,
        what_was_cleared_stays_away, a_socket_does_too, user_and_password_open_what_is_locked,
        many_calls_share_one_connection, a_server_that_hangs_costs_one_deadline,
        arithmetic_leaves_texts_of_digits_alone, a_batch_over_a_lost_connection_happens;
};
