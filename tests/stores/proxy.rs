//! A machine between client and server that can forget connections, or lose what is answered: nothing goes
//! through, and nobody is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// Ends with its last handle.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    lines: Arc<Lines>,
    task: JoinHandle<()>,
}

struct Lines {
    made: AtomicUsize,
    /// The lines that were made before so many lead nowhere.
    forgotten: AtomicUsize,
    /// So many pieces of answers are passed on yet.
    answers: AtomicUsize,
}

impl Proxy {
    /// In front of this port.
    pub(crate) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let lines = Arc::new(Lines {
            made: AtomicUsize::new(0),
            forgotten: AtomicUsize::new(0),
            answers: AtomicUsize::new(usize::MAX),
        });
        let known = Arc::clone(&lines);
        let task = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let number = known.made.fetch_add(1, Ordering::SeqCst);
                let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                let lines = [(); 2].map(|()| Arc::clone(&known));
                let [lines, of_answers] = lines;
                tokio::spawn(pass(from_client, to_server, number, lines, false));
                tokio::spawn(pass(from_server, to_client, number, of_answers, true));
            }
        });
        Self {
            port: own,
            lines,
            task,
        }
    }

    /// Forgets the connections there are.
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
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    number: usize,
    lines: Arc<Lines>,
    is_answer: bool,
) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let read = from.read(&mut buffer).await;
        if number < lines.forgotten.load(Ordering::SeqCst) {
            // Neither passed on nor closed, for ever.
            sleep(Duration::from_secs(3600)).await;
        }
        let Ok(length @ 1..) = read else {
            return;
        };
        if is_answer {
            let left = |left: usize| match left {
                usize::MAX => Some(left),
                left => left.checked_sub(1),
            };
            let answers = &lines.answers;
            let passed = answers.fetch_update(Ordering::SeqCst, Ordering::SeqCst, left);
            if passed.is_err() {
                continue;
            }
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
