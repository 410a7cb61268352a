//! Several processes on one store: workloads for any that a `CACHE_URL` names.
//!
//! A process is this test binary again, running nothing but [`child`], which obeys the lines that
//! it is sent and answers each with one.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use axum_cache::ttl::Lifetime;
use axum_cache::{Cache, Caches, Settings};
use tokio::task::JoinSet;

/// Marks a process as one that obeys.
const CHILD: &str = "AXUM_CACHE_TEST_CHILD";

/// What an answer begins with; the test harness prints other lines.
const ANSWER: &str = "answer: ";

/// Longer than any test.
const LONG: Duration = Duration::from_secs(1000);

/// The tasks in a process.
const TASKS: usize = 16;

/// The keys of what is read while it is written.
pub(crate) const KEYS: usize = 8;

/// Of the racers in four processes for a key, one wins, key after key.
pub(crate) async fn one_racer_of_64_adds(url: &str, keys: usize) {
    let mut processes = Processes::spawn(url, 4);
    for key in 0..keys {
        let winners: u64 = processes.all(&format!("add race-{key}")).iter().sum();
        assert_eq!(winners, 1, "key {key}");
        let winner = cache(url).await.get::<u32>(&format!("race-{key}")).await;
        assert!(winner.unwrap().is_some(), "key {key}");
    }
}

/// Four processes add one at a time to one counter: nothing is lost, and it expires when it would
/// have.
pub(crate) async fn increments_add_up(url: &str, by_each: usize) {
    let cache = cache(url).await;
    cache.set("sum", &0, LONG).await.unwrap();
    let before = deadline(&cache, "sum").await;
    let mut processes = Processes::spawn(url, 4);
    let done: u64 = processes.all(&format!("incr sum {by_each}")).iter().sum();
    assert_eq!(done, 4 * by_each as u64);
    assert_eq!(cache.get("sum").await.unwrap(), Some(done));
    let after = deadline(&cache, "sum").await;
    let unit = cache.capabilities().ttl_unit;
    assert!(
        after.0 <= before.1 + unit && before.0 <= after.1 + unit,
        "the deadline moved: {before:?}, {after:?}"
    );
}

/// Two processes read what two others set and touch: every read finds a whole value. How many
/// writes there were.
pub(crate) async fn reads_find_whole_values(url: &str, reads: usize) -> u64 {
    write_once(url).await;
    let mut writers = Processes::spawn(url, 2);
    let mut readers = Processes::spawn(url, 2);
    writers.all("write");
    let failed: u64 = readers.all(&format!("read {}", reads / 2)).iter().sum();
    let written: u64 = writers.all("stop").iter().sum();
    assert_eq!(failed, 0, "of {reads} reads");
    assert!(written > 100, "only {written} writes went on meanwhile");
    written
}

/// Kills writers, two at a time, while this process reads: every read finds a whole value. How
/// many reads there were.
pub(crate) async fn reads_survive_kills(url: &str, kills: usize) -> u64 {
    write_once(url).await;
    let cache = cache(url).await;
    let stop = Arc::new(AtomicBool::new(false));
    let reader = tokio::spawn({
        let (cache, stop) = (cache.clone(), Arc::clone(&stop));
        async move {
            let (mut reads, mut failed) = (0, 0);
            while !stop.load(Ordering::Relaxed) {
                failed += u64::from(!is_whole(&cache, reads).await);
                reads += 1;
            }
            (reads as u64, failed)
        }
    });
    for round in 0..kills / 2 {
        let mut writers = Processes::spawn(url, 2);
        writers.all("write");
        tokio::time::sleep(Duration::from_millis(round as u64 % 10)).await;
        drop(writers);
    }
    stop.store(true, Ordering::Relaxed);
    let (reads, failed) = reader.await.unwrap();
    assert_eq!(failed, 0, "of {reads} reads");
    for key in 0..KEYS {
        assert!(is_whole(&cache, key).await, "key {key} after the kills");
    }
    reads
}

pub(crate) async fn cache(url: &str) -> Cache {
    let settings = Settings::new().with_url("default", url).unwrap();
    let caches = Caches::builder().settings(settings).build().await;
    caches.unwrap().default()
}

/// Processes that share a store. Dropping kills them as `kill -9` does.
pub(crate) struct Processes(Vec<Process>);

struct Process {
    child: Child,
    orders: ChildStdin,
    answers: Receiver<u64>,
}

impl Processes {
    pub(crate) fn spawn(url: &str, processes: usize) -> Self {
        Self((0..processes).map(|_| Process::spawn(url)).collect())
    }

    /// Gives the same order to all at once, and waits for the answer of each.
    pub(crate) fn all(&mut self, order: &str) -> Vec<u64> {
        for process in &mut self.0 {
            writeln!(process.orders, "{order}").unwrap();
        }
        let answers = self.0.iter().map(|process| {
            let answer = process.answers.recv_timeout(Duration::from_secs(120));
            answer.unwrap_or_else(|error| panic!("{order}: {error}"))
        });
        answers.collect()
    }
}

