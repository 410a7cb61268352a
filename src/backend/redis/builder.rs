//! Which servers there are, and how they are reached.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use redis::cluster::ClusterClientBuilder;
use redis::cluster_read_routing::RandomReplicaStrategy;
use redis::io::tcp::TcpSettings;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo, TlsMode,
};
use tokio::sync::Mutex;

use super::lane::{Lane, Source};
use super::recent::Recent;
use super::{Inner, Redis};
use crate::backend::shared::timeout_of;
use crate::error::{Error, Result};

/// Redis takes no larger value.
const MAX_VALUE_BYTES: usize = 512 << 20;

/// How often a cluster's client follows a move or tries another connection.
const CLUSTER_RETRIES: u32 = 5;

/// Options of a [`Redis`] store.
///
/// | URL | means |
/// |---|---|
/// | `redis://user:password@host:6379/0` | a server, with database number; of several, the first is the leader and the others are its replicas |
/// | `rediss://…` | the same by TLS, with the feature `tls` |
/// | `redis+unix:///path/to/socket` | a server by its socket |
/// | `redis+cluster://host:6379`, `rediss+cluster://…` | a cluster, of which one or more nodes are named |
/// | `redis+sentinel://host:26379`, `rediss+sentinel://…` | whatever the sentinels named here say leads the [`service`](Self::service); user, password and database are the server's |
///
/// User, password and database may stand in one URL or in all: they are the same for all servers.
/// Percent-encode what is special in them. Host names are resolved anew for each connection.
#[derive(Clone)]
#[must_use = "a builder does nothing until it is built"]
pub struct RedisBuilder {
    servers: Vec<String>,
    username: Option<String>,
    password: Option<String>,
    db: Option<i64>,
    service: Option<String>,
    sentinel_username: Option<String>,
    sentinel_password: Option<String>,
    connections: usize,
    connect_timeout: Duration,
    operation_timeout: Duration,
    read_from_replicas: bool,
    read_your_writes: Duration,
    max_value_bytes: usize,
    #[cfg(feature = "tls")]
    certificates: Option<redis::TlsCertificates>,
}

/// How the servers belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Topology {
    Servers,
    Cluster,
    Sentinel,
}

impl RedisBuilder {
    pub(super) fn new(servers: Vec<String>) -> Self {
        Self {
            servers,
            username: None,
            password: None,
            db: None,
            service: None,
            sentinel_username: None,
            sentinel_password: None,
            connections: 1,
            connect_timeout: Duration::from_secs(1),
            operation_timeout: Duration::from_millis(500),
            read_from_replicas: false,
            read_your_writes: Duration::from_secs(1),
            max_value_bytes: MAX_VALUE_BYTES,
            #[cfg(feature = "tls")]
            certificates: None,
        }
    }

    /// The user, in the place of the URLs'.
    pub fn username(mut self, username: impl Into<String>) -> Self {
        self.username = Some(username.into());
        self
    }

    /// The password, in the place of the URLs'.
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// The number of the database, in the place of the URLs'; 0 if nobody says.
    pub fn db(mut self, db: i64) -> Self {
        self.db = Some(db);
        self
    }

    /// The name by which sentinels know the servers; `mymaster` unless set.
    pub fn service(mut self, service: impl Into<String>) -> Self {
        self.service = Some(service.into());
        self
    }

    /// User and password of the sentinels themselves; none unless set.
    pub fn sentinel_credentials(
        mut self,
        username: Option<String>,
        password: Option<String>,
    ) -> Self {
        self.sentinel_username = username;
        self.sentinel_password = password;
        self
    }

