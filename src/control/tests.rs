//! Section 7 of Django's behaviour, item by item, its bugs mended.
#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use std::convert::Infallible;

use http::{HeaderValue, Request, Response};
use tower::{Layer, ServiceExt, service_fn};

use super::*;

fn patched(before: &str, directives: &CacheControl) -> String {
    let mut headers = HeaderMap::new();
    if !before.is_empty() {
        headers.insert(CACHE_CONTROL, HeaderValue::from_str(before).unwrap());
    }
    patch_cache_control(&mut headers, directives);
    let value = headers.get(CACHE_CONTROL);
    value.map_or_else(String::new, |value| value.to_str().unwrap().to_owned())
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn u_01_directives_are_merged() {
    let more = CacheControl::new()
        .with_no_transform()
        .with_max_age(seconds(5));
    assert_eq!(patched("", &more), "max-age=5, no-transform");
    assert_eq!(
        patched("must-revalidate, x=1", &more),
        "max-age=5, no-transform, must-revalidate, x=1"
    );
}

#[test]
fn u_02_the_shorter_lifetime_wins() {
    let ten = CacheControl::new()
        .with_max_age(seconds(10))
        .with_s_maxage(seconds(10));
    assert_eq!(
        patched("max-age=5, s-maxage=20", &ten),
        "max-age=5, s-maxage=10"
    );
}

#[test]
fn u_03_public_removes_private_and_the_other_way_round() {
    assert_eq!(
        patched("private", &CacheControl::new().with_public()),
        "public"
    );
    assert_eq!(
        patched("public", &CacheControl::new().with_private()),
        "private"
    );
    let both = CacheControl::new().with_public().with_private();
    assert_eq!(patched("", &both), "private");
    // What is not asked for is not touched.
    assert_eq!(
        patched("private", &CacheControl::new().with_max_age(seconds(5))),
        "max-age=5, private"
    );
}

#[test]
fn u_04_a_bare_no_cache_wins_over_a_qualified_one() {
    assert_eq!(
        patched("no-cache=\"x\"", &CacheControl::new().with_no_cache()),
        "no-cache"
    );
    assert_eq!(
        patched("no-cache=\"x\"", &CacheControl::new()),
        "no-cache=\"x\""
    );
}

#[test]
fn u_05_nothing_false_or_empty_is_written() {
    assert_eq!(patched("", &CacheControl::new()), "");
}

#[test]
fn u_06_quoted_commas_survive() {
    assert_eq!(
        patched("private=\"X-A, X-B\"", &CacheControl::new()),
        "private=\"x-a, x-b\""
    );
}

#[test]
fn a_malformed_field_is_never_loosened() {
    let patched = patched("max-age=x, private = 1", &CacheControl::new().with_public());
    assert_eq!(patched, "no-store, public");
}

#[test]
fn u_08_get_max_age() {
    let max_age = |value: &str| {
        let value = HeaderValue::from_str(value).unwrap();
        get_max_age(&[(CACHE_CONTROL, value)].into_iter().collect())
    };
    assert_eq!(max_age("Max-Age=7"), Some(seconds(7)));
    assert_eq!(max_age("max-age=7, max-age=3"), Some(seconds(3)));
    for none in ["", "public", "max-age", "max-age=-1", "max-age=1.5"] {
        assert_eq!(max_age(none), None, "{none}");
    }
}

#[test]
fn u_20_expires_if_absent_and_the_shorter_max_age() {
    let now = SystemTime::UNIX_EPOCH + seconds(784_111_777);
    let mut headers = HeaderMap::new();
    patch_response_headers(&mut headers, Duration::from_millis(60_900), now);
    assert_eq!(headers[EXPIRES], "Sun, 06 Nov 1994 08:50:37 GMT");
    assert_eq!(headers[CACHE_CONTROL], "max-age=60");
    patch_response_headers(&mut headers, seconds(30), now);
    assert_eq!(headers[EXPIRES], "Sun, 06 Nov 1994 08:50:37 GMT");
    assert_eq!(headers[CACHE_CONTROL], "max-age=30");
    patch_response_headers(&mut HeaderMap::new(), Duration::MAX, now);
}

#[test]
fn u_21_never_cache_leaves_nothing_to_caches() {
    let mut headers = HeaderMap::new();
    let before = "public, s-maxage=60, max-age=60, stale-while-revalidate=9, immutable";
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(before));
    add_never_cache_headers(&mut headers, SystemTime::now());
    assert_eq!(
        headers[CACHE_CONTROL],
        "max-age=0, no-cache, no-store, must-revalidate, private"
    );
    assert!(headers.contains_key(EXPIRES));
}

async fn through(layer: ControlLayer, value: Option<&'static str>) -> HeaderMap {
    let inner = service_fn(move |_: Request<()>| async move {
        let mut response = Response::new(());
        if let Some(value) = value {
            let value = HeaderValue::from_static(value);
            response.headers_mut().insert(CACHE_CONTROL, value);
        }
        Ok::<_, Infallible>(response)
    });
    let response = layer.layer(inner).oneshot(Request::new(())).await.unwrap();
    response.headers().clone()
}

#[tokio::test]
async fn d_01_d_02_d_03_layers_do_what_the_functions_do() {
    let minute = CacheControl::new().with_max_age(seconds(60));
    let headers = through(cache_control(minute), Some("private")).await;
    assert_eq!(headers[CACHE_CONTROL], "max-age=60, private");
    let headers = through(never_cache(), Some("public")).await;
    assert!(
        headers[CACHE_CONTROL]
            .to_str()
            .unwrap()
            .contains("no-store")
    );
    let headers = through(vary_on_headers(["Accept", "Cookie"]), None).await;
    assert_eq!(headers["vary"], "Accept, Cookie");
    assert_eq!(through(vary_on_cookie(), None).await["vary"], "Cookie");
}

#[tokio::test]
async fn d_05_an_error_passes_through() {
    let inner = service_fn(|_: Request<()>| async { Err::<Response<()>, _>("failed") });
    let answer = never_cache().layer(inner).oneshot(Request::new(())).await;
    assert_eq!(answer.unwrap_err(), "failed");
}
