//! The integration tests, in one binary: what a user of the crate sees.
#![allow(clippy::unwrap_used, reason = "a failed test may panic")]
#![allow(missing_docs, reason = "tests are named, not documented")]

#[cfg(all(feature = "askama", feature = "memory"))]
mod attack;
#[cfg(all(feature = "memory", feature = "testing"))]
mod breaker;
#[cfg(all(feature = "axum", feature = "memory", feature = "testing"))]
mod budget;
#[cfg(feature = "memory")]
mod caches;
#[cfg(all(feature = "axum", feature = "memory", feature = "testing"))]
mod collapse;
#[cfg(all(
    feature = "askama",
    feature = "axum",
    feature = "memory",
    feature = "testing",
    feature = "zstd"
))]
mod compression;
#[cfg(all(feature = "axum", feature = "memory"))]
mod conditions;
#[cfg(feature = "file")]
mod files;
#[cfg(all(feature = "askama", feature = "memory", feature = "testing"))]
mod fragments;
#[cfg(all(feature = "axum", feature = "memory", feature = "testing"))]
mod history;
#[cfg(all(feature = "axum", feature = "memory"))]
mod inputs;
mod keys;
#[cfg(all(feature = "axum", feature = "memory", feature = "testing"))]
mod look_up;
#[cfg(all(feature = "axum", feature = "memory"))]
mod neighbours;
#[cfg(all(feature = "axum", feature = "memory"))]
mod nested;
#[cfg(all(feature = "axum", feature = "memory", feature = "testing"))]
mod origin;
#[cfg(all(feature = "memory", feature = "testing"))]
mod outage;
#[cfg(all(feature = "axum", feature = "memory", feature = "testing"))]
mod overtaken;
#[cfg(all(feature = "memory", feature = "testing"))]
mod packed;
#[cfg(all(feature = "axum", feature = "memory", feature = "testing"))]
mod page_lease;
#[cfg(all(feature = "axum", feature = "memory"))]
mod page_stale;
#[cfg(all(feature = "axum", feature = "memory", feature = "testing"))]
mod page_tags;
#[cfg(all(feature = "axum", feature = "memory", feature = "testing"))]
mod pages;
#[cfg(all(feature = "axum", feature = "memory", feature = "testing"))]
mod purge;
#[cfg(feature = "memory")]
mod shared;
#[cfg(all(feature = "axum", feature = "memory", feature = "testing"))]
mod signing;
#[cfg(all(feature = "axum", feature = "memory", feature = "testing"))]
mod stalls;
#[cfg(feature = "memory")]
mod support;
#[cfg(all(feature = "askama", feature = "axum", feature = "memory"))]
mod tag_life;
#[cfg(all(feature = "axum", feature = "memory", feature = "testing"))]
mod testing;
mod tidy;
#[cfg(all(feature = "axum", feature = "memory", feature = "testing"))]
mod unshared;
#[cfg(all(feature = "axum", feature = "memory", feature = "testing"))]
mod veto;
#[cfg(all(feature = "axum", feature = "memory", feature = "testing"))]
mod waiting;
