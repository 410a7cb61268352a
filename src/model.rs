//! Models of what must hold in whatever order things happen, on the real tables of flights and fills,
//! with the store and the data behind it played.
//!
//! Run: `RUSTFLAGS="--cfg shuttle" cargo test --no-default-features --lib model`
//!
//! The checker runs each model in many random orders, ten times as many with `AXUM_CACHE_LONG`, and in
//! orders with few but nasty turns.

use std::sync::Arc;

use shuttle::future::{JoinHandle, block_on, spawn};
use shuttle::sync::Mutex;
use shuttle::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use shuttle::{check_pct, check_random};

use crate::fence::Fences;
use crate::flight::{Flights, Lost, Role};

fn check(model: fn()) {
    let is_long = std::env::var_os("AXUM_CACHE_LONG").is_some();
    let orders = if is_long { 100_000 } else { 10_000 };
    check_random(model, orders);
    check_pct(model, orders / 10, 3);
}

/// A cache of one key, as `Cache` puts it together.
#[derive(Default)]
struct Played {
    fences: Arc<Fences>,
    flights: Arc<Flights<u64>>,
    stored: Mutex<Option<u64>>,
    /// The version of the data, and the one up to which invalidations have returned.
    data: AtomicU64,
    settled: AtomicU64,
    computing: AtomicUsize,
    computations: Mutex<Vec<JoinHandle<()>>>,
}

impl Played {
    /// Waits for all computations: what the checker ends has no locks any more.
    async fn end(&self) {
        let computations = std::mem::take(&mut *self.computations.lock().unwrap());
        for computation in computations {
            computation.await.unwrap();
        }
    }

    fn look(&self) -> Option<u64> {
        *self.stored.lock().unwrap()
    }

    /// Reads the value, or computes it: what was seen.
    async fn read(self: &Arc<Self>) -> u64 {
        if let Some(value) = self.look() {
            return value;
        }
        match self.flights.enter("k") {
            Role::Follower(mut follower) => match follower.result().await {
                Ok(value) => value,
                Err(Lost) => panic!("nobody is lost here"),
            },
            Role::Leader(landing) => {
                let mut follower = landing.follower();
                let fill = self.fences.begin("k");
                let played = Arc::clone(self);
                let computation = spawn(async move {
                    // What is there by now counts.
                    let value = match played.look() {
                        Some(value) => value,
                        None => {
                            played.computing.fetch_add(1, Ordering::SeqCst);
                            let value = played.data.load(Ordering::SeqCst);
                            shuttle::future::yield_now().await;
                            let write = async { *played.stored.lock().unwrap() = Some(value) };
                            fill.land(write).await;
                            value
                        }
                    };
                    landing.land(value);
                });
                self.computations.lock().unwrap().push(computation);
                follower.result().await.unwrap()
            }
        }
    }

    /// By the key, or by a prefix of it.
    async fn bar(&self, is_wide: bool) {
        self.flights.forget("k");
        if is_wide {
            self.fences.invalidate_prefix("").await;
        } else {
            self.fences.invalidate("k").await;
        }
    }

    /// Changes the data and says so, as `Cache::removing` does.
    async fn change(&self, is_wide: bool) {
        let version = self.data.fetch_add(1, Ordering::SeqCst) + 1;
        self.bar(is_wide).await;
        *self.stored.lock().unwrap() = None;
        self.bar(is_wide).await;
        self.settled.fetch_max(version, Ordering::SeqCst);
    }
}

#[test]
fn no_read_sees_what_was_invalidated_before_it_began() {
    check(|| {
        block_on(async {
            let played = Arc::new(Played::default());
            let mut tasks = Vec::new();
            for _ in 0..3 {
                let played = Arc::clone(&played);
                tasks.push(spawn(async move {
                    let settled = played.settled.load(Ordering::SeqCst);
                    let seen = played.read().await;
                    assert!(seen >= settled, "{seen} is older than {settled}");
                }));
            }
            for _ in 0..2 {
                let played = Arc::clone(&played);
                tasks.push(spawn(async move { played.change(false).await }));
            }
            for task in tasks {
                task.await.unwrap();
            }
            played.end().await;
            let settled = played.settled.load(Ordering::SeqCst);
            assert!(played.look().is_none_or(|stored| stored >= settled));
        });
    });
}

#[test]
fn what_was_read_before_a_fill_began_lands_only_if_nothing_was_invalidated_since() {
    check(|| {
        block_on(async {
            let played = Arc::new(Played::default());
            let readers = [(); 2].map(|()| {
                let played = Arc::clone(&played);
                spawn(async move {
                    let since = played.fences.now("k");
                    let value = played.data.load(Ordering::SeqCst);
                    shuttle::future::yield_now().await;
                    let Some(fill) = played.fences.begin_since("k", since) else {
                        return;
                    };
                    let write = async { *played.stored.lock().unwrap() = Some(value) };
                    fill.land(write).await;
                })
            });
            let changes = [false, true].map(|is_wide| {
                let played = Arc::clone(&played);
                spawn(async move { played.change(is_wide).await })
            });
            for task in readers.into_iter().chain(changes) {
                task.await.unwrap();
            }
            let settled = played.settled.load(Ordering::SeqCst);
            assert!(played.look().is_none_or(|stored| stored >= settled));
            assert!(played.fences.is_empty());
        });
    });
}

#[test]
fn a_crowd_computes_once() {
    check(|| {
        block_on(async {
            let played = Arc::new(Played::default());
            let readers = [(); 4].map(|()| {
                let played = Arc::clone(&played);
                spawn(async move { played.read().await })
            });
            for reader in readers {
                assert_eq!(reader.await.unwrap(), 0);
            }
            played.end().await;
            assert_eq!(played.computing.load(Ordering::SeqCst), 1);
        });
    });
}

#[test]
fn a_leader_that_is_lost_leaves_nobody_waiting() {
    check(|| {
        block_on(async {
            let flights = Arc::new(Flights::<u64>::default());
            let callers = [(); 3].map(|()| {
                let flights = Arc::clone(&flights);
                spawn(async move {
                    match flights.enter("k") {
                        Role::Leader(landing) => {
                            shuttle::future::yield_now().await;
                            drop(landing);
                            Err(Lost)
                        }
                        Role::Follower(mut follower) => follower.result().await,
                    }
                })
            });
            for caller in callers {
                assert_eq!(caller.await.unwrap(), Err(Lost));
            }
            // The key is free.
            assert!(matches!(flights.enter("k"), Role::Leader(_)));
        });
    });
}

#[test]
fn fills_end_and_leave_no_gate() {
    check(|| {
        block_on(async {
            let fences = Arc::new(Fences::default());
            let written = Arc::new(AtomicUsize::new(0));
            let fills = [(); 3].map(|()| {
                let (fences, written) = (Arc::clone(&fences), Arc::clone(&written));
                spawn(async move {
                    let fill = fences.begin("k");
                    shuttle::future::yield_now().await;
                    let write = async { written.fetch_add(1, Ordering::SeqCst) };
                    fill.land(write).await;
                })
            });
            let barred = spawn({
                let (fences, written) = (Arc::clone(&fences), Arc::clone(&written));
                async move {
                    fences.invalidate("k").await;
                    written.load(Ordering::SeqCst)
                }
            });
            for fill in fills {
                fill.await.unwrap();
            }
            assert!(barred.await.unwrap() <= written.load(Ordering::SeqCst));
            assert!(fences.is_empty());
        });
    });
}
