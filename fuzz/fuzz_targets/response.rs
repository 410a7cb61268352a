//! The fields of responses: parsers, writers, and the gates that rest on them.
//!
//! Input: two bytes of status, two of time, then fields in lines.
#![no_main]

use std::time::{Duration, SystemTime};

use axum_cache::control::{
    add_never_cache_headers, get_max_age, patch_cache_control, patch_response_headers,
};
use axum_cache::semantics::cache_control::CacheControl;
use axum_cache::semantics::cache_status::{CACHE_STATUS, CacheStatus, Forward};
use axum_cache::semantics::conditional::not_modified_fields;
use axum_cache::semantics::fields::storable_fields;
use axum_cache::semantics::freshness::{
    corrected_initial_age, current_age, explicit_lifetime, format_date, heuristic_lifetime,
    parse_age, parse_date, stamp_date,
};
use axum_cache::semantics::invalidation::{invalidated, resolve, same_origin};
use axum_cache::semantics::outer::unharmed;
use axum_cache::semantics::range::parse_content_range;
use axum_cache::semantics::request::RequestControl;
use axum_cache::semantics::reuse::{
    StoredFacts, Terms, reuse, stale_if_error, stale_if_unreachable,
};
use axum_cache::semantics::storable::{
    Intent, RequestFacts, ResponseFacts, admit, admit_http, shareable, storable, storable_http,
};
use axum_cache::semantics::targeted::{CDN_CACHE_CONTROL, effective, targeted};
use axum_cache::semantics::validation::{freshen, head_update, make_conditional, selects};
use axum_cache::semantics::vary::{Vary, has_vary, patch_vary};
use axum_cache_fuzz::{fields, says, says_in};
use http::header::{
    ACCEPT, AGE, CACHE_CONTROL, CONTENT_LOCATION, CONTENT_RANGE, COOKIE, DATE, EXPIRES, HeaderMap,
    HeaderName, LAST_MODIFIED, LOCATION, SET_COOKIE,
};
use http::{Method, StatusCode, Uri};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&[a, b, c, d], lines)) = data.split_first_chunk() else {
        return;
    };
    let status = StatusCode::from_u16(100 + u16::from_be_bytes([a, b]) % 900).unwrap();
    let seconds = 784_000_000 + u64::from(u16::from_be_bytes([c, d])) * 30_000;
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let headers = fields(lines);
    directives(&headers);
    vary(&headers);
    freshness(status, &headers, now);
    gates(status, &headers, now);
    locations(&headers);
    updates(&headers, now);
    cache_status(&headers, lines);
});

fn written(directives: &CacheControl) -> HeaderMap {
    let value = directives.to_header_value();
    assert_eq!(value.is_none(), directives.to_string().is_empty());
    let lines = value.into_iter().map(|value| (CACHE_CONTROL, value));
    lines.collect()
}

fn directives(headers: &HeaderMap) {
    let parsed = CacheControl::parse(headers);
    if let Ok(directives) = &parsed {
        let lines = written(directives);
        assert_eq!(CacheControl::parse(&lines).as_ref(), Ok(directives));
        for (name, set) in [
            ("no-store", directives.no_store),
            ("private", directives.private.is_set()),
            ("no-cache", directives.no_cache.is_set()),
            ("public", directives.public),
            ("must-revalidate", directives.must_revalidate),
            ("max-age", directives.max_age.is_some()),
            ("s-maxage", directives.s_maxage.is_some()),
        ] {
            assert_eq!(says(headers, name), set, "{name}");
        }
        let both = directives.over(&CacheControl::new().with_no_store());
        assert!(both.no_store);
        assert_eq!(
            CacheControl::parse(&written(&both)),
            Ok(both),
            "over another"
        );
    }
    let _ = get_max_age(headers);
    let mut patched = headers.clone();
    let private = CacheControl::new().with_private();
    patch_cache_control(&mut patched, &private);
    let patched = CacheControl::parse(&patched).expect("a patched field");
    assert!(patched.private.is_set() && !patched.public);
    assert!(patched.no_store || !says(headers, "no-store") || parsed.is_ok());

    let targets = [
        CDN_CACHE_CONTROL,
        HeaderName::from_static("x-cache-control"),
    ];
    match targeted(headers, &targets) {
        Some(directives) => {
            assert_eq!(effective(headers, &targets).as_ref(), Ok(&directives));
            assert_eq!(CacheControl::parse(&written(&directives)), Ok(directives));
        }
        None => assert_eq!(effective(headers, &targets), parsed),
    }
}

