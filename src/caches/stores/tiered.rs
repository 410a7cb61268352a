//! Memory in front of another store, from settings.

use crate::backend::{AnyBackend, Memory, Tiered, TieredBuilder};
use crate::caches::BackendSettings;
use crate::error::Result;

/// The channel of applications that name none.
#[cfg(any(feature = "redis", feature = "postgres"))]
const CHANNEL: &str = "axum-cache";

pub(super) fn make(settings: &BackendSettings) -> Result<AnyBackend> {
    if !settings.locations()?.is_empty() {
        return Err(settings.bad("location", "is not for this backend; `far` says where"));
    }
    let far = settings.far().ok_or_else(|| {
        settings.bad("far", "is missing; a URL or the alias of a cache is needed")
    })?;
    let mut near = Memory::builder();
    if let Some(bytes) = settings.option("max_bytes")? {
        near = near.max_bytes(bytes);
    }
    if let Some(entries) = settings.option("max_entries")? {
        near = near.max_entries(entries);
    }
    let near = near.build().map_err(|error| settings.of_alias(&error))?;
    let mut builder = Tiered::builder(near, far);
    if let Some(ttl) = settings.seconds("near_ttl")? {
        builder = builder.near_ttl(ttl);
    }
    if let Some(bound) = settings.seconds("max_near_staleness")? {
        builder = builder.max_near_staleness(bound);
    }
    if let Some(url) = settings.option::<String>("backplane")? {
        builder = with_backplane(settings, builder, &url)?;
    }
    let tiered = builder.build().map_err(|error| settings.of_alias(&error))?;
    Ok(tiered.into())
}

fn with_backplane(
    settings: &BackendSettings,
    builder: TieredBuilder,
    url: &str,
) -> Result<TieredBuilder> {
    let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
    match scheme {
        "redis" | "rediss" | "redis+unix" | "redis+cluster" | "rediss+cluster" => {
            with_redis(settings, builder, url)
        }
        "postgres" | "postgresql" => with_postgres(settings, builder, url),
        _ => Err(settings.bad("backplane", "is no URL of Redis or PostgreSQL")),
    }
}

#[cfg(feature = "redis")]
fn with_redis(
    settings: &BackendSettings,
    builder: TieredBuilder,
    url: &str,
) -> Result<TieredBuilder> {
    let made = crate::backend::RedisBackplane::new(url, channel(settings)?);
    let made = made.map_err(|error| settings.bad("backplane", &error.to_string()))?;
    Ok(builder.backplane(made))
}

#[cfg(not(feature = "redis"))]
fn with_redis(settings: &BackendSettings, _: TieredBuilder, _: &str) -> Result<TieredBuilder> {
    Err(settings.bad("backplane", "needs the feature `redis` of axum-cache"))
}

#[cfg(feature = "postgres")]
fn with_postgres(
    settings: &BackendSettings,
    builder: TieredBuilder,
    url: &str,
) -> Result<TieredBuilder> {
    let made = crate::backend::PostgresBackplane::new(url, channel(settings)?);
    let made = made.map_err(|error| settings.bad("backplane", &error.to_string()))?;
    Ok(builder.backplane(made))
}

#[cfg(not(feature = "postgres"))]
fn with_postgres(settings: &BackendSettings, _: TieredBuilder, _: &str) -> Result<TieredBuilder> {
    Err(settings.bad("backplane", "needs the feature `postgres` of axum-cache"))
}

#[cfg(any(feature = "redis", feature = "postgres"))]
fn channel(settings: &BackendSettings) -> Result<String> {
    let channel = settings.option("channel")?;
    Ok(channel.unwrap_or_else(|| CHANNEL.to_owned()))
}
