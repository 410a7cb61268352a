//! A site over a store, the data behind it, and figures beside criteria.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum_cache::{Cache, CacheLayer, Caches, Error, ErrorKind, Settings, Tags};
use tokio::runtime::Handle;

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MILLI: Duration = Duration::from_millis(1);
pub(crate) const TTL: Duration = Duration::from_secs(900);

/// How many pages there are.
pub(crate) const PAGES: usize = 40;

/// How many calls of the store a handler makes.
pub(crate) const CALLS: usize = 20;

/// How long a call of the store may take. Half of the default, so that there are more of them.
pub(crate) const OPERATION: Duration = Duration::from_millis(250);

/// The same where it is not the subject: a busy machine must not look like a store that is away.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What a busy machine may add to any time. Twenty calls that wait take much longer.
pub(crate) const SLACK: Duration = Duration::from_secs(1);

/// The data behind the cache: of each page its version, and the one up to which invalidations returned.
#[derive(Debug)]
pub(crate) struct World {
    versions: [AtomicU64; PAGES],
    settled: [AtomicU64; PAGES],
    /// How often handlers ran.
    pub(crate) runs: AtomicUsize,
    /// How calls of handlers failed.
    failures: Mutex<BTreeMap<String, usize>>,
}

impl Default for World {
    fn default() -> Self {
        Self {
            versions: [(); PAGES].map(|()| AtomicU64::new(0)),
            settled: [(); PAGES].map(|()| AtomicU64::new(0)),
            runs: AtomicUsize::new(0),
            failures: Mutex::default(),
        }
    }
}

impl World {
    pub(crate) fn version(&self, page: usize) -> u64 {
        self.versions[page].load(Ordering::SeqCst)
    }

    /// What nobody who asks now may be shown anything older than.
    pub(crate) fn settled(&self, page: usize) -> u64 {
        self.settled[page].load(Ordering::SeqCst)
    }

    fn failed(&self, error: &Error) {
        assert_typed(error);
        let kind = format!("{:?}", error.kind());
        *self.failures.lock().unwrap().entry(kind).or_default() += 1;
    }

    /// How calls failed since the last time this was asked.
    pub(crate) fn take_failures(&self) -> BTreeMap<String, usize> {
        std::mem::take(&mut self.failures.lock().unwrap())
    }
}

/// Whether it says that the store is to blame, and for what.
pub(crate) fn assert_typed(error: &Error) {
    let kinds = [
        ErrorKind::Unavailable,
        ErrorKind::Timeout,
        ErrorKind::TooLarge,
    ];
    assert!(kinds.contains(&error.kind()), "{error:?}");
}

/// One node: a site, and a cache with connections of its own.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub(crate) cache: Cache,
    pub(crate) world: Arc<World>,
    pub(crate) router: Router,
}

/// The cache of this URL, as settings make it.
pub(crate) async fn cache(url: &str) -> Cache {
    let settings = Settings::new().with_url("default", url).unwrap();
    let caches = Caches::builder().settings(settings).build().await;
    caches.unwrap().default()
}

/// The URL of a Redis at this port whose calls take so long at most.
pub(crate) fn redis_url(port: u16, operation: Duration) -> String {
    let seconds = operation.as_secs_f64();
    format!("redis://127.0.0.1:{port}?operation_timeout={seconds}")
}

/// The URL of memory in front of the store of another URL.
pub(crate) fn tiered_url(far: &str) -> String {
    format!("tiered://?far={}", escaped(far))
}

/// A URL within another one.
pub(crate) fn escaped(url: &str) -> String {
    let url = url.replace(':', "%3A").replace('/', "%2F");
    url.replace('?', "%3F").replace('=', "%3D")
}

impl Site {
    pub(crate) async fn new(url: &str) -> Self {
        Self::of(url, &Arc::default()).await
    }

