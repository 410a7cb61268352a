//! The stores that settings know by name, and what of the settings each takes.

#[cfg(feature = "file")]
mod file;
#[cfg(feature = "memcached")]
mod memcached;
#[cfg(feature = "memory")]
mod memory;
#[cfg(feature = "redis")]
mod redis;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
mod sql;
#[cfg(feature = "memory")]
mod tiered;

use std::future::ready;

use super::builder::{BackendSettings, CachesBuilder, TIERED};
use crate::backend::{AnyBackend, Dummy};
#[cfg(any(
    feature = "redis",
    feature = "memcached",
    feature = "postgres",
    feature = "mysql"
))]
use crate::backend::{Backend, CircuitBreaker};
use crate::error::Result;

/// What is wrong with a location that begins like one.
#[cfg(any(feature = "file", feature = "sqlite"))]
const IS_A_URL: &str =
    "is a URL, where a path is needed; a URL goes into `CACHE_URL`, and says the backend too";

const FILE: &[&str] = &["file"];
const MEMORY: &[&str] = &["memory"];
const MEMCACHED: &[&str] = &["memcached", "memcached+unix"];
const REDIS: &[&str] = &[
    "redis",
    "rediss",
    "redis+unix",
    "redis+cluster",
    "rediss+cluster",
    "redis+sentinel",
    "rediss+sentinel",
];
const SQLITE: &[&str] = &["sqlite"];
const POSTGRES: &[&str] = &["postgres", "postgresql"];
const MYSQL: &[&str] = &["mysql", "mariadb"];

/// Makes the stores known that were compiled in; of the others, what would bring them.
pub(super) fn register(builder: CachesBuilder) -> CachesBuilder {
    let builder = add(builder, &["dummy"], |_| Ok(Dummy.into()));

    #[cfg(feature = "memory")]
    let builder = add(builder, MEMORY, memory::make);
    #[cfg(not(feature = "memory"))]
    let builder = add(builder, MEMORY, |settings| absent(settings, "memory"));

    #[cfg(feature = "memory")]
    let builder = add(builder, &[TIERED], self::tiered::make);
    #[cfg(not(feature = "memory"))]
    let builder = add(builder, &[TIERED], |settings| absent(settings, "memory"));

    #[cfg(feature = "file")]
    let builder = add(builder, FILE, file::make);
    #[cfg(not(feature = "file"))]
    let builder = add(builder, FILE, |settings| absent(settings, "file"));

    #[cfg(feature = "memcached")]
    let builder = add(builder, MEMCACHED, self::memcached::make);
    #[cfg(not(feature = "memcached"))]
    let builder = add(builder, MEMCACHED, |settings| absent(settings, "memcached"));

    #[cfg(feature = "redis")]
    let builder = add(builder, REDIS, self::redis::make);
    #[cfg(not(feature = "redis"))]
    let builder = add(builder, REDIS, |settings| absent(settings, "redis"));

    #[cfg(feature = "sqlite")]
    let builder = add(builder, SQLITE, sql::make_file);
    #[cfg(not(feature = "sqlite"))]
    let builder = add(builder, SQLITE, |settings| absent(settings, "sqlite"));

    #[cfg(feature = "postgres")]
    let builder = add(builder, POSTGRES, |settings| {
        sql::make_server(settings, POSTGRES)
    });
    #[cfg(not(feature = "postgres"))]
    let builder = add(builder, POSTGRES, |settings| absent(settings, "postgres"));

    #[cfg(feature = "mysql")]
    let builder = add(builder, MYSQL, |settings| sql::make_server(settings, MYSQL));
    #[cfg(not(feature = "mysql"))]
    let builder = add(builder, MYSQL, |settings| absent(settings, "mysql"));

    builder
}

type Make = fn(&BackendSettings) -> Result<AnyBackend>;

/// No store waits for anything while it is made: connections come with the first call.
fn add(builder: CachesBuilder, names: &[&str], make: Make) -> CachesBuilder {
    names.iter().fold(builder, |builder, name| {
        builder.backend(*name, move |settings| ready(make(&settings)))
    })
}

/// A store on a network, behind a circuit breaker unless the settings want none.
#[cfg(any(
    feature = "redis",
    feature = "memcached",
    feature = "postgres",
    feature = "mysql"
))]
fn guarded<B: Backend>(settings: &BackendSettings, store: B) -> Result<AnyBackend> {
    Ok(match settings.option("circuit_breaker")? {
        Some(false) => AnyBackend::new(store),
        Some(true) | None => AnyBackend::new(CircuitBreaker::new(store)),
    })
}

#[allow(dead_code, reason = "every store may be compiled in")]
fn absent(settings: &BackendSettings, feature: &str) -> Result<AnyBackend> {
    let reason = format!("needs the feature `{feature}` of axum-cache");
    Err(settings.bad("backend", &reason))
}
