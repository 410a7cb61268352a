//! Hits over Redis, Memcached and `SQLite` in one process, against plain reads of what is stored.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum_cache::backend::{Backend, Memcached, Redis, Sql};
use axum_cache::key::Key;
use axum_cache::{Cache, CacheLayer};
use bytes::Buf;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri};
use http_body::Body as _;
use redis::AsyncCommands as _;
use redis::aio::MultiplexedConnection;
use tokio::task::JoinSet;
use tower::ServiceExt as _;

use super::site::{self, BODY, FIELDS, Site, path};
use super::support::servers;
use super::{is_wanted, median};

const PAGES: usize = 64;
const ROUNDS: usize = 9;
const ROUND: Duration = Duration::from_millis(100);

static HEADERS: LazyLock<HeaderMap> = LazyLock::new(|| {
    let fields = FIELDS.iter().map(|(name, value)| {
        let name = HeaderName::from_static(name);
        (name, HeaderValue::from_static(value))
    });
    fields.collect()
});

/// A cache, and the server behind it.
pub(crate) struct Store {
    pub(crate) layer_name: &'static str,
    pub(crate) cache: Cache,
    pub(crate) pid: Option<u32>,
    backing: Backing,
}

#[derive(Clone)]
enum Backing {
    Redis(Redis),
    Memcached(Memcached),
    Sqlite(Sql),
}

impl Backing {
    fn cache(&self) -> Cache {
        match self.clone() {
            Self::Redis(store) => Cache::new(store),
            Self::Memcached(store) => Cache::new(store),
            Self::Sqlite(store) => Cache::new(store),
        }
    }

    /// Name of a plain read, and of a hit through the layer.
    fn names(&self) -> (&'static str, &'static str) {
        match self {
            Self::Redis(_) => ("Redis, Backend::get", "layer, Redis"),
            Self::Memcached(_) => ("Memcached, Backend::get", "layer, Memcached"),
            Self::Sqlite(_) => ("SQLite, Backend::get", "layer, SQLite"),
        }
    }
}

/// Those that are installed.
pub(crate) struct Stores {
    pub(crate) all: Vec<Store>,
    redis: Option<servers::redis::Redis>,
    /// Ends with the others.
    _memcached: Option<servers::memcached::Memcached>,
    _file: tempfile::TempDir,
}

impl Stores {
    pub(crate) async fn start() -> Self {
        let redis = servers::redis::Redis::start(&[]);
        let memcached = servers::memcached::Memcached::start(&[]);
        let file = tempfile::tempdir().unwrap();
        let mut all = Vec::new();
        let store = |backing: Backing, pid| Store {
            layer_name: backing.names().1,
            cache: backing.cache(),
            pid,
            backing,
        };
        if let Some(server) = &redis {
            let backend = Redis::connect(&server.url()).unwrap();
            let pid = Some(server.server.pid());
            all.push(store(Backing::Redis(backend), pid));
        }
        if let Some(server) = &memcached {
            let backend = Memcached::connect([server.url()]).unwrap();
            let pid = Some(server.server.pid());
            all.push(store(Backing::Memcached(backend), pid));
        }
        let sqlite = Sql::sqlite(file.path().join("pages.db")).build().unwrap();
        sqlite.create_table().await.unwrap();
        all.push(store(Backing::Sqlite(sqlite), None));
        Self {
            all,
            redis,
            _memcached: memcached,
            _file: file,
        }
    }

    /// Prints what the layer takes of the throughput of each.
    pub(crate) async fn measure(&self) {
        println!();
        println!(
            "{:<38}{:>9}{:>9}     ratios    us cpu, 256",
            "hits in process, tasks:", 32, 256
        );
        for store in &self.all {
            let bare = match (&self.redis, &store.backing) {
                (Some(server), Backing::Redis(_)) => {
                    let client = redis::Client::open(server.url()).unwrap();
                    Some(client.get_multiplexed_async_connection().await.unwrap())
                }
                _ => None,
            };
            store.measure(bare).await;
        }
        if let Some(server) = &self.redis {
            let site = site::layered(self.all[0].cache.clone());
            count_commands(server.port, site).await;
        }
    }
}

/// How a page is read.
enum Way {
    /// By the bare client.
    Bare(MultiplexedConnection),
    Backend,
    Layer,
}

struct Round {
    /// How often a second.
    rate: f64,
    /// Microseconds of the processor that one time costs this process and the store's.
    cpu: f64,
}

