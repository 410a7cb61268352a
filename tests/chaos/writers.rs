//! Processes that write files, and are ended in the middle of it, or have no room.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum_cache::backend::{Backend, File};
use axum_cache::ttl::Lifetime;
use axum_cache::{Cache, Caches, ErrorKind};

use crate::client::{Client, say};
use crate::is_long;
use crate::load::pause;
use crate::tools::{MILLI, TTL, report};

const KEYS: usize = 4;

/// Large, so that a write takes a while.
const BYTES: usize = 96 << 10;

/// What fits where the large ones do not.
const SMALL_BYTES: usize = 1000;

fn key(number: usize) -> String {
    format!("key:{}", number % KEYS)
}

/// A value in which it shows if it is of two.
fn value(number: usize, bytes: usize) -> String {
    let letters = "abcdefghijklmnopqrstuvwxyz";
    letters[number % 26..=number % 26].repeat(bytes)
}

/// Whether bytes end in such a value, as JSON writes it.
fn is_whole(bytes: &[u8]) -> bool {
    let Some(start) = bytes.len().checked_sub(BYTES + 2) else {
        return false;
    };
    let text = &bytes[start + 1..bytes.len() - 1];
    text[1..] == text[..BYTES - 1]
}

/// Whether a whole value is there.
async fn finds(file: &File, cache: &Cache, number: usize) -> bool {
    let key = cache.final_key(&key(number)).unwrap();
    let found = file.get(&key).await;
    matches!(found, Ok(Some(entry)) if is_whole(entry.bytes()))
}

/// The folder of the store of this child.
fn folder() -> PathBuf {
    let url = std::env::var("CACHE_URL").unwrap();
    url.strip_prefix("file://").unwrap().into()
}

/// How many files of this kind there are.
fn count(folder: &Path, extension: &str) -> usize {
    let Ok(items) = fs::read_dir(folder) else {
        return 0;
    };
    let count = |path: &Path| match path.extension() {
        Some(it) => usize::from(it == extension),
        None => count(path, extension),
    };
    items.map(|item| count(&item.unwrap().path())).sum()
}

/// What this process does as a child.
pub(crate) fn run(workload: &str) {
    crate::trials::block_on(async {
        let cache = Caches::from_env().await.unwrap().default();
        match workload {
            "write" => write(&cache).await,
            "no room" => without_room(&cache).await,
            other => panic!("{other} is no workload"),
        }
    });
}

/// Writes until it is ended, and says so of each time.
async fn write(cache: &Cache) {
    let file = File::builder(folder()).build().unwrap();
    let mut entries = Vec::new();
    for number in 0..KEYS {
        let value = value(std::process::id() as usize, BYTES);
        cache.set(&key(number), &value, TTL).await.unwrap();
        let key = cache.final_key(&key(number)).unwrap();
        let entry = file.get(&key).await.unwrap().unwrap();
        entries.push((key, entry));
    }
    say("ready");
    // As they are already, so that most of the time is that of the files.
    for (key, entry) in entries.iter().cycle() {
        let lifetime = Lifetime::For(TTL);
        file.set(key, entry.clone(), lifetime).await.unwrap();
        say("written");
    }
}

pub(crate) async fn f3_writers_are_killed() {
    let least = if is_long() { 10_000 } else { 1000 };
    let folder = tempfile::tempdir().unwrap();
    let file = File::builder(folder.path()).build().unwrap();
    let cache = Cache::new(file.clone());
    let url = format!("file://{}", folder.path().display());
    for number in 0..KEYS {
        let value = value(number, BYTES);
        cache.set(&key(number), &value, TTL).await.unwrap();
    }
    let stop = Arc::new(AtomicBool::new(false));
    let reader = tokio::spawn({
        let (file, cache, stop) = (file.clone(), cache.clone(), Arc::clone(&stop));
        async move {
            let (mut reads, mut bad) = (0, 0);
            while !stop.load(Ordering::Relaxed) {
                bad += usize::from(!finds(&file, &cache, reads).await);
                reads += 1;
            }
            (reads, bad)
        }
    });
    let (mut written, mut kills, mut left) = (0, 0, 0);
    // At least one is to be hit while it writes.
    while written < least || left == 0 {
        assert!(kills < 10_000, "no kill was within a write");
        let writers = [(); 2].map(|()| Client::start(&url, "write"));
        pause(20 * MILLI + kills % 31 * MILLI).await;
        kills += 2;
        let said = writers.map(Client::kill_and_hear);
        written += said.iter().map(Vec::len).sum::<usize>();
        left += count(folder.path(), "tmp");
    }
    stop.store(true, Ordering::Relaxed);
    let (reads, bad) = reader.await.unwrap();
    // The next write of a key takes away what was left of the last one: one is there at any rate.
    let entry = entry_in(folder.path()).unwrap();
    fs::write(entry.with_extension("tmp"), "half a fi").unwrap();
    let before = count(folder.path(), "tmp");
    let swept = file.sweep().await.unwrap();
    let after = count(folder.path(), "tmp");
    report(
        "F3 file, 2 processes",
        "0 torn reads; temporary files gone after 1 sweep",
        format_args!(
            "{written} writes, {kills} kills, which left {left} temporary files; {bad} of {reads} reads torn or missed; \
             {before} temporary before the sweep, {after} after it",
        ),
    );
    assert_eq!(bad, 0);
    assert!(reads > 100, "only {reads} reads went on meanwhile");
    assert_eq!((swept, after), (before as u64, 0));
    assert_eq!(count(folder.path(), "axc"), KEYS);
    for number in 0..KEYS {
        assert!(finds(&file, &cache, number).await, "{number}");
        assert!(cache.get::<String>(&key(number)).await.unwrap().is_some());
    }
}

