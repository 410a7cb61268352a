//! Pages over real sockets: what the gate says, and Django's rules for `cache_page`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::handler::Handler;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum_cache::backend::{Backend, Memory};
use axum_cache::clock::ManualClock;
use axum_cache::control::{never_cache, vary_on_cookie, vary_on_headers};
use axum_cache::testing::{Fault, Operation};
use axum_cache::{Cache, CacheLayer, ErrorKind, Ttl, cache_page};
use tokio::sync::Semaphore;
use tower::Layer;

use crate::support::backends::{Remote, down};
use crate::support::http::{Answer, Channel, Server};

const MINUTE: Duration = Duration::from_secs(60);

/// A handler that counts its runs, and answers what the request and the path ask for.
#[derive(Clone, Default)]
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn runs(&self) -> usize {
        self.0.swap(0, Ordering::SeqCst)
    }

    /// The query is a list of response fields, `name=value`, divided by `&`.
    fn respond(&self, request: &Request) -> Response {
        let run = self.0.fetch_add(1, Ordering::SeqCst);
        let headers = request.headers();
        let of = |name| {
            headers
                .get(name)
                .and_then(|v| v.to_str().ok())
                .unwrap_or("-")
                .to_owned()
        };
        let body = format!(
            "{run}:{}:{}:{}",
            request.uri(),
            of("cookie"),
            of("accept-language")
        );
        let mut response = body.into_response();
        for pair in request.uri().query().unwrap_or("").split('&') {
            if let Some((name, value)) = pair.split_once('=')
                && let Ok(name) = name.parse::<header::HeaderName>()
            {
                let value = value.replace('+', " ").parse().unwrap();
                response.headers_mut().append(name, value);
            }
        }
        response
    }

    fn router(&self) -> Router {
        let counted = self.clone();
        Router::new().fallback(move |request: Request| {
            let response = counted.respond(&request);
            async move { response }
        })
    }
}

/// A site behind a blanket layer, on memory and on a store that is asked by async calls.
async fn sites(layer: impl Fn(CacheLayer) -> CacheLayer) -> Vec<(Server, Counted)> {
    let mut sites = Vec::new();
    for cache in [Cache::new(Memory::new()), Cache::new(Remote::default())] {
        let counted = Counted::default();
        let layer = layer(CacheLayer::new(cache).ttl(MINUTE));
        sites.push((Server::start(layer.layer(counted.router())).await, counted));
    }
    sites
}

/// Sends until the store has had time to take what was sent before.
async fn settled() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_millis(5)).await;
}

async fn twice(server: &Server, path: &str, fields: &[&str]) -> (Answer, Answer) {
    let first = server.send("GET", path, fields).await;
    settled().await;
    (first, server.send("GET", path, fields).await)
}

#[tokio::test]
async fn the_second_answer_is_the_first_byte_for_byte() {
    for (server, counted) in sites(|layer| layer).await {
        let (first, second) = twice(&server, "/a?x-own=1", &[]).await;
        assert_eq!(
            first.cache_status(),
            "axum-cache; fwd=uri-miss; ttl=60; stored"
        );
        assert!(second.cache_status().starts_with("axum-cache; hit; ttl="));
        assert_eq!(first.field("age"), None);
        assert_eq!(second.field("age").as_deref(), Some("0"));
        assert_eq!(first.body, second.body);
        for name in [
            "content-type",
            "content-length",
            "cache-control",
            "expires",
            "date",
            "x-own",
        ] {
            assert_eq!(first.field(name), second.field(name), "{name}");
            assert!(second.field(name).is_some(), "{name}");
        }
        assert_eq!(first.field("cache-control").as_deref(), Some("max-age=60"));
        assert_eq!(counted.runs(), 1);
    }
}

#[tokio::test]
async fn queries_paths_and_hosts_are_separate() {
    for (server, counted) in sites(|layer| layer).await {
        for path in [
            "/?a=1",
            "/?a=2",
            "/?a=1&b=2",
            "/?b=2&a=1",
            "/",
            "/?",
            "/A",
            "/a",
            "/%61",
            "//a",
        ] {
            assert!(!server.get(path).await.is_hit(), "{path}");
        }
        for hosts in [["host: a.test"], ["host: b.test"]] {
            assert!(!server.send_raw("GET", "/", &hosts).await.is_hit());
        }
        assert_eq!(counted.runs(), 12);
        settled().await;
        assert!(
            server
                .send_raw("GET", "/", &["host: A.test"])
                .await
                .is_hit()
        );
    }
}

#[tokio::test]
async fn head_is_answered_from_get_and_never_blanks_it() {
    for (server, counted) in sites(|layer| layer).await {
        let head = server.send("HEAD", "/", &[]).await;
        assert!(
            head.cache_status().contains("detail=head"),
            "{}",
            head.cache_status()
        );
        let (first, second) = twice(&server, "/", &[]).await;
        assert!(!first.is_hit() && second.is_hit() && !second.body.is_empty());
        let head = server.send("HEAD", "/", &[]).await;
        assert!(head.is_hit() && head.body.is_empty());
        assert_eq!(head.field("content-length"), second.field("content-length"));
        assert_eq!(counted.runs(), 2);
    }
}

