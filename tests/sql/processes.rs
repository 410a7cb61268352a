//! Several processes, and many tasks, on one table.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum_cache::backend::Sql;
use axum_cache::ttl::Lifetime;
use axum_cache::{Cache, Ttl};

use crate::{Target, rounds};

const WORKER: &str = "AXUM_CACHE_SQL_WORKER";
const PROCESSES: usize = 4;
const RACERS: usize = 16;
const TTL: Duration = Duration::from_secs(3600);

pub(crate) async fn an_add_has_one_winner_among_processes(target: Target) {
    let mut workers = start(&target).await;
    let rounds = rounds(1000);
    let start = Instant::now();
    for round in 0..rounds {
        for worker in &mut workers {
            worker.order(&format!("add {round}"));
        }
        let winners: u64 = workers.iter_mut().map(Worker::answer).sum();
        assert_eq!(winners, 1, "round {round}");
    }
    let took = start.elapsed();
    eprintln!("{}: {rounds} rounds of 64 adds in {took:?}", target.engine);
}

pub(crate) async fn counters_of_processes_add_up(target: Target) {
    let mut workers = start(&target).await;
    let cache = workers[0].cache.clone();
    let times = rounds(5000);
    cache.set("n", &0, TTL).await.unwrap();
    let start = Instant::now();
    for worker in &mut workers {
        worker.order(&format!("incr {times}"));
    }
    let sum: u64 = workers.iter_mut().map(Worker::answer).sum();
    let took = start.elapsed();
    assert_eq!(sum, (PROCESSES * times) as u64);
    assert_eq!(cache.get("n").await.unwrap(), Some(PROCESSES * times));
    let left = cache.ttl_of("n").await.unwrap();
    let left = left.and_then(Lifetime::duration).unwrap();
    let drift = TTL.abs_diff(left + start.elapsed());
    assert!(drift < Duration::from_millis(100), "{drift:?}");
    eprintln!("{}: {sum} incrs of 4 processes in {took:?}", target.engine);
}

pub(crate) async fn readers_see_whole_values_during_writes(target: Target) {
    let cache = target.cache().await;
    let value = |letter: char| String::from_iter([letter; 4096]);
    cache.set("k", &value('a'), TTL).await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let writes = Arc::new(AtomicU64::new(0));
    let mut tasks = Vec::new();
    for touches in [false, true] {
        let (cache, done, writes) = (cache.clone(), Arc::clone(&done), Arc::clone(&writes));
        tasks.push(tokio::spawn(async move {
            let mut letters = ('a'..='z').cycle();
            while !done.load(Ordering::Relaxed) {
                if touches {
                    assert!(cache.touch("k", TTL).await.unwrap());
                } else {
                    let next = value(letters.next().unwrap());
                    cache.set("k", &next, TTL).await.unwrap();
                }
                writes.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    let (start, reads) = (Instant::now(), rounds(100_000));
    let readers: Vec<_> = (0..8)
        .map(|_| {
            let cache = cache.clone();
            tokio::spawn(async move {
                for _ in 0..reads / 8 {
                    let read: String = cache.get("k").await.unwrap().expect("never a miss");
                    let first = read.as_bytes()[0];
                    assert!(read.len() == 4096 && read.bytes().all(|byte| byte == first));
                }
            })
        })
        .collect();
    for reader in readers {
        reader.await.unwrap();
    }
    let took = start.elapsed();
    done.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    let writes = writes.load(Ordering::Relaxed);
    let engine = target.engine;
    eprintln!("{engine}: {reads} reads during {writes} writes in {took:?}, none failed or torn");
}

struct Worker {
    process: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    cache: Cache,
}

async fn start(target: &Target) -> Vec<Worker> {
    let table = Target::table();
    let store = Sql::builder(target.url.clone()).table(table.clone());
    let store = store.build().unwrap();
    store.create_table().await.unwrap();
    let spawn = |_| {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .env(WORKER, format!("{} {table}", target.url))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Worker {
            orders: process.stdin.take(),
            answers: BufReader::new(process.stdout.take().unwrap()),
            process,
            cache: Cache::new(store.clone()),
        }
    };
    (0..PROCESSES).map(spawn).collect()
}

impl Worker {
    fn order(&mut self, order: &str) {
        writeln!(self.orders.as_mut().unwrap(), "{order}").unwrap();
    }

    fn answer(&mut self) -> u64 {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.trim().parse().expect("the worker did not fail")
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.orders.take());
        let _ = self.process.wait();
    }
}

/// Whether this is one of the processes that a case starts.
pub(crate) fn is_worker() -> bool {
    std::env::var_os(WORKER).is_some()
}

/// Obeys orders until there are no more.
pub(crate) fn work() {
    let place = std::env::var(WORKER).unwrap();
    let (url, table) = place.split_once(' ').unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let cache = Cache::new(Sql::builder(url).table(table).build().unwrap());
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let (order, number) = line.split_once(' ').unwrap();
        let number: usize = number.parse().unwrap();
        let done = runtime.block_on(async {
            match order {
                "add" => add(&cache, number).await,
                _ => incr(&cache, number).await,
            }
        });
        let mut answers = std::io::stdout();
        writeln!(answers, "{done}").unwrap();
    }
}

async fn add(cache: &Cache, round: usize) -> u64 {
    let racers: Vec<_> = (0..RACERS)
        .map(|racer| {
            let cache = cache.clone();
            tokio::spawn(async move {
                let key = format!("round-{round}");
                cache.add(&key, &racer, Ttl::Default).await.unwrap()
            })
        })
        .collect();
    let mut won = 0;
    for racer in racers {
        won += u64::from(racer.await.unwrap());
    }
    won
}

async fn incr(cache: &Cache, times: usize) -> u64 {
    let tasks: Vec<_> = (0..5)
        .map(|_| {
            let cache = cache.clone();
            tokio::spawn(async move {
                for _ in 0..times / 5 {
                    cache.incr("n", 1).await.unwrap();
                }
                times as u64 / 5
            })
        })
        .collect();
    let mut done = 0;
    for task in tasks {
        done += task.await.unwrap();
    }
    done
}
