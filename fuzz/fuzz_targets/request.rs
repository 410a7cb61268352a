//! The fields of requests: wishes, conditions, ranges, and what a layer makes of them.
//!
//! Input: two bytes of length, two of time, then fields in lines, an empty line, the fields of a
//! response, an empty line, a query.
#![no_main]

use std::time::{Duration, SystemTime};

use axum_cache::layer::{
    Device, DeviceClass, EncodingClass, Head, Locale, PeerAddr, TrustedProxies, Variant,
};
use axum_cache::semantics::conditional::{
    EntityTag, Precondition, Validators, evaluate, if_range, is_not_modified,
};
use axum_cache::semantics::range::{Selection, parse_content_range, select};
use axum_cache::semantics::request::RequestControl;
use axum_cache::semantics::vary::selecting_value;
use axum_cache::{Cache, CacheLayer, backend::Dummy};
use axum_cache_fuzz::{fields, says, until};
use http::header::{
    CACHE_CONTROL, COOKIE, ETAG, HeaderMap, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    IF_UNMODIFIED_SINCE, RANGE,
};
use http::{Extensions, Method, StatusCode, Uri};
use libfuzzer_sys::fuzz_target;
use percent_encoding::percent_decode;

fuzz_target!(|data: &[u8]| {
    let Some((&[a, b, c, d], lines)) = data.split_first_chunk() else {
        return;
    };
    let length = match u64::from(u16::from_be_bytes([a, b])) {
        0xffff => u64::MAX,
        length => length,
    };
    let seconds = 784_000_000 + u64::from(u16::from_be_bytes([c, d])) * 30_000;
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let (request, rest) = until(lines, b"\n\n");
    let (response, query) = until(rest, b"\n\n");
    let (request, response) = (fields(request), fields(response));
    wishes(&request);
    conditions(&request, &response, now);
    ranges(&request, &response, length);
    variants(&request);
    query_rules(query);
    networks(query);
});

fn wishes(request: &HeaderMap) {
    let wishes = RequestControl::parse(request);
    if request.contains_key(CACHE_CONTROL) {
        // What is behind an error does not count.
        assert!(!wishes.no_store || says(request, "no-store"));
        assert!(!wishes.no_cache || says(request, "no-cache"));
        assert!(!wishes.only_if_cached || says(request, "only-if-cached"));
        assert!(wishes.max_age.is_none() || says(request, "max-age"));
    } else {
        let mut pragma = RequestControl::default();
        pragma.no_cache = wishes.no_cache;
        assert_eq!(wishes, pragma);
    }
    for name in request.keys() {
        assert!(selecting_value(request, name).is_some());
    }
}

fn conditions(request: &HeaderMap, response: &HeaderMap, now: SystemTime) {
    for value in response.get_all(ETAG) {
        if let Some(tag) = EntityTag::parse(value.as_bytes()) {
            assert_eq!(tag.to_header_value(), value);
            assert_eq!(
                EntityTag::parse(tag.to_header_value().as_bytes()).as_ref(),
                Some(&tag)
            );
            assert!(tag.weak_eq(&tag) && tag.strong_eq(&tag) != tag.is_weak());
            assert_eq!(
                tag.opaque().len(),
                value.len() - if tag.is_weak() { 4 } else { 2 }
            );
        }
        if let Ok(text) = value.to_str()
            && let Some(tag) = EntityTag::quoted(text)
        {
            let shown = tag.to_header_value();
            assert_eq!(EntityTag::parse(shown.as_bytes()), Some(tag));
        }
    }
    let validators = Validators::of(response);
    let conditional = [
        IF_MATCH,
        IF_NONE_MATCH,
        IF_MODIFIED_SINCE,
        IF_UNMODIFIED_SINCE,
    ];
    let conditional = conditional.iter().any(|name| request.contains_key(name));
    for method in [Method::GET, Method::HEAD, Method::PUT] {
        let read = method != Method::PUT;
        for status in [StatusCode::OK, StatusCode::NOT_FOUND] {
            let outcome = evaluate(&method, request, status, &validators);
            let passes = outcome == Precondition::Pass;
            assert!(passes || (conditional && status == StatusCode::OK));
            assert!(read || outcome != Precondition::NotModified);
            let guarded =
                request.contains_key(IF_MATCH) || request.contains_key(IF_UNMODIFIED_SINCE);
            assert!(!read || guarded || outcome != Precondition::Failed);
        }
        let not_modified = is_not_modified(&method, request, response, now);
        assert!(!not_modified || (read && conditional));
        // Nothing but the tag of the stored response is one that a client may have.
        if request.contains_key(IF_NONE_MATCH) && !request.contains_key(IF_MODIFIED_SINCE) {
            assert!(!not_modified || validators.etag.is_some());
        }
    }
}