#[tokio::test]
async fn a_get_with_a_body_neither_fills_nor_reads() {
    for (server, counted) in sites(|layer| layer).await {
        for body in [
            "content-length: 4\r\n\r\nevil",
            "transfer-encoding: chunked\r\n\r\n0\r\n",
        ] {
            let answer = server.send("GET", "/", &[body]).await;
            assert_eq!(
                answer.cache_status(),
                "axum-cache; fwd=bypass; detail=request-body"
            );
        }
        assert!(twice(&server, "/", &["content-length: 0"]).await.1.is_hit());
        assert_eq!(counted.runs(), 3);
    }
}

#[tokio::test]
async fn s_06_a_site_that_keeps_pages_for_no_time_says_so_and_stores_nothing() {
    for (server, counted) in sites(|layer| layer.ttl(Duration::ZERO)).await {
        let (first, second) = twice(&server, "/", &[]).await;
        assert_eq!(first.field("cache-control").as_deref(), Some("max-age=0"));
        assert_eq!(
            second.cache_status(),
            "axum-cache; fwd=uri-miss; detail=ttl-zero"
        );
        assert_eq!(counted.runs(), 2);
        // What a response says of itself counts before that.
        assert!(
            twice(&server, "/?cache-control=max-age=9", &[])
                .await
                .1
                .is_hit()
        );
    }
}

#[tokio::test]
async fn other_methods_pass_through() {
    for (server, counted) in sites(|layer| layer).await {
        twice(&server, "/", &[]).await;
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PURGE"] {
            let answer = server.send(method, "/", &["content-length: 0"]).await;
            assert_eq!(answer.cache_status(), "axum-cache; fwd=method");
            assert_eq!(answer.field("cache-control"), None);
        }
        assert_eq!(counted.runs(), 7);
    }
}

#[tokio::test]
async fn what_the_gate_refuses_reaches_its_own_client_only() {
    for (server, counted) in sites(|layer| layer).await {
        for (query, reason) in [
            ("set-cookie=id=1", "set-cookie"),
            ("set-cookie=id=1&cache-control=public", "set-cookie"),
            ("cache-control=private", "private"),
            ("cache-control=PRIVATE", "private"),
            ("cache-control=no-store", "no-store"),
            ("cache-control=max-age=60,no-cache", "no-cache"),
            ("cache-control=max-age=x", "cache-control-malformed"),
            ("cache-control=max-age=0", "expired"),
            ("expires=0", "expired"),
            ("vary=*", "vary"),
            ("content-range=bytes+0-1/2", "partial"),
        ] {
            let path = format!("/?{query}");
            let (first, second) = twice(&server, &path, &[]).await;
            for answer in [first, second] {
                let status = format!("axum-cache; fwd=uri-miss; detail={reason}");
                assert_eq!(answer.cache_status(), status, "{query}");
                assert_eq!((answer.status, answer.field("age")), (200, None));
            }
        }
        counted.runs();
    }
}

#[tokio::test]
async fn authorization_needs_a_response_made_to_be_shared() {
    for (server, counted) in sites(|layer| layer).await {
        let key = ["authorization: Bearer secret"];
        let (_, second) = twice(&server, "/", &key).await;
        assert_eq!(
            second.cache_status(),
            "axum-cache; fwd=uri-miss; detail=authorization"
        );
        // Stored for a client without credentials, and still not for one with.
        let (_, anonymous) = twice(&server, "/", &[]).await;
        assert!(anonymous.is_hit());
        let with = server.send("GET", "/", &key).await;
        assert_eq!(
            with.cache_status(),
            "axum-cache; fwd=bypass; detail=authorization"
        );
        let (_, shared) = twice(&server, "/?cache-control=public", &key).await;
        assert!(shared.is_hit());
        counted.runs();
    }
}

#[tokio::test]
async fn cookies_keep_a_blanket_layer_away_unless_the_response_allows_it() {
    for (server, counted) in sites(|layer| layer).await {
        let (ada, bob) = (["cookie: id=ada"], ["cookie: id=bob"]);
        let (_, second) = twice(&server, "/", &ada).await;
        assert_eq!(
            second.cache_status(),
            "axum-cache; fwd=uri-miss; detail=cookie"
        );
        assert!(twice(&server, "/", &[]).await.1.is_hit());
        let cookie = server.send("GET", "/", &ada).await;
        assert_eq!(
            cookie.cache_status(),
            "axum-cache; fwd=bypass; detail=cookie"
        );
        assert!(cookie.text().contains("id=ada"));

        let path = "/?vary=Cookie";
        for client in [&ada[..], &bob[..], &[]] {
            let (first, second) = twice(&server, path, client).await;
            assert!(!first.is_hit() && second.is_hit());
            assert_eq!(first.body, second.body);
        }
        let again = server.send("GET", path, &ada).await;
        assert!(again.is_hit() && again.text().contains("id=ada"));
        counted.runs();
    }
}

