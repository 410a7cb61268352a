//! Conditional and range requests, answered from what is stored and from what has just been made.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum_cache::backend::Memory;
use axum_cache::layer::ETags;
use axum_cache::{Cache, CacheLayer};
use tower::Layer;

use crate::support::http::{Answer, Server};

/// What the handler is asked with, and how often.
#[derive(Clone, Default)]
struct Seen(Arc<AtomicUsize>, Arc<AtomicUsize>);

async fn serve(
    layer: impl Fn(CacheLayer) -> CacheLayer,
    fields: &'static [(&'static str, &'static str)],
) -> (Server, Seen) {
    let seen = Seen::default();
    let handler = {
        let seen = seen.clone();
        move |request: Request| {
            let Seen(runs, conditions) = &seen;
            runs.fetch_add(1, Ordering::SeqCst);
            let names = request.headers().keys();
            let asked = names
                .filter(|name| name.as_str().starts_with("if-"))
                .count();
            conditions.fetch_add(asked, Ordering::SeqCst);
            let mut response = "0123456789".into_response();
            for (name, value) in fields {
                response.headers_mut().append(*name, value.parse().unwrap());
            }
            async move { response as Response }
        }
    };
    let layer = layer(CacheLayer::new(Cache::new(Memory::new())));
    let server = Server::start(layer.layer(Router::new().fallback(handler))).await;
    (server, seen)
}

async fn ask(server: &Server, field: &str) -> Answer {
    server.send("GET", "/", &[field]).await
}

#[tokio::test]
async fn h_11_the_etag_is_made_once_and_answers_conditions_on_miss_and_hit() {
    let (server, seen) = serve(|layer| layer, &[("x-kept", "1")]).await;
    let digest = blake3_of("0123456789");
    // W-14: a revalidation of what is not stored warms the cache, and is a 304 all the same.
    let miss = ask(&server, &format!("if-none-match: \"other\", W/{digest}")).await;
    assert_eq!((miss.status, miss.text()), (304, ""));
    assert!(
        miss.cache_status().ends_with("stored"),
        "{}",
        miss.cache_status()
    );
    let whole = server.get("/").await;
    assert_eq!(
        (whole.status, whole.text(), whole.is_hit()),
        (200, "0123456789", true)
    );
    assert_eq!(whole.field("etag"), Some(digest.clone()));
    for head in ["GET", "HEAD"] {
        let field = format!("if-none-match: {digest}");
        let hit = server.send(head, "/", &[&field]).await;
        assert_eq!((hit.status, hit.text(), hit.is_hit()), (304, "", true));
        // What says something of the response stays, what says something of its content does not.
        for name in ["etag", "cache-control", "expires", "date", "x-kept", "age"] {
            assert!(hit.field(name).is_some(), "{name}");
        }
        assert_eq!(hit.field("content-type"), None);
    }
    assert_eq!(ask(&server, "if-none-match: \"other\"").await.status, 200);
    assert_eq!(ask(&server, "if-none-match: *").await.status, 304);
    assert_eq!(ask(&server, "if-match: \"other\"").await.status, 412);
    assert_eq!(seen.0.load(Ordering::SeqCst), 1);
    assert_eq!(
        seen.1.load(Ordering::SeqCst),
        0,
        "the whole response was asked for"
    );
}

/// Half of the digest, as a strong tag.
fn blake3_of(text: &str) -> String {
    format!("\"{}\"", &blake3::hash(text.as_bytes()).to_hex()[..32])
}

