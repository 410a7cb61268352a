//! E7, E9, E15: what odd requests and odd answers do to the ones that come after them.

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get as on_get;
use axum_cache::{CacheLayer, cache_page};

use crate::site::{MINUTE, ask, behind, get, memory, settled, timed};
use crate::status::parse;

const BODY: &str = "the whole body";
const DATE: &str = "Tue, 15 Nov 1994 12:45:26 GMT";

fn kinds() -> [(&'static str, CacheLayer); 5] {
    [
        ("site", CacheLayer::new(memory()).ttl(MINUTE)),
        ("cookies", CacheLayer::new(memory()).cookies(["sid"])),
        ("narrow", CacheLayer::new(memory()).narrow()),
        ("page", cache_page(MINUTE, memory(), "")),
        ("http", CacheLayer::http(memory())),
    ]
}

/// A handler that answers conditions, ranges and HEAD by itself, as files are served.
async fn file(request: Request) -> Response {
    let has = |name: &str| request.headers().contains_key(name);
    let fields = [
        ("etag", "\"one\""),
        ("last-modified", DATE),
        ("cache-control", "max-age=60"),
    ];
    let mut response = (fields, BODY).into_response();
    if has("if-none-match") || has("if-modified-since") {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        *response.body_mut() = axum::body::Body::empty();
    } else if has("range") {
        response = (StatusCode::PARTIAL_CONTENT, fields, "the").into_response();
        let range = HeaderValue::from_static("bytes 0-2/14");
        response.headers_mut().insert("content-range", range);
    } else if has("expect-fail") || has("if-match") {
        *response.status_mut() = StatusCode::PRECONDITION_FAILED;
    } else if has("x-http-method-override") {
        response = StatusCode::NO_CONTENT.into_response();
    }
    response
}

/// Whatever came before, the next visitor gets the whole page, and so does the one after.
pub(crate) async fn e7_no_odd_request_spoils_the_next() {
    type Odd = &'static [(&'static str, &'static str, &'static str)];
    const ODD: Odd = &[
        ("HEAD", "", ""),
        ("HEAD", "if-none-match", "\"one\""),
        ("HEAD", "range", "bytes=0-2"),
        ("GET", "range", "bytes=0-2"),
        ("GET", "range", "bytes=-1"),
        ("GET", "range", "bytes=99-"),
        ("GET", "range", "bytes=0-0,2-3"),
        ("GET", "range", "lines=1-2"),
        ("GET", "range", "bytes=9999999999999999999999-"),
        ("GET", "if-range", "\"one\""),
        ("GET", "if-modified-since", "Tue, 15 Nov 2033 12:45:26 GMT"),
        ("GET", "if-modified-since", "nonsense"),
        ("GET", "if-none-match", "*"),
        ("GET", "if-none-match", "\"one\""),
        ("GET", "if-none-match", "\"other\""),
        ("GET", "if-match", "\"none\""),
        (
            "GET",
            "if-unmodified-since",
            "Tue, 15 Nov 1983 12:45:26 GMT",
        ),
        ("GET", "x-http-method-override", "DELETE"),
        ("GET", "cache-control", "no-store, no-cache, max-age=0"),
        ("GET", "upgrade", "h2c"),
        ("GET", "te", "trailers"),
        ("OPTIONS", "", ""),
        ("POST", "content-length", "0"),
    ];
    let mut checked = 0;
    for (method, name, value) in ODD {
        for (kind, layer) in kinds() {
            for repeated in [1, 3] {
                let (site, _) = behind(
                    &layer.clone().key_prefix(repeated.to_string()),
                    Router::new().fallback(file),
                );
                let fields: &[(&str, &str)] = if name.is_empty() {
                    &[]
                } else {
                    &[(name, value)]
                };
                for _ in 0..repeated {
                    ask(&site, method, "/", fields).await;
                }
                settled().await;
                for visit in 0..2 {
                    let seen = get(&site, "/").await;
                    let what = format!("{kind}: {method} {name}: {value}, visit {visit}");
                    assert_eq!((seen.status.as_u16(), seen.text()), (200, BODY), "{what}");
                    assert_eq!(seen.field("content-range"), None, "{what}");
                    assert!(visit == 0 || seen.is_hit(), "{what}: {:?}", seen.members);
                    checked += 1;
                }
            }
        }
    }
    println!(
        "E7: {checked} visits after {} odd requests got the whole page",
        ODD.len()
    );
}