#[tokio::test]
async fn declared_cookies_are_part_of_the_key_and_others_are_not() {
    for (server, counted) in sites(|layer| layer.cookies(["plan"])).await {
        let (_, hit) = twice(&server, "/", &["cookie: plan=a; other=1"]).await;
        assert!(hit.is_hit());
        assert!(
            server
                .send("GET", "/", &["cookie: other=2; plan=a"])
                .await
                .is_hit()
        );
        assert!(!server.send("GET", "/", &["cookie: plan=b"]).await.is_hit());
        assert!(!server.send("GET", "/", &[]).await.is_hit());
        assert_eq!(counted.runs(), 3);
    }
}

#[tokio::test]
async fn m_41_variants_are_learned_and_do_not_put_each_other_out_of_reach() {
    for (server, counted) in sites(|layer| layer).await {
        let (en, de) = (["accept-language: en"], ["accept-language: de"]);
        let path = "/?vary=Accept-Language";
        let (first, _) = twice(&server, path, &en).await;
        let other = server.send("GET", path, &de).await;
        assert!(
            other.cache_status().contains("fwd=vary-miss"),
            "{}",
            other.cache_status()
        );
        settled().await;
        for _ in 0..5 {
            let (one, two) = (
                server.send("GET", path, &en).await,
                server.send("GET", path, &de).await,
            );
            assert!(one.is_hit() && two.is_hit());
            assert_eq!((&one.body, &two.body), (&first.body, &other.body));
        }
        assert_eq!(counted.runs(), 2);
        // Absent and empty differ.
        assert!(
            !server
                .send("GET", path, &["accept-language:"])
                .await
                .is_hit()
        );
        assert!(!server.send("GET", path, &[]).await.is_hit());
    }
}

#[tokio::test]
async fn only_200_is_stored() {
    for status in [
        201_u16, 203, 204, 301, 302, 304, 307, 400, 401, 404, 410, 500, 503,
    ] {
        let status = StatusCode::from_u16(status).unwrap();
        let router = Router::new().fallback(move || async move { status });
        let server = Server::start(CacheLayer::new(Cache::new(Memory::new())).layer(router)).await;
        let (_, second) = twice(&server, "/", &[]).await;
        assert_eq!(
            second.cache_status(),
            "axum-cache; fwd=uri-miss; detail=status"
        );
    }
}

#[tokio::test]
async fn an_event_stream_reaches_the_client_as_it_is_made_and_is_not_stored() {
    let router = Router::new().fallback(|| async {
        let body = streamed(vec![Ok("data: 1\n\n"), Ok("data: 2\n\n")]);
        ([(header::CONTENT_TYPE, "text/event-stream")], body)
    });
    let server = Server::start(CacheLayer::new(Cache::new(Memory::new())).layer(router)).await;
    let (_, second) = twice(&server, "/", &[]).await;
    assert_eq!(
        second.cache_status(),
        "axum-cache; fwd=uri-miss; detail=event-stream"
    );
}

#[tokio::test]
async fn nested_routers_keep_their_full_path() {
    let counted = Counted::default();
    let inner = || counted.router();
    let layer = CacheLayer::new(Cache::new(Memory::new()));
    let router = Router::new()
        .nest("/one", inner().layer(layer.clone()))
        .nest("/two", inner().layer(layer));
    let server = Server::start(router).await;
    assert!(twice(&server, "/one/x", &[]).await.1.is_hit());
    let (other, _) = twice(&server, "/two/x", &[]).await;
    assert!(!other.is_hit());
    assert_eq!(counted.runs(), 2);
}

#[tokio::test]
async fn a_store_that_fails_leaves_the_site_as_it_is() {
    let (remote, counted) = (Remote::default(), Counted::default());
    let layer = CacheLayer::new(Cache::new(remote.clone()));
    let server = Server::start(layer.layer(counted.router())).await;
    remote.inject(down());
    for _ in 0..2 {
        let answer = server.get("/").await;
        assert_eq!(answer.status, 200);
        assert_eq!(
            answer.cache_status(),
            "axum-cache; fwd=bypass; detail=unavailable"
        );
    }
    // It is asked once a request, and not bothered with a write.
    assert_eq!(remote.take_counts(), [("get", 2)]);
    remote.heal();
    assert!(twice(&server, "/", &[]).await.1.is_hit());
    // Two of the reads are look-ups, and one is of the turn of the tags, which is there from now on.
    let calls = remote.take_counts();
    assert_eq!(calls, [("add", 1), ("get", 3), ("set", 1)]);
}

