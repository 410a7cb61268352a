//! What becomes of calls while the store is away, and of computations when there are too many.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum_cache::backend::Memory;
use axum_cache::clock::ManualClock;
use axum_cache::{Cache, Caches, ErrorKind, OnError, Policy, Settings};
use tokio::time::{Instant, sleep};

use crate::support::backends::{Remote, down};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn by_default_low_level_calls_say_that_the_store_failed() {
    let remote = Remote::default();
    let cache = Cache::new(remote.clone());
    remote.inject(down());
    let kind = |error: axum_cache::Error| error.kind();
    let unavailable = ErrorKind::Unavailable;
    assert_eq!(cache.get::<i32>("k").await.map_err(kind), Err(unavailable));
    assert_eq!(
        cache.set("k", &1, HOUR).await.map_err(kind),
        Err(unavailable)
    );
    assert_eq!(cache.contains("k").await.map_err(kind), Err(unavailable));
    // But what can be computed is.
    let made = cache.get_or_set("k", HOUR, || async { Ok::<_, io::Error>(1) });
    assert_eq!(made.await.unwrap(), 1);
}

#[tokio::test]
async fn where_errors_are_misses_reads_find_nothing_and_removals_fail() {
    let remote = Remote::default();
    let builder = Cache::builder(remote.clone()).on_error(OnError::Miss);
    let cache = builder.build().unwrap();
    cache.set("k", &1, HOUR).await.unwrap();
    remote.inject(down());
    assert_eq!(cache.get::<i32>("k").await.unwrap(), None);
    assert!(cache.get_many::<_, i32>(["k"]).await.unwrap().is_empty());
    assert!(!cache.contains("k").await.unwrap());
    assert_eq!(cache.ttl_of("k").await.unwrap(), None);
    cache.set("k", &2, HOUR).await.unwrap();
    assert!(cache.set_many([("k", 2)], HOUR).await.unwrap().is_empty());
    assert!(!cache.add("k", &2, HOUR).await.unwrap());
    assert!(!cache.touch("k", HOUR).await.unwrap());
    for failed in [
        cache.delete("k").await.map(drop),
        cache.delete_many(["k"]).await.map(drop),
        cache.invalidate(["t"]).await,
        cache.clear().await,
        cache.incr("k", 1).await.map(drop),
    ] {
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::Unavailable);
    }
    // What is wrong with the call itself is an error as ever.
    remote.heal();
    let refused = cache.incr("nothing", 1).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::KeyMissing);
    assert_eq!(cache.get::<i32>("k").await.unwrap(), Some(1));
}

#[tokio::test]
async fn a15_a_call_that_fails_closed_computes_nothing() {
    let remote = Remote::default();
    let cache = Cache::new(remote.clone());
    remote.inject(down());
    let runs = AtomicUsize::new(0);
    let policy = Policy::new(HOUR).fail_closed();
    let made = cache.get_or_set("k", policy, || {
        runs.fetch_add(1, Ordering::SeqCst);
        async { Ok::<_, io::Error>(1) }
    });
    assert_eq!(made.await.unwrap_err().kind(), ErrorKind::Unavailable);
    let many = cache.get_or_set_many(["k"], policy, |keys: Vec<&'static str>| async {
        Ok::<_, io::Error>(keys.into_iter().map(|key| (key, 1)).collect())
    });
    assert_eq!(many.await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(runs.load(Ordering::SeqCst), 0);
    remote.heal();
    assert!(!cache.contains("k").await.unwrap());
}

