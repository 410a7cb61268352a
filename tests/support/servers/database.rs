//! PostgreSQL, and MariaDB.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{Server, find, folder, id, is_root, port, run};

/// One database server.
#[derive(Debug)]
pub(crate) struct Database {
    pub(crate) url: String,
    server: Server,
    address: String,
    port: u16,
    /// The file that says on which address it listens.
    settings: PathBuf,
    is_postgres: bool,
}

impl Database {
    /// A PostgreSQL with a database `postgres` and a user `cache`, or `None` if there is none on
    /// this machine.
    pub(crate) fn postgres() -> Option<Self> {
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
        append(
            &data.join("pg_hba.conf"),
            "host all all 127.0.0.0/8 trust\n",
        );
        let settings = data.join("postgresql.conf");
        let mut text = format!("port = {port}\nfsync = off\nmax_connections = 200\n");
        let _ = writeln!(text, "unix_socket_directories = '{}'", dir.display());
        append(&settings, &text);
        append(&settings, &listen(true, "127.0.0.1"));
        let server = Server::start(
            &program,
            ["-D".into(), data.into_os_string()],
            &dir,
            is_root(),
        );
        let mut database = Self {
            url: format!("postgres://cache@127.0.0.1:{port}/postgres"),
            server,
            address: "127.0.0.1".to_owned(),
            port,
            settings,
            is_postgres: true,
        };
        database.wait();
        Some(database)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// A MariaDB with a database `test` and a user `root` without a password, or `None` if there
    /// is none on this machine.
    pub(crate) fn mysql() -> Option<Self> {
        let (program, install) = (find("mariadbd")?, find("mariadb-install-db")?);
        let (dir, port) = (folder("mysql"), port());
        let data = format!("--datadir={}", dir.join("data").display());
        // Servers that share a folder for temporary tables remove each other's.
        let temporary = format!("--tmpdir={}", dir.display());
        let mut args = vec![
            "--no-defaults",
            &data,
            &temporary,
            "--auth-root-authentication-method=normal",
        ];
        if is_root() {
            args.push("--user=root");
        }
        let args: Vec<_> = args.iter().map(AsRef::as_ref).collect();
        run(install, &args, false);
        let settings = dir.join("my.cnf");
        let user = if is_root() { "user = root\n" } else { "" };
        let text = format!(
            "[mysqld]\n{user}datadir = {data}\ntmpdir = {dir}\nsocket = {socket}\nport = {port}\n\
             innodb_flush_log_at_trx_commit = 0\nskip_log_bin\nmax_connections = 200\n\
             skip_grant_tables\n",
            data = dir.join("data").display(),
            dir = dir.display(),
            socket = dir.join("socket").display(),
        );
        append(&settings, &text);
        append(&settings, &listen(false, "127.0.0.1"));
        let file = format!("--defaults-file={}", settings.display());
        let server = Server::start(&program, [file], &dir, false);
        let mut database = Self {
            url: format!("mysql://root@127.0.0.1:{port}/test"),
            server,
            address: "127.0.0.1".to_owned(),
            port,
            settings,
            is_postgres: false,
        };
        database.wait();
        Some(database)
    }

    /// Ends the process in good order and waits for its end; its data stays.
    pub(crate) fn stop(&mut self) {
        // PostgreSQL waits for its clients to leave if asked by SIGTERM; MariaDB ignores SIGINT.
        self.server
            .stop(if self.is_postgres { "INT" } else { "TERM" });
    }

    /// Ends the process and its children without a warning.
    pub(crate) fn crash(&mut self) {
        self.server.signal_all("KILL");
        self.server.stop("KILL");
    }

    /// Ends the processes, or threads, that serve clients.
    pub(crate) fn kill_connections(&self) {
        let port = self.port;
        let script = if self.is_postgres {
            format!(
                "psql -h 127.0.0.1 -p {port} -U cache postgres -c \
                 'SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                 WHERE usename IS NOT NULL AND pid <> pg_backend_pid()'"
            )
        } else {
            let client = format!("mariadb --no-defaults -h 127.0.0.1 -P {port} -N");
            format!(
                "{client} -e \"SELECT CONCAT('KILL ', id, ';') FROM information_schema.processlist \
                 WHERE command <> 'Daemon' AND id <> CONNECTION_ID()\" | {client} --force"
            )
        };
        run("sh", &["-c".as_ref(), script.as_ref()], false);
    }

    /// Holds a table for some seconds, so that nobody else gets at it.
    pub(crate) fn hold_table(&self, table: &str, seconds: u32) -> Held {
        let script = if self.is_postgres {
            format!(
                "BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep({seconds})"
            )
        } else {
            format!("LOCK TABLES {table} WRITE; SELECT SLEEP({seconds})")
        };
        let mut client = self.client();
        let client = client.arg(script).stdout(Stdio::null()).spawn();
        std::thread::sleep(Duration::from_millis(300));
        Held(client.expect("the client comes with the server"))
    }

    /// Runs one statement.
    pub(crate) fn execute(&self, statement: &str) {
        let output = self.client().arg(statement).output().expect("as above");
        assert!(output.status.success(), "{output:?}");
    }

    /// How many connections the server has.
    pub(crate) fn count_connections(&self) -> usize {
        let script = if self.is_postgres {
            "SELECT count(*) FROM pg_stat_activity WHERE usename IS NOT NULL"
        } else {
            "SELECT COUNT(*) FROM information_schema.processlist"
        };
        let output = self.client().arg(script).output().expect("as above");
        let count = String::from_utf8_lossy(&output.stdout);
        count.trim().parse().expect("a number")
    }

    fn client(&self) -> Command {
        let port = self.port.to_string();
        let (program, arguments): (_, &[&str]) = if self.is_postgres {
            (
                "psql",
                &[
                    "-h",
                    "127.0.0.1",
                    "-p",
                    &port,
                    "-U",
                    "cache",
                    "-tA",
                    "postgres",
                    "-c",
                ],
            )
        } else {
            (
                "mariadb",
                &[
                    "--no-defaults",
                    "-h",
                    "127.0.0.1",
                    "-P",
                    &port,
                    "-N",
                    "test",
                    "-e",
                ],
            )
        };
        let mut client = Command::new(program);
        client.args(arguments);
        client
    }

    /// Starts it again, on the address that it had.
    pub(crate) fn start_again(&mut self) {
        self.server.start_again();
    }

    /// From the next start on, it listens on this address.
    pub(crate) fn listen_on(&mut self, address: &str) {
        append(&self.settings, &listen(self.is_postgres, address));
        address.clone_into(&mut self.address);
    }

    /// Waits until it answers.
    pub(crate) fn wait(&mut self) {
        let pid_file = self.settings.with_file_name("postmaster.pid");
        self.server.wait_until(|| {
            let Ok(mut stream) = TcpStream::connect((self.address.as_str(), self.port)) else {
                return false;
            };
            if self.is_postgres {
                std::fs::read_to_string(&pid_file).is_ok_and(|text| text.contains("ready"))
            } else {
                // It listens before it answers.
                stream.read_exact(&mut [0]).is_ok()
            }
        });
    }

    /// Sends the process and its children a signal.
    pub(crate) fn signal(&mut self, signal: &str) {
        self.server.signal_all(signal);
        // Its threads notice one after another.
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A table that is held.
#[derive(Debug)]
pub(crate) struct Held(Child);

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The later of two settings counts.
fn listen(is_postgres: bool, address: &str) -> String {
    if is_postgres {
        format!("listen_addresses = '{address}'\n")
    } else {
        format!("bind_address = {address}\n")
    }
}

fn append(file: &std::path::Path, text: &str) {
    let mut options = std::fs::OpenOptions::new();
    let file = options.append(true).create(true).open(file);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.expect("the folder is ours");
}
