//! Batches over several statements, and what a database does not take.

use std::time::Duration;

use axum_cache::key::KeyPolicy;
use axum_cache::{Cache, ErrorKind, Ttl};

use super::Target;

pub(crate) async fn large_batches_are_complete(target: Target) {
    let cache = target.cache().await;
    let text = |n: usize| format!("value {n} {}", "x".repeat(n % 3000));
    let keys: Vec<_> = (0..1300).map(|n| format!("key-{n}")).collect();
    let items = keys.iter().enumerate().map(|(n, key)| (key, text(n)));
    let again = (&keys[7], "the last".to_owned());
    let items: Vec<_> = items.chain([again]).collect();
    assert!(
        cache
            .set_many(items, Ttl::Default)
            .await
            .unwrap()
            .is_empty()
    );
    let mut asked: Vec<_> = keys.iter().map(String::as_str).collect();
    asked.extend(["never", "key-1"]);
    let found = cache.get_many::<_, String>(asked).await.unwrap();
    assert_eq!(found.len(), 1300);
    for (n, key) in keys.iter().enumerate() {
        let expected = if n == 7 {
            "the last".to_owned()
        } else {
            text(n)
        };
        assert_eq!(found[key.as_str()], expected);
    }
    let doubled = keys.iter().chain(&keys);
    assert_eq!(cache.delete_many(doubled).await.unwrap(), 1300);
    assert_eq!(cache.delete_many(&keys).await.unwrap(), 0);
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let (cache, mut keys) = (cache.clone(), keys.clone());
            tokio::spawn(async move {
                keys.rotate_left(writer * 37);
                let items = keys.iter().map(|key| (key.as_str(), writer));
                let failed = cache.set_many(items, Ttl::Default).await.unwrap();
                assert!(failed.is_empty(), "{failed:?}");
                cache.delete_many(&keys[..600]).await.unwrap();
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
}

pub(crate) async fn a_bad_item_stops_no_other(target: Target) {
    let cache = odd(&target).await;
    let long = "x".repeat(3000);
    let items = [("a", 1), (long.as_str(), 2), ("b", 3)];
    let failed = cache.set_many(items, Ttl::Default).await.unwrap();
    let failed: Vec<_> = failed.iter().map(|(_, error)| error.kind()).collect();
    if target.engine == "sqlite" {
        assert!(failed.is_empty());
    } else {
        assert_eq!(failed, [ErrorKind::InvalidKey]);
    }
    assert_eq!(cache.get("a").await.unwrap(), Some(1));
    assert_eq!(cache.get("b").await.unwrap(), Some(3));
}

pub(crate) async fn clear_takes_every_page(target: Target) {
    let store = target.builder().cull_limit(100).build().unwrap();
    store.create_table().await.unwrap();
    let cache = |prefix: &str| {
        let builder = Cache::builder(store.clone()).key_prefix(prefix);
        builder.build().unwrap()
    };
    let (mine, other) = (cache("mine"), cache("minf"));
    for cache in [&mine, &other] {
        let items = (0..750).map(|n| (n.to_string(), n));
        assert!(
            cache
                .set_many(items, Ttl::Default)
                .await
                .unwrap()
                .is_empty()
        );
    }
    let busy = mine.clone();
    let writer = tokio::spawn(async move {
        for n in 0..200 {
            // Writers meanwhile neither fail nor keep it from ending.
            busy.set(&format!("new-{n}"), &n, Ttl::Default)
                .await
                .unwrap();
            busy.touch(&n.to_string(), Ttl::Never).await.unwrap();
        }
    });
    mine.clear().await.unwrap();
    let keys: Vec<_> = (0..750).map(|n| n.to_string()).collect();
    assert!(mine.get_many::<_, i32>(&keys).await.unwrap().is_empty());
    writer.await.unwrap();
    assert_eq!(other.get_many::<_, i32>(&keys).await.unwrap().len(), 750);
    // 5, 50 to 59, and 500 to 599.
    assert_eq!(other.delete_prefix("5").await.unwrap(), 111);
    assert_eq!(other.get_many::<_, i32>(&keys).await.unwrap().len(), 639);
    mine.flush_store().await.unwrap();
    assert!(other.get_many::<_, i32>(&keys).await.unwrap().is_empty());
}

pub(crate) async fn an_oversize_value_leaves_nothing_behind(target: Target) {
    let cache = target.cache().await;
    let oversize = "x".repeat(17 << 20);
    cache.set("k", &1, Ttl::Default).await.unwrap();
    let refused = cache.set("k", &oversize, Ttl::Default).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::TooLarge);
    assert!(!cache.contains("k").await.unwrap());
    let items = [("a", "small"), ("k", &oversize), ("z", "small")];
    let failed = cache.set_many(items, Ttl::Default).await.unwrap();
    assert!(failed.len() == 1 && failed[0].0 == "k");
    assert_eq!(failed[0].1.kind(), ErrorKind::TooLarge);
    assert!(cache.contains("a").await.unwrap() && cache.contains("z").await.unwrap());
    let large = "x".repeat(8 << 20);
    cache.set("k", &large, Ttl::Default).await.unwrap();
    assert_eq!(cache.get("k").await.unwrap(), Some(large));
}

pub(crate) async fn keys_that_do_not_fit_are_refused(target: Target) {
    let cache = odd(&target).await;
    let long = "x".repeat(251);
    let refused = match target.engine {
        "postgres" => "a\0b",
        _ => long.as_str(),
    };
    let ttl = Duration::from_secs(9);
    let outcomes = [
        cache.get::<u8>(refused).await.map(drop),
        cache.set(refused, &1, ttl).await,
        cache.add(refused, &1, ttl).await.map(drop),
        cache.touch(refused, ttl).await.map(drop),
        cache.delete(refused).await.map(drop),
        cache.incr(refused, 1).await.map(drop),
    ];
    for outcome in outcomes {
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidKey);
        assert!(!format!("{error:?}").contains("xxx"));
    }
}

/// A cache that passes every key on.
async fn odd(target: &Target) -> Cache {
    let store = target.builder().build().unwrap();
    store.create_table().await.unwrap();
    let builder = Cache::builder(store).key_policy(KeyPolicy::Off);
    builder.build().unwrap()
}
