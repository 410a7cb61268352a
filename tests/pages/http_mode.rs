//! HTTP mode, end to end, on a clock that is moved by hand.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::header::COOKIE;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum_cache::CacheLayer;
use axum_cache::clock::ManualClock;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tower::{Layer, ServiceExt, service_fn};

use crate::site::{Runs, Seen, Site, ask, behind, get, request, settled, timed};
use crate::status::members;

const DATE: &str = "Tue, 15 Nov 1994 12:45:26 GMT";

/// What an origin says at the moment.
#[derive(Clone, Debug)]
struct Say {
    status: u16,
    fields: Vec<(&'static str, String)>,
    body: String,
    /// What came with the last request.
    asked: HeaderMap,
    /// What answers wait for.
    held: Option<Arc<Notify>>,
}

/// An origin that answers conditions by its `ETag` and `Last-Modified`.
#[derive(Clone, Debug)]
struct Origin(Arc<Mutex<Say>>);

impl Origin {
    fn new(fields: &[(&'static str, &str)], body: &str) -> Self {
        let origin = Self(Arc::new(Mutex::new(Say {
            status: 200,
            fields: Vec::new(),
            body: String::new(),
            asked: HeaderMap::new(),
            held: None,
        })));
        origin.says(200, fields, body);
        origin
    }

    fn says(&self, status: u16, fields: &[(&'static str, &str)], body: &str) {
        let mut say = self.0.lock().unwrap();
        say.status = status;
        say.fields = fields
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()))
            .collect();
        body.clone_into(&mut say.body);
    }

    /// Answers no more but one, each time this is notified.
    fn hold(&self) -> Arc<Notify> {
        let held = Arc::new(Notify::new());
        self.0.lock().unwrap().held = Some(Arc::clone(&held));
        held
    }

    fn release(&self) {
        self.0.lock().unwrap().held = None;
    }

    fn asked(&self, name: &str) -> Option<String> {
        let say = self.0.lock().unwrap();
        Some(say.asked.get(name)?.to_str().unwrap().to_owned())
    }

    async fn answer(self, request: Request) -> Response {
        let say = {
            let mut say = self.0.lock().unwrap();
            say.asked = request.headers().clone();
            say.clone()
        };
        if let Some(held) = &say.held {
            held.notified().await;
        }
        let mut fields = HeaderMap::new();
        for (name, value) in &say.fields {
            fields.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        let of = |name: &str| request.headers().get(name);
        let unchanged = match of("if-none-match") {
            Some(tag) => fields.get("etag") == Some(tag),
            None => {
                of("if-modified-since").is_some()
                    && of("if-modified-since") == fields.get("last-modified")
            }
        };
        if unchanged && say.status == 200 {
            return (StatusCode::NOT_MODIFIED, fields).into_response();
        }
        let varied = of("accept-language")
            .and_then(|value| value.to_str().ok())
            .unwrap_or("");
        let body = say.body.replace("{language}", varied);
        (StatusCode::from_u16(say.status).unwrap(), fields, body).into_response()
    }

    fn behind(&self, layer: &CacheLayer) -> (Site, Runs) {
        let origin = self.clone();
        let handler = move |request| origin.clone().answer(request);
        behind(layer, Router::new().fallback(handler))
    }
}

fn seconds(clock: &ManualClock, seconds: u64) {
    clock.advance(Duration::from_secs(seconds));
}

fn is(seen: &Seen, how: &str, text: &str) {
    assert_eq!((seen.how(), seen.text()), (how, text), "{:?}", seen.members);
}

pub(crate) async fn validation_by_tag_and_by_date() {
    for (validator, value, condition) in [
        ("etag", "\"a\"", "if-none-match"),
        ("etag", "W/\"a\"", "if-none-match"),
        ("last-modified", DATE, "if-modified-since"),
    ] {
        let (cache, clock) = timed();
        let origin = Origin::new(
            &[(validator, value), ("cache-control", "max-age=10")],
            "page",
        );
        let (site, runs) = origin.behind(&CacheLayer::http(cache));
        is(&get(&site, "/").await, "uri-miss", "page");
        is(&get(&site, "/").await, "hit", "page");
        for _ in 0..3 {
            seconds(&clock, 10);
            let validated = get(&site, "/").await;
            is(&validated, "stale", "page");
            assert_eq!(validated.status, 200);
            assert_eq!(validated.last().fwd_status, Some(304));
            assert!(validated.last().stored);
            assert_eq!(origin.asked(condition).as_deref(), Some(value));
            is(&get(&site, "/").await, "hit", "page");
        }
        assert_eq!(runs.take(), 4);
        // The client's own condition is answered from what was validated.
        seconds(&clock, 10);
        let seen = ask(&site, "GET", "/", &[(condition, value)]).await;
        assert_eq!((seen.status.as_u16(), seen.text()), (304, ""));
        let seen = ask(&site, "GET", "/", &[("if-none-match", "\"other\"")]).await;
        is(&seen, "hit", "page");
    }
}

pub(crate) async fn changed_content_replaces_what_was() {
    let (cache, clock) = timed();
    let fresh = ("cache-control", "max-age=10");
    let origin = Origin::new(&[("etag", "\"a\""), fresh], "old");
    let (site, runs) = origin.behind(&CacheLayer::http(cache));
    get(&site, "/").await;
    origin.says(200, &[("etag", "\"b\""), fresh], "new");
    is(&get(&site, "/").await, "hit", "old");
    seconds(&clock, 11);
    // A client that has the new one already.
    let seen = ask(&site, "GET", "/", &[("if-none-match", "\"b\"")]).await;
    assert_eq!((seen.status.as_u16(), seen.how()), (304, "stale"));
    is(&get(&site, "/").await, "hit", "new");
    assert_eq!(runs.take(), 2);
    origin.says(404, &[fresh], "gone");
    seconds(&clock, 11);
    is(&get(&site, "/").await, "stale", "gone");
    let gone = get(&site, "/").await;
    is(&gone, "hit", "gone");
    assert_eq!(gone.status, 404);
}

pub(crate) async fn a_304_updates_the_fields() {
    let (cache, clock) = timed();
    let tag = ("etag", "\"a\"");
    let origin = Origin::new(
        &[
            tag,
            ("cache-control", "max-age=10"),
            ("x-a", "1"),
            ("x-b", "1"),
        ],
        "page",
    );
    let (site, runs) = origin.behind(&CacheLayer::http(cache));
    get(&site, "/").await;
    seconds(&clock, 11);
    origin.says(
        200,
        &[
            tag,
            ("cache-control", "max-age=100"),
            ("x-a", "2"),
            ("x-c", "2"),
        ],
        "page",
    );
    for how in ["stale", "hit"] {
        let seen = get(&site, "/").await;
        is(&seen, how, "page");
        for (name, value) in [
            ("x-a", "2"),
            ("x-b", "1"),
            ("x-c", "2"),
            ("cache-control", "max-age=100"),
        ] {
            assert_eq!(seen.field(name), Some(value), "{how}: {name}");
        }
        assert_eq!(seen.field("age"), Some("0"), "{how}");
    }
    seconds(&clock, 99);
    is(&get(&site, "/").await, "hit", "page");
    assert_eq!(runs.take(), 2);
    // It may say that it is not to be kept any more.
    seconds(&clock, 1);
    origin.says(200, &[tag, ("cache-control", "no-store")], "page");
    is(&get(&site, "/").await, "stale", "page");
    is(&get(&site, "/").await, "uri-miss", "page");
    assert_eq!(runs.take(), 2);
}

/// What an origin says to a client about the client's own copy is not about the stored one.
pub(crate) async fn a_304_about_another_one_changes_nothing() {
    let (cache, clock) = timed();
    let fresh = ("cache-control", "max-age=10");
    let origin = Origin::new(&[("etag", "\"a\""), fresh], "old");
    let (site, runs) = origin.behind(&CacheLayer::http(cache));
    get(&site, "/").await;
    seconds(&clock, 11);
    origin.says(200, &[("etag", "\"b\""), fresh], "new");
    let head = ask(&site, "HEAD", "/", &[("if-none-match", "\"b\"")]).await;
    assert_eq!(
        (head.status.as_u16(), head.field("etag")),
        (304, Some("\"b\""))
    );
    let seen = get(&site, "/").await;
    is(&seen, "stale", "new");
    assert_eq!(runs.take(), 3);

    // By date: the client's copy is newer than the stored one.
    let (cache, clock) = timed();
    let later = "Wed, 16 Nov 1994 12:45:26 GMT";
    let origin = Origin::new(&[("last-modified", DATE), fresh], "old");
    let (site, _) = origin.behind(&CacheLayer::http(cache));
    get(&site, "/").await;
    seconds(&clock, 11);
    origin.says(200, &[("last-modified", later), fresh], "new");
    ask(&site, "HEAD", "/", &[("if-modified-since", later)]).await;
    is(&get(&site, "/").await, "stale", "new");
}

pub(crate) async fn stale_while_revalidate_serves_at_once_and_refreshes_once() {
    let (cache, clock) = timed();
    let fresh = ("cache-control", "max-age=10, stale-while-revalidate=60");
    let origin = Origin::new(&[("etag", "\"a\""), fresh], "old");
    let (site, runs) = origin.behind(&CacheLayer::http(cache));
    get(&site, "/").await;
    seconds(&clock, 20);
    origin.says(200, &[("etag", "\"b\""), fresh], "new");
    let held = origin.hold();
    let crowd: JoinSet<_> = (0..100)
        .map(|_| {
            let site = site.clone();
            async move { get(&site, "/").await }
        })
        .collect();
    for seen in crowd.join_all().await {
        is(&seen, "hit", "old");
        assert_eq!(seen.detail(), "stale-while-revalidate");
        assert_eq!(seen.field("age"), Some("20"));
    }
    origin.release();
    held.notify_one();
    settled().await;
    is(&get(&site, "/").await, "hit", "new");
    assert_eq!(runs.take(), 2);
    // Outside of the window it is asked for first.
    seconds(&clock, 71);
    origin.says(200, &[("etag", "\"c\""), fresh], "newest");
    is(&get(&site, "/").await, "stale", "newest");
}

/// The refresh asks for what the visitor was served, not for what another one would be.
pub(crate) async fn a_background_refresh_is_for_the_same_page() {
    let cookie = HeaderValue::from_static("plan=a");
    let layers: [fn(CacheLayer) -> CacheLayer; 3] = [
        |layer| layer.cookies(["plan"]),
        |layer| layer.vary_on([COOKIE]),
        |layer| layer,
    ];
    for (index, declare) in layers.into_iter().enumerate() {
        let (cache, clock) = timed();
        let router = Router::new().fallback(|headers: HeaderMap| async move {
            let fields = [
                ("cache-control", "max-age=10, stale-while-revalidate=60"),
                ("vary", "cookie"),
            ];
            let plan = headers
                .get(COOKIE)
                .map_or("none", |value| value.to_str().unwrap());
            (fields, plan.to_owned())
        });
        let (site, runs) = behind(&declare(CacheLayer::http(cache)), router);
        let cookie = [("cookie", cookie.to_str().unwrap())];
        get(&site, "/").await;
        ask(&site, "GET", "/", &cookie).await;
        seconds(&clock, 20);
        is(&ask(&site, "GET", "/", &cookie).await, "hit", "plan=a");
        settled().await;
        let seen = ask(&site, "GET", "/", &cookie).await;
        assert_eq!(seen.text(), "plan=a", "{index}");
        assert_eq!(seen.detail(), "", "{index}: it was refreshed");
        assert_eq!(runs.take(), 3);
        is(&get(&site, "/").await, "hit", "none");
        settled().await;
    }
}

pub(crate) async fn stale_if_error_on_an_error_and_on_a_breakdown() {
    let (cache, clock) = timed();
    let fresh = ("cache-control", "max-age=10, stale-if-error=60");
    let origin = Origin::new(&[("etag", "\"a\""), fresh], "page");
    let (site, runs) = origin.behind(&CacheLayer::http(cache));
    get(&site, "/").await;
    seconds(&clock, 20);
    for status in [500, 502, 503, 504] {
        origin.says(status, &[], "broken");
        let seen = get(&site, "/").await;
        is(&seen, "stale", "page");
        assert_eq!(
            (seen.status.as_u16(), seen.detail()),
            (200, "stale-if-error")
        );
        assert_eq!(seen.last().fwd_status, Some(status));
    }
    for status in [400, 404, 501] {
        origin.says(status, &[], "no");
        assert_eq!(get(&site, "/").await.status, status);
    }
    origin.says(503, &[], "broken");
    seconds(&clock, 51);
    assert_eq!(get(&site, "/").await.status, 503);
    assert_eq!(runs.take(), 9);

    // A breakdown: however stale, unless it forbids that.
    for (directives, status) in [
        ("max-age=10", Some(200)),
        ("max-age=10, must-revalidate", None),
    ] {
        let (cache, clock) = timed();
        let broken = Arc::new(AtomicBool::new(false));
        let breaks = Arc::clone(&broken);
        let service = service_fn(move |_: Request| {
            let broken = breaks.load(Ordering::SeqCst);
            async move {
                if broken {
                    return Err(io::Error::other("on purpose"));
                }
                Ok(([("cache-control", directives), ("etag", "\"a\"")], "page").into_response())
            }
        });
        let site = CacheLayer::http(cache).layer(service);
        site.clone()
            .oneshot(request("GET", "/", &[]))
            .await
            .unwrap();
        seconds(&clock, 1000);
        broken.store(true, Ordering::SeqCst);
        let answer = site.clone().oneshot(request("GET", "/", &[])).await;
        assert_eq!(
            answer.as_ref().ok().map(|answer| answer.status().as_u16()),
            status
        );
        if let Ok(answer) = answer {
            let said = members(answer.headers()).unwrap();
            assert_eq!(said[0].detail.as_deref(), Some("stale-if-error"));
            assert_eq!(answer.headers()["age"], "1000");
        }
    }
}

pub(crate) async fn must_revalidate_forbids_what_is_stale() {
    for directives in [
        "max-age=10, stale-while-revalidate=60, stale-if-error=60, must-revalidate",
        "max-age=10, stale-while-revalidate=60, stale-if-error=60, proxy-revalidate",
        "s-maxage=10, stale-while-revalidate=60, stale-if-error=60",
        "max-age=10, stale-while-revalidate=60, stale-if-error=60, no-cache",
    ] {
        let (cache, clock) = timed();
        let origin = Origin::new(&[("etag", "\"a\""), ("cache-control", directives)], "page");
        let (site, runs) = origin.behind(&CacheLayer::http(cache).honour_requests(true));
        get(&site, "/").await;
        seconds(&clock, 20);
        let seen = ask(&site, "GET", "/", &[("cache-control", "max-stale=999")]).await;
        assert_eq!(seen.last().fwd_status, Some(304), "{directives}");
        seconds(&clock, 20);
        origin.says(503, &[], "broken");
        let seen = get(&site, "/").await;
        assert_eq!(
            (seen.status.as_u16(), seen.text()),
            (503, "broken"),
            "{directives}"
        );
        assert_eq!(runs.take(), 3);
    }
}

pub(crate) async fn the_targeted_field_wins() {
    for (targeted, plain, kept) in [
        ("max-age=100", "no-store", 100),
        ("max-age=100", "max-age=5, private", 100),
        ("max-age=5", "max-age=100", 5),
        ("no-store", "max-age=100", 0),
        ("private", "max-age=100", 0),
        // One that is no dictionary counts as if it were not there.
        ("max-age=,,", "max-age=7", 7),
    ] {
        let (cache, clock) = timed();
        let fields = [("cdn-cache-control", targeted), ("cache-control", plain)];
        let origin = Origin::new(&fields, "page");
        let (site, runs) = origin.behind(&CacheLayer::http(cache));
        let seen = get(&site, "/").await;
        for (name, value) in fields {
            assert_eq!(seen.field(name), Some(value), "it goes on to the client");
        }
        if kept > 0 {
            seconds(&clock, kept - 1);
            is(&get(&site, "/").await, "hit", "page");
            seconds(&clock, 1);
        }
        assert!(!get(&site, "/").await.is_hit(), "{targeted} {plain}");
        assert_eq!(runs.take(), 2);
    }
}

pub(crate) async fn freshness_by_guess() {
    let (cache, clock) = timed();
    let hundred_seconds_ago = {
        use axum_cache::clock::Clock;
        httpdate(clock.now() - Duration::from_secs(100))
    };
    let origin = Origin::new(&[("last-modified", &hundred_seconds_ago)], "page");
    let (site, runs) = origin.behind(&CacheLayer::http(cache.clone()));
    get(&site, "/").await;
    seconds(&clock, 8);
    is(&get(&site, "/").await, "hit", "page");
    seconds(&clock, 3);
    is(&get(&site, "/").await, "stale", "page");
    assert_eq!(runs.take(), 2);
    // Without a date there is nothing to guess from, and without a validator nothing to keep.
    let origin = Origin::new(&[], "page");
    let (site, runs) = origin.behind(&CacheLayer::http(cache.clone()).key_prefix("b"));
    get(&site, "/").await;
    assert_eq!(get(&site, "/").await.detail(), "no-freshness");
    assert_eq!(runs.take(), 2);
    let origin = Origin::new(&[("last-modified", DATE)], "page");
    let none = CacheLayer::http(cache)
        .key_prefix("c")
        .heuristic_lifetime(Duration::ZERO);
    let (site, _) = origin.behind(&none);
    get(&site, "/").await;
    is(&get(&site, "/").await, "stale", "page");
}

fn httpdate(time: std::time::SystemTime) -> String {
    // Through the crate itself, so that no other one is needed.
    let mut fields = HeaderMap::new();
    axum_cache::control::patch_response_headers(&mut fields, Duration::ZERO, time);
    fields["expires"].to_str().unwrap().to_owned()
}

pub(crate) async fn age_on_arrival_counts() {
    let (cache, clock) = timed();
    let origin = Origin::new(&[("cache-control", "max-age=100"), ("age", "60")], "page");
    let (site, runs) = origin.behind(&CacheLayer::http(cache));
    get(&site, "/").await;
    seconds(&clock, 39);
    let seen = get(&site, "/").await;
    is(&seen, "hit", "page");
    assert_eq!((seen.field("age"), seen.last().ttl), (Some("99"), Some(1)));
    seconds(&clock, 1);
    is(&get(&site, "/").await, "stale", "page");
    assert_eq!(runs.take(), 2);
}

pub(crate) async fn variants_by_vary() {
    let (cache, clock) = timed();
    let fields = [
        ("cache-control", "max-age=10"),
        ("vary", "Accept-Language"),
        ("last-modified", DATE),
    ];
    let origin = Origin::new(&fields, "in {language}");
    let (site, runs) = origin.behind(&CacheLayer::http(cache));
    for how in ["miss", "hit"] {
        for language in ["en", "de", "fr"] {
            let seen = ask(&site, "GET", "/", &[("accept-language", language)]).await;
            assert_eq!(seen.text(), format!("in {language}"));
            assert_eq!(seen.is_hit(), how == "hit", "{:?}", seen.members);
        }
    }
    assert_eq!(runs.take(), 3);
    seconds(&clock, 11);
    for language in ["de", "en"] {
        let seen = ask(&site, "GET", "/", &[("accept-language", language)]).await;
        is(&seen, "stale", &format!("in {language}"));
        assert_eq!(seen.last().fwd_status, Some(304));
    }
}

pub(crate) async fn head_and_parts_out_of_the_store() {
    let (cache, clock) = timed();
    let fields = [("cache-control", "max-age=10"), ("etag", "\"a\"")];
    let origin = Origin::new(&fields, "0123456789");
    let (site, runs) = origin.behind(&CacheLayer::http(cache));
    get(&site, "/").await;
    runs.take();
    let head = ask(&site, "HEAD", "/", &[]).await;
    is(&head, "hit", "");
    assert_eq!(head.field("content-length"), Some("10"));
    for (range, status, text, content) in [
        ("bytes=2-4", 206, "234", Some("bytes 2-4/10")),
        ("bytes=7-", 206, "789", Some("bytes 7-9/10")),
        ("bytes=-2", 206, "89", Some("bytes 8-9/10")),
        ("bytes=0-99", 206, "0123456789", Some("bytes 0-9/10")),
        ("bytes=10-", 416, "", Some("bytes */10")),
        ("pages=1-2", 200, "0123456789", None),
    ] {
        let seen = ask(&site, "GET", "/", &[("range", range)]).await;
        is(&seen, "hit", text);
        assert_eq!(seen.status, status, "{range}");
        assert_eq!(seen.field("content-range"), content, "{range}");
        let guarded = [("range", range), ("if-range", "\"b\"")];
        let seen = ask(&site, "GET", "/", &guarded).await;
        assert_eq!(
            (seen.status.as_u16(), seen.text()),
            (200, "0123456789"),
            "{range}"
        );
    }
    assert_eq!(runs.take(), 0);
    // Validated first, where it is stale.
    seconds(&clock, 11);
    let seen = ask(&site, "GET", "/", &[("range", "bytes=2-4")]).await;
    is(&seen, "stale", "234");
    assert_eq!(seen.last().fwd_status, Some(304));
    is(&get(&site, "/").await, "hit", "0123456789");
}

pub(crate) async fn requests_count_where_they_are_honoured() {
    let (cache, clock) = timed();
    let fields = [("cache-control", "max-age=10"), ("etag", "\"a\"")];
    let origin = Origin::new(&fields, "page");
    let layer = CacheLayer::http(cache);
    let (site, _) = origin.behind(&layer.clone().honour_requests(true));
    let (deaf, _) = origin.behind(&layer.key_prefix("deaf"));
    for (wish, fresh, stale) in [
        ("no-cache", "request", "stale"),
        ("max-age=0", "request", "stale"),
        ("max-age=3", "request", "stale"),
        ("max-age=9", "hit", "stale"),
        ("min-fresh=3", "hit", "stale"),
        ("min-fresh=9", "request", "stale"),
        ("max-stale", "hit", "hit"),
        ("max-stale=5", "hit", "hit"),
        ("max-stale=1", "hit", "stale"),
    ] {
        let wish = [("cache-control", wish)];
        let uri = format!("/{}", wish[0].1.replace('=', "-"));
        for site in [&site, &deaf] {
            get(site, &uri).await;
        }
        seconds(&clock, 5);
        is(&ask(&deaf, "GET", &uri, &wish).await, "hit", "page");
        is(&ask(&site, "GET", &uri, &wish).await, fresh, "page");
        // A new page, which then gets too old.
        let uri = format!("{uri}/stale");
        for site in [&site, &deaf] {
            get(site, &uri).await;
        }
        seconds(&clock, 13);
        is(&ask(&site, "GET", &uri, &wish).await, stale, "page");
        is(&ask(&deaf, "GET", &uri, &wish).await, "stale", "page");
    }
    let no_store = [("cache-control", "no-store")];
    ask(&site, "GET", "/kept", &no_store).await;
    assert!(!get(&site, "/kept").await.is_hit());
}

pub(crate) async fn only_if_cached_is_a_504() {
    let (cache, clock) = timed();
    let runs = Arc::new(AtomicUsize::new(0));
    let origin = Origin::new(&[("cache-control", "max-age=10")], "page");
    let (site, handled) = origin.behind(&CacheLayer::http(cache));
    let only = [("cache-control", "only-if-cached")];
    for (method, uri) in [("GET", "/"), ("HEAD", "/")] {
        let seen = ask(&site, method, uri, &only).await;
        assert_eq!(
            (seen.status.as_u16(), seen.is_hit()),
            (504, false),
            "nothing was found"
        );
    }
    assert_eq!(handled.take(), 0);
    get(&site, "/").await;
    is(&ask(&site, "GET", "/", &only).await, "hit", "page");
    seconds(&clock, 11);
    assert_eq!(ask(&site, "GET", "/", &only).await.status, 504);
    assert_eq!(handled.take(), 1);
    drop(runs);
}
