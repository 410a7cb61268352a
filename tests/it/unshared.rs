//! Pages whose answers are refused again and again: little is done for them, and nothing else changes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::handler::Handler;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum_cache::backend::Memory;
use axum_cache::clock::ManualClock;
use axum_cache::layer::CacheService;
use axum_cache::testing::{Fault, Operation, TestBackend};
use axum_cache::{Cache, CacheLayer, CacheVeto, ErrorKind, cache_page};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tower::{Layer, ServiceExt};

use crate::support::http::Channel;

/// More than are needed for an answer to be expected to be refused.
const OFTEN: usize = 12;

const SURROGATE_KEY: HeaderName = HeaderName::from_static("surrogate-key");

fn memory() -> Cache {
    Cache::new(Memory::new())
}

/// Status, fields and body.
type Seen = (u16, BTreeMap<String, Vec<String>>, String);

async fn ask(site: &CacheService<Router>, method: &str, fields: &[(&'static str, &str)]) -> Seen {
    let mut request = Request::builder()
        .method(method)
        .uri("/page?b=1")
        .header("host", "site");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::empty()).unwrap();
    let response = site.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let mut seen = BTreeMap::<_, Vec<_>>::new();
    // The clock may strike between two answers.
    for (name, value) in parts
        .headers
        .iter()
        .filter(|(name, _)| *name != header::DATE)
    {
        let value = value.to_str().unwrap().to_owned();
        seen.entry(name.to_string()).or_default().push(value);
    }
    let body = to_bytes(Body::new(body), usize::MAX).await.unwrap();
    let body = String::from_utf8(body.to_vec()).unwrap();
    (parts.status.as_u16(), seen, body)
}

async fn status(site: &CacheService<Router>) -> String {
    let (_, fields, _) = ask(site, "GET", &[]).await;
    fields["cache-status"].join(", ")
}

/// A site whose answers are what the function makes of their number.
fn numbered(
    layer: &CacheLayer,
    answer: impl Fn(usize) -> Response + Clone + Send + Sync + 'static,
) -> CacheService<Router> {
    let runs = Arc::new(AtomicUsize::new(0));
    let handler = move || std::future::ready(answer(runs.fetch_add(1, Ordering::SeqCst)));
    layer.layer(Router::new().fallback(handler))
}

#[tokio::test]
async fn the_first_answer_that_may_be_stored_ends_it() {
    let site = numbered(&CacheLayer::new(memory()), |run| {
        let directive = if run < OFTEN { "no-store" } else { "public" };
        ([("cache-control", directive)], format!("{run}")).into_response()
    });
    for _ in 0..OFTEN {
        let refused = "axum-cache; fwd=uri-miss; detail=no-store";
        assert_eq!(status(&site).await, refused);
    }
    let (_, fields, body) = ask(&site, "GET", &[]).await;
    let once = ["axum-cache; fwd=uri-miss; detail=hit-for-miss"];
    assert_eq!(fields["cache-status"], once);
    assert_eq!(body, OFTEN.to_string());
    // Like one that is stored.
    assert_eq!(fields["cache-control"], ["max-age=600, public"]);
    assert!(fields.contains_key("expires"));
    let (_, fields, body) = ask(&site, "GET", &[]).await;
    assert!(fields["cache-status"][0].contains("; stored"), "{fields:?}");
    assert_eq!(body, (OFTEN + 1).to_string());
    let (_, fields, same) = ask(&site, "GET", &[]).await;
    assert!(fields["cache-status"][0].contains("; hit"), "{fields:?}");
    assert_eq!(body, same);
}

#[tokio::test]
async fn a_pause_ends_it() {
    let clock = ManualClock::new();
    let cache = Cache::builder(Memory::new()).clock(clock.clone());
    let layer = CacheLayer::new(cache.build().unwrap()).hit_for_miss(Duration::from_secs(9));
    let site = numbered(&layer, |run| {
        let directive = if run < OFTEN { "no-store" } else { "public" };
        [("cache-control", directive)].into_response()
    });
    for _ in 0..OFTEN {
        status(&site).await;
    }
    clock.advance(Duration::from_secs(9));
    assert!(status(&site).await.contains("; stored"));
}

/// A body that is too large is worth another try to store the page, unlike one that says its size.
#[tokio::test]
async fn a_body_that_is_too_large_is_not_taken_for_one_that_may_be_stored() {
    let site = numbered(&CacheLayer::new(memory()).max_body_bytes(3), |run| {
        let directive = if run < OFTEN { "no-store" } else { "public" };
        ([("cache-control", directive)], "body").into_response()
    });
    for _ in 0..OFTEN {
        status(&site).await;
    }
    for _ in 0..2 {
        assert!(status(&site).await.ends_with("detail=body-too-large"));
    }
}

/// That a body was too large says nothing of those that nobody has looked at since.
#[tokio::test]
async fn a_page_that_was_too_large_is_tried_again_however_often_it_is_asked_for() {
    let clock = ManualClock::new();
    let cache = Cache::builder(Memory::new()).clock(clock.clone());
    let layer = CacheLayer::new(cache.build().unwrap())
        .max_body_bytes(3)
        .hit_for_miss(Duration::from_secs(9));
    let site = numbered(&layer, |run| {
        // Of no length that is known before its end.
        let (sender, parts) = mpsc::channel(1);
        let part = Bytes::from_static(if run == 0 { b"large" } else { b"a" });
        sender.try_send(Ok::<_, Infallible>(part)).unwrap();
        Body::new(Channel(parts)).into_response()
    });
    for second in 0..9 {
        let said = status(&site).await;
        assert!(said.ends_with("detail=body-too-large"), "{second}: {said}");
        clock.advance(Duration::from_secs(1));
    }
    let said = status(&site).await;
    assert!(said.contains("; stored"), "{said}");
}

/// Whatever the request and the answer are, a client gets the same after many refusals as after none.
#[tokio::test]
async fn clients_see_no_difference() {
    type Lines = &'static [(&'static str, &'static str)];
    const ANSWERS: [Lines; 7] = [
        &[("cache-control", "no-store")],
        &[("cache-control", "private=\"x-a\"")],
        &[("cache-control", "max-age=\"x\"")],
        &[("cache-control", "max-age=0"), ("cache-control", "private")],
        &[("set-cookie", "a=1"), ("set-cookie", "b=2")],
        &[("vary", "*")],
        &[
            ("cache-status", "inner; hit"),
            ("cache-control", "no-store"),
        ],
    ];
    const REQUESTS: [(&str, Lines); 7] = [
        ("GET", &[]),
        ("HEAD", &[]),
        ("GET", &[("if-none-match", "\"e\"")]),
        ("GET", &[("if-match", "\"other\"")]),
        ("GET", &[("range", "bytes=0-1")]),
        (
            "GET",
            &[("cookie", "sid=1"), ("authorization", "Basic YQ==")],
        ),
        ("GET", &[("cache-control", "only-if-cached")]),
    ];
    let layers: [fn(Cache) -> CacheLayer; 5] = [
        CacheLayer::new,
        CacheLayer::http,
        |cache| CacheLayer::new(cache).vary_on([header::ACCEPT_LANGUAGE]),
        |cache| CacheLayer::new(cache).query_allow(["a"]).cookies(["lang"]),
        |cache| CacheLayer::new(cache).narrow(),
    ];
    for layer in layers {
        for answer in ANSWERS {
            let layer = layer(memory())
                .tags(["site"])
                .tag_header(SURROGATE_KEY.clone());
            let site = layer.layer(Router::new().fallback(move |request: Request| {
                let (parts, _) = request.into_parts();
                let body = format!("{} {:?}", parts.uri, parts.headers);
                let mut response =
                    ([("etag", "\"e\""), ("surrogate-key", "a b")], body).into_response();
                for (name, value) in answer {
                    let value = HeaderValue::from_static(value);
                    response.headers_mut().append(*name, value);
                }
                std::future::ready(response)
            }));
            let mut first = Vec::new();
            for round in 0..OFTEN {
                for (number, (method, fields)) in REQUESTS.into_iter().enumerate() {
                    let seen = ask(&site, method, fields).await;
                    assert!(!seen.1.contains_key("surrogate-key"));
                    if round == 0 {
                        first.push(seen);
                    } else {
                        assert_eq!(seen, first[number], "{method} {fields:?} {answer:?}");
                    }
                }
            }
        }
    }
}

/// A layer inside stores what it may, of which the one outside has the last word.
#[tokio::test]
async fn layers_inside_have_the_last_word_all_the_same() {
    async fn session(request: Request, next: Next) -> Response {
        let is_new = request.headers().contains_key("x-new");
        let mut response = next.run(request).await;
        if is_new {
            let cookie = HeaderValue::from_static("sid=1");
            response.headers_mut().insert("set-cookie", cookie);
        }
        response
    }
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&runs);
    let page = move || {
        let run = counted.fetch_add(1, Ordering::SeqCst);
        let directive = if run < OFTEN {
            "no-store"
        } else {
            "max-age=60"
        };
        std::future::ready([("cache-control", directive)])
    };
    let page = page.layer(cache_page(Duration::from_secs(60), memory(), ""));
    let router = Router::new().fallback_service(page.with_state(()));
    let site = CacheLayer::new(memory()).layer(router.layer(from_fn(session)));
    let ask = async |field| {
        // With a cookie nobody declared, the layer outside stores nothing.
        ask(&site, "GET", &[("cookie", "a=1"), field]).await;
        tokio::task::yield_now().await;
        runs.load(Ordering::SeqCst)
    };
    for run in 0..OFTEN * 2 {
        assert_eq!(ask(("x-new", "1")).await, run + 1, "spoiled on its way");
    }
    assert_eq!(ask(("x-old", "1")).await, OFTEN * 2 + 1);
    assert_eq!(ask(("x-old", "1")).await, OFTEN * 2 + 1, "a hit inside");
}

