//! E8, E11, E12: bodies that break off, that never end, and that are larger than memory.

use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum_cache::backend::Memory;
use axum_cache::layer::ETags;
use axum_cache::{Cache, CacheLayer, cache_page};
use http_body::{Body as _, Frame};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tower::Layer;

use crate::is_long;
use crate::site::{MINUTE, Site, behind, memory, request, settled, site};
use crate::tools::http::{Channel, Server};

const WHOLE: usize = 1 << 20;
const CHILD: &str = "AXUM_CACHE_TEST_BODIES";

/// How a body ends before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Error,
    /// In silence, though a length was announced.
    Early,
    Panic,
    Clean,
}

/// A body of `length` bytes in parts of different sizes, at its own pace.
struct Broken {
    sent: usize,
    length: usize,
    end: End,
    /// Waits before every part; else all is there at once.
    waits: bool,
    waited: bool,
}

static PATTERN: [u8; WHOLE] = {
    let mut bytes = [0; WHOLE];
    let mut index = 0;
    while index < WHOLE {
        #[allow(
            clippy::cast_possible_truncation,
            reason = "the rest of a division by 251"
        )]
        let byte = (index % 251) as u8;
        bytes[index] = byte;
        index += 1;
    }
    bytes
};

impl http_body::Body for Broken {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.waits && !self.waited {
            self.waited = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.waited = false;
        if self.sent == self.length {
            return match self.end {
                End::Error => {
                    self.end = End::Clean;
                    Poll::Ready(Some(Err(io::Error::other("on purpose"))))
                }
                End::Panic => {
                    self.end = End::Clean;
                    std::panic::resume_unwind(Box::new("on purpose"))
                }
                End::Early | End::Clean => Poll::Ready(None),
            };
        }
        let part = (self.length - self.sent).min(1 + (self.sent * 7 + 13) % 65_536);
        let from = self.sent;
        self.sent += part;
        let data = Bytes::from_static(&PATTERN[from..from + part]);
        Poll::Ready(Some(Ok(Frame::data(data))))
    }
}

fn broken(length: usize, end: End, waits: bool) -> Response {
    let body = Broken {
        sent: 0,
        length,
        end,
        waits,
        waited: false,
    };
    let body = Body::new(body);
    if end == End::Early {
        return ([("content-length", WHOLE.to_string())], body).into_response();
    }
    body.into_response()
}

/// The first answer breaks at `length`; later ones are whole.
fn breaking(memory: &Arc<Memory>, length: usize, end: End, waits: bool) -> Site {
    let runs = Arc::new(AtomicUsize::new(0));
    let router = Router::new().fallback(move || {
        let response = if runs.fetch_add(1, Ordering::SeqCst) == 0 {
            broken(length, end, waits)
        } else {
            broken(WHOLE, End::Clean, waits)
        };
        async move { response }
    });
    let layer = CacheLayer::new(Cache::new(Arc::clone(memory))).etags(ETags::Off);
    behind(&layer, router).0
}

#[derive(Debug, PartialEq, Eq)]
enum Received {
    Whole,
    /// Shorter, and it shows.
    BrokenOff,
    /// Shorter, and nothing shows.
    Short,
}

async fn receive(site: &Site) -> Received {
    let response = tower::ServiceExt::oneshot(site.clone(), request("GET", "/", &[]));
    let response = response.await.unwrap();
    let announced = response.headers().get("content-length").cloned();
    let mut body = response.into_body();
    let mut got = 0;
    loop {
        let next = std::future::poll_fn(|cx| {
            let poll = || Pin::new(&mut body).poll_frame(cx);
            match std::panic::catch_unwind(AssertUnwindSafe(poll)) {
                Ok(polled) => polled.map(Ok),
                Err(panic) => Poll::Ready(Err(panic)),
            }
        });
        match next.await {
            Ok(Some(Ok(frame))) => {
                let data = frame.into_data().unwrap_or_default();
                assert!(PATTERN[got..got + data.len()] == data[..], "another body");
                got += data.len();
            }
            Ok(Some(Err(_))) | Err(_) => return Received::BrokenOff,
            Ok(None) if got == WHOLE => return Received::Whole,
            Ok(None) if announced.is_some_and(|length| length != got.to_string()) => {
                return Received::BrokenOff;
            }
            Ok(None) => return Received::Short,
        }
    }
}

