//! The stores that settings know by name, and what of the settings each takes.

#[cfg(feature = "file")]
mod file;
#[cfg(feature = "memory")]
mod memory;

use super::builder::CachesBuilder;
use crate::backend::{AnyBackend, Dummy};
use crate::error::Error;

pub(super) fn register(builder: CachesBuilder) -> CachesBuilder {
    let builder = builder.backend("dummy", |_| async { Ok(AnyBackend::new(Dummy)) });
    #[cfg(feature = "memory")]
    let builder = builder.backend("memory", |settings| async move { memory::make(&settings) });
    #[cfg(not(feature = "memory"))]
    let builder = absent(builder, &["memory"], "memory");
    #[cfg(feature = "file")]
    let builder = builder.backend("file", |settings| async move { file::make(&settings) });
    #[cfg(not(feature = "file"))]
    let builder = absent(builder, &["file"], "file");
    builder
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
