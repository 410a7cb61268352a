//! Pages that are invalidated by their tags.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::HeaderName;
use axum::response::{IntoResponse, Response};
use axum_cache::backend::Memory;
use axum_cache::layer::CacheService;
use axum_cache::{Cache, CacheLayer, Tags, cache_page};
use tokio::sync::Notify;
use tower::{Layer, ServiceExt};

use crate::support::backends::{Remote, down};
use crate::support::site::ask;

const MINUTE: Duration = Duration::from_secs(60);

/// A page of so many tags as its query says, varied by language below `/vary`; each time it is made
/// it has another number.
#[derive(Clone, Default)]
struct Pages {
    runs: Arc<AtomicUsize>,
}

impl Pages {
    fn runs(&self) -> usize {
        self.runs.swap(0, Ordering::SeqCst)
    }

    fn behind(&self, layer: &CacheLayer) -> CacheService<Router> {
        let pages = self.clone();
        layer.layer(Router::new().fallback(move |request| {
            let page = pages.clone().page(&request);
            async move { page }
        }))
    }

    fn page(self, request: &Request) -> Response {
        let run = self.runs.fetch_add(1, Ordering::SeqCst);
        let fields = [("cache-control", "max-age=60"), ("etag", "\"same\"")];
        let mut response = (fields, run.to_string()).into_response();
        let mut tags = Tags::new(
            request
                .uri()
                .query()
                .map(|tags| tags.split('&'))
                .into_iter()
                .flatten(),
        );
        if request.uri().path() == "/vary" {
            let language = request.headers().get("accept-language");
            let language = language.map_or("none", |language| language.to_str().unwrap());
            tags = tags.and(&Tags::new([language]));
            response
                .headers_mut()
                .insert("vary", "accept-language".parse().unwrap());
        }
        response.extensions_mut().insert(tags);
        response
    }
}

fn caches() -> [Cache; 2] {
    [Cache::new(Memory::new()), Cache::new(Remote::default())]
}

