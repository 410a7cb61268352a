//! A load that does not wait for answers, and what came of it.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "small numbers"
)]

use std::fmt;
use std::time::{Duration, Instant};

use axum::body::{Body, to_bytes};
use axum::http::Request;
use tokio::task::{JoinHandle, JoinSet};
use tower::ServiceExt;

use crate::is_long;
use crate::tools::{MILLI, PAGES, SECOND, Site};

/// How many requests come in a second.
const RATE: f64 = 200.0;

/// How many identities there are.
const IDENTITIES: usize = 7;

/// A request, and what was wrong with its answer.
#[derive(Debug)]
struct Sample {
    /// When it was to be sent, after the beginning. Times count from there.
    due: Duration,
    took: Duration,
    status: u16,
    is_hit: bool,
    /// What was older than an invalidation that had returned when it was sent.
    stale: Option<String>,
    /// Of another identity.
    is_foreign: bool,
}

/// What came of a load.
#[derive(Debug)]
pub(crate) struct Load {
    samples: Vec<Sample>,
}

/// A load that goes on.
pub(crate) struct Running {
    start: Instant,
    task: JoinHandle<Vec<Sample>>,
}

/// In the long run, so many times as long.
pub(crate) fn times() -> u32 {
    if is_long() { 3 } else { 1 }
}

pub(crate) async fn pause(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Fills the store, so that what comes then is of a site in its usual state.
pub(crate) async fn warm(site: &Site) {
    Running::on(site, SECOND).finish().await;
    for page in 0..PAGES {
        let now = Instant::now();
        ask(site.clone(), page * 4, page, now, Duration::ZERO).await;
    }
    site.world.take_failures();
}

impl Running {
    /// Asks one site, for so long.
    pub(crate) fn on(site: &Site, lasts: Duration) -> Self {
        Self::start(std::slice::from_ref(site), lasts)
    }

    /// Asks the sites in turn, for so long.
    pub(crate) fn start(sites: &[Site], lasts: Duration) -> Self {
        let (sites, start) = (sites.to_vec(), Instant::now());
        let task = tokio::spawn(async move {
            let mut requests = JoinSet::new();
            visits(RATE, start, lasts, |number, page, due| {
                let site = sites[number % sites.len()].clone();
                requests.spawn(ask(site, number, page, start, due));
            })
            .await;
            requests.join_all().await
        });
        Self { start, task }
    }

    /// The time since it began.
    pub(crate) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Waits for its end. Nothing of it may have been wrong.
    pub(crate) async fn finish(self) -> Load {
        let load = self.finish_unchecked().await;
        assert_eq!((load.wrong(), load.stale()), (0, 0));
        load
    }

    /// The same, for a test that says by itself what is wrong.
    pub(crate) async fn finish_unchecked(self) -> Load {
        let mut samples = self.task.await.unwrap();
        samples.sort_unstable_by_key(|sample| sample.due);
        Load { samples }
    }
}

/// Visitors who ask for pages, so many in a second, whether or not others have their answers: who is it,
/// for which page, and due when.
pub(crate) async fn visits(
    rate: f64,
    start: Instant,
    lasts: Duration,
    mut visit: impl FnMut(usize, usize, Duration),
) {
    let (mut due, mut dice) = (Duration::ZERO, Dice(7));
    for number in 0.. {
        // Not in step with anything.
        due += SECOND.mul_f64(-(1.0 - dice.next()).ln() / rate);
        if due >= lasts {
            break;
        }
        tokio::time::sleep_until((start + due).into()).await;
        let page = if dice.next() < 0.5 { 0.2 } else { 1.0 } * dice.next() * PAGES as f64;
        visit(number, page as usize, due);
    }
}

/// Numbers that are the same each time, from 0 to 1.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// What a site answers one visitor.
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Its `Cache-Status`.
    pub(crate) how: String,
    /// The version of the page that was shown.
    pub(crate) version: Option<u64>,
    /// Whether it is of another identity.
    pub(crate) is_foreign: bool,
}

