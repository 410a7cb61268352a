//! What of a request selects its page, and what handlers are shown of it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, OriginalUri, Request};
use axum::http::request::Builder;
use axum::http::{HeaderMap, HeaderName, Version, header};
use axum::response::{IntoResponse, Response};
use axum_cache::backend::Memory;
use axum_cache::key::{PageKeyFunction, PageTarget, VaryValue};
use axum_cache::layer::{
    CacheService, Device, DeviceClass, EncodingClass, Language, Locale, PeerAddr, TimeZone,
    TrustedProxies, VariantFn,
};
use axum_cache::{Cache, CacheLayer, cache_page};
use proptest::prelude::*;
use tower::{Layer, ServiceExt};

/// A handler, and how often it ran.
#[derive(Clone, Default)]
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn router<R: IntoResponse>(
        &self,
        respond: impl Fn(&Request) -> R + Clone + Send + Sync + 'static,
    ) -> Router {
        let counted = self.clone();
        Router::new().fallback(move |request: Request| {
            counted.0.fetch_add(1, Ordering::SeqCst);
            let response = respond(&request).into_response();
            async move { response }
        })
    }

    fn runs(&self) -> usize {
        self.0.swap(0, Ordering::SeqCst)
    }
}

fn layer() -> CacheLayer {
    CacheLayer::new(Cache::new(Memory::new()))
}

/// All that a handler can see of the head of a request.
fn reflect(request: &Request) -> String {
    let original = request.extensions().get::<OriginalUri>();
    format!(
        "{} {:?} {:?} {:?}",
        request.uri(),
        original.map(|uri| uri.0.to_string()),
        request.version(),
        request.headers(),
    )
}

fn field<'r>(headers: &'r HeaderMap, name: &str) -> &'r str {
    headers
        .get(name)
        .map_or("-", |value| value.to_str().unwrap())
}

struct Answer {
    hit: bool,
    status: String,
    vary: String,
    text: String,
}

async fn send(site: &CacheService<Router>, request: Request) -> Answer {
    let response = site.clone().oneshot(request).await.unwrap();
    let status = field(response.headers(), "cache-status").to_owned();
    let vary = field(response.headers(), "vary").to_owned();
    let body = to_bytes(Body::new(response.into_body()), 1 << 20).await;
    Answer {
        hit: status.contains("; hit"),
        status,
        vary,
        text: String::from_utf8(body.unwrap().to_vec()).unwrap(),
    }
}

fn get(uri: &str, fields: &[(&str, &str)]) -> Request {
    let builder = Request::get(uri);
    let fields = fields.iter();
    fields
        .fold(builder, |builder: Builder, (name, value)| {
            builder.header(*name, *value)
        })
        .body(Body::empty())
        .unwrap()
}

async fn ask(site: &CacheService<Router>, uri: &str, fields: &[(&str, &str)]) -> Answer {
    send(site, get(uri, fields)).await
}

#[tokio::test]
async fn tracked_visitors_share_a_page_that_shows_no_tracker() {
    let counted = Counted::default();
    let site = layer().ignore_tracking_parameters();
    let nested = Router::new().nest_service("/in", site.layer(counted.router(reflect)));
    let plain = site.key_prefix("plain").layer(counted.router(reflect));
    for site in [plain, layer().max_body_bytes(0).layer(nested)] {
        let tracked = ask(&site, "/in/a?utm_source=x&q=%31&fbclid=y", &[]).await;
        assert!(
            tracked.text.contains("/a?q=%31 Some(\"/in/a?q=%31\")"),
            "{}",
            tracked.text
        );
        for query in ["%75tm_source=z&q=%31", "q=%31&gclid", "q=%31"] {
            let other = ask(&site, &format!("/in/a?{query}"), &[]).await;
            assert_eq!(other.text, tracked.text, "{query}");
        }
        assert_eq!(counted.runs(), 1);
        let bare = ask(&site, "/in/a?utm_id=1", &[]).await;
        assert!(!bare.text.contains('?'), "{}", bare.text);
        assert_eq!(ask(&site, "/in/a", &[]).await.text, bare.text);
        assert_eq!(ask(&site, "/in/a?", &[]).await.text, bare.text);
        assert_ne!(ask(&site, "/in/a?q=1", &[]).await.text, tracked.text);
        assert_eq!(counted.runs(), 2);
    }
}