fn entry_in(folder: &Path) -> Option<PathBuf> {
    let items = fs::read_dir(folder).ok()?;
    let mut paths = items.map(|item| item.unwrap().path());
    paths.find_map(|path| match path.extension() {
        Some(it) if it == "axc" => Some(path),
        Some(_) => None,
        None => entry_in(&path),
    })
}

/// Writes large values where there is no room for them, and small ones. Says how often the large ones were
/// refused; and, which should not be, how often anything was wrong, and how many files were left.
async fn without_room(cache: &Cache) {
    say("ready");
    let (mut refused, mut wrong) = (0, Vec::new());
    for number in 0..100 {
        let (key, large) = (key(number), value(number, BYTES));
        let small = value(number, SMALL_BYTES);
        if let Err(error) = cache.set(&key, &small, TTL).await {
            wrong.push(format!("a small one: {error}"));
        }
        let stored = cache.set(&key, &large, TTL).await;
        let found = cache.get::<String>(&key).await;
        match (stored, found) {
            (Ok(()), Ok(Some(found))) if found == large => {}
            // What could not be replaced is gone.
            (Err(error), Ok(None)) if error.kind() == ErrorKind::Unavailable => refused += 1,
            other => wrong.push(format!("a large one: {other:.100?}")),
        }
        let expected = large.clone();
        let compute = move || async move { Ok::<_, io::Error>(large) };
        match cache.get_or_set(&key, TTL, compute).await {
            Ok(value) if value == expected => {}
            other => wrong.push(format!("a computed one: {other:.100?}")),
        }
    }
    let left = count(&folder(), "tmp");
    for example in &wrong {
        eprintln!("{example}");
    }
    say(format_args!("{refused} {} {left}", wrong.len()));
}

/// What a child without room said: how often it was refused, and how often it was wrong, or left a file.
fn judge(scenario: &str, client: Client) {
    let said = client.finish();
    let numbers: Vec<usize> = said[0].split(' ').map(|it| it.parse().unwrap()).collect();
    let [refused, wrong, left] = numbers[..] else {
        panic!("{said:?}");
    };
    report(
        scenario,
        "typed errors, 0 torn or old reads, 0 files left",
        format_args!("{refused} of 100 large writes refused, {wrong} wrong, {left} files left"),
    );
    assert!(refused >= 50, "only {refused} were refused");
    assert_eq!((wrong, left), (0, 0));
}

/// By a limit of this process: writes end in the middle, as on a full disk.
pub(crate) async fn f3_files_may_not_grow() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}", folder.path().display());
    let mut limited = Command::new("sh");
    // In blocks of 512 bytes, or of 1024.
    limited.args(["-c", "ulimit -f 128 && trap '' XFSZ && exec \"$0\""]);
    limited.arg(std::env::current_exe().unwrap());
    judge(
        "F3 file, size limit",
        Client::spawn(limited, &url, "no room"),
    );
    // What is left is whole.
    let file = File::builder(folder.path()).build().unwrap();
    assert_eq!(file.sweep().await.unwrap(), 0);
}

/// A command in a mount namespace of its own, with a small file system at the folder `$1`.
fn on_a_small_disk(folder: &Path, then: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--map-root-user", "sh", "-c"]);
    command.arg(format!(
        "mount -t tmpfs -o size=128k tmpfs \"$1\" && {then}"
    ));
    command.arg(std::env::current_exe().unwrap()).arg(folder);
    command
}

/// Whether this system lets a test mount anything.
pub(crate) fn can_mount() -> bool {
    let Ok(folder) = tempfile::tempdir() else {
        return false;
    };
    let mut command = on_a_small_disk(folder.path(), "true");
    let status = command.stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

pub(crate) fn f3_a_disk_is_full() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}", folder.path().display());
    let small = on_a_small_disk(folder.path(), "exec \"$0\"");
    judge("F3 file, full disk", Client::spawn(small, &url, "no room"));
}