fn vary(headers: &HeaderMap) {
    let before = Vary::parse(headers);
    let mut patched = headers.clone();
    patch_vary(&mut patched, ["Cookie", "x-own"]);
    let after = Vary::parse(&patched);
    assert!(has_vary(&patched, &COOKIE));
    match (before, after) {
        (Vary::Names(before), after) => {
            assert!(before.is_sorted_by(|one, other| one.as_str() < other.as_str()));
            assert!(before.iter().all(|name| after.covers(name)));
        }
        (_, after) => assert_eq!(after, Vary::Any),
    }
}

fn freshness(status: StatusCode, headers: &HeaderMap, now: SystemTime) {
    let age = parse_age(headers);
    assert!(age.is_none_or(|age| age <= 1 << 31));
    let initial = corrected_initial_age(headers, age, now - Duration::from_secs(3), now);
    assert!(initial >= age.unwrap_or(0));
    assert!(current_age(now, initial, now + Duration::from_secs(9)).as_secs() >= initial);
    for name in [DATE, EXPIRES, LAST_MODIFIED] {
        if let Some(date) = parse_date(headers, &name) {
            let value = format_date(date).expect("what was a date");
            let again = [(name.clone(), value)].into_iter().collect();
            assert_eq!(parse_date(&again, &name), Some(date));
        }
    }
    let cap = Duration::from_secs(86_400);
    if let Ok(directives) = CacheControl::parse(headers) {
        let explicit = explicit_lifetime(headers, &directives, now);
        let heuristic = heuristic_lifetime(status, headers, &directives, now, cap);
        assert!(heuristic.is_none_or(|lifetime| lifetime <= cap));
        let stored = StoredFacts {
            terms: Terms::new(&directives),
            lifetime: explicit.or(heuristic).unwrap_or_default(),
            age: Duration::from_secs(initial),
            validator: true,
        };
        // What requests say is written alike.
        let wishes = RequestControl::parse(headers);
        let _ = reuse(&stored, None);
        let _ = reuse(&stored, Some(&wishes));
        let _ = stale_if_error(&stored, Some(&wishes));
        let _ = stale_if_unreachable(&stored, Some(&wishes));
    }
    let mut stamped = headers.clone();
    stamp_date(&mut stamped, now);
    assert!(stamped.contains_key(DATE));
    patch_response_headers(&mut stamped, cap, now);
    assert!(says(&stamped, "max-age") && stamped.contains_key(EXPIRES));
    add_never_cache_headers(&mut stamped, now);
    assert!(says(&stamped, "no-store") && says(&stamped, "private"));
}

fn gates(status: StatusCode, headers: &HeaderMap, now: SystemTime) {
    let cookie = headers.contains_key(SET_COOKIE);
    let personal = cookie || says(headers, "no-store") || says(headers, "private");
    let facts = ResponseFacts::new(status, headers, now);
    if storable(&facts).is_ok() {
        assert!(!personal && !says(headers, "no-cache"));
        assert_eq!(status, StatusCode::OK);
    }
    for authorization in [false, true] {
        for undeclared_cookies in [false, true] {
            let request = RequestFacts {
                authorization,
                undeclared_cookies,
            };
            for intent in [Intent::Blanket, Intent::Explicit] {
                let shared = shareable(intent, request, facts.sharing(request));
                let admitted = admit(intent, request, &facts);
                assert_eq!(admitted.is_ok(), storable(&facts).is_ok() && shared.is_ok());
                if admitted.is_ok() && authorization {
                    let words = ["public", "s-maxage", "must-revalidate"];
                    assert!(words.iter().any(|word| says(headers, word)));
                }
                if admitted.is_ok() && undeclared_cookies && intent == Intent::Blanket {
                    assert!(
                        says(headers, "public") || says_in(headers, &http::header::VARY, "cookie")
                    );
                }
            }
        }
    }
    let vary = Vary::Names(vec![COOKIE, ACCEPT]);
    if unharmed(&vary, headers).is_ok() {
        assert!(!personal && !says(headers, "no-cache"));
    }

    let targets = [CDN_CACHE_CONTROL];
    let facts = ResponseFacts::for_http(status, headers, &targets, Duration::from_secs(60), now);
    let request = RequestFacts::default();
    if admit_http(request, None, &facts).is_ok() {
        assert!(storable_http(&facts).is_ok() && !cookie);
        let own = targeted(headers, &targets).is_none();
        let understood = says(headers, "must-understand");
        assert!(!own || !says(headers, "private"));
        assert!(!own || understood || !says(headers, "no-store"));
        assert!(![206, 304, 416].contains(&status.as_u16()));
    }
    let no_store = RequestControl::parse(&fields(b"cache-control: no-store"));
    assert!(admit_http(request, Some(&no_store), &facts).is_err());
}