#[tokio::test]
async fn queries_are_sorted_and_reduced_as_declared() {
    let counted = Counted::default();
    let site = layer()
        .sort_query()
        .query_allow(["b", "x"])
        .query_ignore(["b"]);
    let site = site.query_allow(["a"]).layer(counted.router(reflect));
    let first = ask(&site, "/?x=2&c=1&a=1&x=1&b=1", &[]).await;
    assert!(first.text.starts_with("/?a=1&x=2&x=1 "), "{}", first.text);
    assert!(ask(&site, "/?x=2&x=1&a=1", &[]).await.hit);
    assert!(!ask(&site, "/?x=1&x=2&a=1", &[]).await.hit);
    // What bypasses the cache is shown all.
    let post = Request::post("/?x=2&c=1").body(Body::empty()).unwrap();
    assert!(send(&site, post).await.text.starts_with("/?x=2&c=1 "));
}

#[tokio::test]
async fn cookies_count_by_name_however_they_are_spelled() {
    let cookie = |request: &Request| field(request.headers(), "cookie").to_owned();
    let site = layer()
        .cookies(["plan"])
        .layer(Counted::default().router(cookie));
    let first = ask(&site, "/", &[("cookie", "id=1; plan=a")]).await;
    assert_eq!(first.text, "id=1; plan=a");
    assert_eq!(first.vary, "cookie");
    assert!(ask(&site, "/", &[("cookie", "plan=a; id=2")]).await.hit);
    for other in ["plan=b", "id=1", "pla%6e=a", "plan =a", "plan=a; plan=b"] {
        assert!(!ask(&site, "/", &[("cookie", other)]).await.hit, "{other}");
        assert!(ask(&site, "/", &[("cookie", other)]).await.hit, "{other}");
    }
    let narrow = layer().cookies(["plan", "arm"]).narrow();
    let narrow = narrow.layer(Counted::default().router(cookie));
    let first = ask(
        &narrow,
        "/",
        &[("cookie", "arm=1; id=1;"), ("cookie", "plan=a")],
    )
    .await;
    assert_eq!(first.text, "plan=a; arm=1");
    assert!(ask(&narrow, "/", &[("cookie", "plan=a; arm=1")]).await.hit);
    assert_eq!(ask(&narrow, "/", &[("cookie", "id=1")]).await.text, "-");
    assert!(ask(&narrow, "/", &[]).await.hit);
    let none = layer()
        .cookies([""; 0])
        .layer(Counted::default().router(cookie));
    assert_eq!(ask(&none, "/", &[("cookie", "id=1")]).await.vary, "-");
    assert!(ask(&none, "/", &[("cookie", "id=2")]).await.hit);
}

#[tokio::test]
async fn declared_fields_select_the_page_and_are_in_vary() {
    let counted = Counted::default();
    let tenant = HeaderName::from_static("x-tenant");
    let layer = layer().vary_on([tenant.clone(), header::ACCEPT, tenant]);
    let site = layer.clone().layer(counted.router(|request| {
        let vary = [("vary", "Origin, Accept")];
        (vary, field(request.headers(), "x-tenant").to_owned())
    }));
    for (index, fields) in [
        &[("x-tenant", "a")][..],
        &[("x-tenant", "b")],
        &[("x-tenant", "a, b")],
        &[("x-tenant", "a"), ("x-tenant", "b")],
        &[("accept", "a")],
        &[("x-tenant", "")],
        &[],
    ]
    .iter()
    .enumerate()
    {
        let first = ask(&site, "http://site.test/", fields).await;
        assert!(!first.hit, "{index} {}", first.status);
        let again = ask(&site, "http://site.test/", fields).await;
        assert!(again.hit && again.text == first.text);
        for answer in [first, again] {
            assert_eq!(answer.vary, "Origin, Accept, x-tenant");
        }
    }
    let other_origin = ask(&site, "http://site.test/", &[("origin", "x")]).await;
    assert!(other_origin.status.contains("fwd=vary-miss"));
    counted.runs();
    let uri = "http://site.test/".parse().unwrap();
    assert!(layer.purge(&uri).await.unwrap());
    for tenant in ["a", "b"] {
        assert!(
            !ask(&site, "http://site.test/", &[("x-tenant", tenant)])
                .await
                .hit
        );
    }
}

/// A handler that negotiates by itself, as one would without a cache.
fn negotiating(request: &Request) -> Response {
    let accepted = field(request.headers(), "accept-language");
    let language = ["de", "fr", "en"]
        .into_iter()
        .find(|language| accepted.contains(language))
        .unwrap_or("en");
    ([("vary", "Accept-Language")], language).into_response()
}

