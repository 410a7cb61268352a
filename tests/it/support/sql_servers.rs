//! PostgreSQL and MariaDB for the tests: on free ports, in folders of their own, gone at the end.
//!
//! A shell stands between the test and each server and ends it when its standard input does, so a
//! server outlives its test by no more than a moment, whichever way the test ends.
#![allow(dead_code, reason = "no test binary uses everything")]
#![allow(
    clippy::doc_markdown,
    reason = "databases are written as their makers write them"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// Starts the server, obeys `stop SIGNAL` and `start` lines, and at the end of its input ends the
/// server and removes its folder.
const KEEPER: &str = r#"
dir=$1; shift
run() { "$@" >>"$dir/log" 2>&1 </dev/null & pid=$!; echo "$pid"; }
run "$@"
while read -r word signal; do
    case $word in
        stop) kill -s "$signal" "$pid"; wait "$pid"; echo stopped ;;
        send) kill -s "$signal" "$pid" $(cat /proc/$pid/task/*/children 2>/dev/null); echo sent ;;
        start) run "$@" ;;
    esac
done
kill -s CONT "$pid"
kill -s INT "$pid"; kill -s TERM "$pid"
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.1
done
kill -s KILL "$pid"
rm -rf "$dir"
"#;

/// The URL of a PostgreSQL server that this process shares, if there is one on this machine.
pub(crate) fn postgres() -> Option<String> {
    static SERVER: LazyLock<Option<Server>> = LazyLock::new(start_postgres);
    SERVER.as_ref().map(|server| server.url.clone())
}

/// The URL of a MariaDB server that this process shares, if there is one on this machine.
pub(crate) fn mysql() -> Option<String> {
    static SERVER: LazyLock<Option<Server>> = LazyLock::new(start_mysql);
    SERVER.as_ref().map(|server| server.url.clone())
}

/// One server process; dropping it ends the process and removes its folder.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) url: String,
    port: u16,
    dir: PathBuf,
    keeper: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

pub(crate) fn start_postgres() -> Option<Server> {
    let (program, initdb) = (find("postgres")?, find("initdb")?);
    let (dir, port) = (folder("postgres"), port());
    let owner = (id("-u"), id("-g"));
    chown(&dir, owner.0, owner.1).expect("root may");
    let data = dir.join("data");
    let mut install = Command::new(initdb);
    install.args(["--no-sync", "-A", "trust", "-U", "cache", "-D"]);
    run(as_nobody(install.arg(&data)));
    let mut args = vec!["-D".to_owned(), text(&data), "-k".to_owned(), text(&dir)];
    args.extend(["-p".to_owned(), port.to_string()]);
    for setting in [
        "listen_addresses=127.0.0.1",
        "fsync=off",
        "max_connections=200",
    ] {
        args.extend(["-c".to_owned(), setting.to_owned()]);
    }
    let url = format!("postgres://cache@127.0.0.1:{port}/postgres");
    let mut server = Server::start(&program, &args, dir, port, url, true);
    server.wait();
    Some(server)
}

pub(crate) fn start_mysql() -> Option<Server> {
    let (program, install) = (find("mariadbd")?, find("mariadb-install-db")?);
    let (dir, port) = (folder("mysql"), port());
    let data = format!("--datadir={}", text(&dir.join("data")));
    let mut installing = Command::new(install);
    installing.args(["--no-defaults", &data, "--user=root"]);
    run(installing.arg("--auth-root-authentication-method=normal"));
    let args = [
        "--no-defaults".to_owned(),
        data,
        "--user=root".to_owned(),
        format!("--socket={}", text(&dir.join("socket"))),
        format!("--port={port}"),
        "--bind-address=127.0.0.1".to_owned(),
        "--innodb-flush-log-at-trx-commit=0".to_owned(),
        "--skip-log-bin".to_owned(),
        "--max-connections=200".to_owned(),
    ];
    let url = format!("mysql://root@127.0.0.1:{port}/test");
    let mut server = Server::start(&program, &args, dir, port, url, false);
    server.wait();
    Some(server)
}

impl Server {
    fn start(
        program: &Path,
        args: &[String],
        dir: PathBuf,
        port: u16,
        url: String,
        nobody: bool,
    ) -> Self {
        let mut keeper = Command::new("sh");
        keeper
            .args(["-c", KEEPER, "sh"])
            .arg(&dir)
            .arg(program)
            .args(args);
        if nobody {
            as_nobody(&mut keeper);
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
            url,
            port,
            dir,
            keeper,
            orders,
            answers,
        };
        server.answer();
        server
    }

    /// Waits until it takes connections.
    pub(crate) fn wait(&mut self) {
        let start = Instant::now();
        let pid_file = self.dir.join("data").join("postmaster.pid");
        let is_postgres = self.url.starts_with("postgres");
        loop {
            let answers = TcpStream::connect(("127.0.0.1", self.port))
                // MariaDB listens before it answers.
                .and_then(|mut stream| {
                    if is_postgres {
                        Ok(())
                    } else {
                        stream.read_exact(&mut [0])
                    }
                })
                .is_ok();
            let text = std::fs::read_to_string(&pid_file).unwrap_or_default();
            if answers && (!is_postgres || text.contains("ready")) {
                return;
            }
            let log = || std::fs::read_to_string(self.dir.join("log"));
            assert!(start.elapsed().as_secs() < 30, "not ready: {:?}", log());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Ends the process in good order and waits for its end; its folder stays.
    pub(crate) fn stop(&mut self) {
        // PostgreSQL waits for its clients to leave if asked by SIGTERM; MariaDB ignores SIGINT.
        let is_postgres = self.url.starts_with("postgres");
        let signal = if is_postgres { "INT" } else { "TERM" };
        self.order(&format!("stop {signal}"), "stopped");
    }

    /// Sends the process and its children a signal.
    pub(crate) fn signal(&mut self, signal: &str) {
        self.order(&format!("send {signal}"), "sent");
        // Its threads notice one after another.
        std::thread::sleep(Duration::from_millis(50));
    }

    /// Starts it again, as it was.
    pub(crate) fn start_again(&mut self) {
        writeln!(self.orders.as_mut().expect("open"), "start").expect("the keeper lives");
        self.answer();
    }

    fn order(&mut self, order: &str, expected: &str) {
        writeln!(self.orders.as_mut().expect("open"), "{order}").expect("the keeper lives");
        assert_eq!(self.answer(), expected);
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers
            .read_line(&mut line)
            .expect("the keeper answers");
        line.trim().to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.orders.take());
        // It ends at the end of its input; nothing to do if it is gone already.
        let _ = self.keeper.wait();
    }
}

fn text(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}

fn folder(name: &str) -> PathBuf {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let nanos = now.unwrap_or_default().as_nanos();
    let unique = format!("axum-cache-{name}-{}-{nanos}", std::process::id());
    let dir = std::env::temp_dir().join(unique);
    std::fs::create_dir(&dir).expect("the folder is new");
    dir
}

/// A free port of 127.0.0.1, below the ephemeral ones.
fn port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() * 61 % 11_000).expect("small");
    loop {
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 20_000 + (start + next) % 11_000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<_> = std::env::split_paths(&path).collect();
    folders.push("/usr/sbin".into());
    for version in std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
    {
        folders.push(version.path().join("bin"));
    }
    folders
        .into_iter()
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

/// The number of `nobody`, or none where the test is not root's.
fn id(of: &str) -> Option<u32> {
    let number = |args: &[&str]| {
        let output = Command::new("id").args(args).output().ok()?;
        String::from_utf8(output.stdout)
            .ok()?
            .trim()
            .parse::<u32>()
            .ok()
    };
    (number(&["-u"]) == Some(0))
        .then(|| number(&[of, "nobody"]))
        .flatten()
}

fn as_nobody(command: &mut Command) -> &mut Command {
    if let (Some(user), Some(group)) = (id("-u"), id("-g")) {
        command.uid(user).gid(group);
    }
    command
}

fn run(command: &mut Command) {
    let output = command.current_dir("/").output().expect("it was found");
    assert!(output.status.success(), "{output:?}");
}
