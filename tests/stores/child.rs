//! This program as a client process of its own: `CACHE_URL` says of which store, a variable what
//! it does there, and its standard output what came of it.

use std::time::{Duration, Instant, SystemTime};

use axum_cache::{Cache, Caches, Ttl};
use tokio::task::JoinSet;

pub(crate) use crate::client::{Client, order, say, workload};

/// How long what the workloads store lives.
pub(crate) const TTL: Duration = Duration::from_secs(900);

/// Keys that are written and read at the same time.
pub(crate) const HOT_KEYS: usize = 8;

/// Does the workload, and ends with the input.
pub(crate) fn run(workload: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let caches = Caches::from_env().await.unwrap();
        let cache = caches.default();
        match workload {
            "add" => add(&cache).await,
            "count" => count(&cache).await,
            "write" => write(&cache).await,
            "read" => read(&cache).await,
            "steady" => steady(&cache).await,
            "compute" => crate::nodes::compute(&cache).await,
            "fenced" => crate::nodes::fenced(&cache).await,
            "near-redis" => crate::near::node("redis").await,
            "near-postgres" => crate::near::node("postgres").await,
            other => panic!("{other} is no workload"),
        }
    });
}

/// `FROM TO`: 16 tasks race to add each of these keys. Says who won: `1` or `0` a key.
async fn add(cache: &Cache) {
    say("ready");
    while let Some(order) = order().await {
        let (from, to) = order.split_once(' ').unwrap();
        let (from, to): (usize, usize) = (from.parse().unwrap(), to.parse().unwrap());
        let mut won = Vec::new();
        for round in from..to {
            let mut racers = JoinSet::new();
            for _ in 0..16 {
                let cache = cache.clone();
                racers.spawn(async move { cache.add(&format!("race:{round}"), &1, TTL).await });
            }
            let wins = racers.join_all().await.into_iter();
            let wins = wins.filter(|won| *won.as_ref().unwrap()).count();
            won.push(wins.to_string());
        }
        say(won.join(" "));
    }
}

/// `N`: increments a counter so often, from eight tasks.
async fn count(cache: &Cache) {
    say("ready");
    while let Some(order) = order().await {
        let each = order.parse::<usize>().unwrap() / 8;
        let mut tasks = JoinSet::new();
        for _ in 0..8 {
            let cache = cache.clone();
            tasks.spawn(async move {
                for _ in 0..each {
                    cache.incr("count", 1).await.unwrap();
                }
            });
        }
        tasks.join_all().await;
        say("done");
    }
}

/// A value in which a torn read shows.
fn pattern(number: u32) -> Vec<u32> {
    vec![number; 500]
}

pub(crate) fn is_whole(value: &[u32]) -> bool {
    value.len() == 500 && value.iter().all(|number| *number == value[0])
}

/// Sets and touches the hot keys until the end of the input, and says how often.
async fn write(cache: &Cache) {
    for key in 0..HOT_KEYS {
        let key = format!("hot:{key}");
        cache.set(&key, &pattern(0), TTL).await.unwrap();
    }
    say("ready");
    let (mut end, mut writes) = (Box::pin(order()), 0);
    loop {
        for key in 0..HOT_KEYS {
            let key = format!("hot:{key}");
            cache.set(&key, &pattern(writes), TTL).await.unwrap();
            assert!(cache.touch(&key, TTL).await.unwrap());
            writes += 1;
        }
        let next = tokio::time::timeout(Duration::from_millis(1), &mut end).await;
        if next.is_ok() {
            say(writes);
            return;
        }
    }
}

/// `N`: reads hot keys so often, from eight tasks. Says how many reads were missed, torn or
/// failed, and an example.
async fn read(cache: &Cache) {
    say("ready");
    while let Some(order) = order().await {
        let each = order.parse::<usize>().unwrap() / 8;
        let mut tasks = JoinSet::new();
        for task in 0..8 {
            let cache = cache.clone();
            tasks.spawn(async move {
                let (mut bad, mut example) = (0, String::new());
                for read in 0..each {
                    let key = format!("hot:{}", (task + read) % HOT_KEYS);
                    let outcome = cache.get::<Vec<u32>>(&key).await;
                    if !matches!(&outcome, Ok(Some(value)) if is_whole(value)) {
                        bad += 1;
                        example = format!("{outcome:.200?}");
                    }
                }
                (bad, example)
            });
        }
        let outcomes = tasks.join_all().await;
        let bad: usize = outcomes.iter().map(|(bad, _)| bad).sum();
        let example = outcomes.iter().map(|(_, example)| example.as_str());
        say(format!("{bad} {}", example.collect::<String>()));
    }
}

/// Sets and gets, one after the other, until the end of the input. Says of each when it began, how
/// long it took, in milliseconds, and `ok` or how it failed.
async fn steady(cache: &Cache) {
    say("ready");
    let mut end = Box::pin(order());
    for number in 0_u64.. {
        for is_set in [true, false] {
            let (began, start) = (unix_millis(), Instant::now());
            let outcome = if is_set {
                cache.set("steady", &number, Ttl::Default).await
            } else {
                // A server that lost everything answers rightly with nothing.
                let found = cache.get::<u64>("steady").await;
                found.map(drop)
            };
            let took = start.elapsed().as_millis();
            match outcome {
                Ok(()) => say(format_args!("{began} {took} ok")),
                Err(error) => say(format_args!("{began} {took} {:?}: {error}", error.kind())),
            }
        }
        let next = tokio::time::timeout(Duration::from_millis(2), &mut end).await;
        if next.is_ok() {
            return;
        }
    }
}

pub(crate) fn unix_millis() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(now.unwrap().as_millis()).unwrap()
}
