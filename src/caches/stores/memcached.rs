//! Memcached from settings.

use crate::backend::{AnyBackend, Memcached};
use crate::caches::BackendSettings;
use crate::error::Result;

pub(super) fn make(settings: &BackendSettings) -> Result<AnyBackend> {
    let mut builder = Memcached::builder(settings.servers(settings.name())?);
    let username = settings.option::<String>("username")?;
    let password = settings.option::<String>("password")?;
    match (username, password) {
        (Some(username), Some(password)) => builder = builder.credentials(username, password),
        (None, None) => {}
        _ => return Err(settings.bad("username", "and password belong together")),
    }
    if let Some(connections) = settings.option("connections")? {
        builder = builder.connections(connections);
    }
    if let Some(timeout) = settings.seconds("connect_timeout")? {
        builder = builder.connect_timeout(timeout);
    }
    if let Some(timeout) = settings.seconds("operation_timeout")? {
        builder = builder.operation_timeout(timeout);
    }
    if let Some(bytes) = settings.option("max_value_bytes")? {
        builder = builder.max_value_bytes(bytes);
    }
    let memcached = builder.build().map_err(|error| settings.of_alias(&error))?;
    super::guarded(settings, memcached)
}
