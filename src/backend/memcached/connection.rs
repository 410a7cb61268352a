//! A connection over which the requests of all tasks are pipelined.
//!
//! # Invariant
//!
//! Replies go to requests in the order in which the requests were written. A caller that is gone
//! leaves its place in that order: its reply is read and thrown away, so the next caller gets its
//! own.

use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use percent_encoding::percent_decode_str;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use super::protocol::{Batch, Reply, refused, take};
use crate::backend::shared::{Connected, Failure};
use crate::error::{Error, ErrorKind, Result};

/// How many requests may wait to be written.
const QUEUE: usize = 128;

/// Room for the next read.
const READ_BYTES: usize = 16 << 10;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// Host and port.
    Tcp(String, u16),
    #[cfg(unix)]
    Unix(std::path::PathBuf),
}

/// User and password.
#[derive(Clone)]
pub(super) struct Credentials {
    pub(super) username: String,
    pub(super) password: String,
}

#[derive(Clone, Debug)]
pub(super) struct Connection {
    orders: mpsc::Sender<Order>,
    tasks: Arc<Tasks>,
}

/// What writes and reads. Both may wait for a server that hangs, so they are ended with the last
/// handle of their connection.
#[derive(Debug)]
struct Tasks([AbortHandle; 2]);

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

#[derive(Debug)]
struct Order {
    batch: Batch,
    answer: oneshot::Sender<Vec<Reply>>,
}

/// A request that was written.
struct Waiting {
    replies: usize,
    answer: oneshot::Sender<Vec<Reply>>,
}

impl Connection {
    pub(super) async fn open(address: Address, credentials: Option<Credentials>) -> Result<Self> {
        let connection = match address {
            Address::Tcp(host, port) => {
                let stream = TcpStream::connect((host.as_str(), port)).await;
                let stream = stream.map_err(unreachable)?;
                stream.set_nodelay(true).map_err(unreachable)?;
                let (read, write) = stream.into_split();
                Self::over(read, write)
            }
            #[cfg(unix)]
            Address::Unix(path) => {
                let stream = tokio::net::UnixStream::connect(path).await;
                let (read, write) = stream.map_err(unreachable)?.into_split();
                Self::over(read, write)
            }
        };
        if let Some(credentials) = credentials {
            connection.clone().authenticate(&credentials).await?;
        }
        Ok(connection)
    }

    fn over<R, W>(read: R, write: W) -> Self
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let (orders, ordered) = mpsc::channel(QUEUE);
        let (written, waiting) = mpsc::unbounded_channel();
        let tasks = [
            tokio::spawn(write_requests(write, ordered, written)).abort_handle(),
            tokio::spawn(read_replies(read, waiting)).abort_handle(),
        ];
        Self {
            orders,
            tasks: Arc::new(Tasks(tasks)),
        }
    }

    /// The replies to `batch`.
    pub(super) async fn call(self, batch: Batch) -> Result<Vec<Reply>, Failure> {
        let (answer, answered) = oneshot::channel();
        let order = Order { batch, answer };
        let sent = self.orders.send(order).await;
        sent.map_err(|_| lost(closed()))?;
        let replies = answered.await.map_err(|_| lost(closed()))?;
        match replies.last() {
            Some(reply @ Reply::Error(line)) if reply.is_confusion() => Err(lost(refused(line))),
            _ => Ok(replies),
        }
    }

    /// The text protocol takes user and password as the value of a `set`.
    async fn authenticate(self, credentials: &Credentials) -> Result<()> {
        let value = format!("{} {}", credentials.username, credentials.password);
        let mut batch = Batch::default();
        let length = value.len();
        batch.push(
            format_args!("set auth 0 0 {length}"),
            Some(value.as_bytes()),
        );
        match self.call(batch).await {
            Ok(replies) if matches!(replies.as_slice(), [Reply::Done(_)]) => Ok(()),
            Ok(_) => Err(Error::new(ErrorKind::Unavailable)
                .with_message("the server refused user and password")),
            Err(failure) => Err(failure.error),
        }
    }
}

