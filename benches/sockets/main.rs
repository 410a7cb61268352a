//! Whole servers on loopback sockets: a static handler, the site layer before it, nginx and Varnish before
//! it; then the layer over Redis, Memcached and `SQLite`, over sockets and in one process.
//!
//! Run: `cargo bench --bench sockets --features redis,memcached,sqlite`. It starts its own servers; what is
//! not installed is left out. A minute. A name after `--` leaves out all others: `-- 'layer, Redis'`.
//!
//! `ratio` is the median against the first of the rounds side by side; `us cpu` is what a request cost all
//! servers, `us load` what it cost those who asked. Two cores, with others at work on them: from run to run the
//! ratios over sockets moved by up to a fifth, those in process by as much, and Memcached's between 0.3 and 1.1.
//! Between bursts, glibc's allocator gives memory back to the system, and faults it in again: hits over servers take
//! less with `MALLOC_TRIM_THRESHOLD_=67108864` before the command, or another allocator.
//! In another run, the layer had over memory 0.99 and 0.98, Redis 0.86 and 0.82, Memcached 0.83 and 0.75, `SQLite`
//! 0.86 and 0.85. nginx 1.22.1, Varnish 7.1.1, Redis 7.0.15, Memcached 1.6.18, November 2026:
//!
//! ```text
//! requests, 32 connections:                   1/s  ratio  us cpu us load   the same with 256
//! axum, static handler                      92716   1.00     9.2     6.6      92373   1.00    10.7     8.5
//! layer, Memory                            116791   1.15     8.7     6.9      80668   0.92    12.6     8.8
//! layer, Memory, fallback of a Router       97479   0.98     9.9     6.6      73262   0.89    13.2     9.5
//! nginx proxy_cache                         86260   0.86    13.1     7.2      80635   0.87    14.2     8.9
//! Varnish                                   73168   0.71    18.0     7.7      44158   0.48    30.6    13.6
//! layer, Redis                              58013   0.64    23.3     7.1      48102   0.50    31.1    10.1
//! layer, Memcached                          57095   0.58    24.6     6.8      46559   0.46    31.2     9.8
//! layer, SQLite                             55755   0.55    27.1     7.0      44416   0.50    35.6    10.0
//!
//! hits in process, tasks:                      32      256     ratios    us cpu, 256
//! bare MultiplexedConnection               153784   121521     1.00  1.00           11.3
//! Redis, Backend::get                      141451   123636     0.91  1.00           12.4
//! layer, Redis                             132783    98805     0.89  0.79           15.6
//! Memcached, Backend::get                  104075    83505     1.00  1.00           18.8
//! layer, Memcached                          83566    91313     0.82  1.07           18.0
//! SQLite, Backend::get                     123402    71872     1.00  1.00           26.9
//! layer, SQLite                            107798    57660     0.88  0.80           33.7
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
