//! A folder from settings.

use super::IS_A_URL;
use crate::backend::{AnyBackend, File};
use crate::caches::BackendSettings;
use crate::error::Result;

pub(super) fn make(settings: &BackendSettings) -> Result<AnyBackend> {
    let mut builder = match settings.locations()?.as_slice() {
        [url] if url.contains("://") => return Err(settings.bad("location", IS_A_URL)),
        [location] if !location.is_empty() => File::builder(location),
        [] | [_] => return Err(settings.bad("location", "is missing; a folder is needed")),
        _ => return Err(settings.bad("location", "is a list; files have one folder")),
    };
    if let Some(entries) = settings.option("max_entries")? {
        builder = builder.max_entries(entries);
    }
    let file = builder.build().map_err(|error| settings.of_alias(&error))?;
    Ok(file.into())
}