impl Process {
    fn spawn(url: &str) -> Self {
        let module = module_path!().split_once("::").unwrap().1;
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([&format!("{module}::child"), "--exact", "--nocapture"])
            .env(CHILD, "1")
            .env("CACHE_URL", url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (answer, answers) = channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some((_, text)) = line.split_once(ANSWER) {
                    let _ = answer.send(text.parse().unwrap());
                }
            }
        });
        Self {
            orders: child.stdin.take().unwrap(),
            answers,
            child,
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a process does; as a test of its own, nothing. It ends with its orders.
#[test]
fn child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let caches = runtime.block_on(Caches::from_env()).unwrap();
    let cache = caches.default();
    let mut writing = None;
    for order in std::io::stdin().lines() {
        let order = order.unwrap();
        let words: Vec<_> = order.split(' ').collect();
        let answer = match words[..] {
            ["add", key] => runtime.block_on(add(&cache, key)),
            ["incr", key, times] => runtime.block_on(incr(&cache, key, times.parse().unwrap())),
            ["read", times] => runtime.block_on(read(&cache, times.parse().unwrap())),
            ["write"] => {
                let stop = Arc::new(AtomicBool::new(false));
                let writer = runtime.spawn(write(cache.clone(), Arc::clone(&stop)));
                writing = Some((writer, stop));
                0
            }
            ["stop"] => {
                let (writer, stop) = writing.take().unwrap();
                stop.store(true, Ordering::Relaxed);
                runtime.block_on(writer).unwrap()
            }
            _ => panic!("{order:?}"),
        };
        let mut out = std::io::stdout().lock();
        writeln!(out, "{ANSWER}{answer}").unwrap();
        out.flush().unwrap();
    }
}

/// How many of the tasks' adds succeeded.
async fn add(cache: &Cache, key: &str) -> u64 {
    let racers = (0..TASKS).map(|racer| {
        let (cache, key) = (cache.clone(), key.to_owned());
        async move { u64::from(cache.add(&key, &racer, LONG).await.unwrap()) }
    });
    sum(racers).await
}

/// How many increments were made: all.
async fn incr(cache: &Cache, key: &str, times: usize) -> u64 {
    let left = Arc::new(AtomicU64::new(times as u64));
    let tasks = (0..TASKS).map(|_| {
        let (cache, key, left) = (cache.clone(), key.to_owned(), Arc::clone(&left));
        async move {
            let mut made = 0;
            let one_less = |left: u64| left.checked_sub(1);
            while left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
                .is_ok()
            {
                cache.incr(&key, 1).await.unwrap();
                made += 1;
            }
            made
        }
    });
    sum(tasks).await
}

/// How many reads failed: by an error, or by finding nothing whole.
async fn read(cache: &Cache, times: usize) -> u64 {
    let tasks = (0..TASKS).map(|task| {
        let cache = cache.clone();
        async move {
            let mut failed = 0;
            for read in 0..times / TASKS {
                failed += u64::from(!is_whole(&cache, task + read).await);
            }
            failed
        }
    });
    sum(tasks).await
}

/// Sets and touches in turn until it is told to stop. How many times.
async fn write(cache: Cache, stop: Arc<AtomicBool>) -> u64 {
    let tasks = (0..4).map(|task| {
        let (cache, stop) = (cache.clone(), Arc::clone(&stop));
        async move {
            let mut writes = 0;
            while !stop.load(Ordering::Relaxed) {
                let number = writes + task;
                let key = key(number);
                if number % 3 == 0 {
                    assert!(cache.touch(&key, LONG).await.unwrap());
                } else {
                    cache.set(&key, &whole(number), LONG).await.unwrap();
                }
                writes += 1;
            }
            writes as u64
        }
    });
    sum(tasks).await
}

async fn write_once(url: &str) {
    let cache = cache(url).await;
    for number in 0..KEYS {
        cache.set(&key(number), &whole(number), LONG).await.unwrap();
    }
}

async fn is_whole(cache: &Cache, number: usize) -> bool {
    let value = cache.get::<String>(&key(number)).await.unwrap();
    value.is_some_and(|value| {
        let first = value.bytes().next();
        let length = first.map(|letter| length(usize::from(letter - b'a')));
        length == Some(value.len()) && value.bytes().all(|letter| Some(letter) == first)
    })
}

fn key(number: usize) -> String {
    format!("whole-{}", number % KEYS)
}

/// A value that tells by any part of it what the whole of it is.
fn whole(number: usize) -> String {
    let letter = number % 26;
    let letters = b'a' + u8::try_from(letter).unwrap();
    char::from(letters).to_string().repeat(length(letter))
}

/// From below a block of the disk to several pages of memory.
fn length(letter: usize) -> usize {
    10 + letter * 250
}

/// Between which moments an entry expires.
async fn deadline(cache: &Cache, key: &str) -> (Instant, Instant) {
    let before = Instant::now();
    let rest = cache.ttl_of(key).await.unwrap();
    let rest = rest.and_then(Lifetime::duration).unwrap();
    (before + rest, Instant::now() + rest)
}

async fn sum(tasks: impl Iterator<Item = impl Future<Output = u64> + Send + 'static>) -> u64 {
    let tasks: JoinSet<_> = tasks.collect();
    tasks.join_all().await.into_iter().sum()
}
