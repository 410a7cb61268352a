//! The opposite of every fault that was found in another cache.
//!
//! | fault | here | and before |
//! |---|---|---|
//! | nested routers serve each other's pages | `nested_routers_keep_their_pages_apart` | `it::pages::nested_routers_keep_their_full_path` |
//! | one user's page, or cookie, for another | `credentials_are_nobody_elses`, `identity`, `tables::e9_*` | `it::pages::authorization_*`, `cookies_*` |
//! | `Vary` and `Host` ignored | `identity` | `it::pages::m_41_*`, `queries_paths_and_hosts_*` |
//! | `no-store`, `private="x"`, `max-age=0` cached, in any case | `tables::e7_only_whole_answers_are_stored` | `it::pages::what_the_gate_refuses_*` |
//! | HEAD empties GET | `head_before_get_leaves_no_empty_page` | `it::pages::head_is_answered_*` |
//! | one 401 for everybody | `an_error_is_for_the_one_who_made_it` | `it::pages::only_200_is_stored` |
//! | compressed bytes without `Content-Encoding` | `compressed_bytes_say_so` | |
//! | POST, PUT and DELETE cached, their bodies ignored | `other_methods_and_bodies_reach_the_handler` | `it::pages::other_methods_pass_through`, `a_get_with_a_body_*` |
//! | a 206 for the whole | `a_part_is_not_the_whole` | |
//! | a body over the limit is a 500 | `a_body_over_the_limit_is_no_error` | `it::pages::bodies_that_end_cleanly_*` |
//! | a cancelled refresh makes what is stale fresh | `a_refresh_that_is_given_up_makes_nothing_fresh` | |
//! | the inner service is called before the lookup | `a_hit_asks_nobody` | |
//! | event streams never arrive | `bodies::e12_*` | `it::pages::an_event_stream_*` |
//! | all hang when the leader disconnects | `a_leader_that_leaves_keeps_nobody_waiting` | `it::collapse::c5_*`, `c6_*` |
//! | an uncacheable answer for all who wait, or one after the other | `identity` | `it::collapse::c7_*` |
//! | a date beats a tag, a 304 without fields | `a_date_does_not_beat_a_tag`, `a_304_keeps_its_fields` | |
//! | `?x=1&x=2` equals `?x=2&x=1` | `repeated_parameters_keep_their_order` | `it::inputs::queries_are_sorted_*` |
//! | keys by the method only | | `it::pages::queries_paths_and_hosts_*` |
//! | an overwrite keeps the old TTL | `an_overwrite_gets_a_new_lifetime` | `conformance` |
//! | memory without bound | `memory_stays_within_its_bound` | `backend::memory` |
//! | TTL under a second, `clear` as FLUSHDB | | `conformance`, `stores` |

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get as on_get;
use axum_cache::backend::Memory;
use axum_cache::layer::ETags;
use axum_cache::{Cache, CacheLayer, cache_page};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tower::{Layer, service_fn};
use tower_http::compression::CompressionLayer;

use crate::site::{
    MINUTE, Runs, Site, ask, behind, counted, get, memory, request, send, settled, site, timed,
};
use crate::tools::http::Channel;

/// One layer of each kind.
fn kinds() -> [(&'static str, CacheLayer); 3] {
    [
        ("site", CacheLayer::new(memory()).ttl(MINUTE)),
        ("page", cache_page(MINUTE, memory(), "")),
        ("http", CacheLayer::http(memory())),
    ]
}

/// Every answer says that it is fresh, so that layers of all kinds keep it.
const FRESH: [(&str, &str); 1] = [("cache-control", "max-age=60")];

pub(crate) async fn nested_routers_keep_their_pages_apart() {
    let leaf = |name: &'static str| {
        Router::new().route(
            "/x",
            on_get(move |uri: Uri| async move { (FRESH, format!("{name} {uri}")) }),
        )
    };
    let tree = |layer: Option<CacheLayer>| {
        let leaf = |name| match &layer {
            Some(layer) => leaf(name).layer(layer.clone()),
            None => leaf(name),
        };
        Router::new()
            .nest("/a", leaf("a").nest("/deep", leaf("a deep")))
            .nest("/b", leaf("b").nest("/deep", leaf("b deep")))
    };
    for (name, layer) in kinds() {
        let runs = Runs::default();
        let sites = [
            site(layer.layer(tree(None))),
            site(tree(None).layer(layer.clone().key_prefix("router"))),
            site(tree(Some(layer.key_prefix("leaves")))),
        ];
        for site in sites {
            for _ in 0..2 {
                for (path, leaf) in [
                    ("a", "a"),
                    ("b", "b"),
                    ("a/deep", "a deep"),
                    ("b/deep", "b deep"),
                ] {
                    let response = tower::ServiceExt::oneshot(
                        site.clone(),
                        request("GET", &format!("/{path}/x"), &[]),
                    );
                    let body = response.await.unwrap().into_body();
                    let body = axum::body::to_bytes(body, 1000).await.unwrap();
                    assert!(
                        body.starts_with(format!("{leaf} ").as_bytes()),
                        "{name} {path}"
                    );
                }
            }
        }
        drop(runs);
    }
}

