//! What is personal is not stored, wherever that turns out.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::handler::Handler;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum_cache::backend::{Dummy, Memory};
use axum_cache::control::{cache_control, never_cache, vary_on_cookie};
use axum_cache::testing::{Fault, Operation, TestBackend};
use axum_cache::{
    Cache, CacheGuard, CacheLayer, CacheVeto, Tags, cache_page, control::CacheControl,
};
use tokio::sync::mpsc;
use tower::Layer;

use crate::support::http::{Channel, Server};
use crate::support::site::ask;

const MINUTE: Duration = Duration::from_secs(60);

fn memory() -> Cache {
    Cache::new(Memory::new())
}

async fn is_stored(server: &Server) -> bool {
    server.get("/").await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    server.get("/").await.is_hit()
}

#[tokio::test]
async fn a_veto_from_inside_counts_for_every_layer_it_came_through() {
    let page = |veto: CacheVeto| async move {
        veto.forbid();
        "yours"
    };
    let inner = Router::new().route("/", get(page.layer(cache_page(MINUTE, memory(), ""))));
    let server = Server::start(CacheLayer::new(memory()).layer(inner)).await;
    let status = server.get("/").await.cache_status();
    assert_eq!(status.matches("detail=veto").count(), 2, "{status}");
    assert!(!is_stored(&server).await);
}

#[tokio::test]
async fn a_veto_while_the_body_is_made_counts() {
    let page = |veto: CacheVeto| async move {
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            for part in ["a", "b"] {
                tokio::time::sleep(Duration::from_millis(2)).await;
                let part = Ok::<_, std::convert::Infallible>(axum::body::Bytes::from(part));
                let _ = sender.send(part).await;
                veto.forbid();
            }
        });
        axum::body::Body::new(Channel(receiver)).into_response()
    };
    let router = Router::new().route("/", get(page));
    let server = Server::start(CacheLayer::new(memory()).layer(router)).await;
    assert!(!is_stored(&server).await);
}

#[tokio::test]
async fn a_veto_in_the_response_counts() {
    let inserted = || async {
        let veto = CacheVeto::new();
        veto.forbid();
        (axum::Extension(veto), "yours")
    };
    let attached = || async {
        let mut response = "yours".into_response();
        CacheVeto::of(response.extensions_mut()).forbid();
        response
    };
    for page in [get(inserted), get(attached)] {
        let router = Router::new().route("/", page);
        let server = Server::start(CacheLayer::new(memory()).layer(router)).await;
        assert!(!is_stored(&server).await);
    }
}

/// A session that is outside of the cached route, and learns only there that it is used.
#[tokio::test]
async fn a_middleware_outside_hands_its_own_veto_in() {
    async fn session(mut request: Request, next: Next) -> Response {
        request.extensions_mut().insert(CacheVeto::new());
        next.run(request).await
    }
    let page = |veto: CacheVeto, request: Request| async move {
        if request.headers().contains_key("x-session") {
            veto.forbid();
        }
        "page"
    };
    let cached = page.layer(cache_page(MINUTE, memory(), ""));
    let router = Router::new()
        .route("/", get(cached))
        .layer(from_fn(session));
    let server = Server::start(router).await;
    let used = server.send("GET", "/", &["x-session: 1"]).await;
    assert!(used.cache_status().ends_with("detail=veto"));
    assert!(!server.get("/").await.is_hit());
    assert!(server.get("/").await.is_hit());
}

/// W-09, P-05: what is added between the route's layer and the site's.
#[tokio::test]
async fn w_09_the_outermost_layer_has_the_last_word_on_what_is_stored_inside() {
    async fn session(request: Request, next: Next) -> Response {
        let mut response = next.run(request).await;
        let fields = response.headers_mut();
        fields.insert("set-cookie", "sid=1".parse().unwrap());
        response
    }
    let route = || {
        let cached = (|| async { "page" }).layer(cache_page(MINUTE, memory(), ""));
        Router::new().route("/", get(cached))
    };
    let private = CacheControl::new().with_private();
    for router in [
        route().layer(from_fn(session)),
        route().layer(vary_on_cookie()),
        route().layer(never_cache()),
        route().layer(cache_control(private)),
    ] {
        let outermost = CacheLayer::new(Cache::new(Dummy));
        let server = Server::start(outermost.layer(router)).await;
        assert!(!is_stored(&server).await);
        // Also when the outermost layer has nothing to do with the request.
        server.send("GET", "/", &["cookie: a=1"]).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(!server.send("GET", "/", &["cookie: a=1"]).await.is_hit());
    }
    let outermost = CacheLayer::new(Cache::new(Dummy));
    let server = Server::start(outermost.layer(route())).await;
    assert!(is_stored(&server).await);
    // A guard has it where no such layer is outermost.
    let router = route().layer(from_fn(session)).layer(CacheGuard::new());
    assert!(!is_stored(&Server::start(router).await).await);
    let router = route().layer(CacheGuard::new());
    assert!(is_stored(&Server::start(router).await).await);
}

