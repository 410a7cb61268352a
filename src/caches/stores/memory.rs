//! Process memory from settings.

use crate::backend::{AnyBackend, Memory};
use crate::caches::BackendSettings;
use crate::error::Result;

pub(super) fn make(settings: &BackendSettings) -> Result<AnyBackend> {
    let mut builder = Memory::builder();
    match settings.locations()?.as_slice() {
        [] => {}
        [location] => builder = builder.location(location),
        _ => return Err(settings.bad("location", "is a list; memory has one name")),
    }
    if let Some(bytes) = settings.option("max_bytes")? {
        builder = builder.max_bytes(bytes);
    }
    if let Some(entries) = settings.option("max_entries")? {
        builder = builder.max_entries(entries);
    }
    let memory = builder.build().map_err(|error| settings.of_alias(&error))?;
    Ok(memory.into())
}
