//! Memory in front of a store that several nodes share, over real servers: how old what is read may be,
//! also when messages and connections fail.
//!
//! `AXUM_CACHE_LONG=1` runs with the default bound and longer faults.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum_cache::backend::{
    Backend, Backplane, Memory, PostgresBackplane, Redis as RedisStore, RedisBackplane, Sql,
    Subscription, Tiered,
};
use axum_cache::testing::TestBackend;
use axum_cache::{Cache, Caches, Result, Settings, Ttl};
use bytes::Bytes;
use tokio::time::{Instant, sleep};

use crate::proxy::Proxy;
use crate::services::{PATIENCE, SLACK};
use crate::staleness::{KEYS, Load, Written, assert_bound, name};
use crate::support::servers::database::Database;
use crate::support::servers::redis::{Redis, command};

pub(crate) fn is_long() -> bool {
    std::env::var_os("AXUM_CACHE_LONG").is_some_and(|long| long == "1")
}

/// The bound, and how long a fault lasts.
pub(crate) fn times() -> (Duration, Duration) {
    if is_long() {
        (Duration::from_secs(2), Duration::from_secs(30))
    } else {
        (Duration::from_secs(1), Duration::from_millis(1500))
    }
}

/// What may be wrong with what a node sends and hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// One of ten twice, one of ten late.
    Unruly,
    /// Nothing is heard; the rest is unruly.
    Silent,
    /// The others are not heard.
    Deaf,
    /// Nobody hears it.
    Mute,
}

/// A backplane that has these faults, at one node.
struct Faulty<B> {
    backplane: Arc<B>,
    fault: Arc<AtomicU64>,
    origin: Arc<OnceLock<[u8; 8]>>,
}

struct FaultySubscription<S> {
    subscription: S,
    fault: Arc<AtomicU64>,
    origin: Arc<OnceLock<[u8; 8]>>,
    next: VecDeque<Bytes>,
    late: Option<Bytes>,
    random: u64,
}

fn is_now(fault: &AtomicU64, one_of: &[Fault]) -> bool {
    let now = fault.load(Ordering::SeqCst);
    one_of.iter().any(|fault| *fault as u64 == now)
}

/// Whose message it is, by the format of the messages.
fn origin(message: &[u8]) -> Option<[u8; 8]> {
    message.get(1..9)?.try_into().ok()
}

impl<B: Backplane> Backplane for Faulty<B> {
    type Subscription = FaultySubscription<B::Subscription>;

    async fn publish(&self, message: Bytes) -> Result<()> {
        if let Some(origin) = origin(&message) {
            self.origin.get_or_init(|| origin);
        }
        if is_now(&self.fault, &[Fault::Mute]) {
            return Ok(());
        }
        self.backplane.publish(message).await
    }

    async fn subscribe(&self) -> Result<Self::Subscription> {
        Ok(FaultySubscription {
            subscription: self.backplane.subscribe().await?,
            fault: Arc::clone(&self.fault),
            origin: Arc::clone(&self.origin),
            next: VecDeque::new(),
            late: None,
            random: 88_172_645_463_325_252,
        })
    }

    fn max_message_bytes(&self) -> usize {
        self.backplane.max_message_bytes()
    }
}

impl<B: fmt::Debug> fmt::Debug for Faulty<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.backplane.fmt(f)
    }
}

impl<S: Subscription> Subscription for FaultySubscription<S> {
    async fn next(&mut self) -> Result<Bytes> {
        loop {
            if let Some(next) = self.next.pop_front() {
                return Ok(next);
            }
            let message = self.subscription.next().await?;
            let is_own = origin(&message) == self.origin.get().copied();
            if is_now(&self.fault, &[Fault::Silent])
                || (is_now(&self.fault, &[Fault::Deaf]) && !is_own)
            {
                continue;
            }
            if !is_now(&self.fault, &[Fault::Unruly]) {
                self.next.push_back(message);
                continue;
            }
            // Xorshift.
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            match self.random % 10 {
                0 => self.next.extend([message.clone(), message]),
                1 if self.late.is_none() => self.late = Some(message),
                _ => {
                    self.next.push_back(message);
                    self.next.extend(self.late.take());
                }
            }
        }
    }
}

/// One node of an application.
pub(crate) struct Node {
    pub(crate) cache: Cache,
    pub(crate) tiered: Tiered,
    /// How often it has asked the store that all share since the last time.
    take_calls: Box<dyn Fn() -> usize + Send + Sync>,
    pub(crate) fault: Arc<AtomicU64>,
}

