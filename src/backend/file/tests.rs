//! What is particular to the file store; the rest is in the conformance suite, and what takes
//! several processes in `tests/it/files.rs`.
#![allow(clippy::unwrap_used, reason = "a failed test may panic")]
