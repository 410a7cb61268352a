//! The stores that processes share, started for a test.

use std::time::{Duration, Instant};

use axum_cache::Result;

use crate::support::servers::database::Database;
use crate::support::servers::memcached::Memcached;
use crate::support::servers::redis::{Cluster, Redis, Replicated, Sentinel, command};

/// How long calls may take whose deadline is not the subject: a busy machine must not look like a store that is away.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What a busy machine may add to any time.
pub(crate) const SLACK: Duration = Duration::from_secs(1);

/// Makes a call until it is no more in vain: a store that hung a moment ago may take some more.
pub(crate) async fn in_the_end<T>(mut call: impl AsyncFnMut() -> Result<T>) -> T {
    let start = Instant::now();
    loop {
        match call().await {
            Ok(outcome) => return outcome,
            Err(error) => assert!(
                error.is_transient() && start.elapsed() < PATIENCE,
                "{error}"
            ),
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A store that processes share.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) name: &'static str,
    /// The programs without which its tests are ignored.
    pub(crate) needs: &'static [&'static str],
    /// Whether it has servers that can be stopped.
    pub(crate) has_server: bool,
    /// Whether its server can move to another address.
    pub(crate) moves: bool,
    pub(crate) start: fn() -> Box<dyn Service>,
}

/// A store that runs.
pub(crate) trait Service: Send {
    /// Its `CACHE_URL`.
    fn url(&self) -> String;

    /// Waits until what was written is read, whichever server is asked.
    fn catch_up(&self) {}

    /// Breaks the connections that clients have.
    fn kill_clients(&mut self) {
        unimplemented!("it has no server")
    }

    /// Ends the server without a warning.
    fn stop(&mut self) {
        unimplemented!("it has no server")
    }

    /// Starts it again on this address, and returns when it answers.
    fn start_again(&mut self, _address: &str) {
        unimplemented!("it has no server")
    }
}

pub(crate) const STORES: &[Store] = &[
    Store {
        name: "redis",
        needs: &["redis-server"],
        has_server: true,
        moves: true,
        start: || Box::new(Some(Redis::start(&[]).unwrap())),
    },
    Store {
        name: "redis-replicas",
        needs: &["redis-server"],
        has_server: true,
        moves: false,
        start: || Box::new(Replicated::start().unwrap()),
    },
    Store {
        name: "redis-cluster",
        needs: &["redis-server"],
        has_server: true,
        moves: false,
        start: || Box::new(Cluster::start().unwrap()),
    },
    Store {
        name: "redis-sentinel",
        needs: &["redis-server"],
        has_server: false,
        moves: false,
        start: || Box::new(Sentinel::start(Duration::from_secs(30)).unwrap()),
    },
    Store {
        name: "memcached",
        needs: &["memcached"],
        has_server: true,
        moves: true,
        start: || Box::new(Some(Memcached::start(&[]).unwrap())),
    },
    Store {
        name: "memcached-two",
        needs: &["memcached"],
        has_server: true,
        moves: false,
        start: || Box::new([(); 2].map(|()| Memcached::start(&[]).unwrap())),
    },
    Store {
        name: "file",
        needs: &[],
        has_server: false,
        moves: false,
        start: || Box::new(Files(tempfile::tempdir().unwrap())),
    },
    Store {
        name: "sqlite",
        needs: &[],
        has_server: false,
        moves: false,
        start: || Box::new(Sqlite(tempfile::tempdir().unwrap())),
    },
    Store {
        name: "postgres",
        needs: &["postgres"],
        has_server: true,
        moves: true,
        start: || Box::new(Database::postgres().unwrap()),
    },
    Store {
        name: "mysql",
        needs: &["mariadbd"],
        has_server: true,
        moves: true,
        start: || Box::new(Database::mysql().unwrap()),
    },
];

/// The only server is `None` only while it is moved.
impl Service for Option<Redis> {
    fn url(&self) -> String {
        self.as_ref().unwrap().url()
    }

