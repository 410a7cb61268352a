//! Layers within others: what one knows that the other one does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::handler::Handler;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum_cache::backend::{Dummy, Memory};
use axum_cache::clock::ManualClock;
use axum_cache::layer::{Head, Language, Locale, VariantFn};
use axum_cache::{Cache, CacheGuard, CacheLayer, cache_page};
use tower::{Layer, ServiceExt};

use crate::support::backends::Remote;
use crate::support::site::ask;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn timed() -> (Cache, ManualClock) {
    let clock = ManualClock::at(SystemTime::UNIX_EPOCH + 1_900_000_000 * SECOND);
    let memory = Memory::builder().clock(clock.clone()).build().unwrap();
    let cache = Cache::builder(memory).clock(clock.clone());
    (cache.build().unwrap(), clock)
}

#[derive(Clone)]
struct User(String);

/// As those of sessions do: what a visitor who has signed in gets is private.
async fn session(mut request: Request, next: Next) -> Response {
    let cookie = request.headers().get(header::COOKIE);
    let cookie = cookie.and_then(|cookie| cookie.to_str().ok());
    let user = cookie.and_then(|cookie| cookie.strip_prefix("sid="));
    let user = user.map(|user| User(user.to_owned()));
    let is_known = user.is_some();
    if let Some(user) = user {
        request.extensions_mut().insert(user);
    }
    let mut response = next.run(request).await;
    if is_known {
        let private = HeaderValue::from_static("private");
        response
            .headers_mut()
            .insert(header::CACHE_CONTROL, private);
    }
    response
}

async fn hello(request: Request) -> String {
    let user = request.extensions().get::<User>();
    user.map_or_else(|| "hello".to_owned(), |User(name)| format!("hello {name}"))
}

fn numbers() -> impl Fn() -> std::future::Ready<String> + Clone {
    let runs = Arc::new(AtomicUsize::new(0));
    move || std::future::ready(runs.fetch_add(1, Ordering::SeqCst).to_string())
}

/// A site with a page inside of sessions, and what has the last word outside of them.
fn sites(cache: &Cache) -> Vec<Router> {
    let page = || {
        cache_page(MINUTE, cache.clone(), "page")
            .stale_while_revalidate(MINUTE)
            .stale_if_error(10 * MINUTE)
    };
    let by_http = |request: Request| async move {
        let fresh = "max-age=60, stale-while-revalidate=60";
        ([(header::CACHE_CONTROL, fresh)], hello(request).await)
    };
    let inside = |route| Router::new().route("/", route).layer(from_fn(session));
    let site = CacheLayer::new(cache.clone()).key_prefix("site");
    vec![
        inside(get(hello.layer(page()))).layer(CacheGuard::new()),
        inside(get(by_http.layer(CacheLayer::http(cache.clone())))).layer(CacheGuard::new()),
        Router::new().fallback_service(site.layer(inside(get(hello.layer(page()))))),
    ]
}

/// The visitor whose request finds the page stale may be one that it must not be made for.
#[tokio::test]
async fn what_is_made_for_a_stale_page_is_not_stored_without_the_last_word() {
    for which in 0..3 {
        let (cache, clock) = timed();
        let site = sites(&cache).swap_remove(which);
        ask(&site, "/", &[]).await;
        clock.advance(61 * SECOND);
        ask(&site, "/", &[("cookie", "sid=ada")]).await;
        for _ in 0..2 {
            let other = ask(&site, "/", &[]).await;
            assert_eq!(other.body, "hello", "{which}: {}", other.status);
        }
    }
}

/// One of those who find a page stale waits for the new one, which is stored then.
#[tokio::test]
async fn one_waits_for_what_the_others_get_stale() {
    let (cache, clock) = timed();
    let number = numbers();
    let page = move || {
        let number = number.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            number().await
        }
    };
    let layer = cache_page(MINUTE, cache, "").stale_while_revalidate(MINUTE);
    let site = Router::new().route("/", get(page.layer(layer)));
    let site = site.layer(CacheGuard::new());
    ask(&site, "/", &[]).await;
    clock.advance(61 * SECOND);
    let two = [(); 2].map(|()| async { ask(&site, "/", &[]).await });
    let [first, second] = two;
    let (first, second) = tokio::join!(first, second);
    assert_eq!((&*first.body, &*second.body), ("1", "0"));
    assert!(first.status.ends_with("detail=pending"), "{}", first.status);
    let stale = "axum-cache; hit; ttl=0; detail=stale-while-revalidate";
    assert_eq!(second.status, stale);
    let third = ask(&site, "/", &[]).await;
    assert!(third.is_hit() && third.body == "1", "{}", third.status);
}

