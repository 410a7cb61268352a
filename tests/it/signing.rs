//! What a cache believes that signs what it stores, or has it checked.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use axum_cache::backend::{Backend, Memory};
use axum_cache::entry::Entry;
use axum_cache::testing::{Computations, TestBackend, assert_hit, assert_miss};
use axum_cache::ttl::Lifetime;
use axum_cache::{Cache, CacheBuilder, CacheLayer, Caches, ErrorKind, Settings, Ttl};
use http::{Request, Response};
use tower::ServiceExt;

const OLD: &str = "the secret of yesterday";
const NEW: &str = "the secret of today, longer";
const HOUR: Duration = Duration::from_secs(3600);

type Store = TestBackend<Memory>;

fn store() -> Store {
    TestBackend::new(Memory::new())
}

fn signing(store: &Store, secrets: &[&str]) -> Cache {
    let cache = Cache::builder(store.clone()).signing_keys(secrets);
    cache.build().unwrap()
}

/// What `cache` has stored under `from` under `to`, as anybody may who can write to the store.
async fn copy(store: &Store, cache: &Cache, from: &str, to: &str) {
    let [from, to] = [from, to].map(|key| cache.final_key(key).unwrap());
    let entry = store.get(&from).await.unwrap().unwrap();
    store.set(&to, entry, Lifetime::Forever).await.unwrap();
}

async fn forge(store: &Store, cache: &Cache, key: &str, bytes: &'static str) {
    let (key, entry) = (cache.final_key(key).unwrap(), Entry::new(bytes));
    store.set(&key, entry, Lifetime::Forever).await.unwrap();
}

/// F6: forged, moved, flipped, or signed with a secret that is none any more.
#[tokio::test]
async fn f6_what_is_not_signed_with_a_known_secret_is_a_miss() {
    let store = store();
    let (old, both, new) = (
        signing(&store, &[OLD]),
        signing(&store, &[NEW, OLD]),
        signing(&store, &[NEW]),
    );
    old.set("of old", &"value", HOUR).await.unwrap();
    both.set("of both", &"value", HOUR).await.unwrap();
    let read = async |cache: &Cache, key: &str| cache.get::<String>(key).await.unwrap();
    assert_eq!(read(&both, "of old").await.as_deref(), Some("value"));
    assert_eq!(read(&new, "of both").await.as_deref(), Some("value"));
    assert_eq!(read(&new, "of old").await, None);
    assert_eq!(read(&old, "of both").await, None);
    // By others, who know no secret.
    let unsigned = Cache::new(store.clone());
    unsigned.set("unsigned", &"value", HOUR).await.unwrap();
    assert_eq!(read(&new, "unsigned").await, None);
    assert_eq!(read(&unsigned, "of both").await, None);
    for forged in ["\"value\"", "7", "null", "", "axc"] {
        forge(&store, &new, "forged", forged).await;
        assert_eq!(new.get::<serde_json::Value>("forged").await.unwrap(), None);
        assert!(!new.contains("forged").await.unwrap());
    }
    copy(&store, &new, "of both", "moved").await;
    assert_eq!(read(&new, "moved").await, None, "signed for another key");
    // What is not believed is computed anew, and replaced.
    let runs = Computations::new();
    for _ in 0..2 {
        let computed = new.get_or_set("moved", HOUR, || runs.ok("computed".to_owned()));
        assert_eq!(computed.await.unwrap(), "computed");
    }
    runs.assert_count(1);
    assert!(new.add("forged", &"added", HOUR).await.unwrap());
    assert_eq!(read(&new, "forged").await.as_deref(), Some("added"));
}

/// The lifetime is signed, too: the store is not asked whether it is over.
#[tokio::test]
async fn what_is_over_is_not_brought_back() {
    let store = store();
    let cache = signing(&store, &[NEW]);
    cache.set("k", &1, Duration::from_millis(30)).await.unwrap();
    let key = cache.final_key("k").unwrap();
    let entry = store.get(&key).await.unwrap().unwrap();
    assert_eq!(cache.get("k").await.unwrap(), Some(1));
    tokio::time::sleep(Duration::from_millis(60)).await;
    store.set(&key, entry, Lifetime::Forever).await.unwrap();
    assert_eq!(cache.get::<u32>("k").await.unwrap(), None);
}

