//! Writers of one page that overtake each other, and clients that go before their answers come.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum_cache::backend::{Backend, Memory};
use axum_cache::clock::ManualClock;
use axum_cache::layer::CacheService;
use axum_cache::testing::{Fault, Operation, TestBackend};
use axum_cache::{Cache, CacheLayer, ErrorKind, Ttl};
use tokio::sync::Notify;
use tower::Layer;

use crate::support::backends::{Provided, Remote};
use crate::support::site::{Seen, ask};

/// A site whose pages are the number of their making, in the language that was asked for, and as the request says.
#[derive(Clone, Default)]
struct Pages {
    runs: Arc<AtomicUsize>,
    running: Arc<AtomicUsize>,
    began: Arc<Notify>,
    goes_on: Arc<Notify>,
}

struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Pages {
    fn behind(&self, layer: &CacheLayer) -> CacheService<Router> {
        let pages = self.clone();
        layer.layer(Router::new().fallback(move |request| pages.clone().page(request)))
    }

    async fn page(self, request: Request) -> Response {
        let run = self.runs.fetch_add(1, Ordering::SeqCst);
        self.running.fetch_add(1, Ordering::SeqCst);
        let _running = Running(Arc::clone(&self.running));
        let fields = request.headers().clone();
        let get = |name: &str| {
            let value = fields.get(name);
            value.map(|it| it.to_str().unwrap().to_owned())
        };
        if get("x-wait").is_some() {
            self.began.notify_one();
            self.goes_on.notified().await;
        }
        let control = get("x-control").unwrap_or("max-age=600".into());
        let vary = get("x-vary").unwrap_or("accept-language".into());
        let code = get("x-code").map_or(200, |it| it.parse().unwrap());
        let mut response = run.to_string().into_response();
        *response.status_mut() = StatusCode::from_u16(code).unwrap();
        let headers = response.headers_mut();
        headers.insert("cache-control", control.parse().unwrap());
        if vary != "none" {
            headers.insert("vary", vary.parse().unwrap());
        }
        response
    }
}

async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

async fn get(site: &CacheService<Router>, uri: &str, fields: &[(&str, &str)]) -> Seen {
    let seen = ask(site, uri, fields).await;
    settle().await;
    seen
}

async fn begin(
    pages: &Pages,
    site: &CacheService<Router>,
    uri: &'static str,
    fields: &[(&'static str, &'static str)],
) -> tokio::task::JoinHandle<Seen> {
    let site = site.clone();
    let mut fields = fields.to_vec();
    fields.push(("x-wait", "1"));
    let asking = tokio::spawn(async move { ask(&site, uri, &fields).await });
    pages.began.notified().await;
    asking
}

fn uri(path: &str) -> Uri {
    format!("http://site.test{path}").parse().unwrap()
}

const DE: (&str, &str) = ("accept-language", "de");
const EN: (&str, &str) = ("accept-language", "en");
const FR: (&str, &str) = ("accept-language", "fr");

/// The entry of an older one, beside the primary one, comes last.
#[tokio::test]
async fn a_variant_of_a_writer_that_stalls_does_not_come_back() {
    let clock = ManualClock::new();
    let memory = Memory::builder().clock(clock.clone()).build().unwrap();
    let nodes = [(); 2].map(|()| Remote::new(memory.clone()).with_shared(true));
    let [a, b] = nodes.each_ref().map(|node| {
        let cache = Cache::builder(node.clone())
            .clock(clock.clone())
            .build()
            .unwrap();
        CacheLayer::new(cache)
    });
    let (pa, pb) = (Pages::default(), Pages::default());
    pb.runs.store(100, Ordering::SeqCst);
    let (a, b) = (pa.behind(&a), pb.behind(&b));
    get(&a, "/", &[DE, ("x-control", "max-age=60")]).await;
    get(&a, "/", &[EN]).await;
    assert!(get(&a, "/", &[DE]).await.is_hit() && get(&a, "/", &[EN]).await.is_hit());
    clock.advance(Duration::from_secs(62));
    // Both nodes make the variant.
    let slow_b = begin(&pb, &b, "/", &[DE]).await;
    nodes[0].inject(Fault::hang().on(Operation::Set).times(1));
    let older = get(&a, "/", &[DE]).await;
    assert!(!older.is_hit());
    clock.advance(Duration::from_secs(5));
    pb.goes_on.notify_one();
    let newer = slow_b.await.unwrap();
    settle().await;
    assert_eq!((older.body.as_str(), newer.body.as_str()), ("2", "100"));
    let seen = get(&b, "/", &[DE]).await;
    assert_eq!((seen.is_hit(), seen.body.as_str()), (true, "100"));
    // The stalled write of node A lands.
    nodes[0].heal();
    settle().await;
    get(&b, "/", &[FR]).await;
    let seen = get(&b, "/", &[DE]).await;
    assert_eq!(seen.body, "100", "{}", seen.status);
}

