//! Making the table, and keeping it small.

use std::time::Duration;

use axum_cache::backend::Backend;
use axum_cache::{Cache, ErrorKind, Ttl};

use super::Target;

pub(crate) async fn a_missing_table_says_what_to_do(target: Target) {
    let cache = Cache::new(target.builder().build().unwrap());
    let error = cache.get::<u8>("k").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("create_table"), "{error}");
    let error = cache.set("k", &1, Ttl::Default).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

pub(crate) async fn tables_are_made_once_by_many(target: Target) {
    let builder = target.builder();
    let makers: Vec<_> = (0..8)
        .map(|_| {
            let store = builder.clone().build().unwrap();
            tokio::spawn(async move { store.create_table().await })
        })
        .collect();
    for maker in makers {
        maker.await.unwrap().unwrap();
    }
    let store = builder.build().unwrap();
    let cache = Cache::new(store.clone());
    cache.set("k", &1, Ttl::Default).await.unwrap();
    store.create_table().await.unwrap();
    assert_eq!(cache.get("k").await.unwrap(), Some(1));
    assert!(store.ddl().starts_with("CREATE "), "{}", store.ddl());
}

pub(crate) async fn a_table_may_have_a_schema(target: Target) {
    let schema = match target.engine {
        "postgres" => "public",
        _ => "test",
    };
    let table = format!("{schema}.with_schema_{}", std::process::id());
    let store = target.builder().table(table).build().unwrap();
    store.create_table().await.unwrap();
    store.create_table().await.unwrap();
    let cache = Cache::new(store.clone());
    assert!(cache.add("k", &1, Ttl::Default).await.unwrap());
    assert!(!cache.add("k", &2, Ttl::Default).await.unwrap());
    assert_eq!(cache.incr("k", 1).await.unwrap(), 2);
    cache.incr_version("k", 1).await.unwrap();
    assert_eq!(cache.get::<u8>("k").await.unwrap(), None);
    store.cull().await.unwrap();
    cache.clear().await.unwrap();
}

pub(crate) async fn the_store_makes_its_table_if_told_to(target: Target) {
    let builder = target.builder().create_table(true);
    let users: Vec<_> = (0..16)
        .map(|user| {
            let cache = Cache::new(builder.clone().build().unwrap());
            tokio::spawn(async move { cache.set(&user.to_string(), &user, Ttl::Default).await })
        })
        .collect();
    for user in users {
        user.await.unwrap().unwrap();
    }
    let cache = Cache::new(builder.build().unwrap());
    assert_eq!(cache.get("7").await.unwrap(), Some(7));
}

pub(crate) async fn culling_removes_what_expired(target: Target) {
    let store = target
        .builder()
        .cull_interval(0)
        .cull_limit(300)
        .build()
        .unwrap();
    store.create_table().await.unwrap();
    let cache = Cache::new(store.clone());
    let short = |n: u32| (format!("short-{n}"), n);
    let lives = Duration::from_millis(1);
    cache.set_many((0..1000).map(short), lives).await.unwrap();
    cache.set("long", &1, Ttl::Default).await.unwrap();
    cache.set("ever", &2, Ttl::Never).await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(store.cull().await.unwrap(), 1000);
    assert_eq!(store.cull().await.unwrap(), 0);
    assert_eq!(cache.get("long").await.unwrap(), Some(1));
    assert_eq!(cache.get("ever").await.unwrap(), Some(2));
}

pub(crate) async fn culling_leaves_the_entries_that_live_longest(target: Target) {
    let store = target
        .builder()
        .cull_interval(0)
        .max_entries(30)
        .cull_limit(20);
    let store = store.build().unwrap();
    store.create_table().await.unwrap();
    let cache = Cache::new(store.clone());
    for n in 0..60_u64 {
        let ttl = Duration::from_secs(1000 - n);
        cache.set(&n.to_string(), &n, ttl).await.unwrap();
    }
    for n in 60..80 {
        cache.set(&n.to_string(), &n, Ttl::Never).await.unwrap();
    }
    assert_eq!(store.cull().await.unwrap(), 50);
    assert_eq!(store.cull().await.unwrap(), 0);
    let keys: Vec<_> = (0..80_u64).map(|n| n.to_string()).collect();
    let left = cache.get_many::<_, u64>(&keys).await.unwrap();
    let mut left: Vec<_> = left.into_values().collect();
    left.sort_unstable();
    let expected: Vec<_> = (0..10).chain(60..80).collect();
    assert_eq!(left, expected);
    for n in 100..125 {
        cache.set(&n.to_string(), &n, Ttl::Never).await.unwrap();
    }
    assert_eq!(store.cull().await.unwrap(), 25);
}

pub(crate) async fn writes_cull_in_the_background(target: Target) {
    let store = target.builder().cull_interval(50).build().unwrap();
    store.create_table().await.unwrap();
    let cache = Cache::new(store.clone());
    let lives = Duration::from_millis(1);
    let mut left = 0;
    // A busy machine needs longer: then once more.
    for wait in [200, 1000, 5000] {
        for n in 0..200_u32 {
            cache.set(&n.to_string(), &n, lives).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(wait)).await;
        left = store.cull().await.unwrap();
        if left < 120 {
            return;
        }
    }
    panic!("{left} were left to this call");
}

/// Several processes cull at the same time, and do not add up.
pub(crate) async fn culling_at_once_leaves_what_one_would(target: Target) {
    let builder = target.builder().max_entries(500).cull_limit(50);
    let builder = builder.cull_interval(0);
    let stores: Vec<_> = (0..4).map(|_| builder.clone().build().unwrap()).collect();
    stores[0].create_table().await.unwrap();
    let cache = Cache::new(stores[0].clone());
    let keys: Vec<_> = (0..1000).map(|n| format!("k{n}")).collect();
    let items = keys.iter().map(|key| (key, 1));
    assert!(
        cache
            .set_many(items, Duration::from_secs(600))
            .await
            .unwrap()
            .is_empty()
    );
    let culls = stores
        .into_iter()
        .map(|store| tokio::spawn(async move { store.cull().await }));
    for cull in culls.collect::<Vec<_>>() {
        cull.await.unwrap().unwrap();
    }
    let left = cache.get_many::<_, i32>(&keys).await.unwrap().len();
    // Each may be one step ahead of the others.
    assert!((300..=500).contains(&left), "{left} are left");
}

/// Of two that move an entry, one does; and nothing that was added meanwhile is lost.
pub(crate) async fn a_move_has_one_winner(target: Target) {
    let store = target.builder().build().unwrap();
    store.create_table().await.unwrap();
    let cache = Cache::new(store.clone());
    let key = |name: &str| cache.final_key(name).unwrap();
    let (from, one, other) = (key("from"), key("one"), key("other"));
    for _ in 0..50 {
        cache.set("from", &0, Ttl::Never).await.unwrap();
        let (first, second, added) = tokio::join!(
            store.rename(&from, &one),
            store.rename(&from, &other),
            cache.incr("from", 1),
        );
        let (first, second) = (first.unwrap(), second.unwrap());
        assert!(first ^ second, "{first} {second}");
        let moved: Option<i64> = cache
            .get(if first { "one" } else { "other" })
            .await
            .unwrap();
        let left: Option<i64> = cache.get("from").await.unwrap();
        match added {
            Ok(_) => assert_eq!((moved, left), (Some(1), None)),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::KeyMissing);
                assert_eq!((moved, left), (Some(0), None));
            }
        }
    }
}
