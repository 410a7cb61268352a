//! Memcached.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::{Server, find, folder, is_root, port};

/// One Memcached server.
#[derive(Debug)]
pub(crate) struct Memcached {
    pub(crate) server: Server,
    pub(crate) port: u16,
}

impl Memcached {
    /// A server, or `None` if there is no Memcached on this machine.
    pub(crate) fn start(options: &[&str]) -> Option<Self> {
        Self::start_on("127.0.0.1", port(), options)
    }

    /// The same on this address.
    pub(crate) fn start_on(address: &str, port: u16, options: &[&str]) -> Option<Self> {
        let program = find("memcached")?;
        let dir = folder("memcached");
        let text = port.to_string();
        let mut args = vec!["-l", address, "-p", &text, "-U", "0", "-t", "2"];
        if is_root() {
            args.extend(["-u", "root"]);
        }
        args.extend(options);
        let server = Server::start(&program, args, &dir, false);
        let memcached = Self { server, port };
        let up = || TcpStream::connect((address, port)).is_ok();
        memcached.server.wait_until(up);
        Some(memcached)
    }

    /// A server on a socket of this path.
    pub(crate) fn start_at_socket() -> Option<(Server, std::path::PathBuf)> {
        let program = find("memcached")?;
        let dir = folder("memcached");
        let socket = dir.join("socket");
        let mut args = vec!["-s", socket.to_str().expect("UTF-8"), "-t", "2"];
        if is_root() {
            args.extend(["-u", "root"]);
        }
        let server = Server::start(&program, args, &dir, false);
        server.wait_until(|| socket.exists());
        Some((server, socket))
    }

    /// Starts it again, as it was, and returns when it takes connections.
    pub(crate) fn start_again(&mut self) {
        self.server.start_again();
        let up = || TcpStream::connect(("127.0.0.1", self.port)).is_ok();
        self.server.wait_until(up);
    }

    pub(crate) fn url(&self) -> String {
        format!("memcached://127.0.0.1:{}", self.port)
    }

    /// Sends text, and waits for nothing but its being read.
    pub(crate) fn tell(&self, text: &str) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("it runs");
        let text = format!("{text}quit\r\n");
        stream.write_all(text.as_bytes()).expect("it reads");
        // The end comes with `quit`.
        let _ = stream.read_to_end(&mut Vec::new());
    }

    /// Sends text and reads what comes back within a moment.
    pub(crate) fn talk(&self, text: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("it runs");
        stream
            .set_read_timeout(Some(Duration::from_millis(200)))
            .expect("not zero");
        stream.write_all(text.as_bytes()).expect("it reads");
        let (mut answer, mut part) = (Vec::new(), [0; 4096]);
        while let Ok(read) = stream.read(&mut part)
            && read > 0
        {
            answer.extend_from_slice(&part[..read]);
        }
        String::from_utf8_lossy(&answer).into_owned()
    }
}
