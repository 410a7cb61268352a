//! Operations a second of each database store at 16 tasks, against plain queries by the driver.
//!
//! `cargo bench --all-features --bench sql`. Values of 1 KiB, 10,000 keys; `hot` is one key that
//! is written all the time while it is read.
#![allow(clippy::unwrap_used, reason = "a failed bench may panic")]
#![allow(clippy::print_stdout, reason = "it prints a table")]

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum_cache::backend::Sql;
use axum_cache::{Cache, Ttl};

#[path = "../tests/support/mod.rs"]
mod support;

use support::servers::database::Database;

const TASKS: u64 = 16;
const KEYS: u64 = 10_000;
const TIME: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() {
    let file = std::env::temp_dir().join(format!("axum-cache-bench-{}.db", std::process::id()));
    let (postgres, mysql) = (Database::postgres(), Database::mysql());
    let engines = [
        ("sqlite", Some(format!("sqlite://{}", file.display()))),
        (
            "postgres",
            postgres.as_ref().map(|server| server.url.clone()),
        ),
        ("mysql", mysql.as_ref().map(|server| server.url.clone())),
    ];
    println!("| ops/s | get | get (driver) | set | add | incr | hot get | get_many of 20 |");
    println!("|---|---|---|---|---|---|---|---|");
    for (engine, url) in engines {
        if let Some(url) = url {
            measure(engine, url).await;
        }
    }
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", file.display()));
    }
}

async fn measure(engine: &str, url: String) {
    let store = Sql::builder(url.clone()).max_connections(16);
    let store = store.build().unwrap();
    store.create_table().await.unwrap();
    let cache = Cache::new(store);
    let value = "x".repeat(1024);
    let items = (0..KEYS).map(|n| (n.to_string(), &value));
    let failed = cache.set_many(items, Ttl::Never).await.unwrap();
    assert!(failed.is_empty(), "{failed:?}");
    cache.set("n", &0, Ttl::Never).await.unwrap();

    let get = run(&cache, |cache, n| async move {
        let value: Option<String> = cache.get(&(n % KEYS).to_string()).await.unwrap();
        assert!(value.is_some());
    });
    let get = get.await;
    let plain = plain(engine, url).await;
    let set = run(&cache, |cache, n| async move {
        let value = "y".repeat(1024);
        let key = (n % KEYS).to_string();
        cache.set(&key, &value, Ttl::Default).await.unwrap();
    });
    let set = set.await;
    let add = run(&cache, |cache, n| async move {
        let key = format!("add-{n}");
        assert!(cache.add(&key, &n, Ttl::Default).await.unwrap());
    });
    let add = add.await;
    let incr = run(&cache, |cache, _| async move {
        cache.incr("n", 1).await.unwrap();
    });
    let incr = incr.await;
    let hot = run(&cache, |cache, n| async move {
        if n % TASKS == 0 {
            cache.set("1", &n, Ttl::Default).await.unwrap();
        } else {
            cache.get::<u64>("n").await.unwrap();
            cache.get::<serde_json::Value>("1").await.unwrap();
        }
    });
    let hot = hot.await;
    let many = run(&cache, |cache, n| async move {
        let keys: Vec<_> = (0..20).map(|k| ((n * 7 + k) % KEYS).to_string()).collect();
        let found = cache.get_many::<_, serde_json::Value>(&keys).await.unwrap();
        assert_eq!(found.len(), 20);
    });
    let many = many.await;
    println!("| {engine} | {get} | {plain} | {set} | {add} | {incr} | {hot} | {many} |");
}

/// How often a second the tasks together get through `work`.
async fn run<W, F>(cache: &Cache, work: W) -> u64
where
    W: Fn(Cache, u64) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = ()> + Send,
{
    let next = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let (cache, next, work) = (cache.clone(), Arc::clone(&next), work.clone());
            tokio::spawn(async move {
                while start.elapsed() < TIME {
                    work(cache.clone(), next.fetch_add(1, Ordering::Relaxed)).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    next.load(Ordering::Relaxed) * 1000 / u64::try_from(start.elapsed().as_millis()).unwrap()
}

/// The same `get` by the driver and its pool.
async fn plain(engine: &str, url: String) -> u64 {
    macro_rules! plain {
        ($database:ty, $text:expr) => {{
            let pool = sqlx::pool::PoolOptions::<$database>::new()
                .max_connections(16)
                .test_before_acquire(false)
                .connect(&url)
                .await
                .unwrap();
            let cache = Cache::new(axum_cache::backend::Dummy);
            run(&cache, move |_, n| {
                let pool = pool.clone();
                async move {
                    let key = format!(":1:{}", n % KEYS);
                    let query = sqlx::query($text).bind(key).fetch_all(&pool);
                    assert_eq!(query.await.unwrap().len(), 1);
                }
            })
            .await
        }};
    }
    match engine {
        "sqlite" => plain!(
            sqlx::Sqlite,
            "SELECT num, value FROM axum_cache WHERE cache_key = ?"
        ),
        "postgres" => plain!(
            sqlx::Postgres,
            "SELECT num, value FROM axum_cache WHERE cache_key = $1"
        ),
        _ => plain!(
            sqlx::MySql,
            "SELECT num, value FROM axum_cache WHERE cache_key = ?"
        ),
    }
}