#[tokio::test]
async fn a_veto_counts_all_the_same() {
    let page = |veto: CacheVeto, headers: HeaderMap| async move {
        if headers.contains_key("x-personal") {
            veto.forbid();
        }
    };
    let site = CacheLayer::new(memory()).layer(Router::new().fallback(page));
    for _ in 0..OFTEN {
        let (_, fields, _) = ask(&site, "GET", &[("x-personal", "1")]).await;
        let refused = ["axum-cache; fwd=uri-miss; detail=veto"];
        assert_eq!(fields["cache-status"], refused);
    }
    assert!(status(&site).await.ends_with("hit-for-miss"));
}

/// A handler that refuses requests for what the key does not hold: whatever the share of such requests is, the page is
/// stored once others ask for it.
#[tokio::test]
async fn refusals_keep_no_page_out() {
    let page = |headers: HeaderMap| async move {
        match headers.get("x-refused").map(HeaderValue::as_bytes) {
            None => [("cache-control", "max-age=600")].into_response(),
            Some(b"status") => StatusCode::NOT_ACCEPTABLE.into_response(),
            Some(_) => [("set-cookie", "sid=1")].into_response(),
        }
    };
    for reason in ["status", "cookie"] {
        for refused in [1, 3, 7, 8, 9, 30] {
            // A store that others may change, too, has a place to be taken.
            let store = Memory::new();
            let (shared, _other) = (Cache::new(store.clone()), Cache::new(store));
            for cache in [memory(), shared] {
                let site = CacheLayer::new(cache).layer(Router::new().fallback(page));
                let mut hits = 0;
                for _ in 0..20 {
                    for _ in 0..refused {
                        ask(&site, "GET", &[("x-refused", reason)]).await;
                    }
                    // What is stored is stored by now.
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    hits += usize::from(status(&site).await.contains("; hit"));
                }
                assert!(hits >= 17, "{hits} hits, {refused} times {reason}");
            }
        }
    }
}

