//! Pages in a store that processes share: what is put in the place of one that is being made.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use axum_cache::backend::{Backend, Memory};
use axum_cache::clock::ManualClock;
use axum_cache::entry::Entry;
use axum_cache::layer::CacheService;
use axum_cache::testing::Fault;
use axum_cache::ttl::Lifetime;
use axum_cache::{Cache, CacheLayer};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tower::Layer;

use crate::support::backends::{Remote, down};
use crate::support::site::{Seen, ask};

const SITE: &str = "http://site.test";

/// A handler that answers with a number, waits where it is told to, and fails below `/never`.
#[derive(Clone, Default)]
struct Pages {
    runs: Arc<AtomicUsize>,
    began: Arc<Notify>,
    goes_on: Arc<Notify>,
}

impl Pages {
    fn runs(&self) -> usize {
        self.runs.swap(0, Ordering::SeqCst)
    }

    fn behind(&self, layer: &CacheLayer) -> CacheService<Router> {
        let pages = self.clone();
        layer.layer(Router::new().fallback(move |request| pages.clone().page(request)))
    }

    async fn page(self, request: Request) -> Response {
        let run = self.runs.fetch_add(1, Ordering::SeqCst);
        if request.headers().contains_key("x-wait") {
            self.began.notify_one();
            self.goes_on.notified().await;
        }
        let control = match request.uri().path() {
            "/never" => "no-store",
            _ => "max-age=600",
        };
        let fields = [("cache-control", control), ("vary", "accept-language")];
        (fields, run.to_string()).into_response()
    }
}

async fn get(site: &CacheService<Router>, uri: &str, language: &str) -> Seen {
    let seen = ask(site, uri, &[("accept-language", language)]).await;
    settle().await;
    seen
}

async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// Begins a request whose handler waits.
async fn begin(
    pages: &Pages,
    site: &CacheService<Router>,
    uri: &'static str,
    language: &'static str,
) -> tokio::task::JoinHandle<Seen> {
    let site = site.clone();
    let fields = [("accept-language", language), ("x-wait", "1")];
    let asking = tokio::spawn(async move { ask(&site, uri, &fields).await });
    pages.began.notified().await;
    asking
}

fn uri(path: &str) -> Uri {
    format!("{SITE}{path}").parse().unwrap()
}

/// Two nodes on one store.
fn nodes(remote: &Remote) -> [CacheLayer; 2] {
    [(); 2].map(|()| CacheLayer::new(Cache::new(remote.clone())))
}

#[tokio::test]
async fn a_page_that_another_node_purges_while_it_is_made_is_not_stored() {
    let remote = Remote::default().with_shared(true);
    let [here, there] = nodes(&remote);
    let pages = Pages::default();
    let site = pages.behind(&here);
    for known in [false, true] {
        let path = if known { "/known" } else { "/new" };
        if known {
            get(&site, path, "fr").await;
        }
        pages.runs();
        let asking = begin(&pages, &site, path, "de").await;
        assert!(there.purge(&uri(path)).await.unwrap());
        // Who comes now waits for nobody who was there before.
        assert_eq!(get(&site, path, "de").await.body, "1");
        pages.goes_on.notify_one();
        assert_eq!(asking.await.unwrap().body, "0", "it has asked before");
        settle().await;
        let seen = get(&site, path, "de").await;
        assert_eq!(
            (seen.is_hit(), seen.body.as_str()),
            (true, "1"),
            "{}",
            seen.status
        );
        assert!(!get(&site, path, "fr").await.is_hit(), "purged, too");
    }
}

