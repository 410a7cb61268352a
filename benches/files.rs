//! What the file store costs with few files and with many.
//!
//! `cargo bench --bench files --features file`; `TMPDIR` says on which file system.
//!
//! Before sets are timed, all that was written is brought to the disk, and no file is set twice
//! meanwhile. A file system that allocates late takes back a file that has no blocks yet for
//! nothing, and with few files most would be such: their sets would be cheaper for being repeated,
//! not for being few.
#![allow(clippy::unwrap_used, reason = "a failed measurement may panic")]
#![allow(clippy::print_stdout, reason = "the table is the result")]

use std::process::Command;
use std::time::{Duration, Instant};

use axum_cache::Cache;
use axum_cache::backend::File;
use tempfile::TempDir;
use tokio::task::JoinSet;

const FEW: usize = 100;
const MANY: usize = 100_000;
const TTL: Duration = Duration::from_secs(3600);
const TASKS: usize = 16;

/// Taken in turns, so that both stores see the same moods of the disk.
const ROUNDS: usize = 41;
/// A multiple of the tasks, and not more than the files there are.
const OPERATIONS: usize = 96;

/// A store with a number of files, and the times of its rounds by operation.
struct Measured {
    cache: Cache,
    files: usize,
    next: usize,
    times: Vec<(&'static str, Vec<Duration>)>,
    _folder: TempDir,
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut few = Measured::fill(FEW).await;
        let mut many = Measured::fill(MANY).await;
        for _ in 0..ROUNDS {
            for measured in [&mut few, &mut many] {
                measured.round().await;
            }
        }
        println!(
            "{:24}{FEW:>12} files{MANY:>12} files       ratio",
            "1 KiB, median"
        );
        for ((name, few), (_, many)) in few.times.iter_mut().zip(&mut many.times) {
            let (few, many) = (median(few), median(many));
            println!(
                "{name:24}{:>15.1} us{:>15.1} us{:>12.2}",
                micros(few),
                micros(many),
                micros(many) / micros(few)
            );
        }
    });
}

impl Measured {
    async fn fill(files: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(File::builder(folder.path()).build().unwrap());
        let fill = (0..TASKS).map(|task| {
            let cache = cache.clone();
            async move {
                for number in (task..files).step_by(TASKS) {
                    cache.set(&key(number), &value(number), TTL).await.unwrap();
                }
            }
        });
        fill.collect::<JoinSet<_>>().join_all().await;
        Self {
            cache,
            files,
            next: 0,
            times: Vec::new(),
            _folder: folder,
        }
    }

    async fn round(&mut self) {
        let cache = self.cache.clone();
        settle();
        self.time("set", |number| {
            let cache = cache.clone();
            async move { cache.set(&key(number), &value(number), TTL).await.unwrap() }
        })
        .await;
        self.time("get", |number| {
            let cache = cache.clone();
            async move {
                let found = cache.get::<String>(&key(number)).await.unwrap();
                assert!(found.is_some());
            }
        })
        .await;
        self.time("get of nothing", |number| {
            let cache = cache.clone();
            async move {
                let key = format!("nothing-{number}");
                assert!(cache.get::<String>(&key).await.unwrap().is_none());
            }
        })
        .await;
        settle();
        let start = Instant::now();
        let numbers: Vec<_> = (0..OPERATIONS).map(|_| self.number()).collect();
        let tasks = numbers.chunks(OPERATIONS / TASKS).map(|numbers| {
            let (cache, numbers) = (self.cache.clone(), numbers.to_vec());
            async move {
                for number in numbers {
                    cache.set(&key(number), &value(number), TTL).await.unwrap();
                }
            }
        });
        tasks.collect::<JoinSet<_>>().join_all().await;
        self.record("set, 16 tasks, of all", start.elapsed());
    }

    async fn time<F: Future<Output = ()>>(
        &mut self,
        name: &'static str,
        operation: impl Fn(usize) -> F,
    ) {
        let start = Instant::now();
        for _ in 0..OPERATIONS {
            operation(self.number()).await;
        }
        self.record(name, start.elapsed());
    }

    fn record(&mut self, name: &'static str, elapsed: Duration) {
        let known = self.times.iter().position(|(known, _)| *known == name);
        let at = known.unwrap_or_else(|| {
            self.times.push((name, Vec::new()));
            self.times.len() - 1
        });
        self.times[at].1.push(elapsed);
    }

    /// Of a file, anywhere.
    fn number(&mut self) -> usize {
        self.next += 1;
        self.next.wrapping_mul(0x9e37_79b9) % self.files
    }
}

/// Brings all that was written to the disk.
fn settle() {
    assert!(Command::new("sync").status().unwrap().success());
}

fn key(number: usize) -> String {
    format!("key-{number}")
}

fn value(number: usize) -> String {
    char::from(b'a' + u8::try_from(number % 26).unwrap())
        .to_string()
        .repeat(1024)
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2] / u32::try_from(OPERATIONS).unwrap()
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
