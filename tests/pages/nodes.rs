//! Several nodes on one store: what one of them purges, expires or invalidates, none of them serves
//! to who asks later.
//!
//! Each node is a cache with connections of its own, and a site. A version of each page is kept
//! beside them, as in a database: handlers read it when they are called, and whoever changes it
//! purges the page afterwards. Once that has returned, whoever asks gets that version or a later one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum_cache::backend::{AnyBackend, File, Memcached, Memory, Redis, Sql};
use axum_cache::{Cache, CacheLayer, Tags};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::is_long;
use crate::site::{Runs, Site, ask, behind, memory, timed};
use crate::support::servers::database::Database;
use crate::support::servers::memcached::Memcached as MemcachedServer;
use crate::support::servers::redis::Redis as RedisServer;
use crate::tools::http::Channel;

/// How long calls may take: a busy machine must not look like a store that is away.
const PATIENCE: Duration = Duration::from_secs(20);

const NODES: usize = 2;
const PAGES: usize = 4;
const CLIENTS: usize = 3;
const LANGUAGES: [&str; 2] = ["de", "en"];

/// How a change is made known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Purge,
    Prefix,
    /// By a tag that only the response names.
    Tag,
    /// By one that is known before: that of the layer.
    LayerTag,
}

/// What the nodes have in common.
#[derive(Debug, Default)]
struct World {
    /// What handlers read.
    versions: [AtomicU64; PAGES],
    /// What has been made known of that.
    floors: [AtomicU64; PAGES],
    over: AtomicBool,
    asked: AtomicUsize,
    hits: AtomicUsize,
    stale: AtomicUsize,
    old: AtomicUsize,
    failed: AtomicUsize,
}

/// Any number below this one, another one each time.
fn any(below: u64) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0) % below
}

async fn a_while(most_micros: u64) {
    let while_ = Duration::from_micros(any(most_micros));
    tokio::time::sleep(while_).await;
}

/// A page of its version. Those of odd numbers vary, and come in two parts; of all, one in ten fails.
async fn page(world: Arc<World>, request: Request) -> Response {
    let number = request.uri().path()[2..].parse::<usize>().unwrap();
    let version = world.versions[number].load(Ordering::SeqCst).to_string();
    a_while(3_000).await;
    if any(10) == 0 {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let mut response = if number % 2 == 0 {
        version.into_response()
    } else {
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            for part in [Bytes::from(version), Bytes::from_static(b" ")] {
                a_while(1_000).await;
                let _ = sender.send(Ok::<_, std::io::Error>(part)).await;
            }
        });
        let mut response = Response::new(Body::new(Channel(receiver)));
        let vary = "accept-language".parse().unwrap();
        response.headers_mut().insert("vary", vary);
        response
    };
    let tags = Tags::new([format!("page:{number}")]);
    response.extensions_mut().insert(tags);
    response
}

struct Node {
    cache: Cache,
    layer: CacheLayer,
    site: Site,
}

fn node(backend: AnyBackend, world: &Arc<World>) -> Node {
    let cache = Cache::new(backend);
    // Most of the time something is stale, and another one is made in the background.
    let layer = CacheLayer::new(cache.clone())
        .ttl(Duration::from_millis(15))
        .stale_while_revalidate(Duration::from_millis(200))
        .stale_if_error(Duration::from_secs(30))
        .throttle(Duration::from_millis(5))
        .hit_for_miss(Duration::ZERO)
        .tags(["layer"]);
    let world = Arc::clone(world);
    let router = Router::new().fallback(move |request| page(Arc::clone(&world), request));
    let (site, _) = behind(&layer, router);
    Node { cache, layer, site }
}

