//! The rules a backend obeys, as data: run them on a backend of your own. Outside semver.
//!
//! ```no_run
//! use axum_cache::backend::{AnyBackend, Memory};
//! use axum_cache::conformance::{CASES, Fixture};
//!
//! # async fn run() {
//! for case in CASES {
//!     let fixture = Fixture::new(AnyBackend::new(Memory::new()), |by| {
//!         Box::pin(tokio::time::sleep(by))
//!     });
//!     (case.run)(fixture).await.unwrap_or_else(|error| panic!("{}: {error}", case.name));
//! }
//! # }
//! ```
#![allow(clippy::missing_panics_doc, reason = "a case that fails panics")]

mod clear;
mod compare;
mod compute;
mod counter;
mod dummy;
mod get;
mod keys;
mod many;
mod prefix;
mod set;
mod ttl;
mod version;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crate::backend::{AnyBackend, Capabilities};
use crate::cache::{Cache, CacheBuilder};
use crate::error::Result;

/// A future of a case or of its clock.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// One behaviour.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Case {
    /// `group::behaviour`.
    pub name: &'static str,
    /// Runs it; it panics, or returns the backend's error, where the backend does not behave.
    pub run: fn(Fixture) -> BoxFuture<Result<()>>,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Case").field(&self.name).finish()
    }
}

/// Lists the functions of the modules as cases, so that none is forgotten: a function that is not
/// listed is never used, which is a warning.
macro_rules! cases {
    ($($group:ident: $($case:ident),+ $(,)?;)+) => {
        &[$($(Case {
            name: concat!(stringify!($group), "::", stringify!($case)),
            run: |fixture| Box::pin($group::$case(fixture)),
        },)+)+]
    };
}

/// What every backend does.
pub const CASES: &[Case] = cases! {
    get: a_missing_key_is_none, a_stored_none_is_a_hit, every_kind_of_value_comes_back,
        another_type_is_a_miss, contains_sees_live_entries_only;
    set: an_overwrite_replaces_value_and_lifetime, add_stores_only_where_nothing_lives,
        add_takes_the_place_of_an_expired_entry, an_unencodable_value_leaves_the_old_one,
        an_oversize_value_leaves_nothing, delete_says_whether_something_lived,
        sixty_four_adds_have_one_winner;
    ttl: zero_stores_nothing_and_drops_what_is_there, add_for_no_time_stores_nothing,
        an_entry_expires_and_not_before, never_means_never, long_lifetimes_are_kept,
        a_fraction_is_never_zero, touch_replaces_the_lifetime_only,
        touch_of_a_permanent_entry_is_true, touch_does_not_revive, the_remaining_lifetime_is_known;
    counter: incr_and_decr_return_the_new_value, a_missing_or_expired_counter_is_not_created,
        only_integers_count, the_range_is_checked, the_lifetime_is_kept, no_update_is_lost;
    compare: equal_bytes_are_replaced_and_no_others, nothing_is_not_replaced,
        the_new_lifetime_counts, equal_bytes_renew_the_lifetime, any_bytes_are_compared,
        counters_are_compared_by_their_digits, of_sixty_four_at_once_one_wins,
        equal_bytes_at_once_are_all_renewed;
    many: get_many_answers_with_the_hits, get_many_answers_each_spelling,
        one_bad_item_does_not_stop_a_batch, set_many_for_no_time_removes,
        delete_many_ignores_missing_keys, empty_batches_do_nothing;
    version: versions_are_unrelated, a_move_takes_value_and_lifetime_along,
        a_move_replaces_what_is_there, a_move_of_nothing_is_an_error;
    keys: odd_keys_come_back_and_stay_apart, long_keys_stay_apart, prefixes_stay_apart;
    clear: clear_spares_other_prefixes, clear_takes_every_version, an_entry_after_clear_lives;
    prefix: what_begins_with_it_goes_and_nothing_else, no_character_stands_for_others,
        versions_and_other_caches_are_spared, hashed_keys_go_too, all_of_many_go, namespaces_that_begin_with_it_go;
    compute: a_hit_computes_nothing, a_computed_none_is_a_hit_next_time,
        callers_at_once_share_one_computation, an_error_is_shared_and_not_stored,
        a_panic_releases_the_key, for_no_time_nothing_is_stored,
        another_writer_wins, a_delete_meanwhile_is_not_undone, a_clear_meanwhile_is_not_undone,
        a_delete_of_its_prefix_meanwhile_is_not_undone,
        a_caller_that_leaves_does_not_cancel, what_cannot_be_decoded_is_computed_anew;
};

/// What a store that keeps nothing does.
pub const DUMMY_CASES: &[Case] = cases! {
    dummy: reads_miss_and_writes_succeed, counters_and_versions_find_nothing,
        computing_happens_each_time;
};

type Advance = Arc<dyn Fn(Duration) -> BoxFuture<()> + Send + Sync>;

/// A backend under test, with a key prefix of its own for each case, so that cases can share a
/// store and run at the same time.
#[derive(Clone)]
pub struct Fixture {
    backend: AnyBackend,
    prefix: String,
    advance: Advance,
}

impl fmt::Debug for Fixture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fixture")
            .field("backend", &self.backend)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl Fixture {
    /// A fixture over `backend`; `advance` moves its clock, or sleeps.
    pub fn new(
        backend: AnyBackend,
        advance: impl Fn(Duration) -> BoxFuture<()> + Send + Sync + 'static,
    ) -> Self {
        static CASE: AtomicU64 = AtomicU64::new(0);
        let case = CASE.fetch_add(1, Ordering::Relaxed);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let nanos = now.unwrap_or_default().as_nanos();
        Self {
            backend,
            prefix: format!("{}.{nanos}.{case}", std::process::id()),
            advance: Arc::new(advance),
        }
    }

    /// A cache over the backend, with the prefix of the case.
    fn cache(&self) -> Cache {
        self.cache_with("", |builder| builder)
    }

    /// Another, whose prefix ends in `suffix`.
    fn cache_with(&self, suffix: &str, change: impl FnOnce(CacheBuilder) -> CacheBuilder) -> Cache {
        let builder =
            Cache::builder(self.backend.clone()).key_prefix(format!("{}{suffix}", self.prefix));
        change(builder).build().expect("the prefix is short")
    }

    fn capabilities(&self) -> Capabilities {
        self.backend.as_dyn().capabilities()
    }

    /// A lifetime that is short for this store.
    fn short(&self) -> Duration {
        self.capabilities().ttl_unit.max(Duration::from_millis(50))
    }

    /// What `attempt` comes to while what it stores lives for `ttl`. On a busy machine that may be
    /// over before it ends, which says nothing of the backend: then it is made again.
    async fn within<F>(&self, ttl: Duration, attempt: impl Fn() -> F) -> Result<bool>
    where
        F: Future<Output = Result<bool>>,
    {
        for _ in 0..50 {
            let start = Instant::now();
            let outcome = attempt().await;
            if start.elapsed() < ttl {
                return outcome;
            }
        }
        panic!("no attempt ends within {ttl:?}");
    }

    /// Waits until what was to live for `ttl` is gone.
    async fn outlive(&self, ttl: Duration) {
        let unit = self.capabilities().ttl_unit;
        (self.advance)(ttl + 2 * unit + Duration::from_millis(20)).await;
    }
}
