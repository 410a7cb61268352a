//! Memory in front of a store in three processes: how old what is read may be while messages between them are
//! lost, come twice, and late.
//!
//! Each value is a number, one more than the last. When the write of each number had returned is in a file that
//! all processes share, by the clock of the machine; a read is stale by the time since the write of the next.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use axum_cache::{Cache, Ttl};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::child::{Client, order, say};
use crate::races::{all, clients};
use crate::support::servers::database::Database;
use crate::support::servers::redis::Redis;
use crate::tiered::{Fault, KEYS, Node, is_long, name, postgres_node, redis_node, times, until};

const NODES: usize = 3;

/// The most numbers of a key.
const NUMBERS: u64 = 100_000;

/// When writes had returned.
struct Written(File);

impl Written {
    fn create(path: &Path) {
        let file = File::create(path).unwrap();
        file.set_len(KEYS as u64 * NUMBERS * 8).unwrap();
    }

    fn open(path: &str) -> Self {
        Self(File::options().read(true).write(true).open(path).unwrap())
    }

    fn place(key: usize, number: u64) -> u64 {
        assert!(number < NUMBERS);
        (key as u64 * NUMBERS + number) * 8
    }

    fn note(&self, key: usize, number: u64) {
        let now = now().to_le_bytes();
        self.0.write_all_at(&now, Self::place(key, number)).unwrap();
    }

    /// How long before `now` the write of `number` had returned.
    fn since(&self, key: usize, number: u64, now: u64) -> Option<Duration> {
        let mut bytes = [0; 8];
        let place = Self::place(key, number);
        self.0.read_exact_at(&mut bytes, place).unwrap();
        let at = u64::from_le_bytes(bytes);
        let since = now.checked_sub(at).filter(|_| at > 0)?;
        (since > 0).then(|| Duration::from_nanos(since))
    }
}

/// Nanoseconds, by the clock that all processes see.
fn now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(now.unwrap().as_nanos()).unwrap()
}

/// What one node writes and reads, until it ends.
struct Load {
    is_over: Arc<AtomicBool>,
    writer: JoinHandle<()>,
    reader: JoinHandle<(u64, u64, Duration)>,
}

impl Load {
    /// `PATH AT`: each key has one node that writes it, by its number; all nodes read all.
    fn start(cache: &Cache, order: &str) -> Self {
        let (path, at) = order.split_once(' ').unwrap();
        let (written, at) = (Arc::new(Written::open(path)), at.parse().unwrap());
        let is_over = Arc::new(AtomicBool::new(false));
        let writer = tokio::spawn(write(
            cache.clone(),
            Arc::clone(&written),
            at,
            Arc::clone(&is_over),
        ));
        let reader = tokio::spawn(read(cache.clone(), written, Arc::clone(&is_over)));
        Self {
            is_over,
            writer,
            reader,
        }
    }

    async fn end(self) -> String {
        self.is_over.store(true, Ordering::SeqCst);
        self.writer.await.unwrap();
        let (reads, stale, worst) = self.reader.await.unwrap();
        format!("{reads} {stale} {}", worst.as_millis())
    }
}

async fn write(cache: Cache, written: Arc<Written>, at: usize, is_over: Arc<AtomicBool>) {
    for number in 0.. {
        if is_over.load(Ordering::SeqCst) {
            return;
        }
        for key in (at..KEYS).step_by(NODES) {
            // Whatever fails is tried until it is done: numbers leave none out.
            while let Err(error) = cache.set(&name(key), &number, Ttl::Never).await {
                assert!(error.is_transient(), "{error}");
            }
            written.note(key, number);
            sleep(Duration::from_millis(23)).await;
        }
    }
}

async fn read(
    cache: Cache,
    written: Arc<Written>,
    is_over: Arc<AtomicBool>,
) -> (u64, u64, Duration) {
    let (mut reads, mut stale, mut worst) = (0, 0, Duration::ZERO);
    while !is_over.load(Ordering::SeqCst) {
        for key in 0..KEYS {
            let began = now();
            if let Ok(Some(number)) = cache.get::<u64>(&name(key)).await {
                reads += 1;
                if let Some(since) = written.since(key, number + 1, began) {
                    stale += 1;
                    worst = worst.max(since);
                }
            }
        }
        sleep(Duration::from_millis(2)).await;
    }
    (reads, stale, worst)
}

