//! A machine between client and server on which a network has its faults: late, reset, silent, cut off.
#![allow(dead_code, reason = "no test binary has every fault")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

/// Ends with its last handle.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    lines: Arc<Lines>,
    task: JoinHandle<()>,
}

struct Lines {
    /// Where new ones lead.
    to: AtomicU16,
    made: AtomicUsize,
    /// The lines that were made before so many lead nowhere.
    forgotten: AtomicUsize,
    /// So many pieces of answers are passed on yet.
    answers: AtomicUsize,
    /// After so many bytes of answers each line is cut.
    bytes: AtomicUsize,
    /// Of each piece of an answer.
    late_millis: AtomicU64,
    /// New lines are reset at once.
    refuses: AtomicBool,
    reset: Notify,
    /// Pieces of requests that led nowhere.
    lost: AtomicUsize,
}

impl Proxy {
    /// In front of this port.
    pub(crate) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let lines = Arc::new(Lines {
            to: AtomicU16::new(port),
            made: AtomicUsize::new(0),
            forgotten: AtomicUsize::new(0),
            answers: AtomicUsize::new(usize::MAX),
            bytes: AtomicUsize::new(usize::MAX),
            late_millis: AtomicU64::new(0),
            refuses: AtomicBool::new(false),
            reset: Notify::new(),
            lost: AtomicUsize::new(0),
        });
        let known = Arc::clone(&lines);
        let task = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let number = known.made.fetch_add(1, Ordering::SeqCst);
                let port = known.to.load(Ordering::SeqCst);
                tokio::spawn(line(client, port, number, Arc::clone(&known)));
            }
        });
        Self {
            port: own,
            lines,
            task,
        }
    }

    /// Forgets the connections there are: nothing goes through, and nobody is told.
    pub(crate) fn forget(&self) {
        let made = self.lines.made.load(Ordering::SeqCst);
        self.lines.forgotten.store(made, Ordering::SeqCst);
    }

    /// Forgets all connections, and each new one at once.
    pub(crate) fn forget_all(&self) {
        self.lines.forgotten.store(usize::MAX, Ordering::SeqCst);
    }

    /// Passes on so many pieces of answers, and loses what comes then.
    pub(crate) fn lose_answers_after(&self, pieces: usize) {
        self.lines.answers.store(pieces, Ordering::SeqCst);
    }

    /// Cuts each line after so many bytes of answers.
    pub(crate) fn cut_after(&self, bytes: usize) {
        self.lines.bytes.store(bytes, Ordering::SeqCst);
    }

    /// Passes on each piece of an answer so much later.
    pub(crate) fn delay(&self, delay: Duration) {
        let millis = u64::try_from(delay.as_millis()).unwrap();
        self.lines.late_millis.store(millis, Ordering::SeqCst);
    }

    /// Resets the connections there are, and each new one at once.
    pub(crate) fn reset_all(&self) {
        self.lines.refuses.store(true, Ordering::SeqCst);
        self.reset();
    }

    /// Resets no new connections any more.
    pub(crate) fn accept(&self) {
        self.lines.refuses.store(false, Ordering::SeqCst);
    }

    /// Resets the connections there are.
    pub(crate) fn reset(&self) {
        self.lines.reset.notify_waiters();
    }

    /// New connections are without a fault; those that were forgotten stay so.
    pub(crate) fn heal(&self) {
        self.forget();
        self.lines.refuses.store(false, Ordering::SeqCst);
        self.delay(Duration::ZERO);
        self.cut_after(usize::MAX);
        self.lose_answers_after(usize::MAX);
    }

    /// Lets new connections lead to this port, and resets those there are.
    pub(crate) fn lead_to(&self, port: u16) {
        self.lines.to.store(port, Ordering::SeqCst);
        self.reset();
    }

    /// How many connections there were.
    pub(crate) fn made(&self) -> usize {
        self.lines.made.load(Ordering::SeqCst)
    }

    /// How many pieces of requests led nowhere, since the last time this was asked.
    pub(crate) fn take_lost(&self) -> usize {
        self.lines.lost.swap(0, Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Lines {
    fn is_forgotten(&self, number: usize) -> bool {
        number < self.forgotten.load(Ordering::SeqCst)
    }
}

async fn line(mut client: TcpStream, port: u16, number: usize, lines: Arc<Lines>) {
    let reset = lines.reset.notified();
    let server = TcpStream::connect(("127.0.0.1", port)).await;
    let is_refused = lines.refuses.load(Ordering::SeqCst);
    if let Ok(mut server) = server
        && !is_refused
    {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let is_over = tokio::select! {
            () = requests(from_client, to_server, number, &lines) => true,
            () = answers(from_server, to_client, number, &lines) => true,
            () = reset => false,
        };
        if is_over {
            return;
        }
    }
    // What is closed so is reset.
    let _ = client.set_zero_linger();
}

async fn requests(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, number: usize, lines: &Lines) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let read = from.read(&mut buffer).await;
        if lines.is_forgotten(number) {
            if !matches!(read, Ok(1..)) {
                // The server does not hear of it, but for a long test to end with what it began with.
                sleep(Duration::from_secs(10)).await;
                return;
            }
            lines.lost.fetch_add(1, Ordering::SeqCst);
            continue;
        }
        let Ok(length @ 1..) = read else {
            return;
        };
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

async fn answers(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, number: usize, lines: &Lines) {
    // Pieces that are late are so side by side.
    let (sender, mut receiver) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let reading = async move {
        let mut buffer = vec![0; 16 << 10];
        let left = |left: usize| match left {
            usize::MAX => Some(left),
            left => left.checked_sub(1),
        };
        loop {
            let read = from.read(&mut buffer).await;
            if lines.is_forgotten(number) {
                // Neither passed on nor closed.
                never().await;
            }
            let Ok(length @ 1..) = read else {
                return;
            };
            let passed = lines
                .answers
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, left);
            if passed.is_err() {
                continue;
            }
            let late = Duration::from_millis(lines.late_millis.load(Ordering::SeqCst));
            let _ = sender.send((Instant::now() + late, buffer[..length].to_vec()));
        }
    };
    let writing = async move {
        let mut sent = 0;
        while let Some((due, piece)) = receiver.recv().await {
            if due > Instant::now() {
                sleep_until(due).await;
            }
            let most = lines.bytes.load(Ordering::SeqCst).saturating_sub(sent);
            let length = piece.len().min(most);
            if to.write_all(&piece[..length]).await.is_err() || length < piece.len() {
                return;
            }
            sent += length;
        }
    };
    tokio::select! {
        () = reading => {}
        () = writing => {}
    }
}

async fn never() {
    sleep(Duration::from_secs(3600)).await;
}
