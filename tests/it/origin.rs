//! HTTP mode: what an origin says when it is asked whether a stored response still holds.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum_cache::backend::Memory;
use axum_cache::clock::ManualClock;
use axum_cache::layer::CacheService;
use axum_cache::{Cache, CacheLayer};
use tower::{Layer, ServiceExt};

use crate::support::backends::Remote;
use crate::support::http::Server;

type Fields = &'static [(&'static str, &'static str)];

/// Answers GET with `whole`, and what asks whether it still holds with `update`.
struct Origin {
    clock: ManualClock,
    site: CacheService<Router>,
    asked: Arc<Mutex<Vec<HeaderMap>>>,
}

impl Origin {
    fn new(whole: Fields, update: (u16, Fields)) -> Self {
        let clock = ManualClock::new();
        let memory = Memory::builder().clock(clock.clone()).build().unwrap();
        let cache = Cache::builder(memory).clock(clock.clone()).build().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let handler = {
            let asked = Arc::clone(&asked);
            move |request: Request| {
                let headers = request.headers().clone();
                let validates = headers.contains_key("if-none-match") || request.method() == "HEAD";
                asked.lock().unwrap().push(headers);
                let (status, fields, body) = if validates {
                    (update.0, update.1, "")
                } else {
                    (200, whole, "whole")
                };
                let mut response = (StatusCode::from_u16(status).unwrap(), body).into_response();
                for (name, value) in fields {
                    response.headers_mut().append(*name, value.parse().unwrap());
                }
                async move { response }
            }
        };
        let site = CacheLayer::http(cache).layer(Router::new().fallback(handler));
        Self { clock, site, asked }
    }

    async fn send(&self, method: &str, fields: &[(&str, &str)]) -> (Response<()>, String) {
        let mut request = Request::builder().method(method).uri("http://a.test/");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).unwrap();
        let (parts, body) = self
            .site
            .clone()
            .oneshot(request)
            .await
            .unwrap()
            .into_parts();
        let body = to_bytes(Body::new(body), usize::MAX).await.unwrap();
        tokio::task::yield_now().await;
        let text = String::from_utf8(body.to_vec()).unwrap();
        (Response::from_parts(parts, ()), text)
    }

    async fn get(&self) -> (Response<()>, String) {
        self.send("GET", &[]).await
    }
}

fn field<'r>(response: &'r Response<()>, name: &str) -> &'r str {
    let value = response.headers().get(name);
    value.map_or("", |value| value.to_str().unwrap())
}

const MINUTE: Fields = &[("cache-control", "max-age=60"), ("etag", "\"1\"")];

#[tokio::test]
async fn rfc_9111_4_3_4_a_304_makes_what_is_stored_fresh_again_from_its_own_date_and_age() {
    let update: Fields = &[("etag", "\"1\""), ("x-new", "1"), ("age", "10")];
    let origin = Origin::new(MINUTE, (304, update));
    origin.get().await;
    for _ in 0..3 {
        origin.clock.advance(Duration::from_secs(61));
        let (response, body) = origin.get().await;
        assert_eq!((response.status().as_u16(), body.as_str()), (200, "whole"));
        assert!(field(&response, "cache-status").ends_with("stored"));
        assert_eq!(field(&response, "x-new"), "1");
        origin.clock.advance(Duration::from_secs(9));
        let (hit, _) = origin.get().await;
        // Entries know milliseconds: 41, or a little less.
        let status = field(&hit, "cache-status");
        assert!(
            ["axum-cache; hit; ttl=40", "axum-cache; hit; ttl=41"].contains(&status),
            "{status}"
        );
        assert_eq!(field(&hit, "age"), "19");
    }
    assert_eq!(origin.asked.lock().unwrap().len(), 4);
}

#[tokio::test]
async fn a_304_that_sets_a_cookie_is_for_its_client_and_changes_nothing_for_others() {
    let update: Fields = &[
        ("etag", "\"1\""),
        ("set-cookie", "sid=1"),
        ("x-user", "ada"),
    ];
    let origin = Origin::new(MINUTE, (304, update));
    origin.get().await;
    origin.clock.advance(Duration::from_secs(61));
    for _ in 0..2 {
        let (response, body) = origin.get().await;
        assert_eq!(
            (body.as_str(), field(&response, "set-cookie")),
            ("whole", "sid=1")
        );
        assert!(field(&response, "cache-status").ends_with("detail=set-cookie"));
    }
    assert_eq!(origin.asked.lock().unwrap().len(), 3, "each has to ask");
}

