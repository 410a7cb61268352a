//! What is purged while a page is looked up, in a store that has to be waited for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::http::{StatusCode, Uri};
use axum_cache::backend::{Backend, Memory};
use axum_cache::clock::ManualClock;
use axum_cache::layer::CacheService;
use axum_cache::testing::{Computations, Fault, Operation, TestBackend};
use axum_cache::ttl::Lifetime;
use axum_cache::{Cache, CacheLayer, ErrorKind, Ttl};
use tower::Layer;

use crate::support::site::{Seen, ask};

const SECOND: Duration = Duration::from_secs(1);

const PAGE: &str = "/page";

fn uri(path: &str) -> Uri {
    format!("http://site.test{path}").parse().unwrap()
}

/// A layer over a store elsewhere, and a site behind it that answers with the status it is told, and takes a while.
struct Bench {
    store: TestBackend<Memory>,
    cache: Cache,
    layer: CacheLayer,
    clock: ManualClock,
    status: Arc<AtomicU16>,
    runs: Computations,
    site: CacheService<Router>,
}

impl Bench {
    fn new() -> Self {
        let clock = ManualClock::at(SystemTime::UNIX_EPOCH + 1_900_000_000 * SECOND);
        let memory = Memory::builder().clock(clock.clone()).build().unwrap();
        let store = TestBackend::new(memory);
        let cache = Cache::builder(store.clone()).clock(clock.clone());
        let cache = cache.build().unwrap();
        let layer = CacheLayer::new(cache.clone())
            .ttl(10 * SECOND)
            .stale_if_error(100 * SECOND);
        let (status, runs) = (Arc::new(AtomicU16::new(200)), Computations::new());
        let (told, counted) = (Arc::clone(&status), runs.clone());
        let site = layer.layer(Router::new().fallback(move || {
            counted.next();
            let status = StatusCode::from_u16(told.load(Ordering::SeqCst)).unwrap();
            async move {
                tokio::time::sleep(SECOND / 50).await;
                status
            }
        }));
        Self {
            store,
            cache,
            layer,
            clock,
            status,
            runs,
            site,
        }
    }

    /// Asks, and calls `meanwhile` after the store has looked for the page, and before it says what it found.
    async fn asked_while(&self, meanwhile: impl AsyncFnOnce(&CacheLayer, &Uri)) -> Seen {
        self.store.take_calls();
        let late = Fault::late_answer(SECOND).on(Operation::Get);
        self.store.inject(late.times(1));
        let site = self.site.clone();
        let asked = tokio::spawn(async move { ask(&site, PAGE, &[]).await });
        tokio::time::sleep(SECOND / 2).await;
        assert_eq!(self.store.count(Operation::Get), 1);
        meanwhile(&self.layer, &uri(PAGE)).await;
        asked.await.unwrap()
    }
}

async fn purge(layer: &CacheLayer, page: &Uri) {
    layer.purge(page).await.unwrap();
}