/// What is in a store of pages before there are any: the turn of the tags.
const NO_PAGES: usize = 1;

/// A store for one body: there are thousands of them.
/// One handle, shared: of two, the other could be of a node that has to be told of leases.
fn small() -> Arc<Memory> {
    Arc::new(Memory::builder().max_bytes(4 << 20).build().unwrap())
}

fn sampled(count: usize) -> impl Iterator<Item = usize> {
    // The ends, and positions all over the body that are no multiples of anything.
    let spread = (0..count).map(move |index| (index * WHOLE / count + index * 7919) % WHOLE);
    spread.chain([0, 1, WHOLE - 1])
}

pub(crate) async fn e8_an_aborted_body_is_neither_stored_nor_shared() {
    let positions = if is_long() { 20_000 } else { 2_000 };
    let (start, mut aborted, mut followers) = (Instant::now(), 0, 0);
    for end in [End::Error, End::Early, End::Panic] {
        for (index, position) in sampled(positions).enumerate() {
            let memory = small();
            let site = breaking(&memory, position, end, index % 2 == 0);
            if index % 40 == 0 {
                // Others wait for it meanwhile: they get whole answers of their own.
                let waiting: JoinSet<_> = (0..4)
                    .map(|_| {
                        let site = site.clone();
                        async move { receive(&site).await }
                    })
                    .collect();
                let all = waiting.join_all().await;
                let broken = all
                    .iter()
                    .filter(|got| **got == Received::BrokenOff)
                    .count();
                assert_eq!(broken, 1, "{end:?} at {position}: {all:?}");
                assert!(
                    !all.contains(&Received::Short),
                    "{end:?} at {position}: {all:?}"
                );
                followers += all.len() - 1;
            } else {
                let got = receive(&site).await;
                assert_eq!(got, Received::BrokenOff, "{end:?} at {position}");
                assert_eq!(memory.len(), NO_PAGES, "{end:?} at {position}");
            }
            aborted += 1;
            if index % 40 == 1 {
                let next = receive(&site).await;
                assert_eq!(next, Received::Whole, "{end:?} at {position}");
            }
        }
    }
    // One that ends cleanly is stored: the test can tell.
    for waits in [true, false] {
        let memory = small();
        let site = breaking(&memory, WHOLE, End::Clean, waits);
        assert_eq!(receive(&site).await, Received::Whole);
        let patience = Instant::now();
        while memory.len() == NO_PAGES && patience.elapsed() < Duration::from_secs(20) {
            settled().await;
        }
        assert_eq!(memory.len(), NO_PAGES + 1);
    }
    println!(
        "E8: {aborted} bodies aborted, {followers} others who waited, in {:?}; stored 0, shared 0",
        start.elapsed()
    );
}

/// Reads until the connection ends; the bytes after the head.
async fn raw(host: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(host).await.unwrap();
    let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes));
    drop(read.await.expect("no client hangs"));
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    let end = end.map_or(bytes.len(), |end| end + 4);
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    (head, bytes.split_off(end))
}

pub(crate) async fn e8_clients_see_a_broken_connection() {
    let positions = if is_long() { 300 } else { 30 };
    let mut seen = 0;
    for end in [End::Error, End::Early, End::Panic] {
        for (index, position) in sampled(positions).enumerate() {
            let memory = small();
            let server = Server::start(breaking(&memory, position, end, index % 2 == 0)).await;
            let (head, body) = raw(&server.host).await;
            let is_whole = if head.contains("transfer-encoding: chunked") {
                body.ends_with(b"0\r\n\r\n")
            } else {
                head.contains(&format!("content-length: {}\r\n", body.len()))
            };
            assert!(!is_whole, "{end:?} at {position}: {head}");
            assert_eq!(memory.len(), NO_PAGES, "{end:?} at {position}");
            seen += 1;
        }
    }
    println!("E8: {seen} clients over sockets saw the connection break");
}