pub(crate) async fn e7_only_whole_answers_are_stored() {
    /// The status, a field, whether it is for HTTP mode to keep, and for the others.
    type Answer = (u16, &'static str, &'static str, bool, bool);
    const ANSWERS: &[Answer] = &[
        (200, "", "", true, true),
        (200, "cache-control", "private", false, false),
        (200, "cache-control", "PRIVATE", false, false),
        (200, "cache-control", "private=\"x\"", false, false),
        (200, "cache-control", "private=x", false, false),
        (
            200,
            "cache-control",
            "public, Private=\"set-cookie\"",
            false,
            false,
        ),
        (200, "cache-control", "no-store", false, false),
        (200, "cache-control", "No-Store", false, false),
        (200, "cache-control", "NO-STORE , max-age=60", false, false),
        (200, "cache-control", "x, no-store=1", false, false),
        (200, "cache-control", "max-age=\"0\"", false, false),
        (200, "vary", "*", false, false),
        (200, "vary", "accept, *", false, false),
        (200, "content-type", "Text/Event-Stream;x=y", false, false),
        (200, "content-range", "bytes 0-2/14", false, false),
        (201, "", "", true, false),
        (204, "", "", true, false),
        (205, "", "", true, false),
        (206, "content-range", "bytes 0-2/14", false, false),
        (206, "", "", false, false),
        (301, "location", "/else", true, false),
        (302, "location", "/else", true, false),
        (304, "", "", false, false),
        (401, "", "", true, false),
        (404, "", "", true, false),
        (412, "", "", false, false),
        (416, "", "", false, false),
        (500, "", "", true, false),
        (503, "", "", true, false),
        (599, "", "", true, false),
    ];
    for (status, name, value, by_http, else_kept) in ANSWERS {
        for (kind, layer) in kinds() {
            let handler = move || async move {
                let mut response = StatusCode::from_u16(*status).unwrap().into_response();
                let fields = response.headers_mut();
                fields.insert("cache-control", HeaderValue::from_static("max-age=60"));
                if !name.is_empty() {
                    let value = HeaderValue::from_static(value);
                    fields.insert(HeaderName::from_static(name), value);
                }
                response
            };
            let (site, runs) = behind(&layer, Router::new().fallback(handler));
            for _ in 0..2 {
                let seen = get(&site, "/").await;
                assert_eq!(seen.status, *status);
                settled().await;
            }
            let mut kept = if kind == "http" { *by_http } else { *else_kept };
            // In a narrow layer no field can matter, and so no other `Vary` than `*` does.
            kept |= kind == "narrow" && *name == "vary" && !value.contains('*');
            assert_eq!(runs.take() == 1, kept, "{kind}: {status} {name}: {value}");
        }
    }
    println!(
        "E7: {} kinds of answers, {} kinds of layers",
        ANSWERS.len(),
        kinds().len()
    );
}

/// A hundred ways to set a cookie.
fn cookies() -> Vec<(Vec<HeaderValue>, &'static str)> {
    let values = [
        "sid=1",
        "sid=",
        "=1",
        "sid",
        "",
        "a=b=c",
        "__Host-sid=\"x y\"",
        "sid=\u{e9}",
        ";",
        "a, b=1",
    ];
    let attributes = [
        "",
        "; Path=/; HttpOnly",
        "; Max-Age=0",
        "; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
        "; SameSite=None; Secure; Partitioned",
    ];
    let directives = [
        "max-age=60",
        "public, s-maxage=60, immutable",
        "max-age=60, no-cache=\"set-cookie\"",
    ];
    let mut shapes = Vec::new();
    for value in values {
        for (index, attribute) in attributes.into_iter().enumerate() {
            let line = HeaderValue::from_bytes(format!("{value}{attribute}").as_bytes()).unwrap();
            let directive = directives[index % 2];
            shapes.push((vec![line.clone()], directive));
            shapes.push((
                vec![line, HeaderValue::from_static("other=2")],
                directives[(index + 1) % 3],
            ));
        }
    }
    shapes.push((
        vec![HeaderValue::from_bytes(b"sid=\xff\xfe").unwrap()],
        directives[0],
    ));
    shapes
}

pub(crate) async fn e9_cookies_are_never_stored_nor_replayed() {
    let shapes = cookies();
    for (lines, directive) in &shapes {
        for (kind, layer) in kinds() {
            let (own, directive) = (lines.clone(), *directive);
            let handler = move || async move {
                let mut response =
                    [("cache-control", directive), ("etag", "\"1\"")].into_response();
                for line in own {
                    response.headers_mut().append("set-cookie", line);
                }
                response
            };
            let (site, runs) = behind(&layer, Router::new().fallback(handler));
            for fields in [
                &[][..],
                &[],
                &[("cookie", "sid=1")],
                &[("if-none-match", "\"1\"")],
            ] {
                let seen = ask(&site, "GET", "/", fields).await;
                let got: Vec<_> = seen.headers.get_all("set-cookie").iter().cloned().collect();
                assert_eq!(&got, lines, "{kind}: its own client gets it");
                assert!(!seen.last().stored, "{kind}: {lines:?}");
            }
            assert_eq!(runs.take(), 4, "{kind}: {lines:?}");
        }
    }
    println!(
        "E9: {} shapes of Set-Cookie, {} kinds of layers: stored 0, replayed 0",
        shapes.len(),
        kinds().len()
    );
}

