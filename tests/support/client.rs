//! This program as a process of its own, which is given orders and answers by lines.
#![allow(dead_code, reason = "no test binary uses all of it")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

const VARIABLE: &str = "AXUM_CACHE_TEST_CHILD";

/// What this process is to do, if it is a child.
pub(crate) fn workload() -> Option<String> {
    std::env::var(VARIABLE).ok()
}

/// A child process.
pub(crate) struct Client {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Client {
    /// A client of the store at `url` that does `workload`; ready, but waiting for orders.
    pub(crate) fn start(url: &str, workload: &str) -> Self {
        let program = std::env::current_exe().unwrap();
        Self::spawn(Command::new(program), url, workload)
    }

    /// One that finds hosts in this file instead of the system's.
    pub(crate) fn start_with_hosts(url: &str, workload: &str, hosts: &Path) -> Self {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--map-root-user", "sh", "-c"]);
        command.arg("mount --bind \"$1\" /etc/hosts && exec \"$0\"");
        command.arg(std::env::current_exe().unwrap()).arg(hosts);
        Self::spawn(command, url, workload)
    }

    /// One that this command runs.
    pub(crate) fn spawn(mut command: Command, url: &str, workload: &str) -> Self {
        let mut child = command
            .env(VARIABLE, workload)
            .env("CACHE_URL", url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let orders = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let mut client = Self {
            child,
            orders,
            answers,
        };
        assert_eq!(client.answer(), "ready", "{workload}");
        client
    }

    pub(crate) fn order(&mut self, order: &str) {
        writeln!(self.orders, "{order}").unwrap();
    }

    /// The next line; empty at the end.
    pub(crate) fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Ends it without a warning.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The same, and returns what it had said until then.
    pub(crate) fn kill_and_hear(mut self) -> Vec<String> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.answers.lines().map(Result::unwrap).collect()
    }

    /// Ends it, and returns what it said last.
    pub(crate) fn finish(mut self) -> Vec<String> {
        drop(self.orders);
        let lines = self.answers.lines().map(Result::unwrap).collect();
        assert!(self.child.wait().unwrap().success());
        lines
    }
}

/// The next order; `None` at the end of the input.
pub(crate) async fn order() -> Option<String> {
    let read = || std::io::stdin().lines().next();
    let line = tokio::task::spawn_blocking(read).await.unwrap();
    line.map(Result::unwrap)
}

pub(crate) fn say(line: impl std::fmt::Display) {
    println!("{line}");
    std::io::stdout().flush().unwrap();
}
