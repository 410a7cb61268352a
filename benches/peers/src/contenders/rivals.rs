//! What else there is. Each has room for the same number of pages, in memory, and is set up as its own
//! documentation advises, the fastest way where that leaves a choice. A cache that works on both sides of the
//! router stands outside, where a hit costs no routing, unless the name says otherwise.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use bytes::Bytes;
use http::response::Parts;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceBuilder};

use super::{Contender, Named, ROUTE, Role, contender, router};
use crate::scene::{Scene, Site};

/// The caches that there are.
pub const ALL: &[Named] = &[
    Named {
        name: "axum-response-cache, outside",
        role: Role::Rival,
        make: axum_response_cache_outside,
    },
    Named {
        name: "axum-response-cache, inside",
        role: Role::Rival,
        make: axum_response_cache_inside,
    },
    Named {
        name: "tower-http-cache, outside",
        role: Role::Rival,
        make: tower_http_cache_outside,
    },
    Named {
        name: "tower-http-cache, inside",
        role: Role::Rival,
        make: tower_http_cache_inside,
    },
    Named {
        name: "http-cache-tower-server",
        role: Role::Rival,
        make: http_cache_tower_server,
    },
    Named {
        name: "hitbox",
        role: Role::Rival,
        make: hitbox,
    },
    Named {
        name: "cached memoisation",
        role: Role::Lax,
        make: memoised,
    },
    Named {
        name: "tower-resilience-cache",
        role: Role::Lax,
        make: tower_resilience_cache,
    },
];

const PAGES: usize = 40_000;
const TTL: Duration = Duration::from_secs(600);

/// Whether the scene is one for a cache that has no switch.
fn is_on(scene: Scene) -> Option<()> {
    (scene != Scene::Disabled).then_some(())
}

type ResponseCache = axum_response_cache::CacheLayer<
    cached1::LruTtlCache<(Method, Uri), axum_response_cache::CachedResponse>,
    axum_response_cache::BasicKeyer,
>;

/// It knows statuses, methods and URIs, and none of the fields that are about caches.
fn axum_response_cache() -> ResponseCache {
    // The default has no bound, and is hardly faster.
    let store = cached1::LruTtlCache::with_size_and_ttl(PAGES, TTL);
    axum_response_cache::CacheLayer::with(store)
}

/// On a hit, too, it has the router make a future, which it does not poll.
pub fn axum_response_cache_outside(scene: Scene, body: usize) -> Option<Box<dyn Contender>> {
    is_on(scene)?;
    contender(axum_response_cache().layer(router(Site::new(scene, body))))
}

pub fn axum_response_cache_inside(scene: Scene, body: usize) -> Option<Box<dyn Contender>> {
    is_on(scene)?;
    let site = Site::new(scene, body);
    let route = get(async move || site.answer()).layer(axum_response_cache());
    contender(Router::new().route(ROUTE, route))
}

type TowerHttpCache =
    tower_http_cache::CacheLayer<tower_http_cache::backend::memory::InMemoryBackend>;

fn tower_http_cache() -> TowerHttpCache {
    use tower_http_cache::prelude::*;
    use tower_http_cache::streaming::StreamingPolicy;

    // Each request clones the policy several times, and by default there are sets of content types in it.
    let policy = CachePolicy::default()
        .with_ttl(TTL)
        .with_streaming_policy(StreamingPolicy::disabled());
    CacheLayer::builder(InMemoryBackend::new(PAGES as u64))
        .policy(policy)
        .build()
}

/// It asks for bodies that are `Sync`, which those of axum are not. Only a miss passes here.
struct SyncBody(Mutex<Body>);

impl SyncBody {
    fn within(response: Response<Body>) -> Response<Self> {
        response.map(|body| Self(Mutex::new(body)))
    }
}

impl http_body::Body for SyncBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let body = self.get_mut().0.get_mut().expect("no panic before");
        Pin::new(body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().expect("no panic before").is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().expect("no panic before").size_hint()
    }
}

pub fn tower_http_cache_outside(scene: Scene, body: usize) -> Option<Box<dyn Contender>> {
    is_on(scene)?;
    let service = ServiceBuilder::new()
        .layer(tower_http_cache())
        .map_response(SyncBody::within)
        .service(router(Site::new(scene, body)));
    contender(service)
}

pub fn tower_http_cache_inside(scene: Scene, body: usize) -> Option<Box<dyn Contender>> {
    is_on(scene)?;
    let site = Site::new(scene, body);
    // Routes are infallible, its service is not. This costs less than axum's `HandleErrorLayer`.
    let layer = ServiceBuilder::new()
        .map_err(|error: tower_http_cache::layer::BoxError| -> Infallible { panic!("{error}") })
        .layer(tower_http_cache())
        .map_response(SyncBody::within);
    let route = get(async move || site.answer()).layer(layer);
    contender(Router::new().route(ROUTE, route))
}

