//! Whole servers on loopback sockets: a static handler, the site layer before it, nginx and Varnish before
//! it; then the layer over Redis, Memcached and `SQLite`, over sockets and in one process.
//!
//! Run: `cargo bench --bench sockets --features redis,memcached,sqlite`. It starts its own servers; what is
//! not installed is left out. A minute. A name after `--` leaves out all others: `-- 'layer, Redis'`.
//!
//! `ratio` is the median against the first of the rounds side by side; `us cpu` is what a request cost all
//! servers, `us load` what it cost those who asked. Two cores, with others at work on them: from run to run the
//! ratios over sockets moved by up to a fifth, those in process by as much, and Memcached's between 0.3 and 0.8.
//! Between bursts, glibc's allocator gives memory back to the system, and faults it in again: hits over servers take
//! less with `MALLOC_TRIM_THRESHOLD_=67108864` before the command, or another allocator.
//! In another run, the layer had over memory 0.91 and 0.97, Redis 0.78 and 0.79, Memcached 0.77 and 0.94, `SQLite`
//! 0.78 and 0.74. nginx 1.22.1, Varnish 7.1.1, Redis 7.0.15, Memcached 1.6.18, November 2026:
//!
//! ```text
//! requests, 32 connections:                   1/s  ratio  us cpu us load   the same with 256
//! axum, static handler                      69269   1.00    13.6     9.4      53410   1.00    17.4    13.1
//! layer, Memory                             66810   0.96    14.7     9.0      54713   1.06    19.6    13.6
//! layer, Memory, fallback of a Router       65520   0.96    14.5     9.2      49960   0.91    21.0    13.8
//! nginx proxy_cache                         56530   0.95    17.3    10.1      61169   1.05    20.1    12.6
//! Varnish                                   42297   0.61    30.9    11.3      30015   0.52    47.8    19.8
//! layer, Redis                              37936   0.51    38.6    10.6      29731   0.54    49.9    16.0
//! layer, Memcached                          36469   0.46    41.7    10.4      30820   0.59    46.9    15.1
//! layer, SQLite                             31469   0.39    50.5    11.3      24757   0.47    63.7    16.8
//!
//! hits in process, tasks:                      32      256     ratios    us cpu, 256
//! bare MultiplexedConnection                96093    85652     1.00  1.00           16.8
//! Redis, Backend::get                       92439    82871     0.97  0.92           17.9
//! layer, Redis                              63805    67068     0.73  0.77           24.4
//! Memcached, Backend::get                   87385   113982     1.00  1.00           14.3
//! layer, Memcached                          70995    76786     0.84  0.64           21.4
//! SQLite, Backend::get                      80959    67740     1.00  1.00           28.5
//! layer, SQLite                             65111    53472     0.83  0.80           37.1
//! Redis commands a hit: 1.000 [("get", 20000)]
//! ```
#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]
#![allow(clippy::print_stdout, reason = "it prints tables")]
#![allow(clippy::cast_precision_loss, reason = "far below 2^52")]
#![allow(missing_docs, reason = "it is no library")]

mod load;
#[path = "../meter/mod.rs"]
mod meter;
mod proxies;
mod site;
mod stores;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::time::Duration;

use axum_cache::Cache;
use axum_cache::backend::Memory;

use self::load::{Load, cpu, cpu_of};
use self::meter::median;
use self::proxies::Proxy;
use self::stores::Stores;

const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_millis(200);

/// A server that answers with the page.
struct Contender {
    name: &'static str,
    address: SocketAddr,
    /// The first of its processes beside this one.
    pid: Option<u32>,
    is_origin: bool,
}

