//! The layer among others: those that change a request on its way, those that keep what is there for its task, and
//! the caches of clients.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Path, Request};
use axum::handler::Handler;
use axum::http::{HeaderMap, Response as HttpResponse, Uri, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum_cache::backend::{Dummy, Memory};
use axum_cache::clock::ManualClock;
use axum_cache::layer::CacheService;
use axum_cache::{BoxError, Cache, CacheLayer, Caches, Settings, cache_page};
use tokio::time::{Instant, timeout};
use tower::{Layer, Service, ServiceExt};

use crate::support::site::ask;

const MINUTE: Duration = Duration::from_secs(60);

fn memory() -> Cache {
    Cache::new(Memory::new())
}

async fn text<S, B>(site: &S, request: Request) -> String
where
    S: Service<Request, Response = HttpResponse<B>, Error = Infallible> + Clone + Sync,
    S::Future: Send,
    B: http_body::Body<Data = axum::body::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let response = site.clone().oneshot(request).await.unwrap();
    let body = to_bytes(Body::new(response.into_body()), 1 << 10).await;
    String::from_utf8(body.unwrap().to_vec()).unwrap()
}

/// The full URI is that of before, and the handler sees another one.
#[tokio::test]
async fn a_rewritten_uri_is_part_of_what_is_asked_for() {
    async fn me(mut request: Request, next: Next) -> Response {
        if request.uri().path() == "/me" {
            let cookie = request.headers()["cookie"].to_str().unwrap();
            let user = cookie.strip_prefix("sid=").unwrap();
            *request.uri_mut() = format!("/users/{user}").parse().unwrap();
        }
        next.run(request).await
    }
    let layer = cache_page(MINUTE, memory(), "");
    let user = |Path(user): Path<String>| async move { format!("profile of {user}") };
    let users = Router::new().route("/users/{user}", get(user.layer(layer.clone())));
    let site: Router = Router::new().fallback_service(from_fn(me).layer(users));
    let as_user = async |user: &str| ask(&site, "/me", &[("cookie", user)]).await;
    assert_eq!(as_user("sid=ada").await.body, "profile of ada");
    assert_eq!(as_user("sid=bob").await.body, "profile of bob");
    let again = as_user("sid=ada").await;
    assert!(
        again.is_hit() && again.body == "profile of ada",
        "{}",
        again.status
    );
    // They are pages of the URI that clients know.
    let known = Uri::from_static("http://site.test/me");
    assert!(layer.purge(&known).await.unwrap());
    assert!(!as_user("sid=bob").await.is_hit());
}

/// What is left of a path may be another page's, and it is no nested router that leaves it.
#[tokio::test]
async fn a_rewritten_uri_that_ends_the_full_one_is_part_of_it_too() {
    for (full, rest) in [("/members/news", "/news"), ("/account", "/")] {
        let login = async move |mut request: Request, next: Next| {
            if !request.headers().contains_key("cookie") {
                // The host is in a field, as in HTTP/1.1.
                *request.uri_mut() = Uri::from_static(rest);
            }
            next.run(request).await
        };
        let layer = cache_page(MINUTE, memory(), "");
        let pages = Router::new()
            .route(full, get((|| async { "members" }).layer(layer.clone())))
            .route(rest, get((|| async { "public" }).layer(layer)));
        let site: Router = Router::new().fallback_service(from_fn(login).layer(pages));
        let asked = |cookie: Option<&'static str>| {
            let request = Request::get(full).header("host", "site.test");
            let request = cookie
                .into_iter()
                .fold(request, |request, cookie| request.header("cookie", cookie));
            request.body(Body::empty()).unwrap()
        };
        for _ in 0..2 {
            assert_eq!(text(&site, asked(Some("sid=ada"))).await, "members");
            assert_eq!(text(&site, asked(None)).await, "public");
        }
    }
}

