//! Three nodes with memory before one store, under load and changes, while the store suffers every fault
//! in turn: nothing wrong is shown, nothing old beyond its bound, and nothing grows.
//!
//! `AXUM_CACHE_SOAK` says for how many seconds.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "small numbers"
)]

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::is_long;
use crate::load::{Dice, pause, visit, visits};
use crate::proxy::Proxy;
use crate::support::servers::redis::{Redis, command};
use crate::tools::{
    Held, MILLI, OPERATION, PAGES, SECOND, Site, World, escaped, held, redis_url, report,
    tiered_url, until,
};

const NODES: usize = 3;

/// How many requests come in a second, and how long it is from one change to the next.
const RATE: f64 = 300.0;
const CHANGES: Duration = Duration::from_millis(100);

/// How old what another node has invalidated may be: `max_near_staleness`.
const BOUND: Duration = Duration::from_secs(2);

/// How long a store is back until all nodes have removed what they owe: the longest that the documentation
/// of the stores says.
const RECOVERY: Duration = Duration::from_secs(3);

/// By how much a moment that takes more memory than all before makes the process larger, for good.
const KEPT_KIB: u16 = 2048;

/// Changes that are older are not looked at any more.
const REMEMBERED: usize = 32;

/// What may go wrong with the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Hangs,
    KilledAndEmpty,
    KilledAndBack,
    Reset,
    Forgotten,
    AllForgotten,
    Cut,
    Late,
    Full,
    ReadOnly,
    NoReplicas,
    Paused,
}

const FAULTS: [Fault; 12] = [
    Fault::Hangs,
    Fault::KilledAndEmpty,
    Fault::Late,
    Fault::ReadOnly,
    Fault::KilledAndBack,
    Fault::Reset,
    Fault::Forgotten,
    Fault::Full,
    Fault::AllForgotten,
    Fault::Cut,
    Fault::NoReplicas,
    Fault::Paused,
];

struct Store {
    redis: Redis,
    proxy: Proxy,
}

impl Store {
    fn begin(&mut self, fault: Fault, lasts: Duration) {
        let millis = lasts.as_millis().to_string();
        match fault {
            Fault::Hangs => self.redis.server.signal("STOP"),
            Fault::KilledAndEmpty => self.redis.kill_and_forget(),
            Fault::KilledAndBack => self.redis.save_and_stop(),
            Fault::Reset => self.proxy.reset_all(),
            Fault::Forgotten => self.proxy.forget(),
            Fault::AllForgotten => self.proxy.forget_all(),
            Fault::Cut => self.proxy.cut_after(3000),
            Fault::Late => self.proxy.delay(200 * MILLI),
            Fault::Full => self.tell(&["CONFIG", "SET", "maxmemory", "1"]),
            Fault::ReadOnly => self.tell(&["REPLICAOF", "127.0.0.1", "1"]),
            Fault::NoReplicas => self.tell(&["CONFIG", "SET", "min-replicas-to-write", "1"]),
            Fault::Paused => self.tell(&["CLIENT", "PAUSE", &millis, "ALL"]),
        }
    }

    fn end(&mut self, fault: Fault) {
        match fault {
            Fault::Hangs => self.redis.server.signal("CONT"),
            Fault::KilledAndEmpty | Fault::KilledAndBack => self.redis.start_again(),
            Fault::Reset => self.proxy.accept(),
            Fault::AllForgotten => self.proxy.heal(),
            Fault::Cut => self.proxy.cut_after(usize::MAX),
            Fault::Late => self.proxy.delay(Duration::ZERO),
            Fault::Full => self.tell(&["CONFIG", "SET", "maxmemory", "0"]),
            Fault::ReadOnly => self.tell(&["REPLICAOF", "NO", "ONE"]),
            Fault::NoReplicas => self.tell(&["CONFIG", "SET", "min-replicas-to-write", "0"]),
            Fault::Forgotten | Fault::Paused => {}
        }
    }

    fn tell(&self, words: &[&str]) {
        let answer = command(self.redis.port, words).unwrap();
        assert!(!answer.starts_with('-'), "{words:?}: {answer}");
    }
}

/// A change, and how its invalidation ended.
#[derive(Debug)]
struct Change {
    version: u64,
    node: usize,
    is_done: bool,
    /// When it had returned.
    at: Instant,
}