#[tokio::test]
async fn a_hit_is_one_read_and_with_variants_two() {
    let (remote, counted) = (Remote::default(), Counted::default());
    let layer = CacheLayer::new(Cache::new(remote.clone()));
    let server = Server::start(layer.layer(counted.router())).await;
    twice(&server, "/", &[]).await;
    let path = "/?vary=Accept-Language";
    for language in ["accept-language: en", "accept-language: de"] {
        twice(&server, path, &[language]).await;
    }
    remote.take_counts();
    assert!(server.get("/").await.is_hit());
    assert_eq!(remote.take_counts(), [("get", 1)]);
    assert!(
        server
            .send("GET", path, &["accept-language: de"])
            .await
            .is_hit()
    );
    assert_eq!(
        remote.take_counts(),
        [("get", 1)],
        "the last variant is inline"
    );
    assert!(
        server
            .send("GET", path, &["accept-language: en"])
            .await
            .is_hit()
    );
    assert_eq!(remote.take_counts(), [("get", 2)]);
}

#[tokio::test]
async fn a_purge_takes_the_page_with_all_its_variants() {
    for cache in [Cache::new(Memory::new()), Cache::new(Remote::default())] {
        let counted = Counted::default();
        let layer = CacheLayer::new(cache);
        let server = Server::start(layer.clone().layer(counted.router())).await;
        let path = "/?vary=Accept-Language";
        let languages = ["accept-language: en", "accept-language: de"];
        for language in languages {
            assert!(twice(&server, path, &[language]).await.1.is_hit());
        }
        let uri = format!("http://{}{path}", server.host).parse().unwrap();
        assert!(layer.purge(&uri).await.unwrap());
        assert!(!layer.purge(&uri).await.unwrap());
        for language in languages {
            let (first, second) = twice(&server, path, &[language]).await;
            assert!(!first.is_hit() && second.is_hit());
        }
        assert_eq!(counted.runs(), 4);
        assert!(layer.purge(&"/relative".parse().unwrap()).await.is_err());
    }
}

/// The purge comes after the other variant was looked for, and before its handler runs.
#[tokio::test]
async fn a_variant_made_after_a_purge_does_not_bring_back_the_others() {
    let remote = Remote::default();
    let cache = Cache::new(remote.clone());
    let layer = CacheLayer::new(cache.clone());
    let server = Server::start(layer.layer(Counted::default().router())).await;
    let path = "/?vary=accept-language";
    let uri = format!("http://{}{path}", server.host).parse().unwrap();
    for language in ["a", "b"] {
        let field = format!("accept-language: {language}");
        assert!(twice(&server, path, &[&field]).await.1.is_hit());
    }
    let primary = cache.final_key(&layer.page_key(&uri).unwrap()).unwrap();
    let before = remote.get(&primary).await.unwrap();
    assert!(layer.purge(&uri).await.unwrap());
    remote.inject(Fault::find(before).on(Operation::Get).times(1));
    let third = server.send("GET", path, &["accept-language: c"]).await;
    let status = third.cache_status();
    assert!(status.contains("fwd=vary-miss"), "{status}");
    settled().await;
    for (language, kept) in [("c", true), ("a", false), ("b", false)] {
        let field = format!("accept-language: {language}");
        let answer = server.send("GET", path, &[&field]).await;
        assert_eq!(answer.is_hit(), kept, "{language}");
    }
}

#[tokio::test]
async fn a_page_purged_while_it_is_made_is_not_stored() {
    let layer = CacheLayer::new(Cache::new(Memory::new()));
    let (purging, runs) = (layer.clone(), Counted::default());
    let counted = runs.clone();
    let router = Router::new().fallback(move |request: Request| {
        let (layer, runs) = (purging.clone(), counted.0.fetch_add(1, Ordering::SeqCst));
        async move {
            let host = request.headers()[header::HOST].to_str().unwrap().to_owned();
            if runs == 0 {
                layer
                    .purge(&format!("http://{host}/").parse().unwrap())
                    .await
                    .unwrap();
            }
            "made"
        }
    });
    let server = Server::start(layer.layer(router)).await;
    let (_, second) = twice(&server, "/", &[]).await;
    assert!(!second.is_hit());
    assert!(server.get("/").await.is_hit());
}

/// A body of parts that come one after the other, and how it ends.
fn streamed(parts: Vec<Result<&'static str, std::io::Error>>) -> Body {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        for part in parts {
            tokio::time::sleep(Duration::from_millis(2)).await;
            let _ = sender.send(part.map(Bytes::from)).await;
        }
    });
    Body::new(Channel(receiver))
}

/// Makes a response anew for each request.
type Make = Box<dyn Fn(bool) -> Response + Send + Sync>;