impl Node {
    fn new<B: Backplane>(far: impl Backend, backplane: B) -> Self {
        let (far, fault) = (TestBackend::new(far), Arc::new(AtomicU64::new(0)));
        let backplane = Faulty {
            backplane: Arc::new(backplane),
            fault: Arc::clone(&fault),
            origin: Arc::default(),
        };
        let tiered = Tiered::builder(Memory::new(), far.clone()).backplane(backplane);
        let tiered = tiered.max_near_staleness(times().0).build().unwrap();
        Self {
            cache: Cache::new(tiered.clone()),
            tiered,
            take_calls: Box::new(move || far.take_calls().len()),
            fault,
        }
    }

    /// The next is of use, and knows the others.
    async fn ready(nodes: &[Self]) {
        for node in nodes {
            node.cache.contains("start").await.unwrap();
        }
        for node in nodes {
            until(|| node.tiered.near_staleness().is_some()).await;
        }
        sleep(times().0 / 2).await;
    }
}

pub(crate) async fn until(is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "it never was");
        sleep(Duration::from_millis(1)).await;
    }
}

pub(crate) fn redis_node(url: &str) -> Node {
    redis_node_by(url, url)
}

/// With a backplane at another URL, as any below.
fn redis_node_by(url: &str, backplane: &str) -> Node {
    let far = RedisStore::builder([url]).operation_timeout(PATIENCE);
    let backplane = RedisBackplane::new(backplane, "test").unwrap();
    Node::new(far.build().unwrap(), backplane)
}

pub(crate) fn postgres_node(url: &str) -> Node {
    postgres_node_by(url, url)
}

fn postgres_node_by(url: &str, backplane: &str) -> Node {
    let far = Sql::builder(url).create_table(true);
    let far = far.operation_timeout(PATIENCE).build();
    let backplane = PostgresBackplane::new(backplane, "test").unwrap();
    Node::new(far.unwrap(), backplane)
}

fn redis_nodes(server: &Redis, nodes: usize) -> Vec<Node> {
    (0..nodes).map(|_| redis_node(&server.url())).collect()
}

fn postgres_nodes(server: &Database, nodes: usize) -> Vec<Node> {
    (0..nodes).map(|_| postgres_node(&server.url)).collect()
}

/// What one node changes, the others see; the longest time that took.
async fn assert_changes_are_seen(what: &str, nodes: &[Node]) {
    Node::ready(nodes).await;
    let mut worst = Duration::ZERO;
    for round in 1..=20_u32 {
        let (writer, others) = (&nodes[round as usize % nodes.len()], nodes);
        for node in others {
            node.cache.get::<u32>("k").await.unwrap();
        }
        let expected = if round % 4 == 0 {
            writer.cache.delete("k").await.unwrap();
            None
        } else {
            writer.cache.set("k", &round, Ttl::Never).await.unwrap();
            Some(round)
        };
        assert_eq!(writer.cache.get("k").await.unwrap(), expected);
        let written = Instant::now();
        for node in others {
            while node.cache.get("k").await.unwrap() != expected {
                assert!(written.elapsed() < times().0 + SLACK);
                sleep(Duration::from_micros(100)).await;
            }
        }
        worst = worst.max(written.elapsed());
    }
    println!(
        "{what}, {} nodes: changes seen by all after up to {} us, criterion <= {} ms",
        nodes.len(),
        worst.as_micros(),
        times().0.as_millis()
    );
}

pub(crate) async fn redis_carries_word_of_changes() {
    let server = Redis::start(&[]).unwrap();
    for nodes in [2, 3] {
        assert_changes_are_seen("redis", &redis_nodes(&server, nodes)).await;
    }
}

pub(crate) async fn postgres_carries_word_of_changes() {
    let server = Database::postgres().unwrap();
    for nodes in [2, 3] {
        assert_changes_are_seen("postgres", &postgres_nodes(&server, nodes)).await;
    }
}

