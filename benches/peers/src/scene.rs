//! What is asked, and what the site behind the caches answers.

use std::cell::Cell;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http::header::{IF_NONE_MATCH, RANGE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};

/// How many pages there are where there is more than one.
pub const PAGES: usize = 10_000;

const ETAG: &str = "\"3f80f-1b6-3e1cb03b\"";

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scene {
    /// One page, which is stored.
    Hit,
    /// Any of [`PAGES`] pages by Zipf's law, exponent 0.99, which are stored.
    Zipf,
    /// One page, which is stored, and requests as a browser makes them and a proxy hands them on.
    Proxied,
    /// A stored page that the client has already.
    NotModified,
    /// A page that nobody has asked for.
    Miss,
    /// A page that is not to be stored.
    Bypass,
    /// One page, and a cache that is switched off.
    Disabled,
}

impl Scene {
    pub const ALL: [Self; 7] = [
        Self::Hit,
        Self::Zipf,
        Self::Proxied,
        Self::NotModified,
        Self::Miss,
        Self::Bypass,
        Self::Disabled,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Zipf => "zipf",
            Self::Proxied => "proxied",
            Self::NotModified => "304",
            Self::Miss => "miss",
            Self::Bypass => "bypass",
            Self::Disabled => "disabled",
        }
    }

    /// Whether a cache has the answer.
    pub fn is_stored(self) -> bool {
        matches!(
            self,
            Self::Hit | Self::Zipf | Self::Proxied | Self::NotModified
        )
    }

    /// What a cache answers that does its work.
    pub fn status(self) -> StatusCode {
        match self {
            Self::NotModified => StatusCode::NOT_MODIFIED,
            _ => StatusCode::OK,
        }
    }
}

thread_local! {
    static MADE: Cell<u64> = const { Cell::new(0) };
}

/// How many pages this thread has made.
pub fn made() -> u64 {
    MADE.get()
}

/// The handler of the site: it has its response at hand.
#[derive(Clone, Debug)]
pub struct Site {
    response: Arc<(http::response::Parts, Bytes)>,
}

impl Site {
    pub fn new(scene: Scene, body: usize) -> Self {
        let (mut parts, ()) = Response::new(()).into_parts();
        let freshness = match scene {
            Scene::Bypass => "no-store",
            _ => "public, max-age=600",
        };
        for (name, value) in [
            ("content-type", "text/html; charset=utf-8"),
            ("cache-control", freshness),
            ("etag", ETAG),
            ("last-modified", "Sat, 21 Nov 2026 08:00:00 GMT"),
            ("vary", "accept-encoding"),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "same-origin"),
            ("content-language", "en"),
        ] {
            parts.headers.insert(name, HeaderValue::from_static(value));
        }
        let body = Bytes::from("<p>a page</p>\n".repeat(body / 14 + 1)).slice(..body);
        Self {
            response: Arc::new((parts, body)),
        }
    }

    pub fn answer(&self) -> Response<Body> {
        MADE.set(MADE.get() + 1);
        let (parts, body) = &*self.response;
        Response::from_parts(parts.clone(), Body::from(body.clone()))
    }
}

/// Makes the requests of a scene.
pub struct Requests {
    scene: Scene,
    template: Parts,
    /// In which order pages are asked for.
    order: Arc<[u32]>,
    next: usize,
    /// No two threads ask for one page that is not stored.
    thread: usize,
}

impl Requests {
    pub fn new(scene: Scene, order: Arc<[u32]>, thread: usize) -> Self {
        let mut headers = HeaderMap::new();
        let fields = [
            ("host", "www.example.com"),
            (
                "user-agent",
                "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101",
            ),
            ("accept", "text/html,application/xhtml+xml,*/*;q=0.8"),
            ("accept-language", "en-GB,en;q=0.7"),
            ("accept-encoding", "gzip, deflate, br, zstd"),
            ("connection", "keep-alive"),
        ];
        let added: &[_] = match scene {
            Scene::Proxied => &[
                ("upgrade-insecure-requests", "1"),
                ("sec-fetch-dest", "document"),
                ("sec-fetch-mode", "navigate"),
                ("sec-fetch-site", "none"),
                ("x-forwarded-for", "203.0.113.7"),
                ("x-forwarded-host", "www.example.com"),
                ("x-forwarded-proto", "https"),
                ("x-request-id", "0af7651916cd43dd8448eb211c80319c"),
            ],
            _ => &[],
        };
        for (name, value) in fields.iter().chain(added).copied() {
            // As from a socket: no constants.
            let value = HeaderValue::from_maybe_shared(Bytes::from(value.to_owned()));
            headers.insert(name, value.expect("plain text"));
        }
        if scene == Scene::NotModified {
            headers.insert(IF_NONE_MATCH, HeaderValue::from_static(ETAG));
        }
        debug_assert!(!headers.contains_key(RANGE));
        let (mut template, ()) = Request::new(()).into_parts();
        template.method = Method::GET;
        template.headers = headers;
        Self {
            scene,
            template,
            order,
            next: thread * 977,
            thread,
        }
    }

    fn path(&mut self) -> String {
        self.next += 1;
        match self.scene {
            Scene::Zipf => page(self.order[self.next % self.order.len()]),
            Scene::Miss => format!("/page/{}-{}?lang=en&page=2", self.thread, self.next),
            _ => page(0),
        }
    }

    pub fn make(&mut self) -> Request<Body> {
        let mut parts = self.template.clone();
        parts.uri = Uri::try_from(self.path()).expect("a path");
        Request::from_parts(parts, Body::empty())
    }

    /// One request for each page that is to be stored before.
    pub fn each(&self) -> Vec<Request<Body>> {
        let pages = match self.scene {
            Scene::Zipf => PAGES,
            Scene::Miss => 0,
            _ => 1,
        };
        let requests = (0..pages).map(|number| {
            let mut parts = self.template.clone();
            parts.headers.remove(IF_NONE_MATCH);
            parts.uri = Uri::try_from(page(number as u32)).expect("a path");
            Request::from_parts(parts, Body::empty())
        });
        requests.collect()
    }
}

fn page(number: u32) -> String {
    format!("/page/{number}?lang=en&page=2")
}

/// Pages in the order they are asked for: by Zipf's law, the same at each run.
pub fn zipf() -> Arc<[u32]> {
    let mut weights: Vec<f64> = Vec::with_capacity(PAGES);
    let mut sum = 0.0;
    for rank in 1..=PAGES {
        sum += (rank as f64).powf(-0.99);
        weights.push(sum);
    }
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let mut draw = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 11) as f64 / (1_u64 << 53) as f64 * sum
    };
    let order = (0..1 << 17).map(|_| {
        let drawn = draw();
        weights.partition_point(|weight| *weight < drawn) as u32
    });
    order.collect()
}