/// How old an answer was.
#[derive(Default)]
struct Age {
    /// It is older than what another node had invalidated for so long.
    within: Option<Duration>,
    /// It must not be as old as it is.
    beyond: Option<String>,
}

/// All that is known of a run, and no more of a long one than of a short one.
#[derive(Default)]
struct Book {
    /// For how long each copy is kept near.
    near_ttl: Duration,
    /// The last ones of each page.
    changes: Mutex<BTreeMap<usize, VecDeque<Change>>>,
    failed_changes: AtomicUsize,
    /// Since when the store has been well.
    well_since: Mutex<Option<Instant>>,
    /// Which fault there is or was; none is the last.
    fault: AtomicUsize,
    sent: AtomicU64,
    answered: AtomicU64,
    /// Answers by what the cache did.
    outcomes: Mutex<BTreeMap<String, u64>>,
    errors: AtomicU64,
    foreign: AtomicU64,
    within: AtomicU64,
    oldest_within: Mutex<Duration>,
    beyond: AtomicU64,
    /// Some of those beyond.
    examples: Mutex<Vec<String>>,
    longest: Mutex<[Duration; FAULTS.len() + 1]>,
    times: Times,
}

/// How many answers took how long: in steps of a tenth.
struct Times([AtomicU64; 256]);

impl Default for Times {
    fn default() -> Self {
        Self([(); 256].map(|()| AtomicU64::new(0)))
    }
}

impl Times {
    fn add(&self, took: Duration) {
        let step = (took.as_secs_f64() * 1e6).max(1.0).ln() / 1.1_f64.ln();
        self.0[(step as usize).min(255)].fetch_add(1, Ordering::Relaxed);
    }

    fn at(&self, share: f64) -> Duration {
        let counts = self.0.each_ref().map(|count| count.load(Ordering::Relaxed));
        let mut left = (counts.iter().sum::<u64>() as f64 * share) as u64;
        for (step, count) in (0..).zip(counts) {
            match left.checked_sub(count) {
                Some(rest) => left = rest,
                None => return Duration::from_secs_f64(1.1_f64.powi(step + 1) / 1e6),
            }
        }
        Duration::MAX
    }
}

impl Book {
    fn changed(&self, page: usize, change: Change) {
        let failed = usize::from(!change.is_done);
        self.failed_changes.fetch_add(failed, Ordering::SeqCst);
        let mut changes = self.changes.lock().unwrap();
        let changes = changes.entry(page).or_default();
        if changes.len() == REMEMBERED {
            changes.pop_front();
        }
        changes.push_back(change);
    }

    /// How old what a node showed is, to who asked it then.
    fn age(&self, page: usize, node: usize, shown: u64, asked: Instant) -> Age {
        let mut age = Age::default();
        // A store that is away, or was a moment ago, may hold what could not be removed.
        let well_since = *self.well_since.lock().unwrap();
        let changes = self.changes.lock().unwrap();
        for change in changes.get(&page).into_iter().flatten() {
            if change.version <= shown || change.at > asked {
                continue;
            }
            let for_long = asked - change.at;
            let bound = if change.node == node {
                Duration::ZERO
            } else if change.is_done {
                BOUND
            } else {
                RECOVERY + self.near_ttl
            };
            let counts_from = if change.is_done || change.node == node {
                Some(change.at)
            } else {
                well_since.map(|since| since.max(change.at))
            };
            if counts_from.is_some_and(|from| asked.saturating_duration_since(from) > bound) {
                age.beyond = Some(format!(
                    "page {page} of node {node}: {shown} {for_long:.2?} after {change:?}"
                ));
            } else {
                age.within = age.within.max(Some(for_long));
            }
        }
        age
    }

