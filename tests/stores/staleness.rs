//! How old what nodes read is.
//!
//! Each value is a number, one more than the last. When the write of each number had returned is in a file that
//! all nodes share, by the clock of the machine; a read is stale by the time since the write of the next.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use axum_cache::{Cache, Ttl};
use tokio::task::JoinHandle;
use tokio::time::sleep;

pub(crate) const KEYS: usize = 6;

/// The most numbers of a key.
const NUMBERS: u64 = 100_000;

pub(crate) fn name(key: usize) -> String {
    format!("key-{key}")
}

/// When writes had returned.
pub(crate) struct Written(File);

impl Written {
    pub(crate) fn create(path: &Path) {
        let file = File::create(path).unwrap();
        file.set_len(KEYS as u64 * NUMBERS * 8).unwrap();
    }

    fn open(path: &Path) -> Self {
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
pub(crate) struct Load {
    is_over: Arc<AtomicBool>,
    writer: JoinHandle<()>,
    reader: JoinHandle<Outcome>,
}

impl Load {
    /// Each key has one node that writes it: number `at` of so many nodes does each of so many keys. All nodes
    /// read all.
    pub(crate) fn start(cache: &Cache, written: &Path, at: usize, nodes: usize) -> Self {
        let written = Arc::new(Written::open(written));
        let is_over = Arc::new(AtomicBool::new(false));
        let writer = {
            let (cache, written) = (cache.clone(), Arc::clone(&written));
            let is_over = Arc::clone(&is_over);
            tokio::spawn(async move { write(&cache, &written, at, nodes, &is_over).await })
        };
        let reader = {
            let (cache, is_over) = (cache.clone(), Arc::clone(&is_over));
            tokio::spawn(async move { read(&cache, &written, &is_over).await })
        };
        Self {
            is_over,
            writer,
            reader,
        }
    }

    pub(crate) async fn end(self) -> Outcome {
        self.is_over.store(true, Ordering::SeqCst);
        self.writer.await.unwrap();
        self.reader.await.unwrap()
    }
}

async fn write(cache: &Cache, written: &Written, at: usize, nodes: usize, is_over: &AtomicBool) {
    for number in 0.. {
        if is_over.load(Ordering::SeqCst) {
            return;
        }
        for key in (at..KEYS).step_by(nodes) {
            // Whatever fails is tried until it is done: numbers leave none out.
            while let Err(error) = cache.set(&name(key), &number, Ttl::Never).await {
                assert!(error.is_transient(), "{error}");
            }
            written.note(key, number);
            sleep(Duration::from_millis(23)).await;
        }
    }
}

async fn read(cache: &Cache, written: &Written, is_over: &AtomicBool) -> Outcome {
    let mut outcome = Outcome::default();
    while !is_over.load(Ordering::SeqCst) {
        for key in 0..KEYS {
            let began = now();
            if let Ok(Some(number)) = cache.get::<u64>(&name(key)).await {
                outcome.reads += 1;
                if let Some(since) = written.since(key, number + 1, began) {
                    outcome.stale += 1;
                    outcome.worst = outcome.worst.max(since);
                }
            }
        }
        sleep(Duration::from_millis(2)).await;
    }
    outcome
}

/// What one node has read. As a line, it comes from another process.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    reads: u64,
    stale: u64,
    worst: Duration,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} {}",
            self.reads,
            self.stale,
            self.worst.as_micros()
        )
    }
}

impl FromStr for Outcome {
    type Err = std::num::ParseIntError;

    fn from_str(line: &str) -> Result<Self, Self::Err> {
        let numbers: Result<Vec<u64>, _> = line.split(' ').map(str::parse).collect();
        let numbers = numbers?;
        Ok(Self {
            reads: numbers[0],
            stale: numbers[1],
            worst: Duration::from_micros(numbers[2]),
        })
    }
}

/// No node has read what was older than the bound.
pub(crate) fn assert_bound(what: &str, bound: Duration, nodes: &[Outcome], more: &str) {
    let worst: Vec<_> = nodes.iter().map(|node| node.worst.as_millis()).collect();
    let reads: u64 = nodes.iter().map(|node| node.reads).sum();
    let stale: u64 = nodes.iter().map(|node| node.stale).sum();
    println!(
        "{what}: staleness by node {worst:?} ms, criterion <= {} ms; {stale} of {reads} reads stale{more}",
        bound.as_millis(),
    );
    assert!(nodes.iter().all(|node| node.worst <= bound), "{what}");
    assert!(reads > 500, "{what}: too few reads to say anything");
}