#[tokio::test]
async fn a_stale_page_may_be_had_instead_while_it_could_be_had_anyway() {
    let (cache, clock) = timed();
    let number = numbers();
    let page = move || {
        let number = number.clone();
        async move {
            let number = number().await;
            assert_eq!(number, "0", "it fails from now on");
            number
        }
    };
    let layer = cache_page(MINUTE, cache, "").stale_while_revalidate(MINUTE);
    let site = Router::new().route("/", get(page.layer(layer)));
    let site = site.layer(CacheGuard::new());
    ask(&site, "/", &[]).await;
    clock.advance(61 * SECOND);
    let seen = ask(&site, "/", &[]).await;
    assert_eq!((seen.code, &*seen.body), (200, "0"), "{}", seen.status);
}

/// Its own `Vary` is no harm that somebody else has done.
#[tokio::test]
async fn what_an_inner_layer_declares_does_not_keep_it_from_storing() {
    let (cache, _) = timed();
    let page = || cache_page(MINUTE, cache.clone(), "");
    let user = HeaderName::from_static("x-user");
    for (which, layer) in [
        page().cookies(["sid"]),
        page().vary_on([user]),
        page().variant(Locale::new(["en", "de"])),
    ]
    .into_iter()
    .enumerate()
    {
        let router = Router::new().route("/", get((|| async { "a" }).layer(layer)));
        let outer = CacheLayer::new(timed().0).max_body_bytes(0);
        let guarded = router.clone().layer(CacheGuard::new());
        let nested = Router::new().fallback_service(outer.layer(router));
        for site in [guarded, nested] {
            ask(&site, "/", &[]).await;
            let seen = ask(&site, "/", &[]).await;
            assert!(seen.status.contains("; hit"), "{which}: {}", seen.status);
        }
    }
}

/// The outermost layer does not know what selects the page, and the inner one does.
#[tokio::test]
async fn what_an_inner_layer_selects_by_and_no_field_says_keeps_an_outer_one_from_storing() {
    async fn role(mut request: Request, next: Next) -> Response {
        let role = request
            .headers()
            .get("x-api-key")
            .map_or("guest", |_| "admin");
        request.extensions_mut().insert(User(role.to_owned()));
        next.run(request).await
    }
    async fn language(mut request: Request, next: Next) -> Response {
        let is_german = request.headers().contains_key("x-api-key");
        let language = if is_german { "de" } else { "en" };
        request.extensions_mut().insert(Language::new(language));
        request.extensions_mut().insert(User(language.to_owned()));
        next.run(request).await
    }
    let by_role = || {
        VariantFn::new("role", [], |head| {
            let user = head.extensions.get::<User>();
            user.map_or_else(String::new, |User(role)| role.clone())
        })
    };
    let (cache, _) = timed();
    let page = cache_page(MINUTE, cache.clone(), "in");
    let outer = || CacheLayer::new(cache.clone()).key_prefix("out");
    let inside = |layer: CacheLayer| Router::new().route("/", get(hello.layer(layer)));
    let roles = inside(page.clone().variant(by_role())).layer(from_fn(role));
    let languages = inside(page.clone()).layer(from_fn(language));
    for site in [roles, languages] {
        let site = Router::new().fallback_service(outer().layer(site));
        let key = [("x-api-key", "k")];
        let (mine, others) = (ask(&site, "/", &key).await, ask(&site, "/", &[]).await);
        assert_ne!(mine.body, others.body);
        for _ in 0..2 {
            let (hit, other) = (ask(&site, "/", &key).await, ask(&site, "/", &[]).await);
            assert_eq!((&hit.body, &other.body), (&mine.body, &others.body));
            assert!(
                hit.status.contains("; hit"),
                "of the inner one: {}",
                hit.status
            );
        }
    }
    // One that selects by the same may store it.
    let outer = outer().key_prefix("both").variant(by_role());
    let site = inside(page.key_prefix("both-in").variant(by_role()));
    let site = Router::new()
        .fallback_service(outer.layer(site))
        .layer(from_fn(role));
    ask(&site, "/", &[]).await;
    assert!(ask(&site, "/", &[]).await.is_hit());
}

