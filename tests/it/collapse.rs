//! Many requests for one page at once: one computation, and nobody waits for what is not shared.
#![allow(clippy::print_stdout, reason = "figures beside their criterion")]

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum_cache::backend::Memory;
use axum_cache::layer::CacheService;
use axum_cache::{Cache, CacheLayer, CacheVeto};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tower::{Layer, ServiceExt};

use crate::support::backends::{Remote, down};
use crate::support::http::{Channel, Server};

const PARTS: usize = 20;
const PART: usize = 5_000;
const WORK: Duration = Duration::from_millis(100);

/// Works for a while, then sends a body of parts for as long.
#[derive(Clone, Default)]
struct Slow {
    runs: Arc<AtomicUsize>,
}

impl Slow {
    fn runs(&self) -> usize {
        self.runs.swap(0, Ordering::SeqCst)
    }

    async fn answer(self) -> Response {
        let run = self.runs.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(WORK).await;
        let (sender, receiver) = mpsc::channel::<Result<Bytes, Infallible>>(1);
        tokio::spawn(async move {
            for _ in 0..PARTS {
                tokio::time::sleep(WORK / u32::try_from(PARTS).unwrap()).await;
                let part = Bytes::from(vec![b'a' + u8::try_from(run % 26).unwrap(); PART]);
                if sender.send(Ok(part)).await.is_err() {
                    return;
                }
            }
        });
        Body::new(Channel(receiver)).into_response()
    }

    fn behind(&self, layer: &CacheLayer) -> CacheService<Router> {
        let slow = self.clone();
        layer.layer(Router::new().fallback(move || slow.clone().answer()))
    }
}

/// A site whose answers know how many there were before them, and that number.
fn numbered<Answering, Answer>(
    answer: impl Fn(usize, Request) -> Answering + Clone + Send + Sync + 'static,
) -> (Arc<AtomicUsize>, Router)
where
    Answering: Future<Output = Answer> + Send + 'static,
    Answer: IntoResponse + 'static,
{
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&runs);
    let handler = move |request| answer(counted.fetch_add(1, Ordering::SeqCst), request);
    (runs, Router::new().fallback(handler))
}

fn request(fields: &[(&str, String)]) -> Request {
    let mut request = Request::builder().uri("http://site/page");
    for (name, value) in fields {
        request = request.header(*name, value);
    }
    request.body(Body::empty()).unwrap()
}

/// The body, and how long it took from the request to its last byte.
async fn fetch(site: CacheService<Router>, request: Request) -> (Bytes, Duration) {
    let start = Instant::now();
    let response = site.oneshot(request).await.unwrap();
    let body = to_bytes(Body::new(response.into_body()), usize::MAX).await;
    (body.unwrap(), start.elapsed())
}

async fn crowd(site: &CacheService<Router>, count: usize) -> Vec<(Bytes, Duration)> {
    let requests = (0..count).map(|_| fetch(site.clone(), request(&[])));
    requests.collect::<JoinSet<_>>().join_all().await
}

fn percentile(times: impl Iterator<Item = Duration>, percent: usize) -> Duration {
    let mut times: Vec<_> = times.collect();
    times.sort_unstable();
    times[(times.len() * percent / 100).min(times.len() - 1)]
}

fn caches() -> [Cache; 2] {
    [Cache::new(Memory::new()), Cache::new(Remote::default())]
}

/// C5: before the head, in the body, near its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c5_a_leader_that_leaves_changes_nothing_for_a_thousand_followers() {
    for cache in caches() {
        for percent in [10, 50, 90] {
            let mut attempts = 0..20;
            // On a busy machine the leader may have all before it looks at the time to leave.
            while !leaves_at(percent, &cache, attempts.next().expect("it never leaves")).await {}
        }
    }
}

/// The leader leaves after so much of its time. Whether it did.
async fn leaves_at(percent: u32, cache: &Cache, attempt: u32) -> bool {
    let slow = Slow::default();
    let layer = CacheLayer::new(cache.clone()).key_prefix(format!("{percent}.{attempt}"));
    let site = slow.behind(&layer);
    let leaves = WORK * 2 * percent / 100;
    let leader = tokio::time::timeout(leaves, fetch(site.clone(), request(&[])));
    let leader = tokio::spawn(leader);
    while slow.runs.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    let bodies = crowd(&site, 1_000).await;
    for (body, _) in bodies {
        assert_eq!(body, vec![b'a'; PARTS * PART]);
    }
    assert_eq!(slow.runs(), 1, "{percent} %");
    let (stored, _) = fetch(site, request(&[])).await;
    assert_eq!((stored.len(), slow.runs()), (PARTS * PART, 0));
    leader.await.unwrap().is_err()
}

/// C6: what was begun is finished, and nothing is left behind.
#[tokio::test(start_paused = true)]
async fn c6_when_all_leave_the_page_is_stored_all_the_same() {
    let slow = Slow::default();
    let site = slow.behind(&CacheLayer::new(Cache::new(Memory::new())));
    let all = tokio::time::timeout(WORK / 2, crowd(&site, 100)).await;
    assert!(all.is_err());
    tokio::time::sleep(WORK * 3).await;
    let (body, took) = fetch(site, request(&[])).await;
    assert_eq!((body.len(), slow.runs()), (PARTS * PART, 1));
    assert!(took < WORK, "{took:?}");
}

