//! What is particular to the memory store; the rest is in the conformance suite.
#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use super::*;
use crate::Cache;
use crate::Ttl;
use crate::clock::ManualClock;

fn bounded(entries: usize) -> (Memory, Cache) {
    let memory = Memory::builder().max_entries(entries).build().unwrap();
    (memory.clone(), Cache::new(memory))
}

#[tokio::test]
async fn lm_01_stores_of_one_location_share_and_unnamed_ones_do_not() {
    let at = |location: &str| Memory::builder().location(location).build().unwrap();
    let (one, same, other) = (at("lm01"), at("lm01"), at("lm01-other"));
    let unnamed = Cache::new(Memory::new());
    let one = Cache::new(one);
    one.set("k", &1, Ttl::Default).await.unwrap();
    assert_eq!(Cache::new(same).get::<i32>("k").await.unwrap(), Some(1));
    assert_eq!(Cache::new(other).get::<i32>("k").await.unwrap(), None);
    unnamed.set("k", &2, Ttl::Default).await.unwrap();
    let second = Cache::new(Memory::new());
    assert_eq!(second.get::<i32>("k").await.unwrap(), None);
}

#[test]
fn lm_01_one_location_with_two_sets_of_options_is_refused() {
    let _first = Memory::builder().location("lm01b").build().unwrap();
    let second = Memory::builder()
        .location("lm01b")
        .max_bytes(1 << 20)
        .build();
    assert_eq!(second.unwrap_err().kind(), ErrorKind::Config);
}

#[tokio::test]
async fn lm_04_an_overwrite_in_a_full_store_evicts_nothing() {
    let (memory, cache) = bounded(9);
    for key in 0..9 {
        cache
            .set(&key.to_string(), &key, Ttl::Default)
            .await
            .unwrap();
    }
    let held = memory.len();
    cache.set("8", &80, Ttl::Default).await.unwrap();
    assert_eq!(memory.len(), held);
}

#[tokio::test]
async fn lm_05_max_entries_holds_and_the_newest_is_kept() {
    for entries in [1, 3, 30, 300] {
        let (memory, cache) = bounded(entries);
        for key in 0..3 * entries {
            cache
                .set(&key.to_string(), &key, Ttl::Default)
                .await
                .unwrap();
            assert!(memory.len() <= entries);
        }
        assert!(
            memory.len() * 10 >= entries * 9,
            "{} of {entries}",
            memory.len()
        );
    }
}

#[tokio::test]
async fn lm_06_bytes_are_bounded_with_keys_counted() {
    let memory = Memory::builder().max_bytes(1 << 20).build().unwrap();
    let cache = Cache::new(memory.clone());
    for key in 0..20_000 {
        let key = format!("{key:0>200}");
        cache.set(&key, "v", Ttl::Default).await.unwrap();
        assert!(memory.weight() <= 1 << 20);
    }
    assert!(memory.len() > 1000);
}

/// G1: what is counted is no less than what is there, however small the entries, and at every step of the map.
#[tokio::test]
async fn g1_entries_count_for_what_they_take() {
    const LIMIT: usize = 16 << 20;
    let allocated = |bytes: usize| (bytes + size_of::<usize>()).next_multiple_of(16).max(32);
    let space = crate::key::KeySpace::default();
    for length in [0, 1, 9, 100, 1001, 10_000] {
        let memory = Memory::builder().max_bytes(LIMIT).build().unwrap();
        let each = [length, 3 * size_of::<usize>(), Entry::ALLOCATED].map(allocated);
        let each: usize = each.iter().sum();
        for number in 1..=100_000 {
            let key = space.key(1, &format!("{number:0>6}")).unwrap();
            let entry = Entry::new(vec![7; length]);
            memory.set(&key, entry, Lifetime::Forever).await.unwrap();
            if number % 500 == 0 {
                let entries = memory.len() * (each + allocated(key.as_str().len()));
                let taken = entries + memory.store.map_bytes();
                let counted = usize::try_from(memory.weight()).unwrap();
                // What it remembers of keys that it evicted is not counted.
                let most = counted + LIMIT / 12;
                assert!(taken <= most, "{length}, {number}: {taken} of {counted}");
            }
        }
        assert!(memory.weight() > 15 << 20);
    }
}

#[tokio::test]
async fn lm_06_expired_entries_are_swept_without_being_read() {
    let clock = ManualClock::new();
    let memory = Memory::builder().clock(clock.clone()).build().unwrap();
    let cache = Cache::new(memory.clone());
    for key in 0..100 {
        let ttl = Duration::from_secs(10);
        cache.set(&key.to_string(), &key, ttl).await.unwrap();
    }
    clock.advance(Duration::from_secs(61));
    cache.set("live", &1, Ttl::Default).await.unwrap();
    while memory.len() > 1 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_evicted_flood_leaves_the_hot_set() {
    let (_, cache) = bounded(1000);
    for key in 0..100 {
        cache
            .set(&format!("hot{key}"), &key, Ttl::Default)
            .await
            .unwrap();
    }
    for flood in 0..20_000_u32 {
        cache
            .set(&format!("flood{flood}"), &flood, Ttl::Default)
            .await
            .unwrap();
        let hot = format!("hot{}", flood % 100);
        let _ = cache.get::<u32>(&hot).await.unwrap();
    }
    let mut kept = 0;
    for key in 0..100 {
        kept += u32::from(cache.contains(&format!("hot{key}")).await.unwrap());
    }
    assert!(kept >= 98, "{kept}");
}

#[tokio::test]
async fn works_without_a_runtime() {
    // `clear` and sweeps move to a blocking thread only where there is a runtime.
    let outside = std::thread::spawn(|| {
        let memory = Memory::new();
        memory.store.clear(":");
        memory.is_empty()
    });
    assert!(outside.join().unwrap());
}

#[test]
fn a_limit_of_zero_is_refused() {
    for builder in [
        Memory::builder().max_bytes(0),
        Memory::builder().max_entries(0),
    ] {
        assert_eq!(builder.build().unwrap_err().kind(), ErrorKind::Config);
    }
}

#[test]
fn what_is_replaced_while_a_prefix_goes_goes_too() {
    let memory = Memory::new();
    let space = crate::key::KeySpace::default();
    let keys: Vec<_> = (0..2000)
        .map(|number| space.key(1, &format!("p{number}")).unwrap())
        .collect();
    let lifetime = crate::ttl::Lifetime::Forever;
    for _ in 0..20 {
        for key in &keys {
            let slot = memory.store.slot(key, Entry::new("1"), lifetime);
            memory.store.update(&key.text(), |_| (Some(slot), ()));
        }
        let touched = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !touched.load(std::sync::atomic::Ordering::SeqCst) {
                    for key in &keys {
                        memory.store.update(&key.text(), |live| {
                            let anew = live.map(|live| live.with_entry(Entry::new("2")));
                            (anew, ())
                        });
                    }
                }
            });
            let deleted = memory.store.delete_prefix(":1:p");
            touched.store(true, std::sync::atomic::Ordering::SeqCst);
            assert_eq!(deleted, 2000);
        });
        assert!(memory.is_empty());
    }
}
