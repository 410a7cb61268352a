//! Three processes that compute and invalidate over one store.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum_cache::{Cache, Computed, ErrorKind, Policy};
use tokio::task::JoinSet;

use crate::child::{Client, order, say};
use crate::races::{self, all, clients};
use crate::services::{SLACK, Store, in_the_end};
use crate::support::servers::redis::{Redis, command};

const NODES: usize = 3;
const MILLI: Duration = Duration::from_millis(1);

/// Keys that are invalidated and computed at the same time.
const KEYS: u64 = 4;

fn is_long() -> bool {
    std::env::var_os("AXUM_CACHE_LONG").is_some()
}

fn report(scenario: &str, store: &str, criterion: &str, figure: impl std::fmt::Display) {
    println!("| {scenario} {store} | {criterion} | {figure} |");
}

/// `KEY CALLERS LEASE TAKES`, in milliseconds: so many ask for a key at once. Says how many computed,
/// how many got the value of one of the others, and how long it took.
pub(crate) async fn compute(cache: &Cache) {
    say("ready");
    while let Some(order) = order().await {
        let words: Vec<&str> = order.split(' ').collect();
        let key = words[0].to_owned();
        let [callers, lease, takes] = [1, 2, 3].map(|word| words[word].parse::<u32>().unwrap());
        let policy = Policy::new(Duration::from_secs(900)).lease(lease * MILLI);
        let runs = Arc::new(AtomicUsize::new(0));
        let start = Instant::now();
        let mut tasks = JoinSet::new();
        for _ in 0..callers {
            let (cache, key, runs) = (cache.clone(), key.clone(), Arc::clone(&runs));
            tasks.spawn(async move {
                let value = cache.get_or_set(&key, policy, || async move {
                    runs.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(takes * MILLI).await;
                    Ok::<_, io::Error>(std::process::id())
                });
                value.await.unwrap()
            });
        }
        let values = tasks.join_all().await;
        let same = values.iter().filter(|value| **value == values[0]).count();
        let runs = runs.load(Ordering::SeqCst);
        say(format_args!(
            "{runs} {same} {} {}",
            values[0],
            start.elapsed().as_millis()
        ));
    }
}

fn finish(nodes: Vec<Client>) {
    for node in nodes {
        node.finish();
    }
}

/// What three nodes said: how many computed in all, and how long the slowest took.
fn sum(answers: &[String], callers: usize) -> (usize, u64) {
    let (mut runs, mut slowest) = (0, 0);
    for answer in answers {
        let words: Vec<u64> = answer
            .split(' ')
            .map(|word| word.parse().unwrap())
            .collect();
        runs += usize::try_from(words[0]).unwrap();
        assert_eq!(usize::try_from(words[1]).unwrap(), callers, "{answers:?}");
        slowest = slowest.max(words[3]);
    }
    (runs, slowest)
}

pub(crate) fn c2_one_node_computes_for_all(store: &'static Store) {
    let service = (store.start)();
    let mut nodes = clients(&races::url(store, &*service), "compute", NODES);
    let is_main = matches!(store.name, "redis" | "memcached" | "postgres");
    let (rounds, callers) = if is_main { (100, 1000) } else { (10, 100) };
    let (mut singles, mut most, mut slowest) = (0, 0, 0);
    for round in 0..rounds {
        let answers = all(&mut nodes, &format!("crowd:{round} {callers} 2000 50"));
        let (runs, took) = sum(&answers, callers);
        singles += usize::from(runs == 1);
        most = most.max(runs);
        slowest = slowest.max(took);
    }
    report(
        "C2",
        store.name,
        "1 computation in at least 99 % of the runs, never more than 2",
        format_args!(
            "{NODES} x {callers}: {singles} of {rounds}, most {most}, slowest {slowest} ms for 50"
        ),
    );
    assert!(singles * 100 >= rounds * 99 && most <= 2);
    finish(nodes);
}

