//! The conformance suite on every store and wrapper: `store::group::case`.
#![allow(clippy::print_stdout, reason = "it prints a table at the end")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use axum_cache::backend::{self, AnyBackend, Backend, Dummy, Memory, bb8_redis};
use axum_cache::clock::ManualClock;
use axum_cache::conformance::{CASES, Case, DUMMY_CASES, Fixture};
use libtest_mimic::{Arguments, Trial};

#[path = "support/mod.rs"]
mod support;

#[path = "it/support/backends.rs"]
#[allow(dead_code, reason = "other tests count its calls")]
mod backends;

use support::servers;
use support::servers::database::Database;
use support::servers::memcached::Memcached;
use support::servers::redis::{Cluster, Redis, Replicated, Sentinel};

/// A store under test: its name, the cases that it has to pass, the programs without which it is
/// ignored, and a fresh fixture.
struct Store {
    name: &'static str,
    cases: &'static [Case],
    needs: &'static [&'static str],
    fixture: fn() -> Fixture,
}

const STORES: &[Store] = &[
    Store {
        name: "memory",
        cases: CASES,
        needs: &[],
        fixture: || with_clock(AnyBackend::new),
    },
    Store {
        name: "memory-arc",
        cases: CASES,
        needs: &[],
        fixture: || with_clock(|memory| AnyBackend::new(std::sync::Arc::new(memory))),
    },
    Store {
        name: "test-backend",
        cases: CASES,
        needs: &[],
        fixture: || with_clock(|memory| AnyBackend::new(backends::Remote::new(memory))),
    },
    Store {
        name: "memory-behind-breaker",
        cases: CASES,
        needs: &[],
        fixture: || {
            with_clock(|memory| {
                AnyBackend::new(backend::CircuitBreaker::new(backends::Remote::new(memory)))
            })
        },
    },
    Store {
        name: "memory-provided",
        cases: CASES,
        needs: &[],
        fixture: || with_clock(|memory| AnyBackend::new(backends::Provided(memory))),
    },
    Store {
        name: "file",
        cases: CASES,
        needs: &[],
        fixture: file,
    },
    // All in one folder, each with a store of its own, by the system's clock.
    Store {
        name: "file-shared",
        cases: CASES,
        needs: &[],
        fixture: || {
            static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| servers::folder("files"));
            with_server(backend::File::builder(&*FOLDER).build())
        },
    },
    Store {
        name: "tiered-memory",
        cases: CASES,
        needs: &[],
        fixture: || {
            let clock = ManualClock::new();
            let memory = || Memory::builder().clock(clock.clone()).build();
            let tiers = (memory().expect(GOOD), memory().expect(GOOD));
            let backend = AnyBackend::new(backend::Tiered::new(tiers.0, tiers.1));
            Fixture::new(backend, move |by: Duration| {
                clock.advance(by);
                Box::pin(std::future::ready(()))
            })
        },
    },
    Store {
        name: "tiered-redis",
        cases: CASES,
        needs: &["redis-server"],
        fixture: || {
            static SERVER: LazyLock<Redis> = LazyLock::new(|| Redis::start(&[]).expect(FOUND));
            let redis = redis([SERVER.url()]).max_value_bytes(1 << 20);
            let backplane = backend::RedisBackplane::new(&SERVER.url(), "conformance");
            let far = redis.build().expect(GOOD);
            let tiered = backend::Tiered::builder(Memory::new(), far);
            in_use(tiered.backplane(backplane.expect(GOOD)).build())
        },
    },
    Store {
        name: "tiered-memcached",
        cases: CASES,
        needs: &["memcached"],
        fixture: || {
            static SERVER: LazyLock<Memcached> =
                LazyLock::new(|| Memcached::start(&[]).expect(FOUND));
            let far = memcached([SERVER.url()]).expect(GOOD);
            with_server(Ok(backend::Tiered::new(Memory::new(), far)))
        },
    },
    Store {
        name: "tiered-postgres",
        cases: CASES,
        needs: &["postgres"],
        fixture: || {
            static SERVER: LazyLock<Database> =
                LazyLock::new(|| Database::postgres().expect(FOUND));
            let far = sql(&SERVER.url);
            let backplane = backend::PostgresBackplane::new(&SERVER.url, "conformance");
            let tiered = backend::Tiered::builder(Memory::new(), far.build().expect(GOOD));
            in_use(tiered.backplane(backplane.expect(GOOD)).build())
        },
    },
    Store {
        name: "dummy",
        cases: DUMMY_CASES,
        needs: &[],
        fixture: || with_clock(|_| AnyBackend::new(Dummy)),
    },
    Store {
        name: "redis",
        cases: CASES,
        needs: &["redis-server"],
        fixture: || {
            static SERVER: LazyLock<Redis> = LazyLock::new(|| Redis::start(&[]).expect(FOUND));
            let redis = redis([SERVER.url()]).max_value_bytes(1 << 20);
            with_server(redis.build())
        },
    },
    Store {
        name: "redis-pool",
        cases: CASES,
        needs: &["redis-server"],
        fixture: || {
            static SERVER: LazyLock<Redis> = LazyLock::new(|| Redis::start(&[]).expect(FOUND));
            let manager = bb8_redis::RedisConnectionManager::new(SERVER.url()).expect("a URL");
            let pool = bb8_redis::bb8::Pool::builder().build_unchecked(manager);
            with_server(Ok(backend::Redis::from_pool(pool)))
        },
    },
    Store {
        name: "redis-replicas",
        cases: CASES,
        needs: &["redis-server"],
        fixture: || {
            static SERVERS: LazyLock<Replicated> =
                LazyLock::new(|| Replicated::start().expect(FOUND));
            with_server(redis(SERVERS.urls()).build())
        },
    },
    Store {
        name: "redis-cluster",
        cases: CASES,
        needs: &["redis-server"],
        fixture: || {
            static SERVERS: LazyLock<Cluster> = LazyLock::new(|| Cluster::start().expect(FOUND));
            let nodes = SERVERS.urls().into_iter();
            let nodes = nodes.map(|url| url.replace("redis://", "redis+cluster://"));
            with_server(redis(nodes).build())
        },
    },
    Store {
        name: "redis-sentinel",
        cases: CASES,
        needs: &["redis-server"],
        fixture: || {
            static SERVERS: LazyLock<Sentinel> =
                LazyLock::new(|| Sentinel::start(Duration::from_secs(30)).expect(FOUND));
            let redis = redis([SERVERS.url()]).read_from_replicas(true);
            with_server(redis.build())
        },
    },
    Store {
        name: "memcached",
        cases: CASES,
        needs: &["memcached"],
        fixture: || {
            static SERVER: LazyLock<Memcached> =
                LazyLock::new(|| Memcached::start(&[]).expect(FOUND));
            with_server(memcached([SERVER.url()]))
        },
    },
    Store {
        name: "memcached-two",
        cases: CASES,
        needs: &["memcached"],
        fixture: || {
            static SERVERS: LazyLock<[Memcached; 2]> =
                LazyLock::new(|| [(); 2].map(|()| Memcached::start(&[]).expect(FOUND)));
            with_server(memcached(SERVERS.iter().map(Memcached::url)))
        },
    },
    Store {
        name: "sqlite",
        cases: CASES,
        needs: &[],
        fixture: sqlite,
    },
    Store {
        name: "postgres",
        cases: CASES,
        needs: &["postgres"],
        fixture: || {
            static SERVER: LazyLock<Database> =
                LazyLock::new(|| Database::postgres().expect(FOUND));
            with_server(sql(&SERVER.url).build())
        },
    },
    Store {
        name: "mysql",
        cases: CASES,
        needs: &["mariadbd"],
        fixture: || {
            static SERVER: LazyLock<Database> = LazyLock::new(|| Database::mysql().expect(FOUND));
            with_server(sql(&SERVER.url).build())
        },
    },
];

