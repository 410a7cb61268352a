//! Sites in process, and what one request to them came to: checked, whatever it is for.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum_cache::backend::Memory;
use axum_cache::clock::ManualClock;
use axum_cache::{Cache, CacheLayer};
use tokio::runtime::Handle;
use tower::util::BoxCloneSyncService;
use tower::{Layer, Service, ServiceExt};

use crate::status::{Fact, Member, is_true, members};

pub(crate) type Site = BoxCloneSyncService<Request, Response, Infallible>;

const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);

/// What handlers did for one request.
#[derive(Clone, Debug, Default)]
struct Probe(Arc<(AtomicUsize, AtomicU16)>);

/// A router whose runs are counted, for each request and in all.
pub(crate) fn counted(router: Router, all: &Runs) -> Router {
    let all = all.clone();
    router.layer(from_fn(move |request: Request, next: Next| {
        let all = all.clone();
        async move {
            all.0.fetch_add(1, Ordering::SeqCst);
            let probe = request.extensions().get::<Probe>().cloned();
            if let Some(probe) = &probe {
                probe.0.0.fetch_add(1, Ordering::SeqCst);
            }
            let response = next.run(request).await;
            if let Some(probe) = probe {
                let status = response.status().as_u16();
                probe.0.1.store(status, Ordering::SeqCst);
            }
            response
        }
    }))
}

/// How often handlers ran.
#[derive(Clone, Debug, Default)]
pub(crate) struct Runs(Arc<AtomicUsize>);

impl Runs {
    /// Since the last time this was asked.
    pub(crate) fn take(&self) -> usize {
        self.0.swap(0, Ordering::SeqCst)
    }

    pub(crate) fn now(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

pub(crate) fn site<S>(service: S) -> Site
where
    S: Service<Request, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Response: IntoResponse,
    S::Future: Send + 'static,
{
    BoxCloneSyncService::new(service.map_response(IntoResponse::into_response))
}

/// A site of one handler behind a layer.
pub(crate) fn behind(layer: &CacheLayer, router: Router) -> (Site, Runs) {
    let runs = Runs::default();
    (site(layer.layer(counted(router, &runs))), runs)
}

pub(crate) fn memory() -> Cache {
    Cache::new(Memory::new())
}

/// A cache whose time stands still.
pub(crate) fn timed() -> (Cache, ManualClock) {
    // On a whole second, so that ages are whole ones.
    let clock = ManualClock::at(SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000));
    let memory = Memory::builder().clock(clock.clone()).build().unwrap();
    let cache = Cache::builder(memory).clock(clock.clone()).build().unwrap();
    (cache, clock)
}

/// What a request came to.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// `None` if it broke off.
    pub(crate) body: Option<Bytes>,
    pub(crate) members: Vec<Member>,
}

impl Seen {
    /// Whether the outermost cache had it.
    pub(crate) fn is_hit(&self) -> bool {
        self.last().hit
    }

    pub(crate) fn last(&self) -> &Member {
        self.members.last().unwrap()
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(self.body.as_ref().unwrap()).unwrap()
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.headers
            .get(name)
            .map(|value| value.to_str().unwrap_or("?"))
    }

    /// `fwd`, or `hit`, or the detail.
    pub(crate) fn how(&self) -> &str {
        let last = self.last();
        match &last.fwd {
            _ if last.hit => "hit",
            Some(forward) => forward,
            None => last.detail.as_deref().unwrap_or(""),
        }
    }

    pub(crate) fn detail(&self) -> &str {
        self.last().detail.as_deref().unwrap_or("")
    }
}

pub(crate) fn request(method: &str, uri: &str, fields: &[(&str, &str)]) -> Request {
    let uri = if uri.starts_with('/') {
        format!("http://site.test{uri}")
    } else {
        uri.to_owned()
    };
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(Body::empty()).unwrap()
}

/// Sends a request, and checks what the answer says of itself.
pub(crate) async fn send(site: &Site, mut request: Request) -> Seen {
    let probe = Probe::default();
    request.extensions_mut().insert(probe.clone());
    let what = format!("{} {}", request.method(), request.uri());
    let response = site.clone().oneshot(request).await.unwrap();
    let runs = probe.0.0.load(Ordering::SeqCst);
    let inner = probe.0.1.load(Ordering::SeqCst);
    let (parts, body) = response.into_parts();
    let members = members(&parts.headers).unwrap_or_else(|error| panic!("{what}: {error}"));
    let fact = Fact {
        runs,
        inner: (runs > 0 && inner > 0).then_some(inner),
        sent: parts.status.as_u16(),
    };
    if let Err(error) = is_true(&members, fact) {
        panic!("{what}: {error}: {members:?}");
    }
    Seen {
        status: parts.status,
        headers: parts.headers,
        body: to_bytes(body, usize::MAX).await.ok(),
        members,
    }
}

pub(crate) async fn ask(site: &Site, method: &str, uri: &str, fields: &[(&str, &str)]) -> Seen {
    send(site, request(method, uri, fields)).await
}

pub(crate) async fn get(site: &Site, uri: &str) -> Seen {
    ask(site, "GET", uri, &[]).await
}

/// Lets what was begun come to its end: all tasks, for a test has none of its own left and memory needs none.
pub(crate) async fn settled() {
    let start = Instant::now();
    loop {
        tokio::time::sleep(Duration::from_millis(2)).await;
        if Handle::current().metrics().num_alive_tasks() == 0 {
            return;
        }
        assert!(start.elapsed() < 20 * SECOND, "it never ends");
    }
}
