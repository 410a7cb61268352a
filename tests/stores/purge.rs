//! Pages that one process stored, purged by another by their path.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum_cache::{CacheLayer, ErrorKind};
use http::{Request, Response, Uri};
use tower::{Layer, ServiceExt, service_fn};

use crate::races;
use crate::services::Store;

/// As a process of its own would have it.
async fn layer(url: &str) -> CacheLayer {
    CacheLayer::new(races::cache(url).await)
}

async fn is_hit(layer: &CacheLayer, path: &str) -> bool {
    let page = layer.layer(service_fn(|_: Request<Body>| async {
        Ok::<_, Infallible>(Response::new(Body::from("page")))
    }));
    let request = Request::get(format!("http://site.test{path}"));
    let response = page.oneshot(request.body(Body::empty()).unwrap()).await;
    let response = response.unwrap();
    let status = response.headers()["cache-status"].clone();
    let body = Body::new(response.into_body());
    axum::body::to_bytes(body, usize::MAX).await.unwrap();
    status.to_str().unwrap().contains("; hit")
}

/// A page that is missing is stored by asking; on replicas it takes a moment to be there.
async fn fill(layer: &CacheLayer, path: &str) {
    while !is_hit(layer, path).await {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) async fn pages_below_a_path(store: &'static Store) {
    let service = (store.start)();
    let url = races::url(store, &*service);
    let (one, other) = (layer(&url).await, layer(&url).await);
    let blog = Uri::from_static("http://site.test/blog");
    let (below, beside) = (
        ["/blog", "/blog/", "/blog/a?x=1"],
        ["/", "/blogger", "/a/blog"],
    );
    for path in below.iter().chain(&beside) {
        fill(&one, path).await;
    }
    service.catch_up();
    let purged = other.purge_prefix(&blog).await;
    if store.name.starts_with("memcached") {
        assert_eq!(purged.unwrap_err().kind(), ErrorKind::Unsupported);
    } else {
        assert_eq!(purged.unwrap(), 3);
        // What the other one removed, its replicas may still have.
        assert_eq!(one.purge_prefix(&blog).await.unwrap(), 0);
        for path in below {
            assert!(!is_hit(&one, path).await, "{path}");
        }
    }
    for path in beside {
        assert!(is_hit(&one, path).await, "{path}");
    }
}