/// Nested routers strip a part of what it was rewritten to.
#[tokio::test]
async fn a_uri_rewritten_in_front_of_nested_routers_is_part_of_it_too() {
    async fn by_cookie(mut request: Request, next: Next) -> Response {
        let cookie = request.headers()["cookie"].to_str().unwrap();
        *request.uri_mut() = format!("/{cookie}/news").parse().unwrap();
        next.run(request).await
    }
    // One that shares pages whatever cookies there are.
    let layer = cache_page(MINUTE, memory(), "").cookies([""; 0]);
    let page = |headers: HeaderMap| async move { headers["cookie"].to_str().unwrap().to_owned() };
    let page = page.layer(layer);
    let inner = Router::new().route("/news", get(page));
    let literal = Router::new()
        .nest("/ada", inner.clone())
        .nest("/bob", inner.clone());
    let by_parameter = Router::new().nest("/{user}", inner);
    for (nested, path) in [
        (literal.clone(), "/my/news"),
        (literal, "/news"),
        (by_parameter, "/news"),
    ] {
        let site: Router = Router::new().fallback_service(from_fn(by_cookie).layer(nested));
        for user in ["ada", "bob", "ada"] {
            let request = Request::get(path).header("host", "site.test");
            let request = request.header("cookie", user).body(Body::empty());
            let seen = text(&site, request.unwrap()).await;
            assert_eq!(seen, user, "{path}");
        }
    }
}

/// As a page that is made of others: their requests have the extensions of its own.
#[tokio::test]
async fn requests_of_a_handlers_own_are_for_pages_of_their_own() {
    let cache = memory();
    let part = |name: &'static str| {
        let part = move || async move { name };
        get(part.layer(cache_page(MINUTE, cache.clone(), "")))
    };
    let parts: Router = Router::new()
        .route("/head", part("head"))
        .route("/foot", part("foot"));
    let whole = move |request: Request| async move {
        let mut whole = String::new();
        for path in ["/head", "/foot"] {
            let mut one = Request::new(Body::empty());
            *one.headers_mut() = request.headers().clone();
            *one.extensions_mut() = request.extensions().clone();
            *one.uri_mut() = Uri::from_static(path);
            whole += &text(&parts, one).await;
        }
        whole
    };
    let site: Router = Router::new().route("/", get(whole));
    assert_eq!(ask(&site, "/", &[]).await.body, "headfoot");
}

/// A nested router strips what it is nested under, and that is all.
#[tokio::test]
async fn nested_routers_rewrite_nothing() {
    let page = (|| async { "page" }).layer(cache_page(MINUTE, memory(), "in"));
    let inner = Router::new()
        .route("/", get(page.clone()))
        .route("/a", get(page));
    let tenant = Router::new()
        .nest("/deep/", inner.clone())
        .nest_service("/service", inner.clone());
    let site = Router::new()
        .nest("/in", Router::new().nest("/deep", inner))
        .nest("/of/{tenant}", tenant);
    // One outside that does not know it would be told of what it cannot know, and not store it.
    let outer = CacheLayer::new(memory()).layer(site);
    let site = Router::new().fallback_service(outer);
    for path in [
        "/in/deep",
        "/in/deep/a",
        "/in/deep/a?b",
        "/of/a/deep/",
        "/of/a/deep/a",
        "/of/a/service",
        "/of/a/service/a",
    ] {
        let body = ask(&site, path, &[]).await.body;
        let seen = ask(&site, path, &[]).await;
        assert!(body == "page" && seen.is_hit(), "{path}: {}", seen.status);
    }
}

/// As a layer leaves it that has unpacked the body.
#[tokio::test]
async fn a_body_that_no_field_announces_counts() {
    let search = |body: String| async move { format!("results for {body}") };
    let site = CacheLayer::new(memory()).layer(Router::new().route("/", get(search)));
    let search = async |body: &'static str| {
        let request = Request::get("/").header("host", "a");
        text(&site, request.body(Body::from(body)).unwrap()).await
    };
    assert_eq!(search("a").await, "results for a");
    assert_eq!(search("b").await, "results for b");
}

#[tokio::test]
async fn a_default_port_makes_no_other_page() {
    let runs = Arc::new(AtomicUsize::new(0));
    let page = move || std::future::ready(runs.fetch_add(1, Ordering::SeqCst).to_string());
    let layer = CacheLayer::new(memory()).invalidate_on_unsafe(true);
    let site = layer.layer(Router::new().route("/", get(page).put(|| async {})));
    let send = async |method: &str, host: &str| {
        let request = Request::builder().method(method).uri("/");
        text(
            &site,
            request.header("host", host).body(Body::empty()).unwrap(),
        )
        .await
    };
    assert_eq!(send("GET", "a.test:80").await, "0");
    assert_eq!(send("GET", "a.test").await, "0");
    send("PUT", "a.test").await;
    assert_eq!(send("GET", "a.test:80").await, "1");
    let page = Uri::from_static("http://a.test:80/");
    assert!(layer.purge(&page).await.unwrap());
    assert_eq!(send("GET", "a.test").await, "2");
    assert_eq!(send("GET", "a.test:443").await, "3");
}

