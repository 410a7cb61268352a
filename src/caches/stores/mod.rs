//! The stores that settings know by name, and what of the settings each takes.

#[cfg(feature = "memcached")]
mod memcached;
#[cfg(feature = "memory")]
mod memory;
#[cfg(feature = "redis")]
mod redis;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
mod sql;

use super::builder::CachesBuilder;
use crate::backend::{AnyBackend, Dummy};
use crate::error::Error;

pub(super) fn register(builder: CachesBuilder) -> CachesBuilder {
    let builder = builder.backend("dummy", |_| async { Ok(AnyBackend::new(Dummy)) });
    #[cfg(feature = "memory")]
    let builder = builder.backend("memory", |settings| async move { memory::make(&settings) });
    #[cfg(not(feature = "memory"))]
    let builder = absent(builder, &["memory"], "memory");
    #[cfg(feature = "memcached")]
    let builder = memcached::NAMES.iter().fold(builder, |builder, name| {
        builder.backend(*name, |settings| async move { memcached::make(&settings) })
    });
    #[cfg(not(feature = "memcached"))]
    let builder = absent(builder, &["memcached", "memcached+unix"], "memcached");
    #[cfg(feature = "redis")]
    let builder = redis::NAMES.iter().fold(builder, |builder, name| {
        builder.backend(*name, |settings| async move { redis::make(&settings) })
    });
    #[cfg(not(feature = "redis"))]
    let builder = absent(
        builder,
        &[
            "redis",
            "rediss",
            "redis+unix",
            "redis+cluster",
            "redis+sentinel",
        ],
        "redis",
    );
    #[cfg(feature = "sqlite")]
    let builder = builder.backend(
        "sqlite",
        |settings| async move { sql::make_file(&settings) },
    );
    #[cfg(not(feature = "sqlite"))]
    let builder = absent(builder, &["sqlite"], "sqlite");
    #[cfg(feature = "postgres")]
    let builder = servers(builder, &["postgres", "postgresql"]);
    #[cfg(not(feature = "postgres"))]
    let builder = absent(builder, &["postgres", "postgresql"], "postgres");
    #[cfg(feature = "mysql")]
    let builder = servers(builder, &["mysql", "mariadb"]);
    #[cfg(not(feature = "mysql"))]
    let builder = absent(builder, &["mysql", "mariadb"], "mysql");
    builder
}

/// A database on a server, by the schemes of its URLs.
#[cfg(any(feature = "postgres", feature = "mysql"))]
fn servers(builder: CachesBuilder, schemes: &'static [&'static str]) -> CachesBuilder {
    schemes.iter().fold(builder, |builder, scheme| {
        builder.backend(*scheme, move |settings| async move {
            sql::make_server(&settings, schemes)
        })
    })
}

/// Says of stores that were not compiled in what would bring them.
#[allow(dead_code, reason = "every store may be compiled in")]
fn absent(builder: CachesBuilder, names: &[&str], feature: &'static str) -> CachesBuilder {
    names.iter().fold(builder, |builder, name| {
        builder.backend(*name, move |settings| async move {
            let reason = format!("needs the feature `{feature}` of axum-cache");
            Err::<AnyBackend, Error>(settings.bad("backend", &reason))
        })
    })
}