    /// One more node of this world.
    pub(crate) async fn of(url: &str, world: &Arc<World>) -> Self {
        let cache = cache(url).await;
        let layer = CacheLayer::new(cache.clone()).ttl(TTL);
        let mut site = Self {
            cache,
            world: Arc::clone(world),
            router: Router::new(),
        };
        site.router = Router::new()
            .route("/page/{number}", get(page))
            .route("/me/{number}", get(me))
            .with_state(site.clone())
            .layer(layer);
        site
    }

    /// Changes a page, and then invalidates it; how that failed, if it did.
    pub(crate) async fn change(&self, page: usize) -> axum_cache::Result<()> {
        let version = self.world.versions[page].fetch_add(1, Ordering::SeqCst) + 1;
        let outcome = self.cache.invalidate([tag(page)]).await;
        self.world.settled[page].fetch_max(version, Ordering::SeqCst);
        if let Err(error) = &outcome {
            assert_typed(error);
        }
        outcome
    }

    /// Stores what each page is made of.
    pub(crate) async fn store_parts(&self) {
        for page in 0..PAGES {
            let cache = self.cache.with_tags([tag(page)]);
            let version = self.world.version(page);
            let key = part(page, 0);
            until("stored", async || {
                cache.set(&key, &version, TTL).await.is_ok()
            })
            .await;
        }
    }

    /// Reads what was stored of a page, and nothing else: whether it was there, and too old. `None`: the
    /// store was away.
    pub(crate) async fn look(&self, page: usize) -> Option<(bool, bool)> {
        let settled = self.world.settled(page);
        match self.cache.get::<u64>(&part(page, 0)).await {
            Ok(seen) => Some((seen.is_some(), seen.is_some_and(|seen| seen < settled))),
            Err(error) => {
                assert_typed(&error);
                None
            }
        }
    }
}

pub(crate) fn tag(page: usize) -> String {
    format!("page:{page}")
}

fn part(page: usize, number: usize) -> String {
    format!("part:{page}:{number}")
}

/// A page that is made of many cached parts, each of the version it was computed of. It says the oldest.
async fn page(State(site): State<Site>, Path(number): Path<usize>) -> Response {
    let world = &site.world;
    world.runs.fetch_add(1, Ordering::SeqCst);
    let mut oldest = world.version(number);
    let cache = site.cache.with_tags([tag(number)]);
    for call in 0..CALLS {
        let key = part(number, call / 2);
        let seen = if call % 2 == 0 {
            cache.get::<u64>(&key).await
        } else {
            let world = Arc::clone(world);
            let compute = move || async move { Ok::<_, io::Error>(world.version(number)) };
            cache.get_or_set(&key, TTL, compute).await.map(Some)
        };
        match seen {
            Ok(seen) => oldest = oldest.min(seen.unwrap_or(oldest)),
            Err(error) => world.failed(&error),
        }
    }
    let mut response = oldest.to_string().into_response();
    response.extensions_mut().insert(Tags::new([tag(number)]));
    response
}

/// A page of one identity, that only it may see.
async fn me(State(site): State<Site>, headers: HeaderMap) -> impl IntoResponse {
    site.world.runs.fetch_add(1, Ordering::SeqCst);
    let session = headers["cookie"].to_str().unwrap().to_owned();
    ([("vary", "cookie")], format!("secret of {session}"))
}

/// Waits until `is_so` says so, and how long that took.
pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !is_so().await {
        assert!(start.elapsed() < 30 * SECOND, "still not: {what}");
        tokio::time::sleep(2 * MILLI).await;
    }
    start.elapsed()
}

/// What the process holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub(crate) at: Duration,
    pub(crate) resident_kib: f64,
    pub(crate) descriptors: usize,
    pub(crate) tasks: usize,
}

pub(crate) fn held(start: Instant) -> Held {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.trim().split(' ').next());
    Held {
        at: start.elapsed(),
        resident_kib: number.map_or(0.0, |number| number.parse().unwrap()),
        descriptors: std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count),
        tasks: Handle::current().metrics().num_alive_tasks(),
    }
}

/// Prints a figure beside its criterion.
pub(crate) fn report(scenario: &str, criterion: &str, figure: impl std::fmt::Display) {
    println!("| {scenario} | {criterion} | {figure} |");
}