/// One that comes with a 304 is for the client that asked.
pub(crate) async fn e9_a_cookie_outlives_a_304() {
    let (cache, clock) = timed();
    let handler = |request: Request| async move {
        let fields = [("cache-control", "max-age=10"), ("etag", "\"1\"")];
        if request.headers().contains_key("if-none-match") {
            let cookie = [("set-cookie", "sid=1")];
            return (StatusCode::NOT_MODIFIED, fields, cookie).into_response();
        }
        (fields, BODY).into_response()
    };
    let (site, runs) = behind(&CacheLayer::http(cache), Router::new().fallback(handler));
    get(&site, "/").await;
    clock.advance(MINUTE);
    let validated = get(&site, "/").await;
    assert_eq!((validated.status.as_u16(), validated.text()), (200, BODY));
    assert_eq!(validated.last().fwd_status, Some(304));
    assert_eq!(validated.field("set-cookie"), Some("sid=1"));
    let next = get(&site, "/").await;
    assert_eq!(next.field("set-cookie").is_some(), !next.is_hit());
    assert!(runs.take() >= 2);
}

pub(crate) async fn e15_clients_cannot_force_work() {
    const WISHES: &[(&str, &str)] = &[
        ("cache-control", "no-cache"),
        ("cache-control", "max-age=0"),
        ("cache-control", "no-store"),
        ("cache-control", "min-fresh=9999999"),
        (
            "cache-control",
            "no-cache, no-store, must-revalidate, max-age=0",
        ),
        ("cache-control", "max-stale=0, only-if-cached"),
        ("pragma", "no-cache"),
        ("if-none-match", "\"other\""),
        ("if-modified-since", "Tue, 15 Nov 1983 12:45:26 GMT"),
        ("range", "bytes=0-1"),
        ("range", "bytes=9-1"),
        ("accept", "text/nothing"),
        ("user-agent", "another"),
        ("x-forwarded-for", "10.0.0.7"),
        ("expect", "nothing"),
    ];
    for (kind, layer) in kinds() {
        let router = Router::new().route("/", on_get(file));
        let (site, runs) = behind(&layer, router);
        get(&site, "/").await;
        settled().await;
        runs.take();
        for wish in WISHES {
            for method in ["GET", "HEAD"] {
                let seen = ask(&site, method, "/", &[*wish]).await;
                assert!(seen.is_hit(), "{kind}: {method} {wish:?}");
            }
        }
        assert_eq!(runs.take(), 0, "{kind}");
        // Methods that some caches take for orders.
        for method in ["PURGE", "BAN", "REFRESH", "INVALIDATE"] {
            let seen = ask(&site, method, "/", &[]).await;
            assert_eq!(seen.status, 405, "{kind}: {method}");
            if kind != "http" {
                assert!(get(&site, "/").await.is_hit(), "{kind}: {method}");
            }
        }
    }
    println!("E15: {} wishes, 0 runs of the handler", WISHES.len());
}

pub(crate) async fn e16_the_parser_is_strict() {
    for good in [
        "axum-cache; hit; ttl=60",
        "axum-cache; hit; ttl=-60",
        "a;fwd=stale;fwd-status=304;stored, \"b c\"; fwd=uri-miss; collapsed; detail=\"x\\\"y\"",
        "a; hit=?1",
    ] {
        parse(good).unwrap();
    }
    for bad in [
        "",
        "axum-cache",
        "a; hit; fwd=miss",
        "a; hit; stored",
        "a; fwd=nothing",
        "a; fwd=\"miss\"",
        "a; fwd=miss; fwd-status=20",
        "a; fwd=miss; ttl=1.5",
        "a; fwd=miss; ttl=1234567890123456",
        "a; hit; hit",
        "a; Hit",
        "a; hit,",
        "a; hit b; hit",
        "a; fwd=miss; detail=\"x",
        "a; fwd=miss; detail=(x)",
        "1; hit",
    ] {
        assert!(parse(bad).is_err(), "{bad}");
    }
    settled().await;
}