pub(crate) fn c3_a_killed_node_is_replaced(store: &'static Store) {
    const LEASE: u64 = 1000;
    const TAKES: u64 = 500;
    let service = (store.start)();
    let url = races::url(store, &*service);
    let mut rows = Vec::new();
    for round in 0..3 {
        let mut holder = Client::start(&url, "compute");
        let mut others = clients(&url, "compute", NODES - 1);
        holder.order(&format!("killed:{round} 10 {LEASE} {}", 60_000));
        std::thread::sleep(300 * MILLI);
        for other in &mut others {
            other.order(&format!("killed:{round} 100 {LEASE} {TAKES}"));
        }
        std::thread::sleep(100 * MILLI);
        holder.kill();
        let killed = Instant::now();
        let answers: Vec<String> = others.iter_mut().map(Client::answer).collect();
        let took = killed.elapsed();
        let (runs, _) = sum(&answers, 100);
        // Stores with a coarse clock keep a lease up to two of its units longer; and the machine may
        // be busy.
        let unit = if store.name.starts_with("memcached") {
            2000
        } else {
            0
        };
        assert!(
            took <= Duration::from_millis(LEASE + TAKES + unit) + SLACK,
            "{took:?}"
        );
        assert!(runs <= 1, "{runs}");
        let again = all(&mut others, &format!("killed:{round} 100 {LEASE} {TAKES}"));
        assert_eq!(sum(&again, 100).0, 0, "{again:?}");
        rows.push(format!("{runs} + 1 in {took:?}"));
        finish(others);
    }
    report(
        "C3",
        store.name,
        "at most 2 computations, within the lease of 1 s and 500 ms",
        rows.join(", "),
    );
}

pub(crate) async fn c4_without_the_store_each_node_computes() {
    let mut redis = Redis::start(&[]).unwrap();
    let url = format!("{}?operation_timeout=0.2", redis.url());
    let cache = races::cache(&url).await;
    in_the_end(async || cache.set("warm", &1, Duration::from_secs(9)).await).await;
    let mut rows = Vec::new();
    for (signal, what) in [("STOP", "hangs"), ("KILL", "is gone")] {
        if signal == "STOP" {
            redis.server.signal(signal);
        } else {
            redis.server.stop(signal);
        }
        let (runs, here) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let start = Instant::now();
        let mut callers = JoinSet::new();
        for _ in 0..1000 {
            let (cache, runs, here) = (cache.clone(), Arc::clone(&runs), Arc::clone(&here));
            let policy = Policy::new(Duration::from_secs(9)).lease(Duration::from_secs(1));
            callers.spawn(async move {
                here.fetch_add(1, Ordering::SeqCst);
                let value = cache.get_or_set("k", policy, || async move {
                    let run = runs.fetch_add(1, Ordering::SeqCst);
                    // Who comes after the end computes anew: it waits for those who are late.
                    while here.load(Ordering::SeqCst) < 1000 {
                        tokio::time::sleep(MILLI).await;
                    }
                    tokio::time::sleep(200 * MILLI).await;
                    Ok::<_, io::Error>(run)
                });
                value.await.unwrap()
            });
        }
        let values = callers.join_all().await;
        assert!(values.iter().all(|value| *value == 0));
        let took = start.elapsed();
        rows.push(format!("{what}: {took:?}"));
        assert_eq!(runs.load(Ordering::SeqCst), 1);
        // And what a busy machine takes for a thousand callers.
        assert!(took <= 200 * MILLI + 200 * MILLI + SLACK, "{took:?}");
    }
    report(
        "C4",
        "redis",
        "one computation, 0 errors, at most one deadline of 200 ms longer than 200",
        rows.join(", "),
    );
}

/// The data behind the cache, in a file that all nodes share: of each key its version, and the one
/// up to which invalidations have returned.
struct Data(File);

impl Data {
    fn open(path: &str) -> Self {
        Self(File::options().read(true).write(true).open(path).unwrap())
    }

    fn create(path: &Path) {
        let file = File::create(path).unwrap();
        file.write_all_at(&vec![0; usize::try_from(KEYS * 16).unwrap()], 0)
            .unwrap();
    }

    fn read(&self, key: u64, place: u64) -> u64 {
        let mut bytes = [0; 8];
        self.0
            .read_exact_at(&mut bytes, key * 16 + place * 8)
            .unwrap();
        u64::from_le_bytes(bytes)
    }

    fn version(&self, key: u64) -> u64 {
        self.read(key, 0)
    }

    fn settled(&self, key: u64) -> u64 {
        self.read(key, 1)
    }

    fn write(&self, key: u64, place: u64, value: u64) {
        self.0
            .write_all_at(&value.to_le_bytes(), key * 16 + place * 8)
            .unwrap();
    }
}

