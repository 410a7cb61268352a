//! E2: visitors who carry secrets, over every preset, all at once. What an answer holds of a secret
//! has to be of the very request that got it.
//!
//! A route says which fields its handler shows, and what makes that legal. Silent ones are there
//! where the preset by itself has to keep the field apart: not for undeclared cookies under
//! `cache_page`, whose author says that they do not matter.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::header::{AUTHORIZATION, COOKIE};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::any_service;
use axum_cache::backend::Redis;
use axum_cache::layer::VariantFn;
use axum_cache::{Cache, CacheLayer, CacheVeto, cache_page};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tower::Layer;

use crate::is_long;
use crate::site::{MINUTE, Runs, Seen, Site, counted, memory, request, send, site};
use crate::support::servers::redis::Redis as RedisServer;
use crate::tools::http::Channel;

/// Requests that come one after the other for one page.
const BURST: usize = 60;
/// Pages that are asked for in turn, and how often.
const PAGES: usize = 12;
const TURNS: usize = 3;
const TASKS: usize = 48;
const VISITORS: u64 = 6;

/// The letters of fields that may hold a secret.
const FIELDS: &[(char, &str)] = &[
    ('c', "cookie"),
    ('a', "authorization"),
    ('k', "x-api-key"),
    ('u', "x-forwarded-user"),
    ('h', "x-forwarded-host"),
    ('f', "forwarded"),
    ('l', "accept-language"),
];

/// What makes any answer legal, whatever it shows.
const GUARDS: &[&str] = &[
    "private",
    "privatex",
    "nostore",
    "nocache",
    "zero",
    "cookie",
    "star",
    "vary",
    "smaxvary",
    "publicvary",
    "veto",
    "late",
    "carried",
    "status",
];

fn secret(letter: char, visitor: u64) -> String {
    format!("tok-{letter}-{visitor:04}-")
}

fn field_of(letter: char) -> &'static str {
    FIELDS.iter().find(|field| field.0 == letter).unwrap().1
}

/// The value of a field in which a visitor carries a secret.
fn carried(letter: char, visitor: u64, noise: u64) -> String {
    let secret = secret(letter, visitor);
    match letter {
        'c' if noise.is_multiple_of(2) => format!("_ga={noise}; sid={secret}"),
        'c' => format!("sid={secret}"),
        'a' => format!("Bearer {secret}"),
        'h' => format!("{secret}.test"),
        'f' => format!("for=10.0.0.{};host={secret}.test", noise % 200),
        'l' => format!("{secret},en;q=0.5"),
        _ => secret,
    }
}

/// The secrets in a text, whoever they are of.
fn secrets(text: &[u8]) -> Vec<(char, u64)> {
    let found = text
        .windows(11)
        .filter(|window| window.starts_with(b"tok-") && window[5] == b'-' && window[10] == b'-');
    found
        .filter_map(|window| {
            let number = std::str::from_utf8(&window[6..10]).ok()?;
            Some((char::from(window[4]), number.parse().ok()?))
        })
        .collect()
}

/// `/READS/GUARD`: shows what it reads, in its body and in a field.
async fn show(veto: CacheVeto, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let mut parts = path.rsplit('/');
    let (guard, reads) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
    let (mut shown, mut names) = (String::new(), Vec::new());
    for letter in reads.chars() {
        let name = field_of(letter);
        names.push(name);
        for line in request.headers().get_all(name) {
            for (letter, visitor) in secrets(line.as_bytes()) {
                shown += &secret(letter, visitor);
                shown.push(' ');
            }
        }
    }
    // So that others come meanwhile.
    tokio::time::sleep(Duration::from_millis(1)).await;
    let body = format!("{:060}{shown}", 0);
    let mut response = if guard == "late" {
        let (sender, receiver) = mpsc::channel::<Result<Bytes, std::io::Error>>(1);
        let veto = veto.clone();
        tokio::spawn(async move {
            let _ = sender.send(Ok(Bytes::from(body))).await;
            tokio::task::yield_now().await;
            veto.forbid();
            let _ = sender.send(Ok(Bytes::from_static(b"end"))).await;
        });
        Body::new(Channel(receiver)).into_response()
    } else {
        body.into_response()
    };
    let is_http = request.extensions().get::<ByHttp>().is_some();
    let fresh = if is_http { "max-age=60" } else { "" };
    let vary = names.join(", ");
    let (directives, varies) = match guard {
        "private" => ("private, max-age=60", false),
        "privatex" => ("max-age=60, private=\"x-shown\"", false),
        "nostore" => ("max-age=60, No-Store", false),
        "nocache" => ("max-age=60, no-cache=\"x-shown\"", false),
        "zero" => ("max-age=0", false),
        // By HTTP, an error may be as public as anything.
        "status" if is_http => ("private", false),
        "vary" => (fresh, true),
        "smaxvary" => ("s-maxage=60", true),
        "publicvary" => ("public, max-age=60", true),
        _ => (fresh, false),
    };
    let fields = response.headers_mut();
    let mut put = |name: &'static str, value: &str| {
        if !value.is_empty() {
            fields.append(name, value.parse().unwrap());
        }
    };
    put("cache-control", directives);
    if varies {
        put("vary", &vary);
    }
    match guard {
        "cookie" => put("set-cookie", &format!("sid={shown}")),
        "star" => put("vary", "x-some, *"),
        _ => {}
    }
    put("x-shown", shown.trim());
    // A validator, so that conditions and validation have something to go by.
    let tag = shown.replace(' ', "");
    let tag = format!("\"{tag}{path}\"");
    put("etag", &tag);
    match guard {
        "veto" => veto.forbid(),
        "carried" => {
            let own = CacheVeto::new();
            own.forbid();
            response.extensions_mut().insert(own);
        }
        "status" => *response.status_mut() = StatusCode::UNAUTHORIZED,
        _ => {}
    }
    let asked = request.headers().get("if-none-match");
    if guard != "status" && asked.is_some_and(|asked| asked.as_bytes() == tag.as_bytes()) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        *response.body_mut() = Body::empty();
        response.headers_mut().remove("content-length");
    }
    response
}

