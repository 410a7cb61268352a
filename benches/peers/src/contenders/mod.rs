//! All who serve the page, each as a service over the same handler.

mod bare;
mod ideal;
mod ours;
#[cfg(feature = "rivals")]
mod rivals;

use std::future::Future;
use std::pin::Pin;

use axum::body::Body;
use http::{Request, Response, StatusCode};
use tower::{Service, ServiceExt};

use crate::cost::Used;
use crate::scene::{Requests, Scene, Site, made};

/// How many requests are made before the clock starts. A server makes one at a time: so few stay in the processor's
/// cache, and fit, once they are freed, into the lists of free memory that an allocator has for each thread.
pub const BATCH: usize = 4;

/// One who serves the page.
pub trait Contender: Send {
    /// Another handle to the same.
    fn share(&self) -> Box<dyn Contender>;

    /// Serves so many batches of requests; what each request took.
    fn serve<'a>(&'a mut self, requests: &'a mut Requests, batches: usize) -> Pending<'a, Cost>;

    /// Whether it does what the scene is about, once all pages of the scene have been asked for.
    fn check<'a>(&'a mut self, requests: &'a mut Requests, scene: Scene) -> Pending<'a, bool>;
}

pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// What a request takes.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    pub nanos: f64,
    pub allocations: f64,
}

/// A contender that is made of a service.
#[derive(Clone)]
struct Serves<S>(S);

/// How a contender is made for a scene and a length of the body; `None` if it has no such thing.
type Make = fn(Scene, usize) -> Option<Box<dyn Contender>>;

/// Who it is, and how it is made.
pub struct Named {
    pub name: &'static str,
    pub role: Role,
    pub make: Make,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(feature = "rivals"),
    expect(dead_code, reason = "there are no others")
)]
pub enum Role {
    /// It has no cache: what the others are compared with.
    Floor,
    Ours,
    /// As good as it gets.
    Ideal,
    /// Another cache, which obeys at least some rule of HTTP.
    Rival,
    /// Another cache, which knows no HTTP: what it is given once, it answers to all.
    Lax,
}

/// The first is the floor.
const OWN: &[Named] = &[
    Named {
        name: "bare axum handler",
        role: Role::Floor,
        make: bare::site,
    },
    Named {
        name: "axum-cache, site",
        role: Role::Ours,
        make: ours::site,
    },
    Named {
        name: "axum-cache, cache_page",
        role: Role::Ours,
        make: ours::page,
    },
    Named {
        name: "axum-cache, store elsewhere",
        role: Role::Ours,
        make: ours::elsewhere,
    },
    Named {
        name: "by hand, outside",
        role: Role::Ideal,
        make: ideal::outside,
    },
    Named {
        name: "by hand, inside",
        role: Role::Ideal,
        make: ideal::inside,
    },
    Named {
        name: "by hand, all fields, outside",
        role: Role::Ideal,
        make: ideal::outside_saying_more,
    },
    Named {
        name: "by hand, all fields, inside",
        role: Role::Ideal,
        make: ideal::inside_saying_more,
    },
];

/// All of them; the first is the floor.
pub fn all() -> impl Iterator<Item = &'static Named> {
    #[cfg(feature = "rivals")]
    let rivals = rivals::ALL;
    #[cfg(not(feature = "rivals"))]
    let rivals: &[Named] = &[];
    OWN.iter().chain(rivals)
}

fn contender<S>(service: S) -> Option<Box<dyn Contender>>
where
    Serves<S>: Contender + 'static,
{
    Some(Box::new(Serves(service)))
}

impl<S, B> Contender for Serves<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: std::fmt::Debug,
    B: http_body::Body + Send + 'static,
{
    fn share(&self) -> Box<dyn Contender> {
        Box::new(self.clone())
    }

    fn serve<'a>(&'a mut self, requests: &'a mut Requests, batches: usize) -> Pending<'a, Cost> {
        Box::pin(async move {
            let (mut nanos, mut allocations) = (0, 0);
            let runtime = tokio::runtime::Handle::current();
            for _ in 0..batches {
                let batch: [_; BATCH] = std::array::from_fn(|_| requests.make());
                // Of so few, what the clock takes is no small part.
                let clock = Used::so_far();
                let start = Used::so_far();
                for request in batch {
                    // As hyper does: one clone a request.
                    let response = self.0.clone().oneshot(request).await.expect("a response");
                    read(response).await;
                }
                // Whoever stores pages beside the answer does it on its own account.
                if runtime.metrics().num_alive_tasks() > 0 {
                    tokio::task::yield_now().await;
                }
                let used = Used::so_far().since(start);
                nanos += used.nanos.saturating_sub(start.since(clock).nanos);
                allocations += used.allocations;
            }
            let served = (batches * BATCH) as f64;
            Cost {
                nanos: nanos as f64 / served,
                allocations: allocations as f64 / served,
            }
        })
    }

    fn check<'a>(&'a mut self, requests: &'a mut Requests, scene: Scene) -> Pending<'a, bool> {
        Box::pin(async move {
            for request in requests.each() {
                let response = self.0.clone().oneshot(request).await.expect("a response");
                read(response).await;
                // Whoever stores pages beside the answer.
                tokio::task::yield_now().await;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            let before = made();
            for _ in 0..3 {
                let request = requests.make();
                let response = self.0.clone().oneshot(request).await.expect("a response");
                if response.status() != scene.status() {
                    return false;
                }
                let length = read(response).await;
                if (length == 0) != (scene.status() == StatusCode::NOT_MODIFIED) {
                    return false;
                }
            }
            (made() == before) == scene.is_stored()
        })
    }
}

/// Reads the body to its end; how long it was.
async fn read<B: http_body::Body>(response: Response<B>) -> usize {
    let mut body = std::pin::pin!(response.into_body());
    let mut length = 0;
    while let Some(frame) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        match frame.ok().and_then(|frame| frame.into_data().ok()) {
            Some(data) => length += bytes::Buf::remaining(&data),
            None => break,
        }
    }
    length
}

/// The route that all of them serve.
const ROUTE: &str = "/page/{page}";

fn router(site: Site) -> axum::Router {
    axum::Router::new().route(ROUTE, axum::routing::get(async move || site.answer()))
}
