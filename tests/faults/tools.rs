//! Time that tests own, computations that count themselves, and figures beside criteria.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use axum_cache::backend::Memory;
use axum_cache::clock::Clock;
use axum_cache::{Cache, CacheBuilder};
use tokio::time::Instant;

pub(crate) type Running = Pin<Box<dyn Future<Output = ()>>>;

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MILLI: Duration = Duration::from_millis(1);

/// The clock of the runtime, which stands still while anything runs, and jumps to what is waited
/// for next.
#[derive(Clone, Debug)]
struct Virtual {
    start: Instant,
    wall: SystemTime,
}

impl Clock for Virtual {
    fn now(&self) -> SystemTime {
        self.wall + self.monotonic()
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

/// A cache in memory whose time is the runtime's.
pub(crate) fn cache() -> Cache {
    builder().build().unwrap()
}

pub(crate) fn builder() -> CacheBuilder {
    let (clock, memory) = store();
    Cache::builder(memory).clock(clock)
}

/// Two nodes over one store.
pub(crate) fn builders() -> [CacheBuilder; 2] {
    let (clock, memory) = store();
    [(); 2].map(|()| Cache::builder(memory.clone()).clock(clock.clone()))
}

fn store() -> (Virtual, Memory) {
    let clock = Virtual {
        start: Instant::now(),
        wall: SystemTime::now(),
    };
    let memory = Memory::builder().clock(clock.clone()).build().unwrap();
    (clock, memory)
}

pub(crate) fn in_virtual_time(test: Running) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(test);
}

pub(crate) fn in_real_time(test: Running) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(test);
}

/// Counts something.
#[derive(Clone, Debug, Default)]
pub(crate) struct Count(Arc<AtomicUsize>);

impl Count {
    /// Counts one more: the number of it, from 1.
    pub(crate) fn next(&self) -> usize {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }

    pub(crate) fn less(&self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }

    pub(crate) fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// A computation that takes so long and makes its number.
pub(crate) async fn numbered(count: Count, takes: Duration) -> io::Result<usize> {
    let number = count.next();
    tokio::time::sleep(takes).await;
    Ok(number)
}

/// A computation that fails.
pub(crate) async fn failing(count: Count, takes: Duration) -> io::Result<usize> {
    count.next();
    tokio::time::sleep(takes).await;
    Err(io::Error::other("on purpose"))
}

/// Prints a figure beside its criterion.
pub(crate) fn report(scenario: &str, criterion: &str, figure: impl std::fmt::Display) {
    println!("| {scenario} | {criterion} | {figure} |");
}