    async fn ask(&self, sites: &[Site], number: usize, page: usize, due: Instant) {
        let node = number % NODES;
        let (fault, asked) = (self.fault.load(Ordering::SeqCst), Instant::now());
        let answer = visit(&sites[node], number, page).await;
        let took = due.elapsed();
        self.times.add(took);
        let longest = &mut self.longest.lock().unwrap()[fault];
        *longest = took.max(*longest);
        let is_error = u64::from(answer.status != 200);
        self.errors.fetch_add(is_error, Ordering::SeqCst);
        let is_foreign = u64::from(answer.is_foreign);
        self.foreign.fetch_add(is_foreign, Ordering::SeqCst);
        let outcome = outcome(&answer.how);
        *self.outcomes.lock().unwrap().entry(outcome).or_default() += 1;
        if let Some(shown) = answer.version {
            let age = self.age(page, node, shown, asked);
            if let Some(for_long) = age.within {
                self.within.fetch_add(1, Ordering::SeqCst);
                let mut oldest = self.oldest_within.lock().unwrap();
                *oldest = oldest.max(for_long);
            }
            if let Some(what) = age.beyond {
                self.beyond.fetch_add(1, Ordering::SeqCst);
                let fault = self.fault();
                let mut examples = self.examples.lock().unwrap();
                if examples.len() < 50 {
                    examples.push(format!("{what}, {}, {fault}", answer.how));
                }
            }
        }
        self.answered.fetch_add(1, Ordering::SeqCst);
    }

    fn fault(&self) -> String {
        let fault = FAULTS.get(self.fault.load(Ordering::SeqCst));
        let well_since = *self.well_since.lock().unwrap();
        let since = well_since.map(|since| since.elapsed());
        format!("{fault:?} over since {since:.2?}")
    }

    fn count(&self, is_so: impl Fn(&str) -> bool) -> u64 {
        let outcomes = self.outcomes.lock().unwrap();
        let counted = outcomes.iter().filter(|(outcome, _)| is_so(outcome));
        counted.map(|(_, count)| count).sum()
    }
}

/// What the cache did, without numbers.
fn outcome(how: &str) -> String {
    let is_kind = |part: &&str| !part.starts_with("ttl=") && !part.starts_with("fwd-status=");
    let parts: Vec<_> = how.split("; ").skip(1).filter(is_kind).collect();
    parts.join("; ")
}

/// How much of the mean a quantity grows in an hour, by the line through it, and three times the error of
/// that: what does not grow is below it but once in a thousand runs.
fn slope(samples: &[Held], of: impl Fn(&Held) -> f64) -> (f64, f64) {
    let hours = |held: &Held| held.at.as_secs_f64() / 3600.0;
    let count = samples.len() as f64;
    let mean = |of: &dyn Fn(&Held) -> f64| samples.iter().map(of).sum::<f64>() / count;
    let (middle, level) = (mean(&hours), mean(&of));
    let spread = samples.iter().map(|held| (hours(held) - middle).powi(2));
    let spread: f64 = spread.sum();
    let common = samples
        .iter()
        .map(|held| (hours(held) - middle) * (of(held) - level));
    let slope = common.sum::<f64>() / spread;
    let off = |held: &Held| of(held) - level - slope * (hours(held) - middle);
    let rest: f64 = samples.iter().map(|held| off(held).powi(2)).sum();
    let error = (rest / (count - 2.0) / spread).sqrt();
    (100.0 * slope / level, 300.0 * error / level)
}

struct Plan {
    lasts: Duration,
    /// From one fault to the next.
    period: Duration,
    near_ttl: Duration,
}

fn plan() -> Plan {
    let asked = std::env::var("AXUM_CACHE_SOAK").ok();
    let asked = asked.map(|seconds| seconds.parse().expect("AXUM_CACHE_SOAK: seconds"));
    let asked = asked.or_else(|| is_long().then_some(180));
    let plan = |lasts, period, near_ttl| Plan {
        lasts: lasts * SECOND,
        period: period * SECOND,
        near_ttl: near_ttl * SECOND,
    };
    asked.map_or_else(|| plan(20, 4, 2), |seconds| plan(seconds, 30, 15))
}

async fn nodes(port: u16, near_ttl: Duration) -> Vec<Site> {
    let world = Arc::<World>::default();
    let (far, seconds) = (redis_url(port, OPERATION), near_ttl.as_secs());
    let plane = format!("redis://127.0.0.1:{port}");
    let options = format!("backplane={}&near_ttl={seconds}", escaped(&plane));
    let url = format!("{}&{options}", tiered_url(&far));
    let mut nodes = Vec::new();
    for _ in 0..NODES {
        nodes.push(Site::of(&url, &world).await);
    }
    nodes
}