    /// How many connections the commands to one server share; 1 unless set. Two to four move
    /// values of 16 KiB and more somewhat faster.
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }

    /// The longest that connecting may take; 1 second unless set.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// The longest that an operation may take, connecting and falling back included; 500 ms
    /// unless set.
    pub fn operation_timeout(mut self, timeout: Duration) -> Self {
        self.operation_timeout = timeout;
        self
    }

    /// Whether a cluster, or the servers behind sentinels, answer reads from replicas; not unless
    /// set. Named replicas are always read from.
    pub fn read_from_replicas(mut self, read: bool) -> Self {
        self.read_from_replicas = read;
        self
    }

    /// How long after a write this process reads that key from the leader, while replicas may
    /// lag; 1 second unless set.
    pub fn read_your_writes(mut self, window: Duration) -> Self {
        self.read_your_writes = window;
        self
    }

    /// The largest value; 512 MiB, as Redis has it, unless set.
    pub fn max_value_bytes(mut self, bytes: usize) -> Self {
        self.max_value_bytes = bytes.min(MAX_VALUE_BYTES);
        self
    }

    /// The authority to trust, as PEM; the system's unless set.
    #[cfg(feature = "tls")]
    pub fn root_certificate(mut self, pem: Vec<u8>) -> Self {
        self.certificates = Some(redis::TlsCertificates {
            client_tls: None,
            root_cert: Some(pem),
        });
        self
    }

    /// Makes the store. Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) if no server is named, a URL makes no sense, an
    /// option is zero, or an option is for servers of another kind.
    pub fn build(mut self) -> Result<Redis> {
        if self.connections == 0 {
            return Err(Error::config("connections: must be more than zero"));
        }
        self.connect_timeout = timeout_of("connect_timeout", self.connect_timeout)?;
        self.operation_timeout = timeout_of("operation_timeout", self.operation_timeout)?;
        let mut infos = Vec::with_capacity(self.servers.len());
        let mut topology = None;
        for server in &self.servers {
            let (this, url) = split(server);
            if *topology.get_or_insert(this) != this {
                return Err(Error::config(
                    "location: mixes servers, clusters and sentinels",
                ));
            }
            let info = url.as_str().into_connection_info();
            infos.push(info.map_err(|error| bad_servers(&error))?);
        }
        let Some(topology) = topology else {
            return Err(Error::config("location: names no server"));
        };
        let server = self.server(&infos)?;
        self.refuse_what_is_ignored(topology, &server, &infos)?;
        let infos = infos.into_iter().map(|info| {
            info.set_redis_settings(server.clone())
                .set_tcp_settings(tcp_settings())
        });
        let infos: Vec<_> = infos.collect();
        match topology {
            Topology::Servers => self.servers(infos),
            Topology::Cluster => self.cluster(&infos),
            Topology::Sentinel => self.sentinel(&infos),
        }
    }

    /// User, password and database: said once, they are those of all servers.
    fn server(&self, infos: &[ConnectionInfo]) -> Result<RedisConnectionInfo> {
        let settings = || infos.iter().map(ConnectionInfo::redis_settings);
        let username = one_of("user", settings().filter_map(RedisConnectionInfo::username))?;
        let password = one_of(
            "password",
            settings().filter_map(RedisConnectionInfo::password),
        )?;
        let dbs = settings().map(RedisConnectionInfo::db);
        let db = one_of("database", dbs.filter(|db| *db != 0))?;
        let mut server = RedisConnectionInfo::default()
            .set_lib_name("axum-cache", env!("CARGO_PKG_VERSION"))
            .set_db(self.db.or(db).unwrap_or(0));
        if let Some(username) = self.username.as_deref().or(username) {
            server = server.set_username(username);
        }
        if let Some(password) = self.password.as_deref().or(password) {
            server = server.set_password(password);
        }
        Ok(server)
    }

    fn refuse_what_is_ignored(
        &self,
        topology: Topology,
        server: &RedisConnectionInfo,
        infos: &[ConnectionInfo],
    ) -> Result<()> {
        let is_tls = |info: &ConnectionInfo| matches!(info.addr(), ConnectionAddr::TcpTls { .. });
        let of_sentinels = self.service.is_some()
            || self.sentinel_username.is_some()
            || self.sentinel_password.is_some();
        #[cfg(feature = "tls")]
        let has_certificate = self.certificates.is_some();
        #[cfg(not(feature = "tls"))]
        let has_certificate = false;
        let reason = if !infos.iter().all(|info| info.addr().is_supported()) {
            "location: needs the feature `tls` of axum-cache"
        } else if topology == Topology::Cluster && server.db() != 0 {
            "db: a cluster has database 0 only"
        } else if topology != Topology::Sentinel && of_sentinels {
            "service: and sentinel_* are for sentinels"
        } else if topology == Topology::Servers && self.read_from_replicas {
            "read_from_replicas: is for clusters and sentinels; name the replicas"
        } else if has_certificate && !infos.iter().any(is_tls) {
            "root_certificate: is for TLS, as by rediss://"
        } else {
            return Ok(());
        };
        Err(Error::config(reason))
    }

    pub(super) fn finish(
        self,
        leader: Vec<Lane>,
        replicas: Vec<Vec<Lane>>,
        is_cluster: bool,
    ) -> Redis {
        let history = Arc::default();
        let leader = leader.into_iter().map(|lane| lane.telling(&history));
        Redis {
            inner: Arc::new(Inner {
                leader: leader.collect(),
                is_cluster,
                history,
                recent: (!replicas.is_empty()).then(|| Recent::new(self.read_your_writes)),
                replicas,
                operation_timeout: self.operation_timeout,
                max_value_bytes: self.max_value_bytes,
                turn: AtomicUsize::new(0),
            }),
        }
    }

    fn servers(self, infos: Vec<ConnectionInfo>) -> Result<Redis> {
        let mut servers = Vec::with_capacity(infos.len());
        for info in infos {
            let client = Arc::new(self.client(info)?);
            servers.push(self.lanes(|| Ok(Source::Server(Arc::clone(&client))))?);
        }
        let leader = servers.remove(0);
        Ok(self.finish(leader, servers, false))
    }

    fn cluster(self, infos: &[ConnectionInfo]) -> Result<Redis> {
        let client = |from_replicas: bool| {
            // One node that hangs must not use up the time of all.
            let connect_timeout = self.connect_timeout.min(self.operation_timeout) / 3;
            let builder = ClusterClientBuilder::new(infos.iter().cloned())
                .connection_timeout(connect_timeout)
                .overall_response_timeout(None)
                .retries(CLUSTER_RETRIES)
                .tcp_settings(tcp_settings());
            #[cfg(feature = "tls")]
            let builder = match self.certificates.clone() {
                Some(certificates) => builder.certs(certificates),
                None => builder,
            };
            let builder = if from_replicas {
                builder.read_routing_strategy(RandomReplicaStrategy)
            } else {
                builder
            };
            let client = builder.build().map_err(|error| bad_servers(&error))?;
            let client = Arc::new(client);
            let timeout = self.operation_timeout / 2;
            self.lanes(|| Ok(Source::Cluster(Arc::clone(&client), timeout)))
        };
        let leader = client(false)?;
        let replicas = if self.read_from_replicas {
            vec![client(true)?]
        } else {
            Vec::new()
        };
        Ok(self.finish(leader, replicas, true))
    }

    fn sentinel(self, infos: &[ConnectionInfo]) -> Result<Redis> {
        let source = |of: fn() -> SentinelServerType| {
            let clients = infos.iter().map(|info| {
                let client = self.sentinel_client(info, of())?;
                Ok(Mutex::new(client))
            });
            let clients: Result<Arc<[_]>> = clients.collect();
            clients.map(Source::Sentinels)
        };
        let leader = self.lanes(|| source(|| SentinelServerType::Master))?;
        let replicas = if self.read_from_replicas {
            vec![self.lanes(|| source(|| SentinelServerType::Replica))?]
        } else {
            Vec::new()
        };
        Ok(self.finish(leader, replicas, false))
    }

    /// Asks one sentinel.
    fn sentinel_client(
        &self,
        info: &ConnectionInfo,
        of: SentinelServerType,
    ) -> Result<SentinelClient> {
        let service = self.service.as_deref().unwrap_or("mymaster");
        let builder = SentinelClientBuilder::new([info.addr().clone()], service, of);
        let server = info.redis_settings();
        let mut builder = builder
            .map_err(|error| bad_servers(&error))?
            .set_client_to_redis_tcp_settings(tcp_settings())
            .set_client_to_redis_db(server.db());
        if let Some(username) = server.username() {
            builder = builder.set_client_to_redis_username(username);
        }
        if let Some(password) = server.password() {
            builder = builder.set_client_to_redis_password(password);
        }
        if matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
            builder = builder
                .set_client_to_redis_tls_mode(TlsMode::Secure)
                .set_client_to_sentinel_tls_mode(TlsMode::Secure);
        }
        if let Some(username) = &self.sentinel_username {
            builder = builder.set_client_to_sentinel_username(username);
        }
        if let Some(password) = &self.sentinel_password {
            builder = builder.set_client_to_sentinel_password(password);
        }
        #[cfg(feature = "tls")]
        if let Some(certificates) = &self.certificates {
            builder = builder
                .set_client_to_redis_certificates(certificates.clone())
                .set_client_to_sentinel_certificates(certificates.clone());
        }
        builder.build().map_err(|error| bad_servers(&error))
    }

    fn lanes(&self, source: impl Fn() -> Result<Source>) -> Result<Vec<Lane>> {
        let lane = |_| Ok(Lane::new(source()?, self.connect_timeout));
        (0..self.connections).map(lane).collect()
    }

    fn client(&self, info: ConnectionInfo) -> Result<Client> {
        #[cfg(feature = "tls")]
        if let Some(certificates) = &self.certificates
            && matches!(info.addr(), ConnectionAddr::TcpTls { .. })
        {
            return Client::build_with_tls(info, certificates.clone())
                .map_err(|error| bad_servers(&error));
        }
        Client::open(info).map_err(|error| bad_servers(&error))
    }
}

