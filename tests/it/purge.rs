//! Purging all pages below a path.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{Uri, header};
use axum::response::Response;
use axum_cache::backend::{AnyBackend, Memory};
use axum_cache::key::{PageKeyFunction, PageTarget, VaryValue};
use axum_cache::{Cache, CacheLayer, ErrorKind};
use tokio::sync::Notify;
use tower::{Layer, ServiceExt};

use crate::support::backends::{Provided, Remote};

/// Everything under test has it, so that a store may be shared.
const SITE: &str = "http://site.test";

/// A router whose pages vary on `Accept-Language` where their query says so.
fn router() -> Router {
    Router::new().fallback(|request: Request| async move {
        let mut response = Response::new(Body::from(request.uri().to_string()));
        if request.uri().query() == Some("vary") {
            let vary = header::HeaderValue::from_static("accept-language");
            response.headers_mut().insert(header::VARY, vary);
        }
        response
    })
}

/// Whether a request is answered from the cache; it is in there afterwards.
async fn is_hit(layer: &CacheLayer, request: axum::http::request::Builder) -> bool {
    let site = layer.layer(router());
    let response = site.oneshot(request.body(Body::empty()).unwrap()).await;
    let response = response.unwrap();
    let hit = response.headers()["cache-status"]
        .to_str()
        .unwrap()
        .contains("; hit");
    // Pages are stored when their body has been read.
    axum::body::to_bytes(Body::new(response.into_body()), usize::MAX)
        .await
        .unwrap();
    if !hit {
        // Files and databases store in threads of their own.
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    hit
}

async fn fill(layer: &CacheLayer, uris: &[&str]) {
    for uri in uris {
        is_hit(layer, Request::get(*uri)).await;
    }
    assert_hits(layer, uris, true).await;
}

async fn assert_hits(layer: &CacheLayer, uris: &[&str], hits: bool) {
    for uri in uris {
        let request = || Request::get(*uri);
        let is_as_told = if hits {
            becomes_hit(layer, request).await
        } else {
            !is_hit(layer, request()).await
        };
        assert!(is_as_told, "{uri}: {hits}");
    }
}

/// Whether a request is answered from the cache in the end: a store on the other side of a socket may take
/// a moment to take a page.
async fn becomes_hit(
    layer: &CacheLayer,
    request: impl Fn() -> axum::http::request::Builder,
) -> bool {
    for _ in 0..100 {
        if is_hit(layer, request()).await {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    false
}

fn site(path: &str) -> Uri {
    format!("{SITE}{path}").parse().unwrap()
}

/// Runs on each store that can do it.
async fn on_every_store<F: Future<Output = ()>>(test: impl Fn(Cache) -> F) {
    test(Cache::new(Memory::new())).await;
    test(Cache::new(Remote::default())).await;
    // The longest prefix with which every path can be purged.
    let prefixed = Cache::builder(Memory::new()).key_prefix("p".repeat(57));
    test(prefixed.build().unwrap()).await;
    #[cfg(feature = "sqlite")]
    {
        let folder = tempfile::tempdir().unwrap();
        let store = axum_cache::backend::Sql::sqlite(folder.path().join("cache.db"));
        test(Cache::new(store.create_table(true).build().unwrap())).await;
    }
    #[cfg(feature = "file")]
    {
        let folder = tempfile::tempdir().unwrap();
        let store = axum_cache::backend::File::builder(folder.path());
        test(Cache::new(store.build().unwrap())).await;
    }
}

#[tokio::test]
async fn pages_below_a_path_are_forgotten_and_no_others() {
    on_every_store(|cache| async move {
        let layer = CacheLayer::new(cache);
        let below = [
            "/blog",
            "/blog/",
            "/blog?x=1",
            "/blog/a?x=1",
            "/blog//a/b/c",
        ];
        let beside = ["/", "/blogger", "/%62log", "/Blog/a", "/a/blog", "//blog"];
        let below = below.map(|path| format!("{SITE}{path}"));
        let below = below.each_ref().map(String::as_str);
        let beside = beside.map(|path| format!("{SITE}{path}"));
        let beside = beside.each_ref().map(String::as_str);
        fill(&layer, &below).await;
        fill(&layer, &beside).await;
        assert_eq!(layer.purge_prefix(&site("/blog?any")).await.unwrap(), 5);
        assert_hits(&layer, &beside, true).await;
        assert_hits(&layer, &below, false).await;
        assert_eq!(layer.purge_prefix(&site("/blog/a")).await.unwrap(), 1);
        assert_eq!(layer.purge_prefix(&site("/blog/")).await.unwrap(), 4);
        assert_hits(&layer, &below[..1], false).await;
        assert_eq!(layer.purge_prefix(&site("/")).await.unwrap(), 7);
        assert_eq!(layer.purge_prefix(&site("")).await.unwrap(), 0);
    })
    .await;
}

#[tokio::test]
async fn other_sites_and_key_prefixes_stay() {
    on_every_store(|cache| async move {
        let layer = CacheLayer::new(cache.clone());
        let other = CacheLayer::new(cache).key_prefix("other");
        let left = [
            "https://site.test/a",
            "http://site.test:81/a",
            "http://www.site.test/a",
        ];
        fill(&layer, &left).await;
        fill(&layer, &["http://site.test/a"]).await;
        fill(&other, &["http://site.test/a"]).await;
        // Hosts are the same in any case.
        let root = Uri::from_static("http://SITE.test");
        assert_eq!(layer.purge_prefix(&root).await.unwrap(), 1);
        assert_hits(&layer, &left, true).await;
        assert_hits(&other, &["http://site.test/a"], true).await;
        assert_eq!(other.purge_prefix(&root).await.unwrap(), 1);
    })
    .await;
}

#[tokio::test]
async fn every_variant_goes() {
    on_every_store(|cache| async move {
        let layer = CacheLayer::new(cache).cookies(["plan"]);
        let requests = || {
            let mut requests = Vec::new();
            for language in ["en", "de"] {
                for plan in ["free", "paid"] {
                    for method in ["GET", "HEAD"] {
                        let request = Request::builder().method(method);
                        let request = request.uri(format!("{SITE}/a/b?vary"));
                        let request = request.header("accept-language", language);
                        requests.push(request.header("cookie", format!("plan={plan}")));
                    }
                }
            }
            requests
        };
        for round in 0..2 {
            for number in 0..requests().len() {
                let request = || requests().swap_remove(number);
                assert!(becomes_hit(&layer, request).await, "{round}");
            }
            assert_eq!(layer.purge_prefix(&site("/a")).await.unwrap(), 1);
            // HEAD fills nothing, so that each of these is the first of its variant.
            for request in requests().into_iter().rev() {
                let head = request.method_ref() == Some(&axum::http::Method::HEAD);
                assert!(!is_hit(&layer, request).await || head, "{round}");
            }
            layer.purge_prefix(&site("/a")).await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn a_page_made_meanwhile_is_not_stored() {
    on_every_store(|cache| async move {
        let (begun, leave) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let runs = Arc::new(AtomicUsize::new(0));
        let (beginning, leaving, running) =
            (Arc::clone(&begun), Arc::clone(&leave), Arc::clone(&runs));
        let held = Router::new().fallback(move || async move {
            if running.fetch_add(1, Ordering::SeqCst) == 0 {
                beginning.notify_one();
                leaving.notified().await;
            }
            "page"
        });
        let layer = CacheLayer::new(cache);
        let page = layer.layer(held);
        let ask = || {
            let request = Request::get(format!("{SITE}/a/b")).body(Body::empty());
            let answer = page.clone().oneshot(request.unwrap());
            async move {
                let response = answer.await.unwrap();
                let status = response.headers()["cache-status"].clone();
                let body = Body::new(response.into_body());
                axum::body::to_bytes(body, usize::MAX).await.unwrap();
                status.to_str().unwrap().contains("; hit")
            }
        };
        let first = tokio::spawn(ask());
        begun.notified().await;
        // At most what holds its place in a store that processes share.
        assert!(layer.purge_prefix(&site("/a")).await.unwrap() <= 1);
        leave.notify_one();
        assert!(!first.await.unwrap());
        assert!(!ask().await);
        assert_eq!(runs.load(Ordering::SeqCst), 2);
        while !ask().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_hit_is_one_read() {
    let remote = Remote::default();
    let layer = CacheLayer::new(Cache::new(remote.clone()));
    fill(&layer, &["http://site.test/a/b/c?d=e"]).await;
    remote.take_counts();
    assert_hits(&layer, &["http://site.test/a/b/c?d=e"], true).await;
    assert_eq!(remote.take_counts(), [("get", 1)]);
}

/// Keys that do not tell what is below a path.
#[derive(Debug)]
struct Flat;

impl PageKeyFunction for Flat {
    fn primary(&self, target: &PageTarget<'_>) -> String {
        target.path.to_owned()
    }

    fn variant(&self, target: &PageTarget<'_>, _: &[VaryValue<'_>], generation: u64) -> String {
        format!("{}:{generation}", target.path)
    }
}

#[tokio::test]
async fn what_cannot_be_done_is_refused_and_forgets_nothing() {
    let long = Cache::builder(Memory::new()).key_prefix("p".repeat(120));
    let layers = [
        CacheLayer::new(Cache::new(Memory::new())).page_keys(Flat),
        #[cfg(feature = "django-keys")]
        CacheLayer::new(Cache::new(Memory::new())).page_keys(axum_cache::key::DjangoKeys::new()),
        CacheLayer::new(Cache::new(AnyBackend::new(Provided(Memory::new())))),
        CacheLayer::new(long.build().unwrap()),
    ];
    for layer in layers {
        let deep = format!("/1/{}", "2".repeat(60));
        let page = format!("http://site.test{deep}");
        fill(&layer, &[&page]).await;
        let refused = layer.purge_prefix(&site(&deep)).await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unsupported);
        let refused = layer.purge_prefix(&Uri::from_static("/1")).await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidKey);
        assert_hits(&layer, &[&page], true).await;
    }
}