#[tokio::test]
async fn a_replaced_variant_does_not_come_back_if_a_write_fails() {
    let remote = Remote::default().with_shared(true);
    let layer = CacheLayer::http(Cache::new(remote.clone())).honour_requests(true);
    let pages = Pages::default();
    let site = pages.behind(&layer);
    assert_eq!(get(&site, "/", &[DE]).await.body, "0");
    assert_eq!(get(&site, "/", &[EN]).await.body, "1");
    assert!(get(&site, "/", &[DE]).await.is_hit());
    remote.inject(
        Fault::error(ErrorKind::Unavailable)
            .on(Operation::Set)
            .times(1),
    );
    let seen = get(&site, "/", &[DE, ("cache-control", "no-cache")]).await;
    assert_eq!(seen.body, "2");
    let seen = get(&site, "/", &[DE]).await;
    assert_eq!(
        (seen.is_hit(), seen.body.as_str()),
        (true, "2"),
        "{}",
        seen.status
    );
    get(&site, "/", &[FR]).await;
    let seen = get(&site, "/", &[DE]).await;
    assert_ne!(seen.body, "0", "{}", seen.status);
}

/// Of a store with a name, there may be another handle at any time.
#[tokio::test]
async fn a_page_that_a_later_handle_purges_is_not_stored() {
    let store = || {
        Memory::builder()
            .location("overtaken-page")
            .build()
            .unwrap()
    };
    let layer = CacheLayer::new(Cache::new(store()));
    let pages = Pages::default();
    let site = pages.behind(&layer);
    let asking = begin(&pages, &site, "/", &[DE]).await;
    let other = CacheLayer::new(Cache::new(store()));
    other.purge(&uri("/")).await.unwrap();
    pages.goes_on.notify_one();
    asking.await.unwrap();
    settle().await;
    let seen = get(&site, "/", &[DE]).await;
    assert!(!seen.is_hit(), "{}", seen.status);
}

