//! This crate.

use axum::routing::get;
use axum_cache::backend::{Backend, Capabilities, Dummy, Memory};
use axum_cache::entry::Entry;
use axum_cache::key::Key;
use axum_cache::layer::TrustedProxies;
use axum_cache::ttl::Lifetime;
use axum_cache::{Cache, CacheLayer, Result, Ttl, cache_page};
use bytes::Bytes;
use tower::Layer;

use super::{Contender, ROUTE, contender, router};
use crate::scene::{Scene, Site};

fn cache(scene: Scene) -> Cache {
    match scene {
        Scene::Disabled => Cache::new(Dummy),
        _ => Cache::new(Memory::new()),
    }
}

/// Whom the site is behind.
fn proxies(scene: Scene) -> TrustedProxies {
    match scene {
        Scene::Proxied => TrustedProxies::all(),
        _ => TrustedProxies::none(),
    }
}

pub fn site(scene: Scene, body: usize) -> Option<Box<dyn Contender>> {
    let router = router(Site::new(scene, body));
    let layer = CacheLayer::new(cache(scene));
    contender(layer.trusted_proxies(proxies(scene)).layer(router))
}

pub fn page(scene: Scene, body: usize) -> Option<Box<dyn Contender>> {
    let site = Site::new(scene, body);
    let layer = cache_page(Ttl::Default, cache(scene), "");
    let layer = layer.trusted_proxies(proxies(scene));
    let route = get(async move || site.answer()).layer(layer);
    contender(axum::Router::new().route(ROUTE, route))
}

/// A hit over a store like one on another machine, which costs nothing itself: it is waited for once, and gives
/// bytes of its own.
pub fn elsewhere(scene: Scene, body: usize) -> Option<Box<dyn Contender>> {
    let site = router(Site::new(scene, body));
    let cache = Cache::new(Elsewhere(Memory::new()));
    matches!(scene, Scene::Hit | Scene::Zipf)
        .then(|| contender(CacheLayer::new(cache).layer(site)))?
}

#[derive(Clone, Debug)]
struct Elsewhere(Memory);

impl Backend for Elsewhere {
    fn name(&self) -> &'static str {
        "elsewhere"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new()
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        tokio::task::yield_now().await;
        let found = self.0.get(key).await?;
        Ok(found.map(|entry| Entry::new(Bytes::copy_from_slice(entry.bytes()))))
    }

    async fn set(&self, key: &Key, entry: Entry, lifetime: Lifetime) -> Result<()> {
        self.0.set(key, entry, lifetime).await
    }

    async fn add(&self, key: &Key, entry: Entry, lifetime: Lifetime) -> Result<bool> {
        self.0.add(key, entry, lifetime).await
    }

    async fn touch(&self, key: &Key, lifetime: Lifetime) -> Result<bool> {
        self.0.touch(key, lifetime).await
    }

    async fn delete(&self, key: &Key) -> Result<bool> {
        self.0.delete(key).await
    }

    async fn incr(&self, key: &Key, delta: i64) -> Result<i64> {
        self.0.incr(key, delta).await
    }

    async fn rename(&self, from: &Key, to: &Key) -> Result<bool> {
        self.0.rename(from, to).await
    }

    async fn ttl(&self, key: &Key) -> Result<Option<Lifetime>> {
        self.0.ttl(key).await
    }

    async fn clear(&self, namespace: &str) -> Result<()> {
        self.0.clear(namespace).await
    }

    async fn flush_store(&self) -> Result<()> {
        self.0.flush_store().await
    }
}