/// Asks for one page after the other, and checks each answer against what was known before.
async fn client(world: Arc<World>, site: Site) {
    while !world.over.load(Ordering::SeqCst) {
        let number = usize::try_from(any(PAGES as u64)).unwrap();
        let language = LANGUAGES[usize::try_from(any(2)).unwrap()];
        let method = if any(8) == 0 { "HEAD" } else { "GET" };
        let floor = world.floors[number].load(Ordering::SeqCst);
        let fields = [("accept-language", language)];
        let seen = ask(&site, method, &format!("/p{number}"), &fields).await;
        world.asked.fetch_add(1, Ordering::SeqCst);
        world
            .hits
            .fetch_add(usize::from(seen.is_hit()), Ordering::SeqCst);
        let stale = seen.detail().starts_with("stale");
        world.stale.fetch_add(usize::from(stale), Ordering::SeqCst);
        if seen.status == 503 {
            world.failed.fetch_add(1, Ordering::SeqCst);
        } else if method == "GET" {
            let version: u64 = seen.text().trim().parse().unwrap();
            if version < floor {
                world.old.fetch_add(1, Ordering::SeqCst);
                println!(
                    "{number} {language}: {version} < {floor} {:?}",
                    seen.members
                );
            }
        }
        a_while(1_500).await;
    }
}

/// Changes pages, and makes it known.
async fn changes(world: Arc<World>, nodes: Arc<Vec<Node>>, how: How, rounds: usize) {
    for _ in 0..rounds {
        let number = usize::try_from(any(PAGES as u64)).unwrap();
        let node = &nodes[usize::try_from(any(nodes.len() as u64)).unwrap()];
        let version = world.versions[number].fetch_add(1, Ordering::SeqCst) + 1;
        a_while(500).await;
        let uri: Uri = format!("http://site.test/p{number}").parse().unwrap();
        match how {
            How::Purge => drop(node.layer.purge(&uri).await.unwrap()),
            How::Prefix => drop(node.layer.purge_prefix(&uri).await.unwrap()),
            How::Tag => {
                let tag = format!("page:{number}");
                node.cache.invalidate([tag]).await.unwrap();
            }
            How::LayerTag => node.cache.invalidate(["layer"]).await.unwrap(),
        }
        world.floors[number].fetch_max(version, Ordering::SeqCst);
        // That of the layer takes all pages along.
        a_while(if how == How::LayerTag { 20_000 } else { 8_000 }).await;
    }
}

async fn run(store: &str, count: usize, backends: impl Fn() -> AnyBackend, hows: &[How]) {
    let rounds = if is_long() { 5_000 } else { 400 };
    for how in hows {
        let (start, world) = (Instant::now(), Arc::new(World::default()));
        let nodes = (0..count).map(|_| node(backends(), &world));
        let nodes: Arc<Vec<_>> = Arc::new(nodes.collect());
        let mut clients = JoinSet::new();
        for node in nodes.iter() {
            for _ in 0..CLIENTS {
                clients.spawn(client(Arc::clone(&world), node.site.clone()));
            }
        }
        let mut changing = JoinSet::new();
        for _ in 0..2 {
            let (world, nodes) = (Arc::clone(&world), Arc::clone(&nodes));
            changing.spawn(changes(world, nodes, *how, rounds / 2));
        }
        changing.join_all().await;
        world.over.store(true, Ordering::SeqCst);
        clients.join_all().await;
        let figure = |of: &AtomicUsize| of.load(Ordering::SeqCst);
        let old = figure(&world.old);
        println!(
            "D{} {store} {how:?}: {rounds} rounds, {} answers, {} hits, {} stale, {} failed in {:?}; \
             older than what was made known: {old} (0)",
            count.min(2),
            figure(&world.asked),
            figure(&world.hits),
            figure(&world.stale),
            figure(&world.failed),
            start.elapsed(),
        );
        assert_eq!(old, 0, "{store} {how:?}");
        assert!(
            figure(&world.hits) * 50 > figure(&world.asked),
            "hardly a hit"
        );
    }
}

const ALL: [How; 4] = [How::Purge, How::Prefix, How::Tag, How::LayerTag];