fn ranges(request: &HeaderMap, response: &HeaderMap, length: u64) {
    let applies = if_range(request, response);
    assert!(applies || request.contains_key(IF_RANGE));
    match select(request, length) {
        selection @ Selection::Part { first, last } => {
            assert!(first <= last && last < length);
            let value = selection.content_range(length).unwrap();
            assert_eq!(
                parse_content_range(&value),
                Some((first, last, Some(length)))
            );
        }
        selection @ Selection::Unsatisfiable => {
            assert!(request.contains_key(RANGE));
            assert!(selection.content_range(length).is_some());
        }
        _ => {}
    }
}

/// A handler that negotiates by itself comes to the same value, again and again.
fn settles(variant: &dyn Variant, request: &HeaderMap) -> String {
    let (uri, extensions) = (Uri::from_static("/"), Extensions::new());
    let value = variant.value(&Head::new(&uri, request, &extensions));
    let mut shown = request.clone();
    for name in variant.fields().iter().filter(|name| **name != COOKIE) {
        shown.remove(name);
    }
    variant.normalize(&value, &mut shown);
    let again = variant.value(&Head::new(&uri, &shown, &extensions));
    assert_eq!(value, again);
    let once = shown.clone();
    variant.normalize(&value, &mut shown);
    assert_eq!(once, shown);
    value
}

fn variants(request: &HeaderMap) {
    let codings = ["br", "gzip", "identity", "zstd"];
    assert!(codings.contains(&&*settles(
        &EncodingClass::new(["br", "gzip", "zstd"]),
        request
    )));
    settles(&EncodingClass::new(["identity", "gzip"]), request);
    let tags = ["en", "de-CH", "de", "zh-Hant-TW", "sr-Latn-x-a"];
    assert!(tags.contains(&&*settles(&Locale::new(tags), request)));
    settles(&Locale::new(tags).cookie("lang"), request);
    let device = settles(&DeviceClass, request);
    assert_eq!(Device::of(request).as_str(), device);
}

type Rule = fn(CacheLayer) -> CacheLayer;

/// The rules of layers, and slow ones that do the same to pairs of decoded names and texts.
fn query_rules(query: &[u8]) {
    let (one, other) = until(query, b"\n");
    let [Ok(one), Ok(other)] = [one, other].map(std::str::from_utf8) else {
        return;
    };
    let [one, other] = [one, other].map(|query| {
        let uri: Option<Uri> = format!("http://a.test/x?{query}").parse().ok();
        uri.filter(|uri| uri.query() == Some(query))
    });
    let rules: [(Rule, fn(&mut Vec<(Vec<u8>, String)>)); 4] = [
        (
            |layer| layer.query_allow(["a", "b c", "é"]),
            |pairs| {
                let allowed = ["a", "b c", "é"];
                pairs.retain(|(name, _)| allowed.iter().any(|allowed| name == allowed.as_bytes()));
            },
        ),
        (
            |layer| layer.query_ignore(["a", "b*"]),
            |pairs| {
                pairs.retain(|(name, _)| name != b"a" && !name.starts_with(b"b"));
            },
        ),
        (CacheLayer::sort_query, |pairs| {
            pairs.sort_by(|one, other| one.0.cmp(&other.0));
        }),
        (
            |layer| layer.sort_query().query_ignore(["a"]),
            |pairs| {
                pairs.retain(|(name, _)| name != b"a");
                pairs.sort_by(|one, other| one.0.cmp(&other.0));
            },
        ),
    ];
    for (rule, slow) in rules {
        let layer = rule(CacheLayer::new(Cache::new(Dummy)));
        let reduced = |uri: &Uri| {
            let mut pairs: Vec<_> = uri.query().unwrap().split('&').map(decoded).collect();
            slow(&mut pairs);
            let texts: Vec<_> = pairs.into_iter().map(|(_, text)| text).collect();
            texts.join("&")
        };
        let key = |uri: &Uri| layer.page_key(uri).unwrap();
        if let (Some(one), Some(other)) = (&one, &other) {
            assert_eq!(key(one) == key(other), reduced(one) == reduced(other));
        }
        if let Some(one) = &one {
            let left = reduced(one);
            let left = if left.is_empty() {
                "http://a.test/x".to_owned()
            } else {
                format!("http://a.test/x?{left}")
            };
            assert_eq!(key(one), key(&left.parse().unwrap()));
        }
    }
}

fn decoded(pair: &str) -> (Vec<u8>, String) {
    let name = pair.split('=').next().unwrap().replace('+', " ");
    (percent_decode(name.as_bytes()).collect(), pair.to_owned())
}

fn networks(text: &[u8]) {
    let text = String::from_utf8_lossy(text);
    let networks: Vec<_> = text.split(',').collect();
    if let Ok(trusted) = TrustedProxies::networks(&networks) {
        let layer = CacheLayer::new(Cache::new(Dummy)).trusted_proxies(trusted);
        let _ = layer.page_key(&Uri::from_static("http://a.test/"));
    }
    if let Ok(address) = text.parse() {
        assert_eq!(PeerAddr::new(address).ip(), address);
        assert!(TrustedProxies::networks([text.trim()]).is_ok());
    }
}
