//! The conformance suite on every store and wrapper: `store::group::case`.

use std::time::Duration;

#[cfg(feature = "file")]
use axum_cache::backend::File;
use axum_cache::backend::{AnyBackend, Dummy, Memory};
use axum_cache::clock::ManualClock;
use axum_cache::conformance::{CASES, Case, DUMMY_CASES, Fixture};
use libtest_mimic::{Arguments, Trial};

#[path = "it/support/backends.rs"]
#[allow(dead_code, reason = "other tests count its calls")]
mod backends;

/// A store under test: its name, the cases that it has to pass, and a fresh fixture.
struct Store {
    name: &'static str,
    cases: &'static [Case],
    fixture: fn() -> Fixture,
}

const STORES: &[Store] = &[
    Store {
        name: "memory",
        cases: CASES,
        fixture: || with_clock(AnyBackend::new),
    },
    Store {
        name: "memory-arc",
        cases: CASES,
        fixture: || with_clock(|memory| AnyBackend::new(std::sync::Arc::new(memory))),
    },
    Store {
        name: "memory-remote",
        cases: CASES,
        fixture: || with_clock(|memory| AnyBackend::new(backends::Remote::over(memory))),
    },
    Store {
        name: "memory-provided",
        cases: CASES,
        fixture: || with_clock(|memory| AnyBackend::new(backends::Provided(memory))),
    },
    #[cfg(feature = "file")]
    Store {
        name: "file",
        cases: CASES,
        fixture: file,
    },
    #[cfg(feature = "file")]
    Store {
        name: "file-shared",
        cases: CASES,
        fixture: shared_file,
    },
    Store {
        name: "dummy",
        cases: DUMMY_CASES,
        fixture: || with_clock(|_| AnyBackend::new(Dummy)),
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

/// Each in a folder of its own, which goes with the fixture.
#[cfg(feature = "file")]
fn file() -> Fixture {
    let folder = tempfile::tempdir().expect("there is room");
    let clock = ManualClock::new();
    let file = File::builder(folder.path()).clock(clock.clone()).build();
    let backend = AnyBackend::new(file.expect("the options are good"));
    Fixture::new(backend, move |by: Duration| {
        let _ = &folder;
        clock.advance(by);
        Box::pin(std::future::ready(()))
    })
}

/// All in one folder, each with a store of its own, by the system's clock.
#[cfg(feature = "file")]
fn shared_file() -> Fixture {
    let folder = FOLDER.get_or_init(|| tempfile::tempdir().expect("there is room").keep());
    let file = File::builder(folder).build();
    let backend = AnyBackend::new(file.expect("the options are good"));
    Fixture::new(backend, |by| Box::pin(tokio::time::sleep(by)))
}

#[cfg(feature = "file")]
static FOLDER: std::sync::OnceLock<std::path::PathBuf> = std::sync::OnceLock::new();

fn main() {
    let trials = STORES.iter().flat_map(|store| {
        store.cases.iter().map(|case| {
            let name = format!("{}::{}", store.name, case.name);
            Trial::test(name, || {
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(2)
                    .enable_all()
                    .build()?;
                runtime.block_on((case.run)((store.fixture)()))?;
                Ok(())
            })
        })
    });
    let conclusion = libtest_mimic::run(&Arguments::from_args(), trials.collect());
    #[cfg(feature = "file")]
    if let Some(folder) = FOLDER.get() {
        let _ = std::fs::remove_dir_all(folder);
    }
    conclusion.exit();
}
