//! A store that is what it was before: nothing that was invalidated by a tag comes back.
//!
//! What was to be removed is not, and then the store begins another history: so it looks when a server
//! comes back with an old copy.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Extension;
use axum::Router;
use axum::routing::get;
use axum_cache::backend::{CircuitBreaker, LocalBackplane, Memory, Tiered};
use axum_cache::testing::{Fault, Operation, TestBackend};
use axum_cache::{Cache, CacheLayer, ErrorKind, Tags, Ttl};

use crate::support::site::ask;

/// Invalidates a tag, and none of that reaches the store.
async fn invalidate_in_vain(store: &TestBackend<Memory>, cache: &Cache) {
    for operation in [Operation::Set, Operation::DeleteMany] {
        store.inject(Fault::error(ErrorKind::TooLarge).on(operation));
    }
    cache.invalidate(["tag"]).await.unwrap_err();
    store.heal();
}

/// The store as it is, and behind everything that asks it on behalf of others.
fn caches() -> [(&'static str, TestBackend<Memory>, Cache); 3] {
    let store = || TestBackend::new(Memory::new()).with_shared(true);
    let (bare, broken, far) = (store(), store(), store());
    let tiered = Tiered::builder(Memory::new(), far.clone()).backplane(LocalBackplane::new());
    [
        ("bare", bare.clone(), Cache::new(bare)),
        (
            "breaker",
            broken.clone(),
            Cache::new(CircuitBreaker::new(broken)),
        ),
        ("tiered", far, Cache::new(tiered.build().unwrap())),
    ]
}

#[tokio::test]
async fn what_was_invalidated_does_not_come_back_and_the_rest_stays() {
    for (name, store, cache) in caches() {
        let tagged = cache.with_tags(["tag"]);
        tagged.set("k", &1, Ttl::Default).await.unwrap();
        cache.set("untagged", &1, Ttl::Default).await.unwrap();
        invalidate_in_vain(&store, &cache).await;
        assert_eq!(
            tagged.get("k").await.unwrap(),
            Some(1),
            "{name}: the proof is none"
        );
        store.begin_history();
        assert_eq!(tagged.get::<u32>("k").await.unwrap(), None, "{name}");
        assert_eq!(cache.get("untagged").await.unwrap(), Some(1), "{name}");
        // From then on it is a store as any other.
        tagged.set("k", &2, Ttl::Default).await.unwrap();
        for _ in 0..3 {
            assert_eq!(tagged.get("k").await.unwrap(), Some(2), "{name}");
        }
        let compute = || async { Ok::<_, std::io::Error>(3) };
        assert_eq!(
            tagged.get_or_set("k", Ttl::Default, compute).await.unwrap(),
            2
        );
        cache.invalidate(["tag"]).await.unwrap();
        assert_eq!(tagged.get::<u32>("k").await.unwrap(), None, "{name}");
    }
}

#[tokio::test]
async fn to_expire_what_is_of_another_history_leaves_it_dead() {
    for (name, store, cache) in caches() {
        let tagged = cache.with_tags(["tag"]);
        tagged.set("k", &1, Ttl::Default).await.unwrap();
        store.begin_history();
        cache.expire(["tag"]).await.unwrap();
        assert_eq!(tagged.get::<u32>("k").await.unwrap(), None, "{name}");
    }
}

/// A page that names its tags once it is made. While that is done for the first time, another node
/// invalidates one of them, and the store forgets that or has never heard of it. Which requests are hits.
async fn hits(store: &TestBackend<Memory>, cache: &Cache, forgets: bool) -> [bool; 3] {
    let runs = Arc::new(AtomicUsize::new(0));
    let page = {
        let (store, other) = (store.clone(), Cache::new(store.clone()));
        move || async move {
            if runs.fetch_add(1, Ordering::SeqCst) == 0 {
                invalidate_in_vain(&store, &other).await;
                if forgets {
                    store.begin_history();
                }
            }
            (Extension(Tags::new(["tag"])), "page")
        }
    };
    let layer = CacheLayer::new(cache.clone()).ttl(Duration::from_secs(60));
    let site = Router::new().route("/", get(page)).layer(layer);
    let mut hits = [false; 3];
    for hit in &mut hits {
        *hit = ask(&site, "/", &[]).await.is_hit();
        // Until a place that was given up is free.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    hits
}

#[tokio::test]
async fn a_page_whose_tags_were_not_read_before_it_is_not_stored_once_that_was_forgotten() {
    for (name, store, cache) in caches() {
        assert_eq!(
            hits(&store, &cache, false).await,
            [false, true, true],
            "{name}"
        );
        cache.clear().await.unwrap();
        assert_eq!(
            hits(&store, &cache, true).await,
            [false, false, true],
            "{name}"
        );
    }
}
