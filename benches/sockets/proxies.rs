//! The caches that stand before a site elsewhere: nginx and Varnish.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::support::servers::{folder, is_installed, port, soon};

/// Starts a proxy, says its process, and ends it in good order at the end of the input.
const KEEPER: &str = r#"
dir=$1; shift
"$@" >"$dir/log" 2>&1 </dev/null & pid=$!
echo "$pid"
read -r _
kill -s TERM "$pid" 2>/dev/null; wait "$pid" 2>/dev/null
rm -rf "$dir"
"#;

/// A proxy that runs; dropping it ends it.
pub(crate) struct Proxy {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    keeper: Child,
    pid: u32,
}

impl Proxy {
    /// nginx with `proxy_cache`, or `None` if there is none on this machine.
    pub(crate) fn nginx(origin: SocketAddr) -> Option<Self> {
        let (program, dir) = (find("nginx")?, folder("nginx"));
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let (port, text) = (port(), dir.display());
        let user = if is_root() { "user root;" } else { "" };
        let config = format!(
            "{user}
            daemon off;
            worker_processes {workers};
            pid {text}/pid;
            events {{ worker_connections 4096; }}
            http {{
                access_log off;
                sendfile on;
                tcp_nopush on;
                keepalive_requests 1000000000;
                open_file_cache max=1000;
                client_body_temp_path {text}/body;
                proxy_temp_path {text}/proxy;
                fastcgi_temp_path {text}/fastcgi;
                uwsgi_temp_path {text}/uwsgi;
                scgi_temp_path {text}/scgi;
                proxy_cache_path {text}/cache keys_zone=pages:8m;
                server {{
                    listen 127.0.0.1:{port};
                    location / {{
                        proxy_cache pages;
                        proxy_pass http://{origin};
                    }}
                }}
            }}"
        );
        std::fs::write(dir.join("nginx.conf"), config).unwrap();
        let (conf, log) = (format!("{text}/nginx.conf"), format!("{text}/log"));
        let args = ["-e", &log, "-p", dir.to_str()?, "-c", &conf];
        Some(Self::start(
            "nginx proxy_cache",
            &program,
            &args,
            port,
            &dir,
        ))
    }

    /// Varnish with its own rules, or `None` if there is none on this machine.
    pub(crate) fn varnish(origin: SocketAddr) -> Option<Self> {
        let (program, dir, port) = (find("varnishd")?, folder("varnish"), port());
        let (listen, origin) = (format!("127.0.0.1:{port}"), origin.to_string());
        let state = dir.join("state");
        let mut args = vec!["-F", "-a", &listen, "-b", &origin, "-n", state.to_str()?];
        args.extend(["-s", "malloc,64m", "-T", "none"]);
        if is_root() {
            args.extend(["-j", "none"]);
        }
        Some(Self::start("Varnish", &program, &args, port, &dir))
    }

    /// The first of its processes.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    fn start(name: &'static str, program: &str, args: &[&str], port: u16, dir: &Path) -> Self {
        use std::io::{BufRead as _, BufReader};

        let mut keeper = Command::new("sh");
        keeper.arg("-c").arg(KEEPER).arg("sh").arg(dir).arg(program);
        let mut keeper = keeper
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let answers = keeper.stdout.as_mut().unwrap();
        BufReader::new(answers).read_line(&mut line).unwrap();
        let proxy = Self {
            name,
            address: ([127, 0, 0, 1], port).into(),
            keeper,
            pid: line.trim().parse().unwrap(),
        };
        let up = soon(|| std::net::TcpStream::connect(proxy.address).is_ok());
        let log = std::fs::read_to_string(dir.join("log"));
        assert!(up, "{name} is not ready: {}", log.unwrap_or_default());
        proxy
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        // It ends at the end of its input; nothing to do if it is gone already.
        let _ = self.keeper.wait();
    }
}

/// How to call a program, which systems keep where not every path goes.
fn find(program: &str) -> Option<String> {
    let folders = ["/usr/sbin", "/usr/local/sbin", "/opt/homebrew/bin"];
    let mut paths = folders.iter().map(|folder| format!("{folder}/{program}"));
    let path = paths.find(|path| Path::new(path).is_file());
    path.or_else(|| is_installed(program).then(|| program.to_owned()))
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|id| id.stdout == b"0\n")
}