#[tokio::test]
async fn nodes_that_make_variants_at_a_time_store_them_side_by_side() {
    let remote = Remote::default().with_shared(true);
    let layers = nodes(&remote);
    let pages = Pages::default();
    let sites = layers.each_ref().map(|layer| pages.behind(layer));
    let languages = ["de", "en", "fr", "it", "es", "pt"];
    // At first only one of each node, as it is not known yet what they vary on.
    for together in [&languages[..2], &languages[2..]] {
        let mut asking = Vec::new();
        for (index, language) in together.iter().enumerate() {
            asking.push(begin(&pages, &sites[index % 2], "/", language).await);
        }
        for asked in asking {
            pages.goes_on.notify_waiters();
            asked.await.unwrap();
        }
        settle().await;
    }
    for site in &sites {
        for language in languages {
            let seen = get(site, "/", language).await;
            assert!(seen.is_hit(), "{language} {}", seen.status);
        }
    }
    assert_eq!(pages.runs(), languages.len());
    assert!(layers[0].purge(&uri("/")).await.unwrap());
    for language in languages {
        assert!(!get(&sites[1], "/", language).await.is_hit(), "{language}");
    }
}

/// Look-up, and one round trip for the lease and all that is read of tags; hits cost no more than
/// without.
#[tokio::test(start_paused = true)]
async fn a_miss_waits_for_two_round_trips_and_a_hit_for_one() {
    const TRIP: Duration = Duration::from_millis(10);
    let remote = Remote::default().with_shared(true);
    let layer = CacheLayer::new(Cache::new(remote.clone())).tags(["layer"]);
    let pages = Pages::default();
    let site = pages.behind(&layer);
    // From now on there is a turn, and a generation of the tag.
    get(&site, "/first", "de").await;
    remote.inject(Fault::delay(TRIP));
    for (language, miss, hit) in [("de", 2, 1), ("en", 3, 1), ("de", 0, 2)] {
        let (start, calling) = (Instant::now(), site.clone());
        if miss > 0 {
            let asking = begin(&pages, &calling, "/", language).await;
            assert_eq!(start.elapsed(), TRIP * miss, "{language}");
            pages.goes_on.notify_one();
            asking.await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        // Once, to learn which tags it has.
        get(&site, "/", language).await;
        let start = Instant::now();
        assert!(get(&site, "/", language).await.is_hit());
        assert_eq!(start.elapsed(), TRIP * hit, "{language}");
    }
}

#[tokio::test]
async fn a_crowd_takes_one_lease_and_what_is_not_stored_leaves_it() {
    let remote = Remote::default().with_shared(true);
    let layer = CacheLayer::new(Cache::new(remote.clone()));
    let pages = Pages::default();
    let site = pages.behind(&layer);
    get(&site, "/first", "de").await;
    remote.take_counts();
    let crowd = |path: &'static str| {
        let site = site.clone();
        let asking = (0..100).map(move |_| {
            let site = site.clone();
            async move { get(&site, path, "de").await.body }
        });
        asking.collect::<JoinSet<_>>()
    };
    crowd("/").join_all().await;
    assert_eq!(pages.runs(), 2);
    let calls = |name: &str| {
        let calls = remote.take_counts();
        let count = |of: &str| {
            calls
                .iter()
                .find(|(call, _)| *call == of)
                .map_or(0, |it| it.1)
        };
        (count(name), count("compare_and_set"))
    };
    // The lease; and the page in its place.
    assert_eq!(calls("add"), (1, 1));
    crowd("/never").join_all().await;
    settle().await;
    assert_eq!(calls("add"), (1, 0));
    // It is known by now that nobody has to wait, and that no place has to be taken.
    crowd("/never").join_all().await;
    settle().await;
    assert_eq!(calls("add"), (0, 0));
    // Of HEAD, nothing is ever stored.
    let head = Request::head(format!("{SITE}/head"))
        .body(Body::empty())
        .unwrap();
    tower::ServiceExt::oneshot(site.clone(), head)
        .await
        .unwrap();
    settle().await;
    assert_eq!(calls("add"), (0, 0));
}