fn layers(cache: &Cache) -> [(&'static str, CacheLayer); 3] {
    [
        ("site", CacheLayer::new(cache.clone())),
        ("page", cache_page(MINUTE, cache.clone(), "page")),
        ("http", CacheLayer::http(cache.clone()).key_prefix("http")),
    ]
}

#[tokio::test]
async fn a_page_is_gone_with_each_of_its_tags_and_no_other() {
    for cache in caches() {
        for (name, layer) in layers(&cache) {
            let pages = Pages::default();
            let site = pages.behind(&layer);
            for (tag, gone) in [("a", true), ("b", true), ("c", false)] {
                ask(&site, "/?a&b", &[]).await;
                ask(&site, "/none", &[]).await;
                assert!(ask(&site, "/?a&b", &[]).await.is_hit(), "{name}");
                cache.invalidate([tag]).await.unwrap();
                assert!(ask(&site, "/none", &[]).await.is_hit(), "{name} {tag}");
                let seen = ask(&site, "/?a&b", &[]).await;
                assert_eq!(!seen.is_hit(), gone, "{name} {tag}: {}", seen.status);
            }
            // HEAD is answered from the same.
            cache.invalidate(["a"]).await.unwrap();
            let head = Request::head("http://site.test/?a&b").body(Body::empty());
            let head = site.clone().oneshot(head.unwrap()).await.unwrap();
            assert!(!head.headers().contains_key("age"), "{name}");
        }
    }
}

#[tokio::test]
async fn the_tags_of_a_layer_and_of_its_cache_are_those_of_all_its_pages() {
    for cache in caches() {
        let tagged = cache.with_tags(["cache"]);
        let layer = CacheLayer::new(tagged).tags(["one"]).tags(["two"]);
        let site = Pages::default().behind(&layer);
        for tag in ["cache", "one", "two", "own"] {
            ask(&site, "/?own", &[]).await;
            assert!(ask(&site, "/?own", &[]).await.is_hit());
            cache.invalidate([tag]).await.unwrap();
            assert!(!ask(&site, "/?own", &[]).await.is_hit(), "{tag}");
        }
    }
}

#[tokio::test]
async fn a_variant_goes_with_its_own_tags_and_leaves_the_others() {
    for cache in caches() {
        let pages = Pages::default();
        let site = pages.behind(&CacheLayer::new(cache.clone()));
        let languages = ["de", "en", "fr"];
        for language in languages {
            ask(&site, "/vary", &[("accept-language", language)]).await;
        }
        // That of the last one is in the primary entry, too.
        for gone in ["en", "fr", "de"] {
            cache.invalidate([gone]).await.unwrap();
            for language in languages {
                let seen = ask(&site, "/vary", &[("accept-language", language)]).await;
                assert_eq!(
                    seen.is_hit(),
                    language != gone,
                    "{gone} {language} {seen:?}"
                );
            }
        }
        assert_eq!(pages.runs(), 6);
    }
}

#[tokio::test]
async fn a_field_names_tags_and_is_not_for_clients() {
    let fields = [
        ("cache-tag", "a, b,, c d", ["a", "b", "c d"]),
        ("surrogate-key", "a  b c", ["a", "b", "c"]),
        ("x-tags", "a ,b,c", ["a", "b", "c"]),
    ];
    for (name, value, tags) in fields {
        let cache = Cache::new(Memory::new());
        let router = || {
            Router::new().fallback(move |request: Request| async move {
                let mut response = "page".into_response();
                response.headers_mut().insert(name, value.parse().unwrap());
                if request.uri().path() == "/refused" {
                    response
                        .headers_mut()
                        .insert("cache-control", "no-store".parse().unwrap());
                }
                response
            })
        };
        let header = HeaderName::from_static(name);
        let layer = CacheLayer::new(cache.clone()).tag_header(header);
        let site = layer.layer(router());
        for tag in tags {
            let first = ask(&site, "/", &[]).await;
            let second = ask(&site, "/", &[]).await;
            assert!(second.is_hit());
            for seen in [first, second] {
                assert!(!seen.headers.contains_key(name), "{seen:?}");
            }
            cache.invalidate([tag]).await.unwrap();
            assert!(!ask(&site, "/", &[]).await.is_hit(), "{tag}");
        }
        assert!(!ask(&site, "/refused", &[]).await.headers.contains_key(name));
        let post = Request::post("http://site.test/")
            .body(Body::empty())
            .unwrap();
        let post = site.clone().oneshot(post).await.unwrap();
        assert!(!post.headers().contains_key(name), "a POST");

        // One that is not told leaves it to the caches outside.
        let silent = CacheLayer::new(cache.clone())
            .key_prefix("silent")
            .layer(router());
        for _ in 0..2 {
            assert_eq!(ask(&silent, "/", &[]).await.headers[name], value);
        }
    }
}

#[tokio::test]
async fn an_outer_layer_has_the_tags_of_what_it_gets_from_an_inner_one() {
    let cache = Cache::new(Memory::new());
    let inner = CacheLayer::new(cache.clone())
        .key_prefix("inner")
        .tags(["inner"]);
    let inner = inner.tag_header(HeaderName::from_static("cache-tag"));
    let router = Router::new().fallback(|| async { ([("cache-tag", "field")], "page") });
    let router = router.layer(inner);
    for tag in ["inner", "field"] {
        // The second of them stores what is a hit inside.
        for prefix in ["one", "two"] {
            let outer = CacheLayer::new(cache.clone()).key_prefix(format!("{tag}{prefix}"));
            let site = outer.layer(router.clone());
            ask(&site, "/", &[]).await;
            assert!(ask(&site, "/", &[]).await.is_hit());
        }
        cache.invalidate([tag]).await.unwrap();
        for prefix in ["one", "two"] {
            let outer = CacheLayer::new(cache.clone()).key_prefix(format!("{tag}{prefix}"));
            let seen = ask(&outer.layer(router.clone()), "/", &[]).await;
            assert!(
                !seen.status.ends_with("hit"),
                "{tag} {prefix} {}",
                seen.status
            );
            assert!(
                !seen.status.contains(", axum-cache; hit"),
                "{}",
                seen.status
            );
        }
    }
}

#[tokio::test]
async fn tags_that_no_page_can_have_keep_it_from_being_stored() {
    let cache = Cache::new(Memory::new());
    let many: Vec<_> = (0..=axum_cache::tag::MAX_TAGS)
        .map(|tag| tag.to_string())
        .collect();
    let long = "x".repeat(axum_cache::tag::MAX_TAG_BYTES + 1);
    for (prefix, tags) in [
        ("many", many),
        ("long", vec![long]),
        ("empty", vec![String::new()]),
    ] {
        let layer = CacheLayer::new(cache.clone()).key_prefix(prefix);
        let named = Tags::new(&tags);
        let router = Router::new().fallback(move || {
            let named = named.clone();
            async move { (axum::Extension(named), "page") }
        });
        let own = Pages::default().behind(&layer.clone().tags(tags));
        let site = layer.layer(router);
        for _ in 0..2 {
            for seen in [ask(&site, "/", &[]).await, ask(&own, "/own", &[]).await] {
                let status = "axum-cache; fwd=uri-miss; detail=tags";
                assert_eq!(seen.status, status, "{prefix}");
                assert!(!seen.headers.contains_key("expires"), "{prefix}");
            }
        }
    }
    let layer = CacheLayer::new(cache).tag_header(HeaderName::from_static("cache-tag"));
    let unreadable = axum::http::HeaderValue::from_bytes(b"a, \xff").unwrap();
    let router =
        Router::new().fallback(move || async move { ([("cache-tag", unreadable)], "page") });
    let seen = ask(&layer.layer(router), "/", &[]).await;
    assert_eq!(seen.status, "axum-cache; fwd=uri-miss; detail=tags");
}

/// A handler that waits before it answers: it has read its data by then.
#[derive(Clone, Default)]
struct Held {
    data: Arc<Mutex<String>>,
    began: Arc<Notify>,
    goes_on: Arc<Notify>,
    runs: Arc<AtomicUsize>,
}

impl Held {
    fn behind(&self, layer: &CacheLayer, tags: &'static [&'static str]) -> CacheService<Router> {
        let held = self.clone();
        layer.layer(Router::new().fallback(move || {
            let held = held.clone();
            async move {
                let data = held.data.lock().unwrap().clone();
                if held.runs.fetch_add(1, Ordering::SeqCst) == 0 {
                    held.began.notify_one();
                    held.goes_on.notified().await;
                }
                (axum::Extension(Tags::new(tags)), data)
            }
        }))
    }

    fn set(&self, data: &str) {
        data.clone_into(&mut self.data.lock().unwrap());
    }
}

