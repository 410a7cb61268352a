//! A real server on a free loopback port, and a client that shows the bytes.

use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tower::Service;

/// A server that is stopped when this is dropped.
pub(crate) struct Server {
    pub(crate) host: String,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    /// Serves any service as a router does.
    pub(crate) async fn start<S>(service: S) -> Self
    where
        S: Service<axum::extract::Request, Error = std::convert::Infallible>
            + Clone
            + Send
            + Sync
            + 'static,
        S::Response: axum::response::IntoResponse,
        S::Future: Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let router = Router::new().fallback_service(service);
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { host, task }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[]).await
    }

    pub(crate) async fn send(&self, method: &str, path: &str, fields: &[&str]) -> Answer {
        let host = format!("host: {}", self.host);
        self.send_raw(method, path, &[&[host.as_str()], fields].concat())
            .await
    }

    pub(crate) async fn send_raw(&self, method: &str, path: &str, fields: &[&str]) -> Answer {
        let mut stream = TcpStream::connect(&self.host).await.unwrap();
        let fields = [fields, &[""]].concat().join("\r\n");
        let request = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n{fields}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        let read = stream.read_to_end(&mut bytes);
        let read = tokio::time::timeout(Duration::from_secs(20), read).await;
        // A connection that breaks off leaves what came before.
        drop(read.expect("an answer in time"));
        Answer::parse(&bytes)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A response as it came over the wire.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    fields: Vec<(String, String)>,
    /// As sent: chunked or not.
    pub(crate) body: Vec<u8>,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Self {
        let end = bytes
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .unwrap();
        let head = std::str::from_utf8(&bytes[..end]).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap();
        let fields = lines.map(|line| line.split_once(':').unwrap());
        Self {
            status: status.parse().unwrap(),
            fields: fields
                .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
                .collect(),
            body: bytes[end + 4..].to_vec(),
        }
    }

    /// All lines of a field, joined.
    pub(crate) fn field(&self, name: &str) -> Option<String> {
        let lines: Vec<_> = self
            .fields
            .iter()
            .filter(|field| field.0 == name)
            .map(|field| field.1.as_str())
            .collect();
        (!lines.is_empty()).then(|| lines.join(", "))
    }

    pub(crate) fn cache_status(&self) -> String {
        self.field("cache-status").unwrap_or_default()
    }

    pub(crate) fn is_hit(&self) -> bool {
        self.cache_status().contains("; hit")
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// A body of parts that come through a channel.
pub(crate) struct Channel<E>(pub(crate) mpsc::Receiver<Result<Bytes, E>>);

impl<E> http_body::Body for Channel<E> {
    type Data = Bytes;
    type Error = E;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, E>>> {
        self.0
            .poll_recv(cx)
            .map(|part| part.map(|part| part.map(http_body::Frame::data)))
    }
}