#[tokio::test]
async fn bodies_that_end_cleanly_are_stored_and_no_others() {
    let broken = || Err(std::io::Error::other("broke"));
    let whole: fn(bool) -> Response = |_| streamed(vec![Ok("one"), Ok("two")]).into_response();
    let cut = move |_| streamed(vec![Ok("one"), broken()]).into_response();
    let announced = |length: &'static str| {
        move |_| {
            let body = streamed(vec![Ok("one"), Ok("two")]);
            ([(header::CONTENT_LENGTH, length)], body).into_response()
        }
    };
    let large = |_| vec![b'x'; 2000].into_response();
    let cases: Vec<(Make, bool, &str)> = vec![
        (Box::new(whole), true, "streaming"),
        (Box::new(announced("6")), true, "streaming"),
        (Box::new(cut), false, "streaming"),
        (Box::new(announced("7")), false, "streaming"),
        (Box::new(large), false, "body-too-large"),
    ];
    for (index, (make, stored, detail)) in cases.into_iter().enumerate() {
        let make = Arc::new(make);
        let router = Router::new().fallback(move || {
            let response = make(true);
            async move { response }
        });
        let layer = CacheLayer::new(Cache::new(Memory::new())).max_body_bytes(1000);
        let server = Server::start(layer.layer(router)).await;
        let (first, second) = twice(&server, "/", &[]).await;
        assert!(
            first.cache_status().contains(detail),
            "{index}: {}",
            first.cache_status()
        );
        assert_eq!(second.is_hit(), stored, "{index}");
        if stored {
            assert_eq!(second.text(), "onetwo");
        }
    }
}

fn paged(ttl: impl Into<Ttl>, cache_control: &'static str) -> (Router, ManualClock) {
    let clock = ManualClock::new();
    let memory = Memory::builder().clock(clock.clone()).build().unwrap();
    let cache = Cache::builder(memory).clock(clock.clone()).build().unwrap();
    let handler = move || async move {
        let mut headers = HeaderMap::new();
        if !cache_control.is_empty() {
            headers.insert(header::CACHE_CONTROL, cache_control.parse().unwrap());
        }
        (headers, "page")
    };
    let route = get(handler).layer(cache_page(ttl, cache, "p"));
    (Router::new().route("/", route), clock)
}

/// The row of Django's table: the header that is sent, and how long it is stored.
async fn p_02(ttl: impl Into<Ttl>, view: &'static str, sent: &str, stored: Option<u64>) {
    let (router, clock) = paged(ttl, view);
    let server = Server::start(router).await;
    let (first, second) = twice(&server, "/", &[]).await;
    assert_eq!(
        first.field("cache-control").as_deref(),
        Some(sent),
        "{view}"
    );
    assert_eq!(second.is_hit(), stored.is_some(), "{view}");
    if let Some(stored) = stored {
        clock.advance(Duration::from_secs(stored - 1));
        let late = server.get("/").await;
        assert!(late.is_hit());
        assert_eq!(late.field("age"), Some((stored - 1).to_string()));
        clock.advance(Duration::from_secs(1));
        assert!(!server.get("/").await.is_hit());
    }
}

#[tokio::test]
async fn p_02_the_routes_ttl_and_the_views_max_age() {
    p_02(MINUTE, "max-age=30", "max-age=30", Some(60)).await;
    p_02(MINUTE, "max-age=120", "max-age=60", Some(60)).await;
    p_02(MINUTE, "max-age=0", "max-age=0", None).await;
    p_02(MINUTE, "", "max-age=60", Some(60)).await;
    p_02(Duration::ZERO, "", "max-age=0", None).await;
    p_02(Ttl::Default, "", "max-age=600", Some(600)).await;
    p_02(Ttl::Default, "max-age=7", "max-age=7", Some(7)).await;
    p_02(
        Duration::from_millis(60_500),
        "",
        "max-age=60",
        Some(60 + 1),
    )
    .await;
}

#[tokio::test]
async fn p_02_a_page_may_live_for_ever_and_advertises_a_year() {
    let (router, clock) = paged(Ttl::Never, "");
    let server = Server::start(router).await;
    let (first, _) = twice(&server, "/", &[]).await;
    assert_eq!(
        first.field("cache-control").as_deref(),
        Some("max-age=31536000")
    );
    clock.advance(Duration::from_secs(40_000_000));
    assert!(server.get("/").await.is_hit());
}

#[tokio::test]
async fn p_04_one_prefix_is_one_entry_and_two_are_two() {
    let cache = Cache::new(Memory::new());
    let counted = Counted::default();
    let handler = |prefix: &str| {
        let counted = counted.clone();
        let handler = move |request: Request| {
            let response = counted.respond(&request);
            async move { response }
        };
        handler.layer(cache_page(MINUTE, cache.clone(), prefix))
    };
    let one = Server::start(Router::new().route("/", get(handler("a")))).await;
    let same = Server::start(Router::new().route("/", get(handler("a")))).await;
    let other = Server::start(Router::new().route("/", get(handler("b")))).await;
    let host = ["host: site.test"];
    assert!(!one.send_raw("GET", "/", &host).await.is_hit());
    assert!(same.send_raw("GET", "/", &host).await.is_hit());
    assert!(!other.send_raw("GET", "/", &host).await.is_hit());
}

