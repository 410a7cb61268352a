//! What happened, as events for `tracing` and counters for `metrics`; without them, nothing.
//!
//! Labels have constant cardinality: never a key, a tag or a URL. Of what goes wrong each time, counters count
//! each, and there is a line in ten seconds.

mod named;
#[cfg(feature = "tracing")]
mod quiet;

pub(crate) use self::named::Named;

use std::future::Future;
#[cfg(feature = "tracing")]
use std::sync::LazyLock;
#[cfg(feature = "tracing")]
use std::time::Instant;

#[cfg(feature = "tracing")]
use self::quiet::Quiet;

use crate::error::Error;

/// How an operation on values, a fragment or a page was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Hit,
    Miss,
    Stored,
    Bypass,
}

impl Outcome {
    #[cfg_attr(
        not(any(feature = "tracing", feature = "metrics")),
        expect(dead_code, reason = "no one listens")
    )]
    fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Stored => "stored",
            Self::Bypass => "bypass",
        }
    }
}

/// An operation came to its end. `reason` says why, where there is more to say.
pub(crate) fn outcome(
    cache: &Named,
    operation: &'static str,
    outcome: Outcome,
    reason: &'static str,
) {
    #[cfg(feature = "tracing")]
    tracing::trace!(
        target: "axum_cache",
        cache = &**cache,
        operation,
        result = outcome.as_str(),
        reason,
    );
    #[cfg(feature = "metrics")]
    cache.count((operation, outcome, reason));
    let _ = (cache, operation, outcome, reason);
}

/// A cache failed, and the application went on without it.
pub(crate) fn failed(cache: &str, operation: &'static str, error: &Error) {
    #[cfg(feature = "tracing")]
    if let Some(left_out) = speaks(cache, error.kind().as_str()) {
        tracing::warn!(
            target: "axum_cache",
            cache,
            operation,
            left_out,
            error = error as &(dyn std::error::Error + 'static),
            "cache failed; going on without it",
        );
    }
    #[cfg(feature = "metrics")]
    metrics::counter!(
        "cache.errors",
        "cache.name" => cache.to_owned(),
        "cache.operation" => operation,
        "cache.error" => error.kind().as_str(),
    )
    .increment(1);
    let _ = (cache, operation, error);
}

/// A handler let its client have the error of a cache, whose body says nothing of it.
#[cfg(feature = "axum")]
pub(crate) fn answered(error: &Error) {
    #[cfg(feature = "tracing")]
    if let Some(left_out) = speaks("", error.kind().as_str()) {
        tracing::warn!(
            target: "axum_cache",
            left_out,
            error = error as &(dyn std::error::Error + 'static),
            "a handler answers with the error of a cache",
        );
    }
    let _ = error;
}

/// What was stored could not be used. The operation goes on, and counts, as a miss.
pub(crate) fn corrupt(cache: &str, operation: &'static str, reason: &'static str) {
    #[cfg(feature = "tracing")]
    if let Some(left_out) = speaks(cache, reason) {
        tracing::warn!(
            target: "axum_cache",
            cache,
            operation,
            reason,
            left_out,
            "stored entry is unusable; taken as a miss",
        );
    }
    #[cfg(feature = "metrics")]
    metrics::counter!(
        "cache.corrupt",
        "cache.name" => cache.to_owned(),
        "cache.operation" => operation,
        "cache.reason" => reason,
    )
    .increment(1);
    let _ = (cache, operation, reason);
}

/// The circuit to a store is `open`, and it is not used, or `closed` again.
pub(crate) fn circuit(backend: &'static str, state: &'static str) {
    // It speaks only of changes, of which none is to be left out.
    #[cfg(feature = "tracing")]
    tracing::warn!(
        target: "axum_cache",
        backend,
        state,
        "the circuit to a store has changed",
    );
    #[cfg(feature = "metrics")]
    metrics::counter!("cache.circuit", "cache.backend" => backend, "cache.state" => state)
        .increment(1);
    let _ = (backend, state);
}

/// Whether there is to be a line, and how many like it were left out.
#[cfg(feature = "tracing")]
fn speaks(whose: &str, what: &'static str) -> Option<u64> {
    static QUIET: LazyLock<Quiet> = LazyLock::new(Quiet::default);
    QUIET.speaks(whose, what, Instant::now())
}

/// A future that goes on in the caller's span, whatever task runs it.
pub(crate) fn in_current_span<F: Future>(future: F) -> impl Future<Output = F::Output> {
    #[cfg(feature = "tracing")]
    let future = tracing::Instrument::in_current_span(future);
    future
}