const GOOD: &str = "the options are good";

const FOUND: &str = "the program was found, or the case would be ignored";

/// How long clients wait: a busy machine must not look like a server that is away.
const PATIENCE: Duration = Duration::from_secs(20);

fn redis<S: Into<String>>(servers: impl IntoIterator<Item = S>) -> backend::RedisBuilder {
    backend::Redis::builder(servers).operation_timeout(PATIENCE)
}

fn memcached<S: Into<String>>(
    servers: impl IntoIterator<Item = S>,
) -> axum_cache::Result<backend::Memcached> {
    let builder = backend::Memcached::builder(servers);
    builder.operation_timeout(PATIENCE).build()
}

fn sql(url: &str) -> backend::SqlBuilder {
    let builder = backend::Sql::builder(url).create_table(true);
    builder.operation_timeout(PATIENCE)
}

/// A store on a server, whose clock nobody moves: cases wait.
fn with_server(store: axum_cache::Result<impl Backend>) -> Fixture {
    let backend = AnyBackend::new(store.expect(GOOD));
    Fixture::new(backend, |by| Box::pin(tokio::time::sleep(by)))
}

/// Two tiers, once the near one is in use.
fn in_use(tiered: axum_cache::Result<backend::Tiered>) -> Fixture {
    let tiered = tiered.expect(GOOD);
    let cache = axum_cache::Cache::new(tiered.clone());
    tokio::spawn(async move { cache.contains("start").await });
    while tiered.near_staleness().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    with_server(Ok(tiered))
}

