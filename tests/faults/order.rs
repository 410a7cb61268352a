//! What is invalidated while it is computed, in random orders, against an oracle.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum_cache::backend::Memory;
use axum_cache::clock::ManualClock;
use axum_cache::{Cache, Computed, Policy, Ttl};
use tokio::task::JoinSet;

use crate::is_long;
use crate::tools::{SECOND, report};

/// What the cache is in front of: a version of the data, and the one up to which invalidations have
/// returned.
#[derive(Debug, Default)]
struct Data {
    version: AtomicU64,
    settled: AtomicU64,
}

/// A sequence of numbers that a seed determines.
#[derive(Clone)]
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % limit
    }

    async fn pause(&mut self) {
        for _ in 0..self.below(4) {
            tokio::task::yield_now().await;
        }
    }
}

/// How the data is declared out of date.
#[derive(Clone, Copy, Debug)]
enum By {
    Delete,
    Tag,
    LateTag,
    Clear,
    Prefix,
}

const WAYS: [By; 5] = [By::Delete, By::Tag, By::LateTag, By::Clear, By::Prefix];

async fn read(cache: &Cache, by: By, policy: Policy, data: &Arc<Data>, mut chance: Chance) -> u64 {
    let data = Arc::clone(data);
    let tagged = match by {
        By::Tag => cache.with_tags(["t"]),
        _ => cache.clone(),
    };
    let value = tagged.get_or_set_with("k:1", policy, |_: Option<u64>| async move {
        chance.pause().await;
        let version = data.version.load(Ordering::SeqCst);
        chance.pause().await;
        let computed = Computed::new(version);
        Ok::<_, io::Error>(match by {
            By::LateTag => computed.tags(["t"]),
            _ => computed,
        })
    });
    value.await.unwrap()
}

async fn invalidate(cache: &Cache, by: By) {
    match by {
        By::Delete => drop(cache.delete("k:1").await.unwrap()),
        By::Tag | By::LateTag => cache.invalidate(["t"]).await.unwrap(),
        By::Clear => cache.clear().await.unwrap(),
        By::Prefix => drop(cache.delete_prefix("k:").await.unwrap()),
    }
}

/// Runs so many schedules: how many reads there were, and how many saw what was out of date before
/// they began.
async fn schedules(count: u64, policy: Policy) -> (u64, u64) {
    let (mut reads, mut violations) = (0, 0);
    for seed in 0..count {
        let cache = Cache::new(Memory::new());
        let data = Arc::new(Data::default());
        let by = WAYS[usize::try_from(seed % 5).unwrap()];
        let mut tasks = JoinSet::new();
        for reader in 0..3 {
            let (cache, data) = (cache.clone(), Arc::clone(&data));
            let mut chance = Chance(seed * 31 + reader);
            tasks.spawn(async move {
                let (mut reads, mut violations) = (0, 0);
                for _ in 0..3 {
                    chance.pause().await;
                    let settled = data.settled.load(Ordering::SeqCst);
                    let seen = read(&cache, by, policy, &data, chance.clone()).await;
                    reads += 1;
                    violations += u64::from(seen < settled);
                }
                (reads, violations)
            });
        }
        let (changed, mut chance) = (Arc::clone(&data), Chance(seed * 31 + 7));
        let changing = cache.clone();
        tasks.spawn(async move {
            for _ in 0..2 {
                chance.pause().await;
                let version = changed.version.fetch_add(1, Ordering::SeqCst) + 1;
                invalidate(&changing, by).await;
                changed.settled.fetch_max(version, Ordering::SeqCst);
            }
            (0, 0)
        });
        for (more, bad) in tasks.join_all().await {
            reads += more;
            violations += bad;
        }
        // And nothing lands afterwards.
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
        if let Some(seen) = cache.get::<u64>("k:1").await.unwrap() {
            reads += 1;
            violations += u64::from(seen < data.settled.load(Ordering::SeqCst));
        }
    }
    (reads, violations)
}

pub(crate) async fn d1_nothing_older_after_an_invalidation() {
    let count = if is_long() { 100_000 } else { 10_000 };
    let (reads, violations) = schedules(count, Policy::new(60 * SECOND)).await;
    report(
        "D1",
        "0 older reads after an invalidation returned",
        format_args!("{violations} of {reads} in {count} schedules"),
    );
    assert_eq!(violations, 0);
}

pub(crate) async fn d3_nor_by_refreshes_and_late_ones() {
    let count = if is_long() { 100_000 } else { 10_000 };
    // Stale at once, so that nearly every read refreshes behind.
    let policy = Policy::new(Duration::from_nanos(1))
        .stale_while_revalidate(60 * SECOND)
        .stale_if_error(60 * SECOND)
        .soft_timeout(Duration::from_micros(1));
    let (reads, violations) = schedules(count, policy).await;
    report(
        "D3",
        "0 older reads, with refreshes in the background and soft timeouts",
        format_args!("{violations} of {reads} in {count} schedules"),
    );
    assert_eq!(violations, 0);
}

pub(crate) async fn d6_within_one_tick() {
    let rounds = 100_000;
    let clock = ManualClock::new();
    let memory = Memory::builder().clock(clock.clone()).build().unwrap();
    let cache = Cache::builder(memory).clock(clock).build().unwrap();
    let tagged = cache.with_tags(["t"]);
    let mut wrong = 0;
    for round in 0..rounds {
        tagged.set("k", &round, Ttl::Default).await.unwrap();
        cache.invalidate(["t"]).await.unwrap();
        wrong += u32::from(cache.get::<u32>("k").await.unwrap().is_some());
        tagged.set("k", &(round + 1), Ttl::Default).await.unwrap();
        wrong += u32::from(cache.get::<u32>("k").await.unwrap() != Some(round + 1));
    }
    report(
        "D6",
        "0 wrong in 100,000 rounds of one tick",
        format_args!("{wrong}"),
    );
    assert_eq!(wrong, 0);
}
