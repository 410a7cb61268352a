//! MariaDB, or MySQL where that is what is installed.

use std::net::TcpStream;
use std::path::PathBuf;

use super::{Server, find, folder, port, run};

/// One MariaDB server.
#[derive(Debug)]
pub(crate) struct Mysql {
    pub(crate) server: Server,
    pub(crate) port: u16,
    pub(crate) dir: PathBuf,
}

impl Mysql {
    /// A server with a database `test` and a user `root` without a password, or `None` if there
    /// is no MariaDB on this machine.
    pub(crate) fn start() -> Option<Self> {
        let (program, install) = (find("mariadbd")?, find("mariadb-install-db")?);
        let (dir, port) = (folder("mysql"), port());
        let data = format!("--datadir={}", dir.join("data").display());
        let user = format!("--user={}", if super::is_root() { "root" } else { "" });
        let args = [
            "--no-defaults",
            &data,
            "--auth-root-authentication-method=normal",
        ];
        let mut args: Vec<_> = args.iter().map(AsRef::as_ref).collect();
        if super::is_root() {
            args.push(user.as_ref());
        }
        run(install, &args, false);
        let socket = dir.join("socket");
        let mut args = vec![
            "--no-defaults".to_owned(),
            data.clone(),
            format!("--socket={}", socket.display()),
            format!("--port={port}"),
            "--bind-address=127.0.0.1".to_owned(),
            "--innodb-flush-log-at-trx-commit=0".to_owned(),
            "--skip-log-bin".to_owned(),
            "--max-connections=200".to_owned(),
        ];
        if super::is_root() {
            args.push(user);
        }
        let server = Server::start(&program, args, &dir, false);
        let mysql = Self { server, port, dir };
        mysql.wait();
        Some(mysql)
    }

    /// Waits until it takes connections.
    pub(crate) fn wait(&self) {
        self.server
            .wait_until(|| TcpStream::connect(("127.0.0.1", self.port)).is_ok());
    }

    pub(crate) fn url(&self) -> String {
        format!("mysql://root@127.0.0.1:{}/test", self.port)
    }
}