/// All calls of the low-level API work on what is signed, but for counting.
#[tokio::test]
async fn signed_values_are_values() {
    let store = store();
    let cache = signing(&store, &[NEW]);
    cache.set("n", &41, HOUR).await.unwrap();
    assert_eq!(cache.get("n").await.unwrap(), Some(41));
    for counted in [cache.incr("n", 1).await, cache.decr("n", 1).await] {
        assert_eq!(counted.unwrap_err().kind(), ErrorKind::Unsupported);
    }
    assert!(cache.touch("n", 2 * HOUR).await.unwrap());
    let Some(Lifetime::For(left)) = cache.ttl_of("n").await.unwrap() else {
        panic!("it has a lifetime");
    };
    // An instant is kept to the millisecond.
    let most = 2 * HOUR + Duration::from_millis(1);
    assert!(left > HOUR && left <= most, "{left:?}");
    assert_eq!(cache.incr_version("n", 1).await.unwrap(), 2);
    assert_eq!(cache.with_version(2).get("n").await.unwrap(), Some(41));
    let tagged = cache.with_tags(["tag"]);
    cache
        .set_many([("a", 1), ("b", 2)], Ttl::Never)
        .await
        .unwrap();
    tagged.set("c", &3, HOUR).await.unwrap();
    let found = cache.get_many::<_, u32>(["a", "b", "c"]).await.unwrap();
    assert_eq!(found.len(), 3);
    cache.invalidate(["tag"]).await.unwrap();
    assert_eq!(cache.get::<u32>("c").await.unwrap(), None);
}

#[tokio::test]
async fn forged_pages_are_never_shown() {
    let runs = Computations::new();
    let site = |cache: Cache| -> Router {
        let runs = runs.clone();
        let handler = move || async move { runs.next().to_string() };
        Router::new()
            .route("/", get(handler))
            .layer(CacheLayer::new(cache))
    };
    let ask = async |site: &Router| {
        let request = Request::get("/").body(Body::empty()).unwrap();
        let (head, body) = site.clone().oneshot(request).await.unwrap().into_parts();
        axum::body::to_bytes(body, 100).await.unwrap();
        // It is stored when it has been read.
        tokio::time::sleep(Duration::from_millis(20)).await;
        Response::from_parts(head, ())
    };
    let store = store();
    let (ours, forger) = (
        site(signing(&store, &[NEW])),
        site(signing(&store, &["somebody else's secret"])),
    );
    assert_miss(&ask(&forger).await);
    assert_hit(&ask(&forger).await);
    assert_miss(&ask(&ours).await);
    assert_hit(&ask(&ours).await);
    runs.assert_count(2);
}

#[tokio::test]
async fn secrets_that_sign_nothing_are_refused() {
    let build = |secrets: &[&str]| Cache::builder(Memory::new()).signing_keys(secrets).build();
    for secrets in [&[][..], &[""], &["too short"], &[NEW, "too short"]] {
        assert_eq!(build(secrets).unwrap_err().kind(), ErrorKind::Config);
    }
    let debugged = format!("{:?}", build(&[NEW]).unwrap());
    assert!(!debugged.contains("secret of today"), "{debugged}");
    let debugged = format!("{:?}", Cache::builder(Memory::new()).signing_keys([NEW]));
    assert!(!debugged.contains("secret of today") && !debugged.contains("[116, 104"));
    let settings = Settings::new().with_url("default", "memory://").unwrap();
    let caches = Caches::builder().settings(settings).build().await.unwrap();
    caches.default().set("n", &1, HOUR).await.unwrap();
    assert_eq!(caches.default().incr("n", 1).await.unwrap(), 2);
}

/// Values that are stored without a checksum can be shared with other programs, and those with one not.
#[tokio::test]
async fn bare_values_are_read_if_that_was_asked_for() {
    let store = store();
    let with = |change: fn(CacheBuilder) -> CacheBuilder| {
        let cache = change(Cache::builder(store.clone()));
        cache.build().unwrap()
    };
    let (checked, bare) = (with(|it| it), with(|it| it.checksums(false)));
    bare.set("k", &"value", HOUR).await.unwrap();
    let key = bare.final_key("k").unwrap();
    let stored = store.get(&key).await.unwrap().unwrap();
    assert_eq!(stored.bytes(), "\"value\"");
    assert_eq!(checked.get::<String>("k").await.unwrap(), None);
    checked.set("k", &"value", HOUR).await.unwrap();
    assert_eq!(
        bare.get::<String>("k").await.unwrap().as_deref(),
        Some("value")
    );
    // Counters are everybody's.
    checked.set("n", &1, HOUR).await.unwrap();
    assert_eq!(
        store
            .get(&checked.final_key("n").unwrap())
            .await
            .unwrap()
            .unwrap()
            .bytes(),
        "1"
    );
    assert_eq!(bare.incr("n", 1).await.unwrap(), 2);
    assert_eq!(checked.get("n").await.unwrap(), Some(2));
    // Memory of this process keeps what it is given.
    let memory = Memory::new();
    let near = Cache::new(memory.clone());
    near.set("k", &"value", HOUR).await.unwrap();
    let stored = memory.get(&near.final_key("k").unwrap()).await.unwrap();
    assert_eq!(stored.unwrap().bytes(), "\"value\"");
}