/// C7: everybody gets an answer of their own, and later waves wait for nobody: in virtual time, their p99
/// is within 50 ms of the handler's own.
#[tokio::test(start_paused = true)]
async fn c7_an_uncacheable_answer_is_nobody_elses_and_holds_nobody_up() {
    const OWN_TIME: Duration = Duration::from_millis(200);
    for field in [("set-cookie", "sid=1"), ("cache-control", "private")] {
        let (runs, router) = numbered(move |run, _| async move {
            tokio::time::sleep(OWN_TIME).await;
            ([field], run.to_string())
        });
        let site = CacheLayer::new(Cache::new(Memory::new())).layer(router);
        let mut waves = Vec::new();
        for _ in 0..4 {
            waves.push(crowd(&site, 1_000).await);
        }
        assert_eq!(runs.load(Ordering::SeqCst), 4_000);
        let bodies: HashSet<_> = waves.iter().flatten().map(|(body, _)| body).collect();
        assert_eq!(bodies.len(), 4_000, "each its own");
        let p99 = waves.into_iter();
        let p99 = p99.map(|wave| percentile(wave.into_iter().map(|it| it.1), 99));
        let p99: Vec<_> = p99.collect();
        println!("{field:?}: handler {OWN_TIME:?}, p99 of the waves {p99:?}");
        assert!(p99[0] <= OWN_TIME * 2, "{p99:?}");
        let worst = p99[1..].iter().max().unwrap();
        assert!(*worst < OWN_TIME + Duration::from_millis(50), "{p99:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_that_is_shared_again_is_waited_for_again() {
    let (runs, router) = numbered(|run, _| async move {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let directive = if run == 0 { "no-store" } else { "max-age=60" };
        ([("cache-control", directive)], "page")
    });
    let cache = Cache::new(Memory::new());
    let site = CacheLayer::new(cache.clone()).layer(router);
    fetch(site.clone(), request(&[])).await;
    fetch(site.clone(), request(&[])).await;
    assert_eq!(runs.swap(1, Ordering::SeqCst), 2);
    cache.clear().await.unwrap();
    crowd(&site, 50).await;
    assert_eq!(runs.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn followers_get_the_variant_they_asked_for() {
    let (runs, router) = numbered(|_, request| async move {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let language = request.headers()["accept-language"].to_str().unwrap();
        ([("vary", "Accept-Language")], language.to_owned())
    });
    for cache in caches() {
        let site = CacheLayer::new(cache).layer(router.clone());
        let requests = (0..300).map(|number| {
            let language = format!("l{}", number % 3);
            let site = site.clone();
            async move {
                let (body, _) =
                    fetch(site, request(&[("accept-language", language.clone())])).await;
                assert_eq!(body, language);
            }
        });
        requests.collect::<JoinSet<_>>().join_all().await;
        assert_eq!(runs.swap(0, Ordering::SeqCst), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn who_may_not_have_the_leaders_answer_asks_for_themselves() {
    let handler = |request: Request| async move {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let of = |name| {
            let value = request.headers().get(name);
            value.map_or("nobody", |it| it.to_str().unwrap()).to_owned()
        };
        format!("{}, {}", of("cookie"), of("authorization"))
    };
    for cache in caches() {
        let site = CacheLayer::new(cache).layer(Router::new().fallback(handler));
        let requests = (0..200).map(|number| {
            let site = site.clone();
            async move {
                let secret = format!("secret-{number}");
                let (fields, expected) = match number % 3 {
                    0 => (vec![], "nobody, nobody".to_owned()),
                    1 => (
                        vec![("cookie", secret.clone())],
                        format!("{secret}, nobody"),
                    ),
                    _ => (
                        vec![("authorization", secret.clone())],
                        format!("nobody, {secret}"),
                    ),
                };
                assert_eq!(fetch(site, request(&fields)).await.0, expected);
            }
        });
        requests.collect::<JoinSet<_>>().join_all().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_panics_does_so_before_its_client_and_frees_the_others() {
    let (_, router) = numbered(|run, _| async move {
        tokio::time::sleep(Duration::from_millis(20)).await;
        if run == 0 {
            std::panic::resume_unwind(Box::new("on purpose"));
        }
        "page"
    });
    let site = CacheLayer::new(Cache::new(Memory::new())).layer(router);
    let leader = tokio::spawn(fetch(site.clone(), request(&[])));
    let followers: Vec<_> = (0..10)
        .map(|_| tokio::spawn(fetch(site.clone(), request(&[]))))
        .collect();
    assert!(leader.await.is_err_and(|error| error.is_panic()));
    for follower in followers {
        assert_eq!(follower.await.unwrap().0, "page");
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_purged_while_others_wait_is_made_anew_for_them() {
    let slow = Slow::default();
    let layer = CacheLayer::new(Cache::new(Memory::new()));
    let site = slow.behind(&layer);
    let waiting = tokio::spawn({
        let site = site.clone();
        async move { crowd(&site, 50).await }
    });
    tokio::time::sleep(WORK / 2).await;
    layer
        .purge(&"http://site/page".parse().unwrap())
        .await
        .unwrap();
    let (late, _) = fetch(site.clone(), request(&[])).await;
    assert_eq!(late[0], b'b', "made after the purge");
    let olds = waiting.await.unwrap();
    assert_eq!(olds.iter().filter(|(body, _)| body[0] == b'a').count(), 1);
    assert!(slow.runs() <= 3);
    assert_eq!(fetch(site, request(&[])).await.0[0], b'b');
}

#[tokio::test(start_paused = true)]
async fn a_layer_twice_on_the_way_does_not_wait_for_itself() {
    let layer = CacheLayer::new(Cache::new(Memory::new()));
    let slow = Slow::default();
    let site = layer.layer(slow.behind(&layer));
    let answer = tokio::time::timeout(WORK * 20, site.oneshot(request(&[]))).await;
    assert_eq!(answer.unwrap().unwrap().status(), 200);
    assert_eq!(slow.runs(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_still_lets_one_request_answer_all() {
    let remote = Remote::default();
    remote.inject(down());
    let slow = Slow::default();
    let site = slow.behind(&CacheLayer::new(Cache::new(remote)));
    for (body, _) in crowd(&site, 100).await {
        assert_eq!(body.len(), PARTS * PART);
    }
    assert_eq!(slow.runs(), 1);
}

/// E13: what the leader does not read keeps nobody waiting.
#[tokio::test]
async fn e13_a_leader_that_reads_slowly_holds_nobody_up() {
    let slow = Slow::default();
    let server = Server::start(slow.behind(&CacheLayer::new(Cache::new(Memory::new())))).await;
    let mut leader = tokio::net::TcpStream::connect(&server.host).await.unwrap();
    let request = format!("GET /page HTTP/1.1\r\nhost: {}\r\n\r\n", server.host);
    tokio::io::AsyncWriteExt::write_all(&mut leader, request.as_bytes())
        .await
        .unwrap();
    while slow.runs.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    let start = Instant::now();
    assert_eq!(server.get("/page").await.status, 200);
    // And what a busy machine adds.
    let most = WORK * 4 + Duration::from_secs(1);
    assert!(start.elapsed() < most, "{:?}", start.elapsed());
    assert_eq!(slow.runs(), 1);
    drop(leader);
}

/// C10: two layers whose handlers ask each other, and a handler that never answers.
#[tokio::test(start_paused = true)]
async fn c10_nobody_waits_for_ever() {
    let (runs, router) = numbered(|run, _| async move {
        if run == 0 {
            std::future::pending::<()>().await;
        }
        "page"
    });
    let layer = CacheLayer::new(Cache::new(Memory::new())).lock_timeout(WORK);
    let site = layer.layer(router);
    let hung = tokio::time::timeout(WORK / 2, fetch(site.clone(), request(&[])));
    assert!(hung.await.is_err(), "its client leaves");
    let start = Instant::now();
    for (body, _) in crowd(&site, 50).await {
        assert_eq!(body, "page");
    }
    assert!(start.elapsed() < WORK * 2, "{:?}", start.elapsed());
    assert_eq!(runs.load(Ordering::SeqCst), 2);
}

/// The refresh of a stale page is made for the request that it is made by.
#[tokio::test]
async fn a_refresh_is_stored_under_what_it_was_made_with() {
    let clock = axum_cache::clock::ManualClock::new();
    let memory = Memory::builder().clock(clock.clone()).build().unwrap();
    let cache = Cache::builder(memory).clock(clock.clone()).build().unwrap();
    let handler = |request: Request| async move {
        let cookie = request.headers().get("cookie");
        let cookie = cookie.map_or("none", |it| it.to_str().unwrap()).to_owned();
        let fields = [("cache-control", "max-age=1, stale-while-revalidate=600")];
        if request
            .extensions()
            .get::<CacheVeto>()
            .is_some_and(CacheVeto::is_forbidden)
        {
            return (fields, format!("personal {cookie}"));
        }
        (fields, cookie)
    };
    let layer = CacheLayer::http(cache).cookies(["lang"]);
    let site = layer.layer(Router::new().fallback(handler));
    let ask = |cookie: &'static str, vetoed: bool| {
        let mut request = request(&[("cookie", cookie.to_owned())]);
        if vetoed {
            let veto = CacheVeto::new();
            veto.forbid();
            request.extensions_mut().insert(veto);
        }
        fetch(site.clone(), request)
    };
    for cookie in ["lang=de", "lang=fr"] {
        assert_eq!(ask(cookie, false).await.0, cookie);
    }
    for round in 0..4 {
        clock.advance(Duration::from_secs(2));
        // With a veto, a stale answer is all there is to be had.
        for cookie in ["lang=de", "lang=fr"] {
            assert_eq!(ask(cookie, round == 2).await.0, cookie);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