impl Store {
    async fn measure(&self, bare: Option<MultiplexedConnection>) {
        let site = site::layered(self.cache.clone());
        for page in 0..PAGES {
            hit(site.clone(), page).await;
        }
        let layer = CacheLayer::new(self.cache.clone());
        let keys = (0..PAGES).map(|page| {
            let uri = Uri::try_from(format!("http://www.example.com{}", path(page)));
            let key = layer.page_key(&uri.unwrap()).unwrap();
            self.cache.final_key(&key).unwrap()
        });
        let keys: Arc<[Key]> = keys.collect();
        let (backend, layer) = self.backing.names();
        let mut rows = vec![(backend, Way::Backend), (layer, Way::Layer)];
        if let Some(bare) = bare {
            rows.insert(0, ("bare MultiplexedConnection", Way::Bare(bare)));
        }
        rows.retain(|(name, _)| is_wanted(name));
        let made = site::made();
        let mut columns = Vec::new();
        for tasks in [32, 256] {
            let mut rounds: Vec<Vec<_>> = rows.iter().map(|_| Vec::new()).collect();
            for _ in 0..ROUNDS {
                for ((_, way), rounds) in rows.iter().zip(&mut rounds) {
                    rounds.push(match way {
                        Way::Bare(bare) => {
                            let client = (bare.clone(), Arc::clone(&keys));
                            self.round(tasks, client, bare_get).await
                        }
                        Way::Backend => {
                            let client = (self.backing.clone(), Arc::clone(&keys));
                            self.round(tasks, client, backend_get).await
                        }
                        Way::Layer => self.round(tasks, site.clone(), hit).await,
                    });
                }
            }
            columns.push(rounds);
        }
        assert_eq!(site::made(), made, "{layer}: no hits");
        for (row, (name, _)) in rows.iter().enumerate() {
            print!("{name:<38}");
            for rounds in &columns {
                let rates = rounds[row].iter().map(|round| round.rate);
                print!("{:>9.0}", median(rates.collect()));
            }
            print!("   ");
            for rounds in &columns {
                // Rounds next to each other share the noise of the machine.
                let pairs = rounds[row].iter().zip(&rounds[0]);
                let ratios = pairs.map(|(one, first)| one.rate / first.rate);
                print!("{:>6.2}", median(ratios.collect()));
            }
            let cpu = columns[1][row].iter().map(|round| round.cpu);
            println!("{:>15.1}", median(cpu.collect()));
        }
    }

    /// So many tasks call `run` over and over.
    async fn round<C, F>(
        &self,
        tasks: usize,
        client: C,
        run: impl Fn(C, usize) -> F + Copy + Send + 'static,
    ) -> Round
    where
        C: Clone + Send + 'static,
        F: Future<Output = ()> + Send,
    {
        let cpu = || super::cpu() + self.pid.map_or(0.0, super::cpu_of);
        let (start, before) = (Instant::now(), cpu());
        let mut running = JoinSet::new();
        for task in 0..tasks {
            let client = client.clone();
            running.spawn(async move {
                let mut done = 0;
                while start.elapsed() < ROUND {
                    run(client.clone(), (task + done) % PAGES).await;
                    done += 1;
                }
                done
            });
        }
        let done: usize = running.join_all().await.into_iter().sum();
        let rate = done as f64 / start.elapsed().as_secs_f64();
        let cpu = (cpu() - before) / done as f64 * 1e6;
        Round { rate, cpu }
    }
}

async fn bare_get((mut connection, keys): (MultiplexedConnection, Arc<[Key]>), page: usize) {
    let value: Vec<u8> = connection.get(keys[page].as_str()).await.unwrap();
    assert!(value.len() > BODY);
}

async fn backend_get((backing, keys): (Backing, Arc<[Key]>), page: usize) {
    let found = match &backing {
        Backing::Redis(store) => Backend::get(store, &keys[page]).await,
        Backing::Memcached(store) => Backend::get(store, &keys[page]).await,
        Backing::Sqlite(store) => Backend::get(store, &keys[page]).await,
    };
    assert!(found.unwrap().unwrap().bytes().len() > BODY);
}

/// One page through the layer, read to the end.
async fn hit(site: impl Site, page: usize) {
    let mut request = Request::get(path(page)).body(Body::empty()).unwrap();
    request.headers_mut().clone_from(&HEADERS);
    let response = site.oneshot(request).await.unwrap();
    let (mut body, mut read) = (pin!(response.into_body()), 0);
    while let Some(frame) = poll_fn(|context| body.as_mut().poll_frame(context)).await {
        read += frame.unwrap().data_ref().map_or(0, Buf::remaining);
    }
    assert_eq!(read, BODY);
}

/// Prints which commands hits cost.
async fn count_commands(port: u16, site: impl Site) {
    const HITS: u64 = 20_000;
    let before = calls(port);
    let next = Arc::new(AtomicU64::new(0));
    let mut running = JoinSet::new();
    for task in 0..32 {
        let (site, next) = (site.clone(), Arc::clone(&next));
        running.spawn(async move {
            while next.fetch_add(1, Ordering::Relaxed) < HITS {
                hit(site.clone(), task).await;
            }
        });
    }
    running.join_all().await;
    let after = calls(port).into_iter().map(|(name, calls)| {
        let calls = calls - before.get(&name).unwrap_or(&0);
        (name, calls)
    });
    let commands: Vec<_> = after
        .filter(|(name, calls)| name != "info" && *calls > 0)
        .collect();
    let sum: u64 = commands.iter().map(|(_, calls)| calls).sum();
    let each = sum as f64 / HITS as f64;
    println!("Redis commands a hit: {each:.3} {commands:?}");
}

/// How often each command was called.
fn calls(port: u16) -> BTreeMap<String, u64> {
    let info = servers::redis::command(port, &["INFO", "commandstats"]).unwrap();
    let lines = info.lines().filter_map(|line| {
        let (name, facts) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((name.to_owned(), facts.split(',').next()?.parse().ok()?))
    });
    lines.collect()
}
