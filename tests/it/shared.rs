//! Values that are handed out decoded, and shared.

use std::sync::Arc;

use axum_cache::backend::Memory;
use axum_cache::{Cache, Ttl};

async fn shared<T>(cache: &Cache, key: &str) -> Option<Arc<T>>
where
    T: serde::de::DeserializeOwned + Send + Sync + 'static,
{
    cache.get_shared(key).await.unwrap()
}

#[tokio::test]
async fn a_value_is_decoded_once_until_it_is_replaced() {
    let plain = Cache::new(Memory::new());
    let sealed = Cache::builder(Memory::new())
        .checksums(true)
        .build()
        .unwrap();
    let tagged = plain.with_tags(["names"]);
    for cache in [plain, sealed, tagged] {
        assert_eq!(shared::<Vec<String>>(&cache, "k").await, None);
        cache.set("k", &["a", "b"], Ttl::Default).await.unwrap();
        let first = shared::<Vec<String>>(&cache, "k").await.unwrap();
        assert_eq!(*first, ["a", "b"]);
        let second = shared(&cache, "k").await.unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        // A copy for who wants one.
        assert_eq!(cache.get("k").await.unwrap(), Some((*first).clone()));

        cache.set("k", &["c"], Ttl::Default).await.unwrap();
        assert_eq!(*shared::<Vec<String>>(&cache, "k").await.unwrap(), ["c"]);
        assert_eq!(*first, ["a", "b"], "what somebody holds stays as it was");
        cache.delete("k").await.unwrap();
        assert_eq!(shared::<Vec<String>>(&cache, "k").await, None);
    }
}

#[tokio::test]
async fn another_type_gets_a_value_of_its_own_or_none() {
    let cache = Cache::new(Memory::new());
    cache.set("n", &7, Ttl::Default).await.unwrap();
    let narrow = shared::<u8>(&cache, "n").await.unwrap();
    assert_eq!(
        (*narrow, *shared::<u64>(&cache, "n").await.unwrap()),
        (7, 7)
    );
    assert_eq!(shared::<String>(&cache, "n").await, None);
    assert!(Arc::ptr_eq(&narrow, &shared(&cache, "n").await.unwrap()));
    // A counter that goes on is another value.
    assert_eq!(cache.incr("n", 1).await.unwrap(), 8);
    assert_eq!(*shared::<u8>(&cache, "n").await.unwrap(), 8);
}

#[tokio::test]
async fn what_was_invalidated_is_not_shared() {
    let cache = Cache::new(Memory::new());
    let tagged = cache.with_tags(["t"]);
    tagged.set("k", "a", Ttl::Default).await.unwrap();
    assert_eq!(*shared::<String>(&cache, "k").await.unwrap(), "a");
    cache.invalidate(["t"]).await.unwrap();
    assert_eq!(shared::<String>(&cache, "k").await, None);
}
