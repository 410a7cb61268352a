//! How long the generations of tags are kept: for as long as an entry needs them, and no tag for ever.

use std::time::Duration;

use askama::Template;
use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::routing::get;
use axum_cache::backend::Memory;
use axum_cache::clock::ManualClock;
use axum_cache::{Cache, CacheLayer, Policy, Ttl};
use tower::{Layer, ServiceExt};

mod filters {
    pub(crate) use axum_cache::fragment::filters::cache;
}

const HOUR: Duration = Duration::from_secs(3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// The ways to store an entry with the tag `t`, all of which it is found by under `k`.
const WAYS: [&str; 6] = ["set", "set_many", "add", "get_or_set", "late", "touch"];

struct Store {
    memory: Memory,
    cache: Cache,
    clock: ManualClock,
}

impl Store {
    fn new() -> Self {
        let clock = ManualClock::new();
        let memory = Memory::builder().clock(clock.clone()).build().unwrap();
        let cache = Cache::builder(memory.clone()).clock(clock.clone());
        Self {
            memory,
            cache: cache.build().unwrap(),
            clock,
        }
    }

    async fn put(&self, way: &str, ttl: Ttl) {
        let tagged = self.cache.with_tags(["t"]);
        let policy = Policy::from(ttl);
        match way {
            "set" => tagged.set("k", &1, ttl).await.unwrap(),
            "set_many" => {
                let failed = tagged.set_many([("k", 1)], ttl).await.unwrap();
                assert!(failed.is_empty());
            }
            "add" => assert!(tagged.add("k", &1, ttl).await.unwrap()),
            "get_or_set" => {
                let computing = async || Ok::<_, std::io::Error>(1);
                assert_eq!(tagged.get_or_set("k", policy, computing).await.unwrap(), 1);
            }
            "late" => {
                let computing = |_| async {
                    let computed = axum_cache::Computed::new(1).tags(["t"]);
                    Ok::<_, std::io::Error>(computed)
                };
                let cache = &self.cache;
                let made = cache.get_or_set_with("k", policy, computing).await;
                assert_eq!(made.unwrap(), 1);
            }
            "touch" => {
                tagged.set("k", &1, HOUR).await.unwrap();
                assert!(tagged.touch("k", ttl).await.unwrap());
            }
            _ => unreachable!("{way}"),
        }
    }

    async fn has(&self) -> bool {
        self.cache.get::<i32>("k").await.unwrap().is_some()
    }
}

#[tokio::test]
async fn an_entry_lives_as_long_as_it_was_to_whatever_its_tags() {
    for way in WAYS {
        for age in [Duration::ZERO, HOUR * 20, HOUR * 100] {
            for life in [HOUR, HOUR * 30, YEAR] {
                let store = Store::new();
                // The tag is there for some time already.
                let tagged = store.cache.with_tags(["t"]);
                tagged.set("older", &1, HOUR * 2).await.unwrap();
                store.clock.advance(age);
                store.put(way, life.into()).await;
                store.clock.advance(life.mul_f64(0.99));
                assert!(store.has().await, "{way} after {age:?} for {life:?}");
                store.cache.invalidate(["t"]).await.unwrap();
                assert!(!store.has().await);
            }
        }
        let store = Store::new();
        store.put(way, Ttl::Never).await;
        store.clock.advance(YEAR * 30);
        assert!(store.has().await, "{way} for ever");
        store.cache.invalidate(["t"]).await.unwrap();
        assert!(!store.has().await);
    }
}

#[tokio::test]
async fn what_is_expired_is_kept_for_as_long_as_before() {
    let store = Store::new();
    let policy = Policy::new(HOUR).stale_while_revalidate(YEAR);
    let tagged = store.cache.with_tags(["t"]);
    let make = |number| async move { Ok::<_, std::io::Error>(number) };
    tagged.get_or_set("k", policy, || make(1)).await.unwrap();
    tagged.expire(["t"]).await.unwrap();
    store.clock.advance(YEAR / 2);
    let stale = tagged.get_or_set("k", policy, || make(2)).await.unwrap();
    assert_eq!(stale, 1);
}

#[tokio::test]
async fn tags_that_nothing_has_any_more_go() {
    let store = Store::new();
    for number in 0..1000 {
        let tagged = store.cache.with_tags([format!("post:{number}")]);
        tagged.set(&number.to_string(), &1, HOUR).await.unwrap();
    }
    assert_eq!(store.memory.len(), 2000);
    store.clock.advance(HOUR * 48);
    // What has expired goes bit by bit, as the store is used.
    for _ in 0..1000 {
        store.cache.set("other", &1, HOUR).await.unwrap();
        if store.memory.len() == 1 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} are left", store.memory.len());
}

#[tokio::test]
async fn a_page_and_a_fragment_live_as_long_as_they_were_to() {
    #[derive(Template)]
    #[template(
        source = r#"{% filter cache(Ttl::Default, "f", tags=["t"]) %}{{ number }}{% endfilter %}"#,
        ext = "html"
    )]
    struct Page {
        number: usize,
    }
    let store = Store::new();
    let cache = Cache::builder(store.memory.clone()).clock(store.clock.clone());
    let cache = cache.ttl(YEAR).build().unwrap();
    assert_eq!(cache.render(Page { number: 1 }).await.unwrap(), "1");
    let layer = CacheLayer::new(cache.clone()).ttl(YEAR).tags(["t"]);
    let site = layer.layer(Router::new().route("/", get(async || "page")));
    let request = || Request::new(Body::empty());
    assert!(site.clone().oneshot(request()).await.is_ok());
    store.clock.advance(YEAR.mul_f64(0.99));
    assert_eq!(cache.render(Page { number: 2 }).await.unwrap(), "1");
    let page = site.clone().oneshot(request()).await.unwrap();
    assert!(page.headers().contains_key("age"));
    cache.invalidate(["t"]).await.unwrap();
    assert_eq!(cache.render(Page { number: 3 }).await.unwrap(), "3");
}
