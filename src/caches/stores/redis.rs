//! Redis from settings.

use crate::backend::{AnyBackend, Redis};
use crate::caches::BackendSettings;
use crate::error::Result;

pub(super) fn make(settings: &BackendSettings) -> Result<AnyBackend> {
    let mut builder = Redis::builder(settings.servers(settings.name())?);
    if let Some(username) = settings.option::<String>("username")? {
        builder = builder.username(username);
    }
    if let Some(password) = settings.option::<String>("password")? {
        builder = builder.password(password);
    }
    if let Some(db) = settings.option("db")? {
        builder = builder.db(db);
    }
    if let Some(service) = settings.option::<String>("service")? {
        builder = builder.service(service);
    }
    builder = builder.sentinel_credentials(
        settings.option("sentinel_username")?,
        settings.option("sentinel_password")?,
    );
    if let Some(connections) = settings.option("connections")? {
        builder = builder.connections(connections);
    }
    if let Some(timeout) = settings.seconds("connect_timeout")? {
        builder = builder.connect_timeout(timeout);
    }
    if let Some(timeout) = settings.seconds("operation_timeout")? {
        builder = builder.operation_timeout(timeout);
    }
    if let Some(read) = settings.option("read_from_replicas")? {
        builder = builder.read_from_replicas(read);
    }
    if let Some(window) = settings.seconds("read_your_writes")? {
        builder = builder.read_your_writes(window);
    }
    if let Some(bytes) = settings.option("max_value_bytes")? {
        builder = builder.max_value_bytes(bytes);
    }
    #[cfg(feature = "tls")]
    if let Some(path) = settings.option::<String>("root_certificate")? {
        let pem = std::fs::read(path).map_err(|error| {
            settings
                .bad("root_certificate", "cannot be read")
                .with_source(error)
        })?;
        builder = builder.root_certificate(pem);
    }
    let redis = builder.build().map_err(|error| settings.of_alias(&error))?;
    super::guarded(settings, redis)
}
