//! Those who ask: raw sockets on one thread, which do as little as they can with an answer; and clocks.

use std::fmt::Write as _;
use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::task::LocalSet;

use super::site::{BODY, FIELDS, path};

/// What was asked and answered.
pub(crate) struct Load {
    pub(crate) requests: u64,
    pub(crate) seconds: f64,
    /// Seconds of the processor that the asking took.
    pub(crate) cpu: f64,
}

impl Load {
    /// Asks for one page over and over, on so many connections at once, one request after another on each.
    pub(crate) fn run(address: SocketAddr, connections: usize, time: Duration) -> Self {
        let before = seconds(ClockId::ThreadCPUTime);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .unwrap();
        let (requests, longest) = LocalSet::new().block_on(&runtime, async {
            let ready = Arc::new(Barrier::new(connections));
            let clients: Vec<_> = (0..connections)
                .map(|_| tokio::task::spawn_local(client(address, Arc::clone(&ready), time)))
                .collect();
            let (mut requests, mut longest) = (0, 0.0_f64);
            for client in clients {
                let (done, seconds) = client.await.unwrap();
                requests += done;
                longest = longest.max(seconds);
            }
            (requests, longest)
        });
        Self {
            requests,
            seconds: longest,
            cpu: seconds(ClockId::ThreadCPUTime) - before,
        }
    }

    /// Requests a second.
    pub(crate) fn rate(&self) -> f64 {
        self.requests as f64 / self.seconds
    }
}

/// How many answers one connection got in this time, and how long that took.
async fn client(address: SocketAddr, ready: Arc<Barrier>, time: Duration) -> (u64, f64) {
    let mut client = Client::connect(address).await;
    client.ask().await;
    ready.wait().await;
    let (start, mut done) = (Instant::now(), 0);
    while start.elapsed() < time {
        client.ask().await;
        done += 1;
    }
    (done, start.elapsed().as_secs_f64())
}

struct Client {
    stream: TcpStream,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Client {
    async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut request = format!("GET {} HTTP/1.1\r\n", path(0));
        for (name, value) in FIELDS {
            let _ = write!(request, "{name}: {value}\r\n");
        }
        request += "\r\n";
        Self {
            stream,
            request: request.into_bytes(),
            answer: vec![0; BODY + 4096],
        }
    }

    /// One request, and its answer to the last byte.
    async fn ask(&mut self) {
        self.stream.write_all(&self.request).await.unwrap();
        let (mut read, mut length) = (0, None);
        while length.is_none_or(|length| read < length) {
            let more = self.stream.read(&mut self.answer[read..]).await.unwrap();
            assert!(more > 0, "an answer ended early");
            read += more;
            length = length.or_else(|| length_of(&self.answer[..read]));
        }
        assert_eq!(length, Some(read), "more than one answer");
    }
}

/// The length of an answer, once its head is there.
fn length_of(answer: &[u8]) -> Option<usize> {
    let head = answer.windows(4).position(|end| end == b"\r\n\r\n")?;
    assert!(answer.starts_with(b"HTTP/1.1 200"), "not the page");
    let name = b"content-length: ";
    let mut fields = answer[..head].split(|byte| *byte == b'\n');
    let field = fields.find_map(|field| {
        let (start, value) = field.split_at_checked(name.len())?;
        start.eq_ignore_ascii_case(name).then_some(value)
    });
    let length = str::from_utf8(field?).ok()?.trim().parse::<usize>().ok()?;
    assert_eq!(length, BODY, "not the page");
    Some(head + 4 + length)
}

/// Seconds of the processor that this process has used.
pub(crate) fn cpu() -> f64 {
    seconds(ClockId::ProcessCPUTime)
}

/// Seconds of the processor that another process and its children have used.
pub(crate) fn cpu_of(pid: u32) -> f64 {
    let read = |file: &str| {
        let mut text = String::new();
        let file = std::fs::File::open(format!("/proc/{pid}/{file}"));
        let read = file.and_then(|mut file| file.read_to_string(&mut text));
        read.map_or(String::new(), |_| text)
    };
    let stat = read("stat");
    // The name, in parentheses, may hold anything.
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: f64 = ticks.filter_map(|ticks| ticks.parse::<f64>().ok()).sum();
    let children = read(&format!("task/{pid}/children"));
    let children = children.split_whitespace().filter_map(|it| it.parse().ok());
    ticks / 100.0 + children.map(cpu_of).sum::<f64>()
}

fn seconds(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