/// The site goes by HTTP: it says how long its answers are fresh.
#[derive(Clone)]
struct ByHttp;

struct Preset {
    name: &'static str,
    site: Site,
    paths: Vec<String>,
}

/// `silent` has the letters of the fields that this preset keeps apart by itself.
fn preset(name: &'static str, silent: &str, site: Site) -> Preset {
    let reads = ["c", "a", "k", "u", "h", "f", "l", "ca", "cakuhfl"];
    let mut paths = Vec::new();
    for (index, reads) in reads.iter().enumerate() {
        if reads.chars().all(|letter| silent.contains(letter)) {
            // Several times, since these are the ones in which something can go wrong.
            paths.extend((0..10).map(|_| format!("/{name}/{reads}/silent")));
        }
        let guards = GUARDS.iter().enumerate();
        paths.extend(
            guards
                .filter(|(guard, _)| (guard + index) % 3 == 0 || reads.len() > 2)
                .map(|(_, guard)| format!("/{name}/{reads}/{guard}")),
        );
        paths.push(format!("/{name}/{reads}/vary"));
    }
    paths.extend((0..30).map(|_| format!("/{name}/{silent}/silent")));
    Preset { name, site, paths }
}

/// A session in the way: it sets a cookie for whoever has one, as sessions do.
async fn session(request: Request, next: Next) -> Response {
    let own = request.headers().get(COOKIE).cloned();
    let mut response = next.run(request).await;
    if let Some(own) = own {
        response.headers_mut().append("set-cookie", own);
    }
    response
}

/// A session that knows of the cache, and says so.
async fn vetoing(mut request: Request, next: Next) -> Response {
    let veto = CacheVeto::new();
    if request.headers().contains_key(COOKIE) {
        veto.forbid();
    }
    request.extensions_mut().insert(veto);
    next.run(request).await
}

