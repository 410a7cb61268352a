//! Values, pages and fragments over a store to whose bytes a test gets, and what it may do to them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use askama::Template;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Path, State};
use axum::http::{Request, Uri};
use axum::routing::get;
use axum_cache::backend::Backend;
use axum_cache::entry::Entry;
use axum_cache::fragment::fragment_key;
use axum_cache::key::Key;
use axum_cache::ttl::Lifetime;
use axum_cache::{Cache, CacheLayer};
use serde::{Deserialize, Serialize};
use tower::ServiceExt;

use crate::is_long;
use crate::tools::{TTL, until};

mod filters {
    pub(crate) use axum_cache::fragment::filters::cache;
}

/// What is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sort {
    Value,
    Page,
    Fragment,
}

/// A value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Part {
    of: String,
    text: String,
}

#[derive(Template)]
#[template(
    source = r#"{% filter cache(900, ("part", name)) %}{{ bench.run(name) }}{% endfilter %}"#,
    ext = "html"
)]
struct Fragment<'a> {
    bench: &'a Runs,
    name: &'a str,
}

/// How often anything was computed.
#[derive(Clone, Debug, Default)]
struct Runs(Arc<AtomicUsize>);

impl Runs {
    fn run(&self, name: &str) -> String {
        self.0.fetch_add(1, Ordering::SeqCst);
        text(name)
    }
}

/// What everything of this name says.
pub(crate) fn text(name: &str) -> String {
    format!("what is said of {name}, and of {name} alone")
}

/// A cache of all sorts, and the store below it.
pub(crate) struct Bench<B> {
    pub(crate) store: B,
    pub(crate) cache: Cache,
    layer: CacheLayer,
    site: Router,
    runs: Runs,
}

impl<B: Backend> Bench<B> {
    pub(crate) fn new(store: B, cache: Cache) -> Self {
        let (runs, layer) = (Runs::default(), CacheLayer::new(cache.clone()).ttl(TTL));
        let handler =
            |State(runs): State<Runs>, Path(name): Path<String>| async move { runs.run(&name) };
        let site = Router::new()
            .route("/{name}", get(handler))
            .with_state(runs.clone())
            .layer(layer.clone());
        Self {
            store,
            cache,
            layer,
            site,
            runs,
        }
    }

    /// The key before the prefix and the version of the cache.
    pub(crate) fn name_of(&self, sort: Sort, name: &str) -> String {
        match sort {
            Sort::Value => format!("part:{name}"),
            Sort::Page => self.layer.page_key(&uri(name)).unwrap(),
            Sort::Fragment => fragment_key(&("part", name)),
        }
    }

    pub(crate) fn key(&self, sort: Sort, name: &str) -> Key {
        self.cache.final_key(&self.name_of(sort, name)).unwrap()
    }

    /// Asks for it, as the application does: what it says, and whether that was computed.
    pub(crate) async fn ask(&self, sort: Sort, name: &str) -> (String, bool) {
        let before = self.runs.0.load(Ordering::SeqCst);
        let said = match sort {
            Sort::Value => {
                let (runs, of) = (self.runs.clone(), name.to_owned());
                let compute = move || async move {
                    let text = runs.run(&of);
                    Ok::<_, io::Error>(Part { of, text })
                };
                let key = self.name_of(sort, name);
                let part = self.cache.get_or_set(&key, TTL, compute).await.unwrap();
                assert_eq!(part.of, name);
                part.text
            }
            Sort::Page => {
                let request = Request::get(uri(name)).body(Body::empty()).unwrap();
                let response = self.site.clone().oneshot(request).await.unwrap();
                assert_eq!(response.status(), 200);
                let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
                String::from_utf8(body.to_vec()).unwrap()
            }
            Sort::Fragment => {
                let bench = &self.runs;
                self.cache.render(Fragment { bench, name }).await.unwrap()
            }
        };
        (said, self.runs.0.load(Ordering::SeqCst) > before)
    }

    /// The bytes below a key; none if there is nothing.
    pub(crate) async fn bytes(&self, key: &Key) -> Vec<u8> {
        let entry = self.store.get(key).await.unwrap();
        entry.map_or(Vec::new(), |entry| entry.bytes().to_vec())
    }

    pub(crate) async fn put(&self, key: &Key, bytes: &[u8]) {
        let entry = Entry::new(bytes.to_vec());
        let lifetime = Lifetime::For(TTL);
        self.store.set(key, entry, lifetime).await.unwrap();
    }

    /// Asks until it is stored, and returns the bytes.
    pub(crate) async fn stored(&self, sort: Sort, name: &str) -> Vec<u8> {
        self.ask(sort, name).await;
        self.landed(sort, name, &[]).await
    }

    /// Waits until something whole is below the key in the place of `before`.
    pub(crate) async fn landed(&self, sort: Sort, name: &str, before: &[u8]) -> Vec<u8> {
        let (key, mut bytes) = (self.key(sort, name), Vec::new());
        until("stored", async || {
            bytes = self.bytes(&key).await;
            bytes != before && is_whole(sort, &bytes)
        })
        .await;
        bytes
    }
}

fn uri(name: &str) -> Uri {
    format!("http://site.test/{name}").parse().unwrap()
}

/// Whether an entry says that it is of this sort, and not the mark of one who makes it.
fn is_whole(sort: Sort, bytes: &[u8]) -> bool {
    let kind = match sort {
        Sort::Page => 1,
        Sort::Fragment => 2,
        Sort::Value => 4,
    };
    bytes.starts_with(b"axc\x02") && bytes.get(4).is_some_and(|it| it & 0x7f == kind)
}

/// What may become of bytes, and how: of all that can, or of some.
pub(crate) fn damaged(own: &[u8], other: &[u8]) -> Vec<(String, Vec<u8>)> {
    let (half, last) = (own.len() / 2, own.len() - 1);
    let mut all: Vec<(String, Vec<u8>)> = Vec::new();
    let mut add = |what: String, bytes: Vec<u8>| {
        if bytes != own {
            all.push((what, bytes));
        }
    };
    let step = if is_long() { 1 } else { 11 };
    // The beginning says what it is, and is short.
    let all_bits = |at: usize| is_long() || at < 5;
    for length in (0..20).chain((20..own.len()).step_by(step)).chain([last]) {
        add(format!("cut to {length}"), own[..length].to_vec());
    }
    for at in (0..20).chain((20..own.len()).step_by(step)).chain([last]) {
        for bit in (0..8).filter(|bit| all_bits(at) || *bit == at % 8) {
            let mut flipped = own.to_vec();
            flipped[at] ^= 1 << bit;
            add(format!("bit {bit} of byte {at} flipped"), flipped);
        }
    }
    for at in [13, half, last] {
        add(
            format!("spliced at {at}"),
            [&own[..at], &other[at.min(other.len())..]].concat(),
        );
        add(
            format!("spliced at {at} into another"),
            [&other[..at.min(other.len())], &own[at..]].concat(),
        );
    }
    add("of another key".to_owned(), other.to_vec());
    add("longer".to_owned(), [own, b"x"].concat());
    add("twice".to_owned(), [own, own].concat());
    add("zeroes".to_owned(), vec![0; own.len()]);
    add("text".to_owned(), b"\"text\"".to_vec());
    add("null".to_owned(), b"null".to_vec());
    all
}
