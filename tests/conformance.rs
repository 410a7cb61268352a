//! The conformance suite on every store and wrapper: `store::group::case`.

use std::time::Duration;

use axum_cache::backend::{AnyBackend, Dummy, Memory};
use axum_cache::clock::ManualClock;
use axum_cache::conformance::{CASES, Case, DUMMY_CASES, Fixture};
use libtest_mimic::{Arguments, Trial};

#[path = "it/support/backends.rs"]
#[allow(dead_code, reason = "other tests count its calls")]
mod backends;

#[cfg(any(feature = "postgres", feature = "mysql"))]
#[path = "it/support/sql_servers.rs"]
mod sql_servers;

/// A store under test: its name, the cases that it has to pass, and a fresh fixture; where its
/// server is not on this machine, the cases are shown as ignored.
struct Store {
    name: &'static str,
    cases: &'static [Case],
    is_here: fn() -> bool,
    fixture: fn() -> Fixture,
}

const STORES: &[Store] = &[
    Store {
        name: "memory",
        cases: CASES,
        is_here: || true,
        fixture: || with_clock(AnyBackend::new),
    },
    Store {
        name: "memory-arc",
        cases: CASES,
        is_here: || true,
        fixture: || with_clock(|memory| AnyBackend::new(std::sync::Arc::new(memory))),
    },
    Store {
        name: "memory-remote",
        cases: CASES,
        is_here: || true,
        fixture: || with_clock(|memory| AnyBackend::new(backends::Remote::over(memory))),
    },
    Store {
        name: "memory-provided",
        cases: CASES,
        is_here: || true,
        fixture: || with_clock(|memory| AnyBackend::new(backends::Provided(memory))),
    },
    Store {
        name: "dummy",
        cases: DUMMY_CASES,
        is_here: || true,
        fixture: || with_clock(|_| AnyBackend::new(Dummy)),
    },
    #[cfg(feature = "sqlite")]
    Store {
        name: "sqlite",
        cases: CASES,
        is_here: || true,
        fixture: sqlite,
    },
    #[cfg(feature = "postgres")]
    Store {
        name: "postgres",
        cases: CASES,
        is_here: || sql_servers::postgres().is_some(),
        fixture: || sql(sql_servers::postgres()),
    },
    #[cfg(feature = "mysql")]
    Store {
        name: "mysql",
        cases: CASES,
        is_here: || sql_servers::mysql().is_some(),
        fixture: || sql(sql_servers::mysql()),
    },
];

fn with_clock(backend: impl FnOnce(Memory) -> AnyBackend) -> Fixture {
    let clock = ManualClock::new();
    let memory = Memory::builder().clock(clock.clone()).build();
    let backend = backend(memory.expect("the options are good"));
    Fixture::new(backend, move |by: Duration| {
        clock.advance(by);
        Box::pin(std::future::ready(()))
    })
}

/// A file of its own for each case, since each has a clock of its own.
#[cfg(feature = "sqlite")]
fn sqlite() -> Fixture {
    use std::sync::atomic::{AtomicU64, Ordering};
    static FILES: AtomicU64 = AtomicU64::new(0);
    let file = FILES.fetch_add(1, Ordering::Relaxed);
    let folder = sqlite_folder();
    std::fs::create_dir_all(&folder).expect("the folder can be made");
    let clock = ManualClock::new();
    let store = axum_cache::backend::Sql::sqlite(folder.join(format!("{file}.db")))
        .create_table(true)
        .clock(clock.clone())
        .build();
    let store = AnyBackend::new(store.expect("the options are good"));
    Fixture::new(store, move |by: Duration| {
        clock.advance(by);
        Box::pin(std::future::ready(()))
    })
}

#[cfg(feature = "sqlite")]
fn sqlite_folder() -> std::path::PathBuf {
    let folder = format!("sqlite-{}", std::process::id());
    std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(folder)
}

#[cfg(any(feature = "postgres", feature = "mysql"))]
fn sql(url: Option<String>) -> Fixture {
    let builder = axum_cache::backend::Sql::builder(url.expect("the server is here"));
    let store = builder.create_table(true).build();
    let store = AnyBackend::new(store.expect("the options are good"));
    Fixture::new(store, |by| Box::pin(tokio::time::sleep(by)))
}

fn main() {
    let arguments = Arguments::from_args();
    let trials = STORES.iter().flat_map(|store| {
        let ignored = is_asked_for(&arguments, store) && !(store.is_here)();
        store.cases.iter().map(move |case| {
            let name = format!("{}::{}", store.name, case.name);
            Trial::test(name, || {
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(2)
                    .enable_all()
                    .build()?;
                runtime.block_on((case.run)((store.fixture)()))?;
                Ok(())
            })
            .with_ignored_flag(ignored)
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    #[cfg(feature = "sqlite")]
    let _ = std::fs::remove_dir_all(sqlite_folder());
    conclusion.exit();
}

/// Whether a case of the store may run, so that a server has to be started to know.
fn is_asked_for(arguments: &Arguments, store: &Store) -> bool {
    let filter = arguments.filter.as_deref().unwrap_or_default();
    let mut cases = store.cases.iter();
    !arguments.list && cases.any(|case| format!("{}::{}", store.name, case.name).contains(filter))
}