#[tokio::test]
async fn an_etag_of_the_handlers_own_is_kept_and_weak_or_no_tags_are_made_if_asked() {
    let own: &[_] = &[
        ("etag", "\"own\""),
        ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
    ];
    let (server, _) = serve(|layer| layer, own).await;
    for _ in 0..2 {
        assert_eq!(
            server.get("/").await.field("etag").as_deref(),
            Some("\"own\"")
        );
        assert_eq!(ask(&server, "if-none-match: \"own\"").await.status, 304);
        let since = "if-modified-since: Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(ask(&server, since).await.status, 304);
        // The date does not count beside a tag.
        let both = ["if-none-match: \"other\"", since];
        assert_eq!(server.send("GET", "/", &both).await.status, 200);
    }
    let (server, _) = serve(|layer| layer.etags(ETags::Weak), &[]).await;
    let weak = format!("W/{}", blake3_of("0123456789"));
    assert_eq!(server.get("/").await.field("etag"), Some(weak.clone()));
    assert_eq!(
        ask(&server, &format!("if-none-match: {weak}")).await.status,
        304
    );
    let (server, _) = serve(|layer| layer.etags(ETags::Off), &[]).await;
    assert_eq!(server.get("/").await.field("etag"), None);
    assert_eq!(ask(&server, "if-none-match: *").await.status, 200);
}

#[tokio::test]
async fn what_is_not_stored_is_conditional_by_its_own_validators_only() {
    let fields: &[_] = &[("cache-control", "no-store"), ("etag", "\"own\"")];
    let (server, seen) = serve(|layer| layer, fields).await;
    for _ in 0..3 {
        assert_eq!(ask(&server, "if-none-match: \"own\"").await.status, 304);
    }
    // Once it was known not to be stored, the handler was shown the conditions.
    assert_eq!(seen.1.load(Ordering::SeqCst), 2);
    let (server, _) = serve(|layer| layer, &[("cache-control", "no-store")]).await;
    assert_eq!(ask(&server, "if-match: \"a\"").await.status, 200);
}