/// A body that goes on until its reader goes away: the time of day, every few milliseconds.
fn endless(content_type: &'static str, padding: usize) -> Response {
    let (sender, receiver) = tokio::sync::mpsc::channel::<io::Result<Bytes>>(1);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(8)).await;
            let frame = format!("@{}@{:padding$}\n\n", nanos(), "");
            if sender.send(Ok(Bytes::from(frame))).await.is_err() {
                return;
            }
        }
    });
    (
        [("content-type", content_type)],
        Body::new(Channel(receiver)),
    )
        .into_response()
}

fn nanos() -> u128 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.unwrap().as_nanos()
}

/// How late frames came, sorted.
async fn latencies(host: &str, path: &str, frames: usize) -> Vec<Duration> {
    let mut stream = TcpStream::connect(host).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let (mut late, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
    while late.len() < frames {
        let read = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut buffer));
        let read = read.await.expect("frames arrive").unwrap();
        assert!(read > 0, "the stream ended");
        let now = nanos();
        let text = String::from_utf8_lossy(&buffer[..read]);
        if let Some(made) = text
            .split('@')
            .nth(1)
            .and_then(|made| made.parse::<u128>().ok())
        {
            late.push(Duration::from_nanos(
                u64::try_from(now.saturating_sub(made)).unwrap(),
            ));
        }
    }
    late.sort_unstable();
    late
}

pub(crate) async fn e12_frames_arrive_as_they_are_made() {
    let frames = if is_long() { 1_000 } else { 100 };
    for (content_type, padding) in [
        ("text/event-stream", 0),
        ("text/event-stream; charset=utf-8", 0),
        ("application/x-ndjson", 0),
        // Over the ceiling on its way.
        ("application/x-ndjson", 200),
    ] {
        for (name, layer) in [
            ("site", CacheLayer::new(memory()).max_body_bytes(4096)),
            (
                "page",
                cache_page(MINUTE, memory(), "").max_body_bytes(4096),
            ),
            ("http", CacheLayer::http(memory()).max_body_bytes(4096)),
        ] {
            let router =
                Router::new().fallback(move || async move { endless(content_type, padding) });
            let bare = Server::start(router.clone()).await;
            let server = Server::start(layer.layer(router)).await;
            // A frame that is kept back is late each time; a busy machine is not.
            let mut attempts = 0;
            loop {
                let own = latencies(&bare.host, "/", 10).await;
                let late = latencies(&server.host, "/", frames).await;
                let (median, max) = (late[late.len() / 2], late[late.len() - 1]);
                let uncached = own[own.len() / 2];
                println!(
                    "E12 {name} {content_type} +{padding}: median {median:?}, max {max:?} \
                     (uncached median {uncached:?}); criterion: < 5 ms"
                );
                if median < Duration::from_millis(5) {
                    break;
                }
                attempts += 1;
                assert!(attempts < 5, "{median:?}");
            }
            // Another visitor is not kept waiting by one that has no end.
            let mut others = JoinSet::new();
            for _ in 0..3 {
                let host = server.host.clone();
                others.spawn(async move { latencies(&host, "/", 3).await });
            }
            let others = tokio::time::timeout(Duration::from_secs(60), others.join_all()).await;
            assert!(others.is_ok());
        }
    }
}

/// Answers what it is told, over a protocol of its own.
async fn echo(mut request: Request) -> Response {
    if !request.headers().contains_key("upgrade") {
        return StatusCode::UPGRADE_REQUIRED.into_response();
    }
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let mut stream = TokioIo::new(upgrade.await.unwrap());
        let mut word = [0; 4];
        stream.read_exact(&mut word).await.unwrap();
        word.reverse();
        stream.write_all(&word).await.unwrap();
    });
    let fields = [("connection", "upgrade"), ("upgrade", "echo")];
    (StatusCode::SWITCHING_PROTOCOLS, fields).into_response()
}