#[allow(clippy::too_many_lines, reason = "a table")]
fn presets(cache: &Cache) -> Vec<Preset> {
    let runs = Runs::default();
    let router = || counted(Router::new().fallback(show), &runs);
    let layer = |prefix: &str| {
        CacheLayer::new(cache.clone())
            .ttl(MINUTE)
            .key_prefix(prefix)
    };
    let page = |prefix: &str| cache_page(MINUTE, cache.clone(), prefix);
    let names = |names: &[&'static str]| -> Vec<HeaderName> {
        let names = names.iter();
        names.map(|name| HeaderName::from_static(name)).collect()
    };
    let user = VariantFn::new(
        "user",
        [AUTHORIZATION],
        |head: &axum_cache::layer::Head<'_>| {
            let value = head.headers.get(AUTHORIZATION);
            value.map_or(String::new(), |value| {
                value.to_str().unwrap_or("").to_owned()
            })
        },
    )
    .shown_as(|value, headers| {
        if let Ok(value) = value.parse::<axum::http::HeaderValue>()
            && !value.is_empty()
        {
            headers.insert(AUTHORIZATION, value);
        }
    });
    let language = VariantFn::new(
        "language",
        names(&["accept-language"]),
        |head: &axum_cache::layer::Head<'_>| head.headers.contains_key("accept-language"),
    );
    let http = |layer: CacheLayer| {
        let router = router().layer(from_fn(|mut request: Request, next: Next| {
            request.extensions_mut().insert(ByHttp);
            next.run(request)
        }));
        site(layer.layer(router))
    };
    let by_http = |prefix: &str| CacheLayer::http(cache.clone()).key_prefix(prefix);
    let paged = |prefix: &str| Router::new().fallback_service(page(prefix).layer(router()));
    let route = any_service(router()).layer(page("route"));
    let on_one_route = Router::new().route("/{*rest}", route);
    vec![
        preset("blanket", "cahf", site(layer("blanket").layer(router()))),
        preset(
            "cookies",
            "cahf",
            site(layer("cookies").cookies(["sid"]).layer(router())),
        ),
        preset(
            "narrow",
            "cakuhfl",
            site(layer("narrow").narrow().layer(router())),
        ),
        preset(
            "narrow-some",
            "cakuhfl",
            site(
                layer("narrow-some")
                    .narrow()
                    .cookies(["sid"])
                    .vary_on(names(&["x-api-key", "authorization"]))
                    .layer(router()),
            ),
        ),
        preset(
            "vary-on",
            "cahfkul",
            site(
                layer("vary-on")
                    .vary_on(names(&["x-api-key", "x-forwarded-user", "accept-language"]))
                    .layer(router()),
            ),
        ),
        preset(
            "vary-on-credentials",
            "cahf",
            site(
                layer("vary-on-credentials")
                    .vary_on(names(&["cookie", "authorization"]))
                    .layer(router()),
            ),
        ),
        preset(
            "variants",
            "cahfl",
            site(
                layer("variants")
                    .variant(user)
                    .variant(language)
                    .layer(router()),
            ),
        ),
        preset("page", "ahf", site(paged("page"))),
        preset("page-route", "ahf", site(on_one_route)),
        preset(
            "page-inside",
            "ahf",
            site(layer("outside").layer(paged("inside"))),
        ),
        preset("page-same", "ahf", site(layer("same").layer(paged("same")))),
        // The outermost layer has the last word, and refuses what the session did.
        preset(
            "session-between",
            "cahf",
            site(layer("between").layer(paged("below").layer(from_fn(session)))),
        ),
        preset(
            "session-outside",
            "cahf",
            site(
                Router::new()
                    .fallback_service(layer("below-session").layer(router()))
                    .layer(from_fn(session)),
            ),
        ),
        preset(
            "session-inside",
            "cahf",
            site(layer("above-session").layer(router().layer(from_fn(session)))),
        ),
        preset(
            "veto-outside",
            "cahf",
            site(paged("below-veto").layer(from_fn(vetoing))),
        ),
        preset("http", "ahf", http(by_http("http"))),
        preset(
            "http-cookies",
            "cahf",
            http(by_http("http-cookies").cookies(["sid"])),
        ),
        preset(
            "http-honoured",
            "ahf",
            http(by_http("http-honoured").honour_requests(true)),
        ),
    ]
}

/// Numbers that look random, the same ones each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn one_in(&mut self, of: u64) -> bool {
        self.roll().is_multiple_of(of)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.roll() % end as u64).unwrap()
    }
}

#[derive(Debug, Default)]
struct Counts {
    hits: AtomicUsize,
    collapsed: AtomicUsize,
    misses: AtomicUsize,
    bypasses: AtomicUsize,
    validated: AtomicUsize,
    not_modified: AtomicUsize,
    parts: AtomicUsize,
    given_up: AtomicUsize,
    /// Secrets that their owners got.
    shown: AtomicUsize,
    /// Of these, out of the store or from another request's answer.
    shown_shared: AtomicUsize,
    leaks: AtomicUsize,
}

impl Counts {
    fn add(count: &AtomicUsize) {
        count.fetch_add(1, Ordering::Relaxed);
    }

    fn note(&self, seen: &Seen) {
        let member = &seen.members[0];
        let forwarded = member.fwd.as_deref();
        Self::add(match forwarded {
            _ if member.hit => &self.hits,
            _ if member.collapsed => &self.collapsed,
            Some("bypass") => &self.bypasses,
            _ if member.fwd_status == Some(304) => &self.validated,
            _ => &self.misses,
        });
        match seen.status.as_u16() {
            304 => Self::add(&self.not_modified),
            206 => Self::add(&self.parts),
            _ => {}
        }
    }
}