#[tokio::test]
async fn w_06_a_handler_that_negotiates_is_never_served_in_another_language() {
    let counted = Counted::default();
    let site = layer()
        .variant(Locale::new(["en", "de"]))
        .layer(counted.router(negotiating));
    for (accepted, language) in [
        ("de", "de"),
        ("en-US,en;q=0.9", "en"),
        ("en;q=0.1, de-AT", "de"),
        ("fr", "en"),
        ("de;q=0, fr, en;q=0.2", "en"),
        ("de-CH, fr;q=0.9", "de"),
        ("", "en"),
    ] {
        for _ in 0..2 {
            let answer = ask(&site, "/", &[("accept-language", accepted)]).await;
            assert_eq!(answer.text, language, "{accepted}");
            assert_eq!(answer.vary, "Accept-Language");
        }
    }
    assert_eq!(counted.runs(), 2);

    // The language of the application does not replace what the handler reads.
    let site = layer().layer(counted.router(negotiating));
    for language in ["de", "en", "de"] {
        let mut request = get("/", &[("accept-language", language)]);
        request.extensions_mut().insert(Language::new("en"));
        assert_eq!(send(&site, request).await.text, language);
    }
    assert_eq!(counted.runs(), 2);
}

#[tokio::test]
async fn a_language_cookie_declares_no_other_cookie() {
    let counted = Counted::default();
    let locale = Locale::new(["en", "de"]).cookie("lang");
    let reading = |request: &Request| {
        let headers = request.headers();
        format!(
            "{} {}",
            field(headers, "accept-language"),
            field(headers, "cookie")
        )
    };
    let blanket = layer().variant(locale.clone());
    let site = blanket.layer(counted.router(reading));
    for _ in 0..2 {
        let answer = ask(&site, "/", &[("cookie", "lang=de; id=1")]).await;
        assert!(answer.status.contains("detail=cookie"), "{}", answer.status);
        assert_eq!(answer.vary, "accept-language, cookie");
        assert_eq!(answer.text, "de id=1");
    }
    let site = blanket.cookies([""; 0]).layer(counted.router(reading));
    assert_eq!(
        ask(&site, "/", &[("cookie", "lang=de; id=1")]).await.text,
        "de id=1"
    );
    assert!(ask(&site, "/", &[("cookie", "lang=DE")]).await.hit);
    assert!(ask(&site, "/", &[("accept-language", "de-AT")]).await.hit);
    assert!(!ask(&site, "/", &[("cookie", "lang=fr")]).await.hit);
}

#[tokio::test]
async fn a_response_that_varies_on_cookie_varies_on_what_was_not_declared() {
    let cookie = |request: &Request| {
        let cookie = field(request.headers(), "cookie").to_owned();
        ([("vary", "Cookie")], cookie)
    };
    let (ada, bob) = (
        [("cookie", "lang=de; id=ada")],
        [("cookie", "lang=de; id=bob")],
    );
    let page = || cache_page(axum_cache::Ttl::Default, Cache::new(Memory::new()), "page");
    // One cookie of a variant is not all of them.
    let locale = Locale::new(["en", "de"]).cookie("lang");
    let site = page()
        .variant(locale)
        .layer(Counted::default().router(cookie));
    for (client, text) in [(&ada, "id=ada"), (&bob, "id=bob"), (&ada, "id=ada")] {
        assert_eq!(ask(&site, "/", client).await.text, text);
    }
    // Declared ones are: the others are said not to matter.
    let site = page()
        .cookies(["lang"])
        .layer(Counted::default().router(cookie));
    ask(&site, "/", &ada).await;
    assert!(ask(&site, "/", &bob).await.hit);
    // And as a field, all are in the key as they came.
    let site = layer().vary_on([header::COOKIE]);
    let site = site.layer(Counted::default().router(cookie));
    for (client, hit) in [(&ada, false), (&ada, true), (&bob, false), (&ada, true)] {
        assert_eq!(ask(&site, "/", client).await.hit, hit);
    }
}

#[tokio::test]
async fn encodings_devices_and_own_variants_are_classes() {
    let counted = Counted::default();
    let plan = VariantFn::new("plan", [HeaderName::from_static("x-plan")], |head| {
        let paid = head
            .headers
            .get("x-plan")
            .is_some_and(|plan| plan != "free");
        if paid { "paid" } else { "free" }
    });
    let shown = plan.clone().shown_as(|value, headers| {
        headers.insert("x-plan", value.parse().unwrap());
    });
    let reading = |request: &Request| {
        let headers = request.headers();
        let device = Device::of(headers);
        let of = |name| field(headers, name).to_owned();
        format!("{} {device} {}", of("accept-encoding"), of("x-plan"))
    };
    for (plan, reads) in [(plan, "-"), (shown, "paid")] {
        let site = layer()
            .variant(EncodingClass::new(["br", "gzip"]))
            .variant(DeviceClass)
            .variant(plan)
            .layer(counted.router(reading));
        let phone = "Mozilla/5.0 (iPhone) Mobile/15E148";
        let first = ask(
            &site,
            "/",
            &[
                ("accept-encoding", "gzip, br"),
                ("user-agent", phone),
                ("x-plan", "gold"),
            ],
        )
        .await;
        assert_eq!(first.text, format!("br Mobile {reads}"));
        assert_eq!(first.vary, "accept-encoding, user-agent, x-plan");
        let phone = "Mozilla/5.0 (Android 15; Mobile; rv:130.0)";
        let same = [
            ("accept-encoding", "*"),
            ("user-agent", phone),
            ("x-plan", "silver"),
        ];
        assert!(ask(&site, "/", &same).await.hit);
        for (index, other) in ["gzip", "curl/8", "free"].into_iter().enumerate() {
            let mut fields = same;
            fields[index].1 = other;
            assert!(!ask(&site, "/", &fields).await.hit, "{other}");
        }
        assert_eq!(counted.runs(), 4);
    }
}