fn with_clock(backend: impl FnOnce(Memory) -> AnyBackend) -> Fixture {
    let clock = ManualClock::new();
    let memory = Memory::builder().clock(clock.clone()).build();
    let backend = backend(memory.expect(GOOD));
    Fixture::new(backend, move |by: Duration| {
        clock.advance(by);
        Box::pin(std::future::ready(()))
    })
}

/// A file of its own.
fn sqlite() -> Fixture {
    in_folder(|folder, clock| {
        let store = backend::Sql::sqlite(folder.join("cache.db"));
        store.create_table(true).clock(clock).build()
    })
}

fn file() -> Fixture {
    in_folder(|folder, clock| backend::File::builder(folder).clock(clock).build())
}

/// A store in a folder that goes with the fixture, by a clock of its own.
fn in_folder<B: Backend>(
    store: impl FnOnce(&Path, ManualClock) -> axum_cache::Result<B>,
) -> Fixture {
    let folder = tempfile::tempdir().expect("there is room");
    let clock = ManualClock::new();
    let store = store(folder.path(), clock.clone()).expect(GOOD);
    Fixture::new(AnyBackend::new(store), move |by: Duration| {
        let _ = &folder;
        clock.advance(by);
        Box::pin(std::future::ready(()))
    })
}

fn main() {
    let trials = STORES.iter().flat_map(|store| {
        store.cases.iter().map(|case| {
            let name = format!("{}::{}", store.name, case.name);
            let ignored = !store
                .needs
                .iter()
                .all(|program| servers::is_installed(program));
            let trial = Trial::test(name, || {
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(2)
                    .enable_all()
                    .build()?;
                runtime.block_on(async { (case.run)((store.fixture)()).await })?;
                *PASSED
                    .lock()
                    .expect("nobody panics with it")
                    .entry(store.name)
                    .or_default() += 1;
                Ok(())
            });
            trial.with_ignored_flag(ignored)
        })
    });
    let mut arguments = Arguments::from_args();
    // Cases mostly wait for lifetimes to end.
    arguments.test_threads.get_or_insert(16);
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    print_table();
    conclusion.exit();
}

/// How many cases each store passed.
static PASSED: Mutex<BTreeMap<&str, usize>> = Mutex::new(BTreeMap::new());

fn print_table() {
    let passed = PASSED.lock().expect("nobody panics with it");
    if passed.is_empty() {
        return;
    }
    println!("| store | cases passed |\n|---|---|");
    for Store { name, cases, .. } in STORES {
        let passed = passed.get(name).copied().unwrap_or_default();
        println!("| {name} | {passed} of {} |", cases.len());
    }
    println!();
}
