//! What goes wrong with computations, crowds and invalidations, and what the cache makes of it.
//!
//! Each test prints its figures beside its criterion; the names begin with the scenario. Most run
//! in virtual time: a figure of 50 ms there is exact. The run is short unless `AXUM_CACHE_LONG` is
//! set.
#![allow(clippy::unwrap_used, reason = "a failed test may panic")]
#![allow(clippy::print_stdout, reason = "figures beside their criterion")]

mod crowds;
mod failing;
mod order;
mod tools;

use libtest_mimic::{Arguments, Trial};

use tools::{Running, in_real_time, in_virtual_time};

type Test = (&'static str, fn() -> Running);

macro_rules! tests {
    ($($module:ident: $($test:ident),+ $(,)?;)+) => {
        &[$($((concat!(stringify!($module), "::", stringify!($test)), || {
            Box::pin($module::$test())
        }),)+)+]
    };
}

/// In virtual time.
const TIMED: &[Test] = tests! {
    failing:
        b1_errors_are_throttled_and_stale_is_served, b2_a_cold_error_is_everyones,
        b3_a_panic_frees_the_key, b4_a_hung_computation_times_out,
        b5_slow_ones_are_finished_in_the_background, b7_refreshes_are_bounded,
        b8_closing_drains, b9_nothing_is_served_beyond_its_window,
        d11_expired_is_stale_and_invalidated_is_gone, d13_what_lacks_a_tag_is_not_served;
    crowds:
        c1_one_computation_for_a_crowd, c8_one_refresh_an_expiry, c9_jitter_spreads,
        c10_who_waits_for_each_other_is_freed, c11_keys_do_not_wait_for_each_other,
        c12_two_types_of_one_key, c14_bad_keys_are_never_shared,
        batches_refresh_what_is_stale;
    order: d6_within_one_tick;
};

/// In real time, on two threads.
const RACES: &[Test] = tests! {
    crowds: c13_batches_that_overlap;
    order: d1_nothing_older_after_an_invalidation, d3_nor_by_refreshes_and_late_ones;
};

/// Whether the long run was asked for.
fn is_long() -> bool {
    std::env::var_os("AXUM_CACHE_LONG").is_some()
}

fn main() {
    let arguments = Arguments::from_args();
    let timed = TIMED.iter().map(|(name, test)| {
        Trial::test(*name, || {
            in_virtual_time(test());
            Ok(())
        })
    });
    let races = RACES.iter().map(|(name, test)| {
        Trial::test(*name, || {
            in_real_time(test());
            Ok(())
        })
    });
    let trials = timed.chain(races).collect();
    libtest_mimic::run(&arguments, trials).exit();
}
