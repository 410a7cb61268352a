//! PostgreSQL.

use std::net::TcpStream;
use std::os::unix::fs::chown;
use std::path::PathBuf;

use super::{Server, find, folder, id, is_root, port, run};

/// One PostgreSQL server.
#[derive(Debug)]
pub(crate) struct Postgres {
    pub(crate) server: Server,
    pub(crate) port: u16,
    pub(crate) dir: PathBuf,
}

impl Postgres {
    /// A server with a database `postgres` and a user `cache`, or `None` if there is no PostgreSQL
    /// on this machine.
    pub(crate) fn start() -> Option<Self> {
        let (program, initdb) = (find("postgres")?, find("initdb")?);
        let (dir, port) = (folder("postgres"), port());
        if is_root() {
            chown(&dir, id(&["-u", "nobody"]), id(&["-g", "nobody"])).expect("root may");
        }
        let data = dir.join("data");
        let args = ["--no-sync", "-A", "trust", "-U", "cache", "-D"];
        let mut args: Vec<_> = args.iter().map(AsRef::as_ref).collect();
        args.push(data.as_os_str());
        run(initdb, &args, is_root());
        let text = port.to_string();
        let mut args: Vec<&str> = vec!["-D", data.to_str().expect("UTF-8"), "-p", &text];
        args.extend(["-k", dir.to_str().expect("UTF-8")]);
        args.extend(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]);
        args.extend(["-c", "max_connections=200"]);
        let server = Server::start(&program, args, &dir, is_root());
        let postgres = Self { server, port, dir };
        postgres.wait();
        Some(postgres)
    }

    /// Waits until it is ready for queries.
    pub(crate) fn wait(&self) {
        let ready = self.dir.join("data").join("postmaster.pid");
        self.server.wait_until(|| {
            TcpStream::connect(("127.0.0.1", self.port)).is_ok()
                && std::fs::read_to_string(&ready).is_ok_and(|text| text.contains("ready"))
        });
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://cache@127.0.0.1:{}/postgres", self.port)
    }
}