pub(crate) async fn credentials_are_nobody_elses() {
    let whose = |headers: HeaderMap| async move {
        let of = |name| {
            headers
                .get(name)
                .map_or("-", |value| value.to_str().unwrap())
                .to_owned()
        };
        (FRESH, format!("{} {}", of("authorization"), of("cookie")))
    };
    for (name, layer) in kinds() {
        let (site, _) = behind(&layer, Router::new().fallback(whose));
        for user in ["ada", "bob", "ada"] {
            let seen = ask(&site, "GET", "/", &[("authorization", user)]).await;
            assert_eq!(seen.text(), format!("{user} -"), "{name}");
        }
        assert_eq!(get(&site, "/").await.text(), "- -", "{name}");
        // A whole site's layer; the others were asked for by their authors.
        if name == "site" {
            for user in ["ada", "bob", "ada"] {
                let seen = ask(&site, "GET", "/", &[("cookie", user)]).await;
                assert_eq!(seen.text(), format!("- {user}"));
            }
        }
    }
}

pub(crate) async fn head_before_get_leaves_no_empty_page() {
    for (name, layer) in kinds() {
        let router = Router::new().route("/", on_get(|| async { (FRESH, "whole") }));
        let (site, runs) = behind(&layer, router);
        for _ in 0..3 {
            let head = ask(&site, "HEAD", "/", &[]).await;
            assert_eq!((head.text(), head.how()), ("", "uri-miss"), "{name}");
        }
        assert_eq!(get(&site, "/").await.text(), "whole", "{name}");
        assert_eq!(runs.take(), 4);
        let head = ask(&site, "HEAD", "/", &[]).await;
        assert!(head.is_hit() && head.text().is_empty());
        assert_eq!(head.field("content-length"), Some("5"));
        assert_eq!(get(&site, "/").await.text(), "whole", "{name}");
        assert_eq!(runs.take(), 0);
    }
}

pub(crate) async fn an_error_is_for_the_one_who_made_it() {
    for status in [400, 401, 403, 404, 405, 410, 429, 500, 502, 503] {
        for (name, layer) in kinds() {
            let first = Arc::new(AtomicUsize::new(0));
            let router = Router::new().fallback(move || {
                let is_first = first.fetch_add(1, Ordering::SeqCst) == 0;
                let status = if is_first { status } else { 200 };
                async move { StatusCode::from_u16(status).unwrap() }
            });
            let (site, _) = behind(&layer, router);
            assert_eq!(get(&site, "/").await.status, status, "{name}");
            // By HTTP, 404 and some others may be kept, but not without a word on freshness.
            assert_eq!(get(&site, "/").await.status, 200, "{name} after {status}");
        }
    }
}

pub(crate) async fn other_methods_and_bodies_reach_the_handler() {
    let echo = |method: Method, body: Bytes| async move {
        let body = String::from_utf8(body.to_vec()).unwrap();
        (FRESH, format!("{method} {body}"))
    };
    for (name, layer) in kinds() {
        let (site, runs) = behind(&layer, Router::new().fallback(echo));
        get(&site, "/").await;
        assert!(get(&site, "/").await.is_hit());
        runs.take();
        for method in [
            "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "REPORT", "PURGE",
        ] {
            for body in ["one", "two"] {
                let request = Request::builder().method(method).uri("http://site.test/");
                let length = body.len().to_string();
                let request = request.header("content-length", length);
                let seen = send(&site, request.body(Body::from(body)).unwrap()).await;
                assert_eq!(seen.text(), format!("{method} {body}"), "{name}");
                assert!(!seen.last().stored, "{name}");
            }
        }
        for body in ["one", "two"] {
            let request = Request::get("http://site.test/").header("content-length", "3");
            let seen = send(&site, request.body(Body::from(body)).unwrap()).await;
            assert_eq!(seen.text(), format!("GET {body}"), "{name}");
        }
        assert_eq!(runs.take(), 16);
        assert_eq!(get(&site, "/").await.text(), "GET ", "{name}");
    }
}