/// Nor is the handler shown one, in whichever place it came.
#[tokio::test]
async fn a_handler_is_shown_the_host_that_its_page_is_of() {
    let page = |request: Request| async move {
        let host = &request.headers()[header::HOST];
        format!("{:?} {host:?}", request.uri().authority())
    };
    for first in [":80/", "/"] {
        let site = CacheLayer::new(memory()).layer(Router::new().route("/", get(page)));
        assert!(!ask(&site, first, &[]).await.body.contains(":80"));
    }
}

tokio::task_local! {
    static USER: &'static str;
}

/// A handler that waits runs in the task of its client, whose own things it has.
#[tokio::test]
async fn a_handler_has_what_belongs_to_the_task_of_its_client() {
    async fn scoped(request: Request, next: Next) -> Response {
        USER.scope("ada", next.run(request)).await
    }
    let page = || async {
        tokio::time::sleep(Duration::from_millis(2)).await;
        USER.get()
    };
    let page = page.layer(cache_page(MINUTE, memory(), ""));
    let site: Router = Router::new().route("/", get(page)).layer(from_fn(scoped));
    assert_eq!(ask(&site, "/", &[]).await.body, "ada");
}

/// What nobody waits for is finished, but not as much of it as anybody may ask for, and not for ever.
#[tokio::test(start_paused = true)]
async fn requests_that_are_given_up_do_not_pile_up() {
    const MOST: usize = 3;
    struct Running(Arc<AtomicUsize>);
    impl Drop for Running {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let running = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&running);
    let hangs = move || {
        counted.fetch_add(1, Ordering::SeqCst);
        let running = Running(Arc::clone(&counted));
        async move {
            let _running = running;
            std::future::pending::<()>().await;
        }
    };
    let url = format!("memory://?max_refreshes={MOST}&drain_timeout=0.5");
    let settings = Settings::new().with_url("default", &url).unwrap();
    let caches = Caches::builder().settings(settings).build().await.unwrap();
    let site = CacheLayer::new(caches.default());
    let site = site.layer(Router::new().route("/", get(hangs)));
    for page in 0..20 {
        let request = Request::get(format!("/?{page}")).body(Body::empty());
        let answer = site.clone().oneshot(request.unwrap());
        // As the server drops it when the client has closed its connection.
        let gone = timeout(Duration::from_millis(1), answer).await;
        assert!(gone.is_err());
    }
    tokio::task::yield_now().await;
    assert_eq!(running.load(Ordering::SeqCst), MOST);
    let closing = Instant::now();
    caches.close().await.unwrap();
    assert_eq!(closing.elapsed().as_millis() / 10, 50);
    assert_eq!(running.load(Ordering::SeqCst), 0);
}

/// A service that is ready, busy or broken.
#[derive(Clone, Default)]
struct Upstream(Arc<AtomicUsize>);

const BUSY: usize = 1;
const BROKEN: usize = 2;

impl Service<Request> for Upstream {
    type Response = Response;
    type Error = &'static str;
    type Future = Ready<Result<Response, &'static str>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
        match self.0.load(Ordering::SeqCst) {
            BUSY => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            BROKEN => Poll::Ready(Err("no upstream")),
            _ => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, _: Request) -> Self::Future {
        assert_eq!(self.0.load(Ordering::SeqCst), 0, "only once it is ready");
        ready(Ok("page".into_response()))
    }
}