#[tokio::test]
async fn p_05_what_is_added_outside_reaches_the_client_but_not_the_key() {
    let cache = Cache::new(Memory::new());
    let handler = || async { "page" };
    let cached = handler.layer(cache_page(MINUTE, cache, ""));
    let route = get(cached.layer(vary_on_headers(["X-Outside"])));
    let server = Server::start(Router::new().route("/", route)).await;
    let (_, second) = twice(&server, "/", &["x-outside: 1"]).await;
    assert!(second.is_hit());
    assert_eq!(second.field("vary").as_deref(), Some("X-Outside"));
    assert!(server.send("GET", "/", &["x-outside: 2"]).await.is_hit());
}

#[tokio::test]
async fn p_06_p_08_layers_of_one_prefix_share_the_shorter_max_age_and_a_purge_but_no_page() {
    let clock = ManualClock::new();
    let memory = Memory::builder().clock(clock.clone()).build().unwrap();
    let cache = Cache::builder(memory.clone())
        .clock(clock.clone())
        .build()
        .unwrap();
    let router = Router::new().route(
        "/",
        get(|| async { "page" }).layer(cache_page(MINUTE, cache.clone(), "")),
    );
    let site = CacheLayer::new(cache);
    let server = Server::start(site.clone().layer(router)).await;
    let (first, second) = twice(&server, "/", &[]).await;
    assert_eq!(first.field("cache-control").as_deref(), Some("max-age=60"));
    assert!(second.is_hit());
    // The page of each layer, and the turn of the tags.
    assert_eq!(memory.len(), 3);
    // The site-wide layer kept it for what the route said, not for its own 600 seconds.
    clock.advance(MINUTE);
    assert!(!server.get("/").await.is_hit());
    assert!(server.get("/").await.is_hit());
    let uri = format!("http://{}/", server.host).parse().unwrap();
    assert!(site.purge(&uri).await.unwrap());
    let status = server.get("/").await.cache_status();
    assert_eq!(status.matches("; hit").count(), 0, "{status}");
}

#[tokio::test]
async fn p_07_an_inner_hit_does_not_keep_the_outer_layer_from_storing() {
    let counted = Counted::default();
    let cache = Cache::new(Memory::new());
    let outer = CacheLayer::new(cache.clone()).key_prefix("outer");
    let inner = CacheLayer::new(cache).key_prefix("inner");
    let server = Server::start(outer.clone().layer(inner.layer(counted.router()))).await;
    let cold = server.get("/").await.cache_status();
    assert_eq!(cold.matches("fwd=uri-miss").count(), 2, "{cold}");
    let uri = format!("http://{}/", server.host).parse().unwrap();
    assert!(outer.purge(&uri).await.unwrap());
    let mixed = server.get("/").await.cache_status();
    assert!(
        mixed.contains("hit") && mixed.ends_with("stored"),
        "{mixed}"
    );
    let warm = server.get("/").await.cache_status();
    assert_eq!(warm.matches("axum-cache").count(), 1, "{warm}");
    assert_eq!(counted.runs(), 1);
}

#[tokio::test]
async fn decorators_inside_the_layer_count() {
    let cache = Cache::new(Memory::new());
    let page = |layer| get(|| async { "page" }).layer(layer);
    let router = Router::new()
        .route("/never", page(never_cache()))
        .route("/cookie", page(vary_on_cookie()))
        .route("/vary", page(vary_on_headers(["X-A"])))
        .route_layer(cache_page(MINUTE, cache, ""));
    let server = Server::start(router).await;
    assert!(!twice(&server, "/never", &[]).await.1.is_hit());
    assert!(twice(&server, "/cookie", &["cookie: a=1"]).await.1.is_hit());
    assert!(
        !server
            .send("GET", "/cookie", &["cookie: a=2"])
            .await
            .is_hit()
    );
    assert!(twice(&server, "/vary", &["x-a: 1"]).await.1.is_hit());
    assert!(!server.send("GET", "/vary", &["x-a: 2"]).await.is_hit());
}

#[tokio::test]
async fn a_post_that_edits_deletes_what_it_changed() {
    let layer = cache_page(MINUTE, Cache::new(Memory::new()), "");
    let text = Arc::new(std::sync::Mutex::new("old".to_owned()));
    let (reading, writing, pages) = (Arc::clone(&text), text, layer.clone());
    let router = Router::new()
        .route(
            "/",
            get(move || async move { reading.lock().unwrap().clone() }).layer(layer),
        )
        .route(
            "/edit",
            post(move |headers: HeaderMap, new: String| async move {
                *writing.lock().unwrap() = new;
                let host = headers[header::HOST].to_str().unwrap();
                pages
                    .purge(&format!("http://{host}/").parse().unwrap())
                    .await
                    .unwrap();
            }),
        );
    let server = Server::start(router).await;
    assert_eq!(twice(&server, "/", &[]).await.1.text(), "old");
    server.send("POST", "/edit", &["content-length: 0"]).await;
    let (first, second) = twice(&server, "/", &[]).await;
    assert_eq!(
        (first.text(), first.is_hit(), second.is_hit()),
        ("", false, true)
    );
}