/// Changes pages on all nodes in turn, until it is over; how often.
async fn write(nodes: &[Site], book: &Book, over: &AtomicBool) -> usize {
    let mut changes = 0;
    while !over.load(Ordering::SeqCst) {
        let (node, page) = (changes % NODES, changes * 7 % PAGES);
        let is_done = nodes[node].change(page).await.is_ok();
        let change = Change {
            version: nodes[node].world.version(page),
            node,
            is_done,
            at: Instant::now(),
        };
        book.changed(page, change);
        changes += 1;
        pause(CHANGES).await;
    }
    changes
}

/// Lets the store suffer until there is time for one more fault only; how often of each, and what the
/// process held before each.
async fn suffer(
    store: &mut Store,
    plan: &Plan,
    start: Instant,
    book: &Book,
) -> (BTreeMap<String, usize>, Vec<Held>) {
    let (mut dice, mut counts, mut samples) = (Dice(11), BTreeMap::new(), Vec::new());
    let mut deck = Vec::new();
    for number in 0.. {
        let begin = plan.period / 4 + plan.period * number;
        if begin + plan.period * 3 / 2 > plan.lasts {
            break;
        }
        tokio::time::sleep_until((start + begin).into()).await;
        samples.push(held(start));
        if deck.is_empty() {
            deck = (0..FAULTS.len()).collect();
        }
        let fault = deck.swap_remove((dice.next() * deck.len() as f64) as usize);
        let lasts = plan.period.mul_f64(0.05 + 0.2 * dice.next());
        *book.well_since.lock().unwrap() = None;
        book.fault.store(fault, Ordering::SeqCst);
        let fault = FAULTS[fault];
        *counts.entry(format!("{fault:?}")).or_default() += 1;
        store.begin(fault, lasts);
        pause(lasts).await;
        store.end(fault);
        *book.well_since.lock().unwrap() = Some(Instant::now());
    }
    (counts, samples)
}

pub(crate) async fn g3_soak() {
    let plan = plan();
    let redis = Redis::start(&[]).unwrap();
    let proxy = Proxy::to(redis.port).await;
    let nodes = nodes(proxy.port, plan.near_ttl).await;
    let mut store = Store { redis, proxy };
    let start = Instant::now();
    let book = Arc::new(Book {
        near_ttl: plan.near_ttl,
        well_since: Mutex::new(Some(start)),
        fault: AtomicUsize::new(FAULTS.len()),
        ..Book::default()
    });
    let load = tokio::spawn({
        let (nodes, book, lasts): (Arc<[_]>, _, _) =
            (nodes.clone().into(), Arc::clone(&book), plan.lasts);
        async move {
            visits(RATE, start, lasts, |number, page, due| {
                book.sent.fetch_add(1, Ordering::SeqCst);
                let (nodes, book) = (Arc::clone(&nodes), Arc::clone(&book));
                tokio::spawn(async move { book.ask(&nodes, number, page, start + due).await });
            })
            .await;
        }
    });
    let over = Arc::new(AtomicBool::new(false));
    let writing = tokio::spawn({
        let (nodes, book, over) = (nodes.clone(), Arc::clone(&book), Arc::clone(&over));
        async move { write(&nodes, &book, &over).await }
    });
    let sampling = tokio::spawn({
        let lasts = plan.lasts;
        async move {
            // Of a long run more seldom: a few hundred say it all.
            let pace = (lasts / 400).max(SECOND / 4);
            let mut samples = Vec::new();
            while start.elapsed() < lasts {
                samples.push(held(start));
                pause(pace).await;
            }
            samples
        }
    });
    let (faults, mut quiet) = suffer(&mut store, &plan, start, &book).await;
    let settles = RECOVERY + plan.near_ttl;
    tokio::time::sleep_until((start + plan.lasts.saturating_sub(settles)).into()).await;
    over.store(true, Ordering::SeqCst);
    let changes = writing.await.unwrap();
    load.await.unwrap();
    let samples = sampling.await.unwrap();
    let count = |count: &AtomicU64| count.load(Ordering::SeqCst);
    until("answered", async || {
        count(&book.answered) == count(&book.sent)
    })
    .await;
    quiet.push(held(start));
    let runs = nodes[0].world.runs.load(Ordering::SeqCst) as u64;
    let mut differ = 0;
    for node in &nodes {
        for page in 0..PAGES {
            // Those of a number that is divisible by four are pages.
            let answer = visit(node, 4, page).await;
            differ += usize::from(answer.version != Some(node.world.version(page)));
        }
    }
    let (resident, error) = summary(&book, &nodes, changes, &faults, &samples, &quiet);
    for example in book.examples.lock().unwrap().iter() {
        println!("beyond: {example}");
    }
    assert_eq!((count(&book.errors), count(&book.foreign)), (0, 0));
    assert_eq!((count(&book.beyond), differ), (0, 0));
    let handled =
        book.count(|outcome| outcome.starts_with("fwd=") && !outcome.contains("collapsed"));
    let hits = book.count(|outcome| outcome.starts_with("hit"));
    let collapsed =
        book.count(|outcome| outcome.contains("collapsed") && !outcome.starts_with("hit"));
    assert_eq!(hits + handled + collapsed, count(&book.sent));
    assert_eq!(handled, runs);
    assert!(hits > 0 && changes > 50 && book.failed_changes.load(Ordering::SeqCst) > 0);
    if plan.lasts >= 1800 * SECOND {
        let (first, last) = (quiet[0], quiet[quiet.len() - 1]);
        // The allocator keeps what the worst moment took. A leak of four bytes a request would be more.
        let hours = plan.lasts.as_secs_f64() / 3600.0 / 2.0;
        let spared = 100.0 * f64::from(KEPT_KIB) / last.resident_kib / hours;
        assert!(
            resident - error <= 1.0 + spared,
            "{resident} ± {error} % in an hour, {spared} % of that to be expected"
        );
        assert!(last.descriptors <= first.descriptors, "{first:?}, {last:?}");
    }
}