/// The holder goes on for a minute, which a lease of ten seconds survives as long as it does.
#[tokio::test(start_paused = true)]
async fn a_lease_lasts_as_long_as_its_holder_works() {
    let clock = ManualClock::at(SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000));
    let memory = Memory::builder().clock(clock.clone()).build().unwrap();
    let remote = Remote::new(memory).with_shared(true);
    let cache = Cache::builder(remote.clone())
        .clock(clock.clone())
        .build()
        .unwrap();
    let layer = CacheLayer::new(cache.clone()).lock_timeout(Duration::from_secs(600));
    let key = cache
        .final_key(&layer.page_key(&uri("/")).unwrap())
        .unwrap();
    let pages = Pages::default();
    let site = pages.behind(&layer);
    let asking = begin(&pages, &site, "/", "de").await;
    for _ in 0..60 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        settle().await;
        clock.advance(Duration::from_secs(1));
        assert!(remote.get(&key).await.unwrap().is_some());
    }
    pages.goes_on.notify_one();
    asking.await.unwrap();
    settle().await;
    assert!(get(&site, "/", "de").await.is_hit());
    // One whose holder is gone ends by itself.
    let asking = begin(&pages, &site, "/gone", "de").await;
    let key = cache
        .final_key(&layer.page_key(&uri("/gone")).unwrap())
        .unwrap();
    assert!(remote.get(&key).await.unwrap().is_some());
    remote.inject(down());
    clock.advance(Duration::from_secs(11));
    remote.heal();
    assert!(remote.get(&key).await.unwrap().is_none());
    pages.goes_on.notify_one();
    asking.await.unwrap();
    settle().await;
    assert!(
        !get(&site, "/gone", "de").await.is_hit(),
        "its place was lost"
    );
    assert!(get(&site, "/gone", "de").await.is_hit());
}

#[tokio::test]
async fn what_is_damaged_is_replaced() {
    let remote = Remote::default().with_shared(true);
    let cache = Cache::new(remote.clone());
    let layer = CacheLayer::new(cache.clone());
    let pages = Pages::default();
    let site = pages.behind(&layer);
    for bytes in [
        "axc\x02\x03 no lease",
        "axc\x02\x01 no page",
        "no envelope",
        "",
    ] {
        let key = cache
            .final_key(&layer.page_key(&uri("/")).unwrap())
            .unwrap();
        let entry = Entry::from(bytes.as_bytes().to_vec());
        remote.set(&key, entry, Lifetime::Forever).await.unwrap();
        assert!(!get(&site, "/", "de").await.is_hit(), "{bytes}");
        assert!(get(&site, "/", "de").await.is_hit(), "{bytes}");
    }
}

/// A store that cannot be written to stores nothing, and is no reason to ask more than once.
#[tokio::test]
async fn a_place_that_cannot_be_taken_keeps_nobody_from_an_answer() {
    let remote = Remote::default().with_shared(true);
    let layer = CacheLayer::new(Cache::new(remote.clone()));
    let pages = Pages::default();
    let site = pages.behind(&layer);
    remote.inject(down().after(1));
    let seen = get(&site, "/", "de").await;
    assert_eq!(seen.status, "axum-cache; fwd=uri-miss; detail=unavailable");
    remote.heal();
    get(&site, "/", "de").await;
    assert!(get(&site, "/", "de").await.is_hit());
}

/// Its variants have keys that do not say their generation.
#[cfg(feature = "django-keys")]
#[tokio::test]
async fn a_purge_takes_variants_that_are_named_as_django_does() {
    for cache in [
        Cache::new(Memory::new()),
        Cache::new(Remote::default().with_shared(true)),
    ] {
        let layer = CacheLayer::new(cache).page_keys(axum_cache::key::DjangoKeys::new());
        let site = Pages::default().behind(&layer);
        for language in ["de", "en"] {
            get(&site, "/", language).await;
            assert!(get(&site, "/", language).await.is_hit());
        }
        assert!(layer.purge(&uri("/")).await.unwrap());
        get(&site, "/", "de").await;
        assert!(!get(&site, "/", "en").await.is_hit());
        assert!(get(&site, "/", "de").await.is_hit());
    }
}