#[tokio::test]
async fn rfc_9111_4_3_4_a_304_about_another_response_is_not_used() {
    let origin = Origin::new(MINUTE, (304, &[("etag", "\"2\"")]));
    origin.get().await;
    origin.clock.advance(Duration::from_secs(61));
    let (response, body) = origin.get().await;
    // It may be served stale, as nothing better is to be had; and is not asked about again.
    assert_eq!((response.status().as_u16(), body.as_str()), (200, "whole"));
    assert!(field(&response, "cache-status").contains("detail=stale-if-error"));
    let (again, _) = origin.get().await;
    assert!(field(&again, "cache-status").starts_with("axum-cache; fwd=uri-miss"));

    let strict: Fields = &[
        ("cache-control", "max-age=60, must-revalidate"),
        ("etag", "\"1\""),
    ];
    let origin = Origin::new(strict, (304, &[("etag", "\"2\"")]));
    origin.get().await;
    origin.clock.advance(Duration::from_secs(61));
    assert_eq!(origin.get().await.0.status(), 502);
    assert_eq!(origin.get().await.0.status(), 200);
}

#[tokio::test]
async fn rfc_9111_4_3_5_head_freshens_by_a_validator_invalidates_by_a_difference_and_else_nothing()
{
    let cases: &[(Fields, &str)] = &[
        (
            &[
                ("etag", "\"1\""),
                ("content-length", "5"),
                ("cache-control", "max-age=60"),
            ],
            "; hit",
        ),
        (
            &[("etag", "\"2\""), ("content-length", "5")],
            "fwd=uri-miss",
        ),
        (
            &[("etag", "\"1\""), ("content-length", "6")],
            "fwd=uri-miss",
        ),
        (&[("content-length", "5")], "fwd=stale"),
    ];
    for (update, then) in cases {
        let origin = Origin::new(MINUTE, (200, update));
        origin.get().await;
        origin.clock.advance(Duration::from_secs(61));
        origin.send("HEAD", &[]).await;
        let (response, _) = origin.get().await;
        let status = field(&response, "cache-status");
        assert!(status.contains(then), "{update:?}: {status}");
    }
}

#[tokio::test]
async fn rfc_9111_4_4_what_is_changed_is_forgotten_though_the_client_leaves() {
    let remote = Remote::default();
    let cache = Cache::new(remote.clone());
    let handler = |request: Request| async move {
        if request.headers().contains_key("x-slow") {
            std::future::pending::<()>().await;
        }
        (
            [
                ("cache-control", "max-age=60"),
                ("location", "http://a.test:80/b"),
            ],
            "page",
        )
    };
    let site = CacheLayer::http(cache).layer(Router::new().fallback(handler));
    let server = Server::start(site.clone()).await;
    let request = |method: &str, path: &str| {
        let uri = format!("http://a.test{path}");
        Request::builder()
            .method(method)
            .uri(uri)
            .body(Body::empty())
            .unwrap()
    };
    let hit = async |path: &str| {
        let response = site.clone().oneshot(request("GET", path)).await.unwrap();
        let status = response.headers()["cache-status"]
            .to_str()
            .unwrap()
            .to_owned();
        drop(to_bytes(Body::new(response.into_body()), usize::MAX).await);
        tokio::time::sleep(Duration::from_millis(5)).await;
        status.contains("; hit")
    };
    for path in ["/a", "/b"] {
        hit(path).await;
        assert!(hit(path).await);
    }
    let mut post = request("POST", "/a");
    post.headers_mut().insert("x-slow", "1".parse().unwrap());
    let post = site.clone().oneshot(post);
    assert!(
        tokio::time::timeout(Duration::from_millis(10), post)
            .await
            .is_err()
    );
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert!(!hit("/a").await, "its client left before it was answered");
    assert!(hit("/b").await);
    site.clone().oneshot(request("POST", "/a")).await.unwrap();
    assert!(!hit("/a").await);
    assert!(!hit("/b").await, "a default port is none");
    drop(server);
}

#[tokio::test]
async fn rfc_9111_5_2_1_7_only_if_cached_is_answered_by_the_cache_alone() {
    let origin = Origin::new(MINUTE, (304, &[]));
    let only: &[_] = &[("cache-control", "only-if-cached")];
    assert_eq!(origin.send("GET", only).await.0.status(), 504);
    assert!(origin.asked.lock().unwrap().is_empty());
    origin.get().await;
    assert_eq!(origin.send("GET", only).await.0.status(), 200);
}