/// With the one answer in many that comes, all the others can be served.
#[tokio::test]
async fn an_origin_that_is_nearly_down_is_left_in_peace() {
    let layer = CacheLayer::new(memory()).stale_if_error(Duration::from_secs(3600));
    let site = numbered(&layer, |run| match run % (OFTEN + 1) {
        OFTEN => "page".into_response(),
        _ => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    });
    for request in 0..OFTEN * 4 {
        let (status, ..) = ask(&site, "GET", &[]).await;
        assert_eq!(status == 200, request >= OFTEN, "{request}");
    }
}

/// Nor does a store that cannot be written to keep requests from waiting for each other.
#[tokio::test(start_paused = true)]
async fn a_page_that_might_be_shared_is_waited_for_without_a_store() {
    let store = TestBackend::new(Memory::new()).with_shared(true);
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&runs);
    let page = move || {
        let run = counted.fetch_add(1, Ordering::SeqCst);
        async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            match run {
                0 => [("set-cookie", "sid=1")].into_response(),
                _ => "page".into_response(),
            }
        }
    };
    let site = CacheLayer::new(Cache::new(store.clone())).layer(Router::new().fallback(page));
    for operation in [Operation::Add, Operation::CompareAndSet] {
        store.inject(Fault::error(ErrorKind::TooLarge).on(operation));
    }
    for reason in ["set-cookie", "hit-for-miss", "unavailable"] {
        let status = status(&site).await;
        assert!(status.ends_with(reason), "{status}");
    }
    let crowd = (0..20).map(|_| {
        let site = site.clone();
        async move { status(&site).await }
    });
    crowd.collect::<JoinSet<_>>().join_all().await;
    assert_eq!(runs.load(Ordering::SeqCst), 4);
}