impl Connected for Connection {
    fn ended(&self) -> Option<Failure> {
        let Tasks(tasks) = &*self.tasks;
        let has_ended = tasks.iter().any(AbortHandle::is_finished);
        has_ended.then(|| lost(closed()))
    }
}

async fn write_requests(
    mut write: impl AsyncWrite + Unpin,
    mut orders: mpsc::Receiver<Order>,
    written: mpsc::UnboundedSender<Waiting>,
) {
    let (mut batch, mut bytes) = (Vec::new(), Vec::new());
    while orders.recv_many(&mut batch, QUEUE).await > 0 {
        for Order { batch, answer } in batch.drain(..) {
            // Nobody waits any more, and nothing was written yet.
            if answer.is_closed() {
                continue;
            }
            bytes.extend_from_slice(&batch.bytes);
            let replies = batch.replies;
            if written.send(Waiting { replies, answer }).is_err() {
                return;
            }
        }
        if write.write_all(&bytes).await.is_err() {
            return;
        }
        bytes.clear();
        bytes.shrink_to(1 << 20);
    }
}

/// Ends, and with it the connection, at the first byte that cannot be understood.
async fn read_replies(
    mut read: impl AsyncRead + Unpin,
    mut waiting: mpsc::UnboundedReceiver<Waiting>,
) {
    let mut input = BytesMut::new();
    while let Some(Waiting { replies, answer }) = waiting.recv().await {
        let mut taken = Vec::with_capacity(replies);
        while taken.len() < replies {
            match take(&mut input) {
                Ok(Some(reply)) if reply.is_confusion() => {
                    taken.push(reply);
                    let _ = answer.send(taken);
                    return;
                }
                Ok(Some(reply)) => taken.push(reply),
                Ok(None) => {
                    input.reserve(READ_BYTES);
                    if !matches!(read.read_buf(&mut input).await, Ok(1..)) {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
        // The caller may be gone.
        let _ = answer.send(taken);
    }
}

fn lost(error: Error) -> Failure {
    Failure {
        error,
        is_lost: true,
    }
}

fn unreachable(error: io::Error) -> Error {
    Error::new(ErrorKind::Unavailable).with_source(error)
}

fn closed() -> Error {
    Error::new(ErrorKind::Unavailable).with_message("the connection was closed")
}

/// A server as the settings name it: `memcached://user:password@host:11211`,
/// `memcached+unix:///path`, or, as in Django, `unix:/path` or `host:11211`.
pub(super) fn parse(server: &str) -> Result<(Address, Option<Credentials>), &'static str> {
    let (scheme, rest) = server.split_once("://").unwrap_or(("memcached", server));
    let path = match scheme {
        "memcached+unix" => Some(rest),
        "memcached" => rest.strip_prefix("unix:"),
        _ => return Err("has a scheme that is not Memcached's"),
    };
    match path {
        #[cfg(unix)]
        Some(path) if !path.is_empty() => return Ok((Address::Unix(decode(path)?.into()), None)),
        Some(_) => return Err("names no socket"),
        None => {}
    }
    let Some((user, place)) = rest.rsplit_once('@') else {
        return Ok((tcp(rest)?, None));
    };
    let (username, password) = user.split_once(':').ok_or("has a user, but no password")?;
    let credentials = Credentials {
        username: decode(username)?,
        password: decode(password)?,
    };
    Ok((tcp(place)?, Some(credentials)))
}

fn tcp(place: &str) -> Result<Address, &'static str> {
    const PORT: u16 = 11211;
    let place = place.trim_end_matches('/');
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or("has a `[` without `]`")?;
            (host, port.strip_prefix(':'))
        }
        None => match place.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        },
    };
    if host.is_empty() {
        return Err("names no host");
    }
    let port = port.map_or(Ok(PORT), |port| port.parse().map_err(|_| "has a bad port"))?;
    Ok(Address::Tcp(host.to_owned(), port))
}

fn decode(text: &str) -> Result<String, &'static str> {
    let decoded = percent_decode_str(text).decode_utf8();
    Ok(decoded.map_err(|_| "is not UTF-8")?.into_owned())
}