/// A layer further inside stores nothing whose response never came out.
#[tokio::test]
async fn a_response_that_is_replaced_on_its_way_is_not_stored() {
    async fn replace(request: Request, next: Next) -> Response {
        let response = next.run(request).await;
        let body = response.into_body();
        Response::new(body)
    }
    let cached = (|| async { "page" }).layer(cache_page(MINUTE, memory(), ""));
    let router = Router::new()
        .route("/", get(cached))
        .layer(from_fn(replace));
    let never = CacheLayer::new(memory()).ttl(Duration::ZERO);
    let server = Server::start(never.layer(router)).await;
    server.get("/").await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert!(!server.get("/").await.is_hit());
}

#[tokio::test]
async fn a_layer_whose_store_keeps_nothing_only_shows_what_it_would_show() {
    let fields = |headers: axum::http::HeaderMap, uri: axum::http::Uri| async move {
        let language = headers.get("accept-language").cloned();
        format!("{uri} {language:?} {:?}", headers.get("x-other").is_some())
    };
    let router = Router::new().route("/", get(fields));
    let layers = |cache: Cache| {
        let plain = CacheLayer::new(cache);
        let normal = plain
            .clone()
            .variant(axum_cache::layer::Locale::new(["en", "de"]));
        [plain.clone(), normal.query_ignore(["x"]), plain.narrow()]
    };
    let pairs = layers(memory()).into_iter().zip(layers(Cache::new(Dummy)));
    for (stores, keeps_nothing) in pairs {
        let (one, other) = (
            Server::start(stores.layer(router.clone())).await,
            Server::start(keeps_nothing.layer(router.clone())).await,
        );
        let lines = ["accept-language: de-AT", "x-other: 1"];
        for method in ["GET", "HEAD", "POST"] {
            let expected = one.send(method, "/?x=1&y=2", &lines).await;
            let answer = other.send(method, "/?x=1&y=2", &lines).await;
            assert_eq!(answer.text(), expected.text(), "{method}");
            for added in ["age", "cache-status", "expires", "cache-control"] {
                assert_eq!(answer.field(added), None, "{method} {added}");
            }
        }
    }
}

/// Code between the layers finds the mark, whatever the outer one stores in.
#[tokio::test]
async fn a_layer_whose_store_keeps_nothing_hands_a_mark_on() {
    async fn session(mut request: Request, next: Next) -> Response {
        CacheVeto::of(request.extensions_mut()).forbid();
        next.run(request).await
    }
    let cached = (|| async { "page" }).layer(cache_page(MINUTE, memory(), ""));
    let router = Router::new()
        .route("/", get(cached))
        .layer(from_fn(session));
    let off = CacheLayer::new(Cache::new(Dummy)).layer(router);
    assert!(!is_stored(&Server::start(off).await).await);
}

/// A 304 that says that what is stored is from now on somebody's keeps the layers outside from storing it.
#[tokio::test]
async fn a_veto_with_which_a_page_was_validated_counts_outside() {
    let page = |request: Request| async move {
        let mut response = Response::new(axum::body::Body::from("page"));
        let headers = response.headers_mut();
        headers.insert("etag", "\"a\"".parse().unwrap());
        if !request.headers().contains_key("if-none-match") {
            headers.insert("cache-control", "max-age=0".parse().unwrap());
            return response;
        }
        headers.insert("cache-control", "max-age=60".parse().unwrap());
        *response.status_mut() = axum::http::StatusCode::NOT_MODIFIED;
        let veto = CacheVeto::new();
        veto.forbid();
        response.extensions_mut().insert(veto);
        response
    };
    let router = Router::new()
        .route("/", get(page))
        .layer(CacheLayer::http(memory()));
    let server = Server::start(CacheLayer::new(memory()).layer(router)).await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        let answer = server.get("/").await;
        assert_eq!(answer.text(), "page");
        seen.push(answer.cache_status());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(seen[1].contains("fwd-status=304"), "{seen:?}");
    assert_eq!(seen[1].matches("detail=veto").count(), 2, "{seen:?}");
    assert!(!seen[2].contains("; hit"), "{seen:?}");
}