/// What passes the gate and is refused later, as by a layer outside: only the first are waited for.
#[tokio::test(start_paused = true)]
async fn what_is_refused_late_is_waited_for_once() {
    const WORK: Duration = Duration::from_secs(1);
    async fn session(request: Request, next: Next) -> Response {
        let mut response = next.run(request).await;
        let cookie = HeaderValue::from_static("sid=1");
        response.headers_mut().insert("set-cookie", cookie);
        response
    }
    let page = || async {
        tokio::time::sleep(WORK).await;
        "page"
    };
    let page = page.layer(cache_page(Duration::from_secs(60), memory(), ""));
    let router = Router::new().fallback_service(page.with_state(()));
    let site = CacheLayer::new(memory()).layer(router.layer(from_fn(session)));
    let mut waves = Vec::new();
    for _ in 0..OFTEN * 2 {
        let start = Instant::now();
        let wave = (0..3).map(|_| {
            let site = site.clone();
            async move { ask(&site, "GET", &[("cookie", "a=1")]).await }
        });
        wave.collect::<JoinSet<_>>().join_all().await;
        waves.push(start.elapsed());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let waited = waves.iter().filter(|wave| **wave >= WORK * 2).count();
    assert!(waited <= 1, "{waves:?}");
}

/// A service that is called while its thread ends has none of what threads keep.
#[test]
fn a_thread_that_ends_is_answered() {
    struct Last(Option<CacheService<Router>>);
    impl Drop for Last {
        fn drop(&mut self) {
            let Some(site) = self.0.take() else { return };
            for method in ["GET", "POST"] {
                let request = Request::builder().method(method).uri("/page?b=1");
                let request = request.header("host", "site").body(Body::empty()).unwrap();
                let call = pin!(site.clone().oneshot(request));
                let answered = call.poll(&mut Context::from_waker(Waker::noop()));
                assert!(answered.is_ready());
            }
        }
    }
    thread_local! {
        static LAST: RefCell<Last> = const { RefCell::new(Last(None)) };
    }
    let site = numbered(&CacheLayer::new(memory()), |run| {
        [("etag", format!("\"{run}\""))].into_response()
    });
    let thread = std::thread::spawn(move || {
        // Made first, it goes last.
        LAST.with_borrow_mut(|last| last.0 = Some(site.clone()));
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(status(&site));
    });
    thread.join().unwrap();
}