#[tokio::test]
async fn language_and_time_zone_of_the_application_are_part_of_the_key() {
    let site = layer().layer(Counted::default().router(|request| {
        let language = request.extensions().get::<Language>();
        let zone = request.extensions().get::<TimeZone>();
        format!("{language:?} {zone:?}")
    }));
    let mut seen = Vec::new();
    for (language, zone) in [
        (None, None),
        (Some("de"), None),
        (Some("en"), None),
        (None, Some("de")),
        (Some("de"), Some("UTC")),
    ] {
        let request = || {
            let mut request = get("/", &[]);
            let extensions = request.extensions_mut();
            language.map(|tag| extensions.insert(Language::new(tag)));
            zone.map(|name| extensions.insert(TimeZone::new(name)));
            request
        };
        let first = send(&site, request()).await;
        assert!(!first.hit && !seen.contains(&first.text));
        let again = send(&site, request()).await;
        assert!(again.hit && again.text == first.text);
        seen.push(first.text);
    }
}

/// What extractors of hosts and schemes go by, one after the other.
fn links(request: &Request) -> String {
    let headers = request.headers();
    let host = ["x-forwarded-host", "host"]
        .iter()
        .find_map(|name| headers.get(*name)?.to_str().ok());
    let scheme = headers
        .get("x-forwarded-proto")
        .and_then(|v| v.to_str().ok());
    let forwarded = field(headers, "forwarded");
    format!(
        "{}://{}/ {forwarded}",
        scheme.unwrap_or("http"),
        host.unwrap_or("-")
    )
}

#[tokio::test]
async fn forged_claims_poison_nobody() {
    for trusted in [
        TrustedProxies::none(),
        TrustedProxies::networks(["10.0.0.0/8"]).unwrap(),
    ] {
        let site = layer().trusted_proxies(trusted);
        let site = site.layer(Counted::default().router(links));
        let honest = [("host", "a.test")];
        for (index, forged) in [
            ("x-forwarded-host", "evil.test"),
            ("X-Forwarded-Proto", "https"),
            ("forwarded", "host=evil.test"),
            ("forwarded", "for=\"1;host=evil.test\""),
            ("x-original-url", "/admin"),
            ("x-rewrite-url", "/admin"),
            ("x-forwarded-prefix", "/evil"),
            ("x-forwarded-port", "444"),
            ("x-host", "evil.test"),
        ]
        .into_iter()
        .enumerate()
        {
            let path = format!("/{index}");
            assert!(!ask(&site, &path, &[honest[0], forged]).await.hit);
            let answer = ask(&site, &path, &honest).await;
            assert!(!answer.hit, "{forged:?}");
            assert_eq!(answer.text, "http://a.test/ -");
            assert!(ask(&site, &path, &honest).await.hit);
            assert!(ask(&site, &path, &[honest[0], forged]).await.hit);
        }
        let address = [
            honest[0],
            ("x-forwarded-for", "1.1.1.1"),
            ("forwarded", "for=1.1.1.1"),
        ];
        ask(&site, "/", &honest).await;
        assert!(ask(&site, "/", &address).await.hit);
    }
}

#[tokio::test]
async fn a_host_that_is_only_in_the_uri_or_in_capitals_poisons_nobody() {
    let site = layer().layer(Counted::default().router(links));
    for (path, uri, fields) in [
        ("/a", "http://a.test/a", &[][..]),
        ("/b", "http://A.test/b", &[("host", "A.TEST")]),
        ("/c", "/c", &[("host", "A.TEST")]),
        ("/d", "/d", &[("host", "a.test"), ("host", "A.test")]),
    ] {
        assert_eq!(ask(&site, uri, fields).await.text, "http://a.test/ -");
        assert!(ask(&site, path, &[("host", "a.test")]).await.hit, "{uri}");
    }
    // Also where one of the two is as it should be.
    let site = layer().layer(Counted::default().router(|request: &Request| {
        let authority = request.uri().authority().map(ToString::to_string);
        let original = request.extensions().get::<OriginalUri>();
        let original = original.and_then(|uri| uri.0.authority().map(ToString::to_string));
        format!("{authority:?} {original:?}")
    }));
    let shown = ask(&site, "http://A.test/", &[("host", "a.test")]).await;
    assert!(!shown.text.contains('A'), "{}", shown.text);
    assert!(ask(&site, "/", &[("host", "a.test")]).await.hit);
}

