//! What is removed while the store is away, on several nodes, and not one of them shows again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::is_long;
use crate::load::{Running, pause};
use crate::proxy::Proxy;
use crate::support::servers::database::Database;
use crate::support::servers::memcached::Memcached;
use crate::support::servers::redis::{Redis, command};
use crate::tools::{MILLI, OPERATION, PAGES, SECOND, Site, World, redis_url, report, until};

const NODES: usize = 3;

async fn nodes(url: &str) -> Vec<Site> {
    let world = Arc::<World>::default();
    let mut nodes = Vec::new();
    for _ in 0..NODES {
        nodes.push(Site::of(url, &world).await);
    }
    nodes
}

/// What all nodes read, all the time.
struct Watch {
    over: Arc<AtomicBool>,
    reads: Arc<AtomicUsize>,
    found: Arc<AtomicUsize>,
    tasks: JoinSet<Vec<String>>,
}

impl Watch {
    fn start(nodes: &[Site]) -> Self {
        let mut watch = Self {
            over: Arc::default(),
            reads: Arc::default(),
            found: Arc::default(),
            tasks: JoinSet::new(),
        };
        let begin = Instant::now();
        for (number, node) in nodes.iter().enumerate() {
            let (node, over) = (node.clone(), Arc::clone(&watch.over));
            let (reads, found) = (Arc::clone(&watch.reads), Arc::clone(&watch.found));
            watch.tasks.spawn(async move {
                let mut stale = Vec::new();
                for read in 0.. {
                    if over.load(Ordering::SeqCst) {
                        break;
                    }
                    let page = (read * 7 + number) % PAGES;
                    let at = begin.elapsed();
                    if let Some((is_there, is_old)) = node.look(page).await {
                        reads.fetch_add(1, Ordering::SeqCst);
                        found.fetch_add(usize::from(is_there), Ordering::SeqCst);
                        if is_old {
                            stale.push(format!("node {number}, page {page}, {at:?}"));
                        }
                    }
                    pause(2 * MILLI).await;
                }
                stale
            });
        }
        watch
    }

    /// How many reads there were, how many found something, and what was stale.
    async fn finish(self) -> (usize, usize, Vec<String>) {
        self.over.store(true, Ordering::SeqCst);
        let stale = self.tasks.join_all().await.concat();
        let count = |count: &AtomicUsize| count.load(Ordering::SeqCst);
        (count(&self.reads), count(&self.found), stale)
    }
}

/// How many pages are changed in an outage; the others are to stay.
const CHANGED: usize = PAGES / 2;

/// One node learns of changes while the store is away, for several times; nobody reads what was before.
async fn a9(what: &str, url: &str, rounds: usize, mut away: impl AsyncFnMut(bool)) -> usize {
    let nodes = nodes(url).await;
    let (mut reads, mut found, mut stale, mut kept) = (0, 0, Vec::new(), usize::MAX);
    let mut longest = Duration::ZERO;
    for round in 0..rounds {
        nodes[0].store_parts().await;
        let watch = Watch::start(&nodes);
        pause(200 * MILLI).await;
        away(true).await;
        // All have noticed, or not yet.
        let noticed = [300, 700, 1500, 50][round % 4];
        pause(noticed * MILLI).await;
        let mut failed = 0;
        for page in 0..CHANGED {
            failed += usize::from(nodes[0].change(page).await.is_err());
        }
        pause(u32::try_from(round * 137 % 900).unwrap() * MILLI).await;
        away(false).await;
        let back = Instant::now();
        for node in &nodes {
            until("back", async || node.look(PAGES - 1).await.is_some()).await;
        }
        longest = longest.max(back.elapsed());
        pause(500 * MILLI).await;
        let mut there = 0;
        for page in CHANGED..PAGES {
            for node in &nodes {
                let mut seen = None;
                until("answered", async || {
                    seen = node.look(page).await;
                    seen.is_some()
                })
                .await;
                there += usize::from(seen.unwrap().0);
            }
        }
        kept = kept.min(there);
        let (more, hits, bad) = watch.finish().await;
        assert!(failed > 0, "nobody noticed");
        reads += more;
        found += hits;
        stale.extend(bad.into_iter().map(|bad| format!("round {round}: {bad}")));
    }
    report(
        "A9",
        "0 reads of what was before, on all nodes",
        format_args!(
            "{what}, {rounds} times: {} of {reads} reads, {found} found something; all nodes back within {longest:.1?}; of {} reads of others at least {kept} found them",
            stale.len(),
            NODES * (PAGES - CHANGED),
        ),
    );
    assert!(stale.is_empty(), "{stale:#?}");
    assert!(found > 0);
    kept
}