/// As round a limit, a pool or a balancer.
#[tokio::test]
async fn what_is_stored_needs_no_service_that_is_ready() {
    let clock = ManualClock::new();
    let memory = Memory::builder().clock(clock.clone()).build().unwrap();
    let cache = Cache::builder(memory).clock(clock.clone()).build().unwrap();
    let layer = CacheLayer::new(cache).ttl(MINUTE).stale_if_error(MINUTE);
    let upstream = Upstream::default();
    let site = layer.layer(upstream.clone());
    let off = CacheLayer::new(Cache::new(Dummy)).layer(upstream.clone());
    let send = async |site: &CacheService<Upstream>, method: &str, path: &str| {
        let request = Request::builder().method(method).uri(path);
        let request = request.header("host", "a").body(Body::empty()).unwrap();
        let answer = site.clone().oneshot(request);
        match timeout(Duration::from_millis(20), answer).await {
            Ok(Ok(response)) => match response.headers().get("cache-status") {
                Some(status) => status.to_str().unwrap().to_owned(),
                None => "off".to_owned(),
            },
            Ok(Err(error)) => error.to_owned(),
            Err(_) => "waits".to_owned(),
        }
    };
    send(&site, "GET", "/").await;
    for (state, instead) in [(BUSY, "waits"), (BROKEN, "no upstream")] {
        upstream.0.store(state, Ordering::SeqCst);
        let said = send(&site, "GET", "/").await;
        assert!(said.contains("; hit"), "{said}");
        for (method, path) in [("GET", "/other"), ("HEAD", "/other"), ("POST", "/")] {
            assert_eq!(send(&site, method, path).await, instead, "{method} {path}");
        }
        assert_eq!(send(&off, "GET", "/").await, instead);
    }
    clock.advance(MINUTE);
    let said = send(&site, "GET", "/").await;
    assert!(said.ends_with("detail=stale-if-error"), "{said}");
    // Whoever waits is answered once it is ready.
    upstream.0.store(BUSY, Ordering::SeqCst);
    let ready = async {
        tokio::time::sleep(Duration::from_millis(2)).await;
        upstream.0.store(0, Ordering::SeqCst);
    };
    let waits = async { tokio::join!(send(&site, "GET", "/third"), send(&off, "GET", "/")) };
    let ((), (third, off)) = tokio::join!(ready, waits);
    assert!(third.contains("; stored"), "{third}");
    assert_eq!(off, "off");
}

/// Digests of the content are those of the whole.
#[tokio::test]
async fn a_part_has_no_digest_of_the_whole() {
    let digests = [
        ("content-digest", "sha-256=:of-the-whole:"),
        ("content-md5", "x"),
        ("repr-digest", "sha-256=:of-the-whole:"),
    ];
    let file = move || async move { (digests, "0123456789") };
    let site = CacheLayer::new(memory()).layer(Router::new().route("/", get(file)));
    ask(&site, "/", &[]).await;
    let part = ask(&site, "/", &[("range", "bytes=0-3")]).await;
    assert_eq!((part.code, &*part.body), (206, "0123"));
    assert!(!part.headers.contains_key("content-digest"));
    assert!(!part.headers.contains_key("content-md5"));
    assert!(part.headers.contains_key("repr-digest"));
}

/// A cache on the way would serve it to others for as long as the page is fresh.
#[tokio::test]
async fn an_error_that_one_client_brought_about_is_not_fresh() {
    let page = || async { ([("cdn-cache-control", "max-age=9")], "page") };
    let site = CacheLayer::new(memory()).layer(Router::new().route("/", get(page)));
    for stored in [false, true] {
        for (field, code) in [(("if-match", "\"no\""), 412), (("range", "bytes=99-"), 416)] {
            if !stored && code == 416 {
                continue;
            }
            let seen = ask(&site, "/", &[field]).await;
            assert_eq!((seen.code, &*seen.body), (code, ""), "{}", seen.status);
            for fresh in [header::CACHE_CONTROL, header::EXPIRES] {
                assert!(!seen.headers.contains_key(fresh), "{:?}", seen.headers);
            }
            assert!(!seen.headers.contains_key("cdn-cache-control"));
        }
        ask(&site, "/", &[]).await;
    }
}

/// `Expires` is for those who do not know `max-age`, and says no more than that.
#[tokio::test]
async fn what_browsers_are_to_ask_for_is_not_fresh_by_another_field() {
    let page = || async { ([("cache-control", "max-age=0, s-maxage=300")], "page") };
    let site = CacheLayer::new(memory()).layer(Router::new().route("/", get(page)));
    for hit in [false, true] {
        let before = SystemTime::now();
        let seen = ask(&site, "/", &[]).await;
        assert_eq!(seen.is_hit(), hit);
        let expires = seen.headers["expires"].to_str().unwrap();
        let expires = httpdate::parse_http_date(expires).unwrap();
        assert!(expires <= before + Duration::from_secs(1), "{expires:?}");
    }
}
