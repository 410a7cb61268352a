//! Redis: one server, a leader with replicas, a cluster, a sentinel.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use super::{Server, find, folder, port};

/// One Redis server.
#[derive(Debug)]
pub(crate) struct Redis {
    pub(crate) server: Server,
    pub(crate) port: u16,
}

impl Redis {
    /// A server without persistence, or `None` if there is no Redis on this machine.
    pub(crate) fn start(options: &[&str]) -> Option<Self> {
        Self::start_on("127.0.0.1", port(), options)
    }

    /// The same on this address.
    pub(crate) fn start_on(address: &str, port: u16, options: &[&str]) -> Option<Self> {
        let program = find("redis-server")?;
        let dir = folder("redis");
        let text = port.to_string();
        let mut args: Vec<&str> = vec!["--port", &text, "--bind", address];
        args.extend(["--save", "", "--appendonly", "no", "--dir"]);
        args.push(dir.to_str().expect("UTF-8"));
        args.extend(["--repl-diskless-sync-delay", "0"]);
        args.extend(options);
        let server = Server::start(&program, args, &dir, false);
        let redis = Self { server, port };
        redis.wait_at(address);
        Some(redis)
    }

    /// Starts it again, as it was, and returns when it answers.
    pub(crate) fn start_again(&mut self) {
        self.server.start_again();
        self.wait_at("127.0.0.1");
    }

    /// Ends it, after it has saved all that it was told.
    pub(crate) fn save_and_stop(&mut self) {
        command(self.port, &["SHUTDOWN", "SAVE"]);
        self.server.stop("KILL");
    }

    /// Kills it, and what it has ever saved is gone.
    pub(crate) fn kill_and_forget(&mut self) {
        self.server.stop("KILL");
        let _ = std::fs::remove_file(self.server.dir.join("dump.rdb"));
    }

    fn wait_at(&self, address: &str) {
        self.server.wait_until(|| {
            let answer = command_at(address, self.port, &["PING"]).unwrap_or_default();
            // One that wants a password is up, too.
            answer.contains("PONG") || answer.contains("NOAUTH")
        });
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

/// A leader and two replicas that are in step with it.
#[derive(Debug)]
pub(crate) struct Replicated {
    pub(crate) leader: Redis,
    pub(crate) replicas: Vec<Redis>,
}

impl Replicated {
    pub(crate) fn start() -> Option<Self> {
        let leader = Redis::start(&[])?;
        let of = leader.port.to_string();
        let replicas: Option<Vec<_>> = (0..2)
            .map(|_| Redis::start(&["--replicaof", "127.0.0.1", &of]))
            .collect();
        let replicas = replicas?;
        let servers = Self { leader, replicas };
        servers.catch_up();
        Some(servers)
    }

    /// Waits until the replicas have what the leader has now.
    pub(crate) fn catch_up(&self) {
        self.leader
            .server
            .wait_until(|| feeds(self.leader.port, self.replicas.len()));
    }

    /// The leader's URL, then the replicas'.
    pub(crate) fn urls(&self) -> Vec<String> {
        let all = std::iter::once(&self.leader).chain(&self.replicas);
        all.map(Redis::url).collect()
    }
}

/// Whether so many replicas have got what the leader writes now.
fn feeds(leader: u16, replicas: usize) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", leader)) else {
        return false;
    };
    // `WAIT` asks for what was written on its own connection.
    let wait = format!("SET in-step 1\r\nWAIT {replicas} 3000\r\nQUIT\r\n");
    let mut answer = String::new();
    stream.write_all(wait.as_bytes()).is_ok()
        && stream.read_to_string(&mut answer).is_ok()
        && answer.contains(&format!("\r\n:{replicas}\r\n"))
}

/// Three leaders that share the slots.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Redis>,
}

impl Cluster {
    pub(crate) fn start() -> Option<Self> {
        let options = [
            "--cluster-enabled",
            "yes",
            "--cluster-node-timeout",
            "2000",
            "--cluster-require-full-coverage",
            "no",
        ];
        let nodes: Option<Vec<_>> = (0..3).map(|_| Redis::start(&options)).collect();
        let nodes = nodes?;
        for (node, slots) in nodes.iter().zip([(0, 5460), (5461, 10922), (10923, 16383)]) {
            let (from, to) = (slots.0.to_string(), slots.1.to_string());
            command(node.port, &["CLUSTER", "ADDSLOTSRANGE", &from, &to]);
            let first = nodes[0].port.to_string();
            command(node.port, &["CLUSTER", "MEET", "127.0.0.1", &first]);
        }
        let cluster = Self { nodes };
        cluster.wait();
        Some(cluster)
    }

    /// Waits until each node knows that all is well.
    pub(crate) fn wait(&self) {
        let knows_all = |node: &Redis| {
            let info = command(node.port, &["CLUSTER", "INFO"]).unwrap_or_default();
            let facts = ["cluster_state:ok", "known_nodes:3", "slots_ok:16384"];
            facts.iter().all(|fact| info.contains(fact))
        };
        for node in &self.nodes {
            node.server.wait_until(|| knows_all(node));
        }
    }

    pub(crate) fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(Redis::url).collect()
    }
}

/// A leader named `mymaster`, one replica, and one sentinel who watches them.
#[derive(Debug)]
pub(crate) struct Sentinel {
    pub(crate) watch: Server,
    pub(crate) port: u16,
    pub(crate) leader: Redis,
    pub(crate) replica: Redis,
}

impl Sentinel {
    /// The sentinel takes a leader for dead that is silent for `patience`. A busy machine is
    /// silent, too.
    pub(crate) fn start(patience: Duration) -> Option<Self> {
        let leader = Redis::start(&[])?;
        let of = leader.port.to_string();
        let replica = Redis::start(&["--replicaof", "127.0.0.1", &of])?;
        leader.server.wait_until(|| feeds(leader.port, 1));
        let (dir, port) = (folder("sentinel"), port());
        let file: PathBuf = dir.join("sentinel.conf");
        let text = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor mymaster 127.0.0.1 {of} 1\n\
             sentinel down-after-milliseconds mymaster {}\nsentinel failover-timeout mymaster 2000\n",
            dir.display(),
            patience.as_millis()
        );
        std::fs::write(&file, text).expect("the folder is ours");
        let args = [file.into_os_string(), "--sentinel".into()];
        let watch = Server::start(&find("redis-server")?, args, &dir, false);
        watch.wait_until(|| {
            command(port, &["SENTINEL", "replicas", "mymaster"])
                .is_some_and(|replicas| replicas.contains(&replica.port.to_string()))
        });
        Some(Self {
            watch,
            port,
            leader,
            replica,
        })
    }

    /// Waits until the replica has what the leader has now.
    pub(crate) fn catch_up(&self) {
        self.leader.server.wait_until(|| feeds(self.leader.port, 1));
    }

    pub(crate) fn url(&self) -> String {
        format!("redis+sentinel://127.0.0.1:{}", self.port)
    }
}

/// Sends one command and reads one packet of its answer: enough for a test to steer a server.
pub(crate) fn command(port: u16, words: &[&str]) -> Option<String> {
    command_at("127.0.0.1", port, words)
}

fn command_at(address: &str, port: u16, words: &[&str]) -> Option<String> {
    let mut stream = TcpStream::connect((address, port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        let _ = write!(request, "${}\r\n{word}\r\n", word.len());
    }
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = vec![0; 1 << 16];
    let read = stream.read(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer[..read]).into_owned())
}