/// An inner layer that is off, or does nothing for this request, shows the handler what it did not show the others.
#[tokio::test]
async fn what_an_inner_layer_lets_through_is_selected_as_all_else() {
    async fn role(mut request: Request, next: Next) -> Response {
        let role = request.headers().get("x-api-key");
        let role = role.map_or("guest", |_| "admin").to_owned();
        request.extensions_mut().insert(User(role));
        next.run(request).await
    }
    let user = |head: &Head<'_>| {
        let user = head.extensions.get::<User>();
        user.map_or_else(String::new, |User(role)| role.clone())
    };
    let by_role = || VariantFn::new("role", [], user);
    // This one says so in `Vary`.
    let by_key = || VariantFn::new("role", [HeaderName::from_static("x-api-key")], user);
    let off = || cache_page(MINUTE, Cache::new(Dummy::new()), "in");
    let on = || cache_page(MINUTE, timed().0, "in").narrow();
    let upgrade = [("connection", "upgrade"), ("upgrade", "h2c")];
    for (page, sent) in [
        (off().variant(by_role()), &[][..]),
        (off().variant(by_key()), &[]),
        (on().variant(by_role()), &upgrade),
        (on().variant(by_key()), &upgrade),
    ] {
        let page = Router::new().route("/", get(hello.layer(page)));
        let outer = CacheLayer::new(timed().0).layer(page.layer(from_fn(role)));
        let site = Router::new().fallback_service(outer);
        let admin = [&[("x-api-key", "k")], sent].concat();
        for _ in 0..2 {
            assert_eq!(ask(&site, "/", &admin).await.body, "hello admin");
            assert_eq!(ask(&site, "/", &[]).await.body, "hello guest");
        }
    }
}

/// The same of the tags that it gives to all of its pages.
#[tokio::test]
async fn what_an_inner_layer_lets_through_has_its_tags() {
    let upgrade = [("connection", "upgrade"), ("upgrade", "h2c")];
    for (is_off, sent) in [(true, &[][..]), (false, &[]), (false, &upgrade)] {
        let (cache, _) = timed();
        let inner = if is_off {
            Cache::new(Dummy::new())
        } else {
            cache.clone()
        };
        let page = cache_page(MINUTE, inner, "in").narrow().tags(["x"]);
        let page = Router::new().route("/", get(numbers().layer(page)));
        let outer = CacheLayer::new(cache.clone()).key_prefix("out");
        let site = Router::new().fallback_service(outer.layer(page));
        ask(&site, "/", sent).await;
        assert!(ask(&site, "/", &[]).await.is_hit());
        cache.invalidate(["x"]).await.unwrap();
        let seen = ask(&site, "/", &[]).await;
        assert_eq!(seen.body, "1", "{sent:?}: {}", seen.status);
    }
}

/// Its own time is over, and the field that the handler set says another one.
#[tokio::test]
async fn what_an_inner_layer_serves_stale_is_not_stored_outside() {
    let (cache, clock) = timed();
    let number = numbers();
    let page = move || {
        let number = number();
        async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            ([(header::CACHE_CONTROL, "s-maxage=3600")], number.await)
        }
    };
    let inner = cache_page(MINUTE, cache.clone(), "in").query_ignore(["q"]);
    let inner = inner.stale_while_revalidate(MINUTE);
    let outer = cache_page(10 * MINUTE, cache, "out");
    let inner = inner.layer(Router::new().fallback(get(page)));
    let outer = outer.layer(Router::new().fallback_service(inner));
    let site = Router::new().fallback_service(outer);
    ask(&site, "/", &[]).await;
    clock.advance(70 * SECOND);
    // One of them waits for the new one.
    let (one, other) = tokio::join!(ask(&site, "/?q=1", &[]), ask(&site, "/?q=2", &[]));
    assert_ne!(one.body, other.body);
    clock.advance(400 * SECOND);
    for path in ["/?q=1", "/?q=2"] {
        let seen = ask(&site, path, &[]).await;
        assert_ne!(seen.body, "0", "{path}: {}", seen.status);
    }
}