fn rounds() -> usize {
    if is_long() { 20 } else { 4 }
}

pub(crate) async fn a9_removed_while_it_hangs() {
    let redis = Redis::start(&[]).unwrap();
    let away = async |is_away: bool| {
        redis.server.signal(if is_away { "STOP" } else { "CONT" });
    };
    let url = redis_url(redis.port, OPERATION);
    assert!(a9("redis hangs", &url, rounds(), away).await > 0);
}

pub(crate) async fn a9_removed_while_the_line_is_silent() {
    let redis = Redis::start(&[]).unwrap();
    let proxy = Proxy::to(redis.port).await;
    let away = async |is_away: bool| {
        if is_away {
            proxy.forget_all();
        } else {
            proxy.heal();
        }
    };
    let url = redis_url(proxy.port, OPERATION);
    assert!(a9("redis, silent line", &url, rounds(), away).await > 0);
}

pub(crate) async fn a9_removed_and_back_with_old_data() {
    let mut redis = Redis::start(&[]).unwrap();
    let port = redis.port;
    let away = async |is_away: bool| {
        if is_away {
            let saved = command(port, &["SAVE"]).unwrap();
            assert!(saved.contains("OK"), "{saved}");
            redis.server.stop("KILL");
        } else {
            redis.start_again();
        }
    };
    let url = redis_url(port, OPERATION);
    let kept = a9("redis killed, back with old data", &url, rounds(), away).await;
    assert_eq!(
        kept, 0,
        "of a copy, nobody knows what was invalidated since"
    );
}

pub(crate) async fn a9_removed_while_memcached_hangs() {
    let memcached = Memcached::start(&[]).unwrap();
    let away = async |is_away: bool| {
        let signal = if is_away { "STOP" } else { "CONT" };
        memcached.server.signal(signal);
    };
    let url = format!("{}?operation_timeout=0.25", memcached.url());
    assert!(a9("memcached hangs", &url, rounds() / 2, away).await > 0);
}

pub(crate) async fn a9_removed_while_postgres_hangs() {
    let mut database = Database::postgres().unwrap();
    let url = format!("{}?create_table=true&operation_timeout=0.5", database.url);
    let away = async |is_away: bool| {
        database.signal(if is_away { "STOP" } else { "CONT" });
    };
    assert!(a9("postgres hangs", &url, rounds() / 2, away).await > 0);
}

pub(crate) async fn a8_flaps_while_others_write() {
    let redis = Redis::start(&[]).unwrap();
    let nodes = nodes(&redis_url(redis.port, OPERATION)).await;
    let flaps = if is_long() { 150 } else { 5 };
    let load = Running::start(&nodes, 2 * flaps * SECOND + 6 * SECOND);
    let over = Arc::new(AtomicBool::new(false));
    let writing = tokio::spawn({
        let (nodes, over) = (nodes.clone(), Arc::clone(&over));
        async move {
            let (mut changes, mut failed) = (0, 0);
            while !over.load(Ordering::SeqCst) {
                let node = &nodes[changes % NODES];
                failed += usize::from(node.change(changes % PAGES).await.is_err());
                changes += 1;
                pause(20 * MILLI).await;
            }
            (changes, failed)
        }
    });
    for _ in 0..flaps {
        pause(SECOND).await;
        redis.server.signal("STOP");
        pause(SECOND).await;
        redis.server.signal("CONT");
    }
    over.store(true, Ordering::SeqCst);
    let (changes, failed) = writing.await.unwrap();
    // Quiet for five seconds, and then each node is asked for each page.
    pause(5 * SECOND).await;
    let (mut old, mut there) = (0, 0);
    for node in &nodes {
        for page in 0..PAGES {
            let mut seen = None;
            until("answered", async || {
                seen = node.look(page).await;
                seen.is_some()
            })
            .await;
            let (is_there, is_old) = seen.unwrap();
            there += usize::from(is_there);
            old += usize::from(is_old);
        }
    }
    let load = load.finish_unchecked().await;
    // While it flaps, no node can tell the others: who joins a request that began before a change on
    // another node gets what that one gets.
    let stale = load.stale();
    report(
        "A8 redis",
        "0 wrong answers; after 5 s of quiet 0 stale reads, 0 nodes that differ",
        format_args!(
            "1 s up, 1 s away, {flaps} times: {changes} changes, {failed} failed; {}; {stale} stale of {} while it flapped; then {old} stale of {there}",
            load.between(Duration::ZERO, Duration::MAX),
            load.len(),
        ),
    );
    assert_eq!((load.wrong(), old), (0, 0));
    assert!(changes > 20 && failed > 0 && there > 0);
}
