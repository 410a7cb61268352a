//! Pages that are served stale: while others are made, and because that failed.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum_cache::backend::Memory;
use axum_cache::clock::ManualClock;
use axum_cache::layer::CacheService;
use axum_cache::{Cache, CacheBuilder, CacheLayer, Tags, cache_page};
use tokio::sync::Notify;
use tower::{Layer, ServiceExt, service_fn};

use crate::support::site::{Seen, ask};

const SECOND: Duration = Duration::from_secs(1);

fn timed_builder() -> (CacheBuilder, ManualClock) {
    let clock = ManualClock::at(SystemTime::UNIX_EPOCH + 1_900_000_000 * SECOND);
    let memory = Memory::builder().clock(clock.clone()).build().unwrap();
    (Cache::builder(memory).clock(clock.clone()), clock)
}

fn timed() -> (Cache, ManualClock) {
    let (builder, clock) = timed_builder();
    (builder.build().unwrap(), clock)
}

/// Ten seconds fresh, ten more while it is made anew, and ten more if that fails.
fn windowed(cache: &Cache) -> CacheLayer {
    CacheLayer::new(cache.clone())
        .ttl(10 * SECOND)
        .stale_while_revalidate(10 * SECOND)
        .stale_if_error(20 * SECOND)
}

/// Answers with a number each time, and with the status that is set.
#[derive(Clone)]
struct Pages {
    runs: Arc<AtomicUsize>,
    status: Arc<AtomicU16>,
    cache_control: &'static str,
}

impl Default for Pages {
    fn default() -> Self {
        Self {
            runs: Arc::default(),
            status: Arc::new(AtomicU16::new(200)),
            cache_control: "",
        }
    }
}

impl Pages {
    fn that_say(cache_control: &'static str) -> Self {
        Self {
            cache_control,
            ..Self::default()
        }
    }

