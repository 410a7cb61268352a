//! The server goes away, and comes back.

use std::process::Command;
use std::time::Duration;

use crate::child::{Client, unix_millis};
use crate::services::Store;
use crate::support::servers::folder;

/// The operation timeout of the clients, and what a busy machine may add.
const DEADLINE_MILLIS: u64 = 500;
const SLACK_MILLIS: u64 = 1_000;

/// How soon after the server is back a call succeeds.
const RECOVERY_MILLIS: u64 = 1_000 + SLACK_MILLIS;

/// For how long more calls are made then.
const AFTER_MILLIS: u64 = 300;

/// One call of a client.
struct Call {
    began: u64,
    took: u64,
    outcome: String,
}

impl Call {
    fn is_ok(&self) -> bool {
        self.outcome == "ok"
    }
}

fn calls(client: Client) -> Vec<Call> {
    let parse = |line: String| {
        let mut parts = line.splitn(3, ' ');
        Call {
            began: parts.next().unwrap().parse().unwrap(),
            took: parts.next().unwrap().parse().unwrap(),
            outcome: parts.next().unwrap().to_owned(),
        }
    };
    let calls: Vec<_> = client.finish().into_iter().map(parse).collect();
    for call in &calls {
        assert!(
            call.took <= DEADLINE_MILLIS + SLACK_MILLIS,
            "{} took {} ms",
            call.outcome,
            call.took
        );
    }
    calls
}

/// A call succeeded soon after `back`, and all did from then on.
fn assert_recovered(calls: &[Call], back: u64) {
    let first = calls
        .iter()
        .find(|call| call.began + call.took >= back && call.is_ok())
        .expect("a call succeeded again");
    let after = (first.began + first.took).saturating_sub(back);
    assert!(
        after <= RECOVERY_MILLIS,
        "the first success came after {after} ms"
    );
    let late = calls
        .iter()
        .filter(|call| call.began > back + RECOVERY_MILLIS);
    for call in late {
        assert!(
            call.is_ok(),
            "{} ms after: {}",
            call.began - back,
            call.outcome
        );
    }
    println!("the first success came after {after} ms");
}

async fn pause(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

/// Of the store alone: how soon a circuit breaker lets it be used again is its own business.
fn url(store_url: &str) -> String {
    let mark = if store_url.contains('?') { '&' } else { '?' };
    format!("{store_url}{mark}operation_timeout=0.5&circuit_breaker=false")
}

pub(crate) async fn killed_clients(store: &'static Store) {
    let mut service = (store.start)();
    let client = Client::start(&url(&service.url()), "steady");
    pause(300).await;
    service.kill_clients();
    let back = unix_millis();
    pause(RECOVERY_MILLIS + AFTER_MILLIS).await;
    assert_recovered(&calls(client), back);
}

pub(crate) async fn restart(store: &'static Store) {
    let mut service = (store.start)();
    let client = Client::start(&url(&service.url()), "steady");
    pause(300).await;
    let gone = unix_millis();
    service.stop();
    pause(1000).await;
    service.start_again("127.0.0.1");
    let back = unix_millis();
    pause(RECOVERY_MILLIS + AFTER_MILLIS).await;
    let calls = calls(client);
    let failed = calls.iter().filter(|call| !call.is_ok());
    assert!(failed.count() > 0, "nobody noticed");
    assert!(calls.iter().any(|call| call.is_ok() && call.began < gone));
    assert_recovered(&calls, back);
}

/// Whether a process can be given other hosts than the system's.
pub(crate) fn can_move() -> bool {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--map-root-user", "true"]);
    command.status().is_ok_and(|status| status.success())
}

/// The server moves from one address to another, and its name with it.
pub(crate) async fn new_address(store: &'static Store) {
    let mut service = (store.start)();
    let dir = folder("hosts");
    let hosts = dir.join("hosts");
    let point = |address: &str| std::fs::write(&hosts, format!("{address} cache.test\n")).unwrap();
    point("127.0.0.1");
    let named = url(&service.url().replace("127.0.0.1", "cache.test"));
    let client = Client::start_with_hosts(&named, "steady", &hosts);
    pause(300).await;
    service.stop();
    pause(300).await;
    point("127.0.0.2");
    service.start_again("127.0.0.2");
    let back = unix_millis();
    pause(RECOVERY_MILLIS + AFTER_MILLIS).await;
    assert_recovered(&calls(client), back);
    std::fs::remove_dir_all(dir).unwrap();
}