/// Its documentation puts it behind the router for the sake of handlers that read what the router knows of a
/// request. This one does not.
pub fn http_cache_tower_server(scene: Scene, body: usize) -> Option<Box<dyn Contender>> {
    use http_cache::{MokaCache, MokaManager};
    use http_cache_tower_server::{QueryKeyer, ServerCacheLayer, ServerCacheOptions};

    is_on(scene)?;
    let manager = MokaManager::new(MokaCache::new(PAGES as u64));
    let options = ServerCacheOptions {
        cache_status_headers: false,
        ..ServerCacheOptions::default()
    };
    let layer = ServerCacheLayer::with_keyer(manager, QueryKeyer).with_options(options);
    contender(layer.layer(router(Site::new(scene, body))))
}

/// What it knows of HTTP is what one tells it: here, not to store what forbids it.
pub fn hitbox(scene: Scene, body: usize) -> Option<Box<dyn Contender>> {
    use hitbox::Config;
    use hitbox::policy::PolicyConfig;
    use hitbox::predicate::PredicateExt;
    use hitbox_backend::format::RkyvFormat;
    use hitbox_http::extractors::query::{NameSelector, Query, ValueExtractor};
    use hitbox_http::extractors::{Method as ByMethod, path::PathExtractor};
    use hitbox_http::predicates::header::{Header, Operation};
    use hitbox_http::predicates::{request, response};
    use hitbox_moka::MokaBackend;
    use hitbox_tower::Cache;

    let policy = match scene {
        Scene::Disabled => PolicyConfig::disabled(),
        _ => PolicyConfig::builder().ttl(TTL).build(),
    };
    let no_store = Operation::Contains(http::header::CACHE_CONTROL, "no-store".to_owned());
    let is_page = response::StatusCode::new(StatusCode::OK).and(Header::new(no_store).not());
    // All of the query at once: it is parsed anew for each parameter that is named.
    let all = NameSelector::Starts(String::new());
    let path = ByMethod::new().path(ROUTE);
    let config = Config::builder()
        .request_predicate(request::Method::new(Method::GET).expect("a method"))
        .response_predicate(is_page)
        .extractor(Query::new_with(path, all, ValueExtractor::Full, Vec::new()))
        .policy(policy)
        .build();
    // The fastest by its documentation, and here: a hit costs a sixth less than with bincode.
    let backend = MokaBackend::builder()
        .max_entries(PAGES as u64)
        .value_format(RkyvFormat::new())
        .build();
    let layer = Cache::builder().backend(backend).config(config).build();
    contender(layer.layer(router(Site::new(scene, body))))
}

/// The handler remembers what it has made for a path. This is what `#[concurrent_cached]` makes of a function,
/// but with a store for each contender in place of one for the process.
pub fn memoised(scene: Scene, body: usize) -> Option<Box<dyn Contender>> {
    type Store = cached::ShardedLruTtlCache<String, Arc<(Parts, Bytes)>>;

    async fn page(store: &Store, site: &Site, uri: &Uri) -> Arc<(Parts, Bytes)> {
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        if let Some(page) = store.get(path) {
            return page;
        }
        let (parts, body) = site.answer().into_parts();
        let body = body.collect().await.expect("a body in memory").to_bytes();
        let page = Arc::new((parts, body));
        store.set(path.to_owned(), Arc::clone(&page));
        page
    }

    is_on(scene)?;
    let site = Site::new(scene, body);
    let store = Arc::new(Store::new(PAGES, TTL));
    let handler = async move |uri: Uri| {
        let page = page(&store, &site, &uri).await;
        Response::from_parts(page.0.clone(), Body::from(page.1.clone()))
    };
    contender(Router::new().route(ROUTE, get(handler)))
}

/// It stores whatever can be cloned, under whatever the key is.
pub fn tower_resilience_cache(scene: Scene, body: usize) -> Option<Box<dyn Contender>> {
    use tower_resilience_cache::CacheLayer;

    is_on(scene)?;
    // The body of the router is a stream, which has no clone.
    let whole = ServiceBuilder::new()
        .and_then(async |response: Response<Body>| {
            let (parts, body) = response.into_parts();
            let body = body.collect().await.expect("a body in memory").to_bytes();
            Ok::<_, Infallible>(Response::from_parts(parts, Full::new(body)))
        })
        .service(router(Site::new(scene, body)));
    let layer = CacheLayer::builder()
        .max_size(PAGES)
        .ttl(TTL)
        .key_extractor(|request: &Request<Body>| (request.method().clone(), request.uri().clone()))
        .build();
    contender(layer.expect("a cache").layer(whole))
}
