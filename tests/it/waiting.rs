//! Requests that wait, and what they keep from others meanwhile; answers that nobody waits for.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::handler::Handler;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum_cache::backend::Memory;
use axum_cache::testing::{Fault, Operation};
use axum_cache::{Cache, CacheGuard, CacheLayer, cache_page};
use tokio::time::{Instant, sleep, timeout};
use tower::limit::ConcurrencyLimit;
use tower::{Layer, Service, ServiceExt};

use crate::support::backends::Remote;
use crate::support::site::ask;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn memory() -> Cache {
    Cache::new(Memory::new())
}

fn request(path: &str) -> Request {
    let uri = format!("http://site.test{path}");
    Request::get(uri).body(Body::empty()).unwrap()
}

/// Asks a service that is then called.
async fn ready<S>(service: &mut S) -> &mut S
where
    S: Service<Request, Error = Infallible> + Send,
{
    service.ready().await.unwrap()
}

/// Of one page, `/slow`, the handler takes nine seconds.
fn router() -> Router {
    Router::new().fallback(get(|request: Request| async move {
        if request.uri().path() == "/slow" {
            sleep(9 * SECOND).await;
        }
        "page"
    }))
}

/// A service that is kept, such as one for a connection, is asked whether it is ready, and then has the answer itself.
#[tokio::test(start_paused = true)]
async fn a_hit_keeps_no_permit_and_no_place_in_the_queue() {
    let site = CacheLayer::new(memory()).layer(ConcurrencyLimit::new(router(), 1));
    site.clone().oneshot(request("/")).await.unwrap();
    for other in ["/other", "/slow"] {
        // The second time, the permit is taken.
        let busy = tokio::spawn(site.clone().oneshot(request(other)));
        sleep(SECOND / 10).await;
        let mut kept = site.clone();
        let hit = ready(&mut kept).await.call(request("/")).await.unwrap();
        let status = hit.headers()["cache-status"].to_str().unwrap();
        assert!(status.contains("; hit"), "{status}");
        busy.await.unwrap().unwrap();
        let path = format!("/after{other}");
        let after = timeout(MINUTE, site.clone().oneshot(request(&path))).await;
        assert!(after.is_ok(), "{other}: it waits for ever");
        drop(kept);
    }
}

/// The leader is not ready yet, and those who follow it were before.
#[tokio::test(start_paused = true)]
async fn followers_keep_no_permit_from_their_leader_nor_from_others() {
    let site = CacheLayer::new(memory()).layer(ConcurrencyLimit::new(router(), 1));
    let (mut first, mut second) = (site.clone(), site);
    let began = Instant::now();
    ready(&mut first).await;
    let leader = tokio::spawn(ready(&mut second).await.call(request("/")));
    tokio::task::yield_now().await;
    let follower = tokio::spawn(first.call(request("/")));
    leader.await.unwrap().unwrap();
    follower.await.unwrap().unwrap();
    assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());

    let site = CacheLayer::new(memory()).layer(ConcurrencyLimit::new(router(), 4));
    let slow = (0..4).map(|_| tokio::spawn(site.clone().oneshot(request("/slow"))));
    let slow: Vec<_> = slow.collect();
    sleep(SECOND / 10).await;
    let began = Instant::now();
    site.oneshot(request("/")).await.unwrap();
    assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
    for slow in slow {
        slow.await.unwrap().unwrap();
    }
}

/// As one branch of a `select!` in a loop, which is not polled while another one runs.
#[tokio::test(start_paused = true)]
async fn nobody_waits_for_ever_for_a_place_that_another_one_was_taking() {
    let remote = Remote::default().with_shared(true);
    let site = CacheLayer::new(Cache::new(remote.clone())).layer(router());
    remote.inject(Fault::delay(SECOND / 10).on(Operation::Add).times(1));
    let mut kept = Box::pin(site.clone().oneshot(request("/")));
    assert!(timeout(SECOND / 100, &mut kept).await.is_err());
    let other = timeout(MINUTE, site.oneshot(request("/"))).await;
    assert!(other.is_ok(), "it waits for ever");
    drop(kept);
}