#[tokio::test]
async fn trusted_proxies_give_scheme_and_authority() {
    let counted = Counted::default();
    let layer = layer().trusted_proxies(TrustedProxies::networks(["10.0.0.0/8"]).unwrap());
    let site = layer.clone().layer(counted.router(links));
    let from = |peer: [u8; 4], fields: &[(&str, &str)]| {
        let mut request = get("/", &[&[("host", "internal:8080")], fields].concat());
        let peer = SocketAddr::new(IpAddr::from(peer), 1);
        request.extensions_mut().insert(ConnectInfo(peer));
        request
    };
    let proxy = [10, 0, 0, 1];
    let claims = [
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "A.test"),
    ];
    let first = send(&site, from(proxy, &claims)).await;
    assert_eq!(first.text, "https://a.test/ -");
    for claims in [
        &[(
            "forwarded",
            "for=1.1.1.1;host=evil.test, for=x;host=a.test;proto=https",
        )][..],
        &[
            claims[0],
            ("x-forwarded-host", "evil.test, a.test"),
            ("x-forwarded-port", "443"),
        ],
        &[claims[0], claims[1], ("x-forwarded-for", "1.1.1.1")],
    ] {
        assert!(send(&site, from(proxy, claims)).await.hit, "{claims:?}");
    }
    let mut own = from([1, 1, 1, 1], &claims);
    own.extensions_mut().insert(PeerAddr::new(proxy.into()));
    assert!(send(&site, own).await.hit);
    assert!(!send(&site, from([1, 1, 1, 1], &claims)).await.hit);
    assert!(!send(&site, get("/", &claims)).await.hit);
    counted.runs();

    // Purging by URI finds what the proxy asked for, and so does who asks for it without one.
    assert!(
        layer
            .purge(&"https://a.test/".parse().unwrap())
            .await
            .unwrap()
    );
    let direct = ask(&site, "https://a.test/", &[]).await;
    assert_eq!(direct.text, "https://a.test/ -");
    assert!(send(&site, from(proxy, &claims)).await.hit);
    assert_eq!(counted.runs(), 1);
}

#[tokio::test]
async fn requests_for_another_method_or_protocol_bypass() {
    let counted = Counted::default();
    let site = layer().narrow().layer(counted.router(reflect));
    ask(&site, "/", &[]).await;
    for (name, detail) in [
        ("x-http-method-override", "method-override"),
        ("x-http-method", "method-override"),
        ("x-method-override", "method-override"),
        ("upgrade", "upgrade"),
    ] {
        for _ in 0..2 {
            let answer = ask(&site, "/?a=1", &[(name, "DELETE"), ("x-other", "1")]).await;
            assert!(
                answer
                    .status
                    .contains(&format!("fwd=bypass; detail={detail}"))
            );
            assert!(answer.text.contains(name) && answer.text.contains("x-other"));
        }
    }
    assert!(ask(&site, "/", &[]).await.hit);
    let post = Request::post("/")
        .header("x-other", "1")
        .body(Body::empty());
    assert!(send(&site, post.unwrap()).await.text.contains("x-other"));
}

/// Names that frameworks, proxies and scanners know, and then made-up ones.
fn mined() -> Vec<String> {
    let known = "accept accept-charset accept-encoding accept-language authorization cache-control \
        cf-connecting-ip client-ip connection content-length content-type cookie dnt expect forwarded \
        from front-end-https if-match if-modified-since if-none-match if-range if-unmodified-since \
        keep-alive max-forwards origin pragma prefer proxy-authorization range referer save-data \
        sec-ch-ua sec-fetch-mode te traceparent tracestate true-client-ip user-agent via warning \
        x-amzn-trace-id x-api-key x-client-cert x-correlation-id x-csrf-token x-debug x-forwarded-for \
        x-forwarded-host x-forwarded-port x-forwarded-prefix x-forwarded-proto x-forwarded-scheme \
        x-forwarded-server x-forwarded-ssl x-forwarded-user x-host x-original-url x-real-ip \
        x-remote-user x-request-id x-requested-with x-rewrite-url x-user-id x-wap-profile";
    let known = known.split_whitespace().map(str::to_owned);
    let made_up = (0..2000).map(|number| format!("x-mined-{number}"));
    known.chain(made_up).take(2000).collect()
}