#[tokio::test]
async fn a_value_that_a_later_handle_deletes_is_not_stored() {
    let store = || {
        Memory::builder()
            .location("overtaken-value")
            .build()
            .unwrap()
    };
    let here = Cache::new(store());
    let (began, goes_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let computing = {
        let (here, began, goes_on) = (here.clone(), Arc::clone(&began), Arc::clone(&goes_on));
        tokio::spawn(async move {
            here.get_or_set("k", Ttl::Default, move || async move {
                began.notify_one();
                goes_on.notified().await;
                Ok::<_, std::io::Error>(1)
            })
            .await
        })
    };
    began.notified().await;
    let there = Cache::new(store());
    there.delete("k").await.unwrap();
    goes_on.notify_one();
    computing.await.unwrap().unwrap();
    settle().await;
    assert_eq!(there.get::<u32>("k").await.unwrap(), None);
}

/// One leads and one follows, and both go.
#[tokio::test]
async fn pairs_of_clients_that_go_leave_no_more_handlers_than_may_be_refreshed() {
    let cache = Cache::builder(Memory::new())
        .max_refreshes(4)
        .build()
        .unwrap();
    let layer = CacheLayer::new(cache);
    let pages = Pages::default();
    let site = pages.behind(&layer);
    for number in 0..50 {
        let path: &'static str = Box::leak(format!("/{number}").into_boxed_str());
        let leader = begin(&pages, &site, path, &[DE]).await;
        let follower = {
            let site = site.clone();
            tokio::spawn(async move { ask(&site, path, &[DE]).await })
        };
        settle().await;
        leader.abort();
        settle().await;
        follower.abort();
        settle().await;
    }
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let running = pages.running.load(Ordering::SeqCst);
    assert!(running <= 4, "{running} handlers run for nobody");
}

/// One whose answer is refused has taken the place that another one goes by.
#[tokio::test]
async fn a_refused_answer_takes_no_place_from_others() {
    let remote = Remote::default().with_shared(true);
    let layer = CacheLayer::new(Cache::new(remote.clone()))
        .vary_on([axum::http::HeaderName::from_static("x-user")]);
    let pages = Pages::default();
    let site = pages.behind(&layer);
    // Once, so that there are turns.
    get(&site, "/first", &[]).await;
    // One that will be refused takes the place; another one of the same page adopts it.
    let refused = begin(
        &pages,
        &site,
        "/",
        &[("x-user", "a"), ("x-control", "private")],
    )
    .await;
    let victim = begin(&pages, &site, "/", &[("x-user", "b")]).await;
    pages.goes_on.notify_one(); // The first that waits.
    refused.await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    // Who comes now for the victim's page should wait for it.
    let second = {
        let site = site.clone();
        tokio::spawn(async move { ask(&site, "/", &[("x-user", "b"), ("x-wait", "1")]).await })
    };
    settle().await;
    let running = pages.running.load(Ordering::SeqCst);
    pages.goes_on.notify_waiters();
    pages.goes_on.notify_one();
    victim.await.unwrap();
    settle().await;
    second.abort();
    settle().await;
    let seen = get(&site, "/", &[("x-user", "b")]).await;
    assert_eq!(running, 1, "makers of one page at a time");
    assert!(seen.is_hit(), "{}", seen.status);
}

#[tokio::test]
async fn refused_answers_keep_no_page_out_of_the_cache() {
    let remote = Remote::default().with_shared(true);
    let layer = CacheLayer::new(Cache::new(remote.clone()))
        .vary_on([axum::http::HeaderName::from_static("x-user")]);
    let pages = Pages::default();
    let site = pages.behind(&layer);
    get(&site, "/first", &[]).await;
    let mut misses = 0;
    // Each time another user, whose answers are refused.
    for user in ["a1", "a2", "a3", "a4", "a5", "a6"] {
        let refused = begin(
            &pages,
            &site,
            "/",
            &[("x-user", user), ("x-control", "private")],
        )
        .await;
        let victim = begin(&pages, &site, "/", &[("x-user", "b")]);
        let victim = tokio::time::timeout(Duration::from_millis(200), victim).await;
        pages.goes_on.notify_one();
        refused.await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        if let Ok(victim) = victim {
            misses += 1;
            pages.goes_on.notify_one();
            victim.await.unwrap();
            settle().await;
        }
    }
    assert_eq!(misses, 1, "the victim's page is never stored");
}

const UNVARIED: (&str, &str) = ("x-vary", "none");
const ANEW: (&str, &str) = ("cache-control", "no-cache");

/// A page that says no `Vary` while others of it do.
fn varying(cache: Cache) -> CacheLayer {
    let layer = CacheLayer::http(cache).honour_requests(true);
    layer.lock_timeout(Duration::from_millis(50))
}

#[tokio::test]
async fn an_answer_that_does_not_vary_brings_no_replaced_variant_back() {
    for cache in [
        Cache::new(Memory::new()),
        Cache::new(Remote::default().with_shared(true)),
    ] {
        let pages = Pages::default();
        let site = pages.behind(&varying(cache));
        get(&site, "/", &[DE, UNVARIED]).await;
        let one = begin(&pages, &site, "/", &[DE, UNVARIED, ANEW]).await;
        let replaced = get(&site, "/", &[DE, ANEW]).await;
        get(&site, "/", &[EN, ANEW]).await;
        pages.goes_on.notify_one();
        one.await.unwrap();
        let two = begin(&pages, &site, "/", &[FR, UNVARIED, ANEW]).await;
        let newer = get(&site, "/", &[DE, ANEW]).await;
        pages.goes_on.notify_one();
        two.await.unwrap();
        get(&site, "/", &[EN, ANEW]).await;
        let seen = get(&site, "/", &[DE]).await;
        assert_ne!(newer.body, replaced.body);
        assert_ne!(seen.body, replaced.body, "{}", seen.status);
    }
}

/// Of a store that cannot compare, which another node uses, too.
#[tokio::test]
async fn an_answer_that_does_not_vary_brings_no_purged_variant_back() {
    let memory = Memory::new();
    let node = || {
        let store = TestBackend::new(Provided(memory.clone()));
        varying(Cache::new(store.with_shared(true)))
    };
    let pages = Pages::default();
    let site = pages.behind(&node());
    get(&site, "/", &[DE, UNVARIED]).await;
    let one = begin(&pages, &site, "/", &[DE, UNVARIED, ANEW]).await;
    let purged = get(&site, "/", &[DE, ANEW]).await;
    pages.goes_on.notify_one();
    one.await.unwrap();
    settle().await;
    let two = begin(&pages, &site, "/", &[DE, UNVARIED, ANEW]).await;
    assert!(node().purge(&uri("/")).await.unwrap());
    pages.goes_on.notify_one();
    two.await.unwrap();
    settle().await;
    get(&site, "/", &[EN, ANEW]).await;
    let seen = get(&site, "/", &[DE]).await;
    assert_ne!(seen.body, purged.body, "{}", seen.status);
}

/// A request that comes while a purge has not reached the store yet, and whose page is written after that has.
async fn a_page_made_during_a_purge(store: impl Backend + Clone) {
    let store = TestBackend::new(store).with_shared(false);
    let layer = CacheLayer::new(Cache::new(store.clone()));
    let site = Pages::default().behind(&layer);
    let seen = get(&site, "/", &[DE]).await;
    assert_eq!(seen.body, "0");
    store.inject(Fault::delay(Duration::from_millis(50)).on(Operation::Delete));
    store.inject(Fault::delay(Duration::from_millis(100)).on(Operation::Set));
    let purging = tokio::spawn({
        let layer = layer.clone();
        async move { layer.purge(&uri("/")).await }
    });
    settle().await;
    let seen = get(&site, "/", &[EN]).await;
    assert_eq!(seen.body, "1");
    assert!(purging.await.unwrap().unwrap());
    tokio::time::sleep(Duration::from_millis(200)).await;
    store.heal();
    let seen = get(&site, "/", &[DE]).await;
    assert_ne!(seen.body, "0", "purged: {}", seen.status);
}

#[tokio::test(start_paused = true)]
async fn a_page_made_during_a_purge_brings_no_variant_back() {
    a_page_made_during_a_purge(Memory::new()).await;
}

#[tokio::test(start_paused = true)]
async fn a_page_made_during_a_purge_brings_no_variant_back_where_nothing_compares() {
    a_page_made_during_a_purge(Provided(Memory::new())).await;
}

/// Of a store whose removals by a prefix run in another thread.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn pages_made_during_a_purge_of_all_bring_nothing_back() {
    let memory = Memory::builder().max_bytes(256 << 20).build().unwrap();
    let layer = CacheLayer::new(Cache::new(memory));
    let runs = Arc::new(AtomicUsize::new(0));
    let site = layer.layer(Router::new().fallback(move || {
        let run = runs.fetch_add(1, Ordering::SeqCst);
        let body = format!("{run};{}", "x".repeat(200_000));
        async move { ([("vary", "accept-language")], body) }
    }));
    let body = |site: CacheService<Router>, path: String, field| async move {
        let seen = ask(&site, &path, &[field]).await;
        seen.body.split(';').next().unwrap().to_owned()
    };
    for round in 0..100 {
        let path = format!("/{}", round % 50);
        let old = body(site.clone(), path.clone(), DE).await;
        let purging = tokio::spawn({
            let layer = layer.clone();
            async move { layer.purge_prefix(&uri("/")).await.unwrap() }
        });
        let others = (0..4).map(|_| {
            let (site, path) = (site.clone(), path.clone());
            tokio::spawn(async move {
                for field in [EN, FR] {
                    body(site.clone(), path.clone(), field).await;
                }
            })
        });
        let others: Vec<_> = others.collect();
        purging.await.unwrap();
        assert_ne!(body(site.clone(), path.clone(), DE).await, old, "{round}");
        for other in others {
            other.await.unwrap();
        }
        assert_ne!(body(site.clone(), path, DE).await, old, "{round}");
    }
}

