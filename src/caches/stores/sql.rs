//! Databases from settings.

#[cfg(any(feature = "postgres", feature = "mysql"))]
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::backend::{AnyBackend, Sql, SqlBuilder};
use crate::caches::BackendSettings;
use crate::error::Result;

/// What the URLs of servers may say beside where they are; everything else is an option of the
/// store. As the drivers spell it, who drop what they do not know.
#[cfg(any(feature = "postgres", feature = "mysql"))]
const POSTGRES_PARAMETERS: &[&str] = &[
    "application_name",
    "host",
    "sslmode",
    "sslcert",
    "sslkey",
    "sslrootcert",
    "statement-cache-capacity",
];
#[cfg(any(feature = "postgres", feature = "mysql"))]
const MYSQL_PARAMETERS: &[&str] = &[
    "charset",
    "collation",
    "socket",
    "ssl-mode",
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
    "statement-cache-capacity",
];

#[cfg(feature = "sqlite")]
pub(super) fn make_file(settings: &BackendSettings) -> Result<AnyBackend> {
    match settings.locations()?.as_slice() {
        [url] if url.contains("://") => Err(settings.bad("location", super::IS_A_URL)),
        [path] if path != ":memory:" => Ok(finish(settings, Sql::sqlite(path))?.into()),
        _ => Err(settings.bad("location", "is not one path of a file")),
    }
}

#[cfg(any(feature = "postgres", feature = "mysql"))]
pub(super) fn make_server(settings: &BackendSettings, schemes: &[&str]) -> Result<AnyBackend> {
    let servers = settings.servers(settings.name())?;
    let [server] = servers.as_slice() else {
        return Err(settings.bad("location", "is not one server and database"));
    };
    let scheme = server.split_once("://").map_or("", |(scheme, _)| scheme);
    if !schemes.contains(&scheme) {
        return Err(settings.bad("location", "is a URL of another database"));
    }
    let mut url = server.clone();
    let parameters = if schemes.contains(&"mysql") {
        MYSQL_PARAMETERS
    } else {
        POSTGRES_PARAMETERS
    };
    for name in parameters {
        if let Some(value) = settings.option::<serde_json::Value>(name)? {
            let value = match value {
                serde_json::Value::String(text) => text,
                other => other.to_string(),
            };
            url.push(if url.contains('?') { '&' } else { '?' });
            url.push_str(name);
            url.push('=');
            url.extend(utf8_percent_encode(&value, NON_ALPHANUMERIC));
        }
    }
    super::guarded(settings, finish(settings, Sql::builder(url))?)
}

fn finish(settings: &BackendSettings, mut builder: SqlBuilder) -> Result<Sql> {
    if let Some(table) = settings.option::<String>("table")? {
        builder = builder.table(table);
    }
    if let Some(connections) = settings.option("max_connections")? {
        builder = builder.max_connections(connections);
    }
    if let Some(timeout) = settings.seconds("connect_timeout")? {
        builder = builder.connect_timeout(timeout);
    }
    if let Some(timeout) = settings.seconds("operation_timeout")? {
        builder = builder.operation_timeout(timeout);
    }
    if let Some(create) = settings.option("create_table")? {
        builder = builder.create_table(create);
    }
    if let Some(unlogged) = settings.option("unlogged")? {
        builder = builder.unlogged(unlogged);
    }
    if let Some(writes) = settings.option("cull_interval")? {
        builder = builder.cull_interval(writes);
    }
    if let Some(rows) = settings.option("cull_limit")? {
        builder = builder.cull_limit(rows);
    }
    if let Some(entries) = settings.option("max_entries")? {
        builder = builder.max_entries(entries);
    }
    builder.build().map_err(|error| settings.of_alias(&error))
}