    fn kill_clients(&mut self) {
        let port = self.as_ref().unwrap().port;
        let killed = command(port, &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        assert!(killed.unwrap().starts_with(':'));
    }

    fn stop(&mut self) {
        self.as_mut().unwrap().server.stop("KILL");
    }

    fn start_again(&mut self, address: &str) {
        let port = self.take().unwrap().port;
        *self = Redis::start_on(address, port, &[]);
    }
}

/// The leader is what goes away.
impl Service for Replicated {
    fn url(&self) -> String {
        self.urls().join(",")
    }

    fn catch_up(&self) {
        self.catch_up();
    }

    fn kill_clients(&mut self) {
        self.urls()
            .iter()
            .for_each(|url| kill_clients(port_of(url)));
    }

    fn stop(&mut self) {
        self.leader.server.stop("KILL");
    }

    fn start_again(&mut self, _address: &str) {
        self.leader.start_again();
    }
}

fn port_of(url: &str) -> u16 {
    url.rsplit(':').next().unwrap().parse().unwrap()
}

fn kill_clients(port: u16) {
    let killed = command(port, &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    assert!(killed.unwrap().starts_with(':'));
}

/// All nodes go away.
impl Service for Cluster {
    fn url(&self) -> String {
        self.urls()
            .join(",")
            .replace("redis://", "redis+cluster://")
    }

    fn kill_clients(&mut self) {
        self.nodes.iter().for_each(|node| kill_clients(node.port));
    }

    fn stop(&mut self) {
        for node in &mut self.nodes {
            node.server.stop("KILL");
        }
    }

    fn start_again(&mut self, _address: &str) {
        self.nodes.iter_mut().for_each(Redis::start_again);
        self.wait();
    }
}

impl Service for Sentinel {
    fn url(&self) -> String {
        format!("{}?read_from_replicas=true", self.url())
    }

    fn catch_up(&self) {
        self.catch_up();
    }
}

impl Service for Option<Memcached> {
    fn url(&self) -> String {
        self.as_ref().unwrap().url()
    }

    /// Memcached cannot break connections; with a server that is stopped for a moment they break,
    /// too, but that is the next test. Here its limit of idle time does it.
    fn kill_clients(&mut self) {
        let port = self.as_ref().unwrap().port;
        self.stop();
        drop(self.take());
        *self = Memcached::start_on("127.0.0.1", port, &[]);
    }

    fn stop(&mut self) {
        self.as_mut().unwrap().server.stop("KILL");
    }

    fn start_again(&mut self, address: &str) {
        let port = self.take().unwrap().port;
        *self = Memcached::start_on(address, port, &[]);
    }
}

impl Service for [Memcached; 2] {
    fn url(&self) -> String {
        let urls: Vec<_> = self.iter().map(Memcached::url).collect();
        urls.join(",")
    }

    fn kill_clients(&mut self) {
        self.stop();
        self.start_again("127.0.0.1");
    }

    fn stop(&mut self) {
        for server in self {
            server.server.stop("KILL");
        }
    }

    fn start_again(&mut self, _address: &str) {
        self.iter_mut().for_each(Memcached::start_again);
    }
}

struct Files(tempfile::TempDir);

impl Service for Files {
    fn url(&self) -> String {
        format!("file://{}", self.0.path().display())
    }
}

struct Sqlite(tempfile::TempDir);

impl Service for Sqlite {
    fn url(&self) -> String {
        let file = self.0.path().join("cache.db");
        format!("sqlite://{}?create_table=true", file.display())
    }
}

impl Service for Database {
    fn url(&self) -> String {
        format!("{}?create_table=true", self.url)
    }

    /// The processes, or threads, that serve them.
    fn kill_clients(&mut self) {
        self.kill_connections();
    }

    fn stop(&mut self) {
        self.crash();
    }

    fn start_again(&mut self, address: &str) {
        self.listen_on(address);
        Database::start_again(self);
        self.wait();
    }
}
