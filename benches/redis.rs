//! `Cache::get` on Redis against the bare client: 1 KiB values, operations a second and ratios.
//!
//! Run: `cargo bench --bench redis --features redis`. It starts its own server.
//!
//! Two shared cores, Redis 7.0.15, November 2026; the ratios are medians of 25 rounds side by side:
//!
//! ```text
//! ops/s, tasks:                             1       32      256   against the bare client
//! bare MultiplexedConnection            15723   282103   527640     1.00  1.00  1.00
//! Backend::get                          24239   265302   493707     1.53  0.94  0.94
//! Cache::get                            15176   247964   465162     0.96  0.89  0.88
//! Cache::get, 2 connections             15302   216069   414504     0.96  0.77  0.79
//! Cache::get, bb8-redis pool of 2       23747   198459   395654     1.37  0.71  0.75
//! ```
//!
//! One task is one round trip at a time, which two cores answer at either of two speeds.
#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]
#![allow(clippy::print_stdout, reason = "it prints a table")]
#![allow(missing_docs, reason = "it is no library")]

mod meter;
#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use axum_cache::backend::{Backend, Redis, bb8_redis};
use axum_cache::{Cache, Ttl};
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use tokio::task::JoinSet;

use self::meter::median;

const KEYS: usize = 64;
const ROUNDS: usize = 25;
const ROUND: Duration = Duration::from_millis(120);

fn key(number: usize) -> String {
    format!("page:{}", number % KEYS)
}

/// Operations a second of `tasks` tasks, each of which runs `client` over and over.
async fn measure<C, F>(
    tasks: usize,
    client: C,
    run: impl Fn(C, usize) -> F + Copy + Send + 'static,
) -> f64
where
    C: Clone + Send + 'static,
    F: Future<Output = ()> + Send,
{
    let start = Instant::now();
    let mut running = JoinSet::new();
    for task in 0..tasks {
        let client = client.clone();
        running.spawn(async move {
            let mut done = 0;
            while start.elapsed() < ROUND {
                run(client.clone(), task + done).await;
                done += 1;
            }
            done
        });
    }
    let done: usize = running.join_all().await.into_iter().sum();
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    let done = done as f64;
    done / start.elapsed().as_secs_f64()
}

async fn bare_get(mut connection: MultiplexedConnection, number: usize) {
    let value: Vec<u8> = connection.get(format!(":1:{}", key(number))).await.unwrap();
    assert_eq!(value.len(), 1026);
}

async fn cache_get(cache: Cache, number: usize) {
    let value: Option<String> = cache.get(&key(number)).await.unwrap();
    assert_eq!(value.unwrap().len(), 1024);
}

async fn backend_get((cache, redis): (Cache, Redis), number: usize) {
    let found = Backend::get(&redis, &cache.final_key(&key(number)).unwrap()).await;
    assert_eq!(found.unwrap().unwrap().bytes().len(), 1026);
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let Some(server) = support::servers::redis::Redis::start(&[]) else {
        println!("needs redis-server");
        return;
    };
    let client = redis::Client::open(server.url()).unwrap();
    let bare = client.get_multiplexed_async_connection().await.unwrap();
    let store = |connections| {
        Redis::builder([server.url()])
            .connections(connections)
            .build()
            .unwrap()
    };
    let (one, two) = (store(1), store(2));
    let manager = bb8_redis::RedisConnectionManager::new(server.url()).unwrap();
    let pool = bb8_redis::bb8::Pool::builder()
        .max_size(2)
        .test_on_check_out(false);
    let pooled = Cache::new(Redis::from_pool(pool.build(manager).await.unwrap()));
    let cache = Cache::new(one.clone());
    for number in 0..KEYS {
        cache
            .set(&key(number), &"x".repeat(1024), Ttl::Never)
            .await
            .unwrap();
    }
    let names = [
        "bare MultiplexedConnection",
        "Backend::get",
        "Cache::get",
        "Cache::get, 2 connections",
        "Cache::get, bb8-redis pool of 2",
    ];
    println!(
        "{:<34}{:>9}{:>9}{:>9}   against the bare client",
        "ops/s, tasks:", 1, 32, 256
    );
    let mut table = vec![Vec::new(); names.len()];
    for tasks in [1, 32, 256] {
        let mut rounds = vec![Vec::new(); names.len()];
        for _ in 0..ROUNDS {
            rounds[0].push(measure(tasks, bare.clone(), bare_get).await);
            rounds[1].push(measure(tasks, (cache.clone(), one.clone()), backend_get).await);
            rounds[2].push(measure(tasks, cache.clone(), cache_get).await);
            rounds[3].push(measure(tasks, Cache::new(two.clone()), cache_get).await);
            rounds[4].push(measure(tasks, pooled.clone(), cache_get).await);
        }
        for (row, ops) in table.iter_mut().zip(&rounds) {
            // Rounds next to each other share the noise of the machine.
            let ratios = ops.iter().zip(&rounds[0]).map(|(ops, bare)| ops / bare);
            row.push((median(ops.clone()), median(ratios.collect())));
        }
    }
    for (name, row) in names.iter().zip(&table) {
        print!("{name:<34}");
        for (ops, _) in row {
            print!("{ops:>9.0}");
        }
        print!("   ");
        for (_, ratio) in row {
            print!("{ratio:>6.2}");
        }
        println!();
    }
}