/// D1, D3: invalidated while it is made, by a tag that is known before, or only then.
#[tokio::test]
async fn what_is_invalidated_while_it_is_made_is_not_served_to_who_comes_later() {
    for cache in caches() {
        for (layered, invalidated, kept) in [
            (true, "layer", false),
            (true, "other", true),
            (false, "own", false),
            // It is not known of which generation its tags were.
            (false, "other", false),
        ] {
            let held = Held::default();
            let prefix = format!("{layered} {invalidated}");
            let layer = CacheLayer::new(cache.clone()).key_prefix(prefix);
            let site = if layered {
                held.behind(&layer.tags(["layer"]), &[])
            } else {
                held.behind(&layer, &["own"])
            };
            held.set("old");
            let [leader, follower] = [(); 2].map(|()| {
                let site = site.clone();
                tokio::spawn(async move { ask(&site, "/", &[]).await.body })
            });
            held.began.notified().await;
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            held.set("new");
            cache.invalidate([invalidated]).await.unwrap();
            // It does not wait for the one that has begun before.
            let next = ask(&site, "/", &[]);
            let next = tokio::time::timeout(Duration::from_secs(5), next).await;
            assert_eq!(next.unwrap().body, "new");
            held.goes_on.notify_one();
            let [leader, follower] = [leader.await.unwrap(), follower.await.unwrap()];
            assert_eq!([leader, follower], ["old", "old"], "they asked before");
            let next = ask(&site, "/", &[]).await.body;
            if kept {
                // Either may have been stored last; neither is of an invalidated tag.
                assert!(["old", "new"].contains(&next.as_str()));
            } else {
                assert_eq!(next, "new", "{layered} {invalidated}");
            }
        }
    }
}

#[tokio::test]
async fn tags_cost_no_read_once_they_are_known() {
    let remote = Remote::default();
    let cache = Cache::new(remote.clone());
    let pages = Pages::default();
    let site = pages.behind(&CacheLayer::new(cache.clone()));
    ask(&site, "/?a&b", &[]).await;
    for language in ["en", "de"] {
        ask(&site, "/vary", &[("accept-language", language)]).await;
    }
    for (uri, language, first, then) in [
        ("/?a&b", "", 2, 1),
        ("/vary", "de", 2, 1),
        ("/vary", "en", 3, 2),
    ] {
        for (round, most) in [first, then, then].into_iter().enumerate() {
            remote.take_counts();
            let seen = ask(&site, uri, &[("accept-language", language)]).await;
            assert!(seen.is_hit(), "{uri} {language} {seen:?}");
            let calls: usize = remote.take_counts().iter().map(|(_, count)| count).sum();
            assert!(calls <= most, "{uri} {language} {round}: {calls}");
        }
    }
    // A page that is invalidated is seen to be in the same read.
    cache.invalidate(["a"]).await.unwrap();
    assert!(!ask(&site, "/?a&b", &[]).await.is_hit());
}