/// The client of one server, or of one node of a cluster.
pub(super) fn client_of(url: &str) -> Result<Client> {
    let (topology, url) = split(url);
    if topology == Topology::Sentinel {
        return Err(Error::config("url: names sentinels; name the server"));
    }
    let info = url.as_str().into_connection_info();
    let info = info.map_err(|error| bad_servers(&error))?;
    if !info.addr().is_supported() {
        return Err(Error::config("url: needs the feature `tls` of axum-cache"));
    }
    Client::open(info.set_tcp_settings(tcp_settings())).map_err(|error| bad_servers(&error))
}

/// The topology that the scheme asks for, and a URL that the client understands.
fn split(server: &str) -> (Topology, String) {
    for (mark, topology) in [
        ("+cluster://", Topology::Cluster),
        ("+sentinel://", Topology::Sentinel),
    ] {
        if let Some((scheme, rest)) = server.split_once(mark) {
            return (topology, format!("{scheme}://{rest}"));
        }
    }
    (Topology::Servers, server.to_owned())
}

/// The one that is said, if all who say anything say the same.
fn one_of<T: PartialEq>(what: &str, mut said: impl Iterator<Item = T>) -> Result<Option<T>> {
    let Some(first) = said.next() else {
        return Ok(None);
    };
    if said.all(|other| other == first) {
        return Ok(Some(first));
    }
    Err(Error::config(format!(
        "location: the servers differ in their {what}"
    )))
}

fn tcp_settings() -> TcpSettings {
    TcpSettings::default().set_nodelay(true)
}

/// The client's error is left out: it may hold the URL, and that a password.
fn bad_servers(error: &redis::RedisError) -> Error {
    let hint = if cfg!(feature = "tls") {
        ""
    } else {
        "; over TLS it needs the feature tls of axum-cache"
    };
    let category = error.category();
    Error::config(format!("location: no Redis can be there: {category}{hint}"))
}

/// Shows neither servers nor credentials: URLs may hold secrets.
impl fmt::Debug for RedisBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBuilder")
            .field("servers", &self.servers.len())
            .field("connections", &self.connections)
            .field("connect_timeout", &self.connect_timeout)
            .field("operation_timeout", &self.operation_timeout)
            .finish_non_exhaustive()
    }
}