#[cfg(feature = "django-keys")]
#[tokio::test]
async fn with_djangos_keys_a_django_site_can_delete_a_page() {
    use axum_cache::key::{DjangoKeys, PageKeyFunction, PageTarget};

    let cache = Cache::builder(Memory::new())
        .key_function(DjangoKeys::new())
        .build()
        .unwrap();
    let counted = Counted::default();
    let layer = CacheLayer::new(cache.clone()).page_keys(DjangoKeys::new());
    let server = Server::start(layer.layer(counted.router())).await;
    let send = || server.send_raw("GET", "/a", &["host: www.example.com"]);
    send().await;
    assert!(send().await.is_hit());
    let target = PageTarget::new("http", Some("www.example.com"), "/a", None);
    assert!(
        cache
            .delete(&DjangoKeys::new().variant(&target, &[], 0))
            .await
            .unwrap()
    );
    assert!(!send().await.is_hit());
}

#[tokio::test]
async fn a_body_that_http_2_does_not_announce_counts_too() {
    use tower::ServiceExt;

    let counted = Counted::default();
    let site = CacheLayer::new(Cache::new(Memory::new())).layer(counted.router());
    let send = |body: Body| {
        let request = Request::get("http://site.test/")
            .version(axum::http::Version::HTTP_2)
            .body(body)
            .unwrap();
        let answer = site.clone().oneshot(request);
        async move { answer.await.unwrap().headers()["cache-status"].clone() }
    };
    let with_body = send(streamed(vec![Ok("evil")])).await;
    assert_eq!(with_body, "axum-cache; fwd=bypass; detail=request-body");
    assert_eq!(
        send(Body::empty()).await,
        "axum-cache; fwd=uri-miss; ttl=600; stored"
    );
    let again = send(Body::empty()).await;
    assert!(again.to_str().unwrap().starts_with("axum-cache; hit"));
}

#[tokio::test]
async fn m_41_what_clients_send_does_not_fill_the_store_with_variants() {
    let counted = Counted::default();
    let clock = ManualClock::new();
    let memory = Memory::builder().clock(clock.clone()).build().unwrap();
    let cache = Cache::builder(memory.clone()).clock(clock.clone());
    let layer = CacheLayer::new(cache.build().unwrap()).max_variants(3);
    let server = Server::start(layer.layer(counted.router())).await;
    let ask = async |language: &str| {
        let field = format!("accept-language: {language}");
        server
            .send("GET", "/?vary=accept-language", &[&field])
            .await
    };
    for language in ["a", "b", "c", "d", "e"] {
        assert!(!ask(language).await.is_hit());
        assert!(
            ask(language).await.is_hit(),
            "{language}: the last one is kept"
        );
    }
    // The primary entry, and three variants, and the turn of the tags.
    assert_eq!(memory.len(), 5);
    for (language, stored) in [("a", true), ("b", true), ("c", true), ("d", false)] {
        assert_eq!(ask(language).await.is_hit(), stored, "{language}");
    }
    // Those that are over make room.
    clock.advance(Duration::from_secs(601));
    assert!(!ask("d").await.is_hit());
    assert!(ask("d").await.is_hit());
}

/// The one in the primary entry has none of its own; when another one takes its place, it is the newest of its
/// kind that gets one.
#[tokio::test]
async fn a_variant_gets_an_entry_of_its_own_when_it_is_displaced() {
    for has_another_handle in [false, true] {
        let (counted, clock) = (Counted::default(), ManualClock::new());
        let memory = Memory::builder().clock(clock.clone()).build().unwrap();
        let handle = has_another_handle.then(|| memory.clone());
        let entries = || handle.as_ref().map(Memory::len);
        let cache = Cache::builder(memory).clock(clock.clone()).build().unwrap();
        let server = Server::start(CacheLayer::new(cache).layer(counted.router())).await;
        let ask = async |language: &str| {
            let field = format!("accept-language: {language}");
            let path = "/?vary=accept-language";
            server.send("GET", path, &[&field]).await
        };
        let make = async |language: &str| {
            let (made, hit) = (ask(language).await, ask(language).await);
            assert!(!made.is_hit() && hit.is_hit(), "{language}");
            assert_eq!(hit.body, made.body);
            made.body
        };
        make("en").await;
        let alone = entries();
        let german = make("de").await;
        assert_eq!(entries(), alone.map(|alone| alone + 1));
        assert!(ask("en").await.is_hit());
        clock.advance(Duration::from_secs(300));
        let french = make("fr").await;
        assert_eq!(entries(), alone.map(|alone| alone + 2));
        clock.advance(Duration::from_secs(301));
        // The first one of its kind is still in an entry of its own.
        let english = make("en").await;
        assert_eq!(ask("fr").await.body, french);
        let spanish = make("es").await;
        for (language, body) in [("en", english), ("fr", french), ("es", spanish)] {
            let answer = ask(language).await;
            assert!(answer.is_hit(), "{language}");
            assert_eq!(answer.body, body, "{language}");
        }
        assert_ne!(ask("de").await.body, german);
    }
}