/// The two do not wait for each other, as a tag was invalidated in between that is none of theirs.
#[tokio::test]
async fn a_variant_that_was_replaced_while_nothing_was_known_does_not_come_back() {
    let clock = ManualClock::new();
    let memory = Memory::builder().clock(clock.clone()).build().unwrap();
    let cache = Cache::builder(memory).clock(clock.clone()).build().unwrap();
    let pages = Pages::default();
    let site = pages.behind(&CacheLayer::new(cache.clone()));
    let older = begin(&pages, &site, "/", &[EN]).await;
    cache.invalidate(["of-something-else"]).await.unwrap();
    let newer = begin(&pages, &site, "/", &[EN]).await;
    for (waiting, run) in [(older, "0"), (newer, "1")] {
        clock.advance(Duration::from_secs(1));
        pages.goes_on.notify_one();
        assert_eq!(waiting.await.unwrap().body, run);
        settle().await;
    }
    let seen = get(&site, "/", &[EN]).await;
    assert_eq!((seen.is_hit(), seen.body.as_str()), (true, "1"));
    assert_eq!(get(&site, "/", &[DE]).await.body, "2");
    let seen = get(&site, "/", &[EN]).await;
    assert_ne!(seen.body, "0", "{}", seen.status);
}

/// Two nodes; the write of the one stalls, and that of the other one comes meanwhile.
async fn a_writer_that_stalls(vary: &'static str) {
    let clock = ManualClock::new();
    let memory = Memory::builder().clock(clock.clone()).build().unwrap();
    let nodes = [(); 2].map(|()| Remote::new(memory.clone()).with_shared(true));
    let [a, b] = nodes.each_ref().map(|node| {
        let cache = Cache::builder(node.clone()).clock(clock.clone());
        CacheLayer::new(cache.build().unwrap())
    });
    let (pa, pb) = (Pages::default(), Pages::default());
    pb.runs.store(100, Ordering::SeqCst);
    let (a, b) = (pa.behind(&a), pb.behind(&b));
    let fields = [EN, ("x-vary", vary)];
    let newer = begin(&pb, &b, "/", &fields).await;
    nodes[0].inject(Fault::hang().on(Operation::CompareAndSet).times(1));
    assert_eq!(get(&a, "/", &fields).await.body, "0");
    clock.advance(Duration::from_secs(5));
    pb.goes_on.notify_one();
    assert_eq!(newer.await.unwrap().body, "100");
    settle().await;
    let seen = get(&b, "/", &fields).await;
    assert_eq!((seen.is_hit(), seen.body.as_str()), (true, "100"));
    nodes[0].heal();
    settle().await;
    let seen = get(&b, "/", &fields).await;
    assert_eq!(seen.body, "100", "{vary}: {}", seen.status);
}

#[tokio::test]
async fn a_page_of_a_writer_that_stalls_does_not_replace_a_newer_one() {
    for vary in ["none", "accept-language"] {
        a_writer_that_stalls(vary).await;
    }
}