pub(crate) async fn near_hits_ask_nobody() {
    let server = Redis::start(&[]).unwrap();
    let nodes = redis_nodes(&server, 2);
    Node::ready(&nodes).await;
    let keys: Vec<_> = (0..100).map(|key| format!("hit-{key}")).collect();
    for key in &keys {
        nodes[0]
            .cache
            .set(key, &key.len(), Ttl::Never)
            .await
            .unwrap();
    }
    // Word of what was set may come after a read, and then that is in vain.
    let start = Instant::now();
    let mut asked = 0;
    loop {
        let all = nodes[1].cache.get_many::<_, usize>(&keys).await.unwrap();
        assert_eq!(all.len(), keys.len());
        let calls = (nodes[1].take_calls)();
        if calls == 0 {
            break;
        }
        asked += calls;
        assert!(start.elapsed() < PATIENCE, "it never has all");
        sleep(Duration::from_millis(100)).await;
    }
    let before = ((nodes[0].take_calls)(), commands(&server));
    let start = Instant::now();
    for _ in 0..20 {
        for node in &nodes {
            for key in &keys {
                assert!(node.cache.get::<usize>(key).await.unwrap().is_some());
            }
            let all = node.cache.get_many::<_, usize>(&keys).await.unwrap();
            assert_eq!(all.len(), keys.len());
        }
    }
    let took = start.elapsed();
    let calls: usize = nodes.iter().map(|node| (node.take_calls)()).sum();
    let after = commands(&server);
    println!(
        "8000 near hits in {} us: {calls} calls of the far store, {} reads at the server, criterion 0; \
         to have them all took {asked} calls; before that {before:?}",
        took.as_micros(),
        after - before.1
    );
    assert_eq!((calls, after), (0, before.1));
}

/// How many reads the server has answered.
fn commands(server: &Redis) -> u64 {
    let stats = command(server.port, &["INFO", "commandstats"]).unwrap();
    let reads = [
        "cmdstat_get:",
        "cmdstat_mget:",
        "cmdstat_pttl:",
        "cmdstat_exists:",
    ];
    let calls = stats.lines().filter_map(|line| {
        let of = reads.iter().find_map(|read| line.strip_prefix(read))?;
        let calls = of.strip_prefix("calls=")?.split(',').next()?;
        calls.parse::<u64>().ok()
    });
    calls.sum()
}