/// `PATH MILLIS CHANGES WAY`: reads keys for so long, and changes and invalidates them meanwhile if
/// `CHANGES` is 1. Says how many reads there were, how many computations, and how many reads were
/// older than an invalidation that had returned when they began.
pub(crate) async fn fenced(cache: &Cache) {
    say("ready");
    while let Some(order) = order().await {
        let words: Vec<&str> = order.split(' ').collect();
        let data = Arc::new(Data::open(words[0]));
        let until = Instant::now() + words[1].parse::<u32>().unwrap() * MILLI;
        let way = words[3].to_owned();
        let computed = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        for reader in 0..6 {
            let (cache, data, way) = (cache.clone(), Arc::clone(&data), way.clone());
            let computed = Arc::clone(&computed);
            tasks.spawn(async move {
                let (mut reads, mut older) = (0_usize, 0_usize);
                for round in reader.. {
                    if Instant::now() >= until {
                        break;
                    }
                    let key = round % KEYS;
                    let settled = data.settled(key);
                    let seen = if round % 3 == 0 {
                        cache.get(&format!("fenced:{key}")).await.unwrap()
                    } else {
                        Some(read(&cache, &data, key, &way, &computed).await)
                    };
                    reads += 1;
                    older += usize::from(seen.is_some_and(|seen: u64| seen < settled));
                    tokio::time::sleep(MILLI / 2).await;
                }
                (reads, older)
            });
        }
        if words[2] == "1" {
            let (cache, data) = (cache.clone(), Arc::clone(&data));
            tasks.spawn(async move {
                for round in 1_u64.. {
                    if Instant::now() >= until {
                        break;
                    }
                    let key = round % KEYS;
                    let version = data.version(key) + 1;
                    data.write(key, 0, version);
                    if way == "delete" {
                        cache.delete(&format!("fenced:{key}")).await.unwrap();
                    } else {
                        cache.invalidate([format!("tag:{key}")]).await.unwrap();
                    }
                    data.write(key, 1, version);
                    tokio::time::sleep(u32::try_from(round % 5).unwrap() * MILLI).await;
                }
                (0, 0)
            });
        }
        let (mut reads, mut older) = (0, 0);
        for (more, bad) in tasks.join_all().await {
            reads += more;
            older += bad;
        }
        say(format_args!(
            "{reads} {} {older}",
            computed.load(Ordering::SeqCst)
        ));
    }
}

async fn read(
    cache: &Cache,
    data: &Arc<Data>,
    key: u64,
    way: &str,
    computed: &Arc<AtomicUsize>,
) -> u64 {
    let policy = Policy::new(Duration::from_secs(900));
    let tag = format!("tag:{key}");
    let cache = match way {
        "tag" => cache.with_tags([&tag]),
        _ => cache.clone(),
    };
    let late = way == "late";
    let name = format!("fenced:{key}");
    let (data, computed) = (Arc::clone(data), Arc::clone(computed));
    let value = cache.get_or_set_with(&name, policy, |_: Option<u64>| async move {
        computed.fetch_add(1, Ordering::SeqCst);
        let version = data.version(key);
        tokio::time::sleep(3 * MILLI).await;
        let value = Computed::new(version);
        Ok::<_, io::Error>(if late { value.tags([tag]) } else { value })
    });
    value.await.unwrap()
}

pub(crate) fn d2_no_node_keeps_what_another_invalidated(store: &'static Store) {
    let service = (store.start)();
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = clients(&races::url(store, &*service), "fenced", NODES);
    let millis = if is_long() { 20_000 } else { 1_500 };
    let mut rows = Vec::new();
    let mut violations = 0;
    for way in ["delete", "tag", "late"] {
        let path = folder.path().join(way);
        Data::create(&path);
        let (mut sums, mut changes) = ([0; 3], 0);
        let is_enough = |[reads, computed, _]: [usize; 3], changes: u64| {
            reads > 200 && changes > 20 && computed > 20
        };
        // On a busy machine it takes longer until there is anything to be seen.
        for _ in 0..10 {
            for (number, node) in nodes.iter_mut().enumerate() {
                let changes = u8::from(number == 0);
                node.order(&format!("{} {millis} {changes} {way}", path.display()));
            }
            for node in &mut nodes {
                let answer = node.answer();
                for (sum, word) in sums.iter_mut().zip(answer.split(' ')) {
                    *sum += word.parse::<usize>().unwrap();
                }
            }
            let data = Data::open(path.to_str().unwrap());
            changes = (0..KEYS).map(|key| data.settled(key)).sum();
            if is_enough(sums, changes) {
                break;
            }
        }
        let [reads, computed, older] = sums;
        rows.push(format!(
            "{way}: {older} of {reads}, {changes} changes, {computed} computations"
        ));
        assert!(is_enough(sums, changes), "{rows:?}");
        violations += older;
    }
    report(
        "D2",
        store.name,
        "0 older reads on any node",
        rows.join("; "),
    );
    assert_eq!(violations, 0);
    finish(nodes);
}

/// How many commands the server has run, without those of this test's own connection.
fn commands(port: u16) -> u64 {
    let stats = command(port, &["INFO", "commandstats"]).unwrap();
    let calls = stats.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        let counts = [
            "get", "set", "mget", "mset", "del", "unlink", "scan", "incrby", "evalsha",
        ];
        counts.contains(&name).then_some(())?;
        rest.split_once(',')?.0.parse::<u64>().ok()
    });
    calls.sum()
}

