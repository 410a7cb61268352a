//! What is stored compressed: all that leaves the process, and gets smaller; and who believes it.

use std::time::Duration;

use askama::Template;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::get;
use axum_cache::backend::{Backend, Memory, Tiered};
use axum_cache::entry::Entry;
use axum_cache::fragment::fragment_key;
use axum_cache::testing::{Computations, Operation, TestBackend, assert_hit, assert_miss};
use axum_cache::ttl::Lifetime;
use axum_cache::{
    Cache, CacheBuilder, CacheLayer, Caches, Compression, ErrorKind, Policy, Settings, Ttl,
};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{Request, Response};
use tower::ServiceExt;
use xxhash_rust::xxh3::xxh3_64_with_seed;

mod filters {
    pub(crate) use axum_cache::fragment::filters::cache;
}

const HOUR: Duration = Duration::from_secs(3600);
const SECRET: &str = "the only secret there is";
/// The format version of what is compressed.
const PACKED: u8 = 3;
/// Of what has a checksum: where the length before compression stands, and that of the meta.
const UNPACKED_AT: usize = 13;
const META_AT: usize = 17;

type Store = TestBackend<Memory>;

/// One with room for what claims to be long.
fn store() -> Store {
    let memory = Memory::builder().max_bytes(1 << 30).build();
    TestBackend::new(memory.unwrap())
}

fn built(store: &Store, change: impl FnOnce(CacheBuilder) -> CacheBuilder) -> Cache {
    change(Cache::builder(store.clone())).build().unwrap()
}

fn on(store: &Store) -> Cache {
    built(store, |it| it.compression(Compression::zstd()))
}

fn off(store: &Store) -> Cache {
    built(store, |it| it)
}

/// What is stored under a key.
async fn stored(store: &Store, cache: &Cache, key: &str) -> Bytes {
    let entry = store.get(&cache.final_key(key).unwrap()).await.unwrap();
    entry.unwrap().bytes().clone()
}

fn is_packed(stored: &[u8]) -> bool {
    stored.starts_with(b"axc") && stored[3] == PACKED
}

/// JSON of about so many bytes.
fn users(bytes: usize) -> Vec<(usize, String)> {
    let user = |number| {
        (
            number,
            format!("user {number}@example.org, since {}", number * 7),
        )
    };
    (0..bytes / 40).map(user).collect()
}

#[derive(Template)]
#[template(
    source = r#"{% filter cache(500, "list") %}{% for line in lines %}{{ runs.next() }}<li>{{ line }}</li>
{% endfor %}{% endfilter %}"#,
    ext = "html"
)]
struct List<'a> {
    lines: &'a [String],
    runs: &'a Computations,
}

fn site(cache: Cache, runs: &Computations, body: &Bytes, encoding: Option<&'static str>) -> Router {
    let (runs, body) = (runs.clone(), body.clone());
    let handler = move || async move {
        runs.next();
        let response = Response::builder().header(CONTENT_TYPE, "text/html");
        let response = match encoding {
            Some(encoding) => response.header(CONTENT_ENCODING, encoding),
            None => response,
        };
        response.body(Body::from(body)).unwrap()
    };
    Router::new()
        .route("/", get(handler))
        .layer(CacheLayer::new(cache))
}

async fn ask(site: &Router) -> Response<Bytes> {
    let request = Request::get("http://a.test/").body(Body::empty()).unwrap();
    let (head, body) = site.clone().oneshot(request).await.unwrap().into_parts();
    let body = axum::body::to_bytes(body, 1 << 24).await.unwrap();
    Response::from_parts(head, body)
}