fn locations(headers: &HeaderMap) {
    let target = Uri::from_static("http://a.test/b/c?d");
    for value in headers
        .get_all(LOCATION)
        .iter()
        .chain(headers.get_all(CONTENT_LOCATION))
    {
        let Ok(reference) = value.to_str() else {
            continue;
        };
        let Some(uri) = resolve(&target, reference) else {
            continue;
        };
        assert!(uri.scheme().is_some() && uri.authority().is_some());
        let segments: Vec<_> = uri.path().split('/').collect();
        assert!(
            !segments.contains(&"..") && !segments.contains(&"."),
            "{uri}"
        );
        assert_eq!(resolve(&target, &uri.to_string()), Some(uri));
    }
    for uri in invalidated(&Method::POST, StatusCode::CREATED, &target, headers) {
        assert!(same_origin(&target, &uri));
    }
    for value in headers.get_all(CONTENT_RANGE) {
        if let Some((first, last, length)) = parse_content_range(value) {
            assert!(first <= last && length.is_none_or(|length| last < length));
        }
    }
}

fn updates(headers: &HeaderMap, now: SystemTime) {
    let kept = storable_fields(headers);
    for name in [
        "set-cookie",
        "connection",
        "age",
        "cache-status",
        "content-length",
    ] {
        assert!(!kept.contains_key(name));
    }
    assert_eq!(storable_fields(&kept), kept);
    let mut stored = fields(b"etag: \"a\"\nx-own: 1\ncontent-encoding: gzip");
    stamp_date(&mut stored, now);
    let before = stored.clone();
    freshen(&mut stored, headers);
    assert_eq!(stored["etag"], before["etag"]);
    assert_eq!(stored["content-encoding"], before["content-encoding"]);
    assert!(!stored.contains_key(SET_COOKIE) && !stored.contains_key(AGE));
    let _ = selects(&before, headers);
    let _ = selects(headers, &before);
    let _ = head_update(headers, 5, &before);
    let _ = head_update(&before, 5, headers);
    let mut request = HeaderMap::new();
    let asks = make_conditional(&mut request, headers);
    assert_eq!(asks, !request.is_empty());
    let _ = not_modified_fields(headers);
}

fn cache_status(headers: &HeaderMap, key: &[u8]) {
    let mut headers = headers.clone();
    let before = headers.get_all(CACHE_STATUS).iter().count();
    let key = String::from_utf8_lossy(key);
    CacheStatus::forward("fuzz", Forward::Stale)
        .with_ttl(Some(Duration::MAX))
        .with_detail("a")
        .append_with_key(&mut headers, &key);
    assert_eq!(headers.get_all(CACHE_STATUS).iter().count(), before + 1);
    let line = headers.get_all(CACHE_STATUS).iter().next_back().unwrap();
    let line = line.to_str().unwrap();
    let Some((_, quoted)) = line.split_once("; key=\"") else {
        return;
    };
    let quoted = quoted.strip_suffix("\"; detail=a").unwrap();
    let mut read = String::new();
    let mut characters = quoted.chars();
    while let Some(character) = characters.next() {
        assert_ne!(character, '"');
        read.push(if character == '\\' {
            characters.next().unwrap()
        } else {
            character
        });
    }
    assert_eq!(read, key);
}
