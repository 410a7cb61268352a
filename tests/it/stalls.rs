//! A store that fails in the middle of a request: how long its client waits, and what is forgotten.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum_cache::backend::{CircuitBreaker, Memory};
use axum_cache::clock::ManualClock;
use axum_cache::layer::CacheService;
use axum_cache::testing::{Fault, Operation, TestBackend};
use axum_cache::{Cache, CacheLayer, ErrorKind, Tags};
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt};

use crate::support::backends::Remote;
use crate::support::site::ask;

/// What one call of the store takes at most.
const DEADLINE: Duration = Duration::from_millis(500);

const DE: (&str, &str) = ("accept-language", "de");
const EN: (&str, &str) = ("accept-language", "en");
const FR: (&str, &str) = ("accept-language", "fr");

/// Pages that are the number of their making.
fn numbers(layer: &CacheLayer, runs: &Arc<AtomicUsize>) -> CacheService<Router> {
    let runs = Arc::clone(runs);
    layer.layer(Router::new().fallback(move || {
        let run = runs.fetch_add(1, Ordering::SeqCst);
        async move {
            let fields = [
                ("vary", "accept-language"),
                ("cache-control", "max-age=60, stale-if-error=600"),
            ];
            (fields, axum::Extension(Tags::new(["own"])), run.to_string())
        }
    }))
}

#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "all combinations are tried")]
struct Case {
    shared: bool,
    /// The layer has tags of its own, which are read with the page.
    tags: bool,
    /// Variants of the page are stored,
    known: bool,
    /// and stale.
    stale: bool,
    /// One call fails, and not all from that one on.
    once: bool,
    /// Which call is the first to fail.
    call: usize,
}

impl Case {
    fn all() -> impl Iterator<Item = Self> {
        (0..32).flat_map(|bits| {
            let is = move |bit: u32| bits >> bit & 1 == 1;
            (0..16).map(move |call| Self {
                shared: is(0),
                tags: is(1),
                known: is(2),
                stale: is(3),
                once: is(4),
                call,
            })
        })
    }

    async fn check(self) {
        let clock = ManualClock::new();
        let memory = Memory::builder().clock(clock.clone()).build().unwrap();
        let store = TestBackend::new(memory).with_shared(self.shared);
        let cache = Cache::builder(store.clone()).clock(clock.clone());
        let mut layer = CacheLayer::new(cache.build().unwrap());
        if self.tags {
            layer = layer.tags(["t"]);
        }
        let runs = Arc::new(AtomicUsize::new(0));
        let site = numbers(&layer, &runs);
        if self.known {
            for language in [DE, EN] {
                ask(&site, "/", &[language]).await;
                sleep(Duration::from_millis(1)).await;
            }
        }
        if self.stale {
            clock.advance(Duration::from_secs(61));
        }
        let before = runs.load(Ordering::SeqCst);
        let times = if self.once { 1 } else { usize::MAX };
        let fault = |fault: Fault| fault.after(self.call).times(times);
        store.inject(fault(Fault::delay(DEADLINE)));
        store.inject(fault(Fault::error(ErrorKind::Timeout)));
        let start = Instant::now();
        let seen = ask(&site, "/", &[if self.known { DE } else { FR }]).await;
        let took = start.elapsed();
        assert_eq!(seen.code, 200, "{self:?}");
        let made = runs.load(Ordering::SeqCst) - before;
        assert!(made <= 1, "{self:?}: {made} runs");
        assert!(took <= DEADLINE, "{self:?}: {took:?}, {}", seen.status);
        store.heal();
        sleep(DEADLINE * 20).await;
        let start = Instant::now();
        assert_eq!(ask(&site, "/", &[DE]).await.code, 200, "{self:?}");
        let took = start.elapsed();
        assert!(took < DEADLINE, "{self:?}: then {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_for_one_call_that_fails() {
    for case in Case::all() {
        case.check().await;
    }
}

/// Behind a breaker, which remembers what could not be removed.
#[tokio::test]
async fn a_change_whose_removal_fails_once_is_not_forgotten() {
    let store = Remote::default().with_shared(true);
    let layer = CacheLayer::http(Cache::new(CircuitBreaker::new(store.clone())));
    let site = numbers(&layer, &Arc::default());
    assert_eq!(ask(&site, "/", &[]).await.body, "0");
    assert!(ask(&site, "/", &[]).await.is_hit());
    for kind in [ErrorKind::Timeout, ErrorKind::Unavailable] {
        store.inject(Fault::error(kind).on(Operation::Delete).times(1));
        let request = Request::post("http://site.test/").body(Body::empty());
        let changed = site.clone().oneshot(request.unwrap()).await;
        changed.unwrap();
        sleep(Duration::from_millis(50)).await;
        let seen = ask(&site, "/", &[]).await;
        assert!(!seen.is_hit(), "{kind:?} {}", seen.status);
    }
}