async fn purge_prefix(layer: &CacheLayer, page: &Uri) {
    layer.purge_prefix(page).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn where_nothing_was_found_a_purge_costs_nothing() {
    let mut reads = Vec::new();
    for purged in ["not", "page", "prefix"] {
        let bench = Bench::new();
        let seen = bench.asked_while(async |layer, page| match purged {
            "page" => purge(layer, page).await,
            "prefix" => purge_prefix(layer, page).await,
            _ => {}
        });
        let seen = seen.await;
        assert!(seen.status.contains("stored"), "{}", seen.status);
        reads.push(bench.store.count(Operation::Get));
        assert!(ask(&bench.site, PAGE, &[]).await.is_hit(), "{purged}");
    }
    assert_eq!(reads, [reads[0]; 3]);
}

/// It would do in the place of an error, had it not been purged after it was found.
#[tokio::test(start_paused = true)]
async fn what_was_found_and_purged_is_not_served_in_the_place_of_an_error() {
    for purged in [false, true] {
        let bench = Bench::new();
        assert_eq!(ask(&bench.site, PAGE, &[]).await.code, 200);
        bench.clock.advance(20 * SECOND);
        bench.status.store(500, Ordering::SeqCst);
        let seen = bench.asked_while(async |layer, page| {
            if purged {
                purge(layer, page).await;
            }
        });
        assert_eq!(seen.await.code, if purged { 500 } else { 200 });
        bench.runs.assert_count(2);
    }
}

/// What is purged and set elsewhere, as fast as it may be, keeps nobody from waiting for others, and no page out.
#[tokio::test(start_paused = true)]
async fn what_is_purged_elsewhere_all_the_time_is_no_trouble() {
    let bench = Bench::new();
    let late = Fault::late_answer(SECOND / 100).on(Operation::Get);
    bench.store.inject(late);
    let (layer, cache) = (bench.layer.clone(), bench.cache.clone());
    let storm = tokio::spawn(async move {
        let elsewhere = uri("/elsewhere/");
        for number in 0.. {
            purge_prefix(&layer, &elsewhere).await;
            for part in 0..100 {
                let key = format!("{number}:{part}");
                cache.set(&key, &1, SECOND).await.unwrap();
            }
            tokio::time::sleep(SECOND / 1000).await;
        }
    });
    // Once when it is first made, and once when what was found is stale.
    for times in 1..=2 {
        let crowd: Vec<_> = (0..50)
            .map(|_| {
                let site = bench.site.clone();
                tokio::spawn(async move { ask(&site, PAGE, &[]).await.code })
            })
            .collect();
        for one in crowd {
            assert_eq!(one.await.unwrap(), 200);
        }
        bench.runs.assert_count(times);
        assert!(ask(&bench.site, PAGE, &[]).await.is_hit(), "{times}");
        bench.clock.advance(20 * SECOND);
    }
    storm.abort();
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_down_is_asked_once_whatever_is_purged() {
    let bench = Bench::new();
    let down = Fault::error(ErrorKind::Timeout).on(Operation::Get);
    bench.store.inject(Fault::delay(SECOND).on(Operation::Get));
    bench.store.inject(down);
    let site = bench.site.clone();
    let asked = tokio::spawn(async move { ask(&site, PAGE, &[]).await });
    for _ in 0..6 {
        tokio::time::sleep(SECOND / 3).await;
        purge_prefix(&bench.layer, &uri("/elsewhere/")).await;
    }
    assert_eq!(asked.await.unwrap().code, 200);
    assert_eq!(bench.store.count(Operation::Get), 1);
}

/// Reads a page, and what its store was asked for meanwhile.
async fn read(bench: &Bench) -> (Seen, usize) {
    bench.store.take_calls();
    let seen = ask(&bench.site, PAGE, &[]).await;
    (seen, bench.store.count(Operation::Get))
}

#[tokio::test(start_paused = true)]
async fn a_page_that_is_known_is_still_what_the_store_says() {
    let bench = Bench::new();
    let key = bench.layer.page_key(&uri(PAGE)).unwrap();
    let key = bench.cache.final_key(&key).unwrap();
    let store = &bench.store;
    let known = async || {
        for age in 0..4 {
            let (seen, reads) = read(&bench).await;
            assert!(seen.is_hit() && reads == 1, "{seen:?}");
            assert_eq!(seen.headers["age"], age.to_string().as_str());
            bench.clock.advance(SECOND);
        }
    };
    assert!(!ask(&bench.site, PAGE, &[]).await.is_hit());
    known().await;
    // Damaged, in what a reader might pass over.
    let entry = Backend::get(store, &key).await.unwrap().unwrap();
    let mut damaged = entry.bytes().to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    let lasts = Lifetime::For(100 * SECOND);
    store.set(&key, damaged.into(), lasts).await.unwrap();
    assert!(!read(&bench).await.0.is_hit());
    known().await;
    // Gone.
    store.delete(&key).await.unwrap();
    assert!(!read(&bench).await.0.is_hit());
    known().await;
    purge(&bench.layer, &uri(PAGE)).await;
    assert!(!read(&bench).await.0.is_hit());
    known().await;
    // Stale, and not to be served so.
    bench.clock.advance(10 * SECOND);
    assert!(!read(&bench).await.0.is_hit());
    assert_eq!(bench.runs.count(), 5);
}

#[tokio::test]
async fn a_value_that_is_read_again_and_again_is_decoded_once() {
    let store = TestBackend::new(Memory::new());
    let cache = Cache::new(store.clone());
    let names = async || cache.get_shared::<Vec<String>>("names").await.unwrap();
    for stored in [["Ada", "Grace"], ["Ada", "Emily"]] {
        cache.set("names", &stored, Ttl::Default).await.unwrap();
        store.take_calls();
        let read = [names().await, names().await, names().await, names().await];
        assert_eq!(store.count(Operation::Get), read.len());
        let [.., third, last] = read.map(Option::unwrap);
        assert_eq!(*third, stored);
        assert!(Arc::ptr_eq(&third, &last));
    }
    cache.delete("names").await.unwrap();
    assert_eq!(names().await, None);
}
