//! Which servers there are, and how they are reached.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ketama::RingBuilder;

use super::connection::{Credentials, parse};
use super::node::Node;
use super::{Inner, Memcached};
use crate::backend::shared::timeout_of;
use crate::error::{Error, Result};

/// The largest item that a server takes, unless it was told otherwise by `-I`: key and
/// bookkeeping included.
const MAX_VALUE_BYTES: usize = 1 << 20;

/// Options of a [`Memcached`] store. Host names are resolved anew for each connection.
///
/// A server is written as `memcached://host:11211`, with `user:password@` before the host where it
/// has an authentication file; as `host:11211`; or as `memcached+unix:///path` or `unix:/path` for
/// a socket.
#[derive(Clone)]
#[must_use = "a builder does nothing until it is built"]
pub struct MemcachedBuilder {
    servers: Vec<String>,
    credentials: Option<Credentials>,
    connections: usize,
    connect_timeout: Duration,
    operation_timeout: Duration,
    max_value_bytes: usize,
}

impl MemcachedBuilder {
    pub(super) fn new(servers: Vec<String>) -> Self {
        Self {
            servers,
            credentials: None,
            connections: 1,
            connect_timeout: Duration::from_secs(1),
            operation_timeout: Duration::from_millis(500),
            max_value_bytes: MAX_VALUE_BYTES,
        }
    }

    /// User and password for servers whose URL has none; those of another server's URL unless set.
    /// The servers must have been started with an authentication file (`-Y`).
    pub fn credentials(mut self, username: impl Into<String>, password: impl Into<String>) -> Self {
        self.credentials = Some(Credentials {
            username: username.into(),
            password: password.into(),
        });
        self
    }

    /// How many connections the requests to one server share; 1 unless set. More keep small
    /// values from waiting behind large ones.
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }

    /// The longest that connecting may take; 1 second unless set.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// The longest that an operation may take, connecting included; 500 ms unless set.
    pub fn operation_timeout(mut self, timeout: Duration) -> Self {
        self.operation_timeout = timeout;
        self
    }

    /// The largest value to send; 1 MiB unless set. The servers' own limit (`-I`) holds, too.
    pub fn max_value_bytes(mut self, bytes: usize) -> Self {
        self.max_value_bytes = bytes;
        self
    }

    /// Makes the store. Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) if no server is named, one is named twice or makes no
    /// sense, or an option is zero.
    pub fn build(self) -> Result<Memcached> {
        if self.connections == 0 {
            return Err(Error::config("connections: must be more than zero"));
        }
        let connect_timeout = timeout_of("connect_timeout", self.connect_timeout)?;
        let operation_timeout = timeout_of("operation_timeout", self.operation_timeout)?;
        let mut nodes = Vec::with_capacity(self.servers.len());
        let mut ring = RingBuilder::new();
        let mut identities = Vec::with_capacity(self.servers.len());
        let parsed = self.servers.iter().map(|server| {
            parse(server).map_err(|reason| Error::config(format!("location: a server {reason}")))
        });
        let parsed: Vec<_> = parsed.collect::<Result<_>>()?;
        let said = parsed
            .iter()
            .find_map(|(_, credentials)| credentials.clone());
        let said = self.credentials.or(said);
        for (address, credentials) in parsed {
            let credentials = credentials.or_else(|| said.clone());
            let node = Node::new(address, credentials, self.connections, connect_timeout);
            let identity = node.identity();
            if identities.contains(&identity) {
                return Err(Error::config("location: names a server twice"));
            }
            ring = ring.node(&identity, 1);
            identities.push(identity);
            nodes.push(node);
        }
        if nodes.is_empty() || nodes.len() > usize::from(u16::MAX) {
            return Err(Error::config("location: names no server, or too many"));
        }
        Ok(Memcached {
            inner: Arc::new(Inner {
                nodes,
                ring: ring.build(),
                operation_timeout,
                max_value_bytes: self.max_value_bytes,
            }),
        })
    }
}

/// Shows neither servers nor credentials: URLs may hold secrets.
impl fmt::Debug for MemcachedBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemcachedBuilder")
            .field("servers", &self.servers.len())
            .field("connections", &self.connections)
            .field("connect_timeout", &self.connect_timeout)
            .field("operation_timeout", &self.operation_timeout)
            .finish_non_exhaustive()
    }
}
