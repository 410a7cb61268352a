//! The integration tests, in one binary: what a user of the crate sees.
#![allow(clippy::unwrap_used, reason = "a failed test may panic")]
#![allow(missing_docs, reason = "tests are named, not documented")]

#[cfg(all(feature = "askama", feature = "memory"))]
mod attack;
#[cfg(feature = "memory")]
mod breaker;
#[cfg(feature = "memory")]
mod caches;
#[cfg(all(feature = "axum", feature = "memory"))]
mod collapse;
#[cfg(all(feature = "axum", feature = "memory"))]
mod conditions;
#[cfg(feature = "file")]
mod files;
#[cfg(all(feature = "askama", feature = "memory"))]
mod fragments;
#[cfg(all(feature = "axum", feature = "memory"))]
mod inputs;
mod keys;
#[cfg(all(feature = "axum", feature = "memory"))]
mod origin;
#[cfg(feature = "memory")]
mod outage;
#[cfg(all(feature = "axum", feature = "memory"))]
mod page_lease;
#[cfg(all(feature = "axum", feature = "memory"))]
mod page_stale;
#[cfg(all(feature = "axum", feature = "memory"))]
mod page_tags;
#[cfg(all(feature = "axum", feature = "memory"))]
mod pages;
#[cfg(all(feature = "axum", feature = "memory"))]
mod purge;
#[cfg(feature = "memory")]
mod support;
#[cfg(all(feature = "askama", feature = "axum", feature = "memory"))]
mod tag_life;
mod tidy;
#[cfg(all(feature = "axum", feature = "memory"))]
mod veto;