/// Answers ranges by itself.
async fn parted(request: Request) -> Response {
    if request.headers().contains_key("range") {
        let fields = [("content-range", "bytes 0-1/5"), FRESH[0]];
        return (StatusCode::PARTIAL_CONTENT, fields, "wh").into_response();
    }
    (FRESH, "whole").into_response()
}

pub(crate) async fn a_part_is_not_the_whole() {
    for (name, layer) in kinds() {
        let (site, _) = behind(&layer, Router::new().fallback(parted));
        let range = [("range", "bytes=0-1")];
        for _ in 0..2 {
            let part = ask(&site, "GET", "/", &range).await;
            assert_eq!(
                (part.status.as_u16(), part.text(), part.is_hit()),
                (206, "wh", false)
            );
        }
        for hit in [false, true] {
            let whole = get(&site, "/").await;
            assert_eq!(
                (whole.status.as_u16(), whole.text()),
                (200, "whole"),
                "{name}"
            );
            assert_eq!(whole.is_hit(), hit, "{name}");
        }
        let part = ask(&site, "GET", "/", &range).await;
        assert_eq!((part.text(), part.is_hit()), ("wh", true), "{name}");
        assert_eq!(part.field("content-range"), Some("bytes 0-1/5"));
    }
}

pub(crate) async fn compressed_bytes_say_so() {
    const TEXT: &str = "compressible compressible compressible compressible compressible";
    let router = || Router::new().fallback(|| async { (FRESH, TEXT) });
    for (name, layer) in kinds() {
        let runs = Runs::default();
        let inside = site(layer.layer(counted(router().layer(CompressionLayer::new()), &runs)));
        let weak = layer.clone().key_prefix("outside").etags(ETags::Weak);
        let cached = Router::new().fallback_service(weak.layer(counted(router(), &runs)));
        let outside = site(cached.layer(CompressionLayer::new()));
        for (place, site) in [("inside", &inside), ("outside", &outside)] {
            for _ in 0..2 {
                for accepted in ["gzip", "identity", "gzip;q=0", "br, gzip"] {
                    let seen = ask(site, "GET", "/", &[("accept-encoding", accepted)]).await;
                    let bytes = seen.body.clone().unwrap();
                    let is_gzip = bytes.starts_with(&[0x1f, 0x8b]);
                    let says = seen.field("content-encoding") == Some("gzip");
                    assert_eq!(is_gzip, says, "{name} {place} {accepted}");
                    assert_eq!(is_gzip, accepted == "gzip" || accepted == "br, gzip");
                    assert!(is_gzip || bytes == TEXT, "{name} {place} {accepted}");
                    let vary = seen.field("vary").unwrap_or("").to_ascii_lowercase();
                    assert!(
                        vary.contains("accept-encoding"),
                        "{name} {place} {accepted}"
                    );
                }
            }
            let again = ask(site, "GET", "/", &[("accept-encoding", "gzip")]).await;
            assert!(again.is_hit(), "{name} {place}: {:?}", again.members);
        }
    }
}

pub(crate) async fn a_body_over_the_limit_is_no_error() {
    for (name, layer) in kinds() {
        let layer = layer.max_body_bytes(1000);
        for streams in [false, true] {
            let router = Router::new().fallback(move || async move {
                let bytes = Bytes::from(vec![b'x'; 5000]);
                let body = if streams {
                    let (sender, receiver) = mpsc::channel::<Result<Bytes, Infallible>>(1);
                    tokio::spawn(async move {
                        for part in bytes.chunks(500) {
                            let part = Bytes::copy_from_slice(part);
                            let _ = sender.send(Ok(part)).await;
                        }
                    });
                    Body::new(Channel(receiver))
                } else {
                    Body::from(bytes)
                };
                (FRESH, body)
            });
            let (site, runs) = behind(&layer.clone().key_prefix(streams.to_string()), router);
            for _ in 0..3 {
                let crowd = (0..5).map(|_| {
                    let site = site.clone();
                    async move { get(&site, "/").await }
                });
                for seen in crowd.collect::<JoinSet<_>>().join_all().await {
                    assert_eq!(seen.status, 200, "{name}");
                    assert_eq!(seen.body.unwrap().len(), 5000, "{name}");
                }
            }
            assert_eq!(runs.take(), 15, "{name}");
        }
    }
}

