//! Real servers for the tests: on free loopback ports, in folders of their own, gone at the end.
//!
//! A shell stands between the test and each server and ends it when its standard input does, so a
//! server outlives its test by no more than a moment, whichever way the test ends.
#![allow(dead_code, reason = "no test binary uses every server")]

pub(crate) mod database;
pub(crate) mod memcached;
pub(crate) mod redis;

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// Starts the server, obeys `stop SIGNAL`, `send SIGNAL` and `start` lines, and at the end of its input ends the
/// server and removes its folder.
const KEEPER: &str = r#"
dir=$1; shift
run() { "$@" >>"$dir/log" 2>&1 </dev/null & pid=$!; echo "$pid"; }
run "$@"
while read -r word signal; do
    case $word in
        stop) kill -s "$signal" "$pid" 2>/dev/null; wait "$pid" 2>/dev/null; echo stopped ;;
        send) kill -s "$signal" "$pid" $(cat /proc/$pid/task/*/children 2>/dev/null); echo sent ;;
        start) run "$@" ;;
    esac
done
kill -s CONT "$pid" 2>/dev/null
# PostgreSQL waits for its clients when it gets TERM first; MariaDB ignores INT.
kill -s INT "$pid" 2>/dev/null; kill -s TERM "$pid" 2>/dev/null
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.1
done
kill -s KILL "$pid" 2>/dev/null
wait "$pid" 2>/dev/null
rm -rf "$dir"
"#;

/// One server process; dropping it ends the process and removes its folder.
#[derive(Debug)]
pub(crate) struct Server {
    keeper: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    pid: u32,
    dir: PathBuf,
}

impl Server {
    /// Runs `program` in the background, with `dir` as its own; as user `nobody` if it refuses to
    /// be root's.
    fn start(
        program: &Path,
        args: impl IntoIterator<Item = impl Into<OsString>>,
        dir: &Path,
        as_nobody: bool,
    ) -> Self {
        let mut keeper = Command::new("sh");
        keeper.arg("-c").arg(KEEPER).arg("sh").arg(dir).arg(program);
        keeper.args(args.into_iter().map(Into::into));
        if as_nobody {
            become_nobody(&mut keeper);
        }
        let mut keeper = keeper
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("there is a shell");
        let orders = keeper.stdin.take();
        let answers = BufReader::new(keeper.stdout.take().expect("it is piped"));
        let mut server = Self {
            keeper,
            orders,
            answers,
            pid: 0,
            dir: dir.to_owned(),
        };
        server.pid = server.answer().parse().expect("a process id");
        server
    }

    /// The process id, for signals.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Ends the process by this signal and waits for its end; its folder stays.
    pub(crate) fn stop(&mut self, signal: &str) {
        self.order(&format!("stop {signal}"));
        assert_eq!(self.answer(), "stopped");
    }

    /// Starts it again, as it was.
    pub(crate) fn start_again(&mut self) {
        self.order("start");
        self.pid = self.answer().parse().expect("a process id");
    }

    /// Sends the process a signal.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.pid.to_string();
        let status = Command::new("sh")
            .args(["-c", "kill -s \"$1\" \"$2\"", "sh", signal, &pid])
            .status();
        assert!(status.is_ok_and(|status| status.success()));
    }

    /// Sends the process and its children a signal.
    pub(crate) fn signal_all(&mut self, signal: &str) {
        self.order(&format!("send {signal}"));
        assert_eq!(self.answer(), "sent");
    }

    /// What the server wrote, for a test that fails.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    fn order(&mut self, order: &str) {
        let orders = self.orders.as_mut().expect("open until the drop");
        writeln!(orders, "{order}").expect("the keeper lives");
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers
            .read_line(&mut line)
            .expect("the keeper answers");
        line.trim().to_owned()
    }

    /// Waits until `ready` says so.
    fn wait_until(&self, ready: impl FnMut() -> bool) {
        assert!(
            soon(ready),
            "{} is not ready: {}",
            self.dir.display(),
            self.log()
        );
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.orders.take());
        // It ends at the end of its input; nothing to do if it is gone already.
        let _ = self.keeper.wait();
    }
}

/// Whether `ready` says so within half a minute.
pub(crate) fn soon(mut ready: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(30) {
        if ready() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

/// A new folder, for the server to remove.
pub(crate) fn folder(name: &str) -> PathBuf {
    // Two threads may read the same instant.
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let nanos = now.unwrap_or_default().as_nanos();
    let unique = format!("axum-cache-{name}-{}-{nanos}-{next}", std::process::id());
    let dir = std::env::temp_dir().join(unique);
    std::fs::create_dir(&dir).expect("the folder is new");
    dir
}

/// A free port of 127.0.0.1, below the ephemeral ones and with room for Redis Cluster's bus.
pub(crate) fn port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() * 61 % 12_000).expect("small");
    // Below those that connections get, the second one for the bus of a cluster.
    for _ in 0..12_000 {
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 10_000 + (start + next % 12_000) % 12_000;
        let free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if free(port) && free(port + 10_000) {
            return port;
        }
    }
    panic!("no port is free");
}

/// Whether `program` is on this machine.
pub(crate) fn is_installed(program: &str) -> bool {
    find(program).is_some()
}

/// Where `program` is: on the path, or in one of these folders of the system.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<_> = std::env::split_paths(&path).collect();
    folders.push("/usr/sbin".into());
    let versions = std::fs::read_dir("/usr/lib/postgresql");
    for version in versions.into_iter().flatten().flatten() {
        folders.push(version.path().join("bin"));
    }
    folders.push("/opt/homebrew/bin".into());
    folders
        .into_iter()
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

fn is_root() -> bool {
    id(&["-u"]) == Some(0)
}

fn id(args: &[&str]) -> Option<u32> {
    let output = Command::new("id").args(args).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

#[cfg(unix)]
fn become_nobody(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    let (Some(user), Some(group)) = (id(&["-u", "nobody"]), id(&["-g", "nobody"])) else {
        return;
    };
    command.uid(user).gid(group);
}

/// Runs a command to its end.
fn run(program: impl AsRef<OsStr>, args: &[&OsStr], as_nobody: bool) {
    let mut command = Command::new(program);
    command.args(args).current_dir("/");
    if as_nobody {
        become_nobody(&mut command);
    }
    let output = command.output().expect("it was found");
    assert!(output.status.success(), "{output:?}");
}