/// Until a page of this length is stored.
async fn ask_until_stored(site: &Router, store: &Store, body: &Bytes) {
    let response = ask(site).await;
    assert_miss(&response);
    assert_eq!(response.body(), body);
    for _ in 0..500 {
        if page_of(store).await.is_some_and(|page| page.len() > 250) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it was not stored");
}

/// The entry of the page, whose key is that of the layer.
async fn page_of(store: &Store) -> Option<Bytes> {
    let cache = off(store);
    let uri = http::Uri::from_static("http://a.test/");
    let key = CacheLayer::new(cache.clone()).page_key(&uri).unwrap();
    let entry = store.get(&cache.final_key(&key).unwrap()).await.unwrap();
    entry.map(|entry| entry.bytes().clone())
}

/// Short ones, and those that are compressed off the reactor; with a checksum, and signed.
#[tokio::test]
async fn values_are_stored_smaller_and_read_the_same() {
    for signing in [&[][..], &[SECRET]] {
        for bytes in [2_000, 60_000, 1_500_000] {
            let store = store();
            let with = |compression: Option<Compression>| {
                built(&store, |mut it| {
                    if let Some(compression) = compression {
                        it = it.compression(compression);
                    }
                    if signing.is_empty() {
                        it
                    } else {
                        it.signing_keys(signing)
                    }
                })
            };
            let (on, off) = (with(Some(Compression::zstd())), with(None));
            let value = users(bytes);
            off.set("plain", &value, HOUR).await.unwrap();
            on.set("packed", &value, HOUR).await.unwrap();
            let plain = stored(&store, &on, "plain").await;
            let packed = stored(&store, &on, "packed").await;
            assert!(is_packed(&packed) && !is_packed(&plain));
            assert!(packed.len() < plain.len() / 2, "{}", packed.len());
            // Whoever reads, and whatever was asked for.
            for cache in [&on, &off] {
                for key in ["plain", "packed"] {
                    assert_eq!(cache.get(key).await.unwrap().as_ref(), Some(&value));
                }
                let both = cache.get_many::<_, Vec<(usize, String)>>(["plain", "packed"]);
                assert_eq!(both.await.unwrap().len(), 2);
            }
        }
    }
}

#[tokio::test]
async fn all_calls_work_on_what_is_compressed() {
    let store = store();
    let cache = on(&store);
    let value = users(100_000);
    let tagged = cache.with_tags(["tag"]);
    let read = async |key: &str| cache.get::<Vec<(usize, String)>>(key).await.unwrap();
    assert!(cache.add("a", &value, HOUR).await.unwrap());
    assert!(!cache.add("a", &1, HOUR).await.unwrap());
    assert!(cache.touch("a", 2 * HOUR).await.unwrap());
    assert_eq!(cache.incr_version("a", 1).await.unwrap(), 2);
    assert_eq!(
        cache.with_version(2).get("a").await.unwrap().as_ref(),
        Some(&value)
    );
    let many = [("b", &value), ("c", &value)];
    assert!(tagged.set_many(many, HOUR).await.unwrap().is_empty());
    for key in ["b", "c"] {
        assert!(is_packed(&stored(&store, &cache, key).await));
        assert!(tagged.touch(key, 2 * HOUR).await.unwrap());
        assert_eq!(read(key).await.as_ref(), Some(&value));
    }
    cache.invalidate(["tag"]).await.unwrap();
    assert_eq!(read("b").await, None);
    let policy = Policy::new(HOUR).stale_if_error(HOUR);
    let runs = Computations::new();
    for _ in 0..2 {
        let computed = cache.get_or_set("d", policy, || runs.ok(value.clone()));
        assert_eq!(computed.await.unwrap(), value);
    }
    runs.assert_count(1);
    assert!(is_packed(&stored(&store, &cache, "d").await));
    assert!(matches!(
        cache.ttl_of("d").await.unwrap(),
        Some(Lifetime::For(_))
    ));
    assert!(cache.delete("d").await.unwrap());
}

#[tokio::test]
async fn integers_what_is_short_and_what_gets_no_smaller_stay_as_they_are() {
    let store = store();
    let from_0 = built(&store, |it| {
        it.compression(Compression::zstd().threshold(0))
    });
    from_0
        .set("n", &1_111_111_111_111_111_111_u64, HOUR)
        .await
        .unwrap();
    assert_eq!(stored(&store, &from_0, "n").await, "1111111111111111111");
    assert_eq!(
        from_0.incr("n", 1).await.unwrap(),
        1_111_111_111_111_111_112
    );
    for (short, is_long) in [("x".repeat(1021), false), ("x".repeat(1022), true)] {
        let cache = on(&store);
        cache.set("k", &short, HOUR).await.unwrap();
        assert_eq!(is_packed(&stored(&store, &cache, "k").await), is_long);
        assert_eq!(cache.get("k").await.unwrap(), Some(short));
    }
    from_0
        .set("k", "of no use to make smaller", HOUR)
        .await
        .unwrap();
    assert!(!is_packed(&stored(&store, &from_0, "k").await));
    // Without checksums, values are bare, but those that are compressed.
    let bare = built(&store, |it| {
        it.checksums(false).compression(Compression::zstd())
    });
    for (value, is_long) in [("short".to_owned(), false), ("x".repeat(5000), true)] {
        bare.set("k", &value, HOUR).await.unwrap();
        let stored = stored(&store, &bare, "k").await;
        assert_eq!(is_packed(&stored), is_long);
        assert!(is_long || stored == "\"short\"");
        assert_eq!(bare.get("k").await.unwrap(), Some(value));
    }
    // What does not leave the process is as it is.
    let memory = Memory::new();
    let near = Cache::builder(memory.clone()).compression(Compression::zstd());
    let near = near.build().unwrap();
    near.set("k", &"x".repeat(5000), HOUR).await.unwrap();
    let stored = memory.get(&near.final_key("k").unwrap()).await.unwrap();
    assert_eq!(stored.unwrap().bytes().len(), 5002);
}

#[tokio::test]
async fn pages_are_stored_smaller_and_read_the_same() {
    for length in [3_000, 900_000] {
        let body: Bytes = serde_json::to_vec(&users(length)).unwrap().into();
        for encoding in [None, Some("br")] {
            let store = store();
            let runs = Computations::new();
            let (on, off) = (
                site(on(&store), &runs, &body, encoding),
                site(off(&store), &runs, &body, encoding),
            );
            ask_until_stored(&on, &store, &body).await;
            let page = page_of(&store).await.unwrap();
            assert_eq!(is_packed(&page), encoding.is_none());
            assert_eq!(page.len() < body.len() / 2, encoding.is_none());
            for site in [&on, &off, &on] {
                let hit = ask(site).await;
                assert_hit(&hit);
                assert_eq!(hit.body(), &body);
            }
            runs.assert_count(1);
        }
    }
}

/// The copy near is what the far store has, and is decompressed once.
#[tokio::test]
async fn a_long_page_is_read_from_the_near_tier() {
    let body: Bytes = serde_json::to_vec(&users(900_000)).unwrap().into();
    let (store, near, runs) = (store(), Memory::new(), Computations::new());
    let tiered = Tiered::new(near.clone(), store.clone());
    let cache = Cache::builder(tiered).compression(Compression::zstd());
    let site = site(cache.build().unwrap(), &runs, &body, None);
    ask_until_stored(&site, &store, &body).await;
    store.take_calls();
    for _ in 0..3 {
        let hit = ask(&site).await;
        assert_hit(&hit);
        assert_eq!(hit.body(), &body);
    }
    assert_eq!(
        store.count(Operation::Get) + store.count(Operation::GetMany),
        0
    );
    runs.assert_count(1);
    // What is made of it is held, too, and so it counts.
    let weight = usize::try_from(near.weight()).unwrap();
    assert!(
        weight > body.len() && weight < body.len() * 3 / 2,
        "{weight}"
    );
}

#[tokio::test]
async fn fragments_are_stored_smaller_and_read_the_same() {
    for length in [100, 5_000] {
        let lines: Vec<_> = users(length * 40)
            .into_iter()
            .map(|(_, line)| line)
            .collect();
        let (store, runs) = (store(), Computations::new());
        let (on, off) = (on(&store), off(&store));
        let list = || List {
            lines: &lines,
            runs: &runs,
        };
        let first = on.render(&list()).await.unwrap();
        runs.assert_count(length);
        let stored = stored(&store, &on, &fragment_key("list")).await;
        assert!(is_packed(&stored) && stored.len() < first.len() / 2);
        for cache in [&on, &off] {
            assert_eq!(cache.render(&list()).await.unwrap(), first);
        }
        runs.assert_count(length);
    }
}

/// Behind a checksum that holds, as who can write to the store makes it.
fn forged(stored: &[u8], length: u32, frame: &[u8]) -> Bytes {
    let meta = u32::from_be_bytes(stored[META_AT..][..4].try_into().unwrap());
    let head = META_AT + 4 + meta as usize;
    let mut forged = [&stored[..head], frame].concat();
    forged[UNPACKED_AT..META_AT].copy_from_slice(&length.to_be_bytes());
    let checksum = xxh3_64_with_seed(&forged[UNPACKED_AT..], PACKED.into());
    forged[5..UNPACKED_AT].copy_from_slice(&checksum.to_be_bytes());
    forged.into()
}

/// The length that an entry declares, and its frame.
fn parts(stored: &[u8]) -> (u32, &[u8]) {
    let number = |at: usize| u32::from_be_bytes(stored[at..][..4].try_into().unwrap());
    let frame = META_AT + 4 + number(META_AT) as usize;
    (number(UNPACKED_AT), &stored[frame..])
}

async fn put(store: &Store, cache: &Cache, key: &str, bytes: Bytes) {
    let key = cache.final_key(key).unwrap();
    let entry = Entry::new(bytes);
    store.set(&key, entry, Lifetime::Forever).await.unwrap();
}

/// Entries that are not what they say, each with why it is not used.
fn broken(stored: &[u8]) -> Vec<(Bytes, &'static str)> {
    let (length, frame) = parts(stored);
    let bomb = zstd::bulk::compress(&vec![0; 256 << 20], 1).unwrap();
    let mut flipped = stored.to_vec();
    flipped[3] ^= 1;
    let mut longer = stored.to_vec();
    longer[UNPACKED_AT] ^= 1;
    let mut broken = vec![
        (flipped.into(), "checksum"),
        (longer.into(), "checksum"),
        (stored[..stored.len() - 1].to_vec().into(), "checksum"),
    ];
    let forged = [
        (0, frame),
        (length - 1, frame),
        (length + 1, frame),
        (u32::MAX, frame),
        (length, &frame[..frame.len() - 1]),
        (length, &frame[..frame.len() / 2]),
        (length, b"".as_slice()),
        (length, b"no frame at all".as_slice()),
        (length, bomb.as_slice()),
        (64 << 20, bomb.as_slice()),
        ((64 << 20) + 1, bomb.as_slice()),
        (256 << 20, bomb.as_slice()),
    ];
    broken.extend(forged.map(|(length, frame)| (self::forged(stored, length, frame), "packed")));
    broken
}

/// F1: bombs, and what is truncated, or is no frame, are misses that are counted and replaced.
#[tokio::test]
async fn f1_what_does_not_decompress_is_a_miss() {
    let counted = Counted::default();
    #[cfg(feature = "metrics")]
    let _guard = metrics::set_default_local_recorder(&counted);
    for bytes in [2_000, 200_000] {
        let store = store();
        let cache = on(&store);
        let value = users(bytes);
        cache.set("k", &value, HOUR).await.unwrap();
        let whole = stored(&store, &cache, "k").await;
        let (length, frame) = parts(&whole);
        assert_eq!(forged(&whole, length, frame), whole);
        for (broken, why) in broken(&whole) {
            put(&store, &cache, "k", broken.clone()).await;
            counted.take();
            assert_eq!(cache.get::<serde_json::Value>("k").await.unwrap(), None);
            counted.assert(why);
            assert!(!cache.contains("k").await.unwrap());
            let many = cache.get_many::<_, serde_json::Value>(["k", "other"]);
            assert!(many.await.unwrap().is_empty());
            let runs = Computations::new();
            for _ in 0..2 {
                let computed = cache.get_or_set("k", HOUR, || runs.ok(value.clone()));
                assert_eq!(computed.await.unwrap(), value);
            }
            runs.assert_count(1);
        }
    }
}

#[tokio::test]
async fn f1_pages_that_do_not_decompress_are_made_anew() {
    let counted = Counted::default();
    #[cfg(feature = "metrics")]
    let _guard = metrics::set_default_local_recorder(&counted);
    let body: Bytes = serde_json::to_vec(&users(200_000)).unwrap().into();
    let (store, runs) = (store(), Computations::new());
    let site = site(on(&store), &runs, &body, None);
    ask_until_stored(&site, &store, &body).await;
    let whole = page_of(&store).await.unwrap();
    let cache = off(&store);
    let uri = http::Uri::from_static("http://a.test/");
    let key = CacheLayer::new(cache.clone()).page_key(&uri).unwrap();
    let broken = broken(&whole);
    let times = broken.len();
    for (broken, why) in broken {
        put(&store, &cache, &key, broken.clone()).await;
        counted.take();
        let response = ask(&site).await;
        assert_miss(&response);
        assert_eq!(response.body(), &body);
        counted.assert(why);
        let is_replaced = async || {
            page_of(&store)
                .await
                .is_some_and(|page| is_whole(&page, &whole))
        };
        for _ in 0..500 {
            if is_replaced().await {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let hit = ask(&site).await;
        assert_hit(&hit);
        assert_eq!(hit.body(), &body);
    }
    runs.assert_count(1 + times);
}

/// Whether a page has the same body.
fn is_whole(page: &[u8], whole: &[u8]) -> bool {
    is_packed(page) && page.len() >= META_AT + 4 && parts(page) == parts(whole)
}

/// F6: of what is signed, nothing that was changed gets as far as to be decompressed.
#[tokio::test]
async fn f6_what_is_not_signed_is_not_decompressed() {
    let counted = Counted::default();
    #[cfg(feature = "metrics")]
    let _guard = metrics::set_default_local_recorder(&counted);
    let store = store();
    let cache = built(&store, |it| {
        it.compression(Compression::zstd()).signing_keys([SECRET])
    });
    let value = users(5_000);
    on(&store).set("k", &value, HOUR).await.unwrap();
    let unsigned = stored(&store, &cache, "k").await;
    assert_eq!(cache.get::<serde_json::Value>("k").await.unwrap(), None);
    counted.assert("signature");
    cache.set("k", &value, HOUR).await.unwrap();
    assert_eq!(cache.get("k").await.unwrap(), Some(value));
    let signed = stored(&store, &cache, "k").await;
    assert!(is_packed(&signed) && is_packed(&unsigned));
    // The length, which is behind the signature; and the version, which says that there is one.
    for (at, why) in [
        (3, "signature"),
        (37, "signature"),
        (signed.len() - 1, "signature"),
    ] {
        let mut changed = signed.to_vec();
        changed[at] ^= 1;
        put(&store, &cache, "k", changed.into()).await;
        counted.take();
        assert_eq!(cache.get::<serde_json::Value>("k").await.unwrap(), None);
        counted.assert(why);
    }
}

#[tokio::test]
async fn settings_say_what_is_compressed() {
    let build = async |options: &str| {
        let url = format!("memory://?{options}");
        let settings = Settings::new().with_url("default", &url).unwrap();
        Caches::builder().settings(settings).build().await
    };
    for good in [
        "compression=zstd",
        "compression=zstd&compression_threshold=0",
    ] {
        build(good).await.unwrap();
    }
    for (bad, named) in [
        ("compression=lzma", "compression"),
        (
            "compression=zstd&compression_threshold=-1",
            "compression_threshold",
        ),
        ("compression_threshold=100", "compression_threshold"),
    ] {
        let error = build(bad).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains(&format!("{named}:")), "{error}");
    }
    let store = store();
    for (threshold, is_long) in [(1000, false), (999, true)] {
        let made = store.clone();
        let settings = serde_json::json!({"default": {
            "backend": "far", "compression": "zstd", "compression_threshold": threshold,
        }});
        let caches = Caches::builder()
            .backend("far", move |_| {
                let made = made.clone();
                async move { Ok(made.into()) }
            })
            .settings(Settings::from_json(&settings.to_string()).unwrap());
        let caches = caches.build().await.unwrap();
        caches
            .default()
            .set("k", &"x".repeat(997), Ttl::Never)
            .await
            .unwrap();
        assert_eq!(
            is_packed(&stored(&store, &caches.default(), "k").await),
            is_long
        );
    }
}

/// The reasons for which entries were not used, where that can be heard.
#[derive(Default)]
struct Counted(std::sync::Arc<std::sync::Mutex<Vec<String>>>);

impl Counted {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    fn assert(&self, why: &str) {
        let reasons = self.take();
        if cfg!(feature = "metrics") {
            assert!(!reasons.is_empty());
        }
        assert!(
            reasons.iter().all(|reason| reason == why),
            "{reasons:?}, not {why}"
        );
    }
}

#[cfg(feature = "metrics")]
impl metrics::Recorder for Counted {
    fn describe_counter(
        &self,
        _: metrics::KeyName,
        _: Option<metrics::Unit>,
        _: metrics::SharedString,
    ) {
    }

    fn describe_gauge(
        &self,
        _: metrics::KeyName,
        _: Option<metrics::Unit>,
        _: metrics::SharedString,
    ) {
    }

    fn describe_histogram(
        &self,
        _: metrics::KeyName,
        _: Option<metrics::Unit>,
        _: metrics::SharedString,
    ) {
    }

    fn register_counter(&self, key: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Counter {
        if key.name() == "cache.corrupt" {
            let reason = key.labels().find(|label| label.key() == "cache.reason");
            self.0
                .lock()
                .unwrap()
                .push(reason.unwrap().value().to_owned());
        }
        metrics::Counter::noop()
    }

    fn register_gauge(&self, _: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Gauge {
        metrics::Gauge::noop()
    }

    fn register_histogram(
        &self,
        _: &metrics::Key,
        _: &metrics::Metadata<'_>,
    ) -> metrics::Histogram {
        metrics::Histogram::noop()
    }
}