pub(crate) async fn a_leader_that_leaves_keeps_nobody_waiting() {
    for (name, layer) in kinds() {
        let router = Router::new().fallback(|| async {
            tokio::time::sleep(Duration::from_millis(60)).await;
            (FRESH, "page")
        });
        let (site, runs) = behind(&layer, router);
        let leader = tokio::spawn({
            let site = site.clone();
            async move { get(&site, "/").await }
        });
        while runs.now() == 0 {
            tokio::task::yield_now().await;
        }
        let crowd: JoinSet<_> = (0..50)
            .map(|_| {
                let site = site.clone();
                async move { get(&site, "/").await }
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(10)).await;
        leader.abort();
        let all = tokio::time::timeout(Duration::from_secs(30), crowd.join_all()).await;
        for seen in all.expect("nobody hangs") {
            assert!(
                seen.last().collapsed || seen.is_hit(),
                "{name}: {:?}",
                seen.members
            );
            assert_eq!(seen.text(), "page");
        }
        assert_eq!(runs.take(), 1, "{name}");
    }
}

pub(crate) async fn repeated_parameters_keep_their_order() {
    for (name, layer) in kinds() {
        for (index, layer) in [layer.clone(), layer.sort_query()].into_iter().enumerate() {
            let layer = layer.key_prefix(index.to_string());
            let query = |uri: Uri| async move { (FRESH, uri.query().unwrap_or("").to_owned()) };
            let (site, _) = behind(&layer, Router::new().fallback(query));
            for _ in 0..2 {
                for query in [
                    "x=1&x=2",
                    "x=2&x=1",
                    "x=1",
                    "x=1&x=1",
                    "x=1,2",
                    "x=1%262",
                    "x=1&x=2&x=1",
                ] {
                    let seen = get(&site, &format!("/?{query}")).await;
                    assert_eq!(seen.text(), query, "{name}");
                }
            }
        }
    }
}

const DATE: &str = "Tue, 15 Nov 1994 12:45:26 GMT";
const LATER: &str = "Tue, 15 Nov 2033 12:45:26 GMT";

async fn tagged() -> impl IntoResponse {
    let fields = [
        ("etag", "\"one\""),
        ("last-modified", DATE),
        ("cache-control", "max-age=60"),
        ("vary", "x-any"),
        ("content-location", "/there"),
        ("access-control-allow-origin", "*"),
        ("content-security-policy", "default-src 'self'"),
        ("x-own", "1"),
    ];
    (fields, "page")
}

pub(crate) async fn a_304_keeps_its_fields() {
    for (name, layer) in kinds() {
        let (site, _) = behind(&layer, Router::new().fallback(tagged));
        for round in ["miss", "hit"] {
            let fields = [("if-none-match", "W/\"one\", \"two\"")];
            let seen = ask(&site, "GET", "/", &fields).await;
            assert_eq!(
                (seen.status.as_u16(), seen.text()),
                (304, ""),
                "{name} {round}"
            );
            for field in [
                "etag",
                "cache-control",
                "vary",
                "content-location",
                "access-control-allow-origin",
                "content-security-policy",
                "x-own",
            ] {
                assert!(seen.field(field).is_some(), "{name} {round}: {field}");
            }
            assert_eq!(seen.field("content-length"), None, "{name} {round}");
            assert_eq!(seen.field("content-type"), None, "{name} {round}");
            get(&site, "/").await;
        }
    }
}

pub(crate) async fn a_date_does_not_beat_a_tag() {
    for (name, layer) in kinds() {
        let (site, _) = behind(&layer, Router::new().fallback(tagged));
        for round in ["miss", "hit"] {
            for (tag, date, status) in [
                ("\"other\"", LATER, 200),
                ("\"other\"", DATE, 200),
                ("\"one\"", "Tue, 15 Nov 1983 12:45:26 GMT", 304),
                ("*", DATE, 304),
            ] {
                let fields = [("if-none-match", tag), ("if-modified-since", date)];
                let seen = ask(&site, "GET", "/", &fields).await;
                assert_eq!(seen.status, status, "{name} {round} {tag} {date}");
            }
            let seen = ask(&site, "GET", "/", &[("if-modified-since", DATE)]).await;
            assert_eq!(seen.status, 304, "{name} {round}");
        }
    }
}

pub(crate) async fn an_overwrite_gets_a_new_lifetime() {
    for name in ["site", "http"] {
        let (cache, clock) = timed();
        let layer = match name {
            "site" => CacheLayer::new(cache),
            _ => CacheLayer::http(cache),
        };
        let run = Arc::new(AtomicUsize::new(0));
        let router = Router::new().fallback(move || {
            let seconds = [10, 9000, 5][run.fetch_add(1, Ordering::SeqCst).min(2)];
            async move { [("cache-control", format!("max-age={seconds}"))] }
        });
        let (site, runs) = behind(&layer, router);
        get(&site, "/").await;
        clock.advance(Duration::from_secs(11));
        assert!(!get(&site, "/").await.is_hit(), "{name}");
        for _ in 0..8 {
            clock.advance(Duration::from_secs(1000));
            assert!(get(&site, "/").await.is_hit(), "{name}");
        }
        clock.advance(Duration::from_secs(1000));
        assert!(!get(&site, "/").await.is_hit(), "{name}");
        clock.advance(Duration::from_secs(5));
        assert!(!get(&site, "/").await.is_hit(), "{name}");
        assert_eq!(runs.take(), 4, "{name}");
    }
}

pub(crate) async fn a_hit_asks_nobody() {
    for (name, layer) in kinds() {
        let calls = Arc::new(AtomicUsize::new(0));
        let counting = Arc::clone(&calls);
        let service = service_fn(move |_: Request| {
            counting.fetch_add(1, Ordering::SeqCst);
            // It takes time already when it is called.
            async { Ok::<_, Infallible>((FRESH, "page").into_response()) }
        });
        let site: Site = site(layer.layer(service));
        for _ in 0..10 {
            let answer = tower::ServiceExt::oneshot(site.clone(), request("GET", "/", &[]));
            assert_eq!(answer.await.unwrap().status(), 200);
        }
        assert_eq!(calls.load(Ordering::SeqCst), 1, "{name}");
    }
}

pub(crate) async fn a_refresh_that_is_given_up_makes_nothing_fresh() {
    let (cache, clock) = timed();
    let (run, leave) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let leaving = Arc::clone(&leave);
    let router = Router::new().fallback(move || {
        let (run, leaving) = (run.fetch_add(1, Ordering::SeqCst), Arc::clone(&leaving));
        async move {
            if run == 1 {
                leaving.notified().await;
                std::panic::resume_unwind(Box::new("on purpose"));
            }
            (
                [("cache-control", "max-age=10"), ("etag", "\"1\"")],
                run.to_string(),
            )
        }
    });
    let (site, runs) = behind(&CacheLayer::http(cache), router);
    get(&site, "/").await;
    clock.advance(Duration::from_secs(20));
    let client = tokio::spawn({
        let site = site.clone();
        async move { get(&site, "/").await }
    });
    while runs.now() < 2 {
        tokio::task::yield_now().await;
    }
    client.abort();
    assert!(client.await.unwrap_err().is_cancelled());
    leave.notify_one();
    settled().await;
    let seen = get(&site, "/").await;
    assert_eq!((seen.how(), seen.text()), ("stale", "2"));
}

pub(crate) async fn memory_stays_within_its_bound() {
    const BOUND: usize = 4 << 20;
    let memory = Memory::builder().max_bytes(BOUND).build().unwrap();
    let layer = CacheLayer::new(Cache::new(memory.clone()));
    let router = Router::new().fallback(|| async { vec![b'x'; 4000] });
    let (site, _) = behind(&layer, router);
    for page in 0..5_000 {
        get(&site, &format!("/{page}")).await;
    }
    settled().await;
    println!(
        "memory: {} of {BOUND} bytes, {} of 5000 pages",
        memory.weight(),
        memory.len()
    );
    assert!(memory.weight() <= BOUND as u64 && memory.len() > 100);
}