/// Whether others wait for the same, or nobody does.
#[tokio::test(start_paused = true)]
async fn handlers_that_never_end_do_not_stay_when_everybody_has_gone() {
    struct Here(Arc<AtomicUsize>);
    impl Drop for Here {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let here = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&here);
    let hangs = move || {
        counted.fetch_add(1, Ordering::SeqCst);
        let here = Here(Arc::clone(&counted));
        async move {
            let _here = here;
            pending::<()>().await;
        }
    };
    let site = CacheLayer::new(memory()).layer(Router::new().fallback(get(hangs)));
    for page in 0..100 {
        let path = format!("/{page}");
        let one = timeout(SECOND, ask(&site, &path, &[]));
        let other = timeout(2 * SECOND, async {
            ask(&site, &path, &[]).await;
        });
        let (one, other) = tokio::join!(Box::pin(one), Box::pin(other));
        assert!(one.is_err() && other.is_err());
    }
    assert!(here.load(Ordering::SeqCst) > 0, "some go on");
    sleep(10 * MINUTE).await;
    assert_eq!(here.load(Ordering::SeqCst), 0);
}

/// As when `main` returns while a request is under way: what one layer hands over is dropped, and the other one has
/// something to hand over, too.
#[test]
fn a_runtime_that_shuts_down_does_not_stand_still() {
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().unwrap();
        let cache = memory();
        let hangs = get(pending::<()>);
        let inner = cache_page(MINUTE, cache.clone(), "in").layer(Router::new().fallback(hangs));
        let site = CacheLayer::new(cache).layer(Router::new().fallback_service(inner));
        runtime.spawn(site.oneshot(request("/")));
        runtime.block_on(async { sleep(SECOND / 100).await });
        drop(runtime);
        done.send(()).unwrap();
    });
    assert!(ended.recv_timeout(10 * SECOND).is_ok());
}

#[tokio::test(start_paused = true)]
async fn to_close_the_cache_is_to_wait_for_the_answers_of_those_who_have_gone() {
    let cache = memory();
    let done = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&done);
    let page = move || async move {
        sleep(SECOND).await;
        counted.fetch_add(1, Ordering::SeqCst);
    };
    let site = CacheLayer::new(cache.clone()).layer(Router::new().fallback(get(page)));
    assert!(timeout(SECOND / 2, ask(&site, "/", &[])).await.is_err());
    cache.close().await.unwrap();
    assert_eq!(done.load(Ordering::SeqCst), 1);
}

/// Many a middleware makes a new response of an old one, and leaves its extensions.
#[tokio::test(start_paused = true)]
async fn where_the_last_word_is_lost_on_the_way_nobody_waits_for_it_again() {
    async fn anew(request: Request, next: Next) -> Response {
        let (parts, body) = next.run(request).await.into_parts();
        (parts.status, parts.headers, body).into_response()
    }
    let page = || async {
        sleep(SECOND).await;
        "page"
    };
    let page = page.layer(cache_page(MINUTE, memory(), ""));
    let site = Router::new()
        .route("/", get(page))
        .layer(from_fn(anew))
        .layer(CacheGuard::new());
    let read = |site: Router| async {
        let response = site.oneshot(request("/")).await.unwrap();
        to_bytes(response.into_body(), 100).await.unwrap()
    };
    let mut took = Vec::new();
    for _ in 0..3 {
        let began = Instant::now();
        let all: Vec<_> = (0..10).map(|_| tokio::spawn(read(site.clone()))).collect();
        for one in all {
            assert_eq!(one.await.unwrap(), "page");
        }
        took.push(began.elapsed());
    }
    assert!(took[2] < 2 * SECOND, "{took:?}");
}