/// Each `en` is for a minute and then stale, but the second one for seconds; the handler waits for `open` where
/// the client asks for it.
fn dated(open: &Arc<Semaphore>) -> (Router, Arc<AtomicUsize>) {
    let (open, runs) = (Arc::clone(open), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&runs);
    let handler = move |headers: HeaderMap| async move {
        let run = counted.fetch_add(1, Ordering::SeqCst);
        if headers.contains_key("x-waits") {
            open.acquire().await.unwrap().forget();
        }
        let control = match run {
            2 => "max-age=5, stale-while-revalidate=0",
            _ => "max-age=60, stale-while-revalidate=3600",
        };
        let fields = [("vary", "accept-language"), ("cache-control", control)];
        (fields, run.to_string())
    };
    (Router::new().fallback(handler), runs)
}

#[tokio::test]
async fn a_variant_that_was_replaced_does_not_come_back() {
    for has_another_handle in [false, true] {
        let clock = ManualClock::new();
        let memory = Memory::builder().clock(clock.clone()).build().unwrap();
        let _handle = has_another_handle.then(|| memory.clone());
        let cache = Cache::builder(memory).clock(clock.clone()).build().unwrap();
        let (router, runs) = dated(&Arc::new(Semaphore::new(0)));
        let server = Server::start(CacheLayer::new(cache).layer(router)).await;
        let ask = async |language: &str| {
            let field = format!("accept-language: {language}");
            server.send("GET", "/", &[&field]).await.text().to_owned()
        };
        assert_eq!((ask("en").await, ask("de").await), ("0".into(), "1".into()));
        clock.advance(Duration::from_secs(70));
        // Served stale, and made anew.
        assert_eq!(ask("en").await, "0");
        while runs.load(Ordering::SeqCst) < 3 {
            tokio::task::yield_now().await;
        }
        settled().await;
        assert_eq!(ask("en").await, "2");
        clock.advance(Duration::from_secs(10));
        assert_eq!(ask("fr").await, "3");
        assert_eq!(ask("en").await, "4", "neither of those before");
    }
}

/// What a request found before its handler ran is not what it displaces.
#[tokio::test]
async fn a_variant_that_was_replaced_meanwhile_is_not_put_back() {
    let (clock, open) = (ManualClock::new(), Arc::new(Semaphore::new(0)));
    let memory = Memory::builder().clock(clock.clone()).build().unwrap();
    let _another_handle = memory.clone();
    let cache = Cache::builder(memory).clock(clock.clone()).build().unwrap();
    let (router, runs) = dated(&open);
    let server = Arc::new(Server::start(CacheLayer::new(cache).layer(router)).await);
    let ask = async |language: &str| {
        let field = format!("accept-language: {language}");
        server.send("GET", "/", &[&field]).await.text().to_owned()
    };
    assert_eq!(ask("en").await, "0");
    let slow = {
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            let fields = ["accept-language: de", "x-waits: 1"];
            server.send("GET", "/", &fields).await.text().to_owned()
        })
    };
    let ran = async |runs_until_now| {
        while runs.load(Ordering::SeqCst) < runs_until_now {
            tokio::task::yield_now().await;
        }
        settled().await;
    };
    ran(2).await;
    clock.advance(Duration::from_secs(70));
    assert_eq!(ask("en").await, "0");
    ran(3).await;
    assert_eq!(ask("en").await, "2");
    assert_eq!(ask("fr").await, "3");
    open.add_permits(1);
    assert_eq!(slow.await.unwrap(), "1");
    settled().await;
    assert_eq!(ask("en").await, "2");
}

/// What is displaced may be lost; what is beside the primary entry is replaced all the same.
#[tokio::test]
async fn a_variant_that_cannot_be_moved_keeps_no_other_one_from_being_replaced() {
    let clock = ManualClock::new();
    let memory = Memory::builder().clock(clock.clone()).build().unwrap();
    let remote = Remote::new(memory).with_shared(true);
    let cache = Cache::builder(remote.clone()).clock(clock.clone());
    let (router, runs) = dated(&Arc::new(Semaphore::new(0)));
    let layer = CacheLayer::new(cache.build().unwrap());
    let server = Server::start(layer.layer(router)).await;
    let ask = async |language: &str| {
        let field = format!("accept-language: {language}");
        server.send("GET", "/", &[&field]).await.text().to_owned()
    };
    assert_eq!((ask("en").await, ask("de").await), ("0".into(), "1".into()));
    settled().await;
    clock.advance(Duration::from_secs(70));
    remote.inject(Fault::error(ErrorKind::Unavailable).on(Operation::Add));
    assert_eq!(ask("en").await, "0");
    while runs.load(Ordering::SeqCst) < 3 {
        tokio::task::yield_now().await;
    }
    settled().await;
    assert_eq!(ask("en").await, "2");
    remote.heal();
    clock.advance(Duration::from_secs(10));
    assert_eq!(ask("fr").await, "3");
    settled().await;
    assert_eq!(ask("en").await, "4", "neither of those before");
}