/// A client that goes away before the outermost layer has seen the response has refused nothing.
#[tokio::test]
async fn a_leader_that_goes_leaves_the_page_to_the_others() {
    let (cache, _) = timed();
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&runs);
    let page = move || {
        counted.fetch_add(1, Ordering::SeqCst);
        async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            "page"
        }
    };
    let page = page.layer(cache_page(MINUTE, cache, ""));
    let site = Router::new().route("/", get(page)).layer(CacheGuard::new());
    let one = || {
        let request = Request::get("/").body(Body::empty()).unwrap();
        tokio::spawn(site.clone().oneshot(request))
    };
    let leader = one();
    tokio::time::sleep(Duration::from_millis(5)).await;
    let others: Vec<_> = (0..100).map(|_| one()).collect();
    tokio::time::sleep(Duration::from_millis(5)).await;
    leader.abort();
    for other in others {
        other.await.unwrap().unwrap();
    }
    assert!(runs.load(Ordering::SeqCst) <= 2, "{runs:?}");
}

/// Where layers outside make the response personal, the inner one does not say that it has stored it.
#[tokio::test]
async fn what_may_not_be_stored_is_not_said_to_be() {
    let (cache, _) = timed();
    for site in sites(&cache) {
        let seen = ask(&site, "/", &[("cookie", "sid=ada")]).await;
        assert!(!seen.status.contains("; stored"), "{}", seen.status);
    }
}

/// An expired page is stale for whoever keeps it further out, too, by whichever field it was fresh.
#[tokio::test]
async fn what_is_expired_is_fresh_nowhere() {
    let (cache, _) = timed();
    let number = numbers();
    let page = move || {
        let number = number.clone();
        async move {
            let fields = [
                ("cdn-cache-control", "max-age=600"),
                (
                    "cache-control",
                    "max-age=60, s-maxage=60, stale-while-revalidate=60, stale-if-error=60",
                ),
            ];
            (fields, number().await)
        }
    };
    let site = CacheLayer::new(cache.clone()).tags(["t"]);
    let site = Router::new().fallback_service(site.layer(Router::new().route("/", get(page))));
    ask(&site, "/", &[]).await;
    cache.expire(["t"]).await.unwrap();
    let stale = ask(&site, "/", &[]).await;
    assert_eq!(stale.body, "0");
    assert!(!stale.headers.contains_key("cdn-cache-control"));
    let said = stale.headers["cache-control"].to_str().unwrap();
    for nothing in [
        "max-age=0",
        "s-maxage=0",
        "stale-while-revalidate=0",
        "stale-if-error=0",
    ] {
        assert!(said.split(", ").any(|one| one == nothing), "{said}");
    }
}

/// A TTL of the layer's own is not for what is stale as it comes.
#[tokio::test]
async fn what_comes_stale_is_not_stored_by_a_fixed_ttl() {
    let (cache, _) = timed();
    let page = || async { ([("age", "61"), ("cache-control", "max-age=60")], "old") };
    let page = page.layer(cache_page(10 * MINUTE, cache, ""));
    let site = Router::new().route("/", get(page));
    for _ in 0..2 {
        let seen = ask(&site, "/", &[]).await;
        assert_eq!(seen.status, "axum-cache; fwd=uri-miss; detail=expired");
    }
}

