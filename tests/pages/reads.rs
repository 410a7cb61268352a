//! What one answer costs a store on another machine.

use axum::Router;
use axum::extract::Request;
use axum_cache::{Cache, CacheLayer, cache_page};

use crate::site::{MINUTE, ask, behind, settled};
use crate::tools::backends::Remote;

async fn page(request: Request) -> ([(&'static str, &'static str); 3], &'static str) {
    let vary = if request.uri().path() == "/vary" {
        "accept-language"
    } else {
        "x-nothing"
    };
    let fields = [
        ("vary", vary),
        ("etag", "\"1\""),
        ("cache-control", "max-age=60"),
    ];
    (fields, "0123456789")
}

pub(crate) async fn one_read_and_with_variants_two() {
    type Fields = &'static [(&'static str, &'static str)];
    const ANSWERS: &[(&str, &str, Fields, u16)] = &[
        ("plain", "GET", &[], 200),
        ("HEAD", "HEAD", &[], 200),
        ("304", "GET", &[("if-none-match", "\"1\"")], 304),
        ("304 to HEAD", "HEAD", &[("if-none-match", "\"1\"")], 304),
        ("Range", "GET", &[("range", "bytes=2-4")], 206),
        ("416", "GET", &[("range", "bytes=99-")], 416),
    ];
    let remote = Remote::default();
    let cache = || Cache::new(remote.clone());
    let layers = [
        ("site", CacheLayer::new(cache()).key_prefix("a")),
        (
            "cookies",
            CacheLayer::new(cache()).key_prefix("b").cookies(["sid"]),
        ),
        ("narrow", CacheLayer::new(cache()).key_prefix("c").narrow()),
        ("page", cache_page(MINUTE, cache(), "d")),
        ("http", CacheLayer::http(cache()).key_prefix("e")),
    ];
    for (name, layer) in layers {
        let (site, _) = behind(&layer, Router::new().fallback(page));
        let selected = ["cookies"].contains(&name);
        for (path, variants) in [("/", false), ("/vary", true)] {
            for language in ["en", "de"] {
                ask(&site, "GET", path, &[("accept-language", language)]).await;
                settled().await;
            }
            for (what, method, fields, status) in ANSWERS {
                for language in ["en", "de"] {
                    remote.take_counts();
                    let fields = [&[("accept-language", language)], *fields].concat();
                    let seen = ask(&site, method, path, &fields).await;
                    let calls = remote.take_counts();
                    assert!(seen.is_hit(), "{name} {what}: {:?}", seen.members);
                    assert_eq!(seen.status.as_u16(), *status, "{name} {what}");
                    let most = if variants && name != "narrow" { 2 } else { 1 };
                    let reads: usize = calls.iter().map(|(_, count)| count).sum();
                    assert!(calls.iter().all(|(call, _)| *call == "get"), "{calls:?}");
                    assert!(reads <= most, "{name} {what} {language}: {calls:?}");
                    assert!(selected || variants || reads == 1);
                }
            }
        }
    }
    println!(
        "reads: at most 1 without variants, 2 with, for {} kinds of answers",
        ANSWERS.len()
    );
}