/// A node that does as it is told.
pub(crate) async fn node(store: &str) {
    let url = std::env::var("CACHE_URL").unwrap();
    let node: Node = match store {
        "redis" => redis_node(&url),
        _ => postgres_node(&url),
    };
    node.cache.contains("start").await.unwrap();
    say("ready");
    let mut load = None;
    while let Some(order) = order().await {
        let (what, more) = order.split_once(' ').unwrap_or((&order, ""));
        match what {
            "use" => {
                until(|| node.tiered.near_staleness() == Some(times().0)).await;
                say("in use");
            }
            "fault" => {
                node.fault.store(more.parse().unwrap(), Ordering::SeqCst);
                say("so it is");
            }
            "load" => {
                load = Some(Load::start(&node.cache, more));
                say("begun");
            }
            "end" => say(load.take().unwrap().end().await),
            "get" => say(format_args!(
                "{:?}",
                node.cache.get::<u64>(more).await.unwrap()
            )),
            other => panic!("{other} is no order"),
        }
    }
}

/// Messages are lost, come twice and late; then all is well again. So many kinds of it are tried.
fn assert_bound_holds(store: &str, url: &str, tried: usize) {
    let (bound, lasts) = times();
    let mut nodes = clients(url, &format!("near-{store}"), NODES);
    let folder = tempfile::tempdir().unwrap();
    let in_use = |nodes: &mut [Client]| drop(all(nodes, "use"));
    let suffer = |nodes: &mut [Client], fault: Fault| {
        drop(all(nodes, &format!("fault {}", fault as u64)));
    };
    in_use(&mut nodes);
    std::thread::sleep(bound / 2);
    let faults = [
        (Fault::Silent, 0..NODES),
        (Fault::Mute, 0..1),
        (Fault::Silent, 1..2),
        (Fault::Deaf, 1..2),
        (Fault::Unruly, 0..NODES),
    ];
    let tried = if is_long() { faults.len() } else { tried };
    for (round, (fault, of)) in faults.into_iter().take(tried).enumerate() {
        let path = folder.path().join(round.to_string());
        Written::create(&path);
        for (at, node) in nodes.iter_mut().enumerate() {
            node.order(&format!("load {} {at}", path.display()));
            node.answer();
        }
        suffer(&mut nodes, Fault::Unruly);
        std::thread::sleep(bound / 4);
        suffer(&mut nodes[of.clone()], fault);
        std::thread::sleep(lasts);
        suffer(&mut nodes, Fault::Unruly);
        let healed = Instant::now();
        in_use(&mut nodes);
        let whole = healed.elapsed();
        suffer(&mut nodes, Fault::None);
        std::thread::sleep(bound / 4);
        let (mut reads, mut stale, mut worst) = (0, 0, Vec::new());
        for answer in all(&mut nodes, "end") {
            let numbers: Vec<u64> = answer.split(' ').map(|it| it.parse().unwrap()).collect();
            reads += numbers[0];
            stale += numbers[1];
            worst.push(Duration::from_millis(numbers[2]));
        }
        println!(
            "D7 {store}, {NODES} processes, {fault:?} at {of:?}: staleness by node {worst:?}, criterion <= \
             {bound:?}; {stale} of {reads} reads stale, faults for {lasts:?}; in full use {whole:?} after, \
             criterion <= 2s"
        );
        assert!(worst.iter().all(|worst| *worst <= bound) && whole <= Duration::from_secs(2));
        assert!(reads > 500, "too few reads to say anything");
        assert_all_equal(&mut nodes);
    }
    for node in nodes {
        node.finish();
    }
}

/// Within two seconds, all nodes have the same.
fn assert_all_equal(nodes: &mut [Client]) {
    let start = Instant::now();
    for key in 0..KEYS {
        loop {
            let answers = all(nodes, &format!("get {}", name(key)));
            if answers
                .iter()
                .all(|answer| answer.starts_with("Some") && *answer == answers[0])
            {
                break;
            }
            assert!(start.elapsed() < Duration::from_secs(2), "{answers:?}");
        }
    }
}

pub(crate) async fn lost_messages_keep_the_bound_on_redis() {
    let server = Redis::start(&[]).unwrap();
    assert_bound_holds("redis", &server.url(), 4);
}

pub(crate) async fn lost_messages_keep_the_bound_on_postgres() {
    let server = Database::postgres().unwrap();
    assert_bound_holds("postgres", &server.url, 2);
}