#[tokio::test]
async fn a_part_is_cut_from_the_stored_whole_and_never_stored_for_it() {
    let (server, seen) = serve(|layer| layer, &[]).await;
    // A handler that knows nothing of ranges answers with the whole, which is stored.
    assert_eq!(ask(&server, "range: bytes=2-4").await.text(), "0123456789");
    let etag = server.get("/").await.field("etag").unwrap();
    for (field, status, text, range) in [
        (
            "range: bytes=2-4".to_owned(),
            206,
            "234",
            Some("bytes 2-4/10"),
        ),
        (
            "range: bytes=-3".to_owned(),
            206,
            "789",
            Some("bytes 7-9/10"),
        ),
        (
            "range: bytes=8-".to_owned(),
            206,
            "89",
            Some("bytes 8-9/10"),
        ),
        ("range: bytes=10-".to_owned(), 416, "", Some("bytes */10")),
        ("range: bytes=0-1,4-5".to_owned(), 200, "0123456789", None),
        ("range: lines=1-2".to_owned(), 200, "0123456789", None),
        (
            format!("range: bytes=0-0\r\nif-range: {etag}"),
            206,
            "0",
            Some("bytes 0-0/10"),
        ),
        (
            "range: bytes=0-0\r\nif-range: \"other\"".to_owned(),
            200,
            "0123456789",
            None,
        ),
        (
            format!("range: bytes=0-0\r\nif-none-match: {etag}"),
            304,
            "",
            None,
        ),
    ] {
        let answer = ask(&server, &field).await;
        assert_eq!((answer.status, answer.text()), (status, text), "{field}");
        assert_eq!(answer.field("content-range").as_deref(), range, "{field}");
        assert!(answer.is_hit(), "{field}");
    }
    assert_eq!(server.get("/").await.text(), "0123456789");
    assert_eq!(seen.0.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn unsafe_requests_forget_the_page_if_asked_to_and_if_they_succeed() {
    let layer = CacheLayer::new(Cache::new(Memory::new())).ttl(Duration::from_secs(60));
    let handler = |request: Request| async move {
        let failed = request.uri().query() == Some("fail");
        match (request.method().as_str(), failed) {
            ("GET", _) => "page".into_response(),
            (_, true) => axum::http::StatusCode::BAD_REQUEST.into_response(),
            _ => [
                ("location", "/other"),
                ("content-location", "http://else.test/"),
            ]
            .into_response(),
        }
    };
    for (invalidates, methods) in [
        (false, &["POST", "M-X"][..]),
        (true, &["POST", "PUT", "DELETE", "M-X"]),
    ] {
        let layer = layer.clone().invalidate_on_unsafe(invalidates);
        let layer = layer.key_prefix(invalidates.to_string());
        let server = Server::start(layer.layer(Router::new().fallback(handler))).await;
        for method in methods {
            for path in ["/", "/other", "/third"] {
                server.get(path).await;
                assert!(server.get(path).await.is_hit());
            }
            for read in ["OPTIONS", "TRACE", "HEAD"] {
                server.send(read, "/", &[]).await;
                assert!(server.get("/").await.is_hit(), "{read}");
            }
            server.send(method, "/?fail", &[]).await;
            assert!(server.get("/").await.is_hit(), "it failed");
            server.send(method, "/", &["content-length: 0"]).await;
            assert_eq!(server.get("/").await.is_hit(), !invalidates, "{method}");
            assert_eq!(
                server.get("/other").await.is_hit(),
                !invalidates,
                "{method}"
            );
            assert!(server.get("/third").await.is_hit());
        }
    }
}

/// Twice the body, as middleware has it that writes something into pages.
async fn doubled(response: Response) -> Response {
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    Response::from_parts(parts, [&body[..], &body[..]].concat().into())
}

#[tokio::test]
async fn who_replaces_the_body_of_a_hit_need_not_know_of_its_length() {
    let (outer, inner) = (Cache::new(Memory::new()), Cache::new(Memory::new()));
    let router = Router::new().route("/", get(async || ([("etag", "\"1\"")], "01234")));
    let router = router.layer(CacheLayer::new(inner.clone()));
    let router = router.layer(map_response(doubled));
    let inside = Server::start(router.clone()).await;
    let between = Server::start(CacheLayer::new(outer.clone()).layer(router)).await;
    for _ in 0..3 {
        let whole = inside.get("/").await;
        assert_eq!(whole.text(), "0123401234");
        assert_eq!(whole.field("content-length").as_deref(), Some("10"));
        outer.clear().await.unwrap();
        // What a layer outside gets of the inner one's hit is whole, and stored.
        let stored = between.get("/").await;
        assert!(stored.cache_status().ends_with("stored"), "{stored:?}");
        assert_eq!(stored.text(), "0123401234");
        assert_eq!(between.get("/").await.text(), "0123401234");
    }
    // Parts are cut before it and after it.
    let part = ask(&inside, "range: bytes=1-2").await;
    assert_eq!((part.status, part.text()), (206, "1212"));
    let part = ask(&between, "range: bytes=4-5").await;
    assert_eq!((part.status, part.text()), (206, "40"));
    assert_eq!(ask(&inside, "if-none-match: \"1\"").await.status, 304);
}

#[tokio::test]
async fn an_answer_without_a_body_says_how_long_that_would_be_if_there_may_be_one() {
    for (status, long) in [(200, Some("5")), (404, Some("5")), (204, None)] {
        let status = StatusCode::from_u16(status).unwrap();
        let max_age = [("cache-control", "max-age=9")];
        let router = Router::new().route("/", get(async move || (status, max_age, "01234")));
        let layer = CacheLayer::http(Cache::new(Memory::new()));
        let server = Server::start(layer.layer(router)).await;
        let length = |answer: Answer| answer.field("content-length");
        assert_eq!(server.get("/").await.status, status);
        let hit = server.get("/").await;
        assert!(hit.is_hit(), "{hit:?}");
        assert_eq!(length(hit).as_deref(), long);
        let head = server.send("HEAD", "/", &[]).await;
        assert_eq!(length(head).as_deref(), long);
    }
}