#[tokio::test]
async fn e_03_no_field_changes_what_a_narrow_layer_stores() {
    let tenant = HeaderName::from_static("x-tenant");
    for (proxies, shown) in [
        (TrustedProxies::none(), r#"{"host": "a.test"}"#),
        (
            TrustedProxies::networks(["10.0.0.0/8"]).unwrap(),
            r#"{"x-forwarded-proto": "http", "x-forwarded-host": "a.test", "host": "a.test"}"#,
        ),
    ] {
        let counted = Counted::default();
        let layer = layer().narrow().vary_on([tenant.clone()]).cookies(["plan"]);
        let site = layer
            .trusted_proxies(proxies)
            .layer(counted.router(reflect));
        let names = mined();
        for (index, name) in names.iter().enumerate() {
            let path = format!("/{index}");
            let value = match name.as_str() {
                "content-length" => "0",
                "authorization" => "Bearer mined",
                "cookie" => "id=mined; Plan=mined",
                _ => "mined",
            };
            // In turns: the form of the target, the version, and the spelling of the host.
            let (uri, host) = match index % 3 {
                0 => (path.clone(), "A.test"),
                1 => (format!("http://a.TEST{path}"), "a.test"),
                _ => (path.clone(), "a.test"),
            };
            let mut request = get(&uri, &[("host", host), (name, value)]);
            if index % 2 == 0 {
                *request.version_mut() = Version::HTTP_10;
            }
            let mined = send(&site, request).await;
            assert!(mined.status.contains("stored"), "{name}: {}", mined.status);
            // A task that never pauses uses its budget up, and the page is stored by another.
            tokio::task::yield_now().await;
            let answer = ask(&site, &path, &[("host", "a.test")]).await;
            assert!(answer.hit, "{name}");
            assert_eq!(
                answer.text,
                format!("{path} Some({path:?}) HTTP/1.1 {shown}"),
                "{name}"
            );
        }
        assert_eq!(counted.runs(), names.len());
    }
}

#[tokio::test]
async fn a_narrow_layer_shows_what_is_declared_and_ignores_what_responses_vary_on() {
    let counted = Counted::default();
    let site = layer()
        .narrow()
        .vary_on([header::ACCEPT])
        .variant(Locale::new(["en", "de"]))
        .cookies(["plan"])
        .layer(counted.router(|request| {
            let vary = "User-Agent, Cookie, Accept, Accept-Language";
            ([("vary", vary)], format!("{:?}", request.headers()))
        }));
    let fields = [
        ("host", "a.test"),
        ("accept", "x/y"),
        ("accept-language", "fr, de-AT;q=0.5"),
        ("cookie", "id=1; plan=a"),
        ("user-agent", "one"),
        ("authorization", "Bearer ada"),
        ("range", "bytes=0-1"),
    ];
    let first = ask(&site, "/", &fields).await;
    assert!(first.status.contains("stored"), "{}", first.status);
    assert_eq!(
        first.text,
        r#"{"accept": "x/y", "cookie": "plan=a", "accept-language": "de", "host": "a.test"}"#
    );
    let mut other = fields;
    other[4].1 = "two";
    other[5].1 = "Bearer bob";
    assert!(ask(&site, "/", &other).await.hit);
    assert!(ask(&site, "/", &fields[..4]).await.hit);
    assert_eq!(counted.runs(), 1);
}

#[tokio::test]
async fn credentials_that_a_narrow_handler_sees_still_keep_it_away() {
    let narrow = layer().narrow().vary_on([header::AUTHORIZATION]);
    let site = narrow.layer(Counted::default().router(reflect));
    for _ in 0..2 {
        let answer = ask(&site, "/", &[("authorization", "Bearer ada")]).await;
        assert!(answer.status.contains("detail=authorization"));
        assert!(answer.text.contains("Bearer ada"));
    }
}

#[tokio::test]
async fn a_variant_made_of_credentials_stands_for_them() {
    for narrow in [false, true] {
        let counted = Counted::default();
        let role = VariantFn::new("role", [header::AUTHORIZATION], |head| {
            let admin = field(head.headers, "authorization") == "Bearer root";
            if admin { "admin" } else { "reader" }
        });
        let shown = role.shown_as(|value, headers| {
            headers.insert("x-role", value.parse().unwrap());
        });
        let layer = layer().variant(shown);
        let layer = if narrow { layer.narrow() } else { layer };
        let site = layer.layer(counted.router(|request| {
            assert!(!request.headers().contains_key("authorization"));
            field(request.headers(), "x-role").to_owned()
        }));
        for (token, role, hit) in [
            ("Bearer ada", "reader", false),
            ("Bearer bob", "reader", true),
            ("Bearer root", "admin", false),
            ("Bearer ada", "reader", true),
        ] {
            let answer = ask(&site, "/", &[("authorization", token)]).await;
            assert_eq!((answer.text.as_str(), answer.hit), (role, hit), "{token}");
        }
    }
}

#[tokio::test]
async fn cache_page_takes_the_same_rules() {
    let counted = Counted::default();
    let page = cache_page(axum_cache::Ttl::Default, Cache::new(Memory::new()), "page");
    let site = page
        .query_allow(["p"])
        .narrow()
        .layer(counted.router(reflect));
    ask(&site, "/?p=1&q=1", &[("cookie", "a=1")]).await;
    assert!(ask(&site, "/?q=2&p=1", &[("cookie", "a=2")]).await.hit);
    assert_eq!(counted.runs(), 1);
}

/// Requests that are alike, and differ in what some handler may go by.
fn requests() -> impl Strategy<Value = (usize, Vec<usize>, bool)> {
    let fields = prop::collection::vec(0..FIELDS.len(), 0..4);
    (0..URIS.len(), fields, any::<bool>())
}

const URIS: &[&str] = &[
    "/",
    "/?",
    "/?u=1",
    "/?a=1&u=2",
    "/?b=1&a=1",
    "/?a=1&b=1",
    "/?a=1&a=2",
    "http://a.test/",
    "http://A.test/?a=1",
    "https://a.test/",
    "http://x@a.test/",
    "http://b.test/",
];

const FIELDS: &[(&str, &str)] = &[
    ("host", "a.test"),
    ("host", "A.TEST"),
    ("host", "b.test"),
    ("host", "a.test,b.test"),
    ("host", ""),
    ("accept-language", "de"),
    ("accept-language", "fr, en"),
    ("accept-language", "fr, de-CH;q=0.1"),
    ("cookie", "plan=a"),
    ("cookie", "plan=b"),
    ("cookie", "plan=a; plan=b"),
    ("cookie", "pla%6e=a"),
    ("x-declared", "a"),
    ("x-declared", "a, b"),
    ("x-declared", "b"),
    ("x-forwarded-host", "a.test"),
    ("x-forwarded-host", "b.test"),
    ("x-forwarded-host", "b.test, a.test"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-proto", "http"),
    ("x-forwarded-port", "443"),
    ("x-forwarded-port", "80"),
    ("forwarded", "host=a.test"),
    ("forwarded", "proto=https, host=b.test"),
    ("x-original-url", "/a"),
];

/// What a handler makes of a request, however it was sent: fields, path and query.
fn essence(request: &Request) -> String {
    let mut fields: Vec<_> = request.headers().iter().collect();
    // Stable: the lines of one field stay in order.
    fields.sort_by_key(|(name, _)| name.as_str());
    format!("{:?} {fields:?}", request.uri().path_and_query())
}

/// Says what the key of the last request was made of.
#[derive(Clone, Debug, Default)]
struct Recorder(Arc<Mutex<String>>);

impl PageKeyFunction for Recorder {
    fn primary(&self, target: &PageTarget<'_>) -> String {
        let key = format!("{target:?}");
        self.0.lock().unwrap().clone_from(&key);
        key
    }

    fn variant(&self, _: &PageTarget<'_>, _: &[VaryValue<'_>], _: u64) -> String {
        String::new()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn requests_with_equal_keys_look_the_same_to_the_handler(
        all in prop::collection::vec(requests(), 40),
        narrow: bool,
        proxies in 0..3,
    ) {
        let proxies = match proxies {
            0 => TrustedProxies::none(),
            1 => TrustedProxies::all(),
            _ => TrustedProxies::networks(["10.0.0.0/8"]).unwrap(),
        };
        let layer = layer()
            .max_body_bytes(0)
            .query_ignore(["u"])
            .sort_query()
            .cookies(["plan"])
            .vary_on([HeaderName::from_static("x-declared")])
            .variant(Locale::new(["en", "de"]))
            .trusted_proxies(proxies);
        let (layer, seen): (_, fn(&Request) -> String) = if narrow {
            (layer.narrow(), reflect)
        } else {
            (layer, essence)
        };
        let recorder = Recorder::default();
        let site = layer.page_keys(recorder.clone());
        let site = site.layer(Counted::default().router(seen));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut shown = HashMap::new();
        for (uri, fields, proxied) in all {
            let request = || {
                let fields: Vec<_> = fields.iter().map(|index| FIELDS[*index]).collect();
                let mut request = get(URIS[uri], &fields);
                if proxied {
                    request.extensions_mut().insert(PeerAddr::new([10, 0, 0, 1].into()));
                }
                request
            };
            let text = runtime.block_on(send(&site, request())).text;
            let key = std::mem::take(&mut *recorder.0.lock().unwrap());
            let first = shown.entry(key).or_insert_with(|| text.clone());
            prop_assert_eq!(&*first, &text);
        }
    }
}

#[tokio::test]
async fn a_narrow_layer_shows_no_difference_between_an_empty_path_and_the_root() {
    let counted = Counted::default();
    let site = layer()
        .narrow()
        .layer(counted.router(|request| format!("{:?}", request.uri())));
    for query in ["", "?x"] {
        let empty = ask(&site, &format!("http://a.test{query}"), &[]).await;
        let root = ask(&site, &format!("http://a.test/{query}"), &[]).await;
        assert!(root.hit, "{query}");
        assert_eq!((empty.text, counted.runs()), (format!("/{query}"), 1));
    }
}

/// What a handler that is shown a request answers, and whether that came from the cache.
async fn answer_to(site: &CacheService<Router>, request: Request) -> (bool, String) {
    let response = site.clone().oneshot(request).await.unwrap();
    let status = response.headers()["cache-status"].to_str().unwrap();
    let is_hit = status.contains("; hit");
    let body = to_bytes(Body::new(response.into_body()), 1000).await;
    (is_hit, String::from_utf8(body.unwrap().into()).unwrap())
}

/// The first line of a field, as a handler sees it.
fn first_line(name: &'static str) -> Router {
    Router::new().fallback(async move |request: Request| {
        let line = request.headers().get(name);
        line.map_or("none".to_owned(), |line| line.to_str().unwrap().to_owned())
    })
}

fn request(uri: &str, peer: &str, fields: &[(&str, &str)]) -> Request {
    let mut request = Request::builder().uri(uri);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let mut request = request.body(Body::empty()).unwrap();
    let peer = PeerAddr::new(peer.parse().unwrap());
    request.extensions_mut().insert(peer);
    request
}

const STRANGER: &str = "203.0.113.6";
const PROXY: &str = "10.0.0.1";

fn behind_proxies() -> CacheLayer {
    layer().trusted_proxies(TrustedProxies::networks(["10.0.0.0/8"]).unwrap())
}

#[tokio::test]
async fn of_several_hosts_each_is_shown_as_the_key_holds_it() {
    let site = layer().layer(first_line("host"));
    let ask = |host| request("/", STRANGER, &[("host", host), ("host", "b")]);
    answer_to(&site, ask("a:80")).await;
    let (is_hit, seen) = answer_to(&site, ask("a")).await;
    assert!(!is_hit || seen == "a", "{seen}");
}

#[tokio::test]
async fn addresses_that_are_forwarded_do_not_keep_what_is_resolved_from_the_handler() {
    let site = behind_proxies().layer(first_line("x-forwarded-proto"));
    let fields = [("host", "a"), ("forwarded", "for=192.0.2.1")];
    let (_, first) = answer_to(&site, request("/x", STRANGER, &fields)).await;
    let fields = [
        ("host", "a"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "a"),
    ];
    let (_, proxied) = answer_to(&site, request("/x", PROXY, &fields)).await;
    assert_eq!(proxied, "http", "the first was {first}");
}

#[tokio::test]
async fn a_host_that_a_proxy_names_with_a_zone_hides_no_other() {
    let site = behind_proxies().layer(first_line("host"));
    let ask = |host| {
        let fields = [("host", host), ("x-forwarded-host", "[::1%25x]")];
        request("/", PROXY, &fields)
    };
    answer_to(&site, ask("a")).await;
    let (is_hit, seen) = answer_to(&site, ask("b")).await;
    assert_eq!((is_hit, seen.as_str()), (false, "b"));
}

#[tokio::test]
async fn a_scheme_that_is_rewritten_selects_the_page() {
    let page = async |request: Request| format!("{:?}", request.uri().scheme_str());
    let cached = Router::new().fallback(page).layer(layer());
    let rewrite = |mut request: Request| {
        if let Some(to) = request.headers().get("to") {
            *request.uri_mut() = to.to_str().unwrap().parse().unwrap();
        }
        request
    };
    let site = cached.layer(tower::util::MapRequestLayer::new(rewrite));
    for (to, scheme) in [("http://a/x", "http"), ("https://a/x", "https")] {
        let request = request("http://a/x", STRANGER, &[("host", "a"), ("to", to)]);
        let response = site.clone().oneshot(request).await.unwrap();
        let body = to_bytes(response.into_body(), 1000).await.unwrap();
        assert_eq!(body, format!("Some({scheme:?})"));
    }
}