/// Asks for a page, or every fourth time for one that only this visitor may see.
pub(crate) async fn visit(site: &Site, number: usize, page: usize) -> Answer {
    let is_me = number % 4 == 3;
    let session = format!("session={}", number % IDENTITIES);
    let request = if is_me {
        let uri = format!("http://site.test/me/{}", page % 4);
        Request::get(uri).header("cookie", &session)
    } else {
        Request::get(format!("http://site.test/page/{page}"))
    };
    let request = request.body(Body::empty()).unwrap();
    let response = site.router.clone().oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let mut how = response.headers().get_all("cache-status").iter();
    let how = how.next_back().unwrap().to_str().unwrap().to_owned();
    let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    let text = String::from_utf8(body.to_vec()).unwrap();
    Answer {
        status,
        how,
        version: if is_me { None } else { text.parse().ok() },
        is_foreign: is_me && text != format!("secret of {session}"),
    }
}

async fn ask(site: Site, number: usize, page: usize, start: Instant, due: Duration) -> Sample {
    let settled = site.world.settled(page);
    let answer = visit(&site, number, page).await;
    let took = (start + due).elapsed();
    let (how, seen) = (&answer.how, answer.version);
    let stale = seen
        .filter(|seen| *seen < settled)
        .map(|seen| format!("page {page} of {seen} < {settled} at {due:?}, after {took:?}, {how}"));
    Sample {
        due,
        took,
        status: answer.status,
        is_hit: how.contains("; hit"),
        stale,
        is_foreign: answer.is_foreign,
    }
}

impl Load {
    /// That part of it that was due after `from` and before `to`.
    pub(crate) fn between(&self, from: Duration, to: Duration) -> Part<'_> {
        let samples = self.samples.iter();
        Part(samples.filter(|it| it.due >= from && it.due < to).collect())
    }

    pub(crate) fn len(&self) -> usize {
        self.samples.len()
    }

    /// How many were errors, or of another identity.
    pub(crate) fn wrong(&self) -> usize {
        let is_wrong = |sample: &&Sample| sample.status != 200 || sample.is_foreign;
        self.samples.iter().filter(is_wrong).count()
    }

    /// How many were older than an invalidation that had returned.
    pub(crate) fn stale(&self) -> usize {
        let stale = self.samples.iter().filter_map(|it| it.stale.as_ref());
        stale.inspect(|stale| println!("stale: {stale}")).count()
    }

    /// How long after `from` it took until a tenth of a second was answered from the store again, with
    /// as many hits as before.
    pub(crate) fn normal_after(&self, from: Duration, before: f64) -> Option<Duration> {
        let last = self.samples.last()?.due;
        let mut at = from;
        while at + 100 * MILLI < last {
            if self.between(at, at + 100 * MILLI).hits() >= before - 0.1 {
                return at.checked_sub(from);
            }
            at += 10 * MILLI;
        }
        None
    }
}

/// Some time of a load.
pub(crate) struct Part<'l>(Vec<&'l Sample>);

impl Part<'_> {
    /// How many of a hundred were as fast as this, or faster.
    pub(crate) fn at(&self, share: f64) -> Duration {
        let mut times: Vec<_> = self.0.iter().map(|sample| sample.took).collect();
        times.sort_unstable();
        let place = (times.len() as f64 * share) as usize;
        let place = place.min(times.len().saturating_sub(1));
        times.get(place).copied().unwrap_or_default()
    }

    pub(crate) fn longest(&self) -> Duration {
        self.at(1.0)
    }

    /// The share of hits.
    pub(crate) fn hits(&self) -> f64 {
        let hits = self.0.iter().filter(|sample| sample.is_hit).count();
        hits as f64 / self.0.len().max(1) as f64
    }
}

impl fmt::Display for Part<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} requests, p50 {:.1?}, p99 {:.1?}, longest {:.1?}, {:.0} % hits",
            self.0.len(),
            self.at(0.5),
            self.at(0.99),
            self.longest(),
            self.hits() * 100.0,
        )
    }
}
