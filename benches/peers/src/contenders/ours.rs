//! This crate.

use axum::routing::get;
use axum_cache::backend::{Dummy, Memory};
use axum_cache::{Cache, CacheLayer, Ttl, cache_page};
use tower::Layer;

use super::{Contender, ROUTE, contender, router};
use crate::scene::{Scene, Site};

fn cache(scene: Scene) -> Cache {
    match scene {
        Scene::Disabled => Cache::new(Dummy),
        _ => Cache::new(Memory::new()),
    }
}

pub fn site(scene: Scene, body: usize) -> Option<Box<dyn Contender>> {
    let router = router(Site::new(scene, body));
    contender(CacheLayer::new(cache(scene)).layer(router))
}

pub fn page(scene: Scene, body: usize) -> Option<Box<dyn Contender>> {
    let site = Site::new(scene, body);
    let layer = cache_page(Ttl::Default, cache(scene), "");
    let route = get(async move || site.answer()).layer(layer);
    contender(axum::Router::new().route(ROUTE, route))
}