/// Prints what came of it; by how many of a hundred resident memory grows in an hour, and the error of that.
fn summary(
    book: &Book,
    nodes: &[Site],
    changes: usize,
    faults: &BTreeMap<String, usize>,
    samples: &[Held],
    quiet: &[Held],
) -> (f64, f64) {
    let count = |count: &AtomicU64| count.load(Ordering::SeqCst);
    let sent = count(&book.sent);
    report(
        "G3 requests",
        "0 × not 200, 0 of others, hits + misses + others = requests",
        format_args!(
            "{} not 200, {} of others; {sent} requests, {} handlers ran; {:?}; p50 {:.1?}, p99 {:.1?}, p999 {:.1?}",
            count(&book.errors),
            count(&book.foreign),
            nodes[0].world.runs.load(Ordering::SeqCst),
            book.outcomes.lock().unwrap(),
            book.times.at(0.5),
            book.times.at(0.99),
            book.times.at(0.999),
        ),
    );
    report(
        "G3 changes",
        "0 older than an invalidation by the same node; of others none beyond 2 s, or if it failed while the store was away, 3 s and near_ttl after that is back",
        format_args!(
            "{changes} changes, {} failed; {} beyond; {} within, the oldest {:.2?}",
            book.failed_changes.load(Ordering::SeqCst),
            count(&book.beyond),
            count(&book.within),
            book.oldest_within.lock().unwrap(),
        ),
    );
    let mut text = String::new();
    let longest = *book.longest.lock().unwrap();
    for (fault, longest) in FAULTS.iter().zip(longest) {
        let fault = format!("{fault:?}");
        if let Some(count) = faults.get(&fault) {
            let _ = write!(text, "{fault} {count} times, longest {longest:.1?}; ");
        }
    }
    let none = longest[FAULTS.len()];
    report(
        "G3 faults",
        "each in turn",
        format_args!("{text}before any {none:.1?}"),
    );
    let later = &samples[samples.len() / 2..];
    let resident = slope(later, |held| held.resident_kib);
    let descriptors = slope(later, |held| held.descriptors as f64);
    let tasks = slope(later, |held| held.tasks as f64);
    let ends = |of: fn(&Held) -> f64| (of(&quiet[0]), of(&quiet[quiet.len() - 1]));
    report(
        "G3 resources",
        "at most 1 %/h",
        format_args!(
            "per hour, by the second half: memory {:.1} ± {:.1} %, descriptors {:.1} ± {:.1} %, tasks {:.1} ± {:.1} %; in quiet, first and last: {:?} KiB, {:?} descriptors, {:?} tasks",
            resident.0,
            resident.1,
            descriptors.0,
            descriptors.1,
            tasks.0,
            tasks.1,
            ends(|held| held.resident_kib),
            ends(|held| held.descriptors as f64),
            ends(|held| held.tasks as f64),
        ),
    );
    resident
}