/// D1, D3: one process, and a store that it has for itself.
pub(crate) async fn d1_in_memory() {
    run("memory", 1, || Memory::new().into(), &ALL).await;
}

fn redis(server: &RedisServer) -> Redis {
    let store = Redis::builder([server.url()]);
    store.operation_timeout(PATIENCE).build().unwrap()
}

pub(crate) async fn d2_over_redis() {
    let server = RedisServer::start(&[]).unwrap();
    let connect = || redis(&server).into();
    run("redis", NODES, connect, &ALL).await;
}

pub(crate) async fn d2_over_memcached() {
    let server = MemcachedServer::start(&[]).unwrap();
    let connect = || {
        let store = Memcached::builder([server.url()]);
        store.operation_timeout(PATIENCE).build().unwrap().into()
    };
    run(
        "memcached",
        NODES,
        connect,
        &[How::Purge, How::Tag, How::LayerTag],
    )
    .await;
}

pub(crate) async fn d2_over_postgres() {
    let server = Database::postgres().unwrap();
    let connect = || {
        let store = Sql::builder(&server.url).create_table(true);
        store.operation_timeout(PATIENCE).build().unwrap().into()
    };
    run("postgres", NODES, connect, &ALL).await;
}

pub(crate) async fn d2_over_files() {
    let folder = tempfile::tempdir().unwrap();
    let open = || File::builder(folder.path()).build().unwrap().into();
    run("file", NODES, open, &ALL).await;
}

/// A site whose handler fails from a moment on.
fn failing(layer: &CacheLayer, status: u16) -> (Site, Runs, Arc<AtomicBool>) {
    let fails = Arc::new(AtomicBool::new(false));
    let failing = Arc::clone(&fails);
    let router = Router::new().fallback(move |request: Request| {
        let fails = failing.load(Ordering::SeqCst);
        let must = request.uri().path() == "/must";
        async move {
            if fails {
                return StatusCode::from_u16(status).unwrap().into_response();
            }
            let control = if must {
                "max-age=60, must-revalidate"
            } else {
                "max-age=60"
            };
            let fields = [
                ("vary", "accept-language"),
                ("cache-control", control),
                ("etag", "\"1\""),
            ];
            let tags = Tags::new(["soft"]);
            (axum::Extension(tags), fields, "page").into_response()
        }
    });
    let (site, runs) = behind(layer, router);
    (site, runs, fails)
}

/// The answers of all kinds that a page has.
async fn all_kinds(sites: &[Site], path: &str) -> Vec<u16> {
    let mut codes = Vec::new();
    for site in sites {
        for language in LANGUAGES {
            for (method, field) in [
                ("GET", ("x-nothing", "")),
                ("HEAD", ("x-nothing", "")),
                ("GET", ("if-none-match", "\"1\"")),
                ("GET", ("range", "bytes=0-1")),
            ] {
                let fields = [("accept-language", language), field];
                codes.push(ask(site, method, path, &fields).await.status.as_u16());
            }
        }
    }
    codes
}