/// The criterion: no secret reaches anybody but the request that carries it.
fn judge(counts: &Counts, seen: &Seen, path: &str, visitor: u64, letters: &str) {
    let fields: HeaderMap = seen.headers.clone();
    let mut text: Vec<u8> = seen.body.clone().unwrap_or_default().to_vec();
    for value in fields.values() {
        text.extend_from_slice(b"\n");
        text.extend_from_slice(value.as_bytes());
    }
    let shared = seen.members[0].is_answer();
    for (letter, owner) in secrets(&text) {
        if owner == visitor && letters.contains(letter) {
            Counts::add(&counts.shown);
            if shared {
                Counts::add(&counts.shown_shared);
            }
        } else {
            Counts::add(&counts.leaks);
            println!(
                "LEAK {path}: {visitor} with {letters:?} got {letter} of {owner}: {:?}",
                seen.members
            );
        }
    }
}

async fn visit(presets: &[Preset], pages: &[(usize, usize)], counts: &Counts, number: usize) {
    let mut dice = Dice(number as u64);
    let burst = number / BURST;
    // For a while the same few pages, in turn; then others.
    let generation = burst / (PAGES * TURNS);
    let page = Dice((generation * PAGES + burst % PAGES) as u64).below(pages.len());
    let (preset, path) = pages[page];
    let preset = &presets[preset];
    let path = &preset.paths[path];
    let visitor = dice.roll() % VISITORS;
    let mut fields: Vec<(&str, String)> = Vec::new();
    let mut letters = String::new();
    if !dice.one_in(4) {
        for (letter, name) in FIELDS {
            if dice.one_in(3) {
                letters.push(*letter);
                fields.push((name, carried(*letter, visitor, dice.roll() % 1000)));
            }
        }
    }
    if dice.one_in(12) {
        let tag: String = secret('c', visitor);
        fields.push(("if-none-match", format!("\"{tag}{path}\", \"{path}\"")));
    }
    if dice.one_in(15) {
        fields.push(("range", "bytes=0-2000".to_owned()));
    }
    if dice.one_in(20) {
        fields.push(("cache-control", "no-cache".to_owned()));
    }
    let method = if dice.one_in(12) { "HEAD" } else { "GET" };
    let fields: Vec<_> = fields
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let request = request(method, &format!("{path}?g={generation}"), &fields);
    let sent = send(&preset.site, request);
    let seen = if dice.one_in(50) {
        let patience = Duration::from_micros(dice.roll() % 3000);
        let Ok(seen) = tokio::time::timeout(patience, sent).await else {
            return Counts::add(&counts.given_up);
        };
        seen
    } else {
        sent.await
    };
    counts.note(&seen);
    judge(
        counts,
        &seen,
        &format!("{} {path}", preset.name),
        visitor,
        &letters,
    );
}

async fn fuzz(store: &str, cache: Cache) {
    let requests = if is_long() { 1_000_000 } else { 50_000 };
    let presets: Arc<[Preset]> = presets(&cache).into();
    let pages: Arc<[(usize, usize)]> = presets
        .iter()
        .enumerate()
        .flat_map(|(index, preset)| (0..preset.paths.len()).map(move |path| (index, path)))
        .collect();
    let (counts, next) = (Arc::new(Counts::default()), Arc::new(AtomicUsize::new(0)));
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        let (presets, pages) = (Arc::clone(&presets), Arc::clone(&pages));
        let (counts, next) = (Arc::clone(&counts), Arc::clone(&next));
        tasks.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= requests {
                    return;
                }
                visit(&presets, &pages, &counts, number).await;
            }
        });
    }
    tasks.join_all().await;
    println!(
        "E2 {store}: {requests} requests in {:?}, {} presets, {} routes; {counts:?}; criterion: 0 leaks",
        start.elapsed(),
        presets.len(),
        pages.len()
    );
    let of = |count: &AtomicUsize| count.load(Ordering::Relaxed);
    assert_eq!(of(&counts.leaks), 0);
    // A test in which nothing is shared proves nothing.
    assert!(of(&counts.hits) > requests / 10);
    assert!(of(&counts.collapsed) > requests / 100);
    assert!(of(&counts.misses) > requests / 100);
    assert!(of(&counts.shown) > requests / 100);
    assert!(of(&counts.shown_shared) > requests / 1000);
}

pub(crate) async fn e2_no_identity_crosses_in_memory() {
    fuzz("memory", memory()).await;
}

pub(crate) async fn e2_no_identity_crosses_over_redis() {
    let server = RedisServer::start(&[]).unwrap();
    let redis = Redis::connect(&server.url()).unwrap();
    fuzz("redis", Cache::new(redis)).await;
}