#[tokio::test]
async fn a_store_that_cannot_say_the_tags_makes_a_miss() {
    let remote = Remote::default();
    let layer = CacheLayer::new(Cache::new(remote.clone())).tags(["layer"]);
    let site = Pages::default().behind(&layer);
    ask(&site, "/?a", &[]).await;
    remote.inject(down().after(1));
    let seen = ask(&site, "/?a", &[]).await;
    assert_eq!(seen.status, "axum-cache; fwd=bypass; detail=unavailable");
    remote.heal();
    assert!(ask(&site, "/?a", &[]).await.is_hit());
    // The look-up finds nothing, and then the tags cannot be read.
    remote.inject(down().after(1));
    assert_eq!(ask(&site, "/?b", &[]).await.body, "2");
    remote.heal();
    assert!(!ask(&site, "/?b", &[]).await.is_hit());
}

/// D2: when it cannot be known whether a page is still good, who came while it was made asks anew.
#[tokio::test(start_paused = true)]
async fn who_came_after_an_invalidation_gets_nothing_older_though_the_store_fails() {
    let memory = Memory::new();
    let [one, other] = [(); 2].map(|()| Remote::new(memory.clone()).with_shared(true));
    let layer = CacheLayer::new(Cache::new(one.clone())).tags(["layer"]);
    let (version, go) = (Arc::new(AtomicUsize::new(1)), Arc::new(Notify::new()));
    let router = {
        let (version, go) = (Arc::clone(&version), Arc::clone(&go));
        Router::new().fallback(move || async move {
            let made_of = version.load(Ordering::SeqCst);
            go.notified().await;
            made_of.to_string()
        })
    };
    let site = layer.layer(router);
    let asking = || {
        let site = site.clone();
        tokio::spawn(async move { ask(&site, "/", &[]).await.body })
    };
    let leader = asking();
    tokio::time::sleep(Duration::from_millis(10)).await;
    version.store(2, Ordering::SeqCst);
    Cache::new(other).invalidate(["layer"]).await.unwrap();
    let follower = asking();
    tokio::time::sleep(Duration::from_millis(10)).await;
    // The next call is the one that asks what has become of the tags.
    one.inject(down().times(1));
    go.notify_one();
    assert_eq!(leader.await.unwrap(), "1", "it asked before");
    tokio::time::sleep(Duration::from_millis(10)).await;
    go.notify_one();
    assert_eq!(follower.await.unwrap(), "2");
}

#[tokio::test]
async fn a_304_keeps_the_tags_or_brings_others() {
    for named in [false, true] {
        let cache = Cache::new(Memory::new());
        let runs = Arc::new(AtomicUsize::new(0));
        let router = Router::new().fallback(move |request: Request| {
            let run = runs.fetch_add(1, Ordering::SeqCst);
            async move {
                let validates = request.headers().contains_key("if-none-match");
                let fields = [("cache-control", "max-age=60"), ("etag", "\"1\"")];
                let mut response = (fields, run.to_string()).into_response();
                if validates {
                    *response.status_mut() = axum::http::StatusCode::NOT_MODIFIED;
                }
                let tags = Tags::new([["first", "second"][usize::from(validates)]]);
                if !validates || named {
                    response.extensions_mut().insert(tags);
                }
                response
            }
        });
        let site = CacheLayer::http(cache.clone())
            .honour_requests(true)
            .layer(router);
        ask(&site, "/", &[]).await;
        let validated = ask(&site, "/", &[("cache-control", "no-cache")]).await;
        assert_eq!(validated.body, "0", "{}", validated.status);
        let gone = if named { "second" } else { "first" };
        let stays = if named { "first" } else { "second" };
        cache.invalidate([stays]).await.unwrap();
        assert!(ask(&site, "/", &[]).await.is_hit());
        cache.invalidate([gone]).await.unwrap();
        assert!(!ask(&site, "/", &[]).await.is_hit());
    }
}