/// Asks until each language is stored.
async fn fill(site: &Site, path: &str) {
    let start = Instant::now();
    for language in LANGUAGES {
        let fields = [("accept-language", language)];
        while !ask(site, "GET", path, &fields).await.is_hit() {
            assert!(start.elapsed() < Duration::from_secs(20), "never stored");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// D11: soft and hard, when the handler fails, on two nodes, for all that a page has.
pub(crate) async fn d11_what_is_expired_is_served_and_what_is_purged_is_not() {
    let server = RedisServer::start(&[]).unwrap();
    let hour = Duration::from_secs(3600);
    let mut figures = (0, 0, 0, 0);
    for round in 0..if is_long() { 100 } else { 10 } {
        let caches = [(); NODES].map(|()| Cache::new(redis(&server)));
        let layers = caches.each_ref().map(|cache| {
            let layer = CacheLayer::new(cache.clone()).key_prefix(round.to_string());
            layer.stale_if_error(hour).throttle(Duration::ZERO)
        });
        let sites = layers.each_ref().map(|layer| failing(layer, 503));
        fill(&sites[0].0, "/").await;
        fill(&sites[0].0, "/other").await;
        for (_, _, fails) in &sites {
            fails.store(true, Ordering::SeqCst);
        }
        let only = sites.each_ref().map(|(site, ..)| site.clone());
        caches[0].expire(["soft"]).await.unwrap();
        for path in ["/", "/other"] {
            let codes = all_kinds(&only, path).await;
            figures.0 += codes.len();
            figures.1 += codes.iter().filter(|code| **code < 500).count();
        }
        let uri = Uri::from_static("http://site.test/");
        assert!(layers[0].purge(&uri).await.unwrap());
        caches[1].invalidate(["soft"]).await.unwrap();
        for path in ["/", "/other"] {
            let codes = all_kinds(&only, path).await;
            figures.2 += codes.len();
            figures.3 += codes.iter().filter(|code| **code < 500).count();
        }
    }
    let (soft, soft_served, hard, hard_served) = figures;
    println!(
        "D11: of {soft} answers for what was expired {soft_served} were served stale (all), of {hard} \
         for what was purged or invalidated {hard_served} (0)"
    );
    assert_eq!((soft, 0), (soft_served, hard_served));
}

/// B6: bursts of errors, with and without `must-revalidate`; B1: how often the handler is asked.
pub(crate) async fn b6_errors_are_hidden_where_that_is_allowed() {
    let (mut allowed, mut served, mut forbidden, mut hidden) = (0, 0, 0, 0);
    for status in [500, 502, 503, 504] {
        let (cache, clock) = timed();
        let hour = Duration::from_secs(3600);
        let layer = CacheLayer::new(cache)
            .stale_if_error(hour)
            .throttle(Duration::ZERO);
        let (site, _, fails) = failing(&layer, status);
        for path in ["/", "/must"] {
            fill(&site, path).await;
        }
        clock.advance(Duration::from_secs(60));
        fails.store(true, Ordering::SeqCst);
        for _ in 0..100 {
            let code = ask(&site, "GET", "/", &[("accept-language", "de")])
                .await
                .status;
            allowed += 1;
            served += usize::from(code == 200);
            let code = ask(&site, "GET", "/must", &[("accept-language", "de")])
                .await
                .status;
            forbidden += 1;
            hidden += usize::from(code == 200);
        }
    }
    println!(
        "B6: of {allowed} errors {served} were hidden (all), of {forbidden} with must-revalidate \
         {hidden} (0)"
    );
    assert_eq!((allowed, 0), (served, hidden));

    let (cache, clock) = timed();
    let layer = CacheLayer::new(cache).stale_if_error(Duration::from_secs(3600));
    let (site, runs, fails) = failing(&layer, 503);
    fill(&site, "/").await;
    clock.advance(Duration::from_secs(60));
    fails.store(true, Ordering::SeqCst);
    runs.take();
    for _ in 0..180 {
        for _ in 0..20 {
            let seen = ask(&site, "GET", "/", &[("accept-language", "de")]).await;
            assert_eq!(seen.status, 200);
        }
        clock.advance(Duration::from_secs(1));
    }
    let asked = runs.take();
    println!(
        "B1: 3600 answers in 3 minutes of errors, all stale; the handler was asked {asked} times (7)"
    );
    assert!(asked <= 7, "{asked}");
}

/// A handler that fails for one page keeps nothing from another, and nothing is kept that was never
/// there.
pub(crate) async fn nothing_stale_is_made_up() {
    let layer = CacheLayer::new(memory()).stale_if_error(Duration::from_secs(60));
    let (site, _, fails) = failing(&layer, 503);
    fails.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        let codes = all_kinds(std::slice::from_ref(&site), "/").await;
        assert!(codes.iter().all(|code| *code == 503), "{codes:?}");
    }
}