#[derive(Clone, Default)]
struct Origin {
    running: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Origin {
    async fn answer(self) -> Result<usize, io::Error> {
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(running, Ordering::SeqCst);
        sleep(SECOND).await;
        self.running.fetch_sub(1, Ordering::SeqCst);
        Ok(running)
    }
}

#[tokio::test(start_paused = true)]
async fn a16_the_origin_is_never_asked_for_more_than_it_bears() {
    for is_broken in [false, true] {
        let remote = Remote::default();
        let cache = Cache::builder(remote.clone()).max_computations(50);
        let cache = cache.build().unwrap();
        if is_broken {
            remote.inject(down());
        }
        let origin = Origin::default();
        let callers = (0..500).map(|key| {
            let (cache, origin) = (cache.clone(), origin.clone());
            tokio::spawn(async move {
                let (key, start) = (key.to_string(), Instant::now());
                let made = cache.get_or_set(&key, HOUR, || origin.answer()).await;
                (made, start.elapsed())
            })
        });
        let (mut answered, mut refused) = (0, 0);
        for caller in callers.collect::<Vec<_>>() {
            match caller.await.unwrap() {
                (Ok(_), _) => answered += 1,
                (Err(error), took) => {
                    assert_eq!(error.kind(), ErrorKind::Overloaded);
                    assert!(error.is_transient() && took <= Duration::from_millis(10));
                    refused += 1;
                }
            }
        }
        assert_eq!((answered, refused), (50, 450));
        assert_eq!(origin.most.load(Ordering::SeqCst), 50);
        // There is room again.
        let made = cache.get_or_set("next", HOUR, || origin.clone().answer());
        assert!(made.await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn who_finds_no_room_gets_what_is_stale() {
    let clock = ManualClock::new();
    let memory = Memory::builder().clock(clock.clone()).build().unwrap();
    let cache = Cache::builder(memory).clock(clock.clone());
    let cache = cache.max_computations(1).build().unwrap();
    let policy = Policy::new(SECOND).stale_if_error(HOUR);
    let slow = |value| async move {
        sleep(SECOND).await;
        Ok::<_, io::Error>(value)
    };
    cache.get_or_set("k", policy, || slow(1)).await.unwrap();
    clock.advance(2 * SECOND);
    let other = cache.clone();
    let busy = tokio::spawn(async move { other.get_or_set("other", HOUR, || slow(0)).await });
    sleep(SECOND / 10).await;
    let stale = cache.get_or_set("k", policy, || slow(2)).await;
    assert_eq!(stale.unwrap(), 1);
    let many = cache.get_or_set_many(["new"], policy, |_: Vec<&'static str>| async {
        Ok::<_, io::Error>([("new", 1)].into())
    });
    assert_eq!(many.await.unwrap_err().kind(), ErrorKind::Overloaded);
    busy.await.unwrap().unwrap();
    // It was no failure to back off from.
    let fresh = cache.get_or_set("k", policy, || slow(2)).await;
    assert_eq!(fresh.unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_a_computation_computes_itself_needs_no_room() {
    let cache = Cache::builder(Remote::default()).max_computations(1);
    let cache = cache.build().unwrap();
    let inner = cache.clone();
    let outer = cache.get_or_set("outer", HOUR, || async move {
        inner
            .get_or_set("inner", HOUR, || async { Ok::<_, io::Error>(1) })
            .await
    });
    assert_eq!(outer.await.unwrap(), 1);
}

#[tokio::test]
async fn settings_say_what_becomes_of_errors() {
    let settings = |text: &str| Settings::from_json(text).unwrap();
    let good = r#"{"default": {"backend": "memory", "on_error": "miss", "max_computations": 9}}"#;
    let built = Caches::builder().settings(settings(good)).build().await;
    assert!(built.is_ok());
    let bad = r#"{"default": {"backend": "memory", "on_error": "ignore"}}"#;
    let refused = Caches::builder().settings(settings(bad)).build().await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("on_error"), "{refused}");
}

/// A16, pages: the handlers are the origin, and what they compute is part of them.
#[cfg(feature = "axum")]
mod pages {
    use axum::Router;
    use axum::body::{Body, to_bytes};
    use axum::extract::Path;
    use axum::routing::get;
    use axum_cache::testing::assert_hit;
    use axum_cache::{CacheBuilder, CacheLayer};
    use http::{Request, Response, StatusCode};
    use tower::ServiceExt;

    use super::*;

    fn site(cache: CacheBuilder, origin: Origin) -> Router {
        let cache = cache.build().unwrap();
        let layer = CacheLayer::new(cache.clone())
            .stale_if_error(HOUR)
            .ttl(SECOND);
        let handler = async move |Path(page): Path<String>| {
            let key = format!("part of {page}");
            let part = cache.get_or_set(&key, HOUR, || origin.answer());
            part.await.map(|_| page).unwrap()
        };
        Router::new().route("/{page}", get(handler)).layer(layer)
    }

    async fn ask(site: &Router, path: &str) -> (Response<()>, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = site.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = to_bytes(body, 1000).await.unwrap();
        (
            Response::from_parts(head, ()),
            String::from_utf8_lossy(&body).into(),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn a16_no_more_handlers_run_than_may() {
        for is_broken in [false, true] {
            let remote = Remote::default();
            if is_broken {
                remote.inject(down());
            }
            let origin = Origin::default();
            let cache = Cache::builder(remote).max_computations(50);
            let site = site(cache.on_error(OnError::Miss), origin.clone());
            // Two for each page: where one leads, the other waits for it or is refused as well.
            let callers = (0..500).map(|caller| {
                let site = site.clone();
                tokio::spawn(async move {
                    let start = Instant::now();
                    let path = format!("/{}", caller / 2);
                    (path.clone(), ask(&site, &path).await, start.elapsed())
                })
            });
            let mut refused = 0;
            for caller in callers.collect::<Vec<_>>() {
                let (path, (response, body), took) = caller.await.unwrap();
                if response.status() == StatusCode::OK {
                    assert_eq!(path[1..], body);
                    continue;
                }
                assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
                assert_eq!(response.headers()["retry-after"], "1");
                let status = response.headers()["cache-status"].to_str().unwrap();
                assert!(status.contains("detail=overloaded"), "{status}");
                assert!(took <= Duration::from_millis(10), "{took:?}");
                refused += 1;
            }
            assert!((400..=450).contains(&refused), "{refused}");
            let most = origin.most.load(Ordering::SeqCst);
            assert_eq!(most, 50, "what handlers compute needs no room of its own");
            // There is room again.
            assert_eq!(ask(&site, "/next").await.0.status(), StatusCode::OK);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_room_gets_the_stale_page() {
        let clock = ManualClock::new();
        let memory = Memory::builder().clock(clock.clone()).build().unwrap();
        let cache = Cache::builder(memory)
            .clock(clock.clone())
            .max_computations(1);
        let site = site(cache, Origin::default());
        ask(&site, "/old").await;
        sleep(SECOND / 100).await;
        clock.advance(2 * SECOND);
        let busy = {
            let site = site.clone();
            tokio::spawn(async move { ask(&site, "/other").await })
        };
        sleep(SECOND / 10).await;
        let (response, body) = ask(&site, "/old").await;
        assert_hit(&response);
        assert_eq!((response.status(), body.as_str()), (StatusCode::OK, "old"));
        assert_eq!(busy.await.unwrap().1, "other");
        // It was no failure to back off from.
        let (response, _) = ask(&site, "/old").await;
        let status = response.headers()["cache-status"].to_str().unwrap();
        assert!(status.contains("fwd=stale"), "{status}");
    }
}

/// A16: a cap is that of its own cache, wherever it is asked.
#[cfg(feature = "axum")]
#[tokio::test(start_paused = true)]
async fn what_pages_of_another_cache_compute_is_capped() {
    use axum::{Router, routing::get};
    use axum_cache::CacheLayer;
    use tower::ServiceExt;

    let values = Cache::builder(Memory::new()).max_computations(1);
    let values = values.build().unwrap();
    let compute = async || {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok::<_, std::io::Error>(7)
    };
    let page = {
        let values = values.clone();
        move |uri: http::Uri| async move {
            let made = values
                .get_or_set(uri.path(), axum_cache::Ttl::Default, compute)
                .await;
            format!("{:?}", made.map_err(|error| error.kind()))
        }
    };
    let layer = CacheLayer::new(Cache::new(Memory::new())).ttl(Duration::from_secs(60));
    let site = Router::new().fallback(get(page)).layer(layer);
    let ask = async |path: &str| {
        let request = http::Request::get(format!("http://site.test/{path}"));
        let request = request.body(axum::body::Body::empty()).unwrap();
        let response = site.clone().oneshot(request).await.unwrap();
        axum::body::to_bytes(response.into_body(), 1000)
            .await
            .unwrap()
    };
    let (one, other) = tokio::join!(ask("a"), ask("b"));
    assert_eq!(
        (&one[..], &other[..]),
        (&b"Ok(7)"[..], &b"Err(Overloaded)"[..])
    );
}