/// Within two seconds, and what a busy machine adds, all nodes have what the store has.
async fn assert_all_equal(nodes: &[Node]) {
    let start = Instant::now();
    for key in 0..KEYS {
        let key = name(key);
        let final_key = nodes[0].cache.final_key(&key).unwrap();
        nodes[0].cache.incr(&key, 0).await.unwrap();
        let truth: usize = nodes[0].cache.get(&key).await.unwrap().unwrap();
        for node in nodes {
            while node.cache.get::<usize>(&key).await.unwrap() != Some(truth) {
                let late = start.elapsed() > Duration::from_secs(2) + SLACK;
                assert!(!late, "{}", final_key.as_str());
                sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

async fn assert_silence_is_noticed(
    what: &str,
    proxy: &Proxy,
    nodes: Vec<Node>,
    is_server_there: bool,
) {
    let (bound, lasts) = times();
    Node::ready(&nodes).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("written");
    Written::create(&path);
    let load = |(at, node): (usize, &Node)| Load::start(&node.cache, &path, at, nodes.len());
    let loads: Vec<_> = nodes.iter().enumerate().map(load).collect();
    sleep(bound / 2).await;
    if is_server_there {
        proxy.forget();
    } else {
        proxy.forget_all();
    }
    let silent = Instant::now();
    until(|| nodes[1].tiered.near_staleness().is_none()).await;
    let noticed = silent.elapsed();
    if !is_server_there {
        sleep(lasts).await;
        proxy.forget();
    }
    let there = Instant::now();
    until(|| nodes[1].tiered.near_staleness() == Some(bound)).await;
    let back = there.elapsed();
    for node in &nodes {
        until(|| node.tiered.near_staleness() == Some(bound)).await;
    }
    sleep(bound / 2).await;
    let more = format!(
        "; noticed after {} ms, criterion <= {}; back {} ms later",
        noticed.as_millis(),
        bound.as_millis(),
        back.as_millis()
    );
    let mut outcomes = Vec::new();
    for load in loads {
        outcomes.push(load.end().await);
    }
    assert_bound(&format!("A13 {what}"), bound, &outcomes, &more);
    assert!(noticed <= bound + SLACK, "{noticed:?}");
    assert_all_equal(&nodes).await;
}

/// One node's line is dead without a word; it reads, and writes, on.
pub(crate) async fn a_half_open_line_to_redis_keeps_the_bound() {
    let server = Redis::start(&[]).unwrap();
    for is_server_there in [true, false] {
        let proxy = Proxy::to(server.port).await;
        let mut nodes = redis_nodes(&server, 1);
        let url = format!("redis://127.0.0.1:{}", proxy.port);
        nodes.push(redis_node_by(&server.url(), &url));
        let what = format!("redis, new connections work: {is_server_there}");
        assert_silence_is_noticed(&what, &proxy, nodes, is_server_there).await;
    }
}

pub(crate) async fn a_half_open_line_to_postgres_keeps_the_bound() {
    let server = Database::postgres().unwrap();
    let port = server
        .url
        .rsplit([':', '/'])
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    for is_server_there in [true, false] {
        let proxy = Proxy::to(port).await;
        let mut nodes = postgres_nodes(&server, 1);
        let url = server
            .url
            .replace(&port.to_string(), &proxy.port.to_string());
        nodes.push(postgres_node_by(&server.url, &url));
        let what = format!("postgres, new connections work: {is_server_there}");
        assert_silence_is_noticed(&what, &proxy, nodes, is_server_there).await;
    }
}

/// The server that all share, store and line, goes away and comes back.
pub(crate) async fn a_restart_of_the_server_keeps_the_bound() {
    let mut server = Redis::start(&[]).unwrap();
    let nodes = redis_nodes(&server, 2);
    Node::ready(&nodes).await;
    for node in &nodes {
        node.cache.set("k", &1, Ttl::Never).await.unwrap();
    }
    sleep(Duration::from_millis(100)).await;
    assert_eq!(nodes[1].cache.get("k").await.unwrap(), Some(1));
    server.server.stop("KILL");
    let gone = Instant::now();
    until(|| {
        nodes
            .iter()
            .all(|node| node.tiered.near_staleness().is_none())
    })
    .await;
    println!(
        "a server that is gone was noticed after {:?}",
        gone.elapsed()
    );
    assert!(nodes[1].cache.get::<u32>("k").await.is_err());
    server.start_again();
    let back = Instant::now();
    until(|| {
        nodes
            .iter()
            .all(|node| node.tiered.near_staleness().is_some())
    })
    .await;
    println!("in use again {:?} after it is back", back.elapsed());
    // It came back empty.
    assert_eq!(nodes[1].cache.get::<u32>("k").await.unwrap(), None);
}

pub(crate) async fn settings_make_the_tiers() {
    let server = Redis::start(&[]).unwrap();
    let url = server.url();
    let settings = Settings::from_json(&format!(
        r#"{{"default": {{"backend": "tiered", "options": {{
                "far": "shared", "backplane": "{url}", "channel": "site",
                "near_ttl": 30, "max_near_staleness": 1.5, "max_bytes": 1000000}}}},
            "shared": {{"backend": "redis", "location": "{url}", "key_prefix": "s"}}}}"#
    ));
    let caches = Caches::builder()
        .settings(settings.unwrap())
        .build()
        .await
        .unwrap();
    let percent = url.replace(':', "%3A").replace('/', "%2F");
    let dsn =
        format!("tiered://?far={percent}&backplane={percent}&channel=site&max_near_staleness=1.5");
    let other = Settings::new().with_url("default", &dsn).unwrap();
    let other = Caches::builder().settings(other).build().await.unwrap();
    let (one, other) = (caches.default(), other.default());
    for number in 0..20 {
        one.set("k", &number, Ttl::Default).await.unwrap();
        let start = Instant::now();
        while other.get("k").await.unwrap() != Some(number) {
            assert!(start.elapsed() < Duration::from_millis(1500) + SLACK);
            sleep(Duration::from_millis(1)).await;
        }
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(
        caches.get("shared").unwrap().get::<u32>("k").await.unwrap(),
        None
    );
}

pub(crate) async fn the_example_runs_and_says_what_it_lacks() {
    let server = Redis::start(&[]).unwrap();
    let example = crate::docsite::build_examples().join("tiered");
    let run = |url: &str| {
        let output = std::process::Command::new(&example)
            .arg(url)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let shown = run(&server.url());
    assert!(shown.contains("10000 reads near took"), "{shown}");
    assert!(shown.contains("the other node saw the change"), "{shown}");
    print!("{shown}");
    let url = server.url();
    drop(server);
    assert!(run(&url).contains("redis-server --port 6379"));
}