pub(crate) async fn e12_an_upgrade_goes_through() {
    let layers = [
        CacheLayer::new(memory()),
        CacheLayer::new(memory()).narrow(),
        cache_page(MINUTE, memory(), ""),
        CacheLayer::http(memory()),
    ];
    for layer in layers {
        let server = Server::start(layer.layer(Router::new().fallback(echo))).await;
        for word in [b"abcd", b"efgh"] {
            let mut stream = TcpStream::connect(&server.host).await.unwrap();
            let request = format!(
                "GET / HTTP/1.1\r\nhost: {}\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n",
                server.host
            );
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            assert!(head.starts_with("HTTP/1.1 101"), "{head}");
            assert!(
                !head.contains("max-age") && !head.contains("stored"),
                "{head}"
            );
            stream.write_all(word).await.unwrap();
            let mut answer = [0; 4];
            stream.read_exact(&mut answer).await.unwrap();
            answer.reverse();
            assert_eq!(&answer, word);
        }
    }
    println!("E12: 8 upgrades through 4 kinds of layers");
}

pub(crate) fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// Runs in a process of its own, whose memory is its own.
pub(crate) async fn e11_large_bodies_cost_no_memory() {
    let run = || {
        let program = std::env::current_exe().unwrap();
        let child = Command::new(program)
            .env(CHILD, "1")
            .stderr(Stdio::inherit())
            .output();
        child.unwrap()
    };
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    print!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success());
}

/// A line of the kernel's account of this process, in bytes.
fn memory_used(name: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .unwrap_or_default();
    let kilobytes = line.trim_matches(|c: char| !c.is_ascii_digit());
    kilobytes.parse().unwrap_or(0) * 1024
}

/// A body of parts that are made when they are asked for.
struct Large {
    left: usize,
}

impl http_body::Body for Large {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        const PART: usize = 1 << 16;
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= PART;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(vec![b'x'; PART])))))
    }
}

pub(crate) async fn child() {
    const CLIENTS: usize = 20;
    // What the sockets and their clients take does not shrink with the bodies.
    let (size, ceiling, slack): (usize, usize, usize) = if is_long() {
        (4 << 30, 64 << 20, 16 << 20)
    } else {
        (512 << 20, 16 << 20, 20 << 20)
    };
    let router = Router::new().fallback(move || async move { Body::new(Large { left: size }) });
    let layer = CacheLayer::new(memory()).max_body_bytes(ceiling);
    let bare = Server::start(router.clone()).await;
    let server = Server::start(layer.layer(router.clone())).await;
    let uncached = first_byte(&bare.host, 1 << 20).await.0;
    let before = memory_used("VmRSS:");
    let start = Instant::now();
    let clients: JoinSet<_> = (0..CLIENTS)
        .map(|_| {
            let host = server.host.clone();
            async move { first_byte(&host, usize::MAX).await }
        })
        .collect();
    let mut times = clients.join_all().await;
    times.sort_unstable();
    let grown = memory_used("VmHWM:").saturating_sub(before);
    for (_, read) in &times {
        assert!(*read >= size, "{read} of {size} bytes");
    }
    println!(
        "E11: {CLIENTS} clients, {} MiB each, ceiling {} MiB: memory grew by {} MiB, criterion \
         < {} MiB; {:?} in all; first byte {:?} to {:?}, uncached {uncached:?}",
        size >> 20,
        ceiling >> 20,
        grown >> 20,
        (ceiling + slack) >> 20,
        start.elapsed(),
        times[0].0,
        times[CLIENTS - 1].0
    );
    assert!(grown < ceiling + slack, "{grown}");
    let after = site(layer.layer(router));
    let seen = tower::ServiceExt::oneshot(
        after,
        request("GET", &format!("http://{}/", server.host), &[]),
    );
    let seen = seen.await.unwrap();
    let status = seen.headers()["cache-status"].to_str().unwrap();
    assert!(status.contains("body-too-large"), "{status}");
}

/// When the first byte came, and how many of `most` there were.
async fn first_byte(host: &str, most: usize) -> (Duration, usize) {
    let start = Instant::now();
    let mut stream = TcpStream::connect(host).await.unwrap();
    let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let (mut first, mut read, mut buffer) = (None, 0, vec![0; 1 << 16]);
    loop {
        let got = stream.read(&mut buffer).await.unwrap_or(0);
        first.get_or_insert_with(|| start.elapsed());
        read += got;
        if got == 0 || read >= most {
            return (first.unwrap(), read);
        }
    }
}