pub(crate) async fn d8_a_tag_costs_the_same_however_many_have_it() {
    let entries: usize = if is_long() { 1_000_000 } else { 100_000 };
    let redis = Redis::start(&[]).unwrap();
    let cache = races::cache(&format!("{}?operation_timeout=20", redis.url())).await;
    let tagged = cache.with_tags(["all", "some", "few"]);
    for batch in 0..entries / 1000 {
        let items = (0..1000).map(|key| (format!("d8:{batch}:{key}"), 1));
        let failed = tagged
            .set_many(items, Duration::from_secs(900))
            .await
            .unwrap();
        assert!(failed.is_empty());
    }
    let size = command(redis.port, &["DBSIZE"]).unwrap();
    let size: usize = size[1..].trim().parse().unwrap();
    let beside = size - entries;
    // All of them go by themselves once no entry needs them.
    let keyspace = command(redis.port, &["INFO", "keyspace"]).unwrap();
    assert!(
        keyspace.contains(&format!("keys={size},expires={size},")),
        "{keyspace}"
    );
    assert_eq!(cache.get("d8:0:0").await.unwrap(), Some(1));
    let reads = async |key: &str| {
        let before = commands(redis.port);
        let found = cache.get::<i32>(key).await.unwrap();
        (commands(redis.port) - before, found)
    };
    // The first read of a key asks for its tags in a second round trip, the others in the first one.
    let (first, again) = (reads("d8:1:1").await.0, reads("d8:1:1").await.0);
    let before = commands(redis.port);
    let start = Instant::now();
    cache.invalidate(["all"]).await.unwrap();
    let (took, writes) = (start.elapsed(), commands(redis.port) - before);
    assert_eq!(reads("d8:1:1").await.1, None);
    report(
        "D8",
        "redis",
        "at most 2 commands, 5 ms; a read costs at most 1 round trip more",
        format_args!(
            "{entries} entries: {writes} commands in {took:?}; a read {first} commands, then {again}"
        ),
    );
    report(
        "D9",
        "redis",
        "nothing kept per entry",
        format_args!(
            "{beside} keys beside {entries} entries with 3 tags each, and none without an end"
        ),
    );
    assert!(writes <= 2 && first == 2 && again == 1 && beside <= 4);
}

/// What it takes to empty one of two caches on one server: by `clear`, and by a tag that all of its
/// entries have.
pub(crate) async fn d10_what_is_cleared_is_this_caches_own(store: &'static Store) {
    const ENTRIES: usize = 1000;
    let service = (store.start)();
    let url = races::url(store, &*service);
    let mark = if url.contains('?') { '&' } else { '?' };
    let own = races::cache(&format!("{url}{mark}key_prefix=own")).await;
    let foreign = races::cache(&format!("{url}{mark}key_prefix=foreign")).await;
    let fill = async |cache: &Cache| {
        let mut left: Vec<usize> = (0..ENTRIES).collect();
        // Again what a disk that stood still for longer than the timeout of the store has not taken.
        for _ in 0..3 {
            let items = left.into_iter().map(|key| (key.to_string(), key));
            let failed = cache.set_many(items, Duration::from_secs(900)).await;
            let failed = failed.unwrap();
            for (key, why) in &failed {
                assert!(why.kind() == ErrorKind::Timeout, "{key}: {why:?}");
            }
            left = failed.iter().map(|(key, _)| key.parse().unwrap()).collect();
            if left.is_empty() {
                return;
            }
        }
        panic!("{} not stored", left.len());
    };
    let left = async |cache: &Cache| {
        let keys = (0..ENTRIES).map(|key| key.to_string());
        cache.get_many::<_, usize>(keys).await.unwrap().len()
    };
    fill(&own).await;
    fill(&foreign).await;
    assert_eq!((left(&own).await, left(&foreign).await), (ENTRIES, ENTRIES));
    let start = Instant::now();
    own.clear().await.unwrap();
    let cleared = start.elapsed();
    assert_eq!((left(&own).await, left(&foreign).await), (0, ENTRIES));
    let tagged = own.with_tags(["all"]);
    fill(&tagged).await;
    assert_eq!(left(&own).await, ENTRIES);
    let start = Instant::now();
    own.invalidate(["all"]).await.unwrap();
    let invalidated = start.elapsed();
    assert_eq!((left(&own).await, left(&foreign).await), (0, ENTRIES));
    report(
        "D10",
        store.name,
        "0 foreign keys touched; 5 ms, by a tag however many there are",
        format_args!("{ENTRIES} entries cleared in {cleared:?}, by a tag in {invalidated:?}"),
    );
}