/// What a layer selects by it says, whatever becomes of the response.
#[tokio::test]
async fn a_vetoed_response_varies_as_every_other() {
    let (cache, _) = timed();
    let page = |veto: axum_cache::CacheVeto| async move { veto.forbid() };
    let layer = CacheLayer::new(cache).vary_on([HeaderName::from_static("x-user")]);
    let site = layer.layer(Router::new().route("/", get(page)));
    let site = Router::new().fallback_service(site);
    let seen = ask(&site, "/", &[("x-user", "a")]).await;
    assert!(seen.status.ends_with("detail=veto"), "{}", seen.status);
    assert_eq!(seen.headers["vary"], "x-user");
}

/// The layer of a route has its developer's word that cookies do not matter; that of the site has not.
#[tokio::test]
async fn a_site_takes_nothing_from_a_route_that_it_would_not_store() {
    let (cache, _) = timed();
    let route = Router::new().route("/", get(hello)).layer(from_fn(session));
    let unmarked = |mut response: Response| async move {
        response.headers_mut().remove(header::CACHE_CONTROL);
        response
    };
    let route = route.layer(axum::middleware::map_response(unmarked));
    let route = cache_page(MINUTE, cache.clone(), "").layer(route);
    let site = CacheLayer::new(cache).layer(Router::new().route("/", get(numbers())));
    let ada = [("cookie", "sid=ada")];
    assert_eq!(ask(&route, "/", &ada).await.body, "hello ada");
    assert_eq!(
        ask(&route, "/", &[]).await.body,
        "hello ada",
        "as in Django"
    );
    let seen = ask(&site, "/", &[]).await;
    assert_eq!(seen.body, "0", "{}", seen.status);
    assert!(ask(&site, "/", &[]).await.is_hit());
}

/// A page for members, behind a gate between two layers that have one cache.
async fn seen_by_a_stranger(
    inner: fn(Cache) -> CacheLayer,
    credential: &'static str,
) -> (StatusCode, StatusCode) {
    let gate = from_fn(move |request: Request, next: Next| async move {
        if request.headers().contains_key(credential) {
            next.run(request).await
        } else {
            StatusCode::UNAUTHORIZED.into_response()
        }
    });
    let cache = Cache::new(Memory::new());
    let members = Router::new()
        .route("/", get(async || ([("vary", "accept")], "for members")))
        .layer(inner(cache.clone()))
        .layer(gate);
    let site = CacheLayer::new(cache).layer(members);
    let member = ask(&site, "/", &[(credential, "secret")]).await;
    let stranger = ask(&site, "/", &[]).await;
    let code = |code: u16| StatusCode::from_u16(code).unwrap();
    (code(member.code), code(stranger.code))
}

#[tokio::test]
async fn an_outer_layer_of_the_same_cache_serves_nothing_that_is_behind_a_gate() {
    let both = (StatusCode::OK, StatusCode::UNAUTHORIZED);
    let narrow = |cache| CacheLayer::new(cache).narrow();
    for credential in ["authorization", "cookie"] {
        assert_eq!(seen_by_a_stranger(narrow, credential).await, both);
    }
    let none = |cache| CacheLayer::new(cache).cookies(Vec::<String>::new());
    assert_eq!(seen_by_a_stranger(none, "cookie").await, both);
}

#[tokio::test]
async fn an_outer_layer_of_the_same_cache_serves_what_was_made_between_the_two() {
    async fn frame(request: Request, next: Next) -> Response {
        let (mut parts, body) = next.run(request).await.into_parts();
        let body = axum::body::to_bytes(body, 1000).await.unwrap();
        let text = String::from_utf8(body.into()).unwrap();
        parts.headers.remove(header::CONTENT_LENGTH);
        Response::from_parts(parts, Body::from(format!("[{text}]")))
    }
    for is_remote in [false, true] {
        let cache = if is_remote {
            Cache::new(Remote::new(Memory::new()))
        } else {
            Cache::new(Memory::new())
        };
        let inside = Router::new()
            .route("/", get(async || "page"))
            .layer(CacheLayer::new(cache.clone()))
            .layer(from_fn(frame));
        let site = CacheLayer::new(cache).layer(inside);
        for _ in 0..3 {
            let seen = ask(&site, "/", &[]).await;
            assert_eq!(seen.body, "[page]", "{}", seen.status);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(ask(&site, "/", &[]).await.is_hit());
    }
}