impl Contender {
    /// What it did in one round.
    async fn round(&self, connections: usize) -> Round {
        let (made, own) = (site::made(), cpu());
        let other = self.pid.map_or(0.0, cpu_of);
        let address = self.address;
        let load = tokio::task::spawn_blocking(move || Load::run(address, connections, ROUND));
        let load = load.await.unwrap();
        let servers = cpu() - own - load.cpu + self.pid.map_or(0.0, cpu_of) - other;
        let made = site::made() - made;
        assert!(self.is_origin || made == 0, "{}: {made} no hits", self.name);
        Round { load, servers }
    }
}

struct Round {
    load: Load,
    /// Seconds of the processor that all servers used.
    servers: f64,
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let stores = Stores::start().await;
    let origin = site::serve(site::router()).await;
    let new = |name, address| Contender {
        name,
        address,
        pid: None,
        is_origin: false,
    };
    let memory = Cache::new(Memory::new());
    let mut contenders = vec![
        Contender {
            is_origin: true,
            ..new("axum, static handler", origin)
        },
        new(
            "layer, Memory",
            site::serve(site::layered(memory.clone())).await,
        ),
        new(
            "layer, Memory, fallback of a Router",
            site::serve(site::nested(memory)).await,
        ),
    ];
    let proxies: Vec<Proxy> = [Proxy::nginx(origin), Proxy::varnish(origin)]
        .into_iter()
        .flatten()
        .collect();
    contenders.extend(proxies.iter().map(|proxy| Contender {
        pid: Some(proxy.pid()),
        ..new(proxy.name, proxy.address)
    }));
    for store in &stores.all {
        let address = site::serve(site::layered(store.cache.clone())).await;
        contenders.push(Contender {
            pid: store.pid,
            ..new(store.layer_name, address)
        });
    }
    contenders.retain(|contender| is_wanted(contender.name));
    for contender in &contenders {
        let address = contender.address;
        let warm = move || Load::run(address, 1, Duration::from_millis(20));
        tokio::task::spawn_blocking(warm).await.unwrap();
    }
    println!(
        "{:<38}{:>9}{:>7}{:>8}{:>8}   the same with 256",
        "requests, 32 connections:", "1/s", "ratio", "us cpu", "us load"
    );
    let (few, many) = (race(&contenders, 32).await, race(&contenders, 256).await);
    for ((contender, few), many) in contenders.iter().zip(&few).zip(&many) {
        println!("{:<38}{few}  {many}", contender.name);
    }
    drop(proxies);
    stores.measure().await;
}

/// A line of each contender: requests a second, against the first, and what a request cost the servers and
/// those who asked.
async fn race(contenders: &[Contender], connections: usize) -> Vec<String> {
    if contenders.is_empty() {
        return Vec::new();
    }
    let mut rounds: Vec<Vec<Round>> = contenders.iter().map(|_| Vec::new()).collect();
    for _ in 0..ROUNDS {
        for (number, contender) in contenders.iter().enumerate() {
            rounds[number].push(contender.round(connections).await);
        }
    }
    let rates = |rounds: &[Round]| -> Vec<f64> { rounds.iter().map(|it| it.load.rate()).collect() };
    let first = rates(&rounds[0]);
    let lines = rounds.iter().map(|rounds| {
        let rate = rates(rounds);
        // Rounds next to each other share the noise of the machine.
        let ratios = rate.iter().zip(&first).map(|(rate, first)| rate / first);
        let requests: f64 = rounds.iter().map(|round| round.load.requests as f64).sum();
        let servers: f64 = rounds.iter().map(|round| round.servers).sum();
        let load: f64 = rounds.iter().map(|round| round.load.cpu).sum();
        format!(
            "{:>9.0}{:>7.2}{:>8.1}{:>8.1}",
            median(rate.clone()),
            median(ratios.collect()),
            servers / requests * 1e6,
            load / requests * 1e6
        )
    });
    lines.collect()
}

/// Whether the name holds what was asked for, if anything was.
fn is_wanted(name: &str) -> bool {
    let mut wanted = std::env::args().skip(1).filter(|it| !it.starts_with('-'));
    wanted.next().is_none_or(|wanted| name.contains(&wanted))
}