/// A veto that the response carries, given while the body is made.
#[tokio::test]
async fn a_veto_of_the_response_counts_while_its_body_is_made() {
    let page = || async {
        let veto = CacheVeto::new();
        let (sender, receiver) = mpsc::channel(1);
        let late = veto.clone();
        tokio::spawn(async move {
            for part in ["a", "b"] {
                tokio::time::sleep(Duration::from_millis(2)).await;
                late.forbid();
                let part = Ok::<_, std::convert::Infallible>(Bytes::from(part));
                let _ = sender.send(part).await;
            }
        });
        let mut response = Body::new(Channel(receiver)).into_response();
        response.extensions_mut().insert(veto);
        response
    };
    let site = CacheLayer::new(memory()).layer(Router::new().route("/", get(page)));
    ask(&site, "/", &[]).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let seen = ask(&site, "/", &[]).await;
    assert!(!seen.is_hit(), "{}", seen.status);
}

/// One that comes while the store is asked for the tags of the page.
#[tokio::test]
async fn a_veto_while_the_store_is_slow_counts() {
    for shared in [false, true] {
        let store = TestBackend::new(Memory::new()).with_shared(shared);
        let vetoes: Arc<Mutex<Vec<CacheVeto>>> = Arc::default();
        let page = {
            let vetoes = Arc::clone(&vetoes);
            move |veto: CacheVeto| {
                let vetoes = Arc::clone(&vetoes);
                async move {
                    vetoes.lock().unwrap().push(veto);
                    axum::Extension(Tags::new(["t"]))
                }
            }
        };
        let layer = CacheLayer::new(Cache::new(store.clone()));
        let site = layer.layer(Router::new().route("/", get(page)));
        let asking = tokio::spawn({
            let site = site.clone();
            let (store, vetoes) = (store.clone(), Arc::clone(&vetoes));
            async move {
                let hang = async {
                    while vetoes.lock().unwrap().is_empty() {
                        store.heal();
                        store.inject(Fault::hang().on(Operation::GetMany));
                        store.inject(Fault::hang().on(Operation::Get).after(2));
                        store.inject(Fault::hang().on(Operation::Add));
                        store.inject(Fault::hang().on(Operation::Set));
                        tokio::time::sleep(Duration::from_millis(3)).await;
                    }
                };
                tokio::join!(hang, ask(&site, "/", &[])).1
            }
        });
        asking.await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        vetoes.lock().unwrap()[0].forbid();
        store.heal();
        tokio::time::sleep(Duration::from_millis(20)).await;
        let seen = ask(&site, "/", &[]).await;
        assert!(!seen.is_hit(), "shared {shared}: {}", seen.status);
    }
}

/// The pattern of the documentation, one layer further inside.
#[tokio::test]
async fn a_middleware_between_layers_hands_its_own_veto_in() {
    async fn session(mut request: Request, next: Next) -> Response {
        request.extensions_mut().insert(CacheVeto::new());
        next.run(request).await
    }
    let page = |veto: CacheVeto| async move {
        veto.forbid();
        "yours"
    };
    let cached = page.layer(cache_page(MINUTE, memory(), ""));
    let routes = Router::new()
        .route("/", get(cached))
        .layer(from_fn(session));
    let site = CacheLayer::new(memory()).layer(routes);
    ask(&site, "/", &[]).await;
    let seen = ask(&site, "/", &[]).await;
    assert!(!seen.is_hit(), "{}", seen.status);
}

/// A middleware makes another request of it.
#[tokio::test]
async fn a_veto_that_an_inner_layer_knows_of_is_known_outside() {
    async fn anew(request: Request, next: Next) -> Response {
        let mut other = Request::new(Body::empty());
        *other.uri_mut() = request.uri().clone();
        next.run(other).await
    }
    let page = |veto: CacheVeto| async move {
        veto.forbid();
        "yours"
    };
    let cached = page.layer(cache_page(MINUTE, memory(), ""));
    let routes = Router::new().route("/", get(cached)).layer(from_fn(anew));
    let site = CacheLayer::new(memory()).layer(routes);
    let first = ask(&site, "/", &[]).await;
    let seen = ask(&site, "/", &[]).await;
    assert!(!seen.is_hit(), "{} {}", first.status, seen.status);
}
