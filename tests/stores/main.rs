//! What only real servers and real processes prove; each test runs on every store that it is for.
//!
//! `store::test` names one. A store whose server is not installed is ignored.
#![allow(clippy::unwrap_used, reason = "a failed test may panic")]
#![allow(clippy::print_stdout, reason = "a child answers its parent there")]

mod child;
mod outages;
mod races;
mod services;

#[path = "../support/mod.rs"]
mod support;

use std::future::Future;
use std::pin::Pin;

use libtest_mimic::{Arguments, Trial};

use services::{STORES, Store};
use support::servers::is_installed;

type Running = Pin<Box<dyn Future<Output = ()>>>;

/// What runs on a store.
type Test = fn(&'static Store) -> Running;

fn main() {
    if let Some(workload) = child::workload() {
        return child::run(&workload);
    }
    let mut trials = Vec::new();
    for store in STORES {
        let mut add = |name: &str, applies: bool, test: Test| {
            if applies {
                let name = format!("{}::{name}", store.name);
                let ignored = !store.needs.iter().all(|program| is_installed(program));
                let trial = Trial::test(name, move || Ok(block_on(test(store))));
                trials.push(trial.with_ignored_flag(ignored));
            }
        };
        add("one_of_64_racers_adds", true, |store| {
            Box::pin(races::adds(store))
        });
        add("no_count_of_four_processes_is_lost", true, |store| {
            Box::pin(races::counts(store))
        });
        add("no_read_is_torn_or_missed", true, |store| {
            Box::pin(races::reads(store))
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
            has_server && outages::can_move(),
            |store| Box::pin(outages::new_address(store)),
        );
    }
    let mut arguments = Arguments::from_args();
    // Each starts servers and processes of its own; more at once would only share two cores.
    arguments.test_threads.get_or_insert(2);
    libtest_mimic::run(&arguments, trials).exit();
}

fn block_on(test: Running) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(test);
}