    fn answer(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    fn runs(&self) -> usize {
        self.runs.swap(0, Ordering::SeqCst)
    }

    fn behind(&self, layer: &CacheLayer) -> CacheService<Router> {
        let pages = self.clone();
        layer.layer(Router::new().fallback(move |request: Request| {
            let page = pages.page(&request);
            async move { page }
        }))
    }

    fn page(&self, request: &Request) -> Response {
        let run = self.runs.fetch_add(1, Ordering::SeqCst);
        let status = self.status.load(Ordering::SeqCst);
        if status == 0 {
            std::panic::resume_unwind(Box::new("on purpose"));
        }
        let mut response = (StatusCode::from_u16(status).unwrap(), run.to_string()).into_response();
        let headers = response.headers_mut();
        if !self.cache_control.is_empty() {
            headers.insert("cache-control", self.cache_control.parse().unwrap());
        }
        if request.uri().path() == "/vary" {
            headers.insert("vary", "accept-language".parse().unwrap());
        }
        let tags = request.uri().query().map(|tags| tags.split('&'));
        let tags: Tags = tags.into_iter().flatten().collect();
        response.extensions_mut().insert(tags);
        response
    }
}

/// Asks, and lets what it began come to its end.
async fn get(site: &CacheService<Router>, uri: &str) -> Seen {
    let seen = ask(site, uri, &[]).await;
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    seen
}

const REFRESHED: &str = "axum-cache; hit; ttl=0; detail=stale-while-revalidate";
const THROTTLED: &str = "axum-cache; hit; ttl=0; detail=stale-if-error";

#[tokio::test]
async fn a_stale_page_is_served_once_while_the_next_is_made() {
    let (cache, clock) = timed();
    let layers = [
        windowed(&cache),
        cache_page(10 * SECOND, cache.clone(), "page").stale_while_revalidate(10 * SECOND),
    ];
    for layer in layers {
        let pages = Pages::default();
        let site = pages.behind(&layer);
        assert_eq!(get(&site, "/").await.body, "0");
        clock.advance(9 * SECOND);
        assert!(get(&site, "/").await.is_hit());
        for (at, body) in [(10, "0"), (19, "1")] {
            clock.advance(SECOND * (at - if at == 10 { 9 } else { 0 }));
            let seen = get(&site, "/").await;
            assert_eq!(
                (seen.status.as_str(), seen.body.as_str()),
                (REFRESHED, body)
            );
            // Whoever counts finds that it is not fresh any more.
            assert_eq!(seen.headers["age"], at.to_string());
            assert_eq!(seen.headers["cache-control"], "max-age=10");
            let next = get(&site, "/").await;
            assert_ne!(next.body, body);
            assert_eq!(next.headers["age"], "0");
        }
        assert_eq!(pages.runs(), 3);
        // Past the window.
        clock.advance(31 * SECOND);
        assert!(!get(&site, "/").await.is_hit());
        assert_eq!(pages.runs(), 1);
    }
}

#[tokio::test]
async fn a_stale_page_stands_in_for_an_error() {
    for status in [500, 502, 503, 504, 0] {
        let (cache, clock) = timed();
        let pages = Pages::default();
        let site = pages.behind(&windowed(&cache).throttle(Duration::ZERO));
        get(&site, "/").await;
        clock.advance(20 * SECOND);
        pages.answer(status);
        for _ in 0..3 {
            let seen = get(&site, "/").await;
            let asked = match status {
                0 => String::new(),
                status => format!(" fwd-status={status};"),
            };
            let said = format!("axum-cache; fwd=stale;{asked} ttl=0; detail=stale-if-error");
            assert_eq!((seen.body.as_str(), seen.status), ("0", said));
        }
        assert_eq!(pages.runs(), 4);
        // Others are for who gets them.
        for status in [404, 501, 505, 429] {
            pages.answer(status);
            assert_eq!(get(&site, "/").await.code, status);
        }
        // One that is well again is stored.
        pages.answer(200);
        assert!(!get(&site, "/").await.is_hit());
        assert!(get(&site, "/").await.is_hit());
        // Nothing is served past its window.
        clock.advance(30 * SECOND);
        pages.answer(503);
        assert_eq!(get(&site, "/").await.code, 503);
    }
}

#[tokio::test]
async fn a_stale_page_stands_in_for_a_service_that_fails() {
    let (cache, clock) = timed();
    let runs = Arc::new(AtomicUsize::new(0));
    let service = service_fn(move |_: Request| {
        let run = runs.fetch_add(1, Ordering::SeqCst);
        async move {
            if run == 0 {
                return Ok("page".into_response());
            }
            Err("away")
        }
    });
    let site = windowed(&cache).layer(service);
    let get = || site.clone().oneshot(Request::new(Body::empty()));
    get().await.unwrap();
    clock.advance(20 * SECOND);
    for _ in 0..2 {
        assert_eq!(get().await.unwrap().status(), 200);
    }
    clock.advance(10 * SECOND);
    assert_eq!(get().await.map(drop), Err("away"));
}

/// The response's own windows count before the layer's, also with no time at all, and it may forbid
/// both. What is served when the handler fails, 10, 20 and 30 seconds after: what is made anew in the
/// background, what stands in for the error, or that.
#[tokio::test]
async fn what_a_response_says_goes_before_its_layer() {
    for (line, layered, bare) in [
        (
            "max-age=10",
            "background instead error",
            "error error error",
        ),
        (
            "max-age=10, stale-while-revalidate=0",
            "instead instead error",
            "error error error",
        ),
        (
            "max-age=10, stale-if-error=0",
            "background error error",
            "error error error",
        ),
        (
            "max-age=10, stale-while-revalidate=5, stale-if-error=60",
            "background instead instead",
            "background instead instead",
        ),
        (
            "max-age=10, must-revalidate",
            "error error error",
            "error error error",
        ),
        (
            "max-age=10, proxy-revalidate, stale-if-error=60",
            "error error error",
            "error error error",
        ),
    ] {
        for (expected, is_layered) in [(layered, true), (bare, false)] {
            let (cache, clock) = timed();
            let layer = if is_layered {
                windowed(&cache)
            } else {
                CacheLayer::new(cache.clone())
            };
            let pages = Pages::that_say(line);
            let site = pages.behind(&layer.throttle(Duration::ZERO));
            get(&site, "/").await;
            pages.answer(500);
            let mut seen = Vec::new();
            for _ in 0..3 {
                clock.advance(10 * SECOND);
                let answer = get(&site, "/").await;
                seen.push(match answer.code {
                    200 if answer.status == REFRESHED => "background",
                    200 => "instead",
                    _ => "error",
                });
            }
            assert_eq!(seen.join(" "), expected, "{line} {is_layered}");
        }
    }
}

#[tokio::test]
async fn after_a_failure_the_handler_is_left_alone_for_a_while() {
    for at in [10, 20] {
        let (cache, clock) = timed();
        let layer = windowed(&cache).stale_if_error(100 * SECOND);
        let pages = Pages::default();
        let site = pages.behind(
            &layer
                .clone()
                .stale_while_revalidate(if at == 10 { 100 } else { 10 } * SECOND),
        );
        get(&site, "/").await;
        get(&site, "/other").await;
        clock.advance(at * SECOND);
        pages.answer(503);
        pages.runs();
        for _ in 0..100 {
            assert_eq!(get(&site, "/").await.body, "0");
        }
        assert_eq!(pages.runs(), 1, "{at}");
        // Of another page, it is not known.
        assert_eq!(get(&site, "/other").await.body, "1");
        assert_eq!(pages.runs(), 1);
        clock.advance(29 * SECOND);
        let seen = get(&site, "/").await;
        assert_eq!(seen.status, if at == 10 { REFRESHED } else { THROTTLED });
        assert_eq!(pages.runs(), 0);
        clock.advance(SECOND);
        pages.answer(200);
        get(&site, "/").await;
        assert_eq!(get(&site, "/").await.headers["age"], "0");
        assert_eq!(pages.runs(), 1);
    }
}

#[tokio::test]
async fn what_is_expired_by_its_tag_is_stale_from_then_on() {
    for http in [false, true] {
        for (windows, served) in [(true, true), (false, false)] {
            let (cache, clock) = timed();
            let pages = Pages::that_say(match (http, windows) {
                (true, true) => {
                    "max-age=10, s-maxage=10, stale-while-revalidate=10, stale-if-error=20"
                }
                (true, false) => "max-age=10, stale-while-revalidate=0, stale-if-error=0",
                _ => "max-age=10, public",
            });
            let pages = if http && windows {
                Pages::that_say("max-age=10, stale-while-revalidate=10, stale-if-error=20")
            } else {
                pages
            };
            let layer = match (http, windows) {
                (true, _) => CacheLayer::http(cache.clone()),
                (false, true) => windowed(&cache),
                (false, false) => CacheLayer::new(cache.clone()),
            };
            let site = pages.behind(&layer);
            get(&site, "/?tag").await;
            clock.advance(SECOND);
            assert!(get(&site, "/?tag").await.is_hit());
            cache.expire(["tag"]).await.unwrap();
            let seen = get(&site, "/?tag").await;
            assert_eq!(seen.status == REFRESHED, served, "{http} {}", seen.status);
            if served {
                assert_eq!(seen.body, "0");
                // It says 10 seconds, of which 9 would be left.
                let said = seen.headers["cache-control"].to_str().unwrap();
                assert!(said.contains("max-age=0"), "{said}");
            }
            let seen = get(&site, "/?tag").await;
            assert!(seen.is_hit() && seen.body == "1", "{http} {}", seen.status);

            // The same where it cannot be made.
            cache.expire(["tag"]).await.unwrap();
            pages.answer(500);
            for _ in 0..2 {
                let code = get(&site, "/?tag").await.code;
                assert_eq!(code == 200, served, "{http}");
            }
            // Those that are invalidated are gone.
            cache.invalidate(["tag"]).await.unwrap();
            assert_eq!(get(&site, "/?tag").await.code, 500, "{http}");
        }
    }
}

#[tokio::test]
async fn a_purge_takes_what_is_stale_with_all_its_variants() {
    let (cache, clock) = timed();
    let pages = Pages::default();
    let layer = windowed(&cache);
    let site = pages.behind(&layer);
    let languages = ["de", "en", "fr"];
    for language in languages {
        ask(&site, "/vary", &[("accept-language", language)]).await;
    }
    clock.advance(20 * SECOND);
    pages.answer(500);
    let head = |language| {
        let request = Request::head("http://site.test/vary").header("accept-language", language);
        let site = site.clone();
        async move {
            site.oneshot(request.body(Body::empty()).unwrap())
                .await
                .unwrap()
        }
    };
    for purged in [false, true] {
        for language in languages {
            let seen = ask(&site, "/vary", &[("accept-language", language)]).await;
            assert_eq!(seen.code == 200, !purged, "{language} {}", seen.status);
            let head = head(language).await;
            assert_eq!(head.status() == 200, !purged, "HEAD {language}");
        }
        let uri = Uri::from_static("http://site.test/vary");
        assert_eq!(layer.purge(&uri).await.unwrap(), !purged);
    }
}

#[tokio::test]
async fn conditions_and_parts_are_answered_from_what_is_stale() {
    let (cache, clock) = timed();
    let pages = Pages::default();
    let site = pages.behind(&windowed(&cache).throttle(Duration::ZERO));
    let etag = get(&site, "/").await.headers["etag"].clone();
    let etag = etag.to_str().unwrap();
    clock.advance(20 * SECOND);
    pages.answer(503);
    for (name, value, code) in [
        ("if-none-match", etag, 304),
        ("if-none-match", "\"other\"", 200),
        ("range", "bytes=0-0", 206),
    ] {
        let seen = ask(&site, "/", &[(name, value)]).await;
        assert_eq!(seen.code, code, "{name} {}", seen.status);
        assert!(seen.status.contains("stale-if-error"), "{}", seen.status);
    }
}

#[tokio::test]
async fn refreshes_take_their_turns_and_are_waited_for() {
    let (builder, clock) = timed_builder();
    let cache = builder.max_refreshes(1).build().unwrap();
    let (began, goes_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let runs = Arc::new(AtomicUsize::new(0));
    let router = {
        let (began, goes_on, runs) = (Arc::clone(&began), Arc::clone(&goes_on), Arc::clone(&runs));
        Router::new().fallback(move || {
            let run = runs.fetch_add(1, Ordering::SeqCst);
            let (began, goes_on) = (Arc::clone(&began), Arc::clone(&goes_on));
            async move {
                if run < 2 {
                    return Body::from(run.to_string());
                }
                // Its body, too, is still to come.
                let body = async move {
                    began.notify_one();
                    goes_on.notified().await;
                    Ok::<_, Infallible>(run.to_string())
                };
                let (sender, receiver) = tokio::sync::mpsc::channel(1);
                tokio::spawn(async move {
                    let part = body.await.map(Into::into);
                    sender.send(part).await.unwrap();
                });
                Body::new(crate::support::http::Channel(receiver))
            }
        })
    };
    let site = windowed(&cache).layer(router);
    for uri in ["/one", "/two"] {
        get(&site, uri).await;
    }
    clock.advance(10 * SECOND);
    for _ in 0..3 {
        for (uri, body) in [("/one", "0"), ("/two", "1")] {
            let seen = get(&site, uri).await;
            assert_eq!(
                (seen.status.as_str(), seen.body.as_str()),
                (REFRESHED, body)
            );
        }
    }
    assert_eq!(runs.load(Ordering::SeqCst), 3, "there is room for one");
    began.notified().await;
    let closing = tokio::spawn({
        let cache = cache.clone();
        async move { cache.close().await }
    });
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    assert!(!closing.is_finished());
    goes_on.notify_one();
    closing.await.unwrap().unwrap();
    assert_eq!(get(&site, "/one").await.body, "2", "it was stored by then");
    assert!(get(&site, "/one").await.headers["age"] == "0");
    get(&site, "/two").await;
    assert_eq!(runs.load(Ordering::SeqCst), 4, "there is room again");
}
